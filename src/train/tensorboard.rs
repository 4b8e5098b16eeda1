//! TensorBoard's event file, derived from the lines of `log.jsonl`: made anew where a run starts or
//! resumes, so every step is there once.

use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::jsonl;
use crate::jsonl::LastLine;
use crate::records::log::AudioGapRecord;
use crate::records::log::EvalRecord;
use crate::records::log::GradientsRecord;
use crate::records::log::Line;
use crate::records::log::MixtureRecord;
use crate::records::log::ProbeRecord;
use crate::records::log::RoundRecord;
use crate::records::log::SelectionRecord;
use crate::records::log::StepRecord;
use crate::train::environment::Pace;

/// TensorBoard reads every file of a folder that has `tfevents` in its name.
const FILE: &str = "events.out.tfevents.maqam";

/// The event file of a run.
pub struct Events {
    file: AppendLog,
}

impl Events {
    /// Writes what the log holds already, and waits for more. Events that were written before keep
    /// their times.
    pub fn start(run: &Path, log: &Path) -> Result<Self> {
        let path: PathBuf = run.join(FILE);
        let before = std::fs::read(&path).unwrap_or_default();
        let mut written = written(&before).into_iter();
        let begun = written.next().map_or_else(now, |event| event.time);
        let mut bytes = record(&event(begun, 0, &[], Some("brain.Event:2")));
        if log.is_file() {
            jsonl::each_line(log, LastLine::Row, |_, line| {
                // The file is the log's lines in their order, so a record belongs to the line of
                // its place.
                let event = written.next();
                let time = event.as_ref().map_or_else(now, |event| event.time);
                let share = event.and_then(|event| event.waiting_share);
                bytes.extend(records_of(line, time, share)?);
                Ok(())
            })?;
        }
        files::write_atomic(&path, &bytes)?;
        Ok(Self {
            file: AppendLog::open(&path)?,
        })
    }

    /// Adds what a line of the log says, and of a step's line how long its data was waited for.
    pub fn line(&mut self, line: &str, pace: Option<Pace>) -> Result<()> {
        let share = pace.map(|pace| pace.waiting_share() as f32);
        self.file
            .append(&records_of(line.as_bytes(), now(), share)?)
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Name of the share of a step's time in which it waited for its data. The log does not hold it,
/// because it is another in every run.
const WAITING_SHARE: &str = "data/waiting_share";

/// The record of a line of the log, ready for the file.
fn records_of(line: &[u8], time: f64, waiting_share: Option<f32>) -> Result<Vec<u8>> {
    let line = Line::parse(line)?;
    let (step, mut scalars) = line.as_ref().map(scalars).unwrap_or_default();
    if matches!(line, Some(Line::Train(_))) {
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

/// Step and named numbers of a line of the log; step 0 and none of lines that have no curve.
fn scalars(line: &Line) -> (u64, Vec<(String, f32)>) {
    let (step, found) = match line {
        Line::Train(record) => (record.step, of_step(record)),
        Line::Eval(record) => (record.at_step, of_evaluation(record)),
        Line::Probe(record) => (record.at_step, of_probe(record)),
        Line::Mixture(record) => (record.at_step, of_mixture(record)),
        Line::Gradients(record) => (record.at_step, of_gradients(record)),
        Line::Selection(record) => (record.at_step, of_selection(record)),
        Line::AudioGap(record) => (record.at_step, of_audio_gap(record)),
        Line::Round(record) => (record.at_step, of_round(record)),
        Line::StageEnd(_) | Line::RollBack(_) | Line::Device(_) => (0, Vec::new()),
    };
    let finite = found.into_iter().filter(|(_, value)| value.is_finite());
    (
        step,
        finite.map(|(name, value)| (name, value as f32)).collect(),
    )
}

fn of_step(record: &StepRecord) -> Vec<(String, f64)> {
    let mut found = vec![
        ("train/loss".to_owned(), record.loss),
        ("train/grad_norm".to_owned(), record.grad_norm),
        ("train/learning_rate".to_owned(), record.learning_rate),
    ];
    let of_ctc = record.ctc.iter();
    found.extend(of_ctc.map(|ctc| ("train/ctc".to_owned(), ctc.loss)));
    found.extend(
        record
            .difficulty
            .map(|value| ("train/difficulty".to_owned(), value)),
    );
    let by_task = record.tasks.iter();
    found.extend(by_task.map(|(task, record)| (format!("train/{task}/loss"), record.loss)));
    found
}

fn of_evaluation(record: &EvalRecord) -> Vec<(String, f64)> {
    let stem = record
        .control
        .as_ref()
        .map_or("eval".to_owned(), |control| format!("eval-{control}"));
    let scores = record.scores.iter();
    scores
        .map(|(name, value)| (format!("{stem}/{name}"), *value))
        .collect()
}

fn of_round(record: &RoundRecord) -> Vec<(String, f64)> {
    let selection = record.selection.iter();
    let reported = record.reported.iter();
    selection
        .map(|(task, value)| (format!("msft/selection/{task}"), *value))
        .chain(reported.map(|(task, value)| (format!("msft/reported/{task}"), *value)))
        .collect()
}

fn of_probe(record: &ProbeRecord) -> Vec<(String, f64)> {
    let norms = record.norms.iter();
    let cosines = record.cosines.iter();
    norms
        .map(|(task, value)| (format!("probe/norms/{task}"), *value))
        .chain(cosines.map(|(pair, value)| (format!("probe/cosines/{pair}"), *value)))
        .collect()
}

fn of_mixture(record: &MixtureRecord) -> Vec<(String, f64)> {
    let weights = record.weights.iter();
    let rewards = record.rewards.iter();
    weights
        .map(|(task, value)| (format!("mixture/weights/{task}"), *value))
        .chain(rewards.map(|(task, value)| (format!("mixture/rewards/{task}"), *value)))
        .collect()
}

fn of_gradients(record: &GradientsRecord) -> Vec<(String, f64)> {
    let projected = record
        .conflicts
        .map(|[projected, _]| ("gradients/projections".to_owned(), projected as f64));
    let factors = record.factors.iter();
    factors
        .map(|(task, value)| (format!("gradients/factors/{task}"), *value))
        .chain(projected)
        .collect()
}

fn of_selection(record: &SelectionRecord) -> Vec<(String, f64)> {
    let named = [
        ("norm", record.norm),
        ("chosen_norm", record.chosen_norm),
        ("distance", record.distance),
        ("chosen_distance", record.chosen_distance),
    ];
    named
        .map(|(name, value)| (format!("selection/{name}"), value))
        .into()
}

fn of_audio_gap(record: &AudioGapRecord) -> Vec<(String, f64)> {
    let sets = record.sets.iter();
    let tasks = record.tasks.iter();
    tasks
        .map(|(task, found)| (format!("audio_gap/{task}"), found.gap))
        .chain(sets.map(|(set, found)| (format!("audio_gap-dev/{set}"), found.gap)))
        .collect()
}

/// TensorFlow's `Event` message with a `Summary` of simple values, in protocol-buffer encoding
/// (tensorflow/core/util/event.proto).
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

/// A TFRecord: length, its checksum, contents, theirs; checksums are CRC-32C, rotated and shifted
/// as TensorFlow masks them.
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
        let scalars = |line: &str| scalars(&Line::parse(line.as_bytes()).unwrap().unwrap());
        let line = r#"{"kind": "train", "step": 3, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.5, "tasks": {"asr": {"loss": 4.0}, "none": {"loss": null}}}"#;
        let named = |name: &str, value: f32| (name.to_owned(), value);
        let expected = vec![
            named("train/loss", 2.0),
            named("train/grad_norm", 1.0),
            named("train/learning_rate", 0.5),
            named("train/asr/loss", 4.0),
        ];
        assert_eq!(scalars(line), (3, expected));
        let line = r#"{"kind": "eval", "at_step": 6, "control": "no-audio", "scores": {"words.wer": 1.0}}"#;
        assert_eq!(
            scalars(line),
            (6, vec![named("eval-no-audio/words.wer", 1.0)])
        );
        let line = r#"{"kind": "probe", "at_step": 7, "stage": "s", "norms": {"asr": 2.0}, "cosines": {"asr|emotion": null, "asr|gist": 0.5}}"#;
        let expected = vec![
            named("probe/norms/asr", 2.0),
            named("probe/cosines/asr|gist", 0.5),
        ];
        assert_eq!(scalars(line), (7, expected));
        let line =
            r#"{"kind": "stage_end", "at_step": 7, "stage": "s", "reason": "no better score"}"#;
        assert_eq!(scalars(line), (0, Vec::new()));
    }
}
