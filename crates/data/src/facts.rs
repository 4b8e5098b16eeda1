//! Rows as a description counts them.

use crate::Role;
use crate::Row;
use crate::describe::Facts;
use crate::describe::TokenCounter;
use crate::glance::Glance;
use maqam_base::error::Result;

/// Facts of a line that was glanced at.
///
/// # Errors
/// A text that the tokenizer fails on.
pub fn facts_of_glance<'a>(
    glance: &'a Glance<'_>,
    counter: Option<&TokenCounter>,
) -> Result<Facts<'a>> {
    let texts = Texts {
        own: glance.target.as_deref(),
        text: glance.text.as_deref(),
        summary: glance.summary.as_deref(),
        label: glance.label.as_deref(),
    };
    let (target, is_transcript) = texts.target(glance.task.as_deref());
    Ok(Facts {
        seconds: glance.duration,
        num_clips: usize::from(glance.audio.is_some()),
        split: glance.split.as_deref(),
        task: glance.task.as_deref(),
        language: glance.language.as_deref(),
        label: glance.label.as_deref(),
        speaker: glance.speaker.as_deref(),
        group: glance.group.as_deref(),
        target,
        is_transcript,
        target_tokens: tokens_of(target, counter)?,
        normalisation: glance.normalisation.as_deref(),
    })
}

/// Facts of a row. `normalisation` is what it states under [`crate::arabic::FIELD`].
///
/// # Errors
/// A text that the tokenizer fails on.
pub fn facts_of_row<'a>(
    row: &'a Row,
    normalisation: Option<&'a str>,
    counter: Option<&TokenCounter>,
) -> Result<Facts<'a>> {
    let mut answers = row
        .messages
        .iter()
        .rev()
        .filter(|message| message.role == Role::Assistant);
    let texts = Texts {
        own: row
            .target
            .as_deref()
            .or(answers.next().map(|message| message.content.as_str())),
        text: row.text.as_deref(),
        summary: row.summary.as_deref(),
        label: row.label.as_deref(),
    };
    let (target, is_transcript) = texts.target(row.task.as_deref());
    Ok(Facts {
        seconds: seconds_of(row),
        num_clips: row.clips.len(),
        split: row.split.as_deref(),
        task: row.task.as_deref(),
        language: row.language.as_deref(),
        label: row.label.as_deref(),
        speaker: row.speaker.as_deref(),
        group: row.group.as_deref(),
        target,
        is_transcript,
        target_tokens: tokens_of(target, counter)?,
        normalisation,
    })
}

/// Texts of a row, one of which is learnt.
struct Texts<'a> {
    own: Option<&'a str>,
    text: Option<&'a str>,
    summary: Option<&'a str>,
    label: Option<&'a str>,
}

impl<'a> Texts<'a> {
    /// The text that is learnt, and whether it is a transcript.
    fn target(&self, task: Option<&str>) -> (Option<&'a str>, bool) {
        let transcript = self.text.map(|text| (text, true));
        let other = self.summary.or(self.label).map(|text| (text, false));
        let found = match (self.own, task) {
            (Some(own), _) => Some((own, false)),
            (None, Some("asr")) => transcript,
            (None, Some(_)) => other.or(transcript),
            (None, None) => transcript.or(other),
        };
        (
            found.map(|(text, _)| text),
            found.is_some_and(|(_, is_transcript)| is_transcript),
        )
    }
}

/// Length of a row's audio in seconds, as far as the row says it.
pub fn seconds_of(row: &Row) -> Option<f64> {
    let of_clips = row.clips.iter().map(|clip| {
        let span = clip.span;
        match (span.start_s, span.end_s) {
            (start_s, Some(end_s)) => Some(end_s - start_s.unwrap_or(0.0)),
            _ => clip.stated_s,
        }
    });
    of_clips
        .sum::<Option<f64>>()
        .filter(|_| !row.clips.is_empty())
        .or(row.duration)
}

fn tokens_of(target: Option<&str>, counter: Option<&TokenCounter>) -> Result<Option<usize>> {
    match (target, counter) {
        (Some(target), Some(counter)) => counter.count(target).map(Some),
        _ => Ok(None),
    }
}
