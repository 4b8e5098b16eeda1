//! Members of an uncompressed tar file by their byte ranges, read once and stored in an index.

use std::fs::File;
use std::io::BufReader;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Folder of indices of shards in read-only folders.
pub const FOLDER: &str = "runs/.shards";

/// First bytes of an index; the number increases with every change of the format.
const MAGIC: &[u8; 16] = b"maqam shards 1\n\0";

/// Ending of an index next to its shard.
const ENDING: &str = ".maqam-index";

/// Bytes of a block of tar.
const BLOCK: usize = 512;

/// Largest member whose text the index holds, in bytes.
const MOST_TEXT: u64 = 1 << 20;

/// Largest size of a long name or a pax header, in bytes.
const MOST_NAME: u64 = 1 << 20;

/// Endings of members that hold audio.
pub const AUDIO: [&str; 14] = [
    "wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "mp4", "aac", "webm", "wma", "sph", "aiff",
    "aif",
];

/// Returns whether a name ends as those of recordings do.
pub fn is_audio(name: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(_, ending)| AUDIO.iter().any(|known| known.eq_ignore_ascii_case(ending)))
}

/// One file in a tar file.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Name of the member, with its folders.
    pub name: Box<str>,
    /// The first of its bytes in the tar file.
    pub start: u64,
    /// Number of its bytes.
    pub len: u64,
    /// Contents, if they are a text of at most one mebibyte.
    pub text: Option<Box<str>>,
}

/// The members of one tar file.
#[derive(Clone, Debug)]
pub struct Shard {
    /// The tar file.
    pub path: Arc<Path>,
    /// Files of the shard, in their order.
    pub members: Vec<Member>,
}

impl Shard {
    /// Opens a tar file by its index. The first time, reads all headers and writes the index, next
    /// to the file or in [`FOLDER`].
    ///
    /// # Errors
    /// A file that cannot be read, is no tar file, or is truncated.
    pub fn open(path: &Path) -> Result<Self> {
        let stamp = Stamp::of(path)?;
        let places = index_places(path);
        for place in &places {
            if let Some(members) = read_index(place, stamp)
                && ends_fit(path, &members)
            {
                return Ok(Self {
                    path: path.into(),
                    members,
                });
            }
        }
        let members = scan(path)?;
        let index = write_index(&members, stamp);
        // An index only saves time, so a shard without a place for its index is read without one.
        for place in &places {
            if files::write_atomic(place, &index).is_ok() {
                break;
            }
        }
        Ok(Self {
            path: path.into(),
            members,
        })
    }

    /// Hash of the inputs of the shard's rows: names, sizes and texts of its members, but not its
    /// audio.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for member in &self.members {
            hasher
                .update(&(member.name.len() as u64).to_le_bytes())
                .update(member.name.as_bytes())
                .update(&member.start.to_le_bytes())
                .update(&member.len.to_le_bytes());
            let text = member.text.as_deref().unwrap_or_default();
            hasher
                .update(&(text.len() as u64).to_le_bytes())
                .update(text.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Identity of the shard that an index was made from.
#[derive(Clone, Copy, PartialEq)]
struct Stamp {
    len: u64,
    modified_ns: u64,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
        let modified_ns = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |time| time.as_nanos() as u64);
        Ok(Self {
            len: metadata.len(),
            modified_ns,
        })
    }
}

/// Possible places of a shard's index, the better one first.
fn index_places(path: &Path) -> [PathBuf; 2] {
    let mut beside = path.as_os_str().to_owned();
    beside.push(ENDING);
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let hash = blake3::hash(absolute.as_os_str().as_encoded_bytes()).to_hex();
    let elsewhere = Path::new(FOLDER).join(format!("{}{ENDING}", &hash[..32]));
    [beside.into(), elsewhere]
}

/// Returns whether the last member is at its indexed place. A shard that was written twice within
/// one tick of the clock has other places.
fn ends_fit(path: &Path, members: &[Member]) -> bool {
    let Some(last) = members.last() else {
        return true;
    };
    let mut block = [0; BLOCK];
    let header = last.start.checked_sub(BLOCK as u64);
    let read = header.and_then(|at| File::open(path).ok()?.read_exact_at(&mut block, at).ok());
    read.is_some()
        && checksum_fits(&block)
        && number(&block[124..136]).is_some_and(|len| len == last.len || last.len > 0o77777777777)
}

/// Finds the members of a tar file by its headers.
///
/// # Errors
/// A file that is no tar file; a truncated member.
pub fn scan(path: &Path) -> Result<Vec<Member>> {
    let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
    let len = file
        .metadata()
        .map_err(|e| Error::io(path, "read", e))?
        .len();
    scan_reader(&mut BufReader::with_capacity(1 << 20, file), len).map_err(|e| e.at_path(path))
}

/// Names that precede a member's own header.
#[derive(Default)]
struct Overrides {
    name: Option<String>,
    len: Option<u64>,
}

fn scan_reader(reader: &mut BufReader<File>, file_len: u64) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    let mut overrides = Overrides::default();
    let mut at = 0u64;
    let mut block = [0; BLOCK];
    let failed = |e: std::io::Error| Error::resource(format!("cannot read: {e}")).caused_by(e);
    while at + BLOCK as u64 <= file_len {
        reader.read_exact(&mut block).map_err(failed)?;
        let header_at = at;
        at += BLOCK as u64;
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        if !checksum_fits(&block) {
            return Err(
                Error::input(format!("no header of a tar file at byte {header_at}"))
                    .hint("the file is damaged or no tar file: copy or pack it again"),
            );
        }
        let of_header = number(&block[124..136]).ok_or_else(|| {
            Error::input(format!("the header at byte {header_at} states no size"))
                .hint("copy or pack it again")
        })?;
        let kind = block[156];
        let is_about_next = matches!(kind, b'L' | b'K' | b'x' | b'g');
        let len = match is_about_next {
            true => of_header,
            false => overrides.len.take().unwrap_or(of_header),
        };
        let end = at.checked_add(len).filter(|end| *end <= file_len);
        let name_here = overrides.name.clone().unwrap_or_else(|| name_of(&block));
        let end = end.ok_or_else(|| {
            Error::input(format!(
                "truncated: `{name_here}` has {len} bytes from byte {at} on, the file {file_len}"
            ))
            .hint("copy or download it again")
        })?;
        let padded = len.div_ceil(BLOCK as u64) * BLOCK as u64;
        let mut contents = |most: u64| -> Result<Vec<u8>> {
            if len > most {
                return Err(Error::input(format!(
                    "the header at byte {header_at} is longer than {most} bytes"
                )));
            }
            let mut bytes = vec![0; len as usize];
            reader.read_exact(&mut bytes).map_err(failed)?;
            Ok(bytes)
        };
        let mut was_read = 0;
        match kind {
            b'L' => {
                let bytes = contents(MOST_NAME)?;
                was_read = len;
                overrides.name = Some(text_until_zero(&bytes));
            }
            b'x' => {
                let bytes = contents(MOST_NAME)?;
                was_read = len;
                pax(&bytes, &mut overrides);
            }
            b'0' | 0 | b'7' if !name_here.ends_with('/') => {
                let name = overrides.name.take().unwrap_or(name_here);
                let may_be_text = !is_audio(&name) && len <= MOST_TEXT;
                let text = match may_be_text {
                    true => {
                        let bytes = contents(MOST_TEXT)?;
                        was_read = len;
                        String::from_utf8(bytes)
                            .ok()
                            .filter(|text| !text.contains('\0'))
                    }
                    false => None,
                };
                members.push(Member {
                    name: name.into(),
                    start: at,
                    len,
                    text: text.map(Into::into),
                });
            }
            b'S' => {
                return Err(
                    Error::input(format!("`{name_here}` is stored as a sparse file"))
                        .hint("pack it again without `--sparse`"),
                );
            }
            // A folder, a link, or a special entry of another program.
            _ => {
                if !is_about_next {
                    overrides = Overrides::default();
                }
            }
        }
        let next = at + padded;
        if next > file_len && end < file_len {
            break;
        }
        reader
            .seek_relative((padded - was_read) as i64)
            .map_err(failed)?;
        at = next;
    }
    if members.is_empty() && at == 0 {
        return Err(Error::input("is shorter than one header of a tar file")
            .hint("copy or download it again"));
    }
    Ok(members)
}

/// Returns whether a block begins a tar file.
pub fn is_header(block: &[u8]) -> bool {
    block
        .get(..BLOCK)
        .and_then(|block| <&[u8; BLOCK]>::try_from(block).ok())
        .is_some_and(|block| {
            block[0] != 0 && checksum_fits(block) && number(&block[124..136]).is_some()
        })
}

/// Returns whether the sum of a header's bytes, its own sum taken as spaces, is what it states.
fn checksum_fits(block: &[u8; BLOCK]) -> bool {
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(i, byte)| match (148..156).contains(&i) {
            true => u64::from(b' '),
            false => u64::from(*byte),
        })
        .sum();
    number(&block[148..156]) == Some(sum)
}

/// A number in octal digits, or in binary if the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let (high, low) = field.split_at_checked(field.len().checked_sub(8)?)?;
        let is_small = !high.is_empty() && high[1..].iter().all(|byte| *byte == 0);
        let number = low
            .iter()
            .fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        return (is_small && number < 1 << 62).then_some(number);
    }
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(|c: char| c == ' ' || c == '\0');
    match text.is_empty() {
        true => None,
        false => u64::from_str_radix(text, 8).ok(),
    }
}

/// A header's name, with the prefix that ustar puts before long ones.
fn name_of(block: &[u8; BLOCK]) -> String {
    let name = text_until_zero(&block[..100]);
    let is_ustar = &block[257..263] == b"ustar\0";
    let prefix = match is_ustar {
        true => text_until_zero(&block[345..500]),
        false => String::new(),
    };
    match prefix.is_empty() {
        true => name,
        false => format!("{prefix}/{name}"),
    }
}

fn text_until_zero(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Takes the name and the size out of a header of pax: lines of `LENGTH KEY=VALUE`.
fn pax(bytes: &[u8], overrides: &mut Overrides) {
    let mut rest = bytes;
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let len = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|text| text.trim_matches('\0').parse::<usize>().ok());
        let Some(record) = len.and_then(|len| rest.get(space + 1..len)) else {
            return;
        };
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let text = String::from_utf8_lossy(record);
        match text.split_once('=') {
            Some(("path", path)) => overrides.name = Some(path.to_owned()),
            Some(("size", size)) => overrides.len = size.parse().ok(),
            _ => {}
        }
        rest = &rest[len.unwrap_or(rest.len()).max(1)..];
    }
}

/// The members as bytes: a stamp, then of each its numbers, its name and its text; a hash of all.
fn write_index(members: &[Member], stamp: Stamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + members.len() * 64);
    out.extend(MAGIC);
    out.extend(stamp.len.to_le_bytes());
    out.extend(stamp.modified_ns.to_le_bytes());
    out.extend((members.len() as u64).to_le_bytes());
    for member in members {
        out.extend(member.start.to_le_bytes());
        out.extend(member.len.to_le_bytes());
        out.extend((member.name.len() as u32).to_le_bytes());
        let text_len = member.text.as_ref().map_or(0, |text| text.len() as u32 + 1);
        out.extend(text_len.to_le_bytes());
        out.extend(member.name.as_bytes());
        out.extend(member.text.as_deref().unwrap_or_default().as_bytes());
    }
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out
}

/// The members of an index; none if it is missing, damaged, or of another shard. Every member lies
/// inside the shard.
fn read_index(path: &Path, stamp: Stamp) -> Option<Vec<Member>> {
    let bytes = std::fs::read(path).ok()?;
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut take = |len: usize| -> Option<&[u8]> {
        let (taken, left) = rest.split_at_checked(len)?;
        rest = left;
        Some(taken)
    };
    let found = Stamp {
        len: u64_of(take(8)?)?,
        modified_ns: u64_of(take(8)?)?,
    };
    if found != stamp {
        return None;
    }
    let count = u64_of(take(8)?)?;
    // A record has 24 bytes at least, so no count reserves more than the index holds.
    let mut members = Vec::with_capacity((count as usize).min(bytes.len() / 24));
    for _ in 0..count {
        let start = u64_of(take(8)?)?;
        let len = u64_of(take(8)?)?;
        start.checked_add(len).filter(|end| *end <= stamp.len)?;
        let name_len = u32::from_le_bytes(take(4)?.try_into().ok()?);
        let text_len = u32::from_le_bytes(take(4)?.try_into().ok()?);
        let name = std::str::from_utf8(take(name_len as usize)?).ok()?;
        let text = match text_len {
            0 => None,
            len => Some(std::str::from_utf8(take(len as usize - 1)?).ok()?.into()),
        };
        members.push(Member {
            name: name.into(),
            start,
            len,
            text,
        });
    }
    Some(members)
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Writer of a tar file, member by member.
pub struct Writer<W: std::io::Write> {
    out: W,
}

impl<W: std::io::Write> Writer<W> {
    /// Begins a tar file.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Appends a member.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&mut self, name: &str, contents: &[u8]) -> std::io::Result<()> {
        if name.len() > 100 {
            let mut long = name.as_bytes().to_vec();
            long.push(0);
            self.block("././@LongLink", long.len() as u64, b'L')?;
            self.padded(&long)?;
        }
        self.block(name, contents.len() as u64, b'0')?;
        self.padded(contents)
    }

    /// Ends the tar file.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(mut self) -> std::io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    fn block(&mut self, name: &str, len: u64, kind: u8) -> std::io::Result<()> {
        let mut block = [0u8; BLOCK];
        let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
        // A longer name is in the previous member, and its beginning is here.
        put(0, &name.as_bytes()[..name.len().min(100)]);
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        match len < 1 << 33 {
            true => put(124, format!("{len:011o}\0").as_bytes()),
            false => {
                put(124, &[0x80, 0, 0, 0]);
                put(128, &len.to_be_bytes());
            }
        }
        // The time is zero, so that equal rows give equal files.
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar  \0");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.out.write_all(&block)
    }

    fn padded(&mut self, contents: &[u8]) -> std::io::Result<()> {
        self.out.write_all(contents)?;
        let over = contents.len() % BLOCK;
        if over > 0 {
            self.out.write_all(&[0; BLOCK][over..])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(dir: &Path, members: &[(&str, &[u8])]) -> PathBuf {
        let path = dir.join("a.tar");
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        for (name, contents) in members {
            writer.add(name, contents).unwrap();
        }
        writer.finish().unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn the_index_gives_the_places_of_members() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("{}/a.json", "folder".repeat(40));
        let members: [(&str, &[u8]); 4] = [
            ("1.wav", &[7; 700]),
            ("1.txt", "نعم".as_bytes()),
            (&long, b"{}"),
            ("2.bin", &[0xff, 0]),
        ];
        let path = shard(dir.path(), &members);
        let bytes = std::fs::read(&path).unwrap();
        let scanned = scan(&path).unwrap();
        let opened = Shard::open(&path).unwrap().members;
        assert!(dir.path().join("a.tar.maqam-index").is_file());
        assert_eq!(scanned, opened);
        assert_eq!(Shard::open(&path).unwrap().members, opened, "by the index");
        for (member, (name, contents)) in scanned.iter().zip(members) {
            assert_eq!(&*member.name, name);
            let range = member.start as usize..(member.start + member.len) as usize;
            assert_eq!(&bytes[range], contents);
        }
        let texts: Vec<Option<&str>> = scanned.iter().map(|m| m.text.as_deref()).collect();
        assert_eq!(texts, [None, Some("نعم"), Some("{}"), None]);
    }

    #[test]
    fn an_index_with_members_outside_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = shard(dir.path(), &[("1.wav", &[7; 700]), ("2.wav", &[8; 700])]);
        let scanned = scan(&path).unwrap();
        let index = dir.path().join("a.tar.maqam-index");
        for (start, len) in [(0, 1 << 20), (u64::MAX, 2), (u64::MAX, u64::MAX)] {
            let mut members = scanned.clone();
            members[0].start = start;
            members[0].len = len;
            std::fs::write(&index, write_index(&members, Stamp::of(&path).unwrap())).unwrap();
            assert_eq!(Shard::open(&path).unwrap().members, scanned);
        }
    }

    #[test]
    fn an_index_of_another_shard_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        // Both have one size and one time of change.
        let path = shard(dir.path(), &[("a.txt", b"one"), ("b.wav", &[1; 600])]);
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(Shard::open(&path).unwrap().members.len(), 2);
        let path = shard(dir.path(), &[("a.wav", &[1; 600]), ("b.txt", b"two")]);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        let found = Shard::open(&path).unwrap();
        assert_eq!(found.members[1].text.as_deref(), Some("two"));
        // A damaged index is written again.
        let index = dir.path().join("a.tar.maqam-index");
        let mut bytes = std::fs::read(&index).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&index, &bytes).unwrap();
        assert_eq!(Shard::open(&path).unwrap().members, found.members);
        assert_ne!(std::fs::read(&index).unwrap(), bytes);
    }

    #[test]
    fn numbers_are_octal_or_bytes() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"        "), None);
        assert_eq!(
            number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]),
            Some((2 << 32) + 1)
        );
        // A text with letters at the place of a header's checksum.
        assert_eq!(number(&[0xd9; 8]), None);
        assert!(!is_header(&[0xd9; 600]));
    }

    #[test]
    fn a_shard_that_is_cut_off_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = shard(dir.path(), &[("a.wav", &[1; 2000])]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..1024]).unwrap();
        let error = Shard::open(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .contains("truncated: `a.wav` has 2000 bytes"),
            "{error}"
        );
        std::fs::write(&path, [1; 1024]).unwrap();
        let error = Shard::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("no header of a tar file at byte 0"),
            "{error}"
        );
    }
}
