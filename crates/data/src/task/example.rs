//! From a manifest row to a conversation: what the model is asked and what it should say.

use std::sync::Arc;

use crate::AUDIO_MARK;
use crate::Clip;
use crate::Message;
use crate::Role;
use crate::Row;
use crate::task::AnswerFormat;
use crate::task::FALLBACK_LANGUAGE;
use crate::task::Label;
use crate::task::Task;
use crate::task::Wording;
use crate::task::file::LABELS_SLOT;
use crate::task::in_language;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;
use maqam_metrics::TaskKind;

/// What the model is asked and what it should say.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The row's id.
    pub id: String,
    /// The task's name.
    pub task: String,
    /// What the task asks for; none where the row brings its conversation and names no task.
    pub kind: Option<TaskKind>,
    /// The language that the row says.
    pub row_language: Option<String>,
    /// The row's language; where it says none, that of the instruction (English for a row's own
    /// conversation).
    pub language: String,
    /// The language, as a tag, that a generated answer begins with; only for Qwen3-ASR.
    pub forced_language: Option<String>,
    /// The conversation; its last message is the target, unless the row has none.
    pub messages: Vec<Message>,
    /// The clips, one for each audio mark in the user's messages.
    pub clips: Vec<Clip>,
    /// The inventory's name of the row's label.
    pub label: Option<String>,
    /// What a metric compares answers with: the transcript, the summary, the label's name.
    pub reference: Option<String>,
    /// Further answers that are as good.
    pub references: Vec<Box<str>>,
    /// Which of the task's instructions was drawn, as `task/set/language/place` with places from 1;
    /// none where the row brings its own.
    pub wording: Option<String>,
    /// Who speaks.
    pub speaker: Option<String>,
    /// What must not be split apart.
    pub group: Option<String>,
    /// Length of the audio in seconds, as the data says it.
    pub duration: Option<f64>,
    /// The row's other fields, as [`Row::extra`] keeps them.
    pub extra: Option<Arc<str>>,
}

impl Example {
    /// The language of the instruction; that of the row where it brings its own.
    pub fn asked_in(&self) -> &str {
        // A wording is named task/set/language/place.
        self.wording
            .as_deref()
            .and_then(|wording| wording.rsplit('/').nth(1))
            .unwrap_or(&self.language)
    }
}

impl Task {
    /// The example that the task makes of a row.
    ///
    /// A row's `messages` are used as written. Otherwise the row's own `instruction` is asked, or
    /// one that `draw` picks from the task's `wording` in the row's language (else English) or in
    /// that of [`Task::asked_in`]; the row's own `target` is answered, or its `text`, `summary` or
    /// `label` by the task's kind. Audio comes before the instruction; a row without audio gives
    /// its `text` after it. A row without a target makes an example whose conversation ends with
    /// the question.
    ///
    /// # Errors
    /// A row that has nothing to ask about, or a label outside the inventory; the row's line is in
    /// front, the file is the caller's.
    pub fn example(&self, row: &Row, wording: Wording, draw: Key) -> Result<Example> {
        if !row.messages.is_empty() {
            let label = match (self.kind, &row.label, last_answer(&row.messages)) {
                (TaskKind::Classify, Some(label), _) => Some(self.row_label(label)?),
                (TaskKind::Classify, None, Some(answer)) => self.label_of(answer),
                _ => None,
            };
            let label = label.map(|label| label.name.clone());
            let reference = label
                .clone()
                .or_else(|| last_answer(&row.messages).map(str::to_owned));
            return Ok(Example {
                kind: Some(self.kind),
                ..example(
                    row,
                    &self.name,
                    row.messages.clone(),
                    label,
                    reference,
                    FALLBACK_LANGUAGE,
                )
            });
        }
        let by_language = self.instructions.of(wording);
        let asked_in = self
            .asked_in
            .of(by_language, row.language.as_deref(), draw)
            .map_err(|e| e.at(format!("task `{}`", self.name)))?;
        let (language, wordings) = in_language(by_language, asked_in).ok_or_else(|| {
            Error::bug(format!(
                "task `{}` has no {wording:?} instruction",
                self.name
            ))
        })?;
        let drawn = draw.below(0, wordings.len());
        let instruction = match &row.instruction {
            Some(own) => own.to_string(),
            None => self.fill(&wordings[drawn], language),
        };
        let mut messages = Vec::with_capacity(3);
        if let Some((_, system)) = in_language(&self.system, asked_in) {
            messages.push(Message::new(Role::System, system));
        }
        messages.push(Message::new(Role::User, self.question(row, &instruction)?));
        let (target, label) = self.target(row, language)?;
        let reference = match (label, &target) {
            (Some(label), _) => Some(label.name.clone()),
            (None, Some(Target { raw, .. })) => Some(raw.clone()),
            (None, None) => None,
        };
        messages.extend(target.map(|target| Message::new(Role::Assistant, target.written)));
        let wording = row
            .instruction
            .is_none()
            .then(|| format!("{}/{}/{language}/{}", self.name, wording.name(), drawn + 1));
        Ok(Example {
            kind: Some(self.kind),
            wording,
            ..example(
                row,
                &self.name,
                messages,
                label.map(|label| label.name.clone()),
                reference,
                language,
            )
        })
    }

    /// The inventory as answers to an instruction of `wording` in the row's `language` are written,
    /// in its order.
    pub fn written_labels(&self, wording: Wording, language: &str) -> Vec<String> {
        let asked_in = in_language(self.instructions.of(wording), Some(language))
            .map_or(FALLBACK_LANGUAGE, |(asked_in, _)| asked_in);
        self.labels
            .iter()
            .map(|label| self.write(self.spoken(label, asked_in)))
            .collect()
    }

    /// The user's message.
    fn question(&self, row: &Row, instruction: &str) -> Result<String> {
        let num_clips = row.clips.len();
        if num_clips > 0 {
            return marked(row, instruction);
        }
        if self.kind == TaskKind::Transcribe {
            return Err(nothing_to_ask(row, &self.name, "no `audio`"));
        }
        let question = match (&row.text, &row.instruction) {
            (Some(text), _) => format!("{instruction}\n{text}"),
            (None, Some(_)) => instruction.to_owned(),
            (None, None) => {
                return Err(nothing_to_ask(
                    row,
                    &self.name,
                    "neither `audio` nor `text`",
                ));
            }
        };
        match question.contains(AUDIO_MARK) {
            true => Err(Error::input(format!("holds `{AUDIO_MARK}` but no audio"))
                .hint("write the mark another way, or give the row its clip")),
            false => Ok(question),
        }
    }

    /// What is answered, and the label it stands for; none where the row does not know.
    fn target(&self, row: &Row, language: &str) -> Result<(Option<Target>, Option<&Label>)> {
        let label = match (self.kind, &row.label) {
            (TaskKind::Classify, Some(label)) => Some(self.row_label(label)?),
            _ => None,
        };
        if let Some(own) = &row.target {
            let label = label.or_else(|| self.label_of(own));
            return Ok((
                Some(Target {
                    raw: own.to_string(),
                    written: own.to_string(),
                }),
                label,
            ));
        }
        let raw = match self.kind.is_text() {
            true => row.answer(self.kind),
            false => label.map(|label| self.spoken(label, language)),
        };
        Ok((
            raw.map(|raw| Target {
                raw: raw.to_owned(),
                written: self.write(raw),
            }),
            label,
        ))
    }

    /// An answer in the task's form.
    pub fn write(&self, answer: &str) -> String {
        match self.answer.format {
            AnswerFormat::Text | AnswerFormat::Label => answer.to_owned(),
            AnswerFormat::Json => {
                let quoted = |text: &str| serde_json::Value::from(text).to_string();
                format!("{{{}: {}}}", quoted(&self.name), quoted(answer))
            }
        }
    }

    /// How a label is written: its word in the language of the instruction, its name where there is
    /// none and in JSON.
    pub fn spoken<'a>(&self, label: &'a Label, language: &str) -> &'a str {
        match self.answer.format {
            AnswerFormat::Json => &label.name,
            AnswerFormat::Text | AnswerFormat::Label => {
                label.words.get(language).unwrap_or(&label.name)
            }
        }
    }

    /// An instruction with its slots filled.
    pub fn fill(&self, wording: &str, language: &str) -> String {
        if !wording.contains(LABELS_SLOT) {
            return wording.to_owned();
        }
        let separator = if language == "ar" { "، " } else { ", " };
        let words: Vec<&str> = self
            .labels
            .iter()
            .map(|label| self.spoken(label, language))
            .collect();
        wording.replace(LABELS_SLOT, &words.join(separator))
    }
}

/// A target as metrics compare it and as the model writes it.
struct Target {
    raw: String,
    written: String,
}

/// The example of a row that brings its own conversation, or its own `instruction` (and `target`),
/// and names no task.
///
/// # Errors
/// A row that has neither.
pub fn example_without_task(row: &Row) -> Result<Example> {
    let task = row.task.as_deref().unwrap_or("chat");
    let messages = match (row.messages.is_empty(), &row.instruction) {
        (false, _) => row.messages.clone(),
        (true, Some(instruction)) => {
            let question = Message::new(Role::User, marked(row, instruction)?);
            std::iter::once(question)
                .chain(
                    row.target
                        .as_deref()
                        .map(|target| Message::new(Role::Assistant, target)),
                )
                .collect()
        }
        (true, None) => {
            let found = Error::input("no `task`, no `messages` and no `instruction`");
            return Err(found.hint("say in the row or beside the manifest which task it is for, or give the row its conversation"));
        }
    };
    let reference = last_answer(&messages).map(str::to_owned);
    Ok(example(
        row,
        task,
        messages,
        row.label.as_deref().map(str::to_owned),
        reference,
        FALLBACK_LANGUAGE,
    ))
}

fn example(
    row: &Row,
    task: &str,
    messages: Vec<Message>,
    label: Option<String>,
    reference: Option<String>,
    language: &str,
) -> Example {
    Example {
        id: row.id.to_string(),
        task: task.to_owned(),
        kind: None,
        row_language: row.language.as_deref().map(str::to_owned),
        language: row.language.as_deref().unwrap_or(language).to_owned(),
        forced_language: None,
        messages,
        clips: row.clips.clone(),
        label,
        reference,
        references: row.references.clone(),
        wording: None,
        speaker: row.speaker.as_deref().map(str::to_owned),
        group: row.group.as_deref().map(str::to_owned),
        duration: row.duration,
        extra: row.extra.clone(),
    }
}

/// The instruction with one mark per clip: its own marks, or as many in front of it.
fn marked(row: &Row, instruction: &str) -> Result<String> {
    let num_marks = instruction.matches(AUDIO_MARK).count();
    let num_clips = row.clips.len();
    if num_marks == 0 {
        Ok(AUDIO_MARK.repeat(num_clips) + instruction)
    } else if num_marks == num_clips {
        Ok(instruction.to_owned())
    } else {
        let found = Error::input(format!(
            "`instruction` holds {num_marks} `{AUDIO_MARK}` marks, the row {num_clips} clips"
        ));
        Err(found.hint("write one mark where each clip is heard, or none to have the audio first"))
    }
}

fn last_answer(messages: &[Message]) -> Option<&str> {
    messages
        .last()
        .filter(|message| message.role == Role::Assistant)
        .map(|message| message.content.as_str())
}

fn nothing_to_ask(row: &Row, task: &str, found: &str) -> Error {
    let extra: Vec<String> = row
        .extra_fields()
        .keys()
        .map(|key| format!("`{key}`"))
        .collect();
    let error = Error::input(format!("{found} for task `{task}`"));
    match extra.is_empty() {
        true => error,
        false => error.hint(format!(
            "fields of other names are kept but not read: {}",
            extra.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests;
