//! Generation: one token after the other for a batch of prompts of any lengths, over caches of keys
//! and values.

mod continuations;

use rayon::prelude::*;
use serde::Deserialize;
use serde::Serialize;

use crate::batch::Batch;
use crate::models::AudioLlm;
use crate::models::Pass;
use crate::models::audio_llm::packing;
use crate::nn::cache::Cache;
use crate::ops::device::to_host;
use crate::ops::rotary::Rotary;
use crate::ops::rows::gather;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// `generation:` of a suite: how the next token is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// `greedy` takes the likeliest token, `sample` draws one.
    pub strategy: Strategy,
    /// Divides the logits before drawing.
    pub temperature: f64,
    /// Draws among the likeliest `top_k` tokens; 0 for all.
    pub top_k: usize,
    /// Draws among the likeliest tokens that together have at least this probability.
    pub top_p: f64,
    /// Divides positive and multiplies negative logits of tokens seen before (Keskar et al. 2019).
    pub repetition_penalty: f64,
}

/// Rule by which a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The likeliest.
    Greedy,
    /// Drawn.
    Sample,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            strategy: Strategy::Greedy,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
        }
    }
}

impl Sampling {
    /// Checks the settings; the message names the key.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, value: f64, expected: &str| {
            Err(Error::input(format!(
                "`{key}` is {value}, expected {expected}"
            )))
        };
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong(
                "temperature",
                self.temperature,
                "a number above 0 (without one the likeliest token is taken)",
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top_p", self.top_p, "a share in (0, 1]");
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return wrong(
                "repetition_penalty",
                self.repetition_penalty,
                "a number above 0 (1 for none)",
            );
        }
        Ok(())
    }

    /// The next token after `logits`; `seen` are the tokens so far, `draw` is uniform in `[0, 1)`.
    pub fn choose(&self, logits: &[f32], seen: &[u32], draw: f64) -> u32 {
        let mut logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();

        if self.repetition_penalty != 1.0 {
            let mut seen = seen.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = if *logit > 0.0 {
                        *logit / self.repetition_penalty
                    } else {
                        *logit * self.repetition_penalty
                    };
                }
            }
        }

        if self.strategy == Strategy::Greedy {
            return likeliest(&logits);
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| {
            logits[b as usize]
                .total_cmp(&logits[a as usize])
                .then(a.cmp(&b))
        });
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let top = logits[order[0] as usize];
        let mut weights: Vec<f64> = order
            .iter()
            .map(|&id| ((logits[id as usize] - top) / self.temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let kept = weights.iter().position(|weight| {
            reached += weight / total;
            reached >= self.top_p
        });
        weights.truncate(kept.map_or(weights.len(), |last| last + 1));
        let mut left = draw * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        order[drawn.unwrap_or(weights.len() - 1)]
    }
}

fn likeliest(logits: &[f64]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f64::NEG_INFINITY), |best, (id, &logit)| {
            if logit > best.1 { (id, logit) } else { best }
        });
    best.0 as u32
}

/// When generation of an answer ends.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most tokens of an answer, the end token included.
    pub max_new_tokens: usize,
    /// Tokens that end it; the one that does is part of the answer.
    pub ends: Vec<u32>,
}

/// Answers on their way, and what every layer has cached of them.
struct Answers {
    caches: Vec<Cache>,
    all: Vec<Answer>,
}

struct Answer {
    /// Tokens of the prompt and of the response so far.
    seen: Vec<u32>,
    /// Tokens of the prompt.
    prompt: usize,
    key: Key,
}

impl Answer {
    /// The next token, by its logits.
    fn next(&self, logits: &[f32], sampling: &Sampling) -> u32 {
        let position = (self.seen.len() - self.prompt) as u64;
        sampling.choose(logits, &self.seen, self.key.uniform(position))
    }
}

impl AudioLlm {
    /// Keeps the frozen matrices of the decoder and the head once more in bf16, where that changes
    /// no value. A step of generation then reads half the bytes and gives the same bits. Takes half
    /// of their memory in `f32` once more. Does nothing on a GPU.
    pub fn add_halves(&mut self) -> Result<()> {
        for linear in self.decoder.linears_mut() {
            linear.weight.add_half()?;
        }
        Ok(self.head.add_half()?)
    }

    /// Bytes that [`AudioLlm::add_halves`] takes at most.
    pub fn bytes_of_halves(&self) -> usize {
        let layers = &self.decoder.layers;
        let linears = layers
            .iter()
            .flat_map(|layer| [&layer.qkv, &layer.output, &layer.gate_up, &layer.down]);
        let weights = linears.map(|linear| &linear.weight).chain([&self.head]);
        weights.map(|weight| 2 * weight.value.elem_count()).sum()
    }

    /// Answers to the prompts of a packed batch, in their order; `keys` give each its stream of
    /// random numbers.
    ///
    /// # Errors
    /// A prompt that with `max_new_tokens` is longer than the model's longest sequence.
    pub fn generate(
        &self,
        prompts: &Batch,
        keys: &[Key],
        limits: &Limits,
        sampling: &Sampling,
    ) -> Result<Vec<Vec<u32>>> {
        let mut answers = self.begin(prompts, keys, limits.max_new_tokens)?;
        if limits.max_new_tokens == 0 {
            return Ok(vec![Vec::new(); answers.all.len()]);
        }
        let x = self.prefill(prompts, &mut answers)?;
        let mut active: Vec<usize> = (0..answers.all.len()).collect();
        self.append_next(&x, &mut answers, &active, sampling)?;

        loop {
            active.retain(|&i| {
                let answer = &answers.all[i];
                let is_full = answer.seen.len() - answer.prompt >= limits.max_new_tokens;
                !is_full
                    && !answer
                        .seen
                        .last()
                        .is_some_and(|last| limits.ends.contains(last))
            });
            if active.is_empty() {
                return Ok(answers
                    .all
                    .into_iter()
                    .map(|answer| answer.seen[answer.prompt..].to_vec())
                    .collect());
            }
            let x = self.step(&mut answers, &active)?;
            self.append_next(&x, &mut answers, &active, sampling)?;
        }
    }

    /// Empty caches for each prompt and `max_new_tokens` after it.
    fn begin(&self, prompts: &Batch, keys: &[Key], max_new_tokens: usize) -> Result<Answers> {
        let longest = self.config.text.max_position_embeddings;
        let mut all = Vec::with_capacity(keys.len());
        for (pair, key) in prompts.cu_seqlens.windows(2).zip(keys) {
            let prompt = pair[1] - pair[0];
            if max_new_tokens > longest.saturating_sub(prompt) {
                return Err(Error::input(format!(
                    "a prompt of {prompt} tokens and {max_new_tokens} new ones are longer than the model's {longest}"
                )));
            }
            all.push(Answer {
                seen: prompts.tokens[pair[0]..pair[1]].to_vec(),
                prompt,
                key: *key,
            });
        }
        let capacities: Vec<usize> = all
            .iter()
            .map(|answer| answer.prompt + max_new_tokens)
            .collect();
        let caches = self
            .decoder
            .layers
            .iter()
            .map(|layer| Cache::new(&capacities, layer.heads, &self.embeddings.value));
        Ok(Answers {
            caches: caches.collect::<candle_core::Result<_>>()?,
            all,
        })
    }

    /// Runs the prompts through all layers; fills the caches; returns the last token's state of
    /// each, `[sequences, dim]`.
    fn prefill(&self, prompts: &Batch, answers: &mut Answers) -> Result<candle_core::Tensor> {
        let rotary = self.rotary(prompts)?;
        let packing = packing(prompts, &rotary, Pass::default());
        let (x, _) = self.embed(prompts, None, Pass::default(), false)?;
        let lens: Vec<usize> = answers.all.iter().map(|answer| answer.prompt).collect();
        let keep = prompts.last_rows();
        let caches = &mut answers.caches;
        Ok(self.decoder.prefill(x, &packing, &keep, caches, &lens)?)
    }

    /// Runs the newest token of each active answer through all layers, `[active, dim]`.
    fn step(&self, answers: &mut Answers, active: &[usize]) -> Result<candle_core::Tensor> {
        let newest: Vec<u32> = active
            .iter()
            .filter_map(|&i| answers.all[i].seen.last().copied())
            .collect();
        let positions: Vec<u32> = active
            .iter()
            .map(|&i| answers.all[i].seen.len() as u32 - 1)
            .collect();
        let text = &self.config.text;
        let rotary = Rotary::new(
            &positions,
            text.head_dim,
            text.rope_theta,
            &self.embeddings.value,
        )?;
        let x = gather(&self.embeddings.value, &newest)?;
        Ok(self.decoder.step(x, &rotary, &mut answers.caches, active)?)
    }

    fn append_next(
        &self,
        x: &candle_core::Tensor,
        answers: &mut Answers,
        active: &[usize],
        sampling: &Sampling,
    ) -> Result<()> {
        let logits = self.rows_of_logits(x)?;
        let chosen: Vec<u32> = logits
            .par_chunks_exact(self.config.text.vocab_size)
            .zip(active)
            .map(|(logits, &i)| answers.all[i].next(logits, sampling))
            .collect();
        for (&i, next) in active.iter().zip(chosen) {
            answers.all[i].seen.push(next);
        }
        Ok(())
    }

    /// The logits of every row on the CPU, one row after the other.
    fn rows_of_logits(&self, x: &candle_core::Tensor) -> Result<Vec<f32>> {
        Ok(to_host(&self.logits_of(x)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let n = 20_000;
        let mut counts = vec![0.0; logits.len()];
        let key = Key::new(5, "sampling");
        (0..n).for_each(|i| {
            counts[sampling.choose(logits, &[], key.uniform(i)) as usize] += 1.0 / n as f64
        });
        counts
    }

    fn sample() -> Sampling {
        Sampling {
            strategy: Strategy::Sample,
            ..Sampling::default()
        }
    }

    #[test]
    fn drawn_tokens_have_the_softmaxs_shares() {
        let logits = [0.0, 1.0, 2.0];
        for temperature in [0.5, 1.0, 2.0] {
            let weights: Vec<f64> = logits
                .iter()
                .map(|&l| (f64::from(l) / temperature).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            for (share, weight) in shares(
                &Sampling {
                    temperature,
                    ..sample()
                },
                &logits,
            )
            .iter()
            .zip(weights)
            {
                assert!((share - weight / total).abs() < 0.015);
            }
        }
    }

    #[test]
    fn top_k_and_top_p_leave_the_likeliest() {
        let logits = [(0.5f32).ln(), (0.3f32).ln(), (0.15f32).ln(), (0.05f32).ln()];
        assert_eq!(
            shares(
                &Sampling {
                    top_k: 2,
                    ..sample()
                },
                &logits
            )[2..],
            [0.0, 0.0]
        );
        let nucleus = shares(
            &Sampling {
                top_p: 0.7,
                ..sample()
            },
            &logits,
        );
        assert!((nucleus[0] - 0.625).abs() < 0.015 && nucleus[2..] == [0.0, 0.0]);
        assert_eq!(
            shares(
                &Sampling {
                    top_p: 0.4,
                    ..sample()
                },
                &logits
            )[0]
            .round(),
            1.0
        );
    }

    #[test]
    fn a_repetition_penalty_lowers_what_was_seen_whatever_its_sign() {
        let penalised = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::default()
        };
        assert_eq!(penalised.choose(&[3.0, 2.0], &[0], 0.0), 1);
        assert_eq!(penalised.choose(&[-1.0, -1.5], &[0, 0], 0.0), 1);
        assert_eq!(Sampling::default().choose(&[3.0, 2.0], &[0], 0.0), 0);
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(Sampling::default().choose(&[1.0, 4.0, 4.0], &[], 0.9), 1);
    }

    #[test]
    fn settings_outside_their_range_are_refused_by_key() {
        for (sampling, key) in [
            (
                Sampling {
                    temperature: 0.0,
                    ..sample()
                },
                "temperature",
            ),
            (
                Sampling {
                    top_p: 1.5,
                    ..sample()
                },
                "top_p",
            ),
        ] {
            assert!(sampling.check().unwrap_err().to_string().contains(key));
        }
    }
}
