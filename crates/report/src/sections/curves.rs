//! Learning curves of one run: training loss by task, every score by step.

use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::lines::Level;
use crate::chart::lines::LineChart;
use crate::chart::lines::Series;
use crate::chart::scale::Axis;
use crate::metric::Metric;
use crate::page::Block;
use crate::page::Section;
use crate::sections::audio_gap;
use crate::sections::chapter::Chapter;
use crate::sections::chapter::steps_axis;
use maqam_metrics::Family;
use maqam_records::curves::Log;
use maqam_records::scores::TRAINING_ROWS;
use maqam_records::track::window;

/// From this ratio of highest to lowest on, losses are drawn on a logarithmic axis.
const WIDE_RANGE: f64 = 40.0;
/// Most curves of one panel of scores.
const MOST_CURVES: usize = 4;

/// The section; empty where there is no log.
pub fn section(chapter: &Chapter) -> Section {
    let mut blocks = Vec::new();
    if let Some(log) = &chapter.run.log {
        blocks.extend(training_loss(chapter, log).map(Block::Figure));
        blocks.extend(audio_gap::figure(chapter, log).map(Block::Figure));
    }
    blocks.extend(scores_by_step(chapter).map(Block::Figure));
    if let Some(log) = &chapter.run.log {
        blocks.extend(learning_rate(chapter, log).map(Block::Figure));
        blocks.extend(difficulty(chapter, log).map(Block::Figure));
    }
    Section::new(chapter.id("learning"), "Learning curves", blocks)
}

fn training_loss(chapter: &Chapter, log: &Log) -> Option<Figure> {
    let window = window(log.steps);
    let of_task = |(task, track): (&String, &maqam_records::track::Track)| {
        Series::new(task, track.smooth(window), chapter.colour(task))
    };
    let mut series: Vec<Series> = log.task_loss.iter().map(of_task).collect();
    series.retain(|series| !series.points.is_empty());
    if series.is_empty() {
        series.push(Series::new("loss", log.loss.smooth(window), 0));
    }
    if series.iter().all(|series| series.points.is_empty()) {
        return None;
    }
    let chart = LineChart {
        x: steps_axis(),
        y: loss_axis(&series),
        series,
        boundaries: chapter.boundaries(),
        levels: Vec::new(),
    };
    let caption = format!(
        "Mean over each task's target tokens in a window of {}, before each update.{}",
        steps(window),
        said_of_axis(&chart.y)
    );
    Some(Figure::new(
        chapter.id("training-loss"),
        "Training loss by task",
        caption,
        Chart::Lines(chart),
    ))
}

/// An axis for losses: logarithmic where they differ much.
pub fn loss_axis(series: &[Series]) -> Axis {
    let values = || {
        series
            .iter()
            .flat_map(|series| series.points.iter().map(|point| point.1))
            .filter(|value| value.is_finite())
    };
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(0.0, f64::max);
    Axis::new("loss, nats a token")
        .from_zero()
        .log(low > 0.0 && high / low > WIDE_RANGE)
}

/// The words of a caption for a logarithmic axis.
pub fn said_of_axis(axis: &Axis) -> &'static str {
    if axis.is_log {
        " The axis is logarithmic."
    } else {
        ""
    }
}

/// `1 step`, `20 steps`.
pub fn steps(count: u64) -> String {
    if count == 1 {
        "1 step".to_owned()
    } else {
        format!("{count} steps")
    }
}

/// One panel a set, and one for the losses of all.
fn scores_by_step(chapter: &Chapter) -> Option<Figure> {
    if chapter
        .run
        .evaluations
        .iter()
        .filter(|evaluation| !evaluation.scores.is_empty())
        .count()
        < 2
    {
        return None;
    }
    let metrics = chapter.metrics();
    let mut panels: Vec<(String, LineChart)> = Vec::new();
    let mut sets: Vec<&Option<String>> = Vec::new();
    for metric in metrics.iter().filter(|metric| metric.family.is_quality()) {
        if !sets.contains(&&metric.set) {
            sets.push(&metric.set);
        }
    }
    for set in sets {
        let of_set: Vec<&Metric> = metrics
            .iter()
            .filter(|metric| metric.set == *set && metric.family.is_quality())
            .collect();
        // Scores of another unit than the first would need an axis of their own.
        let shown: Vec<&Metric> = of_set
            .iter()
            .copied()
            .filter(|metric| metric.unit == of_set[0].unit)
            .take(MOST_CURVES)
            .collect();
        panels.push((
            set.clone().unwrap_or_else(|| "all sets".to_owned()),
            panel(chapter, &shown),
        ));
    }
    let losses: Vec<&Metric> = metrics
        .iter()
        .filter(|metric| metric.family == Family::Loss)
        .collect();
    if !losses.is_empty() {
        let series = losses.iter().map(|metric| {
            let set = metric.set.clone().unwrap_or_default();
            Series::new(
                &set,
                chapter.run.course(&metric.full),
                chapter.colour_of_set(&set),
            )
            .marked()
        });
        let series: Vec<Series> = recoloured(series.collect());
        panels.push((
            "loss".to_owned(),
            LineChart {
                x: steps_axis(),
                y: loss_axis(&series),
                series,
                boundaries: chapter.boundaries(),
                levels: Vec::new(),
            },
        ));
    }
    let (panels, flat) = without_flat(panels);
    let levels: Vec<&str> = panels
        .iter()
        .filter_map(|(_, chart)| match chart {
            Chart::Lines(chart) => Some(&chart.levels),
            _ => None,
        })
        .flatten()
        .map(|level| level.name.as_str())
        .collect();
    let levels = said_of_levels(&levels);
    let caption = format!("At every evaluation; arrows say which way is better.{levels}{flat}");
    (!panels.is_empty()).then(|| {
        Figure::of_panels(
            chapter.id("scores-by-step"),
            "Scores by step",
            caption,
            panels,
        )
    })
}

/// The words of a caption for lines of these names: controls, or training rows.
fn said_of_levels(names: &[&str]) -> &'static str {
    let has_rows = names.contains(&TRAINING_ROWS);
    let has_controls = names.iter().any(|name| *name != TRAINING_ROWS);
    match (has_controls, has_rows) {
        (true, true) => " Dotted lines are the controls and training rows after the last step.",
        (true, false) => " Dotted lines are the controls after the last step.",
        (false, true) => " Dotted lines are training rows after the last step.",
        (false, false) => "",
    }
}

/// The panels that show anything but zero, and a sentence that names the others.
pub fn without_flat(panels: Vec<(String, LineChart)>) -> (Vec<(String, Chart)>, String) {
    let is_flat = |chart: &LineChart| {
        let points = chart.series.iter().flat_map(|series| &series.points);
        points.into_iter().all(|point| point.1 == 0.0)
            && chart.levels.iter().all(|level| level.value == 0.0)
    };
    let (flat, shown): (Vec<_>, Vec<_>) = panels.into_iter().partition(|(_, chart)| is_flat(chart));
    let names: Vec<&str> = flat.iter().map(|(name, _)| name.as_str()).collect();
    let said = if names.is_empty() {
        String::new()
    } else {
        format!(" Zero at every step: {}.", names.join(", "))
    };
    let shown = shown
        .into_iter()
        .map(|(name, chart)| (name, Chart::Lines(chart)));
    (shown.collect(), said)
}

/// The same curves with colours of their own where two would share one, as sets of one task do: the
/// first of a colour keeps it, and the others take colours that none of the curves has.
pub fn recoloured(mut series: Vec<Series>) -> Vec<Series> {
    let mut free = (0..).filter({
        let taken: Vec<usize> = series.iter().map(|series| series.colour).collect();
        move |colour| !taken.contains(colour)
    });
    let mut seen = Vec::new();
    for series in &mut series {
        if seen.contains(&series.colour) {
            series.colour = free.next().unwrap_or(series.colour);
        }
        seen.push(series.colour);
    }
    series
}

fn panel(chapter: &Chapter, metrics: &[&Metric]) -> LineChart {
    let set = metrics[0].set.clone().unwrap_or_default();
    let first = chapter.colour_of_set(&set);
    let colour = |i: usize| if metrics.len() == 1 { first } else { i };
    let series = metrics.iter().enumerate().map(|(i, metric)| {
        let points = chapter.run.course(&metric.full);
        let value = points.last().map_or(String::new(), |point| {
            format!(" {}", metric.unit.format(point.1))
        });
        Series::new(format!("{}{value}", metric.title()), points, colour(i)).marked()
    });
    let controls = chapter
        .run
        .last()
        .map(|last| last.controls.as_slice())
        .unwrap_or_default();
    let level = |(name, scores): &(String, maqam_records::scores::Scores)| {
        Some(Level {
            name: name.clone(),
            value: scores.get(&metrics[0].full)?,
        })
    };
    let label = if metrics.len() == 1 {
        metrics[0].heading()
    } else {
        format!("{} {}", metrics[0].unit.sign(), metrics[0].arrow())
            .trim_start()
            .to_owned()
    };
    LineChart {
        x: steps_axis(),
        y: Axis::new(label).unit(metrics[0].unit).from_zero(),
        series: series.collect(),
        boundaries: chapter.boundaries(),
        levels: controls.iter().filter_map(level).collect(),
    }
}

fn difficulty(chapter: &Chapter, log: &Log) -> Option<Figure> {
    let window = window(log.steps);
    let points = log.difficulty.smooth(window);
    if points.len() < 2 {
        return None;
    }
    let chart = LineChart {
        x: steps_axis(),
        y: Axis::new("difficulty"),
        series: vec![Series::new("", points, 0)],
        boundaries: chapter.boundaries(),
        levels: Vec::new(),
    };
    let caption = format!(
        "Mean of {} over the rows of each step, in a window of {}. Stages without `difficulty` have no value.",
        measures(chapter),
        steps(window)
    );
    Some(Figure::new(
        chapter.id("difficulty"),
        "Difficulty of the rows",
        caption,
        Chart::Lines(chart),
    ))
}

/// The measures by which the stages of the recipe order rows, as they are written.
fn measures(chapter: &Chapter) -> String {
    let mut names: Vec<String> = Vec::new();
    if let Some(recipe) = &chapter.run.recipe {
        for (key, value) in &recipe.values {
            let name = format!("`{value}`");
            if key.ends_with(".difficulty.by") && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    match names.is_empty() {
        true => "the stage's measure".to_owned(),
        false => names.join(" and "),
    }
}

fn learning_rate(chapter: &Chapter, log: &Log) -> Option<Figure> {
    let points = log.learning_rate.points();
    if points.len() < 2 {
        return None;
    }
    let series = vec![Series::new("", points, 0)];
    let chart = LineChart {
        x: steps_axis(),
        y: Axis::new("learning rate").from_zero(),
        series,
        boundaries: chapter.boundaries(),
        levels: Vec::new(),
    };
    Some(Figure::new(
        chapter.id("learning-rate"),
        "Learning rate",
        "",
        Chart::Lines(chart),
    ))
}
