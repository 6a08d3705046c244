//! Changed inputs: a function of a seed, so that a failure can be had again.

/// SplitMix64.
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 for 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end.max(1) as u64) as usize
    }
}

/// Numbers at which lengths and counts break.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 62,
    u64::MAX >> 1,
    u64::MAX,
];
/// Words at which texts break.
const WORDS: [&str; 24] = [
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "NaN",
    "-0",
    "18446744073709551616",
    "\"\"",
    "[]",
    "{}",
    "\u{0}",
    "\u{feff}",
    "\u{fffd}",
    "\r\n",
    "\t",
    ",",
    ":",
    "\"",
    "\\u0000",
    "\\",
    "../",
    "%s",
    "\u{1f600}",
];
/// Nobody's stack is deep enough for one call each of these.
const DEEP: usize = 100_000;
/// Inputs do not grow beyond this.
const LONGEST: usize = 1 << 20;

/// One input of the corpus with one to eight changes.
#[must_use]
pub fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        change(&mut bytes, corpus, random);
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Half of all places lie in the first 256 bytes: there are the lengths, versions and counts.
fn place(len: usize, random: &mut Random) -> usize {
    let end = if random.below(2) == 0 {
        len.min(256)
    } else {
        len
    };
    random.below(end + 1).min(len)
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = place(bytes.len(), random);
    let number = NUMBERS[random.below(NUMBERS.len())];
    match random.below(13) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.draw() as u8;
            }
        }
        2 => overwrite(bytes, at, &number.to_le_bytes()[..1 << random.below(4)]),
        3 => {
            let width = 1 << random.below(4);
            overwrite(bytes, at, &number.to_be_bytes()[8 - width..]);
        }
        4 => {
            let near = bytes.get(at).map_or(0, |byte| byte.wrapping_add(1));
            overwrite(bytes, at, &[near]);
        }
        5 => bytes.truncate(at),
        6 => {
            let end = (at + random.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        7 => {
            let piece = piece(bytes, random);
            insert(bytes, at, &piece);
        }
        8 => {
            let other = &corpus[random.below(corpus.len())];
            let piece = piece(other, random);
            insert(bytes, at, &piece);
        }
        9 => insert(bytes, at, WORDS[random.below(WORDS.len())].as_bytes()),
        10 => replace_number(bytes, at, random),
        11 => {
            let piece = vec![random.draw() as u8; random.below(32)];
            insert(bytes, at, &piece);
        }
        _ => {
            // Rarely, because it makes the input long.
            if random.below(16) == 0 {
                let open = [b"[".as_slice(), b"{\"a\":", b"(", b"[["][random.below(4)];
                insert(bytes, at, &open.repeat(DEEP / open.len()));
            }
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let end = (at + with.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&with[..end - at]);
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

fn piece(from: &[u8], random: &mut Random) -> Vec<u8> {
    let at = random.below(from.len());
    let end = (at + 1 + random.below(64)).min(from.len());
    from[at..end].to_vec()
}

/// Puts another number in place of the decimal digits behind `at`.
fn replace_number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let digit = |byte: &u8| byte.is_ascii_digit();
    let Some(from) = bytes[at..].iter().position(digit).map(|n| at + n) else {
        return;
    };
    let end = bytes[from..]
        .iter()
        .position(|byte| !digit(byte))
        .map_or(bytes.len(), |n| from + n);
    let number = NUMBERS[random.below(NUMBERS.len())].to_string();
    bytes.splice(from..end, number.into_bytes());
}
