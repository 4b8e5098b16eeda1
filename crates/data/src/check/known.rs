//! Cached facts about audio: one JSON line per clip, by the file's path, size and time of the last
//! change.
//!
//! With this cache, an interrupted check continues, and a second check of a data set decodes only
//! changed files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde::Serialize;

use crate::Clip;
use crate::check::finding::FindingKind;
use crate::near_duplicates::key_of;
use maqam_audio::examine::Decoded;
use maqam_audio::examine::Examined;
use maqam_base::error::Result;
use maqam_base::files::AppendLog;
use maqam_base::jsonl;
use maqam_base::jsonl::LastLine;

/// Version of the facts; it increases whenever the same file would give other facts.
const FORMAT: u8 = 1;

/// Facts of a file that changed so shortly before it was read are not cached, because it may change
/// again without a new time.
const SETTLED_NS: u128 = 2_000_000_000;

/// Bytes of new facts after which they are written.
const WRITTEN_FROM: usize = 1 << 16;

/// Cached facts.
#[derive(Default)]
pub struct Known {
    log: Option<Mutex<AppendLog>>,
    known: HashMap<u128, Box<str>>,
    fresh: Mutex<Vec<u8>>,
}

/// A line of the file. Faults have no facts, facts no fault.
#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<Facts>,
}

#[derive(Serialize, Deserialize)]
struct Facts {
    rate: u32,
    channels: Option<usize>,
    duration_s: f64,
    decoded: Option<Levels>,
}

#[derive(Serialize, Deserialize)]
struct Levels {
    peak: f32,
    rms: f64,
    first_channel_rms: Option<f64>,
    clipped_share: f64,
    content: String,
}

impl Levels {
    fn of(decoded: &Decoded) -> Self {
        Self {
            peak: decoded.peak,
            rms: decoded.rms,
            first_channel_rms: decoded.first_channel_rms,
            clipped_share: decoded.clipped_share,
            content: format!("{:032x}", u128::from_le_bytes(decoded.content)),
        }
    }
}

impl Known {
    /// Cache of facts in a file, which is created if it is missing. Lines without facts are
    /// ignored.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(path: &Path) -> Result<Self> {
        let mut known = HashMap::new();
        if path.exists() {
            jsonl::each_line(path, LastLine::Row, |_, line| {
                if let Ok(record) = serde_json::from_slice::<Record>(line)
                    && let Ok(key) = u128::from_str_radix(&record.key, 16)
                    && let Ok(text) = std::str::from_utf8(line)
                {
                    known.insert(key, text.into());
                }
                Ok(())
            })?;
        }
        Ok(Self {
            log: Some(Mutex::new(AppendLog::open(path)?)),
            known,
            fresh: Mutex::default(),
        })
    }

    /// Number of clips in the cache.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Returns the facts about a clip from the cache, else from `find`.
    pub fn facts(
        &self,
        clip: &Clip,
        decode: bool,
        find: impl FnOnce() -> std::result::Result<Examined, (FindingKind, String)>,
    ) -> std::result::Result<Examined, (FindingKind, String)> {
        // Without a file to cache them in, no key is needed.
        let key = self.log.as_ref().and_then(|_| key_of_clip(clip, decode));
        if let Some((key, _)) = key
            && let Some(line) = self.known.get(&key)
            && let Some(found) = read(line)
        {
            return found;
        }
        let found = find();
        if let Some((key, true)) = key {
            let record = written(key, &found);
            if let Ok(line) = serde_json::to_string(&record) {
                let mut fresh = lock(&self.fresh);
                fresh.extend(line.into_bytes());
                fresh.push(b'\n');
            }
        }
        found
    }

    /// Writes new facts if there are enough of them.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn keep(&self) -> Result<()> {
        // The lock is released before it is taken again for writing.
        let waiting = lock(&self.fresh).len();
        match waiting < WRITTEN_FROM {
            true => Ok(()),
            false => self.write(),
        }
    }

    /// Writes new facts.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&self) -> Result<()> {
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        match &self.log {
            Some(log) if !fresh.is_empty() => lock(log).append(&fresh),
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left is a value like any other.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The key of a clip, and whether its file has settled; `None` if the file cannot be accessed.
fn key_of_clip(clip: &Clip, decode: bool) -> Option<(u128, bool)> {
    let mut text = format!("{FORMAT} {decode} {}", clip.span.key()).into_bytes();
    let is_settled = match clip.source.file() {
        Some((path, range)) => {
            let metadata = fs::metadata(path).ok()?;
            let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            text.extend(metadata.len().to_le_bytes());
            text.extend(modified.as_nanos().to_le_bytes());
            let absolute = std::path::absolute(path).ok()?;
            text.extend(absolute.as_os_str().as_encoded_bytes());
            text.extend(format!(" {range:?}").into_bytes());
            now.as_nanos() > modified.as_nanos() + SETTLED_NS
        }
        None => {
            text.extend(key_of(&clip.source.bytes().ok()?).to_le_bytes());
            true
        }
    };
    Some((key_of(&text), is_settled))
}

fn written(key: u128, found: &std::result::Result<Examined, (FindingKind, String)>) -> Record {
    Record {
        key: format!("{key:032x}"),
        fault: found
            .as_ref()
            .err()
            .map(|(kind, message)| (kind.name().to_owned(), message.clone())),
        facts: found.as_ref().ok().map(|found| Facts {
            rate: found.rate,
            channels: found.channels,
            duration_s: found.duration_s,
            decoded: found.decoded.as_ref().map(Levels::of),
        }),
    }
}

/// Facts or a fault of a line; `None` if it has neither.
fn read(line: &str) -> Option<std::result::Result<Examined, (FindingKind, String)>> {
    let record: Record = serde_json::from_str(line).ok()?;
    if let Some((name, message)) = record.fault {
        let kind = FindingKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)?;
        return Some(Err((kind, message)));
    }
    let facts = record.facts?;
    let decoded = match facts.decoded {
        None => None,
        Some(levels) => Some(Decoded {
            peak: levels.peak,
            rms: levels.rms,
            first_channel_rms: levels.first_channel_rms,
            clipped_share: levels.clipped_share,
            content: u128::from_str_radix(&levels.content, 16)
                .ok()?
                .to_le_bytes(),
        }),
    };
    Some(Ok(Examined {
        rate: facts.rate,
        channels: facts.channels,
        duration_s: facts.duration_s,
        decoded,
    }))
}
