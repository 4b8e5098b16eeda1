//! Notes on stages with `draw: uds`: the cost of their candidates, and cells with fewer rows than
//! candidates.

use crate::schedule::Schedule;
use crate::schedule::Stage;
use crate::text_table::count;
use crate::text_table::counted;

/// Share of a training step's operations that a forward pass of its rows takes, about.
const FORWARD: f64 = 1.0 / 3.0;

/// Why the picks of a stage are not known before training; `None` if UDS does not choose them.
pub fn unknown(stage: &Stage) -> Option<String> {
    stage.uds.map(|_| {
        "`draw: uds` chooses among candidates by the logits of the model as it trains".to_owned()
    })
}

/// Training steps that the candidates of a stage cost as much as, for each of its steps.
pub fn cost(stage: &Stage) -> f64 {
    let candidates = stage.uds.map_or(0, |uds| uds.candidates);
    candidates as f64 * FORWARD
}

/// A note on the cost of each stage that UDS chooses rows for.
pub fn notes(schedule: &Schedule) -> Vec<String> {
    let mut found = Vec::new();
    for stage in schedule.stages() {
        let Some(uds) = stage.uds else {
            continue;
        };
        let of_step = uds.candidates * schedule.batch() as u64;
        found.push(format!(
            "stage `{}`: UDS passes up to {} candidates forward before each step, {} forward passes of a row in all: about {:.0} % of what the stage costs without them. Steps are not read ahead",
            stage.name,
            count(of_step as f64),
            count((of_step * stage.steps) as f64),
            100.0 * cost(stage)
        ));
    }
    found
}

/// A warning of each stage in which the candidates of a step are more than the rows of a cell: the
/// choice is among fewer rows than `uds.candidates` says, or there is none.
pub fn warnings(schedule: &Schedule) -> Vec<String> {
    let mut found = Vec::new();
    for (index, stage) in schedule.stages().iter().enumerate() {
        let Some(uds) = stage.uds.filter(|uds| uds.candidates > 1) else {
            continue;
        };
        let mut small = Vec::new();
        for cell in schedule.cells(index) {
            let slots = cell.num_slots.div_ceil(stage.steps.max(1));
            let candidates = slots * uds.candidates;
            if candidates > cell.num_rows {
                small.push(format!(
                    "{} has {} for {} of {}",
                    cell.name(),
                    counted(cell.num_rows, "row"),
                    counted(candidates, "candidate"),
                    counted(slots, "slot")
                ));
            }
        }
        let Some(first) = small.first() else {
            continue;
        };
        let others = match small.len() {
            1 => String::new(),
            num => format!(
                ", and {} have too few",
                counted(num as u64 - 1, "other cell")
            ),
        };
        found.push(format!(
            "stage `{}`: fewer rows compete than `uds.candidates` says: in a step, {first}{others}; a row competes once, so give more rows, or lower `uds.candidates` or `schedule.batch`",
            stage.name
        ));
    }
    found
}
