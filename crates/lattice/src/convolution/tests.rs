//! Convolutions of both parties: exactness at the shapes of image networks, bytes, bad messages.

use proptest::prelude::*;

use super::{layouts::BYTES_PER_MICROSECOND, *};

struct World {
    client: Client,
    server: Server,
    keys: Option<PackingKeys>,
}

fn world(set: ParameterSet) -> World {
    let client = Client::new(set);
    let server = Server::new(set, &client.public_key()).unwrap();
    World {
        client,
        server,
        keys: None,
    }
}

/// With packing keys of all levels.
fn packing_world() -> &'static World {
    static WORLD: std::sync::OnceLock<World> = std::sync::OnceLock::new();
    WORLD.get_or_init(|| {
        let set = ParameterSet::N8192;
        let world = world(set);
        let keys = world.client.packing_keys(1).unwrap();
        let keys = PackingKeys::from_bytes(set, 1, &keys).unwrap();
        World {
            keys: Some(keys),
            ..world
        }
    })
}

pub(crate) fn square(
    kernel: usize,
    channels: usize,
    outputs: usize,
    image: usize,
    stride: usize,
) -> ConvolutionShape {
    ConvolutionShape {
        channels,
        image: [image; 2],
        outputs,
        kernel: [kernel; 2],
        stride,
        padding: kernel / 2,
    }
}

/// The convolution in clear, modulo `2^bits`.
fn exact(shape: &ConvolutionShape, bits: u32, x: &[u64], weights: &[i64]) -> Vec<u64> {
    let [rows, columns] = shape.image;
    let [tall, wide] = shape.kernel;
    let [out_rows, out_columns] = shape.output();
    let mut out = Vec::new();
    for output in 0..shape.outputs {
        for i in 0..out_rows {
            for j in 0..out_columns {
                let mut sum = 0u64;
                for channel in 0..shape.channels {
                    for a in 0..tall {
                        for b in 0..wide {
                            let y = (i * shape.stride + a).wrapping_sub(shape.padding);
                            let c = (j * shape.stride + b).wrapping_sub(shape.padding);
                            if y < rows && c < columns {
                                let at = (output * shape.channels + channel) * tall + a;
                                let w = weights[at * wide + b] as u64;
                                let x = x[(channel * rows + y) * columns + c];
                                sum = sum.wrapping_add(x.wrapping_mul(w));
                            }
                        }
                    }
                }
                out.push(sum & (u64::MAX >> (64 - bits)));
            }
        }
    }
    out
}

fn run(world: &World, convolution: &Convolution, x: &[u64], weights: &[i64]) -> Vec<u64> {
    let request = convolution.request(&world.client, x);
    assert_eq!(request.len(), convolution.request_bytes());
    let (response, server) = convolution
        .respond_merged(&world.server, world.keys.as_ref(), weights, &request)
        .unwrap();
    assert_eq!(response.len(), convolution.response_bytes());
    let client = convolution.finish(&world.client, &response).unwrap();
    let low = u64::MAX >> (64 - convolution.bits);
    let pairs = client.iter().zip(&*server);
    pairs.map(|(a, b)| a.wrapping_add(*b) & low).collect()
}

fn weights(n: usize, width: u32) -> Vec<i64> {
    let words = Randomness::fresh().words(n, width);
    let mut out: Vec<i64> = words
        .iter()
        .map(|w| *w as i64 - (1 << (width - 1)))
        .collect();
    out[0] = -(1 << (width - 1));
    out
}

fn check(world: &World, convolution: &Convolution) {
    let shape = convolution.shape;
    let mut x = Randomness::fresh().words(shape.inputs(), convolution.bits);
    x[0] = u64::MAX >> (64 - convolution.bits);
    let weights = weights(shape.weights(), convolution.width);
    let expected = exact(&shape, convolution.bits, &x, &weights);
    assert!(
        run(world, convolution, &x, &weights) == expected,
        "{convolution:?}"
    );
}

#[test]
fn layers_of_image_networks_are_exact() {
    let world = world(ParameterSet::N8192);
    for (shape, bits) in [
        // The first layer of ResNet-50 on a quarter of its image, a stage's 3 x 3, and a
        // projection that skips pixels.
        (square(7, 3, 4, 112, 2), 37),
        (square(3, 32, 16, 14, 1), 41),
        (square(1, 48, 24, 14, 2), 64),
        (square(3, 5, 3, 56, 2), 37),
    ] {
        let convolution = Convolution::new(ParameterSet::N8192, bits, 13, shape).unwrap();
        check(&world, &convolution);
    }
}

/// Of few levels, and of as many as there are.
fn merged(bits: u32, shape: ConvolutionShape, levels: u32) -> Convolution {
    Convolution::merged(ParameterSet::N8192, bits, 16, shape, levels).unwrap()
}

#[test]
fn merged_layers_are_exact() {
    for (shape, levels) in [
        (square(3, 32, 40, 14, 1), 13),
        (square(1, 256, 70, 7, 1), 13),
        (square(1, 256, 70, 7, 1), 3),
        (square(3, 64, 33, 8, 2), 13),
        // A dense layer.
        (square(1, 300, 50, 1, 1), 13),
    ] {
        let convolution = merged(37, shape, levels);
        assert!(
            (1..=levels).contains(&convolution.levels()),
            "{convolution:?}"
        );
        check(packing_world(), &convolution);
    }
}

/// Noise of merged results, before they are flooded, against the bound that flooding is above.
#[test]
fn merged_noise_stays_below_its_bound() {
    let world = packing_world();
    let shape = square(3, 64, 64, 8, 1);
    let convolution = merged(37, shape, 13);
    let ring: &Ring = &world.server.key().ring;
    let x = Randomness::fresh().words(shape.inputs(), 37);
    // The largest weights, of which a bound must hold too.
    let weights = vec![-(1 << 15); shape.weights()];
    let request = convolution.request(&world.client, &x);
    let mut rest = &request[TAG_BYTES..];
    let pieces = shape.parts().div_ceil(convolution.layout.channels);
    let read = (0..convolution.tiles().len() * pieces)
        .map(|_| Ciphertext::read(&mut rest, ring, REQUEST).unwrap());
    let ciphertexts: Vec<Ciphertext> = read.collect();
    let work = Work {
        convolution: &convolution,
        ring,
        keys: world.keys.as_ref(),
        weights: &weights,
        ciphertexts: &ciphertexts,
        pieces,
    };
    let outputs = 0..shape.outputs.min(convolution.layout.merged());
    let results = work.merged(&outputs, 0, 0).unwrap();
    let values = convolution.values(&convolution.tiles()[0], &outputs);
    let (_, noise) = world.client.key.decrypt_packed(&results[0], 37);
    let largest = values.iter().map(|[place, _]| noise[*place].abs());
    let largest = largest.fold(0.0, f64::max);
    let count = convolution.layout.outputs * shape.channels * 9;
    let bound = Factors::Signed(16).noise(ParameterSet::N8192, 37, count)
        + crate::packing::noise(ParameterSet::N8192, convolution.levels());
    println!("2^{:.1} of 2^{:.1}", largest.log2(), bound.log2());
    // Below the bound, and not so far that nothing was measured: within twelve bits.
    assert!(largest < bound && largest * 4096.0 > bound);
}

#[test]
#[ignore = "prints what another set would take"]
fn bytes_of_resnet_by_set() {
    let mut layers = vec![
        (square(7, 3, 64, 224, 2), 1),
        (square(1, 2048, 1000, 1, 1), 1),
    ];
    let mut inputs = 64;
    for (stage, count) in [3, 4, 6, 3].into_iter().enumerate() {
        let inner = 64 << stage;
        let side = 56 >> stage;
        let from = if stage == 0 { 56 } else { 2 * side };
        let stride = if stage == 0 { 1 } else { 2 };
        layers.push((square(1, inputs, inner, from, 1), 1));
        layers.push((square(3, inner, inner, from, stride), 1));
        layers.push((square(1, inputs, 4 * inner, from, stride), 1));
        layers.push((square(1, 4 * inner, inner, side, 1), count - 1));
        layers.push((square(3, inner, inner, side, 1), count - 1));
        layers.push((square(1, inner, 4 * inner, side, 1), count));
        inputs = 4 * inner;
    }
    let n8192 = [0, 13].map(|most| (ParameterSet::N8192, most));
    let n4096 = [0, 12].map(|most| (ParameterSet::N4096, most));
    for (set, most) in n8192.into_iter().chain(n4096) {
        for each_microsecond in [0, BYTES_PER_MICROSECOND, 25] {
            let mut sums = [0; 2];
            let mut time = 0;
            for (shape, count) in &layers {
                let of = |layout| {
                    let bytes: usize = bytes(set, 37, shape, layout).iter().sum();
                    let time = (cost(set, 37, shape, layout) - bytes) / BYTES_PER_MICROSECOND;
                    (bytes, time)
                };
                let weighed = |layout| of(layout).0 + each_microsecond * of(layout).1;
                let found = cheapest(set.n(), shape, most, weighed).unwrap();
                let each = bytes(set, 37, shape, found);
                sums[0] += count * each[0];
                sums[1] += count * each[1];
                time += count * of(found).1;
            }
            println!(
                "{set:?}, {most} levels, {each_microsecond} bytes a microsecond: {} + {} MB, \
                 {} ms of N8192",
                sums[0] / 1_000_000,
                sums[1] / 1_000_000,
                time / 1_000
            );
        }
    }
}

#[test]
fn merged_results_need_keys_of_their_levels() {
    let convolution = merged(37, square(1, 256, 64, 7, 1), 13);
    let world = packing_world();
    let shape = convolution.shape;
    let request = convolution.request(&world.client, &vec![1; shape.inputs()]);
    let weights = vec![1; shape.weights()];
    let refused = |keys| {
        let responded = convolution.respond_merged(&world.server, keys, &weights, &request);
        matches!(responded.err(), Some(LatticeError::Range { .. }))
    };
    assert!(refused(None));
    let set = ParameterSet::N8192;
    let bytes = world.client.packing_keys(4096).unwrap();
    let few = PackingKeys::from_bytes(set, 4096, &bytes).unwrap();
    assert!(refused(Some(&few)));
    assert!(!refused(world.keys.as_ref()));
    // The small set has no keys.
    let small = Convolution::merged(ParameterSet::N4096, 37, 8, shape, 3).err();
    assert!(matches!(small, Some(LatticeError::Range { .. })));
}

/// Bytes of stages of ResNet-50, up and down, without and with merging.
#[test]
fn merged_layers_take_fewer_bytes() {
    let bytes =
        |convolution: Convolution| [convolution.request_bytes(), convolution.response_bytes()];
    for shape in [square(3, 256, 256, 14, 1), square(1, 512, 2048, 7, 1)] {
        let set = ParameterSet::N8192;
        let plain = bytes(Convolution::new(set, 37, 16, shape).unwrap());
        let packed = bytes(merged(37, shape, 13));
        let sum = |bytes: [usize; 2]| bytes[0] + bytes[1];
        println!("{shape:?}: {plain:?}, merged {packed:?}");
        // Half at least: with the time that a layout takes as a part of its cost.
        assert!(2 * sum(packed) < sum(plain), "{shape:?}");
    }
}

#[test]
fn the_small_set_holds_rings_of_37_bits() {
    let set = ParameterSet::N4096;
    let convolution = Convolution::new(set, 37, 9, square(3, 16, 12, 14, 1)).unwrap();
    check(&world(set), &convolution);
    let refused = Convolution::new(set, 37, 20, square(3, 16, 12, 14, 1)).err();
    assert!(matches!(refused, Some(LatticeError::Noise { .. })));
}

#[test]
fn extreme_images_and_weights_are_exact() {
    let world = world(ParameterSet::N8192);
    let shape = square(3, 20, 6, 10, 1);
    let convolution = Convolution::new(ParameterSet::N8192, 64, 13, shape).unwrap();
    for x in [0, 1, u64::MAX, 1 << 63] {
        for w in [0, -1, (1 << 12) - 1, -(1 << 12)] {
            let x = vec![x; shape.inputs()];
            let weights = vec![w; shape.weights()];
            let expected = exact(&shape, 64, &x, &weights);
            assert_eq!(run(&world, &convolution, &x, &weights), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn convolutions_of_any_shape_are_exact(
        bits in 1..=64u32,
        width in 1..=13u32,
        channels in 1..6usize,
        outputs in 1..6usize,
        image in [1..40usize, 1..40usize],
        kernel in [1..6usize, 1..6usize],
        stride in 1..4usize,
        padding in 0..5usize,
    ) {
        let padding = padding.min(kernel[0].max(kernel[1]) - 1);
        let shape = ConvolutionShape { channels, image, outputs, kernel, stride, padding };
        prop_assume!(!shape.output().contains(&0));
        let set = ParameterSet::N8192;
        let world = packing_world();
        check(world, &Convolution::new(set, bits, width, shape).unwrap());
        if bits <= 56 {
            check(world, &Convolution::merged(set, bits, width, shape, 13).unwrap());
        }
    }
}

/// The figures of `docs/lattices.md`.
#[test]
fn bytes_are_those_of_the_page() {
    let bytes = |set, width, shape| {
        let convolution = Convolution::new(set, 37, width, shape).unwrap();
        [convolution.request_bytes(), convolution.response_bytes()]
    };
    let wide = ParameterSet::N8192;
    let sizes = [
        bytes(wide, 13, square(7, 3, 64, 224, 2)),
        bytes(wide, 13, square(3, 64, 64, 56, 1)),
        bytes(wide, 13, square(1, 256, 64, 56, 1)),
        bytes(wide, 13, square(3, 512, 512, 7, 1)),
        bytes(ParameterSet::N4096, 9, square(3, 64, 64, 56, 1)),
    ];
    let page = [
        [3_687_184, 10_174_480],
        [4_916_240, 4_083_728],
        [15_977_744, 7_163_920],
        [3_994_448, 5_082_640],
        [3_278_864, 2_543_632],
    ];
    assert_eq!(sizes, page);
}

#[test]
fn messages_of_another_shape_are_refused() {
    let set = ParameterSet::N8192;
    let world = world(set);
    let shape = square(3, 2, 2, 8, 1);
    let convolution = Convolution::new(set, 37, 8, shape).unwrap();
    let weights = vec![1; shape.weights()];
    let mut request = convolution.request(&world.client, &vec![1; shape.inputs()]);
    let (response, _) = convolution
        .respond(&world.server, &weights, &request)
        .unwrap();
    let other = Convolution::new(set, 37, 9, shape).unwrap();
    let refused = other.respond(&world.server, &weights, &request).err();
    assert_eq!(refused, Some(LatticeError::Parameters { message: REQUEST }));
    let refused = other.finish(&world.client, &response).err();
    let message = RESPONSE;
    assert_eq!(refused, Some(LatticeError::Parameters { message }));
    let refused = convolution.finish(&world.client, &response[1..]).err();
    assert!(matches!(refused, Some(LatticeError::Length { .. })));
    let mut wide = weights.clone();
    wide[3] = 128;
    let refused = convolution.respond(&world.server, &wide, &request).err();
    assert!(matches!(refused, Some(LatticeError::Range { .. })));
    let last = request.len() - 7;
    request[last..].fill(0xff);
    let refused = convolution.respond(&world.server, &weights, &request).err();
    assert!(matches!(refused, Some(LatticeError::Malformed { .. })));
}

#[test]
fn shapes_out_of_range_are_refused() {
    let good = square(3, 2, 2, 8, 1);
    let refused = |bits, width, change: fn(&mut ConvolutionShape)| {
        let mut shape = good;
        change(&mut shape);
        Convolution::new(ParameterSet::N8192, bits, width, shape).err()
    };
    for refused in [
        refused(0, 8, |_| ()),
        refused(65, 8, |_| ()),
        refused(37, 0, |_| ()),
        refused(37, 65, |_| ()),
        refused(37, 8, |shape| shape.channels = 0),
        refused(37, 8, |shape| shape.outputs = 0),
        refused(37, 8, |shape| shape.stride = 0),
        refused(37, 8, |shape| shape.padding = 3),
        refused(37, 8, |shape| shape.kernel = [11, 3]),
        refused(37, 8, |shape| {
            shape.image = [200, 200];
            shape.kernel = [100, 100];
        }),
    ] {
        assert!(matches!(refused, Some(LatticeError::Range { .. })));
    }
}
