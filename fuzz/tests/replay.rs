//! Every input of the corpus again: no panic, no bug, no memory or time beyond its bounds.

use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::channel;
use std::time::Duration;

use maqam_fuzz::engine::inputs;

/// Longest time that one input may take before the process is ended.
const LONGEST: Duration = Duration::from_secs(60);

/// Ends the process when the input that was named last takes too long; `begun` names each input as
/// it begins.
fn watch(begun: &Receiver<PathBuf>) {
    let mut current = PathBuf::new();
    loop {
        match begun.recv_timeout(LONGEST) {
            Ok(path) => current = path,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                eprintln!(
                    "{}: takes longer than {} s",
                    current.display(),
                    LONGEST.as_secs()
                );
                std::process::abort();
            }
        }
    }
}

#[test]
fn the_corpus_holds_no_fault() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut faults = Vec::new();
    let (begin, begun) = channel();
    std::thread::spawn(move || watch(&begun));
    for target in maqam_fuzz::targets() {
        let found = inputs(&corpus.join(target.name), usize::MAX).unwrap();
        assert!(found.len() > 2, "{}: {} inputs", target.name, found.len());

        let mut kinds: Vec<String> = Vec::new();
        for (path, bytes) in found {
            begin.send(path.clone()).unwrap();
            let outcome = target.run(&bytes);
            kinds.push(outcome.kind);
            if let Some(fault) = outcome.fault {
                faults.push(format!("{}: {fault}", path.display()));
            }
        }
        kinds.sort();
        kinds.dedup();
        println!("{}: {} endings", target.name, kinds.len());
        // Whole recordings are among the damaged ones, so that the replay reaches the end of each
        // decoder.
        let is_read = kinds.iter().any(|kind| kind == "read");
        let is_audio = maqam_fuzz::audio::targets()
            .iter()
            .any(|audio| audio.name == target.name);
        assert!(is_read || !is_audio, "{}: {kinds:?}", target.name);
        assert!(kinds.len() > 1, "{}: {kinds:?}", target.name);
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
