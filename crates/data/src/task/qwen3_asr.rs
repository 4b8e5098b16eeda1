//! Conversations of Qwen3-ASR: a context, a clip, and a language before the transcript. The model
//! reads no instruction.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::AUDIO_MARK;
use crate::Message;
use crate::Role;
use crate::asr_text;
use crate::language;
use crate::spelling::visible;
use crate::task::Example;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::error::brief;
use maqam_metrics::TaskKind;

/// System message of general tasks, which is no context.
const USUAL_SYSTEM: &str = "You are a helpful assistant.";

/// The field of a row that is the context of its transcript.
const CONTEXT: &str = "prompt";

/// The language that an answer begins with, so that the model writes the transcript alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ForcedLanguage {
    /// That of each row; a row without one leaves it to the model.
    Row,
    /// One for all rows, as a tag.
    Tag(String),
}

impl std::str::FromStr for ForcedLanguage {
    type Err = Error;

    fn from_str(written: &str) -> Result<Self> {
        match written {
            "row" => Ok(Self::Row),
            _ => language::tag(written).map(Self::Tag),
        }
    }
}

impl TryFrom<String> for ForcedLanguage {
    type Error = Error;

    fn try_from(written: String) -> Result<Self> {
        written.parse()
    }
}

impl From<ForcedLanguage> for String {
    fn from(forced: ForcedLanguage) -> Self {
        match forced {
            ForcedLanguage::Row => "row".to_owned(),
            ForcedLanguage::Tag(tag) => tag,
        }
    }
}

impl ForcedLanguage {
    /// Lets the answer of an example begin with the language.
    pub fn apply(&self, example: &mut Example) {
        example.forced_language = match self {
            Self::Row => example.row_language.clone(),
            Self::Tag(tag) => Some(tag.clone()),
        };
    }
}

/// A conversation of an example in the model's form. A row's own conversation does not change. Of a
/// task that asks for a transcript, the instruction is left out, `prompt` of the row or else the
/// task's system message is the context, and the language comes before the transcript.
///
/// # Errors
/// A task that asks for something else.
pub fn conversation(example: &Example, messages: &[Message]) -> Result<Vec<Message>> {
    if example.wording.is_none() {
        return Ok(messages.to_vec());
    }
    if example.kind != Some(TaskKind::Transcribe) {
        return Err(Error::input(format!(
            "Qwen3-ASR reads no instruction, and task `{}` asks for more than a transcript",
            example.task
        ))
        .hint("give Qwen3-ASR rows of a task of `kind: transcribe`, or `messages` of their own"));
    }
    let mut found = Vec::with_capacity(3);
    if let Some(context) = context(example, messages) {
        found.push(Message::new(Role::System, context));
    }
    let clips = AUDIO_MARK.repeat(example.clips.len());
    found.push(Message::new(Role::User, clips));
    if let Some(last) = messages.last()
        && last.role == Role::Assistant
    {
        let answer = match asr_text::split(&last.content) {
            Some(_) => last.content.clone(),
            None => asr_text::answer(example.row_language.as_deref(), &last.content),
        };
        found.push(Message {
            content: answer,
            ..last.clone()
        });
    }
    Ok(found)
}

/// Text that the model gets before a clip.
fn context(example: &Example, messages: &[Message]) -> Option<String> {
    let extra = example.extra.as_deref().unwrap_or_default();
    let fields: Value = serde_json::from_str(extra).unwrap_or_default();
    if let Some(context) = fields.get(CONTEXT).and_then(Value::as_str)
        && !context.is_empty()
    {
        return Some(context.to_owned());
    }
    let first = messages.first()?;
    let is_context = first.role == Role::System && first.content != USUAL_SYSTEM;
    is_context.then(|| first.content.clone())
}

/// Refuses texts and clips that the model's template would drop or misplace.
///
/// # Errors
/// Text in a user's message, more than one clip.
pub fn check(messages: &[Message]) -> Result<()> {
    let of_user = messages.iter().filter(|message| message.role == Role::User);
    let texts = of_user.map(|message| message.content.replace(AUDIO_MARK, ""));
    if let Some(text) = texts.into_iter().find(|text| !text.trim().is_empty()) {
        return Err(Error::input(format!(
            "Qwen3-ASR reads no text of a user's message, found `{}`",
            visible(&brief(text.trim()))
        ))
        .hint("leave it out, or make it the context: a system message, or `prompt` of the row"));
    }
    match messages.iter().map(Message::num_audio_marks).sum() {
        0 | 1 => Ok(()),
        clips => Err(Error::input(format!(
            "Qwen3-ASR takes one clip in a conversation, found {clips}"
        ))
        .hint("give each clip a row of its own")),
    }
}
