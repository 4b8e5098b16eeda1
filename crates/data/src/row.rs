//! One row: from named fields to a checked [`Row`].

use std::path::Path;
use std::sync::Arc;

use serde_json::Map;
use serde_json::Value;

use crate::AUDIO_MARK;
use crate::AudioSource;
use crate::Clip;
use crate::Message;
use crate::Role;
use crate::Row;
use crate::fields::Fields;
use crate::fields::Shared;
use crate::fields::brief;
use crate::fields::wrong_type;
use maqam_audio::Span;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// The fields that have a meaning; every other is kept in [`Row::extra`].
pub const FIELDS: [&str; 20] = [
    "id",
    "audio",
    "audios",
    "start_s",
    "end_s",
    "task",
    "language",
    "text",
    "summary",
    "label",
    "references",
    "speaker",
    "group",
    "duration",
    "split",
    "instruction",
    "target",
    "messages",
    "conversations",
    "system",
];

/// A row as a file gives it: its plain fields, and beside them the audio files that came inside the row itself.
pub struct RawRow {
    /// Line or row number, from 1.
    pub line: u32,
    /// The fields.
    pub fields: Map<String, Value>,
    /// Contents and names of embedded audio files; then `fields` has neither `audio` nor `audios`.
    pub embedded: Vec<(Arc<[u8]>, Option<String>)>,
}

/// Turns raw rows of one manifest into rows.
pub struct RowReader<'a> {
    audio_folder: &'a Path,
    shared: Shared,
}

impl<'a> RowReader<'a> {
    /// A reader that resolves relative audio paths from `audio_folder`.
    pub fn new(audio_folder: &'a Path) -> Self {
        Self {
            audio_folder,
            shared: Shared::default(),
        }
    }

    /// Checks one row.
    ///
    /// # Errors
    /// What is wrong with it, without its place.
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
        let mut clips = self.read_clips(&mut fields)?;
        for (bytes, name) in raw.embedded {
            let name = name
                .unwrap_or_else(|| format!("audio of row {}", raw.line))
                .into();
            clips.push(Clip {
                source: AudioSource::Embedded { bytes, name },
                span: Span::default(),
                stated_s: None,
            });
        }
        read_span(&mut fields, &mut clips)?;
        let messages = read_messages(&mut fields)?;
        if !messages.is_empty() {
            check_marks(&messages, clips.len())?;
        }
        let references = match fields.take("references") {
            Some(Value::String(one)) if !one.trim_start().starts_with('[') => vec![one.into()],
            Some(value) => read_references(value)?,
            None => Vec::new(),
        };
        let duration = fields.seconds("duration")?;
        if let [clip] = clips.as_mut_slice() {
            clip.stated_s = duration;
        }
        Ok(Row {
            id: id.into(),
            line: raw.line,
            clips,
            task: self.shared_name(&mut fields, "task")?,
            language: self.shared_name(&mut fields, "language")?,
            text: fields.text("text")?.map(Into::into),
            summary: fields.text("summary")?.map(Into::into),
            label: self.shared_name(&mut fields, "label")?,
            references,
            speaker: self.shared_name(&mut fields, "speaker")?,
            group: self.shared_name(&mut fields, "group")?,
            duration,
            split: self.shared_name(&mut fields, "split")?,
            instruction: fields.text("instruction")?.map(Into::into),
            target: fields.text("target")?.map(Into::into),
            messages,
            extra: fields.rest().map(|text| self.shared.share(&text)),
        })
    }

    fn shared_name(&mut self, fields: &mut Fields, name: &str) -> Result<Option<Arc<str>>> {
        Ok(fields.name(name)?.map(|text| self.shared.share(&text)))
    }

    fn read_clips(&self, fields: &mut Fields) -> Result<Vec<Clip>> {
        let paths = match (fields.take("audio"), fields.take("audios")) {
            (Some(_), Some(_)) => {
                return Err(
                    Error::input("the row has both `audio` and `audios`").hint("keep one of them")
                );
            }
            (Some(Value::String(path)), None) => vec![Value::String(path)],
            (Some(other), None) => {
                return Err(wrong_type("audio", &other, "a path")
                    .hint("a row with several clips lists their paths under `audios`"));
            }
            (None, Some(Value::Array(paths))) => paths,
            (None, Some(Value::String(text))) => match serde_json::from_str(&text) {
                Ok(Value::Array(paths)) => paths,
                _ => vec![Value::String(text)],
            },
            (None, Some(other)) => return Err(wrong_type("audios", &other, "a list of paths")),
            (None, None) => Vec::new(),
        };
        paths.iter().map(|path| self.read_clip(path)).collect()
    }

    fn read_clip(&self, path: &Value) -> Result<Clip> {
        let written = path
            .as_str()
            .ok_or_else(|| wrong_type("audio", path, "a path"))?;
        if written.is_empty() {
            return Err(Error::input("the audio path is empty")
                .hint("leave `audio` out of a row without audio"));
        }
        if ["http://", "https://", "data:"]
            .iter()
            .any(|scheme| written.starts_with(scheme))
        {
            return Err(
                Error::input(format!("audio is {}, not a path", brief(path)))
                    .hint("audio is read from files: fetch it first"),
            );
        }
        let resolved = self.audio_folder.join(written);
        if !resolved.is_file() {
            let hint = match Path::new(written).is_absolute() {
                true => "the path is absolute: does the file exist on this machine?",
                false => {
                    "relative paths start from the manifest's folder; set `audio_root` if the audio is elsewhere"
                }
            };
            return Err(
                Error::input(format!("no audio file at {}", resolved.display())).hint(hint),
            );
        }
        Ok(Clip {
            source: AudioSource::File(resolved.into()),
            span: Span::default(),
            stated_s: None,
        })
    }
}

/// Puts `start_s` and `end_s` on the row's one clip.
fn read_span(fields: &mut Fields, clips: &mut [Clip]) -> Result<()> {
    let span = Span {
        start_s: fields.seconds("start_s")?,
        end_s: fields.seconds("end_s")?,
        channel: None,
    };
    if span == Span::default() {
        return Ok(());
    }
    let start_s = span.start_s.unwrap_or(0.0);
    if let Some(end_s) = span.end_s
        && end_s <= start_s
    {
        return Err(
            Error::input(format!("the span from {start_s} s to {end_s} s is empty"))
                .hint("`end_s` lies after `start_s`, both in seconds"),
        );
    }
    match clips {
        [clip] => clip.span = span,
        [] => return Err(Error::input("`start_s` or `end_s` without audio")),
        _ => {
            return Err(
                Error::input(format!("`start_s` or `end_s` with {} clips", clips.len()))
                    .hint("a span belongs to a row with one clip"),
            );
        }
    }
    Ok(())
}

fn read_references(value: Value) -> Result<Vec<Box<str>>> {
    let mut fields = Fields::new(Map::from_iter([("references".to_owned(), value)]));
    let values = fields.list("references")?.unwrap_or_default();
    values
        .into_iter()
        .map(|value| match value {
            Value::String(text) => Ok(text.into()),
            other => Err(wrong_type("references", &other, "a string")),
        })
        .collect()
}

/// The names that one way of writing conversations uses.
struct Wording {
    list: &'static str,
    role: &'static str,
    content: &'static str,
    roles: [(&'static str, Role); 5],
}

/// ms-swift's and OpenAI's way, then LLaMA-Factory's (ShareGPT's). Each reads the other's names of roles.
const WORDINGS: [Wording; 2] = {
    const ROLES: [(&str, Role); 5] = [
        ("system", Role::System),
        ("user", Role::User),
        ("assistant", Role::Assistant),
        ("human", Role::User),
        ("gpt", Role::Assistant),
    ];
    [
        Wording {
            list: "messages",
            role: "role",
            content: "content",
            roles: ROLES,
        },
        Wording {
            list: "conversations",
            role: "from",
            content: "value",
            roles: ROLES,
        },
    ]
};

fn read_messages(fields: &mut Fields) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    let mut found = None;
    for wording in &WORDINGS {
        let Some(list) = fields.list(wording.list)? else {
            continue;
        };
        if let Some(other) = found.replace(wording.list) {
            return Err(
                Error::input(format!("the row has both `{other}` and `{}`", wording.list))
                    .hint("keep one of them"),
            );
        }
        if list.is_empty() {
            return Err(Error::input(format!("`{}` is empty", wording.list)));
        }
        for (i, message) in list.into_iter().enumerate() {
            messages.push(
                read_message(message, wording)
                    .map_err(|e| e.at(format!("{}[{i}]", wording.list)))?,
            );
        }
    }
    if found.is_some()
        && let Some(system) = fields.text("system")?
        && messages
            .first()
            .is_none_or(|first| first.role != Role::System)
        && !system.is_empty()
    {
        messages.insert(0, Message::new(Role::System, system));
    }
    Ok(messages)
}

fn read_message(message: Value, wording: &Wording) -> Result<Message> {
    let Value::Object(map) = message else {
        return Err(Error::input(format!(
            "a message is {}, not an object",
            brief(&message)
        )));
    };
    let mut fields = Fields::new(map);
    let missing = |name: &str| Error::input(format!("`{name}` is missing"));
    let role = fields
        .text(wording.role)?
        .ok_or_else(|| missing(wording.role))?;
    let Some(&(_, role)) = wording.roles.iter().find(|(name, _)| *name == role) else {
        return Err(Error::input(format!("unknown role `{role}`"))
            .hint("roles are system, user (human) and assistant (gpt)"));
    };
    let content = fields
        .text(wording.content)?
        .ok_or_else(|| missing(wording.content))?;
    let loss = match fields.take("loss") {
        None => true,
        Some(Value::Bool(loss)) => loss,
        Some(Value::Number(weight)) if weight.as_f64() == Some(0.0) => false,
        Some(Value::Number(weight)) if weight.as_f64() == Some(1.0) => true,
        Some(other) => return Err(wrong_type("loss", &other, "true or false")),
    };
    Ok(Message {
        role,
        content,
        loss,
    })
}

fn check_marks(messages: &[Message], num_clips: usize) -> Result<()> {
    let num_marks: usize = messages.iter().map(Message::num_audio_marks).sum();
    if num_marks == num_clips {
        return Ok(());
    }
    let found = format!(
        "the user's messages hold {num_marks} `{AUDIO_MARK}` marks, the row {num_clips} clips"
    );
    Err(Error::input(found).hint(format!("write one `{AUDIO_MARK}` where each clip is heard")))
}
