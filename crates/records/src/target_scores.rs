//! How likely a model holds the targets of rows: the file of `maqam score`.

use serde::Deserialize;
use serde::Serialize;

use crate::numbers::list;
use crate::numbers::number;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetScore {
    /// Id of the row.
    pub id: String,
    /// Mean negative log-likelihood of the target tokens, in nats.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Number of target tokens, the end included.
    pub num_target_tokens: usize,
    /// Log-probability of each target token, in nats.
    #[serde(deserialize_with = "list")]
    pub logprobs: Vec<f64>,
}

impl TargetScore {
    /// The score of a row, from the log-probability of each target token.
    pub fn new(id: &str, logprobs: Vec<f64>) -> Self {
        Self {
            id: id.to_owned(),
            loss: -logprobs.iter().sum::<f64>() / logprobs.len() as f64,
            num_target_tokens: logprobs.len(),
            logprobs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_read_as_it_was_written() {
        let score = TargetScore::new("a", vec![-0.5, -1.5]);
        let text = serde_json::to_string(&score).unwrap();
        assert_eq!(
            text,
            r#"{"id":"a","loss":1.0,"num_target_tokens":2,"logprobs":[-0.5,-1.5]}"#
        );
        assert_eq!(serde_json::from_str::<TargetScore>(&text).unwrap(), score);
    }

    #[test]
    fn a_target_of_no_probability_has_no_loss() {
        let score = TargetScore::new("a", vec![f64::NEG_INFINITY]);
        let text = serde_json::to_string(&score).unwrap();
        let read: TargetScore = serde_json::from_str(&text).unwrap();
        assert!(read.loss.is_nan() && read.logprobs[0].is_nan(), "{text}");
    }
}
