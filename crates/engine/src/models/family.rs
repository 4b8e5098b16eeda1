//! The families of models: which one a configuration belongs to, and why others are refused.

use std::path::Path;

use serde_json::Value;

use crate::models::config::Config;
use crate::models::qwen_omni;
use crate::models::qwen2_audio;
use crate::models::qwen3_asr;
use crate::models::speech::SECTION;
use crate::models::speech::Speech;
use crate::nn::checkpoint;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::weights::Weights;
use maqam_base::error::Error;
use maqam_base::error::Result;

impl Config {
    /// Reads `DIR/config.json` of a full or a thinker-only checkpoint.
    ///
    /// Whether the head is the embedding table is decided by the weights, where the folder has any:
    /// transformers 5 writes `tie_word_embeddings: true` into `text_config` of models with a head
    /// of their own.
    ///
    /// # Errors
    /// If a field is missing, or says something the model here does not do; the message names it.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        if !path.exists()
            && let Some(error) = checkpoint::another_folder(dir)
        {
            return Err(error);
        }
        checkpoint::check_inside(dir, &path)?;
        let root = checkpoint::read_json(&path).map_err(|e| e.or_hint("`model` is the folder of a checkpoint: config.json, tokenizer.json and safetensors"))?;
        let read = || {
            let family = Family::of(&root)?;
            refuse_quantised(&root)?;
            Ok(((family.read)(&root)?, family))
        };
        let (mut found, family) = read().map_err(|e: Error| e.at_path(&path))?;
        found.source = dir.to_owned();
        if let Some(section) = root.get(SECTION) {
            let speech = Speech::from_json(section);
            found = found.with_speech(speech.map_err(|e| e.at_path(&path))?);
        }
        if found.audio.chunks.is_some() {
            qwen3_asr::take_processor(&mut found, dir)?;
        }
        let asks = (family.asks_for_tied_head)(&root);
        // Damaged weights are refused where they are read.
        let names = found.names;
        if let Ok(checkpoint) = Checkpoint::open(dir, names.checkpoints) {
            found.text.tie_word_embeddings =
                checkpoint.is_tied(asks, names.head, &names.embeddings());
        }
        Ok(found)
    }

    /// The weights of the checkpoint in a folder, with those of a speech encoder from its own.
    ///
    /// # Errors
    /// Missing or damaged files; weights of another format.
    pub fn weights(&self, dir: &Path) -> Result<Weights> {
        self.add_speech(Weights::open(dir, self.names.checkpoints)?)
    }
}

/// Reader of a family's configuration.
struct Family {
    read: fn(&Value) -> Result<Config>,
    /// Whether a head that is stored may be the embedding table all the same.
    asks_for_tied_head: fn(&Value) -> bool,
}

impl Family {
    fn of(root: &Value) -> Result<Self> {
        match root["model_type"].as_str() {
            Some("qwen2_5_omni" | "qwen2_5_omni_thinker") => Ok(Self {
                read: qwen_omni::from_json,
                asks_for_tied_head: |root| {
                    qwen_omni::thinker_of(root)["tie_word_embeddings"] == true
                },
            }),
            Some("qwen2_audio") => Ok(Self {
                read: qwen2_audio::from_json,
                asks_for_tied_head: |root| root["tie_word_embeddings"] == true,
            }),
            Some("qwen3_asr") => Ok(Self {
                read: qwen3_asr::from_json,
                asks_for_tied_head: qwen3_asr::is_tied,
            }),
            other => {
                let found = other
                    .or_else(|| root["architectures"][0].as_str())
                    .unwrap_or("nothing");
                Err(Error::input(format!(
                    "`model_type` is {found}{}, expected qwen2_5_omni, qwen2_5_omni_thinker, qwen2_audio or qwen3_asr",
                    family(found).map_or(String::new(), |name| format!(" ({name})"))
                ))
                .hint("maqam trains Qwen2.5-Omni, Qwen2-Audio and Qwen3-ASR checkpoints; point `model` at the folder of one"))
            }
        }
    }
}

/// Refuses weights that are not stored in a floating-point type, by the method that made them.
fn refuse_quantised(root: &Value) -> Result<()> {
    let thinker = &root["thinker_config"];
    let places = [
        ("", root),
        ("thinker_config.", thinker),
        ("text_config.", &root["text_config"]),
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

/// The name of the family that a `model_type` or an architecture stands for, where it is well
/// known.
fn family(model_type: &str) -> Option<&'static str> {
    let plain: String = model_type
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    let known = [
        ("qwen3omni", "Qwen3-Omni"),
        ("qwen25omnitalker", "the talker of Qwen2.5-Omni"),
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
