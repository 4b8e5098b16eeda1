//! WebDataset: members of a tar file that share a name are one row, each ending a field.

use serde_json::Map;
use serde_json::Value;

use crate::AudioSource;
use crate::Row;
use crate::formats::out::Out;
use crate::formats::out::stream;
use crate::formats::tar::Member;
use crate::formats::tar::Shard;
use crate::formats::tar::Writer;
use crate::formats::tar::is_audio;
use crate::row::Inside;
use crate::row::RawRow;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::json;

/// Fields of endings whose names are not those of the fields.
const ENDINGS: [(&str, &str); 9] = [
    ("txt", "text"),
    ("text", "text"),
    ("transcript", "text"),
    ("transcription", "text"),
    ("cls", "label"),
    ("label", "label"),
    ("lang", "language"),
    ("spk", "speaker"),
    ("id", "id"),
];

/// Field with the name of a row's members, as WebDataset names it.
const KEY: &str = "__key__";

/// Field with the names of members that are neither audio nor text.
const OTHERS: &str = "other_members";

/// Calls `found` with every row of a shard, counted from 1. The id is the row's key, with the
/// shard's name as prefix if `is_one_of_several`.
///
/// # Errors
/// Those of `found`; `found` gets the fault of a row whose JSON cannot be read.
pub fn read(
    shard: &Shard,
    is_one_of_several: bool,
    found: &mut dyn FnMut(u32, Result<RawRow>) -> Result<()>,
) -> Result<()> {
    let stem = shard.path.file_stem().unwrap_or_default().to_string_lossy();
    let mut number = 0;
    let mut start = 0;
    while start < shard.members.len() {
        let (key, _) = split(&shard.members[start].name);
        let end = shard.members[start..]
            .iter()
            .position(|member| split(&member.name).0 != key)
            .map_or(shard.members.len(), |more| start + more);
        let members = &shard.members[start..end];
        start = end;
        // Remarks of the shard as a whole begin with a dot or have no ending.
        if key.is_empty()
            || members
                .iter()
                .all(|member| split(&member.name).1.is_empty())
        {
            continue;
        }
        number += 1;
        let id = match is_one_of_several {
            true => format!("{stem}/{key}"),
            false => key.to_owned(),
        };
        found(number, row(number, shard, key, &id, members))?;
    }
    Ok(())
}

/// A member's key and ending, parted at the first dot of its last name.
fn split(name: &str) -> (&str, &str) {
    let name = name.strip_prefix("./").unwrap_or(name);
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[last..].find('.') {
        Some(dot) => (&name[..last + dot], &name[last + dot + 1..]),
        None => (name, ""),
    }
}

fn row(line: u32, shard: &Shard, key: &str, id: &str, members: &[Member]) -> Result<RawRow> {
    let mut raw = RawRow::new(line, Map::new());
    let mut others = Vec::new();
    for member in members {
        let (_, ending) = split(&member.name);
        let ending = ending.to_lowercase();
        if is_audio(&member.name) {
            raw.inside.push(Inside {
                source: AudioSource::Range {
                    file: shard.path.clone(),
                    start: member.start,
                    len: member.len,
                    member: member.name.clone(),
                },
                fields: Map::new(),
            });
            continue;
        }
        let Some(text) = &member.text else {
            if ending == "json" {
                return Err(Error::input("is longer than a mebibyte, or not UTF-8")
                    .at(format!("member `{}`", member.name)));
            }
            others.push(Value::from(&*member.name));
            continue;
        };
        if ending == "json" {
            let found: Value =
                json::parse(text).map_err(|e| e.at(format!("member `{}`", member.name)))?;
            match found {
                Value::Object(map) => {
                    for (name, value) in map {
                        raw.fields.insert(name, value);
                    }
                }
                other => {
                    raw.fields.insert("json".to_owned(), other);
                }
            }
            continue;
        }
        let field = ENDINGS
            .iter()
            .find(|(known, _)| *known == ending)
            .map_or(ending.as_str(), |(_, field)| field);
        let text = text.trim_end_matches(['\n', '\r']);
        match raw.fields.get(field) {
            Some(Value::String(known)) if known == text => {}
            // A field in the JSON takes precedence, and the member stays under its own name.
            Some(_) if field != ending => {
                raw.fields.insert(ending, text.into());
            }
            Some(_) => {}
            None => {
                raw.fields.insert(field.to_owned(), text.into());
            }
        }
    }
    if !raw.inside.is_empty() {
        // The audio is a member here; a path in the JSON is its earlier place.
        for name in ["audio", "audios"] {
            if let Some(before) = raw.fields.shift_remove(name) {
                raw.fields.insert(format!("original_{name}"), before);
            }
        }
    }
    match raw.fields.get("id") {
        Some(Value::String(own)) if own == key => {}
        Some(Value::Null) | None => {
            raw.fields.insert("id".to_owned(), id.into());
        }
        Some(_) => {
            raw.fields.insert(KEY.to_owned(), key.into());
        }
    }
    let is_empty = raw.inside.is_empty() && raw.fields.len() <= 1;
    if !others.is_empty() {
        raw.fields.insert(OTHERS.to_owned(), others.into());
    }
    if is_empty {
        return Err(Error::input(format!("`{key}` has neither audio nor text"))
            .hint("members are KEY.wav, KEY.txt, KEY.json and the like"));
    }
    Ok(raw)
}

/// Writes `000000.tar` and so on: of each row its audio, its transcript as `.txt`, and its fields
/// as `.json`.
///
/// # Errors
/// Audio that cannot be read; the disk's.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    let mut number = 0;
    for (shard, rows) in rows.chunks(out.settings.shard_rows).enumerate() {
        let path = out.path(&format!("{shard:06}.tar"));
        stream(&path, |file| {
            let failed = |e: std::io::Error| Error::io(&path, "write", e);
            let mut tar = Writer::new(file);
            for row in rows {
                let key = format!("{number:09}");
                number += 1;
                let mut fields = out.fields(row)?;
                for (i, clip) in row.clips.iter().enumerate() {
                    let ending = clip.source.ending()?;
                    let name = match row.clips.len() {
                        1 => format!("{key}.{ending}"),
                        _ => format!("{key}.{i}.{ending}"),
                    };
                    tar.add(&name, &clip.source.bytes()?).map_err(failed)?;
                    if row.clips.len() > 1 && clip.span != maqam_audio::Span::WHOLE {
                        return Err(Error::input("one of several clips is a part of its file")
                            .at(out.place_of(row))
                            .hint("cut the recordings first, or export to jsonl or parquet"));
                    }
                }
                if let Some(text) = &row.text {
                    tar.add(&format!("{key}.txt"), text.as_bytes())
                        .map_err(failed)?;
                }
                fields.shift_remove(KEY);
                let json = Value::Object(fields).to_string();
                tar.add(&format!("{key}.json"), json.as_bytes())
                    .map_err(failed)?;
            }
            tar.finish().map_err(failed)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(members: &[(&str, Option<&str>)]) -> Vec<String> {
        let shard = Shard {
            path: std::path::Path::new("s/a-000.tar").into(),
            members: members
                .iter()
                .map(|(name, text)| Member {
                    name: (*name).into(),
                    start: 512,
                    len: 4,
                    text: text.map(Into::into),
                })
                .collect(),
        };
        let mut rows = Vec::new();
        read(&shard, false, &mut |line, row| {
            rows.push(match row {
                Ok(row) => {
                    let audio: Vec<_> = row
                        .inside
                        .iter()
                        .map(|a| a.source.name().into_owned())
                        .collect();
                    format!("{line} {} {audio:?}", Value::Object(row.fields))
                }
                Err(error) => format!("{line} {}", error.message()),
            });
            Ok(())
        })
        .unwrap();
        rows
    }

    #[test]
    fn members_of_one_name_are_a_row() {
        assert_eq!(
            rows(&[
                ("d/1.flac", None),
                ("d/1.json", Some(r#"{"text": "x", "speaker": "s"}"#)),
                ("d/1.txt", Some("x\n")),
                ("d/2.left.wav", None),
                ("d/2.right.wav", None),
                ("d/2.cls", Some("3")),
                ("d/3.json", Some("{")),
                ("d/4.npy", None),
            ]),
            [
                r#"1 {"text":"x","speaker":"s","id":"d/1"} ["s/a-000.tar: d/1.flac"]"#,
                r#"2 {"label":"3","id":"d/2"} ["s/a-000.tar: d/2.left.wav", "s/a-000.tar: d/2.right.wav"]"#,
                "3 member `d/3.json`: column 1: not JSON: it ends inside an object",
                "4 `d/4` has neither audio nor text",
            ]
        );
    }
}
