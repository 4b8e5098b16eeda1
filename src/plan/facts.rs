//! How long each draw is: seconds of audio, tokens of the conversation, and those of them that are
//! learnt.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::audio::SAMPLE_RATE;
use crate::audio::num_audio_tokens;
use crate::audio::num_frames;
use crate::data::OnBadRow;
use crate::data::headers::Headers;
use crate::data::lengths;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::featurise::augment::Augmentation;
use crate::models::config::Config;
use crate::plan::draws::StageDraws;
use crate::schedule::Pick;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Mode;
use crate::task::TextCodec;
use crate::train::corpus::Corpus;

/// Most draws that are looked at; of more, a seeded sample of whole steps stands for all.
pub const MOST_DRAWS: usize = 50_000;

/// Steps of a stage that are looked at however short it is beside the others.
const LEAST_STEPS: usize = 16;

/// Draws between two looks at whether to go on.
const CHUNK: usize = 4096;

/// What is known of one draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fact {
    /// Audio, in seconds.
    pub seconds: f64,
    /// Tokens that stand for it.
    pub audio_tokens: usize,
    /// All tokens, and those that are learnt; `None` without a tokenizer.
    pub tokens: Option<(usize, usize)>,
}

/// What reads rows as the model will, as far as it is here.
pub struct Reader<'a> {
    /// The rows.
    pub corpus: &'a Corpus,
    /// Headers that were read.
    pub headers: &'a Headers,
    /// The model's tokenizer, and its longest sequence.
    pub codec: Option<(&'a TextCodec, usize)>,
    /// The model's shape; `None` counts audio tokens as Qwen2.5-Omni does.
    pub config: Option<&'a Config>,
    /// Longest clip that the recipe takes, in seconds.
    pub max_audio_s: Option<f64>,
    /// Changes of the clips.
    pub augmentation: Option<&'a Augmentation>,
    /// What to do with rows that cannot be used.
    pub on_bad_row: OnBadRow,
}

/// Facts of draws.
pub struct Facts {
    of: HashMap<Pick, Fact>,
    /// The steps that were looked at, stage by stage, rising.
    pub steps: Vec<Vec<usize>>,
    /// Whether that is a sample.
    pub is_sample: bool,
    /// Rows that training will leave out, and why.
    pub skipped: Vec<Error>,
}

impl Facts {
    /// The facts of a draw; `None` for one that was not looked at, or whose row is left out.
    pub fn of(&self, pick: Pick) -> Option<&Fact> {
        self.of.get(&pick)
    }

    /// Looks at the draws of all stages, or of a sample of their steps. `progress` is told how many
    /// of how many are done.
    ///
    /// # Errors
    /// A row that training would refuse: audio that cannot be read or is too long, more tokens than
    /// the model has positions.
    pub fn read(
        reader: &Reader<'_>,
        stages: &[StageDraws],
        seed: u64,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Self> {
        let total: usize = stages
            .iter()
            .flat_map(|stage| &stage.steps)
            .map(Vec::len)
            .sum();
        let is_sample = total > MOST_DRAWS;
        let steps: Vec<Vec<usize>> = stages
            .iter()
            .enumerate()
            .map(|(i, stage)| {
                sampled(
                    stage.steps.len(),
                    total,
                    Key::new(seed, "plan").with(i as u64),
                )
            })
            .collect();
        let looked_at = stages
            .iter()
            .zip(&steps)
            .flat_map(|(stage, steps)| steps.iter().flat_map(|&step| &stage.steps[step]));
        let mut draws: Vec<Pick> = looked_at.copied().collect();
        draws.sort_unstable();
        draws.dedup();
        let clips = reader.clips(&draws)?;
        let mut facts = Self {
            of: HashMap::with_capacity(draws.len()),
            steps,
            is_sample,
            skipped: Vec::new(),
        };
        for (i, chunk) in draws.chunks(CHUNK).enumerate() {
            progress(i * CHUNK, draws.len())?;
            let found: Vec<(Pick, Result<Fact>)> = chunk
                .par_iter()
                .map(|&pick| (pick, reader.fact(pick, &clips)))
                .collect();
            for (pick, found) in found {
                match found {
                    Ok(fact) => drop(facts.of.insert(pick, fact)),
                    Err(error)
                        if reader.on_bad_row == OnBadRow::Skip && error.kind == Kind::Input =>
                    {
                        if facts
                            .skipped
                            .iter()
                            .all(|known| known.message() != error.message())
                        {
                            facts.skipped.push(error);
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        progress(draws.len(), draws.len())?;
        Ok(facts)
    }
}

/// The steps of a stage that are looked at.
fn sampled(steps: usize, draws: usize, key: Key) -> Vec<usize> {
    let wanted = (steps as f64 * (MOST_DRAWS as f64 / draws as f64).min(1.0)) as usize;
    let wanted = wanted.max(LEAST_STEPS);
    if wanted >= steps {
        return (0..steps).collect();
    }
    let mut order: Vec<usize> = (0..steps).collect();
    order.sort_by_key(|&step| key.bits(step as u64));
    order.truncate(wanted);
    order.sort_unstable();
    order
}

/// Lengths of each row's clips in samples at [`SAMPLE_RATE`], by row, or what is wrong with them.
type ClipLengths = HashMap<u32, Result<Vec<usize>>>;

impl Reader<'_> {
    fn clips(&self, draws: &[Pick]) -> Result<ClipLengths> {
        let mut rows: Vec<u32> = draws.iter().map(|pick| pick.row).collect();
        rows.dedup();
        let rows = rows.into_par_iter().map(|row| {
            let example = self.corpus.row(row);
            let lengths = lengths::clip_lengths(example, self.max_audio_s, self.headers);
            (row, lengths.map_err(|e| e.at(self.corpus.place(row))))
        });
        Ok(rows.collect())
    }

    /// Audio of a row, in seconds.
    pub fn seconds(&self, row: u32) -> Result<f64> {
        let lengths = lengths::clip_lengths(self.corpus.row(row), self.max_audio_s, self.headers)?;
        Ok(seconds_of(&lengths))
    }

    fn fact(&self, pick: Pick, clips: &ClipLengths) -> Result<Fact> {
        let lengths = match clips.get(&pick.row) {
            Some(Ok(lengths)) => lengths.as_slice(),
            Some(Err(error)) => return Err(error.clone()),
            None => &[],
        };
        let draw = self
            .augmentation
            .map(|augmentation| augmentation.draw(pick.row, pick.epoch));
        let lengths: Vec<usize> = lengths
            .iter()
            .enumerate()
            .map(|(clip, &samples)| draw.map_or(samples, |draw| draw.num_samples(clip, samples)))
            .collect();
        let audio_tokens: Vec<usize> = lengths
            .iter()
            .map(|&samples| match self.config {
                Some(config) => config.audio_tokens(samples),
                None => num_audio_tokens(num_frames(samples)),
            })
            .collect();
        let counted = match self.codec {
            Some((codec, longest)) => Some(
                self.count(
                    codec,
                    longest,
                    &self.corpus.example(pick.row, pick.epoch)?,
                    &audio_tokens,
                )
                .map_err(|e| e.at(self.corpus.place(pick.row)))?,
            ),
            None => None,
        };
        Ok(Fact {
            seconds: seconds_of(&lengths),
            audio_tokens: audio_tokens.iter().sum(),
            tokens: counted,
        })
    }

    fn count(
        &self,
        codec: &TextCodec,
        longest: usize,
        example: &Example,
        audio_tokens: &[usize],
    ) -> Result<(usize, usize)> {
        let encoded = codec.encode_example(example, audio_tokens, Mode::Train)?;
        if encoded.tokens.len() > longest {
            return Err(Error::input(format!("{} tokens, the model's longest sequence is {longest}", encoded.tokens.len()))
                .hint("nothing is cut silently: split the clip with `start_s` and `end_s`, or remove the row"));
        }
        Ok((
            encoded.tokens.len(),
            encoded.targets.iter().map(ExactSizeIterator::len).sum(),
        ))
    }
}

/// Seconds of clips of so many samples.
fn seconds_of(lengths: &[usize]) -> f64 {
    lengths.iter().sum::<usize>() as f64 / f64::from(SAMPLE_RATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_keeps_whole_steps_in_proportion_and_some_of_every_stage() {
        let key = Key::new(1, "t");
        assert_eq!(sampled(100, 50_000, key), (0..100).collect::<Vec<_>>());
        let half = sampled(1_000, 100_000, key);
        assert!(
            half.len() == 500
                && half.windows(2).all(|pair| pair[0] < pair[1])
                && half.iter().any(|&step| step > 900)
                && half.iter().any(|&step| step < 100)
        );
        assert_eq!(
            (
                sampled(10, 10_000_000, key).len(),
                sampled(1_000, 10_000_000, key).len()
            ),
            (10, LEAST_STEPS)
        );
    }
}
