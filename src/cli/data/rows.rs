//! Manifests as the commands on data name them, and rows copied from one to another.

use std::borrow::Cow;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::data::AudioSource;
use crate::data::Clip;
use crate::data::Columns;
use crate::data::Format;
use crate::data::Row;
use crate::data::Source;
use crate::error::Error;
use crate::error::Result;
use crate::files;

/// Bytes that are looked through for the number of rows of a file.
const MOST_COUNTED: u64 = 8 << 30;

/// Folder beside a written manifest for audio that rows brought inside them.
const AUDIO_FOLDER: &str = "audio";

/// How manifests are read.
#[derive(Args, Clone)]
pub struct SourceArguments {
    /// Where relative audio paths start; by default each manifest's folder.
    #[arg(long)]
    audio_root: Option<PathBuf>,
    /// Format of the manifests; by default the files tell it.
    #[arg(long)]
    format: Option<Format>,
    /// Foreign names of columns, such as `text=sentence`; may be repeated.
    #[arg(long, value_name = "FIELD=COLUMN")]
    columns: Vec<String>,
}

impl SourceArguments {
    /// A manifest as a source of rows.
    ///
    /// # Errors
    /// Columns that are not named as pairs.
    pub fn of(&self, manifest: &Path) -> Result<Source> {
        let columns = match self.columns.is_empty() {
            true => Columns::default(),
            false => self
                .columns
                .join(",")
                .parse()
                .map_err(|e: Error| e.at("--columns"))?,
        };
        Ok(Source {
            audio_root: self.audio_root.clone(),
            format: self.format,
            columns,
            ..Source::new(manifest)
        })
    }

    /// Whether nothing is said that a glance at lines would miss.
    pub fn is_plain(&self) -> bool {
        self.columns.is_empty() && self.format.is_none_or(|format| format == Format::Jsonl)
    }

    /// Where relative audio paths of a manifest start.
    pub fn audio_folder(&self, manifest: &Path) -> PathBuf {
        let own = manifest.parent().unwrap_or(Path::new(""));
        self.audio_root.clone().unwrap_or_else(|| own.to_owned())
    }

    /// Number of lines of all manifests that are files of text, for progress; 0 where that would take long.
    pub fn num_rows(&self, manifests: &[PathBuf]) -> u64 {
        let is_text = |path: &&PathBuf| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            path.is_file() && matches!(ending, Some("jsonl" | "json" | "tsv" | "csv"))
        };
        let files: Vec<&PathBuf> = manifests.iter().filter(is_text).collect();
        let size = |path: &&PathBuf| path.metadata().map_or(0, |file| file.len());
        match files.iter().map(size).sum::<u64>() {
            many if many > MOST_COUNTED => 0,
            _ => files.iter().map(|path| num_lines(path)).sum(),
        }
    }
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

/// A row as a line of a manifest in `folder`. Audio that the row brings inside it is written to a folder beside that manifest.
///
/// # Errors
/// A disk that does not take the audio.
pub fn copied_row(row: &Row, folder: &Path) -> Result<Vec<u8>> {
    let fields = row.to_json(|clip| place(clip, folder))?;
    let mut line = Value::Object(fields).to_string().into_bytes();
    line.push(b'\n');
    Ok(line)
}

fn place(clip: &Clip, folder: &Path) -> Result<Value> {
    let AudioSource::Embedded { bytes, .. } = &clip.source else {
        return clip.source.to_json(folder);
    };
    let hash = blake3::hash(bytes).to_hex();
    let name = format!("{}.{}", &hash[..32], clip.source.ending()?);
    let path = folder.join(AUDIO_FOLDER).join(&name);
    if !path.exists() {
        files::write_atomic(&path, bytes)?;
    }
    Ok(format!("{AUDIO_FOLDER}/{name}").into())
}

/// Changes lines of a manifest into lines of one in another folder: nothing but the audio's path changes.
pub struct Relocation {
    /// The old folder as seen from the new one.
    prefix: String,
}

impl Relocation {
    /// Lines go from a manifest whose paths start in `from` to one in the folder `to`.
    ///
    /// # Errors
    /// A folder that the system cannot make absolute.
    pub fn new(from: &Path, to: &Path) -> Result<Self> {
        let prefix = files::relative(to, from)?
            .to_string_lossy()
            .replace('\\', "/");
        Ok(Self { prefix })
    }

    /// Returns a line with its end. `audio` is the path in it, borrowed from the line where that is possible.
    ///
    /// # Errors
    /// A line that is no JSON object.
    pub fn copied(&self, line: &[u8], audio: Option<&Cow<'_, str>>) -> Result<Vec<u8>> {
        let mut copy = Vec::with_capacity(line.len() + self.prefix.len() + 2);
        match audio.filter(|audio| self.moves(audio)) {
            None => copy.extend_from_slice(line),
            Some(audio) => {
                let moved = format!("{}/{audio}", self.prefix);
                match audio {
                    Cow::Borrowed(audio) => {
                        let written = serde_json::to_string(&moved).map_err(Error::bug)?;
                        // Without its quotation marks, which stand in the line.
                        let written = &written.as_bytes()[1..written.len() - 1];
                        let start = audio.as_ptr() as usize - line.as_ptr() as usize;
                        copy.extend_from_slice(&line[..start]);
                        copy.extend_from_slice(written);
                        copy.extend_from_slice(&line[start + audio.len()..]);
                    }
                    Cow::Owned(_) => {
                        let mut row: Value = serde_json::from_slice(line).map_err(Error::input)?;
                        row["audio"] = moved.into();
                        copy.extend(row.to_string().into_bytes());
                    }
                }
            }
        }
        copy.push(b'\n');
        Ok(copy)
    }

    fn moves(&self, audio: &str) -> bool {
        !self.prefix.is_empty() && !audio.contains("://") && Path::new(audio).is_relative()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_of_a_line_changes() {
        let relocation = Relocation::new(Path::new("sets/a"), Path::new("out")).unwrap();
        let copied = |line: &'static str, audio: &str| {
            let start = line.find(audio).unwrap();
            let audio: Cow<'static, str> = Cow::Borrowed(&line[start..start + audio.len()]);
            String::from_utf8(relocation.copied(line.as_bytes(), Some(&audio)).unwrap()).unwrap()
        };
        assert_eq!(
            copied(r#"{"b":1.50, "audio" :"x.wav","a": 2}"#, "x.wav"),
            "{\"b\":1.50, \"audio\" :\"../sets/a/x.wav\",\"a\": 2}\n"
        );
        assert_eq!(
            copied(r#"{"audio": "/x.wav"}"#, "/x.wav"),
            "{\"audio\": \"/x.wav\"}\n"
        );

        let escaped = relocation.copied(
            br#"{"audio": "a\\b.wav"}"#,
            Some(&Cow::Owned(r"a\b.wav".to_owned())),
        );
        assert_eq!(
            String::from_utf8(escaped.unwrap()).unwrap(),
            "{\"audio\":\"../sets/a/a\\\\b.wav\"}\n"
        );
        assert_eq!(relocation.copied(b"{}", None).unwrap(), b"{}\n");
        let nearby = Relocation::new(Path::new("out"), Path::new("out")).unwrap();
        assert_eq!(
            nearby
                .copied(br#"{"audio":"x"}"#, Some(&Cow::Borrowed("x")))
                .unwrap(),
            b"{\"audio\":\"x\"}\n"
        );
    }
}
