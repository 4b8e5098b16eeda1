//! Faults between rows: duplicates inside a split, and what splits share.

use std::collections::HashMap;
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
use crate::near_duplicates::RunIndex;
use crate::near_duplicates::Sketches;
use crate::near_duplicates::comparable;
use crate::near_duplicates::key_of;
use maqam_base::error::Result;

/// Fewest words of a text that two rows are compared by: shorter ones, such as commands, are the same by chance.
const TELLING_WORDS: usize = 5;

/// Many texts in one allocation.
#[derive(Default)]
struct Texts {
    bytes: String,
    ends: Vec<u64>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len() as u64);
    }

    fn get(&self, index: usize) -> &str {
        let start = match index {
            0 => 0,
            index => self.ends[index - 1] as usize,
        };
        &self.bytes[start..self.ends[index] as usize]
    }

    fn len(&self) -> usize {
        self.ends.len()
    }
}

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

/// Rows in the form that is compared.
pub struct Across {
    files: Vec<Arc<Path>>,
    splits: Vec<Arc<str>>,
    file_of: Vec<u16>,
    split_of: Vec<u16>,
    lines: Vec<u32>,
    tasks: Vec<Arc<str>>,
    tasks_of: Vec<u16>,
    ids: Texts,
    speakers: Vec<Value>,
    groups: Vec<Value>,
    audio: Vec<Value>,
    parts: Vec<UsedSpan>,
    /// Position of every telling text among the different ones, with its row.
    texts_of_rows: Vec<(u32, u32)>,
    /// Position among the different texts, by key.
    positions: HashMap<u64, u32>,
    texts: Texts,
    /// First row of each different text.
    first_rows: Vec<u32>,
    sketches: Sketches,
}

impl Across {
    /// Nothing yet. Texts are near-duplicates from a Jaccard index of `similarity`.
    pub fn new(similarity: f64) -> Self {
        Self {
            files: Vec::new(),
            splits: Vec::new(),
            file_of: Vec::new(),
            split_of: Vec::new(),
            lines: Vec::new(),
            tasks: Vec::new(),
            tasks_of: Vec::new(),
            ids: Texts::default(),
            speakers: Vec::new(),
            groups: Vec::new(),
            audio: Vec::new(),
            parts: Vec::new(),
            texts_of_rows: Vec::new(),
            positions: HashMap::new(),
            texts: Texts::default(),
            first_rows: Vec::new(),
            sketches: Sketches::new(similarity),
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
    pub fn add(&mut self, placed: &Placed, heard: &[Heard], text: TextFacts) {
        let row = self.lines.len() as u32;
        let split = placed.row.split.as_ref().unwrap_or(&placed.split);
        self.file_of.push(position(&mut self.files, &placed.file));
        self.split_of.push(position(&mut self.splits, split));
        self.lines.push(placed.line);
        let task = placed.row.task.clone().unwrap_or_default();
        self.tasks_of.push(position(&mut self.tasks, &task));
        // A row without an id is called after its line.
        let id = Some(&*placed.row.id).filter(|id| *id != placed.row.line.to_string());
        self.ids.push(id.unwrap_or_default());
        let value = |text: &str| Value {
            hash: hash(text),
            row,
        };
        self.speakers
            .extend(placed.row.speaker.as_deref().map(value));
        self.groups.extend(placed.row.group.as_deref().map(value));

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
                self.audio.push(Value { hash: a ^ b, row });
            }
            if let Some((path, range)) = clip.source.file() {
                let start_s = clip.span.start_s.unwrap_or(0.0);
                // A part of another channel is other audio.
                let file = format!("{:?} {range:?} {}", clip.span.channel, path.display());
                self.parts.push(UsedSpan {
                    file: hash(&file),
                    start_s: start_s as f32,
                    end_s: (start_s + facts.duration_s) as f32,
                    row,
                });
            }
        }
        if let TextFacts(Some(telling)) = text {
            let next = self.texts.len() as u32;
            let position = *self.positions.entry(telling.key).or_insert(next);
            if position == next {
                self.texts.push(&telling.text);
                self.first_rows.push(row);
                self.sketches.push_sketched(next, telling.sketch);
            }
            self.texts_of_rows.push((position, row));
        }
    }

    /// Compares all rows.
    ///
    /// # Errors
    /// Those of `found`.
    pub fn finish(mut self, found: Sink<'_>) -> Result<()> {
        let training = self.training();
        self.ids_of_rows(training, found)?;
        self.recordings(training, found)?;
        let speakers = std::mem::take(&mut self.speakers);
        let groups = std::mem::take(&mut self.groups);
        self.leaks(
            FindingKind::LeakedSpeaker,
            "speaker",
            speakers,
            training,
            found,
        )?;
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

    fn finding(&self, kind: FindingKind, row: u32, message: String) -> Finding {
        Finding {
            kind,
            file: self.file(row).clone(),
            line: self.lines[row as usize],
            id: match self.ids.get(row as usize) {
                "" => self.lines[row as usize].to_string().into(),
                id => id.into(),
            },
            message,
        }
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
        let id = |row: u32| self.ids.get(row as usize);
        let rows = 0..self.lines.len() as u32;
        let mut order: Vec<u32> = rows.filter(|&row| !id(row).is_empty()).collect();
        let rank = |row: u32| self.rank(row, training);
        order.par_sort_unstable_by(|&a, &b| (id(a), rank(a), a).cmp(&(id(b), rank(b), b)));
        let mut named = Vec::new();
        for same in order.chunk_by(|&a, &b| id(a) == id(b)) {
            let first = same[0];
            for &row in &same[1..] {
                let kind = match rank(row) == rank(first) {
                    true => FindingKind::DuplicateId,
                    false => FindingKind::LeakedId,
                };
                named.push((row, first, kind));
            }
        }
        named.sort_unstable_by_key(|(row, ..)| *row);
        for (row, first, kind) in named {
            let message = format!("id `{}` was used before, in {}", id(row), self.name(first));
            found(self.finding(kind, row, message))?;
        }
        Ok(())
    }

    /// Finds repeated audio: equal samples, or overlapping parts of one file.
    fn recordings(&mut self, training: u16, found: Sink<'_>) -> Result<()> {
        let mut audio = std::mem::take(&mut self.audio);
        let mut parts = std::mem::take(&mut self.parts);
        let rank = |row: u32| self.rank(row, training);
        // Row, the earlier one, how they overlap.
        let mut named: Vec<(u32, u32, String)> = Vec::new();

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

        parts.par_sort_unstable_by(|a, b| {
            let key = |part: &UsedSpan| (part.file, part.start_s.to_bits(), part.row);
            key(a).cmp(&key(b))
        });
        for of_file in parts.chunk_by(|a, b| a.file == b.file) {
            // Of each split and task the part that reaches furthest so far is the one to overlap with.
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
            found(self.finding(kind, row, message))?;
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
            found(self.finding(kind, row, message))?;
        }
        Ok(())
    }

    /// Texts that are equal, almost equal, or share eight words with one of the training's.
    fn texts_of(&mut self, training: u16, found: Sink<'_>) -> Result<()> {
        let texts_of_rows = std::mem::take(&mut self.texts_of_rows);
        let values: Vec<Value> = texts_of_rows
            .iter()
            .map(|&(position, row)| Value {
                hash: u64::from(position),
                row,
            })
            .collect();
        self.leaks(FindingKind::LeakedText, "text", values, training, found)?;

        let similar = self
            .sketches
            .near_duplicates(|index| self.texts.get(index as usize));
        let mut resembles: HashMap<u32, (u32, f64)> = similar
            .iter()
            .map(|pair| {
                (
                    pair.index as u32,
                    (self.first_rows[pair.of], pair.similarity),
                )
            })
            .collect();
        for &(position, row) in &texts_of_rows {
            let first = self.first_rows[position as usize];
            let (of, similarity) = match resembles.remove(&position) {
                Some(other) if first == row => other,
                _ if first != row && self.split(first) == self.split(row) => (first, 1.0),
                _ => continue,
            };
            let message = match similarity {
                1.0 => format!("the same text as {}", self.name(of)),
                share => format!(
                    "{:.0} % of the text is that of {}",
                    100.0 * share,
                    self.name(of)
                ),
            };
            found(self.finding(FindingKind::NearDuplicateText, row, message))?;
        }
        self.runs(&texts_of_rows, training, found)
    }

    fn runs(&self, texts_of_rows: &[(u32, u32)], training: u16, found: Sink<'_>) -> Result<()> {
        let is_training = |row: u32| self.split_of[row as usize] == training;
        let mut index = RunIndex::default();
        for &(position, row) in texts_of_rows.iter().filter(|(_, row)| !is_training(*row)) {
            index.add(row, self.texts.get(position as usize));
        }
        if index.is_empty() {
            return Ok(());
        }

        // Equal whole texts have a finding already.
        let mut trained_on: HashMap<u32, u32> = HashMap::new();
        for &(position, row) in texts_of_rows.iter().filter(|(_, row)| is_training(*row)) {
            trained_on.entry(position).or_insert(row);
        }
        let positions: Vec<(u32, u32)> = trained_on.iter().map(|(p, row)| (*p, *row)).collect();
        let mut shared: Vec<(u32, u32)> = positions
            .into_par_iter()
            .flat_map_iter(|(position, row)| {
                let evaluated = index.all_shared(self.texts.get(position as usize));
                evaluated.into_iter().map(move |evaluated| (evaluated, row))
            })
            .collect();
        shared.sort_unstable();
        shared.dedup_by_key(|(evaluated, _)| *evaluated);
        let position_of: HashMap<u32, u32> =
            texts_of_rows.iter().map(|(p, row)| (*row, *p)).collect();
        for (evaluated, row) in shared {
            if trained_on.contains_key(&position_of[&evaluated]) {
                continue;
            }
            let message = format!(
                "eight words in a row are also in `{}`: {}",
                self.split(row),
                self.name(row)
            );
            found(self.finding(FindingKind::LeakedRun, evaluated, message))?;
        }
        Ok(())
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
