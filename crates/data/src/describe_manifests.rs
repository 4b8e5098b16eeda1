//! Manifests read into a description, in parallel where they are simple files.

use std::path::Path;

use crate::arabic;
use crate::describe::Description;
use crate::describe::TokenCounter;
use crate::facts::facts_of_glance;
use crate::facts::facts_of_row;
use crate::glance;
use crate::glance::Glance;
use crate::glance::Seen;
use crate::manifests::Manifests;
use crate::manifests::Watcher;
use maqam_base::error::Result;
use maqam_base::stop::Stop;

/// Rows between two looks at the user's wish to stop.
const EVERY: u64 = 1024;

/// A description of manifests, and how many rows cannot be read.
///
/// # Errors
/// A manifest that cannot be read; the user asked to stop.
pub fn describe(
    manifests: &Manifests,
    counter: Option<&TokenCounter>,
    stop: &Stop,
    watcher: &mut dyn Watcher,
) -> Result<(Description, u64)> {
    let mut description = Description::default();
    let mut num_bad = 0;
    for manifest in &manifests.paths {
        if manifests.is_plain && glanced(manifest, counter, &mut description, stop)? {
            continue;
        }
        watcher.begin(manifest);
        let mut done = 0;
        let notes = manifests.source(manifest).stream(&mut |streamed| {
            done += 1;
            if done % EVERY == 0 {
                stop.check_unwritten()?;
                watcher.rows(done);
            }
            match streamed.row {
                Ok(row) => {
                    let extra = row.extra_fields();
                    let normalisation = extra.get(arabic::FIELD).and_then(|value| value.as_str());
                    description.add(&facts_of_row(&row, normalisation, counter)?);
                }
                Err(_) => num_bad += 1,
            }
            Ok(())
        })?;
        watcher.end(notes);
    }
    Ok((description, num_bad))
}

/// Counts the rows of a simple file in parallel; returns whether it was one.
fn glanced(
    manifest: &Path,
    counter: Option<&TokenCounter>,
    description: &mut Description,
    stop: &Stop,
) -> Result<bool> {
    let wanted = [];
    let mut whole = Description::default();
    let look = |rows: &[(u32, &[u8], Glance<'_>)]| -> Result<Description> {
        let mut part = Description::default();
        for (_, _, glance) in rows {
            part.add(&facts_of_glance(glance, counter)?);
        }
        Ok(part)
    };
    let seen = glance::at_lines(manifest, &wanted, look, |part| {
        stop.check_unwritten()?;
        whole.merge(part?);
        Ok(())
    })?;
    if seen == Seen::Whole {
        description.merge(whole);
    }
    Ok(seen == Seen::Whole)
}
