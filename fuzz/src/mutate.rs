//! Small changes of inputs, drawn by a seeded generator.

/// A generator of numbers: SplitMix64 of Steele, Lea and Flood 2014.
pub struct Draw(pub u64);

impl Draw {
    /// The next number.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`, or 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            0
        } else {
            (self.bits() % end as u64) as usize
        }
    }
}

/// Numbers at which counts and lengths go wrong.
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    32,
    64,
    100,
    127,
    128,
    255,
    256,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
];

/// A changed copy of `input`, at most `most_bytes` long; `other` gives pieces to take over.
pub fn mutate(
    input: &[u8],
    other: &[u8],
    words: &[&[u8]],
    most_bytes: usize,
    draw: &mut Draw,
) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let changes = 1 << draw.below(5);
    for _ in 0..changes {
        change(&mut bytes, other, words, draw);
    }
    bytes.truncate(most_bytes);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]], draw: &mut Draw) {
    // Headers decide more than the rest: every second change is near the beginning.
    let near = if draw.bits() & 1 == 0 {
        bytes.len().min(256)
    } else {
        bytes.len()
    };
    let at = draw.below(near);
    let len = match draw.below(4) {
        0 => draw.below(4) + 1,
        1 => draw.below(32) + 1,
        2 => draw.below(512) + 1,
        _ => draw.below(bytes.len()) + 1,
    };
    let end = (at + len).min(bytes.len());
    match draw.below(13) {
        0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << draw.below(8),
        2 if !bytes.is_empty() => bytes[at] = draw.bits() as u8,
        3 if !bytes.is_empty() => {
            bytes[at] = bytes[at]
                .wrapping_add(draw.below(35) as u8)
                .wrapping_sub(17)
        }
        4 | 5 => write_number(bytes, at, draw),
        6 => drop(bytes.drain(at..end)),
        7 => {
            let piece = bytes[at..end].to_vec();
            let to = draw.below(bytes.len());
            bytes.splice(to..to, piece);
        }
        8 => {
            let from = draw.below(other.len());
            let piece = other[from..(from + len).min(other.len())].to_vec();
            bytes.splice(at..at, piece);
        }
        9 => {
            let from = draw.below(other.len());
            let piece = &other[from..(from + len).min(other.len())];
            let end = (at + piece.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&piece[..end - at]);
        }
        10 if !words.is_empty() => {
            let word = words[draw.below(words.len())];
            let end = if draw.bits() & 1 == 0 {
                at
            } else {
                (at + word.len()).min(bytes.len())
            };
            bytes.splice(at..end, word.iter().copied());
        }
        11 => {
            let byte = if draw.bits() & 1 == 0 {
                0
            } else {
                draw.bits() as u8
            };
            bytes[at..end].fill(byte);
        }
        _ if draw.below(8) == 0 => bytes.truncate(at),
        _ => bytes.insert(at, draw.bits() as u8),
    }
}

/// Writes a number of one to eight bytes, in either order of bytes, over what is there.
fn write_number(bytes: &mut [u8], at: usize, draw: &mut Draw) {
    let width = 1 << draw.below(4);
    if bytes.len() < at + width {
        return;
    }
    let number = match draw.below(4) {
        0 => draw.bits(),
        1 => bytes.len() as u64 - draw.below(16) as u64,
        _ => EDGES[draw.below(EDGES.len())],
    };
    let number = if draw.below(6) == 0 {
        number.wrapping_neg()
    } else {
        number
    };
    let little = number.to_le_bytes();
    let big = number.to_be_bytes();
    let new = if draw.bits() & 1 == 0 {
        &little[..width]
    } else {
        &big[8 - width..]
    };
    bytes[at..at + width].copy_from_slice(new);
}
