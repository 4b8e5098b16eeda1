//! A cache on a disk of a frozen audio encoder's outputs, by the content of clips.
//!
//! `ROOT/MODEL/KEY.f32` holds `[audio tokens, d_model]` as f32 and a BLAKE3 hash of them; KEY is
//! the hash of the clip's log-mel frames, MODEL that of the encoder. A file that is damaged, or of
//! another length, counts as none.

use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use candle_core::Tensor;

use crate::batch::Audio;
use crate::ops::cpu::slice;
use maqam_base::error::Result;
use maqam_base::files;

/// Bytes that a cache holds at most, of all models together.
pub const LIMIT: u64 = 10 << 30;

/// Share of the limit that is left after the oldest files of a full cache were removed.
const KEPT: f64 = 0.9;

/// The outputs of one encoder.
pub struct EncodedCache {
    root: PathBuf,
    folder: PathBuf,
    limit: u64,
    /// Bytes of all files below the root.
    bytes: u64,
}

impl EncodedCache {
    /// The cache of an encoder inside `root`; there may be none yet.
    pub fn open(root: &Path, encoder: &[u8; 32], limit: u64) -> Self {
        let name = &blake3::Hash::from_bytes(*encoder).to_hex().as_str()[..32].to_owned();
        Self {
            folder: root.join(name),
            root: root.to_owned(),
            limit,
            bytes: stored(root).iter().map(|file| file.bytes).sum(),
        }
    }

    /// The output for a clip, `[rows, dim]`, if it is there and whole.
    pub fn get(&self, clip: &Audio, rows: usize, dim: usize) -> Option<Vec<f32>> {
        let bytes = std::fs::read(self.path(clip)).ok()?;
        let (values, hash) = bytes.split_at_checked(rows * dim * 4)?;
        if blake3::hash(values).as_bytes() != hash {
            return None;
        }
        let numbers = values.chunks_exact(4).map(|bytes| {
            let mut word = [0; 4];
            word.copy_from_slice(bytes);
            f32::from_le_bytes(word)
        });
        Some(numbers.collect())
    }

    /// Keeps the output for a clip. Where the limit is reached, the oldest files go.
    ///
    /// # Errors
    /// The disk's.
    pub fn put(&mut self, clip: &Audio, output: &Tensor) -> Result<()> {
        let values = slice::<f32>(output)?;
        let mut bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        let len = bytes.len() as u64;
        if self.bytes + len > self.limit {
            self.shrink(len)?;
        }
        self.bytes += len;
        files::write_atomic(&self.path(clip), &bytes)
    }

    fn path(&self, clip: &Audio) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{} {:?} {:?}", clip.mels, clip.windows, clip.positions).as_bytes());
        let mut bytes = Vec::new();
        for values in clip.features.chunks(1 << 16) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&bytes);
        }
        let name = hasher.finalize().to_hex();
        self.folder.join(format!("{}.f32", &name.as_str()[..32]))
    }

    /// Removes the oldest files, until `len` more bytes have room.
    fn shrink(&mut self, len: u64) -> Result<()> {
        let mut found = stored(&self.root);
        found.sort_by_key(|file| file.written);
        let mut bytes: u64 = found.iter().map(|file| file.bytes).sum();
        for file in found {
            if (bytes + len) as f64 <= KEPT * self.limit as f64 {
                break;
            }
            files::remove_file(&file.path)?;
            bytes -= file.bytes;
        }
        self.bytes = bytes;
        Ok(())
    }
}

struct Stored {
    path: PathBuf,
    bytes: u64,
    written: SystemTime,
}

/// The files of all models; what another run removes meanwhile is not there.
fn stored(root: &Path) -> Vec<Stored> {
    let list = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = list(root).map(|entry| entry.path());
    folders
        .flat_map(|folder| list(&folder))
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(Stored {
                path: entry.path(),
                bytes: metadata.len(),
                written: metadata.modified().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn clip(value: f32) -> Audio {
        Audio {
            framing: 8.into(),
            mels: 80,
            features: vec![value; 8 * 80],
            windows: vec![8],
            positions: vec![4],
            attended: vec![4],
            clip_positions: vec![4],
            position_keys: Vec::new(),
        }
    }

    fn output(value: f32) -> Tensor {
        Tensor::from_vec(vec![value; 2 * 6], (2, 6), &Device::Cpu).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_by_clip_and_encoder() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = EncodedCache::open(dir.path(), &[1; 32], LIMIT);
        assert_eq!(cache.get(&clip(0.5), 2, 6), None);
        cache.put(&clip(0.5), &output(7.0)).unwrap();
        assert_eq!(cache.get(&clip(0.5), 2, 6), Some(vec![7.0; 12]));
        assert_eq!(cache.get(&clip(0.25), 2, 6), None);
        assert_eq!(cache.get(&clip(0.5), 3, 6), None);
        let other = EncodedCache::open(dir.path(), &[2; 32], LIMIT);
        assert_eq!(other.get(&clip(0.5), 2, 6), None);
        // One flipped bit, and it counts as none.
        let path = cache.path(&clip(0.5));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(cache.get(&clip(0.5), 2, 6), None);
    }

    #[test]
    fn a_full_cache_forgets_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let size = 2 * 6 * 4 + 32;
        let mut cache = EncodedCache::open(dir.path(), &[1; 32], 5 * size);
        for i in 0..20 {
            cache.put(&clip(i as f32), &output(i as f32)).unwrap();
            let bytes: u64 = stored(dir.path()).iter().map(|file| file.bytes).sum();
            assert!(bytes <= 5 * size);
        }
        assert_eq!(cache.get(&clip(19.0), 2, 6), Some(vec![19.0; 12]));
        // The folder is counted anew when it is opened.
        assert!(EncodedCache::open(dir.path(), &[1; 32], LIMIT).bytes <= 5 * size);
    }
}
