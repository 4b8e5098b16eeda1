//! Scores of predictions against their references, whoever made them.

pub mod labels;
pub mod rows;
pub mod scored;
mod table;
pub mod versus;

use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::error::Error;
use crate::error::Result;
use crate::eval::scoring::rows::Row;
use crate::eval::scoring::scored::Reading;
use crate::eval::scoring::scored::Scored;
use crate::eval::scoring::scored::is_shown;
use crate::eval::scoring::scored::is_tally_shown;
use crate::eval::scoring::versus::Versus;
use crate::files;
use crate::metrics;
use crate::metrics::Confusion;
use crate::metrics::Counts;
use crate::metrics::Kind;
use crate::metrics::Normaliser;
use crate::metrics::Tally;
use crate::metrics::Texts;
use crate::metrics::alignment;
use crate::metrics::bleu::Tokeniser;
use crate::metrics::classify;
use crate::metrics::failures;
use crate::metrics::rouge::Fold;
use crate::task::Parse;
use crate::task::Task;

/// Columns of a text of alignments.
const ALIGNMENT_WIDTH: usize = 110;
/// Most labels, where none are listed, whose confusion is counted: beyond, answers are open texts.
const MAX_SEEN_LABELS: usize = 50;

/// How predictions are read and scored.
pub struct Settings {
    /// File of references, where the predictions do not have them.
    pub references: Option<PathBuf>,
    /// Normalisations of texts, for scores side by side; one at least.
    pub normalisers: Vec<Normaliser>,
    /// How labels are read from answers.
    pub parse: Parse,
    /// Folding of texts before ROUGE.
    pub fold: Fold,
    /// Tokeniser of BLEU.
    pub tokeniser: Tokeniser,
    /// Whether metrics are computed that a table does not show.
    pub has_all: bool,
}

/// Scores of a file of predictions.
pub struct Scoring<'a> {
    settings: &'a Settings,
    task: &'a Task,
    inventory: Option<&'a Task>,
    rows: Vec<Row>,
    scored: Scored,
}

impl<'a> Scoring<'a> {
    /// Scores predictions of a task. Labels are read by the inventory, and compared as they are without one.
    ///
    /// # Errors
    /// As [`rows::read`]; a reference label that the inventory does not have.
    pub fn new(
        predictions: &Path,
        task: &'a Task,
        inventory: Option<&'a Task>,
        settings: &'a Settings,
    ) -> Result<Self> {
        let rows = rows::read(predictions, settings.references.as_deref(), task)?;
        let place = |row: &Row| match &settings.references {
            Some(path) => path.display().to_string(),
            None => format!("{}:{}", predictions.display(), row.line),
        };
        let of_texts = |&normaliser: &Normaliser| {
            let tallies = texts_scored(&rows, normaliser, settings, task.kind);
            (normaliser, tallies)
        };
        let scored = Scored {
            texts: settings.normalisers.iter().map(of_texts).collect(),
            failures: failures_scored(&rows, settings, task.kind),
            readings: readings(&rows, inventory, place)?,
        };
        Ok(Self {
            settings,
            task,
            inventory,
            rows,
            scored,
        })
    }

    /// Writes the alignment of each row, as JSON lines if the file's name ends in .jsonl.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_alignments(&self, path: &Path) -> Result<()> {
        write_alignments(path, &self.rows, self.settings.normalisers[0])
    }

    /// Compares the scores with those of another file's predictions, tested in pairs.
    ///
    /// # Errors
    /// A file of other rows.
    pub fn against(&self, path: &Path) -> Result<Versus> {
        versus(
            path,
            self.task,
            self.inventory,
            &self.rows,
            &self.scored,
            self.settings,
        )
    }

    /// Returns every score by its name, and what lies behind them.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn json(&self, versus: Option<&Versus>) -> Result<Value> {
        let mut object = self.scored.to_json(
            self.task,
            &self.rows,
            self.settings,
            self.inventory.is_some(),
        );
        if let (Some(versus), Some(object)) = (versus, object.as_object_mut()) {
            object.insert(
                "against".into(),
                serde_json::to_value(versus).map_err(Error::bug_from)?,
            );
        }
        Ok(object)
    }

    /// Returns the tables to read.
    pub fn text(&self, versus: Option<&Versus>) -> String {
        let versus = versus.map_or_else(String::new, Versus::render);
        table::render(self.task, &self.rows, &self.scored) + &versus
    }
}

/// The scores beside those of another file, tested in pairs.
fn versus(
    path: &Path,
    task: &Task,
    inventory: Option<&Task>,
    rows: &[Row],
    scored: &Scored,
    settings: &Settings,
) -> Result<Versus> {
    let others = versus::matched(
        rows,
        rows::read(path, settings.references.as_deref(), task)?,
        path,
    )?;
    if task.kind == Kind::Classify {
        let of_file =
            |rows: &[Row]| labels_tallied(rows, inventory.unwrap_or(task), settings.parse);
        return versus::compare(rows, &of_file(rows)?, &of_file(&others)?);
    }
    let of_file = |rows: &[Row]| -> Vec<Tally> {
        let shown = scored
            .texts
            .iter()
            .flat_map(|(normaliser, _)| texts_scored(rows, *normaliser, settings, task.kind));
        shown
            .filter(|tally| is_tally_shown(task.kind, tally))
            .collect()
    };
    let mut versus = versus::compare(rows, &of_file(rows), &of_file(&others))?;
    if task.kind == Kind::Transcribe {
        versus.mapsswe = versus::segments(rows, &others, scored.texts[0].0)?;
    }
    Ok(versus)
}

/// The tallies of answers that are to name a label of an inventory.
fn labels_tallied(rows: &[Row], task: &Task, parse: Parse) -> Result<Vec<Tally>> {
    let (name, mode) = if parse == Parse::Strict {
        ("strict", Parse::Strict)
    } else {
        ("lenient", Parse::Lenient)
    };
    let names: Vec<&str> = task
        .labels
        .iter()
        .map(|label| label.name.as_str())
        .collect();
    if names.is_empty() {
        return Err(Error::input(format!(
            "task `{}` has no inventory to read labels by",
            task.name
        ))
        .hint("add --labels FILE"));
    }
    let answers: Vec<Option<String>> = rows
        .iter()
        .map(|row| task.parse_answer(&row.prediction, mode))
        .collect();
    let due = |row: &Row| {
        task.label_of(&row.references[0])
            .map_or_else(|| row.references[0].clone(), |label| label.name.clone())
    };
    let due: Vec<String> = rows.iter().map(due).collect();
    let pairs: Vec<(&str, Option<&str>)> = due
        .iter()
        .zip(&answers)
        .map(|(due, answer)| (due.as_str(), answer.as_deref()))
        .collect();
    Ok(classify::tallies(&pairs, Some(&names), name)?.to_vec())
}

fn texts_scored(
    rows: &[Row],
    normaliser: Normaliser,
    settings: &Settings,
    kind: Kind,
) -> Vec<Tally> {
    let of_metrics = metrics::Settings {
        fold: settings.fold,
        tokeniser: settings.tokeniser,
    };
    let texts = Texts::new(rows.iter().map(Row::pair).collect(), normaliser);
    metrics::of_texts(&texts, of_metrics, |metric| {
        metric.is_normalised() && (settings.has_all || is_shown(kind, metric))
    })
}

fn failures_scored(rows: &[Row], settings: &Settings, kind: Kind) -> Vec<Tally> {
    let mut found: Vec<Tally> = Vec::new();
    // Files that say nothing of how an answer came about cannot say that it ended by itself.
    if let Some(stopped) = rows
        .iter()
        .map(|row| row.hit_limit)
        .collect::<Option<Vec<bool>>>()
    {
        found.push(failures::hit_limit(&stopped));
    }
    if settings.has_all || kind != Kind::Classify {
        found.extend(failures::tallies(&Texts::new(
            rows.iter().map(Row::pair).collect(),
            Normaliser::None,
        )));
    }
    found
}

/// Answers as labels, read strictly and leniently by an inventory, or as they are. Texts of several references are no labels.
fn readings(
    rows: &[Row],
    inventory: Option<&Task>,
    place: impl Fn(&Row) -> String,
) -> Result<Vec<Reading>> {
    let Some(task) = inventory else {
        if rows.iter().any(|row| row.references.len() > 1) {
            return Ok(Vec::new());
        }
        let pairs: Vec<(&str, Option<&str>)> = rows
            .iter()
            .map(|row| (row.references[0].as_str(), Some(row.prediction.as_str())))
            .collect();
        let mut seen: Vec<&str> = pairs
            .iter()
            .flat_map(|(reference, predicted)| [Some(*reference), *predicted])
            .flatten()
            .collect();
        seen.sort_unstable();
        seen.dedup();
        let confusion = (seen.len() <= MAX_SEEN_LABELS)
            .then(|| Confusion::new(pairs.iter().copied(), &seen))
            .transpose()?;
        let scores = metrics::classify(pairs, None)?;
        return Ok(vec![Reading {
            parse: "as-is",
            scores,
            confusion,
            signature: classify::signature(None, "as-is").to_string(),
        }]);
    };
    let names: Vec<&str> = task
        .labels
        .iter()
        .map(|label| label.name.as_str())
        .collect();
    let due = rows.iter().map(|row| {
        let reference = &row.references[0];
        task.label_of(reference)
            .map(|label| label.name.as_str())
            .ok_or_else(|| {
                let found = Error::input(format!(
                    "the reference label of row `{}`, `{reference}`, is not in the inventory",
                    row.id
                ));
                found
                    .at(place(row))
                    .hint(format!("it has: {}", names.join(", ")))
            })
    });
    let due: Vec<&str> = due.collect::<Result<_>>()?;
    let read = |(parse, mode)| {
        let answers: Vec<Option<String>> = rows
            .iter()
            .map(|row| task.parse_answer(&row.prediction, mode))
            .collect();
        let pairs = || {
            due.iter()
                .copied()
                .zip(answers.iter().map(Option::as_deref))
        };
        let signature = classify::signature(Some(&names), parse).to_string();
        Ok(Reading {
            parse,
            scores: metrics::classify(pairs(), Some(&names))?,
            confusion: Some(Confusion::new(pairs(), &names)?),
            signature,
        })
    };
    [("strict", Parse::Strict), ("lenient", Parse::Lenient)]
        .into_iter()
        .map(read)
        .collect()
}

impl Scored {
    /// The reading that `--parse` asks for; the only one where there is no inventory.
    fn reading(&self, parse: Parse) -> Option<&Reading> {
        let name = if parse == Parse::Strict {
            "strict"
        } else {
            "lenient"
        };
        self.readings
            .iter()
            .find(|reading| reading.parse == name)
            .or(self.readings.first())
    }

    /// Every score by its name, those of texts under the first normaliser; then what lies behind them.
    fn to_json(
        &self,
        task: &Task,
        rows: &[Row],
        settings: &Settings,
        has_inventory: bool,
    ) -> Value {
        let mut object = Map::new();
        let mut signatures = Map::new();
        object.insert("task".into(), task.name.clone().into());
        object.insert("rows".into(), rows.len().into());
        for tally in self.texts[0].1.iter().chain(&self.failures) {
            object.insert(tally.metric().to_owned(), tally.corpus().into());
            signatures.insert(tally.metric().to_owned(), tally.signature.clone().into());
        }
        if let Some(reading) = self.reading(settings.parse) {
            for (name, score) in reading.scores.named() {
                object.insert(name.to_owned(), score.into());
                signatures.insert(name.to_owned(), reading.signature.clone().into());
            }
            object.insert("parse".into(), reading.parse.into());
            object.extend(reading.confusion.iter().flat_map(confusion_json));
        }
        if has_inventory {
            object.extend(self.readings.iter().map(|reading| {
                (
                    reading.parse.to_owned(),
                    reading
                        .scores
                        .named()
                        .map(|(name, score)| (name.to_owned(), Value::from(score)))
                        .into_iter()
                        .collect(),
                )
            }));
        }
        let by_normaliser = |(normaliser, tallies): &(Normaliser, Vec<Tally>)| {
            let scores: Map<String, Value> = tallies
                .iter()
                .map(|tally| (tally.metric().to_owned(), tally.corpus().into()))
                .collect();
            (normaliser.name().to_owned(), Value::Object(scores))
        };
        object.insert(
            "normalisers".into(),
            Value::Object(self.texts.iter().map(by_normaliser).collect()),
        );
        object.insert("signatures".into(), Value::Object(signatures));
        Value::Object(object)
    }
}

/// `labels`: each one's scores and counts; `predicted`: the distribution of answers; `confusion`: counts, a row a reference label.
fn confusion_json(confusion: &Confusion) -> [(String, Value); 3] {
    let columns: Vec<&str> = confusion
        .labels
        .iter()
        .map(String::as_str)
        .chain([classify::UNPARSED])
        .collect();
    let label = |(name, seen): (&String, classify::Seen)| {
        let scores = json!({"precision": seen.precision(), "recall": seen.recall(), "f1": seen.f1(), "references": seen.references, "predictions": seen.predictions});
        (name.clone(), scores)
    };
    let labels: Map<String, Value> = confusion
        .labels
        .iter()
        .zip(confusion.seen())
        .map(label)
        .collect();
    let predicted: Map<String, Value> = columns
        .iter()
        .zip(confusion.predicted())
        .map(|(name, count)| ((*name).to_owned(), count.into()))
        .collect();
    let matrix =
        json!({"references": confusion.labels, "answers": columns, "counts": confusion.counts});
    [
        ("labels".to_owned(), Value::Object(labels)),
        ("predicted".to_owned(), Value::Object(predicted)),
        ("confusion".to_owned(), matrix),
    ]
}

/// Writes every row's alignment of words under a normaliser, as three lines of text or as one object a line.
fn write_alignments(path: &Path, rows: &[Row], normaliser: Normaliser) -> Result<()> {
    let as_json = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
    let texts = Texts::new(rows.iter().map(Row::pair).collect(), normaliser);
    let mut written = String::new();
    for (row, pair) in rows.iter().zip(texts.pairs()) {
        let alignment = alignment::align_pair(pair);
        let counts = alignment::counts(&alignment);
        if as_json {
            let words: Vec<Value> = alignment
                .iter()
                .map(|word| json!([word.mark(), word.reference(), word.prediction()]))
                .collect();
            let Counts {
                substitutions,
                deletions,
                insertions,
                reference_len,
            } = counts;
            let line = json!({"id": row.id, "wer": counts.rate(), "substitutions": substitutions, "deletions": deletions, "insertions": insertions,
                "words": reference_len, "alignment": words});
            written += &format!("{line}\n");
        } else {
            let Counts {
                substitutions: s,
                deletions: d,
                insertions: i,
                reference_len,
            } = counts;
            let head = format!(
                "{}: {:.1} % ({s} substituted, {d} deleted, {i} inserted, {reference_len} words)\n",
                row.id,
                100.0 * counts.rate()
            );
            written += &format!("{head}{}\n", alignment::render(&alignment, ALIGNMENT_WIDTH));
        }
    }
    files::write_atomic(path, written.as_bytes())
}
