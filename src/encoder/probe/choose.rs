//! Cross-validation over the speakers of the training rows. It chooses classifier and weight decay
//! before dev is scored.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use candle_core::Device;

use crate::encoder::probe::head::Head;
use crate::encoder::probe::loss;
use crate::encoder::probe::reader::Features;
use crate::encoder::probe::recipe::Choose;
use crate::encoder::probe::recipe::Recipe;
use crate::encoder::probe::rows::HeadRows;
use crate::encoder::probe::rows::drawn_of;
use crate::encoder::probe::work::Work;
use crate::encoder::step::Moments;
use crate::error::Error;
use crate::error::Result;
use crate::metrics::classify;
use crate::objective::ctc;
use crate::ops::adamw::norm;
use crate::ops::scalar::Scalar;
use crate::records::head::HeadCandidate;
use crate::records::head::HeadChoice;
use crate::stop::Stop;

/// Trains every candidate on all folds but one, predicts that one, and chooses the candidate with
/// the highest UAR over all training rows; of equal ones, the first.
///
/// # Errors
/// Rows without a speaker; fewer speakers than folds; a loss that is not finite; a wish to stop.
pub fn choose(work: &Work, settings: &Choose, stop: &Stop) -> Result<HeadChoice> {
    let folds = folds_of(&work.rows, settings.folds)?;
    let mut candidates = Vec::new();
    for (classifier, weight_decay) in settings.candidates() {
        let mut recipe = work.recipe.clone();
        recipe.classifier = classifier;
        recipe.optimiser.weight_decay = weight_decay;

        let mut predicted = vec![0; folds.len()];
        for fold in 0..settings.folds {
            stop.check("stopped while choosing; go on with --resume")?;
            let rows = 0..folds.len();
            let (held_out, training): (Vec<usize>, Vec<usize>) =
                rows.partition(|&row| folds[row] == fold);
            let classes = train_and_predict(work, &recipe, &training, &held_out)?;
            for (row, class) in held_out.into_iter().zip(classes) {
                predicted[row] = class;
            }
        }

        let fold_uar = (0..settings.folds)
            .map(|fold| uar(&work.rows, &predicted, |row| folds[row] == fold))
            .collect::<Result<Vec<_>>>()?;
        candidates.push(HeadCandidate {
            classifier: classifier.name().to_owned(),
            weight_decay,
            uar: uar(&work.rows, &predicted, |_| true)?,
            fold_uar,
        });
    }

    let mut chosen = 0;
    for (place, candidate) in candidates.iter().enumerate() {
        if candidate.uar > candidates[chosen].uar {
            chosen = place;
        }
    }
    Ok(HeadChoice {
        folds: settings.folds,
        chosen,
        candidates,
    })
}

/// The recipe with the choice in it.
///
/// # Errors
/// A choice among other candidates than the recipe's.
pub fn with_choice(recipe: &Recipe, settings: &Choose, choice: &HeadChoice) -> Result<Recipe> {
    let candidates = settings.candidates();
    let Some(&(classifier, weight_decay)) = candidates.get(choice.chosen) else {
        return Err(Error::input(format!(
            "candidate {} is chosen, of {}",
            choice.chosen,
            candidates.len()
        ))
        .hint("remove `choice.json` of the run, and resume it"));
    };
    let mut chosen = recipe.clone();
    chosen.classifier = classifier;
    chosen.optimiser.weight_decay = weight_decay;
    Ok(chosen)
}

/// Fold of each training row.
fn folds_of(rows: &HeadRows, num_folds: usize) -> Result<Vec<usize>> {
    let mut speakers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, item) in rows.items[..rows.num_train].iter().enumerate() {
        let Some(speaker) = item.row.speaker.as_deref() else {
            return Err(Error::input("no `speaker`").at(item.place()).hint(
                "`choose` divides training rows by speaker; name it, or leave `choose` out",
            ));
        };
        speakers.entry(speaker).or_default().push(row);
    }

    if speakers.len() < num_folds {
        return Err(Error::input(format!(
            "{} speakers in the training rows for {num_folds} folds",
            speakers.len()
        ))
        .at("`choose.folds`")
        .hint("write fewer folds, at most one for each speaker"));
    }

    let counts: Vec<usize> = speakers.values().map(Vec::len).collect();
    let mut folds = vec![0; rows.num_train];
    for (of_speaker, fold) in speakers.into_values().zip(deal(&counts, num_folds)) {
        for row in of_speaker {
            folds[row] = fold;
        }
    }
    Ok(folds)
}

/// Fold of each speaker, from the number of rows of each: the speakers with the most rows first,
/// each to the fold that has the fewest.
fn deal(counts: &[usize], num_folds: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&speaker| Reverse(counts[speaker]));

    let mut sizes = vec![0; num_folds];
    let mut folds = vec![0; counts.len()];
    for speaker in order {
        let fold = (0..num_folds).min_by_key(|&fold| sizes[fold]).unwrap_or(0);
        sizes[fold] += counts[speaker];
        folds[speaker] = fold;
    }
    folds
}

/// Class of each held-out row, by a head that learned the training rows.
fn train_and_predict(
    work: &Work,
    recipe: &Recipe,
    training: &[usize],
    held_out: &[usize],
) -> Result<Vec<usize>> {
    let rows = &work.rows;
    let optimiser = &recipe.optimiser;
    let head = Head::new(recipe, &work.reader, rows.units.names.len())?;
    let moments = Moments::new(&head.parameters)?;
    for step in 0..recipe.steps {
        let drawn: Vec<usize> = drawn_of(recipe, step, training.len())
            .into_iter()
            .map(|place| training[place])
            .collect();
        head.parameters.zero_gradients()?;
        let forward = head.forward(pooled(work, &drawn)?)?;
        let (loss, d_logits) = loss::loss(recipe.head, rows, &drawn, &forward, drawn.len())?;
        head.backward(&work.reader, &forward, &d_logits)?;

        let grad_norm = Scalar::new(norm(&head.parameters.gradients)?.value()?, &Device::Cpu)?;
        let rate = optimiser.learning_rate * optimiser.factor(step, recipe.steps);
        let of_step = (loss, &grad_norm);
        moments.update(
            &head.parameters,
            optimiser,
            |_| true,
            of_step,
            rate,
            step + 1,
        )?;
    }

    let forward = head.forward(pooled(work, held_out)?)?;
    let (_, units) = forward.logits.dims2()?;
    let logits: Vec<f32> = forward.logits.flatten_all()?.to_vec1()?;
    Ok(logits.chunks(units).map(ctc::first_largest).collect())
}

fn pooled(work: &Work, rows: &[usize]) -> Result<Features> {
    work.pooled_features(rows)?
        .ok_or_else(|| Error::bug("no summaries of clips to choose with"))
}

/// UAR of predicted classes over some of the training rows.
fn uar(rows: &HeadRows, predicted: &[usize], is_counted: impl Fn(usize) -> bool) -> Result<f64> {
    let mut pairs = Vec::new();
    for (row, &class) in predicted.iter().enumerate() {
        if is_counted(row) {
            let name = rows.units.names[class].as_str();
            pairs.push((rows.texts[row].as_str(), Some(name)));
        }
    }
    Ok(classify::classify(pairs, None)?.uar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speakers_are_dealt_evenly() {
        // 5 to the first fold, 4 and 3 to the second, 2 to the first: 7 rows in each.
        assert_eq!(deal(&[3, 5, 2, 4], 2), [1, 0, 0, 1]);
        // As many folds as speakers: each has its own, in the order of their rows.
        assert_eq!(deal(&[1, 1, 2], 3), [1, 2, 0]);
    }
}
