//! Arguments that several commands take: a model, rows, how they are asked.

use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;
use clap::Args;
use clap::ValueEnum;

use crate::cli::device::DeviceArguments;
use crate::cli::hub;
use crate::cli::print;
use crate::cli::prompts;
use crate::data::Columns;
use crate::data::Format;
use crate::data::Manifest;
use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::Source;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::Loader;
use crate::machine;
use crate::models::AudioLlm;
use crate::models::config::Config;
use crate::models::memory::HostNeed;
use crate::models::sizes::Sizes;
use crate::models::trained::Trained;
use crate::nn::lora::Plan;
use crate::nn::precision::Precision;
use crate::seed::Key;
use crate::task::AskedIn;
use crate::task::Example;
use crate::task::Tasks;
use crate::task::Wording;
use crate::task::example_without_task;

/// A checkpoint, and perhaps an adapter.
#[derive(Args, Clone)]
pub struct ModelArguments {
    /// Folder of a Qwen2.5-Omni checkpoint, or its Hub id.
    #[arg(long)]
    pub model: String,
    /// PEFT folder or checkpoint of a run.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArguments,
    #[command(flatten)]
    pub memory: MemoryArguments,
}

/// Whether the memory of the machine is looked at.
#[derive(Args, Clone, Copy)]
pub struct MemoryArguments {
    /// Begin although the machine seems to have too little memory; the system may end the process.
    #[arg(long)]
    pub ignore_memory: bool,
}

impl MemoryArguments {
    /// Refuses a model that does not fit the memory of the machine, where that computes.
    pub fn check(
        self,
        config: &Config,
        plan: &Plan,
        precision: Precision,
        device: &Device,
    ) -> Result<()> {
        if self.ignore_memory || !device.is_cpu() {
            return Ok(());
        }
        HostNeed::answering(&Sizes::of(config, plan), precision)
            .check(machine::available().map(machine::Available::named))
    }
}

impl ModelArguments {
    /// The model with its adapter, and what reads rows for it.
    pub fn open(&self) -> Result<(AudioLlm, Loader)> {
        let device = self.device.open()?;
        let dir = hub::model_dir(&self.model)?;
        let config = Config::load(&dir)?;
        let loader = Loader::new(&dir, &config, None)?;
        let trained = Trained::of(self.adapter.as_deref(), &config)?;
        note(&trained);
        self.memory
            .check(&config, &trained.plan(), Precision::Auto, &device)?;
        let model = trained.open(&dir, &config, &device, None)?;
        Ok((model, loader))
    }
}

/// Prints notes on what an adapter's folder says.
pub fn note(trained: &Trained) {
    for note in trained.notes() {
        print::message(format_args!("note: {note}"));
    }
}

/// Rows to work on.
#[derive(Args, Clone)]
pub struct DataArguments {
    /// Manifest of any format that is read, a folder, or a pattern; rows with `messages` are used as written.
    #[arg(long)]
    pub data: PathBuf,
    #[command(flatten)]
    pub about: AboutData,
}

/// What is said of a manifest.
#[derive(Args, Clone)]
pub struct AboutData {
    /// Where relative audio paths start; by default the manifest's folder.
    #[arg(long)]
    pub audio_root: Option<PathBuf>,
    /// Format of the manifest, such as csv, lhotse or kaldi; by default the files tell it.
    #[arg(long)]
    pub format: Option<Format>,
    /// The file's own names for fields of its rows: FIELD=COLUMN, as in text=sentence; several by commas or repeated.
    #[arg(long, value_name = "FIELD=COLUMN")]
    pub columns: Vec<Columns>,
}

impl AboutData {
    /// A manifest with what is said of it.
    pub fn source(&self, path: &Path) -> Result<Source> {
        let pairs = self.columns.iter().flat_map(Columns::pairs);
        let pairs = pairs.map(|(field, column)| (field.to_owned(), column.to_owned()));
        Ok(Source {
            path: path.to_owned(),
            audio_root: self.audio_root.clone(),
            format: self.format,
            columns: Columns::new(pairs)?,
        })
    }

    /// Reads a manifest; every bad row is an error, and what the user should know is printed.
    pub fn read(&self, path: &Path) -> Result<Manifest> {
        let manifest = self.source(path)?.read(OnBadRow::Error)?;
        for note in &manifest.notes {
            print::message(format_args!("note: {note}"));
        }
        Ok(manifest)
    }
}

impl DataArguments {
    pub fn rows(&self) -> Result<Vec<Row>> {
        Ok(self.about.read(&self.data)?.rows)
    }
}

/// How rows become questions.
#[derive(Args, Clone)]
pub struct TaskArguments {
    /// Task of rows that neither say one nor bring `messages`.
    #[arg(long)]
    pub task: Option<String>,
    /// Folder of task files that add to or override the built-in ones; by default that of the adapter's run.
    #[arg(long)]
    pub prompts: Option<PathBuf>,
    /// Which of the task's instructions are asked.
    #[arg(long, value_enum, default_value_t = WordingName::Test)]
    pub wording: WordingName,
    /// The language of the task's instructions: row (each row's own), both, or a language such as ar or en.
    #[arg(long, value_name = "LANGUAGE", default_value_t = AskedIn::Row)]
    pub instructions: AskedIn,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum WordingName {
    Train,
    Dev,
    Test,
}

impl TaskArguments {
    /// The examples of a manifest's rows, in order; with each the task's limit of new tokens, where it has a task. `adapter` is what
    /// answers them.
    pub fn examples(
        &self,
        rows: &[Row],
        path: &Path,
        adapter: Option<&Path>,
    ) -> Result<Vec<(Example, Option<usize>)>> {
        let prompts = prompts::of(self.prompts.as_deref(), adapter)?;
        let tasks = Tasks::load(prompts.as_deref())?.asked_in(&self.instructions);
        let wording = match self.wording {
            WordingName::Train => Wording::Train,
            WordingName::Dev => Wording::Dev,
            WordingName::Test => Wording::Test,
        };
        if let Some(name) = &self.task {
            tasks.get(name).map_err(|e| e.at("--task"))?;
        }
        let instruction = Key::new(0, "evaluation instruction");
        let example = |(i, row): (usize, &Row)| {
            let name = row.task.as_deref().or(self.task.as_deref());
            match name {
                _ if !row.messages.is_empty() => Ok((
                    example_without_task(row)?,
                    name.and_then(|name| tasks.get(name).ok())
                        .map(|task| task.answer.max_new_tokens),
                )),
                Some(name) => {
                    let task = tasks.get(name)?;
                    Ok((
                        task.example(row, wording, instruction.with(i as u64))?,
                        Some(task.answer.max_new_tokens),
                    ))
                }
                None if row.instruction.is_some() => Ok((example_without_task(row)?, None)),
                None => Err(Error::input("no task")
                    .hint("add --task NAME, or a `task` or `messages` to each row")),
            }
        };
        rows.iter()
            .enumerate()
            .map(|(i, row)| example((i, row)).map_err(|e| e.at(row.place(path))))
            .collect()
    }
}
