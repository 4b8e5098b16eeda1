//! The judge against a local endpoint with faults: too many requests, errors, cut connections,
//! silence, wrong answers of every kind.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use command::Place;
use endpoint::Does;
use endpoint::KEY;
use endpoint::Seen;
use endpoint::Server;
use endpoint::grades;
use endpoint::refuses;
use endpoint::says;
use maqam::endpoint::key::Key;
use maqam::endpoint::patience::Patience;
use maqam::endpoint::request::Endpoint;
use maqam::error::Result;
use maqam::eval::judge::Judge;
use maqam::eval::judge::Outcome;
use maqam::eval::judge::Progress;
use maqam::eval::judge::Verdicts;
use maqam::eval::judge::cache::Cache;
use maqam::eval::judge::rubric::Item;
use maqam::eval::judge::rubric::Prices;
use maqam::eval::judge::rubric::Rubric;
use maqam::stop::Stop;
use serde_json::Value;
use serde_json::json;

use crate::command;
use crate::endpoint;

/// Waits short enough for tests.
fn patience() -> Patience {
    Patience {
        first_wait: Duration::from_millis(4),
        timeout: Duration::from_secs(20),
        ..Patience::default()
    }
}

fn items(count: usize) -> Vec<Item> {
    (0..count)
        .map(|i| Item {
            id: format!("r{i}"),
            source: format!("source {i}"),
            summary: format!("summary {i}"),
            reference: None,
        })
        .collect()
}

/// Result of a run, and every wait that it reported.
fn judged(
    server: &Server,
    items: &[Item],
    cache: &Path,
    num_threads: usize,
    patience: Patience,
) -> (Result<Verdicts>, Vec<(String, Duration)>) {
    let rubric = Rubric::load(None).unwrap();
    let endpoint = Endpoint::new(
        &server.url,
        "m",
        Some(Key::new(KEY).unwrap()),
        "OPENAI_API_KEY",
        patience.timeout,
    )
    .unwrap();
    let mut waits = Vec::new();
    let verdicts = Judge {
        rubric: &rubric,
        endpoint: &endpoint,
        patience,
        num_threads,
    }
    .judge(
        items,
        &mut Cache::open(cache).unwrap(),
        &Stop::new(),
        &mut |told| {
            if let Progress::Waiting { why, wait } = told {
                waits.push((why.to_owned(), wait));
            }
            Ok(())
        },
    );
    (verdicts, waits)
}

fn grades_of(outcome: &Outcome) -> &[i64] {
    match outcome {
        Outcome::Judged(judged) => &judged.verdict.grades,
        Outcome::Unusable(fault) => panic!("{fault}"),
    }
}

#[test]
fn requests_recover_from_every_failure() {
    let place = Place::new();
    let server = Server::start(&[
        Does::Refuses(
            429,
            "Retry-After: 0.2\r\n",
            json!({"error": {"message": "slow down"}}).to_string(),
        ),
        refuses(500),
        Does::HangsUp,
        Does::Sleeps(Duration::from_secs(4)),
        Does::Babbles,
        says("I would give it a four."),
        says(r#"{"faithfulness": 9, "coverage": 2, "fluency": 3}"#),
        grades(4),
    ]);
    let started = Instant::now();
    let timeout = Duration::from_secs(1);
    let (verdicts, waits) = judged(
        &server,
        &items(1),
        &place.path("cache.jsonl"),
        4,
        Patience {
            timeout,
            ..patience()
        },
    );
    let verdicts = verdicts.unwrap();
    assert_eq!(grades_of(&verdicts.outcomes[0]), [4, 2, 3]);
    // The requested wait, and the timeout of the silent connection.
    assert!(
        started.elapsed() >= timeout + Duration::from_millis(200),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(waits.len(), 5, "{waits:?}");
    assert!(
        waits[0].1 >= Duration::from_millis(200)
            && waits[1..]
                .iter()
                .all(|(_, wait)| *wait < Duration::from_millis(200)),
        "{waits:?}"
    );
    for ((why, _), expected) in waits.iter().zip([
        "answered 429: slow down",
        "answered 500: not now",
        "",
        "timeout",
        "no chat completion",
    ]) {
        assert!(why.contains(expected), "{why}");
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 8);
    // After an answer that cannot be used, the next request names its fault.
    let said = |seen: &Seen| {
        seen.body["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["content"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let last = said(&seen[7]);
    assert_eq!(
        (last.len(), last[2].as_str()),
        (6, "I would give it a four.")
    );
    assert!(
        last[3].contains("it is not one JSON object")
            && last[5].contains("\"faithfulness\" is 9, not a whole number from 1 to 5"),
        "{last:?}"
    );
    // Three answers, each 100 + 10 tokens.
    assert_eq!(
        (
            verdicts.bill.requests,
            verdicts.bill.prompt_tokens,
            verdicts.bill.completion_tokens
        ),
        (3, 300, 30)
    );
}

#[test]
fn a_request_has_the_rubrics_texts() {
    let place = Place::new();
    let server = Server::start(&[grades(5)]);
    judged(
        &server,
        &items(1),
        &place.path("cache.jsonl"),
        1,
        patience(),
    )
    .0
    .unwrap();
    let seen = &server.seen()[0];
    assert_eq!(seen.head[0], "POST /v1/chat/completions HTTP/1.1");
    assert!(
        seen.head
            .iter()
            .any(|line| line.to_lowercase() == format!("authorization: bearer {KEY}"))
    );
    for (name, value) in [
        ("model", json!("m")),
        ("temperature", json!(0)),
        ("seed", json!(7)),
        ("response_format", json!({"type": "json_object"})),
    ] {
        assert_eq!(seen.body[name], value);
    }
    let messages = seen.body["messages"].as_array().unwrap();
    assert_eq!(
        (messages.len(), &messages[0]["role"], &messages[1]["role"]),
        (2, &json!("system"), &json!("user"))
    );
    assert!(
        messages[1]["content"]
            .as_str()
            .unwrap()
            .contains("<transcript>\nsource 0\n</transcript>")
    );
}

#[test]
fn graded_rows_are_not_requested_again() {
    let place = Place::new();
    let server = Server::start(&[grades(1), grades(2), grades(3)]);
    let cache = place.path("cache.jsonl");
    // The third has the texts of the first under another name.
    let mut three = items(2);
    three.push(Item {
        id: "again".into(),
        ..three[0].clone()
    });
    let first = judged(&server, &three, &cache, 1, patience()).0.unwrap();
    assert_eq!(
        (server.seen().len(), first.num_cached, first.bill.requests),
        (2, 1, 2)
    );
    assert_eq!(
        first.outcomes.iter().map(grades_of).collect::<Vec<_>>(),
        [[1, 2, 3], [2, 2, 3], [1, 2, 3]]
    );
    assert_eq!(first.means().unwrap(), [4.0 / 3.0, 2.0, 3.0]);
    let second = judged(&server, &three, &cache, 1, patience()).0.unwrap();
    assert_eq!(
        (
            server.seen().len(),
            second.num_cached,
            second.bill,
            &second.outcomes
        ),
        (2, 3, Default::default(), &first.outcomes)
    );
    let third = judged(&server, &items(3), &cache, 1, patience()).0.unwrap();
    assert_eq!(
        (
            server.seen().len(),
            third.num_cached,
            grades_of(&third.outcomes[2])
        ),
        (3, 2, &[3, 2, 3][..])
    );
}

#[test]
fn an_unusable_answer_does_not_stop_the_others() {
    let place = Place::new();
    let wrong = says("no");
    let server = Server::start(&[grades(1), wrong.clone(), wrong.clone(), wrong, grades(3)]);
    let cache = place.path("cache.jsonl");
    let verdicts = judged(&server, &items(3), &cache, 1, patience()).0.unwrap();
    assert!(
        matches!(&verdicts.outcomes[1], Outcome::Unusable(fault) if fault.starts_with("it is not one JSON object"))
    );
    assert_eq!(
        (verdicts.num_unusable(), verdicts.means().unwrap()),
        (1, vec![2.0, 2.0, 3.0])
    );
    assert_eq!((server.seen().len(), verdicts.bill.requests), (5, 5));
    // Unusable answers are not cached.
    assert_eq!(Cache::open(&cache).unwrap().len(), 2);
    assert_eq!(
        judged(&server, &items(3), &cache, 1, patience())
            .0
            .unwrap()
            .num_unusable(),
        0
    );
}

#[test]
fn a_truncated_answer_is_reported() {
    let place = Place::new();
    let server = Server::start(&[Does::IsCut]);
    let verdicts = judged(
        &server,
        &items(1),
        &place.path("cache.jsonl"),
        1,
        patience(),
    )
    .0
    .unwrap();
    assert!(
        matches!(&verdicts.outcomes[0], Outcome::Unusable(fault) if fault.ends_with("cut off at the limit of tokens"))
    );
}

#[test]
fn a_broken_endpoint_ends_a_run_that_can_resume() {
    let place = Place::new();
    let server = Server::start(&[grades(1), refuses(503)]);
    let cache = place.path("cache.jsonl");
    let error = judged(&server, &items(4), &cache, 1, patience())
        .0
        .unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(
        error.to_string().contains(
            "answered 503: not now (6 times in a row)\nhint: check the address and the network, or run the command again later"
        ),
        "{error}"
    );
    assert_eq!(
        (server.seen().len(), Cache::open(&cache).unwrap().len()),
        (7, 1)
    );
    server.set(&[grades(2)]);
    let verdicts = judged(&server, &items(4), &cache, 1, patience()).0.unwrap();
    assert_eq!((verdicts.num_cached, verdicts.bill.requests), (1, 3));
}

#[test]
fn permanent_errors_are_not_retried() {
    let place = Place::new();
    let quota =
        json!({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
            .to_string();
    let long = Does::Refuses(429, "Retry-After: 86400\r\n", String::new());
    for (does, code, expected) in [
        (
            refuses(404),
            2,
            "answered 404: not now\nhint: check the address of the endpoint and the model, `m`",
        ),
        (
            refuses(400),
            2,
            "the `parameters` of the requests may not suit this model",
        ),
        (
            Does::Refuses(307, "Location: http://127.0.0.1:1/\r\n", String::new()),
            2,
            "answered 307",
        ),
        (
            Does::Refuses(429, "", quota),
            4,
            "answered 429: You exceeded your quota",
        ),
        (long, 4, "answered 429, and asks to wait 86400 s"),
    ] {
        let server = Server::start(&[does]);
        let error = judged(
            &server,
            &items(3),
            &place.path("cache.jsonl"),
            1,
            patience(),
        )
        .0
        .unwrap_err();
        assert!(
            error.exit_code() == code && error.to_string().contains(expected),
            "{error}"
        );
        assert_eq!(server.seen().len(), 1, "{expected}");
    }
}

#[test]
fn a_refused_connection_is_reported() {
    let place = Place::new();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let server = Server {
        url: format!("http://{port}/v1"),
        state: Arc::default(),
    };
    let error = judged(
        &server,
        &items(1),
        &place.path("cache.jsonl"),
        1,
        patience(),
    )
    .0
    .unwrap_err();
    assert!(
        error.exit_code() == 4 && error.to_string().to_lowercase().contains("refused"),
        "{error}"
    );
}

#[test]
fn threads_are_bounded_and_retry_after_holds_all() {
    let place = Place::new();
    let slow = Does::Says(
        json!({"faithfulness": 5, "coverage": 5, "fluency": 5}).to_string(),
        Duration::from_millis(40),
    );
    let server = Server::start(std::slice::from_ref(&slow));
    judged(
        &server,
        &items(12),
        &place.path("cache.jsonl"),
        3,
        patience(),
    )
    .0
    .unwrap();
    assert!((2..=3).contains(&server.state.most_open.load(Ordering::SeqCst)));
    let server = Server::start(&[
        Does::Refuses(429, "Retry-After: 0.3\r\n", String::new()),
        slow,
    ]);
    let started = Instant::now();
    let (verdicts, waits) = judged(
        &server,
        &items(12),
        &place.path("other.jsonl"),
        3,
        patience(),
    );
    assert!(verdicts.unwrap().bill.requests == 12 && waits.len() == 1);
    // Three requests may be sent before the first answer. No request is repeated within the 0.3 s,
    // and nine more take three rounds of 40 ms.
    assert!(
        started.elapsed() >= Duration::from_millis(420),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_stop_keeps_the_answers() {
    let place = Place::new();
    let server = Server::start(&[Does::Says(
        json!({"faithfulness": 5, "coverage": 5, "fluency": 5}).to_string(),
        Duration::from_millis(30),
    )]);
    let rubric = Rubric::load(None).unwrap();
    let stop = Stop::new();
    let endpoint = Endpoint::new(&server.url, "m", None, "K", Duration::from_secs(5)).unwrap();
    let judge = Judge {
        rubric: &rubric,
        endpoint: &endpoint,
        patience: patience(),
        num_threads: 2,
    };
    let mut cache = Cache::open(&place.path("cache.jsonl")).unwrap();
    let error = judge.judge(&items(50), &mut cache, &stop, &mut |told| {
        if matches!(told, Progress::Done(3.., _)) {
            stop.request();
        }
        Ok(())
    });
    let error = error.unwrap_err();
    assert!(
        error.exit_code() == 130 && error.to_string().contains("verdicts are in the cache"),
        "{error}"
    );
    // Every request was answered, and every answer is in the cache.
    assert!(
        (3..50).contains(&cache.len()) && cache.len() == server.seen().len(),
        "{} of {}",
        cache.len(),
        server.seen().len()
    );
    // Without a key no header is sent.
    assert!(
        !server.seen()[0]
            .head
            .iter()
            .any(|line| line.to_lowercase().starts_with("authorization"))
    );
    // A stop also ends a wait.
    let server = Server::start(&[Does::Refuses(429, "Retry-After: 60\r\n", String::new())]);
    let endpoint = Endpoint::new(&server.url, "m", None, "K", Duration::from_secs(5)).unwrap();
    let stop = Stop::new();
    let started = Instant::now();
    let ended = Judge {
        endpoint: &endpoint,
        ..judge
    }
    .judge(&items(2), &mut cache, &stop, &mut |told| {
        if matches!(told, Progress::Waiting { .. }) {
            stop.request();
        }
        Ok(())
    });
    assert!(ended.unwrap_err().exit_code() == 130 && started.elapsed() < Duration::from_secs(5));
}

#[test]
fn tokens_cost_the_stated_prices() {
    let place = Place::new();
    let server = Server::start(&[says("no"), grades(3), grades(4)]);
    let cache = place.path("cache.jsonl");
    let bill = judged(&server, &items(2), &cache, 1, patience())
        .0
        .unwrap()
        .bill;
    let prices = |prompt, completion| Prices { prompt, completion };
    // 300 tokens at 2.5 dollars and 30 at 10 for a million: 0.00075 + 0.0003.
    assert!((bill.cost(prices(Some(2.5), Some(10.0))).unwrap() - 0.00105).abs() < 1e-15);
    assert_eq!(bill.cost(prices(Some(2.5), None)), None);
    let again = judged(&server, &items(2), &cache, 1, patience())
        .0
        .unwrap()
        .bill;
    assert_eq!(again.cost(prices(None, None)), Some(0.0));
    server.set(&[Does::SaysNoTokens]);
    let unmetered = judged(&server, &items(3), &cache, 1, patience())
        .0
        .unwrap()
        .bill;
    assert_eq!(
        (
            unmetered.unmetered,
            unmetered.cost(prices(Some(2.5), Some(10.0)))
        ),
        (1, None)
    );
}

/// A place with predictions and their sources.
fn place_with_summaries() -> Place {
    let place = Place::new();
    let row = |i: usize| json!({"id": format!("r{i}"), "prediction": format!("خلاصة {i}"), "reference": "x", "meta": {"text": format!("نص {i}")}});
    place.write_rows("predictions.jsonl", &(0..3).map(row).collect::<Vec<_>>());
    place.write_rows(
        "sources.jsonl",
        &(0..5)
            .map(|i| json!({"id": format!("r{i}"), "text": format!("نص {i}"), "audio": "gone.wav"}))
            .collect::<Vec<_>>(),
    );
    place
}

fn run(place: &Place, server: &Server, sources: &str, more: &[&str]) -> command::Outcome {
    let fixed = [
        "judge",
        "--predictions",
        "predictions.jsonl",
        "--sources",
        sources,
        "--endpoint",
        &server.url,
        "--out",
        "judged.jsonl",
        "--wait-s",
        "0.01",
    ];
    let mut command = place.command(&[&fixed[..], more].concat());
    command.env("OPENAI_API_KEY", KEY).env("RUST_LOG", "trace");
    command::outcome(command.output().unwrap())
}

fn assert_key_is_nowhere(place: &Place, ran: &command::Outcome) {
    assert!(
        !ran.stdout.contains("sk-") && !ran.stderr.contains("sk-"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    for entry in std::fs::read_dir(place.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
    {
        assert!(
            !String::from_utf8_lossy(&std::fs::read(&entry).unwrap()).contains("sk-"),
            "{}",
            entry.display()
        );
    }
}

#[test]
fn the_command_grades_and_repeats_no_request() {
    let place = place_with_summaries();
    let server = Server::start(&[refuses(500), says("no"), grades(3), grades(4), grades(5)]);
    let ran = run(
        &place,
        &server,
        "sources.jsonl",
        &[
            "--threads",
            "1",
            "--prompt-price",
            "1",
            "--completion-price",
            "1",
        ],
    )
    .succeeds();
    assert_key_is_nowhere(&place, &ran);
    assert!(
        ran.stdout.contains("faithfulness     4.00")
            && ran.stdout.contains(
                "3 judged, 0 without asking; 4 requests, 400 + 40 tokens, 0.0004 dollars"
            ),
        "{}",
        ran.stdout
    );
    let expected = json!({"id": "r0", "grades": {"faithfulness": 3, "coverage": 2, "fluency": 3}, "reason": "لأن", "rubric": "summary", "model": "gpt-4o-2024-08-06", "tokens": {"prompt": 200, "completion": 20}});
    assert_eq!(place.lines("judged.jsonl")[0], expected);
    let first = place.text("judged.jsonl");
    // The predictions' own field gives the same texts, so no request is sent.
    let ran = run(&place, &server, "meta.text", &["--json"]).succeeds();
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (
            &found["cached"],
            &found["requests"],
            &found["dollars"],
            &found["means"]["fluency"]
        ),
        (&json!(3), &json!(0), &json!(0.0), &json!(3.0))
    );
    assert_eq!(
        (place.text("judged.jsonl"), server.seen().len()),
        (first, 5)
    );
    run(
        &place,
        &server,
        "sources.jsonl",
        &["--model", "other", "--threads", "1"],
    )
    .succeeds();
    assert_eq!(
        (server.seen().len(), &server.seen()[7].body["model"]),
        (8, &json!("other"))
    );
}

#[test]
fn the_key_is_in_no_message() {
    let place = place_with_summaries();
    let server = Server::start(&[Does::RepeatsTheKey]);
    let ran = run(&place, &server, "sources.jsonl", &[]);
    assert_key_is_nowhere(&place, &ran);
    ran.fails(
        2,
        &[
            "answered 401: bad Bearer [key] or [key]",
            "refuses the key in the environment variable OPENAI_API_KEY",
        ],
    );
    let babbles = Server::start(&[Does::Refuses(500, "", format!("trace: {KEY}"))]);
    let ran = run(&place, &babbles, "sources.jsonl", &[]);
    assert_key_is_nowhere(&place, &ran);
    ran.fails(4, &["answered 500: trace: [key]", "6 times in a row"]);
    let mut command = place.command(&[
        "judge",
        "--predictions",
        "predictions.jsonl",
        "--sources",
        "meta.text",
        "--endpoint",
        &server.url,
        "--out",
        "judged.jsonl",
    ]);
    command.env("OPENAI_API_KEY", "sk-in two\nlines");
    let ran = command::outcome(command.output().unwrap());
    assert_key_is_nowhere(&place, &ran);
    ran.fails(2, &["environment variable OPENAI_API_KEY: the key is empty or holds characters that no key has"]);
}

#[test]
fn invalid_rows_fail_before_the_first_request() {
    let place = place_with_summaries();
    let server = Server::start(&[grades(3)]);
    let row = |id: &str| json!({"id": id, "text": "t"});
    place.write_rows("few.jsonl", &[row("r0"), row("r1")]);
    run(&place, &server, "few.jsonl", &[]).fails(
        2,
        &["predictions.jsonl:3: row `r2` has no source in few.jsonl"],
    );
    run(&place, &server, "nowhere.jsonl", &[]).fails(2, &["nowhere.jsonl: cannot read"]);
    run(&place, &server, "meta.words", &[]).fails(
        2,
        &["predictions.jsonl:1: the row has no text under `meta.words`"],
    );
    run(&place, &server, "sources.jsonl", &["--threads", "0"]).fails(2, &["--threads 0"]);
    run(&place, &server, "sources.jsonl", &["--timeout-s", "0"])
        .fails(2, &["--timeout-s 0 is no length of time"]);
    run(
        &place,
        &server,
        "sources.jsonl",
        &["--rubric", "rubric.yaml"],
    )
    .fails(2, &["rubric.yaml: cannot read"]);
    place.write_rows(
        "predictions.jsonl",
        &[
            json!({"id": "r0", "prediction": "a"}),
            json!({"id": "r0", "prediction": "b"}),
        ],
    );
    run(&place, &server, "sources.jsonl", &[]).fails(
        2,
        &["predictions.jsonl:2: id `r0` was predicted before, in line 1"],
    );
    assert!(server.seen().is_empty() && !place.path("judged.jsonl").exists());
}

#[test]
fn unusable_answers_are_written_and_are_an_error() {
    let place = place_with_summaries();
    let server = Server::start(&[says("no"), says("no"), says("no"), grades(4)]);
    let ran = run(&place, &server, "sources.jsonl", &["--threads", "1"]);
    assert_eq!(ran.code, Some(4));
    assert!(
        ran.stderr
            .contains("judged.jsonl: 1 of 3 summaries got no answer that can be used")
            && ran.stdout.contains("2 judged"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    let rows = place.lines("judged.jsonl");
    assert!(
        rows[0]["grades"].is_null()
            && rows[0]["fault"]
                .as_str()
                .unwrap()
                .starts_with("it is not one JSON object"),
        "{}",
        rows[0]
    );
    run(&place, &server, "sources.jsonl", &[]).succeeds();
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn ctrl_c_ends_after_the_requests_in_progress() {
    let place = place_with_summaries();
    let slow = Does::Says(
        json!({"faithfulness": 5, "coverage": 5, "fluency": 5}).to_string(),
        Duration::from_millis(700),
    );
    let server = Server::start(&[slow]);
    let mut command = place.command(&[
        "judge",
        "--predictions",
        "predictions.jsonl",
        "--sources",
        "sources.jsonl",
        "--endpoint",
        &server.url,
        "--out",
        "judged.jsonl",
        "--threads",
        "1",
    ]);
    let child = command.spawn().unwrap();
    while server.seen().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    let ran = command::outcome(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("verdicts are in the cache"),
        "{}",
        ran.stderr
    );
    // The request in progress when the signal came, and on a busy machine perhaps the next.
    assert!(
        (1..3).contains(&place.lines("judge-cache.jsonl").len())
            && !place.path("judged.jsonl").exists()
    );
}

#[test]
fn a_key_in_an_answer_reaches_no_file() {
    let half = &KEY[..KEY.len() / 2];
    let escaped: String = KEY
        .chars()
        .map(|c| format!("\\u{:04x}", c as u32))
        .collect();
    let reasons = [
        format!("\"your key is {KEY}\""),
        format!("\"it begins with {half}\""),
        format!("\"in JSON {escaped}\""),
        format!("\"in a URL {}\"", KEY.replace('-', "%2D")),
    ];
    for reason in reasons {
        let place = place_with_summaries();
        let answer = format!(
            "{{\"reason\": {reason}, \"faithfulness\": 3, \"coverage\": 2, \"fluency\": 3}}"
        );
        let server = Server::start(&[says(&answer)]);
        let ran = run(&place, &server, "sources.jsonl", &[]).succeeds();
        assert_key_is_nowhere(&place, &ran);
        let row = &place.lines("judged.jsonl")[0];
        assert!(row["reason"].as_str().unwrap().ends_with("[key]"), "{row}");
        assert!(place.text("judge-cache.jsonl").contains("[key]"));
        for text in [place.text("judged.jsonl"), place.text("judge-cache.jsonl")] {
            assert!(
                !text.contains("0123456789") && !text.contains("test%2D"),
                "{text}"
            );
        }
    }
    // The next request names the fault of an unusable answer, and the fault is written.
    let place = place_with_summaries();
    let wrong = format!("{{\"faithfulness\": \"{KEY}\", \"coverage\": 2, \"fluency\": 3}}");
    let server = Server::start(&[says(&wrong)]);
    let ran = run(&place, &server, "sources.jsonl", &[]);
    assert_key_is_nowhere(&place, &ran);
    assert!(place.text("judged.jsonl").contains("[key]"));
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| !seen.body.to_string().contains(KEY))
    );
}

#[test]
fn a_key_across_the_end_of_a_message_is_hidden() {
    let place = place_with_summaries();
    for before in [270, 285, 295] {
        let body = format!("{}{KEY}", "x".repeat(before));
        let server = Server::start(&[Does::Refuses(400, "", body)]);
        let ran = run(&place, &server, "sources.jsonl", &[]);
        assert_key_is_nowhere(&place, &ran);
        ran.fails(2, &["answered 400: xxx"]);
    }
}

#[test]
fn a_packed_answer_is_not_unpacked() {
    // 20 MB of spaces, as `gzip` packs them: a bomb that fits into one packet.
    let place = place_with_summaries();
    place.write("bomb", vec![b' '; 20 << 20]);
    let packed = std::process::Command::new("gzip")
        .args(["-9", "-c"])
        .arg(place.path("bomb"))
        .output()
        .unwrap()
        .stdout;
    assert!(packed.len() < 1 << 16, "{}", packed.len());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::Read;
            use std::io::Write;
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1 << 16]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                packed.len()
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&packed);
        }
    });
    let server = Server {
        url,
        state: Arc::default(),
    };
    run(&place, &server, "sources.jsonl", &["--threads", "1"])
        .fails(4, &["in the encoding gzip, which was not asked for"]);
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let place = place_with_summaries();
    let server = Server::start(&[Does::Says("x".repeat(5 << 20), Duration::ZERO)]);
    run(&place, &server, "sources.jsonl", &["--threads", "1"])
        .fails(4, &["answered more than 4 MiB"]);
}

#[test]
fn a_limit_ends_requests_and_keeps_answers() {
    let prices = ["--price-in", "10", "--price-out", "100"];
    // An answer costs 100 + 10 tokens, and so 0.002 dollars.
    for (limit, expected) in [
        (
            vec!["--max-requests", "2"],
            "the limit of 2 requests is reached",
        ),
        (
            vec!["--max-tokens", "200"],
            "the limit of 200 tokens is reached",
        ),
        (
            vec!["--max-cost", "0.003"],
            "the limit of 0.003 dollars is reached",
        ),
    ] {
        let place = place_with_summaries();
        let server = Server::start(&[grades(4)]);
        let more = [&["--threads", "1"], &prices[..], &limit].concat();
        let ran = run(&place, &server, "sources.jsonl", &more);
        assert_eq!(ran.code, Some(4), "{}", ran.stderr);
        for said in [
            expected,
            "2 of 3 summaries are judged",
            "spent: 2 requests, 200 + 20 tokens, 0.0040 dollars",
            "hint: raise the limit",
        ] {
            assert!(
                ran.stderr.contains(said),
                "`{said}` is not in {}",
                ran.stderr
            );
        }
        let rows = place.lines("judged.jsonl");
        assert_eq!(rows.len(), 3);
        assert!(rows[1]["grades"].is_object() && rows[2]["grades"].is_null());
        assert!(
            rows[2]["fault"]
                .as_str()
                .unwrap()
                .starts_with("not asked: ")
        );
        assert_eq!(
            (server.seen().len(), place.lines("judge-cache.jsonl").len()),
            (2, 2)
        );
        // Without the limit, only the third request is sent.
        run(&place, &server, "sources.jsonl", &prices).succeeds();
        assert_eq!(server.seen().len(), 3);
    }
    let place = place_with_summaries();
    let server = Server::start(&[grades(4)]);
    run(&place, &server, "sources.jsonl", &["--max-cost", "1"]).fails(
        2,
        &[
            "--max-cost needs the prices",
            "hint: add --price-in and --price-out",
        ],
    );
    run(&place, &server, "sources.jsonl", &["--max-requests", "0"]);
    assert!(server.seen().is_empty());
}

#[test]
fn a_failed_run_reports_its_cost() {
    let place = place_with_summaries();
    let server = Server::start(&[grades(4), refuses(404)]);
    let ran = run(&place, &server, "sources.jsonl", &["--threads", "1"]);
    ran.fails(2, &["spent: 1 requests, 100 + 10 tokens"]);
}

#[test]
fn an_endpoint_commands_no_terminal() {
    let place = place_with_summaries();
    let server = Server::start(&[Does::Refuses(400, "", "\u{1b}]0;owned\u{7} no".to_owned())]);
    let ran = run(&place, &server, "sources.jsonl", &[]);
    assert!(
        !ran.stderr.contains('\u{1b}') && !ran.stderr.contains('\u{7}'),
        "{:?}",
        ran.stderr
    );
    ran.fails(2, &["\\u001b]0;owned"]);
}

#[test]
fn a_cache_that_cannot_be_written_ends_the_run() {
    let place = place_with_summaries();
    let server = Server::start(&[grades(4)]);
    run(
        &place,
        &server,
        "sources.jsonl",
        &["--threads", "1", "--cache", "/dev/full"],
    )
    .fails(
        4,
        &["/dev/full: cannot append to", "free some space", "spent: "],
    );
}

#[test]
fn outputs_that_take_nothing_cost_no_grade() {
    let place = place_with_summaries();
    let server = Server::start(&[grades(4), grades(4), grades(4)]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let arguments = [
        "judge",
        "--predictions",
        "predictions.jsonl",
        "--sources",
        "sources.jsonl",
        "--endpoint",
        &server.url,
        "--threads",
        "1",
        "--cache",
        "kept",
    ];
    let mut command = place.command(&[&arguments[..], &["--out", "judged.jsonl"]].concat());
    command.env("OPENAI_API_KEY", KEY).stdout(full);
    let ran = command::outcome(command.output().unwrap());
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    assert!(ran.stderr.contains("standard output"), "{}", ran.stderr);
    assert_eq!(place.text("judged.jsonl").lines().count(), 3);

    // The paid answers are in the cache: there is no fourth request.
    let mut command = place.command(&[&arguments[..], &["--out", "/dev/full"]].concat());
    command.env("OPENAI_API_KEY", KEY);
    let ran = command::outcome(command.output().unwrap());
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    assert!(ran.stderr.contains("/dev/full"), "{}", ran.stderr);
    assert_eq!(server.seen().len(), 3);
}
