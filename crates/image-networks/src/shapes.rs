//! The networks that are there: ResNet-50 and DenseNet-121, of any image, width and classes.

use crate::{
    error::NetworkError,
    graph::{Builder, Format, Kernel, Network},
};

/// What a network's shapes depend on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Rows and columns of the image.
    pub image: usize,
    pub classes: usize,
    /// Channels are multiplied by it, and rounded up: 1 for the network as published.
    pub width: f64,
    /// Blocks of the four stages; none for the network as published.
    pub blocks: Option<[usize; 4]>,
}

impl Size {
    /// The network as published: 224 by 224 pixels, 1,000 classes.
    pub const PUBLISHED: Self = Self {
        image: 224,
        classes: 1000,
        width: 1.0,
        blocks: None,
    };

    fn channels(&self, published: usize) -> usize {
        ((published as f64 * self.width).ceil() as usize).max(1)
    }

    fn check(&self) -> Result<(), NetworkError> {
        let refused = |what: String, hint| {
            Err(NetworkError::Shape {
                layer: "image".into(),
                what,
                hint,
            })
        };
        if !(32..=1024).contains(&self.image) {
            let what = format!("images of {0} by {0} pixels", self.image);
            return refused(what, "take 32 to 1024");
        }
        if !(2..=16_384).contains(&self.classes) {
            return refused(format!("{} classes", self.classes), "take 2 to 16384");
        }
        if !(self.width > 0.0 && self.width <= 4.0) {
            let hint = "take more than 0, and 4 at most";
            return refused(format!("a width of {}", self.width), hint);
        }
        Ok(())
    }
}

fn kernel(outputs: usize, side: usize, stride: usize, norm: Option<&str>) -> Kernel {
    Kernel {
        outputs,
        side,
        stride,
        padding: side / 2,
        norm: norm.map(String::from),
        norm_before: None,
        bias: false,
    }
}

/// The stem of both: a convolution and a max-pool, each of stride 2. ReLU and truncation grow with
/// their argument, so they are taken of the pool's maxima, a quarter of the numbers.
fn stem(net: &mut Builder, names: [&str; 2], outputs: usize) -> Result<usize, NetworkError> {
    let [convolution, norm] = names;
    let x = net.convolution(convolution, 0, kernel(outputs, 7, 2, Some(norm)))?;
    let x = net.max_pool("maxpool", x, [3, 2, 1])?;
    Ok(net.relu("relu", x))
}

/// The average of each channel, a dense layer, and the place of the largest of its outputs.
fn head(
    net: &mut Builder,
    input: usize,
    mut dense: Kernel,
    name: &str,
) -> Result<(), NetworkError> {
    let side = net.rows(input);
    let x = net.average_pool("avgpool", input, [side, 1])?;
    dense.bias = true;
    let logits = net.convolution(name, x, dense)?;
    net.arg_max("class", logits);
    Ok(())
}

/// ResNet-50 (He et al., arXiv 1512.03385) as torchvision has it: the stride of a block is its 3 by
/// 3 convolution's (v1.5).
///
/// # Errors
/// Sizes out of range.
pub fn resnet50(format: Format, size: Size) -> Result<Network, NetworkError> {
    size.check()?;
    let mut net = Builder::new("resnet50".into(), format, [3, size.image, size.image]);
    let mut x = stem(&mut net, ["conv1", "bn1"], size.channels(64))?;
    let blocks = size.blocks.unwrap_or([3, 4, 6, 3]);
    for (stage, count) in blocks.into_iter().enumerate() {
        let inner = size.channels(64 << stage);
        for block in 0..count {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let prefix = format!("layer{}.{block}", stage + 1);
            x = bottleneck(&mut net, &prefix, x, [inner, 4 * inner, stride])?;
        }
    }
    head(&mut net, x, kernel(size.classes, 1, 1, None), "fc")?;
    Ok(net.finish())
}

/// Three convolutions, and what they are added to: the input, or a projection of it.
fn bottleneck(
    net: &mut Builder,
    prefix: &str,
    input: usize,
    [inner, outputs, stride]: [usize; 3],
) -> Result<usize, NetworkError> {
    let mut x = input;
    let shapes = [(inner, 1, 1), (inner, 3, stride), (outputs, 1, 1)];
    for (at, (outputs, side, stride)) in shapes.into_iter().enumerate() {
        let at = at + 1;
        let norm = format!("{prefix}.bn{at}");
        let kernel = kernel(outputs, side, stride, Some(&norm));
        x = net.convolution(&format!("{prefix}.conv{at}"), x, kernel)?;
        if at < 3 {
            x = net.relu(&format!("{prefix}.relu{at}"), x);
        }
    }
    let mut shortcut = input;
    if stride != 1 || net.channels(input) != outputs {
        let norm = format!("{prefix}.downsample.1");
        let kernel = kernel(outputs, 1, stride, Some(&norm));
        shortcut = net.convolution(&format!("{prefix}.downsample.0"), input, kernel)?;
    }
    let sum = net.add(&format!("{prefix}.add"), [x, shortcut]);
    Ok(net.relu(&format!("{prefix}.relu3"), sum))
}

/// DenseNet-121 (Huang et al., arXiv 1608.06993) as torchvision has it. Averages of transitions are
/// taken before their 1 by 1 convolutions, with which they commute.
///
/// # Errors
/// Sizes out of range.
pub fn densenet121(format: Format, size: Size) -> Result<Network, NetworkError> {
    size.check()?;
    let mut net = Builder::new("densenet121".into(), format, [3, size.image, size.image]);
    let names = ["features.conv0", "features.norm0"];
    let mut x = stem(&mut net, names, size.channels(64))?;
    let growth = size.channels(32);
    let blocks = size.blocks.unwrap_or([6, 12, 24, 16]);
    for (block, layers) in blocks.into_iter().enumerate() {
        let block = block + 1;
        for layer in 0..layers {
            let prefix = format!("features.denseblock{block}.denselayer{}", layer + 1);
            let grown = dense_layer(&mut net, &prefix, x, growth)?;
            x = net.concat(&format!("{prefix}.concat"), &[x, grown]);
        }
        if block < 4 {
            x = transition(&mut net, &format!("features.transition{block}"), x)?;
        }
    }
    let norm = "features.norm5";
    let x = net.sided_relu(norm, x);
    let mut dense = kernel(size.classes, 1, 1, None);
    dense.norm_before = Some(norm.into());
    head(&mut net, x, dense, "classifier")?;
    Ok(net.finish())
}

fn dense_layer(
    net: &mut Builder,
    prefix: &str,
    input: usize,
    growth: usize,
) -> Result<usize, NetworkError> {
    let norms = [1, 2].map(|at| format!("{prefix}.norm{at}"));
    let x = net.sided_relu(&norms[0], input);
    let mut first = kernel(4 * growth, 1, 1, Some(&norms[1]));
    first.norm_before = Some(norms[0].clone());
    let x = net.convolution(&format!("{prefix}.conv1"), x, first)?;
    let x = net.relu(&format!("{prefix}.relu2"), x);
    let x = net.convolution(&format!("{prefix}.conv2"), x, kernel(growth, 3, 1, None))?;
    Ok(net.truncate(&format!("{prefix}.out"), x))
}

fn transition(net: &mut Builder, prefix: &str, input: usize) -> Result<usize, NetworkError> {
    let norm = format!("{prefix}.norm");
    let x = net.sided_relu(&norm, input);
    let x = net.average_pool(&format!("{prefix}.pool"), x, [2, 2])?;
    let mut half = kernel((net.channels(x) / 2).max(1), 1, 1, None);
    half.norm_before = Some(norm);
    let x = net.convolution(&format!("{prefix}.conv"), x, half)?;
    Ok(net.truncate(&format!("{prefix}.out"), x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplications of torchvision's networks, dense layers among them.
    #[test]
    fn published_networks_have_their_multiplications() {
        let of = |network: Result<Network, NetworkError>| network.unwrap().multiplications();
        let format = Format::CRYPTFLOW2;
        assert_eq!(of(resnet50(format, Size::PUBLISHED)), 4_089_184_256);
        // 2.834 G, less three quarters of what transitions multiply behind their averages.
        let dense = of(densenet121(format, Size::PUBLISHED));
        assert_eq!(dense, 2_834_161_664 - 3 * 25_690_112 * 3);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        let published = Size::PUBLISHED;
        let wrong = [
            Size {
                image: 31,
                ..published
            },
            Size {
                image: 1025,
                ..published
            },
            Size {
                classes: 1,
                ..published
            },
            Size {
                width: 0.0,
                ..published
            },
            Size {
                width: f64::NAN,
                ..published
            },
        ];
        for size in wrong {
            for make in [resnet50, densenet121] {
                let refused = make(Format::CRYPTFLOW2, size).err();
                assert!(
                    matches!(refused, Some(NetworkError::Shape { .. })),
                    "{size:?}"
                );
            }
        }
    }
}
