//! Convolutions of both parties: exactness at the shapes of image networks, bytes, bad messages.

use proptest::prelude::*;

use super::*;

struct World {
    client: Client,
    server: Server,
}

fn world(set: ParameterSet) -> World {
    let client = Client::new(set);
    let server = Server::new(set, &client.public_key()).unwrap();
    World { client, server }
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
        .respond(&world.server, weights, &request)
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
        check(&world(set), &Convolution::new(set, bits, width, shape).unwrap());
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
