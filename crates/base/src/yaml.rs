//! YAML files that people write, read into types: errors name the file, the line and the nearest
//! known key.
//!
//! A single value is read where a list is asked for, a list of one where a value is, and a single
//! value in place of fields where a type says which field it stands for (see [`parse`]).

use std::path::Path;

use serde::Deserializer;
use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use serde::de::Visitor;
use serde::de::value::MapDeserializer;
use serde::de::value::SeqDeserializer;
use serde::forward_to_deserialize_any;
use yaml_serde::Value;

use crate::error::Error;
use crate::error::Result;

mod place;

/// Reads `text`, the contents of the file `path`.
///
/// `metrics: wer` is read as `metrics: [wer]`, and `task: [asr]` as `task: asr`. Where a type with
/// fields is asked for and a single value is found, the value is that of the field whose name serde
/// knows the type by, as in `#[serde(rename = "manifest")]`; `a+b` names two fields that take the
/// same value.
///
/// # Errors
/// `path:line:column: what was found`, with the nearest known key for one that is not known.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let strict = match yaml_serde::from_str(text) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let tree = match yaml_serde::from_str::<Value>(text) {
        Ok(tree) => tree,
        Err(syntax) => {
            let words = syntax.to_string();
            let hint = syntax_hint(&words).unwrap_or(ANY_SYNTAX_HINT);
            // The strict reading names what is written twice. It may have ended at a wrong type
            // before it reached another fault.
            let is_twice = words.contains(WRITTEN_TWICE);
            let error = if is_twice { strict } else { syntax };
            return Err(describe_in(error, path).or_hint(hint));
        }
    };
    serde_path_to_error::deserialize(Lenient(tree)).map_err(|lenient| {
        // Where both readings fail at one fault, the strict error knows its line. It may also name
        // a single value that the lenient reading takes for a list or for fields.
        match strict.to_string().contains(&lenient.inner().to_string()) {
            true => describe_in(strict, path),
            false => describe_tree(lenient, text, path),
        }
    })
}

/// Reads a tree of YAML that was changed after it was parsed; `place` says where it comes from.
///
/// # Errors
/// As [`parse`], with `place` instead of a line.
pub fn from_value<T: DeserializeOwned>(value: Value, place: &str) -> Result<T> {
    yaml_serde::from_value(value.clone()).or_else(|_| {
        serde_path_to_error::deserialize(Lenient(value)).map_err(|lenient| {
            let message = lenient.inner().to_string();
            let what = place::with_path(&lenient, unknown_key(&message));
            explain(&what).at(place).caused_by(lenient.into_inner())
        })
    })
}

/// A tree that is read with single values for lists, and lists of one for single values.
struct Lenient(Value);

impl Lenient {
    /// The one entry of a list of one, and any other value as it is.
    fn single(self) -> Value {
        match self.0 {
            Value::Sequence(mut list) if list.len() == 1 => list.remove(0),
            value => value,
        }
    }

    fn visit_list<'de, V: Visitor<'de>>(
        list: Vec<Value>,
        visitor: V,
    ) -> std::result::Result<V::Value, yaml_serde::Error> {
        let mut entries = SeqDeserializer::new(list.into_iter().map(Lenient));
        let found = visitor.visit_seq(&mut entries)?;
        entries.end()?;
        Ok(found)
    }

    fn visit_fields<'de, V: Visitor<'de>>(
        fields: impl IntoIterator<Item = (Value, Value)>,
        visitor: V,
    ) -> std::result::Result<V::Value, yaml_serde::Error> {
        let fields = fields
            .into_iter()
            .map(|(key, value)| (Lenient(key), Lenient(value)));
        let mut entries = MapDeserializer::new(fields);
        let found = visitor.visit_map(&mut entries)?;
        entries.end()?;
        Ok(found)
    }

    fn visit_text<'de, V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, yaml_serde::Error> {
        match self.single() {
            Value::Number(number) => visitor.visit_string(number.to_string()),
            Value::Bool(value) => visitor.visit_string(value.to_string()),
            value => value.deserialize_string(visitor),
        }
    }
}

impl<'de> IntoDeserializer<'de, yaml_serde::Error> for Lenient {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = yaml_serde::Error;

    fn deserialize_any<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        match self.0 {
            Value::Sequence(list) => Self::visit_list(list, visitor),
            Value::Mapping(fields) => Self::visit_fields(fields, visitor),
            value => value.deserialize_any(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        match self.0 {
            Value::Sequence(list) => Self::visit_list(list, visitor),
            Value::Null => Value::Null.deserialize_seq(visitor),
            value => Self::visit_list(vec![value], visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        match self.single() {
            Value::Mapping(fields) => Self::visit_fields(fields, visitor),
            value => value.deserialize_map(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        let stands_for: Vec<&str> = name.split('+').collect();
        match self.single() {
            Value::Mapping(found) => Self::visit_fields(found, visitor),
            value @ (Value::String(_) | Value::Number(_))
                if stands_for.iter().all(|field| fields.contains(field)) =>
            {
                let found = stands_for
                    .into_iter()
                    .map(|field| (Value::from(field), value.clone()));
                Self::visit_fields(found.collect::<Vec<_>>(), visitor)
            }
            value => value.deserialize_struct(name, fields, visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        self.visit_text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        self.visit_text(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        self.visit_text(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        self.single().deserialize_bool(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        self.single().deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        self.single().deserialize_u32(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        self.single().deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            value => visitor.visit_some(Self(value)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        self.single().deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct ignored_any
    }
}

fn describe_in(error: yaml_serde::Error, path: &Path) -> Error {
    let place = match error.location() {
        Some(location) => format!(
            "{}:{}:{}",
            path.display(),
            location.line(),
            location.column()
        ),
        None => path.display().to_string(),
    };
    describe(error, place)
}

/// The error of a tree, in front of it the file, the line and the column as far as they are found
/// again in its text.
fn describe_tree(
    error: serde_path_to_error::Error<yaml_serde::Error>,
    text: &str,
    path: &Path,
) -> Error {
    let message = error.inner().to_string();
    let unknown = unknown_key(&message);
    let place = match place::find(&error, unknown, text) {
        Some((line, column)) => format!("{}:{line}:{column}", path.display()),
        None => path.display().to_string(),
    };
    let what = place::with_path(&error, unknown);
    explain(&what).at(place).caused_by(error.into_inner())
}

fn describe(error: yaml_serde::Error, place: String) -> Error {
    let message = error.to_string();
    // The place is said once, in front.
    let what = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(what, _)| what);
    explain(what).at(place).caused_by(error)
}

/// Words of the parser for a key that a mapping has twice.
const WRITTEN_TWICE: &str = "duplicate entry";

/// A remedy for text that is no YAML, where the parser's words do not tell the fault.
const ANY_SYNTAX_HINT: &str = "correct the YAML: spaces before keys, `key: value` with a space, and quotes around a text with marks";

/// A remedy for text that is no YAML, by the parser's words for the fault.
fn syntax_hint(message: &str) -> Option<&'static str> {
    const HINTS: [(&str, &str); 7] = [
        (WRITTEN_TWICE, "keep one of the two"),
        (
            "mapping values are not allowed",
            "put quotes around a text that holds `: `, and indent the keys of one level alike",
        ),
        (
            "',' or '}'",
            "close the `{`, and put a comma between its entries",
        ),
        (
            "',' or ']'",
            "close the `[`, and put a comma between its entries",
        ),
        (
            "cannot start any token",
            "indent with spaces, not with tabs, and put quotes around a text that begins with a mark",
        ),
        ("unexpected end of stream", "close the quotes"),
        (
            "did not find expected key",
            "indent the keys of one level alike, and put quotes around the whole of a text that begins with a quote",
        ),
    ];
    let found = HINTS.iter().find(|(words, _)| message.contains(words));
    found.map(|(_, hint)| *hint)
}

/// The error that serde's words stand for, in words that name no type of the program. Its hint is
/// the nearest known key, the missing one, or the remedy that a type's own message names.
pub fn explain(message: &str) -> Error {
    let plain = in_plain_words(message);
    // A type's own message has the remedy behind a semicolon.
    if let Some((found, remedy)) = plain.split_once("; write ") {
        return Error::input(found).hint(format!("write {remedy}"));
    }
    let found = Error::input(plain);
    let missing = message
        .split_once("missing field `")
        .and_then(|(_, rest)| rest.split_once('`'));
    if let Some((key, _)) = missing {
        return found.hint(format!("add `{key}`"));
    }
    let Some((unknown, known)) = unknown_name(message) else {
        return found;
    };
    match nearest(unknown, known.iter().copied()) {
        Some(near) => found.hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => found,
        None => found.hint("use one of the expected names"),
    }
}

/// A message of serde's in a user's words; what stands in front of it, such as the path of a key,
/// stays.
fn in_plain_words(message: &str) -> String {
    const PHRASES: [&str; 8] = [
        "invalid type: ",
        "invalid value: ",
        "invalid length ",
        "missing field `",
        "duplicate field `",
        "duplicate entry with key ",
        "unknown variant `",
        "data did not match any variant",
    ];
    let Some((at, phrase)) = PHRASES
        .iter()
        .filter_map(|phrase| Some((message.find(phrase)?, *phrase)))
        .min()
    else {
        return message.to_owned();
    };
    let before = &message[..at];
    let rest = &message[at + phrase.len()..];
    let plain = match phrase {
        "invalid type: " | "invalid value: " => match rest.split_once(", expected ") {
            Some((found, wanted)) => format!("found {}, expected {}", value(found), kind(wanted)),
            None => format!("found {}", value(rest)),
        },
        "invalid length " => match rest.split_once(", expected ") {
            Some((found, wanted)) => format!("found {found} entries, expected {}", kind(wanted)),
            None => format!("found {rest} entries"),
        },
        "missing field `" => format!("`{} is missing", rest),
        "duplicate field `" => format!("`{rest} is written twice"),
        "duplicate entry with key " => format!("the key {rest} is written twice"),
        "unknown variant `" => format!("unknown value `{rest}"),
        _ => "this is written in no form that is read here".to_owned(),
    };
    format!("{before}{plain}")
}

/// What was found, from serde's name of it.
fn value(found: &str) -> String {
    for (name, plain) in [
        ("string ", "the text "),
        ("integer `", "the number "),
        ("floating point `", "the number "),
        ("boolean `", "the value "),
        ("character `", "the text "),
    ] {
        if let Some(rest) = found.strip_prefix(name) {
            return format!("{plain}{}", rest.strip_suffix('`').unwrap_or(rest));
        }
    }
    match found {
        "sequence" => "a list",
        "map" => "fields with names",
        "unit value" | "null" | "Option value" => "nothing",
        "enum" | "newtype variant" | "unit variant" | "struct variant" | "tuple variant" => {
            "a tagged value"
        }
        other => other,
    }
    .to_owned()
}

/// What was expected, from serde's name of it.
fn kind(wanted: &str) -> &str {
    const FIELDS: &str = "fields with names (`key: value`)";
    match wanted {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "a nonzero u64" | "a nonzero usize" | "a nonzero u32" => "a whole number, 1 or more",
        "a string" | "string" | "str" | "a borrowed string" | "a character" => "a text",
        "a boolean" | "bool" => "true or false",
        "a sequence" => "a list",
        "a map" => FIELDS,
        "path string" => "a path",
        "unit" => "nothing",
        "variant identifier" | "string or map" | "string or singleton map" => {
            "the name of a choice"
        }
        _ if wanted.starts_with("struct ") => FIELDS,
        _ if wanted.starts_with("enum ") || wanted.starts_with("variant of enum") => {
            "the name of a choice"
        }
        _ if wanted.starts_with("a tuple") || wanted.starts_with("tuple ") => {
            "a list of that length"
        }
        other => other,
    }
}

/// The key that no field has, from serde's "unknown field `a`".
fn unknown_key(message: &str) -> Option<&str> {
    let (name, _) = unknown_name(message)?;
    message.starts_with("unknown field").then_some(name)
}

/// The name and the ones that were expected, from serde's "unknown field `a`, expected one of `b`,
/// `c`".
fn unknown_name(message: &str) -> Option<(&str, Vec<&str>)> {
    let start = ["unknown field `", "unknown variant `"]
        .iter()
        .find_map(|what| message.find(what).map(|at| at + what.len() - 1))?;
    let mut quoted = message[start..].split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    Some((unknown, quoted.collect()))
}

/// The known name most like `name`, if any is like it at all.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this Jaro-Winkler similarity two names have too little in common for a suggestion to
    /// help.
    const LEAST_ALIKE: f64 = 0.7;
    /// A name of more characters is no slip of a known one, and comparing takes time with the
    /// square of its length.
    const LONGEST: usize = 200;
    if name.chars().nth(LONGEST).is_some() {
        return None;
    }
    let lower = name.to_lowercase();
    // In a short name one slip leaves little alike: `ars` is one swap from `asr`.
    let is_one_slip =
        |candidate: &str| strsim::osa_distance(&lower, &candidate.to_lowercase()) <= 1;
    known
        .map(|candidate| {
            (
                strsim::jaro_winkler(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(alike, candidate)| *alike >= LEAST_ALIKE || is_one_slip(candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only reading it matters here")]
    struct Settings {
        learning_rate: f64,
        warmup: Option<f64>,
    }

    #[test]
    fn an_unknown_key_names_line_and_nearest_key() {
        let error = parse::<Settings>("learning_rate: 1.0\nwarmpu: 2.0\n", Path::new("a.yaml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("a.yaml:2:1: unknown field `warmpu`"),
            "{error}"
        );
        assert!(error.ends_with("hint: did you mean `warmup`?"), "{error}");
    }

    #[test]
    fn a_wrong_type_names_its_line() {
        let error = parse::<Settings>("learning_rate: fast\n", Path::new("a.yaml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("a.yaml:1:")
                && error.ends_with("learning_rate: found the text \"fast\", expected a number"),
            "{error}"
        );
    }

    #[test]
    fn text_that_is_no_yaml_has_a_remedy() {
        for (text, hint) in [
            ("task: a: b\n", "put quotes around a text that holds `: `"),
            ("names: {a: 1\ntask: b\n", "close the `{`"),
            ("names: [a, b\ntask: b\n", "close the `[`"),
            ("names:\n\t- a\n", "indent with spaces, not with tabs"),
            ("task: \"a\n", "close the quotes"),
            ("task: \"a\" b\n", "indent the keys of one level alike"),
            (
                "task: a\n  steps: 1\n",
                "put quotes around a text that holds `: `",
            ),
            ("task: a\ntask: b\n", "keep one of the two"),
            ("names: *a\n", "correct the YAML"),
        ] {
            let error = parse::<Lists>(text, Path::new("a.yaml")).unwrap_err();
            let found = error.hint_text().unwrap_or_default();
            assert!(found.starts_with(hint), "{text}-> {error}");
            assert!(error.to_string().starts_with("a.yaml:"), "{error}");
        }
    }

    #[test]
    fn nothing_alike_gives_no_suggestion() {
        assert_eq!(
            nearest("xyz", ["learning_rate", "warmup"].into_iter()),
            None
        );
        assert_eq!(
            nearest("Emotions", ["asr", "emotion"].into_iter()),
            Some("emotion")
        );
        assert_eq!(nearest("ars", ["asr", "emotion"].into_iter()), Some("asr"));
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Lists {
        #[serde(default)]
        names: Vec<String>,
        #[serde(default)]
        task: Option<String>,
        #[serde(default)]
        steps: Option<usize>,
        #[serde(default)]
        seeds: Vec<Seed>,
        #[serde(default)]
        data: Vec<Entry>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields, rename = "weights+order")]
    struct Seed {
        weights: u64,
        order: u64,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(rename = "manifest")]
    struct Entry {
        manifest: String,
    }

    fn lists(text: &str) -> Lists {
        parse(text, Path::new("a.yaml")).unwrap()
    }

    #[test]
    fn a_value_stands_for_a_list_of_one_and_back() {
        assert_eq!(lists("names: a"), lists("names: [a]"));
        assert_eq!(
            lists("names: [a, 2, true]"),
            lists("names: ['a', '2', 'true']")
        );
        assert_eq!(
            lists("task: [asr]\nsteps: [3]"),
            lists("task: asr\nsteps: 3")
        );
        assert_eq!(lists("data: {manifest: a}"), lists("data: [{manifest: a}]"));
        assert_eq!(lists("data: a"), lists("data: [{manifest: a}]"));
        assert_eq!(lists("data: [a, {manifest: b}]").data[1].manifest, "b");
    }

    #[test]
    fn a_number_stands_for_the_fields_a_type_names() {
        assert_eq!(
            lists("seeds: [1, {weights: 2, order: 3}]").seeds,
            [
                Seed {
                    weights: 1,
                    order: 1
                },
                Seed {
                    weights: 2,
                    order: 3
                }
            ]
        );
    }

    #[test]
    fn a_fault_behind_a_short_form_has_its_own_place() {
        for (text, expected) in [
            ("data: a\nnmaes: b\n", "a.yaml:2:1: unknown field `nmaes`"),
            (
                "names: a\nseeds: [1, {weights: 2, odrer: 3}]\n",
                "a.yaml:2:25: seeds[1]: unknown field `odrer`",
            ),
            (
                "names: a\nseeds: {weights: 1, order: x}\n",
                "a.yaml:2:21: seeds[0].order: found the text \"x\", expected a whole number",
            ),
            (
                "names: a\nsteps:\n  - 1\n  - 2\n",
                "a.yaml:2:1: steps: found a list, expected a whole number",
            ),
        ] {
            let error = parse::<Lists>(text, Path::new("a.yaml"))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{text}-> {error}");
        }
    }

    #[test]
    fn a_key_that_reads_as_another_has_no_line() {
        for (text, expected) in [
            ("task: a\n0x10: 5\n", "a.yaml: unknown field `16`"),
            (
                "names: a\nseeds: [1, {0x10: 3}]\nsteps: 1\n",
                "a.yaml: seeds[1]: unknown field `16`",
            ),
        ] {
            let error = parse::<Lists>(text, Path::new("a.yaml"))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{text}-> {error}");
        }
    }

    #[test]
    fn no_message_names_a_type_of_the_program() {
        for (text, expected) in [
            (
                "seeds: [[1, 2]]",
                "found a list, expected fields with names (`key: value`)",
            ),
            (
                "seeds: [{weights: 1}]",
                "`order` is missing\nhint: add `order`",
            ),
            (
                "seeds: [{weights: x, order: 1}]",
                "found the text \"x\", expected a whole number, 0 or more",
            ),
            ("task: {a: 1}", "found fields with names, expected a text"),
            ("steps: -1", "expected a whole number, 0 or more"),
            (
                "steps: 1.5",
                "found the number 1.5, expected a whole number, 0 or more",
            ),
            (
                "steps: [1, 2]",
                "found a list, expected a whole number, 0 or more",
            ),
            ("task: a\ntask: b", "`task` is written twice"),
            ("- a", "found the text \"a\", expected fields with names"),
        ] {
            let error = parse::<Lists>(text, Path::new("a.yaml"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{text}\n-> {error}");
            for word in ["struct", "Seed", "usize", "u64", "invalid", "sequence"] {
                assert!(!error.contains(word), "{error}");
            }
        }
    }
}
