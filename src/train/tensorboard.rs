//! TensorBoard's event file, derived from the lines of `log.jsonl`: made anew where a run starts or resumes, so every step is there once.

use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::files::Lines;
use crate::train::environment::Pace;

/// TensorBoard reads every file of a folder that has `tfevents` in its name.
const FILE: &str = "events.out.tfevents.maqam";

/// The event file of a run.
pub struct Events {
    file: AppendLog,
}

impl Events {
    /// Writes what the log holds already, and waits for more. Events that were written before keep their times.
    pub fn start(run: &Path, log: &Path) -> Result<Self> {
        let path: PathBuf = run.join(FILE);
        let before = std::fs::read(&path).unwrap_or_default();
        let mut written = written(&before).into_iter();
        let begun = written.next().map_or_else(now, |event| event.time);
        let mut bytes = record(&event(begun, 0, &[], Some("brain.Event:2")));
        if log.is_file() {
            let mut lines = Lines::open(log)?;
            while let Some((_, line)) = lines.next_line()? {
                // The file is the log's lines in their order, so a record belongs to the line of its place.
                let event = written.next();
                let time = event.as_ref().map_or_else(now, |event| event.time);
                let share = event.and_then(|event| event.waiting_share);
                bytes.extend(records_of(&String::from_utf8_lossy(line), time, share)?);
            }
        }
        files::write_atomic(&path, &bytes)?;
        Ok(Self {
            file: AppendLog::open(&path)?,
        })
    }

    /// Adds what a line of the log says, and of a step's line how long its data was waited for.
    pub fn line(&mut self, line: &str, pace: Option<Pace>) -> Result<()> {
        let share = pace.map(|pace| pace.waiting_share() as f32);
        self.file.append(&records_of(line, now(), share)?)
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Name of the share of a step's time in which it waited for its data. The log does not hold it, because it is another in every run.
const WAITING_SHARE: &str = "data/waiting_share";

/// The record of a line of the log, ready for the file.
fn records_of(line: &str, time: f64, waiting_share: Option<f32>) -> Result<Vec<u8>> {
    let line: Value = serde_json::from_str(line).map_err(Error::bug_from)?;
    let (step, mut scalars) = scalars(&line);
    if line["kind"] == "train" {
        scalars.extend(waiting_share.map(|share| (WAITING_SHARE.to_owned(), share)));
    }
    Ok(record(&event(time, step, &scalars, None)))
}

/// Part of a record that was written before.
struct Written {
    time: f64,
    waiting_share: Option<f32>,
}

impl Written {
    fn new(time: f64, contents: &[u8]) -> Self {
        // The value follows its tag: field 2 of four bytes.
        let mut tag = Vec::new();
        block(&mut tag, 0x0a, WAITING_SHARE.as_bytes());
        tag.push(0x15);
        let at = contents.windows(tag.len()).position(|part| part == tag);
        let value = at.and_then(|at| contents[at + tag.len()..].first_chunk());
        Self {
            time,
            waiting_share: value.map(|value| f32::from_le_bytes(*value)),
        }
    }
}

/// The records of an event file, up to the first that is damaged.
fn written(mut bytes: &[u8]) -> Vec<Written> {
    /// Bytes of a length and its checksum, and of the checksum of the contents.
    const HEAD: usize = 12;
    const TAIL: usize = 4;
    let mut found = Vec::new();
    while let Some(length) = bytes.first_chunk::<8>() {
        let length = u64::from_le_bytes(*length);
        let whole = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(HEAD + TAIL))
            .filter(|whole| *whole <= bytes.len());
        let Some(whole) = whole else { break };
        let contents = &bytes[HEAD..whole - TAIL];
        let time = contents
            .strip_prefix(&[0x09])
            .and_then(|rest| rest.first_chunk());
        let Some(time) = time.filter(|_| record(contents) == bytes[..whole]) else {
            break;
        };
        found.push(Written::new(f64::from_le_bytes(*time), contents));
        bytes = &bytes[whole..];
    }
    found
}

/// Step and named numbers of a line of the log.
fn scalars(line: &Value) -> (u64, Vec<(String, f32)>) {
    let number = |value: &Value| value.as_f64().map(|value| value as f32);

    if line["kind"] == "eval" {
        let stem = line["control"]
            .as_str()
            .map_or("eval".to_owned(), |control| format!("eval-{control}"));
        let scores = line["scores"].as_object().into_iter().flatten();
        return (
            line["at_step"].as_u64().unwrap_or(0),
            scores
                .filter_map(|(name, value)| Some((format!("{stem}/{name}"), number(value)?)))
                .collect(),
        );
    }

    if line["kind"] == "probe" {
        let of = |name: &'static str| {
            line[name]
                .as_object()
                .into_iter()
                .flatten()
                .map(move |(of, value)| (format!("probe/{name}/{of}"), value))
        };
        return (
            line["at_step"].as_u64().unwrap_or(0),
            of("norms")
                .chain(of("cosines"))
                .filter_map(|(name, value)| Some((name, number(value)?)))
                .collect(),
        );
    }

    let whole = ["loss", "grad_norm", "learning_rate"]
        .into_iter()
        .filter_map(|name| Some((format!("train/{name}"), number(&line[name])?)));
    let tasks = line["tasks"].as_object().into_iter().flatten();
    let by_task = tasks.filter_map(|(task, record)| {
        Some((format!("train/{task}/loss"), number(&record["loss"])?))
    });
    (
        line["step"].as_u64().unwrap_or(0),
        whole.chain(by_task).collect(),
    )
}

/// TensorFlow's `Event` message with a `Summary` of simple values, in protocol-buffer encoding (tensorflow/core/util/event.proto).
fn event(
    wall_time: f64,
    step: u64,
    scalars: &[(String, f32)],
    file_version: Option<&str>,
) -> Vec<u8> {
    let mut bytes = vec![0x09];
    bytes.extend(wall_time.to_le_bytes());
    if step > 0 {
        bytes.push(0x10);
        varint(&mut bytes, step);
    }
    if let Some(version) = file_version {
        block(&mut bytes, 0x1a, version.as_bytes());
        return bytes;
    }
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut of_value = Vec::new();
        block(&mut of_value, 0x0a, tag.as_bytes());
        of_value.push(0x15);
        of_value.extend(value.to_le_bytes());
        block(&mut summary, 0x0a, &of_value);
    }
    block(&mut bytes, 0x2a, &summary);
    bytes
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A field of bytes with its length in front.
fn block(bytes: &mut Vec<u8>, field: u8, contents: &[u8]) {
    bytes.push(field);
    varint(bytes, contents.len() as u64);
    bytes.extend(contents);
}

/// A TFRecord: length, its checksum, contents, theirs; checksums are CRC-32C, rotated and shifted as TensorFlow masks them.
fn record(contents: &[u8]) -> Vec<u8> {
    let length = (contents.len() as u64).to_le_bytes();
    [
        &length[..],
        &checksum(&length),
        contents,
        &checksum(contents),
    ]
    .concat()
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn records_are_tensorboards_own_byte_for_byte() {
        // Written by the tensorboard package: `tests/reference/tensorboard_records.py`.
        let golden = include_str!("../../tests/fixtures/tensorboard_records.txt");
        let scalars = [
            ("train/loss".to_owned(), 1.5),
            ("eval/words.wer".to_owned(), 0.25),
        ];
        let found = [
            record(&event(1.7e9, 0, &[], Some("brain.Event:2"))),
            record(&event(1.7e9 + 0.5, 300, &scalars, None)),
        ];
        assert_eq!(
            found.map(|bytes| hex(&bytes)).to_vec(),
            golden.lines().collect::<Vec<_>>()
        );
    }

    #[test]
    fn events_keep_their_times_when_a_run_resumes() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.jsonl");
        let line = |step: u64| format!("{{\"kind\":\"train\",\"step\":{step},\"loss\":1.5}}\n");
        std::fs::write(&log, line(1) + &line(2)).unwrap();
        let path = dir.path().join(FILE);
        let scalars = [
            ("train/loss".to_owned(), 1.5),
            (WAITING_SHARE.to_owned(), 0.25),
        ];
        let step = |step: u64, time: f64| record(&event(time, step, &scalars, None));
        let version = record(&event(100.0, 0, &[], Some("brain.Event:2")));
        // Four steps were written, of which the log keeps two; then one with a damaged end.
        let old = [step(1, 101.0), step(2, 102.0), step(3, 103.0)].concat();
        std::fs::write(
            &path,
            [version.as_slice(), &old, &step(4, 104.0)[..20]].concat(),
        )
        .unwrap();
        Events::start(dir.path(), &log).unwrap();
        let expected = [version, step(1, 101.0), step(2, 102.0)].concat();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        // A file that cannot be read is made anew.
        std::fs::write(&path, "nothing of the kind").unwrap();
        Events::start(dir.path(), &log).unwrap();
        assert_eq!(written(&std::fs::read(&path).unwrap()).len(), 3);
    }

    #[test]
    fn a_line_of_the_log_becomes_named_numbers() {
        let line = serde_json::json!({"kind": "train", "step": 3, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.5, "tasks": {"asr": {"loss": 4.0}}});
        let named = |name: &str, value: f32| (name.to_owned(), value);
        let expected = vec![
            named("train/loss", 2.0),
            named("train/grad_norm", 1.0),
            named("train/learning_rate", 0.5),
            named("train/asr/loss", 4.0),
        ];
        assert_eq!(scalars(&line), (3, expected));
        let line = serde_json::json!({"kind": "eval", "at_step": 6, "control": "no-audio", "scores": {"words.wer": 1.0}});
        assert_eq!(
            scalars(&line),
            (6, vec![named("eval-no-audio/words.wer", 1.0)])
        );
    }
}
