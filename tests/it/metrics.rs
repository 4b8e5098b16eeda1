//! The metrics against jiwer, sacreBLEU, rouge_score, scikit-learn and Whisper's rules, on
//! thousands of random texts.

#[path = "../fixtures/metrics/strings.rs"]
mod strings;

use std::collections::BTreeMap;

use maqam::metrics::Confusion;
use maqam::metrics::Normaliser;
use maqam::metrics::Pair;
use maqam::metrics::Tally;
use maqam::metrics::Texts;
use maqam::metrics::alignment::align_words;
use maqam::metrics::bleu;
use maqam::metrics::bleu::Tokeniser;
use maqam::metrics::by_script;
use maqam::metrics::chrf;
use maqam::metrics::chrf::Variant;
use maqam::metrics::edit;
use maqam::metrics::edit::Unit;
use maqam::metrics::failures;
use maqam::metrics::rouge;
use maqam::metrics::rouge::Fold;
use serde::Deserialize;

/// Sums over blocks of a few rows may differ in the order of additions and in the form of F1's
/// formula: 1e-9 is far above either.
const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Golden {
    single: Set,
    multiple: Set,
    block: usize,
    tokenisers: Vec<String>,
    english: English,
    classification: Vec<Classification>,
}

/// Results of the libraries for one set of rows; sums over blocks of rows.
#[derive(Deserialize)]
struct Set {
    seed: u64,
    rows: usize,
    most_references: usize,
    texts: String,
    words: Vec<[f64; 4]>,
    chars: Vec<[f64; 4]>,
    steps: String,
    by_script: Vec<[f64; 16]>,
    failures: Vec<[f64; 10]>,
    rouge: Vec<[String; 8]>,
    sacrebleu: Vec<[String; 6]>,
    sacrebleu_corpus: [f64; 6],
    sacrebleu_signatures: [String; 6],
}

#[derive(Deserialize)]
struct English {
    texts: String,
    pieces: Vec<String>,
    normalised: Vec<String>,
    all: String,
}

#[derive(Deserialize)]
struct Classification {
    counts: Vec<Vec<u64>>,
    scores: Vec<Vec<f64>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../fixtures/metrics/corpus.json")).unwrap()
}

impl Set {
    fn rows(&self) -> Vec<strings::Row> {
        let rows = strings::rows(self.seed, self.rows, self.most_references);
        let texts = rows
            .iter()
            .flat_map(|(references, prediction)| references.iter().chain([prediction]))
            .map(String::as_str);
        assert_eq!(
            strings::checksum(texts),
            self.texts,
            "the texts are not those that the libraries saw"
        );
        rows
    }
}

fn texts(rows: &[strings::Row]) -> Texts<'_> {
    let pairs = rows.iter().map(|(references, prediction)| {
        let first = Pair::new(&references[0], prediction);
        references[1..]
            .iter()
            .fold(first, |pair, other| pair.or(other))
    });
    Texts::new(pairs.collect(), Normaliser::None)
}

/// Sums over blocks of what each row has in one column.
fn blocks(values: impl Iterator<Item = f64>, block: usize) -> Vec<f64> {
    values
        .collect::<Vec<_>>()
        .chunks(block)
        .map(|rows| rows.iter().sum())
        .collect()
}

fn assert_near(found: &[f64], expected: impl Iterator<Item = f64>, tolerance: f64, what: &str) {
    let expected: Vec<f64> = expected.collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance,
            "{what}, block {i}: {found}, expected {expected}"
        );
    }
}

/// A float as Python writes it in hexadecimal: `0x1.8p+1`.
fn of_hex(text: &str) -> f64 {
    let (mantissa, exponent) = text.trim_start_matches("0x").split_once('p').unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap();
    let digits = i64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap() as f64;
    digits * 2f64.powi(exponent.parse::<i32>().unwrap() - 4 * fraction.len() as i32)
}

/// Runs a check on both sets of rows.
fn for_each_set(check: impl Fn(&str, &Set, &[strings::Row], usize)) {
    let golden = golden();
    for (name, set) in [("single", &golden.single), ("multiple", &golden.multiple)] {
        check(name, set, &set.rows(), golden.block);
    }
}

#[test]
fn error_counts_and_alignments_are_those_of_jiwer() {
    for_each_set(|name, set, rows, block| {
        let texts = texts(rows);
        for (unit, expected) in [(Unit::Words, &set.words), (Unit::Characters, &set.chars)] {
            let tallies = edit::tallies(&texts, unit);
            for kind in 0..4 {
                let found = blocks(tallies[0].units.iter().map(|unit| unit[kind]), block);
                assert_near(
                    &found,
                    expected.iter().map(|row| row[kind]),
                    0.0,
                    &format!("{name}, {unit:?}, kind {kind}"),
                );
            }
            let sums: Vec<f64> = (0..4)
                .map(|kind| expected.iter().map(|row| row[kind]).sum())
                .collect();
            let rate = (sums[0] + sums[1] + sums[2]) / (sums[0] + sums[1] + sums[3]);
            assert!(
                (tallies[0].corpus() - rate).abs() < TOLERANCE,
                "{name}, {unit:?}: {}, expected {rate}",
                tallies[0].corpus()
            );
        }
        let letters: Vec<String> = rows.iter().map(alignment_letters).collect();
        assert_eq!(
            strings::checksum(letters.iter().map(String::as_str)),
            set.steps,
            "{name}: alignments"
        );
    });
}

/// The alignment with the nearest reference, one letter per word.
fn alignment_letters((references, prediction): &strings::Row) -> String {
    let of = |reference: &String| {
        let alignment = align_words(reference, prediction);
        let errors = alignment
            .iter()
            .filter(|word| !word.mark().is_empty())
            .count();
        let words = alignment.iter().filter_map(|word| word.reference()).count();
        let letters = alignment
            .iter()
            .map(|word| {
                if word.mark().is_empty() {
                    "E"
                } else {
                    word.mark()
                }
            })
            .collect::<String>();
        (errors as f64 / words.max(1) as f64, letters)
    };
    references
        .iter()
        .map(of)
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap()
        .1
}

#[test]
fn errors_by_script_are_those_of_jiwers_alignments() {
    for_each_set(|name, set, rows, block| {
        let tallies = by_script::tallies(&texts(rows));
        assert_eq!(
            tallies
                .iter()
                .map(|tally| tally.name.as_str())
                .collect::<Vec<_>>(),
            ["wer_arabic", "wer_latin", "wer_digits", "wer_other"]
        );
        for (i, tally) in tallies.iter().enumerate() {
            for kind in 0..4 {
                let found = blocks(tally.units.iter().map(|unit| unit[kind]), block);
                assert_near(
                    &found,
                    set.by_script.iter().map(|row| row[4 * i + kind]),
                    0.0,
                    &format!("{name}, {}, kind {kind}", tally.name),
                );
            }
        }
    });
}

#[test]
fn failures_are_those_of_the_plain_way() {
    for_each_set(|name, set, rows, block| {
        for (i, tally) in failures::tallies(&texts(rows)).iter().enumerate() {
            for part in 0..2 {
                let found = blocks(tally.units.iter().map(|unit| unit[part]), block);
                assert_near(
                    &found,
                    set.failures.iter().map(|row| row[2 * i + part]),
                    0.0,
                    &format!("{name}, {}, part {part}", tally.name),
                );
            }
        }
        let loops: f64 = set.failures.iter().map(|row| row[0]).sum();
        assert!(loops > 10.0, "{name}: the texts have loops");
    });
}

#[test]
fn rouge_is_that_of_rouge_score_on_unicode_words() {
    for_each_set(|name, set, rows, block| {
        let texts = texts(rows);
        for (at, fold) in [(0, Fold::None), (4, Fold::Diacritics)] {
            for (i, tally) in rouge::tallies(&texts, fold).iter().enumerate() {
                let found = blocks(tally.units.iter().map(|unit| unit[0]), block);
                assert_near(
                    &found,
                    set.rouge.iter().map(|row| of_hex(&row[at + i])),
                    TOLERANCE,
                    &format!("{name}, {}, {fold:?}", tally.name),
                );
                let mean = set
                    .rouge
                    .iter()
                    .map(|row| of_hex(&row[at + i]))
                    .sum::<f64>()
                    / rows.len() as f64;
                assert!((tally.corpus() - mean).abs() < TOLERANCE);
            }
        }
    });
}

/// The tallies of chrF, chrF++ and BLEU in the order of the goldens.
fn sacrebleu(texts: &Texts, tokenisers: &[String]) -> Vec<Tally> {
    let bleu = tokenisers
        .iter()
        .map(|name| bleu::tally(texts, name.parse::<Tokeniser>().unwrap()));
    [Variant::ChrF, Variant::ChrFPlusPlus]
        .map(|variant| chrf::tally(texts, variant))
        .into_iter()
        .chain(bleu)
        .collect()
}

#[test]
fn chrf_and_bleu_are_those_of_sacrebleu() {
    let tokenisers = golden().tokenisers;
    for_each_set(|name, set, rows, block| {
        for (i, tally) in sacrebleu(&texts(rows), &tokenisers).iter().enumerate() {
            let what = format!("{name}, {}", set.sacrebleu_signatures[i]);
            let found = blocks((0..rows.len()).map(|row| tally.utterance(row)), block);
            assert_near(
                &found,
                set.sacrebleu.iter().map(|row| of_hex(&row[i])),
                TOLERANCE,
                &what,
            );
            assert!(
                (tally.corpus() - set.sacrebleu_corpus[i]).abs() < TOLERANCE,
                "{what}: {}, expected {}",
                tally.corpus(),
                set.sacrebleu_corpus[i]
            );
            let theirs = &set.sacrebleu_signatures[i];
            let ours = &tally.signature;
            assert_eq!(
                theirs.split("|version:").next(),
                ours.split("|norm:").next(),
                "what they say, we say"
            );
        }
    });
}

#[test]
fn english_is_normalised_as_whisper_does() {
    let golden = golden().english;
    let mut texts = strings::sentences(3, &golden.pieces, 1000);
    assert_eq!(
        strings::checksum(texts.iter().map(String::as_str)),
        golden.texts,
        "the texts are not those that Whisper's rules saw"
    );
    texts
        .iter_mut()
        .for_each(|text| *text = Normaliser::EnglishBasic.apply(text));
    for (i, expected) in golden.normalised.iter().enumerate() {
        assert_eq!(texts[10 * i], *expected);
    }
    assert_eq!(
        strings::checksum(texts.iter().map(String::as_str)),
        golden.all,
        "a text between those that are shown"
    );
}

#[test]
fn confusion_matrices_are_those_of_scikit_learn() {
    let inventory = &strings::pieces()["labels"];
    let inventory: Vec<&str> = inventory.iter().map(String::as_str).collect();
    let classifications = strings::labels(4, 60);
    let expected = golden().classification;
    assert_eq!(classifications.len(), expected.len());
    for (pairs, expected) in classifications.iter().zip(expected) {
        let found = Confusion::new(
            pairs
                .iter()
                .map(|(reference, predicted)| (reference.as_str(), predicted.as_deref())),
            &inventory,
        )
        .unwrap();
        assert_eq!(found.counts, expected.counts);
        for (i, label) in found.seen().iter().enumerate() {
            // The goldens are rounded to 15 places.
            for (found, expected) in [label.precision(), label.recall(), label.f1()]
                .into_iter()
                .zip(expected.scores.iter().map(|column| column[i]))
            {
                assert!(
                    (found - expected).abs() < 1e-14,
                    "{}: {found}, expected {expected}",
                    inventory[i]
                );
            }
        }
    }
}

#[test]
fn a_score_is_a_function_of_the_sum() {
    let rows = strings::rows(5, 300, 2);
    let texts = texts(&rows);
    let all = maqam::metrics::of_texts(&texts, maqam::metrics::Settings::default(), |_| true);
    let names: BTreeMap<&str, f64> = all
        .iter()
        .map(|tally| (tally.name.as_str(), tally.corpus()))
        .collect();
    assert_eq!(names.len(), all.len(), "no name comes twice");
    for tally in &all {
        assert!(
            tally.units.len() == rows.len()
                && tally
                    .units
                    .iter()
                    .all(|unit| unit.len() == tally.units[0].len()),
            "{}",
            tally.name
        );
        // Twice the corpus scores as the corpus does.
        let twice: Vec<f64> = tally.sum().iter().map(|value| 2.0 * value).collect();
        assert!(
            (tally.score(&twice) - tally.corpus()).abs() < TOLERANCE,
            "{}",
            tally.name
        );
        assert!(
            (0.0..=1.0).contains(&tally.goodness(tally.corpus())),
            "{}",
            tally.name
        );
        assert_eq!(
            tally.score(&vec![0.0; tally.units[0].len()]),
            0.0,
            "{}",
            tally.name
        );
    }
}
