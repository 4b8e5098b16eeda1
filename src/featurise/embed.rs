//! Embeddings of rows: the projector's output, or hidden states of a speech encoder.

use candle_core::D;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::batch::Batch;
use crate::data::Clip;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::Loader;
use crate::featurise::named_tensors::NamedTensors;
use crate::featurise::named_tensors::READ_AHEAD;
use crate::featurise::named_tensors::clips;
use crate::featurise::samples_of;
use crate::models::AudioLlm;
use crate::models::hubert;
use crate::models::hubert::Hubert;
use crate::stop::Stop;

/// What is kept of a row's embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The mean over time, of length one.
    Mean,
    /// All of them.
    None,
}

/// Embeds the rows' audio with encoder and projector of a model.
///
/// # Errors
/// What is no fault of a row; the user asked to stop.
pub fn embed(
    model: &AudioLlm,
    loader: &Loader,
    rows: &[Row],
    pool: Pool,
    output: &mut NamedTensors<'_>,
    progress: &mut dyn FnMut(u64),
    stop: &Stop,
) -> Result<()> {
    for chunk in rows.chunks(READ_AHEAD) {
        let sequences: Vec<Result<_>> = chunk
            .par_iter()
            .map(|row| {
                clips(row)
                    .and_then(|clips| loader.audio_of(clips))
                    .map_err(|e| e.at(row.place(output.data())))
            })
            .collect();
        for (row, sequence) in chunk.iter().zip(sequences) {
            stop.check_unwritten()?;
            let Some(sequence) = output.check(sequence)? else {
                continue;
            };
            let batch = Batch::pack(&[&sequence], model.config.framing())?;
            let embeddings = model
                .embed_audio(&batch)?
                .ok_or_else(|| Error::bug("a row with clips that were not encoded"))?;
            output.add(row.id.to_string(), pooled(embeddings, pool)?);
        }
        progress(output.len() as u64);
    }
    Ok(())
}

/// Takes the hidden states of a speech encoder after `layer`, a clip at a time. A row's clips
/// follow each other.
///
/// # Errors
/// What is no fault of a row; the user asked to stop.
pub fn encode(
    model: &Hubert,
    layer: usize,
    rows: &[Row],
    pool: Pool,
    output: &mut NamedTensors<'_>,
    progress: &mut dyn FnMut(u64),
    stop: &Stop,
) -> Result<()> {
    for row in rows {
        stop.check_unwritten()?;
        let encoded = states_of_row(model, row, layer).map_err(|e| e.at(row.place(output.data())));
        let Some(encoded) = output.check(encoded)? else {
            continue;
        };
        let frames = Tensor::cat(&encoded, 0)?;
        output.add(row.id.to_string(), pooled(frames, pool)?);
        progress(output.len() as u64);
    }
    Ok(())
}

fn states_of_row(model: &Hubert, row: &Row, layer: usize) -> Result<Vec<Tensor>> {
    clips(row)?
        .iter()
        .map(|clip| states(model, clip, layer))
        .collect()
}

/// Hidden states of one clip after a layer, `[frames, hidden]`.
fn states(model: &Hubert, clip: &Clip, layer: usize) -> Result<Tensor> {
    let mut samples = samples_of(clip)?;
    model.config.prepare(&mut samples);
    let mut encoded = model.encode(&[hubert::Clip::new(&samples)], layer)?;
    Ok(encoded.hidden.swap_remove(layer))
}

fn pooled(rows: Tensor, pool: Pool) -> Result<Tensor> {
    match pool {
        Pool::None => Ok(rows),
        Pool::Mean => {
            let mean = rows.mean(0)?;
            Ok(mean.broadcast_div(&mean.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
        }
    }
}
