//! `maqam instructions`: a suite of instructions built from any manifest, and the score of a model's answers to it.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;

use crate::cli::arguments::AboutData;
use crate::cli::arguments::WordingName;
use crate::cli::print;
use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::clip::Source;
use crate::eval::instructions::kind::Kind;
use crate::eval::instructions::language::Language;
use crate::eval::instructions::score;
use crate::eval::instructions::score::Constant;
use crate::eval::instructions::score::Scores;
use crate::eval::instructions::settings::Settings;
use crate::eval::instructions::suite::suite;
use crate::eval::instructions::table;
use crate::files;
use crate::task::Task;
use crate::task::Tasks;
use crate::task::Wording;

#[derive(Subcommand)]
pub enum Command {
    /// Build a suite from manifests: instructions about their clips that a program can check.
    Build(BuildArguments),
    /// Score the answers to a suite; `maqam generate --data SUITE` makes them.
    Score(ScoreArguments),
}

#[derive(Args)]
pub struct BuildArguments {
    /// Manifest with the clips; may be repeated. Several manifests of the same clips add to each other.
    #[arg(long, required = true)]
    data: Vec<PathBuf>,
    /// Task of rows that name none: one for all manifests, or one for each in the same order.
    #[arg(long)]
    task: Vec<String>,
    /// Output: a manifest, JSON lines, with `checks` beside the messages.
    #[arg(long)]
    out: PathBuf,
    /// Also write the same rows in text alone, the transcript in place of the audio: `score --text-suite` takes it.
    #[arg(long, value_name = "OUT")]
    text: Option<PathBuf>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Rows of each kind.
    #[arg(long, default_value_t = Settings::default().rows)]
    rows: usize,
    /// Kinds of rows [default: all].
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Tasks to use [default: all].
    #[arg(long, value_delimiter = ',')]
    ask: Vec<String>,
    /// Languages of the instructions.
    #[arg(long, value_delimiter = ',', default_value = "ar,en")]
    languages: Vec<String>,
    /// Set of instructions of the tasks: dev or test.
    #[arg(long, value_enum, default_value_t = WordingName::Dev)]
    wording: WordingName,
    /// Folder of task files that add to or override the built-in ones.
    #[arg(long)]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    about: AboutData,
}

#[derive(Args)]
pub struct ScoreArguments {
    /// Suite, as `build` writes it.
    #[arg(long)]
    suite: PathBuf,
    /// Answers to all of its rows, JSON lines: id, prediction.
    #[arg(long)]
    predictions: PathBuf,
    /// Answers of the model before tuning, to show what it forgot.
    #[arg(long)]
    base: Option<PathBuf>,
    /// The suite in text alone, as `build --text` writes it. It shows what a model forgot apart from the audio.
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
    arguments
        .text
        .as_deref()
        .map_or(Ok(()), files::expect_writable)?;
    let tasks = Tasks::load(arguments.prompts.as_deref())?;
    let settings = arguments.settings()?;
    let manifests = arguments
        .data
        .iter()
        .map(|path| arguments.about.source(path)?.read(OnBadRow::Error))
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
    if let Some(path) = &arguments.text {
        let (lines, left_out) = built.to_text_jsonl()?;
        files::write_atomic(path, lines.as_bytes())?;
        if left_out > 0 {
            print::message(format_args!(
                "note: {left_out} of {} rows have no transcript and are not asked in text alone",
                built.rows.len()
            ));
        }
    }
    for note in manifests.iter().flat_map(|manifest| &manifest.notes) {
        print::message(format_args!("note: {note}"));
    }
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
    let constant = score::constant(&suite);
    let text = arguments.text_scores()?;
    let object = to_json(&tuned, base.as_ref(), constant.as_ref(), text.as_ref())?;
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

impl ScoreArguments {
    /// Scores of the base and of the tuned model on the suite in text alone, where it is named.
    fn text_scores(&self) -> Result<Option<(Scores, Scores)>> {
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

/// The scores as one object: those of the base under `base` and what differs under `change`, the best constant answer under `constant`,
/// both models in text alone under `text`.
fn to_json(
    tuned: &Scores,
    base: Option<&Scores>,
    constant: Option<&Constant>,
    text: Option<&(Scores, Scores)>,
) -> Result<serde_json::Value> {
    let change = |base: &Scores, tuned: &Scores| {
        serde_json::to_value(score::change(base, tuned)).map_err(Error::bug_from)
    };
    let mut object = tuned.to_json()?;
    if let Some(base) = base {
        object["base"] = base.to_json()?;
        object["change"] = change(base, tuned)?;
    }
    if let Some(constant) = constant {
        object["constant"] = constant.scores.to_json()?;
        object["constant"]["answer"] = constant.answer.as_str().into();
        object["constant"]["change"] = change(&constant.scores, tuned)?;
    }
    if let Some((base, tuned)) = text {
        object["text"] = tuned.to_json()?;
        object["text"]["base"] = base.to_json()?;
        object["text"]["change"] = change(base, tuned)?;
    }
    Ok(object)
}
