//! Answers of a model to rows: the file of `maqam generate`, and the answers of any program.

use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// One line of the file. Readers take `id` and `prediction` alone, because other programs write
/// other fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedAnswer {
    /// Id of the row.
    pub id: String,
    /// Text of the answer.
    pub prediction: String,
    /// Tokens of the answer, without those of the prompt. Empty in an answer that was read.
    #[serde(skip_deserializing)]
    pub tokens: Vec<u32>,
}

/// How many ids one error names.
const MAX_NAMED: usize = 5;

/// The predictions for `ids`, in their order.
///
/// # Errors
/// An id that is predicted twice, one that `ids` does not have, one that has no prediction; the
/// message says how many, and names some.
pub fn in_order<'a>(
    ids: &[&str],
    predictions: &'a [(usize, GeneratedAnswer)],
    path: &Path,
) -> Result<Vec<&'a str>> {
    let mut by_id: HashMap<&str, (usize, &'a str)> = HashMap::with_capacity(predictions.len());
    for (line, row) in predictions {
        if let Some((first, _)) = by_id.insert(&row.id, (*line, &row.prediction)) {
            let found = Error::input(format!(
                "id `{}` was predicted before, in line {first}",
                row.id
            ))
            .at(format!("{}:{line}", path.display()));
            return Err(found.hint("each row is predicted once: two runs in one file?"));
        }
    }
    let known: HashSet<&str> = ids.iter().copied().collect();
    let foreign: Vec<&str> = predictions
        .iter()
        .map(|(_, row)| row.id.as_str())
        .filter(|id| !known.contains(id))
        .collect();
    if !foreign.is_empty() {
        let found = format!(
            "{} of {} predictions are of other rows: {}",
            foreign.len(),
            predictions.len(),
            named(&foreign)
        );
        return Err(Error::input(found).at_path(path).hint("predictions and rows belong together: give the file that the predictions were made from"));
    }
    let missing: Vec<&str> = ids
        .iter()
        .copied()
        .filter(|id| !by_id.contains_key(id))
        .collect();
    if !missing.is_empty() {
        let found = format!(
            "{} of {} rows have no prediction: {}",
            missing.len(),
            ids.len(),
            named(&missing)
        );
        return Err(Error::input(found)
            .at_path(path)
            .hint("a score over some of the rows is not comparable: predict them all"));
    }
    Ok(ids
        .iter()
        .filter_map(|id| by_id.get(id).map(|(_, prediction)| *prediction))
        .collect())
}

fn named(ids: &[&str]) -> String {
    let shown: Vec<String> = ids
        .iter()
        .take(MAX_NAMED)
        .map(|id| format!("`{id}`"))
        .collect();
    match ids.len().checked_sub(MAX_NAMED) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maqam_base::jsonl;

    #[test]
    fn an_answer_is_read_without_its_tokens() {
        let answer = GeneratedAnswer {
            id: "a".into(),
            prediction: "x".into(),
            tokens: vec![1, 2],
        };
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(text, r#"{"id":"a","prediction":"x","tokens":[1,2]}"#);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let foreign = r#"{"id":"a","prediction":"x","tokens":"1 2","score":0.5}"#;
        std::fs::write(&path, format!("{text}\n{foreign}\n")).unwrap();
        let without = GeneratedAnswer {
            tokens: Vec::new(),
            ..answer
        };
        let read = jsonl::read::<GeneratedAnswer>(&path).unwrap();
        assert_eq!(read, [(1, without.clone()), (2, without)]);
    }

    fn predictions(ids: &[&str]) -> Vec<(usize, GeneratedAnswer)> {
        ids.iter()
            .enumerate()
            .map(|(i, id)| {
                (
                    i + 1,
                    GeneratedAnswer {
                        id: (*id).to_owned(),
                        prediction: format!("said {id}"),
                        tokens: Vec::new(),
                    },
                )
            })
            .collect()
    }

    #[test]
    fn predictions_come_in_the_order_of_the_rows() {
        let predictions = predictions(&["b", "a"]);
        assert_eq!(
            in_order(&["a", "b"], &predictions, Path::new("p.jsonl")).unwrap(),
            ["said a", "said b"]
        );
    }

    #[test]
    fn ids_that_do_not_fit_are_named() {
        let many: Vec<String> = (0..9).map(|i| format!("r{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (ids, predicted, expected) in [
            (
                &["a", "b"][..],
                &["a", "b", "a"][..],
                "p.jsonl:3: id `a` was predicted before, in line 1",
            ),
            (
                &["a"],
                &["a", "c", "d"],
                "p.jsonl: 2 of 3 predictions are of other rows: `c`, `d`\n",
            ),
            (
                &["a", "b"],
                &["b"],
                "p.jsonl: 1 of 2 rows have no prediction: `a`\n",
            ),
            (
                &many,
                &["r8"],
                "8 of 9 rows have no prediction: `r0`, `r1`, `r2`, `r3`, `r4` and 3 more",
            ),
        ] {
            let error = in_order(ids, &predictions(predicted), Path::new("p.jsonl")).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(expected),
                "{error}"
            );
        }
    }
}
