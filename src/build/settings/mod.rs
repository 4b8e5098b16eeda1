//! Settings of the steps, a file for each section of a recipe.

pub mod clean;
pub mod collect;
pub mod listen;
pub mod local;
pub mod publish;
pub mod speak;
pub mod split;
pub mod summarise;
pub mod verify;
