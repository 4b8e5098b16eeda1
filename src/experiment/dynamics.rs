//! How the runs of an experiment went on the way: dev curves, steps to a score, how answers go wrong as training goes on, how tasks pull.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Serialize;

use crate::error::Result;
use crate::experiment::Experiment;
use crate::experiment::Planned;
use crate::experiment::budget::lines;
use crate::jsonl;
use crate::metrics::Normaliser;
use crate::metrics::Pair;
use crate::metrics::Texts;
use crate::metrics::failures;
use crate::records::prediction::Prediction;
use crate::records::run_folder;
use crate::stats::significance::Resampling;
use crate::stats::significance::convergence::Better;
use crate::stats::significance::convergence::Convergence;
use crate::stats::significance::convergence::Curve;
use crate::stats::significance::convergence::steps_to_reach;

/// The score whose curves are compared.
const CURVE: &str = "mean";

/// What happened on the way, the mean over seeds.
#[derive(Serialize)]
pub struct Dynamics {
    /// Dev scores by recipe, score and step.
    pub curves: Vec<BTreeMap<String, BTreeMap<u64, f64>>>,
    /// The same of each seed: by recipe, score and step, the seeds in their order.
    pub seed_curves: Vec<SeedCurves>,
    /// For each pair of recipes of the contrasts: when the one reaches the dev `mean` that the other ends with.
    pub convergence: Vec<Reached>,
    /// By recipe: failures of transcripts and summaries by step of the evaluation.
    pub failures: Vec<BTreeMap<u64, BTreeMap<String, f64>>>,
    /// By recipe: mean cosine between two tasks' gradients over all probes, and mean length of each task's gradient.
    pub gradients: Vec<Gradients>,
}

/// The values of several seeds, by score and step.
pub type SeedCurves = BTreeMap<String, BTreeMap<u64, Vec<f64>>>;

/// Steps to the score that another recipe ends with.
#[derive(Serialize)]
pub struct Reached {
    /// The recipe.
    pub recipe: String,
    /// The one whose last score is to be reached.
    pub against: String,
    /// Both recipes' steps by seed, and the difference, the recipe's minus the other's.
    pub found: Convergence,
}

/// What a recipe's probes found.
#[derive(Default, Serialize)]
pub struct Gradients {
    /// By `first|second`.
    pub cosines: BTreeMap<String, f64>,
    /// By task.
    pub norms: BTreeMap<String, f64>,
    /// Standard deviation over mean of the gradient's length over the steps of a run.
    pub volatility: f64,
}

/// Reads the way of every run; `seeds` is `[seeds][recipes]`.
pub fn of_recipes(
    experiment: &Experiment,
    recipes: &[String],
    seeds: &[Vec<&Planned>],
    resampling: &Resampling,
) -> Result<Dynamics> {
    let runs = |recipe: usize| seeds.iter().map(move |runs| runs[recipe]);
    let mut pairs: Vec<(&String, &String)> = experiment
        .contrasts
        .iter()
        .map(|contrast| (&contrast.recipe, &contrast.against))
        .collect();
    let mut known = BTreeSet::new();
    pairs.retain(|pair| known.insert(*pair));
    pairs.retain(|(a, b)| {
        experiment
            .recipes
            .iter()
            .all(|entry| !entry.own_budget || (entry.name != **a && entry.name != **b))
    });
    let place = |name: &String| {
        recipes
            .iter()
            .position(|known| known == name)
            .unwrap_or_default()
    };
    // Runs that were never evaluated during training have no curve to compare.
    let is_judged: Vec<bool> = (0..recipes.len())
        .map(|recipe| {
            runs(recipe).try_fold(true, |all, run| Ok(all && !evaluations(run)?.is_empty()))
        })
        .collect::<Result<_>>()?;
    pairs.retain(|(a, b)| is_judged[place(a)] && is_judged[place(b)]);
    let reached = |(recipe, against): (&String, &String)| {
        let curves = |name: &String| {
            runs(place(name))
                .map(dev_curve)
                .collect::<Result<Vec<Curve>>>()
        };
        let targets: Vec<f64> = runs(place(against))
            .map(last_score)
            .collect::<Result<_>>()?;
        let found = steps_to_reach(
            &curves(against)?,
            &curves(recipe)?,
            &targets,
            Better::Higher,
            resampling,
        )?;
        Ok(Reached {
            recipe: recipe.clone(),
            against: against.clone(),
            found,
        })
    };
    let seed_curves: Vec<SeedCurves> = (0..recipes.len())
        .map(|recipe| curves_of(runs(recipe)))
        .collect::<Result<_>>()?;
    Ok(Dynamics {
        convergence: pairs.into_iter().map(reached).collect::<Result<_>>()?,
        curves: seed_curves.iter().map(means).collect(),
        seed_curves,
        failures: (0..recipes.len())
            .map(|recipe| mean_failures(runs(recipe)))
            .collect::<Result<_>>()?,
        gradients: (0..recipes.len())
            .map(|recipe| mean_gradients(runs(recipe)))
            .collect::<Result<_>>()?,
    })
}

/// Evaluations of a run as it is, controls left out: step and scores.
fn evaluations(run: &Planned) -> Result<Vec<(u64, BTreeMap<String, f64>)>> {
    let found = lines(&run.recipe.folder(), "eval")?;
    let plain = found.iter().filter(|line| line["control"].is_null());
    let scores = |line: &serde_json::Value| {
        line["scores"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
            .collect()
    };
    Ok(plain
        .map(|line| (line["at_step"].as_u64().unwrap_or(0), scores(line)))
        .collect())
}

fn dev_curve(run: &Planned) -> Result<Curve> {
    let scores = evaluations(run)?;
    Curve::new(
        scores
            .into_iter()
            .filter_map(|(step, scores)| Some((step, *scores.get(CURVE)?)))
            .collect(),
    )
    .map_err(|e| e.at_path(&run.recipe.folder()))
}

fn last_score(run: &Planned) -> Result<f64> {
    Ok(evaluations(run)?
        .last()
        .and_then(|(_, scores)| scores.get(CURVE).copied())
        .unwrap_or(0.0))
}

fn curves_of<'a>(runs: impl Iterator<Item = &'a Planned>) -> Result<SeedCurves> {
    let mut found = SeedCurves::new();
    for run in runs {
        for (step, scores) in evaluations(run)? {
            for (name, value) in scores {
                found
                    .entry(name)
                    .or_default()
                    .entry(step)
                    .or_default()
                    .push(value);
            }
        }
    }
    Ok(found)
}

/// The mean over seeds at each step.
fn means(curves: &SeedCurves) -> BTreeMap<String, BTreeMap<u64, f64>> {
    let of_steps = |steps: &BTreeMap<u64, Vec<f64>>| {
        steps
            .iter()
            .map(|(step, values)| (*step, mean(values)))
            .collect()
    };
    curves
        .iter()
        .map(|(name, steps)| (name.clone(), of_steps(steps)))
        .collect()
}

/// Failures of what is said freely, at every evaluation: shares of answers at the limit, with repetition, in a wrong script, insertions, lengths.
fn mean_failures<'a>(
    runs: impl Iterator<Item = &'a Planned>,
) -> Result<BTreeMap<u64, BTreeMap<String, f64>>> {
    let mut sums = BTreeMap::<u64, BTreeMap<String, (f64, f64)>>::new();
    for run in runs {
        for (step, _) in evaluations(run)? {
            for path in answers_in(&run_folder::evaluation(&run.recipe.folder(), step))? {
                let said: Vec<Prediction> = jsonl::read::<Prediction>(&path)?
                    .into_iter()
                    .map(|(_, said)| said)
                    .collect();
                // Labels are chosen, not said freely.
                if said.iter().all(|row| row.meta.contains_key("label")) {
                    continue;
                }
                let texts = Texts::new(
                    said.iter()
                        .map(|row| Pair::new(&row.reference, &row.prediction))
                        .collect(),
                    Normaliser::None,
                );
                let set = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let limit =
                    failures::hit_limit(&said.iter().map(|row| row.hit_limit).collect::<Vec<_>>());
                for tally in failures::tallies(&texts).iter().chain([&limit]) {
                    let sum = sums
                        .entry(step)
                        .or_default()
                        .entry(format!("{set}.{}", tally.name))
                        .or_default();
                    *sum = (sum.0 + tally.corpus(), sum.1 + 1.0);
                }
            }
        }
    }
    Ok(sums
        .into_iter()
        .map(|(step, of)| {
            (
                step,
                of.into_iter()
                    .map(|(name, (sum, count))| (name, sum / count))
                    .collect(),
            )
        })
        .collect())
}

fn answers_in(folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let entries =
        std::fs::read_dir(folder).map_err(|e| crate::error::Error::io(folder, "list", e))?;
    let mut paths: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    paths.sort();
    Ok(paths)
}

fn mean_gradients<'a>(runs: impl Iterator<Item = &'a Planned>) -> Result<Gradients> {
    let (mut cosines, mut norms) = (
        BTreeMap::<String, Vec<f64>>::new(),
        BTreeMap::<String, Vec<f64>>::new(),
    );
    let mut volatilities = Vec::new();
    for run in runs {
        for line in lines(&run.recipe.folder(), "probe")? {
            for (of, into) in [("cosines", &mut cosines), ("norms", &mut norms)] {
                for (name, value) in line[of].as_object().into_iter().flatten() {
                    into.entry(name.clone()).or_default().extend(value.as_f64());
                }
            }
        }
        let lengths: Vec<f64> = lines(&run.recipe.folder(), "train")?
            .iter()
            .filter_map(|line| line["grad_norm"].as_f64())
            .collect();
        let middle = mean(&lengths);
        volatilities.push(
            (mean(
                &lengths
                    .iter()
                    .map(|length| (length - middle).powi(2))
                    .collect::<Vec<_>>(),
            ))
            .sqrt()
                / middle,
        );
    }
    let means = |of: BTreeMap<String, Vec<f64>>| {
        of.into_iter()
            .map(|(name, values)| (name, mean(&values)))
            .collect()
    };
    Ok(Gradients {
        cosines: means(cosines),
        norms: means(norms),
        volatility: mean(&volatilities),
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
