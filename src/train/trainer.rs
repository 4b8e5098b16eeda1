//! The loop: stage after stage, step after step; what is written when, so that a kill at any moment
//! loses nothing that is not made again.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use candle_core::Tensor;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::files::AppendLog;
use crate::models::AudioEmbeddings;
use crate::models::AudioLlm;
use crate::models::Pass;
use crate::nn::precision::Computes;
use crate::nn::precision::Place;
use crate::ops::scalar::Scalar;
use crate::ops::scalar::read;
use crate::parts::Part;
use crate::parts::PerPart;
use crate::parts::Training;
use crate::records::checkpoint_state::Computed;
use crate::records::checkpoint_state::State;
use crate::records::log::DeviceRecord;
use crate::records::log::Line;
use crate::records::log::ProbeRecord;
use crate::records::log::StepRecord;
use crate::records::log::TaskRecord;
use crate::records::picks;
use crate::records::picks::StepPicks;
use crate::records::run_folder::PICKS_FILE;
use crate::schedule::EmbeddingSource;
use crate::schedule::Pick;
use crate::schedule::Schedule;
use crate::schedule::Stage;
use crate::stop::Stop;
use crate::train::checkpoint;
use crate::train::difficulty;
use crate::train::embeddings;
use crate::train::embeddings::Embedder;
use crate::train::embeddings::PoolVectors;
use crate::train::environment::Pace;
use crate::train::environment::Recorder;
use crate::train::optimiser::Optimiser;
use crate::train::optimiser::Update;
use crate::train::probe;
use crate::train::run::Observer;
use crate::train::run::Run;
use crate::train::run::learning_rate;
use crate::train::settings::EvaluateSettings;
use crate::train::step::LoadedStep;
use crate::train::step::Steps;
use crate::train::step::load_step;
use crate::train::tensorboard::Events;

/// Name of the snapshot that is taken of the model as the run starts.
const BASE: &str = "base";

/// Name of the base's losses among the snapshots, which no stage has: it is hidden as a file.
const LOSSES: &str = ".base_loss";

pub(super) struct Trainer<'a> {
    pub run: &'a Run,
    /// Shared with the reader of the next step while a stage runs; changed between stages alone.
    pub schedule: Arc<Schedule>,
    pub model: &'a mut AudioLlm,
    pub optimiser: &'a mut Optimiser,
    pub state: &'a mut State,
    pub observer: &'a mut dyn Observer,
    pub stop: &'a Stop,
    pub log: AppendLog,
    /// `None` once it could not be written: it is derived from the log, and no reason to stop.
    pub events: Option<Events>,
    /// The last step whose line is in the log; a checkpoint never holds a step that the log does
    /// not.
    pub logged: u64,
    pub saved: Option<u64>,
    /// Notes on rows that were left out: each is told once, however often its row is drawn.
    pub told: BTreeSet<String>,
    /// Number of clips in the inputs as they were written last.
    pub recorded_clips: Option<usize>,
    /// Rows of steps whose draws follow from the training, where there are such stages.
    pub picks: Option<AppendLog>,
    /// Record of where, when and how fast the run is computed.
    pub environment: Recorder,
}

impl Trainer<'_> {
    /// Trains from where the state stands to the end of the schedule.
    pub fn train(&mut self) -> Result<()> {
        for (&stage, &steps) in &self.state.stage_ends {
            unshared(&mut self.schedule)?.end_stage(stage, steps)?;
        }
        for (&stage, progress) in &self.state.msft {
            unshared(&mut self.schedule)?.exclude(stage, &progress.excluded)?;
        }
        self.tell_device()?;
        self.prepare_base()?;
        self.roll_back()?;
        match &self.run.evaluate {
            Some((settings, suite)) if self.state.step == 0 && settings.at_start => {
                self.evaluate(settings, suite)?
            }
            _ if self.state.step > 0 => self.finish_step()?,
            _ => {}
        }
        while self.state.step < self.schedule.num_steps() {
            let (stage, _) = self.schedule.stage_of(self.state.step);
            self.prepare(stage)?;
            self.run_stage(stage)?;
            if self.is_roll_back_pending() {
                self.roll_back()?;
                self.finish_step()?;
            }
        }
        Ok(())
    }

    /// A line of the log where another device or type than before computes from here on.
    fn tell_device(&mut self) -> Result<()> {
        let computes = computed(self.run.computes);
        if self.state.computes == computes || self.state.step == self.schedule.num_steps() {
            return Ok(());
        }
        let record = DeviceRecord {
            at_step: self.state.step,
            device: computes.device.clone(),
            precision: computes.precision.clone(),
        };
        self.log.line(&Line::Device(record).to_text()?)?;
        self.state.computes = computes;
        Ok(())
    }

    /// Steps of one stage, to its end or to where it ends early.
    fn run_stage(&mut self, stage: usize) -> Result<()> {
        let run = self.run;
        let first = self.state.step;
        let Stage { start, steps, .. } = self.schedule.stages()[stage];
        let last = start + steps;
        let schedule = self.schedule.clone();
        std::thread::scope(|scope| {
            // One step is read ahead while the one before it is computed; dropping the receiver,
            // with `steps`, ends the reader.
            let (send, receive) = sync_channel(0);
            scope.spawn(move || {
                for step in first..last {
                    let loaded = load_step(run, &schedule, step);
                    let is_last = loaded.is_err();
                    if send.send(loaded).is_err() || is_last {
                        break;
                    }
                }
            });
            let mut steps = Steps::new(receive);
            while self.state.step < last
                && !self.state.stage_ends.contains_key(&stage)
                && !self.is_roll_back_pending()
            {
                self.next_step(&mut steps)?;
            }
            Ok::<(), Error>(())
        })?;
        if let Some(&steps) = self.state.stage_ends.get(&stage) {
            unshared(&mut self.schedule)?.end_stage(stage, steps)?;
        }
        Ok(())
    }

    fn next_step(&mut self, steps: &mut Steps) -> Result<()> {
        self.check_stop()?;
        let started = Instant::now();
        let (mut loaded, audio) = steps.next()?;
        let waited = steps.waited();
        for error in &loaded.skipped {
            if self.told.insert(error.message().to_owned()) {
                self.observer
                    .note(&format!("row left out: {}", error.message()));
            }
        }
        self.warn_of_long_audio(&loaded);

        let probed = self.probe(&loaded)?;
        let clips = std::mem::take(&mut loaded.clips);
        let picks = std::mem::take(&mut loaded.picks);
        let record = self.step(loaded, audio, steps)?;
        self.run.inputs().add(record.step, clips);

        let mut lines = match probed {
            Some(probed) => Line::Probe(probed).to_text()? + "\n",
            None => String::new(),
        };
        lines += &Line::Train(record.clone()).to_text()?;
        self.write_picks(&record, &picks)?;
        self.log.line(&lines)?;
        self.logged = record.step;

        let pace = Pace {
            took: started.elapsed(),
            waited,
        };
        self.environment.step(&record, pace);
        self.tell_tensorboard(&lines, Some(pace));
        self.observer.step(&record, pace);
        self.finish_step()
    }

    /// Opens the file of picks, without what was drawn after the run's last checkpoint, if a stage's
    /// draws follow from the training.
    pub fn begin_picks(&mut self) -> Result<()> {
        if !self.schedule.stages().iter().any(Stage::draws_by_training) {
            return Ok(());
        }
        let path = self.run.folder.join(PICKS_FILE);
        picks::forget_after(&path, self.state.step)?;
        self.picks = Some(AppendLog::open(&path)?);
        Ok(())
    }

    /// Writes the rows of a step, if its draws follow from the training.
    fn write_picks(&mut self, record: &StepRecord, drawn: &[Pick]) -> Result<()> {
        let (stage, _) = self.schedule.stage_of(record.step - 1);
        let depends_on_training = self.schedule.stages()[stage].draws_by_training();
        let corpus = &self.run.corpus;
        match &mut self.picks {
            Some(file) if depends_on_training => {
                let line = StepPicks {
                    step: record.step,
                    stage: record.stage.clone(),
                    ids: drawn.iter().map(|pick| corpus.id(pick.row)).collect(),
                    depends_on_training,
                };
                file.line(&line.to_text()?)
            }
            _ => Ok(()),
        }
    }

    /// Takes the snapshot that stages of the whole run draw by, of the model as the run starts, or
    /// reads it again.
    fn prepare_base(&mut self) -> Result<()> {
        self.prepare_losses()?;
        let stages: Vec<usize> = (0..self.schedule.stages().len())
            .filter(|&stage| self.schedule.embeddings_of(stage) == Some(EmbeddingSource::Base))
            .collect();
        if stages.is_empty() {
            return Ok(());
        }
        self.snapshot(BASE, &stages)
    }

    /// Takes the snapshot of a stage that draws by the model as it stands when it begins, or reads
    /// it again.
    fn prepare(&mut self, stage: usize) -> Result<()> {
        if self.schedule.embeddings_of(stage) != Some(EmbeddingSource::Current) {
            return Ok(());
        }
        let name = self.schedule.stages()[stage].name.clone();
        self.snapshot(&name, &[stage])
    }

    /// Has stages draw by a snapshot of the model as it stands, or by the one that was taken then.
    fn snapshot(&mut self, name: &str, stages: &[usize]) -> Result<()> {
        let run = self.run;
        let folder = run.folder.join("embeddings");
        let path = folder.join(format!("{name}.safetensors"));
        let vectors = match self.state.snapshots.get(name) {
            Some(hash) => embeddings::load(&path, hash)?,
            None => {
                let vectors = self.embed(stages)?;
                let hash = embeddings::save(&path, &vectors)?;
                self.state.snapshots.insert(name.to_owned(), hash);
                vectors
            }
        };
        let schedule = unshared(&mut self.schedule)?;
        embeddings::give(schedule, stages, vectors, run.order_seed)?;
        Ok(())
    }

    /// Computes the losses that stages order their rows by, of the model as the run starts, or reads
    /// them again.
    fn prepare_losses(&mut self) -> Result<()> {
        let stages = difficulty::stages_by_loss(&self.schedule);
        if stages.is_empty() {
            return Ok(());
        }
        let run = self.run;
        let path = run.folder.join("difficulty/base_loss.safetensors");
        let losses = match self.state.snapshots.get(LOSSES) {
            Some(hash) => difficulty::load(&path, hash)?,
            None => {
                let losses = self.base_losses(&stages)?;
                let hash = difficulty::save(&path, &losses)?;
                self.state.snapshots.insert(LOSSES.to_owned(), hash);
                losses
            }
        };
        difficulty::give(unshared(&mut self.schedule)?, &stages, &losses)
    }

    /// Losses of all rows that some stages can draw, of the model as it stands.
    fn base_losses(&mut self, stages: &[usize]) -> Result<Vec<(u32, f32)>> {
        let (mut embedder, schedule, mut progress) = self.embedder();
        difficulty::base_losses(&mut embedder, schedule, stages, &mut progress)
    }

    /// Vectors of all rows that some stages can draw, of the model as it stands.
    fn embed(&mut self, stages: &[usize]) -> Result<PoolVectors> {
        let (embedder, schedule, mut progress) = self.embedder();
        embeddings::of_stages(embedder, schedule, stages, &mut progress)
    }

    /// The model as it stands with what encodes rows for it, the schedule, and the progress of that.
    fn embedder(
        &mut self,
    ) -> (
        Embedder<'_>,
        &Schedule,
        impl FnMut(usize, usize) -> Result<()> + '_,
    ) {
        let run = self.run;
        let embedder = Embedder {
            model: self.model,
            loader: &run.loader,
            corpus: &run.corpus,
            cache: &run.embeddings.cache,
            on_bad_row: run.on_bad_row,
            seed: run.order_seed,
        };
        let observer = &mut *self.observer;
        let stop = self.stop;
        let progress = move |done, total| {
            observer.embedding(done, total);
            check(stop)
        };
        (embedder, &*self.schedule, progress)
    }

    /// Adds lines of the log to TensorBoard's file, as long as that can be written.
    pub fn tell_tensorboard(&mut self, lines: &str, pace: Option<Pace>) {
        if let Some(mut events) = self.events.take() {
            let outcome = lines.lines().try_for_each(|line| events.line(line, pace));
            self.keep(outcome.map(|()| events));
        }
    }

    pub fn keep(&mut self, events: Result<Events>) {
        self.events = events
            .map_err(|error| {
                self.observer.note(&format!(
                    "no curves for TensorBoard until the run resumes: {error}"
                ))
            })
            .ok();
    }

    /// Writes where, when and how fast the run was computed so far.
    pub fn record_environment(&mut self) {
        let written = self.environment.write();
        self.tell_environment(written);
    }

    /// Says that the environment could not be written: it is no reason to stop.
    pub fn tell_environment(&mut self, written: Result<()>) {
        if let Err(error) = written {
            self.observer
                .note(&format!("the run's environment is not recorded: {error}"));
        }
    }

    /// The gradient of each task apart, where the step is due for a look.
    fn probe(&mut self, loaded: &LoadedStep) -> Result<Option<ProbeRecord>> {
        let at_step = self.state.step + 1;
        let every = self.run.probe.every;
        if every == 0 || !at_step.is_multiple_of(every) {
            return Ok(None);
        }
        let (stage, _) = self.schedule.stage_of(self.state.step);
        self.set_trained(stage);
        let loss = &self.run.loss[stage];
        let settings = probe::LossSettings {
            pass: self.pass(stage),
            normalise: loss.normalise,
            pack_tokens: self.run.memory.pack_tokens,
        };
        let probe::Gradients { norms, cosines } = probe::gradients(self.model, loaded, settings)?;
        Ok(Some(ProbeRecord {
            at_step,
            stage: self.schedule.stages()[stage].name.clone(),
            norms,
            cosines,
        }))
    }

    fn pass(&self, stage: usize) -> Pass {
        Pass {
            save: self.run.memory.save,
            dropout: self.run.dropout,
            label_smoothing: self.run.loss[stage].label_smoothing,
        }
    }

    fn set_trained(&mut self, stage: usize) {
        for part in Part::ALL {
            self.model
                .set_trained(part, self.run.parts[stage].of(part) != Training::Frozen);
        }
    }

    /// Forward, backward and update of one step; the weights do not move if anything is not finite.
    ///
    /// The whole step is queued on the device before the first number is waited for. On a GPU the
    /// next step's first clips are queued too.
    fn step(
        &mut self,
        loaded: LoadedStep,
        mut audio: Option<AudioEmbeddings>,
        steps: &mut Steps,
    ) -> Result<StepRecord> {
        let run = self.run;
        let step = self.state.step;
        let (stage, _) = self.schedule.stage_of(step);
        let learning_rate = learning_rate(&self.schedule, &run.optimiser, step);
        self.set_trained(stage);
        let pass = self.pass(stage);
        let model = &*self.model;

        // Loss and gradient.
        model.parameters.zero_gradients()?;
        let mut log_probabilities = Vec::with_capacity(loaded.batches.len());
        let loss = Scalar::new(0.0, &model.device)?;
        for (_, batch) in &loaded.batches {
            self.check_stop()?;
            let of_batch = model.train(batch, audio.take(), pass)?;
            loss.add(&of_batch.loss)?;
            log_probabilities.push(of_batch.log_probabilities);
        }

        // Update.
        let grad_norm = self.optimiser.grad_norm(&model.parameters)?;
        let update = Update {
            loss: &loss,
            grad_norm: &grad_norm,
            learning_rate,
            counts: updates(&self.schedule, run, step),
        };
        self.optimiser.step(&model.parameters, update)?;

        // Numbers for the log.
        let mut tensors: Vec<&Tensor> = vec![loss.tensor(), grad_norm.tensor()];
        tensors.extend(&log_probabilities);
        let reading = read(&tensors)?;
        // On the CPU it would be the same work, and hold memory.
        if !model.device.is_cpu() && !model.is_audio_trained() {
            steps.embed_audio_ahead(model, pass);
        }
        let numbers = reading.wait()?;
        let loss = numbers[0][0];
        let grad_norm = numbers[1][0];
        refuse_not_finite(step, loss, grad_norm)?;
        self.state.step += 1;

        let tasks = task_records(&loaded, &numbers[2..]);
        let examples = &loaded.examples;
        Ok(StepRecord {
            step: self.state.step,
            stage: self.schedule.stages()[stage].name.clone(),
            loss,
            grad_norm,
            learning_rate,
            examples: examples.len(),
            tokens: examples
                .iter()
                .map(|example| example.sequence.tokens.len())
                .sum(),
            target_tokens: tasks.values().map(|task| task.target_tokens).sum(),
            seconds: examples.iter().map(|example| example.seconds).sum(),
            skipped: loaded.skipped.len(),
            tasks,
            difficulty: loaded.difficulty,
            masked_accuracy: None,
            unmasked_accuracy: None,
            cosine: None,
        })
    }

    /// Notes once that some audio is longer than what the official processor, and so other tools,
    /// would encode.
    fn warn_of_long_audio(&mut self, loaded: &LoadedStep) {
        let official_max_s = self.run.loader.official_max_s();
        if let Some(longest) = loaded
            .examples
            .iter()
            .map(|example| example.seconds)
            .filter(|&seconds| seconds > official_max_s)
            .reduce(f64::max)
            && self.told.insert("long audio".to_owned())
        {
            self.observer
                .note(&format!("{longest:.0} s of audio in one example; maqam encodes all of it, the official processor cuts after {official_max_s} s"));
        }
    }

    /// Evaluation and checkpoint, where the finished step is due for one.
    fn finish_step(&mut self) -> Result<()> {
        let step = self.state.step;
        if let Some((settings, suite)) = &self.run.evaluate
            && self.is_evaluation_due(settings)?
            && self.state.evaluated != Some(step)
        {
            self.evaluate(settings, suite)?;
        }
        if self.is_checkpoint_due() && !self.is_roll_back_pending() {
            self.save()?;
        }
        Ok(())
    }

    /// Whether the model is evaluated after the finished step. A stage that ends by mSFT says when
    /// itself.
    fn is_evaluation_due(&self, settings: &EvaluateSettings) -> Result<bool> {
        let step = self.state.step;
        let last = self.schedule.num_steps();
        Ok(match self.is_round_scored()? {
            Some(is_scored) => is_scored || step == last,
            None => is_due(step, settings.every, last),
        })
    }

    /// Whether the recipe has a checkpoint after the finished step.
    fn is_checkpoint_due(&self) -> bool {
        is_due(self.state.step, self.run.checkpoint.every, self.last_step())
    }

    /// The run's last step, a stage that has just ended counted with the steps it had.
    pub fn last_step(&self) -> u64 {
        let (stage, _) = self.schedule.stage_of(self.state.step.saturating_sub(1));
        let cut = match self.state.stage_ends.get(&stage) {
            Some(&steps) => self.schedule.stages()[stage].steps.saturating_sub(steps),
            None => 0,
        };
        self.schedule.num_steps() - cut
    }

    pub fn save(&mut self) -> Result<()> {
        if self.saved == Some(self.state.step) {
            return Ok(());
        }
        self.state.is_between = !self.is_checkpoint_due();
        self.log.sync()?;
        // Before the checkpoint: it must not know of a step whose clips are not recorded.
        let num_clips = self.run.inputs().num_clips;
        if self.recorded_clips != Some(num_clips) {
            self.run.inputs().write(&self.run.folder)?;
            self.recorded_clips = Some(num_clips);
        }
        self.state.log_bytes = self.log.num_bytes()?;
        let folder = checkpoint::folder(&self.run.checkpoints(), self.state.step);
        checkpoint::save(
            &folder,
            self.model,
            self.optimiser,
            self.state,
            &self.run.metadata,
        )?;
        self.saved = Some(self.state.step);
        self.record_environment();
        checkpoint::rotate(&self.run.checkpoints(), self.run.checkpoint.keep)?;
        self.forget_rounds()
    }

    fn check_stop(&self) -> Result<()> {
        check(self.stop)
    }
}

/// Whether something that happens every so many steps, and after the last, happens after `step`.
fn is_due(step: u64, every: u64, last: u64) -> bool {
    step == last || (every > 0 && step.is_multiple_of(every))
}

/// Stops a run whose loss or gradient is not finite.
fn refuse_not_finite(step: u64, loss: f64, grad_norm: f64) -> Result<()> {
    if loss.is_finite() && grad_norm.is_finite() {
        return Ok(());
    }
    let message = format!(
        "step {}: the loss is {loss}, the length of the gradient {grad_norm}; the weights were not changed",
        step + 1
    );
    Err(Error::new(Kind::Diverged, message)
        .hint("lower `optimiser.learning_rate` or lengthen `optimiser.warmup` in a new run (`--set name=NAME`); `lora.init: CHECKPOINT` starts it from a checkpoint of this one"))
}

/// Records of each task for the log; `log_probabilities` are those of the targets of each
/// micro-batch.
fn task_records(
    loaded: &LoadedStep,
    log_probabilities: &[Vec<f64>],
) -> BTreeMap<String, TaskRecord> {
    let mut tasks = loaded.tasks();
    for ((range, batch), of_batch) in loaded.batches.iter().zip(log_probabilities) {
        for (log_probability, &sequence) in of_batch.iter().zip(&batch.target_sequences) {
            let name = &loaded.task_names[range.start + sequence as usize];
            tasks.entry(name.clone()).or_default().loss -= log_probability;
        }
    }
    for task in tasks.values_mut() {
        task.loss /= task.target_tokens.max(1) as f64;
    }
    tasks
}

/// The schedule to change it. Between stages no other thread has it.
pub(super) fn unshared(schedule: &mut Arc<Schedule>) -> Result<&mut Schedule> {
    Arc::get_mut(schedule).ok_or_else(|| Error::bug("the schedule is read while it should change"))
}

/// Number of updates that each part has had after `step` (from 0), its own included; 0 for a part
/// that is frozen in it.
fn updates(schedule: &Schedule, run: &Run, step: u64) -> PerPart<u64> {
    let (now, _) = schedule.stage_of(step);
    PerPart::from_fn(|part| {
        let is_trained = |stage: usize| run.parts[stage].of(part) != Training::Frozen;
        if !is_trained(now) {
            return 0;
        }
        let done = |place: usize, stage: &Stage| match place == now {
            true => schedule.steps_that_count(place, step - stage.start) + 1,
            false => schedule.steps_that_count(place, stage.steps),
        };
        schedule.stages()[..=now]
            .iter()
            .enumerate()
            .filter(|(i, _)| is_trained(*i))
            .map(|(place, stage)| done(place, stage))
            .sum()
    })
}

/// Whether the user asked to stop.
///
/// # Errors
/// [`Kind::Interrupted`] if so.
pub fn check(stop: &Stop) -> Result<()> {
    stop.check("stopped")
        .map_err(|e| e.hint("continue with `--resume`"))
}

/// Device and precision as states name them.
fn computed(computes: Computes) -> Computed {
    let device = match computes.device {
        Place::Cpu => "cpu",
        Place::Cuda => "cuda",
    };
    Computed {
        device: device.to_owned(),
        precision: computes.precision.to_string(),
    }
}
