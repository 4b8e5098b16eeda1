//! A data set on one page: numbers, and figures of splits, labels and lengths.

use crate::chart::bars::Bar;
use crate::chart::bars::BarChart;
use crate::chart::bars::Group;
use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::number::Unit;
use crate::chart::number::count;
use crate::chart::number::fixed;
use crate::chart::scale::Axis;
use crate::page::Block;
use crate::page::Fact;
use crate::page::Page;
use crate::page::Section;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Table;
use maqam_data::describe::Count;
use maqam_data::describe::Distribution;
use maqam_data::describe::Stats;

/// Values of a field that a figure shows.
const MOST_SHOWN: usize = 24;

/// The page of a data set that is called `name`.
pub fn page(stats: &Stats, name: &str) -> Page {
    let facts = [
        (fixed(stats.hours, 2), "hours"),
        (count(stats.rows as f64), "rows"),
        (count(stats.clips as f64), "clips"),
        (count(stats.speakers as f64), "speakers"),
    ];
    let sections = [
        Section::new("values", "Splits, tasks, languages, labels", values(stats)),
        Section::new("lengths", "Lengths", lengths(stats)),
        Section::new("texts", "Spelling of targets", spellings(stats)),
        Section::new("costs", "Estimated cost of an epoch", costs(stats)),
    ];
    Page {
        kind: "Data".to_owned(),
        title: name.to_owned(),
        subtitle: format!(
            "{} rows without audio, {} with audio of unknown length",
            count(stats.rows_without_audio as f64),
            count(stats.rows_without_length as f64)
        ),
        facts: facts.map(|(value, label)| Fact::new(value, label)).to_vec(),
        sections: sections.to_vec(),
    }
}

/// Fields whose values are shown, with their titles.
fn fields(stats: &Stats) -> [(&'static str, &[(String, Count)]); 5] {
    [
        ("Split", &stats.splits),
        ("Task", &stats.tasks),
        ("Language", &stats.languages),
        ("Label", &stats.labels),
        ("Normalisation", &stats.normalisations),
    ]
}

fn values(stats: &Stats) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (name, counts) in fields(stats) {
        if counts.is_empty() {
            continue;
        }
        let group = |(value, count): &(String, Count)| Group {
            name: value.clone(),
            bars: vec![Some(Bar::new(count.rows as f64))],
        };
        let chart = BarChart {
            axis: Axis::new("rows").unit(Unit::Count).from_zero(),
            series: vec!["rows".to_owned()],
            groups: counts.iter().take(MOST_SHOWN).map(group).collect(),
            ..BarChart::default()
        };
        let id = name.to_lowercase();
        let caption = match counts.len() {
            all if all > MOST_SHOWN => format!("The {MOST_SHOWN} largest of {all}."),
            _ => String::new(),
        };
        blocks.push(Block::Figure(Figure::new(
            &id,
            format!("Rows by {id}"),
            caption,
            Chart::Bars(chart),
        )));
        let columns = vec![
            Column::text(name),
            Column::number("rows"),
            Column::number("hours"),
        ];
        let mut table = Table::new(format!("{id}-table"), name, "", columns);
        for (value, count) in counts.iter().take(MOST_SHOWN) {
            let hours = fixed(count.seconds / 3600.0, 2);
            let rows = Cell::number(count.rows as f64, Unit::Count);
            table.row(
                false,
                vec![Cell::text(value.as_str()), rows, Cell::text(hours)],
            );
        }
        blocks.push(Block::Table(table));
    }
    blocks
}

/// Distributions, with their titles and units.
fn distributions(stats: &Stats) -> Vec<(&'static str, &'static str, &Distribution)> {
    let all = [
        ("Seconds of a row", "s", &stats.seconds),
        ("Audio tokens of a row", "tokens", &stats.audio_tokens),
        ("Tokens of a target", "tokens", &stats.target_tokens),
        ("Words of a target", "words", &stats.target_words),
        (
            "Characters of a target",
            "characters",
            &stats.target_characters,
        ),
        (
            "Letters of a target per second",
            "letters",
            &stats.letters_per_second,
        ),
    ];
    all.into_iter()
        .filter_map(|(title, unit, found)| Some((title, unit, found.as_ref()?)))
        .collect()
}

fn lengths(stats: &Stats) -> Vec<Block> {
    let mut columns = vec![Column::text("")];
    let names = ["mean", "least", "5 %", "median", "95 %", "greatest"];
    columns.extend(names.map(Column::number));
    let note = "Quantiles are right to 1.1 %.";
    let mut table = Table::new("length-table", "Lengths", note, columns);
    let mut blocks = Vec::new();
    for (i, (title, unit, found)) in distributions(stats).into_iter().enumerate() {
        let numbers = [
            found.mean,
            found.min,
            found.p5,
            found.median,
            found.p95,
            found.max,
        ];
        let numbers = numbers.map(|value| Cell::number(value, Unit::Plain));
        table.row(
            false,
            [Cell::text(title)].into_iter().chain(numbers).collect(),
        );
        let chart = BarChart {
            axis: Axis::new("rows").unit(Unit::Count).from_zero(),
            series: vec!["rows".to_owned()],
            groups: bins(found, unit),
            ..BarChart::default()
        };
        blocks.push(Block::Figure(Figure::new(
            format!("length-{i}"),
            title,
            "",
            Chart::Bars(chart),
        )));
    }
    if !blocks.is_empty() {
        blocks.insert(0, Block::Table(table));
    }
    blocks
}

/// Name of a bin by its edges.
fn bin_name(found: &Distribution, unit: &str, bin: usize) -> String {
    let from = bin.checked_sub(1).map(|before| found.edges[before]);
    match (from, found.edges.get(bin)) {
        (None, Some(to)) => format!("under {to} {unit}"),
        (Some(from), Some(to)) => format!("{from} to {to} {unit}"),
        (Some(from), None) => format!("{from} {unit} and more"),
        (None, None) => String::new(),
    }
}

/// A bar for each bin of a histogram, but for empty ones at the ends.
fn bins(found: &Distribution, unit: &str) -> Vec<Group> {
    let is_there = |count: &u64| *count > 0;
    let first = found.counts.iter().position(is_there).unwrap_or(0);
    let last = found.counts.iter().rposition(is_there).unwrap_or(0);
    (first..=last)
        .map(|i| Group {
            name: bin_name(found, unit, i),
            bars: vec![Some(Bar::new(found.counts[i] as f64))],
        })
        .collect()
}

fn spellings(stats: &Stats) -> Vec<Block> {
    let all = stats
        .target_characters
        .as_ref()
        .map_or(0, |found| found.count);
    let mut columns = vec![Column::text("targets with")];
    columns.extend(["rows", "share (%)"].map(Column::number));
    let mut table = Table::new("spelling-table", "Targets that hold", "", columns);
    for (name, number) in &stats.spellings {
        let share = 100.0 * *number as f64 / all.max(1) as f64;
        let rows = Cell::number(*number as f64, Unit::Count);
        table.row(
            false,
            vec![
                Cell::text(name.replace('_', " ")),
                rows,
                Cell::text(fixed(share, 1)),
            ],
        );
    }
    vec![Block::Table(table)]
}

fn costs(stats: &Stats) -> Vec<Block> {
    let mut columns = vec![Column::text("model")];
    columns.extend(["decoder tokens", "PFLOP", "GPU hours"].map(Column::number));
    let counted = match stats.is_counted {
        true => "counted",
        false => "estimated from characters",
    };
    let note = format!(
        "One epoch of adapters on frozen weights, in hours of one H100 or H200 at 40 % of its bf16 peak. Target tokens are {counted}. \
         `maqam plan` measures a recipe."
    );
    let mut table = Table::new("cost-table", "Cost of an epoch", note, columns);
    for cost in &stats.costs {
        let tokens = Cell::number(cost.decoder_tokens as f64, Unit::Count);
        let numbers = [cost.petaflop, cost.gpu_hours].map(|value| Cell::text(fixed(value, 2)));
        table.row(
            false,
            [Cell::text(cost.model), tokens]
                .into_iter()
                .chain(numbers)
                .collect(),
        );
    }
    vec![Block::Table(table)]
}
