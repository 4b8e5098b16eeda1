//! A check of manifests from their first row to their last, and the rows without errors as a
//! manifest.

use std::path::Path;
use std::sync::Arc;

use crate::Streamed;
use crate::check::Check;
use crate::check::finding::Placed;
use crate::check::finding::Settings;
use crate::check::findings::Findings;
use crate::check::known::Known;
use crate::copied::copied_row;
use crate::copied::folder_of;
use crate::manifests::Manifests;
use crate::manifests::Watcher;
use maqam_base::error::Result;
use maqam_base::files::Draft;
use maqam_base::stop::Stop;

/// Rows whose audio is examined together.
const CHUNK: usize = 256;

/// Outcome of a check.
pub struct Checked {
    /// What was found.
    pub findings: Findings,
    /// Number of rows, those that cannot be read among them.
    pub num_rows: u64,
}

/// Checks manifests of one data set; `json` is the file of all findings.
///
/// # Errors
/// A manifest that cannot be read; the disk's; the user asked to stop. What was found out about
/// audio is stored all the same.
pub fn run(
    manifests: &Manifests,
    settings: Settings<'_>,
    known: &Known,
    json: Option<&Path>,
    stop: &Stop,
    watcher: &mut dyn Watcher,
) -> Result<Checked> {
    let mut findings = Findings::new(json)?;
    let mut check = Check::new(settings, known);
    let outcome = read(manifests, &mut check, &mut findings, stop, watcher);
    known.write()?;
    outcome?;

    let num_rows = check.num_rows();
    check.finish(&mut |finding| findings.add(finding))?;
    findings.finish()?;
    Ok(Checked { findings, num_rows })
}

/// Feeds all rows to the check, chunk by chunk.
fn read(
    manifests: &Manifests,
    check: &mut Check<'_>,
    findings: &mut Findings,
    stop: &Stop,
    watcher: &mut dyn Watcher,
) -> Result<()> {
    let mut chunk: Vec<Placed> = Vec::with_capacity(CHUNK);
    for manifest in &manifests.paths {
        watcher.begin(manifest);
        let split: Arc<str> = manifest
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into();
        let notes = manifests.source(manifest).stream(&mut |streamed| {
            let Streamed { file, line, row } = streamed;
            match row {
                Ok(row) => chunk.push(Placed {
                    row,
                    file,
                    line,
                    split: split.clone(),
                }),
                Err(bad) => {
                    check.bad_row(&file, line, bad.id, &bad.error, &mut |f| findings.add(f))?;
                }
            }
            if chunk.len() == CHUNK {
                stop.check_unwritten()?;
                check.rows(&chunk, &mut |finding| findings.add(finding))?;
                chunk.clear();
                watcher.rows(check.num_rows());
            }
            Ok(())
        })?;
        watcher.end(notes);
    }
    check.rows(&chunk, &mut |finding| findings.add(finding))?;
    watcher.rows(check.num_rows());
    Ok(())
}

/// Writes the rows without errors as JSON lines; returns how many.
///
/// # Errors
/// As [`run`].
pub fn write_kept(
    manifests: &Manifests,
    out: &Path,
    findings: &Findings,
    stop: &Stop,
) -> Result<u64> {
    let folder = folder_of(out);
    let mut draft = Draft::new(out)?;
    let mut num_kept = 0;
    for manifest in &manifests.paths {
        manifests.source(manifest).stream(&mut |streamed| {
            stop.check_unwritten()?;
            let Streamed { file, line, row } = streamed;
            if let Ok(row) = row
                && !findings.is_dropped(&file, line)
            {
                let copied = copied_row(&row, folder)
                    .map_err(|e| e.at(format!("{}:{line}", file.display())))?;
                draft.append(&copied)?;
                num_kept += 1;
            }
            Ok(())
        })?;
    }
    draft.commit()?;
    Ok(num_kept)
}
