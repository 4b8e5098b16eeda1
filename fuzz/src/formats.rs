//! Targets that read the formats of other tools. An input of several files holds them one after the
//! other, between record separators.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use maqam::data::Format;
use maqam::data::OnBadRow;
use maqam::data::Source;
use maqam_base::error::Error;
use maqam_base::error::Result;

use crate::target::Target;
use crate::text::JSON;
use crate::text::TABLE;
use crate::text::TAR;
use crate::text::folder;
use crate::text::source;
use crate::text::target;

/// Byte between the files of an input.
const SEPARATOR: u8 = 0x1e;

/// One target for each format.
pub fn targets() -> Vec<Target> {
    vec![
        target("json_list", |bytes| source("rows.json", bytes, None), JSON),
        target("packed", |bytes| source("rows.jsonl.gz", bytes, None), &[]),
        target("parquet", |bytes| source("rows.parquet", bytes, None), &[]),
        target("arrow", |bytes| source("rows.arrow", bytes, None), &[]),
        target("saved", saved, JSON),
        target("ms_swift", ms_swift, JSON),
        target("llama_factory", llama_factory, JSON),
        target("nemo", nemo, JSON),
        target("nemo_tarred", nemo_tarred, JSON),
        target("cuts", cuts, JSON),
        target("shar", shar, JSON),
        target("slam_llm", slam_llm, JSON),
        target("qwen3_asr", qwen3_asr, JSON),
        target("kaldi", kaldi, TABLE),
        target("common_voice", common_voice, TABLE),
        target("table", csv, TABLE),
        target("tsv", tsv, TABLE),
        target("tar", |bytes| source("rows.tar", bytes, None), TAR),
        target("tar_index", tar_index, &[]),
        target("shard_list", shard_list, TABLE),
    ]
}

/// Writes the files of an input to a folder of this name; a file without a part is empty. The last
/// file holds all that is left.
fn in_folder(name: &str, files: &[&str], bytes: &[u8]) -> Result<PathBuf> {
    let folder = folder()?.join(name);
    let mut parts = bytes.splitn(files.len(), |byte| *byte == SEPARATOR);
    let mut write = || {
        fs::create_dir_all(&folder)?;
        for file in files {
            fs::write(folder.join(file), parts.next().unwrap_or_default())?;
        }
        Ok(())
    };
    write().map_err(|e: std::io::Error| Error::io(&folder, "write", e))?;
    Ok(folder)
}

/// Reads the rows of a folder or of a file in it.
fn read(path: impl Into<PathBuf>, format: Option<Format>) -> Result<String> {
    Source {
        format,
        ..Source::new(path)
    }
    .read(OnBadRow::Skip)
    .map(|_| "read".to_owned())
}

fn ms_swift(bytes: &[u8]) -> Result<String> {
    source("rows.jsonl", bytes, Some(Format::MsSwift))
}

fn nemo(bytes: &[u8]) -> Result<String> {
    source("rows.jsonl", bytes, Some(Format::Nemo))
}

fn cuts(bytes: &[u8]) -> Result<String> {
    source("cuts.jsonl", bytes, Some(Format::Lhotse))
}

fn slam_llm(bytes: &[u8]) -> Result<String> {
    source("rows.jsonl", bytes, Some(Format::SlamLlm))
}

fn qwen3_asr(bytes: &[u8]) -> Result<String> {
    source("rows.jsonl", bytes, Some(Format::Qwen3Asr))
}

fn csv(bytes: &[u8]) -> Result<String> {
    source("rows.csv", bytes, Some(Format::Csv))
}

fn tsv(bytes: &[u8]) -> Result<String> {
    source("rows.tsv", bytes, Some(Format::Tsv))
}

fn common_voice(bytes: &[u8]) -> Result<String> {
    source("train.tsv", bytes, Some(Format::CommonVoice))
}

fn kaldi(bytes: &[u8]) -> Result<String> {
    let files = ["wav.scp", "segments", "text", "utt2spk"];
    read(in_folder("kaldi", &files, bytes)?, None)
}

fn saved(bytes: &[u8]) -> Result<String> {
    let files = ["state.json", "dataset_info.json", "data.arrow"];
    read(in_folder("saved", &files, bytes)?, None)
}

fn llama_factory(bytes: &[u8]) -> Result<String> {
    let files = ["dataset_info.json", "rows.json"];
    let folder = in_folder("llama_factory", &files, bytes)?;
    // A description that names another file stands for a file of its own.
    match folder.join("dataset_info.json").metadata() {
        Ok(file) if file.len() == 0 => read(folder.join("rows.json"), Some(Format::LlamaFactory)),
        _ => read(folder, None),
    }
}

fn nemo_tarred(bytes: &[u8]) -> Result<String> {
    let files = ["tarred_audio_manifest.json", "audio_0.tar"];
    read(in_folder("nemo_tarred", &files, bytes)?, None)
}

fn shar(bytes: &[u8]) -> Result<String> {
    let files = ["cuts.000000.jsonl", "recording.000000.tar"];
    read(in_folder("shar", &files, bytes)?, None)
}

/// A list of shards, of which `a.jsonl` exists.
fn shard_list(bytes: &[u8]) -> Result<String> {
    let folder = in_folder("shard_list", &["shards.list"], bytes)?;
    let shard = folder.join("a.jsonl");
    fs::write(&shard, "{\"text\": \"a\"}\n").map_err(|e| Error::io(&shard, "write", e))?;
    read(folder.join("shards.list"), None)
}

/// Members of an index, as they stand in it, beside a tar file that it fits. Reads the audio of the
/// rows too.
fn tar_index(bytes: &[u8]) -> Result<String> {
    let folder = in_folder("tar_index", &["a.tar"], TAR_FILE)?;
    let tar = folder.join("a.tar");
    let index = folder.join("a.tar.maqam-index");
    fs::write(&index, index_of(&tar, bytes)?).map_err(|e| Error::io(&index, "write", e))?;
    let manifest = Source::new(tar).read(OnBadRow::Skip)?;
    for clip in manifest.rows.iter().flat_map(|row| &row.clips) {
        clip.source.bytes()?;
    }
    Ok("read".to_owned())
}

/// A tar file with one recording and its text.
const TAR_FILE: &[u8] = include_bytes!("../corpus/tar/006");

/// An index of a tar file with these members, whose stamp and hash are right.
fn index_of(tar: &Path, members: &[u8]) -> Result<Vec<u8>> {
    let failed = |e| Error::io(tar, "read", e);
    let metadata = tar.metadata().map_err(failed)?;
    let modified = metadata.modified().map_err(failed)?;
    let modified_ns = modified
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64);
    let mut index = b"maqam shards 1\n\0".to_vec();
    index.extend(metadata.len().to_le_bytes());
    index.extend(modified_ns.to_le_bytes());
    index.extend(members);
    let hash = blake3::hash(&index);
    index.extend(hash.as_bytes());
    Ok(index)
}
