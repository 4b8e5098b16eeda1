//! Patterns over module paths by PEFT's rules, with Python's regular expressions: look-ahead and
//! references included.

use fancy_regex::Regex;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::MapAccess;
use serde::ser::SerializeMap;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// A regular expression that has to match a whole path, as Python's `re.fullmatch` does.
///
/// # Errors
/// An expression that does not compile.
pub fn whole(pattern: &str) -> Result<Regex> {
    compile(pattern, &format!(r"\A(?:{pattern})\z"))
}

/// A regular expression that has to match a path from its start, as Python's `re.match` does.
///
/// # Errors
/// An expression that does not compile.
pub fn from_start(pattern: &str) -> Result<Regex> {
    compile(pattern, &format!(r"\A(?:{pattern})"))
}

fn compile(written: &str, expression: &str) -> Result<Regex> {
    Regex::new(expression).map_err(|e| {
        Error::input(format!("`{written}` is not a regular expression: {e}")).caused_by(e)
    })
}

/// Whether an expression matches.
///
/// # Errors
/// An expression that takes too many steps.
pub fn is_match(expression: &Regex, path: &str) -> Result<bool> {
    expression.is_match(path).map_err(|e| {
        Error::input(format!("a regular expression fails on `{path}`: {e}")).caused_by(e)
    })
}

/// Numbers by patterns in the order they were written: PEFT's `rank_pattern` and `alpha_pattern`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patterns(pub Vec<(String, f64)>);

impl Patterns {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of the first pattern that matches the end of a path, from its start or from a dot
    /// on.
    ///
    /// # Errors
    /// A pattern that is not a regular expression.
    pub fn find(&self, path: &str) -> Result<Option<f64>> {
        for (pattern, value) in &self.0 {
            let expression = compile(pattern, &format!(r"\A(.*\.)?({pattern})$"))?;
            if is_match(&expression, path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

impl Serialize for Patterns {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (pattern, value) in &self.0 {
            if value.fract() == 0.0 {
                map.serialize_entry(pattern, &(*value as i64))?;
            } else {
                map.serialize_entry(pattern, value)?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Patterns;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("numbers by regular expressions over module paths")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Patterns, A::Error> {
                let mut patterns = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    patterns.push(entry);
                }
                Ok(Patterns(patterns))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(patterns: &[(&str, f64)], path: &str) -> Option<f64> {
        let patterns = patterns.iter().map(|(p, v)| ((*p).to_owned(), *v));
        Patterns(patterns.collect()).find(path).unwrap()
    }

    #[test]
    fn the_first_pattern_that_matches_an_end_counts() {
        let patterns = [
            ("q_proj", 8.0),
            (r"layers\.1\.mlp\.up_proj", 4.0),
            ("proj", 2.0),
        ];
        assert_eq!(
            find(&patterns, "model.layers.0.self_attn.q_proj"),
            Some(8.0)
        );
        assert_eq!(find(&patterns, "model.layers.1.mlp.up_proj"), Some(4.0));
        assert_eq!(find(&patterns, "model.layers.11.mlp.up_proj"), None);
        assert_eq!(find(&patterns, "audio_tower.proj"), Some(2.0));
    }

    #[test]
    fn a_caret_stands_for_the_start_of_the_path() {
        let patterns = [(r"^model\.layers\.0\.self_attn\.q_proj", 8.0)];
        assert_eq!(
            find(&patterns, "model.layers.0.self_attn.q_proj"),
            Some(8.0)
        );
        assert_eq!(
            find(&patterns, "thinker.model.layers.0.self_attn.q_proj"),
            None
        );
    }

    #[test]
    fn look_ahead_is_understood() {
        let patterns = [(r"layers\.(?!0\.)\d+\.self_attn\.q_proj", 8.0)];
        assert_eq!(find(&patterns, "model.layers.0.self_attn.q_proj"), None);
        assert_eq!(
            find(&patterns, "model.layers.2.self_attn.q_proj"),
            Some(8.0)
        );
    }
}
