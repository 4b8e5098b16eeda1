//! Conversations in a row, in every supported form: ms-swift's and OpenAI's, LLaMA-Factory's, query
//! and response, Alpaca's.

use std::path::Path;

use serde_json::Value;

use crate::AUDIO_MARK;
use crate::Clip;
use crate::Message;
use crate::Role;
use crate::clips::read_clip;
use crate::fields::Fields;
use crate::fields::Unread;
use crate::fields::brief;
use crate::fields::wrong_type;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// End of a path inside a message, as in `<audio>a.wav</audio>`.
const AUDIO_END: &str = "</audio>";

/// Marks of what is not read.
const FOREIGN_MARKS: [&str; 2] = ["<image>", "<video>"];

/// Marks that a model's own template writes around audio.
const MODEL_MARKS: [&str; 3] = ["<|AUDIO|>", "<|audio_bos|>", "<|audio_pad|>"];

/// Conversation of a row, and the clips whose paths are inside it.
#[derive(Default)]
pub struct Conversation {
    /// The messages; each [`AUDIO_MARK`] in a user's message stands for a clip.
    pub messages: Vec<Message>,
    /// Clips with their places in the messages, in that order.
    pub clips: Vec<Clip>,
    /// Unread fields of those clips.
    pub unread: Unread,
    /// True if messages without any mark begin with the row's clips.
    marks_are_optional: bool,
}

impl Conversation {
    /// Takes the row's conversation; it has no messages if the row has none.
    ///
    /// # Errors
    /// Two conversations, a message without role or content, parts of a message that are neither
    /// text nor audio.
    pub fn read(fields: &mut Fields, audio_folder: &Path) -> Result<Self> {
        let mut reader = Reader {
            audio_folder,
            clips: Vec::new(),
            unread: Unread::new(),
        };
        let mut messages = Vec::new();
        let mut found = None;
        for wording in &WORDINGS {
            let Some(list) = fields.list(wording.list)? else {
                continue;
            };
            if let Some(other) = found.replace(wording.list) {
                return Err(Error::input(format!(
                    "the row has both `{other}` and `{}`",
                    wording.list
                ))
                .hint("keep one of them"));
            }
            if list.is_empty() {
                return Err(Error::input(format!("`{}` is empty", wording.list)));
            }
            for (i, message) in list.into_iter().enumerate() {
                let message = reader
                    .message(message, wording)
                    .map_err(|e| e.at(format!("{}[{i}]", wording.list)))?;
                messages.push(message);
            }
        }
        let pair = match found {
            None => Pair::take(fields)?,
            Some(_) => None,
        };
        let marks_are_optional = pair.is_some();
        if let Some(pair) = pair {
            messages = reader.pair(pair, fields)?;
        }
        if !messages.is_empty() {
            insert_system(&mut messages, fields)?;
        }
        Ok(Self {
            messages,
            clips: reader.clips,
            unread: reader.unread,
            marks_are_optional,
        })
    }

    /// Compares the marks in the messages with the row's clips; puts marks in front of a question
    /// that may do without.
    ///
    /// # Errors
    /// Another number of marks than of clips.
    pub fn check_marks(&mut self, num_clips: usize) -> Result<()> {
        let num_marks: usize = self.messages.iter().map(Message::num_audio_marks).sum();
        if num_marks == num_clips {
            return Ok(());
        }
        if num_marks == 0
            && self.marks_are_optional
            && let Some(first) = self.messages.iter_mut().find(|m| m.role == Role::User)
        {
            first.content.insert_str(0, &AUDIO_MARK.repeat(num_clips));
            return Ok(());
        }
        let found = Error::input(format!(
            "the user's messages hold {num_marks} `{AUDIO_MARK}` marks, the row {num_clips} clips"
        ));
        let said = |mark: &str| self.messages.iter().any(|m| m.content.contains(mark));
        if let Some(mark) = MODEL_MARKS.into_iter().find(|mark| said(mark)) {
            return Err(found.hint(format!(
                "`{mark}` is the model's own mark: write `{AUDIO_MARK}` in its place, maqam adds the rest"
            )));
        }
        if num_clips == 0 {
            return Err(found.hint(format!(
                "list the paths under `audios`, or write them in the message: {AUDIO_MARK}clip.wav{AUDIO_END}"
            )));
        }
        Err(found.hint(format!("write one `{AUDIO_MARK}` where each clip is heard")))
    }
}

/// Puts the row's `system` before the conversation, unless the conversation begins with a system
/// message.
fn insert_system(messages: &mut Vec<Message>, fields: &mut Fields) -> Result<()> {
    let Some(system) = fields.text("system")?.filter(|system| !system.is_empty()) else {
        return Ok(());
    };
    if messages.first().is_none_or(|m| m.role != Role::System) {
        messages.insert(0, Message::new(Role::System, system));
    }
    Ok(())
}

/// The names that one way of writing conversations uses.
struct Wording {
    list: &'static str,
    role: &'static str,
    content: &'static str,
}

/// ms-swift's and OpenAI's way, then LLaMA-Factory's (ShareGPT's). Each reads the other's names of
/// roles.
const WORDINGS: [Wording; 2] = [
    Wording {
        list: "messages",
        role: "role",
        content: "content",
    },
    Wording {
        list: "conversations",
        role: "from",
        content: "value",
    },
];

const ROLES: [(&str, Role); 5] = [
    ("system", Role::System),
    ("user", Role::User),
    ("assistant", Role::Assistant),
    ("human", Role::User),
    ("gpt", Role::Assistant),
];

/// A question and its answer as fields of the row.
struct Pair {
    question: Value,
    answer: Option<String>,
}

impl Pair {
    /// Takes `query` and `response` (ms-swift), or `instruction`, `input` and `output` (Alpaca).
    fn take(fields: &mut Fields) -> Result<Option<Self>> {
        let is_answered = fields.has("response");
        // `query` alone is a question if the row has no other one; otherwise it is an ordinary
        // field.
        let has_task = ["text", "summary", "label", "instruction", "target"]
            .iter()
            .any(|name| fields.has(name));
        if fields.has("query") && (is_answered || !has_task) {
            let Some(question) = fields.take("query") else {
                return Ok(None);
            };
            let answer = fields.text("response")?;
            return Ok(Some(Self { question, answer }));
        }
        if fields.has("instruction") && fields.has("output") && !fields.has("target") {
            let answer = fields.text("output")?;
            let instruction = fields.text("instruction")?.unwrap_or_default();
            let input = fields.text("input")?.unwrap_or_default();
            let question = match input.is_empty() {
                true => instruction,
                false => format!("{instruction}\n{input}"),
            };
            return Ok(Some(Self {
                question: question.into(),
                answer,
            }));
        }
        Ok(None)
    }
}

struct Reader<'a> {
    audio_folder: &'a Path,
    clips: Vec<Clip>,
    unread: Unread,
}

impl Reader<'_> {
    /// Messages of a query, its response and the history.
    fn pair(&mut self, pair: Pair, fields: &mut Fields) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        for (i, turn) in fields
            .list("history")?
            .unwrap_or_default()
            .into_iter()
            .enumerate()
        {
            let turn = match turn {
                Value::Array(turn) => <[Value; 2]>::try_from(turn).ok(),
                _ => None,
            };
            let Some([question, Value::String(answer)]) = turn else {
                return Err(Error::input("not a question and its answer")
                    .at(format!("history[{i}]"))
                    .hint("`history` is a list of pairs: [[\"question\", \"answer\"]]"));
            };
            messages.push(self.said(Role::User, "history", question)?);
            messages.push(Message::new(Role::Assistant, answer));
        }
        messages.push(self.said(Role::User, "query", pair.question)?);
        messages.extend(
            pair.answer
                .map(|answer| Message::new(Role::Assistant, answer)),
        );
        Ok(messages)
    }

    fn said(&mut self, role: Role, name: &str, content: Value) -> Result<Message> {
        Ok(Message::new(role, self.content(role, name, content)?))
    }

    fn message(&mut self, message: Value, wording: &Wording) -> Result<Message> {
        let Value::Object(map) = message else {
            return Err(Error::input(format!(
                "a message is {}, not an object",
                brief(&message)
            )));
        };
        let mut fields = Fields::new(map);
        let missing = |name: &str| Error::input(format!("`{name}` is missing"));
        let written = fields
            .text(wording.role)?
            .ok_or_else(|| missing(wording.role))?;
        let lower = written.to_lowercase();
        let Some(&(_, role)) = ROLES.iter().find(|(name, _)| *name == lower) else {
            return Err(Error::input(format!("unknown role `{written}`"))
                .hint("roles are system, user (human) and assistant (gpt)"));
        };
        let content = fields
            .take(wording.content)
            .ok_or_else(|| missing(wording.content))?;
        let content = self.content(role, wording.content, content)?;
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

    /// The text of a message, with a mark for each of its clips.
    fn content(&mut self, role: Role, name: &str, content: Value) -> Result<String> {
        match content {
            Value::String(text) if role == Role::User => self.with_inline_paths(text),
            Value::String(text) => Ok(text),
            Value::Array(parts) => {
                let mut text = String::new();
                for (i, part) in parts.into_iter().enumerate() {
                    text += &self
                        .part(role, part)
                        .map_err(|e| e.at(format!("{name}[{i}]")))?;
                }
                Ok(text)
            }
            other => Err(wrong_type(name, &other, "a string")
                .hint("write the text, or a list of parts: [{\"type\": \"audio\", \"audio\": path}, {\"type\": \"text\", \"text\": ...}]")),
        }
    }

    /// A text with the paths inside its marks taken out as clips.
    fn with_inline_paths(&mut self, text: String) -> Result<String> {
        if let Some(mark) = FOREIGN_MARKS.iter().find(|mark| text.contains(**mark)) {
            return Err(not_read(mark));
        }
        let mut kept = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once(AUDIO_MARK) {
            kept += before;
            kept += AUDIO_MARK;
            // The end of another mark does not end this one.
            let inside = after
                .split_once(AUDIO_END)
                .filter(|(path, _)| !path.contains(AUDIO_MARK));
            rest = match inside {
                Some((path, after)) => {
                    if !path.trim().is_empty() {
                        self.clip(Value::from(path.trim()))?;
                    }
                    after
                }
                None => after,
            };
        }
        kept += rest;
        Ok(kept)
    }

    /// One part of a message in list form.
    fn part(&mut self, role: Role, part: Value) -> Result<String> {
        let map = match part {
            Value::String(text) => return self.content(role, "text", Value::String(text)),
            Value::Object(map) => map,
            other => return Err(wrong_type("part", &other, "an object")),
        };
        let written = map.get("type").and_then(Value::as_str).map(str::to_owned);
        // Some write the parts without their types.
        let kind = written.clone().unwrap_or_else(|| {
            let name = ["text", "audio", "image", "video"]
                .into_iter()
                .find(|name| map.contains_key(*name));
            name.unwrap_or_default().to_owned()
        });
        match kind.as_str() {
            "text" | "input_text" | "output_text" => {
                let text = Fields::new(map).text("text")?;
                text.ok_or_else(|| Error::input("`text` is missing"))
            }
            "audio" | "audio_url" | "input_audio" if role != Role::User => {
                Err(Error::input(format!("audio in the words of the {}", role.as_str()))
                    .hint("audio belongs into the user's messages"))
            }
            "audio" | "audio_url" | "input_audio" => {
                let mut clip = map;
                clip.shift_remove("type");
                if !clip.values().all(Value::is_null) {
                    self.clip(Value::Object(clip))?;
                }
                Ok(AUDIO_MARK.to_owned())
            }
            "" => Err(Error::input(format!(
                "a part without a type: {}",
                brief(&Value::Object(map))
            ))
            .hint("parts are {\"type\": \"text\", \"text\": ...} and {\"type\": \"audio\", \"audio\": path}")),
            other => Err(not_read(other)),
        }
    }

    fn clip(&mut self, value: Value) -> Result<()> {
        let clip = read_clip(value, self.audio_folder, &mut self.unread)?;
        self.clips.push(clip);
        Ok(())
    }
}

fn not_read(what: &str) -> Error {
    Error::input(format!("`{what}` in a message; audio and text are read"))
        .hint("remove it from rows that need no picture, and leave out the others")
}
