//! Mixtures: shares, passes, replay, and errors that name contradicting keys.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[test]
fn four_tasks_get_two_of_eight_slots_at_every_step() {
    let population = population(&[(0, 1000, 1.0), (1, 3, 5.0), (2, 70, 1.0), (3, 11, 0.0)]);
    let schedule = Schedule::new(
        &settings("{batch: 8, stages: [{mix: uniform, steps: 300}]}"),
        &population,
        1,
    )
    .unwrap();
    for step in 0..300 {
        let mut tasks: Vec<u16> = schedule
            .picks(step)
            .unwrap()
            .iter()
            .map(|pick| population.row_task[pick.row as usize])
            .collect();
        tasks.sort_unstable();
        assert_eq!(tasks, [0, 0, 1, 1, 2, 2, 3, 3]);
    }
}

#[test]
fn mixtures_give_the_shares_they_name() {
    let population = population(&[(0, 600, 1.0), (0, 100, 2.0), (1, 100, 1.0), (2, 900, 0.0)]);
    let share = |stage: &str| -> [u64; 4] {
        let schedule = Schedule::new(
            &settings(&format!("{{batch: 10, stages: [{{{stage}, steps: 90}}]}}")),
            &population,
            3,
        )
        .unwrap();
        let mut counts = [0; 4];
        for row in rows(&schedule, 0..90) {
            counts[population
                .entries
                .iter()
                .position(|entry| entry.rows.contains(&row))
                .unwrap()] += 1;
        }
        counts
    };
    assert_eq!(share("tasks: all"), [600, 200, 100, 0], "rows by weight");
    assert_eq!(share("mix: weights"), [225, 450, 225, 0], "weights alone");
    assert_eq!(
        share("mix: temperature, temperature: 3"),
        [450, 150, 300, 0],
        "800 and 100 rows under the cube root are 2 to 1; 600 and 200 inside the first"
    );
    let [asr, twice, summarization, dialect] = share("mix: uniform");
    assert_eq!((asr + twice, summarization, dialect), (300, 300, 300));
}

#[test]
fn stages_follow_each_other_and_epochs_are_passes() {
    let population = population(&[(0, 20, 1.0), (1, 12, 1.0), (3, 7, 1.0)]);
    let yaml = "{batch: 4, stages: [{name: listen, tasks: [asr], epochs: 1}, {tasks: [summarization], epochs: 2, replay: 0.25, learning_rate: 1e-5}, {epochs: 0.5}]}";
    let schedule = Schedule::new(&settings(yaml), &population, 5).unwrap();
    let steps: Vec<_> = schedule
        .stages()
        .iter()
        .map(|stage| (stage.name.as_str(), stage.start, stage.steps))
        .collect();
    assert_eq!(
        steps,
        [("listen", 0, 5), ("stage-2", 5, 8), ("stage-3", 13, 5)],
        "2 x 12 rows in 3 slots of 4; 19.5 rows in five steps of 4"
    );
    assert_eq!(schedule.stages()[1].replayed, ["asr"]);
    assert_eq!(schedule.stages()[1].learning_rate, Some(1e-5));
    assert_eq!(
        schedule.stages()[2].tasks,
        ["asr", "summarization", "emotion"],
        "a task without rows is not among all"
    );
    assert_eq!((schedule.num_steps(), schedule.batch()), (18, 4));
    assert_eq!(
        [0, 4, 5, 12, 13, 17, 30].map(|step| schedule.stage_of(step)),
        [(0, 0), (0, 4), (1, 0), (1, 7), (2, 0), (2, 4), (2, 17)]
    );
    let mut listened = rows(&schedule, 0..5);
    listened.sort_unstable();
    assert!(
        listened.into_iter().eq(0..20),
        "one epoch is every row once"
    );
    let replayed: Vec<Pick> = (5..13)
        .flat_map(|step| schedule.picks(step).unwrap())
        .filter(|pick| pick.row < 20)
        .collect();
    assert_eq!(replayed.len(), 8, "a quarter of 32 slots");
    assert!(
        replayed.iter().all(|pick| pick.epoch == 1),
        "all rows of the task were used in the stage before"
    );
    assert_eq!(
        schedule.picks(40).unwrap().len(),
        4,
        "the last stage goes on past the end"
    );
}

#[test]
fn contradictions_name_the_stage_and_the_key() {
    let population = population(&[(0, 20, 1.0), (1, 12, 1.0), (3, 7, 0.0)]);
    for (yaml, found) in [
        ("{batch: 0, stages: [{steps: 1}]}", "schedule: `batch` is 0"),
        ("{batch: 1, stages: []}", "schedule: `stages` is empty"),
        (
            "{batch: 1, stages: [{}]}",
            "schedule: stage `stage-1`: neither `steps` nor `epochs`",
        ),
        (
            "{batch: 1, stages: [{steps: 1, epochs: 1}]}",
            "stage `stage-1`: `steps` and `epochs` are both",
        ),
        ("{batch: 1, stages: [{steps: 0}]}", "`steps` is 0"),
        (
            "{batch: 9, stages: [{steps: 1000000000000000}]}",
            "more than this program can count",
        ),
        ("{batch: 1, stages: [{epochs: -1}]}", "`epochs` is -1"),
        ("{batch: 1, stages: [{epochs: .nan}]}", "`epochs` is NaN"),
        (
            "{batch: 1, stages: [{steps: 1}, {name: b, steps: 1, tasks: [arc]}]}",
            "stage `b`: `tasks`: the data has no task `arc`\nhint: did you mean `asr`?",
        ),
        (
            "{batch: 1, stages: [{steps: 1, tasks: [zzz]}]}",
            "hint: it has: asr, summarization, dialect, emotion",
        ),
        (
            "{batch: 1, stages: [{steps: 1, tasks: [dialect]}]}",
            "no data entry has a row of `dialect`",
        ),
        (
            "{batch: 1, stages: [{steps: 1, tasks: [asr, emotion]}]}",
            "every row of `emotion` comes from a data entry with `weight: 0`",
        ),
        (
            "{batch: 1, stages: [{steps: 1, tasks: []}]}",
            "`tasks` names none",
        ),
        (
            "{batch: 1, stages: [{steps: 1, mix: temperature}]}",
            "`mix: temperature` needs `temperature`",
        ),
        (
            "{batch: 1, stages: [{steps: 1, mix: temperature, temperature: 0}]}",
            "`temperature` is 0",
        ),
        (
            "{batch: 1, stages: [{steps: 1, mix: uniform, temperature: 2}]}",
            "`temperature` has no effect",
        ),
        (
            "{batch: 1, stages: [{steps: 1, replay: 0.2}]}",
            "`replay` is 0.2, but no earlier stage",
        ),
        (
            "{batch: 1, stages: [{steps: 1}, {steps: 1, tasks: [asr], replay: 1.0}]}",
            "stage `stage-2`: `replay` is 1",
        ),
        (
            "{batch: 1, stages: [{steps: 1, tasks: [asr]}, {steps: 1, replay: 0.5}]}",
            "no earlier stage has a task that this one does not list",
        ),
        (
            "{batch: 1, stages: [{name: a, steps: 1}, {name: a, steps: 1}]}",
            "stage `a`: `name` is that of an earlier stage",
        ),
        (
            "{batch: 1, stages: [{steps: 1, learning_rate: -1}]}",
            "`learning_rate` is -1",
        ),
    ] {
        let error = Schedule::new(&settings(yaml), &population, 1)
            .map(|_| ())
            .unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains(found),
            "{yaml}: {error}"
        );
    }
    let mut nothing = population.clone();
    nothing
        .entries
        .iter_mut()
        .for_each(|entry| entry.weight = 0.0);
    let error = Schedule::new(
        &settings("{batch: 1, stages: [{steps: 1, mix: weights}]}"),
        &nothing,
        1,
    )
    .map(|_| ())
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("stage `stage-1`: `tasks: all` finds no row with a weight above 0"),
        "{error}"
    );
    assert!(
        Schedule::new(
            &settings("{batch: 1, stages: [{steps: 1, mix: uniform}]}"),
            &nothing,
            1
        )
        .is_ok(),
        "uniform leaves weights aside"
    );
}

#[test]
fn another_seed_gives_another_order_of_the_rows() {
    let population = population(&[(0, 64, 1.0)]);
    let settings = settings("{batch: 8, stages: [{epochs: 1}]}");
    let [one, two] =
        [1, 2].map(|seed| rows(&Schedule::new(&settings, &population, seed).unwrap(), 0..8));
    assert_ne!(one, two);
    assert_ne!(one, (0..64).collect::<Vec<u32>>());
    let sorted = |mut rows: Vec<u32>| {
        rows.sort_unstable();
        rows
    };
    assert_eq!(sorted(one), sorted(two));
}

prop_compose! {
    /// A curriculum over four tasks: up to four stages, any mixture, replay where an earlier stage
    /// leaves something to replay.
    fn curriculum()(
        entries in prop::collection::vec((0usize..4, 1u32..30, prop_oneof![Just(1.0), Just(2.0), 0.1..3.0f64]), 0..4),
        stages in prop::collection::vec((1u8..16, 1u64..25, 0usize..4, any::<bool>(), 0.05..0.9f64), 1..5),
        batch in 1usize..12,
    ) -> (Population, Settings) {
        let mut entries = entries;
        entries.extend((0..4).map(|task| (task, 5 + 3 * task as u32, 1.0)));
        let population = population(&entries);
        let mut seen = 0;
        let stages = stages.into_iter().map(|(mask, steps, mix, replays, replay)| {
            let mix = [Mix::Proportional, Mix::Uniform, Mix::Temperature, Mix::Weights][mix];
            let tasks = (0..4).filter(|task| mask >> task & 1 == 1).map(|task| population.tasks[task].clone()).collect();
            let replay = (replays && seen & !mask != 0).then_some(replay);
            seen |= mask;
            StageSettings { tasks: TaskList::Named(tasks), steps: Some(steps), mix: Some(mix), temperature: (mix == Mix::Temperature).then_some(2.5), replay, ..StageSettings::default() }
        }).collect();
        (population, Settings { batch, stages, ..Settings::default() })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn steps_do_not_depend_on_the_order_of_calls((population, settings) in curriculum(), seed: u64, asked in prop::collection::vec(any::<prop::sample::Index>(), 20)) {
        let schedule = Schedule::new(&settings, &population, seed).unwrap();
        let in_order: Vec<_> = (0..schedule.num_steps()).map(|step| schedule.picks(step).unwrap()).collect();
        prop_assert!(in_order.iter().all(|picks| picks.len() == settings.batch));
        let fresh = Schedule::new(&settings, &population, seed).unwrap();
        for step in asked.iter().map(|index| index.index(in_order.len())) {
            prop_assert_eq!(&fresh.picks(step as u64).unwrap(), &in_order[step]);
        }
    }

    #[test]
    fn nothing_is_repeated_in_a_pool_before_all_was_used((population, settings) in curriculum(), seed: u64) {
        let schedule = Schedule::new(&settings, &population, seed).unwrap();
        // Each pool's rows follow from its picks: over all stages, epoch e is whole before epoch
        // e + 1 begins.
        let mut drawn: HashMap<(usize, u32), Vec<u32>> = HashMap::new();
        for step in 0..schedule.num_steps() {
            let (stage, in_stage) = schedule.stage_of(step);
            let mut cursor = schedule.planned[stage].slots.at(in_stage * settings.batch as u64);
            for pick in schedule.picks(step).unwrap() {
                let (pool, _) = cursor.next();
                let epoch = drawn.entry((pool, pick.epoch)).or_default();
                prop_assert!(!epoch.contains(&pick.row), "row {} twice in epoch {}", pick.row, pick.epoch);
                epoch.push(pick.row);
                prop_assert!(!drawn.contains_key(&(pool, pick.epoch + 1)), "a finished epoch is not gone back to");
            }
        }
        for ((pool, epoch), rows) in &drawn {
            let whole = schedule.pools[*pool].num_rows() as usize;
            prop_assert!(rows.len() == whole || !drawn.contains_key(&(*pool, epoch + 1)));
        }
    }

    #[test]
    fn a_stage_draws_only_from_its_tasks((population, settings) in curriculum(), seed: u64) {
        let schedule = Schedule::new(&settings, &population, seed).unwrap();
        for (stage, written) in schedule.stages().iter().zip(&settings.stages) {
            let mut replayed = 0;
            for pick in (stage.start..stage.start + stage.steps).flat_map(|step| schedule.picks(step).unwrap()) {
                let task = &population.tasks[usize::from(population.row_task[pick.row as usize])];
                prop_assert!(stage.tasks.contains(task) != stage.replayed.contains(task));
                replayed += u64::from(stage.replayed.contains(task));
            }
            let exact = written.replay.unwrap_or(0.0) * (stage.steps * settings.batch as u64) as f64;
            prop_assert!((replayed as f64 - exact).abs() <= 0.5 + 1e-9, "{replayed} replayed of {exact}");
        }
    }
}
