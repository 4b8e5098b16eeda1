//! Numbers in a text, as digits or words: the numbers of a summary must be in its text.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

/// A number word of the language, as far as it has a value of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Word {
    /// A value below a thousand.
    Value(f64),
    /// Two thousand, two million ..., by the scale.
    Dual(f64),
    /// Hundred, in languages that count hundreds.
    Hundred,
    /// Thousand and more.
    Scale(f64),
    /// The plural of a scale, which needs a number before it.
    Plural(f64),
}

/// Number words below this are often not counts: one, two.
const LEAST_IN_WORDS: f64 = 3.0;

#[expect(
    clippy::unwrap_used,
    reason = "the pattern is a constant, compiled in every test of this file"
)]
static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\d{1,3}(?:[,٬]\d{3})+(?:[.٫]\d+)?|\d+(?:[.,٫]\d+)?|[\p{L}\p{M}]+").unwrap()
});

/// The numbers in a text, in Arabic or English. Numbers below three count only as digits.
pub(crate) fn numbers(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut reading = Reading::default();
    let mut last_end = 0;
    for token in TOKEN.find_iter(text) {
        let between = &text[last_end..token.start()];
        last_end = token.end();
        if !between.trim().is_empty() && between != "-" {
            reading.end(&mut found);
        }
        let written = token.as_str();
        if written.starts_with(|c: char| c.is_numeric()) {
            reading.end(&mut found);
            if let Some(value) = digits(written) {
                reading.begin(value);
            }
            continue;
        }
        let folded = fold(written);
        match word(&folded) {
            Some((is_joined, word)) => reading.add(word, is_joined, &mut found),
            None if folded == "and" && reading.is_open => {}
            None => reading.end(&mut found),
        }
    }
    reading.end(&mut found);
    found
}

/// A number in progress.
#[derive(Default)]
struct Reading {
    is_open: bool,
    has_digits: bool,
    total: f64,
    current: f64,
}

impl Reading {
    fn begin(&mut self, value: f64) {
        *self = Self {
            is_open: true,
            has_digits: true,
            total: 0.0,
            current: value,
        };
    }

    fn add(&mut self, word: Word, is_joined: bool, found: &mut BTreeSet<String>) {
        if let Word::Value(value) = word {
            let continues = is_joined
                || (value == 10.0 && (1.0..10.0).contains(&(self.current % 100.0)))
                || (value < 10.0 && self.current >= 20.0 && self.current % 10.0 == 0.0)
                || (value < 1000.0 && self.current == 0.0)
                || (value < 100.0 && self.current >= 100.0 && self.current % 100.0 == 0.0);
            if self.is_open && (!continues || self.has_digits) {
                self.end(found);
            }
            self.is_open = true;
            self.current += value;
            return;
        }
        if !self.is_open && matches!(word, Word::Plural(_)) {
            return;
        }
        // One or two thousand after `and` count on: six hundred and a thousand is 601 thousand.
        let counts_on = is_joined && self.current >= 100.0 && self.current % 100.0 == 0.0;
        if matches!(word, Word::Dual(_)) && self.current > 0.0 && !counts_on {
            self.end(found);
        }
        self.is_open = true;
        match word {
            Word::Hundred => self.current = self.current.max(1.0) * 100.0,
            Word::Dual(scale) => self.scale(self.current + 2.0, scale),
            Word::Scale(scale) if counts_on => self.scale(self.current + 1.0, scale),
            Word::Scale(scale) | Word::Plural(scale) if self.current == 0.0 => {
                self.scale(1.0, scale);
            }
            Word::Scale(scale) | Word::Plural(scale) => self.scale(self.current, scale),
            Word::Value(_) => {}
        }
    }

    /// Adds a number of thousands, millions ...
    fn scale(&mut self, count: f64, scale: f64) {
        self.total += count * scale;
        self.current = 0.0;
        self.has_digits = false;
    }

    fn end(&mut self, found: &mut BTreeSet<String>) {
        let value = self.total + self.current;
        if self.is_open && (self.has_digits || value >= LEAST_IN_WORDS) {
            found.insert(canonical(value));
        }
        *self = Self::default();
    }
}

/// A value as text: equal values, equal texts.
fn canonical(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The value of digits with their separators.
pub(crate) fn digits(written: &str) -> Option<f64> {
    let plain: String = written.chars().map(western).collect();
    let groups: Vec<&str> = plain.split([',', '٬']).collect();
    let is_grouped = groups.len() > 1
        && groups[1..].iter().enumerate().all(|(i, group)| {
            let whole = group.split(['.', '٫']).next().unwrap_or_default();
            whole.len() == 3 && (i + 2 == groups.len() || group.len() == 3)
        });
    let joined = if is_grouped {
        groups.concat()
    } else {
        groups.join(".")
    };
    joined.replace('٫', ".").parse().ok()
}

/// A digit of any Arabic kind as a Western one.
pub(crate) fn western(c: char) -> char {
    match c {
        '٠'..='٩' => char::from(b'0' + (c as u32 - '٠' as u32) as u8),
        '۰'..='۹' => char::from(b'0' + (c as u32 - '۰' as u32) as u8),
        other => other,
    }
}

/// A word without marks, in lower case, with one form of alef, teh marbuta and yeh.
fn fold(word: &str) -> String {
    crate::data::repeats::words(word)
        .concat()
        .chars()
        .map(|c| match c {
            'أ' | 'إ' | 'آ' | 'ٱ' => 'ا',
            'ة' => 'ه',
            'ى' => 'ي',
            other => other,
        })
        .collect()
}

/// The number of a folded word, and whether `and` joins it to the one before.
fn word(folded: &str) -> Option<(bool, Word)> {
    if let Some(found) = bare(folded) {
        return Some((false, found));
    }
    let joined = folded.strip_prefix('و').and_then(bare);
    joined.map(|found| (true, found)).or_else(|| {
        ["ب", "ل", "ال", "وال"]
            .iter()
            .find_map(|prefix| folded.strip_prefix(prefix).and_then(bare))
            .map(|found| (false, found))
    })
}

/// Arabic stems of three to nine, with what ends them.
const STEMS: [(&str, f64); 7] = [
    ("ثلاث", 3.0),
    ("اربع", 4.0),
    ("خمس", 5.0),
    ("ست", 6.0),
    ("سبع", 7.0),
    ("ثمان", 8.0),
    ("تسع", 9.0),
];

fn bare(word: &str) -> Option<Word> {
    for (stem, value) in STEMS {
        let Some(ending) = word.strip_prefix(stem) else {
            continue;
        };
        match ending {
            "" | "ه" => return Some(Word::Value(value)),
            "ي" | "يه" if value == 8.0 => return Some(Word::Value(value)),
            "ون" | "ين" => return Some(Word::Value(10.0 * value)),
            "مئه" | "مائه" | "ميه" | "يمئه" => {
                return Some(Word::Value(100.0 * value));
            }
            _ => {}
        }
    }
    let value = match word {
        "واحد" | "واحده" | "احدي" | "احد" => 1.0,
        "اثنان" | "اثنين" | "اثنتان" | "اثنتين" | "اثنا" | "اثني" | "اثنتا" | "اثنتي" => {
            2.0
        }
        "عشر" | "عشره" => 10.0,
        "عشرون" | "عشرين" => 20.0,
        "مئتان" | "مئتين" | "مائتان" | "مائتين" => 200.0,
        "one" => 1.0,
        "two" => 2.0,
        "three" => 3.0,
        "four" => 4.0,
        "five" => 5.0,
        "six" => 6.0,
        "seven" => 7.0,
        "eight" => 8.0,
        "nine" => 9.0,
        "ten" => 10.0,
        "eleven" => 11.0,
        "twelve" => 12.0,
        "thirteen" => 13.0,
        "fourteen" => 14.0,
        "fifteen" => 15.0,
        "sixteen" => 16.0,
        "seventeen" => 17.0,
        "eighteen" => 18.0,
        "nineteen" => 19.0,
        "twenty" => 20.0,
        "thirty" => 30.0,
        "forty" => 40.0,
        "fifty" => 50.0,
        "sixty" => 60.0,
        "seventy" => 70.0,
        "eighty" => 80.0,
        "ninety" => 90.0,
        _ => {
            return Some(match word {
                "الفان" | "الفين" => Word::Dual(1e3),
                "مليونان" | "مليونين" => Word::Dual(1e6),
                "ملياران" | "مليارين" => Word::Dual(1e9),
                "مئه" | "مائه" | "ميه" | "hundred" => Word::Hundred,
                "الف" | "الفا" | "thousand" => Word::Scale(1e3),
                "مليون" | "مليونا" | "million" => Word::Scale(1e6),
                "مليار" | "مليارا" | "بليون" | "billion" => Word::Scale(1e9),
                "تريليون" | "trillion" => Word::Scale(1e12),
                "مئات" | "hundreds" => Word::Plural(1e2),
                "الاف" | "thousands" => Word::Plural(1e3),
                "ملايين" | "millions" => Word::Plural(1e6),
                "مليارات" | "billions" => Word::Plural(1e9),
                _ => return None,
            });
        }
    };
    Some(Word::Value(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::arabic::Case;
    use crate::build::arabic::Gender;
    use crate::build::arabic::cardinal;
    use crate::seed::Key;

    #[test]
    fn digits_and_words_are_the_same_numbers() {
        for (text, expected) in [
            ("قتل 25 شخصا", &["25"][..]),
            ("قتل خمسة وعشرون شخصا", &["25"]),
            ("١٢٫٥ مليون", &["12500000"]),
            ("3.5 ملايين دولار", &["3500000"]),
            ("1,250 و٣٬٠٠٠", &["1250", "3000"]),
            ("عام ألفين وسبعة عشر", &["2017"]),
            ("مئة وعشرين ألفا", &["120000"]),
            ("ثلاث مئة", &["300"]),
            ("مئة وألفين", &["102000"]),
            ("ستمئة وألف", &["601000"]),
            ("مليون وألفان", &["1002000"]),
            ("الملايين من الناس، آلاف", &[]),
            ("واحد من اثنين", &[]),
            ("1 من 2", &["1", "2"]),
            ("خمسة، ستة", &["5", "6"]),
            ("twenty-five people, one hundred and five", &["105", "25"]),
            ("two million", &["2000000"]),
            ("5 million", &["5000000"]),
            ("بعشرة", &["10"]),
        ] {
            let expected: BTreeSet<String> = expected.iter().map(|n| (*n).to_owned()).collect();
            assert_eq!(numbers(text), expected, "{text}");
        }
    }

    #[test]
    fn every_number_in_words_is_read_back() {
        let key = Key::new(3, "numbers");
        for i in 0..3000 {
            let size = [100, 1000, 100_000, 50_000_000, 9_000_000_000][i as usize % 5];
            let number = 3 + key.below(i, size) as u64;
            for gender in [Gender::Masculine, Gender::Feminine] {
                for case in [Case::Nominative, Case::Oblique] {
                    let words = cardinal(number, gender, case);
                    assert_eq!(
                        numbers(&words),
                        BTreeSet::from([number.to_string()]),
                        "{words}"
                    );
                }
            }
        }
    }
}
