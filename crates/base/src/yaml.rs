//! YAML files that people write, read into types: errors name the file, the line and the nearest known key.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::error::Result;

/// Reads `text`, the contents of the file `path`.
///
/// # Errors
/// `path:line:column: what was found`, with the nearest known key for one that is not known.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    yaml_serde::from_str(text.strip_prefix('\u{feff}').unwrap_or(text))
        .map_err(|error| describe_in(&error, path))
}

/// Reads a tree of YAML that was changed after it was parsed; `place` says where it comes from.
///
/// # Errors
/// As [`parse`], with `place` instead of a line.
pub fn from_value<T: DeserializeOwned>(value: yaml_serde::Value, place: &str) -> Result<T> {
    yaml_serde::from_value(value).map_err(|error| describe(&error, place.to_owned()))
}

fn describe_in(error: &yaml_serde::Error, path: &Path) -> Error {
    let place = match error.location() {
        Some(location) => format!(
            "{}:{}:{}",
            path.display(),
            location.line(),
            location.column()
        ),
        None => path.display().to_string(),
    };
    describe(error, place)
}

fn describe(error: &yaml_serde::Error, place: String) -> Error {
    let message = error.to_string();
    // The place is said once, in front.
    let what = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(what, _)| what);
    let found = Error::input(what).at(place);
    match unknown_name(what) {
        Some((unknown, known)) => match nearest(unknown, known.iter().copied()) {
            Some(near) => found.hint(format!("did you mean `{near}`?")),
            None => found,
        },
        None => found,
    }
}

/// The name and the ones that were expected, from serde's "unknown field `a`, expected one of `b`, `c`".
fn unknown_name(message: &str) -> Option<(&str, Vec<&str>)> {
    let start = ["unknown field `", "unknown variant `"]
        .iter()
        .find_map(|what| message.find(what).map(|at| at + what.len() - 1))?;
    let mut quoted = message[start..].split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    Some((unknown, quoted.collect()))
}

/// The known name most like `name`, if any is like it at all.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this Jaro-Winkler similarity two names have too little in common for a suggestion to help.
    const LEAST_ALIKE: f64 = 0.7;
    /// A name of more characters is no slip of a known one, and comparing takes time with the square of its length.
    const LONGEST: usize = 200;
    if name.chars().nth(LONGEST).is_some() {
        return None;
    }
    let lower = name.to_lowercase();
    // In a short name one slip leaves little alike: `ars` is one swap from `asr`.
    let is_one_slip =
        |candidate: &str| strsim::osa_distance(&lower, &candidate.to_lowercase()) <= 1;
    known
        .map(|candidate| {
            (
                strsim::jaro_winkler(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(alike, candidate)| *alike >= LEAST_ALIKE || is_one_slip(candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only reading it matters here")]
    struct Settings {
        learning_rate: f64,
        warmup: Option<f64>,
    }

    #[test]
    fn an_unknown_key_names_line_and_nearest_key() {
        let error = parse::<Settings>("learning_rate: 1.0\nwarmpu: 2.0\n", Path::new("a.yaml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("a.yaml:2:1: unknown field `warmpu`"),
            "{error}"
        );
        assert!(error.ends_with("hint: did you mean `warmup`?"), "{error}");
    }

    #[test]
    fn a_wrong_type_names_its_line() {
        let error = parse::<Settings>("learning_rate: fast\n", Path::new("a.yaml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("a.yaml:1:") && error.contains("fast"),
            "{error}"
        );
    }

    #[test]
    fn nothing_alike_gives_no_suggestion() {
        assert_eq!(
            nearest("xyz", ["learning_rate", "warmup"].into_iter()),
            None
        );
        assert_eq!(
            nearest("Emotions", ["asr", "emotion"].into_iter()),
            Some("emotion")
        );
        assert_eq!(nearest("ars", ["asr", "emotion"].into_iter()), Some("asr"));
    }
}
