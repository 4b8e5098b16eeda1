//! `maqam data stats`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::data::rows::SourceArguments;
use crate::cli::interrupt::check_stop;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::data::Role;
use crate::data::Row;
use crate::data::arabic;
use crate::data::describe::Count;
use crate::data::describe::Description;
use crate::data::describe::Distribution;
use crate::data::describe::Facts;
use crate::data::describe::Stats;
use crate::data::describe::TokenCounter;
use crate::data::glance;
use crate::data::glance::Glance;
use crate::data::glance::Seen;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::report::data_set;
use crate::stop::Stop;

/// Values of a field that the table shows.
const MOST_SHOWN: usize = 12;

#[derive(Args)]
pub struct Arguments {
    /// Manifests of one data set.
    #[arg(required = true)]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    source: SourceArguments,
    /// Write the numbers as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with figures.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Count the tokens of targets with this tokenizer: tokenizer.json, or a checkpoint's folder.
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    for path in [&arguments.json, &arguments.html].into_iter().flatten() {
        files::expect_writable(path)?;
    }
    let counter = arguments
        .tokenizer
        .as_deref()
        .map(TokenCounter::open)
        .transpose()?;
    let mut description = Description::default();
    let mut num_bad = 0;
    for manifest in &arguments.manifests {
        num_bad += arguments.read(manifest, counter.as_ref(), &mut description, stop)?;
    }
    let stats = description.finish();
    if stats.rows == 0 {
        return Err(Error::input("no row can be read").hint("`maqam data check` says why"));
    }

    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&stats).map_err(Error::bug_from)?;
        files::write_atomic(path, format!("{text}\n").as_bytes())?;
    }
    if let Some(path) = &arguments.html {
        files::write_atomic(
            path,
            data_set::page(&stats, &arguments.name()).html().as_bytes(),
        )?;
    }
    print::result(table(&stats))?;
    if num_bad > 0 {
        print::message(format_args!(
            "note: {num_bad} rows cannot be read and are not counted; `maqam data check` says why"
        ));
    }
    Ok(())
}

impl Arguments {
    /// Names of the manifests, for the page.
    fn name(&self) -> String {
        let names: Vec<String> = self
            .manifests
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        names.join(", ")
    }

    /// Counts the rows of a manifest; returns how many cannot be read.
    fn read(
        &self,
        manifest: &Path,
        counter: Option<&TokenCounter>,
        description: &mut Description,
        stop: &Stop,
    ) -> Result<u64> {
        if self.source.is_plain() && self.glance(manifest, counter, description, stop)? {
            return Ok(0);
        }
        let mut progress = Progress::new("rows", 0, self.source.num_rows(&[manifest.to_owned()]));
        let mut done = 0;
        let mut num_bad = 0;
        let notes = self.source.of(manifest)?.stream(&mut |streamed| {
            done += 1;
            if done % 1024 == 0 {
                check_stop(stop)?;
                progress.update(done, "");
            }
            match streamed.row {
                Ok(row) => {
                    let extra = row.extra_fields();
                    let normalisation = extra.get(arabic::FIELD).and_then(|value| value.as_str());
                    description.add(&facts_of_row(&row, normalisation, counter)?);
                }
                Err(_) => num_bad += 1,
            }
            Ok(())
        })?;
        progress.clear();
        for note in notes {
            print::message(format_args!("note: {note}"));
        }
        Ok(num_bad)
    }

    /// Counts the rows of a simple file in parallel; returns whether it was one.
    fn glance(
        &self,
        manifest: &Path,
        counter: Option<&TokenCounter>,
        description: &mut Description,
        stop: &Stop,
    ) -> Result<bool> {
        let wanted = [];
        let mut whole = Description::default();
        let look = |rows: &[(u32, &[u8], Glance<'_>)]| -> Result<Description> {
            let mut part = Description::default();
            for (_, _, glance) in rows {
                part.add(&facts_of_glance(glance, counter)?);
            }
            Ok(part)
        };
        let seen = glance::at_lines(manifest, &wanted, look, |part| {
            check_stop(stop)?;
            whole.merge(part?);
            Ok(())
        })?;
        if seen == Seen::Whole {
            description.merge(whole);
        }
        Ok(seen == Seen::Whole)
    }
}

fn facts_of_glance<'a>(
    glance: &'a Glance<'_>,
    counter: Option<&TokenCounter>,
) -> Result<Facts<'a>> {
    let texts = Texts {
        own: glance.target.as_deref(),
        text: glance.text.as_deref(),
        summary: glance.summary.as_deref(),
        label: glance.label.as_deref(),
    };
    let (target, is_transcript) = texts.target(glance.task.as_deref());
    Ok(Facts {
        seconds: glance.duration,
        num_clips: usize::from(glance.audio.is_some()),
        split: glance.split.as_deref(),
        task: glance.task.as_deref(),
        language: glance.language.as_deref(),
        label: glance.label.as_deref(),
        speaker: glance.speaker.as_deref(),
        group: glance.group.as_deref(),
        target,
        is_transcript,
        target_tokens: tokens_of(target, counter)?,
        normalisation: glance.normalisation.as_deref(),
    })
}

/// `normalisation` is what the row states under [`arabic::FIELD`].
fn facts_of_row<'a>(
    row: &'a Row,
    normalisation: Option<&'a str>,
    counter: Option<&TokenCounter>,
) -> Result<Facts<'a>> {
    let mut answers = row
        .messages
        .iter()
        .rev()
        .filter(|message| message.role == Role::Assistant);
    let texts = Texts {
        own: row
            .target
            .as_deref()
            .or(answers.next().map(|message| message.content.as_str())),
        text: row.text.as_deref(),
        summary: row.summary.as_deref(),
        label: row.label.as_deref(),
    };
    let (target, is_transcript) = texts.target(row.task.as_deref());
    Ok(Facts {
        seconds: seconds_of(row),
        num_clips: row.clips.len(),
        split: row.split.as_deref(),
        task: row.task.as_deref(),
        language: row.language.as_deref(),
        label: row.label.as_deref(),
        speaker: row.speaker.as_deref(),
        group: row.group.as_deref(),
        target,
        is_transcript,
        target_tokens: tokens_of(target, counter)?,
        normalisation,
    })
}

/// Texts of a row, one of which is learnt.
struct Texts<'a> {
    own: Option<&'a str>,
    text: Option<&'a str>,
    summary: Option<&'a str>,
    label: Option<&'a str>,
}

impl<'a> Texts<'a> {
    /// The text that is learnt, and whether it is a transcript.
    fn target(&self, task: Option<&str>) -> (Option<&'a str>, bool) {
        let transcript = self.text.map(|text| (text, true));
        let other = self.summary.or(self.label).map(|text| (text, false));
        let found = match (self.own, task) {
            (Some(own), _) => Some((own, false)),
            (None, Some("asr")) => transcript,
            (None, Some(_)) => other.or(transcript),
            (None, None) => transcript.or(other),
        };
        (
            found.map(|(text, _)| text),
            found.is_some_and(|(_, is_transcript)| is_transcript),
        )
    }
}

/// Length of a row's audio in seconds, as far as the row says it.
pub fn seconds_of(row: &Row) -> Option<f64> {
    let of_clips = row.clips.iter().map(|clip| {
        let span = clip.span;
        match (span.start_s, span.end_s) {
            (start_s, Some(end_s)) => Some(end_s - start_s.unwrap_or(0.0)),
            _ => clip.stated_s,
        }
    });
    of_clips
        .sum::<Option<f64>>()
        .filter(|_| !row.clips.is_empty())
        .or(row.duration)
}

fn tokens_of(target: Option<&str>, counter: Option<&TokenCounter>) -> Result<Option<usize>> {
    match (target, counter) {
        (Some(target), Some(counter)) => counter.count(target).map(Some),
        _ => Ok(None),
    }
}

/// The table: totals, then values, then lengths.
fn table(stats: &Stats) -> String {
    let mut text = format!(
        "{} rows, {} clips, {:.2} hours, {} speakers, {} groups\n",
        stats.rows, stats.clips, stats.hours, stats.speakers, stats.groups
    );
    for (number, what) in [
        (stats.rows_without_audio, "rows without audio"),
        (
            stats.rows_without_length,
            "rows whose audio has no stated length: `maqam data check` reads headers",
        ),
    ] {
        if number > 0 {
            text += &format!("{number} {what}\n");
        }
    }
    for (name, counts) in [
        ("split", &stats.splits),
        ("task", &stats.tasks),
        ("language", &stats.languages),
        ("label", &stats.labels),
        (arabic::FIELD, &stats.normalisations),
    ] {
        text += &values(name, counts);
    }
    text += &format!(
        "\n{:<24}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
        "", "mean", "least", "5 %", "median", "95 %", "greatest"
    );
    for (name, found) in [
        ("seconds", &stats.seconds),
        ("audio tokens", &stats.audio_tokens),
        ("target tokens", &stats.target_tokens),
        ("target words", &stats.target_words),
        ("target characters", &stats.target_characters),
        ("letters per second", &stats.letters_per_second),
    ] {
        text += &found
            .as_ref()
            .map(|found| distribution(name, found))
            .unwrap_or_default();
    }
    let all = stats
        .target_characters
        .as_ref()
        .map_or(0, |found| found.count);
    let spellings: Vec<String> = stats
        .spellings
        .iter()
        .filter(|(_, number)| *number > 0)
        .map(|(name, number)| format!("{} {number}", name.replace('_', " ")))
        .collect();
    if !spellings.is_empty() {
        text += &format!("\nof {all} targets hold: {}\n", spellings.join(", "));
    }
    text += "\nestimated cost of an epoch of adapters\n";
    for cost in &stats.costs {
        text += &format!(
            "  {}: {} decoder tokens, {:.2} PFLOP, {:.2} hours of an H100 at 40 %\n",
            cost.model, cost.decoder_tokens, cost.petaflop, cost.gpu_hours
        );
    }
    text
}

fn values(name: &str, counts: &[(String, Count)]) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{name:<24}{:>10}{:>10}\n", "rows", "hours");
    for (value, count) in counts.iter().take(MOST_SHOWN) {
        text += &format!(
            "  {value:<22}{:>10}{:>10.2}\n",
            count.rows,
            count.seconds / 3600.0
        );
    }
    if counts.len() > MOST_SHOWN {
        text += &format!("  and {} more\n", counts.len() - MOST_SHOWN);
    }
    text
}

fn distribution(name: &str, found: &Distribution) -> String {
    let numbers = [
        found.mean,
        found.min,
        found.p5,
        found.median,
        found.p95,
        found.max,
    ];
    let numbers: String = numbers
        .iter()
        .map(|value| format!("{value:>10.2}"))
        .collect();
    format!("{name:<24}{numbers}\n")
}
