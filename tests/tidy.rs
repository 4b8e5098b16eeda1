//! Rules of the source text: which crate and which module may use which, what only one place may
//! do, how files are written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use regex::Regex;

/// Crates from left to right. A crate uses only crates to its left. The root package uses all of
/// them.
const CRATES: [&str; 9] = [
    "base", "stats", "audio", "metrics", "data", "schedule", "engine", "records", "report",
];

/// Crates to the left that a crate must not use all the same: the engine knows no task, manifest,
/// schedule or metric, and files of runs know no engine.
const WALLS: [(&str, &[&str]); 3] = [
    ("engine", &["stats", "metrics", "data", "schedule"]),
    ("records", &["engine"]),
    ("report", &["engine"]),
];

/// A word, and the crates, modules or parts of modules that may contain it.
const ONLY_IN: [(&str, &[&str]); 11] = [
    ("polars", &["data"]),
    ("clap", &["cli", "main"]),
    ("ureq", &["endpoint", "hub"]),
    ("indicatif", &["cli"]),
    ("println!", PRINTS),
    ("eprintln!", PRINTS),
    ("print!", PRINTS),
    ("eprint!", PRINTS),
    ("io::stdout", PRINTS),
    ("io::stderr", &["cli/print", "cli/progress"]),
    ("ProgressDrawTarget", &["cli/progress"]),
];

/// The one door to the terminal: it never panics, and escapes what would command a terminal.
const PRINTS: &[&str] = &["cli/print"];

/// Crates and the words that they never contain: metrics compare texts.
const NEVER_IN: [(&str, &[&str]); 1] = [(
    "metrics",
    &["candle", "candle_core", "candle_nn", "Tensor", "tensor"],
)];

/// Calls that change a disk. Outside tests only `base/files` makes them.
const WRITERS: [&str; 15] = [
    "fs::write",
    "fs::rename",
    "fs::copy",
    "fs::hard_link",
    "fs::set_permissions",
    "fs::create_dir",
    "fs::create_dir_all",
    "fs::remove_dir",
    "fs::remove_dir_all",
    "fs::remove_file",
    "File::create",
    "File::create_new",
    "File::options",
    "OpenOptions",
    "serialize_to_file",
];

/// Words that no committed file has. They are written in halves so that this file does not have
/// them either.
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("dbg", "!"),
];
const IGNORED_TEST: &str = concat!("#[igno", "re");

/// A source file in the form that the rules read.
struct Source<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    /// The same lines with comments and the insides of strings blanked out.
    code: Vec<String>,
    /// True for each line that is compiled only for tests.
    is_test: Vec<bool>,
    /// Number of modules around each line, without the crate's root.
    depth: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(path: &'a str, text: &'a str) -> Self {
        let blanked = without_comments_and_strings(text);
        let code: Vec<String> = blanked.lines().map(str::to_owned).collect();
        let (is_test, depth) = modules(path, &code);
        Self {
            path,
            lines: text.lines().collect(),
            code,
            is_test,
            depth,
        }
    }

    /// Path without `src` and without the extension: `eval/judge/mod` of `src/eval/judge/mod.rs`,
    /// `engine/ops/norm` of `crates/engine/src/ops/norm.rs`.
    fn place(&self) -> String {
        let inside = self.path.trim_end_matches(".rs");
        match inside.strip_prefix("crates/") {
            Some(inside) => inside.replacen("/src/", "/", 1),
            None => inside.strip_prefix("src/").unwrap_or(inside).to_owned(),
        }
    }

    /// Returns whether the file belongs to a crate of `crates/`.
    fn is_in_crate(&self) -> bool {
        self.path.starts_with("crates/")
    }

    /// Returns whether the file belongs to a crate or a module, or to a part of it such as
    /// `eval/judge`.
    fn is_in(&self, place: &str) -> bool {
        let own = self.place();
        own.strip_prefix(place)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn fault(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }
}

/// Returns for each line whether it is test code, and the number of modules around it.
fn modules(path: &str, code: &[String]) -> (Vec<bool>, Vec<usize>) {
    let before_source = if path.starts_with("crates/") { 3 } else { 1 };
    let parts: Vec<&str> = path.split('/').skip(before_source).collect();
    let is_root = parts == ["lib.rs"] || parts == ["main.rs"];
    let of_file = if is_root {
        0
    } else {
        parts.len() - usize::from(parts.last() == Some(&"mod.rs"))
    };
    let whole_file_is_test = !(path.starts_with("src/") || path.starts_with("crates/"))
        || parts.last() == Some(&"tests.rs")
        || parts.contains(&"tests");
    let mut is_test = Vec::new();
    let mut depth = Vec::new();
    let mut braces = 0;
    let mut open_modules: Vec<usize> = Vec::new();
    let mut test_starts: Option<usize> = None;
    let mut attribute_waits = false;
    for line in code {
        let trimmed = line.trim();
        attribute_waits |= trimmed.starts_with("#[cfg(test)]");
        let opens_module = words(trimmed).any(|(_, word)| word == "mod") && trimmed.ends_with('{');
        if attribute_waits && trimmed.contains('{') {
            (attribute_waits, test_starts) = (false, test_starts.or(Some(braces)));
        } else if attribute_waits && trimmed.ends_with(';') {
            attribute_waits = false;
        }
        is_test.push(whole_file_is_test || test_starts.is_some() || attribute_waits);
        depth.push(of_file + open_modules.len());
        if opens_module {
            open_modules.push(braces);
        }
        for c in line.chars() {
            match c {
                '{' => braces += 1,
                '}' => {
                    braces = braces.saturating_sub(1);
                    open_modules.retain(|&before| before < braces);
                    test_starts = test_starts.filter(|&before| before < braces);
                }
                _ => {}
            }
        }
    }
    (is_test, depth)
}

/// The text with comments and the contents of literals replaced by spaces; line breaks stay.
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |code: &mut String, c: char| code.push(if c == '\n' { '\n' } else { ' ' });
    while i < chars.len() {
        let end = literal_or_comment_end(&chars, i);
        if end > i {
            chars[i..end].iter().for_each(|&c| blank(&mut code, c));
            i = end;
        } else {
            code.push(chars[i]);
            i += 1;
        }
    }
    code
}

/// End of the comment or literal that starts at `i`; `i` itself if none starts.
fn literal_or_comment_end(chars: &[char], i: usize) -> usize {
    let at = |j: usize| chars.get(j).copied().unwrap_or('\0');
    let find = |from: usize, ends: &dyn Fn(usize) -> bool| {
        (from..chars.len())
            .find(|&j| ends(j))
            .unwrap_or(chars.len())
    };
    match (at(i), at(i + 1)) {
        ('/', '/') => find(i, &|j| at(j) == '\n'),
        ('/', '*') => {
            let mut j = i + 2;
            let mut open = 1;
            while j < chars.len() && open > 0 {
                match (at(j), at(j + 1)) {
                    ('/', '*') => (open, j) = (open + 1, j + 2),
                    ('*', '/') => (open, j) = (open - 1, j + 2),
                    _ => j += 1,
                }
            }
            j
        }
        ('r', '"' | '#') if i == 0 || !is_word(at(i - 1)) || at(i - 1) == 'b' => {
            let hashes = find(i + 1, &|j| at(j) != '#') - i - 1;
            if at(i + 1 + hashes) != '"' {
                return i;
            }
            let closes = |j: usize| at(j) == '"' && (1..=hashes).all(|k| at(j + k) == '#');
            (find(i + 2 + hashes, &closes) + 1 + hashes).min(chars.len())
        }
        ('"', _) => end_of_quoted(chars, i, '"'),
        ('\'', '\\') => end_of_quoted(chars, i, '\''),
        ('\'', _) if at(i + 2) == '\'' => i + 3,
        _ => i,
    }
}

fn end_of_quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The identifiers of a line, each with its first byte.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split(|c| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - line.as_ptr() as usize, word))
}

/// Returns whether `line` contains `phrase`, not as a part of longer names.
fn says(line: &str, phrase: &str) -> bool {
    line.match_indices(phrase).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + phrase.len()..].chars().next();
        let joins = |neighbour: Option<char>| neighbour.is_some_and(is_word);
        !joins(before) && (!phrase.ends_with(is_word) || !joins(after))
    })
}

/// Modules of the root package in their order: those that `src/lib.rs` declares.
fn modules_in_order(lib: &str) -> Vec<&str> {
    lib.lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect()
}

/// Every violation in a file of `src/` or `crates/`.
fn faults(path: &str, text: &str, modules: &[&str]) -> Vec<String> {
    let source = Source::new(path, text);
    let mut found = shape_faults(&source);
    let place = source.place();
    let module = place.split('/').next().unwrap_or_default();

    // Cargo holds the order of crates; the order of the root package's modules is held here.
    let position = match module {
        _ if source.is_in_crate() => None,
        // `main.rs` is after every module, and `lib.rs` only lists them.
        "main" | "lib" => Some(modules.len()),
        _ => match modules.iter().position(|known| *known == module) {
            Some(position) => Some(position),
            None => {
                found.push(source.fault(0, format!("`{module}` is no module of src/lib.rs")));
                return found;
            }
        },
    };

    for (i, line) in source.code.iter().enumerate() {
        for used in modules_used(line) {
            let used_position = modules.iter().position(|known| *known == used);
            if position.is_some() && used_position > position {
                found.push(source.fault(i, format!("{module} may not use {used}")));
            }
        }
        for (word, allowed) in ONLY_IN {
            if says(line, word) && !allowed.iter().any(|place| source.is_in(place)) {
                found.push(source.fault(i, format!("`{word}` outside {}", allowed.join(" and "))));
            }
        }
        for (walled, never) in NEVER_IN {
            for word in never
                .iter()
                .filter(|word| walled == module && says(line, word))
            {
                found.push(source.fault(i, format!("{module} may not contain `{word}`")));
            }
        }
        if !source.is_in("base/files") && !source.is_test[i] {
            for writer in WRITERS.iter().filter(|writer| says(line, writer)) {
                found.push(source.fault(
                    i,
                    format!("`{writer}` outside base/files, the only module that writes"),
                ));
            }
        }
        // Tests in the root of a crate use that root, which is their module.
        let own = usize::from(source.is_test[i] && source.is_in_crate());
        if line
            .split_whitespace()
            .any(|part| part.matches("super::").count() >= source.depth[i].max(1) + own)
        {
            found.push(source.fault(i, "`super::` leaves the module; write `crate::`"));
        }
    }
    found
}

/// Modules that a line of code names through `crate::` (or, in the binary, through `maqam::`).
fn modules_used(line: &str) -> BTreeSet<&str> {
    let after = |prefix: &'static str| {
        line.split(prefix).skip(1).filter_map(|rest| {
            words(rest)
                .next()
                .filter(|(start, _)| *start == 0)
                .map(|(_, word)| word)
        })
    };
    after("crate::").chain(after("maqam::")).collect()
}

/// Rules for the form of any Rust file, of the crate, of its tests or of its benches.
fn shape_faults(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !source
        .lines
        .first()
        .is_some_and(|line| line.starts_with("//! "))
    {
        found.push(source.fault(
            0,
            "begins without `//!`, a line that says what the file is for",
        ));
    }
    for (i, line) in source.code.iter().enumerate() {
        let statement = line
            .trim()
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub(super) ");
        if statement.starts_with("use ") && (statement.contains('{') || !statement.ends_with(';')) {
            found.push(source.fault(i, "one `use` a line"));
        }
        if line.contains(IGNORED_TEST) {
            found.push(source.fault(i, "an ignored test"));
        }
    }
    found.extend(unfinished(source.path, &source.lines));
    found
}

/// Marks of unfinished work, in any text.
fn unfinished(path: &str, lines: &[&str]) -> Vec<String> {
    let marks = |line: &str| UNFINISHED.into_iter().find(|mark| says(line, mark));
    lines
        .iter()
        .enumerate()
        .filter_map(|(i, line)| marks(line).map(|mark| format!("{path}:{}: `{mark}`", i + 1)))
        .collect()
}

/// A file that people write or run begins with a description.
fn head_fault(path: &str, text: &str) -> Option<String> {
    let is_said = text.lines().next().is_some_and(|line| {
        line.strip_prefix("# ")
            .is_some_and(|said| !said.trim().is_empty())
    });
    (!is_said).then(|| format!("{path}:1: begins without a comment that says what it is"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder of the repository with one of these extensions, as paths from its root,
/// sorted.
fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extensions.iter().any(|known| extension == *known))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    let name = |path: &Path| {
        path.strip_prefix(root())
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/")
    };
    found
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).unwrap()))
        .collect()
}

/// A module as its path in the crate: empty for the crate's root.
type Module = Vec<String>;

/// The module that a source file holds; `None` for the binary's root and for files of tests.
fn module_of(path: &str) -> Option<Module> {
    let inside = path.split_once("src/")?.1.trim_end_matches(".rs");
    let mut parts: Module = inside.split('/').map(str::to_owned).collect();
    if parts == ["main"] || parts.iter().any(|part| part == "tests") {
        return None;
    }
    if parts == ["lib"] || parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    Some(parts)
}

/// The files of one crate, and what each uses of the others.
struct Crate {
    /// Code without tests, comments and strings.
    code: BTreeMap<Module, String>,
    /// Original names of a `pub use` line, by the exported name.
    renamed: BTreeMap<Module, Module>,
}

impl Crate {
    fn new(sources: &[(String, String)]) -> Self {
        let mut code = BTreeMap::new();
        for (path, text) in sources {
            if let Some(module) = module_of(path) {
                let source = Source::new(path, text);
                let lines = source.code.iter().zip(&source.is_test);
                let kept: Vec<&str> = lines
                    .filter(|(_, is_test)| !**is_test)
                    .map(|(line, _)| line.as_str())
                    .collect();
                code.insert(module, kept.join("\n"));
            }
        }

        let line = Regex::new(r"(?m)^\s*pub(?:\([a-z]+\))? use ([\w:]+)(?: as (\w+))?;").unwrap();
        let mut renamed = BTreeMap::new();
        for (module, text) in &code {
            for found in line.captures_iter(text) {
                let names: Vec<&str> = found[1].split("::").collect();
                let target = absolute(module, &names);
                let given = found
                    .get(2)
                    .map_or(names[names.len() - 1], |name| name.as_str());
                renamed.insert([module.as_slice(), &[given.to_owned()]].concat(), target);
            }
        }
        Self { code, renamed }
    }

    /// The file that a path leads to, through `pub use` lines; the crate's root where it names an
    /// item of that.
    fn file_of(&self, path: &[String], depth: usize) -> Module {
        for end in (1..=path.len()).rev() {
            if self.code.contains_key(&path[..end]) {
                return path[..end].to_vec();
            }
            if let Some(target) = self.renamed.get(&path[..end]).filter(|_| depth < 8) {
                return self.file_of(&[target, &path[end..]].concat(), depth + 1);
            }
        }
        Module::new()
    }

    /// A primitive and its twin for CUDA are one unit.
    fn unit(&self, module: &Module) -> Module {
        let twin: Module = module
            .iter()
            .filter(|part| *part != "cuda")
            .cloned()
            .collect();
        match self.code.contains_key(&twin) && twin.len() > 1 {
            true => twin,
            false => module.clone(),
        }
    }

    /// Modules that each unit uses. Lines with `mod` and `pub use` do not count.
    fn uses(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let ignored = Regex::new(
            r"(?m)^\s*(?:pub(?:\([a-z]+\))? use [^;]*;|(?:pub(?:\([a-z]+\))? )?mod \w+;)",
        )
        .unwrap();
        let path = Regex::new(r"\w+(?:::\w+)+").unwrap();
        let mut found: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (module, text) in &self.code {
            let own = self.unit(module);
            let text = ignored.replace_all(text, "");
            for named in path.find_iter(&text) {
                let names: Vec<&str> = named.as_str().split("::").collect();
                let is_child = || {
                    let child = [module.as_slice(), &[names[0].to_owned()]].concat();
                    self.code.contains_key(&child)
                };
                if !matches!(names[0], "crate" | "self" | "super") && !is_child() {
                    continue;
                }
                let used = self.unit(&self.file_of(&absolute(module, &names), 0));
                if used != own {
                    found.entry(own.clone()).or_default().insert(used);
                }
            }
        }
        found
    }

    /// Groups of files that use each other in a cycle.
    fn cycles(&self) -> BTreeSet<BTreeSet<Module>> {
        let uses = self.uses();
        let reached = |from: &Module| {
            let mut seen: BTreeSet<&Module> = BTreeSet::new();
            let mut waiting = vec![from];
            while let Some(module) = waiting.pop() {
                for used in uses.get(module).into_iter().flatten() {
                    if seen.insert(used) {
                        waiting.push(used);
                    }
                }
            }
            seen
        };
        let all: BTreeMap<&Module, BTreeSet<&Module>> = uses
            .keys()
            .map(|module| (module, reached(module)))
            .collect();
        let cycle = |module: &&Module| -> BTreeSet<Module> {
            let mutual = all[module].iter().filter(|other| {
                all.get(**other)
                    .is_some_and(|reached| reached.contains(module))
            });
            mutual.map(|other| (*other).clone()).collect()
        };
        all.keys()
            .map(cycle)
            .filter(|cycle| cycle.len() > 1)
            .collect()
    }
}

/// A path as it counts from the crate's root.
fn absolute(module: &[String], names: &[&str]) -> Module {
    let (base, rest) = match names[0] {
        "crate" => (&module[..0], &names[1..]),
        "self" => (module, &names[1..]),
        "super" => (&module[..module.len().saturating_sub(1)], &names[1..]),
        _ => (module, names),
    };
    let rest = rest.iter().map(|name| (*name).to_owned());
    base.iter().cloned().chain(rest).collect()
}

/// Every group of files of one crate that use each other in a cycle; `name` is empty for the root
/// package.
fn cycle_faults(name: &str, sources: &[(String, String)]) -> Vec<String> {
    let cycles = Crate::new(sources).cycles();
    let found = cycles.iter().map(|cycle| {
        let places = cycle
            .iter()
            .map(|module| format!("{name}/{}", module.join("/")));
        places.collect::<Vec<_>>()
    });
    found
        .map(|places| format!("files use each other in a cycle: {}", places.join(", ")))
        .collect()
}

fn assert_none(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// Every violation in the manifest of a crate: a crate that it may not use.
fn manifest_faults(name: &str, manifest: &str) -> Vec<String> {
    let position = |name: &str| CRATES.iter().position(|known| *known == name);
    let Some(own) = position(name) else {
        return vec![format!("crates/{name}: not in the order of crates")];
    };
    let walled: &[&str] = WALLS
        .iter()
        .find(|(walled, _)| *walled == name)
        .map_or(&[], |(_, ignored)| ignored);
    let used = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("maqam-"))
        .filter_map(|rest| rest.split(['.', ' ', '=']).next());
    used.filter(|used| position(used).is_none_or(|used| used >= own) || walled.contains(used))
        .map(|used| format!("crates/{name}/Cargo.toml: {name} may not use {used}"))
        .collect()
}

#[test]
fn crates_use_crates_to_their_left() {
    let manifests = files("crates", &["toml"]);
    assert_eq!(manifests.len(), CRATES.len());
    for (path, manifest) in &manifests {
        let name = path.split('/').nth(1).unwrap();
        assert_none(&manifest_faults(name, manifest));
    }
    let right = "[dependencies]\nmaqam-base.workspace = true\n";
    assert_none(&manifest_faults("audio", right));
    for (name, planted) in [
        ("audio", "maqam-engine.workspace = true"),
        ("engine", "maqam-data = { path = \"../data\" }"),
        ("metrics", "maqam.workspace = true\nmaqam-metrics = \"1\""),
        ("records", "maqam-engine.workspace = true"),
        ("report", "maqam-engine.workspace = true"),
        ("attic", ""),
    ] {
        assert_eq!(manifest_faults(name, planted).len(), 1, "{name}: {planted}");
    }
}

#[test]
fn files_form_no_cycle() {
    let of_crates = files("crates", &["rs"]);
    for name in CRATES {
        let mut own = of_crates.clone();
        own.retain(|(path, _)| path.starts_with(&format!("crates/{name}/src/")));
        assert!(!own.is_empty(), "{name}");
        assert_none(&cycle_faults(name, &own));
    }
    assert_none(&cycle_faults("", &files("src", &["rs"])));
}

#[test]
fn planted_cycles_are_found() {
    let cycles = |sources: &[(&str, &str)]| {
        let sources: Vec<(String, String)> = sources
            .iter()
            .map(|(path, text)| (format!("src/{path}.rs"), (*text).to_owned()))
            .collect();
        cycle_faults("", &sources)
    };
    let lib = ("lib", "mod a;\nmod b;\npub use b::B;\n");
    let to_b = ("a", "use crate::B;\npub struct A;\n");
    let cases: [(&str, usize); 5] = [
        ("use crate::a::A;\npub struct B;\n", 1),
        ("pub struct B;\nfn f() -> super::a::A {}\n", 1),
        ("pub struct B;\n", 0),
        ("pub use crate::a::A;\npub struct B;\n", 0),
        (
            "pub struct B;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n",
            0,
        ),
    ];
    for (of_b, expected) in cases {
        let found = cycles(&[lib, to_b, ("b", of_b)]);
        assert_eq!(found.len(), expected, "{of_b}: {found:?}");
    }
    let twins = [
        ("lib", "mod ops;\n"),
        ("ops/mod", "mod norm;\nmod cuda;\n"),
        ("ops/norm", "use crate::ops::cuda::norm::f;\n"),
        ("ops/cuda/mod", "mod norm;\n"),
        ("ops/cuda/norm", "use crate::ops::norm::g;\n"),
    ];
    assert_none(&cycles(&twins));
}

#[test]
fn sources_follow_the_rules() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = modules_in_order(&lib);
    assert_eq!(modules.last(), Some(&"cli"), "{modules:?}");
    let mut sources = [files("src", &["rs"]), files("crates", &["rs"])].concat();
    // Build scripts print for cargo and write files that it compiles. Integration tests of a crate
    // follow the rules of tests.
    sources.retain(|(path, _)| path.starts_with("src/") || path.contains("/src/"));
    assert!(sources.len() > 290);
    assert_none(
        &sources
            .iter()
            .flat_map(|(path, text)| faults(path, text, &modules))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn tests_and_benches_follow_the_rules() {
    let mut of_crates = files("crates", &["rs"]);
    of_crates.retain(|(path, _)| !path.contains("/src/"));
    let sources = [
        files("tests", &["rs"]),
        files("benches", &["rs"]),
        files("fuzz", &["rs"]),
        of_crates,
    ]
    .concat();
    assert!(sources.len() > 40);
    assert_none(
        &sources
            .iter()
            .flat_map(|(path, text)| shape_faults(&Source::new(path, text)))
            .collect::<Vec<_>>(),
    );
    let others = [
        files("tests", &["py"]),
        files("benches", &["py"]),
        files("data", &["py"]),
        files("prompts", &["yaml"]),
    ]
    .concat();
    assert_none(
        &others
            .iter()
            .flat_map(|(path, text)| unfinished(path, &text.lines().collect::<Vec<_>>()))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn documents_at_the_root_exist() {
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
    ] {
        assert!(
            fs::metadata(root().join(name)).is_ok_and(|file| file.len() > 500),
            "{name} is missing or empty"
        );
    }
    for folder in ["curricula", "eval", "prompts"] {
        let written = files(folder, &["yaml"]);
        assert!(!written.is_empty(), "{folder}/ holds no .yaml file");
        assert_none(
            &written
                .iter()
                .filter_map(|(path, text)| head_fault(path, text))
                .collect::<Vec<_>>(),
        );
    }
}

#[test]
fn planted_faults_are_found() {
    const MODULES: [&str; 3] = ["eval", "train", "cli"];
    let cases = [
        (
            "src/eval/mod.rs",
            "use crate::train::Run;",
            "src/eval/mod.rs:2: eval may not use train",
        ),
        (
            "src/eval/mod.rs",
            "let x = crate::train::Run::new();",
            "eval may not use train",
        ),
        (
            "src/eval/mod.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::cli::run;\n}",
            "src/eval/mod.rs:4: eval may not use cli",
        ),
        ("src/attic.rs", "", "src/attic.rs:1: `attic` is no module"),
        (
            "crates/metrics/src/edit.rs",
            "fn f(x: &Tensor) {}",
            "metrics may not contain `Tensor`",
        ),
        (
            "crates/metrics/src/edit.rs",
            "use candle_core::D;",
            "metrics may not contain `candle_core`",
        ),
        (
            "crates/engine/src/batch/mod.rs",
            "use polars::prelude::DataFrame;",
            "`polars` outside data",
        ),
        (
            "crates/data/src/task/mod.rs",
            "#[derive(clap::Parser)]\nstruct A;",
            "`clap` outside cli and main",
        ),
        (
            "src/train/mod.rs",
            "use indicatif::ProgressBar;",
            "`indicatif` outside cli",
        ),
        (
            "src/eval/mod.rs",
            "use ureq::Agent;",
            "`ureq` outside endpoint and hub",
        ),
        (
            "src/cli/train.rs",
            "eprintln!(\"{x}\");",
            "`eprintln!` outside cli/print",
        ),
        (
            "src/cli/train.rs",
            "std::io::stdout().write_all(b)?;",
            "`io::stdout` outside cli/print",
        ),
        (
            "src/eval/mod.rs",
            "std::fs::write(path, text)?;",
            "`fs::write` outside base/files",
        ),
        (
            "crates/base/src/yaml.rs",
            "let f = File::create(path)?;",
            "`File::create` outside base/files",
        ),
        (
            "src/eval/mod.rs",
            "#[cfg(test)]\nmod tests {\n}\nfn f() { fs::remove_file(p); }",
            ":5: `fs::remove_file` outside base/files",
        ),
        (
            "crates/base/src/seed.rs",
            "use super::error::Error;",
            "`super::` leaves the module",
        ),
        (
            "src/eval/mod.rs",
            "use super::error::Error;",
            "`super::` leaves the module",
        ),
        (
            "src/eval/file.rs",
            "use super::super::error::Error;",
            "`super::` leaves the module",
        ),
        (
            "crates/data/src/task/file.rs",
            "use super::super::error::Error;",
            "`super::` leaves the module",
        ),
        (
            "crates/base/src/seed.rs",
            "mod inner {\n    use super::super::error::Error;\n}",
            "`super::` leaves the module",
        ),
        (
            "src/eval/file.rs",
            "use crate::error::{Error, Result};",
            "src/eval/file.rs:2: one `use` a line",
        ),
        (
            "src/eval/file.rs",
            "use std::{\n    fs,\n};",
            "one `use` a line",
        ),
        (
            "src/eval/file.rs",
            concat!("// TO", "DO: later"),
            concat!("`TO", "DO`"),
        ),
        (
            "src/eval/file.rs",
            concat!("fn f() { todo", "!() }"),
            concat!("`todo", "!`"),
        ),
        (
            "src/eval/file.rs",
            concat!("#[igno", "re = \"slow\"]"),
            "an ignored test",
        ),
    ];
    for (path, planted, expected) in cases {
        let found = faults(path, &format!("//! A file.\n{planted}\n"), &MODULES);
        assert!(
            found.iter().any(|fault| fault.contains(expected)),
            "{path}: {planted}\n-> {found:?}, expected {expected}"
        );
    }
    assert!(faults("src/eval/file.rs", "fn f() {}\n", &MODULES)[0].contains(":1: begins without"));
    assert!(
        head_fault("a.yaml", "name: x\n").is_some()
            && head_fault("a.yaml", "# \n").is_some()
            && head_fault("a.yaml", "# A recipe.\n").is_none()
    );
}

#[test]
fn allowed_code_has_no_faults() {
    let clean = r##"//! A file.

use crate::data::Row;
use crate::error::Error;

/// Says `println!` in a comment, see [`crate::cli`].
fn f<'a>(x: &'a str) -> char {
    let text = "crate::cli::run() { eprintln!(";
    let raw = r#"use polars::{a, "b"}"#;
    files::create_dir(path);
    let quote = '"'; // crate::train
    '{'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes() {
        std::fs::write("a", super::super::task::TEXT).unwrap();
    }
}
"##;
    let modules = ["eval", "train", "cli"];
    assert_none(&faults("src/eval/file.rs", clean, &modules));
    assert_none(&faults("crates/data/src/task/file.rs", clean, &modules));
}
