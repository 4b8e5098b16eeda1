//! A line of a predictions file: what was asked, said and due, and what is known of the row.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::error::Result;
use crate::eval::slices;
use crate::eval::suite::Set;
use crate::task::Example;

/// One line of a predictions file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The row's id.
    pub id: String,
    /// What was asked.
    pub task: String,
    /// What the model said.
    pub prediction: String,
    /// What it should have said.
    pub reference: String,
    /// What the answer was understood as; `null` where it names no label.
    pub answer: Option<String>,
    /// The tokens the model said.
    pub tokens: Vec<u32>,
    /// All that it could have said, `reference` first, where there is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// What is known of the row: `speaker, group, dialect, gender, language, wording, seconds, label`, and the fields that the set is
    /// sliced by.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub meta: Map<String, Value>,
    /// Whether it stopped at the limit of new tokens and not of itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hit_limit: bool,
    /// Number of tokens that it should have said, the end included; unknown without a model's tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_tokens: Option<usize>,
    /// Mean negative log-likelihood of these tokens, in nats, where the set asks for its loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Mean log-likelihood of each label's answer, in nats a token, the end included, where the set asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likelihoods: Option<BTreeMap<String, f64>>,
}

impl Prediction {
    /// The prediction of an example whose answer was `said`, its tokens apart.
    ///
    /// # Errors
    /// A field of the row that is sliced by and holds a list or an object.
    pub fn new(set: &Set, example: &Example, said: String) -> Result<Self> {
        let reference = example.reference.clone().unwrap_or_default();
        let references = match example.references.is_empty() {
            true => Vec::new(),
            false => std::iter::once(reference.clone())
                .chain(example.references.iter().map(|other| other.to_string()))
                .collect(),
        };
        Ok(Self {
            id: example.id.clone(),
            task: set.task.name.clone(),
            answer: set.task.parse_answer(&said, set.parses[0]),
            prediction: said,
            reference,
            references,
            meta: meta(set, example)?,
            ..Self::default()
        })
    }

    /// The same with the tokens of what was said.
    #[must_use]
    pub fn with_tokens(self, tokens: Vec<u32>) -> Self {
        Self { tokens, ..self }
    }

    /// The references in their order; one at least.
    pub fn all_references(&self) -> impl Iterator<Item = &str> {
        let only = self
            .references
            .is_empty()
            .then_some(self.reference.as_str());
        only.into_iter()
            .chain(self.references.iter().map(String::as_str))
    }
}

/// Fields of rows that are shown wherever they are known.
const SHOWN: [&str; 2] = ["dialect", "gender"];

fn meta(set: &Set, example: &Example) -> Result<Map<String, Value>> {
    let mut meta = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            meta.insert(name.to_owned(), value);
        }
    };
    put("speaker", example.speaker.clone().map(Value::from));
    put("group", example.group.clone().map(Value::from));
    for name in SHOWN {
        // A list or an object under such a name is no slice, and nobody asked for one.
        put(
            name,
            slices::field_value(name, example)
                .unwrap_or_default()
                .map(Value::from),
        );
    }
    put("language", Some(example.language.clone().into()));
    put("wording", example.wording.clone().map(Value::from));
    put("seconds", slices::seconds(example).map(Value::from));
    put("label", example.label.clone().map(Value::from));
    for slice in &set.slices {
        put(slice, slices::value(slice, example)?.map(Value::from));
    }
    Ok(meta)
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}
