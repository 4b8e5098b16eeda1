//! Damaged recordings that once panicked, hung or took all memory: each is refused, quickly, as the
//! file's fault.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use maqam_audio::Span;
use maqam_audio::read;

/// Damaged files and their errors. All were found by changing bytes of good recordings.
const DAMAGED: [(&str, &str); 6] = [
    // An assertion, and a division by zero, in the Vorbis decoder.
    (
        "vorbis-codebook-index.ogg",
        "its decoder stopped at a fault",
    ),
    (
        "vorbis-floor-divide-by-zero.ogg",
        "its decoder stopped at a fault",
    ),
    // A box whose name is cut off at the end of the file.
    (
        "mp4-short-tail-slice.m4a",
        "the MP4 file's `box` box is missing",
    ),
    // A fragment that announces 2^31 packets of no bytes.
    ("mp4-trun-hang.m4a", "has no bytes"),
    // A packet that ends early was once reported as a fault of the disk.
    ("mp4-exit4.m4a", "does not decode"),
    // A page that begins with the rest of a packet that never began, whose samples were announced
    // and not there.
    ("flac-cut-header-page.oga", "has no samples"),
];

#[test]
fn damaged_recordings_are_the_files_fault() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/audio/damaged");
    for (name, what) in DAMAGED {
        let path = folder.join(name);
        let start = Instant::now();
        let error = read(&path, Span::WHOLE).unwrap_err();
        assert!(error.message().contains(what), "{error}");
        assert!(error.message().contains(name), "{error}");
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(start.elapsed() < Duration::from_secs(2), "{name}");
    }
}
