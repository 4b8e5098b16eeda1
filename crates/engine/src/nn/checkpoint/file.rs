//! A safetensors file, mapped into memory or read whole.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use half::bf16;
use half::f16;
use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use safetensors::tensor::TensorInfo;

use crate::nn::checkpoint::values::StoredTensor;
use crate::nn::checkpoint::values::are_finite;
use crate::nn::checkpoint::values::converted;
use crate::nn::checkpoint::values::describe_not_finite;
use maqam_base::error::Error;
use maqam_base::error::Kind;
use maqam_base::error::Result;
use maqam_base::sniff;

/// The way out of values that are not finite.
pub const NOT_FINITE_HINT: &str = "use a checkpoint from before the training that broke it, or copy the file again if the original is sound";

/// A file that is mapped into memory.
pub(super) struct MappedFile {
    pub(super) path: PathBuf,
    map: Mmap,
    pub(super) metadata: Metadata,
    /// First byte of the tensors.
    start: usize,
}

impl MappedFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = open_file(path)?;
        let length = file
            .metadata()
            .map_err(|e| Error::io(path, "read", e))?
            .len();
        if length == 0 {
            return Err(damaged(path, Error::input("an empty file"), &[]));
        }
        // SAFETY: the file is only read; a checkpoint that somebody rewrites while it is loaded is
        // not supported.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map into memory", e))?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| damaged(path, Error::from(candle_core::Error::from(e)), &map))?;
        let start = 8 + header;
        let end = metadata
            .tensors()
            .values()
            .map(|info| info.data_offsets.1)
            .max()
            .unwrap_or(0);

        if start + end > map.len() {
            let found = format!("{} bytes, its header promises {}", map.len(), start + end);
            return Err(damaged(path, Error::input(found), &[]));
        }

        Ok(Self {
            path: path.to_owned(),
            map,
            metadata,
            start,
        })
    }

    /// Name of the file in its folder.
    pub(super) fn file_name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Bytes of a tensor.
    pub(super) fn bytes(&self, info: &TensorInfo) -> &[u8] {
        &self.map[self.start + info.data_offsets.0..self.start + info.data_offsets.1]
    }

    /// One tensor, on the CPU; `None` for types that are not floating-point.
    ///
    /// # Errors
    /// Values that are not finite, or not in the type that is asked for.
    pub(super) fn read(
        &self,
        name: &str,
        info: &TensorInfo,
        dtype: DType,
    ) -> Result<Option<Tensor>> {
        let range = self.start + info.data_offsets.0..self.start + info.data_offsets.1;
        let bytes = &self.map[range.clone()];
        let shape = info.shape.as_slice();

        let values = match (info.dtype, dtype) {
            // What is stored as it is computed with is copied, bit for bit.
            (Dtype::BF16, DType::BF16) => tensor(converted(bytes, bf16::from_le_bytes), shape)?,
            (Dtype::F16, DType::BF16) => tensor(
                converted(bytes, |b| bf16::from_f32(f16::from_le_bytes(b).to_f32())),
                shape,
            )?,
            (Dtype::F32, DType::BF16) => tensor(
                converted(bytes, |b| bf16::from_f32(f32::from_le_bytes(b))),
                shape,
            )?,
            (Dtype::F32, _) => tensor(converted(bytes, f32::from_le_bytes), shape)?,
            (Dtype::F16, _) => tensor(converted(bytes, |b| f16::from_le_bytes(b).to_f32()), shape)?,
            (Dtype::BF16, _) => {
                tensor(converted(bytes, |b| bf16::from_le_bytes(b).to_f32()), shape)?
            }
            _ => return Ok(None),
        };

        let values = match values {
            Some(values) => values,
            None => {
                let stored = StoredTensor {
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    bytes,
                };
                return Err(stored
                    .not_finite()
                    .unwrap_or_else(|| {
                        Error::input(format!("holds values beyond the range of {dtype:?}"))
                    })
                    .at(format!("`{name}`"))
                    .at_path(&self.path)
                    .or_hint(NOT_FINITE_HINT));
            }
        };

        #[cfg(unix)]
        {
            // SAFETY: the mapping is private, read-only and backed by the file: dropped pages come
            // back when they are read again. A refusal costs memory, nothing else.
            let _ = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
        }
        Ok(Some(values))
    }
}

/// The error of a file that is not read, by its first bytes or by what its reader found.
fn damaged(path: &Path, found: Error, bytes: &[u8]) -> Error {
    match sniff::foreign(&bytes[..bytes.len().min(sniff::HEAD_BYTES)]) {
        Some(foreign) => Error::input(format!("{} in place of safetensors", foreign.what))
            .at_path(path)
            .hint(foreign.hint),
        None => found
            .in_input()
            .at("a damaged safetensors file")
            .at_path(path)
            .hint("compare its size with the original; an interrupted download leaves it short"),
    }
}

/// Opens a file of a checkpoint; folders, looped links and what is missing are the user's to mend.
fn open_file(path: &Path) -> Result<File> {
    let hint = "all files of a checkpoint belong together; download the missing ones again";
    let file = File::open(path).map_err(|e| {
        let mut error = Error::io(path, "open", e);
        error.kind = Kind::Input;
        error.hint(hint)
    })?;
    let metadata = file.metadata().map_err(|e| Error::io(path, "read", e))?;
    if metadata.is_file() {
        return Ok(file);
    }
    let found = if metadata.is_dir() {
        "a folder"
    } else {
        "a device or pipe"
    };
    Err(Error::input(format!("{found} in place of a file"))
        .at_path(path)
        .hint(hint))
}

fn tensor<T: candle_core::WithDType>(
    values: Option<Vec<T>>,
    shape: &[usize],
) -> Result<Option<Tensor>> {
    values
        .map(|values| Ok(Tensor::from_vec(values, shape, &Device::Cpu)?))
        .transpose()
}

/// Refuses tensors with values that are not finite, by their names; `path` is the file they were
/// read from.
///
/// # Errors
/// The first such tensor in the order of names.
pub fn refuse_not_finite<'a>(
    tensors: impl IntoIterator<Item = (&'a String, &'a Tensor)>,
    path: &Path,
) -> Result<()> {
    let mut tensors: Vec<(&String, &Tensor)> = tensors.into_iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    for (name, tensor) in tensors {
        if !tensor.dtype().is_float() {
            continue;
        }
        let values = tensor
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        if !are_finite(&values) {
            let error = describe_not_finite(&values, tensor.dims())
                .unwrap_or_else(|| Error::bug("a value that is finite and is not"));
            return Err(error
                .at(format!("`{name}`"))
                .at_path(path)
                .hint(NOT_FINITE_HINT));
        }
    }
    Ok(())
}

/// Shapes of the tensors of a safetensors file by name; of the file, no more than its header is
/// read.
///
/// # Errors
/// A file that cannot be read, is damaged, or is something else, by its name.
pub fn shapes(path: &Path) -> Result<BTreeMap<String, Vec<usize>>> {
    let file = MappedFile::open(path)?;
    let tensors = file.metadata.tensors();
    Ok(tensors
        .into_iter()
        .map(|(name, info)| (name, info.shape.clone()))
        .collect())
}

/// All tensors of a small safetensors file: an adapter, or weights of full fine-tuning.
///
/// # Errors
/// A file that cannot be read, is damaged, or is something else, by its name.
pub fn read_safetensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    open_file(path)?;
    candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| {
        let mut head = Vec::new();
        if let Ok(file) = File::open(path) {
            let _ = file.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head);
        }
        damaged(path, Error::from(e), &head)
    })
}
