//! Shards: the rows of a process, if a scheduler runs several processes.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::error::Result;

/// One of several equal parts of the rows: those whose number leaves a certain remainder.
///
/// `0/4` and `4/4` name the same part, so parts may be counted from 0 or from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    remainder: usize,
    of: usize,
}

impl Shard {
    /// All rows.
    pub const WHOLE: Self = Self {
        remainder: 0,
        of: 1,
    };

    /// Returns whether it is all rows.
    pub fn is_whole(self) -> bool {
        self.of == 1
    }

    /// Returns whether a row belongs to it.
    pub fn has(self, row: usize) -> bool {
        row % self.of == self.remainder
    }

    /// Name of its files.
    pub fn name(self) -> String {
        format!("{}-of-{}", self.remainder, self.of)
    }

    /// The shard of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        let (remainder, of) = name.split_once("-of-")?;
        Self::new(remainder.parse().ok()?, of.parse().ok()?).ok()
    }

    /// The shard in a launcher's environment: Slurm (job array, else tasks), Open MPI, Kubernetes
    /// (indexed job). `of` is the number of shards if the launcher does not give it, as under
    /// Kubernetes.
    ///
    /// # Errors
    /// No launcher, or one without the number of shards.
    pub fn from_environment(
        of: Option<usize>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
        let array = || {
            let index = number("SLURM_ARRAY_TASK_ID")?;
            let count = number("SLURM_ARRAY_TASK_COUNT");
            let first = number("SLURM_ARRAY_TASK_MIN").unwrap_or(0);
            Some((index.checked_sub(first)?, count))
        };
        let of_tasks = |index: &str, count: &str| Some((number(index)?, number(count)));
        let launchers = [
            array(),
            of_tasks("SLURM_PROCID", "SLURM_NTASKS").filter(|(_, count)| *count > Some(1)),
            of_tasks("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
            of_tasks("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
        ];
        let Some((index, count)) = launchers.into_iter().flatten().next() else {
            return Err(
                Error::input("--shard auto: no launcher's variables are set").hint(
                    "run it under Slurm, Open MPI or a Kubernetes indexed job, or give --shard i/n",
                ),
            );
        };
        let Some(of) = of.or(count) else {
            return Err(Error::input(
                "--shard auto: the launcher does not say how many shards there are",
            )
            .hint("give the number: --shard auto/8"));
        };
        Self::new(index, of)
    }

    fn new(index: usize, of: usize) -> Result<Self> {
        if of == 0 || index > of {
            return Err(
                Error::input(format!("--shard {index}/{of}: there is no such shard"))
                    .hint("count shards from 0 to n-1, or from 1 to n"),
            );
        }
        Ok(Self {
            remainder: index % of,
            of,
        })
    }
}

/// As in `--shard`, counted from 1.
impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Part 4 of 4 has the remainder 0.
        let number = match self.remainder {
            0 => self.of,
            number => number,
        };
        write!(f, "{number}/{}", self.of)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(written: &str) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let wrong = || {
            Error::input(format!("--shard {written}: expected i/n"))
                .hint("for example --shard 1/4, or --shard auto under a scheduler")
        };
        let (index, of) = match written.split_once('/') {
            None if written == "auto" => return Self::from_environment(None, variable),
            None => return Err(wrong()),
            Some((index, of)) => (index, of.parse().map_err(|_| wrong())?),
        };
        if index == "auto" {
            return Self::from_environment(Some(of), variable);
        }
        Self::new(index.parse().map_err(|_| wrong())?, of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)], of: Option<usize>) -> Result<Shard> {
        Shard::from_environment(of, |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn shards_are_counted_from_zero_or_one() {
        let shard = |written: &str| written.parse::<Shard>().unwrap();
        assert_eq!(shard("0/3"), shard("3/3"));
        for row in 0..20 {
            let holders = ["1/3", "2/3", "3/3"].map(|written| shard(written).has(row));
            assert_eq!(holders.iter().filter(|has| **has).count(), 1);
        }
        for written in ["4/3", "1/0", "x", "1", "-1/2", "1/x"] {
            assert_eq!(written.parse::<Shard>().unwrap_err().exit_code(), 2);
        }
        assert!(shard("1/1").is_whole());
        for (written, shown) in [("0/3", "3/3"), ("2/3", "2/3")] {
            let shard = shard(written);
            assert_eq!(shard.to_string(), shown);
            assert_eq!(Shard::from_name(&shard.name()), Some(shard));
        }
    }

    #[test]
    fn launchers_are_recognised() {
        let third = "3/4".parse::<Shard>().unwrap();
        for variables in [
            &[
                ("SLURM_ARRAY_TASK_ID", "4"),
                ("SLURM_ARRAY_TASK_MIN", "1"),
                ("SLURM_ARRAY_TASK_COUNT", "4"),
                ("SLURM_PROCID", "0"),
                ("SLURM_NTASKS", "1"),
            ][..],
            &[("SLURM_PROCID", "3"), ("SLURM_NTASKS", "4")],
            &[("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4")],
        ] {
            assert_eq!(of(variables, None).unwrap(), third, "{variables:?}");
        }
        let kubernetes = [("JOB_COMPLETION_INDEX", "3")];
        assert_eq!(of(&kubernetes, Some(4)).unwrap(), third);
        let error = of(&kubernetes, None).unwrap_err().to_string();
        assert!(error.contains("--shard auto/8"), "{error}");
        assert!(of(&[], None).is_err());
    }
}
