//! ms-swift: conversations as `messages`, with the paths of their clips as `audios`.

use serde_json::Map;
use serde_json::Value;

use crate::Row;
use crate::formats::out::Base;
use crate::formats::out::Out;
use crate::row_json::message;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Writes `train.jsonl`.
///
/// # Errors
/// A row without conversation, or one with a clip that is a part of its file; those of the disk.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    out.lines("train.jsonl", rows, |out, row| {
        let mut fields = out.fields(row)?;
        let messages = out.conversation(row)?;
        fields.insert(
            "messages".to_owned(),
            messages.iter().map(message).collect(),
        );
        fields.insert("audios".to_owned(), paths(out, row, Base::Process)?);
        Ok(Value::Object(without_part(fields)).to_string())
    })
}

/// The paths of a row's clips.
///
/// # Errors
/// A clip that is a part of its file, because readers of these paths would use the whole file.
pub fn paths(out: &mut Out<'_>, row: &Row, base: Base) -> Result<Value> {
    let paths: Result<Vec<Value>> = row
        .clips
        .iter()
        .map(|clip| {
            if clip.span.is_part() || clip.span.channel.is_some() {
                return Err(Error::input(format!(
                    "a part of a recording; {} names whole files",
                    out.settings.format
                ))
                .at(out.place_of(row))
                .hint(
                    "cut the recordings first, or export to jsonl, nemo, lhotse, kaldi or parquet",
                ));
            }
            Ok(out.audio(row, clip, base)?.into())
        })
        .collect();
    Ok(paths?.into())
}

/// The fields without those that a list of whole files has no use for.
pub fn without_part(mut fields: Map<String, Value>) -> Map<String, Value> {
    for name in ["start_s", "end_s", "channel"] {
        fields.shift_remove(name);
    }
    fields
}
