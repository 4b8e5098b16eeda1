//! `maqam bench data`.

use std::path::PathBuf;

use clap::Args;

use crate::bench::data;
use crate::cli::print;
use crate::cli::progress::Stages;
use crate::error::Error;
use crate::error::Result;
use crate::hub;
use crate::recipe::Recipe;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    /// Recipe, a YAML file.
    recipe: PathBuf,
    /// Change a value of the recipe for this measurement. Entries of lists count from 0:
    /// data.0.weight=2.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Steps whose rows are read.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Seconds that a step computes, as `bench train` or a log tells: each step sleeps so long
    /// while the next one is read, and the share of time that steps wait for data is printed.
    #[arg(long, value_name = "SECONDS")]
    step_seconds: Option<f64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    if arguments.steps == 0 {
        return Err(Error::input("--steps is 0").hint("give 1 or more"));
    }
    if arguments.step_seconds.is_some() && arguments.steps < 2 {
        return Err(Error::input("--step-seconds with one step")
            .hint("the first step waits for all of its rows; give --steps 2 or more"));
    }
    let is_time = |seconds: f64| seconds.is_finite() && seconds > 0.0;
    if !arguments.step_seconds.is_none_or(is_time) {
        return Err(Error::input("--step-seconds is no time").hint("give seconds above 0"));
    }
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    let dir = hub::local_dir(&recipe.model.path)?.ok_or_else(|| {
        Error::input(format!("`{}` is not on this machine", recipe.model.path))
            .at("model.path")
            .hint("download it first, or name a folder with its configuration and tokenizer: `--set model.path=DIR`")
    })?;

    let mut stages = Stages::new(stop);
    let outcome = data::measure(
        &recipe,
        &dir,
        arguments.steps,
        arguments.step_seconds,
        &mut |what, done, total| stages.tell(what, done, total),
    );
    stages.clear();
    let reading = outcome?;
    match arguments.json {
        true => print::line(reading.json()),
        false => print::result(reading.text()),
    }
}
