//! Rows that stages with `draw: uds` choose: scores of candidates, the queue of those chosen
//! lately, and the choice for the coming step.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::error::Result;
use crate::records::inputs::Fingerprint;
use crate::records::log::SelectionRecord;
use crate::schedule::Pick;
use crate::schedule::Schedule;
use crate::schedule::uds::CellCandidates;
use crate::schedule::uds::UdsSettings;
use crate::schedule::uds::in_slots;
use crate::seed::Key;
use crate::stats::uds::Projection;
use crate::stats::uds::Queue;
use crate::stats::uds::Sizes;
use crate::stats::uds::nuclear_norm;
use crate::train::checkpoint;
use crate::train::run::Run;

/// The state of the choice of rows.
#[derive(Default)]
pub(super) struct Selection {
    /// Place of the stage that the queue belongs to; none before the first such stage.
    stage: Option<usize>,
    queue: Queue,
    projection: Option<Projection>,
    coming: Option<Coming>,
}

/// The choice for a step that is not made yet.
struct Coming {
    /// Files of candidates that the run has not used before.
    clips: Vec<Fingerprint>,
    /// Projections of the chosen rows, in the order of slots.
    projections: Vec<Vec<f32>>,
    /// Most projections of the queue.
    capacity: usize,
    record: SelectionRecord,
    /// Time that the choice took.
    took: Duration,
}

/// The choice for a step that was made.
pub(super) struct Chosen {
    /// Files of candidates that the run has not used before.
    pub clips: Vec<Fingerprint>,
    pub record: SelectionRecord,
    /// Time that the choice took, the reading of candidates included.
    pub took: Duration,
}

/// Score of a candidate.
pub(super) struct Score {
    /// Nuclear norm of its logits.
    norm: f64,
    /// Mean distance of its projection to those of the queue.
    distance: f64,
    /// The projection.
    projection: Vec<f32>,
}

/// What a choice is made of.
pub(super) struct Choice<'a> {
    /// Candidates, cell by cell.
    pub cells: &'a [CellCandidates],
    /// Scores by row, of the rows that could be read.
    pub scores: BTreeMap<u32, Score>,
    /// Files of candidates that the run has not used before.
    pub clips: Vec<Fingerprint>,
    /// The step, from 1.
    pub step: u64,
    /// Name of its stage.
    pub stage: String,
    /// Moment at which the choice began.
    pub began: Instant,
}

impl Selection {
    /// The state after some steps: with the queue of the checkpoint, inside a stage that has one.
    ///
    /// # Errors
    /// A checkpoint without its queue.
    pub fn resume(run: &Run, schedule: &Schedule, steps: u64) -> Result<Self> {
        let (stage, in_stage) = schedule.stage_of(steps);
        if in_stage == 0 || schedule.stages()[stage].uds.is_none() {
            return Ok(Self::default());
        }
        let folder = checkpoint::folder(&run.checkpoints(), steps);
        Ok(Self {
            stage: Some(stage),
            queue: checkpoint::load_queue(&folder)?,
            ..Self::default()
        })
    }

    /// Prepares the choices of a stage, whose queue is empty at its first step.
    pub fn begin(&mut self, stage: usize, settings: UdsSettings, vocabulary: usize, seed: u64) {
        if self.stage != Some(stage) {
            *self = Self {
                stage: Some(stage),
                ..Self::default()
            };
        }
        let sizes = Sizes {
            vocabulary,
            rows: settings.rows,
            columns: settings.columns,
            length: settings.length,
        };
        let key = Key::new(seed, "uds projection").with(stage as u64);
        if self.projection.is_none() {
            self.projection = Some(Projection::new(sizes, key));
        }
    }

    /// The queue, if it belongs to a stage and has rows.
    pub fn queue_of(&self, stage: usize) -> Option<&Queue> {
        let belongs = self.stage == Some(stage) && !self.queue.is_empty();
        belongs.then_some(&self.queue)
    }

    /// Scores a candidate by the logits of its targets, `[targets, vocabulary]`.
    pub fn score(&self, logits: &[f32], vocabulary: usize) -> Score {
        let projection = match &self.projection {
            Some(projection) => projection.project(logits),
            None => Vec::new(),
        };
        Score {
            norm: nuclear_norm(logits, vocabulary),
            distance: self.queue.mean_distance(&projection),
            projection,
        }
    }

    /// Chooses the rows of the coming step, in the order of its slots.
    ///
    /// # Errors
    /// None but a bug.
    pub fn choose(&mut self, choice: Choice<'_>, settings: UdsSettings) -> Result<Vec<Pick>> {
        let Choice {
            cells,
            scores,
            clips,
            step,
            stage,
            began,
        } = choice;
        let score = |pick: &Pick| {
            let found = scores.get(&pick.row)?;
            Some(found.norm + settings.alpha * found.distance)
        };
        let mut chosen = Vec::with_capacity(cells.len());
        for cell in cells {
            let of_cell: Vec<Option<f64>> = cell.picks.iter().map(score).collect();
            chosen.push(cell.choose(&of_cell));
        }
        let picks = in_slots(cells, &chosen)?;

        let of_chosen: Vec<&Score> = picks
            .iter()
            .filter_map(|pick| scores.get(&pick.row))
            .collect();
        let record = SelectionRecord {
            at_step: step,
            stage,
            candidates: scores.len(),
            norm: mean(scores.values().map(|score| score.norm)),
            chosen_norm: mean(of_chosen.iter().map(|score| score.norm)),
            distance: mean(scores.values().map(|score| score.distance)),
            chosen_distance: mean(of_chosen.iter().map(|score| score.distance)),
        };
        self.coming = Some(Coming {
            clips,
            projections: of_chosen
                .iter()
                .map(|score| score.projection.clone())
                .collect(),
            capacity: settings.queue,
            record,
            took: began.elapsed(),
        });
        Ok(picks)
    }

    /// Takes the choice for a step that was made now over into the queue; `None` for a step without
    /// a choice.
    pub fn take(&mut self) -> Option<Chosen> {
        let coming = self.coming.take()?;
        for projection in coming.projections {
            self.queue.push(projection, coming.capacity);
        }
        Some(Chosen {
            clips: coming.clips,
            record: coming.record,
            took: coming.took,
        })
    }
}

/// The mean of some numbers; 0 if there are none.
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1);
    values.fold(0.0, |sum, value| sum + value) / count as f64
}
