//! Manifests of every form, good and bad.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::AudioSource;
use crate::MAX_BAD_ROWS_NAMED;
use crate::OnBadRow;
use crate::Role;
use crate::read_manifest;
use maqam_audio::Span;
use maqam_base::error::Result;
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
        AudioSource::Range { member, .. } => member.to_string(),
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
fn equal_texts_are_stored_once() {
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
fn bad_rows_have_a_place_a_fault_and_a_hint() {
    for (line, expected) in [
        (
            "{\"id\": 1",
            "1: column 8: not JSON: it ends inside an object\nhint: the text may be cut off: copy or write it again; JSON lines have one whole object a line",
        ),
        (
            "[",
            "1: column 1: not JSON: it ends inside a list\nhint: the text may be cut off: copy or write it again; JSON lines have one whole object a line",
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
            "1: the span from 2 s to 2 s is empty\nhint: `end_s` lies after `start_s`, both in the same unit",
        ),
        (r#"{"text": "x", "end_s": 2}"#, "1: `end_s` without audio"),
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
            "1: the user's messages hold 1 `<audio>` marks, the row 0 clips\nhint: list the paths under `audios`, or write them in the message: <audio>clip.wav</audio>",
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
fn missing_audio_shows_the_resolved_path() {
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
        error.contains("\n  and 12 more\nhint: mend these rows"),
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
        read_manifest(tempfile::tempdir().unwrap().path(), None, OnBadRow::Skip)
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
fn parquet_rows_equal_jsonl_rows() {
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
            error.contains("m.parquet: not a readable Parquet file")
                || (len < 4 && error.contains("not a Parquet file")),
            "{len} bytes: {error}"
        );
    }
    // A length inside the first page, which the column reader trusts.
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

/// A row's one clip.
fn clip(line: &str) -> crate::Clip {
    row(line).clips.remove(0)
}

fn span(start_s: Option<f64>, end_s: Option<f64>, channel: Option<u16>) -> Span {
    Span {
        start_s,
        end_s,
        channel,
    }
}

#[test]
fn every_form_of_a_part_is_read() {
    let half = span(Some(0.5), Some(1.5), None);
    for (fields, expected) in [
        (r#""start_s": 0.5, "end_s": 1.5"#, half),
        (r#""offset": 0.5, "duration": 1.0"#, half),
        (r#""start": 0.5, "end": 1.5"#, half),
        (r#""start": 0.5, "duration": 1"#, half),
        (r#""start_ms": 500, "end_ms": 1500"#, half),
        (r#""start_ms": 500, "duration_ms": 1000"#, half),
        (r#""offset": "0.5", "duration": "1.0""#, half),
        (r#""offset": 0.5, "end": 1.5, "start_s": 0.5"#, half),
        (
            r#""offset": 0, "duration": 1"#,
            span(Some(0.0), Some(1.0), None),
        ),
        (r#""offset": 0.5"#, span(Some(0.5), None, None)),
        (r#""end": 1.5, "duration": 9"#, span(None, Some(1.5), None)),
        (r#""channel": 1"#, span(None, None, Some(1))),
        (r#""channel": [0]"#, span(None, None, Some(0))),
        (
            r#""channel": "1", "start": 0.5"#,
            span(Some(0.5), None, Some(1)),
        ),
        (r#""channel": "right""#, span(None, None, Some(1))),
        (r#""duration": 1.5"#, Span::WHOLE),
        (r#""channel": "Al Jazeera""#, Span::WHOLE),
    ] {
        assert_eq!(
            clip(&format!(r#"{{"audio": "a.wav", {fields}}}"#)).span,
            expected,
            "{fields}"
        );
    }
    assert_eq!(
        clip(r#"{"audio": "a.wav", "duration": 1.5}"#).stated_s,
        Some(1.5)
    );
    assert_eq!(
        row(r#"{"audio": "a.wav", "channel": "Al Jazeera"}"#).extra_fields()["channel"],
        "Al Jazeera"
    );
    // Without audio, times select no part.
    assert_eq!(
        row(r#"{"text": "x", "start": "early"}"#).extra_fields()["start"],
        "early"
    );
}

#[test]
fn parts_that_contradict_or_mean_nothing_are_refused() {
    for (fields, expected) in [
        (
            r#""start_s": 0.5, "offset": 1"#,
            "`start_s` says 0.5 s and `offset` says 1 s\nhint: keep one of them",
        ),
        (
            r#""start": 2, "end": 1"#,
            "the span from 2 s to 1 s is empty\nhint: `end` lies after `start`",
        ),
        (
            r#""offset": 1, "duration": 0"#,
            "`duration` beside `offset` is 0",
        ),
        (
            r#""start": "early""#,
            "`start` is the string \"early\", not a number of seconds",
        ),
        (
            r#""channel": 1.5"#,
            "`channel` is the number 1.5, not the number of a channel\nhint: channels are whole numbers from 0",
        ),
        (r#""channel": -1"#, "`channel` is the number -1"),
        (r#""channel": [0, 1]"#, "`channel` is the list [0,1]"),
        (r#""channel": "A""#, "`channel` is the string \"A\""),
        (
            r#""images": ["x.png"]"#,
            "the row has `images`; maqam reads audio and text\nhint: remove `images`",
        ),
        (r#""image": "x.png""#, "the row has `image`"),
        (r#""videos": ["x.mp4"]"#, "the row has `videos`"),
    ] {
        let error = refused(&format!(r#"{{"audio": "a.wav", {fields}}}"#));
        assert!(
            error.starts_with(&format!("1: {expected}")),
            "{fields}\n-> {error}"
        );
    }
    let error = refused(r#"{"audios": ["a.wav", "b.wav"], "offset": 1}"#);
    assert!(
        error.starts_with("1: `offset` with 2 clips\nhint: give each clip its own part"),
        "{error}"
    );
    assert!(
        row(r#"{"audio": "a.wav", "images": [], "video": null, "image": ""}"#)
            .extra
            .is_none()
    );
}

#[test]
fn clips_as_objects_have_parts_of_their_own() {
    let two = row(
        r#"{"audios": [{"audio": "a.wav", "offset": 0.5, "duration": 1}, {"path": "b.wav", "channel": 1}], "duration": 3}"#,
    );
    assert_eq!(audio_files(&two), ["a.wav", "b.wav"]);
    assert_eq!(two.clips[0].span, span(Some(0.5), Some(1.5), None));
    assert_eq!(two.clips[1].span, span(None, None, Some(1)));
    assert_eq!(
        (two.clips[0].stated_s, two.duration),
        (Some(1.0), Some(3.0))
    );
    for (line, expected) in [
        (
            r#"{"audio": {"array": [0.1], "sampling_rate": 16000}}"#,
            "audio is written into the row (`array`), not in a file",
        ),
        (
            r#"{"audio": {"seconds": 3}}"#,
            "audio without a path: {\"seconds\":3}",
        ),
        (
            r#"{"audio": {"path": "a.wav", "start": 1}, "start": 2}"#,
            "`start` beside a clip that has a part of its own",
        ),
        (
            r#"{"audio": {"path": "a.wav", "duration": 2}, "duration": 2.5}"#,
            "the row's duration is 2.5 s, its clip's 2 s\nhint: keep one of them",
        ),
    ] {
        assert!(
            refused(line).starts_with(&format!("1: {expected}")),
            "{}",
            refused(line)
        );
    }
    let rounded = row(r#"{"audio": {"path": "a.wav", "duration": 2}, "duration": 2.05}"#);
    assert_eq!(rounded.duration, Some(2.0));
    assert_eq!(
        audio_files(&row(r#"{"audio_filepath": "a.wav"}"#)),
        ["a.wav"]
    );
    assert_eq!(
        audio_files(&row(r#"{"audio": {"path": "a.wav", "bytes": null}}"#)),
        ["a.wav"]
    );
}

#[test]
fn conversations_with_audio_inside_are_read() {
    let said = |row: &Row| -> Vec<(&'static str, String)> {
        row.messages
            .iter()
            .map(|m| (m.role.as_str(), m.content.clone()))
            .collect()
    };
    for line in [
        r#"{"messages": [{"role": "user", "content": "<audio>a.wav</audio>what?"}, {"role": "assistant", "content": "yes"}]}"#,
        r#"{"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "what?"}]}, {"role": "assistant", "content": "yes"}]}"#,
        r#"{"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "a.wav"}}, {"type": "text", "text": "what?"}]}, {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}]}"#,
        r#"{"messages": [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "what?"}]}, {"role": "assistant", "content": "yes"}], "audios": ["a.wav"]}"#,
        r#"{"conversations": [{"from": "human", "value": "<audio>a.wav</audio>what?"}, {"from": "gpt", "value": "yes"}]}"#,
        r#"{"query": "<audio>what?", "response": "yes", "audios": ["a.wav"]}"#,
        r#"{"query": "what?", "response": "yes", "audio": "a.wav"}"#,
        r#"{"instruction": "what?", "input": "", "output": "yes", "audios": ["a.wav"]}"#,
    ] {
        let row = row(line);
        assert_eq!(
            said(&row),
            [
                ("user", "<audio>what?".to_owned()),
                ("assistant", "yes".to_owned())
            ],
            "{line}"
        );
        assert_eq!(audio_files(&row), ["a.wav"], "{line}");
    }
    let spans = row(
        r#"{"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav", "start": 1, "end": 2}, {"type": "text", "text": " and "}, {"type": "audio", "audio": "b.wav", "channel": 1}]}]}"#,
    );
    assert_eq!(said(&spans), [("user", "<audio> and <audio>".to_owned())]);
    assert_eq!(spans.clips[0].span, span(Some(1.0), Some(2.0), None));
    assert_eq!(spans.clips[1].span, span(None, None, Some(1)));
    let history = row(
        r#"{"system": "S", "history": [["<audio>a.wav</audio>who?", "Ali"]], "query": "why?", "response": "so"}"#,
    );
    let expected = [
        ("system", "S"),
        ("user", "<audio>who?"),
        ("assistant", "Ali"),
        ("user", "why?"),
        ("assistant", "so"),
    ];
    assert_eq!(
        said(&history),
        expected.map(|(role, text)| (role, text.to_owned()))
    );
    // In a row with fields of a task, `query` is an ordinary field.
    assert_eq!(
        row(r#"{"text": "x", "query": "q"}"#).extra_fields()["query"],
        "q"
    );
}

#[test]
fn unsupported_conversations_give_the_reason() {
    for (line, expected) in [
        (
            r#"{"messages": [{"role": "user", "content": "<image><audio>what?"}], "audios": ["a.wav"]}"#,
            "messages[0]: `<image>` in a message; audio and text are read",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}]}"#,
            "messages[0]: content[0]: `image` in a message",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "<audio>"}], "audios": ["a.wav"], "images": ["x.png"]}"#,
            "the row has `images`",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "<audio>a.wav</audio>"}], "audios": ["b.wav"]}"#,
            "the row names audio beside its messages, and inside them",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "<audio>c.wav</audio>"}]}"#,
            "messages[0]: no audio file at ",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "<|audio_bos|><|AUDIO|><|audio_eos|>what?"}], "audios": ["a.wav"]}"#,
            "the user's messages hold 0 `<audio>` marks, the row 1 clips\nhint: `<|AUDIO|>` is the model's own mark",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}]}"#,
            "messages[0]: content[0]: audio is written into the row",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": [{"type": "audio", "audio": "a.wav"}]}]}"#,
            "messages[0]: content[0]: audio in the words of the assistant",
        ),
        (
            r#"{"messages": [{"role": "user", "content": {"text": "x"}}]}"#,
            "messages[0]: `content` is the object",
        ),
        (
            r#"{"query": "q", "response": "r", "history": ["x"]}"#,
            "history[0]: not a question and its answer",
        ),
    ] {
        let error = refused(line);
        assert!(
            error.starts_with(&format!("1: {expected}")),
            "{line}\n-> {error}"
        );
    }
}

#[test]
fn fields_that_look_like_a_part_are_noted_once() {
    let lines = r#"{"audio": "a.wav", "begin": 1, "t0": 2, "age": 3}
{"audio": "b.wav", "begin": 1}
{"audio": "b.wav", "start_s": 1, "segment": 4}"#;
    let notes = read(lines).unwrap().notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].contains("m.jsonl:1: `begin`, `t0` look like a part of the audio"),
        "{notes:?}"
    );
    for line in [
        r#"{"audio": {"path": "a.wav", "begin": 1, "sampling_rate": 16000}}"#,
        r#"{"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "a.wav", "begin": 1}}]}, {"role": "assistant", "content": "x"}]}"#,
    ] {
        let notes = read(line).unwrap().notes;
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("`begin` looks like a part"), "{notes:?}");
    }
    let notes = read(r#"{"audio": "a.wav", "system": "S", "channel": "MBC"}"#)
        .unwrap()
        .notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        read(r#"{"audio": "a.wav", "licence": 3, "age": 4}"#)
            .unwrap()
            .notes
            .is_empty()
    );
}

#[test]
fn texts_are_read_in_their_ordinary_spelling() {
    let manifest = read(
        "{\"text\": \"ﺳﻌﻴﺪ\", \"label\": \"\u{feff}happy\", \"target\": \"cafe\u{301}\", \"references\": [\"ﻻ\"]}\n{\"text\": \"ﷺ\"}",
    )
    .unwrap();
    let row = &manifest.rows[0];
    assert_eq!(
        (row.text.as_deref(), row.label.as_deref()),
        (Some("سعيد"), Some("happy"))
    );
    assert_eq!(
        (row.target.as_deref(), &*row.references[0]),
        (Some("café"), "لا")
    );
    assert_eq!(manifest.rows[1].text.as_deref(), Some("ﷺ"));
    assert_eq!(manifest.notes.len(), 4, "{:?}", manifest.notes);
    assert!(
        manifest
            .notes
            .iter()
            .any(|note| note.contains("m.jsonl:1: `text` of one row holds presentation forms"))
    );
}

#[test]
fn languages_are_folded_to_tags() {
    for (fields, expected) in [
        (r#""language": "Arabic""#, Some("ar")),
        (r#""language": "العربية""#, Some("ar")),
        (r#""language": "en_us""#, Some("en-US")),
        (r#""language": """#, None),
        (r#""lang": "ara""#, Some("ar")),
        (r#""lang": "whatever""#, None),
    ] {
        assert_eq!(
            row(&format!(r#"{{"text": "x", {fields}}}"#))
                .language
                .as_deref(),
            expected,
            "{fields}"
        );
    }
    let error = refused(r#"{"text": "x", "language": "arabik"}"#);
    assert!(
        error.starts_with("1: unknown language `arabik`\nhint: did you mean `arabic`?"),
        "{error}"
    );
}

#[test]
fn files_that_are_no_manifests_are_named() {
    let refused = |name: &str, contents: &[u8], on_bad_row| {
        let (_dir, path) = written(name, contents);
        let error = read_manifest(&path, None, on_bad_row).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    for (name, contents, expected) in [
        (
            "m.jsonl",
            &b"\xff\xfe{\0}\0"[..],
            "m.jsonl: is UTF-16 text, not a manifest\nhint: convert it: `iconv",
        ),
        (
            "m.csv",
            b"path,text\na.wav,x\n",
            "m.csv: this is CSV with columns path, text\nhint: add `columns: {audio: path}`",
        ),
        (
            "m.json",
            b"{\n  \"audio\": \"a.wav\"\n}\n",
            "m.json: has JSON objects that go over several lines",
        ),
        (
            "m.parquet",
            b"version https://git-lfs.github.com/spec/v1\n",
            "m.parquet: is a Git LFS pointer",
        ),
    ] {
        for on_bad_row in [OnBadRow::Error, OnBadRow::Skip] {
            let error = refused(name, contents, on_bad_row);
            assert!(error.contains(expected), "{error}");
        }
    }
    let nan = refused(
        "m.jsonl",
        b"{\"audio\": \"a.wav\", \"snr\": NaN}",
        OnBadRow::Error,
    );
    assert!(
        nan.contains(
            "m.jsonl:1: column 27: not JSON: `NaN` is no number in JSON\nhint: write null"
        ),
        "{nan}"
    );
    let dir = tempfile::tempdir().unwrap();
    let error = read_manifest(dir.path(), None, OnBadRow::Error)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is a folder without files that hold rows\nhint: name a file"),
        "{error}"
    );
}

#[test]
fn a_range_of_bytes_is_a_recording() {
    let (dir, path) = written(
        "m.jsonl",
        br#"{"audio": {"path": "a.wav", "byte_offset": 1, "num_bytes": 2, "member": "x.wav"}, "text": "t"}"#,
    );
    let row = read_manifest(&path, None, OnBadRow::Error)
        .unwrap()
        .rows
        .remove(0);
    let source = &row.clips[0].source;
    assert_eq!(&*source.bytes().unwrap(), b"IF");
    assert_eq!(
        source.name(),
        format!("{}: x.wav", dir.path().join("a.wav").display())
    );
    let written_again = row.to_json(|clip| clip.source.to_json(dir.path())).unwrap();
    assert_eq!(
        written_again["audio"],
        serde_json::json!({"path": "a.wav", "byte_offset": 1, "num_bytes": 2, "member": "x.wav"})
    );
    for (fields, expected) in [
        (
            r#""byte_offset": 3, "num_bytes": 2"#,
            "2 bytes from byte 3 on are not in",
        ),
        (
            r#""byte_offset": 18446744073709551615, "num_bytes": 2"#,
            "are not in",
        ),
        (
            r#""byte_offset": 3"#,
            "one of `byte_offset` and `num_bytes` is missing",
        ),
    ] {
        let error = refused(&format!(r#"{{"audio": {{"path": "a.wav", {fields}}}}}"#));
        assert!(
            error.contains(expected) && error.contains("\nhint: "),
            "{error}"
        );
    }
}
