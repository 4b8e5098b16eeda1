//! Diverse drawing: a slow implementation of the definition gives the same picks; blocks are used
//! up; batches are more spread.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::spread::spread;
use super::spread::spread_by_place;
use super::*;

/// Rows of five cells, one of them text, two of them small enough to repeat inside a block.
fn unequal() -> Population {
    labelled(&[
        (0, None, true, 90),
        (1, None, true, 31),
        (1, None, false, 23),
        (3, Some(0), true, 5),
        (3, Some(1), true, 64),
        (3, None, true, 9),
    ])
}

/// A curriculum whose second stage is of the given kind.
fn curriculum(batch: usize, steps: u64, second: &str) -> String {
    format!(
        "{{batch: {batch}, stages: [{{draw: balanced, steps: 5}}, {{{second}, steps: {steps}}}]}}"
    )
}

/// The greedy picks of a block, from the picks of balanced drawing for the same steps: a slow
/// implementation of the definition.
fn greedy(population: &Population, embeddings: &Embeddings, block: &[Vec<Pick>]) -> Vec<Vec<Pick>> {
    let cell = |pick: &Pick| cell_of(population, pick.row);
    let distance = |a: &Pick, b: &Pick| {
        let vector = |pick: &Pick| {
            embeddings
                .of(pick.row, population.has_audio(pick.row))
                .unwrap()
        };
        1.0 - vector(a)
            .iter()
            .zip(vector(b))
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>()
    };
    let mut left: Vec<Pick> = block.concat();
    let mut batches = Vec::new();
    for in_order in block {
        let mut slots: Vec<_> = in_order.iter().map(cell).collect();
        slots.sort_unstable();
        let mut batch: Vec<Pick> = Vec::new();
        for slot in slots {
            let candidates: Vec<Pick> = left
                .iter()
                .filter(|pick| cell(pick) == slot)
                .copied()
                .collect();
            let oldest = candidates.iter().map(|pick| pick.epoch).min().unwrap();
            let mut best: Option<(f64, Pick)> = None;
            for candidate in candidates.into_iter().filter(|pick| pick.epoch == oldest) {
                let alike = batch.iter().filter(|pick| {
                    population.has_audio(pick.row) == population.has_audio(candidate.row)
                });
                let nearest = alike
                    .map(|pick| distance(pick, &candidate))
                    .fold(f64::INFINITY, f64::min);
                // Distances that differ only by rounding count as equal.
                if best.is_none_or(|(farthest, _)| nearest > farthest + 1e-6) {
                    best = Some((nearest, candidate));
                }
            }
            let (_, pick) = best.unwrap();
            left.remove(left.iter().position(|other| *other == pick).unwrap());
            batch.push(pick);
        }
        // In the order of slots, each cell's in the order in which they were chosen.
        let mut by_cell: BTreeMap<_, std::collections::VecDeque<Pick>> = BTreeMap::new();
        batch
            .iter()
            .for_each(|pick| by_cell.entry(cell(pick)).or_default().push_back(*pick));
        batches.push(
            in_order
                .iter()
                .map(|pick| by_cell.get_mut(&cell(pick)).unwrap().pop_front().unwrap())
                .collect(),
        );
    }
    batches
}

fn batches(schedule: &Schedule, steps: Range<u64>) -> Vec<Vec<Pick>> {
    steps.map(|step| schedule.picks(step).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn picks_are_those_of_the_definition(batch in 1usize..20, block in 1u64..10, steps in 1u64..24, seed: u64) {
        let population = unequal();
        let [balanced, diverse] = ["draw: balanced", &format!("draw: diverse, block: {block}")].map(|second| schedule(&curriculum(batch, steps, second), &population, seed));
        // Blocks end with the stage, and restart after its end.
        let firsts = (0..steps).step_by(block as usize).chain((steps..steps + 2 * block).step_by(block as usize));
        for first in firsts {
            let end = if first < steps { steps.min(first + block) } else { first + block };
            let [in_order, chosen] = [&balanced, &diverse].map(|schedule| batches(schedule, 5 + first..5 + end));
            prop_assert_eq!(greedy(&population, &embeddings(&population, 8, 1), &in_order), chosen, "steps {} to {}", first, end);
        }
    }

    #[test]
    fn every_rule_uses_its_blocks_up(batch in 1usize..16, block in 1u64..10, steps in 1u64..20, select in 0usize..4, source in 0usize..3, seed: u64) {
        let select = ["farthest", "kmeans", "kdpp", "random"][select];
        let source = ["base", "current", "random"][source];
        let second = format!("draw: diverse, block: {block}, select: {select}, embeddings: {source}");
        let [balanced, diverse] = ["draw: balanced", &second].map(|second| schedule(&curriculum(batch, steps, second), &unequal(), seed));
        for first in (0..steps).step_by(block as usize) {
            let [mut in_order, mut chosen] = [&balanced, &diverse].map(|schedule| picks(schedule, 5 + first..5 + steps.min(first + block)));
            prop_assert!(select != "random" || in_order == chosen, "random is balanced");
            in_order.sort_unstable();
            chosen.sort_unstable();
            prop_assert_eq!(in_order, chosen);
        }
    }

    #[test]
    fn steps_do_not_depend_on_the_order_of_calls(select in 0usize..3, asked in prop::collection::vec(0u64..40, 12), end in 1u64..15, seed: u64) {
        let select = ["farthest", "kmeans", "kdpp"][select];
        let yaml = format!("{{batch: 7, stages: [{{draw: diverse, select: {select}, steps: 15}}, {{draw: diverse, embeddings: random, steps: 15}}]}}");
        let population = unequal();
        let mut schedule = schedule(&yaml, &population, seed);
        schedule.end_stage(0, end).unwrap();
        let in_order = batches(&schedule, 0..40);
        let fresh = schedule.clone();
        for step in asked {
            prop_assert_eq!(&fresh.picks(step).unwrap(), &in_order[step as usize]);
        }
    }
}

#[test]
fn text_is_compared_only_with_text() {
    let population = unequal();
    let base = Schedule::new(
        &settings("{batch: 9, stages: [{draw: diverse, steps: 16}]}"),
        &population,
        2,
    )
    .unwrap();
    let with_seeds = |audio, text| {
        Arc::new(
            Embeddings::new(
                vectors(&population, true, 8, audio),
                vectors(&population, false, 8, text),
                1,
            )
            .unwrap(),
        )
    };
    let with = |embeddings: Arc<Embeddings>| {
        let mut schedule = base.clone();
        schedule.set_embeddings(0, embeddings).unwrap();
        picks(&schedule, 0..16)
            .into_iter()
            .partition::<Vec<Pick>, _>(|pick| population.has_audio(pick.row))
    };
    let [
        (audio, read),
        (audio_two, read_two),
        (audio_mixed, read_mixed),
    ] = [with_seeds(1, 1), with_seeds(2, 2), with_seeds(1, 2)].map(with);
    assert!(audio == audio_mixed && read_two == read_mixed);
    assert!(audio != audio_two && read != read_two);
}

#[test]
fn a_diverse_stage_needs_its_embeddings() {
    let population = unequal();
    let yaml = "{batch: 4, stages: [{steps: 2}, {name: near, draw: diverse, steps: 8}, {draw: diverse, embeddings: current, steps: 8},
        {draw: diverse, embeddings: random, steps: 8}, {draw: diverse, select: random, steps: 8}]}";
    let mut schedule = Schedule::new(&settings(yaml), &population, 2).unwrap();
    let needed: Vec<_> = (0..6).map(|stage| schedule.embeddings_of(stage)).collect();
    assert_eq!(
        needed,
        [
            None,
            Some(EmbeddingSource::Base),
            Some(EmbeddingSource::Current),
            None,
            None,
            None
        ]
    );
    assert_eq!(
        schedule.stages()[2].diverse,
        Some(Diverse {
            select: Select::Farthest,
            embeddings: EmbeddingSource::Current,
            block: 8
        })
    );
    let error = schedule.picks(3).unwrap_err();
    assert!(
        error.exit_code() == 1
            && error
                .message()
                .contains("stage `near` was given no embeddings"),
        "{error}"
    );
    assert!(
        schedule.picks(19).is_ok() && schedule.picks(33).is_ok(),
        "those that need none go on"
    );
    assert_eq!(
        schedule
            .set_embeddings(0, embeddings(&population, 8, 1))
            .unwrap_err()
            .exit_code(),
        1
    );

    let whole = embeddings(&population, 8, 1);
    let mut audio = whole.audio().clone();
    let place = audio.rows.iter().position(|&row| row == 100).unwrap();
    audio.rows.remove(place);
    audio.values.drain(place * 8..(place + 1) * 8);
    let error = schedule
        .set_embeddings(
            1,
            Arc::new(Embeddings::new(audio, whole.text().clone(), 1).unwrap()),
        )
        .unwrap_err();
    assert!(
        error.exit_code() == 2
            && error.message()
                == "stage `near`: row 100 (task `summarization`) has no audio embedding",
        "{error}"
    );
}

#[test]
fn clusters_are_used_in_turn() {
    // Four groups, far apart, of ten rows each; four slots per step; every batch has one of each
    // group, whatever the order.
    let population = labelled(&[(0, None, true, 40)]);
    let value = |row: u32, at: u32| {
        if row % 4 == at {
            1.0
        } else {
            0.01 * ((row * 7 + at * 3) % 5) as f32
        }
    };
    let audio = Vectors {
        rows: (0..40).collect(),
        dims: 4,
        values: (0..160).map(|at| value(at / 4, at % 4)).collect(),
    };
    let embeddings = Arc::new(Embeddings::new(audio, Vectors::default(), 1).unwrap());
    let mut whole_batches = 0;
    for seed in 0..20 {
        let mut schedule = Schedule::new(
            &settings(
                "{batch: 4, stages: [{draw: diverse, select: kmeans, block: 10, steps: 10}]}",
            ),
            &population,
            seed,
        )
        .unwrap();
        schedule.set_embeddings(0, embeddings.clone()).unwrap();
        for batch in batches(&schedule, 0..10) {
            let mut groups: Vec<u32> = batch.iter().map(|pick| pick.row % 4).collect();
            groups.sort_unstable();
            whole_batches += u32::from(groups == [0, 1, 2, 3]);
        }
    }
    // k-means++ finds the four groups, except for rare starts with two centres in one group.
    assert!(whole_batches > 180, "{whole_batches} of 200");
}

/// Mean spread of 1,000 batches of 16, by rule; rows of four tasks, each around its own centre.
#[test]
fn diverse_batches_spread_more_than_random_ones() {
    let population = labelled(&[
        (0, None, true, 3000),
        (1, None, true, 800),
        (2, Some(0), true, 700),
        (2, Some(1), true, 300),
        (3, Some(0), true, 900),
        (3, Some(1), true, 40),
    ]);
    let embeddings = embeddings(&population, 32, 1);
    let measure = |keys: &str, steps: u64| {
        let mut schedule = Schedule::new(
            &settings(&format!(
                "{{batch: 16, stages: [{{draw: diverse, {keys}, steps: {steps}}}]}}"
            )),
            &population,
            5,
        )
        .unwrap();
        if schedule.embeddings_of(0).is_some() {
            schedule.set_embeddings(0, embeddings.clone()).unwrap();
        }
        let batches: Vec<Vec<u32>> = (0..steps)
            .map(|step| rows(&schedule, step..step + 1))
            .collect();
        let by_place = spread_by_place(&population, &embeddings, &batches, 8)
            .into_iter()
            .map(|spread| spread.unwrap().nearest)
            .collect::<Vec<_>>();
        (
            spread(&population, &embeddings, &batches).unwrap(),
            by_place,
        )
    };
    let (random, _) = measure("select: random", 1000);
    let (blind, _) = measure("embeddings: random", 1000);
    let (farthest, by_place) = measure("select: farthest", 1000);
    // The spread of one batch has a standard deviation below 0.06, so that of the mean of 1,000 is
    // below 0.002.
    assert!(
        (blind.nearest - random.nearest).abs() < 0.004,
        "choosing by what knows nothing is no better"
    );
    assert!(farthest.nearest > random.nearest + 0.02);
    assert!(
        by_place[..4]
            .iter()
            .all(|nearest| *nearest > random.nearest + 0.03),
        "first in a block, first served"
    );
    assert!(by_place[7] < random.nearest, "the last takes what is left");
    for select in ["kmeans", "kdpp"] {
        let (found, by_place) = measure(&format!("select: {select}"), 1000);
        // Both rules only prefer dissimilar rows, mostly at the beginning of a block.
        assert!(
            found.nearest > random.nearest + 0.002 && by_place[0] > random.nearest + 0.01,
            "{select}"
        );
    }
}
