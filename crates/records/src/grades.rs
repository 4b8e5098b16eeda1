//! Grades of summaries: the file of `maqam judge`.

use serde::Deserialize;
use serde::Serialize;

use crate::by_name::ByName;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Grading {
    /// A summary that the judge graded.
    Graded(GradedSummary),
    /// A summary without an answer that can be used.
    Ungraded(UngradedSummary),
}

/// A summary that the judge graded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradedSummary {
    /// Id of the row.
    pub id: String,
    /// Grades by scale, in the order of the rubric.
    pub grades: ByName<i64>,
    /// Reason, in the judge's words.
    pub reason: Option<String>,
    /// Name of the rubric.
    pub rubric: String,
    /// Name of the judge's model.
    pub model: String,
    /// Tokens of all answers that the grades took; `None` where the endpoint did not say.
    pub tokens: Option<JudgeTokens>,
}

/// Tokens that a judge read and wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeTokens {
    /// Tokens of the prompts.
    pub prompt: u64,
    /// Tokens of the answers.
    pub completion: u64,
}

/// A summary without an answer that can be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UngradedSummary {
    /// Id of the row.
    pub id: String,
    /// Always `None`, so that every line has the key.
    pub grades: Option<ByName<i64>>,
    /// Fault of the last answer.
    pub fault: String,
    /// Name of the rubric.
    pub rubric: String,
    /// Name of the judge's model.
    pub model: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        for text in [
            r#"{"id":"a","grades":{"style":2,"gist":5},"reason":"brief","rubric":"r","model":"m","tokens":{"prompt":9,"completion":4}}"#,
            r#"{"id":"a","grades":{"style":2},"reason":null,"rubric":"r","model":"m","tokens":null}"#,
            r#"{"id":"a","grades":null,"fault":"no JSON","rubric":"r","model":"m"}"#,
        ] {
            let line: Grading = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
        }
    }
}
