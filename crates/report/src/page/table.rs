//! Tables: written once, read as HTML, as Markdown and as LaTeX.

use crate::chart::ink::Ink;
use crate::chart::number::NOTHING;
use crate::chart::number::Unit;
use crate::chart::spark::sparkline;
use crate::page::escape;
use crate::page::escape::ISOLATE;
use crate::page::escape::is_right_to_left;
use crate::sections::measure::text_width;
use maqam_stats::significance::Interval;

/// One column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// What stands above it.
    pub name: String,
    /// Whether it holds numbers, which stand at the right.
    pub is_number: bool,
}

impl Column {
    /// Attribute of its cells in HTML.
    fn class(&self) -> &'static str {
        match self.is_number {
            true => " class=\"number\"",
            false => "",
        }
    }

    /// A column of words.
    pub fn text(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            is_number: false,
        }
    }

    /// A column of numbers.
    pub fn number(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            is_number: true,
        }
    }
}

/// A score in a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// The number.
    pub value: f64,
    /// How it is written.
    pub unit: Unit,
    /// How sure it is.
    pub interval: Option<Interval>,
    /// Its difference from what it is compared with.
    pub difference: Option<f64>,
    /// Whether that difference is for the better.
    pub is_better: Option<bool>,
    /// Marks of significance.
    pub marks: String,
    /// Whether it is the best of its kind.
    pub is_best: bool,
}

impl Score {
    /// A bare number.
    pub fn new(value: f64, unit: Unit) -> Self {
        Self {
            value,
            unit,
            ..Self::default()
        }
    }

    fn interval_text(&self) -> Option<String> {
        self.interval.map(|interval| {
            format!(
                "[{}, {}]",
                self.unit.format(interval.low),
                self.unit.format(interval.high)
            )
        })
    }

    fn difference_text(&self) -> Option<String> {
        self.difference
            .map(|difference| format!("{}{}", self.unit.format_signed(difference), self.marks))
    }

    /// The marks where no difference carries them.
    fn own_marks(&self) -> &str {
        if self.difference.is_some() {
            ""
        } else {
            &self.marks
        }
    }
}

/// One cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing is known.
    Empty,
    /// Words.
    Text(String),
    /// Words as a program reads them.
    Code(String),
    /// A number with what is known of it.
    Score(Score),
    /// A small curve; on a page only.
    Curve(Vec<(f64, f64)>),
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A bare number, or nothing where it is none.
    pub fn number(value: f64, unit: Unit) -> Self {
        if value.is_finite() {
            Self::Score(Score::new(value, unit))
        } else {
            Self::Empty
        }
    }

    fn is_curve(&self) -> bool {
        matches!(self, Self::Curve(_))
    }

    fn html(&self) -> String {
        match self {
            Self::Empty => format!("<span class=\"nothing\">{NOTHING}</span>"),
            // Text in another direction than the page's keeps to itself.
            Self::Text(text) if text.contains(ISOLATE) => escape::xml(text),
            Self::Text(text) if text.chars().any(is_right_to_left) => {
                format!("<bdi>{}</bdi>", escape::xml(text))
            }
            Self::Text(text) => escape::xml(text),
            Self::Code(text) => format!("<code>{}</code>", escape::xml(text)),
            Self::Score(score) => score_html(score),
            Self::Curve(points) => sparkline(points, Ink::Page, "its course"),
        }
    }

    fn markdown(&self) -> String {
        match self {
            Self::Empty => NOTHING.to_owned(),
            Self::Text(text) => escape::markdown(text),
            Self::Code(text) if text.is_empty() => String::new(),
            Self::Code(text) => markdown_code(text),
            Self::Score(score) => {
                let number = score.unit.format(score.value);
                let number = if score.is_best {
                    format!("**{number}**")
                } else {
                    number
                };
                let rest = [
                    score.interval_text(),
                    score.difference_text().map(|text| format!("({text})")),
                ];
                let words =
                    std::iter::once(number + score.own_marks()).chain(rest.into_iter().flatten());
                // An asterisk that marks is no asterisk that emphasises.
                words
                    .enumerate()
                    .map(|(i, word)| {
                        if i == 0 {
                            word
                        } else {
                            format!(" {}", word.replace('*', "\\*"))
                        }
                    })
                    .collect()
            }
            Self::Curve(_) => String::new(),
        }
    }

    fn latex(&self) -> String {
        match self {
            Self::Empty => "--".to_owned(),
            Self::Text(text) => escape::latex(text),
            Self::Code(text) => format!(r"\texttt{{{}}}", escape::latex(text)),
            Self::Score(score) => {
                let number = escape::latex(&score.unit.format(score.value));
                let number = if score.is_best {
                    format!(r"\textbf{{{number}}}")
                } else {
                    number
                };
                let mut text = number + &latex_marks(score.own_marks());
                if let Some(interval) = score.interval_text() {
                    text += &format!(r" {{\scriptsize {}}}", escape::latex(&interval));
                }
                if let Some(difference) = score.difference {
                    text += &format!(
                        r" {{\scriptsize ({}{})}}",
                        escape::latex(&score.unit.format_signed(difference)),
                        latex_marks(&score.marks)
                    );
                }
                text
            }
            Self::Curve(_) => String::new(),
        }
    }
}

/// Marks of a score, above the line.
fn latex_marks(marks: &str) -> String {
    match marks {
        "" => String::new(),
        marks => format!("$^{{{marks}}}$"),
    }
}

fn score_html(score: &Score) -> String {
    let number = score.unit.format(score.value);
    let mut html = if score.is_best {
        format!("<b>{number}</b>")
    } else {
        number
    };
    html += &escape::xml(score.own_marks());
    if let Some(interval) = score.interval_text() {
        html += &format!(" <span class=\"interval\">{interval}</span>");
    }
    if let Some(difference) = score.difference_text() {
        let class = match score.is_better {
            Some(true) => "better",
            Some(false) => "worse",
            None => "same",
        };
        html += &format!(" <span class=\"{class}\">{difference}</span>");
    }
    html
}

/// Code in a table: a longer fence where the text holds backticks, and a bar that ends no cell.
fn markdown_code(text: &str) -> String {
    let text = text
        .replace(|c: char| c.is_control(), " ")
        .replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let space = if longest > 0 { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Name in links and of its file: letters, digits and hyphens.
    pub id: String,
    /// What it shows, in a few words.
    pub title: String,
    /// How to read it, in sentences.
    pub caption: String,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, as long as there are columns.
    pub rows: Vec<Vec<Cell>>,
    /// Places of rows above which a rule is drawn.
    pub rules: Vec<usize>,
}

impl Table {
    /// An empty table.
    pub fn new(
        id: impl Into<String>,
        title: impl Into<String>,
        caption: impl Into<String>,
        columns: Vec<Column>,
    ) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            caption: caption.into(),
            columns,
            ..Self::default()
        }
    }

    /// Adds a row; `has_rule` draws a line above it.
    pub fn row(&mut self, has_rule: bool, cells: Vec<Cell>) {
        if has_rule && !self.rows.is_empty() {
            self.rules.push(self.rows.len());
        }
        self.rows.push(cells);
    }

    /// The table as HTML, without its title and caption. One that is wider than a printed page is
    /// written twice: whole, to scroll on a screen, and for paper in pieces that fit, each with the
    /// first columns of words.
    pub fn html(&self) -> String {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let pieces = self.pieces();
        if pieces.len() == 1 {
            let class = if self.is_dense() {
                "scroll dense"
            } else {
                "scroll"
            };
            return format!(
                "<div class=\"{class}\" tabindex=\"0\">\n{}</div>\n",
                self.html_of(&all)
            );
        }
        let printed: String = pieces.iter().map(|piece| self.html_of(piece)).collect();
        format!(
            "<div class=\"scroll broad\" tabindex=\"0\">\n{}</div>\n<div class=\"printed\">\n{printed}</div>\n",
            self.html_of(&all)
        )
    }

    /// Whether the table is wider than a printed page.
    pub fn is_wide(&self) -> bool {
        self.pieces().len() > 1
    }

    /// Whether the table is wider than a screen's column, so that intervals and differences go
    /// below their scores there too.
    fn is_dense(&self) -> bool {
        let widths = (0..self.columns.len()).map(|column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(line_width).fold(0.0, f64::max);
            widest.max(text_width(&self.columns[column].name, SCREEN_SIZE)) + SPACE
        });
        widths.sum::<f64>() > SCREEN
    }

    /// The columns of each piece that fits on a printed page: the first columns of words in each,
    /// the others divided between them.
    fn pieces(&self) -> Vec<Vec<usize>> {
        let widths: Vec<f64> = (0..self.columns.len()).map(|i| self.width(i)).collect();
        let fits = |columns: &[usize]| columns.iter().map(|&i| widths[i]).sum::<f64>() <= PAGE;
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let num_words = self
            .columns
            .iter()
            .take_while(|column| !column.is_number)
            .count();
        // Words alone wrap; there is nothing to divide.
        if fits(&all) || num_words == self.columns.len() {
            return vec![all];
        }
        let (first, rest) = all.split_at(num_words);
        let mut pieces: Vec<Vec<usize>> = Vec::new();
        for &column in rest {
            let last = pieces.last_mut();
            match last {
                Some(piece) if fits(&[piece.as_slice(), &[column]].concat()) => piece.push(column),
                _ => pieces.push([first, &[column]].concat()),
            }
        }
        pieces
    }

    /// Width of a column on paper, in pixels, its space included.
    fn width(&self, column: usize) -> f64 {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(cell_width).fold(0.0, f64::max);
        // The words of a heading stand below each other where its cells are narrow.
        let heading = self.columns[column].name.split(' ');
        let heading = heading.map(|word| text_width(word, PRINTED_SIZE));
        widest.max(heading.fold(0.0, f64::max)) + SPACE
    }

    fn html_of(&self, columns: &[usize]) -> String {
        let mut html = String::from("<table>\n<thead><tr>");
        for column in columns.iter().map(|&i| &self.columns[i]) {
            html += &format!(
                "<th scope=\"col\"{}>{}</th>",
                column.class(),
                escape::xml(&column.name)
            );
        }
        html += "</tr></thead>\n<tbody>\n";
        for (i, row) in self.rows.iter().enumerate() {
            html += if self.rules.contains(&i) {
                "<tr class=\"rule\">"
            } else {
                "<tr>"
            };
            let cells = columns
                .iter()
                .filter_map(|&i| Some((row.get(i)?, &self.columns[i])));
            for (cell, column) in cells {
                let class = if is_long(cell) {
                    " class=\"long\""
                } else {
                    column.class()
                };
                html += &format!("<td{class}{}>{}</td>", sort_key(cell), cell.html());
            }
            html += "</tr>\n";
        }
        html + "</tbody>\n</table>\n"
    }

    /// The table as a Markdown table; small curves are left out.
    pub fn markdown(&self) -> String {
        let kept = self.kept_columns();
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(
            kept.iter()
                .map(|&i| escape::markdown(&self.columns[i].name))
                .collect(),
        );
        text += &line(
            kept.iter()
                .map(|&i| {
                    if self.columns[i].is_number {
                        "---:"
                    } else {
                        ":---"
                    }
                    .to_owned()
                })
                .collect(),
        );
        for row in &self.rows {
            text += &line(
                kept.iter()
                    .map(|&i| row.get(i).map_or(String::new(), Cell::markdown))
                    .collect(),
            );
        }
        text
    }

    /// The table for LaTeX with `booktabs`: a `table` with caption and label; small curves are left
    /// out.
    pub fn latex(&self) -> String {
        let kept = self.kept_columns();
        let line = |cells: Vec<String>| {
            let text = cells.join(" & ");
            // After the end of a row a bracket or an asterisk would be taken for its argument.
            format!(
                "    {}{text} \\\\\n",
                if text.starts_with(['[', '*']) {
                    "{}"
                } else {
                    ""
                }
            )
        };
        let columns: String = kept
            .iter()
            .map(|&i| if self.columns[i].is_number { 'r' } else { 'l' })
            .collect();
        let title = self.title.trim_end_matches('.');
        let caption = if self.caption.is_empty() {
            format!("{title}.")
        } else {
            format!("{title}. {}", self.caption)
        };
        let mut text = "% Needs \\usepackage{booktabs} and, for quotation marks, \\usepackage[T1]{fontenc}.\n\\begin{table}\n  \\centering\n".to_owned();
        text += &format!(
            "  \\caption{{{}}}\n  \\label{{tab:{}}}\n  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n",
            escape::latex(&caption),
            self.id
        );
        text += &line(
            kept.iter()
                .map(|&i| escape::latex(&self.columns[i].name))
                .collect(),
        );
        text += "    \\midrule\n";
        for (i, row) in self.rows.iter().enumerate() {
            if self.rules.contains(&i) {
                text += "    \\midrule\n";
            }
            text += &line(
                kept.iter()
                    .map(|&i| row.get(i).map_or(String::new(), Cell::latex))
                    .collect(),
            );
        }
        text + "    \\bottomrule\n  \\end{tabular}\n\\end{table}\n"
    }

    /// The columns that are not small curves alone.
    fn kept_columns(&self) -> Vec<usize> {
        let has_others = |i: &usize| !self.is_curves(*i);
        (0..self.columns.len()).filter(has_others).collect()
    }

    /// Whether a column has small curves, and nothing else.
    fn is_curves(&self, column: usize) -> bool {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let mut cells = cells.filter(|cell| **cell != Cell::Empty).peekable();
        cells.peek().is_some() && cells.all(Cell::is_curve)
    }
}

/// Width of a printed page between its margins, in pixels: A4 with margins of a centimetre, as
/// browsers print.
const PAGE: f64 = 700.0;
/// Size of a table's font on paper, in pixels.
const PRINTED_SIZE: f64 = 11.5;
/// Space between two columns, in pixels.
const SPACE: f64 = 14.0;

/// Width of a cell on paper, in pixels; an interval and a difference stand below their score, long
/// text is wrapped.
fn cell_width(cell: &Cell) -> f64 {
    match cell {
        Cell::Empty => text_width(NOTHING, PRINTED_SIZE),
        Cell::Text(text) | Cell::Code(text) if text.chars().count() > LONG => WRAPPED,
        Cell::Text(text) | Cell::Code(text) => {
            let words = text.split([' ', '-']);
            let longest_word = words
                .map(|word| text_width(word, PRINTED_SIZE))
                .fold(0.0, f64::max);
            text_width(text, PRINTED_SIZE).min(longest_word.max(NARROWEST))
        }
        Cell::Curve(_) => 90.0,
        Cell::Score(score) => {
            let number = score.unit.format(score.value) + score.own_marks();
            let below = [score.interval_text(), score.difference_text()];
            std::iter::once(number)
                .chain(below.into_iter().flatten())
                .map(|text| text_width(&text, PRINTED_SIZE))
                .fold(0.0, f64::max)
        }
    }
}

/// Width of a cell on a screen in one line, in pixels.
fn line_width(cell: &Cell) -> f64 {
    match cell {
        Cell::Score(score) => {
            let number = score.unit.format(score.value) + score.own_marks();
            let beside = [score.interval_text(), score.difference_text()];
            std::iter::once(number)
                .chain(beside.into_iter().flatten())
                .map(|text| text_width(&text, SCREEN_SIZE) + WORD_SPACE)
                .sum()
        }
        Cell::Text(text) | Cell::Code(text) if text.chars().count() <= LONG => {
            text_width(text, SCREEN_SIZE)
        }
        other => cell_width(other),
    }
}

/// Width of a column of words on paper that its words can be broken to, in pixels.
const NARROWEST: f64 = 76.0;

/// Width of a page's column on a large screen, its size of letters and its space between words, in
/// pixels.
const SCREEN: f64 = 815.0;
const SCREEN_SIZE: f64 = 14.0;
const WORD_SPACE: f64 = 4.0;

/// Width that wrapped text takes on paper, in pixels.
const WRAPPED: f64 = 170.0;

/// Text of more characters than this is broken into lines.
const LONG: usize = 32;

fn is_long(cell: &Cell) -> bool {
    matches!(cell, Cell::Text(text) | Cell::Code(text) if text.chars().count() > LONG)
}

/// What a cell is sorted by, where that is not its text.
fn sort_key(cell: &Cell) -> String {
    match cell {
        Cell::Score(score) if score.value.is_finite() => format!(" data-key=\"{}\"", score.value),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(
            "t",
            "A & B",
            "50% of it.",
            vec![
                Column::text("run_1"),
                Column::number("WER % ↓"),
                Column::text("course"),
            ],
        );
        let score = Score {
            value: 0.0826,
            unit: Unit::Percent,
            interval: Interval::new(0.07, 0.1),
            difference: Some(-0.0176),
            is_better: Some(true),
            marks: "**".to_owned(),
            is_best: true,
        };
        table.row(
            false,
            vec![
                Cell::text("a|b <i>"),
                Cell::Score(score),
                Cell::Curve(vec![(0.0, 1.0), (1.0, 0.5)]),
            ],
        );
        table.row(
            true,
            vec![Cell::Code("x`y|z".to_owned()), Cell::Empty, Cell::Empty],
        );
        table
    }

    #[test]
    fn markdown_reads_as_a_table() {
        let expected = "| run\\_1 | WER % ↓ |\n| :--- | ---: |\n| a\\|b &lt;i&gt; | **8.3** [7.0, 10.0] (−1.8\\*\\*) |\n| `` x`y\\|z `` | – |\n";
        assert_eq!(table().markdown(), expected);
    }

    #[test]
    fn latex_compiles_by_the_rules_of_booktabs() {
        let latex = table().latex();
        for expected in [
            r"\caption{A \& B. 50\% of it.}",
            r"\begin{tabular}{lr}",
            r"run\_1 & WER \% $\downarrow$ \\",
            r"a\textbar{}b \textless{}i\textgreater{} & \textbf{8.3} {\scriptsize [7.0, 10.0]} {\scriptsize ($-$1.8$^{**}$)} \\",
            r"\midrule",
            r"\texttt{x`y\textbar{}z} & -- \\",
        ] {
            assert!(latex.contains(expected), "{expected}\n{latex}");
        }
        assert_eq!(latex.matches(r"\midrule").count(), 2);
        assert_eq!(latex.matches('{').count(), latex.matches('}').count());
    }

    #[test]
    fn a_wide_table_is_printed_in_pieces_without_a_loss() {
        let mut columns = vec![Column::text("set"), Column::text("metric")];
        columns.extend((0..12).map(|i| Column::number(format!("system-{i}"))));
        let mut wide = Table::new("t", "T", "", columns);
        let score = |i: usize| {
            Cell::Score(Score {
                interval: Interval::new(0.1, 0.2),
                ..Score::new(0.01 * i as f64, Unit::Percent)
            })
        };
        let names = [Cell::text("words"), Cell::text("WER % ↓")];
        wide.row(false, names.into_iter().chain((0..12).map(score)).collect());
        let pieces = wide.pieces();
        assert!(wide.is_wide() && pieces.len() > 1, "{pieces:?}");
        for piece in &pieces {
            assert_eq!(piece[..2], [0, 1], "every piece says what its rows are");
            assert!(piece.iter().map(|&i| wide.width(i)).sum::<f64>() <= PAGE);
        }
        let shown: Vec<usize> = pieces
            .iter()
            .flat_map(|piece| piece[2..].to_vec())
            .collect();
        assert_eq!(shown, (2..14).collect::<Vec<_>>());
        let html = wide.html();
        assert_eq!(
            html.matches("system-7").count(),
            2,
            "on a screen and on paper"
        );
        assert!(!table().is_wide());
    }

    #[test]
    fn words_wrap_before_a_table_is_divided() {
        let columns = vec![
            Column::text("set, metric"),
            Column::text("system"),
            Column::text("better than"),
            Column::number("score"),
            Column::number("difference"),
            Column::text("answer"),
        ];
        let mut tests = Table::new("t", "T", "", columns);
        tests.row(
            false,
            [
                "dialects · accuracy % ↑",
                "a-long-name-for-a-system",
                "the commonest label, “MSA”",
                "38.0",
                "−61.5 [−119.8, −3.2]",
                "not significant",
            ]
            .map(Cell::text)
            .into(),
        );
        assert!(!tests.is_wide());
        assert!(tests.html().starts_with("<div class=\"scroll dense\""));

        let score = || {
            Cell::Score(Score {
                interval: Interval::new(0.1, 0.2),
                ..Score::new(0.15, Unit::Percent)
            })
        };
        let mut columns = vec![Column::text("system")];
        columns.extend((0..6).map(|i| Column::number(format!("score {i}"))));
        let mut dense = Table::new("t", "T", "", columns);
        let name = Cell::text("a-long-name-for-a-system");
        dense.row(
            false,
            std::iter::once(name)
                .chain((0..6).map(|_| score()))
                .collect(),
        );
        assert!(!dense.is_wide());
        assert!(dense.html().starts_with("<div class=\"scroll dense\""));
    }

    #[test]
    fn html_says_which_way_a_difference_goes() {
        let html = table().html();
        assert!(
            html.contains(
                "<td class=\"number\" data-key=\"0.0826\"><b>8.3</b> <span class=\"interval\">[7.0, 10.0]</span> <span class=\"better\">−1.8**</span></td>"
            ),
            "{html}"
        );
        assert!(
            html.contains("a|b &lt;i&gt;")
                && html.contains("<tr class=\"rule\">")
                && html.contains("<svg")
        );
    }
}
