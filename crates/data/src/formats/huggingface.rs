//! Hugging Face `datasets`: names of classes, `save_to_disk` folders, and Parquet files that
//! `load_dataset` reads.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;

/// Key of the features in the metadata of a Parquet or Arrow file.
pub const KEY: &str = "huggingface";

/// State file of `save_to_disk` in a data set's folder.
const STATE: &str = "state.json";
const INFO: &str = "dataset_info.json";
const SPLITS: &str = "dataset_dict.json";

/// Names of the classes of numeric columns, by column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classes(HashMap<String, Vec<String>>);

impl Classes {
    /// Classes of the text under [`KEY`]; none without such a text.
    pub fn of_metadata(text: Option<&str>) -> Self {
        let info: Value = text
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        Self::of_features(&info["info"]["features"])
    }

    fn of_features(features: &Value) -> Self {
        let mut classes = HashMap::new();
        for (column, feature) in features.as_object().into_iter().flatten() {
            // A list of classes has the feature of its items inside.
            let class = [feature, &feature["feature"]]
                .into_iter()
                .find(|feature| feature["_type"] == "ClassLabel");
            let names: Option<Vec<String>> = class.and_then(|class| {
                class["names"]
                    .as_array()?
                    .iter()
                    .map(|name| name.as_str().map(str::to_owned))
                    .collect()
            });
            if let Some(names) = names {
                classes.insert(column.clone(), names);
            }
        }
        Self(classes)
    }

    /// A value of a column with class names in place of numbers. -1, which means an unknown class,
    /// becomes null.
    pub fn named(&self, column: &str, value: Value) -> Value {
        let Some(names) = self.0.get(column) else {
            return value;
        };
        let name = |value: Value| match value.as_i64() {
            Some(-1) => Value::Null,
            Some(number) => usize::try_from(number)
                .ok()
                .and_then(|number| names.get(number))
                .map_or(value, |name| Value::from(name.as_str())),
            None => value,
        };
        match value {
            Value::Array(values) => values.into_iter().map(name).collect(),
            value => name(value),
        }
    }
}

/// The Arrow files of a folder that `save_to_disk` wrote, and the classes of their columns.
pub struct Saved {
    /// The files, in the order of their rows.
    pub files: Vec<PathBuf>,
    /// The classes.
    pub classes: Classes,
}

/// Checks whether a folder was written by `save_to_disk`.
///
/// # Errors
/// A folder of several splits, of which one must be named; files in it that cannot be read.
pub fn saved(folder: &Path) -> Result<Option<Saved>> {
    let splits = folder.join(SPLITS);
    if splits.is_file() {
        let found: Value =
            json::parse(&files::read_text(&splits)?).map_err(|e| e.at_path(&splits))?;
        let names: Vec<&str> = found["splits"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let first = names.first().copied().unwrap_or("train");
        return Err(
            Error::input(format!("holds several splits: {}", names.join(", ")))
                .at_path(folder)
                .hint(format!(
                    "name one of them, such as `{}`",
                    folder.join(first).display()
                )),
        );
    }

    let state = folder.join(STATE);
    if !state.is_file() {
        return Ok(None);
    }
    let found: Value = json::parse(&files::read_text(&state)?).map_err(|e| e.at_path(&state))?;
    if !found["_indices_data_files"].is_null() {
        return Err(
            Error::input("its rows are a selection (`select`, `filter`, `shuffle`) that its files do not hold in order")
                .at_path(folder)
                .hint("call `flatten_indices()` before `save_to_disk`"),
        );
    }
    let data: Option<Vec<PathBuf>> = found["_data_files"].as_array().and_then(|list| {
        list.iter()
            .map(|file| Some(folder.join(file["filename"].as_str()?)))
            .collect()
    });
    let Some(data) = data.filter(|data| !data.is_empty()) else {
        return Err(Error::input("`_data_files` lists no files").at_path(&state));
    };
    let info = folder.join(INFO);
    let classes = match info.is_file() {
        true => {
            let info: Value =
                json::parse(&files::read_text(&info)?).map_err(|e| e.at_path(&info))?;
            Classes::of_features(&info["features"])
        }
        false => Classes::default(),
    };
    Ok(Some(Saved {
        files: data,
        classes,
    }))
}

/// Features of the written columns, as `datasets` reads them from a file's metadata. `kinds` has
/// the type of each column.
pub fn metadata(kinds: &[(String, Feature)]) -> String {
    let features: Map<String, Value> = kinds
        .iter()
        .map(|(name, kind)| (name.clone(), kind.to_json()))
        .collect();
    json!({"info": {"features": features}}).to_string()
}

/// Type of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Feature {
    /// Audio files.
    Audio,
    /// Lists of audio files.
    Audios,
    /// Texts.
    Text,
    /// Whole numbers.
    Integer,
    /// Numbers.
    Number,
    /// True and false.
    Boolean,
    /// Lists of texts.
    Texts,
    /// Messages with role and content.
    Messages,
}

impl Feature {
    fn to_json(&self) -> Value {
        let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
        let list = |feature: Value| json!({"feature": feature, "_type": "List"});
        match self {
            Self::Audio => json!({"_type": "Audio"}),
            Self::Audios => list(json!({"_type": "Audio"})),
            Self::Text => value("string"),
            Self::Integer => value("int64"),
            Self::Number => value("float64"),
            Self::Boolean => value("bool"),
            Self::Texts => list(value("string")),
            Self::Messages => list(json!({
                "role": value("string"),
                "content": value("string"),
                "loss": value("bool"),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_classes_become_their_names() {
        let text = r#"{"info": {"features": {"label": {"names": ["low", "high"], "_type": "ClassLabel"},
            "tags": {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, "_type": "List"}, "n": {"dtype": "int64", "_type": "Value"}}}}"#;
        let classes = Classes::of_metadata(Some(text));
        assert_eq!(classes.named("label", json!(1)), json!("high"));
        assert_eq!(classes.named("label", json!(-1)), Value::Null);
        assert_eq!(classes.named("label", json!(7)), json!(7));
        assert_eq!(classes.named("tags", json!([1, 0])), json!(["b", "a"]));
        assert_eq!(classes.named("n", json!(1)), json!(1));
        assert_eq!(Classes::of_metadata(Some("not JSON")), Classes::default());
    }
}
