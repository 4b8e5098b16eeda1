//! A maqam model as the recogniser: transcripts, and how likely it holds a text for a recording.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde_json::Value;
use serde_json::json;

use crate::audio::Span;
use crate::build::listen::transcriber::Compares;
use crate::build::listen::transcriber::Transcriber;
use crate::build::listen::windows::Window;
use crate::build::listen::windows::first_within;
use crate::build::listen::windows::windows_of;
use crate::build::speak::Spoken;
use crate::data::AudioSource;
use crate::data::Clip;
use crate::data::Message;
use crate::data::Role;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::eval::answers::Asker;
use crate::eval::question::Question;
use crate::eval::question::Wanted;
use crate::featurise::Loader;
use crate::models::AudioLlm;
use crate::models::generate::Sampling;
use crate::records::answers::Found;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Task;
use crate::task::Tasks;
use crate::task::Wording;

/// An open model.
pub struct Recogniser {
    /// The model.
    pub model: AudioLlm,
    /// Reader of recordings for the model.
    pub loader: Loader,
    /// Hash of all that its answers depend on.
    pub identity: Value,
    /// Hash of its files, wherever it computes.
    pub files: Value,
    /// Name of the model.
    pub name: String,
}

/// A recogniser for one recording at a time: its memory does not grow with the number of workers.
pub(super) struct Model<'a> {
    recogniser: &'a Recogniser,
    task: Task,
    window_s: f64,
    one: Mutex<()>,
}

impl<'a> Model<'a> {
    /// Takes an open model.
    ///
    /// # Errors
    /// No model.
    pub(super) fn new(recogniser: Option<&'a Recogniser>, window_s: f64) -> Result<Self> {
        let recogniser = recogniser.ok_or_else(|| Error::bug("no recogniser was opened"))?;
        Ok(Self {
            recogniser,
            task: Tasks::load(None)?.get("asr")?.clone(),
            window_s,
            one: Mutex::new(()),
        })
    }

    /// Transcript of the windows of a FLAC file. The instruction names the language.
    ///
    /// # Errors
    /// A window that the model cannot take.
    fn transcript(&self, file: &Arc<[u8]>, windows: &[Window], language: &str) -> Result<String> {
        let examples = windows
            .iter()
            .map(|window| self.example(file, *window, language))
            .collect::<Result<Vec<_>>>()?;
        let asked: Vec<(&Example, usize)> = examples
            .iter()
            .map(|example| (example, self.task.answer.max_new_tokens))
            .collect();
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = self.asker().answers(&asked, &mut |_| Ok(()))?;
        let texts: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
        Ok(texts.join(" "))
    }

    fn asker(&self) -> Asker<'_> {
        static GREEDY: std::sync::LazyLock<Sampling> = std::sync::LazyLock::new(Sampling::default);
        Asker {
            model: &self.recogniser.model,
            loader: &self.recogniser.loader,
            sampling: &GREEDY,
            seed: 0,
        }
    }

    /// The prompt for the transcript of a window.
    fn example(&self, file: &Arc<[u8]>, window: Window, language: &str) -> Result<Example> {
        let clip = Clip {
            source: AudioSource::Embedded {
                bytes: file.clone(),
                name: "a spoken document".into(),
            },
            span: Span {
                start_s: Some(window.start_s),
                end_s: Some(window.end_s),
                channel: None,
            },
            stated_s: None,
        };
        let row = Row {
            id: format!("{:.3}", window.start_s).into(),
            line: 1,
            shard: None,
            clips: vec![clip],
            task: None,
            language: Some(language.into()),
            text: None,
            summary: None,
            label: None,
            references: Vec::new(),
            speaker: None,
            group: None,
            duration: None,
            split: None,
            instruction: None,
            target: None,
            messages: Vec::new(),
            extra: None,
        };
        self.task
            .example(&row, Wording::Test, Key::new(0, "build listen"))
    }
}

impl Transcriber for Model<'_> {
    fn identity(&self) -> Value {
        self.depends_on()
    }

    fn described(&self) -> Value {
        json!(self.recogniser.name)
    }

    fn transcribe(
        &self,
        file: &Arc<[u8]>,
        spoken: &Spoken,
        language: &str,
    ) -> Result<Option<String>> {
        self.transcript(file, &windows_of(spoken, self.window_s), language)
            .map(Some)
    }
}

impl Compares for Model<'_> {
    fn depends_on(&self) -> Value {
        json!(["maqam", self.recogniser.identity, self.window_s])
    }

    fn window(&self, spoken: &Spoken) -> Option<Window> {
        first_within(spoken, self.window_s)
    }

    fn likelihoods(
        &self,
        file: &Arc<[u8]>,
        window: Window,
        language: &str,
        texts: &[String],
    ) -> Result<Option<Vec<f64>>> {
        let example = self.example(file, window, language)?;
        let asked: Vec<Message> = example
            .messages
            .iter()
            .map(|message| Message {
                loss: false,
                ..message.clone()
            })
            .collect();
        let conversations = texts
            .iter()
            .map(|text| {
                let answer = Message::new(Role::Assistant, text.as_str());
                asked.iter().cloned().chain([answer]).collect()
            })
            .collect();
        let question = Question {
            example: &example,
            wanted: Wanted::Likelihoods(conversations),
        };
        let mut means = Vec::new();
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        self.asker().ask(&[&question], &mut |_, found| {
            if let Found::Likelihoods(found) = found {
                means = found.into_iter().map(|found| found.mean()).collect();
            }
            Ok(())
        })?;
        Ok(Some(means))
    }
}
