//! The hub's HTTP interface on a local port: what is asked, what is kept, and what goes wrong.
#![cfg(feature = "hub")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use marill_hub::{Fetching, HubError, Options, RepoName, Snapshot, resolve};
use marill_numeric::hex;
use sha1::{Digest, Sha1};
use sha2::Sha256;
use tempfile::TempDir;

/// One repository: commits with their files, and what the branch `main` stands for.
#[derive(Default)]
struct Served {
    main: String,
    commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    requests: Vec<String>,
    /// Bytes of a body after which the connection is cut.
    cut_after: Option<usize>,
    /// Sends another body than the entity tag says.
    damage: bool,
    gated: bool,
    token_seen: Option<String>,
    /// Another host that large files are sent from, and the tokens it was shown.
    storage: Option<String>,
    tokens_at_storage: Vec<String>,
    ranges: Vec<String>,
}

struct Hub {
    served: Arc<Mutex<Served>>,
    endpoint: String,
    cache: TempDir,
}

fn commit(nth: u8) -> String {
    format!("{nth:02x}").repeat(20)
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// Large files are named by sha256, small ones as git names them.
fn tag(name: &str, body: &[u8]) -> String {
    if is_large(name) {
        return hex(&Sha256::digest(body));
    }
    hex(&Sha1::new_with_prefix(format!("blob {}\0", body.len()))
        .chain_update(body)
        .finalize())
}

impl Hub {
    fn new() -> Self {
        let files = |weights: &str| {
            let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
            BTreeMap::from([
                file("config.json", "{}"),
                file("tokenizer.json", "{\"version\": 1}"),
                file("tokenizer_config.json", "{\"chat_template\": \"x\"}"),
                file("model.safetensors", weights),
                file("pytorch_model.bin", "not wanted"),
                file("q/model.gguf", "GGUF of it"),
            ])
        };
        let commits = BTreeMap::from([
            (commit(1), files("weights of one")),
            (commit(2), files("weights of two")),
        ]);
        let served = Arc::new(Mutex::new(Served {
            main: commit(1),
            commits,
            ..Served::default()
        }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = served.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || while answer(&stream, &shared).is_some() {});
            }
        });
        Self {
            served,
            endpoint,
            cache: tempfile::tempdir().unwrap(),
        }
    }

    fn options(&self) -> Options {
        Options {
            cache_dir: self.cache.path().into(),
            endpoint: Some(self.endpoint.clone()),
            token: Some("secret".into()),
            offline: false,
            retries: 0,
        }
    }

    fn resolve(&self, name: &str, revision: Option<&str>) -> Result<Snapshot, HubError> {
        resolve(
            &RepoName::parse(name).unwrap(),
            revision,
            &self.options(),
            quiet(),
        )
    }

    fn offline(&self, name: &str, revision: Option<&str>) -> Result<Snapshot, HubError> {
        let options = Options {
            offline: true,
            ..self.options()
        };
        resolve(&RepoName::parse(name).unwrap(), revision, &options, quiet())
    }

    fn change(&self, f: impl FnOnce(&mut Served)) {
        f(&mut self.served.lock().unwrap());
    }

    /// Requests since the last call.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.served.lock().unwrap().requests)
    }
}

fn quiet() -> Fetching {
    Arc::new(|_, _, _| {})
}

/// Serves one request of a connection; `None` ends it.
fn answer(stream: &TcpStream, served: &Mutex<Served>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .ok()
        .filter(|&count| count > 0)?;
    let mut served = served.lock().unwrap();
    let (method, path) = line.trim_end_matches(" HTTP/1.1\r\n").split_once(' ')?;
    let mut header = String::new();
    let mut from = 0;
    while reader.read_line(&mut header).ok()? > 2 {
        let lower = header.trim().to_ascii_lowercase();
        if let Some(token) = lower.strip_prefix("authorization: ") {
            let token = token.to_owned();
            if path.starts_with("/cdn/") {
                served.tokens_at_storage.push(token);
            } else {
                served.token_seen = Some(token);
            }
        }
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            served.ranges.push(range.to_owned());
            from = range.trim_end_matches('-').parse().ok()?;
        }
        header.clear();
    }
    served.requests.push(format!("{method} {path}"));
    let (mut head, mut body) = respond(&served, path);
    if from > 0 && head.starts_with("200 OK") {
        head = head.replace("200 OK", "206 Partial Content");
        body.drain(..from);
    }
    let mut out = stream;
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
    out.write_all(head.as_bytes()).ok()?;
    if method == "HEAD" {
        return Some(());
    }
    match served.cut_after.filter(|_| path.starts_with("/cdn/")) {
        Some(count) => {
            out.write_all(&body[..count.min(body.len())]).ok()?;
            let _ = stream.shutdown(std::net::Shutdown::Both);
            None
        }
        None => out.write_all(&body).ok(),
    }
}

/// Status and headers, and the body.
fn respond(served: &Served, path: &str) -> (String, Vec<u8>) {
    let refuse =
        |status: &str, code: &str| (format!("{status}\r\nX-Error-Code: {code}"), b"{}".to_vec());
    let find = |revision: &str| {
        if revision == "main" {
            served.main.clone()
        } else {
            revision.to_owned()
        }
    };
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let Some(revision) = rest.strip_prefix("org/name/revision/") else {
            return refuse("401 Unauthorized", "RepoNotFound");
        };
        let sha = find(revision);
        let Some(files) = served.commits.get(&sha) else {
            return refuse("404 Not Found", "RevisionNotFound");
        };
        let names: Vec<String> = files
            .keys()
            .map(|name| format!("{{\"rfilename\": \"{name}\"}}"))
            .collect();
        let json = format!(
            "{{\"id\": \"org/name\", \"sha\": \"{sha}\", \"siblings\": [{}]}}",
            names.join(", ")
        );
        return (
            "200 OK\r\nContent-Type: application/json".into(),
            json.into_bytes(),
        );
    }
    let (cdn, rest) = match path.strip_prefix("/cdn/") {
        Some(rest) => (true, rest),
        None => (
            false,
            path.strip_prefix("/org/name/resolve/").unwrap_or_default(),
        ),
    };
    let Some((revision, name)) = rest.split_once('/') else {
        return refuse("404 Not Found", "EntryNotFound");
    };
    if served.gated {
        return refuse("403 Forbidden", "GatedRepo");
    }
    let sha = find(revision);
    let Some(body) = served.commits.get(&sha).and_then(|files| files.get(name)) else {
        return refuse("404 Not Found", "EntryNotFound");
    };
    let tag = tag(name, body);
    if is_large(name) && !cdn {
        let size = body.len();
        let storage = served.storage.as_deref().unwrap_or_default();
        let head = format!(
            "302 Found\r\nLocation: {storage}/cdn/{sha}/{name}\r\nX-Repo-Commit: {sha}\r\n\
             X-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {size}"
        );
        return (head, Vec::new());
    }
    let mut body = body.clone();
    if served.damage {
        *body.last_mut().unwrap() ^= 1;
    }
    (
        format!("200 OK\r\nX-Repo-Commit: {sha}\r\nETag: \"{tag}\""),
        body,
    )
}

fn read(snapshot: &Snapshot, name: &str) -> String {
    std::fs::read_to_string(snapshot.path.join(name)).unwrap()
}

#[test]
fn a_model_is_fetched_once_and_only_what_it_needs() {
    let hub = Hub::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let fetching: Fetching =
        Arc::new(move |name, done, all| log.lock().unwrap().push((name.to_owned(), done, all)));
    let name = RepoName::parse("org/name").unwrap();
    let first = resolve(&name, None, &hub.options(), fetching).unwrap();
    assert_eq!(
        (
            first.commit.as_str(),
            read(&first, "model.safetensors").as_str()
        ),
        (&commit(1)[..], "weights of one")
    );
    assert_eq!(
        read(&first, "tokenizer_config.json"),
        "{\"chat_template\": \"x\"}"
    );
    assert!(!first.path.join("pytorch_model.bin").exists());
    assert_eq!(
        hub.served.lock().unwrap().token_seen.as_deref(),
        Some("bearer secret")
    );
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .any(|(name, done, all)| name == "model.safetensors" && *done == 14 && *all == 14)
    );
    hub.requests();

    assert_eq!(hub.resolve("org/name", Some(&commit(1))).unwrap(), first);
    assert_eq!(
        hub.requests(),
        Vec::<String>::new(),
        "a pinned commit in the cache costs no request"
    );
    assert_eq!(hub.resolve("org/name", Some("main")).unwrap(), first);
    assert_eq!(
        hub.requests(),
        ["GET /api/models/org/name/revision/main"],
        "a branch is asked for once"
    );
}

#[test]
fn a_branch_that_moved_is_followed_and_the_old_commit_stays() {
    let hub = Hub::new();
    let old = hub.resolve("org/name", None).unwrap();
    hub.change(|served| served.main = commit(2));
    assert_eq!(
        hub.offline("org/name", None).unwrap(),
        old,
        "offline, a branch is what it was"
    );
    let new = hub.resolve("org/name", None).unwrap();
    assert_eq!(
        (
            new.commit.as_str(),
            read(&new, "model.safetensors").as_str()
        ),
        (&commit(2)[..], "weights of two")
    );
    assert_eq!(hub.offline("org/name", None).unwrap(), new);
    assert_eq!(hub.offline("org/name", Some(&commit(1))).unwrap(), old);
}

#[test]
fn offline_asks_nobody_and_says_what_is_missing() {
    let hub = Hub::new();
    let error = hub.offline("org/name", None).unwrap_err();
    assert!(
        matches!(error, HubError::NotCached { .. }) && error.to_string().contains("HF_HUB_OFFLINE"),
        "{error}"
    );
    assert_eq!(hub.requests(), Vec::<String>::new());
    let snapshot = hub.resolve("org/name", None).unwrap();
    std::fs::remove_file(snapshot.path.join("model.safetensors")).unwrap();
    assert!(
        matches!(
            hub.offline("org/name", None),
            Err(HubError::NotCached { .. })
        ),
        "half a model is none"
    );
    assert_eq!(hub.resolve("org/name", None).unwrap(), snapshot);
}

#[test]
fn split_weights_come_by_their_index_and_a_named_file_alone() {
    let hub = Hub::new();
    hub.change(|served| {
        let files = served.commits.get_mut(&commit(1)).unwrap();
        files.remove("model.safetensors");
        files.remove("tokenizer_config.json");
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors",
                "c": "model-1.safetensors"}}"#;
        files.insert("model.safetensors.index.json".into(), index.into());
        files.insert("model-1.safetensors".into(), b"one".to_vec());
        files.insert("model-2.safetensors".into(), b"two".to_vec());
    });
    let snapshot = hub.resolve("org/name", None).unwrap();
    assert_eq!(
        read(&snapshot, "model-1.safetensors") + &read(&snapshot, "model-2.safetensors"),
        "onetwo"
    );
    hub.requests();
    assert_eq!(hub.resolve("org/name", Some(&commit(1))).unwrap(), snapshot);
    assert_eq!(
        hub.requests(),
        Vec::<String>::new(),
        "that it has no `tokenizer_config.json` is remembered"
    );

    let file = hub.resolve("org/name/q/model.gguf", None).unwrap();
    assert_eq!(std::fs::read(&file.path).unwrap(), b"GGUF of it");
    assert!(file.path.ends_with("q/model.gguf"));
    let error = hub
        .resolve("org/name/q/other.gguf", None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no `q/other.gguf`") && error.contains("`q/model.gguf`"),
        "{error}"
    );
}

#[test]
fn what_does_not_exist_is_named() {
    let hub = Hub::new();
    let error = hub.resolve("org/other", None).unwrap_err();
    assert!(
        matches!(&error, HubError::NoRepository { repo } if repo == "org/other"),
        "{error}"
    );
    let error = hub.resolve("org/name", Some("v9")).unwrap_err();
    assert!(
        matches!(&error, HubError::NoRevision { revision, .. } if revision == "v9"),
        "{error}"
    );
    hub.change(|served| {
        drop(
            served
                .commits
                .get_mut(&commit(1))
                .unwrap()
                .remove("config.json"),
        )
    });
    let error = hub.resolve("org/name", None).unwrap_err();
    assert!(
        matches!(&error, HubError::NoFile { file, .. } if file == "config.json"),
        "{error}"
    );
    hub.change(|served| (served.gated, served.main) = (true, commit(2)));
    let error = hub.resolve("org/name", None).unwrap_err();
    assert!(
        matches!(error, HubError::Refused { .. }) && error.to_string().contains("HF_TOKEN"),
        "{error}"
    );
}

#[test]
fn a_download_that_breaks_off_or_is_damaged_is_not_kept() {
    let hub = Hub::new();
    hub.change(|served| served.cut_after = Some(4));
    let error = hub.resolve("org/name", None).unwrap_err();
    assert!(
        matches!(&error, HubError::Transfer { file, .. } if file == "model.safetensors"),
        "{error}"
    );
    assert!(matches!(
        hub.offline("org/name", None),
        Err(HubError::NotCached { .. })
    ));
    hub.change(|served| (served.cut_after, served.damage) = (None, true));
    let error = hub.resolve("org/name", None).unwrap_err();
    assert!(
        matches!(&error, HubError::Damaged { file, .. } if file == "model.safetensors"),
        "{error}"
    );
    hub.change(|served| served.damage = false);
    assert_eq!(
        read(&hub.resolve("org/name", None).unwrap(), "model.safetensors"),
        "weights of one"
    );
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let hub = Hub::new();
    hub.change(|served| served.cut_after = Some(4));
    hub.resolve("org/name", None).unwrap_err();
    hub.change(|served| served.cut_after = None);
    assert_eq!(
        read(&hub.resolve("org/name", None).unwrap(), "model.safetensors"),
        "weights of one"
    );
    // Shown to the hub and to the storage that it redirects to.
    assert_eq!(hub.served.lock().unwrap().ranges, ["4-", "4-"]);
}

#[test]
fn a_line_that_breaks_is_tried_again() {
    let hub = Hub::new();
    hub.change(|served| served.cut_after = Some(5));
    let options = Options {
        retries: 2,
        ..hub.options()
    };
    let snapshot = resolve(
        &RepoName::parse("org/name").unwrap(),
        None,
        &options,
        quiet(),
    )
    .unwrap();
    assert_eq!(
        read(&snapshot, "model.safetensors"),
        "weights of one",
        "5 + 5 + 4 bytes"
    );
}

#[test]
fn storage_is_not_shown_the_token() {
    let hub = Hub::new();
    // Another name of the same machine is another host.
    let storage = hub.endpoint.replace("127.0.0.1", "localhost");
    hub.change(|served| served.storage = Some(storage));
    let snapshot = hub.resolve("org/name", None).unwrap();
    assert_eq!(read(&snapshot, "model.safetensors"), "weights of one");
    let served = hub.served.lock().unwrap();
    assert!(
        served
            .requests
            .iter()
            .any(|request| request.starts_with("GET /cdn/")),
        "{:?}",
        served.requests
    );
    assert_eq!(served.token_seen.as_deref(), Some("bearer secret"));
    assert_eq!(served.tokens_at_storage, Vec::<String>::new());
}

#[test]
fn a_cache_can_be_moved() {
    let hub = Hub::new();
    hub.resolve("org/name/q/model.gguf", None).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::rename(
        hub.cache.path().join("models--org--name"),
        elsewhere.path().join("models--org--name"),
    )
    .unwrap();
    let options = Options {
        cache_dir: elsewhere.path().into(),
        offline: true,
        ..hub.options()
    };
    let name = RepoName::parse("org/name/q/model.gguf").unwrap();
    let found = resolve(&name, None, &options, quiet()).unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), b"GGUF of it");
}

#[test]
fn an_unreachable_hub_is_an_error_though_a_branch_is_cached() {
    let hub = Hub::new();
    let snapshot = hub.resolve("org/name", None).unwrap();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let options = Options {
        endpoint: Some(format!("http://{free}")),
        ..hub.options()
    };
    let name = RepoName::parse("org/name").unwrap();
    let error = resolve(&name, None, &options, quiet()).unwrap_err();
    assert!(matches!(error, HubError::Transfer { .. }), "{error}");
    assert_eq!(
        resolve(&name, Some(&commit(1)), &options, quiet()).unwrap(),
        snapshot
    );
}
