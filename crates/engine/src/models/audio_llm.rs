//! The audio language model: audio encoder, projector, decoder. It computes losses of packed
//! batches and their gradients.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use candle_core::Device;
use candle_core::Tensor;

use crate::batch::Batch;
use crate::models::audio_embedder::AudioEmbedder;
use crate::models::audio_embedder::EmbedderSaved;
use crate::models::build;
use crate::models::config::Config;
use crate::models::ctc_head::CtcHead;
use crate::models::ctc_head::CtcLosses;
use crate::models::ctc_head::Transcript;
use crate::models::encoded::EncodedCache;
use crate::models::pass::Pass;
use crate::models::pass::Phase;
use crate::models::token_embeddings::TokenEmbeddings;
use crate::nn::decoder::Decoder;
use crate::nn::decoder_layer::DecoderLayer;
use crate::nn::decoder_layer::Packing;
use crate::nn::lora::Plan;
use crate::nn::parameters::Parameters;
use crate::nn::precision::Precision;
use crate::nn::rms_norm::RmsNorm;
use crate::nn::saving::wanted;
use crate::nn::weights::Weights;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::cross_entropy::Losses;
use crate::ops::cross_entropy::Targets;
use crate::ops::cross_entropy::linear_cross_entropy;
use crate::ops::cross_entropy::logits;
use crate::ops::device::to_host;
use crate::ops::layout::Layout;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::noise::Noise;
use crate::ops::rotary::Rotary;
use crate::ops::rows::gather;
use crate::ops::rows::overwrite;
use crate::ops::rows::scatter_add;
use crate::ops::weight::Weight;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::Part;

/// An audio language model of one of the families, with adapters where the plan puts them.
///
/// `x = embeddings[tokens]` with `W_p encoder(audio) + b_p` in the places of audio tokens, then
/// `logits = norm(decoder(x)) W_head^T`.
pub struct AudioLlm {
    /// Shape of the model.
    pub config: Config,
    /// Places of the adapters.
    pub plan: Plan,
    /// Everything that is trained.
    pub parameters: Parameters,
    /// Device that computes.
    pub device: Device,
    pub(crate) audio: AudioEmbedder,
    /// Embeddings of single tokens that are trained; they belong to the projector.
    pub(crate) token_embeddings: Option<TokenEmbeddings>,
    /// Head of an auxiliary CTC loss, which training alone has; it belongs to the projector.
    pub(crate) ctc: Option<CtcHead>,
    pub(crate) embeddings: Weight,
    pub(crate) decoder: Decoder,
    pub(crate) final_norm: RmsNorm,
    pub(crate) head: Weight,
    /// Gradients of the parts that are frozen for now, in the order of their weights.
    pub(crate) parked: BTreeMap<Part, Vec<Option<Tensor>>>,
}

/// Audio embeddings of a batch, `[audio tokens, hidden]`, computed before the batch is trained on.
/// They hold as long as encoder and projector are frozen.
pub struct AudioEmbeddings(Tensor);

/// Losses of a batch that was trained on.
pub struct BatchLosses {
    /// Cross-entropy of the targets.
    pub loss: CrossEntropy,
    /// CTC loss of each transcript, nats; infinite where its clip has too few audio tokens.
    pub ctc: Vec<f64>,
}

impl AudioLlm {
    /// A model with its weights on a device; adapters are zero until they are initialised or
    /// loaded. `trained` gives them gradients.
    pub fn new(
        config: Config,
        weights: &Weights,
        plan: Plan,
        trained: bool,
        device: &Device,
    ) -> Result<Self> {
        let build::Built {
            audio,
            token_embeddings,
            ctc,
            embeddings,
            decoder,
            final_norm,
            head,
            parameters,
        } = build::build(&config, weights, &plan, trained, device)?;
        Ok(Self {
            config,
            plan,
            parameters,
            device: device.clone(),
            audio,
            token_embeddings,
            ctc,
            embeddings,
            decoder,
            final_norm,
            head,
            parked: BTreeMap::new(),
        })
    }

    /// Caches the encoder's output for each clip below `root`, and encodes each clip alone, so that
    /// no output depends on the cache. Does nothing if the encoder is trained at some time, or
    /// computes on a GPU, where reading would take longer.
    ///
    /// # Errors
    /// Weights that cannot be read back.
    pub fn cache_encoded(&mut self, root: &Path, limit: u64) -> Result<()> {
        let names = self.config.names;
        let is_of_encoder = |name: &String| names.part_of(name) == Part::AudioEncoder;
        let is_trained = self.plan.full.contains(&Part::AudioEncoder)
            || self.plan.modules.keys().any(is_of_encoder);
        if self.device.is_cpu() && !is_trained {
            let encoder = self.encoder_fingerprint()?;
            let cache = EncodedCache::open(root, &encoder, limit);
            self.audio.cache = Some(Mutex::new(cache));
        }
        Ok(())
    }

    /// Computes in a precision from here on: [`Precision::Fp8`] rounds, the others are what the
    /// device does anyway.
    ///
    /// # Errors
    /// As [`AudioLlm::quantise`].
    pub fn compute_in(&mut self, precision: Precision) -> Result<()> {
        if precision == Precision::Fp8 {
            self.quantise()
        } else {
            Ok(())
        }
    }

    /// Rounds the frozen weights of the decoder's linear layers to fp8, and computes in it from
    /// here on.
    ///
    /// # Errors
    /// A device that does not compute in fp8; a decoder in full fine-tuning, which has nothing to
    /// round.
    pub fn quantise(&mut self) -> Result<()> {
        let frozen: Vec<&mut Linear> = self
            .decoder
            .linears_mut()
            .filter(|linear| linear.weight.gradient.is_none())
            .collect();
        if frozen.is_empty() {
            return Err(Error::input(
                "fp8 rounds frozen linear layers of the decoder, and all of them are trained here",
            ));
        }
        frozen.into_iter().try_for_each(Linear::quantise)?;
        self.parameters.copies = self.decoder.copies()?;
        Ok(())
    }

    /// The decoder's layers, in their order.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.decoder.layers
    }

    /// Loss of a batch, and its gradient added to the parameters'.
    ///
    /// The loss is the sum over targets of weight times negative log-likelihood: weights that sum
    /// to one over a whole optimiser step make it the step's loss, however the step is packed.
    ///
    /// On a GPU nothing is waited for. `ahead` is what [`AudioLlm::embed_audio_ahead`] gave for
    /// this batch and pass; it changes no bit.
    pub fn train(
        &self,
        batch: &Batch,
        ahead: Option<AudioEmbeddings>,
        pass: Pass,
    ) -> Result<CrossEntropy> {
        self.train_watched(batch, ahead, pass, &mut |_| Ok(()))
    }

    /// As [`AudioLlm::train`]; `done` is told of every phase once its work is queued, which on a
    /// GPU is before it is over.
    pub fn train_watched(
        &self,
        batch: &Batch,
        ahead: Option<AudioEmbeddings>,
        pass: Pass,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<CrossEntropy> {
        Ok(self.train_all(batch, ahead, pass, &[], done)?.loss)
    }

    /// As [`AudioLlm::train`], with the CTC losses of `transcripts` as well: the loss whose
    /// gradient is added is the cross-entropy plus the sum of their weights times their negative
    /// log-likelihoods.
    ///
    /// # Errors
    /// Transcripts without a CTC head, or of clips that the batch does not have; transcripts where
    /// the audio embeddings have no backward, because encoder and projector are frozen or `ahead` is
    /// given.
    pub fn train_with_ctc(
        &self,
        batch: &Batch,
        ahead: Option<AudioEmbeddings>,
        pass: Pass,
        transcripts: &[Transcript<'_>],
    ) -> Result<BatchLosses> {
        self.train_all(batch, ahead, pass, transcripts, &mut |_| Ok(()))
    }

    fn train_all(
        &self,
        batch: &Batch,
        ahead: Option<AudioEmbeddings>,
        pass: Pass,
        transcripts: &[Transcript<'_>],
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<BatchLosses> {
        let rotary = self.rotary(batch)?;
        let packing = packing(batch, &rotary, pass);

        // Forward.
        let (x, audio) = self.embed(batch, ahead, pass, true)?;
        if !transcripts.is_empty() && audio.is_none() {
            return Err(Error::bug(
                "a CTC loss whose gradient does not reach the projector",
            ));
        }
        let ctc = self.ctc_losses(&x, batch, transcripts)?;
        done(Phase::Encoder)?;
        let (x, saved) = self
            .decoder
            .forward(x, &packing, Some(&batch.target_rows))?;
        done(Phase::Forward)?;
        let (rows, inverse) = self.final_norm.forward(&x, Layout::DENSE)?;
        let targets = targets(batch, pass.label_smoothing);
        let mut loss = linear_cross_entropy(&rows, &self.head, targets, true)?;

        // Backward.
        if let Some(trained) = &self.token_embeddings {
            trained.head_backward(&rows, &self.head.value, targets, &loss)?;
        }
        let d_rows = wanted(loss.d_rows.take())?;
        let dx = self
            .final_norm
            .backward(&d_rows, &x, &inverse, None, &self.decoder)?;
        drop(x);
        done(Phase::Head)?;
        let trained_tokens = self.token_embeddings.as_ref();
        let want_input = self.is_audio_trained()
            || self.embeddings.gradient.is_some()
            || trained_tokens.is_some_and(TokenEmbeddings::is_trained);
        let dx = self.decoder.backward(dx, saved, &packing, want_input)?;
        done(Phase::Backward)?;
        let nats = |ctc: Option<CtcLosses>| ctc.map(|ctc| ctc.nats).unwrap_or_default();
        let Some(dx) = dx else {
            let ctc = nats(ctc);
            return Ok(BatchLosses { loss, ctc });
        };

        if let Some(gradient) = &self.embeddings.gradient {
            let (rows, tokens) = text_rows(batch);
            scatter_add(gradient, &tokens, &gather(&dx, &rows)?)?;
        }
        if let Some(trained) = trained_tokens {
            let (rows, tokens) = text_rows(batch);
            trained.backward(&rows, &tokens, &dx)?;
        }

        if let (Some(saved), Some(audio)) = (audio, &batch.audio) {
            let d_audio = gather(&dx, &batch.audio_rows)?;
            if let Some(ctc) = &ctc {
                scatter_add(&d_audio, &ctc.places, &ctc.d_embeddings)?;
            }
            self.audio.backward(&d_audio, &saved, audio, pass)?;
        }

        self.parameters.clear_gaps()?;
        done(Phase::EncoderBackward)?;
        let ctc = nats(ctc);
        Ok(BatchLosses { loss, ctc })
    }

    /// CTC losses of transcripts, if there are any, with `x` as the input of the decoder.
    fn ctc_losses(
        &self,
        x: &Tensor,
        batch: &Batch,
        transcripts: &[Transcript<'_>],
    ) -> Result<Option<CtcLosses>> {
        if transcripts.is_empty() {
            return Ok(None);
        }
        let Some(head) = &self.ctc else {
            return Err(Error::bug("transcripts for a model without a CTC head"));
        };
        Ok(Some(head.train(x, batch, transcripts)?))
    }

    /// Forward and backward of the decoder layers alone, from given hidden states and a given
    /// gradient: what a benchmark compares. Every row goes through every layer; the input's
    /// gradient is not computed.
    ///
    /// # Shapes
    /// `x`, `dy`: `[tokens, hidden]`
    pub fn train_layers(&self, batch: &Batch, x: &Tensor, dy: &Tensor, pass: Pass) -> Result<()> {
        let rotary = self.rotary(batch)?;
        let packing = packing(batch, &rotary, pass);
        let (y, saved) = self.decoder.forward(x.clone(), &packing, None)?;
        drop(y);
        self.decoder.backward(dy.clone(), saved, &packing, false)?;
        Ok(())
    }

    /// Loss of a batch and the log-probability of every target, without a gradient; waits for them.
    pub fn score(&self, batch: &Batch, label_smoothing: f64) -> Result<Losses> {
        let x = self.last_states(batch, Some(&batch.target_rows))?;
        let (rows, _) = self.final_norm.forward(&x, Layout::DENSE)?;
        let head = Weight::frozen(self.head.value.clone());
        let loss = linear_cross_entropy(&rows, &head, targets(batch, label_smoothing), false)?;
        Ok(loss.read()?)
    }

    /// Logits of every token of a batch, `[tokens, vocab]`.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        let x = self.last_states(batch, None)?;
        self.logits_of(&x)
    }

    /// Passes the logits of the targets of each sequence of a batch to `visit`, after the place of
    /// the sequence: `[targets, vocab]`, without dropout. Sequences without targets are passed
    /// over. Only the logits of one sequence exist at a time.
    pub fn each_target_logits(
        &self,
        batch: &Batch,
        visit: &mut dyn FnMut(usize, Vec<f32>),
    ) -> Result<()> {
        let x = self.last_states(batch, Some(&batch.target_rows))?;
        let (rows, _) = self.final_norm.forward(&x, Layout::DENSE)?;
        let mut start = 0;
        for of_sequence in batch.target_sequences.chunk_by(|a, b| a == b) {
            let rows = rows.narrow(0, start, of_sequence.len())?;
            let of_rows = to_host(&logits(&rows, &self.head)?)?;
            visit(of_sequence[0] as usize, of_rows);
            start += of_sequence.len();
        }
        Ok(())
    }

    /// Number of tokens that have a logit.
    pub fn vocabulary(&self) -> Result<usize> {
        Ok(self.head.value.dim(0)?)
    }

    /// Audio embeddings of the batch, `[audio tokens, hidden]`, clip after clip; on the CPU.
    pub fn embed_audio(&self, batch: &Batch) -> Result<Option<Tensor>> {
        let Some(audio) = &batch.audio else {
            return Ok(None);
        };
        let (embeddings, _) = self.audio.forward(audio, Pass::default(), false)?;
        on_host(&embeddings).map(Some)
    }

    /// Begins to embed the audio of a batch that is trained on later with the same `pass`. `None`
    /// if it has no clips, or if the encoder or the projector is trained and would give other
    /// embeddings by then.
    pub fn embed_audio_ahead(&self, batch: &Batch, pass: Pass) -> Result<Option<AudioEmbeddings>> {
        let Some(audio) = &batch.audio else {
            return Ok(None);
        };
        if self.is_audio_trained() || self.audio.cache.is_some() {
            return Ok(None);
        }
        let (embeddings, _) = self.audio.forward(audio, pass, true)?;
        Ok(Some(AudioEmbeddings(embeddings)))
    }

    /// Whether the encoder or the projector is not frozen for now.
    pub fn is_audio_trained(&self) -> bool {
        self.audio.is_trained()
    }

    /// Mean of the embeddings of some tokens, `[hidden]`; on the CPU.
    pub fn mean_text_embedding(&self, tokens: &[u32]) -> Result<Tensor> {
        Ok(on_host(&gather(&self.embeddings.value, tokens)?)?.mean(0)?)
    }

    pub(crate) fn logits_of(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, _) = self.final_norm.forward(x, Layout::DENSE)?;
        Ok(logits(&rows, &self.head)?)
    }

    /// The decoder's output before the final norm, without dropout.
    fn last_states(&self, batch: &Batch, keep: Option<&[u32]>) -> Result<Tensor> {
        let rotary = self.rotary(batch)?;
        let packing = packing(batch, &rotary, Pass::default());
        let (x, _) = self.embed(batch, None, Pass::default(), false)?;
        Ok(self.decoder.states(x, &packing, keep)?)
    }

    pub(crate) fn rotary(&self, batch: &Batch) -> Result<Rotary> {
        let text = &self.config.text;
        if let Some(position) = batch.positions.iter().max()
            && *position as usize >= text.max_position_embeddings
        {
            return Err(Error::input(format!(
                "a sequence of {} tokens is longer than the model's {}",
                position + 1,
                text.max_position_embeddings
            )));
        }
        Ok(Rotary::new(
            &batch.positions,
            text.head_dim,
            text.rope_theta,
            &self.embeddings.value,
        )?)
    }

    /// Embeddings of the tokens, with audio embeddings in the places of the audio tokens; and what
    /// the backward of those needs where encoder or projector is trained. In training they have the
    /// noise of the pass, which adds nothing to a gradient.
    pub(crate) fn embed(
        &self,
        batch: &Batch,
        ahead: Option<AudioEmbeddings>,
        pass: Pass,
        training: bool,
    ) -> Result<(Tensor, Option<EmbedderSaved>)> {
        let x = gather(&self.embeddings.value, &batch.tokens)?;
        let noise = Noise {
            alpha: pass.noise.alpha,
            tokens: &batch.token_keys,
            cu_seqlens: &batch.cu_seqlens,
        };
        let is_noisy = training && pass.noise.alpha > 0.0;
        // Audio embeddings that are to have none are written over it.
        if is_noisy && (batch.audio.is_none() || !pass.noise.on_audio) {
            noise.add_to(&x)?;
        }
        let (embeddings, saved) = match (ahead, &batch.audio) {
            (Some(AudioEmbeddings(embeddings)), _) => (embeddings, None),
            (None, None) => return Ok((x, None)),
            (None, Some(audio)) => {
                let (embeddings, saved) = match &self.audio.cache {
                    Some(cache) => self.audio.forward_cached(audio, pass, cache)?,
                    None => self.audio.forward(audio, pass, training)?,
                };
                (embeddings, self.is_audio_trained().then_some(saved))
            }
        };
        overwrite(&x, &batch.audio_rows, &embeddings)?;
        if is_noisy && pass.noise.on_audio {
            noise.add_to(&x)?;
        }
        Ok((x, saved))
    }
}

/// The packing of a batch under the settings of a pass.
pub(crate) fn packing<'a>(batch: &'a Batch, rotary: &'a Rotary, pass: Pass) -> Packing<'a> {
    Packing {
        cu_seqlens: &batch.cu_seqlens,
        rotary,
        dropout: AdapterDropout {
            probability: pass.dropout,
            tokens: &batch.token_keys,
        },
        save: pass.save,
    }
}

fn targets(batch: &Batch, label_smoothing: f64) -> Targets<'_> {
    Targets {
        ids: &batch.target_ids,
        weights: &batch.target_weights,
        label_smoothing,
    }
}

/// A tensor's values in `f32` on the CPU; one that lies there already is not copied.
pub fn on_host(tensor: &Tensor) -> Result<Tensor> {
    if tensor.device().is_cpu() {
        return Ok(tensor.clone());
    }
    Ok(Tensor::from_vec(
        to_host(tensor)?,
        tensor.shape(),
        &Device::Cpu,
    )?)
}

/// The rows of a batch whose input is the embedding of their token, not an audio embedding; and
/// those tokens.
fn text_rows(batch: &Batch) -> (Vec<u32>, Vec<u32>) {
    let mut is_audio = vec![false; batch.tokens.len()];
    for &row in &batch.audio_rows {
        is_audio[row as usize] = true;
    }
    (0..batch.tokens.len() as u32)
        .zip(&batch.tokens)
        .filter(|(row, _)| !is_audio[*row as usize])
        .unzip()
}
