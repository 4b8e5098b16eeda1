//! What a recipe says now and did not say when its run began.

use yaml_serde::Value;

/// Fields that may change between the parts of a run: they change what is looked at, not what is trained. `on_bad_row` may become `skip`:
/// the rows that left the pool were decided on when the run began, and a row that fails later is left out instead of ending the run.
const MAY_CHANGE: [&str; 3] = ["evaluate.every", "checkpoint.every", "checkpoint.keep"];

/// The first field, as `a.b.0`, that two recipes say otherwise, with what each says; fields that may change are passed over.
pub(super) fn first_difference(
    before: &Value,
    now: &Value,
    field: &str,
) -> Option<(String, String, String)> {
    let skips_now = field == "on_bad_row" && now.as_str() == Some("skip");
    if before == now || MAY_CHANGE.contains(&field) || skips_now {
        return None;
    }
    let below = |key: &str| {
        if field.is_empty() {
            key.to_owned()
        } else {
            format!("{field}.{key}")
        }
    };
    match (before, now) {
        (Value::Mapping(a), Value::Mapping(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.filter_map(|key| {
                let (x, y) = (
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                );
                first_difference(x, y, &below(key.as_str().unwrap_or_default()))
            })
            .next()
        }
        (Value::Sequence(a), Value::Sequence(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (x, y))| first_difference(x, y, &below(&i.to_string()))),
        _ => Some((field.to_owned(), brief(before), brief(now))),
    }
}

fn brief(value: &Value) -> String {
    let text = yaml_serde::to_string(value).unwrap_or_default();
    match text.trim() {
        one_line if !one_line.contains('\n') => format!("`{one_line}`"),
        _ => "something else".to_owned(),
    }
}
