//! `maqam report` and `maqam compare`: runs as pages that open offline.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::print;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::records::run_folder::Run;
use crate::report;
use crate::report::clips::Clips;
use crate::report::compare;
use crate::report::evaluation;
use crate::report::evaluation::Evaluation;
use crate::report::resampled::Resampled;

#[derive(Args)]
pub struct ReportArguments {
    /// Folders of runs, such as runs/quickstart, or the folder of an evaluation, such as runs/eval/first.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The page [default: report.html in the run's folder, or here for several runs].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Put the audio of short clips into the page instead of linking to the files.
    #[arg(long)]
    audio: bool,
    /// Print the path of the page as a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct CompareArguments {
    /// Folders of runs that were evaluated on the same rows. The others are compared with the first. The folder of an evaluation, such
    /// as runs/eval/first, stands for its models and baselines.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Test every score against the first run's, pair by pair.
    #[arg(long)]
    test: bool,
    /// Folder of the page, of its tables as Markdown and LaTeX, and of its figures as SVG.
    #[arg(long, default_value = "comparison")]
    out: PathBuf,
}

/// The page of a run, in its folder.
const PAGE: &str = "report.html";

pub fn report(arguments: &ReportArguments) -> Result<()> {
    if let [folder] = arguments.runs.as_slice()
        && evaluation::is_one(folder)
    {
        let out = arguments.out.clone().unwrap_or_else(|| folder.join(PAGE));
        of_evaluation(folder, &out, arguments.audio, &Resampled::default())?;
        return tell(&out, arguments.json);
    }
    let out = match (&arguments.out, arguments.runs.as_slice()) {
        (Some(out), _) => out.clone(),
        (None, [run]) => run.join(PAGE),
        (None, _) => PathBuf::from(PAGE),
    };
    let runs = read(&arguments.runs)?;
    files::expect_writable(&out)?;
    let clips: Vec<Clips> = runs.iter().map(Clips::of).collect::<Result<_>>()?;
    let audio = |run: &Run, set: &str, id: &str| {
        let place = runs.iter().position(|known| known.folder == run.folder);
        place.map_or(Ok(None), |place| {
            clips[place].address(set, id, &out, arguments.audio)
        })
    };
    let page = report::page(&runs, &Resampled::default(), &audio)?;
    files::write_atomic(&out, page.html().as_bytes())?;
    tell(&out, arguments.json)
}

/// Says where the page is.
fn tell(page: &Path, is_json: bool) -> Result<()> {
    match is_json {
        true => print::line(serde_json::json!({ "report": page.display().to_string() })),
        false => print::line(format_args!("report: {}", page.display())),
    }
}

/// Writes the page of the evaluation in `folder` to `out`.
pub fn of_evaluation(
    folder: &Path,
    out: &Path,
    is_embedded: bool,
    tests: &Resampled,
) -> Result<()> {
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

/// The page of an evaluation, in its folder.
pub fn page_in(folder: &Path) -> PathBuf {
    folder.join(PAGE)
}

pub fn compare(arguments: &CompareArguments) -> Result<()> {
    let mut folders = Vec::new();
    for folder in &arguments.runs {
        match evaluation::is_one(folder) {
            true => folders.extend(Evaluation::read(folder)?.folders()),
            false => folders.push(folder.clone()),
        }
    }
    let runs = read(&folders)?;
    let page = compare::page(&runs, &Resampled::default(), arguments.test)?;
    let written = compare::write(&page, &arguments.out)?;
    print::line(format_args!(
        "comparison: {}; its tables and figures are beside it",
        written.display()
    ))?;
    Ok(())
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
