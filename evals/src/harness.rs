//! Runs a task on an engine.

mod classify;
mod code;
mod generate;
mod likelihood;

use std::{collections::BTreeMap, time::Instant};

use marill_model::Tokenizer;
use marill_recipe::Example;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    EvalError,
    engine::{Engine, Reply, Request, SecureCost, Stop},
    measure::Measure,
    prompt::{PromptFormatter, Question},
    sandbox::Sandbox,
    task::{Checks, Kind, Task},
};

/// How much of a task is run, and what it needs besides rows.
#[derive(Clone, Copy, Default)]
pub struct Scope<'a> {
    /// The first examples only (windows, for perplexity).
    pub limit: Option<usize>,
    /// Few-shot examples in front of each question.
    pub few_shot: usize,
    /// Seeds the few-shot examples.
    pub seed: u64,
    /// Numbers of the examples in the task's rows, where some were left out; they count from 0 when
    /// this is empty.
    pub doc_ids: &'a [usize],
    /// The tests of each example, where the task is to write programs.
    pub checks: &'a [Checks],
    /// Where programs run; without one they are not run.
    pub sandbox: Option<&'a Sandbox>,
    /// Questions that an engine works on at once; without a number it chooses.
    pub batch_size: Option<usize>,
}

impl Scope<'_> {
    /// The number of an example in the task's rows.
    fn doc_id(&self, nth: usize) -> usize {
        self.doc_ids.get(nth).copied().unwrap_or(nth)
    }
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
    /// Whether the examples have greedy answers.
    pub(crate) fn writes(&self) -> bool {
        self.metrics
            .iter()
            .any(|metric| !matches!(metric.name, "nats_per_token" | "token_perplexity"))
    }
}

impl Sample {
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

/// Runs `task` on `engine`. `progress` hears the number done and the number in all.
///
/// A classification has the metric `exact_match` of its greedy answers on every engine, and `acc`
/// of whole labels with their end on those that give likelihoods. With `twin`, every greedy answer
/// is compared with the twin's, token by token.
///
/// # Errors
/// [`EvalError::NeedsLogits`] for perplexity on the secure engine, [`EvalError::NoScore`] where a
/// score is not a number, [`EvalError::Task`] where nothing can be scored, and what the engine
/// itself may meet.
pub fn run(
    task: &Task,
    engine: &mut dyn Engine,
    twin: Option<&mut dyn Engine>,
    formatter: &PromptFormatter<'_>,
    examples: &[Example],
    shots: &[Example],
    scope: Scope<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report, EvalError> {
    let start = Instant::now();
    let writes = matches!(task.kind, Kind::Generate | Kind::Code);
    if writes && task.max_new_tokens >= engine.context() {
        let tokens = task.max_new_tokens;
        let context = engine.context();
        let reason = format!(
            "answers of {tokens} tokens leave no room for a question in a context of {context}"
        );
        return Err(EvalError::Task {
            task: task.name.clone(),
            reason,
        });
    }
    let mut run = Run {
        task,
        engine,
        twin,
        formatter,
        scope,
        truncated: 0,
        shortened: 0,
        twin_equal: 0,
        progress,
    };
    let some = limited(examples, scope.limit);
    let (samples, measures) = match task.kind {
        Kind::Classify => run.classify(some, shots)?,
        Kind::Generate => run.generate(some, shots)?,
        Kind::Perplexity => run.perplexity(examples, scope.limit)?,
        Kind::Likelihood => run.likelihood(some, shots)?,
        Kind::Code => run.code(some, shots)?,
    };
    if samples.is_empty() {
        return Err(EvalError::Task {
            task: task.name.clone(),
            reason: "its data holds nothing to score".into(),
        });
    }
    let metrics = measures
        .into_iter()
        .map(|measure| metric(task, measure, &samples));
    let metrics = metrics.collect::<Result<Vec<Metric>, _>>()?;
    let truncated = run.truncated;
    let shortened = run.shortened;
    let compared = run.twin.is_some();
    let twin_equal = compared.then_some(run.twin_equal);
    let engine = run.engine.name();
    Ok(Report {
        task: task.name.clone(),
        version: task.version,
        engine,
        few_shot: shots.len(),
        n: samples.len(),
        metric: metrics.first().map_or("none", |m| m.name),
        score: metrics.first().map_or(0.0, |m| m.value),
        stderr: metrics.first().map_or(0.0, |m| m.stderr),
        majority: (task.kind == Kind::Classify).then(|| majority(&samples)),
        samples_sha256: digest(samples.iter().map(|s| (&s.prompt, &s.target))),
        answers_sha256: digest(samples.iter().map(|s| (&s.answer, ""))),
        metrics,
        truncated,
        shortened,
        seconds: start.elapsed().as_secs_f64(),
        twin_equal,
        cost: None,
        examples: samples.iter().map(Sample::figures).collect(),
        samples,
    })
}

fn metric(task: &Task, measure: Measure, samples: &[Sample]) -> Result<Metric, EvalError> {
    let name = measure.name();
    let figures: Vec<&[f64]> = samples
        .iter()
        .filter_map(|s| s.figures.get(name))
        .map(Vec::as_slice)
        .collect();
    let (value, stderr) = measure.value_and_stderr(&figures);
    if !value.is_finite() || !stderr.is_finite() {
        let source = Box::new(EvalError::NotANumber { what: "the score" });
        return Err(EvalError::NoScore {
            task: task.name.clone(),
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

fn limited(examples: &[Example], limit: Option<usize>) -> &[Example] {
    &examples[..examples.len().min(limit.unwrap_or(usize::MAX))]
}

struct Run<'a, 'b> {
    task: &'a Task,
    engine: &'a mut dyn Engine,
    twin: Option<&'a mut (dyn Engine + 'b)>,
    formatter: &'a PromptFormatter<'a>,
    scope: Scope<'a>,
    truncated: usize,
    shortened: usize,
    twin_equal: usize,
    progress: &'a mut dyn FnMut(usize, usize),
}

/// Samples, and the measures that they carry figures for.
type Outcome = Result<(Vec<Sample>, Vec<Measure>), EvalError>;

impl Run<'_, '_> {
    /// A question that leaves room for an answer; like in training, a prompt too long loses its
    /// beginning.
    fn ask(
        &mut self,
        shots: &[Example],
        example: &Example,
        answer_len: usize,
    ) -> Result<Question, EvalError> {
        let mut question = self.formatter.question(shots, example)?;
        let headroom = self.engine.context().saturating_sub(answer_len).max(1);
        if question.tokens.len() > headroom {
            self.truncated += 1;
            question.tokens.drain(..question.tokens.len() - headroom);
        }
        Ok(question)
    }

    /// Asks everything and hands each reply on, with the number of its request: scores, and the
    /// greedy answer as text. `measures` are what a score and an answer that are no number would
    /// have gone into.
    fn ask_all(
        &mut self,
        requests: &[Request],
        measures: [Measure; 2],
        stop: &Stop<'_>,
        mut each: impl FnMut(usize, Vec<f64>, String) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let task = self.task;
        let scope = self.scope;
        let mut done = 0;
        let mut equal = 0;
        let mut hear = |nth: usize, Reply { scores, answer }: Reply| {
            let no_score = |measure, error| no_score(task, measure, scope.doc_id(nth), error);
            let scores = scores.map_err(|error| no_score(measures[0], error))?;
            let answer = answer.map_err(|error| no_score(measures[1], error))?;
            let asked = &requests[nth];
            if let (Some(twin), Some(most)) = (&mut self.twin, asked.max_new_tokens) {
                equal += usize::from(twin.generate(&asked.prompt, most, stop)? == answer);
            }
            each(nth, scores, self.formatter.tokenizer.decode(&answer)?)
        };
        (self.progress)(0, requests.len());
        let mut listen = |replies: Vec<(usize, Reply)>| {
            done += replies.len();
            for (nth, reply) in replies {
                hear(nth, reply)?;
            }
            (self.progress)(done, requests.len());
            Ok(())
        };
        self.engine
            .answer_all(requests, stop, scope.batch_size, &mut listen)?;
        self.twin_equal += equal;
        Ok(())
    }

    /// The right answer's tokens as far as they fit behind the question.
    fn right_answer(
        &mut self,
        question: &Question,
        completion: &str,
    ) -> Result<Vec<u32>, EvalError> {
        let mut tokens = self.formatter.tokenizer.encode_continuing(completion)?;
        let headroom = self.engine.context().saturating_sub(question.tokens.len());
        self.shortened += usize::from(tokens.len() > headroom);
        tokens.truncate(headroom);
        Ok(tokens)
    }

    fn needs_logits(&self) -> Result<(), EvalError> {
        if !self.engine.gives_likelihoods() {
            return Err(EvalError::NeedsLogits {
                task: self.task.name.clone(),
            });
        }
        Ok(())
    }
}

/// Names the metric that a number which is none would have gone into; other errors stay as they
/// are.
fn no_score(task: &Task, measure: Measure, doc_id: usize, error: EvalError) -> EvalError {
    let EvalError::NotANumber { .. } = error else {
        return error;
    };
    EvalError::NoScore {
        task: task.name.clone(),
        metric: measure.name(),
        example: Some(doc_id),
        source: Box::new(error),
    }
}

/// Whether the first line of an answer ends before a token.
fn ends_line(tokenizer: &Tokenizer, answer: &[u32], token: u32) -> bool {
    let line_ends = || {
        tokenizer
            .decode(&[token])
            .is_ok_and(|text| text.contains('\n'))
    };
    tokenizer.is_eos(token) || (!answer.is_empty() && line_ends())
}

/// The first line of a greedy answer, without white space around it.
fn first_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.trim().to_string()
}

/// All samples, in order; every request has had its reply.
fn complete(samples: Vec<Option<Sample>>) -> Vec<Sample> {
    samples.into_iter().flatten().collect()
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
        hash.update(serde_json::to_vec(&pair).expect("texts serialize"));
        hash.update(b"\n");
    }
    marill_numeric::hex(&hash.finalize())
}
