//! Merging what was trained into a checkpoint: W + scale B A, or the trained W, in a tree that has
//! one set of weights and a model card.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use candle_core::Tensor;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::View;
use serde_json::Map;
use serde_json::Value;

use crate::models::audio_encoder::sinusoids;
use crate::models::build::weight_shapes;
use crate::models::config::Config;
use crate::models::speech::SECTION;
use crate::models::speech::Speech;
use crate::models::speech::SpeechWeights;
use crate::models::trained::Trained;
use crate::nn::checkpoint;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::checkpoint::INDEX;
use crate::nn::checkpoint::NOT_FINITE_HINT;
use crate::nn::checkpoint::Number;
use crate::nn::checkpoint::SINGLE;
use crate::nn::checkpoint::StoredTensor;
use crate::nn::checkpoint::describe_not_finite;
use crate::nn::checkpoint::weight_files;
use crate::ops::cpu::slice;
use crate::ops::gemm::Into as Product;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::files::StagedDir;
use maqam_base::parts::Part;

/// Origin of an exported tree, for its model card.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Hub id or folder name of the base.
    pub base: String,
    /// The adapter or the run's checkpoint, as it was named.
    pub adapter: String,
}

/// Writes a full checkpoint tree to `out`, which must not exist: the weights that `trained` changes
/// are merged, in the type they are stored in (or `dtype`, which then all of them get), and every
/// other weight is copied. A folder without weights gets all of them from `trained`. Configuration,
/// tokenizer and templates are copied; a model card takes the place of the base's documents.
/// Returns the number of changed weights.
///
/// # Errors
/// Something trained whose weight the checkpoint does not hold; values that are not finite, or that
/// `dtype` cannot store; links that lead outside the folder and the Hub's cache. Nothing is left
/// behind then.
pub fn merge(
    model_dir: &Path,
    config: &Config,
    trained: &Trained,
    dtype: Option<Dtype>,
    origin: &Origin,
    out: &Path,
) -> Result<usize> {
    if out.exists() {
        return Err(Error::input("exists already")
            .at_path(out)
            .hint("name a folder that does not exist yet"));
    }

    let is_new = weight_files(model_dir).is_err()
        && weight_shapes(config)
            .keys()
            .all(|name| trained.full.contains_key(name) || is_of_speech_folder(config, name));
    let staged = StagedDir::new(out)?;

    let merged = if is_new {
        write_new(staged.path(), config, trained, dtype.unwrap_or(Dtype::F32))?
    } else {
        write_merged(model_dir, config, trained, dtype, staged.path())?
    };

    let has_code = checkpoint::read_json(&model_dir.join("config.json"))?["auto_map"].is_object();
    copy_the_rest(model_dir, model_dir, staged.path(), has_code)?;

    let stored = if is_new {
        dtype.or(Some(Dtype::F32))
    } else {
        dtype
    };

    write_config(model_dir, config, stored, staged.path())?;
    let loading = loading(config, out, staged.path());
    let card = model_card(config, trained, stored, merged, origin, out, &loading);
    files::write_atomic(&staged.path().join("README.md"), card.as_bytes())?;
    staged.commit()?;
    Ok(merged)
}

/// Whether a weight is one of the speech encoder's that are in a folder of their own.
fn is_of_speech_folder(config: &Config, name: &str) -> bool {
    let is_folder = |speech: &Speech| speech.weights != SpeechWeights::Model;
    config.speech.as_deref().is_some_and(is_folder)
        && config.names.part_of(name) == Part::AudioEncoder
}

/// Weights of a speech encoder and its projector that take the place of the tower's, which the
/// checkpoint holds.
struct Replacement {
    /// By their names in the model.
    tensors: BTreeMap<String, Tensor>,
    /// Number of them that were trained.
    num_trained: usize,
    /// The model with its own tower.
    tower: Config,
}

impl Replacement {
    /// `None` where the checkpoint holds the encoder that is used.
    fn of(config: &Config, trained: &Trained, checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let Some(speech) = &config.speech else {
            return Ok(None);
        };
        let shapes: BTreeMap<String, Vec<usize>> = weight_shapes(config)
            .into_iter()
            .filter(|(name, _)| config.names.part_of(name) != Part::Decoder)
            .collect();
        let is_stored = shapes.keys().all(|name| checkpoint.has(name));
        if is_stored && speech.weights == SpeechWeights::Model {
            return Ok(None);
        }

        let own = speech.tensors(config.names.encoder)?;
        let mut tensors = BTreeMap::new();
        let mut num_trained = 0;
        for (name, shape) in shapes {
            let full = trained.full.get(&name);
            let Some(tensor) = full.or_else(|| own.get(&name)) else {
                return Err(Error::input(format!(
                    "neither the checkpoint nor what was trained holds `{name}`"
                )));
            };
            let mut values = slice::<f32>(tensor)?.to_vec();
            let module = name.strip_suffix(".weight").unwrap_or_default();
            let is_adapted = add_adapter(trained, module, &mut values, &shape)?;
            num_trained += usize::from(full.is_some() || is_adapted);
            tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
        }
        Ok(Some(Self {
            tensors,
            num_trained,
            tower: config.with_tower(),
        }))
    }

    /// Whether a tensor of the checkpoint belongs to what is replaced.
    fn replaces(&self, config: &Config, full: &str) -> bool {
        let of = |config: &Config| config.names.part_of(full) != Part::Decoder;
        of(config) || of(&self.tower)
    }
}

/// Adds the product of a module's adapter, if it has one, to its weight; returns whether it has.
fn add_adapter(
    trained: &Trained,
    module: &str,
    values: &mut [f32],
    shape: &[usize],
) -> Result<bool> {
    let Some(adapter) = &trained.adapter else {
        return Ok(false);
    };
    let (Some(of_plan), Some((a, b))) = (
        adapter.plan.modules.get(module),
        adapter.tensors.get(module),
    ) else {
        return Ok(false);
    };
    add_product(values, shape, a, b, of_plan.scale)?;
    Ok(true)
}

/// Merges what was trained into the weights of a checkpoint, file by file.
fn write_merged(
    model_dir: &Path,
    config: &Config,
    trained: &Trained,
    dtype: Option<Dtype>,
    out: &Path,
) -> Result<usize> {
    let checkpoint = Checkpoint::open(model_dir, config.names.checkpoints)?;
    let embeddings = config.names.embeddings();
    let expected = trained.num_weights();

    let mut replacement = Replacement::of(config, trained, &checkpoint)?;
    let mut merged = replacement.as_ref().map_or(0, |new| new.num_trained);
    let mut places = Vec::new();
    for (path, tensors) in checkpoint.files() {
        let file = path
            .file_name()
            .ok_or_else(|| Error::bug("a checkpoint file without a name"))?;
        let mut written = Vec::new();
        for (name, stored) in tensors {
            let at = |e: Error| e.at(format!("`{name}`")).at_path(path);
            if let Some(error) = stored.not_finite() {
                return Err(at(error).hint(NOT_FINITE_HINT));
            }
            let full = checkpoint.full_name(&name);
            if let Some(new) = &replacement
                && new.replaces(config, &full)
            {
                continue;
            }
            // A tied head that is stored all the same follows the embeddings.
            let is_tied_head = full == config.names.head && config.text.tie_word_embeddings;
            let source = if is_tied_head { &embeddings } else { &full };
            let dtype = dtype.filter(|_| stored.is_float()).unwrap_or(stored.dtype);
            let changed = changed_values(trained, source, &stored).map_err(at)?;
            merged += usize::from(changed.is_some() && !is_tied_head);
            let bytes = match changed {
                Some(values) => Cow::Owned(narrowed(&values, &stored.shape, dtype).map_err(at)?),
                None if dtype != stored.dtype => {
                    let values = stored.values().unwrap_or_default();
                    Cow::Owned(narrowed(&values, &stored.shape, dtype).map_err(at)?)
                }
                None => Cow::Borrowed(stored.bytes),
            };
            places.push((
                name.clone(),
                file.to_string_lossy().into_owned(),
                bytes.len(),
            ));
            written.push((
                name,
                Written {
                    dtype,
                    shape: stored.shape,
                    bytes,
                },
            ));
        }
        // A speech encoder and its projector go into the first file.
        let new = replacement
            .as_mut()
            .map(|new| std::mem::take(&mut new.tensors));
        for (name, tensor) in new.into_iter().flatten() {
            let dtype = dtype.unwrap_or(Dtype::F32);
            let shape = tensor.dims().to_vec();
            let bytes = narrowed(&slice::<f32>(&tensor)?, &shape, dtype)
                .map_err(|e| e.at(format!("`{name}`")))?;
            let stored = checkpoint.stored_name(&name);
            places.push((
                stored.clone(),
                file.to_string_lossy().into_owned(),
                bytes.len(),
            ));
            written.push((
                stored,
                Written {
                    dtype,
                    shape,
                    bytes: Cow::Owned(bytes),
                },
            ));
        }
        files::write_safetensors(&out.join(file), written)?;
    }

    if merged != expected {
        return Err(Error::input(format!(
            "{expected} weights were trained, the checkpoint holds {merged} of them"
        ))
        .at_path(model_dir));
    }

    write_index(model_dir, &places, out)?;
    Ok(merged)
}

/// The values of a weight after training, by its full name; `None` if it was not trained.
fn changed_values(
    trained: &Trained,
    full: &str,
    stored: &StoredTensor,
) -> Result<Option<Vec<f32>>> {
    if let Some(adapter) = &trained.adapter
        && let Some(module) = full.strip_suffix(".weight")
        && let Some(shape) = adapter.plan.modules.get(module)
        && let Some((a, b)) = adapter.tensors.get(module)
    {
        return merged_values(stored, a, b, shape.scale).map(Some);
    }
    if let Some(adapter) = &trained.adapter
        && let Some(rows) = &adapter.rows
        && full.strip_suffix(".weight") == Some(rows.table.as_str())
    {
        return replaced_rows(stored, &adapter.plan.tokens, &rows.values).map(Some);
    }
    let Some(tensor) = trained.full.get(full) else {
        return Ok(None);
    };
    if tensor.dims() != stored.shape {
        return Err(Error::input(format!(
            "has shape {:?}, it was trained as {:?}",
            stored.shape,
            tensor.dims()
        )));
    }
    Ok(Some(slice::<f32>(tensor)?.to_vec()))
}

/// Writes the weights of a model that never had any but the trained ones.
fn write_new(out: &Path, config: &Config, trained: &Trained, dtype: Dtype) -> Result<usize> {
    let audio = &config.audio;
    // Positions are never trained; a model of a seed has sinusoids.
    let positions = config
        .names
        .positions
        .map(|name| Ok::<_, Error>((name.to_owned(), sinusoids(audio.n_window, audio.d_model)?)))
        .transpose()?;
    let names = config.names;
    let is_stored = config.text.tie_word_embeddings && names.stores_tied_head;
    let speech = match &config.speech {
        Some(speech) => speech.tensors(names.encoder)?,
        None => HashMap::new(),
    };
    let table = trained.full.get(&names.embeddings());
    let head = table
        .filter(|_| is_stored)
        .map(|table| (names.head.to_owned(), table.clone()));
    let stored = positions.iter().chain(&head);
    let stored = stored.map(|(name, tensor)| (name, tensor));
    let own = speech.iter().chain(&trained.full);
    let names: BTreeMap<&String, &Tensor> = own.chain(stored).collect();
    let written = names
        .iter()
        .map(|(name, tensor)| {
            let bytes = narrowed(&slice::<f32>(tensor)?, tensor.dims(), dtype)
                .map_err(|e| e.at(format!("`{name}`")))?;
            Ok((
                (*name).clone(),
                Written {
                    dtype,
                    shape: tensor.dims().to_vec(),
                    bytes: Cow::Owned(bytes),
                },
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    files::write_safetensors(&out.join(SINGLE), written)?;
    Ok(trained.full.len())
}

/// Writes the index of the shards that were written: the base's own where it says the same.
/// `places` are a tensor's name, its file and its bytes.
fn write_index(model_dir: &Path, places: &[(String, String, usize)], out: &Path) -> Result<()> {
    if places.iter().all(|(_, file, _)| file == SINGLE) {
        return Ok(());
    }
    let path = model_dir.join(INDEX);
    let mut index = checkpoint::read_json(&path)?;
    let map: Map<String, Value> = places
        .iter()
        .map(|(name, file, _)| (name.clone(), Value::from(file.as_str())))
        .collect();
    let total: usize = places.iter().map(|(_, _, bytes)| bytes).sum();
    let is_same = index["weight_map"].as_object().is_some_and(|old| {
        old.len() == map.len() && old.iter().all(|(name, file)| map.get(name) == Some(file))
    });
    if is_same && index["metadata"]["total_size"] == total {
        return files::copy(&path, &out.join(INDEX));
    }
    let mut sorted: Vec<(String, Value)> = map.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    index["metadata"]["total_size"] = Value::from(total);
    index["weight_map"] = Value::Object(sorted.into_iter().collect());
    write_json(&out.join(INDEX), &index)
}

/// Writes config.json with the type of the weights and with whether the head is the embedding
/// table; byte for byte the base's where that says the same.
fn write_config(model_dir: &Path, config: &Config, dtype: Option<Dtype>, out: &Path) -> Result<()> {
    let path = model_dir.join("config.json");
    let before = checkpoint::read_json(&path)?;
    let mut json = before.clone();
    if let Some(dtype) = dtype {
        set_dtype(&mut json, name_of(dtype));
    }
    let is_tied = config.text.tie_word_embeddings;
    if json["tie_word_embeddings"].is_boolean() {
        json["tie_word_embeddings"] = Value::from(is_tied);
    }
    let thinker = if json["thinker_config"].is_object() {
        &mut json["thinker_config"]
    } else {
        &mut json
    };
    if thinker["tie_word_embeddings"].as_bool().unwrap_or(false) != is_tied {
        thinker["tie_word_embeddings"] = Value::from(is_tied);
    }
    thinker["text_config"]["tie_word_embeddings"] = Value::from(is_tied);
    if let Some(speech) = &config.speech {
        json[SECTION] = speech.to_json(true)?;
    }
    if json == before {
        files::copy(&path, &out.join("config.json"))
    } else {
        write_json(&out.join("config.json"), &json)
    }
}

/// Sets the type of weights wherever a configuration says one.
fn set_dtype(json: &mut Value, name: &str) {
    let Some(object) = json.as_object_mut() else {
        return;
    };
    for (key, value) in object {
        if ["torch_dtype", "dtype"].contains(&key.as_str()) && value.is_string() {
            *value = Value::from(name);
        } else {
            set_dtype(value, name);
        }
    }
}

/// The name that configurations give a type.
pub fn name_of(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    }
}

fn write_json(path: &Path, json: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(json).map_err(Error::bug_from)?;
    files::write_atomic(path, format!("{text}\n").as_bytes())
}

/// The model card of an exported tree: what it is and how it is loaded. The licence is left to who
/// publishes it.
fn model_card(
    config: &Config,
    trained: &Trained,
    dtype: Option<Dtype>,
    merged: usize,
    origin: &Origin,
    out: &Path,
    loading: &str,
) -> String {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let Origin { base, adapter } = origin;
    let quoted = Value::from(base.as_str());
    let version = env!("CARGO_PKG_VERSION");
    let what = description(trained);
    let stored = dtype.map_or("the types of the base", name_of);
    let library = match (&config.speech, config.names.package) {
        (Some(_), _) => "maqam",
        (None, Some((package, _))) => package,
        (None, None) => "transformers",
    };
    let head = if config.text.tie_word_embeddings {
        "the embedding table (`tie_word_embeddings: true`)"
    } else {
        "a matrix of its own (`tie_word_embeddings: false`)"
    };
    let use_of_it = usage(config, &name, library, loading);
    format!(
        r#"---
base_model: {quoted}
library_name: {library}
# license: name the licence here; it has to agree with the licence of the base model
---

# {name}

{base} with `{adapter}` merged into it by maqam {version}.

| | |
|---|---|
| base | {base} |
| merged | `{adapter}`: {what}, {merged} weights changed |
| weights are stored in | {stored} |
| head of the decoder | {head} |

The licence is not stated here. State it before this model is published.

## Load it

{use_of_it}
"#
    )
}

/// How a tree of this name is used; `loading` is Python that loads it.
fn usage(config: &Config, name: &str, library: &str, loading: &str) -> String {
    if let Some(speech) = &config.speech {
        return format!(
            "A {} stands in place of the audio tower of {}. No class of transformers and no other server computes this; maqam does:\n\n\
             ```\nmaqam generate --model {name} --data rows.jsonl --out answers.jsonl\n```",
            speech.description(),
            config.names.family
        );
    }
    format!(
        "With {library}:\n\n```python\n{loading}\n```\n\nWith vLLM:\n\n```\nvllm serve {name}\n```"
    )
}

/// What was trained, for a model card.
fn description(trained: &Trained) -> String {
    let plan = trained.plan();
    let ranks: BTreeSet<usize> = plan.modules.values().map(|shape| shape.rank).collect();
    let ranks: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    let mut parts = Vec::new();
    if !ranks.is_empty() {
        parts.push(format!("a LoRA adapter of rank {}", ranks.join(", ")));
    }
    if !plan.tokens.is_empty() {
        parts.push(format!("the embeddings of {} tokens", plan.tokens.len()));
    }
    if !trained.full.is_empty() || parts.is_empty() {
        parts.push("weights that were trained whole".to_owned());
    }
    parts.join(", and ")
}

/// Python that loads an exported tree, called `out`, whose files are in `tree`.
fn loading(config: &Config, out: &Path, tree: &Path) -> String {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    if let Some((package, class)) = config.names.package {
        return format!(
            "from {package} import {class}\n\nmodel = {class}.from_pretrained(\"{name}\")"
        );
    }

    let (processor, class) = config.names.classes;
    let mut parts = Vec::new();
    if names_processor(tree) {
        parts.push(("processor", processor));
    } else {
        if tree.join("tokenizer_config.json").is_file() {
            parts.push(("tokenizer", "AutoTokenizer"));
        }
        if tree.join(PREPROCESSOR).is_file() {
            parts.push(("feature_extractor", "WhisperFeatureExtractor"));
        }
    }

    let imported: String = parts.iter().map(|(_, part)| format!("{part}, ")).collect();
    let mut text = format!(
        "from transformers import {imported}{class}\n\n\
         model = {class}.from_pretrained(\"{name}\", dtype=\"auto\")"
    );
    for (variable, part) in parts {
        text += &format!("\n{variable} = {part}.from_pretrained(\"{name}\")");
    }
    text
}

/// Settings of the feature extractor, and in full checkpoints of the processor.
const PREPROCESSOR: &str = "preprocessor_config.json";

/// Returns whether a folder names the class of its processor. Checkpoints that lack it (images,
/// videos) have the tokenizer and the feature extractor alone, and transformers does not load a
/// processor from them.
fn names_processor(tree: &Path) -> bool {
    ["processor_config.json", PREPROCESSOR].iter().any(|file| {
        checkpoint::read_json(&tree.join(file))
            .is_ok_and(|settings| settings["processor_class"].is_string())
    })
}

/// A tensor to write.
struct Written<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// `W + scale B A`, computed in `f32`.
fn merged_values(stored: &StoredTensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Vec<f32>> {
    let mut values = floats(stored)?;
    add_product(&mut values, &stored.shape, a, b, scale)?;
    Ok(values)
}

/// `W += scale B A`.
fn add_product(
    values: &mut [f32],
    shape: &[usize],
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> Result<()> {
    let (rank, inputs) = a.dims2()?;
    let (outputs, _) = b.dims2()?;
    if shape != [outputs, inputs] {
        return Err(Error::input(format!(
            "has shape {shape:?}, the adapter changes {:?}",
            [outputs, inputs]
        )));
    }
    let a = slice::<f32>(a)?;
    let b = slice::<f32>(b)?;
    product(
        values,
        inputs,
        Matrix::new(&b, outputs, rank),
        Matrix::new(&a, rank, inputs),
        scale,
        Product::Accumulate,
        Threads::All,
    );
    Ok(())
}

/// The values of a stored table with `rows` in place of those with the numbers `ids`, in `f32`.
fn replaced_rows(stored: &StoredTensor, ids: &[u32], rows: &Tensor) -> Result<Vec<f32>> {
    let (_, width) = rows.dims2()?;
    let mut values = floats(stored)?;
    let num_rows = values.len() / width;
    if stored.shape != [num_rows, width] || ids.iter().any(|&id| id as usize >= num_rows) {
        return Err(Error::input(format!(
            "has shape {:?}, the adapter changes rows {ids:?} of {width} numbers",
            stored.shape
        )));
    }
    for (row, &id) in slice::<f32>(rows)?.chunks_exact(width).zip(ids) {
        values[id as usize * width..][..width].copy_from_slice(row);
    }
    Ok(values)
}

/// The values of a stored weight, in `f32`.
///
/// # Errors
/// A weight that is not of floating-point numbers.
fn floats(stored: &StoredTensor) -> Result<Vec<f32>> {
    stored.values().ok_or_else(|| {
        Error::input(format!(
            "is stored as {:?}; maqam merges into F32, F16 and BF16",
            stored.dtype
        ))
    })
}

/// The bytes of values in a floating-point type.
///
/// # Errors
/// A value that is not finite, or that the type cannot store.
pub fn narrowed(values: &[f32], shape: &[usize], dtype: Dtype) -> Result<Vec<u8>> {
    let bytes = match dtype {
        Dtype::F16 => stored_as(values, half::f16::from_f32, half::f16::to_le_bytes),
        Dtype::BF16 => stored_as(values, half::bf16::from_f32, half::bf16::to_le_bytes),
        _ => stored_as(values, |x| x, f32::to_le_bytes),
    };
    bytes.ok_or_else(|| {
        let largest = values.iter().fold(0f32, |a, x| a.max(x.abs()));
        match describe_not_finite(values, shape) {
            Some(error) => error.hint(NOT_FINITE_HINT),
            None => Error::input(format!(
                "holds values up to {largest}, and {} stores at most {}",
                name_of(dtype),
                match dtype {
                    Dtype::F16 => half::f16::MAX.to_f32(),
                    _ => half::bf16::MAX.to_f32(),
                }
            ))
            .hint("leave --dtype out, or store the weights with --dtype bf16 or f32"),
        }
    })
}

/// Bytes of values, each converted; `None` if one is not finite then.
fn stored_as<const N: usize, T: Number>(
    values: &[f32],
    convert: impl Fn(f32) -> T + Sync,
    bytes_of: impl Fn(T) -> [u8; N] + Sync,
) -> Option<Vec<u8>> {
    let mut bytes = vec![0; values.len() * N];
    let are_finite = bytes
        .par_chunks_mut(N << 16)
        .zip(values.par_chunks(1 << 16))
        .map(|(bytes, values)| {
            let mut are_finite = true;
            for (out, &value) in bytes.chunks_exact_mut(N).zip(values) {
                let value = convert(value);
                are_finite &= value.is_finite();
                out.copy_from_slice(&bytes_of(value));
            }
            are_finite
        })
        .reduce(|| true, |a, b| a && b);
    are_finite.then_some(bytes)
}

/// Endings of files that belong to a model: configuration, tokenizer, templates.
const PARTS: [&str; 5] = [".json", ".jinja", ".txt", ".model", ".tiktoken"];
/// Beginnings of files that belong to a model under any ending.
const LEGAL: [&str; 5] = ["license", "licence", "notice", "copying", "use_policy"];
/// Endings of files that describe weights, or what a training kept beside them.
const OF_WEIGHTS: [&str; 3] = [
    ".safetensors.index.json",
    ".bin.index.json",
    "adapter_config.json",
];
/// Voices of the full model, without which transformers does not load it.
const SPEAKERS: &str = "spk_dict.pt";

/// Returns whether a file of a checkpoint's folder goes with the exported model. `has_code` is
/// whether the configuration names Python code.
fn is_part_of_model(name: &str, has_code: bool) -> bool {
    let plain = name.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| plain.ends_with(ending));

    if plain.starts_with('.') || plain.starts_with("readme") || ends(&OF_WEIGHTS) {
        return false;
    }
    name == SPEAKERS
        || LEGAL.iter().any(|word| plain.starts_with(word))
        || ends(&PARTS)
        || has_code && plain.ends_with(".py")
}

/// Copies what belongs to the model beside its weights: tokenizer, templates, speaker table,
/// licence. Other files stay behind, and config.json is written apart.
///
/// # Errors
/// Links that lead outside the folder and the Hub's cache, links to folders, and what is neither
/// file nor folder.
fn copy_the_rest(root: &Path, from: &Path, to: &Path, has_code: bool) -> Result<()> {
    let entries = std::fs::read_dir(from).map_err(|e| Error::io(from, "list", e))?;

    for entry in entries {
        let path = entry.map_err(|e| Error::io(from, "list", e))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_folder = path.is_dir() && !name.starts_with('.');
        let is_config = root == from && name == "config.json";
        if is_config || !is_folder && !is_part_of_model(&name, has_code) {
            continue;
        }
        let is_link = path.is_symlink();
        checkpoint::check_inside(root, &path)?;
        let metadata = std::fs::metadata(&path).map_err(|e| {
            Error::input(format!("a link that leads nowhere: {e}"))
                .caused_by(e)
                .at_path(&path)
                .hint("put the file itself there, or remove the link")
        })?;
        if metadata.is_dir() && !is_link {
            copy_the_rest(root, &path, &to.join(name), has_code)?;
        } else if metadata.is_file() {
            files::copy(&path, &to.join(name))?;
        } else {
            let found = if metadata.is_dir() {
                "a link to a folder"
            } else {
                "neither a file nor a folder"
            };
            return Err(Error::input(found).at_path(&path).hint(
                "remove it from the checkpoint's folder, or put what it stands for in its place",
            ));
        }
    }

    Ok(())
}
