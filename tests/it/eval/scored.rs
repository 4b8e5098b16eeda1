//! Results of `maqam eval`: scores against formulas by hand, other commands and the library.

use std::path::Path;

use maqam::data::OnBadRow;
use maqam::eval;
use maqam::eval::suite::Suite;
use maqam::featurise::Loader;
use maqam::models::AudioLlm;
use maqam::models::config::Config;
use maqam::nn::lora::Plan;
use maqam::task::Tasks;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::command::Place;
use crate::command::assert_close;
use crate::command::fixture;
use crate::command::fixture_text;
use crate::eval::SUITE;
use crate::eval::eval;
use crate::eval::place;

const OUT: &str = "runs/eval/suite";

fn predictions(place: &Place, system: &str, set: &str) -> Vec<Value> {
    place.lines(&format!("{OUT}/{system}/{set}.jsonl"))
}

fn scores(place: &Place, system: &str) -> Value {
    place.json(&format!("{OUT}/{system}/scores.json"))
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// Edits that lead from one list of words to another, by the textbook's table.
fn distance(a: &[&str], b: &[&str]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let best = (diagonal + usize::from(x != y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            (diagonal, row[j + 1]) = (row[j + 1], best);
        }
    }
    row[b.len()]
}

/// Mean over the labels in the references of the share that was found.
fn uar(pairs: &[(String, Option<String>)]) -> f64 {
    let mut labels: Vec<&String> = pairs.iter().map(|(label, _)| label).collect();
    labels.sort();
    labels.dedup();
    let recall = |label: &&String| {
        let of_label: Vec<_> = pairs.iter().filter(|(known, _)| known == *label).collect();
        of_label
            .iter()
            .filter(|(known, found)| Some(known) == found.as_ref())
            .count() as f64
            / of_label.len() as f64
    };
    labels.iter().map(recall).sum::<f64>() / labels.len() as f64
}

/// A JSON text as it is written once it was read: reading may change a number's last bit.
fn reread(text: &str) -> String {
    serde_json::to_string_pretty(&serde_json::from_str::<Value>(text).unwrap()).unwrap()
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().unwrap().to_owned()
}

#[test]
fn scores_are_those_of_the_predictions() {
    let place = place();
    let ran = eval(&place, &[]).succeeds();
    for system in ["base", "tuned", "base/no-audio", "tuned/shuffled-audio"] {
        let found = scores(&place, system);
        let rows = predictions(&place, system, "words");
        let (errors, words) = rows.iter().fold((0, 0), |(errors, words), row| {
            let said = text(row, "prediction");
            let due = text(row, "reference");
            let said: Vec<&str> = said.split_whitespace().collect();
            let due: Vec<&str> = due.split_whitespace().collect();
            (errors + distance(&due, &said), words + due.len())
        });
        // One part of a million: both are quotients of the same whole numbers, and the rest is
        // printed in full.
        assert_close(
            number(&found["words.wer"]),
            errors as f64 / words as f64,
            1e-12,
            system,
        );
        let (nats, tokens) = rows.iter().fold((0.0, 0.0), |(nats, tokens), row| {
            (
                nats + number(&row["loss"]) * number(&row["target_tokens"]),
                tokens + number(&row["target_tokens"]),
            )
        });
        assert_close(number(&found["words.loss"]), nats / tokens, 1e-12, system);
        let stopped =
            rows.iter().filter(|row| row["hit_limit"] == true).count() as f64 / rows.len() as f64;
        assert_eq!(number(&found["words.hit_limit"]), stopped);

        let rows = predictions(&place, system, "moods");
        let likeliest = |row: &Value| {
            let of_labels = row["likelihoods"].as_object().unwrap();
            of_labels
                .iter()
                .max_by(|a, b| number(a.1).total_cmp(&number(b.1)))
                .map(|(label, _)| label.clone())
        };
        let by_likelihood: Vec<_> = rows
            .iter()
            .map(|row| (text(row, "reference"), likeliest(row)))
            .collect();
        assert_close(
            number(&found["moods.likelihood_uar"]),
            uar(&by_likelihood),
            1e-12,
            system,
        );
        let by_answer: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    text(row, "reference"),
                    row["answer"].as_str().map(str::to_owned),
                )
            })
            .collect();
        assert!(
            (number(&found["moods.uar"]) - uar(&by_answer)).abs() < 1e-12,
            "{system}"
        );
    }
    let about = scores(&place, "tuned")["details"].clone();
    assert_eq!(
        (&about["suite"]["role"], &about["system"], &about["kind"]),
        (&json!("test"), &json!("tuned"), &json!("model"))
    );
    let wer = &about["scores"]["words.wer"];
    assert_eq!(
        (
            &wer["utterances"],
            &wer["clusters"],
            &wer["cluster"],
            &wer["better"]
        ),
        (&json!(12), &json!(4), &json!("speaker"), &json!("lower"))
    );
    assert!(
        wer["signature"].as_str().unwrap().contains("version:maqam"),
        "{wer}"
    );
    assert!(
        number(&wer["interval"]["low"]) <= number(&wer["score"])
            && number(&wer["score"]) <= number(&wer["interval"]["high"])
    );
    assert!(
        wer["against_base"]["difference"]["estimate"]["value"].is_f64()
            && wer["against_base"]["adjusted_p"].is_f64(),
        "{wer}"
    );
    assert_eq!(
        scores(&place, "base")["details"]["scores"]["words.wer"]["against_base"],
        Value::Null
    );
    for word in [
        "words.wer@arabic-leaderboard",
        "moods.uar@strict",
        "moods.likelihood_uar",
        "base no-audio",
        "majority",
        "mean",
        "moods.uar by label",
    ] {
        assert!(
            ran.stdout.contains(word),
            "`{word}` is not in\n{}",
            ran.stdout
        );
    }
    assert_eq!(
        place.text(&format!("{OUT}/table.txt")).trim_end(),
        ran.stdout.trim_end()
    );
}

#[test]
fn metrics_of_equal_predictions_are_equal() {
    let place = place();
    eval(&place, &["--no-base"]).succeeds();
    assert!(!place.path(&format!("{OUT}/base")).exists());
    let metrics = |set: &str, task: &str, more: &[&str]| -> Value {
        let path = format!("{OUT}/tuned/{set}.jsonl");
        let arguments = [
            "metrics",
            "--task",
            task,
            "--prompts",
            "prompts",
            "--predictions",
            &path,
            "--json",
        ];
        serde_json::from_str(
            &place
                .run(&[&arguments[..], more].concat())
                .succeeds()
                .stdout,
        )
        .unwrap()
    };
    let found = scores(&place, "tuned");
    let words = metrics("words", "asr", &[]);
    let moods = metrics("moods", "emotion", &["--labels", "emotion"]);
    let strict = metrics(
        "moods",
        "emotion",
        &["--labels", "emotion", "--parse", "strict"],
    );
    let gist = metrics("gist", "summarization", &[]);
    for (score, of_command) in [
        ("words.wer", &words["wer"]),
        ("words.cer", &words["cer"]),
        ("words.length_ratio", &words["length_ratio"]),
        ("words.hit_limit", &words["hit_limit"]),
        ("moods.accuracy", &moods["accuracy"]),
        ("moods.uar", &moods["uar"]),
        ("moods.macro_f1@strict", &strict["macro_f1"]),
        ("gist.rouge1", &gist["rouge1"]),
        ("gist.rougeL", &gist["rougeL"]),
        ("gist.chrf", &gist["chrf"]),
    ] {
        assert_eq!(&found[score], of_command, "{score}");
    }
}

#[test]
fn training_has_the_same_scores_and_predictions() {
    let place = place();
    let manifests = ["words", "moods", "gist"].map(|name| {
        (
            format!("{name}.jsonl"),
            place.path(&format!("{name}.jsonl")).display().to_string(),
        )
    });
    let suite = manifests
        .iter()
        .fold(SUITE.to_owned(), |suite, (name, path)| {
            suite.replace(name, path)
        });
    place.write("suite.yaml", &suite);
    eval(&place, &[]).succeeds();
    let tasks = Tasks::load(Some(&place.path("prompts"))).unwrap();
    let suite = Suite::load(&place.path("suite.yaml"), &tasks).unwrap();
    let dir = fixture("qwen_omni");
    let config = Config::load(&dir).unwrap();
    let loader = Loader::new(&dir, &config, None).unwrap();
    let weights = config.weights(&dir).unwrap();
    let model = AudioLlm::new(
        config,
        &weights,
        Plan::default(),
        false,
        &candle_core::Device::Cpu,
    )
    .unwrap();
    let evaluation =
        eval::evaluate(&model, &loader, &suite, OnBadRow::Error, &mut |_, _| Ok(())).unwrap();
    let mut written = scores(&place, "base").as_object().unwrap().clone();
    written.shift_remove("details");
    let of_library = serde_json::to_string_pretty(&evaluation.scores.to_json()).unwrap();
    assert_eq!(
        serde_json::to_string_pretty(&written).unwrap(),
        reread(&of_library),
        "to the last bit and in the same order"
    );
    assert_eq!(
        written.keys().cloned().collect::<Vec<_>>(),
        eval::score_names(&suite)
    );
    for (set, rows) in evaluation.predictions {
        let of_library: String = rows
            .iter()
            .map(|row| serde_json::to_string(row).unwrap() + "\n")
            .collect();
        assert_eq!(
            of_library,
            place.text(&format!("{OUT}/base/{set}.jsonl")),
            "{set}"
        );
    }
    let controls = place.json(&format!("{OUT}/base/controls.json"));
    assert_eq!(
        controls["no-audio"]["words.wer"],
        scores(&place, "base/no-audio")["words.wer"]
    );
    assert_eq!(
        (
            controls["no-audio"].get("mean"),
            controls["no-audio"].get("gist.rouge1")
        ),
        (None, None),
        "a mean over other sets is another mean"
    );
}

#[test]
fn likelihoods_are_those_that_the_score_command_gives() {
    let place = place();
    // The rows ask for themselves, so that the other command can ask the same.
    let rows: Vec<Value> = ["happy", "sad", "angry"]
        .iter()
        .enumerate()
        .map(|(i, label)| {
            let clip = fixture_text("audio/odd.wav");
            json!({"id": format!("m{i}"), "audio": clip, "start_s": 0.1 * i as f64, "end_s": 1.0, "label": label, "instruction": "How is it said?"})
        })
        .collect();
    place.write_rows("moods.jsonl", &rows);
    place.write("suite.yaml", "role: dev\nsets:\n  - {name: moods, manifest: moods.jsonl, task: emotion, likelihood: true, metrics: [loss, likelihood_uar]}\n");
    eval(&place, &[]).succeeds();
    for system in ["base", "tuned"] {
        let found = predictions(&place, system, "moods");
        for label in ["happy", "sad", "angry"] {
            let asked: Vec<Value> = rows
                .iter()
                .map(|row| {
                    let messages = json!([{"role": "user", "content": "<audio>How is it said?"}, {"role": "assistant", "content": label}]);
                    json!({"id": row["id"], "audio": row["audio"], "start_s": row["start_s"], "end_s": row["end_s"], "messages": messages})
                })
                .collect();
            place.write_rows("asked.jsonl", &asked);
            let model = fixture_text("qwen_omni");
            let adapter: &[&str] = if system == "tuned" {
                &["--adapter", "adapter"]
            } else {
                &[]
            };
            place
                .run(
                    &[
                        &[
                            "score",
                            "--model",
                            &model,
                            "--data",
                            "asked.jsonl",
                            "--out",
                            "losses.jsonl",
                        ],
                        adapter,
                    ]
                    .concat(),
                )
                .succeeds();
            for (row, expected) in found.iter().zip(place.lines("losses.jsonl")) {
                // Other neighbours in a batch add up in another order: single precision over a few
                // tokens.
                let loss = number(&expected["loss"]);
                let what = format!("{system} {label} {}", row["id"]);
                assert_close(-number(&row["likelihoods"][label]), loss, 1e-5, &what);
                if row["reference"] == label {
                    assert_close(number(&row["loss"]), loss, 1e-5, &what);
                    assert_eq!(row["target_tokens"], expected["num_target_tokens"]);
                }
            }
        }
    }
}

#[test]
fn baselines_answer_and_score_as_by_hand() {
    let place = place();
    let trained: Vec<Value> = ["angry", "angry", "sad"]
        .iter()
        .enumerate()
        .map(|(i, label)| json!({"id": i, "label": label}))
        .collect();
    place.write_rows("train.jsonl", &trained);
    let ran = eval(&place, &[]).succeeds();
    assert!(
        ran.stdout
            .contains("majority of moods: `sad`, the commonest label of the set itself"),
        "{}",
        ran.stdout
    );
    let majority = scores(&place, "majority");
    // Three of six are sad; of three labels one is always found.
    assert_eq!(
        (
            number(&majority["moods.accuracy"]),
            number(&majority["moods.uar@strict"])
        ),
        (0.5, 1.0 / 3.0)
    );
    assert_eq!(
        (
            majority.get("moods.loss"),
            majority.get("moods.likelihood_uar"),
            majority.get("mean")
        ),
        (None, None, None)
    );
    assert_eq!(
        majority["details"]["labels"]["moods"]["counts"],
        json!([[0, 2, 0, 0], [0, 3, 0, 0], [0, 1, 0, 0]])
    );

    let said = |system: &str| {
        predictions(&place, system, "gist")
            .iter()
            .map(|row| text(row, "prediction"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        said("lead"),
        ["one two three.", "وصل الوفد؟", "no marks at all"]
    );
    assert_eq!(
        said("transcript"),
        [
            "one two three. four five",
            "وصل الوفد؟ ثم غادر.",
            "no marks at all"
        ]
    );
    let rows = predictions(&place, "lead", "gist");
    assert_eq!(
        rows[0]["references"],
        json!(["one two", "two three four"]),
        "a reference that says the same again counts once"
    );
    assert_eq!(
        (text(&rows[1], "reference"), &rows[1]["references"]),
        ("وصل الوفد".to_owned(), &json!(["وصل الوفد", "غادر الوفد"]))
    );
    assert_eq!(rows[2].get("references"), None);
    // F1 with the nearer reference: 2*2/(3+2), 1, 2*3/(4+3).
    assert_close(
        number(&scores(&place, "lead")["gist.rouge1"]),
        (0.8 + 1.0 + 6.0 / 7.0) / 3.0,
        1e-12,
        "lead",
    );

    place.write(
        "suite.yaml",
        SUITE.replace(
            "task: emotion,",
            "task: emotion, majority_from: train.jsonl,",
        ),
    );
    let ran = eval(&place, &[]).succeeds();
    assert!(
        ran.stdout
            .contains("majority of moods: `angry`, the commonest label of train.jsonl"),
        "{}",
        ran.stdout
    );
    assert_eq!(
        number(&scores(&place, "majority")["moods.accuracy"]),
        1.0 / 6.0
    );
}

#[test]
fn slices_sum_to_the_whole_set() {
    let place = place();
    eval(&place, &[]).succeeds();
    for (system, set, metric) in [
        ("majority", "moods", "accuracy"),
        ("tuned", "words", "hit_limit"),
        ("tuned", "moods", "unparsed"),
    ] {
        let found = scores(&place, system);
        let Some(whole) = found.get(format!("{set}.{metric}")) else {
            continue;
        };
        for (by, values) in found["details"]["slices"][set].as_object().unwrap() {
            let values: &Map<String, Value> = values.as_object().unwrap();
            let rows: f64 = values
                .values()
                .map(|value| number(&value["utterances"]))
                .sum();
            let sum: f64 = values
                .values()
                .map(|value| {
                    number(&value["scores"][metric]["score"]) * number(&value["utterances"])
                })
                .sum();
            assert!(
                (sum / rows - number(whole)).abs() < 1e-12 && values.len() > 1,
                "{system} {set} by {by}"
            );
        }
    }
    let slices = &scores(&place, "majority")["details"]["slices"]["moods"]["label"];
    let accuracy = |label: &str| number(&slices[label]["scores"]["accuracy"]["score"]);
    assert_eq!(
        (accuracy("sad"), accuracy("happy"), accuracy("angry")),
        (1.0, 0.0, 0.0)
    );
    let words = &scores(&place, "tuned")["details"]["slices"]["words"];
    assert_eq!(
        (
            &words["gender"]["f"]["utterances"],
            &words["gender"]["f"]["clusters"]
        ),
        (&json!(6), &json!(2))
    );
    assert_eq!(
        (
            &words["speaker"]["s0"]["clusters"],
            &words["speaker"]["s0"]["scores"]["wer"]["interval"]
        ),
        (&json!(1), &Value::Null)
    );
}

#[test]
fn the_suites_that_ship_can_be_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join("eval")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
            && !path.ends_with("tiny-base.yaml")
        {
            Suite::load(
                &Path::new("eval").join(path.file_name().unwrap()),
                &Tasks::load(None).unwrap(),
            )
            .unwrap();
        }
    }
}
