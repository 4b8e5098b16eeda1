//! Conversations as the token ids of one checkpoint, and ids as text.

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use crate::Message;
use crate::Role;
use crate::asr_text;
use crate::task::Example;
use crate::task::plain_codec::PlainCodec;
use crate::task::qwen3_asr;
use crate::task::special::Part;
use crate::task::special::SpecialNames;
use crate::task::template::ChatTemplate;
use crate::task::template::Piece;
use crate::task::template::read_json;
use crate::task::template::without_last_answer;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// The token that ends a turn in ChatML.
const END_OF_TURN: &str = "<|im_end|>";

/// Ids of the tokens that mean something to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Stands for one token of audio.
    pub audio: u32,
    /// Opens a clip.
    pub audio_start: u32,
    /// Closes a clip.
    pub audio_end: u32,
    /// Ends a turn.
    pub end_of_turn: u32,
}

/// What a conversation is encoded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To learn its assistant's turns.
    Train,
    /// To have the model say the assistant's next turn; a final assistant's turn is dropped.
    Generate,
}

/// A conversation as token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub tokens: Vec<u32>,
    /// What is learnt: each assistant's turn with loss, its content and the end of turn. Empty in
    /// [`Mode::Generate`].
    pub targets: Vec<Range<usize>>,
    /// The audio tokens, one run per clip.
    pub audio: Vec<Range<usize>>,
}

/// The tokenizer and chat template of a checkpoint.
pub struct TextCodec {
    plain: PlainCodec,
    template: ChatTemplate,
    special_names: SpecialNames,
    special: SpecialTokens,
    ends: Vec<u32>,
    form: Form,
}

/// Form of the conversations of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Any number of turns with texts and clips.
    Chat,
    /// Form of Qwen3-ASR: a context, a clip, and a transcript after its language.
    Transcript,
}

impl TextCodec {
    /// Reads the tokenizer, the chat template, and the ids that `config.json` and
    /// `generation_config.json` give.
    ///
    /// # Errors
    /// A missing or unreadable file, or a checkpoint without the tokens of audio and turns.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let plain = PlainCodec::load(model_dir)?;
        let special_names = plain.special_names()?;
        let config = read_json(&model_dir.join("config.json"))?.unwrap_or_default();
        let special = special_tokens(&plain, &config).map_err(|error| error.at_path(model_dir))?;
        let mut ends = vec![special.end_of_turn];
        let generation = read_json(&model_dir.join("generation_config.json"))?.unwrap_or_default();
        let thinker = config.get("thinker_config").unwrap_or(&config);
        let text = thinker.get("text_config").unwrap_or(&Value::Null);
        // transformers asks config.json only where generation_config.json says nothing.
        let said = [&generation, thinker, text, &config]
            .into_iter()
            .map(|file| token_ids(file.get("eos_token_id")))
            .find(|ids| !ids.is_empty());
        for id in said.unwrap_or_default() {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        let form = match config.get("model_type").and_then(Value::as_str) {
            Some("qwen3_asr") => Form::Transcript,
            _ => Form::Chat,
        };
        Ok(Self {
            form,
            template: ChatTemplate::load(model_dir)?,
            plain,
            special_names,
            special,
            ends,
        })
    }

    /// Checks that answers name their language, so that one can be forced.
    ///
    /// # Errors
    /// A checkpoint whose answers name no language.
    pub fn expect_languages(&self) -> Result<()> {
        match self.form {
            Form::Transcript => Ok(()),
            Form::Chat => Err(Error::input("answers of this checkpoint name no language")
                .hint("leave the language out, or take a Qwen3-ASR checkpoint")),
        }
    }

    /// Encodes the conversation of an example in the checkpoint's form.
    ///
    /// # Errors
    /// As [`TextCodec::encode`]; a task that the checkpoint cannot do.
    pub fn encode_example(
        &self,
        example: &Example,
        audio_tokens: &[usize],
        mode: Mode,
    ) -> Result<Encoded> {
        self.encode_for(example, &example.messages, audio_tokens, mode)
    }

    /// As [`TextCodec::encode_example`], of a conversation that differs from the example's in its
    /// answer.
    ///
    /// # Errors
    /// As [`TextCodec::encode_example`].
    pub fn encode_for(
        &self,
        example: &Example,
        messages: &[Message],
        audio_tokens: &[usize],
        mode: Mode,
    ) -> Result<Encoded> {
        if self.form == Form::Chat {
            return self.encode(messages, audio_tokens, mode);
        }
        let messages = qwen3_asr::conversation(example, messages)?;
        let mut encoded = self.encode(&messages, audio_tokens, mode)?;
        if mode == Mode::Generate
            && let Some(tag) = &example.forced_language
        {
            let prefix = asr_text::prefix(Some(tag));
            encoded.tokens.extend(self.plain.encode(&prefix)?);
        }
        Ok(encoded)
    }

    /// Encodes a conversation with clips of `audio_tokens` tokens each.
    ///
    /// Whatever lies between two special tokens of the template is tokenised as one text, except
    /// that a learnt turn starts a text of its own: prompt and target never share a token. Special
    /// tokens inside data are plain text. In [`Mode::Train`] what the template writes after a final
    /// assistant's end of turn is left out, since nothing is predicted from it.
    ///
    /// # Errors
    /// Marks and clips that differ in number, a clip without tokens, nothing to learn in
    /// [`Mode::Train`], or a template that does not say each text once, unchanged and in order.
    pub fn encode(
        &self,
        messages: &[Message],
        audio_tokens: &[usize],
        mode: Mode,
    ) -> Result<Encoded> {
        let messages = match mode {
            Mode::Train => messages,
            Mode::Generate => without_last_answer(messages),
        };
        if messages.is_empty() {
            return Err(Error::input("the conversation has nothing to answer")
                .hint("it needs a user's message"));
        }
        if self.form != Form::Chat {
            qwen3_asr::check(messages)?;
        }
        let num_marks: usize = messages.iter().map(Message::num_audio_marks).sum();
        if num_marks != audio_tokens.len() {
            return Err(Error::input(format!(
                "the conversation has {num_marks} `<audio>` marks and {} clips",
                audio_tokens.len()
            )));
        }
        if let Some(clip) = audio_tokens.iter().position(|&tokens| tokens == 0) {
            return Err(Error::input(format!(
                "clip {} is too short to give one audio token",
                clip + 1
            )));
        }
        let pieces = self.template.render(messages, mode == Mode::Generate)?;
        let mut sequence = Sequence {
            codec: self,
            encoded: Encoded::default(),
            run: String::new(),
            audio_tokens,
        };
        let mut open_target = None;
        for piece in &pieces {
            match piece {
                Piece::Template(text) => {
                    let mut text = text.as_str();
                    if let Some(start) = open_target.take() {
                        text = text
                            .strip_prefix(END_OF_TURN)
                            .ok_or_else(|| self.unended())?;
                        sequence.encoded.tokens.push(self.special.end_of_turn);
                        sequence
                            .encoded
                            .targets
                            .push(start..sequence.encoded.tokens.len());
                    }
                    sequence.add_template(text)?;
                }
                Piece::Data { message, text }
                    if messages[*message].role == Role::Assistant && messages[*message].loss =>
                {
                    sequence.flush()?;
                    let start = sequence.encoded.tokens.len();
                    sequence.run.push_str(text);
                    sequence.flush()?;
                    open_target = (mode == Mode::Train).then_some(start);
                }
                Piece::Data { text, .. } => sequence.run.push_str(text),
            }
        }
        if open_target.is_some() {
            return Err(self.unended());
        }
        let ends_with_answer = messages
            .last()
            .is_some_and(|last| last.role == Role::Assistant);
        if !(mode == Mode::Train && ends_with_answer && sequence.run.trim().is_empty()) {
            sequence.flush()?;
        }
        let encoded = sequence.encoded;
        if encoded.audio.len() != audio_tokens.len() {
            let found = format!(
                "the template writes {} audio tokens for {} clips",
                encoded.audio.len(),
                audio_tokens.len()
            );
            return Err(Error::input(found)
                .at(self.template.place())
                .hint("it must write one for each part of `type: audio`"));
        }
        if mode == Mode::Train && encoded.targets.is_empty() {
            return Err(Error::input("the conversation has nothing to learn")
                .hint("it needs an assistant's message whose `loss` is not false"));
        }
        Ok(encoded)
    }

    /// The text of some ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.plain.decode(ids)
    }

    /// Ids of the tokens that mean something to the model.
    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    /// The tokens after which nothing more is generated: the end of turn, and the checkpoint's own
    /// end tokens.
    pub fn ids_that_end(&self) -> Vec<u32> {
        self.ends.clone()
    }

    fn unended(&self) -> Error {
        let found = format!(
            "the template does not write `{END_OF_TURN}` right after the assistant's words"
        );
        Error::input(found)
            .at(self.template.place())
            .hint("checkpoints that end turns another way are not supported")
    }
}

/// Ids so far, and the plain text that is still to be tokenised as one.
struct Sequence<'a> {
    codec: &'a TextCodec,
    encoded: Encoded,
    run: String,
    audio_tokens: &'a [usize],
}

impl Sequence<'_> {
    /// Adds the template's words, whose special tokens are special.
    fn add_template(&mut self, text: &str) -> Result<()> {
        for part in self.codec.special_names.split(text) {
            match part {
                Part::Plain(text) => self.run.push_str(text),
                Part::Special(id) => {
                    self.flush()?;
                    let repeats = if id == self.codec.special.audio {
                        self.next_clip()
                    } else {
                        1
                    };
                    self.encoded.tokens.extend(std::iter::repeat_n(id, repeats));
                }
            }
        }
        Ok(())
    }

    /// Notes the run of the next clip and gives its length.
    fn next_clip(&mut self) -> usize {
        let start = self.encoded.tokens.len();
        let clip = self.encoded.audio.len();
        let num_tokens = self.audio_tokens.get(clip).copied().unwrap_or(0);
        self.encoded.audio.push(start..start + num_tokens);
        num_tokens
    }

    fn flush(&mut self) -> Result<()> {
        if !self.run.is_empty() {
            self.encoded
                .tokens
                .extend(self.codec.plain.encode(&self.run)?);
            self.run.clear();
        }
        Ok(())
    }
}

/// The special ids, from `config.json` where it says them and by their names in the vocabulary
/// otherwise.
fn special_tokens(plain: &PlainCodec, config: &Value) -> Result<SpecialTokens> {
    let thinker = config.get("thinker_config").unwrap_or(config);
    let find = |keys, names| special_token(plain, thinker, keys, names);
    Ok(SpecialTokens {
        audio: find(
            ["audio_token_index", "audio_token_id"],
            ["<|AUDIO|>", "<|audio_pad|>"],
        )?,
        audio_start: find(
            ["audio_start_token_id", "audio_bos_token_id"],
            ["<|audio_bos|>", "<|audio_start|>"],
        )?,
        audio_end: find(
            ["audio_end_token_id", "audio_eos_token_id"],
            ["<|audio_eos|>", "<|audio_end|>"],
        )?,
        end_of_turn: plain
            .id_of(END_OF_TURN)
            .ok_or_else(|| Error::input(format!("tokenizer.json has no token `{END_OF_TURN}`")))?,
    })
}

/// The id of a special token: the first of `keys` that the configuration has, else the first of
/// `names` in the vocabulary.
fn special_token(
    plain: &PlainCodec,
    config: &Value,
    keys: [&str; 2],
    names: [&str; 2],
) -> Result<u32> {
    let configured = keys.iter().find_map(|key| config.get(key)?.as_u64());
    let named = || names.iter().find_map(|name| plain.id_of(name));
    let Some(id) = configured.map(|id| id as u32).or_else(named) else {
        return Err(Error::input(format!(
            "neither config.json nor tokenizer.json has the token `{}` ({})",
            names[0], keys[0]
        )));
    };
    if !plain.has_id(id) {
        return Err(Error::input(format!(
            "config.json sets `{}` to {id}, which tokenizer.json does not have",
            keys[0]
        )));
    }
    Ok(id)
}

/// One id, a list of them, or none.
fn token_ids(value: Option<&Value>) -> Vec<u32> {
    match value {
        Some(Value::Array(ids)) => ids
            .iter()
            .filter_map(Value::as_u64)
            .map(|id| id as u32)
            .collect(),
        Some(id) => id.as_u64().map(|id| id as u32).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
