//! `maqam report`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::print;
use crate::error::Result;
use crate::report::evaluation;
use crate::report::resampled::Resampled;
use crate::report::written;
use crate::report::written::PAGE;

#[derive(Args)]
pub struct Arguments {
    /// Folders of runs, such as runs/quickstart, or the folder of an evaluation, such as
    /// runs/eval/first.
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

pub fn run(arguments: &Arguments) -> Result<()> {
    if let [folder] = arguments.runs.as_slice()
        && evaluation::is_one(folder)
    {
        let out = arguments.out.clone().unwrap_or_else(|| folder.join(PAGE));
        written::evaluation(folder, &out, arguments.audio, &Resampled::default())?;
        return tell(&out, arguments.json);
    }
    let out = match (&arguments.out, arguments.runs.as_slice()) {
        (Some(out), _) => out.clone(),
        (None, [run]) => run.join(PAGE),
        (None, _) => PathBuf::from(PAGE),
    };
    written::runs(&arguments.runs, &out, arguments.audio)?;
    tell(&out, arguments.json)
}

/// Says where the page is.
fn tell(page: &Path, is_json: bool) -> Result<()> {
    match is_json {
        true => print::line(serde_json::json!({ "report": page.display().to_string() })),
        false => print::line(format_args!("report: {}", page.display())),
    }
}
