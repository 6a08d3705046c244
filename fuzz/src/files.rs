//! Files that someone else wrote.

use std::{cell::RefCell, collections::BTreeMap, path::Path};

use marill_model::{Checkpoint, LlamaConfig, PeftAdapter, peft};
use marill_mpc::Selection;
use marill_net::Channel;
use marill_partition::Manifest;
use marill_recipe::{Dataset, Recipe, Rows, read_records};
use marill_serving::preprocessing::{CorrelationStore, SealingKey};
use tempfile::TempDir;

use crate::corpus;

/// Runs something in a folder of this thread's, which `fill` gets when it is new.
fn in_folder(name: &'static str, fill: impl FnOnce(&Path), run: impl FnOnce(&Path)) {
    thread_local! {
        static FOLDERS: RefCell<BTreeMap<&'static str, TempDir>> = RefCell::default();
    }
    FOLDERS.with_borrow_mut(|folders| {
        let folder = folders.entry(name).or_insert_with(|| {
            let folder = tempfile::tempdir().expect("a place for files");
            fill(folder.path());
            folder
        });
        run(folder.path());
    });
}

/// A checkpoint folder that is well.
fn fill_base(folder: &Path) {
    for (name, text) in corpus::base_files() {
        write(&folder.join(name), text.as_bytes());
    }
    write(&folder.join("model.safetensors"), corpus::base_weights());
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("room on the disk");
}

/// Correlations of a session that was preprocessed: the head, and pieces behind it.
pub fn sealed_file(bytes: &[u8]) {
    let fill = |folder: &Path| write(&folder.join("key"), corpus::SEALING_KEY.as_bytes());
    in_folder("sealed", fill, |folder| {
        let key = folder.join("key");
        let key = SealingKey::read_or_create(&key).expect("a proper key");
        let (name, session, parameters) = corpus::sealed_place();
        write(&folder.join(name), bytes);
        let store = CorrelationStore::new(folder, key, corpus::OWNER_KEY);
        let found = store.find(
            session,
            parameters,
            corpus::PRIVATE_SHA256,
            Selection::Greedy,
        );
        let Ok(mut source) = found.and_then(|found| store.take(found, &[0; 32])) else {
            return;
        };
        // Nobody knows what the dealer would have released: no piece may open.
        assert!(source.recv().is_err(), "a piece opened under another key");
    });
}

/// A partition's manifest; what is accepted has the digest that it says.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(manifest) = Manifest::parse(text, Path::new("manifest.json")) {
        assert_eq!(manifest.compute_id(), manifest.partition_id);
        for file in manifest.public_files.iter().chain(&manifest.private_files) {
            assert!(
                !file.path.contains(".."),
                "`{}` leaves its folder",
                file.path
            );
        }
    }
}

/// A checkpoint in one GGUF file: header, metadata, tensors.
pub fn gguf(bytes: &[u8]) {
    in_folder(
        "gguf",
        |_| {},
        |folder| {
            let path = folder.join("model.gguf");
            write(&path, bytes);
            let _ = Checkpoint::open(&path);
        },
    );
}

/// Weights of a checkpoint folder whose other files are well.
pub fn safetensors(bytes: &[u8]) {
    in_folder("weights", fill_base, |folder| {
        write(&folder.join("model.safetensors"), bytes);
        let _ = Checkpoint::open(folder);
    });
}

/// The account of a checkpoint folder's JSON files: `config.json`, `generation_config.json` or
/// `tokenizer_config.json`, by the first byte.
pub fn checkpoint_config(bytes: &[u8]) {
    let Some((&which, bytes)) = bytes.split_first() else {
        return;
    };
    let names = [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
    ];
    in_folder("config", fill_base, |folder| {
        let path = folder.join(names[usize::from(which) % 3]);
        let before = std::fs::read(&path).ok();
        write(&path, bytes);
        let _ = Checkpoint::open(folder);
        match before {
            Some(before) => write(&path, &before),
            None => std::fs::remove_file(&path).expect("it was written"),
        }
    });
}

/// The configuration of an adapter whose weights are well.
pub fn adapter_config(bytes: &[u8]) {
    let fill = |folder: &Path| {
        write(&folder.join("config.json"), corpus::ADAPTED_CONFIG);
        write(&folder.join(peft::WEIGHTS_FILE), corpus::ADAPTER_WEIGHTS);
    };
    in_folder("adapter", fill, |folder| {
        write(&folder.join(peft::CONFIG_FILE), bytes);
        let config = LlamaConfig::read(&folder.join("config.json")).expect("it is well");
        let _ = PeftAdapter::open(folder, &config);
    });
}

/// A recipe; what is accepted is written out and read back as the same.
pub fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(recipe) = Recipe::parse(text, "recipe.toml", &[]) {
        let again = Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]);
        assert_eq!(again.expect("what is written can be read"), recipe);
    }
}

/// Rows for training, in a file whose kind the first byte chooses, as every format reads them.
pub fn data_rows(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else {
        return;
    };
    let endings = [
        "jsonl",
        "json",
        "csv",
        "tsv",
        "txt",
        "jsonl.gz",
        "tsv.gz",
        "jsonl.zst",
    ];
    in_folder(
        "rows",
        |_| {},
        |folder| {
            let name = format!("rows.{}", endings[usize::from(kind) % endings.len()]);
            let path = folder.join(&name);
            write(&path, bytes);
            let Ok(records) = read_records(&path) else {
                return;
            };
            for dataset in corpus::datasets(&name) {
                if let Ok(rows) = Rows::read_files(&dataset, &path, None) {
                    assert!(rows.examples.len() <= records.len().max(1));
                }
            }
            let aligned: &Dataset = &corpus::translation(&name);
            let _ = Rows::read_files(aligned, &path, Some(&path));
        },
    );
}
