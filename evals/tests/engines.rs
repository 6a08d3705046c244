//! One task on all engines: the secure protocol answers as the twin does, the twin nearly as the
//! floats do.

use std::path::PathBuf;

use marill_evals::{
    EvalError, PromptFormatter, Report, Scope, Task, compare,
    engine::{Engine, FloatEngine, SecureEngine, TwinEngine},
    harness, table,
};
use marill_partition::{ExportOptions, Partition, export};
use marill_recipe::Example;
use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};

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
        export(
            &base,
            &transforms,
            &adapter,
            &out,
            &ExportOptions::default(),
        )
        .unwrap();
        Self {
            partition: Partition::open(&out).unwrap(),
            dir,
        }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn float(&self) -> FloatEngine {
        let partition = &self.partition;
        FloatEngine::new(
            partition.base(),
            &partition.manifest.transforms,
            partition.adapter(),
        )
        .unwrap()
    }

    fn twin(&self) -> TwinEngine {
        TwinEngine::new(&self.partition).unwrap()
    }

    fn run(
        &self,
        task: &Task,
        engine: &mut dyn Engine,
        examples: &[Example],
    ) -> Result<Report, EvalError> {
        let formatter = PromptFormatter {
            tokenizer: self.partition.tokenizer(),
            chat_template: self.partition.chat_template(),
        };
        let mut twin = self.twin();
        let twin: Option<&mut dyn Engine> = if engine.name().starts_with("secure") {
            Some(&mut twin)
        } else {
            None
        };
        harness::run(
            task,
            engine,
            twin,
            &formatter,
            examples,
            &[],
            Scope::default(),
            &mut |_, _| {},
        )
    }
}

fn news(fixture: &Fixture) -> (Task, Vec<Example>) {
    let rows =
        "Markets fell on Monday\t2\nThe striker scored twice\t1\nA new probe left for Mars\t3\n";
    let task = Task::find("agnews").unwrap();
    let examples = task
        .examples(Some(&fixture.file("rows.tsv", rows)), None)
        .unwrap();
    (task, examples)
}

#[test]
fn the_twin_scores_labels_nearly_as_the_floats_do() {
    let fixture = Fixture::new();
    let (task, examples) = news(&fixture);
    let float = fixture.run(&task, &mut fixture.float(), &examples).unwrap();
    let twin = fixture.run(&task, &mut fixture.twin(), &examples).unwrap();
    let names = |report: &Report| report.metrics.iter().map(|m| m.name).collect::<Vec<_>>();
    assert_eq!(
        (float.n, names(&float), float.metric),
        (3, vec!["acc", "exact_match"], "acc")
    );
    assert_eq!(
        (float.version, names(&twin)),
        (2, vec!["acc", "exact_match"])
    );
    assert_eq!(
        float.samples_sha256, twin.samples_sha256,
        "both engines were asked the same"
    );
    for (float, twin) in float.samples.iter().zip(&twin.samples) {
        assert_eq!(
            (float.label_scores.len(), float.answer_scores.len()),
            (4, 4)
        );
        assert!(
            float
                .label_scores
                .iter()
                .zip(&float.answer_scores)
                .all(|(label, whole)| whole < label)
        );
        for (a, b) in float.label_scores.iter().zip(&twin.label_scores) {
            // Labels of five to ten tokens, about 5.5 nats each.
            assert!(
                (a - b).abs() < 0.5 && *a < -10.0,
                "{a} in floats, {b} in integers"
            );
        }
    }
}

#[test]
fn label_scores_are_sums_of_token_scores() {
    let fixture = Fixture::new();
    let tokens = |text: &str| fixture.partition.tokenizer().encode(text).unwrap();
    let prompt = tokens("What is it? ");
    let labels = [tokens("news"), tokens("sports"), tokens("x")];
    for engine in [&mut fixture.float() as &mut dyn Engine, &mut fixture.twin()] {
        let scores = engine.score(&prompt, &labels).unwrap();
        for (label, score) in labels.iter().zip(scores) {
            let whole: Vec<u32> = prompt.iter().chain(label).copied().collect();
            let each = engine.token_scores(&whole).unwrap();
            let sum: f64 = each[prompt.len() - 1..].iter().sum();
            // The twin's prompt is padded in one way and fed token by token in the other.
            assert!(
                (sum - score).abs() < 0.05,
                "{}: {sum} against {score}",
                engine.name()
            );
        }
    }
}

#[test]
fn every_secure_answer_is_the_twins_and_its_cost_is_counted() {
    let fixture = Fixture::new();
    let (task, examples) = news(&fixture);
    let mut secure = SecureEngine::new(&fixture.partition).unwrap();
    let report = fixture.run(&task, &mut secure, &examples).unwrap();
    assert_eq!(
        (report.metrics.len(), report.metric, report.twin_equal),
        (1, "exact_match", Some(3))
    );
    // What the engines agree on is the greedy answer, in the same words.
    let twin = fixture.run(&task, &mut fixture.twin(), &examples).unwrap();
    assert_eq!(report.answers_sha256, twin.answers_sha256);
    let both = table::fidelity_and_cost(&[twin.clone(), report.clone()]);
    assert!(
        both.contains("3/3") && both.contains("| exact_match |") && both.contains("+0.0000"),
        "{both}"
    );
    assert_eq!(twin.metrics[1].value, report.score);
    let cost = secure.cost();
    assert_eq!(cost.prompts, 3);
    assert!(cost.prefill_rounds > 0 && cost.prefill_bytes_sent > 0 && cost.decode_steps > 0);
    let report = Report {
        cost: Some(cost),
        ..report
    };
    let text = table::fidelity_and_cost(std::slice::from_ref(&report));
    assert!(text.contains("3/3"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    for key in ["n", "score", "stderr", "samples_sha256"] {
        assert!(!json[key].is_null(), "{key}");
    }
}

#[test]
fn two_parties_without_a_dealer_answer_as_the_twin() {
    let fixture = Fixture::new();
    let (task, examples) = news(&fixture);
    let mut secure = SecureEngine::two_party(&fixture.partition).unwrap();
    // Each is a session of its own, with its set-up.
    let examples = &examples[..1];
    let report = fixture.run(&task, &mut secure, examples).unwrap();
    assert_eq!((report.engine, report.twin_equal), ("secure-2pc", Some(1)));
    let twin = fixture.run(&task, &mut fixture.twin(), examples).unwrap();
    assert_eq!(report.answers_sha256, twin.answers_sha256);
    let cost = secure.cost();
    assert!(
        cost.prefill_bytes_sent > 0 && cost.decode_rounds > 0,
        "{cost:?}"
    );
}

#[test]
fn an_engine_that_differs_from_the_twin_is_noticed() {
    /// Answers one token more than it should.
    struct Wrong(TwinEngine);
    impl Engine for Wrong {
        fn name(&self) -> &'static str {
            "secure"
        }
        fn context(&self) -> usize {
            self.0.context()
        }
        fn score(&mut self, prompt: &[u32], labels: &[Vec<u32>]) -> Result<Vec<f64>, EvalError> {
            self.0.score(prompt, labels)
        }
        fn token_scores(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EvalError> {
            self.0.token_scores(tokens)
        }
        fn generate(
            &mut self,
            prompt: &[u32],
            max_new_tokens: usize,
            stop: &marill_evals::engine::Stop<'_>,
        ) -> Result<Vec<u32>, EvalError> {
            let mut answer = self.0.generate(prompt, max_new_tokens, stop)?;
            answer.push(1);
            Ok(answer)
        }
    }
    let fixture = Fixture::new();
    let (task, examples) = news(&fixture);
    let report = fixture
        .run(&task, &mut Wrong(fixture.twin()), &examples)
        .unwrap();
    assert_eq!(report.twin_equal, Some(0));
}

#[test]
fn perplexity_of_the_twin_is_that_of_the_floats() {
    let fixture = Fixture::new();
    let mut task = Task::find("wikitext-2").unwrap();
    task.window = 40;
    let text =
        "The tower was built in 1889 and stands by the river.\nIt is taller than the church.\n";
    let examples = task
        .examples(Some(&fixture.file("text.txt", text)), None)
        .unwrap();
    let float = fixture.run(&task, &mut fixture.float(), &examples).unwrap();
    let twin = fixture.run(&task, &mut fixture.twin(), &examples).unwrap();
    assert_eq!((float.n, float.metrics[0].name), (3, "token_perplexity"));
    // An untrained model over 259 tokens.
    assert!(
        float.score > 100.0 && (twin.score / float.score - 1.0).abs() < 0.05,
        "{} {}",
        float.score,
        twin.score
    );
    let mut secure = SecureEngine::new(&fixture.partition).unwrap();
    assert!(matches!(
        fixture.run(&task, &mut secure, &examples),
        Err(EvalError::NeedsLogits { .. })
    ));
}

#[test]
fn a_translation_is_scored_by_bleu_and_chrf() {
    let fixture = Fixture::new();
    let mut task = Task::find("multi30k-de-en").unwrap();
    task.max_new_tokens = 6;
    let source = fixture.file("rows.de", "Ein Hund.\nZwei Kinder.\n");
    let target = fixture.file("rows.en", "A dog.\nTwo children.\n");
    let examples = task.examples(Some(&source), Some(&target)).unwrap();
    let report = fixture.run(&task, &mut fixture.float(), &examples).unwrap();
    assert_eq!(
        report.metrics.iter().map(|m| m.name).collect::<Vec<_>>(),
        ["bleu", "chrf"]
    );
    assert_eq!(report.samples[0].target, "A dog.");
    assert!(report.samples[0].prompt.contains("Ein Hund."));
}

#[test]
fn two_runs_are_compared_from_their_json_and_from_their_logs() {
    let fixture = Fixture::new();
    let (task, examples) = news(&fixture);
    let float = fixture.run(&task, &mut fixture.float(), &examples).unwrap();
    let twin = fixture.run(&task, &mut fixture.twin(), &examples).unwrap();
    let json = |report: &Report| serde_json::json!({ "results": { "agnews": report } }).to_string();
    let log = |report: &Report| -> String {
        let line = |sample| {
            let mut line = serde_json::to_value(sample).unwrap();
            line["task"] = "agnews".into();
            line["version"] = report.version.into();
            format!("{line}\n")
        };
        report.samples.iter().map(line).collect()
    };
    let read = |name: &str, text: String| compare::read(&fixture.file(name, &text)).unwrap();
    let from_json = read("float.json", json(&float));
    assert_eq!(
        from_json,
        read("float.jsonl", log(&float)),
        "both hold the same figures"
    );
    let differences = compare::compare(&from_json, &read("twin.jsonl", log(&twin))).unwrap();
    let [only, greedy] = &differences[..] else {
        panic!("{differences:?}")
    };
    assert_eq!(
        (only.metric, only.n, only.a, only.b),
        ("acc", 3, float.score, twin.score)
    );
    assert_eq!(greedy.metric, "exact_match");
    assert!(
        table::differences(&differences).contains("| agnews | acc"),
        "{}",
        table::differences(&differences)
    );

    let error = compare::read(&fixture.file("empty.json", "{\"results\": {}}"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds no examples"), "{error}");
    let error = compare::read(&fixture.file("other.json", "what?"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("other.json"), "{error}");
}

#[test]
fn programs_are_scored_without_being_run() {
    let fixture = Fixture::new();
    let row = concat!(
        r#"{"text": "Add.", "code": "def add(a, b):\n  return a + b", "#,
        r#""test_list": ["assert add(1, 2) == 3"]}"#
    );
    let path = fixture.file("rows.jsonl", row);
    let mut task = Task::find("mbpp").unwrap();
    task.max_new_tokens = 8;
    let examples = task.examples(Some(&path), None).unwrap();
    let mut scores = Vec::new();
    for engine in [&mut fixture.float() as &mut dyn Engine, &mut fixture.twin()] {
        let report = fixture.run(&task, engine, &examples).unwrap();
        let names: Vec<_> = report.metrics.iter().map(|m| m.name).collect();
        assert_eq!(
            names,
            ["nats_per_token", "defines_function"],
            "a program runs only where that is allowed"
        );
        let tokens = fixture
            .partition
            .tokenizer()
            .encode(&examples[0].completion)
            .unwrap()
            .len();
        assert_eq!(
            report.examples[0].figures["nats_per_token"][1],
            tokens as f64
        );
        scores.push(report.score);
    }
    // Nats of a model with random weights: large, and nearly the same in integers.
    assert!(
        scores[0] > 3.0 && (scores[0] - scores[1]).abs() < 0.1,
        "{scores:?}"
    );
    task.max_new_tokens = 0;
    let report = fixture.run(&task, &mut fixture.float(), &examples).unwrap();
    assert_eq!(
        (report.metrics.len(), report.score),
        (1, scores[0]),
        "the solution's likelihood alone"
    );
    let mut secure = SecureEngine::new(&fixture.partition).unwrap();
    assert!(matches!(
        fixture.run(&task, &mut secure, &examples),
        Err(EvalError::NeedsLogits { .. })
    ));
}

/// Says `answer` and then the end, and finds every other token a hundredth as likely.
struct Sure(Vec<u32>, usize);
impl Engine for Sure {
    fn name(&self) -> &'static str {
        "float"
    }
    fn context(&self) -> usize {
        1000
    }
    fn score(&mut self, _: &[u32], labels: &[Vec<u32>]) -> Result<Vec<f64>, EvalError> {
        let likely = |label: &Vec<u32>| {
            let same = label
                .iter()
                .zip(&self.0)
                .take_while(|(a, b)| a == b)
                .count();
            -0.1 * same as f64 - 5.0 * (label.len() - same) as f64
        };
        self.1 += labels.len();
        Ok(labels.iter().map(likely).collect())
    }
    fn token_scores(&mut self, _: &[u32]) -> Result<Vec<f64>, EvalError> {
        unreachable!("a classification asks for labels")
    }
    fn generate(
        &mut self,
        _: &[u32],
        most: usize,
        stop: &marill_evals::engine::Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
        let mut answer: Vec<u32> = Vec::new();
        for &token in self.0.iter().take(most) {
            if stop(&answer, token) {
                break;
            }
            answer.push(token);
        }
        Ok(answer)
    }
}

#[test]
fn a_label_that_begins_another_is_told_from_it_by_its_end() {
    let fixture = Fixture::new();
    let (mut task, _) = news(&fixture);
    let tokenizer = fixture.partition.tokenizer();
    task.dataset.labels = ["thing", "thing that moves", "thing that moves fast", "no"]
        .map(String::from)
        .to_vec();
    let path = fixture.file(
        "kinds.tsv",
        "rock\tthing\ncar\tthing that moves\nrocket\tthing that moves fast\n",
    );
    for (nth, example) in task
        .examples(Some(&path), None)
        .unwrap()
        .into_iter()
        .enumerate()
    {
        let formatter = PromptFormatter {
            tokenizer,
            chat_template: fixture.partition.chat_template(),
        };
        let answer = formatter
            .answer(&example.prompt, &example.completion)
            .unwrap();
        assert!(tokenizer.is_eos(answer[answer.len() - 1]), "{answer:?}");
        let mut sure = Sure(answer, 0);
        let report = fixture.run(&task, &mut sure, &[example]).unwrap();
        assert_eq!(
            report.metrics.iter().map(|m| m.value).collect::<Vec<_>>(),
            [1.0, 1.0],
            "label {nth}"
        );
        assert_eq!(
            report.samples[0].choice.as_deref(),
            Some(report.samples[0].answer.as_str())
        );
        assert_eq!(sure.1, 8, "each label with and without its end");
    }
}

#[test]
fn scores_that_are_no_numbers_print_no_metric() {
    let fixture = Fixture::new();
    let base = fixture.partition.base();
    let mut broken = base.clone();
    let name = "model.layers.0.mlp.down_proj.weight";
    let nan = (&base.tensors[name] * f64::NAN).unwrap();
    broken.tensors.insert(name.into(), nan);
    let engine = || FloatEngine::new(&broken, &Default::default(), None).unwrap();
    let (task, examples) = news(&fixture);
    let error = fixture
        .run(&task, &mut engine(), &examples)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("task `agnews`: `acc` has no value at example 0"),
        "{error}"
    );
    let text = fixture.file(
        "text.txt",
        "The tower was built in 1889 and stands by the river.\n",
    );
    for (name, file, metric) in [
        ("wikitext-2", &text, "token_perplexity"),
        ("multi30k-de-en", &text, "bleu"),
    ] {
        let mut task = Task::find(name).unwrap();
        task.max_new_tokens = 4;
        let examples = task
            .examples(Some(file), (name != "wikitext-2").then_some(file.as_path()))
            .unwrap();
        let error = fixture
            .run(&task, &mut engine(), &examples)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("`{metric}` has no value")) && error.contains("NaN"),
            "{error}"
        );
    }
    let mut task = Task::find("multi30k-de-en").unwrap();
    task.max_new_tokens = 1_000_000;
    let examples = task.examples(Some(&text), Some(&text)).unwrap();
    let error = fixture
        .run(&task, &mut fixture.float(), &examples)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("answers of 1000000 tokens leave no room"),
        "{error}"
    );
    let error = fixture
        .run(&task, &mut fixture.float(), &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("`multi30k-de-en`"), "{error}");
}
