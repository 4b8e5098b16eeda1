//! Recognises files that are something else than their names say: web pages, Git LFS pointers,
//! archives, other formats of weights.

/// A format that was found in place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The format, with its article.
    pub what: &'static str,
    /// The way out, beginning with a verb.
    pub hint: &'static str,
}

/// Bytes from a file's start that are enough for [`foreign`].
pub const HEAD_BYTES: usize = 512;

/// Recognises a foreign format by the first bytes of a file; `None` for text and for what is not
/// known.
pub fn foreign(head: &[u8]) -> Option<Foreign> {
    const DOWNLOAD: &str =
        "download the file again; a page that asks for a login or a licence comes in its place";
    const UNPACK: &str = "unpack it first";
    const WEIGHTS: &str = "use the checkpoint in safetensors format";
    let by_magic: [(&[u8], &str, &str); 9] = [
        (
            b"version https://git-lfs.github.com/spec/",
            "a Git LFS pointer",
            "run `git lfs pull` in the repository that it came from",
        ),
        (b"GGUF", "a GGUF file", WEIGHTS),
        (b"\x89HDF\r\n", "an HDF5 file", WEIGHTS),
        (
            b"PK\x03\x04",
            "a zip archive (PyTorch writes its .bin and .pt files so)",
            WEIGHTS,
        ),
        (b"\x80\x02\x8a", "a Python pickle", WEIGHTS),
        (b"\x1f\x8b", "a gzip file", UNPACK),
        (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
        (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
        (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    ];
    if let Some((_, what, hint)) = by_magic
        .iter()
        .find(|(magic, _, _)| head.starts_with(magic))
    {
        return Some(Foreign { what, hint });
    }
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let start: String = text
        .chars()
        .take(9)
        .collect::<String>()
        .to_ascii_lowercase();
    if start.starts_with("<!doctype") || start.starts_with("<html") || start.starts_with("<head") {
        return Some(Foreign {
            what: "an HTML page",
            hint: DOWNLOAD,
        });
    }
    if start.starts_with("<?xml") {
        return Some(Foreign {
            what: "an XML page",
            hint: DOWNLOAD,
        });
    }
    None
}

/// The same of a whole file's bytes, an empty file included.
pub fn foreign_file(bytes: &[u8]) -> Option<Foreign> {
    if bytes.is_empty() {
        return Some(Foreign {
            what: "an empty file",
            hint: "download or copy it again",
        });
    }
    foreign(&bytes[..bytes.len().min(HEAD_BYTES)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_formats_are_named() {
        let what = |bytes: &[u8]| foreign_file(bytes).map(|found| found.what);
        assert_eq!(
            what(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
            Some("a Git LFS pointer")
        );
        assert_eq!(what(b"\n<!DOCTYPE html><html>"), Some("an HTML page"));
        assert_eq!(what("\u{feff}<html>".as_bytes()), Some("an HTML page"));
        assert_eq!(what(b"GGUF\x03\0\0\0"), Some("a GGUF file"));
        assert_eq!(what(b""), Some("an empty file"));
        assert_eq!(what(b"{\"model_type\": \"x\"}"), None);
        assert_eq!(what(b"\x10\0\0\0\0\0\0\0{}"), None);
    }
}
