//! Parts of a run, put together to what the whole run says.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{
    EvalError,
    engine::SecureCost,
    harness::{ExampleFigures, Metric, Part, Report, digest, majority, metric},
    measure::Measure,
};

/// What runs over parts of the same rows say together.
#[derive(Debug)]
pub struct Merged {
    /// The model's name, and the digest of it.
    pub model: String,
    pub model_sha256: String,
    pub reports: Vec<Report>,
}

/// What `--json` prints with `--rows`.
#[derive(Deserialize)]
struct Run {
    model: String,
    #[serde(default)]
    model_sha256: Option<String>,
    engine: String,
    results: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    engines: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct SavedMetric {
    name: String,
}

/// A report as it was printed.
#[derive(Deserialize)]
struct Saved {
    task: String,
    version: u32,
    engine: String,
    few_shot: usize,
    metrics: Vec<SavedMetric>,
    #[serde(default)]
    majority: Option<f64>,
    truncated: usize,
    shortened: usize,
    seconds: f64,
    #[serde(default)]
    twin_equal: Option<usize>,
    #[serde(default)]
    cost: Option<SecureCost>,
    #[serde(default)]
    part: Option<Part>,
    examples: Vec<ExampleFigures>,
}

/// A report, its rows and the file that it stands in.
struct Piece {
    file: PathBuf,
    saved: Saved,
    part: Part,
}

/// Puts together what `--json` printed for the parts of a run: figures of examples are scored
/// again, so that metrics, standard errors and digests are those of one run over all these rows.
/// They are the same bit for bit in the twin, stochastic rounding aside, and within float noise in
/// floats: what questions share and which of them meet in a pass depend on the part, so that of
/// nearly equal logits another one may win.
///
/// # Errors
/// [`EvalError::Scores`] for a file that holds no part, [`EvalError::Merge`] for parts that do not
/// belong together, that overlap, or between which rows are missing; it names the files and what
/// differs.
pub fn reports(files: &[PathBuf]) -> Result<Merged, EvalError> {
    let mut runs = Vec::with_capacity(files.len());
    for file in files {
        runs.push(read(file)?);
    }
    let Some((first, others)) = runs.split_first() else {
        return Err(EvalError::Merge {
            reason: "there is no file".into(),
        });
    };
    for (nth, (model, digest, pieces)) in others.iter().enumerate() {
        let both = names(&files[0], &files[nth + 1]);
        if *digest != first.1 {
            let reason = format!("{both} are of other models: `{}` and `{model}`", first.0);
            return Err(EvalError::Merge { reason });
        }
        let asked = |pieces: &[Piece]| {
            let pairs = pieces
                .iter()
                .map(|p| format!("`{}` ({})", p.saved.task, p.saved.engine));
            pairs.collect::<Vec<_>>().join(", ")
        };
        let [ours, theirs] = [asked(&first.2), asked(pieces)];
        if ours != theirs {
            let reason = format!("{both} have other tasks or engines: {ours}; {theirs}");
            return Err(EvalError::Merge { reason });
        }
    }
    let model = first.0.clone();
    let model_sha256 = first.1.clone();
    let count = first.2.len();
    let mut by_report: Vec<Vec<Piece>> = (0..count).map(|_| Vec::new()).collect();
    for (_, _, pieces) in runs {
        for (all, piece) in by_report.iter_mut().zip(pieces) {
            all.push(piece);
        }
    }
    let reports = by_report.into_iter().map(together);
    Ok(Merged {
        model,
        model_sha256,
        reports: reports.collect::<Result<_, _>>()?,
    })
}

/// Model, digest and reports of a file, in order of engine and task.
fn read(file: &Path) -> Result<(String, String, Vec<Piece>), EvalError> {
    let fail = |reason: String| EvalError::Scores {
        path: file.into(),
        reason,
    };
    let text = std::fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
    let run: Run = serde_json::from_str(&text)
        .map_err(|error| fail(format!("it is not what `--json` prints: {error}")))?;
    let no_part = || {
        let hint = "hint: score with `--rows A..B --json`";
        fail(format!("it is not a part of a run\n{hint}"))
    };
    let mut all = run.engines;
    if all.is_empty() {
        all.insert(run.engine, run.results.into());
    }
    let mut pieces = Vec::new();
    for reports in all.values() {
        for report in reports.as_object().into_iter().flat_map(|map| map.values()) {
            let saved: Saved = serde_json::from_value(report.clone())
                .map_err(|error| fail(format!("it is not what `--json` prints: {error}")))?;
            let part = saved.part.clone().ok_or_else(no_part)?;
            let [first, end] = part.rows;
            let inside = |example: &ExampleFigures| (first..end).contains(&example.doc_id);
            if part.texts.len() != saved.examples.len() || !saved.examples.iter().all(inside) {
                return Err(fail("its examples are not those of its rows".into()));
            }
            pieces.push(Piece {
                file: file.into(),
                saved,
                part,
            });
        }
    }
    let digest = run.model_sha256.ok_or_else(no_part)?;
    Ok((run.model, digest, pieces))
}

fn names(a: &Path, b: &Path) -> String {
    format!("`{}` and `{}`", a.display(), b.display())
}

/// The parts belong together, follow each other and leave no gap.
fn check(pieces: &[Piece]) -> Result<(), EvalError> {
    for pair in pieces.windows(2) {
        let [a, b] = pair else { continue };
        let task = &a.saved.task;
        let both = names(&a.file, &b.file);
        let fail = |what: String| {
            let reason = format!("`{task}` of {both}: {what}");
            Err(EvalError::Merge { reason })
        };
        let differs =
            |what: &str, ours: usize, theirs: usize| format!("{what} {ours} and {theirs}");
        if a.saved.version != b.saved.version {
            let versions = [a, b].map(|piece| piece.saved.version as usize);
            return fail(differs("versions", versions[0], versions[1]));
        }
        if a.saved.few_shot != b.saved.few_shot {
            return fail(differs("`--shots`", a.saved.few_shot, b.saved.few_shot));
        }
        if a.part.of != b.part.of {
            return fail(differs("rows in all", a.part.of, b.part.of));
        }
        if a.part.asked_sha256 != b.part.asked_sha256 {
            return fail(
                "other rows (`--data`, `--exclude`), few-shot examples (`--seed`), prompt format \
                 or `--max-new-tokens`"
                    .into(),
            );
        }
        let metrics = |piece: &Piece| {
            let names = piece.saved.metrics.iter().map(|metric| metric.name.clone());
            names.collect::<Vec<_>>().join(", ")
        };
        if metrics(a) != metrics(b) {
            return fail(format!("metrics {} and {}", metrics(a), metrics(b)));
        }
        let end = a.part.rows[1];
        let next = b.part.rows[0];
        if next < end {
            return fail(format!(
                "rows {next}..{} are in both",
                end.min(b.part.rows[1])
            ));
        }
        if next > end {
            return fail(format!("rows {end}..{next} between them are missing"));
        }
    }
    Ok(())
}

fn together(mut pieces: Vec<Piece>) -> Result<Report, EvalError> {
    pieces.sort_by_key(|piece| piece.part.rows);
    check(&pieces)?;
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
        return Err(EvalError::Merge {
            reason: "there is nothing".into(),
        });
    };
    let task = &first.saved.task;
    let examples: Vec<ExampleFigures> = pieces
        .iter()
        .flat_map(|p| p.saved.examples.clone())
        .collect();
    let texts: Vec<[String; 3]> = pieces.iter().flat_map(|p| p.part.texts.clone()).collect();
    let metrics = first.saved.metrics.iter().map(|saved| {
        let name = &saved.name;
        let measure = Measure::find(name).ok_or_else(|| EvalError::Merge {
            reason: format!("`{task}` has a metric `{name}` that this version does not know"),
        })?;
        metric(
            task,
            measure,
            examples.iter().filter_map(|e| e.figures.get(name)),
        )
    });
    let metrics = metrics.collect::<Result<Vec<Metric>, _>>()?;
    let rows = [first.part.rows[0], last.part.rows[1]];
    let whole = rows == [0, first.part.of];
    let sum = |of: fn(&Saved) -> usize| pieces.iter().map(|p| of(&p.saved)).sum::<usize>();
    let costs = pieces.iter().filter_map(|piece| piece.saved.cost);
    Ok(Report {
        task: task.clone(),
        version: first.saved.version,
        engine: engine_name(&first.saved.engine)?,
        few_shot: first.saved.few_shot,
        n: examples.len(),
        metric: metrics.first().map_or("none", |m| m.name),
        score: metrics.first().map_or(0.0, |m| m.value),
        stderr: metrics.first().map_or(0.0, |m| m.stderr),
        metrics,
        majority: first
            .saved
            .majority
            .map(|_| majority(texts.iter().map(|[_, target, _]| target))),
        samples_sha256: digest(texts.iter().map(|[prompt, target, _]| (prompt, target))),
        answers_sha256: digest(texts.iter().map(|[_, _, answer]| (answer, ""))),
        truncated: sum(|saved| saved.truncated),
        shortened: sum(|saved| saved.shortened),
        seconds: pieces.iter().map(|piece| piece.saved.seconds).sum(),
        twin_equal: first
            .saved
            .twin_equal
            .map(|_| sum(|saved| saved.twin_equal.unwrap_or(0))),
        cost: costs.reduce(|sum, cost| sum.plus(&cost)),
        part: (!whole).then(|| Part {
            rows,
            texts,
            ..first.part.clone()
        }),
        examples,
        samples: Vec::new(),
    })
}

/// The engine of this name.
fn engine_name(name: &str) -> Result<&'static str, EvalError> {
    let known = ["float", "twin", "secure", "secure-2pc"];
    let found = known.into_iter().find(|known| *known == name);
    found.ok_or_else(|| EvalError::Merge {
        reason: format!("there is no engine `{name}`"),
    })
}
