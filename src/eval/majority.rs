//! The commonest label of some rows, which the `majority` baseline answers.

use crate::task::Task;

/// The commonest label of some rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Majority {
    /// Its name in the inventory.
    pub label: String,
    /// Whose rows: a manifest, or the set itself.
    pub of: String,
}

impl Majority {
    /// The commonest of some labels, the first of the inventory among equals; `None` without any.
    pub fn among<'a>(
        task: &Task,
        labels: impl Iterator<Item = &'a str>,
        of: String,
    ) -> Option<Self> {
        let mut counts = vec![0usize; task.labels.len()];
        for label in labels {
            if let Some(place) = task.labels.iter().position(|known| known.name == label) {
                counts[place] += 1;
            }
        }
        let (place, _) = counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .rev()
            .max_by_key(|(_, count)| **count)?;
        Some(Self {
            label: task.labels[place].name.clone(),
            of,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Tasks;

    #[test]
    fn the_majority_is_the_commonest_and_the_inventorys_first_of_equals() {
        let tasks = Tasks::load(None).unwrap();
        let among = |labels: &[&str]| {
            Majority::among(
                tasks.get("emotion").unwrap(),
                labels.iter().copied(),
                "x".to_owned(),
            )
            .map(|found| found.label)
        };
        assert_eq!(among(&["sad", "happy", "sad"]).as_deref(), Some("sad"));
        assert_eq!(
            among(&["sad", "happy", "sad", "happy"]).as_deref(),
            Some("happy"),
            "happy stands before sad in the inventory"
        );
        assert_eq!(among(&[]), None);
    }
}
