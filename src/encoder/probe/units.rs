//! Units of a head: the characters that it spells, or the classes that it names.

use std::collections::BTreeSet;

use crate::encoder::probe::recipe::HeadKind;

/// Units of a head: characters after blank and the bar between words, or classes in order.
pub struct Units {
    /// Names by id.
    pub names: Vec<String>,
}

/// Written between words in a vocabulary.
const BAR: &str = "|";
/// The blank of CTC.
const BLANK: &str = "<pad>";

impl Units {
    /// The units of training texts.
    pub fn of(kind: HeadKind, texts: &[String]) -> Self {
        let sorted: BTreeSet<String> = match kind {
            HeadKind::Classify => texts.iter().cloned().collect(),
            HeadKind::Ctc => texts
                .iter()
                .flat_map(|text| text.chars())
                .filter(|c| !c.is_whitespace())
                .map(String::from)
                .collect(),
        };
        let first: &[&str] = if kind == HeadKind::Ctc {
            &[BLANK, BAR]
        } else {
            &[]
        };
        let names = first
            .iter()
            .map(|name| (*name).to_owned())
            .chain(sorted)
            .collect();
        Self { names }
    }

    /// Ids of a text's characters, or of a class; those that are unknown are left out.
    pub fn ids(&self, kind: HeadKind, text: &str) -> Vec<u32> {
        match kind {
            HeadKind::Classify => self.id(text).into_iter().collect(),
            HeadKind::Ctc => {
                let words: Vec<&str> = text.split_whitespace().collect();
                words
                    .join(BAR)
                    .chars()
                    .filter_map(|c| self.id(c.encode_utf8(&mut [0; 4])))
                    .collect()
            }
        }
    }

    fn id(&self, name: &str) -> Option<u32> {
        let place = self.names.iter().position(|known| known == name);
        place.map(|i| i as u32)
    }

    /// The text that ids spell.
    pub fn text(&self, ids: &[u32]) -> String {
        let spelled: String = ids
            .iter()
            .map(|&id| self.names[id as usize].as_str())
            .collect();
        spelled
            .split(BAR)
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }
}
