//! Scores of models on a suite of instructions beside each other, as one object.

use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::score::Constant;
use crate::eval::instructions::score::Scores;
use crate::eval::instructions::score::change;

/// The scores as one object: those of the base under `base` and what differs under `change`, the best constant answer under `constant`,
/// both models in text alone under `text`.
///
/// # Errors
/// None that input can cause.
pub fn to_json(
    tuned: &Scores,
    base: Option<&Scores>,
    constant: Option<&Constant>,
    text: Option<&(Scores, Scores)>,
) -> Result<serde_json::Value> {
    let mut object = tuned.to_json()?;
    if let Some(base) = base {
        object["base"] = base.to_json()?;
        object["change"] = change_json(base, tuned)?;
    }
    if let Some(constant) = constant {
        object["constant"] = constant.scores.to_json()?;
        object["constant"]["answer"] = constant.answer.as_str().into();
        object["constant"]["change"] = change_json(&constant.scores, tuned)?;
    }
    if let Some((base, tuned)) = text {
        object["text"] = tuned.to_json()?;
        object["text"]["base"] = base.to_json()?;
        object["text"]["change"] = change_json(base, tuned)?;
    }
    Ok(object)
}

fn change_json(base: &Scores, tuned: &Scores) -> Result<serde_json::Value> {
    serde_json::to_value(change(base, tuned)).map_err(Error::bug_from)
}
