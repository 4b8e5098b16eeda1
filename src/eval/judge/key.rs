//! The key of an endpoint: read from the environment, sent in one header, and never shown.

use crate::error::Error;
use crate::error::Result;

/// A key. It has no `Debug`, no `Display` and no `Serialize`, so that no message, log or file can hold it by accident.
pub struct Key(String);

/// What a key is replaced by where a text of the endpoint's repeats it.
const HIDDEN: &str = "[key]";

impl Key {
    /// The key in an environment variable; none where it is not set or empty.
    ///
    /// # Errors
    /// A value that no header can carry; the message does not say the value.
    pub fn from_variable(name: &str) -> Result<Option<Self>> {
        match std::env::var_os(name) {
            None => Ok(None),
            Some(value) => {
                let text = value.to_str().unwrap_or("\u{fffd}");
                if text.trim().is_empty() {
                    Ok(None)
                } else {
                    Self::new(text)
                        .map(Some)
                        .map_err(|e| e.at(format!("environment variable {name}")))
                }
            }
        }
    }

    /// A key from its text; spaces around it are no part of it.
    ///
    /// # Errors
    /// As [`Key::from_variable`].
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                Error::input("the key is empty or holds characters that no key has")
                    .hint("is it one line, without quotation marks?"),
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// The value of the header `Authorization`.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// A text of somebody else's without the key, which some endpoints repeat in their messages.
    pub(super) fn hide(&self, text: &str) -> String {
        text.replace(&self.0, HIDDEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_out_of_what_repeats_it() {
        let key = Key::new(" sk-abc123\n").unwrap();
        assert_eq!(
            key.hide("wrong key sk-abc123 (sk-abc123)"),
            "wrong key [key] ([key])"
        );
        assert_eq!(key.authorization(), "Bearer sk-abc123");
    }

    #[test]
    fn what_no_header_carries_is_refused_without_being_said() {
        for text in ["", "  ", "sk-abc\n123", "sk abc", "sk-مفتاح"] {
            let error = Key::new(text).err().unwrap();
            assert!(
                error.exit_code() == 2 && !error.to_string().contains("sk"),
                "{error}"
            );
        }
    }
}
