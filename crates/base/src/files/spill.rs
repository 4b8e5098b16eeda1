//! Bytes that are appended and read back, on disk where they are many.

use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use crate::error::Error;
use crate::error::Result;
use crate::files::create_dir;

/// Bytes that wait in memory before they are written.
const BUFFER: usize = 1 << 18;

/// Records that are read at once.
const RECORDS: usize = 1 << 14;

/// Bytes that are appended and read back.
///
/// Beyond 256 KiB they go to a file without a name, which the system removes with the process.
#[derive(Default)]
pub struct Spill {
    folder: Option<PathBuf>,
    file: Option<File>,
    /// Number of bytes in the file.
    written: u64,
    buffer: Vec<u8>,
}

impl Spill {
    /// No bytes. `folder` is the place of the file; without one all bytes stay in memory.
    pub fn new(folder: Option<&Path>) -> Self {
        Self {
            folder: folder.map(Path::to_owned),
            ..Self::default()
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        let Some(folder) = self.folder.as_ref().filter(|_| self.buffer.len() >= BUFFER) else {
            return Ok(());
        };
        let failed = |e: io::Error| Error::io(folder, "write a temporary file", e);
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                create_dir(folder)?;
                self.file
                    .insert(tempfile::tempfile_in(folder).map_err(failed)?)
            }
        };
        file.write_all(&self.buffer).map_err(failed)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Reads the bytes from `at`, as many as `into` takes.
    ///
    /// # Errors
    /// The disk's; fewer bytes than that are a bug.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let in_file = self.written.saturating_sub(at).min(into.len() as u64);
        let (of_file, of_buffer) = into.split_at_mut(in_file as usize);
        if let Some(file) = self.file.as_ref().filter(|_| !of_file.is_empty()) {
            let folder = self.folder.as_deref().unwrap_or(Path::new(""));
            file.read_exact_at(of_file, at)
                .map_err(|e| Error::io(folder, "read a temporary file", e))?;
        }
        if of_buffer.is_empty() {
            return Ok(());
        }
        let start = (at + in_file - self.written) as usize;
        let bytes = self.buffer.get(start..start + of_buffer.len());
        of_buffer.copy_from_slice(bytes.ok_or_else(|| Error::bug("bytes behind the end"))?);
        Ok(())
    }

    /// Reads all records of `N` bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn records<const N: usize, T>(&self, of: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let mut records = Vec::with_capacity((self.len() / N as u64) as usize);
        let mut chunk = vec![0; N * RECORDS];
        let mut at = 0;
        while at < self.len() {
            let len = (self.len() - at).min(chunk.len() as u64) as usize;
            self.read(at, &mut chunk[..len])?;
            for bytes in chunk[..len].chunks_exact(N) {
                let mut record = [0; N];
                record.copy_from_slice(bytes);
                records.push(of(record));
            }
            at += len as u64;
        }
        Ok(records)
    }
}

/// Texts by their number, in a [`Spill`].
pub struct SpilledTexts {
    bytes: Spill,
    /// End of every text in `bytes`, 8 bytes each.
    ends: Spill,
}

impl SpilledTexts {
    /// No texts; `folder` as for [`Spill::new`].
    pub fn new(folder: Option<&Path>) -> Self {
        Self {
            bytes: Spill::new(folder),
            ends: Spill::new(folder),
        }
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        (self.ends.len() / 8) as usize
    }

    /// Returns whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a text.
    ///
    /// # Errors
    /// The disk's.
    pub fn push(&mut self, text: &str) -> Result<()> {
        self.bytes.append(text.as_bytes())?;
        self.ends.append(&self.bytes.len().to_le_bytes())
    }

    /// Reads a text.
    ///
    /// # Errors
    /// The disk's; a number that no text has is a bug.
    pub fn get(&self, index: usize) -> Result<String> {
        let (start, end) = match index {
            0 => (0, self.ends(0, 1)?[0]),
            index => {
                let ends = self.ends(index - 1, 2)?;
                (ends[0], ends[1])
            }
        };
        let mut bytes = vec![0; (end - start) as usize];
        self.bytes.read(start, &mut bytes)?;
        text_of(bytes)
    }

    /// Reads texts from `index` on: one at least, and others up to `most` texts or bytes; none
    /// behind the last.
    ///
    /// # Errors
    /// The disk's.
    pub fn batch(&self, index: usize, most: usize, most_bytes: u64) -> Result<Vec<String>> {
        let num = self.len().saturating_sub(index).min(most);
        if num == 0 {
            return Ok(Vec::new());
        }
        let start = match index {
            0 => 0,
            index => self.ends(index - 1, 1)?[0],
        };
        let mut ends = self.ends(index, num)?;
        let num = ends.partition_point(|end| end - start <= most_bytes).max(1);
        ends.truncate(num);
        let mut bytes = vec![0; (ends[num - 1] - start) as usize];
        self.bytes.read(start, &mut bytes)?;
        let mut texts = Vec::with_capacity(num);
        let mut done = 0;
        for end in ends {
            let end = (end - start) as usize;
            texts.push(text_of(bytes[done..end].to_vec())?);
            done = end;
        }
        Ok(texts)
    }

    fn ends(&self, index: usize, num: usize) -> Result<Vec<u64>> {
        let mut bytes = vec![0; 8 * num];
        self.ends.read(8 * index as u64, &mut bytes)?;
        let ends = bytes.chunks_exact(8).map(|bytes| {
            let mut end = [0; 8];
            end.copy_from_slice(bytes);
            u64::from_le_bytes(end)
        });
        Ok(ends.collect())
    }
}

fn text_of(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(Error::bug_from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_memory_and_disk() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("made");
        for folder in [None, Some(folder.as_path())] {
            let mut spill = Spill::new(folder);
            for i in 0..100_000u64 {
                spill.append(&i.to_le_bytes()).unwrap();
            }
            assert_eq!(spill.len(), 800_000);
            assert_eq!(spill.file.is_some(), folder.is_some());
            let numbers = spill.records(u64::from_le_bytes).unwrap();
            assert!(numbers.iter().copied().eq(0..100_000));
            // A range that begins in the file and ends in memory.
            let mut bytes = [0; 16];
            let at = spill.written.saturating_sub(8);
            spill.read(at, &mut bytes).unwrap();
            assert_eq!(bytes[8..], (at / 8 + 1).to_le_bytes());
            assert!(spill.read(799_999, &mut bytes).is_err());
        }
        // The file has no name.
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn texts_come_back_by_number_and_in_batches() {
        let dir = tempfile::tempdir().unwrap();
        let mut texts = SpilledTexts::new(Some(dir.path()));
        let text = |i: usize| format!("س{}", "x".repeat(i % 50));
        for i in 0..50_000 {
            texts.push(&text(i)).unwrap();
        }
        assert_eq!(texts.len(), 50_000);
        for i in [0, 1, 777, 49_999] {
            assert_eq!(texts.get(i).unwrap(), text(i));
        }
        let mut index = 0;
        loop {
            let batch = texts.batch(index, 1000, 20_000).unwrap();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() == 1 || batch.iter().map(String::len).sum::<usize>() <= 20_000);
            for found in batch {
                assert_eq!(found, text(index));
                index += 1;
            }
        }
        assert_eq!(index, 50_000);
        assert_eq!(texts.batch(49, 5, 0).unwrap(), [text(49)]);
    }
}
