//! Instruction suites: IFEval's own decisions, a suite built from the sample that ships, and the
//! command that builds and scores.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use command::Place;
use maqam::data::OnBadRow;
use maqam::data::Role;
use maqam::data::Row;
use maqam::data::read_manifest;
use maqam::eval::instructions::check::Check;
use maqam::eval::instructions::check::Mode;
use maqam::eval::instructions::clip::Source;
use maqam::eval::instructions::kind::InstructionKind;
use maqam::eval::instructions::row::SuiteRow;
use maqam::eval::instructions::score;
use maqam::eval::instructions::settings::CLIPS_A_WORDING;
use maqam::eval::instructions::settings::Settings;
use maqam::eval::instructions::suite::Suite;
use maqam::eval::instructions::suite::suite;
use maqam::records::instructions::InstructionScores;
use maqam::records::run_folder::Evaluation;
use maqam::task::Task;
use maqam::task::Tasks;
use maqam::task::Wording;
use serde_json::Value;
use serde_json::json;

use crate::command;

fn repository(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn rows(task: &str) -> Vec<Row> {
    read_manifest(
        Path::new(&repository(&format!("data/sample/{task}-dev.jsonl"))),
        None,
        OnBadRow::Error,
    )
    .unwrap()
    .rows
}

/// A suite with every built-in task for the rows of some of them.
fn built(tasks: &Tasks, of: &[&str], settings: &Settings, seed: u64) -> Suite {
    let rows: Vec<(&Task, Vec<Row>)> = of
        .iter()
        .map(|name| (tasks.get(name).unwrap(), rows(name)))
        .collect();
    let sources: Vec<Source> = rows
        .iter()
        .flat_map(|(task, rows)| rows.iter().map(|row| Source { row, task }))
        .collect();
    let asked: Vec<&Task> = tasks.names().map(|name| tasks.get(name).unwrap()).collect();
    suite(&sources, &asked, settings, seed).unwrap()
}

const ALL_FOUR: [&str; 4] = ["asr", "summarization", "dialect", "emotion"];

/// `tests/fixtures/instructions/ifeval.py` ran IFEval's checkers.
#[test]
fn decisions_and_accuracies_are_those_of_ifeval() {
    let golden: Value = serde_json::from_str(
        &std::fs::read_to_string(command::fixture("instructions/ifeval.json")).unwrap(),
    )
    .unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let row = |(i, case): (usize, &Value)| {
        serde_json::from_value(
            json!({"id": i.to_string(), "kind": "all", "checks": case["checks"]}),
        )
        .unwrap()
    };
    let suite: Vec<SuiteRow> = cases.iter().enumerate().map(row).collect();
    let answers: Vec<&str> = cases
        .iter()
        .map(|case| case["answer"].as_str().unwrap())
        .collect();
    let scores = score::score(&suite, &answers);
    for (case, found) in cases.iter().zip(&scores.rows) {
        assert_eq!(
            (json!(found.strict), json!(found.loose)),
            (case["strict"].clone(), case["loose"].clone()),
            "{case}"
        );
    }
    let rates = serde_json::to_value(scores.all).unwrap();
    for (name, expected) in golden["accuracies"].as_object().unwrap() {
        // The same counts divided: nothing but the last bit may differ.
        assert!(
            (rates[name].as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-12,
            "{name}"
        );
    }
}

#[test]
fn the_same_suite_comes_from_the_same_rows_and_seed() {
    let tasks = Tasks::load(None).unwrap();
    let text = |seed: u64, kinds: &[InstructionKind]| {
        let settings = Settings {
            kinds: kinds.to_vec(),
            ..Settings::default()
        };
        built(&tasks, &["asr"], &settings, seed)
            .to_jsonl(Path::new("eval"))
            .unwrap()
    };
    let whole = text(7, &InstructionKind::ALL);
    assert_eq!(whole, text(7, &InstructionKind::ALL));
    assert_ne!(whole, text(8, &InstructionKind::ALL));
    // A kind does not depend on the others.
    for kind in [
        InstructionKind::Json,
        InstructionKind::Switch,
        InstructionKind::ThreeTurns,
    ] {
        assert!(whole.contains(&text(7, &[kind])), "{kind:?}");
    }
}

#[test]
fn transcripts_give_every_kind_except_spoken() {
    let tasks = Tasks::load(None).unwrap();
    let suite = built(&tasks, &["asr"], &Settings::default(), 1);
    let mut counts = BTreeMap::<&str, usize>::new();
    suite
        .rows
        .iter()
        .for_each(|row| *counts.entry(row.kind.name()).or_default() += 1);
    for kind in InstructionKind::ALL
        .into_iter()
        .filter(|kind| *kind != InstructionKind::Spoken)
    {
        assert!(counts[kind.name()] >= 20, "{kind:?}: {counts:?}");
    }
    assert_eq!(
        suite.left_out,
        [
            "task `summarization` is not asked: no clip has an answer to it; `--task summarization` beside a manifest asks it all the same",
            "no row of kind `spoken`: no transcript begins like an instruction, and no row is marked with `spoken_instruction`"
        ]
    );
    let ids: BTreeSet<&str> = suite.rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids.len(), suite.rows.len());
}

#[test]
fn rows_are_conversations_with_valid_checks() {
    let tasks = Tasks::load(None).unwrap();
    for row in built(
        &tasks,
        &ALL_FOUR,
        &Settings {
            rows: 40,
            ..Settings::default()
        },
        3,
    )
    .rows
    {
        let turns: Vec<Role> = row.messages.iter().map(|message| message.role).collect();
        let num_questions = turns.iter().filter(|role| **role == Role::User).count();
        let expected = match row.kind {
            InstructionKind::TwoTurns => 2,
            InstructionKind::ThreeTurns => 3,
            _ => 1,
        };
        assert_eq!(
            (num_questions, turns[0], *turns.last().unwrap()),
            (expected, Role::System, Role::User),
            "{}",
            row.id
        );
        assert!(
            turns[1..].chunks(2).all(|pair| pair[0] == Role::User
                && pair.get(1).is_none_or(|role| *role == Role::Assistant)),
            "{}",
            row.id
        );
        assert_eq!(
            row.messages
                .iter()
                .map(maqam::data::Message::num_audio_marks)
                .sum::<usize>(),
            1
        );
        assert!(
            row.messages
                .iter()
                .all(|message| !message.content.trim().is_empty()
                    && !message.content.contains('{')
                    || message.role == Role::Assistant)
        );
        assert!(!row.checks.is_empty());
        row.checks
            .iter()
            .chain(&row.right)
            .for_each(|check| check.validate().unwrap());
        // A test wording in a dev suite would spend the last judgement.
        assert!(row.wording.contains("/dev/"), "{}", row.wording);
        if row.kind == InstructionKind::Combined {
            assert_eq!(row.checks.len(), 2);
        }
    }
}

#[test]
fn every_instruction_has_a_passing_answer() {
    let tasks = Tasks::load(None).unwrap();
    let suite = built(
        &tasks,
        &ALL_FOUR,
        &Settings {
            rows: 40,
            ..Settings::default()
        },
        3,
    );
    let mut answered = BTreeMap::<&str, (usize, usize)>::new();
    for row in &suite.rows {
        let count = answered.entry(row.kind.name()).or_default();
        count.0 += 1;
        if let Some(reference) = &row.reference {
            count.1 += 1;
            assert!(
                row.checks
                    .iter()
                    .chain(&row.right)
                    .all(|check| check.holds(reference, Mode::Strict)),
                "{}: {reference}",
                row.id
            );
        }
    }
    // Where the form alone decides, the right answer can always take it; a longer answer or one in
    // another language has to be made up.
    for kind in [
        "label",
        "json",
        "affix",
        "orthography",
        "switch",
        "wording",
        "three-turns",
    ] {
        assert_eq!(answered[kind].0, answered[kind].1, "{kind}");
    }
    assert!(
        answered
            .iter()
            .all(|(kind, (_, known))| *known > 0 || *kind == "length"),
        "{answered:?}"
    );
}

#[test]
fn in_the_third_turn_the_old_rule_fails() {
    let tasks = Tasks::load(None).unwrap();
    let settings = Settings {
        rows: 60,
        kinds: vec![InstructionKind::ThreeTurns],
        ..Settings::default()
    };
    let suite = built(&tasks, &ALL_FOUR, &settings, 5);
    assert_eq!(suite.rows.len(), 60);
    for row in suite.rows {
        for earlier in row
            .messages
            .iter()
            .filter(|message| message.role == Role::Assistant)
        {
            for mode in [Mode::Strict, Mode::Loose] {
                assert!(
                    !row.checks
                        .iter()
                        .all(|check| check.holds(&earlier.content, mode)),
                    "{}: {}",
                    row.id,
                    earlier.content
                );
            }
        }
    }
}

#[test]
fn an_answer_to_one_task_fails_the_other_tasks() {
    let tasks = Tasks::load(None).unwrap();
    let settings = Settings {
        kinds: vec![InstructionKind::Switch],
        ..Settings::default()
    };
    let suite = built(&tasks, &ALL_FOUR, &settings, 2);
    for of_clip in suite.rows.chunks(4) {
        assert_eq!(
            of_clip
                .iter()
                .map(|row| row.asks.as_str())
                .collect::<Vec<_>>(),
            ["asr", "dialect", "emotion", "summarization"]
        );
        assert!(
            of_clip
                .iter()
                .all(|row| row.source.id == of_clip[0].source.id)
        );
        for (asked, answered) in of_clip
            .iter()
            .flat_map(|asked| of_clip.iter().map(move |answered| (asked, answered)))
        {
            let held = asked
                .checks
                .iter()
                .all(|check| check.holds(answered.reference.as_ref().unwrap(), Mode::Loose));
            assert_eq!(
                held,
                asked.asks == answered.asks,
                "{} answered as {}",
                asked.id,
                answered.asks
            );
        }
    }
}

#[test]
fn one_task_uses_every_unseen_wording() {
    let tasks = Tasks::load(None).unwrap();
    for (wording, expected) in [(Wording::Dev, 6), (Wording::Test, 12)] {
        let settings = Settings {
            kinds: vec![InstructionKind::Wording],
            wording,
            rows: 1,
            ..Settings::default()
        };
        let suite = built(&tasks, &ALL_FOUR, &settings, 2);
        assert_eq!(suite.rows.len(), 4 * CLIPS_A_WORDING * expected);
        for task in ALL_FOUR {
            let clips: BTreeSet<&str> = suite
                .rows
                .iter()
                .filter(|row| row.asks == task)
                .map(|row| &*row.source.id)
                .collect();
            assert_eq!(clips.len(), CLIPS_A_WORDING, "{task}");
        }
        for of_task in suite.rows.chunks(expected) {
            assert!(
                of_task
                    .iter()
                    .all(|row| row.source.id == of_task[0].source.id
                        && row.asks == of_task[0].asks
                        && row.checks == of_task[0].checks)
            );
            let said: BTreeSet<&str> = of_task
                .iter()
                .map(|row| row.messages.last().unwrap().content.as_str())
                .collect();
            assert_eq!(said.len(), expected);
        }
    }
}

/// Rows over one clip of the fixtures, each another stretch of it.
fn spoken_rows() -> Vec<Value> {
    let row = |i: usize, text: &str| json!({"id": format!("s{i}"), "audio": command::fixture("audio/a2.wav"), "start_s": 0.1 * i as f64, "end_s": 0.1 * i as f64 + 1.0, "language": "ar", "text": text});
    let mut rows = vec![
        row(0, "اكتب كلمة نعم ولا شيء غيرها"),
        row(1, "الكتاب على الطاولة الكبيرة"),
        row(2, "Say hello to everyone"),
        row(3, "هذا يوم جميل جدا"),
    ];
    rows[3]["spoken_instruction"] = json!(true);
    rows[0]["obeyed"] = json!("نعم");
    rows
}

#[test]
fn spoken_instructions_are_found_by_words_or_mark() {
    let place = Place::new();
    let path = place.write_rows("asr.jsonl", &spoken_rows());
    let rows = read_manifest(&path, None, OnBadRow::Error).unwrap().rows;
    let tasks = Tasks::load(None).unwrap();
    let asr = tasks.get("asr").unwrap();
    let sources: Vec<Source> = rows.iter().map(|row| Source { row, task: asr }).collect();
    let settings = Settings {
        kinds: vec![InstructionKind::Spoken],
        ..Settings::default()
    };
    let suite = suite(&sources, &[asr], &settings, 0).unwrap();
    let sources: BTreeSet<&str> = suite.rows.iter().map(|row| &*row.source.id).collect();
    assert_eq!(sources, ["s0", "s2", "s3"].into());
    let row = suite
        .rows
        .iter()
        .find(|row| &*row.source.id == "s0")
        .unwrap();
    let holds = |answer: &str| {
        row.checks
            .iter()
            .all(|check| check.holds(answer, Mode::Loose))
    };
    assert!(holds("اكتب كلمة نعم، ولا شيء غيرها.") && !holds("نعم") && !holds("نَعَم"));
    assert!(row.checks.contains(&Check::NoneOf {
        answers: vec!["نعم".into()]
    }));
}

fn without(mut row: Value, field: &str) -> Value {
    row.as_object_mut().unwrap().remove(field).unwrap();
    row
}

#[test]
fn the_shipped_suite_equals_its_command() {
    let place = Place::new();
    let name = "eval/instructions/sample-dev.jsonl";
    let shipped = std::fs::read_to_string(repository(name)).unwrap();
    // Eight clips in six wordings of four tasks are most of it.
    assert!(shipped.len() < 300_000, "{} bytes", shipped.len());
    let readme = std::fs::read_to_string(repository("eval/instructions/README.md")).unwrap();
    let line = readme
        .lines()
        .find(|line| line.starts_with("maqam instructions build ") && line.ends_with(name))
        .unwrap();
    let arguments: Vec<&str> = line
        .split(' ')
        .skip(1)
        .map(|word| if word == name { "s.jsonl" } else { word })
        .collect();
    // The same paths of manifests as from the root of the repository.
    std::os::unix::fs::symlink(repository("data"), place.path("data")).unwrap();
    place.run(&arguments).succeeds();
    let same_but_audio = |text: &str| -> Vec<Value> {
        text.lines()
            .map(|line| {
                serde_json::from_str(line)
                    .map(|row: Value| without(row, "audio"))
                    .unwrap()
            })
            .collect()
    };
    assert_eq!(
        same_but_audio(&place.text("s.jsonl")),
        same_but_audio(&shipped)
    );
    let rows = read_manifest(Path::new(&repository(name)), None, OnBadRow::Error)
        .unwrap()
        .rows;
    assert!(
        rows.iter()
            .all(|row| row.task.is_none() && row.clips.len() == 1 && row.group.is_some())
    );
}

/// `tests/reference/instruction_floor.py` computed every check independently.
#[test]
fn the_floor_is_that_of_an_independent_count() {
    let golden: Value = serde_json::from_str(
        &std::fs::read_to_string(command::fixture("instructions/floor.json")).unwrap(),
    )
    .unwrap();
    let suite =
        score::read_suite(Path::new(&repository("eval/instructions/sample-dev.jsonl"))).unwrap();
    assert_eq!(golden["rows"], suite.len());
    let found = score::constant(&suite).unwrap();
    let followed =
        |scores: &InstructionScores| scores.rows.iter().filter(|row| row.follows()).count();
    assert_eq!(
        (
            golden["answer"].as_str().unwrap(),
            golden["followed"].as_u64().unwrap()
        ),
        (found.answer.as_str(), followed(&found.scores) as u64)
    );
    let counts = golden["counts"].as_array().unwrap();
    assert!(counts.len() >= 40);
    for count in counts {
        let answer = count[0].as_str().unwrap();
        let expected = count[1].as_u64().unwrap();
        let scores = score::score(&suite, &vec![answer; suite.len()]);
        assert_eq!(followed(&scores) as u64, expected, "{answer}");
    }
}

#[test]
fn summaries_are_asked_if_a_manifest_has_or_needs_one() {
    let tasks = Tasks::load(None).unwrap();
    let asked_of = |of: &[&str]| -> BTreeSet<String> {
        let suite = built(&tasks, of, &Settings::default(), 4);
        let summaries = suite.rows.iter().filter(|row| row.asks == "summarization");
        summaries.map(|row| row.source.id.to_string()).collect()
    };
    assert!(asked_of(&["asr"]).is_empty());
    // The emotion manifest has its own clips; a summary is asked only for those with one.
    let with_summary: BTreeSet<String> = rows("summarization")
        .iter()
        .map(|row| row.id.to_string())
        .collect();
    let asked = asked_of(&["summarization", "emotion"]);
    assert!(
        !asked.is_empty() && asked.is_subset(&with_summary),
        "{asked:?}"
    );
    // A manifest without summaries whose task is named.
    let place = Place::new();
    place.write_rows("s.jsonl", &spoken_rows());
    let build = |task: &str| {
        let fixed = [
            "instructions",
            "build",
            "--data",
            "s.jsonl",
            "--out",
            "x.jsonl",
            "--ask",
            "summarization",
        ];
        place.run(&[&fixed[..], &["--task", task]].concat())
    };
    build("asr").fails(
        2,
        &[
            "nothing can be asked",
            "`--task summarization` beside a manifest",
        ],
    );
    build("summarization").succeeds();
    assert!(!place.lines("x.jsonl").is_empty());
}

#[test]
fn the_same_rows_are_scored_as_text() {
    let place = scored_place();
    let fixed = [
        "instructions",
        "build",
        "--data",
        "asr.jsonl",
        "--task",
        "asr",
        "--out",
        "a.jsonl",
    ];
    let more = [
        "--ask",
        "asr",
        "--rows",
        "4",
        "--seed",
        "2",
        "--text",
        "text.jsonl",
    ];
    place.run(&[&fixed[..], &more].concat()).succeeds();
    assert_eq!(
        place.text("a.jsonl"),
        place.text("s.jsonl"),
        "the suite is the same"
    );
    let heard = place.lines("a.jsonl");
    let read = place.lines("text.jsonl");
    assert_eq!(heard.len(), read.len());
    let texts: BTreeMap<String, String> = spoken_rows()
        .iter()
        .map(|row| {
            (
                row["id"].as_str().unwrap().to_owned(),
                row["text"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    for (heard, read) in heard.iter().zip(&read) {
        assert!(read.get("audio").is_none() && !read.to_string().contains("<audio>"));
        assert_eq!(
            (&heard["id"], &heard["checks"]),
            (&read["id"], &read["checks"])
        );
        let said = &texts[read["source"].as_str().unwrap()];
        assert!(
            read["messages"].to_string().contains(said.as_str()),
            "{read}"
        );
    }
    let score = |more: &[&str]| {
        let fixed = [
            "instructions",
            "score",
            "--suite",
            "s.jsonl",
            "--predictions",
            "right.jsonl",
        ];
        place.run(&[&fixed[..], more].concat())
    };
    let text = [
        "--text-suite",
        "text.jsonl",
        "--text",
        "chatty.jsonl",
        "--text-base",
        "right.jsonl",
    ];
    let table = score(&text).succeeds().stdout;
    assert!(
        table.contains("asked in text alone") && table.contains("McNemar"),
        "{table}"
    );
    let json: Value =
        serde_json::from_str(&score(&[&text[..], &["--json"]].concat()).succeeds().stdout).unwrap();
    let change = &json["text"]["change"];
    let lost = change["lost"].as_array().unwrap().len();
    // Chatter is followed loosely alone, and what was right before is lost: McNemar's p of so many
    // against none.
    assert!(
        lost > 10 && change["gained"].as_array().unwrap().is_empty(),
        "{change}"
    );
    let expected = 2.0 * 0.5f64.powi(lost as i32);
    assert!(
        (change["p"].as_f64().unwrap() / expected - 1.0).abs() < 1e-9,
        "{change}"
    );
    score(&text[..2]).fails(2, &["--text"]);
}

/// A suite over the spoken rows, its references as predictions.
fn scored_place() -> Place {
    let place = Place::new();
    place.write_rows("asr.jsonl", &spoken_rows());
    let ran = place.run(&[
        "instructions",
        "build",
        "--data",
        "asr.jsonl",
        "--task",
        "asr",
        "--out",
        "s.jsonl",
        "--ask",
        "asr",
        "--rows",
        "4",
        "--seed",
        "2",
    ]);
    ran.succeeds();
    let predict = |answer: &dyn Fn(&Value) -> Value| -> Vec<Value> {
        place
            .lines("s.jsonl")
            .iter()
            .map(|row| json!({"id": row["id"], "prediction": answer(row), "tokens": []}))
            .collect()
    };
    place.write_rows("right.jsonl", &predict(&|row| row["reference"].clone()));
    place.write_rows(
        "chatty.jsonl",
        &predict(&|row| {
            format!(
                "Sure!\n{}\nAnything else?",
                row["reference"].as_str().unwrap()
            )
            .into()
        }),
    );
    place
}

#[test]
fn references_score_all_and_chatter_scores_loosely() {
    let place = scored_place();
    let score = |predictions: &str| -> Value {
        let ran = place.run(&[
            "instructions",
            "score",
            "--suite",
            "s.jsonl",
            "--predictions",
            predictions,
            "--base",
            "right.jsonl",
            "--json",
        ]);
        serde_json::from_str(&ran.succeeds().stdout).unwrap()
    };
    let right = score("right.jsonl");
    for rate in [
        "prompt_strict",
        "prompt_loose",
        "instruction_strict",
        "instruction_loose",
    ] {
        assert_eq!(right["all"][rate], 1.0, "{right}");
    }
    let chatty = score("chatty.jsonl");
    assert_eq!(
        (
            &chatty["all"]["prompt_loose"],
            &chatty["base"]["all"]["prompt_strict"]
        ),
        (&json!(1.0), &json!(1.0))
    );
    assert!(
        chatty["all"]["prompt_strict"].as_f64().unwrap() < 0.3,
        "{}",
        chatty["all"]
    );
    assert!(
        chatty["rows"][0]["cluster"]
            .as_str()
            .unwrap()
            .starts_with('s')
    );
    let lost = chatty["change"]["lost"].as_array().unwrap().len() as f64;
    assert_eq!(
        lost / chatty["all"]["prompts"].as_f64().unwrap(),
        1.0 - chatty["all"]["prompt_strict"].as_f64().unwrap()
    );
    let table = place
        .run(&[
            "instructions",
            "score",
            "--suite",
            "s.jsonl",
            "--predictions",
            "chatty.jsonl",
            "--base",
            "right.jsonl",
        ])
        .succeeds()
        .stdout;
    for word in [
        "base strict",
        "three-turns",
        "no-punctuation",
        "asr in 6 wordings",
        "rows that only the base follows",
    ] {
        assert!(table.contains(word), "{table}");
    }
}

#[test]
fn a_report_reads_the_table() {
    let place = scored_place();
    let fixed = [
        "instructions",
        "score",
        "--suite",
        "s.jsonl",
        "--predictions",
        "chatty.jsonl",
        "--out",
        "step/instructions.json",
    ];
    let read = || {
        Evaluation {
            folder: Some(place.path("step")),
            ..Evaluation::default()
        }
        .instructions()
        .unwrap()
        .unwrap()
    };
    place.run(&fixed).succeeds();
    assert!(read().base.is_none());
    place
        .run(&[&fixed[..], &["--base", "right.jsonl"]].concat())
        .succeeds();
    let model = read().model;
    let base = read().base.unwrap();
    assert_eq!(
        (
            model.kinds[0].0.as_str(),
            model.kinds[0].1.prompts,
            model.kinds[0].1.prompt_strict
        ),
        ("json", 4, 0.0)
    );
    assert!(
        model.all.prompt_loose == 1.0
            && base.all.prompt_strict == 1.0
            && base.kinds.get("json").unwrap().prompt_strict == 1.0
    );
}

#[test]
fn predictions_that_do_not_fit_the_suite_are_refused() {
    let place = scored_place();
    let lines = place.lines("right.jsonl");
    let cases: [(&str, Vec<Value>, &[&str]); 4] = [
        (
            "missing.jsonl",
            lines[1..].to_vec(),
            &[
                "missing.jsonl: 1 of ",
                " rows have no prediction: `json-001-",
                "hint: ",
            ],
        ),
        (
            "doubled.jsonl",
            [&lines[..], &lines[..1]].concat(),
            &["doubled.jsonl:", "was predicted before, in line 1"],
        ),
        (
            "foreign.jsonl",
            [&lines[..], &[json!({"id": "z", "prediction": ""})]].concat(),
            &["1 of ", "predictions are of other rows: `z`"],
        ),
        (
            "odd.jsonl",
            vec![json!({"id": "z", "text": ""})],
            &["odd.jsonl:1: `prediction` is missing"],
        ),
    ];
    for (name, rows, words) in cases {
        place.write_rows(name, &rows);
        place
            .run(&[
                "instructions",
                "score",
                "--suite",
                "s.jsonl",
                "--predictions",
                name,
            ])
            .fails(2, words);
        place
            .run(&[
                "instructions",
                "score",
                "--suite",
                "s.jsonl",
                "--predictions",
                "right.jsonl",
                "--base",
                name,
            ])
            .fails(2, words);
    }
    place
        .run(&[
            "instructions",
            "score",
            "--suite",
            "asr.jsonl",
            "--predictions",
            "right.jsonl",
        ])
        .fails(2, &["asr.jsonl:1: `kind` is missing"]);
}

#[test]
fn builds_without_usable_rows_are_refused() {
    let place = scored_place();
    let build = |more: &[&str]| {
        place.run(
            &[
                &[
                    "instructions",
                    "build",
                    "--data",
                    "asr.jsonl",
                    "--out",
                    "x.jsonl",
                ],
                more,
            ]
            .concat(),
        )
    };
    build(&[]).fails(2, &["asr.jsonl:1: no task", "--task NAME"]);
    build(&["--task", "asr", "--kinds", "jsn"])
        .fails(2, &["unknown kind `jsn`", "did you mean `json`?"]);
    build(&["--task", "asr", "--languages", "fr"])
        .fails(2, &["--languages fr: instructions are worded in ar and en"]);
    build(&["--task", "asr", "--task", "asr"])
        .fails(2, &["--task is given 2 times, --data 1 times"]);
    build(&["--task", "asr", "--ask", "emotions"]).fails(2, &["--ask: unknown task `emotions`"]);
    build(&["--task", "asr", "--ask", "asr", "--kinds", "label"]).fails(
        2,
        &[
            "nothing can be asked",
            "no row of kind `label`: none of the tasks suits it",
        ],
    );
    build(&["--task", "asr", "--rows", "0"]).fails(2, &["no rows are asked for"]);
    build(&["--task", "asr", "--wording", "train"]).fails(2, &["dev or test"]);
    place.write_rows(
        "text.jsonl",
        &[json!({"id": "t", "text": "a text", "summary": "a"})],
    );
    let ran = place.run(&[
        "instructions",
        "build",
        "--data",
        "text.jsonl",
        "--task",
        "summarization",
        "--out",
        "x.jsonl",
    ]);
    ran.fails(2, &["no row has an audio file to ask about"]);
    assert!(!place.path("x.jsonl").exists());
}
