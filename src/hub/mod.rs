//! Checkpoints of Hugging Face's Hub. A folder or an id leads to a folder: the cache first, the
//! network only where a file is missing.

mod cache;
mod remote;

use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Lock;
use crate::hub::cache::Repo;
use crate::hub::remote::Remote;
use crate::nn::checkpoint;
use crate::nn::checkpoint::weight_files;

/// Told of a download.
pub trait Watcher {
    /// A line for the user.
    fn message(&mut self, text: &str);
    /// A file of `size` bytes begins.
    fn begin(&mut self, name: &str, size: u64);
    /// Bytes of it that are here.
    fn received(&mut self, bytes: u64);
    /// The file is here.
    fn end(&mut self);
}

/// What no checkpoint can do without, its weights apart.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files in place of `tokenizer.json` in original checkpoints of Qwen3-ASR.
const SLOW_TOKENIZER: [&str; 3] = ["vocab.json", "merges.txt", "tokenizer_config.json"];
/// Other formats of weights, which nothing here reads.
const OTHER_WEIGHTS: [&str; 6] = [".bin", ".h5", ".msgpack", ".onnx", ".gguf", ".pth"];

/// The folder of a checkpoint if it is on this machine, wholly; nothing is downloaded.
///
/// # Errors
/// A name that is neither a folder nor a Hub id.
pub fn local_dir(model: &str) -> Result<Option<PathBuf>> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(Some(path.to_owned()));
    }
    check_id(model)?;
    Ok(cached(&Repo::new(model)?))
}

/// The folder of a checkpoint: `model` itself, or where the Hub's cache has it after downloading
/// what is missing.
///
/// The environment says what it says to Hugging Face's own libraries: `HF_HUB_OFFLINE` forbids the
/// network, `HF_HUB_CACHE` or else `HF_HOME` is the cache, `HF_ENDPOINT` the Hub, `HF_TOKEN` or the
/// file `HF_TOKEN_PATH` the token, `HF_HUB_DOWNLOAD_TIMEOUT` the seconds without a byte after which
/// a download has failed.
///
/// # Errors
/// A name that is neither a folder nor a Hub id; a repository that is no checkpoint; the network's
/// and the disk's.
pub fn model_dir(model: &str, watcher: &mut dyn Watcher) -> Result<PathBuf> {
    let dir = find_dir(model, watcher)?;
    for note in checkpoint::notes(&dir) {
        watcher.message(&format!("note: {note}"));
    }
    Ok(dir)
}

fn find_dir(model: &str, watcher: &mut dyn Watcher) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    checkpoint::refuse_file(path)?;
    check_id(model)?;
    let repo = Repo::new(model)?;
    if let Some(dir) = cached(&repo) {
        return Ok(dir);
    }
    let is_offline = std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|value| !["", "0", "false"].contains(&value.to_lowercase().as_str()));
    if is_offline {
        return Err(Error::resource(format!(
            "not (wholly) in the cache at {}, and HF_HUB_OFFLINE is set",
            repo.cache().display()
        ))
        .at(model)
        .hint("download it where there is a network, or give a folder; a relative folder that does not exist looks like a Hub id"));
    }
    download(model, &repo, watcher).map_err(|e| e.at(model))
}

/// Returns whether a text can be one of the two names of a Hub id.
fn is_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && !text.starts_with('.') && text.chars().all(is_allowed)
}

/// Refuses what is no Hub id: two names of letters, digits, `-`, `_` and `.`.
fn check_id(model: &str) -> Result<()> {
    if model.split('/').count() == 2 && model.split('/').all(is_name) {
        return Ok(());
    }
    Err(Error::input("no such folder")
        .at(model)
        .hint("`model` is the folder of a checkpoint, or a Hub id such as Qwen/Qwen2.5-Omni-7B"))
}

/// The snapshot's folder, if every file that is needed is there.
fn cached(repo: &Repo) -> Option<PathBuf> {
    let dir = repo.snapshot(&repo.commit()?);
    let weights = weight_files(&dir).ok()?;
    let has_all = missing(&|name| dir.join(name).is_file()).is_none()
        && weights.iter().all(|path| path.is_file());
    has_all.then_some(dir)
}

/// The first file that no checkpoint can do without and that is not there.
fn missing(is_there: &dyn Fn(&str) -> bool) -> Option<&'static str> {
    let is_slow = SLOW_TOKENIZER.iter().all(|name| is_there(name));
    NEEDED
        .into_iter()
        .filter(|name| !(is_slow && *name == "tokenizer.json"))
        .find(|name| !is_there(name))
}

fn download(model: &str, repo: &Repo, watcher: &mut dyn Watcher) -> Result<PathBuf> {
    let _lock = Lock::wait(&repo.locks(), |process| {
        watcher.message(&format!(
            "waiting for process {process}, which downloads {model} as well"
        ));
    })?;
    // Somebody else may have finished it meanwhile.
    if let Some(dir) = cached(repo) {
        return Ok(dir);
    }
    let _waiting = files::Waiting::begin();
    let remote = Remote::from_env(&repo.token_file())?;
    let listed = remote.list(model)?;
    for name in &listed {
        cache::check_name(name)?;
    }
    let is_listed = |name: &str| listed.iter().any(|listed| listed == name);
    if let Some(missing) = missing(&is_listed) {
        return Err(Error::input(format!("the repository has no {missing}"))
            .hint("`model` is a Qwen2.5-Omni checkpoint in safetensors format"));
    }
    let is_wanted = |name: &&str| {
        !name.starts_with('.')
            && !NEEDED.contains(name)
            && !OTHER_WEIGHTS.iter().any(|ending| name.ends_with(ending))
    };
    let others = listed.iter().map(String::as_str).filter(is_wanted);
    let needed = NEEDED.into_iter().filter(|name| is_listed(name));
    let wanted: Vec<&str> = needed.chain(others).collect();

    let mut commit = None;
    for name in wanted {
        let known = commit.as_deref().map(|commit| repo.snapshot(commit));
        if known.is_some_and(|dir| dir.join(name).is_file()) {
            continue;
        }
        let file = remote.describe(model, name)?;
        match &commit {
            None => commit = Some(file.commit.clone()),
            Some(commit) if *commit != file.commit => {
                return Err(
                    Error::resource("the repository was changed while it was downloaded")
                        .hint("run the command again"),
                );
            }
            Some(_) => {}
        }
        let link = repo.snapshot(&file.commit).join(name);
        if link.is_file() {
            continue;
        }
        if !repo.blob(&file.etag).is_file() {
            watcher.begin(name, file.size);
            remote.fetch(
                model,
                name,
                &file,
                &repo.incomplete(&file.etag),
                &mut |bytes| watcher.received(bytes),
            )?;
            watcher.end();
            files::put_in_place(&repo.incomplete(&file.etag), &repo.blob(&file.etag))?;
        }
        files::link(&cache::blob_from(name, &file.etag), &link)?;
    }
    let commit = commit.ok_or_else(|| Error::resource("the Hub lists no files"))?;
    // Written last: a snapshot that the reference names is whole.
    repo.set_commit(&commit)?;
    Ok(repo.snapshot(&commit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_with_merges_is_a_tokenizer() {
        let of = |names: &[&str]| missing(&|name| names.contains(&name));
        assert_eq!(of(&["config.json", "tokenizer.json"]), None);
        assert_eq!(of(&["config.json", "vocab.json"]), Some("tokenizer.json"));
        assert_eq!(of(&[&["config.json"][..], &SLOW_TOKENIZER].concat()), None);
        assert_eq!(of(&["tokenizer.json"]), Some("config.json"));
    }

    #[test]
    fn an_id_is_two_plain_names() {
        check_id("Qwen/Qwen2.5-Omni-7B").unwrap();
        for id in [
            "a", "a/b/c", "../b", "a/..", "/a/b", "a/", "~/b", "a/b\n", "a/b\0", "a\\b/c", "a/.b",
        ] {
            assert_eq!(check_id(id).unwrap_err().exit_code(), 2, "{id}");
        }
    }
}
