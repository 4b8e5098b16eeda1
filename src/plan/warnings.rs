//! What a person should look at before training: rare cells that are drawn again and again, tasks
//! and labels that get nothing.

use crate::plan::draws::StageDraws;
use crate::plan::shares::StageShares;
use crate::schedule::CellShare;
use crate::schedule::Population;
use crate::schedule::Schedule;
use crate::schedule::msft::EVALUATIONS;
use crate::text_table::count;

/// A cell whose rows are drawn this many times as often as those of its stage on average is named.
const OFTEN: f64 = 4.0;

/// What stages and rows give reason to warn of.
pub fn find(
    population: &Population,
    schedule: &Schedule,
    draws: &[StageDraws],
    shares: &[StageShares],
) -> Vec<String> {
    let mut found = labels_without_rows(population);
    for (index, (stage, shares)) in draws.iter().zip(shares).enumerate() {
        let name = &stage.stage.name;
        let gets_none = |task: &&String| {
            shares
                .shares
                .iter()
                .all(|share| population.tasks[share.task] != **task)
        };
        for task in stage
            .stage
            .tasks
            .iter()
            .chain(&stage.stage.replayed)
            .filter(gets_none)
        {
            found.push(format!(
                "stage `{name}`: `{task}` gets no slot in its {} steps",
                count(stage.stage.steps as f64)
            ));
        }
        found.extend(
            rare_cells(&schedule.cells(index))
                .into_iter()
                .map(|text| format!("stage `{name}`: {text}")),
        );
        if stage.stage.msft.is_some() {
            found.push(format!(
                "stage `{name}` leaves tasks out as they peak and may end early; everything here counts all tasks over its planned steps, those that are rolled back among them"
            ));
            found.extend(long_round(schedule, index));
        }
        if stage.stage.early_stop.is_some() {
            found.push(format!(
                "stage `{name}` may end early; everything here counts its planned steps"
            ));
        }
    }
    found
}

/// A warning of a stage that ends by mSFT and is over before its first round.
fn long_round(schedule: &Schedule, stage: usize) -> Option<String> {
    let interval = schedule.evaluation_interval(stage, &[]).ok()?;
    let round = interval * EVALUATIONS;
    let stage = &schedule.stages()[stage];
    // A round has no fewer steps than evaluations.
    let other = match interval {
        1 => "",
        _ => ", or lower `msft.budget`",
    };
    (round > stage.steps).then(|| {
        format!(
            "stage `{}` has {} steps and its first round {}, so no task can leave; give it at least {} steps{other}",
            stage.name,
            count(stage.steps as f64),
            count(round as f64),
            count(round as f64)
        )
    })
}

fn rare_cells(cells: &[CellShare]) -> Vec<String> {
    let (rows, slots) = cells.iter().fold((0, 0), |(rows, slots), cell| {
        (rows + cell.num_rows, slots + cell.num_slots)
    });
    let mean = slots as f64 / rows.max(1) as f64;
    let text = |cell: &CellShare| {
        let per_row = cell.draws_per_row();
        if cell.num_slots == 0 {
            return Some(format!("{} gets no slot", cell.name()));
        }
        let is_often = per_row > OFTEN * mean && per_row > 1.0;
        let is_single = cell.num_rows == 1 && cell.num_slots > 1 && cells.len() > 1;
        (is_often || is_single).then(|| {
            let rows = if cell.num_rows == 1 { "one row".to_owned() } else { format!("{} rows", count(cell.num_rows as f64)) };
            format!("{} has {rows}, each drawn {per_row:.1} times (the stage's mean is {mean:.1}); `max_repeats: N` caps that", cell.name())
        })
    };
    cells.iter().filter_map(text).collect()
}

fn labels_without_rows(population: &Population) -> Vec<String> {
    let mut found = Vec::new();
    for (task, labels) in population.labels.iter().enumerate() {
        let has_rows = |label: usize| {
            let of_task = population.row_task.iter().zip(&population.row_label);
            of_task
                .into_iter()
                .any(|(&of, &found)| usize::from(of) == task && usize::from(found) == label)
        };
        let without: Vec<String> = labels
            .iter()
            .enumerate()
            .filter(|(label, _)| !has_rows(*label))
            .map(|(_, name)| format!("`{name}`"))
            .collect();
        if !without.is_empty() {
            found.push(format!(
                "`{}`: no row has the label {}",
                population.tasks[task],
                without.join(", ")
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Entry;
    use crate::schedule::Settings;

    fn cell(label: &str, num_rows: u64, num_slots: u64) -> CellShare {
        CellShare {
            task: "emotion".into(),
            label: Some(label.into()),
            has_audio: true,
            num_rows,
            num_slots,
        }
    }

    /// Half the slots of two are of the task with eight rows: an epoch of it takes eight steps.
    #[test]
    fn a_stage_shorter_than_its_first_round_is_named() {
        let yaml = "{batch: 2, stages: [{name: short, steps: 7, end: msft}, {name: tiny, steps: 3, end: msft, msft: {budget: 0.1}}, {name: exact, steps: 8, end: msft}]}";
        let settings: Settings = yaml_serde::from_str(yaml).unwrap();
        let entry = |rows| Entry { rows, weight: 1.0 };
        let population = Population {
            tasks: ["a", "b"].map(String::from).into(),
            row_task: [[0; 8], [1; 8]].concat(),
            entries: vec![entry(0..8), entry(8..16)],
            ..Population::default()
        };
        let schedule = Schedule::new(&settings, &population, 5).unwrap();
        let found = [0, 1, 2].map(|stage| long_round(&schedule, stage));
        assert_eq!(
            found,
            [
                Some("stage `short` has 7 steps and its first round 8, so no task can leave; give it at least 8 steps, or lower `msft.budget`".to_owned()),
                Some("stage `tiny` has 3 steps and its first round 4, so no task can leave; give it at least 4 steps".to_owned()),
                None
            ]
        );
    }

    #[test]
    fn rare_cells_are_named_with_their_draws() {
        let found = rare_cells(&[
            cell("happy", 500, 500),
            cell("sad", 490, 500),
            cell("angry", 10, 500),
            cell("afraid", 1, 500),
            cell("calm", 9, 0),
        ]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(
            found[0],
            "`angry` of `emotion` has 10 rows, each drawn 50.0 times (the stage's mean is 2.0); `max_repeats: N` caps that"
        );
        assert!(
            found[1].starts_with("`afraid` of `emotion` has one row, each drawn 500.0 times")
                && found[2] == "`calm` of `emotion` gets no slot"
        );
        assert!(
            rare_cells(&[cell("happy", 20, 40), cell("sad", 10, 40)]).is_empty(),
            "twice as often is what balance is for"
        );
    }
}
