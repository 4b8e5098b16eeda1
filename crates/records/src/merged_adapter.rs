//! How an adapter was merged of others: `merge.json` beside its tensors.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;

/// Name of the file.
pub const FILE: &str = "merge.json";

/// Settings and result of a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergedAdapter {
    /// Rule by which adapters became one.
    pub method: String,
    /// Share of the values of each matrix that was kept, where the rule trims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    /// The adapters, in their order.
    pub sources: Vec<Source>,
    /// Distance of the stored matrices from the merged ones, relative to their length, over all
    /// modules.
    pub error: f64,
    /// The module with the largest relative distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst: Option<Worst>,
}

/// One adapter of a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Its folder, as it was given.
    pub adapter: PathBuf,
    /// Its weight.
    pub weight: f64,
}

/// A module and its relative distance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worst {
    /// Path of the module.
    pub module: String,
    /// Its relative distance.
    pub error: f64,
}

impl MergedAdapter {
    /// Writes the file into an adapter's folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(Error::bug_from)?;
        files::write_atomic(&folder.join(FILE), format!("{text}\n").as_bytes())
    }
}

/// The folders of the adapters that an adapter was merged of, or its own where it was not merged.
///
/// # Errors
/// A file that is damaged.
pub fn sources(adapter: &Path) -> Result<Vec<PathBuf>> {
    let path = adapter.join(FILE);
    if !path.is_file() {
        return Ok(vec![adapter.to_owned()]);
    }
    let text = files::read_text(&path)?;
    let merged: MergedAdapter = json::parse(&text).map_err(|e| e.at_path(&path))?;
    let mut found = Vec::with_capacity(merged.sources.len());
    for source in merged.sources {
        // A merged adapter may have been merged again; one that lies in itself would never end.
        if source.adapter == adapter {
            continue;
        }
        found.extend(sources(&source.adapter)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_found_through_merges() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| dir.path().join(name);
        let write = |name: &str, of: [&str; 2]| {
            std::fs::create_dir(folder(name)).unwrap();
            let merged = MergedAdapter {
                method: "linear".to_owned(),
                density: None,
                sources: of
                    .map(|of| Source {
                        adapter: folder(of),
                        weight: 0.5,
                    })
                    .into(),
                error: 0.0,
                worst: None,
            };
            merged.write(&folder(name)).unwrap();
        };
        write("ab", ["a", "b"]);
        write("abc", ["ab", "c"]);
        assert_eq!(sources(&folder("a")).unwrap(), [folder("a")]);
        assert_eq!(
            sources(&folder("abc")).unwrap(),
            ["a", "b", "c"].map(folder)
        );
        std::fs::write(folder("ab").join(FILE), "{").unwrap();
        assert!(sources(&folder("abc")).is_err());
    }
}
