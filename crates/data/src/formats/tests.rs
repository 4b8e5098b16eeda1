//! Files that the libraries of other tools wrote (tests/reference/make_formats.py), and exported
//! files read again.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use polars::prelude::ArrowDataType;
use polars::prelude::ArrowField;
use polars::prelude::ArrowSchema;
use polars_parquet::write::schema_to_metadata_key;
use serde_json::Value;

use crate::AudioSource;
use crate::Columns;
use crate::Export;
use crate::Format;
use crate::Manifest;
use crate::OnBadRow;
use crate::Row;
use crate::Source;
use crate::export;
use crate::task::Tasks;
use crate::write_manifest;
use maqam_audio::Span;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats")
}

/// A source among the fixtures, whose relative paths start from their folder.
fn source(path: &str) -> Source {
    Source {
        audio_root: Some(folder()),
        ..Source::new(folder().join(path))
    }
}

fn read(source: &Source) -> Manifest {
    source
        .read(OnBadRow::Error)
        .unwrap_or_else(|error| panic!("{}: {error}", source.path.display()))
}

/// The utterances of `expected.jsonl`.
fn expected() -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(folder().join("expected.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            (row["id"].as_str().unwrap().to_owned(), row)
        })
        .collect()
}

/// Checks that a row is the utterance of its id: its words, its speaker, and its audio to the
/// sample.
fn check(row: &Row, id: &str, what: &str) {
    let expected = &expected()[id];
    let place = format!("{what}, {id}");
    let said = row
        .text
        .as_deref()
        .or(row.target.as_deref())
        .or_else(|| row.messages.last().map(|message| message.content.as_str()));
    assert_eq!(said, expected["text"].as_str(), "{place}");
    if let Some(speaker) = &row.speaker {
        assert_eq!(Some(&**speaker), expected["speaker"].as_str(), "{place}");
    }
    if let Some(language) = &row.language {
        assert_eq!(Some(&**language), expected["language"].as_str(), "{place}");
    }
    let clip = &row.clips[0];
    let heard = clip.source.samples(clip.span).unwrap();
    let start = expected["start_s"].as_f64().unwrap();
    let span = Span {
        start_s: Some(start),
        end_s: Some(start + expected["seconds"].as_f64().unwrap()),
        channel: None,
    };
    let file = folder().join(expected["file"].as_str().unwrap());
    let original = maqam_audio::read(&file, span).unwrap();
    assert_eq!(heard.len(), original.len(), "{place}");
    // Lhotse writes parts again in 16 bits, and resampling a part differs at its ends from
    // resampling the whole.
    let middle = 400..heard.len() - 400;
    let far = heard[middle.clone()]
        .iter()
        .zip(&original[middle])
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(far < 2e-3, "{place}: {far}");
}

fn check_all(manifest: &Manifest, ids: &[&str], what: &str) {
    let found: Vec<&str> = manifest.rows.iter().map(|row| &*row.id).collect();
    assert_eq!(found, ids, "{what}");
    for row in &manifest.rows {
        check(row, &row.id, what);
    }
}

const ALL: [&str; 4] = ["u1", "u2", "u3", "u4"];
const WHOLE: [&str; 2] = ["u1", "u2"];

#[test]
fn files_of_every_library_are_read() {
    for (path, ids) in [
        ("huggingface", &WHOLE[..]),
        ("huggingface/data/train-*-of-00002.parquet", &WHOLE),
        ("saved", &WHOLE),
        ("ms_swift.jsonl", &WHOLE),
        ("ms_swift_pairs.jsonl", &WHOLE),
        ("nemo.json", &ALL),
        ("nemo_conversation.jsonl", &WHOLE),
        ("lhotse/cuts.jsonl", &ALL),
        ("lhotse/cuts.jsonl.gz", &ALL),
        ("lhotse_shar", &ALL),
        ("lhotse_shar/cuts.{000000..000001}.jsonl.gz", &ALL),
        ("kaldi", &ALL),
        ("kaldi/wav.scp", &ALL),
        ("table.csv", &ALL),
        ("table.tsv", &ALL),
        ("slam_llm.jsonl", &WHOLE),
        ("qwen3_asr.jsonl", &WHOLE),
    ] {
        check_all(&read(&source(path)), ids, path);
    }
    for (path, ids) in [
        ("llama_factory", &WHOLE[..]),
        ("llama_factory/asr.json", &WHOLE),
        ("llama_factory/dataset_info.json", &WHOLE),
        ("llama_factory_tags/asr.json", &WHOLE),
        ("nemo_tarred", &ALL),
        (
            "nemo_tarred/sharded_manifests/manifest__OP_0..1_CL_.json",
            &ALL,
        ),
    ] {
        check_all(&read(&Source::new(folder().join(path))), ids, path);
    }
}

#[test]
fn names_that_a_format_gives_are_fields() {
    let rows = read(&Source::new(folder().join("common_voice/train.tsv"))).rows;
    for (row, id) in rows.iter().zip(WHOLE) {
        check(row, id, "Common Voice");
        assert_eq!(row.extra_fields()["age"], "twenties");
    }

    // WebDataset's own rows have no id, so the shard's name distinguishes equal keys.
    let rows = read(&source("webdataset/*.tar")).rows;
    for (row, id) in rows.iter().zip(WHOLE) {
        check(row, id, "WebDataset");
        assert_eq!(&*row.id, format!("{:06}/{id}", row.line - 1));
        assert!(matches!(row.clips[0].source, AudioSource::Range { .. }));
    }

    let rows = read(&source("huggingface")).rows;
    let emotions: Vec<Value> = rows
        .iter()
        .map(|row| row.extra_fields()["emotion"].clone())
        .collect();
    assert_eq!(emotions, ["happy", "sad"], "classes are named");
    let labelled = Source {
        columns: "label=emotion".parse().unwrap(),
        ..source("saved")
    };
    assert_eq!(read(&labelled).rows[0].label.as_deref(), Some("happy"));

    let tasks: Vec<_> = read(&source("slam_llm.jsonl")).rows;
    assert_eq!(tasks[0].task.as_deref(), Some("asr"));
    assert_eq!(tasks[0].instruction.as_deref(), Some("Transcribe."));
    let cuts = read(&source("lhotse/cuts.jsonl")).rows;
    assert_eq!(cuts[0].extra_fields()["emotion"], "happy");
    let system = &read(&Source::new(folder().join("llama_factory"))).rows[0].messages[0];
    assert_eq!(system.content, "Be brief.");
}

#[test]
fn bytes_of_audio_are_those_of_the_file() {
    for path in ["huggingface", "saved", "webdataset/*.tar", "nemo_tarred"] {
        let source = match path {
            "nemo_tarred" => Source::new(folder().join(path)),
            path => source(path),
        };
        for (row, file) in read(&source).rows.iter().zip(["a.wav", "b.flac"]) {
            let original = std::fs::read(folder().join("audio").join(file)).unwrap();
            let found = row.clips[0].source.bytes().unwrap();
            assert_eq!(*found, *original, "{path}, {file}");
        }
    }
}

#[test]
fn unknown_columns_are_named_with_the_line_to_write() {
    let foreign = source("foreign.csv");
    let error = foreign.read(OnBadRow::Skip).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let error = error.to_string();
    assert!(
        error.contains("foreign.csv: this is CSV with columns path, sentence, client\nhint: add `columns: {audio: path, text: sentence}`"),
        "{error}"
    );
    let named = Source {
        columns: "audio=path,text=sentence,speaker=client".parse().unwrap(),
        ..foreign
    };
    for (row, id) in read(&named).rows.iter().zip(WHOLE) {
        check(row, id, "CSV");
    }
    for (columns, path) in [
        ("text=sentense", "foreign.csv"),
        ("text=sentense", "huggingface"),
    ] {
        let wrong = Source {
            columns: columns.parse::<Columns>().unwrap(),
            ..source(path)
        };
        let error = wrong.read(OnBadRow::Error).unwrap_err().to_string();
        assert!(
            error.contains("there is no column `sentense`\nhint: did you mean `sentence`?"),
            "{error}"
        );
    }
    // JSON lines have no head: the first row says which columns there are.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.jsonl");
    std::fs::write(&path, "{\"text\": \"1\", \"mood\": \"glad\"}\n".repeat(2)).unwrap();
    for (columns, hint) in [
        (
            "label=moods",
            "did you mean `mood`? the columns are text, mood",
        ),
        ("label=emotion", "the columns are text, mood"),
    ] {
        let wrong = Source {
            columns: columns.parse::<Columns>().unwrap(),
            ..Source::new(&path)
        };
        let error = wrong.stream(&mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("m.jsonl: there is no column `"), "{error}");
        assert!(error.ends_with(&format!("hint: {hint}")), "{error}");
    }
    let error = source("saved_dict")
        .read(OnBadRow::Error)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("holds several splits: train, test"),
        "{error}"
    );
    let wrong = Source {
        format: Some(Format::Kaldi),
        ..source("nemo.json")
    };
    let error = wrong.read(OnBadRow::Error).unwrap_err().to_string();
    assert!(error.contains("is JSON lines, not kaldi"), "{error}");
}

#[test]
fn equal_faults_are_reported_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.jsonl");
    std::fs::write(&path, "{\"audio\": \"x.wav\"}\n".repeat(50)).unwrap();
    let error = Source::new(&path)
        .read(OnBadRow::Error)
        .unwrap_err()
        .to_string();
    assert!(error.contains("50 of 50 rows cannot be used"), "{error}");
    assert_eq!(error.matches("no audio file at").count(), 1, "{error}");
    assert!(error.contains("(50 rows)"), "{error}");
}

#[test]
fn shards_are_one_manifest() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.jsonl", "{\"text\": \"1\"}\n{\"text\": \"2\"}\n"),
        ("b.jsonl", "{\"text\": \"3\"}\n{\"text\": 4}\n"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let shards = Source::new(dir.path());
    let manifest = shards.read(OnBadRow::Skip).unwrap();
    let ids: Vec<&str> = manifest.rows.iter().map(|row| &*row.id).collect();
    assert_eq!(ids, ["1", "2", "3"]);
    assert_eq!(manifest.skipped_lines, [4]);
    let place = manifest.rows[2].place(dir.path());
    assert!(place.ends_with("b.jsonl:1"), "{place}");
    assert!(
        manifest.skipped[0].message().contains("b.jsonl:2: "),
        "{}",
        manifest.skipped[0]
    );
    assert_eq!(shards.files().unwrap().len(), 2);
    let hash = shards.hash().unwrap();
    std::fs::write(dir.path().join("b.jsonl"), "{\"text\": \"5\"}\n").unwrap();
    assert_ne!(shards.hash().unwrap(), hash);
}

/// Rows with everything that formats can hold, as a manifest.
fn rich(dir: &Path) -> PathBuf {
    let audio = folder().join("audio");
    let path = dir.join("rich.jsonl");
    let a = audio.join("a.wav");
    let c = audio.join("c.wav");
    let rows = [
        serde_json::json!({"id": "x-1", "audio": a, "text": "line, \"quoted\"", "speaker": "s1", "language": "ar", "task": "asr",
            "n": 3, "ratio": 0.5, "tags": ["p", "q"], "about": {"k": [1, {"z": true}]}, "ok": true}),
        serde_json::json!({"id": "x-2", "audio": c, "start_s": 0.125, "end_s": 0.375, "text": "نعم", "label": "happy", "n": 4, "group": "g"}),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(&path, text).unwrap();
    path
}

/// A row without fields that a reader adds: its place, and a length that the format always states.
fn essence(row: &Row) -> Value {
    let mut fields = row.to_json(|_| Ok(Value::Null)).unwrap();
    for name in ["duration", "recording_id", "sampling_rate", "__key__"] {
        fields.shift_remove(name);
    }
    fields.sort_keys();
    fields.into()
}

#[test]
fn nothing_is_lost_on_the_way_out_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let rows = read(&Source::new(rich(dir.path()))).rows;
    let tasks = Tasks::load(None).unwrap();
    for format in Format::all() {
        // Lists of whole files hold no part of one.
        let holds_parts = !matches!(
            format,
            Format::MsSwift | Format::LlamaFactory | Format::SlamLlm | Format::Qwen3Asr
        );
        let rows = match holds_parts {
            true => &rows[..],
            false => &rows[..1],
        };
        for tarred in [false, true] {
            if tarred && format != Format::Nemo {
                continue;
            }
            let out = dir.path().join(format!("{format}-{tarred}"));
            let settings = Export {
                format,
                out: &out,
                copy_audio: false,
                tarred,
                shard_rows: 1,
                task: Some("asr"),
                tasks: &tasks,
            };
            export(rows, Path::new("rich.jsonl"), &settings)
                .unwrap_or_else(|e| panic!("{format}: {e}"));
            let back = read(&Source::new(&out)).rows;
            assert_eq!(back.len(), rows.len(), "{format}");
            for (before, after) in rows.iter().zip(&back) {
                let heard = |row: &Row| row.clips[0].source.samples(row.clips[0].span).unwrap();
                assert_eq!(heard(before), heard(after), "{format}: what is heard");
                assert_eq!(
                    before.clips[0].source.bytes().unwrap(),
                    after.clips[0].source.bytes().unwrap(),
                    "{format}: bytes"
                );
                let before = essence(before);
                let mut after = essence(after);
                let is_text = matches!(
                    format,
                    Format::Csv | Format::Tsv | Format::CommonVoice | Format::Kaldi
                );
                let fields = before.as_object().unwrap();
                for (name, value) in fields {
                    let mut found = after[name.as_str()].take();
                    if is_text
                        && !value.is_string()
                        && let Some(text) = found.as_str()
                    {
                        found = serde_json::from_str(text).unwrap();
                    }
                    assert_eq!(&found, value, "{format}: {name}");
                }
            }
        }
    }
}

/// `datasets` applies the features of the metadata only if the Arrow types are those that pyarrow
/// gives to Python's values.
#[test]
fn exported_columns_have_pythons_arrow_types() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.parquet");
    let rows = [
        serde_json::json!({"id": "1", "audio": folder().join("audio/a.wav"), "text": "x", "tags": ["p"], "n": 1}),
    ];
    let manifest = dir.path().join("m.jsonl");
    std::fs::write(&manifest, rows[0].to_string()).unwrap();
    write_manifest(&read(&Source::new(&manifest)).rows, &path).unwrap();

    let field = |name: &str, of| ArrowField::new(name.into(), of, true);
    let texts = ArrowDataType::List(Box::new(field("item", ArrowDataType::Utf8)));
    let audio = ArrowDataType::Struct(vec![
        field("bytes", ArrowDataType::Binary),
        field("path", ArrowDataType::Utf8),
    ]);
    let expected: ArrowSchema = [
        field("id", ArrowDataType::Utf8),
        field("audio", audio),
        field("text", ArrowDataType::Utf8),
        field("tags", texts),
        field("n", ArrowDataType::Int64),
    ]
    .into_iter()
    .collect();
    let expected = schema_to_metadata_key(&expected).value.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let is_there = bytes
        .windows(expected.len())
        .any(|part| part == expected.as_bytes());
    assert!(is_there, "another Arrow schema");
}

/// A folder of three tables with these columns and one row each.
fn tables(dir: &Path, columns: &str) -> PathBuf {
    let audio = folder().join("audio/a.wav");
    for i in 0..3 {
        let text = format!("{columns}\n{},words,x\n", audio.display());
        std::fs::write(dir.join(format!("{i}.csv")), text).unwrap();
    }
    dir.to_owned()
}

#[test]
fn notes_of_shards_are_one_with_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let notes = read(&Source::new(tables(dir.path(), "audio,sentence,n"))).notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].contains("0.csv: `sentence` is read as `text`"),
        "{}",
        notes[0]
    );
    assert!(notes[0].ends_with(" (in 3 files)"), "{}", notes[0]);
}

#[test]
fn likely_speakers_are_proposed() {
    for column in ["speaker_id", "client_id", "spk"] {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::new(tables(dir.path(), &format!("audio,text,{column}")));
        let read = read(&source);
        assert_eq!(read.rows[0].speaker, None);
        let proposal =
            format!("`{column}` looks like the speaker; say `columns: {{speaker: {column}}}`");
        assert!(read.notes[0].contains(&proposal), "{:?}", read.notes);

        let dir = tempfile::tempdir().unwrap();
        let source = Source::new(tables(dir.path(), &format!("path,sentence,{column}")));
        if column == "client_id" {
            // These are the columns of Common Voice.
            continue;
        }
        let error = source.read(OnBadRow::Error).unwrap_err().to_string();
        let hint = format!("add `columns: {{audio: path, text: sentence, speaker: {column}}}`");
        assert!(error.contains(&hint), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let source = Source::new(tables(dir.path(), "audio,text,speaker"));
    assert!(read(&source).notes.is_empty());
}

#[test]
fn a_compressed_tar_file_gets_its_own_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar.gz");
    let tar = std::fs::read(folder().join("webdataset/000000.tar")).unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &tar).unwrap();
    packed.finish().unwrap();
    let error = Source::new(&path).read(OnBadRow::Error).unwrap_err();
    let command = format!("`gunzip -k {}`", path.display());
    assert!(error.to_string().contains(&command), "{error}");
}

#[test]
fn imports_name_audio_where_it_is_or_hold_it() {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        "webdataset/*.tar",
        "huggingface",
        "lhotse_shar",
        "table.csv",
    ] {
        let before = read(&source(path)).rows;
        for name in ["out.jsonl", "out.parquet"] {
            let out = dir.path().join(path.replace(['/', '*'], "_")).join(name);
            std::fs::create_dir_all(out.parent().unwrap()).unwrap();
            write_manifest(&before, &out).unwrap();
            let after = read(&Source::new(&out)).rows;
            assert_eq!(after.len(), before.len());
            for (before, after) in before.iter().zip(&after) {
                assert_eq!(essence(before), essence(after), "{path} to {name}");
                let bytes = |row: &Row| row.clips[0].source.bytes().unwrap();
                assert_eq!(bytes(before), bytes(after), "{path} to {name}");
                assert_eq!(
                    before.clips[0].span, after.clips[0].span,
                    "{path} to {name}"
                );
            }
        }
    }
}

#[test]
fn every_file_cut_anywhere_is_an_error_or_shorter() {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        "huggingface/data/train-00000-of-00002.parquet",
        "saved/data-00000-of-00002.arrow",
        "lhotse/cuts.jsonl.gz",
        "webdataset/000000.tar",
        "table.csv",
        "llama_factory/asr.json",
    ] {
        let bytes = std::fs::read(folder().join(path)).unwrap();
        let name = Path::new(path).file_name().unwrap();
        let cut = dir.path().join(name);
        for i in 0..24 {
            std::fs::write(&cut, &bytes[..bytes.len() * i / 24]).unwrap();
            let source = Source {
                audio_root: Some(folder()),
                ..Source::new(&cut)
            };
            if let Err(error) = source.read(OnBadRow::Error) {
                assert_eq!(error.exit_code(), 2, "{path} cut at {i}/24: {error}");
                assert!(!error.to_string().contains("panick"), "{error}");
            }
        }
    }
}
