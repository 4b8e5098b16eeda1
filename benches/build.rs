//! Documents per minute of `maqam build` with espeak-ng and one worker, against espeak-ng alone on
//! the same sentences.
//!
//! `cargo bench --bench build [DOCUMENTS]`. A sentence has 23 common Arabic words, and a document
//! has 13 sentences, as in NTREX. The reference runs espeak-ng once for each sentence, as the
//! builder does, and drops the audio. Both are measured in processor time, with that of child
//! processes, so that other work on the machine has little effect. The documents are made of few
//! words, so `near_duplicates: 1` leaves MinHash out of the measurement.

use std::io::Write;
use std::process::Command;
use std::process::Stdio;

use maqam::build::Build;
use maqam::build::Models;
use maqam::build::Observer;
use maqam::build::Recipe;
use maqam::build::Shard;
use maqam::build::Step;
use maqam::error::Result;
use maqam::seed::Key;
use maqam::stop::Stop;

const WORDS: [&str; 32] = [
    "قال",
    "الوزير",
    "إن",
    "الحكومة",
    "سوف",
    "تبدأ",
    "العمل",
    "في",
    "المشروع",
    "الجديد",
    "قبل",
    "نهاية",
    "العام",
    "ورحب",
    "السكان",
    "بالقرار",
    "الذي",
    "صدر",
    "عن",
    "المجلس",
    "بعد",
    "نقاش",
    "طويل",
    "أمس",
    "وأضاف",
    "المتحدث",
    "باسم",
    "الرئاسة",
    "أن",
    "الاجتماع",
    "المقبل",
    "سيعقد",
];
/// Sentences of a document, and words of a sentence.
const SENTENCES: u64 = 13;
const SENTENCE_WORDS: u64 = 23;

struct Silent;

impl Observer for Silent {
    fn tell(&mut self, _: &'static str, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn line(&mut self, _: &str) {}
}

/// Seconds of the processor that this process and its children took.
fn processor_s() -> f64 {
    let of = |who: i32| {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `getrusage` fills the structure that it is given.
        let usage = unsafe {
            libc::getrusage(who, usage.as_mut_ptr());
            usage.assume_init()
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}

fn main() {
    // As the program does.
    maqam::ops::cpu::keep_freed_pages();
    let num: u64 = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(30);
    let found = Command::new("espeak-ng")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        println!("SKIPPED: espeak-ng is not on the path");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    let mut sentences = Vec::new();
    for document in 0..num {
        let key = Key::new(document, "bench");
        let texts: Vec<String> = (0..SENTENCES)
            .map(|i| {
                let words: Vec<&str> = (0..SENTENCE_WORDS)
                    .map(|j| WORDS[key.with(i).below(j, WORDS.len())])
                    .collect();
                words.join(" ") + "."
            })
            .collect();
        let row = serde_json::json!({"id": format!("d{document}"), "text": texts.join(" "), "summary": texts[0]});
        lines.push_str(&format!("{row}\n"));
        sentences.extend(texts);
    }
    let source = dir.path().join("docs.jsonl");
    std::fs::write(&source, lines).unwrap();

    let started = processor_s();
    for sentence in &sentences {
        let mut child = Command::new("espeak-ng")
            .args(["-v", "ar+m1", "-z", "--stdin", "--stdout"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(sentence.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
    }
    let alone = processor_s() - started;

    let recipe = dir.path().join("recipe.yaml");
    let text = format!(
        "name: bench\ncollect: {{from: {}, summary: summary}}\nclean: {{near_duplicates: 1}}\n",
        source.display()
    );
    std::fs::write(&recipe, text).unwrap();
    let stop = Stop::new();
    let build = Build {
        recipe: Recipe::load(&recipe, &[]).unwrap(),
        root: dir.path().join("datasets"),
        shard: Shard::WHOLE,
        num_workers: 1,
        recogniser: None,
        models: Models::none(),
        stop: &stop,
    };
    let started = processor_s();
    let outcome = build.run(Step::Publish, &mut Silent).unwrap();
    let whole = processor_s() - started;
    assert_eq!(outcome.published, Some(num as usize));
    println!(
        "{num} documents of {} words: espeak-ng alone {:.1} s ({:.0} documents a minute), maqam build {:.1} s ({:.0} documents a minute), {:+.0} %",
        SENTENCES * SENTENCE_WORDS,
        alone,
        60.0 * num as f64 / alone,
        whole,
        60.0 * num as f64 / whole,
        100.0 * (whole / alone - 1.0)
    );
}
