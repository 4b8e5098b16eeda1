//! The cache of embeddings, by model and by audio or text: a folder of parts, each written once and
//! whole.
//!
//! A part is a safetensors file with `model` (the fingerprint it was computed with), `keys`
//! (`[rows, 32]`, a hash of each row's clips or tokens) and `values` (`[rows, dim]`, f32). Nothing
//! in it depends on a manifest, so recipes share it; a clip whose file changes has another key, a
//! model that changes another folder.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;
use candle_core::Tensor;
use memmap2::Mmap;
use safetensors::SafeTensors;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::models::Fingerprint;

/// Hash of what a row's embedding was made of, its model apart.
pub type RowKey = [u8; 32];

/// Embeddings that wait for their part before it is written.
const PART_ROWS: usize = 1024;

/// The embeddings of one model.
pub struct Cache {
    folder: PathBuf,
    model: Fingerprint,
    dim: usize,
    parts: Vec<PartFile>,
    /// Part and row of each key.
    known: HashMap<RowKey, (usize, usize)>,
    waiting: Vec<(RowKey, Vec<f32>)>,
}

struct PartFile {
    map: Mmap,
    /// First byte of the values in the file.
    values: usize,
}

impl Cache {
    /// Opens the folder of a model inside `root`; there may be none yet.
    ///
    /// # Errors
    /// A part that was computed by another model or has other dimensions: the folder was renamed or
    /// copied.
    pub fn open(root: &Path, model: Fingerprint, dim: usize) -> Result<Self> {
        let folder = root.join(&blake3::Hash::from_bytes(model).to_hex().as_str()[..32]);
        let mut cache = Self {
            folder,
            model,
            dim,
            parts: Vec::new(),
            known: HashMap::new(),
            waiting: Vec::new(),
        };

        if cache.folder.is_dir() {
            let entries = std::fs::read_dir(&cache.folder)
                .map_err(|e| Error::io(&cache.folder, "list", e))?;
            let mut paths = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<std::io::Result<Vec<_>>>()
                .map_err(|e| Error::io(&cache.folder, "list", e))?;
            paths.retain(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "safetensors")
                    && !is_hidden(path)
            });
            paths.sort();
            for path in paths {
                cache.read(&path).map_err(|e| {
                    e.at_path(&path)
                        .hint("remove the folder: embeddings are then computed again")
                })?;
            }
        }

        Ok(cache)
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
        // Safety: parts are written once, under another name, and never changed.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "read", e))?;
        let damaged = |what: &str| Error::input(format!("damaged: {what}"));
        let tensors =
            SafeTensors::deserialize(&map).map_err(|e| damaged(&e.to_string()).caused_by(e))?;
        let tensor = |name: &str| {
            tensors
                .tensor(name)
                .map_err(|_| damaged(&format!("no `{name}`")))
        };

        if tensor("model")?.data() != self.model.as_slice() {
            return Err(Error::input(
                "these embeddings were computed by another model",
            ));
        }

        let keys = tensor("keys")?;
        let values = tensor("values")?;
        let rows = keys.data().len() / size_of::<RowKey>();

        if values.shape() != [rows, self.dim] {
            return Err(damaged(&format!(
                "values of shape {:?} for {rows} rows of {}",
                values.shape(),
                self.dim
            )));
        }

        for (row, key) in keys.data().chunks_exact(size_of::<RowKey>()).enumerate() {
            let mut copy = RowKey::default();
            copy.copy_from_slice(key);
            self.known.insert(copy, (self.parts.len(), row));
        }

        let values = values.data().as_ptr() as usize - map.as_ptr() as usize;
        self.parts.push(PartFile { map, values });
        Ok(())
    }

    /// The embedding of a row, if it is known.
    pub fn get(&self, key: &RowKey) -> Option<Vec<f32>> {
        let &(part, row) = self.known.get(key)?;
        let PartFile { map, values } = &self.parts[part];
        let start = values + row * self.dim * size_of::<f32>();
        let bytes = &map[start..start + self.dim * size_of::<f32>()];
        Some(
            bytes
                .chunks_exact(size_of::<f32>())
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        )
    }

    /// Adds an embedding; it is written with the next whole part, or by [`Cache::flush`].
    pub fn put(&mut self, key: RowKey, values: Vec<f32>) -> Result<()> {
        self.waiting.push((key, values));
        if self.waiting.len() < PART_ROWS {
            Ok(())
        } else {
            self.flush()
        }
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let rows = waiting.len();
        let width = size_of::<RowKey>();
        let keys: Vec<u8> = waiting.iter().flat_map(|(key, _)| *key).collect();
        let values: Vec<f32> = waiting.into_iter().flat_map(|(_, values)| values).collect();
        // Named for its keys, so that two programs that fill one cache write two parts.
        let path = self.folder.join(format!(
            "{}.safetensors",
            &blake3::hash(&keys).to_hex().as_str()[..32]
        ));
        let tensors = [
            (
                "model",
                Tensor::from_vec(self.model.to_vec(), self.model.len(), &Device::Cpu)?,
            ),
            ("keys", Tensor::from_vec(keys, (rows, width), &Device::Cpu)?),
            (
                "values",
                Tensor::from_vec(values, (rows, self.dim), &Device::Cpu)?,
            ),
        ];
        files::write_safetensors(&path, tensors)?;
        self.read(&path)
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_again_and_only_by_its_model() {
        let root = tempfile::tempdir().unwrap();
        let model = [3; 32];
        let key = |i: u8| [i; 32];
        let mut cache = Cache::open(root.path(), model, 2).unwrap();
        for i in 0..5 {
            cache.put(key(i), vec![f32::from(i), -1.5]).unwrap();
        }
        assert_eq!(cache.get(&key(2)), None, "not written yet");
        cache.flush().unwrap();
        assert_eq!(cache.get(&key(2)), Some(vec![2.0, -1.5]));
        let again = Cache::open(root.path(), model, 2).unwrap();
        assert_eq!(
            (again.get(&key(4)), again.get(&key(9))),
            (Some(vec![4.0, -1.5]), None)
        );
        assert_eq!(
            Cache::open(root.path(), [4; 32], 2).unwrap().get(&key(2)),
            None
        );
    }

    #[test]
    fn a_folder_of_another_model_or_a_damaged_part_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(root.path(), [3; 32], 1).unwrap();
        cache.put([0; 32], vec![1.0]).unwrap();
        cache.flush().unwrap();
        let other = Cache::open(root.path(), [4; 32], 1).unwrap().folder;
        files::create_dir(&other).unwrap();
        let part = cache
            .folder
            .read_dir()
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        files::copy(&part, &other.join("part.safetensors")).unwrap();
        let error = Cache::open(root.path(), [4; 32], 1).err().unwrap();
        assert!(
            error.exit_code() == 2
                && error.to_string().contains("another model")
                && error.to_string().contains("remove the folder"),
            "{error}"
        );
        files::write_atomic(&part, b"nothing of the kind").unwrap();
        assert!(
            Cache::open(root.path(), [3; 32], 1)
                .err()
                .unwrap()
                .to_string()
                .contains("damaged")
        );
    }
}
