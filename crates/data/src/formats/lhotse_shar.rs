//! Lhotse's Shar folders: `cuts.000000.jsonl.gz`, and `recording.000000.tar` with the audio of its
//! cuts in the same order.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;

use crate::AudioSource;
use crate::Row;
use crate::formats::json_rows;
use crate::formats::lhotse;
use crate::formats::out::Out;
use crate::formats::out::line;
use crate::formats::out::stream;
use crate::formats::tar::Member;
use crate::formats::tar::Shard;
use crate::formats::tar::Writer;
use crate::row::Inside;
use crate::row::RawRow;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::Lines;

/// Endings of members for a cut without audio.
const NOTHING: [&str; 2] = ["nodata", "nometa"];

/// Returns the files of cuts of a Shar folder, sorted; none if the folder is no Shar folder.
pub fn cuts_of(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_cuts(path))
        .collect();
    found.sort();
    found
}

/// Returns whether a file holds cuts whose audio is in a tar file next to it.
pub fn is_cuts(path: &Path) -> bool {
    number_of(path).is_some_and(|number| tar_of(path, number).is_file())
}

/// The number of a file of cuts, as written in its name.
fn number_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let number = name
        .strip_prefix("cuts.")?
        .strip_suffix(".jsonl.gz")
        .or_else(|| name.strip_prefix("cuts.")?.strip_suffix(".jsonl"))?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
}

fn tar_of(cuts: &Path, number: &str) -> PathBuf {
    cuts.with_file_name(format!("recording.{number}.tar"))
}

/// Calls `found` with every cut of a file of cuts.
///
/// # Errors
/// Files that cannot be read, or that do not belong together; those of `found`.
pub fn read(cuts: &Path, found: &mut dyn FnMut(u32, Result<RawRow>) -> Result<()>) -> Result<()> {
    let Some(number) = number_of(cuts) else {
        return Err(Error::bug("a file of cuts has a number"));
    };
    let shard = Shard::open(&tar_of(cuts, number))?;
    let audio: Vec<&Member> = shard
        .members
        .iter()
        .filter(|member| !member.name.ends_with(".json") && !member.name.ends_with(".nometa"))
        .collect();
    let fields = fields_beside(cuts, number)?;

    let mut lines = Lines::open(cuts)?.unpacked()?;
    let mut position = 0;
    json_rows::read_lines_of(&mut lines, &mut |line, row| {
        let member = audio.get(position).copied();
        position += 1;
        let row = row.and_then(|mut row| {
            for (name, of_cuts) in &fields {
                if let Some(value) = of_cuts.value(position - 1) {
                    row.fields.entry(name.clone()).or_insert(value);
                }
            }
            with_audio(row, &shard, member)
        });
        found(line, row)
    })
}

/// Puts the audio of a cut's member into its row.
fn with_audio(mut row: RawRow, shard: &Shard, member: Option<&Member>) -> Result<RawRow> {
    let id = row
        .fields
        .get("id")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let Some(member) = member else {
        return Err(Error::input(format!(
            "cut `{id}` has no audio: {} has fewer members than there are cuts",
            shard.path.display()
        ))
        .hint("the cuts and the tar file belong to different data sets"));
    };
    let (stem, ending) = member.name.rsplit_once('.').unwrap_or((&member.name, ""));
    if stem != id {
        return Err(Error::input(format!(
            "cut `{id}` stands where {} has `{}`",
            shard.path.display(),
            member.name
        ))
        .hint("the cuts and the tar file belong to different data sets"));
    }
    if !NOTHING.contains(&ending) {
        row.inside.push(Inside {
            source: AudioSource::Range {
                file: shard.path.clone(),
                start: member.start,
                len: member.len,
                member: member.name.clone(),
            },
            fields: Map::new(),
        });
    }
    lhotse::convert(&mut row.fields, lhotse::Audio::Beside)?;
    Ok(row)
}

/// Values of one field for the cuts of a file, in their order.
struct OfCuts(Vec<Option<Value>>);

impl OfCuts {
    fn value(&self, position: usize) -> Option<Value> {
        self.0.get(position).cloned().flatten()
    }
}

/// Fields in separate JSON lines next to the cuts.
fn fields_beside(cuts: &Path, number: &str) -> Result<Vec<(String, OfCuts)>> {
    let folder = match cuts.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut paths: Vec<(String, PathBuf)> = fs::read_dir(folder)
        .map_err(|e| Error::io(folder, "read", e))?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?;
            let field = name
                .strip_suffix(&format!(".{number}.jsonl.gz"))
                .or_else(|| name.strip_suffix(&format!(".{number}.jsonl")))?;
            (field != "cuts").then(|| (field.to_owned(), path.clone()))
        })
        .collect();
    paths.sort();

    let mut fields = Vec::new();
    for (field, path) in paths {
        let mut values = Vec::new();
        let mut lines = Lines::open(&path)?.unpacked()?;
        json_rows::read_lines_of(&mut lines, &mut |line, row| {
            let mut row = row.map_err(|e| e.at(format!("{}:{line}", path.display())))?;
            values.push(row.fields.shift_remove(&field));
            Ok(())
        })?;
        fields.push((field, OfCuts(values)));
    }
    Ok(fields)
}

/// Writes `cuts.000000.jsonl.gz`, `recording.000000.tar` and so on.
///
/// # Errors
/// A row with no or several clips; audio that cannot be read; those of the disk.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    for (number, shard) in rows.chunks(out.settings.shard_rows).enumerate() {
        let number = format!("{number:06}");
        let mut cuts = Vec::with_capacity(shard.len());
        let path = out.path(&format!("recording.{number}.tar"));
        stream(&path, |file| {
            let mut tar = Writer::new(file);
            for row in shard {
                let clip = out.only_clip(row)?;
                let header = clip.source.header()?;
                let ending = clip.source.ending()?;
                let recording = lhotse::recording(&row.id, None, header);
                let failed = |e: std::io::Error| Error::io(&path, "write", e);
                tar.add(&format!("{}.{ending}", row.id), &clip.source.bytes()?)
                    .map_err(failed)?;
                tar.add(
                    &format!("{}.json", row.id),
                    format!("{recording}\n").as_bytes(),
                )
                .map_err(failed)?;
                cuts.push(lhotse::cut(out.fields(row)?, None, header).to_string());
            }
            tar.finish().map_err(|e| Error::io(&path, "write", e))
        })?;
        let path = out.path(&format!("cuts.{number}.jsonl.gz"));
        lhotse::packed(&path, |file| {
            cuts.iter().try_for_each(|cut| line(file, cut, &path))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_cuts_have_numbers_and_tar_files() {
        assert_eq!(
            number_of(Path::new("a/cuts.000012.jsonl.gz")),
            Some("000012")
        );
        assert_eq!(number_of(Path::new("cuts.1.jsonl")), Some("1"));
        for name in ["cuts.jsonl.gz", "cuts.train.jsonl", "recording.000000.tar"] {
            assert_eq!(number_of(Path::new(name)), None, "{name}");
        }
    }
}
