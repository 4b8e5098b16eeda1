//! How generation failed, by step: answers that do not end, that go round in circles, that are too
//! long or in another script.

use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::lines::Level;
use crate::chart::lines::LineChart;
use crate::chart::lines::Series;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::metric::Metric;
use crate::rescore;
use crate::sections::chapter::Chapter;
use crate::sections::chapter::steps_axis;
use crate::sections::curves::recoloured;
use maqam_base::error::Result;
use maqam_metrics::Definition;
use maqam_metrics::Family;
use maqam_metrics::Place;
use maqam_metrics::TaskKind;
use maqam_metrics::registry;
use maqam_records::prediction;
use maqam_records::prediction::Prediction;

/// One kind of failure: each set's share of it, by step.
struct FailureShares {
    metric: Metric,
    sets: Vec<(String, Vec<(f64, f64)>)>,
}

/// The figure, from the predictions of every evaluation; `None` where nothing ever failed.
///
/// # Errors
/// Broken predictions, with file and line.
pub fn figure(chapter: &Chapter) -> Result<Option<Figure>> {
    let mut kinds: Vec<FailureShares> = Vec::new();
    for evaluation in &chapter.run.evaluations {
        for (set, path) in evaluation.sets()? {
            let rows = prediction::read(&path)?;
            for (metric, share) in failures(chapter, &set, &rows) {
                put(&mut kinds, metric, &set, (evaluation.step as f64, share));
            }
        }
    }
    let order =
        |kind: &FailureShares| registry::all().position(|known| known.name == kind.metric.name);
    kinds.sort_by_key(order);
    let panels: Vec<(String, Chart)> = kinds
        .iter()
        .filter_map(|kind| panel(chapter, kind))
        .collect();
    let caption = "Counted in every evaluation's answers; what never happened is left out.";
    Ok((!panels.is_empty()).then(|| {
        Figure::of_panels(
            chapter.id("failures"),
            "How generation failed, by step",
            caption,
            panels,
        )
    }))
}

fn failures(chapter: &Chapter, set: &str, rows: &[Prediction]) -> Vec<(Metric, f64)> {
    let is_labels = chapter
        .metrics_of(set)
        .iter()
        .any(|metric| metric.family == Family::Classification);
    let metrics = registry::all().filter(|known| is_shown(known, is_labels));
    metrics
        .map(|known| Metric::of(known.name))
        .filter_map(|metric| rescore::tally(&metric, rows).map(|tally| (metric, tally.corpus())))
        .collect()
}

/// Whether the figure shows a metric of a set of labels, or of one of texts. What a text may be is
/// no failure of a label.
fn is_shown(known: &Definition, is_labels: bool) -> bool {
    let is_of_kind = if is_labels {
        known.kinds.contains(&TaskKind::Classify) && !known.is_of_texts()
    } else {
        known.kinds.contains(&TaskKind::Generate)
    };
    known.family == Family::Failure && known.place == Place::Main && is_of_kind
}

fn put(kinds: &mut Vec<FailureShares>, metric: Metric, set: &str, point: (f64, f64)) {
    let place = kinds
        .iter()
        .position(|kind| kind.metric == metric)
        .unwrap_or_else(|| {
            kinds.push(FailureShares {
                metric,
                sets: Vec::new(),
            });
            kinds.len() - 1
        });
    let sets = &mut kinds[place].sets;
    match sets.iter_mut().find(|(known, _)| known == set) {
        Some((_, points)) => points.push(point),
        None => sets.push((set.to_owned(), vec![point])),
    }
}

fn panel(chapter: &Chapter, kind: &FailureShares) -> Option<(String, Chart)> {
    // A share that is always nothing is no failure; a ratio of lengths is shown whatever it is.
    let is_shown = |points: &[(f64, f64)]| {
        kind.metric.unit != Unit::Percent || points.iter().any(|point| point.1 > 0.0)
    };
    let sets = kind.sets.iter().filter(|(_, points)| is_shown(points));
    let series: Vec<Series> = sets
        .map(|(set, points)| Series::new(set, points.clone(), chapter.colour_of_set(set)).marked())
        .collect();
    let series = recoloured(series);
    if series.is_empty() {
        return None;
    }
    let levels = if kind.metric.unit == Unit::Percent {
        Vec::new()
    } else {
        vec![Level {
            name: String::new(),
            value: 1.0,
        }]
    };
    let y = Axis::new(kind.metric.unit.sign())
        .unit(kind.metric.unit)
        .from_zero();
    let chart = LineChart {
        x: steps_axis(),
        y,
        series,
        boundaries: chapter.boundaries(),
        levels,
    };
    Some((kind.metric.title(), Chart::Lines(chart)))
}
