//! Prefix beam search over the outputs of a CTC head (Hannun et al. 2014), with a language model of
//! words where there is one.

use std::collections::BTreeMap;

use crate::encoder::ngram::Ngram;

/// Id of the blank.
const BLANK: u32 = 0;
/// Id of the bar between words.
const BAR: u32 = 1;
/// Units whose probability at a frame is below this are not tried there, except the likeliest.
const NEGLIGIBLE: f64 = -12.0;

/// Prefix beam search.
pub struct Beam<'a> {
    /// Prefixes that are kept after each frame.
    pub width: usize,
    /// Scores words.
    pub model: Option<&'a Ngram>,
    /// Factor of the model's log-probabilities.
    pub weight: f64,
    /// Added for each word.
    pub bonus: f64,
    /// Names of the units; the first two are blank and bar.
    pub names: &'a [String],
}

/// Scores of a prefix: probabilities of its paths that end in blank, and in a unit, and the words'
/// score.
#[derive(Clone)]
struct Entry {
    blank: f64,
    unit: f64,
    words: f64,
}

impl Entry {
    fn total(&self) -> f64 {
        log_add(self.blank, self.unit) + self.words
    }
}

impl Beam<'_> {
    /// The likeliest spelling.
    ///
    /// # Shapes
    /// `logits`: `[frames, units]`, row-major
    pub fn decode(&self, logits: &[f32]) -> Vec<u32> {
        let units = self.names.len();

        let start = Entry {
            blank: 0.0,
            unit: f64::NEG_INFINITY,
            words: 0.0,
        };

        let mut beam: BTreeMap<Vec<u32>, Entry> = BTreeMap::from([(Vec::new(), start)]);
        for row in logits.chunks_exact(units) {
            let log = log_softmax(row);
            let best = log.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut next: BTreeMap<Vec<u32>, Entry> = BTreeMap::new();
            for (prefix, entry) in &beam {
                let both = log_add(entry.blank, entry.unit);
                add(&mut next, prefix, entry.words, |e| {
                    e.blank = log_add(e.blank, both + log[BLANK as usize])
                });
                for (unit, &p) in log.iter().enumerate().skip(1) {
                    if p < best + NEGLIGIBLE {
                        continue;
                    }
                    let unit = unit as u32;
                    let is_repeated = prefix.last() == Some(&unit);
                    if is_repeated {
                        add(&mut next, prefix, entry.words, |e| {
                            e.unit = log_add(e.unit, entry.unit + p)
                        });
                    }
                    let longer: Vec<u32> = prefix.iter().copied().chain([unit]).collect();
                    let words = match unit {
                        BAR => entry.words + self.last_word(prefix),
                        _ => entry.words,
                    };
                    let from = if is_repeated { entry.blank } else { both };
                    add(&mut next, &longer, words, |e| {
                        e.unit = log_add(e.unit, from + p)
                    });
                }
            }
            let mut kept: Vec<(Vec<u32>, Entry)> = next.into_iter().collect();
            kept.sort_by(|(a, x), (b, y)| y.total().total_cmp(&x.total()).then(a.cmp(b)));
            kept.truncate(self.width.max(1));
            beam = kept.into_iter().collect();
        }

        let last = |(prefix, entry): (&Vec<u32>, &Entry)| {
            entry.total() + self.last_word(prefix) + self.end(prefix)
        };
        let best = beam.iter().max_by(|a, b| last(*a).total_cmp(&last(*b)));
        best.map(|(prefix, _)| prefix.clone()).unwrap_or_default()
    }

    /// Score of the word that a prefix ends in; 0 where it ends in none.
    fn last_word(&self, prefix: &[u32]) -> f64 {
        if matches!(prefix.last(), None | Some(&BAR)) {
            return 0.0;
        }
        let mut words = self.words(prefix);
        let last = words.pop().unwrap_or_default();
        let model = self.model.map_or(0.0, |model| model.score(&words, &last));
        self.weight * model + self.bonus
    }

    /// Score of the end after a prefix.
    fn end(&self, prefix: &[u32]) -> f64 {
        let words = self.words(prefix);
        self.weight * self.model.map_or(0.0, |model| model.score(&words, "</s>"))
    }

    /// The words of a prefix after the mark of the beginning.
    fn words(&self, prefix: &[u32]) -> Vec<String> {
        let words = prefix
            .split(|&unit| unit == BAR)
            .filter(|word| !word.is_empty());
        let spelled = words.map(|word| {
            word.iter()
                .map(|&unit| self.names[unit as usize].as_str())
                .collect()
        });
        std::iter::once("<s>".to_owned()).chain(spelled).collect()
    }
}

fn add(
    beam: &mut BTreeMap<Vec<u32>, Entry>,
    prefix: &[u32],
    words: f64,
    change: impl FnOnce(&mut Entry),
) {
    if let Some(entry) = beam.get_mut(prefix) {
        return change(entry);
    }
    let mut entry = Entry {
        blank: f64::NEG_INFINITY,
        unit: f64::NEG_INFINITY,
        words,
    };
    change(&mut entry);
    beam.insert(prefix.to_vec(), entry);
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
    row.iter().map(|&x| f64::from(x - max) - sum.ln()).collect()
}

/// ln(e^a + e^b).
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Key;

    /// Blank, bar, a and b over four frames: the best of all spellings, each the sum of its paths.
    #[test]
    fn a_wide_beam_finds_the_best_of_all_spellings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small.arpa");
        std::fs::write(&path, crate::encoder::ngram::SMALL).unwrap();
        let model = Ngram::open(&path).unwrap();
        let names: Vec<String> = ["<pad>", "|", "a", "b"].map(str::to_owned).into();
        for seed in 0..30 {
            let key = Key::new(seed, "logits");
            let logits: Vec<f32> = (0..16).map(|i| (3.0 * key.uniform(i)) as f32).collect();
            for model in [None, Some(&model)] {
                let beam = Beam {
                    width: 10_000,
                    model,
                    weight: 1.5,
                    bonus: 0.3,
                    names: &names,
                };
                let mut spellings: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
                for path in 0..256u32 {
                    let path: Vec<u32> = (0..4).map(|frame| path >> (2 * frame) & 3).collect();
                    let mut spelled = Vec::new();
                    let mut log = 0.0;
                    for (frame, &unit) in path.iter().enumerate() {
                        log += log_softmax(&logits[frame * 4..][..4])[unit as usize];
                        if unit != BLANK && (frame == 0 || path[frame - 1] != unit) {
                            spelled.push(unit);
                        }
                    }
                    let sum = spellings.entry(spelled).or_insert(f64::NEG_INFINITY);
                    *sum = log_add(*sum, log);
                }
                let score = |spelled: &[u32], log: f64| {
                    let words = beam.words(spelled);
                    let of_word = |i: usize| {
                        0.3 + 1.5 * model.map_or(0.0, |model| model.score(&words[..i], &words[i]))
                    };
                    let end = 1.5 * model.map_or(0.0, |model| model.score(&words, "</s>"));
                    log + (1..words.len()).map(of_word).sum::<f64>() + end
                };
                let best = spellings
                    .iter()
                    .max_by(|a, b| score(a.0, *a.1).total_cmp(&score(b.0, *b.1)));
                assert_eq!(&beam.decode(&logits), best.unwrap().0, "seed {seed}");
            }
        }
    }
}
