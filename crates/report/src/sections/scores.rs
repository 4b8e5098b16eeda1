//! The scores of one run: before training, after it, at its best and under controls, as a table and
//! as bars.

use crate::chart::bars::Bar;
use crate::chart::bars::BarChart;
use crate::chart::bars::Group;
use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::ink::Colour;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::metric::Metric;
use crate::page::Block;
use crate::page::Section;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Score;
use crate::page::table::Table;
use crate::sections::chapter::Chapter;
use crate::standing;
use maqam_base::error::Result;
use maqam_records::scores::Scores;
use maqam_records::scores::TRAINING_ROWS;
use maqam_stats::significance::Interval;

/// Scores of one moment or one way to ask.
struct Asked<'a> {
    name: String,
    scores: &'a Scores,
    is_last: bool,
    colour: Colour,
}

/// The section; empty where there is no evaluation.
///
/// # Errors
/// Intervals that cannot be computed.
pub fn section(chapter: &Chapter) -> Result<Section> {
    let mut section = Section::new(chapter.id("scores"), "Scores", Vec::new());
    let Some(last) = chapter.run.last() else {
        return Ok(section);
    };
    let metrics = chapter.metrics();
    let intervals = metrics
        .iter()
        .map(|metric| interval(chapter, metric))
        .collect::<Result<Vec<_>>>()?;
    let asked = asked(chapter);
    if asked.len() > 1
        && let Some(figure) = figure(chapter, &asked, &metrics, &intervals)
    {
        section.blocks.push(Block::Figure(figure));
    }
    let has_course = chapter.run.evaluations.len() > 2;
    let mut columns = vec![Column::text("set"), Column::text("metric")];
    columns.extend(asked.iter().map(|asked| Column::number(&asked.name)));
    if has_course {
        columns.push(Column::number("by step"));
    }
    let mut table = Table::new(
        chapter.id("scores-table"),
        "Every score",
        caption(chapter, last.step, intervals.iter().any(Option::is_some)),
        columns,
    );
    let mut before: Option<Option<String>> = None;
    for (metric, interval) in metrics.iter().zip(&intervals) {
        let is_new = before.as_ref() != Some(&metric.set);
        let mut row = vec![
            Cell::text(if is_new {
                metric.set.as_deref().unwrap_or("all")
            } else {
                ""
            }),
            Cell::text(metric.heading()),
        ];
        row.extend(
            asked
                .iter()
                .map(|asked| match asked.scores.get(&metric.full) {
                    Some(value) => Cell::Score(Score {
                        interval: interval.filter(|_| asked.is_last),
                        ..Score::new(value, metric.unit)
                    }),
                    None => Cell::Empty,
                }),
        );
        if has_course {
            row.push(Cell::Curve(chapter.run.course(&metric.full)));
        }
        table.row(is_new, row);
        before = Some(metric.set.clone());
    }
    section.blocks.push(Block::Table(table));
    Ok(section)
}

/// The interval of a score of the last evaluation: its own, or else one from its predictions.
fn interval(chapter: &Chapter, metric: &Metric) -> Result<Option<Interval>> {
    let Some((last, value)) = chapter
        .run
        .last()
        .and_then(|last| Some((last, last.score(&metric.full)?)))
    else {
        return Ok(None);
    };
    let rows = metric
        .set
        .as_deref()
        .and_then(|set| chapter.rows(set))
        .filter(|rows| !rows.is_empty());
    let found = match (last.interval(&metric.full), rows) {
        (Some(known), _) => Some(known),
        (None, Some(rows)) => chapter.uncertainty.interval(metric, value, rows)?,
        (None, None) => None,
    };
    Ok(found.map(|interval| metric.possible(interval)))
}

fn caption(chapter: &Chapter, last: u64, has_intervals: bool) -> String {
    let mut text = "Arrows say which way is better.".to_owned();
    let best = standing::best(chapter.run);
    if let Some(best) = best.filter(|best| best.step != last || best.is_rolled_back) {
        let keep = chapter.run.keep_best();
        let half = match best.selecting {
            Some(_) => " on the half of dev that selects",
            None => "",
        };
        let place = match best.is_rolled_back {
            true => ", before the roll-back",
            false => "",
        };
        text += &match best.step {
            0 => format!(" By {keep}{half}, no evaluation is better than the one before training."),
            step => {
                format!(" The best evaluation by {keep}{half} was after {step} steps{place}.")
            }
        };
    }
    let controls = chapter.run.last().map(|last| last.controls.as_slice());
    let is_training = |(name, _): &&(String, Scores)| name == TRAINING_ROWS;
    let controls = controls.unwrap_or_default();
    if controls.iter().any(|control| !is_training(&control)) {
        text += " Controls ask the model after the last step without audio, or with the audio of another row.";
    }
    if controls.iter().any(|control| is_training(&control)) {
        text += " Training rows are asked after the last step like those of dev: better scores than on dev show overfitting, and bad scores on both show that the task was not learnt.";
    }
    if let Some(method) = chapter.uncertainty.method().filter(|_| has_intervals) {
        text += &format!(" {method}");
    }
    text
}

/// Before, after, best, controls: what the run has of them.
fn asked<'a>(chapter: &Chapter<'a>) -> Vec<Asked<'a>> {
    let run = chapter.run;
    let mut found: Vec<Asked<'a>> = Vec::new();
    if let Some(before) = run.before() {
        found.push(Asked {
            name: "before".to_owned(),
            scores: &before.scores,
            is_last: false,
            colour: Colour::Muted,
        });
    }
    let Some(last) = run.last() else { return found };
    found.push(Asked {
        name: if last.step == 0 {
            "score".to_owned()
        } else {
            format!("after {}", last.step)
        },
        scores: &last.scores,
        is_last: true,
        colour: Colour::Series(0),
    });
    let is_shown = |step: u64| step == last.step || run.before().is_some_and(|b| b.step == step);
    let best = standing::best(run);
    if let Some(best) = best.filter(|best| best.is_rolled_back || !is_shown(best.step)) {
        let place = match best.is_rolled_back {
            true => " before the roll-back",
            false => "",
        };
        found.push(Asked {
            name: format!("best, {}{place}", best.step),
            scores: &best.scores,
            is_last: false,
            colour: Colour::Series(2),
        });
    }
    // Controls take the colours that no training has.
    for (i, (name, scores)) in last.controls.iter().enumerate() {
        found.push(Asked {
            name: name.clone(),
            scores,
            is_last: false,
            colour: Colour::Series([5, 4, 1][i % 3]),
        });
    }
    found
}

/// The first score in percent of each set, as bars.
fn figure(
    chapter: &Chapter,
    asked: &[Asked],
    metrics: &[Metric],
    intervals: &[Option<Interval>],
) -> Option<Figure> {
    let mut groups: Vec<(&Option<String>, Group)> = Vec::new();
    for (metric, interval) in metrics
        .iter()
        .zip(intervals)
        .filter(|(metric, _)| metric.unit == Unit::Percent && metric.set.is_some())
    {
        if groups.iter().any(|(set, _)| **set == metric.set) {
            continue;
        }
        let bar = |asked: &Asked| {
            let value = asked.scores.get(&metric.full)?;
            Some(Bar {
                interval: interval.filter(|_| asked.is_last),
                ..Bar::new(value)
            })
        };
        let name = metric.heading_in_full().replace(" %", "");
        groups.push((
            &metric.set,
            Group {
                name,
                bars: asked.iter().map(bar).collect(),
            },
        ));
    }
    if groups.is_empty() {
        return None;
    }
    let chart = BarChart {
        axis: Axis::new("").unit(Unit::Percent),
        series: asked.iter().map(|asked| asked.name.clone()).collect(),
        colours: asked.iter().map(|asked| asked.colour).collect(),
        groups: groups.into_iter().map(|(_, group)| group).collect(),
        is_stacked: false,
        is_dotted: false,
    };
    let caption = "The metric of each set's task; arrows say which way is better. A score that stays without audio, or with the wrong audio, does not come from listening.";
    let caption = if asked.iter().any(|asked| asked.name.contains("audio")) {
        caption
    } else {
        "The metric of each set's task; arrows say which way is better."
    };
    Some(Figure::new(
        chapter.id("scores-bars"),
        "What training changed",
        caption,
        Chart::Bars(chart),
    ))
}
