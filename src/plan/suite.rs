//! The rows that the recipe's suite judges by, held against those it trains on.

use std::path::Path;

use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::read_manifest;
use crate::error::Result;
use crate::eval::suite::SuiteFile;
use crate::files;
use crate::plan::heard::Contents;
use crate::plan::leakage;
use crate::plan::leakage::Facts;
use crate::plan::leakage::Kind;
use crate::train::corpus::Corpus;
use crate::yaml;

/// A row of a suite, and how a message names it.
struct Judged {
    row: Row,
    name: String,
}

/// Refuses a suite that shares rows, audio, speakers or groups with the training, but for what is allowed.
///
/// # Errors
/// All kinds of leakage that were found, each with a row of either side.
pub fn check(corpus: &Corpus, suite: &Path, allowed: &[Kind]) -> Result<()> {
    let judged = read(suite)?;
    let training: Vec<&Row> = (0..corpus.len() as u32)
        .map(|row| corpus.row(row))
        .collect();
    let evaluation: Vec<&Row> = judged.iter().map(|judged| &judged.row).collect();
    let contents = Contents::of(&training, &evaluation);
    let leaks = leakage::find(
        &facts_of(&training, &contents),
        &facts_of(&evaluation, &contents),
    );
    let name = |leak: &leakage::Leak| {
        let row = leak.training as u32;
        (
            format!("{} (`{}`)", corpus.place(row), corpus.row(row).id),
            judged[leak.evaluation].name.clone(),
        )
    };
    leakage::refusal(&leaks, allowed, name).map_or(Ok(()), Err)
}

fn facts_of<'a>(rows: &[&'a Row], contents: &Contents<'_>) -> Vec<Facts<'a>> {
    let facts = |row: &&'a Row| Facts {
        id: Some(&*row.id).filter(|id| *id != row.line.to_string()),
        speaker: row.speaker.as_deref(),
        group: row.group.as_deref(),
        audio: contents.heard(row),
    };
    rows.iter().map(facts).collect()
}

fn read(suite: &Path) -> Result<Vec<Judged>> {
    let file: SuiteFile = yaml::parse(&files::read_text(suite)?, suite)?;
    let mut judged = Vec::new();
    for set in file.sets {
        let manifest = read_manifest(&set.manifest, set.audio_root.as_deref(), OnBadRow::Error)?;
        let rows = manifest
            .rows
            .into_iter()
            .take(set.limit.unwrap_or(usize::MAX));
        judged.extend(rows.map(|row| Judged {
            name: format!(
                "set `{}`, {} (`{}`),",
                set.name,
                row.place(&set.manifest),
                row.id
            ),
            row,
        }));
    }
    Ok(judged)
}
