//! `maqam plan`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::arguments::device::DeviceArguments;
use crate::cli::arguments::leakage::LeakageArguments;
use crate::cli::print;
use crate::cli::progress::Stages;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::hub;
use crate::models::shapes;
use crate::plan::AffinitySettings;
use crate::plan::Asked;
use crate::plan::By;
use crate::plan::ModelPlace;
use crate::plan::Plan;
use crate::recipe::Recipe;
use crate::records::picks;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    /// Recipe, a YAML file.
    recipe: PathBuf,
    /// Change a value of the recipe for this plan. Entries of lists count from 0: data.0.weight=2.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write the rows of every step to this file, as JSON lines.
    #[arg(long)]
    picks: Option<PathBuf>,
    /// Write the plan with figures to this file, as HTML.
    #[arg(long)]
    html: Option<PathBuf>,
    /// Measure how far the gradients of tasks point the same way at the start of the run; print
    /// distances, groups, a dendrogram, and stages that introduce the groups.
    #[arg(long)]
    affinity: bool,
    /// What is compared: by default tasks, or manifests if there are fewer than three tasks.
    #[arg(long, value_name = "SETS", requires = "affinity")]
    affinity_by: Option<Sets>,
    /// Number of groups; by default the eigenvalues choose it.
    #[arg(long, value_name = "N", requires = "affinity")]
    affinity_groups: Option<usize>,
    /// Write the stages to this file, as the section `schedule` of a recipe.
    #[arg(long, value_name = "FILE", requires = "affinity")]
    affinity_stages: Option<PathBuf>,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    leakage: LeakageArguments,
    /// Show how the training fits a GPU with this much memory, in GiB.
    #[arg(
        long,
        alias = "card",
        value_name = "GIB",
        allow_negative_numbers = true
    )]
    gpu_memory: Option<f64>,
    #[command(flatten)]
    device: DeviceArguments,
}

/// What `--affinity-by` takes.
#[derive(Clone, Copy, ValueEnum)]
enum Sets {
    /// Rows of a task.
    Task,
    /// Rows of a data entry.
    Manifest,
}

impl From<Sets> for By {
    fn from(sets: Sets) -> Self {
        match sets {
            Sets::Task => Self::Task,
            Sets::Manifest => Self::Manifest,
        }
    }
}

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    let outputs = [
        &arguments.picks,
        &arguments.html,
        &arguments.affinity_stages,
    ];
    for path in outputs.into_iter().flatten() {
        files::expect_writable(path)?;
    }
    let dir = hub::local_dir(&recipe.model.path)?;
    let model = match &dir {
        Some(dir) => ModelPlace::Here(dir),
        None => ModelPlace::Elsewhere(
            format!(
                "`{}` is not on this machine, and a plan downloads nothing",
                recipe.model.path
            ),
            shapes::of_hub_id(&recipe.model.path)
                .map(|config| recipe.audio_encoder.put_into(config))
                .transpose()?
                .map(Box::new),
        ),
    };
    let allowed = arguments.leakage.allowed();
    if arguments
        .gpu_memory
        .is_some_and(|memory| !(memory.is_finite() && memory > 0.0))
    {
        return Err(Error::input("--gpu-memory takes a number of GiB above 0"));
    }
    let gpu_memory = arguments.gpu_memory.map(|memory| memory * GIB);
    let mut stages = Stages::new(stop);
    let asked = Asked {
        model,
        device: &|| arguments.device.open(),
        gpu_memory,
        affinity: arguments.affinity.then(|| AffinitySettings {
            by: arguments.affinity_by.map(By::from),
            groups: arguments.affinity_groups,
        }),
        allowed: &allowed,
    };
    let outcome = Plan::make(&recipe, &asked, &mut |what, done, total| {
        stages.tell(what, done, total)
    });
    stages.clear();
    let plan = outcome?;
    if let Some(path) = &arguments.picks {
        picks::write(path, &plan.picks()?)?;
    }
    if let (Some(path), Some(affinity)) = (&arguments.affinity_stages, plan.affinity()) {
        files::write_atomic(path, affinity.stages_text()?.as_bytes())?;
    }
    if let Some(path) = &arguments.html {
        files::write_atomic(path, plan.page(&recipe.name).html().as_bytes())?;
    }
    if arguments.json {
        return print::line(plan.json());
    }
    print::result(plan.text())?;
    if let Some(path) = &arguments.picks {
        print::line(format_args!("\npicks of every step: {}", path.display()))?;
    }
    if let Some(path) = &arguments.html {
        print::line(format_args!("\nthe plan with pictures: {}", path.display()))?;
    }
    Ok(())
}
