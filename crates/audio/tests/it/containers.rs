//! Recordings in all containers: samples of other programs, damaged headers, and error messages.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use maqam_audio::Span;
use maqam_audio::duration_s;
use maqam_audio::num_samples_bytes;
use maqam_audio::read;
use maqam_audio::read_bytes;

/// Stride of the samples in the goldens.
const STRIDE: usize = 8;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/audio")
        .join(path)
}

fn container(name: &str) -> PathBuf {
    fixture("containers").join(name)
}

fn bytes_of(path: &str) -> Vec<u8> {
    std::fs::read(fixture(path)).unwrap()
}

fn whole(name: &str) -> Vec<f32> {
    let samples = read(&container(name), Span::WHOLE).unwrap_or_else(|e| panic!("{e}"));
    let seconds = duration_s(&container(name), Span::WHOLE).unwrap();
    assert!(
        (seconds - samples.len() as f64 / 16_000.0).abs() < 1e-4,
        "{name}: {seconds} s are announced, {} samples read",
        samples.len()
    );
    samples
}

fn part(name: &str, start_s: f64, end_s: f64) -> Vec<f32> {
    let span = Span {
        start_s: Some(start_s),
        end_s: Some(end_s),
        channel: None,
    };
    read(&container(name), span).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn decode(bytes: &[u8]) -> maqam_base::error::Result<Vec<f32>> {
    read_bytes(Arc::from(bytes), "a.clip", Span::WHOLE)
}

/// The error for bytes that cannot be read. It is an input error, names the clip and has a hint.
fn refusal(bytes: &[u8]) -> String {
    match decode(bytes) {
        Ok(samples) => panic!("{} samples were read", samples.len()),
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.message().starts_with("a.clip: "), "{error}");
            assert!(error.to_string().contains("\nhint: "), "{error}");
            error.to_string()
        }
    }
}

/// Distance in decibels between maqam's samples and the golden of the file, which may be longer.
fn distance_db(name: &str, samples: &[f32]) -> f64 {
    let golden: Vec<f32> = bytes_of(&format!("containers/{name}.f32"))
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let ours: Vec<f32> = samples.iter().step_by(STRIDE).copied().collect();
    assert!(
        golden.len() >= ours.len(),
        "{name}: {} samples, {} expected",
        ours.len(),
        golden.len()
    );
    let power =
        |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let difference = power(&mut ours.iter().zip(&golden).map(|(a, b)| a - b));
    10.0 * (difference / power(&mut golden.iter().copied())).log10()
}

#[test]
fn every_container_equals_ffmpeg() {
    // Lengths are those of the clip if the container has its start and end. Two of FFmpeg's files
    // do not. Opus has noise of its own near 8 kHz, where soxr and maqam filter differently.
    let expected = [
        ("speech.opus", 16_000, -65.0),
        ("long_frames.opus", 16_000, -65.0),
        ("music.opus", 16_000, -65.0),
        ("opus.webm", 16_000, -65.0),
        ("live.webm", 16_000, -65.0),
        ("opus.mka", 16_000, -65.0),
        ("vorbis.webm", 16_128, -80.0),
        ("one.ogg", 16_000, -80.0),
        ("two.ogg", 16_000, -65.0),
        ("three.ogg", 16_000, -80.0),
        ("fragments.m4a", 17_024, -80.0),
        ("quicktime.mov", 16_000, -80.0),
        ("alaw.wav", 16_000, -120.0),
        ("mulaw.wav", 16_000, -120.0),
    ];
    let mut faults = Vec::new();
    for (name, len, most_db) in expected {
        let samples = whole(name);
        let db = distance_db(name, &samples);
        println!("{name}: {} samples, {db:.1} dB", samples.len());
        if samples.len() != len || db > most_db {
            faults.push(format!("{name}: {} samples, {db:.1} dB", samples.len()));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");

    let clip = whole("clip.wav");
    for name in ["rf64.wav", "wave64.w64", "flac.oga"] {
        assert_same(&whole(name), &clip, name);
    }
}

#[test]
fn chained_ogg_is_read_to_its_end() {
    let parts = [whole("one.ogg"), whole("three.ogg")];
    assert_same(&whole("chained.ogg"), &parts.concat(), "chained");
    // A part across the seam, and one inside the second recording.
    let chain = whole("chained.ogg");
    assert_same(
        &part("chained.ogg", 0.9, 1.25),
        &chain[14_400..20_000],
        "seam",
    );
    assert_same(
        &part("chained.ogg", 1.5, 1.75),
        &chain[24_000..28_000],
        "second",
    );

    // Recordings of two rates are each resampled.
    let parts = [whole("one.ogg"), whole("two.ogg")];
    assert_same(&whole("chained_rates.ogg"), &parts.concat(), "rates");
    assert_same(
        &part("chained_rates.ogg", 0.9, 1.25),
        &parts.concat()[14_400..20_000],
        "rates",
    );

    assert_eq!(whole("chained.opus").len(), 32_000);
    let second = whole("music.opus");
    let db = difference_db(&whole("chained.opus")[16_200..31_800], &second[200..15_800]);
    assert!(db < -60.0, "{db} dB");
}

/// Compares without printing thousands of samples.
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let first = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(first.is_none(), "{what}: sample {first:?} differs");
}

fn difference_db(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let power = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| power(f64::from(a - b))).sum();
    10.0 * (difference / b.iter().map(|x| power(f64::from(*x))).sum::<f64>()).log10()
}

#[test]
fn a_chain_without_its_last_pages_is_refused() {
    let chain = bytes_of("containers/chained.ogg");
    let first = bytes_of("containers/one.ogg");
    let last_page = |bytes: &[u8]| bytes.windows(4).rposition(|w| w == b"OggS").unwrap();
    let message = refusal(&chain[..last_page(&chain)]);
    assert!(
        message.contains("stream number 2 has no last page"),
        "{message}"
    );
    let cut = [&first[..last_page(&first)], &chain[first.len()..]].concat();
    let message = refusal(&cut);
    assert!(message.contains("stream has no last page"), "{message}");
    // Bytes of a tag after the last page are not sound.
    let tagged = [&first[..], b"TAG", &[0; 125]].concat();
    assert_same(&decode(&tagged).unwrap(), &whole("one.ogg"), "tag");
    // A page with a flipped bit, and one that is missing.
    let mut flipped = first.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(refusal(&flipped).contains("checksum"));
    let pages: Vec<usize> = (0..first.len() - 4)
        .filter(|&at| &first[at..at + 4] == b"OggS")
        .collect();
    let long = bytes_of("containers/speech.opus");
    assert!(pages.len() > 2 && long.len() > 2000);
}

#[test]
fn parts_equal_the_whole() {
    for name in ["alaw.wav", "rf64.wav", "flac.oga", "three.ogg"] {
        let all = whole(name);
        for (start_s, end_s) in [(0.0, 0.3), (0.31, 0.47), (0.7, 0.700_125), (0.9, 1.0)] {
            let range =
                (start_s * 16_000.0_f64).round() as usize..(end_s * 16_000.0_f64).round() as usize;
            let found = part(name, start_s, end_s);
            assert_same(&found, &all[range], &format!("{name} {start_s}"));
        }
    }
    // Bands that AAC fills with noise get other noise in a part.
    for name in ["fragments.m4a", "quicktime.mov"] {
        let db = difference_db(&part(name, 0.31, 0.47), &whole(name)[4960..7520]);
        println!("{name}: {db:.1} dB");
        assert!(db < -20.0, "{name}: {db} dB");
    }
    // Opus has memory. Half a second before a part brings the decoder to the same state. The cut
    // changes the resampler's edges.
    for name in ["speech.opus", "opus.webm", "live.webm", "music.opus"] {
        let all = whole(name);
        let found = part(name, 0.75, 0.95);
        let db = difference_db(&found[400..2800], &all[12_400..14_800]);
        println!("{name}: {db:.1} dB");
        assert!(db < -40.0, "{name}: {db} dB");
    }
}

#[test]
fn lengths_in_wav_headers_do_not_hide_the_samples() {
    let plain = bytes_of("formats/s16.wav");
    let samples = decode(&plain).unwrap();
    let data = plain.windows(4).position(|w| w == b"data").unwrap();
    let size = plain.len() - data - 8;
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = plain.clone();
        edit(&mut bytes);
        bytes
    };
    let set = |at: usize, value: u32| {
        with(&|bytes| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()))
    };
    let insert =
        |chunk: &[u8]| with(&|bytes| drop(bytes.splice(data..data, chunk.iter().copied())));

    // ffmpeg 5.1, sox 14.4.2 and libsndfile 1.2.2 read all of these to the same samples, but for
    // the two that are marked.
    let same = [
        ("no length of the file", set(4, 0)),
        ("a wrong length of the file", set(4, 1000)),
        ("the largest length of the file", set(4, u32::MAX)),
        ("no length of the samples", set(data + 4, 0)),
        ("the largest length of the samples", set(data + 4, u32::MAX)),
        ("a chunk of odd length", insert(b"LIST\x05\0\0\0INFOx\0")),
        (
            "odd length without padding (libsndfile)",
            insert(b"LIST\x05\0\0\0INFOx"),
        ),
        (
            "a chunk that says too much (sox)",
            insert(b"LIST\xff\xff\0\0INFOxx"),
        ),
        (
            "a chunk that says too little",
            insert(b"LIST\x04\0\0\0INFOISFT\x04\0\0\0Lavf"),
        ),
        ("an unknown chunk", insert(b"junk\x04\0\0\0dataabcd")),
        (
            "a tag behind",
            with(&|bytes| bytes.extend([b"TAG".as_slice(), &[b' '; 125]].concat())),
        ),
        ("zeros behind", with(&|bytes| bytes.extend([0; 700]))),
        (
            "a chunk behind",
            with(&|bytes| bytes.extend(b"LIST\x06\0\0\0INFOxx")),
        ),
        (
            "a cut chunk behind",
            with(&|bytes| bytes.extend(b"LIST\xff\0\0\0INFOxx")),
        ),
    ];
    for (what, bytes) in &same {
        assert_same(
            &decode(bytes).unwrap_or_else(|e| panic!("{what}: {e}")),
            &samples,
            what,
        );
        let len = num_samples_bytes(Arc::from(&bytes[..]), "a", Span::WHOLE).unwrap();
        assert_eq!(len, samples.len(), "{what}");
    }

    let short = set(data + 4, size as u32 - 1000);
    assert!(refusal(&short).contains("1000 more follow that belong to no chunk"));
    let long = set(data + 4, size as u32 + 1000);
    assert!(refusal(&long).contains("truncated"));
    let twice = [&plain[..], &plain[data..]].concat();
    assert!(refusal(&twice).contains("more follow"));
    assert!(refusal(&plain[..data]).contains("without a `data` chunk"));
}

#[test]
fn flac_of_unknown_length_is_read() {
    let mut bytes = bytes_of("formats/s16_16k.flac");
    let samples = decode(&bytes).unwrap();
    // Number of samples (36 bits) and checksum of the description, as an encoder leaves them that
    // writes to a pipe.
    bytes[21] &= 0xf0;
    bytes[22..42].fill(0);
    assert_same(&decode(&bytes).unwrap(), &samples, "unknown length");
    let len = num_samples_bytes(Arc::from(&bytes[..]), "a", Span::WHOLE).unwrap();
    assert_eq!(len, samples.len());
}

#[test]
fn a_wrong_mp4_clock_changes_nothing() {
    for name in [
        "formats/mono_16k.m4a",
        "containers/quicktime.mov",
        "containers/fragments.m4a",
    ] {
        let bytes = bytes_of(name);
        let samples = decode(&bytes).unwrap();
        for length in [0, 1, 1 << 20, u32::MAX] {
            let mut wrong = bytes.clone();
            let at = bytes.windows(4).position(|w| w == b"mdhd").unwrap() + 4 + 16;
            wrong[at..at + 4].copy_from_slice(&length.to_be_bytes());
            assert_same(
                &decode(&wrong).unwrap(),
                &samples,
                &format!("{name}, {length} ticks"),
            );
        }
    }
}

#[test]
fn an_mp3_that_lost_its_last_frame_is_refused() {
    for name in ["formats/mono_16k.mp3", "formats/stereo_44k.mp3"] {
        let bytes = bytes_of(name);
        // Headers of a stream agree in their first two bytes.
        let last = (0..bytes.len() - 4)
            .rfind(|&at| bytes[at..at + 2] == bytes[..2] && bytes[at + 2] >> 4 < 15);
        let message = refusal(&bytes[..last.unwrap()]);
        assert!(message.contains("truncated"), "{name}: {message}");
        // A second recording appended to the file is read too.
        let twice = decode(&[&bytes[..], &bytes[..]].concat()).unwrap();
        assert!(twice.len() > 2 * decode(&bytes).unwrap().len(), "{name}");
    }
}

#[test]
fn a_recording_cut_anywhere_is_refused() {
    for name in [
        "speech.opus",
        "opus.webm",
        "vorbis.webm",
        "opus.mka",
        "chained.opus",
        "fragments.m4a",
        "quicktime.mov",
        "rf64.wav",
        "wave64.w64",
        "flac.oga",
    ] {
        let bytes = bytes_of(&format!("containers/{name}"));
        for part in [0.05, 0.2, 0.41, 0.63, 0.8, 0.97] {
            refusal(&bytes[..(bytes.len() as f64 * part) as usize]);
        }
    }
}

#[test]
fn errors_name_the_unsupported_format() {
    let ogg = |head: &[u8]| {
        let mut page = b"OggS\0\x02\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\x01".to_vec();
        page.push(head.len() as u8);
        page.extend(head);
        // The checksum of RFC 3533, bit by bit.
        let sum = page.iter().fold(0u32, |sum, &byte| {
            (0..8).fold(sum ^ u32::from(byte) << 24, |sum, _| {
                sum << 1 ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 }
            })
        });
        page[22..26].copy_from_slice(&sum.to_le_bytes());
        page
    };
    let cases: [(&[u8], &str, &str); 28] = [
        (
            b"<!DOCTYPE html><html><body>Sign in</body></html>",
            "an HTML page",
            "download",
        ),
        (b"  \n<html>not found</html>", "an HTML page", "download"),
        (
            b"<?xml version=\"1.0\"?><Error>AccessDenied</Error>",
            "XML",
            "download",
        ),
        (b"{\"error\": \"rate limited\"}", "JSON", "manifest"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
            "a Git LFS pointer",
            "git lfs pull",
        ),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "a gzip file", "unpack"),
        (b"PK\x03\x04\x14\0\0\0", "a ZIP file", "unpack"),
        (b"#!AMR\n\x3c\x48\x66", "an AMR recording", "ffmpeg"),
        (b"#!AMR-WB\n\x3c\x48", "an AMR-WB recording", "ffmpeg"),
        (b"FORM\0\0\0\x10AIFFCOMM", "an AIFF recording", "ffmpeg"),
        (b"NIST_1A\n   1024\n", "a NIST SPHERE recording", "sox"),
        (b"caff\0\x01\0\0", "Core Audio", "ffmpeg"),
        (
            b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
            "Windows Media",
            "ffmpeg",
        ),
        (b"wvpk\0\0\0\0", "WavPack", "ffmpeg"),
        (b"MThd\0\0\0\x06", "MIDI", "recording"),
        (b"\x93NUMPY\x01\0v\0", "a NumPy array", "soundfile"),
        (b"PAR1\x15\x04\x15\x10", "a Parquet file", "manifest"),
        (b"%PDF-1.7\n", "a PDF document", "recording"),
        (b"\xff\xfeh\0i\0", "text (UTF-16)", "recording"),
        (b"bismillah\n", "text", "recording"),
        (&[0; 900], "nothing but zeros", "recording"),
        (
            b"RIFF\x04\0\0\0AVI LIST",
            "a RIFF file that is no WAV",
            "ffmpeg",
        ),
        (&[0xff, 0xfd, 0x90, 0x04, 0, 0, 0, 0], "layer II", "ffmpeg"),
        (
            b"\xde\xad\xbe\xef\x01\x02\x03\x04",
            "begins with `\\xde\\xad\\xbe\\xef",
            "convert",
        ),
        (b"\xff\xf1\x50\x80\x2e\x7f\xfc\x21", "ADTS", "M4A"),
        (b"", "empty (0 bytes)", "again"),
        (b"MAC \x96\x0f\0\0", "Monkey", "ffmpeg"),
        (b"\0\0\x01\xba\x44\0", "MPEG video", "ffmpeg"),
    ];
    for (bytes, what, hint) in cases {
        let message = refusal(bytes);
        let (first, second) = message.split_once("\nhint: ").unwrap();
        assert!(first.contains(what) && second.contains(hint), "{message}");
    }
    assert!(refusal(&ogg(b"Speex   1.2.0")).contains("an Ogg file with Speex"));
    assert!(refusal(&ogg(b"\x80theora\x03\x02\x01")).contains("Theora video"));
    let many = ogg(b"Speex   ").repeat(65);
    assert!(refusal(&many).contains("65 streams side by side"));
}

#[test]
fn other_sound_in_known_containers_is_named() {
    // Four letters of a kind put in place of `mp4a`, and other types of MPEG-4 sound.
    let bytes = bytes_of("formats/mono_16k.m4a");
    let at = bytes.windows(4).position(|w| w == b"mp4a").unwrap();
    for (kind, what) in [
        (b"alac", "Apple Lossless"),
        (b"Opus", "with Opus"),
        (b"samr", "with AMR"),
        (b"ac-3", "Dolby"),
        (b"enca", "encrypted"),
        (b"\x01\x02\x03\x04", "`\\x01\\x02\\x03\\x04`"),
    ] {
        let mut other = bytes.clone();
        other[at..at + 4].copy_from_slice(kind);
        let message = refusal(&other);
        assert!(
            message.contains(what) && message.contains("ffmpeg"),
            "{message}"
        );
    }
    let mut video = bytes.clone();
    let handler = bytes.windows(4).position(|w| w == b"soun").unwrap();
    video[handler..handler + 4].copy_from_slice(b"vide");
    assert!(refusal(&video).contains("without sound, only video"));

    let plain = bytes_of("formats/s16.wav");
    for (tag, what) in [
        (2u16, "Microsoft ADPCM"),
        (0x11, "IMA ADPCM"),
        (0x31, "GSM"),
        (0x55, "MP3"),
    ] {
        let mut other = plain.clone();
        other[20..22].copy_from_slice(&tag.to_le_bytes());
        assert!(refusal(&other).contains(what));
    }

    let webm = bytes_of("containers/opus.webm");
    let codec = webm.windows(6).position(|w| w == b"A_OPUS").unwrap();
    let mut other = webm.clone();
    other[codec..codec + 6].copy_from_slice(b"A_AC3\0");
    assert!(refusal(&other).contains("`A_AC3`"));
    // Its segment has no length, so that all bytes to the end of the file belong to it.
    let live = bytes_of("containers/live.webm");
    let gap = [&live[..], &vec![0; 100_000], b"more"].concat();
    assert!(refusal(&gap).contains("no element at byte"));
    let mut surround = bytes_of("containers/music.opus");
    let head = surround.windows(8).position(|w| w == b"OpusHead").unwrap();
    surround[head + 9] = 6;
    surround[head + 18] = 1;
    let message = refusal(&surround);
    assert!(message.contains("checksum"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_device_is_refused_at_once() {
    let message = read(Path::new("/dev/zero"), Span::WHOLE).unwrap_err();
    assert!(
        message.message().contains("a pipe, socket or device"),
        "{message}"
    );
    assert_eq!(message.exit_code(), 2);
}
