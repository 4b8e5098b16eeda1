//! Manifests that a command reads alike, and how it tells of them.

use std::path::Path;
use std::path::PathBuf;

use crate::Columns;
use crate::Format;
use crate::Note;
use crate::Source;
use crate::copied::folder_of;

/// Bytes that are looked through for the number of rows of a file.
const MOST_COUNTED: u64 = 8 << 30;

/// Manifests that are read alike.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// Files, folders or patterns.
    pub paths: Vec<PathBuf>,
    /// Where relative audio paths start; by default each manifest's folder.
    pub audio_root: Option<PathBuf>,
    /// Format of all; by default the files tell it.
    pub format: Option<Format>,
    /// Foreign names of columns.
    pub columns: Columns,
    /// Whether nothing is said that a glance at lines would miss.
    pub is_plain: bool,
}

/// Told how the rows of manifests are read.
pub trait Watcher {
    /// A manifest begins.
    fn begin(&mut self, manifest: &Path);
    /// Number of rows that are done.
    fn rows(&mut self, done: u64);
    /// A manifest is read; what the user should know of it.
    fn end(&mut self, notes: Vec<Note>);
}

impl Manifests {
    /// A manifest as a source of rows.
    pub fn source(&self, manifest: &Path) -> Source {
        Source {
            audio_root: self.audio_root.clone(),
            format: self.format,
            columns: self.columns.clone(),
            ..Source::new(manifest)
        }
    }

    /// Where relative audio paths of a manifest start.
    pub fn audio_folder(&self, manifest: &Path) -> PathBuf {
        let own = || folder_of(manifest).to_owned();
        self.audio_root.clone().unwrap_or_else(own)
    }
}

/// Number of lines of all manifests that are files of text, for progress; 0 where that would take
/// long.
pub fn num_rows(manifests: &[PathBuf]) -> u64 {
    let files: Vec<&PathBuf> = manifests.iter().filter(|path| is_text(path)).collect();
    let size = |path: &&PathBuf| path.metadata().map_or(0, |file| file.len());
    match files.iter().map(size).sum::<u64>() {
        many if many > MOST_COUNTED => 0,
        _ => files.iter().map(|path| num_lines(path)).sum(),
    }
}

fn is_text(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    path.is_file() && matches!(ending, Some("jsonl" | "json" | "tsv" | "csv"))
}

fn num_lines(path: &Path) -> u64 {
    let Ok(mut file) = std::fs::File::open(path) else {
        return 0;
    };
    let mut buffer = vec![0; 1 << 20];
    let mut lines = 0;
    while let Ok(read) = std::io::Read::read(&mut file, &mut buffer) {
        if read == 0 {
            break;
        }
        lines += buffer[..read].iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
    lines
}
