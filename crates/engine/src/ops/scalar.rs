//! Numbers that stay where they were computed until they are read: on a GPU, what is asked for in
//! between does not wait for them.

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::write;

/// One number in `f64`, on its device.
#[derive(Clone, Debug)]
pub struct Scalar(Tensor);

impl Scalar {
    /// A given number.
    pub fn new(value: f64, device: &Device) -> Result<Self> {
        on_cuda!(
            device,
            crate::ops::cuda::scalar::new(value, device).map(Self)
        );
        Tensor::new(&[value], device).map(Self)
    }

    /// The number that a tensor holds, which is shared and not copied.
    ///
    /// # Shapes
    /// `number`: `[1]`, in `f64`
    pub fn of(number: Tensor) -> Result<Self> {
        if number.dims() != [1] || number.dtype() != DType::F64 {
            candle_core::bail!(
                "a scalar is one number in f64, found {:?} in {:?}",
                number.shape(),
                number.dtype()
            );
        }
        Ok(Self(number))
    }

    /// The tensor that holds it, `[1]`.
    pub fn tensor(&self) -> &Tensor {
        &self.0
    }

    /// Adds another number to this one, in place.
    pub fn add(&self, term: &Self) -> Result<()> {
        on_cuda!(
            self.0.device(),
            crate::ops::cuda::scalar::add(&self.0, &term.0)
        );
        let term = term.value()?;
        write::<f64>(&self.0, |sum| sum[0] += term)
    }

    /// The number; waits for it.
    pub fn value(&self) -> Result<f64> {
        Ok(read(&[&self.0])?.wait()?[0][0])
    }
}

/// Numbers on their way to the host.
pub enum Reading {
    /// Numbers that are there.
    There(Vec<Vec<f64>>),
    /// Numbers on their way from a GPU.
    #[cfg(feature = "cuda")]
    OnGpu(crate::ops::cuda::scalar::Reading),
}

impl Reading {
    /// The numbers, tensor by tensor; waits for them.
    pub fn wait(self) -> Result<Vec<Vec<f64>>> {
        match self {
            Self::There(numbers) => Ok(numbers),
            #[cfg(feature = "cuda")]
            Self::OnGpu(reading) => reading.wait(),
        }
    }
}

/// Begins to read tensors of one device, `[numbers]` each, in `f32` or `f64`. On a GPU, work that
/// is queued later does not delay the read.
pub fn read(tensors: &[&Tensor]) -> Result<Reading> {
    #[cfg(feature = "cuda")]
    if let Some(first) = tensors.first().filter(|first| first.device().is_cuda()) {
        return crate::ops::cuda::scalar::read(first.device(), tensors).map(Reading::OnGpu);
    }
    tensors
        .iter()
        .map(|tensor| tensor.to_dtype(DType::F64)?.to_vec1())
        .collect::<Result<_>>()
        .map(Reading::There)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_when_the_reading_began() {
        let sum = Scalar::new(0.1, &Device::Cpu).unwrap();
        let of_f32 = Tensor::new(&[0.1f32, 2.0], &Device::Cpu).unwrap();
        let reading = read(&[sum.tensor(), &of_f32]).unwrap();
        sum.add(&Scalar::new(0.2, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(
            reading.wait().unwrap(),
            [vec![0.1], vec![f64::from(0.1f32), 2.0]]
        );
        assert_eq!(sum.value().unwrap(), 0.1 + 0.2);
        assert!(Scalar::of(of_f32).is_err());
    }
}
