//! Ring elements and bit planes as bytes: whole bytes per element, eight bits per byte; or elements
//! bit behind bit.

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

/// Elements of `size` bytes in a buffer that start with eight bytes: these are read and written as
/// whole words, which is several times as fast as a few bytes are. What a word has of the next
/// element is masked, or overwritten by it.
const fn whole_words(bytes: usize, size: usize) -> usize {
    if bytes < 8 { 0 } else { (bytes - 8) / size + 1 }
}

#[inline(always)]
fn element<const N: usize>(data: &[u8], i: usize, whole: usize) -> u64 {
    let mut word = [0; 8];
    // A whole word is read where the buffer has one; the next element's bytes are masked.
    if i < whole {
        word.copy_from_slice(&data[i * N..i * N + 8]);
        return u64::from_le_bytes(word) & low_mask(8 * N as u32);
    }
    word[..N].copy_from_slice(&data[i * N..i * N + N]);
    u64::from_le_bytes(word)
}

/// Appends the low `bytes` bytes of each value.
pub(super) fn pack_iter(
    out: &mut Vec<u8>,
    values: impl ExactSizeIterator<Item = u64>,
    bytes: usize,
) {
    let start = out.len();
    out.resize(start + values.len() * bytes, 0);
    let out = &mut out[start..];
    let whole = whole_words(out.len(), bytes);
    with_width!(bytes, N => {
        for (i, value) in values.enumerate() {
            if i < whole {
                out[i * N..i * N + 8].copy_from_slice(&value.to_le_bytes());
            } else {
                out[i * N..i * N + N].copy_from_slice(&value.to_le_bytes()[..N]);
            }
        }
    });
}

pub(super) fn pack(out: &mut Vec<u8>, values: &[u64], bytes: usize) {
    pack_iter(out, values.iter().copied(), bytes);
}

pub(super) fn unpack(data: &[u8], bytes: usize) -> Vec<u64> {
    let whole = whole_words(data.len(), bytes);
    with_width!(bytes, N => (0..data.len() / N).map(|i| element::<N>(data, i, whole)).collect())
}

pub(super) fn add_packed(values: &mut [u64], data: &[u8], bytes: usize, bits: u32) -> usize {
    let modulus = low_mask(bits);
    let whole = whole_words(data.len(), bytes);
    with_width!(bytes, N => {
        for (i, value) in values.iter_mut().enumerate() {
            *value = value.wrapping_add(element::<N>(data, i, whole)) & modulus;
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
    let start = out.len();
    let modulus = low_mask(bits);
    if bits > 0 && bits.is_multiple_of(8) {
        return pack_iter(out, values.iter().map(|v| v & modulus), byte_width(bits));
    }
    out.reserve(tight_bytes(values.len(), bits) + 8);
    let mut pending = 0u128;
    let mut held = 0;
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
    let mut chunks = data[..tight_bytes(n, bits)].chunks(8);
    let mut pending = 0u128;
    let mut held = 0;
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
    words
        .iter()
        .for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
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
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_whole_bytes_come_back() {
        for bytes in 1..=8 {
            for n in [0, 1, 2, 7, 8, 9, 100] {
                let values: Vec<u64> = (1..=n as u64)
                    .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .collect();
                let mut data = vec![1, 2, 3];
                pack(&mut data, &values, bytes);
                let plain: Vec<u8> = values
                    .iter()
                    .flat_map(|v| v.to_le_bytes()[..bytes].to_vec())
                    .collect();
                assert_eq!(data, [&[1, 2, 3], plain.as_slice()].concat());
                let modulus = low_mask(8 * bytes as u32);
                let expected: Vec<u64> = values.iter().map(|v| v & modulus).collect();
                assert_eq!(unpack(&data[3..], bytes), expected, "{n} of {bytes} bytes");
                data.extend([0xff; 3]);
                let mut sums = vec![1; n];
                assert_eq!(
                    add_packed(&mut sums, &data[3..], bytes, 8 * bytes as u32 - 1),
                    n * bytes
                );
                assert!(
                    sums.iter()
                        .zip(expected)
                        .all(|(sum, v)| *sum == v.wrapping_add(1) & (modulus >> 1))
                );
            }
        }
    }

    #[test]
    fn elements_bit_behind_bit_come_back() {
        for bits in [0, 1, 7, 14, 17, 24, 36, 39, 40, 63] {
            for n in [0, 1, 2, 9, 64, 65, 200] {
                let values: Vec<u64> = (0..n as u64)
                    .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .collect();
                let mut data = vec![1, 2, 3];
                pack_tight(&mut data, &values, bits);
                assert_eq!(data.len(), 3 + tight_bytes(n, bits));
                data.push(0xff);
                let expected: Vec<u64> = values.iter().map(|v| v & low_mask(bits)).collect();
                assert_eq!(
                    unpack_tight(&data[3..], n, bits),
                    expected,
                    "{n} of {bits} bits"
                );
            }
        }
    }
}
