//! Stages with `draw: uds`: before each step, its candidates go forward through the model, and the
//! schedule is told which of them are drawn.
//!
//! A step that fails leaves the queue as it was, so a resumed run chooses the same rows again.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::error::Result;
use crate::records::log::SelectionRecord;
use crate::schedule::Pick;
use crate::seed::Key;
use crate::train::selection::Choice;
use crate::train::selection::Chosen;
use crate::train::step::read_candidates;
use crate::train::trainer::Trainer;
use crate::train::trainer::unshared;

impl Trainer<'_> {
    /// Chooses the rows of the coming step, if its stage draws by UDS.
    ///
    /// # Errors
    /// Candidates that cannot be read; the user's wish to stop.
    pub(super) fn choose_rows(&mut self, stage: usize) -> Result<()> {
        let of_stage = &self.schedule.stages()[stage];
        let Some(settings) = of_stage.uds else {
            return Ok(());
        };
        let name = of_stage.name.clone();
        let began = Instant::now();
        let run = self.run;
        let step = self.state.step;
        let cells = self.schedule.candidates(step)?;
        let picks: Vec<Pick> = cells.iter().flat_map(|cell| &cell.picks).copied().collect();
        let key = Key::new(run.seed, "candidates").with(step);
        let place = format!("candidates of step {}", step + 1);
        let read = read_candidates(run, &picks, key, &place)?;
        self.tell_skipped(&read.skipped);

        // Scores.
        self.set_trained(stage);
        let vocabulary = self.model.vocabulary()?;
        self.selection.begin(stage, settings, vocabulary, run.seed);
        let lengths: Vec<usize> = read
            .examples
            .iter()
            .map(|(_, example)| example.sequence.tokens.len())
            .collect();
        let mut scores = BTreeMap::new();
        for range in micro_batches(&lengths, run.memory.pack_tokens()) {
            self.check_stop()?;
            let of_range = &read.examples[range];
            let sequences: Vec<&Sequence> = of_range
                .iter()
                .map(|(_, example)| &example.sequence)
                .collect();
            let batch = Batch::pack(&sequences, run.framing)?;
            let selection = &self.selection;
            self.model
                .each_target_logits(&batch, &mut |place, logits| {
                    let (row, _) = &of_range[place];
                    scores.insert(*row, selection.score(&logits, vocabulary));
                })?;
        }

        let choice = Choice {
            cells: &cells,
            scores,
            clips: read.clips,
            step: step + 1,
            stage: name,
            began,
        };
        let chosen = self.selection.choose(choice, settings)?;
        unshared(&mut self.schedule)?.set_chosen(step, chosen)
    }

    /// Adds the rows chosen for the step just made to the queue, and their candidates' files to the
    /// inputs of the run. Returns the record of the choice, and the time that it took.
    pub(super) fn take_chosen(&mut self) -> Option<(SelectionRecord, Duration)> {
        let Chosen {
            clips,
            record,
            took,
        } = self.selection.take()?;
        self.run.inputs().add(record.at_step, clips);
        Some((record, took))
    }
}
