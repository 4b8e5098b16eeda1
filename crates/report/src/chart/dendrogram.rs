//! Dendrograms: a tree of merges, leaves at the left, heights to the right.

use crate::chart::ink::Colour;
use crate::chart::ink::Ink;
use crate::chart::number;
use crate::chart::svg::Anchor;
use crate::chart::svg::SMALL_SIZE;
use crate::chart::svg::Sheet;
use crate::chart::svg::Style;
use crate::chart::svg::TEXT_SIZE;
use crate::sections::measure::fit;
use crate::sections::measure::text_width;
use maqam_stats::spectral::Merge;

/// A dendrogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dendrogram {
    /// Names of the leaves.
    pub names: Vec<String>,
    /// Group of each leaf, which gives its colour.
    pub groups: Vec<usize>,
    /// The merges; numbers below that of the leaves are leaves.
    pub merges: Vec<Merge>,
}

/// Height of a leaf.
const ROW: f64 = 24.0;

impl Dendrogram {
    /// The chart as SVG, at most `width` wide; `name` says what it shows.
    pub fn svg(&self, width: f64, ink: Ink, name: &str) -> String {
        let widest = self.names.iter().map(|name| text_width(name, TEXT_SIZE));
        let left = (widest.fold(0.0, f64::max) + 12.0).clamp(30.0, 0.4 * width);
        let right = width - text_width("0.00", SMALL_SIZE) - 6.0;
        let heights = self.merges.iter().map(|merge| merge.height);
        let largest = heights.fold(f64::MIN_POSITIVE, f64::max);
        let x = |height: f64| left + (right - left) * (height / largest).clamp(0.0, 1.0);

        let mut sheet = Sheet::new(width, ink);
        let mut ends: Vec<(f64, f64)> = vec![(0.0, 0.0); self.names.len()];
        for (row, leaf) in self.leaves().into_iter().enumerate() {
            let y = ROW * (row as f64 + 0.5);
            let colour = Colour::Series(self.groups.get(leaf).copied().unwrap_or_default());
            let label = fit(&self.names[leaf], TEXT_SIZE, left - 10.0);
            let style = Style::TEXT.at(Anchor::End).in_colour(colour);
            sheet.text((left - 6.0, y + 4.0), &label, style);
            ends[leaf] = (left, y);
        }
        for merge in &self.merges {
            let at = x(merge.height);
            let [a, b] = merge.branches.map(|branch| ends[branch]);
            sheet.line(a, (at, a.1), Colour::Muted, "");
            sheet.line(b, (at, b.1), Colour::Muted, "");
            sheet.line((at, a.1), (at, b.1), Colour::Muted, "");
            let label = number::short(merge.height);
            let middle = (a.1 + b.1) / 2.0;
            sheet.text((at + 3.0, middle + 4.0), &label, Style::SMALL);
            ends.push((at, middle));
        }
        sheet.finish(ROW * self.names.len() as f64 + 4.0, name)
    }

    /// The leaves so that no two lines cross: those of a branch beside each other.
    fn leaves(&self) -> Vec<usize> {
        let mut below: Vec<Vec<usize>> = (0..self.names.len()).map(|leaf| vec![leaf]).collect();
        for merge in &self.merges {
            let [a, b] = merge.branches;
            below.push([below[a].clone(), below[b].clone()].concat());
        }
        below.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_lie_beside_each_other() {
        let merge = |branches, height| Merge { branches, height };
        let chart = Dendrogram {
            names: ["asr", "emotion", "dialect", "a <b>"]
                .map(String::from)
                .into(),
            groups: vec![0, 1, 1, 0],
            merges: vec![merge([0, 3], 0.25), merge([1, 2], 0.5), merge([4, 5], 1.5)],
        };
        assert_eq!(chart.leaves(), [0, 3, 1, 2]);
        let svg = chart.svg(360.0, Ink::Page, "tree");
        assert_eq!(svg.matches("<line").count(), 9);
        assert!(
            svg.contains("a &lt;b&gt;") && svg.contains(">1.5<"),
            "{svg}"
        );
    }
}
