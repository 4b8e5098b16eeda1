//! Statistics on plain arrays: significance tests, k-means, principal components, determinantal point processes.
//!
//! The crate promises no stable API.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod significance;
pub mod eigen;
pub mod kmeans;
pub mod pca;
pub mod kdpp;
