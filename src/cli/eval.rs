//! `maqam eval`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::arguments::device::DeviceArguments;
use crate::cli::arguments::device::PrecisionArguments;
use crate::cli::arguments::leakage::LeakageArguments;
use crate::cli::arguments::model::MemoryArguments;
use crate::cli::arguments::model::model_dir;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::cli::progress::Stages;
use crate::data::OnBadRow;
use crate::data::headers;
use crate::data::headers::Headers;
use crate::error::Result;
use crate::eval::results::Folder;
use crate::eval::suite::Suite;
use crate::eval::suite_run::Evaluated;
use crate::eval::suite_run::Observer;
use crate::eval::suite_run::SuiteRun;
use crate::eval::systems;
use crate::eval::systems::Systems;
use crate::featurise::rows::RowCheck;
use crate::recipe::trained_on;
use crate::records::adapter_recipe;
use crate::report::resampled::Resampled;
use crate::report::written;
use crate::stats::significance::Resampling;
use crate::stop::Stop;
use crate::task::Tasks;

#[derive(Args)]
pub struct Arguments {
    /// Suite, a YAML file.
    suite: PathBuf,
    /// Base model, evaluated first: folder of a Qwen2.5-Omni checkpoint, or its Hub id.
    #[arg(long)]
    model: String,
    /// Adapter to evaluate beside the base: a PEFT folder or a checkpoint of a run; may be
    /// repeated. NAME is its name in tables [default: that of its run].
    #[arg(long, value_name = "[NAME=]DIR")]
    adapter: Vec<String>,
    /// Leave the base out.
    #[arg(long, requires = "adapter")]
    no_base: bool,
    /// Folder of the results [default: runs/eval/SUITE].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder of task files that add to or replace the built-in ones
    /// [default: that of the adapters' runs].
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Resamples of each interval and test.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..))]
    resamples: u32,
    /// Cache of answers. Evaluating again does not run the model.
    #[arg(long, value_name = "DIR", default_value = "runs/.answers")]
    answers: PathBuf,
    /// What happens to rows that cannot be read: `error` answers the others and then lists what is
    /// wrong, `skip` scores without them.
    #[arg(long, value_enum, default_value_t = BadRows::Error)]
    on_bad_row: BadRows,
    /// Print one JSON object instead of a table: scores of every system by name, and the folder of
    /// the results.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    leakage: LeakageArguments,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BadRows {
    Error,
    Skip,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let prompts = arguments.prompts()?;
    let tasks = Tasks::load(prompts.as_deref())?;
    let headers = Headers::open(Path::new(headers::FOLDER));
    let suite = arguments.suite(&tasks, &headers, stop)?;
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs/eval").join(&suite.name));
    let systems = arguments.systems()?;
    systems.check_names(&suite)?;
    trained_on::check(
        &arguments.suite,
        systems.adapters(),
        &arguments.leakage.allowed(),
        &headers,
        &mut |note| print::message(format_args!("note: {note}")),
    )?;
    headers.keep();

    let folder = Folder::claim(&out, &suite, prompts.as_deref())?;
    let resampling = Resampling {
        resamples: arguments.resamples as usize,
        ..Resampling::default()
    };
    let suite_run = SuiteRun {
        systems: &systems,
        folder: &folder,
        answers: &arguments.answers,
        resampling,
        on_bad_row: arguments.on_bad_row.into(),
        ignore_memory: arguments.memory.ignore_memory,
    };
    let evaluated = suite_run.run(suite, &mut Screen::default(), stop)?;
    arguments.show(&evaluated, &folder)?;

    let page = written::page_in(&out);
    written::evaluation(&out, &page, false, &Resampled { resampling })?;
    print::message(format_args!("page: {}", page.display()));
    Ok(())
}

impl Arguments {
    /// The folder of task files.
    fn prompts(&self) -> Result<Option<PathBuf>> {
        let folders: Vec<PathBuf> = self
            .adapter
            .iter()
            .map(|written| systems::folder_of(written))
            .collect();
        let folders = folders.iter().map(PathBuf::as_path);
        adapter_recipe::prompts_of(self.prompts.as_deref(), folders)
    }

    /// The suite with the headers of its audio read.
    fn suite(&self, tasks: &Tasks, headers: &Headers, stop: &Stop) -> Result<Suite> {
        let mut stages = Stages::new(stop);
        let mut watch = |what, done, total| stages.tell(what, done, total);
        let on_bad_row = self.on_bad_row.into();
        let mut check = RowCheck::new(headers, None, on_bad_row, "`--on-bad-row skip`", &mut watch);
        let suite = Suite::load_checked(&self.suite, tasks, &mut check);
        let checked = check.finish();
        stages.clear();
        let suite = suite?;
        checked?;
        for note in &suite.notes {
            print::message(format_args!("note: {note}"));
        }
        Ok(suite)
    }

    fn systems(&self) -> Result<Systems> {
        let device = self.device.open()?;
        let computes = self.precision.on(&device)?;
        let dir = model_dir(&self.model)?;
        Systems::new(dir, &self.adapter, self.no_base, (device, computes))
    }

    fn show(&self, evaluated: &Evaluated, folder: &Folder) -> Result<()> {
        match self.json {
            true => print::line(&evaluated.summary)?,
            false => print::line(evaluated.table.trim_end())?,
        }
        for name in folder.outdated(&evaluated.names)? {
            print::message(format_args!(
                "note: {name} was evaluated with another version of this suite; evaluate it again beside the others"
            ));
        }
        print::message(format_args!(
            "predictions, scores and this table: {}",
            folder.path().display()
        ));
        Ok(())
    }
}

impl From<BadRows> for OnBadRow {
    fn from(name: BadRows) -> Self {
        match name {
            BadRows::Error => Self::Error,
            BadRows::Skip => Self::Skip,
        }
    }
}

/// What an evaluation shows on the terminal.
#[derive(Default)]
struct Screen(Option<Progress>);

impl Observer for Screen {
    fn message(&mut self, text: &str) {
        print::message(text);
    }

    fn begin(&mut self, num_open: u64) {
        self.0 = Some(Progress::new("asking", 0, num_open));
    }

    fn loading(&mut self, system: &str) {
        if let Some(progress) = &self.0 {
            progress.line(&format!("loading {system}"));
        }
    }

    fn answered(&mut self, done: u64, system: &str) {
        if let Some(progress) = &mut self.0 {
            progress.update(done, system);
        }
    }

    fn end(&mut self) {
        if let Some(progress) = self.0.take() {
            progress.finish();
        }
    }
}
