//! What a model answered: confusions between labels, instructions followed.

use crate::error::Result;
use crate::metrics::Confusion;
use crate::report::chapter::Chapter;
use crate::report::failures;
use crate::report::figure::Chart;
use crate::report::figure::Figure;
use crate::report::heat::HeatMap;
use crate::report::metric::Family;
use crate::report::number::Unit;
use crate::report::page::Block;
use crate::report::page::Section;
use crate::report::predictions::Prediction;
use crate::report::read::Rates;
use crate::report::table::Cell;
use crate::report::table::Column;
use crate::report::table::Table;

/// The section; empty where no predictions are there.
///
/// # Errors
/// Broken files, with file and line.
pub fn section(chapter: &Chapter) -> Result<Section> {
    let mut blocks = Vec::new();
    blocks.extend(confusions(chapter).map(Block::Figure));
    blocks.extend(failures::figure(chapter)?.map(Block::Figure));
    blocks.extend(instructions(chapter)?.map(Block::Table));
    Ok(Section::new(chapter.id("answers"), "Answers", blocks))
}

/// More labels than this make no matrix that can be read.
const MOST_LABELS: usize = 40;

fn confusions(chapter: &Chapter) -> Option<Figure> {
    let is_labelled = |set: &str| {
        chapter
            .metrics_of(set)
            .iter()
            .any(|metric| metric.family == Family::Classification)
    };
    let of_set = |(set, rows): &(String, Vec<Prediction>)| {
        confusion(rows)
            .filter(|_| is_labelled(set))
            .map(|map| (set.clone(), Chart::Heat(map)))
    };
    let panels: Vec<(String, Chart)> = chapter.predictions.iter().filter_map(of_set).collect();
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

/// The confusion matrix of a set's labels; `None` without rows, or with more labels than can be read.
pub fn confusion(rows: &[Prediction]) -> Option<HeatMap> {
    let mut labels: Vec<&str> = rows
        .iter()
        .flat_map(|row| std::iter::once(row.label()).chain(row.answer.as_deref()))
        .collect();
    labels.sort_unstable();
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

fn instructions(chapter: &Chapter) -> Result<Option<Table>> {
    let Some(found) = chapter
        .run
        .last()
        .map(|last| last.instructions())
        .transpose()?
        .flatten()
    else {
        return Ok(None);
    };
    let mut columns = vec![
        Column::text("kind"),
        Column::number("rows"),
        Column::number("strict %"),
        Column::number("loose %"),
    ];
    if found.base.is_some() {
        columns.extend(["base, strict %", "base, loose %"].map(Column::number));
    }
    let caption = "Share of rows all of whose instructions hold. Loose: or hold without the answer's first line, last line or asterisks.";
    let mut table = Table::new(
        chapter.id("instructions"),
        "Instructions followed",
        caption,
        columns,
    );
    let shares = |rates: Option<&Rates>| match rates {
        Some(rates) => [
            Cell::number(rates.prompt_strict, Unit::Percent),
            Cell::number(rates.prompt_loose, Unit::Percent),
        ],
        None => [Cell::Empty, Cell::Empty],
    };
    let row = |name: &str, rates: &Rates, base: Option<Option<&Rates>>| {
        let mut row = vec![Cell::text(name), Cell::number(rates.prompts, Unit::Count)];
        row.extend(shares(Some(rates)));
        row.extend(base.into_iter().flat_map(shares));
        row
    };
    for (kind, rates) in &found.model.kinds {
        table.row(
            false,
            row(kind, rates, found.base.as_ref().map(|base| base.kind(kind))),
        );
    }
    table.row(
        true,
        row(
            "all",
            &found.model.all,
            found.base.as_ref().map(|base| Some(&base.all)),
        ),
    );
    Ok(Some(table))
}
