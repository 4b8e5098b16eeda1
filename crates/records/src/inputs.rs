//! `inputs.json`: what a run was computed from, so that a resume finds out whether it is still the
//! same.
//!
//! Manifests, suites and task files are hashed in `state.json`. Here are the files of the model,
//! the rows that left the pool, and every clip that was trained or evaluated on: its size and a
//! hash of its first and last 64 KiB.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;
use maqam_data::Clip;

/// Name of the file in a run's folder.
pub const INPUTS_FILE: &str = "inputs.json";

/// Number of the file's format.
const FORMAT: u32 = 1;

/// Bytes that are hashed at either end of a clip.
const END: u64 = 64 << 10;

/// Clips that are compared between two looks at whether to go on.
const CHUNK: usize = 4096;

/// Changed clips that one error names.
const MOST_NAMED: usize = 5;

/// Lines of rows that are not used, by entry of `data:` (its manifest, and `#2` and so on where one
/// manifest stands in several) or by set.
pub type LeftOut = BTreeMap<String, BTreeSet<u32>>;

/// What a run was computed from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// Format of the file.
    pub format: u32,
    /// BLAKE3 of each file of the model, by name.
    pub model: BTreeMap<String, String>,
    /// Lines of rows that left the pool before the first step: see [`LeftOut`].
    pub left_out: LeftOut,
    /// Number of clips below.
    pub num_clips: usize,
    /// Clips that were used, by path.
    pub clips: BTreeMap<String, ClipRecord>,
}

/// A clip as it was when it was used first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipRecord {
    /// Size of the file, in bytes.
    pub bytes: u64,
    /// The first 128 bits of BLAKE3 over the first and last 64 KiB, or over all of a shorter file,
    /// as hexadecimal.
    pub ends: String,
    /// The step that used it first; 0 for an evaluation before the first step.
    pub step: u64,
}

/// A clip's path, size and hash.
pub type Fingerprint = (String, u64, String);

/// Inputs of the run of a speech encoder: BLAKE3 of its manifests, and of the weights of encoders
/// that its targets come from, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EncoderInputs {
    /// The hashes.
    pub hashes: BTreeMap<String, String>,
}

impl EncoderInputs {
    /// The text of the file.
    ///
    /// # Errors
    /// None but a fault of ours.
    pub fn to_text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).map_err(Error::bug_from)? + "\n")
    }
}

/// Hashes that the file in the folder of an encoder's run names by path. `None` where there is no
/// file, and of a model's run, whose checkpoints name them.
///
/// # Errors
/// A file of another form.
pub fn hashes(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    /// Number that the file of a model's run begins with.
    #[derive(Deserialize)]
    struct Head {
        format: Option<u32>,
    }

    let path = folder.join(INPUTS_FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let text = files::read_text(&path)?;
    if json::parse::<Head>(&text).is_ok_and(|head| head.format.is_some()) {
        return Ok(None);
    }
    let inputs: EncoderInputs = json::parse(&text).map_err(|e| e.at_path(&path))?;
    Ok(Some(inputs.hashes))
}

impl Inputs {
    /// The inputs of a run that has used no clip yet.
    pub fn new(model: BTreeMap<String, String>, left_out: LeftOut) -> Self {
        Self {
            format: FORMAT,
            model,
            left_out,
            num_clips: 0,
            clips: BTreeMap::new(),
        }
    }

    /// The inputs of the run in a folder; `None` for a run that began before they were recorded.
    ///
    /// # Errors
    /// A file that cannot be read or is not whole.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(INPUTS_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let inputs: Self = serde_json::from_str(&files::read_text(&path)?).map_err(|e| {
            Error::input(format!("not a record of inputs: {e}"))
                .caused_by(e)
                .at_path(&path)
                .hint("put a copy of the file back, or start another run with `--set name=NAME`; without its `left_out` the steps would draw other rows")
        })?;
        if inputs.format != FORMAT {
            return Err(Error::input(format!(
                "format {}, this maqam reads {FORMAT}",
                inputs.format
            ))
            .at_path(&path));
        }
        Ok(Some(inputs))
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let head = Self {
            clips: BTreeMap::new(),
            ..Self::new(self.model.clone(), self.left_out.clone())
        };
        let head = serde_json::to_value(Self {
            num_clips: self.num_clips,
            ..head
        })
        .map_err(Error::bug_from)?;
        let fields = head.as_object().into_iter().flatten();
        let fields: Vec<String> = fields
            .filter(|(key, _)| *key != "clips")
            .map(|(key, value)| format!("  \"{key}\": {value},\n"))
            .collect();
        // A line for each clip: there may be a million.
        files::write_atomic_with(&folder.join(INPUTS_FILE), |file| {
            write!(file, "{{\n{}  \"clips\": {{", fields.concat())?;
            for (i, (path, clip)) in self.clips.iter().enumerate() {
                write!(file, "{}\n    ", if i == 0 { "" } else { "," })?;
                serde_json::to_writer(&mut *file, path).map_err(std::io::Error::from)?;
                file.write_all(b": ")?;
                serde_json::to_writer(&mut *file, clip).map_err(std::io::Error::from)?;
            }
            file.write_all(b"\n  }\n}\n")
        })
    }

    /// Forgets clips that were used after `step`: a run that goes on from there uses them for the
    /// first time.
    pub fn forget_after(&mut self, step: u64) {
        self.clips.retain(|_, clip| clip.step <= step);
        self.num_clips = self.clips.len();
    }

    /// Adds clips that a step used.
    pub fn add(&mut self, step: u64, clips: Vec<Fingerprint>) {
        for (path, bytes, ends) in clips {
            self.clips
                .entry(path)
                .or_insert(ClipRecord { bytes, ends, step });
        }
        self.num_clips = self.clips.len();
    }

    /// Files of those of these clips that are not recorded, each once, or `FILE#START+LENGTH` for a
    /// range of a file's bytes; a clip inside a Parquet file belongs to the file, which is hashed
    /// whole.
    pub fn new_among<'a>(&self, clips: impl Iterator<Item = &'a Clip>) -> Vec<PathBuf> {
        let mut new: Vec<PathBuf> = clips
            .filter_map(|clip| match clip.source.file()? {
                (path, None) => Some(path.to_owned()),
                (path, Some(range)) => {
                    let len = range.end - range.start;
                    let mut name = path.as_os_str().to_owned();
                    name.push(format!("#{}+{len}", range.start));
                    Some(name.into())
                }
            })
            .filter(|path| !self.clips.contains_key(&*path.to_string_lossy()))
            .collect();
        new.sort_unstable();
        new.dedup();
        new
    }

    /// Compares the model's files with those of before.
    ///
    /// # Errors
    /// The first file that is another one now, or is gone or new.
    pub fn check_model(&self, now: &BTreeMap<String, String>, dir: &Path) -> Result<()> {
        let mut names = self.model.keys().chain(now.keys());
        match names.find(|name| self.model.get(*name) != now.get(*name)) {
            Some(name) => Err(
                Error::input("the model's file has changed since the run began")
                    .at_path(&dir.join(name))
                    .hint(HINT),
            ),
            None => Ok(()),
        }
    }

    /// Compares every recorded clip with its file. `progress` is told how many of how many are
    /// done.
    ///
    /// # Errors
    /// All clips that are other files now or are gone: their number and the first of them; what
    /// `progress` returns.
    pub fn check_clips(&self, progress: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<()> {
        let clips: Vec<(&String, &ClipRecord)> = self.clips.iter().collect();
        let mut changed: Vec<(&str, String)> = Vec::new();
        for (i, chunk) in clips.chunks(CHUNK).enumerate() {
            progress(i * CHUNK, clips.len())?;
            let found: Vec<Option<String>> = chunk
                .par_iter()
                .map(
                    |(path, before)| match fingerprint(Path::new(path.as_str())) {
                        Ok((_, bytes, ends)) if bytes == before.bytes && ends == before.ends => {
                            None
                        }
                        Ok((_, bytes, _)) if bytes != before.bytes => Some(format!(
                            "{} bytes when step {} used it, {bytes} now",
                            before.bytes, before.step
                        )),
                        Ok(_) => Some(format!(
                            "other contents than when step {} used it",
                            before.step
                        )),
                        Err(error) => Some(error.message().to_owned()),
                    },
                )
                .collect();
            changed.extend(
                chunk
                    .iter()
                    .zip(found)
                    .filter_map(|((path, _), found)| Some((path.as_str(), found?))),
            );
        }
        progress(clips.len(), clips.len())?;
        if changed.is_empty() {
            return Ok(());
        }
        let mut message = format!(
            "{} of the {} clips that the run has used have changed since:",
            changed.len(),
            clips.len()
        );
        for (path, found) in changed.iter().take(MOST_NAMED) {
            message += &format!("\n  {path}: {found}");
        }
        if changed.len() > MOST_NAMED {
            message += &format!("\n  and {} more", changed.len() - MOST_NAMED);
        }
        Err(Error::input(message).hint(HINT))
    }
}

/// What to do about an input that has changed.
const HINT: &str =
    "put back what was there to continue this run, or start another with `--set name=NAME`";

/// The file, first byte and length of a name that [`Inputs::new_among`] gives to a range.
fn range_of(path: &Path) -> Option<(&Path, u64, u64)> {
    let (file, range) = path.to_str()?.rsplit_once('#')?;
    let (start, len) = range.split_once('+')?;
    Some((Path::new(file), start.parse().ok()?, len.parse().ok()?))
}

/// Size and hash of a clip's file, or of a range of one.
///
/// # Errors
/// A file that cannot be read.
pub fn fingerprint(path: &Path) -> Result<Fingerprint> {
    let read = || -> std::io::Result<(u64, String)> {
        let range = range_of(path).filter(|_| !path.is_file());
        let (mut file, start, bytes) = match range {
            Some((path, start, len)) => (File::open(path)?, start, len),
            None => {
                let file = File::open(path)?;
                let bytes = file.metadata()?.len();
                (file, 0, bytes)
            }
        };
        file.seek(SeekFrom::Start(start))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::new();
        let first = if bytes > 2 * END { END } else { bytes };
        (&mut file).take(first).read_to_end(&mut buffer)?;
        hasher.update(&buffer);
        if first < bytes {
            buffer.clear();
            file.seek(SeekFrom::Start(start + bytes - END))?;
            file.take(END).read_to_end(&mut buffer)?;
            hasher.update(&buffer);
        }
        let ends = hasher.finalize().to_hex()[..32].to_owned();
        Ok((bytes, ends))
    };
    let (bytes, ends) = read().map_err(|e| Error::io(path, "read", e))?;
    Ok((path.to_string_lossy().into_owned(), bytes, ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(paths: &[&Path]) -> Inputs {
        let mut inputs = Inputs::new(BTreeMap::new(), LeftOut::new());
        let clips = paths.iter().map(|path| fingerprint(path).unwrap());
        inputs.add(3, clips.collect());
        inputs
    }

    #[test]
    fn a_change_at_either_end_or_in_size_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.wav");
        let whole: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        files::write_atomic(&path, &whole).unwrap();
        let recorded = inputs(&[&path]);
        let check = |bytes: &[u8]| {
            files::write_atomic(&path, bytes).unwrap();
            recorded
                .check_clips(&mut |_, _| Ok(()))
                .map_err(|error| error.to_string())
        };
        assert_eq!(check(&whole), Ok(()));
        for place in [0, 65_535, 300_000 - 65_536, 299_999] {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            let error = check(&changed).unwrap_err();
            assert!(
                error.contains("1 of the 1 clips")
                    && error.contains("long.wav: other contents than when step 3 used it")
                    && error.contains("hint: put back"),
                "{place}: {error}"
            );
        }
        let error = check(&whole[..299_999]).unwrap_err();
        assert!(
            error.contains("300000 bytes when step 3 used it, 299999 now"),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
        let error = recorded.check_clips(&mut |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("cannot read"), "{error}");
    }

    #[test]
    fn a_short_file_is_hashed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("short.wav");
        let whole = vec![7u8; 100_000];
        files::write_atomic(&path, &whole).unwrap();
        let recorded = inputs(&[&path]);
        let mut changed = whole;
        changed[50_000] = 8;
        files::write_atomic(&path, &changed).unwrap();
        assert!(recorded.check_clips(&mut |_, _| Ok(())).is_err());
    }

    #[test]
    fn what_was_used_after_a_step_is_forgotten() {
        let mut recorded = Inputs::new(BTreeMap::new(), LeftOut::new());
        let clip = |name: &str| (name.to_owned(), 1, "00".to_owned());
        recorded.add(1, vec![clip("a")]);
        recorded.add(2, vec![clip("a"), clip("b")]);
        recorded.add(3, vec![clip("c")]);
        recorded.forget_after(2);
        let left: Vec<(&str, u64)> = recorded
            .clips
            .iter()
            .map(|(path, clip)| (path.as_str(), clip.step))
            .collect();
        assert_eq!(left, [("a", 1), ("b", 2)]);
        let dir = tempfile::tempdir().unwrap();
        recorded.write(dir.path()).unwrap();
        assert_eq!(Inputs::read(dir.path()).unwrap(), Some(recorded));
    }

    #[test]
    fn a_changed_missing_or_new_file_of_the_model_is_named() {
        let of = |files: &[(&str, &str)]| -> BTreeMap<String, String> {
            files
                .iter()
                .map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned()))
                .collect()
        };
        let recorded = Inputs::new(
            of(&[("config.json", "1"), ("model.safetensors", "2")]),
            LeftOut::new(),
        );
        let check = |files| recorded.check_model(&of(files), Path::new("m"));
        assert!(check(&[("config.json", "1"), ("model.safetensors", "2")]).is_ok());
        let all: [(&[(&str, &str)], &str); 3] = [
            (
                &[("config.json", "1"), ("model.safetensors", "3")],
                "m/model.safetensors",
            ),
            (&[("config.json", "1")], "m/model.safetensors"),
            (
                &[
                    ("config.json", "1"),
                    ("extra.json", "4"),
                    ("model.safetensors", "2"),
                ],
                "m/extra.json",
            ),
        ];
        for (files, named) in all {
            let error = check(files).unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }
}
