//! Scores of several sets together, of slices, and of two systems against each other, by hand.

use super::*;
use crate::eval::prediction::predicted;
use crate::eval::suite::Suite;
use crate::task::Tasks;

/// A suite of moods and summaries over texts: twenty rows of each by ten speakers, the first ten
/// rows of a woman's.
fn suite(cluster: &str) -> Suite {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize, target: &str| {
        let speaker = i / 2;
        let gender = if i < 10 { "f" } else { "m" };
        format!(
            r#"{{"id": "r{i}", "text": "t", "speaker": "s{speaker}", "group": "all", "gender": "{gender}", {target}}}"#
        )
    };
    let moods: Vec<String> = (0..20)
        .map(|i| {
            row(
                i,
                if i % 2 == 0 {
                    r#""label": "sad""#
                } else {
                    r#""label": "happy""#
                },
            )
        })
        .collect();
    let gist: Vec<String> = (0..20).map(|i| row(i, r#""summary": "one two""#)).collect();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("moods.jsonl"), moods.join("\n")).unwrap();
    std::fs::write(path("gist.jsonl"), gist.join("\n")).unwrap();
    let set = |name: &str, task: &str, more: &str| {
        format!(
            "  - {{name: {name}, manifest: {}, task: {task}, cluster: {cluster}, slices: [gender], {more}}}\n",
            path(&format!("{name}.jsonl")).display()
        )
    };
    let sets = set("moods", "emotion", "metrics: [uar, accuracy, unparsed]")
        + &set("gist", "summarization", "metrics: [rouge1]");
    std::fs::write(path("suite.yaml"), format!("role: dev\nsets:\n{sets}")).unwrap();
    Suite::load(&path("suite.yaml"), &Tasks::load(None).unwrap()).unwrap()
}

/// A system that answers row i of the moods and of the summaries as told.
fn system(
    suite: &Suite,
    mood: impl Fn(usize) -> &'static str,
    summary: impl Fn(usize) -> &'static str,
) -> System<'_> {
    let sets: Vec<&Set> = suite.sets.iter().collect();
    let said = |set: &Set, answer: &dyn Fn(usize) -> &'static str| {
        set.examples
            .iter()
            .enumerate()
            .map(|(i, example)| predicted(set, example, answer(i).to_owned()).unwrap())
            .collect()
    };
    System::new(
        &sets,
        vec![said(sets[0], &mood), said(sets[1], &summary)],
        true,
    )
    .unwrap()
}

fn right(i: usize) -> &'static str {
    if i.is_multiple_of(2) { "sad" } else { "happy" }
}

fn few() -> Resampling {
    Resampling {
        resamples: 2000,
        ..Resampling::default()
    }
}

#[test]
fn the_mean_is_that_of_the_sets_and_clusters_are_shared() {
    let suite = suite("speaker");
    // Sad is always found, happy never: a recall of one half. Every second summary has one of two
    // words: F1 of 2/3, in the mean 5/6.
    let system = system(
        &suite,
        |_| "sad",
        |i| if i % 2 == 0 { "one two" } else { "one" },
    );
    let scores = system.scores();
    let names: Vec<&str> = scores.0.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "moods.accuracy",
            "moods.uar",
            "moods.unparsed",
            "gist.rouge1",
            "mean"
        ]
    );
    // The summaries stand by rougeL, which is not listed: the same words in the same order.
    let expected = f64::midpoint(0.5, 5.0 / 6.0);
    assert!((scores.get("mean").unwrap() - expected).abs() < 1e-12);
    let found = system.confident(&few());
    assert!(
        found
            .iter()
            .zip(&scores.0)
            .all(|(confident, (name, value))| confident.name == *name
                && (confident.value - value).abs() < 1e-12)
    );
    let mean = found.last().unwrap();
    assert_eq!(
        (mean.num_utterances, mean.num_clusters, mean.cluster),
        (40, 10, "speaker"),
        "a speaker of both sets is one speaker"
    );
    // Every speaker has one sad row and one happy one, one whole summary and one half: no resample
    // differs.
    let interval = mean.interval().unwrap();
    assert!(
        (interval.low - expected).abs() < 1e-9 && (interval.high - expected).abs() < 1e-9,
        "{interval:?}"
    );
    assert_eq!(mean.signature, "mean-of:moods.uar+gist.rougeL");
}

#[test]
fn a_system_like_the_base_differs_in_nothing_and_a_better_one_is_resolved() {
    let suite = suite("speaker");
    let base = system(
        &suite,
        |i| if i < 10 { "no idea" } else { right(i) },
        |_| "one",
    );
    let same = system(
        &suite,
        |i| if i < 10 { "no idea" } else { right(i) },
        |_| "one",
    )
    .against(&base, &few())
    .unwrap();
    assert_eq!(same.len(), 5);
    assert!(
        same.iter()
            .all(|compared| compared.difference.estimate.value == 0.0
                && compared.adjusted_p == 1.0
                && compared.is_better.is_none())
    );
    let better = system(&suite, right, |_| "nothing")
        .against(&base, &few())
        .unwrap();
    let of = |name: &str| {
        better
            .iter()
            .find(|compared| compared.name == name)
            .unwrap()
    };
    assert_eq!(
        (of("moods.unparsed").verdict, of("moods.unparsed").is_better),
        (Verdict::Lower, Some(true)),
        "fewer unparsed answers are better"
    );
    assert_eq!(
        (of("moods.uar").verdict, of("moods.uar").is_better),
        (Verdict::Higher, Some(true))
    );
    assert_eq!(
        (of("gist.rouge1").verdict, of("gist.rouge1").is_better),
        (Verdict::Lower, Some(false))
    );
    assert!((of("moods.uar").difference.estimate.value - 0.5).abs() < 1e-12);
    // Holm: the smallest of five p-values is taken five times.
    let smallest = better
        .iter()
        .map(|compared| compared.difference.supported_p())
        .fold(1.0, f64::min);
    assert!(
        better.iter().all(|compared| compared.adjusted_p >= smallest
            && compared.adjusted_p >= compared.difference.p)
    );
    assert!(
        better
            .iter()
            .any(|compared| (compared.adjusted_p - 5.0 * smallest).abs() < 1e-12)
    );
}

#[test]
fn one_cluster_has_a_score_and_no_interval() {
    let suite = suite("group");
    let found = system(&suite, right, |_| "one two").confident(&few());
    assert!(
        found
            .iter()
            .all(|score| score.estimate.is_none() && score.num_clusters == 1)
    );
    assert!(
        found[0].note.as_deref().unwrap().contains("one cluster"),
        "{:?}",
        found[0].note
    );
    let other = system(&suite, |_| "sad", |_| "one");
    assert!(
        other
            .against(&system(&suite, right, |_| "one two"), &few())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn slices_have_the_rows_that_say_so() {
    let suite = suite("speaker");
    let found = system(
        &suite,
        |i| if i < 10 { right(i) } else { "sad" },
        |_| "one two",
    )
    .slices(&few())
    .unwrap();
    let said: Vec<(&str, &str, usize, f64)> = found
        .iter()
        .map(|slice| {
            (
                slice.set.as_str(),
                slice.value.as_str(),
                slice.scores[0].num_utterances,
                slice.scores[0].value,
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("moods", "f", 10, 1.0),
            ("moods", "m", 10, 0.5),
            ("gist", "f", 10, 1.0),
            ("gist", "m", 10, 1.0)
        ]
    );
    assert!(
        found
            .iter()
            .all(|slice| slice.by == "gender" && slice.scores[0].num_clusters == 5)
    );
}

#[test]
fn a_part_of_the_suite_has_no_mean() {
    let suite = suite("none");
    let set = &suite.sets[1];
    let said = set
        .examples
        .iter()
        .map(|example| predicted(set, example, "one".to_owned()).unwrap())
        .collect();
    let part = System::new(&[set], vec![said], false).unwrap();
    assert_eq!(
        part.scores()
            .0
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>(),
        ["gist.rouge1"]
    );
    assert_eq!(
        part.against(&system(&suite, right, |_| "one two"), &few())
            .unwrap()
            .len(),
        1,
        "what both have is compared"
    );
    assert_eq!(
        part.confident(&few())[0].num_clusters,
        20,
        "each row stands for itself"
    );
}
