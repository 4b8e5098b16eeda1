//! Claims on folders, one process at a time.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
#[cfg(unix)]
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::error::Result;
use crate::files::create_dir;
use crate::files::input::Waiting;
use crate::files::staged::clean_below;

/// The file in a claimed folder that is locked.
const LOCK_FILE: &str = ".lock";
/// Time between two looks at a lock that is waited for.
const LOOK_UP: Duration = Duration::from_millis(200);

/// A claim on a folder, held until it is dropped or the process ends, however it ends.
pub struct Lock {
    folder: PathBuf,
    _file: File,
}

impl Lock {
    /// Claims the folder by locking a file in it, which is made where it is missing and stays. What
    /// dead processes left in the folder is removed.
    ///
    /// # Errors
    /// Another process holds it; the message names that process.
    pub fn take(folder: &Path) -> Result<Self> {
        let lock = Self::claim(folder)?;
        lock.remove_leftovers();
        Ok(lock)
    }

    /// As [`Lock::take`], without a change to what the folder holds; [`Lock::remove_leftovers`]
    /// follows once the folder is known to be this program's.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn claim(folder: &Path) -> Result<Self> {
        Self::try_take(folder)?.ok_or_else(|| {
            Error::input(format!("process {} is at work here", holder(folder)))
                .at_path(folder)
                .hint("wait until it ends, or stop it")
        })
    }

    /// Removes what dead processes left in the folder, and puts back what an interrupted exchange
    /// took away.
    pub fn remove_leftovers(&self) {
        clean_below(&self.folder);
    }

    /// As [`Lock::take`], waiting until the other process ends; `told` is called once with its
    /// number if there is one.
    ///
    /// # Errors
    /// The disk's.
    pub fn wait(folder: &Path, told: impl FnOnce(&str)) -> Result<Self> {
        if let Some(lock) = Self::try_take(folder)? {
            return Ok(lock);
        }
        told(&holder(folder));
        let _waiting = Waiting::begin();
        loop {
            if let Some(lock) = Self::try_take(folder)? {
                return Ok(lock);
            }
            std::thread::sleep(LOOK_UP);
        }
    }

    /// As [`Lock::take`]; `None` where another process holds the folder.
    pub fn try_take(folder: &Path) -> Result<Option<Self>> {
        create_dir(folder)?;
        let path = folder.join(LOCK_FILE);
        let mut options = fs::OpenOptions::new();
        options.create(true).read(true).write(true).truncate(false);
        // The file is emptied below, and a link would lead to one of somebody else.
        #[cfg(unix)]
        options.custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&path).map_err(|e| {
            let error = Error::io(&path, "open", e);
            if path.is_symlink() {
                error.hint("remove the link; maqam makes a file in its place")
            } else {
                error
            }
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(e)) => return Err(Error::io(&path, "lock", e)),
        }
        // The number only serves the message, so a full disk is no reason to give up here.
        let _ = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Some(Self {
            folder: folder.to_owned(),
            _file: file,
        }))
    }
}

/// The number of the process that holds a folder.
fn holder(folder: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(folder.join(LOCK_FILE)) {
        let _ = file.take(20).read_to_string(&mut text);
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[cfg(unix)]
    #[test]
    fn a_link_in_place_of_the_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join(LOCK_FILE)).unwrap();
        let error = Lock::take(dir.path()).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("remove the link"), "{error}");
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
    }

    #[test]
    fn a_claim_is_waited_for_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let held = Lock::take(&folder).unwrap();
        fs::create_dir(folder.join(".writing-9-0")).unwrap();
        let own = std::process::id().to_string();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let mut told = String::new();
                Lock::wait(&folder, |process| told = process.to_owned()).unwrap();
                told
            });
            std::thread::sleep(2 * LOOK_UP);
            assert!(!waits.is_finished() && Waiting::is_any());
            drop(held);
            assert_eq!(waits.join().unwrap(), own);
        });
        Lock::take(&folder).unwrap();
        assert!(!folder.join(".writing-9-0").exists());
    }
}
