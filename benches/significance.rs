//! 10,000 resamples over 10,000 utterances of 2,000 speakers. Run:
//! `cargo bench --bench significance`

use std::time::Instant;

use maqam::error::Result;
use maqam::seed::Key;
use maqam::stats::significance::Clusters;
use maqam::stats::significance::Hierarchical;
use maqam::stats::significance::Inside;
use maqam::stats::significance::Resampling;
use maqam::stats::significance::System;
use maqam::stats::significance::Token;
use maqam::stats::significance::bootstrap;
use maqam::stats::significance::mapsswe;
use maqam::stats::significance::paired_bootstrap;
use maqam::stats::significance::randomisation;

const UTTERANCES: u64 = 10_000;
const SPEAKERS: u64 = 2_000;
const WORDS: u64 = 12;
const LABELS: usize = 8;
const SYSTEMS: u64 = 4;
const SEEDS: u64 = 5;

fn main() -> Result<()> {
    let key = Key::new(1, "bench");
    let ids: Vec<u32> = (0..UTTERANCES)
        .map(|i| key.below(i, SPEAKERS as usize) as u32)
        .collect();
    let clusters = Clusters::by(&ids);
    let resampling = Resampling::default();
    println!(
        "{} resamples, {UTTERANCES} utterances, {} speakers, {} threads",
        resampling.resamples,
        clusters.num_clusters(),
        rayon::current_num_threads()
    );

    let [first, second] = [1, 2].map(|system| errors(key.with(system)));
    timed("interval of a word error rate", || {
        Ok(bootstrap(&first, &clusters, &rate, &resampling)?.standard_error)
    })?;
    timed("paired bootstrap of two", || {
        Ok(paired_bootstrap(&first, &second, &clusters, &rate, &resampling)?.p)
    })?;
    timed("approximate randomisation of two", || {
        Ok(randomisation(&first, &second, &clusters, &rate, &resampling)?.p)
    })?;
    let [first, second] = [1, 2].map(|system| confusions(key.with(system)));
    timed("paired bootstrap of two recalls over 8 labels", || {
        Ok(paired_bootstrap(&first, &second, &clusters, &recall, &resampling)?.p)
    })?;

    let systems: Vec<System> = (0..SYSTEMS)
        .map(|system| System {
            seeds: (0..SEEDS)
                .map(|seed| errors(key.with(system).with(seed)))
                .collect(),
        })
        .collect();
    for (name, inside) in [("whole", Inside::Whole), ("resampled", Inside::Resampled)] {
        let run = || {
            Ok(
                Hierarchical::new(&systems, &clusters, inside, &rate, &resampling)?
                    .difference(0, 1)?
                    .p,
            )
        };
        timed(
            &format!("hierarchical, {SYSTEMS} systems of {SEEDS} seeds, utterances {name}"),
            run,
        )?;
    }

    let alignments: Vec<[Vec<Token>; 2]> = (0..UTTERANCES)
        .map(|utterance| [1, 2].map(|system| alignment(key.with(system).with(utterance))))
        .collect();
    let pairs: Vec<(&[Token], &[Token])> = alignments
        .iter()
        .map(|[first, second]| (first.as_slice(), second.as_slice()))
        .collect();
    timed("matched-pair sentence-segment word errors", || {
        Ok(mapsswe(&pairs)?.p)
    })
}

fn timed(what: &str, run: impl FnOnce() -> Result<f64>) -> Result<()> {
    let started = Instant::now();
    let found = run()?;
    println!("  {:8.1?}  {what} ({found:.4})", started.elapsed());
    Ok(())
}

/// Errors and words.
fn errors(key: Key) -> Vec<Vec<f64>> {
    (0..UTTERANCES)
        .map(|i| vec![key.below(i, 4) as f64, WORDS as f64])
        .collect()
}

/// A confusion matrix of one answer, right in two of three cases.
fn confusions(key: Key) -> Vec<Vec<f64>> {
    let of_utterance = |i: u64| {
        let reference = i as usize % LABELS;
        let is_right = key.uniform(2 * i) < 0.67;
        let answer = if is_right {
            reference
        } else {
            key.below(2 * i + 1, LABELS)
        };
        (0..LABELS * LABELS)
            .map(|cell| f64::from(u8::from(cell == reference * LABELS + answer)))
            .collect()
    };
    (0..UTTERANCES).map(of_utterance).collect()
}

fn alignment(key: Key) -> Vec<Token> {
    (0..WORDS)
        .map(|word| {
            if key.uniform(word) < 0.1 {
                Token::Wrong
            } else {
                Token::Correct
            }
        })
        .collect()
}

fn rate(sum: &[f64]) -> f64 {
    sum[0] / sum[1]
}

fn recall(sum: &[f64]) -> f64 {
    (0..LABELS)
        .map(|label| {
            sum[label * LABELS + label] / sum[label * LABELS..][..LABELS].iter().sum::<f64>()
        })
        .sum::<f64>()
        / LABELS as f64
}
