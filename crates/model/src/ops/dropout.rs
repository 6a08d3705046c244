//! Dropout for the inputs of low-rank factors, the same in a resumed run and in a recomputed
//! forward pass.

use rayon::prelude::*;

const CHUNK: usize = 8192;

/// Which inputs of the LoRA updates are left out in one forward and backward pass.
///
/// A pure function of key, place and element, so neither threads nor a resumed run change it. What
/// is kept is scaled so that the mean stays. Source: Srivastava et al., "Dropout", JMLR 2014.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The share that is left out, in `[0, 1)`.
    pub rate: f32,
    pub key: u64,
}

/// SplitMix64's finalizer.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Dropout {
    /// The same pass at one place of the model.
    pub fn at(self, place: u64) -> Self {
        Self {
            key: mix(self.key ^ mix(place.wrapping_add(1))),
            ..self
        }
    }

    /// `1 / (1 - rate)` or 0 for an element.
    fn factor(self, element: usize) -> f32 {
        let bits = mix(self
            .key
            .wrapping_add((element as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let uniform = (bits >> 40) as f32 / (1u64 << 24) as f32;
        if uniform < self.rate {
            0.0
        } else {
            1.0 / (1.0 - self.rate)
        }
    }

    pub(super) fn apply(self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(nth, (y, x))| {
                for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
                    *y = x * self.factor(nth * CHUNK + i);
                }
            });
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_left_out_is_the_rate_and_the_mean_stays() {
        let x = vec![1f32; 100_000];
        let y = Dropout { rate: 0.3, key: 7 }.apply(&x);
        let zeros = y.iter().filter(|&&v| v == 0.0).count() as f64 / x.len() as f64;
        let mean = y.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        // Four standard deviations of 100,000 draws: 0.0015 for the share, 0.0021 for the mean.
        assert!(
            (zeros - 0.3).abs() < 0.006 && (mean - 1.0).abs() < 0.01,
            "{zeros} {mean}"
        );
    }

    #[test]
    fn places_and_keys_differ_and_threads_do_not_matter() {
        let x: Vec<f32> = (0..50_000).map(|i| i as f32).collect();
        let dropout = Dropout { rate: 0.5, key: 7 };
        assert_eq!(dropout.apply(&x), dropout.apply(&x));
        assert_ne!(dropout.at(0).apply(&x), dropout.at(1).apply(&x));
        assert_ne!(
            dropout.at(0).apply(&x),
            Dropout { key: 8, ..dropout }.at(0).apply(&x)
        );
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        assert_eq!(pool.install(|| dropout.apply(&x)), dropout.apply(&x));
    }
}
