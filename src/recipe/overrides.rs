//! `--set`: one value of a recipe changed from the command line.

use yaml_serde::Value;

use crate::error::Error;
use crate::error::Result;

/// Applies one `KEY.KEY=VALUE` to a tree of YAML.
pub(crate) fn set(tree: &mut Value, written: &str) -> Result<()> {
    let wrong = |what: &str| Error::input(format!("--set {written}: {what}"));
    let (path, value) = written.split_once('=').ok_or_else(|| {
        wrong("expected KEY=VALUE").hint("for example --set optimiser.learning_rate=1e-5")
    })?;
    let value: Value = yaml_serde::from_str(value)
        .map_err(|e| wrong(&format!("the value is not YAML: {e}")).caused_by(e))?;
    let mut place = tree;
    for key in path.split('.') {
        if place.is_null() {
            *place = Value::Mapping(Default::default());
        }
        place = match place {
            Value::Sequence(list) => {
                let len = list.len();
                let index = key.parse::<usize>().ok().filter(|&index| index < len);
                let index = index.ok_or_else(|| {
                    wrong(&format!(
                        "`{key}` is not an entry of a list of {len}; entries count from 0"
                    ))
                })?;
                &mut list[index]
            }
            Value::Mapping(mapping) => mapping
                .entry(Value::String(key.to_owned()))
                .or_insert(Value::Null),
            _ => {
                return Err(wrong(&format!(
                    "`{key}` is below something that is neither a mapping nor a list"
                ))
                .hint(format!(
                    "change the whole value above `{key}`, for example to {{{key}: ...}}"
                )));
            }
        };
    }
    *place = value;
    Ok(())
}
