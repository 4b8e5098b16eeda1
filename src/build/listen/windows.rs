//! Windows of recordings: stretches of whole sentences.

use crate::build::speak::Spoken;

/// A part of a recording in one prompt of a recogniser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    pub(crate) start_s: f64,
    pub(crate) end_s: f64,
    /// Sentences of the window, from the first of the document.
    pub(crate) first: usize,
    pub(crate) end: usize,
}

/// Windows of whole sentences, as long as they stay within `longest_s`.
fn windows(times: &[(f64, f64)], longest_s: f64) -> Vec<Window> {
    let mut found: Vec<Window> = Vec::new();
    for (i, (start_s, end_s)) in times.iter().enumerate() {
        match found.last_mut() {
            Some(last) if end_s - last.start_s <= longest_s => {
                (last.end_s, last.end) = (*end_s, i + 1);
            }
            _ => found.push(Window {
                start_s: *start_s,
                end_s: *end_s,
                first: i,
                end: i + 1,
            }),
        }
    }
    found
}

/// Windows of whole sentences of a recording.
pub(super) fn windows_of(spoken: &Spoken, longest_s: f64) -> Vec<Window> {
    let times: Vec<(f64, f64)> = spoken
        .sentences
        .iter()
        .map(|sentence| (sentence.start_s, sentence.end_s))
        .collect();
    windows(&times, longest_s)
}

/// The first window of whole sentences that is within `longest_s`.
pub(super) fn first_within(spoken: &Spoken, longest_s: f64) -> Option<Window> {
    windows_of(spoken, longest_s)
        .into_iter()
        .find(|window| window.end_s - window.start_s <= longest_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_whole_sentences() {
        let times = [
            (0.0, 4.0),
            (4.5, 9.0),
            (9.5, 30.0),
            (30.5, 31.0),
            (31.5, 33.0),
        ];
        let spans: Vec<(usize, usize)> = windows(&times, 10.0)
            .iter()
            .map(|window| (window.first, window.end))
            .collect();
        assert_eq!(spans, [(0, 2), (2, 3), (3, 5)]);
        assert!(windows(&[], 10.0).is_empty());
    }
}
