//! A run that an earlier version began: it resumes, ends as it would have, and is reported.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use crate::command::Place;
use crate::command::fixture;

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The numbers in a line of the log, in their order.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Number(number) => vec![number.as_f64().unwrap()],
        Value::Object(object) => object.values().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn a_run_of_an_earlier_version_resumes_and_reports() {
    let place = Place::new();
    let made = fixture("old_run");
    let run = place.path("runs/old");
    copy(&made.join("run"), &run);
    for name in ["recipe.yaml", "suite.yaml"] {
        fs::copy(made.join(name), place.path(name)).unwrap();
    }
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    symlink(data, place.path("data")).unwrap();
    let begun = fs::read_to_string(run.join("log.jsonl")).unwrap();

    place
        .run(&["train", "recipe.yaml", "--device", "cpu", "--resume"])
        .succeeds();

    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    assert!(log.starts_with(&begun), "{log}");
    let whole = fs::read_to_string(made.join("whole_log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), whole.lines().count());
    for (line, expected) in log.lines().zip(whole.lines()) {
        let [line, expected] =
            [line, expected].map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert_eq!(line["kind"], expected["kind"]);
        // Another processor adds up in another order, in f32.
        for (found, wanted) in numbers(&line).into_iter().zip(numbers(&expected)) {
            let close = 1e-4 * wanted.abs().max(1e-2);
            assert!((found - wanted).abs() <= close, "{line}\n{expected}");
        }
    }

    place
        .run(&["report", "runs/old", "--out", "report.html"])
        .succeeds();
    let page = fs::read_to_string(place.path("report.html")).unwrap();
    for said in ["after 4", "words", "gradients"] {
        assert!(page.contains(said), "the page does not say `{said}`");
    }
}
