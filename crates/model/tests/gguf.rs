//! A GGUF file written here, in every number format that the loader promises.

use std::path::Path;

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use marill_model::{Checkpoint, ModelError, RopeScaling};

const HIDDEN: usize = 256;
const HEADS: usize = 4;
const KV: usize = 2;
const VOCAB: usize = 260;

fn tensor(seed: u32, rows: usize) -> Tensor {
    let values = (0..rows * HIDDEN)
        .map(|i| ((i as u32 * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0);
    Tensor::from_vec(values.collect::<Vec<_>>(), (rows, HIDDEN), &Device::Cpu).unwrap()
}

/// What llama.cpp's converter does to rows of q and k.
fn interleave(t: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = t.dims2().unwrap();
    let t = t
        .reshape((heads, 2, rows / heads / 2, columns))
        .unwrap()
        .transpose(1, 2)
        .unwrap();
    t.contiguous().unwrap().reshape((rows, columns)).unwrap()
}

/// The GPT-2 alphabet: printable bytes stand for themselves, the others for characters from 256 on.
fn alphabet() -> Vec<String> {
    let plain =
        |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    let letters = (0..256u32).map(|b| {
        let code = if plain(b) { b } else { next };
        next += u32::from(!plain(b));
        char::from_u32(code).unwrap().to_string()
    });
    letters.collect()
}

type Keys = Vec<(&'static str, Value)>;
type Tensors = Vec<(&'static str, QTensor)>;

fn write(path: &Path, dtype: GgmlDType) {
    write_with(path, dtype, |_, _| {});
}

/// As [`write`], with changes of the metadata and the tensors.
fn write_with(path: &Path, dtype: GgmlDType, change: impl FnOnce(&mut Keys, &mut Tensors)) {
    let tokens: Vec<String> = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        .map(String::from)
        .into_iter()
        .chain(alphabet())
        .collect();
    let tokens: Vec<String> = tokens.into_iter().chain(["hi".to_owned()]).collect();
    assert_eq!(tokens.len(), VOCAB);
    let types = (0..VOCAB)
        .map(|i| Value::I32(if i < 3 { 3 } else { 1 }))
        .collect();
    let number = |n: usize| Value::U32(n as u32);
    let text = |s: &str| Value::String(s.into());
    let mut metadata: Keys = vec![
        ("general.architecture", text("llama")),
        ("llama.block_count", number(1)),
        ("llama.context_length", number(32)),
        ("llama.embedding_length", number(HIDDEN)),
        ("llama.feed_forward_length", number(HIDDEN)),
        ("llama.attention.head_count", number(HEADS)),
        ("llama.attention.head_count_kv", number(KV)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.vocab_size", number(VOCAB)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        (
            "tokenizer.ggml.tokens",
            Value::Array(tokens.into_iter().map(Value::String).collect()),
        ),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", Value::Array(vec![text("h i")])),
        ("tokenizer.ggml.eos_token_id", number(2)),
        ("tokenizer.chat_template", text("{{ messages[0].content }}")),
    ];
    let kv_rows = HIDDEN / HEADS * KV;
    let matrices = [
        ("token_embd.weight", tensor(1, VOCAB)),
        ("blk.0.attn_q.weight", interleave(&tensor(2, HIDDEN), HEADS)),
        ("blk.0.attn_k.weight", interleave(&tensor(3, kv_rows), KV)),
        ("blk.0.attn_v.weight", tensor(4, kv_rows)),
        ("blk.0.attn_output.weight", tensor(5, HIDDEN)),
        ("blk.0.ffn_gate.weight", tensor(6, HIDDEN)),
        ("blk.0.ffn_up.weight", tensor(7, HIDDEN)),
        ("blk.0.ffn_down.weight", tensor(8, HIDDEN)),
    ];
    let mut tensors: Tensors = matrices
        .iter()
        .map(|(name, t)| (*name, QTensor::quantize(t, dtype).unwrap()))
        .collect();
    let ones = Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu).unwrap();
    for name in [
        "output_norm.weight",
        "blk.0.attn_norm.weight",
        "blk.0.ffn_norm.weight",
    ] {
        tensors.push((name, QTensor::quantize(&ones, GgmlDType::F32).unwrap()));
    }
    change(&mut metadata, &mut tensors);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (*k, v)).collect();
    let mut file = std::fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

#[test]
fn every_promised_format_opens_with_rows_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    // The largest error of a weight in (-1, 1), by the bits of the format.
    let formats = [
        (GgmlDType::F32, 0.0),
        (GgmlDType::F16, 1e-3),
        (GgmlDType::Q8_0, 0.01),
        (GgmlDType::Q6K, 0.06),
        (GgmlDType::Q5_0, 0.1),
        (GgmlDType::Q4_1, 0.1),
        (GgmlDType::Q4K, 0.12),
    ];
    for (dtype, bound) in formats {
        write(&path, dtype);
        let model = Checkpoint::open(&path).unwrap();
        let c = model.config.llama().unwrap();
        assert_eq!(
            (
                c.head_dim,
                c.num_key_value_heads,
                c.rms_norm_eps,
                c.tie_word_embeddings
            ),
            (64, KV, 1e-6, true)
        );
        for (name, expected) in [
            ("model.embed_tokens.weight", tensor(1, VOCAB)),
            ("model.layers.0.self_attn.q_proj.weight", tensor(2, HIDDEN)),
            (
                "model.layers.0.self_attn.k_proj.weight",
                tensor(3, HIDDEN / 2),
            ),
            ("model.layers.0.mlp.down_proj.weight", tensor(8, HIDDEN)),
        ] {
            let got = model.floats(name).unwrap();
            let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            let worst = got
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0f32, f32::max);
            assert!(worst <= bound, "{dtype:?} `{name}`: {worst}");
        }
    }
}

#[test]
fn the_metadata_tokenizer_splits_digits_and_keeps_specials() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write(&path, GgmlDType::F32);
    let model = Checkpoint::open(&path).unwrap();
    assert_eq!(
        model.chat_template.as_ref().map(|t| t.source.as_str()),
        Some("{{ messages[0].content }}")
    );
    let ids = model.tokenizer.encode("<|im_start|>hi 12é").unwrap();
    // Bytes are tokens here but for the one merge.
    assert_eq!((ids[0], ids[1], ids.len()), (1, 259, 7));
    assert_eq!(model.tokenizer.decode(&ids[1..]).unwrap(), "hi 12é");
    assert_eq!(model.tokenizer.decode_said(&ids).unwrap(), "hi 12é");
    assert!(model.tokenizer.is_eos(2));
}

#[test]
fn a_cut_file_and_a_foreign_architecture_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write(&path, GgmlDType::Q4_1);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5000]).unwrap();
    let error = Checkpoint::open(&path).err().unwrap();
    assert!(error.to_string().contains("ends at byte"), "{error}");

    let other = String::from_utf8_lossy(&bytes)
        .find("general.architecture")
        .unwrap();
    let mut bytes = bytes;
    let at = other
        + bytes[other..]
            .windows(5)
            .position(|w| w == b"llama")
            .unwrap();
    bytes[at..at + 5].copy_from_slice(b"bloom");
    std::fs::write(&path, &bytes).unwrap();
    let error = Checkpoint::open(&path).err().unwrap();
    assert!(matches!(error, ModelError::Unsupported { .. }), "{error}");
}

/// The error of a file with one key set.
fn error_with(key: &'static str, value: Value) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write_with(&path, GgmlDType::F32, |keys, _| {
        keys.retain(|(name, _)| *name != key);
        keys.push((key, value));
    });
    let error = Checkpoint::open(&path)
        .err()
        .unwrap_or_else(|| panic!("{key} is refused"))
        .to_string();
    assert!(
        error.contains("m.gguf") && error.contains(&format!("`{key}`")),
        "{key}: {error}"
    );
    error
}

#[test]
fn metadata_that_changes_answers_is_refused_or_ignored() {
    let text = |s: &str| Value::String(s.into());
    for (key, value) in [
        ("llama.rope.scale_linear", Value::F32(4.0)),
        ("llama.rope.scaling.type", text("linear")),
        ("llama.rope.scaling.factor", Value::F32(2.0)),
        ("llama.rope.scaling.attn_factor", Value::F32(0.7)),
        ("llama.rope.dimension_count", Value::U32(32)),
        ("llama.attention.value_length", Value::U32(32)),
        ("llama.attention.sliding_window", Value::U32(4)),
        ("llama.attention.causal", Value::Bool(false)),
        ("llama.attention.scale", Value::F32(0.5)),
        ("llama.expert_count", Value::U32(8)),
        ("llama.logit_scale", Value::F32(0.1)),
        (
            "llama.a_key_of_next_year",
            Value::Array(vec![Value::U32(1); 40]),
        ),
        ("tokenizer.ggml.add_eos_token", Value::Bool(true)),
        (
            "tokenizer.ggml.precompiled_charsmap",
            Value::Array(vec![Value::U8(1)]),
        ),
        ("split.count", Value::U16(3)),
    ] {
        let error = error_with(key, value.clone());
        assert!(error.contains("model.ignore"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        write_with(&path, GgmlDType::F32, |keys, _| keys.push((key, value)));
        Checkpoint::open_ignoring(&path, &[key.into()]).unwrap_or_else(|e| panic!("{key}: {e}"));
    }
    error_with(
        "llama.attention.head_count",
        Value::Array(vec![Value::U32(4)]),
    );
}

#[test]
fn metadata_of_the_converter_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write_with(&path, GgmlDType::F32, |keys, _| {
        keys.extend([
            ("general.name", Value::String("x".into())),
            ("general.type", Value::String("model".into())),
            ("general.alignment", Value::U32(32)),
            ("general.quantization_version", Value::U32(2)),
            (
                "general.tags",
                Value::Array(vec![Value::String("chat".into()); 20]),
            ),
            (
                "llama.rope.dimension_count",
                Value::U32((HIDDEN / HEADS) as u32),
            ),
            ("llama.rope.scaling.type", Value::String("none".into())),
            ("llama.rope.scale_linear", Value::F32(1.0)),
            ("llama.attention.key_length", Value::U32(64)),
            ("llama.expert_count", Value::U32(0)),
            (
                "tokenizer.ggml.scores",
                Value::Array(vec![Value::F32(0.0); VOCAB]),
            ),
            ("tokenizer.ggml.padding_token_id", Value::U32(u32::MAX)),
            ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.eot_token_id", Value::I32(-1)),
            ("tokenizer.ggml.eom_token_id", Value::U32(7)),
            ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
            (
                "tokenizer.chat_template.tool_use",
                Value::String("t".into()),
            ),
            ("quantize.imatrix.file", Value::String("f".into())),
        ]);
    });
    let model = Checkpoint::open(&path).unwrap();
    assert_eq!(model.config.llama().unwrap().pad_token_id, None);
    assert_eq!(
        model
            .config
            .llama()
            .unwrap()
            .eos_token_id
            .as_ref()
            .unwrap()
            .ids(),
        [2, 7]
    );
    assert!(model.tokenizer.is_eos(2) && model.tokenizer.is_eos(7));
    assert_eq!(model.tokenizer.encode_plain("hi").unwrap(), [1, 259]);
    assert_eq!(model.tokenizer.specials().bos(), Some("<|im_start|>"));
}

#[test]
fn a_tensor_that_is_not_used_or_scales_the_rotation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let row = |value: f32, n: usize| {
        let tensor = Tensor::full(value, n, &Device::Cpu).unwrap();
        QTensor::quantize(&tensor, GgmlDType::F32).unwrap()
    };
    for name in [
        "blk.0.attn_q.bias",
        "blk.0.attn_q_norm.weight",
        "rope_factors_long.weight",
        "blk.0.ffn_gate_inp.weight",
    ] {
        write_with(&path, GgmlDType::F32, |_, tensors| {
            tensors.push((name, row(1.0, HIDDEN)))
        });
        let error = Checkpoint::open(&path).err().unwrap().to_string();
        assert!(
            error.contains("m.gguf") && error.contains(&format!("tensor `{name}`")),
            "{error}"
        );
        Checkpoint::open_ignoring(&path, &[name.into()]).unwrap();
    }
    write_with(&path, GgmlDType::F32, |_, tensors| {
        tensors.push(("rope_freqs.weight", row(8.0, 31)))
    });
    let error = Checkpoint::open(&path).err().unwrap().to_string();
    assert!(error.contains("`rope_freqs.weight`"), "{error}");
    for divisor in [1.0, 8.0] {
        write_with(&path, GgmlDType::F32, |_, tensors| {
            tensors.push(("rope_freqs.weight", row(divisor, 32)))
        });
        let base = Checkpoint::open(&path).unwrap();
        let scaling = base.config.llama().unwrap().rope_scaling.clone();
        let divided = (divisor != 1.0).then(|| RopeScaling::Divisors {
            divisors: vec![divisor.into(); 32],
        });
        assert_eq!(scaling, divided);
    }
    // A misshapen tensor is refused with the file's name.
    write_with(&path, GgmlDType::F32, |_, tensors| {
        tensors.retain(|(name, _)| *name != "output_norm.weight");
        tensors.push(("output_norm.weight", row(1.0, 128)));
    });
    let error = Checkpoint::open(&path).err().unwrap().to_string();
    assert!(
        error.contains("m.gguf") && error.contains("model.norm.weight"),
        "{error}"
    );
    write_with(&path, GgmlDType::F32, |_, tensors| {
        tensors.retain(|(name, _)| *name != "blk.0.attn_q.weight");
        tensors.push(("blk.0.attn_q.weight", row(1.0, 130)));
    });
    let error = Checkpoint::open(&path).err().unwrap().to_string();
    assert!(
        error.contains("m.gguf") && error.contains("blk.0.attn_q.weight"),
        "{error}"
    );
}

#[test]
fn sizes_without_sense_are_refused_by_key_and_file() {
    for key in [
        "llama.context_length",
        "llama.embedding_length",
        "llama.block_count",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
    ] {
        for value in [0, 1 << 31, 1 << 60, u64::MAX] {
            error_with(key, Value::U64(value));
        }
        error_with(key, Value::I32(-8));
        error_with(key, Value::F32(f32::NAN));
    }
    for alignment in [0, 3, u32::MAX] {
        error_with("general.alignment", Value::U32(alignment));
    }
    error_with("general.alignment", Value::U64(32));
    error_with("llama.rope.freq_base", Value::F32(f32::NAN));
    error_with("tokenizer.ggml.eos_token_id", Value::I32(-7));
}

#[test]
fn damaged_headers_are_refused_without_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write(&path, GgmlDType::F32);
    let bytes = std::fs::read(&path).unwrap();
    let header = 7_000;
    let mut seed = 1u64;
    for nth in 0..400 {
        let mut broken = bytes.clone();
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = 4 + (seed >> 33) as usize % header;
        match nth % 3 {
            0 => broken[at] ^= 1 << (seed >> 20 & 7),
            1 => broken[at..at + 8].fill(0xff),
            _ => broken.truncate(at),
        }
        std::fs::write(&path, &broken).unwrap();
        // Many flips are texts and change nothing that could be noticed; none may panic or allocate
        // without end.
        if let Err(error) = Checkpoint::open(&path) {
            assert!(error.to_string().contains("m.gguf"), "{error}");
        }
    }
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write_with(&path, GgmlDType::F32, |keys, _| {
        keys.push(("llama.block_count", Value::U32(1)))
    });
    let error = Checkpoint::open(&path).err().unwrap().to_string();
    assert!(
        error.contains("`llama.block_count` stands twice"),
        "{error}"
    );
}
