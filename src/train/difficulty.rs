//! Difficulty of rows, for stages that order by it: from manifests and headers of audio, or the loss
//! of the model at the start of the run.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use candle_core::Tensor;
use rayon::prelude::*;
use serde_json::Value;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::headers::Headers;
use crate::data::lengths::clip_lengths;
use crate::data::lengths::seconds_of;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::files;
use crate::schedule::Measure;
use crate::schedule::Schedule;
use crate::seed::Key;
use crate::task::Mode;
use crate::train::corpus::Corpus;
use crate::train::embedding_cache::Cache;
use crate::train::embedding_cache::RowKey;
use crate::train::embeddings::Embedder;

/// Rows whose features are in memory at a time.
const READ_AHEAD: usize = 64;
/// Most tokens that are scored in one pass.
const PACK_TOKENS: usize = 8192;

/// Gives every stage that orders rows by a measure of the data its difficulties. Stages that order
/// by the base's loss get theirs once there is a model: see [`base_losses`].
///
/// # Errors
/// A row without the column or the audio that the measure needs, by its place.
pub fn set(schedule: &mut Schedule, corpus: &Corpus, headers: &Headers) -> Result<()> {
    for stage in 0..schedule.stages().len() {
        let measure = match schedule.measure_of(stage) {
            None | Some(Measure::BaseLoss) => continue,
            Some(measure) => measure.clone(),
        };
        let found: Vec<Result<(u32, f64)>> = schedule
            .rows_of(stage)
            .into_par_iter()
            .map(|row| {
                let value = value(corpus, row, &measure, headers);
                Ok((row, value.map_err(|e| e.at(corpus.place(row)))?))
            })
            .collect();
        // The first fault of the rows, whatever thread found one first.
        let values = found
            .into_iter()
            .collect::<Result<HashMap<u32, f64>>>()
            .map_err(|e| e.at(format!("stage `{}`", schedule.stages()[stage].name)))?;
        schedule.set_difficulty(stage, values)?;
    }
    Ok(())
}

/// Difficulty of a row by a measure of the data.
fn value(corpus: &Corpus, row: u32, measure: &Measure, headers: &Headers) -> Result<f64> {
    let of_row = corpus.row(row);
    match measure {
        Measure::Duration => seconds(of_row, headers),
        Measure::WordsPerSecond => {
            let words = of_row
                .text
                .as_deref()
                .map(|text| text.split_whitespace().count());
            let words = words.ok_or_else(|| {
                Error::input("`difficulty.by` is `words_per_second`, and the row has no `text`")
                    .hint("leave tasks without transcripts out of the stage, or order by `duration`, `base_loss` or a column")
            })?;
            Ok(words as f64 / seconds(of_row, headers)?)
        }
        Measure::Column(name) => column(&of_row.extra_fields(), name),
        Measure::BaseLoss => Err(Error::bug("the base's loss is no measure of the data")),
    }
}

/// Seconds of a row's audio.
fn seconds(row: &Row, headers: &Headers) -> Result<f64> {
    let samples: usize = clip_lengths(row, None, headers)?.iter().sum();
    match samples {
        0 => Err(
            Error::input("`difficulty` is measured by audio, and the row has none")
                .hint("leave tasks without audio out of the stage, or order by a column"),
        ),
        samples => Ok(seconds_of(samples)),
    }
}

/// The number in a column of a row. Tables of text hold numbers as text.
fn column(fields: &serde_json::Map<String, Value>, name: &str) -> Result<f64> {
    let hint = "give every row of the stage a number in this column, or order by `duration`, `words_per_second` or `base_loss`";
    let number = match fields.get(name) {
        None | Some(Value::Null) => {
            let found = format!("`difficulty.by` names the column `{name}`, and the row has none");
            return Err(Error::input(found).hint(hint));
        }
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(_) => None,
    };
    number.filter(|number| number.is_finite()).ok_or_else(|| {
        let found = fields.get(name).map(Value::to_string).unwrap_or_default();
        Error::input(format!("column `{name}` is {found}, not a number")).hint(hint)
    })
}

/// Stages that order rows by the base's loss.
pub fn stages_by_loss(schedule: &Schedule) -> Vec<usize> {
    (0..schedule.stages().len())
        .filter(|&stage| schedule.measure_of(stage) == Some(&Measure::BaseLoss))
        .collect()
}

/// Mean loss of each row's target tokens under the model as it stands, nats, for all rows that
/// `stages` can draw; from the cache where it has them. Clips are not augmented. A row that cannot
/// be read under [`OnBadRow::Skip`] has the loss 0. `progress` is told how many of how many rows are
/// done.
///
/// # Errors
/// Rows that cannot be read, a damaged cache, what `progress` returns.
pub fn base_losses(
    embedder: &mut Embedder<'_>,
    schedule: &Schedule,
    stages: &[usize],
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Vec<(u32, f32)>> {
    let rows: BTreeSet<u32> = stages
        .iter()
        .flat_map(|&stage| schedule.rows_of(stage))
        .collect();
    let rows: Vec<u32> = rows.into_iter().collect();
    let keyed = keyed(embedder, &rows)?;
    let mut cache = Cache::open(embedder.cache, embedder.model.loss_fingerprint()?, 1)?;
    let mut seen = BTreeSet::new();
    let missing: Vec<(u32, RowKey)> = keyed
        .iter()
        .copied()
        .filter(|(_, key)| cache.get(key).is_none() && seen.insert(*key))
        .collect();

    let known = rows.len() - missing.len();
    for (chunk, of_chunk) in missing.chunks(READ_AHEAD).enumerate() {
        progress(known + chunk * READ_AHEAD, rows.len())?;
        for (key, loss) in losses(embedder, of_chunk)? {
            cache.put(key, vec![loss])?;
        }
    }
    cache.flush()?;
    progress(rows.len(), rows.len())?;

    let loss = |key: &RowKey| cache.get(key).and_then(|loss| loss.first().copied());
    Ok(keyed
        .iter()
        .map(|(row, key)| (*row, loss(key).unwrap_or(0.0)))
        .collect())
}

/// Rows with the hash of what their losses depend on beside the model.
fn keyed(embedder: &Embedder<'_>, rows: &[u32]) -> Result<Vec<(u32, RowKey)>> {
    let examples = rows
        .par_iter()
        .map(|&row| embedder.corpus.clean_example(row))
        .collect::<Result<Vec<_>>>()?;
    let clips = embedder.clip_keys(&examples);
    let mut keyed = Vec::with_capacity(rows.len());
    for ((row, example), clips) in rows.iter().zip(&examples).zip(clips) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"loss ").update(&clips);
        for message in &example.messages {
            let told = format!("{:?} {} {}\n", message.role, message.loss, message.content);
            hasher.update(told.as_bytes());
        }
        keyed.push((*row, *hasher.finalize().as_bytes()));
    }
    Ok(keyed)
}

/// Losses of rows by the keys of their rows; those that cannot be read are left out where the
/// settings say so.
fn losses(embedder: &Embedder<'_>, rows: &[(u32, RowKey)]) -> Result<Vec<(RowKey, f32)>> {
    let loaded: Vec<Result<Sequence>> = rows
        .par_iter()
        .map(|&(row, _)| {
            let example = embedder.corpus.clean_example(row)?;
            let loaded = embedder
                .loader
                .load(&example, Mode::Train, Key::new(0, "base loss"));
            Ok(loaded
                .map_err(|e| e.at(embedder.corpus.place(row)))?
                .sequence)
        })
        .collect();
    let mut readable = Vec::with_capacity(rows.len());
    for ((_, key), sequence) in rows.iter().zip(loaded) {
        match sequence {
            Ok(sequence) => readable.push((*key, sequence)),
            Err(error) if embedder.on_bad_row == OnBadRow::Skip && error.kind == Kind::Input => {}
            Err(error) => return Err(error),
        }
    }

    let lengths: Vec<usize> = readable
        .iter()
        .map(|(_, sequence)| sequence.tokens.len())
        .collect();
    let mut found = Vec::with_capacity(readable.len());
    for range in micro_batches(&lengths, PACK_TOKENS) {
        let packed: Vec<&Sequence> = readable[range.clone()]
            .iter()
            .map(|(_, sequence)| sequence)
            .collect();
        let batch = Batch::pack(&packed, embedder.model.config.framing())?;
        let scored = embedder.model.score(&batch, 0.0)?;
        let mut sums = vec![(0.0, 0usize); packed.len()];
        for (sequence, log_probability) in
            batch.target_sequences.iter().zip(&scored.log_probabilities)
        {
            let (sum, count) = &mut sums[*sequence as usize];
            *sum -= log_probability;
            *count += 1;
        }
        for ((key, _), (sum, count)) in readable[range].iter().zip(sums) {
            found.push((*key, (sum / count.max(1) as f64) as f32));
        }
    }
    Ok(found)
}

/// Has stages order their rows by these losses.
///
/// # Errors
/// A loss that is not finite.
pub fn give(schedule: &mut Schedule, stages: &[usize], losses: &[(u32, f32)]) -> Result<()> {
    if let Some((_, loss)) = losses.iter().find(|(_, loss)| !loss.is_finite()) {
        return Err(Error::input(format!("the base's loss of a row is {loss}"))
            .hint("check the checkpoint with `maqam score`"));
    }
    let values: HashMap<u32, f64> = losses
        .iter()
        .map(|&(row, loss)| (row, f64::from(loss)))
        .collect();
    stages
        .iter()
        .try_for_each(|&stage| schedule.set_difficulty(stage, values.clone()))
}

/// Writes a run's losses; returns the hash of the file.
///
/// # Errors
/// A file that cannot be written.
pub fn save(path: &Path, losses: &[(u32, f32)]) -> Result<String> {
    let (rows, values): (Vec<u32>, Vec<f32>) = losses.iter().copied().unzip();
    let len = rows.len();
    let tensors = [
        ("rows", Tensor::from_vec(rows, len, &Device::Cpu)?),
        ("values", Tensor::from_vec(values, len, &Device::Cpu)?),
    ];
    files::write_safetensors(path, tensors)?;
    files::hash(path)
}

/// Reads a run's losses, whose file must have this hash.
///
/// # Errors
/// A file that is missing or another.
pub fn load(path: &Path, hash: &str) -> Result<Vec<(u32, f32)>> {
    if !path.is_file() || files::hash(path)? != hash {
        return Err(Error::input("the run's losses of the base are missing or have changed")
            .at_path(path)
            .hint("put the file back to continue this run, or start another with `--set name=NAME`"));
    }
    let stored = candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|e| Error::from(e).in_input().at("damaged").at_path(path))?;
    let tensor = |name: &str| {
        stored
            .get(name)
            .ok_or_else(|| Error::input(format!("no `{name}`")).at_path(path))
    };
    let rows: Vec<u32> = tensor("rows")?.to_vec1()?;
    let values: Vec<f32> = tensor("values")?.to_vec1()?;
    Ok(rows.into_iter().zip(values).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_numbers_or_texts_of_numbers() {
        let fields = json!({"snr": 3, "cer": " 0.25 ", "voice": "a", "no": null, "nan": "NaN"});
        let fields = fields.as_object().unwrap();
        assert_eq!(column(fields, "snr").unwrap(), 3.0);
        assert_eq!(column(fields, "cer").unwrap(), 0.25);
        for (name, words) in [
            ("voice", "column `voice` is \"a\", not a number"),
            ("nan", "column `nan` is \"NaN\", not a number"),
            ("no", "names the column `no`, and the row has none"),
            (
                "durration",
                "names the column `durration`, and the row has none",
            ),
        ] {
            let error = column(fields, name).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn losses_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("losses.safetensors");
        let losses = [(3, 0.5), (7, 2.25)];
        let hash = save(&path, &losses).unwrap();
        assert_eq!(load(&path, &hash).unwrap(), losses);
        let error = load(&path, "00").unwrap_err();
        assert!(error.to_string().contains("have changed"), "{error}");
    }
}
