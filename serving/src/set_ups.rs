//! Set-ups of two parties that are kept between sessions: a file each, for a bounded time and
//! number.
//!
//! A file holds one party's base transfers and keys ([`marill_mpc::two_party::SetUp`]), below the
//! digest of whom it serves: at a client the server's address, the key that it shows there and the
//! model; at a server the client's key and the private weights. Only its owner can read it. Whoever
//! else does, and has recorded sessions under it, reads that party's masks in them, so it is a key
//! like the others of the folder. One that is damaged, foreign or too old is said by name, removed,
//! and made anew with the next session.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use marill_mpc::two_party::{BaseId, Origin, SetUp, Why};
use marill_numeric::hex;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::secret_files::replace_file;

/// Name of the folder below a service's or a client's.
pub(crate) const FOLDER: &str = "set-ups";
const ENDING: &str = ".set-up";
const MAGIC: &[u8; 16] = b"marill set-ups 1";
/// Magic, second in which it was made, whom it serves, checksum of these.
const HEADER_BYTES: usize = 16 + 8 + 32 + 16;
const HOUR: Duration = Duration::from_secs(3600);
/// Clocks differ by less.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many set-ups are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetUpLimits {
    /// 0: every session makes its own. One takes 8.4 MB.
    pub most: usize,
    /// Of those that serve one client of a server, or one server of a client.
    pub most_of_one: usize,
    pub age: Duration,
}

impl SetUpLimits {
    /// Every session makes its own.
    pub const NONE: Self = Self {
        most: 0,
        most_of_one: 0,
        age: Duration::ZERO,
    };

    /// A client's: one of each of eight servers and models, for thirty days.
    pub const CLIENT: Self = Self {
        most: 8,
        most_of_one: 1,
        age: Duration::from_secs(30 * DAY.as_secs()),
    };

    /// A server's: as many, an eighth of them of one client's key.
    #[must_use]
    pub fn server(most: usize, days: u32) -> Self {
        Self {
            most,
            most_of_one: most.div_ceil(8),
            age: DAY * days,
        }
    }
}

/// Whom a set-up serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    digest: [u8; 32],
    /// Nobody in particular, who may have all places.
    is_anyone: bool,
}

impl Owner {
    /// At a client: this server, under this key, with this model.
    pub(crate) fn server(endpoint: &str, key: Option<&str>, model: [&str; 2]) -> Self {
        let parts = [endpoint, key.unwrap_or_default(), model[0], model[1]];
        Self {
            digest: digest("client", &parts.map(str::as_bytes)),
            is_anyone: false,
        }
    }

    /// At a server: a client by its key, or whoever has none, with these private weights.
    pub(crate) fn client(key: Option<&[u8; 32]>, model: [&str; 2]) -> Self {
        let parts = [
            key.map_or(&[][..], |key| &key[..]),
            model[0].as_bytes(),
            model[1].as_bytes(),
        ];
        Self {
            digest: digest("server", &parts),
            is_anyone: key.is_none(),
        }
    }

    fn prefix(&self) -> String {
        hex(&self.digest[..16])
    }
}

fn digest(side: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix("marill owner of a set-up\n");
    hash.update(side);
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Says where a session's base transfers come from.
pub(crate) fn say_origin(origin: Origin) {
    match origin {
        // One of two files is not what it says.
        Origin::Made(Why::Unproven) => tracing::warn!("{origin}"),
        _ => tracing::debug!("{origin}"),
    }
}

/// The set-ups of one folder. All copies are one.
#[derive(Clone)]
pub(crate) struct SetUps {
    folder: PathBuf,
    limits: SetUpLimits,
    /// Held while files are counted and removed.
    trimming: Arc<Mutex<()>>,
}

impl SetUps {
    /// Those below `folder`, without those that are too many or too old.
    pub(crate) fn open(folder: &Path, limits: SetUpLimits) -> Self {
        let set_ups = Self {
            folder: folder.join(FOLDER),
            limits,
            trimming: Arc::default(),
        };
        set_ups.trim(None);
        set_ups
    }

    /// The same folder with other limits; what is there stays until more is kept.
    pub(crate) fn limited(self, limits: SetUpLimits) -> Self {
        Self { limits, ..self }
    }

    /// Whether any are kept.
    pub(crate) fn keeps(&self) -> bool {
        self.limits.most > 0
    }

    /// The one that serves `owner` and has this name, or the one last used.
    pub(crate) fn find(&self, owner: &Owner, name: Option<&BaseId>) -> Option<SetUp> {
        self.trim(None);
        let files = self.files();
        let wanted = name.map(|name| file_name(owner, name));
        let fits = |file: &Found| match &wanted {
            Some(wanted) => file.name == *wanted,
            None => file.name.starts_with(&owner.prefix()),
        };
        let path = self.folder.join(&files.into_iter().rev().find(fits)?.name);
        match self.read(&path, owner) {
            Ok(set_up) => {
                // What is used is not the first to go.
                let touched = File::options().append(true).open(&path);
                drop(touched.and_then(|file| file.set_modified(SystemTime::now())));
                Some(set_up)
            }
            // Another session removed it meanwhile.
            Err(Unread::Io(error)) if error.kind() == ErrorKind::NotFound => None,
            Err(Unread::Io(error)) => {
                tracing::warn!("`{}` cannot be read now: {error}", path.display());
                None
            }
            Err(Unread::Wrong(reason)) => {
                tracing::warn!("`{}` is not used, and removed: {reason}", path.display());
                drop(std::fs::remove_file(&path));
                None
            }
        }
    }

    fn read(&self, path: &Path, owner: &Owner) -> Result<SetUp, Unread> {
        let most = (HEADER_BYTES + SetUp::most_bytes()) as u64;
        let mut bytes = Zeroizing::new(Vec::with_capacity(most as usize + 1));
        File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(Unread::Wrong("it is longer than a set-up".into()));
        }
        let header = Header::read(&bytes).map_err(Unread::Wrong)?;
        if header.owner != owner.digest {
            return Err(Unread::Wrong("it serves another pair".into()));
        }
        if header.is_too_old(self.limits.age) {
            return Err(Unread::Wrong("it is too old, or of the future".into()));
        }
        SetUp::from_bytes(&bytes[HEADER_BYTES..]).map_err(|error| Unread::Wrong(error.to_string()))
    }

    /// Keeps one, and says by name where that fails: the session goes on.
    pub(crate) fn keep(&self, owner: &Owner, set_up: &SetUp) {
        let path = self.folder.join(file_name(owner, &set_up.name()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        // Keys that come later do not make base transfers younger.
        let made = Header::of(&path).map_or(now, |header| header.made.min(now));
        let mut bytes = Zeroizing::new(Vec::with_capacity(SetUp::most_bytes() + HEADER_BYTES));
        bytes.extend(MAGIC);
        bytes.extend(made.to_le_bytes());
        bytes.extend(owner.digest);
        let sum = digest("header", &[&bytes[..]]);
        bytes.extend(&sum[..16]);
        bytes.extend(set_up.to_bytes().iter());
        match replace_file(&path, &bytes) {
            Ok(()) => self.trim(Some(owner)),
            Err(error) => tracing::warn!("a set-up is not kept: {error}"),
        }
    }

    /// Removes what is too old or too much: of `owner`'s, then of all, last used first to stay.
    fn trim(&self, owner: Option<&Owner>) {
        let _trimming = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        self.remove_parts();
        let mut left = self.limits.most;
        let mut left_of_one = match owner {
            Some(owner) if owner.is_anyone => self.limits.most,
            _ => self.limits.most_of_one,
        };
        for file in self.files().iter().rev() {
            let path = self.folder.join(&file.name);
            let header = Header::of(&path);
            let too_old = header.is_some_and(|header| header.is_too_old(self.limits.age));
            let of_owner = owner.is_some_and(|owner| file.name.starts_with(&owner.prefix()));
            let stays = !too_old && left > 0 && (!of_owner || left_of_one > 0);
            if !stays {
                drop(std::fs::remove_file(path));
                continue;
            }
            left -= 1;
            left_of_one -= usize::from(of_owner);
        }
    }

    /// Removes what a process that was killed left of a file, an hour later.
    fn remove_parts(&self) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        for entry in entries.flatten() {
            let is_part = entry.file_name().to_string_lossy().ends_with(".part");
            let written = entry.metadata().and_then(|found| found.modified()).ok();
            let age = written.and_then(|written| written.elapsed().ok());
            if is_part && age.is_some_and(|age| age > HOUR) {
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }

    /// The folder's files, last used last.
    fn files(&self) -> Vec<Found> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        let mut files: Vec<Found> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let used = entry.metadata().ok()?.modified().ok()?;
                name.ends_with(ENDING).then_some(Found { used, name })
            })
            .collect();
        files.sort();
        files
    }
}

/// Why a file gives no set-up.
enum Unread {
    /// It may be read another time.
    Io(std::io::Error),
    Wrong(String),
}

impl From<std::io::Error> for Unread {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// What stands in front of a set-up.
struct Header {
    /// Seconds since 1970 when its base transfers were made.
    made: u64,
    owner: [u8; 32],
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let header = bytes.get(..HEADER_BYTES).ok_or("it is cut")?;
        let (fields, sum) = header.split_at(HEADER_BYTES - 16);
        if !fields.starts_with(MAGIC) {
            return Err("it is of another version".into());
        }
        if sum != &digest("header", &[fields])[..16] {
            return Err("it is damaged".into());
        }
        Ok(Self {
            made: u64::from_le_bytes(fields[16..24].try_into().expect("eight bytes")),
            owner: fields[24..].try_into().expect("32 bytes"),
        })
    }

    /// A file's, if it has one.
    fn of(path: &Path) -> Option<Self> {
        let mut bytes = [0; HEADER_BYTES];
        File::open(path).ok()?.read_exact(&mut bytes).ok()?;
        Self::read(&bytes).ok()
    }

    /// Or of the future, by more than clocks differ.
    fn is_too_old(&self, limit: Duration) -> bool {
        let made = UNIX_EPOCH.checked_add(Duration::from_secs(self.made));
        match made.map(|made| SystemTime::now().duration_since(made)) {
            Some(Ok(age)) => age > limit,
            Some(Err(ahead)) => ahead.duration() >= DAY,
            None => true,
        }
    }
}

/// A file, and when it was last used.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    used: SystemTime,
    name: String,
}

fn file_name(owner: &Owner, name: &BaseId) -> String {
    format!("{}-{name}{ENDING}", owner.prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_differ_by_peer_key_and_model() {
        let clients = [
            Owner::server("http://a", None, ["m", "n"]),
            Owner::server("http://b", None, ["m", "n"]),
            Owner::server("http://a", Some("k"), ["m", "n"]),
            Owner::server("http://a", None, ["mn", ""]),
        ];
        let servers = [
            Owner::client(None, ["m", "n"]),
            Owner::client(Some(&[1; 32]), ["m", "n"]),
            Owner::client(Some(&[2; 32]), ["m", "n"]),
            // Another adapter.
            Owner::client(Some(&[1; 32]), ["o", "n"]),
        ];
        let prefixes = clients.iter().chain(&servers).map(Owner::prefix);
        let distinct: std::collections::HashSet<String> = prefixes.collect();
        assert_eq!(distinct.len(), 8);
    }
}
