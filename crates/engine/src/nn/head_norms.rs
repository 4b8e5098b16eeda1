//! Norms of queries and keys, head by head, before they are rotated (Qwen3): forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::rms_norm::RmsNorm;
use crate::ops::attention::Heads;
use crate::ops::layout::Layout;
use crate::ops::rows::columns;
use crate::ops::weight::Weight;

/// `q_h = norm(q_h)` and `k_h = norm(k_h)` for every head `h`. All heads of a projection share one
/// scale.
#[derive(Debug)]
pub struct HeadNorms {
    /// `q_norm`, over the numbers of a head.
    pub query: RmsNorm,
    /// `k_norm`.
    pub key: RmsNorm,
}

/// Tensors that the backward of one norm needs: its input, a row for each head, and its inverse
/// root mean squares.
struct Normed {
    x: Tensor,
    inverse: Tensor,
}

/// Tensors that the backward of both needs.
pub struct Saved {
    query: Normed,
    key: Normed,
}

impl HeadNorms {
    /// The projections with normalised queries and keys.
    ///
    /// # Shapes
    /// `qkv`: `[tokens, heads.width()]` -> the same
    pub fn forward(&self, qkv: &Tensor, heads: Heads) -> Result<(Tensor, Saved)> {
        let end_of_queries = heads.query_width();
        let end_of_keys = end_of_queries + heads.kv_width();
        let queries = columns(qkv, 0..end_of_queries)?;
        let keys = columns(qkv, end_of_queries..end_of_keys)?;
        let values = columns(qkv, end_of_keys..heads.width())?;

        let (queries, normed_query) = forward(&self.query, &queries, heads)?;
        let (keys, normed_key) = forward(&self.key, &keys, heads)?;
        let saved = Saved {
            query: normed_query,
            key: normed_key,
        };
        Ok((Tensor::cat(&[queries, keys, values], 1)?, saved))
    }

    /// Gradient of the projections; adds to the gradients of the scales where they have one.
    ///
    /// # Shapes
    /// `d_qkv`: `[tokens, heads.width()]` -> the same
    pub fn backward(&self, d_qkv: &Tensor, saved: &Saved, heads: Heads) -> Result<Tensor> {
        let end_of_queries = heads.query_width();
        let end_of_keys = end_of_queries + heads.kv_width();
        let d_queries = columns(d_qkv, 0..end_of_queries)?;
        let d_keys = columns(d_qkv, end_of_queries..end_of_keys)?;
        let parts = [
            backward(&self.query, &d_queries, &saved.query, heads)?,
            backward(&self.key, &d_keys, &saved.key, heads)?,
            columns(d_qkv, end_of_keys..heads.width())?,
        ];
        Tensor::cat(&parts, 1)
    }

    /// Whether a scale is trained.
    pub fn is_trained(&self) -> bool {
        self.query.is_trained() || self.key.is_trained()
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> [&mut Weight; 2] {
        [&mut self.query.weight, &mut self.key.weight]
    }
}

/// Heads of every token as rows, normalised and put back.
fn forward(norm: &RmsNorm, x: &Tensor, heads: Heads) -> Result<(Tensor, Normed)> {
    let (tokens, width) = x.dims2()?;
    let x = x.reshape((tokens * width / heads.head_dim, heads.head_dim))?;
    let (y, inverse) = norm.forward(&x, Layout::DENSE)?;
    Ok((y.reshape((tokens, width))?, Normed { x, inverse }))
}

fn backward(norm: &RmsNorm, dy: &Tensor, saved: &Normed, heads: Heads) -> Result<Tensor> {
    let (tokens, width) = dy.dims2()?;
    let dy = dy.reshape((tokens * width / heads.head_dim, heads.head_dim))?;
    let dx = norm.backward(&dy, &saved.x, &saved.inverse, None, Layout::DENSE)?;
    dx.reshape((tokens, width))
}
