//! `scores.json` of a system: its scores by name, as a training writes them, and under `details`
//! how sure they are and how they came about.

use crate::error::Result;
use crate::eval::confidence::Answered;
use crate::eval::confidence::Compared;
use crate::eval::confidence::Confident;
use crate::eval::confidence::Slice;
use crate::eval::confidence::System;
use crate::metrics::Confusion;
use crate::metrics::TaskKind;
use crate::records::by_name::ByName;
use crate::records::details::AgainstBase;
use crate::records::details::Confusions;
use crate::records::details::Details;
use crate::records::details::PartScore;
use crate::records::details::ScoreDetails;
use crate::records::details::SliceScores;
use crate::records::details::SuiteAbout;
use crate::records::details::SystemAbout;
use crate::records::scores::ScoresFile;

/// What is known of a system's scores beside their values.
pub struct Known<'a> {
    /// The suite.
    pub suite: &'a SuiteAbout,
    /// Who answered.
    pub about: &'a SystemAbout,
    /// The scores with their intervals.
    pub scores: &'a [Confident],
    /// Their differences from another system's.
    pub compared: &'a [Compared],
    /// The scores of slices.
    pub slices: &'a [Slice],
}

/// The scores of a system as they are written.
///
/// # Errors
/// A reference outside the inventory of its set.
pub fn scores_file(system: &System, known: &Known) -> Result<ScoresFile> {
    let scores = known.scores.iter().map(|score| {
        let mut compared = known.compared.iter();
        let compared = compared.find(|compared| compared.name == score.name);
        (score.name.clone(), details(score, compared))
    });
    let classified = system.sets.iter();
    let classified = classified.filter(|answered| answered.set.task.kind == TaskKind::Classify);
    let labels = classified.map(|answered| Ok((answered.set.name.clone(), confusions(answered)?)));
    let details = Details {
        suite: Some(known.suite.clone()),
        system: known.about.clone(),
        scores: scores.collect(),
        labels: labels.collect::<Result<_>>()?,
        slices: slices(known.slices),
    };
    Ok(ScoresFile {
        scores: system.scores(),
        details: Some(details),
    })
}

fn details(score: &Confident, compared: Option<&Compared>) -> ScoreDetails {
    let against_base = compared.map(|compared| AgainstBase {
        difference: Some(compared.difference.clone()),
        adjusted_p: Some(compared.adjusted_p),
        verdict: Some(compared.verdict),
        is_better: compared.is_better,
    });
    ScoreDetails {
        score: score.value,
        interval: score.interval(),
        utterances: score.num_utterances,
        clusters: score.num_clusters,
        cluster: score.cluster.to_owned(),
        better: Some(score.better),
        signature: score.signature.clone(),
        estimate: score.estimate.clone(),
        note: score.note.clone(),
        against_base,
    }
}

fn confusions(answered: &Answered) -> Result<Confusions> {
    let pairs = answered
        .said
        .iter()
        .map(|row| (row.reference.as_str(), row.answer.as_deref()));
    let found = Confusion::new(pairs, &answered.set.inventory())?;
    Ok(Confusions {
        predicted: found.predicted(),
        labels: found.labels,
        counts: found.counts,
    })
}

/// Set > what it is sliced by > value > its rows and scores.
fn slices(slices: &[Slice]) -> ByName<ByName<ByName<SliceScores>>> {
    let mut by_set = ByName::<ByName<ByName<SliceScores>>>::default();
    for slice in slices {
        let scores = slice.scores.iter().map(|score| {
            let found = PartScore {
                score: score.value,
                interval: score.interval(),
            };
            (score.name.clone(), found)
        });
        let first = slice.scores.first();
        let part = by_set.entry(&slice.set).entry(&slice.by);
        *part.entry(&slice.value) = SliceScores {
            utterances: first.map_or(0, |score| score.num_utterances),
            clusters: first.map_or(0, |score| score.num_clusters),
            scores: scores.collect(),
            instruction: slice.instruction.clone(),
        };
    }
    by_set
}
