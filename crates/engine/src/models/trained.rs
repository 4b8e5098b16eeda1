//! Trained weights in a folder: a PEFT adapter, `trained.safetensors` with the parts in full
//! fine-tuning, or both.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;
use candle_core::Tensor;

use crate::models::AudioLlm;
use crate::models::build::weight_shapes;
use crate::models::config::Config;
use crate::models::speech;
use crate::models::speech::Speech;
use crate::models::speech::SpeechWeights;
use crate::nn::checkpoint::read_safetensors;
use crate::nn::checkpoint::refuse_not_finite;
use crate::nn::checkpoint::shapes;
use crate::nn::lora::Plan;
use crate::nn::peft;
use crate::nn::peft::Adapter;
use crate::nn::peft::Metadata;
use crate::nn::precision::Precision;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::parts::Part;

/// The file of the parts in full fine-tuning: names as in the checkpoint, `f32`.
pub const FILE: &str = "trained.safetensors";

/// A checkpoint of a run, or a PEFT folder: what it changes of the model it was trained on.
#[derive(Debug, Default)]
pub struct Trained {
    /// Adapters, if there are any.
    pub adapter: Option<Adapter>,
    /// Weights in place of the checkpoint's, by their names there.
    pub full: HashMap<String, Tensor>,
    /// The folder, for messages.
    dir: Option<PathBuf>,
}

impl Trained {
    /// Notes on what the folder says that has no effect.
    pub fn notes(&self) -> &[String] {
        self.adapter.as_ref().map_or(&[], |adapter| &adapter.notes)
    }

    /// Number of the checkpoint's weights that it changes.
    pub fn num_weights(&self) -> usize {
        let adapted = self.adapter.as_ref().map_or(0, |adapter| {
            adapter.plan.modules.len() + usize::from(adapter.rows.is_some())
        });
        adapted + self.full.len()
    }

    /// Reads a folder for a model of this shape.
    ///
    /// # Errors
    /// As [`Adapter::load`]; a tensor that the model does not have, or of another shape.
    pub fn load(dir: &Path, config: &Config) -> Result<Self> {
        Speech::check_folder(dir, config.speech.as_deref())?;
        let path = dir.join(FILE);
        let mut full = HashMap::new();
        if path.is_file() {
            check_full(&path, config)?;
            full = read_safetensors(&path)?;
            refuse_not_finite(&full, &path)?;
        }

        Ok(Self {
            adapter: adapter(dir, config)?,
            full,
            dir: Some(dir.to_owned()),
        })
    }

    /// Checks that a folder fits a model of this shape, and returns its adapter. Of parts in full
    /// fine-tuning, which are as large as a checkpoint, it reads names and shapes alone.
    ///
    /// # Errors
    /// As [`Trained::load`], except for the values of parts in full fine-tuning.
    pub fn check(dir: &Path, config: &Config) -> Result<Option<Adapter>> {
        Speech::check_folder(dir, config.speech.as_deref())?;
        let path = dir.join(FILE);
        if path.is_file() {
            check_full(&path, config)?;
        }
        adapter(dir, config)
    }
}

/// The adapter of a folder; none where parts in full fine-tuning stand alone.
fn adapter(dir: &Path, config: &Config) -> Result<Option<Adapter>> {
    if dir.join(FILE).is_file() && !dir.join(peft::CONFIG_FILE).is_file() {
        return Ok(None);
    }
    Adapter::load(dir, &config.adaptable()).map(Some)
}

/// Refuses a file of trained parts with a tensor that the model does not have, or of another shape.
fn check_full(path: &Path, config: &Config) -> Result<()> {
    let known = weight_shapes(config);
    for (name, found) in shapes(path)? {
        let fault = match known.get(&name) {
            None => format!("this model has no `{name}`"),
            Some(needed) if *needed != found => {
                format!("`{name}` has shape {found:?}, this model needs {needed:?}")
            }
            Some(_) => continue,
        };
        return Err(Error::input(fault).at_path(path).hint(format!(
            "give the model that these weights were trained from; `{}` was given",
            config.source.display()
        )));
    }
    Ok(())
}

/// Writes what was trained of a model into a folder that exists.
pub fn save(dir: &Path, model: &AudioLlm, metadata: &Metadata) -> Result<()> {
    if model.plan.has_adapter() {
        peft::save(
            dir,
            &model.plan,
            &model.adapter_tensors()?,
            model.token_rows()?.as_ref(),
            metadata,
            &model.config.names.adapters[0],
        )?;
    }
    if !model.plan.full.is_empty() {
        files::write_safetensors(&dir.join(FILE), model.full_tensors()?)?;
    }
    match &model.config.speech {
        Some(speech) if speech.weights != SpeechWeights::Model => {
            let is_here = model.plan.full.contains(&Part::AudioEncoder);
            write_record(dir, speech, is_here)
        }
        _ => Ok(()),
    }
}

/// Records the speech encoder beside what was trained with it.
fn write_record(dir: &Path, speech: &Speech, is_here: bool) -> Result<()> {
    let record = speech.to_json(is_here)?;
    let text = serde_json::to_string_pretty(&record).map_err(Error::bug_from)?;
    files::write_atomic(&dir.join(speech::FILE), format!("{text}\n").as_bytes())
}

/// Takes over what [`save`] wrote of a model that trains the same parts.
pub fn load_into(dir: &Path, model: &AudioLlm) -> Result<()> {
    let trained = Trained::load(dir, &model.config)?;
    match &trained.adapter {
        Some(adapter) if model.plan.tokens.is_empty() == adapter.rows.is_none() => {
            model.load_adapter(adapter)?;
        }
        None if !model.plan.has_adapter() => {}
        Some(_) => {
            return Err(Error::input(
                "embeddings of tokens are trained here and not there, or the other way round",
            )
            .at_path(&dir.join(peft::CONFIG_FILE)));
        }
        None => {
            return Err(Error::input("there is no adapter").at_path(&dir.join(peft::CONFIG_FILE)));
        }
    }
    model
        .load_full(&trained.full)
        .map_err(|e| e.at_path(&dir.join(FILE)))
}

impl Trained {
    /// Reads the folder of what was trained of a model of this shape; nothing was where none is
    /// named.
    ///
    /// # Errors
    /// As [`Trained::load`].
    pub fn of(dir: Option<&Path>, config: &Config) -> Result<Self> {
        let found = dir.map(|dir| Self::load(dir, config)).transpose()?;
        Ok(found.unwrap_or_default())
    }

    /// The adapters' shapes.
    pub fn plan(&self) -> Plan {
        let adapter = self.adapter.as_ref();
        adapter.map_or_else(Plan::default, |adapter| adapter.plan.clone())
    }

    /// Opens a checkpoint with what was trained of it, to answer with. It computes in `precision`,
    /// or as the device does by default.
    ///
    /// # Errors
    /// Files that are missing or damaged; an adapter that does not fit; too little memory.
    pub fn open(
        self,
        model_dir: &Path,
        config: &Config,
        device: &Device,
        precision: Option<Precision>,
    ) -> Result<AudioLlm> {
        let plan = self.plan();
        let weights = config.weights(model_dir)?.with(self.full);
        let mut model = AudioLlm::new(config.clone(), &weights, plan, false, device)?;
        if let Some(precision) = precision {
            model.compute_in(precision)?;
        }
        if let (Some(adapter), Some(dir)) = (&self.adapter, &self.dir) {
            model.load_adapter(adapter).map_err(|e| e.at_path(dir))?;
        }
        Ok(model)
    }
}
