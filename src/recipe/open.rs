//! Opens a recipe: its rows, its schedule, its model on a device, and the memory for it.

use std::path::Path;
use std::sync::Mutex;

use candle_core::Device;

use crate::batch::micro_batches;
use crate::data::headers::Headers;
use crate::data::lengths::clip_lengths;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::Loader;
use crate::loss_weights;
use crate::machine;
use crate::machine::Available;
use crate::machine::available;
use crate::models::AudioLlm;
use crate::models::EmbeddingNoise;
use crate::models::config::Config;
use crate::models::cost::F32;
use crate::models::cost::Load;
use crate::models::cost::Model;
use crate::models::ctc_on_gpu;
use crate::models::encoded;
use crate::models::fresh_projector;
use crate::models::memory::Fit;
use crate::models::memory::HostNeed;
use crate::models::memory::default_pack_tokens;
use crate::models::names::Names;
use crate::models::sizes::Sizes;
use crate::models::token_rows_on_gpu;
use crate::models::trained::Trained;
use crate::nn::lora::Init;
use crate::nn::lora::Plan;
use crate::nn::peft::Adapter;
use crate::nn::peft::Metadata;
use crate::nn::precision::Computes;
use crate::nn::precision::Precision;
use crate::nn::weights::Weights;
use crate::ops::device;
use crate::ops::device::Memory;
use crate::ops::device::memory;
use crate::parts::Part;
use crate::parts::Parts;
use crate::recipe::Recipe;
use crate::recipe::RecipeRows;
use crate::recipe::WeightsSource;
use crate::records::inputs::Inputs;
use crate::schedule::Pick;
use crate::schedule::Schedule;
use crate::schedule::Stage;
use crate::schedule::online::Rule;
use crate::task::Mode;
use crate::task::TextCodec;
use crate::train::Run;

/// A resolved recipe.
pub struct Opened {
    /// Inputs of every step.
    pub run: Run,
    /// Schedule of the rows.
    pub schedule: Schedule,
    /// The model as the run starts.
    pub model: AudioLlm,
    /// Memory of the training on a GPU, if it runs on one.
    pub fit: Option<Fit>,
    /// Notes on the adapter that the run continues from.
    pub notes: Vec<String>,
}

/// A recipe whose rows are read and whose weights are not.
pub struct Prepared {
    rows: RecipeRows,
    computes: Computes,
    config: Config,
    loader: Loader,
    parts: Vec<Parts>,
    plan: Plan,
    loss: Vec<loss_weights::Settings>,
    fit: Option<Fit>,
}

/// Steps of each stage whose micro-batches are measured before a weight is read.
const STEPS_LOOKED_AT: usize = 8;

/// All tokens, audio tokens and target tokens of a pick; `None` for a row that cannot be used,
/// which training reports.
fn tokens_of(
    rows: &RecipeRows,
    pick: Pick,
    config: &Config,
    loader: &Loader,
    headers: &Headers,
) -> Option<(usize, usize, usize)> {
    let lengths = clip_lengths(rows.corpus.row(pick.row), None, headers).ok()?;
    let draw = rows.augmentation.as_ref();
    let draw = draw.map(|augmentation| augmentation.draw(pick.row, pick.epoch));
    let audio: Vec<usize> = lengths
        .into_iter()
        .enumerate()
        .map(|(clip, samples)| {
            let samples = draw.map_or(samples, |draw| draw.num_samples(clip, samples));
            config.audio_tokens(samples)
        })
        .collect();
    let example = rows.corpus.example(pick.row, pick.epoch).ok()?;
    let encoded = loader
        .codec()
        .encode_example(&example, &audio, Mode::Train)
        .ok()?;
    let targets = encoded.targets.iter().map(ExactSizeIterator::len).sum();
    Some((encoded.tokens.len(), audio.iter().sum(), targets))
}

impl Recipe {
    /// Reads configuration and tokenizer, and checks whether the training fits the device, before a
    /// weight is read.
    ///
    /// # Errors
    /// Adapters that match nothing; a training that does not fit the memory of the GPU, or of the
    /// machine if the CPU computes.
    pub fn prepare(
        &self,
        model_dir: &Path,
        rows: RecipeRows,
        headers: &Headers,
        device: &Device,
        ignore_memory: bool,
    ) -> Result<Prepared> {
        let computes = self.model.precision.on(device)?;
        let config = self.config(model_dir)?;
        if !device.is_cpu() {
            config.refuse_gpu()?;
        }
        let loader = Loader::new(model_dir, &config, self.max_audio_s)?;
        if let Some((_, suite)) = &rows.evaluate {
            suite.check_language(&loader)?;
        }
        let (parts, mut plan) =
            self.adapters(&config, Some(loader.codec().special()), &rows.schedule)?;
        plan.ctc = rows.characters();
        self.check_init(&plan, &config)?;
        let loss = self.losses(&rows.schedule)?;
        let fit = match memory(device)? {
            Some(memory) => Some(self.fit(&config, &plan, &parts, computes.precision, memory)?),
            None => None,
        };
        if device.is_cpu() && !ignore_memory {
            let sizes = Sizes::of(&config, &plan);
            let batch = self.first_batches(&rows, &loader, headers, (&config, &sizes, &parts))?;
            let copies = self.num_copies(&rows.schedule) as f64 * F32 * sizes.num_trained() as f64;
            HostNeed::training(&sizes, computes.precision, batch + copies)
                .check(available().map(Available::named))?;
        }

        Ok(Prepared {
            rows,
            computes,
            config,
            loader,
            parts,
            plan,
            loss,
            fit,
        })
    }

    /// Copies of all trained parameters that the tasks' gradients and look-ahead steps take in the
    /// host's memory.
    fn num_copies(&self, schedule: &Schedule) -> usize {
        let stages = schedule.stages().iter();
        let num_tasks = stages.map(|stage| stage.tasks.len() + stage.replayed.len());
        let most = num_tasks.max().unwrap_or(0);
        let of_tasks = self.gradients.as_ref();
        let of_tasks = of_tasks.map_or(0, |gradients| gradients.num_copies(most));
        let looks_ahead = |stage: &Stage| matches!(stage.online, Some(Rule::Dynamix(_)));
        match schedule.stages().iter().any(looks_ahead) {
            // Parameters and two moments.
            true => of_tasks + 3,
            false => of_tasks,
        }
    }

    /// Bytes of the largest micro-batch among the first steps of each stage, by the headers of
    /// their clips. Stages whose picks depend on the model are left out.
    fn first_batches(
        &self,
        rows: &RecipeRows,
        loader: &Loader,
        headers: &Headers,
        (config, sizes, parts): (&Config, &Sizes, &[Parts]),
    ) -> Result<f64> {
        let mut largest = 0f64;
        for (index, stage) in rows.schedule.stages().iter().enumerate() {
            if rows.schedule.needs_model(index) {
                continue;
            }
            let model = Model {
                config,
                sizes,
                parts: parts[index],
                save: self.memory.save,
            };
            for step in stage.range().take(STEPS_LOOKED_AT) {
                let mut drawn = Vec::new();
                for pick in rows.schedule.picks(step)? {
                    drawn.extend(tokens_of(rows, pick, config, loader, headers));
                }
                let lengths: Vec<usize> = drawn.iter().map(|(all, ..)| *all).collect();
                for range in micro_batches(&lengths, self.memory.pack_tokens()) {
                    let mut load = Load::default();
                    drawn[range]
                        .iter()
                        .for_each(|&(all, audio, targets)| load.add(all, audio, targets));
                    largest = largest.max(model.activations(&load));
                }
            }
        }
        Ok(largest)
    }

    /// Resolves the recipe: reads the weights onto the device. `model_dir` is the folder of
    /// `model.path`.
    ///
    /// # Errors
    /// Weights that are damaged or missing; an adapter to continue from with another shape than the
    /// recipe's.
    pub fn open(
        &self,
        prepared: Prepared,
        model_dir: &Path,
        device: &Device,
        inputs: Inputs,
    ) -> Result<Opened> {
        let Prepared {
            rows,
            computes,
            config,
            mut loader,
            parts,
            plan,
            loss,
            fit,
        } = prepared;
        let mut memory = self.memory.clone();
        if let Some(fit) = &fit {
            memory.pack_tokens = Some(fit.pack_tokens);
            loader.limit(
                fit.longest,
                format!(
                    "the GPU has memory for {} under `memory.save: {}`",
                    fit.longest, fit.save
                ),
                fit.hint(),
            );
        }
        let gpu = (!device.is_cpu())
            .then(|| device::name(device))
            .transpose()?;
        let framing = config.framing();
        let (mut model, notes) = self.model(model_dir, config, plan, device)?;
        // A clip that changes from epoch to epoch is never encoded twice.
        let is_augmented = rows.augmentation.is_some();
        if let Some(runs) = self.folder().parent().filter(|_| !is_augmented) {
            model.cache_encoded(&runs.join(".encoded"), encoded::LIMIT)?;
        }
        let run = Run {
            folder: self.folder(),
            seed: self.seed,
            order_seed: self.order_seed(),
            computes,
            machine: machine::here(gpu),
            inputs: Mutex::new(inputs),
            corpus: rows.corpus,
            loader,
            augmentation: rows.augmentation,
            framing,
            parts,
            loss,
            spelling: rows.spelling,
            metadata: Metadata {
                base: self.model.path.clone(),
                dropout: self.lora.dropout,
                variant: self.lora.variant,
            },
            dropout: self.lora.dropout,
            noise: self
                .neftune
                .map_or_else(EmbeddingNoise::default, |neftune| neftune.noise()),
            optimiser: self.optimiser.clone(),
            gradients: self.gradients.clone(),
            memory,
            fit: fit.clone(),
            checkpoint: self.checkpoint.clone(),
            evaluate: rows.evaluate,
            probe: self.probe.clone(),
            audio_gap: rows.audio_gap,
            embeddings: self.embeddings.clone(),
            on_bad_row: self.on_bad_row,
        };
        Ok(Opened {
            run,
            schedule: rows.schedule,
            model,
            fit,
            notes,
        })
    }

    /// Memory of the training on a GPU with this memory. Without `memory.pack_tokens` the size of
    /// micro-batches follows from all of it.
    ///
    /// # Errors
    /// A training that does not fit, or that trains what a GPU does not.
    pub fn fit(
        &self,
        config: &Config,
        plan: &Plan,
        parts: &[Parts],
        precision: Precision,
        memory: Memory,
    ) -> Result<Fit> {
        if config.speech.is_some() {
            config.refuse_gpu()?;
        }
        if !plan.tokens.is_empty() {
            return Err(token_rows_on_gpu());
        }
        if !plan.ctc.is_empty() {
            return Err(ctc_on_gpu());
        }
        let sizes = Sizes::of(config, plan);
        let stages: Vec<Model> = parts
            .iter()
            .map(|&parts| Model {
                config,
                sizes: &sizes,
                parts,
                save: self.memory.save,
            })
            .collect();
        let asked = self
            .memory
            .pack_tokens
            .unwrap_or_else(|| default_pack_tokens(&stages, precision, memory.total as f64));
        Fit::new(&stages, precision, memory.free as f64, asked)
    }

    /// Training of each part by each stage, and the model at the start of the run.
    pub fn open_model(
        &self,
        model_dir: &Path,
        config: Config,
        schedule: &Schedule,
        device: &Device,
    ) -> Result<(Vec<Parts>, AudioLlm)> {
        let tokens = TextCodec::load(model_dir)?.special();
        let (parts, plan) = self.adapters(&config, Some(tokens), schedule)?;
        let (model, _) = self.model(model_dir, config, plan, device)?;
        Ok((parts, model))
    }

    /// The checkpoint with the recipe's adapters in their initial state, and notes on that state.
    fn model(
        &self,
        model_dir: &Path,
        config: Config,
        plan: Plan,
        device: &Device,
    ) -> Result<(AudioLlm, Vec<String>)> {
        let init = match self.lora.init.as_str() {
            "default" => Some(Init::Default),
            "gaussian" => Some(Init::Gaussian),
            _ => None,
        };
        let continued = match init {
            Some(_) => Trained::default(),
            None => self.continued(&plan, &config)?,
        };
        let notes = continued.notes().to_vec();
        let weights = match self.model.weights {
            WeightsSource::Checkpoint => config.weights(model_dir)?,
            WeightsSource::Random => config.add_speech(Weights::Random { seed: self.seed })?,
        };
        let weights = match self.audio_encoder.folder() {
            Some(_) => {
                let fresh = fresh_projector::tensors(&config, &weights, self.seed)?;
                weights.with(fresh)
            }
            None => weights,
        };
        let mut model = AudioLlm::new(config, &weights.with(continued.full), plan, true, device)?;
        model.compute_in(self.model.precision.on(device)?.precision)?;
        let at_init = |e: Error| e.at(&self.lora.init);
        match &continued.adapter {
            Some(adapter) if !adapter.tensors.is_empty() => {
                model.load_adapter(adapter).map_err(at_init)?;
            }
            of_tokens => {
                model.initialise(init.unwrap_or(Init::Default), self.seed)?;
                if let Some(adapter) = of_tokens {
                    model.load_token_rows(adapter).map_err(at_init)?;
                }
            }
        }
        Ok((model, notes))
    }

    /// The PEFT folder or checkpoint to continue from; its adapter must have the recipe's shape.
    /// Without an adapter in it, fresh adapters start from its weights.
    fn continued(&self, plan: &Plan, config: &Config) -> Result<Trained> {
        let trained = Trained::load(self.init_folder()?, config)?;
        if let Some(adapter) = &trained.adapter {
            self.expect_shape(adapter, plan, config)?;
        }
        let of_encoder = |name: &String| config.names.part_of(name) == Part::AudioEncoder;
        if self.audio_encoder.folder().is_some()
            && !plan.full.contains(&Part::AudioEncoder)
            && trained.full.keys().any(of_encoder)
        {
            return Err(Error::input(
                "its speech encoder was trained, and this recipe takes the encoder of `audio_encoder.from` and freezes it",
            )
            .at_path(Path::new(&self.lora.init))
            .hint("write the trained model with `maqam export`, and start from it with `model: DIR`; or train the encoder in full here too"));
        }
        Ok(trained)
    }

    /// Checks that what the run continues from fits the model and the recipe. The weights of parts
    /// in full fine-tuning are not read.
    ///
    /// # Errors
    /// A folder that does not exist or does not fit.
    pub fn check_init(&self, plan: &Plan, config: &Config) -> Result<()> {
        if ["default", "gaussian"].contains(&self.lora.init.as_str()) {
            return Ok(());
        }
        match Trained::check(self.init_folder()?, config)? {
            Some(adapter) => self.expect_shape(&adapter, plan, config),
            None => Ok(()),
        }
    }

    fn init_folder(&self) -> Result<&Path> {
        let dir = Path::new(&self.lora.init);
        if dir.is_dir() {
            return Ok(dir);
        }
        Err(Error::input(format!(
            "`lora.init` is `{}`, expected `default`, `gaussian`, a PEFT folder or a checkpoint of a run",
            self.lora.init
        )))
    }

    /// Checks that an adapter has the recipe's shape.
    fn expect_shape(&self, adapter: &Adapter, plan: &Plan, config: &Config) -> Result<()> {
        if !adapter.plan.tokens.is_empty() && adapter.plan.tokens != plan.tokens {
            let said = match &plan.tokens[..] {
                [] => "the recipe trains none".to_owned(),
                tokens => format!("the recipe trains those of {tokens:?}"),
            };
            return Err(Error::input(format!(
                "embeddings of the tokens {:?} are trained there, {said}",
                adapter.plan.tokens
            ))
            .at_path(Path::new(&self.lora.init))
            .hint("write `audio_tokens: full` under `train`, or merge the adapter with `maqam export` and start from that"));
        }
        // Fresh adapters start beside embeddings of tokens, as beside parts in full fine-tuning.
        let is_of_tokens = adapter.plan.modules.is_empty() && adapter.rows.is_some();
        if is_of_tokens || adapter.plan.modules == plan.modules {
            return Ok(());
        }
        let parts = parts_of(&adapter.plan, config.names);
        let differs =
            |module: &String| adapter.plan.modules.get(module) != plan.modules.get(module);
        let module = adapter
            .plan
            .modules
            .keys()
            .chain(plan.modules.keys())
            .find(|module| differs(module))
            .cloned()
            .unwrap_or_default();
        let say = |plan: &Plan| {
            plan.modules
                .get(&module)
                .map_or("no adapter".to_owned(), |shape| {
                    format!("rank {} scaled by {}", shape.rank, shape.scale)
                })
        };
        Err(Error::input(format!("`{module}` has {} there, the recipe asks for {}", say(&adapter.plan), say(plan)))
            .at_path(Path::new(&self.lora.init))
            .hint(format!(
                "continue with the adapter's shape: write `train: {{{}}}` and `lora: {{init: {}, {}}}` into the recipe",
                parts.join(", "),
                self.lora.init,
                adapter.plan.as_yaml(adapter.variant, &config.adaptable())
            )))
    }
}

/// Values of `train` in a recipe for the parts and the tokens that a plan adapts.
fn parts_of(plan: &Plan, names: &Names) -> Vec<String> {
    let is_adapted = |part| plan.modules.keys().any(|path| names.part_of(path) == part);
    [
        ("audio_encoder", Part::AudioEncoder),
        ("projector", Part::Projector),
        ("decoder", Part::Decoder),
    ]
    .into_iter()
    .map(|(name, part)| {
        let how = if is_adapted(part) { "lora" } else { "frozen" };
        format!("{name}: {how}")
    })
    .chain((!plan.tokens.is_empty()).then(|| "audio_tokens: full".to_owned()))
    .collect()
}
