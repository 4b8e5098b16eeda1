//! A suite: the sets a model is judged on, read from their YAML and their manifests.

mod file;

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

pub use file::Role;
pub use file::RougeFold;
pub use file::SetFile;
pub use file::SuiteFile;

use crate::data::Manifest;
use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::read_manifest;
use crate::error::Error;
use crate::error::Result;
use crate::eval::baseline::Baseline;
use crate::eval::baseline::Majority;
use crate::eval::control::Control;
use crate::eval::measure;
use crate::eval::slices;
use crate::eval::slices::ClusterBy;
use crate::files;
use crate::metrics;
use crate::metrics::Normaliser;
use crate::metrics::rouge::Fold;
use crate::model::generate::Sampling;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Kind;
use crate::task::Parse;
use crate::task::Task;
use crate::task::Tasks;
use crate::task::Wording;
use crate::yaml;

/// A suite, its rows read.
#[derive(Clone)]
pub struct Suite {
    /// The stem of its file.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its sets.
    pub sets: Vec<Set>,
    /// How answers are generated.
    pub generation: Sampling,
    /// Other ways to ask, for comparison.
    pub controls: Vec<Control>,
    /// What takes no model, for comparison.
    pub baselines: Vec<Baseline>,
    /// The suite's own file and its manifests.
    pub files: Vec<PathBuf>,
}

/// One set, its rows turned into examples.
#[derive(Clone)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What the model is asked.
    pub task: Task,
    /// Which of the task's instructions are asked.
    pub wording: Wording,
    /// The examples.
    pub examples: Vec<Example>,
    /// What is computed; `None` for the loss and [`Kind::default_metrics`].
    pub metrics: Option<Vec<String>>,
    /// What is taken out of texts before they are compared.
    pub normalisers: Vec<Normaliser>,
    /// What ROUGE and BLEU leave open.
    pub settings: metrics::Settings,
    /// How answers become labels.
    pub parses: Vec<Parse>,
    /// Whether labels are also chosen by likelihood.
    pub likelihood: bool,
    /// What the scores are shown apart by.
    pub slices: Vec<String>,
    /// What is resampled as one.
    pub cluster: ClusterBy,
    /// What was said in each example, as far as the data know; empty unless a baseline takes it.
    pub transcripts: Vec<Option<Box<str>>>,
    /// The commonest label, where a baseline takes it.
    pub majority: Option<Majority>,
}

impl Suite {
    /// Reads a suite file and its manifests.
    ///
    /// # Errors
    /// Unknown keys, tasks, metrics or slices; rows without the task's target; a baseline that fits no set. The message names the file and
    /// the set.
    pub fn load(path: &Path, tasks: &Tasks) -> Result<Self> {
        let file: SuiteFile = yaml::parse(&files::read_text(path)?, path)?;
        file.generation.check().map_err(|e| e.at_path(path))?;
        if file.sets.is_empty() {
            return Err(Error::input("`sets` is empty").at_path(path));
        }
        let mut sets: Vec<Set> = Vec::new();
        for written in &file.sets {
            let place = format!("{}: set `{}`", path.display(), written.name);
            if sets.iter().any(|set| set.name == written.name) {
                return Err(Error::input("another set has this name").at(place));
            }
            sets.push(
                Set::load(written, file.role, &file.baselines, tasks).map_err(|e| e.at(place))?,
            );
        }
        if let Some(odd) = file
            .baselines
            .iter()
            .find(|baseline| sets.iter().all(|set| baseline.answers(set).is_none()))
        {
            let found = Error::input(format!("baseline `{}` fits none of the sets", odd.name()))
                .at_path(path);
            return Err(found.hint(format!("it is for {}", odd.fits())));
        }
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let manifests = file
            .sets
            .into_iter()
            .flat_map(|set| [Some(set.manifest), set.majority_from, set.text_from])
            .flatten();
        let files = std::iter::once(path.to_owned()).chain(manifests).collect();
        Ok(Self {
            name,
            role: file.role,
            sets,
            generation: file.generation,
            controls: file.controls,
            baselines: file.baselines,
            files,
        })
    }

    /// Number of examples in all sets.
    pub fn num_examples(&self) -> usize {
        self.sets.iter().map(|set| set.examples.len()).sum()
    }
}

impl Set {
    fn load(written: &SetFile, role: Role, baselines: &[Baseline], tasks: &Tasks) -> Result<Self> {
        check_written(written)?;
        let manifest = read_manifest(
            &written.manifest,
            written.audio_root.as_deref(),
            OnBadRow::Error,
        )?;
        let row_task = manifest.rows.iter().find_map(|row| row.task.as_deref());
        let name = written
            .task
            .as_deref()
            .or(row_task)
            .ok_or_else(|| Error::input("neither the set nor its rows name a `task`"))?;
        let mut task = with_system(tasks.get(name)?, written.system.as_deref());
        task.asked_in = written.instructions.clone();
        let wording = written.wording.unwrap_or(match role {
            Role::Dev => Wording::Dev,
            Role::Test => Wording::Test,
        });
        measure::check(written, &task)?;
        let rows = &manifest.rows[..manifest.rows.len().min(written.limit.unwrap_or(usize::MAX))];
        let mut examples = examples(&task, wording, rows, &manifest)?;
        if written.slices.iter().any(|slice| slice == slices::LENGTH) {
            slices::measure_lengths(&mut examples)?;
        }
        for slice in &written.slices {
            slices::check(slice, &examples)?;
        }
        let takes_text =
            baselines.contains(&Baseline::Lead) || baselines.contains(&Baseline::Transcript);
        let set = Self {
            name: written.name.clone(),
            wording,
            metrics: written.metrics.clone(),
            normalisers: written.normaliser.clone(),
            settings: metrics::Settings {
                fold: written.rouge_fold.into(),
                tokeniser: written.bleu_tokeniser.parse()?,
            },
            parses: written.parse.clone(),
            likelihood: written.likelihood,
            slices: written.slices.clone(),
            cluster: ClusterBy::of(written.cluster, &examples)?,
            transcripts: if takes_text {
                transcripts(rows, written.text_from.as_deref())?
            } else {
                Vec::new()
            },
            majority: if baselines.contains(&Baseline::Majority) {
                majority(&task, &examples, written.majority_from.as_deref())?
            } else {
                None
            },
            task,
            examples,
        };
        measure::check_rows(&set)?;
        Ok(set)
    }
}

impl From<RougeFold> for Fold {
    fn from(fold: RougeFold) -> Self {
        match fold {
            RougeFold::None => Self::None,
            RougeFold::Diacritics => Self::Diacritics,
        }
    }
}

fn check_written(written: &SetFile) -> Result<()> {
    if written.name.is_empty()
        || written.name.contains(['/', '\\'])
        || written.name.starts_with('.')
    {
        return Err(Error::input("the set's name cannot name a file")
            .hint("its predictions go to <name>.jsonl"));
    }
    if written.normaliser.is_empty() {
        return Err(Error::input("`normaliser` is an empty list")
            .hint("leave it out, or write `normaliser: [none]`"));
    }
    if written.parse.is_empty() {
        return Err(Error::input("`parse` is an empty list")
            .hint("leave it out, or write `parse: [lenient, strict]`"));
    }
    if written.limit == Some(0) {
        return Err(Error::input("`limit` is 0").hint("leave it out for all rows"));
    }
    let twice = |names: Vec<&str>| {
        names
            .iter()
            .enumerate()
            .find(|(i, name)| names[..*i].contains(name))
            .map(|(_, name)| (*name).to_owned())
    };
    let slices = written.slices.iter().map(String::as_str).collect();
    let found = [
        ("slices", twice(slices)),
        (
            "normaliser",
            twice(
                written
                    .normaliser
                    .iter()
                    .map(|normaliser| normaliser.name())
                    .collect(),
            ),
        ),
        (
            "parse",
            twice(written.parse.iter().map(|parse| parse.name()).collect()),
        ),
    ];
    match found.into_iter().find_map(|(key, name)| Some((key, name?))) {
        Some((key, name)) => Err(Error::input(format!("`{key}` has `{name}` twice"))),
        None => Ok(()),
    }
}

/// The task with another system message; an empty one leaves it to the chat template.
fn with_system(task: &Task, system: Option<&str>) -> Task {
    let mut task = task.clone();
    if let Some(system) = system {
        task.system.clear();
        if !system.is_empty() {
            // A language that has no entry of its own takes the only one.
            task.system.insert("en".to_owned(), system.to_owned());
        }
    }
    task
}

fn examples(
    task: &Task,
    wording: Wording,
    rows: &[Row],
    manifest: &Manifest,
) -> Result<Vec<Example>> {
    let instruction = Key::new(0, "evaluation instruction");
    let example = |(i, row): (usize, &Row)| -> Result<Example> {
        if let Some(other) = row.task.as_deref().filter(|other| *other != task.name) {
            return Err(Error::input(format!(
                "row of task `{other}` in a set of task `{}`",
                task.name
            )));
        }
        let mut example = task.example(row, wording, instruction.with(i as u64))?;
        if task.kind == Kind::Classify && example.label.is_none() {
            return Err(Error::input("the row has no label of the task's inventory")
                .hint("give it a `label`"));
        }
        if example.reference.is_none() && !example.references.is_empty() {
            example.reference = Some(example.references.remove(0).into());
        }
        match &example.reference {
            Some(reference) => {
                example.references.retain(|other| **other != **reference);
                Ok(example)
            }
            None => Err(Error::input(
                "the row has nothing to compare an answer with",
            )),
        }
    };
    rows.iter()
        .enumerate()
        .map(|(i, row)| example((i, row)).map_err(|e| e.at(row.place(&manifest.path))))
        .collect()
}

/// What was said in each row: its own `text`, or that of the row of its id in another manifest.
///
/// # Errors
/// A row that neither has a text nor finds one in the manifest that is named.
fn transcripts(rows: &[Row], from: Option<&Path>) -> Result<Vec<Option<Box<str>>>> {
    let Some(from) = from else {
        return Ok(rows.iter().map(|row| row.text.clone()).collect());
    };
    let others = read_manifest(from, None, OnBadRow::Error)?;
    let by_id: HashMap<&str, &str> = others
        .rows
        .iter()
        .filter_map(|row| Some((&*row.id, row.text.as_deref()?)))
        .collect();
    let text = |row: &Row| match row.text.as_deref().or_else(|| by_id.get(&*row.id).copied()) {
        Some(text) => Ok(Some(text.into())),
        None => Err(Error::input(format!(
            "row `{}` has no `text`, and there is none here either",
            row.id
        ))
        .at_path(from)),
    };
    rows.iter().map(text).collect()
}

fn majority(task: &Task, examples: &[Example], from: Option<&Path>) -> Result<Option<Majority>> {
    if task.kind != Kind::Classify {
        return Ok(None);
    }
    let Some(from) = from else {
        return Ok(Majority::among(
            task,
            examples
                .iter()
                .filter_map(|example| example.label.as_deref()),
            "the set itself".to_owned(),
        ));
    };
    let manifest = read_manifest(from, None, OnBadRow::Error)?;
    let name = |row: &Row| match row.label.as_deref() {
        Some(label) => task
            .row_label(label)
            .map(|label| Some(label.name.clone()))
            .map_err(|e| e.at(row.place(from))),
        None => Ok(None),
    };
    let labels = manifest.rows.iter().map(name).collect::<Result<Vec<_>>>()?;
    let found = Majority::among(
        task,
        labels.iter().flatten().map(String::as_str),
        from.display().to_string(),
    );
    found
        .map(Some)
        .ok_or_else(|| Error::input("no row has a `label`").at_path(from))
}
