//! An alignment to look at: which words were said right, wrong, not at all or too much.

use unicode_width::UnicodeWidthChar;

use crate::Counts;
use crate::Pair;
use crate::edit::words;
use crate::levenshtein::MAX_KEPT_WORDS;
use crate::levenshtein::Step;
use crate::levenshtein::walk_back;
use crate::script;

/// A word of the reference, of the prediction, or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aligned<'a> {
    /// The word of both.
    Equal(&'a str),
    /// The word of the reference and the one in its place.
    Substituted(&'a str, &'a str),
    /// A word of the reference that the prediction lacks.
    Deleted(&'a str),
    /// A word that only the prediction has.
    Inserted(&'a str),
}

impl<'a> Aligned<'a> {
    /// The word of the reference.
    pub fn reference(self) -> Option<&'a str> {
        match self {
            Self::Equal(word) | Self::Substituted(word, _) | Self::Deleted(word) => Some(word),
            Self::Inserted(_) => None,
        }
    }

    /// The word of the prediction.
    pub fn prediction(self) -> Option<&'a str> {
        match self {
            Self::Equal(word) | Self::Substituted(_, word) | Self::Inserted(word) => Some(word),
            Self::Deleted(_) => None,
        }
    }

    /// The letter of its kind, as sclite prints it: `S`, `D`, `I`, and nothing for a word that is
    /// right.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Equal(_) => "",
            Self::Substituted(..) => "S",
            Self::Deleted(_) => "D",
            Self::Inserted(_) => "I",
        }
    }

    pub(crate) fn step(self) -> Step {
        match self {
            Self::Equal(_) => Step::Equal,
            Self::Substituted(..) => Step::Substituted,
            Self::Deleted(_) => Step::Deleted,
            Self::Inserted(_) => Step::Inserted,
        }
    }
}

/// The alignment that the word error rate counts, from the first word to the last.
pub fn align_words<'a>(reference: &'a str, prediction: &'a str) -> Vec<Aligned<'a>> {
    let reference = words(reference);
    let prediction = words(prediction);
    let mut i = reference.len();
    let mut j = prediction.len();
    let mut alignment = Vec::with_capacity(i.max(j));
    walk_back(&reference, &prediction, MAX_KEPT_WORDS, |step| {
        i -= usize::from(step != Step::Inserted);
        j -= usize::from(step != Step::Deleted);
        alignment.push(match step {
            Step::Equal => Aligned::Equal(reference[i]),
            Step::Substituted => Aligned::Substituted(reference[i], prediction[j]),
            Step::Deleted => Aligned::Deleted(reference[i]),
            Step::Inserted => Aligned::Inserted(prediction[j]),
        });
    });
    alignment.reverse();
    alignment
}

/// The alignment with the reference that the word error rate counts: the one with the lowest rate,
/// the first of equals.
pub fn align_pair<'p>(pair: &'p Pair) -> Vec<Aligned<'p>> {
    pair.lowest(
        |reference| align_words(reference, &pair.prediction),
        |alignment| counts(alignment).rate(),
    )
}

/// The errors of an alignment.
pub fn counts(alignment: &[Aligned]) -> Counts {
    let mut counts = Counts::default();
    alignment
        .iter()
        .for_each(|aligned| counts.count(aligned.step()));
    counts
}

/// What stands where the other side has a word and this one none.
const GAP: char = '*';
/// Spaces between two words.
const BETWEEN: &str = "  ";

/// The alignment in lines of text for a fixed-width font: reference, prediction and marks, words in
/// columns, `***` for a missing word. Where `max_width` columns are full, the labels aside, three
/// more lines begin after an empty one.
///
/// Text written from right to left stands in columns from right to left, in whatever direction the
/// surroundings run: each line is an isolate of that direction and each word an isolate of its own
/// (Unicode Standard Annex 9), so marks stay under their words. Where nothing is written from right
/// to left no invisible character is added.
pub fn render(alignment: &[Aligned], max_width: usize) -> String {
    let columns: Vec<[String; 3]> = alignment.iter().map(|aligned| column(*aligned)).collect();
    let widths: Vec<usize> = columns
        .iter()
        .map(|cells| cells.iter().map(|cell| width(cell)).max().unwrap_or(0))
        .collect();
    let direction = Direction::of(alignment);
    let mut blocks = Vec::new();
    let mut start = 0;
    while start < columns.len() {
        let mut used = 0;
        let fitting = widths[start..].iter().take_while(|&&column| {
            used += column + BETWEEN.len();
            used <= max_width + BETWEEN.len()
        });
        let end = start + fitting.count().max(1);
        blocks.push(block(&columns[start..end], &widths[start..end], direction));
        start = end;
    }
    blocks.join("\n")
}

/// The three cells of a word.
fn column(aligned: Aligned) -> [String; 3] {
    let reference = aligned.reference();
    let prediction = aligned.prediction();
    [
        shown(reference, prediction),
        shown(prediction, reference),
        aligned.mark().to_owned(),
    ]
}

/// A word in its cell, or the gap that stands across from the `other` word.
fn shown(word: Option<&str>, other: Option<&str>) -> String {
    let Some(word) = word else {
        return std::iter::repeat_n(GAP, other.map_or(0, width).max(1)).collect();
    };
    // A tab or line break inside a word would break the columns.
    word.replace(|c: char| c.is_whitespace() || c.is_control(), "␣")
}

/// Columns of a terminal, which gives each character its own: marks none, ideographs two.
fn width(text: &str) -> usize {
    text.chars().filter_map(UnicodeWidthChar::width).sum()
}

/// How a line's words follow each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From left to right, no word otherwise.
    Left,
    /// From left to right, with words that run the other way.
    Mixed,
    /// From right to left.
    Right,
}

impl Direction {
    fn of(alignment: &[Aligned]) -> Self {
        let words = || {
            alignment
                .iter()
                .flat_map(|aligned| [aligned.reference(), aligned.prediction()])
                .flatten()
        };
        let letters = || words().flat_map(str::chars).filter(|c| c.is_alphabetic());
        match (
            letters().filter(|&c| script::runs_right_to_left(c)).count(),
            letters().count(),
        ) {
            (0, _) => Self::Left,
            (right, all) if 2 * right >= all => Self::Right,
            _ => Self::Mixed,
        }
    }
}

fn block(columns: &[[String; 3]], widths: &[usize], direction: Direction) -> String {
    let mut text = String::new();
    for (row, label) in ["REF: ", "HYP: ", "     "].into_iter().enumerate() {
        let mut cells = Vec::with_capacity(columns.len());
        for (column, &widest) in columns.iter().zip(widths) {
            let cell = &column[row];
            let padding = " ".repeat(widest - width(cell));
            cells.push(match direction {
                Direction::Left => format!("{cell}{padding}"),
                Direction::Mixed | Direction::Right => {
                    format!("\u{2068}{cell}\u{2069}{padding}")
                }
            });
        }
        let cells = cells.join(BETWEEN);
        text += &match direction {
            // A mark of no width at the end: white space before the end of a line would go to the
            // other side of it (rule L1).
            Direction::Right => format!("{label}\u{2067}{cells}\u{2069}\u{200e}\n"),
            Direction::Left | Direction::Mixed => {
                format!("{}\n", format!("{label}{cells}").trim_end())
            }
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word_errors;
    use proptest::prelude::*;

    #[test]
    fn words_stand_over_each_other() {
        let alignment = align_words("the cat sat on the mat", "the hat sat the old mat");
        use Aligned::*;
        assert_eq!(
            alignment,
            [
                Equal("the"),
                Substituted("cat", "hat"),
                Equal("sat"),
                Substituted("on", "the"),
                Substituted("the", "old"),
                Equal("mat")
            ]
        );
        let text = render(&align_words("we meet at noon", "meet at about noon"), 80);
        assert_eq!(
            text,
            "REF: we  meet  at  *****  noon\nHYP: **  meet  at  about  noon\n     D             I\n"
        );
        assert_eq!(render(&[], 80), "");
    }

    #[test]
    fn long_alignments_are_cut_into_blocks() {
        let text = render(&align_words("one two three four", "one two four"), 8);
        assert_eq!(
            text,
            "REF: one  two\nHYP: one  two\n\n\nREF: three\nHYP: *****\n     D\n\nREF: four\nHYP: four\n\n"
        );
    }

    /// Without the isolates, which take no column.
    fn visible(text: &str) -> String {
        text.chars()
            .filter(|c| !matches!(c, '\u{2066}'..='\u{2069}' | '\u{200e}'))
            .collect()
    }

    #[test]
    fn arabic_stands_in_columns_and_every_isolate_is_closed() {
        let text = render(&align_words("قالَ الرجل نعم", "قال الرجل لا نعم"), 80);
        assert_eq!(
            visible(&text),
            "REF: قالَ  الرجل  **  نعم\nHYP: قال  الرجل  لا  نعم\n     S           I      \n"
        );
        for line in text.lines() {
            let opened = line
                .chars()
                .filter(|c| matches!(c, '\u{2067}' | '\u{2068}'))
                .count();
            assert_eq!(opened, line.chars().filter(|&c| c == '\u{2069}').count());
            assert!(
                line[5..].starts_with('\u{2067}')
                    && line.ends_with("\u{2069}\u{200e}")
                    && opened == 5
            );
        }
        let mixed = render(
            &align_words("send it to the منزل", "send it to the house"),
            80,
        );
        assert!(
            !mixed.contains('\u{2067}') && mixed.contains("\u{2068}منزل\u{2069}"),
            "{mixed}"
        );
    }

    #[test]
    fn a_tab_inside_a_word_keeps_the_columns() {
        assert_eq!(
            render(&align_words("a\tb c", "a\tb"), 80),
            "REF: a␣b  c\nHYP: a␣b  *\n          D\n"
        );
    }

    proptest! {
        #[test]
        fn the_alignment_is_the_one_that_is_counted(reference in "[abc ]{0,40}", prediction in "[abc ]{0,40}") {
            let alignment = align_words(&reference, &prediction);
            prop_assert_eq!(counts(&alignment), word_errors(&reference, &prediction));
            let said: Vec<&str> = alignment.iter().filter_map(|aligned| aligned.prediction()).collect();
            prop_assert_eq!(said, words(&prediction));
            let due: Vec<&str> = alignment.iter().filter_map(|aligned| aligned.reference()).collect();
            prop_assert_eq!(due, words(&reference));
        }
    }
}
