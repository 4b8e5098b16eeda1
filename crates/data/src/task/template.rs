//! A checkpoint's chat template: a conversation as text in which the template's words and the
//! data's are told apart.

use std::path::Path;

use minijinja::Environment;
use minijinja::ErrorKind;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use regex::Regex;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::AUDIO_MARK;
use crate::Message;
use crate::Role;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;

/// ChatML as Qwen writes it, with Qwen2.5-Omni's audio marks; for checkpoints that bring no
/// template.
const CHATML: &str = concat!(
    "{% for message in messages %}",
    "{% if loop.first and message.role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
    "<|im_start|>{{ message.role }}\n",
    "{% if message.content is string %}{{ message.content }}",
    "{% else %}{% for part in message.content %}",
    "{% if part.type == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part.text }}{% endif %}",
    "{% endfor %}{% endif %}<|im_end|>\n",
    "{% endfor %}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
);

/// The template of transformers' `Qwen2AudioProcessor`, for checkpoints of Qwen2-Audio that bring
/// none: clips are counted through the whole conversation.
pub const QWEN2_AUDIO_TEMPLATE: &str = concat!(
    "{% set clips = namespace(count=0) %}{% for message in messages %}",
    "{% if loop.first and message.role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
    "<|im_start|>{{ message.role }}\n",
    "{% if message.content is string %}{{ message.content }}",
    "{% else %}{% for part in message.content %}",
    "{% if part.type == 'audio' %}{% set clips.count = clips.count + 1 %}",
    "Audio {{ clips.count }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n{% else %}{{ part.text }}{% endif %}",
    "{% endfor %}{% endif %}<|im_end|>\n",
    "{% endfor %}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
);

/// The template of transformers' `Qwen3ASRProcessor`, rewritten, for checkpoints of Qwen3-ASR with
/// no template or with one that has no turn of the answer, such as the original ones. The system's
/// turn is always there, and the user's holds only clips.
const QWEN3_ASR: &str = concat!(
    "{% set whole = namespace(system='', clips='') %}{% for message in messages %}",
    "{% set parts = [{'type': 'text', 'text': message.content}] if message.content is string else message.content %}",
    "{% for part in parts %}",
    "{% if part.type == 'audio' %}{% set whole.clips = whole.clips ~ '<|audio_start|><|audio_pad|><|audio_end|>' %}",
    "{% elif message.role != 'assistant' %}{% set whole.system = whole.system ~ part.text %}{% endif %}",
    "{% endfor %}{% endfor %}",
    "<|im_start|>system\n{{ whole.system }}<|im_end|>\n<|im_start|>user\n{{ whole.clips }}<|im_end|>\n",
    "{% for message in messages if message.role == 'assistant' %}<|im_start|>assistant\n{{ message.content }}<|im_end|>\n{% endfor %}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
);

/// Stands around the number of a data text while a template is rendered: a code point for private
/// use that no template has a use for.
const SENTINEL: char = '\u{10fffd}';

/// A stretch of a rendered conversation.
#[derive(Debug, PartialEq)]
pub enum Piece<'a> {
    /// The template's own words; special tokens in them are special.
    Template(String),
    /// A text of a message; special tokens in it are plain text.
    Data {
        /// Position of the message.
        message: usize,
        /// The text.
        text: &'a str,
    },
}

/// Place of a template that no file holds.
const BUILT_IN: &str = "the built-in chat template";

/// The family that config.json of a checkpoint names.
fn family(model_dir: &Path) -> Result<Option<String>> {
    let config = read_json(&model_dir.join("config.json"))?;
    let named = config.as_ref().and_then(|c| c.get("model_type")?.as_str());
    Ok(named.map(str::to_owned))
}

/// A chat template, compiled.
pub struct ChatTemplate {
    environment: Environment<'static>,
    place: String,
    /// Variables of templates: `bos_token` and its like, and those that were set.
    variables: Map<String, Value>,
}

impl ChatTemplate {
    /// The template of a checkpoint: that of `processor_config.json`, of `chat_template.json`, of
    /// `chat_template.jinja`, of `tokenizer_config.json`, else the built-in one of its family. It
    /// is the order of transformers' processor.
    ///
    /// # Errors
    /// A file that cannot be read or a template that does not compile.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let found = Self::find(model_dir)?;
        if family(model_dir)?.as_deref() != Some("qwen3_asr") {
            return Ok(found);
        }
        let answered = [
            Message::new(Role::User, AUDIO_MARK),
            Message::new(Role::Assistant, "x"),
        ];
        match found.render(&answered, false) {
            Ok(_) => Ok(found),
            Err(_) => Self::compile(
                QWEN3_ASR.to_owned(),
                BUILT_IN.to_owned(),
                found.variables.clone(),
            ),
        }
    }

    /// The template of a source that another file than a checkpoint's holds; ChatML without one.
    ///
    /// # Errors
    /// A template that does not compile.
    pub fn of_source(source: Option<String>, place: &Path) -> Result<Self> {
        match source {
            Some(source) => Self::compile(source, place.display().to_string(), Map::new()),
            None => Self::compile(CHATML.to_owned(), BUILT_IN.to_owned(), Map::new()),
        }
    }

    /// Sets a variable that templates may read.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: Value) -> Self {
        self.variables.insert(name.to_owned(), value);
        self
    }

    fn find(model_dir: &Path) -> Result<Self> {
        let config = read_json(&model_dir.join("tokenizer_config.json"))?;
        let mut variables = Map::new();
        for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            let token = config.as_ref().and_then(|config| config.get(name));
            let text =
                token.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
            variables.insert(name.to_owned(), text.map_or(Value::Null, Value::from));
        }
        let processor = model_dir.join("processor_config.json");
        if let Some(source) = read_json(&processor)?
            .as_ref()
            .and_then(|found| found.get("chat_template"))
            .and_then(template_source)
        {
            return Self::compile(source, processor.display().to_string(), variables);
        }
        let json = model_dir.join("chat_template.json");
        if let Some(found) = read_json(&json)? {
            let place = json.display().to_string();
            let source = found.get("chat_template").and_then(template_source);
            let source = source
                .ok_or_else(|| Error::input("holds no text under `chat_template`").at(&place))?;
            return Self::compile(source, place, variables);
        }
        let jinja = model_dir.join("chat_template.jinja");
        if jinja.is_file() {
            return Self::compile(
                files::read_text(&jinja)?,
                jinja.display().to_string(),
                variables,
            );
        }
        match config
            .as_ref()
            .and_then(|config| config.get("chat_template"))
            .and_then(template_source)
        {
            Some(source) => Self::compile(
                source,
                model_dir
                    .join("tokenizer_config.json")
                    .display()
                    .to_string(),
                variables,
            ),
            None => {
                let source = match family(model_dir)?.as_deref() {
                    Some("qwen2_audio") => QWEN2_AUDIO_TEMPLATE,
                    Some("qwen3_asr") => QWEN3_ASR,
                    _ => CHATML,
                };
                Self::compile(source.to_owned(), BUILT_IN.to_owned(), variables)
            }
        }
    }

    fn compile(source: String, place: String, variables: Map<String, Value>) -> Result<Self> {
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(Error::bug_from)?;
        let mut environment = Environment::new();
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<String, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        let source = without_generation_tags(&source)?;
        environment
            .add_template_owned("chat", source)
            .map_err(|error| {
                Error::input(format!("not a template we can read: {error}"))
                    .caused_by(error)
                    .at(&place)
            })?;
        Ok(Self {
            environment,
            place,
            variables,
        })
    }

    /// Where the template comes from, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Renders a conversation; with `generation_prompt` it ends where the model goes on.
    ///
    /// Every text is replaced by a numbered sentinel before rendering and put back after, so that
    /// whatever the data says it cannot pass for the template's words. Differs: a template that
    /// trims, cuts or rewrites texts does so in Hugging Face's rendering and not here.
    ///
    /// # Errors
    /// A template that fails, or that does not say every text once and in order.
    pub fn render<'a>(
        &self,
        messages: &'a [Message],
        generation_prompt: bool,
    ) -> Result<Vec<Piece<'a>>> {
        let mut texts = Vec::new();
        let turns: Vec<Value> = messages
            .iter()
            .enumerate()
            .map(|(i, message)| turn(i, message, &mut texts))
            .collect();
        let mut context = self.variables.clone();
        context.insert("messages".to_owned(), turns.into());
        context.insert("add_generation_prompt".to_owned(), generation_prompt.into());
        // Hugging Face passes these as none, and templates ask whether they are.
        context.insert("tools".to_owned(), Value::Null);
        context.insert("documents".to_owned(), Value::Null);
        let fails = |error: minijinja::Error| {
            Error::input(format!("the template fails on this conversation: {error}"))
                .caused_by(error)
                .at(&self.place)
        };
        let rendered = self
            .environment
            .get_template("chat")
            .and_then(|template| template.render(Serde(&context)))
            .map_err(fails)?;

        let mut pieces = Vec::with_capacity(2 * texts.len() + 1);
        let mut num_found = 0;
        for (i, part) in rendered.split(SENTINEL).enumerate() {
            if i % 2 == 0 {
                if !part.is_empty() {
                    pieces.push(Piece::Template(part.to_owned()));
                }
                continue;
            }
            let number: usize = part
                .parse()
                .map_err(|_| self.unrecoverable("changes the texts of messages"))?;
            if number != num_found {
                return Err(self.unrecoverable("repeats texts of messages or changes their order"));
            }
            let &(message, text) = texts
                .get(num_found)
                .ok_or_else(|| self.unrecoverable("repeats texts of messages"))?;
            pieces.push(Piece::Data { message, text });
            num_found += 1;
        }
        if num_found == texts.len() {
            Ok(pieces)
        } else {
            Err(self.unrecoverable("leaves out texts of messages"))
        }
    }

    fn unrecoverable(&self, what: &str) -> Error {
        Error::input(format!("the template {what}, so targets cannot be told from prompts"))
            .at(&self.place)
            .hint("mend the template in that file: it says each message's content once, unchanged and in order")
    }
}

/// A message as templates expect it, its texts replaced by sentinels and noted in `texts`.
fn turn<'a>(position: usize, message: &'a Message, texts: &mut Vec<(usize, &'a str)>) -> Value {
    let mut sentinel = |text: &'a str| {
        texts.push((position, text));
        format!("{SENTINEL}{}{SENTINEL}", texts.len() - 1)
    };
    let content = match message.num_audio_marks() {
        0 => Value::from(sentinel(&message.content)),
        _ => {
            let mut parts = Vec::new();
            for (i, text) in message.content.split(AUDIO_MARK).enumerate() {
                if i > 0 {
                    parts.push(json!({"type": "audio", "audio": "clip"}));
                }
                if !text.is_empty() {
                    parts.push(json!({"type": "text", "text": sentinel(text)}));
                }
            }
            Value::Array(parts)
        }
    };
    json!({"role": message.role.as_str(), "content": content})
}

/// The text of a `chat_template`: itself, or of a list of named ones the one called `default`, else
/// the first.
fn template_source(value: &Value) -> Option<String> {
    match value {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => {
            let default = named
                .iter()
                .find(|entry| entry.get("name").is_some_and(|name| name == "default"));
            default
                .or(named.first())?
                .get("template")?
                .as_str()
                .map(str::to_owned)
        }
        _ => None,
    }
}

/// Turns Hugging Face's `{% generation %}` tags, which only mark the assistant's words, into
/// comments.
fn without_generation_tags(source: &str) -> Result<String> {
    let tags =
        Regex::new(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}").map_err(Error::bug_from)?;
    Ok(tags.replace_all(source, "{#$1 $2#}").into_owned())
}

/// A JSON file of a checkpoint; `None` where it is missing.
pub fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    json::parse(&text)
        .map(Some)
        .map_err(|error| error.at_path(path))
}

/// The last message's text is what a model would say now; a conversation without it is a prompt.
pub fn without_last_answer(messages: &[Message]) -> &[Message] {
    match messages.split_last() {
        Some((last, before)) if last.role == Role::Assistant => before,
        _ => messages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(source: &str) -> Result<ChatTemplate> {
        ChatTemplate::compile(source.to_owned(), "t.jinja".to_owned(), Map::new())
    }

    fn conversation() -> Vec<Message> {
        vec![
            Message::new(Role::User, "a<audio>b<audio>"),
            Message::new(Role::Assistant, "c"),
        ]
    }

    /// What the pieces say, put together again.
    fn said(pieces: &[Piece<'_>]) -> String {
        pieces
            .iter()
            .map(|piece| match piece {
                Piece::Template(text) => text.as_str(),
                Piece::Data { text, .. } => text,
            })
            .collect()
    }

    #[test]
    fn the_built_in_template_is_chatml() {
        let template = ChatTemplate::load(tempfile::tempdir().unwrap().path()).unwrap();
        let audio = "<|audio_bos|><|AUDIO|><|audio_eos|>";
        let system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
        let turns = format!(
            "<|im_start|>user\na{audio}b{audio}<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n"
        );
        let messages = conversation();
        assert_eq!(
            said(&template.render(&messages, false).unwrap()),
            format!("{system}{turns}")
        );
        let own = [vec![Message::new(Role::System, "Hear!")], messages].concat();
        let expected =
            format!("<|im_start|>system\nHear!<|im_end|>\n{turns}<|im_start|>assistant\n");
        assert_eq!(said(&template.render(&own, true).unwrap()), expected);
    }

    #[test]
    fn templates_as_checkpoints_write_them_are_understood() {
        // Namespaces, python's string methods, whitespace control, block trimming and generation
        // tags all occur in the wild.
        let source = "{%- set n = namespace(clips=0) -%}\n{% for m in messages %}\n    {% if m['content'] is string %}\n{{ '[' + m['role'].upper() + ']' }}\
            {% generation %}{{ m['content'].strip() }}{% endgeneration %}<|im_end|>\n{% else %}\n\
            {% for part in m.content %}{% if 'audio' in part %}{% set n.clips = n.clips + 1 %}(clip {{ n.clips }}){% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}\n\
            {% endif %}\n{% endfor %}\n{% if tools is not none or documents is not none %}tools{% endif %}";
        let messages = conversation();
        let template = compiled(source).unwrap();
        assert_eq!(
            said(&template.render(&messages, false).unwrap()),
            "a(clip 1)b(clip 2)[ASSISTANT]c<|im_end|>\n"
        );
    }

    #[test]
    fn a_template_that_hides_the_texts_is_refused() {
        let messages = conversation();
        for (source, what) in [
            (
                "{{ messages[1].content }}",
                "repeats texts of messages or changes their order",
            ),
            ("{{ messages[0].content[0].text }}", "leaves out texts"),
            ("{{ messages[1].content[1:] }}", "changes the texts"),
            ("{{ raise_exception('one turn only') }}", "one turn only"),
        ] {
            let error = compiled(source)
                .unwrap()
                .render(&messages, false)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("t.jinja: ") && error.contains(what),
                "{error}"
            );
        }
        assert!(
            compiled("{% for %}")
                .err()
                .unwrap()
                .to_string()
                .starts_with("t.jinja: not a template")
        );
    }

    #[test]
    fn the_template_is_found_where_checkpoints_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let says = || {
            said(
                &ChatTemplate::load(dir.path())
                    .unwrap()
                    .render(&[Message::new(Role::User, "x")], false)
                    .unwrap(),
            )
        };
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "tokenizer_config.json",
            r#"{"eos_token": {"content": "END"}, "chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "1{{ messages[0].content }}{{ eos_token }}"}]}"#,
        );
        assert_eq!(says(), "1xEND");
        write("chat_template.jinja", "2{{ messages[0].content }}");
        assert_eq!(says(), "2x");
        write(
            "chat_template.json",
            r#"{"chat_template": "3{{ messages[0].content }}"}"#,
        );
        assert_eq!(says(), "3x");
        write(
            "processor_config.json",
            r#"{"chat_template": "4{{ messages[0].content }}"}"#,
        );
        assert_eq!(says(), "4x");
    }
}
