//! Ring elements and bit planes as bytes: whole bytes an element, eight bits a byte; or elements bit behind bit.

use marill_numeric::fixed::low_mask;

/// Whole bytes that carry `bits` bits.
pub(super) const fn byte_width(bits: u32) -> usize {
    bits.div_ceil(8) as usize
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

/// Bytes of `n` elements bit behind bit.
pub(super) const fn tight_bytes(n: usize, bits: u32) -> usize {
    (n * bits as usize).div_ceil(8)
}

/// Appends the low `bits` bits of each value, bit behind bit.
pub(super) fn pack_tight(out: &mut Vec<u8>, values: &[u64], bits: u32) {
    let (start, modulus) = (out.len(), low_mask(bits));
    if bits > 0 && bits.is_multiple_of(8) {
        return pack_iter(out, values.iter().map(|v| v & modulus), byte_width(bits));
    }
    out.reserve(tight_bytes(values.len(), bits) + 8);
    let (mut pending, mut held) = (0u128, 0);
    for value in values {
        pending |= u128::from(value & modulus) << held;
        held += bits;
        if held >= 64 {
            out.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            held -= 64;
        }
    }
    out.extend_from_slice(&(pending as u64).to_le_bytes());
    out.truncate(start + tight_bytes(values.len(), bits));
}

/// Elements that [`pack_tight`] wrote.
pub(super) fn unpack_tight(data: &[u8], n: usize, bits: u32) -> Vec<u64> {
    if bits > 0 && bits.is_multiple_of(8) {
        return unpack(&data[..tight_bytes(n, bits)], byte_width(bits));
    }
    let modulus = low_mask(bits);
    let (mut chunks, mut pending, mut held) = (data[..tight_bytes(n, bits)].chunks(8), 0u128, 0);
    let mut next = || {
        if held < bits {
            let mut word = [0; 8];
            let chunk = chunks.next().unwrap_or(&[]);
            word[..chunk.len()].copy_from_slice(chunk);
            pending |= u128::from(u64::from_le_bytes(word)) << held;
            held += 64;
        }
        let value = pending as u64 & modulus;
        pending >>= bits;
        held -= bits;
        value
    };
    (0..n).map(|_| next()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_bit_behind_bit_come_back() {
        for bits in [0, 1, 7, 14, 17, 24, 36, 39, 40, 63] {
            for n in [0, 1, 2, 9, 64, 65, 200] {
                let values: Vec<u64> = (0..n as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
                let mut data = vec![1, 2, 3];
                pack_tight(&mut data, &values, bits);
                assert_eq!(data.len(), 3 + tight_bytes(n, bits));
                data.push(0xff);
                let expected: Vec<u64> = values.iter().map(|v| v & low_mask(bits)).collect();
                assert_eq!(unpack_tight(&data[3..], n, bits), expected, "{n} of {bits} bits");
            }
        }
    }
}
