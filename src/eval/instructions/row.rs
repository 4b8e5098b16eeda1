//! A row of an instruction suite, and how it is written: a line of a manifest that any command can read.

use std::path::Path;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::data::AUDIO_MARK;
use crate::data::AudioSource;
use crate::data::Message;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::check::Check;
use crate::eval::instructions::kind::Kind;
use crate::files::relative;

/// One row: a conversation about a clip that ends with a question, and what must hold of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct InstructionRow {
    /// Its name: kind, number, the row it was made from.
    pub id: String,
    /// What it tries.
    pub kind: Kind,
    /// The task that is asked last.
    pub asks: String,
    /// The wording in which it is asked, as `task/set/language/number`.
    pub wording: String,
    /// The manifest's row with the clip.
    pub source: Row,
    /// The conversation, the last answer left out.
    pub messages: Vec<Message>,
    /// What must hold of the answer.
    pub checks: Vec<Check>,
    /// What holds of a right answer, where that is more than one of the right form.
    pub right: Option<Check>,
    /// An answer for which all checks hold, where one is known.
    pub reference: Option<String>,
    /// What is said in the clip, as a sentence to stand in place of the audio; where the manifest knows it.
    pub transcript: Option<String>,
}

impl InstructionRow {
    /// The row as a line of a manifest in `folder`: `messages` and audio as manifests have them, and beside them `kind`, `asks`, `wording`,
    /// `source`, `checks`, `right` and `reference`.
    ///
    /// It names no `task`: the limit of new tokens that suits a bare label would cut what is asked for here.
    pub fn to_json(&self, folder: &Path) -> Result<Value> {
        let mut line = self.named();
        self.put_audio(&mut line, folder)?;
        self.put_rest(&mut line, &self.messages)?;
        Ok(Value::Object(line))
    }

    /// The same row in text alone: the transcript stands where the audio was. `None` where nothing is known of what is said.
    pub fn to_text_json(&self) -> Result<Option<Value>> {
        let Some(transcript) = &self.transcript else {
            return Ok(None);
        };
        let mut messages = self.messages.clone();
        for message in &mut messages {
            if message.content.starts_with(AUDIO_MARK) {
                let asked = message.content.replace(AUDIO_MARK, "");
                message.content = format!("{transcript}\n{asked}");
            }
        }
        let mut line = self.named();
        self.put_rest(&mut line, &messages)?;
        Ok(Some(Value::Object(line)))
    }

    /// What a row is called by.
    fn named(&self) -> Map<String, Value> {
        let names = [
            ("id", self.id.as_str()),
            ("kind", self.kind.name()),
            ("asks", self.asks.as_str()),
            ("wording", self.wording.as_str()),
            ("source", &*self.source.id),
        ];
        names
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect()
    }

    fn put_audio(&self, line: &mut Map<String, Value>, folder: &Path) -> Result<()> {
        let mut set = |name: &str, value: Value| {
            if !value.is_null() {
                line.insert(name.to_owned(), value);
            }
        };
        let paths = self.source.clips.iter().map(|clip| match &clip.source {
            AudioSource::File(path) => Ok(Value::from(
                relative(folder, path)?.to_string_lossy().replace('\\', "/"),
            )),
            AudioSource::Range { .. } => clip.source.to_json(folder),
            AudioSource::Embedded { .. } => {
                Err(Error::bug("embedded audio has no place in JSON lines"))
            }
        });
        let mut paths = paths.collect::<Result<Vec<Value>>>()?;
        match (paths.len(), self.source.clips.first()) {
            (1, Some(clip)) => {
                set("audio", paths.remove(0));
                set("start_s", clip.span.start_s.into());
                set("end_s", clip.span.end_s.into());
                set("channel", clip.span.channel.into());
            }
            _ => set("audios", paths.into()),
        }
        Ok(())
    }

    fn put_rest(&self, line: &mut Map<String, Value>, messages: &[Message]) -> Result<()> {
        let mut set = |name: &str, value: Value| {
            if !value.is_null() {
                line.insert(name.to_owned(), value);
            }
        };
        for (name, value) in [
            ("language", &self.source.language),
            ("speaker", &self.source.speaker),
            ("group", &self.source.group),
        ] {
            set(name, value.as_deref().into());
        }
        set("duration", self.source.duration.into());
        set(
            "messages",
            messages
                .iter()
                .map(|message| json!({"role": message.role.as_str(), "content": message.content}))
                .collect(),
        );
        set(
            "checks",
            serde_json::to_value(&self.checks).map_err(Error::bug_from)?,
        );
        set(
            "right",
            self.right
                .as_ref()
                .map(serde_json::to_value)
                .transpose()
                .map_err(Error::bug_from)?
                .into(),
        );
        set("reference", self.reference.as_deref().into());
        Ok(())
    }
}
