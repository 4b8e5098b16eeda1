//! Moving rows: each of these is linear, so a gradient is a transpose.

use candle_core::Tensor;
use maqam::ops::rows::add_to;
use maqam::ops::rows::gather;
use maqam::ops::rows::overwrite;
use maqam::ops::rows::pool_pairs;
use maqam::ops::rows::pool_pairs_backward;
use maqam::ops::rows::scatter_add;
use maqam::ops::rows::spread;
use maqam::ops::rows::stack_rows;
use maqam::ops::rows::stack_rows_backward;

use crate::support::assert_gradient;
use crate::support::assert_near;
use crate::support::copy;
use crate::support::dot;
use crate::support::flat;
use crate::support::random;
use crate::support::zeros_like;

#[test]
fn gather_picks_rows_and_scatter_add_gives_them_back() {
    let table = random("table", &[9, 5]);
    let ids = [3, 0, 3, 8, 3, 1];
    let dy = random("dy", &[ids.len(), 5]);
    let rows = table.to_vec2::<f64>().unwrap();
    let found = gather(&table, &ids).unwrap().to_vec2::<f64>().unwrap();
    assert!(
        ids.iter()
            .zip(&found)
            .all(|(&id, row)| *row == rows[id as usize])
    );
    let d_table = zeros_like(&table);
    scatter_add(&d_table, &ids, &dy).unwrap();
    assert_gradient("gather", &table, &d_table, |table| {
        dot(&dy, &gather(table, &ids).unwrap())
    });
    scatter_add(&d_table, &ids, &dy).unwrap();
    assert_gradient("gather, twice", &table, &d_table, |table| {
        2.0 * dot(&dy, &gather(table, &ids).unwrap())
    });
    assert!(gather(&table, &[9]).is_err());
    assert!(scatter_add(&d_table, &[9], &random("one", &[1, 5])).is_err());
    assert!(scatter_add(&d_table, &[1], &random("two", &[2, 5])).is_err());
    assert!(scatter_add(&d_table, &[1], &random("narrow", &[1, 4])).is_err());
}

#[test]
fn overwrite_and_spread_put_rows_at_their_ids() {
    let target = random("target", &[6, 4]);
    let source = random("source", &[3, 4]);
    let ids = [5, 0, 2];
    let dy = random("dy", &[6, 4]);
    let placed = |target: &Tensor, source: &Tensor| {
        let out = copy(target);
        overwrite(&out, &ids, source).unwrap();
        out
    };
    // The gradient of what was written is picked up where it was written, that of what was there
    // before is zero in these rows.
    assert_gradient(
        "overwrite source",
        &source,
        &gather(&dy, &ids).unwrap(),
        |source| dot(&dy, &placed(&target, source)),
    );
    let d_target = copy(&dy);
    overwrite(&d_target, &ids, &zeros_like(&source)).unwrap();
    assert_gradient("overwrite target", &target, &d_target, |target| {
        dot(&dy, &placed(target, &source))
    });

    let d_rows = random("d_rows", &[3, 4]);
    assert_gradient("spread", &target, &spread(&d_rows, &ids, 6).unwrap(), |x| {
        dot(&d_rows, &gather(x, &ids).unwrap())
    });
    assert!(overwrite(&target, &[6, 0, 1], &source).is_err());
    assert!(overwrite(&target, &[0, 1], &source).is_err());
}

#[test]
fn pairs_are_averaged_inside_each_segment() {
    for segments in [vec![4], vec![5, 1, 2, 7], vec![1, 3], vec![0, 2, 0, 3]] {
        let rows = segments.iter().sum();
        let x = random("x", &[rows, 3]);
        let y = pool_pairs(&x, &segments).unwrap();
        let values = x.to_vec2::<f64>().unwrap();
        let mut expected = Vec::new();
        let mut start = 0;
        for len in &segments {
            expected.extend(
                values[start..start + len]
                    .chunks_exact(2)
                    .flat_map(|pair| (0..3).map(|i| (pair[0][i] + pair[1][i]) / 2.0)),
            );
            start += len;
        }
        assert_eq!(flat(&y), expected);
        let dy = random("dy", y.dims());
        let dx = pool_pairs_backward(&dy, &segments).unwrap();
        assert_gradient("pool_pairs", &x, &dx, |x| {
            dot(&dy, &pool_pairs(x, &segments).unwrap())
        });
    }
    let nothing = pool_pairs(&random("x", &[1, 3]), &[1]).unwrap();
    assert_eq!(nothing.dims(), [0, 3]);
    assert_eq!(
        flat(&pool_pairs_backward(&nothing, &[1]).unwrap()),
        [0.0; 3]
    );
    assert!(
        pool_pairs(&random("x", &[3, 3]), &[4]).is_err(),
        "segments longer than the rows"
    );
    assert!(pool_pairs_backward(&random("dy", &[3, 3]), &[4]).is_err());
}

#[test]
fn add_to_adds_in_place() {
    let a = random("a", &[40, 300]);
    let b = random("b", &[40, 300]);
    let sum = (&a + &b).unwrap();
    add_to(&a, &b).unwrap();
    assert_near("a + b", &a, &sum, 0.0);
    assert!(add_to(&a, &random("short", &[40, 299])).is_err());
}

#[test]
fn stacks_stand_side_by_side_and_are_taken_apart() {
    let x = random("x", &[9, 4]);
    let segments = [5, 1, 3];
    let rows = x.to_vec2::<f64>().unwrap();
    for stack in [1, 2, 3, 7] {
        let found = stack_rows(&x, &segments, stack).unwrap();
        let mut expected: Vec<Vec<f64>> = Vec::new();
        for segment in [&rows[..5], &rows[5..6], &rows[6..]] {
            for part in segment.chunks(stack) {
                let mut row = part.concat();
                row.resize(stack * 4, 0.0);
                expected.push(row);
            }
        }
        assert_eq!(found.to_vec2::<f64>().unwrap(), expected, "{stack}");

        let dy = random("dy", found.dims());
        let dx = stack_rows_backward(&dy, &segments, stack).unwrap();
        assert_gradient("stack_rows", &x, &dx, |x| {
            dot(&dy, &stack_rows(x, &segments, stack).unwrap())
        });
        assert!(stack_rows_backward(&random("few", &[2, 4 * stack]), &segments, stack).is_err());
    }
    assert!(stack_rows(&x, &[5, 1], 2).is_err());
    assert!(stack_rows(&x, &segments, 0).is_err());
}
