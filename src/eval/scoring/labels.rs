//! The inventory of `--labels`: the name of a task, a task's file, or a list of labels.

use std::collections::BTreeMap;
use std::path::Path;

use yaml_serde::Value;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::metrics::TaskKind;
use crate::task::Label;
use crate::task::Task;
use crate::task::Tasks;
use crate::task::load_task;
use crate::yaml;

/// The task whose inventory answers are read by: `task` with the labels that `written` names.
///
/// # Errors
/// A task that does not classify, a file that cannot be read, or one without two different labels.
pub fn inventory(written: &str, task: &Task, tasks: &Tasks) -> Result<Task> {
    if task.kind != TaskKind::Classify {
        return Err(
            Error::input(format!("--labels: task `{}` does not classify", task.name))
                .hint("leave --labels out"),
        );
    }

    let path = Path::new(written);
    if !path.is_file() {
        return of_task(written, tasks);
    }

    let text = files::read_text(path)?;
    let is_yaml = path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    });
    let labels = match yaml::parse::<Value>(&text, path) {
        Ok(Value::Mapping(fields)) if fields.contains_key("instructions") => {
            return classifying(load_task(path)?, path);
        }
        Ok(tree @ (Value::Mapping(_) | Value::Sequence(_))) => in_tree(&tree),
        Err(error) if is_yaml => return Err(error),
        // Lines of plain text are one string to YAML.
        _ => Ok(text
            .lines()
            .map(|line| bare(line.trim()))
            .filter(|label| !label.name.is_empty() && !label.name.starts_with('#'))
            .collect()),
    };

    let labels = labels.and_then(checked).map_err(|e: Error| {
        e.at_path(path)
            .or_hint("a label a line, a YAML or JSON list of labels, or a task's file")
    })?;
    Ok(Task {
        labels,
        ..task.clone()
    })
}

/// The task of a name, which is to classify.
fn of_task(written: &str, tasks: &Tasks) -> Result<Task> {
    let classifies = |task: &Task| task.kind == TaskKind::Classify;
    let Ok(task) = tasks.get(written) else {
        let known: Vec<&str> = tasks
            .names()
            .filter(|name| tasks.get(name).is_ok_and(classifies))
            .collect();
        let found = format!("--labels {written}: there is no such file or task");
        return Err(Error::input(found).hint(format!(
            "a file with a label a line, or one of {}",
            known.join(", ")
        )));
    };
    match classifies(task) {
        true => Ok(task.clone()),
        false => Err(Error::input(format!(
            "--labels: task `{written}` has no labels"
        ))),
    }
}

fn classifying(task: Task, path: &Path) -> Result<Task> {
    if task.kind == TaskKind::Classify {
        Ok(task)
    } else {
        Err(Error::input("a task without labels").at_path(path))
    }
}

fn bare(name: &str) -> Label {
    Label {
        name: name.to_owned(),
        words: BTreeMap::new(),
    }
}

/// Labels of a list, of the names of a map with their words, or of either under `labels`.
fn in_tree(tree: &Value) -> Result<Vec<Label>> {
    match tree {
        Value::Sequence(entries) => entries
            .iter()
            .map(|entry| Ok(bare(&name(entry)?)))
            .collect(),
        Value::Mapping(fields) => match fields.get("labels") {
            Some(labels) => in_tree(labels),
            None => fields
                .iter()
                .map(|(key, words)| {
                    Ok(Label {
                        name: name(key)?,
                        words: words_of(words)?,
                    })
                })
                .collect(),
        },
        other => Err(Error::input(format!("no labels in {}", kind(other)))),
    }
}

fn name(value: &Value) -> Result<String> {
    match value {
        Value::String(name) => Ok(name.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(
            Error::input(format!("found {} where a label should stand", kind(other)))
                .hint("put the label in quotes"),
        ),
    }
}

/// The words for a label by language; `null` for none.
fn words_of(value: &Value) -> Result<BTreeMap<String, String>> {
    match value {
        Value::Null => Ok(BTreeMap::new()),
        Value::Mapping(words) => words
            .iter()
            .map(|(language, word)| Ok((name(language)?, name(word)?)))
            .collect(),
        other => Err(Error::input(format!(
            "found {} where words by language should stand",
            kind(other)
        ))
        .hint("as in `happy: {en: happy, ar: سعيد}`")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "yes or no",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        _ => "a map",
    }
}

/// The labels, two at least and all unlike, case aside: answers are read without it.
fn checked(labels: Vec<Label>) -> Result<Vec<Label>> {
    for (i, label) in labels.iter().enumerate() {
        if let Some(other) = labels[..i]
            .iter()
            .find(|other| other.name.to_lowercase() == label.name.to_lowercase())
        {
            return Err(Error::input(format!(
                "the labels `{}` and `{}` are one",
                other.name, label.name
            )));
        }
    }
    if labels.len() < 2 {
        return Err(Error::input(format!(
            "{} labels, two at least make an inventory",
            labels.len()
        )));
    }
    Ok(labels)
}
