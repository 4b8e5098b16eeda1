//! Writer of FLAC files of 16-bit mono speech at 16 kHz. It encodes pieces once and joins them
//! without encoding again.
//!
//! A [`Piece`] holds the encoded blocks of one stretch of samples. [`file()`] joins pieces: it
//! writes frame headers and checksums, and copies the rest. So joining the sentences of a document
//! costs only a copy. Prediction uses FLAC's fixed polynomials, and residuals are Rice codes.
//! Source: RFC 9639.

use maqam_base::error::Error;
use maqam_base::error::Result;

use crate::SAMPLE_RATE;
use crate::vectors::on_256_bits;

/// Samples of a full block; the streamable subset allows up to 4608.
const BLOCK: usize = 4096;
/// Fewest samples of a block (RFC 9639, section 8.2).
const SHORTEST_BLOCK: usize = 16;
/// Highest order of the fixed predictors.
const MAX_ORDER: usize = 4;
/// Logarithm of the number of Rice partitions of a block that divides by it.
const PARTITION_ORDER: u32 = 4;
/// Largest Rice parameter in 4 bits; the next value is an escape.
const MAX_RICE: u32 = 14;
/// Longest Rice code that is written at once, in bits; seven more bits may wait before it.
const LONGEST_CODE: u32 = 56;
/// Zeros that are written at once before a longer code.
const ZEROS: u32 = 32;
/// First bytes of a piece in a file.
const MAGIC: [u8; 4] = *b"MQP1";

/// Encoded blocks of one stretch of samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Samples and bytes of each block.
    blocks: Vec<(u16, u32)>,
    /// The blocks' subframes, each padded to whole bytes.
    bytes: Vec<u8>,
}

impl Piece {
    /// Encodes samples. Fewer than 16 are padded with zeros to 16, because FLAC has no shorter
    /// blocks.
    pub fn encode(samples: &[i16]) -> Self {
        on_256_bits(Encoding(samples))
    }

    #[inline(always)]
    fn of_samples(samples: &[i16]) -> Self {
        let mut piece = Self {
            blocks: Vec::new(),
            // No block is larger than its samples and a byte.
            bytes: Vec::with_capacity(2 * samples.len() + samples.len() / BLOCK + 34),
        };
        let mut scratch = Scratch::default();
        let mut rest = samples;
        let padded: Vec<i16>;
        if !rest.is_empty() && rest.len() < SHORTEST_BLOCK {
            let zeros = std::iter::repeat(0);
            padded = rest
                .iter()
                .copied()
                .chain(zeros)
                .take(SHORTEST_BLOCK)
                .collect();
            rest = &padded;
        }
        for len in block_lens(rest.len()) {
            let (block, after) = rest.split_at(len);
            piece.add(block, &mut scratch);
            rest = after;
        }
        piece
    }

    /// Encodes digital silence: none, or at least 16 samples.
    pub fn silence(num_samples: usize) -> Self {
        let mut piece = Self::default();
        let num_samples = match num_samples {
            0 => 0,
            some => some.max(SHORTEST_BLOCK),
        };
        for len in block_lens(num_samples) {
            // A constant subframe: its header, then the one value.
            piece.push(len, &[0, 0, 0]);
        }
        piece
    }

    /// Number of samples.
    pub fn num_samples(&self) -> usize {
        self.blocks.iter().map(|(len, _)| usize::from(*len)).sum()
    }

    /// The piece as bytes that [`Piece::from_bytes`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + 6 * self.blocks.len() + self.bytes.len());
        bytes.extend(MAGIC);
        bytes.extend((self.blocks.len() as u32).to_le_bytes());
        for (len, size) in &self.blocks {
            bytes.extend(len.to_le_bytes());
            bytes.extend(size.to_le_bytes());
        }
        bytes.extend(&self.bytes);
        bytes
    }

    /// Reads a piece.
    ///
    /// # Errors
    /// Bytes that are no piece.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let broken = || {
            Error::input("a stretch of cached audio is damaged")
                .hint("remove the cache's folder; what it held is made again")
        };
        let rest = bytes.strip_prefix(&MAGIC).ok_or_else(broken)?;
        let (count, mut rest) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        let count = u32::from_le_bytes(*count) as usize;
        if rest.len() < 6 * count {
            return Err(broken());
        }
        let mut blocks = Vec::with_capacity(count);
        for _ in 0..count {
            let (len, after) = rest.split_first_chunk::<2>().ok_or_else(broken)?;
            let (size, after) = after.split_first_chunk::<4>().ok_or_else(broken)?;
            blocks.push((u16::from_le_bytes(*len), u32::from_le_bytes(*size)));
            rest = after;
        }
        let total: u64 = blocks.iter().map(|(_, size)| u64::from(*size)).sum();
        if total != rest.len() as u64 {
            return Err(broken());
        }
        Ok(Self {
            blocks,
            bytes: rest.to_vec(),
        })
    }

    fn push(&mut self, num_samples: usize, subframe: &[u8]) {
        self.blocks
            .push((num_samples as u16, subframe.len() as u32));
        self.bytes.extend(subframe);
    }

    /// Encodes one block.
    #[inline(always)]
    fn add(&mut self, block: &[i16], scratch: &mut Scratch) {
        if block.iter().all(|sample| *sample == block[0]) {
            let [high, low] = block[0].to_be_bytes();
            self.push(block.len(), &[0, high, low]);
            return;
        }
        let order = smallest_order(block);
        match order {
            0 => fill_residuals::<0>(block, &mut scratch.residuals),
            1 => fill_residuals::<1>(block, &mut scratch.residuals),
            2 => fill_residuals::<2>(block, &mut scratch.residuals),
            3 => fill_residuals::<3>(block, &mut scratch.residuals),
            _ => fill_residuals::<4>(block, &mut scratch.residuals),
        }
        let bits = &mut scratch.bits;
        bits.clear();
        bits.put((0b001_000 | order as u32) << 1, 8);
        for sample in &block[..order] {
            bits.put(u32::from(*sample as u16), 16);
        }
        encode_residuals(&scratch.residuals, block.len(), order, bits);
        bits.align();
        // A block that prediction would lengthen is stored verbatim.
        if bits.bytes.len() > 1 + 2 * block.len() {
            bits.clear();
            bits.put(0b000_001 << 1, 8);
            block
                .iter()
                .for_each(|sample| bits.put(u32::from(*sample as u16), 16));
            bits.align();
        }
        self.blocks
            .push((block.len() as u16, scratch.bits.bytes.len() as u32));
        self.bytes.extend(&scratch.bits.bytes);
    }
}

/// The work of [`Piece::encode`], compiled for the processor's vectors.
struct Encoding<'a>(&'a [i16]);

impl pulp::WithSimd for Encoding<'_> {
    type Output = Piece;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Piece {
        Piece::of_samples(self.0)
    }
}

/// A FLAC file of the pieces, one after the other.
pub fn file<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> Vec<u8> {
    let pieces: Vec<&Piece> = pieces.into_iter().collect();
    let lens: Vec<u16> = pieces
        .iter()
        .flat_map(|piece| piece.blocks.iter().map(|(len, _)| *len))
        .collect();
    let size: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
    let mut out = Vec::with_capacity(42 + size + 16 * lens.len());
    let blocking = Blocking::of(&lens);
    stream_info(
        &mut out,
        &blocking,
        lens.iter().map(|len| u64::from(*len)).sum(),
    );

    let mut at = 0;
    let mut number = 0;
    for piece in pieces {
        let mut rest = piece.bytes.as_slice();
        for (len, size) in &piece.blocks {
            let (subframe, after) = rest.split_at(*size as usize);
            let place = if blocking.is_fixed { number } else { at };
            frame(&mut out, blocking.is_fixed, place, *len, subframe);
            (at, number) = (at + u64::from(*len), number + 1);
            rest = after;
        }
    }
    out
}

/// Lengths of a file's blocks. If all are equal, readers count frames, and refuse frames of other
/// lengths.
struct Blocking {
    is_fixed: bool,
    shortest: u16,
    longest: u16,
}

impl Blocking {
    fn of(lens: &[u16]) -> Self {
        let first = lens.first().copied().unwrap_or(BLOCK as u16);
        let (last, before) = lens.split_last().unwrap_or((&first, &[]));
        let is_fixed = before.iter().all(|len| *len == first) && *last <= first;
        let bound = |of: Option<&u16>| match is_fixed {
            true => first,
            false => of.copied().unwrap_or(first),
        };
        Self {
            is_fixed,
            shortest: bound(lens.iter().min()),
            longest: bound(lens.iter().max()),
        }
    }
}

/// Lengths of the blocks of so many samples: none has fewer than 16.
fn block_lens(num_samples: usize) -> Vec<usize> {
    if num_samples == 0 {
        return Vec::new();
    }
    if num_samples <= BLOCK {
        return vec![num_samples];
    }
    let mut lens = vec![BLOCK; num_samples / BLOCK];
    match num_samples % BLOCK {
        0 => {}
        rest if rest >= SHORTEST_BLOCK => lens.push(rest),
        rest => {
            if let Some(last) = lens.last_mut() {
                *last -= SHORTEST_BLOCK;
            }
            lens.push(rest + SHORTEST_BLOCK);
        }
    }
    lens
}

fn stream_info(out: &mut Vec<u8>, blocking: &Blocking, num_samples: u64) {
    out.extend(b"fLaC");
    // The only metadata block, of 34 bytes.
    out.extend([0x80, 0, 0, 34]);
    out.extend(blocking.shortest.to_be_bytes());
    out.extend(blocking.longest.to_be_bytes());
    // The sizes of frames are unknown.
    out.extend([0; 6]);
    // 20 bits rate, 3 bits channels - 1, 5 bits bits per sample - 1, 36 bits samples.
    let packed = u64::from(SAMPLE_RATE) << 44 | 15 << 36 | (num_samples & ((1 << 36) - 1));
    out.extend(packed.to_be_bytes());
    // Zeros mean that the MD5 sum was not computed.
    out.extend([0; 16]);
}

/// One frame; `place` is its number if all blocks are equal, else its first sample.
fn frame(out: &mut Vec<u8>, is_fixed: bool, place: u64, len: u16, subframe: &[u8]) {
    let start = out.len();
    // Sync code, and whether blocks have various lengths.
    out.extend([0xff, 0xf8 | u8::from(!is_fixed)]);
    let block_code: u8 = if usize::from(len) == BLOCK {
        0b1100
    } else {
        0b0111
    };
    // 16 kHz; one channel of 16 bits.
    out.extend([block_code << 4 | 0b0101, 0b0000_1000]);
    coded_number(out, place);
    if block_code == 0b0111 {
        out.extend((len - 1).to_be_bytes());
    }
    let crc = crc8(&out[start..]);
    out.push(crc);
    out.extend(subframe);
    let crc = crc16(&out[start..]);
    out.extend(crc.to_be_bytes());
}

/// A number of up to 36 bits as UTF-8 would code it, extended (RFC 9639, section 9.1.5).
fn coded_number(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
        return;
    }
    let more = match value {
        _ if value < 1 << 11 => 1,
        _ if value < 1 << 16 => 2,
        _ if value < 1 << 21 => 3,
        _ if value < 1 << 26 => 4,
        _ if value < 1 << 31 => 5,
        _ => 6,
    };
    let marks = !(0xffu16 >> (more + 1)) as u8;
    let first = if more == 6 {
        0xfe
    } else {
        marks | (value >> (6 * more)) as u8
    };
    out.push(first);
    for i in (0..more).rev() {
        out.push(0x80 | (value >> (6 * i) & 0x3f) as u8);
    }
}

const fn crc8_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x80 != 0 {
                crc << 1 ^ 0x07
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

/// Tables of checksums over eight bytes at once.
const fn crc16_tables() -> [[u16; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 {
                crc << 1 ^ 0x8005
            } else {
                crc << 1
            };
            bit += 1;
        }
        tables[0][i] = crc;
        i += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut i = 0;
        while i < 256 {
            let before = tables[k - 1][i];
            tables[k][i] = before << 8 ^ tables[0][(before >> 8) as usize];
            i += 1;
        }
        k += 1;
    }
    tables
}

static CRC8: [u8; 256] = crc8_table();
static CRC16: [[u16; 256]; 8] = crc16_tables();

fn crc8(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |crc, byte| CRC8[usize::from(crc ^ byte)])
}

fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0u16;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let first = chunk[0] ^ (crc >> 8) as u8;
        let second = chunk[1] ^ crc as u8;
        crc = CRC16[7][usize::from(first)] ^ CRC16[6][usize::from(second)];
        for (i, byte) in chunk[2..].iter().enumerate() {
            crc ^= CRC16[5 - i][usize::from(*byte)];
        }
    }
    chunks.remainder().iter().fold(crc, |crc, byte| {
        crc << 8 ^ CRC16[0][usize::from((crc >> 8) as u8 ^ byte)]
    })
}

/// Buffers for encoding a piece's blocks.
#[derive(Default)]
struct Scratch {
    /// Residuals of the chosen order, folded.
    residuals: Vec<u32>,
    bits: Bits,
}

/// The order of the fixed predictor whose residuals are smallest over the samples for which every
/// order has one; the lowest of equals.
#[inline(always)]
fn smallest_order(block: &[i16]) -> usize {
    let mut sizes = [0u64; MAX_ORDER + 1];
    // Residuals have 20 bits at most, so that 4096 of them fit into 32.
    for start in (0..block.len().saturating_sub(MAX_ORDER)).step_by(BLOCK) {
        let end = (start + BLOCK + MAX_ORDER).min(block.len());
        let sums = residual_sizes(&block[start..end]);
        for (size, sum) in sizes.iter_mut().zip(sums) {
            *size += u64::from(sum);
        }
    }
    (0..=MAX_ORDER)
        .min_by_key(|order| sizes[*order])
        .unwrap_or(0)
}

/// Sum of the residuals' sizes for each order, without the first four samples.
#[inline(always)]
fn residual_sizes(block: &[i16]) -> [u32; MAX_ORDER + 1] {
    let len = block.len() - MAX_ORDER;
    // Separate names, because the compiler uses no vectors for an array of sums.
    let mut sum0 = 0;
    let mut sum1 = 0;
    let mut sum2 = 0;
    let mut sum3 = 0;
    let mut sum4 = 0;
    let shifted: [&[i16]; MAX_ORDER + 1] = std::array::from_fn(|i| &block[i..i + len]);
    for i in 0..len {
        let [a, b, c, d, e] = shifted.map(|samples| i32::from(samples[i]));
        let first = [b - a, c - b, d - c, e - d];
        let second = [
            first[1] - first[0],
            first[2] - first[1],
            first[3] - first[2],
        ];
        let third = [second[1] - second[0], second[2] - second[1]];
        sum0 += e.unsigned_abs();
        sum1 += first[3].unsigned_abs();
        sum2 += second[2].unsigned_abs();
        sum3 += third[1].unsigned_abs();
        sum4 += (third[1] - third[0]).unsigned_abs();
    }
    [sum0, sum1, sum2, sum3, sum4]
}

/// Fills in the residuals of a fixed predictor, folded: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4.
///
/// # Shapes
/// `[n]` -> `[n - ORDER]`
#[inline(always)]
fn fill_residuals<const ORDER: usize>(block: &[i16], residuals: &mut Vec<u32>) {
    /// Weights of a sample and those before it, the earliest first.
    const WEIGHTS: [&[i32]; MAX_ORDER + 1] = [
        &[1],
        &[-1, 1],
        &[1, -2, 1],
        &[-1, 3, -3, 1],
        &[1, -4, 6, -4, 1],
    ];

    let len = block.len() - ORDER;
    residuals.clear();
    residuals.resize(len, 0);
    let shifted: [&[i16]; MAX_ORDER + 1] = std::array::from_fn(|i| {
        let i = i.min(ORDER);
        &block[i..i + len]
    });
    for (i, residual) in residuals.iter_mut().enumerate() {
        let mut value = 0;
        for (weight, samples) in WEIGHTS[ORDER].iter().zip(shifted) {
            value += weight * i32::from(samples[i]);
        }
        *residual = (value << 1 ^ value >> 31) as u32;
    }
}

/// Rice codes of folded residuals in partitions (RFC 9639, section 9.2.7).
#[inline(always)]
fn encode_residuals(residuals: &[u32], block_len: usize, order: usize, bits: &mut Bits) {
    let divides = block_len.is_multiple_of(1 << PARTITION_ORDER)
        && block_len >> PARTITION_ORDER > order.max(SHORTEST_BLOCK);
    let partition_order = if divides { PARTITION_ORDER } else { 0 };
    // Method 0: parameters of 4 bits.
    bits.put(partition_order, 6);
    let partition = block_len >> partition_order;
    let mut rest = residuals;
    for i in 0..1 << partition_order {
        let len = if i == 0 { partition - order } else { partition };
        let (part, after) = rest.split_at(len);
        encode_partition(part, bits);
        rest = after;
    }
}

#[inline(always)]
fn encode_partition(part: &[u32], bits: &mut Bits) {
    let sum: u64 = part.iter().map(|value| u64::from(*value)).sum();
    let mean = sum / part.len().max(1) as u64;
    // A mean of m is coded best with about log2(m ln 2) low bits.
    let rice = (mean * 11 / 16 + 1).ilog2().min(MAX_RICE);
    bits.put(rice, 4);
    bits.put_rice(part, rice);
}

/// Writes the first `num` bits of `first` as eight bytes at `at`, and keeps those that fill no byte.
#[inline(always)]
fn write_whole_bytes(out: &mut [u8], at: &mut usize, first: &mut u64, num: &mut u32) {
    out[*at..*at + 8].copy_from_slice(&first.to_be_bytes());
    *at += (*num >> 3) as usize;
    *first <<= *num & !7;
    *num &= 7;
}

/// Bits, the most significant first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    waiting: u64,
    num_waiting: u32,
}

impl Bits {
    fn clear(&mut self) {
        self.bytes.clear();
        (self.waiting, self.num_waiting) = (0, 0);
    }

    /// Adds the low `count` bits of a value, 32 at most.
    #[inline]
    fn put(&mut self, value: u32, count: u32) {
        self.waiting = self.waiting << count | u64::from(value);
        self.num_waiting += count;
        if self.num_waiting >= 32 {
            self.num_waiting -= 32;
            let word = (self.waiting >> self.num_waiting) as u32;
            self.bytes.extend(word.to_be_bytes());
        }
    }

    /// Adds the Rice codes of values: zeros as many as the high bits say, a one, and `rice` low
    /// bits.
    ///
    /// Every code is written at once, as the first bits of eight bytes, without a branch that
    /// depends on its length.
    #[inline(always)]
    fn put_rice(&mut self, values: &[u32], rice: u32) {
        let high_bits: u64 = values.iter().map(|value| u64::from(value >> rice)).sum();
        let code_bits = high_bits as usize + values.len() * (1 + rice as usize);
        let start = self.bytes.len();
        // The waiting bits, the codes, and the rest of the last eight bytes.
        self.bytes
            .resize(start + (self.num_waiting as usize + code_bits) / 8 + 9, 0);
        let out = &mut self.bytes[start..];
        let mut at = 0;
        // The bits that are not yet whole bytes are the first of `first`.
        let mut num = self.num_waiting;
        let mut first = match num {
            0 => 0,
            num => self.waiting << (64 - num),
        };
        write_whole_bytes(out, &mut at, &mut first, &mut num);
        for value in values {
            let mut zeros = value >> rice;
            while zeros + 1 + rice > LONGEST_CODE {
                num += ZEROS;
                zeros -= ZEROS;
                write_whole_bytes(out, &mut at, &mut first, &mut num);
            }
            num += zeros + 1 + rice;
            let code = 1 << rice | value & ((1 << rice) - 1);
            first |= u64::from(code) << (64 - num);
            write_whole_bytes(out, &mut at, &mut first, &mut num);
        }
        let len = start + at;
        self.bytes.truncate(len);
        self.num_waiting = num;
        self.waiting = match num {
            0 => 0,
            num => first >> (64 - num),
        };
    }

    /// Fills the last byte with zeros.
    fn align(&mut self) {
        let padding = self.num_waiting.wrapping_neg() % 8;
        self.put(0, padding);
        while self.num_waiting > 0 {
            self.num_waiting -= 8;
            self.bytes.push((self.waiting >> self.num_waiting) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Span;

    /// The samples that symphonia decodes.
    fn decoded(file: Vec<u8>) -> Vec<i16> {
        crate::read_bytes(file.into(), "f.flac", Span::WHOLE)
            .unwrap()
            .iter()
            .map(|sample| (sample * 32768.0).round() as i16)
            .collect()
    }

    fn noise(len: usize, size: f64) -> Vec<i16> {
        let key = maqam_base::seed::Key::new(5, "noise");
        (0..len as u64)
            .map(|i| ((2.0 * key.uniform(i) - 1.0) * size) as i16)
            .collect()
    }

    fn tone(len: usize) -> Vec<i16> {
        (0..len)
            .map(|i| ((i as f64 * 0.11).sin() * 9000.0) as i16)
            .collect()
    }

    #[test]
    fn decodes_to_the_same_samples() {
        for len in [16, 17, 31, 100, 4095, 4096, 4097, 4111, 4112, 8200, 50_001] {
            for samples in [
                tone(len),
                noise(len, 32767.0),
                noise(len, 3.0),
                vec![-7; len],
                [i16::MIN, i16::MAX]
                    .iter()
                    .copied()
                    .cycle()
                    .take(len)
                    .collect(),
            ] {
                let piece = Piece::encode(&samples);
                assert_eq!(piece.num_samples(), len);
                assert_eq!(decoded(file([&piece])), samples, "{len} samples");
            }
        }
    }

    /// Residuals by their definition: the differences of differences.
    fn plain_residuals(block: &[i16], order: usize) -> Vec<i32> {
        let mut residuals: Vec<i32> = block.iter().map(|sample| i32::from(*sample)).collect();
        for _ in 0..order {
            residuals = residuals.windows(2).map(|pair| pair[1] - pair[0]).collect();
        }
        residuals
    }

    #[test]
    fn residuals_and_order_equal_their_definition() {
        let steep: Vec<i16> = [i16::MIN, i16::MAX]
            .into_iter()
            .cycle()
            .take(4111)
            .collect();
        let ramp: Vec<i16> = (0..700).map(|i| 40 * i - 9000).collect();
        for block in [
            steep,
            ramp,
            tone(4096),
            noise(16, 9.0),
            noise(333, 30_000.0),
        ] {
            let mut sizes: Vec<u64> = Vec::new();
            for order in 0..=MAX_ORDER {
                let plain = plain_residuals(&block, order);
                let folded: Vec<u32> = plain
                    .iter()
                    .map(|residual| match *residual {
                        negative if negative < 0 => 2 * negative.unsigned_abs() - 1,
                        residual => 2 * residual as u32,
                    })
                    .collect();
                let mut found = vec![7];
                match order {
                    0 => fill_residuals::<0>(&block, &mut found),
                    1 => fill_residuals::<1>(&block, &mut found),
                    2 => fill_residuals::<2>(&block, &mut found),
                    3 => fill_residuals::<3>(&block, &mut found),
                    _ => fill_residuals::<4>(&block, &mut found),
                }
                assert_eq!(found, folded, "order {order}");
                let common = &plain[MAX_ORDER - order..];
                sizes.push(common.iter().map(|r| u64::from(r.unsigned_abs())).sum());
            }
            let least: u64 = *sizes.iter().min().unwrap();
            let expected = sizes.iter().position(|size| *size == least);
            assert_eq!(Some(smallest_order(&block)), expected);
        }
    }

    #[test]
    fn rice_codes_equal_those_written_bit_by_bit() {
        let mut values: Vec<u32> = (0..300).map(|i| i * i % 71).collect();
        values.extend([55, 56, 57, 63, 64, 65, 1000, 0, (1 << 20) - 1]);
        for rice in [0, 1, 3, 9, MAX_RICE] {
            // Bits that wait for the rest of their byte, or of their word.
            for num_before in 0..32 {
                let mut found = Bits::default();
                let mut expected = Bits::default();
                for bits in [&mut found, &mut expected] {
                    bits.put(0x2a, 32);
                    (0..num_before).for_each(|i| bits.put(i & 1, 1));
                }
                found.put_rice(&values, rice);
                for value in &values {
                    (0..value >> rice).for_each(|_| expected.put(0, 1));
                    expected.put(1, 1);
                    expected.put(value & ((1 << rice) - 1), rice);
                }
                for bits in [&mut found, &mut expected] {
                    bits.put(0x15, 5);
                    bits.align();
                }
                assert!(
                    found.bytes == expected.bytes,
                    "{rice} low bits, {num_before} before"
                );
            }
        }
    }

    #[test]
    fn joined_pieces_decode_to_their_samples_in_order() {
        let a = tone(5000);
        let b = noise(70_003, 500.0);
        let pieces = [
            Piece::encode(&a),
            Piece::silence(1234),
            Piece::encode(&b),
            Piece::encode(&[1, 2, 3]),
        ];
        let mut expected = a;
        expected.extend([0; 1234]);
        expected.extend(b);
        expected.extend([1, 2, 3]);
        expected.extend([0; 13]);
        assert_eq!(decoded(file(&pieces)), expected);
    }

    #[test]
    fn positions_are_coded_in_every_length() {
        // Values and bytes by UTF-8's own table, and RFC 9639 beyond it.
        for (value, expected) in [
            (0x7f, &[0x7f][..]),
            (0x80, &[0xc2, 0x80]),
            (0x7ff, &[0xdf, 0xbf]),
            (0xffff, &[0xef, 0xbf, 0xbf]),
            (0x10_ffff, &[0xf4, 0x8f, 0xbf, 0xbf]),
            (1 << 21, &[0xf8, 0x88, 0x80, 0x80, 0x80]),
            (1 << 26, &[0xfc, 0x84, 0x80, 0x80, 0x80, 0x80]),
            (1 << 31, &[0xfe, 0x82, 0x80, 0x80, 0x80, 0x80, 0x80]),
        ] {
            let mut out = Vec::new();
            coded_number(&mut out, value);
            assert_eq!(out, expected, "{value:x}");
        }
    }

    #[test]
    fn speech_like_sound_takes_less_than_its_samples() {
        let size = file([&Piece::encode(&tone(160_000))]).len();
        assert!(size < 160_000, "{size} bytes");
        // An hour of silence has only frames.
        assert!(file([&Piece::silence(57_600_000)]).len() < 300_000);
    }

    #[test]
    fn pieces_are_read_back_and_damage_is_found() {
        let piece = Piece::encode(&tone(9000));
        let bytes = piece.to_bytes();
        assert_eq!(Piece::from_bytes(&bytes).unwrap(), piece);
        for cut in [0, 3, 7, 12, bytes.len() - 1] {
            assert!(Piece::from_bytes(&bytes[..cut]).is_err());
        }
    }
}
