//! Layout of an activation's rows in memory.

/// Padding behind every row of an activation on a GPU.
///
/// A linear layer that is joined with its adapter writes `x A^T` behind the rows of its input, and
/// `dy B` behind those of its output's gradient. Whoever computes an input or a gradient names the
/// layer that reads it and allocates what that layer asks for. Values do not depend on the layout,
/// and rows on the CPU have no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Columns behind every row.
    pub(crate) padding: usize,
}

impl Layout {
    /// Rows that follow each other.
    pub const DENSE: Self = Self { padding: 0 };
}

impl From<usize> for Layout {
    /// Rows with so many columns of padding.
    fn from(padding: usize) -> Self {
        Self { padding }
    }
}
