//! Corpus BLEU with the 13a tokenizer, one reference, exponential smoothing: sacrebleu's default.

use std::collections::HashMap;

use super::is_python_space;

const MAX_ORDER: usize = 4;

/// Counts of one segment, or of a corpus once added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BleuStats {
    correct: [usize; MAX_ORDER],
    total: [usize; MAX_ORDER],
    hypothesis_len: usize,
    reference_len: usize,
}

/// Corpus BLEU in 0..=100. Source: Papineni et al., ACL 2002, as computed by sacrebleu
/// (`nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp`). Pairs are `(hypothesis, reference)`.
pub fn bleu<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
    pairs
        .into_iter()
        .map(|(hypothesis, reference)| BleuStats::of(hypothesis, reference))
        .sum::<BleuStats>()
        .score()
}

impl BleuStats {
    /// The counts of one segment.
    pub fn of(hypothesis: &str, reference: &str) -> Self {
        let hypothesis = tokenize_13a(hypothesis);
        let reference = tokenize_13a(reference);
        let mut stats = Self {
            hypothesis_len: hypothesis.len(),
            reference_len: reference.len(),
            ..Default::default()
        };
        for order in 1..=MAX_ORDER {
            let wanted = ngrams(&reference, order);
            for (ngram, count) in ngrams(&hypothesis, order) {
                stats.correct[order - 1] += count.min(wanted.get(ngram).copied().unwrap_or(0));
                stats.total[order - 1] += count;
            }
        }
        stats
    }

    /// The counts as numbers that may be added up: matches and n-grams of each order, then the two
    /// lengths.
    pub fn figures(&self) -> Vec<f64> {
        let counts = self
            .correct
            .iter()
            .chain(&self.total)
            .chain([&self.hypothesis_len, &self.reference_len]);
        counts.map(|&count| count as f64).collect()
    }

    /// The reverse of [`BleuStats::figures`]; all zero for a vector of another length.
    pub fn from_figures(figures: &[f64]) -> Self {
        let Ok(counts) = <[f64; 2 * MAX_ORDER + 2]>::try_from(figures) else {
            return Self::default();
        };
        let at = |nth: usize| counts[nth] as usize;
        Self {
            correct: std::array::from_fn(at),
            total: std::array::from_fn(|order| at(MAX_ORDER + order)),
            hypothesis_len: at(2 * MAX_ORDER),
            reference_len: at(2 * MAX_ORDER + 1),
        }
    }

    /// BLEU of the corpus that was added up, in 0..=100.
    pub fn score(&self) -> f64 {
        if self.correct.iter().all(|&c| c == 0) || self.total.contains(&0) {
            return 0.0;
        }
        let mut halving = 1.0;
        let mut log_sum = 0.0;
        for (&correct, &total) in self.correct.iter().zip(&self.total) {
            let precision = if correct == 0 {
                halving *= 2.0;
                100.0 / (halving * total as f64)
            } else {
                100.0 * correct as f64 / total as f64
            };
            log_sum += precision.ln();
        }
        let brevity = if self.hypothesis_len < self.reference_len {
            (1.0 - self.reference_len as f64 / self.hypothesis_len as f64).exp()
        } else {
            1.0
        };
        brevity * (log_sum / MAX_ORDER as f64).exp()
    }
}

impl std::iter::Sum for BleuStats {
    fn sum<I: Iterator<Item = Self>>(segments: I) -> Self {
        segments.fold(Self::default(), |mut sum, segment| {
            for order in 0..MAX_ORDER {
                sum.correct[order] += segment.correct[order];
                sum.total[order] += segment.total[order];
            }
            sum.hypothesis_len += segment.hypothesis_len;
            sum.reference_len += segment.reference_len;
            sum
        })
    }
}

fn ngrams(tokens: &[String], order: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for window in tokens.windows(order) {
        *counts.entry(window).or_insert(0) += 1;
    }
    counts
}

/// mteval-v13a's tokenizer as sacrebleu writes it: four substitutions, then a split on white space.
fn tokenize_13a(line: &str) -> Vec<String> {
    let line = line.trim_end_matches(is_python_space);
    let mut line = line
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    if line.contains('&') {
        line = line
            .replace("&quot;", "\"")
            .replace("&amp;", "&")
            .replace("&lt;", "<")
            .replace("&gt;", ">");
    }
    let text: Vec<char> = format!(" {line} ").chars().collect();

    let mut spaced = Vec::with_capacity(2 * text.len());
    for &c in &text {
        if matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/') {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }
    let is_stop = |c: char| c == '.' || c == ',';
    let not_digit = |c: char| !c.is_ascii_digit();
    let text = pairs(
        &spaced,
        |a, b| not_digit(a) && is_stop(b),
        |a, b| vec![a, ' ', b, ' '],
    );
    let text = pairs(
        &text,
        |a, b| is_stop(a) && not_digit(b),
        |a, b| vec![' ', a, ' ', b],
    );
    let text = pairs(
        &text,
        |a, b| a.is_ascii_digit() && b == '-',
        |a, b| vec![a, ' ', b, ' '],
    );
    let text: String = text.into_iter().collect();
    text.split(is_python_space)
        .filter(|token| !token.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Replaces each adjacent pair that matches, left to right and without overlap, as a regular
/// expression would.
fn pairs(
    text: &[char],
    matches: impl Fn(char, char) -> bool,
    replace: impl Fn(char, char) -> Vec<char>,
) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 4);
    let mut i = 0;
    while i < text.len() {
        if i + 1 < text.len() && matches(text[i], text[i + 1]) {
            out.extend(replace(text[i], text[i + 1]));
            i += 2;
        } else {
            out.push(text[i]);
            i += 1;
        }
    }
    out
}
