//! What a checkpoint's `config.json` says about the shape of the model.

use std::path::Path;

use serde_json::Value;

use crate::model::checkpoint;
use crate::model::checkpoint::Checkpoint;
use crate::ops::attention::Heads;
use maqam_base::error::Error;
use maqam_base::error::Result;

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
    /// Whether the head is the embedding table, in fact: see [`Config::load`].
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
    /// Whether the head is the embedding table is decided by the weights, where the folder has any: transformers 5 writes
    /// `tie_word_embeddings: true` into `text_config` of models with a head of their own.
    ///
    /// # Errors
    /// Where a field is missing, or says something the model here does not do; the message names it.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        if !path.exists()
            && let Some(error) = checkpoint::another_folder(dir)
        {
            return Err(error);
        }
        checkpoint::check_inside(dir, &path)?;
        let root = checkpoint::read_json(&path).map_err(|e| e.or_hint("`model` is the folder of a checkpoint: config.json, tokenizer.json and safetensors"))?;
        let mut found = Self::from_json(&root).map_err(|e| e.at_path(&path))?;
        let asks = thinker_of(&root)["tie_word_embeddings"] == true;
        // Damaged weights are refused where they are read.
        if let Ok(checkpoint) = Checkpoint::open(dir) {
            found.text.tie_word_embeddings = checkpoint.is_tied(asks);
        }
        Ok(found)
    }

    fn from_json(root: &Value) -> Result<Self> {
        let model_type = root["model_type"].as_str();
        let thinker = match model_type {
            Some("qwen2_5_omni" | "qwen2_5_omni_thinker") => thinker_of(root),
            other => {
                let found = other
                    .or_else(|| root["architectures"][0].as_str())
                    .unwrap_or("nothing");
                return Err(Error::input(format!(
                    "`model_type` is {found}{}, expected qwen2_5_omni or qwen2_5_omni_thinker",
                    family(found).map_or(String::new(), |name| format!(" ({name})"))
                ))
                .hint(
                    "maqam trains Qwen2.5-Omni checkpoints; point `model` at the folder of one",
                ));
            }
        };
        refuse_quantised(root)?;
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
                    &thinker["tie_word_embeddings"],
                    &text.0["tie_word_embeddings"],
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

/// The part of a configuration that describes the thinker.
fn thinker_of(root: &Value) -> &Value {
    if root["model_type"] == "qwen2_5_omni" {
        &root["thinker_config"]
    } else {
        root
    }
}

/// Refuses weights that are not stored in a floating-point type, by the method that made them.
fn refuse_quantised(root: &Value) -> Result<()> {
    let thinker = thinker_of(root);
    let places = [
        ("", root),
        ("thinker_config.", &root["thinker_config"]),
        ("text_config.", &thinker["text_config"]),
    ];
    for (place, section) in places {
        for field in ["quantization_config", "compression_config"] {
            let found = &section[field];
            if !found.is_object() {
                continue;
            }
            let method = found["quant_method"].as_str().unwrap_or("unknown");
            let name = match method {
                "awq" => "AWQ",
                "gptq" => "GPTQ",
                "bitsandbytes" => "bitsandbytes",
                "unknown" if found["load_in_4bit"] == true || found["load_in_8bit"] == true => {
                    "bitsandbytes"
                }
                other => other,
            };
            return Err(
                Error::input(format!("weights quantised by {name} (`{place}{field}`)"))
                    .hint(checkpoint::QUANTISED_HINT),
            );
        }
    }
    Ok(())
}

/// The name of the family that a `model_type` or an architecture stands for, where it is well known.
fn family(model_type: &str) -> Option<&'static str> {
    let plain: String = model_type
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    let known = [
        ("qwen3omni", "Qwen3-Omni"),
        ("qwen25omnitalker", "the talker of Qwen2.5-Omni"),
        ("qwen2audio", "Qwen2-Audio"),
        ("qwen25vl", "Qwen2.5-VL"),
        ("qwen2vl", "Qwen2-VL"),
        ("qwen3asr", "Qwen3-ASR"),
        ("qwen3", "Qwen3, a text model"),
        ("qwen2", "Qwen2 or Qwen2.5, a text model"),
        ("whisper", "Whisper"),
        ("voxtral", "Voxtral"),
        ("hubert", "HuBERT, an encoder"),
        ("wav2vec2", "wav2vec 2.0, an encoder"),
        ("gemma3n", "Gemma 3n"),
        ("gemma", "Gemma"),
        ("llama", "Llama, a text model"),
        ("mistral", "Mistral, a text model"),
        ("phi4", "Phi-4"),
        ("ultravox", "Ultravox"),
        ("minicpm", "MiniCPM"),
        ("granitespeech", "Granite Speech"),
        ("moonshine", "Moonshine"),
    ];
    known
        .into_iter()
        .find(|(start, _)| plain.starts_with(start))
        .map(|(_, name)| name)
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
