//! Sets of parameters of the regular LPN assumption, pinned.
//!
//! `k` secret bits, `t` blocks of `2^h` rows with one wrong bit each, ten entries of the secret a
//! row. emp-ot (`tuning.h`, release of 19 July 2026) has the same sets. Each answers, at about 128
//! bits, the attacks that the public estimator counts (Yu et al., lpnestimator.com):
//!
//! | attack | source |
//! |---|---|
//! | pooled Gauss; statistical and information set decoding | Liu et al.: ePrint 2022/712 |
//! | algebraic, on regular noise | Briaud, Øygarden: EUROCRYPT '23; counted in 2022/712 |
//! | information set decoding of regular noise | Esser, Santini: ePrint 2023/1568 |
//! | hybrid of guessing and algebra | ePrint 2025/1284 |
//! | algebraic, second form | ePrint 2025/1476 |
//!
//! `lpn/estimate.txt` has its figures, the smallest 128.1, and `lpn/estimate.py` makes them again.
//! Earlier sets, with `t` and `k` of the first Ferret paper, precede most of these and are not
//! here. A larger set costs fewer bits per transfer and needs a larger cache: the secret is read at
//! ten random places a row.

/// Entries of the secret that a row adds.
pub(crate) const WEIGHT: usize = 10;

/// A set of parameters, by the depth of its trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LpnSet {
    /// 870,400 rows, 1 MiB of secret: 1.37 bits a transfer.
    B10 = 10,
    /// 2,396,160 rows, 2 MiB: 0.73 bits.
    B11 = 11,
    /// 6,225,920 rows, 4 MiB: 0.39 bits.
    B12 = 12,
    /// 15,564,800 rows, 8 MiB: 0.21 bits.
    B13 = 13,
}

impl LpnSet {
    pub const ALL: [Self; 4] = [Self::B10, Self::B11, Self::B12, Self::B13];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::B10 => "b10",
            Self::B11 => "b11",
            Self::B12 => "b12",
            Self::B13 => "b13",
        }
    }

    /// The set of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// `t`: wrong bits, one a tree.
    #[must_use]
    pub fn trees(self) -> usize {
        match self {
            Self::B10 => 850,
            Self::B11 => 1170,
            Self::B12 => 1520,
            Self::B13 => 1900,
        }
    }

    /// `k`: bits of the secret.
    #[must_use]
    pub fn secret(self) -> usize {
        1 << (self.depth() + 6)
    }

    /// `h`: levels of a tree.
    #[must_use]
    pub fn depth(self) -> usize {
        self as usize
    }

    /// `2^h`: transfers that a tree gives.
    #[must_use]
    pub fn leaves(self) -> usize {
        1 << self.depth()
    }

    /// Transfers that an iteration takes: the secret, and one a level of each tree.
    #[must_use]
    pub fn seeds(self) -> usize {
        self.secret() + self.trees() * self.depth()
    }

    /// Trees of an iteration that make what the next one takes.
    #[must_use]
    pub fn reserve(self) -> usize {
        self.seeds().div_ceil(self.leaves())
    }

    /// Trees of an iteration whose transfers are given away.
    #[must_use]
    pub fn usable(self) -> usize {
        self.trees() - self.reserve()
    }

    /// Bytes that the sender sends for a tree.
    #[must_use]
    pub fn tree_bytes(self) -> usize {
        16 * self.depth()
    }

    /// Bits that a transfer costs in the long run, what the next iteration takes included.
    #[must_use]
    pub fn bits_per_transfer(self) -> f64 {
        let bits = 8 * self.trees() * self.tree_bytes();
        bits as f64 / (self.usable() * self.leaves()) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_are_the_pinned_ones() {
        // t, log2 k, rows, bits per transfer in hundredths.
        let pinned = [
            (LpnSet::B10, 850, 16, 870_400, 137),
            (LpnSet::B11, 1170, 17, 2_396_160, 73),
            (LpnSet::B12, 1520, 18, 6_225_920, 39),
            (LpnSet::B13, 1900, 19, 15_564_800, 21),
        ];
        for (set, t, log_k, rows, bits) in pinned {
            assert_eq!((set.trees(), set.secret()), (t, 1 << log_k));
            assert_eq!(set.trees() * set.leaves(), rows);
            assert_eq!((set.bits_per_transfer() * 100.0).round() as u32, bits);
            assert_eq!(LpnSet::named(set.name()), Some(set));
        }
    }

    /// Whoever changes a set must run the estimator again.
    #[test]
    fn the_estimates_are_of_these_sets() {
        let text = include_str!("../../lpn/estimate.txt");
        for set in LpnSet::ALL {
            let rows = set.trees() * set.leaves();
            let [name, k, t] = [
                set.name(),
                &set.secret().to_string(),
                &set.trees().to_string(),
            ];
            let of = format!("{name} N={rows} k={k} t={t} ");
            let lines = text.lines().filter(|line| line.starts_with(&of));
            let bits = lines.map(|line| line.rsplit(' ').next().map(str::parse::<f64>));
            let bits: Vec<f64> = bits.map(|bits| bits.unwrap().unwrap()).collect();
            // Eleven attacks, none below the security that the crate names.
            assert_eq!(bits.len(), 11, "{name}");
            assert!(bits.iter().all(|bits| *bits >= 128.0), "{name}: {bits:?}");
        }
    }

    #[test]
    fn an_iteration_feeds_the_next() {
        for set in LpnSet::ALL {
            assert!(set.reserve() * set.leaves() >= set.seeds());
            assert!((set.reserve() - 1) * set.leaves() < set.seeds());
            assert_eq!(set.usable() + set.reserve(), set.trees());
            // The smallest set makes what any begins with in one iteration.
            assert!(set.seeds() <= LpnSet::B10.trees() * LpnSet::B10.leaves());
        }
    }
}
