//! Invalid stages: numbers out of their range, keys that contradict each other, keys without
//! effect.

use crate::difficulty::DifficultyOrder;
use crate::difficulty::Measure;
use crate::loss_weights;
use crate::settings::Draw;
use crate::settings::Mix;
use crate::settings::Settings;
use crate::settings::StageSettings;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::StageParts;

/// Refuses settings that are invalid for every population.
pub(super) fn settings(settings: &Settings) -> Result<()> {
    if settings.batch == 0 {
        return Err(Error::input("schedule: `batch` is 0")
            .hint("give the number of examples in an optimiser step"));
    }
    if settings.stages.is_empty() {
        return Err(Error::input("schedule: `stages` is empty")
            .hint("a plain run is one stage: `stages: [{epochs: 1}]`"));
    }
    for (index, stage) in settings.stages.iter().enumerate() {
        let name = stage.name_at(index);
        let repeats_name = settings.stages[..index]
            .iter()
            .enumerate()
            .any(|(before, earlier)| earlier.name_at(before) == name);
        let found = if repeats_name {
            Err(Error::input("`name` is that of an earlier stage")
                .hint("give each stage a name of its own: logs tell stages apart by name"))
        } else {
            of_stage(stage, settings.batch).and_then(|()| {
                if settings.shuffle {
                    beside_shuffle(stage)
                } else {
                    Ok(())
                }
            })
        };
        found.map_err(|error| error.at(format!("schedule: stage `{name}`")))?;
    }
    Ok(())
}

fn of_stage(stage: &StageSettings, batch: usize) -> Result<()> {
    match stage.draw {
        Draw::Shuffled => mixing(stage, batch)?,
        Draw::Balanced | Draw::Diverse | Draw::Uds => owns_the_slots(stage)?,
    }
    needs_draw(stage)?;
    uds(stage)?;
    difficulty(stage)?;
    msft(stage)?;
    if let Some(rate) = stage
        .learning_rate
        .filter(|rate| !(rate.is_finite() && *rate > 0.0))
    {
        return Err(Error::input(format!("`learning_rate` is {rate}"))
            .hint("give a number above 0, or leave it out for the optimiser's"));
    }
    early_stop(stage)
}

/// Refuses a temperature without `mix: temperature`, the reverse, and a replay share that leaves no
/// slots to the stage's own tasks.
fn mixing(stage: &StageSettings, batch: usize) -> Result<()> {
    let replay = stage.replay.unwrap_or(0.0);
    if let Some(Mix::Online(online)) = stage.mix {
        online.check(batch)?;
        if stage.replay.is_some() {
            return Err(Error::input(
                "`replay` beside `mix: {online: ...}`, which divides all slots",
            )
            .hint("list the earlier tasks under `tasks`, and remove `replay`"));
        }
    }
    if !(0.0..1.0).contains(&replay) {
        return Err(Error::input(format!("`replay` is {replay}"))
            .hint("give the share of the slots as a number from 0 up to, not including, 1"));
    }
    match (stage.mix.unwrap_or_default(), stage.temperature) {
        (Mix::Temperature, None) => Err(Error::input("`mix: temperature` needs `temperature`")
            .hint("for example `temperature: 3`; 1 is proportional, large is uniform")),
        (Mix::Temperature, Some(t)) if !(t.is_finite() && t > 0.0) => {
            Err(Error::input(format!("`temperature` is {t}")).hint("give a number above 0"))
        }
        (Mix::Temperature, Some(_)) | (_, None) => Ok(()),
        (_, Some(_)) => Err(Error::input("`temperature` has no effect on this `mix`")
            .hint("write `mix: temperature`, or remove `temperature`")),
    }
}

/// Refuses keys that assign slots to tasks, under drawing that assigns them itself.
fn owns_the_slots(stage: &StageSettings) -> Result<()> {
    let draw = stage.draw.name();
    let written = [
        stage.mix.map(|mix| format!("mix: {}", mix.name())),
        stage.temperature.map(|t| format!("temperature: {t}")),
        stage.replay.map(|r| format!("replay: {r}")),
    ];
    match written.into_iter().flatten().next() {
        Some(key) => {
            let name = key.split(':').next().unwrap_or_default().to_owned();
            Err(Error::input(format!("`{key}` beside `draw: {draw}`, which gives the same number of slots to every task and label itself"))
                .hint(format!("remove `{name}`, or write `draw: shuffled`; tasks of earlier stages can be listed under `tasks`")))
        }
        None => Ok(()),
    }
}

/// Refuses keys that the stage's way of drawing does not use.
fn needs_draw(stage: &StageSettings) -> Result<()> {
    let draw = stage.draw.name();
    if stage.max_repeats.is_some() && stage.draw == Draw::Shuffled {
        return Err(Error::input("`max_repeats` beside `draw: shuffled`, which repeats a row no sooner than all rows of its task were drawn")
            .hint("remove `max_repeats`, or write `draw: balanced` or `draw: diverse`"));
    }
    if stage.max_repeats == Some(0) {
        return Err(Error::input("`max_repeats` is 0")
            .hint("give the most times that a row may be drawn in the stage, at least 1"));
    }
    let diverse = [
        ("block", stage.block.is_some()),
        ("select", stage.select.is_some()),
        ("embeddings", stage.embeddings.is_some()),
    ];
    if let Some((key, _)) = diverse
        .into_iter()
        .find(|(_, is_written)| *is_written && stage.draw != Draw::Diverse)
    {
        return Err(Error::input(format!(
            "`{key}` beside `draw: {draw}`, on which it has no effect"
        ))
        .hint(format!("write `draw: diverse`, or remove `{key}`")));
    }
    if stage.block == Some(0) {
        return Err(Error::input("`block` is 0").hint("give the number of steps that share a block of candidates; 8 is the default, 1 leaves no choice"));
    }
    Ok(())
}

/// Refuses keys that draws by UDS do not follow, and its settings beside other draws.
fn uds(stage: &StageSettings) -> Result<()> {
    if stage.draw != Draw::Uds {
        return match stage.uds {
            Some(_) => Err(Error::input(format!(
                "`uds` beside `draw: {}`, on which it has no effect",
                stage.draw.name()
            ))
            .hint("write `draw: uds`, or remove `uds`")),
            None => Ok(()),
        };
    }
    if stage.max_repeats.is_some() {
        return Err(Error::input(
            "`max_repeats` beside `draw: uds`, which passes over the rows that it does not choose",
        )
        .hint("remove `max_repeats`, or write `draw: balanced`"));
    }
    stage.uds.unwrap_or_default().check()
}

/// Refuses an order by difficulty beside drawing that has an order of its own, and values outside
/// their range.
fn difficulty(stage: &StageSettings) -> Result<()> {
    let Some(difficulty) = &stage.difficulty else {
        return Ok(());
    };
    if difficulty.by == Measure::Column(String::new()) {
        return Err(Error::input("`difficulty.by` is empty").hint(
            "write `duration`, `words_per_second`, `base_loss` or a column of the manifests",
        ));
    }
    let chooses_by = match stage.draw {
        Draw::Diverse => Some("their embeddings"),
        Draw::Uds => Some("the logits of the model"),
        Draw::Shuffled | Draw::Balanced => None,
    };
    if let Some(by) = chooses_by {
        return Err(Error::input(format!(
            "`difficulty` beside `draw: {}`, which chooses rows by {by}",
            stage.draw.name()
        ))
        .hint("remove `difficulty`, or write `draw: balanced` or `draw: shuffled`"));
    }
    let is_competence = difficulty.order == DifficultyOrder::Competence;
    if is_competence && stage.max_repeats.is_some() {
        return Err(Error::input(
            "`max_repeats` beside `difficulty.order: competence`, which draws rows at random",
        )
        .hint("remove `max_repeats`, or write `order: ascending`"));
    }
    let of_competence = [
        ("start", difficulty.start.is_some()),
        ("length", difficulty.length.is_some()),
    ];
    if let Some((key, _)) = of_competence
        .into_iter()
        .find(|(_, is_written)| *is_written && !is_competence)
    {
        return Err(Error::input(format!(
            "`difficulty.{key}` beside `order: {}`, on which it has no effect",
            difficulty.order.name()
        ))
        .hint(format!("write `order: competence`, or remove `{key}`")));
    }
    if let Some(start) = difficulty
        .start
        .filter(|start| !(*start > 0.0 && *start <= 1.0))
    {
        return Err(Error::input(format!("`difficulty.start` is {start}")).hint(
            "give the share of the rows that the first step may draw, above 0 and at most 1",
        ));
    }
    if difficulty.length == Some(0) {
        return Err(Error::input("`difficulty.length` is 0")
            .hint("give the number of steps until all rows may be drawn, at least 1"));
    }
    Ok(())
}

/// Refuses keys beside `end: msft` that it cannot roll back or that end the stage otherwise.
fn msft(stage: &StageSettings) -> Result<()> {
    if stage.end.is_none() {
        return match stage.msft {
            Some(_) => Err(
                Error::input("`msft` without `end: msft`, on which it has no effect")
                    .hint("write `end: msft`, or remove `msft`"),
            ),
            None => Ok(()),
        };
    }
    let contradicts = [
        ("draw: diverse", stage.draw == Draw::Diverse),
        ("draw: uds", stage.draw == Draw::Uds),
        ("max_repeats", stage.max_repeats.is_some()),
        ("replay", stage.replay.is_some_and(|replay| replay > 0.0)),
        ("early_stop", stage.early_stop.is_some()),
        (
            "mix: {online: ...}",
            matches!(stage.mix, Some(Mix::Online(_))),
        ),
    ];
    if let Some((key, _)) = contradicts.into_iter().find(|(_, is_written)| *is_written) {
        return Err(Error::input(format!(
            "`{key}` beside `end: msft`, which decides itself what is drawn and when the stage ends"
        ))
        .hint(format!("remove `{key}`, or `end`")));
    }
    let budget = stage.msft.as_ref().map_or(1.0, |msft| msft.budget);
    if !(budget.is_finite() && budget > 0.0) {
        return Err(Error::input(format!("`msft.budget` is {budget}"))
            .hint("give the length of a round, in epochs of the smallest active task, above 0"));
    }
    Ok(())
}

fn early_stop(stage: &StageSettings) -> Result<()> {
    let Some(early_stop) = &stage.early_stop else {
        return Ok(());
    };
    if early_stop.score.is_empty() {
        return Err(Error::input("`early_stop.score` is empty")
            .hint("name a score of the dev suite, for example `mean`"));
    }
    if early_stop.patience == 0 {
        return Err(
            Error::input("`early_stop.patience` is 0").hint("give the number of evaluations without a better score after which the stage ends, at least 1")
        );
    }
    if !(early_stop.min_delta.is_finite() && early_stop.min_delta >= 0.0) {
        return Err(Error::input(format!(
            "`early_stop.min_delta` is {}",
            early_stop.min_delta
        ))
        .hint("give by how much a score has to be better to count, at least 0"));
    }
    Ok(())
}

/// Refuses keys that have no effect in a shuffled run, where stages only set how often rows are
/// drawn.
fn beside_shuffle(stage: &StageSettings) -> Result<()> {
    let keys = [
        ("draw: diverse", stage.draw == Draw::Diverse),
        ("draw: uds", stage.draw == Draw::Uds),
        ("difficulty", stage.difficulty.is_some()),
        ("learning_rate", stage.learning_rate.is_some()),
        ("train", stage.train != StageParts::default()),
        ("early_stop", stage.early_stop.is_some()),
        ("mix.online", matches!(stage.mix, Some(Mix::Online(_)))),
        ("end", stage.end.is_some()),
        ("loss", stage.loss != loss_weights::StageSettings::default()),
    ];
    match keys.into_iter().find(|(_, is_written)| *is_written) {
        Some((key, _)) => Err(Error::input(format!(
            "`{key}` beside `schedule.shuffle: true`, which leaves no stages to train differently"
        ))
        .hint(format!(
            "remove `{key}` from the stage, or `shuffle` from the schedule"
        ))),
        None => Ok(()),
    }
}
