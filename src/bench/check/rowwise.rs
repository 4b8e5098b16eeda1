//! Checks of what works on rows: norms, activations, rotations, dropout, and what moves rows.

use candle_core::Result;
use candle_core::Tensor;

use crate::bench::check::on::Bench;
use crate::bench::check::sample::Finding;
use crate::bench::check::sample::ROUNDED;
use crate::bench::check::sample::ROUNDING;
use crate::bench::check::sample::SINGLE;
use crate::bench::check::sample::exact;
use crate::bench::check::sample::exact_rows;
use crate::bench::check::sample::flat;
use crate::bench::check::sample::numbers_of;
use crate::bench::check::sample::pick;
use crate::bench::check::sample::random;
use crate::bench::check::sample::rows_of;
use crate::ops::activation;
use crate::ops::convolution;
use crate::ops::device;
use crate::ops::dropout::Dropout;
use crate::ops::norm;
use crate::ops::rotary::Rotary;
use crate::ops::rows;
use crate::seed::Key;

const EPS: f64 = 1e-6;

/// Numbers behind every row, as a layer with adapters asks for them; none on the CPU.
fn room(bench: &Bench) -> usize {
    if bench.device.is_cpu() {
        0
    } else {
        crate::ops::linear::PADDING
    }
}

fn shape(tensor: &Tensor) -> String {
    let dims: Vec<String> = tensor.dims().iter().map(usize::to_string).collect();
    dims.join(" x ")
}

/// Row-wise functions are checked on the host over the sampled rows alone.
struct Sample<'a> {
    bench: &'a Bench<'a>,
    rows: Vec<usize>,
}

impl<'a> Sample<'a> {
    fn of(bench: &'a Bench, total: usize) -> Self {
        Self {
            bench,
            rows: rows_of(total, bench.sizes.rows),
        }
    }

    /// A finding over these rows of one output.
    fn finding(&self, found: &Tensor, exact: &Tensor, bar: f64) -> Result<Finding> {
        let mut finding = Finding::new(self.bench.device, shape(found));
        finding.rows("output", found, &self.rows, &flat(exact)?, bar)?;
        Ok(finding)
    }
}

/// The norm, its statistics, and the norm once more from them.
pub fn rms_norm(bench: &Bench, tokens: usize) -> Result<Finding> {
    let hidden = bench.sizes.hidden;
    let x = random(bench.device, "x", &[tokens, hidden], 1.0)?;
    let weight = random(bench.device, "weight", &[hidden], 1.0)?;
    let (y, inverse) = norm::rms_norm(&x, &weight, EPS, room(bench))?;
    let again = norm::rms_norm_again(&x, &weight, &inverse, room(bench))?;

    let sample = Sample::of(bench, tokens);
    let x = exact_rows(&x, &sample.rows)?;
    let (expected, statistics) = norm::rms_norm(&x, &exact(&weight)?, EPS, 0)?;
    let mut finding = sample.finding(&y, &expected, ROUNDED)?;
    let inverse = inverse.reshape((tokens, 1))?;
    finding.rows(
        "statistics",
        &inverse,
        &sample.rows,
        &flat(&statistics)?,
        SINGLE,
    )?;
    finding.rows(
        "computed again",
        &again,
        &sample.rows,
        &flat(&expected)?,
        ROUNDED,
    )?;
    Ok(finding)
}

/// Gradients of the norm's input, with what passes beside the norm, and of its weight.
pub fn rms_norm_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    let hidden = bench.sizes.hidden;
    let of = |name: &str| random(bench.device, name, &[tokens, hidden], 1.0);
    let x = of("x")?;
    let dy = of("dy")?;
    let past = of("residual")?;
    let weight = random(bench.device, "weight", &[hidden], 1.0)?;
    let (_, inverse) = norm::rms_norm(&x, &weight, EPS, 0)?;
    let d_weight = device::zeros_f32(hidden, bench.device)?;
    let found = norm::rms_norm_backward(
        &dy,
        &x,
        &weight,
        &inverse,
        Some(&past),
        Some(&d_weight),
        room(bench),
    )?;

    let sample = Sample::of(bench, tokens);
    let x = exact(&x)?;
    let dy = exact(&dy)?;
    let past = exact(&past)?;
    let weight = exact(&weight)?;
    let (_, inverse) = norm::rms_norm(&x, &weight, EPS, 0)?;
    let d_weight_exact = weight.zeros_like()?;
    let expected = norm::rms_norm_backward(
        &dy,
        &x,
        &weight,
        &inverse,
        Some(&past),
        Some(&d_weight_exact),
        0,
    )?;
    let mut finding = Finding::new(bench.device, shape(&found));
    let expected = pick(&expected, &sample.rows)?;
    finding.rows(
        "gradient of the input",
        &found,
        &sample.rows,
        &expected,
        ROUNDED,
    )?;
    let d_weight = device::to_host(&d_weight)?;
    finding.numbers(
        "gradient of the weight",
        &d_weight,
        &flat(&d_weight_exact)?,
        SINGLE,
    );
    Ok(finding)
}

/// The norm of the audio encoder.
pub fn layer_norm(bench: &Bench, tokens: usize) -> Result<Finding> {
    let width = bench.sizes.tower;
    let x = random(bench.device, "x", &[tokens, width], 1.0)?;
    let weight = random(bench.device, "weight", &[width], 1.0)?;
    let bias = random(bench.device, "bias", &[width], 1.0)?;
    let (y, statistics) = norm::layer_norm(&x, &weight, &bias, EPS)?;
    let again = norm::layer_norm_again(&x, &weight, &bias, &statistics)?;

    let sample = Sample::of(bench, tokens);
    let x = exact_rows(&x, &sample.rows)?;
    let (expected, _) = norm::layer_norm(&x, &exact(&weight)?, &exact(&bias)?, EPS)?;
    let mut finding = sample.finding(&y, &expected, ROUNDED)?;
    finding.rows(
        "computed again",
        &again,
        &sample.rows,
        &flat(&expected)?,
        ROUNDED,
    )?;
    Ok(finding)
}

/// Gradients of that norm's input, weight and bias.
pub fn layer_norm_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    let width = bench.sizes.tower;
    let of = |name: &str| random(bench.device, name, &[tokens, width], 1.0);
    let x = of("x")?;
    let dy = of("dy")?;
    let past = of("residual")?;
    let weight = random(bench.device, "weight", &[width], 1.0)?;
    let bias = random(bench.device, "bias", &[width], 1.0)?;
    let (_, statistics) = norm::layer_norm(&x, &weight, &bias, EPS)?;
    let d_weight = device::zeros_f32(width, bench.device)?;
    let d_bias = device::zeros_f32(width, bench.device)?;
    let sums = Some((&d_weight, &d_bias));
    let found = norm::layer_norm_backward(&dy, &x, &weight, &statistics, Some(&past), sums)?;

    let sample = Sample::of(bench, tokens);
    let x = exact(&x)?;
    let dy = exact(&dy)?;
    let past = exact(&past)?;
    let weight = exact(&weight)?;
    let bias = exact(&bias)?;
    let (_, statistics) = norm::layer_norm(&x, &weight, &bias, EPS)?;
    let exact_sums = (weight.zeros_like()?, bias.zeros_like()?);
    let sums = Some((&exact_sums.0, &exact_sums.1));
    let expected = norm::layer_norm_backward(&dy, &x, &weight, &statistics, Some(&past), sums)?;
    let mut finding = Finding::new(bench.device, shape(&found));
    let expected = pick(&expected, &sample.rows)?;
    finding.rows(
        "gradient of the input",
        &found,
        &sample.rows,
        &expected,
        ROUNDED,
    )?;
    let d_weight = device::to_host(&d_weight)?;
    finding.numbers(
        "gradient of the weight",
        &d_weight,
        &flat(&exact_sums.0)?,
        SINGLE,
    );
    let d_bias = device::to_host(&d_bias)?;
    finding.numbers(
        "gradient of the bias",
        &d_bias,
        &flat(&exact_sums.1)?,
        SINGLE,
    );
    Ok(finding)
}

/// The decoder's activation.
pub fn swiglu(bench: &Bench, tokens: usize) -> Result<Finding> {
    let width = 2 * bench.sizes.intermediate;
    let gate_up = random(bench.device, "gate_up", &[tokens, width], 1.0)?;
    let found = activation::swiglu(&gate_up, room(bench))?;
    let sample = Sample::of(bench, tokens);
    let expected = activation::swiglu(&exact_rows(&gate_up, &sample.rows)?, 0)?;
    sample.finding(&found, &expected, ROUNDED)
}

/// Its gradient.
pub fn swiglu_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    let width = 2 * bench.sizes.intermediate;
    let gate_up = random(bench.device, "gate_up", &[tokens, width], 1.0)?;
    let dy = random(bench.device, "dy", &[tokens, width / 2], 1.0)?;
    let found = activation::swiglu_backward(&dy, &gate_up, room(bench))?;
    let sample = Sample::of(bench, tokens);
    let expected = activation::swiglu_backward(
        &exact_rows(&dy, &sample.rows)?,
        &exact_rows(&gate_up, &sample.rows)?,
        0,
    )?;
    sample.finding(&found, &expected, ROUNDED)
}

/// The encoder's activation.
pub fn gelu(bench: &Bench, tokens: usize) -> Result<Finding> {
    let x = random(bench.device, "x", &[tokens, bench.sizes.tower_inside], 1.0)?;
    let found = activation::gelu(&x)?;
    let sample = Sample::of(bench, tokens);
    let expected = activation::gelu(&exact_rows(&x, &sample.rows)?)?;
    sample.finding(&found, &expected, ROUNDED)
}

/// Its gradient.
pub fn gelu_backward(bench: &Bench, tokens: usize) -> Result<Finding> {
    let of = |name: &str| random(bench.device, name, &[tokens, bench.sizes.tower_inside], 1.0);
    let x = of("x")?;
    let dy = of("dy")?;
    let found = activation::gelu_backward(&dy, &x)?;
    let sample = Sample::of(bench, tokens);
    let expected = activation::gelu_backward(
        &exact_rows(&dy, &sample.rows)?,
        &exact_rows(&x, &sample.rows)?,
    )?;
    sample.finding(&found, &expected, ROUNDED)
}

/// Rotations of queries and keys, forth, and back from the same numbers.
pub fn rotary(bench: &Bench, tokens: usize) -> Result<Finding> {
    const THETA: f64 = 1e6;
    let heads = bench.sizes.heads;
    let num_heads = heads.num_heads + heads.num_kv_heads;
    let positions: Vec<u32> = (0..tokens as u32).map(|token| token * 3).collect();
    let of = || random(bench.device, "x", &[tokens, heads.width()], 1.0);
    let forth = of()?;
    let back = of()?;
    let sample = Sample::of(bench, tokens);
    let sampled: Vec<u32> = sample.rows.iter().map(|&row| positions[row]).collect();
    let exact_forth = exact_rows(&forth, &sample.rows)?;
    let exact_back = exact_rows(&back, &sample.rows)?;
    let rotations = Rotary::new(&positions, heads.head_dim, THETA, &forth)?;
    rotations.apply(&forth, num_heads)?;
    rotations.apply_backward(&back, num_heads)?;

    let rotations = Rotary::new(&sampled, heads.head_dim, THETA, &exact_forth)?;
    rotations.apply(&exact_forth, num_heads)?;
    rotations.apply_backward(&exact_back, num_heads)?;
    let mut finding = sample.finding(&forth, &exact_forth, ROUNDED)?;
    finding.rows(
        "turned back",
        &back,
        &sample.rows,
        &flat(&exact_back)?,
        ROUNDED,
    )?;
    Ok(finding)
}

/// Dropout drops what the CPU drops.
pub fn dropout(bench: &Bench, tokens: usize) -> Result<Finding> {
    let x = random(bench.device, "x", &[tokens, bench.sizes.hidden], 1.0)?;
    let keys: Vec<Key> = (0..tokens as u64)
        .map(|token| Key::new(3, "dropout").with(token))
        .collect();
    let dropout = |tokens| Dropout {
        probability: 0.1,
        tokens,
        site: 5,
    };
    let found = dropout(&keys).apply(&x)?;
    let sample = Sample::of(bench, tokens);
    let sampled: Vec<Key> = sample.rows.iter().map(|&row| keys[row]).collect();
    let expected = dropout(&sampled).apply(&exact_rows(&x, &sample.rows)?)?;
    sample.finding(&found, &expected, ROUNDING)
}

/// Identifiers of rows of a table, some of them more than once.
fn ids(count: usize, table: usize) -> Vec<u32> {
    let key = Key::new(2, "ids");
    (0..count as u64)
        .map(|i| key.below(i / 2 * 2, table) as u32)
        .collect()
}

/// Embeddings by their tokens.
pub fn gather(bench: &Bench, tokens: usize) -> Result<Finding> {
    let vocab = bench.sizes.vocab;
    let hidden = bench.sizes.hidden;
    let table = random(bench.device, "table", &[vocab, hidden], 1.0)?;
    let ids = ids(tokens, vocab);
    let found = rows::gather(&table, &ids)?;
    let sample = Sample::of(bench, tokens);
    let sampled: Vec<usize> = sample.rows.iter().map(|&row| ids[row] as usize).collect();
    sample.finding(&found, &exact_rows(&table, &sampled)?, 0.0)
}

/// Rows of a table that sums are kept of; a vocabulary's would be long to look at.
const TABLE: usize = 20_000;

/// Gradients of embeddings.
pub fn scatter_add(bench: &Bench, tokens: usize) -> Result<Finding> {
    let table = bench.sizes.vocab.min(TABLE);
    let hidden = bench.sizes.hidden;
    let ids = ids(tokens, table);
    let d_rows = random(bench.device, "d_rows", &[tokens, hidden], 1.0)?;
    let found = device::zeros_f32(table * hidden, bench.device)?.reshape((table, hidden))?;
    rows::scatter_add(&found, &ids, &d_rows)?;

    let mut seen: Vec<usize> = rows_of(tokens, bench.sizes.rows)
        .iter()
        .map(|&row| ids[row] as usize)
        .collect();
    seen.sort_unstable();
    seen.dedup();
    let d_rows = numbers_of(&d_rows)?;
    let mut expected = vec![0.0; seen.len() * hidden];
    for (sum, &id) in expected.chunks_exact_mut(hidden).zip(&seen) {
        let of_id = ids.iter().zip(d_rows.chunks_exact(hidden));
        for (_, row) in of_id.filter(|(other, _)| **other as usize == id) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
    let mut finding = Finding::new(bench.device, shape(&found));
    finding.rows("sums", &found, &seen, &expected, SINGLE)?;
    Ok(finding)
}

/// Rows over others, as audio embeddings over those of placeholders; and rows between rows of
/// zeros.
pub fn overwrite(bench: &Bench, tokens: usize) -> Result<Finding> {
    let hidden = bench.sizes.hidden;
    let target = random(bench.device, "target", &[tokens, hidden], 1.0)?;
    let mut expected = numbers_of(&target)?;
    let ids: Vec<u32> = (0..tokens as u32).filter(|id| id % 3 != 1).collect();
    let source = random(bench.device, "source", &[ids.len(), hidden], 1.0)?;
    rows::overwrite(&target, &ids, &source)?;
    let spread = rows::spread(&source, &ids, tokens)?;

    let source = numbers_of(&source)?;
    let mut between = vec![0.0; tokens * hidden];
    for (row, &id) in source.chunks_exact(hidden).zip(&ids) {
        let at = id as usize * hidden;
        expected[at..][..hidden].copy_from_slice(row);
        between[at..][..hidden].copy_from_slice(row);
    }
    let all: Vec<usize> = (0..tokens).collect();
    let mut finding = Finding::new(bench.device, shape(&target));
    finding.rows("overwritten", &target, &all, &expected, 0.0)?;
    finding.rows("spread", &spread, &all, &between, 0.0)?;
    Ok(finding)
}

/// Some columns of rows, as keys and values leave a fused projection.
pub fn copy_columns(bench: &Bench, tokens: usize) -> Result<Finding> {
    let heads = bench.sizes.heads;
    let x = random(bench.device, "x", &[tokens, heads.width()], 1.0)?;
    let found = rows::columns(
        &x,
        heads.query_width()..heads.query_width() + heads.kv_width(),
    )?;
    let sample = Sample::of(bench, tokens);
    let expected = exact_rows(&x, &sample.rows)?
        .narrow(1, heads.query_width(), heads.kv_width())?
        .contiguous()?;
    sample.finding(&found, &expected, 0.0)
}

/// Sums in place.
pub fn add_to(bench: &Bench, tokens: usize) -> Result<Finding> {
    let of = |name: &str| random(bench.device, name, &[tokens, bench.sizes.hidden], 1.0);
    let a = of("a")?;
    let b = of("b")?;
    let sample = Sample::of(bench, tokens);
    let expected = (exact_rows(&a, &sample.rows)? + exact_rows(&b, &sample.rows)?)?;
    rows::add_to(&a, &b)?;
    sample.finding(&a, &expected, ROUNDED)
}

/// Rows of the encoder's windows, the last window one row short.
fn windows(bench: &Bench) -> Vec<usize> {
    let mut windows = vec![bench.sizes.window; bench.sizes.windows];
    windows.push(bench.sizes.window - 1);
    windows
}

/// Means of neighbouring rows inside each window.
pub fn pool_pairs(bench: &Bench, _: usize) -> Result<Finding> {
    let windows = windows(bench);
    let total = windows.iter().sum();
    let x = random(bench.device, "x", &[total, bench.sizes.tower], 1.0)?;
    let found = rows::pool_pairs(&x, &windows)?;
    let sample = Sample::of(bench, found.dim(0)?);
    let expected = pick(&rows::pool_pairs(&exact(&x)?, &windows)?, &sample.rows)?;
    let mut finding = Finding::new(bench.device, shape(&found));
    finding.rows("output", &found, &sample.rows, &expected, ROUNDED)?;
    Ok(finding)
}

/// Their gradient.
pub fn pool_pairs_backward(bench: &Bench, _: usize) -> Result<Finding> {
    let windows = windows(bench);
    let pairs = windows.iter().map(|window| window / 2).sum();
    let dy = random(bench.device, "dy", &[pairs, bench.sizes.tower], 1.0)?;
    let found = rows::pool_pairs_backward(&dy, &windows)?;
    let sample = Sample::of(bench, found.dim(0)?);
    let expected = pick(
        &rows::pool_pairs_backward(&exact(&dy)?, &windows)?,
        &sample.rows,
    )?;
    let mut finding = Finding::new(bench.device, shape(&found));
    finding.rows("gradient", &found, &sample.rows, &expected, ROUNDED)?;
    Ok(finding)
}

/// Inputs of both convolutions: of the mel bands, and of the encoder's width at a stride of two.
pub fn unfold(bench: &Bench, _: usize) -> Result<Finding> {
    let windows = windows(bench);
    let total = windows.iter().sum();
    let mut finding = None;
    for (width, stride) in [(bench.sizes.mels, 1), (bench.sizes.tower, 2)] {
        let x = random(bench.device, "x", &[total, width], 1.0)?;
        let found = convolution::unfold(&x, &windows, stride)?;
        let sample = Sample::of(bench, found.dim(0)?);
        let expected = convolution::unfold(&exact(&x)?, &windows, stride)?;
        let expected = pick(&expected, &sample.rows)?;
        finding
            .get_or_insert_with(|| Finding::new(bench.device, shape(&found)))
            .rows("output", &found, &sample.rows, &expected, 0.0)?;
    }
    finding.ok_or_else(|| candle_core::Error::Msg("nothing was unfolded".into()))
}

/// The gradient of the second one's input.
pub fn unfold_backward(bench: &Bench, _: usize) -> Result<Finding> {
    const STRIDE: usize = 2;
    let windows = windows(bench);
    let outputs = windows
        .iter()
        .map(|&window| convolution::num_outputs(window, STRIDE))
        .sum();
    let width = convolution::KERNEL * bench.sizes.tower;
    let dy = random(bench.device, "dy", &[outputs, width], 1.0)?;
    let found = convolution::unfold_backward(&dy, &windows, STRIDE)?;
    let sample = Sample::of(bench, found.dim(0)?);
    let expected = convolution::unfold_backward(&exact(&dy)?, &windows, STRIDE)?;
    let expected = pick(&expected, &sample.rows)?;
    let mut finding = Finding::new(bench.device, shape(&found));
    finding.rows("gradient", &found, &sample.rows, &expected, ROUNDED)?;
    Ok(finding)
}
