//! A reference and an answer word by word, as HTML: what was said right, wrong, not at all or too
//! much.

use crate::page::escape;
use maqam_metrics::alignment::Aligned;
use maqam_metrics::alignment::align_words;

/// Texts of more words together are shown one below the other: nobody reads them word by word.
const MOST_WORDS: usize = 800;

/// The words in columns, the reference above and the answer below, in the direction of their
/// script; `None` for texts too long for that.
pub fn html(reference: &str, answer: &str) -> Option<String> {
    let count = |text: &str| text.split_whitespace().count();
    if count(reference) + count(answer) > MOST_WORDS {
        return None;
    }
    let words: String = align_words(reference, answer)
        .into_iter()
        .map(pair)
        .collect();
    Some(format!(
        "<div class=\"alignment\" dir=\"auto\">\n{words}</div>\n"
    ))
}

fn pair(aligned: Aligned) -> String {
    let class = match aligned {
        Aligned::Equal(_) => "equal",
        Aligned::Substituted(..) => "substituted",
        Aligned::Deleted(_) => "deleted",
        Aligned::Inserted(_) => "inserted",
    };
    let word = |text: Option<&str>| text.map_or_else(|| "·".to_owned(), escape::xml);
    format!(
        "<span class=\"pair {class}\"><span>{}</span><span>{}</span></span>\n",
        word(aligned.reference()),
        word(aligned.prediction())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_escaped_and_a_gap_is_seen() {
        let html = html("<b> صباح الخير يا", "صباح الخير يا &").unwrap();
        let expected = [
            "pair deleted\"><span>&lt;b&gt;</span><span>·</span>",
            "pair equal\"><span>صباح</span>",
            "pair inserted\"><span>·</span><span>&amp;</span>",
        ];
        assert!(
            expected.iter().all(|expected| html.contains(expected))
                && html.contains("dir=\"auto\""),
            "{html}"
        );
    }

    #[test]
    fn a_chapter_is_not_shown_word_by_word() {
        assert!(html(&"word ".repeat(700), &"word ".repeat(101)).is_none());
    }
}
