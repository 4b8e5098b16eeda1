//! Everything that is trained, as views into one flat buffer; its gradient and names beside it.

use std::ops::Range;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;

use crate::error::Error;
use crate::error::Result;
use crate::ops::cpu::write;
use crate::ops::linear::Weight;

/// Which of the three parts a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Convolutions and transformer layers that hear.
    AudioEncoder,
    /// The linear layer from audio to decoder width.
    Projector,
    /// The language model.
    Decoder,
}

/// One named stretch of the flat buffer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in the file it is saved to.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its place in the buffer.
    pub range: Range<usize>,
    /// The part it belongs to.
    pub part: Part,
}

/// The flat buffers. Tensors are declared one after the other, then [`Declared::allocate`] makes the buffers.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// In the order of the buffer.
    pub entries: Vec<Entry>,
    /// `[parameters]`, in `f32`.
    pub values: Tensor,
    /// `[parameters]`, in `f32`.
    pub gradients: Tensor,
}

/// The names and shapes of what will be trained.
#[derive(Default)]
pub struct Declared {
    entries: Vec<Entry>,
    len: usize,
}

impl Declared {
    /// Takes the next stretch of the buffer.
    pub fn declare(&mut self, name: String, shape: &[usize], part: Part) {
        let count: usize = shape.iter().product();
        self.entries.push(Entry { name, shape: shape.to_vec(), range: self.len..self.len + count, part });
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

    /// Makes the buffers, of zeros.
    pub fn allocate(self) -> Result<Parameters> {
        let zeros = || Tensor::zeros(self.len, DType::F32, &Device::Cpu);
        Ok(Parameters { values: zeros()?, gradients: zeros()?, entries: self.entries })
    }
}

impl Parameters {
    /// Number of trained numbers.
    pub fn count(&self) -> usize {
        self.entries.last().map_or(0, |entry| entry.range.end)
    }

    /// The parameter of an entry: views of its values and its gradient.
    pub fn weight(&self, entry: usize) -> Result<Weight> {
        self.stacked(entry..entry + 1)
    }

    /// Neighbouring entries of equal width as one matrix, their rows stacked.
    pub fn stacked(&self, entries: Range<usize>) -> Result<Weight> {
        let entries = &self.entries[entries];
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Err(Error::bug("a stack of no entries")) };
        let mut shape = first.shape.clone();
        shape[0] = entries.iter().map(|entry| entry.shape[0]).sum();
        let range = first.range.start..last.range.end;
        let view = |flat: &Tensor| flat.narrow(0, range.start, range.len())?.reshape(shape.as_slice());
        Ok(Weight { value: view(&self.values)?, gradient: Some(view(&self.gradients)?) })
    }

    /// A copy of one entry's values, in its shape.
    pub fn value(&self, entry: &Entry) -> Result<Tensor> {
        Ok(self.values.narrow(0, entry.range.start, entry.range.len())?.reshape(entry.shape.as_slice())?.copy()?)
    }

    /// Replaces one entry's values.
    pub fn set(&self, entry: &Entry, values: &[f32]) -> Result<()> {
        if values.len() != entry.range.len() {
            return Err(Error::bug(format!("{} values for `{}` of shape {:?}", values.len(), entry.name, entry.shape)));
        }
        write::<f32>(&self.values, |flat| flat[entry.range.clone()].copy_from_slice(values))?;
        Ok(())
    }

    /// Sets the gradient to zero.
    pub fn zero_gradients(&self) -> Result<()> {
        write::<f32>(&self.gradients, |flat| flat.fill(0.0))?;
        Ok(())
    }
}
