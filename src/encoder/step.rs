//! One optimiser step of an encoder: clips cut and masked, forward, losses, backward, update.

use candle_core::Device;
use candle_core::Tensor;

use crate::encoder::clips::Item;
use crate::encoder::masks;
use crate::encoder::recipe::Iteration;
use crate::encoder::recipe::Learn;
use crate::encoder::recipe::Recipe;
use crate::encoder::recipe::Target;
use crate::encoder::targets::Taught;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::models::hubert::Clip;
use crate::models::hubert::Encoded;
use crate::models::hubert::Head;
use crate::models::hubert::Hubert;
use crate::models::hubert::Pass;
use crate::nn::parameters::Entry;
use crate::nn::parameters::Parameters;
use crate::objective::distillation::regression;
use crate::objective::masked_prediction;
use crate::objective::masked_prediction::masked_prediction;
use crate::ops::adamw::AdamW;
use crate::ops::adamw::Buffers;
use crate::ops::adamw::Clip as Shorten;
use crate::ops::adamw::Segment;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::scalar::Scalar;
use crate::ops::weight::Weight;
use crate::seed::Key;
use crate::train::optimiser;

/// Deviation of heads' matrices at the beginning.
const DEVIATION: f64 = 0.02;

/// The stretch of a clip that a step uses, and its masks.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The clip.
    pub item: usize,
    /// First frame.
    pub first: usize,
    /// Samples, from the first frame's.
    pub samples: usize,
    /// Whether each frame is masked.
    pub masked: Vec<bool>,
    /// Stream of its random numbers.
    pub key: Key,
}

/// The heads of an iteration, a projection and either embeddings of codes or nothing more for each
/// target.
pub fn heads(targets: &[Target], taught: &[Taught], hidden: usize) -> Vec<Head> {
    let mut heads = Vec::new();
    for (i, (target, taught)) in targets.iter().zip(taught).enumerate() {
        let (width, codes) = match taught {
            Taught::Ids { num_codes, .. } => (target.width, Some(*num_codes)),
            Taught::Features { extractor, .. } => (extractor.width(), None),
        };
        let mut head = |name: &str, shape: Vec<usize>, deviation| {
            heads.push(Head {
                name: head_name(i, name),
                shape,
                deviation,
            });
        };
        head("projection.weight", vec![width, hidden], DEVIATION);
        head("projection.bias", vec![width], 0.0);
        if let Some(codes) = codes {
            // Embeddings are uniform in fairseq; only their directions count.
            head("codes", vec![codes, width], 1.0);
        }
    }
    heads
}

fn head_name(target: usize, name: &str) -> String {
    format!("heads.{target}.{name}")
}

/// Sums of a step, or of a measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Mean over targets of the weighted mean over frames of the loss.
    pub loss: f64,
    /// For each target frames that are masked and those of them predicted, then the same of the
    /// others.
    pub counts: Vec<[u64; 4]>,
    /// For each target the mean cosine with the teacher's features; 0 for ids.
    pub cosines: Vec<f64>,
    /// Audio, in seconds.
    pub seconds: f64,
    /// Frames.
    pub frames: u64,
}

impl Outcome {
    /// Share of masked frames whose id is predicted, over all targets; `None` where none is masked.
    pub fn masked_accuracy(&self) -> Option<f64> {
        self.share(0)
    }

    /// The same of frames that are not masked.
    pub fn unmasked_accuracy(&self) -> Option<f64> {
        self.share(2)
    }

    fn share(&self, place: usize) -> Option<f64> {
        let all: u64 = self.counts.iter().map(|counts| counts[place]).sum();
        let right: u64 = self.counts.iter().map(|counts| counts[place + 1]).sum();
        (all > 0).then(|| right as f64 / all as f64)
    }
}

/// An iteration at work.
pub struct Work<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The iteration, from 0.
    pub iteration: usize,
    /// Clips to learn from, then clips to measure on.
    pub items: &'a [Item],
    /// Number of the former.
    pub num_train: usize,
    /// Targets of the iteration.
    pub taught: &'a [Taught],
    /// The student.
    pub model: &'a Hubert,
}

impl Work<'_> {
    /// The settings of the iteration.
    pub fn settings(&self) -> &Iteration {
        &self.recipe.iterations[self.iteration]
    }

    fn key(&self, purpose: &str) -> Key {
        Key::new(self.recipe.seed, purpose).with(self.iteration as u64)
    }

    /// The pieces of a step of the iteration, from 0: clips in a seeded order, each once an epoch.
    pub fn pieces(&self, step: u64) -> Vec<Piece> {
        let clips = self.recipe.batch.clips as u64;
        let n = self.num_train as u64;
        let mut pieces = Vec::new();
        let mut order: Option<(u64, Vec<u32>)> = None;
        for position in step * clips..(step + 1) * clips {
            let epoch = position / n;
            if order.as_ref().is_none_or(|(of, _)| *of != epoch) {
                let key = self.key("encoder order").with(epoch);
                order = Some((epoch, key.permutation(self.num_train)));
            }
            let Some((_, order)) = &order else { continue };
            let item = order[(position % n) as usize] as usize;
            pieces.push(self.piece(
                item,
                self.key("encoder piece").with(epoch).with(item as u64),
            ));
        }
        pieces
    }

    /// A stretch of a clip with its masks, by a key.
    pub fn piece(&self, item: usize, key: Key) -> Piece {
        let config = &self.model.config;
        let all = self.items[item].samples;
        let most = (self.recipe.batch.crop_s * f64::from(crate::audio::SAMPLE_RATE)) as usize;
        let most = most.max(config.field());
        let (first, samples) = if all > most {
            let starts = (all - most) / config.stride() + 1;
            (key.with_name("crop").below(0, starts), most)
        } else {
            (0, all)
        };
        let frames = config.num_frames(samples);
        Piece {
            item,
            first,
            samples,
            masked: masks::draw(self.settings().masks, frames, key.with_name("masks")),
            key,
        }
    }

    /// Weight of each frame of a piece.
    fn weights(&self, piece: &Piece) -> Vec<f64> {
        let loss = self.settings().loss;
        let weight = |&masked: &bool| if masked { loss.masked } else { loss.unmasked };
        piece.masked.iter().map(weight).collect()
    }

    /// Loss of pieces; with `training` the gradients are added to the model's.
    ///
    /// # Errors
    /// Audio that cannot be read.
    pub fn compute(&self, pieces: &[Piece], training: bool) -> Result<Outcome> {
        let total: f64 = pieces.iter().flat_map(|piece| self.weights(piece)).sum();
        let mut outcome = Outcome {
            counts: vec![[0; 4]; self.taught.len()],
            cosines: vec![0.0; self.taught.len()],
            ..Outcome::default()
        };
        let layers = self.model.config.num_hidden_layers;
        let skipped = match pieces.first() {
            Some(first) if training => self.recipe.drops().skipped(layers, first.key),
            _ => Vec::new(),
        };
        let training = training.then_some(skipped.as_slice());
        for pack in packs(pieces, self.recipe.batch.pack_s) {
            self.compute_pack(pack, total, training, &mut outcome)?;
        }
        let packs = packs(pieces, self.recipe.batch.pack_s).count().max(1) as f64;
        outcome
            .cosines
            .iter_mut()
            .for_each(|cosine| *cosine /= packs);
        Ok(outcome)
    }

    /// `training` has the layers that are left out.
    fn compute_pack(
        &self,
        pieces: &[Piece],
        total: f64,
        training: Option<&[usize]>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        use rayon::prelude::*;
        let config = &self.model.config;
        let samples: Vec<Vec<f32>> = pieces
            .par_iter()
            .map(|piece| {
                let all = self.items[piece.item].prepared(config)?;
                let start = piece.first * config.stride();
                Ok(all[start..start + piece.samples].to_vec())
            })
            .collect::<Result<_>>()?;
        let clips: Vec<Clip> = samples.iter().map(|samples| Clip::new(samples)).collect();

        let masked: Vec<bool> = pieces
            .iter()
            .flat_map(|piece| piece.masked.clone())
            .collect();
        let rows: Vec<u32> = (0..masked.len() as u32)
            .filter(|&i| masked[i as usize])
            .collect();
        let share = 1.0 / (total.max(f64::MIN_POSITIVE) * self.taught.len() as f64);
        let weights: Vec<f64> = pieces
            .iter()
            .flat_map(|piece| self.weights(piece))
            .map(|weight| weight * share)
            .collect();

        let drops = self.recipe.drops();
        let streams = match training {
            Some(_) => drops.streams(pieces.iter().map(|piece| (piece.key, piece.masked.len()))),
            None => Vec::new(),
        };
        let plain = Pass::plain(config.num_hidden_layers, training.is_some());
        let pass = Pass {
            masked: &rows,
            hidden: match training {
                Some(_) => drops.over(&streams),
                None => plain.hidden,
            },
            skipped: training.unwrap_or_default(),
            ..plain
        };
        let (encoded, saved) = self.model.forward(&clips, pass)?;

        let mut d_hidden: Vec<Option<Tensor>> = vec![None; encoded.hidden.len()];
        let mut d_output = None;
        for (i, taught) in self.taught.iter().enumerate() {
            let at = self.settings().targets[i].at;
            let x = at.map_or(&encoded.output, |at| &encoded.hidden[at]);
            let d = self.of_target(i, taught, x, pieces, (&masked, &weights), outcome)?;
            let place = at.map_or(&mut d_output, |at| &mut d_hidden[at]);
            *place = match place.take() {
                Some(sum) => Some((sum + d)?),
                None => Some(d),
            };
        }

        if let Some(saved) = &saved {
            let factor = self.settings().loss.feature_gradient;
            self.model.backward(saved, d_output, d_hidden, factor)?;
        }

        outcome.frames += masked.len() as u64;
        let samples: usize = pieces.iter().map(|piece| piece.samples).sum();
        outcome.seconds += samples as f64 / f64::from(crate::audio::SAMPLE_RATE);
        Ok(())
    }

    /// Loss of one target, and its gradient with respect to the frames it reads.
    fn of_target(
        &self,
        target: usize,
        taught: &Taught,
        x: &Tensor,
        pieces: &[Piece],
        (masked, weights): (&[bool], &[f64]),
        outcome: &mut Outcome,
    ) -> Result<Tensor> {
        let projection = self.projection(target)?;
        let (projected, _) = projection.forward(x, None, AdapterDropout::NONE)?;
        let loss = self.settings().loss;

        let d_projected = match taught {
            Taught::Ids { codes, .. } => {
                let wanted: Vec<u32> = pieces
                    .iter()
                    .flat_map(|piece| &codes[piece.item][piece.first..][..piece.masked.len()])
                    .copied()
                    .collect();
                let targets = masked_prediction::Targets {
                    codes: &wanted,
                    weights,
                    temperature: loss.temperature,
                };
                let prediction =
                    masked_prediction(&projected, &self.head(target, "codes")?, targets)?;
                outcome.loss += prediction.loss;
                for (&masked, &is_right) in masked.iter().zip(&prediction.is_right) {
                    let place = if masked { 0 } else { 2 };
                    outcome.counts[target][place] += 1;
                    outcome.counts[target][place + 1] += u64::from(is_right);
                }
                prediction.d_frames
            }
            Taught::Features { extractor, layer } => {
                let mut parts = Vec::new();
                for piece in pieces {
                    let item = &self.items[piece.item];
                    let all = extractor
                        .features(item, &[*layer], &self.model.config)?
                        .swap_remove(0);
                    parts.push(all.narrow(0, piece.first, piece.masked.len())?);
                }
                let wanted = Tensor::cat(&parts, 0)?.contiguous()?;
                let fit = regression(&projected, &wanted, weights, loss.cosine)?;
                outcome.loss += fit.loss;
                outcome.cosines[target] += fit.cosine;
                fit.d_predicted
            }
        };

        Ok(projection.backward_to_input(&d_projected, x, None, AdapterDropout::NONE)?)
    }

    /// A tensor of a target's head.
    fn head(&self, target: usize, name: &str) -> Result<Weight> {
        self.model.head(&head_name(target, name)).cloned()
    }

    /// Projection of a target's head.
    fn projection(&self, target: usize) -> Result<Linear> {
        Ok(Linear {
            weight: self.head(target, "projection.weight")?,
            bias: Some(self.head(target, "projection.bias")?),
            adapter: None,
        })
    }

    /// Hidden states of a whole clip, nothing masked.
    ///
    /// # Errors
    /// Audio that cannot be read.
    pub fn encode(&self, item: usize) -> Result<Encoded> {
        let samples = self.items[item].prepared(&self.model.config)?;
        self.model
            .encode(&[Clip::new(&samples)], self.model.config.num_hidden_layers)
    }

    /// Codes that the heads of a target find likeliest for frames.
    ///
    /// # Errors
    /// None for targets of ids; a bug for others.
    pub fn predicted(&self, target: usize, encoded: &Encoded) -> Result<Vec<u32>> {
        let projection = self.projection(target)?;
        let at = self.settings().targets[target].at;
        let x = at.map_or(&encoded.output, |at| &encoded.hidden[at]);
        let (projected, _) = projection.forward(x, None, AdapterDropout::NONE)?;
        let codes = self.head(target, "codes")?;
        let logits = masked_prediction::logits(&projected, &codes.value, 1.0)?;
        Ok(logits.argmax(1)?.to_vec1()?)
    }

    /// Whether a target is ids.
    pub fn is_ids(&self, target: usize) -> bool {
        self.settings().targets[target].learn == Learn::Ids
    }
}

/// Runs of pieces of at most so many seconds; a longer piece is alone.
fn packs(pieces: &[Piece], most_s: f64) -> impl Iterator<Item = &[Piece]> {
    let most = most_s * f64::from(crate::audio::SAMPLE_RATE);
    let mut rest = pieces;
    std::iter::from_fn(move || {
        let mut sum = 0.0;
        let fits = |piece: &&Piece| {
            sum += piece.samples as f64;
            sum <= most
        };
        let len = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (pack, later) = rest.split_at(len);
        rest = later;
        (!pack.is_empty()).then_some(pack)
    })
}

/// Moments of AdamW.
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Tensor,
    /// Running mean of its square.
    pub second: Tensor,
}

impl Moments {
    /// Moments that have not moved.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        Ok(Self {
            first: parameters.values.zeros_like()?,
            second: parameters.values.zeros_like()?,
        })
    }

    /// One update of what is trained, shortened by the length of the whole gradient. Decay never
    /// touches what has one dimension only, the lengths of weight norm included.
    ///
    /// # Errors
    /// A loss or gradient that is not finite; then nothing has changed.
    pub fn update(
        &self,
        parameters: &Parameters,
        optimiser: &optimiser::Settings,
        is_trained: impl Fn(usize) -> bool,
        (loss, grad_norm): (f64, &Scalar),
        learning_rate: f64,
        step: u64,
    ) -> Result<()> {
        let length = grad_norm.value()?;

        if !(loss.is_finite() && length.is_finite()) {
            return Err(Error::new(
                Kind::Diverged,
                format!("step {step}: the loss is {loss}, the gradient's length {length}"),
            )
            .hint("lower `optimiser.learning_rate`, or raise `optimiser.warmup`"));
        }

        let segment = |entry: &Entry| Segment {
            range: entry.range.clone(),
            learning_rate,
            decay: entry.shape.iter().filter(|&&n| n > 1).count() > 1,
            step,
        };
        let trained = parameters
            .entries
            .iter()
            .enumerate()
            .filter(|(i, _)| is_trained(*i));
        let segments: Vec<Segment> = trained.map(|(_, entry)| segment(entry)).collect();

        let buffers = Buffers {
            values: &parameters.values,
            gradients: &parameters.gradients,
            first: &self.first,
            second: &self.second,
            copy: None,
        };

        let [beta1, beta2] = optimiser.betas;

        let clip = Shorten {
            loss: &Scalar::new(loss, &Device::Cpu)?,
            norm: grad_norm,
            max_norm: optimiser.max_grad_norm,
        };

        let adamw = AdamW {
            beta1,
            beta2,
            eps: optimiser.eps,
            weight_decay: optimiser.weight_decay,
        };

        Ok(adamw.update(buffers, &segments, clip)?)
    }
}
