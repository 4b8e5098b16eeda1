//! Notes on files of a checkpoint that disagree.

use std::path::Path;

use crate::nn::checkpoint::Checkpoint;
use crate::nn::checkpoint::folder::INDEX;
use crate::nn::checkpoint::folder::SINGLE;
use crate::nn::checkpoint::folder::check_inside;
use crate::nn::checkpoint::json::expect_file;
use crate::nn::checkpoint::json::read_json;
use maqam_base::files;

/// Notes on what files of a folder say differently, and which was taken; empty where there is
/// nothing to say or nothing to read.
pub fn notes(dir: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    let is_file = |name: &str| dir.join(name).is_file();

    if is_file(SINGLE) && is_file(INDEX) {
        notes.push(format!(
            "{}: {SINGLE} is read, as in transformers; {INDEX} and the shards that it names are not",
            dir.display()
        ));
    }

    let is_safetensors = is_file(SINGLE) || is_file(INDEX);

    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        if is_safetensors && is_file(name) {
            notes.push(format!(
                "{}: the safetensors are read, as in transformers; {name} is not",
                dir.display()
            ));
        }
    }

    if is_safetensors && is_file("adapter_config.json") {
        notes.push(format!(
            "{}: the adapter beside the weights is not applied; transformers would apply it, and here `--adapter` does",
            dir.display()
        ));
    }

    let templates = chat_templates(dir);

    if let Some(((chosen, text), others)) = templates.split_first()
        && let Some((other, _)) = others.iter().find(|(_, other)| other != text)
    {
        notes.push(format!(
            "{}: the chat template of {chosen} is used, as transformers' processor does; that of {other} differs",
            dir.display()
        ));
    }

    if let Ok(checkpoint) = Checkpoint::open(dir, &[]) {
        notes.extend(checkpoint.notes());
    }
    notes
}

/// The chat templates of a folder with their files, in the order in which transformers' processor
/// looks for one.
fn chat_templates(dir: &Path) -> Vec<(&'static str, String)> {
    const FILES: [&str; 4] = [
        "processor_config.json",
        "chat_template.json",
        "chat_template.jinja",
        "tokenizer_config.json",
    ];
    FILES
        .into_iter()
        .filter_map(|name| Some((name, chat_template(dir, name)?)))
        .collect()
}

fn chat_template(dir: &Path, name: &str) -> Option<String> {
    let path = dir.join(name);
    check_inside(dir, &path).ok()?;
    if name.ends_with(".jinja") {
        expect_file(&path).ok()?;
        return files::read_text(&path).ok();
    }
    let json = read_json(&path).ok()?;
    json["chat_template"].as_str().map(str::to_owned)
}
