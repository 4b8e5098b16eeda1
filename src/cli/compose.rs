//! `maqam compose`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::stored::Stored;
use crate::cli::print;
use crate::compose::Request;
use crate::compose::compose;
use crate::error::Error;
use crate::error::Result;

#[derive(Args)]
pub struct Arguments {
    /// Folder of a Whisper checkpoint of any size.
    #[arg(long)]
    encoder: PathBuf,
    /// Folder of a Qwen2 or Qwen2.5 text model, or a GGUF file of one.
    #[arg(long)]
    decoder: PathBuf,
    /// Folder to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Type of all weights; by default each keeps its own, and what a GGUF file holds in blocks
    /// becomes bf16.
    #[arg(long, value_enum)]
    dtype: Option<Stored>,
    /// Seed of the projector, which starts at random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Licence of the encoder, for the model card; by default as its README.md begins.
    #[arg(long)]
    encoder_licence: Option<String>,
    /// Licence of the decoder, likewise.
    #[arg(long)]
    decoder_licence: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    for (flag, path) in [
        ("--encoder", &arguments.encoder),
        ("--decoder", &arguments.decoder),
    ] {
        if !path.exists() {
            return Err(Error::input("no such file or folder")
                .at_path(path)
                .hint(format!(
                    "`{flag}` is a folder on this machine; nothing is downloaded"
                )));
        }
    }
    let composed = compose(&Request {
        encoder: arguments.encoder.clone(),
        decoder: arguments.decoder.clone(),
        out: arguments.out.clone(),
        dtype: arguments.dtype.map(Stored::dtype),
        seed: arguments.seed,
        licences: [
            arguments.encoder_licence.clone(),
            arguments.decoder_licence.clone(),
        ],
    })?;
    print::line(format_args!(
        "{} tensors in {}; train the projector first (`train: {{projector: full}}`)",
        composed.num_tensors,
        arguments.out.display()
    ))
}
