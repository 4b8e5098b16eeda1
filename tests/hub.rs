//! A checkpoint from a Hub: a server on this machine plays it, answers in pieces and hangs up in the middle.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use command::Place;
use command::fixture;
use serde_json::json;

mod command;

const CUT_FILE: &str = "model-00001-of-00002.safetensors";

/// A Hub with one repository, `someone/something`, that holds a fixture's files.
struct Hub {
    address: String,
    /// While set, answers for [`CUT_FILE`] end after their first half.
    is_cutting: Arc<AtomicBool>,
    num_bytes_sent: Arc<AtomicUsize>,
}

impl Hub {
    fn start(golden: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (is_cutting, num_bytes_sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (cutting, sent, folder) = (is_cutting.clone(), num_bytes_sent.clone(), fixture(golden));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (folder, cutting, sent) = (folder.clone(), cutting.clone(), sent.clone());
                std::thread::spawn(move || answer(&stream.unwrap(), &folder, &cutting, &sent));
            }
        });
        Self {
            address,
            is_cutting,
            num_bytes_sent,
        }
    }

    fn score(&self, place: &Place) -> command::Outcome {
        let mut command = place.command(&[
            "score",
            "--model",
            "someone/something",
            "--data",
            "rows.jsonl",
            "--out",
            "scores.jsonl",
        ]);
        command
            .env_remove("HF_HUB_OFFLINE")
            .env("HF_ENDPOINT", &self.address)
            .env("HF_HUB_CACHE", place.path("cache"));
        command::outcome(command.output().unwrap())
    }
}

/// One request, one answer, then the connection ends.
fn answer(
    mut stream: &TcpStream,
    folder: &Path,
    is_cutting: &AtomicBool,
    num_bytes_sent: &AtomicUsize,
) {
    let mut lines = BufReader::new(stream)
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.is_empty());
    let Some(request) = lines.next() else { return };
    let headers: Vec<String> = lines.map(|line| line.to_lowercase()).collect();
    let path = request.split(' ').nth(1).unwrap();
    let Some(name) = path.strip_prefix("/someone/something/resolve/main/") else {
        let files: Vec<_> = files_of(folder)
            .iter()
            .map(|(name, _)| json!({"rfilename": name}))
            .collect();
        let body = json!({"sha": "0123456789abcdef", "siblings": files}).to_string();
        let status = if path.contains("/api/models/someone/something") {
            "200 OK"
        } else {
            "404 Not Found"
        };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).unwrap();
        return;
    };
    let bytes = std::fs::read(folder.join(name)).unwrap();
    let range = headers
        .iter()
        .find_map(|line| line.strip_prefix("range: bytes="))
        .unwrap();
    let (start, end) = range.split_once('-').unwrap();
    let (start, end) = (
        start.parse::<usize>().unwrap(),
        end.parse::<usize>().map_or(bytes.len(), |last| last + 1),
    );
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{}\r\nContent-Length: {}\r\nETag: \"{name}\"\r\nX-Repo-Commit: 0123456789abcdef\r\nConnection: close\r\n\r\n",
        end - 1,
        bytes.len(),
        end - start
    );
    stream.write_all(head.as_bytes()).unwrap();
    let sent = if is_cutting.load(Ordering::SeqCst) && name == CUT_FILE && end > start + 1 {
        &bytes[start..start + (end - start) / 2]
    } else {
        &bytes[start..end]
    };
    num_bytes_sent.fetch_add(sent.len(), Ordering::SeqCst);
    stream.write_all(sent).unwrap();
}

/// Names and sizes of the files of a folder.
fn files_of(folder: &Path) -> Vec<(String, usize)> {
    let entries = folder
        .read_dir()
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_file());
    entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                entry.metadata().unwrap().len() as usize,
            )
        })
        .collect()
}

fn place() -> Place {
    let place = Place::new();
    place.write_rows("rows.jsonl", &[json!({"id": "a", "audio": fixture("audio/a1.wav"), "text": "yes", "task": "asr", "language": "en"})]);
    place
}

#[test]
fn a_checkpoint_is_downloaded_once_and_shown_coming_in() {
    let (hub, place) = (Hub::start("qwen_omni"), place());
    let ran = hub.score(&place).succeeds();
    for name in ["config.json", "tokenizer.json", CUT_FILE] {
        assert!(
            ran.stderr.contains(&format!("MB of {name}")),
            "{name} is not in:\n{}",
            ran.stderr
        );
    }
    let from_hub = place.text("scores.jsonl");
    place
        .run(&[
            "score",
            "--model",
            &command::fixture_text("qwen_omni"),
            "--data",
            "rows.jsonl",
            "--out",
            "scores.jsonl",
        ])
        .succeeds();
    assert_eq!(from_hub, place.text("scores.jsonl"));
    let before = hub.num_bytes_sent.load(Ordering::SeqCst);
    let ran = hub.score(&place).succeeds();
    assert!(!ran.stderr.contains("download"), "{}", ran.stderr);
    assert_eq!(hub.num_bytes_sent.load(Ordering::SeqCst), before);
}

#[test]
fn a_cut_connection_is_an_error_and_the_next_attempt_goes_on_from_there() {
    let (hub, place) = (Hub::start("qwen_omni"), place());
    hub.is_cutting.store(true, Ordering::SeqCst);
    hub.score(&place).fails(
        4,
        &[
            "someone/something",
            &format!("cannot download {CUT_FILE}"),
            "what was downloaded before is kept",
        ],
    );
    let before = hub.num_bytes_sent.load(Ordering::SeqCst);
    hub.is_cutting.store(false, Ordering::SeqCst);
    hub.score(&place).succeeds();
    let files = files_of(&fixture("qwen_omni"));
    let whole: usize = files.iter().map(|(_, size)| size).sum();
    let half = files.iter().find(|(name, _)| name == CUT_FILE).unwrap().1 / 2;
    let again = hub.num_bytes_sent.load(Ordering::SeqCst) - before;
    assert!(
        again + half <= whole,
        "{again} of {whole} bytes were sent again"
    );
}
