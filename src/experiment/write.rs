//! The comparison of an experiment as Markdown: tables of scores and contrasts, with "not resolved"
//! for differences that are not significant.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::experiment::Experiment;
use crate::metrics;
use crate::metrics::Better;
use crate::records::comparison::Comparison;
use crate::records::comparison::Contrasted;
use crate::records::comparison::Reached;
use crate::records::comparison::ScoreTable;

/// The whole comparison.
pub fn markdown(experiment: &Experiment, outcome: &Comparison) -> String {
    let mut text = format!(
        "# {}\n\n{} recipes, {} seeds each.\n",
        experiment.name,
        outcome.recipes.len(),
        outcome.num_seeds
    );
    let _ = writeln!(
        text,
        "\n## Test scores, last checkpoint\n\n{}",
        scores(outcome, &outcome.last)
    );
    let _ = writeln!(
        text,
        "\nMean over seeds, with the 95 % interval of Student's t over resampled seeds, speakers or groups, and utterances. Percent."
    );
    let _ = writeln!(
        text,
        "\n## Test scores, best on dev\n\n{}",
        scores(outcome, &outcome.best)
    );
    if !outcome.contrasts.is_empty() {
        let _ = writeln!(text, "\n## Contrasts\n\n{}", contrasts(outcome));
        let _ = writeln!(
            text,
            "\np-values by Student's t, corrected together by Holm's method; resolved at {}.",
            experiment.level
        );
    }
    if !outcome.dynamics.convergence.is_empty() {
        let _ = writeln!(
            text,
            "\n## Steps to the other's last dev score\n\n{}",
            convergence(outcome)
        );
    }
    let _ = writeln!(
        text,
        "\n## Answers that go wrong, by step\n\n{}",
        failures(outcome)
    );
    let _ = writeln!(text, "\n## Gradients\n\n{}", gradients(outcome));
    let _ = writeln!(text, "\n## Budgets\n\n{}", budgets(outcome));
    if !outcome.notes.is_empty() {
        let _ = writeln!(text, "\n## Before believing it\n");
        outcome
            .notes
            .iter()
            .for_each(|note| text += &format!("- {note}\n"));
    }
    text
}

fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    line(head)
        + &line(&head.iter().map(|_| "---".to_owned()).collect::<Vec<_>>())
        + &rows.iter().map(|row| line(row)).collect::<String>()
}

fn percent(value: f64) -> String {
    format!("{:.1}", 100.0 * value)
}

fn scores(outcome: &Comparison, tables: &[ScoreTable]) -> String {
    let head: Vec<String> = std::iter::once("recipe".to_owned())
        .chain(tables.iter().map(|of| of.score.clone()))
        .collect();
    let best: Vec<Option<usize>> = tables.iter().map(best_of).collect();

    let mut rows = Vec::with_capacity(outcome.recipes.len());
    for (recipe, name) in outcome.recipes.iter().enumerate() {
        let mut row = vec![name.clone()];
        for (of, best) in tables.iter().zip(&best) {
            row.push(score_cell(of, recipe, *best == Some(recipe)));
        }
        rows.push(row);
    }
    table(&head, &rows)
}

/// A recipe's value of a score with its interval, in bold if it is the best.
fn score_cell(of: &ScoreTable, recipe: usize, is_best: bool) -> String {
    let estimate = &of.estimates[recipe];
    let mut value = percent(estimate.value);
    if is_best {
        value = format!("**{value}**");
    }

    let (low, high) = metrics::range(&of.score);
    let interval = estimate.student_interval;
    let [first, last] = [interval.low, interval.high].map(|end| percent(end.clamp(low, high)));
    format!("{value} [{first}, {last}]")
}

/// The recipe with the best value of a score that has a better end.
fn best_of(of: &ScoreTable) -> Option<usize> {
    let better = metrics::better(&of.score);
    let rank = |recipe: &usize| better.rank(of.estimates[*recipe].value);
    (better != Better::NearOne)
        .then(|| (0..of.estimates.len()).max_by(|a, b| rank(a).total_cmp(&rank(b))))?
}

fn contrasts(outcome: &Comparison) -> String {
    let head = [
        "recipe",
        "against",
        "score",
        "difference",
        "95 % interval",
        "p",
        "p, corrected",
        "verdict",
    ]
    .map(str::to_owned);
    let contrasts = outcome.contrasts.iter();
    table(&head, &contrasts.map(contrast_row).collect::<Vec<_>>())
}

fn contrast_row(found: &Contrasted) -> Vec<String> {
    let contrast = &found.contrast;
    let estimate = &found.difference.estimate;
    let interval = estimate.student_interval;
    vec![
        contrast.recipe.clone(),
        contrast.against.clone(),
        contrast.score.clone(),
        format!("{:+.1}", 100.0 * estimate.value),
        format!(
            "[{:+.1}, {:+.1}]",
            100.0 * interval.low,
            100.0 * interval.high
        ),
        format!("{:.3}", found.p),
        format!("{:.3}", found.adjusted_p),
        found.verdict.to_string(),
    ]
}

fn convergence(outcome: &Comparison) -> String {
    let head = [
        "recipe",
        "reaches the last dev mean of",
        "steps by seed",
        "the other's",
        "difference",
        "95 % interval",
    ]
    .map(str::to_owned);
    let convergence = outcome.dynamics.convergence.iter();
    table(&head, &convergence.map(reached_row).collect::<Vec<_>>())
}

fn reached_row(reached: &Reached) -> Vec<String> {
    let estimate = &reached.found.difference.estimate;
    let interval = estimate.student_interval;
    vec![
        reached.recipe.clone(),
        reached.against.clone(),
        steps_by_seed(&reached.found.steps[1]),
        steps_by_seed(&reached.found.steps[0]),
        format!("{:+.0}", estimate.value),
        format!("[{:+.0}, {:+.0}]", interval.low, interval.high),
    ]
}

fn steps_by_seed(steps: &[Option<f64>]) -> String {
    let steps = steps
        .iter()
        .map(|step| step.map_or("never".to_owned(), |step| format!("{step:.0}")));
    steps.collect::<Vec<_>>().join(" ")
}

fn failures(outcome: &Comparison) -> String {
    let names: BTreeSet<&String> = outcome
        .dynamics
        .failures
        .iter()
        .flat_map(|of| of.values())
        .flat_map(|of| of.keys())
        .collect();
    let head: Vec<String> = ["recipe", "step"]
        .map(str::to_owned)
        .into_iter()
        .chain(names.iter().map(|name| (*name).clone()))
        .collect();
    let mut rows = Vec::new();
    for (recipe, of_recipe) in outcome.recipes.iter().zip(&outcome.dynamics.failures) {
        for (step, found) in of_recipe {
            let cells = names.iter().map(|name| {
                found
                    .get(*name)
                    .map_or("-".to_owned(), |value| format!("{value:.3}"))
            });
            rows.push(
                [recipe.clone(), step.to_string()]
                    .into_iter()
                    .chain(cells)
                    .collect(),
            );
        }
    }
    table(&head, &rows)
}

fn gradients(outcome: &Comparison) -> String {
    let names: BTreeSet<&String> = outcome
        .dynamics
        .gradients
        .iter()
        .flat_map(|of| of.cosines.keys())
        .collect();
    let head: Vec<String> = ["recipe", "volatility"]
        .map(str::to_owned)
        .into_iter()
        .chain(
            names
                .iter()
                .map(|name| format!("cos {}", name.replace('|', " , "))),
        )
        .collect();

    let mut rows = Vec::with_capacity(outcome.recipes.len());
    for (recipe, of) in outcome.recipes.iter().zip(&outcome.dynamics.gradients) {
        let volatility = match of.volatility.is_finite() {
            true => format!("{:.2}", of.volatility),
            false => "-".to_owned(),
        };
        let mut row = vec![recipe.clone(), volatility];
        for name in &names {
            let cosine = of.cosines.get(*name);
            row.push(cosine.map_or("-".to_owned(), |value| format!("{value:+.2}")));
        }
        rows.push(row);
    }
    table(&head, &rows)
}

fn budgets(outcome: &Comparison) -> String {
    let tasks: BTreeSet<&String> = outcome
        .budgets
        .iter()
        .flat_map(|budget| budget.examples_by_task.keys())
        .collect();
    let head: Vec<String> = ["recipe", "steps", "examples", "audio h", "target tokens"]
        .map(str::to_owned)
        .into_iter()
        .chain(tasks.iter().map(|task| format!("{task} examples")))
        .collect();

    let mut rows = Vec::with_capacity(outcome.recipes.len());
    for (recipe, budget) in outcome.recipes.iter().zip(&outcome.budgets) {
        let mut row = vec![
            recipe.clone(),
            format!("{:.0}", budget.steps),
            format!("{:.0}", budget.examples),
            format!("{:.2}", budget.audio_hours),
            format!("{:.0}", budget.target_tokens),
        ];
        for task in &tasks {
            let examples = budget.examples_by_task.get(*task);
            row.push(format!("{:.0}", examples.copied().unwrap_or(0.0)));
        }
        rows.push(row);
    }
    table(&head, &rows)
}
