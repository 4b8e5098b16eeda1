//! What is taken out of a text before it is compared, so that spelling habits do not count as errors.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

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
    /// Removes punctuation (ASCII's, `،؛؟`, and the quotation marks `«»` of its later version), the marks U+064B to U+0652
    /// and bare hamza; folds peh to beh, veh to feh, the hamza and madda forms of alef, waw and yeh to the bare letter, and
    /// Eastern Arabic digits to Western; joins a waw that stands alone to the next word; collapses spaces. Teh marbuta, alef
    /// maksura, tatweel, case and Persian digits stay.
    ///
    /// Source: `eval.py` of Natural-Language-Processing-Elm/open_universal_arabic_asr_leaderboard.
    ArabicLeaderboard,
}

impl Normaliser {
    /// All there are, in the order of messages.
    pub const ALL: [Self; 2] = [Self::None, Self::ArabicLeaderboard];

    /// The name in suites, arguments and signatures.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ArabicLeaderboard => "arabic-leaderboard",
        }
    }

    /// The text as it is compared.
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::None => text.to_owned(),
            Self::ArabicLeaderboard => join_waw(&text.chars().filter_map(fold_arabic).collect::<String>()),
        }
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
        if let Some(found) = Self::ALL.into_iter().find(|normaliser| normaliser.name() == name) {
            return Ok(found);
        }
        let error = Error::input(format!("there is no normaliser `{name}`"));
        // Underscores, capitals and half a name are the usual slips.
        let typed = name.to_lowercase().replace('_', "-");
        let nearest = Self::ALL.map(|normaliser| (strsim::jaro_winkler(normaliser.name(), &typed), normaliser)).into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        Err(match nearest {
            Some((likeness, nearest)) if likeness > 0.75 => error.hint(format!("did you mean `{nearest}`?")),
            _ => error.hint(format!("there are: {}", Self::ALL.map(Self::name).join(", "))),
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

/// The words with single spaces between them, a waw that stands alone written with the word after it.
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
            assert_eq!(Normaliser::ArabicLeaderboard.apply(written), compared, "{written}");
            assert_eq!(Normaliser::None.apply(written), written);
        }
    }

    #[test]
    fn names_are_read_back_and_slips_are_pointed_out() {
        for normaliser in Normaliser::ALL {
            assert_eq!(normaliser.to_string().parse::<Normaliser>().unwrap(), normaliser);
        }
        for (typed, hint) in [
            ("arabic_leaderboard", "did you mean `arabic-leaderboard`?"),
            ("Arabic-Leader", "did you mean `arabic-leaderboard`?"),
            ("nonne", "did you mean `none`?"),
            ("xyz", "there are: none, arabic-leaderboard"),
        ] {
            let error = typed.parse::<Normaliser>().unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(hint), "{error}");
        }
    }
}
