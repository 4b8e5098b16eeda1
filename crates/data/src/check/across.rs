//! Faults between rows: duplicates inside a split, and what splits share.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::Role;
use crate::Row;
use crate::check::clips::Heard;
use crate::check::clips::SILENT_PEAK;
use crate::check::finding::Finding;
use crate::check::finding::FindingKind;
use crate::check::finding::Placed;
use crate::check::finding::Sink;
use crate::near_duplicates::Runs;
use crate::near_duplicates::Sketches;
use crate::near_duplicates::comparable;
use crate::near_duplicates::key_of;
use maqam_base::error::Result;
use maqam_base::files::Spill;
use maqam_base::files::SpilledTexts;

/// Fewest words of a text that two rows are compared by: shorter ones, such as commands, are the
/// same by chance.
const TELLING_WORDS: usize = 5;

/// Runs of eight words that are held in memory at once.
const RUNS_AT_ONCE: usize = 1 << 23;

/// Texts that are read at once.
const TEXTS_AT_ONCE: usize = 1 << 12;

/// Bytes of texts that are read at once.
const TEXT_BYTES_AT_ONCE: u64 = 8 << 20;

/// No text.
const NONE: u32 = u32::MAX;

/// Properties of a row's text that are compared, computed in parallel.
pub struct TextFacts(Option<Telling>);

struct Telling {
    key: u64,
    /// The text in the form that is compared.
    text: String,
    sketch: Option<Box<[u32]>>,
}

/// Part of a file that a row uses, in seconds.
#[derive(Clone, Copy)]
struct UsedSpan {
    file: u64,
    start_s: f32,
    end_s: f32,
    row: u32,
}

/// A value that several rows may share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Value {
    hash: u64,
    row: u32,
}

/// Numbers of rows, on disk: a hash of 8 bytes, and others of 4 bytes each.
struct Records<const N: usize>(Spill);

impl<const N: usize> Records<N> {
    fn new(folder: &Path) -> Self {
        Self(Spill::new(Some(folder)))
    }

    fn push(&mut self, hash: u64, others: [u32; N]) -> Result<()> {
        self.0.append(&hash.to_le_bytes())?;
        for other in others {
            self.0.append(&other.to_le_bytes())?;
        }
        Ok(())
    }
}

impl Records<1> {
    fn values(&self) -> Result<Vec<Value>> {
        self.0.records(|bytes: [u8; 12]| Value {
            hash: hash_at(&bytes),
            row: number_at(&bytes, 0),
        })
    }
}

impl Records<3> {
    fn parts(&self) -> Result<Vec<UsedSpan>> {
        self.0.records(|bytes: [u8; 20]| UsedSpan {
            file: hash_at(&bytes),
            start_s: f32::from_bits(number_at(&bytes, 0)),
            end_s: f32::from_bits(number_at(&bytes, 1)),
            row: number_at(&bytes, 2),
        })
    }
}

fn hash_at(record: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[..8]);
    u64::from_le_bytes(bytes)
}

fn number_at(record: &[u8], position: usize) -> u32 {
    let start = 8 + 4 * position;
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[start..start + 4]);
    u32::from_le_bytes(bytes)
}

/// Rows in the form that is compared: 10 bytes each in memory, the rest on disk.
pub struct Across {
    files: Vec<Arc<Path>>,
    splits: Vec<Arc<str>>,
    file_of: Vec<u16>,
    split_of: Vec<u16>,
    lines: Vec<u32>,
    tasks: Vec<Arc<str>>,
    tasks_of: Vec<u16>,
    ids: SpilledTexts,
    hashes_of_ids: Records<1>,
    speakers: Records<1>,
    groups: Records<1>,
    audio: Records<1>,
    parts: Records<3>,
    /// Hash and row of every telling text.
    texts_of_rows: Records<1>,
    /// Every telling text.
    texts: SpilledTexts,
    sketches: Sketches,
}

impl Across {
    /// Nothing yet. Texts are near-duplicates from a Jaccard index of `similarity`. Temporary files
    /// go to `folder`.
    pub fn new(similarity: f64, folder: &Path) -> Self {
        Self {
            files: Vec::new(),
            splits: Vec::new(),
            file_of: Vec::new(),
            split_of: Vec::new(),
            lines: Vec::new(),
            tasks: Vec::new(),
            tasks_of: Vec::new(),
            ids: SpilledTexts::new(Some(folder)),
            hashes_of_ids: Records::new(folder),
            speakers: Records::new(folder),
            groups: Records::new(folder),
            audio: Records::new(folder),
            parts: Records::new(folder),
            texts_of_rows: Records::new(folder),
            texts: SpilledTexts::new(Some(folder)),
            sketches: Sketches::new(similarity, Some(folder)),
        }
    }

    /// Returns the properties of a row's text that are compared.
    pub fn text_facts(&self, row: &Row) -> TextFacts {
        let text = text_of(row).map(comparable);
        let telling = text.filter(|text| text.split(' ').nth(TELLING_WORDS - 1).is_some());
        TextFacts(telling.map(|text| Telling {
            key: hash(&text),
            sketch: self.sketches.sketch(&text),
            text,
        }))
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The disk's.
    pub fn add(&mut self, placed: &Placed, heard: &[Heard], text: TextFacts) -> Result<()> {
        let row = self.lines.len() as u32;
        let split = placed.row.split.as_ref().unwrap_or(&placed.split);
        self.file_of.push(position(&mut self.files, &placed.file));
        self.split_of.push(position(&mut self.splits, split));
        self.lines.push(placed.line);
        let task = placed.row.task.clone().unwrap_or_default();
        self.tasks_of.push(position(&mut self.tasks, &task));
        // A row without an id is called after its line.
        let id = Some(&*placed.row.id).filter(|id| *id != placed.row.line.to_string());
        self.ids.push(id.unwrap_or_default())?;
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            self.hashes_of_ids.push(hash(id), [row])?;
        }
        if let Some(speaker) = &placed.row.speaker {
            self.speakers.push(hash(speaker), [row])?;
        }
        if let Some(group) = &placed.row.group {
            self.groups.push(hash(group), [row])?;
        }

        for (clip, heard) in placed.row.clips.iter().zip(heard) {
            let Ok(facts) = &heard.found else { continue };
            // Silent clips are equal, and have a finding of their own.
            if let Some(decoded) = &facts.decoded
                && decoded.peak >= SILENT_PEAK
            {
                let [a, b] = [0, 8].map(|at| {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(&decoded.content[at..at + 8]);
                    u64::from_le_bytes(bytes)
                });
                self.audio.push(a ^ b, [row])?;
            }
            if let Some((path, range)) = clip.source.file() {
                let start_s = clip.span.start_s.unwrap_or(0.0);
                // A part of another channel is other audio.
                let file = format!("{:?} {range:?} {}", clip.span.channel, path.display());
                let seconds = [start_s, start_s + facts.duration_s];
                let [start, end] = seconds.map(|seconds| (seconds as f32).to_bits());
                self.parts.push(hash(&file), [start, end, row])?;
            }
        }
        if let TextFacts(Some(telling)) = text {
            self.texts_of_rows.push(telling.key, [row])?;
            self.texts.push(&telling.text)?;
            self.sketches.push(telling.sketch)?;
        }
        Ok(())
    }

    /// Compares all rows.
    ///
    /// # Errors
    /// Those of `found`.
    pub fn finish(self, found: Sink<'_>) -> Result<()> {
        let training = self.training();
        self.ids_of_rows(training, found)?;
        self.recordings(training, found)?;
        let speakers = self.speakers.values()?;
        self.leaks(
            FindingKind::LeakedSpeaker,
            "speaker",
            speakers,
            training,
            found,
        )?;
        let groups = self.groups.values()?;
        self.leaks(FindingKind::LeakedGroup, "group", groups, training, found)?;
        self.texts_of(training, found)
    }

    /// The split that others are compared with: the one called `train`, else the largest.
    fn training(&self) -> u16 {
        if let Some(named) = self.splits.iter().position(|split| &**split == "train") {
            return named as u16;
        }
        let mut sizes = vec![0; self.splits.len()];
        for split in &self.split_of {
            sizes[usize::from(*split)] += 1;
        }
        let largest = (0..sizes.len()).rev().max_by_key(|&split| sizes[split]);
        largest.unwrap_or(0) as u16
    }

    /// Rank of a row's split in the order in which findings name the later row.
    fn rank(&self, row: u32, training: u16) -> u16 {
        match self.split_of[row as usize] {
            split if split == training => 0,
            split => split + 1,
        }
    }

    fn finding(&self, kind: FindingKind, row: u32, message: String) -> Result<Finding> {
        let line = self.lines[row as usize];
        let id = self.ids.get(row as usize)?;
        Ok(Finding {
            kind,
            file: self.file(row).clone(),
            line,
            id: match id.is_empty() {
                true => line.to_string().into(),
                false => id.into(),
            },
            message,
        })
    }

    fn file(&self, row: u32) -> &Arc<Path> {
        &self.files[usize::from(self.file_of[row as usize])]
    }

    fn split(&self, row: u32) -> &str {
        &self.splits[usize::from(self.split_of[row as usize])]
    }

    /// A row as a message names it.
    fn name(&self, row: u32) -> String {
        format!("{}:{}", self.file(row).display(), self.lines[row as usize])
    }

    /// Ids that were used before, in one split or in several.
    fn ids_of_rows(&self, training: u16, found: Sink<'_>) -> Result<()> {
        let rank = |row: u32| self.rank(row, training);
        let mut hashes = self.hashes_of_ids.values()?;
        hashes.par_sort_unstable_by_key(|value| (value.hash, rank(value.row), value.row));
        let mut named = Vec::new();
        for same in hashes.chunk_by(|a, b| a.hash == b.hash) {
            if same.len() == 1 {
                continue;
            }
            // Different ids may have one hash.
            let mut firsts: Vec<(String, u32)> = Vec::new();
            for &Value { row, .. } in same {
                let id = self.ids.get(row as usize)?;
                let Some((_, first)) = firsts.iter().find(|(known, _)| *known == id) else {
                    firsts.push((id, row));
                    continue;
                };
                let kind = match rank(row) == rank(*first) {
                    true => FindingKind::DuplicateId,
                    false => FindingKind::LeakedId,
                };
                named.push((row, *first, kind));
            }
        }
        drop(hashes);
        named.sort_unstable_by_key(|(row, ..)| *row);
        for (row, first, kind) in named {
            let id = self.ids.get(row as usize)?;
            let message = format!("id `{id}` was used before, in {}", self.name(first));
            found(self.finding(kind, row, message)?)?;
        }
        Ok(())
    }

    /// Finds repeated audio: equal samples, or overlapping parts of one file.
    fn recordings(&self, training: u16, found: Sink<'_>) -> Result<()> {
        let rank = |row: u32| self.rank(row, training);
        // Row, the earlier one, how they overlap.
        let mut named: Vec<(u32, u32, String)> = Vec::new();

        let mut audio = self.audio.values()?;
        audio.par_sort_unstable_by_key(|value| (value.hash, rank(value.row), value.row));
        for same in audio.chunk_by(|a, b| a.hash == b.hash) {
            let mut first_of_kind: HashMap<(u16, u16), u32> = HashMap::new();
            for value in same {
                let row = value.row;
                let first = same[0].row;
                let of_task = *first_of_kind
                    .entry((rank(row), self.tasks_of[row as usize]))
                    .or_insert(row);
                if rank(row) != rank(first) {
                    named.push((row, first, "the same audio as".to_owned()));
                } else if of_task != row {
                    named.push((row, of_task, "the same audio as".to_owned()));
                }
            }
        }

        drop(audio);

        let mut parts = self.parts.parts()?;
        parts.par_sort_unstable_by(|a, b| {
            let key = |part: &UsedSpan| (part.file, part.start_s.to_bits(), part.row);
            key(a).cmp(&key(b))
        });
        for of_file in parts.chunk_by(|a, b| a.file == b.file) {
            // Of each split and task the part that reaches furthest so far is the one to overlap
            // with.
            let mut furthest: HashMap<(u16, u16), UsedSpan> = HashMap::new();
            for part in of_file {
                let kind = (rank(part.row), self.tasks_of[part.row as usize]);
                for (other, before) in &furthest {
                    let overlap_s = before.end_s.min(part.end_s) - part.start_s;
                    // Other tasks of one split may use the same audio.
                    let is_meant = other.0 == kind.0 && other.1 != kind.1;
                    if overlap_s <= 1e-3 || is_meant || before.row == part.row {
                        continue;
                    }
                    let order = |row: u32| (rank(row), row);
                    let (first, later) = match order(before.row) < order(part.row) {
                        true => (before.row, part.row),
                        false => (part.row, before.row),
                    };
                    let what = format!("{overlap_s:.2} s of the same recording as");
                    named.push((later, first, what));
                }
                let longest = furthest.entry(kind).or_insert(*part);
                if part.end_s > longest.end_s {
                    *longest = *part;
                }
            }
        }

        drop(parts);

        // A finding with another split takes precedence over one with the same split.
        named.sort_by(|a, b| {
            let key =
                |(row, first, _): &(u32, u32, String)| (*row, rank(*first) == rank(*row), *first);
            key(a).cmp(&key(b)).then_with(|| a.2.cmp(&b.2))
        });
        named.dedup_by_key(|(row, ..)| *row);
        for (row, first, what) in named {
            let (kind, of_split) = match rank(row) == rank(first) {
                true => (FindingKind::DuplicateAudio, String::new()),
                false => (
                    FindingKind::LeakedAudio,
                    format!(" of `{}`", self.split(first)),
                ),
            };
            let message = format!("{what} {}{of_split}", self.name(first));
            found(self.finding(kind, row, message)?)?;
        }
        Ok(())
    }

    /// Values that rows of several splits have.
    fn leaks(
        &self,
        kind: FindingKind,
        what: &str,
        mut values: Vec<Value>,
        training: u16,
        found: Sink<'_>,
    ) -> Result<()> {
        let rank = |row: u32| self.rank(row, training);
        values.par_sort_unstable_by_key(|value| (value.hash, rank(value.row), value.row));
        let mut named = Vec::new();
        for same in values.chunk_by(|a, b| a.hash == b.hash) {
            let first = same[0].row;
            let others = same.iter().filter(|value| rank(value.row) != rank(first));
            named.extend(others.map(|value| (value.row, first)));
        }
        named.sort_unstable();
        for (row, first) in named {
            let message = format!(
                "its {what} is also in `{}`: {}",
                self.split(first),
                self.name(first)
            );
            found(self.finding(kind, row, message)?)?;
        }
        Ok(())
    }

    /// Texts that are equal, almost equal, or share eight words with one of the training's.
    fn texts_of(&self, training: u16, found: Sink<'_>) -> Result<()> {
        let values = self.texts_of_rows.values()?;
        self.leaks(FindingKind::LeakedText, "text", values, training, found)?;

        let texts = Equal::of(self.texts_of_rows.values()?);
        let similar = self.sketches.near_duplicates(
            |at| texts.is_first(at as usize),
            |at| Ok(self.texts.get(at as usize)?.into()),
        )?;
        let mut similar = similar.into_iter().peekable();
        for at in 0..texts.rows.len() {
            let row = texts.rows[at];
            let first = texts.rows[texts.firsts[at] as usize];
            let (of, similarity) = match similar.next_if(|pair| pair.index == at) {
                Some(pair) => (texts.rows[pair.of], pair.similarity),
                None if first != row && self.split(first) == self.split(row) => (first, 1.0),
                None => continue,
            };
            let message = match similarity {
                1.0 => format!("the same text as {}", self.name(of)),
                share => format!(
                    "{:.0} % of the text is that of {}",
                    100.0 * share,
                    self.name(of)
                ),
            };
            found(self.finding(FindingKind::NearDuplicateText, row, message)?)?;
        }
        self.runs(&texts, training, found)
    }

    /// Texts of other splits that share eight words in a row with one of the training's.
    fn runs(&self, texts: &Equal, training: u16, found: Sink<'_>) -> Result<()> {
        let is_training = |at: usize| self.split_of[texts.rows[at] as usize] == training;
        // Equal whole texts have a finding already.
        let mut trained_on = vec![NONE; texts.rows.len()];
        for at in (0..texts.rows.len()).rev().filter(|&at| is_training(at)) {
            trained_on[texts.firsts[at] as usize] = at as u32;
        }
        let is_evaluated =
            |at: usize| !is_training(at) && trained_on[texts.firsts[at] as usize] == NONE;
        let is_trained = |at: usize| trained_on[texts.firsts[at] as usize] == at as u32;

        // As many texts at once as have a number of runs that fits into memory.
        let mut start = 0;
        while start < texts.rows.len() {
            let mut runs = Runs::default();
            let mut end = start;
            while end < texts.rows.len() && runs.len() < RUNS_AT_ONCE {
                for text in self.batch(end)? {
                    if is_evaluated(end) {
                        runs.add(&text);
                    }
                    end += 1;
                }
            }
            if !runs.is_empty() {
                self.find_runs(&mut runs, texts, is_trained)?;
                self.report_runs(&runs, texts, start..end, is_evaluated, found)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Finds the first text of the training for every run.
    fn find_runs(
        &self,
        runs: &mut Runs,
        texts: &Equal,
        is_trained: impl Fn(usize) -> bool + Sync,
    ) -> Result<()> {
        let mut at = 0;
        while at < texts.rows.len() {
            let batch = self.batch(at)?;
            let shared: Vec<Vec<u64>> = batch
                .par_iter()
                .enumerate()
                .map(|(i, text)| match is_trained(at + i) {
                    true => runs.shared(text),
                    false => Vec::new(),
                })
                .collect();
            for (i, shared) in shared.iter().enumerate() {
                runs.set(shared, texts.rows[at + i]);
            }
            at += batch.len();
        }
        Ok(())
    }

    fn report_runs(
        &self,
        runs: &Runs,
        texts: &Equal,
        range: Range<usize>,
        is_evaluated: impl Fn(usize) -> bool + Sync,
        found: Sink<'_>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let batch = self.batch(at)?;
            let firsts: Vec<Option<u32>> = batch
                .par_iter()
                .enumerate()
                .map(|(i, text)| match is_evaluated(at + i) {
                    true => runs.first(text),
                    false => None,
                })
                .collect();
            for first in firsts {
                let evaluated = texts.rows[at];
                at += 1;
                let Some(row) = first.filter(|_| at <= range.end) else {
                    continue;
                };
                let message = format!(
                    "eight words in a row are also in `{}`: {}",
                    self.split(row),
                    self.name(row)
                );
                found(self.finding(FindingKind::LeakedRun, evaluated, message)?)?;
            }
        }
        Ok(())
    }

    /// The next telling texts from a position on.
    fn batch(&self, at: usize) -> Result<Vec<String>> {
        self.texts.batch(at, TEXTS_AT_ONCE, TEXT_BYTES_AT_ONCE)
    }
}

/// Telling texts by their position, and which of them are equal.
struct Equal {
    /// Row of each text.
    rows: Vec<u32>,
    /// Position of the first text that is equal to each.
    firsts: Vec<u32>,
}

impl Equal {
    /// Groups texts by their hashes.
    fn of(mut texts: Vec<Value>) -> Self {
        let rows: Vec<u32> = texts.iter().map(|text| text.row).collect();
        for (at, text) in texts.iter_mut().enumerate() {
            text.row = at as u32;
        }
        texts.par_sort_unstable();
        let mut firsts = vec![0; texts.len()];
        for same in texts.chunk_by(|a, b| a.hash == b.hash) {
            for text in same {
                firsts[text.row as usize] = same[0].row;
            }
        }
        Self { rows, firsts }
    }

    fn is_first(&self, at: usize) -> bool {
        self.firsts[at] as usize == at
    }
}

/// Index of a value in a list; adds the value if it is missing.
fn position<T: Clone + PartialEq>(list: &mut Vec<T>, value: &T) -> u16 {
    // The value is nearly always the last one.
    let found = list.iter().rposition(|known| known == value);
    let index = found.unwrap_or_else(|| {
        list.push(value.clone());
        list.len() - 1
    });
    index.min(usize::from(u16::MAX)) as u16
}

fn hash(text: &str) -> u64 {
    key_of(text.as_bytes()) as u64
}

/// The transcript, summary or answer of a row.
fn text_of(row: &Row) -> Option<&str> {
    let answer = || {
        let answers = row.messages.iter().rev();
        let mut answers = answers.filter(|message| message.role == Role::Assistant);
        answers.next().map(|message| message.content.as_str())
    };
    row.text
        .as_deref()
        .or(row.target.as_deref())
        .or(row.summary.as_deref())
        .or_else(answer)
}
