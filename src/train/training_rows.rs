//! Training rows as a suite asks its own: the same scores on rows that were learnt tell overfitting
//! from not having learnt.

use crate::error::Result;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::records::scores::TRAINING_ROWS;
use crate::records::suite_file::ClusterBy;
use crate::schedule::Schedule;
use crate::seed::Key;
use crate::task::Wording;
use crate::train::run::Run;

/// The suite with `count` training rows in each set: rows of the set's task that a stage can draw,
/// drawn by the seed, with the instructions of the first epoch. Sets of tasks that no stage trains
/// are left out; `None` where none are left.
///
/// # Errors
/// Rows whose example cannot be made.
pub(super) fn suite(
    run: &Run,
    schedule: &Schedule,
    dev: &Suite,
    count: usize,
) -> Result<Option<Suite>> {
    let corpus = &run.corpus;
    let tasks = &corpus.population().tasks;
    let trained = schedule.all_rows();
    let mut sets = Vec::new();
    for set in &dev.sets {
        let of_set = trained.iter().copied();
        let mut rows: Vec<u32> = of_set
            .filter(|&row| tasks[corpus.task_of(row)] == set.task.name)
            .collect();
        if rows.is_empty() {
            continue;
        }
        let order = Key::new(run.seed, TRAINING_ROWS).permutation(rows.len());
        let drawn = order.iter().take(count).map(|&place| rows[place as usize]);
        rows = drawn.collect();
        rows.sort_unstable();

        let examples = rows.iter().map(|&row| corpus.example(row, 0));
        sets.push(Set {
            examples: examples.collect::<Result<_>>()?,
            wording: Wording::Train,
            slices: Vec::new(),
            cluster: ClusterBy::None,
            transcripts: Vec::new(),
            majority: None,
            ..set.clone()
        });
    }
    if sets.is_empty() {
        return Ok(None);
    }
    Ok(Some(Suite {
        sets,
        controls: Vec::new(),
        baselines: Vec::new(),
        ..dev.clone()
    }))
}
