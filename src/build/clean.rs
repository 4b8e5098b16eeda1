//! `clean`: cleans texts, rejects repeated and contaminated documents, and assigns split and index
//! of each row over the whole corpus.

use std::io::Write;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::build::Observer;
use crate::build::assign;
use crate::build::document::Document;
use crate::build::document::Rejection;
use crate::build::document::Step;
use crate::build::recipe::Recipe;
use crate::build::settings::clean::Settings;
use crate::build::store::Store;
use crate::data::plain;
use crate::data::repeats::Texts;
use crate::data::repeats::Unseen;
use crate::data::repeats::words;
use crate::data::spelling;
use crate::error::Error;
use crate::error::Result;
use crate::error::brief;
use crate::files;
use crate::jsonl;

/// The texts that must stay unseen.
fn unseen(settings: &Settings) -> Result<Unseen> {
    let mut unseen = Unseen::default();
    for path in &settings.test_sets {
        let name = path.display().to_string();
        let mut num = 0;
        plain::each(path, |_, fields| {
            for field in &settings.test_fields {
                if let Some(text) = fields.get(field).and_then(Value::as_str) {
                    unseen.add(&name, &words(text));
                    num += 1;
                }
            }
            Ok(())
        })?;
        if num == 0 {
            return Err(
                Error::input("no row has any of the fields that are compared")
                    .at_path(path)
                    .at("clean.test_sets")
                    .hint(format!(
                        "name them in `test_fields`; compared are: {}",
                        settings.test_fields.join(", ")
                    )),
            );
        }
    }
    Ok(unseen)
}

#[expect(
    clippy::unwrap_used,
    reason = "the patterns are constants, compiled in every test of this file"
)]
static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"</?[a-zA-Z][^<>]{0,400}>").unwrap());
#[expect(
    clippy::unwrap_used,
    reason = "the patterns are constants, compiled in every test of this file"
)]
static URL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?:https?://|www\.)\S+").unwrap());
#[expect(
    clippy::unwrap_used,
    reason = "the patterns are constants, compiled in every test of this file"
)]
static ENTITY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"&(?:#(\d{1,6})|#x([0-9a-fA-F]{1,6})|([a-z]{2,6}));").unwrap());

/// A text without markup, addresses, invisible characters and tatweel, in NFC, with single spaces;
/// line breaks stay.
pub(crate) fn mended(text: &str) -> String {
    let text = ENTITY.replace_all(text, |found: &regex::Captures| {
        let code = |group: usize, radix: u32| {
            found
                .get(group)
                .and_then(|digits| u32::from_str_radix(digits.as_str(), radix).ok())
                .and_then(char::from_u32)
        };
        let named = match found.get(3).map(|name| name.as_str()) {
            Some("amp") => Some('&'),
            Some("lt") => Some('<'),
            Some("gt") => Some('>'),
            Some("quot") => Some('"'),
            Some("apos") => Some('\''),
            Some("nbsp") => Some(' '),
            _ => None,
        };
        code(1, 10)
            .or_else(|| code(2, 16))
            .or(named)
            .map_or_else(|| found[0].to_owned(), String::from)
    });
    let text = TAG.replace_all(&text, " ");
    let text = URL.replace_all(&text, " ");
    let text = spelling::ordinary(&text);
    let visible: String = text
        .chars()
        .filter(|c| !spelling::is_invisible(*c) && *c != 'ـ')
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect();
    let lines: Vec<String> = visible
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("\n")
}

/// Cleans the collected documents, and assigns splits to those that stay.
///
/// # Errors
/// The disk's; a test set that cannot be read.
pub fn clean(recipe: &Recipe, store: &Store, observer: &mut dyn Observer) -> Result<()> {
    let settings = &recipe.clean;
    let unseen = unseen(settings)?;
    let mut texts = Texts::new(settings.near_duplicates);
    let mut ids: Vec<String> = Vec::new();
    let mut assigning = assign::Assigning::default();
    let collected = store.collected();
    let out = store.cleaned();
    files::write_atomic_with(&out, |file| {
        for row in jsonl::rows(&collected)? {
            let (_, mut document): (usize, Document) = row?;
            observer.tell(Step::Clean.name(), document.row, 0)?;
            clean_one(&mut document, recipe, &unseen, &mut texts, &ids);
            ids.push(document.id.clone());
            let line = serde_json::to_string(&document).map_err(Error::bug_from)?;
            assigning.add(&document, line.len());
            writeln!(file, "{line}")?;
        }
        Ok(())
    })?;
    assigning.write(recipe, &store.assigned())
}

/// Cleans one document, and rejects it if little is left of it or if it repeats others.
fn clean_one(
    document: &mut Document,
    recipe: &Recipe,
    unseen: &Unseen,
    texts: &mut Texts,
    ids: &[String],
) {
    document.text = mended(&document.text);
    document.summaries = document.summaries.iter().map(|text| mended(text)).collect();
    document.headline = document.headline.as_deref().map(mended);
    if document.rejected.is_some() {
        return;
    }
    let reject = |reason, detail: String| Some(Rejection::new(Step::Clean, reason, detail));
    let compared = words(&document.text);
    if compared.len() < recipe.collect.min_words.max(1) {
        let detail = format!("{} words are left without markup", compared.len());
        document.rejected = reject("too_short_when_clean", detail);
        return;
    }
    let contamination = unseen.find(&compared).or_else(|| {
        document
            .summaries
            .iter()
            .chain(&document.headline)
            .find_map(|summary| unseen.find(&words(summary)))
    });
    if let Some(found) = contamination {
        let what = match &found.run {
            None => "all words".to_owned(),
            Some(run) => format!("the words `{}`", brief(run)),
        };
        document.rejected = reject("contaminated", format!("shares {what} with {}", found.set));
        return;
    }
    if let Some(repeated) = texts.add(document.row, &compared) {
        let of = ids.get(repeated.of).map_or("?", String::as_str);
        document.rejected = if repeated.is_exact {
            reject("exact_duplicate", format!("has the words of `{of}`"))
        } else {
            let detail = format!("repeats `{of}`, similarity {:.2}", repeated.similarity);
            reject("near_duplicate", detail)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_odd_characters_are_removed() {
        for (text, expected) in [
            (
                "<p>قال&nbsp;&quot;نعم&quot;</p>\n\n<br/>ثم",
                "قال \"نعم\"\nثم",
            ),
            ("زر https://a.b/c?d الآن", "زر الآن"),
            ("ﻣﺮﺣﺒﺎ\u{200f} جمـــيل\u{feff}", "مرحبا جميل"),
            ("5 < 6 و 7 > 3 &unknown;", "5 < 6 و 7 > 3 &unknown;"),
            ("&#1606;&#x639;م\u{0}\t.", "نعم ."),
            ("مُحَمَّد", "مُحَمَّد"),
        ] {
            assert_eq!(mended(text), expected, "{text}");
        }
    }
}
