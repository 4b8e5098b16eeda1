//! What `draw: uds` chose rows by: means of the candidates beside those of the chosen rows.

use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::lines::LineChart;
use crate::chart::lines::Series;
use crate::chart::scale::Axis;
use crate::sections::chapter::Chapter;
use crate::sections::chapter::steps_axis;
use crate::sections::curves::steps;
use maqam_records::curves::Log;
use maqam_records::track::Track;
use maqam_records::track::window;

/// The figure; `None` where no stage chose rows by logits.
pub fn figure(chapter: &Chapter, log: &Log) -> Option<Figure> {
    let window = window(log.steps);
    let mut panels = Vec::new();
    for (name, candidates, chosen) in [
        ("nuclear norm", &log.choice.norm, &log.choice.chosen_norm),
        (
            "distance",
            &log.choice.distance,
            &log.choice.chosen_distance,
        ),
    ] {
        let curve =
            |name: &str, track: &Track, colour| Series::new(name, track.smooth(window), colour);
        let mut series = vec![
            curve("candidates", candidates, 0),
            curve("chosen", chosen, 1),
        ];
        series.retain(|series| !series.points.is_empty());
        if series.is_empty() {
            continue;
        }
        let chart = LineChart {
            x: steps_axis(),
            y: Axis::new(name).from_zero(),
            series,
            boundaries: chapter.boundaries(),
            levels: Vec::new(),
        };
        panels.push((name.to_owned(), Chart::Lines(chart)));
    }
    let caption = format!(
        "Means over the rows of a step, in windows of {}: the nuclear norm of a row's logits, and its distance to the rows that were chosen lately. Curves that are close together say that the choice changed little.",
        steps(window)
    );
    (!panels.is_empty()).then(|| {
        Figure::of_panels(
            chapter.id("selection"),
            "Rows that the logits chose",
            caption,
            panels,
        )
    })
}
