//! Products of both parties: exactness at the shapes of a language model, bytes, bad messages.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ntt::{Portable, Transform};

const N8192: ParameterSet = ParameterSet::N8192;

struct World {
    client: Client,
    server: Server,
}

fn world(set: ParameterSet) -> World {
    let client = Client::new(set);
    let server = Server::new(set, &client.public_key()).unwrap();
    World { client, server }
}

/// Uniform numbers with the corners in front.
fn numbers(n: usize, bits: u32) -> Vec<u64> {
    let mut out = Randomness::fresh().words(n, bits).to_vec();
    let most = u64::MAX >> (64 - bits);
    out.iter_mut()
        .zip([most, 1 << (bits - 1), 0, 1, most >> 1])
        .for_each(|(x, corner)| *x = corner);
    out
}

/// Signed factors of a width with the corners in front.
fn factors(n: usize, width: u32) -> Vec<i64> {
    let spare = 64 - width;
    numbers(n, width)
        .iter()
        .map(|w| (*w as i64) << spare >> spare)
        .collect()
}

/// `W r` of each vector modulo `2^bits`, in clear.
fn exact(product: &Product, w: &[i64], r: &[u64]) -> Vec<u64> {
    let low = u64::MAX >> (64 - product.bits);
    let dot = |row: &[i64], r: &[u64]| {
        let terms = row.iter().zip(r).map(|(w, r)| r.wrapping_mul(*w as u64));
        terms.fold(0u64, u64::wrapping_add) & low
    };
    let vectors = r.chunks(product.columns);
    vectors
        .flat_map(|r| w.chunks(product.columns).map(move |row| dot(row, r)))
        .collect()
}

/// What both shares add up to; compares declared bytes with those of the messages.
fn run(world: &World, product: &Product, w: &[i64], r: &[u64]) -> Vec<u64> {
    let matrix = Matrix::new(world.server.key(), product, w).unwrap();
    let request = world.client.request(product, r);
    assert_eq!(request.len(), product.request_bytes());
    let (response, server) = world.server.respond(&matrix, &request).unwrap();
    assert_eq!(response.len(), product.response_bytes());
    let client = world.client.finish(product, &response).unwrap();
    let low = u64::MAX >> (64 - product.bits);
    client
        .iter()
        .zip(&*server)
        .map(|(a, b)| a.wrapping_add(*b) & low)
        .collect()
}

fn check(world: &World, product: &Product) {
    let w = factors(
        product.rows * product.columns,
        product.factors.width(product.bits),
    );
    let r = numbers(product.vectors * product.columns, product.bits);
    assert_eq!(
        run(world, product, &w, &r),
        exact(product, &w, &r),
        "{product:?}"
    );
}

#[test]
fn low_rank_factors_are_exact_at_every_width() {
    let world = world(N8192);
    let shapes = [
        [8, 576, 1],
        [576, 8, 1],
        [8, 1536, 1],
        [1536, 8, 1],
        [8, 576, 8],
        [576, 8, 8],
        [1536, 8, 3],
        [8, 1536, 3],
    ];
    for bits in [48, 56, 64] {
        for shape in shapes {
            // 24 bits: twice what fixed-point weights of a language model take.
            let product = Product::new(N8192, bits, Factors::Signed(24), shape).unwrap();
            check(&world, &product);
        }
    }
}

#[test]
fn extreme_vectors_and_factors_are_exact() {
    let world = world(N8192);
    for bits in [48, 56, 64] {
        let product = Product::new(N8192, bits, Factors::Signed(24), [8, 576, 1]).unwrap();
        let most = u64::MAX >> (64 - bits);
        for r in [0, 1, most, most / 2, most / 2 + 1] {
            for w in [0, 1, -1, (1 << 23) - 1, -(1 << 23)] {
                let w = vec![w; 8 * 576];
                let r = vec![r; 576];
                assert_eq!(run(&world, &product, &w, &r), exact(&product, &w, &r));
            }
        }
    }
}

#[test]
fn products_of_masks_are_exact_in_48_bits() {
    let world = world(N8192);
    // Scores of a head, weighted values, rows times scalars, and an outer product.
    for shape in [[128, 64, 3], [64, 128, 3], [576, 1, 2], [64, 1, 64]] {
        let product = Product::new(N8192, 48, Factors::Masks, shape).unwrap();
        check(&world, &product);
    }
}

#[test]
fn a_portable_client_and_a_fast_server_agree() {
    let portable = |n, modulus| Box::new(Portable::new(n, modulus)) as Box<dyn Transform>;
    let key = SecretKey::generate_in(Arc::new(Ring::with(N8192, portable)));
    let client = Client { key };
    let server = Server::new(N8192, &client.public_key()).unwrap();
    let product = Product::new(N8192, 64, Factors::Signed(24), [8, 576, 1]).unwrap();
    check(&World { client, server }, &product);
}

#[test]
fn long_rows_and_the_small_set_are_exact() {
    let product = Product::new(N8192, 56, Factors::Signed(16), [3, 9000, 2]).unwrap();
    assert!(product.layout.pieces > 1);
    check(&world(N8192), &product);
    let small = ParameterSet::N4096;
    let product = Product::new(small, 37, Factors::Signed(9), [8, 576, 2]).unwrap();
    check(&world(small), &product);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn products_of_any_shape_are_exact(
        rows in 1..40usize,
        columns in 1..700usize,
        vectors in 1..6usize,
        bits in 1..=64u32,
        width in 1..=20u32,
    ) {
        let world = world(N8192);
        let product = Product::new(N8192, bits, Factors::Signed(width), [rows, columns, vectors]);
        check(&world, &product.unwrap());
    }
}

#[test]
fn shares_of_equal_products_differ() {
    let world = world(N8192);
    let product = Product::new(N8192, 48, Factors::Signed(8), [64, 8, 1]).unwrap();
    let matrix = Matrix::new(world.server.key(), &product, &[1; 512]).unwrap();
    let request = world.client.request(&product, &[1; 8]);
    let first = world.server.respond(&matrix, &request).unwrap();
    let second = world.server.respond(&matrix, &request).unwrap();
    assert_ne!(*first.1, *second.1);
    assert_ne!(first.0, second.0);
    // 64 shares of 48 bits: two equal ones have probability 2^-37.
    let mut shares = first.1.to_vec();
    shares.sort_unstable();
    shares.dedup();
    assert_eq!(shares.len(), 64);
}

#[test]
fn requests_of_equal_vectors_differ() {
    let world = world(N8192);
    let product = Product::new(N8192, 48, Factors::Signed(8), [8, 8, 1]).unwrap();
    let requests = [(); 2].map(|()| world.client.request(&product, &[5; 8]));
    assert_eq!(requests[0][..TAG_BYTES], requests[1][..TAG_BYTES]);
    assert_ne!(requests[0][TAG_BYTES..], requests[1][TAG_BYTES..]);
}

/// A request and a response of one product.
fn messages(world: &World, product: &Product) -> (Matrix, Vec<u8>, Vec<u8>) {
    let w = factors(product.rows * product.columns, 8);
    let matrix = Matrix::new(world.server.key(), product, &w).unwrap();
    let request = world
        .client
        .request(product, &numbers(product.columns, product.bits));
    let (response, _) = world.server.respond(&matrix, &request).unwrap();
    (matrix, request, response)
}

#[test]
fn messages_of_another_length_are_refused() {
    let world = world(N8192);
    let product = Product::new(N8192, 48, Factors::Signed(8), [8, 8, 1]).unwrap();
    let (matrix, request, response) = messages(&world, &product);
    for cut in [0, 1, TAG_BYTES, request.len() - 1, request.len() + 1] {
        let mut changed = request.clone();
        changed.resize(cut, 0);
        let refused = world.server.respond(&matrix, &changed).err();
        assert!(matches!(refused, Some(LatticeError::Length { .. })));
    }
    for cut in [0, 1, TAG_BYTES, response.len() - 1, response.len() + 1] {
        let mut changed = response.clone();
        changed.resize(cut, 0);
        let refused = world.client.finish(&product, &changed).err();
        assert!(matches!(refused, Some(LatticeError::Length { .. })));
    }
}

#[test]
fn messages_of_another_product_are_refused() {
    let world = world(N8192);
    let new =
        |bits, width, shape| Product::new(N8192, bits, Factors::Signed(width), shape).unwrap();
    let product = new(48, 8, [8, 8, 1]);
    let (_, request, response) = messages(&world, &product);
    // Of equal lengths, so that only the tag tells them apart.
    for other in [new(48, 9, [8, 8, 1]), new(48, 8, [8, 9, 1])] {
        let (matrix, ..) = messages(&world, &other);
        let refused = world.server.respond(&matrix, &request).err();
        assert_eq!(refused, Some(LatticeError::Parameters { message: REQUEST }));
        let refused = world.client.finish(&other, &response).err();
        assert_eq!(
            refused,
            Some(LatticeError::Parameters { message: RESPONSE })
        );
    }
}

#[test]
fn residues_not_below_their_prime_are_refused() {
    let world = world(N8192);
    let product = Product::new(N8192, 48, Factors::Signed(8), [8, 8, 1]).unwrap();
    let (matrix, mut request, _) = messages(&world, &product);
    let last = request.len() - 7;
    request[last..].fill(0xff);
    let refused = world.server.respond(&matrix, &request).err();
    assert!(matches!(refused, Some(LatticeError::Malformed { .. })));
}

#[test]
fn bits_after_a_response_are_refused() {
    let world = world(N8192);
    // One value of 51 bits leaves five bits of its last byte.
    let product = Product::new(N8192, 48, Factors::Signed(8), [1, 8, 1]).unwrap();
    let (_, _, mut response) = messages(&world, &product);
    response[TAG_BYTES + 6] |= 0x80;
    let refused = world.client.finish(&product, &response).err();
    assert!(matches!(refused, Some(LatticeError::Malformed { .. })));
}

#[test]
fn factors_and_sizes_out_of_range_are_refused() {
    let world = world(N8192);
    let product = Product::new(N8192, 48, Factors::Signed(8), [1, 2, 1]).unwrap();
    for w in [128, -129] {
        let refused = Matrix::new(world.server.key(), &product, &[1, w]).err();
        assert!(matches!(refused, Some(LatticeError::Range { .. })));
    }
    assert!(Matrix::new(world.server.key(), &product, &[127, -128]).is_ok());
    for (bits, width, shape) in [
        (0, 8, [1, 1, 1]),
        (65, 8, [1, 1, 1]),
        (48, 0, [1, 1, 1]),
        (48, 65, [1, 1, 1]),
        (48, 8, [0, 1, 1]),
        (48, 8, [1, 0, 1]),
        (48, 8, [1, 1, MOST + 1]),
    ] {
        let refused = Product::new(N8192, bits, Factors::Signed(width), shape);
        assert!(matches!(refused, Err(LatticeError::Range { .. })));
    }
    let refused = Product::new(N8192, 64, Factors::Masks, [1, 64, 1]);
    assert!(matches!(refused, Err(LatticeError::Noise { .. })));
}

#[test]
fn products_over_a_gibibyte_are_refused() {
    for shape in [[MOST, MOST, MOST], [1, MOST, MOST], [MOST, 1, MOST]] {
        let refused = Product::new(N8192, 48, Factors::Signed(8), shape);
        assert!(matches!(refused, Err(LatticeError::Range { .. })));
    }
    assert!(Product::new(N8192, 48, Factors::Signed(8), [MOST, 1, 1]).is_ok());
}

/// The figures of `docs/lattices.md`.
#[test]
fn bytes_are_those_of_the_page() {
    let bytes = |bits, shape| {
        let product = Product::new(N8192, bits, Factors::Signed(24), shape).unwrap();
        [product.request_bytes(), product.response_bytes()]
    };
    for (shape, up, down) in [
        ([8, 576, 1], 153_648, [59_459, 67_659, 75_859]),
        ([576, 8, 1], 153_648, [63_080, 71_848, 80_616]),
        ([8, 1536, 1], 153_648, [118_852, 135_244, 151_636]),
        ([1536, 8, 1], 153_648, [128_592, 146_512, 164_432]),
        ([8, 576, 8], 307_280, [178_600, 203_240, 227_880]),
        ([576, 8, 8], 153_648, [326_352, 371_920, 417_488]),
    ] {
        for (bits, down) in [48, 56, 64].into_iter().zip(down) {
            assert_eq!(bytes(bits, shape), [up, down], "{bits} bits, {shape:?}");
        }
    }
}

#[test]
fn a_kept_secret_key_decrypts_as_before() {
    let World { client, server } = world(N8192);
    let saved = client.to_bytes();
    let again = Client::from_bytes(N8192, &saved).unwrap();
    assert_eq!(again.to_bytes(), saved);
    let product = Product::new(N8192, 48, Factors::Signed(16), [2, 5, 1]).unwrap();
    let w = factors(10, 16);
    let r = numbers(5, 48);
    // A request of the one, whose response the other reads.
    let matrix = Matrix::new(server.key(), &product, &w).unwrap();
    let (response, ours) = server
        .respond(&matrix, &client.request(&product, &r))
        .unwrap();
    let theirs = again.finish(&product, &response).unwrap();
    let sums = ours
        .iter()
        .zip(theirs.iter())
        .map(|(a, b)| a.wrapping_add(*b) & (u64::MAX >> 16));
    assert_eq!(sums.collect::<Vec<_>>(), exact(&product, &w, &r));
    // Encryptions do not repeat.
    assert_ne!(again.request(&product, &r), client.request(&product, &r));
}

#[test]
fn what_is_no_kept_secret_key_is_refused() {
    let saved = Client::new(N8192).to_bytes();
    let set = saved.clone();
    let mut wrong = [set.clone(), set.clone(), set];
    wrong[0].pop();
    wrong[1][0] ^= 1;
    // A digit of three.
    wrong[2][40] |= 3;
    for bytes in wrong {
        assert!(Client::from_bytes(N8192, &bytes).is_err());
    }
    assert!(Client::from_bytes(ParameterSet::N4096, &saved).is_err());
}
