//! `publish`: the data set as a folder for the Hugging Face Hub, a manifest for `train`, and pages to read.

mod card;
mod page;
mod parquet;
mod review;
pub(crate) mod row;
mod statistics;
mod webdataset;

use std::io::Write;
use std::path::Path;

use serde_json::Value;
use serde_json::json;

use crate::build::Observer;
use crate::build::assign::Prepared;
use crate::build::assign::SPLITS;
use crate::build::document::Step;
use crate::build::listen;
use crate::build::publish::parquet::Shards;
use crate::build::publish::row::Described;
use crate::build::publish::row::Hashes;
use crate::build::publish::row::Published;
use crate::build::publish::row::Publishing;
use crate::build::publish::row::manifest_fields;
use crate::build::publish::row::rounded;
use crate::build::publish::statistics::Statistics;
use crate::build::publish::webdataset::Tars;
use crate::build::settings::publish::Format;
use crate::build::speak;
use crate::build::store::Journal;
use crate::build::store::Store;
use crate::build::summarise;
use crate::build::verify;
use crate::build::workers::Rows;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::files::StagedDir;
use crate::stop::Stop;

impl Publishing<'_> {
    /// Writes the data set, whole or as it was before.
    ///
    /// # Errors
    /// The disk's; no row to publish.
    pub(crate) fn publish(&self, stop: &Stop, observer: &mut dyn Observer) -> Result<Hashes> {
        if self.rows.is_empty() {
            return Err(Error::input("every document was rejected")
                .at_path(self.folder)
                .hint("rejected.jsonl says why, row by row; change the recipe's bounds or the sources"));
        }
        let data = StagedDir::new(&self.folder.join("data"))?;
        let audio = StagedDir::new(&self.folder.join("audio"))?;
        let mut manifest = String::new();
        let mut hashes = Hashes::new();
        let mut statistics = Statistics::new(self.recipe)?;
        let has = |format| self.recipe.publish.formats.contains(&format);
        let mut shards = Shards::new(self.recipe, data.path());
        let tars_folder = self.folder.join("webdataset");
        webdataset::without(&tars_folder, has(Format::WebDataset))?;
        let mut tars = match has(Format::WebDataset) {
            true => Some(StagedDir::new(&tars_folder)?),
            false => None,
        }
        .map(|folder| (Tars::new(self.recipe, folder.path()), folder));
        let mut checksums = Vec::new();
        for (i, row) in self.rows.iter().enumerate() {
            stop.check(format_args!(
                "stopped in publish after {i} of {} rows",
                self.rows.len()
            ))?;
            observer.tell(Step::Publish.name(), i, self.rows.len())?;
            let (published, file) = self.row(*row, i)?;
            let name = Path::new(&published.audio).file_name().unwrap_or_default();
            AppendLog::open(&audio.path().join(name))?.append(&file)?;
            manifest.push_str(&manifest_line(&published)?);
            statistics.add(&published);
            hashes.insert(*row, published.hash.clone());
            checksums.push((published.audio.clone(), published.hash.clone()));
            if let Some((tars, _)) = &mut tars {
                tars.add(&published, &file)?;
            }
            if has(Format::Parquet) {
                shards.add(&published, file)?;
            }
        }
        shards.finish()?;
        if let Some((mut tars, folder)) = tars {
            tars.finish()?;
            folder.commit()?;
        }
        for entry in sorted(data.path())? {
            checksums.push((
                format!("data/{entry}"),
                files::hash(&data.path().join(&entry))?,
            ));
        }
        checksums.push((
            "manifest.jsonl".to_owned(),
            blake3::hash(manifest.as_bytes()).to_hex().to_string(),
        ));
        data.commit()?;
        audio.commit()?;
        let write =
            |name: &str, text: &str| files::write_atomic(&self.folder.join(name), text.as_bytes());
        write("manifest.jsonl", &manifest)?;
        let list: String = checksums
            .iter()
            .map(|(path, hash)| format!("{hash}  {path}\n"))
            .collect();
        write("checksums.txt", &list)?;
        self.pages(&mut statistics)?;
        Ok(hashes)
    }

    /// Writes the dataset card, the pages and the plots.
    fn pages(&self, statistics: &mut Statistics) -> Result<()> {
        statistics.count_rejections(self.prepared, self.store, self.journals)?;
        let write =
            |name: &str, text: &str| files::write_atomic(&self.folder.join(name), text.as_bytes());
        let page = page::page(self, statistics);
        let plots = StagedDir::new(&self.folder.join("plots"))?;
        for figure in page.figures() {
            files::write_atomic(
                &plots.path().join(format!("{}.svg", figure.id)),
                figure.file().as_bytes(),
            )?;
        }
        plots.commit()?;
        write("README.md", &card::card(self, statistics)?)?;
        write("report.html", &page.html())?;
        write(
            "review.html",
            &review::page(self.recipe, &statistics.review),
        )
    }

    /// Everything of one row, and its recording.
    fn row(&self, row: usize, place: usize) -> Result<(Published, Vec<u8>)> {
        let rows = Rows {
            store: self.store,
            prepared: self.prepared,
            before: self.journals,
        };
        let prepared = &self.prepared.rows[row];
        let spoken = speak::of(&rows, row)?;
        let file = spoken.file(self.cache)?;
        let split = SPLITS[usize::from(prepared.split)];
        let published = Published {
            document: rows.document(row)?,
            summarised: summarise::of(&rows, row)?,
            verified: verify::of(&rows, row)?,
            listened: listen::of(&rows, row)?,
            spoken,
            split,
            group: prepared.group.clone(),
            audio: format!("audio/{split}-{place:07}.flac"),
            hash: blake3::hash(&file).to_hex().to_string(),
        };
        Ok((published, file))
    }
}

/// Names of a folder's files, sorted.
fn sorted(folder: &Path) -> Result<Vec<String>> {
    let failed = |e: std::io::Error| Error::io(folder, "read", e);
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map_err(failed)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// A published row as `train` reads it.
fn manifest_line(row: &Published) -> Result<String> {
    let line = serde_json::to_string(&manifest_fields(row)).map_err(Error::bug_from)?;
    Ok(format!("{line}\n"))
}

/// Writes `rows.jsonl`, the state of every collected document, and `rejected.jsonl`.
///
/// # Errors
/// The disk's.
pub(crate) fn accounts(
    folder: &Path,
    store: &Store,
    prepared: &Prepared,
    journals: &[Journal],
    published: Option<&Hashes>,
    engines: &Described,
) -> Result<()> {
    let rows = Rows {
        store,
        prepared,
        before: journals,
    };
    let mut rejected = String::new();
    files::write_atomic_with(&folder.join("rows.jsonl"), |file| {
        for row in 0..prepared.rows.len() {
            let (state, rejection) = account(&rows, row, published, engines)?;
            writeln!(file, "{state}")?;
            if let Some(rejection) = rejection {
                rejected.push_str(&format!("{rejection}\n"));
            }
        }
        Ok(())
    })?;
    files::write_atomic(&folder.join("rejected.jsonl"), rejected.as_bytes())
}

/// One row's state, and why it was rejected if it was.
fn account(
    rows: &Rows,
    row: usize,
    published: Option<&Hashes>,
    engines: &Described,
) -> Result<(Value, Option<Value>)> {
    let document = rows.document(row)?;
    let place = &rows.prepared.rows[row];
    let mut state = json!({
        "id": document.id,
        "row": row,
        "source": document.source,
        "license": document.licence,
        "text_hash": blake3::hash(document.text.as_bytes()).to_hex().as_str(),
    });
    let mut rejection = document
        .rejected
        .map(|rejection| (rejection.step, rejection.reason, rejection.detail));
    let mut next = Step::Summarise;
    for (step, journal) in Step::ROW_BY_ROW.into_iter().zip(rows.before) {
        if let Some(found) = journal.rejected(row)? {
            rejection = Some((step, found.reason, found.detail));
        }
        if journal.is_passed(row) {
            next = Step::ALL
                .into_iter()
                .find(|other| *other > step)
                .unwrap_or(Step::Publish);
        }
    }
    if let Some((step, reason, detail)) = rejection {
        state["state"] = json!("rejected");
        state["step"] = json!(step);
        state["reason"] = json!(reason);
        let line = json!({"id": state["id"], "step": step, "reason": reason, "detail": detail, "source": state["source"]});
        return Ok((state, Some(line)));
    }
    state["split"] = json!(SPLITS[usize::from(place.split)]);
    state["group"] = json!(place.group);
    match published.and_then(|hashes| hashes.get(&row)) {
        None => {
            state["state"] = json!("pending");
            state["step"] = json!(next);
        }
        Some(hash) => {
            let spoken = speak::of(rows, row)?;
            state["state"] = json!("published");
            state["voice"] = json!(spoken.voice);
            state["duration"] = json!(rounded(spoken.duration_s));
            state["audio_hash"] = json!(hash);
            state["summaries"] = engine_of(&engines.summaries);
            state["speech"] = engines.speech["version"].clone();
            state["transcription"] = engines.transcription["recogniser"].clone();
            state["listened"] = json!(listen::of(rows, row)?);
            let warnings = verify::of(rows, row)?.warnings;
            if !warnings.is_empty() {
                state["warnings"] = json!(warnings);
            }
        }
    }
    Ok((state, None))
}

/// Engine and model of the summaries, without prompts.
fn engine_of(summaries: &Value) -> Value {
    match summaries["language_model"]["model"].as_str() {
        Some(model) => json!(model),
        None => summaries["engine"].clone(),
    }
}
