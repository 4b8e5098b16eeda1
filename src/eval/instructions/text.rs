//! How a check looks at an answer: its words, its spellings folded together, its marks; Arabic and
//! Latin script alike.

/// Arabic marks of vocalisation and recitation: what "without diacritics" forbids.
///
/// The combining hamza and madda (U+0653 to U+0655) are none: in decomposed text they are part of a
/// letter.
pub fn is_diacritic(c: char) -> bool {
    matches!(c,
        '\u{0610}'..='\u{061a}' | '\u{064b}'..='\u{0652}' | '\u{0656}'..='\u{065f}' | '\u{0670}' | '\u{06d6}'..='\u{06dc}'
        | '\u{06df}'..='\u{06e4}' | '\u{06e7}' | '\u{06e8}' | '\u{06ea}'..='\u{06ed}' | '\u{08d3}'..='\u{08e1}' | '\u{08e3}'..='\u{08ff}'
        | '\u{fc5e}'..='\u{fc63}' | '\u{fe70}'..='\u{fe7f}')
}

/// The stroke that lengthens an Arabic word and says nothing.
const TATWEEL: char = '\u{0640}';

/// What is not seen: marks of direction and of joining, the byte order mark, the soft hyphen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{00ad}' | '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Marks that belong to the letter before them.
fn is_mark(c: char) -> bool {
    is_diacritic(c) || matches!(c, '\u{0300}'..='\u{036f}' | '\u{0653}'..='\u{0655}')
}

/// A letter that counts: not a mark, not a tatweel.
pub fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !is_mark(c) && c != TATWEEL
}

/// Punctuation as Unicode's category P has it in the Latin, Arabic, general and fullwidth blocks.
fn is_punctuation(c: char) -> bool {
    match c {
        '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~' => false,
        c if c.is_ascii() => c.is_ascii_punctuation(),
        _ => matches!(c,
            '¡' | '§' | '«' | '¶' | '·' | '»' | '¿'
            | '\u{0609}' | '\u{060a}' | '،' | '\u{060d}' | '؛' | '\u{061d}'..='؟' | '٪'..='\u{066d}' | '۔'
            | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{2043}' | '\u{2045}'..='\u{2051}' | '\u{2053}'..='\u{205e}'
            | '\u{2e00}'..='\u{2e2e}' | '\u{2e30}'..='\u{2e4f}' | '、'..='〃' | '〈'..='】' | '〔'..='〟' | '\u{fd3e}' | '\u{fd3f}'
            | '！'..='＃' | '％'..='＊' | '，'..='／' | '：' | '；' | '？' | '＠' | '［'..='］' | '＿' | '｛' | '｝' | '｟'..='･'),
    }
}

/// Whether `c`, between these neighbours, is spelling rather than punctuation: `don't`,
/// `well-known`, `3.5`, `٣٫٥`.
fn is_inside_word(before: Option<char>, c: char, after: Option<char>) -> bool {
    let both = |is: fn(char) -> bool| before.is_some_and(is) && after.is_some_and(is);
    match c {
        '\'' | '\u{2019}' | '-' | '\u{2010}' | '\u{2011}' => both(|c| is_letter(c) || is_mark(c)),
        '.' | ',' | '\u{066b}' | '\u{066c}' => both(char::is_numeric),
        _ => false,
    }
}

/// The characters of a text, each with its neighbours.
fn with_neighbours(text: &str) -> impl Iterator<Item = (usize, Option<char>, char, Option<char>)> {
    let mut before = None;
    text.char_indices().map(move |(start, c)| {
        let found = (
            start,
            before,
            c,
            text[start + c.len_utf8()..].chars().next(),
        );
        before = Some(c);
        found
    })
}

/// Whether a text holds punctuation; the marks inside `don't`, `well-known` and `3.5` are spelling.
pub fn has_punctuation(text: &str) -> bool {
    with_neighbours(text)
        .any(|(_, before, c, after)| is_punctuation(c) && !is_inside_word(before, c, after))
}

/// The text without punctuation, spaces where it stood between words.
pub fn without_punctuation(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for (_, before, c, after) in with_neighbours(text) {
        let is_left_out = is_punctuation(c) && !is_inside_word(before, c, after);
        kept.push(if is_left_out { ' ' } else { c });
    }
    collapsed(&kept)
}

/// The text with single spaces.
pub fn collapsed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The words of a text: runs of letters, marks and digits, with an apostrophe or hyphen between
/// letters and a separator between digits. Marks never divide a word, and a lone tatweel is none.
pub fn words(text: &str) -> Vec<&str> {
    let belongs = |before, c: char, after| {
        c.is_alphanumeric() || is_mark(c) || is_invisible(c) || is_inside_word(before, c, after)
    };
    let mut found = Vec::new();
    let mut start = None;
    for (at, before, c, after) in with_neighbours(text) {
        match (start, belongs(before, c, after)) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                found.push(&text[from..at]);
                start = None;
            }
            _ => {}
        }
    }
    found.extend(start.map(|from| &text[from..]));
    found.retain(|word| word.chars().any(|c| is_letter(c) || c.is_numeric()));
    found
}

/// The text with spellings of one word made alike: lower case, no diacritics, tatweel or invisible
/// characters, one form of alef, yeh and teh marbuta, Western digits for both Arabic kinds.
pub fn folded(text: &str) -> String {
    let kept = text
        .chars()
        .filter(|&c| !is_diacritic(c) && !is_invisible(c) && c != TATWEEL);
    kept.flat_map(char::to_lowercase).map(fold_letter).collect()
}

fn fold_letter(c: char) -> char {
    match c {
        'أ' | 'إ' | 'آ' | 'ٱ' => 'ا',
        'ى' => 'ي',
        'ة' => 'ه',
        '٠'..='٩' => western(c, '٠'),
        '۰'..='۹' => western(c, '۰'),
        c => c,
    }
}

fn western(digit: char, zero: char) -> char {
    char::from_digit(u32::from(digit) - u32::from(zero), 10).unwrap_or(digit)
}

/// The folded words of a text with single spaces: what two texts are compared by.
pub fn folded_words(text: &str) -> String {
    words(text)
        .into_iter()
        .map(folded)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Shortest Arabic word that is looked for behind what is written together with it; in a shorter
/// one these letters are as likely its own.
const SHORTEST_STEM: usize = 3;

/// Whether a text holds `phrase`, word for word in folded spelling.
///
/// The first word of an Arabic phrase is also found behind the conjunctions and prepositions that
/// are written together with an article (`وال`, `بال`, `لل` ...), behind the article itself and
/// behind a lone waw: "والسلام" holds "سلام". Where a root begins with waw this errs: "ولدان" is
/// taken to hold "لدان".
pub fn contains_phrase(text: &str, phrase: &str) -> bool {
    let of = |text: &str| words(text).into_iter().map(folded).collect::<Vec<String>>();
    let text = of(text);
    let phrase = of(phrase);
    let Some((first, rest)) = phrase.split_first() else {
        return false;
    };
    text.windows(phrase.len())
        .any(|window| is_form_of(&window[0], first) && &window[1..] == rest)
}

/// Whether the folded word `found` is `wanted`, alone or with Arabic proclitics.
fn is_form_of(found: &str, wanted: &str) -> bool {
    if found == wanted {
        return true;
    }
    if wanted.chars().count() < SHORTEST_STEM
        || !wanted.starts_with(|c| matches!(c, '\u{0620}'..='\u{064a}'))
    {
        return false;
    }
    let with_article = ["", "و", "ف", "ب", "ك", "وب", "وك", "فب"]
        .into_iter()
        .filter_map(|lead| found.strip_prefix(lead))
        .filter(|word| word.starts_with("ال"));
    let with_article = with_article.map(str::to_owned).chain(
        ["لل", "ولل", "فلل"]
            .into_iter()
            .filter_map(|lead| Some(format!("ال{}", found.strip_prefix(lead)?))),
    );
    with_article
        .into_iter()
        .any(|word| word == wanted || word.strip_prefix("ال") == Some(wanted))
        || found.strip_prefix('و') == Some(wanted)
}

/// Whether a text begins with `phrase` in folded spelling; quotation marks and opening brackets may
/// stand before it.
pub fn starts_with_phrase(text: &str, phrase: &str) -> bool {
    let text = folded(text);
    let phrase = collapsed(&folded(phrase));
    let text = collapsed(text.trim_start_matches(|c: char| {
        c.is_whitespace() || matches!(c, '"' | '\'' | '«' | '“' | '‘' | '(' | '[')
    }));
    match text.strip_prefix(&phrase) {
        Some(rest) => !phrase.is_empty() && !joins(phrase.chars().next_back(), rest.chars().next()),
        None => false,
    }
}

/// The text without a full stop at its end, and without the space around that.
pub fn without_full_stop(text: &str) -> &str {
    text.trim_end_matches(|c: char| c.is_whitespace() || is_invisible(c) || matches!(c, '.' | '۔'))
}

/// Whether a character may stand after the last word of a text.
fn is_end(c: char) -> bool {
    const ENDS: [char; 13] = [
        '"', '\'', '»', '”', '’', ')', ']', '.', '۔', '!', '…', '؟', '?',
    ];
    c.is_whitespace() || ENDS.contains(&c)
}

/// Whether a text ends with `phrase` in folded spelling; a stop, quotation marks and closing
/// brackets may stand after it.
pub fn ends_with_phrase(text: &str, phrase: &str) -> bool {
    let phrase = collapsed(folded(phrase).trim_end_matches(is_end));
    let text = collapsed(folded(text).trim_end_matches(is_end));
    match text.strip_suffix(&phrase) {
        Some(rest) => !phrase.is_empty() && !joins(rest.chars().next_back(), phrase.chars().next()),
        None => false,
    }
}

/// Whether two neighbouring characters are of one word.
fn joins(left: Option<char>, right: Option<char>) -> bool {
    left.is_some_and(char::is_alphanumeric) && right.is_some_and(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_counted_as_people_count_them() {
        let cases = [
            ("", 0),
            ("  \n", 0),
            ("one two", 2),
            ("yes,no", 2),
            ("don't worry, it's well-known", 4),
            ("it costs 3.5 or 1,000", 5),
            ("a - b", 2),
            ("مرحبا بكم", 2),
            ("مُحَمَّدٌ رَسُولُ اللهِ", 3),
            ("نعم،لا؛ ربما", 3),
            ("٣٫٥ درجات", 2),
            ("ســلام ـــ عليكم", 2),
            ("«نعم»", 1),
            ("cafe\u{301} noir", 2),
            ("🙂 !", 0),
        ];
        for (text, count) in cases {
            assert_eq!(words(text).len(), count, "{text}: {:?}", words(text));
        }
    }

    #[test]
    fn spellings_of_a_word_meet() {
        for (one, other) in [
            ("سَلَامٌ", "سلام"),
            ("أحمد", "احمد"),
            ("مدرسة", "مدرسه"),
            ("على", "علي"),
            ("سـلام", "سلام"),
            ("٢٠ ۲۰", "20 20"),
            ("HELLO", "hello"),
            ("\u{200f}نعم", "نعم"),
        ] {
            assert_eq!(folded(one), folded(other));
        }
        assert_ne!(folded("سلام"), folded("كلام"));
    }

    #[test]
    fn phrases_are_found_as_words() {
        let cases = [
            ("Say hello, world", "Hello", true),
            ("the category", "cat", false),
            ("a new cat food", "cat food", true),
            ("a cat and food", "cat food", false),
            ("والسلام عليكم", "سلام", true),
            ("بِالسَّلَامِ", "سلام", true),
            ("للسلام", "السلام", true),
            ("سلام", "السلام", false),
            ("وسلام", "سلام", true),
            ("الإسلام", "سلام", false),
            ("كلام", "لام", false),
            ("ولد", "لد", false),
            ("", "x", false),
            ("x", "", false),
        ];
        for (text, phrase, expected) in cases {
            assert_eq!(contains_phrase(text, phrase), expected, "{text} / {phrase}");
        }
    }

    #[test]
    fn beginnings_and_ends_are_whole_words() {
        let starts = [
            ("Answer: yes", "answer:", true),
            ("\"Answer: yes\"", "Answer:", true),
            ("Answering yes", "Answer", false),
            ("**Answer:** yes", "Answer:", false),
            ("My Answer: yes", "Answer:", false),
            ("الجَواب: نعم", "الجواب:", true),
            ("«الجواب: نعم»", "الجواب:", true),
            ("الجوابان", "الجواب", false),
            ("الجواب نعم", "الجواب:", false),
        ];
        for (text, phrase, expected) in starts {
            assert_eq!(
                starts_with_phrase(text, phrase),
                expected,
                "{text} / {phrase}"
            );
        }
        let ends = [
            ("so that is all.", "That is all", true),
            ("that is all (really)", "that is all", false),
            ("at small", "all", false),
            ("هذا هو. انتهى", "انتهى", true),
            ("هذا هو. «انتهى».", "انتهى.", true),
            ("ما انتهى بعد", "انتهى", false),
            ("وانتهى", "انتهى", false),
        ];
        for (text, phrase, expected) in ends {
            assert_eq!(
                ends_with_phrase(text, phrase),
                expected,
                "{text} / {phrase}"
            );
        }
    }

    #[test]
    fn punctuation_is_unicodes() {
        let category = regex::Regex::new(r"^\p{P}$").unwrap();
        let blocks = [
            '\0'..='\u{00ff}',
            '\u{0600}'..='\u{06ff}',
            '\u{2000}'..='\u{206f}',
            '\u{2e00}'..='\u{2e4f}',
            '\u{3000}'..='\u{301f}',
            '\u{ff00}'..='\u{ff65}',
        ];
        for c in blocks.into_iter().flatten() {
            assert_eq!(
                is_punctuation(c),
                category.is_match(&c.to_string()),
                "U+{:04X}",
                u32::from(c)
            );
        }
    }

    #[test]
    fn spelling_is_no_punctuation() {
        for clean in [
            "don't",
            "well-known",
            "3.5",
            "٣٫٥",
            "نعم لا",
            "a+b",
            "🙂",
            "",
        ] {
            assert!(!has_punctuation(clean), "{clean}");
        }
        for marked in [
            "yes.",
            "نعم،",
            "«نعم»",
            "هل؟",
            "*yes*",
            "'yes'",
            "3.",
            "a - b",
            "٪",
        ] {
            assert!(has_punctuation(marked), "{marked}");
        }
        assert_eq!(
            without_punctuation("«نعم»، قال؛ it's 3.5!"),
            "نعم قال it's 3.5"
        );
    }

    proptest! {
        #[test]
        fn folding_settles_and_taking_out_punctuation_leaves_none(text in "\\PC{0,30}") {
            prop_assert_eq!(folded(&folded(&text)), folded(&text));
            prop_assert!(!has_punctuation(&without_punctuation(&text)));
        }

        #[test]
        fn every_word_is_found_in_its_text(text in "[a-zء-ي ،.'-]{0,30}") {
            for word in words(&text) {
                prop_assert!(contains_phrase(&text, word));
            }
        }
    }
}
