//! mSFT while training: when a round is scored, which task leaves, and the roll-back to its peak.
//! The rule is [`crate::stats::msft`].
//!
//! Every evaluation of a round leaves a whole checkpoint in `msft/`, from which a roll-back restores
//! parameters and moments. Step numbers of the log go on: the steps of a run are those that it
//! computed. The place in the curriculum, and with it the learning rate, the draws and the counts of
//! updates, goes back.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;
use crate::eval::Evaluation;
use crate::eval::halves;
use crate::eval::halves::Half;
use crate::eval::suite::Suite;
use crate::files;
use crate::metrics;
use crate::records::checkpoint_state::State;
use crate::records::log::Line;
use crate::records::log::RollBackRecord;
use crate::records::log::RoundRecord;
use crate::records::log::StageEnd;
use crate::schedule::msft::EVALUATIONS;
use crate::stats::msft::Exclusion;
use crate::stats::msft::Progress;
use crate::train::checkpoint;
use crate::train::trainer::Trainer;
use crate::train::trainer::unshared;

/// Folder of the checkpoints that a roll-back may go to, in the folder of a run.
const FOLDER: &str = "msft";

/// A scored round's step: the stage, its state from here on, and the lines for the log.
pub(super) struct ScoredRound {
    pub stage: usize,
    pub progress: Progress,
    pub lines: Vec<String>,
    pub note: Option<String>,
}

impl Trainer<'_> {
    /// The stage of the step just finished, if it ends by mSFT.
    fn msft_stage(&self) -> Option<usize> {
        let (stage, _) = self.schedule.stage_of(self.state.step.checked_sub(1)?);
        self.schedule.stages()[stage]
            .msft
            .is_some()
            .then_some(stage)
    }

    /// Whether the step just finished is one at which its stage scores its tasks; `None` if its
    /// stage does not end by mSFT.
    pub fn is_round_scored(&self) -> Result<Option<bool>> {
        let Some(stage) = self.msft_stage() else {
            return Ok(None);
        };
        let progress = self.progress(stage);
        let of_stage = &self.schedule.stages()[stage];
        if progress.excluded.len() == of_stage.tasks.len() {
            return Ok(Some(false));
        }
        let in_stage = self.state.step - of_stage.start;
        let interval = self
            .schedule
            .evaluation_interval(stage, &progress.excluded)?;
        let of_round = in_stage.saturating_sub(progress.began);
        Ok(Some(of_round > 0 && of_round.is_multiple_of(interval)))
    }

    fn progress(&self, stage: usize) -> Progress {
        self.state.msft.get(&stage).cloned().unwrap_or_default()
    }

    /// Scores the tasks of the stage of the step just finished, if they are due, and stores the
    /// step for a roll-back.
    pub fn score_round(&self, found: &Evaluation, suite: &Suite) -> Result<Option<ScoredRound>> {
        let stage = match (self.msft_stage(), self.is_round_scored()?) {
            (Some(stage), Some(true)) => stage,
            _ => return Ok(None),
        };
        let mut progress = self.progress(stage);
        let of_stage = &self.schedule.stages()[stage];
        let step = self.state.step;
        let in_stage = step - of_stage.start;
        let interval = self
            .schedule
            .evaluation_interval(stage, &progress.excluded)?;

        let selection = halves::scores(suite, found, Half::Selection)?;
        let reported = halves::scores(suite, found, Half::Reported)?;
        let mut record = RoundRecord {
            at_step: step,
            stage: of_stage.name.clone(),
            selection: BTreeMap::new(),
            reported: BTreeMap::new(),
        };
        let mut ranks = BTreeMap::new();
        let mut names = BTreeMap::new();
        for task in &of_stage.tasks {
            let named = of_stage
                .msft
                .as_ref()
                .and_then(|msft| msft.scores.get(task));
            let name = halves::score_of(suite, task, named)?;
            let missing = || Error::bug(format!("no score `{name}`"));
            let score = selection.get(&name).ok_or_else(missing)?;
            let other = reported.get(&name).ok_or_else(missing)?;
            record.selection.insert(task.clone(), score);
            record.reported.insert(task.clone(), other);
            if progress.excluded.iter().all(|left| left.task != *task) {
                if score.is_nan() {
                    return Err(
                        Error::input(format!("`{name}` has no value on half of dev"))
                            .hint("give the suite more rows of this task"),
                    );
                }
                ranks.insert(task.clone(), metrics::better(&name).rank(score));
            }
            names.insert(task.clone(), name);
        }

        checkpoint::save(
            &self.roll_back_folder(step),
            self.model,
            self.optimiser,
            self.state,
            &self.run.metadata,
        )?;
        let mut lines = vec![Line::Round(record).to_text()?];
        let mut note = None;
        if let Some(exclusion) = progress.add(in_stage, ranks, interval * EVALUATIONS) {
            let Exclusion { task, to, .. } = exclusion;
            let to_step = of_stage.start + to;
            let place = self.schedule.steps_that_count(stage, in_stage);
            let steps = place - self.place_of(stage, to)?;
            note = Some(format!(
                "`{task}` leaves stage {}: `{}` was best after step {to_step} on the half of dev that selects, and training goes on from there; {steps} steps are rolled back",
                of_stage.name,
                names.get(&task).map_or("", String::as_str)
            ));
            let record = RollBackRecord {
                at_step: step,
                to_step,
                stage: of_stage.name.clone(),
                score: names.remove(&task).unwrap_or_default(),
                task,
                steps,
            };
            lines.push(Line::RollBack(record).to_text()?);
            if progress.excluded.len() == of_stage.tasks.len() {
                let end = StageEnd {
                    at_step: step,
                    stage: of_stage.name.clone(),
                    reason: "the score of every task has peaked".to_owned(),
                };
                lines.push(Line::StageEnd(end).to_text()?);
            }
        }
        Ok(Some(ScoredRound {
            stage,
            progress,
            lines,
            note,
        }))
    }

    /// Steps that count until a scored step of a stage.
    fn place_of(&self, stage: usize, step: u64) -> Result<u64> {
        let mut before = (*self.schedule).clone();
        // A roll-back at the step itself does not count yet.
        let mut excluded = self.progress(stage).excluded;
        excluded.retain(|exclusion| exclusion.at < step);
        before.exclude(stage, &excluded)?;
        Ok(before.steps_that_count(stage, step))
    }

    /// Folder of the checkpoint that a roll-back to a step of the run restores.
    fn roll_back_folder(&self, step: u64) -> PathBuf {
        checkpoint::folder(&self.run.folder.join(FOLDER), step)
    }

    /// Whether a roll-back is due before the next step.
    pub fn is_roll_back_pending(&self) -> bool {
        self.state.is_roll_back_pending()
    }

    /// Restores parameters and moments of the peak, and ends the stage if no task is left; if this
    /// is the end of the run, its audio gap and its last evaluation are due again.
    pub fn roll_back(&mut self) -> Result<()> {
        let pending = self
            .state
            .msft
            .iter()
            .find_map(|(&stage, progress)| Some((stage, progress.pending?)));
        let Some((stage, to)) = pending else {
            return Ok(());
        };
        let start = self.schedule.stages()[stage].start;
        let folder = self.roll_back_folder(start + to);
        if !folder.is_dir() {
            return Err(Error::input("the checkpoint of a roll-back is missing")
                .at_path(&folder)
                .hint("put the folder back to continue this run, or start another with `--set name=NAME`"));
        }
        checkpoint::load(&folder, self.model, self.optimiser)?;
        self.saved = None;

        let in_stage = self.state.step - start;
        let progress = self.state.msft.entry(stage).or_default();
        progress.pending = None;
        let schedule = unshared(&mut self.schedule)?;
        schedule.exclude(stage, &progress.excluded)?;
        if progress.excluded.len() == schedule.stages()[stage].tasks.len() {
            schedule.end_stage(stage, in_stage)?;
            progress.scored.clear();
            self.state.stage_ends.insert(stage, in_stage);
        }
        if self.state.step == self.schedule.num_steps() {
            self.state.evaluated = None;
            self.state.is_gap_due = self.is_audio_gap_due();
        }
        Ok(())
    }

    /// Steps of the run that each roll-back went back over: it began at the end of its range, and
    /// restored the parameters of the start.
    pub fn rolled_back(&self) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        for (&stage, progress) in &self.state.msft {
            let start = self.schedule.stages()[stage].start;
            let excluded = progress.excluded.iter();
            ranges.extend(excluded.map(|exclusion| start + exclusion.to..start + exclusion.at));
        }
        ranges
    }

    /// Removes checkpoints of earlier rounds that neither the run nor a stored checkpoint can go
    /// back to.
    pub fn forget_rounds(&self) -> Result<()> {
        if self.state.msft.is_empty() {
            return Ok(());
        }
        let mut needed = self.steps_of_rounds(self.state);
        for (_, path) in checkpoint::list(&self.run.checkpoints())? {
            needed.extend(self.steps_of_rounds(&State::read(&path)?));
        }
        for (step, path) in checkpoint::list(&self.run.folder.join(FOLDER))? {
            if !needed.contains(&step) {
                files::remove_dir(&path)?;
            }
        }
        Ok(())
    }

    /// Steps of the run that a state may go back to.
    fn steps_of_rounds(&self, state: &State) -> BTreeSet<u64> {
        let mut steps = BTreeSet::new();
        for (&stage, progress) in &state.msft {
            let start = self.schedule.stages().get(stage).map_or(0, |of| of.start);
            let scored = progress.scored.iter().map(|scored| scored.step);
            steps.extend(scored.chain(progress.pending).map(|step| start + step));
        }
        steps
    }
}
