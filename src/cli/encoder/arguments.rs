//! Arguments of every command on encoders.

use std::path::PathBuf;

use clap::Args;

/// A recipe, and how it is run.
#[derive(Args)]
pub struct RecipeArguments {
    /// Recipe, YAML.
    pub recipe: PathBuf,
    /// Go on from the run's last checkpoint, from the beginning if there is none.
    #[arg(long)]
    pub resume: bool,
    /// Change a value of the recipe; lists count from 0.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
