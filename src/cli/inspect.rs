//! `maqam embed` and `maqam features`: tensors of each row's audio.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use candle_core::D;
use candle_core::Device;
use candle_core::Tensor;
use clap::Args;
use clap::ValueEnum;
use rayon::prelude::*;

use crate::audio::LogMelExtractor;
use crate::audio::MELS;
use crate::batch::Batch;
use crate::cli::DataArguments;
use crate::cli::ModelArguments;
use crate::cli::bad_rows::BadRows;
use crate::cli::check_stop;
use crate::cli::progress::Progress;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::load::features_of;

#[derive(Args)]
pub struct EmbedArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    data: DataArguments,
    /// Output, safetensors: one tensor per row id.
    #[arg(long)]
    out: PathBuf,
    /// `mean`: [hidden], the mean over time, of length one. `none`: [audio tokens, hidden].
    #[arg(long, value_enum, default_value_t = Pool::Mean)]
    pool: Pool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pool {
    Mean,
    None,
}

/// Rows whose features are in memory at a time.
const READ_AHEAD: usize = 16;

pub fn embed(arguments: &EmbedArguments, stop: &AtomicBool) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let rows = arguments.data.rows()?;
    let (model, loader) = arguments.model.open()?;
    let mut progress = Progress::new("embedding", 0, rows.len() as u64);
    let mut named = Vec::with_capacity(rows.len());
    let mut bad = BadRows::default();
    for chunk in rows.chunks(READ_AHEAD) {
        let sequences: Vec<Result<_>> = chunk
            .par_iter()
            .map(|row| {
                clips(row)
                    .and_then(|clips| loader.audio_of(clips))
                    .map_err(|e| e.at(row.place(&arguments.data.data)))
            })
            .collect();
        for (row, sequence) in chunk.iter().zip(sequences) {
            check_stop(stop)?;
            let Some(sequence) = bad.check(sequence)? else {
                continue;
            };
            let batch = Batch::pack(&[&sequence], model.config.audio.window_frames())?;
            let heard = model
                .hear(&batch)?
                .ok_or_else(|| Error::bug("a row with clips that were not heard"))?;
            let tensor = match arguments.pool {
                Pool::None => heard,
                Pool::Mean => {
                    let mean = heard.mean(0)?;
                    mean.broadcast_div(&mean.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?
                }
            };
            named.push((row.id.to_string(), tensor));
        }
        progress.update(named.len() as u64, "");
    }
    progress.finish();
    if bad.leaves_some(rows.len()) {
        files::write_safetensors(&arguments.out, named)?;
    }
    bad.finish(rows.len(), &arguments.data.data, &arguments.out)
}

fn clips(row: &Row) -> Result<&[crate::data::Clip]> {
    if row.clips.is_empty() {
        return Err(Error::input(format!("row `{}` has no audio", row.id)));
    }
    Ok(&row.clips)
}

#[derive(Args)]
pub struct FeaturesArguments {
    #[command(flatten)]
    data: DataArguments,
    /// Output, safetensors: for each row id [128, frames]; a row of several clips gets `ID.0`, `ID.1` ...
    #[arg(long)]
    out: PathBuf,
}

pub fn features(arguments: &FeaturesArguments, stop: &AtomicBool) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let rows = arguments.data.rows()?;
    let extractor = LogMelExtractor::new();
    let mut progress = Progress::new("features", 0, rows.len() as u64);
    let mut named = Vec::with_capacity(rows.len());
    let mut bad = BadRows::default();
    for (i, chunk) in rows.chunks(READ_AHEAD).enumerate() {
        check_stop(stop)?;
        let found: Vec<Result<Vec<_>>> = chunk
            .par_iter()
            .map(|row| {
                let clips = clips(row).map_err(|e| e.at(row.place(&arguments.data.data)))?;
                let tensors = clips.iter().map(|clip| -> Result<Tensor> {
                    let (mel, _) = features_of(clip, &extractor, None)
                        .map_err(|e| e.at(row.place(&arguments.data.data)))?;
                    Ok(
                        Tensor::from_vec(mel.values, (mel.frames, MELS), &Device::Cpu)?
                            .t()?
                            .contiguous()?,
                    )
                });
                let name = |i: usize| {
                    if clips.len() == 1 {
                        row.id.to_string()
                    } else {
                        format!("{}.{i}", row.id)
                    }
                };
                tensors
                    .enumerate()
                    .map(|(i, tensor)| Ok((name(i), tensor?)))
                    .collect()
            })
            .collect();
        for tensors in found {
            named.extend(bad.check(tensors)?.into_iter().flatten());
        }
        progress.update((i * READ_AHEAD + chunk.len()) as u64, "");
    }
    progress.finish();
    if bad.leaves_some(rows.len()) {
        files::write_safetensors(&arguments.out, named)?;
    }
    bad.finish(rows.len(), &arguments.data.data, &arguments.out)
}
