//! Where an output goes: a file, a pipe or device, an open descriptor.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;
use crate::files::parent_of;

/// Links that are followed before one counts as looped, as in Linux.
const MAX_LINKS: usize = 40;

/// Where an output goes.
#[derive(Debug, PartialEq)]
pub(super) enum Target {
    /// A file, which is replaced whole; its folder may be missing.
    File(PathBuf),
    /// A pipe or a device, which is written through.
    Stream(PathBuf),
    /// An open descriptor of this process, as `/dev/stdout` names one; it is written to where it
    /// stands.
    Descriptor(i32),
}

impl Target {
    /// Finds what a path names, every link followed.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let mut at = path.to_owned();
        for _ in 0..MAX_LINKS {
            let Some(name) = at.file_name() else {
                return Ok(Self::File(at));
            };
            let folder = parent_of(&at);
            let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
            if let Some(number) = descriptor(&folder, name) {
                return Ok(Self::Descriptor(number));
            }
            let full = folder.join(name);
            match fs::symlink_metadata(&full) {
                Ok(found) if found.is_symlink() => {
                    let link = fs::read_link(&full).map_err(|e| Error::io(path, "write", e))?;
                    at = folder.join(link);
                }
                Ok(found) if !found.is_file() && !found.is_dir() => {
                    return Ok(Self::Stream(full));
                }
                // Left as it was written where no link was followed, so that messages name what the
                // user wrote.
                _ if at == path => return Ok(Self::File(at)),
                _ => return Ok(Self::File(full)),
            }
        }
        Err(Error::input("a link that leads back to itself")
            .at_path(path)
            .hint("name a file"))
    }
}

/// The number of an open descriptor of this process that a name in a folder stands for.
#[cfg(unix)]
fn descriptor(folder: &Path, name: &std::ffi::OsStr) -> Option<i32> {
    let own = format!("/proc/{}/fd", std::process::id());
    let is_own = folder == Path::new(&own) || folder == Path::new("/dev/fd");
    name.to_str()
        .filter(|_| is_own)
        .and_then(|name| name.parse().ok())
}

#[cfg(not(unix))]
fn descriptor(_: &Path, _: &std::ffi::OsStr) -> Option<i32> {
    None
}

/// The place of a file or folder that is to be replaced, every link followed.
pub(super) fn resolved(path: &Path) -> Result<PathBuf> {
    match Target::of(path)? {
        Target::File(path) => Ok(path),
        Target::Stream(_) | Target::Descriptor(_) => {
            Err(Error::input("is a pipe or a device, not a folder")
                .at_path(path)
                .hint("name a folder"))
        }
    }
}
