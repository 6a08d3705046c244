//! The public part on this machine: downloaded once, named by the partition's id, checked at each
//! start.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

use marill_mpc::PrivateProducts;
use marill_net::{NetError, http::HttpClient, peer_text};
use marill_partition::{MANIFEST_FILE, Manifest};

use crate::{
    error::{ServingError, SessionError, StateError, refused},
    terms::{E0, Setting},
};

const MAX_JSON_BYTES: u64 = 16 << 20;
const SERVER: &str = "server";

/// How a server offers to compute.
#[derive(Clone, Copy)]
pub struct Supported {
    pub setting: Setting,
    pub e0: E0,
    /// Whether it samples tokens where a client asks for it.
    pub sampling: bool,
    /// Whether comparisons may use DCF.
    pub dcf: bool,
    /// For how many seconds it keeps a session for a further turn; 0: not at all.
    pub keep_seconds: u64,
    /// How private LoRA updates are made where there is a dealer.
    pub private_products: PrivateProducts,
}

/// Returns the folder with `manifest.json` and `public/` of the model that the server offers.
pub(super) fn fetch(
    server: &HttpClient,
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(PathBuf, Supported), ServingError> {
    let models: serde_json::Value = parse(&get(server, "/v1/models")?)?;
    let id = models["data"][0]["partition_id"]
        .as_str()
        .filter(|id| id.bytes().all(|c| c.is_ascii_hexdigit()));
    let id = id.ok_or_else(|| bad("its list of models has no partition".into()))?;
    let word = |name: &str| peer_text(models["data"][0][name].as_str().unwrap_or_default());
    let unknown = |name: &str| {
        bad(format!(
            "it offers the {name} `{}`, which is not known here",
            word(name)
        ))
    };
    let supported = Supported {
        setting: Setting::parse(&word("setting")).ok_or_else(|| unknown("setting"))?,
        e0: E0::parse(&word("e0")).ok_or_else(|| unknown("e0"))?,
        sampling: models["data"][0]["sampling"].as_bool().unwrap_or(false),
        dcf: models["data"][0]["materials"]
            .as_array()
            .is_some_and(|all| all.iter().any(|m| m == "points")),
        keep_seconds: models["data"][0]["keep_seconds"].as_u64().unwrap_or(0),
        // A server of an earlier version does not say.
        private_products: match &models["data"][0]["private_products"] {
            serde_json::Value::Null => PrivateProducts::Masks,
            _ => PrivateProducts::parse(&word("private_products"))
                .ok_or_else(|| unknown("private_products"))?,
        },
    };
    let text = get(server, &format!("/v1/models/{id}/manifest"))?;
    let text = String::from_utf8(text).map_err(|error| bad(error.to_string()))?;
    let manifest = Manifest::parse(&text, Path::new(MANIFEST_FILE))?;

    let partitions = cache.join("partitions");
    let folder = partitions.join(&manifest.partition_id);
    if folder.is_dir() {
        return Ok((folder, supported));
    }
    // One download for all who want it, in this process and in others.
    let _turn = lock(&partitions, &manifest.partition_id, progress)?;
    if folder.is_dir() {
        return Ok((folder, supported));
    }
    let part = partitions.join(format!(".{}.part", manifest.partition_id));
    let mut fill = || {
        match std::fs::remove_dir_all(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StateError::io(&part)(error).into());
            }
            _ => {}
        }
        download(server, &manifest, &text, &part, progress)?;
        Ok(std::fs::rename(&part, &folder).map_err(StateError::io(&folder))?)
    };
    let done = fill();
    if done.is_err() {
        let _ = std::fs::remove_dir_all(&part);
    }
    done.map(|()| (folder, supported))
}

/// Held by whoever downloads the partition; the others wait here.
fn lock(partitions: &Path, id: &str, progress: &mut dyn FnMut(&str)) -> Result<File, StateError> {
    std::fs::create_dir_all(partitions).map_err(StateError::io(partitions))?;
    let path = partitions.join(format!(".{id}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(StateError::io(&path))?;
    if file.try_lock().is_err() {
        progress("waiting for another download of the same partition");
        file.lock().map_err(StateError::io(&path))?;
    }
    Ok(file)
}

fn download(
    server: &HttpClient,
    manifest: &Manifest,
    text: &str,
    folder: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(), ServingError> {
    std::fs::create_dir_all(folder.join("public")).map_err(StateError::io(folder))?;
    for entry in &manifest.public_files {
        progress(&format!(
            "downloading `{}` ({:.1} MiB)",
            entry.path,
            entry.bytes as f64 / f64::from(1 << 20)
        ));
        let path = folder.join(&entry.path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(StateError::io(parent))?;
        }
        let mut file = BufWriter::new(File::create(&path).map_err(StateError::io(&path))?);
        let address = format!("/v1/models/{}/files/{}", manifest.partition_id, entry.path);
        let status = server
            .download(&address, &mut file, entry.bytes.max(4096))
            .map_err(|error| match error {
                NetError::Local { source } => ServingError::from(StateError::io(&path)(source)),
                error => SessionError::net(SERVER)(error).into(),
            })?;
        file.flush().map_err(StateError::io(&path))?;
        if status != 200 {
            return Err(bad(format!("HTTP status {status} for `{}`", entry.path)).into());
        }
        entry.verify(folder)?;
    }
    let path = folder.join(MANIFEST_FILE);
    Ok(std::fs::write(&path, text).map_err(StateError::io(&path))?)
}

fn get(server: &HttpClient, path: &str) -> Result<Vec<u8>, SessionError> {
    let answer = server
        .get(path, MAX_JSON_BYTES)
        .map_err(SessionError::net(SERVER))?;
    if answer.status == 200 {
        return Ok(answer.body);
    }
    Err(refused(SERVER, &answer))
}

fn parse(body: &[u8]) -> Result<serde_json::Value, SessionError> {
    serde_json::from_slice(body).map_err(|error| bad(peer_text(&error.to_string())))
}

fn bad(reason: String) -> SessionError {
    SessionError::BadMessage {
        peer: SERVER,
        reason,
    }
}
