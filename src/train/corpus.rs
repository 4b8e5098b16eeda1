//! Rows to train on: those of all manifests, each with its task.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::data::Columns;
use crate::data::Format;
use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::Source;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::featurise::rows::RowCheck;
use crate::schedule::Entry;
use crate::schedule::NO_LABEL;
use crate::schedule::Population;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Task;
use crate::task::Tasks;
use crate::task::Wording;
use crate::task::example_without_task;

/// One entry of `data:` in a recipe, or its manifest alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "manifest")]
pub struct EntrySettings {
    /// A file of any format that is read, a folder, a pattern, or a list of shards.
    #[serde(deserialize_with = "crate::data::path_or_list")]
    pub manifest: PathBuf,
    /// The task of rows that do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Factor of the rows' share under `mix: proportional` and `temperature`, the share under
    /// `mix: weights`.
    #[serde(default = "one")]
    pub weight: f64,
    /// Folder that relative audio paths start from; by default the manifest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_root: Option<PathBuf>,
    /// The format; by default the files tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The file's own names for fields of its rows: `{text: sentence}`.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
}

impl EntrySettings {
    /// The manifest with all that is said of it.
    pub fn source(&self) -> Source {
        Source {
            path: self.manifest.clone(),
            audio_root: self.audio_root.clone(),
            format: self.format,
            columns: self.columns.clone(),
        }
    }
}

fn one() -> f64 {
    1.0
}

/// The name of rows that bring a conversation of their own and name no task.
const CONVERSATION: &str = "conversation";

/// All rows, manifest after manifest, and how to make examples of them.
pub struct Corpus {
    rows: Vec<Row>,
    row_manifest: Vec<u16>,
    manifests: Vec<PathBuf>,
    /// `None` for conversations without a task.
    tasks: Vec<Option<Task>>,
    population: Population,
    ids_repeat: bool,
    class_weights: Vec<BTreeMap<String, f64>>,
    skipped: Vec<Error>,
    notes: Vec<String>,
    seed: u64,
}

impl Corpus {
    /// Reads every manifest of a recipe, and the headers of all audio.
    ///
    /// # Errors
    /// Rows that cannot be used (or none that can), a task that nobody knows, rows whose task
    /// differs from their entry's.
    pub fn load(
        entries: &[EntrySettings],
        tasks: &Tasks,
        check: &mut RowCheck<'_>,
        seed: u64,
    ) -> Result<Self> {
        let mut corpus = Self {
            rows: Vec::new(),
            row_manifest: Vec::new(),
            manifests: Vec::new(),
            tasks: Vec::new(),
            population: Population::default(),
            ids_repeat: false,
            class_weights: Vec::new(),
            skipped: Vec::new(),
            notes: Vec::new(),
            seed,
        };
        if entries.is_empty() {
            return Err(Error::input("`data` is empty")
                .hint("name at least one manifest: `data: [{manifest: train.jsonl, task: asr}]`"));
        }
        for entry in entries {
            corpus.add(entry, tasks, check)?;
        }
        let mut seen = HashSet::new();
        corpus.ids_repeat = !corpus.rows.iter().all(|row| seen.insert(&*row.id));
        corpus.class_weights = corpus.balanced_class_weights();
        Ok(corpus)
    }

    fn add(
        &mut self,
        entry: &EntrySettings,
        tasks: &Tasks,
        checks: &mut RowCheck<'_>,
    ) -> Result<()> {
        if !(entry.weight.is_finite() && entry.weight >= 0.0) {
            return Err(
                Error::input(format!("`weight` is {}, expected 0 or more", entry.weight))
                    .at(format!("data: {}", entry.manifest.display())),
            );
        }

        let name = self.pool_name(&entry.manifest);
        let checked = checks.read(&name, &entry.source(), usize::MAX)?;
        self.skipped.extend(checked.skipped);
        self.notes.extend(checked.notes);
        let start = self.rows.len() as u32;
        let index = self.manifests.len() as u16;
        self.manifests.push(entry.manifest.clone());

        for row in checked.rows {
            match self
                .check(&row, entry, tasks)
                .map_err(|e| e.at(row.place(&entry.manifest)))
            {
                Ok((task, label)) => {
                    self.population.row_task.push(task);
                    self.population.row_label.push(label);
                    self.population.row_has_audio.push(!row.clips.is_empty());
                    self.row_manifest.push(index);
                    self.rows.push(row);
                }
                Err(error)
                    if checks.on_bad_row() == OnBadRow::Skip && error.kind == Kind::Input =>
                {
                    checks.leave_out(&name, row.line);
                    self.skipped.push(error)
                }
                Err(error) => return Err(error),
            }
        }

        if self.rows.len() as u32 == start {
            checks.expect_none_refused()?;
            return Err(Error::input("no row can be used").at_path(&entry.manifest));
        }

        self.population.entries.push(Entry {
            rows: start..self.rows.len() as u32,
            weight: entry.weight,
        });
        Ok(())
    }

    /// Name that the left-out rows of the next entry are recorded under: its manifest, numbered
    /// from the second entry of one manifest on. A row may fail under the task of one entry and be
    /// used by another.
    fn pool_name(&self, manifest: &Path) -> String {
        let num_before = self
            .manifests
            .iter()
            .filter(|path| path.as_path() == manifest)
            .count();
        match num_before {
            0 => manifest.display().to_string(),
            _ => format!("{}#{}", manifest.display(), num_before + 1),
        }
    }

    /// The row's task and label, by their numbers; makes its example once, so that a bad row is
    /// found before training.
    fn check(&mut self, row: &Row, entry: &EntrySettings, tasks: &Tasks) -> Result<(u16, u16)> {
        let name = match (row.task.as_deref(), entry.task.as_deref()) {
            (Some(own), Some(entry)) if own != entry => {
                return Err(Error::input(format!(
                    "the row's task is `{own}`, its entry under `data` says `{entry}`"
                ))
                .hint("leave `task` out of the entry, or split the manifest"));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) if !row.messages.is_empty() || row.instruction.is_some() => CONVERSATION,
            (None, None) => {
                return Err(Error::input("no task")
                    .hint("add `task: NAME` to the entry under `data`, or a `task` to each row"));
            }
        };

        let known = self.population.tasks.iter().position(|known| known == name);

        let index = match known {
            Some(index) => index,
            None => {
                let task = match tasks.get(name) {
                    Ok(task) => Some(task.clone()),
                    Err(_) if !row.messages.is_empty() || row.instruction.is_some() => None,
                    Err(error) => return Err(error),
                };
                self.population.tasks.push(name.to_owned());
                self.population.labels.push(
                    task.iter()
                        .flat_map(|task| &task.labels)
                        .map(|label| label.name.clone())
                        .collect(),
                );
                self.tasks.push(task);
                self.tasks.len() - 1
            }
        };

        let example = example_of(
            row,
            self.tasks[index].as_ref(),
            Key::new(self.seed, "check"),
        )?;

        if !example
            .messages
            .iter()
            .any(|message| message.role == crate::data::Role::Assistant && message.loss)
        {
            return Err(Error::input("the row has nothing to learn")
                .hint("a row needs its task's target (`text`, `summary` or `label`), a `target`, or an assistant turn"));
        }

        let label = example.label.and_then(|label| {
            self.population.labels[index]
                .iter()
                .position(|known| *known == label)
        });
        Ok((index as u16, label.map_or(NO_LABEL, |label| label as u16)))
    }

    /// Rows by task and entry: what the schedule draws from.
    pub fn population(&self) -> &Population {
        &self.population
    }

    /// Rows that were left out, and why.
    pub fn skipped(&self) -> &[Error] {
        &self.skipped
    }

    /// Notes on the manifests: fields that are not read, spellings that were folded.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows of some tasks, by rising number.
    pub fn rows_of<'a>(&self, tasks: impl Iterator<Item = &'a String>) -> Vec<u32> {
        let names = &self.population.tasks;
        let wanted: BTreeSet<usize> = tasks
            .filter_map(|task| names.iter().position(|known| known == task))
            .collect();
        (0..self.rows.len() as u32)
            .filter(|&row| wanted.contains(&self.task_of(row)))
            .collect()
    }

    /// Number of the row's task among the population's.
    pub fn task_of(&self, row: u32) -> usize {
        usize::from(self.population.row_task[row as usize])
    }

    /// A row.
    pub fn row(&self, row: u32) -> &Row {
        &self.rows[row as usize]
    }

    /// Number of the manifest that the row is written in, in the recipe's order.
    pub fn manifest_of(&self, row: u32) -> usize {
        usize::from(self.row_manifest[row as usize])
    }

    /// The manifest of the row, as the recipe names it.
    pub fn manifest_name(&self, row: u32) -> String {
        self.manifests[self.manifest_of(row)].display().to_string()
    }

    /// The row's id, with its manifest in front where ids repeat over the manifests.
    pub fn id(&self, row: u32) -> String {
        let id = &self.rows[row as usize].id;
        if self.ids_repeat {
            format!(
                "{}:{id}",
                self.manifests[usize::from(self.row_manifest[row as usize])].display()
            )
        } else {
            id.to_string()
        }
    }

    /// The example of a row in one epoch: which wording asks is drawn anew in each.
    pub fn example(&self, row: u32, epoch: u32) -> Result<Example> {
        let draw = Key::new(self.seed, "instruction")
            .with(u64::from(epoch))
            .with(u64::from(row));
        self.example_worded_by(row, draw)
    }

    /// The example of a row for its embedding: the same wording for every row of a task and
    /// language, whatever the epoch.
    pub fn clean_example(&self, row: u32) -> Result<Example> {
        self.example_worded_by(row, Key::new(self.seed, "embedding instruction"))
    }

    /// The example of a row with the wording that `draw` picks, which is the same for every row of
    /// a task and language.
    pub fn example_worded_by(&self, row: u32, draw: Key) -> Result<Example> {
        let task = self.tasks[self.task_of(row)].as_ref();
        example_of(&self.rows[row as usize], task, draw).map_err(|e| e.at(self.place(row)))
    }

    /// Place of the row: `manifest:line`.
    pub fn place(&self, row: u32) -> String {
        self.rows[row as usize].place(&self.manifests[usize::from(self.row_manifest[row as usize])])
    }

    /// Factor of a label that makes all labels of its task weigh the same: rows / (labels * rows of
    /// the label); 1 without a label.
    pub fn class_weight(&self, row: u32, label: Option<&str>) -> f64 {
        label
            .and_then(|label| self.class_weights[self.task_of(row)].get(label))
            .copied()
            .unwrap_or(1.0)
    }

    fn balanced_class_weights(&self) -> Vec<BTreeMap<String, f64>> {
        let labels = &self.population.labels;
        let mut counts = vec![BTreeMap::<String, f64>::new(); labels.len()];
        for (&task, &label) in self
            .population
            .row_task
            .iter()
            .zip(&self.population.row_label)
            .filter(|(_, label)| **label != NO_LABEL)
        {
            *counts[usize::from(task)]
                .entry(labels[usize::from(task)][usize::from(label)].clone())
                .or_default() += 1.0;
        }
        for labels in &mut counts {
            let rows = labels.values().sum::<f64>();
            let classes = labels.len() as f64;
            labels
                .values_mut()
                .for_each(|count| *count = rows / (classes * *count));
        }
        counts
    }
}

fn example_of(row: &Row, task: Option<&Task>, draw: Key) -> Result<Example> {
    match task {
        Some(task) => task.example(row, Wording::Train, draw),
        None => example_without_task(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::headers::Headers;
    use crate::featurise::rows::Pool;
    use crate::records::inputs::LeftOut;

    #[test]
    fn entries_of_one_manifest_leave_out_their_own_rows() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("rows.jsonl");
        let turns = r#""messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
        let rows = format!("{{{turns}}}\n{{\"task\": \"chat\", {turns}}}\n");
        std::fs::write(&manifest, rows).unwrap();
        let entry = |task: Option<&str>| EntrySettings {
            manifest: manifest.clone(),
            task: task.map(str::to_owned),
            weight: 1.0,
            audio_root: None,
            format: None,
            columns: Columns::default(),
        };
        // The second row's task is not that of the first entry.
        let entries = [entry(Some("talk")), entry(None)];
        let tasks = Tasks::load(None).unwrap();
        let headers = Headers::open(dir.path());
        let load = |pool: Pool| {
            let mut watch = |_: &'static str, _: usize, _: usize| -> Result<()> { Ok(()) };
            let mut check =
                RowCheck::new(&headers, None, OnBadRow::Skip, "skip", &mut watch).of_run(pool);
            let corpus = Corpus::load(&entries, &tasks, &mut check, 0).unwrap();
            let lines: Vec<(usize, u32)> = (0..corpus.len() as u32)
                .map(|row| (corpus.manifest_of(row), corpus.row(row).line))
                .collect();
            (lines, check.finish().unwrap())
        };

        let (lines, left_out) = load(Pool::Fresh);
        assert_eq!(lines, [(0, 1), (1, 1), (1, 2)]);
        let expected = LeftOut::from([(manifest.display().to_string(), BTreeSet::from([2]))]);
        assert_eq!(left_out, expected);
        assert_eq!(load(Pool::Recorded(left_out.clone())), (lines, left_out));

        let entries = [entry(None), entry(Some("talk"))];
        let mut watch = |_: &'static str, _: usize, _: usize| -> Result<()> { Ok(()) };
        let mut check = RowCheck::new(&headers, None, OnBadRow::Skip, "skip", &mut watch);
        Corpus::load(&entries, &tasks, &mut check, 0).unwrap();
        let second = format!("{}#2", manifest.display());
        let expected = LeftOut::from([(second, BTreeSet::from([2]))]);
        assert_eq!(check.finish().unwrap(), expected);
    }
}
