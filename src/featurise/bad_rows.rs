//! Rows that a command cannot use: left out, and listed together at the end.

use std::path::Path;

use crate::data::MAX_BAD_ROWS_NAMED;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;

/// The rows that could not be used so far.
#[derive(Default)]
pub struct BadRows {
    /// What is wrong with the first of them.
    named: Vec<Error>,
    count: usize,
}

impl BadRows {
    /// The value of a row, or none for one that is bad.
    ///
    /// # Errors
    /// What is no fault of the row.
    pub fn check<T>(&mut self, found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind == Kind::Input => {
                self.count += 1;
                if self.named.len() < MAX_BAD_ROWS_NAMED {
                    self.named.push(error);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the command.
    ///
    /// # Errors
    /// The rows that could not be used, where there are any; `out` holds what was made of the
    /// others.
    pub fn finish(self, num_rows: usize, data: &Path, out: &Path) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let mut message = format!("{} of {num_rows} rows cannot be used", self.count);
        for error in &self.named {
            message.push_str(&format!(
                "\n  {}",
                error.to_string().replace('\n', "\n    ")
            ));
        }
        if self.count > self.named.len() {
            message.push_str(&format!("\n  and {} more", self.count - self.named.len()));
        }
        let hint = if self.count == num_rows {
            "correct these rows; nothing was written".to_owned()
        } else {
            format!(
                "correct these rows and run the command again; {} holds the other {}",
                out.display(),
                num_rows - self.count
            )
        };
        Err(Error::input(message).at_path(data).hint(hint))
    }

    /// Whether some row could be used.
    pub fn leaves_some(&self, num_rows: usize) -> bool {
        self.count < num_rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rows_are_listed_once_with_their_count() {
        let mut bad = BadRows::default();
        assert_eq!(bad.check(Ok(3)).unwrap(), Some(3));
        for i in 0..25 {
            let found = Error::input(format!("row `{i}`: cut")).hint("mend it");
            assert_eq!(bad.check::<()>(Err(found)).unwrap(), None);
        }
        let full = bad.check::<()>(Err(Error::resource("full")));
        assert_eq!(full.unwrap_err().exit_code(), 4);
        let error = bad
            .finish(26, Path::new("rows.jsonl"), Path::new("o"))
            .unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(text.starts_with("rows.jsonl: 25 of 26 rows cannot be used\n  row `0`: cut\n    hint: mend it\n  row `1`"), "{text}");
        assert!(
            text.contains("\n  and 5 more\nhint: ") && text.ends_with("o holds the other 1"),
            "{text}"
        );
        assert_eq!(text.matches("row `7`").count(), 1);
    }
}
