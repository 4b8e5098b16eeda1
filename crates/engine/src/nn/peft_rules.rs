//! The fields of PEFT's `LoraConfig` (0.21.2), each read by PEFT's rule: which modules have an
//! adapter, of which rank and scale.
//!
//! Fields that would compute something else here than in PEFT are refused by name. Fields that only
//! concern the training or the start of an adapter is passed over, as PEFT does when it loads one.

use fancy_regex::Regex;
use serde_json::Map;
use serde_json::Value;

use crate::nn::lora::Shape;
use crate::nn::lora::Variant;
use crate::nn::patterns;
use crate::nn::patterns::Patterns;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// PEFT's `r` and `lora_alpha` where the file says none.
const DEFAULT: f64 = 8.0;

/// Fields that change nothing about what a saved adapter computes.
const WITHOUT_EFFECT: [&str; 15] = [
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    // For `nn.Linear`, which is all that is adapted here, PEFT sets it back to false.
    "fan_in_fan_out",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    // Only for tied weights among the targets, which are refused.
    "ensure_weight_tying",
    // A backward of its own; the forward is LoRA's.
    "velora_config",
    "loftq_config",
];

/// Settings of ways to start an adapter, which PEFT ignores unless `init_lora_weights` names them.
const OF_STARTS: [&str; 3] = ["eva_config", "corda_config", "lora_ga_config"];

/// Fields that make another kind of adapter, and what to do.
const OTHER_KINDS: [(&str, &str); 12] = [
    ("use_dora", MERGE),
    ("lora_bias", MERGE),
    ("use_qalora", MERGE),
    ("use_bdlora", MERGE),
    ("modules_to_save", MERGE),
    ("target_parameters", MERGE),
    ("layer_replication", MERGE),
    ("kasa_config", MERGE),
    ("alora_invocation_tokens", RETRAIN),
    ("arrow_config", RETRAIN),
    ("monteclora_config", RETRAIN),
    ("megatron_config", RETRAIN),
];

const MERGE: &str = "merge it into the checkpoint with PEFT's `merge_and_unload` and `save_pretrained`, and give that with --model";
const RETRAIN: &str = "train a plain LoRA; such an adapter cannot be merged or read here";

/// Fields that are read below.
const READ: [&str; 15] = [
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "bias",
    "use_rslora",
    "init_lora_weights",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "trainable_token_indices",
];

/// The kind of an adapter that only replaces embeddings of tokens, in `peft_type`.
pub const TOKENS_ALONE: &str = "TRAINABLE_TOKENS";

/// An adapter's configuration, checked.
#[derive(Debug)]
pub struct Rules {
    /// The model that the adapter was trained on, as its configuration names it.
    pub base: Option<String>,
    targets: Option<Names>,
    excluded: Option<Names>,
    layers: Option<Layers>,
    rank: f64,
    alpha: f64,
    ranks: Patterns,
    alphas: Patterns,
    /// Tokens whose embeddings the adapter replaces.
    pub tokens: Vec<u32>,
    /// Whether the scale follows the root of the rank.
    pub variant: Variant,
    /// Whether adapters whose tensors are not stored would start at random, not at nothing.
    pub starts_at_random: bool,
    /// Dropout of the adapters in training, which changes no answer.
    pub dropout: f64,
    /// Fields that were not known and are ignored, as PEFT ignores them.
    pub notes: Vec<String>,
}

/// Names of modules as PEFT's configuration gives them.
#[derive(Debug)]
enum Names {
    /// `all-linear`.
    All,
    /// Must match a whole path.
    Pattern(Regex),
    /// Whole paths, or their last parts.
    List(Vec<String>),
}

/// `layers_to_transform` and `layers_pattern`.
#[derive(Debug)]
struct Layers {
    numbers: Vec<u64>,
    patterns: Vec<Regex>,
}

impl Rules {
    /// Reads a configuration.
    ///
    /// # Errors
    /// A field that makes another kind of adapter, or one that PEFT refuses; the message names it.
    pub fn read(json: &Value) -> Result<Self> {
        let Some(fields) = json.as_object() else {
            return Err(Error::input("not a JSON object"));
        };
        let base = fields.get("base_model_name_or_path");
        let base = base.and_then(Value::as_str).map(str::to_owned);

        if fields
            .get("peft_type")
            .is_some_and(|kind| kind == TOKENS_ALONE)
        {
            return Self::of_tokens(fields, base);
        }

        if let Some(kind) = fields.get("peft_type").filter(|kind| *kind != "LORA")
            && !kind.is_null()
        {
            let why = "maqam reads LORA and TRAINABLE_TOKENS";
            return Err(refused("peft_type", kind, why, RETRAIN));
        }

        for (field, hint) in OTHER_KINDS {
            if let Some(value) = fields.get(field).filter(|value| is_set(value)) {
                return Err(refused(field, value, "maqam has no such adapter", hint));
            }
        }

        if let Some(bias) = fields.get("bias").filter(|bias| *bias != "none")
            && !bias.is_null()
        {
            let why = "maqam reads adapters without trained biases";
            return Err(refused("bias", bias, why, MERGE));
        }

        let starts_at_random = check_start(fields)?;
        let targets = names(fields, "target_modules")?;
        let layers = Layers::read(fields, targets.as_ref())?;

        let variant = if fields.get("use_rslora").is_some_and(is_set) {
            Variant::Rslora
        } else {
            Variant::Lora
        };

        Ok(Self {
            base,
            targets,
            excluded: names(fields, "exclude_modules")?,
            layers,
            rank: number(fields, "r")?.unwrap_or(DEFAULT),
            alpha: number(fields, "lora_alpha")?.unwrap_or(DEFAULT),
            ranks: numbers(fields, "rank_pattern")?,
            alphas: numbers(fields, "alpha_pattern")?,
            tokens: tokens(fields, "trainable_token_indices")?,
            variant,
            starts_at_random,
            dropout: fields
                .get("lora_dropout")
                .and_then(Value::as_f64)
                .unwrap_or(0.0),
            notes: unknown(fields).into_iter().collect(),
        })
    }

    /// The rules of an adapter that only replaces embeddings of tokens.
    fn of_tokens(fields: &Map<String, Value>, base: Option<String>) -> Result<Self> {
        Ok(Self {
            base,
            targets: Some(Names::List(Vec::new())),
            excluded: None,
            layers: None,
            rank: DEFAULT,
            alpha: DEFAULT,
            ranks: Patterns::default(),
            alphas: Patterns::default(),
            tokens: tokens(fields, "token_indices")?,
            variant: Variant::Lora,
            starts_at_random: false,
            dropout: 0.0,
            notes: Vec::new(),
        })
    }

    /// Rank and scale of a module's adapter, by its path in the model that PEFT was given; `None`
    /// where it has none.
    ///
    /// # Errors
    /// A pattern that is not a regular expression; a rank that is not a whole number above 0; a
    /// scale that is not finite.
    pub fn shape(&self, path: &str) -> Result<Option<Shape>> {
        if !self.is_target(path)? {
            return Ok(None);
        }
        let at = |field: &'static str| move |e: Error| e.at(format!("`{field}`"));
        let found = self.ranks.find(path).map_err(at("rank_pattern"))?;
        let rank = found.unwrap_or(self.rank);
        let found = self.alphas.find(path).map_err(at("alpha_pattern"))?;
        let alpha = found.unwrap_or(self.alpha);
        if rank < 1.0 || rank.fract() != 0.0 {
            return Err(Error::input(format!(
                "rank {rank} for `{path}`, expected a whole number above 0"
            )));
        }
        let scale = self.variant.scale(alpha, rank as usize);
        if !(scale as f32).is_finite() {
            return Err(Error::input(format!(
                "`{path}` is scaled by {scale}, which is not finite"
            )));
        }
        Ok(Some(Shape {
            rank: rank as usize,
            alpha,
            scale,
        }))
    }

    fn is_target(&self, path: &str) -> Result<bool> {
        if let Some(excluded) = &self.excluded
            && excluded.has(path)?
        {
            return Ok(false);
        }
        let Some(targets) = &self.targets else {
            return Ok(true);
        };
        if let Names::List(names) = targets
            && names.iter().any(|name| name == path)
        {
            return Ok(true);
        }
        if !targets.has(path)? {
            return Ok(false);
        }
        match &self.layers {
            Some(layers) => layers.has(path),
            None => Ok(true),
        }
    }
}

impl Names {
    fn has(&self, path: &str) -> Result<bool> {
        match self {
            Self::All => Ok(true),
            Self::Pattern(pattern) => patterns::is_match(pattern, path),
            Self::List(names) => Ok(names.iter().any(|name| {
                path == name
                    || path
                        .strip_suffix(name.as_str())
                        .is_some_and(|stem| stem.ends_with('.'))
            })),
        }
    }
}

impl Layers {
    fn read(fields: &Map<String, Value>, targets: Option<&Names>) -> Result<Option<Self>> {
        let layers = fields.get("layers_to_transform").unwrap_or(&Value::Null);
        let pattern = fields.get("layers_pattern").unwrap_or(&Value::Null);
        let is_expression = matches!(targets, Some(Names::Pattern(_) | Names::All));

        for (field, value) in [("layers_to_transform", layers), ("layers_pattern", pattern)] {
            if is_expression && !value.is_null() {
                let why = "PEFT takes it only beside a list of `target_modules`";
                return Err(refused(
                    field,
                    value,
                    why,
                    "write the layers into the expression",
                ));
            }
        }

        if is_set(pattern) && layers.is_null() {
            let why = "PEFT takes it only beside `layers_to_transform`";
            return Err(refused("layers_pattern", pattern, why, "remove it"));
        }

        let numbers = match layers {
            Value::Null => return Ok(None),
            Value::Array(list) if list.is_empty() => return Ok(None),
            Value::Array(list) => list.iter().map(Value::as_u64).collect(),
            one => one.as_u64().map(|one| vec![one]),
        };

        let numbers = numbers.ok_or_else(|| {
            refused(
                "layers_to_transform",
                layers,
                "expected numbers of layers",
                "write a list such as [0, 1]",
            )
        })?;

        let written: Vec<&str> = match pattern {
            Value::String(one) if !one.is_empty() => vec![one],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };

        let expressions = if written.is_empty() {
            vec![patterns::from_start(r".*?\.[^.]*\.(?P<idx>\d+)\.")?]
        } else {
            written
                .iter()
                .map(|pattern| {
                    patterns::from_start(&format!(r"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\."))
                })
                .collect::<Result<_>>()?
        };

        Ok(Some(Self {
            numbers,
            patterns: expressions,
        }))
    }

    /// The first pattern that matches tells the number of the layer.
    fn has(&self, path: &str) -> Result<bool> {
        for pattern in &self.patterns {
            let found = pattern.captures(path).map_err(|e| {
                Error::input(format!("`layers_pattern` fails on `{path}`: {e}")).caused_by(e)
            })?;
            if let Some(found) = found {
                let number = found.name("idx").and_then(|idx| idx.as_str().parse().ok());
                return Ok(number.is_some_and(|number| self.numbers.contains(&number)));
            }
        }
        Ok(false)
    }
}

fn refused(field: &str, value: &Value, why: &str, hint: &str) -> Error {
    Error::input(format!("`{field}` is {value}: {why}")).hint(hint)
}

/// Python's truth: everything but null, false, zero and what is empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(value) => value.as_f64() != Some(0.0),
        Value::String(value) => !value.is_empty(),
        Value::Array(value) => !value.is_empty(),
        Value::Object(value) => !value.is_empty(),
    }
}

/// Refuses starts that change the base's weights; returns whether tensors that are not stored would
/// be random.
fn check_start(fields: &Map<String, Value>) -> Result<bool> {
    let start = match fields.get("init_lora_weights") {
        None => return Ok(false),
        Some(Value::Bool(is_default)) => return Ok(!is_default),
        Some(Value::String(start)) => start.to_lowercase(),
        Some(other) => {
            let why = "expected true, false or a name";
            return Err(refused("init_lora_weights", other, why, "write true"));
        }
    };

    let changes_base = ["pissa", "olora", "corda", "loftq", "lora_ga"];

    if changes_base.iter().any(|kind| start.starts_with(kind)) {
        return Err(refused(
            "init_lora_weights",
            &Value::from(start.as_str()),
            "such an adapter belongs to a base whose weights were changed at its start",
            "save it as a plain LoRA with PEFT's `save_pretrained(..., path_initial_model_for_weight_conversion=START)`, or merge it with PEFT",
        ));
    }

    if ["gaussian", "eva", "orthogonal", "mica"].contains(&start.as_str()) {
        return Ok(start == "orthogonal");
    }
    let why = "PEFT knows no such start";
    let value = Value::from(start);
    Err(refused(
        "init_lora_weights",
        &value,
        why,
        "write true if the adapter is a plain LoRA",
    ))
}

fn names(fields: &Map<String, Value>, field: &str) -> Result<Option<Names>> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        // An empty exclusion excludes nothing.
        Some(value) if field == "exclude_modules" && !is_set(value) => Ok(None),
        Some(Value::String(name))
            if field == "target_modules" && name.to_lowercase() == "all-linear" =>
        {
            Ok(Some(Names::All))
        }
        Some(Value::String(pattern)) => patterns::whole(pattern)
            .map(|pattern| Some(Names::Pattern(pattern)))
            .map_err(|e| e.at(format!("`{field}`"))),
        Some(Value::Array(list)) => {
            let names = list.iter().map(|name| name.as_str().map(str::to_owned));
            names
                .collect::<Option<Vec<_>>>()
                .map(|names| Some(Names::List(names)))
                .ok_or_else(|| {
                    refused(
                        field,
                        &Value::from(list.clone()),
                        "expected names of modules",
                        "write a list of names",
                    )
                })
        }
        Some(other) => Err(refused(
            field,
            other,
            "expected names of modules",
            "write a list of names",
        )),
    }
}

/// Ids of tokens: a list, or a list under the name of one table. The tensors tell whether that is
/// the table of token embeddings.
fn tokens(fields: &Map<String, Value>, field: &str) -> Result<Vec<u32>> {
    let Some(value) = fields.get(field).filter(|value| is_set(value)) else {
        return Ok(Vec::new());
    };
    let list = match value.as_object() {
        Some(tables) => only_table(tables).and_then(Value::as_array),
        None => value.as_array(),
    };
    let as_id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = list.and_then(|list| list.iter().map(as_id).collect::<Option<Vec<u32>>>());
    let Some(ids) = ids else {
        let why = "expected ids of tokens, of the table of token embeddings alone";
        return Err(refused(field, value, why, MERGE));
    };
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < ids.len() {
        let why = "a token is there twice";
        return Err(refused(field, value, why, "name each token once"));
    }
    Ok(ids)
}

/// The value under the name of the table of token embeddings, if no other table is named.
fn only_table(tables: &Map<String, Value>) -> Option<&Value> {
    let mut named = tables.iter();
    let (name, value) = named.next()?;
    let is_embeddings = name.rsplit('.').next() == Some("embed_tokens");
    (is_embeddings && named.next().is_none()).then_some(value)
}

fn number(fields: &Map<String, Value>, field: &str) -> Result<Option<f64>> {
    match fields.get(field) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| {
            refused(
                field,
                value,
                "expected a number",
                "write the number the adapter was trained with",
            )
        }),
    }
}

fn numbers(fields: &Map<String, Value>, field: &str) -> Result<Patterns> {
    let mut found = Vec::new();
    match fields.get(field) {
        None | Some(Value::Null) => {}
        Some(Value::Object(entries)) => {
            for (pattern, value) in entries {
                let Some(number) = value.as_f64() else {
                    return Err(refused(
                        field,
                        value,
                        "expected a number",
                        "write a number for each pattern",
                    )
                    .at(format!("`{pattern}`")));
                };
                found.push((pattern.clone(), number));
            }
        }
        Some(other) => {
            return Err(refused(
                field,
                other,
                "expected numbers by patterns",
                "write an object such as {\"q_proj\": 8}",
            ));
        }
    }
    Ok(Patterns(found))
}

/// A note on fields that a newer PEFT may have added; those that are off or empty are not
/// mentioned.
fn unknown(fields: &Map<String, Value>) -> Option<String> {
    let known = |field: &str| {
        READ.contains(&field)
            || WITHOUT_EFFECT.contains(&field)
            || OF_STARTS.contains(&field)
            || OTHER_KINDS.iter().any(|(name, _)| *name == field)
    };
    let mut names: Vec<String> = fields
        .iter()
        .filter(|(field, value)| !known(field) && is_set(value))
        .map(|(field, value)| format!("`{field}` ({value})"))
        .collect();
    names.sort();
    (!names.is_empty()).then(|| {
        format!(
            "{} unknown to maqam: ignored, as PEFT 0.21 ignores fields it does not know",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn other_kinds_of_adapters_are_refused_by_field() {
        for (field, value) in [
            ("use_dora", json!(true)),
            ("peft_type", json!("IA3")),
            ("modules_to_save", json!(["lm_head"])),
            ("bias", json!("all")),
            ("lora_bias", json!(true)),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("init_lora_weights", json!("lora_ga")),
            ("init_lora_weights", json!("loftq")),
            ("alora_invocation_tokens", json!([1, 2])),
            ("trainable_token_indices", json!({"lm_head": [1]})),
            ("kasa_config", json!({"beta": 1.0})),
            ("arrow_config", json!({"top_k": 2})),
            ("monteclora_config", json!({"num_samples": 2})),
            ("target_parameters", json!(["mlp.experts"])),
        ] {
            let error = Rules::read(&json!({ field: value })).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(field) && text.contains("hint:"), "{text}");
        }
        let plain = json!({"peft_type": "LORA", "bias": "none", "modules_to_save": null, "use_dora": false});
        assert!(Rules::read(&plain).is_ok());
    }

    /// PEFT's answer to each configuration; `tests/reference/peft_rules.py` made them.
    fn by_peft() -> Value {
        serde_json::from_str(include_str!("../../../../tests/fixtures/peft_rules.json")).unwrap()
    }

    #[test]
    fn every_field_of_peft_is_known() {
        let fields: Map<String, Value> = by_peft()["fields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|field| (field.as_str().unwrap().to_owned(), json!("on")))
            .collect();
        assert!(fields.len() > 40);
        assert_eq!(unknown(&fields), None);
    }

    #[test]
    fn modules_ranks_and_scales_are_pefts() {
        let found = by_peft();
        let cases = found["cases"].as_array().unwrap();
        assert!(cases.len() > 90);
        for case in cases {
            let config = &case["config"];
            let form = case["form"].as_str().unwrap();
            // Without targets PEFT asks the architecture, which it does not know; here the tensors
            // tell.
            if config.get("target_modules").is_none() {
                continue;
            }
            let paths = linear_layers(form == "full");
            let shapes = Rules::read(config).and_then(|rules| {
                let mut shapes = Vec::new();
                for path in &paths {
                    if let Some(shape) = rules.shape(path)? {
                        shapes.push((path.clone(), shape));
                    }
                }
                Ok(shapes)
            });
            let Some(modules) = case["modules"].as_object() else {
                let is_refused = shapes.as_ref().map_or(true, Vec::is_empty);
                assert!(is_refused, "{form} {config}: PEFT says {}", case["error"]);
                continue;
            };
            let shapes = shapes.unwrap_or_else(|e| panic!("{form} {config}: {e}"));
            // maqam adapts no head.
            let expected: Vec<_> = modules
                .iter()
                .filter(|(path, _)| !path.ends_with("lm_head"))
                .collect();
            assert_eq!(shapes.len(), expected.len(), "{form} {config}");
            for (path, shape) in shapes {
                let expected = &modules[&path];
                assert_eq!(expected[0], shape.rank, "{form} {config}: {path}");
                let scale = expected[1].as_f64().unwrap();
                assert!(
                    (shape.scale - scale).abs() < 1e-12,
                    "{form} {config}: {path}"
                );
            }
        }
    }

    /// Paths of the linear layers of `tests/fixtures/qwen_omni`.
    fn linear_layers(is_full: bool) -> Vec<String> {
        let encoder = (0..2).flat_map(|layer| {
            let names =
                ["q_proj", "k_proj", "v_proj", "out_proj"].map(|n| format!("self_attn.{n}"));
            let names = names.into_iter().chain(["fc1".into(), "fc2".into()]);
            names.map(move |name: String| format!("audio_tower.layers.{layer}.{name}"))
        });
        let decoder = (0..3).flat_map(|layer| {
            let attention =
                ["q_proj", "k_proj", "v_proj", "o_proj"].map(|n| format!("self_attn.{n}"));
            let mlp = ["gate_proj", "up_proj", "down_proj"].map(|n| format!("mlp.{n}"));
            let names = attention.into_iter().chain(mlp);
            names.map(move |name| format!("model.layers.{layer}.{name}"))
        });
        let all = encoder
            .chain(["audio_tower.proj".to_owned()])
            .chain(decoder);
        all.map(|path| {
            if is_full {
                format!("thinker.{path}")
            } else {
                path
            }
        })
        .collect()
    }

    #[test]
    fn an_unknown_field_that_is_on_is_noted() {
        let notes = |value: Value| Rules::read(&json!({"use_novel": value})).unwrap().notes;
        assert!(notes(json!(true))[0].contains("`use_novel` (true)"));
        assert!(notes(json!(false)).is_empty() && notes(Value::Null).is_empty());
    }
}
