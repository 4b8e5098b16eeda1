//! `maqam prompts`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::device::PrecisionArguments;
use crate::cli::arguments::model::ModelArguments;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::error::Error;
use crate::error::Result;
use crate::eval::prompts;
use crate::eval::suite::Suite;
use crate::files;
use crate::files::StagedDir;
use crate::machine;
use crate::records::prompt_search;
use crate::records::prompt_search::Searched;
use crate::records::suite_file::Role;
use crate::stop::Stop;
use crate::task::Tasks;
use crate::task::with_instructions;

#[derive(Args)]
pub struct Arguments {
    /// Suite of role `dev`, a YAML file.
    suite: PathBuf,
    #[command(flatten)]
    model: ModelArguments,
    /// Folder of task files to write. It must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Folder of task files that add to or replace the built-in ones.
    #[arg(long)]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    precision: PrecisionArguments,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    if arguments.out.exists() {
        return Err(Error::input("exists already")
            .at_path(&arguments.out)
            .hint("name a folder that does not exist yet"));
    }
    let tasks = Tasks::load(arguments.prompts.as_deref())?;
    let suite = arguments.suite(&tasks)?;
    let asked = prompts::asked(&suite).map_err(|e| e.at_path(&arguments.suite))?;
    let (mut model, loader) = arguments.model.open()?;
    machine::fit::prepare_to_generate(&mut model)?;
    arguments.precision.apply(&mut model)?;
    suite.check_language(&loader)?;

    let total: usize = asked.iter().map(prompts::Asked::num_answers).sum();
    let mut shown = Progress::new("asking", 0, total as u64);
    let mut before = 0;
    let mut found = Vec::with_capacity(asked.len());
    for one in &asked {
        let mut progress = |done: usize| {
            shown.update((before + done) as u64, "");
            stop.check("stopped; nothing was written")
        };
        found.push(one.search(&model, &loader, &suite, &mut progress)?);
        before += one.num_answers();
    }
    shown.finish();
    arguments.write(&tasks, &found)?;
    tell(&found)?;
    print::message(format_args!(
        "task files: {}; use them with --prompts",
        arguments.out.display()
    ));
    Ok(())
}

impl Arguments {
    /// The suite, which must be of role `dev`.
    fn suite(&self, tasks: &Tasks) -> Result<Suite> {
        let suite = Suite::load(&self.suite, tasks)?;
        if suite.role == Role::Test {
            return Err(Error::input("the suite has the role `test`")
                .at_path(&self.suite)
                .hint("choose instructions on a suite of role `dev`, and evaluate them on the test suite once"));
        }
        Ok(suite)
    }

    /// Writes the tasks with their best instructions, and the search.
    fn write(&self, tasks: &Tasks, found: &[Searched]) -> Result<()> {
        let mut by_task: BTreeMap<&str, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for searched in found {
            // Languages that the suite does not ask in keep the instructions of dev.
            let task = tasks.get(&searched.task)?;
            let languages = by_task
                .entry(&searched.task)
                .or_insert_with(|| task.instructions.dev.clone());
            let best = searched.candidates[searched.best].instruction.clone();
            languages.insert(searched.language.clone(), vec![best]);
        }

        let staged = StagedDir::new(&self.out)?;
        for (name, languages) in by_task {
            let text = with_instructions(name, self.prompts.as_deref(), &languages)?;
            let path = staged.path().join(format!("{name}.yaml"));
            files::write_atomic(&path, text.as_bytes())?;
        }
        prompt_search::write(staged.path(), found)?;
        staged.commit()
    }
}

/// Prints the score of every instruction, the best first.
fn tell(found: &[Searched]) -> Result<()> {
    for searched in found {
        print::line(format_args!(
            "{}, {}: {} rows",
            searched.task, searched.language, searched.rows
        ))?;
        let mut order: Vec<usize> = (0..searched.candidates.len()).collect();
        let score = |place: usize| searched.candidates[place].score;
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        for place in order {
            let candidate = &searched.candidates[place];
            print::line(format_args!(
                "  {:.4}  {}",
                candidate.score, candidate.instruction
            ))?;
        }
        if is_tied(searched) {
            print::message(format_args!(
                "note: `{}`, {}: all instructions have the same score, so the search says nothing; the first one is written",
                searched.task, searched.language
            ));
        }
    }
    Ok(())
}

/// Whether there is more than one instruction, and none scores better than another.
fn is_tied(searched: &Searched) -> bool {
    let scores = || searched.candidates.iter().map(|candidate| candidate.score);
    scores().count() > 1 && scores().all(|score| score == searched.candidates[0].score)
}
