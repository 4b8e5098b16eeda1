//! Checks of stages that end by mSFT, before the first step.

use crate::error::Error;
use crate::error::Result;
use crate::eval::halves;
use crate::eval::suite::Suite;
use crate::schedule::Schedule;
use crate::train::EvaluateSettings;

/// Checks that the dev suite scores every task of such stages.
///
/// # Errors
/// A recipe without `evaluate`; a task without rows of dev; a score that the suite does not compute.
pub(super) fn check(
    schedule: &Schedule,
    evaluate: Option<&(EvaluateSettings, Suite)>,
) -> Result<()> {
    for stage in schedule.stages() {
        let Some(settings) = &stage.msft else {
            continue;
        };
        let place = |e: Error| e.at(format!("stage `{}`", stage.name));
        let Some((evaluate, suite)) = evaluate else {
            return Err(place(
                Error::input(
                    "`end: msft` chooses by a dev suite, but the recipe has no `evaluate`",
                )
                .hint("name a suite of role `dev` under `evaluate`"),
            ));
        };
        if let Some(task) = settings
            .scores
            .keys()
            .find(|task| !stage.tasks.contains(task))
        {
            return Err(place(
                Error::input(format!(
                    "`msft.scores` names `{task}`, which the stage does not train"
                ))
                .hint(format!("it trains {}", stage.tasks.join(", "))),
            ));
        }
        for task in &stage.tasks {
            halves::score_of(suite, task, settings.scores.get(task))
                .map_err(|e| place(e.at_path(&evaluate.suite)))?;
        }
    }
    Ok(())
}
