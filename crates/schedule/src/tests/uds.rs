//! `draw: uds`: the slots of balanced drawing, candidates that are draws of their cell in order,
//! and refused settings.

use std::collections::BTreeMap;

use super::*;
use crate::uds::in_slots;

/// Two tasks, one of them with two labels.
fn three_cells() -> Population {
    labelled(&[
        (0, None, true, 40),
        (3, Some(0), true, 24),
        (3, Some(1), true, 5),
    ])
}

const UDS: &str = "{batch: 4, stages: [{draw: balanced, steps: 2}, {draw: uds, uds: {candidates: 3}, steps: 5}, {draw: balanced, steps: 3}]}";

#[test]
fn candidates_are_the_draws_of_their_cell_in_order() {
    let population = three_cells();
    let schedule = schedule(UDS, &population, 3);
    // The draws of each cell, by many steps of balanced drawing.
    let balanced = super::schedule(
        "{batch: 4, stages: [{draw: balanced, steps: 60}]}",
        &population,
        3,
    );
    let in_order = picks(&balanced, 0..60);
    let of_cell = |cell: (u16, u16, bool)| {
        let of_cell = |pick: &&Pick| cell_of(&population, pick.row) == cell;
        in_order.iter().filter(of_cell).copied().collect::<Vec<_>>()
    };
    let slots = |step: u64| {
        let of_step = picks(&balanced, step..step + 1);
        let cells = of_step.iter().map(|pick| cell_of(&population, pick.row));
        cells.collect::<Vec<_>>()
    };
    // Draws of the two steps before the stage.
    let mut before: BTreeMap<(u16, u16, bool), usize> = BTreeMap::new();
    for cell in [slots(0), slots(1)].concat() {
        *before.entry(cell).or_default() += 1;
    }
    let mut taken = before.clone();
    for step in 0..5 {
        let of_step = slots(step);
        let mut seen = 0;
        for found in schedule.candidates(2 + step).unwrap() {
            let cell = cell_of(&population, found.picks[0].row);
            let places: Vec<usize> = (0..4).filter(|&slot| of_step[slot] == cell).collect();
            assert_eq!(found.slots, places, "the slots of a balanced stage");
            let first = taken[&cell];
            let draws = of_cell(cell)[first..first + 3 * places.len()].to_vec();
            let mut distinct: Vec<Pick> = Vec::new();
            for draw in &draws {
                if distinct.iter().all(|pick| pick.row != draw.row) {
                    distinct.push(*draw);
                }
            }
            assert_eq!(found.picks, distinct, "step {step}, {cell:?}");
            *taken.entry(cell).or_default() += draws.len();
            seen += places.len();
        }
        assert_eq!(seen, 4);
    }
    // The stage behind it goes on after all of them.
    for pick in picks(&schedule, 7..8) {
        let cell = cell_of(&population, pick.row);
        let place = taken.entry(cell).or_default();
        assert_eq!(pick, of_cell(cell)[*place]);
        *place += 1;
    }
}

#[test]
fn chosen_rows_take_the_place_of_the_first_candidates() {
    let population = three_cells();
    let mut schedule = schedule(UDS, &population, 3);
    let first = schedule.picks(3).unwrap();
    let cells = schedule.candidates(3).unwrap();
    assert!(
        cells
            .iter()
            .all(|cell| first[cell.slots[0]] == cell.picks[0])
    );
    let chosen: Vec<Vec<Pick>> = cells
        .iter()
        .map(|cell| {
            let scores: Vec<Option<f64>> = (0..cell.picks.len()).map(|i| Some(i as f64)).collect();
            cell.choose(&scores)
        })
        .collect();
    let chosen = in_slots(&cells, &chosen).unwrap();
    assert_ne!(chosen, first);
    schedule.set_chosen(3, chosen.clone()).unwrap();
    assert_eq!(schedule.picks(3).unwrap(), chosen);
    assert_ne!(schedule.picks(4).unwrap(), chosen, "of the next step");
    assert!(schedule.set_chosen(3, Vec::new()).is_err());
    assert!(schedule.candidates(0).is_err(), "a balanced stage");
    let marks = [0, 1, 2].map(|stage| schedule.depends_on_training(stage));
    assert_eq!(marks, [false, true, true]);
}

#[test]
fn one_candidate_leaves_the_rows_of_balanced_drawing() {
    let population = three_cells();
    let of = |draw: &str| {
        let yaml = format!("{{batch: 4, stages: [{{{draw}, steps: 9}}, {{steps: 3}}]}}");
        picks(&schedule(&yaml, &population, 5), 0..12)
    };
    assert_eq!(of("draw: uds, uds: {candidates: 1}"), of("draw: balanced"));
    assert_ne!(of("draw: uds"), of("draw: balanced"));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let population = three_cells();
    for (stage, said) in [
        (
            "mix: uniform, draw: uds",
            "`mix: uniform` beside `draw: uds`",
        ),
        ("replay: 0.2, draw: uds", "`replay: 0.2` beside `draw: uds`"),
        (
            "max_repeats: 3, draw: uds",
            "`max_repeats` beside `draw: uds`",
        ),
        ("select: kdpp, draw: uds", "`select` beside `draw: uds`"),
        ("end: msft, draw: uds", "`draw: uds` beside `end: msft`"),
        (
            "difficulty: {by: duration}, draw: uds",
            "`difficulty` beside `draw: uds`",
        ),
        ("uds: {alpha: 1}", "`uds` beside `draw: shuffled`"),
        ("draw: uds, uds: {candidates: 0}", "`uds.candidates` is 0"),
        (
            "draw: uds, uds: {candidates: 2000}",
            "`uds.candidates` is 2000",
        ),
        ("draw: uds, uds: {queue: 0}", "`uds.queue` is 0"),
        ("draw: uds, uds: {rows: 0}", "`uds.rows` is 0"),
        ("draw: uds, uds: {columns: 0}", "`uds.columns` is 0"),
        ("draw: uds, uds: {length: 0}", "`uds.length` is 0"),
        ("draw: uds, uds: {alpha: -1}", "`uds.alpha` is -1"),
        ("draw: uds, uds: {alpha: .inf}", "`uds.alpha` is inf"),
    ] {
        let yaml = format!("{{batch: 4, stages: [{{{stage}, steps: 2}}]}}");
        let error = refusal(&yaml, &population).to_string();
        assert!(error.contains(said), "{stage}: {error}");
        assert!(error.contains("hint:"), "{stage}: {error}");
    }
    let shuffled = "{batch: 4, shuffle: true, stages: [{draw: uds, steps: 2}]}";
    let error = refusal(shuffled, &population).to_string();
    assert!(error.contains("`draw: uds` beside `schedule.shuffle: true`"));
}
