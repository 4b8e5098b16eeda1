//! Targets that read manifests, settings, weights, adapters and a judge's answers.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::LazyLock;

use maqam::data::Format;
use maqam::data::OnBadRow;
use maqam::data::Source;
use maqam::data::read_manifest;
use maqam::eval::judge::answer;
use maqam::eval::judge::rubric::Rubric;
use maqam::eval::suite::Suite;
use maqam::experiment::Experiment;
use maqam::models::config::Config;
use maqam::nn::checkpoint::Checkpoint;
use maqam::nn::peft::Adapter;
use maqam::recipe::Recipe;
use maqam::task::Tasks;
use maqam::task::load_task;
use maqam_base::error::Error;
use maqam_base::error::Result;

use crate::target::Target;

/// Words of YAML.
const YAML: &[&[u8]] = &[
    b": ",
    b"- ",
    b"\n  ",
    b"&a ",
    b"*a",
    b"!!int ",
    b"<<: ",
    b"|\n",
    b"null",
    b"[",
    b"]",
    b"{",
    b"}",
    b".inf",
    b"1e999",
    b"-1",
    b"18446744073709551616",
    b"\xd9\x85",
    b"\xef\xbb\xbf",
];

/// Words of JSON.
pub(crate) const JSON: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"true",
    b"NaN",
    b"1e999",
    b"-0",
    b"\\u0000",
    b"\\ud800",
    b"18446744073709551616",
    b"\n",
];

/// Words of tables.
pub(crate) const TABLE: &[&[u8]] = &[
    b",", b"\t", b";", b"\n", b"\r\n", b"\"", b"\"\"", b"audio", b"a.wav", b"text", b"-1", b"|",
    b" ",
];

/// Words of tar files.
pub(crate) const TAR: &[&[u8]] = &[
    b"ustar\0",
    b"././@LongLink",
    b".json",
    b".wav",
    b".txt",
    b"00000000000",
    b"77777777777",
    b"\x80\0\0\0",
    b"17 path=a/b.wav\n",
    b"{\"text\": \"a\"}",
];

/// One target for each kind of text, and one for the header of weights.
pub fn targets() -> Vec<Target> {
    vec![
        target("manifest", manifest, JSON),
        target(
            "recipe",
            |bytes| in_file("recipe.yaml", bytes, |path| Recipe::load(path, &[])),
            YAML,
        ),
        target(
            "suite",
            |bytes| in_file("suite.yaml", bytes, |path| Suite::load(path, tasks()?)),
            YAML,
        ),
        target("task", |bytes| in_file("task.yaml", bytes, load_task), YAML),
        target(
            "experiment",
            |bytes| in_file("experiment.yaml", bytes, Experiment::load),
            YAML,
        ),
        target(
            "rubric",
            |bytes| in_file("rubric.yaml", bytes, |path| Rubric::load(Some(path))),
            YAML,
        ),
        target("safetensors", safetensors, JSON),
        target("adapter", adapter, JSON),
        target("judge_answer", judge_answer, JSON),
    ]
}

/// A target whose inputs have no checksums.
pub(crate) fn target(
    name: &'static str,
    run: fn(&[u8]) -> Result<String>,
    words: &'static [&'static [u8]],
) -> Target {
    Target {
        name,
        run,
        repair: None,
        words,
    }
}

/// A folder for the files that the targets read, with a recording that rows can name.
static FOLDER: LazyLock<std::result::Result<tempfile::TempDir, String>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let clip = fixtures().join("audio/formats/s16.wav");
    fs::copy(clip, folder.path().join("a.wav")).map_err(|e| e.to_string())?;
    Ok(folder)
});

static TASKS: LazyLock<Result<Tasks>> = LazyLock::new(|| Tasks::load(None));

static RUBRIC: LazyLock<Result<Rubric>> = LazyLock::new(|| Rubric::load(None));

static CONFIG: LazyLock<Result<Config>> =
    LazyLock::new(|| Config::load(&fixtures().join("qwen_omni")));

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// The folder for files.
pub(crate) fn folder() -> Result<&'static Path> {
    match &*FOLDER {
        Ok(folder) => Ok(folder.path()),
        Err(error) => Err(Error::resource(error)),
    }
}

fn tasks() -> Result<&'static Tasks> {
    TASKS.as_ref().map_err(Clone::clone)
}

/// Writes `bytes` to a file and reads it.
fn in_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> Result<T>) -> Result<String> {
    let path = folder()?.join(name);
    fs::write(&path, bytes).map_err(|e| Error::io(&path, "write", e))?;
    read(&path).map(|_| "read".to_owned())
}

fn manifest(bytes: &[u8]) -> Result<String> {
    in_file("rows.jsonl", bytes, |path| {
        read_manifest(path, None, OnBadRow::Error)
    })
}

/// Reads the rows of a file of another tool's format.
pub(crate) fn source(name: &str, bytes: &[u8], format: Option<Format>) -> Result<String> {
    in_file(name, bytes, |path| {
        Source {
            format,
            ..Source::new(path)
        }
        .read(OnBadRow::Skip)
    })
}

fn safetensors(bytes: &[u8]) -> Result<String> {
    let folder = folder()?.join("model");
    let path = folder.join("model.safetensors");
    let write = || {
        fs::create_dir_all(&folder)?;
        fs::write(&path, bytes)
    };
    write().map_err(|e| Error::io(&path, "write", e))?;
    Checkpoint::open(&folder, &[]).map(|_| "read".to_owned())
}

fn adapter(bytes: &[u8]) -> Result<String> {
    let folder = folder()?.join("adapter");
    let write = || {
        fs::create_dir_all(&folder)?;
        let weights = folder.join("adapter_model.safetensors");
        if !weights.exists() {
            let given = fixtures().join("qwen_omni/adapter_init/adapter_model.safetensors");
            fs::copy(given, weights)?;
        }
        fs::write(folder.join("adapter_config.json"), bytes)
    };
    write().map_err(|e| Error::io(&folder, "write", e))?;
    let config = CONFIG.as_ref().map_err(Clone::clone)?;
    Adapter::load(&folder, &config.adaptable()).map(|_| "read".to_owned())
}

fn judge_answer(bytes: &[u8]) -> Result<String> {
    let rubric = RUBRIC.as_ref().map_err(Clone::clone)?;
    match answer::read(&String::from_utf8_lossy(bytes), rubric) {
        Ok(_) => Ok("read".to_owned()),
        Err(fault) => Err(Error::input(fault)),
    }
}
