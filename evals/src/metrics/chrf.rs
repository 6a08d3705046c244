//! Corpus chrF2: character n-grams up to six, recall weighted twice.

use std::collections::HashMap;

use super::is_python_space;

const MAX_ORDER: usize = 6;
const BETA_SQUARED: f64 = 4.0;

/// Corpus chrF in 0..=100. Source: Popović, WMT 2015, as computed by sacrebleu
/// (`nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no`). Pairs are `(hypothesis, reference)`.
pub fn chrf<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
    let mut counts = [[0usize; 3]; MAX_ORDER];
    for (hypothesis, reference) in pairs {
        let hypothesis: Vec<char> = hypothesis.chars().filter(|&c| !is_python_space(c)).collect();
        let reference: Vec<char> = reference.chars().filter(|&c| !is_python_space(c)).collect();
        for (order, [hyp, wanted, matched]) in (1..).zip(&mut counts) {
            let references = ngrams(&reference, order);
            // A segment without a reference n-gram does not count against the hypothesis.
            if references.is_empty() {
                continue;
            }
            *wanted += references.values().sum::<usize>();
            for (ngram, count) in ngrams(&hypothesis, order) {
                *hyp += count;
                *matched += count.min(references.get(ngram).copied().unwrap_or(0));
            }
        }
    }
    f_score(&counts)
}

fn f_score(counts: &[[usize; 3]; MAX_ORDER]) -> f64 {
    let orders: Vec<_> = counts.iter().filter(|[hyp, wanted, _]| *hyp > 0 && *wanted > 0).collect();
    if orders.is_empty() {
        return 0.0;
    }
    let n = orders.len() as f64;
    let precision = orders.iter().map(|[hyp, _, matched]| *matched as f64 / *hyp as f64).sum::<f64>() / n;
    let recall = orders.iter().map(|[_, wanted, matched]| *matched as f64 / *wanted as f64).sum::<f64>() / n;
    if precision + recall == 0.0 {
        return 0.0;
    }
    100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
}

fn ngrams(text: &[char], order: usize) -> HashMap<&[char], usize> {
    let mut counts = HashMap::new();
    for window in text.windows(order) {
        *counts.entry(window).or_insert(0) += 1;
    }
    counts
}
