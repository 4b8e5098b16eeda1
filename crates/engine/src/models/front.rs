//! Convolutions before the layers of an audio encoder, which turn frames into positions; forward
//! and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::batch::Audio;
use crate::ops::activation::gelu;
use crate::ops::activation::gelu_backward;
use crate::ops::convolution;
use crate::ops::convolution2d;
use crate::ops::convolution2d::Planes;
use crate::ops::device::place_like;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::rows::gather;
use crate::ops::rows::spread;
use crate::ops::weight::Weight;

/// Windows whose cells are unfolded at once. More take memory and make no product faster.
pub const AT_ONCE: usize = 8;

/// The convolutions of a family.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a model has one")]
pub enum Front {
    /// Whisper's two over time, the second with stride 2.
    Frames(Frames),
    /// Qwen3-ASR's three over time and frequency, each with stride 2.
    Cells(Cells),
}

/// Convolutions over time.
#[derive(Debug)]
pub struct Frames {
    /// `conv1` as a linear layer over unfolded frames, `[d_model, 3 mels]`.
    pub conv1: Linear,
    /// `conv2`, stride 2, `[d_model, 3 d_model]`.
    pub conv2: Linear,
}

/// Convolutions over time and frequency, and the linear layer that turns their output into
/// positions.
#[derive(Debug)]
pub struct Cells {
    /// `conv2d1`, `conv2d2` and `conv2d3` as linear layers over unfolded cells,
    /// `[channels, 9 inputs]`.
    pub convolutions: [Linear; 3],
    /// `conv_out`, `[d_model, channels * bands]`.
    pub output: Linear,
}

/// Tensors that the backward needs.
pub enum Saved {
    /// Those of [`Frames`].
    Frames(SavedFrames),
    /// Those of [`Cells`].
    Cells(SavedCells),
}

/// Tensors that the backward over time needs.
pub struct SavedFrames {
    unfolded1: Tensor,
    before1: Tensor,
    unfolded2: Tensor,
    before2: Tensor,
    /// Rows that are positions, where not all are.
    position_rows: Option<Vec<u32>>,
}

/// Tensors that the backward over time and frequency needs.
pub struct SavedCells {
    /// Input of the last linear layer, `[positions, channels * bands]`.
    reduced: Tensor,
    output_hidden: Option<Tensor>,
    position_rows: Option<Vec<u32>>,
    /// Groups of windows, where convolutions are trained.
    windows: Vec<SavedWindows>,
}

/// Input of the convolutions of some windows, and the output of each before GELU.
struct SavedWindows {
    planes: Planes,
    frames: Tensor,
    before: [Tensor; 3],
}

impl Front {
    /// Whether there is something to train.
    pub fn is_trained(&self) -> bool {
        match self {
            Self::Frames(front) => front.conv1.is_trained(),
            Self::Cells(front) => front.output.is_trained() || front.convolutions[0].is_trained(),
        }
    }

    /// Its linear layers, in the order of the data.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Frames(front) => vec![&mut front.conv1, &mut front.conv2],
            Self::Cells(front) => {
                let convolutions = front.convolutions.iter_mut();
                convolutions.chain([&mut front.output]).collect()
            }
        }
    }

    /// Positions of a batch; `training` saves what the backward needs, where there is something to
    /// train.
    ///
    /// # Shapes
    /// -> `[positions, d_model]`
    pub fn forward(
        &self,
        audio: &Audio,
        like: &Tensor,
        dropout: AdapterDropout,
        training: bool,
    ) -> Result<(Tensor, Option<Saved>)> {
        let shape = (audio.features.len() / audio.mels, audio.mels);
        let frames = place_like(&audio.features, shape, like)?;
        let keep = training && self.is_trained();
        match self {
            Self::Frames(front) => {
                let (x, saved) = front.forward(&frames, audio)?;
                Ok((x, keep.then_some(Saved::Frames(saved))))
            }
            Self::Cells(front) => {
                let (x, saved) = front.forward(&frames, audio, dropout, keep)?;
                Ok((x, keep.then_some(Saved::Cells(saved))))
            }
        }
    }

    /// Adds to the gradients of what is trained.
    pub fn backward(
        &self,
        dx: &Tensor,
        saved: &Saved,
        audio: &Audio,
        dropout: AdapterDropout,
    ) -> Result<()> {
        match (self, saved) {
            (Self::Frames(front), Saved::Frames(saved)) => front.backward(dx, saved, audio),
            (Self::Cells(front), Saved::Cells(saved)) => front.backward(dx, saved, dropout),
            _ => candle_core::bail!("saved tensors of other convolutions"),
        }
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let linears = self.linears_mut().into_iter();
        linears.flat_map(Linear::weights_mut).collect()
    }
}

impl Frames {
    /// `x = gelu(W_2 unfold(gelu(W_1 unfold(f) + b_1)) + b_2)` of log-mel frames `f`.
    fn forward(&self, frames: &Tensor, audio: &Audio) -> Result<(Tensor, SavedFrames)> {
        let unfolded1 = convolution::unfold(frames, &audio.windows, 1)?;
        let (before1, _) = self.conv1.forward(&unfolded1, None, AdapterDropout::NONE)?;
        let unfolded2 = convolution::unfold(&gelu(&before1)?, &audio.windows, 2)?;
        let (before2, _) = self.conv2.forward(&unfolded2, None, AdapterDropout::NONE)?;
        let mut x = gelu(&before2)?;
        let position_rows = audio.position_rows();
        if let Some(rows) = &position_rows {
            x = gather(&x, rows)?;
        }
        let saved = SavedFrames {
            unfolded1,
            before1,
            unfolded2,
            before2,
            position_rows,
        };
        Ok((x, saved))
    }

    fn backward(&self, dx: &Tensor, saved: &SavedFrames, audio: &Audio) -> Result<()> {
        let dx = match &saved.position_rows {
            Some(rows) => spread(dx, rows, saved.before2.dim(0)?)?,
            None => dx.clone(),
        };
        let d_before2 = gelu_backward(&dx, &saved.before2)?;
        let dropout = AdapterDropout::NONE;
        let d_unfolded2 =
            self.conv2
                .backward_to_input(&d_before2, &saved.unfolded2, None, dropout)?;
        let d_before1 = gelu_backward(
            &convolution::unfold_backward(&d_unfolded2, &audio.windows, 2)?,
            &saved.before1,
        )?;
        self.conv1
            .backward(&d_before1, &saved.unfolded1, None, dropout, false)?;
        Ok(())
    }
}

impl Cells {
    /// `x = W_out c_3(c_2(c_1(f)))` of log-mel frames `f`, with
    /// `c_i(z) = gelu(W_i unfold(z) + b_i)`.
    fn forward(
        &self,
        frames: &Tensor,
        audio: &Audio,
        dropout: AdapterDropout,
        keep: bool,
    ) -> Result<(Tensor, SavedCells)> {
        let window = audio.framing.window;
        let mut reduced = Vec::new();
        let mut windows = Vec::new();
        for start in (0..audio.windows.len()).step_by(AT_ONCE) {
            let count = AT_ONCE.min(audio.windows.len() - start);
            let planes = Planes {
                count,
                times: window,
                bands: audio.mels,
            };
            let frames = frames.narrow(0, start * window, count * window)?;
            let frames = frames.reshape((planes.cells(), 1))?;
            let (cells, before) = self.convolve(&frames, planes)?;
            reduced.push(cells);
            if keep && self.convolutions[0].is_trained() {
                windows.push(SavedWindows {
                    planes,
                    frames,
                    before,
                });
            }
        }
        let mut reduced = Tensor::cat(&reduced, 0)?;
        let position_rows = audio.position_rows();
        if let Some(rows) = &position_rows {
            reduced = gather(&reduced, rows)?;
        }
        let (x, output_hidden) = self.output.forward(&reduced, None, dropout)?;
        let saved = SavedCells {
            reduced,
            output_hidden,
            position_rows,
            windows,
        };
        Ok((x, saved))
    }

    /// Output of the convolutions for some windows, a row for each time; and the output of each
    /// before GELU.
    ///
    /// # Shapes
    /// `frames`: `[cells, 1]` -> `[times, channels * bands]`
    fn convolve(&self, frames: &Tensor, planes: Planes) -> Result<(Tensor, [Tensor; 3])> {
        let [first, second, third] = &self.convolutions;
        let apply = |layer: &Linear, x: &Tensor, planes: Planes| -> Result<Tensor> {
            let unfolded = convolution2d::unfold(x, planes)?;
            Ok(layer.forward(&unfolded, None, AdapterDropout::NONE)?.0)
        };
        let before1 = apply(first, frames, planes)?;
        let halves = planes.convolved();
        let before2 = apply(second, &gelu(&before1)?, halves)?;
        let quarters = halves.convolved();
        let before3 = apply(third, &gelu(&before2)?, quarters)?;
        let eighths = quarters.convolved();
        let rows = channels_first(&gelu(&before3)?, eighths)?;
        Ok((rows, [before1, before2, before3]))
    }

    fn backward(&self, dx: &Tensor, saved: &SavedCells, dropout: AdapterDropout) -> Result<()> {
        let want_cells = !saved.windows.is_empty();
        let d_reduced = self.output.backward(
            dx,
            &saved.reduced,
            saved.output_hidden.as_ref(),
            dropout,
            want_cells,
        )?;
        let Some(mut d_reduced) = d_reduced.filter(|_| want_cells) else {
            return Ok(());
        };
        let of_windows = saved.windows.iter();
        let rows = of_windows.map(|window| times_of(window.planes)).sum();
        if let Some(ids) = &saved.position_rows {
            d_reduced = spread(&d_reduced, ids, rows)?;
        }
        let mut start = 0;
        for window in &saved.windows {
            let times = times_of(window.planes);
            self.convolve_backward(&d_reduced.narrow(0, start, times)?, window)?;
            start += times;
        }
        Ok(())
    }

    fn convolve_backward(&self, d_rows: &Tensor, saved: &SavedWindows) -> Result<()> {
        let [first, second, third] = &self.convolutions;
        let [before1, before2, before3] = &saved.before;
        let halves = saved.planes.convolved();
        let quarters = halves.convolved();

        let d_cells = channels_last(d_rows, quarters.convolved())?;
        let d_before3 = gelu_backward(&d_cells, before3)?;
        let d_before2 = through(third, &d_before3, before2, quarters)?;
        let d_before1 = through(second, &d_before2, before1, halves)?;
        let unfolded = convolution2d::unfold(&saved.frames, saved.planes)?;
        first.backward(&d_before1, &unfolded, None, AdapterDropout::NONE, false)?;
        Ok(())
    }
}

/// Gradient of one convolution's output before GELU, from the gradient of the next one's output.
fn through(layer: &Linear, dy: &Tensor, before: &Tensor, planes: Planes) -> Result<Tensor> {
    let unfolded = convolution2d::unfold(&gelu(before)?, planes)?;
    let d_unfolded = layer.backward_to_input(dy, &unfolded, None, AdapterDropout::NONE)?;
    gelu_backward(
        &convolution2d::unfold_backward(&d_unfolded, planes)?,
        before,
    )
}

/// Rows of the convolutions' output for some windows, one for each time.
fn times_of(planes: Planes) -> usize {
    let eighths = planes.convolved().convolved().convolved();
    eighths.count * eighths.times
}

/// Cells as a row for each time, the bands of one channel side by side: the order that `conv_out`
/// has.
///
/// # Shapes
/// `x`: `[cells, channels]` -> `[times, channels * bands]`
fn channels_first(x: &Tensor, planes: Planes) -> Result<Tensor> {
    let (_, channels) = x.dims2()?;
    let times = planes.count * planes.times;
    let turned = x
        .reshape((times, planes.bands, channels))?
        .transpose(1, 2)?;
    turned
        .contiguous()?
        .reshape((times, channels * planes.bands))
}

/// The backward of [`channels_first`].
fn channels_last(dy: &Tensor, planes: Planes) -> Result<Tensor> {
    let (times, width) = dy.dims2()?;
    let channels = width / planes.bands;
    let turned = dy
        .reshape((times, channels, planes.bands))?
        .transpose(1, 2)?;
    turned
        .contiguous()?
        .reshape((times * planes.bands, channels))
}
