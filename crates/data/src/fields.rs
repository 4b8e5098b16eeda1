//! Access to the fields of a row by name and type, for every file format.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Map;
use serde_json::Value;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::json;

/// Beyond this many different texts a column is taken to be unlike in every row, and sharing no
/// longer pays.
const MAX_SHARED: usize = 1 << 16;

/// Texts that many rows share, stored once.
#[derive(Default)]
pub struct Shared {
    texts: HashSet<Arc<str>>,
}

impl Shared {
    /// The one copy of `text`.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        if self.texts.len() < MAX_SHARED {
            self.texts.insert(new.clone());
        }
        new
    }
}

/// Unread fields of a row's audio objects, by name.
pub type Unread = Vec<(String, Value)>;

/// The fields of one row that have not been taken yet.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// All fields of a row; null means a missing field.
    pub fn new(mut map: Map<String, Value>) -> Self {
        map.retain(|_, value| !value.is_null());
        Self(map)
    }

    /// Takes a field of any type.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name)
    }

    /// Returns whether a field has not been taken.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Puts a field back that was taken and has another meaning.
    pub fn put_back(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// The fields that have not been taken, by name.
    pub fn left(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, &other, "a string")),
        }
    }

    /// Takes a name: a text, or a whole number as data sets like to write ids and speakers.
    pub fn name(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {
                Ok(Some(number.to_string()))
            }
            Some(other) => Err(wrong_type(name, &other, "a string or a whole number")),
        }
    }

    /// Takes a time: a number, or a text of one, finite and zero or more.
    pub fn seconds(&mut self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        // Tables that were converted row by row hold their numbers as texts.
        let seconds = value
            .as_f64()
            .or_else(|| value.as_str()?.trim().parse().ok())
            .ok_or_else(|| wrong_type(name, &value, "a number of seconds"))?;
        if seconds.is_finite() && seconds >= 0.0 {
            Ok(Some(seconds))
        } else {
            Err(Error::input(format!("`{name}` is {value}"))
                .hint("a time in seconds is zero or more"))
        }
    }

    /// Takes a list; a string that holds a JSON list counts, because Parquet files often keep
    /// nested values so.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(Value::String(text)) if text.trim_start().starts_with('[') => {
                match serde_json::from_str(&text) {
                    Ok(values) => Ok(Some(values)),
                    Err(error) => Err(json::explain(text.as_bytes(), &error)
                        .at(format!("`{name}` is a string that starts like a list, but"))),
                }
            }
            Some(other) => Err(wrong_type(name, &other, "a list")),
        }
    }

    /// Moves the fields that nobody has taken to others.
    pub fn move_left(self, to: &mut Unread) {
        to.extend(self.0);
    }

    /// The rest of the fields, as one JSON object; `None` if there are none.
    pub fn rest(self) -> Option<String> {
        (!self.0.is_empty()).then(|| Value::Object(self.0).to_string())
    }
}

/// The error for a field of another type.
pub fn wrong_type(name: &str, found: &Value, wanted: &str) -> Error {
    Error::input(format!("`{name}` is {}, not {wanted}", brief(found)))
}

/// A value in error messages: its type and its beginning.
pub fn brief(value: &Value) -> String {
    let text = value.to_string();
    let shown: String = text.chars().take(40).collect();
    let dots = if shown.len() < text.len() { "..." } else { "" };
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(_) => "the boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the string",
        Value::Array(_) => "the list",
        Value::Object(_) => "the object",
    };
    format!("{kind} {shown}{dots}")
}
