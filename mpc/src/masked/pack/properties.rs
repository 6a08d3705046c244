//! Packing for random widths, counts and what stands around.

use marill_numeric::fixed::low_mask;
use proptest::{collection::vec, prelude::*};

use super::{
    add_packed, byte_width, pack, pack_plane, pack_tight, tight_bytes, unpack, unpack_tight,
    xor_packed_plane,
};

proptest! {
    // Microseconds a case. A failing case is printed, no file remembers it.
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn elements_of_whole_bytes_come_back_reduced(
        values in vec(any::<u64>(), 0..200),
        bits in 1u32..=64,
        head in vec(any::<u8>(), 0..9),
    ) {
        let bytes = byte_width(bits);
        let mut data = head.clone();
        pack(&mut data, &values, bytes);
        prop_assert_eq!(data.len(), head.len() + bytes * values.len());
        prop_assert_eq!(&data[..head.len()], &head[..]);
        let reduced: Vec<u64> = values.iter().map(|v| v & low_mask(8 * bytes as u32)).collect();
        prop_assert_eq!(unpack(&data[head.len()..], bytes), reduced);

        let mut sums = values.clone();
        let taken = add_packed(&mut sums, &data[head.len()..], bytes, bits);
        prop_assert_eq!(taken, bytes * values.len());
        let doubled: Vec<u64> = values.iter().map(|v| v.wrapping_mul(2) & low_mask(bits)).collect();
        prop_assert_eq!(sums, doubled);
    }

    #[test]
    fn elements_bit_behind_bit_come_back_reduced(
        values in vec(any::<u64>(), 0..200),
        bits in 0u32..=63,
        head in vec(any::<u8>(), 0..9),
        tail in vec(any::<u8>(), 0..9),
    ) {
        let mut data = head.clone();
        pack_tight(&mut data, &values, bits);
        prop_assert_eq!(data.len(), head.len() + tight_bytes(values.len(), bits));
        prop_assert_eq!(&data[..head.len()], &head[..]);
        data.extend(tail);
        let reduced: Vec<u64> = values.iter().map(|v| v & low_mask(bits)).collect();
        prop_assert_eq!(unpack_tight(&data[head.len()..], values.len(), bits), reduced);
    }

    #[test]
    fn a_plane_opens_under_its_mask(
        words in vec((any::<u64>(), any::<u64>()), 1..20),
        short in 0usize..64,
    ) {
        let (plane, mask): (Vec<u64>, Vec<u64>) = words.into_iter().unzip();
        let n = 64 * plane.len() - short;
        let mut data = Vec::new();
        pack_plane(&mut data, &plane, n);
        prop_assert_eq!(data.len(), n.div_ceil(8));
        let mut opened = mask.clone();
        prop_assert_eq!(xor_packed_plane(&mut opened, &data, n), data.len());
        for bit in 0..n {
            let at = |words: &[u64]| words[bit / 64] >> (bit % 64) & 1;
            prop_assert_eq!(at(&opened), at(&plane) ^ at(&mask), "bit {} of {}", bit, n);
        }
    }
}
