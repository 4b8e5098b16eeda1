//! An encoder's training on the terminal.

use std::collections::BTreeMap;

use crate::cli::encoder::arguments::RecipeArguments;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::encoder::recipe;
use crate::encoder::recipe::Recipe;
use crate::encoder::run;
use crate::encoder::run::Observer;
use crate::error::Result;
use crate::records::codebook::CodebookReport;
use crate::records::log::StepRecord;
use crate::stop::Stop;

/// Trains an encoder by a recipe of this command.
pub fn train(arguments: &RecipeArguments, command: recipe::Command, stop: &Stop) -> Result<()> {
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

/// A codebook's report in one line.
fn in_words(report: &CodebookReport) -> String {
    let mut text = format!(
        "layer {}, {} of {} codes active, perplexity {:.1}",
        report.layer, report.active, report.clusters, report.perplexity
    );
    if let Some(explained) = report.explained_variance {
        text += &format!(
            ", {} of {} dimensions with {:.1} % of the variance",
            report.dims,
            report.width,
            100.0 * explained
        );
    }
    for (field, found) in &report.against {
        text += &format!(
            ", {field}: purity {:.3}, PNMI {:.3}",
            found.purity, found.pnmi
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

    fn step(&mut self, record: &StepRecord, _num_steps: u64) {
        if let Some((_, part)) = self.part.take() {
            part.clear();
        }
        if record.stage != self.stage {
            self.stage.clone_from(&record.stage);
            self.progress.line(&self.stage);
        }
        let accuracy = record.masked_accuracy.or(record.unmasked_accuracy);
        let accuracy = accuracy.map_or(String::new(), |share| {
            format!("  right {:.1} %", 100.0 * share)
        });
        self.progress.update(
            record.step,
            &format!(
                "loss {:.4}{accuracy}  rate {:.2e}",
                record.loss, record.learning_rate
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
