//! Characters as other programs sort them.

/// White space as Python has it: Unicode's, with the four information separators.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
