//! A task file as written, checked and resolved into a [`Task`].

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::Visitor;

use crate::task::Answer;
use crate::task::AnswerFormat;
use crate::task::Instructions;
use crate::task::Kind;
use crate::task::Label;
use crate::task::Task;
use crate::task::Wording;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::yaml;

/// The slot of an instruction that takes the inventory.
pub const LABELS_SLOT: &str = "{labels}";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: Kind,
    #[serde(default, deserialize_with = "labels_in_order")]
    labels: Vec<Label>,
    #[serde(default)]
    system: BTreeMap<String, String>,
    instructions: Instructions,
    answer: Option<Answer>,
    metric: Option<String>,
}

/// Reads the task `name` from the contents of its file.
///
/// # Errors
/// What is not YAML, not a known key or not a sound task, naming the file and, where it has one, the line.
pub fn parse(name: &str, contents: &str, path: &Path) -> Result<Task> {
    let written: Written = yaml::parse(contents, path)?;
    let kind = written.kind;
    let answer = written.answer.unwrap_or(match kind {
        Kind::Transcribe | Kind::Generate => Answer {
            format: AnswerFormat::Text,
            max_new_tokens: 256,
        },
        Kind::Classify => Answer {
            format: AnswerFormat::Label,
            max_new_tokens: 16,
        },
    });
    let default_metric = match kind {
        Kind::Transcribe => "wer",
        Kind::Generate => "rougeL",
        Kind::Classify => "uar",
    };
    let task = Task {
        name: name.to_owned(),
        kind,
        labels: written.labels,
        system: written.system,
        instructions: written.instructions,
        answer,
        metric: written.metric.unwrap_or_else(|| default_metric.to_owned()),
    };
    check_kind(&task)
        .and_then(|()| check_labels(&task))
        .and_then(|()| check_instructions(&task))
        .map_err(|error| error.at_path(path))?;
    Ok(task)
}

/// Reads `{name: {language: word}}`, keeping the order in which the file lists the names.
fn labels_in_order<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<Label>, D::Error> {
    struct InOrder;
    impl<'de> Visitor<'de> for InOrder {
        type Value = Vec<Label>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("labels with a word per language, as in {happy: {en: happy, ar: سعيد}}")
        }

        fn visit_map<A: MapAccess<'de>>(
            self,
            mut map: A,
        ) -> std::result::Result<Vec<Label>, A::Error> {
            let mut labels: Vec<Label> = Vec::new();
            while let Some(name) = map.next_key::<String>()? {
                if labels.iter().any(|label| label.name == name) {
                    return Err(A::Error::custom(format!("label `{name}` is written twice")));
                }
                labels.push(Label {
                    name,
                    words: map
                        .next_value::<Option<BTreeMap<String, String>>>()?
                        .unwrap_or_default(),
                });
            }
            Ok(labels)
        }
    }
    deserializer.deserialize_map(InOrder)
}

fn check_kind(task: &Task) -> Result<()> {
    let format_fits = match (task.kind, task.answer.format) {
        (_, AnswerFormat::Json) => true,
        (Kind::Classify, format) => format == AnswerFormat::Label,
        (Kind::Transcribe | Kind::Generate, format) => format == AnswerFormat::Text,
    };
    if !format_fits {
        let found = format!(
            "`answer: {{format: {:?}}}` does not fit `kind: {:?}`",
            task.answer.format, task.kind
        )
        .to_lowercase();
        return Err(Error::input(found)
            .hint("classify answers by label or json, transcribe and generate by text or json"));
    }
    if task.answer.max_new_tokens == 0 {
        return Err(Error::input(
            "`answer: {max_new_tokens: 0}` leaves no room for an answer",
        ));
    }
    let metrics = task.kind.metrics();
    if !metrics.contains(&task.metric.as_str()) {
        let found = Error::input(format!(
            "`metric: {}` is not a metric of this kind of task",
            task.metric
        ));
        return Err(found.hint(format!("choose one of {}", metrics.join(", "))));
    }
    Ok(())
}

fn check_labels(task: &Task) -> Result<()> {
    match (task.kind, task.labels.len()) {
        (Kind::Classify, 0 | 1) => {
            return Err(Error::input(format!(
                "a task that classifies has {} labels",
                task.labels.len()
            ))
            .hint("list at least two under `labels`"));
        }
        (Kind::Transcribe | Kind::Generate, 1..) => {
            return Err(Error::input(
                "`labels` belong to a task of `kind: classify`",
            ));
        }
        _ => {}
    }
    let mut owners: HashMap<String, &str> = HashMap::new();
    for label in &task.labels {
        for word in std::iter::once(&label.name).chain(label.words.values()) {
            if word.trim().is_empty() {
                return Err(Error::input(format!(
                    "label `{}` has an empty word",
                    label.name
                )));
            }
            if let Some(owner) = owners.insert(word.trim().to_lowercase(), &label.name)
                && owner != label.name
            {
                return Err(Error::input(format!(
                    "the word `{word}` stands for both `{owner}` and `{}`",
                    label.name
                )));
            }
        }
    }
    Ok(())
}

fn check_instructions(task: &Task) -> Result<()> {
    let mut seen: HashMap<&str, Wording> = HashMap::new();
    for wording in [Wording::Train, Wording::Dev, Wording::Test] {
        let place = format!("instructions.{wording:?}").to_lowercase();
        let by_language = task.instructions.of(wording);
        if by_language.is_empty() {
            return Err(Error::input(format!("`{place}` has no language")));
        }
        if let Some(language) = task
            .instructions
            .train
            .keys()
            .find(|language| !by_language.contains_key(*language))
        {
            let found = Error::input(format!(
                "`{place}` lacks `{language}`, which `instructions.train` has"
            ));
            return Err(found.hint("each language is worded in train, dev and test"));
        }
        for (language, wordings) in by_language {
            if wordings.is_empty() {
                return Err(Error::input(format!("`{place}.{language}` is empty")));
            }
            for text in wordings {
                check_slots(task.kind, text)
                    .map_err(|error| error.at(format!("{place}.{language}")))?;
                if let Some(earlier) = seen.insert(text.trim(), wording) {
                    let earlier = format!("{earlier:?}").to_lowercase();
                    return Err(Error::input(format!(
                        "`{place}.{language}` repeats a wording of {earlier}: {text}"
                    ))
                    .hint("no wording serves twice"));
                }
            }
        }
    }
    Ok(())
}

/// Refuses an empty instruction, one with an audio mark, and slots that nothing fills.
fn check_slots(kind: Kind, text: &str) -> Result<()> {
    if text.trim().is_empty() {
        return Err(Error::input("an instruction is empty"));
    }
    if text.contains(crate::AUDIO_MARK) {
        return Err(Error::input(format!(
            "an instruction holds `{}`: {text}",
            crate::AUDIO_MARK
        ))
        .hint("the audio comes before the instruction by itself"));
    }
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        rest = &rest[open..];
        let name_len = rest[1..]
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .count();
        let slot = rest
            .get(..name_len + 2)
            .filter(|slot| slot.ends_with('}') && name_len > 0);
        match slot {
            Some(LABELS_SLOT) if kind == Kind::Classify => {}
            Some(slot) => {
                let found = Error::input(format!("nothing fills the slot `{slot}` in: {text}"));
                return Err(found.hint("`{labels}` takes the inventory of a task that classifies; there is no other slot"));
            }
            None => {}
        }
        rest = &rest[1..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTRUCTIONS: &str =
        "instructions: {train: {en: [A.]}, dev: {en: [B.]}, test: {en: [C.]}}";

    fn refused(contents: &str) -> String {
        parse("t", contents, Path::new("t.yaml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn faults_of_a_task_file_are_named() {
        let cases = [
            (format!("kind: classify\nlables: {{}}\n{INSTRUCTIONS}"), "t.yaml:2:1: unknown field `lables`"),
            (format!("kind: clasify\n{INSTRUCTIONS}"), "t.yaml:1:7: kind: unknown variant `clasify`"),
            (format!("kind: classify\n{INSTRUCTIONS}"), "t.yaml: a task that classifies has 0 labels"),
            (format!("kind: transcribe\nlabels: {{a: {{}}, b: {{}}}}\n{INSTRUCTIONS}"), "`labels` belong to a task of `kind: classify`"),
            (format!("kind: classify\nlabels: {{a: {{en: x}}, b: {{ar: X}}}}\n{INSTRUCTIONS}"), "stands for both `a` and `b`"),
            (format!("kind: classify\nlabels: {{a: {{en: x}}, a: {{en: y}}}}\n{INSTRUCTIONS}"), "label `a` is written twice"),
            (format!("kind: generate\nmetric: uar\n{INSTRUCTIONS}"), "`metric: uar` is not a metric of this kind"),
            (format!("kind: generate\nanswer: {{format: label, max_new_tokens: 5}}\n{INSTRUCTIONS}"), "does not fit `kind: generate`"),
            ("kind: generate\ninstructions: {train: {en: [A.]}, dev: {en: [A.]}, test: {en: [C.]}}".into(), "repeats a wording of train: A."),
            ("kind: generate\ninstructions: {train: {en: [A.], ar: [B.]}, dev: {en: [C.]}, test: {en: [D.]}}".into(), "`instructions.dev` lacks `ar`"),
            ("kind: generate\ninstructions: {train: {en: ['Of {labels}.']}, dev: {en: [C.]}, test: {en: [D.]}}".into(), "nothing fills the slot `{labels}`"),
            ("kind: generate\ninstructions: {train: {en: ['<audio> A.']}, dev: {en: [C.]}, test: {en: [D.]}}".into(), "holds `<audio>`"),
            ("kind: generate\ninstructions: {train: {en: [A.]}, dev: {en: []}, test: {en: [D.]}}".into(), "`instructions.dev.en` is empty"),
        ];
        for (contents, expected) in cases {
            let error = refused(&contents);
            assert!(error.contains(expected), "{contents}\n-> {error}");
        }
    }

    #[test]
    fn braces_of_json_are_no_slots() {
        let contents = "kind: generate\ninstructions: {train: {en: ['As {\"a\": 1} or {} or {ع}.']}, dev: {en: [C.]}, test: {en: [D.]}}";
        assert!(parse("t", contents, Path::new("t.yaml")).is_ok());
    }
}
