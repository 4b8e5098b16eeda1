//! Texts from a language model, behind an endpoint or on this machine: prompts, requests, parsing
//! of answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::build::call::Calls;
use crate::build::call::Remote;
use crate::build::local::Chat;
use crate::build::local::Models;
use crate::build::settings::local::LanguageModel;
use crate::build::settings::local::Sampling;
use crate::data;
use crate::data::AUDIO_MARK;
use crate::data::Role;
use crate::endpoint::request::Message;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::seed::Key as SeedKey;
use crate::yaml;

/// Most answers that are requested until one can be used.
const MAX_ANSWERS: u64 = 3;
/// Temperature of every summary after the first, which would otherwise repeat the first.
const FURTHER_TEMPERATURE: f64 = 0.8;

/// Text of a file of prompts, or of those of the program.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn prompts_text(path: Option<&Path>, own: &str) -> Result<String> {
    match path {
        Some(path) => files::read_text(path),
        None => Ok(own.to_owned()),
    }
}

/// Prompts by language.
pub(crate) struct Prompts(BTreeMap<String, Prompt>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    system: String,
    user: String,
}

impl Prompts {
    /// Reads a file of prompts, or those of the program.
    pub(crate) fn load(path: Option<&Path>, own: &str) -> Result<Self> {
        let text = prompts_text(path, own)?;
        let prompts = match path {
            Some(path) => yaml::parse(&text, path)?,
            None => yaml::parse(&text, Path::new("prompts/build")).map_err(Error::bug_from)?,
        };
        Ok(Self(prompts))
    }

    /// The messages in a language; each `{name}` is replaced by its value.
    fn messages(&self, language: &str, filled: &[(&str, &str)]) -> Result<Vec<Message>> {
        let primary = language.split('-').next().unwrap_or_default();
        let prompt = self
            .0
            .get(language)
            .or_else(|| self.0.get(primary))
            .ok_or_else(|| {
                Error::input(format!("no prompt in the language `{language}`"))
                    .hint("give a file with one: `prompt: FILE` beside the engine")
            })?;
        Ok(vec![
            ("system", fill(&prompt.system, filled)),
            ("user", fill(&prompt.user, filled)),
        ])
    }
}

/// Fills a template with its values, which are not expanded again.
fn fill(template: &str, filled: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let value = filled.iter().find_map(|(name, value)| {
            let end = rest[1..].strip_prefix(name)?.strip_prefix('}')?;
            Some((value, end))
        });
        match value {
            Some((value, end)) => {
                text.push_str(value);
                rest = end;
            }
            None => {
                text.push('{');
                rest = &rest[1..];
            }
        }
    }
    text + rest
}

/// Result of a request.
pub(crate) enum Written<T = String> {
    /// A text.
    Text(T),
    /// No usable answer, with the fault of the last one.
    Unusable(String),
    /// The build ends.
    Ended,
}

/// An answer in the cache: its text, and whether the limit of tokens cut it off.
type CachedAnswer = (String, bool);

/// A language model that is open. Clones share its budget and its rate.
#[derive(Clone)]
pub(crate) enum Engine {
    /// A model behind an endpoint.
    Endpoint(Arc<Remote>),
    /// A model on this machine.
    Local {
        /// The model.
        chat: Arc<Chat>,
        /// Name in the recipe.
        name: String,
        /// All that an answer depends on, except the question.
        identity: Value,
    },
}

impl Engine {
    /// Opens a language model; `place` is the place of its endpoint in the recipe.
    ///
    /// # Errors
    /// An invalid address; a local model that cannot be run.
    pub(crate) fn open(model: LanguageModel, place: &'static str, models: &Models) -> Result<Self> {
        Ok(match model {
            LanguageModel::Endpoint(endpoint) => Self::Endpoint(Arc::new(endpoint.open(place)?)),
            LanguageModel::Local(name) => Self::Local {
                chat: models.chat(name)?,
                identity: models.identity(name),
                name: name.to_owned(),
            },
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Endpoint(_) => "endpoint",
            Self::Local { .. } => "local",
        }
    }

    fn model(&self) -> &str {
        match self {
            Self::Endpoint(remote) => remote.model(),
            Self::Local { name, .. } => name,
        }
    }

    /// Beginning of the key of an answer.
    fn identity(&self) -> [Value; 3] {
        match self {
            Self::Endpoint(remote) => [json!("chat"), json!(remote.url()), json!(remote.model())],
            Self::Local { identity, .. } => [json!("chat"), Value::Null, identity.clone()],
        }
    }
}

/// A language model with its prompts.
pub(crate) struct Writer<'a> {
    engine: Engine,
    parameters: Map<String, Value>,
    prompts: Prompts,
    calls: &'a Calls<'a>,
}

impl<'a> Writer<'a> {
    /// A writer with an open model.
    pub(crate) fn new(
        engine: Engine,
        parameters: &Map<String, Value>,
        prompts: Prompts,
        calls: &'a Calls<'a>,
    ) -> Self {
        let mut parameters = parameters.clone();
        parameters.entry("temperature").or_insert(json!(0));
        Self {
            engine,
            parameters,
            prompts,
            calls,
        }
    }

    /// The open model.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Model, parameters and prompts, for the dataset card.
    pub(crate) fn described(&self) -> Value {
        let prompts: Map<String, Value> = self
            .prompts
            .0
            .iter()
            .map(|(language, prompt)| {
                let both = json!({"system": prompt.system, "user": prompt.user});
                (language.clone(), both)
            })
            .collect();
        json!({
            "engine": self.engine.name(),
            "model": self.engine.model(),
            "parameters": self.parameters,
            "prompts": prompts,
        })
    }

    /// Requests a text; `number` distinguishes several answers to one prompt.
    pub(crate) fn write(
        &self,
        language: &str,
        filled: &[(&str, &str)],
        number: usize,
    ) -> Result<Written> {
        let messages = self.prompts.messages(language, filled)?;
        if let Engine::Local { chat, .. } = &self.engine
            && let Some(fault) = chat.too_long(&conversation(&messages))?
        {
            return Ok(Written::Unusable(fault));
        }
        let mut fault = String::new();
        for attempt in 0..MAX_ANSWERS {
            let parameters = self.parameters_of(number, attempt);
            let [kind, url, model] = self.engine.identity();
            let question = json!([kind, url, model, messages, parameters, number, attempt]);
            let answer = self.calls.answer(&question, || {
                let draw = SeedKey::new(0, "build chat").with_name(&question.to_string());
                self.ask(&messages, &parameters, draw)
            })?;
            let Some(answer) = answer else {
                return Ok(Written::Ended);
            };
            let (text, is_cut): CachedAnswer =
                serde_json::from_slice(&answer).map_err(Error::bug_from)?;
            let text = bare(&text);
            fault = match (text.is_empty(), is_cut) {
                (true, _) => "the answer is empty".to_owned(),
                (_, true) => "the answer was cut off at the limit of tokens".to_owned(),
                _ => return Ok(Written::Text(text)),
            };
        }
        Ok(Written::Unusable(format!("{fault} ({MAX_ANSWERS} times)")))
    }

    /// Parameters of a request. A request after the first must not repeat the first answer.
    fn parameters_of(&self, number: usize, attempt: u64) -> Map<String, Value> {
        let is_local = matches!(self.engine, Engine::Local { .. });
        further_parameters(&self.parameters, is_local, number, attempt)
    }

    /// Sends one request; the answer is a text and whether it was cut off. None if the build ends.
    fn ask(
        &self,
        messages: &[Message],
        parameters: &Map<String, Value>,
        draw: SeedKey,
    ) -> Result<Option<Vec<u8>>> {
        let answer: Option<CachedAnswer> = match &self.engine {
            Engine::Endpoint(remote) => {
                let reply = remote.ask(self.calls, draw, |endpoint| {
                    endpoint.ask(messages, parameters)
                })?;
                reply.map(|reply| (reply.text, reply.is_cut))
            }
            Engine::Local { chat, .. } => {
                let sampling = Sampling::of(parameters)?;
                let draw = draw.with(sampling.seed).bits(0);
                let stop = self.calls.stop();
                let answer = chat.answer(&conversation(messages), sampling, draw, stop)?;
                answer.map(|answer| (answer.text, answer.is_cut))
            }
        };
        let bytes = answer.map(|answer| serde_json::to_vec(&answer));
        bytes.transpose().map_err(Error::bug_from)
    }
}

/// Parameters of request number `attempt` for answer number `number`. A model at temperature 0
/// would repeat its first answer.
fn further_parameters(
    parameters: &Map<String, Value>,
    is_local: bool,
    number: usize,
    attempt: u64,
) -> Map<String, Value> {
    let mut parameters = parameters.clone();
    if number == 0 && (attempt == 0 || !is_local) {
        return parameters;
    }
    if !is_local {
        parameters.insert("seed".to_owned(), number.into());
    }
    let temperature = parameters.get("temperature").and_then(Value::as_f64);
    if temperature == Some(0.0) {
        parameters.insert("temperature".to_owned(), json!(FURTHER_TEMPERATURE));
    }
    parameters
}

/// Messages as a local model takes them. Texts have no clips, so a mark of one is dropped.
fn conversation(messages: &[Message]) -> Vec<data::Message> {
    messages
        .iter()
        .map(|(role, text)| {
            let role = match *role {
                "system" => Role::System,
                _ => Role::User,
            };
            data::Message::new(role, text.replace(AUDIO_MARK, ""))
        })
        .collect()
}

/// An answer without what models write around it: thoughts, a label, quotation marks, line breaks.
fn bare(answer: &str) -> String {
    let text = match answer.rsplit_once("</think>") {
        Some((_, after)) => after,
        None => answer,
    };
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for label in ["الملخص:", "ملخص:", "Summary:", "الترجمة:", "Translation:"] {
        if let Some(rest) = text.strip_prefix(label) {
            text = rest.trim().to_owned();
        }
    }
    for (open, close) in [('"', '"'), ('«', '»'), ('“', '”')] {
        let inside = text
            .strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close))
            .filter(|inside| !inside.contains([open, close]));
        if let Some(inside) = inside {
            text = inside.trim().to_owned();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_once() {
        assert_eq!(
            fill("{a} {b} {\"x\": 1} {a}", &[("a", "{b}"), ("b", "ب")]),
            "{b} ب {\"x\": 1} {b}"
        );
    }

    #[test]
    fn further_answers_have_a_temperature() {
        for written in ["0", "0.0", "-0.0"] {
            let parameters: Map<String, Value> =
                serde_json::from_str(&format!("{{\"temperature\": {written}}}")).unwrap();
            for (is_local, number, attempt, expected) in [
                (true, 0, 0, 0.0),
                (true, 0, 1, FURTHER_TEMPERATURE),
                (true, 1, 0, FURTHER_TEMPERATURE),
                (false, 0, 1, 0.0),
                (false, 1, 0, FURTHER_TEMPERATURE),
            ] {
                let found = further_parameters(&parameters, is_local, number, attempt);
                assert_eq!(found["temperature"].as_f64(), Some(expected), "{written}");
            }
        }
        let warm = json!({"temperature": 0.3});
        let found = further_parameters(warm.as_object().unwrap(), true, 1, 0);
        assert_eq!(found["temperature"], 0.3);
    }

    #[test]
    fn answers_are_bared() {
        for (answer, expected) in [
            ("  «نعم»\n", "نعم"),
            ("الملخص: \"نص\nواحد\"", "نص واحد"),
            ("<think>hm\n</think>\nنص", "نص"),
            ("\"أ\" و\"ب\"", "\"أ\" و\"ب\""),
            (" \n", ""),
        ] {
            assert_eq!(bare(answer), expected);
        }
    }

    #[test]
    fn built_in_prompts_are_complete() {
        for (own, names) in [
            (
                include_str!("../../../prompts/build/summarise.yaml"),
                &["{text}", "{max_words}"][..],
            ),
            (
                include_str!("../../../prompts/build/translate.yaml"),
                &["{text}"],
            ),
            (
                include_str!("../../../prompts/build/judge.yaml"),
                &["{text}", "{summary}"],
            ),
        ] {
            let prompts = Prompts::load(None, own).unwrap();
            for language in ["ar", "ar-EG", "en"] {
                prompts.messages(language, &[]).unwrap();
            }
            for prompt in prompts.0.values() {
                assert!(names.iter().all(|name| prompt.user.contains(name)));
            }
            assert!(prompts.messages("fr", &[]).is_err());
        }
    }
}
