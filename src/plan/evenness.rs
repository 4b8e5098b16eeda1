//! What batches are like beside those that chance would make of the same draws: how level over
//! tasks and labels, how far apart their rows.

use crate::plan::draws::StageDraws;
use crate::plan::draws::rows_of;
use crate::plan::table::Table;
use crate::schedule::Embeddings;
use crate::schedule::Population;
use crate::schedule::spread;
use crate::schedule::spread::Spread;
use crate::seed::Key;
use crate::text_table::NOTHING;

/// Most steps of a stage whose rows are compared with each other, from its first.
pub const MOST_COMPARED: usize = 1_000;

/// What the batches of a stage are like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batches {
    /// Mean entropy of tasks over its largest possible value, from 0, one task, to 1, all alike.
    pub tasks: Option<f64>,
    /// The same of labels, the mean over tasks that have labels.
    pub labels: Option<f64>,
    /// How far apart rows are.
    pub spread: Option<Spread>,
}

/// A stage beside chance.
pub struct Evenness {
    /// As the stage draws.
    pub drawn: Batches,
    /// The same rows in each block and cell, taken as they come; only where the stage chooses.
    pub unchosen: Option<Batches>,
    /// All draws of the stage in a random order.
    pub at_random: Batches,
    /// Spread by place in the block, as the stage draws and unchosen; only where the stage chooses.
    pub by_place: Vec<(Option<Spread>, Option<Spread>)>,
}

/// Compares the batches of a stage with what chance makes of its draws.
pub fn of_stage(
    population: &Population,
    draws: &StageDraws,
    embeddings: Option<&Embeddings>,
    seed: u64,
) -> Evenness {
    let batches = draws.batches();
    let known = embeddings.filter(|_| draws.unknown.is_none());
    let unchosen = draws.unchosen.as_ref().map(|steps| rows_of(steps));
    let by_place = match (known, draws.stage.diverse, &unchosen) {
        (Some(embeddings), Some(diverse), Some(unchosen)) => {
            let block = diverse.block as usize;
            let [drawn, unchosen] = [&batches, unchosen].map(|batches| {
                spread::spread_by_place(population, embeddings, compared(batches), block)
            });
            drawn.into_iter().zip(unchosen).collect()
        }
        _ => Vec::new(),
    };
    Evenness {
        drawn: describe(population, &batches, known),
        unchosen: unchosen.map(|batches| describe(population, &batches, known)),
        at_random: describe(
            population,
            &shuffled(
                &batches,
                Key::new(seed, "plan order").with(draws.stage.start),
            ),
            known,
        ),
        by_place,
    }
}

fn compared(batches: &[Vec<u32>]) -> &[Vec<u32>] {
    &batches[..batches.len().min(MOST_COMPARED)]
}

fn describe(
    population: &Population,
    batches: &[Vec<u32>],
    embeddings: Option<&Embeddings>,
) -> Batches {
    let labels: Vec<f64> = (0..population.tasks.len())
        .filter_map(|task| Some(spread::label_entropy(population, task, batches)?.relative))
        .collect();
    Batches {
        tasks: spread::task_entropy(population, batches).map(|entropy| entropy.relative),
        labels: (!labels.is_empty()).then(|| labels.iter().sum::<f64>() / labels.len() as f64),
        spread: embeddings
            .and_then(|embeddings| spread::spread(population, embeddings, compared(batches))),
    }
}

/// All rows of the batches in a seeded order, in batches of the same sizes.
fn shuffled(batches: &[Vec<u32>], key: Key) -> Vec<Vec<u32>> {
    let rows: Vec<u32> = batches.iter().flatten().copied().collect();
    let mut order = key
        .permutation(rows.len())
        .into_iter()
        .map(|place| rows[place as usize]);
    batches
        .iter()
        .map(|batch| order.by_ref().take(batch.len()).collect())
        .collect()
}

const COLUMNS: [&str; 6] = ["stage", "batches", "tasks", "labels", "nearest", "pairwise"];

const NOTE: &str = "Entropy over its largest value (1: all tasks, or labels, alike); cosine distance of a row to the nearest other of its batch, \
    and of any two. `in order` fills the same slots without a choice; `random` puts the stage's draws in any order.";

/// The table of all stages.
pub fn table(stages: &[(String, Evenness)]) -> Table {
    let mut table = Table::new("batches beside chance", NOTE, &COLUMNS, 2);
    for (name, evenness) in stages {
        let lines = [
            ("drawn", Some(&evenness.drawn)),
            ("in order", evenness.unchosen.as_ref()),
            ("random", Some(&evenness.at_random)),
        ];
        for (i, (kind, batches)) in lines
            .into_iter()
            .filter_map(|(kind, batches)| Some((kind, batches?)))
            .enumerate()
        {
            let number = |value: Option<f64>| {
                value.map_or(NOTHING.to_owned(), |value| format!("{value:.3}"))
            };
            let spread = batches.spread;
            let name = if i == 0 { name.clone() } else { String::new() };
            let numbers = [
                batches.tasks,
                batches.labels,
                spread.map(|spread| spread.nearest),
                spread.map(|spread| spread.pairwise),
            ]
            .map(number);
            table
                .rows
                .push([name, kind.to_owned()].into_iter().chain(numbers).collect());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_order_keeps_rows_and_sizes() {
        let batches = vec![vec![1, 1, 2], vec![3], vec![4, 5]];
        let found = shuffled(&batches, Key::new(3, "t"));
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 2]);
        let mut rows: Vec<u32> = found.into_iter().flatten().collect();
        rows.sort_unstable();
        assert_eq!(rows, [1, 1, 2, 3, 4, 5]);
    }
}
