//! Formats of manifests: names, detection, conversion.

pub mod common_voice;
pub mod export;
pub mod huggingface;
pub mod json_rows;
pub mod kaldi;
pub mod lhotse;
pub mod lhotse_shar;
pub mod llama_factory;
pub mod mappings;
pub mod meaning;
pub mod ms_swift;
pub mod nemo;
pub mod out;
pub mod qwen3_asr;
pub mod slam_llm;
pub mod table;
pub mod tar;
pub mod webdataset;

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

use crate::form::Form;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::yaml;

/// A format of manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Format {
    /// maqam's JSON lines.
    Jsonl,
    /// maqam's Parquet.
    Parquet,
    /// Hugging Face `datasets`: Parquet shards, and folders of `save_to_disk`.
    HuggingFace,
    /// ms-swift's JSON lines.
    MsSwift,
    /// LLaMA-Factory's list of conversations, with `dataset_info.json`.
    LlamaFactory,
    /// NeMo's manifests, plain and tarred.
    Nemo,
    /// Lhotse's cuts.
    Lhotse,
    /// Lhotse's Shar folders.
    LhotseShar,
    /// SLAM-LLM's JSON lines.
    SlamLlm,
    /// Qwen3-ASR's JSON lines.
    Qwen3Asr,
    /// Kaldi's folders.
    Kaldi,
    /// Common Voice's tables.
    CommonVoice,
    /// Tables with commas.
    Csv,
    /// Tables with tabs.
    Tsv,
    /// WebDataset's tar files.
    WebDataset,
}

/// Every format with its name.
const NAMES: [(Format, &str); 15] = [
    (Format::Jsonl, "jsonl"),
    (Format::Parquet, "parquet"),
    (Format::HuggingFace, "huggingface"),
    (Format::MsSwift, "ms-swift"),
    (Format::LlamaFactory, "llama-factory"),
    (Format::Nemo, "nemo"),
    (Format::Lhotse, "lhotse"),
    (Format::LhotseShar, "lhotse-shar"),
    (Format::SlamLlm, "slam-llm"),
    (Format::Qwen3Asr, "qwen3-asr"),
    (Format::Kaldi, "kaldi"),
    (Format::CommonVoice, "common-voice"),
    (Format::Csv, "csv"),
    (Format::Tsv, "tsv"),
    (Format::WebDataset, "webdataset"),
];

impl Format {
    /// Every format.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.into_iter().map(|(format, _)| format)
    }

    /// The name that `format` and `--format` take.
    pub fn name(self) -> &'static str {
        NAMES
            .into_iter()
            .find(|(format, _)| *format == self)
            .map_or("jsonl", |(_, name)| name)
    }

    /// Returns whether a file of this form can be of the format.
    pub(crate) fn fits(self, form: Form) -> bool {
        match self {
            Self::Parquet => form == Form::Parquet,
            Self::HuggingFace => !matches!(form, Form::Tar),
            Self::CommonVoice | Self::Csv | Self::Tsv => matches!(form, Form::Table(_)),
            Self::WebDataset => form == Form::Tar,
            Self::Kaldi => false,
            Self::Jsonl
            | Self::MsSwift
            | Self::LlamaFactory
            | Self::Nemo
            | Self::Lhotse
            | Self::LhotseShar
            | Self::SlamLlm
            | Self::Qwen3Asr => matches!(form, Form::JsonLines | Form::JsonList),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = NAMES.into_iter().find(|(_, name)| *name == text);
        known.map(|(format, _)| format).ok_or_else(|| {
            let names = || NAMES.iter().map(|(_, name)| *name);
            let all: Vec<&str> = names().collect();
            let found = Error::input(format!("unknown format `{text}`"));
            match yaml::nearest(text, names()) {
                Some(near) => found.hint(format!(
                    "did you mean `{near}`? formats are {}",
                    all.join(", ")
                )),
                None => found.hint(format!("formats are {}", all.join(", "))),
            }
        })
    }
}

impl TryFrom<String> for Format {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.name().to_owned()
    }
}

/// The error for a column that a file does not have.
pub fn without_column(column: &str, names: &[&str]) -> Error {
    let found = Error::input(format!("there is no column `{column}`"));
    if names.is_empty() {
        return found.hint("write the file's own name of the column behind the field; the file has no rows to compare with");
    }
    match yaml::nearest(column, names.iter().copied()) {
        Some(near) => found.hint(format!(
            "did you mean `{near}`? the columns are {}",
            names.join(", ")
        )),
        None => found.hint(format!("the columns are {}", names.join(", "))),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod names {
    use super::*;

    #[test]
    fn every_format_is_named_once() {
        for format in Format::all() {
            assert_eq!(format.name().parse::<Format>().unwrap(), format);
        }
        assert_eq!(Format::all().count(), NAMES.len());
        let error = "web-dataset".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("did you mean `webdataset`?"), "{error}");
    }
}
