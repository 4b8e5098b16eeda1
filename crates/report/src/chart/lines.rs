//! Line charts: several series with bands, stages as named stretches, levels to compare with,
//! labels at the ends of the curves.

use crate::chart::ink::Colour;
use crate::chart::ink::Ink;
use crate::chart::ink::NUM_SERIES;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::chart::scale::Scale;
use crate::chart::svg::Anchor;
use crate::chart::svg::SMALL_SIZE;
use crate::chart::svg::Sheet;
use crate::chart::svg::Style;
use crate::chart::svg::TEXT_SIZE;
use crate::chart::svg::n;
use crate::chart::svg::path;
use crate::sections::measure::first_free_row;
use crate::sections::measure::fit;
use crate::sections::measure::spread;
use crate::sections::measure::text_width;

/// One curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What it is called at its end.
    pub name: String,
    /// Its points, by x; one whose y is no number is a gap.
    pub points: Vec<(f64, f64)>,
    /// A band around it: x, lower and upper end.
    pub band: Vec<(f64, f64, f64)>,
    /// Which colour of the series it has.
    pub colour: usize,
    /// Whether its points are marked.
    pub has_marks: bool,
}

impl Series {
    /// A curve without band or marks.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>, colour: usize) -> Self {
        Self {
            name: name.into(),
            points,
            colour,
            ..Self::default()
        }
    }

    /// The last point that can be drawn.
    fn last_point(&self) -> Option<(f64, f64)> {
        let is_finite = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
        self.points.iter().rev().copied().find(is_finite)
    }

    /// The same curve with its points marked.
    #[must_use]
    pub fn marked(mut self) -> Self {
        self.has_marks = true;
        self
    }

    /// The same curve with a band around it.
    #[must_use]
    pub fn with_band(mut self, band: Vec<(f64, f64, f64)>) -> Self {
        self.band = band;
        self
    }
}

/// Where a stage of a curriculum begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Boundary {
    /// Its place on the x-axis.
    pub at: f64,
    /// Name of the stage that begins there.
    pub name: String,
}

/// A horizontal line to compare with.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// What it is.
    pub name: String,
    /// Where it lies.
    pub value: f64,
}

/// A line chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineChart {
    /// The x-axis.
    pub x: Axis,
    /// The y-axis.
    pub y: Axis,
    /// The curves.
    pub series: Vec<Series>,
    /// The stages.
    pub boundaries: Vec<Boundary>,
    /// Lines to compare with.
    pub levels: Vec<Level>,
}

/// Height of the area in which curves are drawn.
const PLOT_HEIGHT: f64 = 240.0;
/// Least distance of the baselines of two labels.
const LABEL_GAP: f64 = 14.0;
/// Height of a row of text above or below the area.
const ROW: f64 = 17.0;
/// Most of a picture's width that labels at the ends of curves may take; longer ones go into a
/// legend.
const MOST_FOR_LABELS: f64 = 0.3;
/// Most points of a curve that are drawn one by one: more than a picture has columns to show.
const MOST_POINTS: usize = 1600;
/// Most points that are marked by dots.
const MOST_MARKS: usize = 40;

/// Where things lie.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Scale,
    y: Scale,
    has_legend: bool,
}

impl LineChart {
    /// The chart as SVG, `width` wide; `name` says what it shows.
    pub fn svg(&self, width: f64, ink: Ink, name: &str) -> String {
        let mut sheet = Sheet::new(width, ink);
        let stage_rows = self.stage_rows(width);
        let frame = self.frame(
            width,
            stage_rows.iter().map(|(row, _)| row + 1).max().unwrap_or(0),
        );
        self.draw_stages(&mut sheet, &frame, &stage_rows);
        self.draw_axes(&mut sheet, &frame);
        for series in &self.series {
            draw_band(&mut sheet, &frame, series);
        }
        for level in self.levels.iter().filter(|level| level.value.is_finite()) {
            let y = frame.y.at(level.value);
            sheet.line(
                (frame.left, y),
                (frame.right, y),
                Colour::Muted,
                r#" stroke-dasharray="2 3""#,
            );
        }
        for series in &self.series {
            self.draw_curve(&mut sheet, &frame, series);
        }
        self.draw_labels(&mut sheet, &frame);
        sheet.finish(frame.bottom + 2.0 * ROW + 4.0, name)
    }

    /// All numbers on the y-axis.
    fn y_values(&self) -> impl Iterator<Item = f64> {
        let of_series = self.series.iter().flat_map(|s| {
            s.points
                .iter()
                .map(|p| p.1)
                .chain(s.band.iter().flat_map(|b| [b.1, b.2]))
        });
        of_series.chain(self.levels.iter().map(|level| level.value))
    }

    fn x_values(&self) -> impl Iterator<Item = f64> {
        let of_series = self.series.iter().flat_map(|s| {
            s.points
                .iter()
                .map(|p| p.0)
                .chain(s.band.iter().map(|b| b.0))
        });
        of_series.chain(self.boundaries.iter().map(|boundary| boundary.at))
    }

    fn frame(&self, width: f64, stage_rows: usize) -> Frame {
        let ends: Vec<&str> = self
            .series
            .iter()
            .map(|s| s.name.as_str())
            .chain(self.levels.iter().map(|level| level.name.as_str()))
            .collect();
        let widest = ends
            .iter()
            .map(|name| text_width(name, TEXT_SIZE))
            .fold(0.0, f64::max);
        let has_legend = widest > MOST_FOR_LABELS * width
            || ends.len() as f64 * LABEL_GAP > PLOT_HEIGHT + LABEL_GAP;
        let legend_rows = if has_legend {
            self.legend(width)
                .iter()
                .map(|(row, ..)| row + 1)
                .max()
                .unwrap_or(0)
        } else {
            0
        };
        let top = ROW * (1 + legend_rows + stage_rows) as f64 + 6.0;
        let bottom = top + PLOT_HEIGHT;
        let y = Scale::new(&self.y, self.y_values(), (bottom, top), true);
        let tick_width = y
            .ticks(4, self.y.unit)
            .iter()
            .map(|tick| text_width(&tick.label, SMALL_SIZE))
            .fold(0.0, f64::max);
        let left = tick_width + 10.0;
        let right = if has_legend || widest == 0.0 {
            width - 10.0
        } else {
            width - widest - 12.0
        };
        let x = Scale::new(&self.x, self.x_values(), (left, right), false);
        Frame {
            left,
            right,
            top,
            bottom,
            x,
            y,
            has_legend,
        }
    }

    /// For each stage the row of its name above the area, and where on the x-axis it begins as a
    /// share of the chart's width.
    ///
    /// The names are placed before the frame is known, because the number of their rows decides its
    /// top: a little narrower than it will be.
    fn stage_rows(&self, width: f64) -> Vec<(usize, f64)> {
        let scale = Scale::new(&self.x, self.x_values(), (0.0, 0.6 * width), false);
        let mut rows = Vec::new();
        let place = |boundary: &Boundary| {
            let start = scale.at(boundary.at);
            (
                first_free_row(
                    &mut rows,
                    start,
                    start + text_width(&boundary.name, SMALL_SIZE) + 8.0,
                ),
                start,
            )
        };
        self.boundaries.iter().map(place).collect()
    }

    fn draw_stages(&self, sheet: &mut Sheet, frame: &Frame, rows: &[(usize, f64)]) {
        let num_rows = rows.iter().map(|(row, _)| row + 1).max().unwrap_or(0);
        for (i, (boundary, (row, _))) in self.boundaries.iter().zip(rows).enumerate() {
            let start = frame.x.at(boundary.at);
            let end = self
                .boundaries
                .get(i + 1)
                .map_or(frame.right, |next| frame.x.at(next.at));
            if i % 2 == 0 && self.boundaries.len() > 1 {
                sheet.rect(
                    (start, frame.top),
                    (end - start, frame.bottom - frame.top),
                    Colour::Shade,
                    1.0,
                    "",
                );
            }
            let name_y = frame.top - 5.0 - ROW * (num_rows - 1 - row) as f64;
            if start > frame.left + 0.5 {
                sheet.line(
                    (start, name_y - 9.0),
                    (start, frame.bottom),
                    Colour::Muted,
                    r#" stroke-dasharray="1 3""#,
                );
            }
            sheet.text(
                (start + 4.0, name_y),
                &fit(&boundary.name, SMALL_SIZE, sheet.width - start - 4.0),
                Style::SMALL,
            );
        }
    }

    fn draw_axes(&self, sheet: &mut Sheet, frame: &Frame) {
        sheet.text((0.0, 12.0), &self.y.label, Style::SMALL);
        for tick in frame.y.ticks(4, self.y.unit) {
            let y = frame.y.at(tick.value);
            sheet.line((frame.left, y), (frame.right, y), Colour::Grid, "");
            sheet.text(
                (frame.left - 6.0, y + 4.0),
                &tick.label,
                Style::SMALL.at(Anchor::End),
            );
        }
        let mut taken = f64::NEG_INFINITY;
        for tick in frame
            .x
            .ticks(((frame.right - frame.left) / 80.0) as usize, Unit::Count)
        {
            let x = frame.x.at(tick.value);
            let half = text_width(&tick.label, SMALL_SIZE) / 2.0;
            sheet.line(
                (x, frame.bottom),
                (x, frame.bottom + 4.0),
                Colour::Muted,
                "",
            );
            if x - half > taken {
                sheet.text(
                    (x, frame.bottom + ROW),
                    &tick.label,
                    Style::SMALL.at(Anchor::Middle),
                );
                taken = x + half + 4.0;
            }
        }
        sheet.line(
            (frame.left, frame.bottom),
            (frame.right, frame.bottom),
            Colour::Muted,
            "",
        );
        sheet.text(
            ((frame.left + frame.right) / 2.0, frame.bottom + 2.0 * ROW),
            &self.x.label,
            Style::SMALL.at(Anchor::Middle),
        );
    }

    fn draw_curve(&self, sheet: &mut Sheet, frame: &Frame, series: &Series) {
        let colour = Colour::Series(series.colour);
        // Colours come again after the last; then dashes tell.
        let dash = [
            r#" stroke-linecap="round""#,
            r#" stroke-dasharray="6 3""#,
            r#" stroke-dasharray="2 2""#,
        ][(series.colour / NUM_SERIES).min(2)];
        for run in series
            .points
            .split(|point| !(point.0.is_finite() && point.1.is_finite()))
            .filter(|run| !run.is_empty())
        {
            let drawn = thin(run, MOST_POINTS);
            if drawn.len() > 1 {
                sheet.stroke(
                    &path(drawn.iter().map(|p| (frame.x.at(p.0), frame.y.at(p.1)))),
                    colour,
                    1.8,
                    dash,
                );
            }
            if run.len() == 1 || (series.has_marks && run.len() <= MOST_MARKS) {
                for point in run {
                    let note = format!(
                        "{}: {} at {}",
                        series.name,
                        self.y.unit.format(point.1),
                        self.x.unit.format(point.0)
                    );
                    sheet.dot(
                        (frame.x.at(point.0), frame.y.at(point.1)),
                        2.6,
                        colour,
                        false,
                        &note,
                    );
                }
            }
        }
    }

    fn draw_labels(&self, sheet: &mut Sheet, frame: &Frame) {
        if frame.has_legend {
            for (row, x, name, colour) in self.legend(sheet.width) {
                let y = 12.0 + ROW * (1 + row) as f64;
                draw_key(sheet, (x, y), colour);
                sheet.text((x + KEY, y), &name, Style::SMALL.in_colour(Colour::Text));
            }
            return;
        }
        let of_series = self.series.iter().filter_map(|s| {
            s.last_point().map(|(x, y)| {
                (
                    s.name.as_str(),
                    frame.x.at(x),
                    frame.y.at(y),
                    Colour::Series(s.colour),
                )
            })
        });
        let of_levels = self
            .levels
            .iter()
            .filter(|level| level.value.is_finite())
            .map(|level| {
                (
                    level.name.as_str(),
                    frame.right,
                    frame.y.at(level.value),
                    Colour::Muted,
                )
            });
        let ends: Vec<(&str, f64, f64, Colour)> = of_series
            .chain(of_levels)
            .filter(|(name, ..)| !name.is_empty())
            .collect();
        let places = spread(
            &ends.iter().map(|end| end.2).collect::<Vec<_>>(),
            LABEL_GAP,
            frame.top,
            frame.bottom,
        );
        for ((name, x, y, colour), place) in ends.into_iter().zip(places) {
            if (place - y).abs() > LABEL_GAP / 2.0 {
                sheet.line(
                    (x.max(frame.right) + 1.0, y),
                    (frame.right + 7.0, place),
                    colour,
                    r#" stroke-width="0.7""#,
                );
            }
            sheet.text(
                (frame.right + 9.0, place + 4.0),
                name,
                Style::TEXT.in_colour(colour),
            );
        }
    }

    /// Row, place, name and colour of each entry of a legend.
    fn legend(&self, width: f64) -> Vec<(usize, f64, String, Option<usize>)> {
        let of_series = self
            .series
            .iter()
            .map(|series| (series.name.as_str(), Some(series.colour)));
        let entries = of_series.chain(self.levels.iter().map(|level| (level.name.as_str(), None)));
        lay_out_legend(
            &entries
                .filter(|(name, _)| !name.is_empty())
                .collect::<Vec<_>>(),
            width,
        )
    }
}

/// Width of a legend's key with the space after it.
const KEY: f64 = 22.0;

/// Row, place, name and series of each entry; a name too long for a row is shortened.
pub fn lay_out_legend(
    entries: &[(&str, Option<usize>)],
    width: f64,
) -> Vec<(usize, f64, String, Option<usize>)> {
    let mut row = 0;
    let mut x = 0.0;
    let mut placed = Vec::new();
    for (name, colour) in entries {
        let name = fit(name, SMALL_SIZE, width - KEY - 4.0);
        let taken = KEY + text_width(&name, SMALL_SIZE) + 12.0;
        if x > 0.0 && x + taken - 12.0 > width {
            (row, x) = (row + 1, 0.0);
        }
        placed.push((row, x, name, *colour));
        x += taken;
    }
    placed
}

/// A short piece of the line that a name belongs to.
fn draw_key(sheet: &mut Sheet, at: (f64, f64), colour: Option<usize>) {
    let y = at.1 - 4.0;
    let (colour, dash) = match colour {
        Some(series) => (
            Colour::Series(series),
            [
                r#" stroke-width="2.5""#,
                r#" stroke-width="2.5" stroke-dasharray="6 3""#,
            ][(series / NUM_SERIES).min(1)],
        ),
        None => (Colour::Muted, r#" stroke-dasharray="2 3""#),
    };
    sheet.line((at.0, y), (at.0 + KEY - 6.0, y), colour, dash);
}

fn draw_band(sheet: &mut Sheet, frame: &Frame, series: &Series) {
    let known: Vec<_> = series
        .band
        .iter()
        .filter(|b| b.0.is_finite() && b.1.is_finite() && b.2.is_finite())
        .collect();
    if known.len() > 1 {
        let there = known.iter().map(|b| (frame.x.at(b.0), frame.y.at(b.2)));
        let back = known
            .iter()
            .rev()
            .map(|b| (frame.x.at(b.0), frame.y.at(b.1)));
        sheet.fill(
            &format!("{}Z", path(there.chain(back))),
            Colour::Series(series.colour),
            0.16,
        );
    } else if let Some(one) = known.first() {
        let x = n(frame.x.at(one.0));
        sheet.stroke(
            &format!("M{x} {}V{}", n(frame.y.at(one.1)), n(frame.y.at(one.2))),
            Colour::Series(series.colour),
            1.0,
            "",
        );
    }
}

/// At most about `most` of the points; of each stretch its first, lowest, highest and last, so that
/// no spike is lost.
pub fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil((most / 4).max(1));
    let mut kept = Vec::with_capacity(most);
    for chunk in points.chunks(stretch) {
        let by_height = |&a: &usize, &b: &usize| chunk[a].1.total_cmp(&chunk[b].1);
        let lowest = (0..chunk.len()).min_by(by_height).unwrap_or(0);
        let highest = (0..chunk.len()).max_by(by_height).unwrap_or(0);
        let mut places = [0, lowest, highest, chunk.len() - 1];
        places.sort_unstable();
        kept.extend(
            places
                .iter()
                .enumerate()
                .filter(|(i, place)| *i == 0 || places[i - 1] != **place)
                .map(|(_, &place)| chunk[place]),
        );
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_ends_and_spikes() {
        let mut points: Vec<(f64, f64)> = (0..1_000_000).map(|i| (f64::from(i), 1.0)).collect();
        points[777_777].1 = 50.0;
        points[123_456].1 = -3.0;
        let kept = thin(&points, 1600);
        assert!(kept.len() <= 1600, "{}", kept.len());
        assert!(
            kept.contains(&points[777_777])
                && kept.contains(&points[123_456])
                && kept.first() == points.first()
                && kept.last() == points.last()
        );
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn a_curve_breaks_where_there_is_no_number() {
        let series = Series::new(
            "a",
            vec![(1.0, 1.0), (2.0, f64::NAN), (3.0, 2.0), (4.0, 3.0)],
            0,
        );
        let chart = LineChart {
            series: vec![series],
            ..LineChart::default()
        };
        let svg = chart.svg(600.0, Ink::File, "a");
        assert_eq!(
            (svg.matches("<path").count(), svg.matches("<circle").count()),
            (1, 1),
            "{svg}"
        );
    }

    #[test]
    fn long_names_and_many_go_into_a_legend() {
        let chart = |name: &str, count: usize| LineChart {
            series: (0..count)
                .map(|i| Series::new(format!("{name}{i}"), vec![(0.0, 1.0), (1.0, 2.0)], i))
                .collect(),
            ..LineChart::default()
        };
        assert!(!chart("run", 12).frame(640.0, 0).has_legend);
        assert!(chart("run", 30).frame(640.0, 0).has_legend);
        assert!(
            chart("a-name-that-takes-much-of-the-width", 2)
                .frame(360.0, 0)
                .has_legend
        );
    }
}
