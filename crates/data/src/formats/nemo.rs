//! NeMo's manifests: audio in files or in numbered tar files, and conversations whose turns are
//! audio or text.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::AUDIO_MARK;
use crate::AudioSource;
use crate::Row;
use crate::formats::out::Base;
use crate::formats::out::Out;
use crate::formats::out::stream;
use crate::formats::tar::Shard;
use crate::formats::tar::Writer;
use crate::row::Inside;
use crate::row::RawRow;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// The manifest of a tarred data set, in its folder.
pub const TARRED: &str = "tarred_audio_manifest.json";

/// Returns whether a row's audio is in a numbered tar file.
pub fn is_tarred(fields: &Map<String, Value>) -> bool {
    fields.contains_key("audio_filepath") && fields.contains_key("shard_id")
}

/// Returns whether a row is a conversation whose turns have types.
pub fn is_conversation(fields: &Map<String, Value>) -> bool {
    let first = fields
        .get("conversations")
        .and_then(Value::as_array)
        .and_then(|turns| turns.first());
    first.is_some_and(|turn| {
        turn["from"].is_string() && turn["value"].is_string() && turn["type"].is_string()
    })
}

/// Turns a conversation of typed turns into messages. Successive turns of one role become one
/// message.
///
/// # Errors
/// A turn without role, value or a known type.
pub fn convert_conversation(fields: &mut Map<String, Value>) -> Result<()> {
    let Some(Value::Array(turns)) = fields.shift_remove("conversations") else {
        return Ok(());
    };
    let mut messages: Vec<(String, String)> = Vec::new();
    let mut audios = Vec::new();
    for (i, turn) in turns.into_iter().enumerate() {
        let place = format!("conversations[{i}]");
        let Value::Object(mut turn) = turn else {
            return Err(Error::input("a turn is no object").at(place));
        };
        let mut text = |name: &str| match turn.shift_remove(name) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(Error::input(format!("`{name}` is missing")).at(&place)),
        };
        let from = text("from")?;
        let value = text("value")?;
        let kind = text("type")?;
        let role = match from.to_lowercase().as_str() {
            "user" | "human" => "user",
            "assistant" | "gpt" => "assistant",
            "system" => "system",
            _ => {
                return Err(Error::input(format!("unknown role `{from}`"))
                    .at(&place)
                    .hint("roles are System, User and Assistant"));
            }
        };
        let content = match kind.as_str() {
            "text" => value,
            "audio" => {
                turn.insert("audio".to_owned(), value.into());
                audios.push(Value::Object(turn));
                AUDIO_MARK.to_owned()
            }
            other => {
                return Err(Error::input(format!("a turn of the type `{other}`"))
                    .at(&place)
                    .hint("audio and text are read"));
            }
        };
        match messages.last_mut() {
            Some((last, said)) if *last == role => *said += &content,
            _ => messages.push((role.to_owned(), content)),
        }
    }
    fields.insert(
        "messages".to_owned(),
        messages
            .into_iter()
            .map(|(role, content)| json!({"role": role, "content": content}))
            .collect(),
    );
    if !audios.is_empty() {
        fields.insert("audios".to_owned(), audios.into());
    }
    Ok(())
}

/// The numbered tar files next to a manifest.
#[derive(Default)]
pub struct Tars {
    folders: Vec<PathBuf>,
    by_number: HashMap<u64, Opened>,
}

/// A tar file and its members in the order of their names.
struct Opened {
    shard: Shard,
    by_name: Vec<u32>,
}

impl Tars {
    /// Tar files in the first of these folders that has them.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self {
            folders,
            by_number: HashMap::new(),
        }
    }

    /// Replaces a row's path by the member of the tar file.
    ///
    /// # Errors
    /// A missing tar file or member.
    pub fn convert(&mut self, raw: &mut RawRow) -> Result<()> {
        let number = match raw.fields.get("shard_id") {
            Some(Value::String(text)) => text.parse().ok(),
            Some(value) => value.as_u64(),
            None => return Ok(()),
        };
        let number = number.ok_or_else(|| Error::input("`shard_id` is no number of a tar file"))?;
        let Some(Value::String(path)) = raw.fields.get("audio_filepath") else {
            return Ok(());
        };
        let path = path.clone();
        let opened = self.open(number)?;
        let member = opened
            .member(&path)
            .or_else(|| opened.member(&without_sub(&path)?));
        let Some(member) = member else {
            return Err(Error::input(format!(
                "no member `{path}` in {}",
                opened.shard.path.display()
            ))
            .hint("the manifest and its tar files belong to different data sets"));
        };
        let member = &opened.shard.members[member];
        raw.inside.push(Inside {
            source: AudioSource::Range {
                file: opened.shard.path.clone(),
                start: member.start,
                len: member.len,
                member: member.name.clone(),
            },
            fields: Map::new(),
        });
        raw.fields.shift_remove("audio_filepath");
        raw.fields.insert("member".to_owned(), path.into());
        Ok(())
    }

    fn open(&mut self, number: u64) -> Result<&Opened> {
        if !self.by_number.contains_key(&number) {
            let path = self.find(number)?;
            let shard = Shard::open(&path)?;
            let mut by_name: Vec<u32> = (0..shard.members.len() as u32).collect();
            by_name.sort_by(|a, b| {
                let name = |i: u32| &shard.members[i as usize].name;
                name(*a).cmp(name(*b))
            });
            self.by_number.insert(number, Opened { shard, by_name });
        }
        self.by_number
            .get(&number)
            .ok_or_else(|| Error::bug("a shard that was opened is there"))
    }

    /// The tar file whose name ends in a number, as `audio_3.tar` or `audio__000003.tar`.
    fn find(&self, number: u64) -> Result<PathBuf> {
        for folder in &self.folders {
            let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| number_of(path) == Some(number))
                .collect();
            found.sort();
            if let Some(path) = found.into_iter().next() {
                return Ok(path);
            }
        }
        let looked: Vec<String> = self
            .folders
            .iter()
            .map(|folder| {
                folder
                    .join(format!("audio_{number}.tar"))
                    .display()
                    .to_string()
            })
            .collect();
        Err(
            Error::input(format!("there is no {}", looked.join(" and no ")))
                .hint("set `audio_root` to the folder with the tar files"),
        )
    }
}

impl Opened {
    fn member(&self, name: &str) -> Option<usize> {
        let name_of = |i: &u32| &*self.shard.members[*i as usize].name;
        let name = name.strip_prefix("./").unwrap_or(name);
        self.by_name
            .binary_search_by(|i| name_of(i).cmp(name))
            .ok()
            .map(|at| self.by_name[at] as usize)
    }
}

/// The number at the end of a tar file's name.
fn number_of(path: &Path) -> Option<u64> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".tar")?;
    let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    stem[stem.len() - digits..].parse().ok()
}

/// The member of a part: NeMo writes `a-sub2.wav` for the second part of `a.wav`.
fn without_sub(name: &str) -> Option<String> {
    let (stem, ending) = match name.rsplit_once('.') {
        Some((stem, ending)) => (stem, format!(".{ending}")),
        None => (name, String::new()),
    };
    let (stem, number) = stem.rsplit_once("-sub")?;
    number
        .chars()
        .all(|c| c.is_ascii_digit())
        .then(|| format!("{stem}{ending}"))
}

/// Writes `manifest.json`, or `tarred_audio_manifest.json` and `audio_0.tar` and so on.
///
/// # Errors
/// A row with no or several clips; audio that cannot be read; those of the disk.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    if !out.settings.tarred {
        return out.lines("manifest.json", rows, |out, row| {
            let clip = out.only_clip(row)?;
            let path = out.audio(row, clip, Base::Manifest)?;
            Ok(Value::Object(line_of(out, row, path, None)?).to_string())
        });
    }

    let mut names = Vec::with_capacity(rows.len());
    for (number, shard) in rows.chunks(out.settings.shard_rows).enumerate() {
        let path = out.path(&format!("audio_{number}.tar"));
        stream(&path, |file| {
            let mut tar = Writer::new(file);
            for (i, row) in shard.iter().enumerate() {
                let clip = out.only_clip(row)?;
                let name = format!("{number}_{i:07}.{}", clip.source.ending()?);
                tar.add(&name, &clip.source.bytes()?)
                    .map_err(|e| Error::io(&path, "write", e))?;
                names.push((number, name));
            }
            tar.finish().map_err(|e| Error::io(&path, "write", e))
        })?;
    }
    let mut names = names.into_iter();
    out.lines(TARRED, rows, |out, row| {
        let (number, name) = names.next().unwrap_or_default();
        Ok(Value::Object(line_of(out, row, name, Some(number))?).to_string())
    })
}

/// A row as a line of a manifest. `duration` is always there and is that of the used part.
fn line_of(
    out: &Out<'_>,
    row: &Row,
    path: String,
    shard: Option<usize>,
) -> Result<Map<String, Value>> {
    let clip = out.only_clip(row)?;
    let mut fields = out.fields(row)?;
    for name in ["start_s", "end_s", "member", "shard_id"] {
        fields.shift_remove(name);
    }
    let seconds = clip.source.duration_s(clip.span)?;
    let mut written = Map::new();
    written.insert("audio_filepath".to_owned(), path.into());
    written.insert("duration".to_owned(), seconds.into());
    if clip.span.is_part() {
        let start = clip.span.start_s.unwrap_or(0.0);
        written.insert("offset".to_owned(), start.into());
    }
    if let Some(language) = fields.shift_remove("language") {
        written.insert("lang".to_owned(), language);
    }
    if let Some(shard) = shard {
        written.insert("shard_id".to_owned(), shard.into());
    }
    fields.shift_remove("duration");
    written.extend(fields);
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_turns_become_messages() {
        let Value::Object(mut fields) = json!({"id": "x", "conversations": [
            {"from": "User", "value": "what?", "type": "text"},
            {"from": "User", "value": "a.wav", "type": "audio", "duration": 2.0, "offset": 1.0},
            {"from": "Assistant", "value": "yes", "type": "text"}]})
        else {
            unreachable!()
        };
        assert!(is_conversation(&fields));
        convert_conversation(&mut fields).unwrap();
        assert_eq!(
            Value::Object(fields),
            json!({"id": "x", "messages": [{"role": "user", "content": "what?<audio>"}, {"role": "assistant", "content": "yes"}],
                "audios": [{"duration": 2.0, "offset": 1.0, "audio": "a.wav"}]})
        );
    }

    #[test]
    fn tar_files_are_found_by_their_numbers() {
        for (name, number) in [
            ("audio_3.tar", Some(3)),
            ("audio__000012.tar", Some(12)),
            ("audio.tar", None),
            ("audio_3.tar.maqam-index", None),
        ] {
            assert_eq!(number_of(Path::new(name)), number, "{name}");
        }
        assert_eq!(without_sub("a-sub12.wav").as_deref(), Some("a.wav"));
        assert_eq!(without_sub("a-subx.wav"), None);
    }
}
