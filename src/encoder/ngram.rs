//! N-gram language models of words in ARPA files (Katz backoff).

use std::collections::HashMap;
use std::path::Path;

use crate::error::Error;
use crate::error::Result;
use crate::files;

/// Log10 of the probability of a word that the model has no unigram for, where it has no `<unk>`
/// either.
const UNSEEN: f64 = -7.0;

/// A language model.
#[derive(Clone, Debug, PartialEq)]
pub struct Ngram {
    /// Log10 of probability and of backoff weight, by the words of an n-gram with spaces between.
    entries: HashMap<String, (f64, f64)>,
    order: usize,
}

impl Ngram {
    /// Reads an ARPA file.
    ///
    /// # Errors
    /// A file that cannot be read, or a line that is no n-gram, by its number.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(&files::read_text(path)?).map_err(|e| e.at_path(path))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut entries = HashMap::new();
        let mut order = 0;
        let mut section = 0;
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(n) = line
                .strip_prefix('\\')
                .and_then(|rest| rest.strip_suffix("-grams:"))
            {
                section = n.parse().map_err(|_| wrong(i, line))?;
                order = order.max(section);
            } else if line.starts_with('\\') {
                section = 0;
            } else if section > 0 && !line.is_empty() {
                let (words, numbers) = ngram(line, section).ok_or_else(|| wrong(i, line))?;
                entries.insert(words, numbers);
            }
        }
        if order == 0 {
            return Err(Error::input("no n-grams").hint("name a file in the ARPA format"));
        }
        Ok(Self { entries, order })
    }

    /// Natural logarithm of the probability of `word` after `history`, the nearest word last.
    pub fn score(&self, history: &[String], word: &str) -> f64 {
        let start = history.len().saturating_sub(self.order - 1);
        let context: Vec<String> = history[start..]
            .iter()
            .map(|word| self.known(word).to_owned())
            .collect();
        self.log10(&context, self.known(word)) * std::f64::consts::LN_10
    }

    /// The word, or the model's entry for unknown ones.
    fn known<'a>(&self, word: &'a str) -> &'a str {
        if self.entries.contains_key(word) {
            word
        } else {
            "<unk>"
        }
    }

    fn log10(&self, context: &[String], word: &str) -> f64 {
        let words: Vec<&str> = context.iter().map(String::as_str).chain([word]).collect();
        if let Some((probability, _)) = self.entries.get(&words.join(" ")) {
            return *probability;
        }
        let Some((_, nearer)) = context.split_first() else {
            return UNSEEN;
        };
        let backoff = self
            .entries
            .get(&context.join(" "))
            .map_or(0.0, |(_, backoff)| *backoff);
        backoff + self.log10(nearer, word)
    }
}

/// Words and numbers of a line: log10 of probability, `order` words, perhaps a backoff weight.
fn ngram(line: &str, order: usize) -> Option<(String, (f64, f64))> {
    let parts: Vec<&str> = line.split_whitespace().collect();
    let probability = parts.first()?.parse().ok()?;
    let words = parts.get(1..=order)?.join(" ");
    let backoff = match parts.get(order + 1) {
        Some(number) => number.parse().ok()?,
        None => 0.0,
    };
    (parts.len() <= order + 2).then_some((words, (probability, backoff)))
}

fn wrong(line: usize, found: &str) -> Error {
    Error::input(format!("line {}: `{found}` is no n-gram", line + 1))
        .hint("write the logarithm, the words and perhaps the backoff, with tabs or spaces between")
}

#[cfg(test)]
pub(super) const SMALL: &str = "\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1.0\t<unk>
-0.5\ta\t-0.3
-0.7\tb\t-0.2
-0.9\t</s>

\\2-grams:
-0.1\ta b
-0.4\tb </s>

\\end\\
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_by_hand() {
        let model = Ngram::parse(SMALL).unwrap();
        let score = |history: &[&str], word: &str| {
            let history: Vec<String> = history.iter().map(|word| (*word).to_owned()).collect();
            model.score(&history, word) / std::f64::consts::LN_10
        };
        // A bigram that is there; backoff of a and the unigram; the unknown word; only the last
        // word counts.
        for (history, word, expected) in [
            (&["a"][..], "b", -0.1),
            (&["a"][..], "a", -0.3 - 0.5),
            (&["b"][..], "zzz", -0.2 - 1.0),
            (&[][..], "b", -0.7),
            (&["a", "b"][..], "</s>", -0.4),
            (&["zzz"][..], "a", -0.5),
        ] {
            assert!(
                (score(history, word) - expected).abs() < 1e-12,
                "{history:?} {word}"
            );
        }
        assert!(
            Ngram::parse("hello")
                .unwrap_err()
                .to_string()
                .contains("no n-grams")
        );
        let error = Ngram::parse("\\1-grams:\n-1 a b c")
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 2: `-1 a b c`"), "{error}");
    }
}
