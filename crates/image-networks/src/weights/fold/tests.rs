//! Folded integers against the network in floats, batch norms where torchvision has them; files
//! that are refused.

mod floats;

use std::collections::BTreeMap;

use marill_crypto::{Prg, Seed};
use marill_numeric::fixed::{low_mask, sign_extend};
use safetensors::{Dtype, serialize, tensor::TensorView};

use self::floats::Image;
use super::*;
use crate::{
    shapes::{Size, densenet121, resnet50},
    twin,
};

/// A tensor's shape and numbers.
type Tensor = (Vec<usize>, Vec<f32>);

const SIZE: Size = Size {
    image: 96,
    classes: 5,
    width: 1.0 / 16.0,
    blocks: Some([2, 1, 1, 2]),
};

fn uniform(random: &mut Prg, n: usize, least: f32, most: f32) -> Vec<f32> {
    let words = random.words(n);
    let unit = |word: &u64| (word >> 40) as f32 / (1 << 24) as f32;
    words
        .iter()
        .map(|word| least + (most - least) * unit(word))
        .collect()
}

/// What a file of this network would hold: trained-looking norms, some of their weights negative,
/// and a channel that is constant.
fn file(network: &Network) -> BTreeMap<String, Tensor> {
    let mut random = Prg::new(&Seed::from_bytes([3; 32]), "file");
    let mut tensors = BTreeMap::new();
    let mut norm = |tensors: &mut BTreeMap<String, Tensor>, name: &str, channels: usize| {
        let mut put = |part: &str, numbers: Vec<f32>| {
            tensors.insert(format!("{name}.{part}"), (vec![channels], numbers));
        };
        let mut weight = uniform(&mut random, channels, -0.4, 1.2);
        weight[0] = 0.0;
        weight
            .iter_mut()
            .skip(1)
            .filter(|w| w.abs() < 0.2)
            .for_each(|w| *w = 0.2);
        put("weight", weight);
        put("bias", uniform(&mut random, channels, -0.3, 0.3));
        put("running_mean", uniform(&mut random, channels, -0.2, 0.2));
        put("running_var", uniform(&mut random, channels, 0.5, 1.5));
    };
    let mut kernels = Prg::new(&Seed::from_bytes([4; 32]), "kernels");
    for layer in network.layers() {
        match &layer.op {
            Op::Convolution(kernel) => {
                let channels = network.layers()[layer.inputs[0]].shape[0];
                let mut shape = vec![kernel.outputs, channels, kernel.side, kernel.side];
                if kernel.bias {
                    shape.truncate(2);
                    let bias = uniform(&mut kernels, kernel.outputs, -0.2, 0.2);
                    tensors.insert(format!("{}.bias", layer.name), (vec![kernel.outputs], bias));
                }
                let n: usize = shape.iter().product();
                let most = (4.0 / (n / kernel.outputs) as f32).sqrt();
                let weights = uniform(&mut kernels, n, -most, most);
                tensors.insert(format!("{}.weight", layer.name), (shape, weights));
                if let Some(name) = &kernel.norm {
                    norm(&mut tensors, name, kernel.outputs);
                }
            }
            Op::SidedRelu { norm: name } => norm(&mut tensors, name, layer.shape[0]),
            _ => {}
        }
    }
    tensors
}

fn bytes(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let data = tensors.values().map(|(_, numbers)| {
        numbers
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>()
    });
    let data: Vec<Vec<u8>> = data.collect();
    let views = tensors.iter().zip(&data).map(|((name, (shape, _)), data)| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), data).unwrap(),
        )
    });
    serialize(views, None).unwrap()
}

/// Logits of the integer program, as real numbers, and its class.
fn logits(network: &Network, weights: &Weights, image: &Image) -> (Vec<f64>, u64) {
    let format = network.format();
    let scale = f64::from(format.scale).exp2();
    let pixels = image
        .values
        .iter()
        .map(|x| (x * scale).round() as i64 as u64);
    let pixels: Vec<u64> = pixels.map(|x| x & low_mask(format.bits)).collect();
    let place = network.layers().len() - 2;
    let unit = f64::from(network.layers()[place].scale).exp2();
    let mut logits = Vec::new();
    let class = twin::run(network, weights, &pixels, |at, values| {
        if at == place {
            let real = |x: &u64| sign_extend(*x, format.bits) as f64 / unit;
            logits = values.iter().map(real).collect();
        }
        Ok::<(), NetworkError>(())
    });
    (logits, class.unwrap()[0])
}

fn image() -> Image {
    let mut random = Prg::new(&Seed::from_bytes([5; 32]), "image");
    let pixels = uniform(&mut random, 3 * SIZE.image * SIZE.image, -2.0, 2.0);
    Image {
        shape: [3, SIZE.image, SIZE.image],
        values: pixels.into_iter().map(f64::from).collect(),
    }
}

fn agrees(network: &Network, expected: &dyn Fn(&BTreeMap<String, Tensor>, Image) -> Vec<f64>) {
    let tensors = file(network);
    let weights = from_safetensors(network, &bytes(&tensors)).unwrap();
    let (found, class) = logits(network, &weights, &image());
    let expected = expected(&tensors, image());
    let spread = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        // Forty layers, each rounded at 2^-12: some thousandths of the largest logit.
        assert!(
            (found - expected).abs() < 0.02 * spread,
            "{found} for {expected}"
        );
    }
    let largest = (0..expected.len()).max_by(|a, b| expected[*a].total_cmp(&expected[*b]));
    assert_eq!(Some(class as usize), largest);
}

#[test]
fn resnet_is_the_network_in_floats() {
    let network = resnet50(Format::CRYPTFLOW2, SIZE).unwrap();
    agrees(&network, &|tensors, image| {
        floats::resnet(tensors, image, [2, 1, 1, 2])
    });
}

#[test]
fn densenet_is_the_network_in_floats() {
    let network = densenet121(Format::CRYPTFLOW2, SIZE).unwrap();
    agrees(&network, &|tensors, image| {
        floats::densenet(tensors, image, [2, 1, 1, 2])
    });
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let network = densenet121(Format::CRYPTFLOW2, SIZE).unwrap();
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>), names: &str| {
        let mut tensors = file(&network);
        change(&mut tensors);
        let error = from_safetensors(&network, &bytes(&tensors)).err();
        let text = error.expect("a refusal").to_string();
        assert!(text.contains(names) && text.contains("hint: "), "{text}");
    };
    let norm = "features.denseblock1.denselayer1.norm1";
    let weight = format!("{norm}.weight");
    refused(&|file| drop(file.remove(&weight)), &weight);
    refused(
        &|file| drop(file.insert("se.weight".into(), (vec![1], vec![0.0]))),
        "`se.weight`",
    );
    refused(
        &|file| file.get_mut(&weight).unwrap().0 = vec![2, 2],
        &weight,
    );
    refused(
        &|file| file.get_mut(&weight).unwrap().1[1] = f32::NAN,
        "NaN",
    );
    refused(&|file| file.get_mut(&weight).unwrap().1[1] = 1e-5, &weight);
    let variance = format!("{norm}.running_var");
    refused(
        &|file| file.get_mut(&variance).unwrap().1[0] = -1.0,
        &variance,
    );
    let large = "features.conv0.weight";
    refused(&|file| file.get_mut(large).unwrap().1[147] = 1e4, large);
    let garbage = from_safetensors(&network, b"no file").err().unwrap();
    assert!(garbage.to_string().contains("safetensors"));
    // What training counts is no layer's.
    let mut tensors = file(&network);
    tensors.insert(format!("{norm}.num_batches_tracked"), (vec![], vec![1.0]));
    assert!(from_safetensors(&network, &bytes(&tensors)).is_ok());
}

#[test]
fn other_types_than_f32_are_refused_by_name() {
    let network = resnet50(Format::CRYPTFLOW2, SIZE).unwrap();
    let data = vec![0; 2 * 4 * 3 * 49];
    let view = TensorView::new(Dtype::F16, vec![4, 3, 7, 7], &data).unwrap();
    let file = serialize([("conv1.weight", view)], None).unwrap();
    let text = from_safetensors(&network, &file).err().unwrap().to_string();
    assert!(
        text.contains("`conv1.weight`") && text.contains("F16"),
        "{text}"
    );
}
