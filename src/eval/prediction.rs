//! What was asked, said and due of a row, put together.

use serde_json::Map;
use serde_json::Value;

use crate::error::Result;
use crate::eval::slices;
use crate::eval::suite::Set;
use crate::records::prediction::Prediction;
use crate::task::Example;

/// The prediction of an example whose answer was `said`, its tokens apart.
///
/// # Errors
/// A field of the row that is sliced by and holds a list or an object.
pub fn predicted(set: &Set, example: &Example, said: String) -> Result<Prediction> {
    let reference = example.reference.clone().unwrap_or_default();
    let references = match example.references.is_empty() {
        true => Vec::new(),
        false => std::iter::once(reference.clone())
            .chain(example.references.iter().map(|other| other.to_string()))
            .collect(),
    };
    Ok(Prediction {
        id: example.id.clone(),
        task: set.task.name.clone(),
        answer: set.task.parse_answer(&said, set.parses[0]),
        prediction: said,
        reference,
        references,
        meta: meta(set, example)?,
        ..Prediction::default()
    })
}

/// Fields of rows that are shown wherever they are known.
const SHOWN: [&str; 2] = ["dialect", "gender"];

fn meta(set: &Set, example: &Example) -> Result<Map<String, Value>> {
    let mut meta = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            meta.insert(name.to_owned(), value);
        }
    };
    put("speaker", example.speaker.clone().map(Value::from));
    put("group", example.group.clone().map(Value::from));
    for name in SHOWN {
        // A list or an object under such a name is no slice, and nobody asked for one.
        put(
            name,
            slices::field_value(name, example)
                .unwrap_or_default()
                .map(Value::from),
        );
    }
    put("language", Some(example.language.clone().into()));
    put("wording", example.wording.clone().map(Value::from));
    put("seconds", slices::seconds(example).map(Value::from));
    put("label", example.label.clone().map(Value::from));
    for slice in &set.slices {
        put(slice, slices::value(slice, example)?.map(Value::from));
    }
    Ok(meta)
}
