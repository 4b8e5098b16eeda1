//! Compiles the CUDA kernels into the binary, for builds with the feature `cuda`; does nothing
//! otherwise.
//!
//! Each `.cu` file becomes one fatbin: machine code for the targets below, and PTX of the newest
//! for GPUs that come after it.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;

const KERNELS: &str = "src/ops/cuda/kernels";

/// Compute capabilities that get machine code; the last one's PTX goes in as well.
const TARGETS: [u32; 2] = [80, 90];

/// Where a toolkit says it lies, in the order in which the variables are asked.
const TOOLKITS: [&str; 4] = [
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_ROOT",
    "CUDA_TOOLKIT_ROOT_DIR",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo::rerun-if-changed={KERNELS}");
    TOOLKITS
        .iter()
        .chain(&["PATH"])
        .for_each(|name| println!("cargo::rerun-if-env-changed={name}"));
    let nvcc = nvcc().ok_or(
        "the feature `cuda` needs nvcc, and none was found\n\
         hint: install the CUDA 13.0 toolkit and set CUDA_HOME to its folder, or put nvcc on PATH; without the feature the same program runs on the CPU",
    )?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut sources: Vec<PathBuf> = fs::read_dir(KERNELS)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();

    let jobs: usize = env::var("NUM_JOBS")
        .ok()
        .and_then(|jobs| jobs.parse().ok())
        .unwrap_or(1);
    let mut list = String::from("[\n");
    for group in sources.chunks(jobs) {
        let mut running = Vec::new();
        for source in group {
            let fatbin = out.join(
                source
                    .with_extension("fatbin")
                    .file_name()
                    .ok_or("a kernel without a name")?,
            );
            running.push((source, compile(&nvcc, source, &fatbin)?));
            writeln!(list, "    include_bytes!({:?}),", fatbin)?;
        }
        for (source, mut child) in running {
            if !child.wait()?.success() {
                return Err(format!(
                    "nvcc refused {}; its messages stand above",
                    source.display()
                )
                .into());
            }
        }
    }
    list.push(']');
    fs::write(out.join("kernels.rs"), list)?;
    Ok(())
}

fn compile(nvcc: &Path, source: &Path, fatbin: &Path) -> std::io::Result<Child> {
    let mut command = Command::new(nvcc);
    command
        .args(["-fatbin", "-O3", "-std=c++17", "-o"])
        .arg(fatbin)
        .arg(source);
    for (i, target) in TARGETS.iter().enumerate() {
        let code = if i + 1 == TARGETS.len() {
            format!("[sm_{target},compute_{target}]")
        } else {
            format!("sm_{target}")
        };
        command.arg(format!("-gencode=arch=compute_{target},code={code}"));
    }
    command.spawn()
}

/// The compiler of the toolkit that a variable names, else the one on the path, else the one in the
/// usual place.
fn nvcc() -> Option<PathBuf> {
    let named = TOOLKITS
        .iter()
        .filter_map(env::var_os)
        .map(|toolkit| PathBuf::from(toolkit).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    named
        .chain(on_path)
        .chain([PathBuf::from("/usr/local/cuda/bin/nvcc")])
        .find(|nvcc| nvcc.is_file())
}
