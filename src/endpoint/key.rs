//! The key of an endpoint: read from the environment, sent in one header, and never shown.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::Error;
use crate::error::Result;

/// A key. It has no `Debug`, no `Display` and no `Serialize`, so that no message, log or file can
/// hold it by accident.
pub struct Key(String);

/// Text that stands for a key where an endpoint repeats it.
const HIDDEN: &str = "[key]";
/// Shortest key that is hidden: a shorter one is a placeholder, and its letters stand in every
/// text.
const SHORTEST: usize = 4;
/// Characters of a piece of a key that give it away.
const PIECE: usize = 8;
/// Escapes inside escapes that are looked into: JSON in JSON in a URL.
const DEPTH: usize = 4;

impl Key {
    /// The key in an environment variable; none where it is not set or empty.
    ///
    /// # Errors
    /// A value that no header can carry; the message does not say the value.
    pub fn from_variable(name: &str) -> Result<Option<Self>> {
        match std::env::var_os(name) {
            None => Ok(None),
            Some(value) => {
                let text = value.to_str().unwrap_or("\u{fffd}");
                if text.trim().is_empty() {
                    Ok(None)
                } else {
                    Self::new(text)
                        .map(Some)
                        .map_err(|e| e.at(format!("environment variable {name}")))
                }
            }
        }
    }

    /// The key from its text; spaces around it are no part of it.
    ///
    /// # Errors
    /// As [`Key::from_variable`].
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                Error::input("the key is empty or holds characters that no key has")
                    .hint("is it one line, without quotation marks?"),
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// The value of the header `Authorization`.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Somebody else's text without the key: without the whole of it, and without pieces of 8
    /// characters, as they are or as JSON, a URL, HTML, base64 or hexadecimal digits write them.
    pub fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut found = self.ranges(text);
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_by_key(|range| range.start);
        let mut hidden = String::with_capacity(text.len());
        let mut end = 0;
        for range in found {
            if range.start > end || hidden.is_empty() {
                hidden.push_str(&text[end..range.start.max(end)]);
                hidden.push_str(HIDDEN);
            }
            end = end.max(range.end);
        }
        hidden.push_str(&text[end..]);
        Cow::Owned(hidden)
    }

    /// Stretches of a text, in bytes, that hold the key or a piece of it.
    fn ranges(&self, text: &str) -> Vec<Range<usize>> {
        let key = self.0.to_ascii_lowercase().into_bytes();
        if key.len() < SHORTEST {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut read: Vec<Read> = text
            .bytes()
            .enumerate()
            .map(|(i, byte)| Read {
                byte: byte.to_ascii_lowercase(),
                range: i..i + 1,
            })
            .collect();
        for _ in 0..DEPTH {
            find(&key, &read, &mut found);
            let Some(inner) = unescaped(&read) else { break };
            read = inner;
        }

        if key.len() >= PIECE {
            for run in runs(text, |byte| {
                byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte)
            }) {
                let bytes = &text.as_bytes()[run.clone()];
                if (0..4).any(|skipped| holds(&key, &from_base64(bytes.get(skipped..)))) {
                    found.push(run);
                }
            }
            for run in runs(text, |byte| byte.is_ascii_hexdigit()) {
                let bytes = &text.as_bytes()[run.clone()];
                if (0..2).any(|skipped| holds(&key, &from_hex(bytes.get(skipped..)))) {
                    found.push(run);
                }
            }
        }
        found
    }
}

/// One character of a text after escapes are read, and the bytes that it stands in.
#[derive(Clone)]
struct Read {
    byte: u8,
    range: Range<usize>,
}

/// Adds every stretch of what was read that is the key or a piece of it.
fn find(key: &[u8], read: &[Read], found: &mut Vec<Range<usize>>) {
    let size = key.len().min(PIECE);
    for (i, window) in read.windows(size).enumerate() {
        let bytes: Vec<u8> = window.iter().map(|one| one.byte).collect();
        let is_all = size == key.len() && bytes == key;
        if is_all || is_piece(key, &bytes) {
            found.push(read[i].range.start..read[i + size - 1].range.end);
        }
    }
    // The whole key counts even if all of its pieces are words.
    for (i, window) in read.windows(key.len()).enumerate() {
        if window.iter().map(|one| one.byte).eq(key.iter().copied()) {
            found.push(read[i].range.start..read[i + key.len() - 1].range.end);
        }
    }
}

/// Whether bytes are a piece of the key and no mere word of it, such as `development`.
fn is_piece(key: &[u8], bytes: &[u8]) -> bool {
    bytes.len() == PIECE
        && !bytes.iter().all(u8::is_ascii_lowercase)
        && key.windows(PIECE).any(|piece| piece == bytes)
}

fn holds(key: &[u8], bytes: &[u8]) -> bool {
    let lower = bytes.to_ascii_lowercase();
    lower.windows(key.len()).any(|window| window == key)
        || lower.windows(PIECE).any(|window| is_piece(key, window))
}

/// The text with one level of escapes read; none where there is no escape.
fn unescaped(read: &[Read]) -> Option<Vec<Read>> {
    let mut inner = Vec::with_capacity(read.len());
    let mut i = 0;
    while i < read.len() {
        match escape(&read[i..]) {
            Some((byte, length)) => {
                inner.push(Read {
                    byte: byte.to_ascii_lowercase(),
                    range: read[i].range.start..read[i + length - 1].range.end,
                });
                i += length;
            }
            None => {
                inner.push(read[i].clone());
                i += 1;
            }
        }
    }
    (inner.len() < read.len()).then_some(inner)
}

/// The byte that an escape at the beginning stands for, and its length: `\u0073`, `\x73`, `\/`,
/// `%73`, `&#115;`, `&#x73;`.
fn escape(read: &[Read]) -> Option<(u8, usize)> {
    let at = |i: usize| read.get(i).map(|one| one.byte);
    let number = |from: usize, digits: usize, radix| number(read.get(from..from + digits)?, radix);
    match (at(0)?, at(1)?) {
        (b'\\', b'u') => Some((number(2, 4, 16)?, 6)),
        (b'\\', b'x') => Some((number(2, 2, 16)?, 4)),
        (b'\\', escaped @ (b'"' | b'\\' | b'/')) => Some((escaped, 2)),
        (b'%', _) => Some((number(1, 2, 16)?, 3)),
        (b'&', b'#') => {
            let is_hex = at(2) == Some(b'x');
            let start = if is_hex { 3 } else { 2 };
            let digits = (1..=4).find(|&digits| at(start + digits) == Some(b';'))?;
            let radix = if is_hex { 16 } else { 10 };
            Some((number(start, digits, radix)?, start + digits + 1))
        }
        _ => None,
    }
}

/// The number below 256 that digits stand for.
fn number(digits: &[Read], radix: u32) -> Option<u8> {
    let text: String = digits.iter().map(|one| char::from(one.byte)).collect();
    u8::from_str_radix(text.trim_start_matches('0'), radix).ok()
}

/// The longest stretches of a text whose bytes are all of a kind, as far as they are long enough
/// for a piece of a key.
fn runs(text: &str, is_of_kind: impl Fn(u8) -> bool) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for (i, byte) in text.bytes().chain([0]).enumerate() {
        if !is_of_kind(byte) {
            if i - start > PIECE {
                found.push(start..i);
            }
            start = i + 1;
        }
    }
    found
}

/// The bytes that base64 of either alphabet stands for (RFC 4648, sections 4 and 5); an incomplete
/// end is left out.
fn from_base64(text: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for group in text.unwrap_or_default().chunks(4) {
        let digits = group.iter().map(|&byte| u32::from(base64_digit(byte)));
        let bits = digits.fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

/// The six bits that a letter of base64 stands for.
fn base64_digit(letter: u8) -> u8 {
    match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' | b'-' => 62,
        _ => 63,
    }
}

fn from_hex(text: Option<&[u8]>) -> Vec<u8> {
    let value = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
    text.unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| value(pair[0]) << 4 | value(pair[1]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_out_of_what_repeats_it() {
        let key = Key::new(" sk-abc123\n").unwrap();
        assert_eq!(
            key.hide("wrong key sk-abc123 (sk-abc123)"),
            "wrong key [key] ([key])"
        );
        assert_eq!(key.hide("sk-abc123"), "[key]");
        assert_eq!(key.hide("مفتاح sk-abc123 خطأ"), "مفتاح [key] خطأ");
        assert_eq!(key.authorization(), "Bearer sk-abc123");
    }

    #[test]
    fn a_key_is_found_in_every_writing() {
        // Base64 and hexadecimal digits are those of Python's `base64` and `bytes.hex`.
        let key = Key::new("sk-Te/st+0123456789\"xyz").unwrap();
        for written in [
            r#"sk-Te/st+0123456789"xyz"#,
            r#"SK-TE/ST+0123456789"XYZ"#,
            r#"sk-Te\/st+0123456789\"xyz"#,
            r#"sk-Te\\/st+0123456789\\\"xyz"#,
            r"\u0073\u006b-Te\u002fst+0123456789\u0022xyz",
            r"\\u0073\\u006b-Te\\u002fst+0123456789\\u0022xyz",
            "sk-Te%2Fst%2B0123456789%22xyz",
            "sk%2dTe%2fst%2b0123456789%22xyz",
            "sk-Te%252Fst%252B0123456789%2522xyz",
            "sk-Te&#47;st&#x2B;0123456789&#34;xyz",
            "c2stVGUvc3QrMDEyMzQ1Njc4OSJ4eXo=",
            "QmVhcmVyIHNrLVRlL3N0KzAxMjM0NTY3ODkieHl6",
            "736b2d54652f73742b303132333435363738392278797a",
        ] {
            let text = format!("it was {written} there");
            let hidden = key.hide(&text);
            assert!(
                hidden.starts_with("it was [key]") && hidden.ends_with(" there"),
                "{hidden}"
            );
            assert!(!hidden.contains("456789"), "{hidden}");
        }
        assert_eq!(
            key.hide("begins with sk-Te/st+012..."),
            "begins with [key]..."
        );
        assert_eq!(key.hide("ends with ...456789\"xyz"), "ends with ...[key]");
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for (key, text) in [
            (
                "sk-abc123456",
                r#"{"grade": 4, "reason": "لأن 100% \"جيد\" &amp; \\n"}"#,
            ),
            ("my-development-key", "the development of a key"),
            ("x", "an x in a text"),
            ("sk-abc123456", "sk-abc"),
        ] {
            let key = Key::new(key).unwrap();
            assert!(matches!(key.hide(text), Cow::Borrowed(_)), "{text}");
        }
        assert_eq!(
            Key::new("my-development-key")
                .unwrap()
                .hide("it is my-development-key."),
            "it is [key]."
        );
    }

    #[test]
    fn what_no_header_carries_is_refused_without_being_said() {
        for text in ["", "  ", "sk-abc\n123", "sk abc", "sk-مفتاح"] {
            let error = Key::new(text).err().unwrap();
            assert!(
                error.exit_code() == 2 && !error.to_string().contains("sk"),
                "{error}"
            );
        }
    }
}
