//! `match`: among several texts of one length, a recogniser must find a recording's own text the
//! likeliest.
//!
//! The check works with a weak recogniser, because it needs no transcript. A recogniser that was
//! trained on the same synthesiser finds swapped, cut and doubled recordings. The check says
//! nothing about intelligibility.

use std::sync::Arc;

use serde_json::json;

use crate::build::assign::Row;
use crate::build::call::Calls;
use crate::build::listen::transcriber::Compares;
use crate::build::sentences::sentences;
use crate::build::speak::Spoken;
use crate::build::workers::EarlierResults;
use crate::error::Error;
use crate::error::Result;
use crate::seed::Key;

/// Most rows that are tried for one text of the right length.
const MOST_DRAWS: u64 = 50;

/// Largest relative difference of a text's length from that of the row's own.
const LENGTH_TOLERANCE: f64 = 0.25;

/// A recogniser and how many texts it compares.
pub(super) struct Matching<'a> {
    pub(super) model: Box<dyn Compares + 'a>,
    pub(super) num: usize,
    pub(super) key: Key,
}

/// Result of a comparison.
pub(super) enum Compared {
    /// Texts were compared.
    With {
        /// Nats per token by which the recording's own text is likelier than the likeliest of the
        /// others.
        margin: f64,
        /// Number of texts, its own included.
        num: usize,
    },
    /// Every sentence is longer than a window, or no other text is about as long.
    Skipped,
    /// The build ends.
    Ended,
}

impl Matching<'_> {
    /// Compares the text of a recording's first window that the model takes whole with other texts.
    ///
    /// # Errors
    /// A data set without other documents; a recording that the model cannot take.
    pub(super) fn compare(
        &self,
        calls: &Calls,
        rows: &EarlierResults,
        row: usize,
        file: &Arc<[u8]>,
        spoken: &Spoken,
        language: &str,
    ) -> Result<Compared> {
        let Some(window) = self.model.window(spoken) else {
            return Ok(Compared::Skipped);
        };
        let own: Vec<&str> = spoken.sentences[window.first..window.end]
            .iter()
            .map(|sentence| sentence.text.as_str())
            .collect();
        let own = own.join(" ");
        let mut texts = self.others(rows, row, own.chars().count())?;
        if texts.is_empty() {
            return Ok(Compared::Skipped);
        }
        texts.insert(0, own);
        let question = json!([
            "match",
            self.model.depends_on(),
            language,
            blake3::hash(file).to_hex().as_str(),
            window.first,
            texts
        ]);
        let answer = calls.answer(&question, || {
            let means = self.model.likelihoods(file, window, language, &texts)?;
            means
                .map(|means| serde_json::to_vec(&means).map_err(Error::bug_from))
                .transpose()
        })?;
        let Some(answer) = answer else {
            return Ok(Compared::Ended);
        };
        let means: Vec<f64> = serde_json::from_slice(&answer).map_err(Error::bug_from)?;
        let (own, others) = means
            .split_first()
            .ok_or_else(|| Error::bug("no likelihoods"))?;
        let best = others.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Ok(Compared::With {
            margin: own - best,
            num: means.len(),
        })
    }

    /// Sentences of other documents with about this many characters: functions of the row and the
    /// whole corpus. There may be fewer than requested.
    fn others(&self, rows: &EarlierResults, row: usize, num_chars: usize) -> Result<Vec<String>> {
        let key = self.key.with(row as u64);
        let group = &rows.prepared.rows[row].group;
        let all = &rows.prepared.rows;
        let is_other = |row: &Row| row.rejected.is_none() && row.group != *group;
        if !all.iter().any(is_other) {
            return Err(Error::input("`match` finds no other text")
                .at("listen")
                .hint("leave `match` out of a set this small"));
        }
        let mut texts: Vec<String> = Vec::new();
        for draw in 0..MOST_DRAWS * self.num as u64 {
            if texts.len() + 1 == self.num {
                break;
            }
            let other = key.below(draw, all.len());
            if !is_other(&all[other]) {
                continue;
            }
            let document = rows.document(other)?;
            let found = run_of_sentences(&sentences(&document.text), num_chars);
            texts.extend(found.filter(|text| !texts.contains(text)));
        }
        Ok(texts)
    }
}

/// The first run of whole sentences whose length is about this many characters.
fn run_of_sentences(sentences: &[&str], num_chars: usize) -> Option<String> {
    let least = (1.0 - LENGTH_TOLERANCE) * num_chars as f64;
    let most = (1.0 + LENGTH_TOLERANCE) * num_chars as f64;
    (0..sentences.len()).find_map(|first| {
        let mut run = String::new();
        for sentence in &sentences[first..] {
            if !run.is_empty() {
                run.push(' ');
            }
            run.push_str(sentence);
            let len = run.chars().count() as f64;
            if len >= least {
                return (len <= most).then_some(run);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_texts_are_whole_sentences() {
        let sentences = ["قال.", "قال الوزير إن.", "نعم.", "ثم جاء السكان."];
        let run = |num_chars| run_of_sentences(&sentences, num_chars);
        assert_eq!(run(4).as_deref(), Some("قال."));
        // The first sentences have 4 and 14 characters, and 19 together.
        assert_eq!(run(15).as_deref(), Some("قال الوزير إن."));
        assert_eq!(run(19).as_deref(), Some("قال. قال الوزير إن."));
        assert_eq!(run(8), None);
        assert_eq!(run(100), None);
    }
}
