//! WebDataset: uncompressed tar files in which each row is a `.flac` and a `.json` with the same
//! name, in succession.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::build::publish::row::Published;
use crate::build::publish::row::manifest_fields;
use crate::build::recipe::Recipe;
use crate::error::Error;
use crate::error::Result;
use crate::files::AppendLog;

/// Bytes of a block of a tar file.
const BLOCK: usize = 512;

/// Tar files that are being written, split by split.
pub(super) struct Tars {
    folder: PathBuf,
    largest: u64,
    split: &'static str,
    number: usize,
    open: Option<(AppendLog, u64)>,
}

impl Tars {
    /// No files yet.
    pub(super) fn new(recipe: &Recipe, folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            largest: recipe.publish.shard_mb << 20,
            split: "",
            number: 0,
            open: None,
        }
    }

    /// Adds a row; rows come split by split.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn add(&mut self, published: &Published, file: &[u8]) -> Result<()> {
        if published.split != self.split {
            self.finish()?;
            (self.split, self.number) = (published.split, 0);
        }
        let name = Path::new(&published.audio)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut fields = manifest_fields(published);
        fields.remove("audio");
        let fields = Value::Object(fields).to_string();
        let num_bytes = (file.len() + fields.len()) as u64;
        if let Some((_, open)) = &self.open
            && open + num_bytes > self.largest
        {
            self.finish()?;
        }
        if self.open.is_none() {
            let path = self
                .folder
                .join(format!("{}-{:05}.tar", self.split, self.number));
            self.number += 1;
            self.open = Some((AppendLog::open(&path)?, 0));
        }
        let Some((log, num_bytes)) = &mut self.open else {
            return Err(Error::bug("a tar file that was opened"));
        };
        for (name, contents) in [
            (format!("{name}.flac"), file),
            (format!("{name}.json"), fields.as_bytes()),
        ] {
            let mut bytes = header(&name, contents.len()).to_vec();
            bytes.extend(contents);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            log.append(&bytes)?;
            *num_bytes += bytes.len() as u64;
        }
        Ok(())
    }

    /// Ends the open file with two empty blocks.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self.open.take() {
            Some((mut log, _)) => log.append(&[0; 2 * BLOCK]),
            None => Ok(()),
        }
    }
}

/// The header of a file (POSIX.1-1988, ustar), with no time and no owner, so that equal rows give
/// equal bytes.
fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    // The sum is computed with spaces in its place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(329, "0000000\0");
    put(337, "0000000\0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_that_tar_writes() {
        // The check sum that GNU tar 1.34 writes for a file of 1234 bytes:
        // tar --format=ustar --numeric-owner --mtime=@0 --owner=0 --group=0 --mode=644 -cf - a.flac
        let header = header("a.flac", 1234);
        assert_eq!(&header[124..136], b"00000002322\0");
        assert_eq!(&header[148..156], b"010253\0 ");
    }
}
