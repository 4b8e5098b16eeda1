//! Agreement of raters: Krippendorff's alpha of each scale, and its mean grade.
//!
//! Source: K. Krippendorff, *Computing Krippendorff's Alpha-Reliability* (2011), for interval data:
//! alpha = 1 - observed / expected disagreement, where disagreement is the squared difference of
//! two grades.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::Error;
use crate::error::Result;
use crate::json;
use crate::jsonl;
use crate::jsonl::LastLine;

/// Scales of `review.html`, with the question to the rater.
pub const SCALES: [(&str, &str); 3] = [
    ("speech", "The speech can be understood"),
    ("faithful", "The summary says what the text says"),
    ("gist", "The summary says what matters most"),
];

/// Grades that one rater gave one row.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Rating {
    /// The row.
    pub id: String,
    /// Name of the rater.
    pub rater: String,
    /// Grades by scale, 1 to 5.
    pub grades: BTreeMap<String, f64>,
}

/// Figures of one scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Name of the scale.
    pub name: String,
    /// Grades.
    pub num: usize,
    /// Mean grade.
    pub mean: f64,
    /// Krippendorff's alpha; none if no row has two grades, or if all grades are equal.
    pub alpha: Option<f64>,
}

/// Figures of all scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Raters.
    pub num_raters: usize,
    /// Rows with a grade.
    pub num_rows: usize,
    /// Agreement by scale, in the order of names.
    pub scales: Vec<Scale>,
}

/// Reads an export of `review.html`.
///
/// # Errors
/// A line that is no rating; a grade outside 1 to 5.
pub fn read(path: &Path) -> Result<Vec<Rating>> {
    let mut ratings = Vec::new();
    jsonl::each_line(path, LastLine::Row, |_, line| {
        let rating: Rating = json::parse_slice(line)?;
        if let Some((name, grade)) = rating
            .grades
            .iter()
            .find(|(_, grade)| !(1.0..=5.0).contains(*grade))
        {
            let found = format!("the grade of `{name}` is {grade}, not 1 to 5");
            return Err(Error::input(found));
        }
        ratings.push(rating);
        Ok(())
    })
    .map_err(|e| e.or_hint("give files that review.html exported"))?;
    Ok(ratings)
}

/// Figures of ratings.
///
/// # Errors
/// No ratings.
pub fn agreement(ratings: &[Rating]) -> Result<Agreement> {
    if ratings.is_empty() {
        return Err(
            Error::input("there are no ratings").hint("rate rows in review.html, then export")
        );
    }
    let mut scales: BTreeMap<&str, BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    for rating in ratings {
        for (name, grade) in &rating.grades {
            let rows = scales.entry(name).or_default();
            rows.entry(&rating.id).or_default().push(*grade);
        }
    }
    let distinct = |of: fn(&Rating) -> &str| {
        let names: std::collections::BTreeSet<&str> = ratings.iter().map(of).collect();
        names.len()
    };
    Ok(Agreement {
        num_raters: distinct(|rating| &rating.rater),
        num_rows: distinct(|rating| &rating.id),
        scales: scales
            .into_iter()
            .map(|(name, rows)| {
                let all: Vec<f64> = rows.values().flatten().copied().collect();
                Scale {
                    name: name.to_owned(),
                    num: all.len(),
                    mean: all.iter().sum::<f64>() / all.len() as f64,
                    alpha: alpha(rows.values()),
                }
            })
            .collect(),
    })
}

/// Krippendorff's alpha for interval data.
fn alpha<'a>(rows: impl Iterator<Item = &'a Vec<f64>>) -> Option<f64> {
    let rows: Vec<&Vec<f64>> = rows.filter(|grades| grades.len() > 1).collect();
    let all: Vec<f64> = rows
        .iter()
        .flat_map(|grades| grades.iter().copied())
        .collect();
    let num = all.len() as f64;
    // Sum over ordered pairs of squared differences: 2 (n sum x^2 - (sum x)^2).
    let differences = |grades: &[f64]| {
        let (sum, squares) = grades
            .iter()
            .fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        2.0 * (grades.len() as f64 * squares - sum * sum)
    };
    let observed: f64 = rows
        .iter()
        .map(|grades| differences(grades) / (grades.len() as f64 - 1.0))
        .sum::<f64>()
        / num;
    let expected = differences(&all) / (num * (num - 1.0));
    (expected > 0.0).then(|| 1.0 - observed / expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_that_of_krippendorffs_example() {
        // Example C of the source: four observers, twelve units, values missing; interval alpha =
        // 0.849.
        let columns: [&[f64]; 12] = [
            &[1., 1., 1.],
            &[2., 2., 3., 2.],
            &[3., 3., 3., 3.],
            &[3., 3., 3., 3.],
            &[2., 2., 2., 2.],
            &[1., 2., 3., 4.],
            &[4., 4., 4., 4.],
            &[1., 1., 2., 1.],
            &[2., 2., 2., 2.],
            &[5., 5., 5.],
            &[1., 1.],
            &[3.],
        ];
        let rows: Vec<Vec<f64>> = columns.iter().map(|grades| grades.to_vec()).collect();
        let found = alpha(rows.iter()).unwrap();
        assert!((found - 0.849).abs() < 5e-4, "{found}");
    }

    #[test]
    fn exports_become_figures() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        std::fs::write(
            &path,
            "{\"id\": \"a\", \"rater\": \"x\", \"grades\": {\"speech\": 4}}\n{\"id\": \"a\", \"rater\": \"y\", \"grades\": {\"speech\": 4, \"gist\": 1}}\n{\"id\": \"b\", \"rater\": \"x\", \"grades\": {\"speech\": 1}}\n",
        )
        .unwrap();
        let found = agreement(&read(&path).unwrap()).unwrap();
        assert_eq!((found.num_raters, found.num_rows), (2, 2));
        let speech = &found.scales[1];
        assert_eq!((speech.num, speech.mean, speech.alpha), (3, 3.0, None));
        std::fs::write(
            &path,
            "{\"id\": \"a\", \"rater\": \"x\", \"grades\": {\"speech\": 7}}\n",
        )
        .unwrap();
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .contains("r.jsonl:1: the grade")
        );
        assert!(agreement(&[]).is_err());
    }
}
