//! Matrices on a GPU as the operands of products.

use std::ops::Range;

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;
use half::bf16;

use crate::ops::cuda::address::Address;
use crate::ops::cuda::address::rows_of;

/// The best alignment that cuBLASLt distinguishes, in bytes.
const ALIGNED: u64 = 256;

/// A row-major matrix on a GPU, possibly a transpose or some columns of one.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// The first number.
    pub place: Address,
    /// Type of the numbers.
    pub kind: DType,
    /// Rows as they lie in memory.
    pub rows: usize,
    /// Columns as they lie in memory.
    pub cols: usize,
    /// Distance of two rows.
    pub stride: usize,
    /// Whether the transpose is meant.
    pub transposed: bool,
}

impl Matrix {
    /// All of a tensor, its last dimension as columns; one of one dimension is a row.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let cols = tensor.dims().last().copied().unwrap_or(1);
        let rows = if cols == 0 {
            0
        } else {
            tensor.elem_count() / cols
        };
        let kind = tensor.dtype();
        let (place, stride) = rows_of(tensor, kind)?;
        Ok(Self {
            place,
            kind,
            rows,
            cols,
            stride,
            transposed: false,
        })
    }

    /// The same rows with the `padding` numbers behind each of them.
    pub fn with_padding(self, padding: usize) -> Self {
        Self {
            cols: self.cols + padding,
            ..self
        }
    }

    /// The same columns with the `rows` rows below them.
    pub fn with_rows_below(self, rows: usize) -> Self {
        Self {
            rows: self.rows + rows,
            ..self
        }
    }

    /// Numbers between the end of a row and the next row.
    pub fn padding(self) -> usize {
        self.stride - self.cols
    }

    /// The place of the first number behind the first row.
    pub fn behind(self) -> Address {
        self.moved(self.cols)
    }

    /// Some of the rows, of a matrix that is not transposed.
    pub fn rows(self, rows: Range<usize>) -> Self {
        Self {
            place: self.moved(rows.start * self.stride),
            rows: rows.len(),
            ..self
        }
    }

    /// Some of the columns, of a matrix that is not transposed.
    pub fn columns(self, columns: Range<usize>) -> Self {
        Self {
            place: self.moved(columns.start),
            cols: columns.len(),
            ..self
        }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    fn moved(self, numbers: usize) -> Address {
        match self.kind {
            DType::F32 => self.place.at::<f32>(numbers),
            DType::BF16 => self.place.at::<bf16>(numbers),
            _ => self.place.at::<u8>(numbers),
        }
    }

    /// Rows and columns of the matrix or the transpose that is meant.
    pub fn dims(self) -> (usize, usize) {
        if self.transposed {
            (self.cols, self.rows)
        } else {
            (self.rows, self.cols)
        }
    }

    /// Alignment of the first number in bytes, at most [`ALIGNED`].
    pub fn alignment(self) -> u32 {
        (1 << self.place.0.trailing_zeros().min(ALIGNED.trailing_zeros())) as u32
    }
}

/// One product.
#[derive(Clone, Copy)]
pub struct Product {
    /// `[m, k]`.
    pub a: Matrix,
    /// `[k, n]`.
    pub b: Matrix,
    /// Factor of the product.
    pub alpha: f32,
    /// `[m, n]`, what is added; it may be the destination.
    pub c: Option<Matrix>,
    /// `[n]` in bf16, added to every row.
    pub bias: Option<Address>,
    /// Scales of the rows of `a` `[m]` and of the columns of `b` `[n]`, in `f32`, where the two are
    /// in fp8.
    pub scales: Option<(Address, Address)>,
    /// Whether sums of products in fp8 may be kept in fewer bits than `f32` has, which is faster.
    pub is_fast: bool,
}

impl Product {
    /// `a b` alone.
    pub fn new(a: Matrix, b: Matrix) -> Self {
        Self {
            a,
            b,
            alpha: 1.0,
            c: None,
            bias: None,
            scales: None,
            is_fast: false,
        }
    }

    /// `alpha a b`.
    pub fn scaled(self, alpha: f64) -> Self {
        Self {
            alpha: alpha as f32,
            ..self
        }
    }

    /// `... + c`.
    pub fn plus(self, c: Option<Matrix>) -> Self {
        Self { c, ..self }
    }
}
