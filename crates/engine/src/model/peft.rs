//! Adapters as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use regex::Regex;
use serde_json::Value;
use serde_json::json;

use crate::model::config::Config;
use crate::model::lora::Plan;
use crate::model::lora::Shape;
use crate::model::lora::Variant;
use crate::model::lora::modules;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// The file that says what an adapter is.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The file that holds its tensors.
pub const TENSORS_FILE: &str = "adapter_model.safetensors";

/// Which names the tensors of a saved adapter get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// `base_model.model.thinker.model...`: relative to the full Qwen2.5-Omni model.
    Full,
    /// `base_model.model.model...`: relative to the thinker alone.
    Thinker,
}

impl KeyForm {
    fn path(self, module: &str) -> &str {
        match self {
            Self::Full => module,
            Self::Thinker => module.strip_prefix("thinker.").unwrap_or(module),
        }
    }
}

/// The name of a LoRA matrix in a PEFT file; `matrix` is `A` or `B`.
pub fn key(module: &str, matrix: char, form: KeyForm) -> String {
    format!(
        "base_model.model.{}.lora_{matrix}.weight",
        form.path(module)
    )
}

/// A PEFT folder, read.
#[derive(Debug)]
pub struct Adapter {
    /// The modules it changes, and how.
    pub plan: Plan,
    /// `lora_A` `[rank, in]` and `lora_B` `[out, rank]` by module path, in `f32`.
    pub tensors: BTreeMap<String, (Tensor, Tensor)>,
    /// Whether it scales by the root of the rank.
    pub variant: Variant,
}

impl Adapter {
    /// Reads a PEFT folder for a model of this shape, in either form of keys.
    ///
    /// # Errors
    /// Whatever would make the adapter work differently here than in PEFT: other kinds of adapters, tensors of modules the
    /// model does not have, half a pair, shapes that do not fit. Nothing is ignored silently.
    pub fn load(dir: &Path, config: &Config) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let text = files::read_text(&path)
            .map_err(|e| e.hint("`--adapter` takes a PEFT folder or a checkpoint of a run"))?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|e| Error::input(format!("not JSON: {e}")).at_path(&path))?;
        refuse_other_kinds(&json).map_err(|e| e.at_path(&path))?;
        let tensors_path = dir.join(TENSORS_FILE);
        if !tensors_path.is_file() {
            return Err(Error::input("the adapter's tensors are missing")
                .at_path(&tensors_path)
                .hint("maqam reads safetensors; convert adapter_model.bin with PEFT's save_pretrained"));
        }
        let stored = candle_core::safetensors::load(&tensors_path, &Device::Cpu)
            .map_err(|e| Error::input(format!("damaged: {e}")).at_path(&tensors_path))?;
        Self::from_tensors(&json, stored, config).map_err(|e| e.at_path(&tensors_path))
    }

    fn from_tensors(
        json: &Value,
        stored: std::collections::HashMap<String, Tensor>,
        config: &Config,
    ) -> Result<Self> {
        let variant = if json["use_rslora"].as_bool().unwrap_or(false) {
            Variant::Rslora
        } else {
            Variant::Lora
        };
        let known: Vec<String> = modules(config)
            .into_iter()
            .map(|module| module.path)
            .collect();
        let mut halves: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
        for (name, tensor) in stored {
            let Some((module, matrix)) =
                parse_key(&name).filter(|(module, _)| known.contains(module))
            else {
                return Err(Error::input(format!("tensor `{name}` belongs to no linear layer of this model"))
                    .hint("an adapter of the talker, of the vision tower or of another model cannot be loaded: it would do nothing here"));
            };
            halves.entry(module).or_default()[matrix] = Some(tensor.to_dtype(DType::F32)?);
        }
        if halves.is_empty() {
            return Err(Error::input("the adapter holds no tensors"));
        }
        let mut plan = Plan::default();
        let mut tensors = BTreeMap::new();
        for (module, pair) in halves {
            let [Some(a), Some(b)] = pair else {
                return Err(Error::input(format!(
                    "`{module}` has only one of lora_A and lora_B"
                )));
            };
            let (rank, _) = a.dims2()?;
            if b.dims2()?.1 != rank {
                return Err(Error::input(format!(
                    "`{module}`: lora_A is {:?}, lora_B {:?}",
                    a.dims(),
                    b.dims()
                )));
            }
            let declared = pattern(&json["rank_pattern"], &module)?.or(json["r"].as_f64());
            if declared.is_some_and(|declared| declared != rank as f64) {
                return Err(Error::input(format!(
                    "`{module}`: {CONFIG_FILE} says rank {}, the tensors have {rank}",
                    declared.unwrap_or_default()
                )));
            }
            let alpha = pattern(&json["alpha_pattern"], &module)?
                .or(json["lora_alpha"].as_f64())
                .ok_or_else(|| Error::input(format!("{CONFIG_FILE} has no `lora_alpha`")))?;
            plan.modules.insert(
                module.clone(),
                Shape {
                    rank,
                    alpha,
                    scale: variant.scale(alpha, rank),
                },
            );
            tensors.insert(module, (a, b));
        }
        Ok(Self {
            plan,
            tensors,
            variant,
        })
    }
}

fn refuse_other_kinds(json: &Value) -> Result<()> {
    let wrong =
        |field: &str, why: &str| Err(Error::input(format!("`{field}` is {}: {why}", json[field])));
    if json["peft_type"]
        .as_str()
        .is_some_and(|kind| kind != "LORA")
    {
        return wrong("peft_type", "maqam reads LORA");
    }
    for field in [
        "use_dora",
        "lora_bias",
        "fan_in_fan_out",
        "use_qalora",
        "use_bdlora",
    ] {
        if json[field].as_bool().unwrap_or(false) {
            return wrong(field, "maqam has no such adapter");
        }
    }
    let init = json["init_lora_weights"].as_str().unwrap_or_default();
    if ["pissa", "olora", "corda", "loftq"]
        .iter()
        .any(|kind| init.to_lowercase().starts_with(kind))
    {
        return wrong(
            "init_lora_weights",
            "such an adapter belongs to a changed base; save it as a plain LoRA with PEFT's conversion first",
        );
    }
    for field in [
        "modules_to_save",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "alora_invocation_tokens",
    ] {
        if json[field].as_array().is_some_and(|a| !a.is_empty())
            || json[field].as_object().is_some_and(|o| !o.is_empty())
        {
            return wrong(
                field,
                "maqam cannot load this; merge it into the checkpoint with PEFT first",
            );
        }
    }
    if json["bias"].as_str().is_some_and(|bias| bias != "none") {
        return wrong("bias", "maqam reads adapters without trained biases");
    }
    Ok(())
}

/// Module path (in the full form) and matrix (0 for A, 1 for B) of a tensor's name.
fn parse_key(name: &str) -> Option<(String, usize)> {
    let rest = name.strip_prefix("base_model.model.").unwrap_or(name);
    let rest = rest.strip_suffix(".weight")?;
    let rest = rest.strip_suffix(".default").unwrap_or(rest);
    let (module, matrix) = rest.rsplit_once(".lora_")?;
    let matrix = match matrix {
        "A" => 0,
        "B" => 1,
        _ => return None,
    };
    let module = if module.starts_with("thinker.") {
        module.to_owned()
    } else {
        format!("thinker.{module}")
    };
    Some((module, matrix))
}

/// PEFT's `rank_pattern` and `alpha_pattern`: the first key that matches the end of the module's path.
fn pattern(patterns: &Value, module: &str) -> Result<Option<f64>> {
    let Some(patterns) = patterns.as_object() else {
        return Ok(None);
    };
    for (key, value) in patterns {
        let expression = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
            .map_err(|e| Error::input(format!("{CONFIG_FILE}: pattern `{key}`: {e}")))?;
        if expression.is_match(module) {
            return Ok(value.as_f64());
        }
    }
    Ok(None)
}

/// What `adapter_config.json` says beyond the tensors.
#[derive(Clone, Debug)]
pub struct Card {
    /// `base_model_name_or_path`.
    pub base: String,
    /// Dropout of the run that trained it.
    pub dropout: f64,
    /// Whether the scale follows the root of the rank.
    pub variant: Variant,
}

/// Writes a PEFT folder's two files into `dir`; `tensors` are by module path, as in [`Adapter`].
pub fn save(
    dir: &Path,
    plan: &Plan,
    tensors: &BTreeMap<String, (Tensor, Tensor)>,
    card: &Card,
    form: KeyForm,
) -> Result<()> {
    let named: Vec<(String, &Tensor)> = tensors
        .iter()
        .flat_map(|(module, (a, b))| [(key(module, 'A', form), a), (key(module, 'B', form), b)])
        .collect();
    files::write_safetensors(&dir.join(TENSORS_FILE), named)?;
    let text = serde_json::to_string_pretty(&config_json(plan, card, form)).map_err(Error::bug)?;
    files::write_atomic(&dir.join(CONFIG_FILE), text.as_bytes())
}

fn config_json(plan: &Plan, card: &Card, form: KeyForm) -> Value {
    let shapes: Vec<&Shape> = plan.modules.values().collect();
    let most_common = |value: fn(&Shape) -> f64| {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        shapes
            .iter()
            .for_each(|shape| *counts.entry(value(shape).to_bits()).or_default() += 1);
        counts
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map_or(1.0, |(bits, _)| f64::from_bits(bits))
    };
    let (rank, alpha) = (most_common(|s| s.rank as f64), most_common(|s| s.alpha));
    let exceptions = |value: fn(&Shape) -> f64, usual: f64| -> serde_json::Map<String, Value> {
        let differs = plan
            .modules
            .iter()
            .filter(|(_, shape)| value(shape) != usual);
        differs
            .map(|(module, shape)| (regex::escape(form.path(module)), number(value(shape))))
            .collect()
    };
    let mut targets = plan.regex();
    if form == KeyForm::Thinker {
        targets = targets.replace("thinker\\.", "");
    }
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": card.base,
        "r": number(rank),
        "lora_alpha": number(alpha),
        "lora_dropout": card.dropout,
        "target_modules": targets,
        "exclude_modules": null,
        "bias": "none",
        "use_rslora": card.variant == Variant::Rslora,
        "use_dora": false,
        "modules_to_save": null,
        "init_lora_weights": true,
        "rank_pattern": exceptions(|s| s.rank as f64, rank),
        "alpha_pattern": exceptions(|s| s.alpha, alpha),
        "layers_to_transform": null,
        "layers_pattern": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "lora_bias": false,
        "revision": null,
    })
}

/// Whole numbers without a fraction, as PEFT writes them.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_keys_name_the_same_module() {
        let module = "thinker.model.layers.0.self_attn.q_proj";
        for name in [
            key(module, 'A', KeyForm::Full),
            key(module, 'A', KeyForm::Thinker),
            "base_model.model.thinker.model.layers.0.self_attn.q_proj.lora_A.default.weight"
                .to_owned(),
        ] {
            assert_eq!(parse_key(&name), Some((module.to_owned(), 0)), "{name}");
        }
        assert_eq!(parse_key("base_model.model.thinker.lm_head.weight"), None);
    }

    #[test]
    fn other_kinds_of_adapters_are_refused_by_field() {
        for (field, value) in [
            ("use_dora", json!(true)),
            ("peft_type", json!("IA3")),
            ("modules_to_save", json!(["lm_head"])),
            ("bias", json!("all")),
            ("init_lora_weights", json!("pissa_niter_16")),
        ] {
            let error = refuse_other_kinds(&json!({ field: value })).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        assert!(refuse_other_kinds(&json!({"peft_type": "LORA", "bias": "none", "modules_to_save": null, "use_dora": false})).is_ok());
    }

    #[test]
    fn patterns_match_the_end_of_a_path() {
        let patterns = json!({"q_proj": 8, r"layers\.1\.mlp\.up_proj": 4});
        assert_eq!(
            pattern(&patterns, "thinker.model.layers.0.self_attn.q_proj").unwrap(),
            Some(8.0)
        );
        assert_eq!(
            pattern(&patterns, "thinker.model.layers.1.mlp.up_proj").unwrap(),
            Some(4.0)
        );
        assert_eq!(
            pattern(&patterns, "thinker.model.layers.11.mlp.up_proj").unwrap(),
            None
        );
    }
}
