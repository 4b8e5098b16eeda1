//! English as `english-basic` compares it: Whisper's rules without its word lists.

use std::sync::LazyLock;

use regex::Regex;

use crate::characters::is_space;

/// What is replaced in lower-case text, one rule after the other.
///
/// Brackets and fillers go before contractions, which need their apostrophes; symbols go last.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [
        (r"[<\[][^>\]]*[>\]]", ""),
        (r"\([^)]+?\)", ""),
        (r"\b(hmm|mm|mhm|mmm|uh|um)\b", ""),
        (r"\s+'", "'"),
        (r"\bwon't\b", "will not"),
        (r"\bcan't\b", "can not"),
        (r"\blet's\b", "let us"),
        (r"\bain't\b", "aint"),
        (r"\by'all\b", "you all"),
        (r"'d (been|gone|done)\b", " had $1"),
        (r"'s (been|gone|got)\b", " has $1"),
        (r"n't\b", " not"),
        (r"'re\b", " are"),
        (r"'s\b", " is"),
        (r"'d\b", " would"),
        (r"'ll\b", " will"),
        (r"'t\b", " not"),
        (r"'ve\b", " have"),
        (r"'m\b", " am"),
        (r"(\d),(\d)", "$1$2"),
        (r"\.([^0-9]|$)", " $1"),
        (r"\p{Mn}", ""),
        (r"[\p{M}\p{P}\p{S}--[.%$¢€£]]", " "),
        (r"[.$¢€£]([^0-9])", " $1"),
        (r"([^0-9])%", "$1 "),
    ];
    #[expect(
        clippy::unwrap_used,
        reason = "the patterns are constants, compiled in every test of this file"
    )]
    rules
        .into_iter()
        .map(|(pattern, replacement)| (Regex::new(pattern).unwrap(), replacement))
        .collect()
});

/// The text as it is compared; [`crate::Normaliser::EnglishBasic`] says how.
pub fn normalise(text: &str) -> String {
    let mut text = text.to_lowercase().replace('’', "'");
    for (pattern, replacement) in RULES.iter() {
        // Most rules find nothing in most sentences, and then no text is copied.
        if let std::borrow::Cow::Owned(changed) = pattern.replace_all(&text, *replacement) {
            text = changed;
        }
    }
    text.split(is_space)
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_one_by_one() {
        for (written, compared) in [
            ("Hello, World!", "hello world"),
            ("[noise] I (softly) said <unk> yes", "i said yes"),
            ("Um, I, uh, think so. Hmm", "i think so"),
            (
                "I won't, can't and don’t; let's!",
                "i will not can not and do not let us",
            ),
            (
                "He's been here; he'd gone. She's tall, they'd come",
                "he has been here he had gone she is tall they would come",
            ),
            (
                "We're sure you'll say I'm what they've got",
                "we are sure you will say i am what they have got",
            ),
            ("it 's fine", "it is fine"),
            (
                "$1,000.50 is 3.5% of £ 7 and 100%, No. 5.",
                "$1000.50 is 3.5% of 7 and 100% no 5",
            ),
            ("state-of-the-art e\u{301}t é", "state of the art et é"),
            ("a\u{a0}b\t c", "a b c"),
            ("", ""),
            ("?!", ""),
        ] {
            assert_eq!(normalise(written), compared, "{written}");
        }
    }
}
