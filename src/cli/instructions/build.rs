//! `maqam instructions build`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::data::AboutData;
use crate::cli::arguments::task::WordingName;
use crate::cli::print;
use crate::data::Manifest;
use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::clip::Source;
use crate::eval::instructions::kind::InstructionKind;
use crate::eval::instructions::language::Language;
use crate::eval::instructions::settings::Settings;
use crate::eval::instructions::suite::Suite;
use crate::eval::instructions::suite::suite;
use crate::files;
use crate::task::Task;
use crate::task::Tasks;

#[derive(Args)]
pub struct Arguments {
    /// Manifest with the clips; may be repeated. Several manifests of the same clips add to each
    /// other.
    #[arg(long, required = true)]
    data: Vec<PathBuf>,
    /// Task of rows that name none: one for all manifests, or one for each in the same order.
    #[arg(long)]
    task: Vec<String>,
    /// Output: a manifest, JSON lines, with `checks` beside the messages.
    #[arg(long)]
    out: PathBuf,
    /// Also write the same rows in text alone, the transcript in place of the audio:
    /// `score --text-suite` takes it.
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

pub fn run(arguments: &Arguments) -> Result<()> {
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
    let sources = arguments.sources(&manifests, &tasks)?;
    let chosen = arguments.tasks(&tasks)?;

    let built = suite(&sources, &chosen, &settings, arguments.seed)?;
    arguments.write(&built)?;
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
    print::line(format_args!("{:<12} {}", "all", built.rows.len()))
}

impl Arguments {
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
            .map(|name| InstructionKind::of_name(name))
            .collect::<Result<Vec<_>>>()?;
        Ok(Settings {
            rows: self.rows,
            kinds: if kinds.is_empty() {
                InstructionKind::ALL.to_vec()
            } else {
                kinds
            },
            languages: self.languages.iter().map(language).collect::<Result<_>>()?,
            wording: self.wording.wording(),
            ..Settings::default()
        })
    }

    /// The rows of all manifests with their tasks.
    fn sources<'a>(
        &'a self,
        manifests: &'a [Manifest],
        tasks: &'a Tasks,
    ) -> Result<Vec<Source<'a>>> {
        let mut sources = Vec::new();
        for (i, manifest) in manifests.iter().enumerate() {
            let default = self.task_of(i)?;
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
        Ok(sources)
    }

    /// Writes the suite, and the same rows in text alone if that is requested.
    fn write(&self, built: &Suite) -> Result<()> {
        let folder = self
            .out
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        files::write_atomic(&self.out, built.to_jsonl(folder)?.as_bytes())?;
        let Some(path) = &self.text else {
            return Ok(());
        };
        let (lines, left_out) = built.to_text_jsonl()?;
        files::write_atomic(path, lines.as_bytes())?;
        if left_out > 0 {
            print::message(format_args!(
                "note: {left_out} of {} rows have no transcript and are not asked in text alone",
                built.rows.len()
            ));
        }
        Ok(())
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

    fn tasks<'a>(&self, tasks: &'a Tasks) -> Result<Vec<&'a Task>> {
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
