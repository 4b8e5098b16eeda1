//! Data sets built end to end: every document accounted for, the same bytes after kills and from
//! shards, engines that fail in every way.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::command::Place;
use maqam::audio;
use maqam::audio::Span;
use maqam::data::OnBadRow;
use maqam::data::read_manifest;
use maqam::seed::Key;
use serde_json::Value;
use serde_json::json;

/// Words of made-up documents.
const WORDS: [&str; 24] = [
    "قال",
    "الوزير",
    "إن",
    "الحكومة",
    "سوف",
    "تبدأ",
    "العمل",
    "في",
    "المشروع",
    "الجديد",
    "قبل",
    "نهاية",
    "العام",
    "ورحب",
    "السكان",
    "بالقرار",
    "الذي",
    "صدر",
    "عن",
    "المجلس",
    "بعد",
    "نقاش",
    "طويل",
    "أمس",
];

/// A speech engine of a few lines: it reads a text and writes a tone for each letter, 50 ms long,
/// as a WAV file.
const ENGINE: &str = r#"#!/usr/bin/env python3
import math, struct, sys
text = sys.stdin.read()
voice = sys.argv[1]
rate, samples = 16000, []
for i, c in enumerate(c for c in text if c.isalnum()):
    for k in range(rate // 14):
        samples.append(int(9000 * math.sin(k * (0.02 + 0.002 * (ord(c) % 40) + 0.001 * len(voice)))))
data = struct.pack("<%dh" % len(samples), *samples)
sys.stdout.buffer.write(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16) + b"data" + struct.pack("<I", len(data)) + data)
"#;

fn sentence(key: Key, len: u64) -> String {
    let words: Vec<&str> = (0..len).map(|i| WORDS[key.below(i, WORDS.len())]).collect();
    words.join(" ") + "."
}

/// A document with a summary whose words are in it.
fn document(number: u64) -> Value {
    let key = Key::new(number, "document");
    let text: Vec<String> = (0..3)
        .map(|i| sentence(key.with(i), 6 + key.below(90 + i, 5) as u64))
        .collect();
    json!({
        "id": format!("d{number}"),
        "text": text.join(" "),
        "summary": sentence(key.with(50), 4),
        "headline": sentence(key.with(60), 4),
    })
}

pub fn documents(count: u64) -> Vec<Value> {
    (0..count).map(document).collect()
}

/// A place with documents, an engine and a recipe.
pub fn place(documents: &[Value]) -> Place {
    let place = Place::new();
    place.write_rows("docs.jsonl", documents);
    let engine = place.write("engine", ENGINE);
    std::fs::set_permissions(&engine, std::fs::Permissions::from_mode(0o755)).unwrap();
    place.write("recipe.yaml", recipe(""));
    place
}

/// A recipe with the engine of [`ENGINE`]; `more` are further lines.
pub fn recipe(more: &str) -> String {
    format!(
        "# A set.\nname: news\ncollect: {{from: docs.jsonl, text: text, summary: summary, headline: headline, language: ar, licence: CC-BY-4.0}}\nspeak: {{engine: command, command: [./engine, \"{{voice}}\"], voices: [a, bb, ccc, dddd]}}\nsplit: {{dev: 0.2, test: 0.2}}\nseed: 7\n{more}"
    )
}

pub fn has_python() -> bool {
    let found = std::process::Command::new("python3")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let has = found.is_ok_and(|status| status.success());
    if !has {
        // Shown also for tests that pass, unlike the output of `eprintln!`.
        let _ = writeln!(
            std::io::stderr(),
            "\nNOT TESTED: builds with a command as the speech engine, because there is no python3\n"
        );
    }
    has
}

/// Every file of a folder with its contents.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(folder)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

pub fn assert_same(
    found: &BTreeMap<String, Vec<u8>>,
    expected: &BTreeMap<String, Vec<u8>>,
    what: &str,
) {
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "{what}"
    );
    for (name, bytes) in expected {
        assert!(&found[name] == bytes, "{what}: {name} differs");
    }
}

/// Checks that every collected document is published or rejected, in every file that counts them.
pub fn assert_reconciled(place: &Place, num_collected: usize) -> (Vec<Value>, Vec<Value>) {
    let rows = place.lines("datasets/news/rows.jsonl");
    let rejected = place.lines("datasets/news/rejected.jsonl");
    let manifest = place.lines("datasets/news/manifest.jsonl");
    assert_eq!(rows.len(), num_collected);
    assert_eq!(manifest.len() + rejected.len(), num_collected);
    let ids = |lines: &[Value]| -> Vec<String> {
        let mut ids: Vec<String> = lines
            .iter()
            .map(|line| line["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    let of_state = |state: &str| -> Vec<Value> {
        rows.iter()
            .filter(|row| row["state"] == state)
            .cloned()
            .collect()
    };
    assert_eq!(ids(&of_state("published")), ids(&manifest));
    assert_eq!(ids(&of_state("rejected")), ids(&rejected));
    (manifest, rejected)
}

#[test]
fn a_data_set_is_built_completely() {
    if !has_python() {
        return;
    }
    let mut rows = documents(20);
    rows.push(json!({"id": "d0", "text": rows[0]["text"], "summary": "x y"}));
    rows.push(json!({"id": "copy", "text": format!("<p>{}</p>", rows[1]["text"].as_str().unwrap()), "summary": "x y"}));
    rows.push(json!({"id": "short", "text": "نعم", "summary": "x y"}));
    rows.push(json!({"id": "english", "text": "this is a text that is written in another script", "summary": "x"}));
    rows.push(json!({"id": "bare", "text": sentence(Key::new(5, "bare"), 9)}));
    let place = place(&rows);
    let done = place.run(&["build", "recipe.yaml"]).succeeds();
    assert_eq!(done.stdout, "25 collected = 20 published + 5 rejected\n");
    // Equally frequent reasons are in the order of the alphabet.
    let note = "note: rejected: 1 as `duplicate_id`, 1 as `exact_duplicate`, 1 as `no_summary`, 1 as `too_short`, 1 as `wrong_script`; datasets/news/rejected.jsonl says why\n";
    assert!(done.stderr.contains(note), "{}", done.stderr);

    let (manifest, rejected) = assert_reconciled(&place, 25);
    let reasons: Vec<(&str, &str)> = rejected
        .iter()
        .map(|row| {
            (
                row["step"].as_str().unwrap(),
                row["reason"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        reasons,
        [
            ("collect", "duplicate_id"),
            ("clean", "exact_duplicate"),
            ("collect", "too_short"),
            ("collect", "wrong_script"),
            ("summarise", "no_summary"),
        ]
    );

    // The reader of `train` accepts the manifest, and every recording has the length of its row.
    let folder = place.path("datasets/news");
    let read = read_manifest(&folder.join("manifest.jsonl"), None, OnBadRow::Error).unwrap();
    assert_eq!(read.rows.len(), 20);
    for (row, line) in read.rows.iter().zip(&manifest) {
        let path = folder.join(line["audio"].as_str().unwrap());
        let length = audio::duration_s(&path, Span::WHOLE).unwrap();
        assert!((length - row.duration.unwrap()).abs() < 2e-3);
        assert_eq!(line["license"], "CC-BY-4.0");
        assert!(!line["spoken_text"].as_str().unwrap().is_empty());
        let len = |name: &str| line[name].as_array().unwrap().len();
        assert!(len("sentences") == 3 && len("sentence_end_s") == 3);
        let end_s = line["sentence_end_s"][2].as_f64().unwrap();
        assert!((end_s - length).abs() < 2e-3, "{line}");
    }
    // So does Parquet, with the same recordings inside.
    let mut num_in_parquet = 0;
    let mut sizes = BTreeMap::new();
    for split in ["train", "dev", "test"] {
        let path = folder.join(format!("data/{split}-00000.parquet"));
        let read = read_manifest(&path, None, OnBadRow::Error).unwrap();
        sizes.insert(split, read.rows.len());
        num_in_parquet += read.rows.len();
    }
    assert_eq!(num_in_parquet, 20);
    // Its rows have what a summarization needs.
    let train = folder.join("data/train-00000.parquet");
    for row in &read_manifest(&train, None, OnBadRow::Error).unwrap().rows {
        let line = manifest.iter().find(|line| line["id"] == *row.id).unwrap();
        assert_eq!(line["summary"].as_str(), row.summary.as_deref());
        assert_eq!(line["split"], "train");
    }
    // A fifth of the 21 documents that were cleaned, less the one that had no summary.
    assert!(
        (3..=4).contains(&sizes["dev"]) && (3..=4).contains(&sizes["test"]),
        "{sizes:?}"
    );
    // Voices are disjoint between splits.
    let mut of_voice: BTreeMap<&str, &str> = BTreeMap::new();
    for line in &manifest {
        let voice = line["speaker"].as_str().unwrap();
        let split = line["split"].as_str().unwrap();
        assert_eq!(*of_voice.entry(voice).or_insert(split), split);
    }
    assert_eq!(of_voice.len(), 4);

    let card = place.text("datasets/news/README.md");
    for words in [
        "license: cc-by-4.0",
        "path: data/dev-*.parquet",
        "Intelligibility not verified",
        "Not rated by people",
        "Real recordings: 0 in dev, 0 in test",
        "exact\\_duplicate",
    ] {
        assert!(
            card.contains(words) || card.contains(&words.replace('\\', "")),
            "`{words}` is not in:\n{card}"
        );
    }
    let review = place.text("datasets/news/review.html");
    assert_eq!(review.matches("<article").count(), 20);
    for line in place.text("datasets/news/checksums.txt").lines() {
        let (hash, path) = line.split_once("  ").unwrap();
        assert_eq!(
            hash,
            maqam::files::hash(&folder.join(path)).unwrap(),
            "{path}"
        );
    }
    // Tar files hold the same recordings, by the reckoning of tar itself.
    let tars = "publish.formats=[parquet, webdataset]";
    place
        .run(&["build", "recipe.yaml", "--set", tars])
        .succeeds();
    let listed = std::process::Command::new("tar")
        .args(["-tf", "datasets/news/webdataset/dev-00000.tar"])
        .current_dir(folder.ancestors().nth(2).unwrap())
        .output()
        .unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.status.success() && names.lines().count() == 2 * sizes["dev"],
        "{names}"
    );
    // Shar's folders hold the same recordings, by the reader of `train`, and the list of checksums
    // names every file.
    let both = "publish.formats=[webdataset, shar]";
    place
        .run(&["build", "recipe.yaml", "--set", both])
        .succeeds();
    for (split, num_rows) in &sizes {
        let cuts = folder.join(format!("shar/{split}/cuts.000000.jsonl.gz"));
        let shar = read_manifest(&cuts, None, OnBadRow::Error).unwrap();
        assert_eq!(shar.rows.len(), *num_rows);
        for row in &shar.rows {
            let line = manifest.iter().find(|line| line["id"] == *row.id).unwrap();
            assert_eq!(line["text"].as_str(), row.text.as_deref());
            assert_eq!(line["summary"].as_str(), row.summary.as_deref());
            let file = std::fs::read(folder.join(line["audio"].as_str().unwrap())).unwrap();
            assert_eq!(row.clips[0].source.bytes().unwrap()[..], file[..]);
        }
    }
    let sums = place.text("datasets/news/checksums.txt");
    for name in ["shar/dev/recording.000000.tar", "webdataset/test-00000.tar"] {
        assert!(sums.contains(&format!("  {name}\n")), "{name}");
    }
    // The card names files that are there.
    let card = place.text("datasets/news/README.md");
    assert!(
        card.contains("path: webdataset/dev-*.tar") && !card.contains("data/"),
        "{card}"
    );
    place.run(&["build", "recipe.yaml"]).succeeds();
    assert!(!folder.join("webdataset").exists() && !folder.join("shar").exists());
    // A second run does nothing and prints the same.
    let before = contents(&folder);
    place.run(&["build", "recipe.yaml"]).succeeds();
    assert_same(&contents(&folder), &before, "a second run");
}

#[test]
fn kills_and_shards_change_no_byte() {
    if !has_python() {
        return;
    }
    let rows = documents(24);
    let undisturbed = place(&rows);
    undisturbed
        .run(&["build", "recipe.yaml", "--workers", "1"])
        .succeeds();
    let expected = contents(&undisturbed.path("datasets/news"));

    let sharded = place(&rows);
    let mut parts: Vec<_> = ["1/3", "2/3", "3/3"]
        .map(|part| {
            sharded
                .command(&["build", "recipe.yaml", "--shard", part])
                .spawn()
                .unwrap()
        })
        .into();
    for part in &mut parts {
        assert!(part.wait().unwrap().success());
    }
    assert!(!sharded.path("datasets/news/manifest.jsonl").exists());
    sharded.run(&["build", "recipe.yaml"]).succeeds();
    assert_same(
        &contents(&sharded.path("datasets/news")),
        &expected,
        "three shards",
    );

    let killed = place(&rows);
    let key = Key::new(11, "kills");
    let mut num_killed = 0;
    let mut longest_ms = 400.0;
    for i in 0.. {
        let mut child = killed.command(&["build", "recipe.yaml"]).spawn().unwrap();
        let wait_ms = 1.0 + longest_ms * key.uniform(i);
        std::thread::sleep(Duration::from_secs_f64(wait_ms / 1e3));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            num_killed += 1;
        } else {
            // What is finished is not repeated, so later runs are shorter.
            longest_ms *= 0.8;
        }
        child.wait().unwrap();
        if num_killed == 20 {
            break;
        }
        assert!(i < 200, "only {num_killed} of {i} runs were killed");
    }
    killed.run(&["build", "recipe.yaml"]).succeeds();
    assert_same(
        &contents(&killed.path("datasets/news")),
        &expected,
        "after kills",
    );
}

#[test]
fn interrupts_say_how_far_a_build_is() {
    if !has_python() {
        return;
    }
    let place = place(&documents(8));
    place.write(
        "engine",
        ENGINE.replace(
            "text = ",
            "import time; open('started', 'w').close(); time.sleep(0.3); text = ",
        ),
    );
    let mut child = place
        .command(&["build", "recipe.yaml", "--workers", "1"])
        .spawn()
        .unwrap();
    while !place.path("started").is_file() {
        assert!(child.try_wait().unwrap().is_none(), "the build ended early");
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: no one has waited for this child process, so its id is still its own.
    let sent = unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    assert_eq!(sent, 0);
    let stopped = crate::command::outcome(child.wait_with_output().unwrap());
    assert_eq!(stopped.code, Some(130), "{}", stopped.stderr);
    let is_told = |done: usize| {
        let words =
            format!("error: stopped in speak after {done} of 8 rows; run the command again");
        stopped.stderr.contains(&words)
    };
    assert!((0..8).any(is_told), "{}", stopped.stderr);

    let done = place.run(&["build", "recipe.yaml"]).succeeds();
    assert_eq!(done.stdout, "8 collected = 8 published + 0 rejected\n");
    assert!(!done.stderr.contains("rejected:"), "{}", done.stderr);
}

#[test]
fn a_full_disk_stops_and_space_continues() {
    if !has_python() {
        return;
    }
    let rows = documents(8);
    let undisturbed = place(&rows);
    undisturbed.run(&["build", "recipe.yaml"]).succeeds();
    let expected = contents(&undisturbed.path("datasets/news"));

    // No file may be longer than so many blocks of 512 bytes: the first write fails, one of the
    // cache, or one of the published set.
    let place = place(&rows);
    for blocks in [0, 100, 500] {
        let maqam = place.command(&[]);
        let limited = std::process::Command::new("sh")
            .args(["-c", &format!("ulimit -f {blocks}; exec \"$@\""), "sh"])
            .arg(maqam.get_program())
            .args(["build", "recipe.yaml"])
            .current_dir(place.path(""))
            .output()
            .unwrap();
        crate::command::outcome(limited).fails(4, &["datasets/", "cannot "]);
        assert!(!place.path("datasets/news/manifest.jsonl").exists());
    }
    place.run(&["build", "recipe.yaml"]).succeeds();
    assert_same(
        &contents(&place.path("datasets/news")),
        &expected,
        "after a full disk",
    );
}

#[test]
fn sentences_are_spoken_once() {
    if !has_python() {
        return;
    }
    let place = place(&documents(6));
    place.run(&["build", "recipe.yaml"]).succeeds();
    let first = contents(&place.path("datasets/news"));
    // The engine is still there but would fail; another set of the same texts and voices needs it
    // no more.
    place.write("engine", "#!/bin/sh\nexit 1\n");
    std::fs::remove_dir_all(place.path("datasets/news")).unwrap();
    std::fs::remove_dir_all(place.path("datasets/.work")).unwrap();
    place.run(&["build", "recipe.yaml"]).succeeds();
    assert_same(
        &contents(&place.path("datasets/news")),
        &first,
        "from the cache",
    );
    // Without the cache every row is rejected by its name, and nothing is published.
    std::fs::remove_dir_all(place.path("datasets")).unwrap();
    place.run(&["build", "recipe.yaml"]).fails(
        2,
        &[
            "rejected: 6 as `speech_failed`; datasets/news/rejected.jsonl says why",
            "every document was rejected",
            "hint: rejected.jsonl says why",
        ],
    );
    let rejected = place.lines("datasets/news/rejected.jsonl");
    assert!(rejected.len() == 6 && rejected.iter().all(|row| row["reason"] == "speech_failed"));
    // Once the engine is repaired, the same command speaks them.
    place.write("engine", ENGINE);
    place.run(&["build", "recipe.yaml"]).succeeds();
    assert_same(
        &contents(&place.path("datasets/news")),
        &first,
        "after a repair",
    );
}

#[test]
fn longer_time_limits_take_effect() {
    if !has_python() {
        return;
    }
    let place = place(&documents(2));
    place.write(
        "engine",
        ENGINE.replace("text = ", "import time; time.sleep(1); text = "),
    );
    let run = |timeout: &str| {
        let set = format!("speak.timeout_s={timeout}");
        place.run(&["build", "recipe.yaml", "--until", "speak", "--set", &set])
    };
    let stopped = run("0.2").succeeds();
    assert_eq!(
        stopped.stdout,
        "2 collected, 2 rejected, 0 go on after speak\n"
    );
    assert!(
        stopped
            .stderr
            .contains("rejected as `speech_failed`: 2 rows"),
        "{}",
        stopped.stderr
    );
    let done = run("300").succeeds();
    assert_eq!(
        done.stdout,
        "2 collected, 0 rejected, 2 go on after speak\n"
    );
}

#[test]
fn diacritics_do_not_change_the_speed() {
    if !has_python() {
        return;
    }
    let place = place(&documents(6));
    // A fatha after every letter; the engine gives no time to it.
    let script = "#!/usr/bin/env python3\nimport sys\nprint(''.join(c + '\u{64e}' if c.isalpha() else c for c in sys.stdin.read()))\n";
    let tool = place.write("tashkeel", script);
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let set = [
        "build",
        "recipe.yaml",
        "--set",
        "speak.diacritiser=[./tashkeel]",
    ];
    let done = place.run(&set).succeeds();
    assert_eq!(done.stdout, "6 collected = 6 published + 0 rejected\n");
    for row in place.lines("datasets/news/manifest.jsonl") {
        assert!(row["spoken_text"].as_str().unwrap().contains('\u{64e}'));
        assert!(!row["text"].as_str().unwrap().contains('\u{64e}'));
    }
}

/// A diacritiser that drops a word, and fails at another. It notes each text that it was asked.
const TASHKEEL: &str = r#"#!/usr/bin/env python3
import sys
text = sys.stdin.read()
with open("asked", "a", encoding="utf-8") as asked:
    print(text.strip(), file=asked)
if "عطل" in text:
    sys.exit("no model")
text = text.replace("سقط ", "")
print("".join(c + "\u064e" if c.isalpha() else c for c in text))
"#;

fn write_program(place: &Place, name: &str, script: &str) {
    let path = place.write(name, script);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn rows_without_diacritics_are_rejected() {
    if !has_python() {
        return;
    }
    let mut rows = documents(16);
    for (row, word) in [(3, "سقط"), (5, "عطل")] {
        rows[row]["text"] = json!(format!("{word} {}", rows[row]["text"].as_str().unwrap()));
    }
    let open = || {
        let place = place(&rows);
        write_program(&place, "tashkeel", TASHKEEL);
        place
    };
    let build = [
        "build",
        "recipe.yaml",
        "--set",
        "speak.diacritiser=[./tashkeel]",
    ];
    let undisturbed = open();
    let done = undisturbed.run(&build).succeeds();
    assert_eq!(done.stdout, "16 collected = 14 published + 2 rejected\n");
    for note in [
        "rejected: 1 as `diacritics_failed`, 1 as `letters_changed`; datasets/news/rejected.jsonl",
        "rejected as `diacritics_failed`: 1 row, which the same command tries again",
    ] {
        assert!(done.stderr.contains(note), "{}", done.stderr);
    }
    let (_, rejected) = assert_reconciled(&undisturbed, 16);
    let of = |id: &str| rejected.iter().find(|row| row["id"] == id).unwrap();
    assert_eq!(of("d3")["reason"], "letters_changed");
    let detail = of("d3")["detail"].as_str().unwrap();
    assert!(detail.contains("from `سقط"), "{detail}");
    assert_eq!(of("d5")["reason"], "diacritics_failed");
    assert_eq!(of("d5")["detail"], "the diacritiser failed: no model");
    for file in ["README.md", "report.html"] {
        let text = undisturbed.text(&format!("datasets/news/{file}"));
        let text = text.replace('\\', "");
        assert!(
            text.contains("letters_changed") && text.contains("diacritics_failed"),
            "{file}"
        );
    }
    let expected = contents(&undisturbed.path("datasets/news"));

    let killed = open();
    let key = Key::new(12, "kills");
    let mut num_killed = 0;
    for i in 0..40 {
        let mut child = killed.command(&build).spawn().unwrap();
        let wait_ms = 1.0 + 300.0 * key.uniform(i);
        std::thread::sleep(Duration::from_secs_f64(wait_ms / 1e3));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            num_killed += 1;
        }
        child.wait().unwrap();
        if num_killed == 8 {
            break;
        }
    }
    assert!(num_killed > 0);
    killed.run(&build).succeeds();
    assert_same(
        &contents(&killed.path("datasets/news")),
        &expected,
        "after kills",
    );

    // Without the state between steps, the cached answer decides again. Only the text at which the
    // program failed is asked anew.
    std::fs::remove_dir_all(undisturbed.path("datasets/news")).unwrap();
    std::fs::remove_dir_all(undisturbed.path("datasets/.work")).unwrap();
    std::fs::remove_file(undisturbed.path("asked")).unwrap();
    undisturbed.run(&build).succeeds();
    assert_same(
        &contents(&undisturbed.path("datasets/news")),
        &expected,
        "from the cache",
    );
    let asked = undisturbed.text("asked");
    assert!(
        asked.lines().count() == 1 && asked.contains("عطل"),
        "{asked}"
    );
    // The program is repaired, and its earlier answers stay.
    write_program(&undisturbed, "tashkeel", &TASHKEEL.replace("عطل", "none"));
    let done = undisturbed.run(&build).succeeds();
    assert_eq!(done.stdout, "16 collected = 15 published + 1 rejected\n");
    assert_reconciled(&undisturbed, 16);
}

#[test]
fn slow_diacritisers_are_tried_again() {
    if !has_python() {
        return;
    }
    let place = place(&documents(2));
    let script = TASHKEEL.replace("text = sys", "import time; time.sleep(1); text = sys");
    write_program(&place, "tashkeel", &script);
    // The calibration sentences of the voices are in the cache after a build without diacritics, so
    // the short limit meets the diacritiser alone.
    place
        .run(&["build", "recipe.yaml", "--until", "speak"])
        .succeeds();
    let run = |timeout: &str| {
        let timeout = format!("speak.timeout_s={timeout}");
        place.run(&[
            "build",
            "recipe.yaml",
            "--until",
            "speak",
            "--set",
            "speak.diacritiser=[./tashkeel]",
            "--set",
            &timeout,
        ])
    };
    let stopped = run("0.2").succeeds();
    assert_eq!(
        stopped.stdout,
        "2 collected, 2 rejected, 0 go on after speak\n"
    );
    assert!(
        stopped
            .stderr
            .contains("rejected as `diacritics_failed`: 2 rows"),
        "{}",
        stopped.stderr
    );
    let done = run("300").succeeds();
    assert_eq!(
        done.stdout,
        "2 collected, 0 rejected, 2 go on after speak\n"
    );
}

#[test]
fn engines_that_never_work_end_the_build() {
    if !has_python() {
        return;
    }
    let place = place(&documents(14));
    write_program(&place, "fails", "#!/bin/sh\necho no model >&2\nexit 1\n");
    write_program(&place, "other", "#!/bin/sh\necho xyz\n");
    for (set, step, words) in [
        (
            "speak.command=[./fails]",
            "speak",
            "`speech_failed`: the calibration sentence: the command failed: no model",
        ),
        (
            "speak.diacritiser=[./fails]",
            "speak",
            "`diacritics_failed`: the diacritiser failed: no model",
        ),
        (
            "speak.diacritiser=[./other]",
            "speak",
            "`letters_changed`: the diacritiser changed letters",
        ),
        (
            "listen.quality={command: [./fails, \"{audio}\"], min: 1}",
            "listen",
            "`quality_failed`: the program printed no grade: no model",
        ),
    ] {
        let message = format!("{step}: no row succeeded, and 10 failed; the last one: {words}");
        let hint = "hint: try the program or the endpoint by hand";
        place
            .run(&["build", "recipe.yaml", "--set", set])
            .fails(2, &[&message, hint]);
        assert!(!place.path("datasets/news/manifest.jsonl").exists());
    }

    // One row that succeeds shows that the engine works, in this run and in the next.
    let rows = documents(14);
    let first = rows[0]["text"].as_str().unwrap();
    let script = format!(
        "#!/usr/bin/env python3\nimport sys\ntext = sys.stdin.read()\nif text.strip('. \\n') not in '''{first}''':\n    sys.exit('no model')\nprint(text)\n"
    );
    write_program(&place, "first", &script);
    let set = "speak.diacritiser=[./first]";
    for _ in 0..2 {
        let done = place
            .run(&["build", "recipe.yaml", "--workers", "1", "--set", set])
            .succeeds();
        assert_eq!(done.stdout, "14 collected = 1 published + 13 rejected\n");
    }
}

#[test]
fn messages_of_programs_show_no_key() {
    let place = place(&documents(2));
    place.write(
        "engine",
        "#!/bin/sh\necho \"token $SPEECH_TOKEN refused\" >&2\nexit 1\n",
    );
    let key = "tk-0123456789abcdef";
    let mut command = place.command(&["build", "recipe.yaml"]);
    let outcome = crate::command::outcome(command.env("SPEECH_TOKEN", key).output().unwrap());
    let outcome = outcome.fails(2, &["every document was rejected"]);
    assert!(!outcome.stderr.contains(key), "{}", outcome.stderr);
    let rejected = place.text("datasets/news/rejected.jsonl");
    assert!(
        rejected.contains("refused") && !rejected.contains("0123456789"),
        "{rejected}"
    );
}

#[test]
fn text_files_and_comparisons_are_read() {
    if !has_python() {
        return;
    }
    let place = Place::new();
    let engine = place.write("engine", ENGINE);
    std::fs::set_permissions(&engine, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (i, row) in documents(6).iter().enumerate() {
        let text = |name: &str| row[name].as_str().unwrap();
        let file = format!("{}\n\n{}\n", text("headline"), text("text"));
        place.write(&format!("texts/{i}.txt"), file);
    }
    // By hand: 8 words of text for 4 of the summary; 3 of these are one run of the text, and all
    // are in it.
    place.write_rows(
        "human.jsonl",
        &[json!({"body": "a b c d e f g h", "abstract": "b c d a"})],
    );
    place.write_rows(
        "real.jsonl",
        &[
            json!({"split": "dev"}),
            json!({"split": "test"}),
            json!({"split": "test"}),
        ],
    );
    place.write(
        "recipe.yaml",
        "name: news\ncollect: {from: \"texts/*.txt\", language: ar}\nsummarise: {engine: headline}\nspeak: {engine: command, command: [./engine, \"{voice}\"], voices: [a, bb, ccc]}\nsplit: {dev: 0.2, test: 0.2}\npublish: {real: real.jsonl, compare: [{file: human.jsonl, text: body, summary: abstract}]}\n",
    );
    place.run(&["build", "recipe.yaml"]).succeeds();
    let (manifest, rejected) = assert_reconciled(&place, 6);
    assert!(rejected.is_empty(), "{rejected:?}");
    for row in &manifest {
        let is_same = |document: &Value| {
            document["headline"] == row["summary"] && document["text"] == row["text"]
        };
        assert!(documents(6).iter().any(is_same), "{row}");
    }
    let card = place.text("datasets/news/README.md");
    assert!(
        card.contains("Real recordings: 1 in dev, 2 in test."),
        "{card}"
    );
    let compared = card
        .lines()
        .find(|line| line.contains("human.jsonl"))
        .unwrap();
    let cells: Vec<&str> = compared.split('|').map(str::trim).collect();
    assert!(
        cells.contains(&"1") && compared.contains("75") && compared.contains("100"),
        "{compared}"
    );
}

#[test]
fn licences_of_rows_reach_the_card() {
    if !has_python() {
        return;
    }
    let mut rows = documents(6);
    for (i, row) in rows.iter_mut().enumerate() {
        row["terms"] = json!(if i < 3 { "CC-BY-SA-4.0" } else { "MIT" });
    }
    let place = place(&rows);
    let build = |terms: &str| {
        let text = recipe("").replace("licence: CC-BY-4.0", terms);
        place.write("recipe.yaml", text);
        place.run(&["build", "recipe.yaml"]).succeeds();
        place.text("datasets/news/README.md")
    };
    let card = build("licence_field: terms");
    assert!(
        card.contains("license:\n- cc-by-sa-4.0\n- mit\n") && card.contains("share-alike"),
        "{card}"
    );
    let card = build("licence: My own");
    assert!(
        card.contains("license: other\nlicense_name: My own\n"),
        "{card}"
    );
}

#[test]
fn summaries_are_removed_from_the_spoken_text() {
    if !has_python() {
        return;
    }
    let mut rows = documents(8);
    let headline = rows[2]["headline"].as_str().unwrap().to_owned();
    let text = rows[2]["text"].as_str().unwrap().to_owned();
    rows[2]["text"] = json!(format!("{headline} {text}"));
    let said = rows[3]["headline"]
        .as_str()
        .unwrap()
        .trim_end_matches('.')
        .to_owned();
    rows[3]["text"] = json!(format!(
        "{} ثم {said} أمس.",
        rows[3]["text"].as_str().unwrap()
    ));
    let place = place(&rows);
    let run = |engine: &str| {
        let set = format!("summarise.engine={engine}");
        place
            .run(&[
                "build",
                "recipe.yaml",
                "--set",
                &set,
                "--set",
                "verify.max_copied=1",
            ])
            .succeeds();
        assert_reconciled(&place, 8)
    };
    let (manifest, rejected) = run("headline");
    let of = |manifest: &[Value], id: &str| manifest.iter().find(|row| row["id"] == id).cloned();
    assert_eq!(of(&manifest, "d2").unwrap()["text"], text.as_str());
    assert_eq!(rejected[0]["reason"], "summary_spoken");
    assert_eq!(rejected[0]["id"], "d3");

    let (manifest, _) = run("lead");
    for row in &manifest {
        let text = row["text"].as_str().unwrap();
        let summary = row["summary"].as_str().unwrap();
        assert!(!text.contains(summary));
        let whole = rows.iter().find(|doc| doc["id"] == row["id"]).unwrap();
        assert!(whole["text"].as_str().unwrap().contains(summary));
    }
}

#[test]
fn contaminated_documents_are_rejected() {
    if !has_python() {
        return;
    }
    let rows = documents(6);
    let place = place(&rows);
    let words: Vec<&str> = rows[4]["text"].as_str().unwrap().split(' ').collect();
    place.write_rows("test.jsonl", &[json!({"text": words[5..15].join(" ")})]);
    place.write("recipe.yaml", recipe("clean: {test_sets: test.jsonl}\n"));
    place.run(&["build", "recipe.yaml"]).succeeds();
    let (_, rejected) = assert_reconciled(&place, 6);
    assert_eq!(
        (rejected.len(), &rejected[0]["reason"]),
        (1, &json!("contaminated"))
    );
    assert_eq!(rejected[0]["id"], "d4");
}

#[test]
fn a_model_of_the_project_listens() {
    if !has_python() {
        return;
    }
    // A model of random weights cannot recognise words, so a text is the likeliest only by chance.
    let place = place(&documents(12));
    let listen = format!(
        "listen: {{model: {}, match: 2}}\n",
        crate::command::fixture_text("qwen_omni")
    );
    place.write("recipe.yaml", recipe(&listen));
    let build = ["build", "recipe.yaml", "--device", "cpu"];
    let done = place.run(&build).succeeds();
    let (_, rejected) = assert_reconciled(&place, 12);
    assert!(
        rejected.iter().all(|row| row["reason"] == "not_its_text"),
        "{rejected:?}"
    );
    assert!(
        (1..12).contains(&rejected.len()),
        "{} of 12",
        rejected.len()
    );
    for row in place.lines("datasets/news/rows.jsonl") {
        if row["state"] == "published" {
            assert!(row["listened"]["margin"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
    // Likelihoods are cached like every other answer.
    let before = contents(&place.path("datasets/news"));
    std::fs::remove_dir_all(place.path("datasets/.work")).unwrap();
    assert_eq!(place.run(&build).succeeds().stdout, done.stdout);
    assert_same(
        &contents(&place.path("datasets/news")),
        &before,
        "from the cache",
    );

    // Its transcripts are wrong, and `listen` rejects every row for its errors or for repetitions.
    let transcribed = [
        "listen.transcribe=maqam",
        "listen.floor_cer=0.1",
        "listen.match=0",
    ];
    let mut arguments = build.to_vec();
    transcribed
        .iter()
        .for_each(|set| arguments.extend(["--set", set]));
    place
        .run(&arguments)
        .fails(2, &["every document was rejected"]);
    let rejected = place.lines("datasets/news/rejected.jsonl");
    let is_nonsense =
        |row: &Value| row["reason"] == "unintelligible" || row["reason"] == "transcript_loop";
    assert!(
        rejected.len() == 12 && rejected.iter().all(is_nonsense),
        "{rejected:?}"
    );
}

#[test]
fn a_dry_run_counts_and_sends_no_request() {
    let place = place(&documents(10));
    place.write("engine", "#!/bin/sh\ntouch asked\n");
    let said = place
        .run(&["build", "recipe.yaml", "--dry-run"])
        .succeeds()
        .stdout;
    assert!(
        said.contains("10 documents collected, 0 rejected so far, 10 to go on with"),
        "{said}"
    );
    assert!(
        said.contains("train 6, dev 2, test 2") && said.contains(" of speech, "),
        "{said}"
    );
    assert!(!place.path("asked").exists() && !place.path("datasets/news").exists());
}

#[test]
fn a_dry_run_counts_every_request() {
    let place = place(&documents(10));
    let endpoint = "{url: \"http://a/v1\", model: m, budget: {price_in: 10, price_out: 20}}";
    place.write(
        "recipe.yaml",
        format!(
            "name: news\ncollect: {{from: docs.jsonl, summary: summary, headline: headline}}\nsummarise: {{translate: {{to: ar, endpoint: {endpoint}}}}}\nverify: {{judge: {{endpoint: {endpoint}}}}}\nspeak: {{engine: endpoint, endpoint: {endpoint}, voices: [a, b, c]}}\nlisten: {{transcribe: endpoint, endpoint: {endpoint}, floor_cer: 0.1}}\n"
        ),
    );
    let said = place
        .run(&["build", "recipe.yaml", "--dry-run"])
        .succeeds()
        .stdout;
    let chars: usize = documents(10)
        .iter()
        .map(|row| row["text"].as_str().unwrap().chars().count())
        .sum();
    let dollars = chars as f64 * 10.0 / 1e6;
    for words in [
        // Text, summary and headline are translated, and a summary is judged.
        "40 requests to the language model",
        // Three sentences of each document, and a sentence of each voice.
        "33 requests to the speech endpoint",
        "10 requests to the transcription endpoint",
        &format!("about {chars} characters spoken, {dollars:.2} dollars"),
        "at a price that is not estimated",
    ] {
        assert!(said.contains(words), "`{words}` is not in:\n{said}");
    }
}

#[test]
fn mistakes_in_recipes_have_hints() {
    let place = place(&documents(3));
    for (written, words) in [
        (
            "name: news\ncollect: {from: missing.jsonl, summary: s}\n",
            &[
                "collect.from",
                "missing.jsonl: there is no such file",
                "hint: give a file",
            ][..],
        ),
        (
            "name: news\ncollect: {from: missing/*.txt, summary: s}\n",
            &[
                "collect.from",
                "missing: cannot read",
                "hint: give a folder",
            ],
        ),
        (
            "name: news\ncollect: {from: docs.jsonl}\n",
            &[
                "summarise: `engine: existing` needs",
                "hint: name their field",
            ],
        ),
        (
            "name: news\ncollect: {from: docs.jsonl, text: body, summary: summary}\nspeak: {engine: command, command: [./engine]}\n",
            &[
                "docs.jsonl:1: the row has no text in a field `body`",
                "the row has: id, text",
            ],
        ),
        (
            "name: news\ncollect: {from: docs.jsonl, summary: summary}\nspeek: {}\n",
            &[
                "recipe.yaml:3:1: unknown field `speek`",
                "did you mean `speak`?",
            ],
        ),
        (
            "name: news\ncollect: {from: docs.jsonl, summary: summary}\nspeak: {program: no-such-espeak}\n",
            &[
                "`no-such-espeak` is not on the path",
                "hint: install espeak-ng",
            ],
        ),
        (
            "name: news\ncollect: {from: docs.jsonl, summary: summary}\nspeak: {engine: command, command: [no-such-engine]}\n",
            &[
                "speak.command: `no-such-engine` is not on the path",
                "hint: install it",
            ],
        ),
        (
            "name: news\ncollect: {from: docs.jsonl, summary: summary}\nlisten: {transcribe: endpoint, endpoint: {url: \"http://a/v1\", model: m}}\n",
            &["listen: `transcribe` needs `floor_cer`", "real recordings"],
        ),
        (
            "name: news\ncollect: {from: docs.jsonl, summary: summary, unit: two}\n",
            &["collect: `unit` is `two`", "first_sentence"],
        ),
    ] {
        place.write("recipe.yaml", written);
        place.run(&["build", "recipe.yaml"]).fails(2, words);
    }
    // The word "text" in the encoding of old Arabic files.
    place.write("texts/old.txt", b"\xe4\xd5");
    place.write(
        "recipe.yaml",
        "name: news\ncollect: {from: \"texts/*.txt\"}\nsummarise: {engine: headline}\nspeak: {engine: command, command: [./engine]}\n",
    );
    place.run(&["build", "recipe.yaml"]).fails(
        2,
        &[
            "texts/old.txt: cannot read: it is not UTF-8 text",
            "hint: convert the file",
        ],
    );
    place
        .run(&["build", "recipe.yaml", "--ratings", "none.json"])
        .fails(
            2,
            &["none.json: cannot read", "hint: give files that review"],
        );
}
