//! One page of HTML that needs nothing but itself: sections, figures, tables, and a table of
//! contents.

pub mod escape;
pub mod table;

use crate::chart::figure::Figure;
use crate::chart::ink;
use crate::page::table::Table;
use crate::sections::measure::FONTS;
use crate::sections::utterance::Utterance;

/// A number that is seen first.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The number, with its unit.
    pub value: String,
    /// What it is.
    pub label: String,
}

impl Fact {
    /// A number and what it is.
    pub fn new(value: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            label: label.into(),
        }
    }
}

/// A piece of a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A paragraph.
    Prose(String),
    /// A heading inside a section.
    Heading(String),
    /// Names and what they stand for.
    Facts(Vec<(String, String)>),
    /// A figure.
    Figure(Figure),
    /// A table.
    Table(Table),
    /// Utterances to look at.
    Utterances(Vec<Utterance>),
    /// Text as a program reads it.
    Code(String),
    /// Pieces beside each other where there is room.
    Beside(Vec<Block>),
    /// Pieces that are folded away under a title.
    Folded(String, Vec<Block>),
}

/// A section.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Name in links: letters, digits and hyphens.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its pieces.
    pub blocks: Vec<Block>,
}

impl Section {
    /// A section.
    pub fn new(id: impl Into<String>, title: impl Into<String>, blocks: Vec<Block>) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            blocks,
        }
    }
}

/// A page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// What kind of page it is, above its title.
    pub kind: String,
    /// Its title.
    pub title: String,
    /// One line below the title.
    pub subtitle: String,
    /// The numbers that are seen first.
    pub facts: Vec<Fact>,
    /// Its sections.
    pub sections: Vec<Section>,
}

/// Numbers of the figures and tables so far.
#[derive(Default)]
struct Numbers {
    figures: usize,
    tables: usize,
}

impl Page {
    /// The page as one file of HTML, which is well-formed XML too.
    pub fn html(&self) -> String {
        let mut html = String::from(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n",
        );
        html += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n";
        html += &format!(
            "<title>{} – {}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
            escape::xml(&self.title),
            escape::xml(&self.kind),
            style()
        );
        html += &self.contents();
        html += "<main>\n";
        html += &self.head();
        let mut numbers = Numbers::default();
        for section in self
            .sections
            .iter()
            .filter(|section| !section.blocks.is_empty())
        {
            html += &format!(
                "<section id=\"{}\">\n<h2>{}</h2>\n",
                escape::xml(&section.id),
                escape::xml(&section.title)
            );
            section
                .blocks
                .iter()
                .for_each(|block| html += &block_html(block, &mut numbers));
            html += "</section>\n";
        }
        html += &format!(
            "<footer>Made by maqam {}. It opens offline.</footer>\n</main>\n",
            env!("CARGO_PKG_VERSION")
        );
        html + &format!(
            "<script>\n{}</script>\n</body>\n</html>\n",
            include_str!("sort.js")
        )
    }

    /// All figures of the page, in their order.
    pub fn figures(&self) -> Vec<&Figure> {
        let mut found = Vec::new();
        self.sections.iter().for_each(|section| {
            collect(&section.blocks, &mut |block| found.extend(figure_of(block)))
        });
        found
    }

    /// All tables of the page, in their order.
    pub fn tables(&self) -> Vec<&Table> {
        let mut found = Vec::new();
        self.sections.iter().for_each(|section| {
            collect(&section.blocks, &mut |block| found.extend(table_of(block)))
        });
        found
    }

    fn contents(&self) -> String {
        let mut entries = String::new();
        for section in &self.sections {
            if !section.blocks.is_empty() {
                entries += &format!(
                    "<li><a href=\"#{}\">{}</a></li>\n",
                    escape::xml(&section.id),
                    escape::xml(&section.title)
                );
            }
        }
        format!(
            "<nav aria-label=\"contents\">\n<p>{}</p>\n<ol>\n{entries}</ol>\n</nav>\n",
            escape::xml(&self.title)
        )
    }

    fn head(&self) -> String {
        let mut html = format!(
            "<header class=\"head\">\n<p class=\"kind\">{}</p>\n<h1>{}</h1>\n",
            escape::xml(&self.kind),
            escape::xml(&self.title)
        );
        if !self.subtitle.is_empty() {
            html += &format!(
                "<p class=\"subtitle\">{}</p>\n",
                escape::xml(&self.subtitle)
            );
        }
        if !self.facts.is_empty() {
            html += "<div class=\"facts\">\n";
            for fact in &self.facts {
                html += &format!(
                    "<div><b>{}</b><span>{}</span></div>\n",
                    escape::xml(&fact.value),
                    escape::xml(&fact.label)
                );
            }
            html += "</div>\n";
        }
        html + "</header>\n"
    }
}

fn collect<'a>(blocks: &'a [Block], visit: &mut dyn FnMut(&'a Block)) {
    for block in blocks {
        visit(block);
        if let Block::Folded(_, inside) | Block::Beside(inside) = block {
            collect(inside, visit);
        }
    }
}

fn figure_of(block: &Block) -> Option<&Figure> {
    match block {
        Block::Figure(figure) => Some(figure),
        _ => None,
    }
}

fn table_of(block: &Block) -> Option<&Table> {
    match block {
        Block::Table(table) => Some(table),
        _ => None,
    }
}

/// The style sheet: colours for light and for dark paper, then the rules.
fn style() -> String {
    let light = ink::variables(false);
    let dark = ink::variables(true);
    format!(
        ":root{{color-scheme:light dark;--fonts:{FONTS};{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{}",
        include_str!("page.css")
    )
}

fn block_html(block: &Block, numbers: &mut Numbers) -> String {
    match block {
        Block::Prose(text) => format!("<p>{}</p>\n", escape::prose(text)),
        Block::Heading(text) => format!("<h3>{}</h3>\n", escape::xml(text)),
        Block::Facts(facts) => {
            let mut html = "<dl class=\"list\">\n".to_owned();
            for (name, value) in facts {
                html += &format!(
                    "<dt>{}</dt><dd><bdi>{}</bdi></dd>\n",
                    escape::xml(name),
                    escape::xml(value)
                );
            }
            html + "</dl>\n"
        }
        Block::Figure(figure) => {
            numbers.figures += 1;
            figure_html(figure, numbers.figures)
        }
        Block::Table(table) => {
            numbers.tables += 1;
            let caption = caption(
                &format!("Table {}", numbers.tables),
                &table.title,
                &table.caption,
            );
            format!(
                "<figure class=\"table\" id=\"{}\">\n{caption}{}</figure>\n",
                escape::xml(&table.id),
                table.html()
            )
        }
        Block::Utterances(utterances) => utterances.iter().map(Utterance::html).collect(),
        Block::Code(text) => format!("<pre><code>{}</code></pre>\n", escape::xml(text)),
        Block::Beside(blocks) => {
            let inside: String = blocks
                .iter()
                .map(|block| block_html(block, numbers))
                .collect();
            format!("<div class=\"beside\">\n{inside}</div>\n")
        }
        Block::Folded(title, blocks) => {
            let inside: String = blocks
                .iter()
                .map(|block| block_html(block, numbers))
                .collect();
            format!(
                "<details>\n<summary>{}</summary>\n{inside}</details>\n",
                escape::xml(title)
            )
        }
    }
}

fn figure_html(figure: &Figure, number: usize) -> String {
    let mut panels = String::new();
    for (title, drawn) in figure.for_page() {
        panels += "<div class=\"panel\">\n";
        if !title.is_empty() {
            panels += &format!("<h4>{}</h4>\n", escape::xml(&title));
        }
        for (class, svg) in drawn {
            panels += &format!("<div class=\"{class}\">\n{svg}</div>\n");
        }
        panels += "</div>\n";
    }
    let class = if figure.panels.len() == 1 {
        "one"
    } else {
        "several"
    };
    let caption = caption(&format!("Figure {number}"), &figure.title, &figure.caption);
    format!(
        "<figure id=\"{}\">\n{caption}<div class=\"panels {class}\">\n{panels}</div>\n</figure>\n",
        escape::xml(&figure.id)
    )
}

fn caption(number: &str, title: &str, text: &str) -> String {
    let stop = if title.ends_with(['?', '!', '.']) {
        ""
    } else {
        "."
    };
    let text = if text.is_empty() {
        String::new()
    } else {
        format!(" <span>{}</span>", escape::prose(text))
    };
    format!(
        "<figcaption><i>{number}</i> <b>{}{stop}</b>{text}</figcaption>\n",
        escape::xml(title)
    )
}
