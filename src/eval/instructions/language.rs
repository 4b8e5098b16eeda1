//! Which language an answer is in: a decision by script, and between languages of one script by
//! letters and frequent words.

use serde::Deserialize;
use serde::Serialize;

use crate::eval::instructions::text::folded;
use crate::eval::instructions::text::is_letter;
use crate::eval::instructions::text::words;

/// A language in which instructions are worded and answers can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Language {
    /// Arabic, whatever its dialect.
    #[serde(rename = "ar")]
    Arabic,
    /// English.
    #[serde(rename = "en")]
    English,
}

/// Share of an answer's letters that must be of the language's script; the rest is room for names.
const LEAST_OF_SCRIPT: f64 = 0.75;
/// Share of the letters of that script that may be foreign to the language: `پ` in Arabic, `é` in
/// English.
const MOST_FOREIGN: f64 = 0.05;

/// Frequent English words.
const ENGLISH: [&str; 44] = [
    "the", "of", "and", "to", "is", "it", "that", "was", "for", "with", "as", "his", "they", "be",
    "this", "have", "from", "or", "had", "by", "not", "but", "what", "were", "we", "when", "your",
    "can", "said", "there", "an", "she", "which", "do", "their", "if", "will", "about", "he",
    "you", "are", "how", "i", "speaker",
];
/// Frequent words of French, Spanish, Portuguese, Italian, German, Dutch, Turkish, Indonesian and
/// Swahili that are no English words.
const OTHERS: [&str; 95] = [
    "le", "la", "les", "des", "du", "une", "est", "et", "dans", "que", "qui", "pour", "avec",
    "pas", "sur", "il", "elle", "el", "los", "las", "del", "un", "una", "es", "en", "y", "por",
    "para", "con", "su", "muy", "o", "os", "da", "em", "um", "uma", "não", "e", "di", "che",
    "della", "nel", "sono", "gli", "lo", "per", "der", "die", "das", "und", "ist", "ein", "eine",
    "nicht", "mit", "auf", "von", "zu", "den", "dem", "het", "een", "van", "dat", "niet", "zijn",
    "ve", "bir", "bu", "için", "ile", "çok", "değil", "ama", "yang", "dan", "ini", "itu", "untuk",
    "dengan", "tidak", "adalah", "ke", "dari", "ya", "wa", "na", "ni", "kwa", "katika", "hii",
    "cha", "za", "de",
];

impl Language {
    /// Its tag, as manifests write it.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Arabic => "ar",
            Self::English => "en",
        }
    }

    /// The language of a BCP 47 tag (`ar-EG` is Arabic), if it is one of these.
    pub fn of_tag(tag: &str) -> Option<Self> {
        match tag
            .split(['-', '_'])
            .next()
            .unwrap_or_default()
            .to_lowercase()
            .as_str()
        {
            "ar" => Some(Self::Arabic),
            "en" => Some(Self::English),
            _ => None,
        }
    }

    /// Its name in a language.
    pub fn name_in(self, language: Self) -> &'static str {
        match (self, language) {
            (Self::Arabic, Self::Arabic) => "العربية",
            (Self::Arabic, Self::English) => "Arabic",
            (Self::English, Self::Arabic) => "الإنجليزية",
            (Self::English, Self::English) => "English",
        }
    }

    /// Whether a text is in this language.
    ///
    /// At least three quarters of its letters are of the language's script. In Arabic, at most one
    /// in twenty of these is none of the Arabic alphabet (Persian and Urdu use others all the
    /// time). In English, at most one in twenty is outside `a` to `z`, and no more of its words are
    /// frequent in other languages of Latin script than in English; a text with neither kind (a
    /// label, a name, Arabic in Latin letters) passes. A text without letters is in no language.
    pub fn is_that_of(self, text: &str) -> bool {
        let letters: Vec<char> = text.chars().filter(|&c| is_letter(c)).collect();
        let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
        let of_script = letters.iter().filter(|&&c| self.has_script_of(c)).count();
        let foreign = letters
            .iter()
            .filter(|&&c| self.has_script_of(c) && !self.has_letter(c))
            .count();
        of_script > 0
            && share(of_script, letters.len()) >= LEAST_OF_SCRIPT
            && share(foreign, of_script) <= MOST_FOREIGN
            && (self == Self::Arabic || sounds_english(text))
    }

    fn has_script_of(self, c: char) -> bool {
        match self {
            Self::Arabic => {
                matches!(c, '\u{0600}'..='\u{06ff}' | '\u{0750}'..='\u{077f}' | '\u{08a0}'..='\u{08ff}' | '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}')
            }
            Self::English => {
                matches!(c, 'a'..='z' | 'A'..='Z' | '\u{00c0}'..='\u{024f}' | '\u{1e00}'..='\u{1eff}')
            }
        }
    }

    fn has_letter(self, c: char) -> bool {
        match self {
            Self::Arabic => {
                matches!(c, '\u{0621}'..='\u{063a}' | '\u{0641}'..='\u{064a}' | 'ٱ' | '\u{fe80}'..='\u{fefc}')
            }
            Self::English => c.is_ascii(),
        }
    }
}

fn sounds_english(text: &str) -> bool {
    let mut english = 0;
    let mut others = 0;
    for word in words(text) {
        let word = folded(word);
        english += usize::from(ENGLISH.contains(&word.as_str()));
        others += usize::from(OTHERS.contains(&word.as_str()));
    }
    english >= others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_in_both_languages() {
        let cases = [
            ("المتحدث سعيد جدًا", true, false),
            ("سعيد", true, false),
            ("سعيد (happy)", false, false),
            ("يتحدث عن شركة Apple في القاهرة", true, false),
            ("گفت که می‌خواهد به خانه برگردد و کتاب بخواند", false, false),
            ("یہ ایک اچھی کتاب ہے", false, false),
            ("The speaker is happy.", false, true),
            ("happy", false, true),
            ("He says سلام to the neighbours in the street", false, true),
            ("He said to us: السلام عليكم", false, false),
            ("Le locuteur est content et parle de la ville", false, false),
            ("El hablante está contento con su trabajo", false, false),
            ("Der Sprecher ist nicht traurig", false, false),
            ("il café", false, false),
            (
                "the café was closed when we came back from the beach",
                false,
                true,
            ),
            ("Привет, как дела", false, false),
            ("42", false, false),
            ("", false, false),
            ("ـــ ً", false, false),
        ];
        for (text, arabic, english) in cases {
            assert_eq!(
                (
                    Language::Arabic.is_that_of(text),
                    Language::English.is_that_of(text)
                ),
                (arabic, english),
                "{text}"
            );
        }
    }

    #[test]
    fn every_instruction_that_ships_is_in_its_language() {
        let tasks = crate::task::Tasks::load(None).unwrap();
        for task in tasks.names().map(|name| tasks.get(name).unwrap()) {
            for wording in [
                crate::task::Wording::Train,
                crate::task::Wording::Dev,
                crate::task::Wording::Test,
            ] {
                for (tag, text) in task
                    .instructions
                    .of(wording)
                    .iter()
                    .flat_map(|(tag, texts)| texts.iter().map(move |text| (tag, text)))
                {
                    let text = text.replace("{labels}", "");
                    let found = (
                        Language::Arabic.is_that_of(&text),
                        Language::English.is_that_of(&text),
                    );
                    assert_eq!(found, (tag == "ar", tag == "en"), "{text}");
                }
            }
        }
    }

    #[test]
    fn tags_are_read_with_their_regions() {
        assert_eq!(Language::of_tag("ar-EG"), Some(Language::Arabic));
        assert_eq!(Language::of_tag("EN_us"), Some(Language::English));
        assert_eq!(Language::of_tag("arz"), None);
    }

    #[test]
    fn no_word_votes_twice() {
        assert!(
            ENGLISH.iter().all(|word| !OTHERS.contains(word)),
            "{:?}",
            ENGLISH
                .iter()
                .filter(|word| OTHERS.contains(word))
                .collect::<Vec<_>>()
        );
    }
}
