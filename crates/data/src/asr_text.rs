//! Answers of Qwen3-ASR: `language Arabic<asr_text>...`, the language before the transcript.

use crate::language;

/// Mark between the language and the transcript.
const MARK: &str = "<asr_text>";

/// Prefix of the language.
const PREFIX: &str = "language ";

/// Name in the place of a language that is not known, and where there is no speech.
const NONE: &str = "None";

/// Names that Qwen3-ASR learnt and that differ from those of ISO 639.
const NAMES: [(&str, &str); 1] = [("el", "Greek")];

/// Language and transcript of an answer; `None` if it names no language.
pub fn split(answer: &str) -> Option<(&str, &str)> {
    let (language, text) = answer.trim_start().strip_prefix(PREFIX)?.split_once(MARK)?;
    Some((language.trim(), text))
}

/// Whether a name stands for no language.
pub fn is_none(name: &str) -> bool {
    name.eq_ignore_ascii_case(NONE)
}

/// Text before a transcript in a language, given as a tag. Every dialect of Arabic is Arabic.
pub fn prefix(tag: Option<&str>) -> String {
    let name = tag.and_then(name_of).unwrap_or_else(|| NONE.to_owned());
    format!("{PREFIX}{name}{MARK}")
}

/// A transcript as Qwen3-ASR learns it.
pub fn answer(tag: Option<&str>, transcript: &str) -> String {
    prefix(tag) + transcript
}

fn name_of(tag: &str) -> Option<String> {
    let code = tag.split(['-', '_']).next().unwrap_or(tag);
    let own = NAMES.into_iter().find(|(known, _)| *known == code);
    own.map(|(_, name)| name.to_owned())
        .or_else(|| language::english_name(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_official_name_is_read_and_written_back() {
        // The thirty languages of the model card.
        for name in [
            "Arabic",
            "Cantonese",
            "Chinese",
            "Czech",
            "Danish",
            "Dutch",
            "English",
            "Filipino",
            "Finnish",
            "French",
            "German",
            "Greek",
            "Hindi",
            "Hungarian",
            "Indonesian",
            "Italian",
            "Japanese",
            "Korean",
            "Macedonian",
            "Malay",
            "Persian",
            "Polish",
            "Portuguese",
            "Romanian",
            "Russian",
            "Spanish",
            "Swedish",
            "Thai",
            "Turkish",
            "Vietnamese",
        ] {
            let tag = language::tag(name).unwrap();
            assert_eq!(
                answer(Some(&tag), "x"),
                format!("language {name}<asr_text>x")
            );
        }
    }

    #[test]
    fn dialects_of_arabic_are_arabic() {
        for written in ["ar-EG", "arz", "apc", "Egyptian Arabic", "العربية"] {
            let tag = language::tag(written).unwrap();
            assert_eq!(prefix(Some(&tag)), "language Arabic<asr_text>", "{written}");
        }
        assert_eq!(prefix(None), "language None<asr_text>");
    }

    #[test]
    fn an_answer_comes_apart_at_its_first_mark() {
        assert_eq!(
            split("language Arabic<asr_text>نعم"),
            Some(("Arabic", "نعم"))
        );
        assert_eq!(split("language None<asr_text>"), Some(("None", "")));
        assert_eq!(
            split(" language en <asr_text>a<asr_text>b"),
            Some(("en", "a<asr_text>b"))
        );
        assert_eq!(split("the language Arabic"), None);
        assert!(is_none("none") && !is_none("Arabic"));
    }
}
