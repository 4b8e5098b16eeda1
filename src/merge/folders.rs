//! Folders of adapters, merged into a new one.

use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;
use crate::files::StagedDir;
use crate::merge::Merged;
use crate::merge::Method;
use crate::merge::Settings;
use crate::merge::merge;
use crate::models::config::Config;
use crate::models::trained::Trained;
use crate::nn::lora::Variant;
use crate::nn::peft;
use crate::nn::peft::Adapter;
use crate::nn::peft::Metadata;
use crate::records::merged_adapter::MergedAdapter;
use crate::records::merged_adapter::Source;
use crate::records::merged_adapter::Worst;

/// Adapters to merge, and where to.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Folder of the model that they were trained on.
    pub model_dir: &'a Path,
    /// Name of that model, for the merged adapter's configuration.
    pub model: &'a str,
    /// Folders of the adapters: PEFT folders or checkpoints of runs.
    pub adapters: &'a [PathBuf],
    /// How they are merged.
    pub settings: &'a Settings,
    /// Folder to write, which must not exist.
    pub out: &'a Path,
}

/// Merges the adapters of folders into a new PEFT folder with a `merge.json`. `watch` is told of
/// each module before its turn: number done and number of all.
///
/// # Errors
/// As [`merge`]; folders that do not fit the model, or that hold parts in full fine-tuning, which
/// are no adapters; an output that exists.
pub fn merge_folders(
    request: Request,
    watch: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Merged> {
    let Request {
        model_dir,
        model,
        adapters: folders,
        settings,
        out,
    } = request;
    let weights = settings.check(folders.len())?;
    if out.exists() {
        return Err(Error::input("exists already")
            .at_path(out)
            .hint("name a folder that does not exist yet"));
    }
    let config = Config::load(model_dir)?;
    let mut adapters = Vec::with_capacity(folders.len());
    for folder in folders {
        adapters.push(adapter_of(folder, &config)?);
    }
    let merged = merge(&adapters, settings, watch)?;

    let metadata = Metadata {
        base: model.to_owned(),
        dropout: 0.0,
        variant: Variant::Lora,
    };
    let form = &config.names.adapters[0];
    let staged = StagedDir::new(out)?;
    peft::save(
        staged.path(),
        &merged.plan,
        &merged.tensors,
        None,
        &metadata,
        form,
    )?;
    let mut sources = Vec::with_capacity(folders.len());
    for (folder, weight) in folders.iter().zip(weights) {
        let adapter = folder
            .canonicalize()
            .map_err(|e| Error::io(folder, "resolve", e))?;
        sources.push(Source { adapter, weight });
    }
    let record = MergedAdapter {
        method: settings.method.name().to_owned(),
        density: (settings.method == Method::Ties).then_some(settings.density),
        sources,
        error: merged.error,
        worst: merged
            .worst
            .clone()
            .map(|(module, error)| Worst { module, error }),
    };
    record.write(staged.path())?;
    staged.commit()?;
    Ok(merged)
}

/// The adapter of a folder that holds nothing else.
fn adapter_of(folder: &Path, config: &Config) -> Result<Adapter> {
    let trained = Trained::load(folder, config)?;
    match trained.adapter {
        Some(adapter) if trained.full.is_empty() => Ok(adapter),
        _ => Err(Error::input(
            "parts of the model were trained in full (trained.safetensors), which is no adapter",
        )
        .at_path(folder)
        .hint("merge runs whose parts are `lora` or `frozen` under `train`")),
    }
}
