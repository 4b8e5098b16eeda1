//! What the sections about one run share: the run, its predictions, its colours, and who computes
//! what is uncertain.

use crate::chart::ink;
use crate::chart::lines::Boundary;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::metric;
use crate::metric::Metric;
use crate::rescore;
use crate::standing;
use crate::uncertainty::Uncertainty;
use maqam_base::error::Result;
use maqam_metrics::Family;
use maqam_metrics::Tally;
use maqam_records::prediction::Prediction;
use maqam_records::run_folder::Run;

/// The address of the audio of a row of a set, where it can be heard.
pub type Audio<'a> = dyn Fn(&str, &str) -> Result<Option<String>> + 'a;

/// A run as its sections see it.
pub struct Chapter<'a> {
    /// The run.
    pub run: &'a Run,
    /// Names of its tasks.
    pub tasks: Vec<String>,
    /// The colour of each of them, as a series.
    pub colours: Vec<usize>,
    /// Predictions of its last evaluation, by set.
    pub predictions: Vec<(String, Vec<Prediction>)>,
    /// Who computes intervals.
    pub uncertainty: &'a dyn Uncertainty,
    /// Where audio is found.
    pub audio: &'a Audio<'a>,
    /// What comes before the ids of its sections, figures and tables.
    pub prefix: String,
}

impl<'a> Chapter<'a> {
    /// Reads the predictions of the run's last evaluation.
    ///
    /// # Errors
    /// Broken predictions, with file and line.
    pub fn open(
        run: &'a Run,
        uncertainty: &'a dyn Uncertainty,
        audio: &'a Audio<'a>,
        prefix: &str,
    ) -> Result<Self> {
        let predictions = run
            .last()
            .map(|last| last.predictions())
            .transpose()?
            .unwrap_or_default();
        let mut tasks: Vec<String> = run
            .log
            .as_ref()
            .map(|log| log.tasks().into_keys().collect())
            .unwrap_or_default();
        for row in predictions.iter().filter_map(|(_, rows)| rows.first()) {
            if !row.task.is_empty() && !tasks.contains(&row.task) {
                tasks.push(row.task.clone());
            }
        }
        Ok(Self {
            run,
            colours: ink::of_tasks(&tasks),
            tasks,
            predictions,
            uncertainty,
            audio,
            prefix: prefix.to_owned(),
        })
    }

    /// The id of a section, figure or table of this chapter.
    pub fn id(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The colour of a task.
    pub fn colour(&self, task: &str) -> usize {
        let place = self.tasks.iter().position(|known| known == task);
        place.map_or(self.tasks.len(), |place| self.colours[place])
    }

    /// The colour of a set: its task's.
    pub fn colour_of_set(&self, set: &str) -> usize {
        self.rows(set)
            .and_then(|rows| rows.first())
            .map_or(0, |row| self.colour(&row.task))
    }

    /// The predictions of a set.
    pub fn rows(&self, set: &str) -> Option<&[Prediction]> {
        self.predictions
            .iter()
            .find(|(name, _)| name == set)
            .map(|(_, rows)| rows.as_slice())
    }

    /// The scores of the last evaluation, taken apart: set by set, the metric of its task first.
    pub fn metrics(&self) -> Vec<Metric> {
        let scores = self.run.last().map(|last| last.scores.as_slice());
        let mut metrics: Vec<Metric> = scores
            .unwrap_or_default()
            .iter()
            .map(|(name, _)| Metric::of(name))
            .collect();
        metric::own_first(
            &mut metrics,
            |metric| metric,
            |metric| standing::is_own(self.run, metric),
        );
        metrics
    }

    /// The scores of a set that are computed from its texts and labels, in their order.
    pub fn metrics_of(&self, set: &str) -> Vec<Metric> {
        let is_of_set =
            |metric: &Metric| metric.set.as_deref() == Some(set) && metric.family != Family::Loss;
        self.metrics().into_iter().filter(is_of_set).collect()
    }

    /// The tally of a score of the last evaluation, where the predictions give the score again.
    pub fn tally(&self, metric: &Metric) -> Option<Tally> {
        let value = self.run.last()?.score(&metric.full)?;
        rescore::tally_of(metric, value, self.rows(metric.set.as_deref()?)?)
    }

    /// Where the stages begin; nothing where there is but one.
    pub fn boundaries(&self) -> Vec<Boundary> {
        let stages = self
            .run
            .log
            .as_ref()
            .map(|log| log.stages.as_slice())
            .unwrap_or_default();
        if stages.len() < 2 {
            return Vec::new();
        }
        stages
            .iter()
            .map(|stage| Boundary {
                at: stage.first as f64,
                name: stage.name.clone(),
            })
            .collect()
    }
}

/// The axis of optimiser steps.
pub fn steps_axis() -> Axis {
    Axis::new("optimiser step").unit(Unit::Count)
}
