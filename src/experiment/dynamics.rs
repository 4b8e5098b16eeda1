//! How the runs of an experiment went on the way: dev curves, steps to a score, how answers go
//! wrong as training goes on, how tasks pull.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::error::Result;
use crate::experiment::Experiment;
use crate::experiment::Planned;
use crate::metrics::Family;
use crate::metrics::Settings;
use crate::records::comparison::Dynamics;
use crate::records::comparison::Gradients;
use crate::records::comparison::Reached;
use crate::records::comparison::SeedCurves;
use crate::records::log::Line;
use crate::records::prediction;
use crate::records::run_folder;
use crate::records::scores::MEAN;
use crate::records::scores::Scores;
use crate::stats::significance::Resampling;
use crate::stats::significance::convergence::Better;
use crate::stats::significance::convergence::Convergence;
use crate::stats::significance::convergence::Curve;
use crate::stats::significance::convergence::steps_to_reach;

/// The score whose curves are compared.
const CURVE: &str = MEAN;

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
    let seed_curves: Vec<SeedCurves> = (0..recipes.len())
        .map(|recipe| curves_of(runs(recipe)))
        .collect::<Result<_>>()?;
    let mut convergence = Vec::with_capacity(pairs.len());
    for (recipe, against) in pairs {
        let own: Vec<&Planned> = runs(place(recipe)).collect();
        let others: Vec<&Planned> = runs(place(against)).collect();
        convergence.push(Reached {
            recipe: recipe.clone(),
            against: against.clone(),
            found: steps_to_last_score(&others, &own, resampling)?,
        });
    }
    Ok(Dynamics {
        convergence,
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

/// Steps until the last dev score of `others`, by seed, of themselves and of `own`.
fn steps_to_last_score(
    others: &[&Planned],
    own: &[&Planned],
    resampling: &Resampling,
) -> Result<Convergence> {
    let curves = |runs: &[&Planned]| runs.iter().map(|run| dev_curve(run)).collect();
    let targets = others.iter().map(|run| last_score(run));
    let targets: Vec<f64> = targets.collect::<Result<_>>()?;
    let of_others: Result<Vec<Curve>> = curves(others);
    let of_own: Result<Vec<Curve>> = curves(own);
    steps_to_reach(&of_others?, &of_own?, &targets, Better::Higher, resampling)
}

/// Evaluations of a run as it is, controls left out: step and scores.
fn evaluations(run: &Planned) -> Result<Vec<(u64, Scores)>> {
    Ok(evaluations_of(run.log()?))
}

/// Evaluations among the lines of a log. A model that a roll-back of mSFT leaves at the end of a
/// run is evaluated at the step of the roll-back: of two evaluations at one step, the later stands.
fn evaluations_of(lines: Vec<Line>) -> Vec<(u64, Scores)> {
    let mut found: Vec<(u64, Scores)> = Vec::new();
    for line in lines {
        let Line::Eval(record) = line else {
            continue;
        };
        if record.control.is_some() {
            continue;
        }
        if found.last().is_some_and(|last| last.0 == record.at_step) {
            found.pop();
        }
        found.push((record.at_step, record.scores));
    }
    found
}

fn dev_curve(run: &Planned) -> Result<Curve> {
    curve(evaluations(run)?).map_err(|e| e.at_path(&run.recipe.folder()))
}

/// The curve of the compared score.
fn curve(evaluations: Vec<(u64, Scores)>) -> Result<Curve> {
    let scores = evaluations.into_iter();
    Curve::new(
        scores
            .filter_map(|(step, scores)| Some((step, scores.get(CURVE)?)))
            .collect(),
    )
}

fn last_score(run: &Planned) -> Result<f64> {
    Ok(evaluations(run)?
        .last()
        .and_then(|(_, scores)| scores.get(CURVE))
        .unwrap_or(0.0))
}

fn curves_of<'a>(runs: impl Iterator<Item = &'a Planned>) -> Result<SeedCurves> {
    let mut found = SeedCurves::new();
    for run in runs {
        for (step, scores) in evaluations(run)? {
            for (name, value) in scores.0 {
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
    let mut found = BTreeMap::new();
    for (name, steps) in curves {
        let means = steps.iter().map(|(step, values)| (*step, mean(values)));
        found.insert(name.clone(), means.collect());
    }
    found
}

/// Failures of what is said freely, at every evaluation: shares of answers at the limit, with
/// repetition, in a wrong script, insertions, lengths.
fn mean_failures<'a>(
    runs: impl Iterator<Item = &'a Planned>,
) -> Result<BTreeMap<u64, BTreeMap<String, f64>>> {
    let mut sums = BTreeMap::<u64, BTreeMap<String, (f64, f64)>>::new();
    for run in runs {
        for (step, _) in evaluations(run)? {
            for path in answers_in(&run_folder::evaluation(&run.recipe.folder(), step))? {
                let said = prediction::read(&path)?;
                // Labels are chosen, not said freely.
                if said.iter().all(|row| row.meta.contains_key("label")) {
                    continue;
                }
                let set = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let failures =
                    prediction::answers(&said).tallies(&[], Settings::default(), &|metric| {
                        metric.family == Family::Failure
                    })?;
                for tally in failures {
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

/// Adds what a probe found to the values of the other probes.
fn add(values: &mut BTreeMap<String, Vec<f64>>, found: BTreeMap<String, f64>) {
    for (name, value) in found {
        let known = values.entry(name).or_default();
        known.extend(Some(value).filter(|value| value.is_finite()));
    }
}

fn mean_gradients<'a>(runs: impl Iterator<Item = &'a Planned>) -> Result<Gradients> {
    let mut cosines = BTreeMap::<String, Vec<f64>>::new();
    let mut norms = BTreeMap::<String, Vec<f64>>::new();
    let mut volatilities = Vec::new();
    for run in runs {
        let mut lengths = Vec::new();
        for line in run.log()? {
            match line {
                Line::Train(step) => lengths.push(step.grad_norm),
                Line::Probe(found) => {
                    add(&mut cosines, found.cosines);
                    add(&mut norms, found.norms);
                }
                _ => {}
            }
        }
        lengths.retain(|length| length.is_finite());
        // A merge has no steps.
        if lengths.is_empty() {
            continue;
        }
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
        volatility: match volatilities.is_empty() {
            true => f64::NAN,
            false => mean(&volatilities),
        },
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::log::EvalRecord;

    #[test]
    fn the_later_evaluation_of_a_step_stands() {
        let line = |at_step: u64, control: Option<&str>, mean: f64| {
            Line::Eval(EvalRecord {
                at_step,
                control: control.map(str::to_owned),
                selecting: None,
                scores: Scores(vec![(CURVE.to_owned(), mean)]),
            })
        };
        let found = evaluations_of(vec![
            line(2, None, 0.5),
            line(4, None, 0.25),
            // After the roll-back to step 2.
            line(4, None, 0.5),
            line(4, Some("no-audio"), 0.125),
        ]);
        let means: Vec<(u64, Option<f64>)> = found
            .iter()
            .map(|(step, scores)| (*step, scores.get(CURVE)))
            .collect();
        assert_eq!(means, [(2, Some(0.5)), (4, Some(0.5))]);
        assert_eq!(curve(found).unwrap().last_step(), 4);
    }
}
