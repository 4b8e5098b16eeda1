//! Statistics of batches: evenness of labels, distances of rows, repeats of rows, coverage of
//! cells.
//!
//! A batch is the rows of one step. All figures are counts and means over the given batches,
//! independent of the way they were drawn.

use std::collections::BTreeMap;
use std::collections::HashMap;

use crate::Embeddings;
use crate::NO_LABEL;
use crate::Population;
use crate::embeddings::cosine;

/// Evenness of counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entropy {
    /// Shannon's entropy of the shares, in nats.
    pub nats: f64,
    /// The entropy over the log of the number of classes: 1 if all are equal, 0 if only one class
    /// occurs or exists.
    pub relative: f64,
}

/// The entropy of counts, one for each class that could occur.
pub fn entropy(counts: &[u64]) -> Entropy {
    let total: u64 = counts.iter().sum();
    let part = |&count: &u64| {
        if count == 0 {
            0.0
        } else {
            count as f64 / total as f64 * libm::log(total as f64 / count as f64)
        }
    };
    let nats = counts.iter().map(part).sum::<f64>();
    Entropy {
        nats,
        relative: if counts.len() > 1 {
            nats / libm::log(counts.len() as f64)
        } else {
            0.0
        },
    }
}

/// Mean over batches of the entropy of a task's labels, over the labels that have rows in the
/// population. Batches without a labelled row of the task do not count. `None` if there is none.
pub fn label_entropy(
    population: &Population,
    task: usize,
    batches: &[Vec<u32>],
) -> Option<Entropy> {
    let label = |row: u32| {
        Some(population.label_of(row)).filter(|&label| {
            label != NO_LABEL && usize::from(population.row_task[row as usize]) == task
        })
    };
    let mut places: BTreeMap<u16, usize> = (0..population.row_label.len() as u32)
        .filter_map(label)
        .map(|label| (label, 0))
        .collect();
    places
        .values_mut()
        .enumerate()
        .for_each(|(place, of)| *of = place);
    mean_entropy(
        batches,
        |row| label(row).map(|label| places[&label]),
        places.len(),
    )
}

/// The mean over batches of the entropy of tasks, over the tasks that have rows in the population.
pub fn task_entropy(population: &Population, batches: &[Vec<u32>]) -> Option<Entropy> {
    let mut places: BTreeMap<u16, usize> =
        population.row_task.iter().map(|&task| (task, 0)).collect();
    places
        .values_mut()
        .enumerate()
        .for_each(|(place, of)| *of = place);
    mean_entropy(
        batches,
        |row| places.get(&population.row_task[row as usize]).copied(),
        places.len(),
    )
}

fn mean_entropy(
    batches: &[Vec<u32>],
    class: impl Fn(u32) -> Option<usize>,
    classes: usize,
) -> Option<Entropy> {
    let mut sum = Entropy {
        nats: 0.0,
        relative: 0.0,
    };
    let mut count = 0.0;
    for batch in batches {
        let mut counts = vec![0; classes];
        batch
            .iter()
            .filter_map(|&row| class(row))
            .for_each(|class| counts[class] += 1);
        if counts.iter().any(|&count| count > 0) {
            let found = entropy(&counts);
            sum = Entropy {
                nats: sum.nats + found.nats,
                relative: sum.relative + found.relative,
            };
            count += 1.0;
        }
    }
    (count > 0.0).then(|| Entropy {
        nats: sum.nats / count,
        relative: sum.relative / count,
    })
}

/// Cosine distances between the rows of a batch: 0 for equal, 1 for orthogonal, 2 for opposite
/// directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Mean over rows of the distance to the nearest other row of the batch.
    pub nearest: f64,
    /// Mean distance of two rows of a batch.
    pub pairwise: f64,
}

/// The mean spread of batches. Rows with and without audio are compared separately. A row without
/// another of its form in the batch, or without embedding, does not count. `None` if no two rows
/// can be compared.
pub fn spread(
    population: &Population,
    embeddings: &Embeddings,
    batches: &[Vec<u32>],
) -> Option<Spread> {
    let mut sums = Sums::default();
    batches
        .iter()
        .for_each(|batch| sums.add(population, embeddings, batch));
    sums.mean()
}

/// The spread of batches by their place in the block, for the consecutive batches of a diverse
/// stage from its first: the first of a block had most to choose from.
pub fn spread_by_place(
    population: &Population,
    embeddings: &Embeddings,
    batches: &[Vec<u32>],
    block: usize,
) -> Vec<Option<Spread>> {
    let mut sums = vec![Sums::default(); block];
    batches
        .iter()
        .enumerate()
        .for_each(|(step, batch)| sums[step % block].add(population, embeddings, batch));
    sums.iter().map(Sums::mean).collect()
}

#[derive(Clone, Debug, Default)]
struct Sums {
    nearest: f64,
    rows: f64,
    pairwise: f64,
    pairs: f64,
}

impl Sums {
    fn add(&mut self, population: &Population, embeddings: &Embeddings, batch: &[u32]) {
        for has_audio in [true, false] {
            let of_form = batch
                .iter()
                .filter(|&&row| population.has_audio(row) == has_audio);
            let vectors: Vec<&[f32]> = of_form
                .filter_map(|&row| embeddings.of(row, has_audio))
                .collect();
            if vectors.len() < 2 {
                continue;
            }
            for (i, vector) in vectors.iter().enumerate() {
                let others = vectors
                    .iter()
                    .enumerate()
                    .filter(|(j, _)| *j != i)
                    .map(|(_, other)| 1.0 - f64::from(cosine(vector, other)));
                let (smallest, sum) = others
                    .fold((f64::INFINITY, 0.0), |(smallest, sum), distance| {
                        (distance.min(smallest), sum + distance)
                    });
                (self.nearest, self.rows) = (self.nearest + smallest, self.rows + 1.0);
                (self.pairwise, self.pairs) =
                    (self.pairwise + sum, self.pairs + (vectors.len() - 1) as f64);
            }
        }
    }

    fn mean(&self) -> Option<Spread> {
        (self.rows > 0.0).then(|| Spread {
            nearest: self.nearest / self.rows,
            pairwise: self.pairwise / self.pairs,
        })
    }
}

/// Repeats of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repeats {
    /// Number of rows by their number of draws.
    pub histogram: BTreeMap<u64, u64>,
    /// Draws of the row that was drawn most; 0 without any.
    pub max: u64,
}

/// Counts the draws of each row over all batches, without rows that were never drawn.
pub fn repeats(batches: &[Vec<u32>]) -> Repeats {
    let mut draws: HashMap<u32, u64> = HashMap::new();
    batches
        .iter()
        .flatten()
        .for_each(|&row| *draws.entry(row).or_default() += 1);
    let mut found = Repeats {
        max: draws.values().max().copied().unwrap_or(0),
        ..Repeats::default()
    };
    draws
        .into_values()
        .for_each(|count| *found.histogram.entry(count).or_default() += 1);
    found
}

/// Coverage of a cell of the population.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Place of the task.
    pub task: usize,
    /// Place of the label among the task's, or [`NO_LABEL`].
    pub label: u16,
    /// True if the rows have audio.
    pub has_audio: bool,
    /// Rows of the cell, whether or not a data entry holds them.
    pub num_rows: u64,
    /// Number of rows that were drawn at least once.
    pub num_drawn: u64,
    /// Draws, repeats included.
    pub num_draws: u64,
}

impl Coverage {
    /// The share of the cell's rows that was drawn.
    pub fn share(&self) -> f64 {
        self.num_drawn as f64 / self.num_rows as f64
    }
}

/// The coverage of each cell that has rows, in the order of tasks, labels and forms.
pub fn coverage(population: &Population, batches: &[Vec<u32>]) -> Vec<Coverage> {
    let mut draws = vec![0u32; population.row_task.len()];
    batches
        .iter()
        .flatten()
        .for_each(|&row| draws[row as usize] += 1);
    let mut cells: BTreeMap<(u16, u16, bool), Coverage> = BTreeMap::new();
    for (row, (&task, &draws)) in population.row_task.iter().zip(&draws).enumerate() {
        let label = population.label_of(row as u32);
        let has_audio = population.has_audio(row as u32);
        let empty = Coverage {
            task: usize::from(task),
            label,
            has_audio,
            num_rows: 0,
            num_drawn: 0,
            num_draws: 0,
        };
        let cell = cells.entry((task, label, !has_audio)).or_insert(empty);
        cell.num_rows += 1;
        cell.num_drawn += u64::from(draws > 0);
        cell.num_draws += u64::from(draws);
    }
    cells.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vectors;

    fn population() -> Population {
        Population {
            tasks: vec!["asr".into(), "emotion".into()],
            labels: vec![vec![], vec!["happy".into(), "sad".into(), "angry".into()]],
            row_task: vec![0, 0, 1, 1, 1, 1],
            row_label: vec![NO_LABEL, NO_LABEL, 0, 0, 2, NO_LABEL],
            row_has_audio: vec![true, true, true, true, false, true],
            ..Population::default()
        }
    }

    #[test]
    fn entropies_by_hand() {
        let close = |found: Entropy, nats: f64, relative: f64| {
            (found.nats - nats).abs() < 1e-15 && (found.relative - relative).abs() < 1e-15
        };
        assert!(
            close(entropy(&[2, 2, 2, 2]), 4f64.ln(), 1.0)
                && close(entropy(&[5, 0]), 0.0, 0.0)
                && close(entropy(&[3]), 0.0, 0.0)
                && close(entropy(&[]), 0.0, 0.0)
        );
        assert!(
            close(
                entropy(&[3, 1]),
                0.75 * (4f64 / 3.0).ln() + 0.25 * 4f64.ln(),
                0.8112781244591328
            ),
            "the relative is that of bits"
        );
        let batches = [vec![2, 4, 0], vec![2, 3, 5], vec![0, 1]];
        // Two labels have rows. One batch has both, one has one of them, the last has none and does
        // not count.
        assert!(close(
            label_entropy(&population(), 1, &batches).unwrap(),
            2f64.ln() / 2.0,
            0.5
        ));
        assert_eq!(
            (
                label_entropy(&population(), 0, &batches),
                label_entropy(&population(), 1, &[])
            ),
            (None, None)
        );
        let mixed = entropy(&[1, 2]);
        assert!(close(
            task_entropy(&population(), &batches).unwrap(),
            mixed.nats / 3.0,
            mixed.relative / 3.0
        ));
    }

    #[test]
    fn distances_by_hand() {
        // Along four axes that centre to themselves; 5 equals 0.
        let values = vec![
            1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0, 1.0, 0.0, -1.0, 0.0,
        ];
        let audio = Vectors {
            rows: vec![0, 1, 2, 3, 5, 9],
            dims: 2,
            values,
        };
        let embeddings = Embeddings::new(
            audio,
            Vectors {
                rows: vec![4],
                dims: 1,
                values: vec![1.0],
            },
            1,
        )
        .unwrap();
        let close = |found: Option<Spread>, nearest: f64, pairwise: f64| {
            found.is_some_and(|found| {
                (found.nearest - nearest).abs() < 1e-6 && (found.pairwise - pairwise).abs() < 1e-6
            })
        };
        let batches = [vec![0, 2, 4], vec![0, 5, 1], vec![4]];
        assert!(
            close(spread(&population(), &embeddings, &batches[..1]), 2.0, 2.0),
            "opposites; the text is alone in its space"
        );
        // 0 and 5 are equal, and 1 is orthogonal to both.
        assert!(close(
            spread(&population(), &embeddings, &batches[1..]),
            1.0 / 3.0,
            2.0 / 3.0
        ));
        assert!(close(
            spread(&population(), &embeddings, &batches),
            (2.0 * 2.0 + 1.0) / 5.0,
            (2.0 * 2.0 + 4.0) / 8.0
        ));
        let by_place = spread_by_place(&population(), &embeddings, &batches, 2);
        assert!(close(by_place[0], 2.0, 2.0) && close(by_place[1], 1.0 / 3.0, 2.0 / 3.0));
        assert_eq!(spread(&population(), &embeddings, &batches[2..]), None);
    }

    #[test]
    fn repeats_and_coverage_by_hand() {
        let batches = [vec![0, 2, 2], vec![0, 4, 2]];
        assert_eq!(
            repeats(&batches),
            Repeats {
                histogram: BTreeMap::from([(1, 1), (2, 1), (3, 1)]),
                max: 3
            }
        );
        assert_eq!(repeats(&[]), Repeats::default());
        let found: Vec<_> = coverage(&population(), &batches)
            .into_iter()
            .map(|cell| {
                (
                    cell.task,
                    cell.label,
                    cell.has_audio,
                    cell.num_rows,
                    cell.num_drawn,
                    cell.num_draws,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (0, NO_LABEL, true, 2, 1, 2),
                (1, 0, true, 2, 1, 3),
                (1, 2, false, 1, 1, 1),
                (1, NO_LABEL, true, 1, 0, 0)
            ]
        );
        assert_eq!(coverage(&population(), &batches)[1].share(), 0.5);
    }
}
