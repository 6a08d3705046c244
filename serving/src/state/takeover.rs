//! Records of earlier versions, files of lines, which are taken over once and then stand aside
//! under another name.

use std::path::{Path, PathBuf};

use marill_numeric::{hex, unhex};
use redb::{ReadableTable, WriteTransaction};
use sha2::{Digest, Sha256};

use crate::{
    error::StateError,
    secret_files::{replace_file, sync_folder},
    state::{
        KeyDigest,
        tables::{CHARGES, RECENT, SESSIONS, TAKEN_OVER, Used},
    },
};

/// `role session unix-seconds`.
const LEDGER_FILE: &str = "ledger";
/// `unix-seconds key-digest tokens sessions`.
const CHARGES_FILE: &str = "charges";
/// Says that there were keys once: a lost file of keys must not open the server to everyone.
pub(super) const KEYS_SEEN_FILE: &str = "keys.seen";

/// What the file says to whoever looks into it.
pub(super) const KEYS_SEEN: &[u8] =
    b"this server has had API keys: without them it does not start\n";

/// One line of the former charges.
type Charge = (KeyDigest, u64, Used);

/// What is written in one transaction.
type Work<'a> = &'a dyn Fn(&WriteTransaction) -> Result<(), redb::Error>;

/// Takes over what lies in `folder`; a line that is no record is refused by its number. The last
/// line counts only if it is whole, as before.
pub(super) fn take_over(
    folder: &Path,
    write: impl Fn(Work<'_>) -> Result<(), StateError>,
) -> Result<(), StateError> {
    if let Some(former) = Former::read(&folder.join(LEDGER_FILE))? {
        let mut claims = former.lines(|words| match words {
            [role, session, seconds] => Some((format!("{role} {session}"), seconds.parse().ok()?)),
            _ => None,
        })?;
        claims.sort_unstable();
        write(&|transaction| {
            if former.is_new(transaction)? {
                let mut table = transaction.open_table(SESSIONS)?;
                for (key, seconds) in &claims {
                    table.insert(&**key, seconds)?;
                }
            }
            Ok(())
        })?;
        former.put_aside()?;
    }
    if let Some(former) = Former::read(&folder.join(CHARGES_FILE))? {
        let charges: Vec<Charge> = former.lines(|words| match words {
            [seconds, key, tokens, sessions] => {
                let used = Used {
                    tokens: tokens.parse().ok()?,
                    sessions: sessions.parse().ok()?,
                };
                Some((unhex::<32>(key)?, seconds.parse().ok()?, used))
            }
            _ => None,
        })?;
        if !charges.is_empty() && !folder.join(KEYS_SEEN_FILE).exists() {
            replace_file(&folder.join(KEYS_SEEN_FILE), KEYS_SEEN)?;
        }
        write(&|transaction| {
            if former.is_new(transaction)? {
                let mut sums = transaction.open_table(CHARGES)?;
                let mut recent = transaction.open_table(RECENT)?;
                for (key, seconds, used) in &charges {
                    let before = sums.get(key)?.map_or((0, 0), |sum| sum.value());
                    sums.insert(key, add(before, used))?;
                    let before = recent
                        .get((key, *seconds))?
                        .map_or((0, 0), |sum| sum.value());
                    recent.insert((key, *seconds), add(before, used))?;
                }
            }
            Ok(())
        })?;
        former.put_aside()?;
    }
    Ok(())
}

/// A sum that would leave its range stays at the end of it: a budget is then spent, never given
/// back.
fn add(before: (u64, u64), used: &Used) -> (u64, u64) {
    (
        before.0.saturating_add(used.tokens),
        before.1.saturating_add(used.sessions),
    )
}

/// A file of lines.
struct Former {
    path: PathBuf,
    text: String,
    digest: String,
}

impl Former {
    fn read(path: &Path) -> Result<Option<Self>, StateError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StateError::Io {
                    path: path.into(),
                    source,
                });
            }
        };
        let digest = hex(&Sha256::digest(&bytes));
        let text = String::from_utf8(bytes)
            .map_err(|_| StateError::io(path)(std::io::Error::other("it is no text")))?;
        Ok(Some(Self {
            path: path.into(),
            text,
            digest,
        }))
    }

    fn lines<T>(&self, parse: impl Fn(&[&str]) -> Option<T>) -> Result<Vec<T>, StateError> {
        let whole = self
            .text
            .rsplit_once('\n')
            .map_or("", |(whole, _torn)| whole);
        let lines = whole
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.is_empty());
        let parsed = lines.map(|(index, line)| {
            let words: Vec<&str> = line.split(' ').collect();
            let bad = || std::io::Error::other(format!("line {} is no record", index + 1));
            parse(&words).ok_or_else(|| StateError::io(&self.path)(bad()))
        });
        parsed.collect()
    }

    /// Notes in the transaction that this very file is taken over; `false`: a crash came between
    /// that and putting it aside.
    fn is_new(&self, transaction: &WriteTransaction) -> Result<bool, redb::Error> {
        let mut table = transaction.open_table(TAKEN_OVER)?;
        Ok(table
            .insert(&*self.digest, self.text.len() as u64)?
            .is_none())
    }

    fn put_aside(&self) -> Result<(), StateError> {
        let mut aside = self.path.with_extension("taken-over");
        for n in 2.. {
            if !aside.exists() {
                break;
            }
            aside = self.path.with_extension(format!("taken-over-{n}"));
        }
        std::fs::rename(&self.path, &aside).map_err(StateError::io(&self.path))?;
        sync_folder(self.path.parent().unwrap_or(Path::new("")))?;
        tracing::info!(
            "`{}` was taken over; what it held is kept in `{}`",
            self.path.display(),
            aside.display()
        );
        Ok(())
    }
}
