//! Start of stages in the run and in each pool, as planned or after some have ended early.

use std::collections::HashMap;
use std::ops::Range;

use crate::EmbeddingSource;
use crate::Select;
use crate::draw::Pick;
use crate::draw::Pool;
use crate::msft::Segments;
use crate::plan::Planned;

/// Selection of a diverse stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diverse {
    /// Selection rule.
    pub select: Select,
    /// Comparing what.
    pub embeddings: EmbeddingSource,
    /// Steps that share a block of candidates.
    pub block: u64,
}

/// Number of draws from each pool before each stage, and epochs that share an order.
///
/// A stage that may draw each row at most N times can begin in the middle of a pool's epoch e, with
/// rows that this epoch has drawn already. It may draw those rows once more when the others have
/// had their N draws. So epoch e + N has the order of epoch e, which begins with exactly those
/// rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    drawn_before: Vec<Vec<u64>>,
    same_order: HashMap<(usize, u64), u64>,
}

impl Timeline {
    /// The positions of stages of the given lengths (`lengths[stage]` steps were or will be made in
    /// it), some of them with roll-backs. `counts` has the slots of each task in stages whose weights
    /// follow a reward.
    pub(super) fn new(
        planned: &[Planned],
        diverse: &[Option<Diverse>],
        counts: &[Option<Vec<u64>>],
        lengths: &[u64],
        segments: &[Segments],
        batch: u64,
        pools: &[Pool],
    ) -> Self {
        let mut timeline = Self::default();
        let mut drawn = vec![0; pools.len()];
        for (stage, of_stage) in planned.iter().enumerate() {
            timeline.drawn_before.push(drawn.clone());
            timeline.share_orders(of_stage, batch, pools, &drawn);
            if !segments[stage].is_empty() {
                segments[stage].add_counts(lengths[stage], &mut drawn);
                continue;
            }
            // The rest of an unfinished block is not used later, because some of its rows were
            // drawn in no fixed order.
            let steps = match diverse[stage].filter(Diverse::chooses) {
                Some(diverse) if lengths[stage] > 0 => {
                    diverse.block_of(lengths[stage] - 1, of_stage.steps).end
                }
                _ => lengths[stage],
            };
            match (&of_stage.online, &counts[stage]) {
                (Some(online), Some(counts)) => {
                    for (slots, &count) in online.inner.iter().zip(counts) {
                        slots.at(count).add_counts(&mut drawn);
                    }
                }
                _ => of_stage.add_draws(steps * batch, &mut drawn),
            }
        }
        timeline
    }

    fn share_orders(&mut self, stage: &Planned, batch: u64, pools: &[Pool], drawn: &[u64]) {
        let Some(max_repeats) = stage.max_repeats else {
            return;
        };
        let mut quotas = vec![0; pools.len()];
        stage.slots.at(stage.steps * batch).add_counts(&mut quotas);
        for cell in &stage.cells {
            let pool = &pools[cell.pool];
            let (epoch, place) = pool.place(drawn[cell.pool]);
            let without = pool.num_rows() - place + (max_repeats - 1) * pool.num_rows();
            if place > 0 && quotas[cell.pool] > without {
                let order = self.order_of(cell.pool, epoch);
                self.same_order
                    .insert((cell.pool, epoch + max_repeats), order);
            }
        }
    }

    fn order_of(&self, pool: usize, epoch: u64) -> u64 {
        self.same_order
            .get(&(pool, epoch))
            .copied()
            .unwrap_or(epoch)
    }

    /// Draws from a pool before a stage.
    pub(super) fn drawn_before(&self, stage: usize, pool: usize) -> u64 {
        self.drawn_before[stage][pool]
    }

    /// The pick from a pool after `in_stage` draws in this stage.
    pub(super) fn pick(&self, pools: &[Pool], stage: usize, pool: usize, in_stage: u64) -> Pick {
        let (epoch, place) = pools[pool].place(self.drawn_before[stage][pool] + in_stage);
        Pick {
            row: pools[pool].row(self.order_of(pool, epoch), place),
            epoch: u32::try_from(epoch).unwrap_or(u32::MAX),
        }
    }
}

impl Diverse {
    /// Returns whether rows are chosen, and not just taken in their order.
    pub fn chooses(&self) -> bool {
        self.select != Select::Random
    }

    /// The steps, `first..end` in the stage, of the block that serves `step`, in a stage of
    /// `planned` steps. The last block ends with the stage as planned; beyond it whole blocks
    /// follow.
    pub fn block_of(&self, step: u64, planned: u64) -> Range<u64> {
        let origin = if step < planned { 0 } else { planned };
        let first = step - (step - origin) % self.block;
        let end = first.saturating_add(self.block);
        first..if step < planned {
            end.min(planned)
        } else {
            end
        }
    }
}
