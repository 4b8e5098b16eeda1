//! The audio language model: audio encoder, projector, decoder; what it computes for a packed batch, and its gradient.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use candle_core::Device;
use candle_core::Tensor;

use crate::batch::Audio;
use crate::batch::Batch;
use crate::batch::Reduction;
use crate::models::audio_encoder::AudioEncoder;
use crate::models::audio_encoder::EncoderSaved;
use crate::models::build;
use crate::models::config::Config;
use crate::models::encoded::EncodedCache;
use crate::models::projector::Projector;
use crate::models::projector::ProjectorSaved;
use crate::nn::decoder_layer::DecoderLayer;
use crate::nn::decoder_layer::Packing;
use crate::nn::encoder_layer::Windows;
use crate::nn::lora::Init;
use crate::nn::lora::Plan;
use crate::nn::parameters;
use crate::nn::parameters::Kind;
use crate::nn::parameters::Parameters;
use crate::nn::peft;
use crate::nn::precision::Precision;
use crate::nn::saving::Save;
use crate::nn::saving::wanted;
use crate::nn::weights::Weights;
use crate::ops::cpu::tensor;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::cross_entropy::Losses;
use crate::ops::cross_entropy::Targets;
use crate::ops::cross_entropy::linear_cross_entropy;
use crate::ops::cross_entropy::logits;
use crate::ops::device::to_host;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::linear::Weight;
use crate::ops::norm::rms_norm;
use crate::ops::norm::rms_norm_backward;
use crate::ops::rotary::Rotary;
use crate::ops::rows::gather;
use crate::ops::rows::overwrite;
use crate::ops::rows::scatter_add;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::Part;

/// An audio language model of one of the families, with adapters where the plan puts them.
pub struct AudioLlm {
    /// Its shape.
    pub config: Config,
    /// Where its adapters are.
    pub plan: Plan,
    /// Everything that is trained.
    pub parameters: Parameters,
    /// Where it computes.
    pub device: Device,
    pub(crate) encoder: AudioEncoder,
    pub(crate) projector: Projector,
    pub(crate) embeddings: Weight,
    pub(crate) layers: Vec<DecoderLayer>,
    pub(crate) final_norm: Weight,
    pub(crate) head: Weight,
    /// What the encoder made of clips before, where it stays as it is and outputs are kept.
    encoded: Option<Mutex<EncodedCache>>,
    /// Gradients of the parts that are frozen for now, in the order of their weights.
    parked: BTreeMap<Part, Vec<Option<Tensor>>>,
}

/// How one training pass is computed; nothing here changes a gradient but the dropout.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// What layers keep for their backward.
    pub save: Save,
    /// Dropout of the adapters' inputs.
    pub dropout: f64,
    /// Share of each target's probability that is spread over the vocabulary.
    pub label_smoothing: f64,
}

/// The parts of a training pass, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Features to embeddings.
    Encoder,
    /// The decoder's layers.
    Forward,
    /// Head, loss, and the gradient of the last states.
    Head,
    /// The decoder's layers, backwards.
    Backward,
    /// What is trained before the decoder, backwards.
    EncoderBackward,
}

/// What the projector makes of a batch's clips, `[audio tokens, hidden]`, asked for before the batch is trained on. It holds as long as
/// nothing that hears is trained.
pub struct HeardAhead(Tensor);

/// What projecting the audio keeps for its backward.
pub(crate) struct Heard {
    cu_positions: Vec<usize>,
    encoder: Option<EncoderSaved>,
    encoded: Tensor,
    projector: ProjectorSaved,
}

/// What to do about an adapter that does not fit.
const ADAPTER_HINT: &str =
    "an adapter fits the model it was trained on, which its adapter_config.json names";

impl AudioLlm {
    /// A model with its weights on a device; adapters are zero until they are initialised or loaded. `trained` gives them gradients.
    pub fn new(
        config: Config,
        weights: &Weights,
        plan: Plan,
        trained: bool,
        device: &Device,
    ) -> Result<Self> {
        let built = build::build(&config, weights, &plan, trained, device)?;
        let build::Built {
            encoder,
            projector,
            embeddings,
            layers,
            final_norm,
            head,
            parameters,
        } = built;
        let device = device.clone();
        Ok(Self {
            config,
            plan,
            parameters,
            device,
            encoder,
            projector,
            embeddings,
            layers,
            final_norm,
            head,
            encoded: None,
            parked: BTreeMap::new(),
        })
    }

    /// Keeps what the encoder makes of each clip below `root`, and has it encode each clip alone, so that nothing depends on what is kept.
    /// Nothing happens where the encoder is trained at some time, or computes on a GPU, where reading would take longer.
    ///
    /// # Errors
    /// Weights that cannot be read back.
    pub fn keep_encoded(&mut self, root: &Path, limit: u64) -> Result<()> {
        let names = self.config.names;
        let is_of_encoder = |name: &String| names.part_of(name) == Part::AudioEncoder;
        let is_trained = self.plan.full.contains(&Part::AudioEncoder)
            || self.plan.modules.keys().any(is_of_encoder);
        if self.device.is_cpu() && !is_trained {
            let encoder = self.encoder_fingerprint()?;
            self.encoded = Some(Mutex::new(EncodedCache::open(root, &encoder, limit)));
        }
        Ok(())
    }

    /// Has the model compute in a precision from here on: [`Precision::Fp8`] rounds, the others are what the device does anyway.
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

    /// Rounds the frozen weights of the decoder's linear layers to fp8, and has them compute in it from here on.
    ///
    /// # Errors
    /// A device that does not compute in fp8; a decoder that is trained whole, which has nothing to round.
    pub fn quantise(&mut self) -> Result<()> {
        let linears = self.layers.iter_mut().flat_map(|layer| {
            [
                &mut layer.qkv,
                &mut layer.output,
                &mut layer.gate_up,
                &mut layer.down,
            ]
        });
        let frozen: Vec<&mut Linear> = linears
            .filter(|linear| linear.weight.gradient.is_none())
            .collect();
        if frozen.is_empty() {
            return Err(Error::input(
                "fp8 rounds frozen linear layers of the decoder, and all of them are trained here",
            ));
        }
        frozen.into_iter().try_for_each(Linear::quantise)?;
        self.parameters.copies = build::copies(&self.layers)?;
        Ok(())
    }

    /// Starts fresh adapters; every tensor has its own stream of random numbers.
    pub fn initialise(&self, init: Init, seed: u64) -> Result<()> {
        for entry in self
            .parameters
            .entries
            .iter()
            .filter(|entry| entry.kind == Kind::Adapter)
        {
            let [rows, columns] = entry.shape[..] else {
                return Err(Error::bug(format!("`{}` is not a matrix", entry.name)));
            };
            let values = if entry.name.ends_with("lora_A.weight") {
                init.down(&entry.name, rows, columns, seed)
            } else {
                vec![0.0; rows * columns]
            };
            self.parameters.set(entry, &values)?;
        }
        Ok(())
    }

    /// Takes the values of a PEFT folder; its modules and ranks must be the plan's.
    pub fn load_adapter(&self, adapter: &peft::Adapter) -> Result<()> {
        for entry in self
            .parameters
            .entries
            .iter()
            .filter(|entry| entry.kind == Kind::Adapter)
        {
            let found = adapter.tensors.iter().find_map(|(module, (a, b))| {
                let is = |matrix| entry.name == peft::key(module, matrix);
                if is('A') {
                    Some(a)
                } else {
                    is('B').then_some(b)
                }
            });
            let tensor = found
                .ok_or_else(|| Error::input(format!("the adapter has no `{}`", entry.name)))?;
            self.parameters
                .set_tensor(entry, tensor)
                .map_err(|e| e.hint(ADAPTER_HINT))?;
        }
        Ok(())
    }

    /// The adapters' values by module path: `lora_A` and `lora_B`.
    pub fn adapter_tensors(&self) -> Result<BTreeMap<String, (Tensor, Tensor)>> {
        let value = |name: &str| {
            let entry = self
                .parameters
                .entries
                .iter()
                .find(|entry| entry.name == name)
                .ok_or_else(|| Error::bug(format!("no parameter `{name}`")))?;
            self.parameters.value(entry)
        };
        self.plan
            .modules
            .keys()
            .map(|module| {
                Ok((
                    module.clone(),
                    (
                        value(&peft::key(module, 'A'))?,
                        value(&peft::key(module, 'B'))?,
                    ),
                ))
            })
            .collect()
    }

    /// The values of the parts that are trained whole, by their names in the checkpoint.
    pub fn full_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let full = self
            .parameters
            .entries
            .iter()
            .filter(|entry| entry.kind != Kind::Adapter);
        full.map(|entry| Ok((entry.name.clone(), self.parameters.value(entry)?)))
            .collect()
    }

    /// Takes the values of the parts that are trained whole; `tensors` must hold all of them and nothing else.
    pub fn load_full(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let full: Vec<&parameters::Entry> = self
            .parameters
            .entries
            .iter()
            .filter(|entry| entry.kind != Kind::Adapter)
            .collect();
        if let Some(name) = tensors
            .keys()
            .find(|name| !full.iter().any(|entry| entry.name == **name))
        {
            return Err(Error::input(format!("`{name}` is not trained here"))
                .hint("`train` must set the same parts to `full` as the run that wrote it"));
        }
        for entry in full {
            let tensor = tensors
                .get(&entry.name)
                .ok_or_else(|| Error::input(format!("there is no `{}`", entry.name)))?;
            self.parameters.set_tensor(entry, tensor)?;
        }
        Ok(())
    }

    /// Freezes a part for now, or lets it train again as the plan says. A frozen part costs no gradient.
    pub fn set_trained(&mut self, part: Part, is_trained: bool) {
        if self.is_trained(part) == is_trained {
            return;
        }
        let parked = self.parked.remove(&part);
        let weights: Vec<&mut Weight> = match part {
            Part::AudioEncoder => self.encoder.weights_mut(),
            Part::Projector => self.projector.weights_mut(),
            Part::Decoder => {
                let ends = [&mut self.embeddings, &mut self.final_norm, &mut self.head];
                self.layers
                    .iter_mut()
                    .flat_map(DecoderLayer::weights_mut)
                    .chain(ends)
                    .collect()
            }
        };
        match parked {
            Some(gradients) => weights
                .into_iter()
                .zip(gradients)
                .for_each(|(weight, gradient)| weight.gradient = gradient),
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

    /// The decoder's layers, in their order.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// Loss of a batch, and its gradient added to the parameters'.
    ///
    /// The loss is the sum over targets of weight times negative log-likelihood: weights that sum to one over a whole
    /// optimiser step make it the step's loss, however the step is packed.
    ///
    /// On a card nothing is waited for. `heard` is what [`AudioLlm::hear_ahead`] gave for this batch and pass; it changes no bit.
    pub fn train(
        &self,
        batch: &Batch,
        heard: Option<HeardAhead>,
        pass: Pass,
    ) -> Result<CrossEntropy> {
        self.train_watched(batch, heard, pass, &mut |_| Ok(()))
    }

    /// As [`AudioLlm::train`]; `done` is told of every phase once its work is under way, which on a card is before it is over.
    pub fn train_watched(
        &self,
        batch: &Batch,
        heard: Option<HeardAhead>,
        pass: Pass,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<CrossEntropy> {
        let dropout = AdapterDropout {
            probability: pass.dropout,
            tokens: &batch.token_keys,
        };
        let rotary = self.rotary(batch)?;
        let packing = Packing {
            cu_seqlens: &batch.cu_seqlens,
            rotary: &rotary,
            dropout,
            save: pass.save,
        };

        // Forward.
        let (mut x, heard) = self.embed(batch, heard, pass, true)?;
        done(Phase::Encoder)?;
        let mut saved = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let is_last = i + 1 == self.layers.len();
            let (y, kept) = layer.forward(&x, &packing, is_last.then_some(&batch.target_rows))?;
            saved.push(kept);
            x = y;
        }
        done(Phase::Forward)?;
        let (rows, inverse) =
            rms_norm(&x, &self.final_norm.value, self.config.text.rms_norm_eps, 0)?;
        let targets = Targets {
            ids: &batch.target_ids,
            weights: &batch.target_weights,
            label_smoothing: pass.label_smoothing,
        };
        let mut found = linear_cross_entropy(&rows, &self.head, targets, true)?;

        // Backward.
        let d_rows = wanted(found.d_rows.take())?;
        let norm = &self.final_norm;
        let mut dx = rms_norm_backward(
            &d_rows,
            &x,
            &norm.value,
            &inverse,
            None,
            norm.gradient.as_ref(),
            self.room_below(self.layers.len()),
        )?;
        drop(x);
        done(Phase::Head)?;
        let input_is_trained = self.hearing_is_trained() || self.embeddings.gradient.is_some();
        let wants_input = |layer: usize| {
            input_is_trained || self.layers[..layer].iter().any(DecoderLayer::is_trained)
        };
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let Some(kept) = saved.pop() else { break };
            match layer.backward(
                &dx,
                &kept,
                &packing,
                wants_input(i).then(|| self.room_below(i)),
            )? {
                Some(d) => dx = d,
                None => {
                    done(Phase::Backward)?;
                    return Ok(found);
                }
            }
        }
        done(Phase::Backward)?;
        if let Some(gradient) = &self.embeddings.gradient {
            let (rows, tokens) = written_rows(batch);
            scatter_add(gradient, &tokens, &gather(&dx, &rows)?)?;
        }
        if let Some(heard) = heard {
            self.hear_backward(&gather(&dx, &batch.audio_rows)?, &heard, batch, pass)?;
        }
        self.parameters.clear_gaps()?;
        done(Phase::EncoderBackward)?;
        Ok(found)
    }

    /// Room that the last linear of what comes before a layer wants behind the rows of its output's gradient.
    fn room_below(&self, layer: usize) -> usize {
        layer
            .checked_sub(1)
            .map_or(0, |below| self.layers[below].down.room())
    }

    /// Forward and backward of the decoder layers alone, from given hidden states and a given gradient: what a benchmark
    /// compares. Every row goes through every layer; the input's gradient is not computed.
    ///
    /// # Shapes
    /// `x`, `dy`: `[tokens, hidden]`
    pub fn train_layers(&self, batch: &Batch, x: &Tensor, dy: &Tensor, pass: Pass) -> Result<()> {
        let rotary = self.rotary(batch)?;
        let dropout = AdapterDropout {
            probability: pass.dropout,
            tokens: &batch.token_keys,
        };
        let packing = Packing {
            cu_seqlens: &batch.cu_seqlens,
            rotary: &rotary,
            dropout,
            save: pass.save,
        };
        let (mut x, mut saved) = (x.clone(), Vec::new());
        for layer in &self.layers {
            let (y, kept) = layer.forward(&x, &packing, None)?;
            saved.push(kept);
            x = y;
        }
        drop(x);
        let mut dx = dy.clone();
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let Some(kept) = saved.pop() else { break };
            match layer.backward(&dx, &kept, &packing, (i > 0).then(|| self.room_below(i)))? {
                Some(d) => dx = d,
                None => break,
            }
        }
        Ok(())
    }

    /// Loss of a batch and the log-probability of every target, without a gradient; waits for them.
    pub fn score(&self, batch: &Batch, label_smoothing: f64) -> Result<Losses> {
        let x = self.last_hidden(batch, Some(&batch.target_rows))?;
        let (rows, _) = rms_norm(&x, &self.final_norm.value, self.config.text.rms_norm_eps, 0)?;
        let targets = Targets {
            ids: &batch.target_ids,
            weights: &batch.target_weights,
            label_smoothing,
        };
        Ok(linear_cross_entropy(
            &rows,
            &Weight::frozen(self.head.value.clone()),
            targets,
            false,
        )?
        .read()?)
    }

    /// Logits of every token of a batch, `[tokens, vocab]`.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        let x = self.last_hidden(batch, None)?;
        self.logits_of(&x)
    }

    /// What the projector makes of the batch's clips, `[audio tokens, hidden]`, clip after clip; on the CPU.
    pub fn hear(&self, batch: &Batch) -> Result<Option<Tensor>> {
        self.hear_with(batch, Pass::default(), false)?
            .map(|(projected, _)| on_host(&projected))
            .transpose()
    }

    /// Begins to hear a batch that is trained on later with the same `pass`; `None` where it has no clips, or where hearing is trained and
    /// what is heard would be another by then.
    pub fn hear_ahead(&self, batch: &Batch, pass: Pass) -> Result<Option<HeardAhead>> {
        if self.hearing_is_trained() || self.encoded.is_some() {
            return Ok(None);
        }
        Ok(self
            .hear_with(batch, pass, true)?
            .map(|(projected, _)| HeardAhead(projected)))
    }

    /// Whether the encoder or the projector is not frozen for now.
    pub fn hearing_is_trained(&self) -> bool {
        self.projector.is_trained() || self.encoder.is_trained()
    }

    /// Mean of the embeddings of some tokens, `[hidden]`; on the CPU.
    pub fn read_mean(&self, tokens: &[u32]) -> Result<Tensor> {
        Ok(on_host(&gather(&self.embeddings.value, tokens)?)?.mean(0)?)
    }

    pub(crate) fn logits_of(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, _) = rms_norm(x, &self.final_norm.value, self.config.text.rms_norm_eps, 0)?;
        Ok(logits(&rows, &self.head.value)?)
    }

    fn last_hidden(&self, batch: &Batch, keep: Option<&[u32]>) -> Result<Tensor> {
        let rotary = self.rotary(batch)?;
        let packing = self.packing_without_dropout(batch, &rotary);
        let (mut x, _) = self.embed(batch, None, Pass::default(), false)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let is_last = i + 1 == self.layers.len();
            x = layer.forward(&x, &packing, keep.filter(|_| is_last))?.0;
        }
        Ok(x)
    }

    pub(crate) fn packing_without_dropout<'a>(
        &self,
        batch: &'a Batch,
        rotary: &'a Rotary,
    ) -> Packing<'a> {
        let dropout = AdapterDropout {
            probability: 0.0,
            tokens: &batch.token_keys,
        };
        Packing {
            cu_seqlens: &batch.cu_seqlens,
            rotary,
            dropout,
            save: Save::Norms,
        }
    }

    pub(crate) fn rotary(&self, batch: &Batch) -> Result<Rotary> {
        if let Some(position) = batch.positions.iter().max()
            && *position as usize >= self.config.text.max_position_embeddings
        {
            return Err(Error::input(format!(
                "a sequence of {} tokens is longer than the model's {}",
                position + 1,
                self.config.text.max_position_embeddings
            )));
        }
        Ok(Rotary::new(
            &batch.positions,
            self.config.text.head_dim,
            self.config.text.rope_theta,
            &self.embeddings.value,
        )?)
    }

    /// Embeddings of the tokens, with what was heard in the places of the audio tokens; and what hearing keeps where it is trained.
    pub(crate) fn embed(
        &self,
        batch: &Batch,
        ahead: Option<HeardAhead>,
        pass: Pass,
        training: bool,
    ) -> Result<(Tensor, Option<Heard>)> {
        let embedded = gather(&self.embeddings.value, &batch.tokens)?;
        let (projected, saved) = match ahead {
            Some(HeardAhead(projected)) => (Some(projected), None),
            None => match &self.encoded {
                Some(kept) => self.hear_each(batch, pass, kept)?.unzip(),
                None => self.hear_with(batch, pass, training)?.unzip(),
            },
        };
        if let Some(projected) = projected {
            overwrite(&embedded, &batch.audio_rows, &projected)?;
        }
        Ok((embedded, saved.filter(|_| self.hearing_is_trained())))
    }

    fn hear_with(
        &self,
        batch: &Batch,
        pass: Pass,
        training: bool,
    ) -> Result<Option<(Tensor, Heard)>> {
        let Some(audio) = &batch.audio else {
            return Ok(None);
        };
        let dropout = AdapterDropout {
            probability: pass.dropout,
            tokens: &audio.position_keys,
        };
        let cu_positions = audio.cu_positions();
        let windows = Windows {
            cu_positions: &cu_positions,
            dropout,
            save: pass.save,
        };
        let (encoded, encoder) = self.encoder.forward(audio, &windows, training)?;
        self.project(audio, pass, encoded, cu_positions, encoder)
            .map(Some)
    }

    /// As [`AudioLlm::hear_with`], where the encoder is frozen: each clip is encoded alone, unless what it gave is kept.
    fn hear_each(
        &self,
        batch: &Batch,
        pass: Pass,
        kept: &Mutex<EncodedCache>,
    ) -> Result<Option<(Tensor, Heard)>> {
        let Some(audio) = &batch.audio else {
            return Ok(None);
        };
        let clips = audio.clips();
        let encoded = clips
            .iter()
            .map(|clip| self.encode_alone(clip, kept))
            .collect::<Result<Vec<_>>>()?;
        let encoded = Tensor::cat(&encoded, 0)?;
        self.project(audio, pass, encoded, Vec::new(), None)
            .map(Some)
    }

    fn encode_alone(&self, clip: &Audio, kept: &Mutex<EncodedCache>) -> Result<Tensor> {
        let rows = clip.num_tokens();
        let dim = self.config.audio.d_model;
        let cache = || kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = cache().get(clip, rows, dim) {
            return Ok(tensor(values, (rows, dim))?);
        }
        let cu_positions = clip.cu_positions();
        let windows = Windows {
            cu_positions: &cu_positions,
            dropout: AdapterDropout {
                probability: 0.0,
                tokens: &[],
            },
            save: Save::Norms,
        };
        let (encoded, _) = self.encoder.forward(clip, &windows, false)?;
        cache().put(clip, &encoded)?;
        Ok(encoded)
    }

    /// What the projector makes of the encoder's output, and what its backward needs.
    fn project(
        &self,
        audio: &Audio,
        pass: Pass,
        encoded: Tensor,
        cu_positions: Vec<usize>,
        encoder: Option<EncoderSaved>,
    ) -> Result<(Tensor, Heard)> {
        let keys = token_keys(audio, pass.dropout);
        let dropout = AdapterDropout {
            probability: pass.dropout,
            tokens: &keys,
        };
        let (projected, projector) = self.projector.forward(&encoded, dropout)?;
        let heard = Heard {
            cu_positions,
            encoder,
            encoded,
            projector,
        };
        Ok((projected, heard))
    }

    fn hear_backward(
        &self,
        d_projected: &Tensor,
        heard: &Heard,
        batch: &Batch,
        pass: Pass,
    ) -> Result<()> {
        let Some(audio) = &batch.audio else {
            return Ok(());
        };
        let keys = token_keys(audio, pass.dropout);
        let dropout = AdapterDropout {
            probability: pass.dropout,
            tokens: &keys,
        };
        let d_encoded = self.projector.backward(
            d_projected,
            &heard.encoded,
            &heard.projector,
            dropout,
            heard.encoder.is_some(),
        )?;
        if let (Some(saved), Some(d_encoded)) = (&heard.encoder, d_encoded) {
            let dropout = AdapterDropout {
                probability: pass.dropout,
                tokens: &audio.position_keys,
            };
            self.encoder.backward(
                &d_encoded,
                saved,
                audio,
                &Windows {
                    cu_positions: &heard.cu_positions,
                    dropout,
                    save: pass.save,
                },
            )?;
        }
        Ok(())
    }

    /// Names of trained tensors (of parts that are not frozen for now) whose gradient is zero everywhere, after a backward.
    pub fn unreached(&self) -> Result<Vec<String>> {
        let gradients = to_host(&self.parameters.gradients)?;
        let is_zero =
            |entry: &&parameters::Entry| gradients[entry.range.clone()].iter().all(|&g| g == 0.0);
        Ok(self
            .parameters
            .entries
            .iter()
            .filter(|entry| self.is_trained(entry.part))
            .filter(is_zero)
            .map(|entry| entry.name.clone())
            .collect())
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

/// The rows of a batch whose input is the embedding of their token, not something heard; and those tokens.
fn written_rows(batch: &Batch) -> (Vec<u32>, Vec<u32>) {
    let mut is_heard = vec![false; batch.tokens.len()];
    batch
        .audio_rows
        .iter()
        .for_each(|&row| is_heard[row as usize] = true);
    (0..batch.tokens.len() as u32)
        .zip(&batch.tokens)
        .filter(|(row, _)| !is_heard[*row as usize])
        .unzip()
}

/// One stream for each audio token: that of its position, or of the first of the two positions it was pooled from.
fn token_keys(audio: &Audio, dropout: f64) -> Vec<maqam_base::seed::Key> {
    if dropout == 0.0 {
        return Vec::new();
    }
    if let Reduction::Eighth { .. } = audio.framing.reduction {
        return audio.position_keys.clone();
    }
    let mut start = 0;
    let mut keys = Vec::new();
    for &positions in &audio.clip_positions {
        keys.extend((0..positions / 2).map(|pair| audio.position_keys[start + 2 * pair]));
        start += positions;
    }
    keys
}
