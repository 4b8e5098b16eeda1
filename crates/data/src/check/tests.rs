//! Planted faults, each found once and with its own kind.

use crate::task::Tasks;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::OnBadRow;
use crate::read_manifest;

/// A WAV file of 16-bit samples, channels interleaved.
fn write_wav(path: &Path, samples: &[i16], channels: u16, rate: u32) {
    let data = (samples.len() * 2) as u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(channels) * 2).to_le_bytes());
    bytes.extend((channels * 2).to_le_bytes());
    bytes.extend(16u16.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(data.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

/// A tone of about one second, different for every seed.
fn tone(seed: usize, num_samples: usize) -> Vec<i16> {
    (0..num_samples)
        .map(|i| ((i as f64 * (0.02 + 0.001 * seed as f64)).sin() * 8_000.0) as i16)
        .collect()
}

/// Findings of manifests, as `file:line kind`, sorted, with their messages.
fn check(dir: &Path, manifests: &[(&str, &[&str])], known: &Known) -> Vec<(String, String)> {
    let tasks = Tasks::load(None).unwrap();
    let settings = Settings {
        tasks: &tasks,
        task: None,
        decode: true,
        letters_per_s: 1.0..=30.0,
        similarity: 0.8,
        scratch: dir,
    };
    let mut check = Check::new(settings, known);
    let mut found = Vec::new();
    let mut sink = |finding: Finding| {
        let file = finding
            .file
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        found.push((
            format!("{file}:{} {}", finding.line, finding.kind.name()),
            finding.message,
        ));
        Ok(())
    };
    for (name, lines) in manifests {
        let path = dir.join(name);
        fs::write(&path, lines.join("\n")).unwrap();
        let file: Arc<Path> = path.as_path().into();
        let manifest = read_manifest(&path, None, OnBadRow::Skip).unwrap();
        for (line, error) in manifest.skipped_lines.iter().zip(&manifest.skipped) {
            check.bad_row(&file, *line, None, error, &mut sink).unwrap();
        }
        let placed: Vec<Placed> = manifest
            .rows
            .into_iter()
            .map(|row| Placed {
                line: row.line,
                row,
                file: file.clone(),
                split: name.trim_end_matches(".jsonl").into(),
            })
            .collect();
        check.rows(&placed, &mut sink).unwrap();
    }
    check.finish(&mut sink).unwrap();
    known.write().unwrap();
    found.sort();
    found
}

fn places(found: &[(String, String)]) -> Vec<&str> {
    found.iter().map(|(place, _)| place.as_str()).collect()
}

#[test]
fn faults_of_audio_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_wav(&at("good.wav"), &tone(1, 16_000), 1, 16_000);
    write_wav(&at("zeros.wav"), &[0; 16_000], 1, 16_000);
    let opposite: Vec<i16> = tone(2, 16_000).iter().flat_map(|&x| [x, -x]).collect();
    write_wav(&at("cancel.wav"), &opposite, 2, 16_000);
    let loud: Vec<i16> = tone(3, 16_000)
        .iter()
        .map(|&x| x.saturating_mul(6))
        .collect();
    write_wav(&at("loud.wav"), &loud, 1, 16_000);
    write_wav(&at("odd.wav"), &tone(4, 16_100), 1, 16_100);
    write_wav(&at("none.wav"), &[], 1, 16_000);
    write_wav(&at("short.wav"), &tone(5, 100), 1, 16_000);
    fs::write(at("empty.wav"), "").unwrap();
    fs::write(at("page.wav"), "<html>not found</html>").unwrap();
    let lines = [
        r#"{"id": "1", "audio": "good.wav", "text": "hello there"}"#,
        r#"{"id": "2", "audio": "zeros.wav", "text": "hello there"}"#,
        r#"{"id": "3", "audio": "cancel.wav", "text": "hello there"}"#,
        r#"{"id": "4", "audio": "loud.wav", "text": "hello there"}"#,
        r#"{"id": "5", "audio": "odd.wav", "text": "hello there"}"#,
        r#"{"id": "6", "audio": "none.wav", "text": "hello there"}"#,
        r#"{"id": "7", "audio": "short.wav", "task": "emotion", "label": "happy"}"#,
        r#"{"id": "8", "audio": "empty.wav", "text": "hello there"}"#,
        r#"{"id": "9", "audio": "page.wav", "text": "hello there"}"#,
        r#"{"id": "10", "audio": "gone.wav", "text": "hello there"}"#,
        r#"{"id": "11", "audio": "good.wav", "start_s": 3, "text": "hello there"}"#,
        r#"{"id": "12", "audio": "good.wav", "duration": 2.5, "text": "hello there"}"#,
        r#"{"id": "13", "audio": 5}"#,
    ];
    let found = check(dir.path(), &[("a.jsonl", &lines)], &Known::default());
    let expected = [
        "a.jsonl:10 missing",
        "a.jsonl:11 span",
        "a.jsonl:12 duplicate_audio",
        "a.jsonl:12 duration",
        "a.jsonl:13 row",
        "a.jsonl:2 silent",
        "a.jsonl:3 silent",
        "a.jsonl:4 clipped",
        "a.jsonl:5 sample_rate",
        "a.jsonl:6 empty_audio",
        "a.jsonl:7 too_short",
        "a.jsonl:8 empty_audio",
        "a.jsonl:9 corrupt",
    ];
    assert_eq!(places(&found), expected, "{found:#?}");
    let message = |place: &str| &found.iter().find(|(found, _)| found == place).unwrap().1;
    assert_eq!(message("a.jsonl:2 silent"), "all samples are zero");
    assert!(message("a.jsonl:3 silent").starts_with("the channels cancel"));
}

#[test]
fn transcripts_are_held_against_their_length() {
    let dir = tempfile::tempdir().unwrap();
    write_wav(&dir.path().join("a.wav"), &tone(1, 32_000), 1, 16_000);
    write_wav(&dir.path().join("b.wav"), &tone(2, 32_000), 1, 16_000);
    write_wav(&dir.path().join("c.wav"), &tone(3, 32_000), 1, 16_000);
    let long = format!(r#"{{"audio": "a.wav", "text": "{}"}}"#, "word ".repeat(20));
    let lines = [
        &*long,
        r#"{"audio": "b.wav", "text": "a"}"#,
        r#"{"audio": "c.wav", "text": "twelve letters"}"#,
    ];
    let found = check(dir.path(), &[("a.jsonl", &lines)], &Known::default());
    assert_eq!(
        places(&found),
        ["a.jsonl:1 speaking_rate", "a.jsonl:2 speaking_rate"]
    );
    assert_eq!(
        found[0].1,
        "80 letters in 2.00 s, 40.0 per second; 1 to 30 are expected"
    );
}

#[test]
fn rows_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..7 {
        write_wav(
            &dir.path().join(format!("{seed}.wav")),
            &tone(seed, 64_000),
            1,
            16_000,
        );
    }
    fs::copy(dir.path().join("0.wav"), dir.path().join("copy.wav")).unwrap();
    let train = [
        r#"{"id": "a", "audio": "0.wav", "speaker": "s1", "text": "the quick brown fox jumps over the lazy dog again and sleeps all day in the warm sun"}"#,
        r#"{"id": "b", "audio": "1.wav", "speaker": "s2", "text": "one two three four five six"}"#,
        r#"{"id": "c", "audio": "copy.wav", "speaker": "s1", "text": "the quick brown fox jumped over the lazy dog again and sleeps all day in the warm sun"}"#,
        r#"{"id": "k", "audio": "0.wav", "task": "dialect", "label": "EGY", "speaker": "s1"}"#,
        r#"{"id": "d", "audio": "2.wav", "start_s": 0, "end_s": 2, "group": "g1", "text": "hello there"}"#,
        r#"{"id": "e", "audio": "2.wav", "start_s": 1.5, "end_s": 3, "group": "g1", "text": "hello there"}"#,
        r#"{"id": "f", "audio": "2.wav", "start_s": 3, "end_s": 4, "group": "g1", "text": "hello there"}"#,
        r#"{"id": "g", "audio": "6.wav", "text": "completely different words stand in this sentence for nobody at all"}"#,
    ];
    let dev = [
        r#"{"id": "c", "audio": "3.wav", "speaker": "s3", "text": "hello there"}"#,
        r#"{"id": "h", "audio": "4.wav", "speaker": "s2", "group": "g1", "text": "one two three four five six"}"#,
        r#"{"id": "i", "audio": "1.wav", "text": "and quick brown fox jumps over the lazy dog today too"}"#,
        r#"{"id": "j", "audio": "5.wav", "text": "hello there"}"#,
    ];
    let more = [r#"{"id": "b", "split": "train", "text": "hello there"}"#];
    let manifests: [(&str, &[&str]); 3] = [
        ("train.jsonl", &train),
        ("dev.jsonl", &dev),
        ("more.jsonl", &more),
    ];
    let found = check(dir.path(), &manifests, &Known::default());
    let expected = [
        "dev.jsonl:1 leaked_id",
        "dev.jsonl:2 leaked_group",
        "dev.jsonl:2 leaked_speaker",
        "dev.jsonl:2 leaked_text",
        "dev.jsonl:3 leaked_8gram",
        "dev.jsonl:3 leaked_audio",
        "more.jsonl:1 duplicate_id",
        "train.jsonl:3 duplicate_audio",
        "train.jsonl:3 near_duplicate_text",
        "train.jsonl:6 duplicate_audio",
    ];
    assert_eq!(places(&found), expected, "{found:#?}");
    assert!(
        found[9].1.starts_with("0.50 s of the same recording as"),
        "{}",
        found[9].1
    );
}

#[test]
fn known_files_are_not_examined_again() {
    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("a.wav");
    write_wav(&clip, &[0; 16_000], 1, 16_000);
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let age = |path: &Path| {
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(then)
            .unwrap()
    };
    age(&clip);
    let state = dir.path().join("known.jsonl");
    let lines = [r#"{"audio": "a.wav", "text": "hello there"}"#];
    let run = || {
        let known = Known::open(&state).unwrap();
        (
            known.len(),
            check(dir.path(), &[("a.jsonl", &lines)], &known),
        )
    };
    let (before, first) = run();
    let (after, second) = run();
    assert_eq!((before, after), (0, 1));
    assert_eq!(first, second);
    assert_eq!(places(&first), ["a.jsonl:1 silent"]);

    // The file with this path, size and time is taken for the one that was read.
    write_wav(&clip, &tone(1, 16_000), 1, 16_000);
    age(&clip);
    assert_eq!(run().1, first);
    write_wav(&clip, &tone(1, 16_001), 1, 16_000);
    assert!(run().1.is_empty());
}

#[test]
fn facts_are_saved_while_a_check_runs() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("known.jsonl");
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let lines: Vec<String> = (0..500)
        .map(|i| {
            let name = format!("{i}.wav");
            let path = dir.path().join(&name);
            write_wav(&path, &tone(i, 4_000), 1, 16_000);
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(then).unwrap();
            format!(r#"{{"audio": "{name}", "task": "emotion", "label": "happy"}}"#)
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    // Five hundred lines of facts are more than are held back.
    let known = Known::open(&state).unwrap();
    assert!(check(dir.path(), &[("a.jsonl", &lines)], &known).is_empty());
    assert_eq!(Known::open(&state).unwrap().len(), 500);
}
