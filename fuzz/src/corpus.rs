//! Small valid inputs, made by the same code that the parsers' peers use.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use candle_core::{
    DType, Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use flate2::{Compression, write::GzEncoder};
use marill_mpc::{
    ProgramSpec, Seed, Selection,
    random_model::{random_weights, tiny_spec},
};
use marill_net::{Channel, NetError};
use marill_partition::{ExportOptions, export};
use marill_recipe::{Dataset, Recipe};
use marill_serving::{
    dealer::{PreprocessOptions, produce},
    messages::{
        ClientHello, CorrectionsHello, DcfKeysHello, InputHello, PartyHello, Reply, ServerWelcome,
        Step, send_json,
    },
    preprocessing::{PreprocessRequest, SealingKey},
    terms::{Correlations, E0, SessionParameters, Setting},
    ticket::{For, Signer, Ticket},
};
use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};
use tempfile::TempDir;

/// The text of an owner's key file: 64 hexadecimal digits.
pub(crate) const OWNER_KEY: &str =
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// A server's key for preprocessed sessions.
pub(crate) const SEALING_KEY: &str =
    "8899aabbccddeeff00112233445566778899aabbccddeeff0011223344556677";
pub(crate) const PRIVATE_SHA256: &str =
    "abababababababababababababababababababababababababababababababab";
const BUCKET: usize = 16;

fn parameters() -> SessionParameters {
    let (public, _) = random_weights(&tiny_spec(), 7);
    SessionParameters::new("tiny", &tiny_spec(), &public, Setting::Dealer)
}

pub(crate) fn steps() -> Vec<Vec<u8>> {
    let all = [
        Step::Prefill { bucket: 64 },
        Step::Decode,
        Step::End,
        Step::DecodeBefore { rows: 3 },
        Step::Extend { rows: 3 },
        Step::Prepare { steps: 32 },
        Step::Wait,
    ];
    all.map(Step::encode).into()
}

/// Keeps the one frame that is sent.
struct Frame(Vec<u8>);

impl Channel for Frame {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.0 = frame;
        Ok(())
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        Err(NetError::Closed)
    }
}

fn frame(message: &impl serde::Serialize) -> Vec<u8> {
    let mut frame = Frame(Vec::new());
    send_json(&mut frame, message).expect("nothing is in the way");
    frame.0
}

pub(crate) fn handshakes() -> Vec<Vec<u8>> {
    let parameters = parameters();
    let session = "ab".repeat(16);
    let hello = |correlations| ClientHello {
        parameters: parameters.clone(),
        session: session.clone(),
        correlations,
        proof: "cd".repeat(32),
        adapter_sha256: Some(PRIVATE_SHA256.into()),
        sampling: None,
        lpn_sets: vec!["b10".into(), "b12".into()],
        keeps_set_up: true,
    };
    let source = |spec: ProgramSpec| CorrectionsHello {
        parameters: parameters.clone(),
        session: session.clone(),
        spec,
        private_sha256: PRIVATE_SHA256.into(),
        proof: "cd".repeat(32),
        selection: Selection::Greedy,
    };
    vec![
        frame(&hello(Correlations::Live)),
        frame(&hello(Correlations::Preprocessed)),
        frame(&source(tiny_spec())),
        frame(&DcfKeysHello {
            session: session.clone(),
            key: "ef".repeat(32),
        }),
        frame(&PartyHello {
            parameters: parameters.clone().with_e0(E0::Party),
            ticket: ticket(),
            any_comparison: true,
            sampling: None,
        }),
        frame(&InputHello {
            parameters: parameters.clone(),
            session: session.clone(),
            sampling: None,
        }),
        frame(&Reply::Welcome(ServerWelcome {
            parameters: parameters.clone(),
            adapter_sha256: PRIVATE_SHA256.into(),
            adapter_bytes: 0,
            lpn_set: Some("b12".into()),
            keeps_set_up: true,
            names_turns: true,
        })),
        frame(&Reply::<ServerWelcome>::Refused {
            code: "busy".into(),
            message: "no place is free".into(),
            retry_after_seconds: Some(3),
        }),
    ]
}

static TICKETS: LazyLock<Vec<Ticket>> = LazyLock::new(|| {
    let signer = Signer::new(OWNER_KEY);
    let whose = [For::Key(&[7; 32]), For::Address([127, 0, 0, 1].into())];
    whose
        .iter()
        .map(|whose| signer.issue(whose, "client").expect("random numbers"))
        .collect()
});

fn ticket() -> Ticket {
    TICKETS[0].clone()
}

fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("string keys only")
}

/// Whether the signer issued this one; the digits of its code may be capitals.
pub(crate) fn issued(ticket: &Ticket) -> bool {
    let mut small = ticket.clone();
    small.mac = small.mac.to_ascii_lowercase();
    TICKETS.iter().any(|issued| json(issued) == json(&small))
}

pub(crate) fn tickets() -> Vec<Vec<u8>> {
    TICKETS
        .iter()
        .map(|ticket| json(ticket).to_string().into_bytes())
        .collect()
}

pub(crate) fn endpoints() -> Vec<Vec<u8>> {
    let pin = "9f".repeat(32);
    let texts = [
        "http://127.0.0.1:8100".to_owned(),
        "http://[::1]:8100".to_owned(),
        "https://example.org:443".to_owned(),
        format!("https://example.org:8100#{pin}"),
    ];
    texts.map(String::into_bytes).into()
}

pub(crate) fn masked_adapters() -> Vec<Vec<u8>> {
    let spec = tiny_spec();
    let (_, private) = random_weights(&spec, 7);
    let seed = Seed::from_bytes([2; 32]);
    vec![private.mask(&spec, &seed).to_bytes()]
}

pub(crate) fn transcripts() -> Vec<Vec<u8>> {
    vec![crate::wire::record()]
}

pub(crate) fn two_party_transcripts() -> Vec<Vec<u8>> {
    vec![crate::two_party::record()]
}

/// A WebSocket frame: masked where a client sends it.
fn ws(masked: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = u8::from(masked) << 7;
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => frame.push(mask | short as u8),
        long => {
            frame.push(mask | 126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    let key = [1, 2, 3, 4];
    if masked {
        frame.extend_from_slice(&key);
    }
    let key = if masked { key } else { [0; 4] };
    frame.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// A payload with its trailer: number and length.
fn numbered(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = payload.to_vec();
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes
}

pub(crate) fn websockets() -> Vec<Vec<u8>> {
    let session = |masked: bool| {
        let mut bytes = vec![u8::from(!masked)];
        bytes.extend(ws(masked, 2, &numbered(0, b"hello")));
        bytes.extend(ws(masked, 9, b"ping"));
        bytes.extend(ws(masked, 2, &numbered(1, &[7; 300])));
        bytes.extend(ws(masked, 10, b""));
        bytes.extend(ws(
            masked,
            8,
            &[&1000u16.to_be_bytes()[..], b"done"].concat(),
        ));
        bytes
    };
    vec![session(true), session(false)]
}

pub(crate) fn http_heads() -> Vec<Vec<u8>> {
    let answers = [
        "0HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}",
        "0HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 4\r\n\r\nbusy",
        "1HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nno length",
        "2HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "2HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno",
    ];
    answers.map(|text| text.as_bytes().to_vec()).into()
}

/// A file of a preprocessed session, its name, and what it was made for.
struct Sealed {
    name: String,
    session: String,
    bytes: Vec<u8>,
    parameters: SessionParameters,
    _folder: TempDir,
}

/// The smallest program, so that the file is small.
pub(crate) fn smallest_spec() -> ProgramSpec {
    ProgramSpec {
        hidden_size: 8,
        intermediate_size: 8,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 8,
        vocab_size: 2,
        num_layers: 1,
        head_groups: vec![vec![vec![0]]],
        attn_scale: vec![0.25],
        head_weights: Vec::new(),
        lora_rank: 1,
        ..tiny_spec()
    }
}

static SEALED: LazyLock<Sealed> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a place for files");
    let at = |name: &str| folder.path().join(name);
    let key = at("key");
    std::fs::write(&key, SEALING_KEY).expect("room on the disk");
    let key = SealingKey::read_or_create(&key).expect("a proper key");
    let spec = smallest_spec();
    let (public, _) = random_weights(&spec, 7);
    let parameters = SessionParameters::new("smallest", &spec, &public, Setting::Dealer);
    let request = PreprocessRequest {
        format: 3,
        parameters: parameters.clone(),
        spec,
        private_sha256: PRIVATE_SHA256.into(),
        server_key: key.public(),
    };
    std::fs::write(at("request.json"), json(&request).to_string()).expect("room on the disk");
    let options = PreprocessOptions {
        state: at("dealer"),
        vault: at("vault"),
        owner: marill_serving::dealer::DEFAULT_OWNER.into(),
        folder: at("files"),
        request: at("request.json"),
        bucket: BUCKET,
        tokens: 1,
        selection: Selection::Greedy,
        sessions: 1,
        dry_run: false,
    };
    produce(&options, &mut |_| {}).expect("a proper request");
    let path = only_file(&at("files"));
    let name = path
        .file_name()
        .expect("a file")
        .to_string_lossy()
        .into_owned();
    let session = name
        .split(['-', '.'])
        .nth(3)
        .expect("its session")
        .to_owned();
    let bytes = std::fs::read(&path).expect("it was written");
    Sealed {
        name,
        session,
        bytes,
        parameters,
        _folder: folder,
    }
});

fn only_file(folder: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(folder).expect("it was made");
    entries
        .next()
        .expect("one file")
        .expect("it can be read")
        .path()
}

/// Where the server would look for a preprocessed session, and what it would hold it against.
pub(crate) fn sealed_place() -> (&'static str, &'static str, &'static SessionParameters) {
    (&SEALED.name, &SEALED.session, &SEALED.parameters)
}

pub(crate) fn sealed_files() -> Vec<Vec<u8>> {
    vec![SEALED.bytes.clone()]
}

/// A checkpoint folder and the manifest of a partition of it.
struct Base {
    texts: Vec<(String, String)>,
    weights: Vec<u8>,
    manifest: Vec<u8>,
}

static BASE: LazyLock<Base> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a place for files");
    let base = folder.path().join("base");
    let out = folder.path().join("out");
    let checkpoint = tiny_base(&base, 1).expect("a tiny model");
    let transforms = tiny_transforms(&checkpoint.config, true);
    let adapter = tiny_adapter(&checkpoint.config, &transforms, 2).expect("a tiny adapter");
    let options = ExportOptions::default();
    export(&checkpoint, &transforms, &adapter, &out, &options).expect("a tiny partition");
    let read = |path: PathBuf| std::fs::read(path).expect("it was written");
    let text = |name: &str| {
        let bytes = read(base.join(name));
        (name.to_owned(), String::from_utf8(bytes).expect("JSON"))
    };
    let texts = ["config.json", "tokenizer.json", "tokenizer_config.json"].map(text);
    Base {
        texts: texts.into(),
        weights: read(base.join("model.safetensors")),
        manifest: read(out.join(marill_partition::MANIFEST_FILE)),
    }
});

pub(crate) fn base_files() -> impl Iterator<Item = &'static (String, String)> {
    BASE.texts.iter()
}

pub(crate) fn base_weights() -> &'static [u8] {
    &BASE.weights
}

pub(crate) fn manifests() -> Vec<Vec<u8>> {
    vec![BASE.manifest.clone()]
}

pub(crate) fn safetensors() -> Vec<Vec<u8>> {
    vec![BASE.weights.clone()]
}

pub(crate) fn checkpoint_configs() -> Vec<Vec<u8>> {
    let generation = r#"{"eos_token_id": [256], "temperature": 1.0, "max_length": 64}"#;
    let text = |name: &str| {
        let found = BASE.texts.iter().find(|(file, _)| file == name);
        &found.expect("a file of the base").1
    };
    vec![
        [b"\0", text("config.json").as_bytes()].concat(),
        [b"\x01", generation.as_bytes()].concat(),
        [b"\x02", text("tokenizer_config.json").as_bytes()].concat(),
    ]
}

pub(crate) fn ggufs() -> Vec<Vec<u8>> {
    const HIDDEN: usize = 32;
    const VOCAB: usize = 259;
    let number = |n: usize| Value::U32(n as u32);
    let text = |s: &str| Value::String(s.into());
    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(text);
    let tokens = specials.into_iter().chain(alphabet().map(Value::String));
    let types = (0..VOCAB).map(|n| Value::I32(if n < 3 { 3 } else { 1 }));
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.block_count", number(1)),
        ("llama.context_length", number(32)),
        ("llama.embedding_length", number(HIDDEN)),
        ("llama.feed_forward_length", number(HIDDEN)),
        ("llama.attention.head_count", number(2)),
        ("llama.attention.head_count_kv", number(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.vocab_size", number(VOCAB)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", Value::Array(tokens.collect())),
        ("tokenizer.ggml.token_type", Value::Array(types.collect())),
        ("tokenizer.ggml.merges", Value::Array(Vec::new())),
        ("tokenizer.ggml.eos_token_id", number(2)),
        ("tokenizer.chat_template", text("{{ messages[0].content }}")),
    ];
    let tensor = |rows: usize, columns: usize| {
        let shape: &[usize] = if rows == 0 {
            &[columns]
        } else {
            &[rows, columns]
        };
        Tensor::ones(shape, DType::F32, &Device::Cpu)
            .and_then(|ones| QTensor::quantize(&ones, GgmlDType::F32))
            .expect("small shapes")
    };
    let square = |name| (name, tensor(HIDDEN, HIDDEN));
    let gain = |name| (name, tensor(0, HIDDEN));
    let tensors = [
        ("token_embd.weight", tensor(VOCAB, HIDDEN)),
        square("blk.0.attn_q.weight"),
        square("blk.0.attn_k.weight"),
        square("blk.0.attn_v.weight"),
        square("blk.0.attn_output.weight"),
        square("blk.0.ffn_gate.weight"),
        square("blk.0.ffn_up.weight"),
        square("blk.0.ffn_down.weight"),
        gain("blk.0.attn_norm.weight"),
        gain("blk.0.ffn_norm.weight"),
        gain("output_norm.weight"),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, t)| (*k, t)).collect();
    let mut file = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).expect("memory");
    vec![file.into_inner()]
}

/// The GPT-2 alphabet: printable bytes stand for themselves, others for characters from 256 on.
fn alphabet() -> impl Iterator<Item = String> {
    let plain =
        |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    (0..256u32).map(move |byte| {
        let code = if plain(byte) { byte } else { next };
        next += u32::from(!plain(byte));
        char::from_u32(code).expect("a letter").to_string()
    })
}

pub(crate) fn recipes() -> Vec<Vec<u8>> {
    let all = r#"
[model]
base_model = "org/name"
revision = "main"

[[dataset]]
path = "rows.jsonl"
format = "classify"
template = "{text}"
label = "label"
labels = ["no", "yes"]
weight = 0.5

[[dataset]]
path = "chats.jsonl"
format = "chat"

[data]
max_seq_len = 128
val_fraction = 0.1

[freeze]
layers = 2

[lora]
rank = 4
target_modules = ["q_proj", "down_proj"]

[heads]
merge = 3

[distill]
teacher = "base"
stages = [{ share = 0.5, hidden = 1.0 }, { share = 0.5, logits = 1.0, labels = 0.5 }]

[train]
epochs = 2
max_steps = 10

[optimizer]
learning_rate = 1e-4

[eval]
tasks = ["agnews"]
min = 0.5

[output]
dir = "out"
"#;
    let random = r#"
[model]
init = "random"

[model.architecture]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 2

[tokenizer]
vocab_size = 512

[[dataset]]
path = "text.txt"
format = "text"

[output]
dir = "out"
"#;
    vec![all.into(), random.into()]
}

pub(crate) fn data_rows() -> Vec<Vec<u8>> {
    let packed = |text: &str| {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(text.as_bytes()).expect("memory");
        packer.finish().expect("memory")
    };
    let lines = "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": \"no\"}\n";
    let chat = concat!(
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, "#,
        r#"{"role": "assistant", "content": "a"}]}"#,
        "\n",
        r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#,
    );
    let instruct = r#"{"instruction": "add", "context": "1 1", "response": "2"}"#;
    let list = "[\n {\"text\": \"a\", \"label\": 1},\n {\"text\": \"b\", \"label\": 0}\n]\n";
    let csv = "text,label\n\"a, \"\"b\"\"\nc\",1\nd,0\n";
    let tsv = "first\t1\nsecond\t0\n";
    let text = "a line\n\nanother\r\n\u{feff}third";
    let kind = |kind: u8, bytes: &[u8]| [&[kind][..], bytes].concat();
    vec![
        kind(0, lines.as_bytes()),
        kind(0, chat.as_bytes()),
        kind(0, instruct.as_bytes()),
        kind(1, list.as_bytes()),
        kind(2, csv.as_bytes()),
        kind(3, tsv.as_bytes()),
        kind(4, text.as_bytes()),
        kind(5, &packed(lines)),
        kind(6, &packed(tsv)),
        kind(
            7,
            include_bytes!("../../crates/recipe/tests/data/frames.jsonl.zst"),
        ),
    ]
}

/// A data set of each format over one file.
pub(crate) fn datasets(path: &str) -> Vec<Dataset> {
    let tables = [
        "format = \"classify\"\ntemplate = \"{text}\"\nlabel = \"label\"\nlabels = [\"no\", \
         \"yes\"]",
        "format = \"classify\"\ntemplate = \"{0}\"\nlabel = \"1\"\nlabels = [\"no\", \"yes\"]",
        "format = \"chat\"",
        "format = \"instruct\"\ntemplate = \"{instruction} {context}\"\ncompletion = \
         \"{response}\"",
        "format = \"text\"",
    ];
    tables.iter().map(|table| dataset(path, table)).collect()
}

/// A file aligned with itself.
pub(crate) fn translation(path: &str) -> Dataset {
    dataset(path, "format = \"translate\"\ntarget_path = \"other.txt\"")
}

fn dataset(path: &str, table: &str) -> Dataset {
    let head = "[model]\nbase_model = \"base\"\n[output]\ndir = \"out\"\n";
    let text = format!("{head}[[dataset]]\npath = \"{path}\"\n{table}\n");
    let recipe = Recipe::parse(&text, "recipe.toml", &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
    recipe.dataset.into_iter().next().expect("one table")
}

/// A base and an adapter that PEFT made for it, from the tests of `marill-model`.
pub(crate) const ADAPTED_CONFIG: &[u8] =
    include_bytes!("../../crates/model/tests/peft/llama/config.json");
pub(crate) const ADAPTER_WEIGHTS: &[u8] =
    include_bytes!("../../crates/model/tests/peft/patterns/adapter_model.safetensors");

/// Configurations as PEFT writes them; the first one fits the weights.
pub fn adapter_configs() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../crates/model/tests/peft/patterns/adapter_config.json").to_vec(),
        include_bytes!("../../crates/model/tests/peft/regex/adapter_config.json").to_vec(),
        include_bytes!("../../crates/model/tests/peft/layers/adapter_config.json").to_vec(),
    ]
}
