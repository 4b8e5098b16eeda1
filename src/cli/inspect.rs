//! `maqam embed` and `maqam features`: tensors of each row's audio.

use std::path::Path;
use std::path::PathBuf;

use candle_core::D;
use candle_core::Device;
use candle_core::Tensor;
use clap::Args;
use clap::ValueEnum;
use rayon::prelude::*;

use crate::audio::LogMelExtractor;
use crate::audio::MelForm;
use crate::batch::Batch;
use crate::cli::arguments::DataArguments;
use crate::cli::arguments::ModelArguments;
use crate::cli::bad_rows::BadRows;
use crate::cli::hub;
use crate::cli::interrupt::check_stop;
use crate::cli::progress::Progress;
use crate::data::Clip;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::features_of;
use crate::featurise::samples_of;
use crate::files;
use crate::models::config::Config;
use crate::models::hubert;
use crate::models::hubert::Hubert;
use crate::ops::device::Choice;
use crate::stop::Stop;

#[derive(Args)]
pub struct EmbedArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    data: DataArguments,
    /// Output, safetensors: one tensor per row id.
    #[arg(long)]
    out: PathBuf,
    /// `mean`: [hidden], the mean over time, of length one. `none`: [audio tokens, hidden], of a speech encoder [frames, hidden].
    #[arg(long, value_enum, default_value_t = Pool::Mean)]
    pool: Pool,
    /// Of a HuBERT or wav2vec 2.0 encoder: the layer after which hidden states are taken; 0 is the input of the first one. By default the last.
    #[arg(long)]
    layer: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pool {
    Mean,
    None,
}

/// Rows whose features are in memory at a time.
const READ_AHEAD: usize = 16;

pub fn embed(arguments: &EmbedArguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let rows = arguments.data.rows()?;
    let dir = hub::model_dir(&arguments.model.model)?;
    if hubert::is_encoder(&dir) {
        return encode(arguments, &dir, &rows, stop);
    }
    if let Some(layer) = arguments.layer {
        return Err(Error::input(format!(
            "--layer {layer}: this model gives the projector's output"
        ))
        .hint("leave --layer out, or name a HuBERT or wav2vec 2.0 encoder"));
    }
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
                Pool::Mean => unit_mean(&heard)?,
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

/// The mean over time, of length one.
fn unit_mean(rows: &Tensor) -> Result<Tensor> {
    let mean = rows.mean(0)?;
    Ok(mean.broadcast_div(&mean.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}

/// Hidden states of a speech encoder, a clip at a time; a row's clips follow each other.
fn encode(arguments: &EmbedArguments, dir: &Path, rows: &[Row], stop: &Stop) -> Result<()> {
    if let Some(adapter) = &arguments.model.adapter {
        return Err(Error::input("--adapter: a speech encoder has none")
            .at_path(adapter)
            .hint("leave --adapter out"));
    }
    if arguments.model.device.choice() == Choice::Cuda {
        return Err(
            Error::input("--device cuda: speech encoders compute on the CPU")
                .hint("leave --device out, or write --device cpu"),
        );
    }
    let model = Hubert::open(dir)?;
    let layer = arguments.layer.unwrap_or(model.config.num_hidden_layers);
    let mut progress = Progress::new("embedding", 0, rows.len() as u64);
    let mut named = Vec::with_capacity(rows.len());
    let mut bad = BadRows::default();
    model.check_layer(layer).map_err(|e| e.at("--layer"))?;
    for row in rows {
        check_stop(stop)?;
        let encoded = clips(row)
            .and_then(|clips| {
                clips
                    .iter()
                    .map(|clip| states(&model, clip, layer))
                    .collect()
            })
            .map_err(|e: Error| e.at(row.place(&arguments.data.data)));
        let Some(encoded) = bad.check::<Vec<Tensor>>(encoded)? else {
            continue;
        };
        let frames = Tensor::cat(&encoded, 0)?;
        let tensor = match arguments.pool {
            Pool::None => frames,
            Pool::Mean => unit_mean(&frames)?,
        };
        named.push((row.id.to_string(), tensor));
        progress.update(named.len() as u64, "");
    }
    progress.finish();
    if bad.leaves_some(rows.len()) {
        files::write_safetensors(&arguments.out, named)?;
    }
    bad.finish(rows.len(), &arguments.data.data, &arguments.out)
}

/// Hidden states of one clip after a layer, `[frames, hidden]`.
fn states(model: &Hubert, clip: &Clip, layer: usize) -> Result<Tensor> {
    let mut samples = samples_of(clip)?;
    model.config.prepare(&mut samples);
    let mut encoded = model.encode(&[hubert::Clip::new(&samples)], layer)?;
    Ok(encoded.hidden.swap_remove(layer))
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
    /// Folder or Hub id of the checkpoint whose processor is followed; Qwen2.5-Omni's where nothing is said.
    #[arg(long)]
    model: Option<String>,
    /// Output, safetensors: for each row id [mel bands, frames]; a row of several clips gets `ID.0`, `ID.1` ...
    #[arg(long)]
    out: PathBuf,
}

pub fn features(arguments: &FeaturesArguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let rows = arguments.data.rows()?;
    let form = match &arguments.model {
        Some(model) => Config::load(&hub::model_dir(model)?)?.mel_form(),
        None => MelForm::default(),
    };
    let extractor = LogMelExtractor::new(form);
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
                    let (mut mel, _) = features_of(clip, &extractor, None)
                        .map_err(|e| e.at(row.place(&arguments.data.data)))?;
                    mel.values.truncate(mel.frames * mel.mels);
                    Ok(
                        Tensor::from_vec(mel.values, (mel.frames, mel.mels), &Device::Cpu)?
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
