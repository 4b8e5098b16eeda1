//! Audio against external references: goldens of the official processor, files of every format
//! against libsndfile and soxr, spans, and damage.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use maqam::audio::HOP;
use maqam::audio::LogMelExtractor;
use maqam::audio::MELS;
use maqam::audio::Span;
use maqam::audio::duration_s;
use maqam::audio::duration_s_bytes;
use maqam::audio::num_audio_tokens;
use maqam::audio::num_frames;
use maqam::audio::num_samples;
use maqam::audio::read;
use maqam::audio::read_bytes;
use safetensors::SafeTensors;

/// Stride of the samples in `expected.safetensors` of the formats.
const STRIDE: usize = 8;
const WHOLE: Span = Span::WHOLE;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(path)
}

fn tensors(path: &str) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(fixture(path)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| {
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    file.tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.shape().to_vec(), values(view.data()))))
        .collect()
}

fn format(name: &str) -> PathBuf {
    fixture("audio/formats").join(name)
}

fn format_bytes(name: &str) -> Vec<u8> {
    std::fs::read(format(name)).unwrap()
}

fn span(start_s: f64, end_s: f64) -> Span {
    Span {
        start_s: Some(start_s),
        end_s: Some(end_s),
        ..WHOLE
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn decode(bytes: &[u8]) -> maqam::error::Result<Vec<f32>> {
    read_bytes(Arc::from(bytes), "a.clip", WHOLE)
}

/// The error for invalid bytes. It names the recording, its first line has no hint, and it is an
/// input error.
fn refusal(bytes: &[u8]) -> String {
    match decode(bytes) {
        Ok(samples) => panic!(
            "{} samples were read from a damaged recording",
            samples.len()
        ),
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.message().starts_with("a.clip: "), "{error}");
            assert!(!error.message().ends_with('.'), "{error}");
            error.to_string()
        }
    }
}

/// A WAV file with one `fmt ` and one `data` chunk.
fn wav(format_tag: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let block = channels * bits / 8;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([format_tag.to_le_bytes(), channels.to_le_bytes()].concat());
    bytes.extend(
        [rate, rate * u32::from(block)]
            .map(u32::to_le_bytes)
            .concat(),
    );
    bytes.extend([block.to_le_bytes(), bits.to_le_bytes()].concat());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn log_mel_equals_the_official_processor() {
    let extractor = LogMelExtractor::default();
    let goldens = [
        ("qwen_omni", "mel.0", "a1.wav"),
        ("qwen_omni", "mel.1", "a2.wav"),
        ("qwen_omni", "mel.2", "a3.wav"),
        ("qwen_omni_tied", "mel.0", "a3.wav"),
        ("qwen_omni_tied", "mel.1", "odd.wav"),
    ];
    for (folder, name, clip) in goldens {
        let expected = tensors(&format!("{folder}/expected.safetensors"));
        let (shape, golden) = &expected[name];
        let samples = read(&fixture("audio").join(clip), WHOLE).unwrap();
        let ours = extractor.extract(&samples);
        assert_eq!(shape, &[MELS, ours.frames], "{clip}");
        assert_eq!(ours.frames, num_frames(samples.len()));
        let mel_first: Vec<f32> = (0..MELS)
            .flat_map(|mel| (0..ours.frames).map(move |frame| (frame, mel)))
            .map(|(f, m)| ours.values[f * MELS + m])
            .collect();
        let worst = largest_difference(&mel_first, golden);
        println!("{folder} {name} {clip}: largest difference {worst:e}");
        assert!(worst < 1e-4, "{folder} {name}: {worst}");
        let (audio_shape, _) = &expected[&name.replace("mel", "audio")];
        assert_eq!(num_audio_tokens(ours.frames), audio_shape[0], "{clip}");
    }
}

#[test]
fn lossless_formats_equal_libsndfile_bit_for_bit() {
    let expected = tensors("audio/formats/expected.safetensors");
    for name in [
        "u8.wav",
        "s16.wav",
        "s24.wav",
        "s32.wav",
        "f32.wav",
        "f64.wav",
        "extensible.wav",
        "s24_16k.flac",
        "s16_16k.flac",
    ] {
        let samples = read(&format(name), WHOLE).unwrap();
        assert_eq!(
            samples.len(),
            expected[&format!("{name}.frames")].1[0] as usize,
            "{name}"
        );
        let kept: Vec<f32> = samples.iter().step_by(STRIDE).copied().collect();
        assert!(kept.iter().any(|&x| x != 0.0));
        assert_eq!(kept, expected[name].1, "{name}");
    }
}

#[test]
fn lossy_formats_match_libsndfile_or_ffmpeg() {
    let expected = tensors("audio/formats/expected.safetensors");
    for name in ["mono_16k.mp3", "mono_16k.ogg", "mono_16k.m4a"] {
        let samples = read(&format(name), WHOLE).unwrap();
        assert_eq!(
            samples.len(),
            expected[&format!("{name}.frames")].1[0] as usize,
            "{name}"
        );
        let kept: Vec<f32> = samples.iter().step_by(STRIDE).copied().collect();
        let worst = largest_difference(&kept, &expected[name].1);
        println!("{name}: largest difference {worst:e}");
        assert!(worst < 2e-5, "{name}: {worst}");
    }
}

#[test]
fn other_rates_and_channels_equal_soxr() {
    let expected = tensors("audio/formats/expected.safetensors");
    for (name, rate) in [
        ("s16_8k.wav", 8000.0),
        ("s16_44k_stereo.flac", 44_100.0),
        ("stereo_44k.mp3", 44_100.0),
        ("stereo_48k.ogg", 48_000.0),
        ("stereo_44k.m4a", 44_100.0),
    ] {
        let samples = read(&format(name), WHOLE).unwrap();
        let frames = f64::from(expected[&format!("{name}.frames")].1[0]);
        assert_eq!(
            samples.len(),
            (frames * 16_000.0 / rate).ceil() as usize,
            "{name}"
        );
        assert!(
            (duration_s(&format(name), WHOLE).unwrap() - frames / rate).abs() < 1e-9,
            "{name}"
        );
        let theirs = &expected[&format!("{name}@16k")].1;
        let ours: Vec<f32> = samples
            .iter()
            .step_by(STRIDE)
            .copied()
            .take(theirs.len())
            .collect();
        assert!(theirs.len() - ours.len() <= 1);
        let power = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let difference: Vec<f32> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
        let error_db = 10.0 * (power(&difference) / power(theirs)).log10();
        println!("{name}: {error_db:.1} dB below soxr");
        // The clips hold nothing near half the lower rate, where two good filters may differ.
        assert!(error_db < -80.0, "{name}: {error_db} dB");
    }
}

#[test]
fn a_span_is_exactly_that_part_of_the_whole() {
    for name in [
        "../a3.wav",
        "s16_16k.flac",
        "mono_16k.mp3",
        "mono_16k.ogg",
        "mono_16k.m4a",
    ] {
        let whole = read(&format(name), WHOLE).unwrap();
        for (start_s, end_s) in [
            (0.0, 0.3),
            (0.1, 0.2),
            (0.37, 1.11),
            (0.7, 0.700_125),
            (1.0, 1.87),
            (1.3, 1.5),
            (1.8, 1.85),
        ] {
            let part = read(&format(name), span(start_s, end_s)).unwrap();
            let range =
                (start_s * 16_000.0_f64).round() as usize..(end_s * 16_000.0_f64).round() as usize;
            assert_eq!(part.len(), range.len(), "{name} {start_s} to {end_s}");
            assert_eq!(part, whole[range], "{name} {start_s} to {end_s}");
            assert!(
                (duration_s(&format(name), span(start_s, end_s)).unwrap()
                    - part.len() as f64 / 16_000.0)
                    .abs()
                    < 1e-9
            );
        }
        let tail = read(
            &format(name),
            Span {
                start_s: Some(1.5),
                end_s: None,
                ..WHOLE
            },
        )
        .unwrap();
        assert_eq!(tail, whole[24_000..], "{name}");
        let head = read(
            &format(name),
            Span {
                start_s: None,
                end_s: Some(1.0),
                ..WHOLE
            },
        )
        .unwrap();
        assert_eq!(head, whole[..16_000], "{name}");
        assert!(
            (duration_s(&format(name), WHOLE).unwrap() - whole.len() as f64 / 16_000.0).abs()
                < 1e-9,
            "{name}"
        );
    }
}

#[test]
fn a_span_at_another_rate_has_the_right_length() {
    for name in [
        "s16_8k.wav",
        "s16_44k_stereo.flac",
        "stereo_44k.mp3",
        "stereo_48k.ogg",
    ] {
        let whole = read(&format(name), WHOLE).unwrap();
        let part = read(&format(name), span(0.6, 0.9)).unwrap();
        assert_eq!(part.len(), 4800, "{name}");
        // Away from the cuts, where the resampler has the same samples as in the whole clip.
        let worst = largest_difference(&part[1000..3800], &whole[9600 + 1000..9600 + 3800]);
        assert!(worst < 2e-3, "{name}: {worst}");
    }
}

#[test]
fn bad_spans_are_refused_with_the_length() {
    let path = format("mono_16k.mp3");
    let message = |span| read(&path, span).unwrap_err().to_string();
    let late = message(span(0.5, 2.5));
    assert!(
        late.starts_with(&format!(
            "{}: `end_s` (2.5) is after the end of the recording, which is 1.871 s long",
            path.display()
        )),
        "{late}"
    );
    assert!(late.contains("\nhint: "), "{late}");
    assert!(message(span(1.0, 1.0)).contains("`end_s` (1) is not after `start_s` (1)"));
    assert!(message(span(1.5, 1.0)).contains("is not after"));
    assert!(
        message(Span {
            start_s: Some(3.0),
            end_s: None,
            ..WHOLE
        })
        .contains("`start_s` (3) is not before the end of the recording, which is 1.871 s long")
    );
    assert!(message(span(-1.0, 1.0)).contains("`start_s` is -1"));
    assert!(message(span(0.0, f64::NAN)).contains("`end_s` is NaN"));
    // A manifest's rounding is not a mistake.
    assert_eq!(
        read(&path, span(0.0, 1.9)).unwrap(),
        read(&path, WHOLE).unwrap()
    );
    assert!(duration_s(&path, span(0.5, 2.5)).is_err());
}

#[test]
fn a_recording_that_ends_early_is_refused() {
    for name in [
        "s16.wav",
        "s16_16k.flac",
        "mono_16k.mp3",
        "stereo_44k.mp3",
        "mono_16k.ogg",
        "stereo_48k.ogg",
        "mono_16k.m4a",
    ] {
        let bytes = format_bytes(name);
        for part in [0.3, 0.5, 0.8, 0.97] {
            let cut = &bytes[..(bytes.len() as f64 * part) as usize];
            let message = refusal(cut);
            assert!(
                message.contains("truncated") || message.contains("damaged"),
                "{name}, {part} of it: {message}"
            );
        }
        for len in [0, 1, 3, 4, 12, 30] {
            refusal(&bytes[..len]);
        }
    }
    assert!(refusal(b"").contains("empty (0 bytes)"));
    assert!(refusal(b"<html>not found</html>").contains("begins with `<html>no`"));
}

#[test]
fn damage_in_the_middle_is_refused() {
    for name in [
        "s16_16k.flac",
        "mono_16k.mp3",
        "stereo_44k.mp3",
        "mono_16k.ogg",
        "stereo_48k.ogg",
    ] {
        let bytes = format_bytes(name);
        for part in [0.4, 0.6, 0.8] {
            let mut damaged = bytes.clone();
            let start = (bytes.len() as f64 * part) as usize;
            let end = (start + 900).min(bytes.len() - 10);
            damaged[start..end].fill(0x55);
            refusal(&damaged);
            let mut shortened = bytes.clone();
            shortened.drain(start..end);
            refusal(&shortened);
        }
    }
}

#[test]
fn aac_that_would_lose_half_its_band_is_refused() {
    let bytes = format_bytes("mono_16k.m4a");
    // AudioSpecificConfig: object type 2 (LC), index 8 (16 kHz), one channel.
    let at = bytes
        .windows(4)
        .position(|window| window == [0x05, 0x80, 0x80, 0x80])
        .unwrap()
        + 5;
    assert_eq!(bytes[at..at + 2], [0x14, 0x08]);
    let mut he_aac = bytes.clone();
    he_aac[at] = 5 << 3 | 0x14 & 7;
    let message = refusal(&he_aac);
    assert!(
        message.contains("HE-AAC") && message.contains("convert the file to FLAC"),
        "{message}"
    );
    // An ADTS header: sync word, MPEG-4, no checksum; LC, 16 kHz, one channel.
    let message = refusal(&[
        0xff, 0xf1, 0x60, 0x40, 0x20, 0x1f, 0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    assert!(message.contains("ADTS"), "{message}");
}

#[test]
fn tags_around_the_sound_are_not_damage() {
    let mut id3v1 = b"TAG".to_vec();
    id3v1.resize(128, b' ');
    let mut id3v2 = b"ID3\x03\x00\x00\x00\x00\x02\x00".to_vec();
    // A picture inside the tag may hold what looks like a frame.
    id3v2.extend([0xff, 0xfb, 0x90, 0x64].repeat(64));
    let mut ape = b"APETAGEX\xd0\x07\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
    ape.resize(52, b'x');
    ape.extend(b"APETAGEX\xd0\x07\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00");
    ape.drain(..52);
    for name in ["s16_16k.flac", "mono_16k.mp3", "stereo_44k.mp3"] {
        let bytes = format_bytes(name);
        let plain = decode(&bytes).unwrap();
        assert_eq!(
            decode(&[&id3v2[..], &bytes, &id3v1].concat()).unwrap(),
            plain,
            "{name}"
        );
        if name.ends_with("mp3") {
            assert_eq!(
                decode(&[&bytes[..], &ape, &id3v1].concat()).unwrap(),
                plain,
                "{name}"
            );
            assert_eq!(
                decode(&[&bytes[..], &[0; 417]].concat()).unwrap(),
                plain,
                "{name}"
            );
        }
    }
}

#[test]
fn an_mp3_without_an_info_frame_keeps_every_frame() {
    let bytes = format_bytes("mono_16k.mp3");
    let info = bytes
        .windows(4)
        .position(|w| matches!(w, b"Info" | b"Xing"))
        .unwrap();
    assert!(info < 100);
    // The frame after the one that holds the tag: the next header equal to the first in its first
    // two bytes.
    let next = (info..bytes.len())
        .find(|&at| bytes[at..at + 2] == bytes[..2])
        .unwrap();
    let bare = &bytes[next..];
    let samples = decode(bare).unwrap();
    let whole = decode(&bytes).unwrap();
    assert_eq!(samples.len() % 576, 0);
    assert!(samples.len() >= whole.len() + 529);
    // The same sound, later by the delay that the tag no longer states.
    let delay = (0..2000)
        .find(|&d| largest_difference(&samples[d + 4000..d + 6000], &whole[4000..6000]) == 0.0);
    assert!(delay.is_some_and(|d| d >= 529), "{delay:?}");
}

#[test]
fn a_wav_from_a_pipe_is_read_to_its_end() {
    let bytes = format_bytes("s16_8k.wav");
    let plain = decode(&bytes).unwrap();
    let data = bytes.windows(4).position(|w| w == b"data").unwrap();
    for size in [u32::MAX, 0x7fff_f024] {
        let mut piped = bytes.clone();
        piped[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        piped[data + 4..data + 8].copy_from_slice(&size.to_le_bytes());
        assert_eq!(decode(&piped).unwrap(), plain);
        assert!(
            (duration_s_bytes(piped.into(), "a.clip", WHOLE).unwrap()
                - plain.len() as f64 / 16_000.0)
                .abs()
                < 1e-3
        );
    }
}

#[test]
fn files_without_sound_are_refused() {
    assert!(refusal(&wav(1, 1, 16_000, 16, &[])).contains("has no samples"));
    refusal(&wav(1, 0, 16_000, 16, &[0; 64]));
    refusal(&wav(1, 1, 0, 16, &[0; 64]));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let data: Vec<u8> = [0.5f32, 0.25, bad, 0.5]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let message = refusal(&wav(3, 1, 16_000, 32, &data));
        assert!(message.contains("not finite"), "{message}");
    }
    let missing = read(Path::new("/nowhere/a.wav"), WHOLE).unwrap_err();
    assert!(
        missing.message().starts_with("/nowhere/a.wav: cannot read"),
        "{missing}"
    );
    assert_eq!(missing.exit_code(), 2);
    assert!(
        read(&fixture("audio"), WHOLE)
            .unwrap_err()
            .message()
            .contains("a folder")
    );
}

#[test]
fn channels_are_averaged() {
    let data: Vec<u8> = [1000i16, 3000, -2000, 0, 32_767, 32_767]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert_eq!(
        decode(&wav(1, 2, 16_000, 16, &data)).unwrap(),
        [2000.0 / 32_768.0, -1000.0 / 32_768.0, 32_767.0 / 32_768.0]
    );
    assert_eq!(decode(&wav(1, 3, 16_000, 16, &data)).unwrap().len(), 2);
}

#[test]
fn frames_of_a_clip_are_a_hop_apart() {
    let extractor = LogMelExtractor::default();
    let samples = read(&fixture("audio/a1.wav"), WHOLE).unwrap();
    let whole = extractor.extract(&samples);
    let later = extractor.extract(&samples[10 * HOP..]);
    // Frames whose windows are inside both clips have the same samples, and both clips have the
    // loudest cell.
    let shift = 10 * MELS;
    assert_eq!(
        largest_difference(
            &later.values[2 * MELS..100 * MELS],
            &whole.values[shift + 2 * MELS..shift + 100 * MELS]
        ),
        0.0
    );
}

#[test]
fn one_channel_is_read_and_the_others_left_out() {
    let spans = fixture("manifest/spans");
    let channel = |channel| Span {
        channel: Some(channel),
        ..WHOLE
    };
    // `b.wav` is the right channel of `two.wav`, written out by another program.
    let right = read(&spans.join("two.wav"), channel(1)).unwrap();
    assert_eq!(right, read(&spans.join("b.wav"), WHOLE).unwrap());
    let left = read(&spans.join("two.wav"), channel(0)).unwrap();
    let both = read(&spans.join("two.wav"), WHOLE).unwrap();
    for ((left, right), both) in left.iter().zip(&right).zip(&both) {
        assert!(((left + right) / 2.0 - both).abs() < 1e-6);
    }
    assert_eq!(
        read(&spans.join("mono.wav"), channel(0)).unwrap(),
        read(&spans.join("mono.wav"), WHOLE).unwrap()
    );
    let missing = |name: &str, wanted: u16| {
        let decoded = read(&spans.join(name), channel(wanted)).unwrap_err();
        let counted = num_samples(&spans.join(name), channel(wanted)).unwrap_err();
        assert_eq!(decoded.message(), counted.message());
        counted.to_string()
    };
    let error = missing("two.wav", 2);
    assert!(
        error.ends_with("`channel` is 2, but the recording has 2 channels\nhint: channels count from 0: write 0 to 1, or leave `channel` out to average all"),
        "{error}"
    );
    let error = missing("mono.wav", 1);
    assert!(
        error.contains("but the recording has one channel"),
        "{error}"
    );
}

#[test]
fn samples_are_counted_as_they_are_read() {
    for entry in std::fs::read_dir(fixture("audio/formats")).unwrap() {
        let path = entry.unwrap().path();
        for part in [WHOLE, span(0.1, 0.3003)] {
            if let Ok(samples) = read(&path, part) {
                let counted = num_samples(&path, part).unwrap();
                assert_eq!(counted, samples.len(), "{} {part:?}", path.display());
            }
        }
    }
}
