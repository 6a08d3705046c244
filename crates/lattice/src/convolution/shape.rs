//! Images, kernels, and their parts of equal rest modulo the stride.

/// Images, kernels and how they meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvolutionShape {
    pub channels: usize,
    /// Rows and columns of an image.
    pub image: [usize; 2],
    pub outputs: usize,
    /// Rows and columns of a kernel.
    pub kernel: [usize; 2],
    pub stride: usize,
    /// Rows and columns of zeros on each side.
    pub padding: usize,
}

impl ConvolutionShape {
    /// Rows and columns of an output; zero where the kernel is larger than the image.
    #[must_use]
    pub fn output(&self) -> [usize; 2] {
        let side = |at: usize| {
            let room = (self.image[at] + 2 * self.padding + 1).saturating_sub(self.kernel[at]);
            room.div_ceil(self.stride)
        };
        [side(0), side(1)]
    }

    /// Numbers of the client.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.channels * self.image[0] * self.image[1]
    }

    /// Weights of the server: by output, channel, row and column.
    #[must_use]
    pub fn weights(&self) -> usize {
        self.outputs * self.channels * self.kernel[0] * self.kernel[1]
    }

    /// Numbers that it gives: by output, row and column.
    #[must_use]
    pub fn results(&self) -> usize {
        let [rows, columns] = self.output();
        self.outputs * rows * columns
    }

    /// Rests modulo the stride, of rows and of columns, that a kernel has weights of.
    pub(super) fn phases(&self) -> [usize; 2] {
        self.kernel.map(|side| side.min(self.stride))
    }

    /// Channels once they are taken apart.
    pub(super) fn parts(&self) -> usize {
        let [rows, columns] = self.phases();
        self.channels * rows * columns
    }

    /// A part's channel, and its rests of rows and columns.
    pub(super) fn part(&self, part: usize) -> [usize; 3] {
        let [rows, columns] = self.phases();
        [
            part / (rows * columns),
            part / columns % rows,
            part % columns,
        ]
    }

    /// Rows and columns of the largest part of a kernel.
    pub(super) fn part_kernel(&self) -> [usize; 2] {
        self.kernel.map(|side| side.div_ceil(self.stride))
    }
}
