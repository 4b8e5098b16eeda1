//! Counts and measures of a published data set, for its dataset card and its page.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::build::assign::Prepared;
use crate::build::assign::SPLITS;
use crate::build::document::Step;
use crate::build::publish::row::Published;
use crate::build::recipe::Recipe;
use crate::build::store::Journal;
use crate::build::store::Store;
use crate::build::verify;
use crate::data::plain;
use crate::data::repeats::words;
use crate::error::Result;
use crate::seed::Key;

/// Licence of rows that state none.
pub(super) const NOT_STATED: &str = "not stated";

/// Measures of the rows of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Measures {
    pub(super) num: usize,
    pub(super) seconds: f64,
    pub(super) num_words: usize,
    pub(super) num_summary_words: usize,
}

/// One row of `review.html`.
#[derive(Clone, Debug)]
pub(super) struct Reviewed {
    pub(super) draw: u64,
    pub(super) id: String,
    pub(super) audio: String,
    pub(super) text: String,
    pub(super) summaries: Vec<String>,
    pub(super) voice: String,
    pub(super) split: &'static str,
    pub(super) duration_s: f64,
}

/// Copied spans and compression of a set of summaries.
#[derive(Clone, Debug)]
pub(super) struct Copying {
    pub(super) name: String,
    pub(super) num: usize,
    pub(super) compression: f64,
    pub(super) copied: f64,
    pub(super) shared: f64,
}

/// Statistics of the rows for the dataset card and the page.
pub(super) struct Statistics {
    pub(super) splits: BTreeMap<&'static str, Measures>,
    pub(super) voices: BTreeMap<String, BTreeMap<&'static str, Measures>>,
    pub(super) durations: Vec<f64>,
    pub(super) compressions: Vec<f64>,
    pub(super) rates: Vec<f64>,
    pub(super) loudness: Vec<f64>,
    /// Character error rates, those of rejected rows included.
    pub(super) cers: Vec<f64>,
    /// Lowest grade of the judge of each row.
    pub(super) grades: Vec<f64>,
    /// Rows by the number of texts that were compared by their likelihood.
    pub(super) compared_texts: BTreeMap<usize, usize>,
    /// Rows by the name and version of the speech engine.
    pub(super) engines: BTreeMap<String, usize>,
    pub(super) num_warnings: BTreeMap<String, usize>,
    pub(super) licences: BTreeMap<String, usize>,
    pub(super) own: Copying,
    pub(super) compared: Vec<Copying>,
    /// Real recordings in each split, if a manifest was named.
    pub(super) real: Option<BTreeMap<String, usize>>,
    pub(super) num_collected: usize,
    pub(super) rejections: BTreeMap<(Step, String), usize>,
    pub(super) review: Vec<Reviewed>,
    num_reviewed: usize,
    draws: Key,
}

impl Statistics {
    /// Empty statistics, with the files that the recipe compares.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn new(recipe: &Recipe) -> Result<Self> {
        let mut compared = Vec::new();
        for other in &recipe.publish.compare {
            let mut copying = Copying::named(&other.file.display().to_string());
            plain::each(&other.file, |_, fields| {
                let text = |name: &String| fields.get(name).and_then(Value::as_str);
                if let (Some(text), Some(summary)) = (text(&other.text), text(&other.summary)) {
                    copying.add(&verify::measured(&words(text), &words(summary)));
                }
                Ok(())
            })?;
            compared.push(copying.mean());
        }
        let real = match &recipe.publish.real {
            None => None,
            Some(path) => {
                let mut counts = BTreeMap::new();
                plain::each(path, |_, fields| {
                    let split = fields.get("split").and_then(Value::as_str).unwrap_or("?");
                    *counts.entry(split.to_owned()).or_insert(0) += 1;
                    Ok(())
                })?;
                Some(counts)
            }
        };
        Ok(Self {
            splits: BTreeMap::new(),
            voices: BTreeMap::new(),
            durations: Vec::new(),
            compressions: Vec::new(),
            rates: Vec::new(),
            loudness: Vec::new(),
            cers: Vec::new(),
            grades: Vec::new(),
            compared_texts: BTreeMap::new(),
            engines: BTreeMap::new(),
            num_warnings: BTreeMap::new(),
            licences: BTreeMap::new(),
            own: Copying::named("this set"),
            compared,
            real,
            num_collected: 0,
            rejections: BTreeMap::new(),
            review: Vec::new(),
            num_reviewed: recipe.publish.review_rows,
            draws: Key::new(recipe.seed, "build review"),
        })
    }

    /// Adds a published row.
    pub(super) fn add(&mut self, row: &Published) {
        let num_words = |text: &str| text.split_whitespace().count();
        let summary = row.summarised.summaries.first().map_or("", String::as_str);
        let by_voice = self.voices.entry(row.spoken.voice.clone()).or_default();
        for measures in [
            self.splits.entry(row.split).or_default(),
            by_voice.entry(row.split).or_default(),
        ] {
            measures.num += 1;
            measures.seconds += row.spoken.duration_s;
            measures.num_words += num_words(&row.summarised.text);
            measures.num_summary_words += num_words(summary);
        }
        self.durations.push(row.spoken.duration_s);
        self.compressions.push(row.verified.compression);
        self.rates.push(row.listened.chars_per_s);
        self.loudness.extend(row.spoken.loudness_lufs);
        self.cers.extend(row.listened.cer);
        self.grades.extend(row.verified.grade);
        if let Some(num) = row.listened.num_compared {
            *self.compared_texts.entry(num).or_insert(0) += 1;
        }
        let engine = row.spoken.engine.as_str().unwrap_or_default().to_owned();
        *self.engines.entry(engine).or_insert(0) += 1;
        self.own.add(&row.verified);
        for warning in &row.verified.warnings {
            let reason = warning.split(':').next().unwrap_or_default().to_owned();
            *self.num_warnings.entry(reason).or_insert(0) += 1;
        }
        let licence = row
            .document
            .licence
            .clone()
            .unwrap_or(NOT_STATED.to_owned());
        *self.licences.entry(licence).or_insert(0) += 1;
        self.review(row);
    }

    /// Keeps the rows with the smallest draws, which are a sample of all in any order.
    fn review(&mut self, row: &Published) {
        let draw = self.draws.with_name(&row.document.id).bits(0);
        if self.review.len() == self.num_reviewed
            && self.review.last().is_none_or(|last| draw > last.draw)
        {
            return;
        }
        let place = self.review.partition_point(|other| other.draw < draw);
        let reviewed = Reviewed {
            draw,
            id: row.document.id.clone(),
            audio: row.audio.clone(),
            text: row.summarised.text.clone(),
            summaries: row.summarised.summaries.clone(),
            voice: row.spoken.voice.clone(),
            split: row.split,
            duration_s: row.spoken.duration_s,
        };
        self.review.insert(place, reviewed);
        self.review.truncate(self.num_reviewed);
    }

    /// Counts rejections by step and reason, and adds the character error rates of rejected rows.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn count_rejections(
        &mut self,
        prepared: &Prepared,
        store: &Store,
        journals: &[Journal],
    ) -> Result<()> {
        self.num_collected = prepared.rows.len();
        for (row, place) in prepared.rows.iter().enumerate() {
            if place.rejected.is_some() {
                if let Some(found) = prepared.document(store, row)?.rejected {
                    *self
                        .rejections
                        .entry((found.step, found.reason))
                        .or_insert(0) += 1;
                }
                continue;
            }
            for (step, journal) in Step::ROW_BY_ROW.into_iter().zip(journals) {
                if let Some(found) = journal.rejected(row)? {
                    self.cers.extend(found.cer);
                    *self.rejections.entry((step, found.reason)).or_insert(0) += 1;
                }
            }
        }
        Ok(())
    }

    /// Rows that are published.
    pub(super) fn num_published(&self) -> usize {
        self.splits.values().map(|measures| measures.num).sum()
    }

    /// Seconds that are published.
    pub(super) fn seconds(&self) -> f64 {
        self.splits.values().map(|measures| measures.seconds).sum()
    }

    /// Means of copied spans and compression, this set first.
    pub(super) fn copying(&self) -> Vec<Copying> {
        std::iter::once(self.own.clone().mean())
            .chain(self.compared.iter().cloned())
            .collect()
    }

    /// Returns whether a voice occurs in two splits.
    pub(super) fn voices_overlap(&self) -> bool {
        self.voices.values().any(|splits| splits.len() > 1)
    }

    /// Splits in the order of files.
    pub(super) fn splits(&self) -> impl Iterator<Item = (&'static str, &Measures)> {
        SPLITS
            .into_iter()
            .filter_map(|name| Some((name, self.splits.get(name)?)))
    }
}

impl Copying {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            num: 0,
            compression: 0.0,
            copied: 0.0,
            shared: 0.0,
        }
    }

    fn add(&mut self, row: &verify::Verified) {
        self.num += 1;
        self.compression += row.compression;
        self.copied += row.copied;
        self.shared += row.shared;
    }

    fn mean(mut self) -> Self {
        let num = self.num.max(1) as f64;
        self.compression /= num;
        self.copied /= num;
        self.shared /= num;
        self
    }
}

/// Value at a quantile.
pub(super) fn quantile(numbers: &[f64], share: f64) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = (sorted.len().checked_sub(1)? as f64 * share).round() as usize;
    sorted.get(place).copied()
}
