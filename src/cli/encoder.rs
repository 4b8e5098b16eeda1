//! `maqam encoder`: speech encoders, trained from scratch or distilled.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use serde_json::Value;

use crate::cli::print;
use crate::cli::progress::Progress;
use crate::encoder::probe;
use crate::encoder::probe::Measured;
use crate::encoder::recipe;
use crate::encoder::recipe::Recipe;
use crate::encoder::run;
use crate::encoder::run::Observer;
use crate::encoder::run::Record;
use crate::error::Result;
use crate::records::log::StepRecord;
use crate::stop::Stop;

#[derive(Subcommand)]
pub enum Command {
    /// Train an encoder from nothing: masked prediction of cluster ids of MFCC, then of its own features.
    #[command(after_help = "Example:
  maqam encoder pretrain encoders/sample-teacher.yaml")]
    Pretrain(Arguments),
    /// Train a smaller encoder to predict cluster ids of a teacher's features.
    #[command(after_help = "Example:
  maqam encoder distill encoders/sample-student.yaml")]
    Distill(Arguments),
    /// Train a head, CTC or a classifier, on a frozen encoder or on MFCC.
    #[command(after_help = "Example:
  maqam encoder probe mine.yaml")]
    Probe(Arguments),
    /// Train a head together with the encoder.
    #[command(after_help = "Example:
  maqam encoder finetune mine.yaml")]
    Finetune(Arguments),
}

#[derive(Args)]
pub struct Arguments {
    /// Recipe, YAML.
    recipe: PathBuf,
    /// Go on from the run's last checkpoint, from the beginning if there is none.
    #[arg(long)]
    resume: bool,
    /// Change a value of the recipe; lists count from 0.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub fn run(command: &Command, stop: &Stop) -> Result<()> {
    match command {
        Command::Pretrain(arguments) => train(arguments, recipe::Command::Pretrain, stop),
        Command::Distill(arguments) => train(arguments, recipe::Command::Distill, stop),
        Command::Probe(arguments) => head(arguments, true, stop),
        Command::Finetune(arguments) => head(arguments, false, stop),
    }
}

fn train(arguments: &Arguments, command: recipe::Command, stop: &Stop) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set, command)?;
    let num_steps = recipe.steps_before(recipe.iterations.len());
    let mut screen = Screen {
        progress: Progress::new("training", 0, num_steps),
        part: None,
        stage: String::new(),
    };
    let outcome = run::run(&recipe, arguments.resume, &mut screen, stop);
    screen.progress.finish();
    let folder = outcome?;
    for report in run::reports(&recipe)? {
        print::message(format_args!("codebook: {}", in_words(&report)));
    }
    print::message(format_args!("done: the encoder is in {}", folder.display()));
    Ok(())
}

fn head(arguments: &Arguments, is_probe: bool, stop: &Stop) -> Result<()> {
    let recipe = probe::Recipe::load(&arguments.recipe, &arguments.set, is_probe)?;
    let mut screen = HeadScreen(Progress::new("training", 0, recipe.steps));
    let outcome = probe::run(&recipe, arguments.resume, &mut screen, stop);
    screen.0.finish();
    for score in outcome? {
        print::line(in_words_of_score(&score))?;
    }
    Ok(())
}

/// A score with its interval.
fn in_words_of_score(score: &Measured) -> String {
    let interval = score.interval.map_or(String::new(), |[low, high]| {
        format!(" [{low:.4}, {high:.4}] over {} clusters", score.clusters)
    });
    format!("dev.{} {:.4}{interval}", score.name, score.value)
}

/// What a head's training shows on the terminal.
struct HeadScreen(Progress);

impl probe::Observer for HeadScreen {
    fn step(&mut self, record: &StepRecord, _num_steps: u64) {
        let detail = format!("loss {:.4}  rate {:.2e}", record.loss, record.learning_rate);
        self.0.update(record.step, &detail);
    }

    fn evaluated(&mut self, at_step: u64, scores: &[Measured]) {
        let listed: Vec<String> = scores.iter().map(in_words_of_score).collect();
        self.0
            .line(&format!("step {at_step}: {}", listed.join("  ")));
    }
}

/// A codebook's report in one line.
fn in_words(report: &Value) -> String {
    let mut text = format!(
        "layer {}, {} of {} codes active, perplexity {:.1}",
        report["layer"],
        report["active"],
        report["clusters"],
        report["perplexity"].as_f64().unwrap_or_default()
    );
    if let Some(explained) = report["explained_variance"].as_f64() {
        text += &format!(
            ", {} of {} dimensions with {:.1} % of the variance",
            report["dims"],
            report["width"],
            100.0 * explained
        );
    }
    for (field, found) in report["against"].as_object().into_iter().flatten() {
        text += &format!(
            ", {field}: purity {:.3}, PNMI {:.3}",
            found["purity"].as_f64().unwrap_or_default(),
            found["pnmi"].as_f64().unwrap_or_default()
        );
    }
    text
}

/// What a run shows on the terminal.
struct Screen {
    progress: Progress,
    part: Option<(&'static str, Progress)>,
    stage: String,
}

impl Observer for Screen {
    fn preparing(&mut self, what: &'static str, done: usize, total: usize) -> Result<()> {
        if self.part.as_ref().is_none_or(|(of, _)| *of != what) {
            if let Some((_, part)) = self.part.take() {
                part.clear();
            }
            self.part = Some((what, self.progress.part(what, total as u64)));
        }
        if let Some((_, part)) = &mut self.part {
            part.update(done as u64, "");
        }
        Ok(())
    }

    fn step(&mut self, record: &Record, _num_steps: u64) {
        if let Some((_, part)) = self.part.take() {
            part.clear();
        }
        if record.step.stage != self.stage {
            self.stage.clone_from(&record.step.stage);
            self.progress.line(&self.stage);
        }
        let accuracy = record.masked_accuracy.or(record.unmasked_accuracy);
        let accuracy = accuracy.map_or(String::new(), |share| {
            format!("  right {:.1} %", 100.0 * share)
        });
        self.progress.update(
            record.step.step,
            &format!(
                "loss {:.4}{accuracy}  rate {:.2e}",
                record.step.loss, record.step.learning_rate
            ),
        );
    }

    fn evaluated(&mut self, at_step: u64, scores: &BTreeMap<String, f64>) {
        let listed: Vec<String> = scores
            .iter()
            .filter(|(name, _)| !name.contains("rank"))
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect();
        self.progress
            .line(&format!("step {at_step}: {}", listed.join("  ")));
    }
}
