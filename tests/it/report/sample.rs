//! A run folder made for a test, with names in it that would be markup if nothing escaped them.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;
use serde_json::json;

/// Names that would be markup if nothing escaped them.
pub const EVIL: &str = "</script><b a='1'>&\"x\" ]]> %_$#{}|*`";

/// Contents of a run folder.
pub struct Sample {
    pub steps: u64,
    pub tasks: Vec<String>,
    pub evaluations: Vec<u64>,
    pub has_probes: bool,
    /// Factor of every loss and norm.
    pub scale: f64,
    pub rows: usize,
    /// Every so many answers are wrong.
    pub wrong: usize,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            steps: 60,
            tasks: vec!["asr".into(), "emotion".into()],
            evaluations: vec![0, 30, 60],
            has_probes: true,
            scale: 1.0,
            rows: 12,
            wrong: 3,
        }
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
            let stage = if step <= self.steps / 3 {
                "listen"
            } else {
                EVIL
            };
            let loss = self.scale * (3.0 / (step as f64).sqrt() + 0.1);
            let task = |i: usize| json!({"examples": 2, "seconds": 3.5, "target_tokens": 5 + i, "loss": loss * (1.0 + i as f64)});
            let tasks: serde_json::Map<String, Value> = self
                .tasks
                .iter()
                .enumerate()
                .map(|(i, name)| (name.clone(), task(i)))
                .collect();
            let line = json!({"kind": "train", "step": step, "stage": stage, "loss": loss, "grad_norm": loss * (1.0 + (step % 3) as f64), "learning_rate": 1e-4,
                "examples": 4, "tokens": 50, "target_tokens": 11, "seconds": 7.0, "skipped": 0, "tasks": tasks});
            writeln!(log, "{line}").unwrap();
            if self.has_probes && step % 5 == 0 {
                let norms: serde_json::Map<String, Value> = self
                    .tasks
                    .iter()
                    .map(|task| (task.clone(), json!(loss)))
                    .collect();
                let pair = format!("{}|{}", self.tasks[0], self.tasks[self.tasks.len() - 1]);
                writeln!(
                    log,
                    "{}",
                    json!({"kind": "probe", "at_step": step, "stage": stage, "norms": norms, "cosines": {pair: 0.5 - step as f64 / self.steps as f64}})
                )
                .unwrap();
            }
            if self.has_probes && step % 10 == 0 {
                let gap = json!({"rows": 4, "target_tokens": 8, "loss": loss, "wrong_loss": 1.5 * loss, "gap": 0.5 * loss, "wins": 4});
                let tasks: serde_json::Map<String, Value> = self
                    .tasks
                    .iter()
                    .map(|task| (task.clone(), gap.clone()))
                    .collect();
                writeln!(
                    log,
                    "{}",
                    json!({"kind": "audio_gap", "at_step": step, "stage": stage, "tasks": tasks, "sets": {"words": gap}})
                )
                .unwrap();
            }
            if self.evaluations.contains(&step) {
                writeln!(
                    log,
                    "{}",
                    json!({"kind": "eval", "at_step": step, "scores": self.scores(step)})
                )
                .unwrap();
            }
        }
        writeln!(
            log,
            "{}",
            json!({"kind": "stage_end", "at_step": self.steps, "stage": EVIL, "reason": "planned"})
        )
        .unwrap();
        log
    }

    /// Interval between wrong answers after a step: all before training, every second one during
    /// it.
    fn wrong_after(&self, step: u64) -> usize {
        if step == self.steps {
            self.wrong
        } else {
            1 + usize::from(step > 0)
        }
    }

    /// Returns whether a row's answer is correct, and a wrong answer: none, or in row 5 the other
    /// label.
    fn mood(&self, i: usize, step: u64) -> (usize, Option<usize>) {
        let is_wrong = i.is_multiple_of(self.wrong_after(step));
        (i % 2, (!is_wrong).then_some((i + usize::from(i == 5)) % 2))
    }

    /// The scores, counted by hand: a wrong transcript has four wrong words of four.
    fn scores(&self, step: u64) -> Value {
        let done = step as f64 / self.steps.max(1) as f64;
        let wrong = (0..self.rows)
            .filter(|i| i.is_multiple_of(self.wrong_after(step)))
            .count() as f64;
        let of_label = |label: usize| {
            let rows = || (0..self.rows).map(|i| self.mood(i, step));
            let count =
                |is: &dyn Fn(&(usize, Option<usize>)) -> bool| rows().filter(is).count() as f64;
            let references = count(&|row| row.0 == label);
            let answers = count(&|row| row.1 == Some(label));
            let hits = count(&|row| *row == (label, Some(label)));
            (references > 0.0).then(|| (hits / references, 2.0 * hits / (references + answers)))
        };
        let found: Vec<(f64, f64)> = (0..2).filter_map(of_label).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| {
            found.iter().map(of).sum::<f64>() / found.len().max(1) as f64
        };
        json!({"words.loss": 2.0 - done, "words.wer": wrong / self.rows.max(1) as f64, "moods.uar": mean(|found| found.0), "moods.macro_f1": mean(|found| found.1), "mean": 0.1 + 0.7 * done})
    }

    /// The folder of an evaluation of a base and `tuned` models, with a control of each and, where
    /// there is one, a baseline.
    pub fn write_eval(&self, folder: &Path, tuned: &[&str], has_baseline: bool) {
        fs::create_dir_all(folder).unwrap();
        let suite =
            json!({"name": "first", "file": "eval/first.yaml", "role": "dev", "hash": "00ff"});
        fs::write(folder.join("suite.json"), suite.to_string()).unwrap();
        let write = |folder: &Path, step: u64, about: Value| {
            self.write_evaluation(folder, step);
            for file in ["controls.json", "instructions.json"] {
                let _ = fs::remove_file(folder.join(file));
            }
            let mut scores = self.scores(step);
            let of_slice = |score: f64, rows: u64| json!({"utterances": rows, "clusters": 2, "scores": {"loss": {"score": 1.0, "interval": null}, "wer": {"score": score, "interval": {"low": score - 0.1, "high": score + 0.1}}}});
            let mut wording = of_slice(0.5, 30);
            wording["instruction"] = json!("اكتب ما قيل <b>");
            let against = json!({"adjusted_p": 0.004, "is_better": true});
            let mut details = json!({"suite": suite, "scores": {"words.wer": {"score": 0.5, "interval": {"low": 0.25, "high": 0.75}, "against_base": against}},
                "labels": {"moods": {"labels": ["happy & sad", "angry"], "counts": []}}, "slices": {"words": {"wording": {"asr/dev/ar/1": wording, "asr/dev/ar/2": of_slice(0.25, 4)}}}});
            details
                .as_object_mut()
                .unwrap()
                .extend(about.as_object().unwrap().clone());
            scores["details"] = details;
            fs::write(folder.join("scores.json"), scores.to_string()).unwrap();
        };
        let model = |name: &str, adapter: Value, step: u64| {
            let about = json!({"system": name, "kind": "model", "control": null, "adapter": adapter, "model_hash": "abcdef"});
            write(&folder.join(name), step, about);
            let about = json!({"system": name, "kind": "control", "control": "shuffled-audio", "adapter": adapter, "model_hash": "abcdef"});
            write(&folder.join(name).join("shuffled-audio"), 0, about);
        };
        model("base", Value::Null, 0);
        tuned
            .iter()
            .for_each(|name| model(name, json!(format!("runs/{name}/best")), self.steps));
        if has_baseline {
            let about = json!({"system": "majority", "kind": "baseline", "notes": ["majority of moods: `angry`"]});
            write(&folder.join("majority"), 30, about);
            // It answers labels alone.
            fs::remove_file(folder.join("majority/words.jsonl")).unwrap();
            let path = folder.join("majority/scores.json");
            let mut scores: Value =
                serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            scores
                .as_object_mut()
                .unwrap()
                .retain(|name, _| !name.starts_with("words.") && name != "mean");
            fs::write(&path, scores.to_string()).unwrap();
        }
    }

    fn write_evaluation(&self, folder: &Path, step: u64) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("scores.json"), self.scores(step).to_string()).unwrap();
        let meta = |i: usize| json!({"speaker": if i.is_multiple_of(2) { "فادية" } else { "<omar>" }, "dialect": "EGY", "seconds": 1.0 + i as f64});
        let line = |row: Value, i: usize| {
            let mut row = row;
            let label = row["label"].take();
            (row["meta"], row["tokens"]) = (meta(i), json!([]));
            if label.is_string() {
                row["meta"]["label"] = label;
            }
            if i == 1 {
                row["hit_limit"] = json!(true);
            }
            row.to_string() + "\n"
        };
        let said = "صباح الخير يا <b>";
        let word = |i: usize| {
            let prediction = if i.is_multiple_of(self.wrong_after(step)) {
                EVIL
            } else {
                said
            };
            line(
                json!({"id": format!("w{i}"), "task": self.tasks[0], "reference": said, "prediction": prediction, "answer": null}),
                i,
            )
        };
        let labels = ["angry", "happy & sad"];
        let mood = |i: usize| {
            let (label, answer) = self.mood(i, step);
            let task = &self.tasks[self.tasks.len() - 1];
            let label = labels[label];
            line(
                json!({"id": format!("m{i}"), "task": task, "label": label, "reference": label, "prediction": label, "answer": answer.map(|answer| labels[answer])}),
                i,
            )
        };
        fs::write(
            folder.join("words.jsonl"),
            (0..self.rows).map(word).collect::<String>(),
        )
        .unwrap();
        fs::write(
            folder.join("moods.jsonl"),
            (0..self.rows).map(mood).collect::<String>(),
        )
        .unwrap();
        if step == self.steps {
            fs::write(
                folder.join("controls.json"),
                json!({"no-audio": {"words.wer": 1.1, "moods.uar": 0.25}}).to_string(),
            )
            .unwrap();
            let rates = |strict: f64| json!({"prompts": 9, "instructions": 9, "prompt_strict": strict, "prompt_loose": 1.0});
            let of = |strict: f64| json!({"all": rates(strict), "kinds": {"at most 5 words <&>": rates(strict)}, "checks": {}, "rows": []});
            let mut instructions = of(0.5);
            instructions["base"] = of(0.25);
            fs::write(folder.join("instructions.json"), instructions.to_string()).unwrap();
        }
    }
}
