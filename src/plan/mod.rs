//! A plan: what a recipe does, without doing it. Shares of tasks, batches beside random ones,
//! leakage, cost.
//!
//! - `affinity`: how far tasks pull the same way, and stages that follow from it.
//! - `draws`: which rows every step draws; `facts`: how long each of them is.
//! - `shares`: what tasks and labels get, and how much of their rows that reaches.
//! - `evenness`: batches beside those of chance; `neighbours`, `probe`: what the embeddings know.
//! - `online`: weights of tasks that follow a reward; `uds`: candidates and their cost.
//! - `estimate`: memory and time; `warnings`: what to look at.
//! - `table`: tables as text; `page`: the whole as HTML.

mod affinity;
mod draws;
mod estimate;
mod evenness;
mod facts;
mod neighbours;
mod online;
mod page;
mod probe;
mod shares;
mod table;
mod uds;
mod warnings;

pub use affinity::Affinity;
pub use affinity::By;
pub use affinity::Settings as AffinitySettings;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use crate::data::headers;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::Loader;
use crate::featurise::rows::Pool;
use crate::featurise::rows::Watch;
use crate::leakage::Allowed;
use crate::models::AudioLlm;
use crate::models::config::Config;
use crate::nn::lora;
use crate::parts::Parts;
use crate::plan::draws::StageDraws;
use crate::plan::evenness::Evenness;
use crate::plan::facts::Facts;
use crate::plan::facts::Reader;
use crate::plan::probe::Sample;
use crate::plan::shares::Amount;
use crate::plan::shares::StageShares;
use crate::plan::table::Table;
use crate::recipe::Recipe;
use crate::recipe::RecipeRows;
use crate::records::picks::StepPicks;
use crate::schedule::DifficultyOrder;
use crate::schedule::Draw;
use crate::schedule::EmbeddingSource;
use crate::schedule::Embeddings;
use crate::schedule::Schedule;
use crate::schedule::Stage;
use crate::schedule::msft::EVALUATIONS;
use crate::text_table::count;
use crate::text_table::duration;
use crate::text_table::wrapped;
use crate::train::corpus::Corpus;
use crate::train::difficulty;
use crate::train::embeddings;
use crate::train::embeddings::Embedder;

/// Where the model of a recipe is, or why it is not looked at.
pub enum ModelPlace<'a> {
    /// In this folder.
    Here(&'a Path),
    /// Not on this machine; the reason, as a sentence, and its shape where the name says it.
    Elsewhere(String, Option<Box<Config>>),
}

/// What a plan is made for.
pub struct Asked<'a> {
    /// Where the model is.
    pub model: ModelPlace<'a>,
    /// Opens the device that training will compute on, where stages compare embeddings.
    pub device: &'a dyn Fn() -> Result<Device>,
    /// Bytes of the GPU that it should fit.
    pub gpu_memory: Option<f64>,
    /// Settings of the affinity of tasks, if it is measured.
    pub affinity: Option<AffinitySettings>,
    /// What training and evaluation may share.
    pub allowed: &'a Allowed,
}

/// What a recipe will do.
pub struct Plan {
    corpus: Corpus,
    schedule: Schedule,
    draws: Vec<StageDraws>,
    facts: Facts,
    shares: Vec<StageShares>,
    evenness: Vec<(String, Evenness)>,
    probe: Option<(Table, Sample)>,
    affinity: Option<Affinity>,
    estimates: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    notes: Vec<String>,
    stages: Vec<String>,
}

/// The model as far as it is here.
struct Opened {
    config: Config,
    loader: Loader,
    plan: lora::Plan,
    parts: Vec<Parts>,
}

impl Opened {
    fn open(recipe: &Recipe, dir: &Path, schedule: &Schedule) -> Result<Self> {
        let config = recipe.config(dir)?;
        let loader = Loader::new(dir, &config, recipe.max_audio_s)?;
        let (parts, plan) = recipe.adapters(&config, Some(loader.codec().special()), schedule)?;
        recipe.check_init(&plan, &config)?;
        Ok(Self {
            config,
            loader,
            plan,
            parts,
        })
    }
}

impl Plan {
    /// Reads the recipe's rows and suite, plans its schedule and measures what it draws. Nothing is
    /// trained, and nothing written but embeddings to the recipe's cache, where stages compare
    /// them.
    ///
    /// # Errors
    /// Whatever training would refuse of rows, schedule, suite and adapters; leakage of a kind that
    /// is not `allowed`; a cache of embeddings of another model.
    pub fn make(recipe: &Recipe, asked: &Asked<'_>, watch: Watch<'_>) -> Result<Self> {
        let Asked {
            model,
            device,
            gpu_memory,
            affinity,
            allowed,
        } = asked;

        // Rows, and everything that training would refuse or tell of them.
        let tasks = recipe.tasks()?;
        let headers = Headers::open(Path::new(headers::FOLDER));
        let rows = recipe.rows(&tasks, &headers, Pool::Fresh, &mut *watch)?;
        let mut notes: Vec<String> = rows
            .skipped()
            .map(|error| format!("left out: {}", error.message()))
            .chain(rows.notes().cloned())
            .collect();
        notes.extend(rows.check_leakage(&[], allowed, &headers)?);
        headers.keep();
        let characters = rows.characters();
        let RecipeRows {
            corpus,
            augmentation,
            mut schedule,
            audio_gap,
            ..
        } = rows;

        // The model, as far as it is here.
        let opened = match model {
            ModelPlace::Here(dir) => {
                let mut opened = Opened::open(recipe, dir, &schedule)?;
                opened.plan.ctc = characters;
                Some((opened, *dir))
            }
            ModelPlace::Elsewhere(..) => None,
        };
        notes.extend(without_model(model));

        // What every step draws.
        let unknown = unknown(recipe, &corpus, &schedule, model);
        notes.extend(unknown_notes(&schedule, &unknown));
        notes.extend(online::notes(&schedule));
        notes.extend(uds::notes(&schedule));
        let compared = match &opened {
            Some((opened, dir)) => embed(
                recipe,
                &corpus,
                &mut schedule,
                (opened, dir, device),
                &unknown,
                watch,
            )?,
            None => None,
        };
        let draws = draws::of_all(recipe, &corpus, &schedule, &unknown)?;
        let affinity = match affinity {
            Some(settings) => {
                let (opened, dir) = opened.as_ref().ok_or_else(without_affinity)?;
                let of_model = (opened, *dir, *device);
                let found = affinity_of(recipe, &corpus, &schedule, of_model, *settings, watch)?;
                Some(found)
            }
            None => None,
        };

        // Lengths of what is drawn.
        let codec = opened.as_ref().map(|(opened, _)| {
            let max_positions = opened.config.text.max_position_embeddings;
            (opened.loader.codec(), max_positions)
        });
        let config = match (&opened, model) {
            (Some((opened, _)), _) => Some(&opened.config),
            (None, ModelPlace::Elsewhere(_, config)) => config.as_deref(),
            (None, _) => None,
        };
        let reader = Reader {
            corpus: &corpus,
            headers: &headers,
            codec,
            config,
            max_audio_s: recipe.max_audio_s,
            augmentation: augmentation.as_ref(),
            on_bad_row: recipe.on_bad_row,
        };
        let facts = Facts::read(&reader, &draws, recipe.seed, &mut |done, total| {
            watch("measuring", done, total)
        })?;
        let skipped = facts.skipped.iter();
        notes.extend(skipped.map(|error| format!("will be left out: {}", error.message())));

        // Shares, evenness, cost.
        let population = corpus.population();
        let shares: Vec<StageShares> = draws
            .iter()
            .enumerate()
            .map(|(i, stage)| shares::of_stage(population, stage, &facts, i))
            .collect();
        let mut evenness = Vec::with_capacity(draws.len());
        for stage in &draws {
            let found = evenness::of_stage(population, stage, compared.as_deref(), recipe.seed);
            evenness.push((stage.stage.name.clone(), found));
        }
        let sample = compared
            .as_deref()
            .map(|embeddings| Sample::of(embeddings.audio(), recipe.seed))
            .filter(|sample| sample.rows.len() > 1);
        let probe = sample.map(|sample| {
            let table = probe::table(&corpus, &sample, |row| reader.seconds(row).ok());
            (table, sample)
        });
        let estimates = match (&opened, model) {
            (Some((opened, _)), _) => {
                let training = estimate::Training {
                    recipe,
                    config: &opened.config,
                    plan: &opened.plan,
                    parts: &opened.parts,
                    audio_gap: audio_gap.as_ref(),
                    embeddings: compared.as_deref().map_or(0.0, size_of_embeddings),
                    gpu_memory: *gpu_memory,
                };
                estimate::lines(&training, &corpus, &draws, &facts)
            }
            (None, ModelPlace::Elsewhere(_, Some(config))) => {
                estimate::lines_of_shape(recipe, config, &schedule, *gpu_memory)?
            }
            (None, _) => Vec::new(),
        };
        let mut warnings = warnings::find(population, &schedule, &draws, &shares);
        warnings.extend(online::warnings(population, &schedule));
        warnings.extend(uds::warnings(&schedule));
        warnings.extend(affinity.iter().flat_map(|found| found.warnings.clone()));
        let stages = schedule
            .stages()
            .iter()
            .enumerate()
            .map(|(i, stage)| {
                let rounds = stage
                    .msft
                    .as_ref()
                    .map(|_| schedule.evaluation_interval(i, &[]));
                Ok(describe(recipe, stage, i, rounds.transpose()?))
            })
            .collect::<Result<_>>()?;

        Ok(Self {
            corpus,
            schedule,
            draws,
            facts,
            shares,
            evenness,
            probe,
            affinity,
            estimates,
            warnings,
            notes,
            stages,
        })
    }

    /// The rows of every step, exactly as training will draw them.
    ///
    /// # Errors
    /// A stage whose picks are not known before training, with the reason.
    pub fn picks(&self) -> Result<Vec<StepPicks>> {
        draws::picks(&self.draws, &self.corpus)
    }

    /// The plan for a terminal, at most 110 characters wide where names are not longer.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} steps of {} examples, {} rows\n",
            self.schedule.num_steps(),
            self.schedule.batch(),
            self.corpus.len()
        );
        text += &wrapped(&self.totals(), "");
        for table in self.tables() {
            text += &format!("\n{}", table.text());
        }
        if let Some(affinity) = &self.affinity {
            text += &format!("\n{}", affinity.text());
        }
        if !self.estimates.is_empty() {
            text.push('\n');
            self.estimates
                .iter()
                .for_each(|(label, line)| text += &labelled(&format!("{label:<8}"), line));
        }
        for (kind, lines) in [("warning: ", &self.warnings), ("note: ", &self.notes)] {
            if !lines.is_empty() {
                text.push('\n');
                lines.iter().for_each(|line| text += &labelled(kind, line));
            }
        }
        text
    }

    /// The plan as one JSON object. Amounts of audio are in seconds; numbers of tokens are `null`
    /// where the tokenizer is not on this machine, and all amounts but examples are estimates where
    /// `is_sample` is true.
    pub fn json(&self) -> serde_json::Value {
        let population = self.corpus.population();
        let stages = self.schedule.stages().iter().zip(&self.shares);
        let stages: Vec<serde_json::Value> = stages
            .enumerate()
            .map(|(index, (stage, shares))| {
                let shares_of: Vec<serde_json::Value> = shares
                    .shares
                    .iter()
                    .map(|share| {
                        serde_json::json!({
                            "task": population.tasks[share.task],
                            "label": share.label_name(population),
                            "amount": share.amount.json(),
                            "rows": share.reach.num_rows,
                            "rows_drawn": share.reach.num_drawn,
                            "most_draws_of_a_row": share.reach.most,
                        })
                    })
                    .collect();
                let mut of_stage = serde_json::json!({
                    "name": stage.name,
                    "first_step": stage.start + 1,
                    "steps": stage.steps,
                    "total": shares.total.json(),
                    "shares": shares_of,
                });
                if self.schedule.depends_on_training(index) {
                    of_stage["depends_on_training"] = true.into();
                }
                of_stage
            })
            .collect();
        let estimates: serde_json::Map<String, serde_json::Value> = self
            .estimates
            .iter()
            .map(|(label, line)| ((*label).to_owned(), line.as_str().into()))
            .collect();
        let mut told = serde_json::json!({
            "steps": self.schedule.num_steps(),
            "batch": self.schedule.batch(),
            "rows": self.corpus.len(),
            "is_sample": self.facts.is_sample,
            "total": self.total().json(),
            "stages": stages,
            "estimates": estimates,
            "warnings": self.warnings,
            "notes": self.notes,
        });
        if let Some(affinity) = &self.affinity {
            told["affinity"] = affinity.json();
        }
        told
    }

    /// Affinity of the tasks, if it was measured.
    pub fn affinity(&self) -> Option<&Affinity> {
        self.affinity.as_ref()
    }

    /// Everything that is shown as a table, in the order of its reading.
    fn tables(&self) -> Vec<Table> {
        let probe = self.probe.as_ref().map(|(table, _)| table.clone());
        self.share_tables()
            .into_iter()
            .chain([self.evenness_table()])
            .chain(probe)
            .collect()
    }

    fn evenness_table(&self) -> Table {
        evenness::table(&self.evenness)
    }

    fn share_tables(&self) -> Vec<Table> {
        let population = self.corpus.population();
        let mut tables = Vec::with_capacity(self.shares.len());
        for (i, shares) in self.shares.iter().enumerate() {
            let stage = self.stages[i].clone();
            tables.push(shares::table(population, shares, stage, self.sampled(i)));
        }
        tables
    }

    /// The part of a stage's steps that was looked at; empty where that is all of them.
    fn sampled(&self, stage: usize) -> String {
        let looked_at = self.facts.steps[stage].len();
        let steps = self.draws[stage].steps.len();
        if looked_at >= steps {
            return String::new();
        }
        format!(
            "audio and targets from a seeded sample of {} of its {} steps",
            count(looked_at as f64),
            count(steps as f64)
        )
    }

    fn total(&self) -> Amount {
        Amount::sum(self.shares.iter().map(|stage| &stage.total))
    }

    fn totals(&self) -> String {
        let total = self.total();
        let about = if self.facts.is_sample { "about " } else { "" };
        let tokens = match (total.target_tokens, total.tokens) {
            (Some(targets), Some(tokens)) => format!(
                "{about}{} target tokens of {} tokens",
                count(targets),
                count(tokens)
            ),
            _ => "target tokens not known".to_owned(),
        };
        format!(
            "in all {} examples, {about}{} of audio, {tokens}",
            count(total.examples),
            duration(total.seconds)
        )
    }
}

/// A label, and text in lines beside it.
fn labelled(label: &str, text: &str) -> String {
    format!(
        "{label}{}",
        wrapped(text, &" ".repeat(label.len())).trim_start()
    )
}

/// The note of a plan whose model is not here.
fn without_model(model: &ModelPlace<'_>) -> Option<String> {
    match model {
        ModelPlace::Here(_) => None,
        ModelPlace::Elsewhere(why, None) => {
            Some(format!("{why}: tokens, memory and time are not known"))
        }
        ModelPlace::Elsewhere(why, Some(_)) => Some(format!(
            "{why}: memory follows from the shape that its name says; tokens and time are not known"
        )),
    }
}

/// A note for each stage whose picks are not known.
fn unknown_notes(schedule: &Schedule, unknown: &[Option<String>]) -> Vec<String> {
    let note = |(stage, why): (&Stage, &Option<String>)| {
        let why = why.as_ref()?;
        let (what, known) = match stage.difficulty {
            Some(_) => ("the order of rows", "shares are"),
            None if stage.diverse.is_none() => (
                "which rows are drawn",
                "what is shown is the stage without that",
            ),
            None => (
                "which rows of a block share a batch",
                "shares, coverage and repeats are",
            ),
        };
        Some(format!(
            "stage `{}`: {what} is not known: {why}; {known}",
            stage.name
        ))
    };
    schedule
        .stages()
        .iter()
        .zip(unknown)
        .filter_map(note)
        .collect()
}

/// Why the picks of each stage cannot be known; `None` where they can.
fn unknown(
    recipe: &Recipe,
    corpus: &Corpus,
    schedule: &Schedule,
    model: &ModelPlace<'_>,
) -> Vec<Option<String>> {
    let of_stage = |stage: usize| match model {
        ModelPlace::Elsewhere(why, _) => draws::unknown_after_msft(schedule.stages(), stage)
            .or_else(|| uds::unknown(&schedule.stages()[stage]))
            .or_else(|| schedule.needs_model(stage).then(|| why.clone())),
        ModelPlace::Here(_) => draws::unknown_until_trained(recipe, corpus, schedule, stage),
    };
    (0..schedule.stages().len()).map(of_stage).collect()
}

fn without_affinity() -> Error {
    Error::input("--affinity computes gradients, and the model is not on this machine")
        .hint("name a folder under `model`, or download the model with `maqam train`")
}

/// Opens the model as the run starts, and measures the affinity of the recipe's tasks.
fn affinity_of(
    recipe: &Recipe,
    corpus: &Corpus,
    schedule: &Schedule,
    (opened, dir, device): (&Opened, &Path, &dyn Fn() -> Result<Device>),
    settings: AffinitySettings,
    watch: Watch<'_>,
) -> Result<Affinity> {
    let (_, model) = recipe.open_model(dir, opened.config.clone(), schedule, &device()?)?;
    let of_model = (&model, &opened.loader);
    affinity::measure(recipe, corpus, schedule, of_model, settings, watch)
}

/// Gives every stage whose picks can be known what it compares, or orders by: embeddings and losses
/// of the model as the run starts.
fn embed(
    recipe: &Recipe,
    corpus: &Corpus,
    schedule: &mut Schedule,
    (opened, dir, device): (&Opened, &Path, &dyn Fn() -> Result<Device>),
    unknown: &[Option<String>],
    watch: Watch<'_>,
) -> Result<Option<Arc<Embeddings>>> {
    let stages: Vec<usize> = (0..unknown.len())
        .filter(|&stage| schedule.embeddings_of(stage).is_some() && unknown[stage].is_none())
        .collect();
    let by_loss: Vec<usize> = difficulty::stages_by_loss(schedule)
        .into_iter()
        .filter(|&stage| unknown[stage].is_none())
        .collect();
    if stages.is_empty() && by_loss.is_empty() {
        return Ok(None);
    }
    let (_, mut model): (_, AudioLlm) =
        recipe.open_model(dir, opened.config.clone(), schedule, &device()?)?;
    let seed = recipe.order_seed();
    let mut compared = None;
    if !by_loss.is_empty() {
        let mut embedder = Embedder {
            model: &mut model,
            loader: &opened.loader,
            corpus,
            cache: recipe.embeddings.cache.as_path(),
            on_bad_row: recipe.on_bad_row,
            seed,
        };
        let mut progress = |done, total| watch("losses of the base", done, total);
        let losses = difficulty::base_losses(&mut embedder, schedule, &by_loss, &mut progress)?;
        difficulty::give(schedule, &by_loss, &losses)?;
    }
    // A snapshot holds the rows of the stages that share it: centring is over those, as it is in
    // training.
    for together in shared(schedule, &stages) {
        let cache = recipe.embeddings.cache.as_path();
        let embedder = Embedder {
            model: &mut model,
            loader: &opened.loader,
            corpus,
            cache,
            on_bad_row: recipe.on_bad_row,
            seed,
        };
        let vectors = embeddings::of_stages(embedder, schedule, &together, &mut |done, total| {
            watch("embedding", done, total)
        })?;
        let found = embeddings::give(schedule, &together, vectors, seed)?;
        compared = compared.or(Some(found));
    }
    Ok(compared)
}

/// Stages by the snapshot they will share: all of the model as the run starts, and each that looks
/// at the model as it stands.
fn shared(schedule: &Schedule, stages: &[usize]) -> Vec<Vec<usize>> {
    let (base, current): (Vec<usize>, Vec<usize>) = stages
        .iter()
        .partition(|&&stage| schedule.embeddings_of(stage) == Some(EmbeddingSource::Base));
    std::iter::once(base)
        .filter(|base| !base.is_empty())
        .chain(current.into_iter().map(|stage| vec![stage]))
        .collect()
}

fn size_of_embeddings(embeddings: &Embeddings) -> f64 {
    crate::models::cost::F32
        * (embeddings.audio().values.len() + embeddings.text().values.len()) as f64
}

/// A stage in a line: where it stands and how it draws. `rounds` is the number of steps between the
/// evaluations of mSFT.
fn describe(recipe: &Recipe, stage: &Stage, index: usize, rounds: Option<u64>) -> String {
    let written = recipe
        .schedule
        .stages
        .get(index)
        .filter(|_| !recipe.schedule.shuffle);
    let mut words = vec![
        match (stage.diverse, written.and_then(|written| written.mix)) {
            (Some(diverse), _) => format!("diverse in blocks of {}", diverse.block),
            (None, Some(mix)) => format!("{}, mix {}", stage.draw.name(), mix.name()),
            (None, None) if stage.draw == Draw::Shuffled && !recipe.schedule.shuffle => {
                "shuffled, mix proportional".to_owned()
            }
            (None, None) => stage.draw.name().to_owned(),
        },
    ];
    if let Some(most) = written.and_then(|written| written.max_repeats) {
        words.push(format!("at most {most} draws a row"));
    }
    words.extend(
        stage
            .uds
            .map(|uds| format!("{} candidates for each slot", uds.candidates)),
    );
    if let Some(difficulty) = &stage.difficulty {
        let by = String::from(difficulty.by.clone());
        words.push(match difficulty.order {
            DifficultyOrder::Competence => format!(
                "by competence over {by}, from {:.2} to {:.2}",
                difficulty.competence(0, stage.planned_steps),
                difficulty.competence(stage.planned_steps - 1, stage.planned_steps)
            ),
            order => format!("{} by {by}", order.name()),
        });
    }
    words.extend(rounds.map(|interval| {
        format!(
            "ends by mSFT: rounds of {} steps at first, tasks scored every {}",
            count((interval * EVALUATIONS) as f64),
            count(interval as f64)
        )
    }));
    if !stage.replayed.is_empty() {
        words.push(format!("replaying {}", stage.replayed.join(", ")));
    }
    format!(
        "stage {}: steps {} to {}: {}",
        stage.name,
        stage.start + 1,
        stage.start + stage.steps,
        words.join("; ")
    )
}
