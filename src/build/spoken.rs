//! The spoken form of a text, which a speech engine reads, separate from the written form.
//!
//! Only Arabic is changed: numbers, dates, times, currencies, units and abbreviations become words,
//! Latin words become Arabic letters. Diacritics stay. The words are data
//! (`prompts/build/spoken-ar.yaml`). Numbers agree with the noun after them if its ending shows the
//! gender. Their case is the oblique, which is the more common one in running text.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Captures;
use regex::Regex;
use serde::Deserialize;

use crate::build::arabic;
use crate::build::arabic::Case;
use crate::build::arabic::Gender;
use crate::build::arabic::Noun;
use crate::build::arabic::cardinal;
use crate::build::arabic::counted;
use crate::build::collect::is_arabic;
use crate::build::collect::is_latin;
use crate::build::numbers::western;

/// Words of the spoken form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    months: Vec<String>,
    /// Written before or after a number; symbols and codes.
    currencies: BTreeMap<String, Noun>,
    /// Written after a number.
    units: BTreeMap<String, Noun>,
    /// Words with their stops, and what they are read as.
    abbreviations: BTreeMap<String, String>,
    symbols: BTreeMap<String, String>,
    /// Latin words, in lower case.
    latin: BTreeMap<String, String>,
    letters: BTreeMap<char, String>,
    /// Groups of Latin letters, the longest first, and the Arabic letters for them.
    sounds: Vec<(String, String)>,
    /// Masculine plurals that end like feminine ones.
    masculine: Vec<String>,
}

/// Words of the spoken form of Arabic.
pub(crate) const SPOKEN_AR: &str = include_str!("../../prompts/build/spoken-ar.yaml");

#[expect(
    clippy::expect_used,
    reason = "the file is a part of the program, read in every test of this file"
)]
static WORDS: LazyLock<Words> =
    LazyLock::new(|| yaml_serde::from_str(SPOKEN_AR).expect("prompts/build/spoken-ar.yaml"));

#[expect(
    clippy::unwrap_used,
    reason = "the patterns are constants, compiled in every test of this file"
)]
fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

static DATE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\b(?:(\d{1,2})[/.](\d{1,2})[/.](\d{4})|(\d{4})-(\d{2})-(\d{2}))\b"));
static CLOCK: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(\d{1,2}):(\d{2})\b"));
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?P<before>[$€£¥]\s?)?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<part>\d+))?(?P<after>\s?[$€£¥%]|\s?[A-Za-zء-ي²]+\.?)?",
    )
});
static RANGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(\d+)\s?[-–]\s?(\d+)"));
static LATIN: LazyLock<Regex> = LazyLock::new(|| pattern(r"[A-Za-zÀ-ɏ]+(?:['’][A-Za-z]+)?"));
static SPACES: LazyLock<Regex> = LazyLock::new(|| pattern(r"[ \t]+"));

/// The spoken form of one sentence in a language.
pub(crate) fn spoken(text: &str, language: &str) -> String {
    if language.split('-').next() != Some("ar") {
        return text.to_owned();
    }
    let text: String = text.chars().map(western).collect();
    let text = text.replace('٬', ",").replace(['٫'], ".").replace('٪', "%");
    let text = abbreviations(&text);
    let text = DATE.replace_all(&text, date);
    let text = CLOCK.replace_all(&text, clock);
    let text = RANGE.replace_all(&text, range);
    let text = numbers(&text);
    let text = symbols(&text);
    let text = LATIN.replace_all(&text, |found: &Captures| latin(&found[0]));
    SPACES.replace_all(text.trim(), " ").into_owned()
}

fn abbreviations(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    for (i, word) in text.split(' ').enumerate() {
        if i > 0 {
            found.push(' ');
        }
        let bare = word.trim_end_matches(['،', '؛', ',', ')']);
        match WORDS.abbreviations.get(bare.trim_start_matches('(')) {
            Some(read) => {
                found.push_str(read);
                found.push_str(&word[bare.len()..]);
            }
            None => found.push_str(word),
        }
    }
    found
}

fn date(found: &Captures) -> String {
    let number = |group: usize| {
        found
            .get(group)
            .and_then(|digits| digits.as_str().parse().ok())
    };
    let parts = match (number(1), number(2), number(3)) {
        (Some(day), Some(month), Some(year)) => Some((day, month, year)),
        _ => number(6)
            .zip(number(5))
            .zip(number(4))
            .map(|((day, month), year)| (day, month, year)),
    };
    let words = parts.and_then(|(day, month, year): (u64, u64, u64)| {
        // An American date has its day second.
        let (day, month) = if month > 12 {
            (month, day)
        } else {
            (day, month)
        };
        let name = WORDS.months.get(month.checked_sub(1)? as usize)?;
        let year = cardinal(year, Gender::Masculine, Case::Oblique);
        Some(format!("{} من {name} عام {year}", arabic::day(day)?))
    });
    words.unwrap_or_else(|| found[0].to_owned())
}

fn clock(found: &Captures) -> String {
    let (Ok(hour), Ok(minute)) = (found[1].parse::<u64>(), found[2].parse::<u64>()) else {
        return found[0].to_owned();
    };
    if hour > 24 || minute > 59 {
        return found[0].to_owned();
    }
    let name = |hour: u64| arabic::hour((hour + 11) % 12 + 1).unwrap_or_default();
    match minute {
        0 => name(hour),
        15 => format!("{} والربع", name(hour)),
        20 => format!("{} والثلث", name(hour)),
        30 => format!("{} والنصف", name(hour)),
        45 => format!("{} إلا الربع", name(hour + 1)),
        other => format!("{} و{}", name(hour), minutes(other)),
    }
}

fn minutes(number: u64) -> String {
    let noun = Noun {
        one: "دقيقة".to_owned(),
        two: "دقيقتين".to_owned(),
        few: "دقائق".to_owned(),
        many: "دقيقة".to_owned(),
        is_feminine: true,
    };
    counted(number, &noun)
}

fn range(found: &Captures) -> String {
    let from = &found[1];
    let to = &found[2];
    match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(low), Ok(high)) if low < high && from.len() <= 4 && to.len() <= 4 => {
            format!("{from} إلى {to}")
        }
        // A score, or parts of a telephone number.
        _ => format!("{from} {to}"),
    }
}

fn numbers(text: &str) -> String {
    let mut said = String::with_capacity(2 * text.len());
    let mut end = 0;
    for found in NUMBER.captures_iter(text) {
        let Some(whole) = found.get(0) else { continue };
        said.push_str(&text[end..whole.start()]);
        end = whole.end();
        let is_after_latin = said.chars().next_back().is_some_and(is_latin);
        if is_after_latin {
            said.push(' ');
        }
        said.push_str(&number(&found, &text[end..]));
        let goes_on = text[end..]
            .chars()
            .next()
            .is_some_and(char::is_alphanumeric);
        if goes_on {
            said.push(' ');
        }
    }
    said.push_str(&text[end..]);
    said
}

/// A number with the counted noun, if it follows; `rest` is the text after them.
fn number(found: &Captures, rest: &str) -> String {
    let group = |name: &str| found.name(name).map_or("", |part| part.as_str());
    let before = group("before").trim();
    let after = group("after");
    let digits = group("whole").replace(',', "");
    let part = group("part");
    let name = after.trim();
    let keeps = |words: String| format!("{words}{after}");

    let is_code = digits.len() > 9 || (digits.len() > 1 && digits.starts_with('0'));
    let whole = digits
        .parse::<u64>()
        .ok()
        .filter(|whole| *whole < arabic::TOO_LARGE);
    let Some(whole) = whole.filter(|_| !is_code) else {
        return keeps(one_by_one(&digits));
    };
    let plain = name.trim_end_matches('.');
    let noun = WORDS
        .currencies
        .get(before)
        .or_else(|| WORDS.currencies.get(plain))
        .or_else(|| WORDS.units.get(plain));
    // If a scale is between the number and its currency, the currency is written once, after the
    // scale.
    if let (Some(currency), Some(scale)) = (WORDS.currencies.get(before), scale(name)) {
        return format!(
            "{} {scale} {}",
            decimal(whole, part, Gender::Masculine),
            currency.one
        );
    }
    if let Some(noun) = noun {
        let is_before = !before.is_empty();
        let words = match part {
            "" => counted(whole, noun),
            part => format!("{} {}", decimal(whole, part, Gender::Masculine), noun.one),
        };
        return if is_before { keeps(words) } else { words };
    }
    if name == "%" {
        return format!("{} في المئة", decimal(whole, part, Gender::Masculine));
    }
    let next = if name.is_empty() {
        rest.split_whitespace().next().unwrap_or_default()
    } else {
        name
    };
    keeps(decimal(whole, part, gender_of(next)))
}

fn scale(word: &str) -> Option<&str> {
    [
        "ألف",
        "آلاف",
        "مليون",
        "ملايين",
        "مليار",
        "مليارات",
        "تريليون",
    ]
    .into_iter()
    .find(|scale| *scale == word)
}

/// A number with a decimal part, which is read as a number too, or digit by digit if it begins with
/// a zero or is long.
fn decimal(whole: u64, part: &str, gender: Gender) -> String {
    let words = cardinal(whole, gender, Case::Oblique);
    match part {
        "" => words,
        part if part.starts_with('0') || part.len() > 2 => {
            format!("{words} فاصلة {}", one_by_one(part))
        }
        part => {
            let value = part.parse().unwrap_or(0);
            format!(
                "{words} فاصلة {}",
                cardinal(value, Gender::Masculine, Case::Oblique)
            )
        }
    }
}

fn one_by_one(digits: &str) -> String {
    digits
        .bytes()
        .map(|digit| {
            cardinal(
                u64::from(digit.wrapping_sub(b'0')),
                Gender::Masculine,
                Case::Nominative,
            )
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Gender of a counted noun by its ending.
fn gender_of(word: &str) -> Gender {
    let word = word.trim_matches(|c: char| !c.is_alphabetic());
    let is_feminine = word.ends_with('ة')
        || (word.ends_with("ات") && !WORDS.masculine.iter().any(|known| known == word));
    if is_feminine {
        Gender::Feminine
    } else {
        Gender::Masculine
    }
}

fn symbols(text: &str) -> String {
    let mut said = String::with_capacity(text.len());
    for c in text.chars() {
        match WORDS.symbols.get(c.encode_utf8(&mut [0; 4]) as &str) {
            Some(word) => {
                said.push(' ');
                said.push_str(word);
                said.push(' ');
            }
            None => said.push(c),
        }
    }
    said
}

/// A Latin word in Arabic letters: by the list, letter by letter if it is an abbreviation, else by
/// sound.
fn latin(word: &str) -> String {
    let lower = word.to_lowercase().replace('’', "'");
    if let Some(known) = WORDS.latin.get(&lower) {
        return known.clone();
    }
    let is_abbreviation = word.chars().count() <= 5 && word.chars().all(char::is_uppercase);
    let has_vowel = lower.contains(['a', 'e', 'i', 'o', 'u', 'y']);
    if is_abbreviation || !has_vowel {
        let names: Vec<&str> = lower
            .chars()
            .filter_map(|letter| WORDS.letters.get(&letter).map(String::as_str))
            .collect();
        return names.join(" ");
    }
    let plain: String = crate::data::repeats::words(&lower).concat();
    let mut said = String::new();
    let mut rest = plain.as_str();
    while let Some(first) = rest.chars().next() {
        let sound = WORDS
            .sounds
            .iter()
            .find(|(letters, _)| rest.starts_with(letters.as_str()));
        match sound {
            Some((letters, sound)) => {
                // An alef carries a vowel at the beginning of a word.
                if said.is_empty()
                    && matches!(sound.as_str(), "ي" | "و" | "")
                    && "aeiou".contains(first)
                {
                    said.push(if matches!(first, 'e' | 'i') {
                        'إ'
                    } else {
                        'أ'
                    });
                }
                said.push_str(sound);
                rest = &rest[letters.len()..];
            }
            None => rest = &rest[first.len_utf8()..],
        }
    }
    said
}

/// Returns whether a character is an Arabic diacritic. Unicode counts them among letters.
pub(crate) fn is_mark(c: char) -> bool {
    matches!(c, '\u{64b}'..='\u{65f}' | '\u{670}')
}

/// Share of Arabic letters that carry a diacritic: a text from about a third on counts as
/// diacritised.
pub(crate) fn diacritised(text: &str) -> f64 {
    let is_letter = |c: char| is_arabic(c) && c.is_alphabetic() && !is_mark(c);
    let letters = text.chars().filter(|c| is_letter(*c)).count();
    let marks = text.chars().filter(|c| is_mark(*c)).count();
    marks as f64 / letters.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether a text holds what a speech engine for Arabic cannot read: digits or Latin
    /// letters.
    fn has_unspoken(text: &str) -> bool {
        text.chars().any(|c| c.is_numeric() || is_latin(c))
    }

    #[test]
    fn numbers_dates_and_signs_become_words() {
        for (written, expected) in [
            ("في عام 2017 فاز", "في عام ألفين وسبعة عشر فاز"),
            ("قتل 5 أشخاص و3 نساء", "قتل خمسة أشخاص وثلاثة نساء"),
            ("مرت 3 سنوات و12 سنة", "مرت ثلاث سنوات واثنتي عشرة سنة"),
            (
                "بلغ 3.5% من الناتج",
                "بلغ ثلاثة فاصلة خمسة في المئة من الناتج",
            ),
            ("بقيمة $5 فقط", "بقيمة خمسة دولارات فقط"),
            ("بقيمة $20 مليون", "بقيمة عشرين مليون دولار"),
            ("بقيمة 15 دولار", "بقيمة خمسة عشر دولارًا"),
            ("١٬٢٥٠ طالبا", "ألف ومئتين وخمسين طالبا"),
            (
                "يوم 12/3/2019 مساء",
                "يوم الثاني عشر من مارس عام ألفين وتسعة عشر مساء",
            ),
            (
                "يوم 2019-03-12.",
                "يوم الثاني عشر من مارس عام ألفين وتسعة عشر.",
            ),
            ("الساعة 10:30 صباحا", "الساعة العاشرة والنصف صباحا"),
            ("الساعة 17:45", "الساعة السادسة إلا الربع"),
            ("بين 10-15 عاما", "بين عشرة إلى خمسة عشر عاما"),
            ("فاز 2-1", "فاز اثنين واحد"),
            ("هاتف 0123", "هاتف صفر واحد اثنان ثلاثة"),
            ("يبعد 30 كم.", "يبعد ثلاثين كيلومترًا"),
            ("د. أحمد وصل", "دكتور أحمد وصل"),
            ("مُحَمَّدٌ", "مُحَمَّدٌ"),
        ] {
            assert_eq!(spoken(written, "ar"), expected, "{written}");
        }
        assert_eq!(spoken("5 people", "en"), "5 people");
    }

    #[test]
    fn latin_words_become_arabic_letters() {
        for (written, expected) in [
            ("قناة BBC اليوم", "قناة بي بي سي اليوم"),
            ("شركة Google", "شركة غوغل"),
            ("اسمه Smith", "اسمه سميث"),
            ("Twp", "تي دبليو بي"),
        ] {
            assert_eq!(spoken(written, "ar"), expected, "{written}");
        }
    }

    #[test]
    fn nothing_is_left_that_cannot_be_read() {
        let key = crate::seed::Key::new(8, "spoken");
        let parts = [
            "قال ",
            "5",
            "1,000",
            "$",
            "%",
            " BBC ",
            "Élan",
            "12/3/2019",
            "10:99",
            "3.14",
            " كم ",
            "٢٥",
            "-",
            "/",
            "0001",
            "99999999999999999999",
            "م",
            "&",
            "iPhone6s",
            "(",
            "’",
            "²",
        ];
        for i in 0..4000u64 {
            let text: String = (0..6)
                .map(|j| parts[key.with(i).below(j, parts.len())])
                .collect();
            let said = spoken(&text, "ar");
            assert!(!has_unspoken(&said), "{text} -> {said}");
            assert!(!said.contains("  "), "{said:?}");
        }
    }

    #[test]
    fn diacritics_are_measured() {
        assert!(diacritised("مُحَمَّدٌ رَسُولٌ") > 0.6);
        assert_eq!(diacritised("محمد"), 0.0);
    }
}
