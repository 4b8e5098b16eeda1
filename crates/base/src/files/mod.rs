//! The only module that writes: whole files atomically, logs by appending. It also bounds what is
//! read, and hashes it.

mod input;
mod lock;
mod output;
mod spill;
mod staged;
mod target;

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

pub use input::Input;
pub use input::Lines;
pub use input::MAX_LINE;
pub use input::MAX_STREAM;
pub use input::MAX_TEXT;
pub use input::Waiting;
pub use input::read_text;
pub use lock::Lock;
pub use output::Draft;
pub use output::expect_writable;
pub use output::write_atomic;
pub use output::write_atomic_with;
pub use output::write_safetensors;
pub use spill::Spill;
pub use spill::SpilledTexts;
pub use staged::StagedDir;

use crate::error::Error;
use crate::error::Result;
use crate::error::brief;

/// Longest name of a folder that a user gives, in bytes: file systems take 255, and names are
/// lengthened (`NAME-seed3`).
const LONGEST_NAME: usize = 200;

/// Refuses a name that cannot be that of a folder: empty, with a slash, with a control character,
/// hidden or too long.
///
/// # Errors
/// The name, and how it should be.
pub fn check_name(name: &str) -> Result<()> {
    let wrong = if name.is_empty() {
        "is empty"
    } else if name.contains(['/', '\\']) {
        "has a slash"
    } else if name.contains(char::is_control) {
        "has a control character, such as the end of a line"
    } else if name.starts_with('.') {
        "begins with a dot"
    } else if name.len() > LONGEST_NAME {
        "is longer than 200 bytes"
    } else {
        return Ok(());
    };
    let shown = brief(name);
    Err(
        Error::input(format!("`{shown}` cannot name a folder: it {wrong}"))
            .hint("use letters, digits, `-` and `_`"),
    )
}

/// Makes a folder and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io(path, "make the folder", e))
}

/// The paths in a folder, by name.
///
/// # Errors
/// A folder that cannot be listed.
pub fn list_dir(path: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io(path, "list", e);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        found.push(entry.map_err(failed)?.path());
    }
    found.sort();
    Ok(found)
}

/// Removes a folder and what it holds; a missing one is fine.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(path, "remove the folder", e)),
    }
}

/// Removes a file; a missing one is fine.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(path, "remove", e)),
    }
}

/// Copies one file, whole or not at all.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = Input::open(from)?;
    write_atomic_with(to, |file| std::io::copy(&mut source, file).map(|_| ()))
}

/// Gives a file that is whole the name under which it is looked for.
pub fn put_in_place(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .and_then(|()| sync_dir(parent_of(to)))
        .map_err(|e| Error::io(to, "write", e))
}

/// Makes a symbolic link at `path` to `target`, which is relative to the link's folder; one that
/// leads nowhere is replaced.
pub fn link(target: &Path, path: &Path) -> Result<()> {
    create_dir(parent_of(path))?;
    if path.is_symlink() && !path.exists() {
        fs::remove_file(path).map_err(|e| Error::io(path, "replace", e))?;
    }
    make_link(target, path).map_err(|e| Error::io(path, "link", e))
}

#[cfg(unix)]
fn make_link(target: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn make_link(target: &Path, path: &Path) -> std::io::Result<()> {
    fs::copy(parent_of(path).join(target), path).map(drop)
}

/// A file that only grows, line by line.
pub struct AppendLog {
    file: File,
    path: PathBuf,
}

impl AppendLog {
    /// Opens `path` for appending, making it where it is missing.
    pub fn open(path: &Path) -> Result<Self> {
        create_dir(parent_of(path))?;
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| Error::io(path, "open", e))?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Appends one line, whole or not at all; in a single write, so that a reader does not see half
    /// of one.
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.append(format!("{line}\n").as_bytes())
    }

    /// Appends bytes, all of them or none.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        // A pipe or a device has no length, and keeps what it got.
        let before = self.file.seek(std::io::SeekFrom::End(0)).ok();
        self.file.write_all(bytes).map_err(|e| {
            // Where the disk is full the beginning may have found space.
            if let Some(before) = before {
                let _ = self.file.set_len(before);
            }
            Error::io(&self.path, "append to", e)
        })
    }

    /// Flushes to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| Error::io(&self.path, "flush", e))
    }

    /// Number of bytes written so far, over all openings.
    pub fn num_bytes(&mut self) -> Result<u64> {
        self.file
            .seek(std::io::SeekFrom::End(0))
            .map_err(|e| Error::io(&self.path, "seek in", e))
    }
}

/// Cuts a log back to its first `len` bytes; a missing one counts as empty.
///
/// # Errors
/// A log that is shorter: something that belongs into it is lost.
pub fn truncate(path: &Path, len: u64) -> Result<()> {
    create_dir(parent_of(path))?;
    let file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)
        .map_err(|e| Error::io(path, "open", e))?;
    let found = file
        .metadata()
        .map_err(|e| Error::io(path, "read", e))?
        .len();
    if found < len {
        return Err(Error::input(format!(
            "holds {found} bytes, the checkpoint was written after {len}"
        ))
        .at_path(path)
        .hint("put the log back as it was"));
    }
    file.set_len(len)
        .and_then(|()| file.sync_all())
        .map_err(|e| Error::io(path, "truncate", e))
}

/// BLAKE3 of a file's contents, as hexadecimal.
pub fn hash(path: &Path) -> Result<String> {
    let mut file = Input::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file
            .read(&mut buffer)
            .map_err(|e| Error::io(path, "read", e))?
        {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            read => {
                hasher.update(&buffer[..read]);
            }
        }
    }
}

/// Returns `path` as seen from `folder`; absolute where the two have nothing but the root in
/// common.
///
/// # Errors
/// A path that the system cannot make absolute.
pub fn relative(folder: &Path, path: &Path) -> Result<PathBuf> {
    // The folder of a bare name is that of the process.
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|e| Error::io(path, "resolve", e));
    let folder = without_dots(&absolute(folder)?);
    let path = without_dots(&absolute(path)?);
    let (from, to): (Vec<Component>, Vec<Component>) =
        (folder.components().collect(), path.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let is_near = from
        .iter()
        .take(shared)
        .any(|part| matches!(part, Component::Normal(_)));
    if !is_near {
        return Ok(path);
    }
    Ok(from[shared..]
        .iter()
        .map(|_| Component::ParentDir)
        .chain(to[shared..].iter().copied())
        .collect())
}

/// The path with `a/..` taken out.
fn without_dots(path: &Path) -> PathBuf {
    let mut kept = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    kept
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_back_to_a_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let mut log = AppendLog::open(&path).unwrap();
        log.line("one").unwrap();
        let len = log.num_bytes().unwrap();
        log.line("two").unwrap();
        drop(log);
        truncate(&path, len).unwrap();
        AppendLog::open(&path).unwrap().line("three").unwrap();
        assert_eq!(read_text(&path).unwrap(), "one\nthree\n");
    }

    #[test]
    fn a_log_that_lost_lines_is_not_filled_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        truncate(&path, 0).unwrap();
        AppendLog::open(&path).unwrap().line("one").unwrap();
        let error = truncate(&path, 8).unwrap_err().to_string();
        assert!(
            error.contains("holds 4 bytes, the checkpoint was written after 8"),
            "{error}"
        );
        assert_eq!(read_text(&path).unwrap(), "one\n");
    }

    #[test]
    fn a_name_is_one_that_a_folder_can_have() {
        for name in ["a", "تجربة 1", "run.2", &"n".repeat(200)] {
            check_name(name).unwrap();
        }
        for name in [
            "",
            "a/b",
            "a\\b",
            ".a",
            "..",
            "a\nb",
            "a\0b",
            "a\u{1b}[31m",
            &"n".repeat(201),
        ] {
            let error = check_name(name).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{name:?}");
            assert!(error.to_string().len() < 400, "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_the_users_to_mend() {
        let error = read_text(Path::new("/nowhere/recipe.yaml")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .starts_with("/nowhere/recipe.yaml: cannot read"),
            "{error}"
        );
    }

    #[test]
    fn a_path_is_seen_from_a_folder() {
        let cases = [
            ("/home/a/suites", "/home/a/data/x.wav", "../data/x.wav"),
            ("/home/a", "/home/a/x.wav", "x.wav"),
            ("/home/a/b/../suites", "/home/a/data/../x.wav", "../x.wav"),
            ("/home/a", "/data/x.wav", "/data/x.wav"),
        ];
        for (folder, path, expected) in cases {
            assert_eq!(
                relative(Path::new(folder), Path::new(path)).unwrap(),
                Path::new(expected)
            );
        }
        assert_eq!(
            relative(Path::new(""), Path::new("data/x.wav")).unwrap(),
            Path::new("data/x.wav")
        );
        assert_eq!(
            relative(Path::new("eval/instructions"), Path::new("data/x.wav")).unwrap(),
            Path::new("../../data/x.wav")
        );
    }
}
