//! A rubric: what a judge is told, on which scales it grades, which model and parameters it is
//! asked with; a YAML file.

use std::path::Path;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

pub use crate::endpoint::bill::Prices;
use crate::endpoint::request::Message;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::yaml;

/// The rubric that ships with the program.
const BUILT_IN: (&str, &str) = (
    "eval/judges/summary.yaml",
    include_str!("../../../eval/judges/summary.yaml"),
);

/// One scale of whole numbers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Its name, the key of the grade in an answer.
    pub name: String,
    /// The worst grade.
    pub lowest: i64,
    /// The best grade.
    pub highest: i64,
    /// What it grades, and what each grade means.
    pub meaning: String,
}

impl Scale {
    /// The scale as a judge is told it.
    fn line(&self) -> String {
        format!(
            "- {} ({} to {}): {}",
            self.name,
            self.lowest,
            self.highest,
            self.meaning.trim()
        )
    }
}

/// A rubric.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rubric {
    /// Its name in outputs.
    pub name: String,
    /// The system message; `{scales}` stands for the scales.
    pub system: String,
    /// The user's message; `{source}`, `{summary}` and `{reference}` stand for the texts.
    pub user: String,
    /// What is said after an answer that cannot be used; `{fault}` stands for what is wrong with
    /// it.
    pub repair: String,
    /// The scales.
    pub scales: Vec<Scale>,
    /// The model that is asked unless the command names another.
    pub model: String,
    /// What else goes into a request, as it is.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The environment variable that holds the key.
    #[serde(default = "usual_variable")]
    pub key_variable: String,
    /// What tokens cost.
    #[serde(default)]
    pub prices: Prices,
}

fn usual_variable() -> String {
    "OPENAI_API_KEY".to_owned()
}

/// What is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The row's id.
    pub id: String,
    /// What was summarised: the transcript.
    pub source: String,
    /// The summary to grade.
    pub summary: String,
    /// A summary by a person, for rubrics that show it.
    pub reference: Option<String>,
}

/// Slots of each template: those that must be there, those that may.
const SLOTS: [(&str, &[&str], &[&str]); 3] = [
    ("system", &["scales"], &[]),
    ("user", &["source", "summary"], &["reference"]),
    ("repair", &["fault"], &[]),
];
/// What `parameters` may not set, because the program does.
const OURS: [&str; 4] = ["model", "messages", "stream", "n"];

impl Rubric {
    /// Reads a rubric, or the one that ships where no path is given.
    ///
    /// # Errors
    /// What is not YAML, not a known key or not a sound rubric, naming the file.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        match path {
            Some(path) => Self::parse(&files::read_text(path)?, path),
            None => Self::parse(BUILT_IN.1, Path::new(BUILT_IN.0)),
        }
    }

    fn parse(contents: &str, path: &Path) -> Result<Self> {
        let rubric: Self = yaml::parse(contents, path)?;
        rubric.check().map_err(|e| e.at_path(path))?;
        Ok(rubric)
    }

    fn check(&self) -> Result<()> {
        if self.scales.is_empty() {
            return Err(Error::input("`scales` is empty"));
        }
        for (i, scale) in self.scales.iter().enumerate() {
            if scale.lowest >= scale.highest {
                return Err(Error::input(format!(
                    "scale `{}` goes from {} to {}",
                    scale.name, scale.lowest, scale.highest
                )));
            }
            if scale.name == REASON
                || self.scales[..i]
                    .iter()
                    .any(|other| other.name == scale.name)
            {
                return Err(Error::input(format!(
                    "the name `{}` of a scale is taken",
                    scale.name
                )));
            }
        }
        if let Some(name) = OURS
            .iter()
            .find(|name| self.parameters.contains_key(**name))
        {
            return Err(Error::input(format!("`parameters` sets `{name}`"))
                .hint("`model` is a key of the rubric; the program sets the others"));
        }
        for (place, needed, allowed) in SLOTS {
            let template = match place {
                "system" => &self.system,
                "user" => &self.user,
                _ => &self.repair,
            };
            check_slots(template, needed, allowed).map_err(|e| e.at(place))?;
        }
        Ok(())
    }

    /// What a judge is told about an item.
    ///
    /// # Errors
    /// An item without a reference where the rubric shows one.
    pub fn messages(&self, item: &Item) -> Result<Vec<Message>> {
        let scales = self.scales.iter().map(Scale::line);
        let scales = scales.collect::<Vec<_>>().join("\n");
        let reference = match (
            &item.reference,
            slots(&self.user).any(|(_, slot)| slot == "reference"),
        ) {
            (None, true) => {
                return Err(
                    Error::input("the rubric shows a `reference`, the row has none")
                        .at(format!("row `{}`", item.id)),
                );
            }
            (reference, _) => reference.as_deref().unwrap_or_default(),
        };
        let user = filled(
            &self.user,
            &[
                ("source", &item.source),
                ("summary", &item.summary),
                ("reference", reference),
            ],
        );
        Ok(vec![
            ("system", filled(&self.system, &[("scales", &scales)])),
            ("user", user),
        ])
    }

    /// What a judge is told after an answer that cannot be used.
    pub fn repair(&self, fault: &str) -> Message {
        ("user", filled(&self.repair, &[("fault", fault)]))
    }

    /// All of the rubric that an answer depends on.
    pub fn identity(&self) -> Value {
        let scales: Vec<Value> = self
            .scales
            .iter()
            .map(|scale| json!([scale.name, scale.lowest, scale.highest, scale.meaning]))
            .collect();
        json!([self.system, self.user, self.repair, scales, self.parameters])
    }
}

/// The key of an answer under which a judge may say why.
pub const REASON: &str = "reason";

/// The slots of a template: where each begins, and its name. Braces around anything but small
/// letters are text.
fn slots(template: &str) -> impl Iterator<Item = (usize, &str)> {
    template.match_indices('{').filter_map(|(start, _)| {
        let inside = &template[start + 1..];
        let name = &inside[..inside.find('}')?];
        (!name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase())).then_some((start, name))
    })
}

fn check_slots(template: &str, needed: &[&str], allowed: &[&str]) -> Result<()> {
    if let Some((_, unknown)) =
        slots(template).find(|(_, slot)| !needed.contains(slot) && !allowed.contains(slot))
    {
        let known = [needed, allowed].concat().join("}, {");
        return Err(
            Error::input(format!("nothing fills the slot `{{{unknown}}}`"))
                .hint(format!("there is {{{known}}}")),
        );
    }
    match needed
        .iter()
        .find(|name| !slots(template).any(|(_, slot)| slot == **name))
    {
        Some(missing) => Err(Error::input(format!("lacks the slot `{{{missing}}}`"))),
        None => Ok(()),
    }
}

/// The template with its slots filled in one pass: what fills one is never searched for another.
fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut rest = 0;
    for (start, name) in slots(template) {
        let value = values
            .iter()
            .find(|(known, _)| *known == name)
            .map_or("", |(_, value)| value);
        text += &template[rest..start];
        text += value;
        rest = start + name.len() + 2;
    }
    text + &template[rest..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(summary: &str) -> Item {
        Item {
            id: "a".into(),
            source: "the source".into(),
            summary: summary.into(),
            reference: None,
        }
    }

    #[test]
    fn the_rubric_that_ships_is_sound() {
        let rubric = Rubric::load(None).unwrap();
        assert_eq!(
            rubric
                .scales
                .iter()
                .map(|scale| (scale.name.as_str(), scale.lowest, scale.highest))
                .collect::<Vec<_>>(),
            [
                ("faithfulness", 1, 5),
                ("coverage", 1, 5),
                ("fluency", 1, 5)
            ]
        );
        assert_eq!(
            (
                rubric.parameters["temperature"].as_f64(),
                rubric.key_variable.as_str()
            ),
            (Some(0.0), "OPENAI_API_KEY")
        );
        let messages = rubric.messages(&item("S")).unwrap();
        assert!(
            messages[0].1.contains("- coverage (1 to 5): whether")
                && !messages[0].1.contains("{scales}")
        );
        assert!(
            messages[1].1.contains("<summary>\nS\n</summary>")
                && messages[1].1.contains("the source")
        );
    }

    #[test]
    fn what_fills_a_slot_is_not_filled_again() {
        let rubric = Rubric::load(None).unwrap();
        let said = &rubric
            .messages(&item("{source} {\"a\": 1} {reference}"))
            .unwrap()[1]
            .1;
        assert!(
            said.contains("<summary>\n{source} {\"a\": 1} {reference}\n</summary>"),
            "{said}"
        );
    }

    #[test]
    fn faults_of_a_rubric_are_named() {
        let good = "name: x\nsystem: 'By {scales}'\nuser: '{source} {summary}'\nrepair: '{fault}'\nscales: [{name: a, lowest: 1, highest: 5, meaning: m}]\nmodel: m\n";
        assert!(Rubric::parse(good, Path::new("r.yaml")).is_ok());
        for (from, to, expected) in [
            ("{summary}", "", "r.yaml: user: lacks the slot `{summary}`"),
            (
                "{summary}",
                "{summary} {text}",
                "user: nothing fills the slot `{text}`\nhint: there is {source}, {summary}, {reference}",
            ),
            ("lowest: 1", "lowest: 5", "scale `a` goes from 5 to 5"),
            (
                "name: a,",
                "name: reason,",
                "the name `reason` of a scale is taken",
            ),
            (
                "model: m",
                "model: m\nparameters: {stream: true}",
                "`parameters` sets `stream`",
            ),
            ("model: m", "modell: m", "unknown field `modell`"),
        ] {
            let error = Rubric::parse(&good.replacen(from, to, 1), Path::new("r.yaml"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
        let shows = Rubric::parse(
            &good.replace("{summary}", "{summary} {reference}"),
            Path::new("r.yaml"),
        )
        .unwrap();
        assert!(
            shows
                .messages(&item("s"))
                .unwrap_err()
                .to_string()
                .contains("row `a`: the rubric shows a `reference`")
        );
    }
}
