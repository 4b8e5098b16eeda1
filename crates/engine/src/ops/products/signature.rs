//! Everything about a product that the choice of its algorithm depends on.

use std::fmt;

use candle_core::DType;
use serde::Deserialize;
use serde::Serialize;

/// Dimensions, type and place of an operand, as far as they decide which algorithms fit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Type of the numbers.
    pub kind: DType,
    /// Rows as they lie in memory.
    pub rows: usize,
    /// Columns as they lie in memory.
    pub cols: usize,
    /// Distance of two rows.
    pub stride: usize,
    /// Whether its transpose is meant.
    pub transposed: bool,
    /// Alignment of its first number, in bytes.
    pub alignment: u32,
}

/// All that the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature {
    /// `[m, k]`.
    pub a: Shape,
    /// `[k, n]`.
    pub b: Shape,
    /// `[m, n]`, what is added.
    pub c: Option<Shape>,
    /// `[m, n]`, the destination.
    pub d: Shape,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether rows and columns have scales.
    pub scales: bool,
    /// Whether sums of products in fp8 may be kept in fewer bits than `f32` has.
    pub is_fast: bool,
}

/// Form of a call of the library: whole, or without what a pass of its own then adds, and with
/// restrictions on the algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// Whether the product adds the bias.
    pub adds_bias: bool,
    /// Whether the product adds `c`.
    pub adds_c: bool,
    /// Whether parts of a sum are added in f32 alone, and the operands' alignment is told.
    pub is_restricted: bool,
}

/// All forms of a product with a bias and something that it is added to, the best first.
pub const FORMS: [Form; 8] = {
    const fn form(adds_bias: bool, adds_c: bool, is_restricted: bool) -> Form {
        Form {
            adds_bias,
            adds_c,
            is_restricted,
        }
    }
    [
        form(true, true, true),
        form(false, true, true),
        form(true, false, true),
        form(false, false, true),
        form(true, true, false),
        form(false, true, false),
        form(true, false, false),
        form(false, false, false),
    ]
};

/// Number of classes of rows between a power of two and the next.
const CLASSES: usize = 4;

/// The largest number of rows in the class of `rows`.
///
/// Packs have any number of tokens, and timing every number would never end. Tensors are
/// token-major, so tokens are rows of every operand that has them. Every other dimension of a
/// product is the number of columns of some operand, which the key has as it is. So classes of rows
/// stand for numbers of tokens alone.
fn class(rows: usize) -> usize {
    let step = rows
        .checked_ilog2()
        .map_or(1, |log| ((1 << log) / CLASSES).max(1));
    rows.div_ceil(step) * step
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}x{}/{}@{}{}",
            self.kind.as_str(),
            class(self.rows),
            self.cols,
            self.stride,
            self.alignment,
            if self.transposed { "^T" } else { "" }
        )
    }
}

impl Signature {
    /// The products that have one stored choice in common, for a person: `bf16 6144x3648/3648@256`
    /// is an operand of up to 6,144 rows of 3,648 columns, 3,648 numbers apart, whose first number
    /// is aligned to 256 bytes.
    pub fn key(&self) -> String {
        let mut key = format!("{} * {}", self.a, self.b);
        if let Some(c) = self.c {
            key += &format!(" + {c}");
        }
        if self.bias {
            key += " + bias";
        }
        key += &format!(" -> {}", self.d);
        if self.scales {
            key += ", scaled";
        }
        if self.is_fast {
            key += ", fast";
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(rows: usize, cols: usize, stride: usize) -> Shape {
        Shape {
            kind: DType::BF16,
            rows,
            cols,
            stride,
            transposed: false,
            alignment: 256,
        }
    }

    /// Queries, keys and values of the 7B model: `x W^T`.
    fn forward(tokens: usize) -> Signature {
        Signature {
            a: shape(tokens, 3648, 3648),
            b: Shape {
                transposed: true,
                ..shape(4608, 3648, 3648)
            },
            c: None,
            d: shape(tokens, 4608, 4608),
            bias: true,
            scales: false,
            is_fast: false,
        }
    }

    #[test]
    fn a_class_has_at_most_a_quarter_more_rows() {
        for (rows, expected) in [
            (0, 0),
            (1, 1),
            (7, 7),
            (8, 8),
            (9, 10),
            (4096, 4096),
            (4097, 5120),
            (5440, 6144),
            (7913, 8192),
            (8192, 8192),
            (8193, 10_240),
        ] {
            assert_eq!(class(rows), expected, "{rows}");
        }
        let mut classes: Vec<usize> = (1..=16_384).map(class).collect();
        assert!(classes.is_sorted());
        classes.dedup();
        // 1 to 8 each, then four for each of the eleven doublings from 8 to 16,384.
        assert_eq!(classes.len(), 8 + 4 * 11);
        assert!((1..20_000).all(|rows| class(rows) >= rows && class(rows) * 4 <= rows * 5));
    }

    #[test]
    fn tokens_of_one_class_share_a_key() {
        assert_eq!(
            forward(5440).key(),
            "bf16 6144x3648/3648@256 * bf16 5120x3648/3648@256^T + bias -> bf16 6144x4608/4608@256"
        );
        assert_eq!(forward(5440).key(), forward(5121).key());
        assert_ne!(forward(5440).key(), forward(5120).key());
    }

    #[test]
    fn everything_else_has_a_key_of_its_own() {
        let whole = forward(5440);
        let narrow = Shape {
            alignment: 16,
            ..whole.a
        };
        let others = [
            Signature { a: narrow, ..whole },
            Signature {
                d: shape(5440, 4608, 4672),
                ..whole
            },
            Signature {
                b: shape(3648, 4608, 4608),
                ..whole
            },
            Signature {
                c: Some(whole.d),
                ..whole
            },
            Signature {
                bias: false,
                ..whole
            },
            Signature {
                scales: true,
                ..whole
            },
            Signature {
                is_fast: true,
                ..whole
            },
            Signature {
                d: Shape {
                    kind: DType::F32,
                    ..whole.d
                },
                ..whole
            },
        ];
        let mut keys: Vec<String> = others.iter().map(Signature::key).collect();
        keys.push(whole.key());
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), others.len() + 1);
    }
}
