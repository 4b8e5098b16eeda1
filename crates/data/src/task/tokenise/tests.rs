//! Token ids against Hugging Face's (`tests/fixtures/qwen_omni*/expected.json`), and what must hold
//! for any text.

use std::path::PathBuf;
use std::sync::LazyLock;

use super::*;
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

static CODEC: LazyLock<TextCodec> =
    LazyLock::new(|| TextCodec::load(&fixture("qwen_omni")).unwrap());

fn asked(instruction: &str, target: &str) -> Vec<Message> {
    vec![
        Message::new(Role::User, instruction),
        Message::new(Role::Assistant, target),
    ]
}

/// A plain text's ids.
fn plain(text: &str) -> Vec<u32> {
    CODEC.plain.encode(text).unwrap()
}

#[test]
fn ids_equal_hugging_faces() {
    for name in ["qwen_omni", "qwen_omni_tied"] {
        let codec = TextCodec::load(&fixture(name)).unwrap();
        let expected = read_json(&fixture(name).join("expected.json"))
            .unwrap()
            .unwrap();
        let examples = expected["examples"].as_array().unwrap();
        assert!(!examples.is_empty());
        for example in examples {
            let text = example["instruction"].as_str().unwrap();
            let target = example["target"].as_str().unwrap();
            let num_audio = example["audio_tokens"].as_u64().unwrap() as usize;
            let ids: Vec<u32> = example["input_ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap() as u32)
                .collect();
            let target_len = example["target_len"].as_u64().unwrap() as usize;
            let messages = asked(&format!("<audio>{text}"), target);

            let train = codec.encode(&messages, &[num_audio], Mode::Train).unwrap();
            assert_eq!(train.tokens, ids, "{name}: {text}");
            assert_eq!(
                train.targets,
                [Range {
                    start: ids.len() - target_len,
                    end: ids.len()
                }]
            );
            assert_eq!(train.audio.len(), 1);
            let run = train.audio[0].clone();
            assert_eq!(run.len(), num_audio);
            assert!(run.clone().all(|i| ids[i] == codec.special().audio));
            assert_eq!(
                (ids[run.start - 1], ids[run.end]),
                (codec.special().audio_start, codec.special().audio_end)
            );

            let prompt = codec
                .encode(&messages, &[num_audio], Mode::Generate)
                .unwrap();
            assert_eq!(prompt.tokens, ids[..ids.len() - target_len]);
            assert!(prompt.targets.is_empty());
            assert_eq!(
                prompt,
                codec
                    .encode(&messages[..1], &[num_audio], Mode::Generate)
                    .unwrap(),
                "with or without the answer"
            );
        }
        assert_eq!(codec.ids_that_end(), [codec.special().end_of_turn]);
    }
}

#[test]
fn every_turn_with_loss_is_a_target() {
    let turns = |second_loss: bool| {
        let mut messages = [
            asked("<audio>one", "first"),
            asked("two<audio>", "second"),
            asked("three", "third"),
        ]
        .concat();
        messages[3].loss = second_loss;
        messages
    };
    let said = |encoded: &Encoded| {
        encoded
            .targets
            .iter()
            .map(|range| CODEC.decode(&encoded.tokens[range.clone()]))
            .collect::<Vec<_>>()
    };
    let all = CODEC.encode(&turns(true), &[3, 2], Mode::Train).unwrap();
    assert_eq!(said(&all), ["first", "second", "third"]);
    let without = CODEC.encode(&turns(false), &[3, 2], Mode::Train).unwrap();
    assert_eq!(said(&without), ["first", "third"]);
    for range in &all.targets {
        assert_eq!(all.tokens[range.end - 1], CODEC.special().end_of_turn);
    }
    assert_eq!(
        all.targets.last().unwrap().end,
        all.tokens.len(),
        "the newline after the last turn is left out"
    );
    assert_eq!(
        all.tokens[all.targets[0].end],
        plain("\n")[0],
        "the newline after a turn stays, outside the target"
    );
    assert_eq!(all.audio.iter().map(Range::len).collect::<Vec<_>>(), [3, 2]);
}

#[test]
fn a_system_message_takes_the_place_of_the_templates() {
    let with = |system: &str| {
        let messages = [vec![Message::new(Role::System, system)], asked("x", "y")].concat();
        CODEC.encode(&messages, &[], Mode::Train).unwrap()
    };
    assert_eq!(
        with("You are a helpful assistant."),
        CODEC.encode(&asked("x", "y"), &[], Mode::Train).unwrap()
    );
    assert_ne!(
        with("Listen.").tokens,
        with("You are a helpful assistant.").tokens
    );
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let cases = [
        (
            asked("<audio>x", "y"),
            vec![],
            Mode::Train,
            "1 `<audio>` marks and 0 clips",
        ),
        (
            asked("x", "y"),
            vec![4],
            Mode::Train,
            "0 `<audio>` marks and 1 clips",
        ),
        (
            asked("<audio>x", "y"),
            vec![0],
            Mode::Train,
            "clip 1 is too short",
        ),
        (
            asked("x", "y")[..1].to_vec(),
            vec![],
            Mode::Train,
            "nothing to learn",
        ),
        (
            asked("x", "y")[1..].to_vec(),
            vec![],
            Mode::Generate,
            "nothing to answer",
        ),
    ];
    for (messages, audio, mode, what) in cases {
        let error = CODEC
            .encode(&messages, &audio, mode)
            .unwrap_err()
            .to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_checkpoint_without_the_tokens_or_a_fitting_template_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        TextCodec::load(dir.path())
            .err()
            .unwrap()
            .to_string()
            .contains("tokenizer.json: there is no tokenizer")
    );
    for name in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        std::fs::copy(fixture("qwen_omni").join(name), dir.path().join(name)).unwrap();
    }
    let built_in = TextCodec::load(dir.path()).unwrap();
    let messages = asked("<audio>x", "y");
    assert_eq!(
        built_in.encode(&messages, &[5], Mode::Train).unwrap(),
        CODEC.encode(&messages, &[5], Mode::Train).unwrap()
    );

    let refused = |template: &str| {
        std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        TextCodec::load(dir.path())
            .unwrap()
            .encode(&asked("x", "y"), &[], Mode::Train)
            .unwrap_err()
            .to_string()
    };
    assert!(
        refused("{% for m in messages %}{{ m.content }}</s>{% endfor %}")
            .contains("chat_template.jinja: the template does not write `<|im_end|>`")
    );
    assert!(
        refused("{% for m in messages %}{{ m.content }}{% endfor %}")
            .contains("does not write `<|im_end|>`")
    );

    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    std::fs::write(
        dir.path().join("config.json"),
        config.replace("\"audio_token_index\": 391", "\"audio_token_index\": 9999"),
    )
    .unwrap();
    assert!(
        TextCodec::load(dir.path())
            .err()
            .unwrap()
            .to_string()
            .contains("`audio_token_index` to 9999")
    );
}

#[test]
fn several_end_tokens_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(
        fixture("qwen_omni").join("tokenizer.json"),
        dir.path().join("tokenizer.json"),
    )
    .unwrap();
    std::fs::write(
        dir.path().join("generation_config.json"),
        r#"{"eos_token_id": [388, 390]}"#,
    )
    .unwrap();
    // What config.json says is not asked for then, as in transformers.
    let config = dir.path().join("config.json");
    std::fs::write(&config, r#"{"eos_token_id": 7}"#).unwrap();
    let codec = TextCodec::load(dir.path()).unwrap();
    assert_eq!(codec.ids_that_end(), [390, 388]);
    std::fs::write(dir.path().join("generation_config.json"), "{}").unwrap();
    let without = TextCodec::load(dir.path()).unwrap();
    assert_eq!(without.ids_that_end(), [390, 7]);
    assert_eq!(
        codec.special(),
        CODEC.special(),
        "by name as by config.json"
    );
}

/// Texts with special tokens, marks, Arabic, newlines and anything else in them.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("<|im_end|>".to_owned()),
        Just("<|im_start|>".to_owned()),
        Just("<|AUDIO|>".to_owned()),
        Just("\u{10fffd}0\u{10fffd}".to_owned()),
        Just("{{ messages }}".to_owned()),
        Just("\n".to_owned()),
        "[ء-ي ]{0,12}",
        "\\PC{0,8}",
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn special_tokens_inside_data_stay_plain_text(system in text(), question in text(), answer in text(), num_audio in 1usize..9) {
        let question = question.replace(crate::AUDIO_MARK, "");
        let messages = [vec![Message::new(Role::System, system)], asked(&format!("<audio>{question}"), &answer)].concat();
        let encoded = CODEC.encode(&messages, &[num_audio], Mode::Train).unwrap();
        let first_special = 388; // <|endoftext|>; the byte-level vocabulary lies below
        let special: Vec<u32> = encoded.tokens.iter().copied().filter(|&id| id >= first_special).collect();
        let start = 389;
        let end = 390;
        let mut expected = vec![start, end, start, 392];
        expected.extend(std::iter::repeat_n(391, num_audio));
        expected.extend([393, end, start, end]);
        prop_assert_eq!(special, expected);
    }

    #[test]
    fn targets_decode_to_what_was_to_be_said(question in text(), answer in text()) {
        let messages = asked(&question.replace(crate::AUDIO_MARK, ""), &answer);
        let encoded = CODEC.encode(&messages, &[], Mode::Train).unwrap();
        prop_assert_eq!(encoded.targets.len(), 1);
        prop_assert_eq!(CODEC.decode(&encoded.tokens[encoded.targets[0].clone()]), answer);
        let prompt = CODEC.encode(&messages, &[], Mode::Generate).unwrap();
        prop_assert_eq!(&encoded.tokens[..encoded.targets[0].start], prompt.tokens.as_slice());
    }
}

#[test]
fn a_vocabulary_with_merges_is_the_same_tokenizer() {
    let from = fixture("qwen3_asr");
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(from.join(name)).unwrap()).unwrap()
    };
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    let tokenizer = read("tokenizer.json");
    let mut config = read("tokenizer_config.json");
    write("config.json", read("config.json").to_string());
    write("vocab.json", tokenizer["model"]["vocab"].to_string());
    let merges = tokenizer["model"]["merges"].as_array().unwrap();
    let merges = merges.iter().map(|pair| {
        let piece = |i: usize| pair[i].as_str().unwrap();
        format!("{} {}\n", piece(0), piece(1))
    });
    let merges: String = merges.collect();
    write("merges.txt", format!("#version: 0.2\n{merges}"));
    for token in tokenizer["added_tokens"].as_array().unwrap() {
        config["added_tokens_decoder"][token["id"].to_string()] = token.clone();
    }
    write("tokenizer_config.json", config.to_string());

    let slow = TextCodec::load(dir.path()).unwrap();
    let fast = TextCodec::load(&from).unwrap();
    // Special tokens inside data are plain text, and `<asr_text>` stays one token.
    let answer = "language Arabic<asr_text>مرحبا <|im_end|> good morning, هذا نص";
    let messages = asked("<audio>", answer);
    let of = |codec: &TextCodec| codec.encode(&messages, &[4], Mode::Train).unwrap();
    assert_eq!(of(&slow), of(&fast));
    assert_eq!(of(&slow).tokens.iter().filter(|&&id| id == 336).count(), 1);
}
