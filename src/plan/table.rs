//! A table of words and numbers, as text for a terminal; an HTML page shows the same.

use crate::text_table::TextTable;
use crate::text_table::wrapped;

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

    /// The table as lines: words at the left, numbers at the right, a title above and the note
    /// below it.
    pub fn text(&self) -> String {
        let rows = std::iter::once(&self.columns).chain(&self.rows);
        let lines = TextTable::new(self.num_words, rows.cloned().collect()).indent("  ");
        let mut text = format!("{}\n", self.title);
        if !self.note.is_empty() {
            text += &wrapped(&self.note, "  ");
        }
        text += &lines.text();
        text
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
}
