//! A linear layer whose weight may be frozen, with low-rank adapters beside it (Hu et al. 2021):
//! forward and backward.
//!
//! One layer can stand for several projections of the same input (query, key and value; gate and
//! up): their weights are stacked, their adapters' down-projections too, so that each is one matrix
//! product. A frozen weight is read, never differentiated.

use std::ops::Range;

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::new_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;
use crate::ops::dropout::Dropout;
use crate::ops::few_rows;
use crate::ops::fp8;
use crate::ops::gemm::Into;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;
use crate::ops::gemm::product_new;
use crate::ops::layout::Layout;
use crate::ops::norm::add_rows;
use crate::ops::rows::add_to;
use crate::ops::rows::zeros;
use crate::ops::weight::Weight;

/// Unit of [`Linear::padding`], in columns: products on a GPU sum 64 at a time, and memory is read
/// in pieces of that many bytes.
pub const PADDING: usize = 64;

/// Bytes that a number of a frozen weight takes in fp8 on a GPU: it is there twice.
pub const FP8_BYTES: usize = 2;

/// The adapter's up-projection of one of the stacked projections.
#[derive(Clone, Debug)]
pub struct Up {
    /// PEFT's `lora_B`, `[out, rank]`.
    pub weight: Weight,
    /// The columns of the layer's output that it adds to.
    pub columns: Range<usize>,
    /// The rows of the stacked down-projection that feed it.
    pub ranks: Range<usize>,
    /// Factor of what it adds: alpha / rank, or alpha / sqrt(rank) for rsLoRA.
    pub scale: f64,
    /// Names its dropout mask: projections of one site share a mask.
    pub site: u64,
}

/// Low-rank adapters of one layer.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// PEFT's `lora_A` of the adapted projections, stacked: `[sum of ranks, in]`.
    pub down: Weight,
    /// One up-projection for each; their `ranks` follow each other.
    pub ups: Vec<Up>,
    /// On a GPU, once [`Linear::join`] was called: `[[W, B], [A, 0]]`,
    /// `[out + padding, in + padding]`, whose upper left is the layer's weight.
    pub joined: Option<Tensor>,
}

/// `y = x W^T + b + scale (dropout(x) A^T) B^T`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Weight>,
    /// The adapters, where the layer has any.
    pub adapter: Option<Adapter>,
}

/// Share of the adapters' inputs that is dropped, and for which tokens: what [`Linear`] needs of a
/// training step.
#[derive(Clone, Copy, Debug)]
pub struct AdapterDropout<'a> {
    /// As in [`Dropout`].
    pub probability: f64,
    /// As in [`Dropout`].
    pub tokens: &'a [maqam_base::seed::Key],
}

impl AdapterDropout<'static> {
    /// No dropout.
    pub const NONE: Self = Self {
        probability: 0.0,
        tokens: &[],
    };
}

impl AdapterDropout<'_> {
    /// Input `x` with dropout at a layer's site; `None` where nothing is dropped.
    pub fn dropped(self, x: &Tensor, site: u64) -> Result<Option<Tensor>> {
        if self.probability == 0.0 {
            return Ok(None);
        }
        Dropout {
            probability: self.probability,
            tokens: self.tokens,
            site,
        }
        .apply(x)
        .map(Some)
    }
}

impl Linear {
    /// A frozen layer without adapters.
    pub fn frozen(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight: Weight::frozen(weight),
            bias: bias.map(Weight::frozen),
            adapter: None,
        }
    }

    /// Rounds a frozen weight to fp8; adapters and the bias stay as they are. On the CPU it takes
    /// twice its memory.
    ///
    /// # Errors
    /// If the weight is trained; on the CPU if it is not in `f32`; on a GPU that is no Hopper, or
    /// if a dimension is no multiple of 16.
    pub fn quantise(&mut self) -> Result<()> {
        if self.weight.gradient.is_some() {
            candle_core::bail!("a weight that is trained cannot have 8 bits");
        }
        if self.weight.quantised.is_none() {
            self.weight = quantised(&self.weight.value)?;
            self.adapter
                .iter_mut()
                .for_each(|adapter| adapter.joined = None);
        }
        Ok(())
    }

    /// Puts the adapter's matrices beside the frozen weight, so that a product with `[x, x A^T]` is
    /// both the layer's and the adapter's, and one with `[dy, dy B]` both gradients of the input:
    /// the output and the input's gradient are then written once and read never. Copies are kept:
    /// whoever changes the adapter calls [`copy_matrices`] with [`Linear::copies`]. Does nothing on
    /// the CPU.
    pub fn join(&mut self) -> Result<()> {
        let Some(adapter) = &mut self.adapter else {
            return Ok(());
        };
        if self.weight.value.device().is_cpu()
            || self.weight.gradient.is_some()
            || self.weight.quantised.is_some()
        {
            return Ok(());
        }
        let (outputs, inputs) = self.weight.value.dims2()?;
        let padding = adapter.num_ranks().next_multiple_of(PADDING);
        let joined = zeros((outputs + padding, inputs + padding), &self.weight.value)?;
        let value = joined.narrow(0, 0, outputs)?.narrow(1, 0, inputs)?;
        copy_matrices(&[(self.weight.value.clone(), value.clone())])?;
        (self.weight.value, adapter.joined) = (value, Some(joined));
        copy_matrices(&self.copies()?)
    }

    /// Columns of padding that the layer asks for behind the rows of its input and of its output's
    /// gradient on a GPU, to write `x A^T` or `dy B` there. None on the CPU, and for layers that
    /// are not joined.
    pub fn padding(&self) -> usize {
        let joined = self
            .adapter
            .as_ref()
            .and_then(|adapter| adapter.joined.as_ref());
        joined.map_or(0, |joined| joined.dims()[1] - self.weight.value.dims()[1])
    }

    /// The adapter's matrices, and where [`Linear::join`] has put copies of them.
    pub fn copies(&self) -> Result<Vec<(Tensor, Tensor)>> {
        let Some(adapter) = &self.adapter else {
            return Ok(Vec::new());
        };
        let Some(joined) = &adapter.joined else {
            return Ok(Vec::new());
        };
        let (outputs, inputs) = self.weight.value.dims2()?;
        let ranks = adapter.num_ranks();
        let below = joined.narrow(0, outputs, ranks)?.narrow(1, 0, inputs)?;
        let beside = |up: &Up| {
            joined
                .narrow(0, up.columns.start, up.columns.len())?
                .narrow(1, inputs + up.ranks.start, up.ranks.len())
        };
        let ups = adapter
            .ups
            .iter()
            .map(|up| Ok((up.weight.value.clone(), beside(up)?)));
        std::iter::once(Ok((adapter.down.value.clone(), below)))
            .chain(ups)
            .collect()
    }

    /// Whether the layer has a gradient to compute.
    pub fn is_trained(&self) -> bool {
        let adapter_is_trained = self
            .adapter
            .as_ref()
            .is_some_and(|adapter| adapter.down.gradient.is_some());
        adapter_is_trained
            || self.weight.gradient.is_some()
            || self.bias.as_ref().is_some_and(|b| b.gradient.is_some())
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let own = [&mut self.weight].into_iter().chain(&mut self.bias);
        let adapters = self.adapter.iter_mut().flat_map(|adapter| {
            [&mut adapter.down]
                .into_iter()
                .chain(adapter.ups.iter_mut().map(|up| &mut up.weight))
        });
        own.chain(adapters).collect()
    }

    /// `y = x W^T + b + scale (dropout(x) A^T) B^T + residual`, and `h = dropout(x) A^T`, which the
    /// adapters' backward needs.
    ///
    /// # Shapes
    /// `x`: `[tokens, in]`, `residual`: `[tokens, out]` -> `[tokens, out]` and
    /// `[tokens, sum of ranks]`
    pub fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        dropout: AdapterDropout,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (tokens, inputs) = x.dims2()?;
        let (outputs, expected) = self.weight.value.dims2()?;
        if inputs != expected {
            candle_core::bail!("a linear layer of {expected} inputs was given {inputs}");
        }

        if let Some(residual) = residual {
            expect_shape(
                "the residual of a linear layer",
                residual,
                &[tokens, outputs],
            )?;
        }

        if let Some(bias) = &self.bias {
            expect_shape("the bias of a linear layer", &bias.value, &[outputs])?;
        }

        on_cuda!(
            x.device(),
            crate::ops::cuda::linear::forward(self, x, residual, dropout)
        );

        // The adapter below reads `x` as it is.
        let rounded = self
            .weight
            .quantised
            .as_ref()
            .map(|_| fp8::rounded(x))
            .transpose()?;
        with_real!(x, T => {
            let xs = slice::<T>(rounded.as_ref().unwrap_or(x))?;
            let w = slice::<T>(&self.weight.value)?;
            let lhs = Matrix::new(&xs, tokens, inputs);
            let rhs = Matrix::new(&w, outputs, inputs).t();
            let mut y = match start::<T>(residual, self.bias.as_ref(), tokens, outputs)? {
                Some(mut y) => {
                    product(&mut y, outputs, lhs, rhs, 1.0, Into::Accumulate, Threads::All);
                    y
                }
                None => product_new(lhs, rhs, 1.0, Threads::All),
            };

            let hidden = match &self.adapter {
                Some(adapter) => Some(adapter.forward::<T>(&mut y, outputs, x, dropout)?),
                None => None,
            };

            Ok((tensor(y, (tokens, outputs))?, hidden))
        })
    }

    /// As [`Linear::forward`] without dropout, for the few rows of a step of generation: on the CPU
    /// the weight is read once and not copied.
    ///
    /// # Shapes
    /// `x`: `[rows, in]`, `residual`: `[rows, out]` -> `[rows, out]`
    pub fn step(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let dropout = AdapterDropout::NONE;
        let (rows, inputs) = x.dims2()?;
        let (outputs, expected) = self.weight.value.dims2()?;
        let is_few = x.device().is_cpu()
            && x.dtype() == DType::F32
            && rows <= few_rows::MOST
            && inputs == expected
            && self.weight.quantised.is_none();
        if !is_few {
            return Ok(self.forward(x, residual, dropout)?.0);
        }
        let xs = slice::<f32>(x)?;
        let mut y = self.weight.product_few(&xs, rows)?;
        if let Some(added) = start::<f32>(residual, self.bias.as_ref(), rows, outputs)? {
            y.iter_mut().zip(&added).for_each(|(y, x)| *y += x);
        }
        if let Some(adapter) = &self.adapter {
            adapter.forward::<f32>(&mut y, outputs, x, dropout)?;
        }
        tensor(y, (rows, outputs))
    }

    /// `dx = dy W + dropout(dh A)` where it is wanted, with `dh = scale dy B`. Adds `dW = dy^T x`,
    /// `db = sum over tokens of dy`, `dA = dh^T dropout(x)` and `dB = scale dy^T h` to the
    /// gradients of what is trained.
    ///
    /// # Shapes
    /// `dy`: `[tokens, out]`, `x`: `[tokens, in]`, `hidden`: what the forward returned ->
    /// `[tokens, in]`
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        hidden: Option<&Tensor>,
        dropout: AdapterDropout,
        want_input: bool,
    ) -> Result<Option<Tensor>> {
        let (tokens, inputs) = x.dims2()?;
        let (outputs, expected) = self.weight.value.dims2()?;
        if inputs != expected {
            candle_core::bail!("a linear layer of {expected} inputs was given {inputs}");
        }
        expect_shape("the gradient of a linear layer", dy, &[tokens, outputs])?;

        match (&self.adapter, hidden) {
            (Some(adapter), Some(hidden)) => expect_shape(
                "what the adapter's forward left",
                hidden,
                &[tokens, adapter.num_ranks()],
            )?,
            // Without it the adapter's gradients would be missing, and nobody would notice.
            (Some(_), None) => candle_core::bail!(
                "the backward of an adapted layer needs what its forward left, and found nothing"
            ),
            (None, _) => {}
        }

        on_cuda!(
            dy.device(),
            crate::ops::cuda::linear::backward(self, dy, x, hidden, dropout, want_input)
        );

        with_real!(dy, T => {
            let dys: &[T] = &slice::<T>(dy)?;
            let xs: &[T] = &slice::<T>(x)?;
            let w: &[T] = &slice::<T>(&self.weight.value)?;
            let d_out = Matrix::new(dys, tokens, outputs);
            if let Some(gradient) = &self.weight.gradient {
                write::<T>(gradient, |dw| product(dw, inputs, d_out.t(), Matrix::new(xs, tokens, inputs), 1.0, Into::Accumulate, Threads::All))?;
            }
            if let Some(gradient) = self.bias.as_ref().and_then(|b| b.gradient.as_ref()) {
                write::<T>(gradient, |db| add_rows(db, tokens, dys))?;
            }
            let mut dx = match &self.weight.quantised {
                _ if !want_input => Vec::new(),
                None => product_new(d_out, Matrix::new(w, outputs, inputs), 1.0, Threads::All),
                Some(quantised) => {
                    let dy = fp8::rounded(dy)?;
                    let dys = slice::<T>(&dy)?;
                    let w = slice::<T>(&quantised.transposed)?;
                    product_new(Matrix::new(&dys, tokens, outputs), Matrix::new(&w, inputs, outputs).t(), 1.0, Threads::All)
                }
            };

            if let (Some(adapter), Some(hidden)) = (&self.adapter, hidden) {
                let d_hidden = adapter.backward::<T>(dys, outputs, x, hidden, dropout)?;
                if want_input && dropout.probability == 0.0 {
                    let ranks = adapter.num_ranks();
                    let down = slice::<T>(&adapter.down.value)?;
                    let d_hidden = Matrix::new(&d_hidden, tokens, ranks);
                    let down = Matrix::new(&down, ranks, inputs);
                    product(&mut dx, inputs, d_hidden, down, 1.0, Into::Accumulate, Threads::All);
                } else if want_input {
                    let dx = tensor(dx, (tokens, inputs))?;
                    adapter.add_dropped_input::<T>(&dx, &d_hidden, dropout)?;
                    return Ok(Some(dx));
                }
            }

            if want_input { tensor(dx, (tokens, inputs)).map(Some) } else { Ok(None) }
        })
    }

    /// As [`Linear::backward`], for an input whose gradient is needed.
    pub fn backward_to_input(
        &self,
        dy: &Tensor,
        x: &Tensor,
        hidden: Option<&Tensor>,
        dropout: AdapterDropout,
    ) -> Result<Tensor> {
        match self.backward(dy, x, hidden, dropout, true)? {
            Some(dx) => Ok(dx),
            None => {
                candle_core::bail!("missing gradient: the backward of a linear layer returned none")
            }
        }
    }
}

impl From<&Linear> for Layout {
    /// The layout that a layer wants for its input and for its output's gradient.
    fn from(reader: &Linear) -> Self {
        reader.padding().into()
    }
}

/// Copies matrices on a GPU, each over another of its shape, whose rows may lie apart; all of them
/// at once.
pub fn copy_matrices(copies: &[(Tensor, Tensor)]) -> Result<()> {
    let Some((first, _)) = copies.first() else {
        return Ok(());
    };
    on_cuda!(
        first.device(),
        crate::ops::cuda::linear::copy_matrices(copies)
    );
    candle_core::bail!("matrices that lie apart are on GPUs alone")
}

fn quantised(value: &Tensor) -> Result<Weight> {
    on_cuda!(value.device(), crate::ops::cuda::linear::quantise(value));
    fp8::quantise(value)
}

/// Sum that a layer's product is added to: the residual and the bias, where there are any.
fn start<T: Real>(
    residual: Option<&Tensor>,
    bias: Option<&Weight>,
    tokens: usize,
    outputs: usize,
) -> Result<Option<Vec<T>>> {
    let past = residual.map(slice::<T>).transpose()?;
    let bias = bias.map(|bias| slice::<T>(&bias.value)).transpose()?;
    let past: Option<&[T]> = past.as_deref();
    let bias: Option<&[T]> = bias.as_deref();
    if past.is_none() && bias.is_none() {
        return Ok(None);
    }
    let rows = new_rows(
        tokens,
        outputs,
        #[inline(always)]
        |row, y: &mut [T]| {
            if let Some(past) = past {
                y.copy_from_slice(&past[row * outputs..][..outputs]);
            }
            if let Some(bias) = bias {
                y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        },
    );
    Ok(Some(rows))
}

impl Adapter {
    /// Sum of the ranks of the adapted projections.
    pub fn num_ranks(&self) -> usize {
        self.ups.iter().map(|up| up.ranks.len()).sum()
    }

    /// The dropout masks of a pass: the site of each, and the rows of the stacked down-projection
    /// whose input it drops. Where nothing is dropped these are all rows at once.
    pub fn masks(&self, probability: f64) -> Vec<(u64, Range<usize>)> {
        let mut masks: Vec<(u64, Range<usize>)> = Vec::new();
        for up in &self.ups {
            match masks.last_mut() {
                Some((site, ranks)) if *site == up.site || probability == 0.0 => {
                    ranks.end = up.ranks.end;
                }
                _ => masks.push((up.site, up.ranks.clone())),
            }
        }
        masks
    }

    /// Adds the adapter's output to `y`; returns `dropout(x) A^T`.
    fn forward<T: Real>(
        &self,
        y: &mut [T],
        outputs: usize,
        x: &Tensor,
        dropout: AdapterDropout,
    ) -> Result<Tensor> {
        let (tokens, inputs) = x.dims2()?;
        let ranks = self.num_ranks();
        let down = slice::<T>(&self.down.value)?;

        let mut hidden = vec![T::of(0.0); tokens * ranks];
        for (site, rows) in self.masks(dropout.probability) {
            let dropped = dropout.dropped(x, site)?;
            let xs = slice::<T>(dropped.as_ref().unwrap_or(x))?;
            let a = &down[rows.start * inputs..rows.end * inputs];
            product(
                &mut hidden[rows.start..],
                ranks,
                Matrix::new(&xs, tokens, inputs),
                Matrix::new(a, rows.len(), inputs).t(),
                1.0,
                Into::Fresh,
                Threads::All,
            );
        }

        for up in &self.ups {
            let b = slice::<T>(&up.weight.value)?;
            let b = Matrix::new(&b, up.columns.len(), up.ranks.len());
            let h = Matrix::strided(&hidden[up.ranks.start..], tokens, up.ranks.len(), ranks);
            product(
                &mut y[up.columns.start..],
                outputs,
                h,
                b.t(),
                up.scale,
                Into::Accumulate,
                Threads::All,
            );
        }

        tensor(hidden, (tokens, ranks))
    }

    /// Adds to the gradients of A and B; returns the gradient of `dropout(x) A^T`.
    fn backward<T: Real>(
        &self,
        dys: &[T],
        outputs: usize,
        x: &Tensor,
        hidden: &Tensor,
        dropout: AdapterDropout,
    ) -> Result<Vec<T>> {
        let (tokens, inputs) = x.dims2()?;
        let ranks = self.num_ranks();
        let hidden: &[T] = &slice::<T>(hidden)?;

        let mut d_hidden = vec![T::of(0.0); tokens * ranks];
        for up in &self.ups {
            let d_out =
                Matrix::strided(&dys[up.columns.start..], tokens, up.columns.len(), outputs);
            let rank = up.ranks.len();
            if let Some(gradient) = &up.weight.gradient {
                let h = Matrix::strided(&hidden[up.ranks.start..], tokens, rank, ranks);
                write::<T>(gradient, |db| {
                    product(
                        db,
                        rank,
                        d_out.t(),
                        h,
                        up.scale,
                        Into::Accumulate,
                        Threads::All,
                    )
                })?;
            }
            let b = slice::<T>(&up.weight.value)?;
            product(
                &mut d_hidden[up.ranks.start..],
                ranks,
                d_out,
                Matrix::new(&b, up.columns.len(), rank),
                up.scale,
                Into::Fresh,
                Threads::All,
            );
        }

        if let Some(gradient) = &self.down.gradient {
            for (site, rows) in self.masks(dropout.probability) {
                let dropped = dropout.dropped(x, site)?;
                let xs: &[T] = &slice::<T>(dropped.as_ref().unwrap_or(x))?;
                let d = Matrix::strided(&d_hidden[rows.start..], tokens, rows.len(), ranks);
                write::<T>(gradient, |da| {
                    product(
                        &mut da[rows.start * inputs..rows.end * inputs],
                        inputs,
                        d.t(),
                        Matrix::new(xs, tokens, inputs),
                        1.0,
                        Into::Accumulate,
                        Threads::All,
                    )
                })?;
            }
        }

        Ok(d_hidden)
    }

    /// Adds the adapter's part of the input's gradient where its inputs are dropped: of each mask
    /// `dropout(d A)`.
    fn add_dropped_input<T: Real>(
        &self,
        dx: &Tensor,
        d_hidden: &[T],
        dropout: AdapterDropout,
    ) -> Result<()> {
        let (tokens, inputs) = dx.dims2()?;
        let ranks = self.num_ranks();
        let down = slice::<T>(&self.down.value)?;
        for (site, rows) in self.masks(dropout.probability) {
            let d = Matrix::strided(&d_hidden[rows.start..], tokens, rows.len(), ranks);
            let a = &down[rows.start * inputs..rows.end * inputs];
            let d = product_new(d, Matrix::new(a, rows.len(), inputs), 1.0, Threads::All);
            if let Some(d) = dropout.dropped(&tensor(d, (tokens, inputs))?, site)? {
                add_to(dx, &d)?;
            }
        }
        Ok(())
    }
}
