//! Descriptions of the files that people write: a JSON Schema of each, and a commented file to
//! start from.
//!
//! The schemas are YAML next to this file, and tests compare them with the settings types
//! (`tests/it/schema.rs`): every key, every value of a choice, every default. They are written by
//! hand, because a derived schema does not know rules such as one value for a list, a path in place
//! of fields, or labels and instructions in several forms.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::error::Error;
use crate::error::Result;

/// A kind of file that people write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaKind {
    /// A training run.
    Recipe,
    /// The sets that a model is evaluated on.
    Suite,
    /// A task file.
    Task,
    /// Recipes times seeds.
    Experiment,
    /// A speech-summarization data set.
    Build,
}

impl SchemaKind {
    /// Every kind, in the order of the manual.
    pub const ALL: [Self; 5] = [
        Self::Recipe,
        Self::Suite,
        Self::Task,
        Self::Experiment,
        Self::Build,
    ];

    /// Name of the kind in commands and in the manual.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recipe => "recipe",
            Self::Suite => "suite",
            Self::Task => "task",
            Self::Experiment => "experiment",
            Self::Build => "build",
        }
    }

    /// Commented file to start from, as YAML.
    pub fn template(self) -> &'static str {
        match self {
            Self::Recipe => include_str!("new/recipe.yaml"),
            Self::Suite => include_str!("new/suite.yaml"),
            Self::Task => include_str!("new/task.yaml"),
            Self::Experiment => include_str!("new/experiment.yaml"),
            Self::Build => include_str!("new/build.yaml"),
        }
    }

    /// JSON Schema of the kind, draft 2020-12. A list may also be written as its one entry, as in
    /// the program.
    ///
    /// # Errors
    /// A schema that is not YAML, which is a bug of maqam.
    pub fn schema(self) -> Result<Value> {
        let written = match self {
            Self::Recipe => include_str!("recipe.yaml"),
            Self::Suite => include_str!("suite.yaml"),
            Self::Task => include_str!("task.yaml"),
            Self::Experiment => include_str!("experiment.yaml"),
            Self::Build => include_str!("build.yaml"),
        };
        let mut schema: Value = yaml_serde::from_str(written).map_err(Error::bug_from)?;
        accept_one_entry(&mut schema);
        Ok(schema)
    }
}

/// Keys of a list's schema that describe its entries; the others describe the key itself.
const OF_THE_LIST: [&str; 4] = ["type", "items", "minItems", "maxItems"];

/// Lets every described list of any length also be written as its one entry.
fn accept_one_entry(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(accept_one_entry),
        Value::Object(object) => {
            object.values_mut().for_each(accept_one_entry);
            let is_described_list = object.get("type") == Some(&json!("array"))
                && object.contains_key("description")
                && !object.contains_key("maxItems");
            if is_described_list {
                let (list, mut about): (Map<String, Value>, Map<String, Value>) =
                    std::mem::take(object)
                        .into_iter()
                        .partition(|(key, _)| OF_THE_LIST.contains(&key.as_str()));
                let entry = list.get("items").cloned().unwrap_or(json!(true));
                about.insert("anyOf".to_owned(), json!([list, entry]));
                *object = about;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_may_be_their_one_entry() {
        let schema = SchemaKind::Suite.schema().unwrap();
        let controls = &schema["properties"]["controls"];
        assert!(controls["description"].is_string());
        assert_eq!(controls["anyOf"][0]["type"], "array");
        assert_eq!(controls["anyOf"][1], controls["anyOf"][0]["items"]);
        assert!(controls["anyOf"][1]["oneOf"].is_array());

        let recipe = SchemaKind::Recipe.schema().unwrap();
        let betas = &recipe["$defs"]["optimiser"]["properties"]["betas"];
        assert_eq!(betas["type"], "array", "two numbers are never one");
    }
}
