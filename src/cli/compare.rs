//! `maqam compare`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::print;
use crate::error::Result;
use crate::report::written;

#[derive(Args)]
pub struct Arguments {
    /// Folders of runs that were evaluated on the same rows. The others are compared with the
    /// first. The folder of an evaluation, such as runs/eval/first, stands for its models and
    /// baselines.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Test every score against the first run's, pair by pair.
    #[arg(long)]
    test: bool,
    /// Folder of the page, of its tables as Markdown and LaTeX, and of its figures as SVG.
    #[arg(long, default_value = "comparison")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let page = written::comparison(&arguments.runs, arguments.test, &arguments.out)?;
    print::line(format_args!(
        "comparison: {}; its tables and figures are beside it",
        page.display()
    ))
}
