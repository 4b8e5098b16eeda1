//! `maqam export`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::arguments::model;
use crate::cli::arguments::model::model_dir;
use crate::cli::arguments::stored::Stored;
use crate::cli::print;
use crate::error::Error;
use crate::error::Result;
use crate::files::StagedDir;
use crate::models::config::Config;
use crate::models::export::Origin;
use crate::models::export::merge;
use crate::models::names::Names;
use crate::models::trained::Trained;
use crate::nn::naming::NameForm;
use crate::nn::peft;
use crate::nn::peft::Metadata;

#[derive(Args)]
pub struct Arguments {
    /// Checkpoint that the adapter was trained on: a folder or a Hub id.
    #[arg(long)]
    model: String,
    /// Adapter: a PEFT folder or a checkpoint of a run.
    #[arg(long)]
    adapter: PathBuf,
    /// Folder to write. It must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = Form::Merged)]
    form: Form,
    /// Type of all merged weights [default: each keeps its own].
    #[arg(long, value_enum)]
    dtype: Option<Stored>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The whole checkpoint with the adapter merged, for transformers and vLLM.
    Merged,
    /// The adapter, keys relative to the full model (Hugging Face, ms-swift).
    Peft,
    /// The adapter, keys relative to the thinker of Qwen2.5-Omni (LLaMA-Factory).
    PeftThinker,
    /// The adapter, keys of Qwen2-Audio as weights are named on the Hub (transformers 4).
    PeftHub,
    /// The adapter, keys of Qwen3-ASR in transformers.
    PeftTransformers,
    /// The adapter, keys of Qwen3-ASR in the original layout (qwen_asr).
    PeftOriginal,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let dir = model_dir(&arguments.model)?;
    let config = Config::load_with(&dir, Some(&arguments.adapter))?;
    let trained = Trained::load(&arguments.adapter, &config)?;
    model::note(&trained);
    let form = match arguments.form {
        Form::Merged => {
            let dtype = arguments.dtype.map(Stored::dtype);
            let merged = merge(
                &dir,
                &config,
                &trained,
                dtype,
                &origin(arguments, &dir),
                &arguments.out,
            )?;
            print::line(format_args!(
                "{merged} weights merged into {}",
                arguments.out.display()
            ))?;
            return Ok(());
        }
        Form::Peft => &config.names.adapters[0],
        Form::PeftThinker => other_form(config.names, "relative to the thinker")?,
        Form::PeftHub => other_form(config.names, "named as on the Hub")?,
        Form::PeftTransformers => other_form(config.names, "named as in transformers")?,
        Form::PeftOriginal => other_form(config.names, "named as in the original checkpoint")?,
    };
    if arguments.dtype.is_some() {
        return Err(
            Error::input("--dtype is for --form merged").hint("an adapter is always stored in f32")
        );
    }
    let Some(adapter) = trained.adapter.filter(|_| trained.full.is_empty()) else {
        return Err(Error::input("parts of the model were trained in full (trained.safetensors), which a PEFT folder cannot hold")
            .at_path(&arguments.adapter)
            .hint("write the whole checkpoint with --form merged"));
    };
    if arguments.out.exists() {
        return Err(Error::input("exists already")
            .at_path(&arguments.out)
            .hint("name a folder that does not exist yet"));
    }
    let metadata = Metadata {
        base: arguments.model.clone(),
        dropout: adapter.dropout,
        variant: adapter.variant,
    };
    let staged = StagedDir::new(&arguments.out)?;
    peft::save(
        staged.path(),
        &adapter.plan,
        &adapter.tensors,
        adapter.rows.as_ref(),
        &metadata,
        form,
    )?;
    staged.commit()?;
    let of_tokens = match adapter.plan.tokens.len() {
        0 => String::new(),
        count => format!(" and the embeddings of {count} tokens"),
    };
    print::line(format_args!(
        "{} adapted modules{of_tokens} in {}",
        adapter.plan.modules.len(),
        arguments.out.display()
    ))?;
    Ok(())
}

/// A form of keys by what it is called.
///
/// # Errors
/// A family whose adapters are not written so.
fn other_form(names: &Names, called: &str) -> Result<&'static NameForm> {
    let mut forms = names.adapters.iter();
    forms.find(|form| form.name == called).ok_or_else(|| {
        let family = names.family;
        Error::input(format!("no keys {called} for an adapter of {family}"))
            .hint("write the usual keys with --form peft")
    })
}

/// Base and adapter as a model card names them: a Hub id as written, of a folder on this machine
/// its name alone.
fn origin(arguments: &Arguments, dir: &Path) -> Origin {
    let last = |path: &Path| {
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        whole
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let base = if Path::new(&arguments.model).is_dir() {
        last(dir)
    } else {
        arguments.model.clone()
    };
    let adapter = if arguments.adapter.is_absolute() {
        last(&arguments.adapter)
    } else {
        arguments.adapter.display().to_string()
    };
    Origin { base, adapter }
}
