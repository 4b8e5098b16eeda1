//! The plan as one page of HTML: the same tables, with pictures of stages, shares, batches and embeddings.

use std::collections::BTreeMap;

use crate::plan::Plan;
use crate::plan::draws::StageDraws;
use crate::plan::evenness::Batches;
use crate::plan::evenness::Evenness;
use crate::plan::probe::Sample;
use crate::plan::shares::Amount;
use crate::plan::shares::StageShares;
use crate::plan::table::Table;
use crate::plan::table::count;
use crate::plan::table::duration;
use crate::report::chart::bars::Bar;
use crate::report::chart::bars::BarChart;
use crate::report::chart::bars::Group;
use crate::report::chart::figure::Chart;
use crate::report::chart::figure::Figure;
use crate::report::chart::figure::slug;
use crate::report::chart::ink;
use crate::report::chart::ink::Colour;
use crate::report::chart::lines::LineChart;
use crate::report::chart::lines::Series;
use crate::report::chart::number::Unit;
use crate::report::chart::scale::Axis;
use crate::report::chart::scatter::Point;
use crate::report::chart::scatter::Scatter;
use crate::report::chart::timeline;
use crate::report::chart::timeline::Timeline;
use crate::report::page::Block;
use crate::report::page::Fact;
use crate::report::page::Page;
use crate::report::page::Section;
use crate::report::page::table as report;
use crate::schedule::NO_LABEL;
use crate::schedule::pca::Pca;
use crate::schedule::spread::Spread;

/// The page of a plan.
pub fn page(plan: &Plan, name: &str) -> Page {
    let total = plan.total();
    let targets = total
        .target_tokens
        .map(|targets| Fact::new(count(targets), "target tokens"));
    let facts = [
        Fact::new(count(plan.schedule.num_steps() as f64), "steps"),
        Fact::new(count(total.examples), "examples"),
        Fact::new(duration(total.seconds), "of audio"),
    ];
    Page {
        kind: "Plan".to_owned(),
        title: name.to_owned(),
        subtitle: format!(
            "{} steps of {} examples, {} rows",
            plan.schedule.num_steps(),
            plan.schedule.batch(),
            plan.corpus.len()
        ),
        facts: facts.into_iter().chain(targets).collect(),
        sections: vec![
            stages(plan),
            batches(plan),
            embeddings(plan),
            costs(plan),
            remarks(plan),
        ],
    }
}

fn tasks_of(plan: &Plan) -> Vec<String> {
    plan.corpus.population().tasks.clone()
}

/// What each task gets of a stage, in the order of all tasks.
fn of_tasks(plan: &Plan, shares: &StageShares) -> Vec<Option<Amount>> {
    let of = |task: usize| {
        shares
            .shares
            .iter()
            .find(|share| share.label.is_none() && share.task == task)
            .map(|share| share.amount)
    };
    (0..plan.corpus.population().tasks.len()).map(of).collect()
}

fn stages(plan: &Plan) -> Section {
    let stage = |(draws, shares): (&StageDraws, &StageShares)| timeline::Stage {
        name: draws.stage.name.clone(),
        steps: draws.steps.len() as f64,
        parts: of_tasks(plan, shares)
            .iter()
            .map(|amount| amount.map_or(0.0, |amount| amount.examples))
            .collect(),
        note: String::new(),
    };
    let timeline = Timeline {
        tasks: tasks_of(plan),
        colours: ink::of_tasks(&tasks_of(plan)),
        stages: plan.draws.iter().zip(&plan.shares).map(stage).collect(),
    };
    let caption =
        "Each stage as wide as it is long, filled with its tasks' shares of the examples.";
    let mut blocks = vec![
        Block::Figure(Figure::new(
            "stages",
            "The curriculum",
            caption,
            Chart::Timeline(timeline),
        )),
        Block::Figure(shares(plan)),
    ];
    blocks.extend(
        plan.share_tables()
            .iter()
            .map(|table| Block::Table(shown(table))),
    );
    Section::new("shares", "What each stage draws", blocks)
}

/// A way to measure an amount.
type Measure = (&'static str, fn(&Amount) -> f64);

const MEASURES: [Measure; 3] = [
    ("examples", |amount| amount.examples),
    ("audio", |amount| amount.seconds),
    ("target tokens", |amount| {
        amount.target_tokens.unwrap_or(0.0)
    }),
];

fn shares(plan: &Plan) -> Figure {
    let panel = |(name, of): &Measure| {
        let group = |(draws, shares): (&StageDraws, &StageShares)| Group {
            name: draws.stage.name.clone(),
            bars: of_tasks(plan, shares)
                .iter()
                .map(|amount| amount.as_ref().map(|amount| Bar::new(of(amount))))
                .collect(),
        };
        let chart = BarChart {
            axis: Axis::new("").unit(Unit::Percent),
            series: tasks_of(plan),
            groups: plan.draws.iter().zip(&plan.shares).map(group).collect(),
            colours: ink::of_tasks(&tasks_of(plan))
                .into_iter()
                .map(Colour::Series)
                .collect(),
            is_stacked: true,
            is_dotted: false,
        };
        ((*name).to_owned(), Chart::Bars(chart))
    };
    let known = MEASURES
        .iter()
        .filter(|(_, of)| plan.shares.iter().any(|shares| of(&shares.total) > 0.0));
    Figure::of_panels(
        "stage-shares",
        "Shares by stage",
        "Under `normalise: token` the shares of target tokens are what tasks weigh in the loss.",
        known.map(panel).collect(),
    )
}

/// A table as the report shows it.
fn shown(table: &Table) -> report::Table {
    let column = |(i, name): (usize, &String)| {
        if i < table.num_words {
            report::Column::text(name)
        } else {
            report::Column::number(name)
        }
    };
    let mut found = report::Table::new(
        slug(&table.title),
        &table.title,
        &table.note,
        table.columns.iter().enumerate().map(column).collect(),
    );
    for row in &table.rows {
        // Labels stand below their task; a page would swallow plain spaces.
        let cells = row
            .iter()
            .map(|cell| report::Cell::text(cell.replace("  ", "\u{2003}")))
            .chain(std::iter::repeat(report::Cell::text("")));
        found.row(false, cells.take(table.columns.len()).collect());
    }
    found
}

fn batches(plan: &Plan) -> Section {
    let mut blocks = vec![
        Block::Figure(levels(plan)),
        Block::Table(shown(&plan.evenness_table())),
    ];
    blocks.extend(
        plan.evenness
            .iter()
            .filter_map(|(name, evenness)| by_place(name, evenness))
            .map(Block::Figure),
    );
    Section::new("batches", "Batches beside chance", blocks)
}

fn levels(plan: &Plan) -> Figure {
    type Of = (&'static str, fn(&Batches) -> Option<f64>);
    let measures: [Of; 3] = [
        ("entropy of tasks", |batches| batches.tasks),
        ("entropy of labels", |batches| batches.labels),
        ("distance to the nearest", |batches| {
            batches.spread.map(|spread| spread.nearest)
        }),
    ];
    let panel = |(name, of): &Of| {
        let group = |(stage, evenness): &(String, Evenness)| Group {
            name: stage.clone(),
            bars: [
                Some(&evenness.drawn),
                evenness.unchosen.as_ref(),
                Some(&evenness.at_random),
            ]
            .map(|batches| batches.and_then(of).map(Bar::new))
            .to_vec(),
        };
        let series = ["as drawn", "in order", "at random"]
            .map(str::to_owned)
            .to_vec();
        let groups: Vec<Group> = plan
            .evenness
            .iter()
            .map(group)
            .filter(|group| group.bars.iter().any(Option::is_some))
            .collect();
        let chart = BarChart {
            axis: Axis::new("").from_zero(),
            series,
            groups,
            colours: Vec::new(),
            is_stacked: false,
            is_dotted: false,
        };
        ((*name).to_owned(), chart)
    };
    let panels = measures
        .iter()
        .map(panel)
        .filter(|(_, chart)| !chart.groups.is_empty())
        .map(|(name, chart)| (name, Chart::Bars(chart)))
        .collect();
    Figure::of_panels(
        "levels",
        "How level and how far apart",
        "Entropies over their largest value; cosine distances from 0, alike, to 2, opposite.",
        panels,
    )
}

fn by_place(name: &str, evenness: &Evenness) -> Option<Figure> {
    let series =
        |of: fn(&(Option<Spread>, Option<Spread>)) -> Option<Spread>, name: &str, colour| {
            let points = evenness
                .by_place
                .iter()
                .enumerate()
                .filter_map(|(place, spreads)| Some((place as f64 + 1.0, of(spreads)?.nearest)));
            Series::new(name, points.collect(), colour).marked()
        };
    let series = vec![
        series(|spreads| spreads.0, "as drawn", 0),
        series(|spreads| spreads.1, "in order", 1),
    ];
    let chart = LineChart {
        x: Axis::new("step of the block").unit(Unit::Count),
        y: Axis::new("distance to the nearest"),
        series,
        ..LineChart::default()
    };
    let caption = "The first step of a block has most to choose from, the last takes what is left.";
    let is_there = evenness.by_place.len() > 1;
    is_there.then(|| {
        Figure::new(
            format!("places-{}", slug(name)),
            format!("Spread by place in the block, stage {name}"),
            caption,
            Chart::Lines(chart),
        )
    })
}

fn embeddings(plan: &Plan) -> Section {
    let Some((table, sample)) = &plan.probe else {
        return Section::new("embeddings", "Embeddings", Vec::new());
    };
    Section::new(
        "embeddings",
        "Embeddings",
        vec![
            Block::Figure(scatters(plan, sample)),
            Block::Table(shown(table)),
        ],
    )
}

fn scatters(plan: &Plan, sample: &Sample) -> Figure {
    let population = plan.corpus.population();
    let pca = Pca::new(&sample.values, sample.dims, 2);
    let places: Vec<(f64, f64)> = pca
        .project(&sample.values)
        .chunks(pca.variance.len().max(1))
        .map(|at| (at[0], at.get(1).copied().unwrap_or(0.0)))
        .collect();
    let label = |row: u32| match population.label_of(row) {
        NO_LABEL => None,
        label => Some(format!(
            "{}: {}",
            population.tasks[plan.corpus.task_of(row)],
            population.labels[plan.corpus.task_of(row)][usize::from(label)]
        )),
    };
    let scatter = |group: &dyn Fn(u32) -> Option<String>| {
        let mut groups: BTreeMap<String, usize> = sample
            .rows
            .iter()
            .filter_map(|&row| Some((group(row)?, 0)))
            .collect();
        groups
            .values_mut()
            .enumerate()
            .for_each(|(i, place)| *place = i);
        let point = |(&row, &at): (&u32, &(f64, f64))| {
            Some(Point {
                id: plan.corpus.id(row),
                at,
                group: groups[&group(row)?],
            })
        };
        let points = sample.rows.iter().zip(&places).filter_map(point).collect();
        let axis = |i: usize| {
            format!(
                "component {} ({:.0} % of the variance)",
                i + 1,
                100.0 * pca.variance_ratio.get(i).copied().unwrap_or(0.0)
            )
        };
        Scatter {
            groups: groups.keys().cloned().collect(),
            colours: Vec::new(),
            points,
            x_label: axis(0),
            y_label: axis(1),
        }
    };
    let mut by_task = scatter(&|row| Some(population.tasks[plan.corpus.task_of(row)].clone()));
    by_task.colours = ink::of_tasks(&by_task.groups);
    let by_label = scatter(&label);
    let panels = [("by task", by_task), ("by label", by_label)]
        .into_iter()
        .filter(|(_, scatter)| !scatter.points.is_empty());
    let caption = format!(
        "Principal components of {} rows' embeddings, as stages compare them: centred, of length one.",
        count(sample.rows.len() as f64)
    );
    Figure::of_panels(
        "components",
        "What the model hears",
        caption,
        panels
            .map(|(name, scatter)| (name.to_owned(), Chart::Scatter(scatter)))
            .collect(),
    )
}

fn costs(plan: &Plan) -> Section {
    let facts = plan
        .estimates
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.clone()))
        .collect::<Vec<_>>();
    Section::new(
        "costs",
        "Memory and time",
        if facts.is_empty() {
            Vec::new()
        } else {
            vec![Block::Facts(facts)]
        },
    )
}

fn remarks(plan: &Plan) -> Section {
    let of = |title: &str, lines: &[String]| {
        let prose = lines.iter().map(|line| Block::Prose(line.clone()));
        if lines.is_empty() {
            Vec::new()
        } else {
            std::iter::once(Block::Heading(title.to_owned()))
                .chain(prose)
                .collect()
        }
    };
    Section::new(
        "remarks",
        "Warnings and notes",
        [of("Warnings", &plan.warnings), of("Notes", &plan.notes)].concat(),
    )
}
