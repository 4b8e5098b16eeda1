//! Text from data made safe for where it is put: XML and HTML, Markdown, LaTeX, addresses of files.

/// Text for the content or an attribute of an XML or HTML element.
///
/// Characters that XML 1.0 forbids become U+FFFD, so that a control character in an answer never
/// breaks a page.
pub fn xml(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\t' | '\n' | '\r' => safe.push(c),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            _ => safe.push(c),
        }
    }
    safe
}

/// Text for the content of an HTML element, what stands between two backticks as code.
pub fn prose(text: &str) -> String {
    let pieces: Vec<&str> = text.split('`').collect();
    if pieces.len().is_multiple_of(2) {
        return xml(text);
    }
    let html = pieces.iter().enumerate().map(|(i, piece)| match i % 2 {
        0 => xml(piece),
        _ => format!("<code>{}</code>", xml(piece)),
    });
    html.collect()
}

/// First strong isolate of UAX 9: it begins a text whose direction moves nothing outside of it.
pub const ISOLATE: char = '\u{2068}';

/// A name as part of a longer text of another direction: `منهج, no audio`.
///
/// A name with right-to-left letters stands between Unicode's isolates (UAX 9), so that it moves
/// nothing beside it.
pub fn isolated(name: &str) -> String {
    if name.chars().any(is_right_to_left) {
        format!("{ISOLATE}{name}\u{2069}")
    } else {
        name.to_owned()
    }
}

/// Returns whether a letter belongs to a script that is written from right to left.
pub fn is_right_to_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}')
}

/// Text for a cell of a Markdown table: one line, nothing in it read as markup.
pub fn markdown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '#' | '|' | '~' | '!' => {
                safe.push('\\');
                safe.push(c);
            }
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            c if c.is_control() => safe.push(' '),
            _ => safe.push(c),
        }
    }
    safe
}

/// Text for LaTeX: its special characters by name, and the signs that older font encodings lack.
pub fn latex(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '\\' => safe.push_str(r"\textbackslash{}"),
            '{' | '}' | '$' | '&' | '#' | '%' | '_' => {
                safe.push('\\');
                safe.push(c);
            }
            '~' => safe.push_str(r"\textasciitilde{}"),
            '^' => safe.push_str(r"\textasciicircum{}"),
            '<' => safe.push_str(r"\textless{}"),
            '>' => safe.push_str(r"\textgreater{}"),
            '|' => safe.push_str(r"\textbar{}"),
            '"' => safe.push_str(r"\textquotedbl{}"),
            '−' => safe.push_str("$-$"),
            '×' => safe.push_str(r"$\times$"),
            '±' => safe.push_str(r"$\pm$"),
            '↑' => safe.push_str(r"$\uparrow$"),
            '↓' => safe.push_str(r"$\downarrow$"),
            '→' => safe.push_str(r"$\rightarrow$"),
            'Δ' => safe.push_str(r"$\Delta$"),
            '·' => safe.push_str(r"$\cdot$"),
            '–' => safe.push_str("--"),
            '\u{202f}' => safe.push_str(r"\,"),
            '⁻' => safe.push_str("$^{-}$"),
            '¹' => safe.push_str("$^{1}$"),
            '²' => safe.push_str("$^{2}$"),
            '³' => safe.push_str("$^{3}$"),
            '⁰' | '⁴'..='⁹' => safe.push_str(&format!("$^{{{}}}$", c as u32 - 0x2070)),
            c if c.is_control() => safe.push(' '),
            _ => safe.push(c),
        }
    }
    safe
}

/// A path as the address of a link: slashes stay, everything but letters, digits and `-._~` is
/// percent-encoded.
pub fn address(path: &str) -> String {
    let mut safe = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                safe.push(char::from(byte))
            }
            _ => safe.push_str(&format!("%{byte:02X}")),
        }
    }
    safe
}

/// Bytes in base 64, with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0u32, |bits, (i, byte)| {
            bits | u32::from(*byte) << (16 - 8 * i)
        });
        for place in 0..4 {
            let is_padding = place > chunk.len();
            text.push(if is_padding {
                '='
            } else {
                char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize])
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backticks_in_prose_are_code() {
        assert_eq!(
            prose("add `a: [<b>]` & go"),
            "add <code>a: [&lt;b&gt;]</code> &amp; go"
        );
        assert_eq!(prose("one ` alone"), "one ` alone");
    }

    #[test]
    fn names_of_another_direction_are_isolated() {
        assert_eq!(isolated("منهج"), "\u{2068}منهج\u{2069}");
        assert_eq!(isolated("plan"), "plan");
    }

    #[test]
    fn nothing_in_data_becomes_markup() {
        assert_eq!(
            xml("</script><b a=\"1\" c='2'>&\u{1}"),
            "&lt;/script&gt;&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;\u{fffd}"
        );
        assert_eq!(
            markdown("a|b *c* <d>\n`e`"),
            "a\\|b \\*c\\* &lt;d&gt; \\`e\\`"
        );
        assert_eq!(
            latex(r"50% of $x_1^2 & \y{}"),
            r"50\% of \$x\_1\textasciicircum{}2 \& \textbackslash{}y\{\}"
        );
        assert_eq!(
            latex("−8.2 → 1.2×10⁻⁵"),
            r"$-$8.2 $\rightarrow$ 1.2$\times$10$^{-}$$^{5}$"
        );
        assert_eq!(xml("صباح الخير"), "صباح الخير");
    }

    #[test]
    fn paths_become_addresses() {
        assert_eq!(address("../a b/ص#1?.ogg"), "../a%20b/%D8%B5%231%3F.ogg");
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        // Section 10 of the RFC.
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, expected) in cases {
            assert_eq!(base64(plain.as_bytes()), expected);
        }
    }
}
