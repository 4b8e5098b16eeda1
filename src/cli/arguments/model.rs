//! `--model` and `--adapter`: a checkpoint with what was trained of it.

use std::path::PathBuf;

use candle_core::Device;
use clap::Args;

use crate::cli::arguments::device::DeviceArguments;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::error::Result;
use crate::featurise::Loader;
use crate::hub;
use crate::machine;
use crate::models::AudioLlm;
use crate::models::config::Config;
use crate::models::trained::Trained;
use crate::nn::lora::Plan;
use crate::nn::precision::Precision;

/// A checkpoint, and perhaps an adapter.
#[derive(Args, Clone)]
pub struct ModelArguments {
    /// Folder of a Qwen2.5-Omni checkpoint, or its Hub id.
    #[arg(long)]
    pub model: String,
    /// PEFT folder or checkpoint of a run.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArguments,
    #[command(flatten)]
    pub memory: MemoryArguments,
}

/// Whether the memory of the machine is looked at.
#[derive(Args, Clone, Copy)]
pub struct MemoryArguments {
    /// Begin although the machine seems to have too little memory; the system may end the process.
    #[arg(long)]
    pub ignore_memory: bool,
}

impl MemoryArguments {
    /// Refuses a model that does not fit the memory of the machine, where that computes.
    pub fn check(
        self,
        config: &Config,
        plan: &Plan,
        precision: Precision,
        device: &Device,
    ) -> Result<()> {
        match self.ignore_memory {
            true => Ok(()),
            false => machine::fit::check_answering(config, plan, precision, device),
        }
    }
}

impl ModelArguments {
    /// The model with its adapter, and what reads rows for it.
    pub fn open(&self) -> Result<(AudioLlm, Loader)> {
        let device = self.device.open()?;
        let dir = model_dir(&self.model)?;
        let config = Config::load_with(&dir, self.adapter.as_deref())?;
        let loader = Loader::new(&dir, &config, None)?;
        let trained = Trained::of(self.adapter.as_deref(), &config)?;
        note(&trained);
        self.memory
            .check(&config, &trained.plan(), Precision::Auto, &device)?;
        let model = trained.open(&dir, &config, &device, None)?;
        Ok((model, loader))
    }
}

/// Prints notes on an adapter's folder.
pub fn note(trained: &Trained) {
    for note in trained.notes() {
        print::message(format_args!("note: {note}"));
    }
}

/// The folder of a checkpoint, downloaded if it is not on this machine.
///
/// # Errors
/// As [`hub::model_dir`].
pub fn model_dir(model: &str) -> Result<PathBuf> {
    hub::model_dir(model, &mut Download::default())
}

const MEGABYTE: u64 = 1_000_000;

/// Shows how a file comes in, in megabytes.
#[derive(Default)]
struct Download {
    size: u64,
    detail: String,
    shown: Option<Progress>,
}

impl hub::Watcher for Download {
    fn message(&mut self, text: &str) {
        print::message(text);
    }

    fn begin(&mut self, name: &str, size: u64) {
        self.size = size;
        self.detail = format!("MB of {name}");
        self.shown = Some(Progress::new("download", 0, size.div_ceil(MEGABYTE)));
    }

    fn received(&mut self, bytes: u64) {
        if let Some(shown) = &mut self.shown {
            shown.update(bytes / MEGABYTE, &self.detail);
        }
    }

    fn end(&mut self) {
        if let Some(mut shown) = self.shown.take() {
            shown.update(self.size.div_ceil(MEGABYTE), &self.detail);
            shown.clear();
        }
    }
}
