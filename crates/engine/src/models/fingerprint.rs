//! Hashes of the weights that embeddings depend on: a cache of embeddings is valid for one of them.

use crate::models::AudioLlm;
use crate::models::config::Config;
use crate::ops::device::to_host;
use crate::ops::linear::Linear;
use crate::ops::weight::Weight;
use maqam_base::error::Result;

/// Version that goes up whenever the same weights give other embeddings.
const FORMAT: u32 = 1;

/// BLAKE3.
pub type Fingerprint = [u8; 32];

impl AudioLlm {
    /// Hash of everything that [`AudioLlm::embed_audio`] computes with: the encoder's and
    /// projector's weights as they are now, their adapters and the shape of the encoder.
    pub fn audio_fingerprint(&mut self) -> Result<Fingerprint> {
        let mut hasher = self.hasher();
        hasher.update(format!("hearing {FORMAT} {:?}", self.config.audio).as_bytes());
        hash_speech(&mut hasher, &self.config);
        if self.config.names.positions.is_some()
            && let Some(positions) = self.audio.encoder.positions()
        {
            hash_weight(&mut hasher, &Weight::frozen(positions.clone()))?;
        }
        for linear in self.audio.linears_mut() {
            hash_scales(&mut hasher, linear);
        }
        for weight in self.audio.weights_mut() {
            hash_weight(&mut hasher, weight)?;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Hash of everything that the encoder alone computes with.
    pub fn encoder_fingerprint(&mut self) -> Result<Fingerprint> {
        let mut hasher = self.hasher();
        hasher.update(format!("encoder {FORMAT} {:?}", self.config.audio).as_bytes());
        hash_speech(&mut hasher, &self.config);
        if let Some(positions) = self.audio.encoder.positions() {
            hash_weight(&mut hasher, &Weight::frozen(positions.clone()))?;
        }
        for weight in self.audio.encoder.weights_mut() {
            hash_weight(&mut hasher, weight)?;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Hash of the token embeddings as they are now.
    pub fn text_fingerprint(&self) -> Result<Fingerprint> {
        let mut hasher = self.hasher();
        hasher.update(format!("reading {FORMAT}").as_bytes());
        hash_weight(&mut hasher, &self.embeddings)?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// Hash of everything that the loss of a row depends on beside the row. Adapters of the decoder
    /// whose B is zero change no loss and are left out, so that runs of other seeds share it.
    pub fn loss_fingerprint(&mut self) -> Result<Fingerprint> {
        let mut hasher = self.hasher();
        hasher.update(format!("loss {FORMAT} {:?}", self.config.text).as_bytes());
        hasher.update(&self.audio_fingerprint()?);
        hasher.update(&self.text_fingerprint()?);
        for linear in self.decoder.linears_mut() {
            hash_weight(&mut hasher, &linear.weight)?;
            if let Some(bias) = &linear.bias {
                hash_weight(&mut hasher, bias)?;
            }
            if let Some(adapter) = &linear.adapter {
                let mut ups = Vec::with_capacity(adapter.ups.len());
                for up in &adapter.ups {
                    ups.push(to_host(&up.weight.value)?);
                }
                if ups.iter().flatten().any(|value| *value != 0.0) {
                    hash_scales(&mut hasher, linear);
                    hash_weight(&mut hasher, &adapter.down)?;
                    for up in &adapter.ups {
                        hash_weight(&mut hasher, &up.weight)?;
                    }
                }
            }
        }
        for layer in &mut self.decoder.layers {
            for norm in layer.norms_mut() {
                hash_weight(&mut hasher, norm)?;
            }
        }
        hash_weight(&mut hasher, &self.final_norm.weight)?;
        hash_weight(&mut hasher, &self.head)?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// A hash of what is computed with: on a GPU the same weights give other embeddings in the last
    /// digits.
    fn hasher(&self) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        if !self.device.is_cpu() {
            hasher.update(format!("{:?} ", self.embeddings.value.dtype()).as_bytes());
        }
        hasher
    }
}

/// The shape of a speech encoder. It stands in no field of the tower's configuration, whose hash
/// stays as it was before there were any.
fn hash_speech(hasher: &mut blake3::Hasher, config: &Config) {
    if let Some(speech) = &config.speech {
        hasher.update(format!("speech {:?} {}", speech.encoder, speech.stack).as_bytes());
    }
}

fn hash_scales(hasher: &mut blake3::Hasher, linear: &Linear) {
    for up in linear.adapter.iter().flat_map(|adapter| &adapter.ups) {
        hasher.update(&up.scale.to_le_bytes());
    }
}

fn hash_weight(hasher: &mut blake3::Hasher, weight: &Weight) -> Result<()> {
    hasher.update(format!("{:?}", weight.value.dims()).as_bytes());
    let mut bytes = Vec::new();
    for values in to_host(&weight.value)?.chunks(1 << 16) {
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update(&bytes);
    }
    Ok(())
}
