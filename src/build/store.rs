//! Files of a build between its steps: collected and cleaned documents, and a journal of rows for
//! each later step.
//!
//! Every file is named by a fingerprint of all its inputs, from the sources on. So after a change
//! of the recipe, files that depend on the change are not found, and all others are. The files are
//! in `datasets/.work/NAME`, next to the data set.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::json;

use crate::build::collect;
use crate::build::document::Document;
use crate::build::document::Outcome;
use crate::build::document::Step;
use crate::build::observer::Outcome as Built;
use crate::build::recipe::Recipe;
use crate::build::shard::Shard;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::files::Lock;
use crate::json;
use crate::jsonl;
use crate::jsonl::LastLine;
use crate::stop::Stop;

/// Version of the files, which changes when earlier versions cannot use them.
const FORMAT: u32 = 2;
/// Settings that change no result: budgets and waits. A command that takes too long is no result:
/// the next run tries it again.
const WITHOUT_EFFECT: [&str; 5] = [
    "budget",
    "timeout_s",
    "first_wait_s",
    "max_attempts",
    "per_minute",
];

/// Beginning of the names of folders that a process claims.
const CLAIM: &str = "shard-";

/// Files of one build between its steps.
pub struct Store {
    folder: PathBuf,
    collect: String,
    clean: String,
    assign: String,
    row_by_row: [String; Step::ROW_BY_ROW.len()],
    cleaned: Mutex<Option<File>>,
}

impl Store {
    /// Finds the files of a recipe under the folder of all data sets. `inputs` are what the results
    /// of each step depend on besides the recipe and the sources: hashes of models, and prompts.
    ///
    /// # Errors
    /// A source that cannot be read.
    pub fn open(root: &Path, recipe: &Recipe, inputs: &BTreeMap<Step, Vec<Value>>) -> Result<Self> {
        let next = |before: &str, settings: Value| {
            let text = json!([FORMAT, before, with_effect(settings)]).to_string();
            blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
        };
        let value = |settings: serde_json::Result<Value>| settings.map_err(Error::bug_from);
        let sources = collect::sources(&recipe.collect)?
            .iter()
            .map(|path| Ok(json!([path, files::hash(path)?])))
            .collect::<Result<Vec<Value>>>()?;
        let unseen = recipe
            .clean
            .test_sets
            .iter()
            .map(|path| files::hash(path))
            .collect::<Result<Vec<String>>>()?;

        let collect = next(
            "",
            json!([value(serde_json::to_value(&recipe.collect))?, sources]),
        );
        let clean = next(
            &collect,
            json!([value(serde_json::to_value(&recipe.clean))?, unseen]),
        );
        let assign = next(
            &clean,
            json!([value(serde_json::to_value(recipe.split))?, recipe.seed]),
        );
        let with_inputs = |step: Step, settings: Value| match inputs.get(&step) {
            Some(inputs) => json!([settings, inputs]),
            None => settings,
        };
        let summarise = next(
            &assign,
            with_inputs(
                Step::Summarise,
                value(serde_json::to_value(&recipe.summarise))?,
            ),
        );
        let verify = next(
            &summarise,
            with_inputs(Step::Verify, value(serde_json::to_value(&recipe.verify))?),
        );
        let speak = next(
            &verify,
            with_inputs(
                Step::Speak,
                json!([value(serde_json::to_value(&recipe.speak))?, recipe.seed]),
            ),
        );
        let listen = next(
            &speak,
            with_inputs(Step::Listen, value(serde_json::to_value(&recipe.listen))?),
        );
        Ok(Self {
            folder: root.join(".work").join(&recipe.name),
            collect,
            clean,
            assign,
            row_by_row: [summarise, verify, speak, listen],
            cleaned: Mutex::new(None),
        })
    }

    /// Folder of the files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The collected documents.
    pub fn collected(&self) -> PathBuf {
        self.folder.join(format!("collect-{}.jsonl", self.collect))
    }

    /// The cleaned documents.
    pub fn cleaned(&self) -> PathBuf {
        self.folder.join(format!("clean-{}.jsonl", self.clean))
    }

    /// Splits and places of the cleaned documents.
    pub fn assigned(&self) -> PathBuf {
        self.folder.join(format!("assign-{}.jsonl", self.assign))
    }

    /// The journals of the steps that process one row at a time, in their order.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub fn journals(&self) -> Result<Vec<Journal>> {
        Step::ROW_BY_ROW
            .iter()
            .zip(&self.row_by_row)
            .map(|(step, print)| {
                Journal::open(self.folder.join(format!("{}-{print}", step.name())))
            })
            .collect()
    }

    /// Claims a shard's rows for this process. The process that joins claims those of every shard.
    ///
    /// # Errors
    /// Another process works on them.
    pub fn claim(&self, shard: Shard) -> Result<Vec<Lock>> {
        let name = format!("{CLAIM}{}", shard.name());
        let mut claims = vec![Lock::claim(&self.folder.join(&name))?];
        if !shard.is_whole() {
            return Ok(claims);
        }
        let failed = |e: std::io::Error| Error::io(&self.folder, "read", e);
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let other = entry.map_err(failed)?.file_name();
            let other = other.to_string_lossy();
            let Some(part) = other.strip_prefix(CLAIM).filter(|_| *other != name) else {
                continue;
            };
            let lock = Lock::try_take(&self.folder.join(&*other))?;
            claims.push(lock.ok_or_else(|| {
                let part = Shard::from_name(part).map_or(part.to_owned(), |part| part.to_string());
                Error::input(format!("part {part} is at work"))
                    .at_path(&self.folder)
                    .hint("wait until every part has ended, then join them")
            })?);
        }
        Ok(claims)
    }

    /// Reads one cleaned document, which begins at the given byte of the file.
    ///
    /// # Errors
    /// The disk's.
    pub fn document<T: DeserializeOwned>(&self, offset: u64, len: usize) -> Result<T> {
        let path = self.cleaned();
        let mut open = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            *open = Some(File::open(&path).map_err(|e| Error::io(&path, "read", e))?);
        }
        let file = open
            .as_mut()
            .ok_or_else(|| Error::bug("a file that was opened"))?;
        read_at(file, &path, offset, len)
    }

    /// Number of collected documents.
    pub fn outcome_of_collecting(&self, stop: &Stop) -> Result<Built> {
        let mut outcome = Built::default();
        for row in jsonl::rows(&self.collected())? {
            stop.check("stopped")?;
            let (_, document): (usize, Document) = row?;
            outcome.collected += 1;
            outcome.rejected += usize::from(document.rejected.is_some());
        }
        outcome.pending = outcome.collected - outcome.rejected;
        Ok(outcome)
    }
}

/// Settings without those that change no result.
fn with_effect(settings: Value) -> Value {
    match settings {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(key, _)| !WITHOUT_EFFECT.contains(&key.as_str()))
            .map(|(key, value)| (key, with_effect(value)))
            .collect(),
        Value::Array(list) => list.into_iter().map(with_effect).collect(),
        other => other,
    }
}

fn read_at<T: DeserializeOwned>(
    file: &mut File,
    path: &Path,
    offset: u64,
    len: usize,
) -> Result<T> {
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|e| Error::io(path, "read", e))?;
    json::parse_slice(&bytes).map_err(|e| e.at_path(path))
}

/// Place of a row in a journal.
#[derive(Clone, Copy)]
struct Entry {
    file: u16,
    offset: u64,
    len: u32,
    is_rejected: bool,
}

/// Results of one step, row by row, in the order in which rows were finished. Each shard writes its
/// own file.
pub struct Journal {
    folder: PathBuf,
    files: Mutex<Vec<(PathBuf, File)>>,
    entries: std::collections::HashMap<usize, Entry>,
    /// Rows at which an engine failed in this process. No file has them, so the next run tries them
    /// again.
    failed: std::collections::HashMap<usize, Rejected>,
}

/// A line of a journal.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    row: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<Rejected>,
}

/// Reason of a rejection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rejected {
    /// A short name.
    pub reason: String,
    /// The fault.
    pub detail: String,
    /// Character error rate of its transcript, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cer: Option<f64>,
}

impl Journal {
    /// Opens the files of all shards. An incomplete line at the end of one, which a crash leaves,
    /// is ignored.
    fn open(folder: PathBuf) -> Result<Self> {
        let mut journal = Self {
            folder,
            files: Mutex::default(),
            entries: std::collections::HashMap::new(),
            failed: std::collections::HashMap::new(),
        };
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&journal.folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
            .collect();
        paths.sort();
        for path in paths {
            journal.read(&path)?;
        }
        Ok(journal)
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let number = self.add_file(path)?;
        let mut is_broken = false;
        jsonl::each_placed_line(path, LastLine::Cut, |place, text| {
            // Rows from the first line of another form on are processed again.
            let line: Option<Line<IgnoredAny>> = serde_json::from_slice(text).ok();
            let Some(line) = line.filter(|_| !is_broken) else {
                is_broken = true;
                return Ok(());
            };
            self.entries.insert(
                line.row,
                Entry {
                    file: number,
                    offset: place.start,
                    len: text.len() as u32,
                    is_rejected: line.rejected.is_some(),
                },
            );
            Ok(())
        })?;
        Ok(())
    }

    fn add_file(&self, path: &Path) -> Result<u16> {
        let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.push((path.to_owned(), file));
        Ok(files.len() as u16 - 1)
    }

    /// Returns whether the step has finished a row.
    pub fn has(&self, row: usize) -> bool {
        self.entries.contains_key(&row)
    }

    /// Returns whether the step rejected a row.
    pub fn is_rejected(&self, row: usize) -> bool {
        let entry = self.entries.get(&row);
        entry.is_some_and(|entry| entry.is_rejected) || self.failed.contains_key(&row)
    }

    /// Returns whether the step accepted a row.
    pub fn is_passed(&self, row: usize) -> bool {
        self.entries
            .get(&row)
            .is_some_and(|entry| !entry.is_rejected)
    }

    /// The result of the step for a row that it accepted.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn done<T: DeserializeOwned>(&self, row: usize) -> Result<Option<T>> {
        Ok(self.line::<T>(row)?.and_then(|line| line.done))
    }

    /// Returns whether the step accepted any row.
    pub fn has_passed_any(&self) -> bool {
        self.entries.values().any(|entry| !entry.is_rejected)
    }

    /// Numbers of rows at which an engine failed in this process and that the next run tries again,
    /// by reason.
    pub fn num_failed(&self) -> BTreeMap<&str, usize> {
        let mut found = BTreeMap::new();
        for rejected in self.failed.values() {
            *found.entry(rejected.reason.as_str()).or_default() += 1;
        }
        found
    }

    /// The reason for which the step rejected a row.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn rejected(&self, row: usize) -> Result<Option<Rejected>> {
        if let Some(failed) = self.failed.get(&row) {
            return Ok(Some(failed.clone()));
        }
        if !self.is_rejected(row) {
            return Ok(None);
        }
        Ok(self.line::<IgnoredAny>(row)?.and_then(|line| line.rejected))
    }

    fn line<T: DeserializeOwned>(&self, row: usize) -> Result<Option<Line<T>>> {
        let Some(entry) = self.entries.get(&row) else {
            return Ok(None);
        };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, file) = &mut files[usize::from(entry.file)];
        read_at(file, path, entry.offset, entry.len as usize).map(Some)
    }

    /// Opens this shard's file for writing, and removes an incomplete line at its end.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn writer(&self, shard: Shard) -> Result<JournalWriter> {
        let path = self.folder.join(format!("{}.jsonl", shard.name()));
        let whole = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            let number = files.iter().position(|(known, _)| *known == path);
            self.entries
                .values()
                .filter(|entry| Some(usize::from(entry.file)) == number)
                .map(|entry| entry.offset + u64::from(entry.len) + 1)
                .max()
                .unwrap_or(0)
        };
        if path.is_file() {
            files::truncate(&path, whole)?;
        }
        let mut log = AppendLog::open(&path)?;
        let at = log.num_bytes()?;
        let number = self.add_file(&path)?;
        Ok(JournalWriter { log, at, number })
    }

    /// Adds the result of the step for a row, first to the file. A failure of an engine that the
    /// next run tries again stays in memory.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn add(&mut self, writer: &mut JournalWriter, row: usize, outcome: Outcome) -> Result<()> {
        let line = match outcome {
            Outcome::Done(done) => Line {
                row,
                done: Some(done),
                rejected: None,
            },
            Outcome::Rejected {
                reason,
                detail,
                cer,
            } => Line {
                row,
                done: None,
                rejected: Some(Rejected {
                    reason: reason.to_owned(),
                    detail,
                    cer,
                }),
            },
            Outcome::Failed {
                reason,
                detail,
                is_retried,
            } => {
                let failed = Rejected {
                    reason: reason.to_owned(),
                    detail,
                    cer: None,
                };
                if is_retried {
                    self.failed.insert(row, failed);
                    return Ok(());
                }
                Line {
                    row,
                    done: None,
                    rejected: Some(failed),
                }
            }
            Outcome::Ended => return Ok(()),
        };
        let is_rejected = line.rejected.is_some();
        let text = serde_json::to_string(&line).map_err(Error::bug_from)?;
        writer.log.line(&text)?;
        self.entries.insert(
            row,
            Entry {
                file: writer.number,
                offset: writer.at,
                len: text.len() as u32,
                is_rejected,
            },
        );
        writer.at += text.len() as u64 + 1;
        Ok(())
    }
}

/// A shard's file of a journal, open to write.
pub struct JournalWriter {
    log: AppendLog,
    at: u64,
    number: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_keep_whole_lines_of_all_shards() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("speak-0");
        let shard = |written: &str| written.parse::<Shard>().unwrap();
        let mut journal = Journal::open(folder.clone()).unwrap();
        for (written, row) in [("1/2", 1), ("2/2", 2), ("1/2", 3)] {
            let mut writer = journal.writer(shard(written)).unwrap();
            let outcome = if row == 3 {
                Outcome::rejected("silent", "nothing is heard")
            } else {
                Outcome::Done(json!({"number": row}))
            };
            journal.add(&mut writer, row, outcome).unwrap();
        }
        let path = folder.join("1-of-2.jsonl");
        let whole = std::fs::read_to_string(&path).unwrap();
        // A crash in the middle of a line, and before its end.
        for cut in ["{\"row\": 5, \"do", "{\"row\":5,\"done\":{\"number\":9}}"] {
            std::fs::write(&path, format!("{whole}{cut}")).unwrap();
            let mut again = Journal::open(folder.clone()).unwrap();
            assert_eq!(again.done::<Value>(2).unwrap().unwrap()["number"], 2);
            assert_eq!(again.rejected(3).unwrap().unwrap().reason, "silent");
            assert!(again.is_passed(1) && !again.has(5) && again.is_rejected(3));
            let mut writer = again.writer(shard("1/2")).unwrap();
            again
                .add(&mut writer, 5, Outcome::Done(json!({"number": 5})))
                .unwrap();
            assert_eq!(again.done::<Value>(5).unwrap().unwrap()["number"], 5);
            let third = Journal::open(folder.clone()).unwrap();
            assert_eq!(third.done::<Value>(5).unwrap().unwrap()["number"], 5);
            assert_eq!(third.done::<Value>(1).unwrap().unwrap()["number"], 1);
        }
    }

    #[test]
    fn failures_that_are_retried_are_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path().join("speak-0")).unwrap();
        let mut writer = journal.writer(Shard::WHOLE).unwrap();
        for (row, is_retried) in [(4, true), (5, false)] {
            let failed = Outcome::Failed {
                reason: "speech_failed",
                detail: "no licence".into(),
                is_retried,
            };
            journal.add(&mut writer, row, failed).unwrap();
            assert!(journal.is_rejected(row) && !journal.is_passed(row));
            assert_eq!(journal.rejected(row).unwrap().unwrap().detail, "no licence");
        }
        assert_eq!(journal.num_failed(), BTreeMap::from([("speech_failed", 1)]));
        assert!(!journal.has_passed_any());
        let again = Journal::open(dir.path().join("speak-0")).unwrap();
        assert!(!again.has(4) && !again.is_rejected(4));
        assert!(again.has(5) && again.is_rejected(5));
    }

    #[test]
    fn a_join_waits_for_every_part() {
        let dir = tempfile::tempdir().unwrap();
        let print = || "0".to_owned();
        let store = Store {
            folder: dir.path().to_owned(),
            collect: print(),
            clean: print(),
            assign: print(),
            row_by_row: std::array::from_fn(|_| print()),
            cleaned: Mutex::new(None),
        };
        let part = store.claim("2/4".parse().unwrap()).unwrap();
        let error = store.claim(Shard::WHOLE).err().unwrap();
        assert!(error.to_string().contains("part 2/4 is at work"), "{error}");
        assert!(store.claim("3/4".parse().unwrap()).is_ok());
        drop(part);
        let whole = store.claim(Shard::WHOLE).unwrap();
        assert!(store.claim("2/4".parse().unwrap()).is_err());
        drop(whole);
    }

    #[test]
    fn budgets_do_not_change_fingerprints() {
        let with = json!({"model": "m", "budget": {"max_requests": 1}, "list": [{"timeout_s": 1}]});
        assert_eq!(with_effect(with), json!({"model": "m", "list": [{}]}));
    }
}
