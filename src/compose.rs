//! An audio language model in Qwen2-Audio's layout, made of a Whisper checkpoint and a Qwen2 text
//! model: weights, tokenizer, processor, card.

use std::path::Path;
use std::path::PathBuf;

use safetensors::Dtype;
use serde_json::Value;
use serde_json::json;

use crate::audio::HOP;
use crate::audio::SAMPLE_RATE;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::StagedDir;
use crate::models::compose::Composed;
use crate::models::compose::Composition;
use crate::models::compose::Decoder;
use crate::models::compose::Encoder;
use crate::models::config::Config;
use crate::nn::checkpoint;
use crate::task::QWEN2_AUDIO_TEMPLATE;

/// The tokens that stand for audio, and that open and close a clip.
const TOKENS: [&str; 3] = ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"];

/// What is composed of what.
pub struct Request {
    /// Folder of a Whisper checkpoint.
    pub encoder: PathBuf,
    /// Folder of a Qwen2 text model, or a GGUF file.
    pub decoder: PathBuf,
    /// Folder to write; it must not exist.
    pub out: PathBuf,
    /// Type of all weights; where nothing is said each keeps its own.
    pub dtype: Option<Dtype>,
    /// Seed of the projector.
    pub seed: u64,
    /// Licences of encoder and decoder, where their folders do not say them.
    pub licences: [Option<String>; 2],
}

/// Writes the tree.
///
/// # Errors
/// A folder that exists; parts of another kind, damaged, or that do not fit together. Nothing is
/// left behind then.
pub fn compose(request: &Request) -> Result<Composed> {
    let Request { out, .. } = request;
    if out.exists() {
        return Err(Error::input("exists already")
            .at_path(out)
            .hint("name a folder that does not exist yet"));
    }
    let encoder = Encoder::open(&request.encoder)?;
    let mut decoder = Decoder::open(&request.decoder)?;
    let (tokens, first_new) = decoder.add_tokens(TOKENS)?;
    let staged = StagedDir::new(out)?;
    let composed = Composition {
        encoder: &encoder,
        decoder: &decoder,
        tokens,
        first_new,
        dtype: request.dtype,
        seed: request.seed,
    }
    .write(staged.path())?;
    write_text(request, &decoder, tokens, staged.path())?;
    write_processor(&composed.config, staged.path())?;
    let licences = licences(request, &decoder);
    for (path, part) in [(&request.encoder, "encoder"), (&request.decoder, "decoder")] {
        let licence = path.join("LICENSE");
        if licence.is_file() {
            files::copy(&licence, &staged.path().join(format!("LICENSE.{part}")))?;
        }
    }
    let card = model_card(request, &composed, &licences);
    files::write_atomic(&staged.path().join("README.md"), card.as_bytes())?;
    staged.commit()?;
    Ok(composed)
}

fn write_json(dir: &Path, name: &str, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::bug_from)?;
    files::write_atomic(&dir.join(name), format!("{text}\n").as_bytes())
}

/// Tokenizer, chat template and the tokens that end a text.
fn write_text(request: &Request, decoder: &Decoder, tokens: [usize; 3], to: &Path) -> Result<()> {
    let tokenizer = serde_json::to_string(&decoder.tokenizer).map_err(Error::bug_from)?;
    files::write_atomic(&to.join("tokenizer.json"), tokenizer.as_bytes())?;

    let path = request.decoder.join("tokenizer_config.json");
    let mut config = path
        .is_file()
        .then(|| checkpoint::read_json(&path))
        .transpose()?
        .filter(Value::is_object)
        .unwrap_or_else(|| {
            json!({
                "tokenizer_class": "Qwen2Tokenizer",
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "clean_up_tokenization_spaces": false,
            })
        });
    if let Some(object) = config.as_object_mut() {
        // The text model's template writes no audio.
        object.remove("chat_template");
        object.remove("tokenizer_file");
        object.insert("processor_class".to_owned(), "Qwen2AudioProcessor".into());
        if let Some(added) = object.get_mut("added_tokens_decoder") {
            for (id, text) in tokens.into_iter().zip(TOKENS) {
                added[id.to_string()] = json!({
                    "content": text, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true
                });
            }
        }
    }
    write_json(to, "tokenizer_config.json", &config)?;
    files::write_atomic(
        &to.join("chat_template.jinja"),
        QWEN2_AUDIO_TEMPLATE.as_bytes(),
    )?;
    let mut generation = decoder.generation.clone();
    generation["do_sample"] = false.into();
    write_json(to, "generation_config.json", &generation)
}

/// What transformers 4 and 5 build the processor from.
fn write_processor(config: &Config, to: &Path) -> Result<()> {
    let frames = config.audio.window_frames();
    let samples = frames * HOP;
    let extractor = json!({
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": config.audio.num_mel_bins,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": HOP,
        "n_fft": 400,
        "chunk_length": samples / SAMPLE_RATE as usize,
        "n_samples": samples,
        "nb_max_frames": frames,
        "padding_side": "right",
        "padding_value": 0.0,
        "dither": 0.0,
        "return_attention_mask": true,
    });
    let mut flat = extractor.clone();
    flat["processor_class"] = "Qwen2AudioProcessor".into();
    write_json(to, "preprocessor_config.json", &flat)?;
    let [audio, start, end] = TOKENS;
    let processor = json!({
        "processor_class": "Qwen2AudioProcessor",
        "audio_token": audio,
        "audio_bos_token": start,
        "audio_eos_token": end,
        "feature_extractor": extractor,
    });
    write_json(to, "processor_config.json", &processor)
}

/// The licences of encoder and decoder: as asked for, as their model cards begin, or as a GGUF file
/// says.
fn licences(request: &Request, decoder: &Decoder) -> [Option<String>; 2] {
    let [encoder, of_decoder] = &request.licences;
    let of_file = || decoder.said("general.license");
    [
        encoder.clone().or_else(|| licence_of(&request.encoder)),
        of_decoder
            .clone()
            .or_else(|| licence_of(&request.decoder))
            .or_else(of_file),
    ]
}

/// `license` in the head of a folder's model card.
fn licence_of(dir: &Path) -> Option<String> {
    let text = files::read_text(&dir.join("README.md")).ok()?;
    let head = text.strip_prefix("---")?.split("\n---").next()?;
    let value = head
        .lines()
        .find_map(|line| line.strip_prefix("license:"))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
}

fn model_card(request: &Request, composed: &Composed, licences: &[Option<String>; 2]) -> String {
    let name_of = |path: &Path| {
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        whole
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let encoder = name_of(&request.encoder);
    let decoder = name_of(&request.decoder);
    let name = request
        .out
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let said = |licence: &Option<String>, from: &Path, part: &str| match licence {
        Some(licence) => licence.clone(),
        None if from.join("LICENSE").is_file() => format!("see LICENSE.{part}"),
        None => "not stated by its files; state it before this model is published".to_owned(),
    };
    let [of_encoder, of_decoder] = licences;
    let of_encoder = said(of_encoder, &request.encoder, "encoder");
    let of_decoder = said(of_decoder, &request.decoder, "decoder");
    let audio = &composed.config.audio;
    let text = &composed.config.text;
    let (processor, class) = composed.config.names.classes;
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"---
base_model:
- {encoder}
- {decoder}
library_name: transformers
# license: name a licence here that agrees with both licences below
---

# {name}

The audio encoder of {encoder} and the language model of {decoder}, composed in Qwen2-Audio's layout by maqam {version}. The linear layer
between them is random (seed {seed}): **the model does not understand audio before it is trained.**

| | audio encoder | language model |
|---|---|---|
| from | {encoder} | {decoder} |
| licence | {of_encoder} | {of_decoder} |
| layers | {encoder_layers} of width {d_model} | {decoder_layers} of width {hidden_size} |
| input | {mels} mel bands, 25 audio tokens a second, windows of {window} s | {vocab} rows of tokens |

Both licences apply to this model. Weights that are not of the linear layer and not the rows of `{audio}`, `{start}` and `{end}` are those of
the two models.

## Load it

With transformers:

```python
from transformers import {processor}, {class}

model = {class}.from_pretrained("{name}", dtype="auto")
processor = {processor}.from_pretrained("{name}")
```
"#,
        seed = request.seed,
        encoder_layers = audio.encoder_layers,
        d_model = audio.d_model,
        decoder_layers = text.num_hidden_layers,
        hidden_size = text.hidden_size,
        mels = audio.num_mel_bins,
        window = audio.window_frames() * HOP / SAMPLE_RATE as usize,
        vocab = text.vocab_size,
        audio = TOKENS[0],
        start = TOKENS[1],
        end = TOKENS[2],
    )
}
