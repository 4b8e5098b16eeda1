//! Names of a row's fields and the columns of a foreign file that hold them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::row::FIELDS;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Prefix of a field whose name another one takes.
const DISPLACED: &str = "original_";

/// Foreign columns by the field that each becomes: `{audio: path, text: sentence}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Columns(BTreeMap<String, String>);

impl Columns {
    /// Columns from pairs of field and column.
    ///
    /// # Errors
    /// A name that is no field of a row.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let columns = Self(pairs.into_iter().collect());
        columns.check()?;
        Ok(columns)
    }

    /// Returns whether no column is renamed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses a key that is no field of a row.
    ///
    /// # Errors
    /// The key, with the known fields.
    pub fn check(&self) -> Result<()> {
        let unknown = self
            .0
            .keys()
            .find(|name| !FIELDS.contains(&name.as_str()) && *name != "input");
        match unknown {
            None => Ok(()),
            Some(name) => {
                // People write the pair the other way round.
                let turned = self
                    .0
                    .get(name)
                    .filter(|column| FIELDS.contains(&column.as_str()));
                let found =
                    Error::input(format!("`columns: {name}`: `{name}` is no field of a row"));
                Err(match turned {
                    Some(field) => found.hint(format!(
                        "write the field first and its column behind it: `columns: {{{field}: {name}}}`"
                    )),
                    None => found.hint(
                        "fields are audio, text, summary, label, speaker, language, task, group, id and those of docs/data.md",
                    ),
                })
            }
        }
    }

    /// The field that a column becomes.
    pub fn field_of(&self, column: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(_, found)| *found == column)
            .map(|(field, _)| field.as_str())
    }

    /// The columns that are named.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// Pairs of field and column.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(field, column)| (field.as_str(), column.as_str()))
    }

    /// Renames fields of a row. A field whose name another one takes becomes `original_NAME`.
    pub fn apply(&self, fields: &mut Map<String, Value>, seen: &mut BTreeSet<String>) {
        for (field, column) in self.pairs() {
            if field == column {
                if fields.contains_key(field) {
                    seen.insert(column.to_owned());
                }
                continue;
            }
            let Some(value) = fields.shift_remove(column) else {
                continue;
            };
            if !seen.contains(column) {
                seen.insert(column.to_owned());
            }
            if let Some(displaced) = fields.insert(field.to_owned(), value)
                && !displaced.is_null()
            {
                fields.insert(format!("{DISPLACED}{field}"), displaced);
            }
        }
    }
}

impl FromStr for Columns {
    type Err = Error;

    /// Reads `audio=path,text=sentence`.
    fn from_str(text: &str) -> Result<Self> {
        let pairs: Result<Vec<(String, String)>> = text
            .split(',')
            .map(|pair| {
                pair.split_once('=')
                    .map(|(field, column)| (field.trim().to_owned(), column.trim().to_owned()))
                    .filter(|(field, column)| !field.is_empty() && !column.is_empty())
                    .ok_or_else(|| {
                        Error::input(format!("`{pair}` is no pair of field and column"))
                            .hint("write FIELD=COLUMN, such as `--columns text=sentence`")
                    })
            })
            .collect();
        Self::new(pairs?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_become_fields_and_nothing_is_lost() {
        let columns: Columns = "text=normalized,audio=path".parse().unwrap();
        let Value::Object(mut row) =
            json!({"path": "a.wav", "text": "Hi!", "normalized": "hi", "age": 3})
        else {
            unreachable!()
        };
        let mut seen = BTreeSet::new();
        columns.apply(&mut row, &mut seen);
        assert_eq!(
            Value::Object(row),
            json!({"age": 3, "audio": "a.wav", "text": "hi", "original_text": "Hi!"})
        );
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_swapped_pair_of_columns_gets_a_hint() {
        let error = "sentence=text".parse::<Columns>().unwrap_err().to_string();
        assert!(error.contains("`columns: {text: sentence}`"), "{error}");
    }
}
