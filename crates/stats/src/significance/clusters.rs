//! Clusters of utterances, with their statistics summed or laid out for resampling.

use std::collections::BTreeMap;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// A grouping of utterances: what is drawn together because it errs together (a speaker, a
/// programme, a document).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clusters {
    /// Utterances, cluster by cluster.
    order: Vec<u32>,
    /// End of each cluster in `order`.
    ends: Vec<usize>,
}

impl Clusters {
    /// Groups utterances by the id of their cluster, one id per utterance; clusters are ordered by
    /// rising id.
    pub fn by(ids: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|&utterance| ids[utterance as usize]);
        let mut ends = Vec::new();
        for cluster in order.chunk_by(|&a, &b| ids[a as usize] == ids[b as usize]) {
            ends.push(ends.last().unwrap_or(&0) + cluster.len());
        }
        Self { order, ends }
    }

    /// Groups utterances by the name of their cluster, one name per utterance; clusters are in the
    /// order in which they are first named.
    pub fn named<N: Ord>(names: impl IntoIterator<Item = N>) -> Self {
        let mut known = BTreeMap::new();
        let ids: Vec<u32> = names
            .into_iter()
            .map(|name| {
                let next = known.len() as u32;
                *known.entry(name).or_insert(next)
            })
            .collect();
        Self::by(&ids)
    }

    /// Puts each utterance into a cluster of its own.
    pub fn each(num_utterances: usize) -> Self {
        Self {
            order: (0..num_utterances as u32).collect(),
            ends: (1..=num_utterances).collect(),
        }
    }

    /// Number of clusters.
    pub fn num_clusters(&self) -> usize {
        self.ends.len()
    }

    /// Number of utterances.
    pub fn num_utterances(&self) -> usize {
        self.order.len()
    }

    /// Utterances of a cluster.
    pub(super) fn members(&self, cluster: usize) -> &[u32] {
        &self.order[self.span(cluster)]
    }

    /// Range of a cluster's utterances in the order by cluster.
    pub(super) fn span(&self, cluster: usize) -> std::ops::Range<usize> {
        cluster.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[cluster]
    }

    /// Refuses a single cluster: drawn again and again it is always the same.
    fn check(&self) -> Result<()> {
        match self.num_clusters() {
            0 => Err(Error::input("no utterances to resample")),
            1 => Err(Error::input(format!(
                "all {} utterances are of one cluster, so nothing can be resampled",
                self.num_utterances()
            ))
            .hint("name speakers or groups, or let every utterance be a cluster of its own")),
            _ => Ok(()),
        }
    }
}

/// Numbers in rows that are drawn: one row a cluster, or one an utterance.
pub(super) struct Table {
    width: usize,
    values: Vec<f64>,
}

impl Table {
    /// One row per utterance in the order by cluster; each of `parts` (a system, a seed) gives its
    /// columns.
    ///
    /// Errors: a part with another number of utterances or statistics than it should have; a
    /// statistic that is not finite.
    pub(super) fn of_utterances(parts: &[&[Vec<f64>]], clusters: &Clusters) -> Result<Self> {
        clusters.check()?;
        let stats = parts
            .first()
            .and_then(|part| part.first())
            .map_or(0, Vec::len);
        for part in parts {
            check_part(part, clusters.num_utterances(), stats)?;
        }
        let mut values = Vec::with_capacity(clusters.num_utterances() * parts.len() * stats);
        for &utterance in &clusters.order {
            parts
                .iter()
                .for_each(|part| values.extend_from_slice(&part[utterance as usize]));
        }
        Ok(Self {
            width: parts.len() * stats,
            values,
        })
    }

    /// The table of [`Table::of_utterances`], summed inside each cluster: one row per cluster.
    pub(super) fn of_clusters(parts: &[&[Vec<f64>]], clusters: &Clusters) -> Result<Self> {
        let utterances = Self::of_utterances(parts, clusters)?;
        let mut values = Vec::with_capacity(clusters.num_clusters() * utterances.width);
        for cluster in 0..clusters.num_clusters() {
            values.extend(utterances.sum(clusters.span(cluster)));
        }
        Ok(Self {
            width: utterances.width,
            values,
        })
    }

    /// A table from its rows, all of `width` numbers.
    pub(super) fn of_rows(width: usize, rows: impl IntoIterator<Item = Vec<f64>>) -> Self {
        Self {
            width,
            values: rows.into_iter().flatten().collect(),
        }
    }

    /// Number of values in a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub(super) fn num_rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// All rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// The sum of all rows.
    pub(super) fn total(&self) -> Vec<f64> {
        self.sum(0..self.num_rows())
    }

    fn sum(&self, rows: std::ops::Range<usize>) -> Vec<f64> {
        let mut sum = vec![0.0; self.width];
        for row in self.values[rows.start * self.width..rows.end * self.width]
            .chunks_exact(self.width.max(1))
        {
            sum.iter_mut()
                .zip(row)
                .for_each(|(sum, value)| *sum += value);
        }
        sum
    }
}

fn check_part(part: &[Vec<f64>], num_utterances: usize, stats: usize) -> Result<()> {
    if part.len() != num_utterances {
        return Err(Error::input(format!(
            "{} utterances where there are {num_utterances} in the clusters",
            part.len()
        ))
        .hint("systems are compared on the same utterances in the same order"));
    }
    for (utterance, values) in part.iter().enumerate() {
        if values.len() != stats || stats == 0 {
            return Err(Error::input(format!(
                "utterance {utterance} adds {} numbers where the first one adds {stats}",
                values.len()
            ))
            .hint("all utterances of all systems are counted by one metric"));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::input(format!("utterance {utterance} adds {value}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utterances_are_summed_inside_their_cluster() {
        assert_eq!(
            Clusters::named(["b", "a", "b", "a", "c"]),
            Clusters::by(&[0, 1, 0, 1, 2])
        );
        let clusters = Clusters::by(&[7, 2, 7, 2, 9]);
        assert_eq!((clusters.num_clusters(), clusters.num_utterances()), (3, 5));
        let stats: Vec<Vec<f64>> = [1.0, 10.0, 100.0, 1e3, 1e4]
            .iter()
            .map(|&x| vec![x, 1.0])
            .collect();
        let table = Table::of_clusters(&[&stats], &clusters).unwrap();
        assert_eq!(
            table.rows().collect::<Vec<_>>(),
            [[1010.0, 2.0], [101.0, 2.0], [1e4, 1.0]]
        );
        assert_eq!(table.total(), [11111.0, 5.0]);
        let beside = Table::of_utterances(&[&stats, &stats], &clusters).unwrap();
        assert_eq!(beside.rows().nth(1).unwrap(), [1e3, 1.0, 1e3, 1.0]);
    }

    #[test]
    fn own_clusters_are_clusters_of_one() {
        assert_eq!(Clusters::each(4), Clusters::by(&[0, 1, 2, 3]));
    }

    #[test]
    fn mismatched_sizes_are_refused() {
        let refused = |stats: &[Vec<f64>], clusters: &Clusters| {
            Table::of_utterances(&[stats], clusters)
                .err()
                .unwrap()
                .to_string()
        };
        let two = Clusters::each(2);
        assert!(refused(&[vec![1.0]], &two).contains("1 utterances where there are 2"));
        assert!(
            refused(&[vec![1.0], vec![1.0, 2.0]], &two)
                .contains("utterance 1 adds 2 numbers where the first one adds 1")
        );
        assert!(refused(&[vec![], vec![]], &two).contains("adds 0 numbers"));
        assert!(refused(&[vec![1.0], vec![f64::NAN]], &two).contains("utterance 1 adds NaN"));
        assert!(
            refused(&[vec![1.0], vec![1.0]], &Clusters::by(&[3, 3]))
                .contains("all 2 utterances are of one cluster")
        );
        assert!(refused(&[], &Clusters::each(0)).contains("no utterances"));
    }
}
