//! Statistics of a data set: hours, speakers, labels, languages, lengths.
//!
//! The caller adds rows one by one, and only counts are stored, so a manifest of any size is
//! described in bounded memory: about 10 bytes per speaker and group, and a few thousand counters.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;
use serde::Serializer;
use tokenizers::Tokenizer;

use maqam_audio::SAMPLE_RATE;
use maqam_audio::num_audio_tokens;
use maqam_audio::num_frames;
use maqam_base::error::Error;

/// Most different values of a field that are counted separately.
const MOST_VALUES: usize = 10_000;

/// Name of the count of all further values.
pub const OTHERS: &str = "(others)";

/// Name of the count of rows without a value.
pub const NONE: &str = "(none)";

/// Properties of a row that are counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Length of the audio in seconds; `None` if the row does not state it.
    pub seconds: Option<f64>,
    /// Number of clips.
    pub num_clips: usize,
    /// The split.
    pub split: Option<&'a str>,
    /// The task.
    pub task: Option<&'a str>,
    /// The language.
    pub language: Option<&'a str>,
    /// The label.
    pub label: Option<&'a str>,
    /// The speaker.
    pub speaker: Option<&'a str>,
    /// The group.
    pub group: Option<&'a str>,
    /// The target: transcript, summary, label, target or answer.
    pub target: Option<&'a str>,
    /// True if the target is a transcript, whose letters are compared with the audio's length.
    pub is_transcript: bool,
    /// Tokens of the target, if they were counted.
    pub target_tokens: Option<usize>,
    /// Rules of Arabic spelling that the row states.
    pub normalisation: Option<&'a str>,
}

/// Rows and seconds of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Count {
    /// Number of rows.
    pub rows: u64,
    /// Seconds of audio.
    pub seconds: f64,
}

/// Counts by value.
#[derive(Clone, Debug, Default)]
struct Counts(BTreeMap<Box<str>, Count>);

impl Counts {
    fn add(&mut self, value: Option<&str>, seconds: f64) {
        let value = value.unwrap_or(NONE);
        let name = match self.0.contains_key(value) || self.0.len() < MOST_VALUES {
            true => value,
            false => OTHERS,
        };
        let count = match self.0.get_mut(name) {
            Some(count) => count,
            None => self.0.entry(name.into()).or_default(),
        };
        count.rows += 1;
        count.seconds += seconds;
    }

    fn merge(&mut self, other: Self) {
        for (name, more) in other.0 {
            let name = match self.0.contains_key(&name) || self.0.len() < MOST_VALUES {
                true => name,
                false => OTHERS.into(),
            };
            let count = self.0.entry(name).or_default();
            count.rows += more.rows;
            count.seconds += more.seconds;
        }
    }

    /// Counts from the most rows to the fewest.
    fn sorted(self) -> Vec<(String, Count)> {
        let mut counts: Vec<(String, Count)> = self
            .0
            .into_iter()
            .map(|(name, c)| (name.into(), c))
            .collect();
        counts.sort_by(|a, b| b.1.rows.cmp(&a.1.rows).then_with(|| a.0.cmp(&b.0)));
        counts
    }
}

/// Bins of a histogram: 64 per doubling, so that a quantile is accurate to 1.1 %.
const BINS_PER_DOUBLING: f64 = 64.0;

/// Smallest value with a bin of its own.
const LEAST: f64 = 1.0 / 1024.0;

/// Distribution of a quantity of zero or more.
#[derive(Clone, Debug, Default)]
struct Histogram {
    bins: Vec<u64>,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Histogram {
    fn add(&mut self, value: f64) {
        let bin = match value < LEAST {
            true => 0,
            false => 1 + ((value / LEAST).log2() * BINS_PER_DOUBLING) as usize,
        };
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += 1;
        self.min = if self.count == 0 {
            value
        } else {
            self.min.min(value)
        };
        self.max = self.max.max(value);
        self.count += 1;
        self.sum += value;
    }

    fn merge(&mut self, other: Self) {
        if other.count == 0 {
            return;
        }
        if self.bins.len() < other.bins.len() {
            self.bins.resize(other.bins.len(), 0);
        }
        for (bin, more) in self.bins.iter_mut().zip(other.bins) {
            *bin += more;
        }
        self.min = if self.count == 0 {
            other.min
        } else {
            self.min.min(other.min)
        };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum += other.sum;
    }

    /// Middle of the bin that the quantile falls into, within the range of the values.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut before = 0;
        for (bin, count) in self.bins.iter().enumerate() {
            before += count;
            if before >= wanted {
                let middle = match bin {
                    0 => 0.0,
                    bin => LEAST * ((bin as f64 - 0.5) / BINS_PER_DOUBLING).exp2(),
                };
                return middle.clamp(self.min, self.max);
            }
        }
        self.max
    }

    /// Number of values in each of the bins that `edges` bound: below the first, between them, from
    /// the last on.
    fn counts(&self, edges: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; edges.len() + 1];
        for (bin, count) in self.bins.iter().enumerate() {
            let from = match bin {
                0 => 0.0,
                bin => LEAST * ((bin as f64 - 0.5) / BINS_PER_DOUBLING).exp2(),
            };
            counts[edges.iter().take_while(|&&edge| edge <= from).count()] += count;
        }
        counts
    }

    fn summary(&self, edges: &[f64]) -> Option<Distribution> {
        (self.count > 0).then(|| Distribution {
            count: self.count,
            sum: self.sum,
            mean: self.sum / self.count as f64,
            min: self.min,
            p5: self.quantile(0.05),
            median: self.quantile(0.5),
            p95: self.quantile(0.95),
            max: self.max,
            edges: edges.to_vec(),
            counts: self.counts(edges),
        })
    }
}

/// A distribution. Quantiles are accurate to 1.1 %.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distribution {
    /// Number of values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Mean of the values.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// A twentieth of the values are less.
    pub p5: f64,
    /// Half of the values are less.
    pub median: f64,
    /// A twentieth of the values are greater.
    pub p95: f64,
    /// The greatest.
    pub max: f64,
    /// Bounds of the bins of the histogram.
    pub edges: Vec<f64>,
    /// Values below the first bound, between the bounds, and from the last on.
    pub counts: Vec<u64>,
}

/// Bounds of the histogram of seconds.
const SECOND_EDGES: [f64; 10] = [0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 300.0];

/// Bounds of histograms of tokens.
const TOKEN_EDGES: [f64; 10] = [
    16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0,
];

/// Bounds of the histogram of words.
const WORD_EDGES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Bounds of the histogram of characters.
const CHAR_EDGES: [f64; 10] = [
    4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
];

/// Bounds of the histogram of letters per second.
const RATE_EDGES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 30.0];

/// Counts of the rows that were added.
#[derive(Default)]
pub struct Description {
    rows: u64,
    clips: u64,
    rows_without_length: u64,
    rows_without_audio: u64,
    audio_tokens: u64,
    seconds: Histogram,
    tokens: Histogram,
    words: Histogram,
    characters: Histogram,
    rate: Histogram,
    target_tokens: Histogram,
    speakers: HashSet<u64>,
    groups: HashSet<u64>,
    splits: Counts,
    tasks: Counts,
    languages: Counts,
    labels: Counts,
    normalisations: Counts,
    /// Targets with vowel marks, tatweel, Eastern digits and Latin letters, in the order of
    /// [`SPELLINGS`].
    spellings: [u64; 4],
}

/// Names of spellings that are counted.
pub const SPELLINGS: [&str; 4] = ["diacritics", "tatweel", "eastern_digits", "latin_letters"];

impl Description {
    /// Adds a row.
    pub fn add(&mut self, facts: &Facts<'_>) {
        let seconds = facts.seconds.unwrap_or(0.0);
        self.rows += 1;
        self.clips += facts.num_clips as u64;
        match (facts.num_clips, facts.seconds) {
            (0, _) => self.rows_without_audio += 1,
            (_, None) => self.rows_without_length += 1,
            (_, Some(seconds)) => {
                let samples = (seconds * f64::from(SAMPLE_RATE)).round() as usize;
                let tokens = num_audio_tokens(num_frames(samples));
                self.audio_tokens += tokens as u64;
                self.seconds.add(seconds);
                self.tokens.add(tokens as f64);
            }
        }
        self.speakers.extend(facts.speaker.map(hash));
        self.groups.extend(facts.group.map(hash));
        self.splits.add(facts.split, seconds);
        self.tasks.add(facts.task, seconds);
        self.languages.add(facts.language, seconds);
        if facts.label.is_some() {
            self.labels.add(facts.label, seconds);
        }
        if facts.normalisation.is_some() {
            self.normalisations.add(facts.normalisation, seconds);
        }
        if let Some(tokens) = facts.target_tokens {
            self.target_tokens.add(tokens as f64);
        }
        if let Some(target) = facts.target {
            self.add_target(target, facts);
        }
    }

    fn add_target(&mut self, target: &str, facts: &Facts<'_>) {
        let mut seen = [false; 4];
        let mut num_letters = 0;
        let mut num_chars = 0;
        for c in target.chars() {
            num_chars += 1;
            let is_mark = crate::arabic::is_diacritic(c);
            num_letters += u64::from(c.is_alphabetic() && !is_mark);
            seen[0] |= is_mark;
            seen[1] |= c == 'ـ';
            seen[2] |= matches!(c, '٠'..='٩' | '۰'..='۹');
            seen[3] |= c.is_ascii_alphabetic();
        }
        for (count, seen) in self.spellings.iter_mut().zip(seen) {
            *count += u64::from(seen);
        }
        self.characters.add(f64::from(num_chars));
        self.words.add(target.split_whitespace().count() as f64);
        if let Some(seconds) = facts.seconds.filter(|&seconds| seconds > 0.0)
            && facts.is_transcript
            && num_letters > 0
        {
            self.rate.add(num_letters as f64 / seconds);
        }
    }

    /// Adds all that another description counts.
    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.clips += other.clips;
        self.rows_without_length += other.rows_without_length;
        self.rows_without_audio += other.rows_without_audio;
        self.audio_tokens += other.audio_tokens;
        self.seconds.merge(other.seconds);
        self.tokens.merge(other.tokens);
        self.words.merge(other.words);
        self.characters.merge(other.characters);
        self.rate.merge(other.rate);
        self.target_tokens.merge(other.target_tokens);
        // The smaller set moves into the larger.
        for (mine, theirs) in [
            (&mut self.speakers, other.speakers),
            (&mut self.groups, other.groups),
        ] {
            let (mut large, small) = match mine.len() < theirs.len() {
                true => (theirs, std::mem::take(mine)),
                false => (std::mem::take(mine), theirs),
            };
            large.extend(small);
            *mine = large;
        }
        self.splits.merge(other.splits);
        self.tasks.merge(other.tasks);
        self.languages.merge(other.languages);
        self.labels.merge(other.labels);
        self.normalisations.merge(other.normalisations);
        for (count, more) in self.spellings.iter_mut().zip(other.spellings) {
            *count += more;
        }
    }

    /// Returns the counts in the form for tables and files.
    pub fn finish(self) -> Stats {
        let seconds = self.seconds.sum;
        let is_counted = self.target_tokens.count > 0;
        let total_target_tokens = match is_counted {
            true => self.target_tokens.sum as u64,
            false => (self.characters.sum / CHARS_PER_TOKEN).round() as u64,
        };
        Stats {
            costs: costs(self.rows, seconds, self.audio_tokens + total_target_tokens),
            is_counted,
            total_target_tokens,
            target_tokens: self.target_tokens.summary(&TOKEN_EDGES),
            rows: self.rows,
            clips: self.clips,
            hours: seconds / 3600.0,
            rows_without_length: self.rows_without_length,
            rows_without_audio: self.rows_without_audio,
            speakers: self.speakers.len() as u64,
            groups: self.groups.len() as u64,
            splits: self.splits.sorted(),
            tasks: self.tasks.sorted(),
            languages: self.languages.sorted(),
            labels: self.labels.sorted(),
            normalisations: self.normalisations.sorted(),
            spellings: SPELLINGS.into_iter().zip(self.spellings).collect(),
            seconds: self.seconds.summary(&SECOND_EDGES),
            audio_tokens: self.tokens.summary(&TOKEN_EDGES),
            target_words: self.words.summary(&WORD_EDGES),
            target_characters: self.characters.summary(&CHAR_EDGES),
            letters_per_second: self.rate.summary(&RATE_EDGES),
            total_audio_tokens: self.audio_tokens,
        }
    }
}

fn hash(text: &str) -> u64 {
    crate::near_duplicates::key_of(text.as_bytes()) as u64
}

/// A data set in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// Rows.
    pub rows: u64,
    /// Clips of all rows.
    pub clips: u64,
    /// Hours of audio with a known length.
    pub hours: f64,
    /// Number of rows with audio of unknown length.
    pub rows_without_length: u64,
    /// Rows without audio.
    pub rows_without_audio: u64,
    /// Different speakers.
    pub speakers: u64,
    /// Different groups.
    pub groups: u64,
    /// Rows by split, from the most to the fewest; so are the lists that follow.
    #[serde(serialize_with = "as_map")]
    pub splits: Vec<(String, Count)>,
    /// Rows by task.
    #[serde(serialize_with = "as_map")]
    pub tasks: Vec<(String, Count)>,
    /// Rows by language.
    #[serde(serialize_with = "as_map")]
    pub languages: Vec<(String, Count)>,
    /// Rows by label, of those that have one.
    #[serde(serialize_with = "as_map")]
    pub labels: Vec<(String, Count)>,
    /// Rows by the rules of Arabic spelling that they state, of those that do.
    #[serde(serialize_with = "as_map")]
    pub normalisations: Vec<(String, Count)>,
    /// Targets that hold vowel marks, tatweel, Eastern Arabic digits or Latin letters.
    #[serde(serialize_with = "as_map")]
    pub spellings: Vec<(&'static str, u64)>,
    /// Lengths in seconds.
    pub seconds: Option<Distribution>,
    /// Audio tokens of a row, 25 per second.
    pub audio_tokens: Option<Distribution>,
    /// Words of a target.
    pub target_words: Option<Distribution>,
    /// Characters of a target.
    pub target_characters: Option<Distribution>,
    /// Tokens of a target, if they were counted.
    pub target_tokens: Option<Distribution>,
    /// Letters of a target per second of audio.
    pub letters_per_second: Option<Distribution>,
    /// Audio tokens of all rows.
    pub total_audio_tokens: u64,
    /// Tokens of all targets: counted with a tokenizer, else estimated from their characters.
    pub total_target_tokens: u64,
    /// True if target tokens were counted.
    pub is_counted: bool,
    /// Estimated cost of one epoch of adapters for a model of each size.
    pub costs: Vec<Cost>,
}

/// Estimated cost of one epoch of training adapters on frozen weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// The model.
    pub model: &'static str,
    /// Tokens of the decoder.
    pub decoder_tokens: u64,
    /// Floating-point operations, in 10^15.
    pub petaflop: f64,
    /// Hours of one GPU that reaches [`GPU_FLOP_PER_S`].
    pub gpu_hours: f64,
}

/// Models by name and parameters of their decoders.
const MODELS: [(&str, f64); 2] = [("Qwen2.5-Omni-3B", 3.1e9), ("Qwen2.5-Omni-7B", 7.1e9)];

/// Operations per parameter and token with frozen weights: two forward, two backward through what
/// the adapters need.
const FLOP_PER_WEIGHT: f64 = 4.0;

/// Parameters of the audio encoder of both models, and its frames per second.
const ENCODER: (f64, f64) = (0.64e9, 50.0);

/// Characters of a target per token, of Arabic news without vowel marks under Qwen's tokenizer.
/// With vowel marks it is 1.2.
const CHARS_PER_TOKEN: f64 = 2.7;

/// Tokens of a row in addition to audio and target: chat template and instruction.
const PROMPT_TOKENS: u64 = 40;

/// Speed of a GPU that the hours are for: 40 % of the 989 TFLOP/s that an H100 or H200 has in bf16.
pub const GPU_FLOP_PER_S: f64 = 0.4 * 989e12;

fn costs(rows: u64, seconds: f64, tokens: u64) -> Vec<Cost> {
    let decoder_tokens = tokens + rows * PROMPT_TOKENS;
    let cost = |(model, weights): (&'static str, f64)| {
        let (encoder, frames) = ENCODER;
        let flop =
            FLOP_PER_WEIGHT * weights * decoder_tokens as f64 + 2.0 * encoder * frames * seconds;
        Cost {
            model,
            decoder_tokens,
            petaflop: flop / 1e15,
            gpu_hours: flop / GPU_FLOP_PER_S / 3600.0,
        }
    };
    MODELS.map(cost).to_vec()
}

/// A tokenizer that counts the tokens of targets.
pub struct TokenCounter(Tokenizer);

impl TokenCounter {
    /// Opens a `tokenizer.json`, or that of a checkpoint's folder.
    ///
    /// # Errors
    /// A file that cannot be read or is no tokenizer.
    pub fn open(path: &Path) -> maqam_base::error::Result<Self> {
        let file = match path.is_dir() {
            true => path.join("tokenizer.json"),
            false => path.to_owned(),
        };
        let text = maqam_base::files::read_text(&file)?;
        let tokenizer = text.parse::<Tokenizer>().map_err(|e| {
            Error::input(format!("is no tokenizer: {e}"))
                .caused_by(e)
                .at_path(&file)
                .hint("name a tokenizer.json, or a checkpoint's folder with one")
        })?;
        Ok(Self(tokenizer))
    }

    /// Number of tokens of a text, without special ones.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn count(&self, text: &str) -> maqam_base::error::Result<usize> {
        let encoding = self.0.encode_fast(text, false).map_err(Error::input)?;
        Ok(encoding.get_ids().len())
    }
}

/// Writes pairs as an object, in their order.
fn as_map<N: AsRef<str>, V: Serialize, S: Serializer>(
    pairs: &[(N, V)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name.as_ref(), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(i: u64) -> Facts<'static> {
        Facts {
            seconds: Some(1.0 + i as f64 / 100.0),
            num_clips: 1,
            speaker: Some(["a", "b", "c"][i as usize % 3]),
            label: i.is_multiple_of(2).then_some("even"),
            target: Some(["قَالَ", "twenty ٢٠", "three short words"][i as usize % 3]),
            ..Facts::default()
        }
    }

    fn described(range: std::ops::Range<u64>) -> Description {
        let mut description = Description::default();
        range.for_each(|i| description.add(&facts(i)));
        description
    }

    #[test]
    fn counts_and_quantiles() {
        let stats = described(0..1_000).finish();
        assert_eq!((stats.rows, stats.clips, stats.speakers), (1_000, 1_000, 3));
        assert_eq!(stats.labels[0].0, "even");
        assert_eq!(stats.labels[0].1.rows, 500);
        // Seconds 1.00 to 10.99, evenly: sum 5995, median 6.0, ends 1.5 and 10.5.
        let seconds = stats.seconds.unwrap();
        assert!((stats.hours - 5995.0 / 3600.0).abs() < 1e-9);
        for (found, expected) in [
            (seconds.p5, 1.5),
            (seconds.median, 6.0),
            (seconds.p95, 10.5),
        ] {
            assert!(
                (found / expected - 1.0).abs() < 0.013,
                "{found} for {expected}"
            );
        }
        assert_eq!((seconds.min, seconds.max), (1.0, 10.99));
        // Bins from 1, 2, 3, 5 and 8 s on; each may be off by the width of a fine bin.
        let expected = [0, 0, 100, 100, 200, 300, 299, 0, 0, 0, 0];
        for (found, expected) in seconds.counts.iter().zip(expected) {
            assert!(found.abs_diff(expected) <= 10, "{:?}", seconds.counts);
        }
        assert_eq!(seconds.counts.iter().sum::<u64>(), 1_000);
        assert_eq!(
            stats.spellings,
            [
                ("diacritics", 334),
                ("tatweel", 0),
                ("eastern_digits", 333),
                ("latin_letters", 666)
            ]
        );
    }

    #[test]
    fn costs_by_hand() {
        // 1,000 rows of 10 s: 250 audio tokens, 27 characters or 10 tokens, and 40 more: 300,000
        // tokens. 4 x 7.1e9 x 3e5 = 8.52e15, and the encoder 2 x 0.64e9 x 50 x 1e4 = 0.64e15.
        let mut description = Description::default();
        for _ in 0..1_000 {
            description.add(&Facts {
                seconds: Some(10.0),
                num_clips: 1,
                target: Some("abcdefghijklmnopqrstuvwxyza"),
                ..Facts::default()
            });
        }
        let stats = description.finish();
        assert_eq!(
            (stats.total_audio_tokens, stats.total_target_tokens),
            (250_000, 10_000)
        );
        let cost = &stats.costs[1];
        assert_eq!(cost.decoder_tokens, 300_000);
        assert!((cost.petaflop - 9.16).abs() < 1e-9, "{}", cost.petaflop);
        assert!((cost.gpu_hours - 9.16e15 / 395.6e12 / 3600.0).abs() < 1e-9);
    }

    #[test]
    fn parts_add_up() {
        let whole = described(0..500).finish();
        let mut parts = described(0..123);
        parts.merge(described(123..500));
        let parts = parts.finish();
        assert_eq!(
            parts.seconds.as_ref().unwrap().counts,
            whole.seconds.as_ref().unwrap().counts
        );
        assert_eq!(parts.labels, whole.labels);
        assert_eq!(
            (parts.speakers, parts.total_audio_tokens),
            (whole.speakers, whole.total_audio_tokens)
        );
    }

    #[test]
    fn many_values_are_counted_together() {
        let mut description = Description::default();
        for i in 0..MOST_VALUES + 50 {
            let label = format!("{i}");
            description.add(&Facts {
                label: Some(&label),
                ..Facts::default()
            });
        }
        let stats = description.finish();
        let others = stats
            .labels
            .iter()
            .find(|(name, _)| name == OTHERS)
            .unwrap();
        assert_eq!(others.1.rows, 50);
        assert_eq!(stats.rows_without_audio, (MOST_VALUES + 50) as u64);
    }
}
