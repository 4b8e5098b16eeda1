//! Common Voice: a table of sentences, with the clips in a folder next to it.

use crate::Row;
use crate::form::Delimiter;
use crate::formats::out::Base;
use crate::formats::out::Out;
use crate::formats::table;
use maqam_base::error::Result;

/// Columns of every release, and maqam's field for each.
const COLUMNS: [(&str, &str); 11] = [
    ("client_id", "speaker"),
    ("path", "audio"),
    ("sentence", "text"),
    ("up_votes", "up_votes"),
    ("down_votes", "down_votes"),
    ("age", "age"),
    ("gender", "gender"),
    ("accents", "accents"),
    ("variant", "variant"),
    ("locale", "language"),
    ("segment", "segment"),
];

/// Folder of the clips.
const CLIPS: &str = "clips";

/// Writes `train.tsv` and `clips`.
///
/// # Errors
/// A row with no or several clips; those of the disk.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        let clip = out.only_clip(row)?;
        let path = out.audio_in(row, clip, Base::Manifest, CLIPS, true)?;
        let name = path.trim_start_matches("clips/").to_owned();
        let mut fields = out.fields(row)?;
        let mut record = serde_json::Map::new();
        for (column, field) in COLUMNS {
            let value = match field {
                "audio" => Some(name.as_str().into()),
                field => fields.shift_remove(field),
            };
            record.insert(column.to_owned(), value.unwrap_or_default());
        }
        record.extend(fields);
        records.push(record);
    }
    table::write_records(&out.path("train.tsv"), &records, Delimiter::Tab)
}
