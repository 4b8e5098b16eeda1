//! Kaldi folders: `wav.scp`, and next to it `segments`, `text`, `utt2spk` and other files with a
//! line per utterance.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;

use crate::Row;
use crate::formats::out::Base;
use crate::formats::out::Out;
use crate::formats::tar::is_audio;
use crate::row::RawRow;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::files::Lines;

/// The file that makes a folder one of Kaldi's.
pub const WAVS: &str = "wav.scp";

/// Files with a word or text per utterance, and the field of each.
const OF_UTTERANCE: [(&str, &str); 5] = [
    ("text", "text"),
    ("utt2spk", "speaker"),
    ("utt2lang", "language"),
    ("utt2dur", "duration"),
    ("utt2dialect", "dialect"),
];

/// Files with a word per speaker, and the field of each.
const OF_SPEAKER: [(&str, &str); 2] = [("spk2gender", "gender"), ("spk2age", "age")];

/// Lines of a file by their first word: line number and the rest of the line.
type Table = HashMap<String, (u32, String)>;

/// Calls `found` with every utterance: the lines of `segments` if there is such a file, else those
/// of `wav.scp`.
///
/// Other files named `utt2NAME` become fields `NAME`.
///
/// # Errors
/// Files that cannot be read; those of `found`. `found` gets the fault of an invalid line.
pub fn read(folder: &Path, found: &mut dyn FnMut(u32, Result<RawRow>) -> Result<()>) -> Result<()> {
    let recordings = table(&folder.join(WAVS))?;
    let known = KnownFields::read(folder)?;

    let segments = folder.join("segments");
    if segments.is_file() {
        let mut lines = Lines::open(&segments)?;
        while let Some((line, text)) = lines.next_line()? {
            let text = String::from_utf8_lossy(text).into_owned();
            if text.trim().is_empty() {
                continue;
            }
            let mut row = segment(&text, &recordings);
            if let Ok((id, of_row)) = &mut row {
                of_row.shift_remove("duration");
                known.add_to(id, of_row);
                of_row.shift_remove("duration");
            }
            found(line, row.map(|(_, fields)| RawRow::new(line, fields)))?;
        }
        return Ok(());
    }

    let mut ids: Vec<(&String, &(u32, String))> = recordings.iter().collect();
    ids.sort_by_key(|(_, (line, _))| *line);
    for (id, (line, path)) in ids {
        let row = audio(path).map(|path| {
            let mut fields_of = Map::new();
            fields_of.insert("id".to_owned(), id.as_str().into());
            fields_of.insert("audio".to_owned(), path.into());
            known.add_to(id, &mut fields_of);
            RawRow::new(*line, fields_of)
        });
        found(*line, row)?;
    }
    Ok(())
}

/// Fields of utterances and of speakers, by their files.
struct KnownFields {
    of_utterances: Vec<(String, Table)>,
    of_speakers: Vec<(&'static str, Table)>,
}

impl KnownFields {
    fn read(folder: &Path) -> Result<Self> {
        let mut of_utterances = Vec::new();
        for (file, field) in of_utterance(folder)? {
            of_utterances.push((field, table(&folder.join(file))?));
        }
        let mut of_speakers = Vec::new();
        for (file, field) in OF_SPEAKER {
            let path = folder.join(file);
            if path.is_file() {
                of_speakers.push((field, table(&path)?));
            }
        }
        Ok(Self {
            of_utterances,
            of_speakers,
        })
    }

    /// Adds what is known of an utterance and of its speaker to the fields of its row.
    fn add_to(&self, id: &str, fields: &mut Map<String, Value>) {
        for (name, table) in &self.of_utterances {
            if let Some((_, value)) = table.get(id) {
                fields.insert(name.clone(), value.as_str().into());
            }
        }
        let speaker = fields.get("speaker").and_then(Value::as_str);
        let Some(speaker) = speaker.map(str::to_owned) else {
            return;
        };
        for (name, table) in &self.of_speakers {
            if let Some((_, value)) = table.get(&speaker) {
                fields.insert((*name).to_owned(), value.as_str().into());
            }
        }
    }
}

/// Every file of a folder that [`read`] reads.
///
/// # Errors
/// A folder that cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names: Vec<String> = of_utterance(folder)?.into_keys().collect();
    names.extend(OF_SPEAKER.iter().map(|(file, _)| (*file).to_owned()));
    names.extend([WAVS.to_owned(), "segments".to_owned()]);
    names.sort();
    let paths = names.into_iter().map(|name| folder.join(name));
    Ok(paths.filter(|path| path.is_file()).collect())
}

/// Files with a line per utterance, and the field of each.
fn of_utterance(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files: BTreeMap<String, String> = OF_UTTERANCE
        .iter()
        .map(|(file, field)| ((*file).to_owned(), (*field).to_owned()))
        .collect();
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let field = name
            .strip_prefix("utt2")
            .filter(|field| field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
            .filter(|field| !matches!(*field, "num_frames" | "uniq" | ""));
        if let Some(field) = field
            && !files.contains_key(&name)
        {
            files.insert(name.clone(), field.to_owned());
        }
    }
    files.retain(|file, _| folder.join(file).is_file());
    Ok(files)
}

/// A row of `segments`: utterance, recording, beginning and end in seconds.
fn segment(text: &str, recordings: &Table) -> Result<(String, Map<String, Value>)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [id, recording, start, end] = words.as_slice() else {
        return Err(
            Error::input(format!("{} words in a line of `segments`", words.len()))
                .hint("write UTTERANCE RECORDING START END, both in seconds"),
        );
    };
    let Some((_, path)) = recordings.get(*recording) else {
        return Err(
            Error::input(format!("recording `{recording}` is not in {WAVS}"))
                .hint("run Kaldi's `utils/fix_data_dir.sh` on the folder"),
        );
    };
    let mut fields = Map::new();
    fields.insert("id".to_owned(), (*id).into());
    fields.insert("audio".to_owned(), audio(path)?.into());
    fields.insert("start_s".to_owned(), (*start).into());
    // -1 means the end of the recording in Kaldi.
    if *end != "-1" {
        fields.insert("end_s".to_owned(), (*end).into());
    }
    fields.insert("recording_id".to_owned(), (*recording).into());
    Ok(((*id).to_owned(), fields))
}

/// Programs that print a file as WAV; what they do with its sampling rate is done again here.
const DECODERS: [&str; 8] = [
    "flac", "ffmpeg", "cat", "opusdec", "oggdec", "mpg123", "lame", "sph2pipe",
];

/// Options that print another thing than the whole file.
const PARTS: [&str; 12] = [
    "-ss",
    "-t",
    "-to",
    "-sseof",
    "-af",
    "-filter:a",
    "-filter_complex",
    "--skip",
    "--until",
    "-c1",
    "-c2",
    "-n",
];

/// The file of an entry of `wav.scp`. A command that only decodes a file counts as that file.
fn audio(entry: &str) -> Result<&str> {
    let entry = entry.trim();
    if entry.is_empty() {
        return Err(
            Error::input(format!("no path behind the name in {WAVS}")).hint("write NAME PATH")
        );
    }
    let Some(command) = entry.strip_suffix('|') else {
        return Ok(entry);
    };
    decoded(command).ok_or_else(|| {
        let shown: String = entry.chars().take(60).collect();
        Error::input(format!("the audio is what a command prints: `{shown}`")).hint(
            "name the file that the command reads, or write its output to a file, for example with `wav-copy`",
        )
    })
}

/// The one file that a command decodes whole.
fn decoded(command: &str) -> Option<&str> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let program = words.first()?.rsplit('/').next()?;
    let is_plain = DECODERS.contains(&program)
        && !command.contains(['|', ';', '&', '$', '`', '"', '\''])
        && !words.iter().any(|word| PARTS.contains(word));
    // The first channel of the first stream is all that a mono file has; of others it would be a
    // part.
    let channels = words
        .iter()
        .position(|word| *word == "-map_channel")
        .map(|at| words.get(at + 1).copied().unwrap_or_default());
    if !is_plain || channels.is_some_and(|channel| channel != "0.0.0") {
        return None;
    }
    let mut files = words[1..].iter().filter(|word| is_audio(word));
    match (files.next(), files.next()) {
        (Some(file), None) => Some(file),
        _ => None,
    }
}

/// Reads a file of lines that begin with a name: the rest of the line, and the line number.
fn table(path: &Path) -> Result<Table> {
    let mut lines = Lines::open(path)?;
    let mut table = Table::new();
    while let Some((line, text)) = lines.next_line()? {
        let text = std::str::from_utf8(text)
            .map_err(|e| {
                maqam_base::json::not_utf8(text, e.valid_up_to())
                    .at(format!("{}:{line}", path.display()))
            })?
            .trim();
        if text.is_empty() {
            continue;
        }
        let (name, value) = match text.split_once(char::is_whitespace) {
            Some((name, value)) => (name, value.trim()),
            None => (text, ""),
        };
        let before = table.insert(name.to_owned(), (line, value.to_owned()));
        if let Some((before, _)) = before {
            return Err(
                Error::input(format!("`{name}` was there before, in line {before}"))
                    .at(format!("{}:{line}", path.display()))
                    .hint("run Kaldi's `utils/fix_data_dir.sh` on the folder"),
            );
        }
    }
    Ok(table)
}

/// Writes `wav.scp`, `segments`, `text`, `utt2spk`, `spk2utt` and a file `utt2NAME` for each other
/// field.
///
/// # Errors
/// A row with no or several clips, with one channel, or with an id that has spaces; those of the
/// disk.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| a.id.as_bytes().cmp(b.id.as_bytes()));
    let has_parts = rows
        .iter()
        .flat_map(|row| &row.clips)
        .any(|clip| clip.span.is_part());
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut of_speakers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut recordings: BTreeMap<String, String> = BTreeMap::new();
    for row in sorted {
        let id = &*row.id;
        let clip = out.only_clip(row)?;
        let speaker = row.speaker.as_deref().unwrap_or(id);
        for name in [id, speaker] {
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(Error::input(format!(
                    "`{name}` names nothing in Kaldi: it is no word"
                ))
                .at(out.place_of(row))
                .hint("give ids and speakers names without spaces"));
            }
        }
        if clip.span.channel.is_some() {
            return Err(Error::input(
                "one channel of a recording; Kaldi's folders name whole files",
            )
            .at(out.place_of(row))
            .hint("write the channel to a file of its own"));
        }
        let path = out.audio(row, clip, Base::Process)?;
        let mut fields = out.fields(row)?;
        let mut add = |file: &str, value: &str| {
            files
                .entry(file.to_owned())
                .or_default()
                .push(format!("{id} {}", one_line(value)));
        };
        if has_parts {
            let name = match recordings.get(&path) {
                Some(name) => name.clone(),
                None => {
                    let name = format!("rec-{:07}", recordings.len());
                    recordings.insert(path, name.clone());
                    name
                }
            };
            let start = clip.span.start_s.unwrap_or(0.0);
            let end = clip
                .span
                .end_s
                .map_or("-1".to_owned(), |end| end.to_string());
            add("segments", &format!("{name} {start} {end}"));
        } else {
            add(WAVS, &path);
        }
        add("utt2spk", speaker);
        of_speakers.entry(speaker.to_owned()).or_default().push(id);
        for name in ["id", "start_s", "end_s", "speaker"] {
            fields.shift_remove(name);
        }
        add("text", row.text.as_deref().unwrap_or_default());
        fields.shift_remove("text");
        let mut lost = Vec::new();
        for (name, value) in fields {
            let file = match name.as_str() {
                "language" => "utt2lang".to_owned(),
                "duration" => "utt2dur".to_owned(),
                name => format!("utt2{name}"),
            };
            let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            match (is_word, &value) {
                (false, _) => lost.push(name),
                (true, Value::String(text)) => add(&file, text),
                (true, value) => add(&file, &value.to_string()),
            }
        }
        lost.iter().for_each(|name| out.lose(name));
    }
    if has_parts {
        let mut wavs: Vec<String> = recordings
            .iter()
            .map(|(path, name)| format!("{name} {path}"))
            .collect();
        wavs.sort();
        files.insert(WAVS.to_owned(), wavs);
    }
    let of_speakers = of_speakers
        .iter()
        .map(|(speaker, ids)| format!("{speaker} {}", ids.join(" ")));
    files.insert("spk2utt".to_owned(), of_speakers.collect());
    for (name, lines) in files {
        let text = lines.join("\n") + "\n";
        files::write_atomic(&out.path(&name), text.as_bytes())?;
    }
    Ok(())
}

/// A value on one line.
fn one_line(value: &str) -> String {
    value.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let mut rows = Vec::new();
        read(dir.path(), &mut |line, row| {
            rows.push(match row {
                Ok(row) => format!("{line} {}", Value::Object(row.fields)),
                Err(error) => format!("{line} {}", error.message()),
            });
            Ok(())
        })
        .unwrap();
        rows
    }

    #[test]
    fn utterances_are_rows() {
        assert_eq!(
            rows(&[
                (
                    "wav.scp",
                    "b flac -c -d -s b.flac |\na /data/a b.wav\nc sox c.wav -t wav - speed 1.1 |\n",
                ),
                ("text", "a one two\nb \n"),
                ("utt2spk", "a s1\nb s2\n"),
                ("utt2snr", "a 12\n"),
                ("spk2gender", "s1 f\n"),
            ]),
            [
                r#"1 {"id":"b","audio":"b.flac","text":"","speaker":"s2"}"#,
                r#"2 {"id":"a","audio":"/data/a b.wav","text":"one two","snr":"12","speaker":"s1","gender":"f"}"#,
                "3 the audio is what a command prints: `sox c.wav -t wav - speed 1.1 |`",
            ]
        );
    }

    #[test]
    fn segments_are_parts_of_recordings() {
        assert_eq!(
            rows(&[
                ("wav.scp", "r r.wav\n"),
                ("segments", "u1 r 0.5 1.5\nu2 r 1.5 -1\nu3 x 0 1\n"),
                ("text", "u1 one\nu2 two\n"),
                ("utt2dur", "u1 1.0\n"),
            ]),
            [
                r#"1 {"id":"u1","audio":"r.wav","start_s":"0.5","end_s":"1.5","recording_id":"r","text":"one"}"#,
                r#"2 {"id":"u2","audio":"r.wav","start_s":"1.5","recording_id":"r","text":"two"}"#,
                "3 recording `x` is not in wav.scp",
            ]
        );
    }
}
