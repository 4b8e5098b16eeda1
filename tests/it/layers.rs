//! One decoder layer and one encoder layer in `f64` against PyTorch's: outputs, the gradient of the
//! input, the gradients of weights.
//!
//! `tests/reference/make_layer_goldens.py` made the goldens with transformers' own layers in double
//! precision.

use std::collections::HashMap;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use maqam::nn::decoder_layer::DecoderLayer;
use maqam::nn::decoder_layer::Packing;
use maqam::nn::encoder_layer::EncoderLayer;
use maqam::nn::gelu_mlp::GeluMlp;
use maqam::nn::layer_norm::LayerNorm;
use maqam::nn::rms_norm::RmsNorm;
use maqam::nn::saving::Save;
use maqam::nn::self_attention::SelfAttention;
use maqam::nn::windows::HiddenDropout;
use maqam::nn::windows::Windows;
use maqam::ops::attention::Heads;
use maqam::ops::layout::Layout;
use maqam::ops::linear::AdapterDropout;
use maqam::ops::linear::Linear;
use maqam::ops::rotary::Rotary;
use maqam::ops::weight::Weight;

/// Both sides compute in double precision, in another order.
const BAR: f64 = 1e-9;

const NO_DROPOUT: AdapterDropout = AdapterDropout {
    probability: 0.0,
    tokens: &[],
};

/// The tensors of one part of the golden file.
struct Golden {
    part: &'static str,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn load(part: &'static str) -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/layers.safetensors");
        Self {
            part,
            tensors: candle_core::safetensors::load(path, &Device::Cpu).unwrap(),
        }
    }

    fn get(&self, name: &str) -> Tensor {
        self.tensors[&format!("{}.{name}", self.part)].clone()
    }

    /// Starts of the packed sequences, and the number of tokens at the end.
    fn cu_seqlens(&self) -> Vec<usize> {
        let lengths: Vec<i64> = self.get("lengths").to_vec1().unwrap();
        let ends = lengths.iter().scan(0, |end, len| {
            *end += *len as usize;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    fn weights(&self, kind: &str, names: &[&str]) -> Tensor {
        let parts: Vec<Tensor> = names
            .iter()
            .map(|name| self.get(&format!("{kind}.{name}.weight")))
            .collect();
        Tensor::cat(&parts, 0).unwrap()
    }

    /// The projections of these names stacked, everything trained. A projection without a bias gets
    /// one of zeros.
    fn linear(&self, names: &[&str]) -> Linear {
        let weight = self.weights("weight", names);
        let has_bias = names.iter().any(|name| self.has_bias(name));
        let bias =
            has_bias.then(|| trained(Tensor::cat(&self.biases("weight", names), 0).unwrap()));
        Linear {
            weight: trained(weight),
            bias,
            adapter: None,
        }
    }

    fn has_bias(&self, name: &str) -> bool {
        self.tensors
            .contains_key(&format!("{}.weight.{name}.bias", self.part))
    }

    fn biases(&self, kind: &str, names: &[&str]) -> Vec<Tensor> {
        let rows = |name: &str| self.get(&format!("weight.{name}.weight")).dim(0).unwrap();
        let zeros = |name: &str| Tensor::zeros(rows(name), DType::F64, &Device::Cpu).unwrap();
        names
            .iter()
            .map(|name| {
                if self.has_bias(name) {
                    self.get(&format!("{kind}.{name}.bias"))
                } else {
                    zeros(name)
                }
            })
            .collect()
    }

    /// Compares a layer's gradients for these projections with PyTorch's.
    fn check_linear(&self, layer: &Linear, names: &[&str]) {
        assert_near(
            &names.join("+"),
            layer.weight.gradient.as_ref().unwrap(),
            &self.weights("grad", names),
        );
        let Some(found) = layer
            .bias
            .as_ref()
            .map(|bias| bias.gradient.clone().unwrap())
        else {
            return;
        };
        let mut start = 0;
        for (name, expected) in names.iter().zip(self.biases("grad", names)) {
            let rows = expected.dim(0).unwrap();
            if self.has_bias(name) {
                assert_near(
                    &format!("{name}.bias"),
                    &found.narrow(0, start, rows).unwrap(),
                    &expected,
                );
            }
            start += rows;
        }
    }
}

fn trained(value: Tensor) -> Weight {
    let gradient = value.zeros_like().unwrap();
    Weight::trained(value, gradient)
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails unless the largest difference is below the bar times the largest expected value.
fn assert_near(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let found = flat(found);
    let expected = flat(expected);
    let size = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
    let error = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| {
            if a.is_nan() {
                f64::INFINITY
            } else {
                (a - b).abs()
            }
        })
        .fold(0.0, f64::max);
    assert!(
        size > 0.0 && error <= BAR * size,
        "{what}: off by {error:e} of {size}"
    );
}

const QKV: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];

fn decoder(golden: &Golden) -> DecoderLayer {
    DecoderLayer {
        attention_norm: rms_norm(golden, "input_layernorm"),
        qkv: golden.linear(&QKV),
        head_norms: None,
        output: golden.linear(&["self_attn.o_proj"]),
        mlp_norm: rms_norm(golden, "post_attention_layernorm"),
        gate_up: golden.linear(&["mlp.gate_proj", "mlp.up_proj"]),
        down: golden.linear(&["mlp.down_proj"]),
        heads: Heads {
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 8,
        },
    }
}

fn rms_norm(golden: &Golden, name: &str) -> RmsNorm {
    RmsNorm {
        weight: trained(golden.get(&format!("weight.{name}.weight"))),
        eps: 1e-6,
    }
}

/// Rotations by the golden's own angles: those of the model are rounded to single precision where
/// transformers rounds them.
fn rotary(golden: &Golden, cu_seqlens: &[usize]) -> Rotary {
    let positions = cu_seqlens.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
    let frequency = |i: usize| 1e6f64.powf(-2.0 * i as f64 / 8.0);
    let angles: Vec<f64> = positions
        .flat_map(|p| (0..4).map(move |i| p as f64 * frequency(i)))
        .collect();
    Rotary::from_angles(&angles, 8, &golden.get("input")).unwrap()
}

#[test]
fn a_decoder_layer_and_its_gradients_equal_pytorch() {
    for save in [Save::All, Save::Norms, Save::Layer] {
        let golden = Golden::load("decoder");
        let layer = decoder(&golden);
        let cu_seqlens = golden.cu_seqlens();
        let rotary = rotary(&golden, &cu_seqlens);
        let packing = Packing {
            cu_seqlens: &cu_seqlens,
            rotary: &rotary,
            dropout: NO_DROPOUT,
            save,
        };
        let (output, saved) = layer.forward(&golden.get("input"), &packing, None).unwrap();
        assert_near("output", &output, &golden.get("output"));
        let dx = layer
            .backward(
                &golden.get("upstream"),
                &saved,
                &packing,
                Some(Layout::DENSE),
            )
            .unwrap()
            .unwrap();
        assert_near("gradient of the input", &dx, &golden.get("input_grad"));
        golden.check_linear(&layer.qkv, &QKV);
        golden.check_linear(&layer.output, &["self_attn.o_proj"]);
        golden.check_linear(&layer.gate_up, &["mlp.gate_proj", "mlp.up_proj"]);
        golden.check_linear(&layer.down, &["mlp.down_proj"]);
        assert_near(
            "input_layernorm",
            layer.attention_norm.weight.gradient.as_ref().unwrap(),
            &golden.get("grad.input_layernorm.weight"),
        );
        assert_near(
            "post_attention_layernorm",
            layer.mlp_norm.weight.gradient.as_ref().unwrap(),
            &golden.get("grad.post_attention_layernorm.weight"),
        );
    }
}

#[test]
fn dropped_rows_do_not_change_the_others() {
    let golden = Golden::load("decoder");
    let cu_seqlens = golden.cu_seqlens();
    let rotary = rotary(&golden, &cu_seqlens);
    let packing = Packing {
        cu_seqlens: &cu_seqlens,
        rotary: &rotary,
        dropout: NO_DROPOUT,
        save: Save::Norms,
    };
    let kept = [0u32, 4, 5, 11];
    let rows = Tensor::new(&kept, &Device::Cpu).unwrap();
    let x = golden.get("input");
    let some = decoder(&golden);
    let (output, saved) = some.forward(&x, &packing, Some(&kept)).unwrap();
    assert_near(
        "kept outputs",
        &output,
        &golden.get("output").index_select(&rows, 0).unwrap(),
    );
    let upstream = golden.get("upstream").index_select(&rows, 0).unwrap();
    let dx = some
        .backward(&upstream, &saved, &packing, Some(Layout::DENSE))
        .unwrap()
        .unwrap();

    let all = decoder(&golden);
    let (_, saved) = all.forward(&x, &packing, None).unwrap();
    let zeros = golden.get("upstream").zeros_like().unwrap();
    let dy = zeros.index_add(&rows, &upstream, 0).unwrap();
    let expected = all
        .backward(&dy, &saved, &packing, Some(Layout::DENSE))
        .unwrap()
        .unwrap();
    assert_near("gradient of the input", &dx, &expected);
    for (a, b) in [
        (&some.qkv, &all.qkv),
        (&some.output, &all.output),
        (&some.gate_up, &all.gate_up),
        (&some.down, &all.down),
    ] {
        assert_near(
            "gradient of a weight",
            a.weight.gradient.as_ref().unwrap(),
            b.weight.gradient.as_ref().unwrap(),
        );
    }
}

#[test]
fn an_encoder_layer_and_its_gradients_equal_pytorchs() {
    for save in [Save::All, Save::Norms, Save::Layer] {
        let golden = Golden::load("encoder");
        let norm = |name: &str| LayerNorm {
            weight: Weight::frozen(golden.get(&format!("weight.{name}.weight"))),
            bias: Weight::frozen(golden.get(&format!("weight.{name}.bias"))),
            eps: LayerNorm::EPS,
        };
        let layer = EncoderLayer {
            attention_norm: norm("self_attn_layer_norm"),
            attention: SelfAttention {
                qkv: golden.linear(&QKV),
                output: golden.linear(&["self_attn.out_proj"]),
                heads: Heads {
                    num_heads: 2,
                    num_kv_heads: 2,
                    head_dim: 8,
                },
            },
            mlp_norm: norm("final_layer_norm"),
            mlp: GeluMlp {
                fc1: golden.linear(&["fc1"]),
                fc2: golden.linear(&["fc2"]),
            },
        };
        let cu_positions = golden.cu_seqlens();
        let windows = Windows {
            cu_positions: &cu_positions,
            dropout: NO_DROPOUT,
            hidden: HiddenDropout::NONE,
            save,
        };
        let (output, saved) = layer.forward(&golden.get("input"), &windows).unwrap();
        assert_near("output", &output, &golden.get("output"));
        let dx = layer
            .backward(&golden.get("upstream"), &saved, &windows, true)
            .unwrap()
            .unwrap();
        assert_near("gradient of the input", &dx, &golden.get("input_grad"));
        golden.check_linear(&layer.attention.qkv, &QKV);
        golden.check_linear(&layer.attention.output, &["self_attn.out_proj"]);
        golden.check_linear(&layer.mlp.fc1, &["fc1"]);
        golden.check_linear(&layer.mlp.fc2, &["fc2"]);
    }
}
