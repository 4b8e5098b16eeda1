//! Tables for a terminal, and the numbers in them: words to the left, numbers to the right, columns
//! as wide as their widest cell.

use unicode_width::UnicodeWidthStr;

use crate::error::brief;

/// Between two columns.
const GAP: &str = "  ";

/// What stands where nothing is known.
pub const NOTHING: &str = "-";

/// Width of a terminal that everything fits.
pub const WIDTH: usize = 110;

/// A number with its noun, which takes an `s` unless the number is 1.
pub fn counted(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// Lines of cells. The first line may name the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextTable {
    rows: Vec<Vec<String>>,
    num_words: usize,
    least_width: usize,
    indent: &'static str,
}

impl TextTable {
    /// A table of these lines, whose first `num_words` columns hold words; the others hold numbers.
    pub fn new(num_words: usize, rows: Vec<Vec<String>>) -> Self {
        Self {
            rows,
            num_words,
            least_width: 0,
            indent: "",
        }
    }

    /// The same with long cells shown by their beginning: see [`brief`].
    #[must_use]
    pub fn brief(mut self) -> Self {
        for cell in self.rows.iter_mut().flatten() {
            *cell = brief(cell).into_owned();
        }
        self
    }

    /// The same with columns of numbers at least this wide.
    #[must_use]
    pub fn least_width(self, least_width: usize) -> Self {
        Self {
            least_width,
            ..self
        }
    }

    /// The same with every line after `indent`.
    #[must_use]
    pub fn indent(self, indent: &'static str) -> Self {
        Self { indent, ..self }
    }

    /// The lines, each with its end.
    pub fn text(&self) -> String {
        let columns: Vec<usize> = (0..self.widths().len()).collect();
        self.lines(&columns)
    }

    /// The lines in blocks that are at most `width` wide, where columns are not wider by
    /// themselves. Every block begins with the columns of words; an empty line stands between two.
    pub fn text_within(&self, width: usize) -> String {
        let widths = self.widths();
        let words: usize = widths.iter().take(self.num_words).sum();
        let mut blocks = Vec::new();
        let mut next = self.num_words.min(widths.len());
        while next < widths.len() {
            let mut taken = words;
            let fitting = widths[next..].iter().take_while(|column| {
                taken += *column + GAP.len();
                taken <= width
            });
            let end = next + fitting.count().max(1);
            let columns: Vec<usize> = (0..self.num_words).chain(next..end).collect();
            blocks.push(self.lines(&columns));
            next = end;
        }
        blocks.join("\n")
    }

    /// Widths of the columns, as a terminal shows them.
    fn widths(&self) -> Vec<usize> {
        let num_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = Vec::with_capacity(num_columns);
        for column in 0..num_columns {
            let least = match column < self.num_words {
                true => 0,
                false => self.least_width,
            };
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            widths.push(cells.map(|cell| cell.width()).fold(least, usize::max));
        }
        widths
    }

    /// The lines over some of the columns.
    fn lines(&self, columns: &[usize]) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for row in &self.rows {
            let mut cells = Vec::with_capacity(columns.len());
            for &column in columns {
                let Some(cell) = row.get(column) else {
                    continue;
                };
                let blank = " ".repeat(widths[column].saturating_sub(cell.width()));
                cells.push(match column < self.num_words {
                    true => format!("{cell}{blank}"),
                    false => format!("{blank}{cell}"),
                });
            }
            let line = format!("{}{}", self.indent, cells.join(GAP));
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Text in lines of at most [`WIDTH`], each after `indent`.
pub fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && indent.chars().count() + last + 1 + word.chars().count() > WIDTH {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
        .into_iter()
        .map(|line| format!("{indent}{line}\n"))
        .collect()
}

/// A share in per cent.
pub fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 {
        format!("{:.1}", 100.0 * part / whole)
    } else {
        NOTHING.to_owned()
    }
}

/// A whole number with commas.
pub fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0.0 && text != "0" {
        format!("-{text}")
    } else {
        text
    }
}

/// A length of audio or time, in the unit that reads best.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.1} s"),
        s if s < 99.5 * 60.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[&[&str]]) -> TextTable {
        let cells = |row: &&[&str]| row.iter().map(|cell| (*cell).to_owned()).collect();
        TextTable::new(1, rows.iter().map(cells).collect())
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let table = table(&[&["", "n"], &["asr", "1,000"], &["نَعَم", "3"]]);
        // Marks stand above letters and take no column.
        assert_eq!(table.text(), "         n\nasr  1,000\nنَعَم      3\n");
        let wide = table.least_width(7).indent("  ");
        assert_eq!(
            wide.text(),
            "             n\n  asr    1,000\n  نَعَم        3\n"
        );
    }

    #[test]
    fn columns_that_do_not_fit_go_below() {
        let table = table(&[&["", "first", "second"], &["a", "1", "2"]]);
        let expected = "   first\na      1\n\n   second\na       2\n";
        assert_eq!(table.text_within(10), expected);
        assert_eq!(table.text_within(16), table.text());
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0.0, 999.0, 1000.0, 1_234_567.4].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [1.04, 120.0, 7200.0].map(duration),
            ["1.0 s", "2.0 min", "2.0 h"]
        );
        assert_eq!(
            (percent(1.0, 8.0), percent(0.0, 0.0)),
            ("12.5".into(), "-".into())
        );
    }

    #[test]
    fn long_text_is_broken_between_words() {
        let text = wrapped(&"word ".repeat(60), "    ");
        assert!(
            text.lines().count() == 3
                && text
                    .lines()
                    .all(|line| line.chars().count() <= WIDTH && line.starts_with("    word")),
            "{text}"
        );
    }
}
