//! A run folder made for a test, with names in it that would be markup if nothing escaped them.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;
use serde_json::json;

/// Names that would be markup if nothing escaped them.
pub const EVIL: &str = "</script><b a='1'>&\"x\" ]]> %_$#{}|*`";

/// What a run folder is made of.
pub struct Sample {
    pub steps: u64,
    pub tasks: Vec<String>,
    pub evaluations: Vec<u64>,
    pub has_probes: bool,
    /// What every loss and norm is multiplied by.
    pub scale: f64,
    pub rows: usize,
    /// Every so many answers are wrong.
    pub wrong: usize,
}

impl Default for Sample {
    fn default() -> Self {
        Self { steps: 60, tasks: vec!["asr".into(), "emotion".into()], evaluations: vec![0, 30, 60], has_probes: true, scale: 1.0, rows: 12, wrong: 3 }
    }
}

impl Sample {
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder.join("eval")).unwrap();
        let recipe = "name: sample\nmodel: {path: base}\ntrain: {audio_encoder: frozen, projector: lora, decoder: lora}\nlora: {rank: 8, alpha: 16, targets: attention}\nschedule:\n  batch: 4\n  stages:\n  - {name: listen, steps: 20}\noptimiser: {learning_rate: 0.001, schedule: cosine}\nseed: 7\n";
        fs::write(folder.join("recipe.yaml"), recipe).unwrap();
        fs::write(folder.join("log.jsonl"), self.log()).unwrap();
        for &step in &self.evaluations {
            self.write_evaluation(&folder.join(format!("eval/step-{step:06}")), step);
        }
    }

    fn log(&self) -> String {
        let mut log = String::new();
        for step in 1..=self.steps {
            let stage = if step <= self.steps / 3 { "listen" } else { EVIL };
            let loss = self.scale * (3.0 / (step as f64).sqrt() + 0.1);
            let task = |i: usize| json!({"examples": 2, "seconds": 3.5, "target_tokens": 5 + i, "loss": loss * (1.0 + i as f64)});
            let tasks: serde_json::Map<String, Value> = self.tasks.iter().enumerate().map(|(i, name)| (name.clone(), task(i))).collect();
            let line = json!({"kind": "train", "step": step, "stage": stage, "loss": loss, "grad_norm": loss * (1.0 + (step % 3) as f64), "learning_rate": 1e-4,
                "examples": 4, "tokens": 50, "target_tokens": 11, "seconds": 7.0, "skipped": 0, "tasks": tasks});
            writeln!(log, "{line}").unwrap();
            if self.has_probes && step % 5 == 0 {
                let norms: serde_json::Map<String, Value> = self.tasks.iter().map(|task| (task.clone(), json!(loss))).collect();
                let pair = format!("{}|{}", self.tasks[0], self.tasks[self.tasks.len() - 1]);
                writeln!(
                    log,
                    "{}",
                    json!({"kind": "probe", "at_step": step, "stage": stage, "norms": norms, "cosines": {pair: 0.5 - step as f64 / self.steps as f64}})
                )
                .unwrap();
            }
            if self.evaluations.contains(&step) {
                writeln!(log, "{}", json!({"kind": "eval", "at_step": step, "scores": self.scores(step)})).unwrap();
            }
        }
        writeln!(log, "{}", json!({"kind": "stage_end", "at_step": self.steps, "stage": EVIL, "reason": "planned"})).unwrap();
        log
    }

    fn scores(&self, step: u64) -> Value {
        let done = step as f64 / self.steps.max(1) as f64;
        json!({"words.loss": 2.0 - done, "words.wer": 1.2 - done, "moods.uar": 0.2 + 0.7 * done, "moods.macro_f1": 0.1 + 0.7 * done, "mean": 0.1 + 0.7 * done})
    }

    fn write_evaluation(&self, folder: &Path, step: u64) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("scores.json"), self.scores(step).to_string()).unwrap();
        let is_wrong = |i: usize| i % self.wrong == 0;
        let meta = |i: usize| json!({"speaker": if i % 2 == 0 { "فادية" } else { "<omar>" }, "dialect": "EGY", "seconds": 1.0 + i as f64, "hit_limit": i == 1});
        let labels = ["angry", "happy & sad"];
        let word = |i: usize| json!({"id": format!("w{i}"), "task": self.tasks[0], "reference": "صباح الخير يا <b>", "prediction": if is_wrong(i) { EVIL } else { "صباح الخير يا <b>" }, "answer": null, "tokens": [], "meta": meta(i)});
        let mood = |i: usize| {
            let label = labels[i % 2];
            let answer = if is_wrong(i) { Value::Null } else { json!(labels[(i + usize::from(i == 5)) % 2]) };
            json!({"id": format!("m{i}"), "task": self.tasks[self.tasks.len() - 1], "reference": label, "prediction": label, "answer": answer, "tokens": [], "meta": meta(i)})
        };
        let lines = |row: &dyn Fn(usize) -> Value| (0..self.rows).map(|i| row(i).to_string() + "\n").collect::<String>();
        fs::write(folder.join("words.jsonl"), lines(&word)).unwrap();
        fs::write(folder.join("moods.jsonl"), lines(&mood)).unwrap();
        if step == self.steps {
            fs::write(folder.join("controls.json"), json!({"no-audio": {"words.wer": 1.1, "moods.uar": 0.25}}).to_string()).unwrap();
            let rows = json!([{"kind": "at most 5 words <&>", "count": 9, "model": {"strict": 0.5, "loose": 1.0}, "base": {"strict": 0.25, "loose": 0.5}}]);
            fs::write(folder.join("instructions.json"), json!({"rows": rows}).to_string()).unwrap();
        }
    }
}
