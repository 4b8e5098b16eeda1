//! The law of the house, read from the source text: which room may use which, what lives behind which wall, how files are kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// A word and the only rooms, or parts of rooms, that may say it.
const ONLY_IN: [(&str, &[&str]); 9] = [
    ("polars", &["data"]),
    ("clap", &["cli", "main"]),
    ("hf_hub", &["cli"]),
    ("ureq", &["eval/judge", "cli"]),
    ("indicatif", &["cli"]),
    ("println!", &["cli", "main"]),
    ("eprintln!", &["cli", "main"]),
    ("print!", &["cli", "main"]),
    ("eprint!", &["cli", "main"]),
];

/// Rooms and the earlier rooms they know nothing of: the engine knows no task, no manifest, no prompt.
const WALLS: [(&str, &[&str]); 3] = [
    ("batch", ENGINE_IGNORES),
    ("ops", ENGINE_IGNORES),
    ("model", ENGINE_IGNORES),
];
const ENGINE_IGNORES: &[&str] = &["task", "data", "schedule", "load", "eval", "train"];

/// Rooms and the words they never say: metrics compare texts.
const NEVER_IN: [(&str, &[&str]); 1] = [(
    "metrics",
    &["candle", "candle_core", "candle_nn", "Tensor", "tensor"],
)];

/// What changes a disk; outside tests only `files` does.
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

/// What no file holds when it is committed. Written in halves so that this file does not hold them either.
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("dbg", "!"),
];
const IGNORED_TEST: &str = concat!("#[igno", "re");

/// A source file cut into what the rules look at.
struct Source<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    /// The same lines with comments and the insides of strings blanked out.
    code: Vec<String>,
    /// Whether a line is compiled for tests alone.
    is_test: Vec<bool>,
    /// Number of modules around a line, the crate's root not counted.
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

    /// `src/model/lora.rs` is of the room `model`, `src/seed.rs` of `seed`.
    fn room(&self) -> &'a str {
        let inside = self.path.strip_prefix("src/").unwrap_or(self.path);
        inside
            .split('/')
            .next()
            .unwrap_or(inside)
            .trim_end_matches(".rs")
    }

    /// Whether the file is of a room, or of a part of it such as `eval/judge`.
    fn is_in(&self, place: &str) -> bool {
        let inside = self
            .path
            .strip_prefix("src/")
            .and_then(|inside| inside.strip_prefix(place));
        inside.is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    }

    fn fault(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }
}

/// For each line whether it is test code, and how many modules are around it.
fn modules(path: &str, code: &[String]) -> (Vec<bool>, Vec<usize>) {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let is_root = parts == ["lib.rs"] || parts == ["main.rs"];
    let of_file = if is_root {
        0
    } else {
        parts.len() - usize::from(parts.last() == Some(&"mod.rs"))
    };
    let whole_file_is_test =
        !path.starts_with("src/") || parts.last() == Some(&"tests.rs") || parts.contains(&"tests");
    let (mut is_test, mut depth) = (Vec::new(), Vec::new());
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

/// The text with comments and the insides of literals turned into spaces, line breaks kept.
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

/// Where the comment or literal that starts at `i` ends; `i` itself where none starts.
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
            let (mut j, mut open) = (i + 2, 1);
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

/// The identifiers of a line with the byte at which each starts.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split(|c| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - line.as_ptr() as usize, word))
}

/// Whether `line` says `phrase`, not as a part of longer names.
fn says(line: &str, phrase: &str) -> bool {
    line.match_indices(phrase).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + phrase.len()..].chars().next();
        let joins = |neighbour: Option<char>| neighbour.is_some_and(is_word);
        !joins(before) && (!phrase.ends_with(is_word) || !joins(after))
    })
}

/// The rooms of the crate in the order of the law: the modules of `src/lib.rs`.
fn rooms(lib: &str) -> Vec<&str> {
    lib.lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect()
}

/// Everything a file of `src/` does against the law.
fn faults(path: &str, text: &str, rooms: &[&str]) -> Vec<String> {
    let source = Source::new(path, text);
    let mut found = shape_faults(&source);
    let room = source.room();
    // `main.rs` comes after every room, `lib.rs` only lists them.
    let place = match room {
        "main" | "lib" => rooms.len(),
        _ => match rooms.iter().position(|known| *known == room) {
            Some(place) => place,
            None => {
                found.push(source.fault(0, format!("`{room}` is no room of src/lib.rs")));
                return found;
            }
        },
    };
    for (i, line) in source.code.iter().enumerate() {
        for used in rooms_used(line) {
            let Some(used_place) = rooms.iter().position(|known| *known == used) else {
                continue;
            };
            let is_walled = WALLS
                .iter()
                .any(|(walled, ignored)| *walled == room && ignored.contains(&used));
            if used_place > place || is_walled {
                found.push(source.fault(i, format!("{room} may not use {used}")));
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
                .filter(|word| walled == room && says(line, word))
            {
                found.push(source.fault(i, format!("{room} may not say `{word}`")));
            }
        }
        if room != "files" && !source.is_test[i] {
            for writer in WRITERS.iter().filter(|writer| says(line, writer)) {
                found.push(source.fault(
                    i,
                    format!("`{writer}` outside files, the only room that writes"),
                ));
            }
        }
        if line
            .split_whitespace()
            .any(|part| part.matches("super::").count() >= source.depth[i].max(1))
        {
            found.push(source.fault(i, "`super::` leaves the room; write `crate::`"));
        }
    }
    found
}

/// The rooms that a line of code names by `crate::` (or, in the binary, by `maqam::`).
fn rooms_used(line: &str) -> BTreeSet<&str> {
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

/// What concerns the writing of any Rust file, of the crate, of its tests or of its benches.
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

/// A file that people write or run says first what it is.
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

/// All files below a folder of the repository with one of these extensions, as paths from its root, sorted.
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

fn assert_none(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn the_crate_keeps_the_law() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rooms = rooms(&lib);
    assert!(rooms.starts_with(&["error", "files", "seed"]), "{rooms:?}");
    let sources = files("src", &["rs"]);
    assert!(sources.len() > rooms.len());
    assert_none(
        &sources
            .iter()
            .flat_map(|(path, text)| faults(path, text, &rooms))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn tests_and_benches_are_kept_as_well() {
    let sources = [files("tests", &["rs"]), files("benches", &["rs"])].concat();
    assert!(sources.len() > 3);
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
fn what_people_read_first_is_there() {
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
    const ROOMS: [&str; 12] = [
        "error", "files", "seed", "data", "task", "batch", "ops", "model", "metrics", "eval",
        "train", "cli",
    ];
    let cases = [
        (
            "src/model/lora.rs",
            "use crate::train::Run;",
            "src/model/lora.rs:2: model may not use train",
        ),
        (
            "src/model/lora.rs",
            "let x = crate::task::Task::new();",
            "model may not use task",
        ),
        (
            "src/eval/mod.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::cli::run;\n}",
            "src/eval/mod.rs:4: eval may not use cli",
        ),
        ("src/attic.rs", "", "src/attic.rs:1: `attic` is no room"),
        (
            "src/metrics/edit.rs",
            "fn f(x: &Tensor) {}",
            "metrics may not say `Tensor`",
        ),
        (
            "src/metrics/edit.rs",
            "use candle_core::D;",
            "metrics may not say `candle_core`",
        ),
        (
            "src/task/mod.rs",
            "use polars::prelude::DataFrame;",
            "`polars` outside data",
        ),
        (
            "src/task/mod.rs",
            "#[derive(clap::Parser)]\nstruct A;",
            "`clap` outside cli and main",
        ),
        (
            "src/train/mod.rs",
            "use indicatif::ProgressBar;",
            "`indicatif` outside cli",
        ),
        (
            "src/model/mod.rs",
            "use hf_hub::api::sync::Api;",
            "`hf_hub` outside cli",
        ),
        (
            "src/eval/mod.rs",
            "use ureq::Agent;",
            "`ureq` outside eval/judge and cli",
        ),
        (
            "src/eval/mod.rs",
            "eprintln!(\"{x}\");",
            "`eprintln!` outside cli and main",
        ),
        (
            "src/eval/mod.rs",
            "std::fs::write(path, text)?;",
            "`fs::write` outside files",
        ),
        (
            "src/eval/mod.rs",
            "let f = File::create(path)?;",
            "`File::create` outside files",
        ),
        (
            "src/eval/mod.rs",
            "#[cfg(test)]\nmod tests {\n}\nfn f() { fs::remove_file(p); }",
            ":5: `fs::remove_file` outside files",
        ),
        (
            "src/seed.rs",
            "use super::error::Error;",
            "`super::` leaves the room",
        ),
        (
            "src/task/mod.rs",
            "use super::error::Error;",
            "`super::` leaves the room",
        ),
        (
            "src/task/file.rs",
            "use super::super::error::Error;",
            "`super::` leaves the room",
        ),
        (
            "src/seed.rs",
            "mod inner {\n    use super::super::error::Error;\n}",
            "`super::` leaves the room",
        ),
        (
            "src/task/file.rs",
            "use crate::error::{Error, Result};",
            "src/task/file.rs:2: one `use` a line",
        ),
        (
            "src/task/file.rs",
            "use std::{\n    fs,\n};",
            "one `use` a line",
        ),
        (
            "src/task/file.rs",
            concat!("// TO", "DO: later"),
            concat!("`TO", "DO`"),
        ),
        (
            "src/task/file.rs",
            concat!("fn f() { todo", "!() }"),
            concat!("`todo", "!`"),
        ),
        (
            "src/task/file.rs",
            concat!("#[igno", "re = \"slow\"]"),
            "an ignored test",
        ),
    ];
    for (path, planted, expected) in cases {
        let found = faults(path, &format!("//! A file.\n{planted}\n"), &ROOMS);
        assert!(
            found.iter().any(|fault| fault.contains(expected)),
            "{path}: {planted}\n-> {found:?}, expected {expected}"
        );
    }
    assert!(faults("src/task/file.rs", "fn f() {}\n", &ROOMS)[0].contains(":1: begins without"));
    assert!(
        head_fault("a.yaml", "name: x\n").is_some()
            && head_fault("a.yaml", "# \n").is_some()
            && head_fault("a.yaml", "# A recipe.\n").is_none()
    );
}

#[test]
fn what_is_allowed_is_not_called_a_fault() {
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
    assert_none(&faults(
        "src/task/file.rs",
        clean,
        &["error", "data", "task", "train", "cli"],
    ));
}
