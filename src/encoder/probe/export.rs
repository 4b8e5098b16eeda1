//! Files of a trained head.

use std::path::Path;

use candle_core::Device;
use candle_core::Tensor;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::encoder::probe::recipe::HeadKind;
use crate::encoder::probe::recipe::Open;
use crate::encoder::probe::work::Work;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::models::hubert;
use crate::models::hubert::Class;

/// Writes what was trained: with an open encoder that reads its output, a folder that transformers
/// reads, with the head in a file of its own if transformers has no class for it; else the head
/// alone.
pub fn export(work: &Work, dir: &Path) -> Result<()> {
    let parameters = &work.head.parameters;
    let mut tensors = Vec::new();
    for entry in &parameters.entries {
        tensors.push((entry.name.clone(), parameters.value(entry)?));
    }

    let names = &work.rows.units.names;
    let vocabulary: Map<String, Value> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (name.clone(), i.into()))
        .collect();
    let text = serde_json::to_string_pretty(&vocabulary).map_err(Error::bug_from)?;
    files::write_atomic(&dir.join("vocab.json"), (text + "\n").as_bytes())?;

    let (Some(model), Open::Transformer | Open::All, None) =
        (&work.reader.encoder, work.recipe.open(), work.recipe.layer)
    else {
        return write_head(work, dir, tensors);
    };
    let mut model = model.clone();
    if !work.recipe.is_of_transformers() {
        hubert::save(&model, dir, Class::Encoder, Vec::new())?;
        return write_head(work, dir, tensors);
    }

    match work.recipe.head {
        HeadKind::Ctc => {
            model.config.vocab_size = names.len();
            model.config.pad_token_id = 0;
            hubert::save(&model, dir, Class::Ctc, tensors)
        }
        HeadKind::Classify => {
            let labels: Map<String, Value> = names
                .iter()
                .enumerate()
                .map(|(i, name)| (i.to_string(), json!(name)))
                .collect();
            let other = &mut model.config.other;
            other.insert("id2label".into(), labels.into());
            other.insert("label2id".into(), vocabulary.into());
            other.insert("classifier_proj_size".into(), work.recipe.width.into());
            other.insert(
                "use_weighted_layer_sum".into(),
                work.recipe.weighted().into(),
            );
            hubert::save(&model, dir, Class::Classifier, tensors)
        }
    }
}

/// Writes the head alone, with the scales of the features that it reads.
fn write_head(work: &Work, dir: &Path, mut tensors: Vec<(String, Tensor)>) -> Result<()> {
    for (i, scale) in work.reader.scales.iter().enumerate() {
        for (name, values) in [("mean", &scale.mean), ("inverse_deviation", &scale.inverse)] {
            let tensor = Tensor::from_vec(values.clone(), values.len(), &Device::Cpu)?;
            tensors.push((format!("scales.{i}.{name}"), tensor));
        }
    }
    files::write_safetensors(&dir.join("head.safetensors"), tensors)
}
