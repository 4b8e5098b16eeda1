//! Training data: a manifest's rows, read from any format and checked one by one.
//!
//! A row holds the place of its audio and its fields (transcript, summary, label, or a whole
//! conversation). The module `task` makes an example of it. Rows are small, because a manifest may
//! hold millions of them: texts are boxed, and texts that many rows share (task, language, speaker
//! ...) are stored once.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod arabic;
pub mod asr_text;
pub mod audio_parquet;
mod audio_source;
mod cells;
pub mod check;
mod clips;
mod collector;
mod columns;
mod conversation;
pub mod copied;
pub mod describe;
pub mod describe_manifests;
pub mod divide;
pub mod facts;
mod fields;
mod form;
mod formats;
pub mod glance;
pub mod headers;
pub mod language;
pub mod leakage;
pub mod lengths;
mod manifest;
pub mod manifests;
mod minhash;
pub mod near_duplicates;
mod notes;
mod parquet;
mod parquet_writer;
pub mod plain;
mod reading;
pub mod repeats;
pub mod respell;
mod row;
mod row_json;
pub mod segment;
pub mod segment_manifest;
mod shards;
mod source;
pub mod spelling;
pub mod split;
pub mod stats_text;
pub mod task;
pub mod text_import;
mod text_row;

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

pub use audio_source::AudioSource;
pub use clips::NoAudioFile;
pub use collector::BadRow;
pub use collector::Streamed;
pub use collector::UnusableRows;
pub use columns::Columns;
pub use formats::Format;
pub use formats::export::export;
pub use formats::export::write_manifest;
pub use formats::out::Export;
pub use manifest::Manifest;
pub use notes::Note;
pub use reading::read_manifest;
pub use shards::path_or_list;
pub use shards::pattern_of;
pub use source::Source;

use maqam_audio::Span;
use maqam_metrics::TaskKind;

/// The mark in a user's message for one clip of audio.
pub const AUDIO_MARK: &str = "<audio>";

/// One stretch of audio.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// The audio file.
    pub source: AudioSource,
    /// The part of it that counts.
    pub span: Span,
    /// Length in seconds that the data states of this clip; more than 0.1 s away from the audio's
    /// it is an error.
    pub stated_s: Option<f64>,
}

/// Role of a message's author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The frame of the conversation.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The role's name in chat templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Role of the author.
    pub role: Role,
    /// Text; in a user's message every [`AUDIO_MARK`] stands for a clip.
    pub content: String,
    /// True if an assistant's turn is learnt; without meaning for the others.
    pub loss: bool,
}

impl Message {
    /// A message; an assistant's is learnt.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            loss: true,
        }
    }

    /// Number of clips that the message refers to.
    pub fn num_audio_marks(&self) -> usize {
        match self.role {
            Role::User => self.content.matches(AUDIO_MARK).count(),
            Role::System | Role::Assistant => 0,
        }
    }
}

/// One row of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Id of the row, unique in its manifest; the line number if the data has none.
    pub id: Box<str>,
    /// Line of a text file, or number of the row in another, from 1. A manifest of several files
    /// counts on from one to the next.
    pub line: u32,
    /// The file, if the manifest has several.
    pub shard: Option<Arc<ShardFile>>,
    /// The audio, in the order of the conversation's marks; none in a text-only row.
    pub clips: Vec<Clip>,
    /// The task's name.
    pub task: Option<Arc<str>>,
    /// The language of the speech, as a BCP 47 tag (`ar`, `ar-EG`, `en`).
    pub language: Option<Arc<str>>,
    /// The transcript.
    pub text: Option<Box<str>>,
    /// The summary.
    pub summary: Option<Box<str>>,
    /// The class: a label's name or one of its words.
    pub label: Option<Arc<str>>,
    /// Further accepted answers.
    pub references: Vec<Box<str>>,
    /// Speaker.
    pub speaker: Option<Arc<str>>,
    /// Unit that must not be split (a programme, a document).
    pub group: Option<Arc<str>>,
    /// Length of the audio in seconds, as the data states it.
    pub duration: Option<f64>,
    /// The split (`train`, `dev`, `test`).
    pub split: Option<Arc<str>>,
    /// An instruction of the row's own, used instead of the task's.
    pub instruction: Option<Box<str>>,
    /// A target of the row's own, used instead of what the task would take.
    pub target: Option<Box<str>>,
    /// A conversation, used as written; empty in rows that leave it to their task.
    pub messages: Vec<Message>,
    /// All other fields, as one JSON object; see [`Row::extra_fields`].
    pub extra: Option<Arc<str>>,
}

/// One of the files of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardFile {
    /// The file.
    pub path: Box<std::path::Path>,
    /// Number of lines in the files before it.
    pub lines_before: u32,
}

impl ShardFile {
    /// Place of a line of the manifest: `file:line`.
    pub fn place(&self, line: u32) -> String {
        let own = line.saturating_sub(self.lines_before);
        format!("{}:{own}", self.path.display())
    }
}

impl Row {
    /// Place of the row, for messages: `file:line`.
    pub fn place(&self, manifest: &std::path::Path) -> String {
        match &self.shard {
            Some(shard) => shard.place(self.line),
            None => format!("{}:{}", manifest.display(), self.line),
        }
    }

    /// The answer to a task of a kind: the field [`TaskKind::target_field`] names.
    pub fn answer(&self, kind: TaskKind) -> Option<&str> {
        match kind {
            TaskKind::Transcribe => self.text.as_deref(),
            TaskKind::Generate => self.summary.as_deref(),
            TaskKind::Classify => self.label.as_deref(),
        }
    }

    /// The fields without a meaning for maqam, unchanged.
    pub fn extra_fields(&self) -> serde_json::Map<String, serde_json::Value> {
        // This crate wrote the text, so it always parses. A row without such fields has an empty
        // map.
        self.extra
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }
}

/// Treatment of rows that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// Refuse the manifest, naming up to [`MAX_BAD_ROWS_NAMED`] rows at once.
    #[default]
    Error,
    /// Leave the row out and count it.
    Skip,
}

/// Number of bad rows that one error message names.
pub const MAX_BAD_ROWS_NAMED: usize = 20;
