//! Parquet files as Hugging Face `datasets` writes them, with the audio inside: columns of texts,
//! numbers and lists, and one of audio files.

use std::path::Path;

use polars::prelude::ArrowDataType;
use polars::prelude::ArrowField;
use polars::prelude::ArrowSchema;
use polars::prelude::Column;
use polars::prelude::DataFrame;
use polars::prelude::IntoColumn;
use polars::prelude::IntoSeries;
use polars::prelude::KeyValueMetadata;
use polars::prelude::NamedFrom;
use polars::prelude::ParquetCompression;
use polars::prelude::ParquetWriter;
use polars::prelude::PolarsResult;
use polars::prelude::Series;
use polars::prelude::StructChunked;
use polars_parquet::write::schema_to_metadata_key;
use serde_json::Value;
use serde_json::json;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Values of one column, a row each.
pub enum Values {
    /// Texts.
    Texts(Vec<Option<String>>),
    /// Numbers.
    Numbers(Vec<Option<f64>>),
    /// Lists of texts.
    TextLists(Vec<Vec<String>>),
    /// Lists of numbers.
    NumberLists(Vec<Vec<f64>>),
    /// Audio files: contents and name.
    Audio(Vec<(Vec<u8>, String)>),
}

impl Values {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Texts(values) => values.len(),
            Self::Numbers(values) => values.len(),
            Self::TextLists(values) => values.len(),
            Self::NumberLists(values) => values.len(),
            Self::Audio(values) => values.len(),
        }
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The feature of `datasets` that the column is; `sampling_rate` in Hz is that of audio.
    pub fn feature(&self, sampling_rate: u32) -> Value {
        let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
        let list = |dtype: &str| json!({"feature": value(dtype), "_type": "Sequence"});
        match self {
            Self::Texts(_) => value("string"),
            Self::Numbers(_) => value("float64"),
            Self::TextLists(_) => list("string"),
            Self::NumberLists(_) => list("float64"),
            Self::Audio(_) => json!({"sampling_rate": sampling_rate, "_type": "Audio"}),
        }
    }

    /// The Arrow type of `datasets` for the feature. polars would write other types, which
    /// `datasets` reads as other features.
    fn arrow_type(&self) -> ArrowDataType {
        let field = |name: &str, of| ArrowField::new(name.into(), of, true);
        let list = |of| ArrowDataType::List(Box::new(field("item", of)));
        match self {
            Self::Texts(_) => ArrowDataType::Utf8,
            Self::Numbers(_) => ArrowDataType::Float64,
            Self::TextLists(_) => list(ArrowDataType::Utf8),
            Self::NumberLists(_) => list(ArrowDataType::Float64),
            Self::Audio(_) => ArrowDataType::Struct(vec![
                field("bytes", ArrowDataType::Binary),
                field("path", ArrowDataType::Utf8),
            ]),
        }
    }

    fn column(self, name: &str) -> PolarsResult<Column> {
        let lists = |lists: Vec<Series>| Series::new(name.into(), lists);
        let series = match self {
            Self::Texts(values) => Series::new(name.into(), values),
            Self::Numbers(values) => Series::new(name.into(), values),
            Self::TextLists(values) => lists(
                values
                    .into_iter()
                    .map(|list| Series::new("item".into(), list))
                    .collect(),
            ),
            Self::NumberLists(values) => lists(
                values
                    .into_iter()
                    .map(|list| Series::new("item".into(), list))
                    .collect(),
            ),
            Self::Audio(values) => {
                let (bytes, paths): (Vec<Vec<u8>>, Vec<String>) = values.into_iter().unzip();
                let fields = [
                    Series::new("bytes".into(), bytes),
                    Series::new("path".into(), paths),
                ];
                let len = fields[0].len();
                StructChunked::from_series(name.into(), len, fields.iter())?.into_series()
            }
        };
        Ok(series.into_column())
    }
}

/// Writes one file of named columns. Its metadata names the features of `datasets`. The dataset
/// card must name them too, because `load_dataset` takes the type of the audio column from the
/// card.
///
/// The file is not compressed, because the audio is. It has no statistics. Equal columns give equal
/// bytes.
///
/// # Errors
/// Those of the disk.
pub fn write(path: &Path, columns: Vec<(String, Values)>, sampling_rate: u32) -> Result<()> {
    let features: serde_json::Map<String, Value> = columns
        .iter()
        .map(|(name, values)| (name.clone(), values.feature(sampling_rate)))
        .collect();
    let features = json!({"info": {"features": features}}).to_string();
    let schema =
        schema_to_metadata_key(&ArrowSchema::from_iter(columns.iter().map(
            |(name, values)| ArrowField::new(name.as_str().into(), values.arrow_type(), true),
        )));
    let metadata = KeyValueMetadata::from_static(vec![
        (schema.key, schema.value.unwrap_or_default()),
        ("huggingface".to_owned(), features),
    ]);
    let bug = |e: polars::error::PolarsError| {
        Error::bug(format!("cannot write Parquet: {e}"))
            .caused_by(e)
            .at_path(path)
    };
    let num_rows = columns.first().map_or(0, |(_, values)| values.len());
    let columns = columns
        .into_iter()
        .map(|(name, values)| values.column(&name))
        .collect::<PolarsResult<Vec<_>>>()
        .map_err(bug)?;
    let mut frame = DataFrame::new(num_rows, columns).map_err(bug)?;
    files::write_atomic_with(path, |file| {
        ParquetWriter::new(file)
            .with_compression(ParquetCompression::Uncompressed)
            .with_key_value_metadata(Some(metadata))
            .set_parallel(false)
            .with_row_group_size(Some(ROW_GROUP))
            .finish(&mut frame)
            .map(|_| ())
            .map_err(|e| match e {
                polars::error::PolarsError::IO { error, .. } => {
                    std::io::Error::new(error.kind(), error)
                }
                other => std::io::Error::other(other),
            })
    })
}

/// Rows of a row group, which a reader holds in memory together; the same number as `datasets` uses
/// for audio.
const ROW_GROUP: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back_with_their_audio() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let columns = || {
            vec![
                ("id".to_owned(), Values::Texts(vec![Some("أ".into()), None])),
                ("score".to_owned(), Values::Numbers(vec![Some(1.5), None])),
                (
                    "sentences".to_owned(),
                    Values::TextLists(vec![vec!["x".into(), "y".into()], vec![]]),
                ),
                (
                    "starts".to_owned(),
                    Values::NumberLists(vec![vec![0.0, 1.25], vec![]]),
                ),
                (
                    "audio".to_owned(),
                    Values::Audio(vec![
                        (b"fLaC1".to_vec(), "a.flac".into()),
                        (b"fLaC2".to_vec(), "b.flac".into()),
                    ]),
                ),
            ]
        };
        write(&path, columns(), 16_000).unwrap();
        let first = std::fs::read(&path).unwrap();
        write(&path, columns(), 16_000).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        let file = std::fs::File::open(&path).unwrap();
        let mut rows = Vec::new();
        crate::parquet::read(&file, &path, &crate::Columns::default(), |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].fields["id"], "أ");
        assert_eq!(rows[0].fields["sentences"], json!(["x", "y"]));
        assert_eq!(rows[0].fields["starts"], json!([0.0, 1.25]));
        assert_eq!(rows[1].fields["score"], Value::Null);
        assert_eq!(&*rows[1].inside[0].source.bytes().unwrap(), b"fLaC2");
        assert_eq!(rows[1].inside[0].source.name(), "b.flac");
        let text = String::from_utf8_lossy(&first).into_owned();
        assert!(
            text.contains("\"sampling_rate\":16000"),
            "no features in the metadata"
        );
    }
}
