//! Foreign names of fields, from `mappings.yaml`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;

use crate::Columns;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::yaml;

const FILE: &str = include_str!("mappings.yaml");

/// One foreign way of naming fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Name of the format.
    pub format: String,
    /// Columns that identify the format.
    pub when: Vec<String>,
    /// Foreign columns by field.
    pub columns: Columns,
    /// Folder next to the manifest where relative audio paths start.
    #[serde(default)]
    pub folder: Option<String>,
    /// Fields that are read in lower case.
    #[serde(default)]
    pub lower: Vec<String>,
}

/// Contents of `mappings.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mappings {
    /// Formats, the surest first.
    pub mappings: Vec<Mapping>,
    /// Columns that are likely to hold a field, by field.
    pub likely: BTreeMap<String, Vec<String>>,
}

impl Mappings {
    /// The file's contents, read once.
    ///
    /// # Errors
    /// A fault in the file, which a test excludes.
    pub fn get() -> Result<&'static Self> {
        static READ: OnceLock<Option<Mappings>> = OnceLock::new();
        READ.get_or_init(|| yaml::parse(FILE, Path::new("mappings.yaml")).ok())
            .as_ref()
            .ok_or_else(|| Error::bug("mappings.yaml cannot be read"))
    }

    /// The mapping that fits a row's fields, among those of `format` if it is given.
    pub fn of(&self, fields: &Map<String, Value>, format: Option<&str>) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| {
            format.is_none_or(|format| format == mapping.format)
                && mapping.when.iter().all(|name| fields.contains_key(name))
        })
    }

    /// The columns of a row that are likely to hold a field.
    pub fn likely<'a>(&'a self, field: &str, fields: &Map<String, Value>) -> Option<&'a str> {
        self.likely
            .get(field)?
            .iter()
            .map(String::as_str)
            .find(|name| fields.get(*name).is_some_and(|value| !value.is_null()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_and_names_fields() {
        let mappings: Mappings = yaml::parse(FILE, Path::new("mappings.yaml")).unwrap();
        for mapping in &mappings.mappings {
            mapping.columns.check().unwrap();
            assert!(!mapping.when.is_empty(), "{}", mapping.format);
        }
        let fields = mappings
            .likely
            .keys()
            .map(|field| (field.clone(), "x".to_owned()));
        Columns::new(fields).unwrap();
    }
}
