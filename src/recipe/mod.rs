//! A recipe: the YAML as written, checked, and the run that it resolves to. Each section is the
//! settings type of the module that uses it. `schema/recipe.yaml` describes every key.

mod begin;
mod changes;
mod msft;
mod open;
pub mod trained_on;
pub(crate) mod overrides;

pub use begin::Begun;
pub use begin::Opening;
pub use open::Opened;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use yaml_serde::Value;

use crate::data::OnBadRow;
use crate::data::Source;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Result;
use crate::eval;
use crate::eval::suite::Suite;
use crate::featurise::augment;
use crate::featurise::augment::Augmentation;
use crate::featurise::rows::Pool;
use crate::featurise::rows::RowCheck;
use crate::featurise::rows::Watch;
use crate::files;
use crate::leakage;
use crate::leakage::Allowed;
use crate::leakage::Training as TrainingRows;
use crate::loss_weights;
use crate::models::config::Config;
use crate::models::hubert;
use crate::models::speech::Speech;
use crate::nn::checkpoint::weight_files;
use crate::nn::lora;
use crate::nn::lora::Plan;
use crate::nn::precision::Precision;
use crate::parts::Part;
use crate::parts::Parts;
use crate::parts::TokenTraining;
use crate::parts::TrainSettings;
use crate::parts::Training;
use crate::records::inputs::LeftOut;
use crate::records::suite_file;
use crate::records::suite_file::Role;
use crate::schedule;
use crate::schedule::Schedule;
use crate::schedule::online::Rule;
use crate::task::AskedIn;
use crate::task::SpecialTokens;
use crate::task::Tasks;
use crate::task::task_files;
use crate::train::CheckpointSettings;
use crate::train::EmbeddingSettings;
use crate::train::EvaluateSettings;
use crate::train::GradientSettings;
use crate::train::MemorySettings;
use crate::train::NeftuneSettings;
use crate::train::ProbeSettings;
use crate::train::audio_gap::AudioGap;
use crate::train::corpus::Corpus;
use crate::train::corpus::EntrySettings;
use crate::train::difficulty;
use crate::train::optimiser;
use crate::train::spelling::Spelling;
use crate::yaml;

/// A recipe file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run's folder; by default that of the file.
    #[serde(default)]
    pub name: String,
    /// The checkpoint to start from.
    pub model: ModelSettings,
    /// Audio encoder to use.
    #[serde(default)]
    pub audio_encoder: EncoderSettings,
    /// Training of each part.
    #[serde(default)]
    pub train: TrainSettings,
    /// The adapters.
    #[serde(default)]
    pub lora: lora::Settings,
    /// A folder of task files that add to or override the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PathBuf>,
    /// Language of the instructions: `row` (each row's own), `both`, or a language such as `ar`.
    #[serde(default, skip_serializing_if = "AskedIn::is_row")]
    pub instructions: AskedIn,
    /// The rows.
    pub data: Vec<EntrySettings>,
    /// Handling of rows that cannot be used.
    #[serde(default = "refuse")]
    pub on_bad_row: OnBadRow,
    /// Longest clip, in seconds; longer ones are an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_audio_s: Option<f64>,
    /// Changes of the clips that are trained on.
    #[serde(default, skip_serializing_if = "augment::Settings::is_off")]
    pub augment: augment::Settings,
    /// Weights of examples in the loss.
    #[serde(default)]
    pub loss: loss_weights::Settings,
    /// Noise on the embeddings of tokens in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neftune: Option<NeftuneSettings>,
    /// Curriculum: the rows of each step.
    pub schedule: schedule::Settings,
    /// AdamW and its learning rate.
    #[serde(default)]
    pub optimiser: optimiser::Settings,
    /// Gradients of tasks, and how they become that of a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradients: Option<GradientSettings>,
    /// Size of micro-batches, and what layers store.
    #[serde(default)]
    pub memory: MemorySettings,
    /// Evaluation while training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate: Option<EvaluateSettings>,
    /// Gradients of each task and the audio gap, measured during training.
    #[serde(default)]
    pub probe: ProbeSettings,
    /// Cache of the embeddings that `draw: diverse` compares.
    #[serde(default)]
    pub embeddings: EmbeddingSettings,
    /// Checkpoints.
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    /// Parent of the run's folder; `runs` by default. An experiment puts its runs together.
    #[serde(skip)]
    pub runs: Option<PathBuf>,
    /// Script that writes the manifests, if one lies beside the recipe's file.
    #[serde(skip)]
    pub script: Option<PathBuf>,
    /// Seed of everything random. `schedule.seed` sets the order of the data separately.
    #[serde(default)]
    pub seed: u64,
}

/// Name of a script that writes the manifests of the recipes in its folder and in folders of it.
const SCRIPT: &str = "rows.py";

/// The script that writes the manifests of a recipe's file, in its folder or in the one around it.
fn script_beside(recipe: &Path) -> Option<PathBuf> {
    let folders = recipe.ancestors().skip(1).take(2);
    folders
        .map(|folder| folder.join(SCRIPT))
        .find(|script| script.is_file())
}

fn refuse() -> OnBadRow {
    OnBadRow::Error
}

/// `model:` of a recipe, or its path alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "path")]
pub struct ModelSettings {
    /// A folder, or a Hub id.
    pub path: String,
    /// Type of the computation.
    #[serde(default, alias = "dtype")]
    pub precision: Precision,
    /// The folder's weights, or fresh ones drawn from the seed.
    #[serde(default)]
    pub weights: WeightsSource,
}

/// Source of a run's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsSource {
    /// The safetensors of the folder.
    #[default]
    Checkpoint,
    /// Random weights with the shapes of config.json.
    Random,
}

/// `audio_encoder:` of a recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSettings {
    /// Source of the encoder.
    #[serde(default)]
    pub from: EncoderSource,
    /// Frames of a speech encoder in one audio token; 4 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<usize>,
}

/// Frames in one audio token where a recipe gives no number: 12.5 tokens per second.
const DEFAULT_STACK: usize = 4;

/// Source of the audio encoder: `model`, or the folder of a speech encoder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum EncoderSource {
    /// The checkpoint's own.
    #[default]
    Model,
    /// A HuBERT or wav2vec 2.0 checkpoint.
    Folder(PathBuf),
}

impl From<String> for EncoderSource {
    fn from(written: String) -> Self {
        match written.as_str() {
            "model" => Self::Model,
            _ => Self::Folder(written.into()),
        }
    }
}

impl From<EncoderSource> for String {
    fn from(source: EncoderSource) -> Self {
        match source {
            EncoderSource::Model => "model".to_owned(),
            EncoderSource::Folder(dir) => dir.to_string_lossy().into_owned(),
        }
    }
}

impl EncoderSettings {
    /// Folder of the speech encoder, if the recipe names one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.from {
            EncoderSource::Model => None,
            EncoderSource::Folder(dir) => Some(dir),
        }
    }

    /// The model with the encoder of these settings.
    ///
    /// # Errors
    /// As [`Speech::open`].
    pub fn put_into(&self, config: Config) -> Result<Config> {
        let Some(dir) = self.folder() else {
            return Ok(config);
        };
        let speech = Speech::open(dir, self.stack.unwrap_or(DEFAULT_STACK))?;
        Ok(config.with_speech(speech))
    }

    fn check(&self) -> Result<()> {
        match (self.stack, self.folder()) {
            (Some(0), _) => Err(Error::input("`audio_encoder.stack` is 0").hint(format!(
                "write the number of encoder frames, 50 per second, that become one audio token, such as {DEFAULT_STACK}"
            ))),
            (Some(_), None) => Err(Error::input(
                "`audio_encoder.stack` has no effect without a speech encoder",
            )
            .hint("name the encoder's folder under `audio_encoder.from`, or leave `stack` out")),
            _ => Ok(()),
        }
    }
}

/// Reads a YAML file; each of `overrides` is `KEY.KEY=VALUE` with the value as YAML. Entries of
/// lists count from 0.
///
/// # Errors
/// Unknown keys (with file, line and the nearest known one), wrong types.
pub fn read<T: DeserializeOwned>(path: &Path, overrides: &[String]) -> Result<T> {
    let text = files::read_text(path).map_err(|e| {
        e.or_hint("name the YAML file of a recipe; relative paths start from the folder the command runs in")
    })?;
    let found = yaml::parse(&text, path)?;
    if overrides.is_empty() {
        return Ok(found);
    }
    let mut tree: Value = yaml::parse(&text, path)?;
    for written in overrides {
        overrides::set(&mut tree, written)?;
    }
    yaml::from_value(tree, &format!("--set {}", overrides.join(" --set ")))
}

/// The error of a file that cannot be read as a recipe, with a hint to the command that takes it if
/// it is an experiment.
fn name_command(path: &Path, error: Error) -> Error {
    let text = files::read_text(path).unwrap_or_default();
    let is_experiment = yaml_serde::from_str::<Value>(&text)
        .is_ok_and(|tree| tree.get("recipes").is_some() && tree.get("seeds").is_some());
    match is_experiment {
        true => error.hint(format!(
            "run `maqam experiment {}`, because the file is an experiment",
            path.display()
        )),
        false => error,
    }
}

impl Recipe {
    /// Reads a recipe; each of `overrides` is `KEY.KEY=VALUE` with the value as YAML. Entries of
    /// lists count from 0.
    ///
    /// # Errors
    /// Unknown keys (with file, line and the nearest known one), wrong types, values outside their
    /// range.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let mut recipe: Self = read(path, overrides).map_err(|e| name_command(path, e))?;
        if recipe.name.is_empty() {
            recipe.name = path
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
                .unwrap_or_default();
        }
        recipe.script = script_beside(path);
        recipe.check().map_err(|e| e.at_path(path))?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        files::check_name(&self.name).map_err(|e| e.at("`name`"))?;
        if self.memory.pack_tokens == Some(0) {
            return Err(Error::input("`memory.pack_tokens` is 0"));
        }
        self.checkpoint.check()?;
        if self
            .max_audio_s
            .is_some_and(|longest| !(longest.is_finite() && longest > 0.0))
        {
            return Err(Error::input(
                "`max_audio_s` should be a number of seconds above 0",
            ));
        }
        self.audio_encoder.check()?;
        self.augment.check()?;
        self.optimiser.check()?;
        self.neftune.iter().try_for_each(NeftuneSettings::check)?;
        self.loss.check()
    }

    /// The error with a hint to the script that writes the manifests, if one of them is missing.
    fn name_script(&self, error: Error) -> Error {
        let is_missing = self.data.iter().any(|entry| !entry.manifest.exists());
        match &self.script {
            Some(script) if is_missing => error.and_hint(format!(
                "write the rows of this recipe first: `python {} --help`",
                script.display()
            )),
            _ => error,
        }
    }

    /// The run's folder.
    pub fn folder(&self) -> PathBuf {
        self.runs
            .as_deref()
            .unwrap_or(Path::new("runs"))
            .join(&self.name)
    }

    /// The seed of the order of the data.
    pub fn order_seed(&self) -> u64 {
        self.schedule.seed.unwrap_or(self.seed)
    }

    /// The tasks that rows can be of.
    pub fn tasks(&self) -> Result<Tasks> {
        Tasks::load(self.prompts.as_deref())
    }

    /// Reads the rows of training and evaluation with the headers of all audio, and plans the
    /// schedule, without weights. `pool` decides which rows leave the pool.
    ///
    /// # Errors
    /// Rows that cannot be used, unless they are to be skipped; those of [`Corpus::load`], the
    /// suite, [`Schedule::new`] and [`difficulty::set`].
    pub fn rows(
        &self,
        tasks: &Tasks,
        headers: &Headers,
        pool: Pool,
        watch: Watch<'_>,
    ) -> Result<RecipeRows> {
        let asked = tasks.clone().asked_in(&self.instructions);
        let skip = "`on_bad_row: skip`";
        let mut check =
            RowCheck::new(headers, self.max_audio_s, self.on_bad_row, skip, watch).of_run(pool);
        let corpus = Corpus::load(&self.data, &asked, &mut check, self.seed)
            .map_err(|e| self.name_script(e))?;
        let augmentation = Augmentation::open(&self.augment, &mut check, self.seed)?;
        let evaluate = self.suite(tasks, &mut check)?;
        let suite = evaluate.as_ref().map(|(_, suite)| suite);
        let audio_gap = AudioGap::of(&self.probe, &corpus, suite, headers)?;
        let left_out = check.finish()?;
        let mut schedule = Schedule::new(&self.schedule, corpus.population(), self.order_seed())?;
        difficulty::set(&mut schedule, &corpus, headers)?;
        msft::check(&schedule, evaluate.as_ref())?;
        self.gradients
            .as_ref()
            .map_or(Ok(()), |gradients| gradients.check(&schedule))?;
        let losses = self.losses(&schedule)?;
        let has_ctc = losses.iter().any(|loss| loss.ctc > 0.0);
        if has_ctc && self.gradients.is_some() {
            return Err(Error::input(
                "`gradients` and `loss.ctc` in one recipe: the CTC loss belongs to no task",
            )
            .hint("remove one of them"));
        }
        check_look_aheads(&schedule, &losses, self.gradients.is_some())?;
        if has_ctc && self.neftune.is_some_and(|neftune| neftune.audio) {
            return Err(Error::input(
                "`neftune.audio` and `loss.ctc` in one recipe: the CTC loss would spell transcripts from noise",
            )
            .hint("leave `audio` out of `neftune`, or `ctc` out of `loss`"));
        }
        let spelling = has_ctc.then(|| Spelling::of(&corpus)).transpose()?;
        Ok(RecipeRows {
            corpus,
            augmentation,
            schedule,
            evaluate,
            audio_gap,
            spelling,
            left_out,
        })
    }

    /// `loss:` of each stage.
    ///
    /// # Errors
    /// Values outside their range.
    pub fn losses(&self, schedule: &Schedule) -> Result<Vec<loss_weights::Settings>> {
        let stages = schedule.stages().iter();
        let losses: Vec<_> = stages.map(|stage| stage.loss.or(&self.loss)).collect();
        losses.iter().try_for_each(loss_weights::Settings::check)?;
        Ok(losses)
    }

    /// The suite that the run evaluates on, if there is one.
    ///
    /// # Errors
    /// A suite of role `test`; a score for the best checkpoint or for early stopping that the suite
    /// does not compute.
    fn suite(
        &self,
        tasks: &Tasks,
        check: &mut RowCheck<'_>,
    ) -> Result<Option<(EvaluateSettings, Suite)>> {
        let waits = |stage: &schedule::StageSettings| {
            stage.early_stop.as_ref().map(|stop| stop.score.clone())
        };
        let Some(settings) = &self.evaluate else {
            return match self.schedule.stages.iter().find_map(waits) {
                Some(_) => Err(Error::input(
                    "a stage has `early_stop`, but the recipe has no `evaluate`",
                )
                .hint("name a suite of role `dev` under `evaluate`")),
                None => Ok(None),
            };
        };
        let suite = Suite::load_checked(&settings.suite, tasks, check)?;
        if suite.role == Role::Test {
            return Err(Error::input("`evaluate.suite` has the role `test`")
                .at_path(&settings.suite)
                .hint(
                    "name a suite of role `dev`; evaluate on the test suite once, after training",
                ));
        }
        if settings.train_rows > 0 {
            self.check_train_rows(&suite)
                .map_err(|e| e.at_path(&settings.suite))?;
        }
        check_score("evaluate.keep_best", &settings.keep_best, &suite)
            .map_err(|e| e.at_path(&settings.suite))?;
        for score in self.schedule.stages.iter().filter_map(waits) {
            check_score("early_stop.score", &score, &suite)
                .map_err(|e| e.at_path(&settings.suite))?;
        }
        Ok(Some((settings.clone(), suite)))
    }

    /// Checks that training rows can be asked as a suite asks its own.
    fn check_train_rows(&self, suite: &Suite) -> Result<()> {
        if suite.is_language_forced {
            return Err(Error::input(
                "`evaluate.train_rows` is set, and `generation.language` of the suite forces a language on its own rows alone",
            )
            .hint("leave one of them out"));
        }
        Ok(())
    }

    /// Shape of the model: that of the checkpoint in `model_dir`, with the recipe's audio encoder.
    ///
    /// # Errors
    /// Those of [`Config::load`] and [`Speech::open`]; masks of log-mel spectrograms for an encoder
    /// that reads samples.
    pub fn config(&self, model_dir: &Path) -> Result<Config> {
        let config = self.audio_encoder.put_into(Config::load(model_dir)?)?;
        if config.speech.is_some() && self.augment.spec_augment.is_some() {
            return Err(Error::input(
                "`augment.spec_augment` masks log-mel spectrograms, and the speech encoder reads samples",
            )
            .hint("remove `spec_augment`; the other keys of `augment` change samples"));
        }
        Ok(config)
    }

    /// Training of each part by each stage, and the adapters for it. `tokens` are the special
    /// tokens of the model, where its tokenizer is here.
    ///
    /// # Errors
    /// Stages that contradict each other; targets that match nothing; fp8 where the decoder has no
    /// frozen layer to round; a fresh projector that no stage trains; embeddings of tokens without
    /// a projector to train them with.
    pub fn adapters(
        &self,
        config: &Config,
        tokens: Option<SpecialTokens>,
        schedule: &Schedule,
    ) -> Result<(Vec<Parts>, Plan)> {
        let whole = self.train.parts();
        let parts: Vec<Parts> = schedule
            .stages()
            .iter()
            .map(|stage| stage.train.or(&whole))
            .collect();
        let trained = self.trained_parts(schedule, &parts)?;
        if self.audio_encoder.folder().is_some() && trained.projector != Training::Full {
            return Err(Error::input(
                "`audio_encoder.from` brings a fresh projector, and no stage trains it in full",
            )
            .hint("write `train: {projector: full}`"));
        }
        let losses = self.losses(schedule)?;
        for (i, stage) in schedule.stages().iter().enumerate() {
            check_ctc(&losses[i], &parts[i], &stage.name)?;
        }
        let mut plan = Plan::from_settings(&self.lora, &trained, &config.adaptable())?;
        if plan.modules.is_empty() {
            self.optimiser.check_without_adapters()?;
        }
        if self.train.audio_tokens == TokenTraining::Full {
            check_audio_tokens(&trained)?;
            plan.tokens = match tokens {
                Some(special) => vec![special.audio_start, special.audio_end],
                // The number of parameters depends on no id.
                None => vec![config.audio_token; 2],
            };
        }
        if self.model.precision == Precision::Fp8 && plan.full.contains(&Part::Decoder) {
            return Err(Error::input("`model.precision` is fp8, which rounds frozen linear layers of the decoder, and `train.decoder: full` leaves none")
                .hint("train the decoder through adapters (`train.decoder: lora`), or leave `model.precision` out"));
        }
        Ok((parts, plan))
    }

    /// Training of each part in the stages that train it.
    ///
    /// # Errors
    /// A part that one stage trains through adapters and another in full; a stage that trains
    /// nothing.
    fn trained_parts(&self, schedule: &Schedule, by_stage: &[Parts]) -> Result<Parts> {
        let mut trained = Parts {
            audio_encoder: Training::Frozen,
            projector: Training::Frozen,
            decoder: Training::Frozen,
        };
        for (parts, stage) in by_stage.iter().zip(schedule.stages()) {
            if Part::ALL
                .iter()
                .all(|&part| parts.of(part) == Training::Frozen)
            {
                return Err(Error::input(format!("stage `{}` freezes every part: there is nothing to train", stage.name))
                    .hint("set one of audio_encoder, projector, decoder to `lora` or `full` under `train`"));
            }
            for part in Part::ALL {
                let before = trained.of(part);
                let now = parts.of(part);
                if now != Training::Frozen && before != Training::Frozen && now != before {
                    return Err(Error::input(format!(
                        "stage `{}` trains {} in another way than an earlier stage does",
                        stage.name,
                        part.name()
                    ))
                    .hint(
                        "a part is `lora` or `full` for a whole run; a stage may leave it `frozen`",
                    ));
                }
                if now != Training::Frozen {
                    *trained.of_mut(part) = now;
                }
            }
        }
        Ok(trained)
    }

    /// BLAKE3 of every manifest, task file, suite and file of a speech encoder that the run reads,
    /// by path: a resumed run must find the same.
    pub fn inputs(&self, suite: Option<&Suite>) -> Result<BTreeMap<String, String>> {
        let manifests = self.data.iter().map(|entry| entry.manifest.clone());
        let noise = self.augment.noise.iter();
        let noise = noise.filter_map(|noise| noise.manifest.clone());
        let of_suite = suite.into_iter().flat_map(|suite| suite.files.clone());
        let tasks = self
            .prompts
            .as_deref()
            .map(task_files)
            .transpose()?
            .unwrap_or_default();
        let encoder = self.audio_encoder.folder().map(encoder_files).transpose()?;
        manifests
            .chain(noise)
            .chain(encoder.unwrap_or_default())
            .chain(of_suite)
            .chain(tasks)
            .map(|path| Ok((path.display().to_string(), Source::new(&path).hash()?)))
            .collect()
    }

    /// The recipe as it will be stored with its run.
    pub fn to_yaml(&self) -> Result<String> {
        yaml_serde::to_string(self).map_err(Error::bug_from)
    }

    /// The first field that differs between two recipes, with both values; evaluation and
    /// checkpoint intervals are ignored.
    pub fn first_difference(&self, other: &Self) -> Result<Option<(String, String, String)>> {
        let tree = |recipe: &Self| yaml_serde::to_value(recipe).map_err(Error::bug_from);
        Ok(changes::first_difference(&tree(other)?, &tree(self)?, ""))
    }
}

/// Training and evaluation rows of a recipe.
pub struct RecipeRows {
    /// The rows of the training.
    pub corpus: Corpus,
    /// Changes of their clips.
    pub augmentation: Option<Augmentation>,
    /// Schedule of the rows.
    pub schedule: Schedule,
    /// `evaluate:`, with its suite read.
    pub evaluate: Option<(EvaluateSettings, Suite)>,
    /// Rows that the audio gap is measured on, if it is.
    pub audio_gap: Option<AudioGap>,
    /// Units of the auxiliary CTC loss, if a stage has one.
    pub spelling: Option<Spelling>,
    /// Lines of rows that left the pool.
    pub left_out: LeftOut,
}

impl RecipeRows {
    /// Characters that a CTC head spells; none if no stage has a CTC loss.
    pub fn characters(&self) -> Vec<char> {
        let spelling = self.spelling.as_ref();
        spelling.map_or_else(Vec::new, |spelling| spelling.characters().to_vec())
    }

    /// Faults of rows that are not used, and of rows that will be left out when they are drawn.
    pub fn skipped(&self) -> impl Iterator<Item = &Error> {
        let of_suite = self.evaluate.iter().flat_map(|(_, suite)| &suite.skipped);
        self.corpus.skipped().iter().chain(of_suite)
    }

    /// Notes for the user on the manifests of training and suite: unread fields, normalised
    /// spellings.
    pub fn notes(&self) -> impl Iterator<Item = &String> {
        let of_suite = self.evaluate.iter().flat_map(|(_, suite)| &suite.notes);
        self.corpus.notes().iter().chain(of_suite)
    }

    /// Compares the training data with the recipe's suite and with others: see [`leakage::check`].
    /// Without a suite nothing is compared.
    ///
    /// # Errors
    /// Those of [`leakage::check`].
    pub fn check_leakage(
        &self,
        suites: &[PathBuf],
        allowed: &Allowed,
        headers: &Headers,
    ) -> Result<Vec<String>> {
        let own = self.evaluate.iter().map(|(settings, _)| &settings.suite);
        let suites: Vec<PathBuf> = own.chain(suites).cloned().collect();
        if suites.is_empty() {
            return Ok(Vec::new());
        }
        let corpus = &self.corpus;
        let training = TrainingRows {
            rows: (0..corpus.len() as u32)
                .map(|row| corpus.row(row))
                .collect(),
            place: &|row| corpus.place(row as u32),
        };
        leakage::check(&training, &suite_file::rows_of(&suites)?, allowed, headers)
    }
}

/// Files that a speech encoder is read from.
fn encoder_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = weight_files(dir)?;
    paths.push(dir.join(hubert::config::CONFIG_FILE));
    let preprocessor = dir.join(hubert::config::PREPROCESSOR_FILE);
    paths.extend(preprocessor.is_file().then_some(preprocessor));
    Ok(paths)
}

/// Checks that the steps of stages with look-aheads are those that a look-ahead makes: of the loss
/// on target tokens alone, over all rows together.
fn check_look_aheads(
    schedule: &Schedule,
    losses: &[loss_weights::Settings],
    has_gradients: bool,
) -> Result<()> {
    for (stage, loss) in schedule.stages().iter().zip(losses) {
        if !matches!(stage.online, Some(Rule::Dynamix(_))) {
            continue;
        }
        let beside = match (loss.ctc > 0.0, has_gradients) {
            (true, _) => "loss.ctc",
            (false, true) => "gradients",
            (false, false) => continue,
        };
        return Err(Error::input(format!(
            "`mix: {{online: dynamix}}` beside `{beside}` in stage `{}`: a look-ahead step has no part in it, so it would measure another step than the stage makes",
            stage.name
        ))
        .hint(format!(
            "write `mix: {{online: odm}}`, which makes no look-ahead steps, or remove `{beside}`"
        )));
    }
    Ok(())
}

/// Checks that a stage with a CTC loss trains the projector, whose output it is computed on.
fn check_ctc(loss: &loss_weights::Settings, parts: &Parts, stage: &str) -> Result<()> {
    if loss.ctc > 0.0 && parts.projector == Training::Frozen {
        return Err(Error::input(format!(
            "`loss.ctc` is computed on the projector's output, and stage `{stage}` freezes the projector"
        ))
        .hint("set `projector` to `full` or `lora` under `train`, or `ctc` to 0 under the stage's `loss`"));
    }
    Ok(())
}

/// Checks that the embeddings of the tokens that open and close a clip can be trained as
/// `train.audio_tokens: full` says.
fn check_audio_tokens(trained: &Parts) -> Result<()> {
    if trained.decoder == Training::Full {
        return Err(Error::input(
            "`train.audio_tokens` is `full`, and so is `train.decoder`, which trains all embeddings already",
        )
        .hint("leave `audio_tokens` out"));
    }
    if trained.projector == Training::Frozen {
        return Err(Error::input(
            "`train.audio_tokens` is `full`, and no stage trains the projector, with which they are trained",
        )
        .hint("set `projector` to `full` or `lora` under `train`"));
    }
    Ok(())
}

/// Checks that the suite computes a score that the recipe uses.
fn check_score(key: &str, score: &str, suite: &Suite) -> Result<()> {
    let names = eval::score_names(suite);
    if names.iter().any(|name| name == score) {
        return Ok(());
    }
    let nearest = yaml::nearest(score, names.iter().map(String::as_str))
        .map(|near| format!("did you mean `{near}`? "))
        .unwrap_or_default();
    Err(
        Error::input(format!("`{key}`: the suite gives no score `{score}`"))
            .hint(format!("{nearest}it gives {}", names.join(", "))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "model: {path: m}\ndata: [{manifest: a.jsonl, task: asr}]\nschedule: {batch: 2, stages: [{steps: 10}]}\n";

    fn load(text: &str, overrides: &[&str]) -> Result<Recipe> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("first.yaml");
        files::write_atomic(&path, text.as_bytes()).unwrap();
        Recipe::load(
            &path,
            &overrides.iter().map(|s| s.to_string()).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn three_keys_suffice_and_the_rest_has_defaults() {
        let recipe = load(RECIPE, &[]).unwrap();
        assert_eq!(recipe.name, "first");
        assert_eq!(
            (
                recipe.lora.rank,
                recipe.lora.alpha,
                recipe.memory.pack_tokens()
            ),
            (16, 32.0, 8192)
        );
        assert_eq!(
            (
                recipe.optimiser.learning_rate,
                recipe.optimiser.warmup,
                recipe.checkpoint.every
            ),
            (1e-4, 0.03, 200)
        );
        let again: Recipe = yaml::parse(&recipe.to_yaml().unwrap(), Path::new("r.yaml")).unwrap();
        assert_eq!(again, recipe, "what is stored is a recipe itself");
    }

    #[test]
    fn an_unknown_key_names_the_line_and_the_nearest_key() {
        let error = load(&format!("{RECIPE}optimiser:\n  lerning_rate: 1e-5\n"), &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("first.yaml:5:3")
                && error.contains("unknown field `lerning_rate`")
                && error.contains("did you mean `learning_rate`?"),
            "{error}"
        );
    }

    #[test]
    fn overrides_reach_every_depth() {
        let recipe = load(
            RECIPE,
            &[
                "schedule.stages.0.steps=3",
                "optimiser.learning_rate=1e-5",
                "name=other",
                "train.projector=lora",
            ],
        )
        .unwrap();
        assert_eq!(
            (
                recipe.schedule.stages[0].steps,
                recipe.optimiser.learning_rate,
                recipe.name.as_str()
            ),
            (Some(3), 1e-5, "other")
        );
        assert_eq!(recipe.train.projector, Training::Lora);
        for (wrong, what) in [
            ("batch", "expected KEY=VALUE"),
            ("schedule.stages.4.steps=1", "not an entry of a list of 1"),
            ("schedule.bach=1", "did you mean `batch`"),
        ] {
            let error = load(RECIPE, &[wrong]).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_changed_field_is_named_and_cadence_may_change() {
        let dir = tempfile::tempdir().unwrap();
        let stored = dir.path().join("recipe.yaml");
        let before = load(RECIPE, &["name=n"]).unwrap();
        files::write_atomic(&stored, before.to_yaml().unwrap().as_bytes()).unwrap();
        assert!(
            load(RECIPE, &["name=n", "checkpoint.every=7"])
                .unwrap()
                .check_unchanged(&stored)
                .is_ok()
        );
        let error = load(RECIPE, &["name=n", "schedule.stages.0.steps=11"])
            .unwrap()
            .check_unchanged(&stored)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`schedule.stages.0.steps` was `10` when the run began and is `11` now"),
            "{error}"
        );
    }

    #[test]
    fn values_outside_their_range_are_refused_by_key() {
        for (wrong, key) in [
            ("optimiser.learning_rate=-1", "optimiser.learning_rate"),
            ("checkpoint.keep=0", "checkpoint.keep"),
            ("checkpoint.average=1", "checkpoint.average"),
            ("checkpoint.average=4", "`checkpoint.keep` only 3"),
            ("name=a/b", "`name`"),
            ("max_audio_s=0", "max_audio_s"),
            ("neftune.alpha=0", "neftune.alpha"),
            ("optimiser.lora_plus=0", "optimiser.lora_plus"),
            ("optimiser.restart=2", "optimiser.restart"),
        ] {
            let error = load(RECIPE, &[wrong]).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
