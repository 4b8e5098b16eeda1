//! `maqam data check`.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use clap::ValueEnum;
use serde_json::json;

use crate::cli::data::rows::SourceArguments;
use crate::cli::data::rows::copied_row;
use crate::cli::data::rows::folder_of;
use crate::cli::interrupt::check_stop;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::data::Streamed;
use crate::data::check;
use crate::data::check::Check;
use crate::data::check::Finding;
use crate::data::check::Kind;
use crate::data::check::Known;
use crate::data::check::Placed;
use crate::data::check::Severity;
use crate::data::near_duplicates;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Draft;
use crate::stop::Stop;
use crate::task::Tasks;

/// Rows whose audio is examined together.
const CHUNK: usize = 256;

/// Findings of one kind that the table shows.
const SHOWN: usize = 3;

/// File that keeps what was found in audio.
const STATE: &str = "runs/.check/audio.jsonl";

#[derive(Args)]
pub struct Arguments {
    /// Manifests of one data set. Each is a split of its own, unless its rows have a `split`.
    #[arg(required = true)]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    source: SourceArguments,
    /// Read headers of audio only: damage inside, silence, clipping and equal audio are not found.
    #[arg(long)]
    no_decode: bool,
    /// Write all findings as a JSON list; as JSON lines if the name ends in .jsonl.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What to do about rows with errors: drop writes the others to --out.
    #[arg(long, value_enum, requires = "out")]
    fix: Option<Fix>,
    /// Manifest of the rows without errors, JSON lines.
    #[arg(long, requires = "fix", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Task of rows that name none.
    #[arg(long)]
    task: Option<String>,
    /// Folder of task files that add to or override the built-in ones.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Fewest letters of a transcript per second of audio.
    #[arg(long, default_value_t = 1.0, value_name = "RATE")]
    min_rate: f64,
    /// Most letters of a transcript per second of audio.
    #[arg(long, default_value_t = 30.0, value_name = "RATE")]
    max_rate: f64,
    /// Share of their character 5-grams from which two texts are near-duplicates (Jaccard index).
    #[arg(long, default_value_t = near_duplicates::DEFAULT_THRESHOLD, value_name = "SHARE")]
    similarity: f64,
    /// File that keeps what was found in audio, so that a check goes on where it was stopped.
    #[arg(long, default_value = STATE, value_name = "FILE")]
    state: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fix {
    Drop,
}

/// Findings as they come: counted, shown in part, written.
#[derive(Default)]
struct Findings {
    counts: BTreeMap<Kind, usize>,
    shown: BTreeMap<Kind, Vec<Finding>>,
    /// Rows with an error, by the hash of their place.
    dropped: HashSet<u64>,
    json: Option<Json>,
}

/// The file of all findings.
struct Json {
    draft: Draft,
    is_list: bool,
    is_first: bool,
}

impl Json {
    fn new(path: &Path) -> Result<Self> {
        let is_list = path.extension().is_none_or(|ending| ending != "jsonl");
        let mut draft = Draft::new(path)?;
        if is_list {
            draft.append(b"[")?;
        }
        Ok(Self {
            draft,
            is_list,
            is_first: true,
        })
    }

    fn add(&mut self, finding: &Finding) -> Result<()> {
        let value = json!({
            "file": finding.file.display().to_string(),
            "line": finding.line,
            "id": &*finding.id,
            "kind": finding.kind.name(),
            "severity": finding.kind.severity().name(),
            "message": finding.message,
        });
        let before = match (self.is_list, std::mem::take(&mut self.is_first)) {
            (true, true) => "\n",
            (true, false) => ",\n",
            (false, _) => "",
        };
        let after = if self.is_list { "" } else { "\n" };
        self.draft
            .append(format!("{before}{value}{after}").as_bytes())
    }

    fn finish(mut self) -> Result<()> {
        if self.is_list {
            self.draft.append(b"\n]\n")?;
        }
        self.draft.commit()
    }
}

impl Findings {
    fn add(&mut self, finding: Finding) -> Result<()> {
        *self.counts.entry(finding.kind).or_default() += 1;
        if let Some(json) = &mut self.json {
            json.add(&finding)?;
        }
        if finding.kind.severity() == Severity::Error {
            self.dropped.insert(place(&finding.file, finding.line));
        }
        let shown = self.shown.entry(finding.kind).or_default();
        if shown.len() < SHOWN {
            shown.push(finding);
        }
        Ok(())
    }

    fn count(&self, severity: Severity) -> usize {
        let of = |(kind, _): &(&Kind, &usize)| kind.severity() == severity;
        self.counts.iter().filter(of).map(|(_, count)| count).sum()
    }

    /// The table: a line for each kind, and the first findings of it below.
    fn table(&self) -> String {
        let mut text = String::new();
        for severity in [Severity::Error, Severity::Warning] {
            for (kind, count) in self
                .counts
                .iter()
                .filter(|(kind, _)| kind.severity() == severity)
            {
                text += &format!("{:<8} {:<20} {count:>8}\n", severity.name(), kind.name());
                for finding in &self.shown[kind] {
                    let place = format!("{}:{}", finding.file.display(), finding.line);
                    text += &format!("  {place}: {}\n", finding.message);
                }
                if *count > SHOWN {
                    text += &format!("  and {} more\n", count - SHOWN);
                }
            }
        }
        text
    }
}

fn place(file: &Path, line: u32) -> u64 {
    let mut bytes = file.as_os_str().as_encoded_bytes().to_vec();
    bytes.extend(line.to_le_bytes());
    near_duplicates::key_of(&bytes) as u64
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    for path in [&arguments.json, &arguments.out].into_iter().flatten() {
        files::expect_writable(path)?;
    }
    let tasks = Tasks::load(arguments.prompts.as_deref())?;
    if let Some(name) = &arguments.task {
        tasks.get(name).map_err(|e| e.at("--task"))?;
    }
    let known = match arguments.no_decode {
        true => Known::default(),
        false => Known::open(&arguments.state)?,
    };
    if !known.is_empty() {
        print::message(format_args!(
            "note: {} holds what was found in {} clips before; remove it to decode them again",
            arguments.state.display(),
            known.len()
        ));
    }
    let settings = check::Settings {
        tasks: &tasks,
        task: arguments.task.as_deref(),
        decode: !arguments.no_decode,
        letters_per_s: arguments.rates()?,
        similarity: arguments.similarity()?,
    };
    let mut findings = Findings {
        json: arguments.json.as_deref().map(Json::new).transpose()?,
        ..Findings::default()
    };
    let mut check = Check::new(settings, &known);
    let outcome = arguments.read(&mut check, &mut findings, stop);
    // What was found until here is kept, whatever stopped the check.
    known.write()?;
    outcome?;
    let num_rows = check.num_rows();
    check.finish(&mut |finding| findings.add(finding))?;

    if let Some(json) = findings.json.take() {
        json.finish()?;
    }
    print::result(findings.table())?;
    let (errors, warnings) = (
        findings.count(Severity::Error),
        findings.count(Severity::Warning),
    );
    print::line(format_args!(
        "{num_rows} rows: {errors} errors, {warnings} warnings"
    ))?;
    if let Some(out) = &arguments.out {
        let num_kept = arguments.write_kept(out, &findings, stop)?;
        print::line(format_args!(
            "{num_kept} rows without errors in {}",
            out.display()
        ))?;
        return Ok(());
    }
    match errors {
        0 => Ok(()),
        _ => {
            let error = Error::input(format!("{errors} errors in {num_rows} rows"));
            Err(error.hint("correct these rows, or leave them out: --fix drop --out FILE"))
        }
    }
}

impl Arguments {
    fn rates(&self) -> Result<RangeInclusive<f64>> {
        match self.min_rate >= 0.0 && self.max_rate > self.min_rate {
            true => Ok(self.min_rate..=self.max_rate),
            false => Err(Error::input(format!(
                "--min-rate is {}, --max-rate {}",
                self.min_rate, self.max_rate
            ))
            .hint("give letters per second of audio, the smaller number first")),
        }
    }

    fn similarity(&self) -> Result<f64> {
        match self.similarity > 0.0 && self.similarity <= 1.0 {
            true => Ok(self.similarity),
            false => Err(Error::input(format!("--similarity is {}", self.similarity))
                .hint("give a share above 0 and up to 1, such as 0.8")),
        }
    }

    /// Feeds all rows to the check, chunk by chunk.
    fn read(&self, check: &mut Check<'_>, findings: &mut Findings, stop: &Stop) -> Result<()> {
        let total = self.source.num_rows(&self.manifests);
        let mut progress = Progress::new("rows", 0, total);
        let mut chunk: Vec<Placed> = Vec::with_capacity(CHUNK);
        for manifest in &self.manifests {
            let split: Arc<str> = manifest
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into();
            let source = self.source.of(manifest)?;
            let notes = source.stream(&mut |streamed| {
                let Streamed { file, line, row } = streamed;
                match row {
                    Ok(row) => chunk.push(Placed {
                        row,
                        file,
                        line,
                        split: split.clone(),
                    }),
                    Err(bad) => {
                        check.bad_row(&file, line, bad.id, &bad.error, &mut |f| findings.add(f))?;
                    }
                }
                if chunk.len() == CHUNK {
                    check_stop(stop)?;
                    check.rows(&chunk, &mut |finding| findings.add(finding))?;
                    chunk.clear();
                    progress.update(check.num_rows(), "");
                }
                Ok(())
            })?;
            for note in notes {
                progress.line(&format!("note: {note}"));
            }
        }
        check.rows(&chunk, &mut |finding| findings.add(finding))?;
        progress.update(check.num_rows(), "");
        progress.clear();
        Ok(())
    }

    /// Writes the rows without errors; returns how many.
    fn write_kept(&self, out: &Path, findings: &Findings, stop: &Stop) -> Result<u64> {
        let folder = folder_of(out);
        let mut draft = Draft::new(out)?;
        let mut num_kept = 0;
        for manifest in &self.manifests {
            self.source.of(manifest)?.stream(&mut |streamed| {
                check_stop(stop)?;
                let Streamed { file, line, row } = streamed;
                if let Ok(row) = row
                    && !findings.dropped.contains(&place(&file, line))
                {
                    draft.append(
                        &copied_row(&row, folder)
                            .map_err(|e| e.at(format!("{}:{line}", file.display())))?,
                    )?;
                    num_kept += 1;
                }
                Ok(())
            })?;
        }
        draft.commit()?;
        Ok(num_kept)
    }
}
