//! Balanced drawing: equal slots, no more repeats of rare labels than the cap, and errors that name
//! contradicting keys.

use std::collections::BTreeMap;
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Two tasks without labels, one of them with text; two with labels of unequal size.
fn four_tasks() -> Population {
    labelled(&[
        (0, None, true, 40),
        (1, None, true, 12),
        (1, None, false, 9),
        (2, Some(0), true, 30),
        (2, Some(1), true, 3),
        (2, Some(2), true, 11),
        (3, Some(0), true, 1),
        (3, Some(2), true, 17),
    ])
}

#[test]
fn slots_rotate_over_tasks_labels_and_forms() {
    let population = four_tasks();
    let schedule = schedule(
        "{batch: 6, stages: [{draw: balanced, steps: 4}]}",
        &population,
        3,
    );
    let drawn: Vec<_> = rows(&schedule, 0..4)
        .into_iter()
        .map(|row| cell_of(&population, row))
        .collect();
    let in_task = |task: u16| {
        drawn
            .iter()
            .filter(|cell| cell.0 == task)
            .map(|cell| (cell.1, cell.2))
            .collect::<Vec<_>>()
    };
    assert!(
        drawn
            .iter()
            .map(|cell| cell.0)
            .eq((0..24).map(|slot| slot % 4)),
        "tasks in turn, over the ends of steps"
    );
    assert_eq!(
        in_task(1),
        [(NO_LABEL, false), (NO_LABEL, true)].repeat(3),
        "audio and text in turn"
    );
    assert_eq!(
        in_task(2),
        [(0, false), (1, false), (2, false)].repeat(2),
        "labels in turn"
    );
    assert_eq!(
        in_task(3),
        [(0, false), (2, false)].repeat(3),
        "a label without rows gets nothing"
    );
}

#[test]
fn a_mixture_continues_the_order_of_balanced_slots() {
    let population = four_tasks();
    let yaml = "{batch: 4, stages: [{tasks: [asr], draw: balanced, steps: 6}, {tasks: [asr], steps: 4}, {tasks: [asr, dialect], draw: balanced, steps: 8}]}";
    let of_asr: Vec<Pick> = picks(&schedule(yaml, &population, 3), 0..18)
        .into_iter()
        .filter(|pick| pick.row < 40)
        .collect();
    let mut first: Vec<u32> = of_asr[..40].iter().map(|pick| pick.row).collect();
    first.sort_unstable();
    assert!(
        first.into_iter().eq(0..40) && of_asr[40..].iter().all(|pick| pick.epoch == 1),
        "asr is one cell, and the same pool in all three"
    );
}

#[test]
fn an_entry_of_weight_zero_is_left_out() {
    let mut population = four_tasks();
    population.entries = vec![
        Entry {
            rows: 0..10,
            weight: 1.0,
        },
        Entry {
            rows: 10..61,
            weight: 0.0,
        },
        Entry {
            rows: 61..123,
            weight: 0.2,
        },
    ];
    let schedule = schedule(
        "{batch: 6, stages: [{draw: balanced, steps: 30}]}",
        &population,
        3,
    );
    assert_eq!(schedule.stages()[0].tasks, ["asr", "dialect", "emotion"]);
    assert!(
        rows(&schedule, 0..30)
            .iter()
            .all(|row| !(10..61).contains(row))
    );
    assert_eq!(
        schedule.cells(0)[0],
        CellShare {
            task: "asr".into(),
            label: None,
            has_audio: true,
            num_rows: 10,
            num_slots: 60
        }
    );
}

#[test]
fn cells_state_the_draws_of_their_rows() {
    let schedule = schedule(
        "{batch: 8, stages: [{tasks: [asr], steps: 2}, {draw: balanced, steps: 12}, {draw: diverse, max_repeats: 4, steps: 18}]}",
        &four_tasks(),
        3,
    );
    let cells = |stage| {
        schedule
            .cells(stage)
            .into_iter()
            .map(|cell| (cell.label.unwrap_or_default(), cell.num_slots))
            .collect::<Vec<_>>()
    };
    assert!(schedule.cells(0).is_empty() && schedule.cells(9).is_empty());
    let level = [
        ("", 24),
        ("", 12),
        ("", 12),
        ("label-0", 8),
        ("label-1", 8),
        ("label-2", 8),
        ("label-0", 12),
        ("label-2", 12),
    ];
    assert_eq!(
        cells(1),
        level.map(|(label, slots)| (label.to_owned(), slots))
    );
    let rare = &schedule.cells(1)[6];
    assert_eq!(
        (rare.task.as_str(), rare.num_rows, rare.draws_per_row()),
        ("emotion", 1, 12.0)
    );
    // 36 for each task; of dialect's, 3 rows take 12; of emotion's, one row takes 4.
    let capped = [
        ("", 36),
        ("", 18),
        ("", 18),
        ("label-0", 12),
        ("label-1", 12),
        ("label-2", 12),
        ("label-0", 4),
        ("label-2", 32),
    ];
    assert_eq!(
        cells(2),
        capped.map(|(label, slots)| (label.to_owned(), slots))
    );
}

#[test]
fn contradictions_name_both_keys() {
    let population = four_tasks();
    for (stage, found) in [
        (
            "draw: balanced, mix: uniform",
            "`mix: uniform` beside `draw: balanced`",
        ),
        (
            "draw: diverse, mix: proportional",
            "`mix: proportional` beside `draw: diverse`",
        ),
        (
            "draw: diverse, temperature: 2.5",
            "`temperature: 2.5` beside `draw: diverse`",
        ),
        (
            "draw: balanced, replay: 0.2",
            "`replay: 0.2` beside `draw: balanced`",
        ),
        (
            "draw: balanced, replay: 0.2",
            "\nhint: remove `replay`, or write `draw: shuffled`",
        ),
        ("max_repeats: 3", "`max_repeats` beside `draw: shuffled`"),
        ("draw: balanced, max_repeats: 0", "`max_repeats` is 0"),
        (
            "draw: balanced, max_repeats: 1",
            "`max_repeats: 1` allows 123 draws of 123 rows; 16 steps of 8 examples are 128\nhint: allow more",
        ),
        (
            "tasks: [dialect, emotion], draw: diverse, max_repeats: 2",
            "allows 124 draws of 62 rows",
        ),
        (
            "draw: balanced, block: 4",
            "`block` beside `draw: balanced`",
        ),
        ("select: kmeans", "`select` beside `draw: shuffled`"),
        (
            "draw: balanced, embeddings: base",
            "`embeddings` beside `draw: balanced`",
        ),
        ("draw: diverse, block: 0", "`block` is 0"),
        (
            "early_stop: {score: '', patience: 2}",
            "`early_stop.score` is empty",
        ),
        (
            "early_stop: {score: mean, patience: 0}",
            "`early_stop.patience` is 0",
        ),
        (
            "early_stop: {score: mean, patience: 1, min_delta: -0.1}",
            "`early_stop.min_delta` is -0.1",
        ),
        (
            "early_stop: {score: mean, patience: 1, min_delta: .nan}",
            "`early_stop.min_delta` is NaN",
        ),
    ] {
        let error = refusal(
            &format!("{{batch: 8, stages: [{{steps: 1}}, {{name: b, steps: 16, {stage}}}]}}"),
            &population,
        );
        assert!(
            error.exit_code() == 2
                && error.to_string().starts_with("schedule: stage `b`: ")
                && error.to_string().contains(found),
            "{stage}: {error}"
        );
    }
}

prop_compose! {
    /// Cells of up to four tasks with labels, unlabelled rows and text, and how many rows each has.
    fn cells()(cells in prop::collection::btree_map((0usize..4, prop_oneof![Just(None), (0u16..4).prop_map(Some)], any::<bool>()), 1u32..14, 1..12)) -> Population {
        labelled(&cells.into_iter().map(|((task, label, has_audio), rows)| (task, label, has_audio, rows)).collect::<Vec<_>>())
    }
}

/// The slots of each cell among `rows`, including zeros.
fn counts(population: &Population, rows: &[u32]) -> BTreeMap<(u16, u16, bool), u64> {
    let mut counts: BTreeMap<_, _> = (0..population.row_task.len() as u32)
        .map(|row| (cell_of(population, row), 0))
        .collect();
    rows.iter()
        .for_each(|&row| *counts.entry(cell_of(population, row)).or_default() += 1);
    counts
}

/// Slots summed at a level: tasks, labels of a task, forms of a label.
fn levels(counts: &BTreeMap<(u16, u16, bool), u64>) -> Vec<Vec<u64>> {
    let mut tasks = BTreeMap::new();
    let mut labels = BTreeMap::<u16, BTreeMap<u16, u64>>::new();
    let mut forms = BTreeMap::<(u16, u16), Vec<u64>>::new();
    for (&(task, label, _), &count) in counts {
        *tasks.entry(task).or_insert(0) += count;
        *labels.entry(task).or_default().entry(label).or_default() += count;
        forms.entry((task, label)).or_default().push(count);
    }
    let labels = labels
        .into_values()
        .map(|labels| labels.into_values().collect());
    std::iter::once(tasks.into_values().collect())
        .chain(labels)
        .chain(forms.into_values())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn slots_are_equal_at_every_level_and_every_moment(population in cells(), batch in 1usize..9, steps in 1u64..30, seed: u64) {
        let schedule = schedule(&format!("{{batch: {batch}, stages: [{{draw: balanced, steps: {steps}}}]}}"), &population, seed);
        let rows = rows(&schedule, 0..steps);
        for taken in 0..=rows.len() {
            for level in levels(&counts(&population, &rows[..taken])) {
                prop_assert!(level.iter().max().unwrap() - level.iter().min().unwrap() <= 1, "{:?} after {} slots", level, taken);
            }
        }
        let shares: Vec<u64> = schedule.cells(0).iter().map(|cell| cell.num_slots).collect();
        prop_assert!(counts(&population, &rows).into_values().eq(shares));
    }

    #[test]
    fn a_cell_is_used_up_before_a_row_of_it_comes_again(population in cells(), batch in 1usize..9, steps in 2u64..20, draws in prop::collection::vec(0usize..3, 3), seed: u64) {
        let stage = |draw: usize| ["{draw: balanced, steps: N}", "{draw: diverse, steps: N}", "{draw: diverse, select: kdpp, block: 3, steps: N}"][draw];
        let stages = draws.into_iter().map(stage).collect::<Vec<_>>().join(", ").replace('N', &steps.to_string());
        let schedule = schedule(&format!("{{batch: {batch}, stages: [{stages}]}}"), &population, seed);
        let mut drawn: HashMap<((u16, u16, bool), u32), Vec<u32>> = HashMap::new();
        for pick in picks(&schedule, 0..3 * steps) {
            let cell = cell_of(&population, pick.row);
            prop_assert!(!drawn.contains_key(&(cell, pick.epoch + 1)), "a finished epoch is not gone back to");
            let epoch = drawn.entry((cell, pick.epoch)).or_default();
            prop_assert!(!epoch.contains(&pick.row));
            epoch.push(pick.row);
        }
        let whole = counts(&population, &(0..population.row_task.len() as u32).collect::<Vec<_>>());
        for ((cell, epoch), rows) in &drawn {
            prop_assert!(rows.len() as u64 == whole[cell] || !drawn.contains_key(&(*cell, epoch + 1)));
        }
    }

    #[test]
    fn no_row_comes_more_often_than_the_cap(population in cells(), batch in 1usize..7, before in 1u64..9, max_repeats in 1u32..4, fill in 0.05..=1.0f64, draw in prop_oneof![Just("balanced"), Just("diverse")], seed: u64) {
        let capacity = u64::from(max_repeats) * population.row_task.len() as u64;
        let steps = (capacity as f64 * fill) as u64 / batch as u64;
        prop_assume!(steps > 0);
        let yaml = format!("{{batch: {batch}, stages: [{{draw: balanced, steps: {before}}}, {{draw: {draw}, max_repeats: {max_repeats}, steps: {steps}}}, {{draw: balanced, steps: 20}}]}}");
        let schedule = schedule(&yaml, &population, seed);
        let capped = rows(&schedule, schedule.stages()[1].range());
        let mut repeats: HashMap<u32, u32> = HashMap::new();
        capped.iter().for_each(|&row| *repeats.entry(row).or_default() += 1);
        prop_assert!(repeats.values().all(|&count| count <= max_repeats), "{:?}", repeats);

        // Quotas are as even as capacities allow, and cells are spread evenly over the stage.
        let rows_of = counts(&population, &(0..population.row_task.len() as u32).collect::<Vec<_>>());
        let quotas = counts(&population, &capped);
        for (level, rows) in levels(&quotas).into_iter().zip(levels(&rows_of)) {
            let most = *level.iter().max().unwrap();
            let is_full = |(part, rows): (&u64, &u64)| part + 1 >= most || *part == rows * u64::from(max_repeats);
            prop_assert!(level.iter().zip(&rows).all(is_full), "{:?} of {:?}", level, rows);
        }
        prop_assert!(quotas.values().copied().eq(schedule.cells(1).iter().map(|cell| cell.num_slots)));
        if draw == "balanced" {
            for taken in 0..=capped.len() {
                for (cell, count) in counts(&population, &capped[..taken]) {
                    let exact = quotas[&cell] as f64 * taken as f64 / capped.len() as f64;
                    // Half a slot and half the share for each rival beyond two, at each of three
                    // levels of at most 5, 5 and 2.
                    prop_assert!((count as f64 - exact).abs() <= 4.5, "{} slots of {}", count, exact);
                }
            }
        }
        // Nothing is repeated in a cell's epoch, before, in and after the stage.
        let mut seen = std::collections::HashSet::new();
        prop_assert!(picks(&schedule, 0..schedule.num_steps()).into_iter().all(|pick| seen.insert(pick)));
    }
}
