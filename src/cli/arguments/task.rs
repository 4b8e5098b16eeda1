//! `--task`, `--prompts` and `--wording`: how rows become prompts.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::records::adapter_recipe;
use crate::seed::Key;
use crate::task::AskedIn;
use crate::task::Example;
use crate::task::Tasks;
use crate::task::Wording;
use crate::task::example_without_task;

/// How rows become prompts.
#[derive(Args, Clone)]
pub struct TaskArguments {
    /// Task of rows that neither say one nor bring `messages`.
    #[arg(long)]
    pub task: Option<String>,
    /// Folder of task files that add to or override the built-in ones; by default that of the
    /// adapter's run.
    #[arg(long)]
    pub prompts: Option<PathBuf>,
    /// Which of the task's instructions are asked.
    #[arg(long, value_enum, default_value_t = WordingName::Test)]
    pub wording: WordingName,
    /// The language of the task's instructions: row (each row's own), both, or a language such as
    /// ar or en.
    #[arg(long, value_name = "LANGUAGE", default_value_t = AskedIn::Row)]
    pub instructions: AskedIn,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum WordingName {
    Train,
    Dev,
    Test,
}

impl WordingName {
    /// The wording that is meant.
    pub fn wording(self) -> Wording {
        match self {
            Self::Train => Wording::Train,
            Self::Dev => Wording::Dev,
            Self::Test => Wording::Test,
        }
    }
}

impl TaskArguments {
    /// The examples of a manifest's rows, in order; with each the task's limit of new tokens, where
    /// it has a task. `adapter` is what answers them.
    pub fn examples(
        &self,
        rows: &[Row],
        path: &Path,
        adapter: Option<&Path>,
    ) -> Result<Vec<(Example, Option<usize>)>> {
        let prompts = adapter_recipe::prompts_of(self.prompts.as_deref(), adapter)?;
        let tasks = Tasks::load(prompts.as_deref())?.asked_in(&self.instructions);
        if let Some(name) = &self.task {
            tasks.get(name).map_err(|e| e.at("--task"))?;
        }
        let instruction = Key::new(0, "evaluation instruction");
        rows.iter()
            .enumerate()
            .map(|(i, row)| {
                self.example(row, &tasks, instruction.with(i as u64))
                    .map_err(|e| e.at(row.place(path)))
            })
            .collect()
    }

    /// The example of one row, whose instruction `key` draws.
    fn example(&self, row: &Row, tasks: &Tasks, key: Key) -> Result<(Example, Option<usize>)> {
        let name = row.task.as_deref().or(self.task.as_deref());
        if !row.messages.is_empty() {
            let task = name.and_then(|name| tasks.get(name).ok());
            let limit = task.map(|task| task.answer.max_new_tokens);
            return Ok((example_without_task(row)?, limit));
        }
        match name {
            Some(name) => {
                let task = tasks.get(name)?;
                let example = task.example(row, self.wording.wording(), key)?;
                Ok((example, Some(task.answer.max_new_tokens)))
            }
            None if row.instruction.is_some() => Ok((example_without_task(row)?, None)),
            None => Err(Error::input("no task")
                .hint("add --task NAME, or a `task` or `messages` to each row")),
        }
    }
}
