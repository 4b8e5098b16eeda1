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
use crate::metrics::Normaliser;
use crate::metrics::Tally;
use crate::metrics::TaskKind;
use crate::metrics::Texts;
use crate::metrics::alignment;
use crate::metrics::alignment::Aligned;
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
    /// Scores predictions of a task. Labels are read by the inventory, and compared as they are
    /// without one.
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
    let others = rows::read(path, settings.references.as_deref(), task)?;
    let others = versus::matched(rows, others, path)?;

    if task.kind == TaskKind::Classify {
        let inventory = inventory.unwrap_or(task);
        let ours = labels_tallied(rows, inventory, settings.parse)?;
        let theirs = labels_tallied(&others, inventory, settings.parse)?;
        return versus::compare(rows, &ours, &theirs);
    }

    let ours = shown_tallies(rows, scored, settings, task.kind);
    let theirs = shown_tallies(&others, scored, settings, task.kind);
    let mut versus = versus::compare(rows, &ours, &theirs)?;
    if task.kind == TaskKind::Transcribe {
        versus.mapsswe = versus::segments(rows, &others, scored.texts[0].0)?;
    }
    Ok(versus)
}

/// The tallies of texts that a table shows, under every normaliser.
fn shown_tallies(rows: &[Row], scored: &Scored, settings: &Settings, kind: TaskKind) -> Vec<Tally> {
    let normalisers = scored.texts.iter().map(|(normaliser, _)| *normaliser);
    normalisers
        .flat_map(|normaliser| texts_scored(rows, normaliser, settings, kind))
        .filter(|tally| is_tally_shown(kind, tally))
        .collect()
}

/// The tallies of answers that are to name a label of an inventory.
fn labels_tallied(rows: &[Row], task: &Task, parse: Parse) -> Result<Vec<Tally>> {
    let names = names_of(task);
    if names.is_empty() {
        return Err(Error::input(format!(
            "task `{}` has no inventory to read labels by",
            task.name
        ))
        .hint("add --labels FILE"));
    }

    let answers = answers_read(rows, task, parse);
    let due: Vec<&str> = rows.iter().map(|row| due_label(row, task)).collect();
    let pairs: Vec<(&str, Option<&str>)> = due
        .iter()
        .copied()
        .zip(answers.iter().map(Option::as_deref))
        .collect();
    Ok(classify::tallies(&pairs, Some(&names), parse.name())?.to_vec())
}

/// Names of the labels of an inventory.
fn names_of(task: &Task) -> Vec<&str> {
    let labels = task.labels.iter();
    labels.map(|label| label.name.as_str()).collect()
}

/// The label that a row's reference names, otherwise the reference as it stands.
fn due_label<'a>(row: &'a Row, task: &'a Task) -> &'a str {
    let reference = &row.references[0];
    task.label_of(reference)
        .map_or(reference, |label| &label.name)
}

/// The answers as labels of an inventory; `None` where one names no label.
fn answers_read(rows: &[Row], task: &Task, parse: Parse) -> Vec<Option<String>> {
    rows.iter()
        .map(|row| task.parse_answer(&row.prediction, parse))
        .collect()
}

fn texts_scored(
    rows: &[Row],
    normaliser: Normaliser,
    settings: &Settings,
    kind: TaskKind,
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

fn failures_scored(rows: &[Row], settings: &Settings, kind: TaskKind) -> Vec<Tally> {
    let mut found: Vec<Tally> = Vec::new();

    // Files that say nothing of how an answer came about cannot say that it ended by itself.
    let stopped: Option<Vec<bool>> = rows.iter().map(|row| row.hit_limit).collect();
    if let Some(stopped) = stopped {
        found.push(failures::hit_limit(&stopped));
    }

    if settings.has_all || kind != TaskKind::Classify {
        let texts = Texts::new(rows.iter().map(Row::pair).collect(), Normaliser::None);
        found.extend(failures::tallies(&texts));
    }
    found
}

/// Answers as labels, read strictly and leniently by an inventory, or as they are. Texts of several
/// references are no labels.
fn readings(
    rows: &[Row],
    inventory: Option<&Task>,
    place: impl Fn(&Row) -> String,
) -> Result<Vec<Reading>> {
    let Some(task) = inventory else {
        let has_several = rows.iter().any(|row| row.references.len() > 1);
        return match has_several {
            true => Ok(Vec::new()),
            false => Ok(vec![read_as_is(rows)?]),
        };
    };

    let due: Vec<&str> = rows
        .iter()
        .map(|row| label_in_inventory(row, task).map_err(|e| e.at(place(row))))
        .collect::<Result<_>>()?;
    [Parse::Strict, Parse::Lenient]
        .into_iter()
        .map(|parse| read_by_inventory(rows, &due, task, parse))
        .collect()
}

/// Answers and references compared as they are. Confusions are counted only among few different
/// texts.
fn read_as_is(rows: &[Row]) -> Result<Reading> {
    let pairs: Vec<(&str, Option<&str>)> = rows
        .iter()
        .map(|row| (row.references[0].as_str(), Some(row.prediction.as_str())))
        .collect();
    let mut seen: Vec<&str> = rows
        .iter()
        .flat_map(|row| [row.references[0].as_str(), row.prediction.as_str()])
        .collect();
    seen.sort_unstable();
    seen.dedup();

    let confusion = (seen.len() <= MAX_SEEN_LABELS)
        .then(|| Confusion::new(pairs.iter().copied(), &seen))
        .transpose()?;
    Ok(Reading {
        parse: "as-is",
        scores: metrics::classify(pairs, None)?,
        confusion,
        signature: classify::signature(None, "as-is").to_string(),
    })
}

/// The label of an inventory that a row's reference names.
fn label_in_inventory<'a>(row: &Row, task: &'a Task) -> Result<&'a str> {
    let reference = &row.references[0];
    let label = task.label_of(reference).ok_or_else(|| {
        Error::input(format!(
            "the reference label of row `{}`, `{reference}`, is not in the inventory",
            row.id
        ))
        .hint(format!("it has: {}", names_of(task).join(", ")))
    })?;
    Ok(&label.name)
}

/// Answers read by an inventory; `due` are the labels that they should name.
fn read_by_inventory(rows: &[Row], due: &[&str], task: &Task, parse: Parse) -> Result<Reading> {
    let names = names_of(task);
    let answers = answers_read(rows, task, parse);
    let answers = answers.iter().map(Option::as_deref);
    let pairs: Vec<(&str, Option<&str>)> = due.iter().copied().zip(answers).collect();

    Ok(Reading {
        parse: parse.name(),
        confusion: Some(Confusion::new(pairs.iter().copied(), &names)?),
        scores: metrics::classify(pairs, Some(&names))?,
        signature: classify::signature(Some(&names), parse.name()).to_string(),
    })
}

impl Scored {
    /// The reading that `--parse` asks for; the only one where there is no inventory.
    fn reading(&self, parse: Parse) -> Option<&Reading> {
        let mut readings = self.readings.iter();
        readings
            .find(|reading| reading.parse == parse.name())
            .or(self.readings.first())
    }

    /// Every score by its name, those of texts under the first normaliser; then what lies behind
    /// them.
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
            for reading in &self.readings {
                let scores = reading.scores.named();
                let scores = scores.map(|(name, score)| (name.to_owned(), Value::from(score)));
                object.insert(reading.parse.to_owned(), scores.into_iter().collect());
            }
        }

        object.insert("normalisers".into(), self.by_normaliser());
        object.insert("signatures".into(), Value::Object(signatures));
        Value::Object(object)
    }

    /// The scores of texts under each normaliser.
    fn by_normaliser(&self) -> Value {
        let mut found = Map::new();
        for (normaliser, tallies) in &self.texts {
            let scores: Map<String, Value> = tallies
                .iter()
                .map(|tally| (tally.metric().to_owned(), tally.corpus().into()))
                .collect();
            found.insert(normaliser.name().to_owned(), scores.into());
        }
        found.into()
    }
}

/// `labels`: each one's scores and counts; `predicted`: the distribution of answers; `confusion`:
/// counts, a row a reference label.
fn confusion_json(confusion: &Confusion) -> [(String, Value); 3] {
    let mut labels = Map::new();
    for (name, seen) in confusion.labels.iter().zip(confusion.seen()) {
        let scores = json!({
            "precision": seen.precision(),
            "recall": seen.recall(),
            "f1": seen.f1(),
            "references": seen.references,
            "predictions": seen.predictions,
        });
        labels.insert(name.clone(), scores);
    }

    let labels_seen = confusion.labels.iter().map(String::as_str);
    let columns: Vec<&str> = labels_seen.chain([classify::UNPARSED]).collect();
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

/// Writes every row's alignment of words under a normaliser, as three lines of text or as one
/// object a line.
fn write_alignments(path: &Path, rows: &[Row], normaliser: Normaliser) -> Result<()> {
    let as_json = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
    let texts = Texts::new(rows.iter().map(Row::pair).collect(), normaliser);

    let mut written = String::new();
    for (row, pair) in rows.iter().zip(texts.pairs()) {
        let alignment = alignment::align_pair(pair);
        written += &match as_json {
            true => format!("{}\n", alignment_json(&row.id, &alignment)),
            false => alignment_text(&row.id, &alignment),
        };
    }
    files::write_atomic(path, written.as_bytes())
}

fn alignment_json(id: &str, alignment: &[Aligned]) -> Value {
    let counts = alignment::counts(alignment);
    let words: Vec<Value> = alignment
        .iter()
        .map(|word| json!([word.mark(), word.reference(), word.prediction()]))
        .collect();
    json!({
        "id": id,
        "wer": counts.rate(),
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "words": counts.reference_len,
        "alignment": words,
    })
}

fn alignment_text(id: &str, alignment: &[Aligned]) -> String {
    let counts = alignment::counts(alignment);
    format!(
        "{id}: {:.1} % ({} substituted, {} deleted, {} inserted, {} words)\n{}\n",
        100.0 * counts.rate(),
        counts.substitutions,
        counts.deletions,
        counts.insertions,
        counts.reference_len,
        alignment::render(alignment, ALIGNMENT_WIDTH)
    )
}
