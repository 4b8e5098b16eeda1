//! Time to open many clips in tar files, with and without their index, and to find and read the
//! clips of a batch.
//!
//! `cargo bench --bench shards -- PATTERN`, where the pattern names the tar files. Their indices
//! are removed first.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use maqam::data::OnBadRow;
use maqam::data::Source;
use maqam::seed::Key;

/// Clips of a batch.
const BATCH: usize = 64;

/// Batches that are averaged.
const BATCHES: u64 = 200;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let Some(pattern) = std::env::args().skip(1).find(|word| !word.starts_with('-')) else {
        println!("name the tar files: cargo bench --bench shards -- 'shards/*.tar'");
        return Ok(());
    };
    let source = Source::new(&pattern);
    for shard in source.files()? {
        let index = PathBuf::from(format!("{}.maqam-index", shard.display()));
        if index.exists() {
            std::fs::remove_file(&index)?;
        }
    }

    let (first, rows) = open(&source)?;
    println!(
        "{rows} clips: {:.2} s to read all headers and write the indices",
        first.as_secs_f64()
    );
    let (again, _) = open(&source)?;
    println!("{:.2} s to open them by their indices", again.as_secs_f64());

    let manifest = source.read(OnBadRow::Error)?;
    let mut found = Duration::ZERO;
    let mut read = Duration::ZERO;
    let mut num_bytes = 0u64;
    for batch in 0..BATCHES {
        let key = Key::new(0, "batch").with(batch);
        let start = Instant::now();
        let clips: Vec<_> = (0..BATCH as u64)
            .map(|i| key.below(i, manifest.rows.len()))
            .map(|row| &manifest.rows[row].clips[0].source)
            .map(|source| (source, source.file()))
            .collect();
        found += start.elapsed();
        let start = Instant::now();
        for (source, _) in &clips {
            num_bytes += source.bytes()?.len() as u64;
        }
        read += start.elapsed();
    }
    let each = |time: Duration| time.as_secs_f64() * 1e3 / BATCHES as f64;
    println!(
        "a batch of {BATCH}: {:.4} ms to find, {:.2} ms to read ({num_bytes} bytes in all)",
        each(found),
        each(read)
    );
    println!("peak memory: {}", peak());
    Ok(())
}

/// Reads all rows once.
fn open(source: &Source) -> Outcome<(Duration, usize)> {
    let start = Instant::now();
    let manifest = source.read(OnBadRow::Error)?;
    Ok((start.elapsed(), manifest.rows.len()))
}

/// Peak memory of the process, as the system reports it.
fn peak() -> String {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}
