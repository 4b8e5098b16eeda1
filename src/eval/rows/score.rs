//! Loss and log-probabilities of the targets of rows.

use std::ops::Range;

use rayon::prelude::*;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::error::Result;
use crate::eval::rows::Output;
use crate::eval::rows::READ_AHEAD;
use crate::featurise::Loader;
use crate::models::AudioLlm;
use crate::records::target_scores::TargetScore;
use crate::seed::Key;
use crate::stop::Stop;
use crate::task::Example;
use crate::task::Mode;

/// Tokens that are scored in one pass.
const PACK_TOKENS: usize = 8192;

/// A model that scores, and who is told of it.
pub struct Scorer<'a> {
    /// The model.
    pub model: &'a AudioLlm,
    /// Tokenizer and clips.
    pub loader: &'a Loader,
    /// Given what the user should know of a row.
    pub note: &'a (dyn Fn(&str) + Sync),
}

impl Scorer<'_> {
    /// Scores rows, a line of `output` for each that can be used. `progress` is given the number of
    /// lines.
    ///
    /// # Errors
    /// What is no fault of a row; `output` holds the rows before it. The user asked to stop.
    pub fn score(
        &self,
        examples: &[&Example],
        output: &mut Output<'_>,
        progress: &mut dyn FnMut(u64),
        stop: &Stop,
    ) -> Result<()> {
        for chunk in examples.chunks(READ_AHEAD) {
            let (readable, sequences) = self.load(chunk, output)?;
            let lengths: Vec<usize> = sequences
                .iter()
                .map(|sequence| sequence.tokens.len())
                .collect();
            for range in micro_batches(&lengths, PACK_TOKENS) {
                stop.check_unwritten()?;
                self.score_batch(&readable, &sequences, range, output)?;
                progress(output.len() as u64);
            }
        }
        Ok(())
    }

    /// The examples that can be read, with their sequences.
    fn load<'e>(
        &self,
        chunk: &[&'e Example],
        output: &mut Output<'_>,
    ) -> Result<(Vec<&'e Example>, Vec<Sequence>)> {
        let loaded: Vec<Result<Sequence>> = chunk
            .par_iter()
            .map(|example| self.sequence(example))
            .collect();
        let mut readable = Vec::with_capacity(chunk.len());
        let mut sequences = Vec::with_capacity(chunk.len());
        for (example, sequence) in chunk.iter().zip(loaded) {
            if let Some(sequence) = output.bad.check(sequence)? {
                readable.push(*example);
                sequences.push(sequence);
            }
        }
        Ok((readable, sequences))
    }

    fn sequence(&self, example: &Example) -> Result<Sequence> {
        let loaded = self
            .loader
            .load(example, Mode::Train, Key::new(0, "score"))?;
        if let Some(warning) = loaded.warning() {
            (self.note)(&format!("row `{}`: {warning}", example.id));
        }
        Ok(loaded.sequence)
    }

    /// Scores one micro-batch.
    fn score_batch(
        &self,
        examples: &[&Example],
        sequences: &[Sequence],
        range: Range<usize>,
        output: &mut Output<'_>,
    ) -> Result<()> {
        let batch = Batch::pack(
            &sequences[range.clone()].iter().collect::<Vec<_>>(),
            self.model.config.framing(),
        )?;
        let found = self.model.score(&batch, 0.0)?;
        for (i, example) in examples[range].iter().enumerate() {
            let logprobs: Vec<f64> = batch
                .target_sequences
                .iter()
                .zip(&found.log_probabilities)
                .filter(|(sequence, _)| **sequence as usize == i)
                .map(|(_, log_probability)| *log_probability)
                .collect();
            output.add(&TargetScore::new(&example.id, logprobs))?;
        }
        Ok(())
    }
}
