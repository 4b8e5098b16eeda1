//! Answers that a model gave before, by what they depend on: files that only grow, so that a killed
//! run goes on where it was.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use blake3::Hash;
use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::AppendLog;
use maqam_base::jsonl;
use maqam_base::jsonl::LastLine;

/// Hexadecimal digits of a model's hash that name its folder.
const FOLDER_DIGITS: usize = 16;

/// What a model made of a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The tokens of an answer, the one that ended it included.
    Tokens(Vec<u32>),
    /// For each conversation.
    Likelihoods(Vec<Likelihood>),
}

/// How likely a model holds a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// Sum of the log-probabilities of its tokens, in nats.
    pub sum: f64,
    /// Number of its tokens, the end included.
    pub tokens: usize,
}

impl Likelihood {
    /// Nats a token.
    pub fn mean(self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }
}

/// What one model has answered.
///
/// Its folder holds parts, one a process that had something to add, so that several may run at
/// once.
pub struct Store {
    folder: PathBuf,
    found: HashMap<Hash, Found>,
    part: Option<AppendLog>,
}

/// One line of a part.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<u32>>,
    /// The sum of the log-probabilities, and the number of tokens. The sum is a text that says it
    /// to the last bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    likelihoods: Option<Vec<(String, usize)>>,
}

impl Store {
    /// Reads what a model has answered before, from its folder below `root`.
    ///
    /// # Errors
    /// A part with a line of another form; one without its end, as a kill leaves it, is asked
    /// again.
    pub fn open(root: &Path, model: Hash) -> Result<Self> {
        let folder = root.join(&model.to_hex()[..FOLDER_DIGITS]);
        let mut found = HashMap::new();
        for path in parts(&folder)? {
            jsonl::each_line(&path, LastLine::Cut, |_, line| {
                let (key, what) = read(line)
                    .map_err(|e| e.hint("remove the file; what it held is asked again"))?;
                found.insert(key, what);
                Ok(())
            })?;
        }
        Ok(Self {
            folder,
            found,
            part: None,
        })
    }

    /// What was found of a question.
    pub fn get(&self, key: &Hash) -> Option<&Found> {
        self.found.get(key)
    }

    /// Keeps what was found of a question.
    pub fn keep(&mut self, key: Hash, found: Found) -> Result<()> {
        let line = serde_json::to_string(&line(key, &found)).map_err(Error::bug_from)?;
        let part = match &mut self.part {
            Some(part) => part,
            none => none.insert(AppendLog::open(&new_part(&self.folder))?),
        };
        part.line(&line)?;
        self.found.insert(key, found);
        Ok(())
    }
}

/// A name that no other process takes.
fn new_part(folder: &Path) -> PathBuf {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos());
    folder.join(format!("{now:x}-{}.jsonl", std::process::id()))
}

/// The parts in a folder, oldest first; none where there is no folder.
fn parts(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let paths = || {
        std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<PathBuf>>>()
    };
    let mut paths = paths().map_err(|e| Error::io(folder, "read the folder", e))?;
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "jsonl")
    });
    paths.sort();
    Ok(paths)
}

fn line(key: Hash, found: &Found) -> Line {
    let key = key.to_hex().to_string();
    match found {
        Found::Tokens(tokens) => Line {
            key,
            tokens: Some(tokens.clone()),
            likelihoods: None,
        },
        Found::Likelihoods(of_all) => {
            let of_all = of_all
                .iter()
                .map(|found| (format!("{:?}", found.sum), found.tokens))
                .collect();
            Line {
                key,
                tokens: None,
                likelihoods: Some(of_all),
            }
        }
    }
}

fn not_an_answer<E: Into<Box<dyn std::error::Error + Send + Sync>>>(source: E) -> Error {
    let source = source.into();
    Error::input(format!("not an answer that was kept: {source}")).caused_by(source)
}

fn read(line: &[u8]) -> Result<(Hash, Found)> {
    let line: Line = serde_json::from_slice(line).map_err(not_an_answer)?;
    let key = Hash::from_hex(&line.key).map_err(not_an_answer)?;
    let likelihood = |(sum, tokens): &(String, usize)| {
        Ok(Likelihood {
            sum: sum
                .parse()
                .map_err(not_an_answer::<std::num::ParseFloatError>)?,
            tokens: *tokens,
        })
    };
    match (line.tokens, line.likelihoods) {
        (Some(tokens), None) => Ok((key, Found::Tokens(tokens))),
        (None, Some(of_all)) => Ok((
            key,
            Found::Likelihoods(of_all.iter().map(likelihood).collect::<Result<_>>()?),
        )),
        _ => Err(not_an_answer("neither tokens nor likelihoods")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some() -> [(Hash, Found); 2] {
        let likelihoods = vec![
            Likelihood {
                sum: -0.1 - 0.2,
                tokens: 3,
            },
            Likelihood {
                sum: -f64::MIN_POSITIVE,
                tokens: 1,
            },
        ];
        [
            (blake3::hash(b"a"), Found::Tokens(vec![5, 0, 151_645])),
            (blake3::hash(b"b"), Found::Likelihoods(likelihoods)),
        ]
    }

    #[test]
    fn what_was_kept_is_found_again_whoever_kept_it() {
        let dir = tempfile::tempdir().unwrap();
        let model = blake3::hash(b"model");
        let mut one = Store::open(dir.path(), model).unwrap();
        let mut two = Store::open(dir.path(), model).unwrap();
        let [(a, tokens), (b, likelihoods)] = some();
        one.keep(a, tokens.clone()).unwrap();
        two.keep(b, likelihoods.clone()).unwrap();
        assert_eq!((one.get(&a), one.get(&b)), (Some(&tokens), None));
        let again = Store::open(dir.path(), model).unwrap();
        assert_eq!(
            (again.get(&a), again.get(&b)),
            (Some(&tokens), Some(&likelihoods))
        );
        let other = Store::open(dir.path(), blake3::hash(b"another model")).unwrap();
        assert_eq!(other.get(&a), None);
    }

    #[test]
    fn a_line_that_was_cut_short_is_asked_again_and_a_strange_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let model = blake3::hash(b"model");
        let mut store = Store::open(dir.path(), model).unwrap();
        for (key, found) in some() {
            store.keep(key, found).unwrap();
        }
        let part = parts(&store.folder).unwrap().remove(0);
        let whole = std::fs::read_to_string(&part).unwrap();
        let first = whole.find('\n').unwrap() + 1;
        for cut in first..whole.len() {
            std::fs::write(&part, &whole[..cut]).unwrap();
            let store = Store::open(dir.path(), model).unwrap();
            assert_eq!(
                (store.get(&some()[0].0), store.get(&some()[1].0)),
                (Some(&some()[0].1), None)
            );
        }
        std::fs::write(&part, format!("{whole}{{\"key\": \"00\"}}\n")).unwrap();
        let error = Store::open(dir.path(), model).err().unwrap().to_string();
        assert!(
            error.contains(".jsonl:3: not an answer that was kept")
                && error.contains("remove the file"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn likelihoods_come_back_to_the_last_bit(sum in any::<f64>().prop_filter("a number", |sum| sum.is_finite()), tokens in 0usize..1000) {
            let found = Found::Likelihoods(vec![Likelihood { sum, tokens }]);
            let text = serde_json::to_string(&line(blake3::hash(b"k"), &found)).unwrap();
            let (_, again) = read(text.as_bytes()).unwrap();
            let Found::Likelihoods(again) = again else { panic!() };
            prop_assert_eq!(again[0].sum.to_bits(), sum.to_bits());
        }
    }
}
