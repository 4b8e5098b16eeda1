//! Asking a model: prompts of like length together, answers in the order of the questions.

use rayon::prelude::*;

use crate::batch::Batch;
use crate::error::Error;
use crate::error::Result;
use crate::load::Loader;
use crate::model::AudioLlm;
use crate::model::generate::Limits;
use crate::model::generate::Sampling;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Mode;

/// What a model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its tokens, the one that ended it included.
    pub tokens: Vec<u32>,
    /// Its text, without special tokens.
    pub text: String,
}

/// A model to ask.
pub struct Asker<'a> {
    /// The model.
    pub model: &'a AudioLlm,
    /// What reads the clips.
    pub loader: &'a Loader,
    /// How tokens are chosen.
    pub sampling: &'a Sampling,
    /// Seed of the drawing.
    pub seed: u64,
}

/// Prompts that are read before they are sorted by length; bounds the memory of their features.
const READ_AHEAD: usize = 256;
/// Most prompts that are answered together.
const MAX_PROMPTS: usize = 32;
/// Most prompt tokens that are answered together.
const MAX_TOKENS: usize = 8192;

impl Asker<'_> {
    /// Answers to examples, each with its limit of new tokens; `progress` is told how many are done.
    ///
    /// What is drawn for an example depends on the seed and its id, not on its neighbours.
    pub fn answers(&self, asked: &[(&Example, usize)], progress: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<Answer>> {
        let mut answers = vec![Answer { tokens: Vec::new(), text: String::new() }; asked.len()];
        let mut done = 0;
        for (chunk, chunk_asked) in asked.chunks(READ_AHEAD).enumerate() {
            let loaded = chunk_asked
                .par_iter()
                .map(|(example, _)| self.loader.load(example, Mode::Generate, Key::new(self.seed, "generate").with_name(&example.id)))
                .collect::<Result<Vec<_>>>()?;
            for (loaded, (example, limit)) in loaded.iter().zip(chunk_asked) {
                self.expect_room(loaded.sequence.tokens.len(), *limit).map_err(|e| e.at(format!("row `{}`", example.id)))?;
            }
            let mut order: Vec<usize> = (0..loaded.len()).collect();
            order.sort_by_key(|&i| (chunk_asked[i].1, loaded[i].sequence.tokens.len(), i));
            let mut rest = order.as_slice();
            while let Some(&first) = rest.first() {
                let limit = chunk_asked[first].1;
                let mut tokens = 0;
                let together = rest
                    .iter()
                    .take(MAX_PROMPTS)
                    .take_while(|&&i| {
                        tokens += loaded[i].sequence.tokens.len();
                        chunk_asked[i].1 == limit && tokens <= MAX_TOKENS
                    })
                    .count()
                    .max(1);
                let (now, later) = rest.split_at(together);
                rest = later;
                let sequences: Vec<_> = now.iter().map(|&i| &loaded[i].sequence).collect();
                let keys: Vec<Key> = sequences.iter().map(|sequence| sequence.key).collect();
                let prompts = Batch::pack(&sequences, self.model.config.audio.window_frames())?;
                let limits = Limits { max_new_tokens: limit, ends: self.loader.codec().ids_that_end() };
                let said = self.model.generate(&prompts, &keys, &limits, self.sampling)?;
                for (&i, tokens) in now.iter().zip(said) {
                    answers[chunk * READ_AHEAD + i] = Answer { text: self.loader.codec().decode(&tokens), tokens };
                }
                done += together;
                progress(done)?;
            }
        }
        Ok(answers)
    }

    fn expect_room(&self, prompt: usize, limit: usize) -> Result<()> {
        let longest = self.model.config.text.max_position_embeddings;
        if prompt + limit <= longest {
            return Ok(());
        }
        Err(Error::input(format!("{prompt} tokens are asked and up to {limit} answered, the model's longest sequence is {longest}"))
            .hint("lower --max-new-tokens (`answer.max_new_tokens` of the task), or split the clip with `start_s` and `end_s`"))
    }
}
