//! Every check with answers it accepts and near misses it refuses, in both languages; the loose
//! decision; IFEval's own decisions.

use proptest::prelude::*;

use super::*;

fn check(json: &str) -> Check {
    let check: Check = serde_json::from_str(json).unwrap();
    check.validate().unwrap();
    check
}

fn assert_decides(json: &str, accepted: &[&str], refused: &[&str]) {
    let check = check(json);
    for answer in accepted {
        assert!(
            check.holds(answer, Mode::Strict),
            "{json} refuses: {answer}"
        );
    }
    for answer in refused.iter().chain(&["", " \n"]) {
        assert!(
            !check.holds(answer, Mode::Strict),
            "{json} accepts: {answer}"
        );
    }
}

#[test]
fn only_a_label_of_the_list() {
    let english = r#"{"check": "one-of", "answers": ["happy", "North African"]}"#;
    let arabic = r#"{"check": "one-of", "answers": ["سعيد", "فصحى"]}"#;
    assert_decides(
        english,
        &["happy", " Happy\n", "north  african", "happy.", "Happy. "],
        &[
            "happy!",
            "hap.py",
            "unhappy",
            "happy, sad",
            "The speaker is happy",
            "African",
            "سعيد",
            "\"happy\"",
        ],
    );
    assert_decides(
        arabic,
        &["سعيد", "سَعِيدٌ", "ســعيد", "\u{200f}فصحى", "سعيد.", "سعيد۔"],
        &[
            "سعيدة",
            "السعيد",
            "المتحدث سعيد",
            "سعيد، فصحى",
            "happy",
            "تعيس",
        ],
    );
}

#[test]
fn anything_but_a_label() {
    assert_decides(
        r#"{"check": "none-of", "answers": ["happy", "سعيد"]}"#,
        &["he is happy", "unhappy", "المتحدث سعيد"],
        &["Happy", "سَعيد", "happy.", "سعيد."],
    );
}

#[test]
fn a_right_label_in_any_form_and_no_wrong_one() {
    assert_decides(
        r#"{"check": "names", "answers": ["happy", "سعيد"], "others": ["sad", "حزين"]}"#,
        &[
            "happy",
            "Well, the speaker is happy.",
            r#"{"emotion": "happy"}"#,
            "المتحدث سعيد",
        ],
        &[
            "sad",
            "happy, not sad",
            "unhappy",
            "nobody knows",
            "السعادة",
        ],
    );
}

#[test]
fn an_object_with_exactly_these_keys() {
    assert_decides(
        r#"{"check": "json-keys", "keys": ["emotion", "reason"]}"#,
        &[
            r#"{"emotion": "happy", "reason": "loud"}"#,
            "{\n\"reason\": null, \"emotion\": [1]}\n",
        ],
        &[
            r#"{"emotion": "happy"}"#,
            r#"{"emotion": "happy", "reason": "loud", "more": 1}"#,
            r#"{"Emotion": "happy", "reason": "loud"}"#,
            r#"{"emotion": "a", "emotion": "b", "reason": "c"}"#,
            r#"{"emotion": "happy", "reason": "loud",}"#,
            r#"{'emotion': 'happy', 'reason': 'loud'}"#,
            r#"[{"emotion": "happy", "reason": "loud"}]"#,
            r#"{"emotion": "happy", "reason": "loud"} done"#,
            "```json\n{\"emotion\": \"happy\", \"reason\": \"loud\"}\n```",
            "emotion, reason",
        ],
    );
    assert_decides(
        r#"{"check": "json-keys", "keys": ["الجواب", "السبب"]}"#,
        &[r#"{"السبب": "صوته", "الجواب": "سعيد"}"#],
        &[
            r#"{"الجواب": "سعيد"}"#,
            r#"{"الجَواب": "سعيد", "السبب": "صوته"}"#,
            r#"{"answer": "سعيد", "reason": "صوته"}"#,
            r#"{«الجواب»: "سعيد"، "السبب": "صوته"}"#,
        ],
    );
}

#[test]
fn in_the_language_asked_for() {
    assert_decides(
        r#"{"check": "in-language", "language": "ar"}"#,
        &["سعيد", "يتحدث عن Apple في القاهرة"],
        &["happy", "12", "Arabic: سعيد"],
    );
    assert_decides(
        r#"{"check": "in-language", "language": "en"}"#,
        &["happy", "It is about the market."],
        &["سعيد", "English: المتحدث سعيد", "Il est dans la ville"],
    );
}

#[test]
fn numbers_of_words() {
    assert_decides(
        r#"{"check": "at-most-words", "words": 3}"#,
        &[
            "one",
            "don't stop now",
            "one - two, three!",
            "قَالَ: نَعَمْ، حَسَنًا",
        ],
        &[
            "one two three four",
            "نعم يا سيدي الكريم",
            "one,two,three,four",
        ],
    );
    assert_decides(
        r#"{"check": "at-least-words", "words": 3}"#,
        &["one two three", "نعم، يا سيدي", "١ ٢ ٣"],
        &["don't stop", "one - two ...", "مُحَمَّدٌ رَسُولٌ", "نعم ـــ لا"],
    );
}

#[test]
fn words_wanted_and_forbidden() {
    let said = &["Take the Train!", "train"][..];
    let unsaid = &["training", "a trai n", "قطار"][..];
    assert_decides(r#"{"check": "contains", "word": "train"}"#, said, unsaid);
    assert_decides(r#"{"check": "avoids", "word": "train"}"#, unsaid, said);
    let said = &["ركب القِطار", "والقطار سريع", "بالقطار", "للقطار", "وقطار"][..];
    let unsaid = &["قطارات", "مقطار", "قطر", "train"][..];
    assert_decides(r#"{"check": "contains", "word": "قطار"}"#, said, unsaid);
    assert_decides(r#"{"check": "avoids", "word": "قطار"}"#, unsaid, said);
}

#[test]
fn beginnings_and_ends() {
    assert_decides(
        r#"{"check": "starts-with", "phrase": "Answer:"}"#,
        &["Answer: happy", "answer: happy"],
        &[
            "The answer: happy",
            "Answers: happy",
            "**Answer:** happy",
            "happy Answer:",
        ],
    );
    assert_decides(
        r#"{"check": "starts-with", "phrase": "الجواب:"}"#,
        &["الجواب: سعيد", "«الجَوابُ: سعيد»"],
        &["الجوابات: سعيد", "إن الجواب: سعيد", "الجواب سعيد"],
    );
    assert_decides(
        r#"{"check": "ends-with", "phrase": "That is all"}"#,
        &["happy. That is all.", "happy. that is all"],
        &["That is all: happy", "that is allowed", "that was all"],
    );
    assert_decides(
        r#"{"check": "ends-with", "phrase": "انتهى"}"#,
        &["سعيد. انتهى", "سعيد، انتهى."],
        &["انتهى: سعيد", "سعيد وانتهى", "سعيد. انتهت"],
    );
}

#[test]
fn without_marks() {
    assert_decides(
        r#"{"check": "no-diacritics"}"#,
        &["محمد ســعيد", "أؤئإآ", "alef\u{654}", "café"],
        &["محمّد", "شكرًا", "هٰذا"],
    );
    assert_decides(
        r#"{"check": "no-punctuation"}"#,
        &["yes we don't", "نعم لا", "٣٫٥", "1 + 1"],
        &[
            "yes.",
            "yes, no",
            "نعم، لا",
            "هل هذا؟",
            "قال «نعم»",
            "*yes*",
            "\"yes\"",
        ],
    );
}

#[test]
fn a_transcript_and_what_is_none() {
    let text = "الآن أريد حصان جدا ثمين";
    let close = [
        "الآن أريد حصانًا جدًّا ثمينًا.",
        "الان اريد حصان جدا",
        "الآن أريد حسان جدا سمين",
    ];
    let far = [
        "حيوان ثمين",
        "MSA",
        "سعيد",
        "I want a horse",
        "في هذا التسجيل يقول المتحدث إنه يريد الآن شراء حصان ثمين",
    ];
    assert_decides(
        &format!(r#"{{"check": "transcribes", "text": "{text}", "max_cer": 0.5}}"#),
        &close,
        &far,
    );
    let quoted = format!("يقول: «{text}» وهو سعيد بذلك جدا");
    assert_decides(
        &format!(r#"{{"check": "differs", "text": "{text}", "min_cer": 0.3}}"#),
        &far,
        &[&close[..], &[quoted.as_str()]].concat(),
    );
    let text = "we will meet at the station";
    assert_decides(
        &format!(r#"{{"check": "transcribes", "text": "{text}", "max_cer": 0.5}}"#),
        &["We'll meet at the station!"],
        &["a meeting", "happy", "سنلتقي في المحطة"],
    );
}

#[test]
fn the_loose_decision_forgives_first_and_last_lines_and_asterisks() {
    let label = check(r#"{"check": "one-of", "answers": ["happy", "سعيد"]}"#);
    let json = check(r#"{"check": "json-keys", "keys": ["a"]}"#);
    let cases = [
        (&label, "Sure!\nhappy", true),
        (&label, "happy\nAnything else?", true),
        (&label, "Sure!\n\n**happy**\n\nAnything else?", true),
        (&label, "بالتأكيد:\n*سعيد*", true),
        (&label, "**happy**", true),
        (&label, "Sure! happy", false),
        (&label, "Sure!\nOf course!\nhappy", false),
        (&label, "*\n*", false),
        (&json, "```json\n{\"a\": 1}\n```", true),
        (&json, "Here: {\"a\": 1}", false),
        (&json, "\n\n", false),
    ];
    for (check, answer, expected) in cases {
        assert_eq!(check.holds(answer, Mode::Loose), expected, "{answer}");
        assert!(!check.holds(answer, Mode::Strict), "{answer}");
    }
    // What stands in the way may also be the whole answer.
    assert!(!check(r#"{"check": "avoids", "word": "x"}"#).holds("x", Mode::Loose));
}

#[test]
fn checks_without_sense_are_refused() {
    for (json, fault) in [
        (
            r#"{"check": "one-of", "answers": []}"#,
            "check `one-of`: `answers` is empty",
        ),
        (
            r#"{"check": "none-of", "answers": [" "]}"#,
            "one of `answers` is empty",
        ),
        (
            r#"{"check": "json-keys", "keys": ["a", "a"]}"#,
            "names a key twice",
        ),
        (r#"{"check": "at-most-words", "words": 0}"#, "`words` is 0"),
        (r#"{"check": "contains", "word": "«»"}"#, "has no letter"),
        (r#"{"check": "ends-with", "phrase": "!"}"#, "has no letter"),
        (
            r#"{"check": "transcribes", "text": "a", "max_cer": 1.5}"#,
            "not in (0, 1]",
        ),
        (
            r#"{"check": "differs", "text": "ـ", "min_cer": 0.5}"#,
            "has no letter",
        ),
    ] {
        let error = serde_json::from_str::<Check>(json)
            .unwrap()
            .validate()
            .unwrap_err()
            .to_string();
        assert!(error.contains(fault), "{error}");
    }
    for json in [
        r#"{"check": "at-most-words", "word": 5}"#,
        r#"{"check": "at-most"}"#,
        r#"{"check": "at-most-words", "words": 3, "more": 1}"#,
    ] {
        assert!(serde_json::from_str::<Check>(json).is_err(), "{json}");
    }
}

/// One of every check, around a text.
fn all_checks(text: &str, number: usize) -> Vec<Check> {
    let text = || text.to_owned();
    vec![
        Check::OneOf {
            answers: vec![text(), "b".into()],
        },
        Check::NoneOf {
            answers: vec![text()],
        },
        Check::JsonKeys { keys: vec![text()] },
        Check::InLanguage {
            language: Language::Arabic,
        },
        Check::InLanguage {
            language: Language::English,
        },
        Check::AtMostWords { words: number },
        Check::AtLeastWords { words: number },
        Check::Contains { word: text() },
        Check::Avoids { word: text() },
        Check::StartsWith { phrase: text() },
        Check::EndsWith { phrase: text() },
        Check::NoDiacritics,
        Check::NoPunctuation,
        Check::Transcribes {
            text: text(),
            max_cer: 0.5,
        },
        Check::Differs {
            text: text(),
            min_cer: 0.3,
        },
    ]
}

proptest! {
    #[test]
    fn loose_accepts_whatever_strict_accepts(answer in "(\\PC|[*\n ا-ي.]){0,30}", text in "[a-zا-ي]{1,6}", number in 1usize..6) {
        for check in all_checks(&text, number) {
            prop_assert!(!check.holds(&answer, Mode::Strict) || check.holds(&answer, Mode::Loose), "{:?}", check);
        }
    }

    #[test]
    fn opposites_never_hold_together(answer in "(\\PC|[*\n ا-ي.]){0,30}", text in "[a-zا-ي]{1,6}", number in 1usize..6) {
        let strict = |check: Check| check.holds(&answer, Mode::Strict);
        let pairs = [
            (Check::Contains { word: text.clone() }, Check::Avoids { word: text.clone() }),
            (Check::OneOf { answers: vec![text.clone()] }, Check::NoneOf { answers: vec![text.clone()] }),
            (Check::AtMostWords { words: number }, Check::AtLeastWords { words: number + 1 }),
            (Check::Transcribes { text: text.clone(), max_cer: 0.2 }, Check::Differs { text: text.clone(), min_cer: 0.3 }),
        ];
        for (one, other) in pairs {
            prop_assert!(!(strict(one) && strict(other)));
        }
        // Of these one always holds of an answer that is not empty.
        let says = strict(Check::Contains { word: text.clone() });
        let avoids = strict(Check::Avoids { word: text });
        prop_assert!(answer.trim().is_empty() || says != avoids);
    }

    #[test]
    fn a_check_survives_being_written(text in "\\PC{1,8}", number in 1usize..9) {
        for check in all_checks(&text, number) {
            let json = serde_json::to_string(&check).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Check>(&json).unwrap(), &check);
            let start = format!("{{\"check\":\"{}\"", check.name());
            prop_assert!(json.starts_with(&start));
            prop_assert_eq!(yaml_serde::from_str::<Check>(&yaml_serde::to_string(&check).unwrap()).unwrap(), check);
        }
    }
}
