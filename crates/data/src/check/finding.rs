//! Findings of a check, and its settings.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use crate::Row;
use crate::task::Tasks;
use maqam_base::error::Result;

/// Consequence of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The row cannot be used, or makes an evaluation worthless.
    Error,
    /// The row deserves a look.
    Warning,
}

impl Severity {
    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// The row cannot be read.
    Row,
    /// The audio file does not exist.
    Missing,
    /// The audio cannot be decoded.
    Corrupt,
    /// The audio file has no bytes or no samples.
    EmptyAudio,
    /// The audio is shorter than one audio token.
    TooShort,
    /// The audio is silent, or the channels cancel each other.
    Silent,
    /// Samples stay at full scale.
    Clipped,
    /// The part is outside its file.
    Span,
    /// The stated duration is not that of the audio.
    Duration,
    /// The sampling rate is unusual.
    SampleRate,
    /// The task is unknown.
    Task,
    /// There is no target: no transcript, summary or label.
    EmptyTarget,
    /// The label is not in the task's inventory.
    Label,
    /// The transcript holds letters that its language is not written in.
    Script,
    /// The transcript is too long or too short for its audio.
    SpeakingRate,
    /// Two rows have one id.
    DuplicateId,
    /// Two rows of one split have the same audio, or parts of a file that overlap.
    DuplicateAudio,
    /// Two rows have almost the same text.
    NearDuplicateText,
    /// Rows of two splits have one id.
    LeakedId,
    /// Rows of two splits have the same audio.
    LeakedAudio,
    /// Rows of two splits have one speaker.
    LeakedSpeaker,
    /// Rows of two splits belong to one group.
    LeakedGroup,
    /// Rows of two splits have the same text.
    LeakedText,
    /// Texts of two splits share a run of eight words.
    LeakedRun,
}

impl FindingKind {
    /// All kinds, in the order of tables.
    pub const ALL: [Self; 24] = [
        Self::Row,
        Self::Missing,
        Self::Corrupt,
        Self::EmptyAudio,
        Self::TooShort,
        Self::Silent,
        Self::Clipped,
        Self::Span,
        Self::Duration,
        Self::SampleRate,
        Self::Task,
        Self::EmptyTarget,
        Self::Label,
        Self::Script,
        Self::SpeakingRate,
        Self::DuplicateId,
        Self::DuplicateAudio,
        Self::NearDuplicateText,
        Self::LeakedId,
        Self::LeakedAudio,
        Self::LeakedSpeaker,
        Self::LeakedGroup,
        Self::LeakedText,
        Self::LeakedRun,
    ];

    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::EmptyAudio => "empty_audio",
            Self::TooShort => "too_short",
            Self::Silent => "silent",
            Self::Clipped => "clipped",
            Self::Span => "span",
            Self::Duration => "duration",
            Self::SampleRate => "sample_rate",
            Self::Task => "task",
            Self::EmptyTarget => "empty_target",
            Self::Label => "label",
            Self::Script => "script",
            Self::SpeakingRate => "speaking_rate",
            Self::DuplicateId => "duplicate_id",
            Self::DuplicateAudio => "duplicate_audio",
            Self::NearDuplicateText => "near_duplicate_text",
            Self::LeakedId => "leaked_id",
            Self::LeakedAudio => "leaked_audio",
            Self::LeakedSpeaker => "leaked_speaker",
            Self::LeakedGroup => "leaked_group",
            Self::LeakedText => "leaked_text",
            Self::LeakedRun => "leaked_8gram",
        }
    }

    /// Consequence of findings of this kind.
    pub fn severity(self) -> Severity {
        match self {
            Self::Clipped
            | Self::SampleRate
            | Self::Script
            | Self::SpeakingRate
            | Self::DuplicateAudio
            | Self::NearDuplicateText
            | Self::LeakedText
            | Self::LeakedRun => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

/// A finding in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Kind of the finding.
    pub kind: FindingKind,
    /// The file that the row is written in.
    pub file: Arc<Path>,
    /// The row's line in it.
    pub line: u32,
    /// The row's id; empty if it could not be read.
    pub id: Box<str>,
    /// Description of the fault.
    pub message: String,
}

/// Settings of a check.
pub struct Settings<'a> {
    /// Tasks that rows may name.
    pub tasks: &'a Tasks,
    /// Task of rows that name none.
    pub task: Option<&'a str>,
    /// True if audio is decoded; otherwise its headers are read.
    pub decode: bool,
    /// Letters per second of audio that a transcript may have.
    pub letters_per_s: RangeInclusive<f64>,
    /// Jaccard index from which texts are near-duplicates.
    pub similarity: f64,
    /// Folder for temporary files.
    pub scratch: &'a Path,
}

/// A row with its place.
pub struct Placed {
    /// The row.
    pub row: Row,
    /// The file that it is written in.
    pub file: Arc<Path>,
    /// Line of the row in the file.
    pub line: u32,
    /// Split of the row if it names none.
    pub split: Arc<str>,
}

/// Receives findings.
pub type Sink<'a> = &'a mut dyn FnMut(Finding) -> Result<()>;

impl Placed {
    /// Something found in this row.
    pub(super) fn finding(&self, kind: FindingKind, message: String) -> Finding {
        Finding {
            kind,
            file: self.file.clone(),
            line: self.line,
            id: self.row.id.clone(),
            message,
        }
    }
}
