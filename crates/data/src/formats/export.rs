//! Rows written as the files of a format, in a new folder.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::Format;
use crate::Row;
use crate::form::Delimiter;
use crate::formats::common_voice;
use crate::formats::json_rows;
use crate::formats::kaldi;
use crate::formats::lhotse;
use crate::formats::lhotse_shar;
use crate::formats::llama_factory;
use crate::formats::ms_swift;
use crate::formats::nemo;
use crate::formats::out::Export;
use crate::formats::out::Out;
use crate::formats::out::file_name;
use crate::formats::out::line;
use crate::formats::out::stream;
use crate::formats::qwen3_asr;
use crate::formats::slam_llm;
use crate::formats::table;
use crate::formats::webdataset;
use crate::parquet_writer;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::files::StagedDir;

/// Split of rows that name none.
const SPLIT: &str = "train";

/// Writes rows in a format; returns notes on what the format cannot express. `manifest` names the
/// rows in messages.
///
/// # Errors
/// A folder that exists; rows that the format cannot hold; audio that cannot be read; those of the
/// disk.
pub fn export(rows: &[Row], manifest: &Path, settings: &Export<'_>) -> Result<Vec<String>> {
    if settings.out.exists() {
        return Err(Error::input("exists already")
            .at_path(settings.out)
            .hint("name a folder that does not exist yet"));
    }
    if settings.shard_rows == 0 {
        return Err(Error::input("a shard of no rows").hint("write 1 or more"));
    }
    let staged = StagedDir::new(settings.out)?;
    let mut out = Out::new(staged.path(), manifest, settings)?;
    match settings.format {
        Format::Jsonl => json_rows::write(&mut out, rows)?,
        Format::Parquet | Format::HuggingFace => write_parquet(&mut out, rows)?,
        Format::MsSwift => ms_swift::write(&mut out, rows)?,
        Format::LlamaFactory => llama_factory::write(&mut out, rows)?,
        Format::Nemo => nemo::write(&mut out, rows)?,
        Format::Lhotse => lhotse::write(&mut out, rows)?,
        Format::LhotseShar => lhotse_shar::write(&mut out, rows)?,
        Format::SlamLlm => slam_llm::write(&mut out, rows)?,
        Format::Qwen3Asr => qwen3_asr::write(&mut out, rows)?,
        Format::Kaldi => kaldi::write(&mut out, rows)?,
        Format::CommonVoice => common_voice::write(&mut out, rows)?,
        Format::Csv => table::write(&mut out, rows, Delimiter::Comma)?,
        Format::Tsv => table::write(&mut out, rows, Delimiter::Tab)?,
        Format::WebDataset => webdataset::write(&mut out, rows)?,
    }
    let lost = out.notes();
    staged.commit()?;
    Ok(lost)
}

/// Writes rows as one file: Parquet with the audio inside, or JSON lines that name the audio in
/// place.
///
/// # Errors
/// Another ending than `.jsonl` and `.parquet`; audio that cannot be read; those of the disk.
pub fn write_manifest(rows: &[Row], path: &Path) -> Result<()> {
    let ending = path.extension().unwrap_or_default();
    if ending.eq_ignore_ascii_case("parquet") {
        let rows: Vec<&Row> = rows.iter().collect();
        return parquet_writer::write(&rows, path);
    }
    if !ending.eq_ignore_ascii_case("jsonl") {
        return Err(Error::input("ends in neither .jsonl nor .parquet")
            .at_path(path)
            .hint("name the output OUT.jsonl or OUT.parquet"));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let audio = path.with_extension("audio");
    let mut names = BTreeSet::new();
    stream(path, |file| {
        for row in rows {
            let fields = row.to_json(|clip| match clip.source.file() {
                Some(_) => clip.source.to_json(folder),
                // Audio inside a row becomes a file next to the manifest, because JSON cannot hold
                // it.
                None => {
                    let name = file_name(clip, row, &mut names)?;
                    files::write_atomic(&audio.join(&name), &clip.source.bytes()?)?;
                    let path = files::relative(folder, &audio.join(name))?;
                    Ok(path.to_string_lossy().replace('\\', "/").into())
                }
            })?;
            line(file, &Value::Object(fields).to_string(), path)?;
        }
        Ok(())
    })
}

/// Parquet shards by split, named as `datasets` names them.
fn write_parquet(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    let mut by_split: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let split = row.split.as_deref().unwrap_or(SPLIT);
        by_split.entry(split).or_default().push(row);
    }
    for (split, rows) in by_split {
        files::check_name(split).map_err(|e| e.at("split"))?;
        let shards: Vec<&[&Row]> = rows.chunks(out.settings.shard_rows).collect();
        for (i, shard) in shards.iter().enumerate() {
            let name = format!("{split}-{i:05}-of-{:05}.parquet", shards.len());
            parquet_writer::write(shard, &out.path(&name))?;
        }
    }
    Ok(())
}
