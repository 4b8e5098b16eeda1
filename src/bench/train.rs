//! Training steps with random weights, timed.

use std::time::Instant;

use candle_core::Device;
use candle_core::Tensor;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::bench::measured::Measured;
use crate::bench::measured::Phases;
use crate::bench::settings::Only;
use crate::bench::settings::Settings;
use crate::bench::work::load_of;
use crate::bench::work::sequences;
use crate::error::Error;
use crate::error::Result;
use crate::models::AudioEmbeddings;
use crate::models::AudioLlm;
use crate::models::Pass;
use crate::models::config::Config;
use crate::models::cost;
use crate::models::memory::Fit;
use crate::models::sizes::Sizes;
use crate::nn::lora;
use crate::nn::lora::Init;
use crate::nn::lora::Plan;
use crate::nn::lora::Targets;
use crate::nn::precision::Computes;
use crate::nn::weights::Weights;
use crate::ops::device;
use crate::ops::device::begin_profile;
use crate::ops::device::end_profile;
use crate::ops::device::free_of_driver;
use crate::ops::device::memory;
use crate::ops::device::peak;
use crate::ops::device::place;
use crate::ops::device::reserved_peak;
use crate::ops::device::reset_peak;
use crate::ops::device::synchronise;
use crate::ops::scalar::Scalar;
use crate::ops::scalar::read;
use crate::parts::Parts;
use crate::parts::PerPart;
use crate::parts::Training;
use crate::seed::Key;
use crate::train::optimiser;
use crate::train::optimiser::Optimiser;
use crate::train::optimiser::Update;

/// Steps that do not count, on the CPU and on a GPU, where products choose their kernels and memory
/// is allocated for the first time.
const WARM_UP: (usize, usize) = (1, 5);
/// Steps that are looked at phase by phase, likewise.
const PROFILED: (usize, usize) = (1, 3);

/// Times training steps; `tell` is given lines for the user.
///
/// # Errors
/// Examples that do not fit the GPU's memory; the device's.
pub fn measure<'a>(
    settings: &'a Settings,
    config: &Config,
    device: &Device,
    computes: Computes,
    tell: &mut dyn FnMut(&str),
) -> Result<Measured<'a>> {
    let sequences = sequences(settings.work, settings.clips, config);
    let of_adapters = lora::Settings {
        rank: settings.rank,
        alpha: 2.0 * settings.rank as f64,
        targets: Targets::Named("all-linear".into()),
        ..lora::Settings::default()
    };
    let parts = if settings.full {
        Parts {
            audio_encoder: Training::Full,
            projector: Training::Full,
            decoder: Training::Full,
        }
    } else {
        Parts::default()
    };
    let plan = Plan::from_settings(&of_adapters, &parts, &config.adaptable())?;
    let sizes = Sizes::of(config, &plan);
    let costs = cost::Model {
        config,
        sizes: &sizes,
        parts,
        save: settings.save,
    };

    let bench = Bench {
        settings,
        costs,
        sequences: &sequences,
        computes,
        device,
    };
    let fit = bench.fit(tell)?;
    bench.measure(plan, fit, tell)
}

/// A benchmark before it runs.
struct Bench<'a, 's> {
    settings: &'s Settings,
    costs: cost::Model<'a>,
    sequences: &'a [Sequence],
    computes: Computes,
    device: &'a Device,
}

impl<'s> Bench<'_, 's> {
    /// How it fits the GPU's memory; `None` on the CPU.
    fn fit(&self, tell: &mut dyn FnMut(&str)) -> Result<Option<Fit>> {
        let Some(memory) = memory(self.device)? else {
            return Ok(None);
        };
        let fit = Fit::new(
            &[self.costs],
            self.computes.precision,
            memory.free as f64,
            self.settings.pack_tokens,
        )?;
        if let Some(longest) = self
            .sequences
            .iter()
            .map(|sequence| sequence.tokens.len())
            .max()
            .filter(|&longest| longest > fit.longest)
        {
            return Err(Error::resource(format!(
                "an example has {longest} tokens, the GPU has memory for {}",
                fit.longest
            ))
            .hint("try --save layer"));
        }
        tell(&format!("memory: {}", fit.line()));
        fit.note()
            .iter()
            .for_each(|note| tell(&format!("note: {note}")));
        Ok(Some(fit))
    }

    fn model(&self, plan: Plan) -> Result<AudioLlm> {
        let weights = if self.device.is_cpu() {
            Weights::Random { seed: 1 }
        } else {
            Weights::Noise { seed: 1 }
        };
        let mut model =
            AudioLlm::new(self.costs.config.clone(), &weights, plan, true, self.device)?;
        model.initialise(Init::Default, 1)?;
        model.compute_in(self.computes.precision)?;
        Ok(model)
    }

    fn measure(
        &self,
        plan: Plan,
        fit: Option<Fit>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Measured<'s>> {
        let pack_tokens = fit
            .as_ref()
            .map_or(self.settings.pack_tokens, |fit| fit.pack_tokens);
        let model = self.model(plan)?;
        let optimiser = Optimiser::new(optimiser::Settings::default(), &model.parameters)?;
        let lengths: Vec<usize> = self
            .sequences
            .iter()
            .map(|sequence| sequence.tokens.len())
            .collect();
        let framing = self.costs.config.framing();
        let batches = micro_batches(&lengths, pack_tokens)
            .into_iter()
            .map(|range| Batch::pack(&self.sequences[range].iter().collect::<Vec<_>>(), framing))
            .collect::<Result<Vec<_>>>()?;
        let pass = Pass {
            save: self.costs.save,
            ..Pass::default()
        };
        let mut steps = Steps {
            model,
            optimiser,
            batches: &batches,
            pass,
            only: self.settings.only,
            done: 0,
            audio: None,
            ended: None,
        };
        let of_device = |(cpu, gpu)| if self.device.is_cpu() { cpu } else { gpu };
        reset_peak(self.device)?;
        for _ in 0..self.settings.warm_up.unwrap_or(of_device(WARM_UP)) {
            steps.step()?;
        }
        let mut seconds = Vec::new();
        let mut losses = Vec::new();
        let mut host_seconds = Vec::new();
        let mut least_free = free_of_driver(self.device)?;
        for step in 1..=self.settings.steps {
            device::host_seconds(self.device)?;
            let (took, loss) = steps.step()?;
            host_seconds.extend(device::host_seconds(self.device)?);
            least_free = least_free.min(free_of_driver(self.device)?);
            // At once: what a run that is ended early leaves.
            tell(&format!("step {step}: {took:.4} s, loss {loss:?}"));
            seconds.push(took);
            losses.push(loss);
        }
        let profile = if self.settings.profile {
            begin_profile(self.device)?;
            steps.step()?;
            end_profile(self.device)?
        } else {
            Vec::new()
        };
        let num_profiled = if self.settings.only.is_none() {
            of_device(PROFILED)
        } else {
            0
        };
        let phases = (0..num_profiled)
            .map(|_| steps.profiled())
            .collect::<Result<Vec<Phases>>>()?;
        let load = load_of(self.sequences);
        Ok(Measured {
            settings: self.settings,
            fit,
            computes: self.computes,
            seconds,
            losses,
            phases,
            examples: self.sequences.len(),
            micro_batches: batches.len(),
            useful: (!self.settings.full && self.settings.only.is_none())
                .then(|| self.costs.useful(&load)),
            load,
            gpu_bytes: peak(self.device)?,
            reserved_bytes: reserved_peak(self.device)?,
            least_free_bytes: least_free,
            host_seconds,
            profile,
        })
    }
}

/// Steps over the same batches, one after the other.
struct Steps<'a> {
    model: AudioLlm,
    optimiser: Optimiser,
    batches: &'a [Batch],
    pass: Pass,
    only: Option<Only>,
    done: u64,
    /// Embeddings of the next step's first batch, encoded ahead as in training.
    audio: Option<AudioEmbeddings>,
    /// When the loss of the step before was read.
    ended: Option<Instant>,
}

impl Steps<'_> {
    /// Seconds of the next step, and its loss.
    fn step(&mut self) -> Result<(f64, f64)> {
        match self.only {
            None => self.whole(),
            Some(Only::Layers) => Ok((self.layers()?, 0.0)),
        }
    }

    /// A step as training computes it: from the moment when the loss of the one before was read to
    /// the moment when its own was. On a GPU the first batch was encoded before the former, and the
    /// next step's is before the latter.
    fn whole(&mut self) -> Result<(f64, f64)> {
        let started = match self.ended {
            Some(ended) => ended,
            None => {
                synchronise(&self.model.device)?;
                Instant::now()
            }
        };
        self.model.parameters.zero_gradients()?;
        let loss = Scalar::new(0.0, &self.model.device)?;
        for batch in self.batches {
            loss.add(&self.model.train(batch, self.audio.take(), self.pass)?.loss)?;
        }
        let grad_norm = self.update(&loss)?;
        let reading = read(&[loss.tensor(), grad_norm.tensor()])?;
        if !self.model.device.is_cpu()
            && let Some(batch) = self.batches.first()
        {
            self.audio = self.model.embed_audio_ahead(batch, self.pass)?;
        }
        let loss = reading.wait()?[0][0];
        let ended = Instant::now();
        self.ended = Some(ended);
        Ok(((ended - started).as_secs_f64(), loss))
    }

    /// Seconds of the decoder's layers; making states for them is not their time.
    fn layers(&self) -> Result<f64> {
        let device = &self.model.device;
        self.model.parameters.zero_gradients()?;
        let mut seconds = 0.0;
        for batch in self.batches {
            let num_tokens = batch.tokens.len();
            let width = self.model.config.text.hidden_size;
            let x = random_states("x", num_tokens, width, device)?;
            let dy = random_states("dy", num_tokens, width, device)?;
            synchronise(device)?;
            let started = Instant::now();
            self.model.train_layers(batch, &x, &dy, self.pass)?;
            synchronise(device)?;
            seconds += started.elapsed().as_secs_f64();
        }
        Ok(seconds)
    }

    /// The next step, waited for after every phase, so with nothing encoded ahead.
    fn profiled(&mut self) -> Result<Phases> {
        let device = self.model.device.clone();
        (self.audio, self.ended) = (None, None);
        let mut phases = Phases::begin(&device)?;
        self.model.parameters.zero_gradients()?;
        let loss = Scalar::new(0.0, &device)?;
        for batch in self.batches {
            loss.add(
                &self
                    .model
                    .train_watched(batch, None, self.pass, &mut |phase| {
                        phases.done(phase, &device)
                    })?
                    .loss,
            )?;
        }
        self.update(&loss)?;
        phases.optimiser(&device)?;
        Ok(phases)
    }

    /// The update, and the gradient's norm before it.
    fn update(&mut self, loss: &Scalar) -> Result<Scalar> {
        self.done += 1;
        let grad_norm = self.optimiser.grad_norm(&self.model.parameters)?;
        let counts = PerPart::from_fn(|_| self.done);
        self.optimiser.step(
            &self.model.parameters,
            Update {
                loss,
                grad_norm: &grad_norm,
                learning_rate: 1e-5,
                counts,
            },
        )?;
        Ok(grad_norm)
    }
}

fn random_states(purpose: &str, tokens: usize, dim: usize, device: &Device) -> Result<Tensor> {
    let key = Key::new(0, purpose);
    let values: Vec<f32> = (0..(tokens * dim) as u64)
        .map(|i| key.uniform(i) as f32 - 0.5)
        .collect();
    Ok(place(&values, (tokens, dim), device)?)
}
