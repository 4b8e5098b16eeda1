//! `power.json` of an experiment: the smallest differences that its contrasts can resolve.

use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::comparison::Contrast;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_stats::significance::power::Components;
use maqam_stats::significance::power::Design;
use maqam_stats::significance::power::Parts;

/// Name of the file in an experiment's folder.
pub const POWER_FILE: &str = "power.json";

/// Power of an experiment's contrasts.
#[derive(Serialize)]
pub struct Power {
    /// Chance that a true difference of the smallest size is found.
    pub chance: f64,
    /// Level of significance of the experiment.
    pub level: f64,
    /// Level that the smallest p-value of all contrasts has to reach under Holm's method.
    pub strictest_level: f64,
    /// By contrast.
    pub contrasts: Vec<Resolution>,
}

impl Power {
    /// Writes the file into the folder of its experiment, and returns the path.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(POWER_FILE);
        let text = serde_json::to_string_pretty(self).map_err(Error::bug_from)?;
        files::write_atomic(&path, format!("{text}\n").as_bytes())?;
        Ok(path)
    }
}

/// Power of a contrast.
#[derive(Serialize)]
pub struct Resolution {
    /// The contrast.
    pub contrast: Contrast,
    /// Origin of the variances, in words.
    pub from: String,
    /// Number of seeds that they were estimated from; `None` where they are stated.
    pub pilot_seeds: Option<usize>,
    /// Variances of the difference.
    pub components: Components,
    /// Planned seeds, clusters and rows.
    pub design: Design,
    /// Standard error of the difference.
    pub standard_error: f64,
    /// Parts of its square.
    pub parts: Parts,
    /// Smallest true difference that is found with the chance; `None` where the clusters are too
    /// few for any.
    pub smallest: Option<f64>,
    /// The same with twice the seeds.
    pub with_twice_the_seeds: Option<f64>,
    /// The same with twice the clusters, each with as many rows.
    pub with_twice_the_clusters: Option<f64>,
}
