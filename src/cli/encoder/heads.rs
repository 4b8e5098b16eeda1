//! A head's training on the terminal.

use crate::cli::print;
use crate::cli::progress::Progress;
use crate::encoder::probe;
use crate::encoder::probe::Recipe;
use crate::error::Result;
use crate::records::head::HeadChoice;
use crate::records::head::HeadScore;
use crate::records::log::StepRecord;
use crate::stop::Stop;

/// Trains a head, and prints its scores.
pub fn train(recipe: &Recipe, is_resumed: bool, stop: &Stop) -> Result<()> {
    let mut screen = HeadScreen(Progress::new("training", 0, recipe.steps));
    let outcome = probe::run(recipe, is_resumed, &mut screen, stop);
    screen.0.finish();
    for score in outcome? {
        print::line(in_words_of_score(&score))?;
    }
    Ok(())
}

/// A score with its interval.
fn in_words_of_score(score: &HeadScore) -> String {
    let interval = score.interval.map_or(String::new(), |[low, high]| {
        format!(" [{low:.4}, {high:.4}] over {} clusters", score.clusters)
    });
    format!("dev.{} {:.4}{interval}", score.name, score.value)
}

/// What a head's training shows on the terminal.
struct HeadScreen(Progress);

impl probe::Observer for HeadScreen {
    fn chosen(&mut self, choice: &HeadChoice) {
        for (place, candidate) in choice.candidates.iter().enumerate() {
            let mark = if place == choice.chosen {
                ", chosen"
            } else {
                ""
            };
            self.0.line(&format!(
                "classifier {}, weight decay {}: UAR {:.4} over {} folds of training speakers{mark}",
                candidate.classifier, candidate.weight_decay, candidate.uar, choice.folds
            ));
        }
    }

    fn step(&mut self, record: &StepRecord, _num_steps: u64) {
        let detail = format!("loss {:.4}  rate {:.2e}", record.loss, record.learning_rate);
        self.0.update(record.step, &detail);
    }

    fn evaluated(&mut self, at_step: u64, scores: &[HeadScore]) {
        let listed: Vec<String> = scores.iter().map(in_words_of_score).collect();
        self.0
            .line(&format!("step {at_step}: {}", listed.join("  ")));
    }
}
