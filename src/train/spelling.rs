//! Transcripts of rows as units of the auxiliary CTC loss: their characters.
//!
//! Characters and not tokens: a set of a few hours has some dozens of characters, each of them
//! thousands of times, and most of its tokens once or twice.

use std::collections::BTreeSet;

use crate::data::asr_text;
use crate::error::Error;
use crate::error::Result;
use crate::metrics::TaskKind;
use crate::task::Example;
use crate::train::corpus::Corpus;

/// Characters of the transcripts that a run learns from.
pub struct Spelling {
    /// In the order of their code points. Unit 0 is the blank, and these follow.
    characters: Vec<char>,
}

impl Spelling {
    /// The characters of all rows of a corpus that have a transcript.
    ///
    /// # Errors
    /// A corpus without such a row; rows that make no example.
    pub fn of(corpus: &Corpus) -> Result<Self> {
        let mut found = BTreeSet::new();
        for row in 0..corpus.len() as u32 {
            if corpus.row(row).clips.len() == 1
                && let Some(transcript) = transcript_of(&corpus.clean_example(row)?)
            {
                found.extend(transcript.chars());
            }
        }
        if found.is_empty() {
            return Err(Error::input(
                "`loss.ctc` spells transcripts, and no row has one: no task of `kind: transcribe` has a row with one clip",
            )
            .hint("leave `ctc` out, or add rows of a task such as `asr`"));
        }
        Ok(Self {
            characters: found.into_iter().collect(),
        })
    }

    /// The characters, in the order of their units.
    pub fn characters(&self) -> &[char] {
        &self.characters
    }

    /// Units of a row's transcript; none for a row without one, or with several clips.
    ///
    /// # Errors
    /// A row that makes no example.
    pub fn units(&self, corpus: &Corpus, row: u32) -> Result<Vec<u32>> {
        if corpus.row(row).clips.len() != 1 {
            return Ok(Vec::new());
        }
        let transcript = transcript_of(&corpus.clean_example(row)?).unwrap_or_default();
        let units = transcript.chars().filter_map(|character| {
            let place = self.characters.binary_search(&character).ok()?;
            Some(place as u32 + 1)
        });
        Ok(units.collect())
    }
}

/// Words of a transcript with one space between them; none for an example of another kind of task.
fn transcript_of(example: &Example) -> Option<String> {
    if example.kind != Some(TaskKind::Transcribe) {
        return None;
    }
    let said = example.reference.as_deref()?;
    let text = asr_text::split(said).map_or(said, |(_, text)| text);
    let words: Vec<&str> = text.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}
