//! Scores of a head on dev, and the files that a run writes of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use crate::encoder::probe::recipe::HeadKind;
use crate::encoder::probe::work::Work;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::files::StagedDir;
use crate::metrics::Pair;
use crate::metrics::Tally;
use crate::metrics::Texts;
use crate::metrics::classify;
use crate::metrics::confidence::interval;
use crate::metrics::edit;
use crate::metrics::edit::Unit;
use crate::report::chart::bars::Bar;
use crate::report::chart::bars::BarChart;
use crate::report::chart::bars::Group;
use crate::report::chart::ink::Ink;
use crate::stats::significance::Clusters;
use crate::stats::significance::Resampling;
use crate::stats::significance::bootstrap;
use crate::train::checkpoint as steps;

/// A score on dev.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Name.
    pub name: String,
    /// Value.
    pub value: f64,
    /// Bounds of its 95 % interval, clustered by speaker; `None` where there is a single cluster.
    pub interval: Option<[f64; 2]>,
    /// Number of clusters.
    pub clusters: usize,
}

/// Predictions, scores and layers' shares of a step, written beside the log.
pub fn evaluate(
    work: &Work,
    folder: &Path,
    step: u64,
    log: &mut AppendLog,
) -> Result<Vec<Measured>> {
    let predictions = work.predict()?;
    let scores = score(work, &predictions)?;
    let shares = work.head.shares()?;

    let staged = StagedDir::new(&steps::folder(&folder.join("eval"), step))?;
    let lines = prediction_lines(work, &predictions);
    files::write_atomic(&staged.path().join("predictions.jsonl"), lines.as_bytes())?;
    let text = serde_json::to_string_pretty(&json!({ "scores": scores, "layer_shares": shares }));
    let text = text.map_err(Error::bug_from)? + "\n";
    files::write_atomic(&staged.path().join("scores.json"), text.as_bytes())?;

    if work.recipe.weighted() && shares.len() > 1 {
        let svg = layer_chart(&shares).svg(560.0, Ink::File, "Share of each layer in the sum");
        files::write_atomic(&staged.path().join("layer_shares.svg"), svg.as_bytes())?;
    }

    staged.commit()?;

    let mut listed: BTreeMap<String, f64> = scores
        .iter()
        .map(|score| (format!("dev.{}", score.name), score.value))
        .collect();

    if work.recipe.weighted() {
        for (i, &share) in shares.iter().enumerate() {
            listed.insert(format!("layer_share.{i}"), share);
        }
    }

    log.line(&json!({ "kind": "eval", "at_step": step, "scores": listed }).to_string())?;
    Ok(scores)
}

fn prediction_lines(work: &Work, predictions: &[String]) -> String {
    let mut lines = String::new();
    for (i, prediction) in predictions.iter().enumerate() {
        let place = work.rows.num_train + i;
        let row = &work.rows.items[place].row;
        let line = json!({
            "id": row.id,
            "prediction": prediction,
            "reference": work.rows.texts[place],
            "speaker": row.speaker.as_deref(),
        });
        lines += &format!("{line}\n");
    }
    lines
}

/// Scores of predictions, with intervals clustered by speaker (by row where there is none).
fn score(work: &Work, predictions: &[String]) -> Result<Vec<Measured>> {
    let num_train = work.rows.num_train;
    let references = &work.rows.texts[num_train..];

    let tallies: Vec<Tally> = match work.recipe.head {
        HeadKind::Ctc => {
            let pairs = references
                .iter()
                .zip(predictions)
                .map(|(reference, prediction)| Pair::new(reference, prediction))
                .collect();
            let texts = Texts::new(pairs, work.recipe.normaliser);
            let rate = |unit| edit::tallies(&texts, unit).swap_remove(0);
            vec![rate(Unit::Words), rate(Unit::Characters)]
        }
        HeadKind::Classify => {
            let pairs: Vec<(&str, Option<&str>)> = references
                .iter()
                .zip(predictions)
                .map(|(reference, prediction)| (reference.as_str(), Some(prediction.as_str())))
                .collect();
            classify::tallies(&pairs, None, "head")?.into()
        }
    };

    let names = work.rows.items[num_train..]
        .iter()
        .map(|item| match &item.row.speaker {
            Some(speaker) => format!("speaker {speaker}"),
            None => format!("row {}", item.row.id),
        });
    let clusters = Clusters::named(names);

    Ok(tallies
        .iter()
        .map(|tally| measured(tally, &clusters))
        .collect())
}

fn measured(tally: &Tally, clusters: &Clusters) -> Measured {
    let score = |sum: &[f64]| tally.score(sum);
    let resampled = match clusters.num_clusters() {
        0 | 1 => None,
        _ => bootstrap(&tally.units, clusters, &score, &Resampling::default()).ok(),
    };
    Measured {
        name: tally.name.clone(),
        value: tally.corpus(),
        interval: resampled
            .map(|resampled| interval(&resampled))
            .map(|i| [i.low, i.high]),
        clusters: clusters.num_clusters(),
    }
}

/// A bar for each layer.
fn layer_chart(shares: &[f64]) -> BarChart {
    let group = |(layer, &share): (usize, &f64)| Group {
        name: format!("layer {layer}"),
        bars: vec![Some(Bar::new(share))],
    };
    BarChart {
        series: vec!["share".to_owned()],
        groups: shares.iter().enumerate().map(group).collect(),
        ..BarChart::default()
    }
}
