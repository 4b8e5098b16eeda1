//! Systems, controls and baselines as they come out of a suite: measured, compared with the base, put into a table.

use std::path::PathBuf;

use crate::cli::eval::systems::Asked;
use crate::cli::eval::systems::BASE;
use crate::cli::eval::systems::Systems;
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
use crate::metrics::confidence::ALPHA;
use crate::records::details::Kind;
use crate::records::details::SystemAbout;
use crate::records::prediction::Prediction;
use crate::records::suite_file::Baseline;
use crate::records::suite_file::Control;
use crate::stats::significance::FEW;
use crate::stats::significance::Resampling;

/// Resamples behind the interval of a slice, of which there are many.
const SLICE_RESAMPLES: usize = 1000;

/// What a system, a system under a control, or a baseline scores.
pub struct Judged<'a> {
    /// The system's name.
    pub name: String,
    /// How it was asked, where it was not as the suite says.
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

/// Everything that was asked, and the baselines of the suite; systems first, then their controls, then baselines.
pub fn judge<'a>(
    systems: &Systems,
    asked: &[Asked<'a>],
    suite: &'a Suite,
    resampling: &Resampling,
) -> Result<Vec<Judged<'a>>> {
    let mut judged = Vec::new();
    for control in std::iter::once(None).chain(suite.controls.iter().copied().map(Some)) {
        for of_system in asked {
            judged.extend(
                of_system
                    .interviews
                    .iter()
                    .filter(|(by, ..)| *by == control)
                    .map(|(_, suite, interview)| {
                        let said = interview.predictions(&systems.loader, &of_system.store)?;
                        Judged::of_model(of_system, control, suite, said)
                    }),
            );
        }
    }
    judged.extend(
        suite
            .baselines
            .iter()
            .map(|&baseline| Judged::of_baseline(baseline, suite, systems)),
    );
    let mut judged = judged.into_iter().collect::<Result<Vec<Judged>>>()?;
    let base = judged.iter().position(|one| one.is_base());
    for i in 0..judged.len() {
        judged[i].scores = judged[i].system.confident(resampling);
        if judged[i].control.is_none() {
            judged[i].slices = judged[i].system.slices(&Resampling {
                resamples: SLICE_RESAMPLES,
                ..*resampling
            })?;
        }
        if let Some(base) = base.filter(|&base| base != i) {
            judged[i].compared = judged[i].system.against(&judged[base].system, resampling)?;
        }
    }
    Ok(judged)
}

impl<'a> Judged<'a> {
    fn of_model(
        asked: &Asked,
        control: Option<Control>,
        suite: &'a Suite,
        said: Vec<Vec<Prediction>>,
    ) -> Result<Self> {
        let about = SystemAbout {
            system: Some(asked.name.clone()),
            kind: match control {
                Some(_) => Kind::Control,
                None => Kind::Model,
            },
            control: control.map(|control| control.name().to_owned()),
            adapter: asked.adapter.as_ref().map(|dir| dir.display().to_string()),
            model_hash: Some(asked.model.to_hex().to_string()),
            notes: Vec::new(),
        };
        let folder = PathBuf::from(&asked.name).join(control.map_or("", Control::name));
        let sets: Vec<&Set> = suite.sets.iter().collect();
        Ok(Self::new(
            asked.name.clone(),
            folder,
            about,
            System::new(&sets, said, asked.asks_all(suite))?,
        )
        .under(control))
    }

    fn of_baseline(of: Baseline, suite: &'a Suite, systems: &Systems) -> Result<Self> {
        let (mut sets, mut said, mut notes) = (Vec::new(), Vec::new(), Vec::new());
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
            said.push(
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
            kind: Kind::Baseline,
            notes: notes.clone(),
            ..SystemAbout::default()
        };
        let is_whole = sets.len() == suite.sets.len();
        let judged = Self::new(
            of.name().to_owned(),
            of.name().into(),
            about,
            System::new(&sets, said, is_whole)?,
        );
        Ok(Self {
            notes,
            is_baseline: true,
            ..judged
        })
    }

    fn new(name: String, folder: PathBuf, about: SystemAbout, system: System<'a>) -> Self {
        let (scores, compared, slices, notes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            name,
            control: None,
            folder,
            about,
            system,
            scores,
            compared,
            slices,
            notes,
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
pub fn tables(judged: &[Judged], suite: &Suite, resampling: &Resampling) -> String {
    let columns: Vec<Column> = judged
        .iter()
        .map(|one| Column {
            title: one.title(),
            scores: &one.scores,
            compared: &one.compared,
        })
        .collect();
    let mut text = comparison::table(&columns);
    text += &legend(judged, suite, resampling);
    let models: Vec<(&str, &[Slice])> = judged
        .iter()
        .filter(|one| one.control.is_none() && !one.is_baseline)
        .map(|one| (one.name.as_str(), one.slices.as_slice()))
        .collect();
    let metric_of = |set: &str| {
        let answered = judged
            .first()?
            .system
            .sets
            .iter()
            .find(|answered| answered.set.name == set)?;
        let (headline, tallies) = (&answered.measured.headline.name, &answered.measured.tallies);
        tallies
            .iter()
            .find(|tally| tally.name == *headline)
            .or(tallies.first())
            .map(|tally| tally.name.clone())
    };
    text + &comparison::slice_tables(&models, metric_of)
}

fn legend(judged: &[Judged], suite: &Suite, resampling: &Resampling) -> String {
    let Some(first) = judged.first() else {
        return String::new();
    };
    let (mut rows, mut is_few) = (Vec::new(), false);
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
    if judged.iter().any(Judged::is_base) && judged.len() > 1 {
        text += &format!(
            "+ better, - worse than {BASE}: paired bootstrap, Holm over a system's scores, p at most {ALPHA}\n"
        );
    }
    judged
        .iter()
        .flat_map(|one| &one.notes)
        .for_each(|note| text += &format!("{note}\n"));
    text
}
