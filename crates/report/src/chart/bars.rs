//! Horizontal bars: in groups with intervals and marks of significance, or stacked into shares.

use crate::chart::ink::Colour;
use crate::chart::ink::Ink;
use crate::chart::lines::lay_out_legend;
use crate::chart::scale::Axis;
use crate::chart::scale::Scale;
use crate::chart::svg::Anchor;
use crate::chart::svg::SMALL_SIZE;
use crate::chart::svg::Sheet;
use crate::chart::svg::Style;
use crate::chart::svg::TEXT_SIZE;
use crate::sections::measure::fit;
use crate::sections::measure::text_width;
use maqam_stats::significance::Interval;

/// One bar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bar {
    /// Its length.
    pub value: f64,
    /// How sure that is.
    pub interval: Option<Interval>,
    /// Marks of significance, shown after the number.
    pub marks: String,
    /// What it is the mean of, each shown as a small circle: the scores of single seeds.
    pub points: Vec<f64>,
}

impl Bar {
    /// A bar without interval or marks.
    pub fn new(value: f64) -> Self {
        Self {
            value,
            ..Self::default()
        }
    }
}

/// Bars that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What they are about.
    pub name: String,
    /// One for each series, in their order; `None` where there is nothing.
    pub bars: Vec<Option<Bar>>,
}

/// A bar chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarChart {
    /// The axis of the bars' lengths.
    pub axis: Axis,
    /// What the bars of a group stand for, in their order.
    pub series: Vec<String>,
    /// The groups, from top to bottom.
    pub groups: Vec<Group>,
    /// Their colours; where there are none, those of the series in their order.
    pub colours: Vec<Colour>,
    /// Whether the bars of a group are parts of one bar, as shares of their sum.
    pub is_stacked: bool,
    /// Whether a dot stands at the end of each bar instead of the bar: for differences, of which
    /// zero is no beginning.
    pub is_dotted: bool,
}

/// Height of a bar, and of a stack.
const BAR: f64 = 13.0;
const BAR_GAP: f64 = 3.0;
const GROUP_GAP: f64 = 14.0;
const STACK: f64 = 22.0;
const ROW: f64 = 17.0;
/// In pictures narrower than this, names that take much of the width stand above their bars.
const NARROW: f64 = 480.0;
/// Most of a picture's width that names beside bars may take.
const MOST_FOR_NAMES: f64 = 0.34;

/// Where things lie.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    names_above: bool,
    scale: Scale,
}

impl BarChart {
    /// The chart as SVG, `width` wide; `name` says what it shows.
    pub fn svg(&self, width: f64, ink: Ink, name: &str) -> String {
        let mut sheet = Sheet::new(width, ink);
        let legend = lay_out_legend(
            &self
                .series
                .iter()
                .enumerate()
                .map(|(i, name)| (name.as_str(), Some(i)))
                .collect::<Vec<_>>(),
            width,
        );
        let frame = self.frame(
            width,
            legend.iter().map(|(row, ..)| row + 1).max().unwrap_or(0),
        );
        for (row, x, name, series) in &legend {
            let y = 12.0 + ROW * *row as f64;
            sheet.rect(
                (*x, y - 9.0),
                (14.0, 10.0),
                self.colour(series.unwrap_or(0)),
                1.0,
                "",
            );
            sheet.text((x + 22.0, y), name, Style::SMALL.in_colour(Colour::Text));
        }
        self.draw_axis(&mut sheet, &frame);
        let mut y = frame.top;
        for group in &self.groups {
            y = if self.is_stacked {
                self.draw_stack(&mut sheet, &frame, group, y)
            } else {
                self.draw_group(&mut sheet, &frame, group, y)
            };
        }
        sheet.finish(frame.bottom + 2.0 * ROW + 4.0, name)
    }

    fn frame(&self, width: f64, legend_rows: usize) -> Frame {
        let widest = self
            .groups
            .iter()
            .map(|group| text_width(&group.name, TEXT_SIZE))
            .fold(0.0, f64::max);
        let names_above = width < NARROW && widest + 10.0 > MOST_FOR_NAMES * width;
        let left = if names_above {
            2.0
        } else {
            (widest + 10.0).min(MOST_FOR_NAMES * width)
        };
        let top = 8.0 + ROW * legend_rows as f64 + if legend_rows > 0 { 8.0 } else { 0.0 };
        let bottom = top
            + self
                .groups
                .iter()
                .map(|group| self.group_height(group, names_above))
                .sum::<f64>();
        if self.is_stacked {
            let right = width - 20.0;
            return Frame {
                left,
                right,
                top,
                bottom,
                names_above,
                scale: Scale::new(
                    &self.axis.clone().from_zero(),
                    [0.0, 1.0],
                    (left, right),
                    false,
                ),
            };
        }
        let bars = || {
            self.groups
                .iter()
                .flat_map(|group| group.bars.iter().flatten())
        };
        let numbers = bars()
            .map(|bar| text_width(&self.number(bar), SMALL_SIZE))
            .fold(0.0, f64::max);
        let right = width - numbers - 10.0;
        let ends = bars().flat_map(|bar| {
            [
                bar.value,
                bar.interval.map_or(bar.value, |i| i.low),
                bar.interval.map_or(bar.value, |i| i.high),
            ]
            .into_iter()
            .chain(bar.points.iter().copied())
        });
        let scale = Scale::new(&self.axis.clone().from_zero(), ends, (left, right), true);
        Frame {
            left,
            right,
            top,
            bottom,
            names_above,
            scale,
        }
    }

    fn colour(&self, series: usize) -> Colour {
        self.colours
            .get(series)
            .copied()
            .unwrap_or(Colour::Series(series))
    }

    fn group_height(&self, group: &Group, names_above: bool) -> f64 {
        let bars = if self.is_stacked {
            STACK
        } else {
            group.bars.len() as f64 * (BAR + BAR_GAP)
        };
        bars + GROUP_GAP + if names_above { ROW } else { 0.0 }
    }

    fn number(&self, bar: &Bar) -> String {
        let number = self.axis.unit.format(bar.value);
        if bar.marks.is_empty() {
            number
        } else {
            format!("{number} {}", bar.marks)
        }
    }

    fn draw_axis(&self, sheet: &mut Sheet, frame: &Frame) {
        let mut taken = f64::NEG_INFINITY;
        let wanted = ((frame.right - frame.left) / 70.0).clamp(2.0, 6.0) as usize;
        for tick in frame.scale.ticks(wanted, self.axis.unit) {
            let x = frame.scale.at(tick.value);
            let half = text_width(&tick.label, SMALL_SIZE) / 2.0;
            sheet.line(
                (x, frame.top - 4.0),
                (x, frame.bottom - GROUP_GAP / 2.0),
                Colour::Grid,
                "",
            );
            if x - half > taken {
                let anchor = if x - half < 0.0 {
                    Anchor::Start
                } else {
                    Anchor::Middle
                };
                sheet.text(
                    (x, frame.bottom + 6.0),
                    &tick.label,
                    Style::SMALL.at(anchor),
                );
                taken = x + half + 6.0;
            }
        }
        sheet.text(
            ((frame.left + frame.right) / 2.0, frame.bottom + 6.0 + ROW),
            &self.axis.label,
            Style::SMALL.at(Anchor::Middle),
        );
    }

    /// Writes a group's name beside or above its bars; returns where the bars begin.
    fn draw_name(&self, sheet: &mut Sheet, frame: &Frame, name: &str, y: f64, height: f64) -> f64 {
        if frame.names_above {
            sheet.text(
                (0.0, y + 12.0),
                &fit(name, TEXT_SIZE, sheet.width),
                Style::TEXT,
            );
            return y + ROW;
        }
        sheet.text(
            (frame.left - 8.0, y + height / 2.0 + 4.0),
            &fit(name, TEXT_SIZE, frame.left - 10.0),
            Style::TEXT.at(Anchor::End),
        );
        y
    }

    fn draw_group(&self, sheet: &mut Sheet, frame: &Frame, group: &Group, y: f64) -> f64 {
        let height = group.bars.len() as f64 * (BAR + BAR_GAP) - BAR_GAP;
        let top = self.draw_name(sheet, frame, &group.name, y, height);
        let zero = frame.scale.at(0.0);
        if self.is_dotted {
            sheet.line(
                (zero, top - 4.0),
                (zero, top + height + 4.0),
                Colour::Muted,
                "",
            );
        }
        for (i, bar) in group.bars.iter().enumerate() {
            let y = top + i as f64 * (BAR + BAR_GAP);
            let Some(bar) = bar.as_ref().filter(|bar| bar.value.is_finite()) else {
                continue;
            };
            let x = frame.scale.at(bar.value);
            let note = format!(
                "{}, {}: {}",
                group.name,
                self.series.get(i).map_or("", String::as_str),
                self.axis.unit.format(bar.value)
            );
            if self.is_dotted {
                sheet.dot((x, y + BAR / 2.0), 4.2, self.colour(i), false, &note);
            } else {
                sheet.rect(
                    (zero.min(x), y),
                    ((x - zero).abs().max(1.0), BAR),
                    self.colour(i),
                    0.85,
                    &note,
                );
            }
            let mut end = x.max(zero);
            if let Some(interval) = bar.interval {
                let low = frame.scale.at(interval.low);
                let high = frame.scale.at(interval.high);
                let middle = y + BAR / 2.0;
                sheet.line(
                    (low, middle),
                    (high, middle),
                    Colour::Text,
                    r#" stroke-width="1.2""#,
                );
                for x in [low, high] {
                    sheet.line(
                        (x, middle - 3.0),
                        (x, middle + 3.0),
                        Colour::Text,
                        r#" stroke-width="1.2""#,
                    );
                }
                end = end.max(high);
            }
            for point in bar.points.iter().filter(|point| point.is_finite()) {
                let x = frame.scale.at(*point);
                let note = self.axis.unit.format(*point);
                sheet.dot((x, y + BAR / 2.0), 2.6, Colour::Text, true, &note);
                end = end.max(x + 2.6);
            }
            sheet.text(
                (end + 6.0, y + BAR - 2.5),
                &self.number(bar),
                Style::SMALL.in_colour(Colour::Text),
            );
        }
        top + height + GROUP_GAP + BAR_GAP
    }

    fn draw_stack(&self, sheet: &mut Sheet, frame: &Frame, group: &Group, y: f64) -> f64 {
        let top = self.draw_name(sheet, frame, &group.name, y, STACK);
        let value = |bar: &Option<Bar>| bar.as_ref().map_or(0.0, |bar| bar.value).max(0.0);
        // Divided before they are added, so that huge parts have a finite sum.
        let most = group
            .bars
            .iter()
            .map(value)
            .filter(|v| v.is_finite())
            .fold(0.0, f64::max);
        let total: f64 = group
            .bars
            .iter()
            .map(value)
            .filter(|v| v.is_finite())
            .map(|v| v / most)
            .sum();
        let mut before = 0.0;
        for (i, bar) in group
            .bars
            .iter()
            .enumerate()
            .filter(|(_, bar)| most > 0.0 && value(bar).is_finite())
        {
            let share = value(bar) / most / total;
            let start = frame.scale.at(before);
            let end = frame.scale.at(before + share);
            let text = format!("{:.0} %", 100.0 * share);
            let note = format!(
                "{}, {}: {:.1} %",
                group.name,
                self.series.get(i).map_or("", String::as_str),
                100.0 * share
            );
            sheet.rect(
                (start, top),
                ((end - start - 1.0).max(0.0), STACK),
                self.colour(i),
                0.9,
                &note,
            );
            if text_width(&text, SMALL_SIZE) + 6.0 < end - start {
                sheet.text(
                    ((start + end) / 2.0, top + STACK / 2.0 + 4.0),
                    &text,
                    Style::SMALL
                        .in_colour(Colour::Paper)
                        .at(Anchor::Middle)
                        .bold(),
                );
            }
            before += share;
        }
        top + STACK + GROUP_GAP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_parts_still_have_shares() {
        let chart = BarChart {
            series: vec!["a".to_owned(), "b".to_owned()],
            groups: vec![Group {
                name: "g".to_owned(),
                bars: vec![Some(Bar::new(f64::MAX)), Some(Bar::new(f64::MAX))],
            }],
            is_stacked: true,
            ..BarChart::default()
        };
        assert_eq!(
            chart
                .svg(600.0, Ink::File, "shares")
                .matches(">50 %<")
                .count(),
            2
        );
    }
}
