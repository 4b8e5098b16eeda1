//! `collect`: documents from JSON lines, Parquet, tables and text files, filtered by length,
//! language and script.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;

use crate::build::Observer;
use crate::build::document::Document;
use crate::build::document::Rejection;
use crate::build::document::Step;
use crate::build::recipe::Recipe;
use crate::build::sentences::sentences;
use crate::build::settings::collect::Settings;
use crate::data::language;
use crate::data::plain;
use crate::error::Error;
use crate::error::Result;
use crate::error::brief;
use crate::files;

/// Files of the sources in a fixed order, patterns resolved.
///
/// # Errors
/// A file that is missing; a pattern that matches nothing.
pub fn sources(settings: &Settings) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in &settings.from {
        let name = path.file_name().map(|name| name.to_string_lossy());
        let Some(pattern) = name.filter(|name| name.contains('*')) else {
            if !path.is_file() {
                let error = Error::input("there is no such file").at_path(path);
                return Err(error.at("collect.from").hint(
                    "give a file of documents: JSON lines, Parquet, CSV, TSV, or text; paths start at the working directory",
                ));
            }
            found.push(path.clone());
            continue;
        };
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut matching: Vec<PathBuf> = std::fs::read_dir(folder)
            .map_err(|e| {
                Error::io(folder, "read", e)
                    .at("collect.from")
                    .or_hint("give a folder of documents; paths start at the working directory")
            })?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                path.is_file() && matches(&pattern, &name)
            })
            .collect();
        if matching.is_empty() {
            return Err(
                Error::input(format!("nothing matches `{}`", path.display()))
                    .at("collect.from")
                    .hint("`*` stands for any letters in the last part of a path"),
            );
        }
        matching.sort();
        found.extend(matching);
    }
    Ok(found)
}

/// Returns whether a name fits a pattern, in which `*` matches anything.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// Reads the sources into one file, one document per line; excluded documents have a reason.
///
/// # Errors
/// A source that cannot be read, by file and line.
pub fn collect(recipe: &Recipe, out: &Path, observer: &mut dyn Observer) -> Result<()> {
    let settings = &recipe.collect;
    let paths = sources(settings)?;
    let mut reading = Reading {
        settings,
        num_sentences: settings.num_sentences()?,
        tag: language::tag(&settings.language)?,
        ids: HashMap::new(),
        num: 0,
    };
    files::write_atomic_with(out, |file| {
        for path in &paths {
            reading.file(path, &mut |document| {
                observer.tell(Step::Collect.name(), document.row, 0)?;
                let line = serde_json::to_string(&document).map_err(Error::bug_from)?;
                writeln!(file, "{line}").map_err(|e| Error::io(out, "write", e))
            })?;
        }
        Ok(())
    })?;
    if reading.num == 0 {
        return Err(Error::input("the sources hold no documents").at("collect.from"));
    }
    Ok(())
}

struct Reading<'a> {
    settings: &'a Settings,
    num_sentences: Option<usize>,
    tag: String,
    /// Place of each id so far.
    ids: HashMap<String, String>,
    num: usize,
}

impl Reading<'_> {
    fn file(&mut self, path: &Path, found: &mut dyn FnMut(Document) -> Result<()>) -> Result<()> {
        let is_full = |reading: &Self| {
            reading
                .settings
                .limit
                .is_some_and(|limit| reading.num >= limit)
        };
        if path.extension().is_some_and(|extension| extension == "txt") {
            if is_full(self) {
                return Ok(());
            }
            let text = files::read_text(path)?;
            let (headline, text) = text.trim().split_once('\n').unwrap_or(("", text.trim()));
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let fields = Map::from_iter([
                ("id".to_owned(), name.into()),
                (self.settings.text.clone(), text.trim().into()),
                (
                    self.settings.headline.clone().unwrap_or("headline".into()),
                    headline.trim().into(),
                ),
            ]);
            return self.row(path, None, fields, found);
        }
        plain::each(path, |line, fields| {
            if is_full(self) {
                return Ok(());
            }
            self.row(path, Some(line), fields, found)
        })
    }

    fn row(
        &mut self,
        path: &Path,
        line: Option<u32>,
        fields: Map<String, Value>,
        found: &mut dyn FnMut(Document) -> Result<()>,
    ) -> Result<()> {
        let place = match line {
            Some(line) => format!("{}:{line}", path.display()),
            None => path.display().to_string(),
        };
        let document = self
            .document(path, line, &fields, &place)
            .map_err(|e| e.at(&place))?;
        self.num += 1;
        found(document)
    }

    fn document(
        &mut self,
        path: &Path,
        line: Option<u32>,
        fields: &Map<String, Value>,
        place: &str,
    ) -> Result<Document> {
        let settings = self.settings;
        let own_id = match &settings.id {
            Some(name) => Some(needed(fields, name, "id")?),
            None => field(fields, "id"),
        };
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut id = own_id
            .filter(|id| !id.trim().is_empty())
            .unwrap_or_else(|| format!("{stem}-{}", line.unwrap_or(1)));
        let text = needed(fields, &settings.text, "text")?;
        let mut summaries = Vec::new();
        for name in &settings.summary {
            summaries.extend(field(fields, name));
        }
        let headline = match &settings.headline {
            Some(name) => field(fields, name),
            None => line.is_none().then(|| field(fields, "headline")).flatten(),
        };
        let optional = |name: &Option<String>| {
            name.as_ref()
                .and_then(|name| field(fields, name))
                .filter(|value| !value.trim().is_empty())
        };

        let mut rejected = None;
        if let Some(first) = self.ids.get(&id) {
            rejected = Some(Rejection::new(
                Step::Collect,
                "duplicate_id",
                format!("id `{}` is that of {first}", brief(&id)),
            ));
            id = format!("{id}#{}", self.num);
        }
        self.ids.insert(id.clone(), place.to_owned());
        let text = self.unit(&text);
        rejected = rejected.or_else(|| self.rejection(&text, optional(&settings.language_field)));
        Ok(Document {
            row: self.num,
            id,
            text,
            summaries: summaries
                .into_iter()
                .filter(|summary| !summary.trim().is_empty())
                .collect(),
            headline: headline.filter(|headline| !headline.trim().is_empty()),
            language: self.tag.clone(),
            split: optional(&settings.split),
            group: optional(&settings.group),
            source: place.to_owned(),
            licence: optional(&settings.licence_field).or_else(|| settings.licence.clone()),
            rejected,
        })
    }

    /// The part of a text that is used.
    fn unit(&self, text: &str) -> String {
        match self.num_sentences {
            None => text.to_owned(),
            Some(number) => {
                let first: Vec<&str> = sentences(text).into_iter().take(number).collect();
                first.join(" ")
            }
        }
    }

    fn rejection(&self, text: &str, stated: Option<String>) -> Option<Rejection> {
        let settings = self.settings;
        let reject = |reason, detail: String| Some(Rejection::new(Step::Collect, reason, detail));
        let num_words = text.split_whitespace().count();
        if num_words == 0 {
            return reject("empty_text", "the text is empty".to_owned());
        }
        if num_words < settings.min_words {
            let detail = format!("{num_words} words, fewer than {}", settings.min_words);
            return reject("too_short", detail);
        }
        if let Some(most) = settings.max_words.filter(|most| num_words > *most) {
            return reject("too_long", format!("{num_words} words, more than {most}"));
        }
        if let Some(stated) = stated {
            let primary = |tag: &str| tag.split('-').next().map(str::to_owned);
            let tag = language::tag(&stated).unwrap_or_else(|_| stated.clone());
            if primary(&tag) != primary(&self.tag) {
                return reject(
                    "wrong_language",
                    format!("its language is `{}`", brief(&stated)),
                );
            }
        }
        let share = script_share(text, &self.tag)?;
        (share < settings.min_script).then(|| {
            Rejection::new(
                Step::Collect,
                "wrong_script",
                format!(
                    "{:.0} % of its letters are in the language's script",
                    100.0 * share
                ),
            )
        })
    }
}

/// Share of letters in the script of a language; none without letters, or for a language whose
/// script this function does not know.
pub(crate) fn script_share(text: &str, tag: &str) -> Option<f64> {
    let is_own: fn(char) -> bool = match tag.split('-').next().unwrap_or_default() {
        "ar" | "arz" | "ary" | "apc" | "acm" | "fa" | "ur" => is_arabic,
        "en" | "fr" | "de" | "es" | "it" | "pt" | "nl" | "tr" => is_latin,
        _ => return None,
    };
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let own = text
        .chars()
        .filter(|c| c.is_alphabetic() && is_own(*c))
        .count();
    (letters > 0).then(|| own as f64 / letters as f64)
}

/// Returns whether a letter belongs to Unicode's blocks for Arabic.
pub(crate) fn is_arabic(c: char) -> bool {
    matches!(c, '\u{600}'..='\u{6ff}' | '\u{750}'..='\u{77f}' | '\u{8a0}'..='\u{8ff}' | '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}')
}

/// Returns whether a letter is Latin.
pub(crate) fn is_latin(c: char) -> bool {
    matches!(c, 'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}')
}

/// A field as text; numbers are written out, and a list of texts is joined by line breaks.
fn field(fields: &Map<String, Value>, name: &str) -> Option<String> {
    match fields.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(list) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            texts.map(|texts| texts.join("\n"))
        }
        _ => None,
    }
}

fn needed(fields: &Map<String, Value>, name: &str, key: &str) -> Result<String> {
    field(fields, name).ok_or_else(|| {
        let names: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
        Error::input(format!("the row has no text in a field `{name}`")).hint(format!(
            "name the field in the recipe, `collect: {{{key}: NAME}}`; the row has: {}",
            names.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn scripts_are_counted_by_letters() {
        assert_eq!(script_share("نعم ok 12", "ar"), Some(0.6));
        assert_eq!(script_share("نعم ok", "en-GB"), Some(0.4));
        assert_eq!(script_share("12", "ar"), None);
        assert_eq!(script_share("你好", "zh"), None);
    }
}
