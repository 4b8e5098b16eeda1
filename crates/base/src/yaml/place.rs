//! The place of an error of a tree, which has forgotten its lines, in the text that the tree was
//! read from.

use std::fmt;

use serde::de::DeserializeSeed;
use serde::de::Deserializer;
use serde::de::Error as _;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_path_to_error::Segment;

/// Line and column, from 1, of the key or value that an error is about, in the text of the tree;
/// `unknown` is the key that no field has.
pub fn find(
    error: &serde_path_to_error::Error<yaml_serde::Error>,
    unknown: Option<&str>,
    text: &str,
) -> Option<(usize, usize)> {
    let mut steps: Vec<Step<'_>> = error.path().iter().filter_map(Step::of).collect();
    // The path may end at the unknown key or at the fields around it.
    if let Some(unknown) = unknown
        && !matches!(steps.last(), Some(Step::Key(last)) if *last == unknown)
    {
        steps.push(Step::Key(unknown));
    }
    found(&steps, text)
}

/// The message of an error, in front of it the path of the key; of an unknown key, the path of the
/// fields around it.
pub fn with_path(
    error: &serde_path_to_error::Error<yaml_serde::Error>,
    unknown: Option<&str>,
) -> String {
    let message = error.inner();
    let path = error.path().to_string();
    let path = unknown
        .and_then(|unknown| path.strip_suffix(unknown))
        .map_or(path.as_str(), |around| around.trim_end_matches('.'));
    match path {
        "" | "." | "?" => message.to_string(),
        path => format!("{path}: {message}"),
    }
}

/// A step on the way from the root of a tree to a value.
#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Entry(usize),
}

impl<'a> Step<'a> {
    fn of(segment: &'a Segment) -> Option<Self> {
        match segment {
            Segment::Map { key } => Some(Self::Key(key)),
            Segment::Seq { index } => Some(Self::Entry(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        }
    }
}

/// What the error at the end of the way says.
const HERE: &str = "the end of the way";

/// Line and column of the value at the end of the steps, from 1; of its key if the value is in
/// fields. None if the text has no such value: a key such as `0x10` reads as 16 in a tree.
fn found(steps: &[Step<'_>], text: &str) -> Option<(usize, usize)> {
    let reader = yaml_serde::Deserializer::from_str(text);
    // The way ends with an error of ours, which has the place that the parser has reached.
    let stopped = Way { steps }.deserialize(reader).err()?;
    if !stopped.to_string().contains(HERE) {
        return None;
    }
    let location = stopped.location()?;
    Some((location.line(), location.column()))
}

/// Reads up to the end of the steps and fails there.
struct Way<'a> {
    steps: &'a [Step<'a>],
}

impl<'de> DeserializeSeed<'de> for Way<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Way<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HERE)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        // A single value stands for a list of one, so the way may name an entry that the text has
        // not.
        let steps = match self.steps {
            [Step::Entry(_), rest @ ..] => rest,
            steps => steps,
        };
        let [Step::Key(wanted), rest @ ..] = steps else {
            return Err(A::Error::custom(HERE));
        };
        let is_last = rest.is_empty();
        while let Some(is_wanted) = fields.next_key_seed(Key { wanted, is_last })? {
            if is_wanted {
                return fields.next_value_seed(Way { steps: rest });
            }
            fields.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        // A list of one stands for its entry.
        let (wanted, rest) = match self.steps {
            [Step::Entry(wanted), rest @ ..] => (*wanted, rest),
            steps => (0, steps),
        };
        for _ in 0..wanted {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Way { steps: rest }).map(drop)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(E::custom(HERE))
    }
}

/// A key of fields: whether it is the wanted one. Fails at the wanted one if the way ends there.
struct Key<'a> {
    wanted: &'a str,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<bool, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        match key == self.wanted {
            true if self.is_last => Err(E::custom(HERE)),
            is_wanted => Ok(is_wanted),
        }
    }
}
