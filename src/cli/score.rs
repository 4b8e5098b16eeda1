//! `maqam score`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::data::DataArguments;
use crate::cli::arguments::device::PrecisionArguments;
use crate::cli::arguments::model::ModelArguments;
use crate::cli::arguments::task::TaskArguments;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::error::Result;
use crate::eval::rows::Output;
use crate::eval::rows::score::Scorer;
use crate::files;
use crate::stop::Stop;
use crate::task::Example;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    task: TaskArguments,
    /// Output, JSON lines: id, loss (nats per target token), num_target_tokens, logprobs.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    precision: PrecisionArguments,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let path = &arguments.data.data;
    let adapter = arguments.model.adapter.as_deref();
    let examples = arguments
        .task
        .examples(&arguments.data.rows()?, path, adapter)?;
    let examples: Vec<&Example> = examples.iter().map(|(example, _)| example).collect();
    let (mut model, loader) = arguments.model.open()?;
    arguments.precision.apply(&mut model)?;

    let mut shown = Progress::new("scoring", 0, examples.len() as u64);
    let mut output = Output::new(path, &arguments.out, examples.len());
    let scorer = Scorer {
        model: &model,
        loader: &loader,
        note: &|text| print::message(format_args!("note: {text}")),
    };
    let mut progress = |done| shown.update(done, "");
    let outcome = scorer.score(&examples, &mut output, &mut progress, stop);
    shown.finish();
    output.finish(outcome)
}
