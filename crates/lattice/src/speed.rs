//! Microseconds of processor time of each step; measured, not asserted. Run it alone:
//! `cargo test --release -p marill-lattice -- --ignored --nocapture`.

use std::hint::black_box;

use crate::{
    Batch, BatchProduct, Convolution, PackingKeys, Received, Upload,
    batch::tests::{attention, blocks as batch_of_blocks},
    bfv::{Ciphertext, Factor, Factors, SecretKey, Sum, switched_bytes},
    convolution::tests::square,
    modulus::Modulus,
    ntt::every,
    packing::{merge, split},
    parameters::{PRIMES, ParameterSet},
    product::{Client, Matrix, Product, Server},
    ring::Ring,
};

/// Seconds that this thread has worked.
fn worked() -> f64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat");
    let statistics = statistics.expect("Linux counts the time of threads");
    let nanoseconds = statistics
        .split(' ')
        .next()
        .and_then(|n| n.parse::<f64>().ok());
    nanoseconds.expect("nanoseconds come first") / 1e9
}

/// Microseconds of one call: the best of five runs, each long enough for the kernel's accounting,
/// which moves in steps of some milliseconds.
fn time(name: &str, mut step: impl FnMut()) {
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let mut calls = 0;
        let began = worked();
        let mut spent = 0.0;
        while spent < 0.1 {
            for _ in 0..8 {
                step();
            }
            calls += 8;
            spent = worked() - began;
        }
        least = least.min(spent / f64::from(calls));
    }
    println!("{name:44} {:9.1} µs", least * 1e6);
}

fn transforms(n: usize) {
    let modulus = Modulus::new(PRIMES[0]);
    for (name, ntt) in every(n, modulus) {
        let mut x: Vec<u64> = (0..n as u64).collect();
        let b = x.clone();
        time(&format!("n {n}, {name}: forward, one prime"), || {
            ntt.forward(black_box(&mut x));
        });
        time(&format!("n {n}, {name}: inverse, one prime"), || {
            ntt.inverse(black_box(&mut x));
        });
        time(
            &format!("n {n}, {name}: multiply and add, one prime"),
            || {
                ntt.multiply_accumulate(black_box(&mut x), &b, &b);
            },
        );
    }
}

fn steps(set: ParameterSet, bits: u32) {
    let ring = Ring::of(set);
    let key = SecretKey::generate(set);
    let public = crate::PublicKey::from_bytes(set, &key.public_key()).unwrap();
    let plain = vec![5; set.n()];
    let name = |step: &str| format!("n {}, {bits} bits: {step}", set.n());
    let mut bytes = Vec::new();
    time(&name("encrypt"), || {
        bytes.clear();
        key.encrypt(&mut bytes, bits, &plain);
    });
    time(&name("read a ciphertext, transform it"), || {
        black_box(Ciphertext::read(&mut &bytes[..], &ring, "test").unwrap());
    });
    let ciphertext = Ciphertext::read(&mut &bytes[..], &ring, "test").unwrap();
    let factors = vec![3; set.n()];
    time(&name("transform factors"), || {
        black_box(Factor::new(&ring, &factors));
    });
    let factor = Factor::new(&ring, &factors);
    let mut sum = Sum::new(&ring);
    time(&name("multiply and add"), || {
        sum.add_product(&ring, &ciphertext, &factor);
    });
    time(&name("re-randomize"), || {
        black_box(Sum::new(&ring).rerandomize(&public));
    });
    let all: Vec<usize> = (0..set.n()).collect();
    let mut out = Vec::with_capacity(switched_bytes(set, bits, set.n()));
    time(&name("re-randomize, mask, flood, switch"), || {
        out.clear();
        let result = Sum::new(&ring).rerandomize(&public);
        result.switch(&mut out, bits, &all, &plain, 60);
    });
    time(&name("decrypt, every coefficient"), || {
        black_box(
            key.decrypt_switched(&mut &out[..], bits, &all, "test")
                .unwrap(),
        );
    });
}

fn products(bits: u32, factors: Factors, shape: [usize; 3]) {
    let set = ParameterSet::N8192;
    let product = Product::new(set, bits, factors, shape).unwrap();
    let client = Client::new(set);
    let server = Server::new(set, &client.public_key()).unwrap();
    let matrix = Matrix::new(server.key(), &product, &vec![1; shape[0] * shape[1]]).unwrap();
    let r = vec![7; shape[1] * shape[2]];
    println!(
        "{shape:?} {bits} bits {factors:?}: polynomials {:?}, bytes up {}, down {}",
        product.polynomials(),
        product.request_bytes(),
        product.response_bytes(),
    );
    let request = client.request(&product, &r);
    time("  request", || drop(client.request(&product, &r)));
    time("  respond", || {
        drop(server.respond(&matrix, &request).unwrap());
    });
    let (response, _) = server.respond(&matrix, &request).unwrap();
    time("  finish", || {
        drop(client.finish(&product, &response).unwrap());
    });
}

#[test]
#[ignore = "measures; takes seconds"]
fn time_of_each_step_and_product() {
    for n in [4096, 8192] {
        transforms(n);
    }
    for (set, bits) in [(ParameterSet::N4096, 37), (ParameterSet::N8192, 56)] {
        steps(set, bits);
    }
    {
        let bits = 56;
        for shape in [
            [8, 576, 1],
            [576, 8, 1],
            [8, 1536, 1],
            [1536, 8, 1],
            [8, 576, 8],
            [576, 8, 8],
        ] {
            products(bits, Factors::Signed(24), shape);
        }
    }
    for shape in [[128, 64, 3], [64, 128, 3], [576, 1, 1], [64, 1, 64]] {
        products(48, Factors::Masks, shape);
    }
}

/// Packing steps, and the private updates of blocks of SmolLM2-135M at rank 8.
#[test]
#[ignore = "measures; takes seconds"]
fn time_of_packed_updates() {
    let set = ParameterSet::N8192;
    let client = Client::new(set);
    let server = Server::new(set, &client.public_key()).unwrap();
    time("keys for packing, 1 vector and more", || {
        black_box(client.packing_keys(1).unwrap());
    });
    let keys = client.packing_keys(1).unwrap();
    println!("{} bytes of keys for packing", keys.len());
    let keys = PackingKeys::from_bytes(set, 1, &keys).unwrap();
    let ring = Ring::of(set);
    let x = || Sum::new(&ring).pack(&ring);
    let fixed = x();
    time("switch a key", || drop(black_box(keys.turn(3, &fixed))));
    time("split a polynomial", || {
        drop(split(&keys, 2, &fixed, [true; 2]))
    });
    time("merge two polynomials", || {
        drop(merge(&keys, 2, x(), Some(x())));
    });
    for blocks in [1, 15] {
        updates(&client, &server, &keys, blocks);
        attended(&client, &server, &keys, blocks);
    }
}

fn updates(client: &Client, server: &Server, keys: &PackingKeys, blocks: usize) {
    let (inputs, products) = batch_of_blocks(56, 8, 16, blocks);
    let upload = Upload::new(ParameterSet::N8192, 56, &inputs).unwrap();
    packed(client, server, keys, &[upload], &products, 8 * blocks);
}

/// One direction of the products of masks of attention and normalization.
fn attended(client: &Client, server: &Server, keys: &PackingKeys, blocks: usize) {
    let (kept, fresh, products) = attention(48, 8, 120, blocks);
    let set = ParameterSet::N8192;
    let uploads = [kept, fresh].map(|inputs| Upload::new(set, 48, &inputs).unwrap());
    packed(client, server, keys, &uploads, &products, 8 * blocks);
}

fn packed(
    client: &Client,
    server: &Server,
    keys: &PackingKeys,
    uploads: &[Upload],
    products: &[BatchProduct],
    steps: usize,
) {
    let shapes: Vec<&Upload> = uploads.iter().collect();
    let batch = Batch::new(&shapes, products).unwrap();
    let mut received = Vec::new();
    let mut spent = [0.0; 4];
    for upload in uploads {
        let inputs = upload.inputs().iter();
        let values: Vec<Vec<u64>> = inputs
            .map(|input| vec![7; input.vectors() * input.columns()])
            .collect();
        let values: Vec<&[u64]> = values.iter().map(Vec::as_slice).collect();
        let began = worked();
        let request = client.upload(upload, &values);
        let sent = worked();
        received.push(server.receive(upload, &request).unwrap());
        spent[0] += sent - began;
        spent[1] += worked() - sent;
    }
    let received: Vec<&Received> = received.iter().collect();
    let rows = |p: &BatchProduct| p.results() / p.vectors.len();
    let factors: Vec<Vec<i64>> = products
        .iter()
        .map(|p| vec![5; rows(p) * p.columns()])
        .collect();
    let factors: Vec<&[i64]> = factors.iter().map(Vec::as_slice).collect();
    let began = worked();
    let response = server.respond_batch(&batch, keys, &received, &factors);
    let responded = worked();
    client.finish_batch(&batch, &response.unwrap().0).unwrap();
    spent[2] += responded - began;
    spent[3] += worked() - responded;
    let each = spent.map(|seconds| seconds * 1e3 / steps as f64);
    let requests = uploads.iter().map(Upload::request_bytes);
    println!(
        "{steps} blocks and steps: up {:?}, down {} bytes; milliseconds each: upload {:.2}, \
         receive {:.2}, respond {:.2}, finish {:.2}",
        requests.collect::<Vec<_>>(),
        batch.response_bytes(),
        each[0],
        each[1],
        each[2],
        each[3],
    );
}

/// Convolutions of ResNet-50, 37 bits.
#[test]
#[ignore = "measures; takes seconds"]
fn time_of_convolutions() {
    let wide = ParameterSet::N8192;
    for (set, width, shape) in [
        (wide, 13, square(7, 3, 64, 224, 2)),
        (wide, 13, square(3, 64, 64, 56, 1)),
        (wide, 13, square(1, 256, 64, 56, 1)),
        (wide, 13, square(3, 512, 512, 7, 1)),
        (ParameterSet::N4096, 9, square(3, 64, 64, 56, 1)),
    ] {
        let convolution = Convolution::new(set, 37, width, shape).unwrap();
        let client = Client::new(set);
        let server = Server::new(set, &client.public_key()).unwrap();
        let began = worked();
        let request = convolution.request(&client, &vec![3; shape.inputs()]);
        let sent = worked();
        let weights = vec![2; shape.weights()];
        let response = convolution.respond(&server, &weights, &request);
        let responded = worked();
        convolution.finish(&client, &response.unwrap().0).unwrap();
        println!(
            "{shape:?}: request {:.3}, respond {:.3}, finish {:.3} s",
            sent - began,
            responded - sent,
            worked() - responded
        );
    }
}

/// The server's time for layers of ResNet-50, one by one and merged.
#[test]
#[ignore = "measures; takes seconds"]
fn time_of_merged_convolutions() {
    let set = ParameterSet::N8192;
    let client = Client::new(set);
    let server = Server::new(set, &client.public_key()).unwrap();
    let keys = PackingKeys::from_bytes(set, 1, &client.packing_keys(1).unwrap()).unwrap();
    for shape in [
        square(3, 64, 64, 56, 1),
        square(1, 256, 64, 56, 1),
        square(3, 256, 256, 14, 1),
        square(1, 512, 2048, 7, 1),
    ] {
        let plain = Convolution::new(set, 37, 16, shape).unwrap();
        let merged = Convolution::merged(set, 37, 16, shape, 13).unwrap();
        let weights = vec![2; shape.weights()];
        for convolution in [plain, merged] {
            let began = worked();
            let request = convolution.request(&client, &vec![3; shape.inputs()]);
            let sent = worked();
            let response = convolution.respond_merged(&server, Some(&keys), &weights, &request);
            let responded = worked();
            convolution.finish(&client, &response.unwrap().0).unwrap();
            println!(
                "{shape:?}, {} levels, {} + {} bytes: {:.3}, {:.3}, {:.3} s",
                convolution.levels(),
                convolution.request_bytes(),
                convolution.response_bytes(),
                sent - began,
                responded - sent,
                worked() - responded
            );
        }
    }
}
