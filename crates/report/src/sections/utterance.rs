//! An utterance to look at: what was asked for, what was said, where they differ, and its sound.

use crate::page::escape;
use crate::sections::alignment;

/// One utterance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Utterance {
    /// Its id.
    pub id: String,
    /// What is said of it in a few words: errors, speaker, dialect.
    pub notes: Vec<String>,
    /// What should have been said.
    pub reference: String,
    /// What was said.
    pub answer: String,
    /// Whether both are shown word by word, as error rates compare them, and not one below the
    /// other.
    pub is_aligned: bool,
    /// Address of its audio: a file, or the sound itself as `data:`.
    pub audio: Option<String>,
}

impl Utterance {
    /// The utterance as HTML.
    pub fn html(&self) -> String {
        let notes: String = self
            .notes
            .iter()
            .map(|note| format!("<span>{}</span>", escape::xml(note)))
            .collect();
        let audio = self.audio.as_ref().map_or(String::new(), |audio| {
            format!(
                "<audio controls=\"controls\" preload=\"none\" src=\"{}\"></audio>",
                escape::xml(audio)
            )
        });
        let mut html = format!(
            "<article class=\"utterance\">\n<header><code>{}</code>{notes}{audio}</header>\n",
            escape::xml(&self.id)
        );
        let aligned = if self.is_aligned {
            alignment::html(&self.reference, &self.answer)
        } else {
            None
        };
        html += &aligned.unwrap_or_else(|| self.beside());
        html + "</article>\n"
    }

    /// Reference and answer, one below the other.
    fn beside(&self) -> String {
        let mut html = "<dl>\n".to_owned();
        for (name, text) in [("reference", &self.reference), ("answer", &self.answer)] {
            html += &match text.as_str() {
                "" => format!("<dt>{name}</dt><dd class=\"nothing\">nothing</dd>\n"),
                text => {
                    let text = escape::xml(text);
                    format!("<dt>{name}</dt><dd dir=\"auto\">{text}</dd>\n")
                }
            };
        }
        html + "</dl>\n"
    }
}
