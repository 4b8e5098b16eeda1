//! Parquet files as Hugging Face `datasets` and maqam read them: typed columns, audio inside.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use polars::prelude::ArrowDataType;
use polars::prelude::ArrowField;
use polars::prelude::ArrowSchema;
use polars::prelude::Column;
use polars::prelude::CompatLevel;
use polars::prelude::DataFrame;
use polars::prelude::DataType;
use polars::prelude::Field;
use polars::prelude::IntoSeries;
use polars::prelude::KeyValueMetadata;
use polars::prelude::NamedFrom;
use polars::prelude::ParquetWriter;
use polars::prelude::PlSmallStr;
use polars::prelude::PolarsResult;
use polars::prelude::Series;
use polars::prelude::StructChunked;
use polars_parquet::write::schema_to_metadata_key;
use rayon::prelude::*;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::Clip;
use crate::Row;
use crate::formats::huggingface;
use crate::formats::huggingface::Feature;
use crate::row_json::part_of;
use maqam_audio::Span;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Most rows of a row group with audio.
const GROUP_ROWS: usize = 1000;

/// Most rows of a row group of texts.
const TEXT_GROUP_ROWS: usize = 1 << 16;

/// Bytes of audio after which a row group ends.
const GROUP_BYTES: usize = 64 << 20;

/// Key of maqam's metadata on columns.
pub const KEY: &str = "maqam";

/// Columns of a file with their kinds; [`ColumnKind::Json`] columns hold texts of JSON values.
struct Columns {
    kinds: Vec<(String, ColumnKind)>,
    /// Fields that some clip of a list has.
    clip_fields: BTreeSet<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ColumnKind {
    Audio,
    Audios,
    Messages,
    Boolean,
    Integer,
    Number,
    Text,
    Texts,
    Json,
}

impl ColumnKind {
    /// Kind of a single value; none for null.
    fn of(name: &str, value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => return None,
            _ if name == "messages" => Self::Messages,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if number.is_i64() => Self::Integer,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::Text,
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_string) => {
                Self::Texts
            }
            _ => Self::Json,
        })
    }

    /// Kind of a column with values of two kinds.
    fn with(self, other: Self) -> Self {
        match (self, other) {
            (one, other) if one == other => one,
            (Self::Integer, Self::Number) | (Self::Number, Self::Integer) => Self::Number,
            _ => Self::Json,
        }
    }

    fn feature(self) -> Feature {
        match self {
            Self::Audio => Feature::Audio,
            Self::Audios => Feature::Audios,
            Self::Messages => Feature::Messages,
            Self::Boolean => Feature::Boolean,
            Self::Integer => Feature::Integer,
            Self::Number => Feature::Number,
            Self::Texts => Feature::Texts,
            Self::Text | Self::Json => Feature::Text,
        }
    }
}

/// Names and kinds of a row's fields without its audio, in the order of [`fields_of`]. It builds no values, because every row is looked at.
fn kinds_of(row: &Row) -> Vec<(Cow<'static, str>, ColumnKind)> {
    let span = match row.clips.as_slice() {
        [clip] => clip.span,
        _ => Span::WHOLE,
    };
    let known = [
        ("id", true, ColumnKind::Text),
        ("start_s", span.start_s.is_some(), ColumnKind::Number),
        ("end_s", span.end_s.is_some(), ColumnKind::Number),
        ("channel", span.channel.is_some(), ColumnKind::Integer),
        ("duration", row.duration.is_some(), ColumnKind::Number),
        ("task", row.task.is_some(), ColumnKind::Text),
        ("language", row.language.is_some(), ColumnKind::Text),
        ("text", row.text.is_some(), ColumnKind::Text),
        ("summary", row.summary.is_some(), ColumnKind::Text),
        ("label", row.label.is_some(), ColumnKind::Text),
        ("references", !row.references.is_empty(), ColumnKind::Texts),
        ("speaker", row.speaker.is_some(), ColumnKind::Text),
        ("group", row.group.is_some(), ColumnKind::Text),
        ("split", row.split.is_some(), ColumnKind::Text),
        ("instruction", row.instruction.is_some(), ColumnKind::Text),
        ("target", row.target.is_some(), ColumnKind::Text),
        ("messages", !row.messages.is_empty(), ColumnKind::Messages),
    ];
    let known = known
        .into_iter()
        .filter(|(_, is_there, _)| *is_there)
        .map(|(name, _, kind)| (Cow::Borrowed(name), kind));
    let extra = row.extra.is_some().then(|| row.extra_fields());
    let extra = extra
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((ColumnKind::of(&name, &value)?, name)))
        .map(|(kind, name)| (Cow::Owned(name), kind));
    known.chain(extra).collect()
}

/// Fields of a row without its audio.
fn fields_of(row: &Row) -> Result<Map<String, Value>> {
    let mut fields = row.to_json(|_| Ok(Value::Null))?;
    fields.shift_remove("audios");
    Ok(fields)
}

impl Columns {
    fn of(rows: &[&Row]) -> Self {
        let mut kinds: Vec<(String, ColumnKind)> = Vec::new();
        let mut positions: BTreeMap<String, usize> = BTreeMap::new();
        let mut clip_fields = BTreeSet::new();
        let mut is_long = false;
        let mut has_audio = false;
        for row in rows {
            has_audio |= !row.clips.is_empty();
            is_long |= row.clips.len() > 1;
            for (name, kind) in kinds_of(row) {
                match positions.get(&*name) {
                    Some(at) => kinds[*at].1 = kinds[*at].1.with(kind),
                    None => {
                        positions.insert(name.to_string(), kinds.len());
                        kinds.push((name.into_owned(), kind));
                    }
                }
            }
        }
        if is_long {
            // A part of a clip in a list is a field of the clip, and so is that of a row with one clip.
            let moved = ["start_s", "end_s", "channel"];
            kinds.retain(|(name, _)| !moved.contains(&name.as_str()));
            for clip in rows.iter().flat_map(|row| &row.clips) {
                clip_fields.extend(
                    about(clip)
                        .into_iter()
                        .filter(|(_, value)| !value.is_null())
                        .map(|(name, _)| name),
                );
            }
        }
        if has_audio {
            let audio = match is_long {
                true => ("audios".to_owned(), ColumnKind::Audios),
                false => ("audio".to_owned(), ColumnKind::Audio),
            };
            kinds.insert(1.min(kinds.len()), audio);
        }
        Self { kinds, clip_fields }
    }

    /// Texts under the keys that `datasets` and maqam look for.
    fn metadata(&self) -> Vec<(String, String)> {
        let features: Vec<(String, Feature)> = self
            .kinds
            .iter()
            .map(|(name, kind)| (name.clone(), kind.feature()))
            .collect();
        let json: Vec<&str> = self
            .kinds
            .iter()
            .filter(|(_, kind)| *kind == ColumnKind::Json)
            .map(|(name, _)| name.as_str())
            .collect();
        vec![
            (
                huggingface::KEY.to_owned(),
                huggingface::metadata(&features),
            ),
            (KEY.to_owned(), json!({"json": json}).to_string()),
        ]
    }
}

/// Fields of a clip in addition to its bytes.
fn about(clip: &Clip) -> Vec<(&'static str, Value)> {
    part_of(clip.span)
        .into_iter()
        .chain([("duration", clip.stated_s.into())])
        .collect()
}

/// Columns with texts of JSON values, by a file's metadata under [`KEY`].
pub fn json_columns(text: Option<&str>) -> BTreeSet<String> {
    let found: Value = text
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    found["json"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// Writes rows, with their audio, as one Parquet file.
///
/// # Errors
/// Audio that cannot be read; the disk's.
pub fn write(rows: &[&Row], path: &Path) -> Result<()> {
    let columns = Columns::of(rows);
    files::write_atomic_with(path, |file| Ok(write_groups(rows, &columns, file)?))
}

fn write_groups(rows: &[&Row], columns: &Columns, file: &mut impl Write) -> Result<()> {
    let failed = |e: polars::prelude::PolarsError| {
        Error::resource(format!("cannot write: {e}")).caused_by(e)
    };
    let mut writer = None;
    let mut sink = Some(ParquetWriter::new(file));
    let mut start = 0;
    while start < rows.len() || writer.is_none() {
        let (end, group) = group(rows, start, columns)?;
        start = end;
        let frame = group.map_err(failed)?;
        let writer = match &mut writer {
            Some(writer) => writer,
            None => {
                let sink = sink
                    .take()
                    .ok_or_else(|| Error::bug("a file is begun once"))?;
                let metadata = columns.metadata().into_iter().chain(arrow_schema(&frame));
                let metadata = KeyValueMetadata::from_static(metadata.collect());
                let sink = sink.with_key_value_metadata(Some(metadata));
                writer.insert(sink.batched(frame.schema()).map_err(failed)?)
            }
        };
        writer.write_batch(&frame).map_err(failed)?;
    }
    if let Some(writer) = writer {
        writer.finish().map_err(failed)?;
    }
    Ok(())
}

/// The Arrow schema of a file under the key that Arrow's readers look for.
///
/// polars would name its own view types there. Many readers do not know these, and `datasets` would not apply the features of the metadata.
fn arrow_schema(frame: &DataFrame) -> Option<(String, String)> {
    let schema: ArrowSchema = frame
        .schema()
        .iter()
        .map(|(name, of)| Field::new(name.clone(), of.clone()))
        .map(|field| plain_field(&field.to_arrow(CompatLevel::newest())))
        .collect();
    let found = schema_to_metadata_key(&schema);
    Some((found.key, found.value?))
}

/// A field with the types that pyarrow gives to Python's texts, bytes and lists.
fn plain_field(field: &ArrowField) -> ArrowField {
    let dtype = match &field.dtype {
        ArrowDataType::Utf8View => ArrowDataType::Utf8,
        ArrowDataType::BinaryView => ArrowDataType::Binary,
        ArrowDataType::LargeList(item) => ArrowDataType::List(Box::new(plain_field(item))),
        ArrowDataType::Struct(fields) => {
            ArrowDataType::Struct(fields.iter().map(plain_field).collect())
        }
        other => other.clone(),
    };
    ArrowField::new(field.name.clone(), dtype, field.is_nullable)
}

/// The rows from `start` that make one row group, and the row after the last of them.
fn group(
    rows: &[&Row],
    start: usize,
    columns: &Columns,
) -> Result<(usize, PolarsResult<DataFrame>)> {
    let mut audio: Vec<Vec<std::sync::Arc<[u8]>>> = Vec::new();
    let mut end = start;
    let mut num_bytes = 0;
    let has_audio =
        |(_, kind): &(String, ColumnKind)| matches!(kind, ColumnKind::Audio | ColumnKind::Audios);
    let most_rows = match columns.kinds.iter().any(has_audio) {
        true => GROUP_ROWS,
        false => TEXT_GROUP_ROWS,
    };
    while end < rows.len() && end - start < most_rows && num_bytes < GROUP_BYTES {
        let row = rows[end];
        let clips: Result<Vec<_>> = row.clips.iter().map(|clip| clip.source.bytes()).collect();
        let clips = clips?;
        num_bytes += clips.iter().map(|bytes| bytes.len()).sum::<usize>();
        audio.push(clips);
        end += 1;
    }
    let rows = &rows[start..end];
    let values = rows.par_iter().map(|row| fields_of(row));
    let values: Vec<Map<String, Value>> = values.collect::<Result<_>>()?;
    let of_kind = |(name, kind): &(String, ColumnKind)| {
        let series = column(name, *kind, rows, &values, &audio, &columns.clip_fields);
        series.map(Column::from)
    };
    let series: PolarsResult<Vec<Column>> = columns.kinds.par_iter().map(of_kind).collect();
    let frame = series.and_then(|series| DataFrame::new(rows.len(), series));
    Ok((end, frame))
}

fn column(
    name: &str,
    kind: ColumnKind,
    rows: &[&Row],
    values: &[Map<String, Value>],
    audio: &[Vec<std::sync::Arc<[u8]>>],
    clip_fields: &BTreeSet<&'static str>,
) -> PolarsResult<Series> {
    let named = PlSmallStr::from_str(name);
    let cells = || values.iter().map(|row| row.get(name));
    Ok(match kind {
        ColumnKind::Boolean => {
            Series::new(named, cells().map(|v| v?.as_bool()).collect::<Vec<_>>())
        }
        ColumnKind::Integer => Series::new(named, cells().map(|v| v?.as_i64()).collect::<Vec<_>>()),
        ColumnKind::Number => Series::new(named, cells().map(|v| v?.as_f64()).collect::<Vec<_>>()),
        ColumnKind::Text => Series::new(named, cells().map(|v| v?.as_str()).collect::<Vec<_>>()),
        ColumnKind::Json => {
            let texts: Vec<Option<String>> =
                cells().map(|value| value.map(Value::to_string)).collect();
            Series::new(named, texts)
        }
        ColumnKind::Texts => {
            let lists: Vec<Option<Series>> = cells()
                .map(|value| {
                    let texts: Vec<&str> = value?
                        .as_array()?
                        .iter()
                        .filter_map(Value::as_str)
                        .collect();
                    Some(Series::new(PlSmallStr::EMPTY, texts))
                })
                .collect();
            list(named, lists, DataType::String)?
        }
        ColumnKind::Messages => {
            let lists: PolarsResult<Vec<Option<Series>>> = cells()
                .map(|value| {
                    let Some(messages) = value.and_then(Value::as_array) else {
                        return Ok(None);
                    };
                    messages_of(messages).map(Some)
                })
                .collect();
            let text = |name: &str| Field::new(PlSmallStr::from_str(name), DataType::String);
            let item = DataType::Struct(vec![
                text("role"),
                text("content"),
                Field::new(PlSmallStr::from_static("loss"), DataType::Boolean),
            ]);
            list(named, lists?, item)?
        }
        ColumnKind::Audio => {
            let bytes: Vec<Option<&[u8]>> = audio
                .iter()
                .map(|clips| clips.first().map(|c| &**c))
                .collect();
            let paths: Vec<Option<String>> = rows
                .iter()
                .map(|row| row.clips.first().map(name_of))
                .collect();
            structure(
                named,
                rows.len(),
                &[
                    Series::new(PlSmallStr::from_static("bytes"), bytes),
                    Series::new(PlSmallStr::from_static("path"), paths),
                ],
            )?
        }
        ColumnKind::Audios => {
            let lists: PolarsResult<Vec<Option<Series>>> = rows
                .iter()
                .zip(audio)
                .map(|(row, bytes)| match row.clips.is_empty() {
                    true => Ok(None),
                    false => clips_of(&row.clips, bytes, clip_fields).map(Some),
                })
                .collect();
            let mut fields = vec![
                Field::new(PlSmallStr::from_static("bytes"), DataType::Binary),
                Field::new(PlSmallStr::from_static("path"), DataType::String),
            ];
            fields.extend(clip_fields.iter().map(|name| {
                let dtype = match *name {
                    "channel" => DataType::Int64,
                    _ => DataType::Float64,
                };
                Field::new(PlSmallStr::from_str(name), dtype)
            }));
            list(named, lists?, DataType::Struct(fields))?
        }
    })
}

/// A column of lists.
fn list(name: PlSmallStr, lists: Vec<Option<Series>>, item: DataType) -> PolarsResult<Series> {
    let dtype = DataType::List(Box::new(item));
    match lists.iter().all(Option::is_none) {
        true => Ok(Series::full_null(name, lists.len(), &dtype)),
        false => Series::new(name, lists).cast(&dtype),
    }
}

fn structure(name: PlSmallStr, len: usize, fields: &[Series]) -> PolarsResult<Series> {
    Ok(StructChunked::from_series(name, len, fields.iter())?.into_series())
}

fn messages_of(messages: &[Value]) -> PolarsResult<Series> {
    let text = |name: &'static str| {
        let texts: Vec<Option<&str>> = messages.iter().map(|m| m[name].as_str()).collect();
        Series::new(PlSmallStr::from_static(name), texts)
    };
    let loss: Vec<Option<bool>> = messages.iter().map(|m| m["loss"].as_bool()).collect();
    structure(
        PlSmallStr::EMPTY,
        messages.len(),
        &[
            text("role"),
            text("content"),
            Series::new(PlSmallStr::from_static("loss"), loss),
        ],
    )
}

fn clips_of(
    clips: &[Clip],
    bytes: &[std::sync::Arc<[u8]>],
    clip_fields: &BTreeSet<&'static str>,
) -> PolarsResult<Series> {
    let bytes: Vec<Option<&[u8]>> = bytes.iter().map(|bytes| Some(&**bytes)).collect();
    let paths: Vec<String> = clips.iter().map(name_of).collect();
    let mut fields = vec![
        Series::new(PlSmallStr::from_static("bytes"), bytes),
        Series::new(PlSmallStr::from_static("path"), paths),
    ];
    for name in clip_fields {
        let of_clip = |clip: &Clip| {
            about(clip)
                .into_iter()
                .find(|(found, _)| found == name)
                .map(|(_, value)| value)
        };
        let values: Vec<Option<Value>> = clips.iter().map(of_clip).collect();
        let series = match *name {
            "channel" => {
                let numbers: Vec<Option<i64>> =
                    values.iter().map(|v| v.as_ref()?.as_i64()).collect();
                Series::new(PlSmallStr::from_str(name), numbers)
            }
            _ => {
                let numbers: Vec<Option<f64>> =
                    values.iter().map(|v| v.as_ref()?.as_f64()).collect();
                Series::new(PlSmallStr::from_str(name), numbers)
            }
        };
        fields.push(series);
    }
    structure(PlSmallStr::EMPTY, clips.len(), &fields)
}

/// The last name of a clip's file.
fn name_of(clip: &Clip) -> String {
    let name = clip.source.member();
    name.rsplit('/').next().unwrap_or(&name).to_owned()
}
