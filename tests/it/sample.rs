//! The sample agrees with its README: complete clips, four tasks each, splits without common voices
//! and sentences, emotions crossed evenly.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use maqam::audio;
use maqam::audio::Span;
use maqam::data::AudioSource;
use maqam::data::OnBadRow;
use maqam::data::Row;
use maqam::data::read_manifest;

const TASKS: [&str; 4] = ["asr", "summarization", "dialect", "emotion"];

fn rows(task: &str, split: &str) -> Vec<Row> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/sample/{task}-{split}.jsonl"));
    read_manifest(&path, None, OnBadRow::Error).unwrap().rows
}

#[test]
fn clips_have_four_tasks_and_their_stated_lengths() {
    for (split, num_clips) in [("train", 640), ("dev", 100), ("test", 120)] {
        let asr = rows("asr", split);
        assert_eq!(asr.len(), num_clips);
        let ids = |rows: &[Row]| {
            rows.iter()
                .map(|row| row.id.to_string())
                .collect::<BTreeSet<_>>()
        };
        for task in TASKS {
            assert_eq!(ids(&rows(task, split)), ids(&asr), "{task} {split}");
        }
        for row in &asr {
            let AudioSource::File(path) = &row.clips[0].source else {
                panic!("{} is no file", row.id)
            };
            let seconds = audio::duration_s(path, Span::default()).unwrap();
            assert!(
                (seconds - row.duration.unwrap()).abs() < 0.01,
                "{}: {seconds} s",
                row.id
            );
        }
    }
}

#[test]
fn splits_share_no_voice_and_no_sentence() {
    let by_split: Vec<Vec<Row>> = ["train", "dev", "test"]
        .map(|split| rows("asr", split))
        .into();
    for (i, a) in by_split.iter().enumerate() {
        for b in &by_split[i + 1..] {
            let set = |rows: &[Row], value: fn(&Row) -> String| {
                rows.iter().map(value).collect::<BTreeSet<_>>()
            };
            for value in [
                |row: &Row| row.speaker.as_deref().unwrap().to_owned(),
                |row: &Row| row.text.as_deref().unwrap().to_owned(),
            ] {
                assert!(set(a, value).is_disjoint(&set(b, value)));
            }
        }
    }
}

#[test]
fn voices_and_sentences_have_every_emotion() {
    for (split, tolerance) in [("train", 0), ("dev", 1), ("test", 0)] {
        let mut of_voice = BTreeMap::<(String, String), i32>::new();
        let mut of_sentence = BTreeMap::<String, BTreeSet<String>>::new();
        for row in rows("emotion", split) {
            let label = row.label.as_deref().unwrap().to_owned();
            *of_voice
                .entry((row.speaker.as_deref().unwrap().to_owned(), label.clone()))
                .or_default() += 1;
            of_sentence
                .entry(row.group.as_deref().unwrap().to_owned())
                .or_default()
                .insert(label);
        }
        assert!(of_sentence.values().all(|labels| labels.len() == 4));
        let least = of_voice.values().min().unwrap();
        let most = of_voice.values().max().unwrap();
        assert!(most - least <= tolerance, "{split}: {of_voice:?}");
    }
}
