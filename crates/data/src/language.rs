//! Names of languages as people write them, folded to BCP 47 tags.

use isolang::Language;
use unicode_normalization::UnicodeNormalization;

use crate::spelling::is_invisible;
use crate::spelling::visible;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::yaml;

/// Names that the table of ISO 639 does not have.
const NAMES: [(&str, &str); 19] = [
    ("عربي", "ar"),
    ("عربية", "ar"),
    ("عربى", "ar"),
    ("عربيه", "ar"),
    ("فصحى", "ar"),
    ("فصحي", "ar"),
    ("modern standard arabic", "ar"),
    ("انجليزي", "en"),
    ("انجليزية", "en"),
    ("انجليزى", "en"),
    ("انجليزيه", "en"),
    ("انكليزي", "en"),
    ("انكليزية", "en"),
    ("فرنسية", "fr"),
    ("mandarin", "zh"),
    ("farsi", "fa"),
    ("cantonese", "yue"),
    ("greek", "el"),
    ("malay", "ms"),
];

/// Codes of ISO 639-3 that the code of Arabic covers. Source: the macrolanguage mappings of ISO
/// 639-3, entry `ara`.
const ARABIC: [&str; 30] = [
    "ara", "aao", "abh", "abv", "acm", "acq", "acw", "acx", "acy", "adf", "aeb", "aec", "afb",
    "ajp", "apc", "apd", "arb", "arq", "ars", "ary", "arz", "auz", "avl", "ayh", "ayl", "ayn",
    "ayp", "pga", "shu", "ssh",
];

/// The codes of ISO 639-2 for books that differ from those for terms, with the code of ISO 639-1.
const BIBLIOGRAPHIC: [(&str, &str); 20] = [
    ("alb", "sq"),
    ("arm", "hy"),
    ("baq", "eu"),
    ("bur", "my"),
    ("chi", "zh"),
    ("cze", "cs"),
    ("dut", "nl"),
    ("fre", "fr"),
    ("geo", "ka"),
    ("ger", "de"),
    ("gre", "el"),
    ("ice", "is"),
    ("mac", "mk"),
    ("mao", "mi"),
    ("may", "ms"),
    ("per", "fa"),
    ("rum", "ro"),
    ("slo", "sk"),
    ("tib", "bo"),
    ("wel", "cy"),
];

/// Codes that mean a dialect of Arabic here and another language in ISO 639: Malay, and ancient
/// Egyptian.
const AMBIGUOUS: [&str; 2] = ["msa", "egy"];

/// Returns the BCP 47 tag of a language: `ar` for `Arabic`, `ara`, `العربية` and `arz`, `ar-EG` for
/// `ar_eg`, `en` for `English`.
///
/// The first part is the two-letter code if the language has one. The rest (`EG`, `Latn`) stays.
///
/// # Errors
/// A name or tag that is not in ISO 639.
pub fn tag(written: &str) -> Result<String> {
    let clean: String = written.nfkc().filter(|&c| !is_invisible(c)).collect();
    let name = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    let lower = name.to_lowercase();
    if let Some(known) = of_name(&name, &lower) {
        return Ok(known);
    }
    let mut parts = lower.split(['-', '_']);
    let first = parts.next().unwrap_or_default();
    if AMBIGUOUS.contains(&first) {
        return Err(unknown(written).hint(
            "write `ar` for Arabic, or `ar-EG` for that of Egypt; a dialect is a `label` or a field of its own",
        ));
    }
    let rest: Vec<String> = parts.map(subtag).collect::<Option<_>>().unwrap_or_default();
    let is_tag = rest.len() == lower.matches(['-', '_']).count();
    match of_code(first).filter(|_| is_tag) {
        Some(code) if rest.is_empty() => Ok(code),
        Some(code) => Ok(format!("{code}-{}", rest.join("-"))),
        None => Err(refusal(written, &lower)),
    }
}

fn unknown(written: &str) -> Error {
    Error::input(format!("unknown language `{}`", visible(written)))
}

fn refusal(written: &str, lower: &str) -> Error {
    let near = yaml::nearest(
        lower,
        ["arabic", "english", "french", "german", "spanish"].into_iter(),
    )
    .map(|near| format!("did you mean `{near}`? "))
    .unwrap_or_default();
    unknown(written).hint(format!(
        "{near}write a tag such as `ar`, `ar-EG` or `en`, or the language's name; leave `language` out where it is not known"
    ))
}

/// The tag of a name, in English or in the language itself.
fn of_name(name: &str, lower: &str) -> Option<String> {
    // The article and the forms of alef carry no difference between names of languages.
    let folded: String = lower.replace(['أ', 'إ'], "ا");
    let bare = folded.strip_prefix("اللغة ").unwrap_or(&folded);
    let bare = bare.strip_prefix("ال").unwrap_or(bare);
    if let Some((_, tag)) = NAMES.iter().find(|(known, _)| *known == bare) {
        return Some((*tag).to_owned());
    }
    if lower.chars().count() > 3
        && let Some(language) =
            Language::from_name_lowercase(lower).or_else(|| Language::from_autonym(name))
    {
        return Some(code_of(language));
    }
    // "Egyptian Arabic", "Arabic (Egypt)", "British English".
    let mut words = lower.split(|c: char| !c.is_alphanumeric());
    let of_words: Vec<&str> = ["arabic", "english"]
        .into_iter()
        .filter(|known| words.clone().any(|word| word == *known))
        .collect();
    match (of_words.as_slice(), words.next()) {
        (["arabic"], Some(_)) => Some("ar".to_owned()),
        (["english"], Some(_)) => Some("en".to_owned()),
        _ => None,
    }
}

/// The first part of a tag, in the form that tags use.
fn of_code(code: &str) -> Option<String> {
    if code == "x" {
        return Some("x".to_owned());
    }
    if ARABIC.contains(&code) {
        return Some("ar".to_owned());
    }
    if let Some((_, tag)) = BIBLIOGRAPHIC.iter().find(|(known, _)| *known == code) {
        return Some((*tag).to_owned());
    }
    match code.len() {
        2 => Language::from_639_1(code).map(code_of),
        3 => Language::from_639_3(code).map(code_of),
        _ => None,
    }
}

fn code_of(language: Language) -> String {
    let long = language.to_639_3();
    if ARABIC.contains(&long) {
        return "ar".to_owned();
    }
    language.to_639_1().unwrap_or(long).to_owned()
}

/// A later part of a tag: a region in capitals, a script with an initial capital, other parts in
/// lower case.
fn subtag(part: &str) -> Option<String> {
    let is_sound = (1..=8).contains(&part.len()) && part.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_sound {
        return None;
    }
    let is_word = part.chars().all(|c| c.is_ascii_alphabetic());
    Some(match part.len() {
        2 if is_word => part.to_uppercase(),
        4 if is_word => part[..1].to_uppercase() + &part[1..],
        _ => part.to_owned(),
    })
}

/// English name of a tag's language, without remarks in brackets; none for a language that is not
/// in ISO 639.
pub fn english_name(tag: &str) -> Option<String> {
    let code = tag.split(['-', '_']).next().unwrap_or(tag);
    if code == "yue" {
        return Some("Cantonese".to_owned());
    }
    let language = Language::from_639_1(code).or_else(|| Language::from_639_3(code))?;
    let name = language.to_name();
    Some(name.split(" (").next().unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_language_become_its_tag() {
        for (written, expected) in [
            ("ar", "ar"),
            ("AR", "ar"),
            ("arabic", "ar"),
            ("Arabic", "ar"),
            ("ara", "ar"),
            ("arb", "ar"),
            ("arz", "ar"),
            ("العربية", "ar"),
            ("عربي", "ar"),
            ("اللغة العربية", "ar"),
            ("\u{200f}العربية\u{200f}", "ar"),
            ("ar-EG", "ar-EG"),
            ("ar_eg", "ar-EG"),
            ("arb_Arab", "ar-Arab"),
            ("Egyptian Arabic", "ar"),
            ("Arabic (Egypt)", "ar"),
            ("Modern Standard Arabic", "ar"),
            ("en", "en"),
            ("en-US", "en-US"),
            ("english", "en"),
            ("eng", "en"),
            ("British English", "en"),
            ("الإنجليزية", "en"),
            ("French", "fr"),
            ("français", "fr"),
            ("fre", "fr"),
            ("de", "de"),
            ("zh-Hans-CN", "zh-Hans-CN"),
            ("ckb", "ckb"),
            ("x-klingon", "x-klingon"),
        ] {
            assert_eq!(tag(written).unwrap(), expected, "{written}");
        }
    }

    #[test]
    fn an_unknown_language_is_refused_with_a_hint() {
        let refused = |written: &str| tag(written).unwrap_err().to_string();
        assert!(
            refused("arabik")
                .starts_with("unknown language `arabik`\nhint: did you mean `arabic`?")
        );
        for written in [
            "qq",
            "klingonish",
            "ar/en",
            "ar-en?",
            "Arabic-English",
            "unknown",
            "42",
        ] {
            let error = refused(written);
            assert!(
                error.contains("write a tag such as `ar`"),
                "{written}: {error}"
            );
        }
        assert!(refused("MSA").contains("write `ar` for Arabic"));
        assert!(refused("egy\u{200f}x").contains("egy\\u{200f}x"));
    }
}
