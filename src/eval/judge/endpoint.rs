//! One request to an endpoint that speaks OpenAI's chat completions, and what came of it: an answer, a reason to try again, or the end.

use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use ureq::Agent;
use ureq::http::Uri;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::judge::key::Key;
use crate::eval::judge::patience::retry_after;
use crate::eval::judge::rubric::Message;

/// An endpoint, its model and its key.
pub struct Endpoint {
    url: String,
    model: String,
    key: Option<Key>,
    key_variable: String,
    agent: Agent,
}

/// Tokens that a request was charged for; none where the endpoint does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens asked.
    pub prompt_tokens: u64,
    /// Tokens answered.
    #[serde(default)]
    pub completion_tokens: u64,
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
}

/// The path of the one request, after the endpoint's own.
const PATH: &str = "/chat/completions";
/// Longest answer that is read, in bytes; a grade takes a thousandth of it.
const LONGEST_BODY: u64 = 4 << 20;
/// Characters of an endpoint's own message that are shown.
const SHOWN: usize = 300;

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
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
    /// The endpoint at `url`, such as `https://api.openai.com/v1`; `key_variable` is what messages call the key's place.
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
        })
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
        let mut request = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", key.authorization());
        }
        let mut response = request
            .send(body.to_string().as_bytes())
            .map_err(|e| self.not_reached(&e))?;
        let status = response.status().as_u16();
        let after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry_after(value, SystemTime::now()));
        let text = response
            .body_mut()
            .with_config()
            .limit(LONGEST_BODY)
            .read_to_string();
        match (status, text) {
            (200..=299, Ok(text)) => self.reply(&text),
            (200..=299, Err(error)) => Err(self.not_reached(&error)),
            (status, text) => Err(self.refused(status, &text.unwrap_or_default(), after)),
        }
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
            text: choice.message.content.unwrap_or_default(),
            is_cut,
            usage: completion.usage,
        })
    }

    /// A request that got no whole answer.
    fn not_reached(&self, error: &ureq::Error) -> Failure {
        let why = self.hide(&format!("{}: {error}", self.url));
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
                Failure::Final(Error::input(why))
            }
            _ => Failure::Passing { why, after: None },
        }
    }

    /// A request that was answered with an error.
    fn refused(&self, status: u16, body: &str, after: Option<Duration>) -> Failure {
        let why = self.hide(&format!("{} answered {status}{}", self.url, said(body)));
        // A quota that is used up is told with the status of too many requests, and no wait mends it.
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
            (404, _) => format!("check --endpoint and the model, `{}`", self.model),
            (400 | 422, _) => "the rubric's `parameters` may not suit this model".to_owned(),
            (300..=399, _) => "give the address that it redirects to".to_owned(),
            _ => "what was judged before is kept in the cache".to_owned(),
        };
        Failure::Final(Error::new(kind, why).hint(hint))
    }

    /// The text without the key.
    fn hide(&self, text: &str) -> String {
        self.key
            .as_ref()
            .map_or_else(|| text.to_owned(), |key| key.hide(text))
    }
}

/// What the body of an error says, if it says something.
fn said(body: &str) -> String {
    let object: Option<Value> = serde_json::from_str(body).ok();
    let message = object.as_ref().and_then(|object| {
        object["error"]["message"]
            .as_str()
            .or(object["message"].as_str())
            .or(object["error"].as_str())
    });
    let message = message
        .unwrap_or(body)
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
}
