//! Results of an evaluation: a folder with the predictions and scores of every system, and a table.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::data::Source;
use crate::error::Error;
use crate::error::Result;
use crate::eval::outcome::Outcome;
use crate::eval::record;
use crate::eval::record::Details;
use crate::eval::suite::Suite;
use crate::files;
use crate::json;
use crate::records::prediction;
use crate::records::scores;
use crate::records::scores::CONTROLS_FILE;
use crate::records::scores::SCORES_FILE;
use crate::records::scores::SUITE_FILE;

/// The table as it was printed.
const TABLE_FILE: &str = "table.txt";

/// A folder of results, held by this process.
pub struct Folder {
    path: PathBuf,
    suite: Map<String, Value>,
    _lock: files::Lock,
}

impl Folder {
    /// Takes a folder for the results of a suite.
    ///
    /// # Errors
    /// A folder that holds results of another suite, or something else; one that another process writes to.
    pub fn claim(path: &Path, suite: &Suite, prompts: Option<&Path>) -> Result<Self> {
        let mut about = about(suite)?;
        if let Some(prompts) = prompts {
            about.insert("prompts".to_owned(), prompts.display().to_string().into());
        }
        let hint = "choose another folder with --out";
        let known = path.join(SUITE_FILE);
        if known.is_file() {
            let other = read_object(&known)?;
            if other.get("file") != about.get("file") {
                let found = other
                    .get("file")
                    .and_then(Value::as_str)
                    .unwrap_or("another suite");
                return Err(Error::input(format!("holds predictions of {found}"))
                    .at_path(path)
                    .hint(hint));
            }
        } else if path.is_file() || !entries(path)?.is_empty() {
            return Err(Error::input("holds something else than an evaluation")
                .at_path(path)
                .hint(hint));
        }
        let lock = files::Lock::take(path)?;
        scores::write(&known, &about)?;
        Ok(Self {
            path: path.to_owned(),
            suite: about,
            _lock: lock,
        })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Scores of every system as one object: `folder`, and under `systems` `name`, `control` and `scores` of each.
    pub fn summary(&self, outcomes: &[Outcome]) -> Value {
        let systems: Vec<Value> = outcomes
            .iter()
            .map(|one| {
                json!({
                    "name": one.name,
                    "control": one.control.map(|control| control.name()),
                    "folder": self.path.join(&one.folder).display().to_string(),
                    "scores": one.system.scores().to_json(),
                })
            })
            .collect();
        json!({ "folder": self.path.display().to_string(), "systems": systems })
    }

    /// Writes predictions and scores of every system, and the table.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, outcomes: &[Outcome], table: &str) -> Result<()> {
        for one in outcomes {
            self.write_system(one)?;
        }
        for one in outcomes.iter().filter(|one| one.control.is_none()) {
            let of_system = outcomes.iter().filter(|other| other.name == one.name);
            let controls: Map<String, Value> = of_system
                .filter_map(|other| {
                    Some((
                        other.control?.name().to_owned(),
                        other.system.scores().to_json().into(),
                    ))
                })
                .collect();
            if !controls.is_empty() {
                scores::write(&self.path.join(&one.folder).join(CONTROLS_FILE), &controls)?;
            }
        }
        files::write_atomic(&self.path.join(TABLE_FILE), table.as_bytes())
    }

    /// Writes predictions and scores of one system.
    fn write_system(&self, one: &Outcome) -> Result<()> {
        let folder = self.path.join(&one.folder);
        for answered in &one.system.sets {
            prediction::write(
                &folder.join(format!("{}.jsonl", answered.set.name)),
                &answered.said,
            )?;
        }
        let mut about = Map::from_iter([("suite".to_owned(), Value::from(self.suite.clone()))]);
        about.extend(one.about.clone());
        let details = Details {
            about,
            scores: &one.scores,
            compared: &one.compared,
            slices: &one.slices,
        };
        scores::write(
            &folder.join(SCORES_FILE),
            &record::scores_json(&one.system, &details)?,
        )
    }

    /// Systems of earlier evaluations that are not among `names` and were evaluated with another version of the suite.
    ///
    /// # Errors
    /// Scores that cannot be read.
    pub fn outdated(&self, names: &[String]) -> Result<Vec<String>> {
        let suite = Value::from(self.suite.clone());
        let mut found = Vec::new();
        for path in entries(&self.path)? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let scores = path.join(SCORES_FILE);
            if !scores.is_file() || names.contains(&name) {
                continue;
            }
            let theirs = read_object(&scores)?;
            let of_suite = theirs
                .get(scores::DETAILS)
                .and_then(|details| details.get("suite"));
            if of_suite != Some(&suite) {
                found.push(name);
            }
        }
        Ok(found)
    }
}

/// A suite's file as seen from here, its role, and one hash of all it reads.
fn about(suite: &Suite) -> Result<Map<String, Value>> {
    let file = suite.files.first().cloned().unwrap_or_default();
    let file = file.canonicalize().unwrap_or(file);
    let here = std::env::current_dir().unwrap_or_default();
    let file = file
        .strip_prefix(&here)
        .unwrap_or(&file)
        .display()
        .to_string();
    let hashes = suite
        .files
        .iter()
        .map(|path| Source::new(path).hash())
        .collect::<Result<Vec<_>>>()?;
    let hash = blake3::hash(hashes.concat().as_bytes())
        .to_hex()
        .to_string();
    let entries = [
        ("name", json!(suite.name)),
        ("file", json!(file)),
        ("role", json!(suite.role)),
        ("hash", json!(hash)),
    ];
    Ok(entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    json::parse(&files::read_text(path)?).map_err(|e| e.at_path(path))
}

/// What a folder holds, hidden files apart, by name; nothing where there is none.
fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let read = || {
        std::fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<PathBuf>>>()
    };
    let mut found = read().map_err(|e| Error::io(path, "read the folder", e))?;
    found.retain(|path| {
        !path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .starts_with('.')
    });
    found.sort();
    Ok(found)
}
