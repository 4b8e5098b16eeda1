//! Access to the numbers of a tensor on the CPU: typed slices, rows in parallel, new tensors from
//! vectors.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ops::Range;
use std::sync::LazyLock;

use candle_core::CpuStorage;
use candle_core::DType;
use candle_core::Device;
use candle_core::InplaceOp1;
use candle_core::Layout;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Storage;
use candle_core::StorageRef;
use candle_core::Tensor;
use candle_core::WithDType;
use candle_core::backend::BackendStorage;
use rayon::prelude::*;

/// The numbers the primitives compute with: `f32` for work, `f64` for finite differences.
pub trait Real:
    WithDType + num_traits::Float + std::ops::AddAssign + std::iter::Sum + Send + Sync
{
    /// e to the power of `self`, written so that the compiler can vectorise it.
    fn exp_lanes(self) -> Self;
    /// The normal distribution at `self`: its cumulative probability, and e^(-x^2 / 2), which is
    /// its density but for a factor.
    fn normal_lanes(self) -> (Self, Self);
    /// Conversion of a constant.
    fn of(value: f64) -> Self;
    /// Conversion of a result.
    fn wide(self) -> f64;
}

/// Runs a generic body with `$T` bound to the floating-point type of `$tensor`.
#[macro_export]
#[doc(hidden)]
macro_rules! with_real {
    ($tensor:expr, $T:ident => $body:expr) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => {
                candle_core::bail!("the CPU primitives compute in f32 or f64, found {other:?}")
            }
        }
    };
}
pub use crate::with_real;

/// The values of a contiguous tensor, borrowed.
pub struct Slice<'a, T> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    kind: PhantomData<T>,
}

/// Borrows the values of a contiguous CPU tensor of type `T`.
///
/// # Errors
/// If the tensor is strided, elsewhere than on the CPU, or of another type.
pub fn slice<T: WithDType>(tensor: &Tensor) -> Result<Slice<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("expected a contiguous tensor, found {layout:?}")
    };
    match &*storage {
        Storage::Cpu(values) if values.dtype() == T::DTYPE => Ok(Slice {
            storage,
            range: start..end,
            kind: PhantomData,
        }),
        other => candle_core::bail!(
            "expected {:?} on the CPU, found {:?} on {:?}",
            T::DTYPE,
            other.dtype(),
            other.device().location()
        ),
    }
}

impl<T: WithDType> Deref for Slice<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(values) => match values.as_slice::<T>() {
                Ok(all) => &all[self.range.clone()],
                Err(_) => &[],
            },
            _ => &[],
        }
    }
}

/// Refuses a tensor of another shape than `dims`; `what` names it.
///
/// # Errors
/// If the shapes differ.
pub fn expect_shape(what: &str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    if tensor.dims() != dims {
        candle_core::bail!("{what} should be {dims:?}, found {:?}", tensor.dims());
    }
    Ok(())
}

/// A new CPU tensor that takes `values` over.
pub fn tensor<T: WithDType>(values: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

struct Write<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut CpuStorage, Range<usize>) -> Result<()>> InplaceOp1 for Write<F> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("cannot write into a strided tensor")
        };
        match self.0.borrow_mut().take() {
            Some(write) => write(storage, start..end),
            None => Ok(()),
        }
    }
}

/// Changes the values of a contiguous tensor in place; every view of the same storage sees the
/// change.
///
/// `change` must not read a tensor that shares the storage: the storage is locked while it runs.
pub fn write<T: Real>(tensor: &Tensor, change: impl FnOnce(&mut [T])) -> Result<()> {
    let write = |storage: &mut CpuStorage, range: Range<usize>| {
        change(&mut values_mut::<T>(storage)?[range]);
        Ok(())
    };
    tensor.inplace_op1(&Write(RefCell::new(Some(write))))
}

fn values_mut<T: Real>(storage: &mut CpuStorage) -> Result<&mut Vec<T>> {
    let values = match (storage, T::DTYPE) {
        (CpuStorage::F32(values), DType::F32) => same_type::<Vec<f32>, Vec<T>>(values),
        (CpuStorage::F64(values), DType::F64) => same_type::<Vec<f64>, Vec<T>>(values),
        _ => None,
    };
    match values {
        Some(values) => Ok(values),
        None => candle_core::bail!("expected {:?} on the CPU", T::DTYPE),
    }
}

fn same_type<A: 'static, B: 'static>(values: &mut A) -> Option<&mut B> {
    (values as &mut dyn std::any::Any).downcast_mut()
}

/// Asks the allocator to keep freed pages; to be called once, before any other thread exists.
///
/// Passes allocate and free large buffers all the time, and the system clears every page anew that
/// it was given back: that was a quarter of a training step. Memory stays at its peak.
pub fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only stores options; one that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Runs `body` compiled for the widest vectors this processor has.
#[inline(always)]
pub fn vectorised<R>(body: impl FnOnce() -> R) -> R {
    ARCH.dispatch(body)
}

/// Elements that one task of a parallel loop handles at least: below that, splitting costs more
/// than it saves.
const GRAIN: usize = 8192;

/// Calls `body(row, values)` for every row of `width` values of `out`, rows in parallel,
/// vectorised.
///
/// Vectorised code must be inlined into the function compiled for the processor, so `body` is a
/// closure marked `#[inline(always)]` wherever its time counts; otherwise it stays a function for
/// the oldest processor.
#[inline(always)]
pub fn for_rows<T: Send>(out: &mut [T], width: usize, body: impl Fn(usize, &mut [T]) + Sync) {
    if width == 0 || out.is_empty() {
        return;
    }
    let rows = GRAIN.div_ceil(width);
    out.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(chunk, values)| {
            vectorised(
                #[inline(always)]
                || {
                    for (row, values) in values.chunks_exact_mut(width).enumerate() {
                        body(chunk * rows + row, values);
                    }
                },
            );
        });
}

/// A vector of `rows` rows of `width` values, each written by `body(row, values)`, rows in
/// parallel, vectorised.
///
/// `body` finds zeros. They are written by the task that needs them, into its cache: a vector made
/// of zeros first would cost one thread a pass over memory.
#[inline(always)]
pub fn new_rows<T: Real>(
    rows: usize,
    width: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    let len = rows * width;
    let mut out: Vec<T> = Vec::with_capacity(len);
    if len == 0 {
        return out;
    }
    let rows = GRAIN.div_ceil(width);
    out.spare_capacity_mut()[..len]
        .par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(chunk, values)| {
            vectorised(
                #[inline(always)]
                || {
                    values.fill(std::mem::MaybeUninit::new(T::zero()));
                    // SAFETY: the values were all written just now.
                    let values = unsafe {
                        std::slice::from_raw_parts_mut(
                            values.as_mut_ptr().cast::<T>(),
                            values.len(),
                        )
                    };
                    for (row, values) in values.chunks_exact_mut(width).enumerate() {
                        body(chunk * rows + row, values);
                    }
                },
            );
        });
    // SAFETY: the chunks cover the first `len` values, and each wrote all of its own.
    unsafe { out.set_len(len) };
    out
}

/// As [`new_rows`], for passes that see no rows: `body(start, values)` writes stretches, `start`
/// being the index of the first.
#[inline(always)]
pub fn new_stretches<T: Real>(len: usize, body: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut out = Vec::with_capacity(len);
    out.spare_capacity_mut()[..len]
        .par_chunks_mut(GRAIN)
        .enumerate()
        .for_each(|(chunk, values)| {
            vectorised(
                #[inline(always)]
                || {
                    values.fill(std::mem::MaybeUninit::new(T::zero()));
                    // SAFETY: the values were all written just now.
                    let values = unsafe {
                        std::slice::from_raw_parts_mut(
                            values.as_mut_ptr().cast::<T>(),
                            values.len(),
                        )
                    };
                    body(chunk * GRAIN, values);
                },
            );
        });
    // SAFETY: the chunks cover the first `len` values, and each wrote all of its own.
    unsafe { out.set_len(len) };
    out
}

/// Calls `body(start, values)` for stretches of `out`, in parallel, vectorised; `start` is the
/// index of the first value.
#[inline(always)]
pub fn for_stretches<T: Send>(out: &mut [T], body: impl Fn(usize, &mut [T]) + Sync) {
    out.par_chunks_mut(GRAIN)
        .enumerate()
        .for_each(|(chunk, values)| {
            vectorised(
                #[inline(always)]
                || body(chunk * GRAIN, values),
            );
        });
}

/// As [`for_rows`] over two outputs of the same number of rows.
#[inline(always)]
pub fn for_rows2<T: Send, U: Send>(
    a: &mut [T],
    a_width: usize,
    b: &mut [U],
    b_width: usize,
    body: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    if a.is_empty() || a_width == 0 || b_width == 0 {
        return;
    }
    let rows = GRAIN.div_ceil(a_width);
    a.par_chunks_mut(rows * a_width)
        .zip(b.par_chunks_mut(rows * b_width))
        .enumerate()
        .for_each(|(chunk, (a, b))| {
            vectorised(
                #[inline(always)]
                || {
                    for (row, (a, b)) in a
                        .chunks_exact_mut(a_width)
                        .zip(b.chunks_exact_mut(b_width))
                        .enumerate()
                    {
                        body(chunk * rows + row, a, b);
                    }
                },
            );
        });
}

/// Number of running sums kept side by side, so that a sum vectorises.
const LANES: usize = 16;

/// Sum over `i` of `term(i)`, in `LANES` interleaved sums: the same order on every machine.
#[inline(always)]
pub fn sum_over<T: Real>(len: usize, term: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let whole = len / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(i + lane);
        }
        i += LANES;
    }
    for i in whole..len {
        lanes[i - whole] += term(i);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] += other;
        }
        width /= 2;
    }
    lanes[0]
}

/// Largest of `values`; negative infinity where there are none.
#[inline(always)]
pub fn max_of<T: Real>(values: &[T]) -> T {
    let mut lanes = [T::neg_infinity(); LANES];
    let whole = values.len() / LANES * LANES;
    for chunk in values[..whole].chunks_exact(LANES) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    values[whole..]
        .iter()
        .chain(&lanes)
        .fold(T::neg_infinity(), |a, &b| if b > a { b } else { a })
}

impl Real for f32 {
    /// Cephes' `expf`: 2^n times a polynomial of the remainder; relative error below 2e-7 on the
    /// whole range, 0 below it.
    #[inline(always)]
    fn exp_lanes(self) -> Self {
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let x = self.clamp(-87.3, 88.3);
        // Adding 1.5 * 2^23 rounds to the nearest whole number, which then stands in the lowest
        // bits: a conversion to an integer would have to treat what does not fit, and be done one
        // number at a time.
        const ROUND: f32 = 12_582_912.0;
        let rounded = x * std::f32::consts::LOG2_E + ROUND;
        let n = rounded - ROUND;
        let r = x - n * LN2_HIGH - n * LN2_LOW;
        let p = 1.987_569_1e-4;
        let p = p * r + 1.398_199_9e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 1.666_666_5e-1;
        let p = p * r + 0.5;
        let y = p * r * r + r + 1.0;
        let scaled = y * f32::from_bits(
            rounded
                .to_bits()
                .wrapping_sub(ROUND.to_bits())
                .wrapping_add(127)
                << 23,
        );
        let scaled = if self < -87.3 { 0.0 } else { scaled };
        if self.is_nan() { self } else { scaled }
    }

    /// The lower tail as e^(-x^2 / 2) times a polynomial without constant of t = 1 / (1 + 0.3 z),
    /// z = |x| / sqrt(2): the form of Abramowitz and Stegun 7.1.26, with nine coefficients fitted
    /// to e^(z^2) erfc(z) for the least relative error on [0, 10], 2e-8. A small tail keeps its
    /// relative precision.
    #[inline(always)]
    fn normal_lanes(self) -> (Self, Self) {
        let t = 1.0 / (1.0 + (0.3 * std::f32::consts::FRAC_1_SQRT_2) * self.abs());
        let p = -0.129_521_76;
        let p = p * t + 0.485_557_64;
        let p = p * t - 0.512_266_5;
        let p = p * t + 0.547_706_57;
        let p = p * t - 0.094_641_32;
        let p = p * t + 0.214_921_86;
        let p = p * t + 0.148_340_3;
        let p = p * t + 0.170_715_06;
        let p = p * t + 0.169_188_26;
        let density = (-0.5 * self * self).exp_lanes();
        let tail = 0.5 * p * t * density;
        (if self < 0.0 { tail } else { 1.0 - tail }, density)
    }

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    #[inline(always)]
    fn exp_lanes(self) -> Self {
        self.exp()
    }

    #[inline(always)]
    fn normal_lanes(self) -> (Self, Self) {
        (
            0.5 * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2),
            (-0.5 * self * self).exp(),
        )
    }

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_single_precision_and_keeps_its_limits() {
        let mut worst = 0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(x.exp_lanes()) - exact).abs() / exact);
        }
        assert!(worst < 3e-7, "relative error {worst}");
        assert_eq!(f32::NEG_INFINITY.exp_lanes(), 0.0);
        assert_eq!((-1e30f32).exp_lanes(), 0.0);
        assert!(f32::NAN.exp_lanes().is_nan());
    }

    #[test]
    fn the_normal_distribution_keeps_its_relative_precision_in_the_tail() {
        let mut worst = 0f64;
        for i in -60_000..60_000 {
            let x = i as f32 * 1e-4;
            let exact = 0.5 * libm::erfc(f64::from(-x) * std::f64::consts::FRAC_1_SQRT_2);
            // Squaring x rounds the exponent by up to x^2 / 2 half units in the last place.
            let bar = 1e-6 + f64::from(x * x) * 6e-8;
            let error = (f64::from(x.normal_lanes().0) - exact).abs() / exact;
            assert!(
                error < bar,
                "the normal distribution at {x} is off by {error:e} of itself"
            );
            worst = worst.max((f64::from(x.normal_lanes().0) - exact).abs());
        }
        assert!(worst < 3e-7, "absolute error {worst:e}");
        assert_eq!(
            (
                0f32.normal_lanes().0,
                f32::INFINITY.normal_lanes(),
                f32::NEG_INFINITY.normal_lanes()
            ),
            (0.5, (1.0, 0.0), (0.0, 0.0))
        );
        assert!(f32::NAN.normal_lanes().0.is_nan());
    }

    #[test]
    fn new_rows_are_all_written_whatever_their_number() {
        for (rows, width) in [(0, 5), (3, 0), (1, 1), (7, 3), (5, 10_000), (3000, 7)] {
            let found = new_rows(rows, width, |row, values: &mut [f32]| {
                for (i, value) in values.iter_mut().enumerate() {
                    *value += (row * width + i) as f32;
                }
            });
            assert_eq!(found.len(), rows * width);
            assert!(
                found
                    .iter()
                    .enumerate()
                    .all(|(i, &value)| value == i as f32)
            );
        }
    }

    #[test]
    fn shapes_that_differ_are_named() {
        let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(expect_shape("the weight", &x, &[2, 3]).is_ok());
        assert!(
            expect_shape("the weight", &x, &[3])
                .unwrap_err()
                .to_string()
                .starts_with("the weight should be [3], found [2, 3]")
        );
    }

    #[test]
    fn a_write_is_seen_through_every_view() {
        let flat = Tensor::zeros(6, DType::F32, &Device::Cpu).unwrap();
        let view = flat.narrow(0, 2, 4).unwrap().reshape((2, 2)).unwrap();
        write::<f32>(&view, |values| {
            values.copy_from_slice(&[1.0, 2.0, 3.0, 4.0])
        })
        .unwrap();
        assert_eq!(
            flat.to_vec1::<f32>().unwrap(),
            [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]
        );
        assert!(slice::<f64>(&flat).is_err());
        assert!(slice::<f32>(&view.t().unwrap()).is_err());
    }

    #[test]
    fn sums_and_maxima_cover_every_length() {
        for len in [0, 1, 15, 16, 17, 64, 100] {
            let values: Vec<f64> = (0..len).map(|i| (i as f64 * 7.3).sin()).collect();
            assert!((sum_over(len, |i| values[i]) - values.iter().sum::<f64>()).abs() < 1e-12);
            assert_eq!(
                max_of(&values),
                values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            );
        }
    }
}
