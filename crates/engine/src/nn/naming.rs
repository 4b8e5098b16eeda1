//! Ways in which files write the paths of a model's modules: checkpoints and adapters of one family
//! have more than one.

/// One way of writing paths.
#[derive(Debug, PartialEq, Eq)]
pub struct NameForm {
    /// Description for messages: "relative to the full model".
    pub name: &'static str,
    /// Beginnings of paths in the model, and those that stand here instead; the first that fits
    /// counts.
    pub beginnings: &'static [(&'static str, &'static str)],
}

impl NameForm {
    /// A path of the model as it is written here; one with another beginning stays as it is.
    pub fn written(&self, path: &str) -> String {
        self.beginnings
            .iter()
            .find_map(|(own, written)| Some(format!("{written}{}", path.strip_prefix(own)?)))
            .unwrap_or_else(|| path.to_owned())
    }

    /// Whether a file that holds this name writes names so: it has the first of the beginnings.
    pub fn is_of(&self, written: &str) -> bool {
        let first = self.beginnings.first();
        first.is_some_and(|(_, beginning)| written.starts_with(beginning))
    }

    /// The model's path that is written like this; `None` where it has another beginning.
    pub fn read(&self, written: &str) -> Option<String> {
        self.beginnings
            .iter()
            .find_map(|(own, beginning)| Some(format!("{own}{}", written.strip_prefix(beginning)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let form = NameForm {
            name: "nested",
            beginnings: &[("a.b.", "b.a."), ("a.", "")],
        };
        for (path, written) in [("a.b.c", "b.a.c"), ("a.c", "c")] {
            assert_eq!(form.written(path), written);
            assert_eq!(form.read(written).as_deref(), Some(path));
        }
        let strict = NameForm {
            name: "as it is",
            beginnings: &[("a.", "a.")],
        };
        assert_eq!(
            (strict.written("x.y"), strict.read("x.y")),
            ("x.y".into(), None)
        );
    }
}
