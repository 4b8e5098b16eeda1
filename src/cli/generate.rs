//! `maqam generate`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::data::DataArguments;
use crate::cli::arguments::device::PrecisionArguments;
use crate::cli::arguments::model::ModelArguments;
use crate::cli::arguments::task::TaskArguments;
use crate::cli::progress::Progress;
use crate::error::Result;
use crate::eval::answers::Asker;
use crate::eval::rows::Output;
use crate::eval::rows::generate::generate;
use crate::files;
use crate::machine;
use crate::models::generate::Sampling;
use crate::models::generate::Strategy;
use crate::stop::Stop;
use crate::task::Example;
use crate::task::ForcedLanguage;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    task: TaskArguments,
    /// Output, JSONL: id, prediction, tokens (prompt not included).
    #[arg(long)]
    out: PathBuf,
    /// Language of the transcripts of Qwen3-ASR: a name, a tag such as ar, or row for each row's
    /// own; by default the model finds it out.
    #[arg(long)]
    language: Option<ForcedLanguage>,
    /// Most tokens of an answer; by default the task's limit, 256 without a task.
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Draw tokens with this temperature; without it (and top-k, top-p) the likeliest is taken.
    #[arg(long)]
    temperature: Option<f64>,
    /// Draw among the likeliest K tokens.
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens of this probability together.
    #[arg(long)]
    top_p: Option<f64>,
    /// Make tokens seen before less likely; 1 for not at all.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Seed of the drawing.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    precision: PrecisionArguments,
}

/// Limit of an answer's tokens where neither the command nor a task says one.
const DEFAULT_MAX_NEW_TOKENS: usize = 256;

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let sampling = arguments.sampling();
    sampling.check()?;
    files::expect_writable(&arguments.out)?;
    let path = &arguments.data.data;
    let adapter = arguments.model.adapter.as_deref();
    let mut examples = arguments
        .task
        .examples(&arguments.data.rows()?, path, adapter)?;
    if let Some(language) = &arguments.language {
        let asked = examples.iter_mut().map(|(example, _)| example);
        asked.for_each(|example| language.apply(example));
    }
    let examples: Vec<(&Example, usize)> = examples
        .iter()
        .map(|(example, of_task)| (example, arguments.limit(*of_task)))
        .collect();
    let (mut model, loader) = arguments.model.open()?;
    machine::fit::prepare_to_generate(&mut model)?;
    if arguments.language.is_some() {
        loader
            .codec()
            .expect_languages()
            .map_err(|e| e.at("--language"))?;
    }
    arguments.precision.apply(&mut model)?;

    let mut shown = Progress::new("answering", 0, examples.len() as u64);
    let mut output = Output::new(path, &arguments.out, examples.len());
    let asker = Asker {
        model: &model,
        loader: &loader,
        sampling: &sampling,
        seed: arguments.seed,
    };
    let mut progress = |done| shown.update(done, "");
    let outcome = generate(&asker, &examples, &mut output, &mut progress, stop);
    shown.finish();
    output.finish(outcome)
}

impl Arguments {
    fn sampling(&self) -> Sampling {
        let is_drawn = self.temperature.is_some() || self.top_k.is_some() || self.top_p.is_some();
        Sampling {
            strategy: if is_drawn {
                Strategy::Sample
            } else {
                Strategy::Greedy
            },
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(0),
            top_p: self.top_p.unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty,
        }
    }

    /// Most new tokens of an answer; `of_task` is the limit of its task.
    fn limit(&self, of_task: Option<usize>) -> usize {
        self.max_new_tokens
            .or(of_task)
            .unwrap_or(DEFAULT_MAX_NEW_TOKENS)
    }
}
