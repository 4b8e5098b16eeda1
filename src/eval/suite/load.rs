//! A suite read from its YAML and its manifests.

use std::collections::HashMap;
use std::path::Path;

use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::read_manifest;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::baseline;
use crate::eval::majority::Majority;
use crate::eval::measure;
use crate::eval::slices;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::featurise::rows::Checked;
use crate::featurise::rows::RowCheck;
use crate::metrics;
use crate::metrics::TaskKind;
use crate::models::generate::Sampling;
use crate::models::generate::Strategy as Choice;
use crate::records::suite_file::Baseline;
use crate::records::suite_file::Generation;
use crate::records::suite_file::Role;
use crate::records::suite_file::SetFile;
use crate::records::suite_file::Strategy;
use crate::records::suite_file::SuiteFile;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Task;
use crate::task::Tasks;
use crate::task::Wording;

impl Suite {
    /// Reads a suite file and its manifests.
    ///
    /// # Errors
    /// Unknown keys, tasks, metrics or slices; rows without the task's target; a baseline that fits
    /// no set. The message names the file and the set.
    pub fn load(path: &Path, tasks: &Tasks) -> Result<Self> {
        Self::read(path, tasks, None)
    }

    /// As [`Suite::load`], with the headers of all audio read too.
    ///
    /// # Errors
    /// As there. Rows that cannot be used are left out, or stop the command in
    /// [`RowCheck::finish`].
    pub fn load_checked(path: &Path, tasks: &Tasks, check: &mut RowCheck<'_>) -> Result<Self> {
        Self::read(path, tasks, Some(check))
    }

    fn read(path: &Path, tasks: &Tasks, mut check: Option<&mut RowCheck<'_>>) -> Result<Self> {
        let file = SuiteFile::read(path)?;
        let generation = sampling(&file.generation);
        generation.check().map_err(|e| e.at_path(path))?;
        if file.sets.is_empty() {
            return Err(Error::input("`sets` is empty").at_path(path));
        }
        let mut sets: Vec<Set> = Vec::new();
        let mut skipped = Vec::new();
        let mut notes: Vec<String> = Vec::new();
        for written in &file.sets {
            let place = format!("{}: set `{}`", path.display(), written.name);
            if sets.iter().any(|set| set.name == written.name) {
                return Err(Error::input("another set has this name").at(place));
            }
            let checked = rows_of(&place, written, check.as_deref_mut())?;
            skipped.extend(checked.skipped);
            for note in checked.notes {
                // Two sets may share a manifest.
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            let mut bad = Vec::new();
            let skips = check
                .as_ref()
                .is_some_and(|check| check.on_bad_row() == OnBadRow::Skip);
            let set = Set::load(
                written,
                file.role,
                &file.baselines,
                tasks,
                checked.rows,
                skips.then_some(&mut bad),
            );
            sets.push(set.map_err(|e| e.at(&place))?);
            for (line, error) in bad {
                if let Some(check) = check.as_deref_mut() {
                    check.leave_out(&place, line);
                }
                skipped.push(error);
            }
        }
        if let Some(language) = &file.generation.language {
            let examples = sets.iter_mut().flat_map(|set| &mut set.examples);
            examples.for_each(|example| language.apply(example));
        }
        if let Some(odd) = file.baselines.iter().find(|baseline| {
            sets.iter()
                .all(|set| baseline::answers(**baseline, set).is_none())
        }) {
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
            generation,
            is_language_forced: file.generation.language.is_some(),
            controls: file.controls,
            baselines: file.baselines,
            files,
            skipped,
            notes,
        })
    }
}

/// How the engine chooses tokens where a suite says so.
fn sampling(written: &Generation) -> Sampling {
    Sampling {
        strategy: match written.strategy {
            Strategy::Greedy => Choice::Greedy,
            Strategy::Sample => Choice::Sample,
        },
        temperature: written.temperature,
        top_k: written.top_k,
        top_p: written.top_p,
        repetition_penalty: written.repetition_penalty,
    }
}

/// The rows of a set at a place of a suite, as far as they can be used.
fn rows_of(place: &str, set: &SetFile, check: Option<&mut RowCheck<'_>>) -> Result<Checked> {
    check_written(set).map_err(|e| e.at(place))?;
    let limit = set.limit.unwrap_or(usize::MAX);
    let rows = match check {
        Some(check) => {
            let found = check.read(place, &set.source(), limit);
            if found.as_ref().is_ok_and(|found| found.rows.is_empty()) {
                check.expect_none_refused()?;
            }
            found
        }
        None => set.source().read(OnBadRow::Error).map(|manifest| Checked {
            rows: manifest.rows.into_iter().take(limit).collect(),
            skipped: manifest.skipped,
            notes: manifest.notes,
        }),
    };
    rows.map_err(|e| e.at(place))
}

impl Set {
    fn load(
        written: &SetFile,
        role: Role,
        baselines: &[Baseline],
        tasks: &Tasks,
        mut rows: Vec<Row>,
        bad: Option<&mut Vec<(u32, Error)>>,
    ) -> Result<Self> {
        if rows.is_empty() {
            return Err(Error::input("no row can be used").at_path(&written.manifest));
        }
        let row_task = rows.iter().find_map(|row| row.task.as_deref());
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
        let mut examples = examples(&task, wording, &mut rows, &written.manifest, bad)?;
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
            cluster: slices::cluster_by(written.cluster, &examples)?,
            transcripts: if takes_text {
                transcripts(&rows, written.text_from.as_deref())?
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

/// The examples of rows, in their order. Where `bad` is given, rows that cannot be used are moved
/// there instead of being an error.
fn examples(
    task: &Task,
    wording: Wording,
    rows: &mut Vec<Row>,
    manifest: &Path,
    mut bad: Option<&mut Vec<(u32, Error)>>,
) -> Result<Vec<Example>> {
    let instruction = Key::new(0, "evaluation instruction");
    let mut examples = Vec::with_capacity(rows.len());
    let mut usable = Vec::new();
    for row in rows.drain(..) {
        // The wording is drawn by the place among the rows that are used, the same whether bad rows
        // are there or were taken out.
        let draw = instruction.with(examples.len() as u64);
        match example(task, wording, &row, draw).map_err(|e| e.at(row.place(manifest))) {
            Ok(found) => {
                examples.push(found);
                usable.push(row);
            }
            Err(error) => match &mut bad {
                Some(bad) if error.kind == Kind::Input => bad.push((row.line, error)),
                _ => return Err(error),
            },
        }
    }

    *rows = usable;
    if examples.is_empty() {
        return Err(Error::input("no row can be used").at_path(manifest));
    }

    Ok(examples)
}

/// The example of a row, with a reference that no other reference repeats.
fn example(task: &Task, wording: Wording, row: &Row, draw: Key) -> Result<Example> {
    if let Some(other) = row.task.as_deref().filter(|other| *other != task.name) {
        return Err(Error::input(format!(
            "row of task `{other}` in a set of task `{}`",
            task.name
        )));
    }

    let mut example = task.example(row, wording, draw)?;
    if task.kind == TaskKind::Classify && example.label.is_none() {
        return Err(
            Error::input("the row has no label of the task's inventory").hint("give it a `label`")
        );
    }

    if example.reference.is_none() && !example.references.is_empty() {
        example.reference = Some(example.references.remove(0).into());
    }
    let Some(reference) = &example.reference else {
        return Err(Error::input(
            "the row has nothing to compare an answer with",
        ));
    };
    example.references.retain(|other| **other != **reference);
    Ok(example)
}

/// The first name that comes a second time.
fn twice(names: Vec<&str>) -> Option<String> {
    let mut names_with_place = names.iter().enumerate();
    let repeated = names_with_place.find(|(i, name)| names[..*i].contains(name));
    repeated.map(|(_, name)| (*name).to_owned())
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
    let mut texts = Vec::with_capacity(rows.len());
    for row in rows {
        let text = row.text.as_deref();
        let Some(text) = text.or_else(|| by_id.get(&*row.id).copied()) else {
            let found = format!(
                "row `{}` has no `text`, and there is none here either",
                row.id
            );
            return Err(Error::input(found).at_path(from));
        };
        texts.push(Some(text.into()));
    }
    Ok(texts)
}

fn majority(task: &Task, examples: &[Example], from: Option<&Path>) -> Result<Option<Majority>> {
    if task.kind != TaskKind::Classify {
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
    let mut labels = Vec::new();
    for row in &manifest.rows {
        if let Some(label) = row.label.as_deref() {
            let label = task.row_label(label);
            labels.push(&label.map_err(|e| e.at(row.place(from)))?.name);
        }
    }
    let labels = labels.into_iter().map(String::as_str);
    let found = Majority::among(task, labels, from.display().to_string());
    found
        .map(Some)
        .ok_or_else(|| Error::input("no row has a `label`").at_path(from))
}
