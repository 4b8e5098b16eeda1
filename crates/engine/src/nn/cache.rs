//! Keys and values that generation caches for one layer of the decoder.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::attention::Heads;
use crate::ops::rows::columns;
use crate::ops::rows::overwrite;

/// Keys and values of some sequences in one layer, one sequence after the other:
/// `[sum of capacities, kv_width]` each.
#[derive(Debug)]
pub struct Cache {
    keys: Tensor,
    values: Tensor,
    heads: Heads,
    /// First row of each sequence, and the end of the last.
    starts: Vec<usize>,
    /// Filled rows of each sequence.
    lens: Vec<usize>,
}

impl Cache {
    /// An empty cache for up to `capacities[i]` tokens of sequence `i`.
    pub fn new(capacities: &[usize], heads: Heads, like: &Tensor) -> Result<Self> {
        let ends = capacities.iter().scan(0, |end, capacity| {
            *end += capacity;
            Some(*end)
        });
        let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let shape = (capacities.iter().sum::<usize>(), heads.kv_width());
        Ok(Self {
            keys: Tensor::zeros(shape, like.dtype(), like.device())?,
            values: Tensor::zeros(shape, like.dtype(), like.device())?,
            heads,
            starts,
            lens: vec![0; capacities.len()],
        })
    }

    /// Takes keys and values of the next tokens out of their stacked projections: for each sequence
    /// that is named so many rows of `qkv`, one sequence after the other.
    ///
    /// # Shapes
    /// `qkv`: `[sum of tokens, heads.width()]`
    pub fn append(
        &mut self,
        qkv: &Tensor,
        tokens: impl Iterator<Item = (usize, usize)>,
    ) -> Result<()> {
        let mut rows = Vec::with_capacity(qkv.dim(0)?);
        for (sequence, tokens) in tokens {
            let next = self.starts[sequence] + self.lens[sequence];
            if next + tokens > self.starts[sequence + 1] {
                candle_core::bail!(
                    "{tokens} more tokens do not fit into the cache of sequence {sequence}"
                );
            }
            rows.extend((next..next + tokens).map(|row| row as u32));
            self.lens[sequence] += tokens;
        }

        let width = self.heads.kv_width();
        let keys = self.heads.query_width();
        let values = keys + width;
        overwrite(&self.keys, &rows, &columns(qkv, keys..values)?)?;
        overwrite(&self.values, &rows, &columns(qkv, values..values + width)?)
    }

    /// Forgets all but the first `len` tokens of a sequence.
    pub fn rewind(&mut self, sequence: usize, len: usize) {
        self.lens[sequence] = self.lens[sequence].min(len);
    }

    /// Views of a sequence's keys and values, and how many rows are filled.
    pub fn of(&self, sequence: usize) -> Result<(Tensor, Tensor, usize)> {
        let start = self.starts[sequence];
        let capacity = self.starts[sequence + 1] - start;
        Ok((
            self.keys.narrow(0, start, capacity)?,
            self.values.narrow(0, start, capacity)?,
            self.lens[sequence],
        ))
    }
}
