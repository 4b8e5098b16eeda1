//! The machine that choices are of, and where they are stored.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

/// The variable of the environment that turns timing off with `0`.
const AUTOTUNE: &str = "MAQAM_CUDA_AUTOTUNE";

/// What a time depends on, and which descriptions of algorithms hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The GPU's name.
    pub gpu: String,
    /// Release of the driver, or the CUDA that it knows.
    pub driver: String,
    /// Version of cuBLASLt, as the library numbers it.
    pub cublaslt: String,
}

impl Machine {
    /// Name of the machine's file.
    pub fn file_name(&self) -> String {
        format!(
            "{}_driver-{}_cublaslt-{}.jsonl",
            plain(&self.gpu),
            plain(&self.driver),
            plain(&self.cublaslt)
        )
    }
}

/// A text with a hyphen for each character that is special in a shell.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => c,
            _ => '-',
        })
        .collect()
}

/// The release in the text of `/proc/driver/nvidia/version`: the first word of numbers with dots.
pub fn driver_release(text: &str) -> Option<&str> {
    text.lines().next()?.split_whitespace().find(|word| {
        word.split('.').count() > 1
            && word
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Variables of the environment, by name.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The folder of the files of all machines: `maqam/products` in the user's cache
/// (`XDG_CACHE_HOME`, `~/.cache` otherwise). `None` where `MAQAM_CUDA_AUTOTUNE` is `0`, or the
/// environment names no home folder.
pub fn cache_folder(variables: Variables<'_>) -> Option<PathBuf> {
    if variables(AUTOTUNE).is_some_and(|value| value == "0") {
        return None;
    }
    let folder = |name: &str| {
        let value = variables(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("maqam").join("products"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_file_name_has_no_special_characters() {
        let machine = Machine {
            gpu: "NVIDIA GeForce RTX 4090 / D".into(),
            driver: "CUDA 13.0".into(),
            cublaslt: "130002".into(),
        };
        assert_eq!(
            machine.file_name(),
            "NVIDIA-GeForce-RTX-4090---D_driver-CUDA-13.0_cublaslt-130002.jsonl"
        );
    }

    #[test]
    fn releases_of_both_kernel_modules_are_read() {
        // As NVIDIA's documentation and bug reports show the file.
        for (text, expected) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version:  gcc version 12.3.0 (Ubuntu)\n",
                Some("535.129.03"),
            ),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)\n",
                Some("580.95.05"),
            ),
            ("GCC version", None),
            ("", None),
        ] {
            assert_eq!(driver_release(text), expected, "{text}");
        }
    }

    #[test]
    fn the_environment_names_the_folder_or_turns_it_off() {
        let folder = |set: &[(&str, &str)]| {
            cache_folder(&|name: &str| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            })
        };
        let home = ("HOME", "/home/amal");
        assert_eq!(
            folder(&[home]).as_deref(),
            Some(Path::new("/home/amal/.cache/maqam/products"))
        );
        assert_eq!(
            folder(&[home, ("XDG_CACHE_HOME", "/scratch"), (AUTOTUNE, "1")]).as_deref(),
            Some(Path::new("/scratch/maqam/products"))
        );
        assert_eq!(
            folder(&[home, ("XDG_CACHE_HOME", "")]).as_deref(),
            Some(Path::new("/home/amal/.cache/maqam/products"))
        );
        assert_eq!(folder(&[home, (AUTOTUNE, "0")]), None);
        assert_eq!(folder(&[]), None);
    }
}
