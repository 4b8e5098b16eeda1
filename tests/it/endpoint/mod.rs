//! An endpoint on this machine that answers chat completions by a script, well or badly.

use std::collections::VecDeque;
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

use serde_json::Value;
use serde_json::json;

pub const KEY: &str = "sk-test-0123456789abcdef";

/// Behaviour of the endpoint for one request.
#[derive(Clone)]
pub enum Does {
    /// Answers with this text, after a while.
    Says(String, Duration),
    /// Answers with a status, a header and a body.
    Refuses(u16, &'static str, String),
    /// Sends half of an answer and hangs up.
    HangsUp,
    /// Sends nothing for a while and hangs up.
    Sleeps(Duration),
    /// Sends something that is no chat completion.
    Babbles,
    /// Answers until the limit of tokens is reached.
    IsCut,
    /// Answers correctly without a token count.
    SaysNoTokens,
    /// Refuses the key and repeats it.
    RepeatsTheKey,
}

pub fn grades(faithfulness: i64) -> Does {
    Does::Says(
        json!({"reason": "لأن", "faithfulness": faithfulness, "coverage": 2, "fluency": 3})
            .to_string(),
        Duration::ZERO,
    )
}

pub fn says(text: &str) -> Does {
    Does::Says(text.to_owned(), Duration::ZERO)
}

pub fn refuses(status: u16) -> Does {
    Does::Refuses(
        status,
        "",
        json!({"error": {"message": "not now"}}).to_string(),
    )
}

/// One request as the endpoint saw it.
#[derive(Clone)]
pub struct Seen {
    pub head: Vec<String>,
    pub body: Value,
}

#[derive(Default)]
pub struct State {
    script: Mutex<VecDeque<Does>>,
    seen: Mutex<Vec<Seen>>,
    num_open: AtomicUsize,
    pub most_open: AtomicUsize,
}

/// An endpoint that follows a script, and does its last act for ever.
pub struct Server {
    pub url: String,
    pub state: Arc<State>,
}

impl Server {
    pub fn start(script: &[Does]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        state.script.lock().unwrap().extend(script.iter().cloned());
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = shared.clone();
                // The client may have closed the connection, which some of the tests are about.
                std::thread::spawn(move || stream.and_then(|stream| serve(&stream, &state)));
            }
        });
        Self { url, state }
    }

    pub fn set(&self, script: &[Does]) {
        *self.state.script.lock().unwrap() = script.iter().cloned().collect();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }
}

fn serve(mut stream: &TcpStream, state: &State) -> std::io::Result<()> {
    let open = state.num_open.fetch_add(1, Ordering::SeqCst) + 1;
    state.most_open.fetch_max(open, Ordering::SeqCst);
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let length = head
        .iter()
        .find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length: ")
                .map(str::to_owned)
        })
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body)?;
    let authorization = head
        .iter()
        .find_map(|line| {
            line.strip_prefix("authorization: ")
                .or(line.strip_prefix("Authorization: "))
        })
        .unwrap_or_default()
        .to_owned();
    state.seen.lock().unwrap().push(Seen {
        head,
        body: serde_json::from_slice(&body).unwrap(),
    });
    let does = {
        let mut script = state.script.lock().unwrap();
        if script.len() > 1 {
            script.pop_front().unwrap()
        } else {
            script[0].clone()
        }
    };
    let completion = |text: &str, usage: Value| {
        json!({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": usage}).to_string()
    };
    let tokens = json!({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110});
    let (status, header, body, sent) = match does {
        Does::Says(text, delay) => {
            std::thread::sleep(delay);
            (200, "", completion(&text, tokens), 1.0)
        }
        Does::Refuses(status, header, body) => (status, header, body, 1.0),
        Does::HangsUp => (200, "", completion("{}", tokens), 0.5),
        Does::Sleeps(delay) => {
            std::thread::sleep(delay);
            (200, "", String::new(), 0.0)
        }
        Does::Babbles => (200, "", "<html>welcome</html>".to_owned(), 1.0),
        Does::IsCut => (
            200,
            "",
            completion(r#"{"reason": "I think"#, tokens).replace("stop", "length"),
            1.0,
        ),
        Does::SaysNoTokens => (
            200,
            "",
            completion(
                r#"{"faithfulness": 1, "coverage": 1, "fluency": 1}"#,
                Value::Null,
            ),
            1.0,
        ),
        Does::RepeatsTheKey => (
            401,
            "",
            json!({"error": {"message": format!("bad {authorization} or {KEY}")}}).to_string(),
            1.0,
        ),
    };
    // Before the answer, because the client may return at once.
    state.num_open.fetch_sub(1, Ordering::SeqCst);
    let length = body.len().max(1);
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{header}Connection: close\r\n\r\n"
    )?;
    stream.write_all(&body.as_bytes()[..(body.len() as f64 * sent) as usize])
}
