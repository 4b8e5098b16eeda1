//! Arguments that several commands take.

pub mod data;
pub mod device;
pub mod kind;
pub mod leakage;
pub mod manifests;
pub mod model;
pub mod stored;
pub mod task;
