//! Rows written as the files of a format, in a new folder.

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
use crate::form::Delimiter;
use crate::formats::common_voice;
use crate::formats::json_rows;
use crate::formats::kaldi;
use crate::formats::lhotse;
use crate::formats::lhotse_shar;
use crate::formats::llama_factory;
use crate::formats::ms_swift;
use crate::formats::nemo;
use crate::formats::qwen3_asr;
use crate::formats::slam_llm;
use crate::formats::table;
use crate::formats::webdataset;
use crate::parquet_writer;
use crate::task::Tasks;
use crate::task::Wording;
use crate::task::example_without_task;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::files::StagedDir;
use maqam_base::seed::Key;

/// Folder of audio that an export writes.
const AUDIO: &str = "audio";

/// Split of rows that name none.
const SPLIT: &str = "train";

/// How rows are exported.
pub struct Export<'a> {
    /// The format.
    pub format: Format,
    /// The folder; it must not exist.
    pub out: &'a Path,
    /// Whether audio files are copied into the folder; without that, formats of paths name files where they are.
    pub copy_audio: bool,
    /// Whether NeMo's audio goes into tar files.
    pub tarred: bool,
    /// Rows of one shard, at least 1.
    pub shard_rows: usize,
    /// Task of rows that name none; conversations are made by it.
    pub task: Option<&'a str>,
    /// The tasks there are.
    pub tasks: &'a Tasks,
}

/// Writes rows in a format; returns what could not be said in it. `manifest` names the rows in messages.
///
/// # Errors
/// A folder that exists; rows that the format cannot hold; audio that cannot be read; the disk's.
pub fn export(rows: &[Row], manifest: &Path, settings: &Export<'_>) -> Result<Vec<String>> {
    if settings.out.exists() {
        return Err(Error::input("exists already")
            .at_path(settings.out)
            .hint("name a folder that does not exist yet"));
    }
    if settings.shard_rows == 0 {
        return Err(Error::input("a shard of no rows").hint("write 1 or more"));
    }
    let staged = StagedDir::new(settings.out)?;
    let mut out = Out {
        folder: staged.path().to_owned(),
        place: std::path::absolute(settings.out)
            .map_err(|e| Error::io(settings.out, "resolve", &e))?,
        manifest,
        settings,
        lost: BTreeMap::new(),
        names: BTreeSet::new(),
    };
    match settings.format {
        Format::Jsonl => json_rows::write(&mut out, rows)?,
        Format::Parquet | Format::HuggingFace => write_parquet(&mut out, rows)?,
        Format::MsSwift => ms_swift::write(&mut out, rows)?,
        Format::LlamaFactory => llama_factory::write(&mut out, rows)?,
        Format::Nemo => nemo::write(&mut out, rows)?,
        Format::Lhotse => lhotse::write(&mut out, rows)?,
        Format::LhotseShar => lhotse_shar::write(&mut out, rows)?,
        Format::SlamLlm => slam_llm::write(&mut out, rows)?,
        Format::Qwen3Asr => qwen3_asr::write(&mut out, rows)?,
        Format::Kaldi => kaldi::write(&mut out, rows)?,
        Format::CommonVoice => common_voice::write(&mut out, rows)?,
        Format::Csv => table::write(&mut out, rows, Delimiter::Comma)?,
        Format::Tsv => table::write(&mut out, rows, Delimiter::Tab)?,
        Format::WebDataset => webdataset::write(&mut out, rows)?,
    }
    let lost = out.notes();
    staged.commit()?;
    Ok(lost)
}

/// Writes rows as one file: Parquet with the audio inside, or JSON lines that name it where it is.
///
/// # Errors
/// Another ending than `.jsonl` and `.parquet`; audio that cannot be read; the disk's.
pub fn write_manifest(rows: &[Row], path: &Path) -> Result<()> {
    let ending = path.extension().unwrap_or_default();
    if ending.eq_ignore_ascii_case("parquet") {
        let rows: Vec<&Row> = rows.iter().collect();
        return parquet_writer::write(&rows, path);
    }
    if !ending.eq_ignore_ascii_case("jsonl") {
        return Err(Error::input("ends in neither .jsonl nor .parquet")
            .at_path(path)
            .hint("name the output OUT.jsonl or OUT.parquet"));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let audio = path.with_extension("audio");
    let mut names = BTreeSet::new();
    stream(path, |file| {
        for row in rows {
            let fields = row.to_json(|clip| match clip.source.file() {
                Some(_) => clip.source.to_json(folder),
                // What lies inside a row has no place in JSON, so it becomes a file beside the manifest.
                None => {
                    let name = file_name(clip, row, &mut names)?;
                    files::write_atomic(&audio.join(&name), &clip.source.bytes()?)?;
                    let path = files::relative(folder, &audio.join(name))?;
                    Ok(path.to_string_lossy().replace('\\', "/").into())
                }
            })?;
            line(file, &Value::Object(fields).to_string(), path)?;
        }
        Ok(())
    })
}

/// A name of its own for the audio of a row that becomes a file.
fn file_name(clip: &Clip, row: &Row, names: &mut BTreeSet<String>) -> Result<String> {
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

/// The folder that is written, and what is known of it.
pub struct Out<'a> {
    /// The folder while it is written.
    pub folder: PathBuf,
    /// The folder as it will be, absolute.
    place: PathBuf,
    manifest: &'a Path,
    /// What was asked for.
    pub settings: &'a Export<'a>,
    /// Fields that the format has no place for, with the number of rows that have them.
    lost: BTreeMap<String, usize>,
    names: BTreeSet<String>,
}

/// Whose folder a path starts from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// That of the file which holds the row.
    Manifest,
    /// That of the process which reads it.
    Process,
}

impl Out<'_> {
    /// A path of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a row is written, for messages.
    pub fn place_of(&self, row: &Row) -> String {
        row.place(self.manifest)
    }

    /// Counts a field that the format has no place for.
    pub fn lose(&mut self, field: &str) {
        *self.lost.entry(field.to_owned()).or_default() += 1;
    }

    fn notes(self) -> Vec<String> {
        let format = self.settings.format;
        self.lost
            .into_iter()
            .map(|(field, rows)| format!("{format} has no place for `{field}` ({rows} rows)"))
            .collect()
    }

    /// The path of a clip's audio file; one that lies inside another file is written to the folder, and so are all with `copy_audio`.
    ///
    /// # Errors
    /// Audio that cannot be read, and the disk's.
    pub fn audio(&mut self, row: &Row, clip: &Clip, base: Base) -> Result<String> {
        self.audio_in(row, clip, base, AUDIO, self.settings.copy_audio)
    }

    /// As [`Out::audio`], with the folder's name and whether files are copied.
    ///
    /// # Errors
    /// As there.
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
            let absolute = std::path::absolute(path).map_err(|e| Error::io(path, "resolve", &e))?;
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

    /// The one clip of a row.
    ///
    /// # Errors
    /// A row with none or several, which the format cannot hold.
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

    /// The row's conversation: its own, or the one that its task makes of it.
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
    writeln!(file, "{text}").map_err(|e| Error::io(path, "write", &e))
}

/// Writes a file whole or not at all, by work that may fail for reasons of its own.
///
/// # Errors
/// Those of `write`, and the disk's.
pub fn stream(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut failed = None;
    let written = files::write_atomic_with(path, |file| {
        write(file).map_err(|error| {
            let told = std::io::Error::other(error.message().to_owned());
            failed = Some(error);
            told
        })
    });
    match failed {
        Some(error) => Err(error),
        None => written,
    }
}

/// Parquet shards by split, named as `datasets` names them.
fn write_parquet(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    let mut by_split: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let split = row.split.as_deref().unwrap_or(SPLIT);
        by_split.entry(split).or_default().push(row);
    }
    for (split, rows) in by_split {
        files::check_name(split).map_err(|e| e.at("split"))?;
        let shards: Vec<&[&Row]> = rows.chunks(out.settings.shard_rows).collect();
        for (i, shard) in shards.iter().enumerate() {
            let name = format!("{split}-{i:05}-of-{:05}.parquet", shards.len());
            parquet_writer::write(shard, &out.path(&name))?;
        }
    }
    Ok(())
}
