//! A reference and an answer word by word: what was said right, wrong, not at all or too much.

use crate::report::escape;

/// A word of the reference, of the answer, or of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aligned {
    /// The word of both.
    Equal(String),
    /// The word of the reference and the one in its place.
    Substituted(String, String),
    /// A word of the reference that the answer lacks.
    Deleted(String),
    /// A word that only the answer has.
    Inserted(String),
}

/// Cells of the matrix of distances beyond which texts are shown unaligned.
const MOST_CELLS: usize = 4_000_000;

/// The alignment with the fewest errors; `None` for texts too long to compare word by word.
///
/// Of several optimal alignments the one is taken that, read from the end, prefers a deletion, then an insertion, then a match or
/// substitution, as the word error rate counts them.
pub fn align(reference: &str, answer: &str) -> Option<Vec<Aligned>> {
    let (a, b): (Vec<&str>, Vec<&str>) = (reference.split_whitespace().collect(), answer.split_whitespace().collect());
    let columns = b.len() + 1;
    if (a.len() + 1).checked_mul(columns)? > MOST_CELLS {
        return None;
    }
    let mut distance = vec![0u32; (a.len() + 1) * columns];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            distance[i * columns + j] = match (i, j) {
                (i, 0) => i as u32,
                (0, j) => j as u32,
                _ => {
                    let diagonal = distance[(i - 1) * columns + j - 1] + u32::from(a[i - 1] != b[j - 1]);
                    diagonal.min(1 + distance[(i - 1) * columns + j]).min(1 + distance[i * columns + j - 1])
                }
            };
        }
    }
    let (mut i, mut j) = (a.len(), b.len());
    let mut aligned = Vec::with_capacity(i.max(j));
    while i > 0 || j > 0 {
        let here = distance[i * columns + j];
        if i > 0 && here == 1 + distance[(i - 1) * columns + j] && !(j > 0 && a[i - 1] == b[j - 1]) {
            i -= 1;
            aligned.push(Aligned::Deleted(a[i].to_owned()));
        } else if j > 0 && here == 1 + distance[i * columns + j - 1] && !(i > 0 && a[i - 1] == b[j - 1]) {
            j -= 1;
            aligned.push(Aligned::Inserted(b[j].to_owned()));
        } else {
            (i, j) = (i - 1, j - 1);
            let (word, said) = (a[i].to_owned(), b[j].to_owned());
            aligned.push(if word == said { Aligned::Equal(word) } else { Aligned::Substituted(word, said) });
        }
    }
    aligned.reverse();
    Some(aligned)
}

/// The words in columns, the reference above and the answer below, in the direction of their script.
pub fn html(alignment: &[Aligned]) -> String {
    let pair = |class: &str, above: &str, below: &str| {
        let word = |text: &str| if text.is_empty() { "·".to_owned() } else { escape::xml(text) };
        format!("<span class=\"pair {class}\"><span>{}</span><span>{}</span></span>\n", word(above), word(below))
    };
    let words = alignment.iter().map(|aligned| match aligned {
        Aligned::Equal(word) => pair("equal", word, word),
        Aligned::Substituted(word, said) => pair("substituted", word, said),
        Aligned::Deleted(word) => pair("deleted", word, ""),
        Aligned::Inserted(said) => pair("inserted", "", said),
    });
    format!("<div class=\"alignment\" dir=\"auto\">\n{}</div>\n", words.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::word_errors;

    #[test]
    fn an_alignment_has_as_many_errors_as_the_word_error_rate_counts() {
        let key = crate::seed::Key::new(0, "alignment");
        for round in 0..2000 {
            let key = key.with(round);
            let text = |which: u64| {
                let words = (0..key.below(1000 + which, 9)).map(|i| ["a", "b", "ج", "د"][key.below(which * 100 + i as u64, 4)]);
                words.collect::<Vec<_>>().join(" ")
            };
            let (reference, answer) = (text(0), text(1));
            let alignment = align(&reference, &answer).unwrap();
            let errors = alignment.iter().filter(|aligned| !matches!(aligned, Aligned::Equal(_))).count() as u64;
            assert_eq!(errors, word_errors(&reference, &answer).errors(), "{reference} / {answer}: {alignment:?}");
            let said = |aligned: &Aligned| match aligned {
                Aligned::Equal(word) | Aligned::Substituted(_, word) | Aligned::Inserted(word) => Some(word.clone()),
                Aligned::Deleted(_) => None,
            };
            assert_eq!(alignment.iter().filter_map(said).collect::<Vec<_>>().join(" "), answer);
        }
    }

    #[test]
    fn texts_of_a_book_are_not_aligned() {
        let book = "word ".repeat(3000);
        assert!(align(&book, &book).is_none());
    }

    #[test]
    fn words_are_escaped_and_a_gap_is_seen() {
        let html = html(&align("<b> صباح", "صباح & x").unwrap());
        assert!(html.contains("&lt;b&gt;") && html.contains("&amp;") && html.contains("dir=\"auto\"") && html.contains('·'), "{html}");
    }
}
