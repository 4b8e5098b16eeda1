//! LLaMA-Factory: `dataset_info.json` names the file of a data set and the names of its rows'
//! fields.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::Columns;
use crate::Role;
use crate::Row;
use crate::formats::ms_swift;
use crate::formats::out::Base;
use crate::formats::out::Out;
use crate::formats::out::line;
use crate::formats::out::stream;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;

/// The file that describes data sets.
pub const INFO: &str = "dataset_info.json";

/// Columns that `dataset_info.json` may name, and the field that each is.
const COLUMNS: [(&str, &str); 9] = [
    ("messages", "messages"),
    ("audios", "audios"),
    ("system", "system"),
    ("prompt", "instruction"),
    ("query", "input"),
    ("response", "output"),
    ("history", "history"),
    ("images", "images"),
    ("videos", "videos"),
];

/// Names that messages use, and those that they use here.
#[derive(Clone, Debug, PartialEq)]
pub struct Naming {
    columns: Columns,
    role: String,
    content: String,
    roles: Vec<(String, &'static str)>,
}

/// A data set of a `dataset_info.json`.
struct DataSet {
    name: String,
    file: String,
    about: Map<String, Value>,
}

fn data_sets(info: &Path) -> Result<Vec<DataSet>> {
    let found: Value = json::parse(&files::read_text(info)?).map_err(|e| e.at_path(info))?;
    let sets = found.as_object().into_iter().flatten();
    Ok(sets
        .filter_map(|(name, about)| {
            Some(DataSet {
                name: name.clone(),
                file: about["file_name"].as_str()?.to_owned(),
                about: about.as_object()?.clone(),
            })
        })
        .collect())
}

/// The file of the only data set in a `dataset_info.json`; none if it describes no data set by its
/// file.
///
/// # Errors
/// Several data sets, of which one must be named.
pub fn file_of(info: &Path) -> Result<Option<PathBuf>> {
    let sets = data_sets(info)?;
    match sets.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(info.with_file_name(&one.file))),
        sets => {
            let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
            Err(
                Error::input(format!("describes several data sets: {}", names.join(", ")))
                    .at_path(info)
                    .hint(format!(
                        "name the file of one, such as {}",
                        info.with_file_name(&sets[0].file).display()
                    )),
            )
        }
    }
}

/// The field names of a file, if a `dataset_info.json` next to the file describes it.
///
/// # Errors
/// A description that cannot be read.
pub fn naming_of(file: &Path) -> Result<Option<Naming>> {
    let info = file.with_file_name(INFO);
    if !info.is_file() || file.file_name().is_some_and(|name| name == INFO) {
        return Ok(None);
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let set = data_sets(&info)?.into_iter().find(|set| set.file == name);
    Ok(set.map(|set| naming(&set.about)))
}

fn naming(about: &Map<String, Value>) -> Naming {
    let is_sharegpt = about.get("formatting").and_then(Value::as_str) == Some("sharegpt");
    let text = |section: &str, key: &str, otherwise: &str| {
        about
            .get(section)
            .and_then(|section| section[key].as_str())
            .unwrap_or(otherwise)
            .to_owned()
    };
    let mut pairs = Vec::new();
    for (key, field) in COLUMNS {
        let written = about
            .get("columns")
            .and_then(|columns| columns[key].as_str());
        let default = (key == "messages" && is_sharegpt).then_some("conversations");
        if let Some(column) = written.or(default) {
            pairs.push((field.to_owned(), column.to_owned()));
        }
    }
    Naming {
        columns: Columns::new(pairs).unwrap_or_default(),
        role: text("tags", "role_tag", "from"),
        content: text("tags", "content_tag", "value"),
        roles: vec![
            (text("tags", "user_tag", "human"), "user"),
            (text("tags", "assistant_tag", "gpt"), "assistant"),
            (text("tags", "system_tag", "system"), "system"),
        ],
    }
}

impl Naming {
    /// Renames a row's fields, and those of its messages, to maqam's names.
    pub fn apply(&self, fields: &mut Map<String, Value>) {
        self.columns
            .apply(fields, &mut std::collections::BTreeSet::new());
        let Some(Value::Array(messages)) = fields.get_mut("messages") else {
            return;
        };
        for message in messages {
            let Some(message) = message.as_object_mut() else {
                continue;
            };
            let role = message.shift_remove(&self.role);
            let content = message.shift_remove(&self.content);
            if let Some(role) = role {
                let known = role
                    .as_str()
                    .and_then(|role| self.roles.iter().find(|(written, _)| written == role));
                let role = known.map_or(role.clone(), |(_, role)| (*role).into());
                message.insert("role".to_owned(), role);
            }
            if let Some(content) = content {
                message.insert("content".to_owned(), content);
            }
        }
    }
}

/// Writes `maqam.json` and the `dataset_info.json` that describes it.
///
/// # Errors
/// A row without conversation, or one with a clip that is a part of its file; those of the disk.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    let path = out.path("maqam.json");
    let mut has_audio = false;
    stream(&path, |file| {
        for (i, row) in rows.iter().enumerate() {
            has_audio |= !row.clips.is_empty();
            let start = if i == 0 { "[" } else { "," };
            let text = Value::Object(conversation(out, row)?).to_string();
            line(file, &format!("{start}{text}"), &path)?;
        }
        line(file, "]", &path)
    })?;

    let mut columns = json!({"messages": "conversations", "system": "system"});
    if has_audio {
        columns["audios"] = "audios".into();
    }
    let info =
        json!({"maqam": {"file_name": "maqam.json", "formatting": "sharegpt", "columns": columns}});
    let info = serde_json::to_string_pretty(&info).map_err(Error::bug_from)?;
    files::write_atomic(&out.path(INFO), info.as_bytes())
}

fn conversation(out: &mut Out<'_>, row: &Row) -> Result<Map<String, Value>> {
    let mut fields = ms_swift::without_part(out.fields(row)?);
    fields.shift_remove("messages");
    let mut messages = out.conversation(row)?;
    let has_system = messages.first().is_some_and(|m| m.role == Role::System);
    // Every row has the field, because a table has the columns of its first row.
    let system = match has_system {
        true => messages.remove(0).content,
        false => String::new(),
    };
    let turns: Vec<Value> = messages
        .iter()
        .map(|message| {
            let from = match message.role {
                Role::System => "system",
                Role::User => "human",
                Role::Assistant => "gpt",
            };
            let mut turn = json!({"from": from, "value": message.content});
            if !message.loss {
                turn["loss"] = false.into();
            }
            turn
        })
        .collect();
    fields.insert("conversations".to_owned(), turns.into());
    fields.insert("system".to_owned(), system.into());
    fields.insert(
        "audios".to_owned(),
        ms_swift::paths(out, row, Base::Manifest)?,
    );
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_roles_follow_dataset_info() {
        let about = json!({"file_name": "x.json", "formatting": "sharegpt",
            "columns": {"messages": "dialog", "audios": "sounds"},
            "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "u", "assistant_tag": "a"}});
        let naming = naming(about.as_object().unwrap());
        let Value::Object(mut row) = json!({"dialog": [{"who": "u", "what": "<audio>?"}, {"who": "a", "what": "!"}], "sounds": ["a.wav"], "n": 1})
        else {
            unreachable!()
        };
        naming.apply(&mut row);
        assert_eq!(
            Value::Object(row),
            json!({"n": 1, "audios": ["a.wav"], "messages": [{"role": "user", "content": "<audio>?"}, {"role": "assistant", "content": "!"}]})
        );
    }
}
