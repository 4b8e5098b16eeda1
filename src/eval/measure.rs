//! What is computed of a set: which metrics it may list, what its rows need for them, and the
//! tallies of its predictions.

use crate::data::Role;
use crate::error::Error;
use crate::error::Result;
use crate::eval::suite::Set;
use crate::metrics::Answers;
use crate::metrics::Definition;
use crate::metrics::Labels;
use crate::metrics::Pair;
use crate::metrics::Reading;
use crate::metrics::Tally;
use crate::metrics::TaskKind;
use crate::metrics::registry;
use crate::metrics::registry::Standing;
use crate::records::prediction;
use crate::records::prediction::Prediction;
use crate::records::suite_file::SetFile;
use crate::task::AnswerFormat;
use crate::task::Example;
use crate::task::Parse;
use crate::task::Task;
use crate::yaml;

/// The tallies of a set.
pub struct Measured {
    /// What the set wants, in a fixed order.
    pub tallies: Vec<Tally>,
    /// What stands for the set in `mean`: the metric of its task, under its first normaliser or
    /// parse.
    pub headline: Tally,
}

impl Set {
    /// Whether a metric is computed.
    pub fn wants(&self, metric: &Definition) -> bool {
        match &self.metrics {
            Some(metrics) => metrics.iter().any(|wanted| wanted == metric.name),
            None => {
                metric.standing != Standing::Listed
                    && metric.kinds.contains(&self.task.kind)
                    && (self.likelihood || !metric.is_by_likelihood())
            }
        }
    }

    /// Whether the loss of its targets is computed, a pass of its own.
    pub fn wants_loss(&self) -> bool {
        registry::all().any(|metric| metric.is_loss() && self.wants(metric))
    }

    /// The inventory's names.
    pub fn inventory(&self) -> Vec<&str> {
        self.task
            .labels
            .iter()
            .map(|label| label.name.as_str())
            .collect()
    }
}

/// Refuses metrics that a task does not have, and settings that do nothing for it.
pub fn check(written: &SetFile, task: &Task) -> Result<()> {
    let is_labels = task.kind == TaskKind::Classify;
    let known = || task.kind.definitions().map(|metric| metric.name);
    for name in written.metrics.iter().flatten() {
        let found = task.kind.definitions().find(|metric| metric.name == name);
        let Some(found) = found else {
            let found = Error::input(format!(
                "unknown metric `{name}`; this task has {}",
                known().collect::<Vec<_>>().join(", ")
            ));
            return Err(match yaml::nearest(name, known()) {
                Some(near) => found.hint(format!("did you mean `{near}`?")),
                None => found,
            });
        };
        if found.is_by_likelihood() && !written.likelihood {
            return Err(
                Error::input(format!("metric `{name}` without `likelihood: true`"))
                    .hint("it takes a pass over every label of every row"),
            );
        }
    }
    let of_labels_alone = [
        ("likelihood", written.likelihood),
        ("majority_from", written.majority_from.is_some()),
        ("parse", written.parse != [Parse::Lenient]),
    ];
    if let Some((key, _)) = of_labels_alone
        .into_iter()
        .find(|(_, is_said)| *is_said && !is_labels)
    {
        return Err(Error::input(format!(
            "`{key}` in a set of task `{}`, which has no labels",
            task.name
        )));
    }
    if written.text_from.is_some() && task.kind != TaskKind::Generate {
        return Err(
            Error::input(format!("`text_from` in a set of task `{}`", task.name))
                .hint("it is for the baselines of summaries"),
        );
    }
    Ok(())
}

/// Refuses a set whose rows lack what its metrics need.
pub fn check_rows(set: &Set) -> Result<()> {
    let has_target = |example: &Example| {
        example
            .messages
            .iter()
            .any(|message| message.role == Role::Assistant && message.loss)
    };
    match set
        .examples
        .iter()
        .find(|example| set.wants_loss() && !has_target(example))
    {
        Some(example) => Err(Error::input(format!(
            "metric `loss` needs what should be said, and row `{}` does not have it",
            example.id
        ))
        .hint("list `metrics` without it, or give the row its target")),
        None => Ok(()),
    }
}

/// The tallies of a set's predictions; the loss and what goes by likelihood are left out where the
/// predictions do not have them.
///
/// # Errors
/// A reference outside the inventory.
pub fn measure(set: &Set, said: &[Prediction]) -> Result<Measured> {
    let metric = &set.task.metric;
    let wanted = |known: &Definition| set.wants(known) || known.name == metric;
    let mut tallies = answers(set, said).tallies(&set.normalisers, set.settings, &wanted)?;
    // Normalisers and parses stand in the set's order, so the first of the metric is that of the
    // first of them.
    let headline = tallies
        .iter()
        .find(|tally| tally.metric() == metric)
        .cloned();
    let headline = headline
        .ok_or_else(|| Error::bug(format!("task `{}` has no metric `{metric}`", set.task.name)))?;
    tallies.retain(|tally| Definition::find(tally.metric()).is_some_and(|known| set.wants(known)));
    Ok(Measured { tallies, headline })
}

/// What a set's predictions say of its rows.
fn answers<'a>(set: &'a Set, said: &'a [Prediction]) -> Answers<'a> {
    let labels = (set.task.kind == TaskKind::Classify).then(|| labels(set, said));
    Answers {
        pairs: said.iter().map(|row| pair(set, row)).collect(),
        labels,
        ..prediction::answers(said)
    }
}

/// A prediction with its references; of an answer in JSON what it says, and nothing where it says
/// nothing. What an answer says as a label is read apart from its text.
fn pair<'a>(set: &Set, row: &'a Prediction) -> Pair<'a> {
    let is_json = set.task.answer.format == AnswerFormat::Json;
    let said = match is_json && set.task.kind != TaskKind::Classify {
        true => row.answer.as_deref().unwrap_or_default(),
        false => &row.prediction,
    };
    let mut references = row.all_references();
    let first = Pair::new(references.next().unwrap_or_default(), said);
    references.fold(first, Pair::or)
}

/// The answers as labels: under each of the set's ways to read them, and by likelihood where every
/// row has one.
fn labels<'a>(set: &'a Set, said: &'a [Prediction]) -> Labels<'a> {
    let inventory = set.inventory();
    let mut readings = Vec::with_capacity(set.parses.len());
    for &parse in &set.parses {
        let labels = said.iter();
        let labels = labels.map(|row| set.task.parse_answer(&row.prediction, parse));
        readings.push(Reading {
            parse: parse.name(),
            variant: (parse == Parse::Strict).then_some(parse.name()),
            labels: labels.collect(),
        });
    }
    let has_likelihoods = set.likelihood && said.iter().all(|row| row.likelihoods.is_some());
    let likeliest = || said.iter().map(|row| likeliest(row, &inventory)).collect();
    Labels {
        due: said.iter().map(|row| row.reference.as_str()).collect(),
        readings,
        likeliest: has_likelihoods.then(likeliest),
        inventory: inventory.clone(),
    }
}

/// The label whose answer is the likeliest a token, the first of the inventory among equals.
pub fn likeliest(row: &Prediction, inventory: &[&str]) -> Option<String> {
    let likelihoods = row.likelihoods.as_ref()?;
    let of_inventory = inventory
        .iter()
        .filter_map(|label| Some((*label, *likelihoods.get(*label)?)));
    of_inventory
        .rev()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(label, _)| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::prediction::predicted;
    use crate::eval::score_names;
    use crate::eval::suite::Suite;
    use crate::task::Tasks;
    use std::collections::BTreeMap;

    /// A suite of one set over rows of texts.
    fn suite(task: &str, rows: &str, more: &str) -> Suite {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("m.jsonl"), rows).unwrap();
        std::fs::write(
            path("s.yaml"),
            format!(
                "role: dev\nsets: [{{name: a, manifest: {}, task: {task}{more}}}]\n",
                path("m.jsonl").display()
            ),
        )
        .unwrap();
        Suite::load(&path("s.yaml"), &Tasks::load(None).unwrap()).unwrap()
    }

    fn names(suite: &Suite) -> String {
        score_names(suite).join(" ").replace("a.", "")
    }

    const MOODS: &str = r#"{"text": "t", "label": "sad"}
{"text": "t", "label": "sad"}
{"text": "t", "label": "happy"}
"#;

    #[test]
    fn a_set_has_what_it_lists_and_otherwise_what_its_task_has() {
        let gist = r#"{"text": "t", "summary": "s"}"#;
        assert_eq!(
            names(&suite("summarization", gist, "")),
            "loss rouge1 rouge2 rougeL mean"
        );
        let listed = ", metrics: [bleu, repetition, hit_limit, rougeL, length_ratio], normaliser: [arabic-leaderboard, none]";
        let expected = "rougeL@arabic-leaderboard bleu@arabic-leaderboard rougeL bleu repetition length_ratio hit_limit mean";
        assert_eq!(names(&suite("summarization", gist, listed)), expected);
        assert_eq!(
            names(&suite("emotion", MOODS, "")),
            "loss accuracy macro_f1 weighted_f1 uar mean"
        );
        let both = ", metrics: [uar, unparsed, seq_rep_4], parse: [strict, lenient]";
        assert_eq!(
            names(&suite("emotion", MOODS, both)),
            "uar@strict unparsed@strict uar unparsed seq_rep_4 mean"
        );
        let likelihood = "loss accuracy macro_f1 weighted_f1 uar likelihood_accuracy likelihood_macro_f1 likelihood_weighted_f1 likelihood_uar mean";
        assert_eq!(
            names(&suite("emotion", MOODS, ", likelihood: true")),
            likelihood
        );
    }

    #[test]
    fn recognition_and_form_are_told_apart() {
        let suite = suite(
            "emotion",
            MOODS,
            ", metrics: [accuracy, unparsed, likelihood_accuracy, loss], parse: [strict, lenient], likelihood: true",
        );
        let set = &suite.sets[0];
        let row =
            |i: usize, said: &str, likelihoods: [f64; 2], loss: f64, tokens: usize| Prediction {
                likelihoods: Some(BTreeMap::from([
                    ("happy".to_owned(), likelihoods[0]),
                    ("sad".to_owned(), likelihoods[1]),
                ])),
                loss: Some(loss),
                target_tokens: Some(tokens),
                ..predicted(set, &set.examples[i], said.to_owned()).unwrap()
            };
        let mut said = vec![
            row(0, "sad", [-2.0, -1.0], 1.0, 3),
            row(1, "They are sad.", [-1.0, -1.0], 2.0, 1),
            row(2, "who knows", [-0.5, -9.0], 4.0, 1),
        ];
        assert_eq!(
            said.iter()
                .map(|row| row.answer.as_deref())
                .collect::<Vec<_>>(),
            [Some("sad"), None, None],
            "the first of the set's ways to read it"
        );
        let measured = measure(set, &said).unwrap();
        let scores: Vec<(&str, f64)> = measured
            .tallies
            .iter()
            .map(|tally| (tally.name.as_str(), tally.corpus()))
            .collect();
        let third = 1.0 / 3.0;
        let expected = [
            ("loss", (3.0 + 2.0 + 4.0) / 5.0),
            ("accuracy@strict", third),
            ("unparsed@strict", 2.0 * third),
            ("accuracy", 2.0 * third),
            ("unparsed", third),
            // The second row's labels are alike, and happy stands first in the inventory.
            ("likelihood_accuracy", 2.0 * third),
        ];
        assert!(
            scores
                .iter()
                .zip(expected)
                .all(|(found, expected)| found.0 == expected.0
                    && (found.1 - expected.1).abs() < 1e-12),
            "{scores:?}"
        );
        assert_eq!(
            (measured.headline.name.as_str(), scores.len()),
            ("uar@strict", expected.len())
        );
        said[1].likelihoods = None;
        said[2].loss = None;
        let fewer = measure(set, &said).unwrap().tallies;
        assert_eq!(
            fewer
                .iter()
                .map(|tally| tally.name.as_str())
                .collect::<Vec<_>>(),
            ["accuracy@strict", "unparsed@strict", "accuracy", "unparsed"]
        );
    }

    #[test]
    fn an_answer_in_json_is_compared_by_what_it_says() {
        let mut suite = suite(
            "summarization",
            r#"{"text": "t", "summary": "one two", "references": ["three"]}"#,
            ", metrics: [rouge1]",
        );
        suite.sets[0].task.answer.format = AnswerFormat::Json;
        let set = &suite.sets[0];
        let rouge1 = |said: &str| {
            measure(
                set,
                &[predicted(set, &set.examples[0], said.to_owned()).unwrap()],
            )
            .unwrap()
            .tallies[0]
                .corpus()
        };
        assert_eq!(
            [
                rouge1(r#"{"summarization": "one two"}"#),
                rouge1(r#"{"summarization": "three"}"#),
                rouge1("{}")
            ],
            [1.0, 1.0, 0.0]
        );
    }
}
