//! A Qwen2 decoder in a GGUF file: its shape, its vocabulary, and its matrices with their blocks of 4 to 8 bits spread out again.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;
use candle_core::Tensor;
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::gguf_file::Value as Said;
use serde_json::Value;
use serde_json::json;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::panics;
use maqam_base::qwen2_tokenizer;

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

/// Two copies of one matrix in different blocks are closer to each other than this share of their size; unrelated ones are not.
const SAME_WITHIN: f64 = 0.2;

/// A kind of token in GGUF.
const NORMAL: i64 = 1;
/// Never appears in texts.
const UNUSED: i64 = 5;

/// An opened file.
pub struct Gguf {
    path: PathBuf,
    content: Content,
}

impl Gguf {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// A file that is not GGUF, or holds another architecture.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path).map_err(|e| Error::io(path, "read", e))?);
        let content = contained(|| Content::read(&mut file)).map_err(|e| {
            e.at("not a GGUF file")
                .at_path(path)
                .hint("`--decoder` is a folder of Hugging Face or a GGUF file; copy it again if it is damaged")
        })?;
        let found = Self {
            path: path.to_owned(),
            content,
        };
        let architecture = found.text("general.architecture").unwrap_or_default();
        if architecture != "qwen2" {
            return Err(Error::input(format!(
                "`general.architecture` is `{architecture}`, expected qwen2"
            ))
            .at_path(path)
            .hint("`--decoder` is a Qwen2 or Qwen2.5 text model"));
        }
        Ok(found)
    }

    /// A text of the head.
    pub fn text(&self, key: &str) -> Option<String> {
        let found = self.content.metadata.get(key)?;
        found.to_string().ok().cloned()
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.content
            .metadata
            .get(key)
            .and_then(as_number)
            .ok_or_else(|| Error::input(format!("there is no number `{key}`")).at_path(&self.path))
    }

    fn list(&self, key: &str) -> Result<&[Said]> {
        let found = self.content.metadata.get(key);
        found
            .and_then(|value| value.to_vec().ok())
            .map(Vec::as_slice)
            .ok_or_else(|| Error::input(format!("there is no list `{key}`")).at_path(&self.path))
    }

    /// The `text_config` that it stands for.
    ///
    /// # Errors
    /// A number that is missing.
    pub fn config(&self) -> Result<Value> {
        let whole = |key: &str| Ok::<_, Error>(self.number(&format!("qwen2.{key}"))? as u64);
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
            "rms_norm_eps": short(self.number("qwen2.attention.layer_norm_rms_epsilon")?),
            "rope_theta": self.number("qwen2.rope.freq_base").unwrap_or(1e4),
            "use_sliding_window": false,
            "attention_dropout": 0.0,
        }))
    }

    fn shape(&self, name: &str) -> Result<&[usize]> {
        let info = self.content.tensor_infos.get(name);
        info.map(|info| info.shape.dims())
            .ok_or_else(|| Error::input(format!("there is no tensor `{name}`")).at_path(&self.path))
    }

    /// Bytes that a value of a tensor takes; 0 for one that is not there.
    fn bytes_per_value(&self, name: &str) -> f64 {
        let info = self.content.tensor_infos.get(name);
        info.map_or(0.0, |info| {
            info.ggml_dtype.type_size() as f64 / info.ggml_dtype.block_size() as f64
        })
    }

    /// Tensors by their names in transformers' `Qwen2ForCausalLM`: that name, the file's, the shape. A head that is the embedding table in
    /// other blocks is left out, and the finer of the two stands for both.
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

        for (name, info) in &self.content.tensor_infos {
            let (new, source) = match name.as_str() {
                "token_embd.weight" if is_tied && self.content.tensor_infos.contains_key(head) => {
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
                        .at_path(&self.path));
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
        if !self.content.tensor_infos.contains_key(head) {
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
        let io = |e| Error::io(&self.path, "read", e);
        let mut file = BufReader::new(File::open(&self.path).map_err(io)?);
        contained(|| {
            let stored = self.content.tensor(&mut file, name, &Device::Cpu)?;
            stored.dequantize(&Device::Cpu)
        })
        .map_err(|e| e.at(format!("`{name}` cannot be read")).at_path(&self.path))
    }

    /// The vocabulary as a `tokenizer.json` of Qwen2: byte-level BPE, control tokens apart, padding left out.
    ///
    /// # Errors
    /// A vocabulary of another kind.
    pub fn tokenizer(&self) -> Result<Value> {
        let kind = self.text("tokenizer.ggml.model").unwrap_or_default();
        let splitting = self
            .text("tokenizer.ggml.pre")
            .unwrap_or_else(|| "qwen2".to_owned());

        if kind != "gpt2" || splitting != "qwen2" {
            return Err(Error::input(format!(
                "its vocabulary is `{kind}` split as `{splitting}`, expected gpt2 and qwen2"
            ))
            .at_path(&self.path)
            .hint("give the Hugging Face folder of the decoder, which holds a tokenizer.json"));
        }

        let texts = self.list("tokenizer.ggml.tokens")?;
        let kinds = self.list("tokenizer.ggml.token_type")?;

        let mut vocab = serde_json::Map::new();
        let mut added = Vec::new();
        for (id, (text, kind)) in texts.iter().zip(kinds).enumerate() {
            let text = text.to_string().map_err(|e| Error::from(e).in_input())?;
            match as_number(kind).unwrap_or_default() as i64 {
                NORMAL => {
                    vocab.insert(text.clone(), id.into());
                }
                UNUSED => {}
                _ => added.push(added_token(id, text)),
            }
        }

        let merges: Vec<Value> = self
            .list("tokenizer.ggml.merges")?
            .iter()
            .filter_map(|merge| merge.to_string().ok()?.split_once(' '))
            .map(|(a, b)| json!([a, b]))
            .collect();

        Ok(qwen2_tokenizer::json_of(vocab, merges, added))
    }

    /// Ids of the tokens that end a text, and of padding.
    pub fn ends(&self) -> (Vec<u64>, Option<u64>) {
        let id = |key: &str| self.number(key).ok().map(|id| id as u64);
        let end = id("tokenizer.ggml.eos_token_id");
        (
            end.into_iter().collect(),
            id("tokenizer.ggml.padding_token_id"),
        )
    }
}

/// Runs candle's reader on a file that may be damaged; a panic of it is an error like any other.
fn contained<T>(read: impl FnOnce() -> candle_core::Result<T>) -> Result<T> {
    match panics::contain(read) {
        Ok(read) => read.map_err(|e| Error::from(e).in_input()),
        Err(panic) => Err(Error::input(panic.message)),
    }
}

/// An entry of `added_tokens`.
pub fn added_token(id: usize, text: &str) -> Value {
    json!({
        "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true
    })
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

fn as_number(value: &Said) -> Option<f64> {
    Some(match value {
        Said::U8(n) => f64::from(*n),
        Said::I8(n) => f64::from(*n),
        Said::U16(n) => f64::from(*n),
        Said::I16(n) => f64::from(*n),
        Said::U32(n) => f64::from(*n),
        Said::I32(n) => f64::from(*n),
        Said::U64(n) => *n as f64,
        Said::I64(n) => *n as f64,
        Said::F32(n) => f64::from(*n),
        Said::F64(n) => *n,
        _ => return None,
    })
}
