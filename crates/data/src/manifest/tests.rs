//! Manifests of every form, good and bad.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::AudioSource;
use crate::Role;
use maqam_audio::Span;
use polars::prelude::*;
use proptest::prelude::*;

/// A folder with `a.wav` and `b.wav`, and a manifest of these bytes in it.
fn written(name: &str, contents: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for audio in ["a.wav", "b.wav"] {
        std::fs::write(dir.path().join(audio), b"RIFF").unwrap();
    }
    let path = dir.path().join(name);
    std::fs::write(&path, contents).unwrap();
    (dir, path)
}

fn read(contents: &str) -> Result<Manifest> {
    let (_dir, path) = written("m.jsonl", contents.as_bytes());
    read_manifest(&path, None, OnBadRow::Error)
}

fn row(line: &str) -> Row {
    read(line).unwrap().rows.remove(0)
}

/// The error of one bad line, without the folder in front.
fn refused(line: &str) -> String {
    let error = read(line).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error
        .to_string()
        .split("m.jsonl:")
        .last()
        .unwrap()
        .to_owned()
}

fn audio_files(row: &Row) -> Vec<String> {
    let name = |clip: &crate::Clip| match &clip.source {
        AudioSource::File(path) => path.file_name().unwrap().to_string_lossy().into_owned(),
        AudioSource::Embedded { name, bytes } => {
            format!("{name}:{}", String::from_utf8_lossy(bytes))
        }
    };
    row.clips.iter().map(name).collect()
}

#[test]
fn every_field_of_the_contract_is_read() {
    let row = row(r#"{"id": "x", "audio": "a.wav", "start_s": 1, "end_s": 2.5, "task": "asr", "language": "ar", "text": "t", "summary": "s", "label": "l",
        "references": ["r1", "r2"], "speaker": 12, "group": "g", "duration": 3, "split": "train", "instruction": "i", "target": "y", "licence": "CC0", "n": [1]}"#
        .replace('\n', " ")
        .as_str());
    assert_eq!((&*row.id, row.line), ("x", 1));
    assert_eq!(
        row.clips[0].span,
        Span {
            start_s: Some(1.0),
            end_s: Some(2.5),
            channel: None,
        }
    );
    assert_eq!(
        [
            row.task.as_deref(),
            row.language.as_deref(),
            row.label.as_deref(),
            row.speaker.as_deref()
        ],
        [Some("asr"), Some("ar"), Some("l"), Some("12")]
    );
    assert_eq!(
        [
            row.text.as_deref(),
            row.summary.as_deref(),
            row.instruction.as_deref(),
            row.target.as_deref()
        ],
        [Some("t"), Some("s"), Some("i"), Some("y")]
    );
    assert_eq!(
        (row.group.as_deref(), row.split.as_deref(), row.duration),
        (Some("g"), Some("train"), Some(3.0))
    );
    assert_eq!(row.references, ["r1".into(), "r2".into()]);
    assert_eq!(
        serde_json::Value::from(row.extra_fields()),
        serde_json::json!({"licence": "CC0", "n": [1]})
    );
}

#[test]
fn bom_crlf_blank_lines_and_nulls_are_fine() {
    let manifest = read("\u{feff}{\"audio\": null, \"text\": \"a\"}\r\n\r\n   \n{\"audio\": \"a.wav\", \"text\": null}").unwrap();
    let ids: Vec<(&str, u32)> = manifest
        .rows
        .iter()
        .map(|row| (&*row.id, row.line))
        .collect();
    assert_eq!(
        ids,
        [("1", 1), ("4", 4)],
        "a row without an id is named by its line"
    );
    assert_eq!(
        (manifest.rows[0].clips.len(), manifest.rows[1].clips.len()),
        (0, 1)
    );
    assert_eq!(manifest.rows[0].extra, None);
}

#[test]
fn what_rows_say_alike_is_stored_once() {
    let manifest = read("{\"id\": \"a\", \"task\": \"asr\", \"licence\": \"x\"}\n{\"id\": \"b\", \"task\": \"asr\", \"licence\": \"x\"}").unwrap();
    let [a, b] = &manifest.rows[..] else { panic!() };
    assert!(Arc::ptr_eq(
        a.task.as_ref().unwrap(),
        b.task.as_ref().unwrap()
    ));
    assert!(Arc::ptr_eq(
        a.extra.as_ref().unwrap(),
        b.extra.as_ref().unwrap()
    ));
    assert!(size_of::<Row>() <= 320, "{} bytes a row", size_of::<Row>());
}

#[test]
fn conversations_of_both_kinds_are_read() {
    let swift = row(r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "<audio>a<audio>"},
        {"role": "assistant", "content": "b", "loss": false}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "<audio>"}], "audios": ["a.wav", "b.wav"]}"#
        .replace('\n', " ")
        .as_str());
    let roles: Vec<Role> = swift.messages.iter().map(|message| message.role).collect();
    assert_eq!(
        roles,
        [
            Role::System,
            Role::User,
            Role::Assistant,
            Role::User,
            Role::Assistant
        ]
    );
    assert_eq!(
        (swift.messages[2].loss, swift.messages[4].loss),
        (false, true)
    );
    assert_eq!(
        audio_files(&swift),
        ["a.wav", "b.wav"],
        "a mark in the model's own words is no clip"
    );
    let factory = row(
        r#"{"conversations": [{"from": "human", "value": "<audio>q"}, {"from": "gpt", "value": "a"}], "audios": "a.wav", "system": "S"}"#,
    );
    let said: Vec<(&str, &str)> = factory
        .messages
        .iter()
        .map(|message| (message.role.as_str(), message.content.as_str()))
        .collect();
    assert_eq!(
        said,
        [("system", "S"), ("user", "<audio>q"), ("assistant", "a")]
    );
}

#[test]
fn bad_rows_say_where_what_and_what_to_do() {
    for (line, expected) in [
        (
            "{\"id\": 1",
            "1: column 8: not JSON: EOF while parsing an object\nhint: a manifest holds one JSON object a line",
        ),
        (
            "[",
            "1: column 1: not JSON: EOF while parsing a list\nhint: a manifest is JSON lines, one object a line; this looks like a JSON array: `jq -c '.[]'` turns it into lines",
        ),
        (
            "[1]",
            "1: found the list [1], not a JSON object\nhint: a manifest holds one JSON object a line",
        ),
        (r#"{"text": 5}"#, "1: `text` is the number 5, not a string"),
        (
            r#"{"id": ["x"]}"#,
            "1: `id` is the list [\"x\"], not a string or a whole number",
        ),
        (
            r#"{"duration": "long"}"#,
            "1: `duration` is the string \"long\", not a number of seconds",
        ),
        (
            r#"{"duration": -1}"#,
            "1: `duration` is -1\nhint: a time in seconds is zero or more",
        ),
        (
            r#"{"audio": "a.wav", "start_s": 2, "end_s": 2}"#,
            "1: the span from 2 s to 2 s is empty\nhint: `end_s` lies after `start_s`, both in seconds",
        ),
        (
            r#"{"text": "x", "end_s": 2}"#,
            "1: `start_s` or `end_s` without audio",
        ),
        (
            r#"{"audio": "https://x/a.wav"}"#,
            "1: audio is the string \"https://x/a.wav\", not a path\nhint: audio is read from files: fetch it first",
        ),
        (
            r#"{"audio": ["a.wav"]}"#,
            "1: `audio` is the list [\"a.wav\"], not a path\nhint: a row with several clips lists their paths under `audios`",
        ),
        (
            r#"{"audio": "a.wav", "audios": []}"#,
            "1: the row has both `audio` and `audios`\nhint: keep one of them",
        ),
        (
            r#"{"messages": [{"role": "tool", "content": "x"}]}"#,
            "1: messages[0]: unknown role `tool`\nhint: roles are system, user (human) and assistant (gpt)",
        ),
        (
            r#"{"messages": [{"role": "user"}]}"#,
            "1: messages[0]: `content` is missing",
        ),
        (r#"{"messages": []}"#, "1: `messages` is empty"),
        (
            r#"{"messages": [{"role": "user", "content": "<audio>"}]}"#,
            "1: the user's messages hold 1 `<audio>` marks, the row 0 clips\nhint: write one `<audio>` where each clip is heard",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "x"}], "audios": ["a.wav"]}"#,
            "1: the user's messages hold 0 `<audio>` marks, the row 1 clips\nhint: write one `<audio>` where each clip is heard",
        ),
        (
            r#"{"references": ["a", 1]}"#,
            "1: `references` is the number 1, not a string",
        ),
    ] {
        assert_eq!(refused(line), expected, "{line}");
    }
}

#[test]
fn audio_is_looked_for_where_it_was_said_to_be() {
    let (dir, path) = written("m.jsonl", br#"{"audio": "deep/c.wav"}"#);
    let error = read_manifest(&path, None, OnBadRow::Error)
        .unwrap_err()
        .to_string();
    let resolved = dir.path().join("deep/c.wav");
    assert_eq!(
        error,
        format!(
            "{}:1: no audio file at {}\nhint: relative paths start from the manifest's folder; set `audio_root` if the audio is elsewhere",
            path.display(),
            resolved.display()
        )
    );
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("deep")).unwrap();
    std::fs::write(root.path().join("deep/c.wav"), b"RIFF").unwrap();
    let manifest = read_manifest(&path, Some(root.path()), OnBadRow::Error).unwrap();
    assert_eq!(
        manifest.rows[0].clips[0].source,
        AudioSource::File(root.path().join("deep/c.wav").into())
    );
}

#[test]
fn bad_rows_are_named_together_or_skipped() {
    let lines: String = (1..=60)
        .map(|i| {
            if i % 2 == 0 {
                format!("{{\"text\": {i}}}\n")
            } else {
                format!("{{\"id\": \"x{i}\"}}\n")
            }
        })
        .collect();
    let (_dir, path) = written(
        "m.jsonl",
        format!("{lines}{{\"id\": \"x1\"}}\n{{\"id\": \"x1\"}}\n").as_bytes(),
    );
    let error = read_manifest(&path, None, OnBadRow::Error)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!(
            "{}: 32 of 62 rows cannot be used\n",
            path.display()
        )),
        "{error}"
    );
    assert_eq!(error.matches("not a string").count(), MAX_BAD_ROWS_NAMED);
    assert!(
        error.contains("\n  and 12 more\nhint: mend these rows, or set `on_bad_row: skip`"),
        "{error}"
    );
    let manifest = read_manifest(&path, None, OnBadRow::Skip).unwrap();
    assert_eq!((manifest.rows.len(), manifest.skipped.len()), (30, 32));
    assert!(
        manifest.skipped[30]
            .to_string()
            .contains("m.jsonl:61: id `x1` was used before, in line 1"),
        "{}",
        manifest.skipped[30]
    );
    assert!(
        manifest.rows.iter().all(|row| row.line <= 60),
        "the first of a repeated id stays"
    );
}

#[test]
fn a_manifest_of_nothing_is_refused() {
    assert!(read("").unwrap_err().to_string().ends_with("holds no rows"));
    let (_dir, path) = written("m.jsonl", b"nonsense\n{}x\n");
    assert!(
        read_manifest(&path, None, OnBadRow::Skip)
            .unwrap_err()
            .to_string()
            .contains("2 of 2 rows cannot be used")
    );
    assert!(
        read_manifest(Path::new("/nowhere/m.jsonl"), None, OnBadRow::Skip)
            .unwrap_err()
            .to_string()
            .contains("cannot read")
    );
    assert!(
        read_manifest(Path::new("/"), None, OnBadRow::Skip)
            .unwrap_err()
            .to_string()
            .contains("is a folder")
    );
}

#[test]
fn parquet_of_hugging_face_is_read() {
    // Written by pyarrow: tests/fixtures/manifest/make.py.
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/manifest/hugging_face.parquet");
    let (dir, _) = written("m.jsonl", b"");
    std::fs::write(dir.path().join("two.wav"), b"RIFF").unwrap();
    let rows = read_manifest(&path, Some(dir.path()), OnBadRow::Error)
        .unwrap()
        .rows;
    let ids: Vec<(&str, u32)> = rows.iter().map(|row| (&*row.id, row.line)).collect();
    assert_eq!(ids, [("7", 1), ("8", 2), ("9", 3)]);
    assert_eq!(
        [
            audio_files(&rows[0]),
            audio_files(&rows[1]),
            audio_files(&rows[2])
        ],
        [
            vec!["one.wav:RIFF-one".to_owned()],
            vec!["two.wav".to_owned()],
            vec![]
        ]
    );
    assert_eq!(
        [rows[0].duration, rows[1].duration, rows[2].duration],
        [Some(0.1), None, Some(2.5)]
    );
    assert_eq!(
        (rows[0].text.as_deref(), rows[1].text.as_deref()),
        (Some("مرحبا"), None)
    );
    assert_eq!(rows[0].references, ["a".into(), "b".into()]);
    assert_eq!(
        rows[2]
            .messages
            .iter()
            .map(|message| message.content.as_str())
            .collect::<Vec<_>>(),
        ["q", "a"]
    );
    assert_eq!(
        serde_json::Value::from(rows[0].extra_fields()),
        serde_json::json!({"score": 0.5})
    );
}

#[test]
fn parquet_of_plain_columns_says_what_jsonl_says() {
    let (dir, jsonl) = written("m.jsonl", b"{\"id\": \"x\", \"audio\": \"a.wav\", \"start_s\": 0.5, \"label\": \"3\", \"ok\": true}\n{\"id\": \"y\", \"audio\": \"b.wav\", \"label\": \"4\", \"ok\": false}\n");
    let mut frame =
        df!("id" => ["x", "y"], "audio" => ["a.wav", "b.wav"], "start_s" => [Some(0.5), None], "label" => [3i64, 4], "ok" => [true, false]).unwrap();
    let path = dir.path().join("m.PARQUET");
    ParquetWriter::new(std::fs::File::create(&path).unwrap())
        .with_compression(ParquetCompression::Uncompressed)
        .finish(&mut frame)
        .unwrap();
    assert_eq!(
        read_manifest(&path, None, OnBadRow::Error).unwrap().rows,
        read_manifest(&jsonl, None, OnBadRow::Error).unwrap().rows
    );

    let mut bad = df!("id" => ["x", "x"], "text" => [1.5, 2.5]).unwrap();
    ParquetWriter::new(std::fs::File::create(&path).unwrap())
        .with_compression(ParquetCompression::Uncompressed)
        .finish(&mut bad)
        .unwrap();
    let error = read_manifest(&path, None, OnBadRow::Error)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("m.PARQUET:2: `text` is the number 2.5, not a string"),
        "{error}"
    );
}

#[test]
fn a_broken_parquet_file_is_named() {
    let (_dir, path) = written("m.parquet", b"PAR1 and nothing else");
    let error = read_manifest(&path, None, OnBadRow::Skip)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("m.parquet: not a readable Parquet file"),
        "{error}"
    );
}

#[test]
fn a_damaged_parquet_file_is_named() {
    let whole = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/manifest/hugging_face.parquet"),
    )
    .unwrap();
    let refused = |bytes: &[u8]| {
        let (_dir, path) = written("m.parquet", bytes);
        read_manifest(&path, None, OnBadRow::Skip)
            .unwrap_err()
            .to_string()
    };
    for len in (0..whole.len()).step_by(7) {
        let error = refused(&whole[..len]);
        assert!(
            error.contains("m.parquet: not a readable Parquet file"),
            "{len} bytes: {error}"
        );
    }
    // A length inside the first page, which the column reader believes.
    let mut damaged = whole;
    damaged[105] = 0;
    assert!(
        refused(&damaged)
            .contains("m.parquet: not a readable Parquet file: its contents are damaged")
    );
}

/// Bytes that are now and then nearly a manifest.
fn nearly_jsonl() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("id"),
        Just("audio"),
        Just("audios"),
        Just("start_s"),
        Just("messages"),
        Just("references"),
        Just("loss"),
        Just("x")
    ];
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("\"a.wav\"".to_owned()),
        Just("[{\"role\": \"user\", \"content\": \"<audio>\"}]".to_owned()),
        Just("\"[1\"".to_owned()),
        Just("-1e400".to_owned()),
        any::<f64>().prop_map(|x| x.to_string()),
        Just("{}".to_owned()),
    ];
    let object = proptest::collection::vec((name, value), 0..4).prop_map(|fields| {
        format!(
            "{{{}}}",
            fields
                .iter()
                .map(|(k, v)| format!("\"{k}\": {v}"))
                .collect::<Vec<_>>()
                .join(", ")
        )
        .into_bytes()
    });
    let line = prop_oneof![2 => object, 1 => proptest::collection::vec(any::<u8>(), 0..40)];
    proptest::collection::vec(line, 0..6).prop_map(|lines| lines.join(&b'\n'))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_the_reader_panic(contents in nearly_jsonl()) {
        let (_dir, path) = written("m.jsonl", &contents);
        let strict = read_manifest(&path, None, OnBadRow::Error);
        let lenient = read_manifest(&path, None, OnBadRow::Skip);
        if let Ok(manifest) = &strict {
            prop_assert!(manifest.skipped.is_empty());
            prop_assert_eq!(&manifest.rows, &lenient.unwrap().rows);
        } else if let Ok(manifest) = lenient {
            prop_assert!(!manifest.skipped.is_empty());
        }
    }

    #[test]
    fn no_bytes_make_the_parquet_reader_panic(contents in proptest::collection::vec(any::<u8>(), 0..60)) {
        let (_dir, path) = written("m.parquet", &contents);
        prop_assert!(read_manifest(&path, None, OnBadRow::Error).is_err());
    }
}
