//! A speech encoder in place of a family's audio tower: its shape, where its weights are, and the
//! JSON that records both.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::batch::Framing;
use crate::batch::Reduction;
use crate::models::hubert;
use crate::models::hubert::config::CONFIG_FILE;
use crate::models::hubert::config::Config;
use crate::nn::checkpoint::read_json;
use crate::nn::checkpoint::weight_files;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// File in a run's checkpoint that records the encoder.
pub const FILE: &str = "audio_encoder.json";

/// Section of a model's `config.json` that records the encoder of its weights.
pub const SECTION: &str = "maqam_audio_encoder";

/// A speech encoder whose frames, in stacks, are the input of the projector.
#[derive(Clone, Debug, PartialEq)]
pub struct Speech {
    /// Shape of the encoder.
    pub encoder: Config,
    /// Frames of one audio token.
    pub stack: usize,
    /// Where the weights are.
    pub weights: SpeechWeights,
}

/// Source of the weights of a speech encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpeechWeights {
    /// A checkpoint of the encoder alone.
    Folder {
        /// The folder.
        dir: PathBuf,
        /// BLAKE3 of its weights.
        hash: String,
    },
    /// Among the model's own weights, or those that were trained.
    Model,
}

/// The record in JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    stack: usize,
    do_normalize: bool,
    encoder: Config,
}

impl Speech {
    /// The encoder of a checkpoint folder of Hugging Face's, `stack` frames to an audio token.
    ///
    /// # Errors
    /// A stack of 0; a folder that is missing, or holds no such encoder; files that are damaged.
    pub fn open(dir: &Path, stack: usize) -> Result<Self> {
        if stack == 0 {
            return Err(Error::input("`audio_encoder.stack` is 0").hint(
                "write the number of encoder frames, 50 per second, that become one audio token, such as 4",
            ));
        }
        refuse_others(dir)?;
        Ok(Self {
            encoder: Config::load(dir)?,
            stack,
            weights: SpeechWeights::Folder {
                dir: dir.to_owned(),
                hash: hash_of(dir)?,
            },
        })
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Fields that are missing or of another type; sizes that fit no encoder.
    pub fn from_json(value: &Value) -> Result<Self> {
        let written: Written = serde_json::from_value(value.clone()).map_err(|e| {
            Error::input(format!("not a record of an audio encoder: {e}"))
                .caused_by(e)
                .hint("put the file back as maqam wrote it")
        })?;
        let Written {
            from,
            hash,
            stack,
            do_normalize,
            mut encoder,
        } = written;
        encoder.do_normalize = do_normalize;
        encoder.check()?;
        if stack == 0 {
            return Err(Error::input("`stack` is 0").hint("put the file back as maqam wrote it"));
        }
        Ok(Self {
            encoder,
            stack,
            weights: match from.zip(hash) {
                Some((dir, hash)) => SpeechWeights::Folder { dir, hash },
                None => SpeechWeights::Model,
            },
        })
    }

    /// The record. `with_weights` says that the encoder's weights are stored beside it, and leaves
    /// their folder out.
    ///
    /// # Errors
    /// None but a fault of ours.
    pub fn to_json(&self, with_weights: bool) -> Result<Value> {
        let (from, hash) = match &self.weights {
            SpeechWeights::Folder { dir, hash } if !with_weights => {
                (Some(dir.clone()), Some(hash.clone()))
            }
            _ => (None, None),
        };
        let written = Written {
            from,
            hash,
            stack: self.stack,
            do_normalize: self.encoder.do_normalize,
            encoder: self.encoder.clone(),
        };
        serde_json::to_value(written).map_err(Error::bug_from)
    }

    /// Reads the record in a folder of what was trained; `None` where there is none.
    ///
    /// # Errors
    /// As [`Speech::from_json`].
    pub fn of_folder(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let value = read_json(&path)?;
        Self::from_json(&value)
            .map(Some)
            .map_err(|e| e.at_path(&path))
    }

    /// Refuses what was trained in `dir` with another encoder than the model has, `own`.
    ///
    /// # Errors
    /// That folder.
    pub fn check_folder(dir: &Path, own: Option<&Self>) -> Result<()> {
        let Some(found) = Self::of_folder(dir)? else {
            return Ok(());
        };
        let fault = match own {
            None => "it was trained with a speech encoder, and this model has its own audio tower",
            Some(own) if own.stack != found.stack => "it was trained with another `stack`",
            Some(own) if !own.is_same_encoder(&found) => {
                "it was trained with another speech encoder"
            }
            Some(_) => return Ok(()),
        };
        let from = match &found.weights {
            SpeechWeights::Folder { dir, .. } => format!("from: {}, ", dir.display()),
            SpeechWeights::Model => String::new(),
        };
        Err(Error::input(fault).at_path(dir).hint(format!(
            "use the encoder that it was trained with: `audio_encoder: {{{from}stack: {}}}`",
            found.stack
        )))
    }

    /// Whether two records are of one encoder, as far as both say.
    fn is_same_encoder(&self, other: &Self) -> bool {
        let is_same_folder = match (&self.weights, &other.weights) {
            (SpeechWeights::Folder { hash: a, .. }, SpeechWeights::Folder { hash: b, .. }) => {
                a == b
            }
            _ => true,
        };
        // Fields that maqam does not compute with are left out.
        let computed = |encoder: &Config| Config {
            other: Map::new(),
            ..encoder.clone()
        };
        is_same_folder && computed(&self.encoder) == computed(&other.encoder)
    }

    /// The encoder's tensors by their names below `stem`, in `f32`; none where the model's own
    /// weights have them.
    ///
    /// # Errors
    /// Files that are missing, damaged, or others than the record says.
    pub fn tensors(&self, stem: &str) -> Result<HashMap<String, Tensor>> {
        let SpeechWeights::Folder { dir, hash } = &self.weights else {
            return Ok(HashMap::new());
        };
        refuse_others(dir)?;
        if hash_of(dir)? != *hash {
            return Err(Error::input(
                "the weights of this speech encoder are not those that the model was trained with",
            )
            .at_path(dir)
            .hint("put the encoder's folder back as it was"));
        }
        hubert::tensors(&self.encoder, &hubert::Source::open(dir)?, stem)
    }

    /// Samples of clips to audio tokens.
    pub fn framing(&self) -> Framing {
        Framing {
            window: usize::MAX,
            reduction: Reduction::Samples {
                field: self.encoder.field(),
                stride: self.encoder.stride(),
                stack: self.stack,
            },
        }
    }

    /// Numbers of a stack of frames: width of the projector's input.
    pub fn width(&self) -> usize {
        self.stack * self.encoder.hidden_size
    }

    /// The encoder in words, for messages.
    pub fn description(&self) -> String {
        let kind = match self.encoder.model_type.as_str() {
            "wav2vec2" => "wav2vec 2.0",
            _ => "HuBERT",
        };
        format!(
            "{kind} encoder of {} layers, {} wide",
            self.encoder.num_hidden_layers, self.encoder.hidden_size
        )
    }
}

/// Refuses a folder that is missing or whose configuration is not that of a speech encoder.
fn refuse_others(dir: &Path) -> Result<()> {
    const HINT: &str = "name the folder of a HuBERT or wav2vec 2.0 checkpoint, such as runs/NAME/iteration-2/encoder of `maqam encoder`";
    if !dir.is_dir() {
        return Err(Error::input("`audio_encoder.from`: no such folder")
            .at_path(dir)
            .hint(HINT));
    }
    let path = dir.join(CONFIG_FILE);
    if !path.is_file() {
        return Err(
            Error::input("`audio_encoder.from`: a folder without config.json")
                .at_path(dir)
                .hint(HINT),
        );
    }
    if hubert::is_encoder(dir) {
        return Ok(());
    }
    let config = read_json(&path)?;
    let found = config["model_type"].as_str().unwrap_or("nothing");
    Err(Error::input(format!(
        "`audio_encoder.from`: `model_type` is {found}, which is no speech encoder"
    ))
    .at_path(&path)
    .hint(HINT))
}

/// BLAKE3 over the hashes of the files of a folder's weights.
fn hash_of(dir: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in weight_files(dir)? {
        hasher.update(files::hash(&path)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
