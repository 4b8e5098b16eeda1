//! The built program at work in a folder of its own: what the end-to-end tests share.

#![allow(
    dead_code,
    reason = "each test program uses its own part of these helpers"
)]

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use candle_core::Device;
use candle_core::Tensor;
use serde_json::Value;
use serde_json::json;

/// The path a variable names, else the one of the build: tests run on other machines than the one
/// that built them.
fn named(variable: &str, built: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| built.into(), PathBuf::from)
}

/// Something that ships with the tests.
pub fn fixture(name: &str) -> PathBuf {
    named("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// The same as text, for a manifest or a recipe.
pub fn fixture_text(name: &str) -> String {
    fixture(name).to_str().unwrap().to_owned()
}

/// Result of a command.
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Fails the test unless the command succeeded.
    pub fn succeeds(self) -> Self {
        assert_eq!(
            self.code,
            Some(0),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails the test unless the command ended with this code and its message has all of `words`.
    /// Standard output must be empty.
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        for word in words {
            assert!(
                self.stderr.contains(word),
                "`{word}` is not in:\n{}",
                self.stderr
            );
        }
        assert_eq!(self.stdout, "", "what went wrong is no result");
        self
    }
}

/// A temporary folder to run commands in.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path
    }

    pub fn write_rows(&self, name: &str, rows: &[Value]) -> PathBuf {
        self.write(
            name,
            rows.iter()
                .map(|row| format!("{row}\n"))
                .collect::<String>(),
        )
    }

    /// The command, not yet started; it never reaches for a network.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(named("CARGO_BIN_EXE_maqam", env!("CARGO_BIN_EXE_maqam")));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", self.path("no-cache"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        outcome(self.command(arguments).output().unwrap())
    }

    pub fn text(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn lines(&self, name: &str) -> Vec<Value> {
        self.text(name)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    pub fn tensors(&self, name: &str) -> HashMap<String, Tensor> {
        candle_core::safetensors::load(self.path(name), &Device::Cpu).unwrap()
    }

    /// Copies the runs of another place, without the checkpoints of a run after a step.
    pub fn take_runs(&self, other: &Self, run: &str, step: u64) {
        let copied = Command::new("cp")
            .arg("-r")
            .args([other.path("runs"), self.path("")])
            .status();
        assert!(copied.unwrap().success());
        let checkpoints = self.path(&format!("runs/{run}/checkpoints"));
        for path in listed(&checkpoints) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let of = name.strip_prefix("step-").unwrap().parse::<u64>().unwrap();
            if of > step {
                std::fs::remove_dir_all(&path).unwrap();
            }
        }
    }

    /// Fails the test unless a folder has the files of the same folder in another place.
    pub fn assert_same_folder(&self, other: &Self, name: &str, when: &str) {
        let names = |place: &Self| -> Vec<PathBuf> {
            let files = listed(&place.path(name)).into_iter();
            files.map(|path| path.file_name().unwrap().into()).collect()
        };
        assert_eq!(names(self), names(other), "{name} {when}");
        for file in names(self) {
            let file = format!("{name}/{}", file.display());
            assert!(self.bytes(&file) == other.bytes(&file), "{file} {when}");
        }
    }

    /// Files of the cache of encoders' outputs, by name.
    pub fn encoded(&self) -> Vec<PathBuf> {
        let folders = listed(&self.path("runs/.encoded")).into_iter();
        folders.flat_map(|folder| listed(&folder)).collect()
    }

    /// Removes every `nth` file of that cache, the first included; none if it is 0.
    pub fn forget_encoded(&self, nth: usize) {
        let files = self.encoded();
        assert!(files.len() > 1, "{files:?}");
        for (i, file) in files.iter().enumerate() {
            if nth > 0 && i.is_multiple_of(nth) {
                std::fs::remove_file(file).unwrap();
            }
        }
    }

    /// A copy of a folder of the fixtures, its own folders left out.
    pub fn copy(&self, fixture_name: &str, name: &str) -> PathBuf {
        let target = self.path(name);
        std::fs::create_dir_all(&target).unwrap();
        for entry in std::fs::read_dir(fixture(fixture_name)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
            }
        }
        target
    }
}

/// What is in a folder, by name.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

pub fn outcome(output: std::process::Output) -> Outcome {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A row of one clip, one question, one answer, as ms-swift writes it.
pub fn row(id: &str, clip: &str, question: &str, answer: &str) -> Value {
    json!({
        "id": id,
        "messages": [{"role": "user", "content": format!("<audio>{question}")}, {"role": "assistant", "content": answer}],
        "audios": [fixture_text(&format!("audio/{clip}"))],
    })
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

pub fn assert_close(found: f64, expected: f64, relative: f64, what: &str) {
    assert!(
        (found - expected).abs() <= relative * expected.abs(),
        "{what}: {found}, expected {expected}"
    );
}

/// Largest absolute difference.
pub fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    flat(a)
        .iter()
        .zip(flat(b))
        .map(|(a, b)| {
            if a.is_nan() {
                f32::INFINITY
            } else {
                (a - b).abs()
            }
        })
        .fold(0.0, f32::max)
}

/// Asr rows over parts of one clip, with 12 lengths. No two subsets have the same sum, so the
/// seconds of a step identify its rows.
pub fn asr_rows() -> Vec<Value> {
    let said = [
        "مرحبا بكم",
        "في نشرة الأخبار",
        "افتتاح ثلاثة",
        "one two",
        "yes",
        "no",
    ];
    (0..12)
        .map(|i| {
            let end_s = 0.5 + 0.001 * f64::from(1 << i);
            json!({"id": format!("a{i}"), "audio": fixture_text("audio/a2.wav"), "start_s": 0.0, "end_s": end_s, "text": said[i % said.len()]})
        })
        .collect()
}

/// A FLAC file whose header is whole and whose frames are not: only decoding finds it.
pub fn damaged_flac() -> Vec<u8> {
    let mut bytes = std::fs::read(fixture("audio/formats/s16_16k.flac")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].iter_mut().for_each(|byte| *byte = 0x55);
    bytes
}

/// Emotion rows over parts of another clip.
pub fn emotion_rows() -> Vec<Value> {
    let labels = ["happy", "sad", "angry"];
    (0..6)
        .map(|i| {
            let start_s = 0.0625 * f64::from(i);
            json!({"id": format!("e{i}"), "audio": fixture_text("audio/odd.wav"), "start_s": start_s, "end_s": start_s + 0.75, "label": labels[i as usize % 3]})
        })
        .collect()
}

/// A recipe of two stages over both sets of rows, every part adapted, with dropout; `steps` in each
/// stage.
pub fn small_recipe(model: &str, steps: usize) -> String {
    format!(
        "\
name: small
model: {{path: {model}}}
train: {{audio_encoder: lora, projector: lora, decoder: lora}}
lora: {{rank: 4, alpha: 8, dropout: 0.1, targets: all-linear}}
data:
  - {{manifest: asr.jsonl, task: asr}}
  - {{manifest: emotion.jsonl, task: emotion}}
schedule:
  batch: 4
  stages:
    - {{name: listen, tasks: [asr], steps: {steps}}}
    - {{name: discern, tasks: all, mix: uniform, steps: {steps}}}
optimiser: {{learning_rate: 2e-3}}
checkpoint: {{every: 2, keep: 3}}
seed: 7
"
    )
}

/// A place with the small recipe and its rows.
pub fn small_run(steps: usize) -> Place {
    let place = Place::new();
    place.write_rows("asr.jsonl", &asr_rows());
    place.write_rows("emotion.jsonl", &emotion_rows());
    place.write(
        "recipe.yaml",
        small_recipe(&fixture_text("qwen_omni"), steps),
    );
    place
}
