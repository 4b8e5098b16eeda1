//! `maqam data segment`.

use std::path::PathBuf;

use clap::Args;
use rayon::prelude::*;

use crate::audio::vad::Speech;
use crate::cli::data::rows::SourceArguments;
use crate::cli::data::rows::copied_row;
use crate::cli::data::rows::folder_of;
use crate::cli::interrupt::check_stop;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::data::Row;
use crate::data::segment::Segmented;
use crate::data::segment::segment;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Draft;
use crate::stop::Stop;

/// Rows whose audio is listened to together.
const CHUNK: usize = 64;

#[derive(Args)]
pub struct Arguments {
    /// Manifest of recordings.
    manifest: PathBuf,
    #[command(flatten)]
    source: SourceArguments,
    /// Manifest to write, JSON lines. Its rows name parts of the same audio files.
    #[arg(long)]
    out: PathBuf,
    /// Trim silence at both ends; divide nothing.
    #[arg(long)]
    trim: bool,
    /// Longest stretch of speech, in seconds; longer ones are divided where they pause longest.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    longest: f64,
    /// Shortest stretch of speech, in seconds.
    #[arg(long, default_value_t = Speech::default().min_speech_s, value_name = "SECONDS")]
    shortest: f64,
    /// Silence that ends a stretch, in seconds.
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    silence: f64,
    /// Time that is left before and after speech, in seconds.
    #[arg(long, default_value_t = 0.1, value_name = "SECONDS")]
    pad: f64,
    /// Probability from which 32 ms are speech.
    #[arg(long, default_value_t = Speech::default().threshold, value_name = "SHARE")]
    threshold: f32,
}

/// Counts of what became of rows.
#[derive(Default)]
struct Counts {
    read: u64,
    written: u64,
    without_speech: u64,
    untouched: u64,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let speech = arguments.speech()?;
    let folder = folder_of(&arguments.out);
    let mut draft = Draft::new(&arguments.out)?;
    let mut counts = Counts::default();
    let mut progress = Progress::new(
        "rows",
        0,
        arguments
            .source
            .num_rows(std::slice::from_ref(&arguments.manifest)),
    );
    let mut chunk: Vec<(String, Row)> = Vec::with_capacity(CHUNK);

    let mut flush = |chunk: &mut Vec<(String, Row)>| -> Result<()> {
        check_stop(stop)?;
        let found: Vec<Result<Segmented>> = chunk
            .par_iter()
            .map(|(place, row)| segment(row, &speech, arguments.trim).map_err(|e| e.at(place)))
            .collect();
        for ((_, row), found) in chunk.iter().zip(found) {
            counts.read += 1;
            let rows = match found? {
                Segmented::Rows(rows) => rows,
                Segmented::NoSpeech => {
                    counts.without_speech += 1;
                    continue;
                }
                Segmented::Untouched => {
                    counts.untouched += 1;
                    vec![row.clone()]
                }
            };
            counts.written += rows.len() as u64;
            for row in &rows {
                draft.append(&copied_row(row, folder)?)?;
            }
        }
        chunk.clear();
        progress.update(counts.read, "");
        Ok(())
    };
    let notes = arguments
        .source
        .of(&arguments.manifest)?
        .stream(&mut |streamed| {
            let place = format!("{}:{}", streamed.file.display(), streamed.line);
            let row = streamed.row.map_err(|bad| {
                bad.error.at(&place).and_hint(
                    "leave such rows out first: `maqam data check MANIFEST --fix drop --out FILE`",
                )
            })?;
            chunk.push((place, row));
            match chunk.len() {
                CHUNK => flush(&mut chunk),
                _ => Ok(()),
            }
        })?;
    flush(&mut chunk)?;
    progress.clear();
    draft.commit()?;
    for note in notes {
        print::message(format_args!("note: {note}"));
    }
    if counts.without_speech > 0 {
        print::message(format_args!(
            "note: {} rows have no speech and are left out",
            counts.without_speech
        ));
    }
    if counts.untouched > 0 {
        print::message(format_args!(
            "note: {} rows have no clip or several, and stay as they are",
            counts.untouched
        ));
    }
    print::line(format_args!(
        "{} rows from {} in {}",
        counts.written,
        counts.read,
        arguments.out.display()
    ))
}

impl Arguments {
    fn speech(&self) -> Result<Speech> {
        let is_time = |seconds: f64| seconds.is_finite() && seconds >= 0.0;
        let times = [self.longest, self.shortest, self.silence, self.pad];
        if !times.into_iter().all(is_time) || self.longest <= self.shortest + 2.0 * self.pad {
            return Err(Error::input(format!(
                "--longest {}, --shortest {}, --silence {}, --pad {}",
                self.longest, self.shortest, self.silence, self.pad
            ))
            .hint("give seconds of 0 or more, the longest stretch longer than the shortest and both pads"));
        }
        if !(self.threshold > 0.0 && self.threshold < 1.0) {
            return Err(Error::input(format!("--threshold is {}", self.threshold))
                .hint("give a probability between 0 and 1, such as 0.5"));
        }
        Ok(Speech {
            threshold: self.threshold,
            min_speech_s: self.shortest,
            max_speech_s: self.longest,
            min_silence_s: self.silence,
            pad_s: self.pad,
        })
    }
}
