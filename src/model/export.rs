//! Merging an adapter into a checkpoint: W + scale B A, in every file of the tree, everything else byte for byte as it was.

use std::borrow::Cow;
use std::path::Path;

use candle_core::Tensor;
use safetensors::Dtype;
use safetensors::View;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::StagedDir;
use crate::model::peft::Adapter;
use crate::model::weights::Checkpoint;
use crate::model::weights::StoredTensor;
use crate::ops::cpu::slice;
use crate::ops::gemm::Into as Product;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;

/// Writes a full checkpoint tree to `out`, which must not exist: the weights that `adapter` changes are merged, in the type
/// they are stored in; every other tensor and file is copied. Returns the number of merged weights.
///
/// # Errors
/// An adapter with a module whose weight the checkpoint does not hold; nothing is left behind then.
pub fn merge(model_dir: &Path, adapter: &Adapter, out: &Path) -> Result<usize> {
    if out.exists() {
        return Err(Error::input("exists already").at_path(out).hint("name a folder that does not exist yet"));
    }
    let checkpoint = Checkpoint::open(model_dir)?;
    let staged = StagedDir::new(out)?;
    let mut merged = 0;
    for (path, tensors) in checkpoint.files() {
        let written = tensors
            .into_iter()
            .map(|(name, stored)| {
                let full = checkpoint.full_name(&name);
                let change = full.strip_suffix(".weight").and_then(|module| Some((adapter.plan.modules.get(module)?, adapter.tensors.get(module)?)));
                let bytes = match change {
                    Some((shape, (a, b))) => {
                        merged += 1;
                        Cow::Owned(merged_bytes(&stored, a, b, shape.scale).map_err(|e| e.at(&name))?)
                    }
                    None => Cow::Borrowed(stored.bytes),
                };
                Ok((name, Written { dtype: stored.dtype, shape: stored.shape, bytes }))
            })
            .collect::<Result<Vec<_>>>()?;
        let file = path.file_name().ok_or_else(|| Error::bug("a checkpoint file without a name"))?;
        files::write_safetensors(&staged.path().join(file), written)?;
    }
    if merged != adapter.plan.modules.len() {
        return Err(
            Error::input(format!("the adapter changes {} weights, the checkpoint holds {merged} of them", adapter.plan.modules.len())).at_path(model_dir)
        );
    }
    let replaced: Vec<&Path> = checkpoint.files().map(|(path, _)| path).collect();
    copy_the_rest(model_dir, staged.path(), &replaced)?;
    staged.commit()?;
    Ok(merged)
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

/// `W + scale B A` in the type that W is stored in, computed in `f32`.
fn merged_bytes(stored: &StoredTensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Vec<u8>> {
    let ((rank, inputs), (outputs, _)) = (a.dims2()?, b.dims2()?);
    if stored.shape != [outputs, inputs] {
        return Err(Error::input(format!("has shape {:?}, the adapter changes {:?}", stored.shape, [outputs, inputs])));
    }
    let word = |bytes: &[u8]| [bytes[0], bytes[1]];
    let mut values: Vec<f32> = match stored.dtype {
        Dtype::F32 => stored.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => stored.bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(word(b)).to_f32()).collect(),
        Dtype::BF16 => stored.bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(word(b)).to_f32()).collect(),
        other => return Err(Error::input(format!("is stored as {other:?}; maqam merges into F32, F16 and BF16"))),
    };
    let (a, b) = (slice::<f32>(a)?, slice::<f32>(b)?);
    product(&mut values, inputs, Matrix::new(&b, outputs, rank), Matrix::new(&a, rank, inputs), scale, Product::Accumulate, Threads::All);
    Ok(match stored.dtype {
        Dtype::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    })
}

/// Copies every file of the tree but the replaced ones: configuration, tokenizer, templates, speaker table.
fn copy_the_rest(from: &Path, to: &Path, replaced: &[&Path]) -> Result<()> {
    let entries = std::fs::read_dir(from).map_err(|e| Error::io(from, "list", &e))?;
    for entry in entries {
        let path = entry.map_err(|e| Error::io(from, "list", &e))?.path();
        let Some(name) = path.file_name().filter(|name| !name.to_string_lossy().starts_with('.')) else { continue };
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
