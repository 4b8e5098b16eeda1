//! Scores of sums of n-gram counts: chrF and BLEU.

/// How many times as much as precision recall weighs.
const BETA: f64 = 2.0;

/// F-beta of the averages over orders of precision and recall, 0 to 100, from
/// `[predicted, reference, both]` of each order.
pub(crate) fn chrf(counts: &[f64]) -> f64 {
    let mut precision = 0.0;
    let mut recall = 0.0;
    let mut orders = 0.0;
    for order in counts
        .chunks_exact(3)
        .filter(|order| order[0] > 0.0 && order[1] > 0.0)
    {
        precision += order[2] / order[0];
        recall += order[2] / order[1];
        orders += 1.0;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let precision = precision / orders;
    let recall = recall / orders;
    let factor = BETA * BETA;
    100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall)
}

/// BLEU from `[length, reference length, hits of each order, n-grams of each order]`.
pub(crate) fn bleu(sum: &[f64]) -> f64 {
    let Some((&[len, reference_len], counts)) = sum.split_first_chunk::<2>() else {
        return 0.0;
    };
    let (hits, grams) = counts.split_at(counts.len() / 2);
    if hits.iter().all(|&hits| hits == 0.0) {
        return 0.0;
    }
    let brevity = if len < reference_len {
        (1.0 - reference_len / len).exp()
    } else {
        1.0
    };
    // mteval's smoothing: the first order without a hit counts half of one, the next a quarter.
    let mut smoothing = 1.0;
    let mut logarithms = 0.0;
    for (&hits, &grams) in hits.iter().zip(grams) {
        if grams == 0.0 {
            return 0.0;
        }
        if hits == 0.0 {
            smoothing *= 2.0;
        }
        let precision = if hits == 0.0 {
            100.0 / (smoothing * grams)
        } else {
            100.0 * hits / grams
        };
        logarithms += precision.ln();
    }
    brevity * (logarithms / hits.len() as f64).exp()
}
