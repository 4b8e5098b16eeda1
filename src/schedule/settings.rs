//! The `schedule` section of a recipe, as a person writes it.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use serde::de::SeqAccess;
use serde::de::Visitor;

use crate::parts::StageParts;

/// What a recipe says under `schedule`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Examples per optimiser step, over all micro-batches.
    pub batch: usize,
    /// The curriculum: stages in the order in which they are trained.
    pub stages: Vec<StageSettings>,
}

/// One part of a curriculum: which tasks, for how long, in what mixture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageSettings {
    /// Name in logs and messages; left empty it is `stage-1`, `stage-2` ... by its place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The tasks to draw from.
    pub tasks: TaskList,
    /// Length in optimiser steps; either this or `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Length in passes over all rows that the stage's own tasks can draw, rounded up to whole steps. Slots given to
    /// `replay` do not count towards a pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// How slots go to tasks; `proportional` where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
    /// T of `mix: temperature`: 1 is proportional, large is uniform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Share of the slots, in `[0, 1)`, that goes to tasks of earlier stages which this stage does not list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<f64>,
    /// Which example fills a slot.
    pub draw: Draw,
    /// Peak learning rate of the stage, in place of the optimiser's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// How parts are trained in this stage, where the recipe's `train` says otherwise.
    #[serde(skip_serializing_if = "is_default")]
    pub train: StageParts,
}

fn is_default(parts: &StageParts) -> bool {
    *parts == StageParts::default()
}

impl StageSettings {
    /// The stage's name, `stage-N` (N from 1) where the recipe gives none.
    pub fn name_at(&self, index: usize) -> String {
        if self.name.is_empty() { format!("stage-{}", index + 1) } else { self.name.clone() }
    }
}

/// The tasks of a stage: `all`, or a list of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TaskList {
    /// Every task that has rows with a weight above zero.
    #[default]
    All,
    /// These.
    Named(Vec<String>),
}

/// How slots go to tasks, and inside a task to data entries of different weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// By number of rows, each counted with the weight of its data entry.
    #[default]
    Proportional,
    /// The same for every task; weights of data entries are left aside.
    Uniform,
    /// By `n^(1/T)` of the proportional share `n`.
    Temperature,
    /// By the weight of the data entry alone, however many rows it has.
    Weights,
}

/// Which example fills a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Draw {
    /// A seeded order in which nothing is repeated before all were used.
    #[default]
    Shuffled,
}

impl Serialize for TaskList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TaskList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TaskListVisitor)
    }
}

struct TaskListVisitor;

impl<'de> Visitor<'de> for TaskListVisitor {
    type Value = TaskList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`all` or a list of task names")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<TaskList, E> {
        match value {
            "all" => Ok(TaskList::All),
            other => Err(E::custom(format!("`tasks: {other}` is neither `all` nor a list; write `tasks: [{other}]`"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<TaskList, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = sequence.next_element::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom(format!("`tasks` names `{name}` twice")));
            }
            names.push(name);
        }
        Ok(TaskList::Named(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_reads_as_written_and_writes_back() {
        let yaml = "
batch: 8
stages:
  - {name: listen, tasks: [asr], steps: 1000}
  - {tasks: [dialect, emotion], replay: 0.2, epochs: 2, learning_rate: 5e-5, mix: temperature, temperature: 3}
  - {tasks: all, draw: shuffled, epochs: 0.5, mix: uniform}
";
        let settings: Settings = yaml_serde::from_str(yaml).unwrap();
        assert_eq!(settings.batch, 8);
        let [listen, discern, refine] = &settings.stages[..] else { panic!("{settings:?}") };
        assert_eq!((listen.name_at(0), listen.tasks.clone(), listen.steps), ("listen".into(), TaskList::Named(vec!["asr".into()]), Some(1000)));
        assert_eq!((discern.name_at(1), discern.replay, discern.epochs, discern.learning_rate), ("stage-2".into(), Some(0.2), Some(2.0), Some(5e-5)));
        assert_eq!((discern.mix, discern.temperature), (Some(Mix::Temperature), Some(3.0)));
        assert_eq!((&refine.tasks, refine.mix, refine.draw), (&TaskList::All, Some(Mix::Uniform), Draw::Shuffled));
        let again: Settings = yaml_serde::from_str(&yaml_serde::to_string(&settings).unwrap()).unwrap();
        assert_eq!(again, settings);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_would_be() {
        for (yaml, found) in [
            ("{batch: 8, stages: [{stepz: 3}]}", "unknown field `stepz`"),
            ("{batch: 8, stages: [{draw: diverse}]}", "unknown variant `diverse`"),
            ("{batch: 8, stages: [{tasks: asr}]}", "write `tasks: [asr]`"),
            ("{batch: 8, stages: [{tasks: [asr, asr]}]}", "names `asr` twice"),
            ("{batch: 8, stages: [{mix: even}]}", "unknown variant `even`"),
            ("{batch: -1, stages: []}", "-1"),
            ("{stages: []}", "missing field `batch`"),
        ] {
            let error = yaml_serde::from_str::<Settings>(yaml).unwrap_err().to_string();
            assert!(error.contains(found), "{yaml}: {error}");
        }
    }
}
