//! `maqam encoder pretrain`.

use crate::cli::encoder::arguments::RecipeArguments;
use crate::cli::encoder::training;
use crate::encoder::recipe;
use crate::error::Result;
use crate::stop::Stop;

pub fn run(arguments: &RecipeArguments, stop: &Stop) -> Result<()> {
    training::train(arguments, recipe::Command::Pretrain, stop)
}
