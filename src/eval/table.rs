//! What training changed, as a table: every score before and after, at its best, and under the
//! controls.

use std::path::Path;

use crate::error::Result;
use crate::metrics::Scale;
use crate::metrics::ScoreName;
use crate::records::run_folder;
use crate::records::scores;
use crate::records::scores::Scores;
use crate::records::scores::ScoresFile;
use crate::text_table::NOTHING;
use crate::text_table::TextTable;

/// The table of a run whose last evaluation was after `last` steps and whose best was after `best`;
/// `None` before there is one.
///
/// # Errors
/// Files of scores that cannot be read.
pub fn of_run(run: &Path, last: u64, best: Option<u64>) -> Result<Option<String>> {
    let scores_at = |step: u64| -> Result<Option<Scores>> {
        let found = ScoresFile::read(&run_folder::evaluation(run, step))?;
        Ok(found.map(|found| found.scores))
    };
    let Some(after) = scores_at(last)? else {
        return Ok(None);
    };
    let mut columns = Vec::new();
    if last > 0
        && let Some(before) = scores_at(0)?
    {
        columns.push(("before".to_owned(), before));
    }
    columns.push((format!("after {last}"), after.clone()));
    if let Some(step) = best.filter(|&step| step != last)
        && let Some(found) = scores_at(step)?
    {
        columns.push((format!("best {step}"), found));
    }
    let controls = scores::read_controls(&run_folder::evaluation(run, last))?;
    columns.extend(controls.iter().cloned());
    Ok(Some(table(&after, &columns)))
}

/// A score as a number to read: fractions in percent, losses and ratios as they are, and so what
/// runs to 100 by itself.
pub fn shown(name: &str, value: f64) -> String {
    match scale(name) {
        Scale::Share => format!("{:.1}", 100.0 * value),
        Scale::Points => format!("{value:.1}"),
        Scale::Plain => format!("{value:.3}"),
    }
}

/// How a score is written; one that is not known is taken for a share.
fn scale(name: &str) -> Scale {
    let known = ScoreName::parse(name).definition();
    known.map_or(Scale::Share, |known| known.scale)
}

/// Least width of a column.
const LEAST_WIDTH: usize = 8;

/// One line for each score of `rows`, one column for each of `columns`; shares in percent,
/// everything else as it is.
fn table(rows: &Scores, columns: &[(String, Scores)]) -> String {
    let titles = columns.iter().map(|(title, _)| title.clone());
    let mut lines = vec![std::iter::once(String::new()).chain(titles).collect()];
    for (name, _) in &rows.0 {
        let cell = |scores: &Scores| match scores.get(name) {
            Some(value) if scale(name) == Scale::Share => format!("{} %", shown(name, value)),
            Some(value) => shown(name, value),
            None => NOTHING.to_owned(),
        };
        let cells = columns.iter().map(|(_, scores)| cell(scores));
        lines.push(std::iter::once(name.clone()).chain(cells).collect());
    }
    let table = TextTable::new(1, lines).brief();
    table.least_width(LEAST_WIDTH).text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_what_is_missing_is_a_dash() {
        let scores = |values: &[(&str, f64)]| {
            Scores(
                values
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), *value))
                    .collect(),
            )
        };
        let before = scores(&[
            ("words.wer", 1.024),
            ("words.loss", 4.0),
            ("gist.chrf", 41.26),
            ("mean", 0.1),
        ]);
        let after = scores(&[
            ("words.wer", 0.0825),
            ("words.loss", 0.5),
            ("gist.chrf", 5.0),
            ("mean", 0.95),
        ]);
        let control = scores(&[("words.wer", 0.99)]);
        let columns = [
            ("before".to_owned(), before),
            ("after 400".to_owned(), after.clone()),
            ("no-audio".to_owned(), control),
        ];
        let expected = [
            "              before  after 400  no-audio",
            "words.wer    102.4 %      8.2 %    99.0 %",
            "words.loss     4.000      0.500         -",
            "gist.chrf       41.3        5.0         -",
            "mean          10.0 %     95.0 %         -",
            "",
        ];
        assert_eq!(table(&after, &columns), expected.join("\n"));
    }
}
