//! Norms of queries and keys, head by head, before they are rotated (Qwen3): forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::attention::Heads;
use crate::ops::linear::Weight;
use crate::ops::norm::rms_norm;
use crate::ops::norm::rms_norm_backward;
use crate::ops::rows::columns;

/// Scales of both norms, each shared by all heads of its projection.
#[derive(Debug)]
pub struct HeadNorms {
    /// `q_norm`, `[head_dim]`.
    pub query: Weight,
    /// `k_norm`, `[head_dim]`.
    pub key: Weight,
}

/// What the backward of one norm needs: what was normalised, a row for each head, and its inverse root mean squares.
struct Normed {
    x: Tensor,
    inverse: Tensor,
}

/// What the backward of both needs.
pub struct Saved {
    query: Normed,
    key: Normed,
}

impl HeadNorms {
    /// The projections with normalised queries and keys.
    ///
    /// # Shapes
    /// `qkv`: `[tokens, heads.width()]` -> the same
    pub fn forward(&self, qkv: &Tensor, heads: Heads, eps: f64) -> Result<(Tensor, Saved)> {
        let (query, normed_query) = norm(
            &columns(qkv, 0..heads.query_width())?,
            &self.query,
            heads,
            eps,
        )?;
        let end_of_keys = heads.query_width() + heads.kv_width();
        let keys = columns(qkv, heads.query_width()..end_of_keys)?;
        let (key, normed_key) = norm(&keys, &self.key, heads, eps)?;
        let values = columns(qkv, end_of_keys..heads.width())?;
        let saved = Saved {
            query: normed_query,
            key: normed_key,
        };
        Ok((Tensor::cat(&[query, key, values], 1)?, saved))
    }

    /// Gradient of the projections; adds to the gradients of the scales where they have one.
    pub fn backward(&self, d_qkv: &Tensor, saved: &Saved, heads: Heads) -> Result<Tensor> {
        let end_of_keys = heads.query_width() + heads.kv_width();
        let d_query = columns(d_qkv, 0..heads.query_width())?;
        let d_keys = columns(d_qkv, heads.query_width()..end_of_keys)?;
        let parts = [
            norm_backward(&d_query, &self.query, &saved.query, heads)?,
            norm_backward(&d_keys, &self.key, &saved.key, heads)?,
            columns(d_qkv, end_of_keys..heads.width())?,
        ];
        Tensor::cat(&parts, 1)
    }

    /// Whether a scale is trained.
    pub fn is_trained(&self) -> bool {
        self.query.gradient.is_some() || self.key.gradient.is_some()
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> [&mut Weight; 2] {
        [&mut self.query, &mut self.key]
    }
}

/// Heads of every token as rows, normalised and put back.
fn norm(x: &Tensor, weight: &Weight, heads: Heads, eps: f64) -> Result<(Tensor, Normed)> {
    let (tokens, width) = x.dims2()?;
    let x = x.reshape((tokens * width / heads.head_dim, heads.head_dim))?;
    let (y, inverse) = rms_norm(&x, &weight.value, eps, 0)?;
    Ok((y.reshape((tokens, width))?, Normed { x, inverse }))
}

fn norm_backward(dy: &Tensor, weight: &Weight, saved: &Normed, heads: Heads) -> Result<Tensor> {
    let (tokens, width) = dy.dims2()?;
    let dy = dy.reshape((tokens * width / heads.head_dim, heads.head_dim))?;
    let gradient = weight.gradient.as_ref();
    let dx = rms_norm_backward(
        &dy,
        &saved.x,
        &weight.value,
        &saved.inverse,
        None,
        gradient,
        0,
    )?;
    dx.reshape((tokens, width))
}
