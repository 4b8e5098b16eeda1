//! Rows that DynamiX measures losses on: set aside before pools are made, so that no stage trains
//! on them.

use std::collections::BTreeMap;

use crate::population::Cell;
use crate::population::Population;
use crate::settings::Mix;
use crate::settings::Settings;
use crate::settings::TaskList;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// Takes the rows that stages measure losses on out of the cells. Returns them by task, in a seeded
/// order. A row of a data entry with weight 0 stays where it is.
///
/// # Errors
/// A task with too few rows.
pub(super) fn take(
    settings: &Settings,
    population: &Population,
    cells: &mut Vec<Cell>,
    seed: u64,
) -> Result<BTreeMap<usize, Vec<u32>>> {
    let mut taken = BTreeMap::new();
    for (task, (wanted, stage)) in wanted(settings, population) {
        let is_of_task =
            |cell: &Cell| cell.task == task && population.entries[cell.entry].weight > 0.0;
        let mut rows: Vec<u32> = cells
            .iter()
            .filter(|cell| is_of_task(cell))
            .flat_map(|cell| cell.rows.iter().copied())
            .collect();
        // A task without rows is refused, or left out, where stages are planned.
        if rows.is_empty() {
            continue;
        }
        if rows.len() < wanted + 2 {
            return Err(Error::input(format!(
                "`{}` has {} rows, and `mix: {{online: dynamix}}` sets {wanted} of each task aside to measure losses on",
                population.tasks[task],
                rows.len()
            ))
            .at(format!("schedule: stage `{stage}`"))
            .hint("write a smaller `held_out` under `mix`, so that at least 2 rows are left; or add rows"));
        }
        let key = Key::new(seed, "set aside").with(task as u64);
        rows.sort_unstable_by_key(|&row| (key.bits(u64::from(row)), row));
        rows.truncate(wanted);
        let mut sorted = rows.clone();
        sorted.sort_unstable();
        for cell in cells.iter_mut().filter(|cell| is_of_task(cell)) {
            cell.rows.retain(|row| sorted.binary_search(row).is_err());
        }
        taken.insert(task, rows);
    }
    cells.retain(|cell| !cell.rows.is_empty());
    Ok(taken)
}

/// Number of rows that are set aside of each task, with the first stage that asks for any.
fn wanted(settings: &Settings, population: &Population) -> BTreeMap<usize, (usize, String)> {
    let mut wanted: BTreeMap<usize, (usize, String)> = BTreeMap::new();
    for (index, stage) in settings.stages.iter().enumerate() {
        let rows = match stage.mix {
            Some(Mix::Online(online)) => online.held_out(settings.batch),
            _ => 0,
        };
        if rows == 0 {
            continue;
        }
        for (task, name) in population.tasks.iter().enumerate() {
            let is_listed = match &stage.tasks {
                TaskList::All => true,
                TaskList::Named(names) => names.contains(name),
            };
            if is_listed {
                let of_task = wanted.entry(task).or_insert((0, stage.name_at(index)));
                of_task.0 = of_task.0.max(rows);
            }
        }
    }
    wanted
}
