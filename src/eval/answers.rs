//! Asking a model: prompts of like length together, findings in the order of the questions.

use std::sync::Arc;

use rayon::prelude::*;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::data::Message;
use crate::error::Error;
use crate::error::Result;
use crate::eval::question::Question;
use crate::eval::question::Wanted;
use crate::featurise::Loaded;
use crate::featurise::Loader;
use crate::models::AudioLlm;
use crate::models::generate::Limits;
use crate::models::generate::Sampling;
use crate::records::answers::Found;
use crate::records::answers::Likelihood;
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

/// Questions whose clips are read before they are sorted by length; bounds the memory of their
/// features.
const READ_AHEAD: usize = 256;
/// Most prompts that are answered together.
const MAX_PROMPTS: usize = 32;
/// Most tokens of prompts, or of conversations, that go through the model together.
const MAX_TOKENS: usize = 8192;

/// Takes what was found of the question at a place.
type Take<'a> = dyn FnMut(usize, Found) -> Result<()> + 'a;

impl Asker<'_> {
    /// Answers to examples, each with its limit of new tokens; `progress` is told how many are
    /// done.
    ///
    /// What is drawn for an example depends on the seed and its id, not on its neighbours.
    pub fn answers(
        &self,
        asked: &[(&Example, usize)],
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Answer>> {
        let mut answers = vec![
            Answer {
                tokens: Vec::new(),
                text: String::new()
            };
            asked.len()
        ];
        let questions: Vec<Question> = asked
            .iter()
            .map(|&(example, max_new_tokens)| Question {
                example,
                wanted: Wanted::Answer { max_new_tokens },
            })
            .collect();
        let mut done = 0;
        self.ask(
            &questions.iter().collect::<Vec<_>>(),
            &mut |place, found| {
                if let Found::Tokens(tokens) = found {
                    answers[place] = Answer {
                        text: self.loader.codec().decode(&tokens),
                        tokens,
                    };
                }
                done += 1;
                progress(done)
            },
        )?;
        Ok(answers)
    }

    /// Asks questions; `take` gets each finding with its question's place, in whatever order suits
    /// the model. An error of `take` ends it.
    pub fn ask(&self, questions: &[&Question], take: &mut Take) -> Result<()> {
        for (chunk, questions) in questions.chunks(READ_AHEAD).enumerate() {
            let heard = self.hear(questions)?;
            let mut take = |place: usize, found| take(chunk * READ_AHEAD + place, found);
            self.score(questions, &heard, &mut take)?;
            self.generate(questions, &heard, &mut take)?;
        }
        Ok(())
    }

    /// The prompt of each question; the clips of neighbouring questions about one example are read
    /// once.
    fn hear(&self, questions: &[&Question]) -> Result<Vec<Arc<Loaded>>> {
        let runs: Vec<&[&Question]> = questions
            .chunk_by(|a, b| std::ptr::eq(a.example, b.example))
            .collect();
        let key = Key::new(self.seed, "generate");
        let load = |run: &&[&Question]| {
            Ok(Arc::new(self.loader.load(
                run[0].example,
                Mode::Generate,
                key.with_name(&run[0].example.id),
            )?))
        };
        let heard = runs.par_iter().map(load).collect::<Result<Vec<_>>>()?;
        Ok(runs
            .iter()
            .zip(heard)
            .flat_map(|(run, heard)| std::iter::repeat_n(heard, run.len()))
            .collect())
    }

    /// The questions for likelihoods: endings of one prompt after it went through once, whole
    /// conversations packed.
    fn score(&self, questions: &[&Question], heard: &[Arc<Loaded>], take: &mut Take) -> Result<()> {
        let mut endings = Vec::new();
        let mut packed = Vec::new();
        for (place, question) in questions.iter().enumerate() {
            if let Wanted::Likelihoods(conversations) = &question.wanted {
                let read = |messages: &Vec<Message>| {
                    self.conversation(question.example, messages, &heard[place])
                };
                let read = conversations
                    .iter()
                    .map(read)
                    .collect::<Result<Vec<_>>>()
                    .map_err(|e| e.at(format!("row `{}`", question.example.id)))?;
                match endings_of(&heard[place].sequence, &read) {
                    Some(of_prompt) if of_prompt.len() > 1 => endings.push((place, of_prompt)),
                    _ => packed.push((place, read)),
                }
            }
        }
        self.score_endings(&endings, heard, take)?;
        self.score_packed(&packed, take)
    }

    fn score_endings(
        &self,
        asked: &[(usize, Vec<Vec<u32>>)],
        heard: &[Arc<Loaded>],
        take: &mut Take,
    ) -> Result<()> {
        let lengths: Vec<usize> = asked
            .iter()
            .map(|(place, _)| heard[*place].sequence.tokens.len())
            .collect();
        for range in micro_batches(&lengths, MAX_TOKENS) {
            for now in asked[range].chunks(MAX_PROMPTS) {
                let prompts: Vec<&Sequence> = now
                    .iter()
                    .map(|(place, _)| &heard[*place].sequence)
                    .collect();
                let prompts = Batch::pack(&prompts, self.model.config.framing())?;
                let endings: Vec<Vec<Vec<u32>>> =
                    now.iter().map(|(_, endings)| endings.clone()).collect();
                let sums = self.model.continuations(&prompts, &endings)?;
                for ((place, endings), sums) in now.iter().zip(sums) {
                    let found = endings.iter().zip(sums).map(|(ending, sum)| Likelihood {
                        sum,
                        tokens: ending.len(),
                    });
                    take(*place, Found::Likelihoods(found.collect()))?;
                }
            }
        }
        Ok(())
    }

    fn score_packed(&self, asked: &[(usize, Vec<Sequence>)], take: &mut Take) -> Result<()> {
        let sequences: Vec<&Sequence> = asked.iter().flat_map(|(_, sequences)| sequences).collect();
        let lengths: Vec<usize> = sequences
            .iter()
            .map(|sequence| sequence.tokens.len())
            .collect();
        let mut waiting = Vec::new();
        let mut next = 0;
        for range in micro_batches(&lengths, MAX_TOKENS) {
            waiting.extend(self.likelihoods(&sequences[range])?);
            while let Some((place, of_question)) = asked
                .get(next)
                .filter(|(_, of_question)| waiting.len() >= of_question.len())
            {
                take(
                    *place,
                    Found::Likelihoods(waiting.drain(..of_question.len()).collect()),
                )?;
                next += 1;
            }
        }
        Ok(())
    }

    /// A conversation over clips that were read.
    fn conversation(
        &self,
        example: &Example,
        messages: &[Message],
        heard: &Loaded,
    ) -> Result<Sequence> {
        let audio_tokens: Vec<usize> = heard
            .sequence
            .audio
            .iter()
            .map(ExactSizeIterator::len)
            .collect();
        let encoded =
            self.loader
                .codec()
                .encode_for(example, messages, &audio_tokens, Mode::Train)?;
        self.expect_room(encoded.tokens.len(), 0)?;
        let features = heard.sequence.features.clone();
        Ok(Sequence {
            tokens: encoded.tokens,
            targets: encoded.targets,
            audio: encoded.audio,
            features,
            key: heard.sequence.key,
            target_weight: 1.0,
        })
    }

    fn likelihoods(&self, sequences: &[&Sequence]) -> Result<Vec<Likelihood>> {
        let batch = Batch::pack(sequences, self.model.config.framing())?;
        let mut found = vec![
            Likelihood {
                sum: 0.0,
                tokens: 0
            };
            sequences.len()
        ];
        for (&sequence, log_probability) in batch
            .target_sequences
            .iter()
            .zip(self.model.score(&batch, 0.0)?.log_probabilities)
        {
            let of_sequence = &mut found[sequence as usize];
            (of_sequence.sum, of_sequence.tokens) =
                (of_sequence.sum + log_probability, of_sequence.tokens + 1);
        }
        Ok(found)
    }

    /// The questions for answers, sorted by limit and length.
    fn generate(
        &self,
        questions: &[&Question],
        heard: &[Arc<Loaded>],
        take: &mut Take,
    ) -> Result<()> {
        let length = |place: usize| heard[place].sequence.tokens.len();
        let mut order: Vec<(usize, usize, usize)> = Vec::new();
        for (place, question) in questions.iter().enumerate() {
            if let Wanted::Answer { max_new_tokens } = question.wanted {
                self.expect_room(length(place), max_new_tokens)
                    .map_err(|e| e.at(format!("row `{}`", question.example.id)))?;
                order.push((max_new_tokens, length(place), place));
            }
        }
        order.sort_unstable();
        for alike in order.chunk_by(|a, b| a.0 == b.0) {
            let lengths: Vec<usize> = alike.iter().map(|(_, length, _)| *length).collect();
            for range in micro_batches(&lengths, MAX_TOKENS) {
                for now in alike[range].chunks(MAX_PROMPTS) {
                    self.generate_together(now, heard, take)?;
                }
            }
        }
        Ok(())
    }

    /// Answers a batch of `(limit, length, place)` of one limit.
    fn generate_together(
        &self,
        now: &[(usize, usize, usize)],
        heard: &[Arc<Loaded>],
        take: &mut Take,
    ) -> Result<()> {
        let sequences: Vec<&Sequence> = now
            .iter()
            .map(|(_, _, place)| &heard[*place].sequence)
            .collect();
        let keys: Vec<Key> = sequences.iter().map(|sequence| sequence.key).collect();
        let prompts = Batch::pack(&sequences, self.model.config.framing())?;
        let limits = Limits {
            max_new_tokens: now[0].0,
            ends: self.loader.codec().ids_that_end(),
        };
        let said = self
            .model
            .generate(&prompts, &keys, &limits, self.sampling)?;
        for ((_, _, place), tokens) in now.iter().zip(said) {
            take(*place, Found::Tokens(tokens))?;
        }
        Ok(())
    }

    fn expect_room(&self, prompt: usize, limit: usize) -> Result<()> {
        let longest = self.model.config.text.max_position_embeddings;
        if limit <= longest.saturating_sub(prompt) {
            return Ok(());
        }
        Err(Error::input(format!("{prompt} tokens are asked and up to {limit} answered, the model's longest sequence is {longest}"))
            .hint("lower --max-new-tokens (`answer.max_new_tokens` of the task), or split the clip with `start_s` and `end_s`"))
    }
}

/// What each conversation says after a prompt, where all that counts is its end and all before that
/// is the prompt.
fn endings_of(prompt: &Sequence, conversations: &[Sequence]) -> Option<Vec<Vec<u32>>> {
    let ending = |conversation: &Sequence| {
        let start = prompt.tokens.len();
        let is_end = conversation.targets.as_slice() == [start..conversation.tokens.len()]
            && conversation.tokens[..start] == prompt.tokens;
        is_end.then(|| conversation.tokens[start..].to_vec())
    };
    conversations.iter().map(ending).collect()
}
