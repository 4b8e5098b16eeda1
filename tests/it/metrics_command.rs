//! `maqam metrics`: output for valid files, and errors for others.

use crate::command;

use command::Outcome;
use command::Place;
use serde_json::Value;
use serde_json::json;

/// Three answers of a recogniser: correct except for spelling, an English word transcribed as
/// Arabic, and a loop.
fn transcripts() -> Vec<Value> {
    vec![
        json!({"id": "a", "task": "asr", "prediction": "ذهبت الى المدرسه", "reference": "ذهبتُ إلى المدرسة", "meta": {}}),
        json!({"id": "b", "prediction": "عندي ميتنج غدا", "references": ["عندي meeting غدا", "عندي اجتماع اليوم"], "meta": {}}),
        json!({"id": 3, "prediction": "go on go on go on go on go on go on", "reference": "go on", "meta": {}, "hit_limit": true}),
    ]
}

fn emotions() -> Vec<Value> {
    let row = |id: &str, prediction: &str, reference: &str| json!({"id": id, "prediction": prediction, "reference": reference});
    vec![
        row("1", "happy", "happy"),
        row("2", "The speaker is sad.", "sad"),
        row("3", "I do not know", "angry"),
        row("4", "سعيد", "Happy"),
        row("5", "neutral", "sad"),
    ]
}

/// `maqam metrics` on `p.jsonl` with more arguments.
fn metrics(place: &Place, task: &str, more: &[&str]) -> Outcome {
    place.run(
        &[
            &["metrics", "--task", task, "--predictions", "p.jsonl"],
            more,
        ]
        .concat(),
    )
}

fn json_of(place: &Place, task: &str, more: &[&str]) -> Value {
    serde_json::from_str(
        &metrics(place, task, &[&["--json"], more].concat())
            .succeeds()
            .stdout,
    )
    .unwrap()
}

fn assert_score(found: &Value, name: &str, expected: f64) {
    let score = found[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no `{name}` in {found}"));
    assert!(
        (score - expected).abs() < 1e-12,
        "{name}: {score}, expected {expected}"
    );
}

#[test]
fn json_has_every_score_with_its_signature() {
    let place = Place::new();
    place.write_rows(
        "p.jsonl",
        &[json!({"id": "a", "prediction": "the hat sat", "reference": "the cat sat down"})],
    );
    let found = json_of(&place, "asr", &[]);
    let names = "wer cer substitutions deletions insertions rouge1 rouge2 rougeL rougeLsum chrf chrfpp bleu accuracy macro_f1 weighted_f1 uar length_ratio";
    for name in names.split(' ') {
        assert!(
            found[name].is_f64()
                && found["signatures"][name]
                    .as_str()
                    .unwrap()
                    .contains("version:maqam-"),
            "{name}"
        );
    }
    // By hand: one word of four is another, one is missing; ROUGE-1 has two words of three and
    // four.
    for (name, expected) in [
        ("wer", 0.5),
        ("substitutions", 0.25),
        ("deletions", 0.25),
        ("insertions", 0.0),
        ("rouge1", 4.0 / 7.0),
        ("length_ratio", 0.75),
    ] {
        assert_score(&found, name, expected);
    }
    assert_eq!(
        found["hit_limit"],
        Value::Null,
        "the file does not say how the answer ended"
    );
}

#[test]
fn normalisers_stand_side_by_side() {
    let place = Place::new();
    place.write_rows("p.jsonl", &transcripts());
    let found = json_of(
        &place,
        "asr",
        &[
            "--normaliser",
            "arabic-leaderboard",
            "--normaliser",
            "none",
            "--normaliser",
            "arabic-dialect",
        ],
    );
    // By hand, of 3 + 3 + 2 words: ten words too many, `meeting`; three misspelt words, under the
    // leaderboard's rules one, the dialect's none.
    for (normaliser, errors) in [
        ("none", 14.0),
        ("arabic-leaderboard", 12.0),
        ("arabic-dialect", 11.0),
    ] {
        assert_score(&found["normalisers"][normaliser], "wer", errors / 8.0);
    }
    assert_score(&found, "wer", 12.0 / 8.0);
    assert_score(&found, "wer_latin", 11.0 / 3.0);
    assert_score(&found, "hit_limit", 1.0 / 3.0);
    assert_score(&found, "repetition", 1.0 / 3.0);
    let table = metrics(
        &place,
        "asr",
        &["--normaliser", "none", "--normaliser", "arabic-dialect"],
    )
    .succeeds()
    .stdout;
    let line = |name: &str| {
        table
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("wer"), "wer 175.00 % 137.50 %");
    assert_eq!(line("hit_limit"), "hit_limit 33.33 %");
    assert!(
        table.starts_with("asr: 3 answers, up to 2 references each\n")
            && table.contains("nrefs:var|best:rate|tok:words|"),
        "{table}"
    );
}

#[test]
fn answers_are_read_by_an_inventory() {
    let place = Place::new();
    place.write_rows("p.jsonl", &emotions());
    let lenient = json_of(&place, "emotion", &["--labels", "emotion"]);
    // By hand: F1 of angry 0, of happy 1, of sad 2/3; recalls 0, 1 and 1/2; three of five are
    // right.
    for (name, expected) in [
        ("accuracy", 0.6),
        ("macro_f1", 5.0 / 9.0),
        ("weighted_f1", (2.0 + 4.0 / 3.0) / 5.0),
        ("uar", 0.5),
    ] {
        assert_score(&lenient, name, expected);
    }
    assert_eq!(
        (
            &lenient["predicted"]["unparsed"],
            &lenient["predicted"]["happy"]
        ),
        (&json!(1), &json!(2))
    );
    assert_eq!(
        lenient["confusion"]["counts"][0],
        json!([0, 0, 0, 0, 0, 0, 0, 1]),
        "angry was not understood"
    );
    assert_score(&lenient["labels"]["sad"], "f1", 2.0 / 3.0);
    let strict = json_of(
        &place,
        "emotion",
        &["--labels", "emotion", "--parse", "strict"],
    );
    assert_score(&strict, "accuracy", 0.4);
    assert_eq!(
        (&strict["strict"], &strict["lenient"]),
        (&lenient["strict"], &lenient["lenient"])
    );
    let table = metrics(&place, "emotion", &["--labels", "emotion"])
        .succeeds()
        .stdout;
    assert!(
        table.contains("accuracy     40.00 %  60.00 %\n")
            && table.contains("unparsed           2        1\n"),
        "{table}"
    );
}

#[test]
fn an_inventory_is_a_list_a_map_or_a_task() {
    let place = Place::new();
    place.write_rows("p.jsonl", &emotions());
    place.write("plain.txt", "angry\nhappy\n\nneutral\nsad\n");
    place.write("list.json", r#"["angry", "happy", "neutral", "sad"]"#);
    place.write(
        "under.yaml",
        "kind: classify\nlabels: [angry, happy, neutral, sad]\n",
    );
    place.write(
        "words.yaml",
        "{angry: , happy: {ar: سعيد}, neutral: {en: neutral}, sad: }\n",
    );
    place.write("task.yaml", include_str!("../../prompts/emotion.yaml"));
    for (file, expected) in [
        ("plain.txt", 0.4),
        ("list.json", 0.4),
        ("under.yaml", 0.4),
        ("words.yaml", 0.6),
        ("task.yaml", 0.6),
    ] {
        assert_score(
            &json_of(&place, "emotion", &["--labels", file]),
            "accuracy",
            expected,
        );
    }
}

#[test]
fn labels_without_an_inventory_are_compared_exactly() {
    let place = Place::new();
    place.write_rows("p.jsonl", &emotions());
    let found = json_of(&place, "emotion", &[]);
    assert_score(&found, "accuracy", 0.2);
    // By hand: only `happy` scores, 2 / (1 + 1); seen are three labels more in the references
    // (`Happy` is one) and four answers more.
    assert_score(&found, "macro_f1", 1.0 / 8.0);
    assert_eq!(found["parse"], "as-is");
    let table = metrics(&place, "emotion", &[]).succeeds().stdout;
    assert!(
        table.contains("`--labels emotion` reads them by the task's inventory"),
        "{table}"
    );
}

#[test]
fn references_may_be_in_another_file_and_order() {
    let place = Place::new();
    place.write_rows(
        "p.jsonl",
        &[
            json!({"id": "a", "prediction": "x y", "reference": "old"}),
            json!({"id": "b", "pred_text": "z"}),
        ],
    );
    place.write_rows(
        "r.jsonl",
        &[
            json!({"id": "b", "text": "z"}),
            json!({"id": "a", "references": ["q r", "x y"]}),
        ],
    );
    assert_score(
        &json_of(&place, "asr", &["--references", "r.jsonl"]),
        "wer",
        0.0,
    );
}

#[test]
fn alignments_are_written_to_be_read_and_to_be_parsed() {
    let place = Place::new();
    place.write_rows("p.jsonl", &transcripts());
    metrics(&place, "asr", &["--alignments", "a.txt"]).succeeds();
    let text = place.text("a.txt");
    assert!(
        text.contains("\nb: 33.3 % (1 substituted, 0 deleted, 0 inserted, 3 words)\nREF: "),
        "{text}"
    );
    assert!(
        text.contains("REF: go  on  **  **  **") || text.contains("REF: go  **"),
        "{text}"
    );
    metrics(&place, "asr", &["--alignments", "a.jsonl"]).succeeds();
    let rows = place.lines("a.jsonl");
    assert_eq!(
        rows[1]["alignment"],
        json!([
            ["", "عندي", "عندي"],
            ["S", "meeting", "ميتنج"],
            ["", "غدا", "غدا"]
        ])
    );
    assert_eq!(
        (&rows[2]["id"], &rows[2]["insertions"]),
        (&json!("3"), &json!(10))
    );
}

#[test]
fn bad_rows_are_named_with_file_and_line() {
    let good = r#"{"id": "a", "prediction": "x", "reference": "x"}"#;
    let cases = [
        (
            "{\"id\": \"b\", ".to_owned(),
            vec!["p.jsonl:2: column", "not JSON"],
        ),
        ("[1]".to_owned(), vec!["p.jsonl:2: not a JSON object"]),
        (
            r#"{"prediction": "x", "reference": "x"}"#.to_owned(),
            vec!["p.jsonl:2: the row has no `id`"],
        ),
        (
            good.to_owned(),
            vec!["p.jsonl:2: the id `a` stands on line 1 already"],
        ),
        (
            r#"{"id": "b", "reference": "x"}"#.to_owned(),
            vec![
                "p.jsonl:2: the row has no `prediction`",
                "\"prediction\": \"\"",
            ],
        ),
        (
            r#"{"id": "b", "prediction": 5, "reference": "x"}"#.to_owned(),
            vec!["p.jsonl:2: `prediction` is 5, not a string"],
        ),
        (
            r#"{"id": "b", "prediction": "x"}"#.to_owned(),
            vec!["p.jsonl:2: the row has no reference", "--references FILE"],
        ),
        (
            r#"{"id": "b", "prediction": "x", "references": []}"#.to_owned(),
            vec!["p.jsonl:2: the row has no reference"],
        ),
        (
            r#"{"id": "b", "task": "emotion", "prediction": "x", "reference": "x"}"#.to_owned(),
            vec!["p.jsonl:2: a row of task `emotion`, not of `asr`"],
        ),
    ];
    let place = Place::new();
    for (bad, words) in cases {
        place.write("p.jsonl", format!("{good}\n{bad}\n"));
        metrics(&place, "asr", &[]).fails(2, &words);
    }
    place.write("p.jsonl", "\n");
    metrics(&place, "asr", &[]).fails(2, &["p.jsonl: holds no rows"]);
}

#[test]
fn references_of_another_set_are_refused() {
    let place = Place::new();
    let row = |id: &str| json!({"id": id, "prediction": "x", "reference": "x"});
    place.write_rows("p.jsonl", &[row("a"), row("b"), row("c")]);
    place.write_rows("r.jsonl", &[row("a"), row("d")]);
    let some = [
        "r.jsonl: 2 of 3 predictions have no reference, the first is `b` (p.jsonl:2)",
        "1 of 2 references have no prediction, the first is `d` (line 2)",
    ];
    metrics(&place, "asr", &["--references", "r.jsonl"]).fails(2, &some);
    place.write_rows("r.jsonl", &[row("x"), row("y")]);
    metrics(&place, "asr", &["--references", "r.jsonl"])
        .fails(2, &["3 of 3 predictions", "references of another set"]);
}

#[test]
fn labels_that_do_not_fit_are_refused() {
    let place = Place::new();
    place.write_rows("p.jsonl", &emotions());
    metrics(&place, "emotion", &["--labels", "dialect"]).fails(
        2,
        &[
            "p.jsonl:1: the reference label of row `1`, `happy`, is not in the inventory",
            "EGY",
        ],
    );
    metrics(&place, "emotion", &["--labels", "nothing.txt"])
        .fails(2, &["there is no such file or task", "dialect, emotion"]);
    metrics(&place, "asr", &["--labels", "emotion"]).fails(2, &["task `asr` does not classify"]);
    metrics(&place, "emotoin", &[]).fails(2, &["did you mean `emotion`?"]);
    for (contents, words) in [
        ("happy\nHappy\n", "the labels `happy` and `Happy` are one"),
        ("happy\n", "1 labels, two at least"),
        (
            "[happy, true]",
            "found yes or no where a label should stand",
        ),
        (
            "{happy: yes, sad: [a]}",
            "where words by language should stand",
        ),
    ] {
        place.write("l.txt", contents);
        metrics(&place, "emotion", &["--labels", "l.txt"]).fails(2, &["l.txt: ", words, "hint:"]);
    }
    place.write("l.yaml", "[happy");
    metrics(&place, "emotion", &["--labels", "l.yaml"]).fails(2, &["l.yaml:"]);
}

/// Twelve rows of four words by six speakers; `wrong` of them have their first word wrong.
fn recognised(wrong: usize) -> Vec<Value> {
    let said = |i: usize| {
        if i < wrong {
            "x two three four"
        } else {
            "one two three four"
        }
    };
    (0..12).map(|i| json!({"id": i.to_string(), "prediction": said(i), "reference": "one two three four", "tokens": [], "meta": {"speaker": format!("s{}", i / 2)}})).collect()
}

#[test]
fn two_systems_are_tested_in_pairs() {
    let place = Place::new();
    place.write_rows("p.jsonl", &recognised(10));
    // The other system's file may be in another order.
    let mut other = recognised(0);
    other.reverse();
    place.write_rows("other.jsonl", &other);
    let found = json_of(&place, "asr", &["--against", "other.jsonl"]);
    let against = &found["against"];
    assert_eq!(
        (against["cluster"].clone(), against["num_clusters"].clone()),
        (json!("speaker"), json!(6))
    );
    let wer = against["scores"]
        .as_array()
        .unwrap()
        .iter()
        .find(|score| score["name"] == "wer")
        .unwrap();
    assert!(
        (wer["scores"][0].as_f64().unwrap() - 10.0 / 48.0).abs() < 1e-12 && wer["scores"][1] == 0.0,
        "{}",
        wer["scores"]
    );
    // Five of six speakers differ, all in the same direction: of 2^5 swaps, the two that keep all
    // on one side are as far from 0.
    let swapped = &wer["randomisation"];
    assert_eq!(
        (
            swapped["is_exact"].clone(),
            swapped["num_differing"].clone(),
            swapped["p"].as_f64()
        ),
        (json!(true), json!(5), Some(2.0 / 32.0))
    );
    assert_eq!(
        against["mapsswe"]["num_segments"], 10,
        "each error between two words that both have right is a segment"
    );
    let text = metrics(&place, "asr", &["--against", "other.jsonl"])
        .succeeds()
        .stdout;
    assert!(
        text.contains("p swapped")
            && text.contains("Matched-pair")
            && text.contains("only 6 clusters"),
        "{text}"
    );

    let same = json_of(&place, "asr", &["--against", "p.jsonl"]);
    assert_eq!(same["against"]["scores"][0]["randomisation"]["p"], 1.0);
    place.write_rows("other.jsonl", &recognised(0)[..11]);
    metrics(&place, "asr", &["--against", "other.jsonl"]).fails(
        2,
        &["other.jsonl", "there is no row `11`", "the very same rows"],
    );
}

#[test]
fn an_answer_at_the_token_limit_is_counted() {
    let place = Place::new();
    let row = |id: &str, hit: bool| json!({"id": id, "prediction": "a", "reference": "a", "tokens": [1], "hit_limit": hit});
    place.write_rows(
        "p.jsonl",
        &[
            row("1", true),
            row("2", false),
            json!({"id": "3", "prediction": "a", "reference": "a", "tokens": [1]}),
        ],
    );
    assert_score(&json_of(&place, "asr", &[]), "hit_limit", 1.0 / 3.0);
}
