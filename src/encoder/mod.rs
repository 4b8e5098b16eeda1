//! Speech encoders: masked prediction of cluster ids from scratch, distillation into smaller ones,
//! and heads on top of them.
//!
//! A run is a list of iterations. Each clusters features (MFCC, or a layer of an encoder), and
//! trains an encoder to predict the ids:
//!
//! ```text
//! rows > features of a layer, in shards on the disk > projection > k-means > an id for each frame > masked prediction > an encoder
//! ```
//!
//! Everything random is a hash of (seed, purpose, iteration, step or row), so a resumed run ends as
//! an undisturbed one, bit for bit.

pub mod beam;
pub mod checkpoint;
pub mod clips;
pub mod drops;
pub mod features;
pub mod fit;
pub mod masks;
pub mod measure;
pub mod ngram;
pub mod probe;
pub mod recipe;
pub mod run;
pub mod step;
pub mod targets;
