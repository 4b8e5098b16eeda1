//! `maqam data stats`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::manifests::SourceArguments;
use crate::cli::data::rows::EachManifest;
use crate::cli::print;
use crate::data::describe::TokenCounter;
use crate::data::describe_manifests::describe;
use crate::data::stats_text;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::report::data_set;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    /// Manifests of one data set.
    #[arg(required = true)]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    source: SourceArguments,
    /// Write the numbers as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with figures.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Count the tokens of targets with this tokenizer: tokenizer.json, or a checkpoint's folder.
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    for path in [&arguments.json, &arguments.html].into_iter().flatten() {
        files::expect_writable(path)?;
    }
    let counter = arguments
        .tokenizer
        .as_deref()
        .map(TokenCounter::open)
        .transpose()?;
    let manifests = arguments.source.manifests(&arguments.manifests)?;

    let mut screen = EachManifest::default();
    let described = describe(&manifests, counter.as_ref(), stop, &mut screen);
    screen.finish();
    let (description, num_bad) = described?;
    let stats = description.finish();
    if stats.rows == 0 {
        return Err(Error::input("no row can be read").hint("`maqam data check` says why"));
    }

    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&stats).map_err(Error::bug_from)?;
        files::write_atomic(path, format!("{text}\n").as_bytes())?;
    }
    if let Some(path) = &arguments.html {
        let page = data_set::page(&stats, &arguments.name());
        files::write_atomic(path, page.html().as_bytes())?;
    }
    print::result(stats_text::text(&stats))?;
    if num_bad > 0 {
        print::message(format_args!(
            "note: {num_bad} rows cannot be read and are not counted; `maqam data check` says why"
        ));
    }
    Ok(())
}

impl Arguments {
    /// Names of the manifests, for the page.
    fn name(&self) -> String {
        let names: Vec<String> = self
            .manifests
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        names.join(", ")
    }
}
