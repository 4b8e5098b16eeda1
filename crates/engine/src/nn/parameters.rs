//! Everything that is trained, as views into one flat buffer; its gradient and names beside it.

use std::ops::Range;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;

use crate::ops::device;
use crate::ops::linear::copy_matrices;
use crate::ops::rows::overwrite;
use crate::ops::weight::Weight;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::Part;

/// One named stretch of the flat buffer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name in the file that it is saved to.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Place in the buffer.
    pub range: Range<usize>,
    /// The part it belongs to.
    pub part: Part,
    /// Whether it is a weight of the checkpoint itself, or half of an adapter.
    pub kind: TensorKind,
}

/// Kind of a trained tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// `lora_A` or `lora_B` of an adapter, saved as PEFT does.
    Adapter,
    /// A weight of the checkpoint, saved under its name there.
    Full,
    /// The same for a convolution's `[out, in, taps]` over one axis or two, which lies in the
    /// buffer as `[out, taps, in]`.
    Convolution,
    /// Rows of the table of token embeddings, `[tokens, width]`, saved as PEFT does. Vectors: their
    /// weights never decay.
    Rows,
    /// A weight of a head that only training has. It is no part of the model, and neither adapters
    /// nor exports have it.
    Auxiliary,
}

/// End of the name of `lora_B`, as PEFT writes it.
const UP: &str = ".lora_B.weight";

impl Entry {
    /// Whether weight decay changes it: vectors never decay.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1 && self.kind != TensorKind::Rows
    }

    /// Whether it is `lora_B` of an adapter, which maps from the rank to the output.
    pub fn is_up(&self) -> bool {
        self.kind == TensorKind::Adapter && self.name.ends_with(UP)
    }
}

/// Trained rows of a table that is frozen otherwise. The table holds a copy of them, which layers
/// read.
#[derive(Clone, Debug)]
pub struct TableRows {
    /// Values of the rows, `[rows, width]`, in the flat buffer.
    pub values: Tensor,
    /// Their numbers in the table.
    pub ids: Vec<u32>,
    /// The table, `[all rows, width]`.
    pub table: Tensor,
}

/// The flat buffers. Tensors are declared one after the other, then [`Declared::allocate`] makes
/// the buffers.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// In the order of the buffer.
    pub entries: Vec<Entry>,
    /// `[parameters]`, in `f32`.
    pub values: Tensor,
    /// The values in the type that the device computes with, `[parameters]`; `None` where that is
    /// `f32` and layers read the values themselves.
    pub copy: Option<Tensor>,
    /// `[parameters]`, in `f32`.
    pub gradients: Tensor,
    /// Adapters on a GPU, and where copies of them lie beside the weights they adapt.
    pub copies: Vec<(Tensor, Tensor)>,
    /// Trained rows of the table of token embeddings, if there are any.
    pub rows: Option<TableRows>,
    /// Stretches between entries that are no parameters: their values and gradients stay zero.
    gaps: Vec<Range<usize>>,
}

/// The names and shapes of what will be trained.
#[derive(Default)]
pub struct Declared {
    entries: Vec<Entry>,
    gaps: Vec<Range<usize>>,
    len: usize,
}

impl Declared {
    /// Takes the next stretch of the buffer.
    pub fn declare(&mut self, name: String, shape: &[usize], part: Part, kind: TensorKind) {
        let count: usize = shape.iter().product();
        self.entries.push(Entry {
            name,
            shape: shape.to_vec(),
            range: self.len..self.len + count,
            part,
            kind,
        });
        self.len += count;
    }

    /// Leaves a stretch that is no parameter, such as the bias that stacked keys do not have.
    pub fn gap(&mut self, count: usize) {
        self.gaps.push(self.len..self.len + count);
        self.len += count;
    }

    /// Number of entries so far: the index of the next.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns what was declared.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Makes the buffers on a device, of zeros.
    pub fn allocate(self, device: &Device) -> Result<Parameters> {
        // A GPU gives no memory of no bytes.
        let len = if device.is_cpu() {
            self.len
        } else {
            self.len.max(1)
        };
        let zeros = || device::zeros_f32(len, device);
        let dtype = device::compute_type(device);
        let copy = if dtype == DType::F32 {
            None
        } else {
            Some(Tensor::zeros(len, dtype, device)?)
        };
        Ok(Parameters {
            values: zeros()?,
            copy,
            gradients: zeros()?,
            entries: self.entries,
            copies: Vec::new(),
            rows: None,
            gaps: self.gaps,
        })
    }
}

impl Parameters {
    /// Number of trained numbers.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|entry| entry.range.len()).sum()
    }

    /// The parameter of an entry: views of its values and its gradient.
    pub fn weight(&self, entry: usize) -> Result<Weight> {
        self.stacked(entry..entry + 1)
    }

    /// Neighbouring entries of equal width as one matrix, their rows stacked, gaps between them
    /// included.
    pub fn stacked(&self, entries: Range<usize>) -> Result<Weight> {
        let entries = &self.entries[entries];
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(Error::bug("a stack of no entries"));
        };
        let range = first.range.start..last.range.end;
        let mut shape = first.shape.clone();
        if first.kind == TensorKind::Convolution {
            shape = vec![shape[0], shape[1..].iter().product()];
        }
        shape[0] = range.len() / shape[1..].iter().product::<usize>();
        let view = |flat: &Tensor| {
            flat.narrow(0, range.start, range.len())?
                .reshape(shape.as_slice())
        };
        Ok(Weight::trained(
            view(self.copy.as_ref().unwrap_or(&self.values))?,
            view(&self.gradients)?,
        ))
    }

    /// A copy of one entry's values on the CPU, in its shape.
    pub fn value(&self, entry: &Entry) -> Result<Tensor> {
        copy(&self.values, entry)
    }

    /// A copy of one entry's gradient on the CPU, in its shape.
    pub fn gradient(&self, entry: &Entry) -> Result<Tensor> {
        copy(&self.gradients, entry)
    }

    /// Replaces one entry's values by a tensor of its shape.
    pub fn set_tensor(&self, entry: &Entry, tensor: &Tensor) -> Result<()> {
        if tensor.dims() != entry.shape {
            return Err(Error::input(format!(
                "`{}` has shape {:?}, this model needs {:?}",
                entry.name,
                tensor.dims(),
                entry.shape
            )));
        }
        let tensor = if entry.kind == TensorKind::Convolution {
            taps_first(tensor)?
        } else {
            tensor.clone()
        };
        self.set(
            entry,
            &tensor
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?,
        )
    }

    /// Replaces one entry's values, in the order of the buffer.
    pub fn set(&self, entry: &Entry, values: &[f32]) -> Result<()> {
        if values.len() != entry.range.len() {
            return Err(Error::bug(format!(
                "{} values for `{}` of shape {:?}",
                values.len(),
                entry.name,
                entry.shape
            )));
        }
        for flat in [&self.values].into_iter().chain(&self.copy) {
            device::write_stretch(flat, entry.range.clone(), values)?;
        }
        self.renew_copies()
    }

    /// Renews the copies that lie elsewhere. To be called once values have changed.
    pub fn renew_copies(&self) -> Result<()> {
        if let Some(rows) = &self.rows {
            overwrite(&rows.table, &rows.ids, &rows.values)?;
        }
        Ok(copy_matrices(&self.copies)?)
    }

    /// Sets the gradient to zero.
    pub fn zero_gradients(&self) -> Result<()> {
        device::fill(&self.gradients, 0.0)?;
        Ok(())
    }

    /// Takes away what a backward left between the entries.
    pub fn clear_gaps(&self) -> Result<()> {
        self.gaps.iter().try_for_each(|gap| {
            Ok(device::fill(
                &self.gradients.narrow(0, gap.start, gap.len())?,
                0.0,
            )?)
        })
    }
}

/// A convolution's weight, `[out, in, taps]` over one axis or two, as
/// `[out, taps of all axes, in]`.
pub fn taps_first(weight: &Tensor) -> Result<Tensor> {
    Ok(weight.flatten_from(2)?.transpose(1, 2)?.contiguous()?)
}

/// A copy of one entry's stretch of a flat buffer, in the entry's shape.
fn copy(flat: &Tensor, entry: &Entry) -> Result<Tensor> {
    let values = device::to_host(&flat.narrow(0, entry.range.start, entry.range.len())?)?;
    if entry.kind == TensorKind::Convolution {
        let outputs = entry.shape[0];
        let inputs = entry.shape[1];
        let taps = entry.shape[2..].iter().product::<usize>();
        let values = Tensor::from_vec(values, (outputs, taps, inputs), &Device::Cpu)?;
        let stored = values.transpose(1, 2)?.contiguous()?;
        return Ok(stored.reshape(entry.shape.as_slice())?);
    }
    Ok(Tensor::from_vec(
        values,
        entry.shape.as_slice(),
        &Device::Cpu,
    )?)
}
