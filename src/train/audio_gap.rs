//! The audio gap: loss with another clip minus loss with the right one, in nats per target token.
//! It moves before any error rate does, once a model begins to use the audio. It changes no
//! parameter.
//!
//! The rows are a fixed sample: of each task [`MOST_ROWS`] training rows, and as many rows of each
//! set of the recipe's suite. Rows and wordings are the same for every seed. A row's other clip is
//! that of a row of the sample with another target and as many clips: the one that is nearest in
//! length, and of several the next, in a circle. So a clip of the same word or label never stands
//! for a wrong one, and the lengths of answers and clips say little.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::batch::Batch;
use crate::batch::Framing;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::data::Clip;
use crate::data::OnBadRow;
use crate::data::Role;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::suite::Suite;
use crate::featurise::Loader;
use crate::models::AudioLlm;
use crate::records::log::GapRecord;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Mode;
use crate::train::corpus::Corpus;
use crate::train::settings::ProbeSettings;

/// Most rows of a task or of a set in the sample.
pub const MOST_ROWS: usize = 16;

/// Sample that the audio gap is measured on.
pub struct AudioGap {
    /// Steps from one measurement to the next.
    pub every: u64,
    groups: Vec<Group>,
}

/// Rows of a task of the training, or of a set of the suite.
struct Group {
    name: String,
    is_of_suite: bool,
    pairs: Vec<Pair>,
}

/// A row with its own clips, and with those of another row.
struct Pair {
    right: Example,
    wrong: Example,
}

impl AudioGap {
    /// The sample of a recipe; none if its `probe.audio_gap` is 0.
    ///
    /// # Errors
    /// Training rows among which no task has two with audio and different targets; rows that make
    /// no example; audio whose length cannot be read.
    pub fn of(
        settings: &ProbeSettings,
        corpus: &Corpus,
        suite: Option<&Suite>,
        headers: &Headers,
    ) -> Result<Option<Self>> {
        if settings.audio_gap == 0 {
            return Ok(None);
        }
        let wording = Key::new(0, "audio gap instruction");
        let mut groups = Vec::new();
        for (task, name) in corpus.population().tasks.iter().enumerate() {
            let examples = sampled_rows(corpus, task)
                .into_iter()
                .map(|row| corpus.example_worded_by(row, wording))
                .collect::<Result<Vec<_>>>()?;
            groups.push(Group::new(name, false, &examples, headers)?);
        }
        groups.retain(|group| !group.pairs.is_empty());
        if groups.is_empty() {
            return Err(Error::input(
                "`probe.audio_gap` compares rows with the audio of others, and no task has two rows with audio and different targets",
            )
            .hint("leave `audio_gap` out, or add rows with audio"));
        }
        for set in suite.iter().flat_map(|suite| &suite.sets) {
            let with_audio: Vec<&Example> = set
                .examples
                .iter()
                .filter(|example| !example.clips.is_empty() && target_of(example).is_some())
                .collect();
            let examples: Vec<Example> = sampled(with_audio.len())
                .into_iter()
                .map(|place| with_audio[place].clone())
                .collect();
            groups.push(Group::new(&set.name, true, &examples, headers)?);
        }
        groups.retain(|group| !group.pairs.is_empty());
        Ok(Some(Self {
            every: settings.audio_gap,
            groups,
        }))
    }

    /// Number of sequences of one measurement: each row with its own clips and with others.
    pub fn num_sequences(&self) -> usize {
        2 * self
            .groups
            .iter()
            .map(|group| group.pairs.len())
            .sum::<usize>()
    }

    /// Clips of the sample.
    pub fn clips(&self) -> impl Iterator<Item = &Clip> {
        let pairs = self.groups.iter().flat_map(|group| &group.pairs);
        pairs.flat_map(|pair| &pair.right.clips)
    }

    /// Reads the sample's clips and encodes its texts. Under [`OnBadRow::Skip`] rows whose own or
    /// whose other clip cannot be read are left out; their errors are returned.
    ///
    /// # Errors
    /// Rows that cannot be read, unless they are skipped.
    pub fn load(&self, loader: &Loader, on_bad_row: OnBadRow) -> Result<(LoadedGap, Vec<Error>)> {
        let mut groups = Vec::with_capacity(self.groups.len());
        let mut skipped = Vec::new();
        for group in &self.groups {
            let read: Vec<Result<[Sequence; 2]>> = group
                .pairs
                .par_iter()
                .map(|pair| pair.sequences(loader))
                .collect();
            let mut pairs = Vec::with_capacity(read.len());
            for outcome in read {
                match outcome {
                    Ok(pair) => pairs.push(pair),
                    Err(error) if error.kind == Kind::Input && on_bad_row == OnBadRow::Skip => {
                        skipped.push(error);
                    }
                    Err(error) => return Err(error.at("`probe.audio_gap`")),
                }
            }
            if !pairs.is_empty() {
                groups.push((group.name.clone(), group.is_of_suite, pairs));
            }
        }
        Ok((LoadedGap { groups }, skipped))
    }
}

impl Group {
    fn new(name: &str, is_of_suite: bool, examples: &[Example], headers: &Headers) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            is_of_suite,
            pairs: pairs(examples, headers)?,
        })
    }
}

impl Pair {
    fn sequences(&self, loader: &Loader) -> Result<[Sequence; 2]> {
        let key = Key::new(0, "audio gap");
        let right = loader.load(&self.right, Mode::Train, key)?;
        let wrong = loader.load(&self.wrong, Mode::Train, key)?;
        Ok([right.sequence, wrong.sequence])
    }
}

/// The sample, ready to be scored.
pub struct LoadedGap {
    /// Name, whether it is a set of the suite, and the sequences with the right and the wrong
    /// audio.
    groups: Vec<(String, bool, Vec<[Sequence; 2]>)>,
}

/// Gaps of a measurement, by task of the training rows and by set of the suite.
pub struct Gaps {
    /// By task.
    pub tasks: BTreeMap<String, GapRecord>,
    /// By set.
    pub sets: BTreeMap<String, GapRecord>,
}

impl LoadedGap {
    /// Scores the sample with a model as it stands, in micro-batches of up to `pack_tokens`.
    /// `watch` is asked before each of them whether to go on.
    ///
    /// # Errors
    /// As `watch` returns them.
    pub fn measure(
        &self,
        model: &AudioLlm,
        framing: Framing,
        pack_tokens: usize,
        watch: &dyn Fn() -> Result<()>,
    ) -> Result<Gaps> {
        let mut gaps = Gaps {
            tasks: BTreeMap::new(),
            sets: BTreeMap::new(),
        };
        for (name, is_of_suite, pairs) in &self.groups {
            let sequences: Vec<&Sequence> = pairs.iter().flatten().collect();
            let nats = nats(model, &sequences, framing, pack_tokens, watch)?;
            let record = record(pairs, &nats);
            let place = if *is_of_suite {
                &mut gaps.sets
            } else {
                &mut gaps.tasks
            };
            place.insert(name.clone(), record);
        }
        Ok(gaps)
    }
}

/// Negative log-likelihood of each sequence's targets, summed.
fn nats(
    model: &AudioLlm,
    sequences: &[&Sequence],
    framing: Framing,
    pack_tokens: usize,
    watch: &dyn Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let lengths: Vec<usize> = sequences
        .iter()
        .map(|sequence| sequence.tokens.len())
        .collect();
    let mut nats = vec![0.0; sequences.len()];
    for range in micro_batches(&lengths, pack_tokens) {
        watch()?;
        let batch = Batch::pack(&sequences[range.clone()], framing)?;
        let losses = model.score(&batch, 0.0)?;
        for (log_probability, &sequence) in
            losses.log_probabilities.iter().zip(&batch.target_sequences)
        {
            nats[range.start + sequence as usize] -= log_probability;
        }
    }
    Ok(nats)
}

/// The record of a group whose sequences have these losses, right and wrong in turn.
fn record(pairs: &[[Sequence; 2]], nats: &[f64]) -> GapRecord {
    let target_tokens: usize = pairs.iter().map(|[right, _]| right.num_targets()).sum();
    let tokens = target_tokens.max(1) as f64;
    let right: f64 = nats.iter().step_by(2).sum();
    let wrong: f64 = nats.iter().skip(1).step_by(2).sum();
    let wins = nats.chunks_exact(2).filter(|pair| pair[0] < pair[1]);
    GapRecord {
        rows: pairs.len(),
        target_tokens,
        loss: right / tokens,
        wrong_loss: wrong / tokens,
        gap: (wrong - right) / tokens,
        wins: wins.count(),
    }
}

/// Up to [`MOST_ROWS`] rows of a task that have audio, in the order of a hash of their numbers.
fn sampled_rows(corpus: &Corpus, task: usize) -> Vec<u32> {
    let rows: Vec<u32> = (0..corpus.len() as u32)
        .filter(|&row| corpus.task_of(row) == task && !corpus.row(row).clips.is_empty())
        .collect();
    sampled(rows.len())
        .into_iter()
        .map(|place| rows[place])
        .collect()
}

/// Up to [`MOST_ROWS`] places of a list, in the order of their hashes.
fn sampled(len: usize) -> Vec<usize> {
    let order = Key::new(0, "audio gap").permutation(len);
    let places = order.into_iter().take(MOST_ROWS);
    places.map(|place| place as usize).collect()
}

/// The text that an example teaches; none where its conversation ends with the question.
fn target_of(example: &Example) -> Option<&str> {
    let last = example.messages.last()?;
    (last.role == Role::Assistant).then_some(last.content.as_str())
}

/// Each example with its own clips and with those of its partner. Examples without one are left
/// out.
fn pairs(examples: &[Example], headers: &Headers) -> Result<Vec<Pair>> {
    let rows = examples
        .iter()
        .map(|example| RowAudio::of(example, headers))
        .collect::<Result<Vec<_>>>()?;
    let mut pairs = Vec::with_capacity(examples.len());
    for (place, right) in examples.iter().enumerate() {
        if let Some(other) = partner(place, &rows) {
            let other = &examples[other];
            pairs.push(Pair {
                right: right.clone(),
                wrong: Example {
                    clips: other.clips.clone(),
                    duration: other.duration,
                    ..right.clone()
                },
            });
        }
    }
    Ok(pairs)
}

/// Target and audio of a row, which decide about its partner.
struct RowAudio<'a> {
    target: Option<&'a str>,
    num_clips: usize,
    /// Samples of all clips.
    samples: usize,
}

impl<'a> RowAudio<'a> {
    fn of(example: &'a Example, headers: &Headers) -> Result<Self> {
        let clips = example.clips.iter();
        let samples = clips.map(|clip| headers.num_samples(&clip.source, clip.span));
        Ok(Self {
            target: target_of(example),
            num_clips: example.clips.len(),
            samples: samples.sum::<Result<usize>>()?,
        })
    }
}

/// Place of the row whose audio is the wrong one for the row at `place`: of those with another
/// target and as many clips the nearest in length, and of several the next, in a circle.
fn partner(place: usize, rows: &[RowAudio<'_>]) -> Option<usize> {
    let own = &rows[place];
    let others = (1..rows.len()).map(|ahead| (place + ahead) % rows.len());
    others
        .filter(|&other| rows[other].target != own.target)
        .filter(|&other| rows[other].num_clips == own.num_clips)
        .min_by_key(|&other| rows[other].samples.abs_diff(own.samples))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partner_is_the_nearest_in_length_with_another_target() {
        let row = |target, num_clips, samples| RowAudio {
            target: Some(target),
            num_clips,
            samples,
        };
        let rows = [
            row("yes", 1, 1000),
            row("no", 1, 5000),
            row("yes", 1, 1001),
            row("no", 1, 1200),
            row("maybe", 1, 4800),
            row("both", 2, 1000),
        ];
        let partners: Vec<Option<usize>> = (0..rows.len()).map(|i| partner(i, &rows)).collect();
        let expected = [Some(3), Some(4), Some(3), Some(2), Some(1), None];
        assert_eq!(partners, expected);

        // Of rows that are as near, the next in the circle.
        let rows = ["a", "b", "c"].map(|target| row(target, 1, 700));
        let partners = [0, 1, 2].map(|i| partner(i, &rows));
        assert_eq!(partners, [Some(1), Some(2), Some(0)]);
    }
}
