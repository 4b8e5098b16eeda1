//! Blocks of a diverse stage: the draws that some consecutive steps share, and what each of these
//! steps takes of them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::draw::Pick;
use crate::embeddings::Embeddings;
use crate::embeddings::random_direction;
use crate::plan::Planned;
use crate::select::Batch;
use crate::select::Candidates;
use crate::settings::Select;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;
use maqam_stats::kmeans;

/// Iterations of k-means over a block; after them, few rows still change their cluster.
const MAX_ITERATIONS: usize = 50;

/// Source of the rows' vectors.
pub(super) enum Source<'a> {
    /// Embeddings of a model.
    Given(&'a Embeddings),
    /// Random directions.
    Random(Key),
}

/// Inputs of a block.
pub(super) struct Origin<'a> {
    /// The stage's place.
    pub(super) stage: usize,
    /// The stage.
    pub(super) planned: &'a Planned,
    /// Steps of the block, in the stage.
    pub(super) steps: Range<u64>,
    /// Examples per step.
    pub(super) batch: usize,
    /// The rule.
    pub(super) select: Select,
    /// The schedule's seed.
    pub(super) seed: u64,
    /// Vectors that are compared.
    pub(super) source: Source<'a>,
}

/// The draws of consecutive steps, and what the steps so far took of them.
pub(super) struct Block {
    stage: usize,
    steps: Range<u64>,
    select: Select,
    /// Key of a step's randomness, by its number in the stage.
    key: Key,
    cells: Vec<Candidates>,
    num_clusters: usize,
    /// Cell of each slot, by step of the block and slot.
    slots: Vec<Vec<usize>>,
    /// Picks so far, by step of the block.
    drawn: Vec<Vec<Pick>>,
}

impl Block {
    /// The block of these steps, before its first step. `pick` returns a stage's draw from a pool
    /// by its number.
    fn new(origin: &Origin<'_>, pick: impl Fn(usize, u64) -> Pick) -> Result<Self> {
        let Origin {
            stage,
            planned,
            ref steps,
            batch,
            select,
            seed,
            ..
        } = *origin;
        let mut cells = Vec::with_capacity(planned.cells.len());
        let mut place_of = HashMap::with_capacity(planned.cells.len());
        for (place, cell) in planned.cells.iter().enumerate() {
            place_of.insert(cell.pool, place);
            cells.push(Candidates {
                pool: cell.pool,
                has_audio: cell.has_audio,
                picks: Vec::new(),
                vectors: Vec::new(),
                clusters: Vec::new(),
                left: Vec::new(),
            });
        }
        let mut cursor = planned.slots.at(steps.start.saturating_mul(batch as u64));
        let mut next = || {
            let (pool, in_stage) = cursor.next();
            let cell = place_of
                .get(&pool)
                .copied()
                .ok_or_else(|| Error::bug("a slot of a diverse stage goes to no cell"))?;
            cells[cell].picks.push(pick(pool, in_stage));
            Ok(cell)
        };
        let slots = steps
            .clone()
            .map(|_| (0..batch).map(|_| next()).collect())
            .collect::<Result<Vec<Vec<usize>>>>()?;
        for cell in &mut cells {
            cell.left = (0..cell.picks.len()).collect();
            origin.source.embed(cell)?;
        }
        let mut block = Self {
            stage,
            steps: steps.clone(),
            select,
            key: Key::new(seed, "diverse").with(stage as u64),
            cells,
            num_clusters: 0,
            slots,
            drawn: Vec::new(),
        };
        if select == Select::Kmeans {
            block.cluster();
        }
        Ok(block)
    }

    /// Clusters the rows with audio, as many as the step with most slots for them has.
    fn cluster(&mut self) {
        let num_with_audio = |slots: &Vec<usize>| {
            slots
                .iter()
                .filter(|&&cell| self.cells[cell].has_audio)
                .count()
        };
        self.num_clusters = self.slots.iter().map(num_with_audio).max().unwrap_or(0);
        let with_audio = || {
            self.cells
                .iter()
                .filter(|cell| cell.has_audio && !cell.picks.is_empty())
        };
        let Some(dims) = with_audio()
            .map(|cell| cell.vectors.len() / cell.picks.len())
            .next()
            .filter(|&dims| dims > 0)
        else {
            return;
        };
        let values: Vec<f32> = with_audio()
            .flat_map(|cell| &cell.vectors)
            .copied()
            .collect();
        let centres = kmeans::plus_plus(
            &values,
            dims,
            self.num_clusters,
            self.key.with_name("kmeans").with(self.steps.start),
        );
        let mut assignments = kmeans::lloyd(&values, dims, centres, MAX_ITERATIONS)
            .assignments
            .into_iter();
        for cell in self.cells.iter_mut().filter(|cell| cell.has_audio) {
            cell.clusters = assignments.by_ref().take(cell.picks.len()).collect();
        }
    }

    /// The picks of a step of the block, in slot order; draws earlier steps first if necessary.
    fn picks(&mut self, step: u64) -> Vec<Pick> {
        let place = (step - self.steps.start) as usize;
        while self.drawn.len() <= place {
            let slots = &self.slots[self.drawn.len()];
            let mut batch = Batch::new(
                self.key.with(self.steps.start + self.drawn.len() as u64),
                self.num_clusters,
            );
            let mut counts = vec![0; self.cells.len()];
            slots.iter().for_each(|&cell| counts[cell] += 1);
            let mut drawn: Vec<_> = self
                .cells
                .iter_mut()
                .zip(counts)
                .map(|(cell, count)| batch.draw(cell, count, self.select).into_iter())
                .collect();
            let picks = slots
                .iter()
                .filter_map(|&cell| drawn[cell].next())
                .collect();
            self.drawn.push(picks);
        }
        self.drawn[place].clone()
    }
}

impl Source<'_> {
    /// Looks up the vectors of a cell's draws.
    fn embed(&self, cell: &mut Candidates) -> Result<()> {
        for pick in &cell.picks {
            match self {
                Self::Random(key) => random_direction(*key, pick.row, &mut cell.vectors),
                Self::Given(embeddings) => match embeddings.of(pick.row, cell.has_audio) {
                    Some(vector) => cell.vectors.extend_from_slice(vector),
                    None => return Err(Error::bug(format!("row {} has no embedding", pick.row))),
                },
            }
        }
        Ok(())
    }
}

/// The last block that was used. Going forwards computes each block once; the picks do not depend
/// on this cache.
#[derive(Default)]
pub(super) struct LastBlock(Mutex<Option<Block>>);

impl LastBlock {
    /// The picks of a step of the block.
    pub(super) fn picks(
        &self,
        origin: &Origin<'_>,
        step: u64,
        pick: impl Fn(usize, u64) -> Pick,
    ) -> Result<Vec<Pick>> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = last
            .as_ref()
            .is_some_and(|block| block.stage == origin.stage && block.steps == origin.steps);
        match last.as_mut().filter(|_| is_known) {
            Some(block) => Ok(block.picks(step)),
            None => Ok(last.insert(Block::new(origin, pick)?).picks(step)),
        }
    }
}

/// A copy of a schedule has its own cached blocks, because it may get other embeddings.
impl Clone for LastBlock {
    fn clone(&self) -> Self {
        Self::default()
    }
}
