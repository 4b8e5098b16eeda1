//! Rows of a Parquet file or an Arrow stream: the columns of a manifest, with audio as paths or, as
//! Hugging Face data sets write it, inside the file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use polars::prelude::AnyValue;
use polars::prelude::ArrowDataType;
use polars::prelude::ArrowSchema;
use polars::prelude::DataFrame;
use polars::prelude::IpcStreamReader;
use polars::prelude::ParquetReader;
use polars::prelude::PolarsResult;
use polars::prelude::SerReader;
use serde_json::Map;
use serde_json::Number;
use serde_json::Value;

use crate::AudioSource;
use crate::Columns;
use crate::formats::huggingface;
use crate::formats::huggingface::Classes;
use crate::formats::without_column;
use crate::parquet_writer;
use crate::row::FIELDS;
use crate::row::Inside;
use crate::row::RawRow;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::panics;

/// Calls `found` with every row of a Parquet file.
///
/// Row groups are read one by one, so that embedded audio is never in memory twice.
///
/// # Errors
/// A file that is not Parquet, or is damaged, or whose columns with names of fields have other
/// types than numbers, texts, audio and lists of them; those of `found`.
pub fn read(
    file: &File,
    path: &Path,
    columns: &Columns,
    mut found: impl FnMut(RawRow) -> Result<()>,
) -> Result<Unread> {
    let copy = || file.try_clone().map_err(|e| Error::io(path, "read", e));
    let mut metadata = ParquetReader::new(copy()?);
    let schema = guarded(path, || metadata.schema())?;
    let readable = readable_columns(&schema, columns, path)?;
    let (groups, features, own) = guarded(path, || {
        let metadata = metadata.get_metadata()?;
        let groups: Vec<usize> = metadata
            .row_groups
            .iter()
            .map(|group| group.num_rows())
            .collect();
        let said = |key: &str| {
            let pairs = metadata.key_value_metadata().as_ref()?;
            pairs.iter().find(|pair| pair.key == key)?.value.clone()
        };
        Ok((groups, said(huggingface::KEY), said(parquet_writer::KEY)))
    })?;
    let named = Named {
        columns,
        classes: &Classes::of_metadata(features.as_deref()),
        json: parquet_writer::json_columns(own.as_deref()),
    };

    let mut start = 0;
    for num_rows in groups {
        let reader = ParquetReader::new(copy()?)
            .with_columns(Some(readable.names.clone()))
            .with_slice(Some((start, num_rows)));
        let frame = guarded(path, || reader.finish())?;
        read_frame(&frame, start, path, &named, &mut found)?;
        start += num_rows;
    }
    Ok(readable.unread)
}

/// Calls `found` with every row of an Arrow stream, as `datasets.save_to_disk` writes it. `classes`
/// are those from another file.
///
/// # Errors
/// Those of [`read`].
pub fn read_arrow(
    file: &File,
    path: &Path,
    columns: &Columns,
    classes: Option<&Classes>,
    mut found: impl FnMut(RawRow) -> Result<()>,
) -> Result<Unread> {
    check_first_message(file, path)?;
    let copy = || {
        let mut copy = file.try_clone()?;
        copy.rewind()?;
        Ok(copy)
    };
    let copy = || copy().map_err(|e: std::io::Error| Error::io(path, "read", e));
    let stream = copy()?;
    let (schema, features) = guarded_as(path, "Arrow", || {
        let mut reader = IpcStreamReader::new(stream);
        let schema = reader.arrow_schema()?;
        let metadata = reader.custom_metadata()?;
        let features = metadata.and_then(|pairs| {
            pairs
                .iter()
                .find(|(key, _)| key.as_str() == huggingface::KEY)
                .map(|(_, value)| value.to_string())
        });
        Ok((schema, features))
    })?;
    let readable = readable_columns(&schema, columns, path)?;
    let own = Classes::of_metadata(features.as_deref());
    let stream = copy()?;
    let frame = guarded_as(path, "Arrow", || {
        IpcStreamReader::new(stream)
            .with_columns(Some(readable.names.clone()))
            .finish()
    })?;
    let named = Named {
        columns,
        classes: classes.unwrap_or(&own),
        json: BTreeSet::new(),
    };
    read_frame(&frame, 0, path, &named, &mut found)?;
    Ok(readable.unread)
}

/// Refuses a stream whose first message is announced longer than the file: its reader would reserve
/// as much.
fn check_first_message(file: &File, path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(path, "read", e);
    let len = file.metadata().map_err(failed)?.len();
    let mut head = [0; 8];
    file.read_exact_at(&mut head, 0).map_err(failed)?;
    let announced = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    match u64::from(announced) > len {
        true => Err(Error::input(format!(
            "truncated: a message of {announced} bytes is announced, the file has {len}"
        ))
        .at_path(path)
        .hint("copy or write it again")),
        false => Ok(()),
    }
}

/// Interpretation of the names and values of columns.
struct Named<'a> {
    columns: &'a Columns,
    classes: &'a Classes,
    /// Columns of JSON values, written as texts.
    json: BTreeSet<String>,
}

/// The rows of a table; `start` is the number of the first in its file, from 0.
fn read_frame(
    frame: &DataFrame,
    start: usize,
    path: &Path,
    named: &Named<'_>,
    found: &mut impl FnMut(RawRow) -> Result<()>,
) -> Result<()> {
    for i in 0..frame.height() {
        let mut raw = RawRow::new((start + i + 1) as u32, Map::new());
        for column in frame.columns() {
            let name = column.name().as_str();
            let value = guarded(path, || column.get(i))?;
            let is_audio = matches!(
                named.columns.field_of(name).unwrap_or(name),
                "audio" | "audios"
            );
            if is_audio && let Some(embedded) = embedded_audio(&value, raw.line) {
                raw.inside.extend(embedded);
                continue;
            }
            let value = match to_json(value) {
                value if is_audio => without_empty(value),
                Value::String(text) if named.json.contains(name) => {
                    serde_json::from_str(&text).unwrap_or(Value::String(text))
                }
                value => named.classes.named(name, value),
            };
            raw.fields.insert(name.to_owned(), value);
        }
        found(raw)?;
    }
    Ok(())
}

/// Removes nulls from audio objects, for data sets whose columns hold only paths.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(file) => without_nulls(file),
        Value::Array(files) => files
            .into_iter()
            .map(|file| match file {
                Value::Object(file) => without_nulls(file),
                file => file,
            })
            .collect(),
        value => value,
    }
}

/// Runs a reader of `polars`, which panics on some damaged files. Such a panic is a fault of the
/// file, not a bug.
fn guarded<T>(path: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    guarded_as(path, "Parquet", read)
}

fn guarded_as<T>(path: &Path, kind: &str, read: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    let error = match panics::contain_pool(read) {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => Error::input(&error).caused_by(error),
        Err(_) => Error::input("its contents are damaged"),
    };
    Err(error
        .at(format!("not a readable {kind} file"))
        .at_path(path))
}

/// Columns of types that are not read, with these types.
pub type Unread = Vec<(String, String)>;

struct Readable {
    names: Vec<String>,
    unread: Unread,
}

fn readable_columns(schema: &ArrowSchema, renamed: &Columns, path: &Path) -> Result<Readable> {
    if let Some(column) = renamed
        .columns()
        .find(|column| !schema.iter_values().any(|field| field.name == *column))
    {
        let names: Vec<&str> = schema.iter_values().map(|f| f.name.as_str()).collect();
        return Err(without_column(column, &names).at_path(path));
    }

    let mut readable = Readable {
        names: Vec::new(),
        unread: Unread::new(),
    };
    for field in schema.iter_values() {
        let name = field.name.as_str();
        if is_readable(field.dtype()) {
            readable.names.push(name.to_owned());
        } else if FIELDS.contains(&renamed.field_of(name).unwrap_or(name)) {
            let found = format!(
                "column `{name}` is of type {:?}, which is not read",
                field.dtype()
            );
            return Err(Error::input(found)
                .at_path(path)
                .hint("cast it to text or to a 32 or 64 bit number, or drop it or give it another name where it means something else"));
        } else {
            let dtype = format!("{:?}", field.dtype());
            readable.unread.push((name.to_owned(), dtype));
        }
    }
    Ok(readable)
}

fn is_readable(dtype: &ArrowDataType) -> bool {
    use ArrowDataType as T;
    match dtype {
        T::Null
        | T::Boolean
        | T::Int32
        | T::Int64
        | T::UInt32
        | T::UInt64
        | T::Float32
        | T::Float64 => true,
        T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView => true,
        T::List(item) | T::LargeList(item) => is_readable(item.dtype()),
        T::Struct(fields) => fields.iter().all(|field| is_readable(field.dtype())),
        _ => false,
    }
}

/// An object without its null fields; null if no field is left.
fn without_nulls(mut file: Map<String, Value>) -> Value {
    file.retain(|_, value| !value.is_null());
    match file.is_empty() {
        true => Value::Null,
        false => Value::Object(file),
    }
}

/// The contents of `{bytes, path}`, with its other fields, or of a list of them; `None` if a clip
/// has no bytes.
fn embedded_audio(value: &AnyValue<'_>, line: u32) -> Option<Vec<Inside>> {
    let source = |bytes: Arc<[u8]>, name: Option<String>| AudioSource::Embedded {
        bytes,
        name: name
            .unwrap_or_else(|| format!("audio of row {line}"))
            .into(),
    };
    let bare = |bytes: &[u8]| {
        Some(vec![Inside {
            source: source(bytes.into(), None),
            fields: Map::new(),
        }])
    };
    match value {
        AnyValue::Binary(bytes) => bare(bytes),
        AnyValue::BinaryOwned(bytes) => bare(bytes),
        AnyValue::List(series) if !series.is_empty() => {
            let clips: Option<Vec<_>> = series
                .iter()
                .map(|clip| embedded_audio(&clip, line))
                .collect();
            Some(clips?.into_iter().flatten().collect())
        }
        AnyValue::Struct(..) => embedded_audio(&value.clone().into_static(), line),
        AnyValue::StructOwned(payload) => {
            let (values, fields) = &**payload;
            let field = |name: &str| {
                fields
                    .iter()
                    .position(|field| field.name() == name)
                    .map(|i| &values[i])
            };
            let bytes: Arc<[u8]> = match field("bytes")? {
                AnyValue::Binary(bytes) => (*bytes).into(),
                AnyValue::BinaryOwned(bytes) => bytes.as_slice().into(),
                _ => return None,
            };
            let name = field("path")
                .and_then(|path| path.get_str())
                .map(str::to_owned);
            let others = fields
                .iter()
                .zip(values)
                .filter(|(field, _)| !matches!(field.name().as_str(), "bytes" | "path"))
                .map(|(field, value)| (field.name().to_string(), to_json(value.clone())));
            Some(vec![Inside {
                source: source(bytes, name),
                fields: others.collect(),
            }])
        }
        _ => None,
    }
}

/// A cell as JSON; binary cells have no JSON form and count as absent, dates and the like are
/// written out.
fn to_json(value: AnyValue<'_>) -> Value {
    match value {
        AnyValue::Null | AnyValue::Binary(_) | AnyValue::BinaryOwned(_) => Value::Null,
        AnyValue::Boolean(value) => Value::Bool(value),
        AnyValue::Float32(value) => {
            Number::from_f64(widen(value)).map_or(Value::Null, Value::Number)
        }
        AnyValue::Float64(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
        AnyValue::List(series) => Value::Array(series.iter().map(to_json).collect()),
        AnyValue::Struct(..) => to_json(value.into_static()),
        AnyValue::StructOwned(payload) => {
            let (values, fields) = *payload;
            Value::Object(
                fields
                    .iter()
                    .zip(values)
                    .map(|(field, value)| (field.name().to_string(), to_json(value)))
                    .collect(),
            )
        }
        value if value.is_integer() => match (value.extract::<i64>(), value.extract::<u64>()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => Value::String(value.to_string()),
        },
        value => Value::String(value.str_value().into_owned()),
    }
}

/// The shortest decimal of an f32, so that 1.5 s and 0.1 s keep their written value.
fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::NAN)
}
