//! `maqam plan`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::recipe::Recipe;

#[derive(Args)]
pub struct Arguments {
    /// Recipe, YAML.
    recipe: PathBuf,
    /// Change a value of the recipe; lists count from 0.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write the rows of every step to this file, JSONL.
    #[arg(long)]
    picks: Option<PathBuf>,
}

/// One line of the picks file.
#[derive(serde::Serialize)]
struct Line<'a> {
    step: u64,
    stage: &'a str,
    ids: Vec<String>,
}

pub fn run(arguments: &Arguments, _stop: &AtomicBool) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    let (corpus, schedule) = recipe.plan(&recipe.tasks()?)?;
    for error in corpus.skipped() {
        eprintln!("skipped: {}", error.message());
    }
    let mut lines = Vec::new();
    println!("{} steps of {} examples, {} rows", schedule.num_steps(), schedule.batch(), corpus.len());
    for stage in schedule.stages() {
        let mut drawn: BTreeMap<&str, (usize, u32)> = BTreeMap::new();
        for step in stage.start..stage.start + stage.steps {
            let picks = schedule.picks(step)?;
            for pick in &picks {
                let counts = drawn.entry(&corpus.population().tasks[corpus.task_of(pick.row)]).or_default();
                counts.0 += 1;
                counts.1 = counts.1.max(pick.epoch);
            }
            if arguments.picks.is_some() {
                let line = Line { step: step + 1, stage: &stage.name, ids: picks.iter().map(|pick| corpus.id(pick.row)).collect() };
                lines.push(serde_json::to_string(&line).map_err(Error::bug)?);
            }
        }
        println!("stage {}: steps {} to {}", stage.name, stage.start + 1, stage.start + stage.steps);
        let total: usize = drawn.values().map(|(count, _)| count).sum();
        for (task, (count, epoch)) in drawn {
            println!("  {task}: {count} examples ({:.1} %), in pass {} of its rows at the end", 100.0 * count as f64 / total.max(1) as f64, epoch + 1);
        }
    }
    if let Some(path) = &arguments.picks {
        files::write_atomic(path, (lines.join("\n") + "\n").as_bytes())?;
        println!("picks of every step: {}", path.display());
    }
    Ok(())
}
