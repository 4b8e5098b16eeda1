//! A checkpoint from a Hub: a server on this machine plays it, answers in pieces and hangs up in
//! the middle.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use command::Place;
use command::fixture;
use serde_json::json;

use crate::command;

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
        let is_cutting = Arc::new(AtomicBool::new(false));
        let num_bytes_sent = Arc::new(AtomicUsize::new(0));
        let cutting = is_cutting.clone();
        let sent = num_bytes_sent.clone();
        let folder = fixture(golden);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let folder = folder.clone();
                let cutting = cutting.clone();
                let sent = sent.clone();
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
    let start = start.parse::<usize>().unwrap();
    let end = end.parse::<usize>().map_or(bytes.len(), |last| last + 1);
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
fn a_checkpoint_is_downloaded_once_with_progress() {
    let hub = Hub::start("qwen_omni");
    let place = place();
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
fn a_cut_download_continues_at_the_same_byte() {
    let hub = Hub::start("qwen_omni");
    let place = place();
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

/// A server that answers each request by a function, and records the requests.
struct Liar {
    address: String,
    /// Path and lower-case headers of every request.
    seen: Arc<Mutex<Vec<(String, Vec<String>)>>>,
}

impl Liar {
    fn start(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let kept = seen.clone();
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = kept.clone();
                let answer = answer.clone();
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut lines = BufReader::new(stream.try_clone().unwrap())
                        .lines()
                        .map_while(Result::ok)
                        .take_while(|line| !line.is_empty());
                    let Some(request) = lines.next() else { return };
                    let path = request.split(' ').nth(1).unwrap().to_owned();
                    let headers = lines.map(|line| line.to_lowercase()).collect();
                    kept.lock().unwrap().push((path.clone(), headers));
                    answer(&path, &mut stream);
                });
            }
        });
        Self { address, seen }
    }

    /// The values of the header `Authorization` over all requests.
    fn authorizations(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let headers = seen.iter().flat_map(|(_, headers)| headers);
        headers
            .filter_map(|line| line.strip_prefix("authorization: ").map(str::to_owned))
            .collect()
    }

    fn score(&self, place: &Place, variables: &[(&str, &str)]) -> command::Outcome {
        let mut command = place.command(&[
            "score",
            "--device",
            "cpu",
            "--model",
            "someone/something",
            "--data",
            "rows.jsonl",
            "--out",
            "scores.jsonl",
        ]);
        command
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_TOKEN")
            .env("HF_ENDPOINT", &self.address)
            .env("HF_HOME", place.path("home"))
            .envs(variables.iter().copied());
        command::outcome(command.output().unwrap())
    }
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

fn listing(names: &[&str]) -> Vec<u8> {
    let files: Vec<_> = names
        .iter()
        .map(|name| json!({"rfilename": name}))
        .collect();
    json!({"sha": "0123456789abcdef", "siblings": files})
        .to_string()
        .into_bytes()
}

/// A Hub that lists the names of the fixture and sends everybody who wants a file to another host.
fn redirecting(to: String) -> Liar {
    Liar::start(move |path, stream| {
        if path.starts_with("/api/") {
            let files = files_of(&fixture("qwen_omni"));
            let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
            return respond(stream, "200 OK", "", &listing(&names));
        }
        let name = path.rsplit('/').next().unwrap();
        let headers = format!(
            "Location: {to}/{name}\r\nX-Linked-ETag: \"{name}\"\r\nX-Repo-Commit: 0123456789abcdef\r\n"
        );
        respond(stream, "302 Found", &headers, b"");
    })
}

/// The host of the files, which ignores the requested range.
fn storage() -> Liar {
    Liar::start(|path, stream| {
        let bytes = std::fs::read(fixture("qwen_omni").join(&path[1..])).unwrap();
        respond(stream, "200 OK", "", &bytes);
    })
}

const TOKEN: &str = "hf_AbCdEfGh0123456789";

#[test]
fn the_token_goes_only_to_the_hub() {
    for source in ["HF_TOKEN", "HF_TOKEN_PATH", "home"] {
        let place = place();
        let storage = storage();
        let hub = redirecting(storage.address.clone());
        let path = place.write("my-token", format!("{TOKEN}\n"));
        let path = path.to_str().unwrap();
        let variables = match source {
            "HF_TOKEN" => vec![("HF_TOKEN", TOKEN)],
            "HF_TOKEN_PATH" => vec![("HF_TOKEN_PATH", path)],
            _ => {
                place.write("home/token", TOKEN);
                vec![]
            }
        };
        hub.score(&place, &variables).succeeds();
        let sent = hub.authorizations();
        assert_eq!(sent.len(), hub.seen.lock().unwrap().len(), "{source}");
        let expected = format!("bearer {}", TOKEN.to_lowercase());
        assert!(sent.iter().all(|value| *value == expected), "{source}");
        assert_eq!(storage.authorizations(), [""; 0], "{source}");
        assert!(!storage.seen.lock().unwrap().is_empty());
        // The layout is that of `huggingface_hub`.
        let snapshot = place.path("home/hub/models--someone--something/snapshots/0123456789abcdef");
        let link = std::fs::read_link(snapshot.join("config.json")).unwrap();
        assert_eq!(link, Path::new("../../blobs/config.json"));
    }
}

#[test]
fn a_name_outside_of_the_repository_writes_nothing() {
    for name in [
        "a/../../x.json",
        "/tmp/maqam-test/x.json",
        "../x.json",
        "a\u{1b}[31m.json",
    ] {
        let place = place();
        let hub = Liar::start(move |path, stream| {
            if path.starts_with("/api/") {
                let names = ["config.json", "tokenizer.json", name];
                return respond(stream, "200 OK", "", &listing(&names));
            }
            let headers = "ETag: \"e\"\r\nX-Repo-Commit: c\r\n";
            respond(stream, "200 OK", headers, b"{}");
        });
        let ran = hub.score(&place, &[]);
        assert!(!ran.stderr.contains('\u{1b}'), "{:?}", ran.stderr);
        ran.fails(2, &["which is no name of a file inside the repository"]);
        assert!(!place.path("home/hub/models--someone--something").exists());
    }
}

#[test]
fn false_data_from_the_hub_is_an_error() {
    let lies: [(&str, &str); 6] = [
        (
            "ETag: \"../../../x\"\r\nX-Repo-Commit: c\r\n",
            "no hash of it",
        ),
        ("ETag: \"\"\r\nX-Repo-Commit: c\r\n", "no hash of it"),
        ("X-Repo-Commit: c\r\n", "no hash of it"),
        ("ETag: \"e\"\r\n", "no commit"),
        ("ETag: \"e\"\r\nX-Repo-Commit: ../../c\r\n", "no commit"),
        (
            "ETag: \"e\"\r\nX-Repo-Commit: c\r\nX-Linked-Size: 7\r\n",
            "the Hub says 7",
        ),
    ];
    for (headers, expected) in lies {
        let place = place();
        let hub = Liar::start(move |path, stream| {
            if path.starts_with("/api/") {
                let names = ["config.json", "tokenizer.json"];
                return respond(stream, "200 OK", "", &listing(&names));
            }
            respond(stream, "200 OK", headers, b"{}");
        });
        hub.score(&place, &[])
            .fails(4, &["cannot download config.json", expected]);
        assert!(!place.path("home/hub/models--someone--something").exists());
    }
    // Answers that are none, and redirects to nowhere and without end.
    for (status, headers, code, expected) in [
        ("404 Not Found", "", 2, "the Hub answered 404"),
        ("401 Unauthorized", "", 2, "set HF_TOKEN"),
        ("503 Busy", "", 4, "the Hub answered 503"),
        ("302 Found", "", 4, "redirected to nowhere safe"),
        (
            "302 Found",
            "Location: file:///etc/passwd\r\n",
            4,
            "redirected to nowhere safe",
        ),
        (
            "302 Found",
            "Location: /again\r\n",
            4,
            "redirected without end",
        ),
        ("200 OK", "", 4, "not one that the Hub gives"),
    ] {
        let place = place();
        let hub = Liar::start(move |_, stream| respond(stream, status, headers, b"nothing"));
        hub.score(&place, &[("HF_HUB_DOWNLOAD_TIMEOUT", "5")])
            .fails(code, &[expected]);
    }
}

#[test]
fn an_empty_file_is_downloaded() {
    let place = place();
    let hub = Liar::start(|path, stream| {
        if path.starts_with("/api/") {
            let names = ["config.json", "tokenizer.json"];
            return respond(stream, "200 OK", "", &listing(&names));
        }
        let headers = "Content-Range: bytes */0\r\nETag: \"e\"\r\nX-Repo-Commit: c\r\n";
        respond(stream, "416 Range Not Satisfiable", headers, b"");
    });
    // An empty configuration is refused as that, after the download.
    let ran = hub.score(&place, &[]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(!ran.stderr.contains("cannot download"), "{}", ran.stderr);
}

#[test]
fn a_silent_or_endless_hub_times_out() {
    let place = place();
    let silent = Liar::start(|path, stream| {
        if path.starts_with("/api/") {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{";
            let _ = stream.write_all(head.as_bytes());
            std::thread::sleep(Duration::from_secs(60));
        }
    });
    let started = Instant::now();
    silent
        .score(&place, &[("HF_HUB_DOWNLOAD_TIMEOUT", "1.5")])
        .fails(4, &["the list of files", "nothing came for 1.5 s"]);
    assert!(started.elapsed() < Duration::from_secs(30));

    let endless = Liar::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b' '; 1 << 16]).is_ok() {}
    });
    endless
        .score(&place, &[("HF_HUB_DOWNLOAD_TIMEOUT", "30")])
        .fails(4, &["not one that the Hub gives"]);
}
