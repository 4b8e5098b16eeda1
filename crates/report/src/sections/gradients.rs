//! Gradients of one run: their length and its volatility, by task, and whether tasks pull the same
//! way.

use std::collections::BTreeMap;

use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::heat::HeatMap;
use crate::chart::lines::Level;
use crate::chart::lines::LineChart;
use crate::chart::lines::Series;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::page::Block;
use crate::page::Section;
use crate::page::escape::isolated;
use crate::sections::chapter::Chapter;
use crate::sections::chapter::steps_axis;
use crate::sections::curves::said_of_axis;
use crate::sections::curves::steps;
use maqam_records::curves::Log;
use maqam_records::track::Track;
use maqam_records::track::window;

/// From this ratio of highest to lowest on, norms are drawn on a logarithmic axis.
const WIDE_RANGE: f64 = 20.0;

/// Least window of a volatility, in steps.
const LEAST_VOLATILE: u64 = 8;

/// The section; empty where there is no log.
pub fn section(chapter: &Chapter) -> Section {
    let mut blocks = Vec::new();
    if let Some(log) = chapter
        .run
        .log
        .as_ref()
        .filter(|log| log.grad_norm.count() > 1.0)
    {
        blocks.push(Block::Figure(norms(chapter, log)));
        if !log.cosines.is_empty() {
            blocks.push(Block::Figure(cosines_by_step(chapter, log)));
            blocks.extend(cosines_by_stage(chapter, log).map(Block::Figure));
        }
        blocks.extend(surgery(chapter, log).map(Block::Figure));
    }
    Section::new(chapter.id("gradients"), "Gradients", blocks)
}

fn chart(chapter: &Chapter, y: Axis, series: Vec<Series>) -> Chart {
    Chart::Lines(LineChart {
        x: steps_axis(),
        y,
        series,
        boundaries: chapter.boundaries(),
        levels: Vec::new(),
    })
}

/// Length and volatility, of the whole gradient and, where it was probed, of each task's.
fn norms(chapter: &Chapter, log: &Log) -> Figure {
    let window = window(log.steps);
    let whole = Series::new("", log.grad_norm.smooth(window), 0);
    let axis = norm_axis(std::slice::from_ref(&whole));
    // One step has no deviation.
    let volatile = window.max(LEAST_VOLATILE);
    let mut caption = format!("Before clipping, in windows of {}.", steps(window));
    caption += &format!(
        " Volatility is standard deviation over mean of the step norms, in windows of {}.",
        steps(volatile)
    );
    caption += said_of_axis(&axis);
    let mut panels = vec![("length".to_owned(), chart(chapter, axis, vec![whole]))];
    let volatility = log.grad_norm.volatility(volatile);
    if !volatility.is_empty() {
        panels.push((
            "volatility".to_owned(),
            chart(
                chapter,
                volatility_axis(),
                vec![Series::new("", volatility, 0)],
            ),
        ));
    }
    if !log.norms.is_empty() {
        // Probes are fewer than steps; a window of as many steps may hold but one.
        let probed = log.norms.values().map(Track::count).fold(1.0, f64::max);
        let wide = window.max((8.0 * log.steps as f64 / probed) as u64);
        let lengths = norms_by_task(chapter, log, |track| track.smooth(window));
        panels.push((
            "length, by task".to_owned(),
            chart(chapter, norm_axis(&lengths), lengths),
        ));
        caption += " By task: of the probed steps";
        let volatilities = norms_by_task(chapter, log, |track| track.volatility(wide));
        if !volatilities.is_empty() {
            panels.push((
                "volatility, by task".to_owned(),
                chart(chapter, volatility_axis(), volatilities),
            ));
            caption += &format!(", volatility in windows of {}", steps(wide));
        }
        caption += ".";
    }
    Figure::of_panels(
        chapter.id("gradient-norms"),
        "Gradient norm and its volatility",
        caption,
        panels,
    )
}

/// A curve of each task's gradient norm that has points.
fn norms_by_task(
    chapter: &Chapter,
    log: &Log,
    curve: impl Fn(&Track) -> Vec<(f64, f64)>,
) -> Vec<Series> {
    let mut series = Vec::new();
    for (task, track) in &log.norms {
        let of_task = Series::new(task, curve(track), chapter.colour(task));
        if !of_task.points.is_empty() {
            series.push(of_task);
        }
    }
    series
}

fn norm_axis(series: &[Series]) -> Axis {
    let values = || {
        series
            .iter()
            .flat_map(|series| series.points.iter().map(|point| point.1))
    };
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(0.0, f64::max);
    Axis::new("gradient norm")
        .from_zero()
        .log(low > 0.0 && high / low > WIDE_RANGE)
}

fn volatility_axis() -> Axis {
    Axis::new("standard deviation / mean").from_zero()
}

/// What `gradients:` of the recipe did to the gradients of tasks.
fn surgery(chapter: &Chapter, log: &Log) -> Option<Figure> {
    let window = window(log.steps);
    let mut panels = Vec::new();
    let projected = log.projected.smooth(window);
    if !projected.is_empty() {
        let axis = Axis::new("pairs of tasks").unit(Unit::Percent).from_zero();
        let series = vec![Series::new("", projected, 0)];
        panels.push((
            "projected by PCGrad".to_owned(),
            chart(chapter, axis, series),
        ));
    }
    if !log.factors.is_empty() {
        let axis = Axis::new("factor").unit(Unit::Percent).from_zero();
        let series = log
            .factors
            .iter()
            .map(|(task, track)| Series::new(task, track.smooth(window), chapter.colour(task)));
        let series = series.collect();
        panels.push(("factors of FAMO".to_owned(), chart(chapter, axis, series)));
    }
    let caption = format!(
        "In windows of {}. A projection takes away the part of a task's gradient that points against another's. FAMO multiplies each task's gradient by a factor.",
        steps(window)
    );
    (!panels.is_empty()).then(|| {
        Figure::of_panels(
            chapter.id("surgery"),
            "Gradients of tasks into one",
            caption,
            panels,
        )
    })
}

/// Two tasks as the name of a curve.
fn pair(a: &str, b: &str) -> String {
    format!("{}, {}", isolated(a), isolated(b))
}

fn cosines_by_step(chapter: &Chapter, log: &Log) -> Figure {
    let window = window(log.steps);
    let series: Vec<Series> = log
        .cosines
        .iter()
        .enumerate()
        .map(|(i, ((a, b), track))| Series::new(pair(a, b), track.smooth(window), i))
        .filter(|s| !s.points.is_empty())
        .collect();
    let levels = vec![Level {
        name: String::new(),
        value: 0.0,
    }];
    let lines = LineChart {
        x: steps_axis(),
        y: Axis::new("cosine"),
        series,
        boundaries: chapter.boundaries(),
        levels,
    };
    let caption = format!(
        "Between the gradients of two tasks, in windows of {}. Below 0, a step for one undoes what the other learns.",
        steps(window)
    );
    Figure::new(
        chapter.id("cosines-by-step"),
        "Do the tasks pull the same way?",
        caption,
        Chart::Lines(lines),
    )
}

fn cosines_by_stage(chapter: &Chapter, log: &Log) -> Option<Figure> {
    let panels: Vec<(String, Chart)> = log
        .stages
        .iter()
        .filter(|stage| !stage.cosines.is_empty())
        .map(|stage| {
            (
                stage.name.clone(),
                Chart::Heat(matrix(&chapter.tasks, &stage.cosines)),
            )
        })
        .collect();
    let caption = "Mean over the probes of a stage.";
    (!panels.is_empty()).then(|| {
        Figure::of_panels(
            chapter.id("cosines-by-stage"),
            "Cosines between the tasks' gradients, by stage",
            caption,
            panels,
        )
    })
}

/// The matrix of the tasks that were probed; sums and numbers become means.
fn matrix(tasks: &[String], sums: &BTreeMap<(String, String), (f64, f64)>) -> HeatMap {
    let is_probed = |task: &&String| sums.keys().any(|(a, b)| a == *task || b == *task);
    let probed: Vec<String> = tasks.iter().filter(is_probed).cloned().collect();
    let mut rows = Vec::with_capacity(probed.len());
    for a in &probed {
        let mut row = Vec::with_capacity(probed.len());
        for b in &probed {
            row.push(match a == b {
                true => Some(1.0),
                false => mean_of(sums, a, b),
            });
        }
        rows.push(row);
    }
    HeatMap::cosines(&probed, &rows)
}

/// The mean of a pair of tasks in either order; `None` where the pair was never probed.
fn mean_of(sums: &BTreeMap<(String, String), (f64, f64)>, a: &str, b: &str) -> Option<f64> {
    let pair = (a.to_owned(), b.to_owned());
    let turned = (b.to_owned(), a.to_owned());
    let (sum, count) = sums.get(&pair).or_else(|| sums.get(&turned))?;
    (*count > 0.0).then(|| sum / count)
}
