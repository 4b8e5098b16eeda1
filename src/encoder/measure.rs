//! Measurements of an encoder between steps.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::encoder::step::Piece;
use crate::encoder::step::Work;
use crate::encoder::targets::Labels;
use crate::error::Result;
use crate::models::hubert::Encoded;
use crate::seed::Key;
use crate::stats::codes::Codes;
use crate::stats::pca_stream;

/// Measures the student on the clips after the training ones, or on the training ones where there
/// are no others: accuracies with fixed masks, codes and agreement and ranks of hidden states
/// without masks.
///
/// # Errors
/// Audio that cannot be read.
pub fn measure(work: &Work) -> Result<BTreeMap<String, f64>> {
    let (set, clips) = if work.num_train < work.items.len() {
        ("dev", work.num_train..work.items.len())
    } else {
        ("train", 0..work.num_train)
    };
    let mut scores = BTreeMap::new();
    measure_loss(work, set, clips.clone(), &mut scores)?;
    measure_states(work, set, clips, &mut scores)?;
    Ok(scores)
}

/// Loss and accuracies with fixed masks.
fn measure_loss(
    work: &Work,
    set: &str,
    clips: Range<usize>,
    scores: &mut BTreeMap<String, f64>,
) -> Result<()> {
    let key = Key::new(work.recipe.seed, "encoder measure");
    let pieces: Vec<Piece> = clips
        .map(|item| work.piece(item, key.with(item as u64)))
        .collect();
    let outcome = work.compute(&pieces, false)?;

    scores.insert(format!("{set}.loss"), outcome.loss);
    let accuracies = [
        ("masked_accuracy", outcome.masked_accuracy()),
        ("unmasked_accuracy", outcome.unmasked_accuracy()),
    ];
    for (name, accuracy) in accuracies {
        if let Some(accuracy) = accuracy {
            scores.insert(format!("{set}.{name}"), accuracy);
        }
    }
    Ok(())
}

/// Ranks of hidden states, and codes of every target of ids, without masks.
fn measure_states(
    work: &Work,
    set: &str,
    clips: Range<usize>,
    scores: &mut BTreeMap<String, f64>,
) -> Result<()> {
    let config = &work.model.config;
    let num_layers = config.num_hidden_layers + 1;
    let mut ranks: Vec<pca_stream::Moments> = (0..num_layers)
        .map(|_| pca_stream::Moments::new(config.hidden_size))
        .collect();
    let mut targets: Vec<TargetCodes> = (0..work.taught.len())
        .filter(|&target| work.is_ids(target))
        .map(|target| TargetCodes::new(target, &work.recipe.evaluate.against))
        .collect();

    let mut seconds = 0.0;
    for item in clips {
        if seconds >= work.recipe.evaluate.rank_s {
            break;
        }
        seconds += work.items[item].seconds();
        let encoded = work.encode(item)?;
        for (rank, hidden) in ranks.iter_mut().zip(&encoded.hidden) {
            rank.add(&hidden.flatten_all()?.to_vec1::<f32>()?);
        }
        for target in &mut targets {
            target.add(work, item, &encoded)?;
        }
    }

    for (layer, rank) in ranks.iter().enumerate() {
        scores.insert(format!("{set}.rank.layer-{layer}"), rank.effective_rank());
    }
    for target in &targets {
        target.score(set, scores);
    }
    Ok(())
}

/// Codes that a target's head predicts, alone and against fields of rows.
struct TargetCodes<'a> {
    target: usize,
    codes: Codes,
    against: Vec<(&'a String, Codes)>,
}

impl<'a> TargetCodes<'a> {
    fn new(target: usize, fields: &'a [String]) -> Self {
        Self {
            target,
            codes: Codes::default(),
            against: fields
                .iter()
                .map(|field| (field, Codes::default()))
                .collect(),
        }
    }

    fn add(&mut self, work: &Work, item: usize, encoded: &Encoded) -> Result<()> {
        let predicted = work.predicted(self.target, encoded)?;
        for &code in &predicted {
            self.codes.add(code, None);
        }
        for (field, codes) in &mut self.against {
            let labels = Labels::of(&work.items[item], field);
            for (frame, &code) in predicted.iter().enumerate() {
                codes.add(code, labels.at(frame, work.model.config.stride()));
            }
        }
        Ok(())
    }

    fn score(&self, set: &str, scores: &mut BTreeMap<String, f64>) {
        let name = format!("{set}.target-{}", self.target + 1);
        scores.insert(
            format!("{name}.active_codes"),
            self.codes.num_active() as f64,
        );
        scores.insert(format!("{name}.perplexity"), self.codes.perplexity());
        for (field, codes) in &self.against {
            if let Some(agreement) = codes.agreement() {
                scores.insert(format!("{name}.{field}.purity"), agreement.purity);
                scores.insert(format!("{name}.{field}.pnmi"), agreement.pnmi);
            }
        }
    }
}
