//! Notes on stages with `draw: uds`: the cost of their candidates.

use crate::schedule::Schedule;
use crate::schedule::Stage;
use crate::text_table::count;

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
