//! The dealer's side: writes files and keeps E0's seeds for the day of the session.

use std::path::{Path, PathBuf};

use marill_mpc::{DealerSession, Seed, Selection, tally_step};
use marill_net::{Channel, SharedChannel};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::seal::Sealer;
use super::{FORMAT, Header, Order, shelf};
use crate::ServingError;
use crate::dealer::masks::Masks;
use crate::dealer::{MASKS_FILE, SERVER_KEY_FILE, check_offer};
use crate::secret_files::{random, read_or_create_key, replace_file};
use crate::wire::{Terms, hex, unhex};

/// Below the dealer's folder: one file a session that is not handed out yet.
pub(crate) const SEEDS_FOLDER: &str = "ahead";
/// Sessions written ahead share one masked adapter, under this name in the dealer's list of masks: which client will use
/// a file is not known yet. All clients then hold the same masked matrix, which is uniform and tells them nothing, also
/// together.
const ANY_CLIENT: &str = "ahead";
/// Room that is left free on the disk.
const SPARE_BYTES: u64 = 64 << 20;

/// What to write.
pub struct AheadOptions {
    /// The dealer's folder.
    pub state: PathBuf,
    /// Where the files go; they are then carried to the server.
    pub folder: PathBuf,
    pub order: PathBuf,
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

/// What the dealer keeps of a session until a client asks for it: E0's seed.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredSeed {
    pub(crate) terms: Terms,
    pub(crate) seed0: String,
}

/// Writes the files; `say` hears of sizes first and then of each file.
///
/// # Errors
/// [`ServingError::BadOrder`] for an order or a size that does not fit the model; [`ServingError::NoRoom`] before
/// anything is written; [`ServingError::Io`].
pub fn produce(options: &AheadOptions, say: &mut dyn FnMut(&str)) -> Result<(), ServingError> {
    let order = read_order(&options.order)?;
    let corrections = corrections_bytes(&order, options)?;
    let total = corrections * options.sessions as u64;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    say(&format!(
        "{} sessions of {} tokens behind a prompt of {}, selection `{}`: {:.1} MiB each, {:.1} MiB in all",
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
    std::fs::create_dir_all(&options.folder).map_err(ServingError::io(&options.folder))?;
    let room = rustix::fs::statvfs(&options.folder).map_err(|error| ServingError::io(&options.folder)(error.into()))?;
    let free_bytes = room.f_bavail * room.f_frsize;
    if total + SPARE_BYTES > free_bytes {
        return Err(ServingError::NoRoom {
            path: options.folder.clone(),
            needed_bytes: total + SPARE_BYTES,
            free_bytes,
        });
    }
    let dealer_key = read_or_create_key(&options.state.join(SERVER_KEY_FILE))?;
    let adapter_seed = Masks::open(&options.state.join(MASKS_FILE))?.seed(ANY_CLIENT, &order.private_sha256)?;
    for nth in 0..options.sessions {
        let path = write_session(options, &order, &dealer_key, &adapter_seed, corrections)?;
        say(&format!("{} of {}: `{}`", nth + 1, options.sessions, path.display()));
    }
    Ok(())
}

fn read_order(path: &Path) -> Result<Order, ServingError> {
    let bad = |reason: String| ServingError::BadOrder { reason: format!("`{}`: {reason}", path.display()) };
    let text = std::fs::read(path).map_err(ServingError::io(path))?;
    let order: Order = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if order.format != FORMAT {
        return Err(bad(format!("it has format {}, this version reads {FORMAT}", order.format)));
    }
    check_offer(&order.terms).map_err(|error| bad(error.message))?;
    if order.terms.setting != "dealer" {
        return Err(bad(format!(
            "in the setting `{}` correlations are made while a session runs",
            order.terms.setting
        )));
    }
    if order.terms.is_shared() {
        return Err(bad("correlations for an evaluator of its own are made while a session runs".into()));
    }
    order.terms.check_program(&order.spec).map_err(bad)?;
    if unhex::<32>(&order.private_sha256).is_none() {
        return Err(bad("`private_sha256` needs 64 hexadecimal digits".into()));
    }
    order.spec.validate()?;
    Ok(order)
}

/// What the tally declares for one session.
fn corrections_bytes(order: &Order, options: &AheadOptions) -> Result<u64, ServingError> {
    let (spec, selection) = (&order.spec, options.selection);
    let (bucket, tokens) = (options.bucket, options.tokens);
    let unfit = |reason: String| ServingError::BadOrder { reason };
    if bucket == 0 || spec.bucket(bucket) != bucket {
        return Err(unfit(format!("prompts come in multiples of {}, not of {bucket}", spec.bucket(1))));
    }
    if tokens == 0 || bucket + tokens - 1 > spec.max_positions {
        return Err(unfit(format!(
            "between 1 and {} tokens fit behind {bucket}",
            (spec.max_positions + 1).saturating_sub(bucket)
        )));
    }
    let mut bytes = tally_step(spec, selection, 0, bucket)?.source_to_e1_bytes;
    for step in 1..tokens {
        bytes += tally_step(spec, selection, bucket + step - 1, 1)?.source_to_e1_bytes;
    }
    Ok(bytes)
}

/// The file is complete before the dealer knows of the session, and E0's seed is on disk before the file has its name.
fn write_session(
    options: &AheadOptions,
    order: &Order,
    dealer_key: &str,
    adapter_seed: &Seed,
    corrections_bytes: u64,
) -> Result<PathBuf, ServingError> {
    let session = hex(random::<16>()?.as_slice());
    let (seed0, seed1) = (Seed::from_bytes(*random::<32>()?), Seed::from_bytes(*random::<32>()?));
    let header = Header {
        format: FORMAT,
        session: session.clone(),
        terms: order.terms.clone(),
        private_sha256: order.private_sha256.clone(),
        bucket: options.bucket,
        tokens: options.tokens,
        selection: options.selection,
        corrections_bytes,
        ephemeral_key: String::new(),
    };
    let path = options.folder.join(shelf::file_name(options.bucket, options.tokens, options.selection, &session));
    let part = path.with_extension("part");
    let written = (|| {
        let mut sealer = SharedChannel::new(Sealer::create(&part, header, &order.server_key, dealer_key)?);
        let mut seeds = seed1.to_bytes().to_vec();
        seeds.extend_from_slice(&adapter_seed.to_bytes());
        sealer.send(seeds).map_err(ServingError::Plain)?;
        let before = sealer.lock().sealed_bytes;
        let sink = Box::new(sealer.clone());
        let session = DealerSession::new(order.spec.clone(), adapter_seed.clone(), seed0.clone(), seed1, sink);
        let mut session = session.with_selection(options.selection);
        session.prefill(options.bucket)?;
        (1..options.tokens).try_for_each(|_| session.decode())?;
        let got = sealer.lock().sealed_bytes - before;
        if got != corrections_bytes {
            return Err(ServingError::Tally { declared_bytes: corrections_bytes, got_bytes: got });
        }
        sealer.lock().finish()
    })();
    if let Err(error) = written {
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    let kept = StoredSeed { terms: order.terms.clone(), seed0: hex(&seed0.to_bytes()) };
    let json = Zeroizing::new(serde_json::to_vec(&kept).expect("a seed has string keys only"));
    replace_file(&options.state.join(SEEDS_FOLDER).join(&session), &json)?;
    std::fs::rename(&part, &path).map_err(ServingError::io(&path))?;
    Ok(path)
}
