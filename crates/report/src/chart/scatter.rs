//! Scatter plots: points in the plane, coloured by what they are, thinned where there are too many.

use crate::chart::ink::Colour;
use crate::chart::ink::Ink;
use crate::chart::lines::lay_out_legend;
use crate::chart::scale::Axis;
use crate::chart::scale::Scale;
use crate::chart::svg::Anchor;
use crate::chart::svg::SMALL_SIZE;
use crate::chart::svg::Sheet;
use crate::chart::svg::Style;
use crate::chart::svg::n;
use crate::sections::measure::text_width;
use maqam_base::seed::Key;

/// One point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Name of what it stands for; it decides which points are kept.
    pub id: String,
    /// Its place.
    pub at: (f64, f64),
    /// Which group of the plot it belongs to.
    pub group: usize,
}

/// A scatter plot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scatter {
    /// Names of the groups.
    pub groups: Vec<String>,
    /// The series whose colour each group has; where there are none, their places.
    pub colours: Vec<usize>,
    /// The points.
    pub points: Vec<Point>,
    /// What the x-axis is.
    pub x_label: String,
    /// What the y-axis is.
    pub y_label: String,
}

/// Most points that are drawn.
pub const MOST_POINTS: usize = 5000;
const ROW: f64 = 17.0;
const SIDE: f64 = 420.0;

impl Scatter {
    fn colour(&self, group: usize) -> Colour {
        Colour::Series(self.colours.get(group).copied().unwrap_or(group))
    }

    /// The points that are drawn: all, or the [`MOST_POINTS`] whose ids have the smallest hashes,
    /// whatever their order.
    pub fn kept(&self) -> Vec<&Point> {
        let finite = || {
            self.points
                .iter()
                .filter(|point| point.at.0.is_finite() && point.at.1.is_finite())
        };
        if self.points.len() <= MOST_POINTS {
            return finite().collect();
        }
        let key = Key::new(0, "scatter");
        let mut by_hash: Vec<(u64, &Point)> = finite()
            .map(|point| (key.with_name(&point.id).bits(0), point))
            .collect();
        by_hash.sort_by(|a, b| (a.0, &a.1.id).cmp(&(b.0, &b.1.id)));
        by_hash
            .into_iter()
            .take(MOST_POINTS)
            .map(|(_, point)| point)
            .collect()
    }

    /// The plot as SVG, `width` wide; `name` says what it shows.
    pub fn svg(&self, width: f64, ink: Ink, name: &str) -> String {
        let width = width.min(SIDE * 1.4);
        let mut sheet = Sheet::new(width, ink);
        let entries: Vec<(&str, Option<usize>)> = self
            .groups
            .iter()
            .enumerate()
            .map(|(i, name)| (name.as_str(), Some(i)))
            .collect();
        let legend = lay_out_legend(&entries, width);
        for (row, x, name, series) in &legend {
            let y = 12.0 + ROW * *row as f64;
            sheet.dot(
                (x + 7.0, y - 4.0),
                4.0,
                self.colour(series.unwrap_or(0)),
                series.unwrap_or(0) >= crate::chart::ink::NUM_SERIES,
                "",
            );
            sheet.text((x + 16.0, y), name, Style::SMALL.in_colour(Colour::Text));
        }
        let top = 10.0 + ROW * legend.iter().map(|(row, ..)| row + 1).max().unwrap_or(0) as f64;
        let left = 22.0;
        let right = width - 4.0;
        let bottom = top + SIDE.min(width);
        sheet.rect(
            (left, top),
            (right - left, bottom - top),
            Colour::Shade,
            1.0,
            "",
        );
        let kept = self.kept();
        let inset = 8.0;
        let x = Scale::new(
            &Axis::new(""),
            kept.iter().map(|p| p.at.0),
            (left + inset, right - inset),
            false,
        );
        let y = Scale::new(
            &Axis::new(""),
            kept.iter().map(|p| p.at.1),
            (bottom - inset, top + inset),
            false,
        );
        self.draw_points(&mut sheet, &kept, |point| {
            (x.at(point.at.0), y.at(point.at.1))
        });
        sheet.text(
            ((left + right) / 2.0, bottom + ROW - 2.0),
            &self.x_label,
            Style::SMALL.at(Anchor::Middle),
        );
        let middle = (top + bottom) / 2.0 + text_width(&self.y_label, SMALL_SIZE) / 2.0;
        sheet.text_with(
            (14.0, middle),
            &self.y_label,
            Style::SMALL,
            &format!(r#" transform="rotate(-90 14 {})""#, n(middle)),
        );
        sheet.finish(bottom + ROW + 4.0, name)
    }

    /// All points of a group are one path of strokes without length: a few bytes a point.
    fn draw_points(
        &self,
        sheet: &mut Sheet,
        kept: &[&Point],
        place: impl Fn(&Point) -> (f64, f64),
    ) {
        let radius = if kept.len() > 1000 { 3.0 } else { 5.0 };
        let num_groups = kept.iter().map(|point| point.group + 1).max().unwrap_or(0);
        for group in 0..num_groups {
            let of_group = kept
                .iter()
                .filter(|point| point.group == group)
                .map(|point| place(point));
            let path: String = of_group
                .map(|(x, y)| {
                    format!(
                        "M{} {}h0",
                        (x * 10.0).round() / 10.0,
                        (y * 10.0).round() / 10.0
                    )
                })
                .collect();
            if !path.is_empty() {
                sheet.stroke(
                    &path,
                    self.colour(group),
                    radius,
                    r#" stroke-linecap="round" stroke-opacity="0.7""#,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_points_are_kept_does_not_depend_on_their_order() {
        let point = |i: usize| Point {
            id: format!("row-{i}"),
            at: (i as f64, -(i as f64)),
            group: i % 3,
        };
        let mut plot = Scatter {
            points: (0..20_000).map(point).collect(),
            ..Scatter::default()
        };
        let ids = |plot: &Scatter| {
            plot.kept()
                .iter()
                .map(|point| point.id.clone())
                .collect::<Vec<_>>()
        };
        let before = ids(&plot);
        plot.points.reverse();
        assert_eq!((before.len(), &before), (MOST_POINTS, &ids(&plot)));
        // A fair sample: each third of the rows is a third of the points, within four standard
        // deviations (27 each).
        for group in 0..3 {
            let count = plot
                .kept()
                .iter()
                .filter(|point| point.group == group)
                .count();
            assert!((1558..=1775).contains(&count), "{count}");
        }
    }
}
