//! The smallest difference that each contrast of an experiment can resolve with the planned seeds,
//! speakers and rows, before anything is trained.
//!
//! Variances are stated in the experiment, or estimated from finished runs (pilots). The formulas
//! are in [`crate::stats::significance::power`].

use std::fmt::Write as _;

use crate::error::Error;
use crate::error::Result;
use crate::eval;
use crate::eval::measure::measure;
use crate::eval::slices;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::experiment::Experiment;
use crate::experiment::Planned;
use crate::experiment::compare::Places;
use crate::experiment::runner;
use crate::experiment::test_answers;
use crate::metrics::ScoreName;
use crate::metrics::Tally;
use crate::records::comparison::Contrast;
use crate::records::power::Power;
use crate::records::power::Resolution;
use crate::records::scores::MEAN;
use crate::stats::significance::Clusters;
use crate::stats::significance::FEW;
use crate::stats::significance::Inside;
use crate::stats::significance::power::Components;
use crate::stats::significance::power::Design;
use crate::stats::significance::power::pseudo_values;
use crate::yaml;

/// Finished runs that tell the variances.
pub struct Pilot<'a> {
    /// Its experiment.
    pub experiment: &'a Experiment,
    /// Its runs.
    pub planned: &'a [Planned],
    /// The suite that they were evaluated on.
    pub test: &'a Suite,
}

/// The smallest differences that the contrasts of an experiment can resolve on its test suite.
///
/// # Errors
/// No contrasts; a score that the suite does not give; a pilot with fewer than two finished seeds
/// of two recipes.
pub fn of_experiment(experiment: &Experiment, test: &Suite, pilot: &Pilot) -> Result<Power> {
    if experiment.contrasts.is_empty() {
        return Err(Error::input("`contrasts` is empty: no difference is planned")
            .hint("declare the differences that the experiment is about: `contrasts: [{recipe: a, against: b, score: mean}]`"));
    }
    let settings = experiment.power.clone().unwrap_or_default();
    let known = eval::score_names(test);
    let stated = settings.deviations.iter().map(|stated| &stated.score);
    let contrasts = experiment.contrasts.iter().map(|contrast| &contrast.score);
    for score in stated.chain(contrasts) {
        if !known.contains(score) {
            let near = yaml::nearest(score, known.iter().map(String::as_str))
                .map(|near| format!("did you mean `{near}`? "))
                .unwrap_or_default();
            return Err(
                Error::input(format!("the test suite gives no score `{score}`"))
                    .hint(format!("{near}it gives {}", known.join(", "))),
            );
        }
    }

    let strictest_level = experiment.level / experiment.contrasts.len() as f64;
    let mut contrasts = Vec::with_capacity(experiment.contrasts.len());
    for contrast in &experiment.contrasts {
        let stated = settings
            .deviations
            .iter()
            .find(|stated| stated.score == contrast.score);
        let source = match stated {
            Some(stated) => Source {
                components: stated.components(),
                from: "stated".to_owned(),
                seeds: None,
            },
            None => of_pilot(pilot, contrast)?,
        };
        let components = source.components;
        let clusters = clusters_of(test, &contrast.score);
        let design = Design::new(experiment.seeds.len(), &clusters);
        let smallest = |design: Design| {
            // As `compare` tests.
            components.smallest_difference(
                &design,
                Inside::Resampled,
                strictest_level,
                settings.chance,
            )
        };
        contrasts.push(Resolution {
            contrast: contrast.clone(),
            from: source.from,
            pilot_seeds: source.seeds,
            components,
            design,
            standard_error: components.standard_error(&design),
            parts: components.parts(&design),
            smallest: smallest(design)?,
            with_twice_the_seeds: smallest(design.with_seeds(2 * design.seeds))?,
            with_twice_the_clusters: smallest(design.with_clusters(2))?,
        });
    }
    Ok(Power {
        chance: settings.chance,
        level: experiment.level,
        strictest_level,
        contrasts,
    })
}

/// The sets that a score is of.
fn sets_of<'a>(test: &'a Suite, score: &str) -> Vec<&'a Set> {
    let name = ScoreName::parse(score).set;
    let is_of = |set: &&Set| score == MEAN || name == Some(set.name.as_str());
    test.sets.iter().filter(is_of).collect()
}

/// The clusters of the rows that a score is of.
fn clusters_of(test: &Suite, score: &str) -> Clusters {
    let mut names = Vec::new();
    for set in sets_of(test, score) {
        let examples = set.examples.iter();
        names.extend(examples.map(|example| slices::cluster(set.cluster, example)));
    }
    Clusters::named(names)
}

/// Variances with their origin.
struct Source {
    components: Components,
    from: String,
    seeds: Option<usize>,
}

/// Variances of a contrast from the finished runs of a pilot. Recipes that the pilot does not have
/// are stood for by all pairs of those that it has.
fn of_pilot(pilot: &Pilot, contrast: &Contrast) -> Result<Source> {
    let names: Vec<&str> = pilot
        .experiment
        .recipes
        .iter()
        .map(|entry| entry.name.as_str())
        .collect();
    let place = |name: &str| names.iter().position(|known| *known == name);
    let declared = (place(&contrast.against), place(&contrast.recipe));
    let pairs = match declared {
        (Some(against), Some(recipe)) => vec![(against, recipe)],
        _ => all_pairs(names.len()),
    };

    let clusters = clusters_of(pilot.test, &contrast.score);
    let mut found = Vec::new();
    let mut most_seeds = 0;
    for (first, second) in &pairs {
        let mut differences: Vec<Vec<f64>> = Vec::new();
        for runs in pilot.planned.chunks(names.len()) {
            let pair = [&runs[*first], &runs[*second]];
            if pair
                .iter()
                .all(|run| runner::is_done(&run.recipe.folder(), true))
            {
                let before = values(pilot.test, pair[0], &contrast.score)?;
                let after = values(pilot.test, pair[1], &contrast.score)?;
                differences.push(before.iter().zip(after).map(|(a, b)| b - a).collect());
            }
        }
        if differences.len() >= 2 {
            most_seeds = most_seeds.max(differences.len());
            found.push(
                Components::estimate(&differences, &clusters)
                    .map_err(|e| e.at(format!("`{}` of the pilot", contrast.score)))?,
            );
        }
    }
    if found.is_empty() {
        return Err(Error::input(format!(
            "`{}` against `{}`: no two recipes have two finished seeds",
            contrast.recipe, contrast.against
        ))
        .at_path(&pilot.experiment.folder())
        .hint(
            "train two seeds first, name an experiment with finished runs under `power.pilot`, or state `power.deviations`",
        ));
    }
    let of = if declared.0.is_some() && declared.1.is_some() {
        String::new()
    } else {
        format!(", {} pairs of recipes", found.len())
    };
    let from = format!("{most_seeds} seeds of {}{of}", pilot.experiment.name);
    Ok(Source {
        components: Components::mean(&found),
        from,
        seeds: Some(most_seeds),
    })
}

fn all_pairs(count: usize) -> Vec<(usize, usize)> {
    let firsts = 0..count;
    firsts
        .flat_map(|first| (first + 1..count).map(move |second| (first, second)))
        .collect()
}

/// What each row adds to a score of a run, row by row.
fn values(test: &Suite, run: &Planned, score: &str) -> Result<Vec<f64>> {
    let folder = run.recipe.folder().join("eval").join(runner::TEST_FOLDER);
    let mut measured = Vec::new();
    for set in sets_of(test, score) {
        measured.push(measure(set, &test_answers::read(&folder, set)?)?);
    }
    if score == MEAN {
        let tallies: Vec<&Tally> = measured.iter().map(|set| &set.headline).collect();
        let places = Places::of(&tallies);
        return Ok(pseudo_values(&places.units(&tallies), &|sum| {
            places.mean(sum, &tallies)
        }));
    }
    let name = score.split_once('.').map_or(score, |(_, name)| name);
    let mut tallies = measured.iter().flat_map(|set| &set.tallies);
    let tally = tallies.find(|tally| tally.name == name).ok_or_else(|| {
        Error::input(format!("the pilot's test suite gives no score `{score}`"))
            .hint("name a pilot that was evaluated on the same scores, or state `power.deviations`")
    })?;
    Ok(pseudo_values(&tally.units, &|sum| tally.score(sum)))
}

/// The power of an experiment as Markdown.
pub fn markdown(experiment: &Experiment, power: &Power) -> String {
    let mut text = format!(
        "# {}: the smallest differences that can be resolved\n\n| recipe | against | score | seeds | clusters | rows | smallest difference | with twice the seeds | with twice the clusters | variance from seeds, clusters, rows | variances from |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        experiment.name
    );
    let difference = |found: Option<f64>| match found {
        Some(found) => format!("{found:.4}"),
        None => "none of any size".to_owned(),
    };
    for of in &power.contrasts {
        let whole = of.standard_error * of.standard_error;
        let share = |part: f64| {
            if whole > 0.0 {
                format!("{:.0} %", 100.0 * part / whole)
            } else {
                "0 %".to_owned()
            }
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {}, {} | {} |",
            of.contrast.recipe,
            of.contrast.against,
            of.contrast.score,
            of.design.seeds,
            of.design.clusters,
            of.design.rows,
            difference(of.smallest),
            difference(of.with_twice_the_seeds),
            difference(of.with_twice_the_clusters),
            share(of.parts.seeds),
            share(of.parts.clusters),
            share(of.parts.rows),
            of.from,
        );
    }
    let _ = writeln!(
        text,
        "\nA true difference of this size is significant with a chance of {:.0} %, at the level {:.4} that the smallest of {} p-values has to reach under Holm's method ({} for all). Differences are in the unit of the score.",
        100.0 * power.chance,
        power.strictest_level,
        power.contrasts.len(),
        power.level
    );
    for of in &power.contrasts {
        if of.smallest.is_none() {
            let _ = writeln!(
                text,
                "\nnote: {} clusters allow no p-value below {:.4} for `{}`: more speakers or groups are needed, not more seeds.",
                of.design.clusters,
                of.design.least_p(),
                of.contrast.score
            );
        }
        if of.pilot_seeds.is_some_and(|seeds| seeds < FEW) {
            let _ = writeln!(
                text,
                "\nnote: variances of `{}` are from {}: with few seeds they may be off by a factor of two or more.",
                of.contrast.score, of.from
            );
        }
    }
    text
}
