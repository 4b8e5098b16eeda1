//! Times reading and log-mel on one core: `cargo bench --bench audio -- [--repeats N] [FILE...]`.
//!
//! One line per measurement: `what file audio_s best_s`, where `best_s` is the fastest of the
//! repeats. Without files, the clips under `tests/fixtures/audio` are used.
//! `benches/peers/features.py` parses these lines and compares them with the peers.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use maqam::audio::LogMelExtractor;
use maqam::audio::SAMPLE_RATE;
use maqam::audio::Span;
use maqam::audio::read;
use maqam::error::Error;
use maqam::error::Result;

fn main() {
    if let Err(error) = measure() {
        eprintln!("error: {error}");
        std::process::exit(i32::from(error.exit_code()));
    }
}

fn measure() -> Result<()> {
    let mut repeats = 10;
    let mut files = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo's own mark of a benchmark run.
            "--bench" => {}
            "--repeats" => {
                let number = arguments
                    .next()
                    .and_then(|n| n.parse().ok())
                    .filter(|&n: &usize| n > 0);
                repeats =
                    number.ok_or_else(|| Error::input("`--repeats` takes a number above 0"))?;
            }
            _ => files.push(PathBuf::from(argument)),
        }
    }
    if files.is_empty() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio");
        files = ["a1.wav", "a2.wav", "a3.wav", "odd.wav"]
            .map(|name| folder.join(name))
            .to_vec();
    }
    let extractor = LogMelExtractor::default();
    println!("what file audio_s best_s");
    for file in files {
        let samples = read(&file, Span::default())?;
        let audio_s = samples.len() as f64 / f64::from(SAMPLE_RATE);
        let reading_s = fastest(repeats, || {
            read(&file, Span::default())
                .map(|samples| samples.len())
                .ok()
        });
        let log_mel_s = fastest(repeats, || extractor.extract(black_box(&samples)).frames);
        println!("read {} {audio_s:.3} {reading_s:.9}", file.display());
        println!("log_mel {} {audio_s:.3} {log_mel_s:.9}", file.display());
    }
    Ok(())
}

/// Seconds of the fastest of `repeats` runs.
fn fastest<T>(repeats: usize, run: impl Fn() -> T) -> f64 {
    let times = (0..repeats).map(|_| {
        let start = Instant::now();
        black_box(run());
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}
