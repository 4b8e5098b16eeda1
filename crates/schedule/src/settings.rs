//! The `schedule` section of a recipe, as a person writes it.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde::de::value::MapAccessDeserializer;

use crate::difficulty::Difficulty;
use crate::loss_weights;
use crate::msft::EndRule;
use crate::msft::MsftSettings;
use crate::online::Online;
use crate::online::Prior;
use crate::online::RuleName;
use crate::uds::UdsSettings;
use maqam_base::parts::StageParts;

/// `schedule:` of a recipe.
///
/// ```yaml
/// schedule:
///   batch: 8
///   stages:
///     - {name: listen,  tasks: [asr], steps: 1000}
///     - {name: discern, tasks: [dialect, emotion], replay: 0.2, steps: 600, learning_rate: 5e-5}
///     - {name: refine,  tasks: all, draw: diverse, steps: 400}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Examples per optimiser step, over all micro-batches.
    pub batch: usize,
    /// Seed of the order of the data; by default the run's. Runs with the same seed see the same
    /// examples in the same order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// True if the picks of all stages come in one seeded random order: the same rows as often,
    /// without the order of the stages. It is the control for the order of a curriculum. The run
    /// then has one stage, `shuffled`. Keys of a stage about training (`learning_rate`, `train`,
    /// `early_stop`), and `draw: diverse` and `uds`, which choose among rows, are refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shuffle: bool,
    /// Curriculum: stages in the order in which they are trained.
    pub stages: Vec<StageSettings>,
}

/// One part of a curriculum: its tasks, its length, its mixture, and its way of drawing.
///
/// Every stage has a length, in `steps` or `epochs`. A slot is one example of one step. `mix` and
/// `replay`, or `draw: balanced` or `diverse`, assign slots to tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageSettings {
    /// Name in logs and messages; by default `stage-1`, `stage-2` ... by its place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Tasks to draw from: `all`, the default, or a list.
    pub tasks: TaskList,
    /// Length in optimiser steps; either this or `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Length in passes over all rows that the stage's own tasks can draw, rounded up to whole
    /// steps. Slots for `replay` do not count towards a pass. Except under `mix: proportional`, a
    /// pass is a number of slots: small tasks are drawn more often in it, and large ones less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Division of slots among tasks; `proportional` by default. Only with `draw: shuffled`. Fields
    /// with `online` let weights follow a reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
    /// T of `mix: temperature`: 1 is proportional, large is uniform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Share of the slots, in `[0, 1)`, for tasks of earlier stages that this stage does not list.
    /// Only with `draw: shuffled`. To train an earlier task fully, list it under `tasks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<f64>,
    /// Choice of the example for a slot: `shuffled`, the default, `balanced`, `diverse` or `uds`.
    pub draw: Draw,
    /// Most times that a row may be drawn in the stage; only with `draw: balanced` and `diverse`,
    /// where rare labels repeat.
    ///
    /// Slots stay as equal over tasks, labels and audio or text as this allows. If a small cell
    /// reaches the limit, its other slots go in equal parts to its sibling cells. Each cell's slots
    /// are spread evenly over the stage. A stage that is too long for its rows is an error with
    /// both numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_repeats: Option<u32>,
    /// Steps that share a block of candidates under `draw: diverse`; 8 by default. A step chooses
    /// from what the block has left, so the first step of a block chooses from `block` times what
    /// it needs and the last takes what is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// Selection rule of `draw: diverse`; `farthest` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<Select>,
    /// Embeddings that `draw: diverse` compares; `base` by default. `select: random` compares none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<EmbeddingSource>,
    /// Settings of `draw: uds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uds: Option<UdsSettings>,
    /// Order of rows by their difficulty, in place of the seeded order. Rows compete only with those
    /// of their pool: of their task under `draw: shuffled`, of their task, label and form under
    /// `draw: balanced`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<Difficulty>,
    /// Peak learning rate of the stage, in place of the optimiser's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Ends the stage early when a score on the dev suite stops improving. The next stage begins at
    /// the next step, and the learning rate continues at that stage's planned place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStop>,
    /// Rule by which tasks leave the stage; by default none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<EndRule>,
    /// Settings of `end: msft`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msft: Option<MsftSettings>,
    /// Training of parts in this stage, in place of the recipe's `train`.
    #[serde(skip_serializing_if = "is_default")]
    pub train: StageParts,
    /// Loss settings of this stage, in place of the recipe's `loss`.
    #[serde(skip_serializing_if = "is_default")]
    pub loss: loss_weights::StageSettings,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl StageSettings {
    /// The stage's name, or `stage-N` (N from 1) if the recipe has none.
    pub fn name_at(&self, index: usize) -> String {
        if self.name.is_empty() {
            format!("stage-{}", index + 1)
        } else {
            self.name.clone()
        }
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

/// Division of slots among tasks, and inside a task among data entries of different weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mix {
    /// Slots by number of rows, times the weight of their data entry.
    #[default]
    Proportional,
    /// The same for every task. Weights of data entries have no effect.
    Uniform,
    /// Slots by `n^(1/T)` of the proportional share `n`.
    Temperature,
    /// Slots by the weight of the data entry alone, independent of the number of rows.
    Weights,
    /// Slots by weights that follow a reward while the stage is trained.
    Online(Online),
}

impl Mix {
    /// Name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proportional => "proportional",
            Self::Uniform => "uniform",
            Self::Temperature => "temperature",
            Self::Weights => "weights",
            Self::Online(Online {
                online: RuleName::Odm,
                ..
            }) => "online odm",
            Self::Online(Online {
                online: RuleName::Dynamix,
                ..
            }) => "online dynamix",
        }
    }

    /// The mixture before training: itself, or the prior of one that is online.
    pub(super) fn before_training(self) -> Self {
        match self {
            Self::Online(online) => match online.prior() {
                Prior::Uniform => Self::Uniform,
                Prior::Proportional => Self::Proportional,
                Prior::Weights => Self::Weights,
            },
            fixed => fixed,
        }
    }
}

/// Mixtures that a word names.
const NAMED: [Mix; 4] = [
    Mix::Proportional,
    Mix::Uniform,
    Mix::Temperature,
    Mix::Weights,
];
/// Their words.
const NAMES: [&str; 4] = ["proportional", "uniform", "temperature", "weights"];

impl Serialize for Mix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Online(online) => online.serialize(serializer),
            named => serializer.serialize_str(named.name()),
        }
    }
}

impl<'de> Deserialize<'de> for Mix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MixVisitor)
    }
}

struct MixVisitor;

impl<'de> Visitor<'de> for MixVisitor {
    type Value = Mix;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a mixture, or fields with `online`")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Mix, E> {
        let place = NAMES.iter().position(|name| *name == value);
        match place {
            Some(place) => Ok(NAMED[place]),
            None if ["odm", "dynamix"].contains(&value) => Err(E::custom(format!(
                "`{value}` is a rule of weights that follow a reward; write `mix: {{online: {value}}}`"
            ))),
            None => Err(E::unknown_variant(value, &NAMES)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Mix, A::Error> {
        Online::deserialize(MapAccessDeserializer::new(map)).map(Mix::Online)
    }
}

/// Choice of the example for a slot. In every case no row repeats before all rows that compete for
/// the slot were drawn, and a later stage continues in their order where an earlier one stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Draw {
    /// The next row of the task in a seeded order; `mix` and `replay` choose the task.
    #[default]
    Shuffled,
    /// Slots are equal over the stage's tasks. Inside a task whose rows have labels, they are equal
    /// over the labels that have rows (rows without a label count as one more label), and inside
    /// those over rows with and without audio. A remainder rotates from step to step. Inside such a
    /// cell rows come in a seeded order, so rare labels repeat: see `max_repeats`. `mix`,
    /// `temperature` and `replay` are refused with it. A data entry with `weight: 0` is left out;
    /// other weights have no effect.
    Balanced,
    /// The slots of `balanced`, with rows chosen so that the batch is diverse. Each cell's seeded
    /// order is cut into blocks that serve `block` consecutive steps. Each step takes rows from the
    /// rest of its block, by the rule `select` over `embeddings` of the rows. Rows without audio
    /// are compared only with each other.
    Diverse,
    /// The slots of `balanced`. Each has the next few rows of its cell's seeded order as
    /// candidates, and takes the one with the highest score under the model as it stands: the
    /// nuclear norm of its logits, plus their distance to those of rows chosen lately. The others
    /// are passed over.
    Uds,
}

impl Draw {
    /// Name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shuffled => "shuffled",
            Self::Balanced => "balanced",
            Self::Diverse => "diverse",
            Self::Uds => "uds",
        }
    }
}

/// Rule by which a step of a diverse stage chooses from its block, cell by cell in the order of
/// tasks and labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The row whose smallest cosine distance to those already in the batch is largest; the first
    /// is the earliest in order.
    #[default]
    Farthest,
    /// Clusters the block's rows by k-means, with as many clusters as a step has slots for audio. A
    /// slot takes the earliest row of its cell whose cluster the batch has used least. Rows without
    /// audio come in their order.
    Kmeans,
    /// Draws from a k-DPP over the cell's rows, given those in the batch, so that less similar rows
    /// are more likely.
    Kdpp,
    /// Takes rows in their order: exactly the picks of `draw: balanced`. The control for the
    /// selection.
    Random,
}

/// Model of the embeddings that a diverse stage compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingSource {
    /// The model at the start of the run.
    #[default]
    Base,
    /// The model at the start of the stage.
    Current,
    /// Random directions, one per row: the control for the embeddings.
    Random,
}

/// Condition that ends a stage before its planned length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// Score to watch, as evaluations name it: `mean`, or `<set>.<metric>`.
    pub score: String,
    /// Number of consecutive evaluations inside the stage without a better score before it ends.
    pub patience: u32,
    /// Smallest improvement that counts, in the unit of the score.
    #[serde(default)]
    pub min_delta: f64,
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
            other => Err(E::custom(format!(
                "`tasks: {other}` is neither `all` nor a list; write `tasks: [{other}]`"
            ))),
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
  - {draw: balanced, max_repeats: 4, steps: 10, early_stop: {score: words.wer, patience: 3, min_delta: 0.01}}
  - {draw: diverse, block: 4, select: kdpp, embeddings: current, steps: 10}
  - {mix: {online: odm, reward_scale: 15}, steps: 10}
  - {draw: uds, uds: {candidates: 2}, steps: 10}
";
        let settings: Settings = yaml_serde::from_str(yaml).unwrap();
        assert_eq!(settings.batch, 8);
        let [listen, discern, refine, level, spread, online, uds] = &settings.stages[..] else {
            panic!("{settings:?}")
        };
        assert_eq!(
            (listen.name_at(0), listen.tasks.clone(), listen.steps),
            (
                "listen".into(),
                TaskList::Named(vec!["asr".into()]),
                Some(1000)
            )
        );
        assert_eq!(
            (
                discern.name_at(1),
                discern.replay,
                discern.epochs,
                discern.learning_rate
            ),
            ("stage-2".into(), Some(0.2), Some(2.0), Some(5e-5))
        );
        assert_eq!(
            (discern.mix, discern.temperature),
            (Some(Mix::Temperature), Some(3.0))
        );
        assert_eq!(
            (&refine.tasks, refine.mix, refine.draw),
            (&TaskList::All, Some(Mix::Uniform), Draw::Shuffled)
        );
        assert_eq!((level.draw, level.max_repeats), (Draw::Balanced, Some(4)));
        assert_eq!(
            level.early_stop,
            Some(EarlyStop {
                score: "words.wer".into(),
                patience: 3,
                min_delta: 0.01
            })
        );
        assert_eq!((spread.draw, spread.block), (Draw::Diverse, Some(4)));
        assert_eq!(
            (spread.select, spread.embeddings),
            (Some(Select::Kdpp), Some(EmbeddingSource::Current))
        );
        let Some(Mix::Online(odm)) = online.mix else {
            panic!("{online:?}")
        };
        assert_eq!(
            (odm.online, odm.reward_scale, odm.alpha),
            (RuleName::Odm, Some(15.0), None)
        );
        assert_eq!(
            (uds.draw, uds.uds),
            (
                Draw::Uds,
                Some(UdsSettings {
                    candidates: 2,
                    ..UdsSettings::default()
                })
            )
        );
        let again: Settings =
            yaml_serde::from_str(&yaml_serde::to_string(&settings).unwrap()).unwrap();
        assert_eq!(again, settings);
    }

    #[test]
    fn default_settings_are_not_written() {
        let settings: Settings = yaml_serde::from_str("{batch: 2, stages: [{steps: 3}]}").unwrap();
        let written = "batch: 2\nstages:\n- tasks: all\n  steps: 3\n  draw: shuffled\n";
        assert_eq!(
            yaml_serde::to_string(&settings).unwrap(),
            written,
            "recipes of finished runs stay as they were stored"
        );
        let seeded: Settings =
            yaml_serde::from_str("{batch: 2, seed: 3, shuffle: true, stages: []}").unwrap();
        assert_eq!((seeded.seed, seeded.shuffle), (Some(3), true));
        assert_eq!(
            yaml_serde::to_string(&seeded).unwrap(),
            "batch: 2\nseed: 3\nshuffle: true\nstages: []\n"
        );
    }

    #[test]
    fn unknown_values_are_refused_with_the_known_ones() {
        for (yaml, found) in [
            ("{batch: 8, stages: [{stepz: 3}]}", "unknown field `stepz`"),
            (
                "{batch: 8, stages: [{draw: divers}]}",
                "unknown variant `divers`, expected one of `shuffled`, `balanced`, `diverse`, `uds`",
            ),
            (
                "{batch: 8, stages: [{select: kcenter}]}",
                "unknown variant `kcenter`",
            ),
            (
                "{batch: 8, stages: [{embeddings: now}]}",
                "unknown variant `now`",
            ),
            (
                "{batch: 8, stages: [{early_stop: {score: mean}}]}",
                "missing field `patience`",
            ),
            ("{batch: 8, stages: [{max_repeats: -1}]}", "-1"),
            (
                "{batch: 8, suffle: true, stages: []}",
                "unknown field `suffle`",
            ),
            ("{batch: 8, stages: [{tasks: asr}]}", "write `tasks: [asr]`"),
            (
                "{batch: 8, stages: [{tasks: [asr, asr]}]}",
                "names `asr` twice",
            ),
            (
                "{batch: 8, stages: [{mix: even}]}",
                "unknown variant `even`",
            ),
            (
                "{batch: 8, stages: [{mix: odm}]}",
                "write `mix: {online: odm}`",
            ),
            (
                "{batch: 8, stages: [{mix: {online: exp4}}]}",
                "unknown variant `exp4`, expected `odm` or `dynamix`",
            ),
            (
                "{batch: 8, stages: [{mix: {online: odm, alfa: 1}}]}",
                "unknown field `alfa`",
            ),
            (
                "{batch: 8, stages: [{mix: {alpha: 1}}]}",
                "missing field `online`",
            ),
            (
                "{batch: 8, stages: [{uds: {candidate: 1}}]}",
                "unknown field `candidate`",
            ),
            ("{batch: -1, stages: []}", "-1"),
            ("{stages: []}", "missing field `batch`"),
        ] {
            let error = yaml_serde::from_str::<Settings>(yaml)
                .unwrap_err()
                .to_string();
            assert!(error.contains(found), "{yaml}: {error}");
        }
    }
}
