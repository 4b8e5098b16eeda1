//! Rows that are compared, and what a comparison finds.

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;
use serde_json::Value;
use serde_json::json;

use crate::ops::device;
use crate::ops::rows::copy_columns;
use crate::seed::Key;

/// Half a unit in the last place of bf16, relative to a number: what rounding a result once costs.
pub const ROUNDING: f64 = 1.0 / 256.0;
/// One rounding of the result, and what single precision adds on the way.
pub const ROUNDED: f64 = 1.1 * ROUNDING;
/// Two roundings: of a part in between, and of the result.
pub const TWICE: f64 = 2.2 * ROUNDING;
/// Sums in single precision, of inputs that are exact.
pub const SINGLE: f64 = 2e-5;

/// Largest error on the CPU, which computes in `f32`.
const ON_CPU: f64 = 1e-4;

/// The worst number of one output, and how it compares.
#[derive(Clone, Copy)]
struct Worst {
    output: &'static str,
    /// Difference relative to the exact number and the root mean square of all of them; infinite
    /// where the number is not finite.
    error: f64,
    bar: f64,
}

/// What a check finds.
pub struct Finding {
    shape: String,
    rows: usize,
    worst: Option<Worst>,
    on_cpu: bool,
}

impl Finding {
    /// Nothing yet, of a primitive of this shape.
    pub fn new(device: &Device, shape: impl Into<String>) -> Self {
        Self {
            shape: shape.into(),
            rows: 0,
            worst: None,
            on_cpu: device.is_cpu(),
        }
    }

    /// Compares some rows of an output with the exact ones; no other number of the output may be
    /// NaN.
    ///
    /// # Shapes
    /// `found`: `[all, width]`, `exact`: `[rows, width]`
    pub fn rows(
        &mut self,
        output: &'static str,
        found: &Tensor,
        rows: &[usize],
        exact: &[f64],
        bar: f64,
    ) -> Result<()> {
        let (all, width) = found.dims2()?;
        let values = device::to_host(found)?;
        if exact.len() != rows.len() * width || rows.iter().any(|&row| row >= all) {
            candle_core::bail!(
                "{} exact numbers for {} rows of {:?}",
                exact.len(),
                rows.len(),
                found.dims()
            );
        }
        let picked: Vec<f32> = rows
            .iter()
            .flat_map(|&row| &values[row * width..][..width])
            .copied()
            .collect();
        self.numbers(output, &picked, exact, bar);
        self.whole(output, &values, rows.len());
        Ok(())
    }

    /// Looks at all numbers of an output, of which `rows` rows were compared: none may be NaN, as
    /// what was never written is.
    pub fn whole(&mut self, output: &'static str, values: &[f32], rows: usize) {
        self.rows = self.rows.max(rows);
        if values.par_iter().any(|value| value.is_nan()) {
            self.see(output, f64::INFINITY, 0.0);
        }
    }

    /// Compares numbers of an output with the exact ones.
    pub fn numbers(&mut self, output: &'static str, found: &[f32], exact: &[f64], bar: f64) {
        let squares: f64 = exact.iter().map(|x| x * x).sum();
        let typical = (squares / exact.len().max(1) as f64).sqrt();
        let mut largest = if found.len() == exact.len() {
            0.0
        } else {
            f64::INFINITY
        };
        for (&found, &exact) in found.iter().zip(exact) {
            let scale = (exact.abs() + typical).max(f64::MIN_POSITIVE);
            let error = (f64::from(found) - exact).abs() / scale;
            largest = if error.is_finite() {
                f64::max(largest, error)
            } else {
                f64::INFINITY
            };
        }
        self.rows = self.rows.max(1);
        self.see(output, largest, bar);
    }

    fn see(&mut self, output: &'static str, error: f64, bar: f64) {
        // What is only moved is equal on every device.
        let bar = if self.on_cpu { bar.min(ON_CPU) } else { bar };
        let distance = |error: f64, bar: f64| error / bar.max(f64::MIN_POSITIVE);
        if self
            .worst
            .is_none_or(|worst| distance(error, bar) > distance(worst.error, worst.bar))
        {
            self.worst = Some(Worst { output, error, bar });
        }
    }

    /// The line of it.
    pub fn json(&self, primitive: &str, seconds: f64) -> Value {
        let (error, bar) = self
            .worst
            .map_or((f64::INFINITY, 0.0), |worst| (worst.error, worst.bar));
        json!({
            "primitive": primitive, "shape": self.shape, "rows_checked": self.rows,
            // JSON has no infinity: null is what is not finite.
            "largest_error": error, "bar": bar, "passes": error <= bar, "seconds": seconds,
            "output": self.worst.map(|worst| worst.output),
        })
    }
}

/// Some of `total` rows, ascending: the ends, the ends of the first tiles, and others anywhere.
pub fn rows_of(total: usize, count: usize) -> Vec<usize> {
    let key = Key::new(0, "rows that are checked").with(total as u64);
    let ends = [0, 1, 15, 16, 31, 32, 63, 64, 127, 128];
    let last = [1, 2, 17, 64]
        .into_iter()
        .filter_map(|i| total.checked_sub(i));
    let others = (0..).map(|i| key.below(i, total.max(1)));
    let mut rows = std::collections::BTreeSet::new();
    for row in ends
        .into_iter()
        .filter(|&row| row < total)
        .chain(last)
        .chain(others)
    {
        if rows.len() >= count.min(total) {
            break;
        }
        rows.insert(row);
    }
    rows.into_iter().collect()
}

/// Normally distributed numbers on the device.
pub fn random(device: &Device, name: &str, shape: &[usize], deviation: f64) -> Result<Tensor> {
    device::random_normal(shape, Key::new(7, name), deviation as f32, device)
}

/// The same as rows with `room` more numbers behind each, which are NaN until the layer writes
/// them.
pub fn random_with_room(
    device: &Device,
    name: &str,
    (rows, width): (usize, usize),
    room: usize,
) -> Result<Tensor> {
    let values = random(device, name, &[rows, width], 1.0)?;
    if room == 0 {
        return Ok(values);
    }

    let padded = random(device, name, &[rows, width + room], 1.0)?;
    device::fill(&padded, f32::NAN)?;
    let apart = padded.narrow(1, 0, width)?;
    copy_columns(&apart, 0, &values, 0..rows, 0)?;
    Ok(apart)
}

/// All numbers of a tensor.
pub fn numbers_of(tensor: &Tensor) -> Result<Vec<f64>> {
    let values = device::to_host(tensor)?;
    Ok(values.par_iter().map(|&value| f64::from(value)).collect())
}

/// All numbers of a tensor as one in `f64` on the host.
pub fn exact(tensor: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(numbers_of(tensor)?, tensor.shape(), &Device::Cpu)
}

/// Some rows of a matrix as one in `f64` on the host.
pub fn exact_rows(tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let width = tensor.dim(1)?;
    let mut values = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        values.extend(numbers_of(&tensor.narrow(0, row, 1)?)?);
    }
    Tensor::from_vec(values, (rows.len(), width), &Device::Cpu)
}

/// The numbers of a tensor on the host in `f64`.
pub fn flat(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The rows of a tensor in `f64` on the host that stand at `rows`.
pub fn pick(tensor: &Tensor, rows: &[usize]) -> Result<Vec<f64>> {
    let (_, width) = tensor.dims2()?;
    let values = flat(tensor)?;
    Ok(rows
        .iter()
        .flat_map(|&row| &values[row * width..][..width])
        .copied()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampled_rows_are_distinct_and_have_both_ends() {
        for (total, count) in [(5440, 64), (3, 64), (1, 1), (70, 64)] {
            let rows = rows_of(total, count);
            assert_eq!(rows.len(), count.min(total));
            assert!(rows.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(rows[0] == 0 && rows.iter().all(|&row| row < total));
        }
        assert_eq!(rows_of(5440, 64).last(), Some(&5439));
    }

    #[test]
    fn a_finding_keeps_the_worst_and_nan_never_passes() {
        let mut finding = Finding::new(&Device::Cpu, "2 x 2");
        let found = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        finding
            .rows("output", &found, &[1], &[3.0, 4.0], 1.0)
            .unwrap();
        assert_eq!(finding.json("op", 0.5)["passes"], true);
        finding.numbers("other", &[1.0], &[1.1], 1.0);
        let line = finding.json("op", 0.5);
        assert_eq!(
            (&line["output"], &line["passes"]),
            (&json!("other"), &json!(false))
        );

        let mut finding = Finding::new(&Device::Cpu, "2 x 2");
        let found = Tensor::new(&[[f32::NAN, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        finding
            .rows("output", &found, &[1], &[3.0, 4.0], 1.0)
            .unwrap();
        let line = finding.json("op", 0.5);
        assert_eq!(
            (&line["largest_error"], &line["passes"]),
            (&Value::Null, &json!(false))
        );

        let mut finding = Finding::new(&Device::Cpu, "1");
        finding.numbers("output", &[f32::NAN], &[1.0], 1.0);
        finding.numbers("output", &[1.0], &[1.0], 1.0);
        assert_eq!(finding.json("op", 0.5)["passes"], false);
        assert_eq!(
            Finding::new(&Device::Cpu, "").json("op", 0.0)["passes"],
            false
        );
    }
}
