//! What a run saw: its stages, and each task's share of examples, audio and target tokens.

use crate::chart::bars::Bar;
use crate::chart::bars::BarChart;
use crate::chart::bars::Group;
use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::ink::Colour;
use crate::chart::number;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::chart::timeline;
use crate::chart::timeline::Timeline;
use crate::page::Block;
use crate::page::Section;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Table;
use crate::sections::chapter::Chapter;
use maqam_records::curves::Log;
use maqam_records::curves::Seen;

/// The section; empty where there is no log.
pub fn section(chapter: &Chapter) -> Section {
    let mut blocks = Vec::new();
    if let Some(log) = chapter.run.log.as_ref().filter(|log| log.steps > 0) {
        blocks.push(Block::Figure(stages(chapter, log)));
        blocks.push(Block::Figure(shares(chapter, log)));
        blocks.push(Block::Table(table(chapter, log)));
    }
    Section::new(chapter.id("mixture"), "What it saw", blocks)
}

fn stages(chapter: &Chapter, log: &Log) -> Figure {
    let mut stages = Vec::with_capacity(log.stages.len());
    for stage in &log.stages {
        let examples = |task: &String| stage.tasks.get(task).map_or(0.0, |seen| seen.examples);
        let end = stage.end.as_ref();
        stages.push(timeline::Stage {
            name: stage.name.clone(),
            steps: (stage.last + 1 - stage.first) as f64,
            parts: chapter.tasks.iter().map(examples).collect(),
            note: end.map_or(String::new(), |end| format!("ended: {end}")),
        });
    }
    let timeline = Timeline {
        tasks: chapter.tasks.clone(),
        colours: chapter.colours.clone(),
        stages,
    };
    let caption =
        "Each stage as wide as it is long, filled with its tasks' shares of the examples.";
    Figure::new(
        chapter.id("stages"),
        "The curriculum as it was run",
        caption,
        Chart::Timeline(timeline),
    )
}

type Measure = (&'static str, fn(&Seen) -> f64);

const MEASURES: [Measure; 3] = [
    ("examples", |seen| seen.examples),
    ("seconds of audio", |seen| seen.seconds),
    ("target tokens", |seen| seen.target_tokens),
];

fn shares(chapter: &Chapter, log: &Log) -> Figure {
    let tasks = log.tasks();
    let mut groups = Vec::with_capacity(MEASURES.len());
    for (name, measured) in MEASURES {
        let bar = |task: &String| tasks.get(task).map(|seen| Bar::new(measured(seen)));
        groups.push(Group {
            name: name.to_owned(),
            bars: chapter.tasks.iter().map(bar).collect(),
        });
    }
    let chart = BarChart {
        axis: Axis::new("").unit(Unit::Percent),
        series: chapter.tasks.clone(),
        groups,
        colours: chapter
            .colours
            .iter()
            .copied()
            .map(Colour::Series)
            .collect(),
        is_stacked: true,
        is_dotted: false,
    };
    let caption = "Over the whole run. Under the default loss every target token weighs the same, so the last bar is what a task weighs in it.";
    Figure::new(
        chapter.id("shares"),
        "Shares of the tasks",
        caption,
        Chart::Bars(chart),
    )
}

fn table(chapter: &Chapter, log: &Log) -> Table {
    let mut columns = vec![Column::text("stage"), Column::text("task")];
    columns.extend(["examples", "%", "seconds", "%", "target tokens", "%"].map(Column::number));
    let mut table = Table::new(
        chapter.id("mixture-table"),
        "What each stage saw",
        "Percentages are shares of the stage.",
        columns,
    );
    for stage in &log.stages {
        let mut all = Seen::default();
        stage.tasks.values().for_each(|seen| all.add(seen));
        for (i, (task, seen)) in stage.tasks.iter().enumerate() {
            let name = if i == 0 {
                format!(
                    "{} ({}–{})",
                    stage.name,
                    number::count(stage.first as f64),
                    number::count(stage.last as f64)
                )
            } else {
                String::new()
            };
            let mut row = vec![Cell::text(name), Cell::text(task)];
            for (_, of) in MEASURES {
                row.push(Cell::number(of(seen).round(), Unit::Count));
                row.push(Cell::number(of(seen) / of(&all), Unit::Percent));
            }
            table.row(i == 0, row);
        }
    }
    table
}
