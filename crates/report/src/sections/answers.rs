//! What a model answered: confusions between labels, instructions followed.

use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::heat::HeatMap;
use crate::chart::number;
use crate::chart::number::Unit;
use crate::page::Block;
use crate::page::Section;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Score;
use crate::page::table::Table;
use crate::sections::chapter::Chapter;
use crate::sections::failures;
use maqam_base::error::Result;
use maqam_metrics::Confusion;
use maqam_metrics::Family;
use maqam_records::instructions::Change;
use maqam_records::instructions::InstructionScores;
use maqam_records::instructions::Instructions;
use maqam_records::instructions::Rates;
use maqam_records::prediction::Prediction;

/// The section; empty where no predictions are there.
///
/// # Errors
/// Broken files, with file and line.
pub fn section(chapter: &Chapter) -> Result<Section> {
    let mut blocks = Vec::new();
    blocks.extend(confusions(chapter).map(Block::Figure));
    blocks.extend(failures::figure(chapter)?.map(Block::Figure));
    blocks.extend(instructions(chapter)?.into_iter().map(Block::Table));
    Ok(Section::new(chapter.id("answers"), "Answers", blocks))
}

/// More labels than this make no matrix that can be read.
const MOST_LABELS: usize = 40;

fn confusions(chapter: &Chapter) -> Option<Figure> {
    let mut panels = Vec::new();
    for (set, rows) in &chapter.predictions {
        let metrics = chapter.metrics_of(set);
        let mut families = metrics.iter().map(|metric| metric.family);
        if families.any(|family| family == Family::Classification)
            && let Some(map) = confusion(rows, &chapter.run.inventory(set))
        {
            panels.push((set.clone(), Chart::Heat(map)));
        }
    }
    let caption =
        "Counts, and below them shares of the row. Answers that name no label stand apart.";
    (!panels.is_empty()).then(|| {
        Figure::of_panels(
            chapter.id("confusions"),
            "Which label was taken for which",
            caption,
            panels,
        )
    })
}

/// The confusion matrix of the labels that a set's rows have, in the order of the `inventory` and
/// then of their names; `None` without rows, or with more labels than can be read.
pub fn confusion(rows: &[Prediction], inventory: &[&str]) -> Option<HeatMap> {
    let mut labels: Vec<&str> = rows
        .iter()
        .flat_map(|row| std::iter::once(row.label()).chain(row.answer.as_deref()))
        .collect();
    let place = |label: &str| {
        let known = inventory.iter().position(|known| *known == label);
        known.unwrap_or(inventory.len())
    };
    labels.sort_unstable_by_key(|label| (place(label), *label));
    labels.dedup();
    if labels.is_empty() || labels.len() > MOST_LABELS {
        return None;
    }
    let found = Confusion::new(
        rows.iter().map(|row| (row.label(), row.answer.as_deref())),
        &labels,
    )
    .ok()?;
    Some(HeatMap::confusion(&found.labels, &found.counts))
}

fn instructions(chapter: &Chapter) -> Result<Vec<Table>> {
    let last = chapter.run.last();
    let found = last.map(|last| last.instructions()).transpose()?.flatten();
    let Some(found) = found else {
        return Ok(Vec::new());
    };
    let mut tables = vec![followed(
        chapter.id("instructions"),
        "Instructions followed",
        &found,
    )];
    if let Some(text) = &found.text {
        tables.push(followed(
            chapter.id("instructions-in-text"),
            "Instructions followed in text alone",
            text,
        ));
    }
    Ok(tables)
}

/// The table of what a model followed, beside its base and above the best constant answer.
fn followed(id: String, title: &str, found: &Instructions) -> Table {
    let mut columns = vec![
        Column::text("kind"),
        Column::number("rows"),
        Column::number("strict %"),
        Column::number("loose %"),
        Column::number("strict and right %"),
        Column::number("of rows"),
    ];
    if found.base.is_some() {
        columns.extend(["base, strict %", "base, loose %"].map(Column::number));
    }
    let mut table = Table::new(id, title, caption(found), columns);
    let base = |of: &dyn Fn(&InstructionScores) -> Option<Rates>| -> Vec<Cell> {
        let base = found.base.as_ref();
        base.map_or(Vec::new(), |base| shares(of(base).as_ref()).to_vec())
    };
    for (kind, rates) in found.model.kinds.iter() {
        let beside = base(&|base| base.kinds.get(kind).copied());
        table.row(false, [cells(kind, rates), beside].concat());
    }
    let beside = base(&|base| Some(base.all));
    table.row(true, [cells("all", &found.model.all), beside].concat());
    if let Some(constant) = &found.constant {
        let name = format!("best constant answer: “{}”", constant.answer);
        let beside = base(&|_| None);
        table.row(true, [cells(&name, &constant.scores.all), beside].concat());
    }
    table
}

fn cells(name: &str, rates: &Rates) -> Vec<Cell> {
    let strict = Cell::Score(Score {
        interval: rates.interval,
        ..Score::new(rates.prompt_strict, Unit::Percent)
    });
    let (right, known) = if rates.known > 0 {
        (
            Cell::number(rates.followed_and_right, Unit::Percent),
            Cell::number(rates.known as f64, Unit::Count),
        )
    } else {
        (Cell::Empty, Cell::Empty)
    };
    vec![
        Cell::text(name),
        Cell::number(rates.prompts as f64, Unit::Count),
        strict,
        Cell::number(rates.prompt_loose, Unit::Percent),
        right,
        known,
    ]
}

fn shares(rates: Option<&Rates>) -> [Cell; 2] {
    match rates {
        Some(rates) => [rates.prompt_strict, rates.prompt_loose]
            .map(|share| Cell::number(share, Unit::Percent)),
        None => [Cell::Empty, Cell::Empty],
    }
}

fn caption(found: &Instructions) -> String {
    let mut text = "Share of rows all of whose instructions hold. Loose: or hold without the answer's first line, last line or asterisks. Strict and right: of the rows whose right answer is known.".to_owned();
    if let Some(change) = &found.change {
        text += &said_of_change("the base", change);
    }
    if let Some(constant) = &found.constant {
        text += &said_of_change("the best constant answer", &constant.change);
    }
    text
}

/// Numbers of rows that only one of two follows; `what` is what the model is compared with.
fn said_of_change(what: &str, change: &Change) -> String {
    let p = change.p.map_or(String::new(), |p| {
        format!(" (McNemar's p {})", number::p_value(p))
    });
    format!(
        " Rows that only {what} follows: {}; that only the model follows: {}{p}.",
        change.lost.len(),
        change.gained.len()
    )
}
