//! Runs a task on an engine.

mod classify;
mod code;
mod generate;
mod likelihood;
mod part;
mod report;

use std::{ops::Range, time::Instant};

use marill_model::Tokenizer;
use marill_recipe::Example;

pub(crate) use self::report::{digest, majority, metric};
pub use self::{
    part::Part,
    report::{ExampleFigures, Metric, Report, Sample},
};
use crate::{
    EvalError,
    engine::{Engine, Reply, Request, Stop},
    measure::Measure,
    prompt::{Frame, PromptFormatter, Question},
    sandbox::Sandbox,
    task::{Checks, Kind, Task},
};

/// How much of a task is run, and what it needs besides rows.
#[derive(Clone, Copy, Default)]
pub struct Scope<'a> {
    /// Only the rows from the first of these up to but not including the second, by their numbers
    /// in the task (windows, for perplexity). The report is then a part that
    /// [`crate::merge::reports`] takes.
    pub rows: Option<[usize; 2]>,
    /// Rows of the task, those left out included; the examples' number where this is none.
    pub task_rows: Option<usize>,
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

    /// Which of `count` examples, or windows, are run.
    ///
    /// # Errors
    /// [`EvalError::Task`] naming `--rows` for rows that the task does not have, or of which none
    /// is left.
    fn picked(&self, task: &Task, count: usize) -> Result<Range<usize>, EvalError> {
        let fail = |reason| EvalError::Task {
            task: task.name.clone(),
            reason,
        };
        let mut picked = 0..count;
        if let Some([first, end]) = self.rows {
            let all = self.task_rows.unwrap_or(count);
            if first >= end || end > all {
                let reason = format!("`--rows {first}..{end}`: its rows are 0..{all}");
                return Err(fail(reason));
            }
            let before = |row| (0..count).filter(|&nth| self.doc_id(nth) < row).count();
            picked = before(first)..before(end);
            if picked.is_empty() {
                let reason = format!("`--rows {first}..{end}`: all of these rows are left out");
                return Err(fail(reason));
            }
        }
        let limit = self.limit.unwrap_or(usize::MAX);
        Ok(picked.start..picked.end.min(picked.start.saturating_add(limit)))
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
    let perplexity = task.kind == Kind::Perplexity;
    let picked = match perplexity {
        true => 0..examples.len(),
        false => scope.picked(task, examples.len())?,
    };
    let doc_ids: Vec<usize> = picked.clone().map(|nth| scope.doc_id(nth)).collect();
    let frame = formatter.frame(shots, examples.first())?;
    let mut run = Run {
        task,
        frame,
        engine,
        twin,
        formatter,
        scope: Scope {
            doc_ids: if perplexity { &[] } else { &doc_ids },
            checks: scope.checks.get(picked.clone()).unwrap_or_default(),
            ..scope
        },
        all: examples.len(),
        truncated: 0,
        shortened: 0,
        twin_equal: 0,
        progress,
    };
    let some = &examples[picked];
    let (samples, measures) = match task.kind {
        Kind::Classify => run.classify(some)?,
        Kind::Generate => run.generate(some)?,
        Kind::Perplexity => run.perplexity(examples)?,
        Kind::Likelihood => run.likelihood(some)?,
        Kind::Code => run.code(some)?,
    };
    let compared = run.twin.is_some();
    let report = Report {
        few_shot: shots.len(),
        truncated: run.truncated,
        shortened: run.shortened,
        seconds: start.elapsed().as_secs_f64(),
        twin_equal: compared.then_some(run.twin_equal),
        part: scope.rows.map(|rows| {
            let of = scope.task_rows.filter(|_| !perplexity).unwrap_or(run.all);
            let texts = samples.iter().map(Sample::texts).collect();
            let all = examples.iter().enumerate();
            let all = all.map(|(nth, row)| (scope.doc_id(nth), row));
            Part::new(task, shots, all, rows, of, texts)
        }),
        ..Report::of(task, run.engine.name(), measures, samples)?
    };
    Ok(report)
}

struct Run<'a, 'b> {
    task: &'a Task,
    engine: &'a mut dyn Engine,
    twin: Option<&'a mut (dyn Engine + 'b)>,
    formatter: &'a PromptFormatter<'a>,
    frame: Frame<'a>,
    scope: Scope<'a>,
    /// Rows that the task has, or windows.
    all: usize,
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
    fn ask(&mut self, example: &Example, answer_len: usize) -> Result<Question, EvalError> {
        let mut question = self.frame.question(example)?;
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
        let asked = self
            .engine
            .answer_all(requests, stop, scope.batch_size, &mut listen);
        asked.map_err(|error| match error {
            EvalError::EmptyPrompt { request } => EvalError::Task {
                task: task.name.clone(),
                reason: format!("the prompt of example {} is empty", scope.doc_id(request)),
            },
            other => other,
        })?;
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
