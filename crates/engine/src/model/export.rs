//! Merging what was trained into a checkpoint: W + scale B A, or the trained W, in every file of the tree; everything else byte for byte as it was.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use safetensors::Dtype;
use safetensors::View;

use crate::model::build::EMBEDDINGS;
use crate::model::build::HEAD;
use crate::model::build::weight_shapes;
use crate::model::config::Config;
use crate::model::trained::Trained;
use crate::model::weights::Checkpoint;
use crate::model::weights::StoredTensor;
use crate::model::weights::safetensors_of;
use crate::ops::cpu::slice;
use crate::ops::gemm::Into as Product;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::files::StagedDir;

/// Writes a full checkpoint tree to `out`, which must not exist: the weights that `trained` changes are merged, in the type
/// they are stored in (or `dtype`, which then all of them get); every other tensor and file is copied. A folder without
/// weights gets all of them from `trained`. Returns the number of changed weights.
///
/// # Errors
/// Something trained whose weight the checkpoint does not hold; nothing is left behind then.
pub fn merge(
    model_dir: &Path,
    config: &Config,
    trained: &Trained,
    dtype: Option<Dtype>,
    out: &Path,
) -> Result<usize> {
    if out.exists() {
        return Err(Error::input("exists already")
            .at_path(out)
            .hint("name a folder that does not exist yet"));
    }
    if safetensors_of(model_dir).is_err()
        && weight_shapes(config)
            .keys()
            .all(|name| trained.full.contains_key(name))
    {
        return write_new(model_dir, trained, dtype.unwrap_or(Dtype::F32), out);
    }
    let checkpoint = Checkpoint::open(model_dir)?;
    let staged = StagedDir::new(out)?;
    let none = BTreeMap::new();
    let (modules, tensors_of) = trained.adapter.as_ref().map_or((&none, None), |adapter| {
        (&adapter.plan.modules, Some(&adapter.tensors))
    });
    let expected = modules.len() + trained.full.len();
    let mut merged = 0;
    for (path, tensors) in checkpoint.files() {
        let written = tensors
            .into_iter()
            .map(|(name, stored)| {
                let full = checkpoint.full_name(&name);
                let module = full.strip_suffix(".weight").unwrap_or_default();
                let change = modules
                    .get(module)
                    .zip(tensors_of.and_then(|tensors| tensors.get(module)));
                // A tied head that is stored all the same follows the embeddings.
                let is_tied_head = full == HEAD && config.text.tie_word_embeddings;
                let replaced = trained
                    .full
                    .get(if is_tied_head { EMBEDDINGS } else { &full });
                let dtype = dtype
                    .filter(|_| is_float(stored.dtype))
                    .unwrap_or(stored.dtype);
                let bytes = match (change, replaced) {
                    (Some((shape, (a, b))), _) => {
                        merged += 1;
                        Cow::Owned(narrowed(
                            &merged_values(&stored, a, b, shape.scale).map_err(|e| e.at(&name))?,
                            dtype,
                        ))
                    }
                    (None, Some(tensor)) => {
                        merged += usize::from(!is_tied_head);
                        if tensor.dims() != stored.shape {
                            return Err(Error::input(format!(
                                "has shape {:?}, it was trained as {:?}",
                                stored.shape,
                                tensor.dims()
                            ))
                            .at(&name));
                        }
                        Cow::Owned(narrowed(&slice::<f32>(tensor)?, dtype))
                    }
                    (None, None) if dtype != stored.dtype => {
                        Cow::Owned(narrowed(&widened(&stored).map_err(|e| e.at(&name))?, dtype))
                    }
                    (None, None) => Cow::Borrowed(stored.bytes),
                };
                Ok((
                    name,
                    Written {
                        dtype,
                        shape: stored.shape,
                        bytes,
                    },
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let file = path
            .file_name()
            .ok_or_else(|| Error::bug("a checkpoint file without a name"))?;
        files::write_safetensors(&staged.path().join(file), written)?;
    }
    if merged != expected {
        return Err(Error::input(format!(
            "{expected} weights were trained, the checkpoint holds {merged} of them"
        ))
        .at_path(model_dir));
    }
    let replaced: Vec<&Path> = checkpoint.files().map(|(path, _)| path).collect();
    copy_the_rest(model_dir, staged.path(), &replaced)?;
    staged.commit()?;
    Ok(merged)
}

/// A tree of a model that never had weights but the trained ones.
fn write_new(model_dir: &Path, trained: &Trained, dtype: Dtype, out: &Path) -> Result<usize> {
    let staged = StagedDir::new(out)?;
    let names: BTreeMap<&String, &Tensor> = trained.full.iter().collect();
    let written = names
        .iter()
        .map(|(name, tensor)| {
            let bytes = Cow::Owned(narrowed(&slice::<f32>(tensor)?, dtype));
            Ok((
                (*name).clone(),
                Written {
                    dtype,
                    shape: tensor.dims().to_vec(),
                    bytes,
                },
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    files::write_safetensors(&staged.path().join("model.safetensors"), written)?;
    copy_the_rest(model_dir, staged.path(), &[])?;
    staged.commit()?;
    Ok(names.len())
}

/// A tensor to write.
struct Written<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// `W + scale B A`, computed in `f32`.
fn merged_values(stored: &StoredTensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Vec<f32>> {
    let ((rank, inputs), (outputs, _)) = (a.dims2()?, b.dims2()?);
    if stored.shape != [outputs, inputs] {
        return Err(Error::input(format!(
            "has shape {:?}, the adapter changes {:?}",
            stored.shape,
            [outputs, inputs]
        )));
    }
    let mut values = widened(stored)?;
    let (a, b) = (slice::<f32>(a)?, slice::<f32>(b)?);
    product(
        &mut values,
        inputs,
        Matrix::new(&b, outputs, rank),
        Matrix::new(&a, rank, inputs),
        scale,
        Product::Accumulate,
        Threads::All,
    );
    Ok(values)
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// A stored tensor's values as `f32`.
fn widened(stored: &StoredTensor) -> Result<Vec<f32>> {
    let word = |bytes: &[u8]| [bytes[0], bytes[1]];
    Ok(match stored.dtype {
        Dtype::F32 => stored
            .bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => stored
            .bytes
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes(word(b)).to_f32())
            .collect(),
        Dtype::BF16 => stored
            .bytes
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes(word(b)).to_f32())
            .collect(),
        other => {
            return Err(Error::input(format!(
                "is stored as {other:?}; maqam merges into F32, F16 and BF16"
            )));
        }
    })
}

/// The bytes of values in a floating-point type.
fn narrowed(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values
            .iter()
            .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .iter()
            .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())
            .collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// Copies every file of the tree but the replaced ones: configuration, tokenizer, templates, speaker table.
fn copy_the_rest(from: &Path, to: &Path, replaced: &[&Path]) -> Result<()> {
    let entries = std::fs::read_dir(from).map_err(|e| Error::io(from, "list", &e))?;
    for entry in entries {
        let path = entry.map_err(|e| Error::io(from, "list", &e))?.path();
        let Some(name) = path
            .file_name()
            .filter(|name| !name.to_string_lossy().starts_with('.'))
        else {
            continue;
        };
        let target = to.join(name);
        if path.is_dir() {
            files::create_dir(&target)?;
            copy_the_rest(&path, &target, replaced)?;
        } else if !replaced.contains(&path.as_path()) {
            files::copy(&path, &target)?;
        }
    }
    Ok(())
}
