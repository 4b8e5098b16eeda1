//! BLEU (Papineni et al. 2002): the share of a prediction's n-grams that its references have, and a
//! penalty for what is too short.
//!
//! Equal to sacreBLEU: n-grams up to 4, exponential smoothing, case kept, the reference length
//! nearest to the prediction's. Tokenisers: `none`, `13a` (the default), `intl`, `char`.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use rayon::prelude::*;
use regex::Regex;

use crate::characters::is_space;
use crate::ngrams::NGrams;
use crate::tally::Formula;
use crate::tally::Signature;
use crate::tally::Tally;
use crate::texts::Pair;
use crate::texts::Texts;
use maqam_base::error::Error;

/// Longest n-grams.
const MAX_ORDER: usize = 4;

/// How a text is cut into tokens, by sacreBLEU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tokeniser {
    /// What white space parts.
    None,
    /// That of mteval-v13a: ASCII punctuation apart, but points and commas inside numbers.
    #[default]
    Mteval13a,
    /// That of mteval-v14 with its international option: punctuation and symbols of all of Unicode
    /// apart.
    International,
    /// Every character but white space.
    Char,
}

impl Tokeniser {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::None, Self::Mteval13a, Self::International, Self::Char];

    /// The name in arguments and signatures.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Mteval13a => "13a",
            Self::International => "intl",
            Self::Char => "char",
        }
    }

    /// The text with its tokens parted by white space.
    fn part(self, text: &str) -> String {
        let text = text.trim_end_matches(is_space);
        match self {
            Self::None => text.to_owned(),
            Self::Mteval13a => part_13a(text),
            Self::International => INTERNATIONAL.iter().fold(text.to_owned(), replaced),
            Self::Char => text.chars().flat_map(|c| [c, ' ']).collect(),
        }
    }
}

impl fmt::Display for Tokeniser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tokeniser {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL
            .into_iter()
            .find(|tokeniser| tokeniser.name() == name);
        found.ok_or_else(|| {
            Error::input(format!("there is no tokeniser `{name}`")).hint(format!(
                "there are: {}",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }
}

/// Rules of replacement, each over the whole text before the next.
type Rules = Vec<(Regex, &'static str)>;

#[expect(
    clippy::unwrap_used,
    reason = "the patterns are constants, compiled in every test of this file"
)]
fn compiled(rules: &[(&str, &'static str)]) -> Rules {
    rules
        .iter()
        .map(|(pattern, replacement)| (Regex::new(pattern).unwrap(), *replacement))
        .collect()
}

static MTEVAL_13A: LazyLock<Rules> = LazyLock::new(|| {
    compiled(&[
        // Every ASCII sign but the apostrophe, the comma, the hyphen and the point, and the space
        // itself.
        (r"[ [:punct:]--['\-,.]]", " $0 "),
        (r"([^0-9])([.,])", "$1 $2 "),
        (r"([.,])([^0-9])", " $1 $2"),
        (r"([0-9])(-)", "$1 $2 "),
    ])
});

static INTERNATIONAL: LazyLock<Rules> = LazyLock::new(|| {
    compiled(&[
        (r"(\P{N})(\p{P})", "$1 $2 "),
        (r"(\p{P})(\P{N})", " $1 $2"),
        (r"\p{S}", " $0 "),
    ])
});

fn part_13a(text: &str) -> String {
    let mut text = text
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    if text.contains('&') {
        text = text
            .replace("&quot;", "\"")
            .replace("&amp;", "&")
            .replace("&lt;", "<")
            .replace("&gt;", ">");
    }
    MTEVAL_13A.iter().fold(format!(" {text} "), replaced)
}

fn replaced(text: String, (pattern, replacement): &(Regex, &str)) -> String {
    pattern.replace_all(&text, *replacement).into_owned()
}

/// The tally `bleu`, 0 to 100. An utterance adds
/// `[length, nearest reference length, n-grams that a reference has too, n-grams]`, the last two
/// for each order; an n-gram counts at most as often as in the reference that has it most.
pub fn tally(texts: &Texts, tokeniser: Tokeniser) -> Tally {
    let units = texts
        .pairs()
        .par_iter()
        .map(|pair| unit(pair, tokeniser))
        .collect();
    let signature = Signature::default()
        .with("nrefs", texts.num_references())
        .with("case", "mixed")
        .with("eff", "no")
        .with("tok", tokeniser);
    let signature = signature
        .with("smooth", "exp")
        .with("norm", texts.normaliser);
    Tally::new(
        texts.normaliser.named("bleu"),
        signature,
        units,
        Formula::Bleu,
    )
}

fn unit(pair: &Pair, tokeniser: Tokeniser) -> Vec<f64> {
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut grams = |text: &str| {
        let parted = tokeniser.part(text);
        let tokens = parted.split(is_space).filter(|token| !token.is_empty());
        let tokens: Vec<u32> = tokens
            .map(|token| match numbers.get(token) {
                Some(&number) => number,
                None => {
                    let next = numbers.len() as u32;
                    numbers.insert(token.to_owned(), next);
                    next
                }
            })
            .collect();
        NGrams::new(&tokens, MAX_ORDER as u32)
    };
    let prediction = grams(&pair.prediction);
    let references: Vec<NGrams> = pair.references().map(grams).collect();
    let references: Vec<&NGrams> = references.iter().collect();
    let len = prediction.count(1);
    let nearest = references
        .iter()
        .map(|reference| reference.count(1))
        .min_by_key(|&other| (len.abs_diff(other), other))
        .unwrap_or(0);
    let orders = || 1..=MAX_ORDER as u32;
    let shared = orders().map(|order| prediction.shared(&references, order));
    [len, nearest]
        .into_iter()
        .chain(shared)
        .chain(orders().map(|order| prediction.count(order)))
        .map(|count| count as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Normaliser;

    fn of(pair: Pair) -> f64 {
        tally(
            &Texts::new(vec![pair], Normaliser::None),
            Tokeniser::default(),
        )
        .corpus()
    }

    #[test]
    fn scores_follow_the_definition() {
        // Papineni et al. 2002, section 2.1: "the" counts at most twice, so one of the two 7-word
        // predictions' precisions is 2/7; no pair of words is shared, so the higher orders are
        // smoothed to 1/2 of 6, 1/4 of 5, 1/8 of 4.
        let found = of(
            Pair::new("the cat is on the mat", "the the the the the the the")
                .or("there is a cat on the mat"),
        );
        let product: f64 = 2.0 / 7.0 * (0.5 / 6.0) * (0.25 / 5.0) * (0.125 / 4.0);
        let expected = 100.0 * product.powf(0.25);
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        let whole = of(Pair::new("a b c d", "a b c d"));
        assert!((whole - 100.0).abs() < 1e-9, "{whole}");
        let short = of(Pair::new("a b c d e f g h", "a b c d"));
        assert!((short - 100.0 * (-1.0f64).exp()).abs() < 1e-9, "{short}");
        assert_eq!(
            (
                of(Pair::new("a", "")),
                of(Pair::new("", "a")),
                of(Pair::new("a b c", "a b c"))
            ),
            (0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn tokenisers_part_what_they_say() {
        let parts = |tokeniser: Tokeniser, text: &str| {
            tokeniser
                .part(text)
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        let text = "Hello, it's 3,000.5 km-2 &quot;x&quot; (نعم، ٣,٥) 5.";
        assert_eq!(parts(Tokeniser::None, text), text);
        assert_eq!(
            parts(Tokeniser::Mteval13a, text),
            "Hello , it's 3,000.5 km-2 \" x \" ( نعم، ٣ , ٥ ) 5 ."
        );
        assert_eq!(
            parts(Tokeniser::International, text),
            "Hello , it ' s 3,000.5 km - 2 & quot ; x & quot ; ( نعم ، ٣,٥ ) 5."
        );
        assert_eq!(parts(Tokeniser::Char, "نعم ok"), "ن ع م o k");
        for tokeniser in Tokeniser::ALL {
            assert_eq!(tokeniser.name().parse::<Tokeniser>().unwrap(), tokeniser);
        }
        assert!(
            "zh".parse::<Tokeniser>()
                .unwrap_err()
                .to_string()
                .contains("there are: none, 13a, intl, char")
        );
    }
}
