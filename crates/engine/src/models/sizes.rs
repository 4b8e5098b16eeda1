//! Numbers of parameters of each part of a model, and of trained ones: known from its
//! configuration, before any is read.

use crate::models::build::weight_shapes;
use crate::models::config::Config;
use crate::models::groups::dropped;
use crate::models::groups::joined;
use crate::nn::lora::Plan;
use maqam_base::parts::Part;
use maqam_base::parts::PerPart;

/// Numbers by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Weights of the checkpoint.
    pub weights: PerPart<usize>,
    /// Parameters of its adapters.
    pub adapters: PerPart<usize>,
    /// Trained parameters: the adapters', or all weights of a part in full fine-tuning; with the
    /// projector's, embeddings of single tokens and a CTC head.
    pub trained: PerPart<usize>,
    /// Weights that stay as they are, which a training keeps beside those it trains.
    pub frozen: usize,
    /// Frozen matrices of the decoder's layers: what fp8 rounds.
    pub frozen_linears: usize,
    /// Sum of the ranks of a part's adapters: what they keep of a token.
    pub ranks: PerPart<usize>,
    /// Numbers that lie beside the frozen weights of the decoder's layers where a GPU joins them
    /// with their adapters.
    pub joined: usize,
    /// Columns of padding of all these layers behind the rows of their inputs, or of their outputs'
    /// gradients.
    pub padding: usize,
    /// Numbers for each token (position, in the encoder) that the adapters' dropout holds on a GPU
    /// at its highest.
    pub dropped: PerPart<usize>,
}

impl Sizes {
    /// The sizes of a model with these adapters and parts in full fine-tuning.
    pub fn of(config: &Config, plan: &Plan) -> Self {
        let shapes = weight_shapes(config);
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let weights = PerPart::from_fn(|part| {
            shapes
                .iter()
                .filter(|(name, _)| config.names.part_of(name) == part)
                .map(|(_, shape)| count(shape))
                .sum()
        });
        let adapter = |path: &str, rank: usize| {
            shapes
                .get(&format!("{path}.weight"))
                .map_or(0, |shape| rank * shape.iter().sum::<usize>())
        };
        let of_part = |part: Part| {
            plan.modules
                .iter()
                .filter(move |(path, _)| config.names.part_of(path) == part)
        };
        let adapters = PerPart::from_fn(|part| {
            of_part(part)
                .map(|(path, shape)| adapter(path, shape.rank))
                .sum()
        });
        let is_full = |part: Part| plan.full.contains(&part);
        let joined = joined(config, plan);
        let in_layers = format!("{}.layers.", config.names.decoder);
        let linears = shapes
            .iter()
            .filter(|(name, shape)| name.starts_with(&in_layers) && shape.len() == 2)
            .map(|(_, shape)| count(shape))
            .sum();
        Self {
            weights,
            adapters,
            trained: PerPart::from_fn(|part| {
                let of_part = if is_full(part) {
                    weights.of(part)
                } else {
                    adapters.of(part)
                };
                // Embeddings of single tokens and a CTC head are trained with the projector.
                let hidden = config.text.hidden_size;
                match part {
                    Part::Projector => of_part + plan.tokens.len() * hidden + ctc(plan, hidden),
                    _ => of_part,
                }
            }),
            frozen_linears: if is_full(Part::Decoder) { 0 } else { linears },
            ranks: PerPart::from_fn(|part| of_part(part).map(|(_, shape)| shape.rank).sum()),
            joined: joined
                .iter()
                .map(|(inputs, outputs, padding)| padding * (inputs + outputs + padding))
                .sum(),
            padding: joined.iter().map(|(_, _, padding)| padding).sum(),
            dropped: dropped(config, plan),
            frozen: Part::ALL
                .into_iter()
                .filter(|&part| !is_full(part))
                .map(|part| weights.of(part))
                .sum(),
        }
    }

    /// All numbers that are trained.
    pub fn num_trained(&self) -> usize {
        Part::ALL
            .into_iter()
            .map(|part| self.trained.of(part))
            .sum()
    }
}

/// Parameters of the CTC head of a plan: a blank and its characters.
fn ctc(plan: &Plan, hidden: usize) -> usize {
    match plan.ctc.len() {
        0 => 0,
        characters => (characters + 1) * (hidden + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::qwen_omni::shapes;
    use crate::nn::lora;
    use maqam_base::parts::Parts;
    use maqam_base::parts::Training;

    #[test]
    fn sizes_of_the_seven_billion_by_hand() {
        let config = shapes::by_name("7b", None).unwrap();
        let settings = lora::Settings {
            rank: 16,
            ..lora::Settings::default()
        };
        let plan = Plan::from_settings(&settings, &Parts::default(), &config.adaptable()).unwrap();
        let sizes = Sizes::of(&config, &plan);
        // A layer: q and o of 3584 x 3584, k and v of 512 x 3584, three of 18944 x 3584, their
        // biases and two norms; embeddings and head.
        let layer =
            2 * 3584 * 3584 + 2 * 512 * 3584 + 3 * 18_944 * 3584 + (3584 + 2 * 512) + 2 * 3584;
        assert_eq!(
            sizes.weights.decoder,
            28 * layer + 2 * 152_064 * 3584 + 3584
        );
        assert_eq!(sizes.weights.projector, 1280 * 3584 + 3584);
        // Rank 16 on q, k, v, o: 16 times the widths on either side.
        assert_eq!(
            sizes.adapters.decoder,
            28 * 16 * (2 * (3584 + 3584) + 2 * (3584 + 512))
        );
        assert_eq!(
            (sizes.num_trained(), sizes.trained.audio_encoder),
            (sizes.adapters.decoder, 0)
        );
        // Ranks of 3 x 16 and of 16 get padding of 64 columns: beside stacked queries, keys and
        // values, and beside what comes after attention.
        assert_eq!(
            (sizes.joined, sizes.padding),
            (
                28 * 64 * ((3584 + 4608 + 64) + (2 * 3584 + 64)),
                28 * 2 * 64
            )
        );
        let full = Plan {
            full: vec![Part::Projector],
            ..plan
        };
        assert_eq!(
            Sizes::of(&config, &full).num_trained(),
            sizes.adapters.decoder + sizes.weights.projector
        );
        assert_eq!(
            Sizes::of(&config, &full).frozen + sizes.weights.projector,
            sizes.frozen
        );
        // A head of a blank and two characters.
        let with_head = Plan {
            ctc: vec!['a', 'b'],
            ..full.clone()
        };
        assert_eq!(
            Sizes::of(&config, &with_head).num_trained(),
            sizes.adapters.decoder + sizes.weights.projector + 3 * (3584 + 1)
        );
        // Embeddings of two tokens are trained with the projector, beside a table that stays.
        let of_tokens = Plan {
            tokens: vec![1, 2],
            ..full
        };
        assert_eq!(
            Sizes::of(&config, &of_tokens).trained.projector,
            sizes.weights.projector + 2 * 3584
        );
        assert_eq!(Parts::default().of(Part::Projector), Training::Frozen);
        assert_eq!(
            (
                sizes.frozen_linears,
                sizes.ranks.decoder,
                sizes.ranks.projector
            ),
            (28 * (layer - (3584 + 2 * 512) - 2 * 3584), 28 * 4 * 16, 0)
        );
    }
}
