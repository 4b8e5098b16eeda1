//! A division of manifests into the files of train, dev and test.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::Clip;
use crate::Row;
use crate::copied::Copied;
use crate::copied::Relocation;
use crate::copied::copied_row;
use crate::facts::seconds_of;
use crate::formats::mappings::Mappings;
use crate::glance;
use crate::glance::Glance;
use crate::glance::Seen;
use crate::headers::Headers;
use crate::lengths;
use crate::manifests::Manifests;
use crate::manifests::Watcher;
use crate::near_duplicates::key_of;
use crate::split::Assignment;
use crate::split::SplitPart;
use crate::split::Splitter;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::Draft;
use maqam_base::stop::Stop;

/// Rows between two looks at the user's wish to stop, and rows whose headers are read together.
const EVERY: usize = 1024;

/// Field whose likely columns are looked for.
const SPEAKER: &str = "speaker";

/// Hint for a row that cannot be used.
const LEAVE_OUT: &str =
    "leave such rows out first: `maqam data check MANIFEST --fix drop --out FILE`";

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
    /// Headers that give the lengths which rows do not state. Without them, such lengths stay
    /// unknown.
    pub headers: Option<Headers>,
}

/// Rows of the manifests, as far as their division needs them.
pub struct Groups {
    /// Rows without a group.
    pub num_alone: u64,
    /// Rows without a group that have a column which is likely to name their speaker, by column.
    pub likely: BTreeMap<String, u64>,
    /// Rows of audio of unknown length.
    pub num_unknown: u64,
    /// Seconds of audio of each row; not a number where they are unknown.
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
    /// Seconds of audio; none if they are unknown.
    seconds: Option<f64>,
    has_group: bool,
    /// The column that is likely to name the speaker of a row without a group: its place in the
    /// list of such columns.
    likely: Option<u8>,
}

/// Totals of the parts, in the order of [`SplitPart::ALL`].
#[derive(Default)]
pub struct Totals {
    /// Rows.
    pub rows: [u64; 3],
    /// Seconds of audio of known length.
    pub seconds: [f64; 3],
    /// Rows of audio of unknown length.
    pub unknown: [u64; 3],
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
            likely: BTreeMap::new(),
            num_unknown: 0,
            seconds: Vec::new(),
            is_simple: Vec::new(),
        };
        for (i, manifest) in self.manifests.paths.iter().enumerate() {
            let likely = self.likely()?;
            let seen = self.facts(manifest, i, stop, watcher, &mut |facts| {
                groups.num_alone += u64::from(!facts.has_group);
                groups.num_unknown += u64::from(facts.seconds.is_none());
                if let Some(column) = facts.likely.and_then(|at| likely.get(usize::from(at))) {
                    *groups.likely.entry(column.clone()).or_default() += 1;
                }
                let seconds = facts.seconds.map_or(f32::NAN, |seconds| seconds as f32);
                groups.seconds.push(seconds);
                let seconds = facts.seconds.unwrap_or(0.0);
                splitter.add(facts.name, &facts.others, facts.stratum, seconds);
            })?;
            groups.is_simple.push(seen == Seen::Whole);
        }
        if groups.seconds.is_empty() {
            return Err(Error::input("no rows").at_path(&self.manifests.paths[0]));
        }
        Ok((splitter, groups))
    }

    /// The file of a part.
    pub fn path(&self, part: SplitPart) -> PathBuf {
        self.out.join(format!("{}.jsonl", part.name()))
    }

    /// Fields beyond those that every glance sees.
    fn wanted(&self) -> Result<Vec<String>> {
        let asked = self.by.iter().chain(&self.stratify).cloned();
        Ok(asked.chain(self.likely()?.iter().cloned()).collect())
    }

    /// Columns that are likely to name the speaker, if rows are divided by speaker.
    fn likely(&self) -> Result<&'static [String]> {
        if !self.by.iter().any(|name| name == SPEAKER) {
            return Ok(&[]);
        }
        let likely = Mappings::get()?.likely.get(SPEAKER);
        Ok(likely.map_or(&[], Vec::as_slice))
    }

    /// What the division needs of a row whose fields `field` gives. `alone` names a row without a
    /// group.
    fn facts_of<'a>(
        &self,
        field: impl Fn(&str) -> Option<Cow<'a, str>>,
        alone: &str,
        seconds: Option<f64>,
        likely: &[String],
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
            seconds,
            has_group: name.is_some(),
            likely: match name {
                Some(_) => None,
                None => likely
                    .iter()
                    .position(|column| field(column).is_some())
                    .and_then(|at| u8::try_from(at).ok()),
            },
        }
    }

    /// Tells the facts of all rows of a manifest, in their order; returns whether it was a simple
    /// file.
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

        let likely = self.likely()?;
        let mut chunk: Vec<Measured> = Vec::with_capacity(EVERY);
        self.rows(manifest, stop, watcher, &mut |line, place, row| {
            let field = |name: &str| field_of(row, name);
            let id = Some(&*row.id).filter(|id| *id != line.to_string());
            let alone = alone(id, index, line);
            let seconds = match row.clips.is_empty() {
                true => Some(0.0),
                false => seconds_of(row),
            };
            let facts = self.facts_of(field, &alone, seconds, likely);
            let clips = match (&self.headers, facts.seconds) {
                (Some(_), None) => row.clips.clone(),
                _ => Vec::new(),
            };
            let place = if clips.is_empty() {
                String::new()
            } else {
                place
            };
            chunk.push(Measured {
                facts,
                clips,
                place,
            });
            match chunk.len() == EVERY {
                true => self.measure(&mut chunk, found),
                false => Ok(()),
            }
        })?;
        self.measure(&mut chunk, found)?;
        Ok(Seen::Foreign)
    }

    /// Reads the lengths that rows do not state from headers, and tells the facts of the rows.
    fn measure(&self, chunk: &mut Vec<Measured>, found: &mut dyn FnMut(Facts)) -> Result<()> {
        if let Some(headers) = &self.headers {
            chunk
                .par_iter_mut()
                .filter(|row| !row.clips.is_empty())
                .try_for_each(|row| row.measure(headers))?;
            headers.keep();
        }
        chunk.drain(..).for_each(|row| found(row.facts));
        Ok(())
    }

    /// The facts of all rows of a simple file; `None` for any other.
    fn glanced(&self, manifest: &Path, index: usize, stop: &Stop) -> Result<Option<Vec<Facts>>> {
        let wanted = self.wanted()?;
        let likely = self.likely()?;
        let facts = |(line, _, glance): &(u32, &[u8], Glance<'_>)| {
            let field = |name: &str| glance.field(name, &wanted).map(Cow::Borrowed);
            let alone = alone(glance.id.as_deref(), index, *line);
            let seconds = match glance.audio {
                None => Some(0.0),
                Some(_) => glance.duration,
            };
            self.facts_of(field, &alone, seconds, likely)
        };
        let look = |rows: &[(u32, &[u8], Glance<'_>)]| rows.iter().map(facts).collect::<Vec<_>>();
        let mut all = Vec::new();
        let seen = glance::at_lines(manifest, &wanted, look, |facts| {
            stop.check_unwritten()?;
            all.extend(facts);
            Ok(())
        })?;
        // A glance opens no audio.
        let is_measured = self.headers.is_none() || all.iter().all(|facts| facts.seconds.is_some());
        Ok((seen == Seen::Whole && is_measured).then_some(all))
    }

    /// Reads the rows of any manifest, one after the other.
    fn rows(
        &self,
        manifest: &Path,
        stop: &Stop,
        watcher: &mut dyn Watcher,
        found: &mut dyn FnMut(u32, String, &Row) -> Result<()>,
    ) -> Result<()> {
        watcher.begin(manifest);
        let mut done = 0;
        self.manifests.source(manifest).stream(&mut |streamed| {
            done += 1;
            if done % EVERY as u64 == 0 {
                stop.check_unwritten()?;
                watcher.rows(done);
            }
            let place = format!("{}:{}", streamed.file.display(), streamed.line);
            match &streamed.row {
                Ok(row) => found(streamed.line, place, row),
                Err(bad) => Err(bad.error.clone().at(place).and_hint(LEAVE_OUT)),
            }
        })?;
        watcher.end(Vec::new());
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
        for part in SplitPart::ALL {
            parts.drafts.push(Draft::new(&self.path(part))?);
        }

        for (manifest, is_simple) in self.manifests.paths.iter().zip(&groups.is_simple) {
            match is_simple {
                true => self.copy_lines(manifest, &mut parts, stop)?,
                false => self.copy_rows(manifest, &mut parts, stop, watcher)?,
            }
        }
        if parts.next != assignment.len() {
            return Err(changed_manifest(&self.manifests.paths[0]));
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
        let seen = glance::at_lines(manifest, &self.wanted()?, look, |lines| {
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
            Seen::Foreign => Err(changed_manifest(manifest)),
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
        self.rows(manifest, stop, watcher, &mut |_, _, row| {
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

/// A row whose length may have to be read from its audio.
struct Measured {
    facts: Facts,
    /// Clips of unknown length.
    clips: Vec<Clip>,
    place: String,
}

impl Measured {
    fn measure(&mut self, headers: &Headers) -> Result<()> {
        let mut samples = 0;
        for clip in &self.clips {
            let length = headers.num_samples(&clip.source, clip.span);
            samples +=
                length.map_err(|e| e.at(clip.source.name()).at(&self.place).and_hint(LEAVE_OUT))?;
        }
        self.facts.seconds = Some(lengths::seconds_of(samples));
        Ok(())
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
    fn next(&mut self, manifest: &Path) -> Result<SplitPart> {
        if self.next >= self.assignment.len() {
            return Err(changed_manifest(manifest));
        }
        let part = self.assignment.part(self.next);
        self.totals.rows[part as usize] += 1;
        match self.seconds[self.next] {
            unknown if unknown.is_nan() => self.totals.unknown[part as usize] += 1,
            seconds => self.totals.seconds[part as usize] += f64::from(seconds),
        }
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

fn changed_manifest(manifest: &Path) -> Error {
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
