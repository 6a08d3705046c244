//! Whether a service is ready: asked of the peers behind it at most once a second, however often it
//! is asked itself.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use marill_net::http::HttpClient;

use crate::{
    error::{HttpError, ServingError, SessionError, StartError, refused},
    probe::ask_ready,
    secret_files::check_remaining_context,
    terms::SessionParameters,
    web::{self},
};

/// What was found holds for so long.
const HOLDS: Duration = Duration::from_secs(1);
/// A peer that says nothing for so long is not ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a service that renews itself looks at its server unasked.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// After a renewal that failed.
const TRY_AGAIN: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// The last answer to the question whether a service is ready.
#[derive(Default)]
pub(crate) struct Readiness(tokio::sync::Mutex<Option<(Instant, Result<(), &'static str>)>>);

impl Readiness {
    /// What `find` says, or said a moment ago; those who ask meanwhile wait for the one that is
    /// looking.
    pub(crate) async fn check(
        &self,
        find: impl FnOnce() -> Result<(), &'static str> + Send + 'static,
    ) -> Result<(), HttpError> {
        let mut last = self.0.lock().await;
        let found = match *last {
            Some((at, found)) if at.elapsed() < HOLDS => found,
            _ => {
                let found = tokio::task::spawn_blocking(find)
                    .await
                    .unwrap_or(Err("the service failed"));
                *last = Some((Instant::now(), found));
                found
            }
        };
        found.map_err(web::not_ready)
    }
}

/// That records can be written: a service that cannot refuses every session.
pub(crate) fn has_space(folder: &Path) -> Result<(), &'static str> {
    check_remaining_context(folder).map_err(|error| {
        tracing::error!("the service is not ready: {error}");
        "its records cannot be written: the disk is full or fails"
    })
}

/// That a peer says it is ready.
pub(crate) fn says_ready(peer: &HttpClient) -> bool {
    let answer = peer
        .clone()
        .with_limit(PATIENCE)
        .get("/ready", MAX_ANSWER_BYTES);
    answer.is_ok_and(|answer| answer.status == 200)
}

/// How a server was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Ready,
    NotReady,
    /// It serves another partition than the one that is here.
    Changed,
}

/// What a look at a server found, and why it is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) found: Found,
    pub(crate) reason: Option<String>,
}

/// What belongs to a server's partition: exchanged as a whole when the server serves another one.
pub(crate) struct Renewed<T> {
    current: RwLock<Arc<T>>,
    /// Locked while a look is taken.
    last: Mutex<Option<(Instant, Found)>>,
    /// The same for those who do not wait for a look.
    seen: Mutex<Option<Seen>>,
    hinted: Mutex<bool>,
    hint: Condvar,
}

impl<T> Renewed<T> {
    pub(crate) fn new(current: T) -> Self {
        let (last, seen, hinted, hint) = Default::default();
        Self {
            current: RwLock::new(Arc::new(current)),
            last,
            seen,
            hinted,
            hint,
        }
    }

    pub(crate) fn current(&self) -> Arc<T> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Looks at the server, unless that was done a moment ago.
    pub(crate) fn look(&self, server: &HttpClient, parameters: &SessionParameters) -> Found {
        let mut last = lock(&self.last);
        match *last {
            Some((at, found)) if at.elapsed() < HOLDS => found,
            _ => {
                let seen = find(server, parameters);
                let found = seen.found;
                *last = Some((Instant::now(), found));
                *lock(&self.seen) = Some(seen);
                found
            }
        }
    }

    /// What the last look found, without another one; none before the first, and behind a renewal.
    pub(crate) fn seen(&self) -> Option<Seen> {
        lock(&self.seen).clone()
    }

    /// Whether the last look found another partition; nobody waits here for a look.
    pub(crate) fn is_changed(&self) -> bool {
        self.seen().is_some_and(|seen| seen.found == Found::Changed)
    }

    /// A session was refused for its partition: worth a look now.
    pub(crate) fn hint(&self) {
        *lock(&self.hinted) = true;
        self.hint.notify_all();
    }

    fn wait(&self, time: Duration) {
        let hinted = lock(&self.hinted);
        let (mut hinted, _) = self
            .hint
            .wait_timeout_while(hinted, time, |hinted| !*hinted)
            .unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *hinted) {
            *lock(&self.last) = None;
        }
    }

    /// Looks again and again; where the partition has changed, `make` fetches what belongs to the
    /// new one. Sessions that run keep what they began with.
    pub(crate) fn watch(
        self: &Arc<Self>,
        of: impl Fn(&T) -> (HttpClient, SessionParameters) + Send + 'static,
        mut make: impl FnMut() -> Result<T, ServingError> + Send + 'static,
    ) -> Result<(), StartError>
    where
        T: Send + Sync + 'static,
    {
        let watched = Arc::downgrade(self);
        let look = move || {
            let mut pause = LOOK_EVERY;
            while let Some(renewed) = watched.upgrade() {
                renewed.wait(pause);
                pause = LOOK_EVERY;
                let (server, parameters) = of(&renewed.current());
                if renewed.look(&server, &parameters) != Found::Changed {
                    continue;
                }
                tracing::info!("the server serves another partition: it is fetched");
                match make() {
                    Ok(new) => {
                        *renewed
                            .current
                            .write()
                            .unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                        *lock(&renewed.last) = None;
                        *lock(&renewed.seen) = None;
                        tracing::info!("the new partition is in use");
                    }
                    Err(error) => {
                        tracing::warn!("the new partition cannot be used yet: {error}");
                        pause = TRY_AGAIN;
                    }
                }
            }
        };
        let spawned = std::thread::Builder::new().name("watch".into()).spawn(look);
        spawned.map(drop).map_err(StartError::Thread)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the server is ready for sessions under these parameters, as far as its list of models
/// tells.
fn find(server: &HttpClient, parameters: &SessionParameters) -> Seen {
    const SERVER: &str = "server";
    let not_ready = |reason: String| Seen {
        found: Found::NotReady,
        reason: Some(reason),
    };
    let models = server
        .clone()
        .with_limit(PATIENCE)
        .get("/v1/models", MAX_ANSWER_BYTES);
    let models = match models {
        Ok(answer) if answer.status == 200 => answer,
        Ok(answer) => return not_ready(refused(SERVER, &answer).to_string()),
        Err(error) => return not_ready(SessionError::net(SERVER)(error).to_string()),
    };
    let served = serde_json::from_slice::<serde_json::Value>(&models.body).ok();
    let Some(candidate) = served
        .as_ref()
        .map(|models| &models["data"][0])
        .filter(|candidate| candidate.is_object())
    else {
        return not_ready("the server's list of models is not understood".into());
    };
    let ours = [
        ("partition_id", &parameters.partition_id),
        ("setting", &parameters.setting),
        ("rounding", &parameters.rounding),
        ("e0", &parameters.e0),
    ];
    let is_ours = ours
        .iter()
        .all(|(name, ours)| candidate[*name] == ours.as_str());
    if !is_ours {
        return Seen {
            found: Found::Changed,
            reason: None,
        };
    }
    match ask_ready(server, SERVER) {
        Ok(()) => Seen {
            found: Found::Ready,
            reason: None,
        },
        Err(error) => not_ready(error.to_string()),
    }
}

/// For `/ready` and for requests while another partition is fetched.
pub(crate) fn partition_changed() -> HttpError {
    let message = "the server serves another partition, which is being fetched";
    let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
    HttpError::new(status, "server_error", "partition_changed", message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_who_ask_at_once_cost_one_look() {
        let readiness = Arc::new(Readiness::default());
        let looks = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let readiness = readiness.clone();
            let looks = looks.clone();
            async move {
                let find = move || {
                    looks.fetch_add(1, Ordering::Relaxed);
                    Err("no")
                };
                readiness.check(find).await.map_err(|error| error.message)
            }
        };
        let asking: Vec<_> = (0..50).map(|_| tokio::spawn(ask())).collect();
        for asked in asking {
            assert_eq!(asked.await.unwrap(), Err("no".to_string()));
        }
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        tokio::time::sleep(HOLDS).await;
        let _ = ask().await;
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_not_ready() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(has_space(folder.path()), Ok(()));
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "nothing is left of the trial"
        );
        assert!(
            has_space(&folder.path().join("gone"))
                .unwrap_err()
                .contains("disk")
        );
        if Path::new("/dev/full").exists() {
            // A folder on a full disk cannot be made here; a file stands for it.
            assert!(has_space(Path::new("/dev/full")).is_err());
        }
    }
}
