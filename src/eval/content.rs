//! What an answer depends on, as hashes of contents: the model, the clips, the tokens of the
//! question, how it is generated.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use blake3::Hash;
use blake3::Hasher;
use rayon::prelude::*;
use serde::Deserialize;
use serde::Serialize;

use crate::data::AudioSource;
use crate::data::Clip;
use crate::error::Error;
use crate::error::Result;
use crate::eval::question::Question;
use crate::eval::question::Wanted;
use crate::featurise::Loader;
use crate::files;
use crate::files::AppendLog;
use crate::jsonl;
use crate::jsonl::LastLine;
use crate::models::generate::Sampling;
use crate::models::generate::Strategy;
use crate::models::speech;
use crate::models::trained;
use crate::nn::checkpoint::weight_files;
use crate::nn::peft;
use crate::task::Mode;

/// Goes up whenever the same weights would answer the same question otherwise.
const FORMAT: u32 = 1;
/// From this size on a file's hash is remembered from run to run, in bytes; what is smaller is read
/// again.
const REMEMBERED_BYTES: u64 = 32 << 20;
/// A file that was written so shortly before it was hashed may have been written again since
/// without a new time, so it is not remembered.
const SETTLED_NS: u128 = 2_000_000_000;
/// Files of a checkpoint that are read beside its weights, where they are there.
const READ_BESIDE_WEIGHTS: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
];
/// Files in place of a `tokenizer.json`.
const SLOW_TOKENIZER: [&str; 2] = ["vocab.json", "merges.txt"];
/// Where answers and the hashes of large files are kept unless a command says otherwise.
pub const FOLDER: &str = "runs/.answers";
/// Where hashes of large files are remembered.
const FILE: &str = "files.jsonl";

/// Hashes of files, each read once.
pub struct Contents {
    folder: PathBuf,
    hashes: Mutex<HashMap<PathBuf, String>>,
    remembered: Mutex<HashMap<PathBuf, Remembered>>,
}

/// A large file's hash, and how to tell that it is still the same file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    path: PathBuf,
    bytes: u64,
    modified_ns: u64,
    hash: String,
}

impl Contents {
    /// Hashes that are remembered in a folder.
    ///
    /// # Errors
    /// A file of hashes that cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let mut remembered = HashMap::new();
        if path.is_file() {
            jsonl::each_line(&path, LastLine::Row, |_, line| {
                // A line that says something else only costs reading a file again.
                if let Ok(known) = serde_json::from_slice::<Remembered>(line) {
                    remembered.insert(known.path.clone(), known);
                }
                Ok(())
            })?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            hashes: Mutex::default(),
            remembered: Mutex::new(remembered),
        })
    }

    /// Hash of all that a model computes with: its config and weights, those of what was trained,
    /// and where it computes.
    ///
    /// # Errors
    /// Files that cannot be read; a folder that holds nothing trained.
    pub fn model(&self, dir: &Path, trained: Option<&Path>, computes: &str) -> Result<Hash> {
        let mut paths = vec![dir.join("config.json")];
        paths.extend(weight_files(dir)?);
        if let Some(folder) = trained {
            let names = [
                peft::CONFIG_FILE,
                peft::TENSORS_FILE,
                trained::FILE,
                speech::FILE,
            ];
            let of_folder = names.map(|name| folder.join(name));
            let before = paths.len();
            paths.extend(of_folder.into_iter().filter(|path| path.is_file()));
            if paths.len() == before {
                return Err(Error::input("holds no adapter")
                    .at_path(folder)
                    .hint("`--adapter` takes a PEFT folder or a checkpoint of a run"));
            }
        }
        let hashes = paths
            .par_iter()
            .map(|path| self.file(path))
            .collect::<Result<Vec<_>>>()?;
        let mut fields = Fields::new("model");
        fields.add(computes);
        for (path, hash) in paths.iter().zip(hashes) {
            fields.add(path.file_name().unwrap_or_default().to_string_lossy());
            fields.add(hash);
        }
        Ok(fields.hash())
    }

    /// BLAKE3 of each file that a checkpoint is read from, by name: configuration, tokenizer,
    /// templates and, unless they are left out, weights.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn files_of_model(
        &self,
        dir: &Path,
        with_weights: bool,
    ) -> Result<BTreeMap<String, String>> {
        let slow = match dir.join("tokenizer.json").is_file() {
            true => &[][..],
            false => &SLOW_TOKENIZER,
        };
        let mut paths: Vec<PathBuf> = READ_BESIDE_WEIGHTS
            .iter()
            .chain(slow)
            .map(|name| dir.join(name))
            .filter(|path| path.is_file())
            .collect();
        if with_weights {
            paths.extend(weight_files(dir)?);
        }
        let hashed = |path: &PathBuf| {
            let name = path.strip_prefix(dir).unwrap_or(path);
            Ok((name.to_string_lossy().into_owned(), self.file(path)?))
        };
        paths.par_iter().map(hashed).collect()
    }

    /// Hash of a clip: its file's contents and the span that counts.
    fn clip(&self, clip: &Clip) -> Result<Hash> {
        let mut fields = Fields::new("clip");
        match &clip.source {
            AudioSource::File(path) => fields.add(self.file(path)?),
            other => fields.add(blake3::hash(&other.bytes()?).to_hex()),
        }
        fields.add(clip.span.key());
        Ok(fields.hash())
    }

    /// Hash of a file's contents.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn file(&self, path: &Path) -> Result<String> {
        if let Some(hash) = lock(&self.hashes).get(path) {
            return Ok(hash.clone());
        }
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
        let modified_ns = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map(|time| time.as_nanos());
        let hash = match modified_ns.filter(|_| metadata.len() >= REMEMBERED_BYTES) {
            Some(modified_ns) => self.large_file(path, metadata.len(), modified_ns)?,
            None => files::hash(path)?,
        };
        lock(&self.hashes).insert(path.to_owned(), hash.clone());
        Ok(hash)
    }

    fn large_file(&self, path: &Path, bytes: u64, modified_ns: u128) -> Result<String> {
        let place = path
            .canonicalize()
            .map_err(|e| Error::io(path, "read", e))?;
        let modified = u64::try_from(modified_ns).unwrap_or(u64::MAX);
        let is_same = |known: &&Remembered| known.bytes == bytes && known.modified_ns == modified;
        if let Some(known) = lock(&self.remembered).get(&place).filter(is_same) {
            return Ok(known.hash.clone());
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos());
        let hash = files::hash(path)?;
        if now > modified_ns + SETTLED_NS {
            let known = Remembered {
                path: place.clone(),
                bytes,
                modified_ns: modified,
                hash: hash.clone(),
            };
            AppendLog::open(&self.folder.join(FILE))?
                .line(&serde_json::to_string(&known).map_err(Error::bug_from)?)?;
            lock(&self.remembered).insert(place, known);
        }
        Ok(hash)
    }
}

/// Who is asked, and how.
pub struct Asked<'a> {
    /// Hash of the model.
    pub model: Hash,
    /// Its tokenizer and chat template.
    pub loader: &'a Loader,
    /// How tokens are chosen.
    pub sampling: &'a Sampling,
    /// Seed of the drawing.
    pub seed: u64,
}

impl Asked<'_> {
    /// Hash of all that what is found of a question depends on.
    ///
    /// The tokens stand with one token for each clip: how many there really are follows from the
    /// clip.
    ///
    /// # Errors
    /// Clips that cannot be read; a conversation that cannot be encoded.
    pub fn key(&self, question: &Question, contents: &Contents) -> Result<Hash> {
        let example = question.example;
        let codec = self.loader.codec();
        let marks = vec![1; example.clips.len()];
        let mut fields = Fields::new("question");
        fields.add(self.model.to_hex());
        for clip in &example.clips {
            fields.add(contents.clip(clip)?.to_hex());
        }
        let at = |e: Error| e.at(format!("row `{}`", example.id));
        match &question.wanted {
            Wanted::Answer { max_new_tokens } => {
                fields.add(format!(
                    "answer {max_new_tokens} {:?}",
                    codec.ids_that_end()
                ));
                fields.add(self.choice(&example.id));
                fields.add(format!(
                    "{:?}",
                    codec
                        .encode_example(example, &marks, Mode::Generate)
                        .map_err(at)?
                        .tokens
                ));
            }
            Wanted::Likelihoods(conversations) => {
                fields.add("likelihoods");
                for messages in conversations {
                    let encoded = codec
                        .encode_for(example, messages, &marks, Mode::Train)
                        .map_err(at)?;
                    fields.add(format!("{:?} {:?}", encoded.tokens, encoded.targets));
                }
            }
        }
        Ok(fields.hash())
    }

    /// What decides on a token beside its logits. Where the likeliest is taken nothing is drawn,
    /// whatever the other settings say.
    fn choice(&self, id: &str) -> String {
        let Sampling {
            strategy,
            temperature,
            top_k,
            top_p,
            repetition_penalty,
        } = self.sampling;
        match strategy {
            Strategy::Greedy => format!("greedy {repetition_penalty:?}"),
            Strategy::Sample => format!(
                "sample {temperature:?} {top_k} {top_p:?} {repetition_penalty:?} {} {id}",
                self.seed
            ),
        }
    }
}

/// Fields hashed one after the other, each with its length in front, so that no two lists of fields
/// are one text.
struct Fields(Hasher);

impl Fields {
    fn new(what: &str) -> Self {
        let mut fields = Self(Hasher::new());
        fields.add(format!("{what} {FORMAT}"));
        fields
    }

    fn add(&mut self, field: impl AsRef<str>) {
        let field = field.as_ref().as_bytes();
        self.0
            .update(&(field.len() as u64).to_le_bytes())
            .update(field);
    }

    fn hash(&self) -> Hash {
        self.0.finalize()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left is a map of hashes like any other.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_kept_apart() {
        let hash = |fields: &[&str]| {
            let mut hashed = Fields::new("x");
            fields.iter().for_each(|field| hashed.add(field));
            hashed.hash()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["a"]), hash(&["a", ""]));
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
    }

    #[test]
    fn a_large_file_is_remembered_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let write = |byte: u8, age_s: u64| {
            let mut contents = vec![0u8; REMEMBERED_BYTES as usize];
            contents[0] = byte;
            std::fs::write(&path, contents).unwrap();
            let then = SystemTime::now() - std::time::Duration::from_secs(age_s);
            std::fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(then)
                .unwrap();
        };
        let store = dir.path().join("store");
        let hash = || Contents::open(&store).unwrap().file(&path).unwrap();
        let remembered =
            || files::read_text(&store.join(FILE)).map_or(0, |text| text.lines().count());
        write(1, 0);
        assert_eq!(
            (hash(), remembered()),
            (files::hash(&path).unwrap(), 0),
            "written just now: not remembered"
        );
        write(1, 100);
        assert_eq!(
            (hash(), hash(), remembered()),
            (files::hash(&path).unwrap(), files::hash(&path).unwrap(), 1)
        );
        write(2, 50);
        assert_eq!((hash(), remembered()), (files::hash(&path).unwrap(), 2));
    }
}
