//! Examples of rows: what each task asks, answers and refuses.

use super::*;
use crate::OnBadRow;
use crate::read_manifest;
use crate::task::Tasks;

/// Rows read from JSON lines in a folder that has `a.wav` and `b.wav`.
fn rows(lines: &[&str]) -> Vec<Row> {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.wav", "b.wav"] {
        std::fs::write(dir.path().join(name), b"RIFF").unwrap();
    }
    let path = dir.path().join("m.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    read_manifest(&path, None, OnBadRow::Error).unwrap().rows
}

fn made(task: &str, line: &str) -> Result<Example> {
    Tasks::load(None).unwrap().get(task).unwrap().example(
        &rows(&[line])[0],
        Wording::Train,
        Key::new(1, "instruction"),
    )
}

/// Role and content of every message.
fn said(example: &Example) -> Vec<(&str, &str)> {
    example
        .messages
        .iter()
        .map(|message| (message.role.as_str(), message.content.as_str()))
        .collect()
}

#[test]
fn a_transcript_is_asked_for_in_the_language_of_the_row() {
    let tasks = Tasks::load(None).unwrap();
    let asr = tasks.get("asr").unwrap();
    for (language, wordings) in [("ar", "ar"), ("ar-EG", "ar"), ("en", "en"), ("fr", "en")] {
        let line = format!(
            r#"{{"audio": "a.wav", "text": "نص", "language": "{language}", "speaker": 7, "duration": 1.5}}"#
        );
        let example = made("asr", &line).unwrap();
        assert_eq!(example.language, language);
        let [
            ("system", "You are a helpful assistant."),
            ("user", question),
            ("assistant", "نص"),
        ] = said(&example)[..]
        else {
            panic!("{example:?}");
        };
        assert!(
            asr.instructions.train[wordings]
                .contains(&question.strip_prefix("<audio>").unwrap().to_owned()),
            "{question}"
        );
        assert_eq!(
            (
                example.reference.as_deref(),
                example.speaker.as_deref(),
                example.duration
            ),
            (Some("نص"), Some("7"), Some(1.5))
        );
        assert_eq!(example.clips.len(), 1);
    }
}

#[test]
fn instructions_are_drawn_from_their_own_set_and_all_of_it() {
    let tasks = Tasks::load(None).unwrap();
    let asr = tasks.get("asr").unwrap();
    let row = &rows(&[r#"{"audio": "a.wav", "text": "x"}"#])[0];
    for wording in [Wording::Train, Wording::Dev, Wording::Test] {
        let drawn: std::collections::BTreeSet<String> = (0..400)
            .map(|epoch| {
                asr.example(row, wording, Key::new(3, "instruction").with(epoch))
                    .unwrap()
                    .messages[1]
                    .content
                    .clone()
            })
            .collect();
        let all: std::collections::BTreeSet<String> = asr.instructions.of(wording)["en"]
            .iter()
            .map(|text| format!("<audio>{text}"))
            .collect();
        assert_eq!(drawn, all);
        let again = asr
            .example(row, wording, Key::new(3, "instruction").with(5))
            .unwrap();
        assert_eq!(
            again,
            asr.example(row, wording, Key::new(3, "instruction").with(5))
                .unwrap()
        );
    }
}

#[test]
fn a_label_is_answered_by_its_word() {
    for (line, answer) in [
        (
            r#"{"audio": "a.wav", "label": "Happy", "language": "en"}"#,
            "happy",
        ),
        (
            r#"{"audio": "a.wav", "label": "happy", "language": "ar"}"#,
            "سعيد",
        ),
        (
            r#"{"audio": "a.wav", "label": "سعيد", "language": "fr"}"#,
            "happy",
        ),
    ] {
        let example = made("emotion", line).unwrap();
        assert_eq!(example.messages.last().unwrap().content, answer, "{line}");
        assert_eq!(
            (example.label.as_deref(), example.reference.as_deref()),
            (Some("happy"), Some("happy"))
        );
        let question = &example.messages[1].content;
        assert!(
            question.contains(if answer == "happy" {
                "angry, disgusted, fearful, happy"
            } else {
                "غاضب، مشمئز، خائف، سعيد"
            }),
            "{question}"
        );
    }
}

#[test]
fn a_json_answer_is_one_line_with_the_labels_name() {
    let mut task = Tasks::load(None).unwrap().get("emotion").unwrap().clone();
    task.answer.format = AnswerFormat::Json;
    let row = &rows(&[r#"{"audio": "a.wav", "label": "happy", "language": "ar"}"#])[0];
    let example = task.example(row, Wording::Dev, Key::new(1, "x")).unwrap();
    assert_eq!(example.messages[2].content, r#"{"emotion": "happy"}"#);
    assert!(
        example.messages[1].content.contains("angry، disgusted"),
        "the list shows what is to be answered"
    );
    assert_eq!(
        task.parse_answer(&example.messages[2].content, crate::task::Parse::Strict),
        example.reference
    );
}

#[test]
fn a_label_outside_the_inventory_is_refused() {
    let error = made("emotion", r#"{"audio": "a.wav", "label": "supprised"}"#)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("label `supprised` is not in the inventory of task `emotion`"),
        "{error}"
    );
    assert!(
        error.contains("did you mean `surprised`? labels are angry, disgusted"),
        "{error}"
    );
}

#[test]
fn a_row_without_audio_gives_its_text_after_the_instruction() {
    let example = made(
        "summarization",
        r#"{"text": "خبر طويل", "summary": "خبر", "instruction": "لخّص:"}"#,
    )
    .unwrap();
    assert_eq!(
        said(&example)[1..],
        [("user", "لخّص:\nخبر طويل"), ("assistant", "خبر")]
    );
    let example = made(
        "summarization",
        r#"{"audio": "a.wav", "text": "خبر طويل", "summary": "خبر", "instruction": "لخّص:"}"#,
    )
    .unwrap();
    assert_eq!(
        said(&example)[1..],
        [("user", "<audio>لخّص:"), ("assistant", "خبر")]
    );
    for (task, line, what) in [
        ("asr", r#"{"text": "x"}"#, "no `audio` for task `asr`"),
        (
            "summarization",
            r#"{"summary": "x", "document": "y"}"#,
            "neither `audio` nor `text` for task `summarization`\nhint: fields of other names are kept but not read: `document`",
        ),
        (
            "summarization",
            r#"{"text": "says <audio>", "summary": "x"}"#,
            "holds `<audio>` but no audio",
        ),
    ] {
        let error = made(task, line).unwrap_err().to_string();
        assert!(error.starts_with(what), "{error}");
    }
}

#[test]
fn a_rows_own_words_win() {
    let example = made(
        "emotion",
        r#"{"audio": "a.wav", "label": "sad", "instruction": "Mood?", "target": "He is sad."}"#,
    )
    .unwrap();
    assert_eq!(
        said(&example)[1..],
        [("user", "<audio>Mood?"), ("assistant", "He is sad.")]
    );
    assert_eq!(example.reference.as_deref(), Some("sad"));
    let example = made("asr", r#"{"audios": ["a.wav", "b.wav"], "instruction": "First <audio> then <audio>.", "target": "t"}"#).unwrap();
    assert_eq!(said(&example)[1].1, "First <audio> then <audio>.");
    assert!(
        made(
            "asr",
            r#"{"audios": ["a.wav", "b.wav"], "instruction": "Only <audio>.", "target": "t"}"#
        )
        .is_err()
    );
}

#[test]
fn a_conversation_is_used_as_written() {
    let line = r#"{"messages": [{"role": "user", "content": "<audio>?"}, {"role": "assistant", "content": "حزين"}], "audios": ["a.wav"]}"#;
    let example = made("emotion", line).unwrap();
    assert_eq!(
        said(&example),
        [("user", "<audio>?"), ("assistant", "حزين")]
    );
    assert_eq!(example.reference.as_deref(), Some("sad"));
    let alone = example_without_task(&rows(&[line])[0]).unwrap();
    assert_eq!(
        (alone.task.as_str(), alone.reference.as_deref()),
        ("chat", Some("حزين"))
    );
    assert!(example_without_task(&rows(&[r#"{"audio": "a.wav", "text": "x"}"#])[0]).is_err());
}

#[test]
fn a_row_without_a_target_ends_with_the_question() {
    let example = made("asr", r#"{"audio": "a.wav"}"#).unwrap();
    assert_eq!(example.messages.last().unwrap().role, Role::User);
    assert_eq!(example.reference, None);
}

#[test]
fn the_drawn_instruction_is_named() {
    let tasks = Tasks::load(None).unwrap();
    let emotion = tasks.get("emotion").unwrap();
    let row = &rows(&[
        r#"{"audio": "a.wav", "label": "sad", "language": "ar-EG", "references": ["x"], "gender": "f"}"#,
    ])[0];
    for draw in 0..50 {
        let example = emotion
            .example(row, Wording::Test, Key::new(draw, "instruction"))
            .unwrap();
        let place = example
            .wording
            .as_deref()
            .unwrap()
            .strip_prefix("emotion/test/ar/")
            .unwrap()
            .parse::<usize>()
            .unwrap();
        let asked = emotion.fill(&emotion.instructions.test["ar"][place - 1], "ar");
        assert_eq!(example.messages[1].content, format!("<audio>{asked}"));
        assert_eq!(
            (example.references.as_slice(), example.extra.as_deref()),
            (["x".into()].as_slice(), Some(r#"{"gender":"f"}"#))
        );
    }
    assert_eq!(
        made(
            "asr",
            r#"{"audio": "a.wav", "text": "x", "instruction": "Write."}"#
        )
        .unwrap()
        .wording,
        None
    );
}

#[test]
fn labels_are_written_as_targets_are() {
    let tasks = Tasks::load(None).unwrap();
    let mut emotion = tasks.get("emotion").unwrap().clone();
    for format in [AnswerFormat::Label, AnswerFormat::Json] {
        emotion.answer.format = format;
        for language in ["ar", "en", "fr"] {
            let written = emotion.written_labels(Wording::Dev, language);
            for (label, written) in emotion.labels.iter().zip(&written) {
                let row = &rows(&[&format!(
                    r#"{{"audio": "a.wav", "label": "{}", "language": "{language}"}}"#,
                    label.name
                )])[0];
                assert_eq!(
                    &emotion
                        .example(row, Wording::Dev, Key::new(1, "x"))
                        .unwrap()
                        .messages[2]
                        .content,
                    written
                );
            }
        }
    }
}

#[test]
fn instructions_are_asked_in_the_language_that_is_set() {
    let rows = rows(&[r#"{"text": "x", "summary": "s", "language": "en"}"#]);
    let asked = |language: &str, draw: u64| {
        let tasks = Tasks::load(None)
            .unwrap()
            .asked_in(&language.parse().unwrap());
        let task = tasks.get("summarization").unwrap();
        task.example(&rows[0], Wording::Train, Key::new(draw, "x"))
            .map(|example| example.asked_in().to_owned())
    };
    assert_eq!(asked("row", 1).unwrap(), "en");
    assert_eq!(asked("ar", 1).unwrap(), "ar");
    assert_eq!(asked("Arabic", 1).unwrap(), "ar");
    assert_eq!(asked("ar-EG", 1).unwrap(), "ar");
    let arabic = (0..400)
        .filter(|&draw| asked("both", draw).unwrap() == "ar")
        .count();
    assert!((140..260).contains(&arabic), "{arabic} of 400");
    let error = asked("fr", 1).unwrap_err().to_string();
    assert!(error.contains("task `summarization`: the task has no instruction in `fr`\nhint: it is worded in ar, en"), "{error}");
    assert!("klingonish".parse::<crate::task::AskedIn>().is_err());
}
