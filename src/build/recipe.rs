//! The recipe of a data set: the steps' settings in one YAML file.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::build::document::Step;
use crate::build::settings::clean;
use crate::build::settings::collect;
use crate::build::settings::listen;
use crate::build::settings::local::LanguageModel;
use crate::build::settings::publish;
use crate::build::settings::speak;
use crate::build::settings::split;
use crate::build::settings::summarise;
use crate::build::settings::verify;
use crate::build::settings::verify::Judge;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::recipe::overrides;
use crate::yaml;

/// A recipe as written, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the data set and of its folder.
    pub name: String,
    /// Sources.
    pub collect: collect::Settings,
    /// Cleaning.
    #[serde(default)]
    pub clean: clean::Settings,
    /// Summaries.
    #[serde(default)]
    pub summarise: summarise::Settings,
    /// Checks of summaries.
    #[serde(default)]
    pub verify: verify::Settings,
    /// Speech.
    #[serde(default)]
    pub speak: speak::Settings,
    /// Checks of speech.
    #[serde(default)]
    pub listen: listen::Settings,
    /// Sizes of the splits.
    #[serde(default)]
    pub split: split::Settings,
    /// Published files.
    #[serde(default)]
    pub publish: publish::Settings,
    /// Seed of splits, voices and samples.
    #[serde(default)]
    pub seed: u64,
}

impl Recipe {
    /// Reads a recipe; `changes` are values of `--set`.
    ///
    /// # Errors
    /// `path:line: fault`, with the nearest known key.
    pub fn load(path: &Path, changes: &[String]) -> Result<Self> {
        let text = files::read_text(path).map_err(|e| {
            e.or_hint("name the YAML file of a recipe; relative paths start from the folder the command runs in")
        })?;
        if changes.is_empty() {
            return yaml::parse(&text, path);
        }
        let mut tree: yaml_serde::Value = yaml::parse(&text, path)?;
        for change in changes {
            overrides::set(&mut tree, change)?;
        }
        yaml::from_value(tree, &path.display().to_string())
    }

    /// Checks what can be checked without the sources.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self) -> Result<()> {
        files::check_name(&self.name).map_err(|e| e.at("name"))?;
        let step = |name: &str, checked: Result<()>| checked.map_err(|e| e.at(name));
        step("collect", self.collect.check())?;
        step("clean", self.clean.check())?;
        step("summarise", self.summarise.check(&self.collect))?;
        step("verify", self.verify.check())?;
        step("speak", self.speak.check())?;
        step(
            "listen",
            self.listen.check(self.summarise.translate.is_some()),
        )?;
        step("split", self.split.check())?;
        step("publish", self.publish.check())
    }

    /// Writes the recipe with every default.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_resolved(&self, path: &Path) -> Result<()> {
        let text = yaml_serde::to_string(self).map_err(Error::bug_from)?;
        files::write_atomic(path, text.as_bytes())
    }

    /// Models that candle-transformers runs: the step that needs one, its key, and its name.
    pub fn local_models(&self) -> Vec<(Step, &'static str, &str)> {
        let summarise = &self.summarise;
        let judge = self.verify.judge.as_ref();
        let language_models = [
            (Step::Summarise, "summarise.model", summarise.writer()),
            (
                Step::Summarise,
                "summarise.translate.model",
                summarise.translator(),
            ),
            (
                Step::Verify,
                "verify.judge.model",
                judge.map(Judge::language_model).transpose(),
            ),
        ];
        let mut found = Vec::new();
        for (step, key, model) in language_models {
            if let Ok(Some(LanguageModel::Local(name))) = model {
                found.push((step, key, name));
            }
        }
        found.extend(
            self.listen
                .whisper()
                .map(|name| (Step::Listen, "listen.model", name)),
        );
        found
    }

    /// Environment variables with keys of endpoints.
    pub fn key_variables(&self) -> Vec<&str> {
        let translate = self.summarise.translate.as_ref();
        let judge = self.verify.judge.as_ref();
        [
            self.summarise.endpoint.as_ref(),
            translate.and_then(|translate| translate.endpoint.as_ref()),
            judge.and_then(|judge| judge.endpoint.as_ref()),
            self.speak.endpoint.as_ref(),
            self.listen.endpoint.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(|endpoint| endpoint.key_variable.as_str())
        .collect()
    }

    /// The language of the published rows.
    pub fn language(&self) -> &str {
        match &self.summarise.translate {
            Some(translate) => &translate.to,
            None => &self.collect.language,
        }
    }
}
