//! Rows of a Parquet file: the columns of a manifest, with audio as paths or, as Hugging Face data sets write it, inside the file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use polars::prelude::AnyValue;
use polars::prelude::ArrowDataType;
use polars::prelude::ArrowSchema;
use polars::prelude::ParquetReader;
use polars::prelude::PolarsResult;
use polars::prelude::SerReader;
use serde_json::Map;
use serde_json::Number;
use serde_json::Value;

use crate::row::Embedded;
use crate::row::FIELDS;
use crate::row::RawRow;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::panics;

/// Calls `found` with every row of the file.
///
/// Row groups are read one after the other, so that embedded audio is never held twice.
///
/// # Errors
/// A file that is not Parquet, or damaged, or whose columns of the manifest's names hold other things than numbers, texts, audio and
/// lists of them; columns of other names with such things (dates, decimals) are left out.
pub fn read(file: &File, path: &Path, mut found: impl FnMut(RawRow)) -> Result<()> {
    let copy = || file.try_clone().map_err(|e| Error::io(path, "read", &e));
    let mut metadata = ParquetReader::new(copy()?);
    let schema = guarded(path, || metadata.schema())?;
    let columns = readable_columns(&schema, path)?;
    let groups: Vec<usize> = guarded(path, || {
        Ok(metadata
            .get_metadata()?
            .row_groups
            .iter()
            .map(|group| group.num_rows())
            .collect())
    })?;
    let mut start = 0;
    for num_rows in groups {
        let reader = ParquetReader::new(copy()?)
            .with_columns(Some(columns.clone()))
            .with_slice(Some((start, num_rows)));
        let frame = guarded(path, || reader.finish())?;
        for i in 0..frame.height() {
            let mut raw = RawRow {
                line: (start + i + 1) as u32,
                fields: Map::new(),
                embedded: Vec::new(),
            };
            for column in frame.columns() {
                add_field(&mut raw, column.name(), guarded(path, || column.get(i))?);
            }
            found(raw);
        }
        start += num_rows;
    }
    Ok(())
}

/// What `polars` makes of the file. It panics on some damaged files, which are the file's fault and not a bug.
fn guarded<T>(path: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    let broken = |what: &dyn std::fmt::Display| {
        Error::input(format!("not a readable Parquet file: {what}")).at_path(path)
    };
    match panics::contain_pool(read) {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(broken(&"its contents are damaged")),
    }
}

fn readable_columns(schema: &ArrowSchema, path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for field in schema.iter_values() {
        if is_readable(field.dtype()) {
            names.push(field.name.to_string());
        } else if FIELDS.contains(&field.name.as_str()) {
            let found = format!(
                "column `{}` is of type {:?}, which is not read",
                field.name,
                field.dtype()
            );
            return Err(Error::input(found)
                .at_path(path)
                .hint("cast it to text or to a 32 or 64 bit number, or drop it or give it another name where it means something else"));
        }
    }
    Ok(names)
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

fn add_field(raw: &mut RawRow, name: &str, value: AnyValue<'_>) {
    if matches!(name, "audio" | "audios")
        && let Some(embedded) = embedded_audio(&value)
    {
        raw.embedded.extend(embedded);
        return;
    }
    let value = match (name, to_json(value)) {
        // A data set that kept its audio outside has nothing but paths in the same columns.
        ("audio", Value::Object(file)) => without_nulls(file),
        ("audios", Value::Array(files)) => files
            .into_iter()
            .map(|file| match file {
                Value::Object(file) => without_nulls(file),
                file => file,
            })
            .collect(),
        (_, value) => value,
    };
    raw.fields.insert(name.to_owned(), value);
}

/// An object without its empty fields; null where nothing is left.
fn without_nulls(mut file: Map<String, Value>) -> Value {
    file.retain(|_, value| !value.is_null());
    match file.is_empty() {
        true => Value::Null,
        false => Value::Object(file),
    }
}

/// The contents of `{bytes, path}`, with what else it says, or of a list of them; `None` where some clip has no bytes.
fn embedded_audio(value: &AnyValue<'_>) -> Option<Vec<Embedded>> {
    let bare = |bytes: &[u8]| {
        Some(vec![Embedded {
            bytes: bytes.into(),
            name: None,
            fields: Map::new(),
        }])
    };
    match value {
        AnyValue::Binary(bytes) => bare(bytes),
        AnyValue::BinaryOwned(bytes) => bare(bytes),
        AnyValue::List(series) if !series.is_empty() => {
            let clips: Option<Vec<_>> = series.iter().map(|clip| embedded_audio(&clip)).collect();
            Some(clips?.into_iter().flatten().collect())
        }
        AnyValue::Struct(..) => embedded_audio(&value.clone().into_static()),
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
            Some(vec![Embedded {
                bytes,
                name,
                fields: others.collect(),
            }])
        }
        _ => None,
    }
}

/// A cell as JSON; binary cells have no JSON form and count as absent, dates and the like are written out.
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

/// The shortest decimal that an f32 stands for, so that 1.5 s and 0.1 s stay what was written.
fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::NAN)
}
