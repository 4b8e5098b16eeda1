//! The comparison of an experiment as one page, with its figures and tables as files of their own.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::chart::bars::Bar;
use crate::chart::bars::BarChart;
use crate::chart::bars::Group;
use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::heat::HeatCell;
use crate::chart::heat::HeatMap;
use crate::chart::lines::LineChart;
use crate::chart::lines::Series;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::metric::Metric;
use crate::page::Block;
use crate::page::Fact;
use crate::page::Page;
use crate::page::Section;
use crate::page::escape::isolated;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Score;
use crate::page::table::Table;
use crate::sections::chapter::steps_axis;
use crate::sections::curves::without_flat;
use maqam_records::comparison::Comparison;
use maqam_records::comparison::Contrasted;
use maqam_records::comparison::Reached;
use maqam_records::comparison::ScoreTable;
use maqam_stats::significance::Interval;

/// Curves of more recipes than this are not told apart: those that the experiment names first are
/// drawn.
const MOST_CURVES: usize = 6;

/// What an experiment declares beforehand, as far as the page says it.
#[derive(Clone, Copy, Debug)]
pub struct Declared<'a> {
    /// Name of the experiment.
    pub name: &'a str,
    /// Level of significance of a corrected p-value.
    pub level: f64,
}

/// The whole page.
pub fn page(experiment: &Declared, outcome: &Comparison) -> Page {
    let resolved = outcome
        .contrasts
        .iter()
        .filter(|found| found.adjusted_p <= experiment.level)
        .count();
    let facts = vec![
        Fact::new(outcome.recipes.len().to_string(), "recipes"),
        Fact::new(outcome.num_seeds.to_string(), "seeds each"),
        Fact::new(
            format!("{resolved} of {}", outcome.contrasts.len()),
            "contrasts resolved",
        ),
    ];
    let mut before = vec![Block::Prose(
        "Scores are of the last checkpoint unless a table says otherwise; each checkpoint that is scored answered the test set once.".to_owned(),
    )];
    before.extend(outcome.notes.iter().map(|note| Block::Prose(note.clone())));
    let sections = vec![
        Section::new(
            "scores-section",
            "Scores",
            [
                vec![Block::Figure(bars(outcome))],
                before,
                vec![last(outcome), best(outcome)],
            ]
            .concat(),
        ),
        Section::new(
            "contrasts-section",
            "Declared contrasts",
            if outcome.contrasts.is_empty() {
                Vec::new()
            } else {
                contrasts(experiment, outcome)
            },
        ),
        Section::new("curves", "On the way", curves(outcome)),
        Section::new(
            "failures-section",
            "Answers that go wrong",
            failures(outcome).into_iter().map(Block::Figure).collect(),
        ),
        Section::new(
            "gradients-section",
            "How tasks pull",
            gradients(outcome).into_iter().map(Block::Figure).collect(),
        ),
        Section::new(
            "budgets-section",
            "What each recipe saw",
            vec![Block::Table(budgets(outcome))],
        ),
    ];
    let subtitle = format!(
        "{} recipes, {} seeds each",
        outcome.recipes.len(),
        outcome.num_seeds
    );
    Page {
        kind: "Experiment".to_owned(),
        title: experiment.name.to_owned(),
        subtitle,
        facts,
        sections,
    }
}

/// How a score is called above a column or a panel.
fn heading(score: &str) -> String {
    Metric::of(score).heading_in_full()
}

fn interval(of: &ScoreTable, recipe: usize) -> Option<Interval> {
    let found = of.estimates[recipe].student_interval;
    Interval::new(found.low, found.high).map(|interval| Metric::of(&of.score).possible(interval))
}

fn bars(outcome: &Comparison) -> Figure {
    let panels = outcome
        .last
        .iter()
        .map(|of| (heading(&of.score), Chart::Bars(bars_of(outcome, of))));
    let caption = "Mean over seeds, each seed a circle; intervals of 95 % by Student's t over resampled seeds, then speakers or groups, then utterances.";
    Figure::of_panels(
        "scores-bars",
        "Scores of the last checkpoints",
        caption,
        panels.collect(),
    )
}

/// One score as bars, one for each recipe, with the scores of its seeds.
fn bars_of(outcome: &Comparison, of: &ScoreTable) -> BarChart {
    let mut groups = Vec::with_capacity(outcome.recipes.len());
    for (recipe, name) in outcome.recipes.iter().enumerate() {
        let bar = Bar {
            value: of.estimates[recipe].value,
            interval: interval(of, recipe),
            points: of.seeds[recipe].clone(),
            ..Bar::default()
        };
        groups.push(Group {
            name: name.clone(),
            bars: vec![Some(bar)],
        });
    }
    BarChart {
        axis: Axis::new("").unit(Metric::of(&of.score).unit),
        groups,
        ..BarChart::default()
    }
}

fn last(outcome: &Comparison) -> Block {
    Block::Table(scores(
        outcome,
        &outcome.last,
        "scores-last",
        "Scores of the last checkpoints",
    ))
}

fn best(outcome: &Comparison) -> Block {
    Block::Folded(
        "The checkpoints that were best on dev".to_owned(),
        vec![Block::Table(scores(
            outcome,
            &outcome.best,
            "scores-best",
            "Scores of the best on dev",
        ))],
    )
}

fn scores(outcome: &Comparison, tables: &[ScoreTable], id: &str, title: &str) -> Table {
    let columns = std::iter::once(Column::text("recipe"))
        .chain(tables.iter().map(|of| Column::number(heading(&of.score))))
        .collect();
    let mut table = Table::new(
        id,
        title,
        "Best in bold; arrows say which way is better.",
        columns,
    );
    let best: Vec<Option<usize>> = tables
        .iter()
        .map(|of| {
            Metric::of(&of.score).best(
                &of.estimates
                    .iter()
                    .map(|estimate| Some(estimate.value))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    for (recipe, name) in outcome.recipes.iter().enumerate() {
        let cell = |(of, best): (&ScoreTable, &Option<usize>)| {
            let score = Score::new(of.estimates[recipe].value, Metric::of(&of.score).unit);
            Cell::Score(Score {
                interval: interval(of, recipe),
                is_best: *best == Some(recipe),
                ..score
            })
        };
        table.row(
            false,
            std::iter::once(Cell::text(name))
                .chain(tables.iter().zip(&best).map(cell))
                .collect(),
        );
    }
    table
}

fn contrasts(experiment: &Declared, outcome: &Comparison) -> Vec<Block> {
    let columns = ["recipe", "against", "score"]
        .map(Column::text)
        .into_iter()
        .chain(["difference", "p", "p, corrected"].map(Column::number));
    let caption = format!(
        "Paired over seeds, at the last checkpoints; intervals and p-values by Student's t, p-values corrected over all {} contrasts (Holm). Resolved at {}.",
        outcome.contrasts.len(),
        experiment.level
    );
    let mut table = Table::new(
        "contrasts",
        "Contrasts",
        caption,
        columns.chain([Column::text("verdict")]).collect(),
    );
    for found in &outcome.contrasts {
        table.row(false, contrast(found));
    }
    vec![
        Block::Figure(differences(experiment, outcome)),
        Block::Table(table),
    ]
}

/// The contrasts as dots with intervals, one panel a score.
fn differences(experiment: &Declared, outcome: &Comparison) -> Figure {
    let mut scores: Vec<&String> = Vec::new();
    for found in &outcome.contrasts {
        if !scores.contains(&&found.contrast.score) {
            scores.push(&found.contrast.score);
        }
    }
    let panel = |score: &&String| {
        let metric = Metric::of(score);
        let of_score = outcome
            .contrasts
            .iter()
            .filter(|found| found.contrast.score == **score);
        let group = |found: &Contrasted| {
            let estimate = &found.difference.estimate;
            let between = estimate.student_interval;
            let is_resolved = found.adjusted_p <= experiment.level;
            Group {
                name: format!(
                    "{} − {}",
                    isolated(&found.contrast.recipe),
                    isolated(&found.contrast.against)
                ),
                bars: vec![Some(Bar {
                    interval: Interval::new(between.low, between.high),
                    marks: if is_resolved { "resolved" } else { "" }.to_owned(),
                    ..Bar::new(estimate.value)
                })],
            }
        };
        let chart = BarChart {
            axis: Axis::new("").unit(metric.unit),
            groups: of_score.map(group).collect(),
            is_dotted: true,
            ..BarChart::default()
        };
        (metric.heading_in_full(), Chart::Bars(chart))
    };
    let caption = format!(
        "Difference of the means over seeds with its interval of 95 %; the line is no difference. Resolved: p at most {} after Holm's correction.",
        experiment.level
    );
    let panels = scores.iter().map(panel).collect();
    Figure::of_panels("contrasts-figure", "Declared contrasts", caption, panels)
}

fn contrast(found: &Contrasted) -> Vec<Cell> {
    let contrast = &found.contrast;
    let estimate = &found.difference.estimate;
    let metric = Metric::of(&contrast.score);
    let between = estimate.student_interval;
    let difference = Cell::text(format!(
        "{} [{}, {}]",
        metric.unit.format_signed(estimate.value),
        metric.unit.format_signed(between.low),
        metric.unit.format_signed(between.high)
    ));
    let words = [
        contrast.recipe.clone(),
        contrast.against.clone(),
        heading(&contrast.score),
    ]
    .map(Cell::text);
    let numbers = [
        difference,
        Cell::number(found.p, Unit::Plain),
        Cell::number(found.adjusted_p, Unit::Plain),
    ];
    words
        .into_iter()
        .chain(numbers)
        .chain([Cell::text(found.verdict.to_string())])
        .collect()
}

fn curves(outcome: &Comparison) -> Vec<Block> {
    let shown = outcome.recipes.len().min(MOST_CURVES);
    let names: BTreeSet<&String> = outcome.dynamics.curves[..shown]
        .iter()
        .flat_map(BTreeMap::keys)
        .collect();
    let panel = |name: &&String| {
        let metric = Metric::of(name);
        let series = (0..shown).filter_map(|recipe| {
            let curve = by_step(
                &outcome.recipes[recipe],
                outcome.dynamics.curves[recipe].get(*name)?,
                recipe,
            );
            let of_seeds = outcome.dynamics.seed_curves[recipe].get(*name)?;
            Some(curve.with_band(of_seeds.iter().map(range).collect()))
        });
        let y = Axis::new(metric.heading()).unit(metric.unit).from_zero();
        let chart = LineChart {
            x: steps_axis(),
            y,
            series: series.collect(),
            ..LineChart::default()
        };
        let title = match &metric.set {
            Some(_) => metric.name_in_full(),
            None => format!("all sets · {}", metric.title()),
        };
        (title, chart)
    };
    let (panels, flat) = without_flat(names.iter().map(panel).collect());
    let caption = format!(
        "Mean over seeds at every evaluation{}; bands reach from the lowest seed to the highest.{flat}",
        said_of_shown(outcome)
    );
    let figure = Figure::of_panels("dev-curves", "Dev scores by step", caption, panels);
    let mut blocks = Vec::new();
    if !figure.panels.is_empty() {
        blocks.push(Block::Figure(figure));
    }
    if !outcome.dynamics.convergence.is_empty() {
        blocks.push(Block::Table(convergence(outcome)));
    }
    blocks
}

/// The lowest and the highest seed at a step.
fn range((step, values): (&u64, &Vec<f64>)) -> (f64, f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (*step as f64, low, high)
}

fn said_of_shown(outcome: &Comparison) -> String {
    if outcome.recipes.len() > MOST_CURVES {
        format!(", of the first {MOST_CURVES} recipes")
    } else {
        String::new()
    }
}

fn by_step(name: &str, values: &BTreeMap<u64, f64>, colour: usize) -> Series {
    Series::new(
        name,
        values
            .iter()
            .map(|(step, value)| (*step as f64, *value))
            .collect(),
        colour,
    )
    .marked()
}

fn convergence(outcome: &Comparison) -> Table {
    let columns = ["recipe", "reaches the last dev mean of"]
        .map(Column::text)
        .into_iter();
    let columns = columns
        .chain(["steps, by seed", "the other's", "difference"].map(Column::number))
        .collect();
    let caption = "Interpolated between evaluations; what is not reached counts as the whole run. The difference is the mean over seeds, with its interval.";
    let mut table = Table::new(
        "convergence",
        "Steps to the other's last dev score",
        caption,
        columns,
    );
    for reached in &outcome.dynamics.convergence {
        let Reached {
            recipe,
            against,
            found,
        } = reached;
        let estimate = &found.difference.estimate;
        let between = found.difference.estimate.student_interval;
        let difference = format!(
            "{:+.0} [{:+.0}, {:+.0}]",
            estimate.value, between.low, between.high
        );
        table.row(
            false,
            vec![
                Cell::text(recipe),
                Cell::text(against),
                Cell::text(steps_by_seed(&found.steps[1])),
                Cell::text(steps_by_seed(&found.steps[0])),
                Cell::text(difference),
            ],
        );
    }
    table
}

/// The step of each seed at which it reached a score.
fn steps_by_seed(steps: &[Option<f64>]) -> String {
    let written = |step: &Option<f64>| step.map_or("never".to_owned(), |step| format!("{step:.0}"));
    steps.iter().map(written).collect::<Vec<_>>().join(", ")
}

/// Failures by step, one panel for each kind and set, the first recipes laid over each other.
fn failures(outcome: &Comparison) -> Option<Figure> {
    let shown = outcome.recipes.len().min(MOST_CURVES);
    let of_recipes = &outcome.dynamics.failures[..shown];
    let names: BTreeSet<&String> = of_recipes
        .iter()
        .flat_map(BTreeMap::values)
        .flat_map(BTreeMap::keys)
        .collect();
    let panel = |name: &&String| {
        let shown = &outcome.recipes[..shown];
        (heading(name), failure_chart(name, shown, of_recipes))
    };
    let (panels, flat) = without_flat(names.iter().map(panel).collect());
    let caption = format!(
        "Of dev answers that are said freely: shares, and lengths beside the reference's; mean over seeds{}.{flat}",
        said_of_shown(outcome)
    );
    (!panels.is_empty()).then(|| Figure::of_panels("failures", "Failures by step", caption, panels))
}

/// One kind of failure by step, a curve for each recipe that has it.
fn failure_chart(
    name: &str,
    recipes: &[String],
    failures: &[BTreeMap<u64, BTreeMap<String, f64>>],
) -> LineChart {
    let mut series = Vec::new();
    for (i, (recipe, by_evaluation)) in recipes.iter().zip(failures).enumerate() {
        let mut values = BTreeMap::new();
        for (step, found) in by_evaluation {
            if let Some(value) = found.get(name) {
                values.insert(*step, *value);
            }
        }
        let course = by_step(recipe, &values, i);
        if !course.points.is_empty() {
            series.push(course);
        }
    }
    LineChart {
        x: steps_axis(),
        y: Axis::new("").unit(Metric::of(name).unit).from_zero(),
        series,
        ..LineChart::default()
    }
}

/// Cosines between tasks' gradients, a row for each recipe that was probed.
fn gradients(outcome: &Comparison) -> Option<Figure> {
    let probed: Vec<_> = outcome
        .recipes
        .iter()
        .zip(&outcome.dynamics.gradients)
        .filter(|(_, of)| !of.cosines.is_empty())
        .collect();
    let pairs: BTreeSet<&String> = probed
        .iter()
        .flat_map(|(_, of)| of.cosines.keys())
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let cell = |value: &f64| HeatCell::cosine(*value);
    let map = HeatMap {
        rows: probed.iter().map(|(name, _)| (*name).clone()).collect(),
        columns: pairs.iter().map(|pair| pair.replace('|', ", ")).collect(),
        cells: probed
            .iter()
            .map(|(_, of)| {
                pairs
                    .iter()
                    .map(|pair| of.cosines.get(*pair).map(cell))
                    .collect()
            })
            .collect(),
        ..HeatMap::default()
    };
    let caption = "Mean over all probes and seeds. Below 0, a step for one task undoes what the other learns.";
    Some(Figure::new(
        "cosines",
        "Cosines between the tasks' gradients",
        caption,
        Chart::Heat(map),
    ))
}

fn budgets(outcome: &Comparison) -> Table {
    let tasks: BTreeSet<&String> = outcome
        .budgets
        .iter()
        .flat_map(|budget| budget.examples_by_task.keys())
        .collect();
    let columns = std::iter::once(Column::text("recipe"))
        .chain(["steps", "examples", "audio, h", "target tokens"].map(Column::number));
    let columns = columns
        .chain(tasks.iter().map(|task| Column::number(task.as_str())))
        .collect();
    let mut table = Table::new(
        "budgets",
        "Budgets",
        "Mean over seeds; examples of each task at the right.",
        columns,
    );
    for (name, budget) in outcome.recipes.iter().zip(&outcome.budgets) {
        let whole = [budget.steps, budget.examples].map(|value| Cell::number(value, Unit::Count));
        let rest = [
            Cell::number(budget.audio_hours, Unit::Plain),
            Cell::number(budget.target_tokens, Unit::Count),
        ];
        let of_tasks = tasks.iter().map(|task| {
            Cell::number(
                budget.examples_by_task.get(*task).copied().unwrap_or(0.0),
                Unit::Count,
            )
        });
        table.row(
            false,
            std::iter::once(Cell::text(name))
                .chain(whole)
                .chain(rest)
                .chain(of_tasks)
                .collect(),
        );
    }
    table
}
