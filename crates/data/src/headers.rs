//! Lengths of recordings by their headers, kept from one command to the next.
//!
//! A million files are opened once, not in every run: what was found is kept by path, size and time
//! of the last change.

use std::collections::HashMap;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::AudioSource;
use maqam_audio::Span;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::AppendLog;

/// Folder that commands cache headers in.
pub const FOLDER: &str = "runs/.headers";

/// Name of the file in it.
const FILE: &str = "headers.bin";

/// Goes up whenever the same file would give another number.
const FORMAT: u8 = 1;

/// Bytes of a record: key, number, and a check of both.
const RECORD: usize = 32;

/// Bytes from the middle of a file that its print is made of.
const SAMPLE: u64 = 4096;

/// A file that was changed so shortly before it was read may be changed again without a new time,
/// so it is not kept.
const SETTLED_NS: u128 = 2_000_000_000;

type Key = [u8; 16];

/// Numbers that were read from files: samples of a part, and prints.
#[derive(Default)]
pub struct Headers {
    file: Option<PathBuf>,
    known: Mutex<HashMap<Key, u64>>,
    fresh: Mutex<Vec<u8>>,
}

impl Headers {
    /// Headers that are kept in a folder. A file that cannot be read counts as empty: it only saves
    /// time.
    pub fn open(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let bytes = fs::read(&file).unwrap_or_default();
        // What a kill has cut short is no whole record.
        let known = bytes.chunks_exact(RECORD).filter_map(read_record).collect();
        Self {
            file: Some(file),
            known: Mutex::new(known),
            fresh: Mutex::default(),
        }
    }

    /// Samples of a part of a recording at 16 kHz: see [`AudioSource::num_samples`].
    ///
    /// # Errors
    /// As there.
    pub fn num_samples(&self, source: &AudioSource, span: Span) -> Result<usize> {
        let Some((path, range)) = source.file() else {
            return source.num_samples(span);
        };
        let what = keyed(&span.key(), range);
        let samples = self.number(path, &what, || Ok(source.num_samples(span)? as u64))?;
        Ok(samples as usize)
    }

    /// A number that is equal for equal files, or ranges of their bytes, and almost never for
    /// others: made of the size and some bytes of the middle.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn print(&self, path: &Path, range: Option<Range<u64>>) -> Result<u64> {
        let what = keyed("print", range.clone());
        self.number(path, &what, || print_of_file(path, range))
    }

    fn number(&self, path: &Path, what: &str, read: impl FnOnce() -> Result<u64>) -> Result<u64> {
        let (key, modified_ns) = key_of(path, what)?;
        if let Some(known) = lock(&self.known).get(&key) {
            return Ok(*known);
        }
        let number = read()?;
        lock(&self.known).insert(key, number);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos());
        if self.file.is_some() && now > modified_ns + SETTLED_NS {
            lock(&self.fresh).extend(record(key, number));
        }
        Ok(number)
    }

    /// Writes what was read since the last time. Where that fails the next command reads it again.
    pub fn keep(&self) {
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        let Some(file) = self.file.as_deref().filter(|_| !fresh.is_empty()) else {
            return;
        };
        let _ = AppendLog::open(file).and_then(|mut log| {
            // A kill may have left a part of a record; what follows must begin at a whole one.
            let left = log.num_bytes()? as usize % RECORD;
            let padding = if left == 0 { 0 } else { RECORD - left };
            log.append(&[vec![0; padding], fresh].concat())
        });
    }
}

/// Key of a number: a range of a file's bytes has numbers of its own.
fn keyed(what: &str, range: Option<Range<u64>>) -> String {
    match range {
        None => what.to_owned(),
        Some(range) => format!("{what} of bytes {} to {}", range.start, range.end),
    }
}

/// The key of what is read from a file, and when the file was last changed, in nanoseconds.
fn key_of(path: &Path, what: &str) -> Result<(Key, u128)> {
    let metadata = fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
    let modified_ns = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(u128::MAX / 2, |time| time.as_nanos());
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&[FORMAT])
        .update(&metadata.len().to_le_bytes())
        .update(&modified_ns.to_le_bytes())
        .update(what.as_bytes())
        .update(&[0])
        .update(absolute.as_os_str().as_encoded_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Ok((key, modified_ns))
}

/// The print of bytes that lie in memory; equal to that of a file with these bytes.
pub fn print_of_bytes(bytes: &[u8]) -> u64 {
    let range = sampled(bytes.len() as u64);
    print(
        bytes.len() as u64,
        &bytes[range.start as usize..range.end as usize],
    )
}

fn print_of_file(path: &Path, of: Option<Range<u64>>) -> Result<u64> {
    let (len, middle) = middle_of_file(path, of).map_err(|e| Error::io(path, "read", e))?;
    Ok(print(len, &middle))
}

/// Length of a file, or of a range of it, and the bytes in its middle.
fn middle_of_file(path: &Path, of: Option<Range<u64>>) -> std::io::Result<(u64, Vec<u8>)> {
    let mut file = File::open(path)?;
    let (start, len) = match of {
        Some(of) => (of.start, of.end - of.start),
        None => (0, file.metadata()?.len()),
    };
    let range = sampled(len);
    file.seek(SeekFrom::Start(start + range.start))?;
    let mut bytes = Vec::new();
    file.take(range.end - range.start).read_to_end(&mut bytes)?;
    Ok((len, bytes))
}

/// The middle of a file of this length.
fn sampled(len: u64) -> Range<u64> {
    let start = (len / 2).saturating_sub(SAMPLE / 2);
    start..len.min(start + SAMPLE)
}

fn print(len: u64, middle: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&len.to_le_bytes()).update(middle);
    u64::from_le_bytes(first_8(hasher.finalize().as_bytes()))
}

fn first_8(bytes: &[u8]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    first
}

fn record(key: Key, number: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..16].copy_from_slice(&key);
    record[16..24].copy_from_slice(&number.to_le_bytes());
    // A record that another program damaged must not stand for a file.
    let check = first_8(blake3::hash(&record[..24]).as_bytes());
    record[24..].copy_from_slice(&check);
    record
}

fn read_record(bytes: &[u8]) -> Option<(Key, u64)> {
    let key: Key = bytes.get(..16)?.try_into().ok()?;
    let number = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
    (record(key, number) == bytes).then_some((key, number))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left is a map like any other.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::OnBadRow;
    use crate::Row;
    use crate::read_manifest;

    /// A WAV file of 16-bit samples at 16 kHz, last changed a minute ago.
    fn write_wav(path: &Path, samples: usize) {
        let data = (samples * 2) as u32;
        let mut bytes = b"RIFF".to_vec();
        bytes.extend((36 + data).to_le_bytes());
        bytes.extend(b"WAVEfmt ");
        bytes.extend(16u32.to_le_bytes());
        bytes.extend([1, 0, 1, 0]);
        bytes.extend(16_000u32.to_le_bytes());
        bytes.extend(32_000u32.to_le_bytes());
        bytes.extend([2, 0, 16, 0]);
        bytes.extend(b"data");
        bytes.extend(data.to_le_bytes());
        bytes.extend((0..samples).flat_map(|i| ((i % 700) as i16).to_le_bytes()));
        fs::write(path, bytes).unwrap();
        age(path, 60);
    }

    fn age(path: &Path, seconds: u64) {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(then)
            .unwrap();
    }

    fn rows(dir: &Path, lines: &str) -> Vec<Row> {
        let path = dir.join("rows.jsonl");
        fs::write(&path, lines).unwrap();
        read_manifest(&path, None, OnBadRow::Error).unwrap().rows
    }

    fn seconds_of(lengths: &[usize]) -> f64 {
        lengths.iter().sum::<usize>() as f64 / 16_000.0
    }

    fn check(headers: &Headers, rows: &[Row], longest: Option<f64>) -> Vec<Result<Vec<usize>>> {
        headers.check(rows, longest, &mut |_, _| Ok(())).unwrap()
    }

    #[test]
    fn parts_are_measured_and_bad_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        write_wav(&dir.path().join("two.wav"), 32_000);
        fs::write(dir.path().join("page.wav"), "<html>not found</html>").unwrap();
        fs::write(dir.path().join("empty.wav"), "").unwrap();
        write_wav(&dir.path().join("short.wav"), 100);
        let lines = [
            r#"{"audio": "two.wav"}"#,
            r#"{"audio": "two.wav", "start_s": 0.5, "end_s": 1.0}"#,
            r#"{"audio": "two.wav", "start_s": 5}"#,
            r#"{"audio": "two.wav", "end_s": 2.5}"#,
            r#"{"audio": "page.wav"}"#,
            r#"{"audio": "empty.wav"}"#,
            r#"{"audio": "short.wav"}"#,
            r#"{"audios": ["two.wav", "two.wav"]}"#,
            r#"{"text": "no audio at all"}"#,
        ];
        let rows = rows(dir.path(), &lines.join("\n"));
        let found = check(&Headers::default(), &rows, None);
        let seconds: Vec<Option<f64>> = found
            .iter()
            .map(|found| found.as_ref().ok().map(|lengths| seconds_of(lengths)))
            .collect();
        assert_eq!(
            seconds,
            [
                Some(2.0),
                Some(0.5),
                None,
                None,
                None,
                None,
                None,
                Some(4.0),
                Some(0.0)
            ]
        );
        let message = |i: usize| found[i].as_ref().unwrap_err().to_string();
        assert!(
            message(2).contains("two.wav: `start_s` (5)"),
            "{}",
            message(2)
        );
        assert!(message(6).contains("too short"), "{}", message(6));
        let longest = check(&Headers::default(), &rows, Some(1.0));
        let error = longest[0].as_ref().unwrap_err().to_string();
        assert!(
            error.contains("2.0 s of audio, `max_audio_s` is 1"),
            "{error}"
        );
        assert!(longest[1].is_ok());
    }

    #[test]
    fn headers_are_kept_until_a_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let clip = dir.path().join("a.wav");
        let cache = dir.path().join("cache");
        write_wav(&clip, 32_000);
        let rows = rows(dir.path(), r#"{"audio": "a.wav"}"#);
        let seconds = || {
            seconds_of(
                check(&Headers::open(&cache), &rows, None)[0]
                    .as_ref()
                    .unwrap(),
            )
        };
        let len = || fs::metadata(cache.join(FILE)).map_or(0, |file| file.len());
        assert_eq!((seconds(), seconds(), len()), (2.0, 2.0, RECORD as u64));
        // Whatever lies at the path with this size and time is taken for the file that was read.
        let kept = Headers::open(&cache);
        assert_eq!(lock(&kept.known).len(), 1);
        write_wav(&clip, 16_000);
        assert_eq!((seconds(), len()), (1.0, 2 * RECORD as u64));
        // Just written: read, and not kept.
        age(&clip, 0);
        assert_eq!((seconds(), len()), (1.0, 2 * RECORD as u64));
    }

    #[test]
    fn a_torn_or_damaged_cache_is_read_as_far_as_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        write_wav(&dir.path().join("a.wav"), 32_000);
        write_wav(&dir.path().join("b.wav"), 16_000);
        let rows = rows(dir.path(), "{\"audio\": \"a.wav\"}\n{\"audio\": \"b.wav\"}");
        let seconds = || -> Vec<f64> {
            check(&Headers::open(&cache), &rows, None)
                .into_iter()
                .map(|found| seconds_of(&found.unwrap()))
                .collect()
        };
        assert_eq!(seconds(), [2.0, 1.0]);
        let file = cache.join(FILE);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..RECORD + 7]).unwrap();
        assert_eq!((seconds(), seconds()), (vec![2.0, 1.0], vec![2.0, 1.0]));
        let mended = fs::read(&file).unwrap();
        assert_eq!(mended.len() % RECORD, 0);
        assert_eq!(Headers::open(&cache).known.into_inner().unwrap().len(), 2);
        let mut damaged = mended;
        damaged[18] ^= 1;
        fs::write(&file, damaged).unwrap();
        assert_eq!(
            seconds(),
            [2.0, 1.0],
            "a record that was damaged is not believed"
        );
    }

    #[test]
    fn equal_bytes_have_equal_prints_wherever_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for len in [0usize, 10, 4096, 9_001] {
            let mut bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            let print = print_of_file(&path, None).unwrap();
            assert_eq!(print, print_of_bytes(&bytes));
            if let Some(middle) = bytes.get_mut(len / 2) {
                *middle ^= 1;
                assert_ne!(print, print_of_bytes(&bytes));
            }
        }
    }
}
