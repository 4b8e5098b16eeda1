//! The shape of an audio language model: what every family's configuration comes down to.

use std::path::PathBuf;

use serde_json::Value;

use crate::batch::Framing;
use crate::batch::Reduction;
use crate::models::names::Names;
use crate::models::speech::Speech;
use crate::ops::attention::Heads;
use maqam_audio::ClipEnd;
use maqam_audio::MelForm;
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
    /// Convolutions over time and frequency; `None` for Whisper's two over time.
    pub chunks: Option<Chunks>,
}

/// Convolutions of Qwen3-ASR's encoder, and the windows of attention after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Channels of each of the three convolutions.
    pub downsample_hidden_size: usize,
    /// Frames that attend to each other: a whole number of windows.
    pub n_window_infer: usize,
    /// Samples of the shortest clip; a shorter one is filled up with zeros.
    pub min_samples: usize,
}

impl AudioConfig {
    /// Frames that are encoded at once.
    pub fn window_frames(&self) -> usize {
        2 * self.n_window
    }

    /// Windows, and their reduction to positions and tokens.
    pub fn framing(&self) -> Framing {
        let window = self.window_frames();
        match self.chunks {
            None => window.into(),
            Some(chunks) => Framing {
                window,
                reduction: Reduction::Eighth {
                    chunks: chunks.n_window_infer / window,
                },
            },
        }
    }

    /// Positions of a whole window.
    pub fn window_positions(&self) -> usize {
        self.framing().positions(self.window_frames())
    }

    /// Positions that become one token.
    pub fn positions_per_token(&self) -> usize {
        match self.framing().reduction {
            Reduction::Quarter => 2,
            Reduction::Eighth { .. } | Reduction::Samples { .. } => 1,
        }
    }

    /// Mel bands after the convolutions.
    pub fn reduced_mels(&self) -> usize {
        self.num_mel_bins.div_ceil(8)
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
    /// Whether the head is the embedding table, in fact: the weights decide.
    pub tie_word_embeddings: bool,
    /// Whether queries and keys are normalised head by head, and projected without biases (Qwen3).
    pub qk_norm: bool,
}

impl TextConfig {
    /// Division of the fused projection into heads.
    pub fn heads(&self) -> Heads {
        Heads {
            num_heads: self.num_attention_heads,
            num_kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
        }
    }
}

/// The shape of an audio encoder, a projector and a decoder, and what their family calls them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Folder that it was read from, for messages. Empty if it was read from none.
    pub source: PathBuf,
    /// Names of the tensors.
    pub names: &'static Names,
    /// The audio encoder and its projector.
    pub audio: AudioConfig,
    /// The decoder.
    pub text: TextConfig,
    /// The speech encoder in place of the audio encoder; its projector has two linear layers behind
    /// a norm.
    pub speech: Option<Box<Speech>>,
    /// The token that stands for a piece of audio.
    pub audio_token: u32,
}

impl Config {
    /// Frames of the family's processor: where positions are stored, encoder and processor take
    /// windows of that many.
    pub fn mel_form(&self) -> MelForm {
        let end = match (self.audio.chunks, self.names.positions) {
            (Some(chunks), _) => ClipEnd::Mirror {
                min_samples: chunks.min_samples,
            },
            (None, Some(_)) => ClipEnd::Window(self.audio.window_frames()),
            (None, None) => ClipEnd::Silence,
        };
        MelForm {
            mels: self.audio.num_mel_bins,
            end,
        }
    }

    /// Windows of the encoder that is used, and their reduction to tokens. Frames of a speech
    /// encoder are samples.
    pub fn framing(&self) -> Framing {
        match &self.speech {
            Some(speech) => speech.framing(),
            None => self.audio.framing(),
        }
    }

    /// Positions that become one token.
    pub fn positions_per_token(&self) -> usize {
        match &self.speech {
            Some(speech) => speech.stack,
            None => self.audio.positions_per_token(),
        }
    }

    /// Width of the projector's input.
    pub fn projector_inputs(&self) -> usize {
        match &self.speech {
            Some(speech) => speech.width(),
            None => self.audio.d_model,
        }
    }

    /// Width between the projector's two linear layers; `None` where it has one.
    pub fn projector_width(&self) -> Option<usize> {
        match &self.speech {
            Some(_) => Some(self.text.hidden_size),
            None => self.names.projector_hidden.map(|_| self.audio.d_model),
        }
    }

    /// Audio tokens of a clip with `num_samples`.
    pub fn audio_tokens(&self, num_samples: usize) -> usize {
        if let Some(speech) = &self.speech {
            return speech.framing().tokens(num_samples);
        }
        let frames = self.mel_form().num_frames(num_samples);
        self.audio.framing().tokens(frames)
    }

    /// Refuses shapes that do not fit together.
    ///
    /// # Errors
    /// The first that does not; the message names the fields.
    pub fn check(&self) -> Result<()> {
        let audio = &self.audio;
        let text = &self.text;
        let wrong = |message: String| Err(Error::input(message));

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
            let heads = text.num_attention_heads;
            let kv = text.num_key_value_heads;
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

        if audio.window_positions() > audio.max_source_positions {
            return wrong(format!(
                "a window has {} positions, the sinusoid table {}",
                audio.window_positions(),
                audio.max_source_positions
            ));
        }

        if let Some(chunks) = audio.chunks
            && chunks.n_window_infer < audio.window_frames()
        {
            return wrong(format!(
                "`audio_config.n_window_infer` ({}) is less than a window of 2 x `n_window` ({}) frames",
                chunks.n_window_infer,
                audio.window_frames()
            ));
        }

        if !audio.d_model.is_multiple_of(2) || audio.d_model < 4 {
            return wrong(format!(
                "`audio_config.d_model` is {}; sinusoids need an even width of 4 or more",
                audio.d_model
            ));
        }

        Ok(())
    }
}

/// A section of a configuration, and what it is called.
pub struct Fields<'a>(pub &'a Value, pub &'static str);

impl Fields<'_> {
    /// A whole number above 0.
    ///
    /// # Errors
    /// One that is not there or is another value; the message names it.
    pub fn number(&self, name: &str) -> Result<usize> {
        match self.0[name].as_u64() {
            Some(n) if n > 0 => Ok(n as usize),
            _ => Err(Error::input(format!(
                "`{}.{name}` should be a whole number above 0, found {}",
                self.1, self.0[name]
            ))),
        }
    }

    /// A whole number above 0; where it is not there or null, the family's own.
    ///
    /// # Errors
    /// Another value; the message names it.
    pub fn number_or(&self, name: &str, usual: usize) -> Result<usize> {
        if self.0[name].is_null() {
            Ok(usual)
        } else {
            self.number(name)
        }
    }

    /// Base of the rotary frequencies, which transformers 4 and 5 write in different places.
    ///
    /// # Errors
    /// Rotary embeddings of another type than the `kinds`.
    pub fn rope_theta(&self, kinds: &[&str], usual: f64) -> Result<f64> {
        let rope = [&self.0["rope_parameters"], &self.0["rope_scaling"]]
            .into_iter()
            .find(|v| v.is_object())
            .unwrap_or(&Value::Null);
        if let Some(kind) = rope["rope_type"].as_str().or_else(|| rope["type"].as_str())
            && !kinds.contains(&kind)
        {
            return Err(Error::input(format!(
                "`{}` asks for rotary embeddings of type `{kind}`; maqam has `default`",
                self.1
            )));
        }
        Ok(rope["rope_theta"]
            .as_f64()
            .or_else(|| self.0["rope_theta"].as_f64())
            .unwrap_or(usual))
    }

    /// Refuses a field that says something else than `expected`; one that says nothing is taken for
    /// it.
    ///
    /// # Errors
    /// The field with its value.
    pub fn require(&self, name: &str, expected: impl Into<Value>) -> Result<()> {
        let found = &self.0[name];
        let expected = expected.into();
        if found.is_null() || *found == expected {
            return Ok(());
        }
        Err(Error::input(format!(
            "`{}.{name}` is {found}; maqam computes {expected} only",
            self.1
        )))
    }
}
