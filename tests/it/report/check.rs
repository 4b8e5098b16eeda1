//! Checks of every page, figure and table.

use std::collections::BTreeSet;

use maqam::report::page::Page;

use crate::report::xml;
use crate::report::xml::Element;

/// Everything that must hold of any page; returns its elements.
pub fn check(page: &Page) -> Vec<Element> {
    let html = page.html();
    let elements = xml::read(&html);
    for figure in page.figures() {
        let file = xml::read(&figure.file());
        assert!(
            !figure.file().contains("var("),
            "a file has no style sheet to look colours up in"
        );
        check_pictures(&file);
    }
    check_pictures(&elements);
    let mut ids = BTreeSet::new();
    elements
        .iter()
        .filter_map(|element| element.get("id"))
        .for_each(|id| assert!(ids.insert(id), "the id {id} comes twice"));
    for element in &elements {
        if let Some(address) = element
            .get("href")
            .and_then(|address| address.strip_prefix('#'))
        {
            assert!(ids.contains(address), "#{address} leads nowhere");
        }
        let addresses = ["src", "href"]
            .into_iter()
            .filter_map(|name| element.get(name));
        assert!(
            addresses
                .into_iter()
                .all(|address| !address.contains("//") && !address.starts_with("http")),
            "{element:?} asks the network"
        );
    }
    let style = &elements
        .iter()
        .find(|element| element.name == "style")
        .unwrap()
        .text;
    assert!(
        !style.contains("url(")
            && !style.contains("@import")
            && style.contains("prefers-color-scheme:dark")
            && style.contains("@media print")
    );
    // Names and answers of data may turn their own element. The page's sentences and labels are
    // English.
    for element in elements
        .iter()
        .filter(|element| element.get("dir").is_some())
    {
        assert!(
            element.name == "dd" || element.get("class") == Some("alignment"),
            "{element:?} takes the direction of its first letter"
        );
    }
    for used in html
        .split("var(--")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap())
    {
        assert!(
            style.contains(&format!("--{used}:")),
            "the colour {used} is nowhere said"
        );
    }
    for table in page.tables() {
        check_table(&table.markdown(), &table.latex());
    }
    elements
}

/// Places and sizes are finite, and no text covers another.
pub fn check_pictures(elements: &[Element]) {
    let mut boxes: Vec<(usize, usize, [f64; 4], &str)> = Vec::new();
    let mut depth = Vec::new();
    for (place, element) in elements
        .iter()
        .enumerate()
        .filter(|(_, element)| element.name == "svg" || element.is_in("svg"))
    {
        for name in [
            "x",
            "y",
            "x1",
            "x2",
            "y1",
            "y2",
            "cx",
            "cy",
            "r",
            "width",
            "height",
            "font-size",
        ] {
            if let Some(value) = element.get(name).filter(|value| !value.ends_with('%')) {
                assert!(
                    value.parse::<f64>().is_ok_and(f64::is_finite),
                    "{name}=\"{value}\""
                );
            }
        }
        if element.name == "svg" {
            depth.push(place);
        }
        let numbers = element.get("d").unwrap_or_default();
        assert!(
            !numbers.contains("NaN")
                && !numbers.contains("inf")
                && !element.text.contains("NaN")
                && !element.text.contains("inf"),
            "{element:?}"
        );
        if element.name == "text" && element.get("transform").is_none() && !element.text.is_empty()
        {
            boxes.push((
                element.picture,
                *depth.last().unwrap(),
                text_box(element),
                &element.text,
            ));
        }
    }
    for (i, (picture, svg, a, text)) in boxes.iter().enumerate() {
        for (other_picture, other_svg, b, other) in &boxes[..i] {
            let overlaps = a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
            assert!(
                !(overlaps && picture == other_picture && svg == other_svg),
                "`{text}` {a:?} and `{other}` {b:?} cover each other"
            );
        }
    }
}

/// The ink of a text, estimated on the small side: half an em a letter, two thirds of its height.
fn text_box(element: &Element) -> [f64; 4] {
    let x = element.number("x");
    let y = element.number("y");
    let size = element.number("font-size");
    let width = 0.5 * size * element.text.chars().count() as f64;
    let left = match element.get("text-anchor") {
        Some("end") => x - width,
        Some("middle") => x - width / 2.0,
        _ => x,
    };
    [left, y - 0.67 * size, left + width, y]
}

/// Every row has as many cells as the head, and LaTeX's braces close.
fn check_table(markdown: &str, latex: &str) {
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let lines: Vec<&str> = markdown.lines().collect();
    assert!(
        lines.iter().all(|line| cells(line) == cells(lines[0])),
        "{markdown}"
    );
    let ends: Vec<usize> = latex
        .lines()
        .filter(|line| line.ends_with(" \\\\"))
        .map(|line| line.replace("\\&", "").matches('&').count())
        .collect();
    assert!(
        !ends.is_empty() && ends.iter().all(|count| *count == ends[0]),
        "{latex}"
    );
    let mut depth = 0i32;
    let mut is_escaped = false;
    for c in latex.chars() {
        match c {
            '{' if !is_escaped => depth += 1,
            '}' if !is_escaped => depth -= 1,
            _ => {}
        }
        assert!(depth >= 0, "{latex}");
        is_escaped = c == '\\' && !is_escaped;
    }
    assert_eq!(depth, 0, "{latex}");
}
