//! Writes the weights and the configuration of a composition.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use rand_distr::Distribution;
use rand_distr::StandardNormal;
use safetensors::Dtype;
use safetensors::View;
use serde_json::Value;
use serde_json::json;

use crate::models::build::weight_shapes;
use crate::models::compose::decoder::Decoder;
use crate::models::compose::decoder::Source;
use crate::models::compose::encoder::Encoder;
use crate::models::compose::encoder::is_encoders;
use crate::models::compose::gguf::Gguf;
use crate::models::config::Config;
use crate::models::export::name_of;
use crate::models::export::narrowed;
use crate::models::qwen2_audio;
use crate::models::qwen2_audio::names::NAMES;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::checkpoint::NOT_FINITE_HINT;
use crate::nn::checkpoint::SINGLE;
use crate::nn::checkpoint::StoredTensor;
use crate::ops::cpu::slice;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::seed::Key;

/// Parts of a composition.
pub struct Composition<'a> {
    /// The encoder.
    pub encoder: &'a Encoder,
    /// The decoder.
    pub decoder: &'a Decoder,
    /// Ids of the tokens that stand for audio, and that open and close a clip.
    pub tokens: [usize; 3],
    /// The first of them that the decoder has not learnt, and all after it.
    pub first_new: usize,
    /// Type of all weights; where nothing is said each keeps its own, and what was in blocks
    /// becomes bf16.
    pub dtype: Option<Dtype>,
    /// Seed of the projector.
    pub seed: u64,
}

/// Result of a composition.
pub struct Composed {
    /// Shape of the model.
    pub config: Config,
    /// Number of tensors.
    pub num_tensors: usize,
}

impl Composition<'_> {
    /// Writes `config.json` and the weights into a folder that exists.
    ///
    /// # Errors
    /// Parts that do not fit the layout; weights that are missing, misshapen or not finite.
    pub fn write(&self, out: &Path) -> Result<Composed> {
        let mut pieces = self.parts()?;
        let is_tied = self.is_tied(&pieces)?;
        let rows = self.add_tokens(is_tied, &mut pieces)?;
        let root = self.config_json(rows, is_tied, &pieces);
        let config = qwen2_audio::from_json(&root)?;
        self.add_projector(&config, &mut pieces)?;
        check(&config, &pieces)?;

        let num_tensors = pieces.len();
        self.write_weights(&out.join(SINGLE), pieces)?;
        let text = serde_json::to_string_pretty(&root).map_err(Error::bug_from)?;
        files::write_atomic(&out.join("config.json"), format!("{text}\n").as_bytes())?;
        Ok(Composed {
            config,
            num_tensors,
        })
    }

    /// The tensors of encoder and decoder under their new names.
    fn parts(&self) -> Result<Vec<Piece<'_>>> {
        let mut pieces = Vec::new();
        self.add_folder(&self.encoder.checkpoint, is_encoders, &mut pieces)?;
        match &self.decoder.source {
            Source::Folder(checkpoint) => {
                self.add_folder(checkpoint, |name| !is_encoders(name), &mut pieces)?;
            }
            Source::File(file) => self.add_file(file, &mut pieces)?,
        }
        Ok(pieces)
    }

    /// Adds rows for new tokens to embeddings and head, and the head of a model that ties it;
    /// returns the number of rows.
    fn add_tokens(&self, is_tied: bool, pieces: &mut Vec<Piece>) -> Result<usize> {
        let embeddings = NAMES.embeddings();
        let head = NAMES.head;
        let table = pieces.iter().find(|piece| piece.name == embeddings);
        let rows = table
            .map(|table| table.shape[0])
            .ok_or_else(|| Error::input("the decoder has no `model.embed_tokens.weight`"))?;
        let rows = rows.max(self.tokens.into_iter().max().unwrap_or(0) + 1);

        pieces.retain(|piece| !is_tied || piece.name != head);
        for piece in pieces.iter_mut() {
            if piece.name == embeddings || piece.name == head {
                piece.values = self.with_tokens(piece, rows)?;
                piece.shape[0] = rows;
            }
        }

        // The class of transformers 5 ties nothing, so files hold the head too.
        let table = pieces.iter().find(|piece| piece.name == embeddings);
        let head = table.filter(|_| is_tied).map(|table| Piece {
            name: head.to_owned(),
            shape: table.shape.clone(),
            dtype: table.dtype,
            values: table.values.clone(),
        });
        pieces.extend(head);
        Ok(rows)
    }

    fn write_weights(&self, path: &Path, pieces: Vec<Piece>) -> Result<()> {
        let failed = RefCell::new(None);
        let views = pieces.into_iter().map(|piece| {
            let view = PieceView {
                dtype: self.dtype_of(&piece),
                piece,
                failed: &failed,
            };
            (view.piece.name.clone(), view)
        });
        files::write_safetensors(path, views)?;
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// The tensors of a checkpoint that are wanted under their new names.
    fn add_folder<'a>(
        &self,
        checkpoint: &'a Checkpoint,
        is_wanted: impl Fn(&str) -> bool,
        pieces: &mut Vec<Piece<'a>>,
    ) -> Result<()> {
        for (path, tensors) in checkpoint.files() {
            for (stored_name, stored) in tensors {
                let name = checkpoint.full_name(&stored_name);
                // Old checkpoints store the frequencies of rotations, which follow from the
                // configuration.
                let is_left = name == stored_name || name.ends_with("inv_freq");
                if is_left || !is_wanted(&name) {
                    continue;
                }
                let at = |e: Error| e.at(format!("`{stored_name}`")).at_path(path);
                if let Some(error) = stored.not_finite() {
                    return Err(at(error).hint(NOT_FINITE_HINT));
                }
                if !stored.is_float() {
                    let found = format!(
                        "is stored as {:?}; maqam reads F32, F16 and BF16",
                        stored.dtype
                    );
                    return Err(at(Error::input(found)));
                }
                let dtype = stored.dtype;
                let shape = stored.shape.clone();
                let values = match self.dtype {
                    Some(wanted) if wanted != dtype => {
                        Values::Numbers(Arc::new(stored.values().unwrap_or_default()))
                    }
                    _ => Values::Stored(stored.bytes),
                };
                pieces.push(Piece {
                    name,
                    shape,
                    dtype,
                    values,
                });
            }
        }

        Ok(())
    }

    fn add_file<'a>(&self, file: &'a Gguf, pieces: &mut Vec<Piece<'a>>) -> Result<()> {
        for (name, source, shape) in file.tensors()? {
            let name = format!("language_model.{name}");
            let values = Values::Blocks(file, source);
            pieces.push(Piece {
                name,
                shape,
                dtype: Dtype::BF16,
                values,
            });
        }
        Ok(())
    }

    /// Whether head and embeddings are one matrix: there is no head, or the configuration says so
    /// and both hold the same values.
    fn is_tied(&self, pieces: &[Piece]) -> Result<bool> {
        let find = |name: &str| pieces.iter().find(|piece| piece.name == name);
        let (Some(head), Some(table)) = (find(NAMES.head), find(&NAMES.embeddings())) else {
            return Ok(true);
        };
        Ok(head.shape == table.shape && head.numbers()? == table.numbers()?)
    }

    fn dtype_of(&self, piece: &Piece) -> Dtype {
        self.dtype.unwrap_or(piece.dtype)
    }

    /// The rows of a matrix over the vocabulary, those of new tokens set to the mean of the rows
    /// before them.
    fn with_tokens(&self, piece: &Piece, rows: usize) -> Result<Values<'static>> {
        let dim = piece.shape[1];
        let mut values = piece.numbers()?.into_owned();
        let known = self.first_new.min(values.len() / dim).max(1);
        let mut mean = vec![0f64; dim];
        for row in values.chunks(dim).take(known) {
            mean.iter_mut()
                .zip(row)
                .for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let mean: Vec<f32> = mean.iter().map(|sum| (sum / known as f64) as f32).collect();
        while values.len() < rows * dim {
            values.extend(&mean);
        }
        for token in self
            .tokens
            .into_iter()
            .filter(|&token| token >= self.first_new)
        {
            values[token * dim..(token + 1) * dim].copy_from_slice(&mean);
        }
        Ok(Values::Numbers(Arc::new(values)))
    }

    fn config_json(&self, rows: usize, is_tied: bool, pieces: &[Piece]) -> Value {
        let mut text = self.decoder.config.clone();
        text["vocab_size"] = rows.into();
        text["tie_word_embeddings"] = is_tied.into();
        let embeddings = NAMES.embeddings();
        let table = pieces.iter().find(|piece| piece.name == embeddings);
        let dtype = table.map_or(Dtype::F32, |piece| self.dtype_of(piece));
        json!({
            "architectures": ["Qwen2AudioForConditionalGeneration"],
            "model_type": "qwen2_audio",
            "audio_token_index": self.tokens[0],
            "ignore_index": -100,
            "tie_word_embeddings": is_tied,
            "dtype": name_of(dtype),
            "audio_config": self.encoder.config,
            "text_config": text,
        })
    }

    /// A fresh projector: normal weights of a deviation that makes its outputs as large as token
    /// embeddings, and a bias of zeros.
    fn add_projector(&self, config: &Config, pieces: &mut Vec<Piece>) -> Result<()> {
        let deviation = deviation(pieces)?;
        let outputs = config.audio.output_dim;
        let inputs = config.audio.d_model;
        let name = format!("{}.weight", NAMES.projector);
        let mut generator = Key::new(self.seed, "compose").with_name(&name).generator();
        let mut draw =
            || <StandardNormal as Distribution<f64>>::sample(&StandardNormal, &mut generator);
        let weight: Vec<f32> = (0..outputs * inputs)
            .map(|_| (draw() * deviation) as f32)
            .collect();
        for (name, shape, values) in [
            (name, vec![outputs, inputs], weight),
            (
                format!("{}.bias", NAMES.projector),
                vec![outputs],
                vec![0.0; outputs],
            ),
        ] {
            pieces.push(Piece {
                name,
                shape,
                dtype: Dtype::F32,
                values: Values::Numbers(Arc::new(values)),
            });
        }
        Ok(())
    }
}

/// Deviation of the projector's weights that gives its outputs the mean square of token embeddings.
///
/// The encoder's last norm gives numbers of mean square `w^2 + b^2`, which weights of deviation `s`
/// turn into outputs of mean square `s^2` times their sum.
fn deviation(pieces: &[Piece]) -> Result<f64> {
    let norm = NAMES.encoder_norm;
    let (embeddings, count) = squares(pieces, &NAMES.embeddings())?;
    let (scales, _) = squares(pieces, &format!("{norm}.weight"))?;
    let (shifts, _) = squares(pieces, &format!("{norm}.bias"))?;
    Ok((embeddings / count as f64 / (scales + shifts)).sqrt())
}

/// Sum of the squares of a tensor's values, and their number.
fn squares(pieces: &[Piece], name: &str) -> Result<(f64, usize)> {
    let piece = pieces
        .iter()
        .find(|piece| piece.name == name)
        .ok_or_else(|| Error::input(format!("there is no `{name}`")))?;
    let values = piece.numbers()?;
    let sum: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
    Ok((sum, values.len()))
}

/// Refuses weights that the configuration does not ask for, or asks for in another shape.
fn check(config: &Config, pieces: &[Piece]) -> Result<()> {
    let mut wanted = weight_shapes(config);
    let positions = vec![config.audio.max_source_positions, config.audio.d_model];
    let table = vec![config.text.vocab_size, config.text.hidden_size];
    wanted.insert(NAMES.head.to_owned(), table);
    wanted.extend(NAMES.positions.map(|name| (name.to_owned(), positions)));

    for piece in pieces {
        match wanted.remove(&piece.name) {
            Some(shape) if shape == piece.shape => {}
            Some(shape) => {
                return Err(Error::input(format!(
                    "`{}` has shape {:?}, the configuration asks for {shape:?}",
                    piece.name, piece.shape
                )));
            }
            None => {
                return Err(Error::input(format!(
                    "`{}` has no place in Qwen2-Audio",
                    piece.name
                )));
            }
        }
    }

    let mut missing: Vec<String> = wanted.into_keys().collect();
    missing.sort();

    match missing.first() {
        Some(name) => Err(Error::input(format!("no tensor for `{name}`"))
            .hint("configuration and weights of a part must belong together")),
        None => Ok(()),
    }
}

/// A tensor under its new name.
struct Piece<'a> {
    name: String,
    shape: Vec<usize>,
    /// The type it is stored in.
    dtype: Dtype,
    values: Values<'a>,
}

#[derive(Clone)]
enum Values<'a> {
    Stored(&'a [u8]),
    Numbers(Arc<Vec<f32>>),
    /// Spread out when it is written: name in the file.
    Blocks(&'a Gguf, String),
}

impl Piece<'_> {
    fn numbers(&self) -> Result<Cow<'_, [f32]>> {
        let of_tensor =
            |tensor: Tensor| Ok(Cow::Owned(slice::<f32>(&tensor.flatten_all()?)?.to_vec()));
        match &self.values {
            Values::Numbers(values) => Ok(Cow::Borrowed(values.as_slice())),
            Values::Blocks(file, source) => of_tensor(file.tensor(source)?),
            Values::Stored(bytes) => {
                let stored = StoredTensor {
                    dtype: self.dtype,
                    shape: self.shape.clone(),
                    bytes,
                };
                let found = stored.values().map(Cow::Owned);
                found.ok_or_else(|| Error::bug(format!("`{}` is not of floats", self.name)))
            }
        }
    }
}

/// A tensor as it is written; what fails while it is, is noted.
struct PieceView<'a> {
    piece: Piece<'a>,
    dtype: Dtype,
    failed: &'a RefCell<Option<Error>>,
}

impl View for PieceView<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.piece.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if let Values::Stored(bytes) = self.piece.values {
            return Cow::Borrowed(bytes);
        }
        let piece = &self.piece;
        let bytes = piece
            .numbers()
            .and_then(|values| narrowed(&values, &piece.shape, self.dtype));
        match bytes {
            Ok(bytes) => Cow::Owned(bytes),
            Err(error) => {
                let mut failed = self.failed.borrow_mut();
                failed.get_or_insert(error.at(format!("`{}`", piece.name)));
                Cow::Owned(vec![0; self.data_len()])
            }
        }
    }

    fn data_len(&self) -> usize {
        let bytes = if self.dtype == Dtype::F32 { 4 } else { 2 };
        self.piece.shape.iter().product::<usize>() * bytes
    }
}
