//! Files written whole or not at all, and outputs that are no files: pipes, devices, open
//! descriptors.

use std::fs;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;
use crate::files::create_dir;
use crate::files::input::Waiting;
use crate::files::parent_of;
use crate::files::staged::DRAWN;
use crate::files::staged::PREFIX;
use crate::files::staged::claim;
use crate::files::staged::clean_once;
use crate::files::sync_dir;
use crate::files::target::Target;
use crate::files::target::resolved;

/// Writes a file whole or not at all: a temporary sibling is written, flushed to disk and renamed.
/// Links are followed; a pipe, a device or an open descriptor such as `/dev/stdout` is written
/// through.
///
/// # Errors
/// The disk's, naming `path`; the file that was there before is untouched then.
pub fn write_atomic(path: &Path, contents: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(contents))
}

/// As [`write_atomic`], for contents that are produced piece by piece.
pub fn write_atomic_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<()> {
    let failed = |e: io::Error| Error::io(path, "write", e);
    match Target::of(path)? {
        Target::File(target) => {
            let parent = parent_of(&target);
            create_dir(parent)?;
            let mut temporary = temporary(parent).map_err(failed)?;
            write_buffered(temporary.as_file_mut(), write)
                .and_then(|()| persist(temporary, &target))
                .map_err(failed)
        }
        Target::Stream(target) => {
            // Opening a pipe waits for somebody who reads it.
            let _waiting = Waiting::begin();
            let mut file = fs::OpenOptions::new()
                .write(true)
                .open(&target)
                .map_err(failed)?;
            write_buffered(&mut file, write).map_err(failed)
        }
        Target::Descriptor(number) => {
            let _waiting = Waiting::begin();
            let mut file = duplicate(number).map_err(failed)?;
            match write_buffered(&mut file, write) {
                // Nobody reads the standard output any more, which is no fault.
                Err(e) if number == STDOUT && e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                outcome => outcome.map_err(failed),
            }
        }
    }
}

/// Number of the standard output.
const STDOUT: i32 = 1;

fn write_buffered(
    file: &mut File,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffered = BufWriter::with_capacity(1 << 20, file);
    write(&mut buffered)?;
    buffered.flush()
}

/// A file beside the one that it will replace, claimed by this process.
fn temporary(parent: &Path) -> io::Result<tempfile::NamedTempFile> {
    clean_once(parent);
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).rand_bytes(DRAWN);
        allow_others(&mut builder);
        let made = builder.tempfile_in(parent)?;
        // A cleaner may take it for a leftover before it is claimed.
        if claim(made.as_file()) && made.path().exists() {
            return Ok(made);
        }
    }
}

fn persist(temporary: tempfile::NamedTempFile, target: &Path) -> io::Result<()> {
    // A library may have put another file in the temporary one's place.
    fs::set_permissions(
        temporary.path(),
        temporary.as_file().metadata()?.permissions(),
    )?;
    File::open(temporary.path())?.sync_all()?;
    temporary.persist(target).map_err(|e| e.error)?;
    sync_dir(parent_of(target))
}

/// A file in the making, written piece by piece beside its place and put there whole.
pub struct Draft {
    file: BufWriter<tempfile::NamedTempFile>,
    target: PathBuf,
}

impl Draft {
    /// Begins a file. Nothing is seen of it at its place before [`Draft::commit`].
    ///
    /// # Errors
    /// A path that cannot be written, or that is a pipe or a device.
    pub fn new(path: &Path) -> Result<Self> {
        let target = resolved(path)?;
        let parent = parent_of(&target);
        create_dir(parent)?;
        let temporary = temporary(parent).map_err(|e| Error::io(path, "write", e))?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, temporary),
            target,
        })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| Error::io(&self.target, "write", e))
    }

    /// Flushes the file to the disk and gives it its name.
    ///
    /// # Errors
    /// The disk's; the file that was there before is untouched then.
    pub fn commit(self) -> Result<()> {
        let Self { file, target } = self;
        file.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|temporary| persist(temporary, &target))
            .map_err(|e| Error::io(&target, "write", e))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes named tensors to a safetensors file, one after the other, whole or not at all; as
/// [`write_atomic`] where that is no file.
pub fn write_safetensors<S: AsRef<str> + Ord + std::fmt::Display, V: safetensors::View>(
    path: &Path,
    tensors: impl IntoIterator<Item = (S, V)>,
) -> Result<()> {
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let failed = |e: io::Error| Error::io(path, "write", e);
    let refused = |error: safetensors::SafeTensorError| match error {
        safetensors::SafeTensorError::IoError(e) => failed(e),
        other => Error::bug(format!("cannot write safetensors: {other}"))
            .caused_by(other)
            .at_path(path),
    };
    let Target::File(target) = Target::of(path)? else {
        let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(refused)?;
        return write_atomic(path, &bytes);
    };
    let parent = parent_of(&target);
    create_dir(parent)?;
    let temporary = temporary(parent).map_err(failed)?;
    safetensors::serialize_to_file(tensors, Some(metadata), temporary.path()).map_err(refused)?;
    persist(temporary, &target).map_err(failed)
}

/// Whether an output can be written at `path`, found out before the work whose result goes there;
/// makes its folder.
///
/// # Errors
/// A folder of that name, or one in which nothing can be written; a descriptor that is not open.
pub fn expect_writable(path: &Path) -> Result<()> {
    let refused = |e: Error| e.or_hint("choose another place for the output");
    match Target::of(path)? {
        Target::File(target) if target.is_dir() => {
            Err(Error::input("cannot write: this is a folder")
                .at_path(path)
                .hint("name a file"))
        }
        Target::File(target) => {
            let parent = parent_of(&target);
            create_dir(parent)
                .and_then(|()| {
                    temporary(parent)
                        .map(drop)
                        .map_err(|e| Error::io(parent, "write into the folder", e))
                })
                .map_err(|e| refused(e.at(format!("{}: cannot write", path.display()))))
        }
        Target::Stream(_) => Ok(()),
        Target::Descriptor(number) => duplicate(number)
            .map(drop)
            .map_err(|e| refused(Error::io(path, "write", e))),
    }
}

#[cfg(unix)]
fn duplicate(number: i32) -> io::Result<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: `dup` takes any number, and fails for one that is not open.
    let copy = unsafe { libc::dup(number) };
    if copy < 0 {
        // The user named it: a wrong name, not a fault of the machine.
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such open file"));
    }
    // SAFETY: the copy was just made, and nobody else closes it.
    Ok(unsafe { File::from_raw_fd(copy) })
}

#[cfg(not(unix))]
fn duplicate(_: i32) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a file the mode of any other new file: what the user's mask leaves.
#[cfg(unix)]
fn allow_others(builder: &mut tempfile::Builder<'_, '_>) {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(fs::Permissions::from_mode(0o666));
}

#[cfg(not(unix))]
fn allow_others(_: &mut tempfile::Builder<'_, '_>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::read_text;

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_draft_is_seen_once_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.txt");
        write_atomic(&path, b"old").unwrap();
        let mut draft = Draft::new(&path).unwrap();
        draft.append(b"new ").unwrap();
        draft.append(b"text").unwrap();
        assert_eq!(read_text(&path).unwrap(), "old");
        draft.commit().unwrap();
        assert_eq!(read_text(&path).unwrap(), "new text");
        drop(Draft::new(&path).unwrap());
        assert_eq!(
            (
                read_text(&path).unwrap().as_str(),
                names(path.parent().unwrap())
            ),
            ("new text", 1)
        );
    }

    #[cfg(unix)]
    #[test]
    fn every_file_has_the_mode_of_a_new_one() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("new"), b"").unwrap();
        write_atomic(&path("whole"), b"").unwrap();
        Draft::new(&path("draft")).unwrap().commit().unwrap();
        let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![1], &[7]);
        write_safetensors(&path("tensors"), [("a", tensor.unwrap())]).unwrap();

        let mode = |name: &str| fs::metadata(path(name)).unwrap().permissions().mode();
        for name in ["whole", "draft", "tensors"] {
            assert_eq!(mode(name), mode("new"), "{name}");
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.txt");
        write_atomic(&path, b"old").unwrap();
        let failed = write_atomic_with(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        let error = failed.unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(read_text(&path).unwrap(), "old");
        assert_eq!(
            names(path.parent().unwrap()),
            1,
            "the temporary file is gone"
        );
    }

    #[test]
    fn whether_an_output_can_be_written_is_known_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        expect_writable(&dir.path().join("new/folder/o.jsonl")).unwrap();
        assert_eq!(names(&dir.path().join("new/folder")), 0);
        let error = expect_writable(dir.path()).unwrap_err().to_string();
        assert!(error.contains("this is a folder"), "{error}");
        write_atomic(&dir.path().join("file"), b"").unwrap();
        let error = expect_writable(&dir.path().join("file/o.jsonl")).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_what_they_name_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, at(name)).unwrap();
        fs::create_dir(at("there")).unwrap();
        fs::write(at("there/old"), "old").unwrap();
        link("there/old", "to-old");
        link("to-old", "to-link");
        link("there/new", "to-new");
        link("there", "to-folder");
        link("loop", "loop");
        for (name, file) in [
            ("to-old", "there/old"),
            ("to-link", "there/old"),
            ("to-new", "there/new"),
            ("to-folder/third", "there/third"),
        ] {
            expect_writable(&at(name)).unwrap();
            write_atomic(&at(name), name.as_bytes()).unwrap();
            assert_eq!(read_text(&at(file)).unwrap(), name);
        }
        for name in ["to-old", "to-link", "to-new", "to-folder"] {
            assert!(at(name).is_symlink(), "{name}");
        }
        write_safetensors(
            &at("to-new"),
            Vec::<(String, safetensors::tensor::TensorView)>::new(),
        )
        .unwrap();
        assert!(at("to-new").is_symlink() && !at("there/new").is_symlink());
        for outcome in [
            expect_writable(&at("loop")),
            write_atomic(&at("loop"), b"x"),
        ] {
            assert_eq!(outcome.unwrap_err().exit_code(), 2);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_descriptor_of_this_process_is_known_by_its_names() {
        for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            let found = Target::of(Path::new(name)).unwrap();
            assert_eq!(found, Target::Descriptor(1), "{name}");
        }
        let error = expect_writable(Path::new("/dev/fd/987")).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert_eq!(
            Target::of(Path::new("/dev/null")).unwrap(),
            Target::Stream("/dev/null".into())
        );
    }
}
