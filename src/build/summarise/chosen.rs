//! Summaries from the source: a field, its headline, its first sentences.

use crate::build::document::Document;
use crate::build::sentences::sentences;
use crate::data::repeats::words;
use crate::text_table::counted;

/// Text and summaries; or a reason and its details.
pub(super) type Chosen = std::result::Result<(String, Vec<String>), (&'static str, String)>;

/// The source's summaries.
pub(super) fn existing(document: Document) -> Chosen {
    if document.summaries.is_empty() {
        return Err(("no_summary", "the source has no summary".to_owned()));
    }
    Ok((document.text, document.summaries))
}

/// The source's headline, which is removed from the beginning of the text.
pub(super) fn headline(document: Document) -> Chosen {
    let Some(headline) = document.headline else {
        return Err(("no_headline", "the source has no headline".to_owned()));
    };
    let text = without_first(&document.text, &headline);
    Ok((text, vec![headline]))
}

/// The first sentences, taken out of the text.
pub(super) fn lead(document: Document, num_sentences: usize) -> Chosen {
    let all = sentences(&document.text);
    if all.len() <= num_sentences {
        let detail = format!("the text has {}", counted(all.len() as u64, "sentence"));
        return Err(("nothing_but_lead", detail));
    }
    let (lead, rest) = all.split_at(num_sentences);
    Ok((rest.join(" "), vec![lead.join(" ")]))
}

/// A text without its first sentence if that has the words of `headline`.
fn without_first(text: &str, headline: &str) -> String {
    let all = sentences(text);
    match all.split_first() {
        Some((first, rest)) if words(first) == words(headline) => rest.join(" "),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document {
            row: 0,
            id: "a".into(),
            text: text.into(),
            summaries: vec![],
            headline: Some("عنوان الخبر".into()),
            language: "ar".into(),
            split: None,
            group: None,
            source: "f:1".into(),
            licence: None,
            rejected: None,
        }
    }

    #[test]
    fn a_summary_is_taken_out_of_the_text() {
        let (text, summaries) = headline(document("عُنوان الخبر.\nثم النص. آخر.")).unwrap();
        assert_eq!(
            (text.as_str(), &summaries[0][..]),
            ("ثم النص. آخر.", "عنوان الخبر")
        );
        let (text, summaries) = lead(document("أول جملة. ثانية. ثالثة."), 2).unwrap();
        assert_eq!(
            (text.as_str(), &summaries[0][..]),
            ("ثالثة.", "أول جملة. ثانية.")
        );
        assert_eq!(
            lead(document("واحدة."), 1).unwrap_err().0,
            "nothing_but_lead"
        );
        assert_eq!(existing(document("نص")).unwrap_err().0, "no_summary");
    }
}
