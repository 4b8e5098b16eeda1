//! `maqam metrics`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::print;
use crate::error::Result;
use crate::eval::scoring::Scoring;
use crate::eval::scoring::Settings;
use crate::eval::scoring::labels;
use crate::files;
use crate::metrics::Normaliser;
use crate::metrics::bleu::Tokeniser;
use crate::metrics::rouge::Fold;
use crate::task::Parse;
use crate::task::Tasks;

#[derive(Args)]
pub struct Arguments {
    /// Task of the answers.
    #[arg(long)]
    task: String,
    /// Predictions, JSON lines: id, prediction, and reference or references.
    #[arg(long)]
    predictions: PathBuf,
    /// References of the same ids, JSON lines: id, and reference, references or a manifest's text,
    /// summary or label.
    #[arg(long)]
    references: Option<PathBuf>,
    /// Another system's predictions of the same rows, JSON lines. The difference is tested: paired
    /// bootstrap, approximate randomisation, and for transcripts the matched-pair sentence-segment
    /// word error test.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Text normalisation before comparison: none, arabic-leaderboard, arabic-dialect,
    /// english-basic; may be repeated, for columns side by side.
    #[arg(long)]
    normaliser: Vec<Normaliser>,
    /// Labels that answers are read by: a task's name or file, or a file with one label per line.
    /// Without it labels are compared as they are.
    #[arg(long, value_name = "FILE|TASK")]
    labels: Option<String>,
    /// How labels are read from answers.
    #[arg(long, value_enum, default_value_t = ParseName::Lenient)]
    parse: ParseName,
    /// Folder of task files that add to or replace the built-in ones.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Remove diacritics and tatweel before ROUGE.
    #[arg(long)]
    rouge_fold_diacritics: bool,
    /// Tokeniser of BLEU: none, 13a, intl, char.
    #[arg(long, default_value_t)]
    bleu_tokeniser: Tokeniser,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Write the alignment of each row to this file, as JSON lines if its name ends in .jsonl.
    #[arg(long)]
    alignments: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ParseName {
    /// The label and nothing else.
    Strict,
    /// A label in a sentence, as long as no other is.
    Lenient,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let tasks = Tasks::load(arguments.prompts.as_deref())?;
    let task = tasks.get(&arguments.task).map_err(|e| e.at("--task"))?;
    let inventory = arguments
        .labels
        .as_deref()
        .map(|written| labels::inventory(written, task, &tasks))
        .transpose()?;
    if let Some(path) = &arguments.alignments {
        files::expect_writable(path)?;
    }
    let settings = arguments.settings();

    let scoring = Scoring::new(&arguments.predictions, task, inventory.as_ref(), &settings)?;
    if let Some(path) = &arguments.alignments {
        scoring.write_alignments(path)?;
    }
    let versus = arguments
        .against
        .as_deref()
        .map(|path| scoring.against(path))
        .transpose()?;
    match arguments.json {
        true => print::line(scoring.json(versus.as_ref())?),
        false => print::result(scoring.text(versus.as_ref())),
    }
}

impl Arguments {
    fn settings(&self) -> Settings {
        Settings {
            references: self.references.clone(),
            normalisers: match self.normaliser.is_empty() {
                true => vec![Normaliser::None],
                false => self.normaliser.clone(),
            },
            parse: match self.parse {
                ParseName::Strict => Parse::Strict,
                ParseName::Lenient => Parse::Lenient,
            },
            fold: match self.rouge_fold_diacritics {
                true => Fold::Diacritics,
                false => Fold::None,
            },
            tokeniser: self.bleu_tokeniser,
            has_all: self.json,
        }
    }
}
