//! Outcomes of a suite: systems, controls and baselines measured, compared with the base, put into
//! a table.

use std::path::PathBuf;

use crate::error::Result;
use crate::eval::baseline;
use crate::eval::comparison;
use crate::eval::comparison::Column;
use crate::eval::confidence::Compared;
use crate::eval::confidence::Confident;
use crate::eval::confidence::Slice;
use crate::eval::confidence::System;
use crate::eval::prediction::predicted;
use crate::eval::question::target_tokens;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::eval::systems::BASE;
use crate::eval::systems::Respondent;
use crate::eval::systems::Systems;
use crate::metrics::Tally;
use crate::metrics::confidence::ALPHA;
use crate::records::details::SystemAbout;
use crate::records::details::SystemKind;
use crate::records::prediction::Prediction;
use crate::records::suite_file::Baseline;
use crate::records::suite_file::Control;
use crate::stats::significance::FEW;
use crate::stats::significance::Resampling;

/// Resamples behind the interval of a slice, of which there are many.
const SLICE_RESAMPLES: usize = 1000;

/// Scores of a system, of a system under a control, or of a baseline.
pub struct Outcome<'a> {
    /// The system's name.
    pub name: String,
    /// The control that it was asked under.
    pub control: Option<Control>,
    /// Where its files go, below the folder of the evaluation.
    pub folder: PathBuf,
    /// What its scores should say of it.
    pub about: SystemAbout,
    /// Its predictions, measured.
    pub system: System<'a>,
    /// Its scores.
    pub scores: Vec<Confident>,
    /// Their differences from the base.
    pub compared: Vec<Compared>,
    /// Its scores by slice.
    pub slices: Vec<Slice>,
    /// What readers must know.
    pub notes: Vec<String>,
    is_baseline: bool,
}

/// Outcomes of all answers and of the suite's baselines; systems first, then their controls, then
/// baselines.
pub fn outcomes<'a>(
    systems: &Systems,
    respondents: &[Respondent<'a>],
    suite: &'a Suite,
    resampling: &Resampling,
) -> Result<Vec<Outcome<'a>>> {
    let mut found: Vec<Outcome> = Vec::new();
    for control in std::iter::once(None).chain(suite.controls.iter().copied().map(Some)) {
        for respondent in respondents {
            let under = respondent
                .interviews
                .iter()
                .filter(|(by, ..)| *by == control);
            for (_, suite, interview) in under {
                let predictions = interview.predictions(&systems.loader, &respondent.store)?;
                found.push(Outcome::of_model(respondent, control, suite, predictions)?);
            }
        }
    }
    for &baseline in &suite.baselines {
        found.push(Outcome::of_baseline(baseline, suite, systems)?);
    }

    let base = found.iter().position(|one| one.is_base());
    for i in 0..found.len() {
        found[i].scores = found[i].system.confident(resampling);
        if found[i].control.is_none() {
            found[i].slices = found[i].system.slices(&Resampling {
                resamples: SLICE_RESAMPLES,
                ..*resampling
            })?;
        }
        if let Some(base) = base.filter(|&base| base != i) {
            found[i].compared = found[i].system.against(&found[base].system, resampling)?;
        }
    }
    Ok(found)
}

impl<'a> Outcome<'a> {
    fn of_model(
        respondent: &Respondent,
        control: Option<Control>,
        suite: &'a Suite,
        predictions: Vec<Vec<Prediction>>,
    ) -> Result<Self> {
        let about = SystemAbout {
            system: Some(respondent.name.clone()),
            kind: match control {
                Some(_) => SystemKind::Control,
                None => SystemKind::Model,
            },
            control: control.map(|control| control.name().to_owned()),
            adapter: respondent
                .adapter
                .as_ref()
                .map(|dir| dir.display().to_string()),
            model_hash: Some(respondent.model.to_hex().to_string()),
            notes: Vec::new(),
        };
        let folder = PathBuf::from(&respondent.name).join(control.map_or("", Control::name));
        let sets: Vec<&Set> = suite.sets.iter().collect();
        Ok(Self::new(
            respondent.name.clone(),
            folder,
            about,
            System::new(&sets, predictions, respondent.asks_all(suite))?,
        )
        .under(control))
    }

    fn of_baseline(of: Baseline, suite: &'a Suite, systems: &Systems) -> Result<Self> {
        let mut sets = Vec::new();
        let mut predictions = Vec::new();
        let mut notes = Vec::new();
        for set in &suite.sets {
            let Some(answers) = baseline::answers(of, set) else {
                continue;
            };
            let prediction = |(example, answer)| {
                let row = predicted(set, example, answer)?;
                Ok(Prediction {
                    target_tokens: target_tokens(&systems.loader, example),
                    ..row
                })
            };
            predictions.push(
                set.examples
                    .iter()
                    .zip(answers)
                    .map(prediction)
                    .collect::<Result<Vec<_>>>()?,
            );
            notes.extend(
                baseline::note(of, set)
                    .map(|note| format!("{} of {}: {note}", of.name(), set.name)),
            );
            sets.push(set);
        }
        let about = SystemAbout {
            system: Some(of.name().to_owned()),
            kind: SystemKind::Baseline,
            notes: notes.clone(),
            ..SystemAbout::default()
        };
        let is_whole = sets.len() == suite.sets.len();
        let found = Self::new(
            of.name().to_owned(),
            of.name().into(),
            about,
            System::new(&sets, predictions, is_whole)?,
        );
        Ok(Self {
            notes,
            is_baseline: true,
            ..found
        })
    }

    fn new(name: String, folder: PathBuf, about: SystemAbout, system: System<'a>) -> Self {
        Self {
            name,
            control: None,
            folder,
            about,
            system,
            scores: Vec::new(),
            compared: Vec::new(),
            slices: Vec::new(),
            notes: Vec::new(),
            is_baseline: false,
        }
    }

    fn under(self, control: Option<Control>) -> Self {
        Self { control, ..self }
    }

    fn is_base(&self) -> bool {
        self.name == BASE && self.control.is_none() && !self.is_baseline
    }

    fn title(&self) -> String {
        match self.control {
            Some(control) => format!("{} {}", self.name, control.name()),
            None => self.name.clone(),
        }
    }
}

/// The tables to print: all scores of all systems, what they rest on, and the slices.
pub fn tables(outcomes: &[Outcome], suite: &Suite, resampling: &Resampling) -> String {
    let columns: Vec<Column> = outcomes
        .iter()
        .map(|one| Column {
            title: one.title(),
            scores: &one.scores,
            compared: &one.compared,
        })
        .collect();
    let mut text = comparison::table(&columns);
    text += &legend(outcomes, suite, resampling);
    let models: Vec<(&str, &[Slice])> = outcomes
        .iter()
        .filter(|one| one.control.is_none() && !one.is_baseline)
        .map(|one| (one.name.as_str(), one.slices.as_slice()))
        .collect();
    text + &comparison::slice_tables(&models, |set| metric_of(outcomes.first()?, set))
}

/// Name of the metric that slices of a set show: its headline, else its first metric.
fn metric_of(outcome: &Outcome, set: &str) -> Option<String> {
    let mut sets = outcome.system.sets.iter();
    let measured = &sets.find(|answered| answered.set.name == set)?.measured;
    let is_headline = |tally: &&Tally| tally.name == measured.headline.name;
    let headline = measured.tallies.iter().find(is_headline);
    let shown = headline.or(measured.tallies.first())?;
    Some(shown.name.clone())
}

fn legend(outcomes: &[Outcome], suite: &Suite, resampling: &Resampling) -> String {
    let Some(first) = outcomes.first() else {
        return String::new();
    };
    let mut rows = Vec::new();
    let mut is_few = false;
    for set in &suite.sets {
        let score = first.scores.iter().find(|score| {
            score
                .name
                .strip_prefix(&set.name)
                .is_some_and(|rest| rest.starts_with('.'))
        });
        let num_clusters = score.map_or(0, |score| score.num_clusters);
        is_few |= num_clusters < FEW;
        rows.push(match score.map_or("none", |score| score.cluster) {
            "none" => format!("{} {}", set.name, set.examples.len()),
            by => format!(
                "{} {} in {num_clusters} by {by}",
                set.name,
                set.examples.len()
            ),
        });
    }
    let percent = 100.0 * resampling.confidence;
    let mut text = format!("\nrows: {}\n", rows.join(", "));
    let few = if is_few {
        format!("; Student's t where clusters are fewer than {FEW}")
    } else {
        String::new()
    };
    text += &format!(
        "intervals: {percent} %, bootstrap of {} resamples of clusters{few}\n",
        resampling.resamples
    );
    if outcomes.iter().any(Outcome::is_base) && outcomes.len() > 1 {
        text += &format!(
            "+ better, - worse than {BASE}: paired bootstrap, Holm over a system's scores, p at most {ALPHA}\n"
        );
    }
    outcomes
        .iter()
        .flat_map(|one| &one.notes)
        .for_each(|note| text += &format!("{note}\n"));
    text
}
