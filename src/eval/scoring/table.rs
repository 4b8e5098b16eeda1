//! The scores of predictions as tables to read.

use crate::eval::scoring::rows::Row;
use crate::eval::scoring::scored::Reading;
use crate::eval::scoring::scored::Scored;
use crate::eval::scoring::scored::is_tally_shown;
use crate::metrics::Definition;
use crate::metrics::Kind;
use crate::metrics::Place;
use crate::metrics::Scale;
use crate::metrics::Tally;
use crate::metrics::classify::UNPARSED;
use crate::task::Task;
use crate::text_table::TextTable;

/// Everything a person asks for at a glance, and the signatures that go with it into a paper.
pub fn render(task: &Task, rows: &[Row], scored: &Scored) -> String {
    let most = rows
        .iter()
        .map(|row| row.references.len())
        .max()
        .unwrap_or(0);
    let references = if most > 1 {
        format!(", up to {most} references each")
    } else {
        String::new()
    };
    let mut text = format!("{}: {} answers{references}\n\n", task.name, rows.len());
    let readings: &[Reading] = if task.kind == Kind::Classify {
        &scored.readings
    } else {
        &[]
    };
    text += &texts(scored, task.kind);
    text += &labels(readings);
    if readings.iter().any(|reading| reading.parse == "as-is") {
        text += &format!(
            "Answers were compared as they are; `--labels {}` reads them by the task's inventory.\n\n",
            task.name
        );
    }
    text + &signatures(scored, readings, task.kind)
}

/// A grid: the first column to the left, the others to the right.
pub fn grid(rows: &[Vec<String>]) -> String {
    TextTable::new(1, rows.to_vec()).brief().text() + "\n"
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// A score as it is usually written: 0 to 100 for chrF and BLEU, a factor for a ratio, percent for everything else.
fn shown(tally: &Tally) -> String {
    match Definition::find(tally.metric()).map(|metric| metric.scale) {
        Some(Scale::Points | Scale::Plain) => format!("{:.2}", tally.corpus()),
        Some(Scale::Share) | None => percent(tally.corpus()),
    }
}

/// The metrics of texts, one column a normaliser, and the failures below.
fn texts(scored: &Scored, kind: Kind) -> String {
    let mut text = String::new();
    let shown_of = |tallies: &[Tally]| {
        tallies
            .iter()
            .filter(|tally| is_tally_shown(kind, tally))
            .cloned()
            .collect::<Vec<_>>()
    };
    let columns: Vec<Vec<Tally>> = scored
        .texts
        .iter()
        .map(|(_, tallies)| shown_of(tallies))
        .collect();
    // A normaliser may leave a script without words, so metrics are matched by name.
    let mut metrics: Vec<&str> = Vec::new();
    for tally in columns.iter().flatten() {
        if !metrics.contains(&tally.metric()) {
            metrics.push(tally.metric());
        }
    }
    if !metrics.is_empty() {
        let head = std::iter::once(String::new())
            .chain(
                scored
                    .texts
                    .iter()
                    .map(|(normaliser, _)| normaliser.to_string()),
            )
            .collect();
        let line = |metric: &&str| {
            let cell = |tallies: &Vec<Tally>| {
                tallies
                    .iter()
                    .find(|tally| tally.metric() == *metric)
                    .map_or_else(|| "-".to_owned(), shown)
            };
            let is_part = Definition::find(metric).is_some_and(|known| known.place == Place::Part);
            let name = if is_part {
                format!("  {metric}")
            } else {
                (*metric).to_owned()
            };
            std::iter::once(name)
                .chain(columns.iter().map(cell))
                .collect()
        };
        text += &grid(
            &std::iter::once(head)
                .chain(metrics.iter().map(line))
                .collect::<Vec<_>>(),
        );
    }
    if !scored.failures.is_empty() {
        text += &grid(
            &scored
                .failures
                .iter()
                .map(|tally| vec![tally.name.clone(), shown(tally)])
                .collect::<Vec<_>>(),
        );
    }
    text
}

/// Scores under each reading, then each label and the confusions of the last.
fn labels(readings: &[Reading]) -> String {
    let Some(last) = readings.last() else {
        return String::new();
    };
    let head = std::iter::once(String::new())
        .chain(readings.iter().map(|reading| reading.parse.to_owned()))
        .collect();
    let scores: Vec<_> = readings
        .iter()
        .map(|reading| reading.scores.named())
        .collect();
    let line = |i: usize| {
        std::iter::once(scores[0][i].0.to_owned())
            .chain(scores.iter().map(|scores| percent(scores[i].1)))
            .collect()
    };
    let mut lines = vec![head];
    lines.extend((0..scores[0].len()).map(line));
    let unparsed = |reading: &Reading| {
        reading.confusion.as_ref().map_or_else(
            || "-".to_owned(),
            |found| found.predicted().last().unwrap_or(&0).to_string(),
        )
    };
    if last.parse != "as-is" {
        lines.push(
            std::iter::once(UNPARSED.to_owned())
                .chain(readings.iter().map(unparsed))
                .collect(),
        );
    }
    let Some(confusion) = &last.confusion else {
        return grid(&lines);
    };
    let mut each = vec![
        [
            "label",
            "references",
            "answers",
            "precision",
            "recall",
            "f1",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for (name, seen) in confusion.labels.iter().zip(confusion.seen()) {
        let counts = [seen.references, seen.predictions].map(|count| count.to_string());
        each.push(
            [
                vec![name.clone()],
                counts.to_vec(),
                [seen.precision(), seen.recall(), seen.f1()]
                    .map(percent)
                    .to_vec(),
            ]
            .concat(),
        );
    }
    let columns = || {
        confusion
            .labels
            .iter()
            .cloned()
            .chain([UNPARSED.to_owned()])
    };
    let mut matrix = vec![
        std::iter::once(String::new())
            .chain(columns())
            .collect::<Vec<_>>(),
    ];
    matrix.extend(
        confusion
            .labels
            .iter()
            .zip(&confusion.counts)
            .map(|(name, row)| {
                std::iter::once(name.clone())
                    .chain(row.iter().map(u64::to_string))
                    .collect()
            }),
    );
    let parse = last.parse;
    format!(
        "{}Each label ({parse}):\n{}Confusions ({parse}), a row a reference label, a column an answer:\n{}",
        grid(&lines),
        grid(&each),
        grid(&matrix)
    )
}

fn signatures(scored: &Scored, readings: &[Reading], kind: Kind) -> String {
    let of_texts = scored
        .texts
        .iter()
        .flat_map(|(_, tallies)| tallies)
        .filter(|tally| is_tally_shown(kind, tally));
    let tallies = of_texts
        .chain(&scored.failures)
        .map(|tally| (tally.name.clone(), tally.signature.clone()));
    let readings = readings
        .iter()
        .map(|reading| (reading.parse.to_owned(), reading.signature.clone()));
    // Metrics that were computed alike share a line.
    let mut lines: Vec<(Vec<String>, String)> = Vec::new();
    for (name, signature) in tallies.chain(readings) {
        match lines.iter_mut().find(|(_, known)| *known == signature) {
            Some((names, _)) => names.push(name),
            None => lines.push((vec![name], signature)),
        }
    }
    let lines = lines
        .into_iter()
        .map(|(names, signature)| format!("  {}\n    {signature}\n", names.join(", ")));
    format!("Signatures:\n{}", lines.collect::<String>())
}
