//! Heat maps: a confusion matrix with counts and shares of its rows, a matrix of cosines on a scale
//! with two ends.

use crate::chart::ink::Colour;
use crate::chart::ink::Ink;
use crate::chart::number;
use crate::chart::svg::Anchor;
use crate::chart::svg::SMALL_SIZE;
use crate::chart::svg::Sheet;
use crate::chart::svg::Style;
use crate::chart::svg::TEXT_SIZE;
use crate::chart::svg::n;
use crate::sections::measure::fit;
use crate::sections::measure::text_width;
use maqam_metrics::classify::UNPARSED;

/// One cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatCell {
    /// From -1 (full strength of the negative half) over 0 (paper) to 1 (full strength).
    pub strength: f64,
    /// What is written in it.
    pub text: String,
    /// What is written below, smaller.
    pub below: String,
}

impl HeatCell {
    /// The cell of a cosine.
    pub fn cosine(value: f64) -> Self {
        Self {
            strength: value,
            text: format!("{value:.2}").replace('-', "−"),
            below: String::new(),
        }
    }
}

/// A heat map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatMap {
    /// Names of the rows.
    pub rows: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The cells, row by row; `None` where there is nothing.
    pub cells: Vec<Vec<Option<HeatCell>>>,
    /// What the rows are.
    pub row_title: String,
    /// What the columns are.
    pub column_title: String,
    /// Number of columns at the right that stand apart.
    pub apart: usize,
}

/// Largest side of a cell.
const LARGEST: f64 = 58.0;
/// Below this side a cell's second line is left out, below half of it the first.
const ROOM_FOR_TWO: f64 = 38.0;
/// From this strength on text takes the colour that is read on the full one.
const STRONG: f64 = 0.55;
/// Least distance of two names.
const LINE: f64 = 13.0;
/// Between the columns that stand apart and the others.
const APART: f64 = 8.0;

/// The cells of a row of counts: each count, and its share of the row.
fn shares_of_row(row: &[u64]) -> Vec<Option<HeatCell>> {
    let total = row.iter().sum::<u64>();
    let mut cells = Vec::with_capacity(row.len());
    for count in row {
        let share = match total {
            0 => 0.0,
            total => *count as f64 / total as f64,
        };
        cells.push(Some(HeatCell {
            strength: share,
            text: number::short(*count as f64),
            below: format!("{:.0} %", 100.0 * share),
        }));
    }
    cells
}

impl HeatMap {
    /// The confusion matrix of labels: `counts[reference][answer]`, one column more than labels for
    /// the answers that name none.
    pub fn confusion(labels: &[String], counts: &[Vec<u64>]) -> Self {
        Self {
            rows: labels.to_vec(),
            columns: labels
                .iter()
                .cloned()
                .chain(std::iter::once(UNPARSED.to_owned()))
                .collect(),
            cells: counts.iter().map(|row| shares_of_row(row)).collect(),
            row_title: "reference".to_owned(),
            column_title: "answer".to_owned(),
            apart: 1,
        }
    }

    /// A symmetric matrix of cosines; `None` where a pair never met.
    pub fn cosines(names: &[String], cosines: &[Vec<Option<f64>>]) -> Self {
        let cell = |value: &Option<f64>| {
            let finite = value.filter(|value| value.is_finite());
            finite.map(HeatCell::cosine)
        };
        Self {
            rows: names.to_vec(),
            columns: names.to_vec(),
            cells: cosines
                .iter()
                .map(|row| row.iter().map(cell).collect())
                .collect(),
            ..Self::default()
        }
    }

    /// The map as SVG, at most `width` wide; `name` says what it shows.
    pub fn svg(&self, width: f64, ink: Ink, name: &str) -> String {
        let widest = |names: &[String], size| {
            names
                .iter()
                .map(|name| text_width(name, size))
                .fold(0.0, f64::max)
        };
        let left = (widest(&self.rows, TEXT_SIZE) + 10.0)
            .clamp(30.0, 0.3 * width)
            .max(text_width(&self.row_title, SMALL_SIZE) + 8.0);
        let gap = if self.apart > 0 { APART } else { 0.0 };
        let side = ((width - left - gap - 4.0) / self.columns.len().max(1) as f64).min(LARGEST);
        let names_width = widest(&self.columns, SMALL_SIZE);
        // A column that stands apart has the room beside it too.
        let room = |j: usize| {
            if j >= self.columns.len().saturating_sub(self.apart) {
                side + 2.0 * gap
            } else {
                side
            }
        };
        let is_steep = self
            .columns
            .iter()
            .enumerate()
            .any(|(j, name)| text_width(name, SMALL_SIZE) + 2.0 > room(j));
        let top = 20.0
            + if is_steep {
                0.71 * names_width.min(120.0) + 10.0
            } else {
                16.0
            };
        // A steep name of the last column leans over the edge.
        let lean = if is_steep {
            0.71 * names_width.min(120.0)
        } else {
            0.0
        };
        let used = (left + gap + side * self.columns.len() as f64 + lean)
            .min(width)
            .max(left + text_width(&self.column_title, SMALL_SIZE) + 8.0);
        let mut sheet = Sheet::new(used, ink);
        let layout = Layout {
            left,
            top,
            side,
            gap,
            apart_from: self.columns.len().saturating_sub(self.apart),
        };
        self.draw_names(&mut sheet, &layout, is_steep);
        for (i, row) in self.cells.iter().enumerate() {
            for (j, cell) in row.iter().enumerate() {
                self.draw_cell(&mut sheet, &layout, (i, j), cell.as_ref());
            }
        }
        sheet.finish(top + side * self.rows.len() as f64 + 4.0, name)
    }

    fn draw_names(&self, sheet: &mut Sheet, layout: &Layout, is_steep: bool) {
        let side = layout.side;
        sheet.text((layout.left, 12.0), &self.column_title, Style::SMALL);
        sheet.text(
            (layout.left - 8.0, layout.top - 6.0),
            &self.row_title,
            Style::SMALL.at(Anchor::End),
        );
        // Where rows are closer than lines of text, every so many have a name.
        let every = (LINE / side).ceil().max(1.0) as usize;
        for (i, name) in self.rows.iter().enumerate().step_by(every) {
            let y = layout.top + side * (i as f64 + 0.5) + 4.0;
            sheet.text(
                (layout.left - 8.0, y),
                &fit(name, TEXT_SIZE, layout.left - 10.0),
                Style::TEXT.at(Anchor::End),
            );
        }
        for (j, name) in self.columns.iter().enumerate().step_by(every) {
            let x = layout.x(j) + side / 2.0;
            let style = Style::SMALL.in_colour(if j >= layout.apart_from {
                Colour::Muted
            } else {
                Colour::Text
            });
            if is_steep {
                let turn = format!(
                    r#" transform="rotate(-45 {} {})""#,
                    n(x),
                    n(layout.top - 6.0)
                );
                sheet.text_with(
                    (x, layout.top - 6.0),
                    &fit(name, SMALL_SIZE, 120.0),
                    style,
                    &turn,
                );
            } else {
                sheet.text((x, layout.top - 6.0), name, style.at(Anchor::Middle));
            }
        }
    }

    fn draw_cell(
        &self,
        sheet: &mut Sheet,
        layout: &Layout,
        (i, j): (usize, usize),
        cell: Option<&HeatCell>,
    ) {
        let x = layout.x(j);
        let y = layout.top + layout.side * i as f64;
        let side = layout.side;
        sheet.rect((x, y), (side - 1.5, side - 1.5), Colour::Shade, 1.0, "");
        let Some(cell) = cell else { return };
        let strength = cell.strength.clamp(-1.0, 1.0);
        let colour = if strength < 0.0 {
            Colour::Cold
        } else {
            Colour::Heat
        };
        let name = |names: &[String], i: usize| names.get(i).cloned().unwrap_or_default();
        let note = format!(
            "{} → {}: {} {}",
            name(&self.rows, i),
            name(&self.columns, j),
            cell.text,
            cell.below
        );
        sheet.rect(
            (x, y),
            (side - 1.5, side - 1.5),
            colour,
            strength.abs(),
            note.trim_end(),
        );
        if side < ROOM_FOR_TWO / 2.0 || text_width(&cell.text, SMALL_SIZE) > side {
            return;
        }
        let ink = if strength.abs() >= STRONG {
            Colour::OnHeat
        } else {
            Colour::Text
        };
        let has_two = side >= ROOM_FOR_TWO && !cell.below.is_empty();
        let middle = (
            x + side / 2.0 - 0.75,
            y + side / 2.0 + if has_two { -2.0 } else { 4.0 },
        );
        sheet.text(
            middle,
            &cell.text,
            Style::TEXT.in_colour(ink).at(Anchor::Middle),
        );
        if has_two {
            sheet.text(
                (middle.0, middle.1 + 14.0),
                &cell.below,
                Style {
                    size: 10.0,
                    ..Style::SMALL
                }
                .in_colour(ink)
                .at(Anchor::Middle),
            );
        }
    }
}

/// Where cells lie.
struct Layout {
    left: f64,
    top: f64,
    side: f64,
    gap: f64,
    apart_from: usize,
}

impl Layout {
    fn x(&self, column: usize) -> f64 {
        self.left
            + self.side * column as f64
            + if column >= self.apart_from {
                self.gap
            } else {
                0.0
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_confusion_matrix_sum_to_one_with_what_was_not_understood() {
        let labels = ["angry".to_owned(), "sad".to_owned()];
        let map = HeatMap::confusion(&labels, &[vec![6, 2, 2], vec![0, 0, 0]]);
        let row: Vec<(f64, &str, &str)> = map.cells[0]
            .iter()
            .flatten()
            .map(|cell| (cell.strength, cell.text.as_str(), cell.below.as_str()))
            .collect();
        assert_eq!(
            row,
            [(0.6, "6", "60 %"), (0.2, "2", "20 %"), (0.2, "2", "20 %")]
        );
        assert!(
            map.cells[1]
                .iter()
                .flatten()
                .all(|cell| cell.strength == 0.0),
            "a label without references divides nothing by nothing"
        );
    }
}
