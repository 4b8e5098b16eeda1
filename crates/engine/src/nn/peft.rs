//! Adapters as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;

use candle_core::DType;
use candle_core::Tensor;
use serde_json::Value;
use serde_json::json;

use crate::nn::checkpoint::check_inside;
use crate::nn::checkpoint::read_json;
use crate::nn::checkpoint::read_safetensors;
use crate::nn::checkpoint::refuse_not_finite;
use crate::nn::lora::Adaptable;
use crate::nn::lora::Module;
use crate::nn::lora::Plan;
use crate::nn::lora::Shape;
use crate::nn::lora::Variant;
use crate::nn::lora::regex_of;
use crate::nn::naming::NameForm;
use crate::nn::peft_rules::Rules;
use crate::nn::peft_rules::TOKENS_ALONE;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// The file that says what an adapter is.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The file that holds its tensors.
pub const TENSORS_FILE: &str = "adapter_model.safetensors";

/// Hint for an adapter that does not fit the model in the folder `given`. `base` is the model that
/// the adapter names.
fn foreign_hint(base: Option<&str>, given: &Path) -> String {
    let named = base.map_or("names no base model".to_owned(), |base| {
        format!("names the base model `{base}`")
    });
    format!(
        "give the model that the adapter was trained on: its {CONFIG_FILE} {named}, and `{}` was given",
        given.display()
    )
}

/// The name of a LoRA matrix in a PEFT file; `module` is the path that the file writes, `matrix` is
/// `A` or `B`.
pub fn key(module: &str, matrix: char) -> String {
    format!("base_model.model.{module}.lora_{matrix}.weight")
}

/// The name of the tensor with the embeddings of some tokens in a PEFT file; `table` is the path
/// that the file writes. PEFT names it otherwise where an adapter holds nothing else.
pub fn token_rows_key(table: &str, is_alone: bool) -> String {
    let stem = if is_alone { "" } else { TOKEN_ADAPTER };
    format!("base_model.model.{table}{stem}{TOKEN_ROWS}")
}

/// End of the name of a tensor with embeddings of tokens.
const TOKEN_ROWS: &str = ".trainable_tokens_delta";
/// Module that PEFT puts in between beside LoRA.
const TOKEN_ADAPTER: &str = ".token_adapter";

/// Embeddings that replace those of some tokens.
#[derive(Clone, Debug)]
pub struct TokenRows {
    /// Path of the table of token embeddings in the model.
    pub table: String,
    /// The embeddings, `[tokens, width]` in `f32`, in the order of [`Plan::tokens`].
    pub values: Tensor,
}

/// A PEFT folder, read.
#[derive(Debug)]
pub struct Adapter {
    /// The modules it changes, and how.
    pub plan: Plan,
    /// `lora_A` `[rank, in]` and `lora_B` `[out, rank]` by module path, in `f32`.
    pub tensors: BTreeMap<String, (Tensor, Tensor)>,
    /// Embeddings of tokens that it replaces, if it does.
    pub rows: Option<TokenRows>,
    /// Whether it scales by the root of the rank.
    pub variant: Variant,
    /// Dropout of the run that trained it.
    pub dropout: f64,
    /// Notes on fields of the folder that have no effect, here as in PEFT.
    pub notes: Vec<String>,
}

impl Adapter {
    /// Reads a PEFT folder for a model of this shape, in any form of keys of its family, by the
    /// rules of PEFT ([`Rules`]).
    ///
    /// # Errors
    /// Whatever would make the adapter work differently here than in PEFT: other kinds of adapters,
    /// tensors of modules the model does not have, half a pair, shapes that do not fit, values that
    /// are not finite.
    pub fn load(dir: &Path, model: &Adaptable) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        check_inside(dir, &path)?;
        let json = read_json(&path)
            .map_err(|e| e.or_hint("`--adapter` takes a PEFT folder or a checkpoint of a run"))?;
        let rules = Rules::read(&json).map_err(|e| e.at_path(&path))?;
        let tensors_path = dir.join(TENSORS_FILE);
        if !tensors_path.is_file() {
            return Err(Error::input("the adapter's tensors are missing")
                .at_path(&tensors_path)
                .hint("maqam reads safetensors; convert adapter_model.bin with PEFT's save_pretrained"));
        }
        let stored = read_safetensors(&tensors_path)?;
        refuse_not_finite(&stored, &tensors_path)?;
        Self::from_tensors(rules, stored, model).map_err(|e| e.at_path(&tensors_path))
    }

    fn from_tensors(
        rules: Rules,
        mut stored: HashMap<String, Tensor>,
        model: &Adaptable,
    ) -> Result<Self> {
        let known: BTreeMap<&String, &Module> = model
            .modules
            .iter()
            .map(|module| (&module.path, module))
            .collect();
        let foreign = foreign_hint(rules.base.as_deref(), &model.source);
        let stored_rows = take_rows(&mut stored, &rules.tokens, model, &foreign)?;
        let rows = stored_rows.as_ref().map(|(_, values)| TokenRows {
            table: model.embeddings.path.clone(),
            values: values.clone(),
        });
        let mut plan = Plan {
            tokens: rules.tokens.clone(),
            ..Plan::default()
        };
        if stored.is_empty() && rows.is_some() {
            return Ok(Self {
                plan,
                tensors: BTreeMap::new(),
                rows,
                variant: rules.variant,
                dropout: rules.dropout,
                notes: rules.notes,
            });
        }
        let (form, pairs) = pairs(stored, model, &known, &foreign)?;
        if let Some((written, _)) = &stored_rows
            && form.read(written).as_ref() != Some(&model.embeddings.path)
        {
            return Err(Error::input(format!(
                "`{written}` is named otherwise than the tensors of linear layers, which are {}",
                form.name
            ))
            .hint("keep one form of names; PEFT would load half of them"));
        }

        let mut untargeted = Vec::new();
        let mut tensors = BTreeMap::new();
        for (module, pair) in pairs {
            let (rank, a, b) = checked(&module, pair)?;
            if let Some(module) = known.get(&module) {
                expect_shape(&module.path, 'A', &a, [rank, module.inputs])
                    .and_then(|()| expect_shape(&module.path, 'B', &b, [module.outputs, rank]))
                    .map_err(|e| e.hint(&foreign))?;
            }
            let shape = rules.shape(&form.written(&module));
            let Some(shape) = shape.map_err(|e| e.at(CONFIG_FILE))? else {
                untargeted.push(module);
                continue;
            };
            if shape.rank != rank {
                return Err(Error::input(format!(
                    "`{module}`: {CONFIG_FILE} says rank {}, the tensors have {rank}",
                    shape.rank
                )));
            }
            plan.modules.insert(module.clone(), shape);
            tensors.insert(module, (a, b));
        }

        let Some(first) = plan.modules.keys().next() else {
            return Err(Error::input(format!(
                "{CONFIG_FILE} targets none of the modules whose tensors are stored, such as `{}`",
                untargeted
                    .first()
                    .map_or(String::new(), |module| form.written(module))
            ))
            .hint("write `target_modules` for the same names that the tensors have"));
        };

        let mut notes = rules.notes.clone();
        if let Some(module) = untargeted.first() {
            notes.push(format!(
                "{} modules have tensors that {CONFIG_FILE} does not target, such as `{module}`: they stay without an adapter, as in PEFT",
                untargeted.len()
            ));
        }

        if rules.starts_at_random {
            let modules = model.modules.iter().map(|module| &module.path);
            for module in modules.filter(|module| !tensors.contains_key(*module)) {
                if rules.shape(&form.written(module))?.is_some() {
                    return Err(Error::input(format!(
                        "`{module}` is targeted and has no tensors, and `init_lora_weights` starts it at random (`{first}` has some)"
                    ))
                    .hint("name only modules whose tensors are stored in `target_modules`"));
                }
            }
        }

        Ok(Self {
            plan,
            tensors,
            rows,
            variant: rules.variant,
            dropout: rules.dropout,
            notes,
        })
    }
}

/// Path of the module as it is written, and matrix (0 for A, 1 for B), of a tensor's name.
fn parse_key(name: &str) -> Option<(String, usize)> {
    let rest = name.strip_prefix("base_model.model.").unwrap_or(name);
    let rest = rest.strip_suffix(".weight")?;
    let rest = rest.strip_suffix(".default").unwrap_or(rest);
    let (module, matrix) = rest.rsplit_once(".lora_")?;
    match matrix {
        "A" => Some((module.to_owned(), 0)),
        "B" => Some((module.to_owned(), 1)),
        _ => None,
    }
}

/// Path of the table as it is written, of the name of a tensor with embeddings of tokens.
fn parse_rows_key(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("base_model.model.").unwrap_or(name);
    let rest = rest.strip_suffix(".default").unwrap_or(rest);
    let table = rest.strip_suffix(TOKEN_ROWS)?;
    Some(table.strip_suffix(TOKEN_ADAPTER).unwrap_or(table))
}

/// Takes the embeddings of `tokens` out of an adapter's tensors: path of the table as it is
/// written, and `[tokens, width]` in `f32`.
fn take_rows(
    stored: &mut HashMap<String, Tensor>,
    tokens: &[u32],
    model: &Adaptable,
    foreign: &str,
) -> Result<Option<(String, Tensor)>> {
    let table = &model.embeddings;
    let head = take_head_rows(stored, model);
    let is_table = |written: &str| {
        let mut forms = model.forms.iter();
        forms.any(|form| NameForm::read(form, written).as_ref() == Some(&table.path))
    };
    let mut names: Vec<String> = stored
        .keys()
        .filter(|name| parse_rows_key(name).is_some_and(is_table))
        .cloned()
        .collect();
    names.sort();
    if let [first, second, ..] = &names[..] {
        let fault = format!("`{first}` and `{second}` hold the same embeddings");
        return Err(Error::input(fault).hint("keep one form of names"));
    }
    let Some(name) = names.first() else {
        if tokens.is_empty() {
            return Ok(None);
        }
        return Err(Error::input(format!(
            "{CONFIG_FILE} names the tokens {tokens:?}, and no tensor holds their embeddings"
        ))
        .hint(foreign));
    };
    if tokens.is_empty() {
        return Err(Error::input(format!(
            "`{name}` holds embeddings, and {CONFIG_FILE} names no tokens"
        ))
        .hint("write their ids into `trainable_token_indices`"));
    }
    let written = parse_rows_key(name).unwrap_or_default().to_owned();
    let values = stored
        .remove(name)
        .ok_or_else(|| Error::bug("a tensor that is there and is not"))?
        .to_dtype(DType::F32)?;
    if let Some(token) = tokens.iter().find(|&&id| id as usize >= table.outputs) {
        return Err(Error::input(format!(
            "{CONFIG_FILE} names token {token}, and this model has {}",
            table.outputs
        ))
        .hint(foreign));
    }
    if values.dims() != [tokens.len(), table.inputs] {
        return Err(Error::input(format!(
            "`{name}` has shape {:?}, this model needs {:?}",
            values.dims(),
            [tokens.len(), table.inputs]
        ))
        .hint(foreign));
    }
    if let Some((name_of_head, of_head)) = head
        && of_head
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?
            != values.flatten_all()?.to_vec1::<f32>()?
    {
        return Err(Error::input(format!(
            "`{name_of_head}` differs from `{name}`, and this model ties its head to the table of token embeddings"
        ))
        .hint("train the rows of tied matrices as one"));
    }
    Ok(Some((written, values)))
}

/// Takes the rows of a tied head out of an adapter's tensors, with their name: PEFT stores them
/// once more in adapters of nothing else.
fn take_head_rows(
    stored: &mut HashMap<String, Tensor>,
    model: &Adaptable,
) -> Option<(String, Tensor)> {
    let head = model.tied_head.as_ref()?;
    let is_head = |written: &str| {
        let weight = format!("{written}.weight");
        let mut forms = model.forms.iter();
        forms.any(|form| NameForm::read(form, &weight).as_ref() == Some(head))
    };
    let mut names = stored.keys();
    let name = names.find(|name| parse_rows_key(name).is_some_and(is_head))?;
    stored.remove_entry(&name.clone())
}

/// `lora_A` and `lora_B` of a module, as far as they are stored.
type Pair = [Option<Tensor>; 2];

/// The tensors of an adapter by module path, in `f32`, and the form of their keys. `foreign` is the
/// hint for tensors of another model.
fn pairs(
    stored: HashMap<String, Tensor>,
    model: &Adaptable,
    known: &BTreeMap<&String, &Module>,
    foreign: &str,
) -> Result<(&'static NameForm, BTreeMap<String, Pair>)> {
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    // The form of keys, and the first tensor that had it.
    let mut used: Option<(&NameForm, String)> = None;
    // In the order of names, so that a message does not depend on how they hash.
    let stored: BTreeMap<String, Tensor> = stored.into_iter().collect();
    for (name, tensor) in stored {
        let place = parse_key(&name).and_then(|(written, matrix)| {
            let of_form = |form| NameForm::read(form, &written).map(|module| (module, form));
            let mut paths = model.forms.iter().filter_map(of_form);
            let (module, form) = paths.find(|(module, _)| known.contains_key(module))?;
            Some((module, matrix, form))
        });
        let Some((module, matrix, form)) = place else {
            return Err(Error::input(format!(
                "tensor `{name}` belongs to no linear layer of this model"
            ))
            .hint(format!(
                "{foreign}; adapters of the talker and of the vision tower cannot be loaded"
            )));
        };
        match &used {
            Some((before, first)) if *before != form => {
                let a = before.name;
                let b = form.name;
                return Err(Error::input(format!("`{first}` is {a}, `{name}` {b}"))
                    .hint("keep one form of names; PEFT would load half of them"));
            }
            Some(_) => {}
            None => used = Some((form, name)),
        }
        pairs.entry(module).or_default()[matrix] = Some(tensor.to_dtype(DType::F32)?);
    }
    match used {
        Some((form, _)) => Ok((form, pairs)),
        None => Err(Error::input("the adapter holds no tensors")),
    }
}

/// Both tensors of a module, and their rank.
fn checked(module: &str, pair: Pair) -> Result<(usize, Tensor, Tensor)> {
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
    Ok((rank, a, b))
}

/// Refuses a matrix of another shape than a module needs.
fn expect_shape(module: &str, matrix: char, tensor: &Tensor, shape: [usize; 2]) -> Result<()> {
    if tensor.dims() == shape {
        return Ok(());
    }
    Err(Error::input(format!(
        "`{}` has shape {:?}, this model needs {shape:?}",
        key(module, matrix),
        tensor.dims()
    )))
}

/// Fields of `adapter_config.json` beyond the tensors.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// `base_model_name_or_path`.
    pub base: String,
    /// Dropout of the run that trained it.
    pub dropout: f64,
    /// Whether the scale follows the root of the rank.
    pub variant: Variant,
}

/// Writes a PEFT folder's two files into `dir`; `tensors` are by module path, and `rows` are the
/// embeddings of the plan's tokens, as in [`Adapter`].
pub fn save(
    dir: &Path,
    plan: &Plan,
    tensors: &BTreeMap<String, (Tensor, Tensor)>,
    rows: Option<&TokenRows>,
    metadata: &Metadata,
    form: &NameForm,
) -> Result<()> {
    let mut named: Vec<(String, &Tensor)> = tensors
        .iter()
        .flat_map(|(module, (a, b))| {
            let written = form.written(module);
            [(key(&written, 'A'), a), (key(&written, 'B'), b)]
        })
        .collect();
    named.extend(rows.map(|rows| {
        let table = form.written(&rows.table);
        let name = token_rows_key(&table, plan.modules.is_empty());
        (name, &rows.values)
    }));
    files::write_safetensors(&dir.join(TENSORS_FILE), named)?;
    let config = match rows {
        Some(rows) if plan.modules.is_empty() => tokens_json(plan, rows, metadata, form),
        _ => lora_json(plan, metadata, form),
    };
    let text = serde_json::to_string_pretty(&config).map_err(Error::bug_from)?;
    files::write_atomic(&dir.join(CONFIG_FILE), text.as_bytes())
}

/// The configuration of an adapter that only replaces embeddings of tokens.
fn tokens_json(plan: &Plan, rows: &TokenRows, metadata: &Metadata, form: &NameForm) -> Value {
    json!({
        "peft_type": TOKENS_ALONE,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": metadata.base,
        "token_indices": plan.tokens,
        "target_modules": form.written(&rows.table),
        "init_weights": true,
        "inference_mode": true,
        "revision": null,
    })
}

fn lora_json(plan: &Plan, metadata: &Metadata, form: &NameForm) -> Value {
    let rank_of = |shape: &Shape| shape.rank as f64;
    let alpha_of = |shape: &Shape| shape.alpha;
    let rank = plan.most_common(rank_of);
    let alpha = plan.most_common(alpha_of);
    let written: Vec<String> = plan.modules.keys().map(|path| form.written(path)).collect();
    let targets = regex_of(&written);
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": metadata.base,
        "r": number(rank),
        "lora_alpha": number(alpha),
        "lora_dropout": metadata.dropout,
        "target_modules": targets,
        "exclude_modules": null,
        "bias": "none",
        "use_rslora": metadata.variant == Variant::Rslora,
        "use_dora": false,
        "modules_to_save": null,
        "init_lora_weights": true,
        "rank_pattern": exceptions(plan, form, rank_of, rank),
        "alpha_pattern": exceptions(plan, form, alpha_of, alpha),
        "layers_to_transform": null,
        "layers_pattern": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "lora_bias": false,
        "revision": null,
    });
    if !plan.tokens.is_empty() {
        config["trainable_token_indices"] = json!(plan.tokens);
    }
    config
}

/// Values of the modules that have not the usual one, by patterns of their paths.
fn exceptions(
    plan: &Plan,
    form: &NameForm,
    value: impl Fn(&Shape) -> f64,
    usual: f64,
) -> serde_json::Map<String, Value> {
    plan.modules
        .iter()
        .filter(|(_, shape)| value(shape) != usual)
        .map(|(module, shape)| (regex::escape(&form.written(module)), number(value(shape))))
        .collect()
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
    fn keys_name_modules_and_matrices() {
        let module = "thinker.model.layers.0.self_attn.q_proj";
        for (name, matrix) in [
            (key(module, 'A'), 0),
            (key(module, 'B'), 1),
            (
                format!("base_model.model.{module}.lora_A.default.weight"),
                0,
            ),
        ] {
            assert_eq!(
                parse_key(&name),
                Some((module.to_owned(), matrix)),
                "{name}"
            );
        }
        assert_eq!(parse_key("base_model.model.thinker.lm_head.weight"), None);
    }

    #[test]
    fn keys_of_embeddings_name_the_table() {
        let table = "thinker.model.embed_tokens";
        for name in [
            token_rows_key(table, false),
            token_rows_key(table, true),
            format!("{}.default", token_rows_key(table, false)),
        ] {
            assert_eq!(parse_rows_key(&name), Some(table), "{name}");
            assert_eq!(parse_key(&name), None);
        }
        assert_eq!(parse_rows_key(&key(table, 'A')), None);
    }
}
