//! `match`: among several texts of one length, a recogniser must find a recording's own text the likeliest.
//!
//! The check works with a weak recogniser, because it needs no transcript. A recogniser that was trained on the same synthesiser finds swapped,
//! cut and doubled recordings. The check says nothing about intelligibility.

use std::sync::Arc;

use serde_json::json;

use crate::build::call::Calls;
use crate::build::listen::transcriber::Compares;
use crate::build::speak::Spoken;
use crate::build::workers::EarlierResults;
use crate::error::Error;
use crate::error::Result;
use crate::seed::Key;

/// Most rows that are tried for one text of the right length.
const MOST_DRAWS: u64 = 50;

/// A recogniser and how many texts it compares.
pub(super) struct Matching<'a> {
    pub(super) model: Box<dyn Compares + 'a>,
    pub(super) num: usize,
    pub(super) key: Key,
}

impl Matching<'_> {
    /// Nats per token by which a recording's own text is likelier than the likeliest of the others, over its first window; none if the
    /// build ends.
    ///
    /// # Errors
    /// A data set without other texts; a recording that the model cannot take.
    pub(super) fn margin(
        &self,
        calls: &Calls,
        rows: &EarlierResults,
        row: usize,
        file: &Arc<[u8]>,
        spoken: &Spoken,
        language: &str,
    ) -> Result<Option<f64>> {
        let windows = self.model.windows(spoken);
        let window = *windows
            .first()
            .ok_or_else(|| Error::bug("a recording without sentences"))?;
        let own: Vec<&str> = spoken.sentences[window.first..window.end]
            .iter()
            .map(|sentence| sentence.text.as_str())
            .collect();
        let own = own.join(" ");
        let mut texts = self.others(rows, row, own.chars().count())?;
        texts.insert(0, own);
        let question = json!([
            "match",
            self.model.depends_on(),
            language,
            blake3::hash(file).to_hex().as_str(),
            texts
        ]);
        let answer = calls.answer(&question, || {
            let means = self.model.likelihoods(file, window, language, &texts)?;
            serde_json::to_vec(&means)
                .map(Some)
                .map_err(Error::bug_from)
        })?;
        let Some(answer) = answer else {
            return Ok(None);
        };
        let means: Vec<f64> = serde_json::from_slice(&answer).map_err(Error::bug_from)?;
        let (own, others) = means
            .split_first()
            .ok_or_else(|| Error::bug("no likelihoods"))?;
        let best = others.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Ok(Some(own - best))
    }

    /// Beginnings of other documents with about this many characters: functions of the row and the whole corpus.
    fn others(&self, rows: &EarlierResults, row: usize, num_chars: usize) -> Result<Vec<String>> {
        let key = self.key.with(row as u64);
        let group = &rows.prepared.rows[row].group;
        let all = &rows.prepared.rows;
        let mut texts: Vec<String> = Vec::new();
        for draw in 0..MOST_DRAWS * self.num as u64 {
            if texts.len() + 1 == self.num {
                break;
            }
            let other = key.below(draw, all.len());
            if all[other].rejected.is_some() || all[other].group == *group {
                continue;
            }
            let text = beginning(&rows.document(other)?.text, num_chars);
            if text.chars().count() * 2 >= num_chars && !texts.contains(&text) {
                texts.push(text);
            }
        }
        if texts.is_empty() {
            return Err(
                Error::input("`match` finds no other text of a similar length")
                    .at("listen")
                    .hint("leave `match` out of a set this small"),
            );
        }
        Ok(texts)
    }
}

/// The first words of a text, with at most this many characters together.
fn beginning(text: &str, num_chars: usize) -> String {
    let mut taken = String::new();
    let mut num = 0;
    for word in text.split_whitespace() {
        num += word.chars().count() + usize::from(num > 0);
        if num > num_chars {
            break;
        }
        if !taken.is_empty() {
            taken.push(' ');
        }
        taken.push_str(word);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_whole_words() {
        assert_eq!(beginning("قال الوزير إن", 10), "قال الوزير");
        assert_eq!(beginning("قال الوزير إن", 9), "قال");
        assert_eq!(beginning("قال", 2), "");
    }
}
