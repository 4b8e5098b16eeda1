//! Statistics on plain arrays: significance tests, k-means, principal components, agreement of
//! codes with labels, determinantal point processes, peaks of scores, spectral groups, scores of
//! logits.
//!
//! The crate promises no stable API.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod significance;
pub mod eigen;
mod product;
pub mod kmeans;
pub mod kmeans_stream;
pub mod pca;
pub mod pca_stream;
pub mod codes;
pub mod kdpp;
pub mod msft;
pub mod spectral;
pub mod uds;
