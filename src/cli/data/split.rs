//! `maqam data split`.

use std::borrow::Cow;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::data::rows::Copied;
use crate::cli::data::rows::Relocation;
use crate::cli::data::rows::SourceArguments;
use crate::cli::data::rows::copied_row;
use crate::cli::data::stats::seconds_of;
use crate::cli::interrupt::check_stop;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::data::Row;
use crate::data::glance;
use crate::data::glance::Glance;
use crate::data::glance::Seen;
use crate::data::near_duplicates::key_of;
use crate::data::split::Amounts;
use crate::data::split::Assignment;
use crate::data::split::Part;
use crate::data::split::Splitter;
use crate::error::Error;
use crate::error::Result;
use crate::files::Draft;
use crate::stop::Stop;

#[derive(Args)]
pub struct Arguments {
    /// Manifest to divide, or several that are divided as one.
    #[arg(required = true)]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    source: SourceArguments,
    /// Folder of the results: train.jsonl, dev.jsonl, test.jsonl.
    #[arg(long)]
    out: PathBuf,
    /// Fields whose values never stand in two parts; with several, rows that share any of them stay together. Rows without a value are
    /// divided one by one.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "FIELD",
        default_value = "speaker"
    )]
    by: Vec<String>,
    /// Share of the groups that goes to dev.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    dev: f64,
    /// Share of the groups that goes to test.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    test: f64,
    /// Hours of audio of dev and test, instead of shares: 1.5 for each, or 1.5,3 for dev and test.
    #[arg(long, value_delimiter = ',', value_name = "HOURS", num_args = 1..=2, conflicts_with_all = ["dev", "test"])]
    hours: Vec<f64>,
    /// Fields of which dev and test should have every combination.
    #[arg(long, value_delimiter = ',', value_name = "FIELD")]
    stratify: Vec<String>,
    /// Another seed, another division.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What the division needs to know of a row.
struct Facts {
    name: u64,
    /// Further names of the group.
    others: Vec<u64>,
    stratum: u64,
    seconds: f64,
    has_group: bool,
}

/// Totals of the parts, in the order of [`Part::ALL`].
#[derive(Default)]
struct Totals {
    rows: [u64; 3],
    seconds: [f64; 3],
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let amounts = arguments.amounts();
    amounts.check()?;
    let mut splitter = Splitter::new(arguments.seed);
    let mut seconds: Vec<f32> = Vec::new();
    let mut num_alone = 0u64;
    let mut is_simple = Vec::new();
    for (i, manifest) in arguments.manifests.iter().enumerate() {
        let seen = arguments.facts(manifest, i, stop, &mut |facts| {
            num_alone += u64::from(!facts.has_group);
            seconds.push(facts.seconds as f32);
            splitter.add(facts.name, &facts.others, facts.stratum, facts.seconds);
        })?;
        is_simple.push(seen == Seen::Whole);
    }
    if seconds.is_empty() {
        return Err(Error::input("no rows").at_path(&arguments.manifests[0]));
    }
    let assignment = splitter.assign(amounts)?;
    if let Some(note) = arguments.note(num_alone, seconds.len() as u64) {
        print::message(format_args!("note: {note}"));
    }
    if assignment.num_chosen > 0 {
        print::message(format_args!(
            "note: {} groups were chosen for dev or test, which had none of their kind; added rows may move them",
            assignment.num_chosen
        ));
    }

    for part in [Part::Dev, Part::Test] {
        let is_empty = assignment.num_groups[part as usize] == 0;
        if is_empty && arguments.wants(part) {
            print::message(format_args!(
                "note: {} is empty: there are too few groups for its size",
                part.name()
            ));
        }
    }

    let totals = arguments.write(&assignment, &seconds, &is_simple, stop)?;
    for (i, part) in Part::ALL.into_iter().enumerate() {
        print::line(format_args!(
            "{:<6}{:>10} rows {:>9.2} hours {:>9} groups  {}",
            part.name(),
            totals.rows[i],
            totals.seconds[i] / 3600.0,
            assignment.num_groups[i],
            arguments.path(part).display()
        ))?;
    }
    Ok(())
}

impl Arguments {
    fn amounts(&self) -> Amounts {
        match self.hours.as_slice() {
            [] => Amounts::Shares {
                dev: self.dev,
                test: self.test,
            },
            [dev] => Amounts::Hours {
                dev: *dev,
                test: *dev,
            },
            [dev, test, ..] => Amounts::Hours {
                dev: *dev,
                test: *test,
            },
        }
    }

    /// Whether a part of the data is asked for.
    fn wants(&self, part: Part) -> bool {
        let (Amounts::Shares { dev, test } | Amounts::Hours { dev, test }) = self.amounts();
        match part {
            Part::Train => true,
            Part::Dev => dev > 0.0,
            Part::Test => test > 0.0,
        }
    }

    /// A note on rows without a group.
    fn note(&self, num_alone: u64, num_rows: u64) -> Option<String> {
        (num_alone > 0).then(|| {
            format!(
                "{num_alone} of {num_rows} rows have no {}; each of them is a group of its own",
                self.by
                    .iter()
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
                    .join(" or ")
            )
        })
    }

    fn path(&self, part: Part) -> PathBuf {
        self.out.join(format!("{}.jsonl", part.name()))
    }

    /// Fields beyond those that every glance sees.
    fn wanted(&self) -> Vec<String> {
        self.by.iter().chain(&self.stratify).cloned().collect()
    }

    /// What the division needs of a row whose fields `field` gives. `alone` names a row without a group.
    fn facts_of<'a>(
        &self,
        field: impl Fn(&str) -> Option<Cow<'a, str>>,
        alone: &str,
        seconds: Option<f64>,
    ) -> Facts {
        let hash = |text: &str| key_of(text.as_bytes()) as u64;
        let mut names = self
            .by
            .iter()
            .filter_map(|name| Some(hash(&format!("{name}\0{}", field(name)?))));
        let name = names.next();
        let mut stratum = String::new();
        for name in &self.stratify {
            stratum.push_str(&field(name).unwrap_or_default());
            stratum.push('\0');
        }
        Facts {
            name: name.unwrap_or_else(|| hash(alone)),
            others: names.collect(),
            stratum: hash(&stratum),
            seconds: seconds.unwrap_or(0.0),
            has_group: name.is_some(),
        }
    }

    /// Tells the facts of all rows of a manifest, in their order; returns whether it was a simple file.
    fn facts(
        &self,
        manifest: &Path,
        index: usize,
        stop: &Stop,
        found: &mut dyn FnMut(Facts),
    ) -> Result<Seen> {
        if self.source.is_plain() {
            let wanted = self.wanted();
            let look = |rows: &[(u32, &[u8], Glance<'_>)]| -> Vec<Facts> {
                let facts = |(line, _, glance): &(u32, &[u8], Glance<'_>)| {
                    let field = |name: &str| glance.field(name, &wanted).map(Cow::Borrowed);
                    let alone = alone(glance.id.as_deref(), index, *line);
                    self.facts_of(field, &alone, glance.duration)
                };
                rows.iter().map(facts).collect()
            };
            let mut all = Vec::new();
            let seen = glance::at_lines(manifest, &wanted, look, |facts| {
                check_stop(stop)?;
                all.push(facts);
                Ok(())
            })?;
            if seen == Seen::Whole {
                all.into_iter().flatten().for_each(found);
                return Ok(seen);
            }
        }

        self.rows(manifest, stop, &mut |line, row| {
            let field = |name: &str| field_of(row, name);
            let id = Some(&*row.id).filter(|id| *id != line.to_string());
            let alone = alone(id, index, line);
            found(self.facts_of(field, &alone, seconds_of(row)));
            Ok(())
        })?;
        Ok(Seen::Foreign)
    }

    /// Reads the rows of any manifest, one after the other.
    fn rows(
        &self,
        manifest: &Path,
        stop: &Stop,
        found: &mut dyn FnMut(u32, &Row) -> Result<()>,
    ) -> Result<()> {
        let mut progress = Progress::new("rows", 0, self.source.num_rows(&[manifest.to_owned()]));
        let mut done = 0;
        self.source.of(manifest)?.stream(&mut |streamed| {
            done += 1;
            if done % 1024 == 0 {
                check_stop(stop)?;
                progress.update(done, "");
            }
            let place = || format!("{}:{}", streamed.file.display(), streamed.line);
            match &streamed.row {
                Ok(row) => found(streamed.line, row),
                Err(bad) => Err(bad.error.clone().at(place()).and_hint(
                    "leave such rows out first: `maqam data check MANIFEST --fix drop --out FILE`",
                )),
            }
        })?;
        progress.clear();
        Ok(())
    }

    /// Writes the parts; returns their totals.
    fn write(
        &self,
        assignment: &Assignment,
        seconds: &[f32],
        is_simple: &[bool],
        stop: &Stop,
    ) -> Result<Totals> {
        let mut drafts = Vec::new();
        for part in Part::ALL {
            drafts.push(Draft::new(&self.path(part))?);
        }
        let mut totals = Totals::default();
        let mut next = 0;
        for (manifest, is_simple) in self.manifests.iter().zip(is_simple) {
            // Where the next row goes.
            let mut place = || -> Result<Part> {
                if next >= assignment.len() {
                    return Err(changed(manifest));
                }
                let part = assignment.part(next);
                totals.rows[part as usize] += 1;
                totals.seconds[part as usize] += f64::from(seconds[next]);
                next += 1;
                Ok(part)
            };
            if *is_simple {
                let folder = self.source.audio_folder(manifest);
                let relocation = Relocation::new(&folder, &self.out)?;
                let look = |rows: &[(u32, &[u8], Glance<'_>)]| -> Result<Vec<Copied>> {
                    let copy = |(_, text, glance): &(u32, &[u8], Glance<'_>)| {
                        relocation.copied(text, glance.audio.as_ref(), glance.split.as_ref())
                    };
                    rows.iter().map(copy).collect()
                };
                let seen = glance::at_lines(manifest, &self.wanted(), look, |lines| {
                    check_stop(stop)?;
                    for line in lines? {
                        let part = place()?;
                        let draft = &mut drafts[part as usize];
                        line.of_split(part.name())
                            .into_iter()
                            .try_for_each(|piece| draft.append(piece))?;
                    }
                    Ok(())
                })?;
                if seen != Seen::Whole {
                    return Err(changed(manifest));
                }
            } else {
                self.rows(manifest, stop, &mut |_, row| {
                    let part = place()?;
                    let split = row.split.as_ref().map(|_| part.name().into());
                    let row = Row {
                        split,
                        ..row.clone()
                    };
                    drafts[part as usize].append(&copied_row(&row, &self.out)?)
                })?;
            }
        }
        if next != assignment.len() {
            return Err(changed(&self.manifests[0]));
        }
        drafts.into_iter().try_for_each(Draft::commit)?;
        Ok(totals)
    }
}

/// Name of a row without a group: its id where it has one, else its place.
fn alone(id: Option<&str>, manifest: usize, line: u32) -> String {
    match id {
        Some(id) => format!("id\0{id}"),
        None => format!("line\0{manifest}\0{line}"),
    }
}

fn changed(manifest: &Path) -> Error {
    Error::input("changed while it was divided")
        .at_path(manifest)
        .hint("run the command again")
}

/// The value of a field of a row, by its name.
fn field_of<'a>(row: &'a Row, name: &str) -> Option<Cow<'a, str>> {
    let known = match name {
        "id" => Some(&*row.id),
        "task" => row.task.as_deref(),
        "language" => row.language.as_deref(),
        "text" => row.text.as_deref(),
        "summary" => row.summary.as_deref(),
        "target" => row.target.as_deref(),
        "label" => row.label.as_deref(),
        "speaker" => row.speaker.as_deref(),
        "group" => row.group.as_deref(),
        "split" => row.split.as_deref(),
        "audio" => {
            let source = &row.clips.first()?.source;
            return Some(Cow::Owned(source.name().into_owned()));
        }
        other => {
            return match row.extra_fields().get(other)? {
                serde_json::Value::String(text) => Some(Cow::Owned(text.clone())),
                serde_json::Value::Number(number) => Some(Cow::Owned(number.to_string())),
                _ => None,
            };
        }
    };
    known.map(Cow::Borrowed)
}
