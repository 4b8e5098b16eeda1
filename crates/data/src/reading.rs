//! Reader of all manifests: finds the files, detects their forms, and converts their rows.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;

use crate::Format;
use crate::Manifest;
use crate::OnBadRow;
use crate::Source;
use crate::collector::Collector;
use crate::collector::Sink;
use crate::form;
use crate::form::Delimiter;
use crate::form::Form;
use crate::formats::huggingface;
use crate::formats::huggingface::Classes;
use crate::formats::json_rows;
use crate::formats::kaldi;
use crate::formats::lhotse_shar;
use crate::formats::llama_factory;
use crate::formats::meaning::Meaning;
use crate::formats::nemo;
use crate::formats::table;
use crate::formats::tar::Shard;
use crate::formats::webdataset;
use crate::formats::without_column;
use crate::notes::Note;
use crate::parquet;
use crate::row::RawRow;
use crate::shards;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::files::Input;
use maqam_base::files::Lines;

/// Bytes from which the form of a file is detected.
const HEAD_BYTES: usize = 1 << 16;

/// One thing that rows are read from.
enum RowFile {
    /// A file whose form its first bytes show.
    File(PathBuf),
    /// A folder of Kaldi's.
    Kaldi(PathBuf),
    /// Cuts whose audio is in a tar file next to them.
    Shar(PathBuf),
    /// An Arrow file of `save_to_disk`, with the classes of its columns.
    Saved(PathBuf, Rc<Classes>),
}

impl RowFile {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Kaldi(path) | Self::Shar(path) | Self::Saved(path, _) => path,
        }
    }

    /// Folder from which relative audio paths start.
    fn folder(&self) -> &Path {
        match self {
            Self::Kaldi(path) => path,
            other => other.path().parent().unwrap_or(Path::new("")),
        }
    }
}

impl Source {
    /// Reads the rows of all files, in their order.
    ///
    /// The format follows from the files' contents (docs/data.md lists the formats). Relative audio
    /// paths start from `audio_root`, else from the folder of the file. Every audio file must
    /// exist. A row has an `id` or gets its line number; two rows of one id are an error. The
    /// `messages` and `conversations` of a row need one `<audio>` mark per clip.
    ///
    /// # Errors
    /// Under [`OnBadRow::Error`] every bad row, as `file:line: fault`, up to
    /// [`crate::MAX_BAD_ROWS_NAMED`]; in both cases, a file that cannot be read, that is no
    /// manifest, or without any usable row.
    pub fn read(&self, on_bad_row: OnBadRow) -> Result<Manifest> {
        let collector = RefCell::new(Collector::new(&self.path, on_bad_row));
        self.read_into(&collector)?;
        collector.into_inner().finish()
    }

    /// Reads the rows of all files one by one, in their order, in memory that does not grow with
    /// them; returns notes for the user. `sink` gets rows that cannot be used as errors. Repeated
    /// ids are not detected.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no manifest; the first error of `sink`, which ends
    /// the reading.
    pub fn stream(&self, sink: Sink<'_>) -> Result<Vec<Note>> {
        let collector = RefCell::new(Collector::streaming(&self.path, sink));
        self.read_into(&collector)?;
        collector.borrow_mut().check()?;
        Ok(collector.into_inner().notes())
    }

    fn read_into(&self, collector: &RefCell<Collector<'_>>) -> Result<()> {
        self.columns.check()?;
        let parts = self.parts()?;
        let is_sharded = parts.len() > 1;
        let mut seen = BTreeSet::new();
        let mut names = Vec::new();
        for part in &parts {
            let folder = self.audio_root.as_deref().unwrap_or(part.folder());
            collector
                .borrow_mut()
                .begin(part.path(), folder, is_sharded);
            let mut rows = PartReader {
                source: self,
                part,
                form: Form::JsonLines,
                collector,
                seen: &mut seen,
                names: &mut names,
                meaning: None,
            };
            rows.read(is_sharded)?;
        }
        self.expect_columns(&seen, &names)
    }

    /// All files of the manifest, which a resumed run must find unchanged.
    ///
    /// # Errors
    /// Those of [`Source::read`] for missing files.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for part in self.parts()? {
            match part {
                RowFile::File(path) | RowFile::Shar(path) | RowFile::Saved(path, _) => {
                    found.push(path)
                }
                RowFile::Kaldi(folder) => found.extend(kaldi::files(&folder)?),
            }
        }
        Ok(found)
    }

    /// BLAKE3 of the manifest in hexadecimal: of its one file, or of the names and hashes of
    /// several. For a tar file it covers the names, sizes and texts of its members, because hashing
    /// the audio of a whole corpus takes hours.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn hash(&self) -> Result<String> {
        let files = self.files()?;
        if let [one] = files.as_slice() {
            return hash_of(one);
        }
        let mut hasher = blake3::Hasher::new();
        for path in files {
            let name = path.file_name().unwrap_or_default();
            hasher
                .update(name.as_encoded_bytes())
                .update(&[0])
                .update(hash_of(&path)?.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The manifest's file, if it is one file of JSON lines.
    ///
    /// # Errors
    /// Those of [`Source::read`] for missing files.
    pub(crate) fn file_of_lines(&self) -> Result<Option<PathBuf>> {
        self.columns.check()?;
        let parts = self.parts()?;
        let [RowFile::File(path)] = parts.as_slice() else {
            return Ok(None);
        };
        if !path.is_file() {
            return Ok(None);
        }
        let mut lines = Lines::open(path)?.unpacked()?;
        let head = lines.head()?;
        let form = self.form_of(&head[..head.len().min(HEAD_BYTES)], path)?;
        Ok((form == Form::JsonLines).then(|| path.clone()))
    }

    /// The form that the first bytes show, as far as it fits the stated format.
    fn form_of(&self, head: &[u8], path: &Path) -> Result<Form> {
        let form = form::of(head, path)?;
        let Some(format) = self.format else {
            return Ok(form);
        };
        let is_text = matches!(form, Form::JsonLines | Form::Table(_));
        match format {
            Format::Csv if is_text && !matches!(form, Form::Table(Delimiter::Semicolon)) => {
                Ok(Form::Table(Delimiter::Comma))
            }
            Format::Tsv | Format::CommonVoice if is_text => Ok(Form::Table(Delimiter::Tab)),
            format if format.fits(form) => Ok(form),
            format => Err(Error::input(format!("is {}, not {format}", form.named()))
                .hint("leave `format` out, so that the file tells it, or name the one that it is")),
        }
    }

    /// The things that rows are read from.
    fn parts(&self) -> Result<Vec<RowFile>> {
        let mut parts = Vec::new();
        for path in shards::expand(&self.path)? {
            self.add_parts(path, &mut parts)?;
        }
        Ok(parts)
    }

    fn add_parts(&self, path: PathBuf, parts: &mut Vec<RowFile>) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        if !path.is_dir() {
            if name == kaldi::WAVS {
                let folder = match path.parent() {
                    Some(folder) if !folder.as_os_str().is_empty() => folder,
                    _ => Path::new("."),
                };
                parts.push(RowFile::Kaldi(folder.to_owned()));
            } else if name == llama_factory::INFO
                && let Some(file) = llama_factory::file_of(&path)?
            {
                parts.push(RowFile::File(file));
            } else if lhotse_shar::is_cuts(&path) {
                parts.push(RowFile::Shar(path));
            } else {
                parts.push(RowFile::File(path));
            }
            return Ok(());
        }

        if path.join(kaldi::WAVS).is_file() {
            parts.push(RowFile::Kaldi(path));
            return Ok(());
        }
        if let Some(saved) = huggingface::saved(&path)? {
            let classes = Rc::new(saved.classes);
            parts.extend(
                saved
                    .files
                    .into_iter()
                    .map(|file| RowFile::Saved(file, classes.clone())),
            );
            return Ok(());
        }
        let cuts = lhotse_shar::cuts_of(&path);
        if !cuts.is_empty() {
            parts.extend(cuts.into_iter().map(RowFile::Shar));
            return Ok(());
        }
        let tarred = path.join(nemo::TARRED);
        if tarred.is_file() {
            parts.push(RowFile::File(tarred));
            return Ok(());
        }
        let info = path.join(llama_factory::INFO);
        if info.is_file()
            && let Some(file) = llama_factory::file_of(&info)?
        {
            parts.push(RowFile::File(file));
            return Ok(());
        }
        if self.format == Some(Format::Kaldi) {
            return Err(Error::input(format!("holds no {}", kaldi::WAVS))
                .at_path(&path)
                .hint("name the folder of one data set, such as data/train"));
        }
        parts.extend(shards::of_folder(&path)?.into_iter().map(RowFile::File));
        Ok(())
    }

    /// Refuses a column that no row has had. `names` are the columns of the first row.
    fn expect_columns(&self, seen: &BTreeSet<String>, names: &[String]) -> Result<()> {
        let Some(column) = self
            .columns
            .columns()
            .find(|column| !seen.contains(*column))
        else {
            return Ok(());
        };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Err(without_column(column, &names).at_path(&self.path))
    }
}

/// Reads a manifest in the format that its files have: see [`Source::read`].
///
/// # Errors
/// Those of [`Source::read`].
pub fn read_manifest(
    path: &Path,
    audio_root: Option<&Path>,
    on_bad_row: OnBadRow,
) -> Result<Manifest> {
    let source = Source {
        audio_root: audio_root.map(Path::to_owned),
        ..Source::new(path)
    };
    source.read(on_bad_row)
}

fn hash_of(path: &Path) -> Result<String> {
    if shards::ending(path) == Some("tar") {
        return Ok(Shard::open(path)?.hash());
    }
    files::hash(path)
}

/// The rows of one part, on their way from its file to the collector.
struct PartReader<'a, 'b> {
    source: &'a Source,
    part: &'a RowFile,
    form: Form,
    collector: &'a RefCell<Collector<'b>>,
    seen: &'a mut BTreeSet<String>,
    /// Columns of the first row, as the file names them.
    names: &'a mut Vec<String>,
    meaning: Option<Meaning>,
}

impl PartReader<'_, '_> {
    fn read(&mut self, is_sharded: bool) -> Result<()> {
        match self.part {
            RowFile::Kaldi(folder) => {
                self.expect_format(&[Format::Kaldi], "a folder of Kaldi's")?;
                kaldi::read(folder, &mut |line, row| self.add_as_it_is(line, row))
            }
            RowFile::Shar(cuts) => {
                self.expect_format(
                    &[Format::LhotseShar, Format::Lhotse],
                    "a Shar folder of Lhotse's",
                )?;
                lhotse_shar::read(cuts, &mut |line, row| self.add_as_it_is(line, row))
            }
            RowFile::Saved(path, classes) => {
                self.form = Form::Arrow;
                let file = Input::open(path)?.into_file()?;
                let unread =
                    parquet::read_arrow(&file, path, &self.source.columns, Some(classes), |row| {
                        self.add(row.line, Ok(row))
                    })?;
                self.see_all_columns();
                self.note_unread(unread);
                Ok(())
            }
            RowFile::File(path) => self.read_file(path, is_sharded),
        }
    }

    fn read_file(&mut self, path: &Path, is_sharded: bool) -> Result<()> {
        let input = Input::open(path).map_err(|e| {
            e.or_hint("relative paths of manifests start from the folder the command runs in")
        })?;
        let mut lines = Lines::of(input).unpacked().map_err(|e| e.at_path(path))?;
        let head = lines.head()?;
        let head = &head[..head.len().min(HEAD_BYTES)];
        self.form = self
            .source
            .form_of(head, path)
            .map_err(|e| e.at_path(path))?;
        match self.form {
            Form::Parquet => {
                let unread =
                    parquet::read(&lines.into_file()?, path, &self.source.columns, |row| {
                        self.add(row.line, Ok(row))
                    })?;
                self.see_all_columns();
                self.note_unread(unread);
                Ok(())
            }
            Form::Arrow => {
                let unread = parquet::read_arrow(
                    &lines.into_file()?,
                    path,
                    &self.source.columns,
                    None,
                    |row| self.add(row.line, Ok(row)),
                )?;
                self.see_all_columns();
                self.note_unread(unread);
                Ok(())
            }
            Form::Tar => {
                // A tar file inside a gzip archive has no ranges of bytes to address.
                drop(lines.into_file().map_err(|e| {
                    e.hint(format!(
                        "unpack the archive first, to one uncompressed tar file: `gunzip -k {}`",
                        path.display()
                    ))
                })?);
                let shard = Shard::open(path)?;
                webdataset::read(&shard, is_sharded, &mut |line, row| self.add(line, row))
            }
            Form::Table(delimiter) => {
                let columns = &self.source.columns;
                table::read(lines, path, delimiter, columns, &mut |line, row| {
                    self.add(line, row)
                })?;
                self.see_all_columns();
                Ok(())
            }
            Form::JsonList => {
                json_rows::read_list(lines, path, &mut |line, row| self.add(line, row))
            }
            Form::JsonLines => {
                json_rows::read_lines(lines, path, &mut |line, row| self.add(line, row))
            }
        }
    }

    /// Refuses a stated format that the files do not have.
    fn expect_format(&self, formats: &[Format], found: &str) -> Result<()> {
        match self.source.format {
            Some(said) if !formats.contains(&said) => {
                Err(Error::input(format!("is {found}, not {said}"))
                    .at_path(self.part.path())
                    .hint(format!("leave `format` out, or write `{}`", formats[0])))
            }
            _ => Ok(()),
        }
    }

    /// Adds a row that has maqam's field names already.
    fn add_as_it_is(&mut self, line: u32, row: Result<RawRow>) -> Result<()> {
        let mut collector = self.collector.borrow_mut();
        match row {
            Ok(mut row) => {
                if self.names.is_empty() {
                    self.names.extend(row.fields.keys().cloned());
                }
                self.source.columns.apply(&mut row.fields, self.seen);
                collector.add(row);
            }
            Err(error) => collector.refuse(line, error),
        }
        collector.check()
    }

    /// Converts a row and adds it.
    ///
    /// # Errors
    /// A fault of the whole file, found at its first row.
    fn add(&mut self, line: u32, row: Result<RawRow>) -> Result<()> {
        let mut row = match row {
            Ok(row) => row,
            Err(error) => {
                let mut collector = self.collector.borrow_mut();
                collector.refuse(line, error);
                return collector.check();
            }
        };
        if self.names.is_empty() {
            self.names.extend(row.fields.keys().cloned());
        }
        self.source.columns.apply(&mut row.fields, self.seen);
        if self.meaning.is_none() {
            let meaning = Meaning::of(&row, self.source, self.part.path(), self.form)?;
            let mut collector = self.collector.borrow_mut();
            if let Some(folder) = &meaning.audio_folder {
                collector.set_audio_folder(folder);
            }
            for note in &meaning.notes {
                collector.note(note.clone());
            }
            self.meaning = Some(meaning);
        }
        let converted = match &mut self.meaning {
            Some(meaning) => meaning.convert(&mut row),
            None => Ok(()),
        };
        let mut collector = self.collector.borrow_mut();
        match converted {
            Ok(()) => collector.add(row),
            Err(error) => collector.refuse(line, error),
        }
        collector.check()
    }

    /// Records that the file has all named columns, which its reader has checked.
    fn see_all_columns(&mut self) {
        let columns = self.source.columns.columns();
        self.seen.extend(columns.map(str::to_owned));
    }

    fn note_unread(&self, unread: parquet::Unread) {
        if unread.is_empty() {
            return;
        }
        let named: Vec<String> = unread
            .into_iter()
            .map(|(name, dtype)| format!("`{name}` ({dtype})"))
            .collect();
        let text = format!("columns of these types are not read: {}", named.join(", "));
        self.collector.borrow_mut().note(text);
    }
}
