//! Merging of adapters that were trained apart into one, on the matrices `BA` that they add.
//!
//! Merging `A` and `B` by themselves would not be the sum of what the adapters add: the mean of
//! products is not the product of means.

mod folders;
mod low_rank;
mod ties;

pub use folders::Request;
pub use folders::merge_folders;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Unexpected;
use serde::de::Visitor;

use crate::error::Error;
use crate::error::Result;
use crate::merge::low_rank::Pair;
use crate::nn::lora::Plan;
use crate::nn::lora::Shape;
use crate::nn::lora::Variant;
use crate::nn::peft::Adapter;

/// Rule by which adapters become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Weighted sum of the matrices.
    #[default]
    Linear,
    /// Trim, elect sign, merge (Yadav et al. 2023, arXiv 2306.01708), as PEFT's `ties_svd`: each
    /// matrix keeps its largest values, every place takes the sign with the larger sum, and the
    /// weighted values of that sign are averaged.
    Ties,
}

impl Method {
    /// Name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Ties => "ties",
        }
    }

    /// Weight of each of `count` adapters where none is given: an average for `linear`, 1 for
    /// `ties`, which averages itself.
    fn default_weight(self, count: usize) -> f64 {
        match self {
            Self::Linear => 1.0 / count as f64,
            Self::Ties => 1.0,
        }
    }
}

/// Rank of the merged adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rank {
    /// Sum of the ranks of the adapters of a module: exact for `linear`, whose matrices are
    /// concatenated.
    #[default]
    Sum,
    /// A number, not above the smaller side of a module's matrix.
    Of(usize),
    /// The smaller side of each module's matrix: exact for every method.
    Full,
}

impl Rank {
    /// Returns whether it is the sum of the adapters' ranks.
    pub fn is_sum(&self) -> bool {
        *self == Self::Sum
    }
}

impl Serialize for Rank {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Sum => serializer.serialize_none(),
            Self::Of(rank) => rank.serialize(serializer),
            Self::Full => serializer.serialize_str(FULL),
        }
    }
}

impl<'de> Deserialize<'de> for Rank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(RankVisitor)
    }
}

/// Name of [`Rank::Full`] in files.
const FULL: &str = "full";

struct RankVisitor;

impl Visitor<'_> for RankVisitor {
    type Value = Rank;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number or `full`")
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Rank, E> {
        Ok(Rank::Sum)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<Rank, E> {
        usize::try_from(value).map(Rank::Of).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<Rank, E> {
        match value {
            FULL => Ok(Rank::Full),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }
}

/// Settings of a merge.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Rule by which adapters become one.
    pub method: Method,
    /// Weight of each adapter, in their order; the method's own where there is none.
    pub weights: Option<Vec<f64>>,
    /// Share of the values of each matrix that `ties` keeps.
    pub density: f64,
    /// Rank of the merged adapter.
    pub rank: Rank,
}

/// Share of values that `ties` keeps where none is given: the paper's 20 %.
pub const DEFAULT_DENSITY: f64 = 0.2;

impl Default for Settings {
    fn default() -> Self {
        Self {
            method: Method::default(),
            weights: None,
            density: DEFAULT_DENSITY,
            rank: Rank::default(),
        }
    }
}

impl Settings {
    /// Checks the settings for `count` adapters, and returns the weight of each.
    ///
    /// # Errors
    /// Fewer than two adapters, another number of weights, values outside their range, a density
    /// beside `linear`, which keeps all values.
    pub fn check(&self, count: usize) -> Result<Vec<f64>> {
        if count < 2 {
            return Err(Error::input(format!("{count} adapter to merge"))
                .hint("name at least two adapters"));
        }
        if !(self.density > 0.0 && self.density <= 1.0) {
            return Err(Error::input(format!("the density is {}", self.density))
                .hint("give a share of the values in (0, 1]"));
        }
        if self.method == Method::Linear && self.density != DEFAULT_DENSITY {
            return Err(Error::input(format!(
                "the density is {} beside the method `linear`, on which it has no effect",
                self.density
            ))
            .hint("leave the density out, or choose the method `ties`"));
        }
        if self.rank == Rank::Of(0) {
            return Err(Error::input("the rank is 0").hint("give a rank of 1 or more, or `full`"));
        }
        let Some(weights) = &self.weights else {
            return Ok(vec![self.method.default_weight(count); count]);
        };
        if weights.len() != count {
            return Err(
                Error::input(format!("{} weights for {count} adapters", weights.len()))
                    .hint("give one weight for each adapter, in their order"),
            );
        }
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return Err(Error::input(format!("a weight is {weight}")).hint("give finite numbers"));
        }
        Ok(weights.clone())
    }
}

/// Adapters merged into one.
pub struct Merged {
    /// Modules with their ranks; every scale is 1.
    pub plan: Plan,
    /// `lora_A` `[rank, in]` and `lora_B` `[out, rank]` by module path.
    pub tensors: BTreeMap<String, (Tensor, Tensor)>,
    /// Distance of what is written from the merged matrices, relative to their length: the root
    /// of a sum of squares over all modules.
    pub error: f64,
    /// The module with the largest relative distance, and that distance.
    pub worst: Option<(String, f64)>,
}

/// Squared lengths of a merged matrix, and of its distance from what is written.
#[derive(Clone, Copy, Default)]
struct Squares {
    whole: f64,
    lost: f64,
}

impl Squares {
    fn relative(self) -> f64 {
        if self.lost == 0.0 {
            0.0
        } else {
            (self.lost / self.whole).sqrt()
        }
    }
}

/// Merges adapters of one model. `watch` is told of each module before its turn: number done and
/// number of all.
///
/// A module that only some adapters have is merged from those.
///
/// # Errors
/// As [`Settings::check`]; adapters that replace embeddings of tokens, which are not sums.
pub fn merge(
    adapters: &[Adapter],
    settings: &Settings,
    watch: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Merged> {
    let weights = settings.check(adapters.len())?;
    if adapters.iter().any(|adapter| adapter.rows.is_some()) {
        return Err(Error::input(
            "an adapter replaces embeddings of tokens, which cannot be merged",
        )
        .hint("merge adapters that were trained without `train.audio_tokens`"));
    }

    let modules: BTreeSet<&String> = adapters
        .iter()
        .flat_map(|adapter| adapter.tensors.keys())
        .collect();
    let mut merged = Merged {
        plan: Plan::default(),
        tensors: BTreeMap::new(),
        error: 0.0,
        worst: None,
    };
    let mut all = Squares::default();
    for (done, module) in modules.iter().enumerate() {
        watch(done, modules.len())?;
        let parts = parts(adapters, &weights, module);
        let (pair, squares) = merge_module(&parts, settings)?;
        all.whole += squares.whole;
        all.lost += squares.lost;
        let worst = merged.worst.as_ref().map_or(0.0, |(_, error)| *error);
        if squares.relative() > worst {
            merged.worst = Some(((*module).clone(), squares.relative()));
        }

        let rank = pair.a.dim(0)?;
        let shape = Shape {
            rank,
            alpha: rank as f64,
            scale: Variant::Lora.scale(rank as f64, rank),
        };
        merged.plan.modules.insert((*module).clone(), shape);
        merged.tensors.insert((*module).clone(), (pair.a, pair.b));
    }
    merged.error = all.relative();
    Ok(merged)
}

/// Adapter of one module with its weight.
struct Part<'a> {
    /// `[rank, in]`.
    a: &'a Tensor,
    /// `[out, rank]`.
    b: &'a Tensor,
    /// Factor of `BA` in what the adapter adds.
    scale: f64,
    /// Weight in the merge.
    weight: f64,
}

impl Part<'_> {
    /// What the adapter adds, without its weight: `[out, in]`, in `f32` as PEFT computes it.
    fn delta(&self) -> Result<Tensor> {
        Ok((self.b.matmul(self.a)? * self.scale)?)
    }
}

/// The adapters that a module has.
fn parts<'a>(adapters: &'a [Adapter], weights: &[f64], module: &str) -> Vec<Part<'a>> {
    let mut found = Vec::new();
    for (adapter, &weight) in adapters.iter().zip(weights) {
        if let Some((a, b)) = adapter.tensors.get(module)
            && let Some(shape) = adapter.plan.modules.get(module)
        {
            found.push(Part {
                a,
                b,
                scale: shape.scale,
                weight,
            });
        }
    }
    found
}

fn merge_module(parts: &[Part], settings: &Settings) -> Result<(Pair, Squares)> {
    if settings.method == Method::Linear && settings.rank == Rank::Sum {
        return Ok((concatenated(parts)?, Squares::default()));
    }
    let delta = match settings.method {
        Method::Linear => sum(parts)?,
        Method::Ties => ties_of(parts, settings.density)?,
    };
    let (outputs, inputs) = delta.dims2()?;
    let full = outputs.min(inputs);
    let mut sum_of_ranks = 0;
    for part in parts {
        sum_of_ranks += part.a.dim(0)?;
    }
    let rank = match settings.rank {
        Rank::Sum => sum_of_ranks.min(full),
        Rank::Of(rank) => rank.min(full),
        Rank::Full => full,
    };
    let whole = square(&delta)?;
    if rank == full {
        let squares = Squares { whole, lost: 0.0 };
        return Ok((low_rank::exact(&delta)?, squares));
    }

    let pair = low_rank::truncated(&delta, rank)?;
    let lost = square(&(&delta - pair.product()?)?)?;
    Ok((pair, Squares { whole, lost }))
}

/// The weighted sum by concatenation of the ranks.
fn concatenated(parts: &[Part]) -> Result<Pair> {
    let downs: Vec<&Tensor> = parts.iter().map(|part| part.a).collect();
    let mut ups = Vec::with_capacity(parts.len());
    for part in parts {
        ups.push((part.b * (part.weight * part.scale))?);
    }
    Ok(Pair {
        a: Tensor::cat(&downs, 0)?.contiguous()?,
        b: Tensor::cat(&ups, 1)?.contiguous()?,
    })
}

/// The weighted sum as a matrix.
fn sum(parts: &[Part]) -> Result<Tensor> {
    Ok(concatenated(parts)?.product()?)
}

/// The merge by [`Method::Ties`] as a matrix.
fn ties_of(parts: &[Part], density: f64) -> Result<Tensor> {
    let (outputs, _) = parts[0].b.dims2()?;
    let (_, inputs) = parts[0].a.dims2()?;
    let mut deltas = Vec::with_capacity(parts.len());
    let mut weights = Vec::with_capacity(parts.len());
    for part in parts {
        deltas.push(part.delta()?.flatten_all()?.to_vec1::<f32>()?);
        weights.push(part.weight as f32);
    }
    let merged = ties::merge(deltas, &weights, density);
    Ok(Tensor::from_vec(merged, (outputs, inputs), &Device::Cpu)?)
}

/// Sum of squares, in `f64`.
fn square(matrix: &Tensor) -> Result<f64> {
    let values = matrix.to_dtype(DType::F64)?.flatten_all()?;
    Ok(values.sqr()?.sum_all()?.to_scalar::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_fit_no_merge_are_refused() {
        let weights = |weights: &[f64]| Settings {
            weights: Some(weights.to_vec()),
            ..Settings::default()
        };
        assert_eq!(Settings::default().check(4).unwrap(), [0.25; 4]);
        let ties = Settings {
            method: Method::Ties,
            ..Settings::default()
        };
        assert_eq!(ties.check(2).unwrap(), [1.0; 2]);
        assert_eq!(weights(&[2.0, -1.0]).check(2).unwrap(), [2.0, -1.0]);
        for (settings, count, found) in [
            (Settings::default(), 1, "1 adapter to merge"),
            (weights(&[1.0]), 2, "1 weights for 2 adapters"),
            (weights(&[1.0, f64::NAN]), 2, "a weight is NaN"),
            (
                Settings {
                    density: 0.0,
                    ..Settings::default()
                },
                2,
                "the density is 0",
            ),
            (
                Settings {
                    density: 0.5,
                    ..Settings::default()
                },
                2,
                "the density is 0.5 beside the method `linear`",
            ),
            (
                Settings {
                    rank: Rank::Of(0),
                    ..Settings::default()
                },
                2,
                "the rank is 0",
            ),
        ] {
            let error = settings.check(count).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
    }
}
