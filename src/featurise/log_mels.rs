//! Log-mel frames of rows.

use std::path::Path;

use candle_core::Device;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::audio::LogMelExtractor;
use crate::data::Clip;
use crate::data::Row;
use crate::error::Result;
use crate::featurise::features_of;
use crate::featurise::named_tensors::NamedTensors;
use crate::featurise::named_tensors::READ_AHEAD;
use crate::featurise::named_tensors::clips;
use crate::stop::Stop;

/// Computes the log-mel frames of each row's clips, `[mel bands, frames]`. A row of several clips
/// has them as `ID.0`, `ID.1` and so on.
///
/// # Errors
/// What is no fault of a row; the user asked to stop.
pub fn log_mels(
    extractor: &LogMelExtractor,
    rows: &[Row],
    output: &mut NamedTensors<'_>,
    progress: &mut dyn FnMut(u64),
    stop: &Stop,
) -> Result<()> {
    let mut num_done = 0;
    for chunk in rows.chunks(READ_AHEAD) {
        stop.check_unwritten()?;
        let found: Vec<Result<Vec<(String, Tensor)>>> = chunk
            .par_iter()
            .map(|row| of_row(extractor, row, output.data()))
            .collect();
        for tensors in found {
            for (name, tensor) in output.check(tensors)?.into_iter().flatten() {
                output.add(name, tensor);
            }
        }
        num_done += chunk.len();
        progress(num_done as u64);
    }
    Ok(())
}

fn of_row(extractor: &LogMelExtractor, row: &Row, data: &Path) -> Result<Vec<(String, Tensor)>> {
    let clips = clips(row).map_err(|e| e.at(row.place(data)))?;
    let name = |i: usize| match clips.len() {
        1 => row.id.to_string(),
        _ => format!("{}.{i}", row.id),
    };
    clips
        .iter()
        .enumerate()
        .map(|(i, clip)| {
            let tensor = of_clip(extractor, clip, row, data)?;
            Ok((name(i), tensor))
        })
        .collect()
}

fn of_clip(extractor: &LogMelExtractor, clip: &Clip, row: &Row, data: &Path) -> Result<Tensor> {
    let (mut mel, _) = features_of(clip, extractor, None).map_err(|e| e.at(row.place(data)))?;
    mel.values.truncate(mel.frames * mel.mels);
    let frames = Tensor::from_vec(mel.values, (mel.frames, mel.mels), &Device::Cpu)?;
    Ok(frames.t()?.contiguous()?)
}
