//! Checks of attention: some queries and some keys of some heads, each summed over its sequence in
//! `f64`.

use candle_core::Result;
use candle_core::Tensor;

use crate::bench::check::on::Bench;
use crate::bench::check::sample::Finding;
use crate::bench::check::sample::ROUNDED;
use crate::bench::check::sample::SINGLE;
use crate::bench::check::sample::exact;
use crate::bench::check::sample::flat;
use crate::bench::check::sample::numbers_of;
use crate::bench::check::sample::random;
use crate::bench::check::sample::rows_of;
use crate::ops::attention;
use crate::ops::attention::Heads;
use crate::ops::attention::Mask;
use crate::ops::attention::Past;
use crate::ops::device;

/// Queries, and keys, of each head that is looked at.
const PLACES: usize = 16;

/// Probabilities and their gradients are rounded before they meet values and keys, whose sum keeps
/// a share of each rounding.
const OUTPUT: f64 = 2.0 * ROUNDED;
const GRADIENT: f64 = 8.0 * ROUNDED;

/// A packed batch of sequences of one length on the device, and its numbers on the host.
struct Packed {
    tensor: Tensor,
    values: Vec<f64>,
    boundaries: Vec<usize>,
    heads: Heads,
    mask: Mask,
}

impl Packed {
    fn new(bench: &Bench, length: usize, heads: Heads, mask: Mask) -> Result<Self> {
        let sequences = (bench.sizes.tokens[0] / length).max(1);
        let tokens = sequences * length;
        let tensor = random(bench.device, "qkv", &[tokens, heads.width()], 1.0)?;
        Ok(Self {
            values: numbers_of(&tensor)?,
            tensor,
            boundaries: (0..=sequences).map(|i| i * length).collect(),
            heads,
            mask,
        })
    }

    fn tokens(&self) -> usize {
        self.boundaries.last().copied().unwrap_or(0)
    }

    fn shape(&self, length: usize) -> String {
        let Heads {
            num_heads,
            num_kv_heads,
            head_dim,
        } = self.heads;
        format!(
            "{} x {length} tokens, {num_heads} and {num_kv_heads} heads of {head_dim}, {}",
            self.boundaries.len() - 1,
            match self.mask {
                Mask::Causal => "causal",
                Mask::Full => "full",
            }
        )
    }

    /// The first, the middle and the last query head.
    fn sampled_heads(&self) -> Vec<usize> {
        let last = self.heads.num_heads - 1;
        let mut heads = vec![0, last / 2, last];
        heads.dedup();
        heads
    }

    /// The key head of a query head.
    fn kv_head(&self, head: usize) -> usize {
        head * self.heads.num_kv_heads / self.heads.num_heads
    }

    /// First token and end of the sequence of a token.
    fn sequence(&self, token: usize) -> (usize, usize) {
        let next = self.boundaries.partition_point(|&start| start <= token);
        (self.boundaries[next - 1], self.boundaries[next])
    }

    /// The keys that a query sees.
    fn seen(&self, query: usize) -> std::ops::Range<usize> {
        let (start, end) = self.sequence(query);
        match self.mask {
            Mask::Causal => start..query + 1,
            Mask::Full => start..end,
        }
    }

    /// The queries that see a key.
    fn seers(&self, key: usize) -> std::ops::Range<usize> {
        let (start, end) = self.sequence(key);
        match self.mask {
            Mask::Causal => key..end,
            Mask::Full => start..end,
        }
    }

    fn part(&self, token: usize, column: usize) -> &[f64] {
        &self.values[token * self.heads.width() + column..][..self.heads.head_dim]
    }

    fn query(&self, token: usize, head: usize) -> &[f64] {
        self.part(token, head * self.heads.head_dim)
    }

    fn key_column(&self, kv_head: usize) -> usize {
        self.heads.query_width() + kv_head * self.heads.head_dim
    }

    fn key(&self, token: usize, kv_head: usize) -> &[f64] {
        self.part(token, self.key_column(kv_head))
    }

    fn value(&self, token: usize, kv_head: usize) -> &[f64] {
        self.part(token, self.key_column(kv_head) + self.heads.kv_width())
    }

    fn score(&self, query: usize, key: usize, head: usize) -> f64 {
        let scale = self.heads.scale();
        scale * dot(self.query(query, head), self.key(key, self.kv_head(head)))
    }

    /// Output and log-sum-exp of one query.
    fn output(&self, query: usize, head: usize) -> (Vec<f64>, f64) {
        let scores: Vec<f64> = self
            .seen(query)
            .map(|key| self.score(query, key, head))
            .collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        let log_sum = most + sum.ln();
        let mut output = vec![0.0; self.heads.head_dim];
        for (key, score) in self.seen(query).zip(scores) {
            let values = self.value(key, self.kv_head(head));
            add(&mut output, (score - log_sum).exp(), values);
        }
        (output, log_sum)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `sum += factor * term`.
fn add(sum: &mut [f64], factor: f64, term: &[f64]) {
    for (sum, term) in sum.iter_mut().zip(term) {
        *sum += factor * term;
    }
}

/// The numbers of a head in one row of a tensor on the host.
fn of_head(values: &[f32], token: usize, width: usize, column: usize, dim: usize) -> &[f32] {
    &values[token * width + column..][..dim]
}

/// Causal attention over sequences of one length.
pub fn forward(bench: &Bench, length: usize) -> Result<Finding> {
    check_forward(bench, length, bench.sizes.heads, Mask::Causal)
}

/// Attention of the audio encoder: inside its windows, over all keys.
pub fn full(bench: &Bench, _: usize) -> Result<Finding> {
    let length = (bench.sizes.window / 2).max(1);
    check_forward(bench, length, bench.sizes.tower_heads, Mask::Full)
}

fn check_forward(bench: &Bench, length: usize, heads: Heads, mask: Mask) -> Result<Finding> {
    let packed = Packed::new(bench, length, heads, mask)?;
    let mut finding = Finding::new(bench.device, packed.shape(length));
    let (out, log_sums) = attention::attention(&packed.tensor, &packed.boundaries, heads, mask)?;

    let places = rows_of(packed.tokens(), PLACES);
    let width = heads.query_width();
    let dim = heads.head_dim;
    let log_sums = device::to_host(&log_sums)?;
    let out_values = device::to_host(&out)?;
    for head in packed.sampled_heads() {
        let mut found = Vec::new();
        let mut expected = Vec::new();
        let mut sums = (Vec::new(), Vec::new());
        for &query in &places {
            let (output, log_sum) = packed.output(query, head);
            found.extend_from_slice(of_head(&out_values, query, width, head * dim, dim));
            expected.extend(output);
            sums.0.push(log_sums[head * packed.tokens() + query]);
            sums.1.push(log_sum);
        }
        finding.numbers("output", &found, &expected, OUTPUT);
        finding.numbers("log-sum-exps", &sums.0, &sums.1, SINGLE);
    }
    finding.whole("output", &out_values, places.len());
    finding.whole("log-sum-exps", &log_sums, places.len());
    Ok(finding)
}

/// Gradients of causal attention over sequences of one length: queries, keys and values.
pub fn backward(bench: &Bench, length: usize) -> Result<Finding> {
    let heads = bench.sizes.heads;
    let packed = Packed::new(bench, length, heads, Mask::Causal)?;
    let mut finding = Finding::new(bench.device, packed.shape(length));
    let boundaries = &packed.boundaries;
    let (out, log_sums) = attention::attention(&packed.tensor, boundaries, heads, Mask::Causal)?;
    let d_out = random(
        bench.device,
        "d_out",
        &[packed.tokens(), heads.query_width()],
        1.0,
    )?;
    let found = attention::attention_backward(
        &d_out,
        &packed.tensor,
        &out,
        &log_sums,
        boundaries,
        heads,
        Mask::Causal,
    )?;

    let backward = Backward {
        d_out: numbers_of(&d_out)?,
        out: numbers_of(&out)?,
        log_sums: numbers_of(&log_sums)?,
        packed: &packed,
    };
    let found = device::to_host(&found)?;
    let places = rows_of(packed.tokens(), PLACES);
    let width = heads.width();
    let dim = heads.head_dim;
    for head in packed.sampled_heads() {
        let kv_head = packed.kv_head(head);
        let key_column = packed.key_column(kv_head);
        let value_column = key_column + heads.kv_width();
        let mut queries = (Vec::new(), Vec::new());
        let mut keys = (Vec::new(), Vec::new());
        let mut values = (Vec::new(), Vec::new());
        for &token in &places {
            queries
                .0
                .extend_from_slice(of_head(&found, token, width, head * dim, dim));
            queries.1.extend(backward.of_query(token, head));
            let (d_key, d_value) = backward.of_key(token, kv_head);
            keys.0
                .extend_from_slice(of_head(&found, token, width, key_column, dim));
            keys.1.extend(d_key);
            values
                .0
                .extend_from_slice(of_head(&found, token, width, value_column, dim));
            values.1.extend(d_value);
        }
        finding.numbers("gradient of queries", &queries.0, &queries.1, GRADIENT);
        finding.numbers("gradient of keys", &keys.0, &keys.1, GRADIENT);
        finding.numbers("gradient of values", &values.0, &values.1, GRADIENT);
    }
    finding.whole("gradient", &found, places.len());
    Ok(finding)
}

/// What gradients are made of: dV = P^T dO, dS = P * (dO V^T - D), dQ = dS K, dK = dS^T Q, with D
/// the row sums of dO * O. Outputs and log-sum-exps are the device's, which [`forward`] checks.
struct Backward<'a> {
    d_out: Vec<f64>,
    out: Vec<f64>,
    log_sums: Vec<f64>,
    packed: &'a Packed,
}

impl Backward<'_> {
    fn row<'b>(&self, rows: &'b [f64], token: usize, head: usize) -> &'b [f64] {
        let dim = self.packed.heads.head_dim;
        &rows[token * self.packed.heads.query_width() + head * dim..][..dim]
    }

    /// Probability of a key for a query, and the gradient of their score.
    fn pair(&self, query: usize, key: usize, head: usize) -> (f64, f64) {
        let packed = self.packed;
        let log_sum = self.log_sums[head * packed.tokens() + query];
        let probability = (packed.score(query, key, head) - log_sum).exp();
        let d_out = self.row(&self.d_out, query, head);
        let total = dot(d_out, self.row(&self.out, query, head));
        let d_probability = dot(d_out, packed.value(key, packed.kv_head(head)));
        (probability, probability * (d_probability - total))
    }

    fn of_query(&self, query: usize, head: usize) -> Vec<f64> {
        let packed = self.packed;
        let mut gradient = vec![0.0; packed.heads.head_dim];
        for key in packed.seen(query) {
            let (_, d_score) = self.pair(query, key, head);
            let keys = packed.key(key, packed.kv_head(head));
            add(&mut gradient, packed.heads.scale() * d_score, keys);
        }
        gradient
    }

    /// Gradients of a key and of its value, summed over the query heads that share them.
    fn of_key(&self, key: usize, kv_head: usize) -> (Vec<f64>, Vec<f64>) {
        let packed = self.packed;
        let mut d_key = vec![0.0; packed.heads.head_dim];
        let mut d_value = vec![0.0; packed.heads.head_dim];
        let heads = (0..packed.heads.num_heads).filter(|&head| packed.kv_head(head) == kv_head);
        for head in heads {
            for query in packed.seers(key) {
                let (probability, d_score) = self.pair(query, key, head);
                let scale = packed.heads.scale();
                add(&mut d_key, scale * d_score, packed.query(query, head));
                add(
                    &mut d_value,
                    probability,
                    self.row(&self.d_out, query, head),
                );
            }
        }
        (d_key, d_value)
    }
}

/// One new token of sequences of each length.
pub fn step(bench: &Bench, _: usize) -> Result<Finding> {
    let heads = bench.sizes.heads;
    let lengths = bench.sizes.lengths;
    let mut caches = Vec::with_capacity(lengths.len());
    for &len in &lengths {
        let shape = [len, heads.kv_width()];
        let keys = random(bench.device, &format!("keys {len}"), &shape, 1.0)?;
        let values = random(bench.device, &format!("values {len}"), &shape, 1.0)?;
        caches.push((keys, values));
    }
    let queries = random(
        bench.device,
        "queries",
        &[lengths.len(), heads.query_width()],
        1.0,
    )?;
    let found = attention::attention_step(&queries, &past(&caches, &lengths), heads)?;

    let on_host = caches
        .iter()
        .map(|(keys, values)| Ok((exact(keys)?, exact(values)?)))
        .collect::<Result<Vec<_>>>()?;
    let expected = attention::attention_step(&exact(&queries)?, &past(&on_host, &lengths), heads)?;
    let mut finding = Finding::new(
        bench.device,
        format!("one token after {lengths:?}, width {}", heads.query_width()),
    );
    let rows: Vec<usize> = (0..lengths.len()).collect();
    finding.rows("output", &found, &rows, &flat(&expected)?, OUTPUT)?;
    Ok(finding)
}

fn past<'a>(caches: &'a [(Tensor, Tensor)], lengths: &[usize]) -> Vec<Past<'a>> {
    caches
        .iter()
        .zip(lengths)
        .map(|((keys, values), &len)| Past { keys, values, len })
        .collect()
}
