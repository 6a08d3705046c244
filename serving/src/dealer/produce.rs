//! The dealer's side: writes files and keeps E0's seeds for the day of the session.

use std::path::{Path, PathBuf};

use marill_mpc::{Comparison, DealerSession, PrivateProducts, Seed, Selection, tally_with};
use marill_net::{Channel, SharedChannel};
use marill_numeric::{hex, unhex};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    dealer::{
        check_supported,
        masks::{MaskScope, Masks},
        owner_key,
    },
    error::{PreprocessingError, ServingError, StateError},
    messages::hash_key,
    preprocessing::{FORMAT, Header, PreprocessRequest, Vault, seal::Sealer, store},
    secret_files::{random, replace_file, sync_folder},
    terms::SessionParameters,
};

/// Below the dealer's folder: one file per session that is not given out yet.
pub(crate) const SEEDS_FOLDER: &str = "ahead";
/// Room that is left free on the disk.
const SPARE_BYTES: u64 = 64 << 20;

/// What to write.
pub struct PreprocessOptions {
    /// The dealer's folder.
    pub state: PathBuf,
    /// As [`crate::dealer::DealerOptions::vault`].
    pub vault: PathBuf,
    /// Whose server the files are for: a name that [`crate::dealer::add_owner`] knows, or the first
    /// owner's.
    pub owner: String,
    /// Where the files go; they are then carried to the server.
    pub folder: PathBuf,
    pub request: PathBuf,
    /// Padded length of the prompts.
    pub bucket: usize,
    /// Tokens of an answer, at most.
    pub tokens: usize,
    /// How the answers' tokens are chosen.
    pub selection: Selection,
    pub sessions: usize,
    /// Say how large it would be, and write nothing.
    pub dry_run: bool,
}

/// What the dealer keeps of a session until its day: E0's seed, under a key in the vault.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    owner: String,
    #[serde(rename = "terms")]
    parameters: SessionParameters,
    /// Hexadecimal.
    sealed_seed0: String,
}

/// [`Stored`], checked.
pub(crate) struct StoredSession {
    session: String,
    pub(crate) owner: String,
    pub(crate) parameters: SessionParameters,
    pub(crate) seed0: [u8; 48],
}

impl StoredSession {
    /// The session in the dealer's folder of sessions; `None` where it is not there.
    ///
    /// # Errors
    /// [`StateError::Io`], also for a file that is damaged or of another version.
    pub(crate) fn read(folder: &Path, session: &str) -> Result<Option<Self>, StateError> {
        let path = folder.join(session);
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Io { path, source }),
        };
        let bad = |reason: String| StateError::io(&path)(std::io::Error::other(reason));
        let value: serde_json::Value =
            serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
        if value.get("format").and_then(serde_json::Value::as_u64) != Some(u64::from(FORMAT)) {
            return Err(bad(format!(
                "it is of another version than {FORMAT}: write the session anew, and delete this"
            )));
        }
        let stored: Stored =
            serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        let seed0 =
            unhex::<48>(&stored.sealed_seed0).ok_or_else(|| bad("its seed is cut".into()))?;
        Ok(Some(Self {
            session: session.into(),
            owner: stored.owner,
            parameters: stored.parameters,
            seed0,
        }))
    }

    /// Names of all that are there.
    pub(crate) fn names(folder: &Path) -> impl Iterator<Item = String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| unhex::<16>(name).is_some())
    }

    /// Removes it; what stays is of no use without its key.
    pub(crate) fn remove(&self, folder: &Path) {
        let path = folder.join(&self.session);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(
                "a used session stays where it is, `{}`: {error}",
                path.display()
            );
        }
    }
}

/// Writes the files; `say` hears of sizes first and then of each file.
///
/// # Errors
/// [`PreprocessingError::BadRequest`] for an order or a size that does not fit the model;
/// [`PreprocessingError::NoSpace`] before anything is written; [`StateError::Io`].
pub fn produce(options: &PreprocessOptions, say: &mut dyn FnMut(&str)) -> Result<(), ServingError> {
    let request = read_request(&options.request)?;
    let corrections = corrections_bytes(&request, options)?;
    let total = corrections * options.sessions as u64;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    say(&format!(
        "{} sessions of {} tokens behind a prompt of {}, selection `{}`: {:.1} MiB each, {:.1} MiB \
         in all",
        options.sessions,
        options.tokens,
        options.bucket,
        options.selection.as_str(),
        mib(corrections),
        mib(total)
    ));
    if options.dry_run {
        return Ok(());
    }
    std::fs::create_dir_all(&options.folder).map_err(StateError::io(&options.folder))?;
    let room = rustix::fs::statvfs(&options.folder)
        .map_err(|error| StateError::io(&options.folder)(error.into()))?;
    let free_bytes = room.f_bavail * room.f_frsize;
    if total + SPARE_BYTES > free_bytes {
        return Err(PreprocessingError::NoSpace {
            path: options.folder.clone(),
            needed_bytes: total + SPARE_BYTES,
            free_bytes,
        }
        .into());
    }
    let dealer_key = owner_key(&options.state, &options.owner)?;
    let adapter_seed = Masks::open(&options.state)?.seed(
        &options.owner,
        &MaskScope::Preprocessed,
        &request.private_sha256,
    );
    let vault = Vault::open(&options.vault, &options.state)?;
    for nth in 0..options.sessions {
        let path = write_session(
            options,
            &request,
            &dealer_key,
            &adapter_seed,
            &vault,
            corrections,
        )?;
        say(&format!(
            "{} of {}: `{}`",
            nth + 1,
            options.sessions,
            path.display()
        ));
    }
    Ok(())
}

fn read_request(path: &Path) -> Result<PreprocessRequest, ServingError> {
    let bad = |reason: String| PreprocessingError::BadRequest {
        reason: format!("`{}`: {reason}", path.display()),
    };
    let text = std::fs::read(path).map_err(StateError::io(path))?;
    let request: PreprocessRequest =
        serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if request.format != FORMAT {
        return Err(bad(format!(
            "it has format {}, this version reads {FORMAT}",
            request.format
        ))
        .into());
    }
    check_supported(&request.parameters).map_err(|error| bad(error.message))?;
    if request.parameters.setting != "dealer" {
        return Err(bad(format!(
            "in the setting `{}` correlations are made while a session runs",
            request.parameters.setting
        ))
        .into());
    }
    if request.parameters.is_shared() {
        return Err(
            bad("correlations for a computing party are made while a session runs".into()).into(),
        );
    }
    request
        .parameters
        .check_program(&request.spec)
        .map_err(bad)?;
    if unhex::<32>(&request.private_sha256).is_none() {
        return Err(bad("`private_sha256` needs 64 hexadecimal digits".into()).into());
    }
    request.spec.validate()?;
    Ok(request)
}

/// What the tally declares for one session.
fn corrections_bytes(
    request: &PreprocessRequest,
    options: &PreprocessOptions,
) -> Result<u64, ServingError> {
    let spec = &request.spec;
    let selection = options.selection;
    let bucket = options.bucket;
    let tokens = options.tokens;
    let unfit = |reason: String| PreprocessingError::BadRequest { reason };
    if bucket == 0 || spec.bucket(bucket) != bucket {
        return Err(unfit(format!(
            "prompts come in multiples of {}, not of {bucket}",
            spec.bucket(1)
        ))
        .into());
    }
    if tokens == 0 || bucket + tokens - 1 > spec.max_positions {
        return Err(unfit(format!(
            "between 1 and {} tokens fit behind {bucket}",
            (spec.max_positions + 1).saturating_sub(bucket)
        ))
        .into());
    }
    let ways = (Comparison::OneHot, request.parameters.private_products);
    let count = |sizes| tally_with(spec, ways, selection, sizes);
    let mut bytes = count([0, bucket])?.dealer_to_e1_bytes;
    for step in 1..tokens {
        bytes += count([bucket + step - 1, 1])?.dealer_to_e1_bytes;
    }
    Ok(bytes)
}

/// The file is complete before the dealer knows of the session, and E0's seed is on disk before the
/// file has its name.
fn write_session(
    options: &PreprocessOptions,
    request: &PreprocessRequest,
    dealer_key: &str,
    adapter_seed: &Seed,
    vault: &Vault,
    corrections_bytes: u64,
) -> Result<PathBuf, ServingError> {
    let session = hex(random::<16>()?.as_slice());
    let seed0 = Seed::from_bytes(*random::<32>()?);
    let seed1 = Seed::from_bytes(*random::<32>()?);
    let header = Header {
        format: FORMAT,
        session: session.clone(),
        parameters: request.parameters.clone(),
        private_sha256: request.private_sha256.clone(),
        bucket: options.bucket,
        tokens: options.tokens,
        selection: options.selection,
        corrections_bytes,
        ephemeral_key: String::new(),
    };
    let key = vault.make(&session)?;
    let path = options.folder.join(store::file_name(
        options.bucket,
        options.tokens,
        options.selection,
        &session,
    ));
    let part = path.with_extension("part");
    let sealer = Sealer::create(
        &part,
        header,
        &request.server_key,
        [dealer_key.as_bytes(), key.release().as_slice()],
    );
    let written = sealer.map_err(ServingError::from).and_then(|sealer| {
        let seeds = [adapter_seed.clone(), seed0.clone(), seed1];
        seal(sealer, options, request, &session, seeds, corrections_bytes)
    });
    if let Err(error) = written {
        let _ = std::fs::remove_file(&part);
        let _ = vault.take(&session);
        return Err(error);
    }
    let sealed_seed0 = key.wrap(&session, &Zeroizing::new(seed0.to_bytes()));
    let stored = Stored {
        format: FORMAT,
        owner: options.owner.clone(),
        parameters: request.parameters.clone(),
        sealed_seed0,
    };
    let json = serde_json::to_vec(&stored).expect("a session has string keys only");
    replace_file(&options.state.join(SEEDS_FOLDER).join(&session), &json)?;
    std::fs::rename(&part, &path).map_err(StateError::io(&path))?;
    sync_folder(&options.folder)?;
    Ok(path)
}

/// Writes E1's seeds and then what the dealer would send it in this session, as many bytes as the
/// tally declares.
fn seal(
    sealer: Sealer,
    options: &PreprocessOptions,
    request: &PreprocessRequest,
    session: &str,
    [adapter_seed, seed0, seed1]: [Seed; 3],
    declared_bytes: u64,
) -> Result<(), ServingError> {
    let mut sealer = SharedChannel::new(sealer);
    let seeds = [&seed1, &adapter_seed].map(|seed| Zeroizing::new(seed.to_bytes()));
    sealer
        .send(seeds.iter().flat_map(|seed| **seed).collect())
        .map_err(PreprocessingError::Write)?;
    let before = sealer.lock().sealed_bytes;
    let spec = request.spec.clone();
    let sink = Box::new(sealer.clone());
    let dealer = match request.parameters.private_products {
        PrivateProducts::Lattice => DealerSession::without_adapter(spec, [seed0, seed1], sink),
        PrivateProducts::Masks => DealerSession::new(spec, adapter_seed, seed0, seed1, sink),
    };
    let mut dealer = dealer
        .with_selection(options.selection)
        .with_hash_key(&hash_key(session));
    dealer.prefill(options.bucket)?;
    (1..options.tokens).try_for_each(|_| dealer.decode())?;
    let got_bytes = sealer.lock().sealed_bytes - before;
    if got_bytes != declared_bytes {
        return Err(PreprocessingError::Tally {
            declared_bytes,
            got_bytes,
        }
        .into());
    }
    Ok(sealer.lock().finish()?)
}
