//! One request to an endpoint that speaks OpenAI's chat completions, and what came of it: an
//! answer, a reason to try again, or the end.

use std::io::Read;
use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use ureq::Agent;
use ureq::http::Uri;

use crate::endpoint::bill::Limits;
use crate::endpoint::bill::Meter;
pub use crate::endpoint::bill::Usage;
use crate::endpoint::key::Key;
use crate::endpoint::patience::retry_after;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;

/// Role and text of a message to or from an endpoint.
pub type Message = (&'static str, String);

/// An endpoint, its model, its key, and what may be spent there.
pub struct Endpoint {
    url: String,
    model: String,
    key: Option<Key>,
    key_variable: String,
    agent: Agent,
    meter: Meter,
}

/// What an endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The text; empty where there is none.
    pub text: String,
    /// Whether it ends where the limit of tokens was reached.
    pub is_cut: bool,
    /// What it was charged for.
    pub usage: Option<Usage>,
}

/// Why there is no answer.
pub enum Failure {
    /// The next request may succeed, after a wait if the endpoint asks for one.
    Passing {
        /// What happened.
        why: String,
        /// The wait asked for.
        after: Option<Duration>,
    },
    /// No further request will.
    Final(Error),
    /// A limit of what may be spent was reached; the request was not sent.
    Limit(String),
}

/// The path of the one request, after the endpoint's own.
const PATH: &str = "/chat/completions";
/// Longest answer that is read, in bytes, whatever it unpacks to; a grade takes a thousandth of it.
const LONGEST_BODY: u64 = 4 << 20;
/// Longest audio file that is read, in bytes: 40 minutes of speech at 48 kHz and 16 bits.
const LONGEST_AUDIO: u64 = 256 << 20;
/// Media type of a request in JSON.
const JSON: &str = "application/json";
/// Most of an error that is read, in bytes.
const LONGEST_ERROR: u64 = 1 << 16;
/// Characters of an endpoint's own message that are shown.
const SHOWN: usize = 300;

/// One request.
struct Request<'a> {
    url: &'a str,
    content_type: &'a str,
    body: &'a [u8],
    longest_answer: u64,
    /// Whether the request and its answer are texts. An upload of audio has many more bytes than
    /// tokens.
    is_text: bool,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Choice {
    message: Content,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    content: Option<String>,
}

impl Endpoint {
    /// The endpoint at `url`, such as `https://api.openai.com/v1`; `key_variable` is what messages
    /// call the key's place.
    ///
    /// # Errors
    /// A URL that is none, or that holds a name and password.
    pub fn new(
        url: &str,
        model: &str,
        key: Option<Key>,
        key_variable: &str,
        timeout: Duration,
    ) -> Result<Self> {
        let url = url.trim_end_matches('/');
        let url = if url.ends_with(PATH) {
            url.to_owned()
        } else {
            format!("{url}{PATH}")
        };
        let bad = |what: &str| {
            Error::input(format!("the endpoint {what}")).hint("an endpoint is the URL before /chat/completions, such as https://api.openai.com/v1")
        };
        let uri: Uri = url.parse().map_err(|_| bad("is not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad("does not begin with http:// or https://"));
        }
        let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(bad(&format!(
                "holds more than host and path; a key belongs into the environment variable {key_variable}"
            )));
        }
        let mut config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false);
        if matches!(authority.host(), "localhost" | "127.0.0.1" | "[::1]") {
            config = config.proxy(None);
        }
        Ok(Self {
            url,
            model: model.to_owned(),
            key,
            key_variable: key_variable.to_owned(),
            agent: config.build().into(),
            meter: Meter::default(),
        })
    }

    /// Limits what may be spent; nothing is spent so far.
    #[must_use]
    pub fn limited(mut self, limits: Limits) -> Self {
        self.meter = Meter::new(limits);
        self
    }

    /// Where requests go.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The model that is asked.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Asks once.
    pub fn ask(
        &self,
        messages: &[Message],
        parameters: &Map<String, Value>,
    ) -> std::result::Result<Reply, Failure> {
        let mut body = json!({"model": self.model, "messages": messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect::<Vec<_>>()});
        parameters
            .iter()
            .for_each(|(name, value)| body[name] = value.clone());
        let body = body.to_string();
        let request = Request {
            url: &self.url,
            content_type: JSON,
            body: body.as_bytes(),
            longest_answer: LONGEST_BODY,
            is_text: true,
        };
        self.send(&request, |bytes| {
            let reply = self.reply(&String::from_utf8_lossy(bytes));
            let usage = reply.as_ref().ok().and_then(|reply| reply.usage);
            (reply, usage)
        })
    }

    /// Asks once for speech (`/audio/speech`): the contents of an audio file.
    pub fn speak(
        &self,
        text: &str,
        voice: &str,
        parameters: &Map<String, Value>,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let mut body =
            json!({"model": self.model, "input": text, "voice": voice, "response_format": "wav"});
        parameters
            .iter()
            .for_each(|(name, value)| body[name] = value.clone());
        let url = self.url_of("/audio/speech");
        let body = body.to_string();
        let request = Request {
            url: &url,
            content_type: JSON,
            body: body.as_bytes(),
            longest_answer: LONGEST_AUDIO,
            is_text: false,
        };
        // Speech is charged by the character.
        let usage = Usage {
            prompt_tokens: text.chars().count() as u64,
            completion_tokens: 0,
        };
        self.send(&request, |bytes| (Ok(bytes.to_vec()), Some(usage)))
    }

    /// Asks once what is said in an audio file (`/audio/transcriptions`), in a language of two
    /// letters.
    pub fn transcribe(
        &self,
        file: &[u8],
        name: &str,
        language: &str,
    ) -> std::result::Result<String, Failure> {
        // The boundary is a hash of the file, so that no part holds it.
        let boundary = blake3::hash(file).to_hex();
        let mut body = Vec::with_capacity(file.len() + 1024);
        for (field, value) in [
            ("model", self.model.as_str()),
            ("language", language),
            ("response_format", "json"),
            ("temperature", "0"),
        ] {
            body.extend(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n").into_bytes());
        }
        body.extend(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: audio/flac\r\n\r\n").into_bytes());
        body.extend(file);
        body.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
        let url = self.url_of("/audio/transcriptions");
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let request = Request {
            url: &url,
            content_type: &content_type,
            body: &body,
            longest_answer: LONGEST_BODY,
            is_text: false,
        };
        self.send(&request, |bytes| {
            #[derive(Deserialize)]
            struct Transcription {
                text: String,
                #[serde(default)]
                usage: Value,
            }
            match serde_json::from_slice::<Transcription>(bytes) {
                Ok(found) => (Ok(self.hide(&found.text)), Usage::read(&found.usage)),
                Err(_) => (
                    Err(Failure::Passing {
                        why: format!("{url} answered something that is no transcription"),
                        after: None,
                    }),
                    None,
                ),
            }
        })
    }

    /// The address of another request than chat completions.
    fn url_of(&self, path: &str) -> String {
        let base = self.url.strip_suffix(PATH).unwrap_or(&self.url);
        format!("{base}{path}")
    }

    /// Sends once; `read` makes of an answer what was asked for, and says what it was charged.
    fn send<T>(
        &self,
        asked: &Request,
        read: impl FnOnce(&[u8]) -> (std::result::Result<T, Failure>, Option<Usage>),
    ) -> std::result::Result<T, Failure> {
        self.meter.begin().map_err(Failure::Limit)?;
        let mut request = self
            .agent
            .post(asked.url)
            .header("Content-Type", asked.content_type)
            .header("Accept", "*/*")
            // An answer that is not packed cannot unpack to more than was sent.
            .header("Accept-Encoding", "identity");
        if let Some(key) = &self.key {
            request = request.header("Authorization", key.authorization());
        }
        let mut response = request
            .send(asked.body)
            .map_err(|e| self.not_reached(asked.url, &e.to_string(), is_final(&e)))?;

        let status = response.status().as_u16();
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let after = header("retry-after").and_then(|value| retry_after(value, SystemTime::now()));
        let packed = header("content-encoding")
            .filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
            .map(str::to_owned);
        let is_answer = (200..=299).contains(&status);
        let limit = if is_answer {
            asked.longest_answer
        } else {
            LONGEST_ERROR
        };
        let mut bytes = Vec::new();
        let outcome = response
            .body_mut()
            .as_reader()
            .take(limit + 1)
            .read_to_end(&mut bytes);
        let mut usage = None;
        let reply = if let Some(encoding) = packed {
            let found =
                format!("answered {status} in the encoding {encoding}, which was not asked for");
            Err(self.not_reached(asked.url, &found, false))
        } else if !is_answer {
            let text = String::from_utf8_lossy(&bytes);
            Err(self.refused(asked.url, status, &text, after))
        } else if let Err(e) = outcome {
            Err(self.not_reached(asked.url, &e.to_string(), false))
        } else if bytes.len() as u64 > limit {
            let found = format!("answered more than {} MiB", limit >> 20);
            Err(self.not_reached(asked.url, &found, false))
        } else {
            let (reply, found) = read(&bytes);
            usage = found;
            reply
        };
        // An endpoint charges for each answer, of use or not, and for no refusal.
        if is_answer {
            let usage = usage.or((!asked.is_text).then_some(Usage::NONE));
            self.meter.add(usage, asked.body.len(), bytes.len());
        }
        reply
    }

    fn reply(&self, text: &str) -> std::result::Result<Reply, Failure> {
        let passing = |what: &str| Failure::Passing {
            why: format!("{} answered {what}", self.url),
            after: None,
        };
        let completion: Completion = serde_json::from_str(text)
            .map_err(|_| passing("something that is no chat completion"))?;
        let choice = completion
            .choices
            .into_iter()
            .next()
            .ok_or_else(|| passing("without a choice"))?;
        let is_cut = choice.finish_reason.as_deref() == Some("length");
        Ok(Reply {
            text: self.hide(&choice.message.content.unwrap_or_default()),
            is_cut,
            usage: Usage::read(&completion.usage),
        })
    }

    /// A request that got no whole answer.
    fn not_reached(&self, url: &str, found: &str, is_final: bool) -> Failure {
        let why = self.hide(&format!("{url}: {found}"));
        if is_final {
            Failure::Final(Error::input(why))
        } else {
            Failure::Passing { why, after: None }
        }
    }

    /// A request that was answered with an error.
    fn refused(&self, url: &str, status: u16, body: &str, after: Option<Duration>) -> Failure {
        let said = said(body, &|text| self.hide(text));
        let why = format!("{url} answered {status}{said}");
        // A quota that is used up is told with the status of too many requests, and no wait mends
        // it.
        let is_used_up = status == 429 && body.contains("insufficient_quota");
        if matches!(status, 408 | 409 | 425 | 429 | 500..) && !is_used_up {
            return Failure::Passing { why, after };
        }
        let kind = if is_used_up || status == 402 {
            Kind::Resource
        } else {
            Kind::Input
        };
        let variable = &self.key_variable;
        let hint = match (status, &self.key) {
            (401 | 403, None) => {
                format!("the endpoint wants a key: set the environment variable {variable}")
            }
            (401 | 403, Some(_)) => {
                format!("the endpoint refuses the key in the environment variable {variable}")
            }
            (404, _) => format!(
                "check the address of the endpoint and the model, `{}`",
                self.model
            ),
            (400 | 422, _) => "the `parameters` of the requests may not suit this model".to_owned(),
            (300..=399, _) => "give the address that it redirects to".to_owned(),
            _ => "run the command again later: earlier answers are cached".to_owned(),
        };
        Failure::Final(Error::new(kind, why).hint(hint))
    }

    /// The text without the key. Everything that an endpoint says goes through here before it is
    /// cut, printed or kept, and again where escapes in it were read.
    pub fn hide(&self, text: &str) -> String {
        self.key
            .as_ref()
            .map_or_else(|| text.to_owned(), |key| key.hide(text).into_owned())
    }
}

/// Whether no further request can fare better.
fn is_final(error: &ureq::Error) -> bool {
    matches!(
        error,
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl
    )
}

/// What the body of an error says, if it says something; hidden first, then cut.
fn said(body: &str, hide: &dyn Fn(&str) -> String) -> String {
    let object: Option<Value> = serde_json::from_str(body).ok();
    let message = object.as_ref().and_then(|object| {
        object["error"]["message"]
            .as_str()
            .or(object["message"].as_str())
            .or(object["error"].as_str())
    });
    let message = hide(message.unwrap_or(body))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let shown: String = message.chars().take(SHOWN).collect();
    let dots = if shown.len() < message.len() {
        " ..."
    } else {
        ""
    };
    if shown.is_empty() {
        String::new()
    } else {
        format!(": {shown}{dots}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint> {
        Endpoint::new(url, "m", None, "OPENAI_API_KEY", Duration::from_secs(1))
    }

    #[test]
    fn a_url_is_completed_and_checked() {
        for url in [
            "https://a.example/v1",
            "https://a.example/v1/",
            "https://a.example/v1/chat/completions",
        ] {
            assert_eq!(
                endpoint(url).unwrap().url(),
                "https://a.example/v1/chat/completions"
            );
        }
        for (url, expected) in [
            ("a.example", "is not a URL"),
            ("ftp://a.example", "does not begin with http"),
            ("http://", "is not a URL"),
            (
                "https://me:secret@a.example/v1",
                "holds more than host and path",
            ),
            (
                "https://a.example/v1?api-key=secret",
                "holds more than host and path",
            ),
        ] {
            let error = endpoint(url).err().unwrap().to_string();
            assert!(
                error.contains(expected) && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_an_error_says_is_found_and_kept_short() {
        let said = |body: &str| said(body, &str::to_owned);
        assert_eq!(
            said(r#"{"error": {"message": "no  such\nmodel", "type": "x"}}"#),
            ": no such model"
        );
        assert_eq!(said(r#"{"message": "busy"}"#), ": busy");
        assert_eq!(
            said("<html>Bad Gateway</html>"),
            ": <html>Bad Gateway</html>"
        );
        assert_eq!(said(""), "");
        assert_eq!(said(&"x".repeat(400)).chars().count(), 2 + SHOWN + 4);
    }

    #[test]
    fn a_key_is_hidden_before_a_message_is_cut() {
        let key = Key::new("sk-0123456789abcdefghij").unwrap();
        let hide = |text: &str| key.hide(text).into_owned();
        for before in SHOWN - 30..SHOWN + 5 {
            let body = format!("{}sk-0123456789abcdefghij", "x".repeat(before));
            let shown = said(&body, &hide);
            assert!(!shown.contains("sk-") && !shown.contains("0123"), "{shown}");
        }
    }
}
