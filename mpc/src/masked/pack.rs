//! Ring elements and bit planes as bytes: whole bytes an element, eight bits a byte.

use marill_numeric::fixed::low_mask;

/// Whole bytes that carry `bits` bits.
pub(super) const fn byte_width(bits: u32) -> usize {
    bits.div_ceil(8) as usize
}

pub(super) fn payload_bytes(parts: impl Iterator<Item = (usize, u32)>) -> usize {
    parts.map(|(n, bits)| n * byte_width(bits)).sum()
}

/// Runs a body with the byte width as a constant, so that copies of a few bytes become plain moves.
macro_rules! with_width {
    ($bytes:expr, $name:ident => $body:expr) => {
        match $bytes {
            1 => {
                const $name: usize = 1;
                $body
            }
            2 => {
                const $name: usize = 2;
                $body
            }
            3 => {
                const $name: usize = 3;
                $body
            }
            4 => {
                const $name: usize = 4;
                $body
            }
            5 => {
                const $name: usize = 5;
                $body
            }
            6 => {
                const $name: usize = 6;
                $body
            }
            7 => {
                const $name: usize = 7;
                $body
            }
            _ => {
                const $name: usize = 8;
                $body
            }
        }
    };
}

#[inline]
fn from_bytes<const N: usize>(chunk: &[u8; N]) -> u64 {
    let mut word = [0; 8];
    word[..N].copy_from_slice(chunk);
    u64::from_le_bytes(word)
}

/// Appends the low `bytes` bytes of each value.
pub(super) fn pack_iter(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = u64>, bytes: usize) {
    let start = out.len();
    out.resize(start + values.len() * bytes, 0);
    with_width!(bytes, N => {
        for (chunk, value) in out[start..].as_chunks_mut::<N>().0.iter_mut().zip(values) {
            chunk.copy_from_slice(&value.to_le_bytes()[..N]);
        }
    });
}

pub(super) fn pack(out: &mut Vec<u8>, values: &[u64], bytes: usize) {
    pack_iter(out, values.iter().copied(), bytes);
}

pub(super) fn unpack(data: &[u8], bytes: usize) -> Vec<u64> {
    with_width!(bytes, N => data.as_chunks::<N>().0.iter().map(from_bytes).collect())
}

pub(super) fn add_packed(values: &mut [u64], data: &[u8], bytes: usize, bits: u32) -> usize {
    let modulus = low_mask(bits);
    with_width!(bytes, N => {
        for (value, chunk) in values.iter_mut().zip(data.as_chunks::<N>().0) {
            *value = value.wrapping_add(from_bytes(chunk)) & modulus;
        }
    });
    values.len() * bytes
}

pub(super) fn pack_plane(out: &mut Vec<u8>, words: &[u64], n: usize) {
    let start = out.len();
    words.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
    out.truncate(start + n.div_ceil(8));
}

pub(super) fn xor_packed_plane(words: &mut [u64], data: &[u8], n: usize) -> usize {
    let bytes = n.div_ceil(8);
    for (word, chunk) in words.iter_mut().zip(data[..bytes].chunks(8)) {
        let mut other = [0; 8];
        other[..chunk.len()].copy_from_slice(chunk);
        *word ^= u64::from_le_bytes(other);
    }
    bytes
}
