//! The audio of a row: paths and objects, and the part of each file that is used.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use crate::AudioSource;
use crate::Clip;
use crate::fields::Fields;
use crate::fields::Unread;
use crate::fields::brief;
use crate::fields::wrong_type;
use maqam_audio::Span;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Fields of an object for its audio file; the first one that is there counts.
const PATHS: [&str; 7] = [
    "audio",
    "path",
    "audio_path",
    "audio_filepath",
    "audio_url",
    "url",
    "file",
];

/// Fields that select a part of a recording or state its length.
pub const PART: [&str; 10] = [
    "start_s",
    "start",
    "offset",
    "start_ms",
    "end_s",
    "end",
    "end_ms",
    "duration",
    "duration_ms",
    "channel",
];

/// Part of a recording, and its stated length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatedSpan {
    /// The part.
    pub span: Span,
    /// Length of the part, or of the whole file, in seconds.
    pub stated_s: Option<f64>,
}

/// Takes the fields that select a part of a recording.
///
/// The start is `start_s`, `start` or `offset` in seconds, or `start_ms`. The end is `end_s`, `end`
/// or `end_ms`, or the start and `duration` together. `duration` without a start selects no part
/// and states a length. `channel` counts from 0.
///
/// # Errors
/// Two fields that contradict each other, an empty part, a channel that is not one whole number.
pub fn read_part(fields: &mut Fields) -> Result<StatedSpan> {
    let start = read_bound(fields, &["start_s", "start", "offset"], "start_ms")?;
    let end = read_bound(fields, &["end_s", "end"], "end_ms")?;
    let duration = read_bound(fields, &["duration"], "duration_ms")?;
    let channel = read_channel(fields)?;
    let stated_s = duration.map(|(_, seconds)| seconds);
    let mut span = Span {
        start_s: start.map(|(_, seconds)| seconds),
        end_s: end.map(|(_, seconds)| seconds),
        channel,
    };
    let start_s = span.start_s.unwrap_or(0.0);
    match (start, end, duration) {
        (Some((start, _)), None, Some((duration, seconds))) => {
            span.end_s = Some(start_s + seconds);
            if seconds == 0.0 {
                return Err(
                    Error::input(format!("`{duration}` beside `{start}` is 0")).hint(format!(
                        "the part is empty; leave `{duration}` out to read to the end"
                    )),
                );
            }
        }
        (_, Some((end, end_s)), _) if end_s <= start_s => {
            let start = start.map_or("the beginning", |(start, _)| start);
            return Err(
                Error::input(format!("the span from {start_s} s to {end_s} s is empty")).hint(
                    format!("`{end}` lies after `{start}`, both in the same unit"),
                ),
            );
        }
        _ => {}
    }
    Ok(StatedSpan { span, stated_s })
}

/// A bound in seconds, and the name of its field.
fn read_bound(
    fields: &mut Fields,
    seconds: &[&'static str],
    milliseconds: &'static str,
) -> Result<Option<(&'static str, f64)>> {
    let mut found: Option<(&'static str, f64)> = None;
    for name in seconds.iter().copied().chain([milliseconds]) {
        let divisor = if name == milliseconds { 1000.0 } else { 1.0 };
        let Some(value) = fields.seconds(name)?.map(|value| value / divisor) else {
            continue;
        };
        match found {
            None => found = Some((name, value)),
            Some((first, before)) if (before - value).abs() > 1e-6 => {
                return Err(Error::input(format!(
                    "`{first}` says {before} s and `{name}` says {value} s"
                ))
                .hint("keep one of them"));
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

/// Takes `channel` if it is the number of a channel. A name, such as that of a broadcaster, stays
/// among the other fields.
fn read_channel(fields: &mut Fields) -> Result<Option<u16>> {
    let Some(value) = fields.take("channel") else {
        return Ok(None);
    };
    const HINT: &str = "channels are whole numbers from 0: 0 is the first (left), 1 the second (right); leave `channel` out to average all";
    let refuse = |value: &Value| wrong_type("channel", value, "the number of a channel").hint(HINT);
    let number = |value: &Value| {
        value
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())
            .ok_or_else(|| refuse(value))
    };
    match &value {
        Value::Number(_) => number(&value).map(Some),
        Value::Array(list) => match list.as_slice() {
            [one] => number(one).map(Some),
            _ => Err(refuse(&value)),
        },
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "left" => Ok(Some(0)),
            "right" => Ok(Some(1)),
            "a" | "b" | "l" | "r" | "both" | "stereo" | "mono" | "all" => Err(refuse(&value)),
            trimmed => match trimmed.parse() {
                Ok(channel) => Ok(Some(channel)),
                Err(_) if trimmed.parse::<f64>().is_ok() => Err(refuse(&value)),
                Err(_) => {
                    fields.put_back("channel", value);
                    Ok(None)
                }
            },
        },
        _ => Err(refuse(&value)),
    }
}

/// A clip from its path, or from an object with the path and optionally the part. The object's
/// other fields are added to `unread`.
///
/// # Errors
/// Another type, an address, a missing file, audio written into the row.
pub fn read_clip(value: Value, audio_folder: &Path, unread: &mut Unread) -> Result<Clip> {
    let (source, part) = match value {
        Value::String(path) => (resolve(&path, audio_folder)?, None),
        Value::Object(map) => {
            let mut fields = Fields::new(map);
            let part = read_part(&mut fields)?;
            let found = PATHS
                .iter()
                .find_map(|name| fields.take(name).map(|value| (*name, value)));
            let path = match found {
                Some((_, Value::String(path))) => path,
                // OpenAI writes `{"audio_url": {"url": ...}}`.
                Some((_, Value::Object(mut inner))) if inner.contains_key("url") => {
                    match inner.shift_remove("url") {
                        Some(Value::String(path)) => {
                            unread.extend(inner);
                            path
                        }
                        other => {
                            return Err(wrong_type("url", &other.unwrap_or_default(), "a path"));
                        }
                    }
                }
                Some((name, other)) => return Err(wrong_type(name, &other, "a path")),
                None => return Err(without_path(fields)),
            };
            let source = match read_range(&mut fields)? {
                None => resolve(&path, audio_folder)?,
                Some(range) => range.of(&path, audio_folder)?,
            };
            fields.move_left(unread);
            (source, Some(part))
        }
        other => return Err(wrong_type("audio", &other, "a path")),
    };
    Ok(Clip {
        source,
        span: part.map_or(Span::WHOLE, |part| part.span),
        stated_s: part.and_then(|part| part.stated_s),
    })
}

/// A recording inside another file.
struct ByteRange {
    start: u64,
    len: u64,
    member: Option<String>,
}

/// Takes `byte_offset` and `num_bytes`, and the name `member`.
fn read_range(fields: &mut Fields) -> Result<Option<ByteRange>> {
    let mut number = |name: &str| match fields.take(name) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or_else(|| wrong_type(name, &value, "a whole number of bytes")),
    };
    match (number("byte_offset")?, number("num_bytes")?) {
        (None, None) => Ok(None),
        (Some(start), Some(len)) => Ok(Some(ByteRange {
            start,
            len,
            member: fields.text("member")?,
        })),
        _ => Err(
            Error::input("one of `byte_offset` and `num_bytes` is missing")
                .hint("write both: the first byte of the recording in its file, and their number"),
        ),
    }
}

impl ByteRange {
    fn of(self, path: &str, audio_folder: &Path) -> Result<AudioSource> {
        let AudioSource::File(file) = resolve(path, audio_folder)? else {
            return Err(Error::bug("a path is a file"));
        };
        let found = std::fs::metadata(&file)
            .map_err(|e| Error::io(&file, "read", e))?
            .len();
        let end = self.start.checked_add(self.len);
        if end.is_none_or(|end| end > found) {
            return Err(Error::input(format!(
                "{} bytes from byte {} on are not in {}, which has {found}",
                self.len,
                self.start,
                file.display()
            ))
            .hint("the file has changed since the row was written: import it again"));
        }
        let member = self
            .member
            .unwrap_or_else(|| format!("byte {}", self.start));
        Ok(AudioSource::Range {
            file: file.into(),
            start: self.start,
            len: self.len,
            member: member.into(),
        })
    }
}

fn without_path(mut fields: Fields) -> Error {
    for name in ["bytes", "array", "data", "input_audio"] {
        if fields.take(name).is_some() {
            return Error::input(format!(
                "audio is written into the row (`{name}`), not in a file"
            ))
            .hint("write it to a file and give the path, or write the rows as Parquet");
        }
    }
    let names = fields.rest().unwrap_or_else(|| "{}".to_owned());
    Error::input(format!("audio without a path: {names}"))
        .hint("write it as a path, or as {\"audio\": path, \"start_s\": 0.5, \"end_s\": 1.5}")
}

/// The cause of an error of a row whose audio file does not exist.
#[derive(Debug)]
pub struct NoAudioFile;

impl fmt::Display for NoAudioFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the audio file does not exist")
    }
}

impl std::error::Error for NoAudioFile {}

/// The file of a path that a row has.
fn resolve(written: &str, audio_folder: &Path) -> Result<AudioSource> {
    if written.is_empty() {
        return Err(Error::input("the audio path is empty")
            .hint("leave `audio` out of a row without audio"));
    }
    let path = written.strip_prefix("file://").unwrap_or(written);
    if path.starts_with("data:") || path.contains("://") {
        let shown = brief(&Value::from(written));
        return Err(Error::input(format!("audio is {shown}, not a path"))
            .hint("audio is read from files: fetch it first"));
    }
    let resolved = audio_folder.join(path);
    if resolved.is_file() {
        return Ok(AudioSource::File(resolved.into()));
    }
    let hint = match (resolved.is_dir(), Path::new(path).is_absolute()) {
        (true, _) => "the path is that of a folder; name a file in it",
        (false, true) => "the path is absolute: does the file exist on this machine?",
        (false, false) => {
            "relative paths start from the manifest's folder; set `audio_root` if the audio is elsewhere"
        }
    };
    let found = format!("no audio file at {}", resolved.display());
    Err(Error::input(found).caused_by(NoAudioFile).hint(hint))
}
