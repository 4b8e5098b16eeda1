//! `maqam features`.

use std::path::PathBuf;

use clap::Args;

use crate::audio::LogMelExtractor;
use crate::audio::MelForm;
use crate::cli::arguments::data::DataArguments;
use crate::cli::arguments::model::model_dir;
use crate::cli::progress::Progress;
use crate::error::Result;
use crate::featurise::log_mels::log_mels;
use crate::featurise::named_tensors::NamedTensors;
use crate::files;
use crate::models::config::Config;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    data: DataArguments,
    /// Folder or Hub id of the checkpoint whose processor is followed; Qwen2.5-Omni's where nothing
    /// is said.
    #[arg(long)]
    model: Option<String>,
    /// Output, safetensors: for each row id [mel bands, frames]; a row of several clips gets
    /// `ID.0`, `ID.1` ...
    #[arg(long)]
    out: PathBuf,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let rows = arguments.data.rows()?;
    let form = match &arguments.model {
        Some(model) => {
            let config = Config::load(&model_dir(model)?)?;
            config.refuse_speech().map_err(|e| e.at("--model"))?;
            config.mel_form()
        }
        None => MelForm::default(),
    };

    let mut shown = Progress::new("features", 0, rows.len() as u64);
    let mut output = NamedTensors::new(&arguments.data.data, &arguments.out, rows.len());
    let mut progress = |done| shown.update(done, "");
    let extractor = LogMelExtractor::new(form);
    log_mels(&extractor, &rows, &mut output, &mut progress, stop)?;
    shown.finish();
    output.finish()
}
