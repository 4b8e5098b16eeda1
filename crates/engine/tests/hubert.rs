//! Encoders of the HuBERT family against transformers and PyTorch; `tests/reference/hubert.py` made
//! the numbers.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use maqam_base::seed::Key;
use maqam_engine::models::hubert::Class;
use maqam_engine::models::hubert::Clip;
use maqam_engine::models::hubert::Head;
use maqam_engine::models::hubert::Hubert;
use maqam_engine::models::hubert::Pass;
use maqam_engine::models::hubert::Scope;
use maqam_engine::models::hubert::Source;
use maqam_engine::models::hubert::config::Config;
use maqam_engine::models::hubert::save;
use maqam_engine::nn::windows::HiddenDropout;
use maqam_engine::objective::ctc;
use maqam_engine::objective::masked_prediction;
use maqam_engine::ops::adamw::AdamW;
use maqam_engine::ops::adamw::Buffers;
use maqam_engine::ops::adamw::Clip as ClipNorm;
use maqam_engine::ops::adamw::Segment;
use maqam_engine::ops::adamw::norm;
use maqam_engine::ops::scalar::Scalar;
use serde_json::Value;

const SHAPES: [&str; 4] = ["base", "large", "wav2vec2", "odd"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/hubert")
        .join(name)
}

struct Golden {
    tensors: HashMap<String, Tensor>,
    facts: Value,
}

impl Golden {
    fn of(name: &str) -> Self {
        let path = folder(name).join("expected.safetensors");
        let text = std::fs::read_to_string(folder(name).join("expected.json")).unwrap();
        Self {
            tensors: candle_core::safetensors::load(path, &Device::Cpu).unwrap(),
            facts: serde_json::from_str(&text).unwrap(),
        }
    }

    fn flat(&self, name: &str) -> Vec<f32> {
        flat(&self.tensors[name])
    }

    fn clips(&self) -> [Vec<f32>; 2] {
        [self.flat("clip.0"), self.flat("clip.1")]
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn hidden_states_equal_those_of_transformers() {
    for name in ["base", "large", "wav2vec2", "odd", "ctc"] {
        let golden = Golden::of(name);
        let model = Hubert::open(&folder(name)).unwrap();
        let clips = golden.clips();
        let packed = [Clip::new(&clips[0]), Clip::new(&clips[1])];
        let encoded = model
            .encode(&packed, model.config.num_hidden_layers)
            .unwrap();
        for (i, rows) in encoded.clips().enumerate() {
            for (layer, hidden) in encoded.hidden.iter().enumerate() {
                let found = flat(&hidden.narrow(0, rows.start, rows.len()).unwrap());
                let expected = golden.flat(&format!("hidden.{i}.{layer}"));
                // Both compute in f32; 1e-4 is a tenth of the contract's bar.
                let off = largest_difference(&found, &expected);
                assert!(
                    off < 1e-4,
                    "{name}: clip {i}, layer {layer} is off by {off}"
                );
            }
        }
        // Alone or with others, whole or only as far as a layer: products of other sizes round
        // differently, nothing else.
        let alone = model.encode(&packed[1..], 1).unwrap();
        let rows = encoded.clips().nth(1).unwrap();
        let batched = encoded.hidden[1].narrow(0, rows.start, rows.len()).unwrap();
        let off = largest_difference(&flat(&alone.hidden[1]), &flat(&batched));
        assert!(off < 1e-5, "{name}: off by {off}");
    }
}

#[test]
fn padding_reaches_the_group_norm_alone() {
    for name in SHAPES {
        let golden = Golden::of(name);
        let model = Hubert::open(&folder(name)).unwrap();
        let [long, short] = golden.clips();
        let mut padded = short.clone();
        padded.resize(long.len(), 0.0);
        let clip = Clip {
            samples: &padded,
            valid: short.len(),
        };
        let layers = model.config.num_hidden_layers;
        let found = model.encode(&[Clip::new(&long), clip], layers).unwrap();
        let rows = found.clips().nth(1).unwrap();
        let found = flat(
            &found.hidden[layers]
                .narrow(0, rows.start, rows.len())
                .unwrap(),
        );
        let expected = golden.tensors["padded.last"].get(1).unwrap();
        let expected = flat(&expected.narrow(0, 0, rows.len()).unwrap());
        let off = largest_difference(&found, &expected);
        assert!(off < 1e-4, "{name}: off by {off}");
        let alone = golden.flat(&format!("hidden.1.{layers}"));
        let differs = largest_difference(&found, &alone) > 1e-3;
        assert_eq!(
            differs,
            name != "large",
            "{name}: padding changes a clip with group norm"
        );
    }
}

#[test]
fn both_forms_of_weight_norm_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "preprocessor_config.json"] {
        std::fs::copy(folder("base").join(name), dir.path().join(name)).unwrap();
    }
    let tensors =
        candle_core::safetensors::load(folder("base").join("model.safetensors"), &Device::Cpu)
            .unwrap();
    let old = |name: &str| {
        let name = name.replace("parametrizations.weight.original0", "weight_g");
        format!(
            "hubert.{}",
            name.replace("parametrizations.weight.original1", "weight_v")
        )
    };
    let renamed: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, t)| (old(name), t.clone()))
        .collect();
    assert!(renamed.keys().any(|name| name.ends_with("weight_v")));
    candle_core::safetensors::save(&renamed, dir.path().join("model.safetensors")).unwrap();
    let today = Hubert::open(&folder("base")).unwrap();
    let before = Hubert::open(dir.path()).unwrap();
    assert_eq!(
        flat(&today.parameters.values),
        flat(&before.parameters.values)
    );
}

#[test]
fn a_saved_encoder_is_the_encoder() {
    for (name, ctc) in [
        ("base", false),
        ("large", false),
        ("wav2vec2", false),
        ("ctc", true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(&folder(name)).unwrap();
        let source = Source::open(&folder(name)).unwrap();
        let (class, declared) = if ctc {
            (Class::Ctc, ctc_heads(&config))
        } else {
            (Class::Encoder, Vec::new())
        };
        let model = Hubert::new(config, &source, Scope::Frozen, &declared).unwrap();
        let head = |head: &Head| {
            (
                head.name.clone(),
                model.head(&head.name).unwrap().value.clone(),
            )
        };
        save(
            &model,
            dir.path(),
            class,
            declared.iter().map(head).collect(),
        )
        .unwrap();
        let load = |dir: &Path| {
            candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap()
        };
        let expected = load(&folder(name));
        let found = load(dir.path());
        let mut names: Vec<&String> = found.keys().collect();
        let mut expected_names: Vec<&String> = expected.keys().collect();
        names.sort();
        expected_names.sort();
        assert_eq!(names, expected_names, "{name}");
        for (key, tensor) in &expected {
            assert_eq!(tensor.dims(), found[key].dims(), "{name}: {key}");
            assert_eq!(flat(tensor), flat(&found[key]), "{name}: {key}");
        }
        let read = |dir: &Path| -> Value {
            serde_json::from_str(&std::fs::read_to_string(dir.join("config.json")).unwrap())
                .unwrap()
        };
        assert_eq!(
            read(dir.path())["architectures"],
            read(&folder(name))["architectures"]
        );
        assert_eq!(
            Config::load(dir.path()).unwrap().conv_dim,
            Config::load(&folder(name)).unwrap().conv_dim
        );
    }
}

fn ctc_heads(config: &Config) -> Vec<Head> {
    let shape = [config.vocab_size, config.hidden_size];
    let head = |name: &str, shape: &[usize]| Head {
        name: name.to_owned(),
        shape: shape.to_vec(),
        deviation: 0.02,
    };
    vec![
        head("lm_head.weight", &shape),
        head("lm_head.bias", &shape[..1]),
    ]
}

#[test]
fn ctc_equals_that_of_transformers() {
    let golden = Golden::of("ctc");
    let config = Config::load(&folder("ctc")).unwrap();
    let source = Source::open(&folder("ctc")).unwrap();
    let model = Hubert::new(config.clone(), &source, Scope::Full, &ctc_heads(&config)).unwrap();
    let clips = golden.clips();
    let layers = config.num_hidden_layers;
    let pass = Pass::plain(layers, true);
    let packed = [Clip::new(&clips[0]), Clip::new(&clips[1])];
    let (encoded, saved) = model.forward(&packed, pass).unwrap();
    let head = maqam_engine::ops::linear::Linear {
        weight: model.head("lm_head.weight").unwrap().clone(),
        bias: Some(model.head("lm_head.bias").unwrap().clone()),
        adapter: None,
    };
    let none = maqam_engine::ops::linear::AdapterDropout {
        probability: 0.0,
        tokens: &[],
    };
    let (logits, _) = head.forward(&encoded.output, None, none).unwrap();
    for (i, rows) in encoded.clips().enumerate() {
        let found = flat(&logits.narrow(0, rows.start, rows.len()).unwrap());
        assert!(largest_difference(&found, &golden.flat(&format!("logits.{i}"))) < 1e-4);
    }
    let targets: Vec<Vec<u32>> =
        serde_json::from_value(golden.facts["ctc_targets"].clone()).unwrap();
    // PyTorch's mean divides the loss of a clip by the number of its targets.
    let utterances: Vec<ctc::Utterance> = targets
        .iter()
        .zip(&encoded.frames)
        .map(|(targets, &frames)| ctc::Utterance {
            frames,
            targets,
            weight: 1.0 / targets.len() as f64,
        })
        .collect();
    let loss = ctc::ctc(&logits, &utterances, config.pad_token_id as u32).unwrap();
    for (i, expected) in golden.facts["ctc_losses"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let found = loss.nats[i] * utterances[i].weight;
        assert!(
            (found / expected.as_f64().unwrap() - 1.0).abs() < 1e-5,
            "{found} {expected}"
        );
    }
    let d = head
        .backward(&loss.d_logits, &encoded.output, None, none, true)
        .unwrap();
    model.backward(&saved.unwrap(), d, Vec::new(), 1.0).unwrap();
    for name in [
        "lm_head.weight",
        "lm_head.bias",
        "encoder.layers.0.attention.q_proj.weight",
    ] {
        check_gradient(
            &model,
            name,
            &golden.flat(&format!("gradient.{name}")),
            name,
        );
    }
}

fn check_gradient(model: &Hubert, entry: &str, expected: &[f32], place: &str) {
    let entry = model
        .parameters
        .entries
        .iter()
        .find(|known| known.name == entry)
        .unwrap();
    let found = flat(&model.parameters.gradient(entry).unwrap());
    let scale = expected.iter().map(|x| x.abs()).fold(0.0, f32::max);
    let off = largest_difference(&found, expected);
    // Both in f32, over a few layers; a wrong term is of the size of the gradient itself.
    assert!(
        off < 2e-4 * scale + 1e-6,
        "{place}: {} is off by {off} of {scale}",
        entry.name
    );
}

/// Prediction loss of both clips and its gradient, as the reference script has them.
fn prediction_step(model: &Hubert, golden: &Golden) -> f64 {
    let clips = golden.clips();
    let masks: Vec<f32> = [golden.flat("masked.0"), golden.flat("masked.1")].concat();
    let codes: Vec<u32> = [golden.flat("codes.0"), golden.flat("codes.1")]
        .concat()
        .iter()
        .map(|&c| c as u32)
        .collect();
    let masked: Vec<u32> = (0..masks.len() as u32)
        .filter(|&i| masks[i as usize] == 1.0)
        .collect();
    let layers = model.config.num_hidden_layers;
    let pass = Pass {
        masked: &masked,
        ..Pass::plain(layers, true)
    };
    let (encoded, saved) = model
        .forward(&[Clip::new(&clips[0]), Clip::new(&clips[1])], pass)
        .unwrap();
    let projection = maqam_engine::ops::linear::Linear {
        weight: model.head("head.projection").unwrap().clone(),
        bias: None,
        adapter: None,
    };
    let none = maqam_engine::ops::linear::AdapterDropout {
        probability: 0.0,
        tokens: &[],
    };
    let (projected, _) = projection.forward(&encoded.output, None, none).unwrap();
    let weights: Vec<f64> = masks
        .iter()
        .map(|&mask| if mask == 1.0 { 1.0 } else { 0.5 })
        .collect();
    let sum: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
    let targets = masked_prediction::Targets {
        codes: &codes,
        weights: &weights,
        temperature: 0.1,
    };
    let found = masked_prediction::masked_prediction(
        &projected,
        model.head("head.codes").unwrap(),
        targets,
    )
    .unwrap();
    let d = projection
        .backward(&found.d_frames, &encoded.output, None, none, true)
        .unwrap();
    model.backward(&saved.unwrap(), d, Vec::new(), 1.0).unwrap();
    found.loss
}

fn prediction_model(name: &str, golden: &Golden) -> Hubert {
    let config = Config::load(&folder(name)).unwrap();
    let head = |name: &str, tensor: &str| Head {
        name: name.to_owned(),
        shape: golden.tensors[tensor].dims().to_vec(),
        deviation: 1.0,
    };
    let heads = [
        head("head.projection", "projection"),
        head("head.codes", "codes"),
    ];
    let source = Source::open(&folder(name)).unwrap();
    let model = Hubert::new(config, &source, Scope::Full, &heads).unwrap();
    for (name, tensor) in [("head.projection", "projection"), ("head.codes", "codes")] {
        let entry = model
            .parameters
            .entries
            .iter()
            .find(|entry| entry.name == name)
            .unwrap();
        model
            .parameters
            .set_tensor(entry, &golden.tensors[tensor])
            .unwrap();
    }
    model
}

#[test]
fn gradients_of_every_tensor_equal_those_of_pytorch() {
    for name in SHAPES {
        let golden = Golden::of(name);
        let model = prediction_model(name, &golden);
        let loss = prediction_step(&model, &golden);
        let expected = golden.facts["losses"][0].as_f64().unwrap();
        assert!(
            (loss / expected - 1.0).abs() < 1e-5,
            "{name}: {loss} {expected}"
        );
        let mut checked = 0;
        for entry in &model.parameters.entries {
            let expected = golden.flat(&format!("gradient.{}", entry.name));
            check_gradient(&model, &entry.name, &expected, name);
            checked += 1;
        }
        assert_eq!(
            checked,
            golden
                .tensors
                .keys()
                .filter(|key| key.starts_with("gradient."))
                .count()
        );
    }
}

#[test]
fn twenty_steps_follow_pytorch() {
    for name in SHAPES {
        let golden = Golden::of(name);
        let model = prediction_model(name, &golden);
        let parameters = &model.parameters;
        let first = parameters.values.zeros_like().unwrap();
        let second = parameters.values.zeros_like().unwrap();
        for (step, expected) in golden.facts["losses"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            parameters.zero_gradients().unwrap();
            let loss = prediction_step(&model, &golden);
            let expected = expected.as_f64().unwrap();
            assert!(
                (loss / expected - 1.0).abs() < 1e-3,
                "{name}: step {step}: {loss} {expected}"
            );
            let segments: Vec<Segment> = parameters
                .entries
                .iter()
                .map(|entry| Segment {
                    range: entry.range.clone(),
                    learning_rate: 1e-3,
                    decay: entry.shape.iter().filter(|&&n| n > 1).count() > 1,
                    step: step as u64 + 1,
                })
                .collect();
            let buffers = Buffers {
                values: &parameters.values,
                gradients: &parameters.gradients,
                first: &first,
                second: &second,
                copy: None,
            };
            let clip = ClipNorm {
                loss: &Scalar::new(loss, &Device::Cpu).unwrap(),
                norm: &norm(&parameters.gradients).unwrap(),
                max_norm: 1.0,
            };
            AdamW {
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-6,
                weight_decay: 0.01,
            }
            .update(buffers, &segments, clip)
            .unwrap();
        }
    }
}

#[test]
fn what_is_no_such_encoder_is_refused() {
    let refused = |change: &str, value: Value| {
        let dir = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(folder("base").join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config[change] = value;
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        Config::load(dir.path()).unwrap_err().to_string()
    };
    for (key, value) in [
        ("model_type", Value::from("wavlm")),
        ("hidden_act", Value::from("relu")),
        ("conv_pos_batch_norm", Value::from(true)),
        ("adapter_attn_dim", Value::from(16)),
        ("num_attention_heads", Value::from(7)),
    ] {
        let error = refused(key, value);
        assert!(
            error.contains("config.json: `") && error.contains("\nhint: "),
            "{error}"
        );
    }
    let model = Hubert::open(&folder("base")).unwrap();
    let error = model.encode(&[Clip::new(&[0.0; 399])], 1).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("399 samples are too short for one frame"),
        "{error}"
    );
    assert!(model.encode(&[Clip::new(&[0.0; 400])], 3).is_err());
}

/// The scalar product of the output of a pass with fixed numbers, and its gradient added to the
/// model's.
fn dropped_loss(model: &Hubert, clips: &[Clip], pass: Pass, with_gradient: bool) -> f64 {
    let (encoded, saved) = model.forward(clips, pass).unwrap();
    let dims = encoded.output.dims().to_vec();
    let key = Key::new(2, "upstream");
    let count = dims.iter().product::<usize>() as u64;
    let d: Vec<f32> = (0..count).map(|i| (key.uniform(i) - 0.5) as f32).collect();
    let loss = flat(&encoded.output)
        .iter()
        .zip(&d)
        .map(|(y, d)| f64::from(*y) * f64::from(*d))
        .sum();
    if with_gradient {
        let d = Tensor::from_vec(d, dims, &Device::Cpu).unwrap();
        model
            .backward(&saved.unwrap(), Some(d), Vec::new(), 1.0)
            .unwrap();
    }
    loss
}

#[test]
fn gradients_under_dropout_are_the_slopes_of_the_loss() {
    for name in ["base", "large"] {
        let golden = Golden::of(name);
        let config = Config::load(&folder(name)).unwrap();
        let source = Source::open(&folder(name)).unwrap();
        let model = Hubert::new(config, &source, Scope::Full, &[]).unwrap();
        let samples = golden.clips();
        let clips = [Clip::new(&samples[0]), Clip::new(&samples[1])];
        let frames: usize = clips
            .iter()
            .map(|clip| model.config.num_frames(clip.samples.len()))
            .sum();
        let keys: Vec<Key> = (0..frames as u64)
            .map(|frame| Key::new(3, "dropout").with(frame))
            .collect();
        for skipped in [&[][..], &[0], &[1]] {
            let pass = Pass {
                hidden: HiddenDropout {
                    probability: 0.3,
                    positions: &keys,
                    layer: 0,
                },
                skipped,
                ..Pass::plain(2, true)
            };
            model.parameters.zero_gradients().unwrap();
            dropped_loss(&model, &clips, pass, true);

            for entry in &model.parameters.entries {
                let gradient = flat(&model.parameters.gradient(entry).unwrap());
                let norm = gradient
                    .iter()
                    .map(|&g| f64::from(g).powi(2))
                    .sum::<f64>()
                    .sqrt();
                let is_skipped = skipped
                    .iter()
                    .any(|layer| entry.name.starts_with(&format!("encoder.layers.{layer}.")));
                let is_unused = is_skipped || entry.name == "masked_spec_embed";
                assert_eq!(norm == 0.0, is_unused, "{name}: {} {skipped:?}", entry.name);
                // A bias of keys changes nothing.
                if is_unused || entry.name.ends_with("k_proj.bias") {
                    continue;
                }

                // Along the gradient itself the slope is its norm.
                let value = model.parameters.value(entry).unwrap();
                let before = flat(&value);
                let step = 2e-3 / norm;
                let at = |sign: f64| {
                    let moved: Vec<f32> = before
                        .iter()
                        .zip(&gradient)
                        .map(|(x, g)| x + (sign * step * f64::from(*g) / norm) as f32)
                        .collect();
                    let moved = Tensor::from_vec(moved, entry.shape.as_slice(), &Device::Cpu);
                    model.parameters.set_tensor(entry, &moved.unwrap()).unwrap();
                    dropped_loss(&model, &clips, pass, false)
                };
                let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
                model.parameters.set_tensor(entry, &value).unwrap();
                let off = (slope / norm - 1.0).abs();
                assert!(
                    off < 0.05,
                    "{name}: {} {skipped:?}: slope {slope}, gradient {norm}",
                    entry.name
                );
            }
        }
    }
}

#[test]
fn dropout_does_not_depend_on_the_packing() {
    let golden = Golden::of("base");
    let model = Hubert::open(&folder("base")).unwrap();
    let samples = golden.clips();
    let clips = [Clip::new(&samples[0]), Clip::new(&samples[1])];
    let frames = clips.map(|clip| model.config.num_frames(clip.samples.len()));
    let keys: Vec<Vec<Key>> = (0..2)
        .map(|clip| {
            let key = Key::new(4, "dropout").with(clip as u64);
            (0..frames[clip] as u64)
                .map(|frame| key.with(frame))
                .collect()
        })
        .collect();
    let encode = |clips: &[Clip], keys: &[Key], probability: f64| {
        let pass = Pass {
            hidden: HiddenDropout {
                probability,
                positions: keys,
                layer: 0,
            },
            ..Pass::plain(2, false)
        };
        model.forward(clips, pass).unwrap().0.output
    };
    let together = encode(&clips, &keys.concat(), 0.3);
    let alone = encode(&clips[1..], &keys[1], 0.3);
    let second = together.narrow(0, frames[0], frames[1]).unwrap();
    assert!(largest_difference(&flat(&second), &flat(&alone)) < 1e-5);
    let without = encode(&clips[1..], &keys[1], 0.0);
    assert!(largest_difference(&flat(&without), &flat(&alone)) > 1e-2);
}
