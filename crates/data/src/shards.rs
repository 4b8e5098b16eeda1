//! The files of a manifest: one file, a folder, a pattern, or a list of shards.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserializer;
use serde::de::SeqAccess;
use serde::de::Visitor;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Most paths of one pattern with braces.
const MOST_PATHS: usize = 1 << 20;

/// Most bytes of a file that lists shards.
const MOST_LIST_BYTES: u64 = 64 << 20;

/// Endings of files that hold rows, without that of gzip.
const ENDINGS: [&str; 8] = [
    "jsonl", "ndjson", "json", "parquet", "arrow", "csv", "tsv", "tar",
];

/// Names of splits at the beginning of file names, with the split of each.
const SPLITS: [(&str, &str); 10] = [
    ("train", "train"),
    ("training", "train"),
    ("dev", "dev"),
    ("devel", "dev"),
    ("valid", "dev"),
    ("validation", "dev"),
    ("val", "dev"),
    ("test", "test"),
    ("testing", "test"),
    ("eval", "test"),
];

/// Returns the paths of a manifest, in the order of their rows.
///
/// `*` and `?` match parts of one name, and `**` matches any folders. `{a,b}` and `{000..099}` are
/// expanded first, also in NeMo's form `_OP_0..9_CL_`, and every resulting path must exist. A file
/// with one path per line stands for these paths. A folder stays one path, because its contents
/// determine its reader.
///
/// # Errors
/// A path or pattern without a match, with a suggestion.
pub fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    if path.exists() {
        return match listed(path)? {
            Some(paths) => Ok(paths),
            None => Ok(vec![path.to_owned()]),
        };
    }
    let written = path.to_string_lossy();
    let pattern = written.replace("_OP_", "{").replace("_CL_", "}");
    let mut paths = Vec::new();
    for one in braces(&pattern).map_err(|e| e.at_path(path))? {
        if !one.contains(['*', '?']) {
            let one = PathBuf::from(one);
            if !one.exists() {
                return Err(missing(&one, path));
            }
            paths.push(one);
            continue;
        }
        let found = matching(&one)?;
        if found.is_empty() {
            return Err(Error::input("no file fits this pattern")
                .at(one)
                .hint("relative patterns start from the folder the command runs in"));
        }
        paths.extend(found);
    }
    Ok(paths)
}

/// Returns one path for a list of paths: a pattern with braces.
///
/// # Errors
/// An empty list; a path with a comma or a brace, which a pattern cannot hold.
pub fn pattern_of(paths: &[String]) -> Result<PathBuf> {
    match paths {
        [] => {
            Err(Error::input("the list of shards is empty").hint("name a file, or a list of them"))
        }
        [one] => Ok(one.into()),
        paths => {
            if let Some(odd) = paths.iter().find(|path| path.contains([',', '{', '}'])) {
                return Err(
                    Error::input(format!("`{odd}` has a comma or a brace in its name"))
                        .hint("list such paths in a text file, one a line, and name that file"),
                );
            }
            Ok(format!("{{{}}}", paths.join(",")).into())
        }
    }
}

/// Reads the path of a manifest from YAML: one path, or a list of shards.
///
/// # Errors
/// As [`pattern_of`]; another type.
pub fn path_or_list<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<PathBuf, D::Error> {
    struct Paths;

    impl<'de> Visitor<'de> for Paths {
        type Value = PathBuf;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("path string")
        }

        fn visit_str<E: serde::de::Error>(self, path: &str) -> std::result::Result<PathBuf, E> {
            Ok(path.into())
        }

        fn visit_seq<A: SeqAccess<'de>>(
            self,
            mut list: A,
        ) -> std::result::Result<PathBuf, A::Error> {
            let mut paths = Vec::new();
            while let Some(path) = list.next_element::<String>()? {
                paths.push(path);
            }
            pattern_of(&paths).map_err(|e| serde::de::Error::custom(e.message()))
        }
    }

    from.deserialize_any(Paths)
}

/// The error for a missing path.
fn missing(path: &Path, written: &Path) -> Error {
    let text = path.to_string_lossy();
    let parts: Vec<&str> = text.split('/').collect();
    let is_word = |part: &str| {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(is_of_name)
    };
    let looks_like_an_id = matches!(parts.as_slice(), [owner, name]
        if is_word(owner) && is_word(name) && !Path::new(owner).exists() && ending(path).is_none());
    if looks_like_an_id {
        return Error::input(
            "there is no such file or folder; a data set of the Hugging Face Hub is not downloaded",
        )
        .at_path(path)
        .hint(format!(
            "download it and name the folder: `hf download --repo-type dataset {text} --local-dir data/{}`",
            parts[1]
        ));
    }
    if text.contains("://") {
        return Error::input("is an address, not a file")
            .at_path(path)
            .hint("download it first");
    }
    let found = match fs::metadata(path) {
        Err(e) => Error::io(path, "read", e),
        Ok(_) => Error::input("has only just been made").at_path(path),
    };
    match path == written {
        true => found.hint("relative paths of manifests start from the folder the command runs in"),
        false => found.hint(format!("it is one of the shards of {}", written.display())),
    }
}

/// The paths in a text file, if it is a list of paths.
fn listed(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let is_list = path.extension().is_some_and(|e| {
        ["txt", "list", "lst"]
            .iter()
            .any(|name| e.eq_ignore_ascii_case(name))
    });
    let metadata = fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
    if !is_list || !metadata.is_file() || metadata.len() > MOST_LIST_BYTES {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let lines: Vec<(usize, &str)> = text
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let is_of_shards = lines.first().is_some_and(|(_, line)| {
        !line.starts_with(['{', '[']) && ending(Path::new(line)).is_some()
    });
    if !is_of_shards {
        return Ok(None);
    }
    let mut paths = Vec::new();
    for (i, line) in lines {
        let shard = folder.join(line);
        if !shard.exists() {
            let place = format!("{}:{}", path.display(), i + 1);
            return Err(
                Error::input(format!("there is no file {}", shard.display()))
                    .at(place)
                    .hint("relative paths of a list of shards start from its folder"),
            );
        }
        paths.push(shard);
    }
    Ok(Some(paths))
}

/// The ending of a file that may hold rows, in lower case.
pub fn ending(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let (_, end) = name.rsplit_once('.')?;
    ENDINGS.into_iter().find(|known| *known == end)
}

/// Returns the files of a folder that hold rows, sorted by name: its own, or else those of its
/// subfolder `data`.
///
/// # Errors
/// No such file, files of several kinds, or files of several splits.
pub fn of_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = with_rows(folder)?;
    let data = folder.join("data");
    if found.is_empty() && data.is_dir() {
        found = with_rows(&data)?;
    }
    if found.is_empty() {
        return Err(Error::input("is a folder without files that hold rows")
            .at_path(folder)
            .hint("name a file, or a folder of .jsonl, .parquet, .csv, .tsv or .tar files"));
    }
    let kinds: BTreeSet<&str> = found.iter().filter_map(|path| ending(path)).collect();
    if kinds.len() > 1 {
        let kinds: Vec<&str> = kinds.into_iter().collect();
        return Err(Error::input(format!(
            "holds files of several kinds: {}",
            kinds.join(", ")
        ))
        .at_path(folder)
        .hint(format!(
            "name those that are meant, such as `{}`",
            folder.join(format!("*.{}", kinds[0])).display()
        )));
    }
    let splits: BTreeSet<&str> = found.iter().filter_map(|path| split_of(path)).collect();
    if splits.len() > 1 {
        let named: Vec<&str> = splits.into_iter().collect();
        let example = found
            .first()
            .and_then(|path| {
                let name = path.file_name()?.to_str()?;
                let word = first_word(name);
                let parent = path.parent()?;
                Some(parent.join(format!("{word}*")))
            })
            .unwrap_or_default();
        return Err(
            Error::input(format!("holds several splits: {}", named.join(", ")))
                .at_path(folder)
                .hint(format!("name one of them, such as `{}`", example.display())),
        );
    }
    Ok(found)
}

fn with_rows(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, "read", e))?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
        let is_about = path.file_name().is_some_and(|name| {
            ["dataset_info.json", "state.json"]
                .iter()
                .any(|n| name == *n)
        });
        if !is_hidden && !is_about && path.is_file() && ending(&path).is_some() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The split that a file's name begins with.
fn split_of(path: &Path) -> Option<&'static str> {
    let word = first_word(path.file_name()?.to_str()?).to_lowercase();
    SPLITS
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, split)| *split)
}

fn first_word(name: &str) -> &str {
    name.split(|c: char| !c.is_ascii_alphabetic())
        .next()
        .unwrap_or(name)
}

/// A pattern with its braces written out.
fn braces(pattern: &str) -> Result<Vec<String>> {
    let Some(open) = pattern.find('{') else {
        return Ok(vec![pattern.to_owned()]);
    };
    let unclosed = || Error::input("`{` without `}`").hint("write {a,b} or {000..099}");
    let close = closing(&pattern[open..]).ok_or_else(unclosed)? + open;
    let inside = &pattern[open + 1..close];
    let choices = match range(inside) {
        Some(numbers) => numbers,
        None => {
            let mut all = Vec::new();
            for choice in split_top(inside) {
                all.extend(braces(choice)?);
            }
            all
        }
    };
    let rests = braces(&pattern[close + 1..])?;
    if choices.len().saturating_mul(rests.len()) > MOST_PATHS {
        return Err(Error::input(format!(
            "stands for more than {MOST_PATHS} paths"
        )));
    }

    let mut paths = Vec::with_capacity(choices.len() * rests.len());
    for choice in &choices {
        for rest in &rests {
            paths.push(format!("{}{choice}{rest}", &pattern[..open]));
        }
    }
    Ok(paths)
}

/// The place of the brace that closes the first.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => continue,
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

/// The parts between commas outside inner braces.
fn split_top(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut depth = 0usize;
    let mut start = 0;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The numbers of `000..099`, with the written width.
fn range(text: &str) -> Option<Vec<String>> {
    let (from, to) = text.split_once("..")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(from) || !is_number(to) {
        return None;
    }
    let first: usize = from.parse().ok()?;
    let last: usize = to.parse().ok()?;
    let count = last.checked_sub(first)?;
    (count < MOST_PATHS).then(|| {
        (first..=last)
            .map(|number| format!("{number:0width$}", width = from.len()))
            .collect()
    })
}

/// The files that a pattern with `*`, `?` or `**` fits, sorted.
fn matching(pattern: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(pattern);
    let mut folders = vec![PathBuf::new()];
    let parts: Vec<String> = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    for (i, part) in parts.iter().enumerate() {
        let is_last = i + 1 == parts.len();
        let mut next = BTreeSet::new();
        for folder in &folders {
            if part == "**" {
                below(folder, &mut next)?;
            } else if !part.contains(['*', '?']) {
                let path = folder.join(part);
                if path.exists() {
                    next.insert(path);
                }
            } else {
                for (name, path) in entries(folder)? {
                    let is_right = is_last || path.is_dir();
                    if is_right && fits(part, &name) {
                        next.insert(path);
                    }
                }
            }
        }
        folders = next.into_iter().collect();
    }
    Ok(folders)
}

/// A folder and all folders in it.
fn below(folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    found.insert(folder.to_owned());
    for (_, path) in entries(folder)? {
        // A link may lead back.
        if path.is_dir() && !path.is_symlink() {
            below(&path, found)?;
        }
    }
    Ok(())
}

/// Names and paths of a folder's entries that are not hidden.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let at = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let Ok(read) = fs::read_dir(at) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in read {
        let name = entry.map_err(|e| Error::io(at, "read", e))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.push((name.clone(), folder.join(name)));
        }
    }
    Ok(found)
}

/// Returns whether a name fits a pattern in which `*` matches any letters and `?` matches one.
fn fits(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let mut p = 0;
    let mut n = 0;
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    n = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_written_out_in_order() {
        assert_eq!(
            braces("a{08..11}.tar").unwrap(),
            ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
        );
        assert_eq!(braces("{a,b}{1,2}").unwrap(), ["a1", "a2", "b1", "b2"]);
        assert_eq!(braces("x{a,b{0..1}}").unwrap(), ["xa", "xb0", "xb1"]);
        assert!(braces("x{a").is_err());
        assert!(braces("{0..99999999}").is_ok_and(|all| all == ["0..99999999"]));
    }

    #[test]
    fn stars_fit_as_a_shell_fits_them() {
        for (pattern, name, expected) in [
            ("*.tar", "a.tar", true),
            ("*.tar", "a.tar.gz", false),
            ("a*b*c", "a-b-b-c", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("train-*", "test-1", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn patterns_folders_and_lists_are_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("sub/deep")).unwrap();
        for name in ["b.jsonl", "a.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl"] {
            fs::write(at(name), "{}").unwrap();
        }
        let names = |pattern: &str| -> Vec<String> {
            expand(&at(pattern))
                .unwrap()
                .iter()
                .map(|p| p.strip_prefix(dir.path()).unwrap().display().to_string())
                .collect()
        };
        assert_eq!(names("*.jsonl"), ["a.jsonl", "b.jsonl"]);
        assert_eq!(names("{b,a}.jsonl"), ["b.jsonl", "a.jsonl"]);
        assert_eq!(
            names("**/*.jsonl"),
            ["a.jsonl", "b.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl"]
        );
        fs::write(at("shards.txt"), "# two\nb.jsonl\nsub/c.jsonl\n").unwrap();
        assert_eq!(names("shards.txt"), ["b.jsonl", "sub/c.jsonl"]);
        let error = expand(&at("{a,x}.jsonl")).unwrap_err().to_string();
        assert!(error.contains("x.jsonl: cannot read"), "{error}");
        assert!(error.contains("one of the shards"), "{error}");
        assert_eq!(
            of_folder(dir.path()).unwrap(),
            [at("a.jsonl"), at("b.jsonl")]
        );
    }

    #[test]
    fn a_folder_of_several_splits_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet",
            "test-00000-of-00001.parquet",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let error = of_folder(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("holds several splits: test, train"),
            "{error}"
        );
        assert!(error.contains("hint: name one of them"), "{error}");
    }

    #[test]
    fn an_id_of_the_hub_is_not_downloaded() {
        let error = expand(Path::new("mozilla-foundation/common_voice_17_0"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is not downloaded\nhint: download it and name the folder: `hf download --repo-type dataset mozilla-foundation/common_voice_17_0"),
            "{error}"
        );
    }

    #[test]
    fn a_list_of_paths_is_a_pattern() {
        let of =
            |paths: &[&str]| pattern_of(&paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["a.jsonl"]).unwrap(), Path::new("a.jsonl"));
        assert_eq!(of(&["a", "b/c"]).unwrap(), Path::new("{a,b/c}"));
        assert!(of(&[]).is_err() && of(&["a,b", "c"]).is_err());
    }
}
