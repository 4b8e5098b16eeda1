//! Parts of a model that a stage freezes for a time.

use crate::models::AudioLlm;
use crate::models::ctc_head::CtcHead;
use crate::nn::decoder_layer::DecoderLayer;
use crate::ops::weight::Weight;
use maqam_base::parts::Part;

impl AudioLlm {
    /// Freezes a part for now, or lets it train again as the plan says. A frozen part costs no
    /// gradient.
    pub fn set_trained(&mut self, part: Part, is_trained: bool) {
        if self.is_trained(part) == is_trained {
            return;
        }
        let parked = self.parked.remove(&part);
        let weights = self.weights_mut(part);
        match parked {
            Some(gradients) => {
                for (weight, gradient) in weights.into_iter().zip(gradients) {
                    weight.gradient = gradient;
                }
            }
            None => {
                let gradients = weights
                    .into_iter()
                    .map(|weight| weight.gradient.take())
                    .collect();
                self.parked.insert(part, gradients);
            }
        }
    }

    /// Whether a part is not frozen for now.
    pub fn is_trained(&self, part: Part) -> bool {
        !self.parked.contains_key(&part)
    }

    /// Every weight of a part, in a fixed order.
    fn weights_mut(&mut self, part: Part) -> Vec<&mut Weight> {
        match part {
            Part::AudioEncoder => self.audio.encoder.weights_mut(),
            Part::Projector => {
                let tokens = self.token_embeddings.iter_mut();
                let of_projector = self.audio.projector.weights_mut().into_iter();
                of_projector
                    .chain(tokens.map(|tokens| &mut tokens.weight))
                    .chain(self.ctc.iter_mut().flat_map(CtcHead::weights_mut))
                    .collect()
            }
            Part::Decoder => {
                let ends = [
                    &mut self.embeddings,
                    &mut self.final_norm.weight,
                    &mut self.head,
                ];
                self.decoder
                    .layers
                    .iter_mut()
                    .flat_map(DecoderLayer::weights_mut)
                    .chain(ends)
                    .collect()
            }
        }
    }
}
