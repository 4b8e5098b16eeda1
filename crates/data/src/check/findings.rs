//! Findings of a check as they come: counted, shown in part, written to a file.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::Path;

use serde_json::json;

use crate::check::finding::Finding;
use crate::check::finding::FindingKind;
use crate::check::finding::Severity;
use crate::near_duplicates;
use maqam_base::error::Result;
use maqam_base::files::Draft;

/// Findings of one kind that the table shows.
const SHOWN: usize = 3;

/// Findings as they come: counted, shown in part, written.
#[derive(Default)]
pub struct Findings {
    counts: BTreeMap<FindingKind, usize>,
    shown: BTreeMap<FindingKind, Vec<Finding>>,
    /// Rows with an error, by the hash of their place.
    dropped: HashSet<u64>,
    json: Option<Json>,
}

/// The file of all findings.
struct Json {
    draft: Draft,
    is_list: bool,
    is_first: bool,
}

impl Json {
    fn new(path: &Path) -> Result<Self> {
        let is_list = path.extension().is_none_or(|ending| ending != "jsonl");
        let mut draft = Draft::new(path)?;
        if is_list {
            draft.append(b"[")?;
        }
        Ok(Self {
            draft,
            is_list,
            is_first: true,
        })
    }

    fn add(&mut self, finding: &Finding) -> Result<()> {
        let value = json!({
            "file": finding.file.display().to_string(),
            "line": finding.line,
            "id": &*finding.id,
            "kind": finding.kind.name(),
            "severity": finding.kind.severity().name(),
            "message": finding.message,
        });
        let before = match (self.is_list, std::mem::take(&mut self.is_first)) {
            (true, true) => "\n",
            (true, false) => ",\n",
            (false, _) => "",
        };
        let after = if self.is_list { "" } else { "\n" };
        self.draft
            .append(format!("{before}{value}{after}").as_bytes())
    }

    fn finish(mut self) -> Result<()> {
        if self.is_list {
            self.draft.append(b"\n]\n")?;
        }
        self.draft.commit()
    }
}

impl Findings {
    /// Findings that also go to a file: a JSON list, JSON lines if its name ends in .jsonl.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn new(json: Option<&Path>) -> Result<Self> {
        Ok(Self {
            json: json.map(Json::new).transpose()?,
            ..Self::default()
        })
    }

    /// Adds a finding.
    ///
    /// # Errors
    /// The disk's.
    pub fn add(&mut self, finding: Finding) -> Result<()> {
        *self.counts.entry(finding.kind).or_default() += 1;
        if let Some(json) = &mut self.json {
            json.add(&finding)?;
        }
        if finding.kind.severity() == Severity::Error {
            self.dropped.insert(place(&finding.file, finding.line));
        }
        let shown = self.shown.entry(finding.kind).or_default();
        if shown.len() < SHOWN {
            shown.push(finding);
        }
        Ok(())
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(&mut self) -> Result<()> {
        self.json.take().map_or(Ok(()), Json::finish)
    }

    /// Returns whether a row has an error.
    pub fn is_dropped(&self, file: &Path, line: u32) -> bool {
        self.dropped.contains(&place(file, line))
    }

    /// Number of findings of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        let of = |(kind, _): &(&FindingKind, &usize)| kind.severity() == severity;
        self.counts.iter().filter(of).map(|(_, count)| count).sum()
    }

    /// The table: a line for each kind, and the first findings of it below.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for severity in [Severity::Error, Severity::Warning] {
            for (kind, count) in self
                .counts
                .iter()
                .filter(|(kind, _)| kind.severity() == severity)
            {
                text += &format!("{:<8} {:<20} {count:>8}\n", severity.name(), kind.name());
                for finding in &self.shown[kind] {
                    let place = format!("{}:{}", finding.file.display(), finding.line);
                    text += &format!("  {place}: {}\n", finding.message);
                }
                if *count > SHOWN {
                    text += &format!("  and {} more\n", count - SHOWN);
                }
            }
        }
        text
    }
}

fn place(file: &Path, line: u32) -> u64 {
    let mut bytes = file.as_os_str().as_encoded_bytes().to_vec();
    bytes.extend(line.to_le_bytes());
    near_duplicates::key_of(&bytes) as u64
}
