//! A row of an instruction suite, and the line of the suite's file that it is written as and read
//! from.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::data::AUDIO_MARK;
use crate::data::AudioSource;
use crate::data::Message;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::check::Check;
use crate::eval::instructions::kind::InstructionKind;

/// One row: a conversation about a clip that ends with a question, and what must hold of the
/// answer.
#[derive(Clone, Debug, PartialEq)]
pub struct InstructionRow {
    /// Its name: kind, number, the row it was made from.
    pub id: String,
    /// What it tries.
    pub kind: InstructionKind,
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
    /// What is said in the clip, as a sentence to stand in place of the audio; where the manifest
    /// knows it.
    pub transcript: Option<String>,
}

/// A line of a suite's file: a row of a manifest that any command can read, and beside its fields
/// those that scoring needs. Scoring reads no others, so that a suite of one's own may have them in
/// any form that manifests take.
///
/// It names no `task`: the limit of new tokens that suits a bare label would cut what is asked for
/// here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SuiteRow {
    /// Its id.
    pub id: String,
    /// Its kind; a name of one's own serves in a suite of one's own.
    pub kind: String,
    /// The task that is asked.
    #[serde(default)]
    pub asks: String,
    /// The wording it is asked in; rows that have one and are alike in `asks` and `kind` are
    /// compared over wordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wording: Option<String>,
    /// The row that the clip comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Place of the only clip's audio: a path, or an object with one.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub audio: Option<Value>,
    /// Start of the only clip, in seconds.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub start_s: Option<f64>,
    /// End of the only clip, in seconds.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub end_s: Option<f64>,
    /// Channel of the only clip, from 0.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u16>,
    /// Places of the audio of several clips.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub audios: Option<Vec<Value>>,
    /// Language of the clip.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Who speaks.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// The programme or document of the clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Length of the audio, in seconds.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// The conversation, the last answer left out.
    #[serde(skip_deserializing)]
    pub messages: Vec<SuiteMessage>,
    /// What must hold of the answer.
    pub checks: Vec<Check>,
    /// What holds of a right answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<Check>,
    /// An answer for which all checks hold, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// One message of a row's conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SuiteMessage {
    /// Role of the author.
    pub role: &'static str,
    /// Text.
    pub content: String,
}

impl SuiteRow {
    /// The line as it stands in the file, without its end.
    ///
    /// # Errors
    /// None but a bug.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::bug_from)
    }
}

impl InstructionRow {
    /// The row as a line of a suite in `folder`.
    ///
    /// # Errors
    /// A path that cannot be seen from `folder`.
    pub fn line(&self, folder: &Path) -> Result<SuiteRow> {
        let mut line = self.line_without_audio(&self.messages);
        let mut places = Vec::new();
        for clip in &self.source.clips {
            if matches!(clip.source, AudioSource::Embedded { .. }) {
                return Err(Error::bug("embedded audio has no place in JSON lines"));
            }
            places.push(clip.source.to_json(folder)?);
        }
        match self.source.clips.as_slice() {
            [clip] => {
                line.audio = places.pop();
                line.start_s = clip.span.start_s;
                line.end_s = clip.span.end_s;
                line.channel = clip.span.channel;
            }
            _ => line.audios = Some(places),
        }
        Ok(line)
    }

    /// The same row in text alone: the transcript stands where the audio was. `None` where nothing
    /// is known of what is said.
    pub fn text_line(&self) -> Option<SuiteRow> {
        let transcript = self.transcript.as_ref()?;
        let mut messages = self.messages.clone();
        for message in &mut messages {
            if message.content.starts_with(AUDIO_MARK) {
                let asked = message.content.replace(AUDIO_MARK, "");
                message.content = format!("{transcript}\n{asked}");
            }
        }
        Some(self.line_without_audio(&messages))
    }

    fn line_without_audio(&self, messages: &[Message]) -> SuiteRow {
        let messages = messages.iter().map(|message| SuiteMessage {
            role: message.role.as_str(),
            content: message.content.clone(),
        });
        SuiteRow {
            id: self.id.clone(),
            kind: self.kind.name().to_owned(),
            asks: self.asks.clone(),
            wording: Some(self.wording.clone()),
            source: Some(self.source.id.to_string()),
            language: self.source.language.as_deref().map(str::to_owned),
            speaker: self.source.speaker.as_deref().map(str::to_owned),
            group: self.source.group.as_deref().map(str::to_owned),
            duration: self.source.duration,
            messages: messages.collect(),
            checks: self.checks.clone(),
            right: self.right.clone(),
            reference: self.reference.clone(),
            ..SuiteRow::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_without_its_manifest_fields() {
        let text = r#"{"id":"wording-001-a","kind":"wording","asks":"asr","wording":"asr/seen/en/0","source":"a","audio":"a.wav","start_s":1.0,"end_s":2.5,"channel":1,"language":"en","speaker":"s","group":"g","duration":1.5,"messages":[{"role":"user","content":"<audio>What is said?"}],"checks":[{"check":"no-diacritics"}],"right":{"check":"one-of","answers":["x"]},"reference":"x"}"#;
        let read: SuiteRow = serde_json::from_str(text).unwrap();
        let written = SuiteRow {
            audio: Some("a.wav".into()),
            start_s: Some(1.0),
            end_s: Some(2.5),
            channel: Some(1),
            language: Some("en".into()),
            speaker: Some("s".into()),
            duration: Some(1.5),
            messages: vec![SuiteMessage {
                role: "user",
                content: "<audio>What is said?".into(),
            }],
            ..read.clone()
        };
        assert_eq!(written.to_text().unwrap(), text);
        assert_eq!(read.group.as_deref(), Some("g"));

        let again: SuiteRow = serde_json::from_str(&read.to_text().unwrap()).unwrap();
        assert_eq!(again, read);
    }
}
