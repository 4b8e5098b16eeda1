//! Tests of the schedule against a second implementation and against its properties.

mod balanced;
mod difficulty;
mod diverse;
mod golden;
mod mixtures;
mod online;
mod stages;
mod uds;

use std::ops::Range;

use super::*;

/// Rows of these tasks, one data entry each: `(task, number of rows, weight)`.
fn population(entries: &[(usize, u32, f64)]) -> Population {
    let mut population = Population {
        tasks: ["asr", "summarization", "dialect", "emotion"]
            .map(String::from)
            .into(),
        ..Population::default()
    };
    for &(task, rows, weight) in entries {
        let start = population.row_task.len() as u32;
        population
            .row_task
            .extend(std::iter::repeat_n(task as u16, rows as usize));
        population.entries.push(Entry {
            rows: start..start + rows,
            weight,
        });
    }
    population
}

/// One data entry of rows of these cells: `(task, label, has audio, number of rows)`.
fn labelled(cells: &[(usize, Option<u16>, bool, u32)]) -> Population {
    let entries: Vec<_> = cells
        .iter()
        .map(|&(task, _, _, rows)| (task, rows, 1.0))
        .collect();
    let mut population = population(&entries);
    let num_rows = population.row_task.len() as u32;
    population.entries = vec![Entry {
        rows: 0..num_rows,
        weight: 1.0,
    }];
    for &(task, label, has_audio, rows) in cells {
        population.labels.resize(4, Vec::new());
        let labels = &mut population.labels[task];
        labels.extend(
            (labels.len()..label.map_or(0, |label| usize::from(label) + 1))
                .map(|label| format!("label-{label}")),
        );
        population.row_label.extend(std::iter::repeat_n(
            label.unwrap_or(NO_LABEL),
            rows as usize,
        ));
        population
            .row_has_audio
            .extend(std::iter::repeat_n(has_audio, rows as usize));
    }
    population
}

/// The balance cell of a row.
fn cell_of(population: &Population, row: u32) -> (u16, u16, bool) {
    (
        population.row_task[row as usize],
        population.label_of(row),
        !population.has_audio(row),
    )
}

/// Vectors for the rows of a form, those of a task around their own centre.
fn vectors(population: &Population, has_audio: bool, dims: usize, seed: u64) -> Vectors {
    let number = |purpose: &str, row: u64, at: usize| {
        Key::new(seed, purpose).with(row).uniform(at as u64) - 0.5
    };
    let rows: Vec<u32> = (0..population.row_task.len() as u32)
        .filter(|&row| population.has_audio(row) == has_audio)
        .collect();
    let value = |row: u32, at| {
        number("row", u64::from(row), at)
            + number("cell", u64::from(population.row_task[row as usize]), at)
    };
    let values = rows
        .iter()
        .flat_map(|&row| (0..dims).map(move |at| value(row, at) as f32))
        .collect();
    Vectors { rows, dims, values }
}

fn embeddings(population: &Population, dims: usize, seed: u64) -> Arc<Embeddings> {
    Arc::new(
        Embeddings::new(
            vectors(population, true, dims, seed),
            vectors(population, false, dims, seed),
            seed,
        )
        .unwrap(),
    )
}

fn settings(yaml: &str) -> Settings {
    yaml_serde::from_str(yaml).unwrap()
}

/// A schedule whose diverse stages have embeddings.
fn schedule(yaml: &str, population: &Population, seed: u64) -> Schedule {
    with_embeddings(
        Schedule::new(&settings(yaml), population, seed).unwrap(),
        population,
    )
}

fn with_embeddings(mut schedule: Schedule, population: &Population) -> Schedule {
    for stage in 0..schedule.stages().len() {
        if schedule.embeddings_of(stage).is_some() {
            schedule
                .set_embeddings(stage, embeddings(population, 8, 1))
                .unwrap();
        }
    }
    schedule
}

fn picks(schedule: &Schedule, steps: Range<u64>) -> Vec<Pick> {
    steps
        .flat_map(|step| schedule.picks(step).unwrap())
        .collect()
}

fn rows(schedule: &Schedule, steps: Range<u64>) -> Vec<u32> {
    picks(schedule, steps)
        .into_iter()
        .map(|pick| pick.row)
        .collect()
}

/// The error for an impossible schedule.
fn refusal(yaml: &str, population: &Population) -> Error {
    Schedule::new(&settings(yaml), population, 1)
        .map(|_| ())
        .unwrap_err()
}
