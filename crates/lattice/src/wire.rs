//! Numbers of a fixed width, one after the other, lowest bits first.

use zeroize::Zeroizing;

use crate::{
    error::LatticeError,
    modulus::Modulus,
    ring::{Coefficients, Ring},
};

/// Bytes in front of a message that name its shape.
pub(crate) const TAG_BYTES: usize = 16;

/// What follows the tag of a message of exactly this length.
///
/// # Errors
/// Another length or another tag.
pub(crate) fn behind_tag<'m>(
    bytes: &'m [u8],
    expected: usize,
    tag: [u8; TAG_BYTES],
    message: &'static str,
) -> Result<&'m [u8], LatticeError> {
    if bytes.len() != expected {
        let got = bytes.len();
        return Err(LatticeError::Length {
            message,
            expected,
            got,
        });
    }
    let (own, rest) = bytes.split_at(TAG_BYTES);
    if own != tag {
        return Err(LatticeError::Parameters { message });
    }
    Ok(rest)
}

/// Bytes that `n` numbers of `bits` bits take.
pub(crate) fn packed_bytes(n: usize, bits: u32) -> usize {
    (n * bits as usize).div_ceil(8)
}

/// Appends numbers of `bits` bits, 120 at most.
pub(crate) fn pack(out: &mut Vec<u8>, numbers: impl Iterator<Item = u128>, bits: u32) {
    let mut open = 0u128;
    let mut filled = 0;
    // Whole words leave as soon as they are full, so that there is room for a part of 64 bits.
    let mut push = |part: u64, bits: u32, out: &mut Vec<u8>| {
        open |= u128::from(part) << filled;
        filled += bits;
        if filled >= 64 {
            out.extend((open as u64).to_le_bytes());
            open >>= 64;
            filled -= 64;
        }
    };
    for number in numbers {
        push(number as u64, bits.min(64), out);
        if bits > 64 {
            push((number >> 64) as u64, bits - 64, out);
        }
    }
    out.extend(&(open as u64).to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// `n` numbers of `bits` bits, 120 at most, from the front of `bytes`, which moves on. Bits left
/// in the last byte must be zero.
///
/// # Panics
/// When `bytes` is shorter; lengths are compared before.
pub(crate) fn unpack(
    bytes: &mut &[u8],
    n: usize,
    bits: u32,
    message: &'static str,
) -> Result<Vec<u128>, LatticeError> {
    let (own, rest) = bytes.split_at(packed_bytes(n, bits));
    *bytes = rest;
    let mut open = 0u128;
    let mut filled = 0;
    let mut words = own.chunks(8).map(|word| {
        let mut whole = [0; 8];
        whole[..word.len()].copy_from_slice(word);
        u64::from_le_bytes(whole)
    });
    let mut pull = |bits: u32| {
        if filled < bits {
            open |= u128::from(words.next().expect("counted")) << filled;
            filled += 64;
        }
        let part = open & (u128::MAX >> (128 - bits));
        open >>= bits;
        filled -= bits;
        part
    };
    let numbers = (0..n).map(|_| {
        let low = pull(bits.min(64));
        if bits > 64 {
            low | pull(bits - 64) << 64
        } else {
            low
        }
    });
    let numbers = numbers.collect();
    if open != 0 {
        return Err(LatticeError::Malformed {
            message,
            reason: "bits after the last number",
        });
    }
    Ok(numbers)
}

/// Appends all residues, prime by prime.
pub(crate) fn pack_polynomial(out: &mut Vec<u8>, ring: &Ring, x: &Coefficients) {
    pack_rows(out, ring.n, ring.moduli(), &x.0);
}

/// Appends `n` residues of each prime.
pub(crate) fn pack_rows(
    out: &mut Vec<u8>,
    n: usize,
    moduli: impl Iterator<Item = Modulus>,
    rows: &[u64],
) {
    for (modulus, row) in moduli.zip(rows.chunks_exact(n)) {
        let bits = 64 - modulus.p().leading_zeros();
        pack(out, row.iter().map(|x| u128::from(*x)), bits);
    }
}

/// A polynomial from the front of `bytes`; a residue that is not below its prime is an error.
pub(crate) fn unpack_polynomial(
    bytes: &mut &[u8],
    ring: &Ring,
    message: &'static str,
) -> Result<Coefficients, LatticeError> {
    let mut out = Vec::with_capacity(ring.n * ring.set.primes().len());
    unpack_rows(&mut out, bytes, ring.n, ring.moduli(), message)?;
    Ok(Coefficients(Zeroizing::new(out)))
}

/// `n` residues of each prime from the front of `bytes`; one that is not below its prime is an
/// error.
pub(crate) fn unpack_rows(
    out: &mut Vec<u64>,
    bytes: &mut &[u8],
    n: usize,
    moduli: impl Iterator<Item = Modulus>,
    message: &'static str,
) -> Result<(), LatticeError> {
    for modulus in moduli {
        let bits = 64 - modulus.p().leading_zeros();
        let row = unpack(bytes, n, bits, message)?;
        if row.iter().any(|x| *x >= u128::from(modulus.p())) {
            return Err(LatticeError::Malformed {
                message,
                reason: "a residue is not below its prime",
            });
        }
        out.extend(row.into_iter().map(|x| x as u64));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(
            bits in 1..=120u32,
            numbers in prop::collection::vec(any::<u128>(), 0..40),
        ) {
            let numbers: Vec<u128> = numbers.into_iter().map(|x| x >> (128 - bits)).collect();
            let mut bytes = Vec::new();
            pack(&mut bytes, numbers.iter().copied(), bits);
            prop_assert_eq!(bytes.len(), packed_bytes(numbers.len(), bits));
            bytes.push(7);
            let mut rest = &bytes[..];
            prop_assert_eq!(unpack(&mut rest, numbers.len(), bits, "test"), Ok(numbers));
            prop_assert_eq!(rest, &[7][..]);
        }
    }

    #[test]
    fn bits_after_the_last_number_are_refused() {
        let read = unpack(&mut &[0b1000_0001u8][..], 1, 3, "test");
        assert!(matches!(read, Err(LatticeError::Malformed { .. })));
    }
}
