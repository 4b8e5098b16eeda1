//! A suite as people write it: the keys of its YAML.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::eval::baseline::Baseline;
use crate::eval::control::Control;
use crate::eval::slices::ClusterBy;
use crate::metrics::Normaliser;
use crate::models::generate::Sampling;
use crate::task::AskedIn;
use crate::task::Parse;
use crate::task::Wording;

/// What a suite is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looked at while developing: training may evaluate on it.
    Dev,
    /// Looked at once: training refuses it.
    Test,
}

/// A suite file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteFile {
    /// What it is for.
    pub role: Role,
    /// What is judged.
    pub sets: Vec<SetFile>,
    /// How answers are generated.
    #[serde(default)]
    pub generation: Sampling,
    /// Other ways to ask, for comparison: `no-audio`, `shuffled-audio`. In a training they are asked once, after the last step.
    #[serde(default)]
    pub controls: Vec<Control>,
    /// What needs no model, for comparison: `majority`, `lead`, `transcript`, each over the sets it fits. Training leaves them out.
    #[serde(default)]
    pub baselines: Vec<Baseline>,
}

/// One set of a suite file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFile {
    /// Its name in the scores, `<name>.<metric>`, and of its file of predictions.
    pub name: String,
    /// Its rows.
    pub manifest: PathBuf,
    /// The task the model is asked; where it is missing the rows say it.
    #[serde(default)]
    pub task: Option<String>,
    /// Which of the task's instructions are used; by default those of the suite's role.
    #[serde(default)]
    pub wording: Option<Wording>,
    /// The system message, in place of the task's; empty for the chat template's own. Rows with `messages` keep theirs.
    #[serde(default)]
    pub system: Option<String>,
    /// The language of the task's instructions: `row` (each row's own), `both`, or a language such as `ar`.
    #[serde(default, skip_serializing_if = "AskedIn::is_row")]
    pub instructions: AskedIn,
    /// What is computed; by default everything the task has, and its loss.
    #[serde(default)]
    pub metrics: Option<Vec<String>>,
    /// What is taken out of texts before they are compared. The first stands for the set in `mean`; the scores of all but `none` are
    /// named `<metric>@<normaliser>`.
    #[serde(default = "no_normaliser")]
    pub normaliser: Vec<Normaliser>,
    /// What ROUGE takes out of texts beside that: `none`, or `diacritics` with tatweel.
    #[serde(default)]
    pub rouge_fold: RougeFold,
    /// How BLEU cuts texts, by sacreBLEU's names: `none`, `13a`, `intl`, `char`.
    #[serde(default = "default_tokeniser")]
    pub bleu_tokeniser: String,
    /// How answers become labels. The first stands for the set in `mean`; strict scores are named `<metric>@strict`.
    #[serde(default = "lenient")]
    pub parse: Vec<Parse>,
    /// Whether labels are also chosen by the likelihood of their answers, which tells recognition from form: `likelihood_accuracy`,
    /// `likelihood_macro_f1`, `likelihood_weighted_f1`, `likelihood_uar`.
    #[serde(default)]
    pub likelihood: bool,
    /// What the scores are shown apart by: `speaker`, `group`, `language`, `wording`, `length`, `label`, or a field of the rows (`dialect`,
    /// `gender` ...).
    #[serde(default)]
    pub slices: Vec<String>,
    /// What is resampled as one for intervals and tests: `speaker`, `group`, or `none` for each row its own. By default the first that
    /// every row has.
    #[serde(default)]
    pub cluster: Option<ClusterBy>,
    /// The manifest whose commonest label is the `majority` baseline; by default the set's own, which flatters the baseline.
    #[serde(default)]
    pub majority_from: Option<PathBuf>,
    /// A manifest with the `text` of rows that have none of their own, by id; for the baselines `lead` and `transcript`.
    #[serde(default)]
    pub text_from: Option<PathBuf>,
    /// Where relative audio paths start; by default the manifest's folder.
    #[serde(default)]
    pub audio_root: Option<PathBuf>,
    /// Number of rows from the top that are used; by default all.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// What ROUGE takes out of texts before it compares them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RougeFold {
    /// Nothing but case.
    #[default]
    None,
    /// Combining marks and tatweel.
    Diacritics,
}

fn no_normaliser() -> Vec<Normaliser> {
    vec![Normaliser::None]
}

fn default_tokeniser() -> String {
    "13a".to_owned()
}

fn lenient() -> Vec<Parse> {
    vec![Parse::Lenient]
}
