//! Weights that follow a reward, against an independent computation; the slots that they give, and
//! rows set aside.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::online::AlphaOf;
use crate::online::Dynamix;
use crate::online::Odm;
use crate::online::Shares;

fn reference() -> Value {
    let text = include_str!("../../../../tests/fixtures/schedule/online.json");
    serde_json::from_str(text).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn assert_near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        // Ten updates in f64 against 50 digits.
        assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0));
    }
}

#[test]
fn odm_is_that_of_fifty_digits() {
    let reference = reference();
    let cases = reference["odm"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let odm = Odm {
            alpha: case["alpha"].as_f64().unwrap(),
            reward_scale: case["reward_scale"].as_f64().unwrap(),
            floor: case["floor"].as_f64().unwrap(),
            warmup: 0,
        };
        let mut weights = vec![1.0 / 3.0; 3];
        let mut rewards = vec![0.0; 3];
        let steps = case["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 10);
        for (update, expected) in (1..).zip(steps) {
            let losses = &reference["losses"][update as usize - 1];
            let losses: Vec<Option<f64>> = serde_json::from_value(losses.clone()).unwrap();
            odm.reward(&mut rewards, &losses, &weights);
            weights = odm.weights(&rewards, update);
            assert_near(&rewards, &numbers(&expected["rewards"]));
            assert_near(&weights, &numbers(&expected["weights"]));
        }
    }
}

#[test]
fn weights_are_divided_after_they_were_raised_to_the_floor() {
    let odm = Odm {
        alpha: 0.9,
        reward_scale: 1.0,
        floor: 0.3,
        warmup: 0,
    };
    // After so many updates exploration is below 2e-5, and the softmax is 0.9, 0.05, 0.05.
    let update = 1_000_000_000;
    let rate = (3f64.ln() / (3.0 * (update - 1) as f64)).sqrt();
    let weights = odm.weights(&[18f64.ln() / rate, 0.0, 0.0], update);
    for (weight, expected) in weights.iter().zip([0.6, 0.2, 0.2]) {
        assert!((weight - expected).abs() < 1e-4, "{weights:?}");
    }
}

#[test]
fn dynamix_is_that_of_fifty_digits() {
    let reference = reference();
    let cases = reference["dynamix"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let dynamix = Dynamix {
            gamma: case["gamma"].as_f64().unwrap(),
            beta: case["beta"].as_f64().unwrap(),
            alpha: case["alpha"].as_f64().unwrap(),
            alpha_of: match case["alpha_of"].as_str().unwrap() {
                "past" => AlphaOf::Past,
                _ => AlphaOf::Reward,
            },
            every: 1,
            lookahead: 2,
            held_out: 2,
        };
        let prior = numbers(&case["prior"]);
        let mut averages = vec![0.0; 3];
        let steps = case["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 10);
        for (update, expected) in steps.iter().enumerate() {
            let losses = &reference["lookaheads"][update];
            let losses: Vec<[f64; 2]> = serde_json::from_value(losses.clone()).unwrap();
            let before: Vec<f64> = losses.iter().map(|pair| pair[0]).collect();
            let after: Vec<f64> = losses.iter().map(|pair| pair[1]).collect();
            dynamix.reward(&mut averages, &before, &after);
            assert_near(&averages, &numbers(&expected["rewards"]));
            assert_near(
                &dynamix.weights(&prior, &averages),
                &numbers(&expected["weights"]),
            );
        }
    }
}

#[test]
fn a_look_ahead_that_diverged_has_the_smallest_gain() {
    let dynamix = Dynamix {
        gamma: 0.3,
        beta: 5.0,
        alpha: 0.5,
        alpha_of: AlphaOf::Past,
        every: 1,
        lookahead: 2,
        held_out: 2,
    };
    let mut averages = vec![1.0, 0.0, 0.0, 0.0];
    let before = [2.0, 2.0, 2.0, 0.0];
    let after = [f64::NAN, 1.0, 1.5, 0.0];
    // Gains: none, 0.5, 0.25, none.
    let rewards = dynamix.reward(&mut averages, &before, &after);
    assert_eq!(rewards, [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(averages, [0.5, 0.5, 0.0, 0.0]);
    let rewards = dynamix.reward(&mut averages, &before, &[f64::INFINITY; 4]);
    assert_eq!(rewards, [0.0; 4]);
    assert_eq!(averages, [0.25, 0.25, 0.0, 0.0]);
}

const ODM: &str = "{batch: 4, stages: [
    {name: a, tasks: [asr, dialect, emotion], mix: {online: odm, warmup: 0.1}, steps: 20},
    {name: b, tasks: [asr, emotion], steps: 5}]}";

fn three() -> Population {
    population(&[(0, 30, 1.0), (2, 7, 1.0), (2, 5, 3.0), (3, 11, 1.0)])
}

/// Number of picks of each task of a step.
fn counts(population: &Population, picks: &[Pick]) -> [u64; 4] {
    let mut counts = [0; 4];
    for pick in picks {
        counts[usize::from(population.row_task[pick.row as usize])] += 1;
    }
    counts
}

#[test]
fn updates_come_when_the_rule_has_them() {
    let odm = schedule(ODM, &three(), 3).stages()[0].online.unwrap();
    let due: Vec<u64> = (1..20)
        .filter(|&done| odm.next_update(done - 1) == done)
        .collect();
    assert_eq!(due, (3..20).collect::<Vec<u64>>(), "two steps of warm-up");
    assert_eq!(odm.num_updates(20), 17);

    let yaml = ODM.replace(
        "odm, warmup: 0.1",
        "dynamix, every: 6, lookahead: 3, held_out: 2",
    );
    let dynamix = schedule(&yaml, &three(), 3).stages()[0].online.unwrap();
    let due: Vec<u64> = (1..20)
        .filter(|&done| dynamix.next_update(done - 1) == done)
        .collect();
    assert_eq!(due, [6, 12, 18]);
    assert_eq!(dynamix.num_updates(20), 3);
    assert_eq!(
        dynamix.num_updates(18),
        2,
        "none follows the last of the steps"
    );
    // Three updates of three tasks: a step on 3 rows, and two forward passes over 2 rows.
    let steps = 3.0 * 3.0 * (3.0 + 2.0 * 2.0 / 3.0) / 4.0;
    assert!((dynamix.lookahead_steps(20, 3, 4) - steps).abs() < 1e-12);
}

#[test]
fn slots_follow_the_weights_and_resume_anywhere() {
    let population = three();
    let before = schedule(ODM, &population, 3);
    let shares = Shares {
        from: 6,
        weights: vec![0.625, 0.25, 0.125],
        counts: before.slots_before(0, 6).unwrap(),
    };
    let mut whole = before.clone();
    whole.set_shares(0, shares.clone()).unwrap();
    whole.settle().unwrap();
    assert!(
        whole
            .picks(5)
            .unwrap_err()
            .message()
            .contains("other weights")
    );

    // No row of a pool repeats before all were drawn, across the change of the weights and into the
    // next stage.
    let mut drawn = picks(&before, 0..6);
    drawn.extend(picks(&whole, 6..25));
    let asr: Vec<u32> = drawn
        .iter()
        .map(|pick| pick.row)
        .filter(|&row| row < 30)
        .collect();
    assert!(asr.len() > 30);
    assert_eq!(asr[..30].iter().collect::<HashSet<_>>().len(), 30);

    // A schedule that takes the weights over later, as a resumed run does, draws the same.
    let mut resumed = schedule(ODM, &population, 3);
    let late = Shares {
        from: 13,
        counts: whole.slots_before(0, 13).unwrap(),
        ..shares
    };
    resumed.set_shares(0, late).unwrap();
    resumed.settle().unwrap();
    assert_eq!(picks(&resumed, 13..25), picks(&whole, 13..25));

    let sum = |from: u64, to: u64| {
        let mut all = [0; 4];
        for step in from..to {
            let found = counts(&population, &whole.picks(step).unwrap());
            (0..4).for_each(|task| all[task] += found[task]);
        }
        all
    };
    let [asr, _, dialect, emotion] = sum(6, 20);
    let first = before.slots_before(0, 6).unwrap();
    let last = whole.slots_before(0, 20).unwrap();
    let expected: Vec<u64> = last.iter().zip(first).map(|(a, b)| a - b).collect();
    assert_eq!(vec![asr, dialect, emotion], expected);
    assert!(asr >= 28, "0.625 of four slots is two or three: {asr}");
}

proptest! {
    #[test]
    fn slots_are_their_share_rounded(raw in prop::collection::vec(0.01..1.0f64, 2..4), step in 0u64..1000) {
        let sum: f64 = raw.iter().sum();
        let weights: Vec<f64> = raw.iter().map(|weight| weight / sum).collect();
        let tasks = ["asr", "dialect", "emotion"];
        let yaml = format!("{{batch: 7, stages: [{{tasks: [{}], mix: {{online: odm}}, steps: 2000}}]}}", tasks[..weights.len()].join(", "));
        let population = three();
        let mut schedule = schedule(&yaml, &population, 5);
        schedule.set_shares(0, Shares { from: step, weights: weights.clone(), counts: vec![3; weights.len()] }).unwrap();
        let found = counts(&population, &schedule.picks(step).unwrap());
        for (task, weight) in [0, 2, 3].into_iter().zip(&weights) {
            let exact = 7.0 * weight;
            prop_assert!((found[task] as f64 - exact).abs() < 1.0 + 1e-9, "{found:?} {exact}");
        }
    }
}

#[test]
fn slots_get_their_weight_on_average() {
    let population = three();
    let mut schedule = schedule(&ODM.replace("steps: 20", "steps: 4000"), &population, 5);
    let shares = Shares {
        from: 0,
        weights: vec![0.7, 0.2, 0.1],
        counts: vec![0; 3],
    };
    schedule.set_shares(0, shares).unwrap();
    let found = schedule.slots_before(0, 4000).unwrap();
    for (count, weight) in found.iter().zip([0.7, 0.2, 0.1]) {
        // A count is that of 4,000 draws of at most one slot: its standard deviation is below
        // 0.5 / sqrt(4000) per step, of 4 slots.
        let off = (*count as f64 / 4000.0 - 4.0 * weight).abs();
        assert!(off < 0.04, "{count} {weight}");
    }
}

#[test]
fn rows_set_aside_are_never_drawn() {
    let population = three();
    let yaml = ODM.replace("odm, warmup: 0.1", "dynamix, lookahead: 5, held_out: 3");
    let schedule = schedule(&yaml, &population, 3);
    let held_out = schedule.held_out(0);
    assert_eq!(held_out.iter().map(Vec::len).collect::<Vec<_>>(), [3; 3]);
    let aside: HashSet<u32> = held_out.iter().flatten().copied().collect();
    assert_eq!(aside.len(), 9);
    let drawn: HashSet<u32> = rows(&schedule, 0..25).into_iter().collect();
    assert!(drawn.is_disjoint(&aside));
    let all = schedule.all_rows();
    assert_eq!(all.len(), 53 - 9);
    assert!(all.is_sorted() && all.iter().all(|row| !aside.contains(row)));
    let prior = schedule.prior(0).unwrap();
    assert!((prior.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    assert!(
        (prior[0] / prior[2] - 27.0 / 8.0).abs() < 1e-12,
        "rows that are left"
    );
}

#[test]
fn a_shuffled_run_draws_the_rows_of_all_its_stages() {
    let population = population(&[(0, 30, 1.0), (2, 7, 0.0), (2, 5, 3.0), (3, 11, 1.0)]);
    let yaml = "{batch: 4, shuffle: true, stages: [
        {name: a, tasks: [asr], steps: 20},
        {name: b, tasks: [dialect], steps: 5}]}";
    let found = schedule(yaml, &population, 3).all_rows();
    let expected: Vec<u32> = (0..30).chain(37..42).collect();
    assert_eq!(found, expected);
}

#[test]
fn look_aheads_draw_rows_of_one_task() {
    let population = three();
    let yaml = ODM.replace("odm, warmup: 0.1", "dynamix, lookahead: 5, held_out: 3");
    let schedule = schedule(&yaml, &population, 3);
    let aside: HashSet<u32> = schedule.held_out(0).into_iter().flatten().collect();
    let first = schedule.lookahead_rows(0, 1);
    for (task, rows) in [0u16, 2, 3].into_iter().zip(&first) {
        assert_eq!(rows.iter().collect::<HashSet<_>>().len(), 5);
        assert!(
            rows.iter()
                .all(|row| { population.row_task[*row as usize] == task && !aside.contains(row) })
        );
    }
    assert_eq!(first, schedule.clone().lookahead_rows(0, 1));
    assert_ne!(first, schedule.lookahead_rows(0, 2));
}

#[test]
fn impossible_settings_are_refused_by_key() {
    let population = three();
    let with = |mix: &str| ODM.replace("{online: odm, warmup: 0.1}", mix);
    for (mix, found) in [
        ("{online: odm, alpha: 1.5}", "`mix.alpha` is 1.5"),
        ("{online: odm, reward_scale: 0}", "`mix.reward_scale` is 0"),
        (
            "{online: odm, floor: 0.5}",
            "`mix.floor` is 0.5, and the stage has 3 tasks",
        ),
        (
            "{online: odm, gamma: 0.1}",
            "`mix.gamma` beside `online: odm`",
        ),
        (
            "{online: dynamix, floor: 0.1}",
            "`mix.floor` beside `online: dynamix`",
        ),
        ("{online: dynamix, gamma: -1}", "`mix.gamma` is -1"),
        ("{online: dynamix, every: 0}", "`mix.every` is 0"),
        (
            "{online: dynamix, lookahead: 1}",
            "`mix.lookahead` is 1: one row",
        ),
        (
            "{online: dynamix, held_out: 1}",
            "`mix.held_out` is 1: one row",
        ),
        (
            "{online: dynamix, held_out: 10}",
            "`emotion` has 11 rows, and",
        ),
        (
            "{online: odm}, replay: 0.5",
            "`replay` beside `mix: {online: ...}`",
        ),
        (
            "{online: odm}, temperature: 2",
            "`temperature` has no effect",
        ),
        (
            "{online: odm}, draw: balanced",
            "`mix: online odm` beside `draw: balanced`",
        ),
    ] {
        let error = refusal(&with(mix), &population);
        assert!(error.message().contains(found), "{mix}: {error}");
        assert_eq!(error.exit_code(), 2);
    }
    let single = with("{online: dynamix, held_out: 2}").replace("batch: 4", "batch: 1");
    let error = refusal(&single, &population);
    let found = "`mix.lookahead` is 1, the schedule's `batch`: one row";
    assert!(error.message().contains(found), "{error}");
    let one = ODM.replace("[asr, dialect, emotion]", "[asr]");
    let error = refusal(&one, &population);
    assert!(
        error.message().contains("the stage has one task"),
        "{error}"
    );
    let shuffled = ODM.replace("batch: 4", "batch: 4, shuffle: true");
    let error = refusal(&shuffled, &population);
    assert!(error.message().contains("`mix.online` beside"), "{error}");
}
