//! Corpus chrF2: character n-grams up to six, recall weighted twice.

use std::collections::HashMap;

use super::is_python_space;

const MAX_ORDER: usize = 6;
const BETA_SQUARED: f64 = 4.0;

/// Counts of one segment, or of a corpus once added up: per order the n-grams of hypothesis,
/// reference and both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChrfStats([[usize; 3]; MAX_ORDER]);

/// Corpus chrF in 0..=100. Source: Popović, WMT 2015, as computed by sacrebleu
/// (`nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no`). Pairs are `(hypothesis, reference)`.
pub fn chrf<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
    pairs
        .into_iter()
        .map(|(hypothesis, reference)| ChrfStats::of(hypothesis, reference))
        .sum::<ChrfStats>()
        .score()
}

impl ChrfStats {
    /// The counts of one segment.
    pub fn of(hypothesis: &str, reference: &str) -> Self {
        let hypothesis: Vec<char> = hypothesis
            .chars()
            .filter(|&c| !is_python_space(c))
            .collect();
        let reference: Vec<char> = reference.chars().filter(|&c| !is_python_space(c)).collect();
        let mut stats = Self::default();
        for (order, [hyp, wanted, matched]) in (1..).zip(&mut stats.0) {
            let references = ngrams(&reference, order);
            // Without a reference n-gram the segment does not count against the hypothesis.
            if references.is_empty() {
                continue;
            }
            *wanted = references.values().sum();
            for (ngram, count) in ngrams(&hypothesis, order) {
                *hyp += count;
                *matched += count.min(references.get(ngram).copied().unwrap_or(0));
            }
        }
        stats
    }

    /// The counts as numbers that may be added up.
    pub fn figures(&self) -> Vec<f64> {
        self.0.iter().flatten().map(|&count| count as f64).collect()
    }

    /// The reverse of [`ChrfStats::figures`]; all zero for a vector of another length.
    pub fn from_figures(figures: &[f64]) -> Self {
        let mut stats = Self::default();
        if figures.len() == 3 * MAX_ORDER {
            stats
                .0
                .iter_mut()
                .flatten()
                .zip(figures)
                .for_each(|(count, &figure)| *count = figure as usize);
        }
        stats
    }

    /// chrF of the corpus that was added up, in 0..=100.
    pub fn score(&self) -> f64 {
        let orders: Vec<_> = self
            .0
            .iter()
            .filter(|[hyp, wanted, _]| *hyp > 0 && *wanted > 0)
            .collect();
        if orders.is_empty() {
            return 0.0;
        }
        let n = orders.len() as f64;
        let precision = orders
            .iter()
            .map(|[hyp, _, matched]| *matched as f64 / *hyp as f64)
            .sum::<f64>()
            / n;
        let recall = orders
            .iter()
            .map(|[_, wanted, matched]| *matched as f64 / *wanted as f64)
            .sum::<f64>()
            / n;
        if precision + recall == 0.0 {
            return 0.0;
        }
        100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    }
}

impl std::iter::Sum for ChrfStats {
    fn sum<I: Iterator<Item = Self>>(segments: I) -> Self {
        segments.fold(Self::default(), |mut sum, segment| {
            let counts = sum.0.iter_mut().flatten().zip(segment.0.iter().flatten());
            counts.for_each(|(total, count)| *total += count);
            sum
        })
    }
}

fn ngrams(text: &[char], order: usize) -> HashMap<&[char], usize> {
    let mut counts = HashMap::new();
    for window in text.windows(order) {
        *counts.entry(window).or_insert(0) += 1;
    }
    counts
}
