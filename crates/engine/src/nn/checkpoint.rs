//! The files of a checkpoint folder: which of them hold its weights, tensors mapped into memory and read one at a time.
//!
//! Where files disagree, transformers' order decides: `model.safetensors` before an index, and of a tensor that two shards hold the
//! one in the later file.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use half::bf16;
use half::f16;
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use crate::nn::naming::NameForm;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::sniff;

/// All weights in one file.
pub const SINGLE: &str = "model.safetensors";
/// The list of shards and of the tensors in each.
pub const INDEX: &str = "model.safetensors.index.json";

/// Names as they are stored.
const AS_STORED: NameForm = NameForm {
    name: "as they are stored",
    beginnings: &[("", "")],
};

/// The safetensors files of a folder, mapped into memory; what was read is given back to the system at once.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<MappedFile>,
    /// Which file holds a tensor.
    names: BTreeMap<String, usize>,
    /// How the files write the names of the model.
    form: &'static NameForm,
}

/// A tensor as it lies in its file.
pub(crate) struct StoredTensor<'a> {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: &'a [u8],
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    start: usize,
}

impl MappedFile {
    fn open(path: &Path) -> Result<Self> {
        let file = open_file(path)?;
        let length = file
            .metadata()
            .map_err(|e| Error::io(path, "read", e))?
            .len();
        if length == 0 {
            return Err(damaged(path, Error::input("an empty file"), &[]));
        }
        // SAFETY: the file is only read; a checkpoint that somebody rewrites while it is loaded is not supported.
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

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        &self.map[self.start + info.data_offsets.0..self.start + info.data_offsets.1]
    }

    /// One tensor, on the CPU; `None` for types that are not floating-point.
    ///
    /// # Errors
    /// Values that are not finite, or not in the type that is asked for.
    fn read(&self, name: &str, info: &TensorInfo, dtype: DType) -> Result<Option<Tensor>> {
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
            // SAFETY: the mapping is private, read-only and backed by the file: dropped pages come back when they are read again.
            // A refusal costs memory, nothing else.
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

/// The way out of values that are not finite.
pub const NOT_FINITE_HINT: &str = "use a checkpoint from before the training that broke it, or copy the file again if the original is sound";

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
        error.kind = maqam_base::error::Kind::Input;
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

/// A number that a tensor is stored in.
pub(crate) trait Number: Copy + Default + Send {
    /// Whether it is neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

impl Number for f32 {
    #[inline(always)]
    fn is_finite(self) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        self.to_bits() & EXPONENT != EXPONENT
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn is_finite(self) -> bool {
        const EXPONENT: u16 = 0x7f80;
        self.to_bits() & EXPONENT != EXPONENT
    }
}

impl Number for f16 {
    #[inline(always)]
    fn is_finite(self) -> bool {
        const EXPONENT: u16 = 0x7c00;
        self.to_bits() & EXPONENT != EXPONENT
    }
}

fn tensor<T: candle_core::WithDType>(
    values: Option<Vec<T>>,
    shape: &[usize],
) -> Result<Option<Tensor>> {
    values
        .map(|values| Ok(Tensor::from_vec(values, shape, &Device::Cpu)?))
        .transpose()
}

/// The values of a tensor's bytes; `None` if one of them is not finite. Each stretch is looked at while it is in the cache.
pub(crate) fn converted<const N: usize, T: Number>(
    bytes: &[u8],
    value: impl Fn([u8; N]) -> T + Sync,
) -> Option<Vec<T>> {
    let mut values = vec![T::default(); bytes.len() / N];
    let is_finite = AtomicBool::new(true);
    values
        .par_chunks_mut(1 << 16)
        .zip(bytes.par_chunks(N << 16))
        .for_each(|(values, bytes)| {
            for (out, bytes) in values.iter_mut().zip(bytes.chunks_exact(N)) {
                let mut word = [0; N];
                word.copy_from_slice(bytes);
                *out = value(word);
            }
            if !are_finite(values) {
                is_finite.store(false, Ordering::Relaxed);
            }
        });
    is_finite.into_inner().then_some(values)
}

/// Whether all values are finite; without a branch inside, so that it is done many at a time.
pub(crate) fn are_finite<T: Number>(values: &[T]) -> bool {
    values.chunks(1 << 12).all(|chunk| {
        chunk
            .iter()
            .fold(true, |all, value| all & value.is_finite())
    })
}

impl StoredTensor<'_> {
    /// Whether it is stored in a floating-point type that maqam reads.
    pub(crate) fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// The values as `f32`; `None` for other types.
    pub(crate) fn values(&self) -> Option<Vec<f32>> {
        fn all<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
            let mut values = vec![0.0; bytes.len() / N];
            values
                .par_chunks_mut(1 << 16)
                .zip(bytes.par_chunks(N << 16))
                .for_each(|(values, bytes)| {
                    for (out, bytes) in values.iter_mut().zip(bytes.chunks_exact(N)) {
                        let mut word = [0; N];
                        word.copy_from_slice(bytes);
                        *out = value(word);
                    }
                });
            values
        }
        match self.dtype {
            Dtype::F32 => Some(all(self.bytes, f32::from_le_bytes)),
            Dtype::F16 => Some(all(self.bytes, |b| f16::from_le_bytes(b).to_f32())),
            Dtype::BF16 => Some(all(self.bytes, |b| bf16::from_le_bytes(b).to_f32())),
            _ => None,
        }
    }

    /// An error that says how many values are not finite and where the first is; `None` if all are finite, or none is a float.
    pub(crate) fn not_finite(&self) -> Option<Error> {
        fn all_finite<const N: usize, T: Number>(
            bytes: &[u8],
            value: impl Fn([u8; N]) -> T + Sync,
        ) -> bool {
            bytes.par_chunks(N << 16).all(|bytes| {
                bytes.chunks_exact(N).fold(true, |all, bytes| {
                    let mut word = [0; N];
                    word.copy_from_slice(bytes);
                    all & value(word).is_finite()
                })
            })
        }
        let are_finite = match self.dtype {
            Dtype::F32 => all_finite(self.bytes, f32::from_le_bytes),
            Dtype::F16 => all_finite(self.bytes, f16::from_le_bytes),
            Dtype::BF16 => all_finite(self.bytes, bf16::from_le_bytes),
            _ => return None,
        };
        if are_finite {
            return None;
        }
        describe_not_finite(&self.values()?, &self.shape)
    }
}

/// An error that says how many of a tensor's values are not finite and where the first is; `None` if all are finite.
pub fn describe_not_finite(values: &[f32], shape: &[usize]) -> Option<Error> {
    let first = values.iter().position(|value| !value.is_finite())?;
    let count = values.iter().filter(|value| !value.is_finite()).count();
    let mut place = Vec::new();
    let mut rest = first;
    for &size in shape.iter().rev() {
        place.push(rest % size.max(1));
        rest /= size.max(1);
    }
    place.reverse();
    let what = if values[first].is_nan() {
        "NaN"
    } else {
        "an infinite value"
    };
    let others = match count {
        1 => String::new(),
        _ => format!("; {count} of its {} values are not finite", values.len()),
    };
    Some(Error::input(format!("holds {what} at {place:?}{others}")))
}

/// Refuses tensors with values that are not finite, by their names; `path` is the file they were read from.
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

/// All tensors of a small safetensors file: an adapter, or what was trained whole.
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

impl Checkpoint {
    /// Maps the files that hold a folder's weights, as [`weight_files`] finds them; `forms` are the ways in which files of the family write
    /// names. The first that some tensor shows ([`NameForm::is_of`]) is the folder's; without any, names are what is stored.
    ///
    /// # Errors
    /// Missing or damaged files, named; weights of another format.
    pub fn open(dir: &Path, forms: &'static [NameForm]) -> Result<Self> {
        let files = weight_files(dir)?
            .iter()
            .map(|path| MappedFile::open(path))
            .collect::<Result<Vec<_>>>()?;
        // A tensor that two files hold is read from the later one.
        let names: BTreeMap<String, usize> = files
            .iter()
            .enumerate()
            .flat_map(|(i, file)| {
                file.metadata
                    .tensors()
                    .into_keys()
                    .map(move |name| (name, i))
            })
            .collect();
        let is_used = |form: &&NameForm| names.keys().any(|name| form.is_of(name));
        let form = forms.iter().find(is_used).unwrap_or(&AS_STORED);
        let checkpoint = Self {
            dir: dir.to_owned(),
            files,
            names,
            form,
        };
        checkpoint.refuse_quantised()?;
        Ok(checkpoint)
    }

    /// Refuses weights that a quantising program wrote, known by the tensors it adds.
    fn refuse_quantised(&self) -> Result<()> {
        let known = [
            (".qweight", "GPTQ or AWQ"),
            (".qzeros", "GPTQ or AWQ"),
            (".weight.absmax", "bitsandbytes"),
            (".SCB", "bitsandbytes"),
            (".weight_packed", "compressed-tensors"),
            (".weight_scale_inv", "FP8"),
        ];
        for name in self.names.keys() {
            if let Some((_, method)) = known.iter().find(|(ending, _)| name.ends_with(ending)) {
                return Err(Error::input(format!(
                    "weights quantised by {method} (there is a tensor `{name}`)"
                ))
                .at_path(&self.dir)
                .hint(QUANTISED_HINT));
            }
        }
        Ok(())
    }

    /// The tensors of each file that are read, in the order of their bytes, by their stored names.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, Vec<(String, StoredTensor<'_>)>)> {
        self.files.iter().enumerate().map(move |(i, file)| {
            let names = file.metadata.offset_keys();
            let stored = names
                .into_iter()
                .filter(move |name| self.names.get(name) == Some(&i))
                .filter_map(|name| {
                    let info = file.metadata.info(&name)?;
                    Some((
                        name,
                        StoredTensor {
                            dtype: info.dtype,
                            shape: info.shape.clone(),
                            bytes: file.bytes(info),
                        },
                    ))
                });
            (file.path.as_path(), stored.collect())
        })
    }

    /// The model's name of a stored tensor.
    pub(crate) fn full_name(&self, stored: &str) -> String {
        self.form.read(stored).unwrap_or_else(|| stored.to_owned())
    }

    fn stored_name(&self, name: &str) -> String {
        self.form.written(name)
    }

    fn find(&self, name: &str) -> Option<(&MappedFile, &TensorInfo)> {
        let stored = self.stored_name(name);
        let file = &self.files[*self.names.get(&stored)?];
        Some((file, file.metadata.info(&stored)?))
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(&self.stored_name(name))
    }

    /// One tensor of exactly this shape, on the CPU, in `f32` or `bf16`.
    ///
    /// # Errors
    /// Missing or misshapen tensors, and values that are not finite, named.
    pub fn get(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let stored = self.stored_name(name);
        let Some((file, info)) = self.find(name) else {
            return Err(
                Error::input(format!("the checkpoint has no tensor `{stored}`"))
                    .at_path(&self.dir)
                    .hint("config.json and the weights must belong together"),
            );
        };
        if info.shape != shape {
            return Err(Error::input(format!(
                "`{stored}` has shape {:?}, config.json asks for {shape:?}",
                info.shape
            ))
            .at_path(&self.dir));
        }
        file.read(&stored, info, dtype)?.ok_or_else(|| {
            Error::input(format!(
                "`{stored}` is stored as {:?}; maqam reads F32, F16 and BF16",
                info.dtype
            ))
            .at_path(&self.dir)
            .hint(QUANTISED_HINT)
        })
    }

    /// Whether the decoder's head is the embedding table: there is no head, or `asks` says so and both hold the same values. transformers
    /// decides so where the configuration says `tie_word_embeddings`.
    pub fn is_tied(&self, asks: bool, head: &str, embeddings: &str) -> bool {
        let Some((head_file, head)) = self.find(head) else {
            return true;
        };
        let Some((file, embeddings)) = self.find(embeddings) else {
            return false;
        };
        asks && head.dtype == embeddings.dtype
            && head.shape == embeddings.shape
            && head_file.bytes(head) == file.bytes(embeddings)
    }

    /// Notes on what two files, or two places of one file, say differently, and which was taken.
    pub fn notes(&self) -> Vec<String> {
        let mut twice: Vec<(String, usize, usize)> = Vec::new();
        for (i, file) in self.files.iter().enumerate() {
            for name in file.metadata.offset_keys() {
                let chosen = self.names.get(&name).copied().unwrap_or(i);
                if chosen != i && !self.same(&name, i, chosen) {
                    twice.push((name, i, chosen));
                }
            }
        }
        let name_of = |i: usize| {
            let path = &self.files[i].path;
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let twice = twice.into_iter().map(|(name, other, chosen)| {
            format!(
                "{}: `{name}` stands in two files with different values; {} is read and {} is not, as in transformers",
                self.dir.display(),
                name_of(chosen),
                name_of(other)
            )
        });
        twice.collect()
    }

    fn same(&self, name: &str, a: usize, b: usize) -> bool {
        let of = |i: usize| {
            let file = &self.files[i];
            let info = file.metadata.info(name)?;
            Some((info.dtype, &info.shape, file.bytes(info)))
        };
        of(a) == of(b)
    }
}

/// The way out of quantised weights.
pub const QUANTISED_HINT: &str = "use the checkpoint it was made from, in F32, F16 or BF16; `model.precision: fp8` rounds while training";

/// The files that hold a checkpoint's tensors: `model.safetensors`, else the shards of `model.safetensors.index.json` in the order of
/// their names. transformers looks in this order.
///
/// # Errors
/// A folder without either, with what was found in their place; an index that is damaged, or that names files outside the folder;
/// links that lead outside the folder and the Hub's cache.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join(SINGLE);
    if single.is_file() {
        check_inside(dir, &single)?;
        return Ok(vec![single]);
    }
    let index = dir.join(INDEX);
    if !index.is_file() {
        return Err(no_weights(dir));
    }
    check_inside(dir, &index)?;
    let map = read_json(&index)?;
    let map = map["weight_map"].as_object().ok_or_else(|| {
        Error::input("no `weight_map`")
            .at_path(&index)
            .hint("download the index again; it maps the name of each tensor to a file")
    })?;
    let mut names = BTreeSet::new();
    for (tensor, name) in map {
        let Some(name) = name.as_str() else {
            return Err(Error::input(format!(
                "`weight_map` gives {name} for `{tensor}`, expected the name of a file"
            ))
            .at_path(&index)
            .hint("download the index again"));
        };
        names.insert(name);
    }
    if names.is_empty() {
        return Err(Error::input("`weight_map` is empty")
            .at_path(&index)
            .hint("download the index again"));
    }
    let mut files = Vec::new();
    for name in names {
        let is_inside = Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !is_inside || name.is_empty() {
            return Err(Error::input(format!(
                "the index names `{name}`, which lies outside the folder"
            ))
            .at_path(&index)
            .hint("put the shards into the folder, and name them without a path"));
        }
        if !name.ends_with(".safetensors") {
            return Err(Error::input(format!(
                "the index names `{name}`, which is not a safetensors file"
            ))
            .at_path(&index)
            .hint(TO_SAFETENSORS));
        }
        let path = dir.join(name);
        check_inside(dir, &path)?;
        files.push(path);
    }
    Ok(files)
}

const TO_SAFETENSORS: &str =
    "convert it: load it with transformers' `from_pretrained` and write it with `save_pretrained`";

/// An error that names the other format of weights in a folder, if there is one.
fn no_weights(dir: &Path) -> Error {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    let first = |found: &dyn Fn(&str) -> bool| names.iter().find(|name| found(name)).cloned();
    for name in [SINGLE, INDEX] {
        if names.iter().any(|other| other == name) {
            return Error::input("a folder, or a link that leads nowhere, in place of a file")
                .at_path(&dir.join(name))
                .hint("put the file itself there; download it again if it is gone");
        }
    }
    let missing = "no model.safetensors and no model.safetensors.index.json here";
    let found = |what: String, hint: &str| {
        Error::input(format!("{missing}, but {what}"))
            .at_path(dir)
            .hint(hint)
    };
    if let Some(name) = first(&|name| name.ends_with(".gguf")) {
        return found(
            format!("{name}, a GGUF file"),
            "use the checkpoint it was converted from, in safetensors format",
        );
    }
    if let Some(name) = first(&|name| {
        name.starts_with("pytorch_model") || name.ends_with(".pth") || name.ends_with(".bin")
    }) {
        return found(format!("{name}, PyTorch's format"), TO_SAFETENSORS);
    }
    if let Some(name) = first(&|name| {
        [".h5", ".msgpack", ".onnx"]
            .iter()
            .any(|end| name.ends_with(end))
    }) {
        return found(format!("{name}, weights of another format"), TO_SAFETENSORS);
    }
    if first(&|name| name == "adapter_config.json").is_some() {
        return found(
            "adapter_config.json: an adapter, not a checkpoint".to_owned(),
            "give the folder with `--adapter`, and `--model` the checkpoint that its adapter_config.json names",
        );
    }
    if let Some(name) = first(&|name| name.ends_with(".safetensors")) {
        return found(
            name.clone(),
            "download model.safetensors.index.json, which tells which tensor is in which shard",
        );
    }
    Error::input(missing)
        .at_path(dir)
        .hint("`model` is the folder of a checkpoint in safetensors format")
}

/// An error for a folder without config.json that is something else than a checkpoint.
pub fn another_folder(dir: &Path) -> Option<Error> {
    let names: Vec<String> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if names.iter().any(|name| name == "adapter_config.json") {
        return Some(Error::input("an adapter (adapter_config.json), not a checkpoint")
            .at_path(dir)
            .hint("give the folder with `--adapter`, and `--model` the checkpoint that its adapter_config.json names"));
    }
    let gguf = names.iter().find(|name| name.ends_with(".gguf"))?;
    Some(
        Error::input(format!("no config.json here, but {gguf}, a GGUF file"))
            .at_path(dir)
            .hint("use the checkpoint it was converted from, in safetensors format"),
    )
}

/// Refuses a file that is given in place of a checkpoint's folder; nothing is said of what does not exist.
///
/// # Errors
/// The file, with its format where it is known.
pub fn refuse_file(path: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let mut head = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head);
    }
    let name = path.to_string_lossy();
    let what = match sniff::foreign_file(&head) {
        Some(foreign) => foreign.what,
        None if name.ends_with(".safetensors") => "a safetensors file",
        None => "a file",
    };
    Err(Error::input(format!(
        "{what}, where the folder of a checkpoint is wanted"
    ))
    .at_path(path)
    .hint("give the folder that holds config.json, tokenizer.json and safetensors"))
}

/// Notes on what files of a folder say differently, and which was taken; empty where there is nothing to say or nothing to read.
pub fn notes(dir: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    let is_file = |name: &str| dir.join(name).is_file();
    if is_file(SINGLE) && is_file(INDEX) {
        notes.push(format!(
            "{}: {SINGLE} is read, as in transformers; {INDEX} and the shards that it names are not",
            dir.display()
        ));
    }
    let is_safetensors = is_file(SINGLE) || is_file(INDEX);
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        if is_safetensors && is_file(name) {
            notes.push(format!(
                "{}: the safetensors are read, as in transformers; {name} is not",
                dir.display()
            ));
        }
    }
    if is_safetensors && is_file("adapter_config.json") {
        notes.push(format!(
            "{}: the adapter beside the weights is not applied; transformers would apply it, and here `--adapter` does",
            dir.display()
        ));
    }
    let templates = chat_templates(dir);
    if let Some(((chosen, text), others)) = templates.split_first()
        && let Some((other, _)) = others.iter().find(|(_, other)| other != text)
    {
        notes.push(format!(
            "{}: the chat template of {chosen} is used, as transformers' processor does; that of {other} differs",
            dir.display()
        ));
    }
    if let Ok(checkpoint) = Checkpoint::open(dir, &[]) {
        notes.extend(checkpoint.notes());
    }
    notes
}

/// The chat templates of a folder with their files, in the order in which transformers' processor looks for one.
fn chat_templates(dir: &Path) -> Vec<(&'static str, String)> {
    let of_json = |name: &str| {
        let path = dir.join(name);
        check_inside(dir, &path).ok()?;
        let json = read_json(&path).ok()?;
        json["chat_template"].as_str().map(str::to_owned)
    };
    let of_jinja = |name: &str| {
        let path = dir.join(name);
        check_inside(dir, &path).ok()?;
        expect_file(&path).ok()?;
        files::read_text(&path).ok()
    };
    [
        ("processor_config.json", of_json("processor_config.json")),
        ("chat_template.json", of_json("chat_template.json")),
        ("chat_template.jinja", of_jinja("chat_template.jinja")),
        ("tokenizer_config.json", of_json("tokenizer_config.json")),
    ]
    .into_iter()
    .filter_map(|(name, text)| Some((name, text?)))
    .collect()
}

/// Reads a JSON file of a checkpoint or an adapter.
///
/// # Errors
/// A file that cannot be read, a pipe or a device; one that is something else, by its name: a web page, a Git LFS pointer.
pub fn read_json(path: &Path) -> Result<Value> {
    expect_file(path)?;
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head))
        .map_err(|e| Error::io(path, "read", e))?;
    if let Some(foreign) = sniff::foreign_file(&head) {
        return Err(Error::input(format!("{} in place of JSON", foreign.what))
            .at_path(path)
            .hint(foreign.hint));
    }
    let text = files::read_text(path)?;
    serde_json::from_str(&text).map_err(|e| {
        let constant = ["NaN", "-Infinity", "Infinity"]
            .into_iter()
            .find(|constant| {
                text.lines()
                    .nth(e.line().saturating_sub(1))
                    .is_some_and(|line| line.contains(constant))
            });
        let found = match constant {
            Some(constant) => Error::input(format!(
                "line {} holds {constant}, which JSON does not have",
                e.line()
            ))
            .hint("write a number or null in its place"),
            None => Error::input(format!("not JSON: {e}")).hint(
                "compare the file with the original; an interrupted download leaves it short",
            ),
        };
        found.at_path(path).caused_by(e)
    })
}

/// Refuses a pipe, a socket or a device, which may have no end or never begin; a folder is left to the reader.
///
/// # Errors
/// What is there; the system's.
fn expect_file(path: &Path) -> Result<()> {
    let metadata = path.metadata().map_err(|e| Error::io(path, "read", e))?;
    if metadata.is_file() || metadata.is_dir() {
        return Ok(());
    }
    Err(
        Error::input("a pipe, socket or device where a file was expected")
            .at_path(path)
            .hint("put the file itself into the folder"),
    )
}

/// Refuses a file of a checkpoint whose links lead outside its folder and the Hub's cache; a missing file is not looked at.
///
/// The cache keeps files as `models--OWNER--NAME/blobs/HASH`, and a snapshot is a folder of links to them.
///
/// # Errors
/// The link, and where it leads.
pub fn check_inside(dir: &Path, path: &Path) -> Result<()> {
    let (Ok(root), Ok(place)) = (dir.canonicalize(), path.canonicalize()) else {
        return Ok(());
    };
    if place.starts_with(&root) || is_blob(&place) {
        return Ok(());
    }
    Err(Error::input(format!(
        "a link to {}, outside the checkpoint's folder and the Hub's cache",
        place.display()
    ))
    .at_path(path)
    .hint("put the file itself into the folder"))
}

fn is_blob(place: &Path) -> bool {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let blobs = place.parent();
    name(blobs) == "blobs" && name(blobs.and_then(Path::parent)).starts_with("models--")
}
