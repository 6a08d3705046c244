//! Scores as functions of figures that add up over examples, so that a part of the examples can be
//! scored again.

use crate::metrics::{BleuStats, ChrfStats, bootstrap_stderr, mean_and_stderr};

const RESAMPLES: usize = 1000;

/// What is measured. Its figures are one vector an example; a score is a function of their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// `[right, 1]`.
    Acc,
    /// `[right, 1]`, of a greedy answer.
    ExactMatch,
    /// Counts of n-grams and lengths.
    Bleu,
    /// Counts of character n-grams.
    Chrf,
    /// `[nats, tokens]`.
    NatsPerToken,
    /// `[nats, tokens]`.
    TokenPerplexity,
    /// `[yes, 1]`.
    DefinesFunction,
    /// `[passed, 1]`.
    PassAt1,
}

const ALL: [Measure; 8] = [
    Measure::Acc,
    Measure::ExactMatch,
    Measure::Bleu,
    Measure::Chrf,
    Measure::NatsPerToken,
    Measure::TokenPerplexity,
    Measure::DefinesFunction,
    Measure::PassAt1,
];

impl Measure {
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::ExactMatch => "exact_match",
            Self::Bleu => "bleu",
            Self::Chrf => "chrf",
            Self::NatsPerToken => "nats_per_token",
            Self::TokenPerplexity => "token_perplexity",
            Self::DefinesFunction => "defines_function",
            Self::PassAt1 => "pass@1",
        }
    }

    /// The measure of this name.
    pub fn find(name: &str) -> Option<Self> {
        ALL.into_iter().find(|measure| measure.name() == name)
    }

    pub fn higher_is_better(self) -> bool {
        !matches!(self, Self::NatsPerToken | Self::TokenPerplexity)
    }

    /// The score of summed figures; 0 of none.
    pub fn score(self, sum: &[f64]) -> f64 {
        match self {
            Self::Bleu => BleuStats::from_figures(sum).score(),
            Self::Chrf => ChrfStats::from_figures(sum).score(),
            Self::TokenPerplexity => ratio(sum).exp(),
            _ => ratio(sum),
        }
    }

    /// The score of the examples with these numbers, which may repeat.
    pub fn score_of(self, figures: &[&[f64]], sampled: impl Iterator<Item = usize>) -> f64 {
        let mut sum = vec![0.0; figures.first().map_or(0, |first| first.len())];
        for nth in sampled {
            sum.iter_mut()
                .zip(figures[nth])
                .for_each(|(total, figure)| *total += figure);
        }
        self.score(&sum)
    }

    /// Score and standard error: the sample formula for a mean, the bootstrap for the rest.
    pub fn value_and_stderr(self, figures: &[&[f64]]) -> (f64, f64) {
        if matches!(
            self,
            Self::Acc | Self::ExactMatch | Self::DefinesFunction | Self::PassAt1
        ) {
            return mean_and_stderr(&figures.iter().map(|figure| figure[0]).collect::<Vec<_>>());
        }
        let value = self.score_of(figures, 0..figures.len());
        (
            value,
            bootstrap_stderr(figures.len(), RESAMPLES, |sampled| {
                self.score_of(figures, sampled.iter().copied())
            }),
        )
    }
}

fn ratio(sum: &[f64]) -> f64 {
    match sum {
        [total, count] if *count > 0.0 => total / count,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_measure() {
        for measure in ALL {
            assert_eq!(Measure::find(measure.name()), Some(measure));
        }
        assert_eq!(Measure::find("f1"), None);
    }

    #[test]
    fn nats_are_averaged_over_tokens_not_over_examples() {
        let figures: [&[f64]; 2] = [&[1.0, 1.0], &[6.0, 3.0]];
        let (value, stderr) = Measure::NatsPerToken.value_and_stderr(&figures);
        assert_eq!(value, 7.0 / 4.0);
        // Examples of 1 and 2 nats per token: a resample is one of them twice, or both.
        assert!(stderr > 0.1 && stderr < 0.5, "{stderr}");
        assert_eq!(
            Measure::TokenPerplexity.score_of(&figures, 0..2),
            (7.0f64 / 4.0).exp()
        );
    }

    #[test]
    fn figures_give_the_corpus_score_back() {
        let pairs = [
            ("the cat sat on the mat", "the cat sat on a mat"),
            ("a dog runs home", "the dog runs home now"),
        ];
        let bleu: Vec<Vec<f64>> = pairs
            .iter()
            .map(|(h, r)| BleuStats::of(h, r).figures())
            .collect();
        let chrf: Vec<Vec<f64>> = pairs
            .iter()
            .map(|(h, r)| ChrfStats::of(h, r).figures())
            .collect();
        let bleu: Vec<&[f64]> = bleu.iter().map(Vec::as_slice).collect();
        let chrf: Vec<&[f64]> = chrf.iter().map(Vec::as_slice).collect();
        assert_eq!(
            Measure::Bleu.score_of(&bleu, 0..2),
            crate::metrics::bleu(pairs)
        );
        assert_eq!(
            Measure::Chrf.score_of(&chrf, 0..2),
            crate::metrics::chrf(pairs)
        );
    }
}
