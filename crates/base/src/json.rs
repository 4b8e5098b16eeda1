//! JSON text read into types. Messages say what was found and what to write, not what the parser
//! calls it.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::error::Error;
use crate::error::Result;
use crate::yaml;

/// Reads one JSON value.
///
/// # Errors
/// What is not JSON, or not of the type, without a place: the caller adds the file and line.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    parse_slice(text.as_bytes())
}

/// As [`parse`], from bytes that may not be UTF-8.
pub fn parse_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| explain(text, &error).caused_by(error))
}

/// The message and hint for text that `serde_json` could not read.
pub fn explain(text: &[u8], error: &serde_json::Error) -> Error {
    if error.is_data() {
        return yaml::explain(&without_place(&error.to_string()));
    }
    if let Err(wrong) = std::str::from_utf8(text) {
        return not_utf8(text, wrong.valid_up_to());
    }
    let (at, column) = place(text, error);
    let prefix = match error.line() {
        0 | 1 => format!("column {column}: not JSON: "),
        line => format!("line {line}, column {column}: not JSON: "),
    };
    let (found, hint) = match error.classify() {
        Category::Eof => (end_inside(text), Some(CUT)),
        _ => syntax(text, at, &without_place(&error.to_string())),
    };
    let found = Error::input(prefix + &found);
    match hint {
        Some(hint) => found.hint(hint),
        None => found,
    }
}

const CUT: &str =
    "the text may be cut off: copy or write it again; JSON lines have one whole object a line";
const FROM_PYTHON: &str =
    "write rows with `json.dumps(row, ensure_ascii=False)`, not with `str` or `print`";

/// Bytes in another encoding than UTF-8.
pub fn not_utf8(text: &[u8], at: usize) -> Error {
    Error::input(format!(
        "column {}: byte 0x{:02x} is not UTF-8",
        at + 1,
        text.get(at).copied().unwrap_or_default()
    ))
    .hint("convert the file, for example with `iconv -f WINDOWS-1256 -t UTF-8`")
}

/// The message of serde_json without the place at its end.
fn without_place(message: &str) -> String {
    message
        .rsplit_once(" at line ")
        .map_or(message, |(what, _)| what)
        .to_owned()
}

/// The byte that the parser stopped at, and its column from 1.
fn place(text: &[u8], error: &serde_json::Error) -> (usize, usize) {
    let start: usize = text
        .split_inclusive(|&byte| byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    (start + error.column().saturating_sub(1), error.column())
}

/// What the text ends inside.
fn end_inside(text: &[u8]) -> String {
    let mut open = Vec::new();
    let mut in_text = false;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_text => drop(bytes.next()),
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => open.push(*byte),
            b'}' | b']' if !in_text => drop(open.pop()),
            _ => {}
        }
    }
    let inside = match (in_text, open.last()) {
        (true, _) => "a text in quotes",
        (false, Some(b'{')) => "an object",
        (false, Some(_)) => "a list",
        (false, None) => "a value",
    };
    format!("it ends inside {inside}")
}

/// What is wrong at a place, and what to write.
fn syntax(text: &[u8], at: usize, message: &str) -> (String, Option<&'static str>) {
    let word = word_around(text, at);
    let byte = text.get(at).copied().unwrap_or_default();
    match word.trim_start_matches(['-', '+']) {
        "NaN" | "nan" | "Infinity" | "inf" | "Inf" => {
            let found = format!("`{word}` is no number in JSON");
            return (found, Some("write null, or leave the field out"));
        }
        "None" | "True" | "False" => {
            return (
                format!("`{word}` is Python's, not JSON's"),
                Some(FROM_PYTHON),
            );
        }
        _ => {}
    }
    if message.starts_with("control character") {
        let found = match byte {
            b'\t' => "a tab inside a text".to_owned(),
            byte => format!("the control character 0x{byte:02x} inside a text"),
        };
        return (
            found,
            Some("write `\\t` for a tab and `\\n` for a line break"),
        );
    }
    let (found, hint) = match message {
        "key must be a string" | "expected value" if byte == b'\'' => {
            ("single quotes around a text", FROM_PYTHON)
        }
        "key must be a string" => (
            "a key without double quotes",
            "write every key in double quotes",
        ),
        "trailing comma" => ("a comma with nothing after it", "remove the last comma"),
        "trailing characters" => match byte {
            b'{' => (
                "a second object in the same line",
                "write one object a line",
            ),
            b',' => (
                "a comma after the object",
                "remove the comma at the end of the line",
            ),
            _ => (
                "something after the object",
                "write one object a line and nothing else",
            ),
        },
        "invalid escape" => (
            "a backslash with nothing to escape",
            "write two backslashes for one, also in Windows paths",
        ),
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => (
            "half of a character, such as `\\ud83d` alone",
            "write the character itself, in UTF-8",
        ),
        "expected `,` or `}`" | "expected `,` or `]`" => (
            "no comma where one belongs",
            "separate fields by commas; a double quote inside a text is written `\\\"`",
        ),
        "expected `:`" => ("no colon after a key", "write fields as \"key\": value"),
        "number out of range" => (
            "a number too large to be one",
            "write it as a text if it is a name",
        ),
        "recursion limit exceeded" => (
            "lists or objects inside each other more than 127 deep",
            "write the row flatter",
        ),
        other => {
            return (
                match other {
                    "expected value" => format!("no value at `{}`", shown(text, at)),
                    "expected ident" => format!("`{word}` is no value"),
                    "invalid number" => format!("`{word}` is no number"),
                    other => other.to_owned(),
                },
                None,
            );
        }
    };
    (found.to_owned(), Some(hint))
}

/// The letters, digits and signs around a place.
fn word_around(text: &[u8], at: usize) -> String {
    let is_of_word =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'.');
    let at = at.min(text.len());
    let start = at
        - text[..at]
            .iter()
            .rev()
            .take_while(|byte| is_of_word(byte))
            .count();
    let end = at
        + text[at..]
            .iter()
            .take_while(|byte| is_of_word(byte))
            .count();
    String::from_utf8_lossy(&text[start..end]).into_owned()
}

/// The beginning of what stands at a place.
fn shown(text: &[u8], at: usize) -> String {
    String::from_utf8_lossy(text.get(at..).unwrap_or_default())
        .chars()
        .take(12)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only reading it matters here")]
    struct Line {
        id: String,
        loss: f64,
    }

    fn refused(text: &str) -> String {
        parse::<serde_json::Value>(text).unwrap_err().to_string()
    }

    #[test]
    fn faults_are_named_as_a_person_would() {
        for (text, expected) in [
            (
                r#"{"a": NaN}"#,
                "column 7: not JSON: `NaN` is no number in JSON\nhint: write null",
            ),
            (
                r#"{"a": -Infinity}"#,
                "`-Infinity` is no number in JSON\nhint: write null",
            ),
            (
                r#"{"a": None}"#,
                "`None` is Python's, not JSON's\nhint: write rows with `json.dumps",
            ),
            (
                r#"{'a': 1}"#,
                "single quotes around a text\nhint: write rows with `json.dumps",
            ),
            (r#"{"a": 'b'}"#, "single quotes around a text"),
            (r#"{a: 1}"#, "a key without double quotes"),
            (r#"{"a": 1,}"#, "a comma with nothing after it"),
            (
                r#"{"a": 1},"#,
                "a comma after the object\nhint: remove the comma",
            ),
            (r#"{"a": 1}{"a": 2}"#, "a second object in the same line"),
            ("{\"a\": \"x\ty\"}", "a tab inside a text"),
            (r#"{"a": "C:\data"}"#, "a backslash with nothing to escape"),
            (r#"{"a": "b" "c": 1}"#, "no comma where one belongs"),
            (r#"{"a" 1}"#, "no colon after a key"),
            (
                r#"{"a": 1"#,
                "it ends inside an object\nhint: the text may be cut off",
            ),
            (r#"{"a": "b"#, "it ends inside a text in quotes"),
            (r#"{"a": [1"#, "it ends inside a list"),
        ] {
            let error = refused(text);
            assert!(error.contains(expected), "{text}\n-> {error}");
            assert!(
                !error.contains("EOF") && !error.contains("at line"),
                "{error}"
            );
        }
    }

    #[test]
    fn types_are_named_in_plain_words() {
        let refused = |text: &str| parse::<Line>(text).unwrap_err().to_string();
        assert_eq!(
            refused(r#"{"id": 5, "loss": 1}"#),
            "found the number 5, expected a text"
        );
        assert_eq!(
            refused(r#"{"id": "a"}"#),
            "`loss` is missing\nhint: add `loss`"
        );
        assert_eq!(
            refused(r#""a""#),
            "found the text \"a\", expected fields with names (`key: value`)"
        );
    }

    #[test]
    fn bytes_of_another_encoding_are_named() {
        let error = parse_slice::<serde_json::Value>(b"{\"a\": \"\xe3\xd1\"}").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("column 8: byte 0xe3 is not UTF-8\nhint: convert")
        );
    }
}
