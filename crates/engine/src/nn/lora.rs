//! Which modules get adapters, of which rank and scale, and how they start.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;

use rand_distr::Distribution;
use rand_distr::StandardNormal;
use regex::Regex;
use serde::Deserialize;
use serde::Serialize;

use crate::nn::naming::NameForm;
use crate::nn::patterns;
use crate::nn::patterns::Patterns;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::Part;
use maqam_base::parts::Parts;
use maqam_base::parts::Training;
use maqam_base::seed::Key;
use maqam_base::yaml;

/// `lora:` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Rank of every adapter.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Share of the adapters' inputs that is dropped in training.
    pub dropout: f64,
    /// Which linear layers get one.
    pub targets: Targets,
    /// Rule by which the scale follows the rank.
    pub variant: Variant,
    /// Ranks that differ, by regular expressions over the ends of module paths; the first that
    /// matches counts, as in PEFT.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub rank_pattern: Patterns,
    /// Numerators of the scale that differ, likewise.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub alpha_pattern: Patterns,
    /// Which modules share a dropout mask; `per_module` where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout_masks: Option<Masks>,
    /// `default`, `gaussian`, or the path of a PEFT folder to go on from.
    pub init: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets: Targets::Named("attention".into()),
            variant: Variant::Lora,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            dropout_masks: None,
            init: "default".into(),
        }
    }
}

impl Settings {
    /// Rank and scale of a module's adapter.
    ///
    /// # Errors
    /// A pattern that is no regular expression, or that gives a rank or an alpha that is none; the
    /// message names the key.
    fn shape(&self, path: &str) -> Result<Shape> {
        let found = self.rank_pattern.find(path);
        let rank = found
            .map_err(|e| e.at("`lora.rank_pattern`"))?
            .unwrap_or(self.rank as f64);
        let found = self.alpha_pattern.find(path);
        let alpha = found
            .map_err(|e| e.at("`lora.alpha_pattern`"))?
            .unwrap_or(self.alpha);
        if rank < 1.0 || rank.fract() != 0.0 {
            return Err(Error::input(format!(
                "`lora.rank_pattern` gives rank {rank} for `{path}`, expected a whole number above 0"
            )));
        }
        if !(alpha.is_finite() && alpha > 0.0) {
            return Err(Error::input(format!(
                "`lora.alpha_pattern` gives {alpha} for `{path}`, expected a number above 0"
            )));
        }
        Ok(Shape {
            rank: rank as usize,
            alpha,
            scale: self.variant.scale(alpha, rank as usize),
        })
    }
}

/// `attention`, `mlp`, `all-linear`, a list of names, or a regular expression over module paths.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Targets {
    /// A preset's name, or a regular expression that must match a whole module path.
    Named(String),
    /// Names of modules: a path's last parts.
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Targets;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("`attention`, `mlp`, `all-linear`, a regular expression, or a list of module names")
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Targets, E> {
                Ok(Targets::Named(text.to_owned()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Targets, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Targets::List(names))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Which adapted modules share a dropout mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Masks {
    /// Every module draws its own, as in PEFT.
    #[default]
    PerModule,
    /// Modules that read the same input share one: query, key and value; gate and up. Runs that
    /// began before there was a choice.
    Shared,
}

/// Rule by which an adapter's scale follows its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// alpha / rank (Hu et al. 2021).
    Lora,
    /// alpha / sqrt(rank) (Kalajdzievski 2023).
    Rslora,
}

impl Variant {
    /// The factor of what an adapter adds.
    pub fn scale(self, alpha: f64, rank: usize) -> f64 {
        match self {
            Self::Lora => alpha / rank as f64,
            Self::Rslora => alpha / (rank as f64).sqrt(),
        }
    }
}

/// One linear layer of the model that an adapter can sit on.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Path in the checkpoint, without `.weight`.
    pub path: String,
    /// The part it belongs to.
    pub part: Part,
    /// Width of its input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
}

/// Modules of a model that can be adapted, and the ways in which files write their paths.
#[derive(Clone, Debug)]
pub struct Adaptable {
    /// Folder of the model, for messages.
    pub source: PathBuf,
    /// Every linear layer that can be adapted, in the order of the model.
    pub modules: Vec<Module>,
    /// Table of token embeddings, of which adapters may replace rows: `outputs` tokens of `inputs`
    /// numbers.
    pub embeddings: Module,
    /// Weight of the head, where that is the table of token embeddings.
    pub tied_head: Option<String>,
    /// Ways in which adapters name them; the first is the one that is written unless told.
    pub forms: &'static [NameForm],
}

/// Targets that have a name of their own.
const PRESETS: [&str; 3] = ["attention", "mlp", "all-linear"];

/// Parts of the paths of attention's linear layers: in the families, and in HuBERT.
const ATTENTION: [&str; 2] = [".self_attn.", ".attention."];

/// Parts of the paths of a feed-forward part's linear layers: in decoders, and in HuBERT.
const MLP: [&str; 2] = [".mlp.", ".feed_forward."];

/// Names of the linear layers of an encoder's feed-forward part.
const ENCODER_MLP: [&str; 2] = ["fc1", "fc2"];

/// Rank and scale of one module's adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Rank.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Factor of what the adapter adds.
    pub scale: f64,
}

/// Which modules carry an adapter, and of which shape; which embeddings and parts are trained
/// themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By module path.
    pub modules: BTreeMap<String, Shape>,
    /// The parts whose own weights are trained.
    pub full: Vec<Part>,
    /// Ids of the tokens whose embeddings are trained, all different. The embeddings belong to the
    /// projector.
    pub tokens: Vec<u32>,
    /// Characters that a CTC head on the projector's output spells; none without such a head.
    pub ctc: Vec<char>,
    /// Share of the adapters' inputs that is dropped in training.
    pub dropout: f64,
    /// Which modules share a dropout mask.
    pub masks: Masks,
}

impl Plan {
    /// The adapters a recipe asks for.
    ///
    /// # Errors
    /// A rank of 0, a dropout outside `[0, 1)`, a target that matches nothing; the message names
    /// the key.
    pub fn from_settings(settings: &Settings, parts: &Parts, model: &Adaptable) -> Result<Self> {
        if settings.rank == 0 {
            return Err(Error::input("`lora.rank` is 0")
                .hint("set a part to `frozen` under `train` to leave it without an adapter"));
        }

        if !(0.0..1.0).contains(&settings.dropout) {
            return Err(Error::input(format!(
                "`lora.dropout` is {}, expected a share in [0, 1)",
                settings.dropout
            )));
        }

        if !(settings.alpha.is_finite() && settings.alpha > 0.0) {
            return Err(Error::input(format!(
                "`lora.alpha` is {}, expected a number above 0",
                settings.alpha
            )));
        }

        let trained: Vec<&Module> = model
            .modules
            .iter()
            .filter(|module| parts.of(module.part) == Training::Lora)
            .collect();
        let full = Part::ALL
            .into_iter()
            .filter(|&part| parts.of(part) == Training::Full)
            .collect();
        let masks = settings.dropout_masks.unwrap_or_default();

        if trained.is_empty() {
            return Ok(Self {
                full,
                dropout: settings.dropout,
                masks,
                ..Self::default()
            });
        }

        let mut chosen = BTreeMap::new();
        for target in settings.targets.selectors()? {
            let mut matched = Vec::new();
            for module in &trained {
                if target.matches(module)? {
                    matched.push(*module);
                }
            }
            if matched.is_empty() {
                return Err(Error::input(format!(
                    "`lora.targets`: `{}` matches no linear layer of the parts set to `lora`",
                    target.written
                ))
                .hint(match yaml::nearest(&target.written, PRESETS.into_iter()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("layers have paths like {}", trained[0].path),
                }));
            }
            for module in matched {
                chosen.insert(module.path.clone(), settings.shape(&module.path)?);
            }
        }

        Ok(Self {
            modules: chosen,
            full,
            dropout: settings.dropout,
            masks,
            ..Self::default()
        })
    }

    /// Whether something is trained that a PEFT folder holds.
    pub fn has_adapter(&self) -> bool {
        !self.modules.is_empty() || !self.tokens.is_empty()
    }

    /// The regular expression that names exactly these modules to PEFT.
    pub fn regex(&self) -> String {
        regex_of(self.modules.keys())
    }

    /// `targets` of a recipe that select exactly these modules, as YAML: a preset, names of
    /// modules, or else a regular expression.
    fn targets(&self, model: &Adaptable) -> String {
        for preset in PRESETS {
            if self.is_selected_by(&Targets::Named(preset.to_owned()), model) {
                return preset.to_owned();
            }
        }
        let last = |path: &String| path.rsplit('.').next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = self.modules.keys().map(last).collect();
        let names: Vec<String> = names.into_iter().collect();
        if self.is_selected_by(&Targets::List(names.clone()), model) {
            return format!("[{}]", names.join(", "));
        }
        format!("'{}'", self.regex())
    }

    /// Returns whether targets select exactly these modules among the parts of `model` that have
    /// adapters.
    fn is_selected_by(&self, targets: &Targets, model: &Adaptable) -> bool {
        let has_adapter = |module: &Module| self.modules.contains_key(&module.path);
        let adapted = model.modules.iter().filter(|module| has_adapter(module));
        let parts: BTreeSet<Part> = adapted.map(|module| module.part).collect();
        let selectors = targets.selectors().unwrap_or_default();

        model.modules.iter().all(|module| {
            let mut selectors = selectors.iter();
            let is_selected = parts.contains(&module.part)
                && selectors.any(|selector| selector.matches(module).unwrap_or(false));
            is_selected == has_adapter(module)
        })
    }

    /// Settings under `lora` of a recipe for `model` that give these adapters, as YAML on one line.
    pub fn as_yaml(&self, variant: Variant, model: &Adaptable) -> String {
        let rank_of = |shape: &Shape| shape.rank as f64;
        let alpha_of = |shape: &Shape| shape.alpha;
        let rank = self.most_common(rank_of);
        let alpha = self.most_common(alpha_of);
        let mut fields = vec![
            format!("rank: {rank}"),
            format!("alpha: {alpha}"),
            format!("targets: {}", self.targets(model)),
        ];
        if variant == Variant::Rslora {
            fields.push("variant: rslora".to_owned());
        }
        let ranks = self.exceptions(rank_of, rank);
        let alphas = self.exceptions(alpha_of, alpha);
        for (field, patterns) in [("rank_pattern", ranks), ("alpha_pattern", alphas)] {
            if !patterns.is_empty() {
                fields.push(format!("{field}: {{{patterns}}}"));
            }
        }
        fields.join(", ")
    }

    /// The value that most modules have; 1 where there are none.
    pub fn most_common(&self, value: impl Fn(&Shape) -> f64) -> f64 {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for shape in self.modules.values() {
            *counts.entry(value(shape).to_bits()).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map_or(1.0, |(bits, _)| f64::from_bits(bits))
    }

    /// Patterns of the modules whose value is not the usual one, as YAML.
    fn exceptions(&self, value: impl Fn(&Shape) -> f64, usual: f64) -> String {
        let mut by_value: BTreeMap<u64, Vec<&String>> = BTreeMap::new();
        for (path, shape) in &self.modules {
            let of_module = value(shape);
            if of_module != usual {
                by_value.entry(of_module.to_bits()).or_default().push(path);
            }
        }
        by_value
            .into_iter()
            .map(|(bits, paths)| format!("'{}': {}", regex_of(paths), f64::from_bits(bits)))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// A regular expression that matches exactly these module paths, for PEFT.
pub fn regex_of<'a>(paths: impl IntoIterator<Item = &'a String>) -> String {
    // Layer numbers are folded together where every layer has the same modules; other paths are
    // listed.
    let mut by_kind: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let layer = Layer::pattern();

    let mut single = Vec::new();
    for path in paths {
        match layer.captures(path) {
            Some(found) => by_kind
                .entry(format!("{}\n{}", &found[1], &found[3]))
                .or_default()
                .push(found[2].parse().unwrap_or_default()),
            None => single.push(regex::escape(path)),
        }
    }

    let mut groups: BTreeMap<(String, Vec<usize>), Vec<String>> = BTreeMap::new();
    for (kind, mut layers) in by_kind {
        layers.sort_unstable();
        let (stem, name) = kind.split_once('\n').unwrap_or_default();
        groups
            .entry((stem.to_owned(), layers))
            .or_default()
            .push(regex::escape(name));
    }

    let mut parts: Vec<String> = groups
        .into_iter()
        .map(|((stem, layers), names)| {
            let numbers = layers
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("|");
            format!(
                "{}\\.({numbers})\\.({})",
                regex::escape(&stem),
                names.join("|")
            )
        })
        .collect();
    parts.extend(single);

    if parts.len() == 1 {
        parts.remove(0)
    } else {
        format!("({})", parts.join("|"))
    }
}

struct Layer;

impl Layer {
    #[expect(
        clippy::unwrap_used,
        reason = "the pattern is a constant, compiled in a test"
    )]
    fn pattern() -> Regex {
        Regex::new(r"^(.*layers)\.(\d+)\.(.+)$").unwrap()
    }
}

struct Selector {
    written: String,
    rule: Rule,
}

enum Rule {
    Attention,
    Mlp,
    All,
    Name(String),
    Pattern(fancy_regex::Regex),
}

impl Targets {
    fn selectors(&self) -> Result<Vec<Selector>> {
        match self {
            Self::Named(name) => {
                let rule = match name.as_str() {
                    "attention" => Rule::Attention,
                    "mlp" => Rule::Mlp,
                    "all-linear" => Rule::All,
                    pattern => {
                        Rule::Pattern(patterns::whole(pattern).map_err(|e| e.at("`lora.targets`"))?)
                    }
                };
                Ok(vec![Selector {
                    written: name.clone(),
                    rule,
                }])
            }
            Self::List(names) if names.is_empty() => {
                Err(Error::input("`lora.targets` is an empty list"))
            }
            Self::List(names) => Ok(names
                .iter()
                .map(|name| Selector {
                    written: name.clone(),
                    rule: Rule::Name(name.clone()),
                })
                .collect()),
        }
    }
}

impl Selector {
    fn matches(&self, module: &Module) -> Result<bool> {
        let path = module.path.as_str();
        Ok(match &self.rule {
            Rule::All => true,
            Rule::Attention => ATTENTION.iter().any(|part| path.contains(part)),
            Rule::Mlp => {
                MLP.iter().any(|part| path.contains(part))
                    || ENCODER_MLP.iter().any(|name| ends_with(path, name))
            }
            Rule::Name(name) => ends_with(path, name),
            Rule::Pattern(pattern) => patterns::is_match(pattern, path)?,
        })
    }
}

/// Whether the last parts of a path are a name.
fn ends_with(path: &str, name: &str) -> bool {
    path == name
        || path
            .strip_suffix(name)
            .is_some_and(|stem| stem.ends_with('.'))
}

/// Initialisation of fresh adapters; B is zero in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// A uniform in +-1/sqrt(inputs): PEFT's default, Kaiming's rule with a = sqrt(5).
    Default,
    /// A normal with a standard deviation of 1/rank: PEFT's `gaussian`.
    Gaussian,
}

impl Init {
    /// The values of `lora_A`, `[rank, inputs]`, drawn from the stream of its name.
    pub fn down(self, name: &str, rank: usize, inputs: usize, seed: u64) -> Vec<f32> {
        let key = Key::new(seed, "init").with_name(name);
        let count = rank * inputs;
        match self {
            Self::Default => {
                let bound = 1.0 / (inputs as f64).sqrt();
                (0..count as u64)
                    .map(|i| ((2.0 * key.uniform(i) - 1.0) * bound) as f32)
                    .collect()
            }
            Self::Gaussian => {
                let mut generator = key.generator();
                (0..count)
                    .map(|_| {
                        <StandardNormal as Distribution<f64>>::sample(
                            &StandardNormal,
                            &mut generator,
                        ) / rank as f64
                    })
                    .map(|x| x as f32)
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers of an encoder, a projector, three layers of a decoder.
    fn model() -> Adaptable {
        let stem = "thinker.audio_tower";
        let encoder = (0..2).flat_map(|i| {
            ["q_proj", "k_proj", "v_proj", "out_proj"]
                .map(|name| format!("self_attn.{name}"))
                .into_iter()
                .chain(ENCODER_MLP.map(str::to_owned))
                .map(move |name| (format!("{stem}.layers.{i}.{name}"), Part::AudioEncoder))
        });
        let decoder = (0..3).flat_map(|i| {
            let attention =
                ["q_proj", "k_proj", "v_proj", "o_proj"].map(|n| format!("self_attn.{n}"));
            let mlp = ["gate_proj", "up_proj", "down_proj"].map(|n| format!("mlp.{n}"));
            attention
                .into_iter()
                .chain(mlp)
                .map(move |name| (format!("thinker.model.layers.{i}.{name}"), Part::Decoder))
        });
        Adaptable {
            source: PathBuf::new(),
            modules: encoder
                .chain([(format!("{stem}.proj"), Part::Projector)])
                .chain(decoder)
                .map(|(path, part)| Module {
                    path,
                    part,
                    inputs: 8,
                    outputs: 8,
                })
                .collect(),
            embeddings: Module {
                path: "thinker.model.embed_tokens".to_owned(),
                part: Part::Decoder,
                inputs: 8,
                outputs: 8,
            },
            tied_head: None,
            forms: &[],
        }
    }

    fn plan(targets: Targets, parts: Parts) -> Result<Plan> {
        Plan::from_settings(
            &Settings {
                targets,
                ..Settings::default()
            },
            &parts,
            &model(),
        )
    }

    fn everywhere() -> Parts {
        Parts {
            audio_encoder: Training::Lora,
            projector: Training::Lora,
            decoder: Training::Lora,
        }
    }

    #[test]
    fn targets_choose_what_the_design_says() {
        let named = |name: &str| Targets::Named(name.into());
        assert_eq!(
            plan(named("attention"), Parts::default())
                .unwrap()
                .modules
                .len(),
            3 * 4
        );
        assert_eq!(
            plan(named("mlp"), Parts::default()).unwrap().modules.len(),
            3 * 3
        );
        assert_eq!(
            plan(named("all-linear"), everywhere())
                .unwrap()
                .modules
                .len(),
            3 * 7 + 2 * 6 + 1
        );
        assert_eq!(
            plan(named("mlp"), everywhere()).unwrap().modules.len(),
            3 * 3 + 2 * 2
        );
        assert_eq!(
            plan(
                Targets::List(vec!["q_proj".into(), "proj".into()]),
                everywhere()
            )
            .unwrap()
            .modules
            .len(),
            3 + 2 + 1
        );
        let one = plan(
            named(r"thinker\.model\.layers\.1\..*q_proj"),
            Parts::default(),
        )
        .unwrap();
        assert_eq!(
            one.modules.keys().collect::<Vec<_>>(),
            ["thinker.model.layers.1.self_attn.q_proj"]
        );
    }

    #[test]
    fn a_target_that_matches_nothing_is_refused_by_name() {
        let error = plan(
            Targets::List(vec!["q_proj".into(), "qproj".into()]),
            Parts::default(),
        )
        .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`qproj` matches no linear layer"),
            "{error}"
        );
        let error = plan(Targets::Named("all_linear".into()), Parts::default()).unwrap_err();
        assert!(
            error.to_string().contains("did you mean `all-linear`?"),
            "{error}"
        );
    }

    #[test]
    fn the_expression_for_peft_matches_these_modules_and_no_others() {
        for (targets, parts) in [
            ("attention", Parts::default()),
            ("all-linear", everywhere()),
            ("mlp", everywhere()),
        ] {
            let plan = plan(Targets::Named(targets.into()), parts).unwrap();
            let pattern = Regex::new(&format!("^(?:{})$", plan.regex())).unwrap();
            for module in model().modules {
                assert_eq!(
                    pattern.is_match(&module.path),
                    plan.modules.contains_key(&module.path),
                    "{} in {pattern}",
                    module.path
                );
            }
            assert!(!pattern.is_match("talker.model.layers.0.self_attn.q_proj"));
        }
    }

    #[test]
    fn settings_of_an_adapter_are_short_and_select_it() {
        let names = |names: &[&str]| Targets::List(names.iter().map(|&n| n.to_owned()).collect());
        let named = |name: &str| Targets::Named(name.into());
        for (targets, parts, expected) in [
            (named("attention"), Parts::default(), "attention"),
            (named("mlp"), everywhere(), "mlp"),
            (named("all-linear"), everywhere(), "all-linear"),
            (
                names(&["v_proj", "q_proj"]),
                everywhere(),
                "[q_proj, v_proj]",
            ),
            (
                names(&["gate_proj", "up_proj", "down_proj"]),
                Parts::default(),
                "mlp",
            ),
            (
                named(r"thinker\.model\.layers\.1\..*q_proj"),
                Parts::default(),
                r"'thinker\.model\.layers\.(1)\.(self_attn\.q_proj)'",
            ),
        ] {
            let chosen = plan(targets, parts).unwrap();
            assert_eq!(chosen.targets(&model()), expected);
            let yaml = format!("{{{}}}", chosen.as_yaml(Variant::Lora, &model()));
            let settings: Settings = yaml::parse(&yaml, "lora".as_ref()).unwrap();
            let again = Plan::from_settings(&settings, &parts, &model()).unwrap();
            assert_eq!(again.modules, chosen.modules, "{yaml}");
        }
    }

    #[test]
    fn rslora_scales_by_the_root_of_the_rank() {
        assert_eq!(Variant::Lora.scale(32.0, 16), 2.0);
        assert_eq!(Variant::Rslora.scale(32.0, 16), 8.0);
    }

    #[test]
    fn fresh_adapters_have_the_moments_of_pefts() {
        let rank = 16;
        let inputs = 1024;
        let variance = |values: &[f32]| {
            values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64
        };
        let uniform = variance(&Init::Default.down("m", rank, inputs, 1));
        let normal = variance(&Init::Gaussian.down("m", rank, inputs, 1));
        assert!(
            (uniform * 3.0 * inputs as f64 - 1.0).abs() < 0.03,
            "{uniform}"
        );
        assert!(
            (normal * (rank * rank) as f64 - 1.0).abs() < 0.05,
            "{normal}"
        );
    }
}
