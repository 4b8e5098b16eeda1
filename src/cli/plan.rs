//! `maqam plan`.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;
use clap::ValueEnum;

use crate::cli::check_stop;
use crate::cli::device::DeviceArguments;
use crate::cli::hub;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::plan::Asked;
use crate::plan::ModelPlace;
use crate::plan::Plan;
use crate::plan::leakage::Kind;
use crate::recipe::Recipe;

#[derive(Args)]
pub struct Arguments {
    /// Recipe, YAML.
    recipe: PathBuf,
    /// Change a value of the recipe; lists count from 0.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write the rows of every step to this file, JSONL.
    #[arg(long)]
    picks: Option<PathBuf>,
    /// Write the plan with pictures to this file, HTML.
    #[arg(long)]
    html: Option<PathBuf>,
    /// What training and the recipe's suite may share; may be given several times.
    #[arg(long, value_enum, value_name = "KIND")]
    allow: Vec<Shared>,
    /// Say how training fills a card with so many GiB of memory, and what of it does not fit.
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    card: Option<f64>,
    #[command(flatten)]
    device: DeviceArguments,
}

/// What training and evaluation rows may share where it is meant.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shared {
    /// Ids.
    Id,
    /// Audio: the contents of a file, in spans that overlap.
    Audio,
    /// Speakers.
    Speaker,
    /// Groups: programmes, documents.
    Group,
}

impl From<Shared> for Kind {
    fn from(shared: Shared) -> Self {
        match shared {
            Shared::Id => Self::Id,
            Shared::Audio => Self::Audio,
            Shared::Speaker => Self::Speaker,
            Shared::Group => Self::Group,
        }
    }
}

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

pub fn run(arguments: &Arguments, stop: &AtomicBool) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    for path in arguments.picks.iter().chain(&arguments.html) {
        files::expect_writable(path)?;
    }
    let dir = hub::local_dir(&recipe.model.path)?;
    let model = match &dir {
        Some(dir) => ModelPlace::Here(dir),
        None => ModelPlace::Elsewhere(format!(
            "`{}` is not on this machine, and a plan downloads nothing",
            recipe.model.path
        )),
    };
    let allowed: Vec<Kind> = arguments
        .allow
        .iter()
        .map(|&shared| shared.into())
        .collect();
    let mut shown: Option<(&'static str, Progress)> = None;
    if arguments
        .card
        .is_some_and(|card| !(card.is_finite() && card > 0.0))
    {
        return Err(Error::input("--card takes a number of GiB above 0"));
    }
    let card = arguments.card.map(|card| card * GIB);
    let asked = Asked {
        model,
        device: &|| arguments.device.open(),
        card,
        allowed: &allowed,
    };
    let outcome = Plan::make(&recipe, &asked, &mut |what, done, total| {
        check_stop(stop)?;
        if shown.as_ref().is_none_or(|(name, _)| *name != what) {
            clear(shown.take());
            shown = Some((what, Progress::new(what, 0, total as u64)));
        }
        if let Some((_, progress)) = shown.as_mut().filter(|_| done < total) {
            progress.update(done as u64, "");
        }
        Ok(())
    });
    clear(shown);
    let plan = outcome?;
    if let Some(path) = &arguments.picks {
        files::write_atomic(path, plan.picks()?.as_bytes())?;
    }
    if let Some(path) = &arguments.html {
        files::write_atomic(path, plan.page(&recipe.name).html().as_bytes())?;
    }
    print::result(format_args!("{}", plan.text()))?;
    if let Some(path) = &arguments.picks {
        print::line(format_args!("\npicks of every step: {}", path.display()))?;
    }
    if let Some(path) = &arguments.html {
        print::line(format_args!("\nthe plan with pictures: {}", path.display()))?;
    }
    Ok(())
}

fn clear(shown: Option<(&'static str, Progress)>) {
    if let Some((_, progress)) = shown {
        progress.clear();
    }
}
