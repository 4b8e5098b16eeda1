//! Linear layers on a GPU: one large product, adapters as small ones before it, frozen weights in
//! bf16 or fp8.
//!
//! A layer that is joined with its adapter makes `h = x A^T`, writes it behind the rows of `x`, and
//! has `[x, h] [W, B]^T` in one product, so that the output is written once and never read; the
//! gradient of the input likewise, of `[dy, dy B]` and `[W; A]`. That takes padding behind the
//! rows, which most of what comes before a layer leaves. Elsewhere what the adapter says is written
//! first and the large product adds itself to it: a small product that came second would have to
//! read the output again. Backwards, both gradients of an up-projection come from one reading of
//! the output's gradient where a kernel has its rank.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;
use half::bf16;

use crate::ops::cuda::adapter::UpBackward;
use crate::ops::cuda::address::Address;
use crate::ops::cuda::address::Plain;
use crate::ops::cuda::address::address;
use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::address::f32_of;
use crate::ops::cuda::address::rows_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::STRETCH;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;
use crate::ops::cuda::matrix::Matrix;
use crate::ops::cuda::matrix::Product;
use crate::ops::cuda::norm::column_sums;
use crate::ops::cuda::rows::transpose;
use crate::ops::linear::Adapter;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::rows::add_to;
use crate::ops::rows::columns;
use crate::ops::weight::Quantised;
use crate::ops::weight::Scales;
use crate::ops::weight::Weight;
use maqam_base::error::Error;

/// As `Linear::forward`.
pub fn forward(
    layer: &Linear,
    x: &Tensor,
    residual: Option<&Tensor>,
    dropout: AdapterDropout,
) -> Result<(Tensor, Option<Tensor>)> {
    let gpu = Gpu::of(x.device())?;
    let tokens = x.dim(0)?;
    let outputs = layer.weight.value.dim(0)?;
    let y = gpu.empty((tokens, outputs), DType::BF16)?;
    let mut input = Matrix::of(x)?;
    let mut weight = Matrix::of(&layer.weight.value)?;
    let mut start = residual.map(Matrix::of).transpose()?;
    let mut hidden = None;

    if let Some(adapter) = &layer.adapter {
        let found = down(&gpu, adapter, x, dropout)?;
        let padding = layer.padding();
        if padding > 0 && input.padding() >= padding {
            let scales: Vec<f32> = adapter
                .ups
                .iter()
                .flat_map(|up| up.ranks.clone().map(|_| up.scale as f32))
                .collect();
            let scales = gpu.table(&scales)?;
            write_beside(&gpu, input, padding, &found, scales.address())?;
            (input, weight) = (input.with_padding(padding), weight.with_padding(padding));
        } else {
            start = Some(up(&gpu, adapter, &found, &y, residual)?);
        }
        hidden = Some(found);
    }

    let bias = layer
        .bias
        .as_ref()
        .map(|bias| bf16_of(&bias.value))
        .transpose()?;

    match &layer.weight.quantised {
        None => {
            let product = Product::new(input, weight.t()).plus(start);
            gpu.product(Matrix::of(&y)?, Product { bias, ..product })?;
        }
        Some(quantised) => {
            let factor = Fp8Factor {
                weight: weight.t(),
                scales: f32_of(&scales_of(quantised)?.by_output)?,
                start,
                bias,
                // The forward's sums may be short: an error there is one among the rounding errors
                // of its inputs.
                is_fast: true,
            };
            factor.times(&gpu, x, &y)?;
        }
    }

    Ok((y, hidden))
}

/// `dropout(x) A^T`, one product for each mask.
fn down(gpu: &Gpu, adapter: &Adapter, x: &Tensor, dropout: AdapterDropout) -> Result<Tensor> {
    let hidden = gpu.empty((x.dim(0)?, adapter.num_ranks()), DType::BF16)?;
    for (site, rows) in adapter.masks(dropout.probability) {
        let dropped = dropout.dropped(x, site)?;
        let a = adapter.down.value.narrow(0, rows.start, rows.len())?;
        gpu.product(
            Matrix::of(&hidden)?.columns(rows),
            Product::new(
                Matrix::of(dropped.as_ref().unwrap_or(x))?,
                Matrix::of(&a)?.t(),
            ),
        )?;
    }
    Ok(hidden)
}

/// Writes `hidden`, times the factors of its columns where there are any, behind the rows of `x`,
/// and zeros to the end of the padding.
fn write_beside(
    gpu: &Gpu,
    x: Matrix,
    padding: usize,
    hidden: &Tensor,
    scales: Address,
) -> Result<()> {
    let (rows, ranks) = hidden.dims2()?;
    let arguments = arguments![
        x.behind(),
        bf16_of(hidden)?,
        scales,
        int(rows)?,
        int(ranks)?,
        int(padding)?,
        int(x.stride)?
    ];
    gpu.launch(
        "write_beside",
        ((rows * padding).div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments,
    )
}

/// Writes what the adapter says of `x A^T`, with `residual` added, into `y`: what the large product
/// is added to.
fn up(
    gpu: &Gpu,
    adapter: &Adapter,
    hidden: &Tensor,
    y: &Tensor,
    residual: Option<&Tensor>,
) -> Result<Matrix> {
    let (tokens, outputs) = y.dims2()?;
    let to = Matrix::of(y)?;
    let h = Matrix::of(hidden)?;
    let covered: usize = adapter.ups.iter().map(|up| up.columns.len()).sum();

    let start = if covered == outputs {
        residual.map(Matrix::of).transpose()?
    } else {
        let bytes = tokens * outputs * size_of::<bf16>();
        match residual {
            Some(residual) => gpu.copy(bf16_of(y)?, bf16_of(residual)?, bytes)?,
            None => gpu.clear(bf16_of(y)?, bytes)?,
        }
        Some(to)
    };

    for up in &adapter.ups {
        let columns = up.columns.clone();
        let product = Product::new(
            h.columns(up.ranks.clone()),
            Matrix::of(&up.weight.value)?.t(),
        )
        .scaled(up.scale);
        gpu.product(
            to.columns(columns.clone()),
            product.plus(start.map(|start| start.columns(columns))),
        )?;
    }

    Ok(to)
}

/// As `Linear::backward`.
pub fn backward(
    layer: &Linear,
    dy: &Tensor,
    x: &Tensor,
    hidden: Option<&Tensor>,
    dropout: AdapterDropout,
    want_input: bool,
) -> Result<Option<Tensor>> {
    let gpu = Gpu::of(x.device())?;
    let (tokens, inputs) = x.dims2()?;
    let d_out = Matrix::of(dy)?;
    if let Some(gradient) = &layer.weight.gradient {
        accumulate(&gpu, gradient, d_out.t(), Matrix::of(x)?, 1.0)?;
    }
    if let Some(gradient) = layer.bias.as_ref().and_then(|bias| bias.gradient.as_ref()) {
        column_sums(gradient, dy)?;
    }
    let mut output = d_out;
    let mut weight = Matrix::of(&layer.weight.value)?;
    let mut dx = None;

    if let (Some(adapter), Some(hidden)) = (&layer.adapter, hidden) {
        let d_hidden = adapter_backward(&gpu, adapter, d_out, x, hidden, dropout)?;
        let padding = layer.padding();
        if want_input && dropout.probability == 0.0 && padding > 0 && d_out.padding() >= padding {
            write_beside(&gpu, d_out, padding, &d_hidden, Address::NULL)?;
            (output, weight) = (d_out.with_padding(padding), weight.with_rows_below(padding));
        } else if want_input {
            for (site, rows) in adapter.masks(dropout.probability) {
                let d = gpu.empty((tokens, inputs), DType::BF16)?;
                let a = adapter.down.value.narrow(0, rows.start, rows.len())?;
                gpu.product(
                    Matrix::of(&d)?,
                    Product::new(Matrix::of(&d_hidden)?.columns(rows), Matrix::of(&a)?),
                )?;
                let d = dropout.dropped(&d, site)?.unwrap_or(d);
                match &dx {
                    Some(dx) => add_to(dx, &d)?,
                    None => dx = Some(d),
                }
            }
        }
    }

    if !want_input {
        return Ok(None);
    }
    let start = dx.as_ref().map(Matrix::of).transpose()?;
    let dx = dx.map_or_else(|| gpu.empty((tokens, inputs), DType::BF16), Ok)?;

    match &layer.weight.quantised {
        None => gpu.product(Matrix::of(&dx)?, Product::new(output, weight).plus(start))?,
        Some(quantised) => {
            let factor = Fp8Factor {
                weight: Matrix::of(&quantised.transposed)?.t(),
                scales: f32_of(&scales_of(quantised)?.by_input)?,
                start,
                bias: None,
                is_fast: false,
            };
            factor.times(&gpu, dy, &dx)?;
        }
    }

    Ok(Some(dx))
}

/// Adds to the gradients of A and B; returns the gradient of `dropout(x) A^T`.
fn adapter_backward(
    gpu: &Gpu,
    adapter: &Adapter,
    d_out: Matrix,
    x: &Tensor,
    hidden: &Tensor,
    dropout: AdapterDropout,
) -> Result<Tensor> {
    let d_hidden = gpu.empty(hidden.shape(), DType::BF16)?;
    let to = Matrix::of(&d_hidden)?;
    let h = Matrix::of(hidden)?;

    for up in &adapter.ups {
        let d_out = d_out.columns(up.columns.clone());
        if let Some(gradient) = &up.weight.gradient {
            let backward = UpBackward {
                d_out,
                hidden: h.columns(up.ranks.clone()),
                d_hidden: to.columns(up.ranks.clone()),
                up: Matrix::of(&up.weight.value)?,
                gradient: Matrix::of(gradient)?,
                scale: up.scale,
            };
            if backward.run(gpu)? {
                continue;
            }
        }
        if let Some(gradient) = &up.weight.gradient {
            accumulate(
                gpu,
                gradient,
                d_out.t(),
                h.columns(up.ranks.clone()),
                up.scale,
            )?;
        }
        gpu.product(
            to.columns(up.ranks.clone()),
            Product::new(d_out, Matrix::of(&up.weight.value)?).scaled(up.scale),
        )?;
    }

    if let Some(gradient) = &adapter.down.gradient {
        for (site, rows) in adapter.masks(dropout.probability) {
            let dropped = dropout.dropped(x, site)?;
            let x = Matrix::of(dropped.as_ref().unwrap_or(x))?;
            let gradient = gradient.narrow(0, rows.start, rows.len())?;
            accumulate(gpu, &gradient, to.columns(rows).t(), x, 1.0)?;
        }
    }

    Ok(d_hidden)
}

/// `gradient += scale a b`, in `f32`.
fn accumulate(gpu: &Gpu, gradient: &Tensor, a: Matrix, b: Matrix, scale: f64) -> Result<()> {
    let gradient = Matrix::of(gradient)?;
    gpu.product(
        gradient,
        Product::new(a, b).scaled(scale).plus(Some(gradient)),
    )
}

/// A matrix that is copied into another: the kernel's `Copy`.
#[derive(Clone, Copy)]
#[repr(C)]
struct MatrixCopy {
    from: u64,
    to: u64,
    stride: i64,
    rows: i32,
    columns: i32,
    first_block: i32,
    unused: i32,
}

// SAFETY: numbers that fill the structure without a gap.
unsafe impl Plain for MatrixCopy {}

/// As `ops::linear::copy_matrices`.
pub fn copy_matrices(copies: &[(Tensor, Tensor)]) -> Result<()> {
    let mut table = Vec::with_capacity(copies.len());
    let mut blocks = 0;
    for (from, to) in copies {
        let (rows, columns) = from.dims2()?;
        let (place, stride) = rows_of(to, DType::BF16)?;
        if to.dims() != from.dims() {
            candle_core::bail!("{:?} cannot be copied over {:?}", from.dims(), to.dims());
        }
        let rows_on_gpu = int(rows)?;
        let columns_on_gpu = int(columns)?;
        let first_block = int(blocks)?;
        let from = bf16_of(from)?.0;
        let stride = stride as i64;
        table.push(MatrixCopy {
            from,
            to: place.0,
            stride,
            rows: rows_on_gpu,
            columns: columns_on_gpu,
            first_block,
            unused: 0,
        });
        blocks += (rows * columns).div_ceil(STRETCH);
    }

    let Some((first, _)) = copies.first() else {
        return Ok(());
    };
    let gpu = Gpu::of(first.device())?;
    let on_gpu = gpu.table(&table)?;
    gpu.launch(
        "copy_matrices",
        (blocks, 1),
        (BLOCK, 1),
        0,
        arguments![on_gpu.address(), int(table.len())?],
    )
}

/// Bytes that rows are multiples of, and rows where the library wants it (cuBLAS manual, section on
/// `cublasLtMatmul` in fp8).
const ROW: usize = 16;

/// The major compute capability whose products take a scale for each row; later ones do not (cuBLAS
/// manual, "Scaling Mode Support Overview").
const HOPPER: i32 = 9;

/// Rows in fp8 with a scale for each.
struct Fp8Rows {
    values: Tensor,
    scale: Tensor,
}

/// Right factor of rows in fp8, and what is added to the product.
struct Fp8Factor {
    weight: Matrix,
    /// Scales of the weight's columns.
    scales: Address,
    start: Option<Matrix>,
    bias: Option<Address>,
    is_fast: bool,
}

impl Fp8Factor {
    /// The product of `x`, rounded, into `to`. Where the library refuses the number of rows, rows
    /// of zeros make it a multiple of 16.
    fn times(&self, gpu: &Gpu, x: &Tensor, to: &Tensor) -> Result<()> {
        let tokens = x.dim(0)?;
        let padded = tokens.next_multiple_of(ROW);
        let whole = self.product(gpu, &Fp8Rows::of(gpu, x, tokens)?, self.start, to);
        if whole.is_ok() || padded == tokens {
            return whole;
        }
        let outputs = to.dim(1)?;
        let bytes = tokens * outputs * size_of::<bf16>();
        let more = gpu.empty((padded, outputs), DType::BF16)?;
        let start = match self.start {
            Some(start) => {
                let rows = gpu.empty((padded, outputs), DType::BF16)?;
                gpu.copy(bf16_of(&rows)?, start.place, bytes)?;
                Some(rows)
            }
            None => None,
        };
        let added = start.as_ref().map(Matrix::of).transpose()?;
        self.product(gpu, &Fp8Rows::of(gpu, x, padded)?, added, &more)?;
        gpu.copy(bf16_of(to)?, bf16_of(&more)?, bytes)
    }

    fn product(&self, gpu: &Gpu, rows: &Fp8Rows, start: Option<Matrix>, to: &Tensor) -> Result<()> {
        let product = Product::new(Matrix::of(&rows.values)?, self.weight).plus(start);
        gpu.product(
            Matrix::of(to)?,
            Product {
                scales: Some((f32_of(&rows.scale)?, self.scales)),
                bias: self.bias,
                is_fast: self.is_fast,
                ..product
            },
        )
    }
}

impl Fp8Rows {
    /// The rows of `x`, and rows of zeros up to `total`.
    fn of(gpu: &Gpu, x: &Tensor, total: usize) -> Result<Self> {
        let (rows, width) = x.dims2()?;
        let values = gpu.empty((total, width), DType::F8E4M3)?;
        let scale = gpu.empty(total, DType::F32)?;
        let to: Address = address(&values, DType::F8E4M3)?;
        gpu.clear(to.at::<u8>(rows * width), (total - rows) * width)?;
        gpu.clear(
            f32_of(&scale)?.at::<f32>(rows),
            (total - rows) * size_of::<f32>(),
        )?;
        gpu.launch(
            "quantise_rows",
            (rows, 1),
            (BLOCK, 1),
            0,
            arguments![to, f32_of(&scale)?, bf16_of(x)?, int(width)?],
        )?;
        Ok(Self { values, scale })
    }
}

fn scales_of(quantised: &Quantised) -> Result<&Scales> {
    quantised.scales.as_ref().ok_or_else(|| {
        candle_core::Error::Msg("a weight of 8 bits without its scales was made for the CPU".into())
    })
}

/// A frozen weight `[out, in]` in fp8, as it is and transposed: products in fp8 want both factors'
/// inner dimension contiguous.
///
/// # Errors
/// If the GPU has no such products with a scale for each row, or the dimensions are not multiples
/// of 16.
pub fn quantise(weight: &Tensor) -> Result<Weight> {
    let gpu = Gpu::of(weight.device())?;
    let (outputs, inputs) = weight.dims2()?;
    // One that is joined with its adapter has that behind its rows.
    let weight = &if weight.is_contiguous() {
        weight.clone()
    } else {
        columns(weight, 0..inputs)?
    };
    let found = gpu.capability()?;

    if found.0 != HOPPER {
        return Err(Error::bug(format!(
            "fp8 with a scale per row needs a Hopper GPU (compute capability {HOPPER}.0), this one has compute capability {}.{}",
            found.0,
            found.1
        ))
        .hint("compute in bf16")
        .into());
    }

    if !outputs.is_multiple_of(ROW) || !inputs.is_multiple_of(ROW) {
        candle_core::bail!(
            "weights of 8 bits have dimensions that are multiples of {ROW}, found [{outputs}, {inputs}]"
        );
    }

    let by_output = Fp8Rows::of(&gpu, weight, outputs)?;
    let by_input = Fp8Rows::of(&gpu, &transpose(weight)?, inputs)?;

    let quantised = Quantised {
        transposed: by_input.values,
        scales: Some(Scales {
            by_output: by_output.scale,
            by_input: by_input.scale,
        }),
    };

    Ok(Weight::quantised(by_output.values, quantised))
}
