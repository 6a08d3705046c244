//! The real model, where `MARILL_SMOLLM2` names its GGUF file (`recipes/fetch-smollm2.sh` fetches
//! it).

use std::path::{Path, PathBuf};

use marill_model::{Checkpoint, FloatModel, Message, ModelError, Prefix, Transforms, render_chat};

fn file() -> Option<PathBuf> {
    let path = std::env::var_os("MARILL_SMOLLM2").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: MARILL_SMOLLM2 names no file");
    }
    path
}

fn greedy(model: &mut FloatModel, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut out = Vec::new();
    let mut next = prompt.to_vec();
    while out.len() < count {
        let logits = model.logits(&next).unwrap();
        let best = (0..logits.len())
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap() as u32;
        out.push(best);
        next = vec![best];
    }
    out
}

#[test]
fn the_package_file_opens_and_answers_in_english() {
    let Some(path) = file() else { return };
    let model = Checkpoint::open(&path).unwrap();
    assert_eq!(
        (
            model.config.llama().unwrap().num_hidden_layers,
            model.config.llama().unwrap().vocab_size
        ),
        (30, 49152)
    );
    assert_eq!(
        (
            model.config.llama().unwrap().rope_theta,
            model.config.llama().unwrap().rms_norm_eps
        ),
        (100_000.0, 1e-5)
    );
    assert!(model.config.llama().unwrap().tie_word_embeddings);
    let ids = model.tokenizer.encode("Hello world 12345").unwrap();
    assert_eq!(ids, [19556, 905, 216, 33, 34, 35, 36, 37]);
    assert_eq!(model.tokenizer.decode(&ids).unwrap(), "Hello world 12345");
    assert_eq!(model.tokenizer.encode("<|im_start|>").unwrap(), [1]);
    assert!(model.tokenizer.is_eos(0) && model.tokenizer.is_eos(2) && !model.tokenizer.is_eos(1));

    let turn = Message {
        role: "user".into(),
        content: "What is the capital of France?".into(),
    };
    let text = render_chat(model.chat_template.as_ref().unwrap(), &[turn], true).unwrap();
    assert!(text.ends_with(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ));
    let mut float = FloatModel::new(&model, &Transforms::default(), None).unwrap();
    let answer = greedy(&mut float, &model.tokenizer.encode(&text).unwrap(), 12);
    let answer = model.tokenizer.decode(&answer).unwrap();
    assert!(answer.contains("Paris"), "{answer:?}");
}

#[test]
fn the_prefix_agrees_with_the_float_model() {
    let Some(path) = file() else { return };
    let model = Checkpoint::open(&path).unwrap();
    let tokens = model
        .tokenizer
        .encode("The client runs these layers itself")
        .unwrap();
    let rows = Prefix::new(&model, 15).unwrap().forward(&tokens).unwrap();
    let float = FloatModel::new(&model, &Transforms::default(), None).unwrap();
    let expected = &float.layer_outputs(&tokens).unwrap()[15];
    let scale = expected.iter().map(|v| v.abs()).fold(0f32, f32::max);
    let worst = rows
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0f32, f32::max);
    // 32-bit floats after 15 layers, against the largest value: some hundred times the last bit.
    assert!(worst < 1e-4 * scale, "{worst} of {scale}");
}

#[test]
fn a_file_cut_short_says_so() {
    let Some(path) = file() else { return };
    let bytes = std::fs::read(path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (keep, expected) in [(bytes.len() - 1000, "ends at byte"), (50_000, "cut short")] {
        let cut = dir.path().join("cut.gguf");
        std::fs::write(&cut, &bytes[..keep]).unwrap();
        let error = Checkpoint::open(&cut).err().unwrap();
        assert!(
            matches!(error, ModelError::Corrupt { .. }) && error.to_string().contains(expected),
            "{error}"
        );
    }
    assert!(matches!(
        Checkpoint::open(Path::new("/nowhere.gguf")),
        Err(ModelError::Io { .. })
    ));
}
