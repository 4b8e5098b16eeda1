//! The decoder of Qwen2.5 and Qwen3: pre-norm layers of grouped-query attention and SwiGLU, each a forward with its backward beside it.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::head_norms;
use crate::nn::head_norms::HeadNorms;
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
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::linear::Weight;
use crate::ops::norm::rms_norm;
use crate::ops::norm::rms_norm_again;
use crate::ops::norm::rms_norm_backward;
use crate::ops::rotary::Rotary;
use crate::ops::rows::columns;
use crate::ops::rows::gather;
use crate::ops::rows::overwrite;
use crate::ops::rows::spread;

/// What all layers need to know of a packed batch.
#[derive(Clone, Copy)]
pub struct Packing<'a> {
    /// Starts of the sequences, and the number of tokens at the end.
    pub cu_seqlens: &'a [usize],
    /// Rotations of the positions.
    pub rotary: &'a Rotary,
    /// Dropout of the adapters.
    pub dropout: AdapterDropout<'a>,
    /// What to keep for the backward.
    pub save: Save,
}

/// One layer. Projections that share an input are stacked.
#[derive(Debug)]
pub struct DecoderLayer {
    /// `input_layernorm`.
    pub attention_norm: Weight,
    /// `q_proj`, `k_proj`, `v_proj`.
    pub qkv: Linear,
    /// `q_norm` and `k_norm`, where the family has them.
    pub head_norms: Option<HeadNorms>,
    /// `o_proj`.
    pub output: Linear,
    /// `post_attention_layernorm`.
    pub mlp_norm: Weight,
    /// `gate_proj`, `up_proj`.
    pub gate_up: Linear,
    /// `down_proj`.
    pub down: Linear,
    /// How the stacked projection divides.
    pub heads: Heads,
    /// Added to the mean square in norms.
    pub eps: f64,
}

/// What a layer's backward needs.
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
    kept: Option<Kept>,
    output_hidden: Option<Tensor>,
    middle: Tensor,
    mlp_inverse: Tensor,
    mlp_in: Option<Tensor>,
    gate_up: Tensor,
    gate_up_hidden: Option<Tensor>,
    activated: Option<Tensor>,
}

struct Kept {
    rows: Vec<u32>,
    attended: Tensor,
}

impl Saved {
    /// Rotated queries, rotated keys and values, `[tokens, heads.width()]`: what generation caches. `None` under [`Save::Layer`].
    pub fn qkv(&self) -> Option<&Tensor> {
        self.activations
            .as_ref()
            .map(|activations| &activations.qkv)
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
        linears
            .into_iter()
            .flat_map(Linear::weights_mut)
            .chain(head_norms)
            .chain([&mut self.attention_norm, &mut self.mlp_norm])
            .collect()
    }

    /// Whether the layer has something to train.
    pub fn is_trained(&self) -> bool {
        let norms = [&self.attention_norm, &self.mlp_norm]
            .iter()
            .any(|norm| norm.gradient.is_some());
        norms
            || self.head_norms.as_ref().is_some_and(HeadNorms::is_trained)
            || [&self.qkv, &self.output, &self.gate_up, &self.down]
                .iter()
                .any(|linear| linear.is_trained())
    }

    /// The layer's output; where `keep` names rows, only theirs: nothing after the last attention looks at the others.
    ///
    /// # Shapes
    /// `x`: `[tokens, dim]` -> `[tokens, dim]`, or `[keep, dim]`
    pub fn forward(
        &self,
        x: &Tensor,
        packing: &Packing,
        keep: Option<&[u32]>,
    ) -> Result<(Tensor, Saved)> {
        let (activations, activated) = self.activations(x, packing, keep)?;
        let rest = self.dropout_of(packing, activations.kept.as_ref());
        let (y, down_hidden) = self.down.forward(
            &activated,
            Some(&activations.middle),
            rest.as_dropout(packing.dropout),
        )?;
        let activations = (packing.save != Save::Layer).then_some(activations);
        Ok((
            y,
            Saved {
                x: x.clone(),
                keep: keep.map(<[u32]>::to_vec),
                activations,
                down_hidden,
            },
        ))
    }

    /// Everything up to the last linear layer, and that layer's input.
    fn activations(
        &self,
        x: &Tensor,
        packing: &Packing,
        keep: Option<&[u32]>,
    ) -> Result<(Activations, Tensor)> {
        let Packing {
            cu_seqlens,
            rotary,
            dropout,
            save,
        } = *packing;
        let (attention_in, attention_inverse) =
            rms_norm(x, &self.attention_norm.value, self.eps, self.qkv.room())?;
        let (qkv, qkv_hidden) = self.qkv.forward(&attention_in, None, dropout)?;
        let (qkv, head_norms) = self.norm_heads(qkv)?;
        rotary.apply(&qkv, self.heads.num_heads + self.heads.num_kv_heads)?;
        let (attended, log_sums) = attention(&qkv, cu_seqlens, self.heads, Mask::Causal)?;

        let kept = keep
            .map(|rows| {
                Ok::<_, candle_core::Error>(Kept {
                    rows: rows.to_vec(),
                    attended: gather(&attended, rows)?,
                })
            })
            .transpose()?;
        let rest = self.dropout_of(packing, kept.as_ref());
        let rest = rest.as_dropout(dropout);
        let (attended_rows, residual) = match &kept {
            Some(kept) => (&kept.attended, gather(x, &kept.rows)?),
            None => (&attended, x.clone()),
        };
        let (middle, output_hidden) = self.output.forward(attended_rows, Some(&residual), rest)?;

        let (mlp_in, mlp_inverse) =
            rms_norm(&middle, &self.mlp_norm.value, self.eps, self.gate_up.room())?;
        let (gate_up, gate_up_hidden) = self.gate_up.forward(&mlp_in, None, rest)?;
        let activated = swiglu(&gate_up, self.down.room())?;

        let all = save == Save::All;
        let activations = Activations {
            attention_inverse,
            attention_in: all.then_some(attention_in),
            qkv,
            qkv_hidden,
            head_norms,
            attended,
            log_sums,
            kept,
            output_hidden,
            middle,
            mlp_inverse,
            mlp_in: all.then_some(mlp_in),
            gate_up,
            gate_up_hidden,
            activated: all.then(|| activated.clone()),
        };
        Ok((activations, activated))
    }

    /// Adds to the gradients of what is trained; returns the gradient of the input where something before the layer is trained: `input` is
    /// then the room that whatever takes it wants behind its rows.
    ///
    /// # Shapes
    /// `dy`: as the forward's output -> `[tokens, dim]`
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &Saved,
        packing: &Packing,
        input: Option<usize>,
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
            None => Some(self.activations(x, packing, keep.as_deref())?.0),
        };
        let saved = wanted(activations.as_ref().or(again.as_ref()))?;
        let rest = self.dropout_of(packing, saved.kept.as_ref());
        let rest = rest.as_dropout(dropout);

        let activated = or_again(&saved.activated, || {
            swiglu(&saved.gate_up, self.down.room())
        })?;
        let d_activated =
            wanted(
                self.down
                    .backward(dy, &activated, down_hidden.as_ref(), rest, true)?,
            )?;
        drop(activated);
        let d_gate_up = swiglu_backward(&d_activated, &saved.gate_up, self.gate_up.room())?;
        drop(d_activated);
        let mlp_in = or_again(&saved.mlp_in, || {
            rms_norm_again(
                &saved.middle,
                &self.mlp_norm.value,
                &saved.mlp_inverse,
                self.gate_up.room(),
            )
        })?;
        let d_mlp_in = wanted(self.gate_up.backward(
            &d_gate_up,
            &mlp_in,
            saved.gate_up_hidden.as_ref(),
            rest,
            true,
        )?)?;
        drop(d_gate_up);
        let norm = &self.mlp_norm;
        let room = if saved.kept.is_none() {
            self.output.room()
        } else {
            0
        };
        let d_middle = rms_norm_backward(
            &d_mlp_in,
            &saved.middle,
            &norm.value,
            &saved.mlp_inverse,
            Some(dy),
            norm.gradient.as_ref(),
            room,
        )?;

        let attended_rows = saved
            .kept
            .as_ref()
            .map_or(&saved.attended, |kept| &kept.attended);
        let d_attended = wanted(self.output.backward(
            &d_middle,
            attended_rows,
            saved.output_hidden.as_ref(),
            rest,
            true,
        )?)?;
        let (d_attended, d_residual) = match &saved.kept {
            Some(kept) => {
                let tokens = x.dim(0)?;
                (
                    spread(&d_attended, &kept.rows, tokens)?,
                    spread(&d_middle, &kept.rows, tokens)?,
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
        rotary.apply_backward(&d_qkv, self.heads.num_heads + self.heads.num_kv_heads)?;
        let d_qkv = match self.head_norms.as_ref().zip(saved.head_norms.as_ref()) {
            Some((norms, saved)) => norms.backward(&d_qkv, saved, self.heads)?,
            None => d_qkv,
        };
        let attention_in = or_again(&saved.attention_in, || {
            rms_norm_again(
                x,
                &self.attention_norm.value,
                &saved.attention_inverse,
                self.qkv.room(),
            )
        })?;
        let want_norm = input.is_some() || self.attention_norm.gradient.is_some();
        let Some(d_attention_in) = self.qkv.backward(
            &d_qkv,
            &attention_in,
            saved.qkv_hidden.as_ref(),
            dropout,
            want_norm,
        )?
        else {
            return Ok(None);
        };
        let norm = &self.attention_norm;
        let room = input.unwrap_or(0);
        rms_norm_backward(
            &d_attention_in,
            x,
            &norm.value,
            &saved.attention_inverse,
            Some(&d_residual),
            norm.gradient.as_ref(),
            room,
        )
        .map(Some)
    }

    /// One new token of each of some sequences of a cache, by rising number; its key and value are put into the cache first.
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
        let (attention_in, _) = rms_norm(x, &self.attention_norm.value, self.eps, self.qkv.room())?;
        let (qkv, _) = self.norm_heads(self.qkv.step(&attention_in, None)?)?;
        rotary.apply(&qkv, self.heads.num_heads + self.heads.num_kv_heads)?;
        cache.append(&qkv, sequences.iter().map(|&sequence| (sequence, 1)))?;
        let queries = columns(&qkv, 0..self.heads.query_width())?;
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
        let attended = attention_step(&queries, &past, self.heads)?;
        let middle = self.output.step(&attended, Some(x))?;
        let (mlp_in, _) = rms_norm(&middle, &self.mlp_norm.value, self.eps, self.gate_up.room())?;
        let gate_up = self.gate_up.step(&mlp_in, None)?;
        let activated = swiglu(&gate_up, self.down.room())?;
        self.down.step(&activated, Some(&middle))
    }

    /// Queries and keys normalised where the family does that.
    fn norm_heads(&self, qkv: Tensor) -> Result<(Tensor, Option<head_norms::Saved>)> {
        let Some(norms) = &self.head_norms else {
            return Ok((qkv, None));
        };
        let (normed, saved) = norms.forward(&qkv, self.heads, self.eps)?;
        Ok((normed, Some(saved)))
    }

    /// The dropout streams of the rows that are left after the attention.
    fn dropout_of(&self, packing: &Packing, kept: Option<&Kept>) -> RowKeys {
        match kept {
            Some(kept) if packing.dropout.probability > 0.0 => RowKeys(Some(
                kept.rows
                    .iter()
                    .map(|&row| packing.dropout.tokens[row as usize])
                    .collect(),
            )),
            _ => RowKeys(None),
        }
    }
}

struct RowKeys(Option<Vec<maqam_base::seed::Key>>);

impl RowKeys {
    fn as_dropout<'a>(&'a self, all: AdapterDropout<'a>) -> AdapterDropout<'a> {
        self.0
            .as_deref()
            .map_or(all, |tokens| AdapterDropout { tokens, ..all })
    }
}

/// Keys and values of some sequences in one layer, one room after the other: `[sum of rooms, kv_width]` each.
#[derive(Debug)]
pub struct Cache {
    keys: Tensor,
    values: Tensor,
    heads: Heads,
    /// Where each sequence's room begins, and the end of the last.
    starts: Vec<usize>,
    /// Tokens in each room.
    lens: Vec<usize>,
}

impl Cache {
    /// Room for `capacities[i]` tokens of sequence `i`.
    pub fn new(capacities: &[usize], heads: Heads, like: &Tensor) -> Result<Self> {
        let ends = capacities.iter().scan(0, |end, capacity| {
            *end += capacity;
            Some(*end)
        });
        let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let room = || {
            Tensor::zeros(
                (capacities.iter().sum::<usize>(), heads.kv_width()),
                like.dtype(),
                like.device(),
            )
        };
        Ok(Self {
            keys: room()?,
            values: room()?,
            heads,
            starts,
            lens: vec![0; capacities.len()],
        })
    }

    /// Takes keys and values of the next tokens out of their stacked projections: for each sequence that is named so many rows of `qkv`,
    /// one sequence after the other.
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
        let (first, width) = (self.heads.query_width(), self.heads.kv_width());
        overwrite(&self.keys, &rows, &columns(qkv, first..first + width)?)?;
        overwrite(
            &self.values,
            &rows,
            &columns(qkv, first + width..first + 2 * width)?,
        )
    }

    /// Forgets all but the first `len` tokens of a sequence.
    pub fn rewind(&mut self, sequence: usize, len: usize) {
        self.lens[sequence] = self.lens[sequence].min(len);
    }

    /// Views of a sequence's keys and values, and how many rows are filled.
    fn of(&self, sequence: usize) -> Result<(Tensor, Tensor, usize)> {
        let (start, end) = (self.starts[sequence], self.starts[sequence + 1]);
        Ok((
            self.keys.narrow(0, start, end - start)?,
            self.values.narrow(0, start, end - start)?,
            self.lens[sequence],
        ))
    }
}
