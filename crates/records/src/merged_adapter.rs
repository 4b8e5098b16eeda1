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
    /// Its folder: absolute, so that it does not depend on where maqam is called. Merges of earlier
    /// versions have it as it was given.
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
/// A file that is damaged; a source that is gone.
pub fn sources(adapter: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    add_sources(adapter, &mut Vec::new(), &mut found)?;
    Ok(found)
}

/// Adds the sources of an adapter that `within`, absolute folders, was merged of.
fn add_sources(adapter: &Path, within: &mut Vec<PathBuf>, found: &mut Vec<PathBuf>) -> Result<()> {
    let path = adapter.join(FILE);
    if !path.is_file() {
        found.push(adapter.to_owned());
        return Ok(());
    }
    let whole = adapter
        .canonicalize()
        .map_err(|e| Error::io(adapter, "resolve", e))?;
    // Of folders that were put in each other's place, each would lie in itself without end.
    if within.contains(&whole) {
        return Ok(());
    }
    let text = files::read_text(&path)?;
    let merged: MergedAdapter = json::parse(&text).map_err(|e| e.at_path(&path))?;
    within.push(whole);
    for source in merged.sources {
        if !source.adapter.is_dir() {
            let gone = format!(
                "was merged of `{}`, which is not a folder here",
                source.adapter.display()
            );
            return Err(Error::input(gone).at_path(&path));
        }
        add_sources(&source.adapter, within, found)?;
    }
    within.pop();
    Ok(())
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
        for name in ["a", "b", "c"] {
            std::fs::create_dir(folder(name)).unwrap();
        }
        write("ab", ["a", "b"]);
        write("abc", ["ab", "c"]);
        assert_eq!(sources(&folder("a")).unwrap(), [folder("a")]);
        assert_eq!(
            sources(&folder("abc")).unwrap(),
            ["a", "b", "c"].map(folder)
        );
        // The same adapter twice is no cycle.
        write("twice", ["ab", "ab"]);
        assert_eq!(
            sources(&folder("twice")).unwrap(),
            ["a", "b", "a", "b"].map(folder)
        );
        // Two that were merged of each other.
        std::fs::create_dir(folder("to")).unwrap();
        write("fro", ["to", "a"]);
        std::fs::copy(folder("fro").join(FILE), folder("to").join(FILE)).unwrap();
        let back = std::fs::read_to_string(folder("to").join(FILE)).unwrap();
        let to = folder("to").display().to_string();
        let fro = folder("fro").display().to_string();
        std::fs::write(folder("to").join(FILE), back.replace(&to, &fro)).unwrap();
        assert_eq!(sources(&folder("fro")).unwrap(), ["a", "a"].map(folder));

        std::fs::remove_dir(folder("c")).unwrap();
        let error = sources(&folder("abc")).unwrap_err().to_string();
        assert!(error.contains("which is not a folder here"), "{error}");
        std::fs::write(folder("ab").join(FILE), "{").unwrap();
        assert!(sources(&folder("abc")).is_err());
    }
}
