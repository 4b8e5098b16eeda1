//! Names the commit that the binary is built from.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=MAQAM_COMMIT={}", commit());
}

/// The commit that is built: what the variable `MAQAM_COMMIT` says, else what `cargo package` wrote
/// into the archive, else what git says of this folder, else `unknown`. The build runs again only
/// when the variable or git's `HEAD` changes.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=MAQAM_COMMIT");
    if let Some(commit) = env::var("MAQAM_COMMIT")
        .ok()
        .filter(|commit| is_hexadecimal(commit))
    {
        return commit;
    }
    if let Ok(text) = fs::read_to_string(".cargo_vcs_info.json") {
        let commit = text
            .split('"')
            .find(|part| part.len() == 40 && is_hexadecimal(part));
        return commit.map_or("unknown".to_owned(), shortened);
    }
    git_commit().unwrap_or("unknown".to_owned())
}

/// Digits of a commit that are shown.
const SHOWN: usize = 12;

fn shortened(commit: &str) -> String {
    commit.chars().take(SHOWN).collect()
}

fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// What git says, if this folder is the root of a repository and not merely inside another one's.
fn git_commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let root = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    let here = env::current_dir().ok()?;
    if root.canonicalize().ok()? != here.canonicalize().ok()? {
        return None;
    }
    // A missing file would count as changed in every build.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).is_file()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "HEAD"]).map(|commit| shortened(&commit))
}
