//! TIES on matrices: trim, elect sign, merge (Yadav et al. 2023, arXiv 2306.01708).
//!
//! Details follow PEFT's `ties`: values are trimmed matrix by matrix, signs are elected before
//! weights are applied, a sum of zero elects plus, and the mean is over the values that were kept.

/// Merges matrices of one shape, `[values]` each; `weights` are theirs.
pub(super) fn merge(mut deltas: Vec<Vec<f32>>, weights: &[f32], density: f64) -> Vec<f32> {
    deltas.iter_mut().for_each(|delta| trim(delta, density));
    let len = deltas.first().map_or(0, Vec::len);

    let mut merged = Vec::with_capacity(len);
    for place in 0..len {
        let total: f32 = deltas.iter().map(|delta| delta[place]).sum();
        let sign = if total >= 0.0 { 1.0 } else { -1.0 };
        let mut sum = 0.0;
        let mut count = 0u32;
        for (delta, weight) in deltas.iter().zip(weights) {
            // Zeros have no sign: they are neither added nor counted.
            if delta[place] * sign > 0.0 {
                sum += delta[place] * weight;
                count += 1;
            }
        }
        merged.push(sum / count.max(1) as f32);
    }
    merged
}

/// Sets all values to zero but the `density` of them that are the largest, by their absolute value.
/// Of equal ones at the border, the first stay.
fn trim(values: &mut [f32], density: f64) {
    let kept = (density * values.len() as f64) as usize;
    if kept >= values.len() {
        return;
    }
    if kept == 0 {
        values.fill(0.0);
        return;
    }
    let mut sizes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    let place = sizes.len() - kept;
    let border = *sizes.select_nth_unstable_by(place, f32::total_cmp).1;
    let above = values.iter().filter(|value| value.abs() > border).count();
    let mut at_border = kept - above;
    for value in values {
        if value.abs() > border {
            continue;
        }
        if value.abs() == border && at_border > 0 {
            at_border -= 1;
        } else {
            *value = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_keeps_the_largest() {
        let trimmed = |values: &[f32], density| {
            let mut values = values.to_vec();
            trim(&mut values, density);
            values
        };
        let values = [0.1, -4.0, 3.0, -0.2, 2.0];
        assert_eq!(trimmed(&values, 0.4), [0.0, -4.0, 3.0, 0.0, 0.0]);
        assert_eq!(trimmed(&values, 0.79), [0.0, -4.0, 3.0, 0.0, 2.0]);
        assert_eq!(trimmed(&values, 1.0), values);
        assert_eq!(trimmed(&values, 0.1), [0.0; 5]);
        assert_eq!(trimmed(&[1.0, -1.0, 1.0, 2.0], 0.5), [1.0, 0.0, 0.0, 2.0]);
    }

    #[test]
    fn three_tasks_by_hand() {
        // Kept at 3 of 4: the smallest of each is gone.
        let deltas = vec![
            vec![4.0, -1.0, 2.0, 0.5],
            vec![-3.0, -2.0, 0.1, 1.0],
            vec![-2.0, 3.0, 0.2, -1.5],
        ];
        // Sums: -1, 0 (elects plus), 2, -0.5.
        let merged = merge(deltas, &[1.0, 2.0, 3.0], 0.75);
        assert_eq!(
            merged,
            [(-3.0 * 2.0 - 2.0 * 3.0) / 2.0, 3.0 * 3.0, 2.0, -1.5 * 3.0]
        );
    }
}
