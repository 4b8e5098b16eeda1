//! Checks of linear layers with adapters, forwards and backwards, in 16 and in 8 bits.

use std::ops::Range;

use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use half::bf16;
use rayon::prelude::*;

use crate::bench::check::on::Bench;
use crate::bench::check::sample::Finding;
use crate::bench::check::sample::ROUNDED;
use crate::bench::check::sample::TWICE;
use crate::bench::check::sample::exact_rows;
use crate::bench::check::sample::flat;
use crate::bench::check::sample::numbers_of;
use crate::bench::check::sample::random;
use crate::bench::check::sample::random_with_room;
use crate::bench::check::sample::rows_of;
use crate::ops::device;
use crate::ops::fp8;
use crate::ops::gemm::Into;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;
use crate::ops::gemm::product_new;
use crate::ops::linear::Adapter;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::linear::Up;
use crate::ops::weight::Weight;

const NO_DROPOUT: AdapterDropout = AdapterDropout {
    probability: 0.0,
    tokens: &[],
};

/// What an adapter finds is rounded before it meets its second matrix, and so is their sum.
const ADAPTED: f64 = 2.0 * TWICE;
/// Gradients of A are sums over gradients that were rounded, those of B over rounded inputs.
const ADAPTER: f64 = TWICE;
/// Both factors are rounded to 8 bits on both sides, so the order of sums is left; but Hopper keeps
/// sums of fp8 in about 14 bits, which over thousands of terms is up to 2 percent (DeepSeek-V3,
/// section 3.3.2). A wrong scale is off by far more.
const FP8: f64 = 0.05;

/// Factor of what the adapters add.
const SCALE: f64 = 2.0;

/// Sizes of a layer.
struct Layout {
    inputs: usize,
    outputs: usize,
    /// Output columns of each adapter.
    ups: Vec<Range<usize>>,
    has_bias: bool,
    has_residual: bool,
}

impl Layout {
    fn qkv(bench: &Bench) -> Self {
        let heads = bench.sizes.heads;
        let keys = heads.query_width();
        let values = keys + heads.kv_width();
        Self {
            inputs: bench.sizes.hidden,
            outputs: heads.width(),
            ups: vec![0..keys, keys..values, values..heads.width()],
            has_bias: true,
            has_residual: false,
        }
    }

    fn output(bench: &Bench) -> Self {
        Self {
            inputs: bench.sizes.heads.query_width(),
            outputs: bench.sizes.hidden,
            ups: vec![0..bench.sizes.hidden],
            has_bias: false,
            has_residual: true,
        }
    }

    fn gate_up(bench: &Bench) -> Self {
        let width = bench.sizes.intermediate;
        Self {
            inputs: bench.sizes.hidden,
            outputs: 2 * width,
            ups: vec![0..width, width..2 * width],
            has_bias: false,
            has_residual: false,
        }
    }

    fn down(bench: &Bench) -> Self {
        Self {
            inputs: bench.sizes.intermediate,
            outputs: bench.sizes.hidden,
            ups: vec![0..bench.sizes.hidden],
            has_bias: false,
            has_residual: true,
        }
    }

    /// Query and value adapted alone, so that some columns have nothing but the frozen layer.
    fn partly(bench: &Bench) -> Self {
        let mut layout = Self::qkv(bench);
        layout.ups.remove(1);
        layout
    }

    fn shape(&self, tokens: usize) -> String {
        format!("{tokens} x {} -> {}", self.inputs, self.outputs)
    }
}

/// How a layer computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The adapter's matrices beside the weight.
    Joined,
    /// The adapter by products of its own.
    Apart,
    /// The adapter by products of its own, the weight in 8 bits.
    EightBits,
}

/// The same layer on the device and on the host.
struct Layer {
    on_device: Linear,
    on_host: OnHost,
    layout: Layout,
}

/// A layer's numbers in `f64`.
struct OnHost {
    inputs: usize,
    outputs: usize,
    /// The weight as the forward multiplies it, `[out, in]`, and as the backward does, where that
    /// differs.
    weight: Vec<f64>,
    backward_weight: Option<Vec<f64>>,
    bias: Option<Vec<f64>>,
    /// `[ranks, in]`.
    down: Vec<f64>,
    ranks: usize,
    /// Columns, ranks and `[columns, rank]` of each.
    ups: Vec<(Range<usize>, Range<usize>, Vec<f64>)>,
    is_rounded: bool,
}

impl Layer {
    /// A layer of random numbers; on the host once for the forward or once for the backward.
    fn new(bench: &Bench, layout: Layout, form: Form, is_backward: bool) -> Result<Self> {
        let device = bench.device;
        let inputs = layout.inputs;
        let outputs = layout.outputs;
        let deviation = 1.0 / (inputs as f64).sqrt();
        let weight = random(device, "weight", &[outputs, inputs], deviation)?;
        let bias = if layout.has_bias {
            Some(random(device, "bias", &[outputs], 1.0)?)
        } else {
            None
        };

        let rank = bench.sizes.rank;
        let ranks = rank * layout.ups.len();
        let down = trained(random(device, "A", &[ranks, inputs], deviation)?)?;
        let mut ups = Vec::new();
        let mut ups_on_host = Vec::new();
        for (i, columns) in layout.ups.iter().enumerate() {
            let deviation = 0.5 / (rank as f64).sqrt();
            let b = random(device, &format!("B {i}"), &[columns.len(), rank], deviation)?;
            let ranks = i * rank..(i + 1) * rank;
            ups_on_host.push((columns.clone(), ranks.clone(), numbers_of(&b)?));
            ups.push(Up {
                weight: trained(b)?,
                columns: columns.clone(),
                ranks,
                scale: SCALE,
                site: 3,
            });
        }

        let is_rounded = form == Form::EightBits;
        let values = device::to_host(&weight)?;
        let (weight_on_host, backward_weight) = match (is_rounded, is_backward) {
            (false, _) => (wide(&values), None),
            (true, false) => (rounded_rows(values, inputs)?, None),
            (true, true) => (Vec::new(), Some(rounded_columns(values, inputs))),
        };
        let on_host = OnHost {
            inputs,
            outputs,
            weight: weight_on_host,
            backward_weight,
            bias: bias.as_ref().map(numbers_of).transpose()?,
            down: numbers_of(&down.value)?,
            ranks,
            ups: ups_on_host,
            is_rounded,
        };
        let mut on_device = Linear::frozen(weight, bias);
        on_device.adapter = Some(Adapter {
            down,
            ups,
            joined: None,
        });
        match form {
            Form::Joined => on_device.join()?,
            Form::Apart => {}
            Form::EightBits => on_device.quantise()?,
        }
        Ok(Self {
            on_device,
            on_host,
            layout,
        })
    }
}

/// A trained matrix, whose gradient begins at one: what is there already must stay.
fn trained(value: Tensor) -> Result<Weight> {
    let gradient = device::zeros_f32(value.elem_count(), value.device())?;
    device::fill(&gradient, 1.0)?;
    let gradient = gradient.reshape(value.shape())?;
    Ok(Weight::trained(value, gradient))
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.par_iter().map(|&value| f64::from(value)).collect()
}

/// The rows as 8 bits hold them.
fn rounded_rows(values: Vec<f32>, width: usize) -> Result<Vec<f64>> {
    let rows = Tensor::from_vec(values.clone(), (values.len() / width, width), &Device::Cpu)?;
    flat(&fp8::rounded(&rows)?)
}

/// The columns as 8 bits hold them: each has a scale of its own.
fn rounded_columns(mut values: Vec<f32>, width: usize) -> Vec<f64> {
    // What is rounded to 8 bits has 16 bits before.
    values
        .par_iter_mut()
        .for_each(|value| *value = bf16::from_f32(*value).to_f32());
    let larger = |mut most: Vec<f32>, row: &[f32]| {
        for (most, value) in most.iter_mut().zip(row) {
            *most = most.max(value.abs());
        }
        most
    };
    let most = values
        .par_chunks_exact(width)
        .fold(|| vec![0f32; width], larger)
        .reduce(|| vec![0f32; width], |a, b| larger(a, &b));
    let scales: Vec<f32> = most
        .into_iter()
        .map(|most| if most > 0.0 { most / fp8::MOST } else { 1.0 })
        .collect();
    let rounded = |(i, value): (usize, &f32)| {
        let scale = scales[i % width];
        f64::from(fp8::nearest(value / scale) * scale)
    };
    values.par_iter().enumerate().map(rounded).collect()
}

impl OnHost {
    /// Rows as the large product takes them.
    fn factor(&self, rows: &[f64], width: usize) -> Result<Vec<f64>> {
        if self.is_rounded {
            rounded_rows(rows.iter().map(|&x| x as f32).collect(), width)
        } else {
            Ok(rows.to_vec())
        }
    }

    /// `x A^T`.
    fn hidden(&self, x: &[f64]) -> Vec<f64> {
        let x = Matrix::new(x, x.len() / self.inputs, self.inputs);
        let down = Matrix::new(&self.down, self.ranks, self.inputs);
        product_new(x, down.t(), 1.0, Threads::All)
    }

    fn forward(&self, x: &[f64], residual: Option<&[f64]>) -> Result<Vec<f64>> {
        let rows = x.len() / self.inputs;
        let factor = self.factor(x, self.inputs)?;
        let factor = Matrix::new(&factor, rows, self.inputs);
        let weight = Matrix::new(&self.weight, self.outputs, self.inputs);
        let mut y = product_new(factor, weight.t(), 1.0, Threads::All);
        if let Some(residual) = residual {
            y.iter_mut().zip(residual).for_each(|(y, x)| *y += x);
        }
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(self.outputs) {
                row.iter_mut().zip(bias).for_each(|(y, x)| *y += x);
            }
        }
        let hidden = self.hidden(x);
        for (columns, ranks, b) in &self.ups {
            let hidden = Matrix::strided(&hidden[ranks.start..], rows, ranks.len(), self.ranks);
            let b = Matrix::new(b, columns.len(), ranks.len());
            let to = &mut y[columns.start..];
            product(
                to,
                self.outputs,
                hidden,
                b.t(),
                SCALE,
                Into::Accumulate,
                Threads::All,
            );
        }
        Ok(y)
    }

    /// Gradient of `x A^T`.
    fn d_hidden(&self, dy: &[f64]) -> Vec<f64> {
        let rows = dy.len() / self.outputs;
        let mut d_hidden = vec![0.0; rows * self.ranks];
        for (columns, ranks, b) in &self.ups {
            let dy = Matrix::strided(&dy[columns.start..], rows, columns.len(), self.outputs);
            let b = Matrix::new(b, columns.len(), ranks.len());
            let to = &mut d_hidden[ranks.start..];
            product(to, self.ranks, dy, b, SCALE, Into::Fresh, Threads::All);
        }
        d_hidden
    }

    fn backward(&self, dy: &[f64]) -> Result<Vec<f64>> {
        let rows = dy.len() / self.outputs;
        let factor = self.factor(dy, self.outputs)?;
        let factor = Matrix::new(&factor, rows, self.outputs);
        let weight = self.backward_weight.as_ref().unwrap_or(&self.weight);
        let weight = Matrix::new(weight, self.outputs, self.inputs);
        let mut dx = product_new(factor, weight, 1.0, Threads::All);
        let d_hidden = self.d_hidden(dy);
        let d_hidden = Matrix::new(&d_hidden, rows, self.ranks);
        let down = Matrix::new(&self.down, self.ranks, self.inputs);
        product(
            &mut dx,
            self.inputs,
            d_hidden,
            down,
            1.0,
            Into::Accumulate,
            Threads::All,
        );
        Ok(dx)
    }
}

/// Some columns of a matrix, as rows.
fn columns_of(values: &[f64], width: usize, columns: &[usize]) -> Vec<f64> {
    columns
        .par_iter()
        .flat_map_iter(|&column| values.iter().skip(column).step_by(width).copied())
        .collect()
}

fn forward(bench: &Bench, layout: Layout, form: Form, tokens: usize) -> Result<Finding> {
    let layer = Layer::new(bench, layout, form, false)?;
    let layout = &layer.layout;
    let room = layer.on_device.padding();
    let x = random_with_room(bench.device, "x", (tokens, layout.inputs), room)?;
    let residual = if layout.has_residual {
        Some(random(
            bench.device,
            "residual",
            &[tokens, layout.outputs],
            1.0,
        )?)
    } else {
        None
    };
    let (y, hidden) = layer.on_device.forward(&x, residual.as_ref(), NO_DROPOUT)?;

    let rows = rows_of(tokens, bench.sizes.rows);
    let sampled = flat(&exact_rows(&x, &rows)?)?;
    let residual = residual
        .map(|residual| flat(&exact_rows(&residual, &rows)?))
        .transpose()?;
    let expected = layer.on_host.forward(&sampled, residual.as_deref())?;
    let bar = if form == Form::EightBits {
        FP8
    } else {
        ADAPTED
    };
    let mut finding = Finding::new(bench.device, layout.shape(tokens));
    finding.rows("output", &y, &rows, &expected, bar)?;
    if let Some(hidden) = hidden {
        let expected = layer.on_host.hidden(&sampled);
        finding.rows("x A^T", &hidden, &rows, &expected, ROUNDED)?;
    }
    Ok(finding)
}

fn backward(bench: &Bench, layout: Layout, form: Form, tokens: usize) -> Result<Finding> {
    let mut layer = Layer::new(bench, layout, form, true)?;
    let room = layer.on_device.padding();
    let inputs = layer.layout.inputs;
    let outputs = layer.layout.outputs;
    let x = random_with_room(bench.device, "x", (tokens, inputs), room)?;
    let dy = random_with_room(bench.device, "dy", (tokens, outputs), room)?;
    let (_, hidden) = layer.on_device.forward(&x, None, NO_DROPOUT)?;
    let Some(dx) = layer
        .on_device
        .backward(&dy, &x, hidden.as_ref(), NO_DROPOUT, true)?
    else {
        candle_core::bail!("a backward without the gradient of its input")
    };

    let rows = rows_of(tokens, bench.sizes.rows);
    let mut finding = Finding::new(bench.device, layer.layout.shape(tokens));
    let bar = if form == Form::EightBits {
        FP8
    } else {
        ADAPTED
    };
    let expected = layer.on_host.backward(&flat(&exact_rows(&dy, &rows)?)?)?;
    finding.rows("gradient of the input", &dx, &rows, &expected, bar)?;
    drop(dx);

    // A gradient of the adapter is a sum over all tokens, so some of its columns are summed in
    // full.
    let x = numbers_of(&x)?;
    let dy = numbers_of(&dy)?;
    let host = &layer.on_host;
    let Some(adapter) = &mut layer.on_device.adapter else {
        candle_core::bail!("a layer without its adapter")
    };
    let picked = rows_of(inputs, bench.sizes.rows);
    let columns = columns_of(&x, inputs, &picked);
    let d_hidden = host.d_hidden(&dy);
    let expected = product_new(
        Matrix::new(&columns, picked.len(), tokens),
        Matrix::new(&d_hidden, tokens, host.ranks),
        1.0,
        Threads::All,
    );
    see_gradient(
        &mut finding,
        "gradient of A",
        &adapter.down,
        Side::Columns(&picked),
        &expected,
    )?;

    let hidden = host.hidden(&x);
    for (up, (up_columns, ranks, _)) in adapter.ups.iter().zip(&host.ups) {
        let picked = rows_of(up_columns.len(), bench.sizes.rows);
        let places: Vec<usize> = picked.iter().map(|i| up_columns.start + i).collect();
        let columns = columns_of(&dy, outputs, &places);
        let expected = product_new(
            Matrix::new(&columns, picked.len(), tokens),
            Matrix::strided(&hidden[ranks.start..], tokens, ranks.len(), host.ranks),
            SCALE,
            Threads::All,
        );
        see_gradient(
            &mut finding,
            "gradient of B",
            &up.weight,
            Side::Rows(&picked),
            &expected,
        )?;
    }
    Ok(finding)
}

/// Rows or columns of a gradient that are compared.
enum Side<'a> {
    Rows(&'a [usize]),
    Columns(&'a [usize]),
}

/// Compares a gradient, which began at one; `expected` has a row for each row or column of it that
/// is looked at.
fn see_gradient(
    finding: &mut Finding,
    output: &'static str,
    weight: &Weight,
    side: Side,
    expected: &[f64],
) -> Result<()> {
    let Some(gradient) = &weight.gradient else {
        candle_core::bail!("a trained matrix without its gradient")
    };
    let (_, width) = gradient.dims2()?;
    let values = device::to_host(gradient)?;
    let found: Vec<f32> = match side {
        Side::Rows(rows) => rows
            .iter()
            .flat_map(|&row| &values[row * width..][..width])
            .copied()
            .collect(),
        Side::Columns(columns) => columns
            .iter()
            .flat_map(|&column| values.iter().skip(column).step_by(width))
            .copied()
            .collect(),
    };
    let expected: Vec<f64> = expected.iter().map(|x| x + 1.0).collect();
    finding.numbers(output, &found, &expected, ADAPTER);
    finding.whole(output, &values, 0);
    Ok(())
}

/// Query, key and value at once, with a bias.
pub fn qkv(bench: &Bench, tokens: usize) -> Result<Finding> {
    forward(bench, Layout::qkv(bench), Form::Joined, tokens)
}

pub fn qkv_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    backward(bench, Layout::qkv(bench), Form::Joined, tokens)
}

/// The attention's output, added to what passes by.
pub fn output(bench: &Bench, tokens: usize) -> Result<Finding> {
    forward(bench, Layout::output(bench), Form::Joined, tokens)
}

pub fn output_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    backward(bench, Layout::output(bench), Form::Joined, tokens)
}

/// Gate and up at once, the widest layer.
pub fn gate_up(bench: &Bench, tokens: usize) -> Result<Finding> {
    forward(bench, Layout::gate_up(bench), Form::Joined, tokens)
}

pub fn gate_up_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    backward(bench, Layout::gate_up(bench), Form::Joined, tokens)
}

/// The feed-forward part's output, added to what passes by.
pub fn down(bench: &Bench, tokens: usize) -> Result<Finding> {
    forward(bench, Layout::down(bench), Form::Joined, tokens)
}

pub fn down_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    backward(bench, Layout::down(bench), Form::Joined, tokens)
}

/// A layer whose adapter is not beside its weight, and covers some columns alone.
pub fn up_apart(bench: &Bench, tokens: usize) -> Result<Finding> {
    forward(bench, Layout::partly(bench), Form::Apart, tokens)
}

pub fn up_apart_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    backward(bench, Layout::partly(bench), Form::Apart, tokens)
}

/// In 8 bits: with a bias, and three adapters.
pub fn fp8_qkv(bench: &Bench, tokens: usize) -> Result<Finding> {
    forward(bench, Layout::qkv(bench), Form::EightBits, tokens)
}

pub fn fp8_qkv_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    backward(bench, Layout::qkv(bench), Form::EightBits, tokens)
}

/// In 8 bits: the longest sums, added to what passes by.
pub fn fp8_down(bench: &Bench, tokens: usize) -> Result<Finding> {
    forward(bench, Layout::down(bench), Form::EightBits, tokens)
}

pub fn fp8_down_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    backward(bench, Layout::down(bench), Form::EightBits, tokens)
}

/// A frozen layer of the audio encoder.
pub fn tower(bench: &Bench, tokens: usize) -> Result<Finding> {
    let inputs = bench.sizes.tower;
    let outputs = bench.sizes.tower_inside;
    let deviation = 1.0 / (inputs as f64).sqrt();
    let weight = random(bench.device, "weight", &[outputs, inputs], deviation)?;
    let bias = random(bench.device, "bias", &[outputs], 1.0)?;
    let x = random(bench.device, "x", &[tokens, inputs], 1.0)?;
    let layer = Linear::frozen(weight.clone(), Some(bias.clone()));
    let (y, _) = layer.forward(&x, None, NO_DROPOUT)?;

    let rows = rows_of(tokens, bench.sizes.rows);
    let x = flat(&exact_rows(&x, &rows)?)?;
    let weight = numbers_of(&weight)?;
    let weight = Matrix::new(&weight, outputs, inputs);
    let x = Matrix::new(&x, rows.len(), inputs);
    let mut expected = product_new(x, weight.t(), 1.0, Threads::All);
    let bias = numbers_of(&bias)?;
    for row in expected.chunks_exact_mut(outputs) {
        row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
    }
    let mut finding = Finding::new(bench.device, format!("{tokens} x {inputs} -> {outputs}"));
    finding.rows("output", &y, &rows, &expected, ROUNDED)?;
    Ok(finding)
}
