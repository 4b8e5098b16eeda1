//! The available rows, their metadata, and the weights of their data entries. This module reads no
//! files.

use std::ops::Range;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// A data entry of the recipe: a manifest's rows with their weight.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Global numbers of its rows.
    pub rows: Range<u32>,
    /// `weight` of the entry in the recipe; 0 excludes its rows wherever weights count.
    pub weight: f64,
}

/// The number in [`Population::row_label`] of a row without a label.
pub const NO_LABEL: u16 = u16::MAX;

/// All rows of a run. A row outside all entries is never drawn.
#[derive(Clone, Debug, Default)]
pub struct Population {
    /// Names of the tasks; their places are the numbers in `row_task`.
    pub tasks: Vec<String>,
    /// Names of each task's labels, by task; none for a task that does not classify. If empty, no
    /// task has labels.
    pub labels: Vec<Vec<String>>,
    /// The task of each row, by global row number.
    pub row_task: Vec<u16>,
    /// The label of each row, as its place among its task's labels, or [`NO_LABEL`]. Left empty no
    /// row has one.
    pub row_label: Vec<u16>,
    /// True if each row has audio. Left empty all rows have.
    pub row_has_audio: Vec<bool>,
    /// The data entries, in the recipe's order, which do not overlap.
    pub entries: Vec<Entry>,
}

/// Rows with the same task, entry, label and form. Pools consist of such cells.
#[derive(Debug)]
pub(super) struct Cell {
    /// Place of the task.
    pub(super) task: usize,
    /// Place of the entry.
    pub(super) entry: usize,
    /// Index of the label, or [`NO_LABEL`], which sorts last.
    pub(super) label: u16,
    /// True if the rows have audio.
    pub(super) has_audio: bool,
    /// Global row numbers, rising; never empty.
    pub(super) rows: Vec<u32>,
}

impl Population {
    /// The label of a row, as its index among the task's labels, or [`NO_LABEL`].
    pub fn label_of(&self, row: u32) -> u16 {
        self.row_label
            .get(row as usize)
            .copied()
            .unwrap_or(NO_LABEL)
    }

    /// Returns whether a row has audio.
    pub fn has_audio(&self, row: u32) -> bool {
        self.row_has_audio
            .get(row as usize)
            .copied()
            .unwrap_or(true)
    }

    /// The rows in the order of tasks, then of entries, then of labels, those with audio before
    /// those without.
    pub(super) fn cells(&self) -> Result<Vec<Cell>> {
        self.check()?;
        // Each task has two places for each of its labels and two for rows without one.
        let starts: Vec<usize> = (0..=self.tasks.len())
            .map(|task| {
                (0..task)
                    .map(|before| 2 * (self.num_labels(before) + 1))
                    .sum()
            })
            .collect();
        let mut cells = Vec::new();
        for (entry, Entry { rows, .. }) in self.entries.iter().enumerate() {
            let mut places = vec![Vec::new(); starts.last().copied().unwrap_or(0)];
            for row in rows.clone() {
                let task = usize::from(self.row_task[row as usize]);
                let label = usize::from(self.label_of(row)).min(self.num_labels(task));
                places[starts[task] + 2 * label + usize::from(!self.has_audio(row))].push(row);
            }
            for (place, mut rows) in places
                .into_iter()
                .enumerate()
                .filter(|(_, rows)| !rows.is_empty())
            {
                rows.shrink_to_fit();
                let task = starts.partition_point(|&start| start <= place) - 1;
                let inside = place - starts[task];
                let label = if inside / 2 < self.num_labels(task) {
                    (inside / 2) as u16
                } else {
                    NO_LABEL
                };
                cells.push(Cell {
                    task,
                    entry,
                    label,
                    has_audio: inside.is_multiple_of(2),
                    rows,
                });
            }
        }
        cells.sort_by_key(|cell| (cell.task, cell.entry));
        Ok(cells)
    }

    fn num_labels(&self, task: usize) -> usize {
        self.labels.get(task).map_or(0, Vec::len)
    }

    fn check(&self) -> Result<()> {
        for (index, entry) in self.entries.iter().enumerate() {
            if !entry.weight.is_finite() || entry.weight < 0.0 {
                let found = Error::input(format!("data[{index}]: `weight` is {}", entry.weight));
                return Err(found.hint("give a number of at least 0; 1 is the default"));
            }
            if entry.rows.end as usize > self.row_task.len() {
                return Err(Error::bug(format!(
                    "data[{index}] ends at row {} of {}",
                    entry.rows.end,
                    self.row_task.len()
                )));
            }
        }
        let mut ranges: Vec<&Range<u32>> = self
            .entries
            .iter()
            .map(|entry| &entry.rows)
            .filter(|rows| !rows.is_empty())
            .collect();
        ranges.sort_by_key(|rows| rows.start);
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].end > pair[1].start) {
            return Err(Error::bug(format!(
                "two data entries hold row {}",
                pair[1].start
            )));
        }
        self.check_rows()
    }

    fn check_rows(&self) -> Result<()> {
        for (name, len) in [
            ("row_label", self.row_label.len()),
            ("row_has_audio", self.row_has_audio.len()),
        ] {
            if len != 0 && len != self.row_task.len() {
                return Err(Error::bug(format!(
                    "`{name}` knows {len} of {} rows",
                    self.row_task.len()
                )));
            }
        }
        if let Some(task) = self
            .labels
            .iter()
            .position(|labels| labels.len() >= usize::from(NO_LABEL))
        {
            return Err(Error::input(format!(
                "task `{}` has {} labels",
                self.tasks[task],
                self.labels[task].len()
            ))
            .hint("65,534 are the most that can be told apart"));
        }
        if let Some(row) = self
            .row_task
            .iter()
            .position(|&task| usize::from(task) >= self.tasks.len())
        {
            return Err(Error::bug(format!(
                "row {row} is of task {} of {}",
                self.row_task[row],
                self.tasks.len()
            )));
        }
        let is_known = |(row, &label): (usize, &u16)| {
            label == NO_LABEL
                || usize::from(label) < self.num_labels(usize::from(self.row_task[row]))
        };
        match self
            .row_label
            .iter()
            .enumerate()
            .position(|found| !is_known(found))
        {
            Some(row) => Err(Error::bug(format!(
                "row {row} has label {} of the {} of its task",
                self.row_label[row],
                self.num_labels(usize::from(self.row_task[row]))
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn population() -> Population {
        Population {
            tasks: vec!["asr".into(), "emotion".into()],
            row_task: vec![0, 1, 0, 1, 1, 0],
            entries: vec![
                Entry {
                    rows: 3..6,
                    weight: 1.0,
                },
                Entry {
                    rows: 0..2,
                    weight: 2.0,
                },
            ],
            ..Population::default()
        }
    }

    #[test]
    fn cells_hold_each_row_of_each_entry_once() {
        let cells: Vec<_> = population()
            .cells()
            .unwrap()
            .into_iter()
            .map(|cell| (cell.task, cell.entry, cell.rows))
            .collect();
        assert_eq!(
            cells,
            [
                (0, 0, vec![5]),
                (0, 1, vec![0]),
                (1, 0, vec![3, 4]),
                (1, 1, vec![1])
            ]
        );
    }

    #[test]
    fn labels_and_forms_are_cells_of_their_own() {
        let labelled = Population {
            labels: vec![vec![], vec!["happy".into(), "sad".into()]],
            row_task: vec![1, 1, 0, 1, 1, 0],
            row_label: vec![1, NO_LABEL, NO_LABEL, 1, 0, NO_LABEL],
            row_has_audio: vec![true, false, true, false, true, false],
            entries: vec![Entry {
                rows: 0..6,
                weight: 1.0,
            }],
            ..population()
        };
        let cells: Vec<_> = labelled
            .cells()
            .unwrap()
            .into_iter()
            .map(|cell| (cell.task, cell.label, cell.has_audio, cell.rows))
            .collect();
        let asr = [(0, NO_LABEL, true, vec![2]), (0, NO_LABEL, false, vec![5])];
        let emotion = [
            (1, 0, true, vec![4]),
            (1, 1, true, vec![0]),
            (1, 1, false, vec![3]),
            (1, NO_LABEL, false, vec![1]),
        ];
        assert_eq!(cells, [&asr[..], &emotion[..]].concat());
    }

    #[test]
    fn impossible_populations_are_refused() {
        for weight in [-1.0, f64::NAN, f64::INFINITY] {
            let mut wrong = population();
            wrong.entries[1].weight = weight;
            let error = wrong.cells().unwrap_err();
            assert!(
                error.exit_code() == 2 && error.message().starts_with("data[1]: `weight` is"),
                "{error}"
            );
        }
        for (rows, task) in [(2..5, 0), (5..7, 0), (0..1, 9)] {
            let mut wrong = population();
            wrong.entries[1].rows = rows;
            wrong.row_task[0] = task;
            assert_eq!(wrong.cells().unwrap_err().exit_code(), 1);
        }
        for (row_label, row_has_audio) in [
            (vec![NO_LABEL; 5], vec![]),
            (vec![], vec![true; 7]),
            (vec![0; 6], vec![]),
        ] {
            let wrong = Population {
                row_label,
                row_has_audio,
                ..population()
            };
            assert_eq!(wrong.cells().unwrap_err().exit_code(), 1);
        }
    }
}
