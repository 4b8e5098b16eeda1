//! Reading one step: the rows the schedule picks, loaded in parallel, what each weighs in the loss,
//! and how they are packed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use std::time::Instant;

use rayon::prelude::*;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::featurise::Loaded;
use crate::featurise::augment::Augmentation;
use crate::loss_weights::ClassWeights;
use crate::loss_weights::Counted;
use crate::loss_weights::weights;
use crate::models::AudioEmbeddings;
use crate::models::AudioLlm;
use crate::models::Pass;
use crate::models::Transcript;
use crate::records::inputs::Fingerprint;
use crate::records::inputs::fingerprint;
use crate::records::log::TaskRecord;
use crate::schedule::Pick;
use crate::schedule::Schedule;
use crate::seed::Key;
use crate::task::Mode;
use crate::train::run::Run;

/// A step's examples, read and weighed.
pub(super) struct LoadedStep {
    pub examples: Vec<Loaded>,
    pub task_names: Vec<String>,
    /// Numbers that each example's weight follows from.
    pub counted: Vec<Counted>,
    /// Files of the examples that the run has not used before.
    pub clips: Vec<Fingerprint>,
    /// The rows that the schedule drew; none for rows that were given.
    pub picks: Vec<Pick>,
    /// Mean difficulty of those rows, where the stage orders rows by it.
    pub difficulty: Option<f64>,
    /// Errors of the rows that were left out.
    pub skipped: Vec<Error>,
    /// Units of each example's transcript for the CTC loss; none of those without one, and in
    /// stages without that loss.
    pub transcripts: Vec<Vec<u32>>,
    /// The examples packed, and which of them each micro-batch holds.
    pub batches: Vec<(Range<usize>, Batch)>,
}

impl LoadedStep {
    pub fn tasks(&self) -> BTreeMap<String, TaskRecord> {
        let mut tasks = BTreeMap::<String, TaskRecord>::new();
        for (example, name) in self.examples.iter().zip(&self.task_names) {
            let task = tasks.entry(name.clone()).or_default();
            task.examples += 1;
            task.seconds += example.seconds;
            task.target_tokens += example.sequence.num_targets();
        }
        tasks
    }

    /// Transcripts of a micro-batch of these examples. `factor` is that of the CTC loss: the loss
    /// of an example is its cross-entropy per target token plus `factor` times its CTC loss per
    /// character, and examples weigh in both what they weigh in the first.
    pub fn transcripts_of(&self, range: Range<usize>, factor: f64) -> Vec<Transcript<'_>> {
        let mut found = Vec::new();
        let mut clip = 0;
        for (example, units) in self.examples[range.clone()]
            .iter()
            .zip(&self.transcripts[range])
        {
            let sequence = &example.sequence;
            if !units.is_empty() {
                let share = sequence.target_weight * sequence.num_targets() as f64;
                found.push(Transcript {
                    clip,
                    units,
                    weight: factor * share / units.len() as f64,
                });
            }
            clip += sequence.audio.len();
        }
        found
    }
}

/// The steps of a stage, as the thread that reads them hands them over.
pub(super) struct Steps {
    receive: Receiver<Result<LoadedStep>>,
    next: Option<Result<Next>>,
    waited: Duration,
}

/// A step, with the embeddings of its first micro-batch if they are encoded already.
type Next = (LoadedStep, Option<AudioEmbeddings>);

impl Steps {
    pub fn new(receive: Receiver<Result<LoadedStep>>) -> Self {
        Self {
            receive,
            next: None,
            waited: Duration::ZERO,
        }
    }

    /// Begins to embed the audio of the next step's first micro-batch if that step has been read,
    /// so that a GPU has work while the host reads the numbers of the step before. An error here
    /// fails the next step, not the one that is finished.
    pub fn embed_audio_ahead(&mut self, model: &AudioLlm, pass: Pass) {
        if let Ok(read) = self.receive.try_recv() {
            self.next = Some(read.and_then(|loaded| {
                let audio = match loaded.batches.first() {
                    Some((_, batch)) => model.embed_audio_ahead(batch, pass)?,
                    None => None,
                };
                Ok((loaded, audio))
            }));
        }
    }

    /// The next step; waits until it has been read.
    pub fn next(&mut self) -> Result<Next> {
        self.waited = Duration::ZERO;
        if let Some(next) = self.next.take() {
            return next;
        }
        let begin = Instant::now();
        let read = self.receive.recv();
        self.waited = begin.elapsed();
        let loaded = read.map_err(|_| Error::bug("the reader of the next step ended early"))??;
        Ok((loaded, None))
    }

    /// Time that the last step was waited for.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

/// Hint for a row of a run that has begun: its manifest and its recipe are bound to it.
pub(super) const BAD_ROW_HINT: &str = "put a readable file in its place and continue with --resume, or leave such rows out: --resume --set on_bad_row=skip";

/// Reads the rows of a step.
pub(super) fn load_step(run: &Run, schedule: &Schedule, step: u64) -> Result<LoadedStep> {
    let picks = schedule.picks(step)?;
    let (stage, _) = schedule.stage_of(step);
    let key = Key::new(run.seed, "step").with(step);
    let place = format!("step {}", step + 1);
    let augmentation = run.augmentation.as_ref();
    let loaded = load_picks(run, stage, &picks, augmentation, key, &place)?;
    Ok(LoadedStep {
        difficulty: schedule.mean_difficulty(step, &picks),
        picks,
        ..loaded
    })
}

/// Reads picked rows, and weighs them as a step of a stage does. `augmentation` changes their
/// clips, `key` is the stream of their random numbers, and `place` is what an error is about.
pub(super) fn load_picks(
    run: &Run,
    stage: usize,
    picks: &[Pick],
    augmentation: Option<&Augmentation>,
    key: Key,
    place: &str,
) -> Result<LoadedStep> {
    let loss = &run.loss[stage];

    let read: Vec<Result<ReadRow>> = picks
        .par_iter()
        .enumerate()
        .map(|(slot, pick)| {
            let key = key.with(slot as u64);
            read_row(run, pick, augmentation, loss.class_weights, key)
        })
        .collect();
    let (mut rows, skipped) = readable(run, read).map_err(|e| e.at(place))?;
    // Each task needs micro-batches of its own.
    if run.gradients.is_some() {
        rows.sort_by_key(|row| row.counted.task);
    }

    if rows.is_empty() {
        let first = skipped.first().map(Error::message).unwrap_or_default();
        return Err(Error::input(format!(
            "{place}: none of its {} rows can be read; the first: {first}",
            skipped.len()
        ))
        .hint("put readable files in their place and continue with --resume"));
    }

    let transcripts = rows
        .iter()
        .map(|row| match &run.spelling {
            Some(spelling) if loss.ctc > 0.0 => spelling.units(&run.corpus, row.row),
            _ => Ok(Vec::new()),
        })
        .collect::<Result<Vec<_>>>()?;
    let clips = new_clips(run, &rows);
    let counted: Vec<Counted> = rows.iter().map(|row| row.counted).collect();
    let task_names = counted
        .iter()
        .map(|counted| run.corpus.population().tasks[counted.task].clone())
        .collect();
    let mut examples: Vec<Loaded> = rows.into_iter().map(|row| row.example).collect();
    let mut batches = Vec::new();
    for group in groups(run, &counted) {
        let weights = weights(&counted[group.clone()], loss.normalise);
        for (example, weight) in examples[group.clone()].iter_mut().zip(weights) {
            example.sequence.target_weight = weight;
        }
        batches.extend(packed(run, &examples, group)?);
    }

    Ok(LoadedStep {
        batches,
        difficulty: None,
        picks: Vec::new(),
        examples,
        task_names,
        counted,
        clips,
        skipped,
        transcripts,
    })
}

/// Rows that compete for the slots of a step, read.
pub(super) struct ReadCandidates {
    /// Row and example, in the order of the picks.
    pub examples: Vec<(u32, Loaded)>,
    /// Files of the rows that the run has not used before.
    pub clips: Vec<Fingerprint>,
    /// Errors of the rows that were left out.
    pub skipped: Vec<Error>,
}

/// Reads rows that compete for the slots of a step, as the step itself reads them. `key` is the
/// stream of their random numbers, and `place` is what an error is about.
pub(super) fn read_candidates(
    run: &Run,
    picks: &[Pick],
    key: Key,
    place: &str,
) -> Result<ReadCandidates> {
    let augmentation = run.augmentation.as_ref();
    let read: Vec<Result<ReadRow>> = picks
        .par_iter()
        .enumerate()
        .map(|(slot, pick)| {
            let key = key.with(slot as u64);
            read_row(run, pick, augmentation, ClassWeights::None, key)
        })
        .collect();
    let (rows, skipped) = readable(run, read).map_err(|e| e.at(place))?;
    let clips = new_clips(run, &rows);
    Ok(ReadCandidates {
        examples: rows.into_iter().map(|row| (row.row, row.example)).collect(),
        clips,
        skipped,
    })
}

/// A row of a step, read.
struct ReadRow {
    row: u32,
    example: Loaded,
    counted: Counted,
}

fn read_row(
    run: &Run,
    pick: &Pick,
    augmentation: Option<&Augmentation>,
    class_weights: ClassWeights,
    key: Key,
) -> Result<ReadRow> {
    let corpus = &run.corpus;
    let example = corpus.example(pick.row, pick.epoch)?;
    let draw = augmentation.map(|augmentation| augmentation.draw(pick.row, pick.epoch));
    let loaded = run
        .loader
        .load_augmented(&example, Mode::Train, key, draw)
        .map_err(|e| e.at(corpus.place(pick.row)))?;
    let class_weight = match class_weights {
        ClassWeights::None => 1.0,
        ClassWeights::Balanced => corpus.class_weight(pick.row, example.label.as_deref()),
    };
    Ok(ReadRow {
        row: pick.row,
        counted: Counted {
            task: corpus.task_of(pick.row),
            num_targets: loaded.sequence.num_targets(),
            class_weight,
        },
        example: loaded,
    })
}

/// The rows that could be read, and the errors of the others where the settings leave them out.
fn readable(run: &Run, read: Vec<Result<ReadRow>>) -> Result<(Vec<ReadRow>, Vec<Error>)> {
    let mut rows = Vec::with_capacity(read.len());
    let mut skipped = Vec::new();
    for outcome in read {
        match outcome {
            Ok(row) => rows.push(row),
            Err(error) if error.kind != Kind::Input => return Err(error),
            Err(error) if run.on_bad_row == OnBadRow::Skip => skipped.push(error),
            Err(error) => return Err(error.hint(BAD_ROW_HINT)),
        }
    }
    Ok((rows, skipped))
}

/// Fingerprints of the rows' files that the run has not used before.
fn new_clips(run: &Run, rows: &[ReadRow]) -> Vec<Fingerprint> {
    let clips = rows.iter().flat_map(|row| &run.corpus.row(row.row).clips);
    // Collected first: the main thread adds to the inputs meanwhile.
    let new = run.inputs().new_among(clips);
    new.into_par_iter()
        .filter_map(|path| fingerprint(&path).ok())
        .collect()
}

/// Examples that share micro-batches and whose weights sum to 1: all of the step, or those of each
/// task where its gradient is needed.
fn groups(run: &Run, counted: &[Counted]) -> Vec<Range<usize>> {
    if run.gradients.is_none() {
        return std::iter::once(0..counted.len()).collect();
    }
    let mut start = 0;
    let by_task = counted.chunk_by(|a, b| a.task == b.task);
    by_task
        .map(|group| {
            start += group.len();
            start - group.len()..start
        })
        .collect()
}

/// Examples of a group packed into micro-batches, and which of them each holds.
fn packed(
    run: &Run,
    examples: &[Loaded],
    group: Range<usize>,
) -> Result<Vec<(Range<usize>, Batch)>> {
    let lengths: Vec<usize> = examples[group.clone()]
        .iter()
        .map(|example| example.sequence.tokens.len())
        .collect();
    micro_batches(&lengths, run.memory.pack_tokens())
        .into_iter()
        .map(|range| {
            let range = group.start + range.start..group.start + range.end;
            let sequences: Vec<&Sequence> = examples[range.clone()]
                .iter()
                .map(|example| &example.sequence)
                .collect();
            Ok((range, Batch::pack(&sequences, run.framing)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss_weights::Normalise;

    // Two rows without a transcript, of two clips and of none, and two with one.
    const TASKS: [usize; 4] = [0, 0, 1, 1];
    const TARGETS: [usize; 4] = [4, 2, 6, 8];
    const CLIPS: [usize; 4] = [2, 0, 1, 1];
    const CHARACTERS: [usize; 4] = [0, 0, 3, 5];

    fn example(row: usize, target_weight: f64) -> Loaded {
        Loaded {
            sequence: Sequence {
                tokens: vec![0; 20],
                targets: std::iter::once(0..TARGETS[row]).collect(),
                audio: vec![10..11; CLIPS[row]],
                features: Vec::new(),
                key: Key::new(0, "test"),
                target_weight,
            },
            seconds: 0.0,
            longest_s: 0.0,
            official_max_s: 30.0,
        }
    }

    fn step(normalise: Normalise) -> LoadedStep {
        let counted = (0..4).map(|row| Counted {
            task: TASKS[row],
            num_targets: TARGETS[row],
            class_weight: 1.0,
        });
        let counted: Vec<Counted> = counted.collect();
        let weights = weights(&counted, normalise).into_iter().enumerate();
        LoadedStep {
            examples: weights.map(|(row, weight)| example(row, weight)).collect(),
            transcripts: CHARACTERS.map(|count| vec![1; count]).to_vec(),
            counted,
            task_names: Vec::new(),
            clips: Vec::new(),
            picks: Vec::new(),
            difficulty: None,
            skipped: Vec::new(),
            batches: Vec::new(),
        }
    }

    #[test]
    fn a_transcript_weighs_what_its_example_does_however_packed() {
        for (normalise, shares) in [
            (Normalise::Token, [6.0 / 20.0, 8.0 / 20.0]),
            (Normalise::Example, [1.0 / 4.0, 1.0 / 4.0]),
            (Normalise::Task, [6.0 / 28.0, 8.0 / 28.0]),
        ] {
            let step = step(normalise);
            let weights: [f64; 2] = [0.5 * shares[0] / 3.0, 0.5 * shares[1] / 5.0];
            for (range, clips) in [
                (0..4, vec![2, 3]),
                (1..4, vec![0, 1]),
                (3..4, vec![0]),
                (0..2, vec![]),
            ] {
                let found = step.transcripts_of(range.clone(), 0.5);
                let places: Vec<usize> = found.iter().map(|transcript| transcript.clip).collect();
                assert_eq!(places, clips, "{range:?}");
                // The last transcripts of the step.
                let expected = &weights[2 - found.len()..];
                for (transcript, expected) in found.iter().zip(expected) {
                    assert!(
                        (transcript.weight - expected).abs() < 1e-12,
                        "{normalise:?} {range:?}: {}, expected {expected}",
                        transcript.weight
                    );
                }
            }
        }
    }
}
