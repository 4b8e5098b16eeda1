//! Results of an evaluation: a folder with the predictions and scores of every system, and a table.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use crate::data::Source;
use crate::error::Error;
use crate::error::Result;
use crate::eval::outcome::Outcome;
use crate::eval::scores_file::Known;
use crate::eval::scores_file::scores_file;
use crate::eval::suite::Suite;
use crate::files;
use crate::records::details::SuiteAbout;
use crate::records::prediction;
use crate::records::scores;
use crate::records::scores::Controls;
use crate::records::scores::ScoresFile;

/// The table as it was printed.
const TABLE_FILE: &str = "table.txt";

/// A folder of results, held by this process.
pub struct Folder {
    path: PathBuf,
    suite: SuiteAbout,
    _lock: files::Lock,
}

impl Folder {
    /// Takes a folder for the results of a suite.
    ///
    /// # Errors
    /// A folder that holds results of another suite, or something else; one that another process
    /// writes to.
    pub fn claim(path: &Path, suite: &Suite, prompts: Option<&Path>) -> Result<Self> {
        let mut about = about(suite)?;
        if let Some(prompts) = prompts {
            about.prompts = Some(prompts.display().to_string());
        }
        let hint = "choose another folder with --out";
        if let Some(other) = scores::read_suite(path)? {
            if other.file != about.file {
                let found = match other.file.is_empty() {
                    true => "another suite",
                    false => &other.file,
                };
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
        scores::write_suite(path, &about)?;
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

    /// Scores of every system as one object: `folder`, and under `systems` `name`, `control` and
    /// `scores` of each.
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
            let controls: Controls = of_system
                .filter_map(|other| Some((other.control?.name().to_owned(), other.system.scores())))
                .collect();
            if !controls.is_empty() {
                scores::write_controls(&self.path.join(&one.folder), &controls)?;
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
        let known = Known {
            suite: &self.suite,
            about: &one.about,
            scores: &one.scores,
            compared: &one.compared,
            slices: &one.slices,
        };
        scores_file(&one.system, &known)?.write(&folder)
    }

    /// Systems of earlier evaluations that are not among `names` and were evaluated with another
    /// version of the suite.
    ///
    /// # Errors
    /// Scores that cannot be read.
    pub fn outdated(&self, names: &[String]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for path in entries(&self.path)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if names.iter().any(|known| *known == name) {
                continue;
            }
            if let Some(theirs) = ScoresFile::read(&path)? {
                let suite = theirs.details.and_then(|details| details.suite);
                if suite.as_ref() != Some(&self.suite) {
                    found.push(name.into_owned());
                }
            }
        }
        Ok(found)
    }
}

/// A suite's file as seen from here, its role, and one hash of all it reads.
fn about(suite: &Suite) -> Result<SuiteAbout> {
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
    Ok(SuiteAbout {
        name: suite.name.clone(),
        file,
        role: suite.role.name().to_owned(),
        hash,
        prompts: None,
    })
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
