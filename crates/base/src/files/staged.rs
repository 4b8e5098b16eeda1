//! Files and folders under way: each is locked by the process that writes it, so that what a dead
//! one left is known and removed.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::error::Result;
use crate::files::create_dir;
use crate::files::parent_of;
use crate::files::sync_dir;
use crate::files::target::resolved;

/// What the name of a file or folder under way begins with.
pub(super) const PREFIX: &str = ".writing-";
/// What the name of a folder begins with that a new one replaces.
const OLD_PREFIX: &str = ".old-";
/// Letters that are drawn for the name of a file under way.
pub(super) const DRAWN: usize = 8;
/// How deep below a folder that was claimed leftovers are looked for.
const DEPTH: usize = 4;

/// Numbers of the folders under way that this process has made.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Folders in which this process has looked for leftovers.
static CLEANED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Claims what was just made for this process, until the handle is closed; false where a cleaner
/// had it first.
pub(super) fn claim(file: &File) -> bool {
    // A file system without locks has no cleaner either: what cannot be locked is never removed.
    !matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock))
}

/// Removes what dead processes left in a folder, once for each folder of this process. Nothing
/// depends on it.
pub(super) fn clean_once(folder: &Path) {
    let mut cleaned = CLEANED.lock().unwrap_or_else(PoisonError::into_inner);
    if !cleaned.insert(folder.to_owned()) {
        return;
    }
    // The folder may be anybody's, so only names that this program gives are its own.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(is_ours) {
            remove_dead(&entry);
        }
    }
}

/// Removes what dead processes left in a folder of this program's and the folders below it, and
/// puts back what an interrupted exchange took away. Names that this program does not give stay: a
/// user may keep own files there.
pub(super) fn clean_below(folder: &Path) {
    clean(folder, DEPTH);
}

fn clean(folder: &Path, depth: usize) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if is_ours(&name) {
            remove_dead(&entry);
        } else if !is_dir(&entry) {
            continue;
        } else if let Some(of) = replaced(&name) {
            recover(&path, &folder.join(of));
        } else if depth > 0 {
            clean(&path, depth - 1);
        }
    }
}

/// Whether an entry is a folder itself, not a link to one.
fn is_dir(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// Whether a name is one that [`StagedDir::new`] or a file under way gets.
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    match rest.split_once('-') {
        Some((process, number)) => is_number(process) && is_number(number),
        None => rest.len() == DRAWN && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()),
    }
}

/// The name of the folder that one was renamed from, if [`old_name`] gave it its name.
fn replaced(name: &str) -> Option<&str> {
    let mut parts = name.strip_prefix(OLD_PREFIX)?.splitn(3, '-');
    let is_generated = is_number(parts.next()?) && is_number(parts.next()?);
    parts
        .next()
        .filter(|of| is_generated && !matches!(*of, "" | "." | ".."))
}

/// A name for a folder while another takes its place: `.old-PROCESS-NUMBER-NAME`.
fn old_name(name: &str) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{OLD_PREFIX}{}-{number}-{name}", std::process::id())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Removes a file or folder that no living process holds.
fn remove_dead(entry: &fs::DirEntry) {
    // To open a pipe is to wait, and a link leads to something else; maqam leaves neither.
    let Ok(kind) = entry.file_type() else { return };
    if !kind.is_dir() && !kind.is_file() {
        return;
    }
    let path = entry.path();
    let Ok(file) = File::open(&path) else { return };
    if file.try_lock().is_err() {
        return;
    }
    let _ = if kind.is_dir() {
        fs::remove_dir_all(&path)
    } else {
        fs::remove_file(&path)
    };
}

/// Puts a folder back whose successor never came; removes it where that is in place.
fn recover(old: &Path, target: &Path) {
    let Ok(file) = File::open(old) else { return };
    if file.try_lock().is_err() {
        return;
    }
    let _ = if target.exists() {
        fs::remove_dir_all(old)
    } else {
        fs::rename(old, target)
    };
}

/// A folder that appears whole or not at all: write into [`StagedDir::path`], then
/// [`StagedDir::commit`].
///
/// Dropped before that, it takes what was written with it: on a full disk half a folder would take
/// the space of the next whole one.
pub struct StagedDir {
    staging: PathBuf,
    target: PathBuf,
    /// The claim on the staging folder.
    _claim: File,
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        // After a commit the staging folder has another name; what cannot be removed the next
        // process removes.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

impl StagedDir {
    /// Opens an empty staging folder beside `target`; a link is followed first.
    pub fn new(target: &Path) -> Result<Self> {
        let target = resolved(target)?;
        let parent = parent_of(&target);
        create_dir(parent)?;
        clean_once(parent);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let staging = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match fs::create_dir(&staging) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io(&staging, "make the folder", e)),
            }
            match File::open(&staging) {
                Ok(file) if claim(&file) => {
                    return Ok(Self {
                        staging,
                        target,
                        _claim: file,
                    });
                }
                // A cleaner took it for a leftover between the two calls.
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(&staging, "open the folder", e)),
            }
        }
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.staging
    }

    /// Puts the folder in place, replacing one of that name.
    pub fn commit(self) -> Result<()> {
        let swap = || -> io::Result<()> {
            sync_dir(&self.staging)?;
            if self.target.exists() {
                // The old folder takes the staging folder's name, and goes with it.
                replace(&self.staging, &self.target)?;
            } else {
                fs::rename(&self.staging, &self.target)?;
            }
            sync_dir(parent_of(&self.target))
        };
        swap().map_err(|e| Error::io(&self.target, "put the folder in place", e))
    }
}

/// Puts `new` in the place of the folder `target`, at once where the system can exchange two names.
fn replace(new: &Path, target: &Path) -> io::Result<()> {
    if exchange(new, target).is_ok() {
        return Ok(());
    }
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let old = parent_of(target).join(old_name(&name));
    fs::rename(target, &old)?;
    if let Err(error) = fs::rename(new, target) {
        fs::rename(&old, target)?;
        return Err(error);
    }
    fs::remove_dir_all(&old)
}

#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let a = CString::new(a.as_os_str().as_bytes())?;
    let b = CString::new(b.as_os_str().as_bytes())?;
    // SAFETY: both are strings that end in a zero byte and live through the call, which keeps
    // neither.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            a.as_ptr(),
            libc::AT_FDCWD,
            b.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::read_text;
    use crate::files::write_atomic;

    fn names(folder: &Path) -> Vec<String> {
        let mut found: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        found
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
        assert_eq!(names(dir.path()), ["step"]);
    }

    #[test]
    fn a_staged_folder_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let staged = StagedDir::new(&dir.path().join("step")).unwrap();
        write_atomic(&staged.path().join("f"), b"half").unwrap();
        drop(staged);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn two_writers_of_one_folder_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("step");
        let first = StagedDir::new(&target).unwrap();
        write_atomic(&first.path().join("f"), b"first").unwrap();
        let second = StagedDir::new(&target).unwrap();
        write_atomic(&second.path().join("f"), b"second").unwrap();
        first.commit().unwrap();
        assert_eq!(read_text(&target.join("f")).unwrap(), "first");
        second.commit().unwrap();
        assert_eq!(read_text(&target.join("f")).unwrap(), "second");
        assert_eq!(names(dir.path()), ["step"]);
    }

    #[test]
    fn leftovers_of_the_dead_are_removed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        fs::create_dir_all(run.join("checkpoints/.writing-9-0")).unwrap();
        fs::write(run.join("checkpoints/.writing-9-0/half"), "h").unwrap();
        fs::write(run.join(".writing-aB3dE6gH"), "half").unwrap();
        fs::write(run.join(".writing-notes"), "mine").unwrap();
        fs::create_dir_all(run.join(".old-photos/best")).unwrap();
        fs::create_dir_all(run.join(".old-2-best")).unwrap();
        let living = StagedDir::new(&run.join("checkpoints/step")).unwrap();
        let held = File::create(run.join(".writing-heldheld")).unwrap();
        assert!(claim(&held));
        clean_below(run);
        assert_eq!(
            names(run),
            [
                ".old-2-best",
                ".old-photos",
                ".writing-heldheld",
                ".writing-notes",
                "checkpoints"
            ]
        );
        assert!(living.path().is_dir());
        assert_eq!(names(&run.join("checkpoints")).len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_links_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join(".writing-1-1");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        std::os::unix::fs::symlink(&pipe, dir.path().join(".writing-1-2")).unwrap();
        clean_below(dir.path());
        assert_eq!(names(dir.path()), [".writing-1-1", ".writing-1-2"]);
    }

    #[test]
    fn files_of_others_stay_in_their_folders() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            ".writing-notes",
            ".writing-12-3",
            ".writing-aB3dE6gH",
            ".writing-",
            "a",
        ] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join(".old-a")).unwrap();
        clean_once(dir.path());
        assert_eq!(
            names(dir.path()),
            [".old-a", ".writing-", ".writing-notes", "a"]
        );
    }

    #[test]
    fn a_folder_whose_successor_never_came_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let [best, last] = ["best-1", "last"].map(old_name);
        for name in [best.as_str(), &last, "last"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("f"), name).unwrap();
        }
        clean_below(dir.path());
        assert_eq!(names(dir.path()), ["best-1", "last"]);
        assert_eq!(read_text(&dir.path().join("best-1/f")).unwrap(), best);
        assert_eq!(read_text(&dir.path().join("last/f")).unwrap(), "last");
    }
}
