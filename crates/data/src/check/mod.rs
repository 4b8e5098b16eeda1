//! Faults of a data set: of single rows, of their audio, and between rows.
//!
//! Rows are pushed in, findings come out of a callback as they are found, so that a manifest of any size is checked in bounded memory. About
//! 120 bytes per row are kept for the comparison of rows, and each different text of five words or more.
//!
//! - `rows`: what a row says, against its task and its language.
//! - `clips`: what is heard.
//! - `across`: duplicates, and what splits share.
//! - `known`: facts about audio that were found before, so that a check goes on where it was stopped.

mod across;
mod clips;
mod known;
mod rows;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

pub use clips::STATED_TOLERANCE_S;
pub use clips::agree;
pub use known::Known;

use crate::Row;
use crate::check::across::Across;
use crate::check::clips::Heard;
use crate::task::Tasks;
use maqam_base::error::Error;
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
pub enum Kind {
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
    /// Nothing is heard, or the channels cancel each other.
    Silent,
    /// Samples stay at full scale.
    Clipped,
    /// The part lies outside its file.
    Span,
    /// The stated duration is not that of the audio.
    Duration,
    /// The sampling rate is unusual.
    SampleRate,
    /// The task is unknown.
    Task,
    /// There is nothing to learn: no transcript, summary or label.
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
    /// Texts of two splits share eight words in a row.
    LeakedRun,
}

impl Kind {
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

/// Something that was found in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Its kind.
    pub kind: Kind,
    /// The file that the row is written in.
    pub file: Arc<Path>,
    /// The row's line in it.
    pub line: u32,
    /// The row's id; empty where it could not be read.
    pub id: Box<str>,
    /// What was found.
    pub message: String,
}

/// What a check looks at.
pub struct Settings<'a> {
    /// Tasks that rows may name.
    pub tasks: &'a Tasks,
    /// Task of rows that name none.
    pub task: Option<&'a str>,
    /// Whether audio is decoded; otherwise its headers are read.
    pub decode: bool,
    /// Letters per second of audio that a transcript may have.
    pub letters_per_s: RangeInclusive<f64>,
    /// Jaccard index from which texts are near-duplicates.
    pub similarity: f64,
}

/// A row with its place.
pub struct Placed {
    /// The row.
    pub row: Row,
    /// The file that it is written in.
    pub file: Arc<Path>,
    /// Its line there.
    pub line: u32,
    /// The split that it belongs to where it names none.
    pub split: Arc<str>,
}

/// Receives findings.
pub type Sink<'a> = &'a mut dyn FnMut(Finding) -> Result<()>;

/// A check of one data set, which may be several manifests.
pub struct Check<'a> {
    settings: Settings<'a>,
    known: &'a Known,
    across: Across,
    num_rows: u64,
}

impl<'a> Check<'a> {
    /// A check without rows. Facts about audio go to `known` and are taken from there.
    pub fn new(settings: Settings<'a>, known: &'a Known) -> Self {
        Self {
            across: Across::new(settings.similarity),
            settings,
            known,
            num_rows: 0,
        }
    }

    /// Number of rows so far, those that cannot be read among them.
    pub fn num_rows(&self) -> u64 {
        self.num_rows
    }

    /// Adds a row that cannot be read.
    ///
    /// # Errors
    /// Those of `found`.
    pub fn bad_row(
        &mut self,
        file: &Arc<Path>,
        line: u32,
        id: Option<String>,
        error: &Error,
        found: Sink<'_>,
    ) -> Result<()> {
        self.num_rows += 1;
        found(Finding {
            kind: rows::kind_of(error),
            file: file.clone(),
            line,
            id: id.unwrap_or_default().into(),
            message: error.message().to_owned(),
        })
    }

    /// Adds rows. Their audio is examined in parallel.
    ///
    /// # Errors
    /// Those of `found`; a disk that does not take what was found out.
    pub fn rows(&mut self, rows: &[Placed], found: Sink<'_>) -> Result<()> {
        let looked_at: Vec<(Vec<(Kind, String)>, Vec<Heard>, across::TextFacts)> = rows
            .par_iter()
            .map(|placed| {
                let row = &placed.row;
                let heard = clips::listen(row, self.settings.decode, self.known);
                let mut findings = rows::check(row, &self.settings);
                findings.extend(clips::check(row, &heard, &self.settings));
                (findings, heard, self.across.text_facts(row))
            })
            .collect();
        self.known.keep()?;

        for (placed, (findings, heard, text)) in rows.iter().zip(looked_at) {
            self.num_rows += 1;
            for (kind, message) in findings {
                found(placed.finding(kind, message))?;
            }
            self.across.add(placed, &heard, text);
        }
        Ok(())
    }

    /// Compares the rows with each other.
    ///
    /// # Errors
    /// Those of `found`.
    pub fn finish(self, found: Sink<'_>) -> Result<()> {
        self.across.finish(found)
    }
}

impl Placed {
    fn finding(&self, kind: Kind, message: String) -> Finding {
        Finding {
            kind,
            file: self.file.clone(),
            line: self.line,
            id: self.row.id.clone(),
            message,
        }
    }
}

#[cfg(test)]
mod tests;
