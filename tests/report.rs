//! Reports and comparisons of run folders made here: well-formed, finite, without overlaps, whatever the runs hold.

#[path = "report/xml.rs"]
mod xml;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use maqam::error::Result;
use maqam::report;
use maqam::report::compare;
use maqam::report::metric::Metric;
use maqam::report::page::Page;
use maqam::report::predictions::Prediction;
use maqam::report::read::Run;
use maqam::report::rescore;
use maqam::report::uncertainty::Difference;
use maqam::report::uncertainty::Interval;
use maqam::report::uncertainty::Uncertainty;
use maqam::report::uncertainty::Unknown;
use serde_json::Value;
use serde_json::json;
use xml::Element;

/// Names that would be markup if nothing escaped them.
const EVIL: &str = "</script><b a='1'>&\"x\" ]]> %_$#{}|*`";

/// What a run folder is made of.
struct Sample {
    steps: u64,
    tasks: Vec<String>,
    evaluations: Vec<u64>,
    has_probes: bool,
    /// What every loss and norm is multiplied by.
    scale: f64,
    rows: usize,
    /// Every so many answers are wrong.
    wrong: usize,
}

impl Default for Sample {
    fn default() -> Self {
        Self { steps: 60, tasks: vec!["asr".into(), "emotion".into()], evaluations: vec![0, 30, 60], has_probes: true, scale: 1.0, rows: 12, wrong: 3 }
    }
}

impl Sample {
    fn write(&self, folder: &Path) {
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

/// A folder that goes away with the test.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn silent(_: &Run, _: &str, _: &str) -> Result<Option<String>> {
    Ok(None)
}

/// The report of a sample.
fn report_of(sample: &Sample) -> Page {
    let dir = folder();
    sample.write(&dir.path().join("run"));
    report::page(&[Run::read(&dir.path().join("run")).unwrap()], &Unknown, &silent).unwrap()
}

/// Everything that must hold of any page; returns its elements.
fn check(page: &Page) -> Vec<Element> {
    let html = page.html();
    let elements = xml::read(&html);
    for figure in page.figures() {
        let file = xml::read(&figure.file());
        assert!(!figure.file().contains("var("), "a file has no style sheet to look colours up in");
        check_pictures(&file);
    }
    check_pictures(&elements);
    let mut ids = BTreeSet::new();
    elements.iter().filter_map(|element| element.get("id")).for_each(|id| assert!(ids.insert(id), "the id {id} comes twice"));
    for element in &elements {
        if let Some(address) = element.get("href").and_then(|address| address.strip_prefix('#')) {
            assert!(ids.contains(address), "#{address} leads nowhere");
        }
        let addresses = ["src", "href"].into_iter().filter_map(|name| element.get(name));
        assert!(addresses.into_iter().all(|address| !address.contains("//") && !address.starts_with("http")), "{element:?} asks the network");
    }
    let style = &elements.iter().find(|element| element.name == "style").unwrap().text;
    assert!(!style.contains("url(") && !style.contains("@import") && style.contains("prefers-color-scheme:dark") && style.contains("@media print"));
    for used in html.split("var(--").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(style.contains(&format!("--{used}:")), "the colour {used} is nowhere said");
    }
    for table in page.tables() {
        check_table(&table.markdown(), &table.latex());
    }
    elements
}

/// Places and sizes are finite, and no text covers another.
fn check_pictures(elements: &[Element]) {
    let mut boxes: Vec<(usize, usize, [f64; 4], &str)> = Vec::new();
    let mut depth = Vec::new();
    for (place, element) in elements.iter().enumerate().filter(|(_, element)| element.name == "svg" || element.is_in("svg")) {
        for name in ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "font-size"] {
            if let Some(value) = element.get(name).filter(|value| !value.ends_with('%')) {
                assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{name}=\"{value}\"");
            }
        }
        if element.name == "svg" {
            depth.push(place);
        }
        let numbers = element.get("d").unwrap_or_default();
        assert!(!numbers.contains("NaN") && !numbers.contains("inf") && !element.text.contains("NaN") && !element.text.contains("inf"), "{element:?}");
        if element.name == "text" && element.get("transform").is_none() && !element.text.is_empty() {
            boxes.push((element.picture, *depth.last().unwrap(), text_box(element), &element.text));
        }
    }
    for (i, (picture, svg, a, text)) in boxes.iter().enumerate() {
        for (other_picture, other_svg, b, other) in &boxes[..i] {
            let overlaps = a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
            assert!(!(overlaps && picture == other_picture && svg == other_svg), "`{text}` {a:?} and `{other}` {b:?} cover each other");
        }
    }
}

/// The ink of a text, estimated on the small side: half an em a letter, two thirds of its height.
fn text_box(element: &Element) -> [f64; 4] {
    let (x, y, size) = (element.number("x"), element.number("y"), element.number("font-size"));
    let width = 0.5 * size * element.text.chars().count() as f64;
    let left = match element.get("text-anchor") {
        Some("end") => x - width,
        Some("middle") => x - width / 2.0,
        _ => x,
    };
    [left, y - 0.67 * size, left + width, y]
}

/// Every row has as many cells as the head, and LaTeX's braces close.
fn check_table(markdown: &str, latex: &str) {
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let lines: Vec<&str> = markdown.lines().collect();
    assert!(lines.iter().all(|line| cells(line) == cells(lines[0])), "{markdown}");
    let ends: Vec<usize> = latex.lines().filter(|line| line.ends_with(" \\\\")).map(|line| line.replace("\\&", "").matches('&').count()).collect();
    assert!(!ends.is_empty() && ends.iter().all(|count| *count == ends[0]), "{latex}");
    let (mut depth, mut is_escaped) = (0i32, false);
    for c in latex.chars() {
        match c {
            '{' if !is_escaped => depth += 1,
            '}' if !is_escaped => depth -= 1,
            _ => {}
        }
        assert!(depth >= 0, "{latex}");
        is_escaped = c == '\\' && !is_escaped;
    }
    assert_eq!(depth, 0, "{latex}");
}

fn titles(page: &Page) -> Vec<&str> {
    page.sections.iter().filter(|section| !section.blocks.is_empty()).map(|section| section.title.as_str()).collect()
}

fn says(page: &Page, text: &str) -> bool {
    page.html().contains(text)
}

#[test]
fn a_run_is_shown_whole_and_nothing_in_it_is_markup() {
    let mut sample = Sample::default();
    sample.tasks[1] = EVIL.replace('|', "");
    let page = report_of(&sample);
    let elements = check(&page);
    assert_eq!(titles(&page), ["Scores", "Learning curves", "What it saw", "Gradients", "Answers", "Slices", "Worst utterances", "Recipe"]);
    let ids: Vec<&str> = page.figures().iter().map(|figure| figure.id.as_str()).collect();
    let expected =
        ["scores-bars", "training-loss", "scores-by-step", "learning-rate", "stages", "shares", "gradient-norms", "cosines-by-step", "cosines-by-stage"];
    assert_eq!(ids[..9], expected);
    assert_eq!(ids[9..], ["confusions", "failures"]);
    let shown = |text: &str| elements.iter().any(|element| element.text.trim() == text);
    assert!(shown("7.0 min") && shown("of audio") && shown("240") && shown("660"), "60 steps of 7 s, 4 examples and 11 target tokens");
    assert!(elements.iter().filter(|element| element.name == "script").count() == 1, "no answer became a script");
    assert!(shown("at most 5 words <&>") && says(&page, "projector lora, decoder lora"));
    assert!(elements.iter().any(|element| element.get("dir") == Some("auto") && element.get("class") == Some("alignment")));
    // 4 of 12 rows are wrong, and the one of the other label.
    let unparsed: Vec<&Element> = elements.iter().filter(|element| element.text.contains("→ unparsed: ")).collect();
    assert_eq!(unparsed.iter().map(|element| element.text.as_str()).collect::<Vec<_>>(), ["angry → unparsed: 2 33 %", "happy & sad → unparsed: 2 33 %"]);
}

#[test]
fn what_is_missing_is_left_out() {
    let dir = folder();
    let run = dir.path().join("run");
    Sample { has_probes: false, ..Sample::default() }.write(&run);
    let read = || report::page(&[Run::read(&run).unwrap()], &Unknown, &silent).unwrap();
    assert!(!read().figures().iter().any(|figure| figure.id.starts_with("cosines")));
    fs::remove_file(run.join("recipe.yaml")).unwrap();
    assert!(!titles(&read()).contains(&"Recipe"));
    for step in [0, 30, 60] {
        fs::remove_file(run.join(format!("eval/step-{step:06}/words.jsonl"))).unwrap();
        fs::remove_file(run.join(format!("eval/step-{step:06}/moods.jsonl"))).unwrap();
    }
    let page = read();
    check(&page);
    assert_eq!(titles(&page), ["Scores", "Learning curves", "What it saw", "Gradients", "Answers"], "the instructions are still there");
    fs::remove_dir_all(run.join("eval")).unwrap();
    let page = read();
    check(&page);
    assert_eq!(page.figures().iter().filter(|figure| figure.id == "scores-by-step").count(), 1, "the log has scores too");
    fs::write(run.join("log.jsonl"), "").unwrap();
    assert!(titles(&read()).is_empty());
    fs::remove_file(run.join("log.jsonl")).unwrap();
    let error = Run::read(&run).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("neither `log.jsonl` nor scores"), "{error}");
}

#[test]
fn odd_runs_are_shown_as_well() {
    let odd = [
        Sample { steps: 1, evaluations: vec![1], ..Sample::default() },
        Sample { steps: 1, evaluations: vec![], has_probes: false, ..Sample::default() },
        Sample { rows: 0, ..Sample::default() },
        Sample { rows: 1, wrong: 1, ..Sample::default() },
        Sample { scale: 1e300, ..Sample::default() },
        Sample { scale: 1e-300, ..Sample::default() },
        Sample { scale: 0.0, ..Sample::default() },
        Sample { tasks: vec!["مهمة لها اسم طويل جدا لا يتسع له المكان أبدا".into()], ..Sample::default() },
        Sample { tasks: (0..20).map(|i| format!("task-with-a-name-{i}")).collect(), ..Sample::default() },
    ];
    for sample in &odd {
        check(&report_of(sample));
    }
}

#[test]
fn a_loss_that_is_no_number_is_a_gap() {
    let dir = folder();
    let run = dir.path().join("run");
    Sample::default().write(&run);
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let without: String = log
        .lines()
        .map(|line| if line.contains("\"step\":30,") { line.replace("\"loss\":", "\"loss\":null,\"was\":") } else { line.to_owned() } + "\n")
        .collect();
    fs::write(run.join("log.jsonl"), &without).unwrap();
    assert!(without.contains("null"));
    check(&report::page(&[Run::read(&run).unwrap()], &Unknown, &silent).unwrap());
}

#[test]
fn what_is_broken_is_named() {
    let dir = folder();
    let run = dir.path().join("run");
    let broken = [
        ("log.jsonl", "{\"kind\":\"train\",\"step\":1,\"stage\":\"a\"}\n{\"kind\":\"train\"", "log.jsonl:2: not a line of a log"),
        ("recipe.yaml", "a: [1\n", "recipe.yaml:2"),
        ("eval/step-000060/scores.json", "{", "scores.json: not a JSON object"),
        ("eval/step-000060/words.jsonl", "{\"id\": 1}", "words.jsonl:1: not a prediction"),
        ("eval/step-000030/words.jsonl", "nothing", "words.jsonl:1: not a prediction"),
        ("eval/step-000060/instructions.json", "[]", "instructions.json: not a table of instructions"),
    ];
    for (file, text, expected) in broken {
        Sample::default().write(&run);
        fs::write(run.join(file), text).unwrap();
        let error = Run::read(&run).and_then(|run| report::page(&[run], &Unknown, &silent)).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(expected), "{file}: {error}");
    }
}

#[test]
fn a_long_log_makes_a_small_page() {
    let page = report_of(&Sample { steps: 40_000, evaluations: vec![], ..Sample::default() });
    // Two thousand points a curve at most: some fifteen bytes each, on ten curves at two widths.
    assert!(page.html().len() < 1_500_000, "{} bytes", page.html().len());
    check(&page);
}

/// Runs beside each other, each with its own share of wrong answers.
fn runs(dir: &Path, count: usize) -> Vec<Run> {
    let folders: Vec<PathBuf> = (0..count).map(|i| dir.join(format!("run-{i}"))).collect();
    for (i, folder) in folders.iter().enumerate() {
        Sample { wrong: 2 + i, ..Sample::default() }.write(folder);
        let recipe = fs::read_to_string(folder.join("recipe.yaml")).unwrap();
        fs::write(folder.join("recipe.yaml"), recipe.replace("seed: 7", &format!("seed: {i}"))).unwrap();
        let scores = folder.join("eval/step-000060/scores.json");
        fs::write(&scores, fs::read_to_string(&scores).unwrap().replace("\"words.wer\":", &format!("\"words.wer\":{},\"words.other\":", 0.5 / (i + 1) as f64)))
            .unwrap();
    }
    folders.iter().map(|folder| Run::read(folder).unwrap()).collect()
}

/// Intervals and tests that are easily recognised.
struct Plugged;

impl Uncertainty for Plugged {
    fn method(&self) -> Option<String> {
        Some("Intervals by ruler & compass.".to_owned())
    }

    fn interval(&self, metric: &Metric, rows: &[Prediction]) -> Result<Option<Interval>> {
        assert_eq!(rows.len(), 12);
        Ok((metric.name == "wer").then_some(Interval { low: 0.111, high: 0.222 }))
    }

    fn difference(&self, metric: &Metric, first: &[Prediction], second: &[Prediction]) -> Result<Option<Difference>> {
        assert!(first.iter().zip(second).all(|(a, b)| a.id == b.id), "rows come in one order");
        assert!(rescore::score(metric, &first.iter().collect::<Vec<_>>()).is_some() || metric.name == "loss" || metric.name == "other");
        Ok((metric.name == "wer").then_some(Difference { interval: None, p: Some(0.004) }))
    }
}

#[test]
fn runs_are_compared_with_the_first() {
    let dir = folder();
    let mut runs = runs(dir.path(), 3);
    // The order of rows is no difference.
    let words = dir.path().join("run-1/eval/step-000060/words.jsonl");
    let turned: Vec<String> = fs::read_to_string(&words).unwrap().lines().rev().map(str::to_owned).collect();
    fs::write(&words, turned.join("\n")).unwrap();
    let page = compare::page(&runs, &Plugged, true).unwrap();
    check(&page);
    let html = page.html();
    assert!(html.contains("Intervals by ruler &amp; compass.") && html.contains("[11.1, 22.2]"));
    assert!(html.contains("<span class=\"better\">−25.0**</span>") && html.contains("25.0 **"), "from 50 % to 25 %, in the table and beside its bar");
    assert!(!compare::page(&runs, &Plugged, false).unwrap().html().contains("**"));
    let written = compare::write(&page, &dir.path().join("out")).unwrap();
    assert_eq!(fs::read_to_string(written).unwrap(), html);
    let names: BTreeSet<String> = fs::read_dir(dir.path().join("out")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let expected = [
        "recipes.md",
        "recipes.tex",
        "report.html",
        "runs.md",
        "runs.tex",
        "scores-bars.svg",
        "scores-by-step.svg",
        "scores.md",
        "scores.tex",
        "training-loss.svg",
    ];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert!(fs::read_to_string(dir.path().join("out/recipes.md")).unwrap().contains("| `seed` | `0` | `1` | `2` |"));
    runs.truncate(1);
    assert!(compare::page(&runs, &Unknown, false).unwrap_err().to_string().contains("1 run, and a comparison needs two"));
}

#[test]
fn a_dozen_runs_are_compared_and_reported() {
    let dir = folder();
    let runs = runs(dir.path(), 12);
    let page = compare::page(&runs, &Plugged, true).unwrap();
    check(&page);
    assert!(says(&page, "12 runs") && says(&page, "run-11"));
    check(&report::page(&runs, &Unknown, &silent).unwrap());
}

#[test]
fn runs_judged_on_other_rows_are_not_compared() {
    let cases: [(&str, &dyn Fn(String) -> String, &str); 4] = [
        ("words.jsonl", &|text| text.replace("\"w3\"", "\"w99\""), "set `words`: the row `w3` is in run-0 and not in run-1 (12 rows in run-0, 12 in run-1)"),
        (
            "words.jsonl",
            &|text| text.lines().skip(2).map(|line| format!("{line}\n")).collect(),
            "the row `w0` is in run-0 and not in run-1 (12 rows in run-0, 10 in run-1)",
        ),
        ("words.jsonl", &|text| text.replacen("صباح الخير يا", "مساء الخير يا", 1), "the row `w0` has another reference in run-1 than in run-0"),
        ("words.jsonl", &|text| text.replace("\"w3\"", "\"w2\""), "words.jsonl:4: the id `w2` is that of line 3"),
    ];
    for (file, change, expected) in cases {
        let dir = folder();
        let runs = runs(dir.path(), 2);
        let path = dir.path().join("run-1/eval/step-000060").join(file);
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
        let error = compare::page(&runs, &Unknown, false).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(expected), "{error}");
    }
    let dir = folder();
    let runs = runs(dir.path(), 2);
    fs::remove_file(dir.path().join("run-0/eval/step-000060/moods.jsonl")).unwrap();
    let error = compare::page(&runs, &Unknown, false).unwrap_err().to_string();
    assert!(error.contains("the set `moods` was judged in run-1 and not in run-0"), "{error}");
    fs::remove_dir_all(dir.path().join("run-1/eval")).unwrap();
    let error = compare::page(&[Run::read(&dir.path().join("run-0")).unwrap(), Run::read(&dir.path().join("run-1")).unwrap()], &Unknown, false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has scores but no predictions"), "{error}");
}

#[test]
fn the_commands_write_where_they_are_told() {
    let dir = folder();
    runs(dir.path(), 2);
    let maqam = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_maqam")).args(arguments).current_dir(dir.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(maqam(&["report", "run-0"]), (0, String::new()));
    assert_eq!(maqam(&["report", "run-0", "run-1", "--out", "both.html"]), (0, String::new()));
    assert_eq!(maqam(&["compare", "run-0", "run-1", "--out", "side-by-side"]), (0, String::new()));
    for file in ["run-0/report.html", "both.html", "side-by-side/report.html"] {
        xml::read(&fs::read_to_string(dir.path().join(file)).unwrap());
    }
    let (code, error) = maqam(&["compare", "run-0", "run-9"]);
    assert!(code == 2 && error.contains("run-9: no such folder"), "{error}");
    let (code, error) = maqam(&["report", "run-0", "./run-0"]);
    assert!(code == 2 && error.contains("named twice"), "{error}");
}
