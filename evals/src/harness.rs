//! Runs a task on an engine.

use std::time::Instant;

use marill_recipe::Example;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::EvalError;
use crate::engine::{Engine, SecureCost};
use crate::metrics::{BleuStats, ChrfStats, bootstrap_stderr, mean_and_stderr};
use crate::prompt::{Question, Speaker};
use crate::task::{Kind, Task};

const BOOTSTRAP_RESAMPLES: usize = 1000;

/// How much of a task is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// The first examples only (windows, for perplexity).
    pub limit: Option<usize>,
    /// Worked examples in front of each question.
    pub few_shot: usize,
}

/// One figure with its standard error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    pub name: &'static str,
    pub value: f64,
    pub stderr: f64,
    pub higher_is_better: bool,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    pub doc_id: usize,
    pub prompt: String,
    pub target: String,
    pub answer: String,
    /// 1 or 0 for a classification; the log-likelihood of the window for perplexity.
    pub score: f64,
    /// Log-likelihood of each label, in the task's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_scores: Vec<f64>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub task: String,
    pub version: u32,
    pub engine: &'static str,
    pub few_shot: usize,
    pub n: usize,
    /// The first metric's value and standard error.
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
    pub seconds: f64,
    /// Answers that equal the twin's, of those compared; secure engine only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin_equal: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<SecureCost>,
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

/// Runs `task` on `engine`. `progress` hears the number done and the number in all.
///
/// An engine that gives no likelihoods (the secure one) classifies by its greedy answer, metric `exact_match`. With
/// `twin`, every greedy answer is compared with the twin's, token by token.
///
/// # Errors
/// [`EvalError::NeedsLogits`] for perplexity on the secure engine, and what the engine itself may meet.
pub fn run(
    task: &Task,
    engine: &mut dyn Engine,
    twin: Option<&mut dyn Engine>,
    speaker: &Speaker<'_>,
    examples: &[Example],
    shots: &[Example],
    scope: Scope,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report, EvalError> {
    let start = Instant::now();
    let mut run = Run { task, engine, twin, speaker, truncated: 0, twin_equal: 0, progress };
    let (samples, metrics) = match task.kind {
        Kind::Classify => run.classify(limited(examples, scope.limit), shots)?,
        Kind::Generate => run.generate(limited(examples, scope.limit), shots)?,
        Kind::Perplexity => run.perplexity(examples, scope.limit)?,
    };
    let (truncated, compared) = (run.truncated, run.twin.is_some());
    let twin_equal = compared.then_some(run.twin_equal);
    let engine = run.engine.name();
    Ok(Report {
        task: task.name.clone(),
        version: task.version,
        engine,
        few_shot: shots.len(),
        n: samples.len(),
        score: metrics.first().map_or(0.0, |m| m.value),
        stderr: metrics.first().map_or(0.0, |m| m.stderr),
        majority: (task.kind == Kind::Classify).then(|| majority(&samples)),
        samples_sha256: digest(samples.iter().map(|s| (&s.prompt, &s.target))),
        answers_sha256: digest(samples.iter().map(|s| (&s.answer, ""))),
        metrics,
        truncated,
        seconds: start.elapsed().as_secs_f64(),
        twin_equal,
        cost: None,
        samples,
    })
}

fn limited(examples: &[Example], limit: Option<usize>) -> &[Example] {
    &examples[..examples.len().min(limit.unwrap_or(usize::MAX))]
}

struct Run<'a, 'b> {
    task: &'a Task,
    engine: &'a mut dyn Engine,
    twin: Option<&'a mut (dyn Engine + 'b)>,
    speaker: &'a Speaker<'a>,
    truncated: usize,
    twin_equal: usize,
    progress: &'a mut dyn FnMut(usize, usize),
}

type Outcome = Result<(Vec<Sample>, Vec<Metric>), EvalError>;

impl Run<'_, '_> {
    fn classify(&mut self, examples: &[Example], shots: &[Example]) -> Outcome {
        let labels = &self.task.dataset.labels;
        let tokens = labels.iter().map(|l| self.speaker.tokenizer.encode(l)).collect::<Result<Vec<_>, _>>()?;
        let greedy = self.engine.name() == "secure";
        // One more than the longest label: an answer that goes on is no label.
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(1) + 1;
        let mut samples = Vec::with_capacity(examples.len());
        for (doc_id, example) in examples.iter().enumerate() {
            let question = self.ask(shots, example, longest)?;
            let (answer, label_scores) = if greedy {
                (self.greedy_text(&question, longest)?, Vec::new())
            } else {
                let scores = self.engine.score(&question.tokens, &tokens)?;
                (labels[best(&scores)].clone(), scores)
            };
            let score = f64::from(answer.trim() == example.completion.trim());
            let (prompt, target) = (question.text, example.completion.clone());
            samples.push(Sample { doc_id, prompt, target, answer, score, label_scores });
            (self.progress)(doc_id + 1, examples.len());
        }
        let scores: Vec<f64> = samples.iter().map(|s| s.score).collect();
        let (value, stderr) = mean_and_stderr(&scores);
        let name = if greedy { "exact_match" } else { "acc" };
        Ok((samples, vec![Metric { name, value, stderr, higher_is_better: true }]))
    }

    fn generate(&mut self, examples: &[Example], shots: &[Example]) -> Outcome {
        let mut samples = Vec::with_capacity(examples.len());
        for (doc_id, example) in examples.iter().enumerate() {
            let question = self.ask(shots, example, self.task.max_new_tokens)?;
            let answer = self.greedy_text(&question, self.task.max_new_tokens)?;
            let score = BleuStats::of(&answer, &example.completion).score();
            let (prompt, target) = (question.text, example.completion.clone());
            samples.push(Sample { doc_id, prompt, target, answer, score, label_scores: Vec::new() });
            (self.progress)(doc_id + 1, examples.len());
        }
        let bleu: Vec<_> = samples.iter().map(|s| BleuStats::of(&s.answer, &s.target)).collect();
        let chrf: Vec<_> = samples.iter().map(|s| ChrfStats::of(&s.answer, &s.target)).collect();
        let bleu_of = |drawn: &[usize]| drawn.iter().map(|&i| bleu[i]).sum::<BleuStats>().score();
        let chrf_of = |drawn: &[usize]| drawn.iter().map(|&i| chrf[i]).sum::<ChrfStats>().score();
        let all: Vec<usize> = (0..samples.len()).collect();
        let metric = |name, value, stderr| Metric { name, value, stderr, higher_is_better: true };
        let metrics = vec![
            metric("bleu", bleu_of(&all), bootstrap_stderr(all.len(), BOOTSTRAP_RESAMPLES, bleu_of)),
            metric("chrf", chrf_of(&all), bootstrap_stderr(all.len(), BOOTSTRAP_RESAMPLES, chrf_of)),
        ];
        Ok((samples, metrics))
    }

    fn perplexity(&mut self, examples: &[Example], limit: Option<usize>) -> Outcome {
        if self.engine.name() == "secure" {
            return Err(EvalError::NeedsLogits { task: self.task.name.clone() });
        }
        let text: String = examples.iter().map(|e| e.completion.as_str()).collect::<Vec<_>>().join("\n");
        let tokens = self.speaker.tokenizer.encode(&text)?;
        let window = self.task.window.min(self.engine.context());
        let mut windows: Vec<&[u32]> = tokens.chunks(window).filter(|w| w.len() > 1).collect();
        windows.truncate(limit.unwrap_or(usize::MAX));
        let (mut samples, mut losses, mut scored) = (Vec::new(), Vec::new(), 0);
        for (doc_id, window) in windows.iter().enumerate() {
            let scores = self.engine.token_scores(window)?;
            let score: f64 = scores.iter().sum();
            losses.push(-score / scores.len() as f64);
            scored += scores.len();
            let prompt = self.speaker.tokenizer.decode(window)?;
            let (target, answer, label_scores) = (String::new(), String::new(), Vec::new());
            samples.push(Sample { doc_id, prompt, target, answer, score, label_scores });
            (self.progress)(doc_id + 1, windows.len());
        }
        let loss = -samples.iter().map(|s| s.score).sum::<f64>() / scored.max(1) as f64;
        let (_, loss_stderr) = mean_and_stderr(&losses);
        let value = loss.exp();
        // The delta method: d exp(x) = exp(x) dx.
        let metric = Metric { name: "token_perplexity", value, stderr: value * loss_stderr, higher_is_better: false };
        Ok((samples, vec![metric]))
    }

    /// A question that leaves room for an answer; like in training, a prompt too long loses its beginning.
    fn ask(&mut self, shots: &[Example], example: &Example, answer_len: usize) -> Result<Question, EvalError> {
        let mut question = self.speaker.question(shots, example)?;
        let room = self.engine.context().saturating_sub(answer_len).max(1);
        if question.tokens.len() > room {
            self.truncated += 1;
            question.tokens.drain(..question.tokens.len() - room);
        }
        Ok(question)
    }

    /// The first line of the greedy answer, without white space around it.
    fn greedy_text(&mut self, question: &Question, max_new_tokens: usize) -> Result<String, EvalError> {
        let tokenizer = self.speaker.tokenizer;
        let stop = |answer: &[u32], token: u32| {
            let line_ends = || tokenizer.decode(&[token]).is_ok_and(|text| text.contains('\n'));
            tokenizer.is_eos(token) || (!answer.is_empty() && line_ends())
        };
        let answer = self.engine.generate(&question.tokens, max_new_tokens, &stop)?;
        if let Some(twin) = &mut self.twin {
            self.twin_equal += usize::from(twin.generate(&question.tokens, max_new_tokens, &stop)? == answer);
        }
        let text = tokenizer.decode(&answer)?;
        Ok(text.trim().lines().next().unwrap_or_default().trim().to_string())
    }
}

/// Index of the highest score; the first wins a tie.
fn best(scores: &[f64]) -> usize {
    (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

fn majority(samples: &[Sample]) -> f64 {
    let mut counts = std::collections::BTreeMap::new();
    for sample in samples {
        *counts.entry(&sample.target).or_insert(0usize) += 1;
    }
    counts.values().copied().max().unwrap_or(0) as f64 / samples.len().max(1) as f64
}

/// SHA-256 in hex over pairs of texts, one JSON array a line.
fn digest<A: Serialize, B: Serialize>(pairs: impl Iterator<Item = (A, B)>) -> String {
    let mut hash = Sha256::new();
    for pair in pairs {
        hash.update(serde_json::to_vec(&pair).expect("texts serialise"));
        hash.update(b"\n");
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
