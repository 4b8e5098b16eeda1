//! Interpretation of the rows of one file, from its first row or from settings, the same for all
//! rows.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;

use crate::Format;
use crate::Source;
use crate::form::Form;
use crate::formats::lhotse;
use crate::formats::llama_factory::Naming;
use crate::formats::llama_factory::naming_of;
use crate::formats::mappings::Mapping;
use crate::formats::mappings::Mappings;
use crate::formats::nemo;
use crate::formats::nemo::Tars;
use crate::formats::qwen3_asr;
use crate::formats::tar::is_audio;
use crate::row::FIELDS;
use crate::row::RawRow;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Fields that may hold a row's audio.
const AUDIO: [&str; 4] = ["audio", "audios", "audio_filepath", "audio_path"];

/// Fields of which a row with audio needs one, to have a target or a reference.
const CONTENT: [&str; 10] = [
    "text",
    "summary",
    "label",
    "target",
    "instruction",
    "messages",
    "conversations",
    "query",
    "references",
    "task",
];

/// Fields of a row with its own conversation, with or without audio inside it.
const CONVERSATIONS: [&str; 3] = ["messages", "conversations", "query"];

/// Columns that a message shows at most.
const MOST_SHOWN: usize = 8;

/// Conversion of a file's rows to maqam's rows.
pub struct Meaning {
    kind: Conversion,
    /// A column that is read as the text of rows without a text.
    likely_text: Option<&'static str>,
    /// Folder where relative audio paths start.
    pub audio_folder: Option<PathBuf>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

enum Conversion {
    Native,
    Mapped(&'static Mapping),
    Named(Naming),
    Lhotse,
    NemoConversation,
    NemoTarred(Tars),
    Qwen3Asr,
}

impl Meaning {
    /// The interpretation for a file by its first row, to which `source` has applied its column
    /// names.
    ///
    /// # Errors
    /// A file with unknown columns, with the line to add.
    pub fn of(first: &RawRow, source: &Source, file: &Path, form: Form) -> Result<Self> {
        let kind = kind(first, source, file)?;
        let mut meaning = Self {
            audio_folder: None,
            likely_text: None,
            notes: Vec::new(),
            kind,
        };
        if let Conversion::Mapped(mapping) = &meaning.kind
            && let (Some(folder), None) = (&mapping.folder, &source.audio_root)
        {
            let folder = file.with_file_name(folder);
            meaning.audio_folder = folder.is_dir().then_some(folder);
        }

        // The rest checks the converted row.
        let mut row = RawRow::new(first.line, first.fields.clone());
        if !matches!(meaning.kind, Conversion::NemoTarred(_)) && meaning.convert(&mut row).is_err()
        {
            return Ok(meaning);
        }
        let has_audio = !first.inside.is_empty() || has_any(&row.fields, &AUDIO);
        let has_content = has_any(&row.fields, &CONTENT);
        let mappings = Mappings::get()?;
        if has_audio && !has_content {
            meaning.likely_text = mappings.likely("text", &row.fields);
            meaning.notes.extend(meaning.likely_text.map(|column| {
                format!(
                    "`{column}` is read as `text`; say `columns: {{text: {column}}}` or another column"
                )
            }));
        }
        if !has_audio && !has_any(&row.fields, &CONVERSATIONS) {
            let error = unnamed(&row.fields, mappings, has_content, form);
            let is_table = matches!(form, Form::Table(_) | Form::Parquet | Form::Arrow);
            match error {
                // maqam's own rows may have only texts, and a field that resembles audio.
                Some(error) if has_content && !is_table => meaning.notes.push(error.one_line()),
                Some(error) => return Err(error.at_path(file)),
                None => {}
            }
        }
        if has_audio && !has_any(&row.fields, &["speaker"]) {
            let column = mappings.likely("speaker", &row.fields);
            meaning.notes.extend(column.map(|column| {
                format!(
                    "`{column}` looks like the speaker; say `columns: {{speaker: {column}}}`, or `--columns speaker={column}` to a command, so that parts and intervals go by speakers"
                )
            }));
        }
        Ok(meaning)
    }

    /// Returns whether rows are maqam's rows already, and [`Meaning::convert`] changes nothing.
    pub fn keeps_fields(&self) -> bool {
        matches!(self.kind, Conversion::Native)
            && self.likely_text.is_none()
            && self.audio_folder.is_none()
    }

    /// Converts a row to one of maqam's rows.
    ///
    /// # Errors
    /// The fault of the row.
    pub fn convert(&mut self, raw: &mut RawRow) -> Result<()> {
        match &mut self.kind {
            Conversion::Native => {}
            Conversion::Mapped(mapping) => {
                mapping
                    .columns
                    .apply(&mut raw.fields, &mut std::collections::BTreeSet::new());
                for field in &mapping.lower {
                    if let Some(Value::String(text)) = raw.fields.get_mut(field) {
                        *text = text.to_lowercase();
                    }
                }
            }
            Conversion::Named(naming) => naming.apply(&mut raw.fields),
            Conversion::Lhotse => lhotse::convert(&mut raw.fields, lhotse::Audio::Named)?,
            Conversion::NemoConversation => nemo::convert_conversation(&mut raw.fields)?,
            Conversion::NemoTarred(tars) => tars.convert(raw)?,
            Conversion::Qwen3Asr => qwen3_asr::convert(&mut raw.fields),
        }
        if let Some(column) = self.likely_text
            && !raw.fields.contains_key("text")
            && let Some(text) = raw.fields.shift_remove(column)
        {
            raw.fields.insert("text".to_owned(), text);
        }
        Ok(())
    }
}

fn kind(first: &RawRow, source: &Source, file: &Path) -> Result<Conversion> {
    let fields = &first.fields;
    let tars = || {
        let beside = file.parent().unwrap_or(Path::new("")).to_owned();
        let above = beside.join("..");
        let root = source.audio_root.clone();
        Tars::new(root.into_iter().chain([beside, above]).collect())
    };
    let by_rows = || match () {
        () if lhotse::is_cut(fields) => Some(Conversion::Lhotse),
        () if nemo::is_tarred(fields) => Some(Conversion::NemoTarred(tars())),
        () if nemo::is_conversation(fields) => Some(Conversion::NemoConversation),
        () if qwen3_asr::is_row(fields) => Some(Conversion::Qwen3Asr),
        () => None,
    };
    let mappings = Mappings::get()?;
    let mapped = |format: Option<&str>| mappings.of(fields, format).map(Conversion::Mapped);
    let found = match source.format {
        Some(Format::Jsonl | Format::Parquet | Format::MsSwift) => None,
        Some(Format::Lhotse) => Some(Conversion::Lhotse),
        Some(Format::Qwen3Asr) => Some(Conversion::Qwen3Asr),
        Some(Format::Nemo) => by_rows(),
        Some(Format::LlamaFactory) => naming_of(file)?.map(Conversion::Named),
        Some(format @ (Format::SlamLlm | Format::CommonVoice | Format::HuggingFace)) => {
            mapped(Some(format.name()))
        }
        Some(Format::Csv | Format::Tsv) => mapped(None),
        Some(_) => None,
        None => match naming_of(file)? {
            Some(naming) => Some(Conversion::Named(naming)),
            None => match by_rows() {
                Some(kind) => Some(kind),
                // A row with maqam's audio fields keeps its fields.
                None if has_any(fields, &AUDIO) || !first.inside.is_empty() => None,
                None => mapped(None),
            },
        },
    };
    Ok(found.unwrap_or(Conversion::Native))
}

fn has_any(fields: &Map<String, Value>, names: &[&str]) -> bool {
    names
        .iter()
        .any(|name| fields.get(*name).is_some_and(|value| !value.is_null()))
}

/// The error for rows with audio or text in unknown columns, with the line to add.
fn unnamed(
    fields: &Map<String, Value>,
    mappings: &Mappings,
    has_content: bool,
    form: Form,
) -> Option<Error> {
    let is_path = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| is_audio(text) && !text.contains(char::is_whitespace))
    };
    let by_value = || {
        fields
            .iter()
            .find(|(name, value)| !FIELDS.contains(&name.as_str()) && is_path(value))
            .map(|(name, _)| name.as_str())
    };
    let by_name = || {
        mappings
            .likely("audio", fields)
            .filter(|name| !has_content && fields[*name].is_string())
    };
    let audio = by_value().or_else(by_name);
    let text = match has_content {
        true => None,
        false => ["text", "label", "summary"]
            .into_iter()
            .find_map(|field| Some((field, mappings.likely(field, fields)?))),
    };
    let mut pairs: Vec<String> = audio
        .map(|column| format!("audio: {column}"))
        .into_iter()
        .chain(text.map(|(field, column)| format!("{field}: {column}")))
        .collect();
    if !pairs.is_empty() && !has_any(fields, &["speaker"]) {
        let speaker = mappings.likely("speaker", fields);
        pairs.extend(speaker.map(|column| format!("speaker: {column}")));
    }
    let is_table = matches!(form, Form::Table(_) | Form::Parquet | Form::Arrow);
    if pairs.is_empty() && (has_content || !is_table) {
        return None;
    }

    let all: Vec<&str> = fields.keys().map(String::as_str).take(MOST_SHOWN).collect();
    let dots = if fields.len() > MOST_SHOWN {
        ", ..."
    } else {
        ""
    };
    let found = Error::input(format!(
        "this is {} with columns {}{dots}",
        form.named(),
        all.join(", ")
    ));
    Some(match pairs.is_empty() {
        true => {
            found.hint("say which column is which field: `columns: {audio: COLUMN, text: COLUMN}`")
        }
        false => found.hint(format!(
            "add `columns: {{{}}}` to the entry, or `--columns {}` to the command",
            pairs.join(", "),
            pairs.join(",").replace(": ", "=")
        )),
    })
}
