//! `maqam instructions`: a suite of instructions built from any manifest, and the score of a model's answers to it.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;

use crate::cli::WordingName;
use crate::cli::print;
use crate::data::OnBadRow;
use crate::data::read_manifest;
use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::clip::Source;
use crate::eval::instructions::kind::Kind;
use crate::eval::instructions::language::Language;
use crate::eval::instructions::score;
use crate::eval::instructions::score::Change;
use crate::eval::instructions::score::Scores;
use crate::eval::instructions::suite::Settings;
use crate::eval::instructions::suite::suite;
use crate::eval::instructions::table;
use crate::files;
use crate::task::Task;
use crate::task::Tasks;
use crate::task::Wording;

#[derive(Subcommand)]
pub enum Command {
    /// Build a suite from manifests: instructions about their clips whose answers a program can judge.
    Build(BuildArguments),
    /// Judge the answers to a suite: `maqam generate --data SUITE` gives them.
    Score(ScoreArguments),
}

#[derive(Args)]
pub struct BuildArguments {
    /// Manifest with the clips; several about the same clips know more together.
    #[arg(long, required = true)]
    data: Vec<PathBuf>,
    /// Task of the rows that say none: one for all manifests, or one for each in the same order.
    #[arg(long)]
    task: Vec<String>,
    /// Output: a manifest, JSONL, with `checks` beside the messages.
    #[arg(long)]
    out: PathBuf,
    /// Seed of what is drawn.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Rows of each kind.
    #[arg(long, default_value_t = Settings::default().rows)]
    rows: usize,
    /// Kinds of rows; by default all.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Tasks that are asked; by default every task there is.
    #[arg(long, value_delimiter = ',')]
    ask: Vec<String>,
    /// Languages of the instructions.
    #[arg(long, value_delimiter = ',', default_value = "ar,en")]
    languages: Vec<String>,
    /// The set of wordings that tasks are asked in: dev or test.
    #[arg(long, value_enum, default_value_t = WordingName::Dev)]
    wording: WordingName,
    /// Folder of task files that add to or override the built-in ones.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Where relative audio paths start; by default the manifest's folder.
    #[arg(long)]
    audio_root: Option<PathBuf>,
}

#[derive(Args)]
pub struct ScoreArguments {
    /// Suite, as `build` writes it.
    #[arg(long)]
    suite: PathBuf,
    /// Answers to all of its rows, JSONL: id, prediction.
    #[arg(long)]
    predictions: PathBuf,
    /// Answers of the model before it was tuned, to show side by side what it forgot.
    #[arg(long)]
    base: Option<PathBuf>,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Also write that object to a file; `maqam report` shows instructions.json in the folder of an evaluation (runs/NAME/eval/step-000200).
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Build(arguments) => build(arguments),
        Command::Score(arguments) => score_predictions(arguments),
    }
}

fn build(arguments: &BuildArguments) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let tasks = Tasks::load(arguments.prompts.as_deref())?;
    let settings = arguments.settings()?;
    let manifests = arguments
        .data
        .iter()
        .map(|path| read_manifest(path, arguments.audio_root.as_deref(), OnBadRow::Error))
        .collect::<Result<Vec<_>>>()?;
    let mut sources = Vec::new();
    for (i, manifest) in manifests.iter().enumerate() {
        let default = arguments.task_of(i)?;
        for row in &manifest.rows {
            let name = row.task.as_deref().or(default).ok_or_else(|| {
                Error::input("no task").hint("add --task NAME, or a `task` to each row")
            });
            let task = name
                .and_then(|name| tasks.get(name))
                .map_err(|e| e.at(row.place(&manifest.path)))?;
            sources.push(Source { row, task });
        }
    }
    let asked = arguments.asked(&tasks)?;
    let built = suite(&sources, &asked, &settings, arguments.seed)?;
    let folder = arguments
        .out
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    files::write_atomic(&arguments.out, built.to_jsonl(folder)?.as_bytes())?;
    for note in &built.left_out {
        print::message(format_args!("note: {note}"));
    }
    for kind in &settings.kinds {
        print::line(format_args!(
            "{:<12} {}",
            kind.name(),
            built.rows.iter().filter(|row| row.kind == *kind).count()
        ))?;
    }
    print::line(format_args!("{:<12} {}", "all", built.rows.len()))?;
    Ok(())
}

impl BuildArguments {
    fn settings(&self) -> Result<Settings> {
        let language = |tag: &String| {
            let unknown = || {
                Error::input(format!(
                    "--languages {tag}: instructions are worded in ar and en"
                ))
            };
            Language::of_tag(tag).ok_or_else(unknown)
        };
        let kinds = self
            .kinds
            .iter()
            .map(|name| Kind::of_name(name))
            .collect::<Result<Vec<_>>>()?;
        Ok(Settings {
            rows: self.rows,
            kinds: if kinds.is_empty() {
                Kind::ALL.to_vec()
            } else {
                kinds
            },
            languages: self.languages.iter().map(language).collect::<Result<_>>()?,
            wording: match self.wording {
                WordingName::Train => Wording::Train,
                WordingName::Dev => Wording::Dev,
                WordingName::Test => Wording::Test,
            },
            ..Settings::default()
        })
    }

    /// The task of the rows of the manifest in this place.
    fn task_of(&self, place: usize) -> Result<Option<&str>> {
        match self.task.len() {
            0 | 1 => Ok(self.task.first().map(String::as_str)),
            named if named == self.data.len() => Ok(Some(&self.task[place])),
            named => Err(Error::input(format!(
                "--task is given {named} times, --data {} times",
                self.data.len()
            ))
            .hint("give one task for all, or one for each")),
        }
    }

    fn asked<'a>(&self, tasks: &'a Tasks) -> Result<Vec<&'a Task>> {
        let names: Vec<&str> = if self.ask.is_empty() {
            tasks.names().collect()
        } else {
            self.ask.iter().map(String::as_str).collect()
        };
        names
            .into_iter()
            .map(|name| {
                tasks.get(name).map_err(|e| {
                    if self.ask.is_empty() {
                        e
                    } else {
                        e.at("--ask")
                    }
                })
            })
            .collect()
    }
}

fn score_predictions(arguments: &ScoreArguments) -> Result<()> {
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
    let object = to_json(&tuned, base.as_ref())?;
    if let Some(path) = &arguments.out {
        files::write_atomic(path, format!("{object}\n").as_bytes())?;
    }
    match &base {
        _ if arguments.json => print::line(format_args!("{object}"))?,
        None => print::result(format_args!("{}", table::of(&tuned)))?,
        Some(base) => print::result(format_args!(
            "{}\n{}",
            table::beside(base, &tuned),
            table::of(&tuned)
        ))?,
    }
    Ok(())
}

/// The scores as one object, with those of the base under `base` and what differs under `change`.
fn to_json(tuned: &Scores, base: Option<&Scores>) -> Result<serde_json::Value> {
    let mut object = tuned.to_json()?;
    if let Some(base) = base {
        object["base"] = base.to_json()?;
        object["change"] =
            serde_json::to_value(Change::between(base, tuned)).map_err(Error::bug)?;
    }
    Ok(object)
}
