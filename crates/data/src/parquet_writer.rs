//! Parquet files as Hugging Face `datasets` and maqam read them: typed columns, audio inside.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use polars::io::parquet::write::BatchedWriter;
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
use polars::prelude::ParquetCompression;
use polars::prelude::ParquetWriter;
use polars::prelude::PlSmallStr;
use polars::prelude::PolarsError;
use polars::prelude::PolarsResult;
use polars::prelude::Series;
use polars::prelude::StructChunked;
use polars_parquet::write::CompressedPage;
use polars_parquet::write::CompressionOptions;
use polars_parquet::write::ParquetType;
use polars_parquet::write::StatisticsOptions;
use polars_parquet::write::Version;
use polars_parquet::write::WriteOptions;
use polars_parquet::write::ZstdLevel;
use polars_parquet::write::array_to_columns;
use polars_parquet::write::compress;
use polars_parquet::write::get_dtype_encoding;
use polars_parquet::write::schema_to_metadata_key;
use rayon::prelude::*;
use serde_json::Value;
use serde_json::json;

use crate::Clip;
use crate::Message;
use crate::Row;
use crate::cells::Cell;
use crate::cells::Cells;
use crate::cells::ColumnKind;
use crate::cells::Kinds;
use crate::cells::Table;
use crate::formats::huggingface;
use crate::formats::huggingface::Feature;
use crate::row_json::part_of;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Most rows of a row group with audio.
const GROUP_ROWS: usize = 1000;

/// Most rows of a row group of texts.
pub const TEXT_GROUP_ROWS: usize = 1 << 16;

/// Bytes of audio after which a row group ends.
const GROUP_BYTES: usize = 64 << 20;

/// Rows whose columns are found together.
const COUNTED_ROWS: usize = 1 << 13;

/// Level of zstd for all pages: pyarrow's default, twice as fast as zstd's own.
const ZSTD_LEVEL: i32 = 1;

/// Compression of all pages.
fn compression() -> CompressionOptions {
    CompressionOptions::Zstd(ZstdLevel::try_new(ZSTD_LEVEL).ok())
}

/// Key of maqam's metadata on columns.
pub const KEY: &str = "maqam";

/// Columns of a file with their kinds; [`ColumnKind::Json`] columns hold texts of JSON values.
pub struct Columns {
    kinds: Vec<(String, ColumnKind)>,
    /// Fields that some clip of a list has.
    clip_fields: BTreeSet<&'static str>,
}

impl Columns {
    /// Columns of rows without audio.
    pub fn of_texts(kinds: Kinds) -> Self {
        Self {
            kinds: kinds.into_list(),
            clip_fields: BTreeSet::new(),
        }
    }

    fn of(rows: &[&Row]) -> Self {
        let tables = rows.par_chunks(COUNTED_ROWS).map(|rows| {
            let mut kinds = Kinds::default();
            kinds.add_table(&Table::of_rows(rows));
            kinds.into_list()
        });
        let mut all = Kinds::default();
        for (name, kind) in tables.collect::<Vec<_>>().into_iter().flatten() {
            all.add(&name, kind);
        }
        let mut kinds = all.into_list();
        let mut clip_fields = BTreeSet::new();
        let is_long = rows.iter().any(|row| row.clips.len() > 1);
        if is_long {
            // A part of a clip in a list is a field of the clip, and so is that of a row with one
            // clip.
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
        if rows.iter().any(|row| !row.clips.is_empty()) {
            let audio = match is_long {
                true => ("audios".to_owned(), ColumnKind::Audios),
                false => ("audio".to_owned(), ColumnKind::Audio),
            };
            kinds.insert(1.min(kinds.len()), audio);
        }
        Self { kinds, clip_fields }
    }

    fn has_audio(&self) -> bool {
        self.kinds
            .iter()
            .any(|(_, kind)| matches!(kind, ColumnKind::Audio | ColumnKind::Audios))
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

    /// The table of a row group. `clips` are the rows' clips with their bytes, or empty without
    /// audio.
    fn frame(&self, table: &Table<'_>, clips: &[Loaded<'_>]) -> PolarsResult<DataFrame> {
        let columns: PolarsResult<Vec<Column>> = self
            .kinds
            .par_iter()
            .map(|(name, kind)| {
                let column = match kind {
                    ColumnKind::Audio => audio_column(name, clips),
                    ColumnKind::Audios => audios_column(name, clips, &self.clip_fields),
                    kind => column(name, *kind, table),
                };
                Ok(column?.into())
            })
            .collect();
        DataFrame::new(table.num_rows(), columns?)
    }
}

/// A row's clips with the bytes of their files.
type Loaded<'a> = Vec<(&'a Clip, Arc<[u8]>)>;

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
    let mut writer = Writer::new(columns, file)?;
    let encoder = writer.encoder();
    if columns.has_audio() {
        let mut start = 0;
        while start < rows.len() {
            let clips = load(&rows[start..])?;
            let end = start + clips.len();
            let table = Table::of_rows(&rows[start..end]);
            writer.write(&encoder.encode(&table, &clips)?)?;
            start = end;
        }
        return writer.finish();
    }

    let groups: Vec<&[&Row]> = rows.chunks(TEXT_GROUP_ROWS).collect();
    for groups in groups.chunks(rayon::current_num_threads()) {
        let encoded = groups
            .par_iter()
            .map(|rows| encoder.encode(&Table::of_rows(rows), &[]));
        for group in encoded.collect::<Vec<_>>() {
            writer.write(&group?)?;
        }
    }
    writer.finish()
}

/// Reads the audio of the first rows, as many as make one row group.
fn load<'a>(rows: &[&'a Row]) -> Result<Vec<Loaded<'a>>> {
    let mut loaded = Vec::new();
    let mut num_bytes = 0;
    for row in rows.iter().take(GROUP_ROWS) {
        if num_bytes >= GROUP_BYTES {
            break;
        }
        let clips = row.clips.iter();
        let clips: Loaded<'a> = clips
            .map(|clip| Ok((clip, clip.source.bytes()?)))
            .collect::<Result<_>>()?;
        num_bytes += clips.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        loaded.push(clips);
    }
    Ok(loaded)
}

/// A Parquet file that is written row group by row group.
pub struct Writer<'a, W: Write> {
    writer: BatchedWriter<W>,
    columns: &'a Columns,
}

impl<'a, W: Write> Writer<'a, W> {
    /// Begins a file.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(columns: &'a Columns, file: W) -> Result<Self> {
        let empty = columns.frame(&Table::default(), &[]).map_err(failed)?;
        let metadata = columns.metadata().into_iter().chain(arrow_schema(&empty));
        let metadata = KeyValueMetadata::from_static(metadata.collect());
        let writer = ParquetWriter::new(file)
            .with_compression(ParquetCompression::Zstd(
                ZstdLevel::try_new(ZSTD_LEVEL).ok(),
            ))
            .with_key_value_metadata(Some(metadata))
            .batched(empty.schema())
            .map_err(failed)?;
        Ok(Self { writer, columns })
    }

    /// The encoder of row groups of this file, for any thread.
    pub fn encoder(&mut self) -> Encoder<'a> {
        Encoder {
            columns: self.columns,
            fields: self.writer.parquet_schema().fields().to_vec(),
        }
    }

    /// Appends a row group.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&mut self, group: &Group) -> Result<()> {
        self.writer
            .write_row_group(group.num_rows, &group.columns)
            .map_err(failed)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(self) -> Result<()> {
        self.writer.finish().map(drop).map_err(failed)
    }
}

/// Encodes and compresses row groups of one file.
pub struct Encoder<'a> {
    columns: &'a Columns,
    fields: Vec<ParquetType>,
}

/// A row group as it stands in the file.
pub struct Group {
    num_rows: u64,
    columns: Vec<Vec<CompressedPage>>,
}

impl Encoder<'_> {
    /// Encodes rows without audio.
    ///
    /// # Errors
    /// None for tables that [`Columns`] cover.
    pub fn encode_texts(&self, table: &Table<'_>) -> Result<Group> {
        self.encode(table, &[])
    }

    fn encode(&self, table: &Table<'_>, clips: &[Loaded<'_>]) -> Result<Group> {
        let frame = self.columns.frame(table, clips).map_err(failed)?;
        let columns: PolarsResult<Vec<Vec<Vec<CompressedPage>>>> = frame
            .columns()
            .par_iter()
            .zip(&self.fields)
            .map(|(column, field)| pages_of(column, field))
            .collect();
        Ok(Group {
            num_rows: table.num_rows() as u64,
            columns: columns.map_err(failed)?.into_iter().flatten().collect(),
        })
    }
}

/// The compressed pages of a column, one list for each of its leaves.
fn pages_of(column: &Column, field: &ParquetType) -> PolarsResult<Vec<Vec<CompressedPage>>> {
    let options = WriteOptions {
        statistics: StatisticsOptions::default(),
        version: Version::V1,
        compression: compression(),
        data_page_size: None,
    };
    let array = column
        .as_materialized_series()
        .rechunk()
        .to_arrow(0, CompatLevel::newest());
    let encodings = get_dtype_encoding(array.dtype());
    let mut leaves = Vec::new();
    for pages in array_to_columns(array, field.clone(), options, &encodings)? {
        let mut compressed = Vec::new();
        for page in pages {
            compressed.push(compress(page?, Vec::new(), compression())?);
        }
        leaves.push(compressed);
    }
    Ok(leaves)
}

fn failed(error: PolarsError) -> Error {
    Error::resource(format!("cannot write: {error}")).caused_by(error)
}

/// The Arrow schema of a file under the key that Arrow's readers look for.
///
/// polars would name its own view types there. Many readers do not know these, and `datasets` would
/// not apply the features of the metadata.
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

/// A column of fields of one kind.
fn column(name: &str, kind: ColumnKind, table: &Table<'_>) -> PolarsResult<Series> {
    let named = PlSmallStr::from_str(name);
    Ok(match kind {
        ColumnKind::Boolean => {
            let of = |cell: &Cell<'_>| match cell {
                Cell::Boolean(value) => Some(*value),
                _ => None,
            };
            Series::new(named, spread(table, name, of))
        }
        ColumnKind::Integer => {
            let of = |cell: &Cell<'_>| match cell {
                Cell::Number(number) => number.as_i64(),
                _ => None,
            };
            Series::new(named, spread(table, name, of))
        }
        ColumnKind::Number => {
            let of = |cell: &Cell<'_>| match cell {
                Cell::Number(number) => number.as_f64(),
                _ => None,
            };
            Series::new(named, spread(table, name, of))
        }
        ColumnKind::Json => {
            let of = |cell: &Cell<'_>| Some(cell.to_json());
            Series::new(named, spread(table, name, of))
        }
        ColumnKind::Texts => {
            let lists = spread(table, name, |cell| match cell {
                Cell::Texts(texts) => {
                    let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
                    Some(Series::new(PlSmallStr::EMPTY, texts))
                }
                _ => None,
            });
            list(named, lists, DataType::String)?
        }
        ColumnKind::Messages => {
            let mut lists = vec![None; table.num_rows()];
            for (row, cell) in table.cells(name).into_iter().flat_map(Cells::iter) {
                if let Cell::Messages(messages) = cell {
                    lists[row] = Some(messages_of(messages)?);
                }
            }
            let text = |name: &str| Field::new(PlSmallStr::from_str(name), DataType::String);
            let item = DataType::Struct(vec![
                text("role"),
                text("content"),
                Field::new(PlSmallStr::from_static("loss"), DataType::Boolean),
            ]);
            list(named, lists, item)?
        }
        ColumnKind::Text | ColumnKind::Audio | ColumnKind::Audios => {
            Series::new(named, texts_of(table, name))
        }
    })
}

/// The values of a column, one for each row.
fn spread<T: Clone>(
    table: &Table<'_>,
    name: &str,
    of: impl Fn(&Cell<'_>) -> Option<T>,
) -> Vec<Option<T>> {
    let mut values = vec![None; table.num_rows()];
    for (row, cell) in table.cells(name).into_iter().flat_map(Cells::iter) {
        values[row] = of(cell);
    }
    values
}

/// The texts of a column, one for each row.
fn texts_of<'c>(table: &'c Table<'_>, name: &str) -> Vec<Option<&'c str>> {
    let mut texts = vec![None; table.num_rows()];
    for (row, cell) in table.cells(name).into_iter().flat_map(Cells::iter) {
        if let Cell::Text(text) = cell {
            texts[row] = Some(&**text);
        }
    }
    texts
}

/// A column of audio files.
fn audio_column(name: &str, clips: &[Loaded<'_>]) -> PolarsResult<Series> {
    let of_row = |clips: &'_ Loaded<'_>| clips.first().map(|(clip, _)| name_of(clip));
    let bytes: Vec<Option<&[u8]>> = clips
        .iter()
        .map(|clips| clips.first().map(|(_, bytes)| &**bytes))
        .collect();
    let paths: Vec<Option<String>> = clips.iter().map(of_row).collect();
    structure(
        PlSmallStr::from_str(name),
        clips.len(),
        &[
            Series::new(PlSmallStr::from_static("bytes"), bytes),
            Series::new(PlSmallStr::from_static("path"), paths),
        ],
    )
}

/// A column of lists of audio files.
fn audios_column(
    name: &str,
    clips: &[Loaded<'_>],
    clip_fields: &BTreeSet<&'static str>,
) -> PolarsResult<Series> {
    let lists: PolarsResult<Vec<Option<Series>>> = clips
        .iter()
        .map(|clips| match clips.is_empty() {
            true => Ok(None),
            false => clips_of(clips, clip_fields).map(Some),
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
    list(PlSmallStr::from_str(name), lists?, DataType::Struct(fields))
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

fn messages_of(messages: &[Message]) -> PolarsResult<Series> {
    let roles: Vec<&str> = messages.iter().map(|m| m.role.as_str()).collect();
    let contents: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
    let loss: Vec<Option<bool>> = messages
        .iter()
        .map(|m| (!m.loss).then_some(false))
        .collect();
    structure(
        PlSmallStr::EMPTY,
        messages.len(),
        &[
            Series::new(PlSmallStr::from_static("role"), roles),
            Series::new(PlSmallStr::from_static("content"), contents),
            Series::new(PlSmallStr::from_static("loss"), loss),
        ],
    )
}

fn clips_of(clips: &Loaded<'_>, clip_fields: &BTreeSet<&'static str>) -> PolarsResult<Series> {
    let bytes: Vec<Option<&[u8]>> = clips.iter().map(|(_, bytes)| Some(&**bytes)).collect();
    let paths: Vec<String> = clips.iter().map(|(clip, _)| name_of(clip)).collect();
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
        let values: Vec<Option<Value>> = clips.iter().map(|(clip, _)| of_clip(clip)).collect();
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
