//! Places for sessions: so many run at once, further ones wait in the order in which they came, and
//! who finds no place to wait is told when one may be free.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::error::{HttpError, SessionError};

/// How long running sessions may take to end after the first signal.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// How long a session waits for a place: shorter than the dealer keeps what it granted.
pub(crate) const SLOT_WAIT: Duration = Duration::from_secs(20);
/// Sessions that may wait for a place.
pub(crate) const MAX_WAITING: usize = 64;
/// Weight of the newest session in the mean of their times.
const NEWEST: f64 = 0.3;
const MAX_RETRY_SECONDS: f64 = 600.0;

/// Sessions that run now, each on a thread of its own, and those that wait.
pub struct Sessions {
    slots: Arc<Semaphore>,
    limit: usize,
    waiting: AtomicUsize,
    max_waiting: usize,
    draining: AtomicBool,
    times: Mutex<Times>,
    next: AtomicU64,
}

#[derive(Default)]
struct Times {
    /// When the sessions that run now began.
    running: BTreeMap<u64, Instant>,
    /// Seconds that a session takes, of those that ended last.
    mean: Option<f64>,
}

impl Sessions {
    /// Nobody waits.
    pub fn new(limit: usize) -> Arc<Self> {
        Self::with_queue(limit, 0)
    }

    /// With room for so many who wait.
    pub fn with_queue(limit: usize, max_waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            limit,
            waiting: AtomicUsize::new(0),
            max_waiting,
            draining: AtomicBool::new(false),
            times: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    pub fn active(&self) -> usize {
        self.times().running.len()
    }

    /// Sessions that may run at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// # Errors
    /// 503 while shutting down, 429 when as many sessions run as are allowed.
    pub fn admit(self: &Arc<Self>) -> Result<SessionSlot, HttpError> {
        if self.is_draining() {
            return Err(shutting_down());
        }
        // Whoever waits gets a slot that becomes free before it can be seen here.
        self.slots
            .clone()
            .try_acquire_owned()
            .map(|permit| self.slot(permit))
            .map_err(|_| self.full())
    }

    /// As [`Self::admit`]; first come, first served among those who wait, each at most for
    /// `patience`. Whoever drops the future has left the queue.
    ///
    /// # Errors
    /// As [`Self::admit`], where there is no place to wait or the patience is over.
    pub async fn admit_in_turn(
        self: &Arc<Self>,
        patience: Duration,
    ) -> Result<SessionSlot, HttpError> {
        match self.admit() {
            Err(full) if full.status == StatusCode::TOO_MANY_REQUESTS => {}
            done => return done,
        }
        let _waiting = Waiting::enter(self).ok_or_else(|| self.full())?;
        match tokio::time::timeout(patience, self.slots.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(self.slot(permit)),
            Ok(Err(_)) => Err(shutting_down()),
            Err(_) => Err(self.full()),
        }
    }

    fn slot(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> SessionSlot {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.times().running.insert(number, Instant::now());
        SessionSlot {
            sessions: self.clone(),
            number,
            _permit: permit,
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self) -> HttpError {
        let active = self.active();
        let waiting = self.waiting();
        let message = match waiting {
            0 => format!("{active} sessions run already, which is the limit"),
            waiting => {
                format!("{active} sessions run already and {waiting} wait, which is the limit")
            }
        };
        let mut full = HttpError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            "too_many_sessions",
            message,
        );
        full.retry_after_seconds = Some(self.retry_after_seconds());
        full
    }

    /// When those who wait now will have had their turn, if sessions go on taking the time that
    /// they took lately.
    pub fn retry_after_seconds(&self) -> u64 {
        let times = self.times();
        // Before the first one has ended it is known only that they take longer than they have
        // taken so far.
        let so_far = times
            .running
            .values()
            .map(|began| began.elapsed().as_secs_f64())
            .fold(0.0, f64::max);
        let each = times
            .mean
            .unwrap_or(0.0)
            .max(if times.mean.is_none() { so_far } else { 0.0 });
        let turns = (self.waiting() + 1) as f64 / self.limit.max(1) as f64;
        (each * turns).ceil().clamp(1.0, MAX_RETRY_SECONDS) as u64
    }

    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.slots.close();
        let deadline = Instant::now() + SHUTDOWN_GRACE;
        while self.active() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn shutting_down() -> HttpError {
    let message = "the service is shutting down";
    HttpError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "server_error",
        "shutting_down",
        message,
    )
}

/// Connections before their handshake. They hold no slot, so silent ones keep no client from one.
#[derive(Default)]
pub struct Lobby(Mutex<HashMap<IpAddr, usize>>);

/// Lines in a lobby, in all and of one address.
const MAX_GUESTS: usize = 512;
const MAX_OF_ADDRESS: usize = 64;

impl Lobby {
    /// # Errors
    /// 429 for a connection too many, in all or of this address.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Guest, HttpError> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = lines.values().sum::<usize>();
        let own = lines.get(&address).copied().unwrap_or(0);
        if all >= MAX_GUESTS || own >= MAX_OF_ADDRESS {
            let message = format!(
                "{own} connections of this address are before their handshake, and {all} \
                         in all"
            );
            return Err(HttpError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "too_many_lines",
                message,
            ));
        }
        lines.insert(address, own + 1);
        Ok(Guest {
            lobby: self.clone(),
            address,
        })
    }
}

/// One connection in a lobby, until it is dropped.
pub struct Guest {
    lobby: Arc<Lobby>,
    address: IpAddr,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut lines = self.lobby.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = lines.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                lines.remove(&self.address);
            }
        }
    }
}

/// The way of one connection from the lobby to a slot, on a thread of its own.
pub(crate) struct Turn {
    /// Until the first slot.
    guest: Option<Guest>,
    sessions: Arc<Sessions>,
    runtime: Handle,
}

impl Turn {
    /// For a handler of the service's runtime.
    pub(crate) fn new(guest: Guest, sessions: &Arc<Sessions>) -> Self {
        Self {
            guest: Some(guest),
            sessions: sessions.clone(),
            runtime: Handle::current(),
        }
    }

    /// For a session that was admitted without a lobby.
    pub(crate) fn again(sessions: &Arc<Sessions>) -> Self {
        Self {
            guest: None,
            sessions: sessions.clone(),
            runtime: Handle::current(),
        }
    }

    /// After the handshake, and after each rest: leaves the lobby and waits for a slot, in turn.
    ///
    /// # Errors
    /// [`SessionError::Refused`] by `service`, as [`Sessions::admit_in_turn`] says.
    pub(crate) fn take(&mut self, service: &'static str) -> Result<SessionSlot, SessionError> {
        drop(self.guest.take());
        let slot = self
            .runtime
            .block_on(self.sessions.admit_in_turn(SLOT_WAIT));
        slot.map_err(SessionError::refused_by(service))
    }
}

/// The place of a session that may rest between two turns, without a slot.
pub(crate) struct HeldSlot {
    turn: Turn,
    slot: Option<SessionSlot>,
}

impl HeldSlot {
    /// Before the first slot.
    pub(crate) fn new(turn: Turn) -> Self {
        Self { turn, slot: None }
    }

    /// With a slot already.
    pub(crate) fn taken(turn: Turn, slot: SessionSlot) -> Self {
        let slot = Some(slot);
        Self { turn, slot }
    }

    /// As [`Turn::take`]; no second slot.
    ///
    /// # Errors
    /// As [`Turn::take`].
    pub(crate) fn hold(&mut self, service: &'static str) -> Result<(), SessionError> {
        if self.slot.is_none() {
            self.slot = Some(self.turn.take(service)?);
        }
        Ok(())
    }

    /// Gives the slot back.
    pub(crate) fn release(&mut self) {
        self.slot = None;
    }
}

/// One who waits.
struct Waiting<'a>(&'a Sessions);

impl<'a> Waiting<'a> {
    fn enter(sessions: &'a Sessions) -> Option<Self> {
        let more = |waiting| (waiting < sessions.max_waiting).then_some(waiting + 1);
        sessions
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()
            .map(|_| Self(sessions))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One admitted session; given back when dropped.
pub struct SessionSlot {
    sessions: Arc<Sessions>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let mut times = self.sessions.times();
        if let Some(began) = times.running.remove(&self.number) {
            let seconds = began.elapsed().as_secs_f64();
            times.mean = Some(
                times
                    .mean
                    .map_or(seconds, |mean| mean + NEWEST * (seconds - mean)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_fills_its_own_part_of_a_lobby() {
        let lobby = Arc::<Lobby>::default();
        let greedy = [192, 0, 2, 1].into();
        let other = [192, 0, 2, 2].into();
        let guests: Vec<Guest> = (0..MAX_OF_ADDRESS)
            .map(|_| lobby.enter(greedy).unwrap())
            .collect();
        assert_eq!(
            lobby.enter(greedy).map(|_| ()).unwrap_err().code,
            Some("too_many_lines")
        );
        drop(lobby.enter(other).unwrap());
        drop(guests);
        lobby.enter(greedy).unwrap();
        assert!(lobby.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn first_come_is_first_served_and_leavers_block_nobody() {
        let sessions = Sessions::with_queue(1, 3);
        let first = sessions.admit().unwrap();
        let (sender, mut served) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting = Vec::new();
        for name in 0..3 {
            let queue = sessions.clone();
            let sender = sender.clone();
            waiting.push(tokio::spawn(async move {
                let slot = queue.admit_in_turn(Duration::from_secs(20)).await.unwrap();
                sender.send(name).unwrap();
                drop(slot);
            }));
            while waiting.len() > sessions.waiting() {
                tokio::task::yield_now().await;
            }
        }
        let refused = sessions
            .admit_in_turn(Duration::from_secs(20))
            .await
            .map(|_| ())
            .unwrap_err();
        assert!(
            refused
                .message
                .contains("1 sessions run already and 3 wait"),
            "{}",
            refused.message
        );
        assert!(sessions.admit().is_err(), "nobody overtakes");
        waiting.remove(1).abort();
        drop(first);
        assert_eq!(
            (served.recv().await, served.recv().await),
            (Some(0), Some(2))
        );
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!((sessions.active(), sessions.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_patience_or_with_the_service() {
        let sessions = Sessions::with_queue(1, 2);
        let slot = sessions.admit().unwrap();
        let late = sessions
            .admit_in_turn(Duration::from_millis(20))
            .await
            .map(|_| ())
            .unwrap_err();
        assert_eq!(
            (late.status, late.code),
            (StatusCode::TOO_MANY_REQUESTS, Some("too_many_sessions"))
        );
        let waiting = tokio::spawn({
            let sessions = sessions.clone();
            async move {
                sessions
                    .admit_in_turn(Duration::from_secs(20))
                    .await
                    .map(|_| ())
                    .unwrap_err()
            }
        });
        while sessions.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let draining = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.drain().await }
        });
        assert_eq!(waiting.await.unwrap().code, Some("shutting_down"));
        drop(slot);
        draining.await.unwrap();
        assert_eq!(
            sessions.admit().map(|_| ()).unwrap_err().status,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }

    #[test]
    fn the_time_to_come_back_grows_with_queue_and_sessions() {
        let sessions = Sessions::with_queue(2, 100);
        assert_eq!(sessions.retry_after_seconds(), 1);
        sessions.times().mean = Some(8.0);
        sessions.waiting.store(9, Ordering::Relaxed);
        assert_eq!(
            sessions.retry_after_seconds(),
            40,
            "ten turns of 8 s, two at once"
        );
        sessions.waiting.store(0, Ordering::Relaxed);
        assert_eq!(sessions.retry_after_seconds(), 4);
        sessions.times().mean = None;
        let began = Instant::now().checked_sub(Duration::from_secs(30)).unwrap();
        sessions.times().running.insert(0, began);
        assert!(
            (15..=17).contains(&sessions.retry_after_seconds()),
            "one that runs for 30 s tells as much"
        );
    }
}
