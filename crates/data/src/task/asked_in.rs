//! The language that instructions are asked in: that of each row, or one that a recipe or suite
//! sets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;

use crate::language;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// The language that instructions are asked in, `instructions:` of a recipe or of a set: `row`,
/// `both` or a language.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AskedIn {
    /// The row's own language where the task is worded in it, else English.
    #[default]
    Row,
    /// Every language that the task is worded in, drawn anew for each example with equal chances.
    Both,
    /// One language, whatever that of the row; its tag.
    One(String),
}

impl AskedIn {
    /// Whether rows are asked in their own languages, which is the default.
    pub fn is_row(&self) -> bool {
        *self == Self::Row
    }

    /// The language to ask in, given the task's wordings by language; `None` where the row says
    /// none.
    ///
    /// # Errors
    /// A language in which the task has no wording.
    pub(crate) fn of<'a>(
        &'a self,
        wordings: &'a BTreeMap<String, Vec<String>>,
        row: Option<&'a str>,
        draw: Key,
    ) -> Result<Option<&'a str>> {
        match self {
            Self::Row => Ok(row),
            Self::Both => {
                let drawn = draw.below(1, wordings.len().max(1));
                Ok(wordings.keys().nth(drawn).map(String::as_str))
            }
            Self::One(tag) => {
                let primary = tag.split('-').next().unwrap_or(tag);
                if wordings.contains_key(tag) || wordings.contains_key(primary) {
                    return Ok(Some(tag));
                }
                let known: Vec<&str> = wordings.keys().map(String::as_str).collect();
                Err(
                    Error::input(format!("the task has no instruction in `{tag}`")).hint(format!(
                        "it is worded in {}; a task file in `prompts: DIR` adds others",
                        known.join(", ")
                    )),
                )
            }
        }
    }
}

impl fmt::Display for AskedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Row => "row",
            Self::Both => "both",
            Self::One(tag) => tag,
        })
    }
}

impl FromStr for AskedIn {
    type Err = Error;

    fn from_str(written: &str) -> Result<Self> {
        match written {
            "row" => Ok(Self::Row),
            "both" => Ok(Self::Both),
            other => language::tag(other)
                .map(Self::One)
                .map_err(|error| error.hint("write ar, en, another language, `both` or `row`")),
        }
    }
}

impl Serialize for AskedIn {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AskedIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let written = String::deserialize(deserializer)?;
        written
            .parse()
            .map_err(|error: Error| D::Error::custom(error.message()))
    }
}
