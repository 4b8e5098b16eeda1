//! Summaries of a clip's frames, with their gradients.

use candle_core::Tensor;

use crate::encoder::probe::recipe::Pool;
use crate::encoder::probe::recipe::SEGMENTS;
use crate::error::Result;

/// Added to variances before their root is taken.
const EPS: f64 = 1e-6;

/// Summary of each clip. Deviations are those of the population, with [`EPS`] under the root.
///
/// # Shapes
/// `x`: `[frames of all clips, dim]` -> `[clips, vectors * dim]`
pub fn pool(x: &Tensor, frames: &[usize], pool: Pool) -> Result<Tensor> {
    let mut start = 0;
    let mut pooled = Vec::new();
    for &len in frames {
        let clip = x.narrow(0, start, len)?;
        start += len;
        pooled.push(match pool {
            Pool::Mean => clip.mean_keepdim(0)?,
            Pool::MeanStd => {
                let mean = clip.mean_keepdim(0)?;
                Tensor::cat(&[&mean, &deviation(&clip, &mean)?], 1)?
            }
            Pool::Segments => {
                let parts = segments(len)
                    .into_iter()
                    .map(|(first, len)| Ok(clip.narrow(0, first, len)?.mean_keepdim(0)?))
                    .collect::<Result<Vec<_>>>()?;
                Tensor::cat(&parts, 1)?
            }
        });
    }
    Ok(Tensor::cat(&pooled, 0)?.contiguous()?)
}

/// Gradient of [`pool`]'s input.
///
/// With n frames: `dx = d / n` for the mean, and for the deviation s in addition
/// `dx += d_s (x - mean) / (n s)`. For segments it is that of the mean of each, added where
/// segments of a short clip share a frame.
///
/// # Shapes
/// `d`: `[clips, vectors * dim]`, `x`: `[frames of all clips, dim]` -> `[frames of all clips, dim]`
pub fn backward(d: &Tensor, x: &Tensor, frames: &[usize], pool: Pool) -> Result<Tensor> {
    let (_, dim) = x.dims2()?;
    let mut start = 0;
    let mut rows = Vec::new();
    for (i, &len) in frames.iter().enumerate() {
        let clip = x.narrow(0, start, len)?;
        start += len;
        let of = |vector: usize| d.narrow(0, i, 1)?.narrow(1, vector * dim, dim);
        let even = (of(0)? / len as f64)?.broadcast_as((len, dim))?;
        rows.push(match pool {
            Pool::Mean => even,
            Pool::MeanStd => {
                let mean = clip.mean_keepdim(0)?;
                let slope = ((of(1)? / deviation(&clip, &mean)?)? / len as f64)?;
                let away = clip.broadcast_sub(&mean)?;
                (even + away.broadcast_mul(&slope)?)?
            }
            Pool::Segments => {
                let mut sum = clip.zeros_like()?;
                for (vector, (first, part)) in segments(len).into_iter().enumerate() {
                    let each = (of(vector)? / part as f64)?.broadcast_as((part, dim))?;
                    let after = len - first - part;
                    let padded = each.contiguous()?.pad_with_zeros(0, first, after)?;
                    sum = (sum + padded)?;
                }
                sum
            }
        });
    }
    Ok(Tensor::cat(&rows, 0)?.contiguous()?)
}

/// Standard deviation over the rows, `[1, dim]`.
fn deviation(clip: &Tensor, mean: &Tensor) -> Result<Tensor> {
    let variance = clip.broadcast_sub(mean)?.sqr()?.mean_keepdim(0)?;
    Ok((variance + EPS)?.sqrt()?)
}

/// First frame and length of each segment. In a clip of fewer frames than segments, segments share
/// frames.
fn segments(frames: usize) -> Vec<(usize, usize)> {
    (0..SEGMENTS)
        .map(|i| {
            let first = (i * frames / SEGMENTS).min(frames - 1);
            let end = ((i + 1) * frames / SEGMENTS).max(first + 1);
            (first, end - first)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Key;
    use candle_core::Device;

    fn random(rows: usize, columns: usize, seed: u64) -> Tensor {
        let key = Key::new(seed, "pool");
        let values: Vec<f64> = (0..(rows * columns) as u64)
            .map(|i| key.uniform(i) - 0.5)
            .collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    #[test]
    fn segments_cover_every_frame() {
        for frames in 1..30 {
            let parts = segments(frames);
            let mut seen = vec![false; frames];
            for (first, len) in parts {
                assert!(len > 0 && first + len <= frames);
                seen[first..first + len].fill(true);
            }
            assert!(seen.into_iter().all(|seen| seen), "{frames}");
        }
        assert_eq!(segments(10), [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2)]);
    }

    /// `x = torch.tensor([[1., 3.], [3., 3.], [8., 9.]])`, two clips of 2 rows and 1 row:
    /// `x[:2].mean(0)` is `[2, 3]`, `x[:2].var(0, unbiased=False)` is `[1, 0]`.
    #[test]
    fn summaries_are_those_of_torch() {
        let values = vec![1.0f64, 3.0, 3.0, 3.0, 8.0, 9.0];
        let x = Tensor::from_vec(values, (3, 2), &Device::Cpu).unwrap();
        let of = |kind| pool(&x, &[2, 1], kind).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(of(Pool::Mean), [[2.0, 3.0], [8.0, 9.0]]);
        let one = (1.0f64 + EPS).sqrt();
        let zero = EPS.sqrt();
        assert_eq!(
            of(Pool::MeanStd),
            [[2.0, 3.0, one, zero], [8.0, 9.0, zero, zero]]
        );
        // Two frames in five parts: part i begins at frame 2 i / 5, rounded down.
        let parts = of(Pool::Segments);
        assert_eq!(parts[0], [1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0]);
        assert_eq!(parts[1], [8.0, 9.0].repeat(5));
    }

    /// Sum of the summaries times `d`.
    fn loss(x: &Tensor, frames: &[usize], kind: Pool, d: &Tensor) -> f64 {
        let products = (pool(x, frames, kind).unwrap() * d).unwrap();
        products.sum_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn gradients_are_central_differences() {
        let frames = [7, 1, 3];
        let x = random(11, 2, 1);
        for kind in [Pool::Mean, Pool::MeanStd, Pool::Segments] {
            let d = random(3, 2 * kind.num_vectors(), 2);
            let found = backward(&d, &x, &frames, kind).unwrap();
            let found: Vec<f64> = found.flatten_all().unwrap().to_vec1().unwrap();
            let values: Vec<f64> = x.flatten_all().unwrap().to_vec1().unwrap();
            for (i, gradient) in found.iter().enumerate() {
                let mut sides = [0.0; 2];
                for (side, step) in sides.iter_mut().zip([1e-6, -1e-6]) {
                    let mut moved = values.clone();
                    moved[i] += step;
                    let moved = Tensor::from_vec(moved, (11, 2), &Device::Cpu).unwrap();
                    *side = loss(&moved, &frames, kind, &d);
                }
                let slope = (sides[0] - sides[1]) / 2e-6;
                assert!((slope - gradient).abs() < 1e-6, "{kind:?}: {i}");
            }
        }
    }
}
