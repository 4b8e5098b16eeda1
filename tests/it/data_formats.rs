//! `maqam data import` and `export`, and other tools' formats on `--data`.

use std::path::Path;

use crate::command::Place;

/// A file that the library of another format wrote.
fn foreign(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/data/tests/fixtures/formats");
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn foreign_formats_are_named_on_data() {
    let place = Place::new();
    let root = foreign("");
    for (data, more) in [
        ("lhotse/cuts.jsonl.gz", vec![]),
        ("kaldi", vec!["--format", "kaldi"]),
        ("huggingface", vec![]),
        ("webdataset/{000000..000001}.tar", vec![]),
        ("foreign.csv", vec!["--columns", "audio=path,text=sentence"]),
    ] {
        let data = foreign(data);
        let mut arguments = vec![
            "features",
            "--data",
            &data,
            "--audio-root",
            &root,
            "--out",
            "f.safetensors",
        ];
        arguments.extend(more);
        place.run(&arguments).succeeds();
        assert!(place.tensors("f.safetensors").len() >= 2, "{data}");
    }
    place
        .run(&[
            "features",
            "--data",
            &foreign("foreign.csv"),
            "--audio-root",
            &root,
            "--out",
            "f.safetensors",
        ])
        .fails(
            2,
            &[
                "this is CSV with columns path, sentence, client",
                "hint: add `columns: {audio: path, text: sentence}`",
            ],
        );
    place
        .run(&[
            "features",
            "--data",
            "someone/some-speech",
            "--out",
            "f.safetensors",
        ])
        .fails(
            2,
            &[
                "is not downloaded",
                "hf download --repo-type dataset someone/some-speech",
            ],
        );
}

#[test]
fn an_import_is_a_manifest_and_an_export_is_read_back() {
    let place = Place::new();
    place
        .run(&[
            "data",
            "import",
            &foreign("webdataset/*.tar"),
            "--out",
            "m.jsonl",
        ])
        .succeeds();
    let rows = place.lines("m.jsonl");
    assert_eq!(rows.len(), 2);
    assert!(rows[0]["audio"]["byte_offset"].is_u64(), "{}", rows[0]);
    place
        .run(&[
            "data",
            "export",
            "m.jsonl",
            "--format",
            "lhotse-shar",
            "--out",
            "shar",
        ])
        .succeeds();
    place
        .run(&["data", "import", "shar", "--out", "back.parquet"])
        .succeeds();
    place
        .run(&[
            "data",
            "export",
            "back.parquet",
            "--format",
            "kaldi",
            "--out",
            "kaldi",
        ])
        .succeeds();
    place
        .run(&["data", "import", "kaldi", "--out", "end.jsonl"])
        .succeeds();
    let texts = |rows: &[serde_json::Value]| -> Vec<String> {
        rows.iter().map(|row| row["text"].to_string()).collect()
    };
    assert_eq!(texts(&rows), texts(&place.lines("end.jsonl")));
    place
        .run(&[
            "data", "export", "m.jsonl", "--format", "kaldi", "--out", "kaldi",
        ])
        .fails(2, &["exists already"]);
    place
        .run(&[
            "data", "export", "m.jsonl", "--format", "kalid", "--out", "k",
        ])
        .fails(2, &["did you mean `kaldi`?"]);
}

/// A folder that takes no index, as a read-only one: what stands in the index's place cannot be
/// replaced, by root neither.
#[test]
fn indices_of_read_only_folders_are_in_runs() {
    let place = Place::new();
    let tar = std::fs::read(foreign("webdataset/000000.tar")).unwrap();
    place.write("shards/a.tar", tar);
    place.write("shards/a.tar.maqam-index/taken", "x");
    let read = || {
        place
            .run(&["data", "import", "shards/a.tar", "--out", "m.jsonl"])
            .succeeds();
        let folder = std::fs::read_dir(place.path("runs/.shards")).unwrap();
        let files: Vec<std::path::PathBuf> = folder.map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let written = files[0].metadata().unwrap().modified().unwrap();
        (std::fs::read(&files[0]).unwrap(), written)
    };
    let first = read();
    let rows = place.lines("m.jsonl");
    assert!(rows[0]["audio"]["byte_offset"].is_u64(), "{}", rows[0]);
    // The second command reads the index and does not write it again.
    assert_eq!(read(), first);
    assert_eq!(place.lines("m.jsonl"), rows);
}

/// A recipe that trains on a format of another tool, from tar files, draws as planned, stops and
/// resumes at any step.
#[test]
fn training_reads_ranges_of_tar_files_and_resumes() {
    let place = Place::new();
    let model = crate::command::fixture_text("qwen_omni");
    let shards = foreign("webdataset/{000000..000001}.tar");
    let recipe = format!(
        "\
name: tar
model: {{path: \"{model}\"}}
train: {{decoder: lora}}
lora: {{rank: 4, targets: all-linear}}
data: [{{manifest: \"{shards}\", task: asr}}]
schedule: {{batch: 1, stages: [{{steps: 4}}]}}
checkpoint: {{every: 1, keep: 9}}
seed: 3
"
    );
    place.write("tar.yaml", recipe);
    place.run(&["train", "tar.yaml"]).succeeds();
    let whole = place.text("runs/tar/log.jsonl");

    // The run continues from its second step as if it had stopped there.
    for step in ["step-000003", "step-000004"] {
        let checkpoint = place.path("runs/tar/checkpoints").join(step);
        std::fs::remove_dir_all(checkpoint).unwrap();
    }
    place.run(&["train", "tar.yaml", "--resume"]).succeeds();
    assert_eq!(place.text("runs/tar/log.jsonl"), whole);
    place
        .run(&["plan", "tar.yaml", "--picks", "picks.jsonl"])
        .succeeds();
    assert_eq!(place.lines("picks.jsonl").len(), 4);
    let inputs = place.json("runs/tar/inputs.json");
    let clips = inputs["clips"].as_object().unwrap();
    assert!(clips.keys().all(|clip| clip.contains(".tar#")), "{clips:?}");
}
