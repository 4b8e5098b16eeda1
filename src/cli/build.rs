//! `maqam build`: a speech-summarization data set from text.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use serde_json::json;

use crate::build;
use crate::build::Build;
use crate::build::Model;
use crate::build::Models;
use crate::build::Observer;
use crate::build::Recipe;
use crate::build::Shard;
use crate::build::Step;
use crate::build::listen::maqam::Recogniser;
use crate::cli::arguments::device::DeviceArguments;
use crate::cli::arguments::model::MemoryArguments;
use crate::cli::arguments::model::ModelArguments;
use crate::cli::arguments::model::model_dir;
use crate::cli::print;
use crate::cli::progress::Stages;
use crate::error::Error;
use crate::error::Result;
use crate::eval::content;
use crate::eval::content::Contents;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    /// Recipe, YAML.
    recipe: PathBuf,
    /// Folder of all data sets; the set goes to a folder of its name.
    #[arg(long, default_value = "datasets")]
    out: PathBuf,
    /// Collect and clean, then say how many documents, hours and requests are ahead. No engine is
    /// asked.
    #[arg(long)]
    dry_run: bool,
    /// Last step to run.
    #[arg(long, value_enum, default_value_t = StepName::Publish)]
    until: StepName,
    /// Work on one of several parts of the rows, up to `listen`: i/n, or auto under Slurm, Open MPI
    /// or Kubernetes. Run the command without it to join them.
    #[arg(long, value_name = "i/n")]
    shard: Option<String>,
    /// Rows that are worked on at once; by default as many as there are processors.
    #[arg(long)]
    workers: Option<usize>,
    /// Change a value of the recipe; lists count from 0.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    /// Ratings that review.html exported: say how far raters agree, and build nothing.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    ratings: Vec<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum StepName {
    Collect,
    Clean,
    Summarise,
    Verify,
    Speak,
    Listen,
    Split,
    Publish,
}

impl StepName {
    fn step(self) -> Step {
        match self {
            Self::Collect => Step::Collect,
            Self::Clean => Step::Clean,
            Self::Summarise => Step::Summarise,
            Self::Verify => Step::Verify,
            Self::Speak => Step::Speak,
            Self::Listen => Step::Listen,
            Self::Split => Step::Split,
            Self::Publish => Step::Publish,
        }
    }
}

/// Progress on the terminal.
struct Screen<'a> {
    stages: Stages<'a>,
    stop: &'a Stop,
}

impl Observer for Screen<'_> {
    fn tell(&mut self, step: &'static str, done: usize, total: usize) -> Result<()> {
        let place = match total {
            // Nobody knows how many documents a source holds before it is read.
            0 => String::new(),
            total => format!(" after {done} of {total} rows"),
        };
        self.stop.check(format_args!(
            "stopped in {step}{place}; run the command again to go on"
        ))?;
        let total = if total == 0 { done + 1 } else { total };
        self.stages.tell(step, done, total)
    }

    fn line(&mut self, text: &str) {
        print::message(text);
    }
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    if !arguments.ratings.is_empty() {
        return show_agreement(&arguments.ratings);
    }
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    let shard = match &arguments.shard {
        Some(written) => written.parse()?,
        None => Shard::WHOLE,
    };
    let num_workers = match arguments.workers {
        Some(0) => return Err(Error::input("--workers 0 does nothing").hint("give 1 or more")),
        Some(number) => number,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    recipe.check().map_err(|e| e.at_path(&arguments.recipe))?;
    let until = arguments.until.step();
    let (recogniser, models) = match arguments.dry_run {
        true => (None, Models::none()),
        false => arguments.models(&recipe, until)?,
    };
    let opened = Build {
        recipe,
        root: arguments.out.clone(),
        shard,
        num_workers,
        recogniser,
        models,
        stop,
    };
    let mut screen = Screen {
        stages: Stages::new(stop),
        stop,
    };
    if arguments.dry_run {
        let estimate = opened.estimate(&mut screen);
        screen.stages.clear();
        for line in estimate?.lines() {
            print::line(line)?;
        }
        return Ok(());
    }

    let outcome = opened.run(until, &mut screen);
    screen.stages.clear();
    let outcome = outcome?;
    for note in &outcome.notes {
        print::message(format_args!("note: {note}"));
    }
    let rejected = outcome.rejected;
    match outcome.published {
        Some(published) => {
            print::line(format_args!(
                "{} collected = {published} published + {rejected} rejected",
                outcome.collected
            ))?;
            print::message(format_args!("done: {}", opened.folder().display()));
        }
        None => {
            print::line(format_args!(
                "{} collected, {rejected} rejected, {} go on after {}",
                outcome.collected,
                outcome.pending,
                until.name()
            ))?;
            if !shard.is_whole() {
                print::message("this part is done; when all are, run the command without --shard");
            }
        }
    }
    Ok(())
}

impl Arguments {
    /// Finds the models of a recipe, and opens the maqam model that listens.
    fn models(&self, recipe: &Recipe, until: Step) -> Result<(Option<Recogniser>, Models)> {
        let listens = until >= Step::Listen && recipe.listen.needs_maqam_model();
        let recogniser = recipe.listen.model.as_deref().filter(|_| listens);
        let names = recipe.local_models();
        if recogniser.is_none() && names.is_empty() {
            return Ok((None, Models::none()));
        }
        let contents = Contents::open(Path::new(content::FOLDER))?;
        let mut found = BTreeMap::new();
        for (_, key, name) in names {
            let model = local_model(name, &contents).map_err(|e| e.at(key))?;
            found.insert(name.to_owned(), model);
        }
        let recogniser = match recogniser {
            Some(model) => Some(self.recogniser(model, recipe, &contents)?),
            None => None,
        };
        Ok((recogniser, Models::new(found)))
    }

    /// Opens the maqam model that listens.
    fn recogniser(&self, model: &str, recipe: &Recipe, contents: &Contents) -> Result<Recogniser> {
        let adapter = recipe.listen.adapter.clone();
        let dir = model_dir(model)?;
        let computes = format!("{:?}", self.device.choice());
        let hash = contents
            .model(&dir, adapter.as_deref(), &computes)
            .map_err(|e| e.at("listen.model"))?;
        // A part that another machine listened to stays valid on this one.
        let files = contents
            .model(&dir, adapter.as_deref(), "")
            .map_err(|e| e.at("listen.model"))?;
        let opened = ModelArguments {
            model: model.to_owned(),
            adapter: adapter.clone(),
            device: self.device,
            memory: self.memory,
        };
        let (model, loader) = opened.open().map_err(|e| e.at("listen.model"))?;
        let mut name = opened.model;
        if let Some(adapter) = adapter {
            name.push_str(&format!(" with {}", adapter.display()));
        }
        Ok(Recogniser {
            model,
            loader,
            identity: json!(hash.to_hex().as_str()),
            files: json!(files.to_hex().as_str()),
            name,
        })
    }
}

/// Files of a local model, which is a GGUF file, a folder or a Hub id.
fn local_model(name: &str, contents: &Contents) -> Result<Model> {
    let path = PathBuf::from(name);
    if path.extension().is_some_and(|ending| ending == "gguf") {
        let hash = contents.file(&path)?;
        return Ok(Model { path, hash });
    }
    let path = model_dir(name)?;
    let files = contents.files_of_model(&path, true)?;
    let list = serde_json::to_string(&files).map_err(Error::bug_from)?;
    Ok(Model {
        path,
        hash: blake3::hash(list.as_bytes()).to_hex().to_string(),
    })
}

fn show_agreement(paths: &[PathBuf]) -> Result<()> {
    let found = build::agreement(paths)?;
    print::line(format_args!(
        "{} raters, {} rows",
        found.num_raters, found.num_rows
    ))?;
    for scale in &found.scales {
        let alpha = scale
            .alpha
            .map_or("-".to_owned(), |alpha| format!("{alpha:.3}"));
        print::line(format_args!(
            "{:<10} mean {:.2} of {} grades, Krippendorff's alpha {alpha}",
            scale.name, scale.mean, scale.num
        ))?;
    }
    Ok(())
}
