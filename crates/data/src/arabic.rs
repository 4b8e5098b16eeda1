//! Rules of Arabic spelling (marks and letter forms that a data set leaves out) and Buckwalter's
//! transliteration.
//!
//! No reader applies these rules. A row states applied rules in its field `normalisation`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::Row;
use crate::spelling::ordinary;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::yaml::nearest;

/// Name of the field in which a row states the changes of its texts.
pub const FIELD: &str = "normalisation";

/// One change of spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Presentation forms (`ﺳﻌﻴﺪ`) become ordinary letters, in NFC.
    Presentation,
    /// Removes tatweel.
    Tatweel,
    /// Vowel marks, shadda, sukun, the superscript alef and Quranic signs go.
    Diacritics,
    /// `أإآٱ` become `ا`.
    Alef,
    /// Eastern Arabic and Persian digits become 0 to 9.
    Digits,
}

impl Rule {
    /// All rules, in the order in which they are applied and named.
    pub const ALL: [Self; 5] = [
        Self::Presentation,
        Self::Tatweel,
        Self::Diacritics,
        Self::Alef,
        Self::Digits,
    ];

    /// Name in arguments and in the field [`FIELD`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Presentation => "presentation",
            Self::Tatweel => "tatweel",
            Self::Diacritics => "diacritics",
            Self::Alef => "alef",
            Self::Digits => "digits",
        }
    }

    /// The replacement of `c` under this rule; `None` if it is removed.
    fn of(self, c: char) -> Option<char> {
        match (self, c) {
            (Self::Tatweel, 'ـ') => None,
            (Self::Diacritics, c) if is_diacritic(c) => None,
            (Self::Alef, 'أ' | 'إ' | 'آ' | 'ٱ') => Some('ا'),
            (Self::Digits, '٠'..='٩') => char::from_digit(c as u32 - '٠' as u32, 10),
            (Self::Digits, '۰'..='۹') => char::from_digit(c as u32 - '۰' as u32, 10),
            _ => Some(c),
        }
    }
}

/// Returns whether a character is a mark on an Arabic letter.
pub fn is_diacritic(c: char) -> bool {
    matches!(c,
        '\u{0610}'..='\u{061a}' | '\u{064b}'..='\u{065f}' | '\u{0670}' | '\u{06d6}'..='\u{06dc}'
        | '\u{06df}'..='\u{06e4}' | '\u{06e7}' | '\u{06e8}' | '\u{06ea}'..='\u{06ed}' | '\u{08d3}'..='\u{08ff}')
}

/// The changes of spelling that a data set has chosen, as in `tatweel,diacritics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Returns whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text under the rules.
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = match self.0.contains(&Rule::Presentation) {
            true => ordinary(text),
            false => Cow::Borrowed(text),
        };
        let fold = |c: char| self.0.iter().try_fold(c, |c, rule| rule.of(c));
        if text.chars().all(|c| fold(c) == Some(c)) {
            return text;
        }
        Cow::Owned(text.chars().filter_map(fold).collect())
    }

    /// Applies the rules to all texts of a row except labels, and adds them to the rules in its
    /// field [`FIELD`].
    ///
    /// # Errors
    /// A field [`FIELD`] that names something other than rules.
    pub fn apply_to(&self, row: &mut Row) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let fold = |text: &mut Box<str>| {
            if let Cow::Owned(folded) = self.apply(text) {
                *text = folded.into();
            }
        };
        for text in [&mut row.text, &mut row.summary, &mut row.target] {
            text.iter_mut().for_each(fold);
        }
        row.references.iter_mut().for_each(fold);
        for message in &mut row.messages {
            if let Cow::Owned(folded) = self.apply(&message.content) {
                message.content = folded;
            }
        }

        let mut extra = row.extra_fields();
        let before = match extra.get(FIELD) {
            Some(Value::String(before)) => before.parse()?,
            Some(other) => {
                return Err(Error::input(format!("`{FIELD}` is {other}"))
                    .hint(format!("it names rules: {}", all_names())));
            }
            None => Self::default(),
        };
        extra.insert(FIELD.to_owned(), before.and(self).to_string().into());
        row.extra = Some(Value::Object(extra).to_string().into());
        Ok(())
    }

    /// The rules of both.
    fn and(&self, other: &Self) -> Self {
        let is_in = |rule: &Rule| self.0.contains(rule) || other.0.contains(rule);
        Self(Rule::ALL.into_iter().filter(is_in).collect())
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        f.write_str(
            &self
                .0
                .iter()
                .map(|rule| rule.name())
                .collect::<Vec<_>>()
                .join(","),
        )
    }
}

impl FromStr for Rules {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = match text.trim() {
            "all" => return Ok(Self(Rule::ALL.to_vec())),
            "none" => return Ok(Self::default()),
            names => names,
        };
        let mut found = Self::default();
        for name in names.split(',').map(str::trim) {
            let rule = Rule::ALL.into_iter().find(|rule| rule.name() == name);
            let Some(rule) = rule else {
                let error = Error::input(format!("there is no rule `{name}`"));
                let known = Rule::ALL.iter().map(|rule| rule.name());
                return Err(match nearest(name, known) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint(format!("choose from {}, all and none", all_names())),
                });
            };
            found = found.and(&Self(vec![rule]));
        }
        Ok(found)
    }
}

fn all_names() -> String {
    Rule::ALL.map(Rule::name).join(", ")
}

/// Buckwalter's letters, and the three that he added for Persian and dialects.
///
/// Source: Buckwalter 2002, Arabic transliteration (<http://www.qamus.org/transliteration.htm>).
const BUCKWALTER: [(char, char); 50] = [
    ('ء', '\''),
    ('آ', '|'),
    ('أ', '>'),
    ('ؤ', '&'),
    ('إ', '<'),
    ('ئ', '}'),
    ('ا', 'A'),
    ('ب', 'b'),
    ('ة', 'p'),
    ('ت', 't'),
    ('ث', 'v'),
    ('ج', 'j'),
    ('ح', 'H'),
    ('خ', 'x'),
    ('د', 'd'),
    ('ذ', '*'),
    ('ر', 'r'),
    ('ز', 'z'),
    ('س', 's'),
    ('ش', '$'),
    ('ص', 'S'),
    ('ض', 'D'),
    ('ط', 'T'),
    ('ظ', 'Z'),
    ('ع', 'E'),
    ('غ', 'g'),
    ('ـ', '_'),
    ('ف', 'f'),
    ('ق', 'q'),
    ('ك', 'k'),
    ('ل', 'l'),
    ('م', 'm'),
    ('ن', 'n'),
    ('ه', 'h'),
    ('و', 'w'),
    ('ى', 'Y'),
    ('ي', 'y'),
    ('\u{064b}', 'F'),
    ('\u{064c}', 'N'),
    ('\u{064d}', 'K'),
    ('\u{064e}', 'a'),
    ('\u{064f}', 'u'),
    ('\u{0650}', 'i'),
    ('\u{0651}', '~'),
    ('\u{0652}', 'o'),
    ('\u{0670}', '`'),
    ('\u{0671}', '{'),
    ('پ', 'P'),
    ('چ', 'J'),
    ('ڤ', 'V'),
];

/// Returns Arabic in Buckwalter's transliteration; other characters stay.
///
/// # Errors
/// A text that has one of Buckwalter's own letters, because the conversion could not be reversed.
pub fn to_buckwalter(text: &str) -> Result<String> {
    let latin = |c: char| BUCKWALTER.iter().any(|(_, latin)| *latin == c);
    if let Some(c) = text.chars().find(|&c| latin(c)) {
        return Err(Error::input(format!(
            "the text holds `{c}`, which Buckwalter's transliteration uses for a letter"
        ))
        .hint("remove Latin letters and signs from the text first"));
    }
    let of = |c: char| {
        let found = BUCKWALTER.iter().find(|(arabic, _)| *arabic == c);
        found.map_or(c, |(_, latin)| *latin)
    };
    Ok(text.chars().map(of).collect())
}

/// Converts a text from Buckwalter's transliteration to Arabic; other characters stay.
///
/// # Errors
/// A text that holds Arabic letters already.
pub fn from_buckwalter(text: &str) -> Result<String> {
    let is_arabic = |c: char| BUCKWALTER.iter().any(|(arabic, _)| *arabic == c);
    if let Some(c) = text.chars().find(|&c| is_arabic(c)) {
        return Err(Error::input(format!(
            "the text holds the Arabic letter `{c}`, so it is not in Buckwalter's transliteration"
        ))
        .hint("convert only texts that are written in Latin letters"));
    }
    let of = |c: char| {
        let found = BUCKWALTER.iter().find(|(_, latin)| *latin == c);
        found.map_or(c, |(arabic, _)| *arabic)
    };
    Ok(text.chars().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(text: &str) -> Rules {
        text.parse().unwrap()
    }

    #[test]
    fn each_rule_changes_its_own() {
        let text = "ﺳﻌﻴﺪ قَالَ أنّ العــام ٢٠٢۵ إلى ٱلآن";
        for (name, expected) in [
            ("none", text),
            ("presentation", "سعيد قَالَ أنّ العــام ٢٠٢۵ إلى ٱلآن"),
            ("tatweel", "ﺳﻌﻴﺪ قَالَ أنّ العام ٢٠٢۵ إلى ٱلآن"),
            ("diacritics", "ﺳﻌﻴﺪ قال أن العــام ٢٠٢۵ إلى ٱلآن"),
            ("alef", "ﺳﻌﻴﺪ قَالَ انّ العــام ٢٠٢۵ الى الان"),
            ("digits", "ﺳﻌﻴﺪ قَالَ أنّ العــام 2025 إلى ٱلآن"),
            ("all", "سعيد قال ان العام 2025 الى الان"),
        ] {
            assert_eq!(rules(name).apply(text), expected, "{name}");
        }
    }

    #[test]
    fn rules_are_named_in_one_order() {
        assert_eq!(
            rules("digits, tatweel,digits").to_string(),
            "tatweel,digits"
        );
        assert_eq!(rules("none").to_string(), "none");
        let error = "diacritic".parse::<Rules>().unwrap_err().to_string();
        assert!(error.contains("did you mean `diacritics`?"), "{error}");
    }

    #[test]
    fn a_row_states_its_rules() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(
            &path,
            r#"{"text": "قَالَ", "label": "أ", "normalisation": "alef"}"#,
        )
        .unwrap();
        let manifest = crate::read_manifest(&path, None, crate::OnBadRow::Error).unwrap();
        let mut row = manifest.rows.into_iter().next().unwrap();
        rules("diacritics").apply_to(&mut row).unwrap();
        assert_eq!(row.text.as_deref(), Some("قال"));
        assert_eq!(row.label.as_deref(), Some("أ"));
        assert_eq!(row.extra_fields()[FIELD], "diacritics,alef");
    }

    #[test]
    fn buckwalter_of_a_known_sentence() {
        // From the documentation of the Quranic Arabic Corpus: the basmala without Quranic signs.
        let arabic = "بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ ٱلرَّحِيمِ";
        let latin = "bisomi {ll~ahi {lr~aHoma`ni {lr~aHiymi";
        // Shadda precedes the vowel in Buckwalter's texts and follows it in NFC.
        let unordered = |text: &str| {
            let mut words: Vec<Vec<char>> =
                text.split(' ').map(|word| word.chars().collect()).collect();
            words.iter_mut().for_each(|word| word.sort_unstable());
            words
        };
        assert_eq!(unordered(&to_buckwalter(arabic).unwrap()), unordered(latin));
        assert_eq!(
            unordered(&from_buckwalter(latin).unwrap()),
            unordered(arabic)
        );
    }

    #[test]
    fn mixed_texts_are_refused() {
        assert!(to_buckwalter("قال ok").is_err());
        assert!(from_buckwalter("قال").is_err());
        assert_eq!(to_buckwalter("٢٠, قال").unwrap(), "٢٠, qAl");
    }

    proptest! {
        #[test]
        fn buckwalter_converts_in_both_directions(text in "[\u{0621}-\u{063a}\u{0640}-\u{0652}\u{0670}\u{0671} .،0-9]{0,40}") {
            let kept: String = text.chars().filter(|c| !('\u{063b}'..='\u{063f}').contains(c)).collect();
            let latin = to_buckwalter(&kept).unwrap();
            prop_assert_eq!(from_buckwalter(&latin).unwrap(), kept);
            let is_covered = |c: char| c.is_ascii() || c == '،';
            prop_assert!(latin.chars().all(is_covered), "{}", latin);
        }
    }
}
