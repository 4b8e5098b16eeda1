//! One row: from named fields to a checked [`Row`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Map;
use serde_json::Value;

use crate::AudioSource;
use crate::Clip;
use crate::Row;
use crate::clips::PART;
use crate::clips::StatedSpan;
use crate::clips::read_clip;
use crate::clips::read_part;
use crate::conversation::Conversation;
use crate::fields::Fields;
use crate::fields::Shared;
use crate::fields::Unread;
use crate::fields::wrong_type;
use crate::language;
use crate::notes::Notes;
use crate::spelling::ordinary;
use maqam_audio::Span;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Fields with a meaning; all others are stored in [`Row::extra`].
pub const FIELDS: [&str; 38] = [
    "id",
    "audio",
    "audios",
    "audio_path",
    "audio_filepath",
    "start_s",
    "start",
    "start_ms",
    "offset",
    "end_s",
    "end",
    "end_ms",
    "duration",
    "duration_ms",
    "channel",
    "task",
    "language",
    "lang",
    "text",
    "summary",
    "label",
    "references",
    "speaker",
    "group",
    "split",
    "instruction",
    "target",
    "messages",
    "conversations",
    "system",
    "query",
    "response",
    "history",
    "output",
    "image",
    "images",
    "video",
    "videos",
];

/// Fields of pictures, which are refused if they hold anything.
const PICTURES: [&str; 4] = ["images", "image", "videos", "video"];

/// Other names of `audio`, as NeMo and others write it.
const AUDIO_NAMES: [&str; 2] = ["audio_filepath", "audio_path"];

/// Seconds by which the durations of a row and of its only clip may differ.
const STATED_TOLERANCE_S: f64 = 0.1;

/// A row of a file: its plain fields, and the audio that the file itself holds.
pub struct RawRow {
    /// Line or row number, from 1.
    pub line: u32,
    /// The fields.
    pub fields: Map<String, Value>,
    /// Audio inside the file; then `fields` has neither `audio` nor `audios`.
    pub inside: Vec<Inside>,
}

impl RawRow {
    /// A row of plain fields.
    pub fn new(line: u32, fields: Map<String, Value>) -> Self {
        Self {
            line,
            fields,
            inside: Vec::new(),
        }
    }
}

/// Audio inside the row's file, or in a file next to it.
pub struct Inside {
    /// The audio.
    pub source: AudioSource,
    /// Other fields of the audio, such as those of its part.
    pub fields: Map<String, Value>,
}

/// Turns raw rows of one manifest into rows.
pub struct RowReader {
    audio_folder: PathBuf,
    shared: Shared,
    /// Tags of languages by their spelling in the file.
    languages: HashMap<String, Arc<str>>,
    notes: Notes,
}

impl RowReader {
    /// A reader that resolves relative audio paths from `audio_folder`.
    pub fn new(audio_folder: PathBuf) -> Self {
        Self {
            audio_folder,
            shared: Shared::default(),
            languages: HashMap::new(),
            notes: Notes::default(),
        }
    }

    /// Resolves relative audio paths from another folder from here on.
    pub fn set_audio_folder(&mut self, audio_folder: &Path) {
        self.audio_folder = audio_folder.to_owned();
    }

    /// Notes for the user on the rows so far.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Checks one row.
    ///
    /// # Errors
    /// The row's fault, without its place.
    pub fn read(&mut self, raw: RawRow) -> Result<Row> {
        let mut fields = Fields::new(raw.fields);
        let id = match fields.name("id")? {
            Some(id) if id.is_empty() => {
                return Err(Error::input("`id` is empty")
                    .hint("leave `id` out to have the line number instead"));
            }
            Some(id) => id,
            None => raw.line.to_string(),
        };
        refuse_pictures(&mut fields)?;
        let mut conversation = Conversation::read(&mut fields, &self.audio_folder)?;
        let inline = std::mem::take(&mut conversation.clips);
        let mut unread = std::mem::take(&mut conversation.unread);
        let clips = self.read_clips(&mut fields, raw.inside, inline, &mut unread)?;
        let (clips, duration) = narrow(&mut fields, clips)?;
        if !conversation.messages.is_empty() {
            conversation.check_marks(clips.len())?;
        }
        let mut messages = conversation.messages;
        for message in &mut messages {
            message.content = self.fold(std::mem::take(&mut message.content), "messages", raw.line);
        }
        let references = match fields.take("references") {
            Some(Value::String(one)) if !one.trim_start().starts_with('[') => vec![one],
            Some(value) => read_references(value)?,
            None => Vec::new(),
        };
        let references = references
            .into_iter()
            .map(|text| self.fold(text, "references", raw.line).into())
            .collect();
        let row = Row {
            id: id.into(),
            line: raw.line,
            shard: None,
            task: self.shared_name(&mut fields, "task")?,
            language: self.language(&mut fields)?,
            text: self.text(&mut fields, "text", raw.line)?,
            summary: self.text(&mut fields, "summary", raw.line)?,
            label: self.label(&mut fields, raw.line)?,
            references,
            speaker: self.shared_name(&mut fields, "speaker")?,
            group: self.shared_name(&mut fields, "group")?,
            duration,
            split: self.shared_name(&mut fields, "split")?,
            instruction: self.text(&mut fields, "instruction", raw.line)?,
            target: self.text(&mut fields, "target", raw.line)?,
            messages,
            clips,
            extra: None,
        };
        self.look_at_the_rest(&fields, &unread, &row);
        let extra = fields.rest().map(|text| self.shared.share(&text));
        Ok(Row { extra, ..row })
    }

    /// Notes fields of the row and of its audio objects that are not read and look as if they
    /// should be.
    fn look_at_the_rest(&mut self, fields: &Fields, of_clips: &[(String, Value)], row: &Row) {
        let is_whole = |clip: &Clip| !clip.span.is_part();
        if !row.clips.is_empty() && row.clips.iter().all(is_whole) {
            let of_clips = of_clips.iter().map(|(name, value)| (name.as_str(), value));
            for (name, value) in fields.left().chain(of_clips) {
                self.notes.unread(name, value, row.line);
            }
        }
        if row.messages.is_empty() && fields.has("system") {
            self.notes.remark(
                "`system` is read beside a conversation only; a task has a system message of its own",
                row.line,
            );
        }
        if !row.clips.is_empty() && fields.has("channel") {
            self.notes.remark(
                "`channel` is no number of a channel, and is kept as a field like any other; all channels are averaged",
                row.line,
            );
        }
    }

    fn shared_name(&mut self, fields: &mut Fields, name: &str) -> Result<Option<Arc<str>>> {
        Ok(fields.name(name)?.map(|text| self.shared.share(&text)))
    }

    /// A text in its ordinary spelling.
    fn text(
        &mut self,
        fields: &mut Fields,
        name: &'static str,
        line: u32,
    ) -> Result<Option<Box<str>>> {
        let text = fields.text(name)?;
        Ok(text.map(|text| self.fold(text, name, line).into()))
    }

    fn label(&mut self, fields: &mut Fields, line: u32) -> Result<Option<Arc<str>>> {
        let Some(label) = fields.name("label")? else {
            return Ok(None);
        };
        let label = self.fold(label, "label", line);
        Ok(Some(self.shared.share(&label)))
    }

    fn fold(&mut self, text: String, name: &'static str, line: u32) -> String {
        match ordinary(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(folded) => {
                if folded != text {
                    self.notes.folded(name, line);
                }
                folded
            }
        }
    }

    /// The tag of the row's `language`, or of `lang` if that is a language.
    fn language(&mut self, fields: &mut Fields) -> Result<Option<Arc<str>>> {
        let written = fields
            .name("language")?
            .filter(|name| !name.trim().is_empty());
        if let Some(written) = written {
            if let Some(known) = self.languages.get(&written) {
                return Ok(Some(known.clone()));
            }
            let tag = self.shared.share(&language::tag(&written)?);
            self.languages.insert(written, tag.clone());
            return Ok(Some(tag));
        }
        let other = match fields.take("lang") {
            Some(Value::String(other)) => other,
            Some(other) => {
                fields.put_back("lang", other);
                return Ok(None);
            }
            None => return Ok(None),
        };
        match language::tag(&other) {
            Ok(tag) => Ok(Some(self.shared.share(&tag))),
            Err(_) => {
                fields.put_back("lang", other.into());
                Ok(None)
            }
        }
    }

    /// The row's clips: from fields of the row, embedded, or from its messages.
    fn read_clips(
        &self,
        fields: &mut Fields,
        inside: Vec<Inside>,
        inline: Vec<Clip>,
        unread: &mut Unread,
    ) -> Result<Vec<Clip>> {
        let mut audio = fields.take("audio");
        for name in AUDIO_NAMES {
            // If there is `audio`, another path is an ordinary field.
            if audio.is_none() && !fields.has("audios") && inside.is_empty() && inline.is_empty() {
                audio = fields.take(name);
            }
        }
        let values = match (audio, fields.take("audios")) {
            (Some(_), Some(_)) => {
                return Err(
                    Error::input("the row has both `audio` and `audios`").hint("keep one of them")
                );
            }
            (Some(value @ (Value::String(_) | Value::Object(_))), None) => vec![value],
            (Some(other), None) => {
                return Err(wrong_type("audio", &other, "a path")
                    .hint("a row with several clips lists their paths under `audios`"));
            }
            (None, Some(Value::Array(values))) => values,
            (None, Some(Value::String(text))) => match serde_json::from_str(&text) {
                Ok(Value::Array(values)) => values,
                _ => vec![Value::String(text)],
            },
            (None, Some(value @ Value::Object(_))) => vec![value],
            (None, Some(other)) => return Err(wrong_type("audios", &other, "a list of paths")),
            (None, None) => Vec::new(),
        };
        let mut clips = values
            .into_iter()
            .map(|value| read_clip(value, &self.audio_folder, unread))
            .collect::<Result<Vec<Clip>>>()?;
        for audio in inside {
            clips.push(inside_clip(audio, unread)?);
        }
        match (clips.is_empty(), inline.is_empty()) {
            (_, true) => Ok(clips),
            (true, false) => Ok(inline),
            (false, false) => Err(Error::input(
                "the row names audio beside its messages, and inside them",
            )
            .hint("keep one of them: paths under `audios`, or in the messages")),
        }
    }
}

fn inside_clip(audio: Inside, unread: &mut Unread) -> Result<Clip> {
    let mut fields = Fields::new(audio.fields);
    let StatedSpan { span, stated_s } = read_part(&mut fields)?;
    fields.move_left(unread);
    Ok(Clip {
        source: audio.source,
        span,
        stated_s,
    })
}

/// Refuses a row with pictures.
fn refuse_pictures(fields: &mut Fields) -> Result<()> {
    for name in PICTURES {
        let is_empty = match fields.take(name) {
            None | Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.iter().all(Value::is_null),
            Some(Value::Object(map)) => map.values().all(Value::is_null),
            Some(_) => false,
        };
        if !is_empty {
            return Err(
                Error::input(format!("the row has `{name}`; maqam reads audio and text")).hint(
                    format!(
                        "remove `{name}` from rows that need no picture, and leave out the others"
                    ),
                ),
            );
        }
    }
    Ok(())
}

/// Applies the row's part to its only clip; returns also the length that the row states.
fn narrow(fields: &mut Fields, mut clips: Vec<Clip>) -> Result<(Vec<Clip>, Option<f64>)> {
    let written: Vec<String> = PART
        .iter()
        .filter(|name| fields.has(name))
        .map(|name| format!("`{name}`"))
        .collect();
    if clips.is_empty() {
        // Texts have times too. Without audio, only fields with no other meaning are an error.
        if let Some(name) = ["start_s", "end_s"].iter().find(|name| fields.has(name)) {
            return Err(Error::input(format!("`{name}` without audio")));
        }
        return Ok((clips, fields.seconds("duration")?));
    }
    let StatedSpan { span, stated_s } = read_part(fields)?;
    match clips.as_mut_slice() {
        [clip] => {
            let is_said_twice = clip.span != Span::WHOLE && span != Span::WHOLE;
            if is_said_twice {
                return Err(Error::input(format!(
                    "{} beside a clip that has a part of its own",
                    written.join(", ")
                ))
                .hint("say the part once, in the row or in the clip"));
            }
            if let (Some(of_clip), Some(of_row)) = (clip.stated_s, stated_s)
                && (of_clip - of_row).abs() > STATED_TOLERANCE_S
            {
                return Err(Error::input(format!(
                    "the row's duration is {of_row} s, its clip's {of_clip} s"
                ))
                .hint("keep one of them"));
            }
            if span != Span::WHOLE {
                clip.span = span;
            }
            clip.stated_s = clip.stated_s.or(stated_s);
            let duration = clip.stated_s;
            Ok((clips, duration))
        }
        _ if span != Span::WHOLE => Err(Error::input(format!(
            "{} with {} clips",
            written.join(", "),
            clips.len()
        ))
        .hint("give each clip its own part: \"audios\": [{\"audio\": path, \"start_s\": 0.5, \"end_s\": 1.5}, ...]")),
        _ => Ok((clips, stated_s)),
    }
}

fn read_references(value: Value) -> Result<Vec<String>> {
    let mut fields = Fields::new(Map::from_iter([("references".to_owned(), value)]));
    let values = fields.list("references")?.unwrap_or_default();
    values
        .into_iter()
        .map(|value| match value {
            Value::String(text) => Ok(text),
            other => Err(wrong_type("references", &other, "a string")),
        })
        .collect()
}
