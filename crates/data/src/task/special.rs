//! Special tokens of a tokenizer, by their names.

use std::collections::HashMap;

use regex::Regex;
use tokenizers::Tokenizer;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// A stretch of a text that a template wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Plain text.
    Plain(&'a str),
    /// Id of a special token.
    Special(u32),
}

/// Names of special tokens, and how to find them in a text.
pub(crate) struct SpecialNames {
    ids: HashMap<String, u32>,
    pattern: Regex,
}

impl SpecialNames {
    /// Takes the special tokens of a tokenizer.
    ///
    /// # Errors
    /// None that input can cause.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let added = tokenizer.get_added_tokens_decoder();
        let ids: HashMap<String, u32> = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (token.content.clone(), *id))
            .collect();
        let mut names: Vec<&String> = ids.keys().collect();
        // Alternatives are tried in order, so the longest stands first.
        names.sort_by_key(|name| std::cmp::Reverse((name.len(), name.as_str())));
        let alternatives: Vec<String> = names.iter().map(|name| regex::escape(name)).collect();
        let pattern = Regex::new(&alternatives.join("|")).map_err(Error::bug_from)?;
        Ok(Self { ids, pattern })
    }

    /// Splits a text at its special tokens.
    pub(crate) fn split<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let mut plain_from = 0;
        if !self.ids.is_empty() {
            for found in self.pattern.find_iter(text) {
                if found.start() > plain_from {
                    parts.push(Part::Plain(&text[plain_from..found.start()]));
                }
                plain_from = found.end();
                parts.push(Part::Special(self.ids[found.as_str()]));
            }
        }
        if plain_from < text.len() {
            parts.push(Part::Plain(&text[plain_from..]));
        }
        parts
    }
}
