//! A folder of results as lm-evaluation-harness writes it, for the tools that read it:
//! `DIR/MODEL/results_TIME.json` and `DIR/MODEL/samples_TASK_TIME.jsonl`.
//!
//! Names and places of keys are the harness's; figures that it has no name for stand in
//! `marill` of either file.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Local, TimeDelta};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{EvalError, Report, Sample, Task};

/// What a run was asked, as the harness records it.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The model as the command line names it.
    pub model: &'a str,
    pub tasks: &'a [Task],
    /// Rows of each task, those that were not asked included.
    pub rows: &'a [usize],
    pub limit: Option<usize>,
    pub batch_size: Option<usize>,
    /// Of the few-shot examples.
    pub seed: u64,
    /// The model's chat template, where questions were asked in it.
    pub chat_template: Option<&'a str>,
    pub started: DateTime<Local>,
    pub ended: DateTime<Local>,
}

/// Writes the files of one engine's reports and returns the place of the results.
///
/// # Errors
/// [`EvalError::Io`] naming the file.
pub fn write(dir: &Path, asked: &Asked<'_>, reports: &[&Report]) -> Result<PathBuf, EvalError> {
    let folder = dir.join(sanitized(asked.model));
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| EvalError::Io { path, source }
    };
    std::fs::create_dir_all(&folder).map_err(io(&folder))?;
    // Two engines of one run are two runs to the harness, whose file names differ by the time.
    let mut time = asked.ended;
    let place = |kind: &str, time: DateTime<Local>, ending: &str| {
        let time = time.format("%Y-%m-%dT%H-%M-%S%.6f");
        folder.join(format!("{kind}_{time}.{ending}"))
    };
    while place("results", time, "json").exists() {
        time += TimeDelta::microseconds(1);
    }
    let results = place("results", time, "json");
    let text = format!("{:#}\n", results_json(asked, reports));
    write_whole(&results, &text).map_err(io(&results))?;
    for report in reports {
        let task = asked.tasks.iter().find(|task| task.name == report.task);
        let lines = report.samples.iter().map(|sample| {
            let line = sample_json(sample, report, task);
            format!("{line}\n")
        });
        let path = place(
            &format!("samples_{}", sanitized(&report.task)),
            time,
            "jsonl",
        );
        write_whole(&path, &lines.collect::<String>()).map_err(io(&path))?;
    }
    Ok(results)
}

/// A file that is there whole or not at all.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let work = || {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    let done = work();
    if done.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&partial);
    }
    done
}

/// A name as the harness writes it into names of files: `__` for what may not stand there.
fn sanitized(name: &str) -> String {
    let odd = |c: char| {
        let named = matches!(
            c,
            '"' | '<' | '>' | ':' | '/' | '|' | '\\' | '?' | '*' | '[' | ']'
        );
        named || c.is_control()
    };
    let mut out = String::new();
    let mut before = false;
    for c in name.chars() {
        match odd(c) {
            true if before => {}
            true => out += "__",
            false => out.push(c),
        }
        before = odd(c);
    }
    match out.trim_matches('.') {
        "" => "model".into(),
        _ => out,
    }
}

fn sha256(text: &str) -> String {
    marill_numeric::hex(&Sha256::digest(text))
}

/// An object with an entry a report, by the task's name.
fn by_task(reports: &[&Report], value: impl Fn(&Report) -> Value) -> Value {
    let entries = reports.iter().map(|r| (r.task.clone(), value(r)));
    Value::Object(entries.collect())
}

fn results_json(asked: &Asked<'_>, reports: &[&Report]) -> Value {
    let seconds = (asked.ended - asked.started).num_milliseconds() as f64 / 1000.0;
    let engine = reports.first().map_or("", |report| report.engine);
    let chat = asked.chat_template;
    json!({
        "results": by_task(reports, scores),
        "group_subtasks": by_task(reports, |_| json!([])),
        "configs": by_task(reports, |report| config(asked, report)),
        "versions": by_task(reports, |report| report.version.into()),
        "n-shot": by_task(reports, |report| report.few_shot.into()),
        "higher_is_better": by_task(reports, |report| {
            let metrics = report.metrics.iter();
            let metrics = metrics.map(|m| (m.name.to_owned(), m.higher_is_better.into()));
            Value::Object(metrics.collect())
        }),
        "n-samples": by_task(reports, |report| {
            let task = asked.tasks.iter().position(|task| task.name == report.task);
            let rows = task.and_then(|nth| asked.rows.get(nth));
            json!({ "original": rows, "effective": report.n })
        }),
        "config": {
            "model": format!("marill-{engine}"), "model_args": { "pretrained": asked.model },
            "batch_size": asked.batch_size, "batch_sizes": [], "device": "cpu",
            "use_cache": null, "limit": asked.limit, "bootstrap_iters": 1000, "gen_kwargs": null,
            "random_seed": asked.seed, "fewshot_seed": asked.seed,
        },
        "date": asked.started.timestamp_millis() as f64 / 1000.0,
        "task_hashes": by_task(reports, |report| report.samples_sha256.clone().into()),
        "model_source": "marill",
        "model_name": asked.model,
        "model_name_sanitized": sanitized(asked.model),
        "system_instruction": null,
        "system_instruction_sha": null,
        "fewshot_as_multiturn": chat.is_some(),
        "chat_template": chat,
        "chat_template_sha": chat.map(sha256),
        "total_evaluation_time_seconds": seconds.to_string(),
        "marill": {
            "version": env!("CARGO_PKG_VERSION"), "engine": engine,
            "results": by_task(reports, |report| {
                serde_json::to_value(report).unwrap_or(Value::Null)
            }),
        },
    })
}

/// `acc,none` and `acc_stderr,none`: the harness writes the name of a filter behind each.
fn scores(report: &Report) -> Value {
    let mut entry = Map::new();
    entry.insert("alias".into(), report.task.clone().into());
    for metric in &report.metrics {
        entry.insert(format!("{},none", metric.name), metric.value.into());
        entry.insert(format!("{}_stderr,none", metric.name), metric.stderr.into());
    }
    Value::Object(entry)
}

fn config(asked: &Asked<'_>, report: &Report) -> Value {
    let task = asked.tasks.iter().find(|task| task.name == report.task);
    let metrics = report.metrics.iter().map(|metric| {
        json!({
            "metric": metric.name, "aggregation": aggregation(metric.name),
            "higher_is_better": metric.higher_is_better,
        })
    });
    let dataset = task.map(|task| &task.dataset);
    json!({
        "task": report.task,
        "dataset_path": dataset.map(|dataset| &dataset.path),
        "output_type": output_type(report),
        "doc_to_text": dataset.and_then(|dataset| dataset.template.as_ref()),
        "doc_to_choice": dataset.map(|dataset| &dataset.labels),
        "num_fewshot": report.few_shot,
        "metric_list": metrics.collect::<Vec<_>>(),
        "metadata": { "version": report.version },
    })
}

/// How figures of samples become a score; the harness's names where it has one.
fn aggregation(metric: &str) -> &str {
    match metric {
        "acc" | "exact_match" | "defines_function" | "pass@1" => "mean",
        "nats_per_token" => "weighted_mean",
        "token_perplexity" => "weighted_perplexity",
        other => other,
    }
}

fn output_type(report: &Report) -> &'static str {
    match report.metric {
        "acc" => "multiple_choice",
        "token_perplexity" => "loglikelihood_rolling",
        "nats_per_token" => "loglikelihood",
        _ => "generate_until",
    }
}

fn sample_json(sample: &Sample, report: &Report, task: Option<&Task>) -> Value {
    let labels = task.map(|task| task.dataset.labels.as_slice());
    // The harness asks once for each label, and writes what it was told of each.
    let asked: Vec<(String, Value)> = match (labels, sample.answer_scores.as_slice()) {
        (Some(labels), scores) if !scores.is_empty() && scores.len() == labels.len() => {
            let told = labels.iter().zip(scores).enumerate();
            told.map(|(nth, (label, score))| (label.clone(), likelihood(sample, nth, *score)))
                .collect()
        }
        _ => vec![(sample.target.clone(), json!(sample.answer))],
    };
    let arguments = asked.iter().enumerate().map(|(nth, (answer, _))| {
        let value = json!({ "arg_0": sample.prompt, "arg_1": answer });
        (format!("gen_args_{nth}"), value)
    });
    let responses: Vec<&Value> = asked.iter().map(|(_, told)| told).collect();
    let doc = json!({
        "text": sample.prompt, "answer": sample.target, "label": sample.label,
    });
    let mut line = json!({
        "doc_id": sample.doc_id,
        "doc": doc,
        "target": sample.target,
        "arguments": Value::Object(arguments.collect()),
        "resps": responses.iter().map(|told| json!([told])).collect::<Vec<_>>(),
        "filtered_resps": responses,
        "filter": "none",
        "metrics": sample.figures.keys().collect::<Vec<_>>(),
        "doc_hash": sha256(&doc.to_string()),
        "prompt_hash": sha256(&sample.prompt),
        "target_hash": sha256(&sample.target),
        "marill": serde_json::to_value(sample).unwrap_or(Value::Null),
        "engine": report.engine,
    });
    for (name, figures) in &sample.figures {
        // What is right or not is one number there; sums are told as they add up.
        line[*name] = match figures.as_slice() {
            [right, 1.0] => json!(right),
            figures => json!(figures),
        };
    }
    line
}

/// A log-likelihood as text, and whether the label is the likeliest: how the harness writes it.
fn likelihood(sample: &Sample, nth: usize, score: f64) -> Value {
    let best = sample.answer_scores.iter().all(|other| *other <= score);
    let first = sample
        .answer_scores
        .iter()
        .position(|other| *other == score)
        == Some(nth);
    json!([score.to_string(), (best && first).to_string()])
}
