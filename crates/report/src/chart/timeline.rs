//! A curriculum at a glance: its stages side by side, as wide as they are long, each filled with
//! its tasks' shares.

use crate::chart::ink::Colour;
use crate::chart::ink::Ink;
use crate::chart::lines::lay_out_legend;
use crate::chart::number;
use crate::chart::svg::Anchor;
use crate::chart::svg::SMALL_SIZE;
use crate::chart::svg::Sheet;
use crate::chart::svg::Style;
use crate::chart::svg::TEXT_SIZE;
use crate::sections::measure::first_free_row;
use crate::sections::measure::fit;
use crate::sections::measure::text_width;

/// One stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Its number of steps.
    pub steps: f64,
    /// Each task's part in it, in the order of the timeline's tasks, in any unit.
    pub parts: Vec<f64>,
    /// What else is to be said of it, in a few words.
    pub note: String,
}

/// The stages of a curriculum.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// The series whose colour each task has; where there are none, their places.
    pub colours: Vec<usize>,
    /// The stages, in their order.
    pub stages: Vec<Stage>,
}

const HEIGHT: f64 = 110.0;
const ROW: f64 = 17.0;
/// Least width of a stage, however short it is.
const NARROWEST: f64 = 6.0;

impl Timeline {
    fn colour(&self, task: usize) -> Colour {
        Colour::Series(self.colours.get(task).copied().unwrap_or(task))
    }

    /// The timeline as SVG, `width` wide; `name` says what it shows.
    pub fn svg(&self, width: f64, ink: Ink, name: &str) -> String {
        let mut sheet = Sheet::new(width, ink);
        let entries: Vec<(&str, Option<usize>)> = self
            .tasks
            .iter()
            .enumerate()
            .map(|(i, name)| (name.as_str(), Some(i)))
            .collect();
        let legend = lay_out_legend(&entries, width);
        for (row, x, name, task) in &legend {
            let y = 12.0 + ROW * *row as f64;
            sheet.rect(
                (*x, y - 9.0),
                (14.0, 10.0),
                self.colour(task.unwrap_or(0)),
                1.0,
                "",
            );
            sheet.text((x + 22.0, y), name, Style::SMALL.in_colour(Colour::Text));
        }
        let legend_rows = legend.iter().map(|(row, ..)| row + 1).max().unwrap_or(0);
        let starts = self.starts(width);
        let mut rows = Vec::new();
        let titles: Vec<(usize, f64, String)> = self
            .stages
            .iter()
            .zip(&starts)
            .map(|(stage, start)| title(&mut rows, stage, *start, width))
            .collect();
        let top = 14.0 + ROW * (legend_rows + rows.len()) as f64;
        for ((row, x, text), start) in titles.iter().zip(&starts) {
            let y = top - 6.0 - ROW * (rows.len() - 1 - row) as f64;
            sheet.line(
                (*start, y - 9.0),
                (*start, top),
                Colour::Muted,
                r#" stroke-dasharray="1 3""#,
            );
            sheet.text((x + 3.0, y), text, Style::TEXT);
        }
        let mut before = 0.0;
        for (i, stage) in self.stages.iter().enumerate() {
            let end = starts.get(i + 1).copied().unwrap_or(width);
            self.draw_stage(&mut sheet, stage, (starts[i], end), top);
            sheet.text(
                (starts[i], top + HEIGHT + ROW - 2.0),
                &short_step(before, end - starts[i]),
                Style::SMALL,
            );
            before += stage.steps;
        }
        sheet.text(
            (width, top + HEIGHT + 2.0 * ROW - 4.0),
            &format!("{} steps", number::count(before)),
            Style::SMALL.at(Anchor::End),
        );
        sheet.finish(top + HEIGHT + 2.0 * ROW, name)
    }

    /// Where each stage begins.
    fn starts(&self, width: f64) -> Vec<f64> {
        let total: f64 = self.stages.iter().map(|stage| stage.steps.max(0.0)).sum();
        let share = |stage: &Stage| {
            if total > 0.0 {
                stage.steps.max(0.0) / total
            } else {
                1.0 / self.stages.len() as f64
            }
        };
        let wide = |stage: &Stage| (share(stage) * width).max(NARROWEST);
        let shrink = width / self.stages.iter().map(wide).sum::<f64>().max(1.0);
        let mut x = 0.0;
        let start = |stage: &Stage| {
            let start = x;
            x += shrink * wide(stage);
            start
        };
        self.stages.iter().map(start).collect()
    }

    fn draw_stage(&self, sheet: &mut Sheet, stage: &Stage, (start, end): (f64, f64), top: f64) {
        let width = (end - start - 1.5).max(1.0);
        let total: f64 = stage.parts.iter().filter(|part| part.is_finite()).sum();
        sheet.rect((start, top), (width, HEIGHT), Colour::Shade, 1.0, "");
        let mut y = top;
        for (i, part) in stage
            .parts
            .iter()
            .enumerate()
            .filter(|(_, part)| total > 0.0 && part.is_finite() && **part > 0.0)
        {
            let share = part / total;
            let task = self.tasks.get(i).map_or("", String::as_str);
            let height = share * HEIGHT;
            sheet.rect(
                (start, y),
                (width, (height - 1.0).max(0.5)),
                self.colour(i),
                0.9,
                &format!("{}, {task}: {:.1} %", stage.name, 100.0 * share),
            );
            let text = [
                format!("{task} {:.0} %", 100.0 * share),
                format!("{:.0} %", 100.0 * share),
            ];
            if let Some(text) = text
                .iter()
                .find(|text| text_width(text, SMALL_SIZE) + 8.0 < width)
                .filter(|_| height > 14.0)
            {
                sheet.text(
                    (start + 5.0, y + height / 2.0 + 4.0),
                    text,
                    Style::SMALL.in_colour(Colour::Paper).bold(),
                );
            }
            y += height;
        }
    }
}

/// Row, place and text of a stage's name.
fn title(rows: &mut Vec<f64>, stage: &Stage, start: f64, width: f64) -> (usize, f64, String) {
    let text = if stage.note.is_empty() {
        stage.name.clone()
    } else {
        format!("{} ({})", stage.name, stage.note)
    };
    let text = fit(&text, TEXT_SIZE, width - 6.0);
    // A name near the right edge begins further left.
    let x = start
        .min(width - text_width(&text, TEXT_SIZE) - 4.0)
        .max(0.0);
    (
        first_free_row(rows, x, x + text_width(&text, TEXT_SIZE) + 8.0),
        x,
        text,
    )
}

/// The step before a stage, where its stretch has room for the number.
fn short_step(step: f64, room: f64) -> String {
    let text = number::short(step);
    if text_width(&text, SMALL_SIZE) < room {
        text
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_fill_the_width_and_the_shortest_is_seen() {
        let stage = |steps: f64| Stage {
            steps,
            ..Stage::default()
        };
        let timeline = Timeline {
            colours: Vec::new(),
            stages: vec![stage(1.0), stage(100_000.0), stage(50_000.0)],
            ..Timeline::default()
        };
        let starts = timeline.starts(600.0);
        assert!(
            starts[0] == 0.0 && starts[1] > 5.0 && starts[2] > 390.0 && starts[2] < 410.0,
            "{starts:?}"
        );
        assert!(
            Timeline::default()
                .svg(600.0, Ink::File, "nothing")
                .contains("0 steps")
        );
    }
}
