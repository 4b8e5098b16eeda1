//! Watching what is asked of a GPU: the time of every launch and product, waiting after each of
//! them, and the host's own time.
//!
//! `MAQAM_CUDA_CHECK=1` waits after each launch and product, so that an error names the one that
//! failed. Without it an error is seen by a later call, which is named instead.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;

use crate::ops::cuda::arguments::Argument;
use crate::ops::cuda::arguments::STRETCH;
use crate::ops::profile::Timed;
use maqam_base::error::Error;

/// The variable of the environment that has every launch waited for.
const CHECK: &str = "MAQAM_CUDA_CHECK";

/// Errors after which nothing works in the process: they are made by a kernel, and seen by whatever
/// is asked next.
const FATAL: [&str; 6] = [
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_ASSERT",
];

/// One launch, product, copy or fill.
pub struct Work {
    /// Name of the kernel, or `product`.
    pub name: &'static str,
    /// Sizes, as a person reads them.
    pub shape: String,
    /// Bytes that it reads and writes at least; `None` where the arguments do not say it.
    pub bytes: Option<f64>,
    /// Floating-point operations, of products and attention alone.
    pub operations: f64,
}

/// A [`Work`] between two events.
struct Between {
    work: Work,
    begin: CudaEvent,
    end: CudaEvent,
}

/// Watch over the work of a GPU.
pub struct Watch {
    is_checked: bool,
    is_timed: AtomicBool,
    timed: Mutex<Vec<Between>>,
    /// The first and the last time that something was asked.
    asked: Mutex<Option<(Instant, Instant)>>,
}

impl Watch {
    /// Nothing is timed; whether everything is waited for is what the environment says.
    pub fn new() -> Self {
        let is_checked =
            std::env::var(CHECK).is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
        Self {
            is_checked,
            is_timed: AtomicBool::new(false),
            timed: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// Asks something of the stream and watches it as far as that is wanted.
    pub fn watched(
        &self,
        stream: &CudaStream,
        work: impl FnOnce() -> Work,
        ask: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let now = Instant::now();
        locked(&self.asked).get_or_insert((now, now)).1 = now;
        let is_timed = self.is_timed.load(Ordering::Relaxed);
        if !self.is_checked && !is_timed {
            return ask();
        }
        let work = work();

        let begin = if is_timed {
            Some(timing_event(stream)?)
        } else {
            None
        };

        let mut asked = ask();

        if self.is_checked {
            asked = asked
                .and_then(|()| stream.synchronize().w())
                .map_err(|error| named(&work, error));
        }

        asked?;

        if let Some(begin) = begin {
            let end = timing_event(stream)?;
            locked(&self.timed).push(Between { work, begin, end });
        }

        Ok(())
    }

    /// Begins to take the time of everything that is asked.
    pub fn begin_profile(&self, stream: &CudaStream) -> Result<()> {
        synchronise(stream)?;
        locked(&self.timed).clear();
        self.is_timed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Times since [`Watch::begin_profile`], summed by name and shape, the longest first.
    pub fn end_profile(&self, stream: &CudaStream) -> Result<Vec<Timed>> {
        self.is_timed.store(false, Ordering::Relaxed);
        synchronise(stream)?;
        let mut sums: Vec<Timed> = Vec::new();
        for Between { work, begin, end } in locked(&self.timed).drain(..) {
            let seconds = f64::from(begin.elapsed_ms(&end).w()?) / 1e3;
            let same = |sum: &&mut Timed| sum.name == work.name && sum.shape == work.shape;
            match sums.iter_mut().find(same) {
                Some(sum) => {
                    sum.count += 1;
                    sum.seconds += seconds;
                    sum.bytes = sum.bytes.zip(work.bytes).map(|(a, b)| a + b);
                    sum.operations += work.operations;
                }
                None => sums.push(Timed {
                    name: work.name.to_owned(),
                    shape: work.shape,
                    count: 1,
                    seconds,
                    bytes: work.bytes,
                    operations: work.operations,
                }),
            }
        }
        sums.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(sums)
    }

    /// Seconds between the first and the last thing asked since this was called last.
    pub fn host_seconds(&self) -> f64 {
        locked(&self.asked)
            .take()
            .map_or(0.0, |(first, last)| (last - first).as_secs_f64())
    }
}

/// An event that times are taken between.
pub fn timing_event(stream: &CudaStream) -> Result<CudaEvent> {
    stream
        .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
        .map_err(|error| late(&error))
}

fn synchronise(stream: &CudaStream) -> Result<()> {
    stream.synchronize().map_err(|error| late(&error))
}

fn named(work: &Work, error: candle_core::Error) -> candle_core::Error {
    let error = Error::from(error).first_line();
    let found = format!("{} failed: {}; {}", work.name, error.message(), work.shape);
    Error::new(error.kind, found).caused_by(error).into()
}

/// An error of the driver. One that ends everything in the process was made by an earlier call,
/// which nothing names.
pub fn late(error: &DriverError) -> candle_core::Error {
    explained(Error::of_library(*error))
}

/// The same of an error that passed through candle, which puts a backtrace behind it.
pub fn late_of_candle(error: candle_core::Error) -> candle_core::Error {
    explained(Error::from(error))
}

fn explained(error: Error) -> candle_core::Error {
    let error = error.first_line();
    if !FATAL.iter().any(|name| error.message().contains(name)) {
        return error.into();
    }
    Error::bug(format!("{}: an earlier kernel failed", error.message()))
        .hint(format!(
            "run again with {CHECK}=1, which names the kernel, its grid and its sizes"
        ))
        .caused_by(error)
        .into()
}

/// A kernel's launch as [`Work`].
pub fn launch(
    name: &'static str,
    grid: [usize; 3],
    block: (u32, u32),
    shared: u32,
    arguments: &[Argument],
    operations: f64,
) -> Work {
    let numbers: Vec<f64> = arguments
        .iter()
        .filter_map(|argument| match argument {
            Argument::Int(value) => Some(f64::from(*value)),
            Argument::Long(value) => Some(*value as f64),
            Argument::Pointer(_) | Argument::Float(_) | Argument::Double(_) => None,
        })
        .collect();
    let sizes: Vec<String> = numbers.iter().map(f64::to_string).collect();
    Work {
        name,
        shape: format!(
            "grid {} x {} x {}, block {} x {}, {shared} B shared, sizes {}",
            grid[0],
            grid[1],
            grid[2],
            block.0,
            block.1,
            sizes.join(" ")
        ),
        bytes: traffic(name, grid, &numbers),
        operations,
    }
}

/// Bytes that a kernel reads and writes, as its comment says: of its grid, and of its whole numbers
/// in their order.
fn traffic(name: &str, grid: [usize; 3], numbers: &[f64]) -> Option<f64> {
    let [x, y, _] = grid.map(|blocks| blocks as f64);
    let number = |place: usize| numbers.get(place).copied();
    let stretches = x * STRETCH as f64;

    let bytes = match name {
        "rms_norm" | "rms_norm_again" => x * (4.0 * number(0)? + 4.0),
        "rms_norm_backward" => x * (8.0 * number(0)? + 4.0),
        "rms_norm_weight_backward" => number(0)? * (4.0 * number(1)? + 4.0) + 8.0 * number(1)?,
        "layer_norm" | "layer_norm_again" => x * (4.0 * number(0)? + 8.0),
        "layer_norm_backward" => x * (8.0 * number(0)? + 8.0),
        "layer_norm_weight_backward" => number(0)? * (6.0 * number(1)? + 8.0) + 16.0 * number(1)?,
        "column_sums" => 2.0 * number(0)? * number(1)? + 8.0 * number(1)?,
        "copy_matrices" => 4.0 * stretches,
        "write_beside" => 2.0 * number(0)? * (number(1)? + number(2)?),
        "swiglu" => 6.0 * y * number(0)?,
        "swiglu_backward" => 10.0 * y * number(0)?,
        "gelu" => 4.0 * number(0)?,
        "gelu_backward" | "add_to" | "to_bf16" | "to_f32" => 6.0 * number(0)?,
        "rotate" => x * 8.0 * number(2)? * (number(1)? + 1.0),
        "gather" | "overwrite" => x * (4.0 * number(0)? + 4.0),
        "pool_pairs" | "pool_pairs_backward" => x * (6.0 * number(0)? + 4.0),
        "add_bias" => 4.0 * x * number(0)?,
        "add_rows_bf16" => 6.0 * x * number(1)?,
        "add_rows_f32" => 12.0 * x * number(1)?,
        "transpose" => 4.0 * number(0)? * number(1)?,
        "copy_columns" => 4.0 * x * number(2)?,
        "random_normal" | "fill_bf16" => 2.0 * number(0)?,
        "fill_f32" | "sum_of_squares" => 4.0 * number(0)?,
        // The rows of the input are read once: one of them for each output, two where the stride is
        // two.
        "unfold" => x * (8.0 * number(0)? + 12.0),
        "unfold_backward" => x * (5.0 * number(0)? + 12.0),
        "dropout" => x * (4.0 * number(1)? + 8.0),
        "cross_entropy" => x * (10.0 * number(0)? + 16.0),
        "weighted_sum" => 12.0 * number(0)?,
        "root_of_sum" => 8.0 * number(0)?,
        "add_scalar" => 24.0,
        "adamw" => 30.0 * stretches,
        "quantise_rows" => x * (3.0 * number(0)? + 4.0),
        // Tokens, query heads, key heads, width of a head: each tensor once.
        "attention_forward_64" | "attention_forward_128" => {
            2.0 * number(0)? * number(3)? * (2.0 * number(1)? + 2.0 * number(2)?)
        }
        "attention_backward_queries_64" | "attention_backward_queries_128" => {
            2.0 * number(0)? * number(3)? * (4.0 * number(1)? + 2.0 * number(2)?)
        }
        "attention_backward_keys_64" | "attention_backward_keys_128" => {
            2.0 * number(0)? * number(3)? * (2.0 * number(1)? + 4.0 * number(2)?)
        }
        "adapter_backward_16" => number(0)? * (2.0 * number(1)? + 64.0 * x) + 64.0 * y * number(1)?,
        "adapter_backward_32" => {
            number(0)? * (2.0 * number(1)? + 128.0 * x) + 128.0 * y * number(1)?
        }
        "sum_adapter_hidden" => number(0)? * number(1)? * (4.0 * number(2)? + 2.0),
        "sum_adapter_gradient" => number(0)? * (4.0 * number(1)? + 8.0),
        "sum_attention_parts" => x * number(1)? * (4.0 * number(2)? + 2.0),
        _ => return None,
    };

    Some(bytes)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_what_the_comments_of_kernels_say() {
        // 5,440 tokens of the 7B model: 4 x 3,584 + 4 bytes a token, and 6 x 18,944.
        assert_eq!(
            traffic("rms_norm", [5440, 1, 1], &[3584.0, 3648.0]),
            Some(5440.0 * 14_340.0)
        );
        assert_eq!(
            traffic("swiglu", [10, 5440, 1], &[18_944.0, 19_008.0]),
            Some(5440.0 * 113_664.0)
        );
        assert_eq!(
            traffic("attention_step", [1, 4, 1], &[28.0, 4.0, 128.0]),
            None
        );
        // 8,192 tokens of 18,944 columns in bf16, read once; parts of 16 numbers in f32, 37 for
        // each token and 22 for each column.
        assert_eq!(
            traffic(
                "adapter_backward_16",
                [37, 22, 1],
                &[8192.0, 18_944.0, 38_016.0, 32.0, 384.0]
            ),
            Some(8192.0 * 18_944.0 * 2.0 + (8192.0 * 37.0 + 18_944.0 * 22.0) * 64.0)
        );
        // 1,620 tokens, 7 parts of 1,024 numbers in f32, one sum in bf16.
        assert_eq!(
            traffic(
                "sum_attention_parts",
                [1620, 1, 1],
                &[1620.0, 1024.0, 7.0, 3584.0, 4608.0]
            ),
            Some(1620.0 * 1024.0 * 30.0)
        );
        assert_eq!(traffic("rms_norm", [5440, 1, 1], &[]), None);
    }

    #[test]
    fn a_fatal_error_has_a_hint_and_no_backtrace() {
        let fatal = "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal address\")\n   0: alloc";
        let text = explained(Error::bug(fatal)).to_string();
        assert!(
            text.contains("hint: run again with MAQAM_CUDA_CHECK=1") && !text.contains("0: alloc")
        );
    }

    #[test]
    fn a_full_gpu_is_a_resource() {
        let driver = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"no memory\")\n   0: alloc";
        let error = Error::from(explained(Error::of_library(driver)));
        assert_eq!(error.exit_code(), 4);
        assert_eq!(
            error.message(),
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"no memory\")"
        );
    }
}
