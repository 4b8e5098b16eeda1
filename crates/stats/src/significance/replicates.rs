//! The loop of every resampling method: rows weighted at random, their sums, a statistic of the
//! sums.

use rayon::prelude::*;

use super::clusters::Table;
use maqam_base::seed::Key;

/// Resamples that go through the table together: a row is fetched once for all of them.
const BLOCK: usize = 8;

/// Draws the weights of one resample: adds to the given zeros, one per row of the table.
pub(super) type DrawWeights<'a> = dyn Fn(u64, &mut [u32]) + Sync + 'a;

/// Writes what is wanted of one resample, given its number and the sums of the columns.
pub(super) type Statistic<'a> = dyn Fn(u64, &[f64], &mut [f64]) + Sync + 'a;

/// `num_outputs` numbers for each of `resamples` resamples, `[resamples, num_outputs]`.
///
/// Resample i depends on i alone and its sums are added row by row, so threads change no bit.
pub(super) fn replicates(
    table: &Table,
    resamples: usize,
    num_outputs: usize,
    draw: &DrawWeights,
    statistic: &Statistic,
) -> Vec<f64> {
    let mut found = vec![0.0; resamples * num_outputs];
    let scratch = || {
        (
            vec![0u32; BLOCK * table.num_rows()],
            vec![0.0; BLOCK * table.width()],
        )
    };
    found
        .par_chunks_mut(BLOCK * num_outputs)
        .enumerate()
        .for_each_init(scratch, |(weights, sums), (block, outputs)| {
            let first = (block * BLOCK) as u64;
            let num_resamples = outputs.len() / num_outputs;
            weights.fill(0);
            for (resample, weights) in (first..).zip(
                weights
                    .chunks_exact_mut(table.num_rows())
                    .take(num_resamples),
            ) {
                draw(resample, weights);
            }
            add_up(table, &weights[..num_resamples * table.num_rows()], sums);
            for ((resample, outputs), sums) in (first..)
                .zip(outputs.chunks_exact_mut(num_outputs))
                .zip(sums.chunks_exact(table.width()))
            {
                statistic(resample, sums, outputs);
            }
        });
    found
}

/// Weighted sums of the rows, one for each set of weights, from zero.
fn add_up(table: &Table, weights: &[u32], sums: &mut [f64]) {
    sums.fill(0.0);
    for (row, values) in table.rows().enumerate() {
        let of_row = weights[row..].iter().step_by(table.num_rows());
        for (&weight, sums) in of_row.zip(sums.chunks_exact_mut(table.width())) {
            if weight > 0 {
                let weight = f64::from(weight);
                sums.iter_mut()
                    .zip(values)
                    .for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }
}

/// Draws as many rows as there are, with replacement.
pub(super) fn with_replacement(key: Key, weights: &mut [u32]) {
    let num_rows = weights.len();
    for position in 0..num_rows {
        weights[key.below(position as u64, num_rows)] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::of_rows(2, (0..50).map(|i| vec![0.1 * f64::from(i), 1.0]))
    }

    #[test]
    fn sums_are_those_of_the_drawn_rows() {
        // Computed by hand from the same draws, adding one row at a time.
        let key = Key::new(1, "rows");
        let draw =
            |resample: u64, weights: &mut [u32]| with_replacement(key.with(resample), weights);
        let found = replicates(&table(), 21, 2, &draw, &|_, sums, out| {
            out.copy_from_slice(sums)
        });
        for (resample, sums) in found.chunks_exact(2).enumerate() {
            let rows =
                (0..50).map(|position| key.with(resample as u64).below(position, 50) as f64 * 0.1);
            assert!(
                (sums[0] - rows.sum::<f64>()).abs() < 1e-11,
                "fifty additions in another order"
            );
            assert_eq!(sums[1], 50.0);
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let draw = |resample: u64, weights: &mut [u32]| {
            with_replacement(Key::new(1, "rows").with(resample), weights)
        };
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                replicates(&table(), 1003, 1, &draw, &|resample, sums, out| {
                    out[0] = sums[0] / sums[1] + resample as f64
                })
            })
        };
        let one = run(1);
        assert!(
            one.iter()
                .enumerate()
                .all(|(i, value)| (value - i as f64) > 0.5),
            "each stands at its place"
        );
        assert!([2, 5].into_iter().all(|threads| {
            run(threads)
                .iter()
                .zip(&one)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        }));
    }
}
