//! `instructions.json` of an evaluation: what instructions a model followed, as `maqam instructions score --json` says it.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;
use maqam_stats::significance::Interval;

/// The file in the folder of an evaluation.
pub const INSTRUCTIONS_FILE: &str = "instructions.json";

/// What instructions a model followed, as `maqam instructions score --json` says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Instructions {
    /// The model's.
    #[serde(flatten)]
    pub model: Followed,
    /// Those of the untuned base.
    #[serde(default)]
    pub base: Option<Followed>,
    /// What changed from the base.
    #[serde(default)]
    pub change: Option<Change>,
    /// The best constant answer.
    #[serde(default)]
    pub constant: Option<ConstantAnswer>,
    /// Both models on the same rows in text alone.
    #[serde(default)]
    pub text: Option<Box<Instructions>>,
}

/// What differs between two models on the same suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Rows that the base followed and the other does not.
    pub lost: Vec<String>,
    /// Rows that the base did not follow and the other does.
    pub gained: Vec<String>,
    /// The share of rows that the other follows, minus the base's.
    #[serde(default)]
    pub difference: f64,
    /// The 95 % interval of that by resampling clips, both models' rows together; none over few rows or one clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// The p-value of McNemar's exact test over the rows; none in files of earlier versions.
    #[serde(default)]
    pub p: Option<f64>,
}

/// The best that one and the same answer to every row scores.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ConstantAnswer {
    /// The answer.
    pub answer: String,
    /// What it scores.
    #[serde(flatten)]
    pub scores: Followed,
    /// From it to the model.
    pub change: Change,
}

/// What instructions were followed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Followed {
    /// Of all rows.
    pub all: Rates,
    /// By what they ask for, in the order of the suite.
    #[serde(deserialize_with = "in_order")]
    pub kinds: Vec<(String, Rates)>,
}

/// Shares of what held. On the level of prompts a row counts where all its checks hold, on that of instructions each check counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Number of rows.
    pub prompts: usize,
    /// Number of checks.
    #[serde(default)]
    pub instructions: usize,
    /// Rows, strictly.
    pub prompt_strict: f64,
    /// Rows, loosely: also without their first line, last line or asterisks.
    pub prompt_loose: f64,
    /// Checks, strictly.
    #[serde(default)]
    pub instruction_strict: f64,
    /// Checks, loosely.
    #[serde(default)]
    pub instruction_loose: f64,
    /// Number of rows of which the right answer is known.
    #[serde(default)]
    pub known: usize,
    /// Of these, the share that follow strictly and are right; zero over none.
    #[serde(default)]
    pub followed_and_right: f64,
    /// The 95 % interval of `prompt_strict` by resampling clips; none over few rows or one clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

impl Instructions {
    /// Reads the file of an evaluation's folder; `None` where there is none.
    ///
    /// # Errors
    /// A file of another form.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(INSTRUCTIONS_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        json::parse(&files::read_text(&path)?)
            .map(Some)
            .map_err(|e| {
                e.at("not the scores of instructions")
                    .at_path(&path)
                    .hint("`maqam instructions score --json` writes them")
            })
    }
}

impl Followed {
    /// The rates of one kind.
    pub fn kind(&self, name: &str) -> Option<&Rates> {
        self.kinds
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, rates)| rates)
    }
}

/// An object's entries in their order.
fn in_order<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<(String, Rates)>, D::Error> {
    let object = Map::<String, Value>::deserialize(deserializer)?;
    let entry = |(name, value): (String, Value)| {
        Ok((
            name,
            Rates::deserialize(value).map_err(serde::de::Error::custom)?,
        ))
    };
    object.into_iter().map(entry).collect()
}
