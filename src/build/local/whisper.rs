//! Whisper: transcripts of stretches of speech, and how likely it holds a text for one.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use candle_core::D;
use candle_core::Device;
use candle_core::IndexOp;
use candle_core::Tensor;
use candle_nn::ops::log_softmax;
use candle_transformers::models::whisper::Config;
use candle_transformers::models::whisper::model::AudioEncoder;
use candle_transformers::models::whisper::model::Whisper as Checkpoint;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::audio::ClipEnd;
use crate::audio::HOP;
use crate::audio::LogMelExtractor;
use crate::audio::MelForm;
use crate::build::local::config;
use crate::build::local::network;
use crate::build::local::whisper_decoder::Decoder;
use crate::error::Error;
use crate::error::Result;
use crate::stop::Stop;
use crate::task::PlainCodec;

/// Numbers of mel bands that Whisper's checkpoints have.
const MELS: [usize; 2] = [80, 128];

/// Size of the vocabulary of checkpoints that know English alone. They have tokens of other
/// languages without using them.
const ENGLISH_VOCABULARY: usize = 51_864;

/// Fewest repetitions of a phrase and fewest tokens of a loop that ends a transcript.
const LOOP_TIMES: usize = 8;
const LOOP_TOKENS: usize = 48;

/// Ids of the tokens around a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    start: u32,
    transcribe: Option<u32>,
    without_times: Option<u32>,
    end: u32,
}

/// Encoder of candle-transformers, and a decoder with a cache.
struct Network {
    encoder: AudioEncoder,
    decoder: Decoder,
}

/// A Whisper checkpoint. Its weights are read for the first stretch that is not cached.
pub(crate) struct Whisper {
    dir: PathBuf,
    config: Value,
    codec: PlainCodec,
    extractor: LogMelExtractor,
    mels: usize,
    /// Frames of the longest stretch.
    frames: usize,
    /// Longest sequence of the decoder, in tokens.
    context: usize,
    marks: Marks,
    is_multilingual: bool,
    /// Tokens that are never chosen, and those that are not chosen first.
    suppressed: [Vec<u32>; 2],
    network: Mutex<Option<Network>>,
}

impl Whisper {
    /// Reads config and tokenizer of a checkpoint's folder.
    ///
    /// # Errors
    /// A model that is no Whisper, or that candle-transformers cannot run; files that cannot be
    /// read.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let written = config::read_object(&path)?;
        let whole = |key: &str| {
            let found = written.get(key).and_then(Value::as_u64);
            found
                .map(|number| number as usize)
                .ok_or_else(|| Error::input(format!("`{key}` is missing")).at_path(&path))
        };
        check(&written).map_err(|e| e.at_path(&path))?;
        let generation = match dir.join("generation_config.json") {
            place if place.is_file() => config::read_object(&place)?,
            _ => Map::new(),
        };
        let suppressed = ["suppress_tokens", "begin_suppress_tokens"]
            .map(|key| token_ids(&generation, &written, key));
        let codec = PlainCodec::load(dir)?;
        let needed = |token: &str| {
            codec.id_of(token).ok_or_else(|| {
                Error::input(format!("the tokenizer has no token `{token}`")).at_path(dir)
            })
        };
        let marks = Marks {
            start: needed("<|startoftranscript|>")?,
            transcribe: codec.id_of("<|transcribe|>"),
            without_times: codec.id_of("<|notimestamps|>"),
            end: needed("<|endoftext|>")?,
        };
        let is_multilingual = generation
            .get("is_multilingual")
            .and_then(Value::as_bool)
            .unwrap_or(whole("vocab_size")? != ENGLISH_VOCABULARY);
        let mels = whole("num_mel_bins")?;
        let frames = 2 * whole("max_source_positions")?;
        Ok(Self {
            dir: dir.to_owned(),
            extractor: LogMelExtractor::new(MelForm {
                mels,
                end: ClipEnd::Window(frames),
            }),
            context: whole("max_target_positions")?,
            // candle-transformers reads its own list of suppressed tokens nowhere.
            config: json!({
                "num_mel_bins": mels,
                "max_source_positions": whole("max_source_positions")?,
                "d_model": whole("d_model")?,
                "encoder_attention_heads": whole("encoder_attention_heads")?,
                "encoder_layers": whole("encoder_layers")?,
                "decoder_attention_heads": whole("decoder_attention_heads")?,
                "decoder_layers": whole("decoder_layers")?,
                "vocab_size": whole("vocab_size")?,
                "max_target_positions": whole("max_target_positions")?,
                "suppress_tokens": [],
            }),
            mels,
            frames,
            codec,
            marks,
            is_multilingual,
            suppressed,
            network: Mutex::new(None),
        })
    }

    /// Samples of the longest stretch: 30 s in every released checkpoint.
    pub(crate) fn window(&self) -> usize {
        self.frames * HOP
    }

    /// Transcript of a stretch in a language; none if the user asked to stop. The likeliest token
    /// is taken each time.
    ///
    /// # Shapes
    /// `samples`: at most [`Whisper::window`], mono, at 16 kHz
    ///
    /// # Errors
    /// A language that the checkpoint does not know; weights that cannot be read.
    pub(crate) fn transcribe(
        &self,
        samples: &[f32],
        language: &str,
        stop: &Stop,
    ) -> Result<Option<String>> {
        let prompt = self.prompt(language)?;
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.is_requested() {
            return Ok(None);
        }
        let network = self.opened(&mut network)?;
        encode(network, &self.log_mel(samples)?)?;
        let chosen = self.choose(network, &prompt, stop)?;
        Ok(chosen.map(|ids| self.codec.decode(&ids).trim().to_owned()))
    }

    /// Log-likelihood per token of each text as the transcript of a stretch; none if the user asked
    /// to stop.
    ///
    /// # Errors
    /// As [`Whisper::transcribe`].
    pub(crate) fn likelihoods(
        &self,
        samples: &[f32],
        language: &str,
        texts: &[String],
        stop: &Stop,
    ) -> Result<Option<Vec<f64>>> {
        let prompt = self.prompt(language)?;
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.is_requested() {
            return Ok(None);
        }
        let network = self.opened(&mut network)?;
        encode(network, &self.log_mel(samples)?)?;
        let mut means = Vec::with_capacity(texts.len());
        for text in texts {
            if stop.is_requested() {
                return Ok(None);
            }
            // Whisper's transcripts begin with a space.
            let mut said = self.codec.encode(&format!(" {}", text.trim()))?;
            said.truncate(self.context - prompt.len() - 1);
            said.push(self.marks.end);
            let mut ids = prompt.clone();
            ids.extend(&said[..said.len() - 1]);
            network.decoder.restart();
            let logits = network.decoder.logits(&ids, prompt.len() - 1)?;
            let known = log_softmax(&logits, D::Minus1)?;
            let targets = Tensor::new(said.as_slice(), &Device::Cpu)?.unsqueeze(1)?;
            let sum = known.gather(&targets, 1)?.sum_all()?.to_scalar::<f32>()?;
            means.push(f64::from(sum) / said.len() as f64);
        }
        Ok(Some(means))
    }

    /// Tokens before a transcript. The language is set, not guessed. A checkpoint that knows
    /// English alone is given neither language nor task.
    fn prompt(&self, language: &str) -> Result<Vec<u32>> {
        let primary = language.split('-').next().unwrap_or_default();
        let mut ids = vec![self.marks.start];
        let token = match self.is_multilingual {
            true => self.codec.id_of(&format!("<|{primary}|>")),
            false => None,
        };
        if let Some(token) = token {
            ids.push(token);
            ids.extend(self.marks.transcribe);
        } else if self.is_multilingual || primary != "en" {
            return Err(Error::input(format!("the model does not know `{primary}`"))
                .at_path(&self.dir)
                .hint("take a multilingual checkpoint, such as openai/whisper-small"));
        }
        ids.extend(self.marks.without_times);
        Ok(ids)
    }

    /// # Shapes
    /// -> `[1, mels, frames]`
    fn log_mel(&self, samples: &[f32]) -> Result<Tensor> {
        let mut padded = samples[..samples.len().min(self.window())].to_vec();
        padded.resize(self.window(), 0.0);
        let found = self.extractor.extract(&padded);
        let mel = Tensor::from_vec(found.values, (1, self.frames, self.mels), &Device::Cpu)?;
        Ok(mel.transpose(1, 2)?.contiguous()?)
    }

    /// The likeliest tokens after a prompt, up to the end of the transcript or of the decoder's
    /// positions; none if the user asked to stop.
    fn choose(
        &self,
        network: &mut Network,
        prompt: &[u32],
        stop: &Stop,
    ) -> Result<Option<Vec<u32>>> {
        network.decoder.restart();
        let mut ids = prompt.to_vec();
        let mut num_read = 0;
        while ids.len() < self.context {
            if stop.is_requested() {
                return Ok(None);
            }
            let unread = &ids[num_read..];
            let logits = network.decoder.logits(unread, unread.len() - 1)?;
            num_read = ids.len();
            let mut logits: Vec<f32> = logits.i(0)?.to_vec1()?;
            let [always, first] = &self.suppressed;
            let is_first = ids.len() == prompt.len();
            for id in always.iter().chain(first.iter().filter(|_| is_first)) {
                if let Some(logit) = logits.get_mut(*id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            let best = (0..logits.len())
                .max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)))
                .unwrap_or_default() as u32;
            if best == self.marks.end {
                break;
            }
            ids.push(best);
            if is_looping(&ids[prompt.len()..]) {
                break;
            }
        }
        Ok(Some(ids.split_off(prompt.len())))
    }

    fn opened<'a>(&self, network: &'a mut Option<Network>) -> Result<&'a mut Network> {
        if network.is_none() {
            let path = self.dir.join("config.json");
            let config: Config = network::read(self.config.clone(), &path)?;
            let weights = network::weights(&self.dir)?;
            let failed = |e: candle_core::Error| Error::from(e).in_input().at_path(&self.dir);
            let encoder = Checkpoint::load(&weights, config.clone())
                .map_err(failed)?
                .encoder;
            let decoder = Decoder::load(&weights, &config).map_err(failed)?;
            *network = Some(Network { encoder, decoder });
        }
        network
            .as_mut()
            .ok_or_else(|| Error::bug("a Whisper that was opened"))
    }
}

/// Encodes a recording for the decoder.
///
/// # Shapes
/// `[1, mels, frames]`
fn encode(network: &mut Network, mel: &Tensor) -> Result<()> {
    let states = network.encoder.forward(mel, true)?;
    Ok(network.decoder.begin(&states)?)
}

/// Returns whether the last tokens are one phrase over and over. A greedy transcript seldom leaves
/// such a loop, and would repeat the phrase up to the decoder's last position.
fn is_looping(ids: &[u32]) -> bool {
    (1..=ids.len() / LOOP_TIMES).any(|phrase| {
        let len = (LOOP_TIMES * phrase).max(LOOP_TOKENS);
        let Some(start) = ids.len().checked_sub(len) else {
            return false;
        };
        let tail = &ids[start..];
        tail[phrase..] == tail[..len - phrase]
    })
}

/// Checks that candle-transformers computes the model.
fn check(config: &Map<String, Value>) -> Result<()> {
    let of = |key: &str| config.get(key).cloned().unwrap_or_default();
    if of("model_type") != "whisper" {
        return Err(Error::input("the checkpoint is no Whisper")
            .hint("give the folder of a Whisper checkpoint, or openai/whisper-small"));
    }
    let mels = of("num_mel_bins").as_u64().unwrap_or_default() as usize;
    let is_wide = |key: &str| of(key).as_u64() == of("d_model").as_u64().map(|width| 4 * width);
    for (is_right, what) in [
        (MELS.contains(&mels), "`num_mel_bins` is not 80 or 128"),
        (
            is_wide("encoder_ffn_dim") && is_wide("decoder_ffn_dim"),
            "an inner width is not four times `d_model`",
        ),
        (
            of("activation_function") == "gelu",
            "`activation_function` is not gelu",
        ),
        (of("scale_embedding") != true, "`scale_embedding` is true"),
    ] {
        if !is_right {
            return Err(Error::input(what).hint("take a Whisper checkpoint as OpenAI released it"));
        }
    }
    Ok(())
}

/// A list of ids; `config.json` counts only if `generation_config.json` has none.
fn token_ids(generation: &Map<String, Value>, config: &Map<String, Value>, key: &str) -> Vec<u32> {
    let list = [generation, config]
        .into_iter()
        .find_map(|file| file.get(key)?.as_array());
    list.into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .map(|id| id as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/local_engines")
    }

    fn opened() -> Whisper {
        Whisper::open(&folder().join("whisper")).unwrap()
    }

    fn expected() -> Value {
        let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["whisper"].clone()
    }

    /// The log-mel of the reference script.
    fn mel(whisper: &Whisper) -> Tensor {
        let values: Vec<f32> = (0..whisper.mels)
            .flat_map(|i| (0..whisper.frames).map(move |j| (i, j)))
            .map(|(i, j)| (((i * 7 + j * 13) % 29) as f32 - 14.0) / 16.0)
            .collect();
        Tensor::from_vec(values, (1, whisper.mels, whisper.frames), &Device::Cpu).unwrap()
    }

    #[test]
    fn logits_and_transcripts_equal_transformers() {
        let whisper = opened();
        let expected = expected();
        let mut open = None;
        let network = whisper.opened(&mut open).unwrap();
        encode(network, &mel(&whisper)).unwrap();
        let ids: Vec<u32> = serde_json::from_value(expected["prompt"].clone()).unwrap();
        let logits = network.decoder.logits(&ids, 0).unwrap();
        let logits: Vec<Vec<f32>> = logits.to_vec2().unwrap();
        // A text in parts has the same logits.
        network.decoder.restart();
        for (start, end) in [(0, 3), (3, 4), (4, ids.len())] {
            let part = network.decoder.logits(&ids[start..end], 0).unwrap();
            let part: Vec<Vec<f32>> = part.to_vec2().unwrap();
            for (whole, part) in logits[start..end].iter().zip(part) {
                let farthest = whole.iter().zip(&part).map(|(a, b)| (a - b).abs());
                assert!(farthest.fold(0.0, f32::max) < 1e-4, "{start} to {end}");
            }
        }
        let positions: Vec<usize> = serde_json::from_value(expected["positions"].clone()).unwrap();
        // candle-transformers approximates GELU by tanh, so it is that close to transformers with
        // the same approximation, and farther from transformers as it is.
        for (name, most) in [("logits_tanh", 1e-4), ("logits", 2e-3)] {
            let known: Vec<Vec<f32>> = serde_json::from_value(expected[name].clone()).unwrap();
            for (position, known) in positions.iter().zip(known) {
                assert_eq!(logits[*position].len(), known.len());
                let farthest = logits[*position]
                    .iter()
                    .zip(&known)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(farthest < most, "{name} at {position}: {farthest}");
            }
        }
        let greedy: Vec<u32> = serde_json::from_value(expected["greedy"].clone()).unwrap();
        let chosen = whisper
            .choose(network, &ids[..4], &Stop::new())
            .unwrap()
            .unwrap();
        assert_eq!(chosen[..greedy.len()], greedy);
        assert_eq!(whisper.prompt("ar-EG").unwrap(), ids[..4]);
    }

    #[test]
    fn likelihoods_equal_the_logits() {
        let whisper = opened();
        let samples: Vec<f32> = (0..16_000)
            .map(|i| (f64::from(i) * 0.05).sin() as f32 * 0.3)
            .collect();
        let texts = ["قال".to_owned(), "الوزير إن".to_owned()];
        let found = whisper
            .likelihoods(&samples, "ar", &texts, &Stop::new())
            .unwrap()
            .unwrap();
        let mut open = None;
        let network = whisper.opened(&mut open).unwrap();
        encode(network, &whisper.log_mel(&samples).unwrap()).unwrap();
        for (text, found) in texts.iter().zip(found) {
            let prompt = whisper.prompt("ar").unwrap();
            let mut said = whisper.codec.encode(&format!(" {text}")).unwrap();
            said.push(whisper.marks.end);
            let mut sum = 0.0;
            for i in 0..said.len() {
                let ids = [&prompt[..], &said[..i]].concat();
                network.decoder.restart();
                let logits = network.decoder.logits(&ids, ids.len() - 1).unwrap();
                let logits: Vec<f32> = logits.i(0).unwrap().to_vec1().unwrap();
                let largest = logits.iter().copied().fold(f32::MIN, f32::max);
                let total: f32 = logits.iter().map(|x| (x - largest).exp()).sum();
                sum += f64::from(logits[said[i] as usize] - largest - total.ln());
            }
            let mean = sum / said.len() as f64;
            assert!((mean - found).abs() < 1e-4, "{mean} {found}");
        }
    }

    #[test]
    fn english_checkpoints_get_no_language() {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(folder().join("whisper")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let place = dir.path().join("generation_config.json");
        let mut generation: Value =
            serde_json::from_str(&std::fs::read_to_string(&place).unwrap()).unwrap();
        generation["is_multilingual"] = json!(false);
        std::fs::write(&place, generation.to_string()).unwrap();

        let multilingual = opened();
        let english = Whisper::open(dir.path()).unwrap();
        let marks = english.marks;
        // Its vocabulary has the token of the language too.
        let language = multilingual.prompt("en").unwrap()[1];
        assert_eq!(english.codec.id_of("<|en|>"), Some(language));
        let expected: Vec<u32> = [marks.start]
            .into_iter()
            .chain(marks.without_times)
            .collect();
        assert_eq!(english.prompt("en-GB").unwrap(), expected);
        let error = english.prompt("ar").unwrap_err().to_string();
        assert!(error.contains("does not know `ar`"), "{error}");
    }

    #[test]
    fn a_stop_ends_a_transcript() {
        let whisper = opened();
        let stop = Stop::new();
        stop.request();
        assert_eq!(whisper.transcribe(&[0.0; 1600], "ar", &stop).unwrap(), None);
        let texts = ["قال".to_owned()];
        let found = whisper.likelihoods(&[0.0; 1600], "ar", &texts, &stop);
        assert_eq!(found.unwrap(), None);
    }

    #[test]
    fn loops_end_a_transcript() {
        let phrase: Vec<u32> = (0..10).collect();
        let before = [70, 71, 72];
        assert!(is_looping(&[&before[..], &phrase.repeat(8)].concat()));
        assert!(!is_looping(&[&before[..], &phrase.repeat(7)].concat()));
        assert!(!is_looping(&[&phrase.repeat(8)[..], &before].concat()));
        assert!(is_looping(&[5; LOOP_TOKENS]));
        assert!(!is_looping(&[5; LOOP_TOKENS - 1]));
        assert!(!is_looping(&[]));
    }

    #[test]
    fn unknown_languages_and_models_are_refused() {
        let whisper = opened();
        let go = Stop::new();
        let error = whisper.transcribe(&[0.0; 1600], "sw", &go).unwrap_err();
        assert!(error.to_string().contains("does not know `sw`"), "{error}");
        let error = Whisper::open(&folder().join("qwen2"))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("is no Whisper"), "{error}");
    }
}
