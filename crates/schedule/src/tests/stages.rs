//! Stages that end early, runs whose slots are shuffled, pools too large to list.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn unequal() -> Population {
    labelled(&[
        (0, None, true, 60),
        (1, None, true, 7),
        (1, None, false, 23),
        (3, Some(0), true, 5),
        (3, Some(1), true, 41),
    ])
}

const THREE: &str = "{batch: 6, stages: [
    {name: a, tasks: [asr], steps: 7, learning_rate: 1e-5},
    {name: b, draw: diverse, block: 4, steps: 18, early_stop: {score: mean, patience: 2}},
    {name: c, draw: balanced, steps: 9}]}";

#[test]
fn an_early_end_moves_the_later_stages() {
    let population = unequal();
    let whole = schedule(THREE, &unequal(), 5);
    assert_eq!(
        whole.stages()[1].early_stop,
        Some(EarlyStop {
            score: "mean".into(),
            patience: 2,
            min_delta: 0.0
        })
    );
    let mut ended = whole.clone();
    ended.end_stage(1, 6).unwrap();
    let places = |schedule: &Schedule| {
        schedule
            .stages()
            .iter()
            .map(|stage| {
                (
                    stage.start,
                    stage.steps,
                    stage.planned_start,
                    stage.planned_steps,
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        places(&whole),
        [(0, 7, 0, 7), (7, 18, 7, 18), (25, 9, 25, 9)]
    );
    assert_eq!(
        places(&ended),
        [(0, 7, 0, 7), (7, 6, 7, 18), (13, 9, 25, 9)]
    );
    assert_eq!(
        (
            ended.num_steps(),
            ended.num_planned_steps(),
            ended.stage_of(13)
        ),
        (22, 34, (2, 0))
    );
    assert_eq!(
        [0, 7, 12, 13, 21].map(|step| ended.planned_step(step)),
        [0, 7, 12, 25, 33]
    );
    assert_eq!(
        picks(&whole, 0..13),
        picks(&ended, 0..13),
        "what was drawn stays as it was"
    );

    // The second block, steps 4 to 7 of the stage, was unfinished: later stages continue after it.
    let until_block = picks(&whole, 0..15);
    let next = |cell: u32| {
        picks(&ended, 13..22)
            .into_iter()
            .find(|pick| cell_of(&population, pick.row) == cell_of(&population, cell))
            .unwrap()
    };
    for first_of_cell in [67, 90, 95] {
        let before = until_block
            .iter()
            .filter(|pick| cell_of(&population, pick.row) == cell_of(&population, first_of_cell))
            .count() as u64;
        let size = (0..136)
            .filter(|&row| cell_of(&population, row) == cell_of(&population, first_of_cell))
            .count() as u64;
        assert_eq!(u64::from(next(first_of_cell).epoch), before / size);
    }
    let mut twice = ended.clone();
    twice.end_stage(0, 2).unwrap();
    assert_eq!(
        (
            twice.stages()[1].start,
            twice.stages()[2].start,
            twice.planned_step(8)
        ),
        (2, 8, 25)
    );
    for (stage, steps) in [(0, 0), (1, 19), (3, 1)] {
        assert_eq!(twice.end_stage(stage, steps).unwrap_err().exit_code(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn early_ends_repeat_nothing_and_forget_nothing(ends in prop::collection::vec(1u64..=12, 3), draws in prop::collection::vec(0usize..4, 4), batch in 1usize..8, seed: u64) {
        let draw = |draw: usize| ["draw: shuffled, mix: uniform", "draw: balanced", "draw: diverse, block: 5", "draw: diverse, select: random"][draw];
        let stages = draws.iter().map(|&of| format!("{{{}, steps: 12}}", draw(of))).collect::<Vec<_>>().join(", ");
        let population = unequal();
        let yaml = format!("{{batch: {batch}, stages: [{stages}]}}");
        let mut walked = schedule(&yaml, &population, seed);
        let mut drawn = Vec::new();
        for (stage, &steps) in ends.iter().enumerate() {
            let start = walked.stages()[stage].start;
            drawn.extend(picks(&walked, start..start + steps));
            walked.end_stage(stage, steps).unwrap();
        }
        drawn.extend(picks(&walked, walked.stages()[3].range()));
        // A resumed run learns of all ends at once, and may ask the last step first.
        let mut resumed = schedule(&yaml, &population, seed);
        ends.iter().enumerate().for_each(|(stage, &steps)| resumed.end_stage(stage, steps).unwrap());
        let num_steps = resumed.num_steps();
        prop_assert_eq!(resumed.picks(num_steps - 1).unwrap(), walked.picks(num_steps - 1).unwrap());
        prop_assert_eq!(&picks(&resumed, 0..num_steps), &drawn);
        // Pools of a mixture and of cells differ if a task has labels or text, so each is tested
        // separately.
        let is_mixed: Vec<bool> = (0..num_steps).flat_map(|step| std::iter::repeat_n(draws[resumed.stage_of(step).0] == 0, batch)).collect();
        for mixed in [false, true] {
            let mut seen = HashSet::new();
            let of_kind = drawn.iter().zip(&is_mixed).filter(|(pick, is_mixed)| **is_mixed == mixed && pick.row >= 60);
            prop_assert!(of_kind.map(|(pick, _)| pick).all(|pick| seen.insert(pick)), "a row twice in an epoch");
        }
    }

    #[test]
    fn a_shuffled_run_holds_the_picks_of_its_stages(batch in 1usize..8, steps in 1u64..30, seed: u64) {
        let stages = format!("stages: [{{tasks: [asr], steps: {steps}}}, {{tasks: [emotion], replay: 0.3, steps: 4}}, {{draw: balanced, max_repeats: 9, steps: 5}}]");
        let [in_order, shuffled] = ["false", "true"].map(|shuffle| schedule(&format!("{{batch: {batch}, shuffle: {shuffle}, {stages}}}"), &unequal(), seed));
        let num_steps = in_order.num_steps();
        prop_assert_eq!((shuffled.num_steps(), shuffled.stages().len()), (num_steps, 1));
        let [mut a, mut b] = [&in_order, &shuffled].map(|schedule| picks(schedule, 0..num_steps));
        prop_assert!(a.len() < 20 || a != b);
        a.sort_unstable();
        b.sort_unstable();
        prop_assert_eq!(a, b);
        prop_assert_eq!(shuffled.picks(num_steps + 3).unwrap(), in_order.picks(num_steps + 3).unwrap(), "past the end the last stage goes on");
    }
}

#[test]
fn a_shuffled_run_is_one_stage() {
    let population = unequal();
    let shuffled = |stage: &str| {
        format!(
            "{{batch: 4, shuffle: true, stages: [{{name: listen, tasks: [asr], steps: 5}}, {{name: b, steps: 20000, {stage}}}]}}"
        )
    };
    let mut found = schedule(&shuffled("tasks: [emotion], replay: 0.25"), &population, 5);
    let stage = &found.stages()[0];
    assert_eq!(
        (
            stage.name.as_str(),
            stage.start,
            stage.steps,
            found.stage_of(700)
        ),
        ("shuffled", 0, 20005, (0, 700))
    );
    assert_eq!(
        (
            &stage.tasks[..],
            stage.replayed.len(),
            found.planned_step(700)
        ),
        (&["asr".to_owned(), "emotion".to_owned()][..], 0, 700)
    );
    // 80,020 slots are too many to list their order; the share of each task is the same in every
    // part of the run.
    let share = |steps: Range<u64>| {
        rows(&found, steps).iter().filter(|&&row| row < 60).count() as f64 / 4000.0
    };
    // Exactly 20,020 of 80,020 slots are of asr; four standard errors of 4,000.
    assert!(
        [0..1000, 7000..8000, 19005..20005]
            .into_iter()
            .all(|steps| (share(steps) - 0.2502).abs() < 4.0 * (0.25f64 * 0.75 / 4000.0).sqrt())
    );
    assert_eq!(found.end_stage(0, 3).unwrap_err().exit_code(), 1);
    for (stage, key) in [
        ("draw: diverse", "draw: diverse"),
        ("learning_rate: 1e-5", "learning_rate"),
        ("train: {decoder: frozen}", "train"),
        ("early_stop: {score: mean, patience: 1}", "early_stop"),
    ] {
        let error = refusal(&shuffled(stage), &population);
        assert!(
            error.exit_code() == 2
                && error.to_string().starts_with(&format!(
                    "schedule: stage `b`: `{key}` beside `schedule.shuffle: true`"
                )),
            "{error}"
        );
    }
    let balanced = schedule(
        "{batch: 4, shuffle: true, stages: [{draw: balanced, steps: 3}, {tasks: [emotion], draw: balanced, steps: 4}]}",
        &population,
        5,
    );
    let slots: Vec<u64> = balanced
        .cells(0)
        .iter()
        .map(|cell| cell.num_slots)
        .collect();
    assert_eq!(slots, [4, 2, 2, 10, 10], "those of all stages");
}

#[test]
fn an_epoch_of_a_large_pool_holds_every_row_once() {
    let num_rows = 70_000;
    let schedule = schedule(
        "{batch: 100, stages: [{epochs: 2}]}",
        &population(&[(0, num_rows, 1.0)]),
        5,
    );
    assert_eq!(schedule.num_steps(), 1400);
    let epochs = [0..700, 700..1400].map(|steps| rows(&schedule, steps));
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..num_rows));
    }
    assert_ne!(epochs[0][..1000], epochs[1][..1000]);
}
