//! The Hub's cache on this machine, in the layout of `huggingface_hub`: blobs by their hash,
//! snapshots of links to them, references.

use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;
use crate::files;

/// The one reference that is followed.
const REVISION: &str = "main";
/// Longest hash of a commit or name of a blob.
const LONGEST_HASH: usize = 128;

/// One repository of the cache.
pub struct Repo {
    cache: PathBuf,
    home: PathBuf,
    name: String,
}

impl Repo {
    /// A model's repository in the cache that the environment names.
    ///
    /// # Errors
    /// An environment without a home folder.
    pub fn new(id: &str) -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = match (
            variable("HF_HOME"),
            variable("XDG_CACHE_HOME"),
            variable("HOME"),
        ) {
            (Some(home), ..) => PathBuf::from(home),
            (None, Some(cache), _) => PathBuf::from(cache).join("huggingface"),
            (None, None, Some(home)) => PathBuf::from(home).join(".cache/huggingface"),
            (None, None, None) => {
                return Err(Error::input("the environment names no home folder")
                    .hint("set HF_HOME to a folder for what is downloaded"));
            }
        };
        let cache = variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        Ok(Self {
            cache,
            home,
            name: format!("models--{}", id.replace('/', "--")),
        })
    }

    /// The whole cache's folder.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The file that holds the token where no variable does.
    pub fn token_file(&self) -> PathBuf {
        std::env::var_os("HF_TOKEN_PATH")
            .filter(|value| !value.is_empty())
            .map_or_else(|| self.home.join("token"), PathBuf::from)
    }

    /// The folder that who downloads holds.
    pub fn locks(&self) -> PathBuf {
        self.cache.join(".locks").join(&self.name)
    }

    fn folder(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The commit that was downloaded last; none where nothing was.
    pub fn commit(&self) -> Option<String> {
        let path = self.folder().join("refs").join(REVISION);
        let text = files::read_text(&path).ok()?;
        let commit = text.trim();
        is_hash(commit).then(|| commit.to_owned())
    }

    /// Records a commit whose snapshot is whole.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_commit(&self, commit: &str) -> Result<()> {
        files::write_atomic(
            &self.folder().join("refs").join(REVISION),
            commit.as_bytes(),
        )
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The contents of a file.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    /// The contents of a file that is not there wholly.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder()
            .join("blobs")
            .join(format!("{etag}.incomplete"))
    }
}

/// The path of a blob as seen from the link to it in a snapshot.
pub fn blob_from(name: &str, etag: &str) -> PathBuf {
    // Out of the file's own folders, the commit's and `snapshots`.
    let depth = Path::new(name).components().count() + 1;
    let mut path: PathBuf = std::iter::repeat_n(Component::ParentDir, depth).collect();
    path.push("blobs");
    path.push(etag);
    path
}

/// Refuses a name that the Hub lists and that lies outside of its repository, or that no file can
/// have.
///
/// # Errors
/// The name.
pub fn check_name(name: &str) -> Result<()> {
    let is_plain = Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(part) if part.len() <= 255));
    let is_safe = is_plain
        && !name.is_empty()
        && name.len() <= 1024
        && !name.contains(|c: char| c.is_control() || c == '\\')
        && !name.split('/').any(|part| part.is_empty() || part == ".");
    if is_safe {
        return Ok(());
    }
    Err(Error::input(format!(
        "the Hub lists `{name}`, which is no name of a file inside the repository"
    ))
    .hint("do not use this repository; give the folder of a checkpoint"))
}

/// Whether a text can name a commit or a blob: letters, digits, `-`, `_` and `.`, as hashes do.
pub fn is_hash(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST_HASH
        && !text.starts_with('.')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_of_a_repository_are_refused() {
        for name in [
            "config.json",
            "a/b/c.safetensors",
            "a..b",
            "..a/b",
            "نموذج.json",
        ] {
            check_name(name).unwrap();
        }
        let long = "n".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "../x.json",
            "a/../../x.json",
            "a/..",
            "/abs/x",
            "a//b",
            "a/./b",
            "a/",
            "./a",
            "a\\..\\b",
            "a\nb",
            "a\0b",
            "a\u{1b}b",
            &long,
        ] {
            assert_eq!(check_name(name).unwrap_err().exit_code(), 2, "{name:?}");
        }
    }

    #[test]
    fn a_link_leads_from_a_snapshot_to_its_blob() {
        for (name, expected) in [
            ("config.json", "../../blobs/e"),
            ("a/b.json", "../../../blobs/e"),
        ] {
            assert_eq!(blob_from(name, "e"), Path::new(expected));
        }
    }

    #[test]
    fn a_hash_is_no_path() {
        assert!(is_hash("0123456789abcdef") && is_hash("model-00001.safetensors"));
        for text in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            ".hidden",
            "a\nb",
            &"a".repeat(200),
        ] {
            assert!(!is_hash(text), "{text:?}");
        }
    }
}
