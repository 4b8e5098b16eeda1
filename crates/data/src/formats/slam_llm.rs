//! SLAM-LLM: `{"key", "source", "target"}`, with a prompt if the row has one.

use serde_json::Map;
use serde_json::Value;

use crate::Row;
use crate::formats::ms_swift::paths;
use crate::formats::ms_swift::without_part;
use crate::formats::out::Base;
use crate::formats::out::Out;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Fields with the target; the first that a row has is used.
const TARGETS: [&str; 4] = ["target", "text", "summary", "label"];

/// Writes `train.jsonl`.
///
/// # Errors
/// A row with no or several clips, with a part of a file, or without a target; those of the disk.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    out.lines("train.jsonl", rows, |out, row| {
        out.only_clip(row)?;
        let fields = out.fields(row)?;
        let target = TARGETS.iter().find_map(|name| fields.get(*name)).cloned();
        let Some(target) = target else {
            return Err(Error::input("the row has nothing to learn")
                .at(out.place_of(row))
                .hint("give it a `target`, `text`, `summary` or `label`"));
        };
        let paths = paths(out, row, Base::Process)?;
        let mut written = Map::new();
        written.insert("key".to_owned(), (*row.id).into());
        written.insert("source".to_owned(), paths[0].clone());
        written.insert("target".to_owned(), target);
        for (name, value) in without_part(fields) {
            match name.as_str() {
                "id" | "target" => None,
                "instruction" => written.insert("prompt".to_owned(), value),
                _ => written.insert(name, value),
            };
        }
        Ok(Value::Object(written).to_string())
    })
}
