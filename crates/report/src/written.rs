//! Pages of runs and evaluations, written to files.

use std::path::Path;
use std::path::PathBuf;

use crate::clips::Clips;
use crate::compare;
use crate::evaluation;
use crate::evaluation::Evaluation;
use crate::resampled::Resampled;
use crate::run_page;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_records::run_folder::Run;

/// File of the page, in the folder of a run or an evaluation.
pub const PAGE: &str = "report.html";

/// Returns the page of an evaluation, in its folder.
pub fn page_in(folder: &Path) -> PathBuf {
    folder.join(PAGE)
}

/// Writes the page of runs to `out`. Audio of short clips is in the page if it `is_embedded`.
///
/// # Errors
/// Folders that are no runs, or are named twice; the disk's.
pub fn runs(folders: &[PathBuf], out: &Path, is_embedded: bool) -> Result<()> {
    let runs = read(folders)?;
    files::expect_writable(out)?;
    let clips: Vec<Clips> = runs.iter().map(Clips::of).collect::<Result<_>>()?;
    let audio = |run: &Run, set: &str, id: &str| {
        let place = runs.iter().position(|known| known.folder == run.folder);
        place.map_or(Ok(None), |place| {
            clips[place].address(set, id, out, is_embedded)
        })
    };
    let page = run_page::page(&runs, &Resampled::default(), &audio)?;
    files::write_atomic(out, page.html().as_bytes())
}

/// Writes the page of the evaluation in `folder` to `out`.
///
/// # Errors
/// A folder that is no evaluation; the disk's.
pub fn evaluation(folder: &Path, out: &Path, is_embedded: bool, tests: &Resampled) -> Result<()> {
    let found = Evaluation::read(folder)?;
    files::expect_writable(out)?;
    let runs = || found.entries.iter().map(|entry| &entry.run);
    let clips: Vec<Clips> = runs().map(Clips::of).collect::<Result<_>>()?;
    let audio = |run: &Run, set: &str, id: &str| {
        let place = runs().position(|known| known.folder == run.folder);
        place.map_or(Ok(None), |place| {
            clips[place].address(set, id, out, is_embedded)
        })
    };
    let page = evaluation::page(&found, tests, &audio)?;
    files::write_atomic(out, page.html().as_bytes())
}

/// Compares runs that were evaluated on the same rows, and writes page, tables and figures to the
/// folder `out`. The folder of an evaluation stands for its models and baselines. Returns the page.
///
/// # Errors
/// As [`runs`]; runs of other rows.
pub fn comparison(folders: &[PathBuf], is_tested: bool, out: &Path) -> Result<PathBuf> {
    let mut of_runs = Vec::new();
    for folder in folders {
        match evaluation::is_one(folder) {
            true => of_runs.extend(Evaluation::read(folder)?.folders()),
            false => of_runs.push(folder.clone()),
        }
    }
    let runs = read(&of_runs)?;
    let page = compare::page(&runs, &Resampled::default(), is_tested)?;
    compare::write(&page, out)
}

/// Reads the runs; one that is named twice is an error.
fn read(folders: &[PathBuf]) -> Result<Vec<Run>> {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    for (i, folder) in folders.iter().enumerate() {
        if folders[..i]
            .iter()
            .any(|other| whole(other) == whole(folder))
        {
            return Err(Error::input("the run is named twice")
                .at_path(folder)
                .hint("name every run once"));
        }
    }
    folders.iter().map(|folder| Run::read(folder)).collect()
}
