//! A row as one JSON object, as in a manifest in JSON lines.

use serde_json::Map;
use serde_json::Value;

use crate::Clip;
use crate::Message;
use crate::Row;
use maqam_audio::Span;
use maqam_base::error::Result;

impl Row {
    /// Returns the row's fields as one JSON object. `place` gives the place of a clip's audio: a
    /// path, or an object with one.
    ///
    /// Reading the object gives the same row, if `place` names the same audio.
    ///
    /// # Errors
    /// Those of `place`.
    pub fn to_json(
        &self,
        mut place: impl FnMut(&Clip) -> Result<Value>,
    ) -> Result<Map<String, Value>> {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| {
            if !value.is_null() {
                fields.insert(name.to_owned(), value);
            }
        };
        set("id", (*self.id).into());
        match self.clips.as_slice() {
            [] => {}
            [clip] => {
                set("audio", place(clip)?);
                for (name, value) in part_of(clip.span) {
                    set(name, value);
                }
            }
            clips => {
                let clips: Result<Vec<Value>> = clips
                    .iter()
                    .map(|clip| one_of_many(clip, &mut place))
                    .collect();
                set("audios", clips?.into());
            }
        }
        set("duration", self.duration.into());
        for (name, value) in [
            ("task", self.task.as_deref()),
            ("language", self.language.as_deref()),
            ("text", self.text.as_deref()),
            ("summary", self.summary.as_deref()),
            ("label", self.label.as_deref()),
        ] {
            set(name, value.into());
        }
        if !self.references.is_empty() {
            set(
                "references",
                self.references.iter().map(|text| &**text).collect(),
            );
        }
        for (name, value) in [
            ("speaker", self.speaker.as_deref()),
            ("group", self.group.as_deref()),
            ("split", self.split.as_deref()),
            ("instruction", self.instruction.as_deref()),
            ("target", self.target.as_deref()),
        ] {
            set(name, value.into());
        }
        if !self.messages.is_empty() {
            set("messages", self.messages.iter().map(message).collect());
        }
        for (name, value) in self.extra_fields() {
            set(&name, value);
        }
        Ok(fields)
    }
}

/// The fields for a part of a recording.
pub(crate) fn part_of(span: Span) -> [(&'static str, Value); 3] {
    [
        ("start_s", span.start_s.into()),
        ("end_s", span.end_s.into()),
        ("channel", span.channel.into()),
    ]
}

/// A clip in a list: its place, and its part and length if it has any.
fn one_of_many(clip: &Clip, place: &mut impl FnMut(&Clip) -> Result<Value>) -> Result<Value> {
    let placed = place(clip)?;
    let about: Vec<(&str, Value)> = part_of(clip.span)
        .into_iter()
        .chain([("duration", clip.stated_s.into())])
        .filter(|(_, value)| !value.is_null())
        .collect();
    if about.is_empty() {
        return Ok(placed);
    }
    let mut object = match placed {
        Value::Object(object) => object,
        path => Map::from_iter([("audio".to_owned(), path)]),
    };
    for (name, value) in about {
        object.insert(name.to_owned(), value);
    }
    Ok(object.into())
}

/// A message, as ms-swift and OpenAI write it.
pub(crate) fn message(message: &Message) -> Value {
    let mut fields = Map::new();
    fields.insert("role".to_owned(), message.role.as_str().into());
    fields.insert("content".to_owned(), message.content.as_str().into());
    if !message.loss {
        fields.insert("loss".to_owned(), false.into());
    }
    fields.into()
}
