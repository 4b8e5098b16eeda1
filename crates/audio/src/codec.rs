//! Decoders of packets: `symphonia` and `rusty-opus` behind one type.

use rusty_opus::OpusDecoder;
use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::AudioCodecId;
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::codecs::audio::well_known::CODEC_ID_AAC;
use symphonia::core::codecs::audio::well_known::CODEC_ID_FLAC;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_S16LE;
use symphonia::core::codecs::audio::well_known::CODEC_ID_VORBIS;
use symphonia::core::packet::PacketRef;
use symphonia::core::units::Duration;
use symphonia::core::units::Timestamp;

use crate::append_channel;
use crate::check_channel;
use crate::pcm16;
use crate::resample::RATES;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Sampling rate of Opus's output, in Hz.
pub(super) const OPUS_RATE: u32 = 48_000;

/// Samples per channel of the longest Opus packet: 120 ms.
const MOST_OPUS_SAMPLES: usize = 5760;

/// A decoder of one stream.
pub(super) struct Decoder {
    inner: Inner,
    /// Samples per second.
    pub(super) rate: u32,
    /// Number of channels.
    pub(super) channels: usize,
    /// Samples of the last decoded packet, interleaved.
    interleaved: Vec<f32>,
}

enum Inner {
    Symphonia(Box<dyn AudioDecoder>),
    /// Little-endian samples of 16 bits, which need no decoder.
    Pcm16,
    Opus {
        decoder: Box<OpusDecoder>,
        gain: f32,
    },
}

impl Decoder {
    /// A Vorbis decoder from the first and third packet of a stream.
    pub(super) fn vorbis(identification: &[u8], setup: &[u8]) -> Result<Self> {
        let mut parameters = AudioCodecParameters::new();
        parameters
            .for_codec(CODEC_ID_VORBIS)
            .with_extra_data([identification, setup].concat().into());
        Self::symphonia(&parameters, "Vorbis")
    }

    /// A FLAC decoder from the 34 bytes of a `STREAMINFO` block.
    pub(super) fn flac(stream_info: &[u8]) -> Result<Self> {
        let mut parameters = AudioCodecParameters::new();
        parameters
            .for_codec(CODEC_ID_FLAC)
            .with_extra_data(stream_info.into());
        Self::symphonia(&parameters, "FLAC")
    }

    /// An AAC decoder from an `AudioSpecificConfig`.
    pub(super) fn aac(config: &[u8]) -> Result<Self> {
        let mut parameters = AudioCodecParameters::new();
        parameters
            .for_codec(CODEC_ID_AAC)
            .with_extra_data(config.into());
        Self::symphonia(&parameters, "AAC")
    }

    /// A decoder of uncompressed samples.
    pub(super) fn pcm(codec: AudioCodecId, rate: u32, channels: u16) -> Result<Self> {
        let mut parameters = AudioCodecParameters::new();
        parameters
            .for_codec(codec)
            .with_sample_rate(rate)
            .with_channels(Channels::Discrete(channels));
        // symphonia checks what the header says.
        let mut decoder = Self::symphonia(&parameters, "PCM")?;
        if codec == CODEC_ID_PCM_S16LE {
            decoder.inner = Inner::Pcm16;
        }
        Ok(decoder)
    }

    /// An Opus decoder from an `OpusHead`, and the number of samples to drop at the beginning.
    ///
    /// Source: RFC 7845, section 5.1.
    pub(super) fn opus(head: &[u8]) -> Result<(Self, usize)> {
        let &[
            version,
            channels,
            skip_low,
            skip_high,
            _,
            _,
            _,
            _,
            gain_low,
            gain_high,
            family,
            ..,
        ] = head.strip_prefix(b"OpusHead").unwrap_or_default()
        else {
            return Err(damaged("Opus", "its header is too short"));
        };
        if version >= 16 {
            return Err(damaged(
                "Opus",
                &format!("its header has version {version}"),
            ));
        }
        if !matches!((family, channels), (0, 1 | 2) | (1 | 255, 1 | 2)) {
            let message = format!("Opus with {channels} channels (mapping family {family})");
            return Err(Error::input(message).hint(
                "mono and stereo are read; mix it down, for example with `ffmpeg -i OLD -ac 1 NEW.flac`",
            ));
        }
        let channels = usize::from(channels);
        let decoder = OpusDecoder::new(OPUS_RATE as i32, channels).map_err(Error::bug_from)?;
        let decibels = f32::from(i16::from_le_bytes([gain_low, gain_high])) / 256.0;
        Ok((
            Self {
                inner: Inner::Opus {
                    decoder: Box::new(decoder),
                    gain: 10f32.powf(decibels / 20.0),
                },
                rate: OPUS_RATE,
                channels,
                interleaved: Vec::new(),
            },
            usize::from(u16::from_le_bytes([skip_low, skip_high])),
        ))
    }

    fn symphonia(parameters: &AudioCodecParameters, name: &str) -> Result<Self> {
        // Only `gapless` has an effect here: it drops the output of Vorbis's first packet, which
        // overlaps with nothing.
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(parameters, &AudioDecoderOptions::default())
            .map_err(|e| damaged(name, &e.to_string()).caused_by(e))?;
        let found = decoder.codec_params();
        // The Vorbis decoder does not set the parameters of its header.
        let (rate, channels) = match parameters.extra_data.as_deref() {
            Some(
                [
                    1,
                    b'v',
                    b'o',
                    b'r',
                    b'b',
                    b'i',
                    b's',
                    _,
                    _,
                    _,
                    _,
                    channels,
                    a,
                    b,
                    c,
                    d,
                    ..,
                ],
            ) => (u32::from_le_bytes([*a, *b, *c, *d]), usize::from(*channels)),
            _ => (
                found.sample_rate.unwrap_or(0),
                found.channels.as_ref().map_or(0, Channels::count),
            ),
        };
        if !RATES.contains(&rate) {
            return Err(damaged(
                name,
                &format!("its header says {rate} samples a second"),
            ));
        }
        if channels == 0 {
            return Err(damaged(name, "its header says 0 channels"));
        }
        Ok(Self {
            inner: Inner::Symphonia(decoder),
            rate,
            channels,
            interleaved: Vec::new(),
        })
    }

    /// Appends a packet's samples, of one channel or of the average of all, and returns their
    /// number.
    ///
    /// # Errors
    /// An error of the decoder, or a channel that the packet does not have.
    pub(super) fn decode(
        &mut self,
        packet: &[u8],
        channel: Option<u16>,
        samples: &mut Vec<f32>,
    ) -> std::result::Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        let channels = match &mut self.inner {
            Inner::Symphonia(decoder) => {
                let packet = PacketRef::new(0, Timestamp::new(0), Duration::new(0), packet);
                let buffer = decoder.decode_ref(&packet)?;
                buffer.copy_to_vec_interleaved(&mut self.interleaved);
                buffer.num_planes()
            }
            Inner::Pcm16 if self.channels == 1 => {
                check_channel(channel, 1)?;
                pcm16::append_little_endian(packet, samples);
                return Ok(packet.len() / 2);
            }
            Inner::Pcm16 => {
                self.interleaved.clear();
                pcm16::append_little_endian(packet, &mut self.interleaved);
                self.channels
            }
            Inner::Opus { decoder, gain } => {
                if packet.is_empty() {
                    return Err("an empty packet".into());
                }
                self.interleaved
                    .resize(MOST_OPUS_SAMPLES * self.channels, 0.0);
                let num_samples =
                    decoder.decode(packet, MOST_OPUS_SAMPLES, &mut self.interleaved)?;
                self.interleaved.truncate(num_samples * self.channels);
                if *gain != 1.0 {
                    self.interleaved.iter_mut().for_each(|x| *x *= *gain);
                }
                self.channels
            }
        };
        Ok(append_channel(
            &self.interleaved,
            channels,
            channel,
            samples,
        )?)
    }

    /// Resets the decoder to its state before the first packet.
    pub(super) fn reset(&mut self) -> Result<()> {
        match &mut self.inner {
            Inner::Symphonia(decoder) => decoder.reset(),
            Inner::Pcm16 => {}
            Inner::Opus { decoder, .. } => {
                **decoder =
                    OpusDecoder::new(OPUS_RATE as i32, self.channels).map_err(Error::bug_from)?;
            }
        }
        Ok(())
    }
}

/// Number of samples per channel of an Opus packet; `None` if it is no valid packet.
///
/// Source: RFC 6716, section 3.1.
pub(super) fn opus_packet_samples(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let samples = match first >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..=15 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match first & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => usize::from(packet.get(1)? & 63),
    };
    Some(samples * frames).filter(|&total| (1..=MOST_OPUS_SAMPLES).contains(&total))
}

fn damaged(codec: &str, what: &str) -> Error {
    Error::input(format!("damaged {codec} audio: {what}"))
        .hint("copy or download it again, or convert it to FLAC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_16_bits_equal_symphonias() {
        let packet: Vec<u8> = (i16::MIN..=i16::MAX)
            .flat_map(|value| value.wrapping_mul(3).to_le_bytes())
            .collect();
        for channels in [1, 2] {
            let mut ours = Decoder::pcm(CODEC_ID_PCM_S16LE, 16_000, channels).unwrap();
            let mut parameters = AudioCodecParameters::new();
            parameters
                .for_codec(CODEC_ID_PCM_S16LE)
                .with_sample_rate(16_000)
                .with_channels(Channels::Discrete(channels));
            let mut symphonias = Decoder::symphonia(&parameters, "PCM").unwrap();
            for channel in [None, Some(0), Some(channels - 1), Some(channels)] {
                let mut found = vec![0.5];
                let mut expected = vec![0.5];
                let num_found = ours.decode(&packet, channel, &mut found).ok();
                let num_expected = symphonias.decode(&packet, channel, &mut expected).ok();
                assert_eq!(num_found, num_expected, "{channels} channels, {channel:?}");
                assert_eq!(found, expected, "{channels} channels, {channel:?}");
            }
        }
    }
}
