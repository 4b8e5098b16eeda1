//! Qwen3-ASR's rows: `{"audio", "text": "language Arabic<asr_text>...", "prompt"}`.

use serde_json::Map;
use serde_json::Value;

use crate::Row;
use crate::asr_text;
use crate::formats::ms_swift;
use crate::formats::out::Base;
use crate::formats::out::Out;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Returns whether a row's text names its language in Qwen3-ASR's way.
pub fn is_row(fields: &Map<String, Value>) -> bool {
    fields
        .get("text")
        .and_then(Value::as_str)
        .is_some_and(|text| asr_text::split(text).is_some())
}

/// Moves the language out of a row's text. `None`, which the model outputs without speech, is no
/// language.
pub fn convert(fields: &mut Map<String, Value>) {
    let Some(Value::String(text)) = fields.get("text") else {
        return;
    };
    let Some((language, text)) = asr_text::split(text) else {
        return;
    };
    let language = language.to_owned();
    let text = text.to_owned();
    fields.insert("text".to_owned(), text.into());
    if !asr_text::is_none(&language) && !fields.contains_key("language") {
        fields.insert("language".to_owned(), language.into());
    }
}

/// Writes `train.jsonl`.
///
/// # Errors
/// A row with no or several clips, with a part of a file, or without transcript; those of the disk.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    out.lines("train.jsonl", rows, |out, row| {
        out.only_clip(row)?;
        let Some(said) = &row.text else {
            return Err(Error::input("the row has no transcript")
                .at(out.place_of(row))
                .hint("give it a `text`"));
        };
        let mut fields = ms_swift::without_part(out.fields(row)?);
        let paths = ms_swift::paths(out, row, Base::Process)?;
        fields.insert("audio".to_owned(), paths[0].clone());
        fields.insert(
            "text".to_owned(),
            asr_text::answer(row.language.as_deref(), said).into(),
        );
        Ok(Value::Object(fields).to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_language_leaves_the_text_and_returns() {
        let Value::Object(mut row) =
            json!({"audio": "a.wav", "text": "language Arabic<asr_text>نعم"})
        else {
            unreachable!()
        };
        assert!(is_row(&row));
        convert(&mut row);
        assert_eq!(row["text"], "نعم");
        assert_eq!(row["language"], "Arabic");
        assert_eq!(
            asr_text::answer(Some("ar"), "نعم"),
            "language Arabic<asr_text>نعم"
        );
    }
}
