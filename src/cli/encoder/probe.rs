//! `maqam encoder probe`.

use crate::cli::encoder::arguments::RecipeArguments;
use crate::cli::encoder::heads;
use crate::encoder::probe::Recipe;
use crate::error::Result;
use crate::stop::Stop;

pub fn run(arguments: &RecipeArguments, stop: &Stop) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set, true)?;
    heads::train(&recipe, arguments.resume, stop)
}
