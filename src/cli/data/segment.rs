//! `maqam data segment`.

use std::path::PathBuf;

use clap::Args;

use crate::audio::vad::Speech;
use crate::cli::arguments::manifests::SourceArguments;
use crate::cli::data::rows::EachManifest;
use crate::cli::data::rows::tell;
use crate::cli::print;
use crate::data::segment_manifest::segment_manifests;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::stop::Stop;
use crate::text_table::counted;

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

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let speech = arguments.speech()?;
    let manifests = std::slice::from_ref(&arguments.manifest);
    let manifests = arguments.source.manifests(manifests)?;

    let mut screen = EachManifest::default();
    let out = &arguments.out;
    let counts = segment_manifests(&manifests, &speech, arguments.trim, out, stop, &mut screen)?;
    tell(&counts.notes);
    if counts.without_speech > 0 {
        print::message(format_args!(
            "note: left out for want of speech: {}",
            counted(counts.without_speech, "row")
        ));
    }
    if counts.untouched > 0 {
        print::message(format_args!(
            "note: left unchanged, because they have no clip or several: {}",
            counted(counts.untouched, "row")
        ));
    }
    print::line(format_args!(
        "{} from {} in {}",
        counted(counts.written, "row"),
        counts.read,
        out.display()
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
