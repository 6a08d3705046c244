//! The leading directions of rows that come batch by batch: a Gram matrix, and its eigenvectors by
//! subspace iteration.
//!
//! This is own code, because the libraries with an eigendecomposition of this size (`nalgebra`,
//! `faer`) would be the largest of this crate's dependencies, for one call before a run.

use candle_core::Tensor;
use marill_model::ops::{Mat, MatMut, gemm};

use crate::{Rng, TrainError};

/// Rounds of the iteration. What the directions asked for hold of the next eigenvalue beyond the
/// spare ones falls by the ratio of the eigenvalues in each: a ratio of 0.7 leaves 2e-5 after 30.
const ROUNDS: usize = 30;
/// Directions beside those asked for, so that these are told apart from more than their neighbor.
const SPARE: usize = 8;
/// A row of which so little is left outside the span of others is of that span, up to rounding.
const DEPENDENT: f64 = 1e-9;
/// Sweeps of the small eigenproblem: it converges quadratically, in fewer than ten.
const SWEEPS: usize = 30;

/// `Xᵀ X` of rows `x / |x|`, `[size, size]` in f64.
pub(crate) struct Gram {
    size: usize,
    sum: Vec<f64>,
    rows: usize,
}

/// Orthonormal directions, the one that holds most of the rows first.
pub(crate) struct Directions {
    /// `[count, size]`.
    pub rows: Vec<f64>,
    /// Of the rows' squared lengths the part along each; all directions there are make up 1.
    pub shares: Vec<f64>,
}

impl Gram {
    pub fn new(size: usize) -> Self {
        Self {
            size,
            sum: vec![0.0; size * size],
            rows: 0,
        }
    }

    /// Adds the rows of `x [N, size]`, each as long as any other: the first row of a text is
    /// hundreds of times longer than the rest in some maps, and would be all that is seen. Rows of
    /// zeros say nothing.
    pub fn add(&mut self, x: &Tensor) -> Result<(), TrainError> {
        let mut unit = Vec::with_capacity(x.elem_count());
        for row in x.to_vec2::<f32>()? {
            let row: Vec<f64> = row.into_iter().map(f64::from).collect();
            let length = length(&row);
            if length > 0.0 {
                unit.extend(row.iter().map(|v| v / length));
            }
        }
        let size = self.size;
        let rows = unit.len() / size;
        let unit = Mat::new(&unit, rows, size);
        let sum = MatMut::new(&mut self.sum, size, size);
        gemm(sum, unit.t(), unit, 1.0, true, true);
        self.rows += rows;
        Ok(())
    }

    /// The `count` leading directions, at most as many as there are columns. Where the rows span
    /// fewer, the rest are random ones.
    pub fn leading(&self, count: usize, rng: &mut Rng) -> Directions {
        let size = self.size;
        let block = (count + SPARE).min(size);
        let mut basis: Vec<f64> = (0..block * size).map(|_| rng.normal()).collect();
        orthonormalize(&mut basis, size, rng);
        for _ in 0..ROUNDS {
            basis = self.times(&basis);
            orthonormalize(&mut basis, size, rng);
        }
        // Rayleigh-Ritz: the eigenvectors inside the subspace, the largest first.
        let image = self.times(&basis);
        let mut small = vec![0.0; block * block];
        gemm(
            MatMut::new(&mut small, block, block),
            Mat::new(&basis, block, size),
            Mat::new(&image, block, size).t(),
            1.0,
            false,
            true,
        );
        let pairs = eigenpairs(small, block);
        let rotation: Vec<f64> = pairs.iter().take(count).flat_map(|p| p.1.clone()).collect();
        let count = count.min(block);
        let mut rows = vec![0.0; count * size];
        gemm(
            MatMut::new(&mut rows, count, size),
            Mat::new(&rotation, count, block),
            Mat::new(&basis, block, size),
            1.0,
            false,
            true,
        );
        let seen = self.rows.max(1) as f64;
        let shares = pairs.iter().take(count).map(|p| p.0.max(0.0) / seen);
        Directions {
            rows,
            shares: shares.collect(),
        }
    }

    /// `basis · XᵀX`.
    fn times(&self, basis: &[f64]) -> Vec<f64> {
        let size = self.size;
        let block = basis.len() / size;
        let mut product = vec![0.0; basis.len()];
        gemm(
            MatMut::new(&mut product, block, size),
            Mat::new(basis, block, size),
            Mat::new(&self.sum, size, size),
            1.0,
            false,
            true,
        );
        product
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn length(row: &[f64]) -> f64 {
    dot(row, row).sqrt()
}

/// Gram-Schmidt, twice over each row of `size`, since once leaves the rounding of what it took
/// away. A row inside the span of the earlier ones becomes a random one.
fn orthonormalize(basis: &mut [f64], size: usize, rng: &mut Rng) {
    for at in 0..basis.len() / size {
        let (done, rest) = basis.split_at_mut(at * size);
        let row = &mut rest[..size];
        loop {
            let before = length(row);
            for other in done.chunks_exact(size).chain(done.chunks_exact(size)) {
                let along = dot(row, other);
                row.iter_mut().zip(other).for_each(|(r, o)| *r -= along * o);
            }
            let left = length(row);
            if left > DEPENDENT * before {
                row.iter_mut().for_each(|r| *r /= left);
                break;
            }
            row.iter_mut().for_each(|r| *r = rng.normal());
        }
    }
}

/// Eigenvalues with their eigenvectors of a symmetric matrix `[n, n]`, the largest first: cyclic
/// Jacobi rotations (Golub and Van Loan, Matrix Computations, section 8.5).
fn eigenpairs(mut h: Vec<f64>, n: usize) -> Vec<(f64, Vec<f64>)> {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    for _ in 0..SWEEPS {
        let mut turned = false;
        for p in 0..n {
            for q in p + 1..n {
                let off = h[p * n + q];
                let around = (h[p * n + p] * h[q * n + q]).abs().sqrt();
                // Below the rounding of what stands on the diagonal.
                if off.abs() <= f64::EPSILON * around {
                    continue;
                }
                turned = true;
                let theta = (h[q * n + q] - h[p * n + p]) / (2.0 * off);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                for k in 0..n {
                    let kp = h[k * n + p];
                    let kq = h[k * n + q];
                    h[k * n + p] = c * kp - s * kq;
                    h[k * n + q] = s * kp + c * kq;
                }
                turn_rows(&mut h, n, [p, q], [c, s]);
                turn_rows(&mut vectors, n, [p, q], [c, s]);
            }
        }
        if !turned {
            break;
        }
    }
    let pair = |i: usize| (h[i * n + i], vectors[i * n..][..n].to_vec());
    let mut pairs: Vec<(f64, Vec<f64>)> = (0..n).map(pair).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs
}

fn turn_rows(m: &mut [f64], n: usize, [p, q]: [usize; 2], [c, s]: [f64; 2]) {
    for k in 0..n {
        let pk = m[p * n + k];
        let qk = m[q * n + k];
        m[p * n + k] = c * pk - s * qk;
        m[q * n + k] = s * pk + c * qk;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Orthonormal rows `[count, size]`.
    fn known(count: usize, size: usize) -> Vec<f64> {
        let mut rng = Rng::new(5, "known directions");
        let mut rows: Vec<f64> = (0..count * size).map(|_| rng.normal()).collect();
        orthonormalize(&mut rows, size, &mut rng);
        rows
    }

    /// Rows along `directions` with deviations falling by a fifth each, and noise everywhere.
    fn samples(directions: &[f64], size: usize, noise: f64) -> Tensor {
        let mut rng = Rng::new(6, "samples");
        let mut rows = Vec::new();
        for _ in 0..2000 {
            let mut row: Vec<f64> = (0..size).map(|_| noise * rng.normal()).collect();
            for (nth, direction) in directions.chunks_exact(size).enumerate() {
                let along = 0.8f64.powi(nth as i32) * rng.normal();
                row.iter_mut()
                    .zip(direction)
                    .for_each(|(r, d)| *r += along * d);
            }
            rows.extend(row.into_iter().map(|v| v as f32));
        }
        Tensor::from_vec(rows, (2000, size), &Device::Cpu).unwrap()
    }

    #[test]
    fn rows_of_known_directions_are_spanned_by_the_leading_ones() {
        let size = 40;
        let count = 6;
        let directions = known(count, size);
        let mut gram = Gram::new(size);
        let x = samples(&directions, size, 0.02);
        // In two batches, as they come.
        gram.add(&x.narrow(0, 0, 700).unwrap()).unwrap();
        gram.add(&x.narrow(0, 700, 1300).unwrap()).unwrap();
        let found = gram.leading(count, &mut Rng::new(1, "a"));
        for direction in directions.chunks_exact(size) {
            let inside: f64 = found
                .rows
                .chunks_exact(size)
                .map(|row| dot(row, direction).powi(2))
                .sum();
            // 34 directions of noise, each 0.02 against the weakest deviation of 0.33, take
            // 34 · 0.06² / 2000 = 6e-5 of its square; ten times that for rows that weigh unequally
            // at one length. A direction that is not found has next to nothing inside.
            assert!(inside > 0.9994, "{inside}");
        }
        assert!(found.shares.is_sorted_by(|a, b| a >= b));
        let together: f64 = found.shares.iter().sum();
        assert!((0.98..1.0).contains(&together), "{together}");
    }

    #[test]
    fn the_eigenvectors_are_those_of_the_matrix() {
        let size = 30;
        let mut gram = Gram::new(size);
        gram.add(&samples(&known(5, size), size, 0.3)).unwrap();
        // All of them, so that nothing is spare.
        let found = gram.leading(size, &mut Rng::new(2, "b"));
        let images = gram.times(&found.rows);
        for ((row, image), share) in found
            .rows
            .chunks_exact(size)
            .zip(images.chunks_exact(size))
            .zip(&found.shares)
        {
            assert!((length(row) - 1.0).abs() < 1e-12);
            let far = row.iter().zip(image).map(|(r, i)| i - r * share * 2000.0);
            // Rounding of a matrix whose largest eigenvalue is a few hundred.
            assert!(far.map(f64::abs).fold(0.0, f64::max) < 1e-9);
        }
        assert!((found.shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_long_row_counts_as_any_other() {
        let size = 12;
        let directions = known(2, size);
        let long = |k: f64, at: usize| -> Vec<f32> {
            let row = &directions[at * size..][..size];
            row.iter().map(|v| (k * v) as f32).collect()
        };
        let rows = [long(1e4, 0), long(1.0, 1), long(1.0, 1)].concat();
        let mut gram = Gram::new(size);
        gram.add(&Tensor::from_vec(rows, (3, size), &Device::Cpu).unwrap())
            .unwrap();
        let found = gram.leading(2, &mut Rng::new(3, "c"));
        assert!((found.shares[0] - 2.0 / 3.0).abs() < 1e-6);
        assert!(dot(&found.rows[..size], &directions[size..]).abs() > 0.999_999);
    }

    #[test]
    fn rows_that_span_less_leave_random_directions() {
        let size = 16;
        let mut gram = Gram::new(size);
        gram.add(&samples(&known(2, size), size, 0.0)).unwrap();
        let found = gram.leading(5, &mut Rng::new(4, "d"));
        assert_eq!(found.rows.len(), 5 * size);
        // f32 rows leave 1e-14 of their squares outside the plane.
        assert!(found.shares[1] > 0.1 && found.shares[2] < 1e-12);
        for (i, a) in found.rows.chunks_exact(size).enumerate() {
            for (j, b) in found.rows.chunks_exact(size).enumerate() {
                let expected = f64::from(u8::from(i == j));
                assert!((dot(a, b) - expected).abs() < 1e-9);
            }
        }
    }
}
