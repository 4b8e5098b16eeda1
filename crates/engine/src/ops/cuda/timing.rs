//! Times of the algorithms that cuBLASLt offers for one product.

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;

use crate::ops::cuda::gpu::Gpu;
use crate::ops::cuda::watch::timing_event;

/// Rounds of all candidates; the least time of a candidate counts. Candidates take turns, so that a
/// change of the clock meets all of them.
const ROUNDS: usize = 3;

/// Launches between two events: one alone may wait for the host.
const LAUNCHES: usize = 2;

/// Seconds of one launch of each candidate, `None` of one that the library refuses, for which
/// `launch` returns false. Waits for the GPU. The launches are no part of a profile.
pub fn seconds(
    gpu: &Gpu,
    num_candidates: usize,
    launch: impl Fn(usize) -> Result<bool>,
) -> Result<Vec<Option<f64>>> {
    // The first launch of a kernel loads it.
    let runs = (0..num_candidates)
        .map(&launch)
        .collect::<Result<Vec<bool>>>()?;

    let mut between = Vec::new();
    for _ in 0..ROUNDS {
        for (candidate, _) in runs.iter().enumerate().filter(|(_, runs)| **runs) {
            let begin = timing_event(gpu.stream())?;
            for _ in 0..LAUNCHES {
                launch(candidate)?;
            }
            between.push((candidate, begin, timing_event(gpu.stream())?));
        }
    }
    gpu.synchronise()?;

    let mut least = vec![None; num_candidates];
    for (candidate, begin, end) in between {
        let seconds = f64::from(begin.elapsed_ms(&end).w()?) / 1e3 / LAUNCHES as f64;
        let least: &mut Option<f64> = &mut least[candidate];
        *least = Some(least.map_or(seconds, |known| known.min(seconds)));
    }
    Ok(least)
}
