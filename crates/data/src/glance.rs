//! Fast scan of manifests in maqam's own JSON lines: the fields for counting and dividing, without
//! building rows.
//!
//! Lines are read in blocks and scanned in parallel. Audio files are not opened. A line with fields
//! that the scan does not handle (parts of recordings, conversations, fields of another program)
//! makes the whole file [`Seen::Foreign`], and the caller reads it row by row.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::Path;

use rayon::prelude::*;
use serde::Deserializer;
use serde::de::DeserializeSeed;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde_json::Value;

use crate::arabic;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::Input;
use maqam_base::files::MAX_LINE;
use maqam_base::json;

/// Bytes of a block.
const BLOCK: usize = 4 << 20;

/// Blocks that are scanned in parallel.
const AT_ONCE: usize = 8;

/// Fields that the scan does not handle.
const NOT_UNDERSTOOD: [&str; 38] = [
    "audios",
    "audio_path",
    "audio_filepath",
    "audio_file",
    "start_s",
    "start",
    "start_ms",
    "offset",
    "end_s",
    "end",
    "end_ms",
    "duration_ms",
    "channel",
    "messages",
    "conversations",
    "conversation",
    "system",
    "query",
    "response",
    "history",
    "output",
    "input",
    "image",
    "images",
    "video",
    "videos",
    "recording",
    "supervisions",
    "key",
    "wav",
    "path",
    "prompt",
    "sentence",
    "shard_id",
    "tracks",
    "custom",
    "features",
    "samples",
];

/// Fields of a row in a fast scan. Texts are those of the line, without the normalisation of
/// spelling that reading a row does.
#[derive(Debug, Default)]
pub struct Glance<'a> {
    /// The row's id, if it has one.
    pub id: Option<Cow<'a, str>>,
    /// The audio's path as written.
    pub audio: Option<Cow<'a, str>>,
    /// Length of the audio in seconds.
    pub duration: Option<f64>,
    /// The task.
    pub task: Option<Cow<'a, str>>,
    /// The language.
    pub language: Option<Cow<'a, str>>,
    /// The transcript.
    pub text: Option<Cow<'a, str>>,
    /// The summary.
    pub summary: Option<Cow<'a, str>>,
    /// A target of the row's own.
    pub target: Option<Cow<'a, str>>,
    /// The label.
    pub label: Option<Cow<'a, str>>,
    /// The speaker.
    pub speaker: Option<Cow<'a, str>>,
    /// The group.
    pub group: Option<Cow<'a, str>>,
    /// The split.
    pub split: Option<Cow<'a, str>>,
    /// Rules of Arabic spelling that the row states.
    pub normalisation: Option<Cow<'a, str>>,
    /// Values of the requested further fields, in their order.
    pub wanted: Vec<Option<Cow<'a, str>>>,
}

impl Glance<'_> {
    /// Returns the value of a field by its name: one of those above, or a requested one.
    pub fn field(&self, name: &str, wanted: &[String]) -> Option<&str> {
        let field = match name {
            "id" => &self.id,
            "audio" => &self.audio,
            "task" => &self.task,
            "language" => &self.language,
            "text" => &self.text,
            "summary" => &self.summary,
            "target" => &self.target,
            "label" => &self.label,
            "speaker" => &self.speaker,
            "group" => &self.group,
            "split" => &self.split,
            arabic::FIELD => &self.normalisation,
            other => {
                let at = wanted.iter().position(|name| name == other)?;
                self.wanted.get(at)?
            }
        };
        field.as_deref()
    }
}

/// Result of scanning a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All rows were scanned.
    Whole,
    /// A line needs the full reader; the results so far do not count.
    Foreign,
}

/// A line that a glance does not understand.
struct Foreign;

/// Scans the lines of a file. Calls `look` in parallel with blocks of `(line, text, glance)`, and
/// `take` with its results, in the order of the file.
///
/// # Errors
/// A file that cannot be read; a line that is no JSON object; those of `take`.
pub fn at_lines<T: Send>(
    path: &Path,
    wanted: &[String],
    look: impl Fn(&[(u32, &[u8], Glance<'_>)]) -> T + Sync,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<Seen> {
    if !path.is_file() {
        return Ok(Seen::Foreign);
    }
    let mut blocks = Blocks {
        input: Input::open(path)?,
        path,
        carry: Vec::new(),
        next_line: 1,
        is_at_end: false,
    };
    let mut is_first = true;
    loop {
        let mut read = Vec::with_capacity(AT_ONCE);
        while read.len() < AT_ONCE
            && let Some(block) = blocks.next()?
        {
            read.push(block);
        }
        if read.is_empty() {
            return Ok(Seen::Whole);
        }
        // The beginning of the file shows other formats.
        if std::mem::take(&mut is_first) && !begins_as_json_lines(&read[0].1) {
            return Ok(Seen::Foreign);
        }
        let looked_at: Vec<std::result::Result<Result<T>, Foreign>> = read
            .par_iter()
            .map(|(first_line, block)| {
                let glances = glances_of(*first_line, block, wanted, path)?;
                Ok(glances.map(|glances| look(&glances)))
            })
            .collect();
        for found in looked_at {
            match found {
                Ok(found) => take(found?)?,
                Err(Foreign) => return Ok(Seen::Foreign),
            }
        }
    }
}

fn begins_as_json_lines(block: &[u8]) -> bool {
    let text = block.strip_prefix("\u{feff}".as_bytes()).unwrap_or(block);
    text.trim_ascii_start().first() == Some(&b'{')
}

type Seens<'a> = Vec<(u32, &'a [u8], Glance<'a>)>;

fn glances_of<'a>(
    first_line: u32,
    block: &'a [u8],
    wanted: &[String],
    path: &Path,
) -> std::result::Result<Result<Seens<'a>>, Foreign> {
    let mut seen = Vec::new();
    for (i, text) in block.split(|&byte| byte == b'\n').enumerate() {
        let line = first_line + i as u32;
        let text = match line {
            1 => text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text),
            _ => text,
        };
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let mut is_foreign = false;
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let seed = Seed {
            wanted,
            is_foreign: &mut is_foreign,
        };
        let found = seed.deserialize(&mut deserializer).and_then(|glance| {
            deserializer.end()?;
            Ok(glance)
        });
        match found {
            _ if is_foreign => return Err(Foreign),
            Ok(glance) => seen.push((line, text, glance)),
            // The full reader recognises the first line of a file that is one JSON value.
            Err(_) if line == 1 => return Err(Foreign),
            Err(error) => {
                let place = format!("{}:{line}", path.display());
                return Ok(Err(json::explain(text, &error).at(place)));
            }
        }
    }
    Ok(Ok(seen))
}

/// Whole lines of a file, about [`BLOCK`] bytes at a time.
struct Blocks<'a> {
    input: Input,
    path: &'a Path,
    carry: Vec<u8>,
    next_line: u32,
    is_at_end: bool,
}

impl Blocks<'_> {
    /// The next lines, without the last line's end, and the number of the first.
    fn next(&mut self) -> Result<Option<(u32, Vec<u8>)>> {
        let mut block = std::mem::take(&mut self.carry);
        loop {
            if self.is_at_end {
                return Ok((!block.is_empty()).then_some((self.next_line, block)));
            }
            let before = block.len();
            let read = (&mut self.input)
                .take(BLOCK as u64)
                .read_to_end(&mut block)
                .map_err(|e| Error::io(self.path, "read", e))?;
            self.is_at_end = read < BLOCK;
            if block[before..].contains(&0) {
                return Err(Error::input("holds a zero byte, which no text does")
                    .at_path(self.path)
                    .hint("is this a file of another kind?"));
            }
            if let Some(end) = block.iter().rposition(|&byte| byte == b'\n') {
                self.carry = block.split_off(end + 1);
                block.pop();
                let first = self.next_line;
                let num_lines = block.iter().filter(|&&byte| byte == b'\n').count() + 1;
                self.next_line = first.saturating_add(num_lines as u32);
                return Ok(Some((first, block)));
            }
            if block.len() > MAX_LINE {
                let place = format!("{}:{}", self.path.display(), self.next_line);
                return Err(Error::input(format!(
                    "the line is longer than {} MiB",
                    MAX_LINE >> 20
                ))
                .at(place)
                .hint("a row is one JSON object on a line of its own"));
            }
        }
    }
}

/// Reads a glance from a JSON object.
struct Seed<'s> {
    wanted: &'s [String],
    is_foreign: &'s mut bool,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Glance<'de>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Glance<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Glance<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut map: A,
    ) -> std::result::Result<Glance<'de>, A::Error> {
        let mut glance = Glance {
            wanted: vec![None; self.wanted.len()],
            ..Glance::default()
        };
        let mut is_known = false;
        while let Some(Name(name)) = map.next_key()? {
            let field = match &*name {
                "id" => &mut glance.id,
                "audio" => &mut glance.audio,
                "task" => &mut glance.task,
                "language" => &mut glance.language,
                "text" => &mut glance.text,
                "summary" => &mut glance.summary,
                "target" => &mut glance.target,
                "label" => &mut glance.label,
                "speaker" => &mut glance.speaker,
                "group" => &mut glance.group,
                "split" => &mut glance.split,
                arabic::FIELD => &mut glance.normalisation,
                "duration" => {
                    match map.next_value::<Value>()? {
                        Value::Number(number) => glance.duration = number.as_f64(),
                        Value::Null => {}
                        _ => *self.is_foreign = true,
                    }
                    continue;
                }
                other => match self.wanted.iter().position(|wanted| wanted == other) {
                    Some(at) => &mut glance.wanted[at],
                    None => {
                        *self.is_foreign |= NOT_UNDERSTOOD.contains(&other);
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                },
            };
            match map.next_value::<Text>()? {
                Text::Some(text) => *field = Some(text),
                Text::Null => {}
                Text::Other => *self.is_foreign = true,
            }
            is_known |= matches!(&*name, "audio" | "text" | "summary" | "label");
        }
        *self.is_foreign |= !is_known;
        Ok(glance)
    }
}

/// A key, borrowed if it has no escapes.
struct Name<'de>(Cow<'de, str>);

/// A value of a field that names something.
enum Text<'de> {
    Some(Cow<'de, str>),
    Null,
    Other,
}

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match deserializer.deserialize_any(TextVisitor)? {
            Text::Some(text) => Ok(Self(text)),
            Text::Null | Text::Other => Ok(Self(Cow::Borrowed(""))),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Text<'de>, E> {
        Ok(Text::Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Text<'de>, E> {
        Ok(Text::Some(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Text<'de>, E> {
        Ok(Text::Some(Cow::Owned(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<Text<'de>, E> {
        Ok(Text::Some(Cow::Owned(number.to_string())))
    }

    fn visit_unit<E>(self) -> std::result::Result<Text<'de>, E> {
        Ok(Text::Null)
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Text<'de>, E> {
        Ok(Text::Other)
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Text<'de>, E> {
        Ok(Text::Other)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(
        self,
        mut list: A,
    ) -> std::result::Result<Text<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Text<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn seen(text: &str) -> Result<(Seen, Vec<String>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        fs::write(&path, text).unwrap();
        let wanted = ["room".to_owned()];
        let look = |lines: &[(u32, &[u8], Glance<'_>)]| -> Vec<String> {
            let name = |(line, _, glance): &(u32, &[u8], Glance<'_>)| {
                let room = glance.field("room", &wanted).unwrap_or("-");
                let audio = glance.field("audio", &wanted).unwrap_or("-");
                format!("{line} {audio} {room} {:?}", glance.duration)
            };
            lines.iter().map(name).collect()
        };
        let mut found = Vec::new();
        let outcome = at_lines(&path, &wanted, look, |more| {
            found.extend(more);
            Ok(())
        })?;
        Ok((outcome, found))
    }

    #[test]
    fn simple_rows_are_scanned_with_their_lines() {
        let text = "\u{feff}{\"audio\": \"a\\\\b.wav\", \"duration\": 1.5}\n\n{\"text\": \"x\", \"room\": 7, \"more\": {\"start\": 1}}\n";
        let (outcome, found) = seen(text).unwrap();
        assert_eq!(outcome, Seen::Whole);
        assert_eq!(found, ["1 a\\b.wav - Some(1.5)", "3 - 7 None"]);
    }

    #[test]
    fn rows_with_unknown_fields_are_foreign() {
        for line in [
            r#"{"audio": "a.wav", "start_s": 1}"#,
            r#"{"audio_filepath": "a.wav", "text": "x"}"#,
            r#"{"audio": {"path": "a.wav"}}"#,
            r#"{"audio": "a.wav", "duration": "1.5"}"#,
            r#"{"key": "1", "source": "a.wav", "target": "x"}"#,
            r#"{"messages": [], "text": "x"}"#,
            "[{\"audio\": \"a.wav\"}]",
            "id,audio\n1,a.wav",
        ] {
            let text = format!(
                "{}{line}\n",
                if line.starts_with('{') {
                    "{\"audio\": \"b.wav\"}\n"
                } else {
                    ""
                }
            );
            assert_eq!(seen(&text).unwrap().0, Seen::Foreign, "{line}");
        }
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = seen("{\"text\": \"x\"}\n{\"text\": \n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("rows.jsonl:2: "), "{error}");
    }

    #[test]
    fn blocks_hold_whole_lines() {
        let line = |i: usize| {
            format!(
                "{{\"audio\": \"{i}.wav\", \"text\": \"{}\"}}\n",
                "x".repeat(i % 977)
            )
        };
        let text: String = (0..40_000).map(line).collect();
        assert!(text.len() > 4 * BLOCK);
        let (outcome, found) = seen(text.trim_end()).unwrap();
        assert_eq!((outcome, found.len()), (Seen::Whole, 40_000));
        for (i, found) in found.iter().enumerate() {
            assert_eq!(*found, format!("{} {i}.wav - None", i + 1));
        }
    }
}
