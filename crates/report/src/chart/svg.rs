//! A sheet of SVG that is drawn on piece by piece; every number on it is finite, every text
//! escaped.

use std::fmt::Write;

use crate::chart::ink::Colour;
use crate::chart::ink::Ink;
use crate::page::escape;
use crate::page::escape::is_right_to_left;
use crate::sections::measure::FONTS;

/// Height of ordinary text in pictures.
pub const TEXT_SIZE: f64 = 12.0;
/// Height of text that is read second.
pub const SMALL_SIZE: f64 = 11.0;

/// Which end of a text is at its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anchor {
    /// Its left end.
    #[default]
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

/// How a text looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Style {
    /// Height of the font.
    pub size: f64,
    /// Its colour.
    pub colour: Colour,
    /// Which end is at its place.
    pub anchor: Anchor,
    /// Whether it is heavier.
    pub is_bold: bool,
}

impl Style {
    /// Text that is read first.
    pub const TEXT: Self = Self {
        size: TEXT_SIZE,
        colour: Colour::Text,
        anchor: Anchor::Start,
        is_bold: false,
    };
    /// Text that is read second.
    pub const SMALL: Self = Self {
        size: SMALL_SIZE,
        colour: Colour::Muted,
        anchor: Anchor::Start,
        is_bold: false,
    };

    /// The same style at another end.
    #[must_use]
    pub fn at(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }

    /// The same style in another colour.
    #[must_use]
    pub fn in_colour(self, colour: Colour) -> Self {
        Self { colour, ..self }
    }

    /// The same style, heavier.
    #[must_use]
    pub fn bold(self) -> Self {
        Self {
            is_bold: true,
            ..self
        }
    }
}

/// A picture under work.
pub struct Sheet {
    /// How its colours are written.
    pub ink: Ink,
    /// Its width.
    pub width: f64,
    body: String,
}

impl Sheet {
    /// An empty sheet.
    pub fn new(width: f64, ink: Ink) -> Self {
        Self {
            ink,
            width,
            body: String::new(),
        }
    }

    /// A straight line; `extra` are further attributes, with a space in front.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: Colour, extra: &str) {
        let stroke = self.ink.of(colour);
        let x1 = n(from.0);
        let y1 = n(from.1);
        let x2 = n(to.0);
        let y2 = n(to.1);
        self.put(&format!(
            r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{stroke}"{extra}/>"#
        ));
    }

    /// A path that is stroked.
    pub fn stroke(&mut self, path: &str, colour: Colour, width: f64, extra: &str) {
        let stroke = self.ink.of(colour);
        self.put(&format!(r#"<path d="{path}" fill="none" stroke="{stroke}" stroke-width="{}" stroke-linejoin="round"{extra}/>"#, n(width)));
    }

    /// A path that is filled, as strong as `opacity`.
    pub fn fill(&mut self, path: &str, colour: Colour, opacity: f64) {
        let fill = self.ink.of(colour);
        self.put(&format!(
            r#"<path d="{path}" fill="{fill}" fill-opacity="{}"/>"#,
            n(opacity)
        ));
    }

    /// A filled rectangle; `note` is shown where the pointer rests on it.
    pub fn rect(
        &mut self,
        at: (f64, f64),
        size: (f64, f64),
        colour: Colour,
        opacity: f64,
        note: &str,
    ) {
        let x = n(at.0);
        let y = n(at.1);
        let width = n(size.0.max(0.0));
        let height = n(size.1.max(0.0));
        let fill = self.ink.of(colour);
        let strength = if opacity < 1.0 {
            format!(r#" fill-opacity="{}""#, n(opacity))
        } else {
            String::new()
        };
        self.put(&with_note(
            &format!(
                r#"rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}"{strength}"#
            ),
            "rect",
            note,
        ));
    }

    /// A dot, hollow or full; `note` is shown where the pointer rests on it.
    pub fn dot(
        &mut self,
        at: (f64, f64),
        radius: f64,
        colour: Colour,
        is_hollow: bool,
        note: &str,
    ) {
        let x = n(at.0);
        let y = n(at.1);
        let r = n(radius);
        let colour = self.ink.of(colour);
        let paper = self.ink.of(Colour::Paper);
        let look = if is_hollow {
            format!(r#"fill="{paper}" stroke="{colour}" stroke-width="1.5""#)
        } else {
            format!(r#"fill="{colour}""#)
        };
        self.put(&with_note(
            &format!(r#"circle cx="{x}" cy="{y}" r="{r}" {look}"#),
            "circle",
            note,
        ));
    }

    /// A text with its baseline at `at`. Its direction is that of its own first letter, so Arabic
    /// reads right to left.
    pub fn text(&mut self, at: (f64, f64), text: &str, style: Style) {
        self.text_with(at, text, style, "");
    }

    /// As [`Sheet::text`], with further attributes.
    pub fn text_with(&mut self, at: (f64, f64), text: &str, style: Style, extra: &str) {
        let anchor = match style.anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let weight = if style.is_bold {
            r#" font-weight="600""#
        } else {
            ""
        };
        let bidi = if text.chars().any(is_right_to_left) {
            r#" style="unicode-bidi:plaintext""#
        } else {
            ""
        };
        let x = n(at.0);
        let y = n(at.1);
        let size = n(style.size);
        let fill = self.ink.of(style.colour);
        let text = escape::xml(text);
        self.put(&format!(r#"<text x="{x}" y="{y}" font-size="{size}" fill="{fill}"{anchor}{weight}{bidi}{extra}>{text}</text>"#));
    }

    /// A piece of SVG as it is.
    pub fn put(&mut self, piece: &str) {
        self.body.push_str(piece);
        self.body.push('\n');
    }

    /// The picture, `height` high; `name` says what it shows to those who do not see it.
    pub fn finish(self, height: f64, name: &str) -> String {
        let width = n(self.width);
        let height = n(height);
        let name = escape::xml(name);
        let mut svg = String::with_capacity(self.body.len() + 512);
        let _ = match self.ink {
            Ink::Page => writeln!(
                svg,
                r#"<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{name}">"#
            ),
            Ink::File => writeln!(
                svg,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
                 aria-label=\"{name}\" font-family=\"{FONTS}\">"
            ),
        };
        svg.push_str(&self.body);
        svg.push_str("</svg>\n");
        svg
    }
}

/// An element whose tag is written up to its end, with a note inside where there is one.
fn with_note(open: &str, tag: &str, note: &str) -> String {
    if note.is_empty() {
        format!("<{open}/>")
    } else {
        format!("<{open}><title>{}</title></{tag}>", escape::xml(note))
    }
}

/// A coordinate, to a hundredth; what is no number becomes 0, because a picture with one bad place
/// beats a broken one.
pub fn n(value: f64) -> String {
    if !value.is_finite() {
        return "0".to_owned();
    }
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

/// A path through points.
pub fn path(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (i, (x, y)) in points.into_iter().enumerate() {
        path.push(if i == 0 { 'M' } else { 'L' });
        path.push_str(&n(x));
        path.push(' ');
        path.push_str(&n(y));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_short_and_finite() {
        assert_eq!(
            [1.0, 1.005, -0.001, 12.3456, f64::NAN, f64::INFINITY].map(n),
            ["1", "1", "0", "12.35", "0", "0"]
        );
        assert_eq!(path([(0.0, 1.5), (2.25, 3.0)]), "M0 1.5L2.25 3");
    }

    #[test]
    fn text_is_escaped_and_arabic_takes_its_direction() {
        let mut sheet = Sheet::new(10.0, Ink::File);
        sheet.text((1.0, 2.0), "<غاضب> & \"x\"", Style::TEXT.at(Anchor::End));
        let svg = sheet.finish(20.0, "a < b");
        assert!(
            svg.contains("unicode-bidi:plaintext")
                && svg.contains("&lt;غاضب&gt; &amp; &quot;x&quot;")
                && svg.contains("aria-label=\"a &lt; b\""),
            "{svg}"
        );
    }
}
