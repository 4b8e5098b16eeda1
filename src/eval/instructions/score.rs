//! How far a model did as it was told: the rows of a suite judged from a predictions file.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::check::Check;
use crate::eval::instructions::check::Mode;
use crate::eval::instructions::row::SuiteRow;
use crate::jsonl;
use crate::metrics::confidence;
use crate::metrics::confidence::FEWEST_ROWS;
use crate::records::generated_answers::in_order;
use crate::records::instructions::Change;
use crate::records::instructions::CheckRate;
use crate::records::instructions::InstructionScores;
use crate::records::instructions::Outcome;
use crate::records::instructions::Rates;
use crate::records::instructions::Spread;
use crate::records::instructions::TaskWordings;
use crate::stats::significance::Clusters;
use crate::stats::significance::Interval;
use crate::stats::significance::Resampling;
use crate::stats::significance::bootstrap;
use crate::stats::significance::mcnemar;
use crate::stats::significance::paired_bootstrap;

/// The kind of which the scores are spread over wordings.
const WORDING_KIND: &str = "wording";

/// The rates over some rows; zero over none.
pub fn rates<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Rates {
    let outcomes: Vec<&Outcome> = outcomes.into_iter().collect();
    let mut rates = Rates {
        interval: interval(&outcomes),
        ..Rates::default()
    };
    for outcome in outcomes {
        let num_held = |held: &[bool]| held.iter().filter(|held| **held).count() as f64;
        let all_held = |held: &[bool]| f64::from(u8::from(held.iter().all(|held| *held)));
        rates.prompts += 1;
        rates.instructions += outcome.strict.len();
        rates.prompt_strict += all_held(&outcome.strict);
        rates.prompt_loose += all_held(&outcome.loose);
        rates.instruction_strict += num_held(&outcome.strict);
        rates.instruction_loose += num_held(&outcome.loose);
        rates.known += usize::from(outcome.right.is_some());
        let is_right = outcome.right == Some(true);
        rates.followed_and_right += f64::from(u8::from(is_right && outcome.follows()));
    }

    let prompts = rates.prompts.max(1) as f64;
    let instructions = rates.instructions.max(1) as f64;
    Rates {
        prompt_strict: rates.prompt_strict / prompts,
        prompt_loose: rates.prompt_loose / prompts,
        instruction_strict: rates.instruction_strict / instructions,
        instruction_loose: rates.instruction_loose / instructions,
        followed_and_right: rates.followed_and_right / rates.known.max(1) as f64,
        ..rates
    }
}

/// Resamples behind the interval of a share.
const RESAMPLES: usize = 2000;

fn resampling() -> Resampling {
    Resampling {
        resamples: RESAMPLES,
        ..Resampling::default()
    }
}

/// Whether a row follows strictly, as a vector whose sum has the share: rows that follow, and rows.
fn unit(outcome: &Outcome) -> Vec<f64> {
    vec![f64::from(u8::from(outcome.follows())), 1.0]
}

fn share_of(sum: &[f64]) -> f64 {
    sum[0] / sum[1]
}

fn clusters(outcomes: &[&Outcome]) -> Clusters {
    Clusters::named(outcomes.iter().map(|outcome| outcome.cluster.as_str()))
}

fn interval(outcomes: &[&Outcome]) -> Option<Interval> {
    let clusters = clusters(outcomes);
    if outcomes.len() < FEWEST_ROWS || clusters.num_clusters() < 2 {
        return None;
    }
    let units: Vec<Vec<f64>> = outcomes.iter().map(|outcome| unit(outcome)).collect();
    let estimate = bootstrap(&units, &clusters, &share_of, &resampling()).ok()?;
    Some(within(confidence::interval(&estimate), 0.0))
}

/// The interval without what no share, or no difference of shares, can be: from `low` to 1.
fn within(found: Interval, low: f64) -> Interval {
    Interval {
        low: found.low.clamp(low, 1.0),
        high: found.high.clamp(low, 1.0),
    }
}

/// Reads a suite for scoring.
///
/// # Errors
/// Lines that are no rows of a suite, checks without sense, two rows of one id.
pub fn read_suite(path: &Path) -> Result<Vec<SuiteRow>> {
    let rows = jsonl::read::<SuiteRow>(path)?;
    let mut lines = BTreeMap::new();
    for (line, row) in &rows {
        let place = || format!("{}:{line}", path.display());
        if row.checks.is_empty() {
            return Err(Error::input("`checks` is empty")
                .at(place())
                .hint("a row of an instruction suite has at least one check"));
        }
        row.checks
            .iter()
            .chain(&row.right)
            .try_for_each(Check::validate)
            .map_err(|e| e.at(place()))?;
        if let Some(first) = lines.insert(row.id.as_str(), line) {
            return Err(
                Error::input(format!("id `{}` was used before, in line {first}", row.id))
                    .at(place()),
            );
        }
    }
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// Judges the predictions in the file `predictions` on a suite.
///
/// # Errors
/// Predictions that are missing, doubled or of other rows.
pub fn score_file(suite: &[SuiteRow], predictions: &Path) -> Result<InstructionScores> {
    let read = jsonl::read(predictions)?;
    let ids: Vec<&str> = suite.iter().map(|row| row.id.as_str()).collect();
    Ok(score(suite, &in_order(&ids, &read, predictions)?))
}

/// Judges answers on a suite, in its order.
pub fn score(suite: &[SuiteRow], answers: &[&str]) -> InstructionScores {
    let rows: Vec<Outcome> = suite
        .iter()
        .zip(answers)
        .map(|(row, answer)| outcome(row, answer))
        .collect();

    let mut kinds: Vec<&str> = Vec::new();
    for row in suite {
        if !kinds.contains(&row.kind.as_str()) {
            kinds.push(&row.kind);
        }
    }
    let of_kind = |kind: &str| rates(rows.iter().filter(|outcome| outcome.kind == kind));

    InstructionScores {
        all: rates(&rows),
        kinds: kinds
            .into_iter()
            .map(|kind| (kind.to_owned(), of_kind(kind)))
            .collect(),
        checks: by_check(suite, &rows),
        wordings: by_task(suite, &rows),
        rows,
    }
}

fn outcome(row: &SuiteRow, answer: &str) -> Outcome {
    let held = |mode: Mode| {
        row.checks
            .iter()
            .map(|check| check.holds(answer, mode))
            .collect()
    };
    let right = row
        .right
        .as_ref()
        .map(|check| check.holds(answer, Mode::Loose));
    let cluster = row
        .group
        .as_ref()
        .or(row.source.as_ref())
        .unwrap_or(&row.id)
        .clone();
    Outcome {
        id: row.id.clone(),
        kind: row.kind.clone(),
        cluster,
        strict: held(Mode::Strict),
        loose: held(Mode::Loose),
        right,
    }
}

fn by_check(suite: &[SuiteRow], outcomes: &[Outcome]) -> BTreeMap<String, CheckRate> {
    let mut checks = BTreeMap::<String, CheckRate>::new();
    for (row, outcome) in suite.iter().zip(outcomes) {
        let held = outcome.strict.iter().zip(&outcome.loose);
        for (check, (strict, loose)) in row.checks.iter().zip(held) {
            let rate = checks.entry(check.name().to_owned()).or_default();
            rate.asked += 1;
            rate.strict += f64::from(u8::from(*strict));
            rate.loose += f64::from(u8::from(*loose));
        }
    }

    for rate in checks.values_mut() {
        rate.strict /= rate.asked as f64;
        rate.loose /= rate.asked as f64;
    }
    checks
}

/// The outcomes of one task by wording.
type ByWording<'a> = BTreeMap<&'a str, Vec<&'a Outcome>>;

fn by_task(suite: &[SuiteRow], outcomes: &[Outcome]) -> BTreeMap<String, TaskWordings> {
    let mut tasks = BTreeMap::<&str, ByWording>::new();
    for (row, outcome) in suite.iter().zip(outcomes) {
        let Some(wording) = row.wording.as_deref().filter(|_| row.kind == WORDING_KIND) else {
            continue;
        };
        let task = tasks.entry(&row.asks).or_default();
        task.entry(wording).or_default().push(outcome);
    }

    tasks
        .into_iter()
        .filter_map(|(task, wordings)| Some((task.to_owned(), over_wordings(&wordings)?)))
        .collect()
}

/// The scores of one task over its wordings; none over none.
fn over_wordings(wordings: &ByWording) -> Option<TaskWordings> {
    Some(TaskWordings {
        wordings: wordings.len(),
        prompts: wordings.values().map(Vec::len).sum(),
        followed: spread(shares(wordings, |outcome| Some(outcome.follows())))?,
        right: spread(shares(wordings, |outcome| outcome.right)),
    })
}

/// The share of rows by wording of which something holds; a wording of which nothing is known has
/// none.
fn shares(wordings: &ByWording, held: fn(&Outcome) -> Option<bool>) -> Vec<(String, f64)> {
    let mut shares = Vec::new();
    for (name, outcomes) in wordings {
        let known: Vec<bool> = outcomes
            .iter()
            .filter_map(|outcome| held(outcome))
            .collect();
        let num_held = known.iter().filter(|held| **held).count();
        if !known.is_empty() {
            shares.push(((*name).to_owned(), num_held as f64 / known.len() as f64));
        }
    }
    shares
}

/// The spread of scores by wording; none over none.
fn spread(scores: Vec<(String, f64)>) -> Option<Spread> {
    let count = scores.len() as f64;
    let mean = scores.iter().map(|(_, score)| score).sum::<f64>() / count;
    let deviation = (scores
        .iter()
        .map(|(_, score)| (score - mean).powi(2))
        .sum::<f64>()
        / count)
        .sqrt();
    let lowest = scores.iter().min_by(|a, b| a.1.total_cmp(&b.1))?.clone();
    let highest = scores
        .iter()
        .rev()
        .max_by(|a, b| a.1.total_cmp(&b.1))?
        .clone();
    Some(Spread {
        mean,
        deviation,
        lowest,
        highest,
    })
}

/// What changes from `base` to `tuned`, both scored on the same suite. `p` is that of [`mcnemar`].
pub fn change(base: &InstructionScores, tuned: &InstructionScores) -> Change {
    let pairs = || base.rows.iter().zip(&tuned.rows);
    let ids = |before: bool| -> Vec<String> {
        pairs()
            .filter(|(old, new)| old.follows() == before && new.follows() != before)
            .map(|(old, _)| old.id.clone())
            .collect()
    };
    let lost = ids(true);
    let gained = ids(false);
    let num_rows = base.rows.len().max(1) as f64;
    Change {
        difference: (gained.len() as f64 - lost.len() as f64) / num_rows,
        interval: interval_of_change(base, tuned),
        p: Some(mcnemar(lost.len(), gained.len())),
        lost,
        gained,
    }
}

fn interval_of_change(base: &InstructionScores, tuned: &InstructionScores) -> Option<Interval> {
    let outcomes: Vec<&Outcome> = base.rows.iter().collect();
    let clusters = clusters(&outcomes);
    if outcomes.len() < FEWEST_ROWS || clusters.num_clusters() < 2 {
        return None;
    }
    let units = |scores: &InstructionScores| scores.rows.iter().map(unit).collect::<Vec<_>>();
    let before = units(base);
    let after = units(tuned);
    let found = paired_bootstrap(&before, &after, &clusters, &share_of, &resampling()).ok()?;
    Some(within(confidence::interval(&found.estimate), -1.0))
}

/// The best that one and the same answer to every row scores: what a model must beat to have
/// followed anything.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// The answer.
    pub answer: String,
    /// What it scores.
    pub scores: InstructionScores,
}

/// The constant answer that follows most rows strictly, the first among equals; `None` for a suite
/// without rows.
///
/// Every word, phrase and text that a check names is tried, an object with each list of keys, and
/// every reference. A text put together of several of them may follow more rows: this is a lower
/// bound of what a constant answer can reach.
pub fn constant(suite: &[SuiteRow]) -> Option<Constant> {
    // Each different check is decided once for each candidate, however many rows have it.
    let mut known: Vec<&Check> = Vec::new();
    let mut place_of = HashMap::<String, usize>::new();
    let mut rows: Vec<Vec<usize>> = Vec::with_capacity(suite.len());
    for row in suite {
        let mut places = Vec::with_capacity(row.checks.len());
        for check in &row.checks {
            let key = serde_json::to_string(check).unwrap_or_default();
            let next = known.len();
            let place = *place_of.entry(key).or_insert(next);
            if place == next {
                known.push(check);
            }
            places.push(place);
        }
        rows.push(places);
    }

    let mut best: Option<(usize, String)> = None;
    for answer in candidates(suite) {
        let held: Vec<bool> = known
            .iter()
            .map(|check| check.holds(&answer, Mode::Strict))
            .collect();
        let followed = rows
            .iter()
            .filter(|checks| checks.iter().all(|check| held[*check]))
            .count();
        if best.as_ref().is_none_or(|(most, _)| followed > *most) {
            best = Some((followed, answer));
        }
    }
    let (_, answer) = best?;
    let scores = score(suite, &vec![answer.as_str(); suite.len()]);
    Some(Constant { answer, scores })
}

/// What is tried as a constant answer, in order of first appearance.
fn candidates(suite: &[SuiteRow]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for row in suite {
        for check in &row.checks {
            match check {
                Check::OneOf { answers } => found.extend(answers.iter().cloned()),
                Check::Contains { word } => found.push(word.clone()),
                Check::StartsWith { phrase } | Check::EndsWith { phrase } => {
                    found.push(phrase.clone());
                }
                Check::Transcribes { text, .. } => found.push(text.clone()),
                Check::JsonKeys { keys } => found.push(
                    Value::Object(keys.iter().map(|key| (key.clone(), Value::Null)).collect())
                        .to_string(),
                ),
                _ => {}
            }
        }
        found.extend(row.reference.clone());
    }
    let mut seen = HashSet::new();
    found.retain(|answer| !answer.trim().is_empty() && seen.insert(answer.clone()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, kind: &str, wording: Option<&str>, checks: &str) -> SuiteRow {
        let mut value =
            serde_json::json!({"id": id, "kind": kind, "asks": "emotion", "wording": wording});
        value["checks"] = serde_json::from_str(checks).unwrap();
        value["right"] = serde_json::json!({"check": "one-of", "answers": ["happy"]});
        serde_json::from_value(value).unwrap()
    }

    const LABEL: &str = r#"[{"check": "one-of", "answers": ["happy", "sad"]}]"#;
    const SHORT_AND_PLAIN: &str =
        r#"[{"check": "at-most-words", "words": 2}, {"check": "no-punctuation"}]"#;

    #[test]
    fn prompts_and_instructions_are_counted_apart() {
        let suite = [
            row("a", "x", None, SHORT_AND_PLAIN),
            row("b", "x", None, SHORT_AND_PLAIN),
            row("c", "y", None, LABEL),
        ];
        // a: both; b: short but not plain, loosely both; c: loosely.
        let scores = score(&suite, &["one two", "one *two*", "Sure.\nhappy"]);
        let expected = Rates {
            prompts: 3,
            instructions: 5,
            prompt_strict: 1.0 / 3.0,
            prompt_loose: 1.0,
            instruction_strict: 0.6,
            instruction_loose: 1.0,
            known: 3,
            followed_and_right: 0.0,
            interval: None,
        };
        assert_eq!(scores.all, expected);
        assert_eq!(
            scores
                .kinds
                .iter()
                .map(|(kind, rates)| (kind.as_str(), rates.prompts, rates.prompt_strict))
                .collect::<Vec<_>>(),
            [("x", 2, 0.5), ("y", 1, 0.0)]
        );
        assert_eq!(
            scores.checks["no-punctuation"],
            CheckRate {
                asked: 2,
                strict: 0.5,
                loose: 1.0
            }
        );
        assert_eq!(scores.rows[1].strict, [true, false]);
    }

    #[test]
    fn the_spread_is_over_wordings_of_one_task() {
        let name = |i: usize| format!("emotion/dev/en/{i}");
        let suite: Vec<SuiteRow> = (0..6)
            .map(|i| row(&format!("r{i}"), "wording", Some(&name(i % 3 + 1)), LABEL))
            .collect();
        // Followed: wording 1 twice, 2 once, 3 never; right: wording 1 once.
        let scores = score(&suite, &["happy", "sad", "no", "sad", "glad", "no"]);
        let found = &scores.wordings["emotion"];
        assert_eq!((found.wordings, found.prompts), (3, 6));
        assert_eq!(
            (
                found.followed.lowest.clone(),
                found.followed.highest.clone()
            ),
            ((name(3), 0.0), (name(1), 1.0))
        );
        // Mean of 1, 1/2, 0, and the root of their mean squared distance from it, (1/4 + 0 + 1/4)
        // / 3.
        assert!(
            (found.followed.mean - 0.5).abs() < 1e-12
                && (found.followed.deviation - (1.0f64 / 6.0).sqrt()).abs() < 1e-12
        );
        assert_eq!(found.right.as_ref().unwrap().highest, (name(1), 0.5));
    }

    #[test]
    fn what_was_lost_and_gained_is_named() {
        let suite = [
            row("a", "x", None, LABEL),
            row("b", "x", None, LABEL),
            row("c", "x", None, LABEL),
        ];
        let base = score(&suite, &["happy", "no", "sad"]);
        let tuned = score(&suite, &["no", "sad", "sad"]);
        assert_eq!(
            change(&base, &tuned),
            Change {
                lost: vec!["a".into()],
                gained: vec!["b".into()],
                difference: 0.0,
                interval: None,
                p: Some(1.0),
            }
        );
        assert_eq!(
            change(&base, &base),
            Change {
                lost: vec![],
                gained: vec![],
                difference: 0.0,
                interval: None,
                p: Some(1.0),
            }
        );
    }

    #[test]
    fn followed_and_right_counts_rows_that_are_both() {
        let suite = [
            row("a", "x", None, LABEL),
            row("b", "x", None, LABEL),
            row("c", "x", None, SHORT_AND_PLAIN),
            SuiteRow {
                right: None,
                ..row("d", "x", None, LABEL)
            },
        ];
        // a is both, b follows, c is right but has punctuation, of d nobody knows.
        let rates = score(&suite, &["happy", "sad.", "(happy)", "happy"]).all;
        assert_eq!((rates.known, rates.followed_and_right), (3, 1.0 / 3.0));
        assert_eq!(rates.prompt_strict, 0.75);
    }

    #[test]
    fn the_best_constant_answer_is_found() {
        let begins = r#"[{"check": "starts-with", "phrase": "sad"}]"#;
        let suite = [
            row("a", "x", None, LABEL),
            row("b", "x", None, begins),
            row(
                "c",
                "y",
                None,
                r#"[{"check": "one-of", "answers": ["happy"]}]"#,
            ),
            row(
                "d",
                "y",
                None,
                r#"[{"check": "no-diacritics"}, {"check": "starts-with", "phrase": "Sad"}]"#,
            ),
        ];
        let found = constant(&suite).unwrap();
        // `sad` follows a, b and d; `happy` a and c.
        assert_eq!(
            (found.answer.as_str(), found.scores.all.prompt_strict),
            ("sad", 0.75)
        );
        assert_eq!(constant(&[]), None);
    }

    #[test]
    fn intervals_take_the_rows_of_a_clip_together() {
        let suite: Vec<SuiteRow> = (0..40)
            .map(|i| SuiteRow {
                source: Some(format!("clip-{}", i % 20)),
                ..row(&format!("r{i}"), "x", None, LABEL)
            })
            .collect();
        let half: Vec<&str> = (0..40)
            .map(|i| ["sad", "no"][usize::from(i % 20 >= 10)])
            .collect();
        let base = score(&suite, &half);
        let tuned = score(&suite, &["sad"; 40]);
        let interval = base.all.interval.unwrap();
        // Twenty clips, both rows of each alike: the deviation is that of 20 rows, 0.112, and not
        // that of 40, 0.079.
        let width = interval.high - interval.low;
        assert!((0.36..0.50).contains(&width), "{interval:?}");
        let change = change(&base, &tuned);
        assert_eq!(
            (change.lost.len(), change.gained.len(), change.difference),
            (0, 20, 0.5)
        );
        // 2 / 2^20.
        assert!((change.p.unwrap() - 2.0 / f64::from(1 << 20)).abs() < 1e-18);
        assert!(change.interval.unwrap().low > 0.25, "{change:?}");
        assert_eq!(
            score(&suite[..19], &half[..19]).all.interval,
            None,
            "too few rows"
        );
    }

    #[test]
    fn a_suite_with_faults_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("suite.jsonl");
        let good =
            r#"{"id": "a", "kind": "x", "checks": [{"check": "no-punctuation"}], "messages": []}"#;
        for (second, expected) in [
            (
                good.to_owned(),
                "suite.jsonl:2: id `a` was used before, in line 1",
            ),
            (
                good.replace("no-punctuation", "no-comma"),
                "suite.jsonl:2: unknown value `no-comma`",
            ),
            (
                r#"{"id": "b", "kind": "x", "checks": []}"#.to_owned(),
                "suite.jsonl:2: `checks` is empty",
            ),
            (
                r#"{"id": "b", "kind": "x", "checks": [{"check": "contains", "word": ""}]}"#
                    .to_owned(),
                "suite.jsonl:2: check `contains`: `word` has no letter",
            ),
            (
                r#"{"id": "b", "messages": []}"#.to_owned(),
                "suite.jsonl:2: `kind` is missing",
            ),
        ] {
            std::fs::write(&path, format!("{good}\n{second}\n")).unwrap();
            let error = read_suite(&path).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(expected),
                "{error}"
            );
        }
    }
}
