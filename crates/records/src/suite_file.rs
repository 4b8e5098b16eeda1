//! A suite file as people write it: the keys of its YAML.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::yaml;
use maqam_data::Columns;
use maqam_data::Format;
use maqam_data::OnBadRow;
use maqam_data::Source;
use maqam_data::leakage::Evaluated;
use maqam_data::task::AskedIn;
use maqam_data::task::ForcedLanguage;
use maqam_data::task::Parse;
use maqam_data::task::Wording;
use maqam_metrics::Normaliser;
use maqam_metrics::rouge::Fold;

/// What a suite is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looked at while developing: training may evaluate on it.
    Dev,
    /// Looked at once: training refuses it.
    Test,
}

impl Role {
    /// The name in suites.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
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
    pub generation: Generation,
    /// Other ways to ask, for comparison: `no-audio`, `shuffled-audio`. In a training they are
    /// asked once, after the last step.
    #[serde(default)]
    pub controls: Vec<Control>,
    /// What needs no model, for comparison: `majority`, `lead`, `transcript`, each over the sets it
    /// fits. Training leaves them out.
    #[serde(default)]
    pub baselines: Vec<Baseline>,
}

impl SuiteFile {
    /// Reads a suite file.
    ///
    /// # Errors
    /// A file that cannot be read or is no suite, with file and line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path).map_err(|e| {
            e.or_hint("name the YAML file of a suite; `maqam new suite FILE` writes one, and relative paths start from the folder the command runs in")
        })?;
        yaml::parse(&text, path)
    }

    /// The rows of its sets. Those that cannot be used are left out: whoever evaluates on them says
    /// so.
    ///
    /// # Errors
    /// A manifest that cannot be read.
    pub fn rows(&self) -> Result<Vec<Evaluated>> {
        let mut found = Vec::new();
        for set in &self.sets {
            let rows = set.source().read(OnBadRow::Skip)?.rows.into_iter();
            let rows = rows.take(set.limit.unwrap_or(usize::MAX));
            found.extend(rows.map(|row| Evaluated {
                name: format!(
                    "set `{}`, {} (`{}`),",
                    set.name,
                    row.place(&set.manifest),
                    row.id
                ),
                row,
            }));
        }
        Ok(found)
    }
}

/// Rows of several suites, for a comparison with those of a training.
///
/// # Errors
/// Suites and manifests that cannot be read.
pub fn rows_of(suites: &[PathBuf]) -> Result<Vec<Evaluated>> {
    let mut found = Vec::new();
    for suite in suites {
        found.extend(SuiteFile::read(suite)?.rows()?);
    }
    Ok(found)
}

/// One set of a suite file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFile {
    /// Its name in the scores, `<name>.<metric>`, and of its file of predictions.
    pub name: String,
    /// Its rows: a file of any format that is read, a folder, a pattern, or a list of shards.
    #[serde(deserialize_with = "maqam_data::path_or_list")]
    pub manifest: PathBuf,
    /// The task the model is asked; where it is missing the rows say it.
    #[serde(default)]
    pub task: Option<String>,
    /// Which of the task's instructions are used; by default those of the suite's role.
    #[serde(default)]
    pub wording: Option<Wording>,
    /// The system message, in place of the task's; empty for the chat template's own. Rows with
    /// `messages` keep theirs.
    #[serde(default)]
    pub system: Option<String>,
    /// The language of the task's instructions: `row` (each row's own), `both`, or a language such
    /// as `ar`.
    #[serde(default, skip_serializing_if = "AskedIn::is_row")]
    pub instructions: AskedIn,
    /// What is computed; by default everything the task has, and its loss.
    #[serde(default)]
    pub metrics: Option<Vec<String>>,
    /// What is taken out of texts before they are compared. The first stands for the set in `mean`;
    /// the scores of all but `none` are named `<metric>@<normaliser>`.
    #[serde(default = "no_normaliser")]
    pub normaliser: Vec<Normaliser>,
    /// What ROUGE takes out of texts beside that: `none`, or `diacritics` with tatweel.
    #[serde(default)]
    pub rouge_fold: RougeFold,
    /// How BLEU cuts texts, by sacreBLEU's names: `none`, `13a`, `intl`, `char`.
    #[serde(default = "default_tokeniser")]
    pub bleu_tokeniser: String,
    /// How answers become labels. The first stands for the set in `mean`; strict scores are named
    /// `<metric>@strict`.
    #[serde(default = "lenient")]
    pub parse: Vec<Parse>,
    /// Whether labels are also chosen by the likelihood of their answers, which tells recognition
    /// from form: `likelihood_accuracy`, `likelihood_macro_f1`, `likelihood_weighted_f1`,
    /// `likelihood_uar`.
    #[serde(default)]
    pub likelihood: bool,
    /// What the scores are shown apart by: `speaker`, `group`, `language`, `wording`, `length`,
    /// `label`, or a field of the rows (`dialect`, `gender` ...).
    #[serde(default)]
    pub slices: Vec<String>,
    /// What is resampled as one for intervals and tests: `speaker`, `group`, or `none` for each row
    /// its own. By default the first that every row has.
    #[serde(default)]
    pub cluster: Option<ClusterBy>,
    /// The manifest whose commonest label is the `majority` baseline; by default the set's own,
    /// which flatters the baseline.
    #[serde(default)]
    pub majority_from: Option<PathBuf>,
    /// A manifest with the `text` of rows that have none of their own, by id; for the baselines
    /// `lead` and `transcript`.
    #[serde(default)]
    pub text_from: Option<PathBuf>,
    /// Where relative audio paths start; by default the manifest's folder.
    #[serde(default)]
    pub audio_root: Option<PathBuf>,
    /// The format; by default the files tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The file's own names for fields of its rows: `{text: sentence}`.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
    /// Number of rows from the top that are used; by default all.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// `generation:` of a suite: how the next token is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generation {
    /// `greedy` takes the likeliest token, `sample` draws one.
    pub strategy: Strategy,
    /// Divides the logits before drawing.
    pub temperature: f64,
    /// Draws among the likeliest `top_k` tokens; 0 for all.
    pub top_k: usize,
    /// Draws among the likeliest tokens that together have at least this probability.
    pub top_p: f64,
    /// Divides positive and multiplies negative logits of tokens seen before (Keskar et al. 2019).
    pub repetition_penalty: f64,
    /// The language that each answer of Qwen3-ASR begins with; by default the model finds it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<ForcedLanguage>,
}

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The likeliest.
    Greedy,
    /// Drawn.
    Sample,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            strategy: Strategy::Greedy,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            language: None,
        }
    }
}

/// A way to ask a suite's questions that a model which listens must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// The instruction alone.
    NoAudio,
    /// Every row hears the clips of another row of its set: the rows' seeded order, each taking
    /// those of the next.
    ShuffledAudio,
}

impl Control {
    /// Its name in files, logs and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAudio => "no-audio",
            Self::ShuffledAudio => "shuffled-audio",
        }
    }
}

/// A way to answer without a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// The commonest label for every row: of the manifest `majority_from`, or else of the set
    /// itself.
    Majority,
    /// The first sentence of what was said, as its summary.
    Lead,
    /// All that was said, as its summary.
    Transcript,
}

impl Baseline {
    /// Its name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::Lead => "lead",
            Self::Transcript => "transcript",
        }
    }

    /// What it fits, for messages.
    pub fn fits(self) -> &'static str {
        match self {
            Self::Majority => "sets of labels",
            Self::Lead | Self::Transcript => {
                "sets of summaries whose rows have a `text` of their own or in the set's `text_from`"
            }
        }
    }
}

/// What is resampled as one, because it errs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterBy {
    /// All rows of a speaker.
    Speaker,
    /// All rows of a programme or document.
    Group,
    /// Nothing: each row stands for itself.
    None,
}

impl ClusterBy {
    /// The rule for rows that nobody says more of: speakers where every row names one, else groups,
    /// else each row by itself. `has` says whether a row names its speaker or its group.
    pub fn of<R>(rows: &[R], has: impl Fn(&R, Self) -> bool) -> Self {
        let mut named = [Self::Speaker, Self::Group].into_iter();
        named
            .find(|&by| rows.iter().all(|row| has(row, by)))
            .unwrap_or(Self::None)
    }

    /// The name in suites and scores.
    pub fn name(self) -> &'static str {
        match self {
            Self::Speaker => "speaker",
            Self::Group => "group",
            Self::None => "none",
        }
    }
}

impl SetFile {
    /// The manifest with all that is said of it.
    pub fn source(&self) -> Source {
        Source {
            path: self.manifest.clone(),
            audio_root: self.audio_root.clone(),
            format: self.format,
            columns: self.columns.clone(),
        }
    }
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

impl From<RougeFold> for Fold {
    fn from(fold: RougeFold) -> Self {
        match fold {
            RougeFold::None => Self::None,
            RougeFold::Diacritics => Self::Diacritics,
        }
    }
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
