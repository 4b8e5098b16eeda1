//! Lhotse's cuts: conversion of cuts to rows, and of rows to cuts.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::Row;
use crate::fields::brief;
use crate::formats::out::Base;
use crate::formats::out::Out;
use crate::formats::out::line;
use crate::formats::out::stream;
use maqam_audio::Header;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Fields of a supervision that a row has too.
const SPOKEN: [&str; 3] = ["text", "language", "speaker"];

/// Largest difference between the lengths of a cut and its recording, in seconds, for the cut to be
/// the whole recording.
const WHOLE_TOLERANCE_S: f64 = 1e-3;

/// Returns whether a row is a cut.
pub fn is_cut(fields: &Map<String, Value>) -> bool {
    let is_typed = fields
        .get("type")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("Cut"));
    is_typed || (fields.contains_key("recording") && fields.contains_key("supervisions"))
}

/// Place of a cut's audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audio {
    /// The file that its recording names.
    Named,
    /// A tar file next to the cuts, from its first sample on.
    Beside,
}

/// Turns a cut into the fields of a row. Other fields stay under their own names.
///
/// # Errors
/// A cut of several tracks, and audio that is not in a file.
pub fn convert(fields: &mut Map<String, Value>, audio: Audio) -> Result<()> {
    let mut cut = std::mem::take(fields);
    let kind = cut.shift_remove("type").unwrap_or_default();
    match kind.as_str() {
        None | Some("MonoCut" | "MultiCut") => {}
        Some(other) => {
            return Err(
                Error::input(format!("a {other}; cuts of one recording are read")).hint(
                    "save its audio with `CutSet.save_audios`, and the cuts that this returns",
                ),
            );
        }
    }

    if let Some(id) = cut.shift_remove("id") {
        fields.insert("id".to_owned(), id);
    }
    let start = cut.shift_remove("start").and_then(|s| s.as_f64());
    let duration = cut.shift_remove("duration");
    let channel = cut.shift_remove("channel");
    if let Some(recording) = cut.shift_remove("recording").filter(|r| !r.is_null()) {
        let part = (start, duration.as_ref().and_then(Value::as_f64));
        add_audio(fields, recording, audio, part, channel)?;
    } else if let Some(start) = start.filter(|start| *start > 0.0) {
        // Without audio, a time selects no part, and stays as an ordinary field.
        fields.insert("cut_start".to_owned(), start.into());
    }
    if let Some(duration) = duration {
        fields.insert("duration".to_owned(), duration);
    }

    let supervisions = match cut.shift_remove("supervisions") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    add_supervisions(fields, supervisions);
    if let Some(Value::Object(custom)) = cut.shift_remove("custom") {
        add_others(fields, custom);
    }
    add_others(fields, cut);
    Ok(())
}

/// Adds the file of a cut and its part.
fn add_audio(
    fields: &mut Map<String, Value>,
    recording: Value,
    audio: Audio,
    (start, duration): (Option<f64>, Option<f64>),
    channel: Option<Value>,
) -> Result<()> {
    let Value::Object(mut recording) = recording else {
        return Err(Error::input(format!(
            "`recording` is {}, not an object",
            brief(&recording)
        )));
    };
    if recording
        .get("transforms")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty())
    {
        return Err(
            Error::input("the recording has `transforms`, which are not applied")
                .hint("save the changed audio with `CutSet.save_audios`"),
        );
    }
    let total = recording.get("duration").and_then(Value::as_f64);
    let sources = match recording.shift_remove("sources") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let wanted = channels(channel.as_ref());
    let channels_of = |source: &Value| channels(source.get("channels"));
    let all: Vec<u64> = sources.iter().flat_map(channels_of).collect();

    if audio == Audio::Named {
        let chosen: Vec<&Value> = sources
            .iter()
            .filter(|source| {
                sources.len() == 1 || wanted.iter().any(|c| channels_of(source).contains(c))
            })
            .collect();
        let [source] = chosen.as_slice() else {
            return Err(Error::input(format!(
                "the cut's channels lie in {} of the recording's {} files",
                chosen.len(),
                sources.len()
            ))
            .hint("keep one channel a cut: `CutSet.from_cuts(c.to_mono() ...)`"));
        };
        let kind = source["type"].as_str().unwrap_or_default();
        if kind != "file" {
            return Err(
                Error::input(format!("audio of the type `{kind}`; files are read"))
                    .hint("save it to files with `CutSet.save_audios`"),
            );
        }
        fields.insert("audio".to_owned(), source["source"].clone());
        // A channel counts from the first channel of its own file.
        let own = channels_of(source);
        let position = |wanted: &u64| own.iter().position(|channel| channel == wanted);
        if let [one] = wanted.as_slice()
            && own.len() > 1
            && let Some(position) = position(one)
        {
            fields.insert("channel".to_owned(), position.into());
        } else if wanted.len() > 1 && wanted.len() < own.len() {
            return Err(Error::input(format!(
                "channels {wanted:?} of {}; one or all are read",
                own.len()
            ))
            .hint("keep one channel a cut"));
        }
    } else if let [one] = wanted.as_slice()
        && all.len() > 1
    {
        fields.insert("channel".to_owned(), (*one).into());
    }

    let start = start.unwrap_or(0.0);
    let is_whole = start == 0.0
        && match (duration, total) {
            (Some(duration), Some(total)) => (duration - total).abs() <= WHOLE_TOLERANCE_S,
            _ => true,
        };
    if !is_whole {
        fields.insert("offset".to_owned(), start.into());
    }
    if let Some(id) = recording.shift_remove("id") {
        fields.insert("recording_id".to_owned(), id);
    }
    if let Some(rate) = recording.shift_remove("sampling_rate") {
        fields.insert("sampling_rate".to_owned(), rate);
    }
    Ok(())
}

/// The numbers of channels: one, or a list of them.
fn channels(value: Option<&Value>) -> Vec<u64> {
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_u64).collect(),
        Some(value) => value.as_u64().into_iter().collect(),
        None => Vec::new(),
    }
}

/// Adds the fields of supervisions. Several texts are joined in their order, and the supervisions
/// stay as a field.
fn add_supervisions(fields: &mut Map<String, Value>, supervisions: Vec<Value>) {
    for name in SPOKEN {
        let said: Vec<&str> = supervisions
            .iter()
            .filter_map(|supervision| supervision[name].as_str())
            .collect();
        let all_alike = said.windows(2).all(|pair| pair[0] == pair[1]);
        let value = match (name, said.first()) {
            (_, None) => continue,
            ("text", _) => said.join(" "),
            (_, Some(first)) if all_alike => (*first).to_owned(),
            _ => continue,
        };
        fields.insert(name.to_owned(), value.into());
    }
    let one = match <[Value; 1]>::try_from(supervisions) {
        Ok([Value::Object(one)]) => one,
        Ok([other]) => {
            fields.insert("supervisions".to_owned(), Value::Array(vec![other]));
            return;
        }
        Err(several) => {
            if !several.is_empty() {
                fields.insert("supervisions".to_owned(), several.into());
            }
            return;
        }
    };
    for (name, value) in one {
        match name.as_str() {
            "custom" => {
                if let Value::Object(custom) = value {
                    add_others(fields, custom);
                }
            }
            // Of one supervision they repeat the cut.
            "id" | "recording_id" | "start" | "duration" | "channel" => {}
            name if SPOKEN.contains(&name) => {}
            _ => add_others(fields, Map::from_iter([(name, value)])),
        }
    }
}

/// Adds missing fields; a field whose name is taken becomes `cut_NAME`.
fn add_others(fields: &mut Map<String, Value>, others: Map<String, Value>) {
    for (name, value) in others {
        if value.is_null() {
            continue;
        }
        let is_taken = fields.contains_key(&name)
            || matches!(
                name.as_str(),
                "audio" | "audios" | "start" | "end" | "channel"
            );
        match is_taken {
            true => fields.insert(format!("cut_{name}"), value),
            false => fields.insert(name, value),
        };
    }
}

/// A row's fields as a cut. `source` is the path of the audio, or none if it is in a tar file next
/// to the cuts.
pub fn cut(mut row: Map<String, Value>, source: Option<&str>, header: Header) -> Value {
    let text_of = |value: Option<Value>| value.filter(|value| !value.is_null());
    let id = row.shift_remove("id").unwrap_or_default();
    let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    row.shift_remove("audio");
    let total = header.num_samples as f64 / f64::from(header.rate);
    let start = row
        .shift_remove("start_s")
        .and_then(|s| s.as_f64())
        .unwrap_or(0.0);
    let end = row
        .shift_remove("end_s")
        .and_then(|s| s.as_f64())
        .map_or(total, |end| end.min(total));
    row.shift_remove("duration");
    let channel = row.shift_remove("channel").and_then(|c| c.as_u64());
    let all: Vec<u64> = (0..header.channels as u64).collect();
    let duration = end - start;
    // Lhotse asserts that a cut ends within its recording, to the sample.
    let duration = (duration * 1e9).round() / 1e9;
    let recording_id = match row.shift_remove("recording_id") {
        Some(Value::String(id)) => id,
        _ => id.clone(),
    };
    row.shift_remove("sampling_rate");

    let mut supervision = Map::new();
    for (name, value) in [
        ("id", Value::from(id.as_str())),
        ("recording_id", recording_id.as_str().into()),
        ("start", 0.0.into()),
        ("duration", duration.into()),
    ] {
        supervision.insert(name.to_owned(), value);
    }
    let wide: Value = match channel {
        Some(channel) => channel.into(),
        None if all.len() == 1 => 0.into(),
        None => json!(all),
    };
    supervision.insert("channel".to_owned(), wide.clone());
    for name in SPOKEN {
        if let Some(value) = text_of(row.shift_remove(name)) {
            supervision.insert(name.to_owned(), value);
        }
    }
    if let Some(gender) = row.shift_remove("gender") {
        supervision.insert("gender".to_owned(), gender);
    }
    let supervisions = row.shift_remove("supervisions");
    if !row.is_empty() {
        supervision.insert("custom".to_owned(), Value::Object(row));
    }
    let kind = match wide.is_array() {
        true => "MultiCut",
        false => "MonoCut",
    };
    let supervisions = match supervisions {
        Some(several @ Value::Array(_)) => several,
        _ => Value::Array(vec![supervision.into()]),
    };
    json!({
        "id": id,
        "start": start,
        "duration": duration,
        "channel": wide,
        "supervisions": supervisions,
        "recording": recording(&recording_id, source, header),
        "type": kind,
    })
}

/// A recording as Lhotse writes it.
pub fn recording(id: &str, source: Option<&str>, header: Header) -> Value {
    let channels: Vec<u64> = (0..header.channels as u64).collect();
    json!({
        "id": id,
        "sources": [{
            "type": if source.is_some() { "file" } else { "shar" },
            "channels": channels,
            "source": source.unwrap_or_default(),
        }],
        "sampling_rate": header.rate,
        "num_samples": header.num_samples,
        "duration": header.num_samples as f64 / f64::from(header.rate),
        "channel_ids": channels,
    })
}

/// Writes `cuts.jsonl.gz`.
///
/// # Errors
/// A row with no or several clips; audio that cannot be read; those of the disk.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    let path = out.path("cuts.jsonl.gz");
    packed(&path, |file| {
        for row in rows {
            let clip = out.only_clip(row)?;
            let header = clip.source.header()?;
            let source = out.audio(row, clip, Base::Process)?;
            let cut = cut(out.fields(row)?, Some(&source), header);
            line(file, &cut.to_string(), &path)?;
        }
        Ok(())
    })
}

/// Writes a file through gzip.
///
/// # Errors
/// Those of `write`, and the disk's.
pub fn packed(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    stream(path, |file| {
        let mut packed = GzEncoder::new(file, Compression::default());
        write(&mut packed)?;
        packed
            .finish()
            .map(drop)
            .map_err(|e| Error::io(path, "write", e))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(cut: Value) -> Result<Value> {
        let Value::Object(mut fields) = cut else {
            unreachable!()
        };
        convert(&mut fields, Audio::Named).map(|()| fields.into())
    }

    fn a_cut() -> Value {
        json!({
            "id": "c1", "start": 1.5, "duration": 2.0, "channel": 1, "type": "MonoCut",
            "supervisions": [{"id": "s1", "recording_id": "r1", "start": 0.0, "duration": 2.0, "channel": 1, "text": "t",
                "language": "Arabic", "speaker": "p", "gender": "f", "custom": {"summary": "s", "snr": 3}}],
            "recording": {"id": "r1", "sources": [{"type": "file", "channels": [0, 1], "source": "a.wav"}],
                "sampling_rate": 16000, "num_samples": 160000, "duration": 10.0, "channel_ids": [0, 1]},
            "custom": {"dialect": "x"},
        })
    }

    #[test]
    fn a_cut_is_a_part_of_its_recording() {
        assert_eq!(
            converted(a_cut()).unwrap(),
            json!({"id": "c1", "audio": "a.wav", "channel": 1, "offset": 1.5, "recording_id": "r1", "sampling_rate": 16000,
                "duration": 2.0, "text": "t", "language": "Arabic", "speaker": "p", "gender": "f", "summary": "s", "snr": 3, "dialect": "x"})
        );
    }

    #[test]
    fn unsupported_cuts_are_named() {
        for (path, value, expected) in [
            (
                "/type",
                json!("MixedCut"),
                "a MixedCut; cuts of one recording",
            ),
            (
                "/recording/sources/0/type",
                json!("command"),
                "audio of the type `command`",
            ),
            (
                "/recording/transforms",
                json!([{"name": "Speed"}]),
                "has `transforms`",
            ),
        ] {
            let mut cut = a_cut();
            if path.ends_with("transforms") {
                cut["recording"]["transforms"] = value;
            } else {
                *cut.pointer_mut(path).unwrap() = value;
            }
            let error = converted(cut).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("hint: "),
                "{error}"
            );
        }
    }
}
