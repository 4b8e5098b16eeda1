//! Weights of tasks that followed a reward: by step, with the rewards, and their range by stage.

use std::collections::BTreeMap;

use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::lines::LineChart;
use crate::chart::lines::Series;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::page::Block;
use crate::page::Section;
use crate::page::escape::isolated;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Table;
use crate::sections::chapter::Chapter;
use crate::sections::chapter::steps_axis;
use maqam_records::curves::Log;
use maqam_records::track::Track;

/// The section; empty where no weights followed a reward.
pub fn section(chapter: &Chapter) -> Section {
    let mut blocks = Vec::new();
    if let Some(log) = chapter
        .run
        .log
        .as_ref()
        .filter(|log| !log.mixtures.is_empty())
    {
        blocks.push(Block::Figure(by_step(chapter, log)));
        blocks.push(Block::Table(ranges(chapter, log)));
    }
    Section::new(chapter.id("weights"), "Weights of the tasks", blocks)
}

fn by_step(chapter: &Chapter, log: &Log) -> Figure {
    let panel = |name: &str, unit: Unit, tracks: &BTreeMap<String, Track>| {
        let series = tracks
            .iter()
            .map(|(task, track)| Series::new(task, track.points(), chapter.colour(task)));
        let chart = LineChart {
            x: steps_axis(),
            y: Axis::new(name).unit(unit).from_zero(),
            series: series.collect(),
            boundaries: chapter.boundaries(),
            levels: Vec::new(),
        };
        (name.to_owned(), Chart::Lines(chart))
    };
    Figure::of_panels(
        chapter.id("weights-by-step"),
        "Weights that followed a reward",
        "The share of slots that a task gets on average, and the moving average of the reward that it follows from.",
        vec![
            panel("weight", Unit::Percent, &log.weights),
            panel("reward", Unit::Plain, &log.rewards),
        ],
    )
}

fn ranges(chapter: &Chapter, log: &Log) -> Table {
    let mut columns = vec![Column::text("stage"), Column::text("task")];
    columns.extend(
        [
            "first weight, %",
            "least",
            "most",
            "last",
            "slots before the last update",
        ]
        .map(Column::number),
    );
    let mut table = Table::new(
        chapter.id("weights-table"),
        "Range of the weights",
        "A small range says that the rule changed little, and that the run is close to one with fixed weights.",
        columns,
    );
    for (stage, tasks) in &log.mixtures {
        for (i, (task, found)) in tasks.iter().enumerate() {
            let name = match i {
                0 => isolated(stage),
                _ => String::new(),
            };
            let mut row = vec![Cell::text(name), Cell::text(task)];
            for weight in [found.first, found.least, found.most, found.last] {
                row.push(Cell::number(weight, Unit::Percent));
            }
            row.push(Cell::number(found.slots as f64, Unit::Count));
            table.row(i == 0, row);
        }
    }
    table
}
