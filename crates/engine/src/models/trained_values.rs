//! Values of what a model trains: initialised, read, and loaded from tensors.

use std::collections::BTreeMap;
use std::collections::HashMap;

use candle_core::DType;
use candle_core::Tensor;

use crate::models::AudioLlm;
use crate::models::ctc_head;
use crate::nn::lora::Init;
use crate::nn::parameters::Entry;
use crate::nn::parameters::TensorKind;
use crate::nn::peft;
use crate::nn::peft::TokenRows;
use crate::ops::device::place_like;
use crate::ops::device::to_host;
use crate::ops::rows::overwrite;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Name of the code points of a CTC head's characters in a checkpoint.
const CHARACTERS: &str = "characters";

impl AudioLlm {
    /// Starts fresh adapters; every tensor has its own stream of random numbers.
    pub fn initialise(&self, init: Init, seed: u64) -> Result<()> {
        for entry in self.adapter_entries() {
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
        let mut tensors: HashMap<String, &Tensor> = HashMap::new();
        for (module, (a, b)) in &adapter.tensors {
            tensors.insert(peft::key(module, 'A'), a);
            tensors.insert(peft::key(module, 'B'), b);
        }
        for entry in self.adapter_entries() {
            let tensor = tensors
                .get(&entry.name)
                .ok_or_else(|| Error::input(format!("the adapter has no `{}`", entry.name)))?;
            self.parameters
                .set_tensor(entry, tensor)
                .map_err(|e| e.hint("give the model that the adapter was trained on"))?;
        }
        self.load_token_rows(adapter)
    }

    /// Takes the embeddings of tokens of a PEFT folder, if it has any. A model that trains none
    /// keeps them in its table.
    ///
    /// # Errors
    /// Embeddings of other tokens than are trained here.
    pub fn load_token_rows(&self, adapter: &peft::Adapter) -> Result<()> {
        let tokens = &adapter.plan.tokens;
        let Some(rows) = &adapter.rows else {
            return Ok(());
        };
        let Some(entry) = self.rows_entry() else {
            let table = &self.embeddings.value;
            let width = rows.values.dim(1)?;
            let values = rows.values.flatten_all()?.to_vec1::<f32>()?;
            let values = place_like(&values, (tokens.len(), width), table)?;
            return Ok(overwrite(table, tokens, &values)?);
        };
        if self.plan.tokens != *tokens {
            return Err(Error::input(format!(
                "the adapter has embeddings of the tokens {tokens:?}, and those of {:?} are trained here",
                self.plan.tokens
            )));
        }
        self.parameters.set_tensor(entry, &rows.values)
    }

    /// The trained embeddings of tokens, if there are any.
    pub fn token_rows(&self) -> Result<Option<TokenRows>> {
        let rows = self.rows_entry().map(|entry| {
            Ok(TokenRows {
                table: self.config.names.embeddings_module(),
                values: self.parameters.value(entry)?,
            })
        });
        rows.transpose()
    }

    /// Values of the adapters by module path: `lora_A` and `lora_B`.
    pub fn adapter_tensors(&self) -> Result<BTreeMap<String, (Tensor, Tensor)>> {
        let modules = self.plan.modules.keys();
        modules
            .map(|module| {
                let a = self.value_of(&peft::key(module, 'A'))?;
                let b = self.value_of(&peft::key(module, 'B'))?;
                Ok((module.clone(), (a, b)))
            })
            .collect()
    }

    /// Values of the parts in full fine-tuning, by their names in the checkpoint.
    pub fn full_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        self.full_entries()
            .map(|entry| Ok((entry.name.clone(), self.parameters.value(entry)?)))
            .collect()
    }

    /// Takes the values of the parts in full fine-tuning; `tensors` must hold all of them and
    /// nothing else.
    pub fn load_full(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let is_unknown = |name: &&String| !self.full_entries().any(|entry| entry.name == **name);
        if let Some(name) = tensors.keys().find(is_unknown) {
            return Err(Error::input(format!("`{name}` is not trained here"))
                .hint("`train` must set the same parts to `full` as the run that wrote it"));
        }
        for entry in self.full_entries() {
            let tensor = tensors
                .get(&entry.name)
                .ok_or_else(|| Error::input(format!("there is no `{}`", entry.name)))?;
            self.parameters.set_tensor(entry, tensor)?;
        }
        Ok(())
    }

    /// The CTC head with the code points of its characters, as a checkpoint stores them; none
    /// without a head.
    pub fn ctc_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        if self.ctc.is_none() {
            return Ok(Vec::new());
        }
        let mut tensors = ctc_head::NAMES
            .into_iter()
            .map(|name| Ok((name.to_owned(), self.value_of(name)?)))
            .collect::<Result<Vec<_>>>()?;
        let characters = ctc_head::code_points(&self.plan.ctc)?;
        tensors.push((CHARACTERS.to_owned(), characters));
        Ok(tensors)
    }

    /// Takes the values of a CTC head that [`AudioLlm::ctc_tensors`] gave.
    ///
    /// # Errors
    /// Tensors that are missing or of another shape; a head of other characters.
    pub fn load_ctc(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let found = |name: &str| {
            let tensor = tensors.get(name);
            tensor.ok_or_else(|| Error::input(format!("there is no `{name}`")))
        };
        let characters = found(CHARACTERS)?.to_dtype(DType::U32)?;
        let expected = ctc_head::code_points(&self.plan.ctc)?;
        if characters.flatten_all()?.to_vec1::<u32>()? != expected.to_vec1::<u32>()? {
            return Err(Error::input(
                "the CTC head there spells other characters than the rows have",
            ));
        }
        for name in ctc_head::NAMES {
            self.parameters
                .set_tensor(self.entry_of(name)?, found(name)?)?;
        }
        Ok(())
    }

    /// Names of trained tensors (of parts that are not frozen for now) whose gradient is zero
    /// everywhere, after a backward.
    pub fn unreached(&self) -> Result<Vec<String>> {
        let gradients = to_host(&self.parameters.gradients)?;
        let is_zero = |entry: &&Entry| gradients[entry.range.clone()].iter().all(|&g| g == 0.0);
        Ok(self
            .parameters
            .entries
            .iter()
            .filter(|entry| self.is_trained(entry.part))
            .filter(is_zero)
            .map(|entry| entry.name.clone())
            .collect())
    }

    fn adapter_entries(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.parameters.entries.iter();
        entries.filter(|entry| entry.kind == TensorKind::Adapter)
    }

    fn full_entries(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.parameters.entries.iter();
        entries.filter(|entry| matches!(entry.kind, TensorKind::Full | TensorKind::Convolution))
    }

    fn rows_entry(&self) -> Option<&Entry> {
        let mut entries = self.parameters.entries.iter();
        entries.find(|entry| entry.kind == TensorKind::Rows)
    }

    fn value_of(&self, name: &str) -> Result<Tensor> {
        self.parameters.value(self.entry_of(name)?)
    }

    fn entry_of(&self, name: &str) -> Result<&Entry> {
        let mut entries = self.parameters.entries.iter();
        entries
            .find(|entry| entry.name == name)
            .ok_or_else(|| Error::bug(format!("no parameter `{name}`")))
    }
}
