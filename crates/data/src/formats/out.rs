//! Output folder of an export: its files, its audio, and notes on lost information.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;

use crate::Clip;
use crate::Format;
use crate::Message;
use crate::Row;
use crate::task::Tasks;
use crate::task::Wording;
use crate::task::example_without_task;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::seed::Key;

/// Folder of audio that an export writes.
const AUDIO: &str = "audio";

/// Settings of an export.
pub struct Export<'a> {
    /// The format.
    pub format: Format,
    /// The folder; it must not exist.
    pub out: &'a Path,
    /// True if audio files are copied into the folder; otherwise, formats of paths name the files
    /// in place.
    pub copy_audio: bool,
    /// True if NeMo's audio goes into tar files.
    pub tarred: bool,
    /// Rows of one shard, at least 1.
    pub shard_rows: usize,
    /// Task of rows that name none; it makes their conversations.
    pub task: Option<&'a str>,
    /// All tasks.
    pub tasks: &'a Tasks,
}

/// A unique name for the audio file of a row.
///
/// # Errors
/// Audio that cannot be read.
pub fn file_name(clip: &Clip, row: &Row, names: &mut BTreeSet<String>) -> Result<String> {
    let ending = clip.source.ending()?;
    let plain: String = row
        .id
        .chars()
        .map(|c| match c.is_alphanumeric() || matches!(c, '-' | '_') {
            true => c,
            false => '_',
        })
        .take(100)
        .collect();
    let mut name = format!("{plain}.{ending}");
    let mut number = 1;
    while !names.insert(name.to_lowercase()) {
        number += 1;
        name = format!("{plain}-{number}.{ending}");
    }
    Ok(name)
}

/// The output folder and its state.
pub struct Out<'a> {
    /// The folder while it is written.
    pub folder: PathBuf,
    /// The folder as it will be, absolute.
    place: PathBuf,
    manifest: &'a Path,
    /// Settings of the export.
    pub settings: &'a Export<'a>,
    /// Fields that the format has no place for, with the number of rows that have them.
    lost: BTreeMap<String, usize>,
    names: BTreeSet<String>,
}

/// Folder that relative paths start from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The folder of the file that holds the row.
    Manifest,
    /// The working directory of the process that reads it.
    Process,
}

impl<'a> Out<'a> {
    /// Creates a folder at `folder`, which is renamed to `settings.out` at the end.
    ///
    /// # Errors
    /// A path that the system cannot make absolute.
    pub fn new(folder: &Path, manifest: &'a Path, settings: &'a Export<'a>) -> Result<Self> {
        let place =
            std::path::absolute(settings.out).map_err(|e| Error::io(settings.out, "resolve", e))?;
        Ok(Self {
            folder: folder.to_owned(),
            place,
            manifest,
            settings,
            lost: BTreeMap::new(),
            names: BTreeSet::new(),
        })
    }

    /// A path of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Place of a row, for messages.
    pub fn place_of(&self, row: &Row) -> String {
        row.place(self.manifest)
    }

    /// Counts a field that the format has no place for.
    pub fn lose(&mut self, field: &str) {
        *self.lost.entry(field.to_owned()).or_default() += 1;
    }

    /// Notes on what the format cannot express.
    pub fn notes(self) -> Vec<String> {
        let format = self.settings.format;
        self.lost
            .into_iter()
            .map(|(field, rows)| format!("{format} has no place for `{field}` ({rows} rows)"))
            .collect()
    }

    /// The path of a clip's audio file. Audio inside another file is written to the folder, and so
    /// is all audio under `copy_audio`.
    ///
    /// # Errors
    /// Audio that cannot be read, and those of the disk.
    pub fn audio(&mut self, row: &Row, clip: &Clip, base: Base) -> Result<String> {
        self.audio_in(row, clip, base, AUDIO, self.settings.copy_audio)
    }

    /// The path of [`Out::audio`], with the folder's name and with `copy_audio` as arguments.
    ///
    /// # Errors
    /// Those of [`Out::audio`].
    pub fn audio_in(
        &mut self,
        row: &Row,
        clip: &Clip,
        base: Base,
        folder: &str,
        copy: bool,
    ) -> Result<String> {
        if let Some((path, None)) = clip.source.file()
            && !copy
        {
            let absolute = std::path::absolute(path).map_err(|e| Error::io(path, "resolve", e))?;
            return Ok(absolute.to_string_lossy().into_owned());
        }
        let name = file_name(clip, row, &mut self.names)?;
        let bytes = clip.source.bytes()?;
        files::write_atomic(&self.folder.join(folder).join(&name), &bytes)?;
        let path = format!("{folder}/{name}");
        Ok(match base {
            Base::Manifest => path,
            Base::Process => self.place.join(path).to_string_lossy().into_owned(),
        })
    }

    /// The only clip of a row.
    ///
    /// # Errors
    /// A row with no or several clips, which the format cannot hold.
    pub fn only_clip<'r>(&self, row: &'r Row) -> Result<&'r Clip> {
        match row.clips.as_slice() {
            [clip] => Ok(clip),
            clips => Err(Error::input(format!(
                "the row has {} clips; {} holds one a row",
                clips.len(),
                self.settings.format
            ))
            .at(self.place_of(row))
            .hint("export to a format of several clips: jsonl, parquet, huggingface, ms-swift, llama-factory, webdataset")),
        }
    }

    /// The row's fields without its audio.
    ///
    /// # Errors
    /// None that a row can have.
    pub fn fields(&self, row: &Row) -> Result<Map<String, Value>> {
        let mut fields = row.to_json(|_| Ok(Value::Null))?;
        fields.shift_remove("audios");
        Ok(fields)
    }

    /// The row's conversation: its own, or the one that its task makes from it.
    ///
    /// # Errors
    /// A row that has neither.
    pub fn conversation(&self, row: &Row) -> Result<Vec<Message>> {
        if !row.messages.is_empty() {
            return Ok(row.messages.clone());
        }
        let task = row.task.as_deref().or(self.settings.task);
        let example = match task {
            Some(task) => self.settings.tasks.get(task)?.example(
                row,
                Wording::Train,
                Key::new(0, "exported instruction").with(u64::from(row.line)),
            ),
            None if row.instruction.is_some() => example_without_task(row),
            None => Err(
                Error::input("the row has no conversation, and no task to make one by")
                    .hint("add --task NAME, such as --task asr"),
            ),
        };
        Ok(example.map_err(|e| e.at(self.place_of(row)))?.messages)
    }

    /// Writes a file of lines.
    ///
    /// # Errors
    /// Those of `of_row`, and the disk's.
    pub fn lines(
        &mut self,
        name: &str,
        rows: &[Row],
        mut of_row: impl FnMut(&mut Self, &Row) -> Result<String>,
    ) -> Result<()> {
        let path = self.path(name);
        stream(&path, |file| {
            for row in rows {
                let text = of_row(self, row)?;
                line(file, &text, &path)?;
            }
            Ok(())
        })
    }
}

/// Writes one line.
///
/// # Errors
/// The disk's.
pub fn line(file: &mut dyn Write, text: &str, path: &Path) -> Result<()> {
    writeln!(file, "{text}").map_err(|e| Error::io(path, "write", e))
}

/// Writes a file completely or not at all; `write` may fail.
///
/// # Errors
/// Those of `write` and of the disk.
pub fn stream(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    files::write_atomic_with(path, |file| Ok(write(file)?))
}
