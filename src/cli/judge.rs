//! `maqam score` and `maqam generate`: what a model makes of the rows of a data file.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use rayon::prelude::*;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::cli::arguments::DataArguments;
use crate::cli::arguments::ModelArguments;
use crate::cli::arguments::TaskArguments;
use crate::cli::bad_rows::BadRows;
use crate::cli::device::PrecisionArguments;
use crate::cli::interrupt::check_stop;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::answers::Asker;
use crate::featurise::Loader;
use crate::files;
use crate::models::AudioLlm;
use crate::models::generate::Sampling;
use crate::models::generate::Strategy;
use crate::seed::Key;
use crate::stop::Stop;
use crate::task::Example;
use crate::task::Mode;

#[derive(Args)]
pub struct ScoreArguments {
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

/// One line of `score`'s output.
#[derive(serde::Serialize)]
struct Score<'a> {
    id: &'a str,
    loss: f64,
    num_target_tokens: usize,
    logprobs: Vec<f64>,
}

/// Rows whose features are in memory at a time.
const READ_AHEAD: usize = 64;
/// Tokens that are scored in one pass.
const PACK_TOKENS: usize = 8192;

pub fn score(arguments: &ScoreArguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let examples = arguments.task.examples(
        &arguments.data.rows()?,
        &arguments.data.data,
        arguments.model.adapter.as_deref(),
    )?;
    let (mut model, loader) = arguments.model.open()?;
    arguments.precision.apply(&mut model)?;
    let mut progress = Progress::new("scoring", 0, examples.len() as u64);
    let mut lines = Vec::with_capacity(examples.len());
    let mut bad = BadRows::default();
    let outcome = score_rows(
        &model,
        &loader,
        &examples,
        &mut lines,
        &mut bad,
        &mut progress,
        stop,
    );
    progress.finish();
    finish_early(outcome, &lines, examples.len(), &arguments.out)?;
    if bad.leaves_some(examples.len()) {
        write_lines(&lines, &arguments.out)?;
    }
    bad.finish(examples.len(), &arguments.data.data, &arguments.out)
}

/// Scores rows, a line of `lines` for each that can be used.
///
/// # Errors
/// What is no fault of a row; `lines` holds the rows before it.
fn score_rows(
    model: &AudioLlm,
    loader: &Loader,
    examples: &[(Example, Option<usize>)],
    lines: &mut Vec<String>,
    bad: &mut BadRows,
    progress: &mut Progress,
    stop: &Stop,
) -> Result<()> {
    for chunk in examples.chunks(READ_AHEAD) {
        let loaded: Vec<Result<Sequence>> = chunk
            .par_iter()
            .map(|(example, _)| {
                let loaded = loader.load(example, Mode::Train, Key::new(0, "score"))?;
                if let Some(warning) = loaded.warning() {
                    print::message(format_args!("note: row `{}`: {warning}", example.id));
                }
                Ok(loaded.sequence)
            })
            .collect();
        let mut readable: Vec<&Example> = Vec::with_capacity(chunk.len());
        let mut sequences = Vec::with_capacity(chunk.len());
        for ((example, _), sequence) in chunk.iter().zip(loaded) {
            if let Some(sequence) = bad.check(sequence)? {
                readable.push(example);
                sequences.push(sequence);
            }
        }
        let loaded = sequences;
        let lengths: Vec<usize> = loaded
            .iter()
            .map(|sequence| sequence.tokens.len())
            .collect();
        for range in micro_batches(&lengths, PACK_TOKENS) {
            check_stop(stop)?;
            let batch = Batch::pack(
                &loaded[range.clone()].iter().collect::<Vec<_>>(),
                model.config.audio.window_frames(),
            )?;
            let found = model.score(&batch, 0.0)?;
            for (i, example) in readable[range.clone()].iter().enumerate() {
                let of_row = batch
                    .target_sequences
                    .iter()
                    .zip(&found.log_probabilities)
                    .filter(|(sequence, _)| **sequence as usize == i);
                let logprobs: Vec<f64> = of_row
                    .map(|(_, log_probability)| *log_probability)
                    .collect();
                let line = Score {
                    id: &example.id,
                    loss: -logprobs.iter().sum::<f64>() / logprobs.len() as f64,
                    num_target_tokens: logprobs.len(),
                    logprobs,
                };
                lines.push(serde_json::to_string(&line).map_err(Error::bug_from)?);
            }
            progress.update(lines.len() as u64, "");
        }
    }
    Ok(())
}

/// Writes the lines that are done where a command ends before all are.
///
/// # Errors
/// What ended it, with where the lines are; nothing is written where there are none.
fn finish_early(outcome: Result<()>, lines: &[String], num_rows: usize, out: &Path) -> Result<()> {
    let Err(error) = outcome else {
        return Ok(());
    };
    // An error of the disk on top of the first would hide what ended the command.
    if lines.is_empty() || write_lines(lines, out).is_err() {
        return Err(error);
    }
    let holds = format!("holds {} of {num_rows} rows", lines.len());
    Err(match error.kind {
        Kind::Interrupted => Error::interrupted(format!("stopped; {} {holds}", out.display())),
        _ => error.and_hint(format!("go on with {}, which {holds}", out.display())),
    })
}

fn write_lines(lines: &[String], out: &Path) -> Result<()> {
    files::write_atomic(out, (lines.join("\n") + "\n").as_bytes())
}

#[derive(Args)]
pub struct GenerateArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    task: TaskArguments,
    /// Output, JSONL: id, prediction, tokens (prompt not included).
    #[arg(long)]
    out: PathBuf,
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

/// One line of `generate`'s output.
#[derive(serde::Serialize)]
struct Generated<'a> {
    id: &'a str,
    prediction: &'a str,
    tokens: &'a [u32],
}

/// Limit of an answer's tokens where neither the command nor a task says one.
const DEFAULT_MAX_NEW_TOKENS: usize = 256;

pub fn generate(arguments: &GenerateArguments, stop: &Stop) -> Result<()> {
    let is_drawn =
        arguments.temperature.is_some() || arguments.top_k.is_some() || arguments.top_p.is_some();
    let sampling = Sampling {
        strategy: if is_drawn {
            Strategy::Sample
        } else {
            Strategy::Greedy
        },
        temperature: arguments.temperature.unwrap_or(1.0),
        top_k: arguments.top_k.unwrap_or(0),
        top_p: arguments.top_p.unwrap_or(1.0),
        repetition_penalty: arguments.repetition_penalty,
    };
    sampling.check()?;
    files::expect_writable(&arguments.out)?;
    let examples = arguments.task.examples(
        &arguments.data.rows()?,
        &arguments.data.data,
        arguments.model.adapter.as_deref(),
    )?;
    let (mut model, loader) = arguments.model.open()?;
    arguments.precision.apply(&mut model)?;
    let limit = |of_task: &Option<usize>| {
        arguments
            .max_new_tokens
            .or(*of_task)
            .unwrap_or(DEFAULT_MAX_NEW_TOKENS)
    };
    let asked: Vec<(&Example, usize)> = examples
        .iter()
        .map(|(example, of_task)| (example, limit(of_task)))
        .collect();
    let mut progress = Progress::new("answering", 0, examples.len() as u64);
    let asker = Asker {
        model: &model,
        loader: &loader,
        sampling: &sampling,
        seed: arguments.seed,
    };
    let mut lines = Vec::with_capacity(examples.len());
    let mut bad = BadRows::default();
    let outcome = generate_rows(
        &asker,
        &asked,
        &arguments.data.data,
        &mut lines,
        &mut bad,
        &mut progress,
        stop,
    );
    progress.finish();
    finish_early(outcome, &lines, examples.len(), &arguments.out)?;
    if bad.leaves_some(examples.len()) {
        write_lines(&lines, &arguments.out)?;
    }
    bad.finish(examples.len(), &arguments.data.data, &arguments.out)
}

/// Answers rows, a line of `lines` for each that can be used; `data` is the file they are from.
///
/// # Errors
/// What is no fault of a row; `lines` holds the rows before it.
fn generate_rows(
    asker: &Asker<'_>,
    asked: &[(&Example, usize)],
    data: &Path,
    lines: &mut Vec<String>,
    bad: &mut BadRows,
    progress: &mut Progress,
    stop: &Stop,
) -> Result<()> {
    for chunk in asked.chunks(READ_AHEAD) {
        let num_done = lines.len();
        let mut watch = |done: usize| {
            progress.update((num_done + done) as u64, "");
            check_stop(stop)
        };
        let (chunk, answers) = match asker.answers(chunk, &mut watch) {
            Ok(answers) => (chunk.to_vec(), answers),
            Err(error) if error.kind == Kind::Input => {
                // Some row cannot be read: each is looked at, and the others are asked without it.
                let readable = readable(asker.loader, chunk, bad)?;
                if readable.len() == chunk.len() {
                    return Err(error.at_path(data));
                }
                let answers = asker.answers(&readable, &mut watch)?;
                (readable, answers)
            }
            Err(error) => return Err(error.at_path(data)),
        };
        for ((example, _), answer) in chunk.iter().zip(answers) {
            let line = Generated {
                id: &example.id,
                prediction: &answer.text,
                tokens: &answer.tokens,
            };
            lines.push(serde_json::to_string(&line).map_err(Error::bug_from)?);
        }
    }
    Ok(())
}

/// The questions whose rows can be read.
fn readable<'a>(
    loader: &Loader,
    asked: &[(&'a Example, usize)],
    bad: &mut BadRows,
) -> Result<Vec<(&'a Example, usize)>> {
    let key = Key::new(0, "readable");
    let loaded: Vec<Result<()>> = asked
        .par_iter()
        .map(|(example, _)| loader.load(example, Mode::Generate, key).map(drop))
        .collect();
    let mut found = Vec::with_capacity(asked.len());
    for (question, loaded) in asked.iter().zip(loaded) {
        if bad.check(loaded)?.is_some() {
            found.push(*question);
        }
    }
    Ok(found)
}
