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
use crate::metric::Metric;
use crate::page::Block;
use crate::page::Section;
use crate::page::escape::isolated;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Table;
use crate::sections::chapter::Chapter;
use crate::sections::selection;
use maqam_records::curves::Log;
use maqam_records::curves::Seen;
use maqam_records::recipe_keys::RecipeKeys;

/// The section; empty where there is no log.
pub fn section(chapter: &Chapter) -> Section {
    let mut blocks = Vec::new();
    if let Some(log) = chapter.run.log.as_ref().filter(|log| log.steps > 0) {
        blocks.push(Block::Figure(stages(chapter, log)));
        blocks.push(Block::Figure(shares(chapter, log)));
        blocks.push(Block::Table(table(chapter, log)));
        blocks.extend(selection::figure(chapter, log).map(Block::Figure));
        if !log.roll_backs.is_empty() {
            blocks.push(Block::Table(roll_backs(chapter, log)));
        }
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
    let caption = shares_caption(chapter.run.recipe.as_ref());
    Figure::new(
        chapter.id("shares"),
        "Shares of the tasks",
        caption,
        Chart::Bars(chart),
    )
}

/// Tasks that left a stage at their peak, and what that cost.
fn roll_backs(chapter: &Chapter, log: &Log) -> Table {
    let columns = vec![
        Column::text("stage"),
        Column::text("task"),
        Column::text("score"),
        Column::number("left after step"),
        Column::number("peak at step"),
        Column::number("selection half"),
        Column::number("other half"),
        Column::number("steps rolled back"),
    ];
    let caption = "Training went on from each peak without the task. Scores are those at the peak: one half of dev selected it, and the other is reported. Steps that were rolled back are in the tables above, because they were computed. A step counts as rolled back once, so behind an earlier roll-back the last column is less than the distance of both steps.";
    let mut table = Table::new(
        chapter.id("roll-backs"),
        "Tasks that left at their peak",
        caption,
        columns,
    );
    for record in &log.roll_backs {
        let at_peak = log
            .rounds
            .iter()
            .find(|round| round.at_step == record.to_step);
        let metric = Metric::of(&record.score);
        let number = |value: Option<f64>| {
            value.map_or(Cell::text(""), |value| Cell::number(value, metric.unit))
        };
        let whole = |value: u64| Cell::number(value as f64, Unit::Count);
        table.row(
            false,
            vec![
                Cell::text(record.stage.clone()),
                Cell::text(record.task.clone()),
                Cell::text(metric.heading_in_full()),
                whole(record.at_step),
                whole(record.to_step),
                number(at_peak.and_then(|round| round.selection.get(&record.task).copied())),
                number(at_peak.and_then(|round| round.reported.get(&record.task).copied())),
                whole(record.steps),
            ],
        );
    }
    table
}

/// The caption of the shares: which of them are the weights of tasks in the loss, by the recipe's
/// `loss` and those of its stages.
fn shares_caption(recipe: Option<&RecipeKeys>) -> String {
    let Some(recipe) = recipe else {
        return "Over the whole run.".to_owned();
    };
    let units = values_of_stages(recipe, "loss.normalise", "token");
    let meaning = match units.as_slice() {
        _ if recipe.get("gradients.method").is_some() => "Under `gradients` every task of a step has a gradient of its own, whatever its shares.".to_owned(),
        ["token"] => "In the loss of a step every target token weighs the same, so the last bar is about what a task weighs.".to_owned(),
        ["example"] => "Under `normalise: example` every example weighs the same in the loss of its step, whatever its number of target tokens.".to_owned(),
        ["task"] => "Under `normalise: task` every task of a step weighs the same in its loss, whatever its shares.".to_owned(),
        several => format!("Stages normalise the loss by {}, so no bar is what a task weighs.", several.join(" and ")),
    };
    let are_labels_equal = values_of_stages(recipe, "loss.class_weights", "none") == ["none"];
    let labels = if are_labels_equal {
        ""
    } else {
        " `class_weights` change this for labels."
    };
    format!("Over the whole run. {meaning}{labels}")
}

/// The different values of a key of the recipe over its stages, where a stage may set its own.
fn values_of_stages<'a>(recipe: &'a RecipeKeys, key: &str, default: &'a str) -> Vec<&'a str> {
    let of_recipe = recipe.get(key).unwrap_or(default);
    let mut found = Vec::new();
    for stage in 0.. {
        let prefix = format!("schedule.stages.{stage}.");
        if !recipe
            .values
            .iter()
            .any(|(key, _)| key.starts_with(&prefix))
        {
            break;
        }
        let value = recipe.get(&format!("{prefix}{key}")).unwrap_or(of_recipe);
        if !found.contains(&value) {
            found.push(value);
        }
    }
    if found.is_empty() {
        found.push(of_recipe);
    }
    found
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
                    isolated(&stage.name),
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
