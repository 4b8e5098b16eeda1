//! `maqam merge`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::arguments::model::model_dir;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::error::Result;
use crate::merge;
use crate::merge::Rank;
use crate::merge::Request;
use crate::merge::Settings;
use crate::merge::merge_folders;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    /// Checkpoint that the adapters were trained on: a folder or a Hub id.
    #[arg(long)]
    model: String,
    /// Adapter: a PEFT folder or a checkpoint of a run. At least two.
    #[arg(long, required = true)]
    adapter: Vec<PathBuf>,
    /// Folder to write. It must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Rule of the merge.
    #[arg(long, value_enum, default_value_t = Method::Linear)]
    method: Method,
    /// Weight of each adapter, in their order, with commas between [default: one over their number
    /// for linear, 1 for ties].
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    weights: Option<Vec<f64>>,
    /// Share of the values of each matrix that ties keeps. Only with ties.
    #[arg(long, default_value_t = merge::DEFAULT_DENSITY)]
    density: f64,
    /// Rank of the merged adapter: a number, or full for the smaller side of each matrix, which is
    /// exact [default: the sum of the adapters' ranks].
    #[arg(long, value_parser = rank)]
    rank: Option<Rank>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Weighted sum of the matrices that the adapters add.
    Linear,
    /// Trim, elect sign, merge (Yadav et al. 2023).
    Ties,
}

/// Relative error of the rank from which a merge is warned of.
const LARGE_ERROR: f64 = 0.1;

fn rank(written: &str) -> std::result::Result<Rank, String> {
    if written == "full" {
        return Ok(Rank::Full);
    }
    let number = written.parse();
    number
        .map(Rank::Of)
        .map_err(|_| "expected a whole number or `full`".to_owned())
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let settings = Settings {
        method: match arguments.method {
            Method::Linear => merge::Method::Linear,
            Method::Ties => merge::Method::Ties,
        },
        weights: arguments.weights.clone(),
        density: arguments.density,
        rank: arguments.rank.unwrap_or_default(),
    };
    settings.check(arguments.adapter.len())?;
    let model_dir = model_dir(&arguments.model)?;
    let mut progress: Option<Progress> = None;
    let request = Request {
        model_dir: &model_dir,
        model: &arguments.model,
        adapters: &arguments.adapter,
        settings: &settings,
        out: &arguments.out,
    };
    let merged = merge_folders(request, &mut |done, total| {
        stop.check("stopped")?;
        progress
            .get_or_insert_with(|| Progress::new("merge", 0, total as u64))
            .update(done as u64, "modules");
        Ok(())
    });
    if let Some(progress) = progress {
        progress.clear();
    }
    let merged = merged?;

    let ranks = merged.plan.modules.values().map(|shape| shape.rank);
    let smallest = ranks.clone().min().unwrap_or(0);
    let largest = ranks.max().unwrap_or(0);
    let ranks = if smallest == largest {
        format!("rank {smallest}")
    } else {
        format!("ranks {smallest} to {largest}")
    };
    let error = match &merged.worst {
        None => "exact".to_owned(),
        Some((module, worst)) => format!(
            "relative error of the rank {:.2e}, at most {worst:.2e} (`{module}`)",
            merged.error
        ),
    };
    print::line(format_args!(
        "{} adapters merged into {}: {} modules of {ranks}, {error}",
        arguments.adapter.len(),
        arguments.out.display(),
        merged.plan.modules.len(),
    ))?;
    if merged.error > LARGE_ERROR {
        print::message(format_args!(
            "warning: the rank changes the merged matrices by {:.0} % of their norm; `--rank full` is exact",
            100.0 * merged.error
        ));
    }
    Ok(())
}
