//! The files of a checkpoint folder: which of them hold its weights, tensors mapped into memory and
//! read one at a time.
//!
//! Where files disagree, transformers' order decides: `model.safetensors` before an index, and of a
//! tensor that two shards hold the one in the later file.

mod file;
mod folder;
mod json;
mod notes;
mod values;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::Tensor;
use safetensors::tensor::TensorInfo;

use self::file::MappedFile;
pub use self::file::NOT_FINITE_HINT;
pub use self::file::read_safetensors;
pub use self::file::refuse_not_finite;
pub use self::file::shapes;
pub use self::folder::INDEX;
pub use self::folder::SINGLE;
pub use self::folder::another_folder;
pub use self::folder::check_inside;
pub use self::folder::refuse_file;
pub use self::folder::weight_files;
pub use self::json::read_json;
pub use self::notes::notes;
pub(crate) use self::values::Number;
pub(crate) use self::values::StoredTensor;
pub use self::values::describe_not_finite;
use crate::nn::naming::NameForm;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Names as they are stored.
const AS_STORED: NameForm = NameForm {
    name: "as they are stored",
    beginnings: &[("", "")],
};

/// The safetensors files of a folder, mapped into memory; what was read is given back to the system
/// at once.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<MappedFile>,
    /// Which file holds a tensor.
    names: BTreeMap<String, usize>,
    /// Form in which the files write the names of the model.
    form: &'static NameForm,
}

impl Checkpoint {
    /// Maps the files that hold a folder's weights, as [`weight_files`] finds them; `forms` are the
    /// ways in which files of the family write names. The first that some tensor shows
    /// ([`NameForm::is_of`]) is the folder's; without any, names are what is stored.
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

    /// The stored name of a tensor of the model.
    pub(crate) fn stored_name(&self, name: &str) -> String {
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

    /// Whether the decoder's head is the embedding table: there is no head, or `asks` says so and
    /// both hold the same values. transformers decides so where the configuration says
    /// `tie_word_embeddings`.
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
        let dir = self.dir.display();
        twice
            .into_iter()
            .map(|(name, other, chosen)| {
                let chosen = self.files[chosen].file_name();
                let other = self.files[other].file_name();
                format!("{dir}: `{name}` stands in two files with different values; {chosen} is read and {other} is not, as in transformers")
            })
            .collect()
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
