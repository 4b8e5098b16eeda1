//! `maqam instructions score`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::print;
use crate::error::Result;
use crate::eval::instructions::compared::compared;
use crate::eval::instructions::score;
use crate::eval::instructions::table;
use crate::files;
use crate::records::instructions::InstructionScores;

#[derive(Args)]
pub struct Arguments {
    /// Suite, as `build` writes it.
    #[arg(long)]
    suite: PathBuf,
    /// Answers to all of its rows, JSON lines: id, prediction.
    #[arg(long)]
    predictions: PathBuf,
    /// Answers of the model before tuning, to show what it forgot.
    #[arg(long)]
    base: Option<PathBuf>,
    /// The suite in text alone, as `build --text` writes it. It shows what a model forgot apart
    /// from the audio.
    #[arg(long, value_name = "SUITE", requires_all = ["text", "text_base"])]
    text_suite: Option<PathBuf>,
    /// Answers to all rows of --text-suite.
    #[arg(long, value_name = "PREDICTIONS", requires = "text_suite")]
    text: Option<PathBuf>,
    /// Answers of the model before tuning to all rows of --text-suite.
    #[arg(long, value_name = "PREDICTIONS", requires = "text_suite")]
    text_base: Option<PathBuf>,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Also write that object to a file; `maqam report` shows instructions.json in the folder of an
    /// evaluation (runs/NAME/eval/step-000200).
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.out {
        files::expect_writable(path)?;
    }
    let suite = score::read_suite(&arguments.suite)?;
    let tuned = score::score_file(&suite, &arguments.predictions)?;
    let base = arguments
        .base
        .as_deref()
        .map(|path| score::score_file(&suite, path))
        .transpose()?;
    let constant = score::constant(&suite);
    let text = arguments.text_scores()?;

    let object = compared(&tuned, base.as_ref(), constant.as_ref(), text.as_ref()).to_text()?;
    if let Some(path) = &arguments.out {
        files::write_atomic(path, format!("{object}\n").as_bytes())?;
    }
    if arguments.json {
        return print::line(format_args!("{object}"));
    }
    if let Some(base) = &base {
        print::line(format_args!("{}", table::beside(base, &tuned)))?;
    }
    if let Some((base, tuned)) = &text {
        let beside = table::beside(base, tuned);
        print::line(format_args!("asked in text alone\n\n{beside}"))?;
    }
    print::result(format_args!("{}", table::of(&tuned, constant.as_ref())))
}

impl Arguments {
    /// Scores of the base and of the tuned model on the suite in text alone, where it is named.
    fn text_scores(&self) -> Result<Option<(InstructionScores, InstructionScores)>> {
        let (Some(suite), Some(tuned), Some(base)) =
            (&self.text_suite, &self.text, &self.text_base)
        else {
            return Ok(None);
        };
        let suite = score::read_suite(suite)?;
        let base = score::score_file(&suite, base)?;
        Ok(Some((base, score::score_file(&suite, tuned)?)))
    }
}
