//! Log-probabilities of continuations of a prompt: the prompt goes through the model once, however
//! many are tried after it.

use super::Answers;
use crate::batch::Batch;
use crate::models::AudioLlm;
use maqam_base::error::Result;
use maqam_base::seed::Key;

impl AudioLlm {
    /// Log-probability of each continuation of each prompt of a packed batch: the sum over its
    /// tokens, in nats.
    ///
    /// `continuations` holds, for each prompt, lists of tokens, none of them empty. The result
    /// equals that of [`AudioLlm::score`] on the whole sequences up to rounding.
    ///
    /// # Errors
    /// A continuation that is longer than the room under the model's longest sequence.
    pub fn continuations(
        &self,
        prompts: &Batch,
        continuations: &[Vec<Vec<u32>>],
    ) -> Result<Vec<Vec<f64>>> {
        let room = continuations
            .iter()
            .flatten()
            .map(Vec::len)
            .max()
            .unwrap_or(0);
        let keys = vec![Key::new(0, "continuations"); continuations.len()];
        let mut answers = self.begin(prompts, &keys, room)?;
        let vocab = self.config.text.vocab_size;
        let first = self.rows_of_logits(&self.prefill(prompts, &mut answers)?)?;
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); continuations.len()];
        for place in 0..continuations.iter().map(Vec::len).max().unwrap_or(0) {
            let tried: Vec<Option<&Vec<u32>>> = continuations
                .iter()
                .map(|of_prompt| of_prompt.get(place))
                .collect();
            for ((i, tokens), first) in tried.iter().enumerate().zip(first.chunks_exact(vocab)) {
                found[i].extend(tokens.map(|tokens| log_probability(first, tokens[0])));
            }
            self.follow(&mut answers, &tried, place, &mut found)?;
            answers.rewind();
        }
        Ok(found)
    }

    /// Adds the log-probabilities of the tokens after the first to what was found at `place`.
    fn follow(
        &self,
        answers: &mut Answers,
        tried: &[Option<&Vec<u32>>],
        place: usize,
        found: &mut [Vec<f64>],
    ) -> Result<()> {
        for step in 1.. {
            let next = |i: usize| tried[i].and_then(|tokens| tokens.get(step).copied());
            let active: Vec<usize> = (0..tried.len()).filter(|&i| next(i).is_some()).collect();
            if active.is_empty() {
                break;
            }
            for &i in &active {
                answers.all[i]
                    .seen
                    .extend(tried[i].map(|tokens| tokens[step - 1]));
            }
            let logits = self.rows_of_logits(&self.step(answers, &active)?)?;
            for (logits, &i) in logits
                .chunks_exact(self.config.text.vocab_size)
                .zip(&active)
            {
                found[i][place] += next(i).map_or(0.0, |token| log_probability(logits, token));
            }
        }
        Ok(())
    }
}

impl Answers {
    /// Back to the end of every prompt.
    fn rewind(&mut self) {
        for (i, answer) in self.all.iter_mut().enumerate() {
            answer.seen.truncate(answer.prompt);
            self.caches
                .iter_mut()
                .for_each(|cache| cache.rewind(i, answer.prompt));
        }
    }
}

/// The logarithm of the softmax at a token.
fn log_probability(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - largest).exp())
        .sum();
    logits
        .get(token as usize)
        .map_or(f64::NEG_INFINITY, |&logit| {
            f64::from(logit - largest) - sum.ln()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_by_hand() {
        // softmax([0, ln 2, ln 5]) is 1/8, 2/8, 5/8.
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        for (token, share) in [(0, 1.0 / 8.0), (1, 2.0 / 8.0), (2, 5.0 / 8.0)] {
            assert!(
                (log_probability(&logits, token).exp() - share).abs() < 1e-7,
                "single precision of the logits"
            );
        }
        assert_eq!(log_probability(&logits, 3), f64::NEG_INFINITY);
        assert!(
            (log_probability(&[1e4, 1e4], 0) + std::f64::consts::LN_2).abs() < 1e-12,
            "large logits do not overflow"
        );
    }
}
