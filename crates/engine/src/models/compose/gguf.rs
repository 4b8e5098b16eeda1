//! A Qwen2 decoder in a GGUF file: its shape, and its matrices with their blocks of 4 to 8 bits
//! spread out again.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::Device;
use candle_core::Tensor;
use serde_json::Value;
use serde_json::json;

use crate::models::gguf::Head;
use crate::models::gguf::contained;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Names of a layer's tensors in GGUF and in transformers.
const OF_LAYER: [(&str, &str); 12] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
];

/// Two copies of one matrix in different blocks are closer to each other than this share of their
/// size; unrelated ones are not.
const SAME_WITHIN: f64 = 0.2;

/// An opened file.
pub struct Gguf {
    /// Metadata and places of tensors.
    pub head: Head,
}

impl Gguf {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// A file that is not GGUF, or holds another architecture.
    pub fn open(path: &Path) -> Result<Self> {
        let head = Head::open(path).map_err(|e| {
            e.hint("`--decoder` is a folder of Hugging Face or a GGUF file; copy it again if it is damaged")
        })?;
        let architecture = head.text("general.architecture").unwrap_or_default();
        if architecture != "qwen2" {
            return Err(Error::input(format!(
                "`general.architecture` is `{architecture}`, expected qwen2"
            ))
            .at_path(path)
            .hint("`--decoder` is a Qwen2 or Qwen2.5 text model"));
        }
        Ok(Self { head })
    }

    /// The `text_config` that it stands for.
    ///
    /// # Errors
    /// A number that is missing.
    pub fn config(&self) -> Result<Value> {
        let whole = |key: &str| Ok::<_, Error>(self.head.number(&format!("qwen2.{key}"))? as u64);
        let heads = whole("attention.head_count")?;
        let vocab = self.shape("token_embd.weight")?[0];
        Ok(json!({
            "model_type": "qwen2",
            "vocab_size": vocab,
            "hidden_size": whole("embedding_length")?,
            "intermediate_size": whole("feed_forward_length")?,
            "num_hidden_layers": whole("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": whole("attention.head_count_kv").unwrap_or(heads),
            "hidden_act": "silu",
            "max_position_embeddings": whole("context_length")?,
            // Stored in 32 bits, where 1e-6 has more digits than were meant.
            "rms_norm_eps": short(self.head.number("qwen2.attention.layer_norm_rms_epsilon")?),
            "rope_theta": self.head.number("qwen2.rope.freq_base").unwrap_or(1e4),
            "use_sliding_window": false,
            "attention_dropout": 0.0,
        }))
    }

    fn shape(&self, name: &str) -> Result<&[usize]> {
        let info = self.head.content.tensor_infos.get(name);
        info.map(|info| info.shape.dims()).ok_or_else(|| {
            Error::input(format!("there is no tensor `{name}`")).at_path(&self.head.path)
        })
    }

    /// Bytes that a value of a tensor takes; 0 for one that is not there.
    fn bytes_per_value(&self, name: &str) -> f64 {
        let info = self.head.content.tensor_infos.get(name);
        info.map_or(0.0, |info| {
            info.ggml_dtype.type_size() as f64 / info.ggml_dtype.block_size() as f64
        })
    }

    /// Tensors by their names in transformers' `Qwen2ForCausalLM`: that name, the file's, the
    /// shape. A head that is the embedding table in other blocks is left out, and the finer of the
    /// two stands for both.
    ///
    /// # Errors
    /// A tensor that has no name there, or that is damaged.
    pub fn tensors(&self) -> Result<Vec<(String, String, Vec<usize>)>> {
        let mut found = Vec::new();
        let table = "token_embd.weight";
        let head = "output.weight";
        let is_tied = self.is_tied(table, head)?;

        let finer = if self.bytes_per_value(head) > self.bytes_per_value(table) {
            head
        } else {
            table
        };

        for (name, info) in &self.head.content.tensor_infos {
            let (new, source) = match name.as_str() {
                "token_embd.weight"
                    if is_tied && self.head.content.tensor_infos.contains_key(head) =>
                {
                    ("model.embed_tokens.weight".to_owned(), finer.to_owned())
                }
                "token_embd.weight" => ("model.embed_tokens.weight".to_owned(), name.clone()),
                "output_norm.weight" => ("model.norm.weight".to_owned(), name.clone()),
                "output.weight" if is_tied => continue,
                "output.weight" => ("lm_head.weight".to_owned(), name.clone()),
                other => match in_layer(other) {
                    Some(new) => (new, name.clone()),
                    None => {
                        return Err(Error::input(format!(
                            "the tensor `{other}` belongs to no part of Qwen2"
                        ))
                        .at_path(&self.head.path));
                    }
                },
            };
            found.push((new, source, info.shape.dims().to_vec()));
        }

        found.sort();
        Ok(found)
    }

    /// Whether there is no head, or one that is the embedding table in other blocks.
    fn is_tied(&self, table: &str, head: &str) -> Result<bool> {
        if !self.head.content.tensor_infos.contains_key(head) {
            return Ok(true);
        }
        if self.shape(table)? != self.shape(head)? {
            return Ok(false);
        }
        let table = self.tensor(table)?;
        let head = self.tensor(head)?;
        let size = f64::from(table.sqr()?.mean_all()?.to_scalar::<f32>()?);
        let apart = f64::from((table - head)?.sqr()?.mean_all()?.to_scalar::<f32>()?);
        Ok(apart.sqrt() <= SAME_WITHIN * size.sqrt())
    }

    /// A tensor by the file's name, in f32.
    ///
    /// # Errors
    /// Blocks of a kind that candle does not spread out; a file that ends early.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let io = |e| Error::io(&self.head.path, "read", e);
        let mut file = BufReader::new(File::open(&self.head.path).map_err(io)?);
        contained(|| {
            let stored = self.head.content.tensor(&mut file, name, &Device::Cpu)?;
            stored.dequantize(&Device::Cpu)
        })
        .map_err(|e| {
            e.at(format!("`{name}` cannot be read"))
                .at_path(&self.head.path)
        })
    }
}

fn in_layer(name: &str) -> Option<String> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (_, new) = OF_LAYER.iter().find(|(old, _)| *old == rest)?;
    Some(format!("model.layers.{layer}.{new}"))
}

/// A number of 32 bits with the digits that it was written with.
fn short(stored: f64) -> f64 {
    (stored as f32).to_string().parse().unwrap_or(stored)
}
