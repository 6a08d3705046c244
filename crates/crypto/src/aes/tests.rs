//! AES against the standard, the wide form against the portable one.

use super::*;

const KEY: [u8; 16] = [
    0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 9, 0xcf, 0x4f, 0x3c,
];

/// Of each width that the machine has, the portable one last.
fn each() -> Vec<Cipher> {
    let mut all = Vec::new();
    #[cfg(target_arch = "x86_64")]
    all.extend(
        wide::Keys::each(&KEY)
            .into_iter()
            .map(|keys| Cipher(Backend::Wide(Box::new(keys)))),
    );
    all.push(Cipher::portable(&KEY));
    all
}

/// NIST SP 800-38A, F.1.1.
#[test]
fn blocks_are_those_of_the_standard() {
    let plain = 0x2a17_9373_117e_3de9_969f_402e_e2be_c16b;
    let cipher = 0x97ef_6624_f3ca_9ea8_6036_7a0d_b47b_d73a;
    for aes in each() {
        let mut blocks = [plain; 70];
        aes.permute(&mut blocks);
        assert!(blocks.iter().all(|&block| block == cipher));
    }
}

#[test]
fn every_length_is_the_same_on_vectors_and_block_by_block() {
    let mut all = each();
    let portable = all.pop().unwrap();
    for wide in &all {
        for n in (0..150).chain([1 << 12, 4097]) {
            are_the_same(wide, &portable, n);
        }
    }
}

/// Of `n` words and blocks.
fn are_the_same(wide: &Cipher, portable: &Cipher, n: usize) {
    for first in [0, 5, u64::from(u32::MAX) - 3, u64::MAX - 2] {
        for mask in [u64::MAX, 0xffff_ffff_ffff, 1] {
            assert_eq!(
                wide.stream(first, n, mask),
                portable.stream(first, n, mask),
                "{n} words from {first}"
            );
        }
    }
    let both = [wide, portable];
    for aes in both {
        let mut filled = vec![1; n];
        aes.fill(9, &mut filled);
        assert_eq!(filled, aes.stream(9, n, u64::MAX), "{n} words in place");
    }
    let blocks: Vec<u128> = (0..n as u128).map(|k| (k << 77) | (3 * k)).collect();
    let [mut a, mut b] = [blocks.clone(), blocks.clone()];
    wide.permute(&mut a);
    portable.permute(&mut b);
    assert_eq!(a, b, "{n} blocks");
    let [x, y] = both.map(|aes| {
        let mut x = vec![0; n];
        let mut y = vec![0; n];
        aes.hash(&blocks, &a, [1 << 90, 7], [&mut x, &mut y]);
        let mut z = vec![0; n];
        aes.hash(&blocks, &a, [7], [&mut z]);
        assert_eq!(y, z);
        (x, y)
    });
    assert_eq!(x, y, "hashes of {n} blocks");
    let [x, y] = both.map(|aes| {
        let mut left = blocks.clone();
        let mut right = vec![0; n];
        let sum = aes.branch(&mut left, &mut right);
        (left, right, sum)
    });
    assert_eq!(x, y, "children of {n} nodes");
}

#[test]
fn the_hash_is_that_of_its_definition() {
    let aes = Cipher::portable(&KEY);
    let permuted = |mut block: u128| {
        aes.permute(std::slice::from_mut(&mut block));
        block
    };
    let node = 0x1234_5678_u128 << 70 | 99;
    let tweak = 5 << 64;
    let used = 3 << 32;
    let mut hash = [0];
    aes.hash(&[node], &[tweak], [used], [&mut hash]);
    assert_eq!(
        hash[0],
        permuted(permuted(node) ^ tweak ^ used) ^ permuted(node)
    );
}

#[test]
fn children_are_those_of_their_definition() {
    for aes in each() {
        let nodes = [0x1234_5678_u128 << 70 | 99, u128::MAX, 7];
        let mut left = nodes;
        let mut right = [0; 3];
        let sum = aes.branch(&mut left, &mut right);
        for ((node, left), right) in nodes.iter().zip(left).zip(right) {
            let [high, low] = [(node >> 64) as u64, *node as u64];
            let turned = u128::from(high ^ low) << 64 | u128::from(high);
            let mut hash = [turned];
            aes.permute(&mut hash);
            assert_eq!(left, hash[0] ^ turned);
            assert_eq!(left ^ right, *node);
        }
        assert_eq!(sum, left[0] ^ left[1] ^ left[2]);
    }
}

/// Elsewhere the comparisons above compare the portable form with itself.
#[test]
fn a_machine_with_the_instructions_takes_them() {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("aes")
        && std::is_x86_feature_detected!("vaes")
        && std::is_x86_feature_detected!("avx2")
    {
        assert!(matches!(Cipher::new(&KEY).0, Backend::Wide(_)));
    }
}
