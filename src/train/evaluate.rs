//! Evaluations of a run: when a score is the best, when a stage has stopped getting better, and
//! what is written in which order.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;

use crate::data::Clip;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval;
use crate::eval::Evaluation;
use crate::eval::control;
use crate::eval::halves;
use crate::eval::halves::Half;
use crate::eval::suite::Suite;
use crate::metrics;
use crate::records::checkpoint_state::State;
use crate::records::checkpoint_state::Waiting;
use crate::records::inputs::fingerprint;
use crate::records::log::EvalRecord;
use crate::records::log::Line;
use crate::records::log::StageEnd;
use crate::records::run_folder;
use crate::records::scores;
use crate::records::scores::Scores;
use crate::records::scores::ScoresFile;
use crate::schedule::EarlyStop;
use crate::train::checkpoint;
use crate::train::settings::EvaluateSettings;
use crate::train::step::BAD_ROW_HINT;
use crate::train::trainer::Trainer;
use crate::train::trainer::check;
use crate::train::training_rows;

impl Trainer<'_> {
    /// Evaluates the model as it stands; writes predictions, scores, the log's lines and, if it is
    /// the best so far, `best/`.
    pub fn evaluate(&mut self, settings: &EvaluateSettings, suite: &Suite) -> Result<()> {
        let run = self.run;
        let step = self.state.step;
        let stop = self.stop;
        let observer = &mut *self.observer;
        let found = eval::evaluate(
            self.model,
            &run.loader,
            suite,
            run.on_bad_row,
            &mut |done, total| {
                observer.evaluating(done, total);
                check(stop)
            },
        )
        .map_err(bad_row)?;
        self.tell_skipped(&found.skipped);
        self.record_clips(suite, &found.skipped_places);
        let selecting = self.selecting_scores(&found, suite)?;
        let score = selecting.get(&settings.keep_best).ok_or_else(|| {
            Error::input(format!(
                "`evaluate.keep_best`: there is no score `{}`; there are {}",
                settings.keep_best,
                names(&found.scores)
            ))
        })?;
        let is_best = step > 0
            && self
                .state
                .best
                .is_none_or(|best| is_better(&settings.keep_best, score, best, 0.0));
        let (waiting, end) = self.patience(&selecting)?;
        let round = self.score_round(&found, suite)?;
        // The model that the run ends with is evaluated after the roll-back.
        let rolls_back = round
            .as_ref()
            .is_some_and(|round| round.progress.pending.is_some());
        let folder = run_folder::evaluation(&run.folder, step);
        found.write_predictions(&folder)?;
        ScoresFile::of(found.scores.clone()).write(&folder)?;
        let logged = self.selects_by_half().then_some(score);
        let mut lines = vec![eval_line(step, None, logged, &found.scores)?];
        let is_last = step == self.schedule.num_steps()
            || end
                .as_ref()
                .is_some_and(|end| end.stage + 1 == self.schedule.stages().len());
        let has_more = !suite.controls.is_empty() || settings.train_rows > 0;
        if is_last && !rolls_back && has_more {
            lines.push(self.controls(suite, settings.train_rows, &folder)?);
        }

        if let Some(end) = &end {
            let line = Line::StageEnd(StageEnd {
                at_step: step,
                stage: self.schedule.stages()[end.stage].name.clone(),
                reason: end.reason.clone(),
            });
            lines.push(line.to_text()?);
        }

        lines.extend(round.iter().flat_map(|round| round.lines.clone()));
        let lines = lines.join("\n");
        let mut state = State {
            evaluated: Some(step),
            best: if is_best {
                Some(score)
            } else {
                self.state.best
            },
            waiting,
            ..self.state.clone()
        };
        state
            .stage_ends
            .extend(end.as_ref().map(|end| (end.stage, end.steps)));

        let round_note = round.as_ref().and_then(|round| round.note.clone());
        state
            .msft
            .extend(round.map(|round| (round.stage, round.progress)));

        if is_best {
            // Before the log and the state know of the evaluation: if this fails, a resumed run
            // evaluates again.
            state.log_bytes = self.log.num_bytes()? + lines.len() as u64 + 1;
            checkpoint::save(
                &run.folder.join("best"),
                self.model,
                self.optimiser,
                &state,
                &run.metadata,
            )?;
        }

        self.log.line(&lines)?;
        self.tell_tensorboard(&lines, None);
        // A checkpoint of this step that was written before does not know of the evaluation.
        (*self.state, self.saved) = (state, None);
        self.forget_rounds()?;
        self.record_environment();
        self.observer.evaluated(step, &found.scores, is_best);

        if let Some(note) = round_note {
            self.observer.note(&note);
        }
        if let Some(end) = end {
            self.observer.note(&format!(
                "stage {} ends after {} steps: {}",
                self.schedule.stages()[end.stage].name,
                end.steps,
                end.reason
            ));
        }

        Ok(())
    }

    /// Scores that choose the best checkpoint and end stages with `early_stop`: those of the half
    /// of dev that selects, if a stage ends by mSFT, so that the other half selects nothing.
    fn selecting_scores(&self, found: &Evaluation, suite: &Suite) -> Result<Scores> {
        match self.selects_by_half() {
            true => halves::scores(suite, found, Half::Selection),
            false => Ok(found.scores.clone()),
        }
    }

    /// Whether a half of dev selects, and the other half is reported.
    fn selects_by_half(&self) -> bool {
        let mut stages = self.schedule.stages().iter();
        stages.any(|stage| stage.msft.is_some())
    }

    /// Records the clips that an evaluation used: a score is compared with those of other clips no
    /// more than a loss is. Those of examples that were left out, by place of set and example, were
    /// not used and may be replaced.
    fn record_clips(&self, suite: &Suite, skipped: &BTreeSet<(usize, usize)>) {
        let mut clips: Vec<&Clip> = Vec::new();
        for (of_suite, set) in suite.sets.iter().enumerate() {
            for (of_set, example) in set.examples.iter().enumerate() {
                if !skipped.contains(&(of_suite, of_set)) {
                    clips.extend(&example.clips);
                }
            }
        }
        let new = self.run.inputs().new_among(clips.into_iter());
        let found = new
            .into_par_iter()
            .filter_map(|path| fingerprint(&path).ok())
            .collect();
        self.run.inputs().add(self.state.step, found);
    }

    /// Asks the suite in the ways of its controls, and training rows in its own; returns their
    /// lines for the log.
    fn controls(&mut self, suite: &Suite, train_rows: usize, folder: &Path) -> Result<String> {
        let run = self.run;
        let step = self.state.step;
        let stop = self.stop;
        let mut asked = Vec::new();
        for control in &suite.controls {
            asked.push((control.name(), control::asked(*control, suite)?));
        }
        if train_rows > 0
            && let Some(rows) = training_rows::suite(run, &self.schedule, suite, train_rows)?
        {
            asked.push((scores::TRAINING_ROWS, rows));
        }

        let mut lines = Vec::new();
        let mut by_control = scores::Controls::default();
        for (name, suite) in &asked {
            let observer = &mut *self.observer;
            let found = eval::evaluate(
                self.model,
                &run.loader,
                suite,
                run.on_bad_row,
                &mut |done, total| {
                    observer.evaluating(done, total);
                    check(stop)
                },
            )
            .map_err(bad_row)?;
            self.tell_skipped(&found.skipped);
            if *name == scores::TRAINING_ROWS {
                self.record_clips(suite, &found.skipped_places);
            }
            found.write_predictions(&folder.join(name))?;
            lines.push(eval_line(step, Some(name), None, &found.scores)?);
            *by_control.entry(name) = found.scores;
        }
        scores::write_controls(folder, &by_control)?;
        Ok(lines.join("\n"))
    }

    /// Counts how long the stage of the step just finished has waited for a better score, this
    /// evaluation included, and whether it ends here.
    fn patience(&self, scores: &Scores) -> Result<(Option<Waiting>, Option<End>)> {
        let Some(last) = self.state.step.checked_sub(1) else {
            return Ok((None, None));
        };
        let (stage, in_stage) = self.schedule.stage_of(last);
        let Some(EarlyStop {
            score: name,
            patience,
            min_delta,
        }) = &self.schedule.stages()[stage].early_stop
        else {
            return Ok((None, None));
        };
        let score = scores.get(name).ok_or_else(|| {
            Error::input(format!(
                "`early_stop.score`: there is no score `{name}`; there are {}",
                names(scores)
            ))
        })?;

        let waiting = match self.state.waiting.filter(|waiting| waiting.stage == stage) {
            Some(Waiting {
                best, evaluations, ..
            }) if !is_better(name, score, best, *min_delta) => Waiting {
                stage,
                best,
                evaluations: evaluations + 1,
            },
            _ => Waiting {
                stage,
                best: score,
                evaluations: 0,
            },
        };

        let best = waiting.best;
        let end = (waiting.evaluations >= u64::from(*patience)).then(|| End {
            stage,
            steps: in_stage + 1,
            reason: format!(
                "`{name}` has been no better than {best:.4} for {patience} evaluations"
            ),
        });
        Ok((Some(waiting), end))
    }
}

/// The error of a row in a run that has begun, with what can be done.
fn bad_row(error: Error) -> Error {
    match error.kind {
        Kind::Input => error.hint(BAD_ROW_HINT),
        _ => error,
    }
}

/// A stage that ends before its planned length.
struct End {
    stage: usize,
    steps: u64,
    reason: String,
}

/// The line of an evaluation, under a control or as it is.
fn eval_line(
    at_step: u64,
    control: Option<&str>,
    selecting: Option<f64>,
    scores: &Scores,
) -> Result<String> {
    let record = EvalRecord {
        at_step,
        control: control.map(str::to_owned),
        selecting,
        scores: scores.clone(),
    };
    Line::Eval(record).to_text()
}

fn names(scores: &Scores) -> String {
    scores
        .0
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Whether a score beats the best so far by more than `min_delta`; losses, error rates and failures
/// are better low.
fn is_better(name: &str, score: f64, best: f64, min_delta: f64) -> bool {
    let better = metrics::better(name);
    better.rank(score) > better.rank(best) + min_delta
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_rates_and_losses_are_better_low() {
        assert!(
            is_better("words.wer", 0.1, 0.2, 0.0)
                && is_better("words.cer@arabic-leaderboard", 0.1, 0.2, 0.0)
                && is_better("words.loss", 0.1, 0.2, 0.0)
        );
        assert!(
            is_better("words.hit_limit", 0.1, 0.2, 0.0)
                && is_better("words.length_ratio", 1.1, 0.5, 0.0)
                && is_better("gist.chrf", 60.0, 50.0, 0.0)
        );
        assert!(
            is_better("mean", 0.3, 0.2, 0.0)
                && is_better("emotions.uar", 0.3, 0.2, 0.0)
                && !is_better("mean", 0.2, 0.2, 0.0)
        );
        assert!(
            is_better("mean", 0.31, 0.2, 0.1)
                && !is_better("mean", 0.29, 0.2, 0.1)
                && !is_better("words.wer", 0.15, 0.2, 0.1)
        );
    }
}
