//! What an experiment found: every recipe's test scores over its seeds with intervals, the declared contrasts corrected together, budgets.
//!
//! The headline is the last checkpoint, the second view the one that was best on dev. Intervals and p-values come from a bootstrap that resamples
//! seeds (paired across recipes), then speakers or groups, then utterances.

use crate::error::Error;
use crate::error::Result;
use crate::eval::measure::Measured;
use crate::eval::measure::measure;
use crate::eval::slices;
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
/// No seed that all recipes have finished; answers of another test suite; a contrast over a score that the suite does not give.
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
        let num_recipes = seeds[0].len();
        // [sets][recipes][seeds]: the tallies of one run on one set, and the one that stands for the set.
        let mut of_sets = Vec::new();
        let mut scores = Vec::new();
        for set in &suite.sets {
            let mut of_recipes = Vec::with_capacity(num_recipes);
            for recipe in 0..num_recipes {
                let of_seed = |runs: &Vec<&Planned>| {
                    measure(
                        set,
                        &test_answers::read(
                            &runs[recipe].recipe.folder().join("eval").join(folder),
                            set,
                        )?,
                    )
                };
                of_recipes.push(seeds.iter().map(of_seed).collect::<Result<Vec<_>>>()?);
            }
            let clusters = Clusters::named(
                set.examples
                    .iter()
                    .map(|example| slices::cluster(set.cluster, example)),
            );
            for (place, tally) in of_recipes[0][0].tallies.iter().enumerate() {
                let systems: Vec<System> = of_recipes
                    .iter()
                    .map(|seeds| System {
                        seeds: seeds
                            .iter()
                            .map(|measured| measured.tallies[place].units.clone())
                            .collect(),
                    })
                    .collect();
                let resampled = Hierarchical::new(
                    &systems,
                    &clusters,
                    Inside::Resampled,
                    &|sum| tally.score(sum),
                    resampling,
                )?;
                let of_recipe = |seeds: &Vec<Measured>| {
                    let value = |measured: &Measured| measured.tallies[place].corpus();
                    seeds.iter().map(value).collect()
                };
                scores.push(Resampled {
                    name: format!("{}.{}", set.name, tally.name),
                    signature: tally.signature.clone(),
                    seeds: of_recipes.iter().map(of_recipe).collect(),
                    found: resampled,
                });
            }
            of_sets.push(of_recipes);
        }
        let headlines: Vec<Vec<Vec<&Tally>>> = of_sets
            .iter()
            .map(|recipes| {
                recipes
                    .iter()
                    .map(|seeds| seeds.iter().map(|measured| &measured.headline).collect())
                    .collect()
            })
            .collect();
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
        let table = |score: &Resampled| {
            let estimates = (0..score.found.num_systems())
                .map(|recipe| score.found.estimate(recipe))
                .collect::<Result<_>>()?;
            Ok(ScoreTable {
                score: score.name.clone(),
                signature: score.signature.clone(),
                estimates,
                seeds: score.seeds.clone(),
            })
        };
        self.scores.iter().map(table).collect()
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

/// The mean over sets of their headline scores as goodness: the sets' vectors side by side, each utterance in its set's place.
fn mean(
    suite: &Suite,
    headlines: &[Vec<Vec<&Tally>>],
    resampling: &Resampling,
) -> Result<Resampled> {
    let tallies: Vec<&Tally> = headlines
        .iter()
        .map(|of_recipes| of_recipes[0][0])
        .collect();
    let widths: Vec<usize> = tallies
        .iter()
        .map(|tally| tally.units.first().map_or(0, Vec::len))
        .collect();
    let starts: Vec<usize> = widths
        .iter()
        .scan(0, |next, width| {
            Some(std::mem::replace(next, *next + width))
        })
        .collect();
    let total: usize = widths.iter().sum();
    let placed = |set: usize, unit: &Vec<f64>| {
        let mut wide = vec![0.0; total];
        wide[starts[set]..starts[set] + widths[set]].copy_from_slice(unit);
        wide
    };
    let units = |recipe: usize, seed: usize| -> Vec<Vec<f64>> {
        headlines
            .iter()
            .enumerate()
            .flat_map(|(set, of_recipes)| {
                of_recipes[recipe][seed]
                    .units
                    .iter()
                    .map(move |unit| (set, unit))
            })
            .map(|(set, unit)| placed(set, unit))
            .collect()
    };
    let (num_recipes, num_seeds) = (headlines[0].len(), headlines[0][0].len());
    let systems: Vec<System> = (0..num_recipes)
        .map(|recipe| System {
            seeds: (0..num_seeds).map(|seed| units(recipe, seed)).collect(),
        })
        .collect();
    let clusters = Clusters::named(suite.sets.iter().flat_map(|set| {
        set.examples
            .iter()
            .map(|example| slices::cluster(set.cluster, example))
    }));
    let score = |sum: &[f64]| {
        let of_set = |(set, tally): (usize, &&Tally)| {
            tally.goodness(tally.score(&sum[starts[set]..starts[set] + widths[set]]))
        };
        tallies.iter().enumerate().map(of_set).sum::<f64>() / tallies.len() as f64
    };
    let found = Hierarchical::new(&systems, &clusters, Inside::Resampled, &score, resampling)?;
    let of_seed = |recipe: usize, seed: usize| {
        let goodness = |of_recipes: &Vec<Vec<&Tally>>| {
            let tally = of_recipes[recipe][seed];
            tally.goodness(tally.corpus())
        };
        headlines.iter().map(goodness).sum::<f64>() / headlines.len() as f64
    };
    let of_recipe = |recipe| (0..num_seeds).map(|seed| of_seed(recipe, seed)).collect();
    Ok(Resampled {
        name: MEAN.to_owned(),
        signature: "mean of the sets' task metrics as goodness in [0, 1]".to_owned(),
        seeds: (0..num_recipes).map(of_recipe).collect(),
        found,
    })
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
        .map(|difference| difference.student_p)
        .collect();
    let adjusted = holm(&p_values)?;
    let found = experiment
        .contrasts
        .iter()
        .zip(differences)
        .zip(p_values.into_iter().zip(adjusted));
    Ok(found
        .map(|((contrast, difference), (p, adjusted_p))| {
            let verdict = Verdict::of(difference.estimate.value, adjusted_p, experiment.level);
            Contrasted {
                contrast: contrast.clone(),
                difference,
                p,
                adjusted_p,
                verdict,
            }
        })
        .collect())
}
