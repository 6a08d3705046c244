//! `marill demo`: the whole way on one machine, offline, checked at every step.

mod services;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use marill_evals::{Report, Scope, Task};
use marill_numeric::Rounding;
use marill_recipe::Recipe;
use marill_report::{Table, bytes, count};
use marill_serving::terms::Setting;
use marill_training::TrainOptions;
use serde::Serialize;

use crate::{
    args::{model_dir::Model, services::parse_setting},
    commands::{
        eval::{EngineKind, Engines},
        export::write::numbers_of,
        recipes::RECIPES,
        train::train_and_export,
    },
    output::{failure::INPUT_FAILED, progress::Progress},
    process::Service,
};

/// How much better than base and majority the tuned model must be.
const MARGIN: f64 = 0.10;
const TASK: &str = "dolly4";
const MAX_TOKENS: usize = 8;
const DEFAULT_PROMPT: &str = "Write a short poem about a lighthouse keeper";

/// The embedded base and the rows to learn from, as files below the recipe's folder.
const FILES: [(&str, &[u8]); 6] = [
    (
        "base/config.json",
        include_bytes!("../../../../recipes/base/config.json"),
    ),
    (
        "base/model.safetensors",
        include_bytes!("../../../../recipes/base/model.safetensors"),
    ),
    (
        "base/tokenizer.json",
        include_bytes!("../../../../recipes/base/tokenizer.json"),
    ),
    (
        "base/tokenizer_config.json",
        include_bytes!("../../../../recipes/base/tokenizer_config.json"),
    ),
    (
        "demo/train.jsonl",
        include_bytes!("../../../../recipes/demo/train.jsonl"),
    ),
    (
        "demo/test.jsonl",
        include_bytes!("../../../../recipes/demo/test.jsonl"),
    ),
];

#[derive(clap::Args)]
pub struct Args {
    /// The request to classify privately
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_PROMPT)]
    prompt: String,
    /// Another base model (folder or GGUF file) in place of the embedded one
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// Keep everything in this new folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The setting of the private answer: `dealer`, `3pc`, or `2pc` (no dealer)
    #[arg(long, value_name = "NAME", default_value = "dealer", value_parser = parse_setting)]
    setting: Setting,
    /// Override a key of the demo's recipe (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long, env = "MARILL_NO_PROGRESS", value_parser = clap::builder::FalseyValueParser::new())]
    no_progress: bool,
}

/// Process ids of the three parties.
#[derive(Serialize)]
struct Pids {
    client: u64,
    server: u32,
    /// None in the setting `2pc`.
    dealer: Option<u32>,
}

/// What the demo found.
#[derive(Serialize)]
struct Findings {
    twin_equal: bool,
    answer: String,
    /// The base model's answer to the same request.
    answer_base: String,
    /// What an answer can be.
    classes: Vec<String>,
    setting: String,
    rounding: String,
    pids: Pids,
    rounds_per_token: Option<f64>,
    client_bytes_sent_per_token: Option<f64>,
    client_bytes_received_per_token: Option<f64>,
    seconds_per_token: Option<f64>,
    n: usize,
    score_majority: f64,
    score_base: f64,
    score_tuned: f64,
    prefill_seconds: f64,
    prefill_rounds: u64,
    prompt_tokens: u64,
    train_seconds: f64,
    partition_id: String,
    public_bytes: u64,
    private_bytes: u64,
}

impl Findings {
    /// What did not hold, one sentence each.
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if !self.twin_equal {
            failures.push("the private answer is not the twin's".to_string());
        }
        if self.answer.is_empty() {
            failures.push("the private answer is empty".into());
        }
        let needed = self.score_base.max(self.score_majority) + MARGIN;
        if self.score_tuned < needed {
            failures.push(format!(
                "the tuned model scores {:.3}, {needed:.3} is needed",
                self.score_tuned
            ));
        }
        failures
    }
}

/// # Errors
/// Whatever stops the demo before its checks; a failed check is exit code 1.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let temporary;
    let work = match &args.keep {
        Some(dir) => {
            anyhow::ensure!(
                !dir.exists(),
                "`{}` exists\nhint: name a new folder",
                dir.display()
            );
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot create `{}`", dir.display()))?;
            std::path::absolute(dir)?
        }
        None => {
            temporary = tempfile::tempdir().context("cannot create a temporary folder")?;
            temporary.path().to_path_buf()
        }
    };
    let findings = play(&args, &work)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", render(&findings, &args.prompt));
    }
    let failures = findings.failures();
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}

fn play(args: &Args, work: &Path) -> anyhow::Result<Findings> {
    let say = |step: &str| eprintln!("{step}");
    let base = base_path(args, work)?;
    let recipe = unpack(work, &base, &args.set)?;
    anyhow::ensure!(
        numbers_of(&recipe)?.rounding == Rounding::Exact,
        "the demo checks equality with the twin, which stochastic rounding does not \
         promise\nhint: leave out `export.rounding`"
    );

    say("1/4 fine-tuning the embedded base: frozen layers, LoRA, merged heads");
    let options = TrainOptions {
        recipe_dir: work.to_path_buf(),
        ..Default::default()
    };
    let (trained, exported) = train_and_export(&recipe, &options, args.no_progress)?;
    let exported = exported.context("the demo's recipe has no `[lora]` table")?;

    say("2/4 scoring base and tuned model on rows that neither has seen");
    let base_model = Model::open(&base)?;
    let answer_base = answer_of_base(&base_model, work, &recipe, &args.prompt)?;
    let base = score(&base_model, EngineKind::Float, &recipe, args.no_progress)?;
    let tuned = score(
        &Model::open(&exported.dir)?,
        EngineKind::Twin,
        &recipe,
        args.no_progress,
    )?;

    say(services::starting(args.setting));
    let services = services::start(work, &exported.dir, args.setting)?;

    say("4/4 asking through a client process; its answer is compared with the twin's");
    let prompt = recipe_prompt(&recipe, &args.prompt)?;
    let answer = services::ask(work, &services, &exported.dir, &prompt, MAX_TOKENS)?;
    let number = |key: &str| answer[key].as_f64();
    Ok(Findings {
        twin_equal: answer["twin_equal"] == true,
        answer: answer["text"]
            .as_str()
            .unwrap_or_default()
            .trim()
            .to_string(),
        answer_base,
        classes: labels(&recipe).to_vec(),
        setting: answer["setting"].as_str().unwrap_or_default().to_string(),
        rounding: answer["rounding"].as_str().unwrap_or_default().to_string(),
        pids: Pids {
            client: answer["pid"].as_u64().unwrap_or_default(),
            server: services.server.pid(),
            dealer: services.dealer.as_ref().map(Service::pid),
        },
        rounds_per_token: number("rounds_per_token"),
        client_bytes_sent_per_token: number("client_bytes_sent_per_token"),
        client_bytes_received_per_token: number("client_bytes_received_per_token"),
        seconds_per_token: number("seconds_per_token"),
        n: tuned.n,
        score_majority: tuned.majority.unwrap_or_default(),
        score_base: base.score,
        score_tuned: tuned.score,
        prefill_seconds: answer["prefill"]["seconds"].as_f64().unwrap_or_default(),
        prefill_rounds: answer["prefill"]["rounds"].as_u64().unwrap_or_default(),
        prompt_tokens: answer["prompt_tokens"].as_u64().unwrap_or_default(),
        train_seconds: trained.seconds,
        partition_id: exported.partition_id.clone(),
        public_bytes: exported.public_bytes,
        private_bytes: exported.private_bytes,
    })
}

/// The base to tune: the user's own, or the embedded one as it is unpacked.
fn base_path(args: &Args, work: &Path) -> anyhow::Result<PathBuf> {
    match &args.base {
        Some(base) => {
            std::path::absolute(base).with_context(|| format!("cannot find `{}`", base.display()))
        }
        None => Ok(work.join("base")),
    }
}

/// Writes the embedded files and reads the demo's recipe, with the run inside `work`.
fn unpack(work: &Path, base: &Path, set: &[String]) -> anyhow::Result<Recipe> {
    for (name, content) in FILES {
        let path = work.join(name);
        let folder = path
            .parent()
            .context("every embedded file lies in a folder")?;
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, content))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    let text = RECIPES
        .iter()
        .find(|(name, ..)| *name == "demo")
        .map_or("", |(_, _, text)| text);
    let mut overrides = vec![
        format!("output.dir={}", work.join("run").display()),
        format!("model.base_model={}", base.display()),
    ];
    overrides.extend_from_slice(set);
    Ok(Recipe::parse(text, "demo.toml", &overrides)?)
}

/// Scores a model on the demo's test rows, asked with the recipe's prompt format.
fn score(
    model: &Model,
    engine: EngineKind,
    recipe: &Recipe,
    quiet: bool,
) -> anyhow::Result<Report> {
    let mut task = Task::find(TASK)?;
    task.format_as(&recipe.dataset);
    let examples = task.examples(None, None)?;
    let mut engines = Engines::new(model, engine)?;
    let mut progress = Progress::new(engines.name(), quiet);
    let scope = Scope::default();
    let report = engines.run(model, &task, &examples, scope, &mut |done, all| {
        progress.set(done, all, "questions")
    });
    progress.finish();
    Ok(report?)
}

/// What the base model says to the request, asked as in training.
fn answer_of_base(
    base: &Model,
    work: &Path,
    recipe: &Recipe,
    request: &str,
) -> anyhow::Result<String> {
    let mut task = Task::find(TASK)?;
    task.format_as(&recipe.dataset);
    // The right class is not known; what the answer is compared with does not matter here.
    let row = serde_json::json!({"text": request, "label": labels(recipe).first()});
    let path = work.join("demo/request.jsonl");
    std::fs::write(&path, format!("{row}\n"))
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    let examples = task.examples(Some(&path), None)?;
    let mut engines = Engines::new(base, EngineKind::Float)?;
    let report = engines.run(base, &task, &examples, Scope::default(), &mut |_, _| ())?;
    let answer = report
        .samples
        .into_iter()
        .next()
        .map(|sample| sample.answer);
    Ok(answer.unwrap_or_default().trim().to_string())
}

/// The classes that the demo's model tells apart.
fn labels(recipe: &Recipe) -> &[String] {
    recipe
        .dataset
        .first()
        .map_or(&[], |dataset| &dataset.labels)
}

/// The user's request in the recipe's prompt format.
fn recipe_prompt(recipe: &Recipe, request: &str) -> anyhow::Result<String> {
    let dataset = recipe
        .dataset
        .first()
        .context("the demo's recipe has no data set")?;
    let template = dataset.template.as_deref().unwrap_or("{text}");
    Ok(template.replace("{text}", request))
}

/// What each process saw.
fn parties(findings: &Findings) -> Table {
    let mut parties = Table::new(["party", "process", "saw", "did not see"]);
    parties.row([
        "client".to_string(),
        findings.pids.client.to_string(),
        "prompt, answer, public weights".into(),
        "the private adapter".into(),
    ]);
    parties.row([
        "server".to_string(),
        findings.pids.server.to_string(),
        "private adapter; that a prompt of a certain padded length came".into(),
        "prompt, answer, activations".into(),
    ]);
    if let Some(dealer) = findings.pids.dealer {
        parties.row([
            "dealer".to_string(),
            dealer.to_string(),
            "shapes and number of steps".into(),
            "prompt, answer, weights".into(),
        ]);
    }
    parties
}

fn render(findings: &Findings, prompt: &str) -> String {
    let per_token =
        |value: Option<f64>, show: &dyn Fn(f64) -> String| value.map_or_else(|| "-".into(), show);
    let before = match findings.answer_base.as_str() {
        "" => "(nothing)",
        answer => answer,
    };
    let mut text = format!(
        "\nThe model was taught to say what kind of request it reads: {}.\n\n\
         request          {prompt}\n\
         before training  {before}\n\
         after, private   {}\n\n",
        findings.classes.join(", "),
        findings.answer
    );
    text += &format!("{}\n\n", parties(findings).markdown());

    let mut facts = Table::new(["figure", "value"]);
    facts.row([
        "equal to the cleartext twin, token by token",
        if findings.twin_equal { "yes" } else { "NO" },
    ]);
    facts.row([
        "setting, rounding",
        &format!("{}, {}", findings.setting, findings.rounding),
    ]);
    facts.row([
        "rounds per token",
        &per_token(findings.rounds_per_token, &|v| format!("{v:.0}")),
    ]);
    let sent = per_token(findings.client_bytes_sent_per_token, &|v| bytes(v as u64));
    let received = per_token(findings.client_bytes_received_per_token, &|v| {
        bytes(v as u64)
    });
    facts.row([
        "client sends, receives per token",
        &format!("{sent}, {received}"),
    ]);
    facts.row([
        "seconds per token",
        &per_token(findings.seconds_per_token, &|v| format!("{v:.3}")),
    ]);
    let prefill = format!(
        "{:.2} s, {} rounds, {} tokens",
        findings.prefill_seconds, findings.prefill_rounds, findings.prompt_tokens
    );
    facts.row(["prompt", &prefill]);
    let scores = format!(
        "{:.3} base, {:.3} majority, {:.3} tuned (twin), {} rows",
        findings.score_base, findings.score_majority, findings.score_tuned, findings.n
    );
    facts.row(["accuracy", &scores]);
    facts.row([
        "public, private part",
        &format!(
            "{}, {}",
            bytes(findings.public_bytes),
            bytes(findings.private_bytes)
        ),
    ]);
    facts.row([
        "fine-tuning",
        &format!("{} s", count(findings.train_seconds.round() as u64)),
    ]);
    text += &format!("{}\n\n", facts.markdown());
    text + "One operator ran all roles here, on one machine: this is a demonstration, not \
        privacy.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(twin_equal: bool, score_tuned: f64) -> Findings {
        Findings {
            twin_equal,
            answer: "create".into(),
            answer_base: "I am".into(),
            classes: ["answer", "create"].map(String::from).to_vec(),
            setting: "dealer".into(),
            rounding: "exact".into(),
            pids: Pids {
                client: 1,
                server: 2,
                dealer: Some(3),
            },
            rounds_per_token: Some(200.0),
            client_bytes_sent_per_token: Some(1024.0),
            client_bytes_received_per_token: Some(1024.0),
            seconds_per_token: Some(0.05),
            n: 480,
            score_majority: 0.47,
            score_base: 0.25,
            score_tuned,
            prefill_seconds: 0.4,
            prefill_rounds: 200,
            prompt_tokens: 40,
            train_seconds: 90.0,
            partition_id: "id".into(),
            public_bytes: 1,
            private_bytes: 1,
        }
    }

    #[test]
    fn the_demo_fails_on_a_wrong_answer_and_on_a_score_too_low() {
        assert!(findings(true, 0.58).failures().is_empty());
        assert!(findings(false, 0.58).failures()[0].contains("twin"));
        assert!(findings(true, 0.56).failures()[0].contains("0.570 is needed"));
    }

    #[test]
    fn the_table_says_that_it_is_a_demonstration() {
        let text = render(&findings(true, 0.7), "Write a poem");
        assert!(
            text.contains("a demonstration, not privacy") && text.contains("1.00 KiB"),
            "{text}"
        );
        assert!(
            text.contains("reads: answer, create.") && text.contains("before training  I am\n"),
            "{text}"
        );
    }
}
