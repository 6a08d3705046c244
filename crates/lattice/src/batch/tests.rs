//! Batches of both parties: exactness at the shapes of a language model, bytes, bad messages.

mod messages;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::{Client, PackingKeys, Server, sample::Randomness};

const SET: ParameterSet = ParameterSet::N8192;

struct World {
    client: Client,
    server: Server,
    keys: PackingKeys,
}

fn world(vectors: usize) -> World {
    let client = Client::new(SET);
    let server = Server::new(SET, &client.public_key()).unwrap();
    let keys = client.packing_keys(vectors).unwrap();
    assert_eq!(keys.len(), PackingKeys::bytes(SET, vectors));
    let keys = PackingKeys::from_bytes(SET, vectors, &keys).unwrap();
    World {
        client,
        server,
        keys,
    }
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

/// Factors of a width with the corners in front.
fn factors(n: usize, width: u32) -> Vec<i64> {
    let spare = 64 - width;
    numbers(n, width)
        .iter()
        .map(|w| (*w as i64) << spare >> spare)
        .collect()
}

/// A product of all columns and vectors of an input of the first upload.
fn whole(input: usize, shape: Input, rows: usize, factors: Factors) -> BatchProduct {
    BatchProduct {
        terms: vec![Term {
            upload: 0,
            input,
            columns: 0..shape.columns,
        }],
        rows,
        factors,
        vectors: 0..shape.vectors,
    }
}

/// Each product in clear.
fn exact(batch: &Batch, values: &[&[Vec<u64>]], factors: &[Vec<i64>]) -> Vec<Vec<u64>> {
    let low = u64::MAX >> (64 - batch.bits);
    let of_product = |(product, w): (&BatchProduct, &Vec<i64>)| {
        let columns = product.columns();
        let vector = |b: usize| -> Vec<u64> {
            let numbers = product.terms.iter().flat_map(|term| {
                let width = batch.uploads[term.upload].inputs[term.input].columns;
                let values = &values[term.upload][term.input][b * width..];
                values[term.columns.clone()].iter().copied()
            });
            numbers.collect()
        };
        let mut out = Vec::new();
        for b in product.vectors.clone() {
            let r = vector(b);
            for row in w.chunks(columns) {
                let terms = row.iter().zip(&r).map(|(w, r)| r.wrapping_mul(*w as u64));
                out.push(terms.fold(0u64, u64::wrapping_add) & low);
            }
        }
        out
    };
    batch.products.iter().zip(factors).map(of_product).collect()
}

/// What both shares add up to.
fn sums(batch: &Batch, a: &[Zeroizing<Vec<u64>>], b: &[Zeroizing<Vec<u64>>]) -> Vec<Vec<u64>> {
    let low = u64::MAX >> (64 - batch.bits);
    let both = a.iter().zip(b);
    both.map(|(a, b)| {
        let pairs = a.iter().zip(&**b);
        pairs.map(|(a, b)| a.wrapping_add(*b) & low).collect()
    })
    .collect()
}

/// Uploads, responds and finishes; compares declared bytes with those of the messages.
fn check(world: &World, batch: &Batch) {
    let values: Vec<Vec<Vec<u64>>> = batch.uploads.iter().map(values_of).collect();
    let factors: Vec<Vec<i64>> = batch
        .products
        .iter()
        .map(|p| factors(p.rows * p.columns(), p.factors.width(batch.bits)))
        .collect();
    check_with(world, batch, &values, &factors);
}

fn check_with(world: &World, batch: &Batch, values: &[Vec<Vec<u64>>], factors: &[Vec<i64>]) {
    let uploads = batch.uploads.iter().zip(values);
    let received: Vec<Received> = uploads.map(|(shape, v)| send(world, shape, v)).collect();
    let kept: Vec<&Received> = received.iter().collect();
    let values: Vec<&[Vec<u64>]> = values.iter().map(Vec::as_slice).collect();
    check_kept(world, batch, &kept, &values, factors);
}

fn check_kept(
    world: &World,
    batch: &Batch,
    kept: &[&Received],
    values: &[&[Vec<u64>]],
    factors: &[Vec<i64>],
) {
    let lists: Vec<&[i64]> = factors.iter().map(Vec::as_slice).collect();
    let (response, server) = world
        .server
        .respond_batch(batch, &world.keys, kept, &lists)
        .unwrap();
    assert_eq!(response.len(), batch.response_bytes());
    let client = world.client.finish_batch(batch, &response).unwrap();
    let expected = exact(batch, values, factors);
    let sums = sums(batch, &client, &server);
    for (at, (sums, exact)) in sums.iter().zip(expected).enumerate() {
        assert!(*sums == exact, "product {at}: {:?}", batch.products[at]);
    }
}

fn values_of(upload: &Upload) -> Vec<Vec<u64>> {
    let inputs = upload.inputs.iter();
    inputs
        .map(|i| numbers(i.vectors * i.columns, upload.bits))
        .collect()
}

fn send(world: &World, upload: &Upload, values: &[Vec<u64>]) -> Received {
    let lists: Vec<&[u64]> = values.iter().map(Vec::as_slice).collect();
    let request = world.client.upload(upload, &lists);
    assert_eq!(request.len(), upload.request_bytes());
    world.server.receive(upload, &request).unwrap()
}

/// The private updates of blocks of SmolLM2-135M at rank 8, for so many steps ahead: the rows of
/// four inputs through `A`, seven of rank 8 through `B`.
pub(crate) fn blocks(
    bits: u32,
    steps: usize,
    width: u32,
    blocks: usize,
) -> (Vec<Input>, Vec<BatchProduct>) {
    let factors = Factors::Signed(width);
    let ranked = Input::of_columns(SET, bits, factors, [steps, 8]).unwrap();
    let mut inputs = Vec::new();
    let mut products = Vec::new();
    for _ in 0..blocks {
        for rows in [576, 192, 192, 576, 1536, 1536, 576] {
            products.push(whole(inputs.len(), ranked, rows, factors));
            inputs.push(ranked);
        }
    }
    for _ in 0..blocks {
        for (columns, rows) in [(576, 24), (576, 8), (576, 16), (1536, 8)] {
            let input = Input::new(steps, columns);
            products.push(whole(inputs.len(), input, rows, factors));
            inputs.push(input);
        }
    }
    (inputs, products)
}

/// What attention and normalization of blocks with merged heads multiply, for so many steps ahead
/// of `keys` kept ones: halves of keys and values that are kept, then scalars and rows of each.
pub(crate) fn attention(
    bits: u32,
    steps: usize,
    keys: usize,
    blocks: usize,
) -> (Vec<Input>, Vec<Input>, Vec<BatchProduct>) {
    let mut kept = Vec::new();
    let mut products = Vec::new();
    let product = |upload, input, columns, rows, vectors| BatchProduct {
        terms: vec![Term {
            upload,
            input,
            columns,
        }],
        rows,
        factors: Factors::Masks,
        vectors,
    };
    for group in 0..3 * blocks {
        kept.push(Input::new(128, 64));
        kept.push(Input::new(64, 128));
        for step in 0..steps {
            // A query meets all keys to its own; its weights, all values.
            products.push(product(0, 2 * group, 0..64, 1, 0..keys + step));
            products.push(product(0, 2 * group + 1, 0..keys + step, 1, 0..64));
        }
    }
    let scalars = Input::of_columns(SET, bits, Factors::Masks, [1, 5 * steps]).unwrap();
    let mut fresh = Vec::new();
    for block in 0..blocks {
        fresh.extend([Input::new(steps, 576), scalars]);
        for step in 0..steps {
            // A sum of squares; two rows and three groups' values times a scalar.
            products.push(product(1, 2 * block, 0..576, 1, step..step + 1));
            for (at, rows) in [576, 576, 192, 192, 192].into_iter().enumerate() {
                let column = 5 * step + at;
                products.push(product(1, 2 * block + 1, column..column + 1, rows, 0..1));
            }
        }
    }
    (kept, fresh, products)
}

#[test]
fn updates_of_a_block_are_exact() {
    let world = world(8);
    for (bits, width) in [(48, 16), (56, 24), (64, 24)] {
        let (inputs, products) = blocks(bits, 8, width, 1);
        let upload = Upload::new(SET, bits, &inputs).unwrap();
        let batch = Batch::new(&[&upload], &products).unwrap();
        check(&world, &batch);
    }
}

#[test]
fn updates_of_any_number_of_steps_are_exact() {
    let world = world(1);
    for steps in [1, 2, 3, 5, 16] {
        let (inputs, products) = blocks(64, steps, 16, 1);
        let upload = Upload::new(SET, 64, &inputs).unwrap();
        let batch = Batch::new(&[&upload], &products).unwrap();
        let leaves: usize = batch.by_rows.iter().map(Vec::len).sum();
        assert_eq!(leaves, 56, "rows of all that is not tall");
        check(&world, &batch);
    }
}

/// One product by rows and one by columns of 24-bit factors, all the same.
#[test]
fn extreme_vectors_and_factors_are_exact() {
    let world = world(4);
    let bits = 56;
    let signed = Factors::Signed(24);
    let tall = Input::of_columns(SET, bits, signed, [4, 8]).unwrap();
    let inputs = [tall, Input::new(4, 300)];
    let products = [whole(0, tall, 2048, signed), whole(1, inputs[1], 5, signed)];
    let upload = Upload::new(SET, bits, &inputs).unwrap();
    let batch = Batch::new(&[&upload], &products).unwrap();
    assert_eq!([batch.by_rows.len(), batch.by_columns.len()], [1, 1]);
    let most = u64::MAX >> (64 - bits);
    for r in [0, 1, most, most / 2, most / 2 + 1] {
        for w in [0, 1, -1, (1 << 23) - 1, -(1 << 23)] {
            let values = vec![vec![r; 32], vec![r; 1200]];
            let factors = [vec![w; 8 * 2048], vec![w; 1500]];
            check_with(&world, &batch, &[values], &factors);
        }
    }
}

/// Scores of 128 kept keys, values weighted over two uploads, an inner product of one step alone,
/// rows times scalars: what attention and normalization take, with masks on both sides.
#[test]
fn products_of_masks_are_exact() {
    let world = world(1);
    for bits in [37, 48] {
        let scalar = Input::of_columns(SET, bits, Factors::Masks, [1, 3]).unwrap();
        assert_eq!(scalar.digits, if bits == 37 { 1 } else { 2 });
        let inputs = [Input::new(128, 64), Input::new(64, 96), scalar];
        let first = Upload::new(SET, bits, &inputs).unwrap();
        let more = [Input::new(64, 32), Input::new(8, 576)];
        let more = Upload::new(SET, bits, &more).unwrap();
        let term = |upload, input, columns| Term {
            upload,
            input,
            columns,
        };
        let product = |terms, rows, vectors| BatchProduct {
            terms,
            rows,
            factors: Factors::Masks,
            vectors,
        };
        let products = [
            product(vec![term(0, 0, 0..64)], 6, 0..100),
            product(vec![term(0, 1, 0..96), term(1, 0, 0..32)], 3, 0..64),
            product(vec![term(1, 1, 0..576)], 1, 5..6),
            product(vec![term(0, 2, 1..2)], 576, 0..1),
            product(vec![term(0, 2, 2..3)], 192, 0..1),
        ];
        let batch = Batch::new(&[&first, &more], &products).unwrap();
        assert_eq!([batch.by_rows.len(), batch.by_columns.len()], [1, 1]);
        check(&world, &batch);
    }
}

#[test]
fn rows_times_scalars_reach_rings_of_64_bits() {
    let world = world(1);
    let scalar = Input::of_columns(SET, 64, Factors::Masks, [1, 2]).unwrap();
    let upload = Upload::new(SET, 64, &[scalar]).unwrap();
    let products = [whole(0, scalar, 576, Factors::Masks)];
    let batch = Batch::new(&[&upload], &products).unwrap();
    check(&world, &batch);
    // By rows there are no digits: such masks are too wide.
    let few = [whole(0, scalar, 1, Factors::Masks)];
    let refused = Batch::new(&[&upload], &few).err();
    assert!(matches!(refused, Some(LatticeError::Noise { .. })));
}

/// One party of products of shared masks: its keys, and its halves.
struct Half {
    world: World,
    values: Vec<Vec<Vec<u64>>>,
    factors: Vec<Vec<i64>>,
}

fn half(batch: &Batch) -> Half {
    let products = batch.products.iter();
    Half {
        world: world(1),
        values: batch.uploads.iter().map(values_of).collect(),
        factors: products
            .map(|p| factors(p.rows * p.columns(), batch.bits))
            .collect(),
    }
}

fn lists<T>(all: &[Vec<T>]) -> Vec<&[T]> {
    all.iter().map(Vec::as_slice).collect()
}

/// Attention and normalization of a small block, with halves of all masks at both parties.
#[test]
fn products_of_shared_masks_are_exact() {
    let bits = 48;
    let (kept, fresh, products) = attention(bits, 2, 20, 1);
    let uploads = [kept, fresh].map(|inputs| Upload::new(SET, bits, &inputs).unwrap());
    let batch = Batch::new(&[&uploads[0], &uploads[1]], &products).unwrap();
    let parties = [half(&batch), half(&batch)];
    let mut totals: Vec<Vec<u64>> = products.iter().map(|p| vec![0; p.results()]).collect();
    let mut add = |shares: &[Zeroizing<Vec<u64>>]| {
        for (total, share) in totals.iter_mut().zip(shares) {
            let pairs = total.iter_mut().zip(&**share);
            pairs.for_each(|(total, share)| *total = total.wrapping_add(*share));
        }
    };
    for [own, peer] in [[0, 1], [1, 0]].map(|at| at.map(|at| &parties[at])) {
        let sent = batch.uploads.iter().zip(&own.values);
        let received: Vec<Received> = sent.map(|(u, v)| send(&own.world, u, v)).collect();
        let received: Vec<&Received> = received.iter().collect();
        let server = &own.world.server;
        let answer = lists(&peer.factors);
        let (response, theirs) = server
            .respond_batch(&batch, &own.world.keys, &received, &answer)
            .unwrap();
        add(&theirs);
        add(&own.world.client.finish_batch(&batch, &response).unwrap());
        let values: Vec<Vec<&[u64]>> = own.values.iter().map(|v| lists(v)).collect();
        add(&batch.own_products(&lists(&values), &lists(&own.factors)));
    }
    let low = u64::MAX >> (64 - bits);
    let values = |at: usize, input: usize| -> Vec<u64> {
        let [a, b] = [0, 1].map(|p| &parties[p].values[at][input]);
        a.iter().zip(b).map(|(a, b)| a.wrapping_add(*b)).collect()
    };
    let values: Vec<Vec<Vec<u64>>> = (0..2)
        .map(|at| {
            (0..uploads[at].inputs.len())
                .map(|i| values(at, i))
                .collect()
        })
        .collect();
    let factors: Vec<Vec<i64>> = (0..products.len())
        .map(|at| {
            let [a, b] = [0, 1].map(|p| &parties[p].factors[at]);
            a.iter().zip(b).map(|(a, b)| a.wrapping_add(*b)).collect()
        })
        .collect();
    let expected = exact(&batch, &lists(&values), &factors);
    for (at, (total, exact)) in totals.iter().zip(expected).enumerate() {
        let total: Vec<u64> = total.iter().map(|x| x & low).collect();
        assert!(total == exact, "product {at}: {:?}", products[at]);
    }
}

#[test]
fn a_kept_upload_serves_many_batches() {
    let world = world(8);
    let input = Input::new(8, 40);
    let upload = Upload::new(SET, 48, &[input]).unwrap();
    let values = values_of(&upload);
    let kept = send(&world, &upload, &values);
    for rows in [1, 2, 9] {
        let products = [whole(0, input, rows, Factors::Masks)];
        let batch = Batch::new(&[&upload], &products).unwrap();
        for _ in 0..2 {
            let factors = [factors(rows * 40, 48)];
            check_kept(&world, &batch, &[&kept], &[&values], &factors);
        }
    }
}

/// By columns the noise of all rows of a polynomial meets at each place.
#[test]
fn noise_by_columns_keeps_its_bound() {
    let world = world(8);
    let ring = &*world.server.key().ring;
    for (columns, w) in [(8, (1 << 15) - 1), (1, -(1 << 15))] {
        let input = Input::new(8, columns);
        let upload = Upload::new(SET, 56, &[input]).unwrap();
        let products = [whole(0, input, 1024, Factors::Signed(16))];
        let batch = Batch::new(&[&upload], &products).unwrap();
        let kept = send(&world, &upload, &values_of(&upload));
        let factors = vec![w; 1024 * columns];
        let sums = server::sums_by_columns(&world.server, &batch, &world.keys, &kept, &factors);
        let [sum] = <[_; 1]>::try_from(sums).ok().unwrap();
        let (_, noise) = world.client.key.decrypt_packed(&sum.pack(ring), 56);
        let taken = Taken { columns, width: 16 };
        let bound = taken.noise(SET, 56, Factors::Signed(16), 8);
        let most = noise.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        // Nine deviations twice are 81, of which the largest draws reach four; and factors of no
        // bad signs leave some bits.
        assert!(most < bound && most > bound / 1024.0, "{most} of {bound}");
    }
}

/// Masks have no bad signs, so their digits may be wider.
#[test]
fn noise_of_masks_keeps_its_lower_bound() {
    // Ring, vectors, columns, and the digits of a mask.
    for (bits, vectors, columns, digits) in [(64, 1, 1, 4), (48, 1, 3, 2), (56, 8, 2, 2)] {
        let world = world(vectors);
        let ring = &*world.server.key().ring;
        let rows = SET.n() / vectors;
        let input = Input::of_columns(SET, bits, Factors::Masks, [vectors, columns]).unwrap();
        assert_eq!(input.digits, digits, "{bits} bits");
        let taken = Taken {
            columns: columns * digits,
            width: input.digit_bits,
        };
        let upload = Upload::new(SET, bits, &[input]).unwrap();
        let products = [whole(0, input, rows, Factors::Masks)];
        let batch = Batch::new(&[&upload], &products).unwrap();
        let kept = send(&world, &upload, &values_of(&upload));
        let factors = factors(rows * columns, bits);
        let sums = server::sums_by_columns(&world.server, &batch, &world.keys, &kept, &factors);
        let [sum] = <[_; 1]>::try_from(sums).ok().unwrap();
        let (_, noise) = world.client.key.decrypt_packed(&sum.pack(ring), bits);
        let most = noise.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let bound = taken.noise(SET, bits, Factors::Masks, vectors);
        // The bound has nine deviations twice, of which the largest of so many draws reach four or
        // five once.
        assert!(
            most < bound / 8.0 && most > bound / 256.0,
            "{most} of {bound}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn batches_of_any_shape_are_exact(
        bits in 1..=64u32,
        shapes in prop::collection::vec((1..20usize, 1..40usize, 1..60usize), 1..6),
        width in 1..=16u32,
    ) {
        let factors = Factors::Signed(width);
        let inputs: Vec<Input> = shapes
            .iter()
            .map(|(v, c, _)| Input::of_columns(SET, bits, factors, [*v, *c]).unwrap())
            .collect();
        let upload = Upload::new(SET, bits, &inputs).unwrap();
        let mut products = Vec::new();
        for (at, (vectors, columns, rows)) in shapes.iter().enumerate() {
            let mut product = whole(at, inputs[at], *rows, factors);
            product.terms[0].columns = columns / 3..*columns;
            product.vectors = vectors / 2..*vectors;
            products.push(product);
        }
        let batch = Batch::new(&[&upload], &products).unwrap();
        let world = world(batch.least_vectors());
        check(&world, &batch);
    }
}

/// The figures of `docs/lattices.md`: bytes of a block and step, 8 steps ahead, rank 8.
#[test]
fn bytes_are_those_of_the_page() {
    let bytes = |count: usize, bits| {
        let (inputs, products) = blocks(bits, 8, 16, count);
        let upload = Upload::new(SET, bits, &inputs).unwrap();
        let batch = Batch::new(&[&upload], &products).unwrap();
        [upload.request_bytes(), batch.response_bytes()].map(|bytes| bytes / (8 * count))
    };
    let widths = [48, 56, 64];
    let one = [[76_818, 85_375], [76_818, 97_783], [76_818, 110_191]];
    assert_eq!(widths.map(|bits| bytes(1, bits)), one);
    let all = [[62_733, 71_515], [62_733, 82_011], [62_733, 92_508]];
    assert_eq!(widths.map(|bits| bytes(15, bits)), all);
    // Either direction of attention and normalization: kept halves of 128 keys and values, what
    // a step sends, and its response.
    let attended = |count: usize| {
        let (kept, fresh, products) = attention(48, 8, 120, count);
        let uploads = [kept, fresh].map(|inputs| Upload::new(SET, 48, &inputs).unwrap());
        let batch = Batch::new(&[&uploads[0], &uploads[1]], &products).unwrap();
        [
            uploads[0].request_bytes() / (128 * count),
            uploads[1].request_bytes() / (8 * count),
            batch.response_bytes() / (8 * count),
        ]
    };
    assert_eq!(attended(1), [7_201, 19_206, 36_882]);
    assert_eq!(attended(15), [7_201, 11_522, 31_931]);
    // The same of one step, product by product.
    let mut alone = [0, 0];
    for product in blocks(56, 1, 16, 1).1 {
        let shape = [product.rows, product.columns(), 1];
        let product = crate::Product::new(SET, 56, product.factors, shape).unwrap();
        alone[0] += product.request_bytes();
        alone[1] += product.response_bytes();
    }
    assert_eq!(alone, [1_690_128, 1_120_168]);
}
