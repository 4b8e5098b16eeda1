//! From a folder or a Hub id to a folder: the cache first, the network only where a file is missing.

use std::path::Path;
use std::path::PathBuf;

use hf_hub::Cache;
use hf_hub::CacheRepo;
use hf_hub::Repo;
use hf_hub::api::Progress as HubProgress;
use hf_hub::api::sync::ApiBuilder;
use hf_hub::api::sync::ApiRepo;

use crate::cli::progress::Progress;
use crate::error::Error;
use crate::error::Result;
use crate::model::weights::safetensors_of;

/// What no checkpoint can do without, its weights apart.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Other formats of weights, which nothing here reads.
const OTHER_WEIGHTS: [&str; 6] = [".bin", ".h5", ".msgpack", ".onnx", ".gguf", ".pth"];

/// The folder of a checkpoint if it is on this machine, wholly; nothing is downloaded.
///
/// # Errors
/// What is neither a folder nor a Hub id.
pub fn local_dir(model: &str) -> Result<Option<PathBuf>> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(Some(path.to_owned()));
    }
    check_id(model)?;
    Ok(cached(&hub_cache().repo(Repo::model(model.to_owned()))))
}

/// The folder of a checkpoint: `model` itself, or where the Hub's cache has it after downloading what is missing.
///
/// With `HF_HUB_OFFLINE` set nothing is downloaded; `HF_HUB_CACHE`, or else `HF_HOME`, says where the cache is, `HF_ENDPOINT` where the Hub is.
pub fn model_dir(model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    check_id(model)?;
    let cache = hub_cache();
    if let Some(dir) = cached(&cache.repo(Repo::model(model.to_owned()))) {
        return Ok(dir);
    }
    let is_offline = std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|value| !["", "0", "false"].contains(&value.to_lowercase().as_str()));
    if is_offline {
        return Err(Error::resource(format!("not (wholly) in the cache at {}, and HF_HUB_OFFLINE is set", cache.path().display()))
            .at(model)
            .hint("download it where there is a network, or give a folder; a relative folder that does not exist looks like a Hub id"));
    }
    download(model, cache)
}

fn check_id(model: &str) -> Result<()> {
    let is_id = model.split('/').count() == 2
        && !model.starts_with(['.', '/', '~'])
        && model.split('/').all(|part| !part.is_empty());
    if is_id {
        return Ok(());
    }
    Err(Error::input("no such folder").at(model).hint("`model` is the folder of a Qwen2.5-Omni checkpoint, or a Hub id such as Qwen/Qwen2.5-Omni-7B"))
}

fn hub_cache() -> Cache {
    std::env::var_os("HF_HUB_CACHE").map_or_else(Cache::from_env, |path| Cache::new(path.into()))
}

/// The snapshot's folder, if every file that is needed is there.
fn cached(repo: &CacheRepo) -> Option<PathBuf> {
    let config = repo.get(NEEDED[0])?;
    repo.get(NEEDED[1])?;
    let dir = config.parent()?.to_owned();
    let weights = safetensors_of(&dir).ok()?;
    weights.iter().all(|path| path.is_file()).then_some(dir)
}

fn download(model: &str, cache: Cache) -> Result<PathBuf> {
    let failed = |file: &str, e: &dyn std::fmt::Display| {
        Error::resource(format!("cannot download {file}: {e}"))
            .at(model)
            .hint("check the id and the network, or give the folder of a checkpoint; what was downloaded before is kept")
    };
    let here = cache.repo(Repo::model(model.to_owned()));
    let api = ApiBuilder::from_env()
        .with_cache_dir(cache.path().clone())
        .build()
        .map_err(|e| failed("anything", &e))?;
    let repo: ApiRepo = api.model(model.to_owned());
    let listed = repo.info().map_err(|e| failed("the list of files", &e))?;
    let listed: Vec<&str> = listed
        .siblings
        .iter()
        .map(|file| file.rfilename.as_str())
        .collect();
    if let Some(missing) = NEEDED.iter().find(|name| !listed.contains(name)) {
        return Err(Error::input(format!("the repository has no {missing}"))
            .at(model)
            .hint("`model` is a Qwen2.5-Omni checkpoint in safetensors format"));
    }
    let wanted = listed.iter().filter(|name| {
        !name.starts_with('.') && !OTHER_WEIGHTS.iter().any(|ending| name.ends_with(ending))
    });
    // The configuration comes first: it tells where the snapshot lies.
    let wanted = NEEDED
        .iter()
        .chain(wanted.filter(|name| !NEEDED.contains(*name)));
    let mut dir = None;
    for &name in wanted {
        let path = match here.get(name) {
            Some(path) => path,
            None => repo
                .download_with_progress(name, Download::default())
                .map_err(|e| failed(name, &e))?,
        };
        if name == NEEDED[0] {
            dir = path.parent().map(Path::to_owned);
        }
    }
    dir.ok_or_else(|| Error::resource("the Hub lists no files").at(model))
}

const MEGABYTE: usize = 1_000_000;

/// Shows how a file comes in, in megabytes.
#[derive(Default)]
struct Download {
    bytes: usize,
    size: usize,
    name: String,
    shown: Option<Progress>,
}

impl Download {
    fn show(&mut self, megabytes: usize) {
        if let Some(progress) = &mut self.shown {
            progress.update(megabytes as u64, &format!("MB of {}", self.name));
        }
    }
}

impl HubProgress for Download {
    /// Called again where an attempt begins anew.
    fn init(&mut self, size: usize, filename: &str) {
        (self.bytes, self.size) = (0, size);
        filename.clone_into(&mut self.name);
        self.shown
            .get_or_insert_with(|| Progress::new("download", 0, size.div_ceil(MEGABYTE) as u64));
    }

    /// What an earlier attempt left comes first, as one piece.
    fn update(&mut self, size: usize) {
        self.bytes += size;
        self.show(self.bytes / MEGABYTE);
    }

    fn finish(&mut self) {
        self.show(self.size.div_ceil(MEGABYTE));
        if let Some(progress) = &self.shown {
            progress.clear();
        }
    }
}
