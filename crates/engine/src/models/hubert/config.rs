//! Configuration of an encoder in `config.json` and `preprocessor_config.json`, in Hugging Face's
//! names.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::nn::checkpoint::read_json;
use crate::ops::attention::Heads;
use crate::ops::grouped_convolution::Groups;
use crate::ops::strided_convolution::Window;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::json;

/// Name of the encoder's description.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the description of how samples are prepared.
pub const PREPROCESSOR_FILE: &str = "preprocessor_config.json";

/// Places of the feature extractor's norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureNorm {
    /// Group norm after the first convolution, each channel over the time of its clip: HuBERT-base.
    Group,
    /// Layer norm after every convolution: HuBERT-large, XLS-R.
    Layer,
}

/// Shape of an encoder. Keys and defaults are those of transformers' `HubertConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `hubert` or `wav2vec2`.
    pub model_type: String,
    /// Width of the transformer.
    pub hidden_size: usize,
    /// Number of transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads of a layer.
    pub num_attention_heads: usize,
    /// Width between the two linear layers of a block.
    pub intermediate_size: usize,
    /// Added to variances in the transformer's layer norms.
    pub layer_norm_eps: f64,
    /// Norms of the feature extractor.
    pub feat_extract_norm: FeatureNorm,
    /// Channels of each convolution.
    pub conv_dim: Vec<usize>,
    /// Kernel of each convolution, in positions of its input.
    pub conv_kernel: Vec<usize>,
    /// Stride of each convolution.
    pub conv_stride: Vec<usize>,
    /// Whether convolutions have biases.
    pub conv_bias: bool,
    /// Kernel of the positional convolution, in frames.
    pub num_conv_pos_embeddings: usize,
    /// Groups of the positional convolution.
    pub num_conv_pos_embedding_groups: usize,
    /// Whether the projection begins with a layer norm; `Wav2Vec2Model` always has it.
    pub feat_proj_layer_norm: bool,
    /// Norms before attention and MLP in place of after them.
    pub do_stable_layer_norm: bool,
    /// Units of a CTC head.
    pub vocab_size: usize,
    /// Unit that CTC takes for blank.
    pub pad_token_id: usize,
    /// Whether clips are brought to mean zero and variance one first; from
    /// `preprocessor_config.json`.
    #[serde(skip)]
    pub do_normalize: bool,
    /// Other fields of `config.json`; they are written back.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: "hubert".to_owned(),
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            layer_norm_eps: 1e-5,
            feat_extract_norm: FeatureNorm::Group,
            conv_dim: vec![512; 7],
            conv_kernel: vec![10, 3, 3, 3, 3, 2, 2],
            conv_stride: vec![5, 2, 2, 2, 2, 2, 2],
            conv_bias: false,
            num_conv_pos_embeddings: 128,
            num_conv_pos_embedding_groups: 16,
            feat_proj_layer_norm: true,
            do_stable_layer_norm: false,
            vocab_size: 32,
            pad_token_id: 0,
            do_normalize: true,
            other: Map::new(),
        }
    }
}

/// Keys that change what an encoder computes, and the only values of them that maqam computes.
const ONLY: [(&str, &[&str]); 6] = [
    ("model_type", &["\"hubert\"", "\"wav2vec2\""]),
    ("hidden_act", &["\"gelu\""]),
    ("feat_extract_activation", &["\"gelu\""]),
    ("conv_pos_batch_norm", &["false"]),
    ("add_adapter", &["false"]),
    ("adapter_attn_dim", &["null"]),
];

impl Config {
    /// Reads the two files of a checkpoint folder; without the second, samples are normalised, as
    /// transformers does.
    ///
    /// # Errors
    /// Files that are missing or not JSON, sizes that fit no encoder, and settings that maqam does
    /// not compute.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let value = read_json(&path)?;

        for (key, computed) in ONLY {
            let Some(found) = value.get(key).map(ToString::to_string) else {
                continue;
            };
            if !computed.contains(&found.as_str()) {
                return Err(Error::input(format!("`{key}` is {found}"))
                    .at_path(&path)
                    .hint(format!(
                        "use an encoder with `{key}: {}`; maqam computes no other",
                        computed.join("` or `")
                    )));
            }
        }

        let mut config: Self = json::parse(&value.to_string()).map_err(|e| e.at_path(&path))?;
        let preprocessor = dir.join(PREPROCESSOR_FILE);

        if preprocessor.exists() {
            let value = read_json(&preprocessor)?;
            config.do_normalize = value["do_normalize"].as_bool().unwrap_or(true);
            let rate = value["sampling_rate"].as_u64().unwrap_or(16_000);
            if rate != u64::from(maqam_audio::SAMPLE_RATE) {
                return Err(Error::input(format!("`sampling_rate` is {rate}"))
                    .at_path(&preprocessor)
                    .hint("use an encoder of 16000 Hz; maqam reads audio at no other rate"));
            }
        } else {
            config.do_normalize = true;
        }

        config.check().map_err(|e| e.at_path(&path))?;
        Ok(config)
    }

    /// Checks the sizes; the message names the key.
    ///
    /// # Errors
    /// Sizes of zero, lists of different lengths, widths that do not divide.
    pub fn check(&self) -> Result<()> {
        let convolutions = self.conv_dim.len();

        if convolutions == 0
            || self.conv_kernel.len() != convolutions
            || self.conv_stride.len() != convolutions
        {
            return Err(Error::input(format!(
                "`conv_dim`, `conv_kernel` and `conv_stride` have {convolutions}, {} and {} entries",
                self.conv_kernel.len(),
                self.conv_stride.len()
            ))
            .hint("give all three the same number of entries, at least 1"));
        }

        let lists = [&self.conv_dim, &self.conv_kernel, &self.conv_stride];
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_conv_pos_embeddings", self.num_conv_pos_embeddings),
            (
                "num_conv_pos_embedding_groups",
                self.num_conv_pos_embedding_groups,
            ),
            ("vocab_size", self.vocab_size),
        ];
        let zero = sizes
            .iter()
            .find(|(_, size)| *size == 0)
            .map(|(key, _)| *key);

        if let Some(key) = zero.or(lists
            .iter()
            .any(|list| list.contains(&0))
            .then_some("conv_*"))
        {
            return Err(Error::input(format!("`{key}` is 0")).hint("write a number above 0"));
        }

        let parts = [
            ("num_attention_heads", self.num_attention_heads),
            (
                "num_conv_pos_embedding_groups",
                self.num_conv_pos_embedding_groups,
            ),
        ];

        match parts
            .into_iter()
            .find(|(_, n)| !self.hidden_size.is_multiple_of(*n))
        {
            Some((key, n)) => Err(Error::input(format!(
                "`hidden_size` is {}, which `{key}` ({n}) does not divide",
                self.hidden_size
            ))
            .hint("change one of the two")),
            None => Ok(()),
        }
    }

    /// Kernels and strides of the convolutions.
    pub fn windows(&self) -> impl Iterator<Item = Window> {
        self.conv_kernel
            .iter()
            .zip(&self.conv_stride)
            .map(|(&kernel, &stride)| Window { kernel, stride })
    }

    /// Frames of a clip of so many samples at 16 kHz.
    pub fn num_frames(&self, num_samples: usize) -> usize {
        self.windows()
            .fold(num_samples, |len, window| window.num_outputs(len))
    }

    /// Samples from one frame to the next.
    pub fn stride(&self) -> usize {
        self.conv_stride.iter().product()
    }

    /// Samples that one frame sees.
    pub fn field(&self) -> usize {
        let (field, _) = self.windows().fold((1, 1), |(field, step), window| {
            (field + (window.kernel - 1) * step, step * window.stride)
        });
        field
    }

    /// Division of queries, keys and values into heads.
    pub fn heads(&self) -> Heads {
        Heads {
            num_heads: self.num_attention_heads,
            num_kv_heads: self.num_attention_heads,
            head_dim: self.hidden_size / self.num_attention_heads,
        }
    }

    /// Sizes of the positional convolution.
    pub fn positions(&self) -> Groups {
        Groups {
            channels: self.hidden_size,
            groups: self.num_conv_pos_embedding_groups,
            kernel: self.num_conv_pos_embeddings,
        }
    }

    /// Brings samples to mean zero and variance one where the encoder was trained so.
    ///
    /// Source: `zero_mean_unit_var_norm` of transformers' `Wav2Vec2FeatureExtractor`.
    pub fn prepare(&self, samples: &mut [f32]) {
        if !self.do_normalize || samples.is_empty() {
            return;
        }
        let n = samples.len() as f64;
        let mean = samples.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = samples
            .iter()
            .map(|&x| (f64::from(x) - mean).powi(2))
            .sum::<f64>()
            / n;
        let scale = 1.0 / (variance + 1e-7).sqrt();
        for sample in samples {
            *sample = ((f64::from(*sample) - mean) * scale) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_published_shapes() {
        let config = Config::default();
        // transformers: `_get_feat_extract_output_lengths` of 16000, 400 and 399 samples; stride
        // and field by the paper (20 ms, 25 ms).
        assert_eq!(
            [16_000, 400, 399, 50_560].map(|n| config.num_frames(n)),
            [49, 1, 0, 157]
        );
        assert_eq!((config.stride(), config.field()), (320, 400));
    }

    #[test]
    fn wrong_sizes_are_refused_by_key() {
        let wrong = [
            (
                Config {
                    conv_kernel: vec![3],
                    ..Config::default()
                },
                "`conv_kernel`",
            ),
            (
                Config {
                    num_attention_heads: 7,
                    ..Config::default()
                },
                "`num_attention_heads` (7)",
            ),
            (
                Config {
                    hidden_size: 0,
                    ..Config::default()
                },
                "`hidden_size` is 0",
            ),
        ];
        for (config, expected) in wrong {
            let text = config.check().unwrap_err().to_string();
            assert!(
                text.contains(expected) && text.contains("\nhint: "),
                "{text}"
            );
        }
    }
}
