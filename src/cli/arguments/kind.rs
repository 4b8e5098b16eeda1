//! Kinds of files that people write.

use clap::ValueEnum;

use crate::schema::SchemaKind;

/// Kind of a file.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    /// A training run.
    Recipe,
    /// The sets that a model is evaluated on.
    Suite,
    /// Instructions, labels and answers of a task.
    Task,
    /// Recipes times seeds.
    Experiment,
    /// A speech-summarization data set.
    Build,
}

impl From<KindName> for SchemaKind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Recipe => Self::Recipe,
            KindName::Suite => Self::Suite,
            KindName::Task => Self::Task,
            KindName::Experiment => Self::Experiment,
            KindName::Build => Self::Build,
        }
    }
}
