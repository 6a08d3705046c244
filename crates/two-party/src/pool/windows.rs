//! Windows of an image: which values are pooled. Public, no messages.

/// Square windows over a plane of values, row by row; those that fit.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    pub height: usize,
    pub width: usize,
    pub side: usize,
    pub stride: usize,
}

impl Windows {
    /// Windows in a column and in a row.
    #[must_use]
    pub fn grid(&self) -> [usize; 2] {
        [self.height, self.width].map(|length| (length - self.side) / self.stride + 1)
    }

    /// Values of one window.
    #[must_use]
    pub fn count(&self) -> usize {
        self.side * self.side
    }

    /// Value `i` of every window in list `i`, of planes one after the other.
    ///
    /// # Panics
    /// When values are no whole planes, or no window fits.
    #[must_use]
    pub fn gathered(&self, values: &[u64]) -> Vec<Vec<u64>> {
        let plane = self.height * self.width;
        assert!(
            values.len().is_multiple_of(plane) && self.side <= self.height.min(self.width),
            "planes of {} by {}",
            self.height,
            self.width
        );
        let [rows, columns] = self.grid();
        let places = (0..self.count()).map(|i| {
            let from = i / self.side * self.width + i % self.side;
            let planes = values.chunks_exact(plane);
            let of = |values: &[u64]| -> Vec<u64> {
                let corners = (0..rows * columns).map(|w| {
                    let row = w / columns * self.stride;
                    row * self.width + w % columns * self.stride
                });
                corners.map(|corner| values[corner + from]).collect()
            };
            planes.flat_map(of).collect()
        });
        places.collect()
    }
}
