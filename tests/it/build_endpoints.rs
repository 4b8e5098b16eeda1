//! A set built from an endpoint on this machine that plays language model, speech engine and
//! recogniser, slowly and with every fault: too many requests, faults, dropped connections,
//! truncated JSON, sound that is none, other words and other languages.

#![cfg(unix)]

use std::collections::HashMap;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::command::Place;
use maqam::audio;
use maqam::audio::Span;
use maqam::seed::Key;
use serde_json::Value;
use serde_json::json;

const KEY: &str = "sk-build-0123456789abcdef";
/// Sample value before the code of a letter; tones are softer.
const MARK: i16 = 20_001;
/// Samples of a letter.
const LETTER: usize = 1100;

/// Counts of the endpoint.
#[derive(Default)]
struct State {
    num_requests: AtomicUsize,
    num_answers: AtomicUsize,
    /// Attempts so far of each request, by its hash.
    attempts: Mutex<HashMap<u64, u64>>,
}

struct Server {
    url: String,
    state: Arc<State>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = shared.clone();
                // The client may have closed the connection.
                std::thread::spawn(move || stream.and_then(|stream| serve(&stream, &state)));
            }
        });
        Self { url, state }
    }
}

fn serve(mut stream: &TcpStream, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let value = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length: usize = value("content-length")
        .unwrap_or_default()
        .parse()
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    state.num_requests.fetch_add(1, Ordering::SeqCst);

    let hash = body.iter().fold(7u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let attempt = {
        let mut attempts = state.attempts.lock().unwrap();
        let attempt = attempts.entry(hash).or_insert(0);
        *attempt += 1;
        *attempt
    };
    let fate = Key::new(hash, "fate").with(attempt);
    std::thread::sleep(Duration::from_millis(fate.below(0, 5) as u64));
    let mut answer = |status: &str, headers: &str, body: &[u8], sent: usize| {
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
            body.len()
        )?;
        stream.write_all(&body[..sent.min(body.len())])
    };
    if value("authorization") != Some(format!("Bearer {KEY}")) {
        let body = json!({"error": {"message": format!("wrong key, not {KEY}")}}).to_string();
        return answer("401 Unauthorized", "", body.as_bytes(), usize::MAX);
    }
    let busy = json!({"error": {"message": "slow down"}}).to_string();
    match fate.below(1, 10) {
        0 => {
            return answer(
                "429 Too Many Requests",
                "Retry-After: 0.01\r\n",
                busy.as_bytes(),
                usize::MAX,
            );
        }
        1 => return answer("500 Internal Server Error", "", b"oops", usize::MAX),
        2 => return Ok(()),
        _ => {}
    }
    let path = head[0].split(' ').nth(1).unwrap_or_default();
    let reply = match path {
        "/v1/chat/completions" => chat(&body),
        "/v1/audio/speech" => speech(&body),
        "/v1/audio/transcriptions" => transcription(&body),
        _ => return answer("404 Not Found", "", b"", 0),
    };
    // Truncated: in the middle of its JSON or its sound, or of what it announced.
    match fate.below(2, 12) {
        0 if path != "/v1/audio/speech" => {
            let half = &reply[..reply.len() / 2];
            return answer("200 OK", "", half, usize::MAX);
        }
        1 => return answer("200 OK", "", &reply, reply.len() / 2),
        _ => {}
    }
    state.num_answers.fetch_add(1, Ordering::SeqCst);
    answer("200 OK", "", &reply, usize::MAX)
}

/// A summary of the first words of the text; documents that hold certain words get a bad one.
fn chat(body: &[u8]) -> Vec<u8> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let prompt = body["messages"][1]["content"].as_str().unwrap();
    if prompt.contains("\"faithfulness\"") {
        return graded(prompt);
    }
    let text = prompt.rsplit("\n\n").next().unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let summary = if body["seed"] == 1 {
        // A second summary is another one.
        [words[0], words[1], words[3], words[6]].join(" ")
    } else if text.contains("إنجليزي") {
        "a summary in another language".to_owned()
    } else if text.contains("رقم") {
        format!("{} 77 {}", words[0], words[4])
    } else if text.contains("فارغ") {
        String::new()
    } else if text.contains("تكرار") {
        [words[0], words[3], words[5]].join(" ")
            + &format!(" {0} {0} {0} {0}", [words[1], words[4], words[6]].join(" "))
    } else {
        format!("ملخص: «{} {} {}»", words[0], words[3], words[6])
    };
    json!({"choices": [{"message": {"content": summary}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 50, "completion_tokens": 5}})
        .to_string()
        .into_bytes()
}

/// A judge's grade: 3 of a summary of four words, else 5.
fn graded(prompt: &str) -> Vec<u8> {
    let (_, rest) = prompt.split_once("الملخص:\n").unwrap();
    let (summary, _) = rest.split_once("\n\n").unwrap();
    let grade = match summary.split_whitespace().count() {
        4 => 3,
        _ => 5,
    };
    let answer = json!({"faithfulness": grade, "reason": "counted"}).to_string();
    json!({"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]})
        .to_string()
        .into_bytes()
}

/// A tone whose samples encode the letters; sentences with certain words sound wrong.
fn speech(body: &[u8]) -> Vec<u8> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let text = body["input"].as_str().unwrap();
    if text.contains("ضجيج") {
        return b"this is no sound".to_vec();
    }
    let said = if text.contains("غريب") {
        "Tout autre chose est dit dans ce son, et rien du texte.".to_owned()
    } else {
        // A space, because sentences are spoken one by one.
        format!("{text} ")
    };
    let mut samples: Vec<i16> = Vec::new();
    for c in said.chars() {
        samples.extend([MARK, i16::try_from(c as u32).unwrap_or(0x3f)]);
        let is_silent = text.contains("صامت");
        samples.extend((0..LETTER).map(|i| {
            if is_silent {
                0
            } else {
                (6000.0 * (i as f64 * (0.1 + f64::from(c as u32 % 50) * 0.01)).sin()) as i16
            }
        }));
    }
    let bytes: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut file = b"RIFF".to_vec();
    file.extend((36 + bytes.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data");
    file.extend((bytes.len() as u32).to_le_bytes());
    file.extend(bytes);
    file
}

/// The letters in the samples.
fn transcription(body: &[u8]) -> Vec<u8> {
    let at = body.windows(4).position(|part| part == b"fLaC").unwrap();
    let end = body.windows(4).rposition(|part| part == b"\r\n--").unwrap();
    let samples = audio::read_bytes(body[at..end].to_vec().into(), "sent", Span::WHOLE).unwrap();
    let samples: Vec<i16> = samples
        .iter()
        .map(|x| (x * 32768.0).round() as i16)
        .collect();
    let text: String = samples
        .windows(2)
        .filter(|pair| pair[0] == MARK)
        .filter_map(|pair| char::from_u32(pair[1] as u32))
        .collect();
    // OpenAI charges transcriptions by tokens or by seconds.
    let usage = match samples.len() % 2 {
        0 => json!({"type": "duration", "seconds": 3}),
        _ => json!({"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}),
    };
    json!({"text": text, "usage": usage})
        .to_string()
        .into_bytes()
}

/// Documents of which the last ones each go wrong in their own way, and the reason that is to be
/// found.
fn documents() -> (Vec<Value>, HashMap<String, &'static str>) {
    let words = [
        "اليوم",
        "مدينة",
        "كبيرة",
        "سكان",
        "يعملون",
        "كثيرا",
        "صباحا",
        "مساء",
        "بيتا",
        "طريقا",
    ];
    let mut rows = Vec::new();
    let mut reasons = HashMap::new();
    let faults = [
        ("إنجليزي", "summary_language"),
        ("رقم", "number_not_in_text"),
        ("فارغ", "no_summary_written"),
        ("تكرار", "summary_loop"),
        ("ضجيج", "speech_failed"),
        ("صامت", "silent"),
        ("غريب", "unintelligible"),
    ];
    for i in 0..30u64 {
        let key = Key::new(i, "words");
        let mut text: Vec<&str> = (0..14).map(|j| words[key.below(j, words.len())]).collect();
        let id = format!("d{i}");
        if let Some((word, reason)) = (i as usize).checked_sub(20).and_then(|at| faults.get(at)) {
            text.insert(9, word);
            reasons.insert(id.clone(), *reason);
        }
        text.insert(7, "انتهى.");
        rows.push(json!({"id": id, "text": text.join(" ") + "."}));
    }
    (rows, reasons)
}

fn place(server: &Server, more: &str) -> Place {
    let place = Place::new();
    place.write_rows("docs.jsonl", &documents().0);
    let endpoint = |budget: &str| {
        format!(
            "{{url: \"{}\", model: m, first_wait_s: 0.002, timeout_s: 20, max_attempts: 30, key_variable: BUILD_KEY{budget}}}",
            server.url
        )
    };
    place.write(
        "recipe.yaml",
        format!(
            "# A set.\nname: remote\ncollect: {{from: docs.jsonl}}\nsummarise: {{engine: endpoint, endpoint: {}}}\nverify: {{max_ratio: 2, max_copied: 1}}\nspeak: {{engine: endpoint, endpoint: {}, voices: [a, b, c]}}\nlisten: {{transcribe: endpoint, endpoint: {}, floor_cer: 0.05, over_floor: 0.1, max_silent: 0.3}}\n",
            endpoint(more),
            endpoint(""),
            // A FLAC file has more bytes than this.
            endpoint(", budget: {max_tokens: 5000}")
        ),
    );
    place
}

fn build(place: &Place, key: &str) -> crate::command::Outcome {
    let mut command = place.command(&["build", "recipe.yaml", "--workers", "4"]);
    crate::command::outcome(command.env("BUILD_KEY", key).output().unwrap())
}

#[test]
fn every_document_is_accounted_for() {
    let server = Server::start();
    let place = place(&server, "");
    let done = build(&place, KEY).succeeds();
    let (_, reasons) = documents();
    assert_eq!(done.stdout, "30 collected = 23 published + 7 rejected\n");
    assert!(
        done.stderr.contains("answered 429: slow down; again in"),
        "{}",
        done.stderr
    );

    let rejected = place.lines("datasets/remote/rejected.jsonl");
    let found: HashMap<String, String> = rejected
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (text("id"), text("reason"))
        })
        .collect();
    for (id, reason) in &reasons {
        assert_eq!(found.get(id).map(String::as_str), Some(*reason), "{id}");
    }
    let manifest = place.lines("datasets/remote/manifest.jsonl");
    assert_eq!(manifest.len() + rejected.len(), 30);
    assert_eq!(place.lines("datasets/remote/rows.jsonl").len(), 30);
    for row in place.lines("datasets/remote/rows.jsonl") {
        if row["state"] == "published" {
            assert_eq!(row["listened"]["cer"], 0.0, "{row}");
        }
    }
    for row in &manifest {
        let summary = row["summary"].as_str().unwrap();
        assert!(!summary.contains(['«', ':']), "{summary}");
    }

    // Published rows have no error, so only the rejected one gives a distribution.
    assert!(place.path("datasets/remote/plots/cer.svg").is_file());
    let report = place.text("datasets/remote/report.html");
    assert!(report.contains("floor 0.050. bound 0.150."));

    // Everything is in the cache, so a second build sends no request.
    let asked = server.state.num_requests.load(Ordering::SeqCst);
    for folder in ["datasets/remote", "datasets/.work"] {
        std::fs::remove_dir_all(place.path(folder)).unwrap();
    }
    let again = build(&place, KEY).succeeds();
    assert_eq!(again.stdout, done.stdout);
    let more = server.state.num_requests.load(Ordering::SeqCst) - asked;
    // Audio that cannot be decoded is never cached, so it is requested again: three times, besides
    // other failures.
    assert!(more <= 12, "{more} requests for what was known");

    // The key is in no file and no message.
    let mut folders = vec![place.path("datasets")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let has_key = bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes());
            assert!(!has_key, "{}", path.display());
        }
    }
    assert!(!done.stderr.contains(KEY));
}

#[test]
fn a_budget_stops_and_the_next_run_continues() {
    let server = Server::start();
    let place = place(&server, ", budget: {max_requests: 12}");
    let mut num_runs = 0;
    loop {
        let outcome = build(&place, KEY);
        num_runs += 1;
        if outcome.code == Some(0) {
            assert_eq!(outcome.stdout, "30 collected = 23 published + 7 rejected\n");
            break;
        }
        let stopped = outcome.fails(
            4,
            &[
                "the limit of 12 requests is reached",
                "hint: raise the budget",
            ],
        );
        assert!(num_runs < 20, "{}", stopped.stderr);
    }
    assert!(num_runs > 1);
}

#[test]
fn the_worst_summary_of_a_row_is_graded() {
    let server = Server::start();
    let place = place(&server, "");
    let judge = format!(
        "verify: {{judge: {{endpoint: {{url: \"{}\", model: judge, first_wait_s: 0.002, max_attempts: 30, key_variable: BUILD_KEY}}, min_grade: 3}}, ",
        server.url
    );
    let text = place.text("recipe.yaml");
    let text = text.replace("verify: {", &judge);
    let text = text.replace(
        "engine: endpoint, endpoint: {url",
        "engine: endpoint, num: 2, endpoint: {url",
    );
    // Speech has no number of summaries.
    let text = text.replace(
        "speak: {engine: endpoint, num: 2,",
        "speak: {engine: endpoint,",
    );
    place.write("recipe.yaml", text);
    build(&place, KEY).succeeds();
    let rows = place.lines("datasets/remote/rows.jsonl");
    let published: Vec<&Value> = rows
        .iter()
        .filter(|row| row["state"] == "published")
        .collect();
    assert!(published.len() >= 20, "{}", published.len());
    for row in published {
        assert_eq!(row["grade"], 3.0, "{row}");
    }
    let card = place.text("datasets/remote/README.md");
    assert!(
        card.contains("Judge of faithfulness: `judge`")
            && card.contains("Prompt of the judge (ar)"),
        "{card}"
    );
    let strict = place
        .text("recipe.yaml")
        .replace("min_grade: 3", "min_grade: 4");
    place.write("recipe.yaml", strict);
    build(&place, KEY).fails(2, &["every document was rejected"]);
    let rejected = place.lines("datasets/remote/rejected.jsonl");
    assert!(rejected.iter().any(|row| row["reason"] == "unfaithful"));
}

#[test]
fn tokens_and_dollars_have_limits() {
    let server = Server::start();
    for (budget, reached) in [
        ("max_tokens: 120", "the limit of 120 tokens is reached"),
        (
            "max_cost: 0.002, price_in: 10, price_out: 100",
            "the limit of 0.002 dollars is reached",
        ),
    ] {
        let place = place(&server, &format!(", budget: {{{budget}}}"));
        build(&place, KEY).fails(4, &["summarise.endpoint.budget", reached]);
    }
}

#[test]
fn a_translation_shares_the_budget() {
    let server = Server::start();
    let place = place(&server, ", budget: {max_requests: 5}");
    let text = place.text("recipe.yaml");
    let text = text.replace(
        "engine: endpoint, endpoint",
        "translate: {to: ar}, engine: endpoint, endpoint",
    );
    // Only the summaries are translated here.
    let text = text.replacen("speak: {translate: {to: ar}, engine", "speak: {engine", 1);
    place.write("recipe.yaml", text);
    build(&place, KEY).fails(4, &["the limit of 5 requests is reached"]);
    assert_eq!(server.state.num_requests.load(Ordering::SeqCst), 5);
}

#[test]
fn a_changed_prompt_asks_again() {
    let server = Server::start();
    let place = place(&server, "");
    let own = include_str!("../../prompts/build/summarise.yaml");
    place.write("prompts.yaml", own);
    let run = || {
        let mut command = place.command(&[
            "build",
            "recipe.yaml",
            "--until",
            "summarise",
            "--set",
            "summarise.prompt=prompts.yaml",
        ]);
        crate::command::outcome(command.env("BUILD_KEY", KEY).output().unwrap()).succeeds();
        server.state.num_requests.load(Ordering::SeqCst)
    };
    let first = run();
    assert_eq!(run(), first);
    let changed = own.replace("{max_words}", "fewer than {max_words}");
    assert_ne!(changed, own);
    place.write("prompts.yaml", changed);
    assert!(run() >= first + 30);
}

#[test]
fn a_wrong_key_is_reported_but_not_shown() {
    let server = Server::start();
    let place = place(&server, "");
    let wrong = "sk-wrong-999999999999";
    let outcome = build(&place, wrong).fails(2, &["answered 401", "refuses the key", "BUILD_KEY"]);
    assert!(!outcome.stderr.contains(wrong));
    build(&place, "").fails(2, &["the endpoint wants a key", "BUILD_KEY"]);
}

#[test]
fn a_missing_endpoint_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let place = place(
        &Server {
            url,
            state: Arc::default(),
        },
        "",
    );
    let set = [
        "summarise.endpoint.max_attempts=2",
        "summarise.endpoint.first_wait_s=0.01",
    ];
    let mut command = place.command(&["build", "recipe.yaml", "--set", set[0], "--set", set[1]]);
    crate::command::outcome(command.env("BUILD_KEY", KEY).output().unwrap()).fails(
        4,
        &[
            "(2 times in a row)",
            "hint: check the address and the network",
        ],
    );
}
