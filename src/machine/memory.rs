//! Memory that a process can still take before the kernel ends it: the smaller of what the machine
//! and the control group have left.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// What limits the memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The machine: `MemAvailable` of `/proc/meminfo`.
    Machine,
    /// A control group: a container, or a job of a batch system.
    ControlGroup,
}

/// Memory that is available, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// What has no more than that.
    pub limit: Limit,
}

impl Limit {
    /// The limit as a message names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Machine => "this machine",
            Self::ControlGroup => "the control group of this process (a container or job)",
        }
    }
}

/// Memory that this process can still take; `None` on systems that do not tell.
pub fn available() -> Option<Available> {
    available_under(Path::new("/"))
}

impl Available {
    /// Bytes, and the name of what has no more than that.
    pub fn named(self) -> (u64, &'static str) {
        (self.bytes, self.limit.name())
    }
}

/// As [`available`], with the files of `/proc` and `/sys` below another folder.
pub fn available_under(root: &Path) -> Option<Available> {
    let machine = fs::read_to_string(root.join("proc/meminfo"))
        .ok()
        .and_then(|text| field(&text, "MemAvailable"))
        .map(|bytes| Available {
            bytes,
            limit: Limit::Machine,
        });
    let group = control_groups(root)
        .into_iter()
        .filter_map(|folder| folder.left())
        .min()
        .map(|bytes| Available {
            bytes,
            limit: Limit::ControlGroup,
        });
    machine
        .into_iter()
        .chain(group)
        .min_by_key(|available| available.bytes)
}

/// A field of `/proc/meminfo`, in bytes; the file counts in units of 1024.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// A control group's folder, and the names of its files.
struct ControlGroup {
    folder: PathBuf,
    limit: &'static str,
    usage: &'static str,
    /// Prefix of the counters in `memory.stat` that count the group with all below it.
    total: &'static str,
}

impl ControlGroup {
    /// Bytes up to the limit; `None` where there is none. Page cache counts as used by the group
    /// and is given back on demand.
    fn left(&self) -> Option<u64> {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).ok();
        // Without a limit version 2 says `max`, version 1 a number close to 2^63.
        let limit: u64 = read(self.limit)?.trim().parse().ok()?;
        if limit >= 1 << 62 {
            return None;
        }
        let usage: u64 = read(self.usage)?.trim().parse().ok()?;
        let statistics = read("memory.stat").unwrap_or_default();
        let counter = |name: &str| {
            statistics.lines().find_map(|line| {
                let (key, value) = line.split_once(' ')?;
                (key == format!("{}{name}", self.total))
                    .then(|| value.trim().parse::<u64>().ok())?
            })
        };
        let cache = counter("inactive_file").unwrap_or(0) + counter("active_file").unwrap_or(0);

        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    }
}

/// The control groups of this process that may limit its memory: its own and all above it, in both
/// versions.
fn control_groups(root: &Path) -> Vec<ControlGroup> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let is_second = controllers.is_empty();
        if !is_second && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        let mount = root.join(if is_second {
            "sys/fs/cgroup"
        } else {
            "sys/fs/cgroup/memory"
        });
        // Inside a container the path may be the one outside; then the mount itself is the
        // process's group.
        let inside = Path::new(path.trim_start_matches('/'));
        for above in inside.ancestors() {
            groups.push(if is_second {
                ControlGroup {
                    folder: mount.join(above),
                    limit: "memory.max",
                    usage: "memory.current",
                    total: "",
                }
            } else {
                ControlGroup {
                    folder: mount.join(above),
                    limit: "memory.limit_in_bytes",
                    usage: "memory.usage_in_bytes",
                    total: "total_",
                }
            });
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A root folder with these files; numbers in GiB stand for themselves.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            crate::files::write_atomic(&dir.path().join(path), text.as_bytes()).unwrap();
        }
        dir
    }

    fn found(files: &[(&str, &str)]) -> Option<(u64, Limit)> {
        let dir = root(files);
        available_under(dir.path()).map(|found| (found.bytes, found.limit))
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       25165824 kB\nMemFree:         1048576 kB\nMemAvailable:   20971520 kB\n",
    );

    #[test]
    fn without_a_control_group_the_machine_decides() {
        assert_eq!(found(&[MEMINFO]), Some((20 * GIB, Limit::Machine)));
        let unlimited = [
            MEMINFO,
            ("proc/self/cgroup", "0::/user.slice\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "1073741824\n"),
        ];
        assert_eq!(found(&unlimited), Some((20 * GIB, Limit::Machine)));
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn version_two_counts_every_group_above_and_not_the_cache() {
        // 8 GiB, of which 5 are used, 2 of those by the page cache: 5 are left. The job inside has
        // no limit of its own.
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/slurm/job_7/step\n"),
            ("sys/fs/cgroup/slurm/job_7/step/memory.max", "max\n"),
            ("sys/fs/cgroup/slurm/job_7/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/slurm/job_7/memory.current", "5368709120\n"),
            (
                "sys/fs/cgroup/slurm/job_7/memory.stat",
                "anon 3221225472\ninactive_file 1073741824\nactive_file 1073741824\n",
            ),
        ];
        assert_eq!(found(&files), Some((5 * GIB, Limit::ControlGroup)));
    }

    #[test]
    fn a_container_sees_its_group_at_the_mount() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/memory.current", "1073741824\n"),
        ];
        assert_eq!(found(&files), Some((3 * GIB, Limit::ControlGroup)));
        // Docker without a namespace of its own names the path outside, which is not there.
        let outside = [
            MEMINFO,
            ("proc/self/cgroup", "0::/system.slice/docker-1a2b.scope\n"),
            files[2],
            files[3],
        ];
        assert_eq!(found(&outside), Some((3 * GIB, Limit::ControlGroup)));
    }

    #[test]
    fn version_one_has_other_names_and_a_huge_number_for_none() {
        let of = |limit: &'static str| {
            found(&[
                MEMINFO,
                (
                    "proc/self/cgroup",
                    "12:cpu,cpuacct:/a\n5:memory:/docker/1a2b\n0::/\n",
                ),
                (
                    "sys/fs/cgroup/memory/docker/1a2b/memory.limit_in_bytes",
                    limit,
                ),
                (
                    "sys/fs/cgroup/memory/docker/1a2b/memory.usage_in_bytes",
                    "3221225472\n",
                ),
                (
                    "sys/fs/cgroup/memory/docker/1a2b/memory.stat",
                    "inactive_file 5\ntotal_inactive_file 1073741824\n",
                ),
            ])
        };
        assert_eq!(of("6442450944\n"), Some((4 * GIB, Limit::ControlGroup)));
        assert_eq!(
            of("9223372036854771712\n"),
            Some((20 * GIB, Limit::Machine))
        );
    }

    #[test]
    fn a_group_that_is_over_its_limit_has_nothing_left() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/memory.current", "2147483648\n"),
        ];
        assert_eq!(found(&files), Some((0, Limit::ControlGroup)));
    }
}
