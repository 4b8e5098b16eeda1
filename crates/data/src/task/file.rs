//! A task file as written, checked and resolved into a [`Task`].

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

use crate::language;
use crate::spelling::label_key;
use crate::spelling::ordinary;
use crate::spelling::visible;
use crate::task::Answer;
use crate::task::AnswerFormat;
use crate::task::AskedIn;
use crate::task::Instructions;
use crate::task::Label;
use crate::task::Task;
use crate::task::Wording;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::yaml;
use maqam_metrics::TaskKind;
use yaml_serde::Value;

/// The slot of an instruction that takes the inventory.
pub const LABELS_SLOT: &str = "{labels}";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: TaskKind,
    #[serde(default, deserialize_with = "labels_in_order")]
    labels: Vec<Label>,
    #[serde(default, deserialize_with = "by_language")]
    system: BTreeMap<String, String>,
    #[serde(deserialize_with = "instructions")]
    instructions: WrittenInstructions,
    answer: Option<Answer>,
    metric: Option<String>,
}

/// Instructions as a file has them.
struct WrittenInstructions {
    all: Instructions,
    /// The sets that are not written and take the wordings of `train`.
    shared: Vec<Wording>,
}

/// Reads the task `name` from the contents of its file.
///
/// # Errors
/// What is not YAML, not a known key or not a sound task, naming the file and, where it has one,
/// the line.
pub fn parse(name: &str, contents: &str, path: &Path) -> Result<Task> {
    let written: Written = yaml::parse(contents, path)?;
    let kind = written.kind;
    let answer = written.answer.unwrap_or(match kind.is_text() {
        true => Answer {
            format: AnswerFormat::Text,
            max_new_tokens: 256,
        },
        false => Answer {
            format: AnswerFormat::Label,
            max_new_tokens: 16,
        },
    });
    let task = Task {
        name: name.to_owned(),
        kind,
        labels: written.labels,
        system: written.system,
        instructions: written.instructions.all,
        answer,
        metric: written.metric.unwrap_or_else(|| kind.headline().to_owned()),
        asked_in: AskedIn::default(),
    };
    check_kind(&task)
        .and_then(|()| check_labels(&task))
        .and_then(|()| check_instructions(&task, &written.instructions.shared))
        .map_err(|error| error.at_path(path))?;
    Ok(task)
}

/// Reads labels, keeping the order in which the file lists them: `{name: {language: word}}`,
/// `{name: word}` or `[name, name]`.
fn labels_in_order<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<Label>, D::Error> {
    struct InOrder;
    impl<'de> Visitor<'de> for InOrder {
        type Value = Vec<Label>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of labels, or labels with a word per language, as in {happy: {en: happy, ar: سعيد}}")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<Vec<Label>, E> {
            Ok(vec![bare(name.to_owned())])
        }

        fn visit_seq<A: SeqAccess<'de>>(
            self,
            mut list: A,
        ) -> std::result::Result<Vec<Label>, A::Error> {
            let mut labels = Vec::new();
            while let Some(entry) = list.next_element::<Value>()? {
                let label = match entry {
                    Value::Mapping(map) if map.len() == 1 => map.into_iter().next(),
                    other => Some((other, Value::Null)),
                };
                let Some((name, words)) = label else { continue };
                add(
                    &mut labels,
                    text_of(&name).map_err(A::Error::custom)?,
                    words,
                )
                .map_err(A::Error::custom)?;
            }
            Ok(labels)
        }

        fn visit_map<A: MapAccess<'de>>(
            self,
            mut map: A,
        ) -> std::result::Result<Vec<Label>, A::Error> {
            let mut labels: Vec<Label> = Vec::new();
            while let Some(name) = map.next_key::<String>()? {
                add(&mut labels, name, map.next_value()?).map_err(A::Error::custom)?;
            }
            Ok(labels)
        }
    }
    deserializer.deserialize_any(InOrder)
}

fn bare(name: String) -> Label {
    Label {
        name,
        words: BTreeMap::new(),
    }
}

/// Adds a label with its words: none, one in the language of its letters, or one per language.
fn add(labels: &mut Vec<Label>, name: String, words: Value) -> std::result::Result<(), String> {
    let name = ordinary(&name).into_owned();
    if labels.iter().any(|label| label.name == name) {
        return Err(format!("label `{}` is written twice", visible(&name)));
    }
    let words = match words {
        Value::Null => BTreeMap::new(),
        words => of_languages(words).map_err(|what| format!("{what} for label `{name}`"))?,
    };
    labels.push(Label { name, words });
    Ok(())
}

/// A text, whatever YAML takes it for: `1` and `true` can be labels.
fn text_of(value: &Value) -> std::result::Result<String, String> {
    match value {
        Value::String(text) => Ok(ordinary(text).into_owned()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Null => Err("found nothing, expected a text".to_owned()),
        Value::Sequence(_) => Err("found a list, expected a text".to_owned()),
        _ => Err("found fields with names, expected a text".to_owned()),
    }
}

/// A text by language, or one text in the language of its letters.
fn of_languages(value: Value) -> std::result::Result<BTreeMap<String, String>, String> {
    match value {
        Value::Mapping(map) => map
            .iter()
            .map(|(key, value)| Ok((language_of(key)?, text_of(value)?)))
            .collect(),
        one => {
            let text = text_of(&one)?;
            Ok(BTreeMap::from([(by_letters(&text).to_owned(), text)]))
        }
    }
}

/// The tag of a language that a file names.
fn language_of(key: &Value) -> std::result::Result<String, String> {
    language::tag(&text_of(key)?).map_err(|error| error.message().to_owned())
}

/// The language of a text that does not say it: Arabic where it has Arabic letters, else English.
fn by_letters(text: &str) -> &'static str {
    let is_arabic = |c: char| matches!(c, '\u{600}'..='\u{6ff}');
    if text.contains(is_arabic) { "ar" } else { "en" }
}

fn by_language<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<BTreeMap<String, String>, D::Error> {
    of_languages(Value::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Wordings by language.
type Wordings = BTreeMap<String, Vec<String>>;

/// Reads instructions: sets of wordings by language, wordings by language, or wordings in the
/// language of their letters. A set that is not written takes the wordings of `train`.
fn instructions<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<WrittenInstructions, D::Error> {
    const SETS: [&str; 3] = ["train", "dev", "test"];
    let tree = Value::deserialize(deserializer)?;
    let is_set = |key: &Value| key.as_str().is_some_and(|key| SETS.contains(&key));
    let map = match tree {
        Value::Mapping(map) if map.keys().any(is_set) => map,
        other => {
            let wordings = wordings(other).map_err(D::Error::custom)?;
            return Ok(WrittenInstructions {
                all: Instructions {
                    dev: wordings.clone(),
                    test: wordings.clone(),
                    train: wordings,
                },
                shared: vec![Wording::Dev, Wording::Test],
            });
        }
    };
    let mut sets: BTreeMap<&str, Wordings> = BTreeMap::new();
    for (key, value) in map {
        let written = text_of(&key).map_err(D::Error::custom)?;
        let Some(set) = SETS.iter().find(|set| **set == written) else {
            return Err(D::Error::unknown_field(&written, &SETS));
        };
        let found = wordings(value).map_err(|what| D::Error::custom(format!("{set}: {what}")))?;
        sets.insert(set, found);
    }
    let train = sets
        .remove("train")
        .ok_or_else(|| D::Error::missing_field("train"))?;
    let shared = [Wording::Dev, Wording::Test]
        .into_iter()
        .filter(|set| !sets.contains_key(set.name()))
        .collect();
    Ok(WrittenInstructions {
        all: Instructions {
            dev: sets.remove("dev").unwrap_or_else(|| train.clone()),
            test: sets.remove("test").unwrap_or_else(|| train.clone()),
            train,
        },
        shared,
    })
}

/// Wordings by language: `{en: [A, B]}`, `{en: A}`, `[A, B]` or `A`.
fn wordings(value: Value) -> std::result::Result<Wordings, String> {
    let list = |value: Value| match value {
        Value::Sequence(list) => list.iter().map(text_of).collect(),
        one => Ok(vec![text_of(&one)?]),
    };
    match value {
        Value::Mapping(map) => map
            .into_iter()
            .map(|(key, value)| Ok((language_of(&key)?, list(value)?)))
            .collect(),
        other => {
            let mut found = Wordings::new();
            for text in list(other)? {
                found
                    .entry(by_letters(&text).to_owned())
                    .or_default()
                    .push(text);
            }
            match found.is_empty() {
                true => Err("found an empty list of instructions".to_owned()),
                false => Ok(found),
            }
        }
    }
}

fn check_kind(task: &Task) -> Result<()> {
    let format_fits = match task.answer.format {
        AnswerFormat::Json => true,
        AnswerFormat::Label => !task.kind.is_text(),
        AnswerFormat::Text => task.kind.is_text(),
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
    match (task.kind.is_text(), task.labels.len()) {
        (false, 0 | 1) => {
            return Err(Error::input(format!(
                "a task that classifies has {} labels",
                task.labels.len()
            ))
            .hint("list at least two under `labels`"));
        }
        (true, 1..) => {
            return Err(Error::input(
                "`labels` belong to a task of `kind: classify`",
            ));
        }
        _ => {}
    }
    let mut owners: HashMap<String, &str> = HashMap::new();
    for label in &task.labels {
        for word in std::iter::once(&label.name).chain(label.words.values()) {
            if label_key(word).is_empty() {
                return Err(Error::input(format!(
                    "label `{}` has an empty word",
                    label.name
                )));
            }
            if let Some(owner) = owners.insert(label_key(word), &label.name)
                && owner != label.name
            {
                return Err(Error::input(format!(
                    "the word `{}` stands for both `{owner}` and `{}`",
                    visible(word),
                    visible(&label.name)
                )));
            }
        }
    }
    Ok(())
}

fn check_instructions(task: &Task, shared: &[Wording]) -> Result<()> {
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
        let is_shared = shared.contains(&wording);
        for (language, wordings) in by_language {
            if wordings.is_empty() {
                return Err(Error::input(format!("`{place}.{language}` is empty")));
            }
            for text in wordings {
                check_slots(task.kind, text)
                    .map_err(|error| error.at(format!("{place}.{language}")))?;
                // A set that takes the wordings of `train` repeats them all.
                if is_shared {
                    continue;
                }
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
fn check_slots(kind: TaskKind, text: &str) -> Result<()> {
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
            Some(LABELS_SLOT) if kind == TaskKind::Classify => {}
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
            (format!("kind: clasify\n{INSTRUCTIONS}"), "t.yaml:1:7: kind: unknown value `clasify`"),
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

    fn read(contents: &str) -> Task {
        parse("t", contents, Path::new("t.yaml")).unwrap()
    }

    #[test]
    fn one_instruction_serves_every_set() {
        let single = read("kind: transcribe\ninstructions: Write down what is said.\n");
        for wording in [Wording::Train, Wording::Dev, Wording::Test] {
            assert_eq!(
                single.instructions.of(wording),
                &BTreeMap::from([("en".to_owned(), vec!["Write down what is said.".to_owned()])])
            );
        }
        for (written, full) in [
            ("[A., B.]", "{train: {en: [A., B.]}}"),
            ("{en: A., ar: ب}", "{train: {en: [A.], ar: [ب]}}"),
            ("[A., ب]", "{train: {en: [A.], ar: [ب]}}"),
            ("{English: A.}", "{train: {en: [A.]}}"),
            (
                "{train: A., dev: B., test: C.}",
                "{train: {en: [A.]}, dev: {en: [B.]}, test: {en: [C.]}}",
            ),
        ] {
            assert_eq!(
                read(&format!("kind: generate\ninstructions: {written}")),
                read(&format!("kind: generate\ninstructions: {full}")),
                "{written}"
            );
        }
    }

    #[test]
    fn labels_may_be_a_list() {
        let names = |labels: &str| -> Vec<String> {
            let task = read(&format!(
                "kind: classify\nlabels: {labels}\ninstructions: Which of {{labels}}?"
            ));
            task.labels.into_iter().map(|label| label.name).collect()
        };
        assert_eq!(names("[low, neutral, high]"), ["low", "neutral", "high"]);
        assert_eq!(
            names("{low: , neutral: , high: }"),
            ["low", "neutral", "high"]
        );
        assert_eq!(names("[1, 2, 3]"), ["1", "2", "3"]);
        assert_eq!(names("[low, {high: {ar: عال}}]"), ["low", "high"]);
        let task =
            read("kind: classify\nlabels: {low: منخفض, high: {arabic: عال}}\ninstructions: Which?");
        assert_eq!(task.labels[0].words["ar"], "منخفض");
        assert_eq!(task.labels[1].words["ar"], "عال");
    }

    #[test]
    fn messages_name_no_type_of_the_program() {
        for (contents, expected) in [
            (
                "kind: generate\ninstructions: {trian: {en: A.}, dev: {en: B.}}",
                "unknown field `trian`, expected one of `train`, `dev`, `test`\nhint: did you mean `train`?",
            ),
            (
                "kind: generate\ninstructions: {dev: {en: B.}}",
                "`train` is missing",
            ),
            (
                "kind: generate\ninstructions: {en: {a: b}}",
                "found fields with names, expected a text",
            ),
            (
                "kind: generate\ninstructions: {klingonish: A.}",
                "unknown language `klingonish`",
            ),
            (
                "kind: generate\ninstructions: []",
                "found an empty list of instructions",
            ),
            ("kind: generate", "`instructions` is missing"),
            (
                "kind: generate\ninstructions: A.\nanswer: text",
                "answer: found the text \"text\", expected fields with names",
            ),
            (
                "kind: classify\nlabels: 5\ninstructions: A.",
                "labels: found the number 5, expected a list of labels",
            ),
            (
                "kind: classify\nlabels: [a, \"a\\u200f\"]\ninstructions: A.",
                "the word `a\\u{200f}` stands for both",
            ),
        ] {
            let error = refused(contents);
            assert!(error.contains(expected), "{contents}\n-> {error}");
            assert!(
                !error.contains("struct ") && !error.contains("invalid"),
                "{error}"
            );
        }
    }
}
