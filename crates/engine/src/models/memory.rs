//! Need of a training for a GPU's memory, and the longest micro-batch that fits: known before a
//! weight is read.

use crate::models::cost::BF16;
use crate::models::cost::F32;
use crate::models::cost::Load;
use crate::models::cost::Model;
use crate::models::sizes::Sizes;
use crate::nn::precision::Precision;
use crate::nn::saving::Save;
use crate::ops::convolution::KERNEL;
use crate::ops::cross_entropy::LOGITS_BYTES;
use crate::ops::linear::FP8_BYTES;
use crate::ops::workspace::WORKSPACE;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::Part;
use maqam_base::parts::PerPart;

/// Buffers of `f32` as long as what is trained: values, gradients and two moments.
const BUFFERS: f64 = 4.0;

/// Frames of log-mel for each token of audio.
const FRAMES: f64 = 4.0;

/// Kernels and libraries that the driver loads as they are first used, in bytes; an estimate, to be
/// replaced by a measurement.
const LOADED: f64 = 0.4e9;

/// Share of the activations that the allocator leaves between tensors of changing sizes.
const BETWEEN: f64 = 0.05;

/// A GPU's memory as a training fills it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need {
    /// Weights that stay as they are, and the copies of adapters that lie beside them.
    pub weights: f64,
    /// Trained parameters: master values, gradients, moments, and the copy that is computed with.
    pub trained: f64,
    /// Scratch memory of products, and the code of kernels.
    pub workspace: f64,
}

impl Need {
    /// All that does not depend on a batch.
    pub fn fixed(&self) -> f64 {
        self.weights + self.trained + self.workspace
    }
}

impl Load {
    /// A micro-batch that takes as much memory as one of its length can: all of it is audio and
    /// learnt.
    fn of_one_pack(tokens: usize) -> Self {
        let tokens = tokens as f64;
        Self {
            tokens,
            squares: 0.0,
            audio_tokens: tokens,
            targets: tokens,
        }
    }
}

impl Model<'_> {
    /// Memory of a training on a GPU that does not depend on the batch.
    pub fn need(&self, precision: Precision) -> Need {
        let sizes = self.sizes;
        let rounded = if precision == Precision::Fp8 {
            sizes.frozen_linears as f64
        } else {
            0.0
        };
        let joined = if precision == Precision::Fp8 {
            0.0
        } else {
            sizes.joined as f64
        };
        let weights = BF16 * (sizes.frozen as f64 - rounded + joined) + FP8_BYTES as f64 * rounded;
        Need {
            weights,
            trained: (BUFFERS * F32 + BF16) * sizes.num_trained() as f64,
            workspace: WORKSPACE as f64 + LOADED,
        }
    }

    /// Bytes that a micro-batch takes beside that, at its highest.
    pub fn on_gpu(&self, load: &Load) -> f64 {
        let (encoder_saved, encoder_live) = self.encoder_on_gpu(load);
        // The encoder is done before the decoder begins; what it keeps for its own backward stays.
        (encoder_saved + self.embedded_ahead(load) + encoder_live.max(self.decoder_on_gpu(load)))
            * (1.0 + BETWEEN)
    }

    /// Audio embeddings of a batch that were computed during the step before; they may lie there
    /// through a probe, which computes with as much as a step. Nothing where hearing is trained.
    fn embedded_ahead(&self, load: &Load) -> f64 {
        let is_trained = self.is_trained(Part::AudioEncoder) || self.is_trained(Part::Projector);
        if is_trained {
            0.0
        } else {
            BF16 * self.config.text.hidden_size as f64 * load.audio_tokens
        }
    }

    fn decoder_on_gpu(&self, load: &Load) -> f64 {
        let text = &self.config.text;
        let heads = self.config.text.heads();
        let dim = text.hidden_size as f64;
        let ffn = text.intermediate_size as f64;
        let layers = text.num_hidden_layers as f64;
        let width = heads.width() as f64;
        let ranks = self.sizes.ranks.decoder as f64 / layers;
        let statistics = F32 * (heads.num_heads as f64 + 2.0);
        let inside =
            BF16 * (width + heads.query_width() as f64 + dim + 2.0 * ffn + ranks) + statistics;
        let padding = self.sizes.padding as f64 / layers;
        let normed = BF16 * (2.0 * dim + ffn + padding);
        // A layer backwards: the gradients of its activation, of gate and up, of its norms'
        // outputs, of what goes round them.
        let dropped = self.sizes.dropped.decoder as f64;
        let gradients = BF16 * (3.0 * ffn + width + 5.0 * dim + padding + dropped);
        let (kept, live) = match self.save {
            Save::Layer => (BF16 * (dim + ranks), inside + normed + gradients),
            Save::Norms => (BF16 * dim + inside, normed + gradients),
            Save::All => (BF16 * dim + inside + normed, gradients),
        };
        // Logits in f32 and their gradient in bf16 exist for some rows at a time.
        let head = load.targets * 3.0 * BF16 * dim
            + (load.targets * (F32 + BF16) * text.vocab_size as f64).min(LOGITS_BYTES as f64);
        (layers * kept + live) * load.tokens + head
    }

    /// Activations that the encoder saves for its backward, and those that it needs on its way.
    fn encoder_on_gpu(&self, load: &Load) -> (f64, f64) {
        let audio = &self.config.audio;
        // Only towers have kernels for a GPU.
        let dim = audio.d_model as f64;
        let ffn = audio.encoder_ffn_dim as f64;
        let layers = audio.encoder_layers as f64;
        let ranks = self.sizes.ranks.audio_encoder as f64 / layers;
        let statistics = F32 * (audio.encoder_attention_heads as f64 + 4.0);
        let inside = BF16 * (5.0 * dim + ffn + ranks) + statistics;
        let normed = BF16 * (2.0 * dim + ffn);
        let positions = self.positions(load);
        let convolutions = BF16
            * (2.0 * (KERNEL * audio.num_mel_bins) as f64
                + 4.0 * dim
                + KERNEL as f64 * dim
                + 2.0 * dim)
            * positions
            + BF16 * FRAMES * audio.num_mel_bins as f64 * load.audio_tokens;

        if !self.is_trained(Part::AudioEncoder) {
            return (
                0.0,
                convolutions.max((inside + normed + BF16 * 2.0 * dim) * positions),
            );
        }

        let dropped = self.sizes.dropped.audio_encoder as f64;
        let gradients = BF16 * (2.0 * ffn + 8.0 * dim + dropped);

        let (kept, live) = match self.save {
            Save::Layer => (BF16 * (dim + ranks), inside + normed + gradients),
            Save::Norms => (BF16 * dim + inside, normed + gradients),
            Save::All => (BF16 * dim + inside + normed, gradients),
        };

        (
            layers * kept * positions + self.is_full(Part::AudioEncoder) * convolutions,
            convolutions.max(live * positions),
        )
    }

    /// Most tokens of a micro-batch that takes at most `bytes` bytes, whatever share of them is
    /// audio or learnt.
    pub fn fitting_tokens(&self, bytes: f64) -> usize {
        let mut fitting = 0;
        let mut above = 1 << 24;
        while above - fitting > 1 {
            let middle = fitting + (above - fitting) / 2;
            if self.on_gpu(&Load::of_one_pack(middle)) <= bytes {
                fitting = middle
            } else {
                above = middle
            }
        }
        fitting
    }
}

/// Tokens of a micro-batch by default.
pub const PACK_TOKENS: usize = 8192;

/// Tokens of a micro-batch that a GPU may have by default, the best first: the longer a
/// micro-batch, the more of a GPU is busy.
const PACKS: [usize; 7] = [16_384, PACK_TOKENS, 4096, 2048, 1024, 512, LEAST_TOKENS];

/// Memory of a GPU that is left out of the choice of a default: what the driver takes, in bytes,
/// and a share of the rest, since the need is an estimate.
const OF_DRIVER: f64 = 1e9;
const LEFT_FREE: f64 = 0.03;

/// Tokens of a micro-batch by default on a GPU of `total` bytes, for stages that train the same
/// weights. It follows from all of the memory, not from what is free, so that two runs have the
/// same.
pub fn default_pack_tokens(stages: &[Model<'_>], precision: Precision, total: f64) -> usize {
    let Some(first) = stages.first() else {
        return PACK_TOKENS;
    };
    let left = (1.0 - LEFT_FREE) * (total - OF_DRIVER) - first.need(precision).fixed();
    let fits = |&tokens: &usize| {
        stages
            .iter()
            .all(|model| model.on_gpu(&Load::of_one_pack(tokens)) <= left)
    };
    PACKS.into_iter().find(fits).unwrap_or(PACK_TOKENS)
}

/// Fit of a training and a GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Memory that does not depend on a batch.
    pub need: Need,
    /// Bytes of the longest micro-batch, `pack_tokens` long.
    pub batch: f64,
    /// Bytes that are free.
    pub free: f64,
    /// Amount that layers save.
    pub save: Save,
    /// Tokens of the longest micro-batch: what was asked for, or what fits.
    pub pack_tokens: usize,
    /// Most tokens of one example.
    pub longest: usize,
    /// Tokens of a micro-batch in the recipe.
    pub asked: usize,
    /// Most tokens under [`Save::Layer`].
    pub longest_by_layer: usize,
}

/// Share of a micro-batch that found no memory that may fit after all: the estimate said that it
/// would fit, so it was too low.
const AFTER_REFUSAL: f64 = 0.9;

/// Least tokens of a micro-batch that is worth a GPU: some seconds of audio and a few words.
const LEAST_TOKENS: usize = 256;

impl Fit {
    /// Fit of stages that train the same weights, each its parts, and `free` bytes, with
    /// micro-batches of up to `asked` tokens.
    ///
    /// # Errors
    /// If not even a short example fits: with all numbers, and what to change.
    pub fn new(
        stages: &[Model<'_>],
        precision: Precision,
        free: f64,
        asked: usize,
    ) -> Result<Self> {
        let Some(first) = stages.first() else {
            return Err(Error::bug("a training without stages"));
        };
        let need = first.need(precision);
        let left = free - need.fixed();
        let fitting = |save: Save| {
            stages
                .iter()
                .map(|model| Model { save, ..*model }.fitting_tokens(left))
                .min()
                .unwrap_or(0)
        };
        let longest = fitting(first.save);
        let longest_by_layer = fitting(Save::Layer);
        let pack_tokens = asked.min(longest);
        let batch = stages
            .iter()
            .map(|model| model.on_gpu(&Load::of_one_pack(pack_tokens)))
            .fold(0.0, f64::max);

        let fit = Self {
            need,
            batch,
            free,
            save: first.save,
            pack_tokens,
            longest,
            asked,
            longest_by_layer,
        };

        if longest >= LEAST_TOKENS {
            Ok(fit)
        } else {
            Err(fit.refusal())
        }
    }

    fn refusal(&self) -> Error {
        let error = Error::resource(format!(
            "the training does not fit the GPU: {} of {} free, before the first token",
            self.fixed_parts(),
            gigabytes(self.free)
        ));
        if self.longest_by_layer >= LEAST_TOKENS {
            return error.hint(format!(
                "`memory.save: layer` leaves room for {} tokens",
                self.longest_by_layer
            ));
        }
        let other = if self.need.trained > self.need.weights {
            "lower `lora.rank`, or train fewer parts whole"
        } else {
            "end other programs on the GPU"
        };
        error.hint(format!("{other}, or use a GPU with more memory"))
    }

    fn fixed_parts(&self) -> String {
        let Need {
            weights,
            trained,
            workspace,
        } = self.need;
        format!(
            "frozen weights {} + what is trained {} + workspace {}",
            gigabytes(weights),
            gigabytes(trained),
            gigabytes(workspace)
        )
    }

    /// All of it in a line.
    pub fn line(&self) -> String {
        format!(
            "{} + a micro-batch of {} tokens, `memory.save: {}`, {} = {} of {} free",
            self.fixed_parts(),
            self.pack_tokens,
            self.save,
            gigabytes(self.batch),
            gigabytes(self.need.fixed() + self.batch),
            gigabytes(self.free)
        )
    }

    /// Note on a difference from the recipe.
    pub fn note(&self) -> Option<String> {
        (self.pack_tokens < self.asked).then(|| {
            format!("`memory.pack_tokens` is {}, and {} tokens fit the GPU: longer micro-batches are split{}", self.asked, self.pack_tokens, self.by_layer())
        })
    }

    /// Hint for an example that is longer than [`Fit::longest`].
    pub fn hint(&self) -> String {
        format!(
            "split the clip with `start_s` and `end_s`, remove the row, or use a GPU with more memory{}",
            self.by_layer()
        )
    }

    /// The error of a micro-batch of `tokens` tokens that found no memory, of one example or of
    /// more, where `free` bytes are left without it. Other errors stay as they are.
    pub fn full(&self, error: Error, tokens: usize, is_one: bool, free: f64) -> Error {
        if !error.is_full_gpu() {
            return error;
        }
        let error = error.at(format!(
            "a micro-batch of {tokens} tokens found no memory on the GPU, which has {} free without it",
            gigabytes(free)
        ));
        let by_tokens = self.batch / self.pack_tokens as f64;
        let fitting = (free / by_tokens).min(AFTER_REFUSAL * tokens as f64) as usize;
        if fitting == 0 {
            return error.hint("end other programs on the GPU, and continue with --resume");
        }
        if is_one {
            return error.hint(format!("about {fitting} tokens fit: {}", self.hint()));
        }
        error.hint(format!(
            "about {fitting} tokens fit: start another run with `--set memory.pack_tokens={fitting} --set name=NAME`, or end other programs on the GPU and continue with --resume{}",
            self.by_layer()
        ))
    }

    fn by_layer(&self) -> String {
        match self.longest_by_layer > self.longest {
            true => format!(
                "; under `memory.save: layer` {} tokens fit",
                self.longest_by_layer
            ),
            false => String::new(),
        }
    }
}

/// Need of work on the CPU for the machine's memory, in bytes. The program itself, rows and clips
/// come on top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostNeed {
    /// Weights that stay as they are, in `f32`.
    pub weights: f64,
    /// Trained parameters: values, gradients and moments; 0 where nothing is.
    pub trained: f64,
    /// Activations of a micro-batch.
    pub batch: f64,
}

impl HostNeed {
    /// The need of a training whose largest micro-batch takes `batch` bytes.
    pub fn training(sizes: &Sizes, precision: Precision, batch: f64) -> Self {
        Self {
            weights: F32 * (sizes.frozen + twice(sizes, precision)) as f64,
            trained: BUFFERS * F32 * sizes.num_trained() as f64,
            batch,
        }
    }

    /// The need of a model that only answers.
    pub fn answering(sizes: &Sizes, precision: Precision) -> Self {
        let all =
            |of: &PerPart<usize>| Part::ALL.into_iter().map(|part| of.of(part)).sum::<usize>();
        let numbers = all(&sizes.weights) + all(&sizes.adapters) + twice(sizes, precision);
        Self {
            weights: F32 * numbers as f64,
            trained: 0.0,
            batch: 0.0,
        }
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.weights + self.trained + self.batch
    }

    /// Compares the need with what is available: bytes, and the name of what has no more. `None` is
    /// a system that does not tell; it is taken to have enough.
    ///
    /// # Errors
    /// Too little memory: with all figures, and what to change.
    pub fn check(&self, available: Option<(u64, &str)>) -> Result<()> {
        let Some((bytes, limit)) = available.filter(|(bytes, _)| self.total() > *bytes as f64)
        else {
            return Ok(());
        };
        let parts = [
            ("weights in f32", self.weights),
            ("what is trained", self.trained),
            (
                "activations of the largest micro-batch of the first steps",
                self.batch,
            ),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, bytes)| *bytes > 0.0)
            .map(|(name, bytes)| format!("{name} {}", gigabytes(bytes)))
            .collect();

        let total = match parts.len() {
            1 => String::new(),
            _ => format!(" = {}", gigabytes(self.total())),
        };

        let error = Error::resource(format!(
            "memory: the work needs {}{total}, and {} has {} available",
            parts.join(" + "),
            limit,
            gigabytes(bytes as f64)
        ));

        let instead = if self.weights + self.trained <= bytes as f64 {
            "lower `memory.pack_tokens`, set `memory.save: layer`"
        } else if self.trained > self.weights {
            "train fewer parts whole, lower `lora.rank`"
        } else {
            "take a smaller model, compute on a GPU with `--device cuda`"
        };

        Err(error.hint(format!(
            "{instead}, or take a machine with more memory; `--ignore-memory` begins all the same"
        )))
    }
}

/// Numbers that are held a second time: linear layers that fp8 rounds on the CPU.
fn twice(sizes: &Sizes, precision: Precision) -> usize {
    if precision == Precision::Fp8 {
        sizes.frozen_linears
    } else {
        0
    }
}

/// Bytes in 10^9.
pub fn gigabytes(bytes: f64) -> String {
    if bytes < 1e9 {
        format!("{:.2} GB", bytes / 1e9)
    } else {
        format!("{:.1} GB", bytes / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::config::Config;
    use crate::models::qwen_omni::shapes;
    use crate::nn::lora;
    use crate::nn::lora::Plan;
    use crate::nn::lora::Targets;
    use maqam_base::parts::Parts;

    /// The seven billion with adapters of rank 16 on every linear layer of the decoder.
    fn with_seven_billion<T>(look: impl Fn(&Config, &Sizes) -> T) -> T {
        let config = shapes::by_name("7b", None).unwrap();
        let settings = lora::Settings {
            targets: Targets::Named("all-linear".into()),
            ..lora::Settings::default()
        };
        let sizes = Sizes::of(
            &config,
            &Plan::from_settings(&settings, &Parts::default(), &config.adaptable()).unwrap(),
        );
        look(&config, &sizes)
    }

    #[test]
    fn a_gpu_holds_the_numbers_that_are_known_by_hand() {
        with_seven_billion(|config, sizes| {
            let model = |save| Model {
                config,
                sizes,
                parts: Parts::default(),
                save,
            };
            let need = model(Save::All).need(Precision::Bf16);
            // 16.5 GB of weights and 0.3 GB beside them; 40.4 M trained numbers of 18 bytes.
            assert!(
                (need.weights / 16.8e9 - 1.0).abs() < 0.01
                    && (need.trained / (18.0 * 2_523_136.0 * 16.0) - 1.0).abs() < 1e-9,
                "{need:?}"
            );
            // Bytes that each token more keeps: 4.44 MB, 2.98 MB and 0.20 MB by hand; a layer's way
            // and the head come on top.
            let slope = |save| {
                (model(save).decoder_on_gpu(&load(8192)) - model(save).decoder_on_gpu(&load(4096)))
                    / 4096.0
            };
            for (save, kept, live) in [
                (Save::All, 4.44e6, 0.24e6),
                (Save::Norms, 2.98e6, 0.30e6),
                (Save::Layer, 0.20e6, 0.42e6),
            ] {
                let found = slope(save);
                assert!(found > kept && found < kept + live, "{save:?}: {found}");
            }
        });
    }

    #[test]
    fn a_cpu_without_enough_memory_is_refused_with_figures() {
        with_seven_billion(|_, sizes| {
            let available = |bytes: f64| Some((bytes as u64, "this machine"));
            // By hand: 7.615 G numbers in the decoder, 0.639 G in the encoder, 0.040 G in the
            // adapters; 4 bytes each.
            let answering = HostNeed::answering(sizes, Precision::F32);
            assert!(
                (answering.total() / 4.0 / 8.294e9 - 1.0).abs() < 0.005,
                "{answering:?}"
            );
            let error = answering.check(available(21e9)).unwrap_err();
            assert_eq!(error.exit_code(), 4);
            let text = error.to_string();
            assert!(
                text.contains("weights in f32 33.")
                    && text.contains("this machine has 21.0 GB available"),
                "{text}"
            );
            assert!(
                text.contains("hint: take a smaller model") && text.contains("--ignore-memory"),
                "{text}"
            );
            assert!(answering.check(available(40e9)).is_ok() && answering.check(None).is_ok());
            let training = HostNeed::training(sizes, Precision::F32, 20e9);
            let text = training.check(available(50e9)).unwrap_err().to_string();
            assert!(text.contains("hint: lower `memory.pack_tokens`"), "{text}");
            let rounded = HostNeed::training(sizes, Precision::Fp8, 0.0);
            assert!(rounded.weights > 1.7 * training.weights, "{rounded:?}");
        });
    }

    fn load(tokens: usize) -> Load {
        let mut load = Load::default();
        load.add(tokens, 0, 0);
        load
    }

    /// Bytes of seven billion's micro-batches on GPUs of so many GiB, from `maqam plan`: beside
    /// 18.0 GB, 8,192 tokens take 41.2, 28.9 and 5.8 GB under `all`, `norms` and `layer`, and 25.2
    /// GB have room for 1,783 under `norms`.
    #[test]
    fn a_default_pack_follows_from_all_memory() {
        with_seven_billion(|config, sizes| {
            for (save, gib, expected) in [
                (Save::Norms, 24.0, 1024),
                (Save::Norms, 48.0, 8192),
                (Save::Norms, 80.0, 16_384),
                (Save::All, 80.0, 8192),
                (Save::All, 140.0, 16_384),
                (Save::Layer, 24.0, 8192),
                (Save::Layer, 48.0, 16_384),
                // Nothing fits: the refusal comes from what is free.
                (Save::Layer, 16.0, 8192),
            ] {
                let stages = [Model {
                    config,
                    sizes,
                    parts: Parts::default(),
                    save,
                }];
                let total = gib * f64::from(1 << 30);
                assert_eq!(
                    default_pack_tokens(&stages, Precision::Bf16, total),
                    expected,
                    "{save:?}, {gib} GiB"
                );
            }
        });
    }

    #[test]
    fn ten_minutes_fit_eighty_gigabytes_and_what_does_not_fit_is_refused_with_numbers() {
        with_seven_billion(|config, sizes| {
            let stage = |save| {
                [Model {
                    config,
                    sizes,
                    parts: Parts::default(),
                    save,
                }]
            };
            let fit = |save, free, asked| Fit::new(&stage(save), Precision::Bf16, free, asked);
            let found = fit(Save::Layer, 78e9, 8192).unwrap();
            assert!(
                found.longest > 15_500 && found.note().is_none(),
                "{}",
                found.line()
            );
            let found = fit(Save::Norms, 40e9, 16_384).unwrap();
            assert!(
                found.pack_tokens < 8192 && found.need.fixed() + found.batch <= 40e9,
                "{}",
                found.line()
            );
            assert!(
                found
                    .note()
                    .unwrap()
                    .contains("`memory.pack_tokens` is 16384")
                    && found.hint().contains("`memory.save: layer`")
            );
            // 2 GB are left of what 8,192 tokens were to have: the share of them, rounded down.
            let found = fit(Save::Norms, 60e9, 8192).unwrap();
            let driver = || Error::of_library("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"no\")");
            let fitting = (2e9 / (found.batch / 8192.0)) as usize;
            assert!(fitting > 100 && fitting < 8192, "{fitting}");
            let full = found.full(driver(), 8192, false, 2e9);
            assert_eq!(full.exit_code(), 4);
            let text = full.to_string();
            assert!(
                text.contains("a micro-batch of 8192 tokens found no memory")
                    && text.contains("2.0 GB free")
                    && text.contains(&format!("--set memory.pack_tokens={fitting} ")),
                "{text}"
            );
            // The estimate says that all of it fits: a tenth less is proposed.
            let full = found.full(driver(), 1000, true, 40e9).to_string();
            assert!(
                full.contains("hint: about 900 tokens fit: split the clip"),
                "{full}"
            );
            let taken = found.full(driver(), 1000, false, 0.0).to_string();
            assert!(
                taken.contains("hint: end other programs on the GPU, and continue with --resume"),
                "{taken}"
            );
            let other = found.full(Error::resource("a full disk"), 1000, true, 40e9);
            assert_eq!(other.to_string(), "a full disk");
            let refused = fit(Save::Norms, 16e9, 8192).unwrap_err().to_string();
            assert!(
                refused.contains("frozen weights 16.8 GB")
                    && refused.contains("16.0 GB free")
                    && refused.contains("hint: "),
                "{refused}"
            );
            for save in [Save::All, Save::Norms, Save::Layer] {
                let model = &stage(save)[0];
                let tokens = model.fitting_tokens(20e9);
                let worst = |tokens: usize| model.on_gpu(&Load::of_one_pack(tokens));
                assert!(worst(tokens) <= 20e9 && worst(tokens + 1) > 20e9);
            }
        });
    }
}
