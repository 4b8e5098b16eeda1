//! The alignment of two token sequences with the fewest substitutions, deletions and insertions.
//!
//! Source: Hyyrö, *A Note on Bit-Parallel Alignment Computation*, 2004: a column of the
//! edit-distance matrix as bit vectors of its vertical differences, 64 reference tokens a word, and
//! the alignment read back from them. Where several alignments are optimal the choice is that of
//! jiwer 4 (rapidfuzz): common ends first, then from the back a deletion where one is optimal, then
//! an insertion where it improves on the cell beside, then a match or substitution.
//!
//! Differs: beyond about a million cells rapidfuzz divides the problem and may split the same total
//! in another way.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hash;
use std::hash::Hasher;
use std::ops::Range;

/// What happens to a token of the reference, of the prediction, or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The same token in both.
    Equal,
    /// Another token in the prediction.
    Substituted,
    /// A token of the reference that the prediction lacks.
    Deleted,
    /// A token that only the prediction has.
    Inserted,
}

/// Words (of 64 bits) of the matrix that are kept at once, 8 MiB; what falls outside is worked out
/// again on the way back.
pub const MAX_KEPT_WORDS: usize = 1 << 20;

/// Tells `step` the alignment from the last tokens to the first. `max_kept` bounds memory, never
/// changes the result.
pub fn walk_back<T: Eq + Hash>(
    reference: &[T],
    prediction: &[T],
    max_kept: usize,
    mut step: impl FnMut(Step),
) {
    let shorter = reference.len().min(prediction.len());
    let prefix = (0..shorter)
        .take_while(|&i| reference[i] == prediction[i])
        .count();
    let reference = &reference[prefix..];
    let prediction = &prediction[prefix..];
    let suffix = (1..=shorter - prefix)
        .take_while(|&i| reference[reference.len() - i] == prediction[prediction.len() - i])
        .count();
    let reference = &reference[..reference.len() - suffix];
    let prediction = &prediction[..prediction.len() - suffix];

    (0..suffix).for_each(|_| step(Step::Equal));
    let (left, extra) = if reference.is_empty() || prediction.is_empty() {
        (reference.len(), prediction.len())
    } else if reference.len().max(prediction.len()) <= 64 {
        differing_ends(
            &mut ShortMatrix::new(reference, prediction),
            reference,
            prediction,
            &mut step,
        )
    } else {
        differing_ends(
            &mut LongMatrix::new(reference, prediction, max_kept),
            reference,
            prediction,
            &mut step,
        )
    };
    (0..left).for_each(|_| step(Step::Deleted));
    (0..extra).for_each(|_| step(Step::Inserted));
    (0..prefix).for_each(|_| step(Step::Equal));
}

/// The way back through a matrix until one text is used up; the numbers of tokens that are left of
/// each.
fn differing_ends<T: Eq>(
    matrix: &mut impl Matrix,
    reference: &[T],
    prediction: &[T],
    step: &mut impl FnMut(Step),
) -> (usize, usize) {
    let mut row = prediction.len();
    let mut column = reference.len();
    while row > 0 && column > 0 {
        if matrix.at(row - 1, column - 1).rises(column - 1) {
            step(Step::Deleted);
            column -= 1;
            continue;
        }
        row -= 1;
        if row > 0 && matrix.at(row - 1, column - 1).falls(column - 1) {
            step(Step::Inserted);
        } else {
            column -= 1;
            step(if reference[column] == prediction[row] {
                Step::Equal
            } else {
                Step::Substituted
            });
        }
    }
    (column, row)
}

/// Vertical differences of 64 neighbouring cells: a bit is set where the distance goes up by one,
/// or down by one.
#[derive(Clone, Copy)]
struct Differences {
    up: u64,
    down: u64,
}

impl Differences {
    /// Before the first token of the prediction every token of the reference is one error more.
    const FIRST: Self = Self {
        up: u64::MAX,
        down: 0,
    };

    fn rises(self, column: usize) -> bool {
        self.up >> (column % 64) & 1 == 1
    }

    fn falls(self, column: usize) -> bool {
        self.down >> (column % 64) & 1 == 1
    }
}

/// The edit-distance matrix as differences along the reference, one row for each token of the
/// prediction.
trait Matrix {
    /// The 64 cells of `row` that `column` is in; rows are asked from the last to the first.
    fn at(&mut self, row: usize, column: usize) -> Differences;
}

/// The matrix of two texts of at most 64 tokens, as sentences are: no memory is asked for, no token
/// hashed.
struct ShortMatrix([Differences; 64]);

impl ShortMatrix {
    fn new<T: Eq>(reference: &[T], prediction: &[T]) -> Self {
        let mut rows = [Differences::FIRST; 64];
        let mut row = [Differences::FIRST];
        for (kept, token) in rows.iter_mut().zip(prediction) {
            let matches = reference
                .iter()
                .enumerate()
                .fold(0, |matches, (place, known)| {
                    matches | u64::from(known == token) << place
                });
            advance(&mut row, &[matches]);
            *kept = row[0];
        }
        Self(rows)
    }
}

impl Matrix for ShortMatrix {
    fn at(&mut self, row: usize, _: usize) -> Differences {
        self.0[row]
    }
}

/// The matrix of texts of any length.
struct LongMatrix {
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

impl LongMatrix {
    /// Works out all rows from the first to the last; both texts have tokens.
    fn new<T: Eq + Hash>(reference: &[T], prediction: &[T], max_kept: usize) -> Self {
        let (places, groups) = places_of_tokens(reference, prediction);
        let blocks = reference.len().div_ceil(64);
        let stride = (max_kept / (2 * blocks)).clamp(1, prediction.len());
        let first = vec![Differences::FIRST; blocks];
        let mut matrix = Self {
            places,
            groups,
            blocks,
            stride,
            states: vec![first],
            rows: Vec::with_capacity(stride * blocks),
            first: 0,
        };
        let strides = prediction.len().div_ceil(stride);
        matrix.work_out(0);
        for stride in 1..strides {
            let last = matrix.rows[matrix.rows.len() - blocks..].to_vec();
            matrix.states.push(last);
            matrix.work_out(stride);
        }
        matrix
    }

    /// Fills `rows` with one stride, from the state before it.
    fn work_out(&mut self, stride: usize) {
        let mut row = self.states[stride].clone();
        let mut matches = vec![0u64; self.blocks];
        self.rows.clear();
        self.first = stride * self.stride;
        for group in &self.groups[self.first..self.groups.len().min(self.first + self.stride)] {
            let places = &self.places[group.clone()];
            places
                .iter()
                .for_each(|place| matches[place / 64] |= 1 << (place % 64));
            advance(&mut row, &matches);
            places.iter().for_each(|place| matches[place / 64] = 0);
            self.rows.extend_from_slice(&row);
        }
    }
}

impl Matrix for LongMatrix {
    /// The way back goes from the last row to the first, so only an earlier stride is ever missing.
    fn at(&mut self, row: usize, column: usize) -> Differences {
        if row < self.first {
            self.work_out(row / self.stride);
        }
        self.rows[(row - self.first) * self.blocks + column / 64]
    }
}

/// The places of the reference grouped by token, and for each token of the prediction its group.
fn places_of_tokens<T: Eq + Hash>(
    reference: &[T],
    prediction: &[T],
) -> (Vec<usize>, Vec<Range<usize>>) {
    let mut numbers: HashMap<&T, usize, BuildHasherDefault<QuickHasher>> =
        HashMap::with_capacity_and_hasher(reference.len(), BuildHasherDefault::default());
    let number = |token| {
        let next = numbers.len();
        *numbers.entry(token).or_insert(next)
    };
    let tokens: Vec<usize> = reference.iter().map(number).collect();
    let mut places: Vec<usize> = (0..tokens.len()).collect();
    places.sort_by_key(|&place| tokens[place]);
    // Tokens are numbered without gaps, so the n-th run of equal tokens is token n.
    let mut of_token: Vec<Range<usize>> = Vec::with_capacity(numbers.len());
    for run in places.chunk_by(|&a, &b| tokens[a] == tokens[b]) {
        let start = of_token.last().map_or(0, |before| before.end);
        of_token.push(start..start + run.len());
    }
    let groups = prediction
        .iter()
        .map(|token| {
            numbers
                .get(token)
                .map_or(0..0, |&token| of_token[token].clone())
        })
        .collect();
    (places, groups)
}

/// The row after `row`, where `matches` marks the reference tokens equal to the prediction's next.
fn advance(row: &mut [Differences], matches: &[u64]) {
    // Horizontal differences at the upper edge of a block: the row above all tokens goes up by one
    // at each step.
    let mut up_in = 1;
    let mut down_in = 0;
    for (cell, &matched) in row.iter_mut().zip(matches) {
        let matched_or_down = matched | down_in;
        let diagonal = ((matched_or_down & cell.up).wrapping_add(cell.up) ^ cell.up)
            | matched_or_down
            | cell.down;
        let up = cell.down | !(diagonal | cell.up);
        let down = diagonal & cell.up;
        let shifted_up = up << 1 | up_in;
        let shifted_down = down << 1 | down_in;
        (up_in, down_in) = (up >> 63, down >> 63);
        *cell = Differences {
            up: shifted_down | !(diagonal | shifted_up),
            down: shifted_up & diagonal,
        };
    }
}

/// A multiplicative hash (Fibonacci's): looking tokens up is most of the time on short texts, and
/// nobody attacks this table.
#[derive(Default)]
pub struct QuickHasher(u64);

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

    fn steps<T: Eq + Hash>(reference: &[T], prediction: &[T], max_kept: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        walk_back(reference, prediction, max_kept, |step| steps.push(step));
        steps.reverse();
        steps
    }

    /// The distance by the textbook's recurrence (Wagner and Fischer 1974).
    fn distance(a: &[u8], b: &[u8]) -> usize {
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.iter().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, y) in b.iter().enumerate() {
                let best = (diagonal + usize::from(x != y))
                    .min(row[j] + 1)
                    .min(row[j + 1] + 1);
                diagonal = std::mem::replace(&mut row[j + 1], best);
            }
        }
        row[b.len()]
    }

    /// Errors of an alignment that leads from `a` to `b`; panics where it does not.
    fn followed(a: &[u8], b: &[u8], steps: &[Step]) -> usize {
        let mut i = 0;
        let mut j = 0;
        let mut errors = 0;
        for step in steps {
            match step {
                Step::Equal => assert_eq!(a[i], b[j]),
                Step::Substituted => assert_ne!(a[i], b[j]),
                Step::Deleted | Step::Inserted => {}
            }
            errors += usize::from(*step != Step::Equal);
            i += usize::from(*step != Step::Inserted);
            j += usize::from(*step != Step::Deleted);
        }
        assert_eq!((i, j), (a.len(), b.len()));
        errors
    }

    #[test]
    fn alignments_lead_from_one_text_to_the_other() {
        use Step::*;
        assert_eq!(
            steps(b"abcd", b"axcde", 9),
            [Equal, Substituted, Equal, Equal, Inserted]
        );
        assert_eq!(steps(b"ab", b"", 9), [Deleted, Deleted]);
        assert_eq!(steps(b"", b"ab", 9), [Inserted, Inserted]);
        assert_eq!(steps(b"", b"", 9), []);
    }

    proptest! {
        #[test]
        fn as_many_errors_as_the_distance(a in prop::collection::vec(0u8..4, 0..300), b in prop::collection::vec(0u8..5, 0..300), max_kept in 1usize..3000) {
            prop_assert_eq!(followed(&a, &b, &steps(&a, &b, max_kept)), distance(&a, &b));
        }

        #[test]
        fn short_and_long_texts_are_aligned_alike(a in prop::collection::vec(0u8..3, 1..65), b in prop::collection::vec(0u8..3, 1..65), max_kept in 1usize..200) {
            let mut short = Vec::new();
            let mut long = Vec::new();
            let left = differing_ends(&mut ShortMatrix::new(&a, &b), &a, &b, &mut |step| short.push(step));
            let long_left = differing_ends(&mut LongMatrix::new(&a, &b, max_kept), &a, &b, &mut |step| long.push(step));
            prop_assert_eq!((short, left), (long, long_left));
        }
    }
}
