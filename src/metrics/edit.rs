//! Word and character errors: the fewest substitutions, deletions and insertions that turn a reference into a prediction.
//!
//! Source: Hyyrö, *A Note on Bit-Parallel Alignment Computation*, 2004: a column of the edit-distance matrix as bit vectors of
//! its vertical differences, 64 reference tokens a word, and the alignment read back from them. Where several alignments are
//! optimal the choice is that of jiwer 4 (rapidfuzz): common ends first, then from the back a deletion where one is optimal,
//! then an insertion where it improves on the cell beside, then a match or substitution. Words and characters are jiwer's too.
//!
//! Differs: beyond about a million cells rapidfuzz divides the problem and may split the same total in another way.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hash;
use std::hash::Hasher;
use std::iter::Sum;
use std::ops::Add;
use std::ops::AddAssign;
use std::ops::Range;

/// Errors of one text, or summed over a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reference tokens that the prediction has as another token.
    pub substitutions: u64,
    /// Reference tokens that the prediction lacks.
    pub deletions: u64,
    /// Tokens that only the prediction has.
    pub insertions: u64,
    /// Tokens of the reference.
    pub reference_len: u64,
}

impl Counts {
    /// Errors of all three kinds.
    pub fn errors(self) -> u64 {
        self.substitutions + self.deletions + self.insertions
    }

    /// Errors per reference token. Without reference tokens it is the number of insertions, as in jiwer 4: 0 for silence
    /// rightly left empty, and never a division by zero.
    pub fn rate(self) -> f64 {
        self.fraction(self.errors())
    }

    /// A count of errors (all, or of one kind) per reference token; see [`Counts::rate`].
    pub fn fraction(self, errors: u64) -> f64 {
        errors as f64 / self.reference_len.max(1) as f64
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            substitutions: self.substitutions + other.substitutions,
            deletions: self.deletions + other.deletions,
            insertions: self.insertions + other.insertions,
            reference_len: self.reference_len + other.reference_len,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Self::add)
    }
}

/// Word errors. Words are what stands between spaces or runs of white space, as they are: normalise first.
///
/// As in jiwer, a single tab or line break between two words does not part them; two or more white-space characters do.
pub fn word_errors(reference: &str, prediction: &str) -> Counts {
    align(&words(reference), &words(prediction), MAX_KEPT_WORDS)
}

/// Character errors. A character is a Unicode scalar value; spaces count, white space at the ends does not.
pub fn char_errors(reference: &str, prediction: &str) -> Counts {
    let chars = |text: &str| text.trim_matches(is_space).chars().collect::<Vec<char>>();
    align(&chars(reference), &chars(prediction), MAX_KEPT_WORDS)
}

/// White space as Python has it: Unicode's, with the four information separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn words(text: &str) -> Vec<&str> {
    let text = text.trim_matches(is_space);
    let mut words = Vec::new();
    let (mut start, mut rest) = (0, text.char_indices().peekable());
    while let Some((at, c)) = rest.next() {
        if !is_space(c) {
            continue;
        }
        let (mut end, mut parts) = (at + c.len_utf8(), c == ' ');
        while let Some((at, c)) = rest.next_if(|(_, c)| is_space(*c)) {
            (end, parts) = (at + c.len_utf8(), true);
        }
        if parts {
            words.push(&text[start..at]);
            start = end;
        }
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

/// Words (of 64 bits) of the matrix that are kept at once, 8 MiB; what falls outside is worked out again on the way back.
const MAX_KEPT_WORDS: usize = 1 << 20;

/// Counts of the alignment described above. `max_kept` bounds memory, never changes the result.
fn align<T: Eq + Hash>(reference: &[T], prediction: &[T], max_kept: usize) -> Counts {
    let reference_len = reference.len() as u64;
    let shorter = reference.len().min(prediction.len());
    let prefix = (0..shorter).take_while(|&i| reference[i] == prediction[i]).count();
    let (reference, prediction) = (&reference[prefix..], &prediction[prefix..]);
    let suffix = (1..=shorter - prefix).take_while(|&i| reference[reference.len() - i] == prediction[prediction.len() - i]).count();
    let (reference, prediction) = (&reference[..reference.len() - suffix], &prediction[..prediction.len() - suffix]);

    let mut counts = Counts { reference_len, ..Counts::default() };
    let (mut row, mut column) = (prediction.len(), reference.len());
    if row > 0 && column > 0 {
        let mut matrix = Matrix::new(reference, prediction, max_kept);
        while row > 0 && column > 0 {
            if matrix.rises(row - 1, column - 1) {
                counts.deletions += 1;
                column -= 1;
                continue;
            }
            row -= 1;
            if row > 0 && matrix.falls(row - 1, column - 1) {
                counts.insertions += 1;
            } else {
                column -= 1;
                counts.substitutions += u64::from(reference[column] != prediction[row]);
            }
        }
    }
    counts.deletions += column as u64;
    counts.insertions += row as u64;
    counts
}

/// Vertical differences of 64 neighbouring cells: a bit is set where the distance goes up by one, or down by one.
#[derive(Clone, Copy)]
struct Differences {
    up: u64,
    down: u64,
}

/// The edit-distance matrix as differences along the reference, one row for each token of the prediction.
struct Matrix {
    /// Places in the reference, grouped by token.
    places: Vec<usize>,
    /// For each token of the prediction, its group in `places`.
    groups: Vec<Range<usize>>,
    /// Words of 64 reference tokens in a row.
    blocks: usize,
    /// Rows from one kept state to the next.
    stride: usize,
    /// The row before every `stride`-th row.
    states: Vec<Vec<Differences>>,
    /// The rows of one stride.
    rows: Vec<Differences>,
    /// The first of the rows in `rows`.
    first: usize,
}

impl Matrix {
    /// Works out all rows from the first to the last; both texts have tokens.
    fn new<T: Eq + Hash>(reference: &[T], prediction: &[T], max_kept: usize) -> Self {
        let mut numbers: HashMap<&T, usize, BuildHasherDefault<QuickHasher>> =
            HashMap::with_capacity_and_hasher(reference.len(), BuildHasherDefault::default());
        let tokens: Vec<usize> = reference
            .iter()
            .map(|token| {
                let next = numbers.len();
                *numbers.entry(token).or_insert(next)
            })
            .collect();
        let mut places: Vec<usize> = (0..tokens.len()).collect();
        places.sort_by_key(|&place| tokens[place]);
        // Tokens are numbered without gaps, so the n-th run of equal tokens is token n.
        let mut of_token: Vec<Range<usize>> = Vec::with_capacity(numbers.len());
        for run in places.chunk_by(|&a, &b| tokens[a] == tokens[b]) {
            let start = of_token.last().map_or(0, |before| before.end);
            of_token.push(start..start + run.len());
        }
        let groups: Vec<Range<usize>> = prediction.iter().map(|token| numbers.get(token).map_or(0..0, |&token| of_token[token].clone())).collect();

        let blocks = reference.len().div_ceil(64);
        let stride = (max_kept / (2 * blocks)).clamp(1, prediction.len());
        let first = vec![Differences { up: u64::MAX, down: 0 }; blocks];
        let mut matrix = Self { places, groups, blocks, stride, states: vec![first], rows: Vec::with_capacity(stride * blocks), first: 0 };
        let strides = prediction.len().div_ceil(stride);
        matrix.work_out(0);
        for stride in 1..strides {
            let last = matrix.rows[matrix.rows.len() - blocks..].to_vec();
            matrix.states.push(last);
            matrix.work_out(stride);
        }
        matrix
    }

    /// Whether the distance goes up at this column of this row.
    fn rises(&mut self, row: usize, column: usize) -> bool {
        self.at(row, column).up >> (column % 64) & 1 == 1
    }

    /// Whether the distance goes down at this column of this row.
    fn falls(&mut self, row: usize, column: usize) -> bool {
        self.at(row, column).down >> (column % 64) & 1 == 1
    }

    /// The way back goes from the last row to the first, so only an earlier stride is ever missing.
    fn at(&mut self, row: usize, column: usize) -> Differences {
        if row < self.first {
            self.work_out(row / self.stride);
        }
        self.rows[(row - self.first) * self.blocks + column / 64]
    }

    /// Fills `rows` with one stride, from the state before it.
    fn work_out(&mut self, stride: usize) {
        let mut row = self.states[stride].clone();
        let mut matches = vec![0u64; self.blocks];
        self.rows.clear();
        self.first = stride * self.stride;
        for group in &self.groups[self.first..self.groups.len().min(self.first + self.stride)] {
            let places = &self.places[group.clone()];
            places.iter().for_each(|place| matches[place / 64] |= 1 << (place % 64));
            advance(&mut row, &matches);
            places.iter().for_each(|place| matches[place / 64] = 0);
            self.rows.extend_from_slice(&row);
        }
    }
}

/// The row after `row`, where `matches` marks the reference tokens equal to the prediction's next.
fn advance(row: &mut [Differences], matches: &[u64]) {
    // Horizontal differences at the upper edge of a block: the row above all tokens goes up by one at each step.
    let (mut up_in, mut down_in) = (1, 0);
    for (cell, &matched) in row.iter_mut().zip(matches) {
        let matched_or_down = matched | down_in;
        let diagonal = ((matched_or_down & cell.up).wrapping_add(cell.up) ^ cell.up) | matched_or_down | cell.down;
        let (up, down) = (cell.down | !(diagonal | cell.up), diagonal & cell.up);
        let (shifted_up, shifted_down) = (up << 1 | up_in, down << 1 | down_in);
        (up_in, down_in) = (up >> 63, down >> 63);
        *cell = Differences { up: shifted_down | !(diagonal | shifted_up), down: shifted_up & diagonal };
    }
}

/// A multiplicative hash (Fibonacci's): looking tokens up is most of the time on short texts, and nobody attacks this table.
#[derive(Default)]
struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `(reference, prediction, [word substitutions, deletions, insertions, reference words], the same of characters)`.
    type Golden = (String, String, [u64; 4], [u64; 4]);

    fn goldens() -> Vec<Golden> {
        serde_json::from_str(include_str!("../../tests/fixtures/metrics/edit.json")).unwrap()
    }

    fn as_array(counts: Counts) -> [u64; 4] {
        [counts.substitutions, counts.deletions, counts.insertions, counts.reference_len]
    }

    #[test]
    fn counts_are_those_of_jiwer() {
        let goldens = goldens();
        assert!(goldens.len() >= 500);
        for (reference, prediction, words, chars) in &goldens {
            assert_eq!(as_array(word_errors(reference, prediction)), *words, "words of {reference:?} and {prediction:?}");
            assert_eq!(as_array(char_errors(reference, prediction)), *chars, "characters of {reference:?} and {prediction:?}");
        }
    }

    #[test]
    fn memory_does_not_change_the_counts() {
        for (reference, prediction, _, chars) in goldens() {
            let split = |text: &str| text.trim_matches(is_space).chars().collect::<Vec<char>>();
            for max_kept in [1, 7, 40] {
                assert_eq!(as_array(align(&split(&reference), &split(&prediction), max_kept)), chars);
            }
        }
    }

    #[test]
    fn rates_are_of_sums_and_an_empty_reference_counts_insertions() {
        let corpus: Counts = [("one two three", "one too three"), ("four", ""), ("", "five six")].into_iter().map(|(r, p)| word_errors(r, p)).sum();
        assert_eq!(as_array(corpus), [1, 1, 2, 4]);
        assert_eq!(corpus.rate(), 1.0);
        assert_eq!(corpus.fraction(corpus.insertions), 0.5);
        assert_eq!(word_errors("", " ").rate(), 0.0);
        assert_eq!(word_errors("", "one two three").rate(), 3.0, "jiwer 4: as many as there are insertions");
        assert_eq!(char_errors("ab", "").rate(), 1.0);
    }

    #[test]
    fn words_part_where_jiwer_parts_them() {
        assert_eq!(words("  one\ttwo \tthree\u{a0}four  five\n"), ["one\ttwo", "three\u{a0}four", "five"]);
        assert_eq!(words(" \t "), Vec::<&str>::new());
    }

    /// The distance by the textbook's recurrence (Wagner and Fischer 1974).
    fn distance(a: &[u8], b: &[u8]) -> u64 {
        let mut row: Vec<u64> = (0..=b.len() as u64).collect();
        for (i, x) in a.iter().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i as u64 + 1);
            for (j, y) in b.iter().enumerate() {
                let best = (diagonal + u64::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
                diagonal = std::mem::replace(&mut row[j + 1], best);
            }
        }
        row[b.len()]
    }

    proptest! {
        #[test]
        fn errors_are_the_distance(a in prop::collection::vec(0u8..4, 0..300), b in prop::collection::vec(0u8..5, 0..300), max_kept in 1usize..3000) {
            let counts = align(&a, &b, max_kept);
            prop_assert_eq!(counts.errors(), distance(&a, &b));
            prop_assert_eq!(counts.reference_len + counts.insertions, b.len() as u64 + counts.deletions);
            prop_assert!(counts.substitutions + counts.deletions <= a.len() as u64);
        }
    }
}
