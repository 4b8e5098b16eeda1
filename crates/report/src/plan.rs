//! The plan as one page of HTML: the same tables, with pictures of stages, shares, batches and
//! embeddings.

use std::collections::BTreeSet;

use crate::chart::bars::Bar;
use crate::chart::bars::BarChart;
use crate::chart::bars::Group;
use crate::chart::dendrogram::Dendrogram;
use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::figure::slug;
use crate::chart::heat::HeatMap;
use crate::chart::ink;
use crate::chart::ink::Colour;
use crate::chart::lines::LineChart;
use crate::chart::lines::Series;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::chart::scatter::Point;
use crate::chart::scatter::Scatter;
use crate::chart::timeline;
use crate::chart::timeline::Timeline;
use crate::page::Block;
use crate::page::Fact;
use crate::page::Page;
use crate::page::Section;
use crate::page::escape::isolated;
use crate::page::table::Table;
use maqam_base::text_table::count;
use maqam_base::text_table::duration;
use maqam_stats::pca::Pca;
use maqam_stats::spectral::Merge;

/// A plan, as far as the page shows it.
pub struct Plan {
    /// Name of the recipe.
    pub name: String,
    /// Number of steps.
    pub num_steps: u64,
    /// Examples of a step.
    pub batch: usize,
    /// Rows there are.
    pub num_rows: usize,
    /// What all stages draw.
    pub total: Amount,
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// A table of shares for each stage.
    pub shares: Vec<Table>,
    /// The table of batches beside chance.
    pub evenness: Table,
    /// What the embeddings know.
    pub embeddings: Option<Embeddings>,
    /// Affinity of tasks, where it was measured.
    pub affinity: Option<Affinity>,
    /// Memory and time: what it is, and how much.
    pub estimates: Vec<(&'static str, String)>,
    /// What to look at.
    pub warnings: Vec<String>,
    /// What else to know.
    pub notes: Vec<String>,
}

/// What is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amount {
    /// Draws.
    pub examples: f64,
    /// Audio, in seconds.
    pub seconds: f64,
    /// Tokens that are learnt; `None` without a tokenizer.
    pub target_tokens: Option<f64>,
}

/// A stage.
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Its number of steps.
    pub num_steps: usize,
    /// What each task gets, in the order of all tasks.
    pub tasks: Vec<Option<Amount>>,
    /// What all of them get.
    pub total: Amount,
    /// Its batches as they are drawn.
    pub drawn: Batches,
    /// The same rows as they come; only where the stage chooses.
    pub in_order: Option<Batches>,
    /// Its draws in a random order.
    pub at_random: Batches,
    /// Distance to the nearest row by place in the block, as the stage draws and in order; only
    /// where the stage chooses.
    pub by_place: Vec<[Option<f64>; 2]>,
}

/// How level batches are, and how far apart their rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batches {
    /// Entropy of tasks over its largest possible value.
    pub tasks: Option<f64>,
    /// The same of labels.
    pub labels: Option<f64>,
    /// Cosine distance of a row to the nearest other.
    pub nearest: Option<f64>,
}

/// Embeddings of a sample of rows, and what they tell.
pub struct Embeddings {
    /// What they tell.
    pub table: Table,
    /// The rows.
    pub rows: Vec<Row>,
    /// Length of a vector.
    pub dims: usize,
    /// Shape `[rows, dims]`.
    pub values: Vec<f32>,
}

/// Affinity of sets of rows by their gradients.
pub struct Affinity {
    /// Distances, groups and numbers of rows.
    pub table: Table,
    /// Names of the sets.
    pub names: Vec<String>,
    /// Cosines of their gradients, row by row.
    pub cosines: Vec<Vec<Option<f64>>>,
    /// Group of each set, from 0 in the order of introduction.
    pub groups: Vec<usize>,
    /// Merges of the dendrogram.
    pub merges: Vec<Merge>,
    /// The groups in the order of their introduction, with their members.
    pub members: Vec<(String, String)>,
}

/// A row of the sample.
pub struct Row {
    /// Its id.
    pub id: String,
    /// Its task.
    pub task: String,
    /// Its task and label, where it has one.
    pub label: Option<String>,
}

/// The page of a plan.
pub fn page(plan: &Plan) -> Page {
    let total = plan.total;
    let targets = total
        .target_tokens
        .map(|targets| Fact::new(count(targets), "target tokens"));
    let facts = [
        Fact::new(count(plan.num_steps as f64), "steps"),
        Fact::new(count(total.examples), "examples"),
        Fact::new(duration(total.seconds), "of audio"),
    ];
    Page {
        kind: "Plan".to_owned(),
        title: plan.name.clone(),
        subtitle: format!(
            "{} steps of {} examples, {} rows",
            plan.num_steps, plan.batch, plan.num_rows
        ),
        facts: facts.into_iter().chain(targets).collect(),
        sections: vec![
            stages(plan),
            batches(plan),
            embeddings(plan),
            affinity(plan),
            costs(plan),
            remarks(plan),
        ],
    }
}

fn stages(plan: &Plan) -> Section {
    let timeline = Timeline {
        tasks: plan.tasks.clone(),
        colours: ink::of_tasks(&plan.tasks),
        stages: plan.stages.iter().map(timeline_stage).collect(),
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
    blocks.extend(plan.shares.iter().cloned().map(Block::Table));
    Section::new("shares", "What each stage draws", blocks)
}

fn affinity(plan: &Plan) -> Section {
    let mut blocks = Vec::new();
    if let Some(found) = &plan.affinity {
        blocks.push(Block::Table(found.table.clone()));
        blocks.push(Block::Figure(Figure::new(
            "affinity-cosines",
            "Cosines of the gradients",
            "Of LoRA's B at the start of the run. 1 is the same direction, and below 0 a step for one raises the loss of the other.",
            Chart::Heat(HeatMap::cosines(&found.names, &found.cosines)),
        )));
        blocks.push(Block::Figure(Figure::new(
            "affinity-dendrogram",
            "Dendrogram",
            "Average linkage of 1 - cosine. A colour is a spectral group.",
            Chart::Dendrogram(Dendrogram {
                names: found.names.clone(),
                groups: found.groups.clone(),
                merges: found.merges.clone(),
            }),
        )));
        blocks.push(Block::Heading(
            "Groups in the order of their introduction".to_owned(),
        ));
        blocks.push(Block::Facts(found.members.clone()));
    }
    Section::new("affinity", "Affinity of tasks", blocks)
}

/// A stage of the timeline, divided by the examples of its tasks.
fn timeline_stage(stage: &Stage) -> timeline::Stage {
    let examples = |amount: &Option<Amount>| amount.map_or(0.0, |amount| amount.examples);
    timeline::Stage {
        name: stage.name.clone(),
        steps: stage.num_steps as f64,
        parts: stage.tasks.iter().map(examples).collect(),
        note: String::new(),
    }
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
    let mut panels = Vec::new();
    for (name, measured) in MEASURES {
        if plan.stages.iter().any(|stage| measured(&stage.total) > 0.0) {
            panels.push((name.to_owned(), Chart::Bars(shares_chart(plan, measured))));
        }
    }
    Figure::of_panels(
        "stage-shares",
        "Shares by stage",
        "Under `normalise: token` the shares of target tokens are what tasks weigh in the loss.",
        panels,
    )
}

/// A bar for each stage, divided by what its tasks have of a measure.
fn shares_chart(plan: &Plan, measured: fn(&Amount) -> f64) -> BarChart {
    let mut groups = Vec::with_capacity(plan.stages.len());
    for stage in &plan.stages {
        let bar = |amount: &Option<Amount>| amount.as_ref().map(|it| Bar::new(measured(it)));
        groups.push(Group {
            name: stage.name.clone(),
            bars: stage.tasks.iter().map(bar).collect(),
        });
    }
    let colours = ink::of_tasks(&plan.tasks).into_iter();
    BarChart {
        axis: Axis::new("").unit(Unit::Percent),
        series: plan.tasks.clone(),
        groups,
        colours: colours.map(Colour::Series).collect(),
        is_stacked: true,
        is_dotted: false,
    }
}

fn batches(plan: &Plan) -> Section {
    let mut blocks = vec![
        Block::Figure(levels(plan)),
        Block::Table(plan.evenness.clone()),
    ];
    blocks.extend(plan.stages.iter().filter_map(by_place).map(Block::Figure));
    Section::new("batches", "Batches beside chance", blocks)
}

fn levels(plan: &Plan) -> Figure {
    type Of = (&'static str, fn(&Batches) -> Option<f64>);
    let measures: [Of; 3] = [
        ("entropy of tasks", |batches| batches.tasks),
        ("entropy of labels", |batches| batches.labels),
        ("distance to the nearest", |batches| batches.nearest),
    ];
    let mut panels = Vec::new();
    for (name, measured) in measures {
        let chart = levels_chart(plan, measured);
        if !chart.groups.is_empty() {
            panels.push((name.to_owned(), Chart::Bars(chart)));
        }
    }
    Figure::of_panels(
        "levels",
        "How level and how far apart",
        "Entropies over their largest value; cosine distances from 0, alike, to 2, opposite.",
        panels,
    )
}

/// Three bars for each stage of which the measure is known: batches as drawn, in order and at
/// random.
fn levels_chart(plan: &Plan, measured: fn(&Batches) -> Option<f64>) -> BarChart {
    let mut groups = Vec::new();
    for stage in &plan.stages {
        let batches = [
            Some(&stage.drawn),
            stage.in_order.as_ref(),
            Some(&stage.at_random),
        ];
        let bars = batches.map(|batches| batches.and_then(measured).map(Bar::new));
        if bars.iter().any(Option::is_some) {
            groups.push(Group {
                name: stage.name.clone(),
                bars: bars.to_vec(),
            });
        }
    }
    let series = ["as drawn", "in order", "at random"].map(str::to_owned);
    BarChart {
        axis: Axis::new("").from_zero(),
        series: series.to_vec(),
        groups,
        colours: Vec::new(),
        is_stacked: false,
        is_dotted: false,
    }
}

fn by_place(stage: &Stage) -> Option<Figure> {
    let series = |side: usize, name: &str| {
        let places = stage.by_place.iter().enumerate();
        let points =
            places.filter_map(|(place, nearest)| Some((place as f64 + 1.0, nearest[side]?)));
        Series::new(name, points.collect(), side).marked()
    };
    let series = vec![series(0, "as drawn"), series(1, "in order")];
    let chart = LineChart {
        x: Axis::new("step of the block").unit(Unit::Count),
        y: Axis::new("distance to the nearest"),
        series,
        ..LineChart::default()
    };
    let caption = "The first step of a block has most to choose from, the last takes what is left.";
    let is_there = stage.by_place.len() > 1;
    is_there.then(|| {
        Figure::new(
            format!("places-{}", slug(&stage.name)),
            format!(
                "Spread by place in the block, stage {}",
                isolated(&stage.name)
            ),
            caption,
            Chart::Lines(chart),
        )
    })
}

fn embeddings(plan: &Plan) -> Section {
    let Some(found) = &plan.embeddings else {
        return Section::new("embeddings", "Embeddings", Vec::new());
    };
    Section::new(
        "embeddings",
        "Embeddings",
        vec![
            Block::Figure(scatters(found)),
            Block::Table(found.table.clone()),
        ],
    )
}

fn scatters(found: &Embeddings) -> Figure {
    let pca = Pca::new(&found.values, found.dims, 2);
    let places: Vec<(f64, f64)> = pca
        .project(&found.values)
        .chunks(pca.variance.len().max(1))
        .map(|at| (at[0], at.get(1).copied().unwrap_or(0.0)))
        .collect();
    let mut by_task = scatter(found, &pca, &places, |row| Some(&row.task));
    by_task.colours = ink::of_tasks(&by_task.groups);
    let by_label = scatter(found, &pca, &places, |row| row.label.as_ref());
    let panels = [("by task", by_task), ("by label", by_label)]
        .into_iter()
        .filter(|(_, scatter)| !scatter.points.is_empty());
    let caption = format!(
        "Principal components of {} rows' embeddings, as stages compare them: centred, of length one.",
        count(found.rows.len() as f64)
    );
    Figure::of_panels(
        "components",
        "Audio embeddings",
        caption,
        panels
            .map(|(name, scatter)| (name.to_owned(), Chart::Scatter(scatter)))
            .collect(),
    )
}

/// The rows of which `group` is known, at their places among the first two components.
fn scatter(
    found: &Embeddings,
    pca: &Pca,
    places: &[(f64, f64)],
    group: fn(&Row) -> Option<&String>,
) -> Scatter {
    let names: BTreeSet<&String> = found.rows.iter().filter_map(group).collect();
    let groups: Vec<String> = names.into_iter().cloned().collect();
    let mut points = Vec::new();
    for (row, &at) in found.rows.iter().zip(places) {
        let known = group(row).and_then(|name| groups.binary_search(name).ok());
        if let Some(group) = known {
            points.push(Point {
                id: row.id.clone(),
                at,
                group,
            });
        }
    }
    Scatter {
        groups,
        colours: Vec::new(),
        points,
        x_label: component(pca, 0),
        y_label: component(pca, 1),
    }
}

/// Title of the axis of a component, from 0.
fn component(pca: &Pca, i: usize) -> String {
    let share = pca.variance_ratio.get(i).copied().unwrap_or(0.0);
    format!(
        "component {} ({:.0} % of the variance)",
        i + 1,
        100.0 * share
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
