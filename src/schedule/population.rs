//! What there is to draw from: rows, their tasks and the weights of the data entries they came in. Metadata only, no file is read.

use std::ops::Range;

use crate::error::Error;
use crate::error::Result;

/// A data entry of the recipe: a manifest's rows with the weight the recipe gives them.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Global numbers of its rows.
    pub rows: Range<u32>,
    /// Its `weight` in the recipe; 0 leaves the rows out wherever weights count.
    pub weight: f64,
}

/// All rows of a run. A row that no entry holds is never drawn.
#[derive(Clone, Debug, Default)]
pub struct Population {
    /// Names of the tasks; their places are the numbers in `row_task`.
    pub tasks: Vec<String>,
    /// The task of each row, by global row number.
    pub row_task: Vec<u16>,
    /// The data entries, in the recipe's order, which do not overlap.
    pub entries: Vec<Entry>,
}

/// The rows of one task in one entry: what every pool is put together from.
#[derive(Debug)]
pub(super) struct Cell {
    /// Place of the task.
    pub(super) task: usize,
    /// Place of the entry.
    pub(super) entry: usize,
    /// Global row numbers, rising; never empty.
    pub(super) rows: Vec<u32>,
}

impl Population {
    /// The rows by task and entry, in the order of tasks, then of entries.
    pub(super) fn cells(&self) -> Result<Vec<Cell>> {
        self.check()?;
        let mut cells = Vec::new();
        for (entry, Entry { rows, .. }) in self.entries.iter().enumerate() {
            let mut by_task = vec![Vec::new(); self.tasks.len()];
            for row in rows.clone() {
                by_task[usize::from(self.row_task[row as usize])].push(row);
            }
            cells.extend(by_task.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()).map(|(task, rows)| Cell { task, entry, rows }));
        }
        cells.sort_by_key(|cell| (cell.task, cell.entry));
        Ok(cells)
    }

    fn check(&self) -> Result<()> {
        for (index, entry) in self.entries.iter().enumerate() {
            if !entry.weight.is_finite() || entry.weight < 0.0 {
                let found = Error::input(format!("data[{index}]: `weight` is {}", entry.weight));
                return Err(found.hint("give a number of at least 0; 1 is the default"));
            }
            if entry.rows.end as usize > self.row_task.len() {
                return Err(Error::bug(format!("data[{index}] ends at row {} of {}", entry.rows.end, self.row_task.len())));
            }
        }
        let mut ranges: Vec<&Range<u32>> = self.entries.iter().map(|entry| &entry.rows).filter(|rows| !rows.is_empty()).collect();
        ranges.sort_by_key(|rows| rows.start);
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].end > pair[1].start) {
            return Err(Error::bug(format!("two data entries hold row {}", pair[1].start)));
        }
        match self.row_task.iter().position(|&task| usize::from(task) >= self.tasks.len()) {
            Some(row) => Err(Error::bug(format!("row {row} is of task {} of {}", self.row_task[row], self.tasks.len()))),
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
            entries: vec![Entry { rows: 3..6, weight: 1.0 }, Entry { rows: 0..2, weight: 2.0 }],
        }
    }

    #[test]
    fn cells_hold_each_row_of_each_entry_once() {
        let cells: Vec<_> = population().cells().unwrap().into_iter().map(|cell| (cell.task, cell.entry, cell.rows)).collect();
        assert_eq!(cells, [(0, 0, vec![5]), (0, 1, vec![0]), (1, 0, vec![3, 4]), (1, 1, vec![1])]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for weight in [-1.0, f64::NAN, f64::INFINITY] {
            let mut wrong = population();
            wrong.entries[1].weight = weight;
            let error = wrong.cells().unwrap_err();
            assert!(error.exit_code() == 2 && error.message().starts_with("data[1]: `weight` is"), "{error}");
        }
        for (rows, task) in [(2..5, 0), (5..7, 0), (0..1, 9)] {
            let mut wrong = population();
            wrong.entries[1].rows = rows;
            wrong.row_task[0] = task;
            assert_eq!(wrong.cells().unwrap_err().exit_code(), 1);
        }
    }
}
