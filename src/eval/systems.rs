//! Systems of an evaluation: the base and what was trained of it, their names, their questions,
//! their weights when they are needed.

use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;

use blake3::Hash;
use candle_core::Device;

use crate::error::Error;
use crate::error::Result;
use crate::eval::answers::Asker;
use crate::eval::content;
use crate::eval::content::Contents;
use crate::eval::interview::Interview;
use crate::eval::suite::Suite;
use crate::featurise::Loader;
use crate::files;
use crate::machine;
use crate::models::AudioLlm;
use crate::models::config::Config;
use crate::models::trained::Trained;
use crate::nn::lora::Plan;
use crate::nn::precision::Computes;
use crate::records::answers::Store;
use crate::records::suite_file::Control;

/// The name of the untuned model.
pub const BASE: &str = "base";
/// Seed of drawn answers.
const SEED: u64 = 0;

/// The systems of an evaluation: one checkpoint, alone and with what was trained of it.
pub struct Systems {
    dir: PathBuf,
    config: Config,
    device: Device,
    computes: Computes,
    /// Tokenizer and clips, the same for all.
    pub loader: Loader,
    trained: Vec<(String, Option<PathBuf>)>,
}

/// One system and its questions: of the suite, then of each control.
pub struct Respondent<'a> {
    /// Its name.
    pub name: String,
    /// What was trained.
    pub adapter: Option<PathBuf>,
    /// Hash of all it computes with.
    pub model: Hash,
    /// With the control that asks them.
    pub interviews: Vec<(Option<Control>, &'a Suite, Interview<'a>)>,
    /// Its answers.
    pub store: Store,
    open: HashSet<Hash>,
}

impl Systems {
    /// The base, unless it is left out, and then the adapters as they were written: `DIR` or
    /// `NAME=DIR`.
    ///
    /// # Errors
    /// A folder that is no checkpoint; adapters of one name.
    pub fn new(
        dir: PathBuf,
        adapters: &[String],
        without_base: bool,
        (device, computes): (Device, Computes),
    ) -> Result<Self> {
        let mut trained: Vec<(String, Option<PathBuf>)> = if without_base {
            Vec::new()
        } else {
            vec![(BASE.to_owned(), None)]
        };
        for written in adapters {
            let (name, folder) = named(written)?;
            if !folder.is_dir() {
                return Err(Error::input("no such folder")
                    .at_path(&folder)
                    .hint("`--adapter` takes a PEFT folder or a checkpoint of a run"));
            }
            if trained.iter().any(|(other, _)| *other == name) || name == BASE {
                return Err(Error::input(format!("two systems are named `{name}`"))
                    .at("--adapter")
                    .hint("name one with --adapter NAME=DIR"));
            }
            trained.push((name, Some(folder)));
        }
        let config = common_config(&dir, &trained)?;
        let loader = Loader::new(&dir, &config, None)?;
        Ok(Self {
            dir,
            config,
            device,
            computes,
            loader,
            trained,
        })
    }

    /// The folders of what was trained, with the names of the systems.
    pub fn adapters(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.trained
            .iter()
            .filter_map(|(name, folder)| Some((name.as_str(), folder.as_deref()?)))
    }

    /// Refuses a model that does not fit the memory of the machine.
    pub fn check_memory(&self) -> Result<()> {
        let plan = Plan::default();
        machine::fit::check_answering(&self.config, &plan, self.computes.precision, &self.device)
    }

    /// Refuses names that a baseline or a control has.
    pub fn check_names(&self, suite: &Suite) -> Result<()> {
        let taken: Vec<&str> = suite
            .baselines
            .iter()
            .map(|baseline| baseline.name())
            .chain(suite.controls.iter().map(|control| control.name()))
            .collect();
        match self
            .trained
            .iter()
            .find(|(name, _)| taken.contains(&name.as_str()))
        {
            Some((name, _)) => Err(Error::input(format!(
                "the suite has a baseline or control named `{name}`"
            ))
            .at("--adapter")
            .hint("use --adapter NAME=DIR")),
            None => Ok(()),
        }
    }

    /// The questions of some suites to every system, and what it answered before.
    pub fn interviews<'a>(
        &self,
        suites: &'a [(Option<Control>, Suite)],
        answers: &Path,
    ) -> Result<Vec<Respondent<'a>>> {
        let contents = Contents::open(answers)?;
        // Where it is computed may change the last bits of a logit, and rounded weights far more.
        let computes = self.computes.to_string();

        let mut respondents = Vec::with_capacity(self.trained.len());
        for (name, adapter) in &self.trained {
            let model = contents.model(&self.dir, adapter.as_deref(), &computes)?;
            let store = Store::open(answers, model)?;

            let mut interviews = Vec::with_capacity(suites.len());
            for (control, suite) in suites {
                let asked = content::Asked {
                    model,
                    loader: &self.loader,
                    sampling: &suite.generation,
                    seed: SEED,
                };
                let interview = Interview::new(suite, &asked, &contents)?;
                interviews.push((*control, suite, interview));
            }

            let open = interviews
                .iter()
                .flat_map(|(_, _, interview)| interview.open(&store))
                .collect();
            respondents.push(Respondent {
                name: name.clone(),
                adapter: adapter.clone(),
                model,
                interviews,
                store,
                open,
            });
        }
        Ok(respondents)
    }

    /// Refuses adapters and trained parts whose names or shapes do not fit the base, before the
    /// first question.
    ///
    /// # Errors
    /// As [`Trained::check`].
    pub fn check_adapters(&self, respondents: &[Respondent]) -> Result<()> {
        let open = respondents.iter().filter(|one| one.num_open() > 0);
        open.filter_map(|one| one.adapter.as_deref())
            .try_for_each(|folder| {
                let config = Config::load_with(&self.dir, Some(folder))?;
                Trained::check(folder, &config).map(drop)
            })
    }

    /// The weights of a system; `note` is given what its adapter's folder says.
    ///
    /// # Errors
    /// An adapter that does not fit the base.
    pub fn open(&self, respondent: &Respondent, note: &mut dyn FnMut(&str)) -> Result<AudioLlm> {
        let config = Config::load_with(&self.dir, respondent.adapter.as_deref())?;
        let trained = Trained::of(respondent.adapter.as_deref(), &config)?;
        trained.notes().iter().for_each(|text| note(text));
        let mut model = trained.open(
            &self.dir,
            &config,
            &self.device,
            Some(self.computes.precision),
        )?;
        machine::fit::prepare_to_generate(&mut model)?;
        Ok(model)
    }
}

impl Respondent<'_> {
    /// Whether these are all sets of what it is asked without a control.
    pub fn asks_all(&self, suite: &Suite) -> bool {
        self.interviews
            .first()
            .is_none_or(|(_, whole, _)| whole.sets.len() == suite.sets.len())
    }

    /// Number of questions.
    pub fn num_questions(&self) -> usize {
        self.interviews
            .iter()
            .map(|(_, _, interview)| interview.num_questions())
            .sum()
    }

    /// Number of questions to ask: those without an answer, each once.
    pub fn num_open(&self) -> usize {
        self.open.len()
    }

    /// Number of questions without an answer, however often the same one is asked.
    pub fn num_left(&self) -> usize {
        self.interviews
            .iter()
            .map(|(_, _, interview)| interview.num_left(&self.store))
            .sum()
    }

    /// Asks what is open; `stored` is called after each answer that was stored.
    pub fn ask(
        &mut self,
        systems: &Systems,
        model: &AudioLlm,
        stored: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        for (_, suite, interview) in &self.interviews {
            let asker = Asker {
                model,
                loader: &systems.loader,
                sampling: &suite.generation,
                seed: SEED,
            };
            interview.ask(&asker, &mut self.store, stored)?;
        }
        Ok(())
    }
}

/// Shape of the model with what each system has trained. They read clips with one loader.
///
/// # Errors
/// Systems with different audio encoders.
fn common_config(dir: &Path, systems: &[(String, Option<PathBuf>)]) -> Result<Config> {
    let mut common: Option<(&str, Config)> = None;
    for (name, folder) in systems {
        let config = Config::load_with(dir, folder.as_deref())?;
        let normalises = |config: &Config| {
            let speech = config.speech.as_deref();
            speech.map(|speech| speech.encoder.do_normalize)
        };
        match &common {
            Some((first, before))
                if before.framing() != config.framing()
                    || normalises(before) != normalises(&config) =>
            {
                return Err(Error::input(format!(
                    "`{first}` and `{name}` have different audio encoders"
                ))
                .at("--adapter")
                .hint("evaluate them one after the other; `--no-base` leaves the base out"));
            }
            Some(_) => {}
            None => common = Some((name.as_str(), config)),
        }
    }
    match common {
        Some((_, config)) => Ok(config),
        None => Config::load(dir),
    }
}

/// Returns the folder of an adapter as it was written: `DIR` or `NAME=DIR`.
pub fn folder_of(written: &str) -> PathBuf {
    split(written).1
}

/// The name and folder of an adapter as it was written.
fn named(written: &str) -> Result<(String, PathBuf)> {
    let (name, folder) = split(written);
    let name = name.unwrap_or_else(|| name_of(&folder));
    files::check_name(&name).map_err(|e| {
        e.at("--adapter")
            .hint("name the system with --adapter NAME=DIR")
    })?;
    Ok((name, folder))
}

fn split(written: &str) -> (Option<String>, PathBuf) {
    // A folder may have `=` in its name; what is there as it stands has no name in front.
    match written.split_once('=') {
        Some((name, folder)) if !Path::new(written).is_dir() => {
            (Some(name.to_owned()), PathBuf::from(folder))
        }
        _ => (None, PathBuf::from(written)),
    }
}

/// `tpc-ads` of `runs/tpc-ads/best`, `tpc-ads-step-000200` of its checkpoint, otherwise the
/// folder's own name.
fn name_of(folder: &Path) -> String {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mut parts = absolute
        .iter()
        .rev()
        .map(|part| part.to_string_lossy().into_owned());
    let last = parts.next().unwrap_or_default();
    match (last.as_str(), parts.next(), parts.next()) {
        ("best", Some(run), _) => run,
        (_, Some(between), Some(run)) if between == "checkpoints" => format!("{run}-{last}"),
        _ => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_named_after_their_runs() {
        let name = |folder: &str| name_of(Path::new(folder));
        assert_eq!(name("runs/tpc-ads/best"), "tpc-ads");
        assert_eq!(
            name("/a/runs/tpc-ads/checkpoints/step-000200/"),
            "tpc-ads-step-000200"
        );
        assert_eq!(name("adapters/mine"), "mine");
        assert_eq!(
            named("ours=runs/x/best").unwrap(),
            ("ours".to_owned(), PathBuf::from("runs/x/best"))
        );
        assert!(
            named("a/b=runs/x")
                .unwrap_err()
                .to_string()
                .contains("cannot name a folder")
        );
    }
}
