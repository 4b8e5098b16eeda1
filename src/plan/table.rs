//! A table of words and numbers, as text for a terminal; an HTML page shows the same.

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// How to read it, in a sentence; may be empty.
    pub note: String,
    /// Names of the columns, and how many at the left hold words.
    pub columns: Vec<String>,
    /// How many columns at the left hold words; the others hold numbers.
    pub num_words: usize,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// Between two columns.
const GAP: &str = "  ";

/// What stands where nothing is known.
pub const NOTHING: &str = "-";

impl Table {
    /// A table without rows.
    pub fn new(
        title: impl Into<String>,
        note: impl Into<String>,
        columns: &[&str],
        num_words: usize,
    ) -> Self {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Self {
            title: title.into(),
            note: note.into(),
            columns,
            num_words,
            rows: Vec::new(),
        }
    }

    /// The table as lines: words at the left, numbers at the right, a title above and the note below it.
    pub fn text(&self) -> String {
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let width = |column: usize| {
            lines()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cell = |(column, cell): (usize, &String)| {
                let blank = " ".repeat(widths[column] - cell.chars().count());
                if column < self.num_words {
                    format!("{cell}{blank}")
                } else {
                    format!("{blank}{cell}")
                }
            };
            format!(
                "  {}",
                row.iter()
                    .enumerate()
                    .map(cell)
                    .collect::<Vec<_>>()
                    .join(GAP)
            )
            .trim_end()
            .to_owned()
                + "\n"
        };
        let mut text = format!("{}\n", self.title);
        if !self.note.is_empty() {
            text += &wrapped(&self.note, "  ");
        }
        lines().for_each(|row| text += &line(row));
        text
    }
}

/// Width of a terminal that everything fits.
pub const WIDTH: usize = 110;

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

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new("shares", "a note", &["task", "n"], 1);
        table.rows = vec![
            vec!["asr".into(), "1,000".into()],
            vec!["emotion".into(), "3".into()],
        ];
        assert_eq!(
            table.text(),
            "shares\n  a note\n  task         n\n  asr      1,000\n  emotion      3\n"
        );
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
