//! What an experiment found: every recipe's test scores over its seeds with intervals, the declared
//! contrasts corrected together, budgets.
//!
//! The headline is the last checkpoint, the second view the one that was best on dev. Intervals and
//! p-values come from a bootstrap that resamples seeds (paired across recipes), then speakers or
//! groups, then utterances.

use std::ops::Range;

use crate::error::Error;
use crate::error::Result;
use crate::eval::measure::Measured;
use crate::eval::measure::measure;
use crate::eval::slices;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::experiment::Experiment;
use crate::experiment::Planned;
use crate::experiment::budget;
use crate::experiment::dynamics;
use crate::experiment::runner;
use crate::experiment::test_answers;
use crate::metrics::ScoreName;
use crate::metrics::Tally;
use crate::records::comparison::Comparison;
use crate::records::comparison::Contrast;
use crate::records::comparison::Contrasted;
use crate::records::comparison::ScoreTable;
use crate::records::scores::MEAN;
use crate::stats::significance::Clusters;
use crate::stats::significance::Difference;
use crate::stats::significance::Hierarchical;
use crate::stats::significance::Inside;
use crate::stats::significance::Resampling;
use crate::stats::significance::System;
use crate::stats::significance::Verdict;
use crate::stats::significance::holm;

/// Compares the seeds that every recipe has finished.
///
/// # Errors
/// No seed that all recipes have finished; answers of another test suite; a contrast over a score
/// that the suite does not give.
pub fn compare(experiment: &Experiment, planned: &[Planned], test: &Suite) -> Result<Comparison> {
    let recipes: Vec<String> = experiment
        .recipes
        .iter()
        .map(|entry| entry.name.clone())
        .collect();
    let (seeds, missing) = finished(planned, recipes.len());
    if seeds.len() < 2 {
        return Err(Error::input(format!(
            "{} seeds are finished with every recipe",
            seeds.len()
        ))
        .at_path(&experiment.folder())
        .hint(
            "start the experiment again to train the rest; a comparison needs at least two seeds, better five",
        ));
    }
    let resampling = Resampling {
        resamples: experiment.resamples,
        ..Resampling::default()
    };
    let last = Judged::read(test, &seeds, runner::TEST_FOLDER, &resampling)?;
    let best = Judged::read(test, &seeds, runner::BEST_FOLDER, &resampling)?;
    let mut notes: Vec<String> = last.notes()?;
    if missing > 0 {
        notes.insert(
            0,
            format!(
                "{missing} of {} seeds are not finished with every recipe and left out",
                experiment.seeds.len()
            ),
        );
    }
    Ok(Comparison {
        num_seeds: seeds.len(),
        budgets: budget::of_recipes(&seeds)?,
        last: last.tables()?,
        best: best.tables()?,
        contrasts: contrasts(experiment, &recipes, &last)?,
        dynamics: dynamics::of_recipes(experiment, &recipes, &seeds, &resampling)?,
        recipes,
        notes,
    })
}

/// The runs of the seeds that are whole, `[seeds][recipes]`, and the number of other seeds.
fn finished(planned: &[Planned], num_recipes: usize) -> (Vec<Vec<&Planned>>, usize) {
    let seeds: Vec<Vec<&Planned>> = planned
        .chunks(num_recipes)
        .map(|runs| runs.iter().collect())
        .collect();
    let num_seeds = seeds.len();
    let whole: Vec<_> = seeds
        .into_iter()
        .filter(|runs: &Vec<&Planned>| {
            runs.iter()
                .all(|run| runner::is_done(&run.recipe.folder(), true))
        })
        .collect();
    let missing = num_seeds - whole.len();
    (whole, missing)
}

/// Every score of every recipe and seed, resampled.
struct Judged {
    /// By score.
    scores: Vec<Resampled>,
}

/// A score of an experiment, resampled.
struct Resampled {
    /// Its name.
    name: String,
    /// How it is computed.
    signature: String,
    /// Its value by recipe and seed.
    seeds: Vec<Vec<f64>>,
    /// Its resamples.
    found: Hierarchical,
}

impl Judged {
    fn read(
        suite: &Suite,
        seeds: &[Vec<&Planned>],
        folder: &str,
        resampling: &Resampling,
    ) -> Result<Self> {
        // [sets][recipes][seeds]: the tallies of one run on one set, and the one that stands for
        // the set.
        let mut of_sets = Vec::new();
        let mut scores = Vec::new();
        for set in &suite.sets {
            let of_recipes = measured(set, seeds, folder)?;
            scores.extend(resampled(set, &of_recipes, resampling)?);
            of_sets.push(of_recipes);
        }

        let headlines: Vec<Vec<Vec<&Tally>>> =
            of_sets.iter().map(|recipes| headlines(recipes)).collect();
        scores.push(mean(suite, &headlines, resampling)?);
        Ok(Self { scores })
    }

    fn get(&self, name: &str) -> Result<&Hierarchical> {
        self.scores
            .iter()
            .find(|score| score.name == name)
            .map(|score| &score.found)
            .ok_or_else(|| {
                let known: Vec<&str> = self
                    .scores
                    .iter()
                    .map(|score| score.name.as_str())
                    .collect();
                Error::input(format!(
                    "`contrasts`: the test suite gives no score `{name}`"
                ))
                .hint(format!("it gives {}", known.join(", ")))
            })
    }

    fn tables(&self) -> Result<Vec<ScoreTable>> {
        let mut tables = Vec::with_capacity(self.scores.len());
        for score in &self.scores {
            let recipes = 0..score.found.num_systems();
            let estimates = recipes.map(|recipe| score.found.estimate(recipe));
            tables.push(ScoreTable {
                score: score.name.clone(),
                signature: score.signature.clone(),
                estimates: estimates.collect::<Result<_>>()?,
                seeds: score.seeds.clone(),
            });
        }
        Ok(tables)
    }

    /// What any of the estimates warns of, said once with the sets that it is about.
    fn notes(&self) -> Result<Vec<String>> {
        let mut found: Vec<(String, Vec<&str>)> = Vec::new();
        for score in &self.scores {
            // `mean` is over all sets.
            let set = ScoreName::parse(&score.name).set.unwrap_or(MEAN);
            for note in score.found.estimate(0)?.notes {
                let said = note.to_string();
                match found.iter_mut().find(|(known, _)| *known == said) {
                    Some((_, sets)) if sets.contains(&set) => {}
                    Some((_, sets)) => sets.push(set),
                    None => found.push((said, vec![set])),
                }
            }
        }
        let said = |(note, sets): (String, Vec<&str>)| format!("{}: {note}", sets.join(", "));
        Ok(found.into_iter().map(said).collect())
    }
}

/// The test answers of every run to a set, measured: `[recipes][seeds]`.
fn measured(set: &Set, seeds: &[Vec<&Planned>], folder: &str) -> Result<Vec<Vec<Measured>>> {
    let mut of_recipes = Vec::new();
    for recipe in 0..seeds[0].len() {
        let mut of_seeds = Vec::with_capacity(seeds.len());
        for runs in seeds {
            let folder = runs[recipe].recipe.folder().join("eval").join(folder);
            of_seeds.push(measure(set, &test_answers::read(&folder, set)?)?);
        }
        of_recipes.push(of_seeds);
    }
    Ok(of_recipes)
}

/// Every score of a set, resampled.
fn resampled(
    set: &Set,
    of_recipes: &[Vec<Measured>],
    resampling: &Resampling,
) -> Result<Vec<Resampled>> {
    let examples = set.examples.iter();
    let clusters = examples.map(|example| slices::cluster(set.cluster, example));
    let clusters = Clusters::named(clusters);

    let mut scores = Vec::new();
    for (place, tally) in of_recipes[0][0].tallies.iter().enumerate() {
        let mut systems = Vec::with_capacity(of_recipes.len());
        let mut values = Vec::with_capacity(of_recipes.len());
        for seeds in of_recipes {
            let tallies: Vec<&Tally> = seeds.iter().map(|seed| &seed.tallies[place]).collect();
            values.push(tallies.iter().map(|tally| tally.corpus()).collect());
            systems.push(System {
                seeds: tallies.iter().map(|tally| tally.units.clone()).collect(),
            });
        }
        scores.push(Resampled {
            name: format!("{}.{}", set.name, tally.name),
            signature: tally.signature.clone(),
            seeds: values,
            found: Hierarchical::new(
                &systems,
                &clusters,
                Inside::Resampled,
                &|sum| tally.score(sum),
                resampling,
            )?,
        });
    }
    Ok(scores)
}

/// The tallies that stand for a set.
fn headlines(of_recipes: &[Vec<Measured>]) -> Vec<Vec<&Tally>> {
    let mut found = Vec::with_capacity(of_recipes.len());
    for seeds in of_recipes {
        found.push(seeds.iter().map(|measured| &measured.headline).collect());
    }
    found
}

/// Places of the vectors of sets side by side in one.
pub(super) struct Places {
    ranges: Vec<Range<usize>>,
    width: usize,
}

impl Places {
    /// The places of these tallies, one of each set.
    pub(super) fn of(tallies: &[&Tally]) -> Self {
        let mut ranges = Vec::with_capacity(tallies.len());
        let mut width = 0;
        for tally in tallies {
            let end = width + tally.units.first().map_or(0, Vec::len);
            ranges.push(width..end);
            width = end;
        }
        Self { ranges, width }
    }

    /// The vectors of one run, each in the place of its set. `of_sets` are the tallies of that run.
    pub(super) fn units(&self, of_sets: &[&Tally]) -> Vec<Vec<f64>> {
        let mut units = Vec::new();
        for (range, tally) in self.ranges.iter().zip(of_sets) {
            for unit in &tally.units {
                let mut wide = vec![0.0; self.width];
                wide[range.clone()].copy_from_slice(unit);
                units.push(wide);
            }
        }
        units
    }

    /// The mean over sets of their goodness, from the sum of vectors.
    pub(super) fn mean(&self, sum: &[f64], tallies: &[&Tally]) -> f64 {
        let of_sets = self.ranges.iter().zip(tallies);
        let goodness =
            of_sets.map(|(range, tally)| tally.goodness(tally.score(&sum[range.clone()])));
        goodness.sum::<f64>() / tallies.len() as f64
    }
}

/// The mean over sets of their headline scores as goodness: the sets' vectors side by side, each
/// utterance in its set's place.
fn mean(
    suite: &Suite,
    headlines: &[Vec<Vec<&Tally>>],
    resampling: &Resampling,
) -> Result<Resampled> {
    let num_recipes = headlines[0].len();
    let num_seeds = headlines[0][0].len();
    let of_run = |recipe: usize, seed: usize| -> Vec<&Tally> {
        let of_sets = headlines.iter();
        of_sets.map(|recipes| recipes[recipe][seed]).collect()
    };
    let tallies = of_run(0, 0);
    let places = Places::of(&tallies);

    let mut systems = Vec::with_capacity(num_recipes);
    let mut values = Vec::with_capacity(num_recipes);
    for recipe in 0..num_recipes {
        let runs: Vec<Vec<&Tally>> = (0..num_seeds).map(|seed| of_run(recipe, seed)).collect();
        values.push(runs.iter().map(|tallies| mean_goodness(tallies)).collect());
        systems.push(System {
            seeds: runs.iter().map(|tallies| places.units(tallies)).collect(),
        });
    }

    let clusters = suite.sets.iter().flat_map(|set| {
        let examples = set.examples.iter();
        examples.map(|example| slices::cluster(set.cluster, example))
    });
    Ok(Resampled {
        name: MEAN.to_owned(),
        signature: "mean of the sets' task metrics as goodness in [0, 1]".to_owned(),
        seeds: values,
        found: Hierarchical::new(
            &systems,
            &Clusters::named(clusters),
            Inside::Resampled,
            &|sum| places.mean(sum, &tallies),
            resampling,
        )?,
    })
}

/// The mean of the goodness of tallies.
fn mean_goodness(tallies: &[&Tally]) -> f64 {
    let goodness = tallies.iter().map(|tally| tally.goodness(tally.corpus()));
    goodness.sum::<f64>() / tallies.len() as f64
}

fn contrasts(
    experiment: &Experiment,
    recipes: &[String],
    judged: &Judged,
) -> Result<Vec<Contrasted>> {
    let place = |name: &String| {
        recipes
            .iter()
            .position(|known| known == name)
            .ok_or_else(|| Error::bug(format!("no recipe `{name}`")))
    };
    let difference = |contrast: &Contrast| {
        judged
            .get(&contrast.score)?
            .difference(place(&contrast.against)?, place(&contrast.recipe)?)
    };
    let differences: Vec<Difference> = experiment
        .contrasts
        .iter()
        .map(difference)
        .collect::<Result<_>>()?;
    let p_values: Vec<f64> = differences
        .iter()
        .map(Difference::supported_student_p)
        .collect();
    let adjusted = holm(&p_values)?;

    let mut found = Vec::with_capacity(adjusted.len());
    let with_contrasts = experiment.contrasts.iter().zip(differences);
    for ((contrast, difference), adjusted_p) in with_contrasts.zip(adjusted) {
        let verdict = Verdict::of(difference.estimate.value, adjusted_p, experiment.level);
        found.push(Contrasted {
            contrast: contrast.clone(),
            p: difference.supported_student_p(),
            difference,
            adjusted_p,
            verdict,
        });
    }
    Ok(found)
}
