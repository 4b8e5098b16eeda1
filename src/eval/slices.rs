//! Rows put together: by what scores are shown apart for, and by what is resampled as one.

use rayon::prelude::*;
use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::records::suite_file::ClusterBy;
use crate::task::Example;

/// Names of what every example may carry; other slices are fields of the rows.
const KNOWN: [&str; 6] = ["speaker", "group", "language", WORDING, LENGTH, "label"];
/// Bounds between lengths, in seconds; a clip of exactly a bound belongs to the longer ones.
const LENGTH_BOUNDS_S: [f64; 5] = [2.0, 5.0, 10.0, 20.0, 30.0];
/// The slice by length of audio.
pub const LENGTH: &str = "length";
/// The slice by instruction.
pub const WORDING: &str = "wording";
/// The slice of rows that do not say.
pub const NOT_SAID: &str = "(not said)";

/// What these examples are clustered by: `wanted`, or else the first that every row has.
///
/// # Errors
/// Rows that lack what is wanted; the message names the first.
pub fn cluster_by(wanted: Option<ClusterBy>, examples: &[Example]) -> Result<ClusterBy> {
    let lacking = |by: ClusterBy| {
        examples
            .iter()
            .find(|example| member(by, example).is_none())
    };
    match wanted {
        None => Ok(ClusterBy::of(examples, |example, by| {
            member(by, example).is_some()
        })),
        Some(by) => match lacking(by) {
            None => Ok(by),
            Some(example) => Err(Error::input(format!(
                "`cluster: {0}`, but row `{1}` has no `{0}`",
                by.name(),
                example.id
            ))
            .hint("leave `cluster` out, or write `cluster: none`")),
        },
    }
}

/// The cluster of an example, by a name that says the same in every set; rows that stand for
/// themselves are known by their ids.
pub fn cluster(by: ClusterBy, example: &Example) -> String {
    format!("{} {}", by.name(), member(by, example).unwrap_or_default())
}

fn member(by: ClusterBy, example: &Example) -> Option<&str> {
    match by {
        ClusterBy::Speaker => example.speaker.as_deref(),
        ClusterBy::Group => example.group.as_deref(),
        ClusterBy::None => Some(&example.id),
    }
}

/// What a slice says of an example; `None` where the row does not say.
///
/// # Errors
/// A field that holds a list or an object.
pub fn value(slice: &str, example: &Example) -> Result<Option<String>> {
    let known = match slice {
        "speaker" => example.speaker.clone(),
        "group" => example.group.clone(),
        "language" => Some(example.language.clone()),
        WORDING => example.wording.clone(),
        LENGTH => seconds(example).map(length),
        "label" => example.label.clone(),
        field => return field_value(field, example),
    };
    Ok(known)
}

/// Length of an example's audio: the sum of its spans where both ends are given, or else what the
/// data says.
pub fn seconds(example: &Example) -> Option<f64> {
    let span = |clip: &crate::data::Clip| Some(clip.span.end_s? - clip.span.start_s.unwrap_or(0.0));
    let of_spans: Option<f64> = example.clips.iter().map(span).sum();
    of_spans
        .filter(|_| !example.clips.is_empty())
        .or(example.duration)
}

/// Gives every example that does not say its length that of its decoded clips.
///
/// # Errors
/// A clip that cannot be read.
pub fn measure_lengths(examples: &mut [Example]) -> Result<()> {
    let decoded = |clip: &crate::data::Clip| clip.source.duration_s(clip.span);
    let unknown = |example: &&mut Example| seconds(example).is_none() && !example.clips.is_empty();
    examples
        .par_iter_mut()
        .filter(unknown)
        .try_for_each(|example| {
            let length = example.clips.iter().map(decoded).sum::<Result<f64>>();
            example.duration = Some(length.map_err(|e| e.at(format!("row `{}`", example.id)))?);
            Ok(())
        })
}

/// A field of the row beside those that have a meaning, as a name.
pub fn field_value(field: &str, example: &Example) -> Result<Option<String>> {
    match extra(example).remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(found @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(found.to_string())),
        Some(_) => Err(Error::input(format!(
            "`{field}` of row `{}` is a list or an object, which names no slice",
            example.id
        ))),
    }
}

/// Refuses a slice of which no row says anything.
///
/// # Errors
/// Then; the message lists what the rows have.
pub fn check(slice: &str, examples: &[Example]) -> Result<()> {
    for example in examples {
        if value(slice, example)?.is_some() {
            return Ok(());
        }
    }
    let of_rows = examples
        .iter()
        .flat_map(|example| extra(example).into_iter().map(|(name, _)| name));
    let mut fields: Vec<String> = Vec::new();
    for name in of_rows {
        if !fields.contains(&name) {
            fields.push(name);
        }
    }
    let usable = |name: &&str| {
        examples
            .iter()
            .any(|example| matches!(value(name, example), Ok(Some(_))))
    };
    let known: Vec<&str> = KNOWN
        .into_iter()
        .chain(fields.iter().map(String::as_str))
        .filter(usable)
        .collect();
    let lacking = if slice == LENGTH {
        "no row has audio, or says its `duration`".to_owned()
    } else {
        format!("no row has `{slice}`")
    };
    Err(Error::input(format!("slice `{slice}`: {lacking}"))
        .hint(format!("the rows have {}", known.join(", "))))
}

/// The slices of some examples: each value with the places of its rows, in order of first
/// appearance but lengths from short to long.
///
/// # Errors
/// As [`value`].
pub fn split(slice: &str, examples: &[Example]) -> Result<Vec<(String, Vec<usize>)>> {
    let mut found: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, example) in examples.iter().enumerate() {
        let value = value(slice, example)?.unwrap_or_else(|| NOT_SAID.to_owned());
        match found.iter_mut().find(|(known, _)| *known == value) {
            Some((_, rows)) => rows.push(i),
            None => found.push((value, vec![i])),
        }
    }
    if slice == LENGTH {
        let shortest = |rows: &[usize]| {
            rows.iter()
                .filter_map(|&i| seconds(&examples[i]))
                .fold(f64::INFINITY, f64::min)
        };
        found.sort_by(|(_, a), (_, b)| shortest(a).total_cmp(&shortest(b)));
    }
    Ok(found)
}

/// The bin of a length, `5-10 s`.
fn length(seconds: f64) -> String {
    let above = LENGTH_BOUNDS_S
        .iter()
        .take_while(|&&bound| bound <= seconds)
        .count();
    let low = above.checked_sub(1).map_or(0.0, |i| LENGTH_BOUNDS_S[i]);
    match LENGTH_BOUNDS_S.get(above) {
        Some(high) => format!("{low}-{high} s"),
        None => format!("{low} s and more"),
    }
}

fn extra(example: &Example) -> serde_json::Map<String, Value> {
    // The text was written by this crate, so it always parses.
    example
        .extra
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::OnBadRow;
    use crate::data::read_manifest;
    use crate::seed::Key;
    use crate::task::Tasks;
    use crate::task::Wording;

    fn examples(rows: &[&str]) -> Vec<Example> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.wav"), b"RIFF").unwrap();
        let path = dir.path().join("m.jsonl");
        std::fs::write(&path, rows.join("\n")).unwrap();
        let tasks = Tasks::load(None).unwrap();
        let rows = read_manifest(&path, None, OnBadRow::Error).unwrap().rows;
        rows.iter()
            .map(|row| {
                tasks
                    .get("emotion")
                    .unwrap()
                    .example(row, Wording::Dev, Key::new(0, "x"))
                    .unwrap()
            })
            .collect()
    }

    #[test]
    fn rows_say_what_they_are_in() {
        let rows = examples(&[
            r#"{"audio": "a.wav", "label": "sad", "speaker": "x", "gender": "female", "language": "ar", "duration": 2, "age": 40}"#,
            r#"{"audio": "a.wav", "label": "happy", "start_s": 1, "end_s": 2.5, "tags": ["a"]}"#,
            r#"{"audio": "a.wav", "label": "sad"}"#,
        ]);
        let says = |slice: &str| {
            rows.iter()
                .map(|row| value(slice, row).unwrap())
                .collect::<Vec<_>>()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(says("gender"), [some("female"), None, None]);
        assert_eq!(says("age"), [some("40"), None, None]);
        assert_eq!(says("length"), [some("2-5 s"), some("0-2 s"), None]);
        assert_eq!(says("label"), [some("sad"), some("happy"), some("sad")]);
        assert!(
            says("wording")[0]
                .as_deref()
                .unwrap()
                .starts_with("emotion/dev/ar/")
                && says("wording")[1]
                    .as_deref()
                    .unwrap()
                    .starts_with("emotion/dev/en/")
        );
        assert_eq!(
            split("label", &rows).unwrap(),
            [
                ("sad".to_owned(), vec![0, 2]),
                ("happy".to_owned(), vec![1])
            ]
        );
        assert_eq!(
            split("length", &rows).unwrap(),
            [
                ("0-2 s".to_owned(), vec![1]),
                ("2-5 s".to_owned(), vec![0]),
                (NOT_SAID.to_owned(), vec![2])
            ]
        );
        assert!(
            value("tags", &rows[1])
                .unwrap_err()
                .to_string()
                .contains("`tags` of row `2` is a list")
        );
    }

    #[test]
    fn lengths_fall_between_bounds() {
        assert_eq!(
            [0.0, 1.99, 2.0, 29.9, 30.0, 300.0].map(length),
            [
                "0-2 s",
                "0-2 s",
                "2-5 s",
                "20-30 s",
                "30 s and more",
                "30 s and more"
            ]
        );
    }

    #[test]
    fn a_slice_that_no_row_has_is_refused_with_those_they_have() {
        let rows = examples(&[
            r#"{"audio": "a.wav", "label": "sad", "group": "g", "dialect": "EGY", "tags": []}"#,
        ]);
        let error = check("gendre", &rows).unwrap_err().to_string();
        assert!(error.contains("slice `gendre`: no row has `gendre`\nhint: the rows have group, language, wording, label, dialect"), "{error}");
        assert!(
            check("length", &rows)
                .unwrap_err()
                .to_string()
                .contains("no row has audio, or says its `duration`")
        );
        check("dialect", &rows).unwrap();
    }

    #[test]
    fn clusters_are_speakers_then_groups_then_rows() {
        let speakers = examples(&[
            r#"{"audio": "a.wav", "label": "sad", "speaker": "x"}"#,
            r#"{"audio": "a.wav", "label": "sad", "speaker": "y", "group": "g"}"#,
        ]);
        assert_eq!(cluster_by(None, &speakers).unwrap(), ClusterBy::Speaker);
        assert_eq!(cluster(ClusterBy::Speaker, &speakers[1]), "speaker y");
        let error = cluster_by(Some(ClusterBy::Group), &speakers)
            .unwrap_err()
            .to_string();
        assert!(error.contains("row `1` has no `group`"), "{error}");
        let groups = examples(&[
            r#"{"audio": "a.wav", "label": "sad", "speaker": "x", "group": "g"}"#,
            r#"{"audio": "a.wav", "label": "sad", "group": "g"}"#,
        ]);
        assert_eq!(cluster_by(None, &groups).unwrap(), ClusterBy::Group);
        let alone = examples(&[
            r#"{"audio": "a.wav", "label": "sad", "speaker": "x"}"#,
            r#"{"audio": "a.wav", "label": "sad"}"#,
        ]);
        assert_eq!(cluster_by(None, &alone).unwrap(), ClusterBy::None);
        assert_eq!(cluster(ClusterBy::None, &alone[1]), "none 2");
    }
}
