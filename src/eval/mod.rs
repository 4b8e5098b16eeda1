//! How good a model is: its loss on a suite's sets, its answers, and what the metrics say of them.

pub mod answers;
pub mod control;
pub mod instructions;
pub mod jsonl;
pub mod judge;
pub mod suite;
pub mod table;

use serde::Serialize;

use crate::batch::Batch;
use crate::error::Error;
use crate::error::Result;
use crate::eval::answers::Answer;
use crate::eval::answers::Asker;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::load::Loader;
use crate::metrics::Counts;
use crate::metrics::Normaliser;
use crate::metrics::char_errors;
use crate::metrics::classify;
use crate::metrics::rouge;
use crate::metrics::word_errors;
use crate::model::AudioLlm;
use crate::seed::Key;
use crate::task::Kind;
use crate::task::Mode;
use crate::task::Parse;

/// Scores by name, in the order of the suite: `<set>.<metric>`, and `mean` at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores(pub Vec<(String, f64)>);

impl Scores {
    /// The score of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// The scores as a JSON object in their order.
    pub fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        self.0.iter().map(|(name, value)| (name.clone(), (*value).into())).collect()
    }
}

/// One line of a predictions file.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// The row's id.
    pub id: String,
    /// What was asked.
    pub task: String,
    /// What the model said.
    pub prediction: String,
    /// What it should have said.
    pub reference: String,
    /// What the answer was understood as; `null` where it names no label.
    pub answer: Option<String>,
    /// The tokens the model said.
    pub tokens: Vec<u32>,
}

/// Scores of a suite, and the predictions of each set.
pub struct Evaluation {
    /// The scores.
    pub scores: Scores,
    /// By set name.
    pub predictions: Vec<(String, Vec<Prediction>)>,
}

/// Tokens that are scored in one pass.
const SCORE_PACK_TOKENS: usize = 8192;

/// The names of the scores that [`evaluate`] gives for a suite, in their order.
pub fn score_names(suite: &Suite) -> Vec<String> {
    let mut names = Vec::new();
    for set in &suite.sets {
        let mut of_set: Vec<String> = if wants(set, "loss") { vec!["loss".to_owned()] } else { Vec::new() };
        let wanted = set.task.kind.metrics().iter().filter(|metric| wants(set, metric));
        match set.task.kind {
            Kind::Transcribe => of_set.extend(set.normalisers.iter().flat_map(|&n| wanted.clone().map(move |metric| with_normaliser(metric, n)))),
            Kind::Generate | Kind::Classify => of_set.extend(wanted.map(|&metric| metric.to_owned())),
        }
        names.extend(of_set.into_iter().map(|name| format!("{}.{name}", set.name)));
    }
    names.push("mean".to_owned());
    names
}

/// Judges a model on a suite; `progress` is told how many of how many examples are done.
pub fn evaluate(model: &AudioLlm, loader: &Loader, suite: &Suite, progress: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<Evaluation> {
    let total = suite.sets.iter().map(|set| set.examples.len()).sum();
    let mut scores = Vec::new();
    let mut predictions = Vec::new();
    let mut means = Vec::new();
    let mut done = 0;
    progress(done, total)?;
    for set in &suite.sets {
        if wants(set, "loss") {
            scores.push((format!("{}.loss", set.name), loss(model, loader, set)?));
        }
        let asker = Asker { model, loader, sampling: &suite.generation, seed: 0 };
        let asked: Vec<_> = set.examples.iter().map(|example| (example, set.task.answer.max_new_tokens)).collect();
        let answers = asker.answers(&asked, &mut |more| progress(done + more, total)).map_err(|e| e.at(format!("set `{}`", set.name)))?;
        done += set.examples.len();
        let said: Vec<Prediction> = set.examples.iter().zip(answers).map(|(example, answer)| prediction(set, example, answer)).collect();
        let of_set = set_scores(set, &said)?;
        means.extend(of_set.iter().find(|(name, _)| *name == headline(set)).map(|(_, value)| goodness(set.task.kind, *value)));
        scores.extend(
            of_set
                .into_iter()
                .filter(|(name, _)| wants(set, name.split('@').next().unwrap_or(name)))
                .map(|(name, value)| (format!("{}.{name}", set.name), value)),
        );
        predictions.push((set.name.clone(), said));
    }
    scores.push(("mean".to_owned(), means.iter().sum::<f64>() / means.len().max(1) as f64));
    Ok(Evaluation { scores: Scores(scores), predictions })
}

fn wants(set: &Set, metric: &str) -> bool {
    set.metrics.as_ref().is_none_or(|metrics| metrics.iter().any(|wanted| wanted == metric))
}

fn prediction(set: &Set, example: &crate::task::Example, answer: Answer) -> Prediction {
    Prediction {
        id: example.id.clone(),
        task: set.task.name.clone(),
        answer: set.task.parse_answer(&answer.text, Parse::Lenient),
        prediction: answer.text,
        reference: example.reference.clone().unwrap_or_default(),
        tokens: answer.tokens,
    }
}

/// Mean negative log-likelihood of a set's target tokens, nats.
fn loss(model: &AudioLlm, loader: &Loader, set: &Set) -> Result<f64> {
    let (mut sum, mut tokens) = (0.0, 0usize);
    let mut waiting = Vec::new();
    let mut flush = |waiting: &mut Vec<crate::batch::Sequence>| -> Result<()> {
        let batch = Batch::pack(&waiting.iter().collect::<Vec<_>>(), model.config.audio.window_frames())?;
        let found = model.score(&batch, 0.0)?;
        sum -= found.log_probabilities.iter().sum::<f64>();
        tokens += found.log_probabilities.len();
        waiting.clear();
        Ok(())
    };
    for example in &set.examples {
        let sequence = loader.load(example, Mode::Train, Key::new(0, "evaluation")).map_err(|e| e.at(format!("set `{}`", set.name)))?.sequence;
        let held: usize = waiting.iter().map(|held: &crate::batch::Sequence| held.tokens.len()).sum();
        if !waiting.is_empty() && held + sequence.tokens.len() > SCORE_PACK_TOKENS {
            flush(&mut waiting)?;
        }
        waiting.push(sequence);
    }
    flush(&mut waiting)?;
    Ok(sum / tokens.max(1) as f64)
}

/// The metric that stands for a set in `mean`: that of its task, with the set's first normaliser.
fn headline(set: &Set) -> String {
    match set.task.kind {
        Kind::Transcribe => with_normaliser(&set.task.metric, set.normalisers[0]),
        Kind::Generate | Kind::Classify => set.task.metric.clone(),
    }
}

/// A score in `[0, 1]`, higher better.
fn goodness(kind: Kind, value: f64) -> f64 {
    match kind {
        Kind::Transcribe => 1.0 - value.min(1.0),
        Kind::Generate | Kind::Classify => value,
    }
}

/// `wer` without a normaliser, `wer@arabic-leaderboard` with one.
fn with_normaliser(metric: &str, normaliser: Normaliser) -> String {
    match normaliser {
        Normaliser::None => metric.to_owned(),
        other => format!("{metric}@{}", other.name()),
    }
}

fn set_scores(set: &Set, said: &[Prediction]) -> Result<Vec<(String, f64)>> {
    match set.task.kind {
        Kind::Transcribe => {
            let mut scores = Vec::new();
            for &normaliser in &set.normalisers {
                let (mut words, mut chars) = (Counts::default(), Counts::default());
                for row in said {
                    let (reference, prediction) = (normaliser.apply(&row.reference), normaliser.apply(&row.prediction));
                    words += word_errors(&reference, &prediction);
                    chars += char_errors(&reference, &prediction);
                }
                scores.push((with_normaliser("wer", normaliser), words.rate()));
                scores.push((with_normaliser("cer", normaliser), chars.rate()));
            }
            Ok(scores)
        }
        Kind::Generate => {
            let found = rouge::mean(said.iter().map(|row| (row.reference.as_str(), row.prediction.as_str())));
            Ok(vec![("rouge1".into(), found.rouge1), ("rouge2".into(), found.rouge2), ("rougeL".into(), found.rouge_l)])
        }
        Kind::Classify => {
            let inventory: Vec<&str> = set.task.labels.iter().map(|label| label.name.as_str()).collect();
            let pairs = said.iter().map(|row| (row.reference.as_str(), row.answer.as_deref()));
            let found = classify(pairs, Some(&inventory)).map_err(|e: Error| e.at(format!("set `{}`", set.name)))?;
            Ok(vec![
                ("accuracy".into(), found.accuracy),
                ("macro_f1".into(), found.macro_f1),
                ("weighted_f1".into(), found.weighted_f1),
                ("uar".into(), found.uar),
            ])
        }
    }
}
