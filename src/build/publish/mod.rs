//! `publish`: the data set as a folder for the Hugging Face Hub, a manifest for `train`, and pages
//! to read.

pub(crate) mod account;
mod card;
mod page;
mod parquet;
mod review;
pub(crate) mod row;
mod shar;
mod statistics;
mod webdataset;

use std::path::Path;

use crate::build::Observer;
use crate::build::assign::SPLITS;
use crate::build::document::Step;
use crate::build::listen;
use crate::build::publish::parquet::Shards;
use crate::build::publish::row::Hashes;
use crate::build::publish::row::Published;
use crate::build::publish::row::Publishing;
use crate::build::publish::row::manifest_fields;
use crate::build::publish::statistics::Statistics;
use crate::build::publish::webdataset::Tars;
use crate::build::settings::publish::Format;
use crate::build::speak;
use crate::build::summarise;
use crate::build::verify;
use crate::build::workers::EarlierResults;
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

        let has = |format| self.recipe.publish.formats.contains(&format);
        let data = StagedDir::new(&self.folder.join("data"))?;
        let audio = StagedDir::new(&self.folder.join("audio"))?;
        let mut manifest = String::new();
        let mut hashes = Hashes::new();
        let mut statistics = Statistics::new(self.recipe)?;
        let mut shards = Shards::new(self.recipe, data.path());

        let tars_folder = self.folder.join("webdataset");
        let shar_folder = self.folder.join("shar");
        for (folder, format) in [
            (&tars_folder, Format::WebDataset),
            (&shar_folder, Format::Shar),
        ] {
            // An earlier recipe may have written it.
            if !has(format) {
                files::remove_dir(folder)?;
            }
        }
        let mut tars = None;
        if has(Format::WebDataset) {
            let folder = StagedDir::new(&tars_folder)?;
            tars = Some((Tars::new(self.recipe, folder.path()), folder));
        }

        let mut checksums = Vec::new();
        let mut num_bytes = 0;
        for (i, row) in self.rows.iter().enumerate() {
            stop.check(format_args!(
                "stopped in publish after {i} of {} rows; run the command again to go on",
                self.rows.len()
            ))?;
            observer.tell(Step::Publish.name(), i, self.rows.len())?;

            let (published, file) = self.row(*row, i)?;
            num_bytes += file.len() as u64;
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

        let hash = blake3::hash(manifest.as_bytes()).to_hex().to_string();
        checksums.push(("manifest.jsonl".to_owned(), hash));

        data.commit()?;
        audio.commit()?;
        let write =
            |name: &str, text: &str| files::write_atomic(&self.folder.join(name), text.as_bytes());
        write("manifest.jsonl", &manifest)?;
        if has(Format::Shar) {
            let manifest = self.folder.join("manifest.jsonl");
            shar::write(self.recipe, &manifest, &shar_folder, num_bytes)?;
        }
        self.add_checksums("data", &mut checksums)?;
        self.add_checksums("webdataset", &mut checksums)?;
        for split in SPLITS {
            self.add_checksums(&format!("shar/{split}"), &mut checksums)?;
        }
        let list: String = checksums
            .iter()
            .map(|(path, hash)| format!("{hash}  {path}\n"))
            .collect();
        write("checksums.txt", &list)?;

        self.pages(&mut statistics)?;
        Ok(hashes)
    }

    /// Adds the checksums of a folder's files; of none if there is no folder.
    fn add_checksums(&self, name: &str, checksums: &mut Vec<(String, String)>) -> Result<()> {
        let folder = self.folder.join(name);
        if !folder.is_dir() {
            return Ok(());
        }
        for entry in sorted(&folder)? {
            let hash = files::hash(&folder.join(&entry))?;
            checksums.push((format!("{name}/{entry}"), hash));
        }
        Ok(())
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
        let rows = EarlierResults {
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
