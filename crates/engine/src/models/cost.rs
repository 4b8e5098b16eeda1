//! Cost of a training step: operations of its matrix products and bytes of its activations, from
//! the model's dimensions.
//!
//! Only products are counted. Norms, activations, softmax and the optimiser are in the measured
//! factor between products alone and whole steps.

use crate::models::config::AudioConfig;
use crate::models::config::Config;
use crate::models::front::AT_ONCE;
use crate::models::hubert;
use crate::models::sizes::Sizes;
use crate::nn::saving::Save;
use crate::ops::convolution::KERNEL;
use crate::ops::convolution2d::Planes;
use crate::ops::convolution2d::TAPS;
use maqam_base::parts::Part;
use maqam_base::parts::Parts;
use maqam_base::parts::Training;

/// Bytes of a number in f32.
pub const F32: f64 = 4.0;
/// Bytes of a number in bf16.
pub const BF16: f64 = 2.0;

/// Operations of a product for each pair of numbers: one multiplication, one addition.
const PAIR: f64 = 2.0;

/// Products of attention's backward for each of its forward: five (scores again, and gradients of
/// values, probabilities, queries, keys) for two.
const ATTENTION_BACKWARD: f64 = 2.5;

/// Sizes of a micro-batch, or of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Tokens.
    pub tokens: f64,
    /// Sum over sequences of the square of their tokens.
    pub squares: f64,
    /// Tokens that stand for audio.
    pub audio_tokens: f64,
    /// Tokens that are learnt.
    pub targets: f64,
}

impl Load {
    /// One sequence more.
    pub fn add(&mut self, tokens: usize, audio_tokens: usize, targets: usize) {
        let tokens = tokens as f64;
        self.tokens += tokens;
        self.squares += tokens * tokens;
        self.audio_tokens += audio_tokens as f64;
        self.targets += targets as f64;
    }
}

/// A model as it is trained.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// Dimensions.
    pub config: &'a Config,
    /// Numbers of parameters.
    pub sizes: &'a Sizes,
    /// Training of each part.
    pub parts: Parts,
    /// Amount that layers save.
    pub save: Save,
}

/// Operations of the decoder's forward, by kind of product.
struct DecoderProducts {
    linear: f64,
    attention: f64,
    head: f64,
    /// Of `linear`, the last product of each layer.
    down: f64,
}

impl Model<'_> {
    /// Operations of a forward and a backward.
    pub fn operations(&self, load: &Load) -> f64 {
        self.decoder(load) + self.encoder(load) + self.projector(load) + self.adapters(load)
    }

    /// Operations of a forward alone.
    pub fn forward(&self, load: &Load) -> f64 {
        let DecoderProducts {
            linear,
            attention,
            head,
            ..
        } = self.decoder_products(load);
        let projector = PAIR * self.projector_products() * load.audio_tokens;
        linear + attention + head + self.encoder_forward(load) + projector
    }

    /// Operations that a step of adapters over frozen weights cannot do without: every weight of
    /// the decoder's layers once forward and once to the gradient of its input, the head's likewise
    /// over what is learnt, the audio encoder's forward. Nothing that is computed again counts, nor
    /// attention, nor the adapters. What `bench` divides by the time.
    pub fn useful(&self, load: &Load) -> f64 {
        let text = &self.config.text;
        let audio = &self.config.audio;
        let dim = text.hidden_size as f64;
        let ffn = text.intermediate_size as f64;
        let query = text.heads().query_width() as f64;
        let layers = text.num_hidden_layers as f64
            * (dim * text.heads().width() as f64 + query * dim + 3.0 * dim * ffn);
        let head = dim * text.vocab_size as f64;
        let EncoderShape {
            dim: d,
            ffn,
            layers: encoder_layers,
        } = self.encoder_shape();
        let kernel = KERNEL as f64;
        let convolutions = match (&self.config.speech, Reduced::of(audio)) {
            (Some(speech), _) => Waves::of(&speech.encoder).products,
            (None, None) => kernel * d * (audio.num_mel_bins as f64 + d),
            (None, Some(reduced)) => reduced.products,
        };
        let encoder = encoder_layers * (4.0 * d * d + 2.0 * d * ffn)
            + convolutions
            + self.projector_products();
        2.0 * PAIR * (layers * load.tokens + head * load.targets)
            + PAIR * encoder * self.positions(load)
    }

    /// 1 where a part is in full fine-tuning, else 0.
    pub fn is_full(&self, part: Part) -> f64 {
        f64::from(u8::from(self.parts.of(part) == Training::Full))
    }

    /// Whether a part is trained in any way.
    pub fn is_trained(&self, part: Part) -> bool {
        self.parts.of(part) != Training::Frozen
    }

    /// Operations of the decoder's forward.
    fn decoder_products(&self, load: &Load) -> DecoderProducts {
        let text = &self.config.text;
        let dim = text.hidden_size as f64;
        let ffn = text.intermediate_size as f64;
        let layers = text.num_hidden_layers as f64;
        let heads = text.heads();
        let query = heads.query_width() as f64;
        let width = heads.width() as f64;
        let into = dim * width;
        let rest = query * dim + 3.0 * dim * ffn;
        DecoderProducts {
            // The last layer goes on with the rows of targets alone.
            linear: PAIR
                * (layers * into * load.tokens
                    + rest * ((layers - 1.0) * load.tokens + load.targets)),
            // Causal: half of the scores, and of their products with the values.
            attention: layers * PAIR * query * load.squares,
            head: PAIR * dim * text.vocab_size as f64 * load.targets,
            down: PAIR * layers * dim * ffn * load.tokens,
        }
    }

    fn decoder(&self, load: &Load) -> f64 {
        let DecoderProducts {
            linear,
            attention,
            head,
            down,
        } = self.decoder_products(load);
        let again = match self.save {
            Save::Layer => linear + attention - down,
            Save::All | Save::Norms => 0.0,
        };
        // Gradients of inputs cost what the forward does; those of weights as much again.
        linear * (2.0 + self.is_full(Part::Decoder))
            + attention * (1.0 + ATTENTION_BACKWARD)
            + head * (2.0 + self.is_full(Part::Decoder))
            + again
    }

    /// Sizes of the encoder's transformer.
    fn encoder_shape(&self) -> EncoderShape {
        let audio = &self.config.audio;
        match &self.config.speech {
            Some(speech) => EncoderShape {
                dim: speech.encoder.hidden_size as f64,
                ffn: speech.encoder.intermediate_size as f64,
                layers: speech.encoder.num_hidden_layers as f64,
            },
            None => EncoderShape {
                dim: audio.d_model as f64,
                ffn: audio.encoder_ffn_dim as f64,
                layers: audio.encoder_layers as f64,
            },
        }
    }

    /// Positions that a position of the encoder attends to. In a speech encoder they are those of
    /// its clip, for which the mean length of the load's sequences stands.
    fn attended(&self, load: &Load) -> f64 {
        match &self.config.speech {
            Some(speech) => speech.stack as f64 * load.squares / load.tokens.max(1.0),
            None => self.config.audio.framing().attended() as f64,
        }
    }

    /// Operations of the encoder's forward for a load, if nothing of it is trained.
    pub fn encoder_forward(&self, load: &Load) -> f64 {
        let frozen = Parts {
            audio_encoder: Training::Frozen,
            ..self.parts
        };
        Self {
            parts: frozen,
            ..*self
        }
        .encoder(load)
    }

    fn encoder(&self, load: &Load) -> f64 {
        let audio = &self.config.audio;
        let EncoderShape { dim, ffn, layers } = self.encoder_shape();
        let positions = self.positions(load);
        let kernel = KERNEL as f64;
        // The first of two convolutions gives two rows for each position.
        let products = match (&self.config.speech, Reduced::of(audio)) {
            (Some(speech), _) => Waves::of(&speech.encoder).products,
            (None, None) => kernel * dim * (2.0 * audio.num_mel_bins as f64 + dim),
            (None, Some(reduced)) => reduced.products,
        };
        let convolutions = PAIR * positions * products;
        let linear = PAIR * layers * (4.0 * dim * dim + 2.0 * dim * ffn) * positions;
        let attention = PAIR * layers * 2.0 * dim * positions * self.attended(load);
        if !self.is_trained(Part::AudioEncoder) {
            return convolutions + linear + attention;
        }
        let again = if self.save == Save::Layer {
            linear + attention
        } else {
            0.0
        };
        convolutions * (1.0 + 2.0 * self.is_full(Part::AudioEncoder))
            + linear * (2.0 + self.is_full(Part::AudioEncoder))
            + attention * (1.0 + ATTENTION_BACKWARD)
            + again
    }

    fn projector(&self, load: &Load) -> f64 {
        let once = PAIR * self.projector_products() * load.audio_tokens;
        let below = f64::from(u8::from(self.is_trained(Part::AudioEncoder)));
        once * (1.0 + below + self.is_full(Part::Projector))
    }

    /// Products of the projector for one row.
    fn projector_products(&self) -> f64 {
        let inputs = self.config.projector_inputs() as f64;
        let outputs = self.config.audio.output_dim as f64;
        match self.config.projector_width() {
            Some(width) => inputs * width as f64 + width as f64 * outputs,
            None => inputs * outputs,
        }
    }

    /// Positions of the audio encoder.
    pub fn positions(&self, load: &Load) -> f64 {
        self.config.positions_per_token() as f64 * load.audio_tokens
    }

    /// Rows that the linear layers of a part see.
    fn rows(&self, load: &Load, part: Part) -> f64 {
        match part {
            Part::AudioEncoder => self.positions(load),
            Part::Projector => load.audio_tokens,
            Part::Decoder => load.tokens,
        }
    }

    /// Adapters: a forward, and gradients of inputs and weights.
    fn adapters(&self, load: &Load) -> f64 {
        Part::ALL
            .into_iter()
            .filter(|&part| self.parts.of(part) == Training::Lora)
            .map(|part| 3.0 * PAIR * self.sizes.adapters.of(part) as f64 * self.rows(load, part))
            .sum()
    }

    /// Bytes of what a micro-batch keeps for its backward, with what one layer needs on its way.
    pub fn activations(&self, load: &Load) -> f64 {
        let text = &self.config.text;
        let heads = self.config.text.heads();
        let dim = text.hidden_size as f64;
        let ffn = text.intermediate_size as f64;
        let layers = text.num_hidden_layers as f64;
        let normed_heads = match text.qk_norm {
            true => (heads.query_width() + heads.kv_width()) as f64,
            false => 0.0,
        };
        let inside = (heads.width() + heads.query_width() + heads.num_heads) as f64
            + normed_heads
            + dim
            + 2.0 * ffn
            + 2.0;
        let normed = 2.0 * dim + ffn;
        let kept = |inside: f64, normed: f64| match self.save {
            Save::Layer => 0.0,
            Save::Norms => inside,
            Save::All => inside + normed,
        };
        let decoder =
            (layers * (dim + kept(inside, normed)) + 2.0 * (inside + normed)) * load.tokens;
        let head = load.targets * 2.0 * dim + load.targets.min(256.0) * text.vocab_size as f64;
        F32 * (decoder + head + self.encoder_activations(load))
    }

    /// Numbers that the encoder keeps of a micro-batch for its backward, with what one layer needs
    /// on its way.
    pub fn encoder_activations(&self, load: &Load) -> f64 {
        let audio = &self.config.audio;
        let EncoderShape { dim, ffn, layers } = self.encoder_shape();
        let inside = 5.0 * dim + ffn;
        let normed = 2.0 * dim + ffn;
        let kept = |inside: f64, normed: f64| match self.save {
            // A speech encoder saves everything.
            _ if self.config.speech.is_some() => inside + normed,
            Save::Layer => 0.0,
            Save::Norms => inside,
            Save::All => inside + normed,
        };

        let of_layers = if self.is_trained(Part::AudioEncoder) {
            layers * (dim + kept(inside, normed))
        } else {
            0.0
        };

        if let Some(speech) = &self.config.speech {
            let waves = Waves::of(&speech.encoder);
            // Frozen convolutions take what two of them have at a time; trained ones keep their
            // inputs and outputs.
            let of_convolutions = match self.is_full(Part::AudioEncoder) > 0.0 {
                true => 2.0 * waves.activations,
                false => 2.0 * waves.largest,
            };
            return (of_layers + of_convolutions + 2.0 * (inside + normed)) * self.positions(load);
        }

        let (once, of_convolutions) = match Reduced::of(audio) {
            None => {
                let kept = 2.0 * (KERNEL * audio.num_mel_bins) as f64
                    + 2.0 * dim
                    + KERNEL as f64 * dim
                    + dim;
                (0.0, kept * (1.0 + self.is_full(Part::AudioEncoder)))
            }
            Some(reduced) => {
                let trained = self.is_full(Part::AudioEncoder) * reduced.activations;
                (reduced.unfolded, reduced.left + trained)
            }
        };
        once + (of_layers + of_convolutions + 2.0 * (inside + normed)) * self.positions(load)
    }
}

/// Sizes of an encoder's transformer.
struct EncoderShape {
    dim: f64,
    ffn: f64,
    layers: f64,
}

/// Costs of the convolutions of a speech encoder, per position.
struct Waves {
    /// Products of the convolutions over samples, of the projection, and of the positional
    /// convolution.
    products: f64,
    /// Numbers of the convolutions' outputs.
    activations: f64,
    /// Numbers of the largest output.
    largest: f64,
}

impl Waves {
    fn of(encoder: &hubert::config::Config) -> Self {
        let mut rows = encoder.stride() as f64;
        let mut inputs = 1.0;
        let mut found = Self {
            products: 0.0,
            activations: 0.0,
            largest: 0.0,
        };
        for (window, &channels) in encoder.windows().zip(&encoder.conv_dim) {
            let channels = channels as f64;
            rows /= window.stride as f64;
            found.products += rows * window.kernel as f64 * inputs * channels;
            found.activations += rows * channels;
            found.largest = found.largest.max(rows * channels);
            inputs = channels;
        }
        let hidden = encoder.hidden_size as f64;
        let positions = encoder.positions();
        found.products += inputs * hidden;
        found.products += hidden * positions.width() as f64 * positions.kernel as f64;
        found
    }
}

/// Costs of convolutions over time and frequency, per position where nothing else is stated.
struct Reduced {
    /// Products of the convolutions and of the linear layer after them.
    products: f64,
    /// Numbers of the convolutions' outputs.
    activations: f64,
    /// Numbers that the linear layer reads.
    left: f64,
    /// Numbers of the unfolded cells of the windows that are unfolded at once, for any load.
    unfolded: f64,
}

impl Reduced {
    /// Costs of an encoder; `None` where it convolves only over time.
    fn of(audio: &AudioConfig) -> Option<Self> {
        let channels = audio.chunks?.downsample_hidden_size as f64;
        let mut planes = Planes {
            count: 1,
            times: audio.window_frames(),
            bands: audio.num_mel_bins,
        };
        let taps = TAPS as f64;
        let mut products = 0.0;
        let mut activations = 0.0;
        let mut unfolded = 0f64;
        for inputs in [1.0, channels, channels] {
            planes = planes.convolved();
            let cells = planes.cells() as f64;
            products += taps * inputs * channels * cells;
            activations += channels * cells;
            unfolded = unfolded.max(taps * inputs * cells);
        }
        let positions = planes.times as f64;
        let left = channels * planes.bands as f64;
        Some(Self {
            products: products / positions + left * audio.d_model as f64,
            activations: activations / positions,
            left,
            unfolded: unfolded * AT_ONCE as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::qwen_omni::shapes;
    use crate::nn::lora;
    use crate::nn::lora::Plan;

    #[test]
    fn a_frozen_decoder_with_adapters_costs_four_operations_a_weight_and_token() {
        let config = shapes::by_name("7b", None).unwrap();
        let parts = Parts::default();
        let plan =
            Plan::from_settings(&lora::Settings::default(), &parts, &config.adaptable()).unwrap();
        let sizes = Sizes::of(&config, &plan);
        let model = |parts, save| Model {
            config: &config,
            sizes: &sizes,
            parts,
            save,
        };
        let mut load = Load::default();
        load.add(1000, 0, 1000);
        // Kaplan et al. 2020, section 2.1: a forward costs 2 operations a weight and token, a
        // backward twice that, half of it for the weights' own gradients. The embedding table is
        // looked up and multiplied by nothing.
        let weights =
            (sizes.weights.decoder - config.text.vocab_size * config.text.hidden_size) as f64;
        let found = model(parts, Save::Norms).operations(&load);
        let lora = found / (4.0 * weights * 1000.0);
        assert!(
            (1.0..1.03).contains(&lora),
            "{lora}: attention over 1000 tokens and adapters come on top"
        );
        let whole = model(
            Parts {
                decoder: Training::Full,
                ..parts
            },
            Save::Norms,
        )
        .operations(&load)
            / (6.0 * weights * 1000.0);
        assert!((1.0..1.02).contains(&whole), "{whole}");
        let again = model(parts, Save::Layer).operations(&load) / found;
        assert!(
            (1.25..1.5).contains(&again),
            "{again}: all but the last product of each layer once more"
        );
    }

    #[test]
    fn useful_operations_are_those_that_peers_are_measured_by() {
        let config = shapes::by_name("7b", None).unwrap();
        let parts = Parts::default();
        let plan = Plan::default();
        let sizes = Sizes::of(&config, &plan);
        let model = Model {
            config: &config,
            sizes: &sizes,
            parts,
            save: Save::Layer,
        };
        let mut load = Load::default();
        load.add(340, 250, 50);
        // 6.5253 G weights in the layers, 0.5450 G in the head, 0.639 G in the encoder; ten seconds
        // are 500 positions.
        let by_hand = 4.0 * 6.5253e9 * 340.0 + 4.0 * 0.5450e9 * 50.0 + 2.0 * 0.639e9 * 500.0;
        assert!((model.useful(&load) / by_hand - 1.0).abs() < 1e-3);
    }

    #[test]
    fn convolutions_of_samples_cost_what_they_do_by_hand() {
        let waves = Waves::of(&hubert::config::Config::default());
        // HuBERT-base: rows of 64, 32, 16, 8, 4, 2 and 1 for each frame of 20 ms, 512 channels; to
        // 768; 128 taps of 48 channels.
        let by_hand = 64.0 * 10.0 * 512.0
            + 512.0 * 512.0 * (3.0 * (32.0 + 16.0 + 8.0 + 4.0) + 2.0 * (2.0 + 1.0))
            + 512.0 * 768.0
            + 768.0 * 48.0 * 128.0;
        assert!((waves.products / by_hand - 1.0).abs() < 1e-12);
        assert_eq!(
            (waves.activations, waves.largest),
            (127.0 * 512.0, 64.0 * 512.0)
        );
    }

    #[test]
    fn convolutions_of_cells_cost_what_they_do_by_hand() {
        let config = crate::models::qwen3_asr::shapes::by_name("qwen3-asr-0.6b").unwrap();
        let reduced = Reduced::of(&config.audio).unwrap();
        // 50 x 64, 25 x 32 and 13 x 16 cells of 480 channels in a window of 13 positions; then 7680
        // numbers to 896.
        let cells = 9.0 * 480.0 * (50.0 * 64.0 + 480.0 * (25.0 * 32.0 + 13.0 * 16.0)) / 13.0;
        assert!((reduced.products / (cells + 7680.0 * 896.0) - 1.0).abs() < 1e-12);
        assert_eq!(reduced.unfolded, 8.0 * 800.0 * 4320.0);
    }

    #[test]
    fn policies_keep_less_in_their_order_and_everything_grows_with_the_load() {
        let config = shapes::by_name("tiny", None).unwrap();
        let parts = Parts {
            audio_encoder: Training::Full,
            projector: Training::Full,
            decoder: Training::Full,
        };
        let plan =
            Plan::from_settings(&lora::Settings::default(), &parts, &config.adaptable()).unwrap();
        let sizes = Sizes::of(&config, &plan);
        let mut one = Load::default();
        let mut two = Load::default();
        one.add(300, 200, 30);
        two.add(300, 200, 30);
        two.add(300, 200, 30);
        let bytes = |save, load: &Load| {
            Model {
                config: &config,
                sizes: &sizes,
                parts,
                save,
            }
            .activations(load)
        };
        assert!(
            bytes(Save::All, &one) > bytes(Save::Norms, &one)
                && bytes(Save::Norms, &one) > bytes(Save::Layer, &one)
        );
        assert!((bytes(Save::Norms, &two) / bytes(Save::Norms, &one) - 2.0).abs() < 0.1);
        let model = Model {
            config: &config,
            sizes: &sizes,
            parts,
            save: Save::Norms,
        };
        assert!(
            (model.operations(&two) / model.operations(&one) - 2.0).abs() < 1e-9,
            "sequences do not see each other"
        );
    }
}
