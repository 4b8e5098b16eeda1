//! Names of a family's tensors, and the classes that load it elsewhere.

use crate::nn::naming::NameForm;
use maqam_base::parts::Part;

/// Names of one family, as the model uses them; files may write them in other forms.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// Name, as people say it.
    pub family: &'static str,
    /// Stem of the audio encoder's tensors.
    pub encoder: &'static str,
    /// The table of the encoder's positions, where it is stored.
    pub positions: Option<&'static str>,
    /// The norm after the encoder's last layer.
    pub encoder_norm: &'static str,
    /// The linear layer from the encoder to the decoder.
    pub projector: &'static str,
    /// The linear layer before that, with GELU between them.
    pub projector_hidden: Option<&'static str>,
    /// The norm before the projector's linear layers.
    pub projector_norm: Option<&'static str>,
    /// Stem of the decoder's tensors, the head apart.
    pub decoder: &'static str,
    /// Weight of the head.
    pub head: &'static str,
    /// Whether files hold a head that is the embedding table all the same: the class of
    /// transformers 5 ties nothing.
    pub stores_tied_head: bool,
    /// Ways in which checkpoints write these names; the first whose first beginning some tensor has
    /// is a checkpoint's.
    pub checkpoints: &'static [NameForm],
    /// Ways in which PEFT folders do; the first is the one that is written unless told.
    pub adapters: &'static [NameForm],
    /// Classes of transformers: the processor's and the model's.
    pub classes: (&'static str, &'static str),
    /// Another package that loads its checkpoints, and the class there.
    pub package: Option<(&'static str, &'static str)>,
}

impl Names {
    /// Path of an encoder layer.
    pub fn encoder_layer(&self, layer: usize) -> String {
        format!("{}.layers.{layer}", self.encoder)
    }

    /// Path of a decoder layer.
    pub fn decoder_layer(&self, layer: usize) -> String {
        format!("{}.layers.{layer}", self.decoder)
    }

    /// Path of the table of token embeddings.
    pub fn embeddings_module(&self) -> String {
        format!("{}.embed_tokens", self.decoder)
    }

    /// The table of token embeddings.
    pub fn embeddings(&self) -> String {
        format!("{}.weight", self.embeddings_module())
    }

    /// Weight of the norm after the decoder's last layer.
    pub fn final_norm(&self) -> String {
        format!("{}.norm.weight", self.decoder)
    }

    /// The part that a path or a tensor's name belongs to.
    pub fn part_of(&self, path: &str) -> Part {
        let begins = |stem: &str| {
            path.strip_prefix(stem)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let others = [self.projector_hidden, self.projector_norm];
        if begins(self.projector) || others.into_iter().flatten().any(begins) {
            Part::Projector
        } else if begins(self.encoder) {
            Part::AudioEncoder
        } else {
            Part::Decoder
        }
    }
}
