//! A layer of the decoder of Qwen2.5 and Qwen3: pre-norm, grouped-query attention with rotary
//! positions, SwiGLU.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::cache::Cache;
use crate::nn::head_norms;
use crate::nn::head_norms::HeadNorms;
use crate::nn::rms_norm::RmsNorm;
use crate::nn::saving::Save;
use crate::nn::saving::or_again;
use crate::nn::saving::wanted;
use crate::ops::activation::swiglu;
use crate::ops::activation::swiglu_backward;
use crate::ops::attention::Heads;
use crate::ops::attention::Mask;
use crate::ops::attention::Past;
use crate::ops::attention::attention;
use crate::ops::attention::attention_backward;
use crate::ops::attention::attention_step;
use crate::ops::layout::Layout;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::rotary::Rotary;
use crate::ops::rows::columns;
use crate::ops::rows::gather;
use crate::ops::rows::spread;
use crate::ops::weight::Weight;
use maqam_base::seed::Key;

/// Packed sequences of a batch, and how a pass over them is computed.
#[derive(Clone, Copy)]
pub struct Packing<'a> {
    /// Starts of the sequences, and the number of tokens at the end.
    pub cu_seqlens: &'a [usize],
    /// Rotations of the positions.
    pub rotary: &'a Rotary,
    /// Dropout of the adapters.
    pub dropout: AdapterDropout<'a>,
    /// Amount that layers save for their backward.
    pub save: Save,
}

/// `a = x + W_o attention(R q, R k, v)` with `[q, k, v] = W_qkv norm(x) + b` and rotations `R`,
/// then `y = a + W_d (silu(g) u)` with `[g, u] = W_gu norm(a)`. Projections that share an input are
/// stacked. In Qwen3 the heads of `q` and `k` are normalised before `R`.
#[derive(Debug)]
pub struct DecoderLayer {
    /// `input_layernorm`.
    pub attention_norm: RmsNorm,
    /// `q_proj`, `k_proj`, `v_proj`.
    pub qkv: Linear,
    /// `q_norm` and `k_norm`, where the family has them.
    pub head_norms: Option<HeadNorms>,
    /// `o_proj`.
    pub output: Linear,
    /// `post_attention_layernorm`.
    pub mlp_norm: RmsNorm,
    /// `gate_proj`, `up_proj`.
    pub gate_up: Linear,
    /// `down_proj`.
    pub down: Linear,
    /// Division of the stacked projection into heads.
    pub heads: Heads,
}

/// Tensors that a layer's backward needs.
pub struct Saved {
    x: Tensor,
    keep: Option<Vec<u32>>,
    /// `None` where everything is computed again.
    activations: Option<Activations>,
    down_hidden: Option<Tensor>,
}

struct Activations {
    attention_inverse: Tensor,
    attention_in: Option<Tensor>,
    qkv: Tensor,
    qkv_hidden: Option<Tensor>,
    head_norms: Option<head_norms::Saved>,
    attended: Tensor,
    log_sums: Tensor,
    last_rows: Option<LastRows>,
    output_hidden: Option<Tensor>,
    /// `a` in the formula of the layer.
    middle: Tensor,
    mlp_inverse: Tensor,
    mlp_in: Option<Tensor>,
    gate_up: Tensor,
    gate_up_hidden: Option<Tensor>,
    activated: Option<Tensor>,
}

/// The rows that go on after the attention of the last layer.
struct LastRows {
    rows: Vec<u32>,
    attended: Tensor,
    /// Dropout streams of these rows; none where nothing is dropped.
    keys: Vec<Key>,
}

impl LastRows {
    fn of(attended: &Tensor, rows: &[u32], dropout: AdapterDropout) -> Result<Self> {
        let keys = if dropout.probability > 0.0 {
            rows.iter()
                .map(|&row| dropout.tokens[row as usize])
                .collect()
        } else {
            Vec::new()
        };
        Ok(Self {
            rows: rows.to_vec(),
            attended: gather(attended, rows)?,
            keys,
        })
    }
}

/// Dropout of the linear layers after attention.
fn dropout_after_attention<'a>(
    last_rows: Option<&'a LastRows>,
    dropout: AdapterDropout<'a>,
) -> AdapterDropout<'a> {
    match last_rows {
        Some(last_rows) if dropout.probability > 0.0 => AdapterDropout {
            tokens: &last_rows.keys,
            ..dropout
        },
        _ => dropout,
    }
}

impl Saved {
    /// Rotated queries, rotated keys and values, `[tokens, heads.width()]`: what generation caches.
    /// `None` under [`Save::Layer`].
    pub fn qkv(&self) -> Option<&Tensor> {
        self.activations
            .as_ref()
            .map(|activations| &activations.qkv)
    }
}

impl From<&DecoderLayer> for Layout {
    /// The layout that a layer wants for the gradient of its output.
    fn from(layer: &DecoderLayer) -> Self {
        Self::from(&layer.down)
    }
}

impl DecoderLayer {
    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let linears = [
            &mut self.qkv,
            &mut self.output,
            &mut self.gate_up,
            &mut self.down,
        ];
        let head_norms = self.head_norms.iter_mut().flat_map(HeadNorms::weights_mut);
        let norms = [&mut self.attention_norm.weight, &mut self.mlp_norm.weight];
        linears
            .into_iter()
            .flat_map(Linear::weights_mut)
            .chain(head_norms)
            .chain(norms)
            .collect()
    }

    /// Weights of the norms, in a fixed order.
    pub fn norms_mut(&mut self) -> impl Iterator<Item = &mut Weight> {
        let head_norms = self.head_norms.iter_mut().flat_map(HeadNorms::weights_mut);
        head_norms.chain([&mut self.attention_norm.weight, &mut self.mlp_norm.weight])
    }

    /// Whether the layer has something to train.
    pub fn is_trained(&self) -> bool {
        let linears = [&self.qkv, &self.output, &self.gate_up, &self.down];
        self.attention_norm.is_trained()
            || self.mlp_norm.is_trained()
            || self.head_norms.as_ref().is_some_and(HeadNorms::is_trained)
            || linears.iter().any(|linear| linear.is_trained())
    }

    /// `a = x + W_o attention(R q, R k, v)` with `[q, k, v] = W_qkv norm(x) + b`,
    /// `y = a + W_d (silu(g) u)` with `[g, u] = W_gu norm(a)`.
    ///
    /// Where `keep` names rows, only theirs go on after the attention: nothing later in the last
    /// layer reads the others.
    ///
    /// # Shapes
    /// `x`: `[tokens, dim]` -> `[tokens, dim]`, or `[keep, dim]`
    pub fn forward(
        &self,
        x: &Tensor,
        packing: &Packing,
        keep: Option<&[u32]>,
    ) -> Result<(Tensor, Saved)> {
        let (activated, activations) = self.activations(x, packing, keep)?;
        let dropout = dropout_after_attention(activations.last_rows.as_ref(), packing.dropout);
        let (y, down_hidden) = self
            .down
            .forward(&activated, Some(&activations.middle), dropout)?;

        let saved = Saved {
            x: x.clone(),
            keep: keep.map(<[u32]>::to_vec),
            activations: (packing.save != Save::Layer).then_some(activations),
            down_hidden,
        };
        Ok((y, saved))
    }

    /// Everything up to the last linear layer: that layer's input, and what the backward needs.
    fn activations(
        &self,
        x: &Tensor,
        packing: &Packing,
        keep: Option<&[u32]>,
    ) -> Result<(Tensor, Activations)> {
        let Packing {
            cu_seqlens,
            rotary,
            dropout,
            save,
        } = *packing;

        let (attention_in, attention_inverse) = self.attention_norm.forward(x, &self.qkv)?;
        let (qkv, qkv_hidden) = self.qkv.forward(&attention_in, None, dropout)?;
        let (qkv, head_norms) = self.norm_heads(qkv)?;
        rotary.apply(&qkv, self.heads.num_rotated())?;
        let (attended, log_sums) = attention(&qkv, cu_seqlens, self.heads, Mask::Causal)?;

        let last_rows = keep
            .map(|rows| LastRows::of(&attended, rows, dropout))
            .transpose()?;
        let (attended_rows, residual) = match &last_rows {
            Some(last_rows) => (&last_rows.attended, gather(x, &last_rows.rows)?),
            None => (&attended, x.clone()),
        };
        let dropout = dropout_after_attention(last_rows.as_ref(), dropout);
        let (middle, output_hidden) =
            self.output
                .forward(attended_rows, Some(&residual), dropout)?;

        let (mlp_in, mlp_inverse) = self.mlp_norm.forward(&middle, &self.gate_up)?;
        let (gate_up, gate_up_hidden) = self.gate_up.forward(&mlp_in, None, dropout)?;
        let activated = swiglu(&gate_up, &self.down)?;

        let all = save == Save::All;
        let activations = Activations {
            attention_inverse,
            attention_in: all.then_some(attention_in),
            qkv,
            qkv_hidden,
            head_norms,
            attended,
            log_sums,
            last_rows,
            output_hidden,
            middle,
            mlp_inverse,
            mlp_in: all.then_some(mlp_in),
            gate_up,
            gate_up_hidden,
            activated: all.then(|| activated.clone()),
        };
        Ok((activated, activations))
    }

    /// `da = dy + norm'(W_gu^T swiglu'(W_d^T dy))`, then
    /// `dx = da + norm'(W_qkv^T attention'(W_o^T da))`, where a prime is the backward of a
    /// function. Adds to the gradients of what is trained.
    ///
    /// `input` is the layout in which the gradient of the input is wanted; `None` where nothing
    /// before the layer is trained.
    ///
    /// # Shapes
    /// `dy`: as the forward's output -> `[tokens, dim]`
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &Saved,
        packing: &Packing,
        input: Option<Layout>,
    ) -> Result<Option<Tensor>> {
        let Packing {
            cu_seqlens,
            rotary,
            dropout,
            ..
        } = *packing;
        let Saved {
            x,
            keep,
            activations,
            down_hidden,
        } = saved;

        let again = match activations {
            Some(_) => None,
            None => Some(self.activations(x, packing, keep.as_deref())?.1),
        };

        let saved = wanted(activations.as_ref().or(again.as_ref()))?;
        let last_rows = saved.last_rows.as_ref();
        let rows_dropout = dropout_after_attention(last_rows, dropout);

        // MLP. What is large is dropped as soon as it is used up.
        let activated = or_again(&saved.activated, || swiglu(&saved.gate_up, &self.down))?;
        let d_activated =
            self.down
                .backward_to_input(dy, &activated, down_hidden.as_ref(), rows_dropout)?;
        drop(activated);
        let d_gate_up = swiglu_backward(&d_activated, &saved.gate_up, &self.gate_up)?;
        drop(d_activated);
        let mlp_in = or_again(&saved.mlp_in, || {
            self.mlp_norm
                .again(&saved.middle, &saved.mlp_inverse, &self.gate_up)
        })?;
        let d_mlp_in = self.gate_up.backward_to_input(
            &d_gate_up,
            &mlp_in,
            saved.gate_up_hidden.as_ref(),
            rows_dropout,
        )?;
        drop(d_gate_up);
        let d_middle = self.mlp_norm.backward(
            &d_mlp_in,
            &saved.middle,
            &saved.mlp_inverse,
            Some(dy),
            // `spread` below reads rows that follow each other.
            last_rows.map_or(Layout::from(&self.output), |_| Layout::DENSE),
        )?;

        // Attention.
        let attended_rows = last_rows.map_or(&saved.attended, |last_rows| &last_rows.attended);
        let d_attended = self.output.backward_to_input(
            &d_middle,
            attended_rows,
            saved.output_hidden.as_ref(),
            rows_dropout,
        )?;

        let (d_attended, d_residual) = match last_rows {
            Some(LastRows { rows, .. }) => {
                let tokens = x.dim(0)?;
                (
                    spread(&d_attended, rows, tokens)?,
                    spread(&d_middle, rows, tokens)?,
                )
            }
            None => (d_attended, d_middle),
        };

        let d_qkv = attention_backward(
            &d_attended,
            &saved.qkv,
            &saved.attended,
            &saved.log_sums,
            cu_seqlens,
            self.heads,
            Mask::Causal,
        )?;
        rotary.apply_backward(&d_qkv, self.heads.num_rotated())?;
        let d_qkv = match self.head_norms.as_ref().zip(saved.head_norms.as_ref()) {
            Some((norms, saved)) => norms.backward(&d_qkv, saved, self.heads)?,
            None => d_qkv,
        };
        let attention_in = or_again(&saved.attention_in, || {
            self.attention_norm
                .again(x, &saved.attention_inverse, &self.qkv)
        })?;
        let Some(d_attention_in) = self.qkv.backward(
            &d_qkv,
            &attention_in,
            saved.qkv_hidden.as_ref(),
            dropout,
            input.is_some() || self.attention_norm.is_trained(),
        )?
        else {
            return Ok(None);
        };
        self.attention_norm
            .backward(
                &d_attention_in,
                x,
                &saved.attention_inverse,
                Some(&d_residual),
                input.unwrap_or(Layout::DENSE),
            )
            .map(Some)
    }

    /// The forward for one new token of each of some sequences of a cache, by rising number; its
    /// key and value are cached first.
    ///
    /// # Shapes
    /// `x`: `[sequences, dim]` -> `[sequences, dim]`
    pub fn step(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        cache: &mut Cache,
        sequences: &[usize],
    ) -> Result<Tensor> {
        let (attention_in, _) = self.attention_norm.forward(x, &self.qkv)?;
        let (qkv, _) = self.norm_heads(self.qkv.step(&attention_in, None)?)?;
        rotary.apply(&qkv, self.heads.num_rotated())?;
        cache.append(&qkv, sequences.iter().map(|&sequence| (sequence, 1)))?;
        let attended = self.attend_to_cache(&qkv, cache, sequences)?;
        let middle = self.output.step(&attended, Some(x))?;

        let (mlp_in, _) = self.mlp_norm.forward(&middle, &self.gate_up)?;
        let gate_up = self.gate_up.step(&mlp_in, None)?;
        let activated = swiglu(&gate_up, &self.down)?;
        self.down.step(&activated, Some(&middle))
    }

    /// Attention of one new token of each sequence over all that are cached.
    fn attend_to_cache(&self, qkv: &Tensor, cache: &Cache, sequences: &[usize]) -> Result<Tensor> {
        let queries = columns(qkv, 0..self.heads.query_width())?;
        let views = sequences
            .iter()
            .map(|&sequence| cache.of(sequence))
            .collect::<Result<Vec<_>>>()?;
        let past: Vec<Past> = views
            .iter()
            .map(|(keys, values, len)| Past {
                keys,
                values,
                len: *len,
            })
            .collect();
        attention_step(&queries, &past, self.heads)
    }

    /// Queries and keys normalised where the family does that.
    fn norm_heads(&self, qkv: Tensor) -> Result<(Tensor, Option<head_norms::Saved>)> {
        let Some(norms) = &self.head_norms else {
            return Ok((qkv, None));
        };
        let (normed, saved) = norms.forward(&qkv, self.heads)?;
        Ok((normed, Some(saved)))
    }
}
