//! The folder of a checkpoint: which files hold its weights, and what is there in their place.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use crate::nn::checkpoint::json::read_json;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::sniff;

/// All weights in one file.
pub const SINGLE: &str = "model.safetensors";
/// The list of shards and of the tensors in each.
pub const INDEX: &str = "model.safetensors.index.json";

/// The files that hold a checkpoint's tensors: `model.safetensors`, else the shards of
/// `model.safetensors.index.json` in the order of their names. transformers looks in this order.
///
/// # Errors
/// A folder without either, with what was found in their place; an index that is damaged, or that
/// names files outside the folder; links that lead outside the folder and the Hub's cache.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join(SINGLE);

    if single.is_file() {
        check_inside(dir, &single)?;
        return Ok(vec![single]);
    }

    let index = dir.join(INDEX);
    if !index.is_file() {
        return Err(no_weights(dir));
    }
    check_inside(dir, &index)?;
    let map = read_json(&index)?;
    let map = map["weight_map"].as_object().ok_or_else(|| {
        Error::input("no `weight_map`")
            .at_path(&index)
            .hint("download the index again; it maps the name of each tensor to a file")
    })?;

    let mut names = BTreeSet::new();
    for (tensor, name) in map {
        let Some(name) = name.as_str() else {
            return Err(Error::input(format!(
                "`weight_map` gives {name} for `{tensor}`, expected the name of a file"
            ))
            .at_path(&index)
            .hint("download the index again"));
        };
        names.insert(name);
    }

    if names.is_empty() {
        return Err(Error::input("`weight_map` is empty")
            .at_path(&index)
            .hint("download the index again"));
    }

    let mut files = Vec::new();
    for name in names {
        let is_inside = Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !is_inside || name.is_empty() {
            return Err(Error::input(format!(
                "the index names `{name}`, which lies outside the folder"
            ))
            .at_path(&index)
            .hint("put the shards into the folder, and name them without a path"));
        }
        if !name.ends_with(".safetensors") {
            return Err(Error::input(format!(
                "the index names `{name}`, which is not a safetensors file"
            ))
            .at_path(&index)
            .hint(TO_SAFETENSORS));
        }
        let path = dir.join(name);
        check_inside(dir, &path)?;
        files.push(path);
    }

    Ok(files)
}

const TO_SAFETENSORS: &str =
    "convert it: load it with transformers' `from_pretrained` and write it with `save_pretrained`";

/// An error that names the other format of weights in a folder, if there is one.
fn no_weights(dir: &Path) -> Error {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    let first = |found: &dyn Fn(&str) -> bool| names.iter().find(|name| found(name)).cloned();

    for name in [SINGLE, INDEX] {
        if names.iter().any(|other| other == name) {
            return Error::input("a folder, or a link that leads nowhere, in place of a file")
                .at_path(&dir.join(name))
                .hint("put the file itself there; download it again if it is gone");
        }
    }

    let missing = "no model.safetensors and no model.safetensors.index.json here";
    let found = |what: String, hint: &str| {
        Error::input(format!("{missing}, but {what}"))
            .at_path(dir)
            .hint(hint)
    };

    if let Some(name) = first(&|name| name.ends_with(".gguf")) {
        return found(
            format!("{name}, a GGUF file"),
            "use the checkpoint it was converted from, in safetensors format",
        );
    }

    if let Some(name) = first(&|name| {
        name.starts_with("pytorch_model") || name.ends_with(".pth") || name.ends_with(".bin")
    }) {
        return found(format!("{name}, PyTorch's format"), TO_SAFETENSORS);
    }

    if let Some(name) = first(&|name| {
        [".h5", ".msgpack", ".onnx"]
            .iter()
            .any(|end| name.ends_with(end))
    }) {
        return found(format!("{name}, weights of another format"), TO_SAFETENSORS);
    }

    if first(&|name| name == "adapter_config.json").is_some() {
        return found(
            "adapter_config.json: an adapter, not a checkpoint".to_owned(),
            "give the folder with `--adapter`, and `--model` the checkpoint that its adapter_config.json names",
        );
    }

    if let Some(name) = first(&|name| name.ends_with(".safetensors")) {
        return found(
            name.clone(),
            "download model.safetensors.index.json, which tells which tensor is in which shard",
        );
    }

    Error::input(missing)
        .at_path(dir)
        .hint("`model` is the folder of a checkpoint in safetensors format")
}

/// An error for a folder without config.json that is something else than a checkpoint.
pub fn another_folder(dir: &Path) -> Option<Error> {
    let names: Vec<String> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if names.iter().any(|name| name == "adapter_config.json") {
        return Some(Error::input("an adapter (adapter_config.json), not a checkpoint")
            .at_path(dir)
            .hint("give the folder with `--adapter`, and `--model` the checkpoint that its adapter_config.json names"));
    }
    let gguf = names.iter().find(|name| name.ends_with(".gguf"))?;
    Some(
        Error::input(format!("no config.json here, but {gguf}, a GGUF file"))
            .at_path(dir)
            .hint("use the checkpoint it was converted from, in safetensors format"),
    )
}

/// Refuses a file that is given in place of a checkpoint's folder; nothing is said of what does not
/// exist.
///
/// # Errors
/// The file, with its format where it is known.
pub fn refuse_file(path: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let mut head = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head);
    }
    let name = path.to_string_lossy();
    let what = match sniff::foreign_file(&head) {
        Some(foreign) => foreign.what,
        None if name.ends_with(".safetensors") => "a safetensors file",
        None => "a file",
    };
    Err(Error::input(format!(
        "{what}, where the folder of a checkpoint is wanted"
    ))
    .at_path(path)
    .hint("give the folder that holds config.json, tokenizer.json and safetensors"))
}

/// Refuses a file of a checkpoint whose links lead outside its folder and the Hub's cache; a
/// missing file is not looked at.
///
/// The cache keeps files as `models--OWNER--NAME/blobs/HASH`, and a snapshot is a folder of links
/// to them.
///
/// # Errors
/// The link, and where it leads.
pub fn check_inside(dir: &Path, path: &Path) -> Result<()> {
    let (Ok(root), Ok(place)) = (dir.canonicalize(), path.canonicalize()) else {
        return Ok(());
    };
    if place.starts_with(&root) || is_blob(&place) {
        return Ok(());
    }
    Err(Error::input(format!(
        "a link to {}, outside the checkpoint's folder and the Hub's cache",
        place.display()
    ))
    .at_path(path)
    .hint("put the file itself into the folder"))
}

fn is_blob(place: &Path) -> bool {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let blobs = place.parent();
    name(blobs) == "blobs" && name(blobs.and_then(Path::parent)).starts_with("models--")
}
