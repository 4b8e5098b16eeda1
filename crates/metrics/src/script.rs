//! Scripts of letters and words.

use std::sync::LazyLock;

use regex::Regex;

/// The scripts that are told apart, by their names in the Unicode Character Database; letters of
/// all others count as one script more.
const NAMES: [&str; 26] = [
    "Arabic",
    "Latin",
    "Cyrillic",
    "Greek",
    "Hebrew",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Devanagari",
    "Bengali",
    "Gurmukhi",
    "Gujarati",
    "Tamil",
    "Telugu",
    "Kannada",
    "Malayalam",
    "Sinhala",
    "Thai",
    "Lao",
    "Khmer",
    "Myanmar",
    "Armenian",
    "Georgian",
    "Ethiopic",
    "Tifinagh",
];

/// Places in [`NAMES`].
const ARABIC: u8 = 0;
const LATIN: u8 = 1;
const HEBREW: u8 = 4;
/// A letter of a script without a name here.
const OTHER: u8 = NAMES.len() as u8;
/// What is no letter, or a letter of no script of its own, such as tatweel.
const NONE: u8 = u8::MAX;

/// Code points that are looked up; beyond stand Han ideographs and what has no letters.
const TABLE_LEN: u32 = 0x2_0000;

/// The script of every code point below [`TABLE_LEN`], read once from the regular expression
/// engine's Unicode tables.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut table = vec![NONE; TABLE_LEN as usize];
    let letters: String = (0..TABLE_LEN).filter_map(char::from_u32).collect();
    let mut mark = |class: &str, script: u8| {
        for c in of_class(&letters, class) {
            table[c as usize] = script;
        }
    };
    mark(r"[\p{L}--\p{Common}--\p{Inherited}]+", OTHER);
    for (script, name) in (0..).zip(NAMES) {
        mark(&format!(r"[\p{{L}}&&\p{{{name}}}]+"), script);
    }
    table
});

/// The letters of a class among `letters`.
#[expect(
    clippy::unwrap_used,
    reason = "the classes are constants, compiled in every test of this file"
)]
fn of_class(letters: &str, class: &str) -> Vec<char> {
    let class = Regex::new(class).unwrap();
    let runs = class.find_iter(letters);
    runs.flat_map(|run| run.as_str().chars()).collect()
}

/// The script of a letter as a number; `None` for what is no letter and for letters that every
/// script uses.
pub(crate) fn of_letter(c: char) -> Option<u8> {
    let found = TABLE
        .get(c as usize)
        .copied()
        .unwrap_or(if c.is_alphabetic() { OTHER } else { NONE });
    (found != NONE).then_some(found)
}

/// Whether a letter's script is written from right to left, among those told apart.
pub(crate) fn runs_right_to_left(c: char) -> bool {
    matches!(of_letter(c), Some(ARABIC | HEBREW))
}

/// What a word is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WordScript {
    /// Most of its letters are Arabic.
    Arabic,
    /// Most of its letters are Latin.
    Latin,
    /// It has digits or other numbers and no letters.
    Digits,
    /// Anything else: other scripts, symbols.
    Other,
}

impl WordScript {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Arabic, Self::Latin, Self::Digits, Self::Other];

    /// The name in scores.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arabic => "arabic",
            Self::Latin => "latin",
            Self::Digits => "digits",
            Self::Other => "other",
        }
    }

    /// What `word` is written in; where two scripts have as many letters, Arabic goes before Latin
    /// and Latin before others.
    pub fn of(word: &str) -> Self {
        let mut arabic = 0;
        let mut latin = 0;
        let mut other = 0;
        for script in word.chars().filter_map(of_letter) {
            match script {
                ARABIC => arabic += 1,
                LATIN => latin += 1,
                _ => other += 1,
            }
        }
        match arabic.max(latin).max(other) {
            0 if word.chars().any(char::is_numeric) => Self::Digits,
            0 => Self::Other,
            most if most == arabic => Self::Arabic,
            most if most == latin => Self::Latin,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_by_their_letters() {
        let cases = [
            ("كتاب", "arabic"),
            ("كِتـابٌ،", "arabic"),
            ("the", "latin"),
            ("naïve.", "latin"),
            ("٣٤", "digits"),
            ("3.5%", "digits"),
            ("🙂", "other"),
            ("мир", "other"),
            ("الـmeeting", "latin"),
            ("شwa", "latin"),
            ("شw", "arabic"),
            ("a1", "latin"),
            ("--", "other"),
            ("漢字", "other"),
            ("𠀀a", "latin"),
        ];
        for (word, expected) in cases {
            assert_eq!(WordScript::of(word).name(), expected, "{word}");
        }
        assert_eq!(
            of_letter('ـ'),
            None,
            "tatweel is of every script that joins"
        );
        assert!(runs_right_to_left('א') && !runs_right_to_left('a'));
    }
}
