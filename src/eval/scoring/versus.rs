//! Two systems' answers to the same rows: every score of both, the difference with its interval,
//! and three paired tests.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::eval::scoring::rows::Row;
use crate::eval::scoring::table::grid;
use crate::metrics::Normaliser;
use crate::metrics::Tally;
use crate::metrics::Texts;
use crate::metrics::alignment;
use crate::metrics::alignment::Aligned;
use crate::records::suite_file::ClusterBy;
use crate::stats::significance::Clusters;
use crate::stats::significance::Difference;
use crate::stats::significance::Mapsswe;
use crate::stats::significance::Randomisation;
use crate::stats::significance::Resampling;
use crate::stats::significance::Token;
use crate::stats::significance::mapsswe;
use crate::stats::significance::paired_bootstrap;
use crate::stats::significance::randomisation;

/// A score of both systems.
#[derive(Serialize)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// Of the system that is held against the other, and of the other.
    pub scores: [f64; 2],
    /// The first minus the other.
    pub bootstrap: Difference,
    /// The same by swapping the systems' answers.
    pub randomisation: Randomisation,
}

/// Everything that was compared.
#[derive(Serialize)]
pub struct Versus {
    /// Score by score.
    pub scores: Vec<Compared>,
    /// The segment test of word errors, where each row has one reference.
    pub mapsswe: Option<Mapsswe>,
    /// `speaker`, `group` or `row`: what was resampled and swapped together.
    pub cluster: &'static str,
    /// How many of these there are.
    pub num_clusters: usize,
}

/// The rows of `other` in the order of `rows`.
///
/// # Errors
/// Rows of other ids, or with other references: the two files answer different sets.
pub fn matched(rows: &[Row], mut other: Vec<Row>, path: &Path) -> Result<Vec<Row>> {
    let mut by_id: HashMap<String, Row> =
        other.drain(..).map(|row| (row.id.clone(), row)).collect();
    let found = rows.iter().map(|row| match by_id.remove(&row.id) {
        Some(theirs) if theirs.references == row.references => Ok(theirs),
        Some(theirs) => Err(Error::input(format!(
            "row `{}` has another reference than in the first file",
            row.id
        ))
        .at(format!("{}:{}", path.display(), theirs.line))),
        None => Err(Error::input(format!("there is no row `{}`", row.id)).at_path(path)),
    });
    let found = found
        .collect::<Result<Vec<_>>>()
        .map_err(|e| e.hint("--against takes another system's answers to the very same rows"))?;
    match by_id.into_values().min_by_key(|row| row.line) {
        Some(more) => Err(
            Error::input(format!("row `{}` is not in the first file", more.id))
                .at(format!("{}:{}", path.display(), more.line))
                .hint("--against takes another system's answers to the very same rows"),
        ),
        None => Ok(found),
    }
}

/// Compares tallies of the same names, the system's with the other's; `rows` say what belongs
/// together.
pub fn compare(rows: &[Row], tallies: &[Tally], others: &[Tally]) -> Result<Versus> {
    let resampling = Resampling::default();
    let (cluster, clusters) = clusters(rows);

    let mut scores = Vec::new();
    for tally in tallies {
        if let Some(other) = others.iter().find(|other| other.name == tally.name) {
            let compared = compared(tally, other, &clusters, &resampling);
            scores.push(compared.map_err(|e| e.at(format!("`{}`", tally.name)))?);
        }
    }

    Ok(Versus {
        scores,
        mapsswe: None,
        cluster,
        num_clusters: clusters.num_clusters(),
    })
}

/// One score of both systems.
fn compared(
    tally: &Tally,
    other: &Tally,
    clusters: &Clusters,
    resampling: &Resampling,
) -> Result<Compared> {
    let score = |sum: &[f64]| tally.score(sum);
    let before = &other.units;
    let after = &tally.units;
    Ok(Compared {
        name: tally.name.clone(),
        scores: [tally.corpus(), other.corpus()],
        bootstrap: paired_bootstrap(before, after, clusters, &score, resampling)?,
        randomisation: randomisation(before, after, clusters, &score, resampling)?,
    })
}

/// The segment test on word errors under a normaliser; none where a row has several references to
/// choose from.
pub fn segments(rows: &[Row], others: &[Row], normaliser: Normaliser) -> Result<Option<Mapsswe>> {
    if rows.iter().any(|row| row.references.len() > 1) {
        return Ok(None);
    }
    let ours = tokens(rows, normaliser);
    let theirs = tokens(others, normaliser);
    let pairs: Vec<(&[Token], &[Token])> = theirs
        .iter()
        .zip(&ours)
        .map(|(theirs, ours)| (theirs.as_slice(), ours.as_slice()))
        .collect();
    Ok(Some(mapsswe(&pairs)?))
}

/// The words of each row, right or wrong.
fn tokens(rows: &[Row], normaliser: Normaliser) -> Vec<Vec<Token>> {
    let texts = Texts::new(rows.iter().map(Row::pair).collect(), normaliser);
    let mut found = Vec::with_capacity(rows.len());
    for pair in texts.pairs() {
        found.push(alignment::align_pair(pair).into_iter().map(token).collect());
    }
    found
}

fn token(aligned: Aligned) -> Token {
    match aligned {
        Aligned::Equal(_) => Token::Correct,
        Aligned::Substituted(..) | Aligned::Deleted(_) => Token::Wrong,
        Aligned::Inserted(_) => Token::Inserted,
    }
}

/// What belongs together, by its name: see [`ClusterBy::of`].
fn clusters(rows: &[Row]) -> (&'static str, Clusters) {
    let member = |row: &Row, by| match by {
        ClusterBy::Speaker => row.speaker.clone(),
        ClusterBy::Group => row.group.clone(),
        ClusterBy::None => None,
    };
    match ClusterBy::of(rows, |row, by| member(row, by).is_some()) {
        ClusterBy::None => ("row", Clusters::each(rows.len())),
        by => (
            by.name(),
            Clusters::named(rows.iter().map(|row| member(row, by))),
        ),
    }
}

impl Versus {
    /// The comparison to read.
    pub fn render(&self) -> String {
        let mut text = format!(
            "Against the other system, paired by {} ({} of them):\n",
            self.cluster, self.num_clusters
        );
        let head = [
            "",
            "this",
            "other",
            "difference",
            "95 % interval",
            "p bootstrap",
            "p swapped",
        ];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for compared in &self.scores {
            let estimate = &compared.bootstrap.estimate;
            let [ours, theirs] = compared.scores;
            let interval = estimate.student_interval;
            lines.push(vec![
                compared.name.clone(),
                format!("{ours:.4}"),
                format!("{theirs:.4}"),
                format!("{:+.4}", estimate.value),
                format!("[{:+.4}, {:+.4}]", interval.low, interval.high),
                format!("{:.4}", compared.bootstrap.supported_student_p()),
                format!("{:.4}", compared.randomisation.p),
            ]);
        }
        text += &grid(&lines);

        if let Some(found) = &self.mapsswe {
            text += &format!(
                "Matched-pair sentence-segment word errors: {} segments, {:+.3} errors each, z {:+.2}, p {:.4}\n",
                found.num_segments, found.mean, found.z, found.p
            );
        }

        let mut notes: Vec<String> = self
            .scores
            .iter()
            .flat_map(|compared| &compared.bootstrap.estimate.notes)
            .map(ToString::to_string)
            .collect();
        notes.dedup();
        text += "Intervals and `p bootstrap` are Student's over resampled clusters, `p swapped` is approximate randomisation; none is corrected for their number.\n";
        notes
            .iter()
            .for_each(|note| text += &format!("note: {note}\n"));
        text
    }
}
