//! Trained embeddings of single tokens, such as those that open and close a clip, in a table that
//! is frozen otherwise.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::cross_entropy::Targets;
use crate::ops::cross_entropy::head_rows_backward;
use crate::ops::rows::gather;
use crate::ops::rows::scatter_add;
use crate::ops::weight::Weight;

/// Rows of the table of token embeddings, `[tokens, hidden]`. The table holds a copy of them, so a
/// forward reads the table alone.
#[derive(Debug)]
pub struct TokenEmbeddings {
    /// Their values and gradient.
    pub weight: Weight,
    /// Their tokens.
    pub ids: Vec<u32>,
    /// Whether the head is the table, and sees the same rows.
    pub is_head_tied: bool,
}

impl TokenEmbeddings {
    /// Whether they are not frozen for now.
    pub fn is_trained(&self) -> bool {
        self.weight.gradient.is_some()
    }

    /// Adds the gradient of the decoder's input at each place of one of the tokens. `places` are
    /// the places of a batch whose input is an embedding of a token, and `tokens` their tokens.
    ///
    /// # Shapes
    /// `dx`: `[all places, hidden]`, gradient of the decoder's input
    pub fn backward(&self, places: &[u32], tokens: &[u32], dx: &Tensor) -> Result<()> {
        let Some(gradient) = &self.weight.gradient else {
            return Ok(());
        };
        let mut found = Vec::new();
        let mut rows = Vec::new();
        for (&place, token) in places.iter().zip(tokens) {
            if let Some(row) = self.ids.iter().position(|id| id == token) {
                found.push(place);
                rows.push(row as u32);
            }
        }
        scatter_add(gradient, &rows, &gather(dx, &found)?)
    }

    /// Adds the gradients that the head's rows have from the loss, where the head is the table.
    ///
    /// # Shapes
    /// `states`: `[rows of targets, hidden]`, input of the head; `head`: `[vocab, hidden]`
    pub fn head_backward(
        &self,
        states: &Tensor,
        head: &Tensor,
        targets: Targets,
        loss: &CrossEntropy,
    ) -> Result<()> {
        match &self.weight.gradient {
            Some(gradient) if self.is_head_tied => {
                head_rows_backward(gradient, &self.ids, states, head, targets, loss)
            }
            _ => Ok(()),
        }
    }
}
