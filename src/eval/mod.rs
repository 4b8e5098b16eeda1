//! How good a model is: its loss on a suite's sets, its answers, and what the metrics say of them.

pub mod answers;
pub mod control;
pub mod significance;
pub mod instructions;
pub mod jsonl;
pub mod judge;
pub mod suite;
pub mod table;

use serde::Serialize;

use crate::batch::Batch;
use crate::error::Result;
use crate::eval::answers::Answer;
use crate::eval::answers::Asker;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::load::Loader;
use crate::metrics;
use crate::metrics::Normaliser;
use crate::metrics::Pair;
use crate::metrics::Tally;
use crate::metrics::Texts;
use crate::metrics::classify;
use crate::metrics::failures;
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
    /// Whether it had to stop at the task's limit of new tokens.
    #[serde(skip)]
    pub hit_limit: bool,
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
        let wanted: Vec<&str> = set.task.kind.metrics().iter().copied().filter(|metric| wants(set, metric)).collect();
        of_set.extend(names_in_set(set, &wanted));
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
        let ends = loader.codec().ids_that_end();
        let said: Vec<Prediction> = set.examples.iter().zip(answers).map(|(example, answer)| prediction(set, example, answer, &ends)).collect();
        let tallies = set_tallies(set, &said)?;
        means.extend(tallies.iter().find(|tally| tally.name == headline(set)).map(|tally| tally.goodness(tally.corpus())));
        scores.extend(tallies.iter().filter(|tally| wants(set, tally.metric())).map(|tally| (format!("{}.{}", set.name, tally.name), tally.corpus())));
        predictions.push((set.name.clone(), said));
    }
    scores.push(("mean".to_owned(), means.iter().sum::<f64>() / means.len().max(1) as f64));
    Ok(Evaluation { scores: Scores(scores), predictions })
}

fn wants(set: &Set, metric: &str) -> bool {
    match &set.metrics {
        Some(metrics) => metrics.iter().any(|wanted| wanted == metric),
        None => metric == "loss" || set.task.kind.default_metrics().contains(&metric),
    }
}

fn prediction(set: &Set, example: &crate::task::Example, answer: Answer, ends: &[u32]) -> Prediction {
    Prediction {
        hit_limit: !answer.tokens.last().is_some_and(|last| ends.contains(last)),
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
    let metric = &set.task.metric;
    if metrics::is_normalised(metric) { set.normalisers[0].named(metric) } else { metric.clone() }
}

/// The names of metrics in the scores of a set: those of texts under each normaliser, then the others.
fn names_in_set(set: &Set, metrics: &[&str]) -> Vec<String> {
    let (normalised, others): (Vec<&str>, Vec<&str>) = metrics.iter().partition(|metric| metrics::is_normalised(metric));
    let normalised = set.normalisers.iter().flat_map(|normaliser| normalised.iter().map(|metric| normaliser.named(metric)));
    normalised.chain(others.iter().map(|metric| (*metric).to_owned())).collect()
}

/// The tallies of the metrics that a set wants, and of the one that stands for it.
fn set_tallies(set: &Set, said: &[Prediction]) -> Result<Vec<Tally>> {
    let metrics: Vec<&str> = set.task.kind.metrics().iter().copied().filter(|metric| wants(set, metric) || *metric == set.task.metric).collect();
    let texts = |normaliser| Texts::new(said.iter().map(|row| Pair::new(&row.reference, &row.prediction)).collect(), normaliser);
    let of_texts = |normaliser, is_normalised: bool| {
        let wanted = |metric: &str| metrics.contains(&metric) && metrics::is_normalised(metric) == is_normalised;
        metrics::of_texts(&texts(normaliser), metrics::Settings::default(), wanted)
    };
    let mut tallies: Vec<Tally> = set.normalisers.iter().flat_map(|&normaliser| of_texts(normaliser, true)).collect();
    tallies.extend(of_texts(Normaliser::None, false));
    tallies.push(failures::hit_limit(&said.iter().map(|row| row.hit_limit).collect::<Vec<_>>()));
    if set.task.kind == Kind::Classify {
        let inventory: Vec<&str> = set.task.labels.iter().map(|label| label.name.as_str()).collect();
        let pairs: Vec<(&str, Option<&str>)> = said.iter().map(|row| (row.reference.as_str(), row.answer.as_deref())).collect();
        tallies.extend(classify::tallies(&pairs, Some(&inventory), "lenient").map_err(|e| e.at(format!("set `{}`", set.name)))?);
    }
    let order = names_in_set(set, &metrics);
    tallies.retain(|tally| order.contains(&tally.name));
    tallies.sort_by_key(|tally| order.iter().position(|name| *name == tally.name));
    Ok(tallies)
}
