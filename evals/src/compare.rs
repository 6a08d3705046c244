//! Two runs on the same questions: the difference of their scores, and how far it may be chance.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{EvalError, ExampleFigures, measure::Measure, metrics::split_mix};

const RESAMPLES: usize = 10_000;

/// The examples of each task of one run.
pub type Scored = BTreeMap<String, Vec<ExampleFigures>>;

/// One metric of one task in two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub task: String,
    pub metric: &'static str,
    /// Examples that both runs have.
    pub n: usize,
    /// Examples of each run that the other one lacks; they are left out.
    pub alone: [usize; 2],
    pub a: f64,
    pub b: f64,
    /// `b - a`.
    pub difference: f64,
    /// Standard deviation of the difference over resamples.
    pub stderr: f64,
    /// 95% percentile interval of the difference.
    pub interval: [f64; 2],
    /// Examples with the same answer in both.
    pub same_answers: usize,
}

/// Reads what `--json` printed or `--log-samples` wrote.
///
/// # Errors
/// [`EvalError::Scores`] naming the file and what is wrong with it.
pub fn read(path: &Path) -> Result<Scored, EvalError> {
    let fail = |reason: String| EvalError::Scores {
        path: path.into(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    let scored = match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(report) if report["results"].is_object() => from_report(&report),
        _ => from_log(&text),
    };
    let scored = scored.map_err(|error| {
        fail(format!(
            "it holds no scores of `--json` or `--log-samples`: {error}"
        ))
    })?;
    if scored.values().all(Vec::is_empty) {
        return Err(fail("it holds no examples".into()));
    }
    Ok(scored)
}

fn from_report(report: &serde_json::Value) -> serde_json::Result<Scored> {
    let results = report["results"].as_object().into_iter().flatten();
    let read = |(task, result): (&String, &serde_json::Value)| {
        let mut examples: Vec<ExampleFigures> = serde_json::from_value(result["examples"].clone())?;
        examples
            .iter_mut()
            .for_each(|example| example.version = result["version"].as_u64());
        Ok((task.clone(), examples))
    };
    results.map(read).collect()
}

fn from_log(text: &str) -> serde_json::Result<Scored> {
    #[derive(serde::Deserialize)]
    struct Line {
        task: String,
        doc_id: usize,
        target: String,
        answer: String,
        #[serde(default)]
        label: Option<usize>,
        #[serde(default)]
        version: Option<u64>,
        figures: BTreeMap<String, Vec<f64>>,
    }
    let mut scored = Scored::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let Line {
            task,
            doc_id,
            target,
            answer,
            label,
            version,
            figures,
        } = serde_json::from_str(line)?;
        let example = ExampleFigures {
            version,
            ..ExampleFigures::new(doc_id, label, &target, &answer, figures)
        };
        scored.entry(task).or_default().push(example);
    }
    Ok(scored)
}

/// Keeps the first `limit` rows of every task, by their numbers in its file.
pub fn first_rows(scored: &mut Scored, limit: usize) {
    scored
        .values_mut()
        .for_each(|examples| examples.retain(|example| example.doc_id < limit));
}

/// Compares every metric of every task that both runs have, over the examples that both have.
/// Source of the interval: Koehn, "Statistical Significance Tests for Machine Translation
/// Evaluation", EMNLP 2004 (paired bootstrap).
///
/// # Errors
/// [`EvalError::Compare`] when the runs share no task, or the questions of a shared one differ.
pub fn compare(a: &Scored, b: &Scored) -> Result<Vec<Difference>, EvalError> {
    let mut differences = Vec::new();
    for (task, ours) in a {
        let Some(theirs) = b.get(task) else { continue };
        let pairs = pair(task, ours, theirs)?;
        let same_answers = pairs
            .iter()
            .filter(|(ours, theirs)| ours.answer_sha256 == theirs.answer_sha256)
            .count();
        let Some((first, other)) = pairs.first() else {
            continue;
        };
        let alone = [ours.len() - pairs.len(), theirs.len() - pairs.len()];
        for name in first
            .figures
            .keys()
            .filter(|name| other.figures.contains_key(*name))
        {
            let measure = Measure::find(name).ok_or_else(|| EvalError::Compare {
                reason: format!("`{task}` has a metric `{name}` that this version does not know"),
            })?;
            let figures =
                |example: &ExampleFigures| example.figures.get(name).cloned().unwrap_or_default();
            let (ours, theirs) = pairs
                .iter()
                .map(|(ours, theirs)| (figures(ours), figures(theirs)))
                .unzip();
            let difference = paired(measure, ours, theirs);
            differences.push(Difference {
                task: task.clone(),
                same_answers,
                alone,
                ..difference
            });
        }
    }
    if differences.is_empty() {
        return Err(EvalError::Compare {
            reason: nothing_shared(a, b),
        });
    }
    Ok(differences)
}

fn nothing_shared(a: &Scored, b: &Scored) -> String {
    fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
        names
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }
    let metrics = |examples: &[ExampleFigures]| {
        list(
            examples
                .iter()
                .take(1)
                .flat_map(|first| first.figures.keys()),
        )
    };
    match a
        .iter()
        .find_map(|(task, ours)| Some((task, ours, b.get(task)?)))
    {
        Some((task, ours, theirs)) => {
            let hint = "score both with the same version of the task; every engine has \
                `exact_match` of a classification";
            format!(
                "the runs of `{task}` share no metric: {} against {}\n\nhint: {hint}",
                metrics(ours),
                metrics(theirs)
            )
        }
        None => format!(
            "the runs share no task: {} against {}",
            list(a.keys()),
            list(b.keys())
        ),
    }
}

/// Examples of both runs side by side; the ones that only one of them has are left out.
fn pair<'a>(
    task: &str,
    a: &'a [ExampleFigures],
    b: &'a [ExampleFigures],
) -> Result<Vec<(&'a ExampleFigures, &'a ExampleFigures)>, EvalError> {
    let version =
        |examples: &[ExampleFigures]| examples.first().and_then(|example| example.version);
    if let (Some(ours), Some(theirs)) = (version(a), version(b))
        && ours != theirs
    {
        let reason = format!(
            "`{task}` was scored in version {ours} and in version {theirs}, which mean other scores"
        );
        return Err(EvalError::Compare { reason });
    }
    let by_id: BTreeMap<usize, &ExampleFigures> =
        b.iter().map(|example| (example.doc_id, example)).collect();
    let pairs: Vec<_> = a
        .iter()
        .filter_map(|ours| Some((ours, *by_id.get(&ours.doc_id)?)))
        .collect();
    match pairs
        .iter()
        .find(|(ours, theirs)| ours.target_sha256 != theirs.target_sha256)
    {
        Some((ours, _)) => {
            let reason = format!(
                "example {} of `{task}` has another right answer in each run",
                ours.doc_id
            );
            Err(EvalError::Compare { reason })
        }
        None if pairs.is_empty() => Err(EvalError::Compare {
            reason: format!("`{task}` has no example in common"),
        }),
        None => Ok(pairs),
    }
}

fn paired(measure: Measure, a: Vec<Vec<f64>>, b: Vec<Vec<f64>>) -> Difference {
    let a: Vec<&[f64]> = a.iter().map(Vec::as_slice).collect();
    let b: Vec<&[f64]> = b.iter().map(Vec::as_slice).collect();
    let n = a.len();
    let of_a = measure.score_of(&a, 0..n);
    let of_b = measure.score_of(&b, 0..n);
    let mut state = 0x6D61_7269_6C6Cu64;
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sampled: Vec<usize> = (0..n)
                .map(|_| (split_mix(&mut state) % n as u64) as usize)
                .collect();
            measure.score_of(&b, sampled.iter().copied())
                - measure.score_of(&a, sampled.iter().copied())
        })
        .collect();
    resampled.sort_unstable_by(f64::total_cmp);
    let (_, stderr) = crate::metrics::mean_and_stderr(&resampled);
    let at = |share: f64| resampled[((RESAMPLES - 1) as f64 * share).round() as usize];
    Difference {
        task: String::new(),
        metric: measure.name(),
        n,
        alone: [0, 0],
        a: of_a,
        b: of_b,
        difference: of_b - of_a,
        stderr: stderr * (RESAMPLES as f64).sqrt(),
        interval: [at(0.025), at(0.975)],
        same_answers: 0,
    }
}

impl ExampleFigures {
    /// An example of a log, without its text.
    pub fn new(
        doc_id: usize,
        label: Option<usize>,
        target: &str,
        answer: &str,
        figures: BTreeMap<String, Vec<f64>>,
    ) -> Self {
        // A label may be worded differently in two recipes.
        let target = label.map_or_else(|| target.to_owned(), |label| format!("label {label}"));
        Self {
            doc_id,
            target_sha256: short_digest(&target),
            answer_sha256: short_digest(answer.trim()),
            figures,
            version: None,
        }
    }
}

/// The first half of SHA-256, in hex.
fn short_digest(text: &str) -> String {
    marill_numeric::hex(&Sha256::digest(text)[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(right: impl Fn(usize) -> bool) -> Scored {
        let example = |doc_id: usize| {
            let figures = BTreeMap::from([("acc".to_owned(), vec![f64::from(right(doc_id)), 1.0])]);
            ExampleFigures::new(
                doc_id,
                Some(1),
                "x",
                if right(doc_id) { "x" } else { "y" },
                figures,
            )
        };
        Scored::from([("news".to_owned(), (0..200).map(example).collect())])
    }

    #[test]
    fn pairing_finds_a_small_but_steady_gain() {
        // B is right wherever A is, and on one question in ten besides.
        let differences =
            compare(&run(|n| n % 2 == 0), &run(|n| n % 2 == 0 || n % 10 == 1)).unwrap();
        let [only] = &differences[..] else {
            panic!("{differences:?}")
        };
        assert_eq!((only.metric, only.n, only.a), ("acc", 200, 0.5));
        assert!((only.b - 0.6).abs() < 1e-12 && (only.difference - 0.1).abs() < 1e-12);
        // The exact standard error of a mean of 200 draws of one in ten.
        assert!(
            (only.stderr - (0.1f64 * 0.9 / 200.0).sqrt()).abs() < 1e-3,
            "{}",
            only.stderr
        );
        // Two standard errors of 0.021 on both sides of 0.1, rounded outwards.
        assert!(
            only.interval[0] > 0.05 && only.interval[1] < 0.15,
            "{:?}",
            only.interval
        );
        assert_eq!(only.same_answers, 180);
    }

    #[test]
    fn no_difference_is_none() {
        let differences = compare(&run(|n| n % 3 == 0), &run(|n| n % 3 == 0)).unwrap();
        assert_eq!(
            (differences[0].difference, differences[0].interval),
            (0.0, [0.0, 0.0])
        );
        assert_eq!(differences[0].same_answers, 200);
    }

    #[test]
    fn what_both_runs_have_is_compared_and_the_rest_counted() {
        let mut a = run(|n| n % 2 == 0);
        let mut b = run(|_| true);
        first_rows(&mut a, 120);
        b.get_mut("news").unwrap().drain(..20);
        let differences = compare(&a, &b).unwrap();
        assert_eq!((differences[0].n, differences[0].alone), (100, [20, 80]));
        assert_eq!((differences[0].a, differences[0].b), (0.5, 1.0));
        first_rows(&mut a, 20);
        let error = compare(&a, &b).unwrap_err().to_string();
        assert!(error.contains("`news` has no example in common"), "{error}");
    }

    #[test]
    fn other_questions_are_refused() {
        let mut other = run(|_| true);
        other.get_mut("news").unwrap()[7].target_sha256 = "another".into();
        let error = compare(&run(|_| true), &other).unwrap_err().to_string();
        assert!(error.contains("example 7 of `news`"), "{error}");
        let elsewhere = Scored::from([("weather".to_owned(), Vec::new())]);
        let error = compare(&run(|_| true), &elsewhere).unwrap_err().to_string();
        assert!(error.contains("`news` against `weather`"), "{error}");
        let mut old = run(|_| true);
        let mut new = run(|_| true);
        old.get_mut("news")
            .unwrap()
            .iter_mut()
            .for_each(|example| example.version = Some(1));
        assert!(
            compare(&old, &new).is_ok(),
            "a log of an earlier program names no version"
        );
        new.get_mut("news")
            .unwrap()
            .iter_mut()
            .for_each(|example| example.version = Some(2));
        let error = compare(&old, &new).unwrap_err().to_string();
        assert!(
            error.contains("`news` was scored in version 1 and in version 2"),
            "{error}"
        );
        let mut greedy = run(|_| true);
        for example in greedy.get_mut("news").unwrap() {
            example.figures = BTreeMap::from([("exact_match".to_owned(), vec![1.0, 1.0])]);
        }
        let error = compare(&run(|_| true), &greedy).unwrap_err().to_string();
        assert!(
            error.contains("`news` share no metric: `acc` against `exact_match`"),
            "{error}"
        );
    }
}
