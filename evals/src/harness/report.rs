//! What a run found: samples, metrics, digests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::part::Part;
use crate::{
    EvalError,
    engine::SecureCost,
    measure::Measure,
    task::{Kind, Task},
};

/// One figure with its standard error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    pub name: &'static str,
    pub value: f64,
    pub stderr: f64,
    pub higher_is_better: bool,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Sample {
    pub doc_id: usize,
    pub prompt: String,
    pub target: String,
    /// The greedy answer.
    pub answer: String,
    /// The likeliest label, where the engine gives likelihoods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<String>,
    /// The number of the right label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<usize>,
    /// 1 or 0 for a classification or a program, sentence BLEU for a translation, the
    /// log-likelihood of a text.
    pub score: f64,
    /// Log-likelihood of each label's own tokens, in the task's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_scores: Vec<f64>,
    /// The same with the token that ends an answer: `acc` takes the likeliest of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answer_scores: Vec<f64>,
    /// What each metric's score is computed from, by the metric's name; adds up over samples.
    pub figures: BTreeMap<&'static str, Vec<f64>>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub task: String,
    pub version: u32,
    pub engine: &'static str,
    pub few_shot: usize,
    pub n: usize,
    /// The name of the first metric, and its value and standard error. Engines that give
    /// likelihoods classify by `acc`, the secure one by `exact_match`: compare the same metric in
    /// [`Report::metrics`].
    pub metric: &'static str,
    pub score: f64,
    pub stderr: f64,
    pub metrics: Vec<Metric>,
    /// Share of the most frequent class; classification only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub majority: Option<f64>,
    /// SHA-256 over prompts and targets: what was asked.
    pub samples_sha256: String,
    /// SHA-256 over the answers.
    pub answers_sha256: String,
    /// Prompts that lost their beginning because they did not fit the context.
    pub truncated: usize,
    /// Right answers of which only the beginning was scored, because they did not fit the context.
    pub shortened: usize,
    pub seconds: f64,
    /// Answers that equal the twin's, of those compared; secure engine only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin_equal: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<SecureCost>,
    /// Which rows these are, where they were asked for by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// The figures of each example, for paired comparisons.
    pub examples: Vec<ExampleFigures>,
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

/// An example without its text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExampleFigures {
    pub doc_id: usize,
    /// Digest of what a right answer is: examples of two runs are compared only where it agrees.
    pub target_sha256: String,
    pub answer_sha256: String,
    pub figures: BTreeMap<String, Vec<f64>>,
    /// The version of the task, where it is read back from what a run wrote.
    #[serde(skip)]
    pub version: Option<u64>,
}

impl Report {
    /// The report of samples, whose counts and times are still 0.
    ///
    /// # Errors
    /// [`EvalError::Task`] without samples, [`EvalError::NoScore`] where a metric is no number.
    pub(crate) fn of(
        task: &Task,
        engine: &'static str,
        measures: Vec<Measure>,
        samples: Vec<Sample>,
    ) -> Result<Self, EvalError> {
        if samples.is_empty() {
            return Err(EvalError::Task {
                task: task.name.clone(),
                reason: "its data holds nothing to score".into(),
            });
        }
        let metrics = measures.into_iter().map(|measure| {
            let name = measure.name();
            let figures = samples.iter().filter_map(|sample| sample.figures.get(name));
            metric(&task.name, measure, figures)
        });
        let metrics = metrics.collect::<Result<Vec<Metric>, _>>()?;
        let targets = samples.iter().map(|sample| &sample.target);
        Ok(Self {
            task: task.name.clone(),
            version: task.version,
            engine,
            few_shot: 0,
            n: samples.len(),
            metric: metrics.first().map_or("none", |m| m.name),
            score: metrics.first().map_or(0.0, |m| m.value),
            stderr: metrics.first().map_or(0.0, |m| m.stderr),
            metrics,
            majority: (task.kind == Kind::Classify).then(|| majority(targets)),
            samples_sha256: digest(samples.iter().map(|s| (&s.prompt, &s.target))),
            answers_sha256: digest(samples.iter().map(|s| (&s.answer, ""))),
            truncated: 0,
            shortened: 0,
            seconds: 0.0,
            twin_equal: None,
            cost: None,
            part: None,
            examples: samples.iter().map(Sample::figures).collect(),
            samples,
        })
    }

    /// Whether the examples have greedy answers.
    pub(crate) fn writes(&self) -> bool {
        self.metrics
            .iter()
            .any(|metric| !matches!(metric.name, "nats_per_token" | "token_perplexity"))
    }
}

impl Sample {
    /// Prompt, right answer and answer.
    pub(super) fn texts(&self) -> [String; 3] {
        [&self.prompt, &self.target, &self.answer].map(String::clone)
    }

    /// The sample without its text.
    pub fn figures(&self) -> ExampleFigures {
        let figures = self
            .figures
            .iter()
            .map(|(name, figures)| (name.to_string(), figures.clone()))
            .collect();
        ExampleFigures::new(self.doc_id, self.label, &self.target, &self.answer, figures)
    }
}

/// Value and standard error of a metric of the task `task` from the figures of its examples.
///
/// # Errors
/// [`EvalError::NoScore`] where one is no finite number.
pub(crate) fn metric<'a>(
    task: &str,
    measure: Measure,
    figures: impl Iterator<Item = &'a Vec<f64>>,
) -> Result<Metric, EvalError> {
    let name = measure.name();
    let figures: Vec<&[f64]> = figures.map(Vec::as_slice).collect();
    let (value, stderr) = measure.value_and_stderr(&figures);
    if !value.is_finite() || !stderr.is_finite() {
        let source = Box::new(EvalError::NotANumber { what: "the score" });
        return Err(EvalError::NoScore {
            task: task.to_owned(),
            metric: name,
            example: None,
            source,
        });
    }
    Ok(Metric {
        name,
        value,
        stderr,
        higher_is_better: measure.higher_is_better(),
    })
}

/// Share of the most frequent target.
pub(crate) fn majority<'a>(targets: impl Iterator<Item = &'a String>) -> f64 {
    let mut counts = BTreeMap::new();
    let mut all = 0usize;
    for target in targets {
        *counts.entry(target).or_insert(0usize) += 1;
        all += 1;
    }
    counts.values().copied().max().unwrap_or(0) as f64 / all.max(1) as f64
}

/// SHA-256 in hex over pairs of texts, one JSON array a line.
pub(crate) fn digest<A: Serialize, B: Serialize>(pairs: impl Iterator<Item = (A, B)>) -> String {
    let mut hash = Sha256::new();
    for pair in pairs {
        hash.update(serde_json::to_vec(&pair).expect("texts serialize"));
        hash.update(b"\n");
    }
    marill_numeric::hex(&hash.finalize())
}
