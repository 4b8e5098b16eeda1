//! The language models of candle-transformers behind one function: logits after some tokens.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_transformers::models::quantized_qwen2;
use candle_transformers::models::quantized_qwen3;
use candle_transformers::models::qwen2;
use candle_transformers::models::qwen3;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::build::local::config;
use crate::build::local::config::Architecture;
use crate::build::local::gguf::Gguf;
use crate::error::Error;
use crate::error::Result;
use crate::models::gguf::contained;
use crate::nn::checkpoint::weight_files;

/// A language model with its cache of keys and values.
pub(super) enum Network {
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    QuantisedQwen2(quantized_qwen2::ModelWeights),
    QuantisedQwen3(quantized_qwen3::ModelWeights),
}

impl Network {
    /// Reads the weights of a checkpoint's folder.
    ///
    /// # Errors
    /// A model that candle-transformers cannot run; files that cannot be read.
    pub(super) fn from_folder(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let (architecture, config, _) =
            config::language_model(config::read_object(&path)?).map_err(|e| e.at_path(&path))?;
        let weights = weights(dir)?;
        let loaded = match architecture {
            Architecture::Qwen2 => {
                qwen2::ModelForCausalLM::new(&read(config, &path)?, weights).map(Self::Qwen2)
            }
            Architecture::Qwen3 => {
                qwen3::ModelForCausalLM::new(&read(config, &path)?, weights).map(Self::Qwen3)
            }
        };
        loaded.map_err(|e| Error::from(e).in_input().at_path(dir))
    }

    /// Reads the weights of a GGUF file.
    ///
    /// # Errors
    /// A file that lacks a tensor or a key.
    pub(super) fn from_gguf(path: &Path) -> Result<Self> {
        let Gguf { head, architecture } = Gguf::open(path)?;
        let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
        let mut reader = BufReader::new(file);
        let loaded = contained(|| match architecture {
            Architecture::Qwen2 => {
                quantized_qwen2::ModelWeights::from_gguf(head.content, &mut reader, &Device::Cpu)
                    .map(Self::QuantisedQwen2)
            }
            Architecture::Qwen3 => {
                quantized_qwen3::ModelWeights::from_gguf(head.content, &mut reader, &Device::Cpu)
                    .map(Self::QuantisedQwen3)
            }
        });
        loaded.map_err(|e| e.at_path(path))
    }

    /// Forgets the sequence so far.
    pub(super) fn restart(&mut self) {
        match self {
            Self::Qwen2(model) => model.clear_kv_cache(),
            Self::Qwen3(model) => model.clear_kv_cache(),
            Self::QuantisedQwen2(model) => model.clear_kv_cache(),
            Self::QuantisedQwen3(model) => model.clear_kv_cache(),
        }
    }

    /// Logits of the next token, after `ids` that follow `position` tokens.
    ///
    /// # Shapes
    /// -> `[vocabulary]`
    ///
    /// # Errors
    /// None that input can cause.
    pub(super) fn logits(&mut self, ids: &[u32], position: usize) -> Result<Tensor> {
        let tensor = |ids: &[u32]| Tensor::new(ids, &Device::Cpu)?.unsqueeze(0);
        let logits = match self {
            Self::Qwen2(model) => model.forward(&tensor(ids)?, position)?,
            Self::Qwen3(model) => model.forward(&tensor(ids)?, position)?,
            Self::QuantisedQwen2(model) => {
                let mut read = 0;
                let mut last = None;
                for len in parts(ids.len()) {
                    let part = tensor(&ids[read..read + len])?;
                    last = Some(model.forward(&part, position + read)?);
                    read += len;
                }
                last.ok_or_else(|| Error::bug("a prompt without tokens"))?
            }
            Self::QuantisedQwen3(model) => model.forward(&tensor(ids)?, position)?,
        };
        Ok(logits.flatten_all()?.to_dtype(DType::F32)?)
    }
}

/// Longest part of a prompt that goes through quantised Qwen2 at once, in tokens.
const PART: usize = 128;

/// Lengths of the parts of a prompt: powers of two, the largest first.
///
/// candle-transformers keeps a mask for every length and place of a part until the end. With these
/// lengths there are few, and they take 4 bytes times the square of the longest prompt.
fn parts(mut len: usize) -> Vec<usize> {
    let mut found = Vec::new();
    while len > 0 {
        let part = (1 << len.ilog2()).min(PART);
        found.push(part);
        len -= part;
    }
    found
}

/// The weights of a checkpoint's folder, in f32.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn weights(dir: &Path) -> Result<VarBuilder<'static>> {
    let files = weight_files(dir)?;
    // SAFETY: maqam does not change checkpoints while it runs. Another process that cuts a file
    // short would end this one.
    let found = unsafe { VarBuilder::from_mmaped_safetensors(&files, DType::F32, &Device::Cpu) };
    found.map_err(|e| Error::from(e).in_input().at_path(dir))
}

/// Reads a config.
pub(super) fn read<T: DeserializeOwned>(config: Value, path: &Path) -> Result<T> {
    serde_json::from_value(config)
        .map_err(|error| Error::input(&error).caused_by(error).at_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_powers_of_two() {
        assert_eq!(parts(300), [128, 128, 32, 8, 4]);
        assert_eq!(parts(1), [1]);
        assert_eq!(parts(0), [0; 0]);
    }
}
