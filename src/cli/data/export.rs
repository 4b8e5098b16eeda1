//! `maqam data export`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::data::AboutData;
use crate::cli::print;
use crate::data;
use crate::data::Columns;
use crate::data::Export;
use crate::data::Format;
use crate::error::Result;
use crate::task::Tasks;
use crate::text_table::counted;

#[derive(Args)]
pub struct Arguments {
    /// Manifest of any format that is read, a folder, or a pattern.
    manifest: PathBuf,
    /// Format to write: jsonl, parquet, huggingface, ms-swift, llama-factory, nemo, lhotse,
    /// lhotse-shar, slam-llm, qwen3-asr, kaldi, common-voice, csv, tsv, webdataset.
    #[arg(long)]
    format: Format,
    /// Folder to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Format of the manifest; by default its files tell it.
    #[arg(long, value_name = "FORMAT")]
    from: Option<Format>,
    /// The manifest's own names for fields of its rows: FIELD=COLUMN, as in text=sentence.
    #[arg(long, value_name = "FIELD=COLUMN")]
    columns: Vec<Columns>,
    /// Where relative audio paths start; by default the manifest's folder.
    #[arg(long)]
    audio_root: Option<PathBuf>,
    /// Copy audio files into the folder, where the format would name them where they are.
    #[arg(long)]
    copy_audio: bool,
    /// Put NeMo's audio into tar files.
    #[arg(long)]
    tarred: bool,
    /// Rows of one shard.
    #[arg(long, default_value_t = 1000)]
    shard_rows: usize,
    /// Task that makes conversations of rows without one, for ms-swift and llama-factory.
    #[arg(long)]
    task: Option<String>,
    /// Folder of task files that add to or override the built-in ones.
    #[arg(long)]
    prompts: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let about = AboutData {
        audio_root: arguments.audio_root.clone(),
        format: arguments.from,
        columns: arguments.columns.clone(),
    };
    let tasks = Tasks::load(arguments.prompts.as_deref())?;
    if let Some(task) = &arguments.task {
        tasks.get(task).map_err(|e| e.at("--task"))?;
    }
    let manifest = about.read(&arguments.manifest)?;
    let export = Export {
        format: arguments.format,
        out: &arguments.out,
        copy_audio: arguments.copy_audio,
        tarred: arguments.tarred,
        shard_rows: arguments.shard_rows,
        task: arguments.task.as_deref(),
        tasks: &tasks,
    };
    let lost = data::export(&manifest.rows, &arguments.manifest, &export)?;
    for note in lost {
        print::message(format_args!("note: {note}"));
    }
    print::line(format_args!(
        "{} in {}",
        counted(manifest.rows.len() as u64, "row"),
        arguments.out.display()
    ))
}
