//! The answers of a run to a set, read back and compared with the rows of the set.

use std::path::Path;

use crate::error::Error;
use crate::error::Result;
use crate::eval::suite::Set;
use crate::records::prediction;
use crate::records::prediction::Prediction;

/// The predictions of a set in a folder of answers, in the order of the set.
///
/// # Errors
/// A file that is missing or damaged, or answers to other rows.
pub fn read(folder: &Path, set: &Set) -> Result<Vec<Prediction>> {
    let path = folder.join(format!("{}.jsonl", set.name));
    let predictions = prediction::read(&path)?;
    let differs = predictions.len() != set.examples.len()
        || predictions
            .iter()
            .zip(&set.examples)
            .any(|(answer, example)| answer.id != example.id);
    if differs {
        return Err(Error::input(format!("the answers are not those to the rows of set `{}`", set.name))
            .at_path(&path)
            .hint("put the suite back as it was when the run was evaluated, or remove the run's folder to train and evaluate it again"));
    }
    Ok(predictions)
}
