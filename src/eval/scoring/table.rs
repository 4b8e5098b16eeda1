//! The scores of predictions as tables to read.

use crate::eval::scoring::rows::Row;
use crate::eval::scoring::scored::Reading;
use crate::eval::scoring::scored::Scored;
use crate::eval::scoring::scored::is_tally_shown;
use crate::metrics::Confusion;
use crate::metrics::Definition;
use crate::metrics::Place;
use crate::metrics::Scale;
use crate::metrics::Tally;
use crate::metrics::TaskKind;
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
    let readings: &[Reading] = if task.kind == TaskKind::Classify {
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

/// A score as it is usually written: 0 to 100 for chrF and BLEU, a factor for a ratio, percent for
/// everything else.
fn shown(tally: &Tally) -> String {
    match Definition::find(tally.metric()).map(|metric| metric.scale) {
        Some(Scale::Points | Scale::Plain) => format!("{:.2}", tally.corpus()),
        Some(Scale::Share) | None => percent(tally.corpus()),
    }
}

/// The metrics of texts, one column a normaliser, and the failures below.
fn texts(scored: &Scored, kind: TaskKind) -> String {
    let mut text = String::new();

    let columns: Vec<Vec<&Tally>> = scored
        .texts
        .iter()
        .map(|(_, tallies)| shown_tallies(tallies, kind))
        .collect();
    // A normaliser may leave a script without words, so metrics are matched by name.
    let mut metrics: Vec<&str> = Vec::new();
    for tally in columns.iter().flatten() {
        if !metrics.contains(&tally.metric()) {
            metrics.push(tally.metric());
        }
    }

    if !metrics.is_empty() {
        let normalisers = scored.texts.iter();
        let normalisers = normalisers.map(|(normaliser, _)| normaliser.to_string());
        let mut lines = vec![std::iter::once(String::new()).chain(normalisers).collect()];
        lines.extend(metrics.iter().map(|metric| metric_line(metric, &columns)));
        text += &grid(&lines);
    }

    if !scored.failures.is_empty() {
        let failures = scored.failures.iter();
        let lines: Vec<_> = failures
            .map(|tally| vec![tally.name.clone(), shown(tally)])
            .collect();
        text += &grid(&lines);
    }
    text
}

fn shown_tallies(tallies: &[Tally], kind: TaskKind) -> Vec<&Tally> {
    let tallies = tallies.iter();
    tallies
        .filter(|tally| is_tally_shown(kind, tally))
        .collect()
}

/// Name of a metric, indented where it is a part of another, and its score in each column.
fn metric_line(metric: &str, columns: &[Vec<&Tally>]) -> Vec<String> {
    let is_part = Definition::find(metric).is_some_and(|known| known.place == Place::Part);
    let name = match is_part {
        true => format!("  {metric}"),
        false => metric.to_owned(),
    };

    let mut line = vec![name];
    for tallies in columns {
        let found = tallies.iter().find(|tally| tally.metric() == metric);
        line.push(found.map_or_else(|| "-".to_owned(), |tally| shown(tally)));
    }
    line
}

/// Scores under each reading, then each label and the confusions of the last.
fn labels(readings: &[Reading]) -> String {
    let Some(last) = readings.last() else {
        return String::new();
    };
    let scores = grid(&reading_lines(readings, last));
    let Some(confusion) = &last.confusion else {
        return scores;
    };
    let parse = last.parse;
    format!(
        "{scores}Each label ({parse}):\n{}Confusions ({parse}), a row a reference label, a column an answer:\n{}",
        grid(&label_lines(confusion)),
        grid(&confusion_lines(confusion))
    )
}

/// Scores under each reading, and the number of answers that name no label.
fn reading_lines(readings: &[Reading], last: &Reading) -> Vec<Vec<String>> {
    let names = readings.iter().map(|reading| reading.parse.to_owned());
    let mut lines = vec![std::iter::once(String::new()).chain(names).collect()];

    for (i, (name, _)) in last.scores.named().into_iter().enumerate() {
        let mut line = vec![name.to_owned()];
        let scores = readings.iter().map(|reading| reading.scores.named()[i].1);
        line.extend(scores.map(percent));
        lines.push(line);
    }

    if last.parse != "as-is" {
        let mut line = vec![UNPARSED.to_owned()];
        line.extend(readings.iter().map(num_unparsed));
        lines.push(line);
    }
    lines
}

fn num_unparsed(reading: &Reading) -> String {
    reading.confusion.as_ref().map_or_else(
        || "-".to_owned(),
        |found| found.predicted().last().unwrap_or(&0).to_string(),
    )
}

/// Counts and scores of each label.
fn label_lines(confusion: &Confusion) -> Vec<Vec<String>> {
    let head = [
        "label",
        "references",
        "answers",
        "precision",
        "recall",
        "f1",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for (name, seen) in confusion.labels.iter().zip(confusion.seen()) {
        let mut line = vec![name.clone()];
        line.extend([seen.references, seen.predictions].map(|count| count.to_string()));
        line.extend([seen.precision(), seen.recall(), seen.f1()].map(percent));
        lines.push(line);
    }
    lines
}

/// Number of answers by label, a row a reference label.
fn confusion_lines(confusion: &Confusion) -> Vec<Vec<String>> {
    let mut head = vec![String::new()];
    head.extend(confusion.labels.iter().cloned());
    head.push(UNPARSED.to_owned());

    let mut lines = vec![head];
    for (name, counts) in confusion.labels.iter().zip(&confusion.counts) {
        let mut line = vec![name.clone()];
        line.extend(counts.iter().map(u64::to_string));
        lines.push(line);
    }
    lines
}

fn signatures(scored: &Scored, readings: &[Reading], kind: TaskKind) -> String {
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
