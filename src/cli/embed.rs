//! `maqam embed`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::arguments::data::DataArguments;
use crate::cli::arguments::model::ModelArguments;
use crate::cli::arguments::model::model_dir;
use crate::cli::progress::Progress;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::embed;
use crate::featurise::embed::Pool;
use crate::featurise::named_tensors::NamedTensors;
use crate::files;
use crate::models::hubert;
use crate::models::hubert::Hubert;
use crate::ops::device::Choice;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    data: DataArguments,
    /// Output, safetensors: one tensor per row id.
    #[arg(long)]
    out: PathBuf,
    /// `mean`: [hidden], the mean over time, of length one. `none`: [audio tokens, hidden], of a
    /// speech encoder [frames, hidden].
    #[arg(long, value_enum, default_value_t = PoolName::Mean)]
    pool: PoolName,
    /// Of a HuBERT or wav2vec 2.0 encoder: the layer after which hidden states are taken; 0 is the
    /// input of the first one. By default the last.
    #[arg(long)]
    layer: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PoolName {
    Mean,
    None,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let rows = arguments.data.rows()?;
    let dir = model_dir(&arguments.model.model)?;
    let mut output = NamedTensors::new(&arguments.data.data, &arguments.out, rows.len());
    match hubert::is_encoder(&dir) {
        true => arguments.encode(&dir, &rows, &mut output, stop)?,
        false => arguments.embed(&rows, &mut output, stop)?,
    }
    output.finish()
}

impl Arguments {
    /// Embeds with an audio language model.
    fn embed(&self, rows: &[Row], output: &mut NamedTensors<'_>, stop: &Stop) -> Result<()> {
        if let Some(layer) = self.layer {
            return Err(Error::input(format!(
                "--layer {layer}: this model gives the projector's output"
            ))
            .hint("leave --layer out, or name a HuBERT or wav2vec 2.0 encoder"));
        }
        let (model, loader) = self.model.open()?;
        let mut shown = Progress::new("embedding", 0, rows.len() as u64);
        let mut progress = |done| shown.update(done, "");
        let pool = self.pool.into();
        embed::embed(&model, &loader, rows, pool, output, &mut progress, stop)?;
        shown.finish();
        Ok(())
    }

    /// Takes hidden states of a speech encoder.
    fn encode(
        &self,
        dir: &Path,
        rows: &[Row],
        output: &mut NamedTensors<'_>,
        stop: &Stop,
    ) -> Result<()> {
        if let Some(adapter) = &self.model.adapter {
            return Err(Error::input("--adapter: a speech encoder has none")
                .at_path(adapter)
                .hint("leave --adapter out"));
        }
        if self.model.device.choice() == Choice::Cuda {
            return Err(
                Error::input("--device cuda: speech encoders compute on the CPU")
                    .hint("leave --device out, or write --device cpu"),
            );
        }
        let model = Hubert::open(dir)?;
        let layer = self.layer.unwrap_or(model.config.num_hidden_layers);
        let mut shown = Progress::new("embedding", 0, rows.len() as u64);
        model.check_layer(layer).map_err(|e| e.at("--layer"))?;
        let mut progress = |done| shown.update(done, "");
        let pool = self.pool.into();
        embed::encode(&model, layer, rows, pool, output, &mut progress, stop)?;
        shown.finish();
        Ok(())
    }
}

impl From<PoolName> for Pool {
    fn from(name: PoolName) -> Self {
        match name {
            PoolName::Mean => Self::Mean,
            PoolName::None => Self::None,
        }
    }
}
