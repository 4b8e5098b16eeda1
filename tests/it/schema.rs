//! The schemas of the files that people write: held against the settings types, the shipped files
//! and the tables of the manual.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::command::Place;
use maqam::experiment::Experiment;
use maqam::recipe::Recipe;
use maqam::records::suite_file::SuiteFile;
use maqam::schema::SchemaKind;
use maqam::task::Tasks;
use maqam::yaml;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Parts of a schema by the places that they describe.
type Places<'a> = Vec<(String, &'a Value)>;

/// A schema with its definitions.
struct Schema {
    root: Value,
}

impl Schema {
    fn of(kind: SchemaKind) -> Self {
        Self {
            root: kind.schema().unwrap(),
        }
    }

    /// The node itself, or what it refers to.
    fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').unwrap();
                self.resolve(self.root.pointer(pointer).expect(reference))
            }
            None => node,
        }
    }

    /// Faults of a value at a place; none if it fits.
    ///
    /// The function supports the keywords that the schemas use, and refuses a schema with any
    /// other.
    fn faults(&self, node: &Value, value: &Value, at: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut fault = |what: String| found.push(format!("{at}: {what}"));
        let Some(node) = node.as_object() else {
            assert_eq!(node, &json!(true), "a schema is fields or `true`");
            return found;
        };
        let number = value.as_f64();
        let length = value.as_array().map(Vec::len);
        let size = value.as_object().map(Map::len);
        for (keyword, rule) in node {
            let bound = rule.as_f64().unwrap_or(f64::NAN);
            match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "default" | "examples"
                | "format" | "deprecated" | "x-default" | "x-section" | "x-type" => {}
                "$ref" => {
                    let reference = json!({ "$ref": rule });
                    for one in self.faults(self.resolve(&reference), value, at) {
                        fault(one);
                    }
                }
                "type" => {
                    let types = rule.as_array().cloned().unwrap_or(vec![rule.clone()]);
                    if !types
                        .iter()
                        .any(|name| is_type(name.as_str().unwrap(), value))
                    {
                        fault(format!("{value} is not of type {rule}"));
                    }
                }
                "const" if value != rule => fault(format!("{value} is not {rule}")),
                "enum" if !rule.as_array().unwrap().contains(value) => {
                    fault(format!("{value} is none of {rule}"));
                }
                "anyOf" | "oneOf" => {
                    let fits = |branch: &&Value| self.faults(branch, value, at).is_empty();
                    let num_fitting = rule.as_array().unwrap().iter().filter(fits).count();
                    if num_fitting == 0 || (keyword == "oneOf" && num_fitting > 1) {
                        fault(format!("{value} fits {num_fitting} branches of {keyword}"));
                    }
                }
                "not" if self.faults(rule, value, at).is_empty() => {
                    fault(format!("{value} is forbidden"));
                }
                "minimum" if number.is_some_and(|x| x < bound) => {
                    fault(format!("{value} < {bound}"))
                }
                "maximum" if number.is_some_and(|x| x > bound) => {
                    fault(format!("{value} > {bound}"))
                }
                "exclusiveMinimum" if number.is_some_and(|x| x <= bound) => {
                    fault(format!("{value} <= {bound}"));
                }
                "exclusiveMaximum" if number.is_some_and(|x| x >= bound) => {
                    fault(format!("{value} >= {bound}"));
                }
                "minItems" if length.is_some_and(|n| (n as f64) < bound) => {
                    fault("too few entries".to_owned());
                }
                "maxItems" if length.is_some_and(|n| n as f64 > bound) => {
                    fault("too many entries".to_owned());
                }
                "minProperties" if size.is_some_and(|n| (n as f64) < bound) => {
                    fault("too few keys".to_owned());
                }
                "maxProperties" if size.is_some_and(|n| n as f64 > bound) => {
                    fault("too many keys".to_owned());
                }
                "required" => {
                    for key in rule.as_array().unwrap() {
                        let key = key.as_str().unwrap();
                        if value
                            .as_object()
                            .is_some_and(|fields| !fields.contains_key(key))
                        {
                            fault(format!("`{key}` is missing"));
                        }
                    }
                }
                "items" => {
                    for (i, entry) in value.as_array().into_iter().flatten().enumerate() {
                        for one in self.faults(rule, entry, &format!("{at}[{i}]")) {
                            fault(one);
                        }
                    }
                }
                "propertyNames" => {
                    for (key, _) in value.as_object().into_iter().flatten() {
                        for one in self.faults(rule, &json!(key), at) {
                            fault(one);
                        }
                    }
                }
                "properties" | "additionalProperties"
                    if node.get("additionalProperties").is_some() =>
                {
                    // Both keywords are checked together.
                    if keyword == "properties" && node.contains_key("additionalProperties") {
                        continue;
                    }
                    for (key, field) in value.as_object().into_iter().flatten() {
                        let known = node.get("properties").and_then(|known| known.get(key));
                        match (known, rule) {
                            (Some(known), _) => {
                                for one in self.faults(known, field, &format!("{at}.{key}")) {
                                    fault(one);
                                }
                            }
                            (None, Value::Bool(false)) => fault(format!("unknown key `{key}`")),
                            (None, rule) => {
                                for one in self.faults(rule, field, &format!("{at}.{key}")) {
                                    fault(one);
                                }
                            }
                        }
                    }
                }
                "const" | "enum" | "not" | "minimum" | "maximum" | "exclusiveMinimum"
                | "exclusiveMaximum" | "minItems" | "maxItems" | "minProperties"
                | "maxProperties" => {}
                other => panic!("the keyword `{other}` is not known here"),
            }
        }
        found
    }

    fn check(&self, value: &Value) -> Vec<String> {
        self.faults(&self.root, value, "$")
    }

    /// The fields, or the entries with fields, that a node describes besides its short forms.
    fn fields_of<'a>(&'a self, node: &'a Value) -> Form<'a> {
        let node = self.resolve(node);
        if node["properties"].is_object() {
            return Form::Fields(node);
        }
        if node["type"] == "array" {
            return match self.fields_of(&node["items"]) {
                Form::Fields(entry) => Form::Entries(entry),
                _ => Form::Leaf,
            };
        }
        let branches = node["anyOf"].as_array().into_iter().flatten();
        branches
            .map(|branch| self.fields_of(branch))
            .find(|form| !matches!(form, Form::Leaf))
            .unwrap_or(Form::Leaf)
    }

    /// A file with the keys that `wanted` chooses; every key holds its first example.
    fn instance(&self, node: &Value, wanted: &dyn Fn(&Value, &str, bool) -> bool) -> Value {
        let mut fields = Map::new();
        for (key, field) in node["properties"].as_object().unwrap() {
            if field["deprecated"] == json!(true) {
                continue;
            }
            let value = match self.fields_of(field) {
                Form::Fields(inner) if wanted(node, key, true) => self.instance(inner, wanted),
                Form::Entries(inner) if wanted(node, key, true) => {
                    json!([self.instance(inner, wanted)])
                }
                Form::Leaf if wanted(node, key, false) => field["examples"][0].clone(),
                _ => continue,
            };
            fields.insert(key.clone(), value);
        }
        Value::Object(fields)
    }

    /// Every object of a whole file, as a pointer with its schema, each before those inside it; and
    /// every key that holds no object, likewise.
    fn places(&self) -> (Places<'_>, Places<'_>) {
        let mut objects = Vec::new();
        let mut leaves = Vec::new();
        let mut open = vec![(String::new(), &self.root)];
        while let Some((at, node)) = open.pop() {
            let mut inside = Vec::new();
            for (key, field) in node["properties"].as_object().unwrap() {
                match self.fields_of(field) {
                    Form::Fields(inner) => inside.push((format!("{at}/{key}"), inner)),
                    Form::Entries(inner) => inside.push((format!("{at}/{key}/0"), inner)),
                    Form::Leaf => leaves.push((format!("{at}/{key}"), field)),
                }
            }
            open.extend(inside.into_iter().rev());
            objects.push((at, node));
        }
        (objects, leaves)
    }

    fn full(&self) -> Value {
        self.instance(&self.root, &|_, _, _| true)
    }

    /// The values of a choice, and whether it takes a list of them.
    fn choices(&self, node: &Value) -> Option<(BTreeSet<String>, bool)> {
        let node = self.resolve(node);
        let (choice, is_list) = match node["anyOf"][0]["items"]["oneOf"].as_array() {
            Some(choice) => (choice, true),
            None => (node["oneOf"].as_array()?, false),
        };
        let values = choice
            .iter()
            .map(|one| one["const"].as_str().unwrap().to_owned());
        Some((values.collect(), is_list))
    }
}

enum Form<'a> {
    Fields(&'a Value),
    Entries(&'a Value),
    Leaf,
}

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other}"),
    }
}

/// Result of the program for a file.
fn program(kind: SchemaKind, text: &str) -> Result<Option<Value>, String> {
    let path = Path::new("file.yaml");
    let told = |error: maqam::error::Error| error.to_string();
    match kind {
        SchemaKind::Recipe => yaml::parse::<Recipe>(text, path)
            .map(|recipe| serde_json::to_value(recipe).ok())
            .map_err(told),
        SchemaKind::Suite => yaml::parse::<SuiteFile>(text, path)
            .map(|suite| serde_json::to_value(suite).ok())
            .map_err(told),
        SchemaKind::Experiment => yaml::parse::<Experiment>(text, path)
            .map(|experiment| serde_json::to_value(experiment).ok())
            .map_err(told),
        SchemaKind::Build => yaml::parse::<maqam::build::Recipe>(text, path)
            .map(|recipe| serde_json::to_value(recipe).ok())
            .map_err(told),
        SchemaKind::Task => {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("mine.yaml"), text).unwrap();
            Tasks::load(Some(dir.path())).map(|_| None).map_err(told)
        }
    }
}

fn program_on(kind: SchemaKind, value: &Value) -> Result<Option<Value>, String> {
    program(kind, &yaml_serde::to_string(value).unwrap())
}

fn read(path: &Path) -> Value {
    yaml_serde::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The names in backticks after `expected`.
fn expected(message: &str) -> BTreeSet<String> {
    let line = message.lines().next().unwrap();
    let listed = line
        .split_once(", expected ")
        .map_or("", |(_, listed)| listed);
    listed
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_example_is_read() {
    for kind in SchemaKind::ALL {
        let schema = Schema::of(kind);
        let full = schema.full();
        assert_eq!(schema.check(&full), Vec::<String>::new(), "{}", kind.name());
        program_on(kind, &full).unwrap();

        for (at, node) in schema.places().1 {
            for example in node["examples"]
                .as_array()
                .unwrap_or_else(|| panic!("{at} has no example"))
            {
                assert_eq!(schema.faults(node, example, &at), Vec::<String>::new());
            }
        }
    }
}

#[test]
fn keys_are_those_of_the_types() {
    let mut num_keys = 0;
    for kind in SchemaKind::ALL {
        let schema = Schema::of(kind);
        for (at, node) in schema.places().0 {
            let mut file = schema.full();
            file.pointer_mut(&at).expect(&at)["zzz"] = json!(1);
            assert!(!schema.check(&file).is_empty(), "{}{at}", kind.name());

            let message = program_on(kind, &file).unwrap_err();
            assert!(message.contains("unknown field `zzz`"), "{at}: {message}");
            let known: BTreeSet<String> = node["properties"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect();
            assert_eq!(expected(&message), known, "{}{at}: {message}", kind.name());
            num_keys += known.len();
        }
    }
    assert!(num_keys > 250, "{num_keys}");
}

#[test]
fn choices_are_those_of_the_types() {
    let mut num_choices = 0;
    for kind in SchemaKind::ALL {
        let schema = Schema::of(kind);
        for (at, node) in schema.places().1 {
            let Some((values, is_list)) = schema.choices(node) else {
                continue;
            };
            let mut file = schema.full();
            let wrong = if is_list {
                json!(["zzz"])
            } else {
                json!("zzz")
            };
            let Some(place) = file.pointer_mut(&at) else {
                continue;
            };
            *place = wrong;
            assert!(!schema.check(&file).is_empty(), "{at}");
            let message = program_on(kind, &file).unwrap_err();
            assert_eq!(expected(&message), values, "{}{at}: {message}", kind.name());
            num_choices += 1;
        }
    }
    assert!(num_choices > 25, "{num_choices}");
}

#[test]
fn defaults_are_those_of_the_types() {
    let mut num_compared = 0;
    let mut unseen = BTreeSet::new();
    for kind in [
        SchemaKind::Recipe,
        SchemaKind::Suite,
        SchemaKind::Experiment,
        SchemaKind::Build,
    ] {
        let schema = Schema::of(kind);
        // Every section, with what it must have and nothing else.
        let least = schema.instance(&schema.root, &|node, key, is_section| {
            let required = node["required"].as_array();
            is_section || required.is_some_and(|keys| keys.contains(&json!(key)))
        });
        let found = program_on(kind, &least).unwrap().unwrap();
        for (at, node) in schema.places().1 {
            let Some(default) = node.get("default") else {
                continue;
            };
            match found.pointer(&at) {
                Some(found) if found.is_number() => {
                    assert_eq!(found.as_f64(), default.as_f64(), "{at}");
                }
                Some(found) => assert_eq!(found, default, "{at}"),
                None => {
                    unseen.insert(at);
                    continue;
                }
            }
            num_compared += 1;
        }
    }
    assert!(num_compared > 45, "{num_compared}");
    // Keys that a stored recipe leaves out where they are not written.
    let left_out = [
        "/augment/speed",
        "/checkpoint/average",
        "/evaluate/train_rows",
        "/instructions",
        "/lora/dropout_masks",
        "/loss/ctc",
        "/optimiser/lora_plus",
        "/optimiser/restart",
        "/probe/audio_gap",
        "/schedule/shuffle",
        "/sets/0/instructions",
    ];
    assert_eq!(unseen, left_out.map(str::to_owned).into());
}

/// The YAML files of a folder and of those below it.
fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn shipped_files_fit() {
    let mut num_files = [0; 5];
    let folders = [
        "builds",
        "curricula",
        "eval",
        "prompts",
        "docs/experiments",
        "data/models",
    ];
    let builder = root().join("prompts/build");
    let jobs = root().join("builds/jobs");
    for path in folders.into_iter().flat_map(yaml_files) {
        // Prompts and words of `maqam build` are files of other kinds, and so are jobs of
        // schedulers.
        if path.starts_with(&builder) || path.starts_with(&jobs) {
            continue;
        }
        let file = read(&path);
        let has = |key: &str| file.get(key).is_some();
        let (place, kind) = match () {
            () if has("schedule") => (0, SchemaKind::Recipe),
            () if has("sets") => (1, SchemaKind::Suite),
            () if has("kind") => (2, SchemaKind::Task),
            () if has("recipes") => (3, SchemaKind::Experiment),
            () if has("collect") => (4, SchemaKind::Build),
            // Recipes of encoders have no schema; a test beside their type reads them.
            () if has("iterations") || has("head") => continue,
            // Rubrics of judges and wordings of checks.
            () => {
                assert!(has("scales") || has("checks"), "{}", path.display());
                continue;
            }
        };
        let faults = Schema::of(kind).check(&file);
        assert_eq!(faults, Vec::<String>::new(), "{}", path.display());
        program(kind, &fs::read_to_string(&path).unwrap()).unwrap();
        num_files[place] += 1;
    }
    assert!(
        num_files[0] > 40
            && num_files[1] > 10
            && num_files[2] > 4
            && num_files[3] > 2
            && num_files[4] > 3,
        "{num_files:?}"
    );
}

#[test]
fn first_files_fit_and_misspelt_ones_fail() {
    for kind in SchemaKind::ALL {
        let schema = Schema::of(kind);
        let text = kind.template();
        let file: Value = yaml_serde::from_str(text).unwrap();
        assert_eq!(schema.check(&file), Vec::<String>::new(), "{}", kind.name());
        program(kind, text).unwrap();

        for key in file.as_object().unwrap().keys() {
            let misspelt: Map<String, Value> = file
                .as_object()
                .unwrap()
                .iter()
                .map(|(known, value)| match known == key {
                    true => (format!("{known}x"), value.clone()),
                    false => (known.clone(), value.clone()),
                })
                .collect();
            let misspelt = Value::Object(misspelt);
            assert!(
                !schema.check(&misspelt).is_empty(),
                "{}: {key}",
                kind.name()
            );
            let message = program_on(kind, &misspelt).unwrap_err();
            assert!(
                message.contains(&format!("unknown field `{key}x`")),
                "{message}"
            );
            assert!(
                message.contains(&format!("did you mean `{key}`?")),
                "{message}"
            );
        }
    }
}

/// A value as a line of YAML.
fn flow(value: &Value) -> String {
    let is_plain = |text: &str| {
        text.chars()
            .all(|c| c.is_alphanumeric() || "_./=- ".contains(c))
            && text.starts_with(|c: char| c.is_alphabetic() || c == '/')
    };
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(small) if small != 0.0 && small.abs() < 1e-3 => format!("{small:e}"),
            Some(whole) if whole.fract() == 0.0 => format!("{whole}"),
            _ => number.to_string(),
        },
        Value::Array(list) => {
            let entries: Vec<String> = list.iter().map(flow).collect();
            format!("[{}]", entries.join(", "))
        }
        Value::Object(fields) => {
            let entries: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{}: {}", flow(&json!(key)), flow(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

impl Schema {
    /// Type of a key, in words.
    fn type_of(&self, node: &Value) -> String {
        let resolved = self.resolve(node);
        if let Some(said) = node["x-type"].as_str() {
            return said.to_owned();
        }
        if let Some((values, is_list)) = self.choices(node) {
            let ordered = match is_list {
                true => &resolved["anyOf"][0]["items"]["oneOf"],
                false => &resolved["oneOf"],
            };
            let names: Vec<String> = ordered
                .as_array()
                .unwrap()
                .iter()
                .map(|one| format!("`{}`", one["const"].as_str().unwrap()))
                .collect();
            assert_eq!(names.len(), values.len());
            let start = if is_list { "list of " } else { "" };
            return format!("{start}{}", names.join(", "));
        }
        match self.fields_of(node) {
            Form::Fields(_) if resolved["anyOf"].is_array() => return "text or fields".to_owned(),
            Form::Fields(_) => return "fields".to_owned(),
            Form::Entries(_) => return "list of fields".to_owned(),
            Form::Leaf => {}
        }
        if let Some(branches) = resolved["anyOf"].as_array() {
            let mut names: Vec<String> = branches.iter().map(|one| self.type_of(one)).collect();
            if branches[0]["type"] == "array" && branches[0]["items"] == branches[1] {
                names.truncate(1);
            }
            names.dedup();
            return names.join(" or ");
        }
        let one = |name: &str| match (name, resolved["format"].as_str()) {
            ("string", Some("path")) => "path".to_owned(),
            ("string", _) => "text".to_owned(),
            ("integer", _) => "whole number".to_owned(),
            ("boolean", _) => "`true`, `false`".to_owned(),
            ("array", _) => format!("list of {}s", self.type_of(&resolved["items"])),
            ("object", _) => "fields".to_owned(),
            (other, _) => other.to_owned(),
        };
        match (&resolved["type"], resolved.get("const"), &resolved["enum"]) {
            (_, Some(value), _) => format!("`{}`", flow(value)),
            (_, _, Value::Array(_)) => "text".to_owned(),
            (Value::Array(_), ..) => "text".to_owned(),
            (name, ..) => one(name.as_str().unwrap_or("text")),
        }
    }

    /// The tables of a kind's keys, section by section.
    fn tables(&self) -> String {
        let mut text = String::new();
        let mut shown = BTreeSet::new();
        for (_, node) in self.places().0 {
            let section = node["x-section"].as_str().unwrap();
            // Several keys may take the same fields.
            if !shown.insert(section) {
                continue;
            }
            text += &format!(
                "\n### {section}\n\n| key | type | default | meaning | example |\n|---|---|---|---|---|\n"
            );
            let required = node["required"].as_array().cloned().unwrap_or_default();
            for (key, field) in node["properties"].as_object().unwrap() {
                let resolved = self.resolve(field);
                let default = match (field.get("default"), field["x-default"].as_str()) {
                    (Some(default), _) => format!("`{}`", flow(default)),
                    (None, Some(said)) => said.to_owned(),
                    _ if required.contains(&json!(key)) => "required".to_owned(),
                    _ => "see its table".to_owned(),
                };
                let choice = match resolved["anyOf"][0]["items"]["oneOf"].as_array() {
                    Some(choice) => Some(choice),
                    None => resolved["oneOf"].as_array(),
                };
                let mut meaning = field["description"]
                    .as_str()
                    .unwrap_or_else(|| panic!("`{key}` has no meaning"))
                    .to_owned();
                for one in choice.into_iter().flatten() {
                    let name = one["const"].as_str().unwrap();
                    let what = one["description"].as_str().unwrap();
                    meaning += &format!("<br>`{name}`: {}", lower_first(what));
                }
                let example = format!("{}: {}", key, flow(&field["examples"][0]));
                let cells = [
                    format!("`{key}`"),
                    self.type_of(field),
                    default,
                    meaning,
                    format!("`{example}`"),
                ];
                text += &format!(
                    "| {} |\n",
                    cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
                );
            }
        }
        text
    }
}

/// A description after a colon: its first word in lower case, unless it is a name.
fn lower_first(text: &str) -> String {
    let word = text.split(' ').next().unwrap_or_default();
    let is_name = word.chars().skip(1).any(char::is_uppercase) || word.starts_with("Whisper");
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if !is_name => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

const BEGIN: &str = "<!-- Keys: written by `MAQAM_UPDATE_DOCS=1 cargo test --test it schema` from the schema. -->\n";
const END: &str = "\n<!-- End of the keys. -->";

#[test]
fn manual_lists_every_key() {
    for kind in SchemaKind::ALL {
        let path = root().join(format!("docs/{}.md", kind.name()));
        let page = fs::read_to_string(&path).unwrap();
        let (before, rest) = page
            .split_once(BEGIN)
            .unwrap_or_else(|| panic!("{} has no place for keys", path.display()));
        let (found, after) = rest.split_once(END).unwrap();
        let tables = Schema::of(kind).tables();
        if std::env::var_os("MAQAM_UPDATE_DOCS").is_some() {
            fs::write(&path, format!("{before}{BEGIN}{tables}{END}{after}")).unwrap();
            continue;
        }
        assert!(
            found == tables,
            "{} differs from the schema; MAQAM_UPDATE_DOCS=1 cargo test --test it schema writes it",
            path.display()
        );
    }
}

#[test]
fn commands_write_schemas_and_first_files() {
    let place = Place::new();
    for kind in SchemaKind::ALL {
        let printed = place.run(&["schema", kind.name()]).succeeds().stdout;
        let schema: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(schema, kind.schema().unwrap());

        let file = format!("{}.yaml", kind.name());
        place.run(&["new", kind.name(), &file]).succeeds();
        assert_eq!(
            fs::read_to_string(place.path(&file)).unwrap(),
            kind.template()
        );
        assert_eq!(
            place.run(&["new", kind.name()]).succeeds().stdout,
            kind.template()
        );
        place
            .run(&["new", kind.name(), &file])
            .fails(2, &["exists already"]);
    }
    place
        .run(&["schema", "suite", "--out", "suite.json"])
        .succeeds();
    assert_eq!(
        read(&place.path("suite.json")),
        SchemaKind::Suite.schema().unwrap()
    );
    place
        .run(&["plan", "recipe.yaml", "--set", "trian=1"])
        .fails(2, &["unknown field `trian`", "did you mean `train`?"]);

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&["completions", shell]).succeeds().stdout;
        assert!(
            script.contains("maqam") && script.contains("gpu-memory"),
            "{shell}"
        );
    }
}
