//! Figures: one chart or several beside each other, with a title and a caption.

use crate::chart::bars::BarChart;
use crate::chart::dendrogram::Dendrogram;
use crate::chart::heat::HeatMap;
use crate::chart::ink;
use crate::chart::ink::Colour;
use crate::chart::ink::Ink;
use crate::chart::lines::LineChart;
use crate::chart::scatter::Scatter;
use crate::chart::svg::Sheet;
use crate::chart::svg::Style;
use crate::chart::svg::n;
use crate::chart::timeline::Timeline;
use crate::sections::measure::FONTS;
use crate::sections::measure::fit;

/// A chart of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Chart {
    /// Curves.
    Lines(LineChart),
    /// Horizontal bars.
    Bars(BarChart),
    /// A matrix.
    Heat(HeatMap),
    /// A tree of merges.
    Dendrogram(Dendrogram),
    /// Points in the plane.
    Scatter(Scatter),
    /// The stages of a curriculum.
    Timeline(Timeline),
}

impl Chart {
    /// The chart as SVG, at most `width` wide; `name` says what it shows.
    pub fn svg(&self, width: f64, ink: Ink, name: &str) -> String {
        match self {
            Self::Lines(chart) => chart.svg(width, ink, name),
            Self::Bars(chart) => chart.svg(width, ink, name),
            Self::Heat(chart) => chart.svg(width, ink, name),
            Self::Dendrogram(chart) => chart.svg(width, ink, name),
            Self::Scatter(chart) => chart.svg(width, ink, name),
            Self::Timeline(chart) => chart.svg(width, ink, name),
        }
    }
}

/// A chart with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What distinguishes it from its neighbours; empty where it stands alone.
    pub title: String,
    /// The chart.
    pub chart: Chart,
}

/// Charts that are seen together.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Name in links and of its file: letters, digits and hyphens.
    pub id: String,
    /// What it shows, in a few words.
    pub title: String,
    /// How to read it, in sentences.
    pub caption: String,
    /// Its charts.
    pub panels: Vec<Panel>,
}

/// Width of a chart that stands alone on a page, on a screen and on a telephone, and of one of
/// several.
const WIDE: f64 = 760.0;
const NARROW: f64 = 360.0;
/// Between the charts of a file.
const GAP: f64 = 28.0;

impl Figure {
    /// A figure of one chart.
    pub fn new(
        id: impl Into<String>,
        title: impl Into<String>,
        caption: impl Into<String>,
        chart: Chart,
    ) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            caption: caption.into(),
            panels: vec![Panel {
                title: String::new(),
                chart,
            }],
        }
    }

    /// A figure of several charts.
    pub fn of_panels(
        id: impl Into<String>,
        title: impl Into<String>,
        caption: impl Into<String>,
        panels: Vec<(String, Chart)>,
    ) -> Self {
        let panels = panels
            .into_iter()
            .map(|(title, chart)| Panel { title, chart })
            .collect();
        Self {
            id: id.into(),
            title: title.into(),
            caption: caption.into(),
            panels,
        }
    }

    /// The charts for a page: those of several at one width, one alone at two, of which the page
    /// shows the one that has room.
    pub fn for_page(&self) -> Vec<(String, Vec<(&'static str, String)>)> {
        let draw =
            |panel: &Panel, width: f64| panel.chart.svg(width, Ink::Page, &self.name_of(panel));
        match self.panels.as_slice() {
            [one] => vec![(
                one.title.clone(),
                vec![("wide", draw(one, WIDE)), ("narrow", draw(one, NARROW))],
            )],
            several => several
                .iter()
                .map(|panel| (panel.title.clone(), vec![("small", draw(panel, NARROW))]))
                .collect(),
        }
    }

    /// The figure as an SVG file of its own, in colours for light paper and, on dark screens, for
    /// dark.
    pub fn file(&self) -> String {
        let columns = match self.panels.len() {
            1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        let width = if columns == 1 { WIDE } else { NARROW };
        let drawn: Vec<(String, String, f64, f64)> = self
            .panels
            .iter()
            .map(|panel| {
                let svg = panel.chart.svg(width, Ink::File, &self.name_of(panel));
                let (w, h) = size_of(&svg);
                (panel.title.clone(), svg, w, h)
            })
            .collect();
        let total = GAP + columns as f64 * (width + GAP);
        let mut sheet = Sheet::new(total, Ink::File);
        sheet.put(&format!("<style>{}</style>", ink::dark_rules()));
        sheet.put(&format!(
            r##"<rect width="100%" height="100%" fill="{}"/>"##,
            Ink::File.of(Colour::Paper)
        ));
        sheet.text(
            (GAP, GAP + 6.0),
            &fit(&self.title, 16.0, total - 2.0 * GAP),
            Style {
                size: 16.0,
                ..Style::TEXT
            }
            .bold(),
        );
        let mut top = GAP + 24.0;
        for row in drawn.chunks(columns) {
            let has_titles = row.iter().any(|(title, ..)| !title.is_empty());
            let below = top + if has_titles { 22.0 } else { 0.0 };
            for (i, (title, svg, ..)) in row.iter().enumerate() {
                let x = GAP + i as f64 * (width + GAP);
                sheet.text(
                    (x, top + 12.0),
                    &fit(title, 13.0, width),
                    Style {
                        size: 13.0,
                        ..Style::TEXT
                    }
                    .bold(),
                );
                // An SVG inside an SVG stands where its x and y say.
                sheet.put(
                    &svg.replacen(
                        "<svg ",
                        &format!(r#"<svg x="{}" y="{}" "#, n(x), n(below)),
                        1,
                    )
                    .replace(&format!(" font-family=\"{FONTS}\""), ""),
                );
            }
            top = below + row.iter().map(|(.., height)| *height).fold(0.0, f64::max) + GAP;
        }
        sheet.finish(top, &self.title)
    }

    fn name_of(&self, panel: &Panel) -> String {
        if panel.title.is_empty() {
            self.title.clone()
        } else {
            format!("{}: {}", self.title, panel.title)
        }
    }
}

/// Width and height that a chart says in its first line.
fn size_of(svg: &str) -> (f64, f64) {
    let number = |name: &str| {
        let (_, rest) = svg.split_once(&format!(" {name}=\""))?;
        rest.split_once('"')?.0.parse().ok()
    };
    (
        number("width").unwrap_or(WIDE),
        number("height").unwrap_or(0.0),
    )
}

/// A name made fit for links and files: small letters, digits and hyphens, never empty.
pub fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            _ if slug.ends_with('-') || slug.is_empty() => {}
            _ => slug.push('-'),
        }
    }
    match slug.trim_end_matches('-') {
        // Names in other scripts are told apart by their hash.
        "" => format!(
            "n{:08x}",
            maqam_base::seed::Key::new(0, name).bits(0) as u32
        ),
        kept => kept.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_every_panel_in_its_place() {
        let chart = || Chart::Lines(LineChart::default());
        let figure = Figure::of_panels(
            "a",
            "Title & more",
            "",
            vec![
                ("one".into(), chart()),
                ("two".into(), chart()),
                ("three".into(), chart()),
            ],
        );
        let file = figure.file();
        assert_eq!(file.matches("<svg ").count(), 4);
        assert!(
            file.contains("Title &amp; more")
                && file.matches("font-family").count() == 1
                && !file.contains("var("),
            "{file}"
        );
        assert!(
            figure
                .for_page()
                .iter()
                .all(|(_, drawn)| drawn.len() == 1 && drawn[0].1.contains("var(--"))
        );
    }

    #[test]
    fn names_become_links() {
        assert_eq!(
            [slug("Dev scores (WER)"), slug("a__b")],
            ["dev-scores-wer", "a-b"]
        );
        assert!(slug("لهجة").starts_with('n') && slug("لهجة") != slug("مشاعر"));
    }
}
