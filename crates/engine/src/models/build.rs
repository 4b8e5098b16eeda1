//! From a configuration, weights and a plan of adapters to the layers of a model.

use std::collections::HashMap;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;

use crate::models::audio_embedder::AudioEmbedder;
use crate::models::audio_encoder::AudioEncoder;
use crate::models::audio_encoder::sinusoids;
use crate::models::clip_encoder::ClipEncoder;
use crate::models::config::Config;
use crate::models::ctc_head;
use crate::models::ctc_head::CtcHead;
use crate::models::front::Cells;
use crate::models::front::Frames;
use crate::models::front::Front;
use crate::models::groups::Groups;
use crate::models::hubert::build_part;
use crate::models::hubert::declare_others;
use crate::models::projector::Projector;
use crate::models::speech_encoder::SpeechEncoder;
use crate::models::token_embeddings::TokenEmbeddings;
use crate::nn::decoder::Decoder;
use crate::nn::decoder_layer::DecoderLayer;
use crate::nn::encoder_layer::EncoderLayer;
use crate::nn::gelu_mlp::GeluMlp;
use crate::nn::head_norms::HeadNorms;
use crate::nn::lora::Plan;
use crate::nn::parameters::Declared;
use crate::nn::parameters::Parameters;
use crate::nn::parameters::TableRows;
use crate::nn::parameters::TensorKind;
use crate::nn::peft::token_rows_key;
use crate::nn::rms_norm::RmsNorm;
use crate::nn::self_attention::SelfAttention;
use crate::nn::stack::Builder;
use crate::nn::stack::FullWeights;
use crate::nn::stack::Group;
use crate::nn::stack::declare_adapters;
use crate::nn::weights::Weights;
use crate::ops::convolution::KERNEL;
use crate::ops::device::compute_type;
use crate::ops::rows::gather;
use crate::ops::weight::Weight;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::Part;

/// The parts of a model, built.
pub struct Built {
    pub audio: AudioEmbedder,
    pub token_embeddings: Option<TokenEmbeddings>,
    pub ctc: Option<CtcHead>,
    pub embeddings: Weight,
    pub decoder: Decoder,
    pub final_norm: RmsNorm,
    pub head: Weight,
    pub parameters: Parameters,
}

/// Loads every weight the model needs for audio and text, and puts adapters where the plan wants
/// them.
pub fn build(
    config: &Config,
    weights: &Weights,
    plan: &Plan,
    trained: bool,
    device: &Device,
) -> Result<Built> {
    let names = config.names;

    if !device.is_cpu() {
        config.refuse_gpu()?;
    }

    if trained && !plan.tokens.is_empty() && !device.is_cpu() {
        return Err(token_rows_on_gpu());
    }

    if trained && !plan.ctc.is_empty() && !device.is_cpu() {
        return Err(ctc_on_gpu());
    }

    let groups = Groups::of(config);
    let mut declared = Declared::default();
    let places = declare_adapters(groups.all(), plan, &mut declared);
    let has_head = !config.text.tie_word_embeddings && weights.has(names.head);

    let full = if trained {
        full_weights(config, &groups, &plan.full, has_head, &mut declared).places
    } else {
        HashMap::new()
    };

    let rows = declared.len();
    let has_rows = trained && !plan.tokens.is_empty();
    if has_rows {
        let shape = [plan.tokens.len(), config.text.hidden_size];
        let name = token_rows_key(&names.embeddings_module(), false);
        declared.declare(name, &shape, Part::Projector, TensorKind::Rows);
    }

    let head_of_ctc = declared.len();
    let has_ctc = trained && !plan.ctc.is_empty();
    if has_ctc {
        let units = plan.ctc.len() + 1;
        let shapes = [vec![units, config.text.hidden_size], vec![units]];
        for (name, shape) in ctc_head::NAMES.into_iter().zip(shapes) {
            let kind = TensorKind::Auxiliary;
            declared.declare(name.to_owned(), &shape, Part::Projector, kind);
        }
    }

    let mut parameters = declared.allocate(device)?;
    for entry in parameters
        .entries
        .iter()
        .filter(|entry| matches!(entry.kind, TensorKind::Full | TensorKind::Convolution))
    {
        parameters.set_tensor(entry, &weights.get(&entry.name, &entry.shape, DType::F32)?)?;
    }

    let builder = Builder {
        weights,
        plan,
        parameters: &parameters,
        places,
        full,
        trained,
        device,
    };

    let audio = AudioEmbedder {
        encoder: match &config.speech {
            Some(speech) => {
                let hubert = build_part(&speech.encoder, &builder, names.encoder, &groups.encoder)?;
                let stack = speech.stack;
                ClipEncoder::Speech(Box::new(SpeechEncoder { hubert, stack }))
            }
            None => ClipEncoder::Tower(Box::new(encoder(config, &builder, &groups)?)),
        },
        projector: projector(config, &builder, &groups)?,
        cache: None,
    };

    let table = [config.text.vocab_size, config.text.hidden_size];
    let embeddings = builder.weight(&names.embeddings(), &table)?;
    let layers = groups
        .decoder
        .iter()
        .enumerate()
        .map(|(i, groups)| decoder_layer(config, &builder, i, groups))
        .collect::<Result<Vec<_>>>()?;
    let decoder = Decoder { layers };

    let final_norm = RmsNorm {
        weight: builder.weight(&names.final_norm(), &[config.text.hidden_size])?,
        eps: config.text.rms_norm_eps,
    };

    // A tied head shares the embeddings' gradient too: both add to it.
    let head = if has_head {
        builder.weight(names.head, &table)?
    } else {
        embeddings.clone()
    };

    parameters.copies = decoder.copies()?;

    let mut token_embeddings = None;
    if has_rows {
        let weight = parameters.weight(rows)?;
        let start = gather(&embeddings.value, &plan.tokens)?;
        parameters.set_tensor(&parameters.entries[rows], &start)?;
        parameters.rows = Some(TableRows {
            values: weight.value.clone(),
            ids: plan.tokens.clone(),
            table: embeddings.value.clone(),
        });
        token_embeddings = Some(TokenEmbeddings {
            weight,
            ids: plan.tokens.clone(),
            is_head_tied: !has_head,
        });
    }

    let mut ctc = None;
    if has_ctc {
        let weight = parameters.weight(head_of_ctc)?;
        let bias = parameters.weight(head_of_ctc + 1)?;
        ctc = Some(CtcHead::new(weight, bias, config.text.rms_norm_eps)?);
    }

    Ok(Built {
        audio,
        token_embeddings,
        ctc,
        embeddings,
        decoder,
        final_norm,
        head,
        parameters,
    })
}

/// The refusal to train embeddings of single tokens on a GPU.
pub fn token_rows_on_gpu() -> Error {
    Error::input(
        "`train.audio_tokens: full` has no kernels for the GPU: embeddings of single tokens are trained on the CPU alone",
    )
    .hint("leave `audio_tokens` out, or compute on the CPU with `--device cpu`")
}

/// The refusal to train with an auxiliary CTC loss on a GPU.
pub fn ctc_on_gpu() -> Error {
    Error::input("`loss.ctc` has no kernels for the GPU: it is computed on the CPU alone")
        .hint("leave `ctc` out, or compute on the CPU with `--device cpu`")
}

fn encoder(config: &Config, builder: &Builder, groups: &Groups) -> Result<AudioEncoder> {
    let names = config.names;
    let audio = &config.audio;
    let device = builder.device;
    let d = audio.d_model;
    let layers = groups
        .encoder
        .iter()
        .enumerate()
        .map(|(i, [qkv, output, fc1, fc2])| {
            let [attention_norm, mlp_norm] =
                ENCODER_NORMS.map(|norm| format!("{}.{norm}", names.encoder_layer(i)));
            Ok(EncoderLayer {
                attention_norm: builder.layer_norm(&attention_norm, d)?,
                attention: SelfAttention {
                    qkv: builder.linear(qkv)?,
                    output: builder.linear(output)?,
                    heads: audio.heads(),
                },
                mlp_norm: builder.layer_norm(&mlp_norm, d)?,
                mlp: GeluMlp {
                    fc1: builder.linear(fc1)?,
                    fc2: builder.linear(fc2)?,
                },
            })
        })
        .collect::<Result<Vec<_>>>()?;

    Ok(AudioEncoder {
        front: front(config, builder, groups)?,
        positions: positions(config, builder.weights)?
            .to_dtype(compute_type(device))?
            .to_device(device)?,
        layers,
        final_norm: builder.layer_norm(names.encoder_norm, d)?,
    })
}

fn front(config: &Config, builder: &Builder, groups: &Groups) -> Result<Front> {
    let audio = &config.audio;
    let name = |name: &str| format!("{}.{name}", config.names.encoder);
    let (Some(chunks), Some(output)) = (audio.chunks, &groups.front) else {
        let d = audio.d_model;
        return Ok(Front::Frames(Frames {
            conv1: builder.convolution(&name("conv1"), audio.num_mel_bins, d)?,
            conv2: builder.convolution(&name("conv2"), d, d)?,
        }));
    };
    let channels = chunks.downsample_hidden_size;
    Ok(Front::Cells(Cells {
        convolutions: [
            builder.convolution2d(&name("conv2d1"), 1, channels)?,
            builder.convolution2d(&name("conv2d2"), channels, channels)?,
            builder.convolution2d(&name("conv2d3"), channels, channels)?,
        ],
        output: builder.linear(output)?,
    }))
}

fn projector(config: &Config, builder: &Builder, groups: &Groups) -> Result<Projector> {
    let Some((output, before)) = groups.projector.split_last() else {
        return Err(Error::bug("a projector without layers"));
    };
    let hidden = before.first().map(|group| builder.linear(group));
    let norm = config.names.projector_norm;
    Ok(Projector {
        norm: norm
            .map(|name| builder.layer_norm(name, config.projector_inputs()))
            .transpose()?,
        hidden: hidden.transpose()?,
        output: builder.linear(output)?,
    })
}

/// Name and inputs of each convolution, and its outputs.
fn convolutions(config: &Config) -> (Vec<(&'static str, Vec<usize>)>, usize) {
    let d = config.audio.d_model;
    let mels = config.audio.num_mel_bins;
    match config.audio.chunks {
        None => {
            let found = vec![
                ("conv1", vec![d, mels, KERNEL]),
                ("conv2", vec![d, d, KERNEL]),
            ];
            (found, d)
        }
        Some(chunks) => {
            let channels = chunks.downsample_hidden_size;
            let shape = |inputs: usize| vec![channels, inputs, KERNEL, KERNEL];
            let found = vec![
                ("conv2d1", shape(1)),
                ("conv2d2", shape(channels)),
                ("conv2d3", shape(channels)),
            ];
            (found, channels)
        }
    }
}

/// The vectors of the encoder's positions: those of the checkpoint where the family stores them,
/// else sinusoids.
fn positions(config: &Config, weights: &Weights) -> Result<Tensor> {
    let shape = [config.audio.window_positions(), config.audio.d_model];
    match config.names.positions {
        Some(name) if !weights.is_random() => weights.get(name, &shape, DType::F32),
        _ => Ok(sinusoids(shape[0], shape[1])?),
    }
}

fn decoder_layer(
    config: &Config,
    builder: &Builder,
    layer: usize,
    [qkv, output, gate_up, down]: &[Group; 4],
) -> Result<DecoderLayer> {
    let text = &config.text;
    let stem = config.names.decoder_layer(layer);
    let [attention_norm, mlp_norm] = DECODER_NORMS.map(|norm| format!("{stem}.{norm}"));
    let dim = text.hidden_size;
    let eps = text.rms_norm_eps;
    Ok(DecoderLayer {
        attention_norm: builder.rms_norm(&attention_norm, dim, eps)?,
        qkv: builder.joined(qkv)?,
        head_norms: text
            .qk_norm
            .then(|| head_norms(config, builder, &stem))
            .transpose()?,
        output: builder.joined(output)?,
        mlp_norm: builder.rms_norm(&mlp_norm, dim, eps)?,
        gate_up: builder.joined(gate_up)?,
        down: builder.joined(down)?,
        heads: text.heads(),
    })
}

/// Norms of the queries and keys of the decoder layer at `stem`.
fn head_norms(config: &Config, builder: &Builder, stem: &str) -> Result<HeadNorms> {
    let text = &config.text;
    let norm =
        |name: &str| builder.rms_norm(&format!("{stem}.{name}"), text.head_dim, text.rms_norm_eps);
    let [query, key] = HEAD_NORMS;
    Ok(HeadNorms {
        query: norm(query)?,
        key: norm(key)?,
    })
}

const ENCODER_NORMS: [&str; 2] = ["self_attn_layer_norm", "final_layer_norm"];
const HEAD_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];
const DECODER_NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

/// Declares the weights of the parts in full fine-tuning, in the order of the computation.
fn full_weights(
    config: &Config,
    groups: &Groups,
    parts: &[Part],
    has_head: bool,
    declared: &mut Declared,
) -> FullWeights {
    let names = config.names;
    let audio = &config.audio;
    let text = &config.text;
    let mut full = FullWeights::default();

    if parts.contains(&Part::AudioEncoder) {
        let of_encoder = groups.front.iter().chain(groups.encoder.iter().flatten());
        of_encoder.for_each(|group| full.add_group(declared, group));
    }

    if parts.contains(&Part::Projector) {
        let of_projector = groups.projector.iter();
        of_projector.for_each(|group| full.add_group(declared, group));
        if let Some(norm) = names.projector_norm {
            let shape = [config.projector_inputs()];
            for name in [format!("{norm}.weight"), format!("{norm}.bias")] {
                full.add(declared, name, &shape, Part::Projector, TensorKind::Full);
            }
        }
    }

    if parts.contains(&Part::Decoder) {
        let of_layers = groups.decoder.iter().flatten();
        of_layers.for_each(|group| full.add_group(declared, group));
    }

    if let Some(speech) = &config.speech
        && parts.contains(&Part::AudioEncoder)
    {
        declare_others(&speech.encoder, names.encoder, &mut full, declared);
    } else if parts.contains(&Part::AudioEncoder) {
        let part = Part::AudioEncoder;
        let d = audio.d_model;
        let (convolutions, outputs) = convolutions(config);
        for (convolution, shape) in convolutions {
            let stem = format!("{}.{convolution}", names.encoder);
            let weight = format!("{stem}.weight");
            full.add(declared, weight, &shape, part, TensorKind::Convolution);
            let bias = format!("{stem}.bias");
            full.add(declared, bias, &[outputs], part, TensorKind::Full);
        }
        let norms = (0..audio.encoder_layers)
            .flat_map(|i| ENCODER_NORMS.map(|norm| format!("{}.{norm}", names.encoder_layer(i))));
        for norm in norms.chain([names.encoder_norm.to_owned()]) {
            for half in ["weight", "bias"] {
                full.add(
                    declared,
                    format!("{norm}.{half}"),
                    &[d],
                    part,
                    TensorKind::Full,
                );
            }
        }
    }

    if parts.contains(&Part::Decoder) {
        let part = Part::Decoder;
        let dim = text.hidden_size;
        let norms = (0..text.num_hidden_layers).flat_map(|i| {
            DECODER_NORMS.map(|norm| format!("{}.{norm}.weight", names.decoder_layer(i)))
        });
        for norm in norms.chain([names.final_norm()]) {
            full.add(declared, norm, &[dim], part, TensorKind::Full);
        }
        for layer in (0..text.num_hidden_layers).filter(|_| text.qk_norm) {
            for norm in HEAD_NORMS {
                let name = format!("{}.{norm}.weight", names.decoder_layer(layer));
                full.add(declared, name, &[text.head_dim], part, TensorKind::Full);
            }
        }
        let head = has_head.then(|| names.head.to_owned());
        for name in [names.embeddings()].into_iter().chain(head) {
            full.add(
                declared,
                name,
                &[text.vocab_size, dim],
                part,
                TensorKind::Full,
            );
        }
    }

    full
}

/// Name and shape of every weight that full fine-tuning can train.
pub fn weight_shapes(config: &Config) -> HashMap<String, Vec<usize>> {
    let mut declared = Declared::default();
    full_weights(
        config,
        &Groups::of(config),
        &Part::ALL,
        !config.text.tie_word_embeddings,
        &mut declared,
    );
    declared
        .into_entries()
        .into_iter()
        .map(|entry| (entry.name, entry.shape))
        .collect()
}
