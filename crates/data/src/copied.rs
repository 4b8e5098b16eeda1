//! Rows copied from one manifest to another.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::AudioSource;
use crate::Clip;
use crate::Row;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Folder beside a written manifest for audio that rows brought inside them.
const AUDIO_FOLDER: &str = "audio";

/// The folder that a file lies in.
pub fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A row as a line of a manifest in `folder`. Audio that the row brings inside it is written to a
/// folder beside that manifest.
///
/// # Errors
/// A disk that does not take the audio.
pub fn copied_row(row: &Row, folder: &Path) -> Result<Vec<u8>> {
    let fields = row.to_json(|clip| place(clip, folder))?;
    let mut line = Value::Object(fields).to_string().into_bytes();
    line.push(b'\n');
    Ok(line)
}

fn place(clip: &Clip, folder: &Path) -> Result<Value> {
    let AudioSource::Embedded { bytes, .. } = &clip.source else {
        return clip.source.to_json(folder);
    };
    let hash = blake3::hash(bytes).to_hex();
    let name = format!("{}.{}", &hash[..32], clip.source.ending()?);
    let path = folder.join(AUDIO_FOLDER).join(&name);
    if !path.exists() {
        files::write_atomic(&path, bytes)?;
    }
    Ok(format!("{AUDIO_FOLDER}/{name}").into())
}

/// Changes lines of a manifest into lines of one in another folder: nothing but the audio's path
/// and the split's name changes.
pub struct Relocation {
    /// The old folder as seen from the new one.
    prefix: String,
}

/// A line without the name of its split.
#[derive(Debug, PartialEq)]
pub struct Copied {
    before: Vec<u8>,
    /// What follows the name; none where the line has no split.
    after: Option<Vec<u8>>,
}

impl Copied {
    /// Returns the pieces of the line as one of this split; together they end a line.
    pub fn of_split<'a>(&'a self, split: &'a str) -> [&'a [u8]; 3] {
        match &self.after {
            None => [&self.before, b"", b""],
            Some(after) => [&self.before, split.as_bytes(), after],
        }
    }
}

impl Relocation {
    /// Lines go from a manifest whose paths start in `from` to one in the folder `to`.
    ///
    /// # Errors
    /// A folder that the system cannot make absolute.
    pub fn new(from: &Path, to: &Path) -> Result<Self> {
        let prefix = files::relative(to, from)?
            .to_string_lossy()
            .replace('\\', "/");
        Ok(Self { prefix })
    }

    /// Copies a line. `audio` and `split` are what it says in these fields, borrowed from it where
    /// that is possible.
    ///
    /// # Errors
    /// A line that is no JSON object.
    pub fn copied(
        &self,
        line: &[u8],
        audio: Option<&Cow<'_, str>>,
        split: Option<&Cow<'_, str>>,
    ) -> Result<Copied> {
        let audio = audio.filter(|audio| self.moves(audio));
        let is_escaped = |text: Option<&Cow<'_, str>>| matches!(text, Some(Cow::Owned(_)));
        if is_escaped(audio) || is_escaped(split) {
            return self.written_anew(line, audio, split.is_some());
        }
        // Places of both texts in the line, with what comes instead; nothing for the split's name.
        let place = |text: &str| {
            let start = text.as_ptr() as usize - line.as_ptr() as usize;
            start..start + text.len()
        };
        let mut edits = Vec::with_capacity(2);
        if let Some(audio) = audio {
            let moved = serde_json::to_string(&self.moved(audio)).map_err(Error::bug_from)?;
            // Without its quotation marks, which stand in the line.
            let moved = moved.as_bytes()[1..moved.len() - 1].to_vec();
            edits.push((place(audio), Some(moved)));
        }
        edits.extend(split.map(|split| (place(split), None)));
        edits.sort_by_key(|(place, _)| place.start);

        let mut before = Vec::with_capacity(line.len() + self.prefix.len() + 2);
        let mut after = None;
        let mut done = 0;
        for (place, text) in edits {
            let piece = after.as_mut().unwrap_or(&mut before);
            piece.extend_from_slice(&line[done..place.start]);
            match text {
                Some(text) => piece.extend(text),
                None => after = Some(Vec::new()),
            }
            done = place.end;
        }
        let piece = after.as_mut().unwrap_or(&mut before);
        piece.extend_from_slice(&line[done..]);
        piece.push(b'\n');
        Ok(Copied { before, after })
    }

    /// Copies a line whose texts cannot be changed in their places, because they are written with
    /// escapes.
    fn written_anew(
        &self,
        line: &[u8],
        audio: Option<&Cow<'_, str>>,
        has_split: bool,
    ) -> Result<Copied> {
        let mut row: Map<String, Value> =
            serde_json::from_slice(line).map_err(|e| Error::input(&e).caused_by(e))?;
        if let Some(audio) = audio {
            row.insert("audio".to_owned(), self.moved(audio).into());
        }
        if !has_split {
            let mut before = Value::Object(row).to_string().into_bytes();
            before.push(b'\n');
            return Ok(Copied {
                before,
                after: None,
            });
        }
        row.shift_remove("split");
        let mut before = Value::Object(row).to_string().into_bytes();
        before.pop();
        before.extend(b",\"split\":\"");
        Ok(Copied {
            before,
            after: Some(b"\"}\n".to_vec()),
        })
    }

    fn moved(&self, audio: &str) -> String {
        format!("{}/{audio}", self.prefix)
    }

    fn moves(&self, audio: &str) -> bool {
        !self.prefix.is_empty() && !audio.contains("://") && Path::new(audio).is_relative()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The copy of a line, whose audio and split are found in it, as one of `dev`.
    fn copied(relocation: &Relocation, line: &str, audio: &str, split: Option<&str>) -> String {
        let find = |text: &str| {
            let start = line.find(text).unwrap();
            Cow::Borrowed(&line[start..start + text.len()])
        };
        let split = split.map(find);
        let copy = relocation
            .copied(line.as_bytes(), Some(&find(audio)), split.as_ref())
            .unwrap();
        String::from_utf8(copy.of_split("dev").concat()).unwrap()
    }

    #[test]
    fn only_path_and_split_of_a_line_change() {
        let relocation = Relocation::new(Path::new("sets/a"), Path::new("out")).unwrap();
        assert_eq!(
            copied(
                &relocation,
                r#"{"b":1.50, "audio" :"x.wav","a": 2}"#,
                "x.wav",
                None
            ),
            "{\"b\":1.50, \"audio\" :\"../sets/a/x.wav\",\"a\": 2}\n"
        );
        assert_eq!(
            copied(
                &relocation,
                r#"{"split": "train", "audio": "x.wav", "n": 1}"#,
                "x.wav",
                Some("train")
            ),
            "{\"split\": \"dev\", \"audio\": \"../sets/a/x.wav\", \"n\": 1}\n"
        );
        assert_eq!(
            copied(
                &relocation,
                r#"{"audio": "x.wav", "split": "train"}"#,
                "x.wav",
                Some("train")
            ),
            "{\"audio\": \"../sets/a/x.wav\", \"split\": \"dev\"}\n"
        );
        assert_eq!(
            copied(&relocation, r#"{"audio": "/x.wav"}"#, "/x.wav", None),
            "{\"audio\": \"/x.wav\"}\n"
        );
        let nearby = Relocation::new(Path::new("out"), Path::new("out")).unwrap();
        assert_eq!(
            copied(&nearby, r#"{"audio":"x"}"#, "x", None),
            "{\"audio\":\"x\"}\n"
        );
        let without = relocation.copied(b"{}", None, None).unwrap();
        assert_eq!(without.of_split("dev").concat(), b"{}\n");
    }

    #[test]
    fn escaped_texts_are_written_anew() {
        let relocation = Relocation::new(Path::new("sets/a"), Path::new("out")).unwrap();
        let line = br#"{"audio": "a\\b.wav", "split": "train", "n": 1}"#;
        let audio = Cow::Owned(r"a\b.wav".to_owned());
        let split = Cow::Borrowed("train");
        let copy = relocation.copied(line, Some(&audio), Some(&split)).unwrap();
        assert_eq!(
            String::from_utf8(copy.of_split("dev").concat()).unwrap(),
            "{\"audio\":\"../sets/a/a\\\\b.wav\",\"n\":1,\"split\":\"dev\"}\n"
        );
        let copy = relocation
            .copied(br#"{"audio": "a\\b.wav"}"#, Some(&audio), None)
            .unwrap();
        assert_eq!(
            copy.of_split("dev").concat(),
            b"{\"audio\":\"../sets/a/a\\\\b.wav\"}\n"
        );
    }
}
