//! One spelling for equal-looking texts: composed letters, no presentation forms, no invisible
//! marks.

use std::borrow::Cow;

use unicode_normalization::IsNormalized;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::is_nfc_quick;

/// Returns a text as it is learnt and compared: in NFC, with ordinary letters in place of
/// presentation forms, and without byte order marks.
///
/// PDFs and old programs write presentation forms for Arabic (`ﺳﻌﻴﺪ`) and for Latin ligatures
/// (`ﬁ`). Signs for a whole sentence or a currency (U+FDFA to U+FDFD) stay, and so does everything
/// else that NFKC would change.
///
/// Source: Unicode Standard Annex 15.
pub fn ordinary(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let changes = |c: char| c == BYTE_ORDER_MARK || is_presentation_form(c);
    if !text.contains(changes) {
        return match is_nfc_quick(text.chars()) {
            IsNormalized::Yes => Cow::Borrowed(text),
            _ => Cow::Owned(text.nfc().collect()),
        };
    }
    let mut folded = String::with_capacity(text.len());
    for c in text.chars().filter(|&c| c != BYTE_ORDER_MARK) {
        match is_presentation_form(c) {
            // A vowel sign alone decomposes to a space and the sign. The space is not part of the
            // text.
            true => folded.extend(std::iter::once(c).nfkc().filter(|&part| part != ' ')),
            false => folded.push(c),
        }
    }
    Cow::Owned(folded.nfc().collect())
}

/// Returns the form in which names of labels are compared: NFKC, lower case, single spaces, without
/// tatweel and invisible marks.
pub fn label_key(text: &str) -> String {
    let kept: String = text
        .nfkc()
        .filter(|&c| !is_invisible(c) && c != TATWEEL)
        .collect();
    let words: Vec<&str> = kept.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// Returns a text for a message, with invisible characters written as escapes such as `\u{200f}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    let hides = |c: char| {
        is_invisible(c) || c == TATWEEL || c.is_control() || (c.is_whitespace() && c != ' ')
    };
    let is_padded = text.starts_with(' ') || text.ends_with(' ');
    if !text.contains(hides) && !is_padded {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    let inside = text.trim_matches(' ');
    let start = text.len() - text.trim_start_matches(' ').len();
    for (at, c) in text.char_indices() {
        let is_padding = c == ' ' && !(start..start + inside.len()).contains(&at);
        if hides(c) || is_padding {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The Arabic letter that only lengthens a word.
const TATWEEL: char = '\u{640}';

/// Returns whether a character is invisible: joiners, direction marks, soft hyphens, variation
/// selectors, byte order marks.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | BYTE_ORDER_MARK)
}

/// Returns whether a character is one of the usual letters, digits and signs of Latin and Arabic,
/// none of which folding changes. Other characters may be fine too.
fn is_plain(c: char) -> bool {
    matches!(c,
        '\0'..='\u{2ff}' | '\u{60c}' | '\u{61b}' | '\u{61f}' | '\u{621}'..='\u{64a}' | '\u{660}'..='\u{669}')
}

/// Returns whether a character is a shape of a letter, or of several, rather than the letter.
fn is_presentation_form(c: char) -> bool {
    match c {
        // Ornate parentheses are separate signs.
        '\u{fd3e}' | '\u{fd3f}' => false,
        '\u{fb00}'..='\u{fb06}' | '\u{fb13}'..='\u{fb17}' => true,
        '\u{fb50}'..='\u{fdf9}' | '\u{fe70}'..='\u{fefc}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn presentation_forms_and_nfd_become_ordinary_letters() {
        for (written, expected) in [
            ("ﺳﻌﻴﺪ", "سعيد"),
            ("ﻻ", "لا"),
            ("ﷲ", "الله"),
            ("cafe\u{301}", "café"),
            ("ا\u{654}حمد", "أحمد"),
            ("و\u{654}", "ؤ"),
            ("o\u{fb01}ce", "ofice"),
            ("\u{feff}نعم", "نعم"),
            ("م\u{fe76}", "م\u{64e}"),
        ] {
            assert_eq!(ordinary(written), expected, "{written}");
        }
    }

    #[test]
    fn legitimate_text_stays_as_it_is() {
        for text in [
            "ﷺ",
            "﷽",
            "﴿",
            "½ kg",
            "x²",
            "№ 5",
            "Ｆ",
            "می\u{200c}شود",
            "العـــربية",
            "a\u{a0}b",
            "👩\u{200d}🔬",
            "ٱ",
            "گ",
        ] {
            assert_eq!(ordinary(text), text);
        }
    }

    #[test]
    fn labels_that_look_alike_have_one_key() {
        for written in [
            "happy",
            " Happy ",
            "\u{feff}happy",
            "happy\u{200f}",
            "hap\u{200d}py",
            "ｈａｐｐｙ",
            "happy\u{a0}",
        ] {
            assert_eq!(label_key(written), "happy", "{written}");
        }
        assert_eq!(label_key("سعيـــد"), label_key("ﺳﻌﻴﺪ"));
        assert_eq!(label_key("very  happy"), "very happy");
        assert_ne!(label_key("unhappy"), label_key("happy"));
    }

    #[test]
    fn invisible_characters_are_written_out() {
        assert_eq!(visible("سعيد"), "سعيد");
        assert_eq!(visible("hap\u{200f}y\u{feff}"), "hap\\u{200f}y\\u{feff}");
        assert_eq!(visible("a b "), "a b\\u{20}");
        assert_eq!(visible("س\u{640}"), "س\\u{640}");
    }

    #[test]
    fn plain_characters_are_ordinary_in_any_order() {
        use unicode_normalization::char::canonical_combining_class;
        for c in ('\0'..=char::MAX).filter(|&c| is_plain(c)) {
            assert_eq!(canonical_combining_class(c), 0, "{c:?}");
            assert!(is_nfc_quick([c].into_iter()) == IsNormalized::Yes, "{c:?}");
            assert!(c != BYTE_ORDER_MARK && !is_presentation_form(c), "{c:?}");
        }
    }

    proptest! {
        #[test]
        fn folding_twice_folds_once(text in "\\PC{0,20}") {
            let once = ordinary(&text).into_owned();
            prop_assert_eq!(ordinary(&once).into_owned(), once);
            prop_assert!(is_nfc_quick(ordinary(&text).chars()) != IsNormalized::No);
        }
    }
}
