//! A run's recipe as keys and values: what is shown of it, and where two runs differ.

use std::path::Path;

use yaml_serde::Value;

use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::yaml;

/// A recipe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecipeKeys {
    /// The file's text.
    pub text: String,
    /// Keys with dots, and what stands there, in the order of the file.
    pub values: Vec<(String, String)>,
}

impl RecipeKeys {
    /// Reads a run's `recipe.yaml`.
    ///
    /// # Errors
    /// A file that is no YAML, with its line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path)?;
        let tree: Value = yaml::parse(&text, path)?;
        let mut values = Vec::new();
        flatten(&tree, String::new(), &mut values);
        Ok(Self { text, values })
    }

    /// What stands at a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    /// The keys at which not all of the recipes say the same, with what each says; `None` where one
    /// lacks the key. The name does not count.
    pub fn differences(recipes: &[&Self]) -> Vec<(String, Vec<Option<String>>)> {
        let mut keys: Vec<&str> = Vec::new();
        for (key, _) in recipes.iter().flat_map(|recipe| &recipe.values) {
            if key != "name" && !keys.contains(&key.as_str()) {
                keys.push(key);
            }
        }
        let row = |key: &str| {
            recipes
                .iter()
                .map(|recipe| recipe.get(key).map(str::to_owned))
                .collect::<Vec<_>>()
        };
        keys.into_iter()
            .map(|key| (key.to_owned(), row(key)))
            .filter(|(_, row)| row.iter().any(|value| *value != row[0]))
            .collect()
    }
}

fn flatten(value: &Value, key: String, values: &mut Vec<(String, String)>) {
    let below = |part: &str| {
        if key.is_empty() {
            part.to_owned()
        } else {
            format!("{key}.{part}")
        }
    };
    match value {
        Value::Mapping(mapping) if !mapping.is_empty() => {
            mapping
                .iter()
                .for_each(|(name, value)| flatten(value, below(&brief(name)), values));
        }
        Value::Sequence(list) if list.iter().any(|entry| matches!(entry, Value::Mapping(_))) => {
            list.iter()
                .enumerate()
                .for_each(|(i, value)| flatten(value, below(&i.to_string()), values));
        }
        other => values.push((key, brief(other))),
    }
}

/// A value on one line.
fn brief(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Sequence(list) => format!(
            "[{}]",
            list.iter().map(brief).collect::<Vec<_>>().join(", ")
        ),
        Value::Mapping(mapping) => {
            let entries = mapping
                .iter()
                .map(|(name, value)| format!("{}: {}", brief(name), brief(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        Value::Tagged(tagged) => brief(&tagged.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> RecipeKeys {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.yaml");
        files::write_atomic(&path, text.as_bytes()).unwrap();
        RecipeKeys::read(&path).unwrap()
    }

    #[test]
    fn recipes_differ_where_they_say_something_else() {
        let first = settings(
            "name: a\nseed: 7\nschedule:\n  batch: 8\n  stages:\n  - {name: listen, tasks: [asr], steps: 10}\n",
        );
        let second = settings(
            "name: b\nseed: 7\nschedule:\n  batch: 8\n  stages:\n  - {name: listen, tasks: all, steps: 10}\n  - {name: refine, steps: 5}\n",
        );
        assert_eq!(
            (
                first.get("schedule.stages.0.tasks"),
                second.get("schedule.stages.1.steps")
            ),
            (Some("[asr]"), Some("5"))
        );
        let differences = RecipeKeys::differences(&[&first, &second]);
        let keys: Vec<&str> = differences.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "schedule.stages.0.tasks",
                "schedule.stages.1.name",
                "schedule.stages.1.steps"
            ]
        );
        assert_eq!(differences[1].1, [None, Some("refine".to_owned())]);
    }
}
