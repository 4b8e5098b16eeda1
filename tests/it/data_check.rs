//! `maqam data check`, `split` and `stats` as a user runs them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::f64::consts::TAU;

use crate::command::Place;
use crate::command::fixture;
use serde_json::Value;
use serde_json::json;

/// A WAV file of a tone: 16 bits, mono, 16 kHz.
fn tone(hertz: f64, seconds: f64, peak: f64) -> Vec<u8> {
    let num_samples = (seconds * 16_000.0) as usize;
    let data = (num_samples * 2) as u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend(16_000u32.to_le_bytes());
    bytes.extend(32_000u32.to_le_bytes());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend(data.to_le_bytes());
    let sample = |i: usize| (peak * 32_767.0 * (TAU * hertz * i as f64 / 16_000.0).sin()) as i16;
    bytes.extend((0..num_samples).flat_map(|i| sample(i).to_le_bytes()));
    bytes
}

/// Forty rows of eight speakers, four labels and their own tones, for a manifest in `data`.
fn corpus(place: &Place) -> Vec<Value> {
    let rows = (0..40).map(|i| {
        let name = format!("clips/{i}.wav");
        place.write(&format!("data/{name}"), tone(200.0 + 10.0 * f64::from(i), 1.0, 0.3));
        let label = ["EGY", "GLF", "LAV", "NOR"][i as usize % 4];
        json!({
            "id": format!("r{i}"), "audio": name, "duration": 1.0, "task": "dialect", "language": "ar",
            "label": label, "speaker": format!("s{}", i / 5), "split": "train",
            "text": "كلمات قليلة",
        })
    });
    rows.collect()
}

fn kinds(findings: &Value) -> BTreeMap<String, Vec<u64>> {
    let mut kinds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for finding in findings.as_array().unwrap() {
        let line = finding["line"].as_u64().unwrap();
        let kind = finding["kind"].as_str().unwrap().to_owned();
        kinds.entry(kind).or_default().push(line);
    }
    kinds
}

/// Runs a check that finds errors: the table is its result, the exit code is 2.
fn errors(place: &Place, arguments: &[&str]) -> crate::command::Outcome {
    let outcome = place.run(arguments);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    outcome
}

#[test]
fn a_clean_manifest_passes() {
    let place = Place::new();
    place.write_rows("data/all.jsonl", &corpus(&place));
    let outcome = place
        .run(&["data", "check", "data/all.jsonl", "--json", "found.json"])
        .succeeds();
    assert!(
        outcome.stdout.ends_with("40 rows: 0 errors, 0 warnings\n"),
        "{}",
        outcome.stdout
    );
    assert_eq!(place.json("found.json"), json!([]));
}

#[test]
fn faults_are_found_written_and_dropped() {
    let place = Place::new();
    let mut rows = corpus(&place);
    place.write("data/clips/3.wav", tone(200.0, 1.0, 0.0));
    place.write("data/clips/4.wav", "");
    rows[5]["label"] = "XYZ".into();
    rows[6]["id"] = "r2".into();
    rows[7]["audio"] = "clips/gone.wav".into();
    rows[8]["duration"] = 3.0.into();
    place.write_rows("data/all.jsonl", &rows);

    let check = ["data", "check", "data/all.jsonl", "--json", "found.json"];
    let outcome = errors(&place, &check);
    assert!(
        outcome.stderr.contains("6 errors in 40 rows\nhint: "),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome
            .stdout
            .contains("error    silent                      1\n"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome
            .stdout
            .contains("data/all.jsonl:4: all samples are zero"),
        "{}",
        outcome.stdout
    );
    let expected = [
        ("silent", 4),
        ("empty_audio", 5),
        ("label", 6),
        ("duplicate_id", 7),
        ("missing", 8),
        ("duration", 9),
    ];
    let expected = expected.map(|(kind, line)| (kind.to_owned(), vec![line]));
    let found = place.json("found.json");
    assert_eq!(kinds(&found), BTreeMap::from(expected), "{found}");
    let missing = found
        .as_array()
        .unwrap()
        .iter()
        .find(|found| found["kind"] == "missing")
        .unwrap();
    assert_eq!(
        (&missing["id"], &missing["severity"]),
        (&json!("r7"), &json!("error"))
    );
    assert_eq!(missing["file"], "data/all.jsonl");

    place
        .run(&[
            "data",
            "check",
            "data/all.jsonl",
            "--fix",
            "drop",
            "--out",
            "kept/all.jsonl",
        ])
        .succeeds();
    let kept = place.lines("kept/all.jsonl");
    assert_eq!(kept.len(), 34);
    assert_eq!(kept[0]["audio"], "../data/clips/0.wav");
    place.run(&["data", "check", "kept/all.jsonl"]).succeeds();
    place
        .run(&[
            "data",
            "check",
            "kept/all.jsonl",
            "--fix",
            "drop",
            "--out",
            "here.jsonl",
        ])
        .succeeds();
    assert_eq!(place.lines("here.jsonl")[0]["audio"], "data/clips/0.wav");
    place
        .run(&["data", "split", "here.jsonl", "--out", "parts"])
        .succeeds();
    assert_eq!(
        place.lines("parts/train.jsonl")[0]["audio"],
        "../data/clips/0.wav"
    );
}

#[test]
fn overlap_between_splits_is_found() {
    let place = Place::new();
    let rows = corpus(&place);
    let mut dev = rows[19..].to_vec();
    dev.iter_mut().for_each(|row| row["split"] = "dev".into());
    place.write_rows("data/train.jsonl", &rows[..20]);
    place.write_rows("data/dev.jsonl", &dev);
    errors(
        &place,
        &[
            "data",
            "check",
            "data/train.jsonl",
            "data/dev.jsonl",
            "--json",
            "found.jsonl",
        ],
    );
    let found = Value::Array(place.lines("found.jsonl"));
    let kinds = kinds(&found);
    assert_eq!(kinds["leaked_id"], [1]);
    assert_eq!(kinds["leaked_audio"], [1]);
    assert_eq!(kinds["leaked_speaker"], [1]);
    assert_eq!(kinds.len(), 3, "{found}");
}

#[test]
fn a_check_of_headers_finds_no_silence() {
    let place = Place::new();
    let rows = corpus(&place);
    place.write("data/clips/3.wav", tone(200.0, 1.0, 0.0));
    place.write_rows("data/all.jsonl", &rows);
    place
        .run(&["data", "check", "data/all.jsonl", "--no-decode"])
        .succeeds();
    errors(&place, &["data", "check", "data/all.jsonl"]);
    assert!(place.text("runs/.check/audio.jsonl").lines().count() <= 40);
}

fn ids(place: &Place, name: &str) -> BTreeSet<String> {
    let id = |row: &Value| row["id"].as_str().unwrap().to_owned();
    place.lines(name).iter().map(id).collect()
}

#[test]
fn parts_are_disjoint_complete_and_stable() {
    let place = Place::new();
    let rows = corpus(&place);
    place.write_rows("data/all.jsonl", &rows);
    let split = |manifest: &str, out: &str| {
        place
            .run(&[
                "data", "split", manifest, "--out", out, "--dev", "0.2", "--test", "0.2", "--seed",
                "5",
            ])
            .succeeds()
    };
    split("data/all.jsonl", "parts");
    let parts = ["train", "dev", "test"].map(|part| place.lines(&format!("parts/{part}.jsonl")));
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 40);
    for (part, rows) in ["train", "dev", "test"].iter().zip(&parts) {
        assert!(rows.iter().all(|row| row["split"] == *part), "{part}");
    }
    let speakers = parts.each_ref().map(|rows| -> BTreeSet<String> {
        rows.iter().map(|row| row["speaker"].to_string()).collect()
    });
    assert!(
        speakers.iter().all(|found| !found.is_empty()),
        "{speakers:?}"
    );
    assert!(speakers[0].is_disjoint(&speakers[1]) && speakers[0].is_disjoint(&speakers[2]));
    assert!(speakers[1].is_disjoint(&speakers[2]));
    assert_eq!(
        parts[0][0]["audio"].as_str().unwrap().split("clips").next(),
        Some("../data/")
    );
    place
        .run(&[
            "data",
            "check",
            "parts/train.jsonl",
            "parts/dev.jsonl",
            "parts/test.jsonl",
        ])
        .succeeds();

    // Rows of new speakers in front move no row that was there.
    let mut more: Vec<Value> = rows[..10].to_vec();
    for (i, row) in more.iter_mut().enumerate() {
        row["id"] = format!("new{i}").into();
        row["speaker"] = format!("other{}", i / 5).into();
    }
    more.extend(rows);
    place.write_rows("data/more.jsonl", &more);
    split("data/more.jsonl", "again");
    for part in ["train", "dev", "test"] {
        let before = ids(&place, &format!("parts/{part}.jsonl"));
        let after = ids(&place, &format!("again/{part}.jsonl"));
        assert!(before.is_subset(&after), "{part}");
    }
}

#[test]
fn parts_by_hours_and_without_speakers() {
    let place = Place::new();
    let mut rows = corpus(&place);
    for row in &mut rows {
        row.as_object_mut().unwrap().remove("speaker");
    }
    place.write_rows("data/all.jsonl", &rows);
    // 8 of 40 seconds, two of each label.
    let hours = format!("{}", 8.0 / 3600.0);
    let outcome = place
        .run(&[
            "data",
            "split",
            "data/all.jsonl",
            "--out",
            "parts",
            "--hours",
            &hours,
            "--stratify",
            "task,label",
        ])
        .succeeds();
    assert!(
        outcome.stderr.contains("no `speaker` in 40 of 40 rows"),
        "{}",
        outcome.stderr
    );
    for part in ["dev", "test"] {
        let mut labels: BTreeMap<String, usize> = BTreeMap::new();
        for row in place.lines(&format!("parts/{part}.jsonl")) {
            *labels.entry(row["label"].to_string()).or_default() += 1;
        }
        assert_eq!(
            labels.values().copied().collect::<Vec<_>>(),
            [2; 4],
            "{part}"
        );
    }
    place
        .run(&[
            "data",
            "split",
            "data/all.jsonl",
            "--out",
            "parts",
            "--dev",
            "0.6",
            "--test",
            "0.5",
        ])
        .fails(2, &["dev is 0.6 and test 0.5", "hint: "]);
}

#[test]
fn unknown_lengths_and_likely_speakers_are_told() {
    let place = Place::new();
    let mut rows = corpus(&place);
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        row.remove("duration");
        let speaker = row.remove("speaker").unwrap();
        row.insert("speaker_id".to_owned(), speaker);
    }
    place.write_rows("data/all.jsonl", &rows);
    let split = |more: &[&str]| {
        let arguments = ["data", "split", "data/all.jsonl", "--out", "parts"];
        place.run(&[&arguments[..], more].concat()).succeeds()
    };

    let outcome = split(&["--dev", "0", "--test", "0"]);
    let train = "train         40 rows   unknown hours        40 groups";
    assert!(outcome.stdout.starts_with(train), "{}", outcome.stdout);
    for note in [
        "`speaker_id` of 40 rows looks like the speaker: add `--columns speaker=speaker_id`",
        "no length in 40 of 40 rows: the hours below leave them out, `--hours` reads headers",
    ] {
        assert!(outcome.stderr.contains(note), "{}", outcome.stderr);
    }

    // The clips have 40 seconds, a speaker 5. Dev and test each get one speaker.
    let hours = format!("{}", 5.0 / 3600.0);
    let outcome = split(&["--hours", &hours, "--columns", "speaker=speaker_id"]);
    assert_eq!(outcome.stderr, "");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(
        lines[0].starts_with("train         30 rows      0.01 hours         6 groups"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].starts_with("dev            5 rows      0.00 hours          1 group "),
        "{}",
        lines[1]
    );
    assert_eq!(place.lines("parts/dev.jsonl").len(), 5);

    let stats = place
        .run(&["data", "stats", "data/all.jsonl"])
        .succeeds()
        .stdout;
    assert!(
        stats.starts_with("40 rows, 40 clips, unknown hours, 0 speakers, 0 groups\n"),
        "{stats}"
    );
}

#[test]
fn notes_on_columns_are_told_once() {
    let place = Place::new();
    place.write("data/a.wav", tone(300.0, 1.0, 0.3));
    let names: Vec<String> = (0..3).map(|i| format!("data/{i}.csv")).collect();
    for (i, name) in names.iter().enumerate() {
        place.write(name, format!("id,audio,sentence\n{i},a.wav,words\n"));
    }
    for command in ["check", "stats"] {
        let mut arguments = vec!["data", command];
        arguments.extend(names.iter().map(String::as_str));
        let outcome = place.run(&arguments);
        let notes = outcome.stderr.matches("`sentence` is read as `text`");
        assert_eq!(notes.count(), 1, "{}", outcome.stderr);
        let note = "or another column (in 3 files)";
        assert!(outcome.stderr.contains(note), "{}", outcome.stderr);
    }
}

#[test]
fn statistics_of_a_data_set() {
    let place = Place::new();
    place.write_rows("data/all.jsonl", &corpus(&place));
    let outcome = place
        .run(&[
            "data",
            "stats",
            "data/all.jsonl",
            "--json",
            "stats.json",
            "--html",
            "stats.html",
        ])
        .succeeds();
    assert!(
        outcome
            .stdout
            .starts_with("40 rows, 40 clips, 0.01 hours, 8 speakers, 0 groups\n"),
        "{}",
        outcome.stdout
    );
    let stats = place.json("stats.json");
    assert_eq!(
        (&stats["rows"], &stats["speakers"]),
        (&json!(40), &json!(8))
    );
    assert_eq!(stats["labels"]["EGY"], json!({"rows": 10, "seconds": 10.0}));
    assert_eq!(stats["seconds"]["max"], 1.0);
    assert_eq!(stats["total_audio_tokens"], 40 * 25);
    let page = place.text("stats.html");
    assert!(page.starts_with("<!DOCTYPE html>") || page.starts_with("<!doctype html>"));
    assert!(
        page.contains("Rows by label") && page.contains("<svg") && !page.contains("http://cdn")
    );
}

#[test]
fn rows_beyond_a_glance_count_the_same() {
    let place = Place::new();
    let rows = corpus(&place);
    place.write_rows("data/simple.jsonl", &rows);
    let mut parts = rows.clone();
    for row in &mut parts {
        row["start_s"] = 0.0.into();
        row["end_s"] = 1.0.into();
    }
    place.write_rows("data/parts.jsonl", &parts);
    let stats = |name: &str| {
        place
            .run(&[
                "data",
                "stats",
                &format!("data/{name}.jsonl"),
                "--json",
                "stats.json",
            ])
            .succeeds();
        place.json("stats.json")
    };
    assert_eq!(stats("simple"), stats("parts"));

    let split = |name: &str| {
        place
            .run(&[
                "data",
                "split",
                &format!("data/{name}.jsonl"),
                "--out",
                name,
                "--dev",
                "0.3",
            ])
            .succeeds();
        ["train", "dev", "test"].map(|part| ids(&place, &format!("{name}/{part}.jsonl")))
    };
    assert_eq!(split("simple"), split("parts"));
}

#[test]
fn speech_of_the_fixtures_is_no_fault() {
    let place = Place::new();
    let rows = ["a1", "a2", "a3", "odd"].map(|name| {
        json!({"id": name, "audio": fixture("audio").join(format!("{name}.wav")), "task": "asr", "text": "some words that were spoken"})
    });
    place.write_rows("rows.jsonl", &rows);
    let outcome = place
        .run(&["data", "check", "rows.jsonl", "--min-rate", "0.5"])
        .succeeds();
    assert!(
        outcome.stdout.contains("4 rows: 0 errors"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn spelling_changes_are_stated() {
    let place = Place::new();
    place.write_rows(
        "rows.jsonl",
        &[json!({"id": "1", "text": "قَالَ الـعام", "label": "أ", "normalisation": "digits"})],
    );
    place
        .run(&[
            "data",
            "normalise",
            "rows.jsonl",
            "--rules",
            "diacritics,tatweel",
            "--out",
            "new.jsonl",
        ])
        .succeeds();
    let row = &place.lines("new.jsonl")[0];
    assert_eq!(
        (&row["text"], &row["label"]),
        (&json!("قال العام"), &json!("أ"))
    );
    assert_eq!(row["normalisation"], "tatweel,diacritics,digits");

    place
        .run(&[
            "data",
            "normalise",
            "new.jsonl",
            "--buckwalter",
            "to",
            "--out",
            "latin.jsonl",
        ])
        .succeeds();
    let row = &place.lines("latin.jsonl")[0];
    assert_eq!(
        (&row["text"], &row["transliteration"]),
        (&json!("qAl AlEAm"), &json!("buckwalter"))
    );
    place
        .run(&[
            "data",
            "normalise",
            "latin.jsonl",
            "--buckwalter",
            "from",
            "--out",
            "back.jsonl",
        ])
        .succeeds();
    assert_eq!(place.lines("back.jsonl"), place.lines("new.jsonl"));
    place
        .run(&[
            "data",
            "normalise",
            "new.jsonl",
            "--buckwalter",
            "from",
            "--out",
            "no.jsonl",
        ])
        .fails(2, &["new.jsonl:1: ", "Arabic letter", "hint: "]);
    place
        .run(&["data", "normalise", "rows.jsonl", "--out", "no.jsonl"])
        .fails(2, &["nothing to do", "--rules"]);
}

#[test]
fn recordings_become_rows_of_speech() {
    let place = Place::new();
    let rows = ["a1", "a2"].map(|name| {
        json!({"id": name, "audio": fixture("audio").join(format!("{name}.wav")), "label": "MSA"})
    });
    place.write_rows("rows.jsonl", &rows);
    place
        .run(&[
            "data",
            "segment",
            "rows.jsonl",
            "--out",
            "parts.jsonl",
            "--longest",
            "4",
            "--silence",
            "0.1",
        ])
        .succeeds();
    let parts = place.lines("parts.jsonl");
    assert!(parts.len() > 2, "{parts:?}");
    for part in &parts {
        let start = part["start_s"].as_f64().unwrap();
        let end = part["end_s"].as_f64().unwrap();
        assert!(start < end && end - start <= 4.21, "{part}");
        assert!(
            (part["duration"].as_f64().unwrap() - (end - start)).abs() < 1e-6,
            "{part}"
        );
    }
    place
        .run(&["data", "check", "parts.jsonl", "--task", "dialect"])
        .succeeds();
    place
        .run(&[
            "data",
            "segment",
            "rows.jsonl",
            "--trim",
            "--out",
            "trimmed.jsonl",
        ])
        .succeeds();
    assert_eq!(place.lines("trimmed.jsonl").len(), 2);
}
