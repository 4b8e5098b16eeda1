//! The probe of a recipe's embeddings: what they tell of task, label, speaker, corpus and duration.

use std::collections::BTreeMap;

use crate::data::Row;
use crate::plan::neighbours::NUM_NEIGHBOURS;
use crate::plan::neighbours::Space;
use crate::plan::table::Table;
use crate::schedule::NO_LABEL;
use crate::schedule::Vectors;
use crate::seed::Key;
use crate::text_table::NOTHING;
use crate::text_table::count;
use crate::train::corpus::Corpus;

/// Most rows that are compared with each other.
pub const MOST_ROWS: usize = 2_000;

/// Rows of which an embedding says something, with what is compared.
pub struct Sample {
    /// Global row numbers, rising.
    pub rows: Vec<u32>,
    /// Length of a vector.
    pub dims: usize,
    /// `[rows, dims]`.
    pub values: Vec<f32>,
}

impl Sample {
    /// A seeded sample of rows whose vector is not zero.
    pub fn of(vectors: &Vectors, seed: u64) -> Self {
        let Vectors { rows, dims, values } = vectors;
        let of = |place: usize| &values[place * dims..(place + 1) * dims];
        let mut places: Vec<usize> = (0..rows.len())
            .filter(|&place| of(place).iter().any(|&value| value != 0.0))
            .collect();
        let key = Key::new(seed, "plan probe");
        places.sort_by_key(|&place| key.bits(u64::from(rows[place])));
        places.truncate(MOST_ROWS);
        places.sort_unstable();
        Self {
            rows: places.iter().map(|&place| rows[place]).collect(),
            dims: *dims,
            values: places
                .iter()
                .flat_map(|&place| of(place))
                .copied()
                .collect(),
        }
    }
}

/// Numbers for names.
#[derive(Default)]
struct Names(BTreeMap<String, u32>);

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}

/// What is told, each with the value of every row of the sample.
fn questions(corpus: &Corpus, sample: &Sample) -> Vec<(String, Vec<Option<u32>>)> {
    let population = corpus.population();
    let mut found = vec![(
        "task".to_owned(),
        sample
            .rows
            .iter()
            .map(|&row| Some(corpus.task_of(row) as u32))
            .collect(),
    )];
    for (task, name) in population.tasks.iter().enumerate().filter(|(task, _)| {
        population
            .labels
            .get(*task)
            .is_some_and(|labels| !labels.is_empty())
    }) {
        let label = |&row: &u32| {
            Some(population.label_of(row))
                .filter(|&label| label != NO_LABEL && corpus.task_of(row) == task)
                .map(u32::from)
        };
        found.push((
            format!("label of {name}"),
            sample.rows.iter().map(label).collect(),
        ));
    }
    let mut speakers = Names::default();
    let speaker =
        |row: &Row, names: &mut Names| row.speaker.as_deref().map(|name| names.number(name));
    found.push((
        "speaker".to_owned(),
        sample
            .rows
            .iter()
            .map(|&row| speaker(corpus.row(row), &mut speakers))
            .collect(),
    ));
    found.push((
        "corpus (manifest)".to_owned(),
        sample
            .rows
            .iter()
            .map(|&row| Some(corpus.manifest_of(row) as u32))
            .collect(),
    ));
    found
}

const COLUMNS: [&str; 7] = [
    "what",
    "rows",
    "values",
    "told %",
    "commonest %",
    "balanced %",
    "chance %",
];

/// The table of what embeddings tell. `seconds` is the length of a row where it is known.
pub fn table(corpus: &Corpus, sample: &Sample, seconds: impl Fn(u32) -> Option<f64>) -> Table {
    let note = format!(
        "How often the {NUM_NEIGHBOURS} nearest rows (by cosine, the very same vector left out) vote for a row's own value, beside always saying the \
         commonest; balanced counts each value alike, and chance is for that. Duration: R^2 of the neighbours' mean of its logarithm."
    );
    let mut table = Table::new("what the embeddings know", note, &COLUMNS, 1);
    let space = Space::new(&sample.values, sample.dims);
    let percent = |value: f64| format!("{:.1}", 100.0 * value);
    for (name, values) in questions(corpus, sample) {
        if let Some(told) = space.tell(&values) {
            let numbers = [
                told.accuracy,
                told.commonest,
                told.balanced,
                1.0 / told.num_values as f64,
            ]
            .map(percent);
            table.rows.push(
                [
                    name,
                    count(told.num_rows as f64),
                    told.num_values.to_string(),
                ]
                .into_iter()
                .chain(numbers)
                .collect(),
            );
        }
    }
    let logs: Option<Vec<f64>> = sample
        .rows
        .iter()
        .map(|&row| seconds(row).map(f64::ln))
        .collect();
    if let Some(explained) = logs.and_then(|logs| space.explain(&logs)) {
        let dash = || NOTHING.to_owned();
        table.rows.push(vec![
            "duration".to_owned(),
            count(sample.rows.len() as f64),
            dash(),
            format!("R^2 {explained:.2}"),
            dash(),
            dash(),
            dash(),
        ]);
    }
    table
}
