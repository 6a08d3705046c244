//! The records of one service in one file: an embedded database (redb) with transactions.
//!
//! What a call returned `Ok` for is on disk. A process that is killed at any point leaves the last
//! complete transaction; nothing is ever read whole to answer a question about one session or one
//! key. One process writes; others read beside it.

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use marill_numeric::hex;
use redb::{
    Builder, ConcurrencyMode, Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase,
    ReadableTable, StorageError, TableError, WriteTransaction, backends::FileBackend,
};

use crate::{
    error::StateError,
    secret_files::{random, sync_folder},
    state::{
        KeyDigest, WINDOW,
        tables::{CHARGES, RECENT, SESSIONS, Used},
        takeover::take_over,
        unix_seconds,
    },
};

/// Name of the file in a service's folder.
pub const RECORDS_FILE: &str = "records.redb";

/// Memory for pages.
const CACHE_BYTES: usize = 16 << 20;
/// How long a process waits for another one that uses the records for a moment.
const WAIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// Whether records in use are waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenInUse {
    /// By another process that has them for a moment: a client's.
    Wait,
    /// By another service: it is refused.
    Fail,
}

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// Open records.
pub(crate) struct Store {
    path: PathBuf,
    opener: Opener,
    /// None after a failure of the disk, which ends a database: the next use opens it again.
    database: Mutex<Option<Arc<Database>>>,
}

/// What a key has used within the window: `(seconds, tokens, sessions)`, oldest first.
pub(super) type Recent = Vec<(u64, u64, u64)>;

impl Store {
    /// Opens or creates the records of a folder; those of an earlier version are taken over.
    ///
    /// # Errors
    /// [`StateError::LedgerInUse`]; [`StateError::Io`], also for records that are damaged.
    pub(crate) fn open(folder: &Path, when_in_use: WhenInUse) -> Result<Self, StateError> {
        std::fs::create_dir_all(folder).map_err(StateError::io(folder))?;
        let path = folder.join(RECORDS_FILE);
        if !path.exists() {
            create(folder, &path)?;
        }
        let opener: Opener = Box::new({
            let path = path.clone();
            move || {
                let mut builder = Builder::new();
                builder
                    .set_cache_size(CACHE_BYTES)
                    .set_concurrency_mode(ConcurrencyMode::SingleWriter);
                // A service reads all of its records once, at its start, and trusts none that were
                // altered. A client opens them for every session.
                builder.set_check_integrity_on_open(when_in_use == WhenInUse::Fail);
                // `create` would take an empty file for a new database; `open` takes none for one.
                builder.open(&path)
            }
        });
        let store = Self {
            path,
            opener,
            database: Mutex::default(),
        };
        store.reopen(
            &mut store.database(),
            if when_in_use == WhenInUse::Wait {
                WAIT
            } else {
                Duration::ZERO
            },
        )?;
        let is_new = store.with(|database| match database.begin_read()?.open_table(RECENT) {
            Ok(_) => Ok(false),
            Err(TableError::TableDoesNotExist(_)) => Ok(true),
            Err(error) => Err(error.into()),
        })?;
        if is_new {
            store.write(|transaction| {
                transaction.open_table(SESSIONS)?;
                transaction.open_table(CHARGES)?;
                transaction.open_table(RECENT)?;
                Ok(())
            })?;
        }
        take_over(folder, |work| store.write(work))?;
        Ok(store)
    }

    fn database(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reopen(
        &self,
        database: &mut Option<Arc<Database>>,
        patience: Duration,
    ) -> Result<Arc<Database>, StateError> {
        if let Some(database) = database {
            return Ok(database.clone());
        }
        let deadline = Instant::now() + patience;
        let opened = loop {
            // A damaged file may be met by a panic inside the database.
            let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.opener)()));
            match opened
                .unwrap_or_else(|_| Err(StorageError::Corrupted("it cannot be read".into()).into()))
            {
                Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                    std::thread::sleep(PAUSE)
                }
                Err(DatabaseError::DatabaseAlreadyOpen) => {
                    return Err(StateError::LedgerInUse {
                        path: self.path.clone(),
                    });
                }
                opened => break opened.map_err(|error| failed(&self.path, error.into()))?,
            }
        };
        Ok(database.insert(Arc::new(opened)).clone())
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        // Others may still be about to let go of a database that a failure has ended.
        let database = self.reopen(&mut self.database(), Duration::from_secs(1))?;
        let done = work(&database);
        if matches!(
            done,
            Err(redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::Corrupted(_))
        ) {
            self.database().take_if(|kept| Arc::ptr_eq(kept, &database));
        }
        done.map_err(|error| failed(&self.path, error))
    }

    /// A transaction that is on disk when this returns.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })
    }

    /// Records that `role` now uses `session`; on return the record is on disk.
    ///
    /// # Errors
    /// [`StateError::SessionUsed`] when it was recorded before, by any run; [`StateError::Io`]
    /// where the record cannot be written: the session is then not claimed, and the caller uses
    /// nothing of it.
    pub(crate) fn claim(&self, role: &str, session: &str) -> Result<(), StateError> {
        let key = key(role, session);
        let is_new = self.with(|database| {
            let transaction = database.begin_write()?;
            let is_new = {
                let mut table = transaction.open_table(SESSIONS)?;
                let known = table.get(&*key)?.is_some();
                if !known {
                    table.insert(&*key, unix_seconds(SystemTime::now()))?;
                }
                !known
            };
            if is_new {
                transaction.commit()?
            } else {
                transaction.abort()?
            }
            Ok(is_new)
        })?;
        if is_new {
            Ok(())
        } else {
            Err(StateError::SessionUsed {
                session: session.into(),
            })
        }
    }

    /// Whether [`Self::claim`] was called for this role and session.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub(crate) fn is_claimed(&self, role: &str, session: &str) -> Result<bool, StateError> {
        self.with(|database| {
            Ok(database
                .begin_read()?
                .open_table(SESSIONS)?
                .get(&*key(role, session))?
                .is_some())
        })
    }

    /// Asks `allowed` whether a key that has used so much may use more, and charges it in the same
    /// transaction.
    pub(super) fn charge<R>(
        &self,
        key: &KeyDigest,
        now: u64,
        (tokens, sessions): (u64, u64),
        allowed: impl FnOnce(Used, &Recent) -> Result<(), R>,
    ) -> Result<Result<(), R>, StateError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let verdict = {
                let mut charges = transaction.open_table(CHARGES)?;
                let mut recent = transaction.open_table(RECENT)?;
                let used = charges
                    .get(key)?
                    .map_or_else(Used::default, |used| used.value().into());
                let mut within = Recent::new();
                let mut gone = Vec::new();
                for entry in recent.range((key, 0)..=(key, u64::MAX))? {
                    let (at, amount) = entry?;
                    let seconds = at.value().1;
                    let (tokens, sessions) = amount.value();
                    // What lies in the future was written before the clock was set back, and counts
                    // no more.
                    match seconds.saturating_add(WINDOW.as_secs()) > now && seconds <= now {
                        true => within.push((seconds, tokens, sessions)),
                        false => gone.push(seconds),
                    }
                }
                let verdict = allowed(used, &within);
                if verdict.is_ok() {
                    let sum = (
                        used.tokens.saturating_add(tokens),
                        used.sessions.saturating_add(sessions),
                    );
                    charges.insert(key, sum)?;
                    for seconds in gone {
                        recent.remove((key, seconds))?;
                    }
                    let (_, a, b) = within
                        .last()
                        .copied()
                        .filter(|last| last.0 == now)
                        .unwrap_or_default();
                    recent.insert(
                        (key, now),
                        (a.saturating_add(tokens), b.saturating_add(sessions)),
                    )?;
                }
                verdict
            };
            if verdict.is_ok() {
                transaction.commit()?
            } else {
                transaction.abort()?
            }
            Ok(verdict)
        })
    }
}

impl Store {
    /// Gives back tokens that were charged and not used; the window keeps them for its minute.
    pub(super) fn refund(&self, key: &KeyDigest, tokens: u64) -> Result<(), StateError> {
        self.write(|transaction| {
            let mut charges = transaction.open_table(CHARGES)?;
            let used = charges.get(key)?.map_or((0, 0), |used| used.value());
            // A sum at the end of its range is not known well enough to take anything from it.
            if used.0 < u64::MAX {
                charges.insert(key, (used.0.saturating_sub(tokens), used.1))?;
            }
            Ok(())
        })
    }
}

/// Makes a new database under another name and gives it its own when it is whole: a file that a
/// full disk or a crash left empty is never taken for a new one.
fn create(folder: &Path, path: &Path) -> Result<(), StateError> {
    let part = folder.join(format!(
        ".{RECORDS_FILE}.{}",
        hex(random::<8>()?.as_slice())
    ));
    let made = || -> Result<(), redb::Error> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        drop(Builder::new().create_with_backend(FileBackend::new(file)?)?);
        match std::fs::hard_link(&part, path) {
            // Another process was faster.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => Ok(linked?),
        }
    };
    let made = made().map_err(|error| failed(path, error));
    let _ = std::fs::remove_file(&part);
    made.and_then(|()| sync_folder(folder))
}

fn key(role: &str, session: &str) -> String {
    format!("{role} {session}")
}

/// Keeps the kind of a failure of the disk; the file is named in any case.
fn failed(path: &Path, error: redb::Error) -> StateError {
    let source = match error {
        redb::Error::Io(source) => source,
        redb::Error::Corrupted(reason) => {
            std::io::Error::other(format!("the records are damaged: {reason}"))
        }
        other => std::io::Error::other(other),
    };
    StateError::io(path)(source)
}

/// The records of a folder for reading, also beside the service that writes them; `None` where
/// there are none.
fn read_beside(folder: &Path) -> Result<Option<ReadOnlyDatabase>, StateError> {
    let path = folder.join(RECORDS_FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let open = || {
        let mut builder = Builder::new();
        builder
            .set_cache_size(CACHE_BYTES)
            .set_concurrency_mode(ConcurrencyMode::SingleWriter);
        builder.open_read_only(&path)
    };
    match open() {
        // A crash left work that only a writer can end.
        Err(DatabaseError::RepairAborted) => {
            drop(Store::open(folder, WhenInUse::Fail)?);
            open()
                .map(Some)
                .map_err(|error| failed(&path, error.into()))
        }
        opened => opened
            .map(Some)
            .map_err(|error| failed(&path, error.into())),
    }
}

/// Tokens and sessions that a key has used, as the records in `folder` say, also beside a running
/// server.
pub(super) fn used(folder: &Path, digest: &KeyDigest) -> Result<Used, StateError> {
    let Some(database) = read_beside(folder)? else {
        return Ok(Used::default());
    };
    let read = || -> Result<Used, redb::Error> {
        match database.begin_read()?.open_table(CHARGES) {
            Ok(table) => Ok(table
                .get(digest)?
                .map_or_else(Used::default, |used| used.value().into())),
            Err(TableError::TableDoesNotExist(_)) => Ok(Used::default()),
            Err(error) => Err(error.into()),
        }
    };
    read().map_err(|error| failed(&folder.join(RECORDS_FILE), error))
}

/// Writes all records of a folder as lines of text, also beside a running service:
/// `session ROLE NAME UNIX-SECONDS`, `charges KEY-DIGEST TOKENS SESSIONS` and, of the last minute,
/// `recent KEY-DIGEST UNIX-SECONDS TOKENS SESSIONS`.
///
/// # Errors
/// [`StateError::Io`], of the records or of `out`.
pub fn export(folder: &Path, out: &mut dyn std::io::Write) -> Result<(), StateError> {
    let Some(database) = read_beside(folder)? else {
        return Ok(());
    };
    let mut say = |line: String| out.write_all(line.as_bytes()).map_err(redb::Error::Io);
    let mut write = || -> Result<(), redb::Error> {
        let transaction = database.begin_read()?;
        for entry in transaction.open_table(SESSIONS)?.iter()? {
            let (session, seconds) = entry?;
            say(format!("session {} {}\n", session.value(), seconds.value()))?;
        }
        for entry in transaction.open_table(CHARGES)?.iter()? {
            let (key, used) = entry?;
            say(format!(
                "charges {} {} {}\n",
                hex(key.value()),
                used.value().0,
                used.value().1
            ))?;
        }
        for entry in transaction.open_table(RECENT)?.iter()? {
            let (at, used) = entry?;
            let (key, seconds) = at.value();
            let (tokens, sessions) = used.value();
            say(format!(
                "recent {} {seconds} {tokens} {sessions}\n",
                hex(key)
            ))?;
        }
        Ok(())
    };
    write().map_err(|error| failed(&folder.join(RECORDS_FILE), error))
}

#[cfg(test)]
mod tests;
