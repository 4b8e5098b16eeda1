//! A strict reader of XML, small enough to be read: elements, attributes, text; anything else is a
//! fault.

use std::collections::BTreeMap;

/// An element with what is directly in it.
#[derive(Debug, Default)]
pub struct Element {
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    pub text: String,
    /// Names of the elements around it, from the outermost.
    pub around: Vec<String>,
    /// Number of the `svg` at its top, counted over the document.
    pub picture: usize,
}

impl Element {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    pub fn number(&self, name: &str) -> f64 {
        let text = self
            .get(name)
            .unwrap_or_else(|| panic!("<{}> without {name}", self.name));
        let number: f64 = text
            .parse()
            .unwrap_or_else(|_| panic!("{name}=\"{text}\" of <{}> is no number", self.name));
        assert!(number.is_finite(), "{name}=\"{text}\" of <{}>", self.name);
        number
    }

    pub fn is_in(&self, name: &str) -> bool {
        self.around.iter().any(|around| around == name)
    }
}

/// All elements of a document, in the order in which they begin.
///
/// # Panics
/// If the document is not well-formed, with the place.
pub fn read(document: &str) -> Vec<Element> {
    let mut rest = document
        .strip_prefix("<!DOCTYPE html>")
        .unwrap_or(document)
        .trim_start();
    let mut elements: Vec<Element> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut pictures = 0;
    loop {
        let (text, tag) = rest.split_once('<').unwrap_or((rest, ""));
        assert!(!text.contains(']') || !text.contains("]]>"), "]]> in text");
        let decoded = decode(text);
        match open.last() {
            Some(&inside) => elements[inside].text += &decoded,
            None => assert!(
                decoded.trim().is_empty(),
                "text outside the root: {decoded}"
            ),
        }
        if tag.is_empty() {
            break;
        }
        let (tag, after) = split_tag(tag);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            let closed = open
                .pop()
                .unwrap_or_else(|| panic!("</{name}> closes nothing"));
            assert_eq!(
                elements[closed].name, name,
                "</{name}> closes <{}>",
                elements[closed].name
            );
            continue;
        }
        let is_empty = tag.ends_with('/');
        let mut element = element(tag.trim_end_matches('/'));
        element.around = open
            .iter()
            .map(|&place| elements[place].name.clone())
            .collect();
        pictures += usize::from(element.name == "svg" && !element.is_in("svg"));
        element.picture = pictures;
        elements.push(element);
        if !is_empty {
            open.push(elements.len() - 1);
        }
    }
    assert!(
        open.is_empty(),
        "<{}> is never closed",
        elements[open[open.len() - 1]].name
    );
    elements
}

/// The tag up to its `>`, which may be inside quotes.
fn split_tag(text: &str) -> (&str, &str) {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return (&text[..i], &text[i + 1..]),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (_, '<') => panic!(
                "< inside a tag: {}",
                text.chars().take(80).collect::<String>()
            ),
            _ => {}
        }
    }
    panic!(
        "a tag without end: {}",
        text.chars().take(80).collect::<String>()
    );
}

fn element(tag: &str) -> Element {
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '_'))
    };
    let (name, mut rest) = tag.split_once([' ', '\n']).unwrap_or((tag, ""));
    assert!(is_name(name), "<{tag}> has no name");
    let mut found = Element {
        name: name.to_owned(),
        ..Element::default()
    };
    while !rest.trim().is_empty() {
        let (name, after) = rest
            .trim_start()
            .split_once('=')
            .unwrap_or_else(|| panic!("an attribute without value in <{tag}>"));
        assert!(
            is_name(name),
            "`{name}` is no name of an attribute in <{tag}>"
        );
        let value = after
            .strip_prefix('"')
            .unwrap_or_else(|| panic!("{name} of <{tag}> is not quoted"));
        let (value, after) = value
            .split_once('"')
            .unwrap_or_else(|| panic!("{name} of <{tag}> has no end"));
        assert!(
            found
                .attributes
                .insert(name.to_owned(), decode(value))
                .is_none(),
            "{name} twice in <{tag}>"
        );
        rest = after;
    }
    found
}

fn decode(text: &str) -> String {
    let mut parts = text.split('&');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(';').unwrap_or_else(|| {
            panic!(
                "a bare & before {}",
                part.chars().take(40).collect::<String>()
            )
        });
        decoded += match name {
            "amp" => "&",
            "lt" => "<",
            "gt" => ">",
            "quot" => "\"",
            "#39" => "'",
            other => panic!("&{other}; is not known"),
        };
        decoded += rest;
    }
    assert!(
        decoded
            .chars()
            .all(|c| c >= ' ' || matches!(c, '\n' | '\t' | '\r')),
        "a control character"
    );
    decoded
}

#[test]
fn malformed_xml_is_refused() {
    for broken in [
        "<a><b></a></b>",
        "<a",
        "<a x=1/>",
        "<a x=\"1\" x=\"2\"/>",
        "<a>&nbsp;</a>",
        "<a>& b</a>",
        "<a></a>b",
        "<a><b></a>",
        "<a x=\"<\"/>",
        "</a>",
    ] {
        let outcome = std::panic::catch_unwind(|| read(broken));
        assert!(outcome.is_err(), "{broken} was taken");
    }
    let found = read("<a x=\"1 &gt; 0\">b &amp; c<d/></a>");
    assert_eq!(
        (
            found[0].get("x"),
            found[0].text.as_str(),
            found[1].around[0].as_str()
        ),
        (Some("1 > 0"), "b & c", "a")
    );
}
