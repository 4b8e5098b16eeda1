//! The loop: stage after stage, step after step; what is written when, so that a kill at any moment
//! loses nothing that is not made again.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use std::time::Instant;

use candle_core::Tensor;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::files::AppendLog;
use crate::models::AudioEmbeddings;
use crate::models::AudioLlm;
use crate::models::Pass;
use crate::models::Transcript;
use crate::nn::precision::Computes;
use crate::nn::precision::Place;
use crate::ops::device::copy_to_run;
use crate::ops::device::memory;
use crate::ops::scalar::Scalar;
use crate::ops::scalar::read;
use crate::parts::Part;
use crate::parts::PerPart;
use crate::parts::Training;
use crate::records::checkpoint_state::Computed;
use crate::records::checkpoint_state::State;
use crate::records::inputs::fingerprint;
use crate::records::log::AudioGapRecord;
use crate::records::log::CtcRecord;
use crate::records::log::DeviceRecord;
use crate::records::log::GradientsRecord;
use crate::records::log::Line;
use crate::records::log::ProbeRecord;
use crate::records::log::StepRecord;
use crate::records::log::TaskRecord;
use crate::records::picks::StepPicks;
use crate::schedule::EmbeddingSource;
use crate::schedule::Pick;
use crate::schedule::Schedule;
use crate::schedule::Stage;
use crate::stop::Stop;
use crate::train::audio_gap::LoadedGap;
use crate::train::average;
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
use crate::train::selection::Selection;
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
    /// Shared with the reader of the next step while steps run; changed between stages, and where
    /// weights of tasks change.
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
    /// Rows that were drawn in stages whose picks depend on training, if there are such stages.
    pub picks: Option<AppendLog>,
    /// Record of where, when and how fast the run is computed.
    pub environment: Recorder,
    /// Rows that the audio gap is measured on, read as the training begins.
    pub gap: Option<LoadedGap>,
    /// Rows that stages with `draw: uds` choose.
    pub selection: Selection,
}

impl Trainer<'_> {
    /// Trains from where the state stands to the end of the schedule, whose stages that ended early
    /// have the steps that they had.
    pub fn train(&mut self) -> Result<()> {
        self.restore_weights()?;
        for (&stage, progress) in &self.state.msft {
            unshared(&mut self.schedule)?.exclude(stage, &progress.excluded)?;
        }
        self.tell_device()?;
        self.prepare_audio_gap()?;
        self.prepare_base()?;
        self.roll_back()?;
        match &self.run.evaluate {
            Some((settings, suite)) if self.state.step == 0 && settings.at_start => {
                self.evaluate(settings, suite)?
            }
            _ if self.state.step > 0 => self.finish_step()?,
            _ => {}
        }
        // The run stopped in the evaluation after its last step, which is made only now.
        if self.is_roll_back_pending() {
            self.roll_back()?;
            self.finish_step()?;
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
        self.average()
    }

    /// Writes the average of the last checkpoints, if the recipe asks for it.
    fn average(&mut self) -> Result<()> {
        let count = self.run.checkpoint.average;
        if count == 0 {
            return Ok(());
        }
        let rolled_back = self.rolled_back();
        let checkpoints = self.run.checkpoints();
        let steps = average::write(&self.run.folder, &checkpoints, count, &rolled_back)?;
        if steps.len() < count {
            let other = match rolled_back.is_empty() {
                true => "",
                false => " that were not rolled back",
            };
            self.observer.note(&format!(
                "`checkpoint.average` is {count}, and there are {} checkpoints{other}: the average is of those",
                steps.len()
            ));
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

    /// Steps of one stage, to its end, to where it ends early, or to a roll-back.
    fn run_stage(&mut self, stage: usize) -> Result<()> {
        let Stage { start, steps, .. } = self.schedule.stages()[stage];
        let last = start + steps;
        while self.state.step < last
            && !self.state.stage_ends.contains_key(&stage)
            && !self.is_roll_back_pending()
        {
            // Steps are read ahead only as far as their rows are known.
            let end = self.weights_hold_until(stage);
            self.choose_rows(stage)?;
            self.run_steps(stage, end)?;
            self.take_weights(stage)?;
        }
        if let Some(&steps) = self.state.stage_ends.get(&stage) {
            unshared(&mut self.schedule)?.end_stage(stage, steps)?;
        }
        Ok(())
    }

    /// Steps of a stage until `last` are finished, until the stage ends early, or until a roll-back.
    fn run_steps(&mut self, stage: usize, last: u64) -> Result<()> {
        let run = self.run;
        let first = self.state.step;
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
        })
    }

    fn next_step(&mut self, steps: &mut Steps) -> Result<()> {
        self.check_stop()?;
        let started = Instant::now();
        let (mut loaded, audio) = steps.next()?;
        let waited = steps.waited();
        self.tell_skipped(&loaded.skipped);
        self.warn_of_long_audio(&loaded);

        let first_weights = self.first_weights()?;
        let before_probe = Instant::now();
        let largest = largest_batch(&loaded);
        let probed = self
            .probe(&loaded)
            .map_err(|error| self.told_of_memory(error, largest))?;
        let probing = before_probe.elapsed();
        let clips = std::mem::take(&mut loaded.clips);
        let picks = std::mem::take(&mut loaded.picks);
        // Before the step: from where it moves the state to where it is logged, nothing may fail
        // that a user can cause.
        let ahead = self.read_ahead()?;
        let (record, gradients) = self
            .step(loaded, audio, steps)
            .map_err(|error| self.told_of_memory(error, largest))?;
        let chosen = self.take_chosen();
        let choosing = chosen.as_ref().map_or(Duration::ZERO, |(_, took)| *took);
        self.run.inputs().add(record.step, clips);
        let weights = self.update_weights(&record, ahead)?;

        let mut lines = Vec::new();
        lines.extend(first_weights.map(Line::Mixture));
        lines.extend(probed.map(Line::Probe));
        lines.extend(chosen.map(|(record, _)| Line::Selection(record)));
        lines.push(Line::Train(record.clone()));
        lines.extend(gradients.map(Line::Gradients));
        lines.extend(weights.map(Line::Mixture));
        let lines = lines
            .iter()
            .map(Line::to_text)
            .collect::<Result<Vec<_>>>()?;
        let lines = lines.join("\n");
        self.write_picks(&record, &picks)?;
        self.log.line(&lines)?;
        self.logged = record.step;
        self.state.is_gap_due = self.is_audio_gap_due();

        let pace = Pace {
            took: (started.elapsed() + choosing).saturating_sub(probing),
            waited,
        };
        self.environment.step(&record, pace);
        self.tell_tensorboard(&lines, Some(pace));
        self.observer.step(&record, pace);
        self.finish_step()
    }

    /// Tells of rows that were left out, of each once.
    pub(super) fn tell_skipped(&mut self, skipped: &[Error]) {
        for error in skipped {
            if self.told.insert(error.message().to_owned()) {
                self.observer
                    .note(&format!("row left out: {}", error.message()));
            }
        }
    }

    /// Writes the rows of a finished step, if they depend on training.
    fn write_picks(&mut self, record: &StepRecord, drawn: &[Pick]) -> Result<()> {
        let (stage, _) = self.schedule.stage_of(record.step - 1);
        if !self.schedule.depends_on_training(stage) {
            return Ok(());
        }
        let corpus = &self.run.corpus;
        let line = StepPicks {
            step: record.step,
            stage: record.stage.clone(),
            ids: drawn.iter().map(|pick| corpus.id(pick.row)).collect(),
            depends_on_training: true,
        };
        match &mut self.picks {
            Some(file) => file.line(&line.to_text()?),
            None => Err(Error::bug("the file of picks is not open")),
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
        let (mut embedder, schedule, mut progress) = self.embedder("losses of the base");
        difficulty::base_losses(&mut embedder, schedule, stages, &mut progress)
    }

    /// Vectors of all rows that some stages can draw, of the model as it stands.
    fn embed(&mut self, stages: &[usize]) -> Result<PoolVectors> {
        let (embedder, schedule, mut progress) = self.embedder("embedding");
        embeddings::of_stages(embedder, schedule, stages, &mut progress)
    }

    /// The model as it stands with what encodes rows for it, the schedule, and the progress of
    /// `work`.
    fn embedder(
        &mut self,
        work: &'static str,
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
            observer.preparing(work, done, total);
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
            pack_tokens: self.run.memory.pack_tokens(),
        };
        let probe::Gradients { norms, cosines } = probe::gradients(self.model, loaded, settings)?;
        Ok(Some(ProbeRecord {
            at_step,
            stage: self.schedule.stages()[stage].name.clone(),
            norms,
            cosines,
        }))
    }

    /// Reads the rows that the audio gap is measured on, and measures it before the first step.
    fn prepare_audio_gap(&mut self) -> Result<()> {
        let run = self.run;
        let Some(gap) = &run.audio_gap else {
            return Ok(());
        };
        let (loaded, skipped) = gap.load(&run.loader, run.on_bad_row)?;
        for error in &skipped {
            let text = format!("row of the audio gap left out: {}", error.message());
            self.observer.note(&text);
        }
        let new = run.inputs().new_among(gap.clips());
        let found = new.iter().filter_map(|path| fingerprint(path).ok());
        run.inputs().add(self.state.step, found.collect());
        self.gap = Some(loaded);
        match self.state.step {
            0 => self.log_audio_gap(),
            _ => Ok(()),
        }
    }

    /// Whether the audio gap is measured after the steps so far.
    pub(super) fn is_audio_gap_due(&self) -> bool {
        let last = self.schedule.num_steps();
        let sample = self.run.audio_gap.as_ref();
        sample.is_some_and(|sample| is_due(self.state.step, sample.every, last))
    }

    /// Measures the audio gap of the model as it stands and logs it.
    fn log_audio_gap(&mut self) -> Result<()> {
        if let Some(line) = self.audio_gap()? {
            self.log.line(&line)?;
            self.tell_tensorboard(&line, None);
        }
        self.state.is_gap_due = false;
        // A checkpoint of this step that was written before does not know of the measurement.
        self.saved = None;
        Ok(())
    }

    /// The log's line of the audio gap; none where no rows were read for it.
    fn audio_gap(&self) -> Result<Option<String>> {
        let Some(loaded) = &self.gap else {
            return Ok(None);
        };
        let model = &*self.model;
        let step = self.state.step;
        let pack_tokens = self.run.memory.pack_tokens();
        let watch = || self.check_stop();
        let gaps = loaded.measure(model, self.run.framing, pack_tokens, &watch)?;
        let (stage, _) = self.schedule.stage_of(step.saturating_sub(1));
        let record = AudioGapRecord {
            at_step: step,
            stage: self.schedule.stages()[stage].name.clone(),
            tasks: gaps.tasks,
            sets: gaps.sets,
        };
        Line::AudioGap(record).to_text().map(Some)
    }

    pub(super) fn pass(&self, stage: usize) -> Pass {
        Pass {
            save: self.run.memory.save,
            dropout: self.run.dropout,
            label_smoothing: self.run.loss[stage].label_smoothing,
            noise: self.run.noise,
        }
    }

    /// The error of a step with what it says of the largest micro-batch, tokens and examples, where
    /// a GPU has no memory for it.
    fn told_of_memory(&self, error: Error, (tokens, examples): (usize, usize)) -> Error {
        match (&self.run.fit, memory(&self.model.device)) {
            (Some(fit), Ok(Some(memory))) => {
                fit.full(error, tokens, examples == 1, memory.free as f64)
            }
            _ => error,
        }
    }

    pub(super) fn set_trained(&mut self, stage: usize) {
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
    ) -> Result<(StepRecord, Option<GradientsRecord>)> {
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
        let mut ctc = CtcRecord::default();
        let mut loss = Scalar::new(0.0, &model.device)?;
        let mut combined = None;
        if let Some(settings) = &run.gradients {
            let found = self.combine(&loaded, audio.take(), settings)?;
            log_probabilities.extend(found.log_probabilities.iter().cloned());
            loss = found.loss.clone();
            combined = Some(found);
        } else {
            for (range, batch) in &loaded.batches {
                self.check_stop()?;
                let transcripts = loaded.transcripts_of(range.clone(), run.loss[stage].ctc);
                let found = model.train_with_ctc(batch, audio.take(), pass, &transcripts)?;
                loss.add(&found.loss.loss)?;
                log_probabilities.push(found.loss.log_probabilities);
                add_ctc(&mut ctc, &transcripts, &found.ctc);
            }
        }

        // Update.
        let grad_norm = self.optimiser.grad_norm(&model.parameters)?;
        let update = Update {
            loss: &loss,
            grad_norm: &grad_norm,
            learning_rate,
            counts: updates(&self.schedule, run, step),
        };
        let num_auxiliary = auxiliary_updates(&self.schedule, run, step);
        self.optimiser
            .step_with_auxiliary(&model.parameters, update, num_auxiliary)?;

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
        let gradients = combined
            .map(|combined| self.after_update(&loaded, combined))
            .transpose()?;

        let tasks = task_records(&loaded, &numbers[2..]);
        let examples = &loaded.examples;
        let record = StepRecord {
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
            ctc: (run.loss[stage].ctc > 0.0).then(|| mean_ctc(ctc)),
            difficulty: loaded.difficulty,
            masked_accuracy: None,
            unmasked_accuracy: None,
            cosine: None,
        };
        Ok((record, gradients))
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

    /// Audio gap, evaluation and checkpoint, where the finished step is due for them. A state that
    /// is saved because one of them fails says that it is still due.
    fn finish_step(&mut self) -> Result<()> {
        let step = self.state.step;
        if self.state.is_gap_due {
            self.log_audio_gap()?;
        }
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
        self.picks.as_mut().map_or(Ok(()), AppendLog::sync)?;
        // Before the checkpoint: it must not know of a step whose clips are not recorded.
        let num_clips = self.run.inputs().num_clips;
        if self.recorded_clips != Some(num_clips) {
            self.run.inputs().write(&self.run.folder)?;
            self.recorded_clips = Some(num_clips);
        }
        // Before the checkpoint too: steps after it must find the algorithms of those before it.
        copy_to_run(&self.model.device, &self.run.folder)?;
        self.state.log_bytes = self.log.num_bytes()?;
        let folder = checkpoint::folder(&self.run.checkpoints(), self.state.step);
        let (stage, _) = self.schedule.stage_of(self.state.step);
        checkpoint::save_with_queue(
            &folder,
            self.model,
            self.optimiser,
            self.state,
            &self.run.metadata,
            self.selection.queue_of(stage),
        )?;
        self.saved = Some(self.state.step);
        self.record_environment();
        checkpoint::rotate(&self.run.checkpoints(), self.run.checkpoint.keep)?;
        self.forget_rounds()
    }

    pub(super) fn check_stop(&self) -> Result<()> {
        check(self.stop)
    }
}

/// Whether something that happens every so many steps, and after the last, happens after `step`.
fn is_due(step: u64, every: u64, last: u64) -> bool {
    step == last || (every > 0 && step.is_multiple_of(every))
}

/// Tokens and examples of the longest micro-batch of a step.
fn largest_batch(loaded: &LoadedStep) -> (usize, usize) {
    let sizes = loaded
        .batches
        .iter()
        .map(|(examples, batch)| (batch.tokens.len(), examples.len()));
    sizes.max().unwrap_or_default()
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

/// Adds the CTC losses of a micro-batch to those of a step, as a sum of nats.
fn add_ctc(sum: &mut CtcRecord, transcripts: &[Transcript<'_>], nats: &[f64]) {
    sum.clips += transcripts.len();
    for (transcript, nats) in transcripts.iter().zip(nats) {
        if nats.is_infinite() {
            sum.too_short += 1;
        } else {
            sum.characters += transcript.units.len();
            sum.loss += nats;
        }
    }
}

/// The CTC losses of a step, as a mean over characters.
fn mean_ctc(sum: CtcRecord) -> CtcRecord {
    CtcRecord {
        loss: sum.loss / sum.characters.max(1) as f64,
        ..sum
    }
}

/// The schedule to change it. Between stages, and where weights change, no other thread has it.
pub(super) fn unshared(schedule: &mut Arc<Schedule>) -> Result<&mut Schedule> {
    Arc::get_mut(schedule).ok_or_else(|| Error::bug("the schedule is read while it should change"))
}

/// Number of updates that each part has had after `step` (from 0), its own included; 0 for a part
/// that is frozen in it.
pub(super) fn updates(schedule: &Schedule, run: &Run, step: u64) -> PerPart<u64> {
    PerPart::from_fn(|part| {
        let is_trained = |stage: usize| run.parts[stage].of(part) != Training::Frozen;
        num_updates(schedule, step, is_trained)
    })
}

/// Number of updates that a CTC head has had after `step` (from 0), its own included; 0 if the
/// step's stage has no CTC loss.
fn auxiliary_updates(schedule: &Schedule, run: &Run, step: u64) -> u64 {
    num_updates(schedule, step, |stage| run.loss[stage].ctc > 0.0)
}

/// Number of steps up to `step` (from 0), itself included, in stages that train something; 0 if
/// the step's own does not. Steps that were rolled back do not count.
fn num_updates(schedule: &Schedule, step: u64, is_trained: impl Fn(usize) -> bool) -> u64 {
    let (now, in_stage) = schedule.stage_of(step);
    if !is_trained(now) {
        return 0;
    }
    let done = |place: usize, stage: &Stage| match place == now {
        true => schedule.steps_that_count(place, in_stage) + 1,
        false => schedule.steps_that_count(place, stage.steps),
    };
    schedule.stages()[..=now]
        .iter()
        .enumerate()
        .filter(|(place, _)| is_trained(*place))
        .map(|(place, stage)| done(place, stage))
        .sum()
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

#[cfg(test)]
mod tests {
    use super::*;

    use crate::schedule::Entry;
    use crate::schedule::Population;
    use crate::schedule::Settings;
    use crate::stats::msft::Exclusion;

    /// Stages of 3, 10 and 2 steps. In the second, task `a` leaves after 6 steps, and training goes
    /// back to the second of them.
    #[test]
    fn rolled_back_steps_are_no_updates() {
        let yaml = "{batch: 2, stages: [{steps: 3}, {steps: 10, end: msft}, {steps: 2}]}";
        let settings: Settings = yaml_serde::from_str(yaml).unwrap();
        let entry = |rows| Entry { rows, weight: 1.0 };
        let population = Population {
            tasks: ["a", "b"].map(String::from).into(),
            row_task: [[0; 8], [1; 8]].concat(),
            entries: vec![entry(0..8), entry(8..16)],
            ..Population::default()
        };
        let mut schedule = Schedule::new(&settings, &population, 5).unwrap();
        let all = |_: usize| true;
        assert_eq!(num_updates(&schedule, 9, all), 10);
        let exclusion = Exclusion {
            task: "a".to_owned(),
            at: 6,
            to: 2,
        };
        schedule.exclude(1, &[exclusion]).unwrap();
        assert_eq!(num_updates(&schedule, 8, all), 9, "the last step before");
        assert_eq!(num_updates(&schedule, 9, all), 3 + 2 + 1);
        assert_eq!(num_updates(&schedule, 13, all), 3 + (10 - 4) + 1);
        // Parts, or a CTC head, that some stages alone train.
        assert_eq!(num_updates(&schedule, 9, |stage| stage == 1), 2 + 1);
        assert_eq!(num_updates(&schedule, 9, |stage| stage != 1), 0);
        assert_eq!(num_updates(&schedule, 13, |stage| stage > 0), 6 + 1);
    }
}
