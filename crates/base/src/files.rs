//! The only room that writes: whole files atomically, logs by appending, and hashes of what was read.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;

/// Reads a whole UTF-8 text file.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io(path, "read", &e))
}

/// Makes a folder and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io(path, "make the folder", &e))
}

/// Writes a file whole or not at all: a temporary sibling is written, flushed to disk and renamed.
///
/// # Errors
/// The disk's, naming `path`; the file that was there before is untouched then.
pub fn write_atomic(path: &Path, contents: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(contents))
}

/// As [`write_atomic`], for contents that are produced piece by piece.
pub fn write_atomic_with(
    path: &Path,
    write: impl FnOnce(&mut std::io::BufWriter<&mut File>) -> std::io::Result<()>,
) -> Result<()> {
    let parent = parent_of(path);
    create_dir(parent)?;
    let attempt = || -> std::io::Result<()> {
        let mut temporary = tempfile::Builder::new()
            .prefix(".writing-")
            .tempfile_in(parent)?;
        let mut buffered = std::io::BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        write(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        temporary.as_file().sync_all()?;
        set_default_permissions(temporary.as_file())?;
        temporary.persist(path).map_err(|e| e.error)?;
        sync_dir(parent)
    };
    attempt().map_err(|e| Error::io(path, "write", &e))
}

/// Writes named tensors to a safetensors file, one after the other, whole or not at all.
pub fn write_safetensors<S: AsRef<str> + Ord + std::fmt::Display, V: safetensors::View>(
    path: &Path,
    tensors: impl IntoIterator<Item = (S, V)>,
) -> Result<()> {
    let parent = parent_of(path);
    create_dir(parent)?;
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let staged = parent.join(format!(
        ".writing-{}",
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    if let Err(error) = safetensors::serialize_to_file(tensors, Some(metadata), &staged) {
        let _ = fs::remove_file(&staged);
        return Err(match error {
            safetensors::SafeTensorError::IoError(e) => Error::io(path, "write", &e),
            other => Error::bug(format!("cannot write safetensors: {other}")).at_path(path),
        });
    }
    let settle = || {
        let file = File::open(&staged)?;
        set_default_permissions(&file)?;
        file.sync_all()?;
        fs::rename(&staged, path)?;
        sync_dir(parent)
    };
    settle().map_err(|e| Error::io(path, "write", &e))
}

/// A folder that appears whole or not at all: write into [`StagedDir::path`], then [`StagedDir::commit`].
///
/// Dropped before that, it takes what was written with it: on a full disk half a folder would take the room of the next whole one.
pub struct StagedDir {
    staging: PathBuf,
    target: PathBuf,
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        // After a commit the staging folder has another name; where it cannot be removed the next one of its name will.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

impl StagedDir {
    /// Opens an empty staging folder beside `target`.
    pub fn new(target: &Path) -> Result<Self> {
        let parent = parent_of(target);
        create_dir(parent)?;
        let name = target
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let staging = parent.join(format!(".writing-{name}"));
        remove_dir(&staging)?;
        create_dir(&staging)?;
        Ok(Self {
            staging,
            target: target.to_owned(),
        })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.staging
    }

    /// Puts the folder in place, replacing one of that name.
    pub fn commit(self) -> Result<()> {
        let swap = || -> std::io::Result<()> {
            sync_dir(&self.staging)?;
            if self.target.exists() {
                let name = self
                    .target
                    .file_name()
                    .map(|n| n.to_string_lossy().into_owned())
                    .unwrap_or_default();
                let old = parent_of(&self.target).join(format!(".old-{name}"));
                if old.exists() {
                    fs::remove_dir_all(&old)?;
                }
                fs::rename(&self.target, &old)?;
                if let Err(error) = fs::rename(&self.staging, &self.target) {
                    fs::rename(&old, &self.target)?;
                    return Err(error);
                }
                fs::remove_dir_all(&old)?;
            } else {
                fs::rename(&self.staging, &self.target)?;
            }
            sync_dir(parent_of(&self.target))
        };
        swap().map_err(|e| Error::io(&self.target, "put the folder in place", &e))
    }
}

/// Removes a folder and what it holds; a missing one is fine.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(path, "remove the folder", &e)),
    }
}

/// Whether a file can be written at `path`, found out before the work whose result goes there; makes its folder.
///
/// # Errors
/// A folder of that name, or one in which nothing can be written.
pub fn expect_writable(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::input("cannot write: this is a folder")
            .at_path(path)
            .hint("name a file"));
    }
    let parent = parent_of(path);
    create_dir(parent)
        .and_then(|()| {
            let probe = tempfile::Builder::new()
                .prefix(".writing-")
                .tempfile_in(parent);
            probe
                .map(drop)
                .map_err(|e| Error::io(parent, "write into the folder", &e))
        })
        .map_err(|e| {
            e.at(format!("{}: cannot write", path.display()))
                .or_hint("choose another place for the output")
        })
}

/// Copies one file, whole or not at all.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(|e| Error::io(from, "read", &e))?;
    write_atomic_with(to, |file| std::io::copy(&mut source, file).map(|_| ()))
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
            .map_err(|e| Error::io(path, "open", &e))?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Appends one line, whole or not at all; in a single write, so that a reader does not see half of one.
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.append(format!("{line}\n").as_bytes())
    }

    /// Appends bytes, all of them or none.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let before = self.num_bytes()?;
        self.file.write_all(bytes).map_err(|e| {
            // Where the disk is full the beginning may have found room.
            let _ = self.file.set_len(before);
            Error::io(&self.path, "append to", &e)
        })
    }

    /// Flushes to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| Error::io(&self.path, "flush", &e))
    }

    /// Number of bytes written so far, over all openings.
    pub fn num_bytes(&mut self) -> Result<u64> {
        self.file
            .seek(std::io::SeekFrom::End(0))
            .map_err(|e| Error::io(&self.path, "seek in", &e))
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
        .map_err(|e| Error::io(path, "open", &e))?;
    let found = file
        .metadata()
        .map_err(|e| Error::io(path, "read", &e))?
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
        .map_err(|e| Error::io(path, "truncate", &e))
}

/// What a claimed folder is claimed by.
const LOCK_FILE: &str = ".lock";

/// A claim on a folder, held until it is dropped or the process ends, however it ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Claims the folder by locking a file in it, which is made where it is missing and stays.
    ///
    /// # Errors
    /// Another process holds it; the message names that process.
    pub fn take(folder: &Path) -> Result<Self> {
        Self::try_take(folder)?.ok_or_else(|| {
            let holder = fs::read_to_string(folder.join(LOCK_FILE)).unwrap_or_default();
            Error::input(format!("process {} is at work here", holder.trim()))
                .at_path(folder)
                .hint("wait until it ends, or stop it")
        })
    }

    /// As [`Lock::take`]; `None` where another process holds the folder.
    pub fn try_take(folder: &Path) -> Result<Option<Self>> {
        create_dir(folder)?;
        let path = folder.join(LOCK_FILE);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io(&path, "open", &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(e)) => return Err(Error::io(&path, "lock", &e)),
        }
        // The number only serves the message, so a full disk is no reason to give up here.
        let _ = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Some(Self { _file: file }))
    }
}

/// BLAKE3 of a file's contents, as hexadecimal.
pub fn hash(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io(path, "read", &e))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file
            .read(&mut buffer)
            .map_err(|e| Error::io(path, "read", &e))?
        {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            read => {
                hasher.update(&buffer[..read]);
            }
        }
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn set_default_permissions(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_default_permissions(_: &File) -> std::io::Result<()> {
    Ok(())
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
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.txt");
        write_atomic(&path, b"old").unwrap();
        let failed = write_atomic_with(&path, |file| {
            file.write_all(b"half")?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        });
        let error = failed.unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(read_text(&path).unwrap(), "old");
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "the temporary file is gone"
        );
    }

    #[test]
    fn a_staged_folder_replaces_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("step");
        for contents in ["one", "two"] {
            let staged = StagedDir::new(&target).unwrap();
            write_atomic(&staged.path().join("f"), contents.as_bytes()).unwrap();
            staged.commit().unwrap();
            assert_eq!(read_text(&target.join("f")).unwrap(), contents);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

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
    fn a_staged_folder_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let staged = StagedDir::new(&dir.path().join("step")).unwrap();
        write_atomic(&staged.path().join("f"), b"half").unwrap();
        drop(staged);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn whether_an_output_can_be_written_is_known_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        expect_writable(&dir.path().join("new/folder/o.jsonl")).unwrap();
        assert_eq!(
            fs::read_dir(dir.path().join("new/folder")).unwrap().count(),
            0
        );
        assert!(
            expect_writable(dir.path())
                .unwrap_err()
                .to_string()
                .contains("this is a folder")
        );
        write_atomic(&dir.path().join("file"), b"").unwrap();
        let error = expect_writable(&dir.path().join("file/o.jsonl")).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
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
    fn a_folder_is_claimed_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let held = Lock::take(&folder).unwrap();
        let error = Lock::take(&folder).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .contains(&format!("process {} is at work here", std::process::id())),
            "{error}"
        );
        drop(held);
        Lock::take(&folder).unwrap();
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
}
