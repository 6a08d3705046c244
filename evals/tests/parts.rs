//! Parts of a run, put together, are the whole run.

use std::path::PathBuf;

use marill_evals::{
    EvalError, PromptFormatter, Report, Scope, Task,
    engine::{Engine, TwinEngine},
    harness,
    merge::{self, Merged},
};
use marill_partition::{ExportOptions, Partition, export};
use marill_recipe::Example;
use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};
use serde_json::json;

struct Fixture {
    dir: tempfile::TempDir,
    partition: Partition,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = tiny_base(&dir.path().join("base"), 5).unwrap();
        let transforms = tiny_transforms(&base.config, true);
        let adapter = tiny_adapter(&base.config, &transforms, 6).unwrap();
        let out = dir.path().join("out");
        let options = ExportOptions::default();
        export(&base, &transforms, &adapter, &out, &options).unwrap();
        Self {
            partition: Partition::open(&out).unwrap(),
            dir,
        }
    }

    /// The task of this name with seven rows of its own.
    fn task(&self, name: &str) -> (Task, Vec<Example>) {
        let mut task = Task::find(name).unwrap();
        task.max_new_tokens = 5;
        task.window = 30;
        let rows: &[&str] = match name {
            "agnews" => &[
                "Markets fell\t2",
                "He scored twice\t1",
                "A probe left\t3",
                "War\t0",
            ],
            _ => &[
                "Ein Hund.",
                "Zwei Kinder spielen.",
                "Ein Mann.",
                "Die Stadt am Fluss.",
            ],
        };
        let text = [rows, &rows[..3]].concat().join("\n");
        let ending = if name == "agnews" { "tsv" } else { "txt" };
        let file = self.dir.path().join(format!("{name}.{ending}"));
        std::fs::write(&file, text).unwrap();
        let reference = (name == "multi30k-de-en").then_some(file.as_path());
        let examples = task.examples(Some(&file), reference).unwrap();
        (task, examples)
    }

    fn run(&self, name: &str, scope: Scope<'_>) -> Result<Report, EvalError> {
        let (task, examples) = self.task(name);
        self.run_rows(&task, &examples, scope)
    }

    fn run_rows(
        &self,
        task: &Task,
        examples: &[Example],
        scope: Scope<'_>,
    ) -> Result<Report, EvalError> {
        let formatter = PromptFormatter {
            tokenizer: self.partition.tokenizer(),
            chat_template: self.partition.chat_template(),
        };
        // The twin's figures do not depend on what is computed beside them.
        let mut engine = TwinEngine::new(&self.partition).unwrap();
        let engine: &mut dyn Engine = &mut engine;
        let shots = &examples[..0];
        harness::run(
            task,
            engine,
            None,
            &formatter,
            examples,
            shots,
            scope,
            &mut |_, _| {},
        )
    }

    fn part(&self, name: &str, rows: [usize; 2]) -> Report {
        let scope = Scope {
            rows: Some(rows),
            ..Scope::default()
        };
        self.run(name, scope).unwrap()
    }

    /// What `--json` prints.
    fn file(&self, name: &str, report: &Report) -> PathBuf {
        self.changed(name, report, |_| {})
    }

    fn changed(
        &self,
        name: &str,
        report: &Report,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> PathBuf {
        let mut json = json!({
            "model": "m", "model_sha256": "abc", "engine": report.engine,
            "results": { &report.task: report },
        });
        change(&mut json);
        let path = self.dir.path().join(name);
        std::fs::write(&path, json.to_string()).unwrap();
        path
    }
}

fn merged(files: &[PathBuf]) -> Report {
    let Merged { mut reports, .. } = merge::reports(files).unwrap();
    reports.remove(0)
}

fn refusal(files: &[PathBuf]) -> String {
    merge::reports(files).unwrap_err().to_string()
}

#[test]
fn parts_together_are_the_whole_run() {
    let fixture = Fixture::new();
    for name in ["agnews", "multi30k-de-en", "wikitext-2"] {
        let whole = fixture.run(name, Scope::default()).unwrap();
        let all = whole.n;
        assert!(all > 3, "{name}: {all} rows");
        let files = [[1, 3], [3, all], [0, 1]].map(|rows| {
            let part = fixture.part(name, rows);
            assert_eq!(part.examples[0].doc_id, rows[0]);
            fixture.file(&format!("{name}-{}", rows[0]), &part)
        });
        let together = merged(&files);
        assert!(together.seconds > 0.0);
        let expected = Report {
            seconds: together.seconds,
            samples: Vec::new(),
            ..whole
        };
        assert_eq!(together, expected);
    }
}

#[test]
fn some_parts_together_are_a_part() {
    let fixture = Fixture::new();
    let whole = fixture.run("agnews", Scope::default()).unwrap();
    let file = |rows: [usize; 2]| {
        fixture.file(&format!("part-{}", rows[0]), &fixture.part("agnews", rows))
    };
    let first = merged(&[file([0, 2]), file([2, 4])]);
    assert_eq!(first.part.as_ref().unwrap().rows, [0, 4]);
    let both = merged(&[fixture.file("first", &first), file([4, 7])]);
    assert_eq!(both.answers_sha256, whole.answers_sha256);
    assert_eq!((both.part, both.metrics), (None, whole.metrics));
}

#[test]
fn parts_that_overlap_or_leave_a_gap_are_refused() {
    let fixture = Fixture::new();
    let file = |rows: [usize; 2]| {
        let name = format!("{}-{}.json", rows[0], rows[1]);
        fixture.file(&name, &fixture.part("agnews", rows))
    };
    let error = refusal(&[file([0, 4]), file([3, 7])]);
    assert!(error.contains("rows 3..4 are in both"), "{error}");
    assert!(
        error.contains("0-4.json") && error.contains("3-7.json"),
        "{error}"
    );
    let error = refusal(&[file([5, 7]), file([0, 2])]);
    assert!(
        error.contains("rows 2..5 between them are missing"),
        "{error}"
    );
    let whole = fixture.run("agnews", Scope::default()).unwrap();
    let error = refusal(&[fixture.file("whole.json", &whole)]);
    assert!(
        error.contains("whole.json") && error.contains("--rows A..B"),
        "{error}"
    );
    let error = refusal(&[fixture.dir.path().join("none.json")]);
    assert!(error.contains("none.json"), "{error}");
}

#[test]
fn parts_of_different_runs_are_refused_by_name() {
    let fixture = Fixture::new();
    let part = fixture.part("agnews", [0, 3]);
    let first = fixture.file("first.json", &part);
    let next = fixture.part("agnews", [3, 7]);
    let of = |json: &mut serde_json::Value, key: &str, value: serde_json::Value| {
        json["results"]["agnews"][key] = value;
    };
    let changes: [(&str, &dyn Fn(&mut serde_json::Value)); 7] = [
        ("other models", &|json| json["model_sha256"] = "def".into()),
        ("other tasks or engines", &|json| {
            of(json, "task", "trec".into())
        }),
        ("other tasks or engines", &|json| {
            of(json, "engine", "float".into())
        }),
        ("versions 2 and 9", &|json| of(json, "version", 9.into())),
        ("`--shots` 0 and 4", &|json| of(json, "few_shot", 4.into())),
        ("`--seed`", &|json| {
            json["results"]["agnews"]["part"]["asked_sha256"] = "x".into()
        }),
        ("rows in all 7 and 9", &|json| {
            json["results"]["agnews"]["part"]["of"] = 9.into()
        }),
    ];
    for (what, change) in changes {
        let other = fixture.changed("other.json", &next, change);
        let error = refusal(&[first.clone(), other]);
        assert!(error.contains(what), "{what}: {error}");
        assert!(
            error.contains("first.json") && error.contains("other.json"),
            "{error}"
        );
    }
}

#[test]
fn parts_of_other_rows_are_refused_whatever_their_number() {
    let fixture = Fixture::new();
    let first = fixture.file("first.json", &fixture.part("agnews", [0, 3]));
    let (task, examples) = fixture.task("agnews");
    let scope = Scope {
        rows: Some([3, 7]),
        ..Scope::default()
    };
    // Rows that the second part does not run: its own texts stay the same.
    let mut prompt = examples.clone();
    prompt[1].prompt = prompt[2].prompt.clone();
    let mut answer = examples.clone();
    answer[1].completion = answer[0].completion.clone();
    let mut system = task.clone();
    system.dataset.system = Some("Be brief.".into());
    for (task, examples) in [(&task, &prompt), (&task, &answer), (&system, &examples)] {
        let other = fixture.run_rows(task, examples, scope).unwrap();
        let error = refusal(&[first.clone(), fixture.file("other.json", &other)]);
        assert!(error.contains("other rows (`--data`"), "{error}");
    }
    let same = fixture.run_rows(&task, &examples, scope).unwrap();
    assert_eq!(merged(&[first, fixture.file("same.json", &same)]).n, 7);
}

#[test]
fn parts_that_leave_out_other_rows_are_refused() {
    let fixture = Fixture::new();
    let (task, mut examples) = fixture.task("agnews");
    // Whichever of these two is left out, the same texts stay: their numbers tell.
    examples[2] = examples[1].clone();
    let part = |left_out: usize, rows: [usize; 2]| {
        let doc_ids: Vec<usize> = (0..7).filter(|&nth| nth != left_out).collect();
        let examples: Vec<Example> = doc_ids.iter().map(|&nth| examples[nth].clone()).collect();
        let scope = Scope {
            rows: Some(rows),
            task_rows: Some(7),
            doc_ids: &doc_ids,
            ..Scope::default()
        };
        let report = fixture.run_rows(&task, &examples, scope).unwrap();
        fixture.file(&format!("without-{left_out}-{}.json", rows[0]), &report)
    };
    let first = part(1, [0, 3]);
    assert_eq!(merged(&[first.clone(), part(1, [3, 7])]).n, 6);
    for other in [2, 6] {
        let error = refusal(&[first.clone(), part(other, [3, 7])]);
        assert!(error.contains("`--exclude`"), "{error}");
    }
}

#[test]
fn rows_that_a_task_does_not_have_are_refused() {
    let fixture = Fixture::new();
    for (name, rows) in [
        ("agnews", [3, 8]),
        ("agnews", [4, 4]),
        ("wikitext-2", [0, 1000]),
    ] {
        let scope = Scope {
            rows: Some(rows),
            ..Scope::default()
        };
        let error = fixture.run(name, scope).unwrap_err().to_string();
        let [first, end] = rows;
        assert!(
            error.contains(&format!("`--rows {first}..{end}`")),
            "{error}"
        );
        assert!(error.contains("its rows are 0.."), "{error}");
    }
}

#[test]
fn rows_keep_their_numbers_where_some_are_left_out() {
    let fixture = Fixture::new();
    // Of nine rows, the second and the eighth were left out.
    let scope = Scope {
        rows: Some([1, 6]),
        task_rows: Some(9),
        doc_ids: &[0, 2, 3, 4, 5, 6, 8],
        ..Scope::default()
    };
    let report = fixture.run("agnews", scope).unwrap();
    let ids: Vec<usize> = report
        .examples
        .iter()
        .map(|example| example.doc_id)
        .collect();
    assert_eq!(ids, [2, 3, 4, 5]);
    let none = Scope {
        rows: Some([7, 8]),
        ..scope
    };
    let error = fixture.run("agnews", none).unwrap_err().to_string();
    assert!(
        error.contains("`--rows 7..8`: all of these rows are left out"),
        "{error}"
    );
}
