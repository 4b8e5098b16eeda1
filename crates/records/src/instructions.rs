//! `instructions.json` of an evaluation: what instructions a model followed, as
//! `maqam instructions score --json` says it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::by_name::ByName;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;
use maqam_stats::significance::Interval;

/// The file in the folder of an evaluation.
pub const INSTRUCTIONS_FILE: &str = "instructions.json";

/// Scores of a model on a suite of instructions, beside those of others on the same suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instructions {
    /// The model's.
    #[serde(flatten)]
    pub model: InstructionScores,
    /// Those of the untuned base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<InstructionScores>,
    /// What changed from the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// The best constant answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant: Option<ConstantAnswer>,
    /// Both models on the same rows in text alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// The 95 % interval of that by resampling clips, both models' rows together; none over few
    /// rows or one clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// The p-value of McNemar's exact test over the rows; none in files of earlier versions.
    #[serde(default)]
    pub p: Option<f64>,
}

/// The best that one and the same answer to every row scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConstantAnswer {
    /// Scores of the answer.
    #[serde(flatten)]
    pub scores: InstructionScores,
    /// The answer.
    pub answer: String,
    /// From it to the model.
    pub change: Change,
}

/// Scores of one model on a suite of instructions. Files of earlier versions have no more than
/// `all` and `kinds`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstructionScores {
    /// Over all rows.
    pub all: Rates,
    /// By kind, in the order of the suite.
    pub kinds: ByName<Rates>,
    /// By name of the check.
    #[serde(default)]
    pub checks: BTreeMap<String, CheckRate>,
    /// By task: the spread over wordings.
    #[serde(default)]
    pub wordings: BTreeMap<String, TaskWordings>,
    /// Row by row, in the order of the suite.
    #[serde(default)]
    pub rows: Vec<Outcome>,
}

/// One check over all rows that ask for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckRate {
    /// Number of times that it is asked.
    pub asked: usize,
    /// Share that held strictly.
    pub strict: f64,
    /// Share that held loosely.
    pub loose: f64,
}

/// Scores of one task that is asked in several wordings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskWordings {
    /// Number of wordings.
    pub wordings: usize,
    /// Number of rows.
    pub prompts: usize,
    /// Share of rows whose checks all hold strictly.
    pub followed: Spread,
    /// Share of right answers, where the rows know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<Spread>,
}

/// Dependence of a score on the words in which the same is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean over wordings.
    pub mean: f64,
    /// Standard deviation over wordings (of these wordings, not an estimate for others).
    pub deviation: f64,
    /// The wording that scores lowest, the first of equals, and its score.
    pub lowest: (String, f64),
    /// The wording that scores highest, the first of equals, and its score.
    pub highest: (String, f64),
}

/// The checks of a row that held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The row's id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// What is resampled together: the clip's group, else the clip, else the row itself.
    pub cluster: String,
    /// Each check, strictly.
    pub strict: Vec<bool>,
    /// Each check, loosely.
    pub loose: Vec<bool>,
    /// Whether the answer is the right one, where the row knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
}

impl Outcome {
    /// Whether every check held, strictly.
    pub fn follows(&self) -> bool {
        self.strict.iter().all(|held| *held)
    }
}

/// Shares of what held. On the level of prompts a row counts where all its checks hold, on that of
/// instructions each check counts.
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

    /// The object as it stands in the file, in one line without its end.
    ///
    /// # Errors
    /// None but a fault of ours.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::bug_from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_as_they_were_written() {
        let rates = r#"{"prompts":2,"instructions":3,"prompt_strict":0.5,"prompt_loose":1.0,"instruction_strict":0.25,"instruction_loose":1.0,"known":1,"followed_and_right":0.0}"#;
        let spread =
            r#"{"mean":0.5,"deviation":0.5,"lowest":["asr/1",0.0],"highest":["asr/2",1.0]}"#;
        let scores = format!(
            r#""all":{rates},"kinds":{{"wording":{rates},"label":{rates}}},"checks":{{"one-of":{{"asked":2,"strict":0.5,"loose":1.0}}}},"wordings":{{"asr":{{"wordings":2,"prompts":2,"followed":{spread}}}}},"rows":[{{"id":"a","kind":"label","cluster":"c","strict":[true],"loose":[true],"right":false}}]"#
        );
        let change = r#""change":{"lost":["a"],"gained":[],"difference":-0.5,"p":1.0}"#;
        let text = format!(
            r#"{{{scores},"base":{{{scores}}},{change},"constant":{{{scores},"answer":"happy",{change}}},"text":{{{scores},"base":{{{scores}}},{change}}}}}"#
        );

        let read: Instructions = json::parse(&text).unwrap();
        assert_eq!(read.to_text().unwrap(), text);
        assert_eq!(read.model.kinds[0].0, "wording");
    }
}
