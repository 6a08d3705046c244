//! Both networks in floats, written down layer by layer as torchvision's `forward` has them.

use std::collections::BTreeMap;

use super::Tensor;

type File = BTreeMap<String, Tensor>;

/// Channels of rows of pixels.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) shape: [usize; 3],
    pub(super) values: Vec<f64>,
}

impl Image {
    fn at(&self, channel: usize, row: isize, column: isize) -> Option<f64> {
        let [_, rows, columns] = self.shape;
        let inside = (0..rows as isize).contains(&row) && (0..columns as isize).contains(&column);
        let at = (channel * rows) as isize * columns as isize + row * columns as isize + column;
        inside.then(|| self.values[at as usize])
    }

    /// Of every channel's windows, what `of` makes of the values that are inside.
    fn windows(&self, [side, stride, padding]: [usize; 3], of: fn(&[f64]) -> f64) -> Self {
        let [channels, rows, columns] = self.shape;
        let sides = [rows, columns].map(|length| (length + 2 * padding - side) / stride + 1);
        let mut values = Vec::new();
        for channel in 0..channels {
            for at in 0..sides[0] * sides[1] {
                let first = |at: usize| (at * stride) as isize - padding as isize;
                let row = first(at / sides[1]);
                let column = first(at % sides[1]);
                let taps =
                    (0..side * side).map(|tap| ((tap / side) as isize, (tap % side) as isize));
                let window = taps.filter_map(|(a, b)| self.at(channel, row + a, column + b));
                values.push(of(&window.collect::<Vec<f64>>()));
            }
        }
        let shape = [channels, sides[0], sides[1]];
        Self { shape, values }
    }

    fn convolved(&self, file: &File, name: &str, [stride, padding]: [usize; 2]) -> Self {
        let (shape, weights) = &file[&format!("{name}.weight")];
        let [outputs, channels, side, _] = shape[..] else {
            panic!("a kernel");
        };
        let [_, rows, columns] = self.shape;
        let sides = [rows, columns].map(|length| (length + 2 * padding - side) / stride + 1);
        let mut values = Vec::new();
        for output in 0..outputs {
            for at in 0..sides[0] * sides[1] {
                let mut sum = 0.0;
                for tap in 0..channels * side * side {
                    let first = |at: usize| (at * stride) as isize - padding as isize;
                    let row = first(at / sides[1]) + (tap / side % side) as isize;
                    let column = first(at % sides[1]) + (tap % side) as isize;
                    let x = self.at(tap / (side * side), row, column).unwrap_or(0.0);
                    sum += x * f64::from(weights[output * channels * side * side + tap]);
                }
                values.push(sum);
            }
        }
        let shape = [outputs, sides[0], sides[1]];
        Self { shape, values }
    }

    fn normalized(mut self, file: &File, name: &str) -> Self {
        let part = |part: &str| &file[&format!("{name}.{part}")].1;
        let area = self.shape[1] * self.shape[2];
        for (at, x) in self.values.iter_mut().enumerate() {
            let of = |name: &str| f64::from(part(name)[at / area]);
            let deviation = (of("running_var") + 1e-5).sqrt();
            *x = (*x - of("running_mean")) / deviation * of("weight") + of("bias");
        }
        self
    }

    fn rectified(mut self) -> Self {
        self.values.iter_mut().for_each(|x| *x = x.max(0.0));
        self
    }

    fn plus(mut self, other: &Self) -> Self {
        let pairs = self.values.iter_mut().zip(&other.values);
        pairs.for_each(|(x, y)| *x += y);
        self
    }

    fn with(mut self, other: &Self) -> Self {
        self.values.extend(&other.values);
        self.shape[0] += other.shape[0];
        self
    }

    fn classified(&self, file: &File, name: &str) -> Vec<f64> {
        let means = self.windows([self.shape[1], 1, 0], mean).values;
        let (_, weights) = &file[&format!("{name}.weight")];
        let (_, biases) = &file[&format!("{name}.bias")];
        let rows = weights.chunks(means.len()).zip(biases);
        let logit = |(row, bias): (&[f32], &f32)| {
            let terms = row.iter().zip(&means).map(|(w, x)| f64::from(*w) * x);
            terms.sum::<f64>() + f64::from(*bias)
        };
        rows.map(logit).collect()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn stem(file: &File, image: &Image, names: [&str; 2]) -> Image {
    let x = image.convolved(file, names[0], [2, 3]);
    x.normalized(file, names[1])
        .rectified()
        .windows([3, 2, 1], largest)
}

pub(super) fn resnet(file: &File, image: Image, blocks: [usize; 4]) -> Vec<f64> {
    let mut x = stem(file, &image, ["conv1", "bn1"]);
    for (stage, count) in blocks.into_iter().enumerate() {
        for block in 0..count {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = |part: &str| format!("layer{}.{block}.{part}", stage + 1);
            let y = x.convolved(file, &name("conv1"), [1, 0]);
            let y = y.normalized(file, &name("bn1")).rectified();
            let y = y.convolved(file, &name("conv2"), [stride, 1]);
            let y = y.normalized(file, &name("bn2")).rectified();
            let y = y.convolved(file, &name("conv3"), [1, 0]);
            let y = y.normalized(file, &name("bn3"));
            if block == 0 {
                x = x.convolved(file, &name("downsample.0"), [stride, 0]);
                x = x.normalized(file, &name("downsample.1"));
            }
            x = y.plus(&x).rectified();
        }
    }
    x.classified(file, "fc")
}

pub(super) fn densenet(file: &File, image: Image, blocks: [usize; 4]) -> Vec<f64> {
    let mut x = stem(file, &image, ["features.conv0", "features.norm0"]);
    for (block, count) in blocks.into_iter().enumerate() {
        let block = block + 1;
        for layer in 1..=count {
            let name = |part: &str| format!("features.denseblock{block}.denselayer{layer}.{part}");
            let y = x.clone().normalized(file, &name("norm1")).rectified();
            let y = y.convolved(file, &name("conv1"), [1, 0]);
            let y = y.normalized(file, &name("norm2")).rectified();
            x = x.with(&y.convolved(file, &name("conv2"), [1, 1]));
        }
        if block < 4 {
            let name = |part: &str| format!("features.transition{block}.{part}");
            let y = x.normalized(file, &name("norm")).rectified();
            x = y
                .convolved(file, &name("conv"), [1, 0])
                .windows([2, 2, 0], mean);
        }
    }
    let x = x.normalized(file, "features.norm5").rectified();
    x.classified(file, "classifier")
}
