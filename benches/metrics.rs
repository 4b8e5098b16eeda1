//! Time of the metrics over sentence pairs, all cores: `cargo bench --bench metrics`, or with a
//! file of `["reference", "prediction"]` lines as its argument. benches/peers/wer.py compares the
//! word error rate with jiwer's.

use std::time::Duration;
use std::time::Instant;

use maqam::metrics::Normaliser;
use maqam::metrics::Pair;
use maqam::metrics::Tally;
use maqam::metrics::Texts;
use maqam::metrics::alignment::align_words;
use maqam::metrics::bleu;
use maqam::metrics::by_script;
use maqam::metrics::chrf;
use maqam::metrics::edit;
use maqam::metrics::failures;
use maqam::metrics::rouge;
use maqam::seed::Key;

/// Sentence pairs where no file is given.
const PAIRS: usize = 100_000;
/// Runs of each metric; the fastest counts.
const REPEATS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let rows: Vec<(String, String)> = match &file {
        Some(path) => std::fs::read_to_string(path)?
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?,
        None => sentences(PAIRS),
    };
    let texts = || {
        Texts::new(
            rows.iter()
                .map(|(reference, prediction)| Pair::new(reference, prediction))
                .collect(),
            Normaliser::None,
        )
    };
    println!(
        "{} pairs, {} threads",
        rows.len(),
        rayon::current_num_threads()
    );
    report("wer", || {
        edit::tallies(&texts(), edit::Unit::Words)
            .swap_remove(0)
            .corpus()
    });
    report("cer", || {
        edit::tallies(&texts(), edit::Unit::Characters)
            .swap_remove(0)
            .corpus()
    });
    if file.is_some() {
        return Ok(());
    }
    report("wer by script", || {
        by_script::tallies(&texts()).iter().map(Tally::corpus).sum()
    });
    report("alignments, one core", || {
        rows.iter()
            .map(|(reference, prediction)| align_words(reference, prediction).len())
            .sum::<usize>() as f64
    });
    report("rouge", || {
        rouge::tallies(&texts(), rouge::Fold::None)[2].corpus()
    });
    report("chrf", || {
        chrf::tally(&texts(), chrf::Variant::ChrF).corpus()
    });
    report("chrfpp", || {
        chrf::tally(&texts(), chrf::Variant::ChrFPlusPlus).corpus()
    });
    report("bleu", || {
        bleu::tally(&texts(), bleu::Tokeniser::default()).corpus()
    });
    report("failures", || {
        failures::tallies(&texts()).iter().map(Tally::corpus).sum()
    });
    for normaliser in &Normaliser::ALL[1..] {
        report(normaliser.name(), || {
            rows.iter()
                .map(|(reference, _)| normaliser.apply(reference).len())
                .sum::<usize>() as f64
        });
    }
    Ok(())
}

fn report(what: &str, run: impl Fn() -> f64) {
    let mut fastest = Duration::MAX;
    let mut score = 0.0;
    for _ in 0..REPEATS {
        let started = Instant::now();
        score = run();
        fastest = fastest.min(started.elapsed());
    }
    println!("{what} {:.4} s {score}", fastest.as_secs_f64());
}

/// Arabic and English sentences of 4 to 23 words, and simulated transcripts: one word in seven is
/// wrong.
fn sentences(count: usize) -> Vec<(String, String)> {
    let words: Vec<&str> =
        "في البيت كتاب مدرسة قال الرجل سلام غدا هل نعم احمد الى على هذا the cat sat on mat hello world and some other words".split(' ').collect();
    let key = Key::new(0, "sentences");
    let sentence = |row: u64| {
        let at = |i: u64, what: u64| key.with(row).with(i).below(what, words.len());
        let len = 4 + key.with(row).below(0, 20) as u64;
        let reference: Vec<&str> = (0..len).map(|i| words[at(i, 0)]).collect();
        let said = reference.iter().zip(0..).flat_map(|(&word, i)| {
            match key.with(row).with(i).below(1, 100) {
                0..4 => vec![],
                4..12 => vec![words[at(i, 2)]],
                12..15 => vec![words[at(i, 2)], word],
                _ => vec![word],
            }
        });
        (reference.join(" "), said.collect::<Vec<_>>().join(" "))
    };
    (0..count as u64).map(sentence).collect()
}
