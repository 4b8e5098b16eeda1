//! The lines of `log.jsonl`. They hold what a run computed and nothing of when or where, so that
//! two runs of one seed log the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::numbers::by_name;
use crate::numbers::nan;
use crate::numbers::number;
use crate::scores::Scores;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::json;
use maqam_base::jsonl;
use maqam_base::jsonl::LastLine;

/// One line, its `kind` first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// A finished optimiser step.
    Train(StepRecord),
    /// An evaluation.
    Eval(EvalRecord),
    /// A probe.
    Probe(ProbeRecord),
    /// Weights of tasks that follow a reward.
    Mixture(MixtureRecord),
    /// How the gradients of tasks became that of a step.
    Gradients(GradientsRecord),
    /// Choice of the rows of a step among candidates.
    Selection(SelectionRecord),
    /// A measurement of the audio gap.
    AudioGap(AudioGapRecord),
    /// A stage that ended early.
    StageEnd(StageEnd),
    /// Scores of a round of mSFT.
    Round(RoundRecord),
    /// A task that left its stage, with the roll-back to its peak.
    RollBack(RollBackRecord),
    /// A device or precision that computes from here on.
    Device(DeviceRecord),
}

/// One finished optimiser step of a model, a head or an encoder. Encoders count frames as tokens,
/// and frames with a weight as target tokens; their stages are `iteration-1` and so on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Number of the step, from 1.
    pub step: u64,
    /// Name of its stage.
    #[serde(default)]
    pub stage: String,
    /// Weighted mean over target tokens of the (smoothed) negative log-likelihood, nats, before the
    /// update.
    #[serde(default = "nan", deserialize_with = "number")]
    pub loss: f64,
    /// Length of the gradient before clipping.
    #[serde(default = "nan", deserialize_with = "number")]
    pub grad_norm: f64,
    /// Learning rate of the update.
    #[serde(default = "nan", deserialize_with = "number")]
    pub learning_rate: f64,
    /// Number of examples.
    #[serde(default)]
    pub examples: usize,
    /// All tokens, audio tokens included.
    #[serde(default)]
    pub tokens: usize,
    /// Target tokens.
    #[serde(default)]
    pub target_tokens: usize,
    /// Length of the audio, in seconds.
    #[serde(default)]
    pub seconds: f64,
    /// Rows left out because they could not be read.
    #[serde(default)]
    pub skipped: usize,
    /// Mean losses and numbers by task, without weights and label smoothing.
    #[serde(default)]
    pub tasks: BTreeMap<String, TaskRecord>,
    /// Of a stage with an auxiliary CTC loss: that loss. It is not in `loss`; `grad_norm` is of
    /// both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctc: Option<CtcRecord>,
    /// Mean difficulty of the step's rows, in a stage that orders rows by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<f64>,
    /// Of an encoder that learns ids: share of masked frames whose id was predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked_accuracy: Option<f64>,
    /// The same of frames that were not masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmasked_accuracy: Option<f64>,
    /// Of an encoder that learns a teacher's features: mean cosine with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
}

/// Auxiliary CTC loss of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CtcRecord {
    /// Clips with a transcript.
    #[serde(default)]
    pub clips: usize,
    /// Of these, clips with too few audio tokens to spell it: they are not learnt.
    #[serde(default)]
    pub too_short: usize,
    /// Characters of the others.
    #[serde(default)]
    pub characters: usize,
    /// Negative log-likelihood of their transcripts over their characters, nats, before the update.
    #[serde(default = "nan", deserialize_with = "number")]
    pub loss: f64,
}

/// One task's part of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Number of examples.
    #[serde(default)]
    pub examples: usize,
    /// Length of the audio, in seconds.
    #[serde(default)]
    pub seconds: f64,
    /// Target tokens.
    #[serde(default)]
    pub target_tokens: usize,
    /// Mean over the task's target tokens of the negative log-likelihood, nats, before the update.
    #[serde(default = "nan", deserialize_with = "number")]
    pub loss: f64,
}

/// An evaluation, under a control or as it is: `step` and `loss` never stand at its top, so that
/// readers of training curves pass over it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Steps before it.
    pub at_step: u64,
    /// The control that it was asked under, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
    /// Score of `evaluate.keep_best` on the half of dev that selects, where a stage ends by mSFT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selecting: Option<f64>,
    /// Its scores.
    #[serde(default)]
    pub scores: Scores,
}

/// What a probe of the tasks' gradients found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeRecord {
    /// The step whose examples it looked at, from 1; the weights are those before its update.
    pub at_step: u64,
    /// Name of its stage.
    #[serde(default)]
    pub stage: String,
    /// Length of each task's gradient over all trained parameters.
    #[serde(default, deserialize_with = "by_name")]
    pub norms: BTreeMap<String, f64>,
    /// Cosine between the gradients of two tasks, `first|second` in the order of their names.
    #[serde(default, deserialize_with = "by_name")]
    pub cosines: BTreeMap<String, f64>,
}

/// Weights of a stage with `mix: {online: ...}`, by task. The first line of a stage has the weights
/// before training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MixtureRecord {
    /// Steps before it: the weights hold from the next step on.
    pub at_step: u64,
    /// Name of the stage.
    #[serde(default)]
    pub stage: String,
    /// Weights; they sum to 1.
    #[serde(default, deserialize_with = "by_name")]
    pub weights: BTreeMap<String, f64>,
    /// Moving averages of the rewards that they follow from.
    #[serde(default, deserialize_with = "by_name")]
    pub rewards: BTreeMap<String, f64>,
    /// Slots of the stage so far.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// Losses on rows set aside before and after a look-ahead step on the task, nats per target
    /// token; `None` where a loss is not finite.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lookahead: BTreeMap<String, [Option<f64>; 2]>,
}

/// How the gradients of the tasks of a step became its gradient, under `gradients:` of a recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GradientsRecord {
    /// The step, from 1.
    pub at_step: u64,
    /// Name of its stage.
    #[serde(default)]
    pub stage: String,
    /// Under PCGrad: number of projections, and number of ordered pairs of tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicts: Option<[u64; 2]>,
    /// Under FAMO: weight of each task, before the step's update of them.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "by_name"
    )]
    pub weights: BTreeMap<String, f64>,
    /// Under FAMO: factor of each task's gradient, which is its weight over its loss, normalised.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "by_name"
    )]
    pub factors: BTreeMap<String, f64>,
}

/// Choice of the rows of a step under `draw: uds`. Means are over rows that could be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectionRecord {
    /// The step, from 1; the model is the one before its update.
    pub at_step: u64,
    /// Name of its stage.
    #[serde(default)]
    pub stage: String,
    /// Number of candidates that were passed forward.
    #[serde(default)]
    pub candidates: usize,
    /// Mean nuclear norm of the candidates' logits.
    #[serde(default = "nan", deserialize_with = "number")]
    pub norm: f64,
    /// Mean nuclear norm of the chosen rows' logits.
    #[serde(default = "nan", deserialize_with = "number")]
    pub chosen_norm: f64,
    /// Mean distance of the candidates to rows chosen lately; 0 if there are none.
    #[serde(default = "nan", deserialize_with = "number")]
    pub distance: f64,
    /// Mean distance of the chosen rows to rows chosen lately.
    #[serde(default = "nan", deserialize_with = "number")]
    pub chosen_distance: f64,
}

/// Audio gap of the model after some steps: losses of the same rows with their own audio and with
/// that of other rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioGapRecord {
    /// Steps before it; 0 for the model as the run starts.
    pub at_step: u64,
    /// Name of the last step's stage; of the first stage at step 0.
    #[serde(default)]
    pub stage: String,
    /// Training rows, by task.
    #[serde(default)]
    pub tasks: BTreeMap<String, GapRecord>,
    /// Rows of the recipe's suite, by set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sets: BTreeMap<String, GapRecord>,
}

/// Audio gap of some rows. Losses are sums over all target tokens divided by their number, in nats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GapRecord {
    /// Number of rows.
    #[serde(default)]
    pub rows: usize,
    /// Their target tokens.
    #[serde(default)]
    pub target_tokens: usize,
    /// Loss with the rows' own audio.
    #[serde(default = "nan", deserialize_with = "number")]
    pub loss: f64,
    /// Loss with the audio of other rows.
    #[serde(default = "nan", deserialize_with = "number")]
    pub wrong_loss: f64,
    /// `wrong_loss` minus `loss`. Without use of the audio's content it is near 0: what is left is
    /// the effect of lengths that differ.
    #[serde(default = "nan", deserialize_with = "number")]
    pub gap: f64,
    /// Number of rows whose own audio has the lower loss; half of them by chance.
    #[serde(default)]
    pub wins: usize,
}

/// A stage that ended before its planned length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageEnd {
    /// Its last step.
    #[serde(default)]
    pub at_step: u64,
    /// Its name.
    #[serde(default)]
    pub stage: String,
    /// Why it ended.
    #[serde(default)]
    pub reason: String,
}

/// Scores of a stage that ends by mSFT, on two halves of dev.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// Steps before it.
    pub at_step: u64,
    /// Name of the stage.
    #[serde(default)]
    pub stage: String,
    /// Score of each task on the half that selects.
    #[serde(default, deserialize_with = "by_name")]
    pub selection: BTreeMap<String, f64>,
    /// Score of each task on the other half.
    #[serde(default, deserialize_with = "by_name")]
    pub reported: BTreeMap<String, f64>,
}

/// A task that left a stage at the peak of its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RollBackRecord {
    /// Steps before it.
    pub at_step: u64,
    /// Step of the peak, whose parameters training continues with.
    pub to_step: u64,
    /// Name of the stage.
    #[serde(default)]
    pub stage: String,
    /// Name of the score.
    #[serde(default)]
    pub score: String,
    /// The task.
    #[serde(default)]
    pub task: String,
    /// Number of steps that are rolled back.
    #[serde(default)]
    pub steps: u64,
}

/// What computes the steps after this line, where it is something else than before. A log begins on
/// the CPU, in `f32`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Steps before it.
    pub at_step: u64,
    /// Kind of device: `cpu` or `cuda`.
    pub device: String,
    /// Type of frozen weights and activations, such as `f32`.
    pub precision: String,
}

impl Line {
    /// The line as it stands in the file, without its end.
    ///
    /// # Errors
    /// None but a fault of ours.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::bug_from)
    }

    /// Reads a line; `None` for a kind that this version does not know.
    ///
    /// # Errors
    /// Text that is no JSON, or lacks what its kind has.
    pub fn parse(text: &[u8]) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct LineHead {
            kind: String,
            step: Option<u64>,
            at_step: Option<u64>,
        }

        let place = |e: Error| {
            e.at("not a line of a log")
                .hint("while a run is at work its last line may be half written; try again then")
        };
        let found: LineHead = json::parse_slice(text).map_err(place)?;
        let (key, number) = match found.kind.as_str() {
            "train" => ("step", found.step),
            "eval" | "probe" | "mixture" | "gradients" | "selection" | "audio_gap" | "round"
            | "roll_back" => ("at_step", found.at_step),
            _ => ("", Some(0)),
        };
        if number.is_none() {
            return Err(Error::input(format!(
                "a line of kind `{}` without `{key}`",
                found.kind
            )));
        }
        let line = match found.kind.as_str() {
            "train" => Self::Train(json::parse_slice(text).map_err(place)?),
            "eval" => Self::Eval(json::parse_slice(text).map_err(place)?),
            "probe" => Self::Probe(json::parse_slice(text).map_err(place)?),
            "mixture" => Self::Mixture(json::parse_slice(text).map_err(place)?),
            "gradients" => Self::Gradients(json::parse_slice(text).map_err(place)?),
            "selection" => Self::Selection(json::parse_slice(text).map_err(place)?),
            "audio_gap" => Self::AudioGap(json::parse_slice(text).map_err(place)?),
            "stage_end" => Self::StageEnd(json::parse_slice(text).map_err(place)?),
            "round" => Self::Round(json::parse_slice(text).map_err(place)?),
            "roll_back" => Self::RollBack(json::parse_slice(text).map_err(place)?),
            "device" => Self::Device(json::parse_slice(text).map_err(place)?),
            _ => return Ok(None),
        };
        Ok(Some(line))
    }
}

/// Reads a log, passing each line of a known kind to `visit`; blank lines are passed over.
///
/// # Errors
/// A line that is no line of a log, or that `visit` refuses; the message names file and line.
pub fn each(path: &Path, mut visit: impl FnMut(Line) -> Result<()>) -> Result<()> {
    jsonl::each_line(path, LastLine::Row, |_, text| {
        Line::parse(text)?.map_or(Ok(()), &mut visit)
    })?;
    Ok(())
}

/// Reads a whole log.
///
/// # Errors
/// As [`each`].
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    each(path, |line| {
        lines.push(line);
        Ok(())
    })?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let lines = [
            r#"{"kind":"train","step":1,"stage":"listen","loss":2.5,"grad_norm":1.0,"learning_rate":0.001,"examples":2,"tokens":9,"target_tokens":4,"seconds":2.5,"skipped":0,"tasks":{"asr":{"examples":2,"seconds":2.5,"target_tokens":4,"loss":2.5}}}"#,
            r#"{"kind":"train","step":1,"stage":"listen","loss":2.5,"grad_norm":1.0,"learning_rate":0.001,"examples":2,"tokens":9,"target_tokens":4,"seconds":2.5,"skipped":0,"tasks":{},"ctc":{"clips":2,"too_short":1,"characters":3,"loss":1.5}}"#,
            r#"{"kind":"train","step":1,"stage":"iteration-1","loss":2.5,"grad_norm":1.0,"learning_rate":0.001,"examples":2,"tokens":9,"target_tokens":4,"seconds":2.5,"skipped":0,"tasks":{},"masked_accuracy":0.5,"unmasked_accuracy":0.75,"cosine":0.25}"#,
            r#"{"kind":"train","step":1,"stage":"listen","loss":2.5,"grad_norm":1.0,"learning_rate":0.001,"examples":2,"tokens":9,"target_tokens":4,"seconds":2.5,"skipped":0,"tasks":{},"difficulty":1.5}"#,
            r#"{"kind":"eval","at_step":1,"control":"no-audio","scores":{"b.wer":0.1,"a.loss":2.0,"mean":0.9}}"#,
            r#"{"kind":"eval","at_step":1,"scores":{"mean":0.9}}"#,
            r#"{"kind":"eval","at_step":1,"selecting":0.5,"scores":{"mean":0.9}}"#,
            r#"{"kind":"probe","at_step":2,"stage":"listen","norms":{"asr":1.5},"cosines":{"asr|emotion":-0.25}}"#,
            r#"{"kind":"mixture","at_step":2,"stage":"listen","weights":{"asr":0.75,"emotion":0.25},"rewards":{"asr":1.5,"emotion":0.5},"counts":{"asr":6,"emotion":2}}"#,
            r#"{"kind":"mixture","at_step":2,"stage":"listen","weights":{"asr":1.0},"rewards":{"asr":1.0},"counts":{"asr":6},"lookahead":{"asr":[2.5,2.25],"emotion":[2.5,null]}}"#,
            r#"{"kind":"gradients","at_step":2,"stage":"listen","conflicts":[1,6]}"#,
            r#"{"kind":"selection","at_step":2,"stage":"listen","candidates":8,"norm":20.5,"chosen_norm":22.25,"distance":0.0,"chosen_distance":0.0}"#,
            r#"{"kind":"gradients","at_step":2,"stage":"listen","weights":{"asr":0.5},"factors":{"asr":0.25}}"#,
            r#"{"kind":"audio_gap","at_step":2,"stage":"listen","tasks":{"asr":{"rows":2,"target_tokens":4,"loss":1.0,"wrong_loss":1.5,"gap":0.5,"wins":2}}}"#,
            r#"{"kind":"audio_gap","at_step":0,"stage":"listen","tasks":{},"sets":{"words":{"rows":2,"target_tokens":4,"loss":1.5,"wrong_loss":1.0,"gap":-0.5,"wins":0}}}"#,
            r#"{"kind":"stage_end","at_step":2,"stage":"listen","reason":"no better for 3 evaluations"}"#,
            r#"{"kind":"round","at_step":2,"stage":"listen","selection":{"asr":0.5},"reported":{"asr":0.25}}"#,
            r#"{"kind":"roll_back","at_step":4,"to_step":2,"stage":"listen","score":"words.wer","task":"asr","steps":2}"#,
            r#"{"kind":"device","at_step":2,"device":"cuda","precision":"bf16"}"#,
        ];
        for text in lines {
            let line = Line::parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!(line.to_text().unwrap(), text);
        }
        assert_eq!(Line::parse(br#"{"kind":"a later one"}"#).unwrap(), None);
    }

    #[test]
    fn a_number_that_was_not_finite_is_none() {
        let text = r#"{"kind":"train","step":1,"loss":null,"tasks":{"asr":{"loss":null}}}"#;
        let Some(Line::Train(record)) = Line::parse(text.as_bytes()).unwrap() else {
            panic!("another kind")
        };
        assert!(record.loss.is_nan() && record.grad_norm.is_nan());
        assert!(record.tasks["asr"].loss.is_nan());
    }
}
