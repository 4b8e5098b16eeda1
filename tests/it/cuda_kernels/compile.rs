//! Builds the emulated kernels with the host's C++ compiler, once for each state of their sources.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Folders with the library's sources. The first two are searched for headers, and so is the
/// toolkit's replacement.
const SOURCES: [&str; 4] = [
    "crates/engine/src/ops/cuda/kernels",
    "tests/cuda",
    "tests/cuda/emulator",
    "tests/cuda/include",
];

/// Optimised, or attention over 2049 tokens would take minutes. What a kernel must not do
/// (addresses not aligned to their type, indices outside of arrays) becomes an illegal instruction,
/// which the emulator reports.
const FLAGS: [&str; 16] = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-march=native",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-U_FORTIFY_SOURCE",
    "-fsanitize=alignment,bounds,shift",
    "-fsanitize-undefined-trap-on-error",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Werror",
    "-DMAQAM_EMULATED",
];

/// The compiler and its version; `None`, with a visible note, if there is none.
fn compiler() -> Option<(OsString, Vec<u8>)> {
    let compiler = env::var_os("CXX").unwrap_or_else(|| OsString::from("c++"));
    match Command::new(&compiler).arg("--version").output() {
        Ok(output) => Some((compiler, output.stdout)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!(
                "\n*** THE CUDA KERNELS ARE NOT TESTED: there is no C++ compiler {compiler:?} (CXX names another) ***\n"
            );
            None
        }
        Err(error) => panic!("{compiler:?}: {error}"),
    }
}

/// The library of the kernels as they are now.
pub fn library() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (compiler, version) = compiler()?;
    let library = folder.join(format!("kernels-{}.so", key(root, &SOURCES, &version)));
    if !library.exists() {
        let unfinished = folder.join(format!("kernels-unfinished-{}.so", std::process::id()));
        let mut command = Command::new(&compiler);
        command.args(FLAGS).args(
            SOURCES[..2]
                .iter()
                .chain(&SOURCES[3..])
                .map(|folder| format!("-I{folder}")),
        );
        command
            .arg("-o")
            .arg(&unfinished)
            .args(["tests/cuda/emulated.cpp", "-ldl", "-lpthread"]);
        let output = command.current_dir(root).output().unwrap();
        assert!(
            output.status.success(),
            "the kernels do not compile for the emulator:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        remove_older(folder, "kernels-");
        fs::rename(unfinished, &library).unwrap();
    }
    Some(library)
}

/// The folder of the emulated driver's libraries as they are now, built as for a program that wants
/// nothing of them.
pub fn driver() -> Option<PathBuf> {
    const DRIVER: &str = "tests/cuda/driver";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (_, version) = compiler()?;
    let sources = [SOURCES.as_slice(), &[DRIVER]].concat();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let libraries = folder.join(format!("driver-{}", key(root, &sources, &version)));
    if !libraries.exists() {
        let unfinished = tempfile::tempdir_in(folder).unwrap();
        let output = Command::new(root.join(DRIVER).join("build.sh"))
            .arg(unfinished.path())
            .arg(env::current_exe().unwrap())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "the emulated driver does not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        remove_older(folder, "driver-");
        fs::rename(unfinished.keep(), &libraries).unwrap();
    }
    Some(libraries)
}

/// A hash of all inputs of the library.
fn key(root: &Path, folders: &[&str], version: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(version);
    hasher.update(FLAGS.concat().as_bytes());
    for folder in folders {
        let mut paths: Vec<PathBuf> = fs::read_dir(root.join(folder))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.retain(|path| {
            path.extension().is_some_and(|extension| {
                ["cu", "cuh", "h", "cpp", "inc", "sh"]
                    .iter()
                    .any(|known| extension == *known)
            })
        });
        paths.sort();
        for path in paths {
            hasher.update(path.as_os_str().as_encoded_bytes());
            hasher.update(&fs::read(path).unwrap());
        }
    }
    hasher.finalize().to_hex()[..16].to_string()
}

fn remove_older(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(prefix) && !name.contains("unfinished") {
            // Another process may have removed it first.
            let _ = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
        }
    }
}
