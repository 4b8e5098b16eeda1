//! Parquet files of published rows, in the form of Mega-SSum: id, audio, transcription, summary,
//! further summaries; and what Arabic needs.

use std::path::Path;
use std::path::PathBuf;

use crate::audio::SAMPLE_RATE;
use crate::build::publish::row::Published;
use crate::build::publish::row::rounded;
use crate::build::recipe::Recipe;
use crate::data::audio_parquet;
use crate::data::audio_parquet::Values;
use crate::error::Result;

/// Files that are being written, split by split.
pub(super) struct Shards {
    folder: PathBuf,
    largest: u64,
    columns: Vec<(String, Column)>,
    split: &'static str,
    number: usize,
    num_bytes: u64,
    rows: Vec<Row>,
}

/// Columns of one row.
struct Row {
    id: String,
    audio: (Vec<u8>, String),
    transcription: String,
    summaries: Vec<String>,
    language: String,
    speaker: String,
    duration: f64,
    group: String,
    spoken: String,
    sentences: Vec<String>,
    starts: Vec<f64>,
    ends: Vec<f64>,
    source: String,
    license: Option<String>,
}

impl Shards {
    /// No files yet.
    pub(super) fn new(recipe: &Recipe, folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            largest: recipe.publish.shard_mb << 20,
            columns: columns(recipe),
            split: "",
            number: 0,
            num_bytes: 0,
            rows: Vec::new(),
        }
    }

    /// Adds a row; rows come split by split.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn add(&mut self, published: &Published, file: Vec<u8>) -> Result<()> {
        if published.split != self.split {
            self.finish()?;
            (self.split, self.number) = (published.split, 0);
        }
        if self.num_bytes + file.len() as u64 > self.largest {
            self.finish()?;
        }
        let name = Path::new(&published.audio)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        self.num_bytes += file.len() as u64;
        let spoken = &published.spoken;
        self.rows.push(Row {
            id: published.document.id.clone(),
            audio: (file, name),
            transcription: published.summarised.text.clone(),
            summaries: published.summarised.summaries.clone(),
            language: published.summarised.language.clone(),
            speaker: spoken.voice.clone(),
            duration: rounded(spoken.duration_s),
            group: published.group.clone(),
            spoken: spoken.read(),
            sentences: spoken.sentences.iter().map(|s| s.text.clone()).collect(),
            starts: spoken
                .sentences
                .iter()
                .map(|s| rounded(s.start_s))
                .collect(),
            ends: spoken.sentences.iter().map(|s| rounded(s.end_s)).collect(),
            source: published.document.source.clone(),
            license: published.document.licence.clone(),
        });
        Ok(())
    }

    /// Writes what was added since the last file.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut rows = std::mem::take(&mut self.rows);
        self.num_bytes = 0;
        let path = self
            .folder
            .join(format!("{}-{:05}.parquet", self.split, self.number));
        self.number += 1;
        audio_parquet::write(&path, values(&mut rows, &self.columns), SAMPLE_RATE)
    }
}

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Text,
    Number,
    TextList,
    NumberList,
    Audio,
}

/// The columns of every file of a recipe, in their order.
pub(super) fn columns(recipe: &Recipe) -> Vec<(String, Column)> {
    let further =
        (1..=num_further(recipe)).map(|number| (format!("summary{number}"), Column::Text));
    let named = |name: &str, of| (name.to_owned(), of);
    [
        named("id", Column::Text),
        named("audio", Column::Audio),
        named("transcription", Column::Text),
        named("summary", Column::Text),
    ]
    .into_iter()
    .chain(further)
    .chain([
        named("language", Column::Text),
        named("speaker", Column::Text),
        named("duration", Column::Number),
        named("group", Column::Text),
        named("spoken_text", Column::Text),
        named("sentences", Column::TextList),
        named("sentence_start_s", Column::NumberList),
        named("sentence_end_s", Column::NumberList),
        named("source", Column::Text),
        named("license", Column::Text),
    ])
    .collect()
}

/// Number of summaries of a row after the first.
fn num_further(recipe: &Recipe) -> usize {
    let of_source = recipe.collect.summary.len();
    recipe
        .summarise
        .num
        .unwrap_or(1)
        .max(of_source)
        .saturating_sub(1)
}

/// Values of a file's columns.
fn values(rows: &mut [Row], columns: &[(String, Column)]) -> Vec<(String, Values)> {
    columns
        .iter()
        .map(|(name, _)| (name.clone(), values_of(rows, name)))
        .collect()
}

fn values_of(rows: &mut [Row], name: &str) -> Values {
    if name == "audio" {
        let files = rows.iter_mut().map(|row| std::mem::take(&mut row.audio));
        return Values::Audio(files.collect());
    }
    let texts = |of: &dyn Fn(&Row) -> Option<String>| Values::Texts(rows.iter().map(of).collect());
    let text_lists = |of: fn(&Row) -> &Vec<String>| {
        Values::TextLists(rows.iter().map(|row| of(row).clone()).collect())
    };
    let number_lists = |of: fn(&Row) -> &Vec<f64>| {
        Values::NumberLists(rows.iter().map(|row| of(row).clone()).collect())
    };
    match name {
        "id" => texts(&|row| Some(row.id.clone())),
        "transcription" => texts(&|row| Some(row.transcription.clone())),
        "language" => texts(&|row| Some(row.language.clone())),
        "speaker" => texts(&|row| Some(row.speaker.clone())),
        "duration" => Values::Numbers(rows.iter().map(|row| Some(row.duration)).collect()),
        "group" => texts(&|row| Some(row.group.clone())),
        "spoken_text" => texts(&|row| Some(row.spoken.clone())),
        "sentences" => text_lists(|row| &row.sentences),
        "sentence_start_s" => number_lists(|row| &row.starts),
        "sentence_end_s" => number_lists(|row| &row.ends),
        "source" => texts(&|row| Some(row.source.clone())),
        "license" => texts(&|row| row.license.clone()),
        summary => {
            // `summary` is the first, `summary1` the second.
            let number = summary.trim_start_matches("summary").parse().unwrap_or(0);
            texts(&|row| row.summaries.get(number).cloned())
        }
    }
}
