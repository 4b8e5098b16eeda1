//! Which rows every step draws, stage by stage, as far as that is known before training.

use crate::error::Error;
use crate::error::Result;
use crate::parts::Part;
use crate::parts::Training;
use crate::plan::uds;
use crate::recipe::Recipe;
use crate::records::picks::StepPicks;
use crate::schedule::Draw;
use crate::schedule::EmbeddingSource;
use crate::schedule::Pick;
use crate::schedule::Schedule;
use crate::schedule::Select;
use crate::schedule::Stage;
use crate::train::corpus::Corpus;

/// What a stage draws.
pub struct StageDraws {
    /// The stage.
    pub stage: Stage,
    /// The picks of each of its steps.
    pub steps: Vec<Vec<Pick>>,
    /// The same slots filled in the order of their cells, without a choice, where the stage
    /// chooses.
    pub unchosen: Option<Vec<Vec<Pick>>>,
    /// Why the picks of a step are not known, where only those of a whole block are; then `steps`
    /// is what `unchosen` would be.
    pub unknown: Option<String>,
    /// Whether the picks follow from what training changes: weights of tasks, or tasks that leave.
    /// `steps` are then those of the weights and tasks before training.
    pub depends_on_training: bool,
}

impl StageDraws {
    /// The rows of each step.
    pub fn batches(&self) -> Vec<Vec<u32>> {
        rows_of(&self.steps)
    }
}

/// The rows of picks.
pub fn rows_of(steps: &[Vec<Pick>]) -> Vec<Vec<u32>> {
    steps
        .iter()
        .map(|step| step.iter().map(|pick| pick.row).collect())
        .collect()
}

/// Why the picks of a stage cannot be known before training; `None` where they can, given the
/// model.
pub fn unknown_until_trained(
    recipe: &Recipe,
    corpus: &Corpus,
    schedule: &Schedule,
    stage: usize,
) -> Option<String> {
    let stages = schedule.stages();
    if let Some(why) = unknown_after_msft(stages, stage) {
        return Some(why);
    }
    if let Some(why) = uds::unknown(&stages[stage]) {
        return Some(why);
    }
    if schedule.embeddings_of(stage) != Some(EmbeddingSource::Current) {
        return None;
    }
    let rows = corpus.rows_of(stages[stage].tasks.iter());
    let has_text = rows.iter().any(|&row| !corpus.population().has_audio(row));
    let changes = |part: Part, training: Training| match part {
        Part::AudioEncoder | Part::Projector => training != Training::Frozen,
        // Of the decoder only the token embeddings are looked at, and adapters do not change them.
        Part::Decoder => training == Training::Full && has_text,
    };
    let earlier = stages[..stage].iter().find_map(|earlier| {
        let parts = earlier.train.or(&recipe.train.parts());
        Part::ALL
            .into_iter()
            .find(|&part| changes(part, parts.of(part)))
            .map(|part| (earlier, part))
    });
    let (earlier, part) = earlier?;
    Some(format!(
        "`embeddings: current` compares what the model hears then, and stage `{}` trains its {} before",
        earlier.name,
        part.name()
    ))
}

/// Why the picks of a stage are not known where it, or a stage before it, ends by mSFT.
pub fn unknown_after_msft(stages: &[Stage], stage: usize) -> Option<String> {
    let by_msft = stages[..=stage].iter().find(|of| of.msft.is_some())?;
    Some(format!(
        "`end: msft` of stage `{}` leaves tasks out by their dev scores, and rolls back",
        by_msft.name
    ))
}

/// The picks of every stage. `unknown[stage]` says why those of a stage that chooses are not known.
///
/// # Errors
/// Settings that the schedule refuses.
pub fn of_all(
    recipe: &Recipe,
    corpus: &Corpus,
    schedule: &Schedule,
    unknown: &[Option<String>],
) -> Result<Vec<StageDraws>> {
    let mut settings = recipe.schedule.clone();
    for stage in settings
        .stages
        .iter_mut()
        .filter(|stage| stage.draw == Draw::Diverse)
    {
        (stage.select, stage.embeddings) = (Some(Select::Random), None);
    }
    for stage in &mut settings.stages {
        stage.difficulty = None;
    }
    let unchosen = Schedule::new(&settings, corpus.population(), recipe.order_seed())?;
    let picks = |schedule: &Schedule, stage: &Stage| {
        stage
            .range()
            .map(|step| schedule.picks(step))
            .collect::<Result<Vec<_>>>()
    };
    let of_stage = |(index, (stage, unknown)): (usize, (&Stage, &Option<String>))| {
        let chooses = stage.diverse.is_some_and(|diverse| diverse.chooses());
        let without = if chooses {
            Some(picks(&unchosen, stage)?)
        } else {
            None
        };
        let steps = match (&without, unknown) {
            (Some(without), Some(_)) => without.clone(),
            // Without its difficulties, a stage draws the same slots in the seeded order.
            (None, Some(_)) => picks(&unchosen, stage)?,
            _ => picks(schedule, stage)?,
        };
        Ok(StageDraws {
            stage: stage.clone(),
            steps,
            unchosen: without.filter(|_| unknown.is_none()),
            unknown: unknown.clone(),
            depends_on_training: schedule.depends_on_training(index),
        })
    };
    schedule
        .stages()
        .iter()
        .zip(unknown)
        .enumerate()
        .map(of_stage)
        .collect()
}

/// The rows of every step.
///
/// # Errors
/// A stage whose picks are not known.
pub fn picks(draws: &[StageDraws], corpus: &Corpus) -> Result<Vec<StepPicks>> {
    if let Some((draws, why)) = draws
        .iter()
        .find_map(|draws| Some((draws, draws.unknown.as_ref()?)))
    {
        return Err(Error::input(format!(
            "the picks of stage `{}` are not known before training: {why}",
            draws.stage.name
        ))
        .at("--picks")
        .hint("leave --picks out: shares, coverage and repeats are known all the same"));
    }

    let mut found = Vec::new();
    for StageDraws {
        stage,
        steps,
        depends_on_training,
        ..
    } in draws
    {
        for (step, picks) in stage.range().zip(steps) {
            found.push(StepPicks {
                step: step + 1,
                stage: stage.name.clone(),
                ids: picks.iter().map(|pick| corpus.id(pick.row)).collect(),
                depends_on_training: *depends_on_training,
            });
        }
    }
    Ok(found)
}
