//! Stages that order their rows by difficulty, against sorting and counting by hand.

use super::*;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Ten rows of one task and six of another. The difficulty of row r is `7 r mod 16`, a permutation.
fn two_tasks() -> Population {
    population(&[(0, 10, 1.0), (3, 6, 1.0)])
}

fn hardness(row: u32) -> f64 {
    f64::from(row * 7 % 16)
}

fn with_difficulty(yaml: &str, population: &Population, value: impl Fn(u32) -> f64) -> Schedule {
    let mut schedule = Schedule::new(&settings(yaml), population, 5).unwrap();
    for stage in 0..schedule.stages().len() {
        if schedule.measure_of(stage).is_some() {
            let rows = schedule.rows_of(stage).into_iter();
            let values = rows.map(|row| (row, value(row))).collect();
            schedule.set_difficulty(stage, values).unwrap();
        }
    }
    schedule
}

/// Rows of a task in the order of their draws.
fn of_task(population: &Population, picks: &[Pick], task: u16) -> Vec<u32> {
    let rows = picks.iter().map(|pick| pick.row);
    rows.filter(|&row| population.row_task[row as usize] == task)
        .collect()
}

#[test]
fn rows_of_each_task_come_in_their_order() {
    let population = two_tasks();
    for (order, is_rising) in [("ascending", true), ("descending", false)] {
        let yaml = format!(
            "{{batch: 4, stages: [{{steps: 3}}, {{mix: uniform, steps: 12, difficulty: {{by: x, order: {order}}}}}]}}"
        );
        let schedule = with_difficulty(&yaml, &population, hardness);
        let plain = Schedule::new(
            &settings("{batch: 4, stages: [{steps: 3}, {mix: uniform, steps: 12}]}"),
            &population,
            5,
        )
        .unwrap();
        assert_eq!(picks(&schedule, 0..3), picks(&plain, 0..3));

        let drawn = picks(&schedule, 3..15);
        for (task, rows) in [(0, 0..10u32), (3, 10..16)] {
            let mut sorted: Vec<u32> = rows.collect();
            sorted.sort_by(|a, b| hardness(*a).total_cmp(&hardness(*b)));
            if !is_rising {
                sorted.reverse();
            }
            let expected: Vec<u32> = sorted.iter().copied().cycle().take(24).collect();
            assert_eq!(of_task(&population, &drawn, task), expected, "{order}");
        }
    }
}

#[test]
fn rows_come_in_their_order_under_weights_that_follow_a_reward() {
    let population = two_tasks();
    let yaml = "{batch: 4, stages: [{mix: {online: odm}, steps: 12, difficulty: {by: x, order: descending}}]}";
    let schedule = with_difficulty(yaml, &population, hardness);
    let drawn = picks(&schedule, 0..12);
    for (task, rows) in [(0, 0..10u32), (3, 10..16)] {
        let mut sorted: Vec<u32> = rows.collect();
        sorted.sort_by(|a, b| hardness(*b).total_cmp(&hardness(*a)));
        let found = of_task(&population, &drawn, task);
        assert!(found.len() > sorted.len());
        let expected: Vec<u32> = sorted.into_iter().cycle().take(found.len()).collect();
        assert_eq!(found, expected, "{task}");
    }
}

/// The wording of a row is drawn by its epoch, so a row that is drawn again has another.
#[test]
fn no_row_is_drawn_twice_in_one_epoch() {
    let population = two_tasks();
    for order in ["ascending", "descending", "competence"] {
        let yaml = format!(
            "{{batch: 5, stages: [{{steps: 3}}, {{steps: 20, difficulty: {{by: x, order: {order}}}}}]}}"
        );
        let schedule = with_difficulty(&yaml, &population, hardness);
        let drawn = picks(&schedule, 0..23);
        let distinct: BTreeSet<Pick> = drawn.iter().copied().collect();
        assert_eq!(distinct.len(), drawn.len(), "{order}");
    }
}

#[test]
fn balanced_cells_are_ordered_apart_and_keep_their_cap() {
    let population = labelled(&[(3, Some(0), true, 3), (3, Some(1), true, 9)]);
    let yaml =
        "{batch: 4, stages: [{draw: balanced, max_repeats: 2, steps: 6, difficulty: {by: x}}]}";
    let schedule = with_difficulty(yaml, &population, |row| -f64::from(row));
    let drawn = rows(&schedule, 0..6);
    let of_label = |rows: Range<u32>| -> Vec<u32> {
        drawn
            .iter()
            .copied()
            .filter(|row| rows.contains(row))
            .collect()
    };
    assert_eq!(of_label(0..3), [2, 1, 0, 2, 1, 0]);
    let hard_last: Vec<u32> = (3..12).rev().cycle().take(18).collect();
    assert_eq!(of_label(3..12), hard_last);
}

/// At each step, every drawn row's cumulative share is at most the step's competence, counted from
/// all rows; over many seeds the allowed rows are drawn equally often.
#[test]
fn competence_draws_uniformly_from_the_allowed_rows() {
    let population = population(&[(0, 20, 1.0)]);
    let value = |row: u32| f64::from(row / 2 % 7);
    let yaml = "{batch: 8, stages: [{steps: 30, difficulty: {by: x, order: competence, start: 0.2, length: 25}}]}";
    let share = |row: u32| {
        let easier = (0..20).filter(|&other| value(other) <= value(row)).count();
        easier as f64 / 20.0
    };
    let mut counts: BTreeMap<u64, BTreeMap<u32, f64>> = BTreeMap::new();
    let seeds = 400;
    for seed in 0..seeds {
        let mut schedule = Schedule::new(&settings(yaml), &population, seed).unwrap();
        let values = (0..20).map(|row| (row, value(row))).collect();
        schedule.set_difficulty(0, values).unwrap();
        for step in [0, 6, 12, 24, 25, 29] {
            for row in rows(&schedule, step..step + 1) {
                *counts.entry(step).or_default().entry(row).or_default() += 1.0;
            }
        }
    }
    for (step, counts) in counts {
        let squared = step as f64 * (1.0 - 0.04) / 25.0 + 0.04;
        let competence = squared.sqrt().min(1.0);
        // The easiest rows, 4 of 20, are allowed from the start.
        let allowed: BTreeSet<u32> = (0..20)
            .filter(|&row| share(row) <= competence + 1e-9 || value(row) == 0.0)
            .collect();
        let drawn: BTreeSet<u32> = counts.keys().copied().collect();
        assert_eq!(drawn, allowed, "step {step}");
        let expected = seeds as f64 * 8.0 / allowed.len() as f64;
        let chi_square: f64 = counts
            .values()
            .map(|count| (count - expected).powi(2) / expected)
            .sum();
        let freedom = allowed.len() as f64 - 1.0;
        // Four standard deviations above the mean.
        let bound = freedom + 4.0 * (2.0 * freedom).sqrt();
        assert!(chi_square <= bound, "step {step}: {chi_square} of {bound}");
    }
}

#[test]
fn a_step_is_drawn_without_those_before_it() {
    let population = two_tasks();
    let yaml = "{batch: 4, stages: [{steps: 9, difficulty: {by: x, order: competence}}, {steps: 9, difficulty: {by: y}}]}";
    let whole = picks(&with_difficulty(yaml, &population, hardness), 0..18);
    for step in (0..18).rev() {
        let fresh = with_difficulty(yaml, &population, hardness);
        let at = step as usize * 4;
        assert_eq!(fresh.picks(step).unwrap(), whole[at..at + 4]);
    }
    let schedule = with_difficulty(yaml, &population, hardness);
    let mean = whole[..4]
        .iter()
        .map(|pick| hardness(pick.row))
        .sum::<f64>()
        / 4.0;
    assert_eq!(schedule.mean_difficulty(0, &whole[..4]), Some(mean));
}

#[test]
fn difficulties_are_needed_and_wrong_ones_refused() {
    let population = two_tasks();
    let yaml = "{batch: 4, stages: [{steps: 9, difficulty: {by: base_loss}}, {steps: 1}]}";
    let mut schedule = Schedule::new(&settings(yaml), &population, 5).unwrap();
    assert!(schedule.needs_model(0) && !schedule.needs_model(1));
    assert_eq!(schedule.picks(0).unwrap_err().exit_code(), 1);
    let all = (0..16).map(|row| (row, 1.0));
    let without: HashMap<u32, f64> = all.clone().skip(1).collect();
    assert_eq!(
        schedule.set_difficulty(0, without).unwrap_err().exit_code(),
        1
    );
    assert_eq!(
        schedule
            .set_difficulty(1, all.clone().collect())
            .unwrap_err()
            .exit_code(),
        1
    );
    schedule.set_difficulty(0, all.collect()).unwrap();
    assert_eq!(schedule.picks(0).unwrap().len(), 4);

    for (stage, words) in [
        ("difficulty: {by: ''}", "`difficulty.by` is empty"),
        (
            "draw: diverse, difficulty: {by: x}",
            "`difficulty` beside `draw: diverse`",
        ),
        (
            "draw: balanced, max_repeats: 2, difficulty: {by: x, order: competence}",
            "`max_repeats` beside `difficulty.order: competence`",
        ),
        (
            "difficulty: {by: x, start: 0.5}",
            "`difficulty.start` beside `order: ascending`",
        ),
        (
            "difficulty: {by: x, order: descending, length: 5}",
            "`difficulty.length` beside `order: descending`",
        ),
        (
            "difficulty: {by: x, order: competence, start: 0}",
            "`difficulty.start` is 0",
        ),
        (
            "difficulty: {by: x, order: competence, start: 1.5}",
            "`difficulty.start` is 1.5",
        ),
        (
            "difficulty: {by: x, order: competence, length: 0}",
            "`difficulty.length` is 0",
        ),
    ] {
        let yaml = format!("{{batch: 4, stages: [{{steps: 2, {stage}}}]}}");
        let error = Schedule::new(&settings(&yaml), &population, 5)
            .err()
            .unwrap();
        assert!(
            error.exit_code() == 2 && error.to_string().contains(words),
            "{stage}: {error}"
        );
    }
    let yaml = "{batch: 4, shuffle: true, stages: [{steps: 2, difficulty: {by: x}}]}";
    let error = Schedule::new(&settings(yaml), &population, 5)
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("`difficulty` beside `schedule.shuffle: true`"),
        "{error}"
    );
}
