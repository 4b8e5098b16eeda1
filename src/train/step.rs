//! Reading one step: the rows the schedule picks, loaded in parallel, what each weighs in the loss, and how they are packed.

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
use crate::loss::ClassWeights;
use crate::loss::Counted;
use crate::loss::weights;
use crate::models::AudioEmbeddings;
use crate::models::AudioLlm;
use crate::models::Pass;
use crate::records::inputs::Fingerprint;
use crate::records::inputs::fingerprint;
use crate::records::log::TaskRecord;
use crate::schedule::Schedule;
use crate::seed::Key;
use crate::task::Mode;
use crate::train::run::Run;

/// A step's examples, read and weighed.
pub(super) struct LoadedStep {
    pub examples: Vec<Loaded>,
    pub task_names: Vec<String>,
    /// What is known of each example's weight.
    pub counted: Vec<Counted>,
    /// Files of the examples that the run has not used before.
    pub clips: Vec<Fingerprint>,
    /// What is wrong with the rows that were left out.
    pub skipped: Vec<Error>,
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

    /// Begins to hear the next step's first micro-batch if that step has been read, so that a card has work while the host reads what the
    /// step before came to. What fails here fails the next step, not the one that is finished.
    pub fn hear_ahead(&mut self, model: &AudioLlm, pass: Pass) {
        if let Ok(read) = self.receive.try_recv() {
            self.next = Some(read.and_then(|loaded| {
                let heard = loaded
                    .batches
                    .first()
                    .map(|(_, batch)| model.embed_audio_ahead(batch, pass))
                    .transpose()?;
                Ok((loaded, heard.flatten()))
            }));
        }
    }

    /// The next step; waits until it has been read.
    pub fn next(&mut self) -> Result<Next> {
        self.waited = Duration::ZERO;
        if let Some(next) = self.next.take() {
            return next;
        }
        let asked = Instant::now();
        let read = self.receive.recv();
        self.waited = asked.elapsed();
        let loaded = read.map_err(|_| Error::bug("the reader of the next step ended early"))??;
        Ok((loaded, None))
    }

    /// Time that the last step was waited for.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

/// What can be done about a row of a run that has begun: its manifest and its recipe are bound to it.
pub(super) const BAD_ROW_HINT: &str = "put a readable file in its place and continue with --resume, or leave such rows out: --resume --set on_bad_row=skip";

/// Reads the rows of a step.
pub(super) fn load_step(run: &Run, schedule: &Schedule, step: u64) -> Result<LoadedStep> {
    let picks = schedule.picks(step)?;
    let (stage, _) = schedule.stage_of(step);
    let loss = &run.loss[stage];
    let corpus = &run.corpus;
    let loaded: Vec<Result<(Loaded, Counted, u32)>> = picks
        .par_iter()
        .enumerate()
        .map(|(slot, pick)| {
            let example = corpus.example(pick.row, pick.epoch)?;
            let key = Key::new(run.seed, "step").with(step).with(slot as u64);
            let loaded = run
                .loader
                .load(&example, Mode::Train, key)
                .map_err(|e| e.at(corpus.place(pick.row)))?;
            let class_weight = match loss.class_weights {
                ClassWeights::None => 1.0,
                ClassWeights::Balanced => corpus.class_weight(pick.row, example.label.as_deref()),
            };
            let counted = Counted {
                task: corpus.task_of(pick.row),
                num_targets: loaded.sequence.num_targets(),
                class_weight,
            };
            Ok((loaded, counted, pick.row))
        })
        .collect();
    let mut examples = Vec::new();
    let mut counted = Vec::new();
    let mut skipped = Vec::new();
    let mut rows = Vec::new();
    for found in loaded {
        match found {
            Ok((example, count, row)) => {
                examples.push(example);
                counted.push(count);
                rows.push(row);
            }
            Err(error) if run.on_bad_row == OnBadRow::Skip && error.kind == Kind::Input => {
                skipped.push(error)
            }
            Err(error) if error.kind == Kind::Input => {
                return Err(error.hint(BAD_ROW_HINT).at(format!("step {}", step + 1)));
            }
            Err(error) => return Err(error.at(format!("step {}", step + 1))),
        }
    }
    if examples.is_empty() {
        let first = skipped.first().map(Error::message).unwrap_or_default();
        return Err(Error::input(format!(
            "step {}: none of its {} rows can be read; the first: {first}",
            step + 1,
            skipped.len()
        ))
        .hint("put readable files in their place and continue with --resume"));
    }
    let clips = rows.iter().flat_map(|&row| &corpus.row(row).clips);
    // Collected first: the main thread adds to the inputs meanwhile.
    let new = run.inputs().new_among(clips);
    let clips = new
        .into_par_iter()
        .filter_map(|path| fingerprint(&path).ok())
        .collect();
    for (example, weight) in examples.iter_mut().zip(weights(&counted, loss.normalise)) {
        example.sequence.target_weight = weight;
    }
    let lengths: Vec<usize> = examples
        .iter()
        .map(|example| example.sequence.tokens.len())
        .collect();
    let batches = micro_batches(&lengths, run.memory.pack_tokens)
        .into_iter()
        .map(|range| {
            let sequences: Vec<&Sequence> = examples[range.clone()]
                .iter()
                .map(|example| &example.sequence)
                .collect();
            Ok((range, Batch::pack(&sequences, run.window)?))
        });
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let task_names = counted
        .iter()
        .map(|counted| corpus.population().tasks[counted.task].clone())
        .collect();
    Ok(LoadedStep {
        examples,
        task_names,
        counted,
        clips,
        skipped,
        batches,
    })
}
