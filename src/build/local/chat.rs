//! A language model that answers a conversation.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use candle_transformers::generation::LogitsProcessor;
use candle_transformers::generation::Sampling as Choice;

use crate::build::local::config;
use crate::build::local::gguf::Gguf;
use crate::build::local::network::Network;
use crate::build::settings::local::Sampling;
use crate::data::Message;
use crate::error::Error;
use crate::error::Result;
use crate::stop::Stop;
use crate::task::ChatCodec;

/// Answer of a language model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The text.
    pub(crate) text: String,
    /// Whether it ends where the limit of tokens was reached.
    pub(crate) is_cut: bool,
}

/// A language model. Its weights are read for the first answer that is not cached.
pub(crate) struct Chat {
    path: PathBuf,
    codec: ChatCodec,
    /// Longest sequence, in tokens.
    context: usize,
    network: Mutex<Option<Network>>,
}

impl Chat {
    /// Reads config, tokenizer and template of a checkpoint's folder or of a GGUF file.
    ///
    /// # Errors
    /// A model that cannot be run here; files that cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (codec, context) = if path.is_dir() {
            let place = path.join("config.json");
            let (_, _, context) = config::language_model(config::read_object(&place)?)
                .map_err(|e| e.at_path(&place))?;
            (ChatCodec::load(path)?, context)
        } else {
            let file = Gguf::open(path)?;
            (file.codec()?, file.context()?)
        };
        Ok(Self {
            path: path.to_owned(),
            codec,
            context,
            network: Mutex::new(None),
        })
    }

    /// The fault of a conversation that is too long for the model; none if the model takes it.
    ///
    /// # Errors
    /// A chat template that fails.
    pub(crate) fn too_long(&self, messages: &[Message]) -> Result<Option<String>> {
        let num_tokens = self.codec.encode(messages)?.len();
        Ok((num_tokens >= self.context).then(|| {
            format!(
                "the prompt has {num_tokens} tokens, and the model takes {} with the answer",
                self.context
            )
        }))
    }

    /// Answers a conversation; none if the user asked to stop. `draw` seeds the draws. Equal
    /// conversations, parameters and draws give equal answers.
    ///
    /// # Errors
    /// A conversation that is [too long](Chat::too_long); weights that cannot be read.
    pub(crate) fn answer(
        &self,
        messages: &[Message],
        sampling: Sampling,
        draw: u64,
        stop: &Stop,
    ) -> Result<Option<Answer>> {
        if let Some(fault) = self.too_long(messages)? {
            return Err(Error::input(fault));
        }
        let prompt = self.codec.encode(messages)?;
        let most = sampling.max_tokens.min(self.context - prompt.len());
        let ends = self.codec.ids_that_end();
        let mut choose = LogitsProcessor::from_sampling(draw, choice(sampling));

        // One answer at a time: the memory does not grow with the number of workers.
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        let network = self.opened(&mut network)?;
        network.restart();
        let mut answer: Vec<u32> = Vec::new();
        let mut logits = self.read_prompt(network, &prompt)?;
        loop {
            if stop.is_requested() {
                return Ok(None);
            }
            let token = choose.sample(&logits).map_err(Error::from)?;
            if ends.contains(&token) {
                break;
            }
            answer.push(token);
            if answer.len() == most {
                break;
            }
            let position = prompt.len() + answer.len() - 1;
            logits = network.logits(&[token], position)?;
        }
        Ok(Some(Answer {
            is_cut: answer.len() == most,
            text: self.codec.decode(&answer),
        }))
    }

    /// Logits after a prompt.
    fn read_prompt(&self, network: &mut Network, prompt: &[u32]) -> Result<candle_core::Tensor> {
        network.logits(prompt, 0)
    }

    fn opened<'a>(&self, network: &'a mut Option<Network>) -> Result<&'a mut Network> {
        if network.is_none() {
            *network = Some(if self.path.is_dir() {
                Network::from_folder(&self.path)?
            } else {
                Network::from_gguf(&self.path)?
            });
        }
        network
            .as_mut()
            .ok_or_else(|| Error::bug("a language model that was opened"))
    }
}

/// Rule by which a token is chosen.
fn choice(sampling: Sampling) -> Choice {
    let Sampling {
        temperature,
        top_p,
        top_k,
        ..
    } = sampling;
    match top_k {
        _ if temperature == 0.0 => Choice::ArgMax,
        Some(k) if top_p < 1.0 => Choice::TopKThenTopP {
            k,
            p: top_p,
            temperature,
        },
        Some(k) => Choice::TopK { k, temperature },
        None if top_p < 1.0 => Choice::TopP {
            p: top_p,
            temperature,
        },
        None => Choice::All { temperature },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Role;
    use serde_json::Value;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/local_engines")
            .join(name)
    }

    fn expected(name: &str) -> Value {
        let text = std::fs::read_to_string(fixture("expected.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()[name].clone()
    }

    fn conversation(expected: &Value) -> Vec<Message> {
        let said = |i: usize| expected["conversation"][i]["content"].as_str().unwrap();
        vec![
            Message::new(Role::System, said(0)),
            Message::new(Role::User, said(1)),
        ]
    }

    #[test]
    fn logits_and_answers_equal_transformers() {
        for (file, name) in [
            ("qwen2", "qwen2"),
            ("qwen2.gguf", "qwen2"),
            ("qwen3", "qwen3"),
            ("qwen3.gguf", "qwen3"),
        ] {
            let expected = expected(name);
            let chat = Chat::open(&fixture(file)).unwrap();
            let messages = conversation(&expected);
            let ids: Vec<u32> = serde_json::from_value(expected["ids"].clone()).unwrap();
            assert_eq!(chat.codec.encode(&messages).unwrap(), ids, "{file}");

            let mut open = None;
            let network = chat.opened(&mut open).unwrap();
            let logits = chat.read_prompt(network, &ids).unwrap();
            let logits: Vec<f32> = logits.to_vec1().unwrap();
            let known: Vec<f32> = serde_json::from_value(expected["logits"].clone()).unwrap();
            assert_eq!(logits.len(), known.len(), "{file}");
            let farthest = logits
                .iter()
                .zip(&known)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(
                farthest < 1e-4,
                "{file}: a logit differs by {farthest} from transformers'"
            );

            // One token at a time gives the logits of the whole sequence at once.
            let further = [ids[0], ids[1], ids[ids.len() - 1], ids[ids.len() / 2]];
            let mut sequence = ids.clone();
            for token in further {
                let stepwise = network.logits(&[token], sequence.len()).unwrap();
                let stepwise: Vec<f32> = stepwise.to_vec1().unwrap();
                sequence.push(token);
                let mut fresh = None;
                let again = chat.opened(&mut fresh).unwrap();
                let whole = chat.read_prompt(again, &sequence).unwrap();
                let whole: Vec<f32> = whole.to_vec1().unwrap();
                let farthest = stepwise
                    .iter()
                    .zip(&whole)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(farthest < 1e-4, "{file}: {farthest} after {token}");
            }

            let greedy = Sampling {
                max_tokens: 12,
                ..Sampling::default()
            };
            let told = chat.answer(&messages, greedy, 0, &Stop::new()).unwrap();
            let text = expected["greedy_text"].as_str().unwrap().to_owned();
            assert_eq!(told, Some(Answer { text, is_cut: true }), "{file}");
        }
    }

    #[test]
    fn draws_follow_the_seed() {
        let messages = conversation(&expected("qwen2"));
        let chat = Chat::open(&fixture("qwen2")).unwrap();
        let sampling = Sampling {
            temperature: 2.0,
            top_p: 0.9,
            top_k: Some(50),
            max_tokens: 6,
            ..Sampling::default()
        };
        let answer = |draw| {
            chat.answer(&messages, sampling, draw, &Stop::new())
                .unwrap()
        };
        assert_eq!(answer(1), answer(1));
        assert_ne!(answer(1), answer(2));
    }

    #[test]
    fn long_conversations_and_stops_are_told() {
        let chat = Chat::open(&fixture("qwen2")).unwrap();
        let long = [Message::new(Role::User, "x ".repeat(5000))];
        let fault = chat.too_long(&long).unwrap().unwrap();
        assert!(fault.contains("the model takes 4096"), "{fault}");
        let stop = Stop::new();
        stop.request();
        let short = [Message::new(Role::User, "x")];
        assert_eq!(chat.too_long(&short).unwrap(), None);
        let told = chat.answer(&short, Sampling::default(), 0, &stop).unwrap();
        assert_eq!(told, None);
    }
}
