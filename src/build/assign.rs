//! Splits and indices of rows: functions of the seed and of the whole corpus, the same for every
//! shard.
//!
//! Groups are ordered by a seeded hash of their name. The first are `test`, the next `dev`, the
//! rest `train`, so sizes are exact to a group. The index of a row in its split decides its voice.
//! A group's name is that of the source, or otherwise the words of its text.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::build::document::Document;
use crate::build::document::Step;
use crate::build::observer::Outcome;
use crate::build::recipe::Recipe;
use crate::build::store::Journal;
use crate::build::store::Store;
use crate::data::repeats::exact;
use crate::data::repeats::words;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::jsonl;
use crate::seed::Key;

/// Names of the splits, in the order of files.
pub const SPLITS: [&str; 3] = ["train", "dev", "test"];

/// One row after `clean`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// First byte of the cleaned document.
    pub offset: u64,
    /// Bytes of the cleaned document.
    pub len: u32,
    /// The step that rejected it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Step>,
    /// Place in [`SPLITS`].
    pub split: u8,
    /// Place in its split, from 0, in the order of the seeded hash.
    pub place: u32,
    /// Unit that must not be split.
    pub group: String,
}

/// All rows after `clean`.
pub struct Prepared {
    /// Rows by number.
    pub rows: Vec<Row>,
}

impl Prepared {
    /// Reads the file that [`Assigning::write`] wrote.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(store: &Store) -> Result<Self> {
        let rows = jsonl::rows(&store.assigned())?.map(|row| Ok(row?.1));
        Ok(Self {
            rows: rows.collect::<Result<_>>()?,
        })
    }

    /// Reads one cleaned document.
    ///
    /// # Errors
    /// The disk's; a number that no row has.
    pub fn document(&self, store: &Store, row: usize) -> Result<Document> {
        let place = self
            .rows
            .get(row)
            .ok_or_else(|| Error::bug(format!("there is no row {row}")))?;
        store.document(place.offset, place.len as usize)
    }

    /// Rows that the steps of these journals, and those before, passed on.
    pub fn alive_before(&self, journals: &[Journal]) -> Vec<usize> {
        (0..self.rows.len())
            .filter(|row| {
                self.rows[*row].rejected.is_none()
                    && journals.iter().all(|journal| journal.is_passed(*row))
            })
            .collect()
    }

    /// How far the rows have come.
    pub fn outcome(&self, journals: &[Journal]) -> Outcome {
        let rejected = (0..self.rows.len())
            .filter(|row| {
                self.rows[*row].rejected.is_some()
                    || journals.iter().any(|journal| journal.is_rejected(*row))
            })
            .count();
        Outcome {
            collected: self.rows.len(),
            published: None,
            rejected,
            pending: self.rows.len() - rejected,
            notes: Vec::new(),
        }
    }
}

/// Rows that are to be assigned.
#[derive(Default)]
pub struct Assigning {
    offset: u64,
    rows: Vec<Row>,
    stated: Vec<Option<u8>>,
}

impl Assigning {
    /// Adds a cleaned document with the length of its line in bytes.
    pub fn add(&mut self, document: &Document, len: usize) {
        let group = match &document.group {
            Some(group) => group.clone(),
            None => format!("{:016x}", exact(&words(&document.text))),
        };
        self.stated
            .push(document.split.as_deref().and_then(stated_split));
        self.rows.push(Row {
            offset: self.offset,
            len: len as u32,
            rejected: document.rejected.as_ref().map(|rejection| rejection.step),
            split: 0,
            place: 0,
            group,
        });
        self.offset += len as u64 + 1;
    }

    /// Assigns splits and places, and writes all rows.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(mut self, recipe: &Recipe, path: &Path) -> Result<()> {
        self.assign(recipe);
        files::write_atomic_with(path, |file| {
            for row in &self.rows {
                writeln!(file, "{}", serde_json::to_string(row)?)?;
            }
            Ok(())
        })
    }

    fn assign(&mut self, recipe: &Recipe) {
        let key = Key::new(recipe.seed, "build split");
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let alive = (0..self.rows.len()).filter(|row| self.rows[*row].rejected.is_none());
        for row in alive {
            groups.entry(&self.rows[row].group).or_default().push(row);
        }
        let mut order: Vec<(u64, Vec<usize>)> = groups
            .into_iter()
            .map(|(name, rows)| (key.with_name(name).bits(0), rows))
            .collect();
        order.sort();

        // A split that the source states stays, whatever the shares. A group takes the first stated
        // split of its rows.
        let stated = |rows: &[usize]| rows.iter().find_map(|row| self.stated[*row]);
        let num_open: usize = order
            .iter()
            .filter(|(_, rows)| stated(rows).is_none())
            .map(|(_, rows)| rows.len())
            .sum();
        let [dev, test] = recipe.split.counts(num_open);
        let mut num_assigned = 0;
        let mut sizes = [0u32; 3];
        let mut assigned = Vec::new();
        for (_, rows) in &order {
            let split = stated(rows).unwrap_or_else(|| {
                let split = match num_assigned {
                    at if at < test => 2,
                    at if at < test + dev => 1,
                    _ => 0,
                };
                num_assigned += rows.len();
                split
            });
            for row in rows {
                assigned.push((*row, split, sizes[usize::from(split)]));
                sizes[usize::from(split)] += 1;
            }
        }
        for (row, split, place) in assigned {
            (self.rows[row].split, self.rows[row].place) = (split, place);
        }
    }
}

/// The split for a name in the source.
fn stated_split(written: &str) -> Option<u8> {
    match written.trim().to_lowercase().as_str() {
        "train" | "training" => Some(0),
        "dev" | "validation" | "valid" | "val" | "development" => Some(1),
        "test" | "testing" => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn recipe(more: &str) -> Recipe {
        let text = format!(
            "name: a\ncollect: {{from: x, summary: s}}\nsplit: {{dev: 0.2, test: 0.1}}\n{more}"
        );
        yaml::parse(&text, Path::new("r.yaml")).unwrap()
    }

    fn document(row: usize, group: Option<&str>, split: Option<&str>) -> Document {
        Document {
            row,
            id: row.to_string(),
            text: format!("text {row}"),
            summaries: vec![],
            headline: None,
            language: "ar".into(),
            split: split.map(str::to_owned),
            group: group.map(str::to_owned),
            source: "f:1".into(),
            licence: None,
            rejected: None,
        }
    }

    fn assigned(recipe: &Recipe, documents: &[Document]) -> Vec<Row> {
        let mut assigning = Assigning::default();
        documents
            .iter()
            .for_each(|document| assigning.add(document, 10));
        assigning.assign(recipe);
        assigning.rows
    }

    fn sizes(rows: &[Row]) -> [usize; 3] {
        [0, 1, 2].map(|split| rows.iter().filter(|row| row.split == split).count())
    }

    #[test]
    fn shares_are_exact_and_depend_only_on_the_seed() {
        let documents: Vec<Document> = (0..100).map(|row| document(row, None, None)).collect();
        let rows = assigned(&recipe("seed: 1\n"), &documents);
        assert_eq!(sizes(&rows), [70, 20, 10]);
        assert_eq!(assigned(&recipe("seed: 1\n"), &documents), rows);
        assert_ne!(assigned(&recipe("seed: 2\n"), &documents), rows);
        // In another order the same texts are in the same splits.
        let mut turned = documents.clone();
        turned.reverse();
        let again = assigned(&recipe("seed: 1\n"), &turned);
        assert!(
            rows.iter()
                .zip(again.iter().rev())
                .all(|(a, b)| a.split == b.split)
        );
        // Places count the rows of a split.
        let mut places: Vec<u32> = rows
            .iter()
            .filter(|row| row.split == 0)
            .map(|row| row.place)
            .collect();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..70));
    }

    #[test]
    fn groups_stay_together_and_stated_splits_are_kept() {
        let groups = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let mut documents: Vec<Document> = (0..100)
            .map(|row| document(row, Some(groups[row % 10]), None))
            .collect();
        let rows = assigned(&recipe(""), &documents);
        for group in groups {
            let splits: std::collections::BTreeSet<u8> = rows
                .iter()
                .filter(|row| row.group == group)
                .map(|row| row.split)
                .collect();
            assert_eq!(splits.len(), 1, "{group}");
        }
        assert_eq!(sizes(&rows), [70, 20, 10]);
        documents[3].split = Some("validation".into());
        let rows = assigned(&recipe(""), &documents);
        assert!(
            rows.iter()
                .filter(|row| row.group == "d")
                .all(|row| row.split == 1)
        );
    }
}
