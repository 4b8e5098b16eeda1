//! A judge's answer read back: one grade on every scale, or what is wrong with it.

use serde_json::Map;
use serde_json::Value;

use crate::eval::judge::rubric::REASON;
use crate::eval::judge::rubric::Rubric;
use crate::eval::judge::rubric::Scale;
use crate::json;

/// What a judge found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The grades, in the order of the rubric's scales.
    pub grades: Vec<i64>,
    /// Why, in the judge's words.
    pub reason: Option<String>,
}

/// Reads an answer: a JSON object with a whole number on each scale, alone or in a fenced block.
///
/// # Errors
/// What is wrong with it, in words that the judge can be told.
pub fn read(text: &str, rubric: &Rubric) -> Result<Verdict, String> {
    let text = without_fence(text.trim());
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|e| format!("it is not one JSON object ({})", brief(&e)))?;
    let grades = rubric
        .scales
        .iter()
        .map(|scale| grade(&object, scale))
        .collect::<Result<_, _>>()?;
    Ok(Verdict {
        grades,
        reason: object
            .get(REASON)
            .and_then(Value::as_str)
            .map(str::to_owned),
    })
}

fn grade(object: &Map<String, Value>, scale: &Scale) -> Result<i64, String> {
    let Scale {
        name,
        lowest,
        highest,
        ..
    } = scale;
    let value = object
        .get(name)
        .ok_or_else(|| format!("it has no \"{name}\""))?;
    // 4.0 is as whole as 4.
    let whole = value.as_i64().or_else(|| {
        value
            .as_f64()
            .filter(|number| number.fract() == 0.0)
            .map(|number| number as i64)
    });
    match whole {
        Some(grade) if (*lowest..=*highest).contains(&grade) => Ok(grade),
        _ => Err(format!(
            "\"{name}\" is {value}, not a whole number from {lowest} to {highest}"
        )),
    }
}

fn without_fence(text: &str) -> &str {
    let inside = text
        .strip_prefix("```")
        .and_then(|text| text.strip_suffix("```"));
    inside.map_or(text, |text| {
        text.trim_start_matches(|c: char| c.is_ascii_alphabetic())
            .trim()
    })
}

fn brief(error: &serde_json::Error) -> String {
    if error.is_data() {
        return json::explain(&[], error).message().to_owned();
    }
    let message = error.to_string();
    message
        .split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grades_are_whole_numbers_on_every_scale() {
        let rubric = Rubric::load(None).unwrap();
        for (text, expected) in [
            (
                r#"{"faithfulness": 5, "coverage": 1, "fluency": 4.0, "reason": "r"}"#,
                Ok(vec![5, 1, 4]),
            ),
            (
                "```json\n{\"faithfulness\": 5, \"coverage\": 1, \"fluency\": 4}\n```",
                Ok(vec![5, 1, 4]),
            ),
            ("", Err("it is empty")),
            (
                "I would say 5, 1 and 4.",
                Err("it is not one JSON object (expected value)"),
            ),
            (
                r#"{"faithfulness": 5"#,
                Err("it is not one JSON object (EOF while parsing an object)"),
            ),
            (
                "[5, 1, 4]",
                Err(
                    "it is not one JSON object (found a list, expected fields with names (`key: value`))",
                ),
            ),
            (
                r#"{"faithfulness": 5, "fluency": 4}"#,
                Err("it has no \"coverage\""),
            ),
            (
                r#"{"faithfulness": 9, "coverage": 1, "fluency": 4}"#,
                Err("\"faithfulness\" is 9, not a whole number from 1 to 5"),
            ),
            (
                r#"{"faithfulness": 5, "coverage": 0, "fluency": 4}"#,
                Err("\"coverage\" is 0, not a whole number from 1 to 5"),
            ),
            (
                r#"{"faithfulness": 5, "coverage": 1, "fluency": "4"}"#,
                Err("\"fluency\" is \"4\", not a whole number from 1 to 5"),
            ),
            (
                r#"{"faithfulness": 4.5, "coverage": 1, "fluency": 4}"#,
                Err("\"faithfulness\" is 4.5, not a whole number from 1 to 5"),
            ),
        ] {
            assert_eq!(
                read(text, &rubric).map(|verdict| verdict.grades),
                expected.map_err(str::to_owned),
                "{text}"
            );
        }
        assert_eq!(
            read(
                r#"{"faithfulness": 5, "coverage": 1, "fluency": 4, "reason": "r"}"#,
                &rubric
            )
            .unwrap()
            .reason
            .as_deref(),
            Some("r")
        );
    }
}
