//! Audio gap of one run by step: of the training rows, and of the sets of the suite.

use std::collections::BTreeMap;

use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::lines::Level;
use crate::chart::lines::LineChart;
use crate::chart::lines::Series;
use crate::chart::scale::Axis;
use crate::sections::chapter::Chapter;
use crate::sections::chapter::steps_axis;
use maqam_records::curves::Log;

/// The figure; none if the gap was not measured.
pub fn figure(chapter: &Chapter, log: &Log) -> Option<Figure> {
    let of_task = |task: &str| chapter.colour(task);
    let of_set = |set: &str| chapter.colour_of_set(set);
    let mut panels = Vec::new();
    if !log.gaps.is_empty() {
        let chart = chart(chapter, series(&log.gaps, &of_task));
        panels.push(("training rows, by task".to_owned(), chart));
    }
    if !log.gaps_of_sets.is_empty() {
        let chart = chart(chapter, series(&log.gaps_of_sets, &of_set));
        panels.push(("rows of the suite, by set".to_owned(), chart));
    }
    let caption = "Loss with the audio of another row, as near in length as the sample has one, minus loss with the right one, over a fixed sample of rows. Near 0 the model does not use what is said.";
    (!panels.is_empty()).then(|| {
        Figure::of_panels(
            chapter.id("audio-gap"),
            "Does the model use the audio?",
            caption,
            panels,
        )
    })
}

/// A curve of each name.
fn series(gaps: &BTreeMap<String, Vec<(f64, f64)>>, colour: &dyn Fn(&str) -> usize) -> Vec<Series> {
    let curves = gaps.iter();
    curves
        .map(|(name, points)| Series::new(name, points.clone(), colour(name)))
        .collect()
}

fn chart(chapter: &Chapter, series: Vec<Series>) -> Chart {
    Chart::Lines(LineChart {
        x: steps_axis(),
        y: Axis::new("audio gap, nats a token").from_zero(),
        series,
        boundaries: chapter.boundaries(),
        levels: vec![Level {
            name: String::new(),
            value: 0.0,
        }],
    })
}
