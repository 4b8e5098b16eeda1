//! Settings of a suite of instructions.

use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::kind::InstructionKind;
use crate::eval::instructions::language::Language;
use crate::task::Wording;

/// What a suite is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Rows of each kind, where the clips suffice. A question that needs several (each task, each
    /// wording) is asked whole, and each task in all its wordings about [`CLIPS_A_WORDING`] clips
    /// at least.
    pub rows: usize,
    /// The kinds.
    pub kinds: Vec<InstructionKind>,
    /// The set of wordings that tasks are asked in. The kind `wording` asks those of dev in a dev
    /// suite, those of dev and test in a test suite.
    pub wording: Wording,
    /// The languages of the instructions, in turn.
    pub languages: Vec<Language>,
    /// Most character errors of what still counts as a transcript.
    pub max_cer: f64,
    /// Fewest character errors of what no longer counts as one.
    pub min_cer: f64,
}

/// Fewest clips that a task is asked about in each of its wordings. Two wordings are compared clip
/// by clip: with eight clips, a difference on each of them has p = 2 / 2⁸ = 0.008 by McNemar's
/// test; with five, none is below 0.05.
pub const CLIPS_A_WORDING: usize = 8;

impl Default for Settings {
    fn default() -> Self {
        Self {
            rows: 20,
            kinds: InstructionKind::ALL.to_vec(),
            wording: Wording::Dev,
            languages: vec![Language::Arabic, Language::English],
            max_cer: 0.5,
            min_cer: 0.3,
        }
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<()> {
        let fault = match self {
            Self { rows: 0, .. } => "no rows are asked for",
            Self { kinds, .. } if kinds.is_empty() => "no kinds are asked for",
            Self { languages, .. } if languages.is_empty() => "no languages are asked for",
            Self {
                wording: Wording::Train,
                ..
            } => "a suite is asked in wordings that training has not seen: dev or test",
            Self {
                max_cer, min_cer, ..
            } if ![max_cer, min_cer]
                .iter()
                .all(|rate| **rate > 0.0 && **rate <= 1.0) =>
            {
                "a rate of errors is not in (0, 1]"
            }
            _ => return Ok(()),
        };
        Err(Error::input(fault))
    }
}
