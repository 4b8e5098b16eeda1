//! The machine and the build that a command runs with: processor, cores, memory, commit.

pub mod fit;
mod memory;

use std::fs;

use crate::records::environment::Machine;

pub use memory::Available;
pub use memory::Limit;
pub use memory::available;
pub use memory::available_under;

/// Version of the program, as Cargo.toml has it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit that the program was built from, or `unknown`. The build script finds it; the variable
/// `MAQAM_COMMIT` overrides it.
pub const COMMIT: &str = env!("MAQAM_COMMIT");

/// Version and commit in one text, for `--version`.
pub const VERSION_AND_COMMIT: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("MAQAM_COMMIT"), ")");

/// Optional features of the program that this build has.
pub fn features() -> Vec<String> {
    let cuda = cfg!(feature = "cuda").then(|| "cuda".to_owned());
    cuda.into_iter().collect()
}

/// This machine, with the GPU that the caller computes on. What the system does not tell is left
/// out.
pub fn here(gpu: Option<String>) -> Machine {
    Machine {
        cpu: fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| cpu_model(&text)),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| memory::field(&text, "MemTotal")),
        gpu,
        system: std::env::consts::OS.to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
    }
}

/// Processor time of all threads of this process so far, in seconds, to 10 ms, where the system
/// tells it.
pub fn processor_seconds() -> Option<f64> {
    seconds_of_stat(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Ticks of a second in `/proc/self/stat`: the same on all systems that Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Time in user and system mode in the text of `/proc/self/stat`. The second field is the program's
/// name, which may hold anything, in brackets.
fn seconds_of_stat(text: &str) -> Option<f64> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The processor's name in the text of `/proc/cpuinfo`: `model name` on x86, `Model` or `Hardware`
/// on ARM boards.
fn cpu_model(text: &str) -> Option<String> {
    ["model name", "Model", "Hardware"]
        .into_iter()
        .find_map(|key| {
            text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                (name.trim() == key && !value.trim().is_empty()).then(|| value.trim().to_owned())
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_named_on_both_architectures() {
        let x86 = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: AMD EPYC 7B13\nstepping\t: 7\n";
        assert_eq!(cpu_model(x86).as_deref(), Some("AMD EPYC 7B13"));
        let arm =
            "processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n";
        assert_eq!(
            cpu_model(arm).as_deref(),
            Some("Raspberry Pi 5 Model B Rev 1.0")
        );
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }

    #[test]
    fn processor_time_is_that_of_both_modes() {
        // From `man 5 proc`: utime and stime are the fields 14 and 15.
        let text = "7 (a) b) R 1 7 7 0 -1 4194304 100 0 0 0 250 50 9 9 20 0 1 0 100 1 1";
        assert_eq!(seconds_of_stat(text), Some(3.0));
        assert_eq!(seconds_of_stat("7 (a"), None);
    }

    #[test]
    fn this_machine_has_a_core_and_a_system() {
        let here = here(None);
        assert!(here.cores >= 1 && !here.system.is_empty());
        assert_eq!(here.gpu, None);
    }
}
