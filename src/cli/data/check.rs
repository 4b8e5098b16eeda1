//! `maqam data check`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::arguments::manifests::SourceArguments;
use crate::cli::data::rows::AllManifests;
use crate::cli::print;
use crate::data::check;
use crate::data::check::Known;
use crate::data::check::Severity;
use crate::data::check::run::Checked;
use crate::data::copied::folder_of;
use crate::data::near_duplicates;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::stop::Stop;
use crate::task::Tasks;
use crate::text_table::counted;

/// File that keeps what was found in audio.
const STATE: &str = "runs/.check/audio.jsonl";

#[derive(Args)]
pub struct Arguments {
    /// Manifests of one data set. Each is a split of its own, unless its rows have a `split`.
    #[arg(required = true)]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    source: SourceArguments,
    /// Read headers of audio only: damage inside, silence, clipping and equal audio are not found.
    #[arg(long)]
    no_decode: bool,
    /// Write all findings as a JSON list; as JSON lines if the name ends in .jsonl.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What to do about rows with errors: drop writes the others to --out.
    #[arg(long, value_enum, requires = "out")]
    fix: Option<Fix>,
    /// Manifest of the rows without errors, JSON lines.
    #[arg(long, requires = "fix", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Task of rows that name none.
    #[arg(long)]
    task: Option<String>,
    /// Folder of task files that add to or override the built-in ones.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Fewest letters of a transcript per second of audio.
    #[arg(long, default_value_t = 1.0, value_name = "RATE")]
    min_rate: f64,
    /// Most letters of a transcript per second of audio.
    #[arg(long, default_value_t = 30.0, value_name = "RATE")]
    max_rate: f64,
    /// Share of their character 5-grams from which two texts are near-duplicates (Jaccard index).
    #[arg(long, default_value_t = near_duplicates::DEFAULT_THRESHOLD, value_name = "SHARE")]
    similarity: f64,
    /// File that keeps what was found in audio, so that a check goes on where it was stopped.
    /// Temporary files go to its folder.
    #[arg(long, default_value = STATE, value_name = "FILE")]
    state: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fix {
    Drop,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    for path in [&arguments.json, &arguments.out].into_iter().flatten() {
        files::expect_writable(path)?;
    }
    let tasks = Tasks::load(arguments.prompts.as_deref())?;
    if let Some(name) = &arguments.task {
        tasks.get(name).map_err(|e| e.at("--task"))?;
    }
    let known = arguments.known()?;
    let settings = check::Settings {
        tasks: &tasks,
        task: arguments.task.as_deref(),
        decode: !arguments.no_decode,
        letters_per_s: arguments.rates()?,
        similarity: arguments.similarity()?,
        scratch: folder_of(&arguments.state),
    };
    let manifests = arguments.source.manifests(&arguments.manifests)?;

    let mut screen = AllManifests::new(&manifests.paths);
    let json = arguments.json.as_deref();
    let checked = check::run::run(&manifests, settings, &known, json, stop, &mut screen);
    screen.finish();
    let checked = checked?;
    show(&checked)?;

    if let Some(out) = &arguments.out {
        let num_kept = check::run::write_kept(&manifests, out, &checked.findings, stop)?;
        return print::line(format_args!(
            "{} without errors in {}",
            counted(num_kept, "row"),
            out.display()
        ));
    }
    match checked.findings.count(Severity::Error) {
        0 => Ok(()),
        errors => {
            let error = Error::input(format!(
                "{} in {}",
                counted(errors as u64, "error"),
                counted(checked.num_rows, "row")
            ));
            Err(error.hint("correct these rows, or leave them out: --fix drop --out FILE"))
        }
    }
}

fn show(checked: &Checked) -> Result<()> {
    print::result(checked.findings.table())?;
    print::line(format_args!(
        "{}: {}, {}",
        counted(checked.num_rows, "row"),
        counted(checked.findings.count(Severity::Error) as u64, "error"),
        counted(checked.findings.count(Severity::Warning) as u64, "warning")
    ))
}

impl Arguments {
    /// Facts about audio that were found before.
    fn known(&self) -> Result<Known> {
        if self.no_decode {
            return Ok(Known::default());
        }
        let known = Known::open(&self.state)?;
        if !known.is_empty() {
            print::message(format_args!(
                "note: {} holds what was found in {} before; remove it to decode them again",
                self.state.display(),
                counted(known.len() as u64, "clip")
            ));
        }
        Ok(known)
    }

    fn rates(&self) -> Result<RangeInclusive<f64>> {
        match self.min_rate >= 0.0 && self.max_rate > self.min_rate {
            true => Ok(self.min_rate..=self.max_rate),
            false => Err(Error::input(format!(
                "--min-rate is {}, --max-rate {}",
                self.min_rate, self.max_rate
            ))
            .hint("give letters per second of audio, the smaller number first")),
        }
    }

    fn similarity(&self) -> Result<f64> {
        match self.similarity > 0.0 && self.similarity <= 1.0 {
            true => Ok(self.similarity),
            false => Err(Error::input(format!("--similarity is {}", self.similarity))
                .hint("give a share above 0 and up to 1, such as 0.8")),
        }
    }
}
