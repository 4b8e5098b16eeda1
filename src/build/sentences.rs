//! Sentences of a text in Arabic or in a European language.

/// Signs that end a sentence.
const ENDS: [char; 5] = ['.', '!', '?', '؟', '…'];
/// Signs that may follow an end and belong to the sentence.
const CLOSERS: [char; 8] = ['"', '\'', '»', '”', '’', ')', ']', '“'];
/// Words before a full stop that end no sentence.
const ABBREVIATIONS: [&str; 18] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "no", "vs", "etc", "e.g", "i.e", "ق", "د", "أ", "م",
    "ص", "ج", "هـ",
];

/// Splits a text into its sentences, in order; line breaks end sentences too. Nothing but spaces
/// between sentences is lost.
pub fn sentences(text: &str) -> Vec<&str> {
    text.lines()
        .flat_map(of_line)
        .map(str::trim)
        .filter(|sentence| !sentence.is_empty())
        .collect()
}

fn of_line(line: &str) -> Vec<&str> {
    let chars: Vec<(usize, char)> = line.char_indices().collect();
    let at = |i: usize| chars.get(i).map(|(_, c)| *c);
    let mut found = Vec::new();
    let mut start = 0;
    let mut i = 0;
    while i < chars.len() {
        let (place, c) = chars[i];
        i += 1;
        if !ENDS.contains(&c) {
            continue;
        }
        while at(i).is_some_and(|c| ENDS.contains(&c) || CLOSERS.contains(&c)) {
            i += 1;
        }
        let is_followed_by_space = at(i).is_none_or(char::is_whitespace);
        if !is_followed_by_space || (c == '.' && is_abbreviated(&line[start..place])) {
            continue;
        }
        let end = chars.get(i).map_or(line.len(), |(place, _)| *place);
        found.push(&line[start..end]);
        start = end;
    }
    found.push(&line[start..]);
    found
}

/// Returns whether the full stop after this text is part of its last word.
fn is_abbreviated(before: &str) -> bool {
    let word = before
        .rsplit(|c: char| c.is_whitespace() || c == '(')
        .next()
        .unwrap_or_default();
    let is_initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    is_initial || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_a_reader_says() {
        for (text, expected) in [
            ("جاء الولد. ذهب؟ نعم!", &["جاء الولد.", "ذهب؟", "نعم!"][..]),
            ("قال: \"لا أعرف.\" ثم مضى.", &["قال: \"لا أعرف.\"", "ثم مضى."]),
            ("بلغ 3.5 في المئة. انتهى", &["بلغ 3.5 في المئة.", "انتهى"]),
            ("قال د. أحمد نعم.", &["قال د. أحمد نعم."]),
            ("Mr. Smith came. He left.", &["Mr. Smith came.", "He left."]),
            ("By J. K. Rowling. New", &["By J. K. Rowling.", "New"]),
            ("سطر\n\nآخر", &["سطر", "آخر"]),
            ("ثم... مضى.", &["ثم...", "مضى."]),
            ("", &[]),
        ] {
            assert_eq!(sentences(text), expected, "{text}");
        }
    }
}
