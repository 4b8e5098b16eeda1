//! Halves of a dev suite: one selects during training, and the other is reported, so that what is
//! reported did not select.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::error::Error;
use crate::error::Result;
use crate::eval::Evaluation;
use crate::eval::confidence::System;
use crate::eval::measure::measure;
use crate::eval::score_names;
use crate::eval::slices;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::records::scores::Scores;
use crate::records::suite_file::ClusterBy;
use crate::seed::Key;
use crate::yaml;

/// A half of each set of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Rows that select.
    Selection,
    /// Rows that are reported.
    Reported,
}

/// Places of the examples of a half, rising. A set that is clustered by speakers or groups is
/// divided by them, if there are at least two, so that no speaker is in both halves. Otherwise it
/// is divided by rows. The halves do not depend on the order of the rows or on a seed.
pub fn places(set: &Set, half: Half) -> BTreeSet<usize> {
    let mut clusters: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (place, example) in set.examples.iter().enumerate() {
        let name = slices::cluster(set.cluster, example);
        clusters.entry(name).or_default().push(place);
    }
    let selection = match set.cluster != ClusterBy::None && clusters.len() > 1 {
        true => selected_clusters(set, clusters),
        false => selected_rows(set),
    };
    match half {
        Half::Selection => selection,
        Half::Reported => (0..set.examples.len())
            .filter(|place| !selection.contains(place))
            .collect(),
    }
}

/// Places of the clusters that select. The largest comes first, and of equal ones the order is
/// fixed by their names. Each goes to the half that has fewer rows of its labels, or else fewer
/// rows in all, so the second goes to the other half than the first.
fn selected_clusters(set: &Set, clusters: BTreeMap<String, Vec<usize>>) -> BTreeSet<usize> {
    let mut order: Vec<(String, Vec<usize>)> = clusters.into_iter().collect();
    order.sort_by_cached_key(|(name, places)| {
        let key = Key::new(0, "halves").with_name(name);
        (Reverse(places.len()), key.bits(0))
    });
    let mut selection = BTreeSet::new();
    // Rows of the selection less those of the other half, by label and in all.
    let mut lead: BTreeMap<Option<&str>, i64> = BTreeMap::new();
    let mut total = 0;
    for (_, places) in order {
        let mut of_labels = 0;
        for &place in &places {
            let label = set.examples[place].label.as_deref();
            of_labels += lead.get(&label).copied().unwrap_or(0);
        }
        let is_selected = of_labels < 0 || (of_labels == 0 && total <= 0);
        let change = if is_selected { 1 } else { -1 };
        for &place in &places {
            let label = set.examples[place].label.as_deref();
            *lead.entry(label).or_insert(0) += change;
            total += change;
        }
        if is_selected {
            selection.extend(places);
        }
    }
    selection
}

/// Places of the rows that select. Rows of each label are divided evenly in a fixed order by their
/// ids. Of an odd number, the selection gets one more.
fn selected_rows(set: &Set) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..set.examples.len()).collect();
    order.sort_by_cached_key(|&place| {
        let example = &set.examples[place];
        let key = Key::new(0, "halves").with_name(&example.id);
        (example.label.clone(), key.bits(0), place)
    });
    order.into_iter().step_by(2).collect()
}

/// Scores of a half of each set, from the predictions for all of it.
///
/// # Errors
/// A half without rows.
pub fn scores(suite: &Suite, evaluation: &Evaluation, half: Half) -> Result<Scores> {
    let mut sets = Vec::with_capacity(suite.sets.len());
    let mut said = Vec::with_capacity(suite.sets.len());
    for (of_suite, (set, (_, predictions))) in
        suite.sets.iter().zip(&evaluation.predictions).enumerate()
    {
        let is_skipped = |place: &usize| evaluation.skipped_places.contains(&(of_suite, *place));
        let wanted = places(set, half);
        let answered = (0..set.examples.len()).filter(|place| !is_skipped(place));
        said.push(
            answered
                .zip(predictions)
                .filter(|(place, _)| wanted.contains(place))
                .map(|(_, prediction)| prediction.clone())
                .collect(),
        );
        let others = (0..set.examples.len())
            .filter(|place| is_skipped(place) || !wanted.contains(place))
            .collect();
        sets.push(set.without(&others).map_err(|e| {
            e.hint("give every set of the suite at least two rows that can be read: one selects, and the other is reported")
        })?);
    }
    let sets: Vec<&Set> = sets.iter().collect();
    Ok(System::new(&sets, said, true)?.scores())
}

/// The metric of a set that decides where none is named: that of its task, or the first under
/// `metrics` if the set does not compute it.
fn deciding_metric(set: &Set) -> Result<String> {
    let measured = measure(set, &[])?;
    let of_task = measured.headline.name;
    let mut computed = measured.tallies.iter();
    if computed.clone().any(|tally| tally.name == of_task) {
        return Ok(of_task);
    }
    let first = set.metrics.iter().flatten().next();
    let first = first.and_then(|metric| computed.find(|tally| tally.metric() == metric));
    Ok(first.map_or(of_task, |tally| tally.name.clone()))
}

/// The score of a suite that decides about a task: `named`, or the metric of the first set of the
/// task, or the first metric of that set if it does not compute the task's.
///
/// # Errors
/// A suite without that score, or without a set of the task of at least two rows.
pub fn score_of(suite: &Suite, task: &str, named: Option<&String>) -> Result<String> {
    let names = score_names(suite);
    let of_task = suite.sets.iter().find(|set| set.task.name == task);
    let score = match (named, of_task) {
        (Some(named), _) => named.clone(),
        (None, Some(set)) => format!("{}.{}", set.name, deciding_metric(set)?),
        (None, None) => {
            return Err(Error::input(format!("the dev suite has no set of task `{task}`")).hint(
                "add one to the suite, name a score under `msft.scores`, or leave the task out of the stage",
            ));
        }
    };
    if !names.contains(&score) {
        let near = yaml::nearest(&score, names.iter().map(String::as_str));
        let near = near.map_or(String::new(), |near| format!("did you mean `{near}`? "));
        return Err(Error::input(format!(
            "`msft.scores`: the suite gives no score `{score}` for `{task}`"
        ))
        .hint(format!("{near}it gives {}", names.join(", "))));
    }
    if let Some(set) = suite.sets.iter().find(|set| set.examples.len() < 2) {
        return Err(Error::input(format!(
            "set `{}` has {} row, and `end: msft` divides every set in two",
            set.name,
            set.examples.len()
        ))
        .hint("give every set of the suite at least two rows"));
    }
    Ok(score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Tasks;

    fn suite(rows: &[(&str, &str)]) -> Suite {
        let lines: Vec<String> = rows
            .iter()
            .map(|(id, label)| {
                format!("{{\"id\": \"{id}\", \"text\": \"t\", \"label\": \"{label}\"}}")
            })
            .collect();
        suite_of(&lines)
    }

    /// A suite of one set with these lines.
    fn suite_of(lines: &[String]) -> Suite {
        suite_with(lines, "")
    }

    /// A suite of one set with these lines, and more keys of the set.
    fn suite_with(lines: &[String], keys: &str) -> Suite {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let lines = lines.join("\n") + "\n";
        std::fs::write(path("m.jsonl"), lines).unwrap();
        let manifest = path("m.jsonl").display().to_string();
        std::fs::write(
            path("s.yaml"),
            format!(
                "role: dev\nsets: [{{name: moods, manifest: {manifest}, task: emotion{keys}}}]\n"
            ),
        )
        .unwrap();
        Suite::load(&path("s.yaml"), &Tasks::load(None).unwrap()).unwrap()
    }

    #[test]
    fn halves_divide_every_label_and_ignore_the_order() {
        let rows: Vec<(String, &str)> = (0..20)
            .map(|i| (format!("r{i}"), if i < 8 { "happy" } else { "sad" }))
            .collect();
        let mut rows: Vec<(&str, &str)> = rows.iter().map(|(id, label)| (&**id, *label)).collect();
        let ids = |rows: &[(&str, &str)], half: Half| -> BTreeSet<String> {
            let suite = suite(rows);
            let of_half = places(&suite.sets[0], half).into_iter();
            of_half.map(|place| rows[place].0.to_owned()).collect()
        };
        let selection = ids(&rows, Half::Selection);
        let reported = ids(&rows, Half::Reported);
        assert_eq!((selection.len(), reported.len()), (10, 10));
        assert!(selection.is_disjoint(&reported));
        let happy = |id: &&String| id[1..].parse::<u32>().unwrap() < 8;
        assert_eq!(selection.iter().filter(happy).count(), 4);
        rows.reverse();
        assert_eq!(ids(&rows, Half::Selection), selection);
    }

    /// Speakers of 6, 5, 4, 3 and 2 rows, of two labels in turn. The first selects. The second and
    /// third have labels of which more rows select so far, and the fourth has not. The halves are
    /// even then, and the last goes to the selection.
    #[test]
    fn rows_of_a_speaker_are_in_one_half() {
        let mut rows = Vec::new();
        for (speaker, count) in [6, 5, 4, 3, 2].into_iter().enumerate() {
            for i in 0..count {
                let label = ["happy", "sad"][i % 2];
                rows.push(format!(
                    r#"{{"id": "{speaker}-{i}", "text": "t", "label": "{label}", "speaker": "s{speaker}"}}"#
                ));
            }
        }
        let speakers = |rows: &[String], half: Half| -> Vec<String> {
            let suite = suite_of(rows);
            let of_half = places(&suite.sets[0], half).into_iter();
            let mut found: Vec<String> = of_half
                .map(|place| suite.sets[0].examples[place].speaker.clone().unwrap())
                .collect();
            found.sort();
            found
        };
        let of = |counts: &[(&str, usize)]| -> Vec<String> {
            let each = counts.iter();
            each.flat_map(|(name, count)| vec![(*name).to_owned(); *count])
                .collect()
        };
        let selection = of(&[("s0", 6), ("s3", 3), ("s4", 2)]);
        assert_eq!(speakers(&rows, Half::Selection), selection);
        assert_eq!(speakers(&rows, Half::Reported), of(&[("s1", 5), ("s2", 4)]));
        rows.reverse();
        assert_eq!(speakers(&rows, Half::Selection), selection);

        // One speaker cannot be in one half alone.
        for row in &mut rows {
            let at = row.find("\"speaker\"").unwrap();
            row.replace_range(at.., "\"speaker\": \"s0\"}");
        }
        assert_eq!(speakers(&rows, Half::Selection).len(), 10);
        assert_eq!(speakers(&rows, Half::Reported).len(), 10);
    }

    #[test]
    fn a_task_has_the_metric_of_its_set_or_the_named_one() {
        let suite = suite(&[("a", "happy"), ("b", "sad")]);
        let chosen = score_of(&suite, "emotion", None).unwrap();
        assert!(chosen.starts_with("moods."), "{chosen}");
        let loss = "moods.loss".to_owned();
        assert_eq!(score_of(&suite, "emotion", Some(&loss)).unwrap(), loss);
        let error = score_of(&suite, "asr", None).unwrap_err().to_string();
        assert!(error.contains("no set of task `asr`"), "{error}");
        let wrong = "moods.los".to_owned();
        let error = score_of(&suite, "emotion", Some(&wrong))
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean `moods.loss`?"), "{error}");
    }

    #[test]
    fn a_set_without_its_tasks_metric_has_its_first() {
        let lines =
            ["a", "b"].map(|id| format!(r#"{{"id": "{id}", "text": "t", "label": "sad"}}"#));
        let chosen = |keys: &str| {
            let suite = suite_with(&lines, &format!(", {keys}"));
            score_of(&suite, "emotion", None).unwrap()
        };
        // The metric of `emotion` is `uar`.
        assert_eq!(chosen("metrics: [accuracy, uar]"), "moods.uar");
        assert_eq!(chosen("metrics: [macro_f1, accuracy]"), "moods.macro_f1");
        assert_eq!(chosen("metrics: [accuracy, macro_f1]"), "moods.accuracy");
        assert_eq!(chosen("metrics: [loss]"), "moods.loss");
        assert_eq!(
            chosen("metrics: [macro_f1], parse: [strict, lenient]"),
            "moods.macro_f1@strict"
        );
    }

    #[test]
    fn a_set_of_one_row_cannot_be_divided() {
        let suite = suite(&[("a", "happy")]);
        let error = score_of(&suite, "emotion", None).unwrap_err().to_string();
        assert!(error.contains("set `moods` has 1 row"), "{error}");
    }
}
