//! Vectors that `draw: diverse` compares rows by: the projector's output for their audio, the token
//! embeddings for text; and the snapshot of them that a run keeps, so that what was drawn can be
//! drawn again.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::data::AudioSource;
use crate::data::Clip;
use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::featurise::Loader;
use crate::files;
use crate::models::AudioLlm;
use crate::ops::cpu::slice;
use crate::schedule::Embeddings;
use crate::schedule::PROJECT_ABOVE;
use crate::schedule::PROJECTED_DIMS;
use crate::schedule::Projection;
use crate::schedule::Schedule;
use crate::schedule::Vectors;
use crate::task::Example;
use crate::train::corpus::Corpus;
use crate::train::embedding_cache::Cache;
use crate::train::embedding_cache::RowKey;

/// Clips whose features are in memory at a time.
const READ_AHEAD: usize = 64;
/// Most audio tokens that are encoded in one pass.
const PACK_TOKENS: usize = 8192;

/// The vectors of a pool of rows, audio and text apart.
pub struct PoolVectors {
    /// Vectors of rows with audio: mean over time of the projector's output.
    pub audio: Vectors,
    /// Vectors of rows without: mean of the embeddings of the instruction's tokens.
    pub text: Vectors,
}

/// A model that embeds rows, and where the rows and its cache are.
pub struct Embedder<'a> {
    /// The model as it stands.
    pub model: &'a mut AudioLlm,
    /// Reader of clips.
    pub loader: &'a Loader,
    /// The rows.
    pub corpus: &'a Corpus,
    /// The folder of all caches.
    pub cache: &'a Path,
    /// Treatment of audio that cannot be read; left out, such a row has a vector of zeros.
    pub on_bad_row: OnBadRow,
    /// Seed of the projection of very large pools.
    pub seed: u64,
}

/// A row, and what its vector is cached by.
struct KeyedRow {
    row: u32,
    key: RowKey,
    example: Example,
}

impl Embedder<'_> {
    /// The vectors of these rows, from the cache where it has them; always of clean audio.
    /// `progress` is told how many of how many are done.
    ///
    /// # Errors
    /// Audio that cannot be read (with [`OnBadRow::Error`]), a cache of another model, what
    /// `progress` returns.
    pub fn embed(
        &mut self,
        rows: &[u32],
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<PoolVectors> {
        let examples = rows
            .par_iter()
            .map(|&row| Ok((row, self.corpus.clean_example(row)?)))
            .collect::<Result<Vec<_>>>()?;
        let (with_audio, text_only): (Vec<_>, Vec<_>) = examples
            .into_iter()
            .partition(|(_, example)| !example.clips.is_empty());
        let with_audio = keyed_by_clips(with_audio);
        let text_only = text_only
            .into_par_iter()
            .map(|(row, example)| {
                let key = self.tokens_key(&example)?;
                Ok(KeyedRow { row, key, example })
            })
            .collect::<Result<Vec<_>>>()?;

        let total = with_audio.len() + text_only.len();

        let audio = if with_audio.is_empty() {
            Vectors::default()
        } else {
            self.embed_audio(&with_audio, &mut |done| progress(done, total))?
        };

        let text = if text_only.is_empty() {
            Vectors::default()
        } else {
            let mut progress = |done| progress(with_audio.len() + done, total);
            self.embed_text(&text_only, &mut progress)?
        };

        Ok(PoolVectors { audio, text })
    }

    /// Means over time of the audio embeddings of rows.
    fn embed_audio(
        &mut self,
        rows: &[KeyedRow],
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vectors> {
        let dim = self.model.config.text.hidden_size;
        let mut cache = Cache::open(self.cache, self.model.audio_fingerprint()?, dim)?;
        let missing = missing(rows, &cache);
        let known = rows.len() - missing.len();
        for (i, chunk) in missing.chunks(READ_AHEAD).enumerate() {
            progress(known + i * READ_AHEAD)?;
            let readable = self.read_audio(chunk)?;
            let lengths: Vec<usize> = readable
                .iter()
                .map(|(_, sequence)| sequence.tokens.len())
                .collect();
            for range in micro_batches(&lengths, PACK_TOKENS) {
                for (key, mean) in self.means(&readable[range])? {
                    cache.put(key, mean)?;
                }
            }
        }
        cache.flush()?;
        progress(rows.len())?;
        // A row whose audio cannot be read has no vector: zeros say nothing of it, and it is as far
        // from every other as unrelated rows are.
        Ok(self.gathered(rows, |row| {
            cache.get(&row.key).unwrap_or_else(|| vec![0.0; dim])
        }))
    }

    /// The clips of rows; those that cannot be read are left out where the settings say so.
    fn read_audio(&self, rows: &[&KeyedRow]) -> Result<Vec<(RowKey, Sequence)>> {
        let sequences: Vec<Result<Sequence>> = rows
            .par_iter()
            .map(|row| {
                let sequence = self.loader.audio_of(&row.example.clips);
                sequence.map_err(|e| e.at(self.corpus.place(row.row)))
            })
            .collect();
        let mut readable = Vec::with_capacity(rows.len());
        for (row, sequence) in rows.iter().zip(sequences) {
            match sequence {
                Ok(sequence) => readable.push((row.key, sequence)),
                Err(error) if self.on_bad_row == OnBadRow::Skip && error.kind == Kind::Input => {}
                Err(error) => return Err(error),
            }
        }
        Ok(readable)
    }

    /// The rows' vectors, projected as they come where there are too many to hold.
    fn gathered(
        &self,
        rows: &[KeyedRow],
        vector: impl Fn(&KeyedRow) -> Vec<f32> + Sync,
    ) -> Vectors {
        let dims = self.model.config.text.hidden_size;
        let numbers = rows.iter().map(|row| row.row).collect();
        if rows.len() <= PROJECT_ABOVE || dims <= PROJECTED_DIMS {
            return Vectors {
                rows: numbers,
                dims,
                values: rows.iter().flat_map(vector).collect(),
            };
        }
        let projection = Projection::new(dims, self.seed);
        let values = rows
            .par_iter()
            .flat_map_iter(|row| projection.apply(&vector(row)))
            .collect();
        Vectors {
            rows: numbers,
            dims: PROJECTED_DIMS,
            values,
        }
    }

    /// The mean over time of each sequence's audio embeddings.
    fn means(&self, sequences: &[(RowKey, Sequence)]) -> Result<Vec<(RowKey, Vec<f32>)>> {
        let packed: Vec<&Sequence> = sequences.iter().map(|(_, sequence)| sequence).collect();
        let batch = Batch::pack(&packed, self.model.config.framing())?;
        let embeddings = self
            .model
            .embed_audio(&batch)?
            .ok_or_else(|| Error::bug("clips that were not encoded"))?;
        let mut start = 0;
        let mut means = Vec::with_capacity(sequences.len());
        for (key, sequence) in sequences {
            let mean = embeddings
                .narrow(0, start, sequence.tokens.len())?
                .mean(0)?;
            means.push((*key, slice::<f32>(&mean)?.to_vec()));
            start += sequence.tokens.len();
        }
        Ok(means)
    }

    /// Means of the embeddings of rows' instructions.
    fn embed_text(
        &self,
        rows: &[KeyedRow],
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vectors> {
        let mut cache = Cache::open(
            self.cache,
            self.model.text_fingerprint()?,
            self.model.config.text.hidden_size,
        )?;
        for (i, row) in missing(rows, &cache).into_iter().enumerate() {
            if i % READ_AHEAD == 0 {
                progress(i)?;
            }
            let tokens = self.loader.question_tokens(&row.example)?;
            let mean = self.model.mean_text_embedding(&tokens)?;
            cache.put(row.key, slice::<f32>(&mean)?.to_vec())?;
        }
        cache.flush()?;
        progress(rows.len())?;
        Ok(self.gathered(rows, |row| cache.get(&row.key).unwrap_or_default()))
    }

    /// Hashes of examples' clips: contents of their files and the parts that count.
    pub fn clip_keys(&self, examples: &[Example]) -> Vec<RowKey> {
        let files = hash_files(examples.iter().flat_map(|example| &example.clips));
        examples
            .iter()
            .map(|example| clips_key(&example.clips, &files))
            .collect()
    }

    fn tokens_key(&self, example: &Example) -> Result<RowKey> {
        let bytes: Vec<u8> = self
            .loader
            .question_tokens(example)?
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        Ok(*blake3::hash(&bytes).as_bytes())
    }
}

/// The vectors of all rows that some stages can draw.
///
/// # Errors
/// As [`Embedder::embed`].
pub fn of_stages(
    mut embedder: Embedder<'_>,
    schedule: &Schedule,
    stages: &[usize],
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<PoolVectors> {
    let rows = embedder.corpus.rows_of(
        stages
            .iter()
            .flat_map(|&stage| &schedule.stages()[stage].tasks),
    );
    embedder.embed(&rows, progress)
}

/// Has some stages draw by these vectors; returns what they compare.
///
/// # Errors
/// Vectors that are not finite; a row of a stage that has none.
pub fn give(
    schedule: &mut Schedule,
    stages: &[usize],
    vectors: PoolVectors,
    seed: u64,
) -> Result<Arc<Embeddings>> {
    let embeddings = Arc::new(Embeddings::new(vectors.audio, vectors.text, seed)?);
    stages
        .iter()
        .try_for_each(|&stage| schedule.set_embeddings(stage, embeddings.clone()))?;
    Ok(embeddings)
}

/// One of each key that the cache lacks.
fn missing<'a>(rows: &'a [KeyedRow], cache: &Cache) -> Vec<&'a KeyedRow> {
    let mut seen = BTreeSet::new();
    rows.iter()
        .filter(|row| cache.get(&row.key).is_none() && seen.insert(row.key))
        .collect()
}

fn keyed_by_clips(examples: Vec<(u32, Example)>) -> Vec<KeyedRow> {
    let clips = examples.iter().flat_map(|(_, example)| &example.clips);
    let files = hash_files(clips);
    examples
        .into_iter()
        .map(|(row, example)| KeyedRow {
            row,
            key: clips_key(&example.clips, &files),
            example,
        })
        .collect()
}

/// BLAKE3 of every audio file; none for one that cannot be opened, which is refused with its place
/// when it is decoded.
fn hash_files<'a>(clips: impl Iterator<Item = &'a Clip>) -> HashMap<PathBuf, Option<String>> {
    let path = |clip: &Clip| match &clip.source {
        AudioSource::File(path) => Some(path.to_path_buf()),
        AudioSource::Range { .. } | AudioSource::Embedded { .. } => None,
    };
    let paths: BTreeSet<PathBuf> = clips.filter_map(path).collect();
    paths
        .into_par_iter()
        .map(|path| (path.clone(), files::hash(&path).ok()))
        .collect()
}

/// Key of a row by its clips: contents of their files and which part of them counts.
fn clips_key(clips: &[Clip], files: &HashMap<PathBuf, Option<String>>) -> RowKey {
    let mut hasher = blake3::Hasher::new();
    for clip in clips {
        match &clip.source {
            AudioSource::File(path) => hasher.update(
                files
                    .get(path.as_ref())
                    .and_then(Option::as_ref)
                    .map_or(&[][..], |hash| hash.as_bytes()),
            ),
            // What cannot be read is refused with its place where it is encoded.
            other => match other.bytes() {
                Ok(bytes) => hasher.update(blake3::hash(&bytes).to_hex().as_bytes()),
                Err(_) => &mut hasher,
            },
        };
        hasher.update(format!(" {}\n", clip.span.key()).as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Writes a snapshot; returns its hash.
pub fn save(path: &Path, vectors: &PoolVectors) -> Result<String> {
    let mut tensors = Vec::new();
    for (name, of) in [("audio", &vectors.audio), ("text", &vectors.text)] {
        if !of.rows.is_empty() {
            tensors.push((
                format!("{name}.rows"),
                Tensor::from_vec(of.rows.clone(), of.rows.len(), &Device::Cpu)?,
            ));
            tensors.push((
                format!("{name}.values"),
                Tensor::from_vec(of.values.clone(), (of.rows.len(), of.dims), &Device::Cpu)?,
            ));
        }
    }
    files::write_safetensors(path, tensors)?;
    files::hash(path)
}

/// Reads a snapshot that must have this hash.
///
/// # Errors
/// A file that is missing or another: the run would go on with other rows than it began with.
pub fn load(path: &Path, hash: &str) -> Result<PoolVectors> {
    if !path.is_file() || files::hash(path)? != hash {
        return Err(Error::input("the run's snapshot of embeddings is missing or has changed")
            .at_path(path)
            .hint("put the file back to continue this run, or start another with `--set name=NAME`"));
    }
    let stored = candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|e| Error::from(e).in_input().at("damaged").at_path(path))?;
    Ok(PoolVectors {
        audio: vectors(&stored, "audio").map_err(|e| e.at_path(path))?,
        text: vectors(&stored, "text").map_err(|e| e.at_path(path))?,
    })
}

/// The vectors of a snapshot by the name of their part; none where it has no such part.
fn vectors(stored: &HashMap<String, Tensor>, name: &str) -> Result<Vectors> {
    let Some(rows) = stored.get(&format!("{name}.rows")) else {
        return Ok(Vectors::default());
    };
    let values = stored
        .get(&format!("{name}.values"))
        .ok_or_else(|| Error::input(format!("no `{name}.values`")))?;
    Ok(Vectors {
        rows: rows.to_vec1()?,
        dims: values.dims2()?.1,
        values: values.flatten_all()?.to_vec1()?,
    })
}
