//! Scores of a head on dev, and the files that a run writes of them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::encoder::probe::recipe::HeadKind;
use crate::encoder::probe::work::Work;
use crate::encoder::run::eval_record;
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
use crate::records::head;
use crate::records::head::HeadPrediction;
use crate::records::head::HeadScore;
use crate::records::head::HeadScores;
use crate::records::log::Line;
use crate::report::chart::bars::Bar;
use crate::report::chart::bars::BarChart;
use crate::report::chart::bars::Group;
use crate::report::chart::ink::Ink;
use crate::stats::significance::Clusters;
use crate::stats::significance::Resampling;
use crate::stats::significance::bootstrap;
use crate::train::checkpoint as steps;

/// Predictions, scores and layers' shares of a step, written beside the log.
pub fn evaluate(
    work: &Work,
    folder: &Path,
    step: u64,
    log: &mut AppendLog,
) -> Result<Vec<HeadScore>> {
    let predictions = work.predict()?;
    let found = HeadScores {
        scores: score(work, &predictions)?,
        layer_shares: work.head.shares()?,
    };

    let staged = StagedDir::new(&steps::folder(&folder.join("eval"), step))?;
    head::write_predictions(staged.path(), &rows_of(work, predictions))?;
    found.write(staged.path())?;

    let shares = &found.layer_shares;
    if work.recipe.weighted() && shares.len() > 1 {
        let svg = layer_chart(shares).svg(560.0, Ink::File, "Share of each layer in the sum");
        files::write_atomic(&staged.path().join("layer_shares.svg"), svg.as_bytes())?;
    }

    staged.commit()?;

    let mut listed: BTreeMap<String, f64> = found
        .scores
        .iter()
        .map(|score| (format!("dev.{}", score.name), score.value))
        .collect();

    if work.recipe.weighted() {
        for (i, &share) in shares.iter().enumerate() {
            listed.insert(format!("layer_share.{i}"), share);
        }
    }

    log.line(&Line::Eval(eval_record(step, &listed)).to_text()?)?;
    Ok(found.scores)
}

/// The predictions of all rows of dev, in their order.
fn rows_of(work: &Work, predictions: Vec<String>) -> Vec<HeadPrediction> {
    let row = |(i, prediction): (usize, String)| {
        let place = work.rows.num_train + i;
        let row = &work.rows.items[place].row;
        HeadPrediction {
            id: row.id.to_string(),
            prediction,
            reference: work.rows.texts[place].clone(),
            speaker: row.speaker.as_deref().map(str::to_owned),
        }
    };
    predictions.into_iter().enumerate().map(row).collect()
}

/// Scores of predictions, with intervals clustered by speaker (by row where there is none).
fn score(work: &Work, predictions: &[String]) -> Result<Vec<HeadScore>> {
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

fn measured(tally: &Tally, clusters: &Clusters) -> HeadScore {
    let score = |sum: &[f64]| tally.score(sum);
    let resampled = match clusters.num_clusters() {
        0 | 1 => None,
        _ => bootstrap(&tally.units, clusters, &score, &Resampling::default()).ok(),
    };
    HeadScore {
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
