//! What metrics compare: predictions with their references, as written and under a normaliser.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::Normaliser;

/// A prediction and the texts it is compared with, one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    first: Cow<'a, str>,
    others: Vec<Cow<'a, str>>,
    /// What was said.
    pub prediction: Cow<'a, str>,
}

impl<'a> Pair<'a> {
    /// A prediction with its one reference.
    pub fn new(reference: &'a str, prediction: &'a str) -> Self {
        Self {
            first: Cow::Borrowed(reference),
            others: Vec::new(),
            prediction: Cow::Borrowed(prediction),
        }
    }

    /// The same with another text that would be as good.
    #[must_use]
    pub fn or(mut self, reference: &'a str) -> Self {
        self.others.push(Cow::Borrowed(reference));
        self
    }

    /// The references in their order.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.first)
            .chain(&self.others)
            .map(|text| text.as_ref())
    }

    /// Number of references.
    pub fn num_references(&self) -> usize {
        1 + self.others.len()
    }

    /// What `compare` makes of each reference, and which of them has the lowest `rank`, the first
    /// of equals.
    pub(crate) fn lowest<'s, T>(
        &'s self,
        mut compare: impl FnMut(&'s str) -> T,
        rank: impl Fn(&T) -> f64,
    ) -> T {
        let mut best = compare(&self.first);
        for other in &self.others {
            let found = compare(other);
            if rank(&found) < rank(&best) {
                best = found;
            }
        }
        best
    }

    /// Both sides under a rule; `None` leaves what it is given.
    fn map(&self, rule: impl Fn(&str) -> String) -> Self {
        let apply = |text: &Cow<'a, str>| Cow::Owned(rule(text));
        Self {
            first: apply(&self.first),
            others: self.others.iter().map(apply).collect(),
            prediction: apply(&self.prediction),
        }
    }
}

/// The pairs of a corpus under one normaliser.
#[derive(Clone, Debug)]
pub struct Texts<'a> {
    written: Vec<Pair<'a>>,
    compared: Vec<Pair<'a>>,
    /// The rule they went through.
    pub normaliser: Normaliser,
}

impl<'a> Texts<'a> {
    /// Puts the pairs of a corpus, one an utterance, under a normaliser.
    pub fn new(pairs: Vec<Pair<'a>>, normaliser: Normaliser) -> Self {
        let compared = match normaliser {
            Normaliser::None => pairs.clone(),
            rule => pairs
                .par_iter()
                .map(|pair| pair.map(|text| rule.apply(text)))
                .collect(),
        };
        Self {
            written: pairs,
            compared,
            normaliser,
        }
    }

    /// The pairs as they are compared.
    pub fn pairs(&self) -> &[Pair<'a>] {
        &self.compared
    }

    /// The pairs as they were given.
    pub fn written(&self) -> &[Pair<'a>] {
        &self.written
    }

    /// The pairs as they are compared line by line: a normaliser that collapses white space leaves
    /// the line breaks.
    pub fn lines(&self) -> Cow<'_, [Pair<'a>]> {
        match self.normaliser {
            Normaliser::None => Cow::Borrowed(self.written.as_slice()),
            rule => {
                let by_line = |text: &str| {
                    text.split('\n')
                        .map(|line| rule.apply(line))
                        .collect::<Vec<_>>()
                        .join("\n")
                };
                Cow::Owned(
                    self.written
                        .par_iter()
                        .map(|pair| pair.map(by_line))
                        .collect(),
                )
            }
        }
    }

    /// The number of references in a signature, as sacreBLEU writes it: `var` where it is not the
    /// same for all.
    pub(crate) fn num_references(&self) -> String {
        let mut counts = self.written.iter().map(Pair::num_references);
        let first = counts.next().unwrap_or(1);
        if counts.all(|count| count == first) {
            first.to_string()
        } else {
            "var".to_owned()
        }
    }
}
