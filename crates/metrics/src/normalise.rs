//! What is taken out of a text before it is compared, so that spelling habits do not count as
//! errors.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use crate::english;
use maqam_base::error::Error;

/// A rule that both reference and prediction go through before they are compared.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Normaliser {
    /// The text as it is.
    #[default]
    None,
    /// The rules of the Open Universal Arabic ASR Leaderboard.
    ///
    /// Removes punctuation (ASCII's, `،؛؟`, and the quotation marks `«»` of its later version), the
    /// marks U+064B to U+0652 and bare hamza; folds peh to beh, veh to feh, the hamza and madda
    /// forms of alef, waw and yeh to the bare letter, and Eastern Arabic digits to Western; joins a
    /// waw that stands alone to the next word; collapses spaces. Teh marbuta, alef maksura,
    /// tatweel, case and Persian digits stay.
    ///
    /// Source: `eval.py` of Natural-Language-Processing-Elm/open_universal_arabic_asr_leaderboard.
    ArabicLeaderboard,
    /// The leaderboard's rules, and the spellings that dialects have no rule for.
    ///
    /// Beyond [`Normaliser::ArabicLeaderboard`]: alef maksura and the Persian and Urdu yehs become
    /// yeh; teh marbuta and the other hehs become heh; alef wasla becomes alef; tatweel goes; a
    /// letter that stands three or more times in a row stands twice; all other marks of Arabic go
    /// too (superscript alef, Quranic signs, the marks up to U+065F); the Persian, Urdu and
    /// Maghrebi letters become the Arabic letter of their shape (tcheh jeem, jeh zain, keheh, gaf
    /// and ng kaf, qaf with three dots qaf, tteh teh, ddal dal, rreh reh, noon ghunna noon, veh of
    /// the Kurds and the u's waw); Persian digits become Western; any other punctuation of Unicode
    /// becomes a space; characters of no width (joiners, direction marks) go. Case stays, as do
    /// words, numbers and the article.
    ///
    /// Source: the letters folded by the dialect tracks of MGB and by AraBERT's preprocessing,
    /// which also keeps two of a repeated letter.
    ArabicDialect,
    /// Whisper's rules for English, without those that need word lists.
    ///
    /// Lower case; `[...]`, `<...>` and `(...)` go with what they hold, and so do the words hmm,
    /// mm, mhm, mmm, uh and um; a curly apostrophe is a straight one, and spaces before it go;
    /// contractions are spelled out: won't, can't, let's, ain't, y'all, n't, 're, 's, 'd, 'll, 't,
    /// 've, 'm ('s and 'd as has and had before been, gone, done and got, as is and would
    /// elsewhere); commas between digits go; combining marks go; every other sign of punctuation or
    /// symbol becomes a space, except `.` before a digit, `$¢€£` before and `%` after one; spaces
    /// collapse. Numbers in words, titles, British spellings and letters with accents stay.
    ///
    /// Source: Radford et al. 2022, appendix C; openai/whisper `normalizers/english.py`. Differs:
    /// what stays, and the curly apostrophe.
    EnglishBasic,
}

impl Normaliser {
    /// All there are, in the order of messages.
    pub const ALL: [Self; 4] = [
        Self::None,
        Self::ArabicLeaderboard,
        Self::ArabicDialect,
        Self::EnglishBasic,
    ];

    /// The name in suites, arguments and signatures.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ArabicLeaderboard => "arabic-leaderboard",
            Self::ArabicDialect => "arabic-dialect",
            Self::EnglishBasic => "english-basic",
        }
    }

    /// The text as it is compared.
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::None => text.to_owned(),
            Self::ArabicLeaderboard => {
                join_waw(&text.chars().filter_map(fold_arabic).collect::<String>())
            }
            Self::ArabicDialect => join_waw(&at_most_twice(text.chars().filter_map(fold_dialect))),
            Self::EnglishBasic => english::normalise(text),
        }
    }

    /// The name of a metric under this rule: `wer`, or `wer@arabic-leaderboard`.
    pub fn named(self, metric: &str) -> String {
        match self {
            Self::None => metric.to_owned(),
            other => format!("{metric}@{}", other.name()),
        }
    }

    /// Whether upper and lower case become one.
    pub fn lowers_case(self) -> bool {
        self == Self::EnglishBasic
    }
}

impl fmt::Display for Normaliser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Normaliser {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        if let Some(found) = Self::ALL
            .into_iter()
            .find(|normaliser| normaliser.name() == name)
        {
            return Ok(found);
        }
        let error = Error::input(format!("there is no normaliser `{name}`"));
        // Underscores, capitals and half a name are the usual slips.
        let typed = name.to_lowercase().replace('_', "-");
        let nearest = Self::ALL
            .map(|normaliser| (strsim::jaro_winkler(normaliser.name(), &typed), normaliser))
            .into_iter()
            .max_by(|a, b| a.0.total_cmp(&b.0));
        Err(match nearest {
            Some((likeness, nearest)) if likeness > 0.75 => {
                error.hint(format!("did you mean `{nearest}`?"))
            }
            _ => error.hint(format!(
                "there are: {}",
                Self::ALL.map(Self::name).join(", ")
            )),
        })
    }
}

/// One character under the leaderboard's rules, or nothing where it is removed.
fn fold_arabic(c: char) -> Option<char> {
    match c {
        '،' | '؛' | '؟' | '«' | '»' | '\u{064b}'..='\u{0652}' | 'ء' => None,
        c if c.is_ascii_punctuation() => None,
        'پ' => Some('ب'),
        'ڤ' => Some('ف'),
        'آ' | 'أ' | 'إ' => Some('ا'),
        'ؤ' => Some('و'),
        'ئ' => Some('ي'),
        '٠'..='٩' => char::from_digit(c as u32 - '٠' as u32, 10),
        c => Some(c),
    }
}

/// One character under the dialects' rules, or nothing where it is removed.
fn fold_dialect(c: char) -> Option<char> {
    match c {
        'ـ'
        | '\u{0610}'..='\u{061a}'
        | '\u{064b}'..='\u{065f}'
        | '\u{0670}'
        | '\u{06d6}'..='\u{06dc}'
        | '\u{06df}'..='\u{06e8}'
        | '\u{06ea}'..='\u{06ed}' => None,
        '\u{061c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => None,
        'ى' | 'ی' | 'ې' | 'ۍ' | 'ے' | 'ۓ' => Some('ي'),
        'ة' | 'ۃ' | 'ھ' | 'ہ' | 'ۂ' | 'ۀ' | 'ە' => Some('ه'),
        'ٱ' => Some('ا'),
        'چ' => Some('ج'),
        'ژ' => Some('ز'),
        'ک' | 'گ' | 'ڭ' | 'ݣ' => Some('ك'),
        'ڨ' => Some('ق'),
        'ٹ' => Some('ت'),
        'ڈ' => Some('د'),
        'ڑ' => Some('ر'),
        'ں' => Some('ن'),
        'ۆ' | 'ۇ' | 'ۈ' | 'ۋ' => Some('و'),
        '۰'..='۹' => char::from_digit(c as u32 - '۰' as u32, 10),
        c => fold_arabic(c).map(|folded| if is_punctuation(folded) { ' ' } else { folded }),
    }
}

/// Whether Unicode calls a character punctuation.
pub(crate) fn is_punctuation(c: char) -> bool {
    #[expect(
        clippy::unwrap_used,
        reason = "the class is a constant, compiled in every test of this file"
    )]
    static PUNCTUATION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\p{P}").unwrap());
    // Letters and digits are most of a text; the engine's tables are for the rest.
    !c.is_alphanumeric() && !c.is_whitespace() && PUNCTUATION.is_match(c.encode_utf8(&mut [0; 4]))
}

/// The text with no letter more than twice in a row.
fn at_most_twice(text: impl Iterator<Item = char>) -> String {
    let mut kept = String::new();
    let mut last = '\0';
    let mut times = 0;
    for c in text {
        times = if c == last { times + 1 } else { 1 };
        last = c;
        if times <= 2 || !c.is_alphabetic() {
            kept.push(c);
        }
    }
    kept
}

/// The words with single spaces between them, a waw that stands alone written with the word after
/// it.
fn join_waw(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(word);
        if word == "و" {
            joined.push_str(words.next().unwrap_or_default());
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_leaderboards_rules_one_by_one() {
        for (written, compared) in [
            ("قال: «نعم»، هل تأتي؟ لا؛ غداً!", "قال نعم هل تاتي لا غدا"),
            ("it's 5-3 (yes) [a]_b\\c ^~`", "its 53 yes abc"),
            ("مُحَمَّدٌ رَسُولٌ", "محمد رسول"),
            ("پاريس ڤيينا", "باريس فيينا"),
            ("آمن أحمد إلى مؤمن بئر سماء", "امن احمد الى مومن بير سما"),
            ("٠١٢٣٤٥٦٧٨٩ ۴", "0123456789 ۴"),
            ("محمد و علي  و سعاد و", "محمد وعلي وسعاد و"),
            ("و هو", "وهو"),
            ("و و كتاب", "وو كتاب"),
            ("مدرسة ىـيـ Ab", "مدرسة ىـيـ Ab"),
            (" \u{a0}\tواحد \n اثنان ", "واحد اثنان"),
            ("ء ،", ""),
            ("", ""),
        ] {
            assert_eq!(
                Normaliser::ArabicLeaderboard.apply(written),
                compared,
                "{written}"
            );
            assert_eq!(Normaliser::None.apply(written), written);
        }
    }

    #[test]
    fn the_dialects_rules_one_by_one() {
        for (written, compared) in [
            ("قال: «نعم»، هل تأتي؟ لا؛ غداً!", "قال نعم هل تاتي لا غدا"),
            ("مدرسة على مدى", "مدرسه علي مدي"),
            ("جمـــيل جميييييل ههههه الله", "جميل جمييل هه الله"),
            ("رحمٰن ٱلكتاب مُوسَىٰٓ", "رحمن الكتاب موسي"),
            (
                "چاي گال كتابی ژاكيت ڨهوة ڭاع پنسل ڤيلا",
                "جاي كال كتابي زاكيت قهوه كاع بنسل فيلا",
            ),
            ("۱۲۳ ٤٥٦ 1000 555", "123 456 1000 555"),
            ("نعم…لا—“ممكن”٪", "نعم لا ممكن"),
            (
                "مي\u{200c}خواهم \u{202b}كلمة\u{202c}\u{200f}",
                "ميخواهم كلمه",
            ),
            ("Ahmed و صديقه Cooool", "Ahmed وصديقه Cool"),
            ("شيء مسؤول", "شي مسوول"),
        ] {
            assert_eq!(
                Normaliser::ArabicDialect.apply(written),
                compared,
                "{written}"
            );
        }
    }

    #[test]
    fn names_are_read_back_and_slips_are_pointed_out() {
        for normaliser in Normaliser::ALL {
            assert_eq!(
                normaliser.to_string().parse::<Normaliser>().unwrap(),
                normaliser
            );
        }
        for (typed, hint) in [
            ("arabic_leaderboard", "did you mean `arabic-leaderboard`?"),
            ("Arabic-Leader", "did you mean `arabic-leaderboard`?"),
            ("nonne", "did you mean `none`?"),
            ("english", "did you mean `english-basic`?"),
            ("arabic-dialects", "did you mean `arabic-dialect`?"),
            (
                "xyz",
                "there are: none, arabic-leaderboard, arabic-dialect, english-basic",
            ),
        ] {
            let error = typed.parse::<Normaliser>().unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(hint),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_a_rule_has_folded_it_leaves(text in "[a-zA-Z اأىةهيوءـّ،؟.'%$0-9٣]{0,30}") {
            for rule in [Normaliser::ArabicLeaderboard, Normaliser::ArabicDialect] {
                let once = rule.apply(&text);
                // A waw that a joined word ends on finds a next word only the second time.
                if !once.split(' ').any(|word| word == "و") && !text.contains('ء') {
                    prop_assert_eq!(rule.apply(&once), once);
                }
            }
        }
    }
}
