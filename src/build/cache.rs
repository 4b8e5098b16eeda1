//! Cache of answers of models and speech engines by content: later builds do not repeat a request.
//!
//! Answers follow each other in packs, which are files that only grow. Every process writes its own
//! pack, so several builds may run at once. A checksum finds a record that a crash or a full disk
//! left incomplete, and the reader skips it.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::SystemTime;

use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::files::AppendLog;

/// First bytes of a record.
const MAGIC: [u8; 4] = *b"MQC1";
/// Bytes before a record's answer: magic, key, length, check sum.
const HEAD: usize = 4 + 32 + 4 + 4;
/// Longest answer, in bytes; a length beyond is damage.
const LONGEST: u32 = 1 << 30;

/// BLAKE3 of all that an answer depends on.
pub type Key = [u8; 32];

/// The key of a request. `question` holds everything that the answer depends on.
pub fn key(question: &Value) -> Key {
    *blake3::hash(question.to_string().as_bytes()).as_bytes()
}

/// A key as hexadecimal.
pub fn shown(key: &Key) -> String {
    blake3::Hash::from_bytes(*key).to_hex().to_string()
}

/// The key that [`shown`] wrote.
pub fn parsed(text: &str) -> Option<Key> {
    blake3::Hash::from_hex(text)
        .ok()
        .map(|hash| *hash.as_bytes())
}

/// Place of an answer.
#[derive(Clone, Copy)]
struct Place {
    pack: u32,
    offset: u64,
    len: u32,
    /// CRC-32C of the answer.
    sum: u32,
}

#[derive(Default)]
struct State {
    packs: Vec<(PathBuf, File)>,
    places: HashMap<Key, Place>,
    /// Other answers to the same requests, by processes that ran at once.
    others: HashMap<Key, Vec<Place>>,
    /// Keys with a request in progress.
    asked: HashSet<Key>,
    /// The pack of this process, once it has an answer.
    own: Option<(AppendLog, u32, u64)>,
}

/// All answers of a folder.
pub struct Cache {
    folder: PathBuf,
    state: Mutex<State>,
    answered: Condvar,
}

impl Cache {
    /// Opens a folder of packs, which may be missing.
    ///
    /// # Errors
    /// A pack that cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "pack"))
            .collect();
        paths.sort();
        let mut state = State::default();
        for path in paths {
            state.read(&path)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            state: Mutex::new(state),
            answered: Condvar::new(),
        })
    }

    /// Number of answers.
    pub fn len(&self) -> usize {
        self.state().places.len()
    }

    /// Returns whether there are no answers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The answer to a question.
    ///
    /// # Errors
    /// The disk's.
    pub fn get(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        self.state().get(key)
    }

    /// The answer with a checksum, where processes that ran at once cached several.
    ///
    /// # Errors
    /// The disk's.
    pub fn get_exact(&self, key: &Key, sum: u32) -> Result<Option<Vec<u8>>> {
        let mut state = self.state();
        let first = state.places.get(key).into_iter();
        let others = state.others.get(key).into_iter().flatten();
        let places: Vec<Place> = first.chain(others).copied().collect();
        for place in places.into_iter().filter(|place| place.sum == sum) {
            if let Some(answer) = state.read_at(place)? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// The answer to a request. Without a cached answer, calls `ask`, while other threads with the
    /// same request wait. If `ask` returns nothing, nothing is cached.
    ///
    /// # Errors
    /// Those of `ask` and of the disk.
    pub fn get_or(
        &self,
        key: &Key,
        ask: impl FnOnce() -> Result<Option<Vec<u8>>>,
    ) -> Result<Option<Vec<u8>>> {
        let mut state = self.state();
        loop {
            if let Some(known) = state.get(key)? {
                return Ok(Some(known));
            }
            if state.asked.insert(*key) {
                break;
            }
            state = self
                .answered
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let _done = Asking { cache: self, key };
        let answer = ask()?;
        if let Some(bytes) = &answer {
            self.state().put(&self.folder, key, bytes)?;
        }
        Ok(answer)
    }

    /// Flushes what this process added to the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> Result<()> {
        match &mut self.state().own {
            Some((log, ..)) => log.sync(),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in progress; after it is dropped, others may send it.
struct Asking<'a> {
    cache: &'a Cache,
    key: &'a Key,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.cache.state().asked.remove(self.key);
        self.cache.answered.notify_all();
    }
}

impl State {
    /// Reads the heads of a pack's records, and skips what is damaged up to its end.
    fn read(&mut self, path: &Path) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(path, "read", e);
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let pack = self.packs.len() as u32;
        let mut reader = std::io::BufReader::with_capacity(1 << 12, &file);
        let mut offset = 0;
        let mut head = [0; HEAD];
        while offset + HEAD as u64 <= size {
            reader.read_exact(&mut head).map_err(failed)?;
            let Some((key, len, sum)) = read_head(&head).filter(|(_, len, _)| *len <= LONGEST)
            else {
                break;
            };
            offset += HEAD as u64;
            if offset + u64::from(len) > size {
                break;
            }
            let place = Place {
                pack,
                offset,
                len,
                sum,
            };
            self.add(key, place);
            reader.seek_relative(i64::from(len)).map_err(failed)?;
            offset += u64::from(len);
        }
        self.packs.push((path.to_owned(), file));
        Ok(())
    }

    /// The answer of a key; one with a wrong checksum counts as missing.
    fn get(&mut self, key: &Key) -> Result<Option<Vec<u8>>> {
        let Some(place) = self.places.get(key).copied() else {
            return Ok(None);
        };
        let answer = self.read_at(place)?;
        if answer.is_none() {
            self.places.remove(key);
        }
        Ok(answer)
    }

    /// Adds an answer; an earlier one of the same request stays beside it.
    fn add(&mut self, key: Key, place: Place) {
        if let Some(earlier) = self.places.insert(key, place)
            && earlier.sum != place.sum
        {
            self.others.entry(key).or_default().push(earlier);
        }
    }

    /// The answer at a place; none if its checksum is wrong.
    fn read_at(&mut self, place: Place) -> Result<Option<Vec<u8>>> {
        let (path, file) = &mut self.packs[place.pack as usize];
        let mut head = [0; HEAD];
        let mut answer = Vec::with_capacity(place.len as usize);
        file.seek(SeekFrom::Start(place.offset - HEAD as u64))
            .and_then(|_| file.read_exact(&mut head))
            .and_then(|()| file.take(place.len.into()).read_to_end(&mut answer))
            .map_err(|e| Error::io(path, "read", e))?;
        if answer.len() == place.len as usize
            && read_head(&head).is_some_and(|(_, _, sum)| sum == crc32c::crc32c(&answer))
        {
            return Ok(Some(answer));
        }
        Ok(None)
    }

    fn put(&mut self, folder: &Path, key: &Key, bytes: &[u8]) -> Result<()> {
        if self.own.is_none() {
            let path = folder.join(own_name());
            let mut log = AppendLog::open(&path)?;
            let at = log.num_bytes()?;
            let file = File::open(&path).map_err(|e| Error::io(&path, "read", e))?;
            self.packs.push((path, file));
            self.own = Some((log, self.packs.len() as u32 - 1, at));
        }
        let Some((log, pack, at)) = &mut self.own else {
            return Err(Error::bug("a pack that was opened"));
        };
        let mut record = Vec::with_capacity(HEAD + bytes.len());
        record.extend(MAGIC);
        record.extend(key);
        record.extend((bytes.len() as u32).to_le_bytes());
        let sum = crc32c::crc32c(bytes);
        record.extend(sum.to_le_bytes());
        record.extend(bytes);
        log.append(&record)?;
        let place = Place {
            pack: *pack,
            offset: *at + HEAD as u64,
            len: bytes.len() as u32,
            sum,
        };
        *at += record.len() as u64;
        self.add(*key, place);
        Ok(())
    }
}

/// Key, length and checksum of a record; none if the bytes are no record.
fn read_head(head: &[u8; HEAD]) -> Option<(Key, u32, u32)> {
    let rest = head.strip_prefix(&MAGIC)?;
    let (key, rest) = rest.split_first_chunk::<32>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (sum, _) = rest.split_first_chunk::<4>()?;
    Some((*key, u32::from_le_bytes(*len), u32::from_le_bytes(*sum)))
}

/// A unique name among all processes and machines that share the folder.
fn own_name() -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let text = format!("{host} {} {} {number}", std::process::id(), now.as_nanos());
    format!("{}.pack", &blake3::hash(text.as_bytes()).to_hex()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;

    fn number(i: usize) -> Key {
        key(&json!(["test", i]))
    }

    fn pack(folder: &Path) -> PathBuf {
        std::fs::read_dir(folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
    }

    #[test]
    fn answers_are_there_again_and_torn_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        for i in 0..20 {
            let made = cache.get_or(&number(i), || Ok(Some(vec![i as u8; 100 * i])));
            assert_eq!(made.unwrap().unwrap(), vec![i as u8; 100 * i]);
        }
        assert_eq!(cache.get_or(&number(99), || Ok(None)).unwrap(), None);
        drop(cache);
        let path = pack(dir.path());
        let whole = std::fs::read(&path).unwrap();
        // Cut at any place, a pack holds the complete records before the cut.
        for cut in [
            whole.len() - 1,
            whole.len() - 1901,
            whole.len() - 1950,
            3,
            0,
        ] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let cache = Cache::open(dir.path()).unwrap();
            for i in 0..20 {
                if let Some(found) = cache.get(&number(i)).unwrap() {
                    assert_eq!(found, vec![i as u8; 100 * i]);
                }
            }
            assert!(cache.get(&number(19)).unwrap().is_none());
        }
        // The checksum finds a flipped bit, and the request is sent again.
        let mut damaged = whole.clone();
        let at = whole.len() - 5;
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        assert_eq!(cache.get(&number(19)).unwrap(), None);
        assert_eq!(cache.get(&number(18)).unwrap().unwrap(), vec![18; 1800]);
        cache.get_or(&number(19), || Ok(Some(vec![7]))).unwrap();
        assert_eq!(cache.get(&number(19)).unwrap().unwrap(), [7]);
    }

    #[test]
    fn answers_of_processes_that_ran_at_once_stay() {
        let dir = tempfile::tempdir().unwrap();
        let caches = [(); 3].map(|()| Cache::open(dir.path()).unwrap());
        for (i, cache) in caches.iter().enumerate() {
            cache
                .get_or(&number(1), || Ok(Some(vec![i as u8; 9])))
                .unwrap();
        }
        let joined = Cache::open(dir.path()).unwrap();
        for i in 0..3 {
            let answer = vec![i; 9];
            let sum = crc32c::crc32c(&answer);
            assert_eq!(joined.get_exact(&number(1), sum).unwrap(), Some(answer));
        }
        assert_eq!(joined.get_exact(&number(1), 7).unwrap(), None);
        assert_eq!(joined.get_exact(&number(2), 7).unwrap(), None);
    }

    #[test]
    fn threads_share_one_request_for_equal_prompts() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let num_asked = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let answer = cache.get_or(&number(1), || {
                        num_asked.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(30));
                        Ok(Some(vec![1]))
                    });
                    assert_eq!(answer.unwrap().unwrap(), [1]);
                });
            }
        });
        assert_eq!(num_asked.load(Ordering::SeqCst), 1);
        // After a failure the next thread sends the request.
        assert!(
            cache
                .get_or(&number(2), || Err(Error::input("no")))
                .is_err()
        );
        assert!(cache.get_or(&number(2), || Ok(Some(vec![2]))).is_ok());
    }
}
