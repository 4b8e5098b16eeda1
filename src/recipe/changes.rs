//! Differences between a recipe and the one that its run began with.

use yaml_serde::Value;

/// Fields that may change when a run resumes, because they do not change training. `on_bad_row` may
/// become `skip`: the start of the run decided which rows left the pool, and a row that fails later
/// is then left out instead of ending the run.
const MAY_CHANGE: [&str; 4] = [
    "evaluate.every",
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.average",
];

/// The first field, as `a.b.0`, that differs between two recipes, with both values; fields that may
/// change are ignored.
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
                let x = a.get(key).unwrap_or(&Value::Null);
                let y = b.get(key).unwrap_or(&Value::Null);
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
