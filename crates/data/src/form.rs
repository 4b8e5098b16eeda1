//! Detects the form of a manifest from its first bytes, and names unsupported files.

use std::path::Path;

use serde_json::Value;

use crate::formats::tar;
use crate::shards;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Forms that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object per line.
    JsonLines,
    /// One JSON list of objects.
    JsonList,
    /// Parquet.
    Parquet,
    /// A stream of Arrow batches.
    Arrow,
    /// A table in text, with a line of column names.
    Table(Delimiter),
    /// An uncompressed tar file.
    Tar,
}

impl Form {
    /// Name for messages.
    pub fn named(self) -> &'static str {
        match self {
            Self::JsonLines => "JSON lines",
            Self::JsonList => "a JSON list",
            Self::Parquet => "Parquet",
            Self::Arrow => "an Arrow stream",
            Self::Table(Delimiter::Comma) => "CSV",
            Self::Table(Delimiter::Tab) => "TSV",
            Self::Table(Delimiter::Semicolon) => "CSV with semicolons",
            Self::Table(Delimiter::Bar) => "a table with bars",
            Self::Tar => "a tar file",
        }
    }
}

/// Delimiter between the cells of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiter {
    /// `,`
    Comma,
    /// A tab.
    Tab,
    /// `;`
    Semicolon,
    /// `|`
    Bar,
}

impl Delimiter {
    /// The character.
    pub fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Tab => b'\t',
            Self::Semicolon => b';',
            Self::Bar => b'|',
        }
    }
}

/// First bytes of files that are neither text nor Parquet, what they are, and what to do.
const SIGNATURES: [(&[u8], &str, &str); 16] = [
    (
        b"\x28\xb5\x2f\xfd",
        "a Zstandard archive",
        "unpack it first: `zstd -d FILE`",
    ),
    (
        b"BZh",
        "a bzip2 archive",
        "unpack it first: `bunzip2 -k FILE`",
    ),
    (
        b"\xfd7zXZ",
        "an xz archive",
        "unpack it first: `unxz -k FILE`",
    ),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)", EXCEL),
    (
        b"ARROW1",
        "an Arrow file (Feather)",
        "write it as Parquet: `pandas.read_feather('FILE').to_parquet('FILE.parquet')`; the folders of `datasets.save_to_disk` are read as they are",
    ),
    (b"RIFF", "a recording (WAV)", RECORDING),
    (b"OggS", "a recording (Ogg)", RECORDING),
    (b"fLaC", "a recording (FLAC)", RECORDING),
    (b"ID3", "a recording (MP3)", RECORDING),
    (b"%PDF", "a PDF", "write its rows as JSON lines"),
    (
        b"SQLite format 3",
        "an SQLite database",
        "write its rows as JSON lines: `sqlite3 -json FILE 'select ...' | jq -c '.[]'`",
    ),
    (
        b"\x89HDF",
        "an HDF5 file",
        "write its rows as JSON lines or Parquet",
    ),
    (
        b"\x93NUMPY",
        "a NumPy array",
        "write its rows as JSON lines or Parquet",
    ),
    (
        b"\x89PNG",
        "a picture",
        "name a manifest: a .jsonl or .parquet file",
    ),
    (
        b"\x80\x04",
        "a Python pickle",
        "write its rows as JSON lines or Parquet",
    ),
];

const EXCEL: &str = "save it as CSV (UTF-8), and name that file: `FILE.csv`";
const RECORDING: &str = "name a manifest: a .jsonl file with a row for each recording, such as {\"audio\": \"clip.wav\", \"text\": \"...\"}";

/// Detects the form of a file from its first bytes.
///
/// # Errors
/// An unsupported file, by the name of its format, with a command that converts it if there is one.
pub fn of(head: &[u8], path: &Path) -> Result<Form> {
    if head.starts_with(b"PAR1") {
        return Ok(Form::Parquet);
    }
    // The mark of a message, and its length: what an Arrow stream begins with.
    if head.starts_with(b"\xff\xff\xff\xff") {
        return Ok(Form::Arrow);
    }
    if tar::is_header(head) {
        return Ok(Form::Tar);
    }
    let is_named_parquet = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"));
    if head.is_empty() && is_named_parquet {
        return Err(Error::input("is empty (0 bytes), not a Parquet file")
            .hint("copy or download it again"));
    }
    if let Some(error) = foreign(head, path) {
        return Err(error);
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let begins_with_object = text.trim_ascii_start().first() == Some(&b'{');
    if is_named_parquet && !begins_with_object {
        return Err(Error::input("is not a Parquet file, for all its name")
            .hint("copy or download it again; JSON lines are read under any other name"));
    }
    let text = String::from_utf8_lossy(text);
    let start = text.trim_start();
    if let Some(delimiter) = named_table(start, path).or_else(|| table(start)) {
        return Ok(Form::Table(delimiter));
    }
    let is_list = start
        .strip_prefix('[')
        .is_some_and(|rest| rest.trim_start().starts_with('{'));
    Ok(match is_list {
        true => Form::JsonList,
        false => Form::JsonLines,
    })
}

/// The delimiter of a table by its file's name, if the text is no JSON.
fn named_table(text: &str, path: &Path) -> Option<Delimiter> {
    let is_json = text.starts_with(['{', '[']);
    match shards::ending(path).filter(|_| !is_json && !text.is_empty())? {
        "tsv" => Some(Delimiter::Tab),
        "csv" => table(text).or(Some(Delimiter::Comma)),
        _ => None,
    }
}

/// The error for a file of a known but unsupported form.
fn foreign(head: &[u8], path: &Path) -> Option<Error> {
    let file = path.display().to_string();
    let found = |what: &str, hint: &str| {
        let stem = path.with_extension("");
        let hint = hint
            .replace("FILE.", &format!("{}.", stem.display()))
            .replace("FILE", &file);
        Some(Error::input(format!("is {what}, not a manifest")).hint(hint))
    };
    if let Some((_, what, hint)) = SIGNATURES
        .iter()
        .find(|(bytes, ..)| head.starts_with(bytes))
    {
        return found(what, hint);
    }
    if head.starts_with(b"PK\x03\x04") {
        let is_workbook = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("xlsx"))
            || [&b"xl/"[..], b"[Content_Types].xml"]
                .iter()
                .any(|name| head.windows(name.len()).any(|part| part == *name));
        return match is_workbook {
            true => found("an Excel workbook", EXCEL),
            false => found("a ZIP archive", "unpack it first: `unzip FILE`"),
        };
    }
    if let Some((encoding, hint)) = utf16(head) {
        return found(&format!("{encoding} text"), hint);
    }
    if head.contains(&0) {
        return found("binary data", "name a manifest: a .jsonl or .parquet file");
    }
    let text = String::from_utf8_lossy(head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head));
    let start = text.trim_start();
    let lower: String = start.chars().take(64).collect::<String>().to_lowercase();
    if lower.starts_with("version https://git-lfs") {
        return found(
            "a Git LFS pointer, the place of a file that was not downloaded",
            "fetch the file itself: `git lfs install && git lfs pull` in its repository",
        );
    }
    if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        return found(
            "an HTML page",
            "download the file itself: this is the page about it, of a login or of an error",
        );
    }
    if lower.starts_with('<') {
        return found("XML", "write its rows as JSON lines");
    }
    None
}

/// The encoding of text in 16 or 32 bits, and the command that converts it.
fn utf16(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const UTF_16: &str = "convert it: `iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8`";
    const UTF_32: &str = "convert it: `iconv -f UTF-32 -t UTF-8 FILE > FILE.utf8`";
    match head {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some(("UTF-32", UTF_32)),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(("UTF-16", UTF_16)),
        [b'{' | b'[', 0, _, 0, ..] => Some((
            "UTF-16",
            "convert it: `iconv -f UTF-16LE -t UTF-8 FILE > FILE.utf8`",
        )),
        [0, b'{' | b'[', 0, _, ..] => Some((
            "UTF-16",
            "convert it: `iconv -f UTF-16BE -t UTF-8 FILE > FILE.utf8`",
        )),
        _ => None,
    }
}

/// The delimiter of a table, if a text is one.
fn table(text: &str) -> Option<Delimiter> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next()?;
    let is_json = first.starts_with(['{', '[']);
    let is_quoted_row = first.starts_with('"') && first.contains("\",\"");
    if is_json || (first.starts_with(['"', '\'', '#', '-']) && !is_quoted_row) {
        return None;
    }
    let next = lines.next();
    [
        Delimiter::Tab,
        Delimiter::Comma,
        Delimiter::Semicolon,
        Delimiter::Bar,
    ]
    .into_iter()
    .find(|delimiter| {
        let separator = char::from(delimiter.byte());
        let columns: Vec<&str> = first.split(separator).collect();
        let goes_on = next.is_none_or(|next| next.contains(separator));
        let is_header = columns.iter().all(|column| {
            let name = column.trim().trim_matches('"');
            !name.is_empty() && name.chars().count() <= 40
        });
        columns.len() > 1 && goes_on && is_header
    })
}

/// The error for a manifest of JSON objects over several lines, if it is one: `text` is the whole
/// file.
///
/// A list of rows in an object and successive objects are distinguished, because different commands
/// convert them.
pub fn whole_json(text: &[u8], path: &Path) -> Option<Error> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let first = values.next()?.ok()?;
    let spans_lines = text
        .get(..values.byte_offset())?
        .trim_ascii()
        .contains(&b'\n');
    let file = path.display();
    let out = path.with_extension("lines.jsonl");
    let hint = |filter: &str| {
        format!(
            "make lines of it: `jq -c '{filter}' {file} > {}`",
            out.display()
        )
    };
    match first {
        Value::Object(map) if spans_lines => {
            let list = map.iter().find(|(_, value)| {
                value
                    .as_array()
                    .is_some_and(|list| list.iter().any(Value::is_object))
            });
            let inner =
                list.filter(|_| !map.contains_key("audio") && !map.contains_key("messages"));
            Some(match inner {
                Some((name, _)) => Error::input(format!("is one JSON object around the list `{name}`, not JSON lines"))
                    .hint(hint(&format!(".[\"{name}\"][]"))),
                None => Error::input("has JSON objects that go over several lines; JSON lines have one object a line")
                    .hint(hint(".")),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(head: &[u8], name: &str) -> String {
        of(head, Path::new(name)).unwrap_err().to_string()
    }

    #[test]
    fn other_kinds_of_files_are_named() {
        for (head, name, expected, hint) in [
            (
                &b"\xff\xfe{\0\"\0"[..],
                "m.jsonl",
                "is UTF-16 text",
                "iconv -f UTF-16 -t UTF-8 m.jsonl",
            ),
            (
                b"\xfe\xff\0{",
                "m.jsonl",
                "is UTF-16 text",
                "iconv -f UTF-16",
            ),
            (
                b"{\0\"\0a\0",
                "m.jsonl",
                "is UTF-16 text",
                "iconv -f UTF-16LE",
            ),
            (
                b"\n<!DOCTYPE html><html>",
                "m.jsonl",
                "is an HTML page",
                "download the file itself",
            ),
            (
                b"<html lang=en>",
                "m.parquet",
                "is an HTML page",
                "download the file itself",
            ),
            (b"<?xml version", "m.xml", "is XML", "JSON lines"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n",
                "m.jsonl",
                "is a Git LFS pointer",
                "git lfs pull",
            ),
            (
                b"version https://git-lfs.github.com/spec/v1\n",
                "m.parquet",
                "is a Git LFS pointer",
                "git lfs pull",
            ),
            (
                b"PK\x03\x04\x14\0[Content_Types].xml",
                "m",
                "is an Excel workbook",
                "save it as CSV",
            ),
            (
                b"PK\x03\x04\x14\0a.jsonl",
                "m.zip",
                "is a ZIP archive",
                "unzip m.zip",
            ),
            (
                b"\xd0\xcf\x11\xe0\xa1",
                "m.xls",
                "is an Excel workbook (.xls)",
                "`m.csv`",
            ),
            (
                b"RIFF\x24\0\0\0WAVE",
                "a.wav",
                "is a recording (WAV)",
                "name a manifest",
            ),
            (
                b"ARROW1\0\0",
                "m.arrow",
                "is an Arrow file (Feather)",
                "Parquet",
            ),
            (
                b"\x00\x01\x02",
                "m.jsonl",
                "is binary data",
                "name a manifest",
            ),
            (
                b"not parquet",
                "m.parquet",
                "is not a Parquet file, for all its name",
                "copy or download",
            ),
            (b"", "m.parquet", "is empty (0 bytes)", "copy or download"),
        ] {
            let error = refused(head, name);
            assert!(error.starts_with(expected), "{error}");
            assert!(
                error.contains("\nhint: ") && error.contains(hint),
                "{error}"
            );
        }
    }

    #[test]
    fn formats_are_found_from_contents() {
        let of = |head: &[u8], name: &str| of(head, Path::new(name)).unwrap();
        assert_eq!(of(b"PAR1\x15", "m.jsonl"), Form::Parquet);
        assert_eq!(of(b"{\"audio\": 1}", "m.parquet"), Form::JsonLines);
        assert_eq!(of(b"\xff\xff\xff\xff\x10\0\0\0", "m"), Form::Arrow);
        assert_eq!(of(b"\n [ {\"a\": 1}]", "m.json"), Form::JsonList);
        for (text, name, delimiter) in [
            ("path,sentence\na.wav,\u{646}\n", "m", Delimiter::Comma),
            ("path\tsentence\tage\na.wav\tx\t3\n", "m", Delimiter::Tab),
            ("\u{feff}path;text\na.wav;x\n", "m", Delimiter::Semicolon),
            ("path|text\na.wav|x\n", "m", Delimiter::Bar),
            ("\"path\",\"text\"\n", "m", Delimiter::Comma),
            ("path\na.wav\n", "m.csv", Delimiter::Comma),
            ("path\na.wav\n", "m.tsv.gz", Delimiter::Tab),
        ] {
            assert_eq!(of(text.as_bytes(), name), Form::Table(delimiter), "{text}");
        }
        for text in [
            "",
            "\u{feff}{\"a\": 1}",
            "\n\n{",
            "[1, 2]",
            "not JSON",
            "{'a': 1, 'b': 2}",
            r#"{"id":"s0","language":"ar","text":"a, b","summary":"c"}"#,
            "[\"a\",\"b\"]",
        ] {
            assert_eq!(of(text.as_bytes(), "m.jsonl"), Form::JsonLines, "{text}");
        }
    }

    #[test]
    fn json_of_several_lines_is_named() {
        let refused = |text: &str| {
            whole_json(text.as_bytes(), Path::new("m.json"))
                .unwrap()
                .to_string()
        };
        assert!(refused("{\n \"data\": [{\"a\": 1}]\n}").contains("jq -c '.[\"data\"][]' m.json"));
        assert!(refused("{\n \"a\": 1\n}\n{\n \"a\": 2\n}").contains("jq -c '.' m.json"));
        for text in ["{\"a\": 1}\n{\"a\": 2}", "[1]\n[2]", "{\"a\"\n"] {
            assert!(
                whole_json(text.as_bytes(), Path::new("m.json")).is_none(),
                "{text}"
            );
        }
    }
}
