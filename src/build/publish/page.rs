//! `report.html`: what became of the documents, and how the set is distributed.

use crate::build::publish::row::Publishing;
use crate::build::publish::statistics::Statistics;
use crate::build::publish::statistics::quantile;
use crate::report::chart::figure::Chart;
use crate::report::chart::figure::Figure;
use crate::report::chart::lines::Boundary;
use crate::report::chart::lines::LineChart;
use crate::report::chart::lines::Series;
use crate::report::chart::number::Unit;
use crate::report::chart::scale::Axis;
use crate::report::page::Block;
use crate::report::page::Fact;
use crate::report::page::Page;
use crate::report::page::Section;
use crate::report::page::table::Cell;
use crate::report::page::table::Column;
use crate::report::page::table::Table;

/// Bins of a distribution.
const BINS: usize = 24;

/// The page.
pub(super) fn page(publishing: &Publishing, statistics: &Statistics) -> Page {
    let num_rejected: usize = statistics.rejections.values().sum();
    let hours = statistics.seconds() / 3600.0;
    let mut rows = vec![Block::Table(rejections(statistics))];
    rows.extend(publishing.notes.iter().cloned().map(Block::Prose));
    Page {
        kind: "Data set".to_owned(),
        title: publishing.recipe.name.clone(),
        subtitle: "A speech-summarization set built by maqam from text.".to_owned(),
        facts: vec![
            Fact::new(statistics.num_collected.to_string(), "documents collected"),
            Fact::new(statistics.num_published().to_string(), "rows published"),
            Fact::new(num_rejected.to_string(), "rows rejected"),
            Fact::new(format!("{hours:.2} h"), "of speech"),
        ],
        sections: vec![
            Section::new("rows", "Rows", rows),
            Section::new(
                "splits",
                "Splits and voices",
                vec![
                    Block::Table(splits(statistics)),
                    Block::Table(voices(statistics)),
                ],
            ),
            Section::new(
                "distributions",
                "Distributions",
                distributions(publishing, statistics),
            ),
            Section::new(
                "summaries",
                "Summaries",
                vec![Block::Table(copying(statistics))],
            ),
        ],
    }
}

fn count(value: usize) -> Cell {
    Cell::number(value as f64, Unit::Count)
}

/// Rejections by step and reason; they add up with the published rows to those collected.
pub(super) fn rejections(statistics: &Statistics) -> Table {
    let mut table = Table::new(
        "rejections",
        "What became of the documents",
        "Collected rows are published or rejected; every rejection has one reason.",
        vec![
            Column::text("step"),
            Column::text("reason"),
            Column::number("rows"),
        ],
    );
    table.row(
        false,
        vec![
            Cell::text("collect"),
            Cell::text("collected"),
            count(statistics.num_collected),
        ],
    );
    for ((step, reason), num) in &statistics.rejections {
        table.row(
            false,
            vec![
                Cell::text(step.name()),
                Cell::Code(reason.clone()),
                count(*num),
            ],
        );
    }
    table.row(
        true,
        vec![
            Cell::text("publish"),
            Cell::text("published"),
            count(statistics.num_published()),
        ],
    );
    table
}

/// Sizes of the splits.
pub(super) fn splits(statistics: &Statistics) -> Table {
    let mut table = Table::new(
        "splits",
        "Splits",
        "Words are separated by spaces; means are over rows.",
        vec![
            Column::text("split"),
            Column::number("rows"),
            Column::number("hours"),
            Column::number("words per text"),
            Column::number("words per summary"),
        ],
    );
    for (name, measures) in statistics.splits() {
        let mean = |sum: usize| Cell::number(sum as f64 / measures.num.max(1) as f64, Unit::Plain);
        table.row(
            false,
            vec![
                Cell::text(name),
                count(measures.num),
                Cell::number(measures.seconds / 3600.0, Unit::Plain),
                mean(measures.num_words),
                mean(measures.num_summary_words),
            ],
        );
    }
    table
}

/// Rows and hours of each voice.
pub(super) fn voices(statistics: &Statistics) -> Table {
    let mut table = Table::new(
        "voices",
        "Voices",
        "Rows and hours of each voice in each split.",
        vec![
            Column::text("voice"),
            Column::text("split"),
            Column::number("rows"),
            Column::number("hours"),
        ],
    );
    for (voice, splits) in &statistics.voices {
        for (split, measures) in splits {
            table.row(
                false,
                vec![
                    Cell::Code(voice.clone()),
                    Cell::text(*split),
                    count(measures.num),
                    Cell::number(measures.seconds / 3600.0, Unit::Plain),
                ],
            );
        }
    }
    table
}

/// Copied spans and compression, compared with those of human summaries.
pub(super) fn copying(statistics: &Statistics) -> Table {
    let mut table = Table::new(
        "copying",
        "How summaries relate to their texts",
        "Compression is words of the text for each word of the summary. Copied is the share of a summary's words in the longest run that the text has too; shared is the share of its words that the text has anywhere. Means over rows.",
        vec![
            Column::text("summaries"),
            Column::number("rows"),
            Column::number("compression"),
            Column::number("copied %"),
            Column::number("shared %"),
        ],
    );
    for found in statistics.copying() {
        table.row(
            false,
            vec![
                Cell::text(found.name),
                count(found.num),
                Cell::number(found.compression, Unit::Plain),
                Cell::number(found.copied, Unit::Percent),
                Cell::number(found.shared, Unit::Percent),
            ],
        );
    }
    table
}

fn distributions(publishing: &Publishing, statistics: &Statistics) -> Vec<Block> {
    let listen = &publishing.recipe.listen;
    let bounds = match listen.floor_cer {
        Some(floor) => vec![("floor", floor), ("bound", floor + listen.over_floor)],
        None => Vec::new(),
    };
    [
        (
            "grades",
            "Lowest grade of the judge",
            "grade",
            &statistics.grades,
        ),
        (
            "durations",
            "Length of recordings",
            "seconds",
            &statistics.durations,
        ),
        (
            "compression",
            "Compression",
            "words of the text for each word of the summary",
            &statistics.compressions,
        ),
        (
            "rates",
            "Speed of speech",
            "characters per second",
            &statistics.rates,
        ),
        (
            "loudness",
            "Integrated loudness (EBU R 128)",
            "LUFS",
            &statistics.loudness,
        ),
        (
            "cer",
            "Character error rate of the round trip, with that of rejected rows",
            "character error rate",
            &statistics.cers,
        ),
    ]
    .into_iter()
    .filter_map(|(id, title, unit, numbers)| {
        let marks = if id == "cer" { &bounds[..] } else { &[] };
        histogram(id, title, unit, numbers, marks)
    })
    .map(Block::Figure)
    .collect()
}

/// A distribution as a curve of counts, with its median and named marks in words; none for fewer
/// than two values.
fn histogram(
    id: &str,
    title: &str,
    unit: &str,
    numbers: &[f64],
    marks: &[(&str, f64)],
) -> Option<Figure> {
    let low = quantile(numbers, 0.0)?;
    let high = quantile(numbers, 1.0)?;
    if high <= low {
        return None;
    }
    let width = (high - low) / BINS as f64;
    let mut counts = [0usize; BINS];
    for number in numbers {
        counts[(((number - low) / width) as usize).min(BINS - 1)] += 1;
    }
    let points = counts
        .iter()
        .enumerate()
        .map(|(i, num)| (low + (i as f64 + 0.5) * width, *num as f64))
        .collect();
    let at = |share: f64| quantile(numbers, share).unwrap_or(0.0);
    let mut caption = format!(
        "Median {:.3}, middle 90 % from {:.3} to {:.3} {unit}; {} rows in {BINS} bins.",
        at(0.5),
        at(0.05),
        at(0.95),
        numbers.len()
    );
    for (name, value) in marks {
        caption += &format!(" {name} {value:.3}.");
    }
    // A mark beyond the values is in the caption alone.
    let boundaries = marks
        .iter()
        .filter(|(_, value)| (low..=high).contains(value))
        .map(|(name, value)| Boundary {
            at: *value,
            name: (*name).to_owned(),
        })
        .collect();
    let chart = LineChart {
        x: Axis::new(unit),
        y: Axis::new("rows").unit(Unit::Count).from_zero(),
        series: vec![Series::new("rows", points, 0)],
        boundaries,
        ..LineChart::default()
    };
    Some(Figure::new(id, title, caption, Chart::Lines(chart)))
}
