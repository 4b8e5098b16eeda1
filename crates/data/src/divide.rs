//! A division of manifests into the files of train, dev and test.

use std::borrow::Cow;
use std::path::Path;
use std::path::PathBuf;

use crate::Row;
use crate::copied::Copied;
use crate::copied::Relocation;
use crate::copied::copied_row;
use crate::facts::seconds_of;
use crate::glance;
use crate::glance::Glance;
use crate::glance::Seen;
use crate::manifests::Manifests;
use crate::manifests::Watcher;
use crate::near_duplicates::key_of;
use crate::split::Assignment;
use crate::split::Part;
use crate::split::Splitter;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::Draft;
use maqam_base::stop::Stop;

/// Rows between two looks at the user's wish to stop.
const EVERY: u64 = 1024;

/// Manifests to divide, and by what.
pub struct Division {
    /// Manifests that are divided as one.
    pub manifests: Manifests,
    /// Fields whose values never stand in two parts.
    pub by: Vec<String>,
    /// Fields of which dev and test should have every combination.
    pub stratify: Vec<String>,
    /// Folder of the parts.
    pub out: PathBuf,
}

/// Rows of the manifests, as far as their division needs them.
pub struct Groups {
    /// Rows without a group.
    pub num_alone: u64,
    seconds: Vec<f32>,
    /// Whether each manifest is a simple file.
    is_simple: Vec<bool>,
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
pub struct Totals {
    /// Rows.
    pub rows: [u64; 3],
    /// Seconds of audio.
    pub seconds: [f64; 3],
}

impl Division {
    /// Reads the groups of all rows; the first value divides them.
    ///
    /// # Errors
    /// A manifest or a row that cannot be read; no rows; the user asked to stop.
    pub fn groups(
        &self,
        seed: u64,
        stop: &Stop,
        watcher: &mut dyn Watcher,
    ) -> Result<(Splitter, Groups)> {
        let mut splitter = Splitter::new(seed);
        let mut groups = Groups {
            num_alone: 0,
            seconds: Vec::new(),
            is_simple: Vec::new(),
        };
        for (i, manifest) in self.manifests.paths.iter().enumerate() {
            let seen = self.facts(manifest, i, stop, watcher, &mut |facts| {
                groups.num_alone += u64::from(!facts.has_group);
                groups.seconds.push(facts.seconds as f32);
                splitter.add(facts.name, &facts.others, facts.stratum, facts.seconds);
            })?;
            groups.is_simple.push(seen == Seen::Whole);
        }
        if groups.seconds.is_empty() {
            return Err(Error::input("no rows").at_path(&self.manifests.paths[0]));
        }
        Ok((splitter, groups))
    }

    /// The file of a part.
    pub fn path(&self, part: Part) -> PathBuf {
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
        watcher: &mut dyn Watcher,
        found: &mut dyn FnMut(Facts),
    ) -> Result<Seen> {
        if self.manifests.is_plain {
            let all = self.glanced(manifest, index, stop)?;
            if let Some(all) = all {
                all.into_iter().for_each(found);
                return Ok(Seen::Whole);
            }
        }

        self.rows(manifest, stop, watcher, &mut |line, row| {
            let field = |name: &str| field_of(row, name);
            let id = Some(&*row.id).filter(|id| *id != line.to_string());
            let alone = alone(id, index, line);
            found(self.facts_of(field, &alone, seconds_of(row)));
            Ok(())
        })?;
        Ok(Seen::Foreign)
    }

    /// The facts of all rows of a simple file; `None` for any other.
    fn glanced(&self, manifest: &Path, index: usize, stop: &Stop) -> Result<Option<Vec<Facts>>> {
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
            stop.check_unwritten()?;
            all.extend(facts);
            Ok(())
        })?;
        Ok((seen == Seen::Whole).then_some(all))
    }

    /// Reads the rows of any manifest, one after the other.
    fn rows(
        &self,
        manifest: &Path,
        stop: &Stop,
        watcher: &mut dyn Watcher,
        found: &mut dyn FnMut(u32, &Row) -> Result<()>,
    ) -> Result<()> {
        watcher.begin(manifest);
        let mut done = 0;
        self.manifests.source(manifest).stream(&mut |streamed| {
            done += 1;
            if done % EVERY == 0 {
                stop.check_unwritten()?;
                watcher.rows(done);
            }
            let place = || format!("{}:{}", streamed.file.display(), streamed.line);
            match &streamed.row {
                Ok(row) => found(streamed.line, row),
                Err(bad) => Err(bad.error.clone().at(place()).and_hint(
                    "leave such rows out first: `maqam data check MANIFEST --fix drop --out FILE`",
                )),
            }
        })?;
        watcher.end(&[]);
        Ok(())
    }

    /// Writes the parts; returns their totals.
    ///
    /// # Errors
    /// A manifest that changed meanwhile; the disk's; the user asked to stop.
    pub fn write(
        &self,
        groups: &Groups,
        assignment: &Assignment,
        stop: &Stop,
        watcher: &mut dyn Watcher,
    ) -> Result<Totals> {
        let mut parts = Parts {
            assignment,
            seconds: &groups.seconds,
            next: 0,
            totals: Totals::default(),
            drafts: Vec::new(),
        };
        for part in Part::ALL {
            parts.drafts.push(Draft::new(&self.path(part))?);
        }

        for (manifest, is_simple) in self.manifests.paths.iter().zip(&groups.is_simple) {
            match is_simple {
                true => self.copy_lines(manifest, &mut parts, stop)?,
                false => self.copy_rows(manifest, &mut parts, stop, watcher)?,
            }
        }
        if parts.next != assignment.len() {
            return Err(changed(&self.manifests.paths[0]));
        }
        parts.drafts.into_iter().try_for_each(Draft::commit)?;
        Ok(parts.totals)
    }

    /// Copies the lines of a simple file.
    fn copy_lines(&self, manifest: &Path, parts: &mut Parts<'_>, stop: &Stop) -> Result<()> {
        let folder = self.manifests.audio_folder(manifest);
        let relocation = Relocation::new(&folder, &self.out)?;
        let look = |rows: &[(u32, &[u8], Glance<'_>)]| -> Result<Vec<Copied>> {
            let copy = |(_, text, glance): &(u32, &[u8], Glance<'_>)| {
                relocation.copied(text, glance.audio.as_ref(), glance.split.as_ref())
            };
            rows.iter().map(copy).collect()
        };
        let seen = glance::at_lines(manifest, &self.wanted(), look, |lines| {
            stop.check_unwritten()?;
            for line in lines? {
                let part = parts.next(manifest)?;
                let draft = &mut parts.drafts[part as usize];
                line.of_split(part.name())
                    .into_iter()
                    .try_for_each(|piece| draft.append(piece))?;
            }
            Ok(())
        })?;
        match seen {
            Seen::Whole => Ok(()),
            Seen::Foreign => Err(changed(manifest)),
        }
    }

    /// Copies the rows of any manifest.
    fn copy_rows(
        &self,
        manifest: &Path,
        parts: &mut Parts<'_>,
        stop: &Stop,
        watcher: &mut dyn Watcher,
    ) -> Result<()> {
        self.rows(manifest, stop, watcher, &mut |_, row| {
            let part = parts.next(manifest)?;
            let split = row.split.as_ref().map(|_| part.name().into());
            let row = Row {
                split,
                ..row.clone()
            };
            parts.drafts[part as usize].append(&copied_row(&row, &self.out)?)
        })
    }
}

impl Groups {
    /// Number of rows.
    pub fn num_rows(&self) -> u64 {
        self.seconds.len() as u64
    }
}

/// The parts while they are written.
struct Parts<'a> {
    assignment: &'a Assignment,
    seconds: &'a [f32],
    next: usize,
    totals: Totals,
    drafts: Vec<Draft>,
}

impl Parts<'_> {
    /// The part that the next row goes to.
    fn next(&mut self, manifest: &Path) -> Result<Part> {
        if self.next >= self.assignment.len() {
            return Err(changed(manifest));
        }
        let part = self.assignment.part(self.next);
        self.totals.rows[part as usize] += 1;
        self.totals.seconds[part as usize] += f64::from(self.seconds[self.next]);
        self.next += 1;
        Ok(part)
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
