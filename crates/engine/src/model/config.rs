//! What a checkpoint's `config.json` says about the shape of the model.

use std::path::Path;

use serde_json::Value;

use crate::ops::attention::Heads;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// The audio encoder, named as in the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioConfig {
    /// Width of the encoder.
    pub d_model: usize,
    /// Number of layers.
    pub encoder_layers: usize,
    /// Number of heads.
    pub encoder_attention_heads: usize,
    /// Width inside the feed-forward part.
    pub encoder_ffn_dim: usize,
    /// Mel bands.
    pub num_mel_bins: usize,
    /// Half the frames of a window.
    pub n_window: usize,
    /// Rows of the sinusoid table.
    pub max_source_positions: usize,
    /// Width after the projector.
    pub output_dim: usize,
}

impl AudioConfig {
    /// Frames that the encoder hears at once.
    pub fn window_frames(&self) -> usize {
        2 * self.n_window
    }

    /// Full attention: as many key heads as query heads.
    pub fn heads(&self) -> Heads {
        let heads = self.encoder_attention_heads;
        Heads {
            num_heads: heads,
            num_kv_heads: heads,
            head_dim: self.d_model / heads,
        }
    }
}

/// The decoder, named as in the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Tokens of the vocabulary, padding rows included.
    pub vocab_size: usize,
    /// Width of the decoder.
    pub hidden_size: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads.
    pub num_key_value_heads: usize,
    /// Numbers in a head.
    pub head_dim: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the head is the embedding table.
    pub tie_word_embeddings: bool,
}

impl TextConfig {
    /// How the fused projection divides into heads.
    pub fn heads(&self) -> Heads {
        Heads {
            num_heads: self.num_attention_heads,
            num_kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
        }
    }
}

/// The shape of a Qwen2.5-Omni thinker.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The audio encoder and its projector.
    pub audio: AudioConfig,
    /// The decoder.
    pub text: TextConfig,
    /// The token that stands for a piece of audio.
    pub audio_token: u32,
}

impl Config {
    /// Reads `DIR/config.json` of a full or a thinker-only checkpoint.
    ///
    /// # Errors
    /// Where a field is missing, or says something the model here does not do; the message names it.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = files::read_text(&path).map_err(|e| e.or_hint("`model` is the folder of a checkpoint: config.json, tokenizer.json and safetensors"))?;
        let root: Value = serde_json::from_str(&text)
            .map_err(|e| Error::input(format!("not JSON: {e}")).at_path(&path))?;
        Self::from_json(&root).map_err(|e| e.at_path(&path))
    }

    fn from_json(root: &Value) -> Result<Self> {
        let model_type = root["model_type"].as_str().unwrap_or("nothing");
        let thinker = match model_type {
            "qwen2_5_omni" => &root["thinker_config"],
            "qwen2_5_omni_thinker" => root,
            other => {
                return Err(Error::input(format!(
                    "`model_type` is {other}, expected qwen2_5_omni or qwen2_5_omni_thinker"
                ))
                .hint(
                    "maqam trains Qwen2.5-Omni checkpoints; point `model` at the folder of one",
                ));
            }
        };
        let (audio, text) = (
            Fields(&thinker["audio_config"], "audio_config"),
            Fields(&thinker["text_config"], "text_config"),
        );
        audio.require("activation_function", "gelu")?;
        audio.require("scale_embedding", false)?;
        text.require("hidden_act", "silu")?;
        text.require("use_sliding_window", false)?;
        let rope = [&text.0["rope_parameters"], &text.0["rope_scaling"]]
            .into_iter()
            .find(|v| v.is_object())
            .unwrap_or(&Value::Null);
        if let Some(kind) = rope["rope_type"].as_str().or_else(|| rope["type"].as_str())
            && !["default", "mrope"].contains(&kind)
        {
            return Err(Error::input(format!(
                "`text_config` asks for rotary embeddings of type `{kind}`; maqam has `default`"
            )));
        }
        let hidden_size = text.number("hidden_size")?;
        let num_attention_heads = text.number("num_attention_heads")?;
        let found = Self {
            audio: AudioConfig {
                d_model: audio.number("d_model")?,
                encoder_layers: audio.number("encoder_layers")?,
                encoder_attention_heads: audio.number("encoder_attention_heads")?,
                encoder_ffn_dim: audio.number("encoder_ffn_dim")?,
                num_mel_bins: audio.number("num_mel_bins")?,
                n_window: audio.number("n_window")?,
                max_source_positions: audio.number("max_source_positions")?,
                output_dim: audio.number("output_dim")?,
            },
            text: TextConfig {
                vocab_size: text.number("vocab_size")?,
                hidden_size,
                intermediate_size: text.number("intermediate_size")?,
                num_hidden_layers: text.number("num_hidden_layers")?,
                num_attention_heads,
                num_key_value_heads: text.number("num_key_value_heads")?,
                head_dim: text.0["head_dim"]
                    .as_u64()
                    .map_or(hidden_size / num_attention_heads, |n| n as usize),
                max_position_embeddings: text.number("max_position_embeddings")?,
                rms_norm_eps: text.0["rms_norm_eps"].as_f64().unwrap_or(1e-6),
                rope_theta: rope["rope_theta"]
                    .as_f64()
                    .or_else(|| text.0["rope_theta"].as_f64())
                    .unwrap_or(1e6),
                tie_word_embeddings: [
                    &text.0["tie_word_embeddings"],
                    &thinker["tie_word_embeddings"],
                    &root["tie_word_embeddings"],
                ]
                .into_iter()
                .find_map(Value::as_bool)
                .unwrap_or(false),
            },
            audio_token: ["audio_token_index", "audio_token_id"]
                .into_iter()
                .find_map(|name| thinker[name].as_u64())
                .ok_or_else(|| Error::input("`thinker_config` has no `audio_token_index`"))?
                as u32,
        };
        found.check()?;
        Ok(found)
    }

    fn check(&self) -> Result<()> {
        let (audio, text) = (&self.audio, &self.text);
        let wrong = |message: String| Err(Error::input(message));
        if audio.num_mel_bins != maqam_audio::MELS {
            return wrong(format!(
                "`audio_config.num_mel_bins` is {}, expected {}",
                audio.num_mel_bins,
                maqam_audio::MELS
            ));
        }
        if !audio.d_model.is_multiple_of(audio.encoder_attention_heads) {
            return wrong(format!(
                "`audio_config.d_model` ({}) is not a multiple of its heads ({})",
                audio.d_model, audio.encoder_attention_heads
            ));
        }
        if !text
            .num_attention_heads
            .is_multiple_of(text.num_key_value_heads)
            || !text.head_dim.is_multiple_of(2)
        {
            let (heads, kv) = (text.num_attention_heads, text.num_key_value_heads);
            return wrong(format!(
                "`text_config` has {heads} heads over {kv} key heads of {} numbers",
                text.head_dim
            ));
        }
        if audio.output_dim != text.hidden_size {
            return wrong(format!(
                "`audio_config.output_dim` ({}) differs from `text_config.hidden_size` ({})",
                audio.output_dim, text.hidden_size
            ));
        }
        if audio.n_window > audio.max_source_positions {
            return wrong(format!(
                "a window has {} positions, the sinusoid table {}",
                audio.n_window, audio.max_source_positions
            ));
        }
        Ok(())
    }
}

struct Fields<'a>(&'a Value, &'static str);

impl Fields<'_> {
    fn number(&self, name: &str) -> Result<usize> {
        match self.0[name].as_u64() {
            Some(n) if n > 0 => Ok(n as usize),
            _ => Err(Error::input(format!(
                "`{}.{name}` should be a whole number above 0, found {}",
                self.1, self.0[name]
            ))),
        }
    }

    fn require(&self, name: &str, expected: impl Into<Value>) -> Result<()> {
        let (found, expected) = (&self.0[name], expected.into());
        if found.is_null() || *found == expected {
            return Ok(());
        }
        Err(Error::input(format!(
            "`{}.{name}` is {found}; maqam computes {expected} only",
            self.1
        )))
    }
}
