//! A training on the terminal, alone or in an experiment.

use serde::Serialize;
use serde_json::json;

use crate::cli::print;
use crate::cli::progress::Progress;
use crate::error::Error;
use crate::recipe::Begun;
use crate::records::log::Line;
use crate::records::log::StepRecord;
use crate::records::scores::Scores;
use crate::train::Observer;
use crate::train::environment::Pace;

/// Skipped rows that are named.
const MOST_NAMED: usize = 20;

/// Prints which rows are not used, and what is wrong with each.
pub fn tell_skipped<'a>(skipped: impl Iterator<Item = &'a str>) {
    let skipped: Vec<&str> = skipped.collect();
    for message in skipped.iter().take(MOST_NAMED) {
        print::message(format_args!("skipped: {message}"));
    }
    if skipped.len() > MOST_NAMED {
        print::message(format_args!(
            "skipped: {} more rows",
            skipped.len() - MOST_NAMED
        ));
    }
}

/// Prints notes on the adapter that a run continues from, and how the training fills the GPU's
/// memory if it is on one.
pub fn tell_fit(begun: &Begun) {
    begun
        .notes
        .iter()
        .for_each(|note| print::message(format_args!("note: {note}")));
    if let Some(fit) = &begun.fit {
        print::message(format_args!("memory: {}", fit.line()));
        fit.note()
            .iter()
            .for_each(|note| print::message(format_args!("note: {note}")));
    }
}

/// Scores in one line.
pub fn in_words(scores: &Scores) -> String {
    let listed: Vec<String> = scores
        .0
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    listed.join("  ")
}

/// A training on the terminal.
pub struct Screen {
    progress: Progress,
    /// What goes on between two steps: an evaluation, a pass over the rows for their embeddings.
    part: Option<Progress>,
    stage: String,
    /// Whether events are printed as JSON lines on standard output.
    is_json: bool,
    /// Whether an event could not be printed, which is told once.
    is_mute: bool,
}

impl Screen {
    /// A run that stands at `step` of `num_steps`.
    pub fn new(step: u64, num_steps: u64, is_json: bool) -> Self {
        Self {
            progress: Progress::new("training", step, num_steps),
            part: None,
            stage: String::new(),
            is_json,
            is_mute: false,
        }
    }

    /// Prints an event. A printer that fails ends no training.
    pub fn event(&mut self, event: impl Serialize) {
        if !self.is_json || self.is_mute {
            return;
        }
        let printed = serde_json::to_string(&event)
            .map_err(Error::bug_from)
            .and_then(print::line);
        if let Err(error) = printed {
            self.is_mute = true;
            print::message(format_args!("note: {}", error.message()));
        }
    }

    /// Leaves the bar as it is.
    pub fn finish(&self) {
        self.progress.finish();
    }

    /// Takes the bar off the terminal.
    pub fn clear(&self) {
        self.progress.clear();
    }

    fn part(&mut self, name: &'static str, done: usize, total: usize) {
        let progress = &self.progress;
        self.part
            .get_or_insert_with(|| progress.part(name, total as u64))
            .update(done as u64, "");
        if done == total {
            self.end_part();
        }
    }

    fn end_part(&mut self) {
        if let Some(part) = self.part.take() {
            part.clear();
        }
    }
}

impl Observer for Screen {
    fn step(&mut self, record: &StepRecord, pace: Pace) {
        self.event(Line::Train(record.clone()));
        if record.stage != self.stage {
            self.stage.clone_from(&record.stage);
            self.progress.line(&format!("stage {}", record.stage));
        }
        self.progress.update(
            record.step,
            &format!(
                "loss {:.4}  gradient {:.3}  rate {:.2e}  waited {:.0} %",
                record.loss,
                record.grad_norm,
                record.learning_rate,
                100.0 * pace.waiting_share()
            ),
        );
    }

    fn preparing(&mut self, work: &'static str, done: usize, total: usize) {
        self.part(work, done, total);
    }

    fn evaluating(&mut self, done: usize, total: usize) {
        self.part("evaluating", done, total);
    }

    fn evaluated(&mut self, at_step: u64, scores: &Scores, is_best: bool) {
        self.end_part();
        self.event(json!({
            "kind": "eval",
            "at_step": at_step,
            "scores": scores.to_json(),
            "is_best": is_best,
        }));
        let listed = in_words(scores);
        self.progress.line(&format!(
            "step {at_step}: {listed}{}",
            if is_best { "  (best)" } else { "" }
        ));
    }

    fn note(&mut self, text: &str) {
        self.event(json!({ "kind": "note", "text": text }));
        self.progress.line(&format!("note: {text}"));
    }
}
