//! Plaintext prefixes, one per session that may run or wait at once, and the sessions that wait for
//! a further turn of their conversation, each with its prefix.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use marill_model::Prefix;

/// What waits with its prefix.
pub(super) trait Waits {
    /// Whether it has waited too long.
    fn is_over(&self) -> bool;
    /// Tokens of a prompt that it saves.
    fn saves(&self) -> usize;
}

pub(super) struct Prefixes<W>(Arc<Pool<W>>);

struct Pool<W> {
    state: Mutex<State<W>>,
    returned: Condvar,
}

struct State<W> {
    idle: Vec<Prefix>,
    /// Longest first.
    kept: VecDeque<W>,
    /// Who wants a prefix and has none.
    wanting: usize,
    /// Whether a thread ends what waits too long.
    swept: bool,
}

/// How often sessions that wait are looked at.
const LOOK: Duration = Duration::from_secs(5);

impl<W> Pool<W> {
    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Waits> State<W> {
    /// Takes out what has waited too long, to be dropped without the lock.
    fn expired(&mut self) -> VecDeque<W> {
        let all = std::mem::take(&mut self.kept);
        let (old, kept) = all.into_iter().partition(W::is_over);
        self.kept = kept;
        old
    }
}

/// Ends what has waited too long, until nothing waits: tokens and activations of a conversation do
/// not outlive its session.
fn sweep<W: Waits>(pool: &Weak<Pool<W>>) {
    loop {
        thread::sleep(LOOK);
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.lock();
        let old = state.expired();
        state.swept = !state.kept.is_empty();
        let goes_on = state.swept;
        drop(state);
        drop(old);
        if !goes_on {
            return;
        }
    }
}

impl<W: Waits> Prefixes<W> {
    pub(super) fn new(prefixes: Vec<Prefix>) -> Self {
        let state = State {
            idle: prefixes,
            kept: VecDeque::new(),
            wanting: 0,
            swept: false,
        };
        Self(Arc::new(Pool {
            state: Mutex::new(state),
            returned: Condvar::new(),
        }))
    }

    /// An empty one; ends the session that has waited longest, or waits, where none is free.
    pub(super) fn take(&self) -> Borrowed<W> {
        let mut state = self.0.lock();
        loop {
            if let Some(mut prefix) = state.idle.pop() {
                prefix.truncate(0);
                return Borrowed {
                    pool: self.0.clone(),
                    prefix: Some(prefix),
                };
            }
            let oldest = state.kept.pop_front();
            state = match oldest {
                Some(oldest) => {
                    // It gives its prefix back, for which it takes the lock.
                    drop(state);
                    drop(oldest);
                    self.0.lock()
                }
                None => {
                    state.wanting += 1;
                    let woken = self.0.returned.wait(state);
                    let mut state = woken.unwrap_or_else(PoisonError::into_inner);
                    state.wanting -= 1;
                    state
                }
            };
        }
    }

    /// Takes the session that `fits` and has most of a conversation; ends those that have waited
    /// too long.
    pub(super) fn resume(&self, fits: impl Fn(&W) -> bool) -> Option<W> {
        let mut state = self.0.lock();
        let old = state.expired();
        let places = state.kept.iter().enumerate().filter(|(_, kept)| fits(kept));
        let best = places
            .max_by_key(|(_, kept)| kept.saves())
            .map(|(at, _)| at);
        let best = best.and_then(|at| state.kept.remove(at));
        drop(state);
        drop(old);
        best
    }

    /// Lets a session wait, unless another one wants its prefix.
    pub(super) fn keep(&self, session: W)
    where
        W: Send + 'static,
    {
        let mut state = self.0.lock();
        if state.wanting > 0 {
            drop(state);
            drop(session);
            return;
        }
        state.kept.push_back(session);
        if !state.swept {
            let pool = Arc::downgrade(&self.0);
            let sweeper = thread::Builder::new().name("kept".into());
            state.swept = sweeper.spawn(move || sweep(&pool)).is_ok();
        }
    }

    /// Ends all sessions that wait.
    pub(super) fn end_all(&self) {
        let kept = std::mem::take(&mut self.0.lock().kept);
        drop(kept);
    }

    /// Sessions that wait.
    pub(super) fn kept(&self) -> usize {
        self.0.lock().kept.len()
    }
}

/// Goes back when dropped.
pub(super) struct Borrowed<W> {
    pool: Arc<Pool<W>>,
    prefix: Option<Prefix>,
}

impl<W> Deref for Borrowed<W> {
    type Target = Prefix;

    fn deref(&self) -> &Prefix {
        self.prefix.as_ref().expect("held until dropped")
    }
}

impl<W> DerefMut for Borrowed<W> {
    fn deref_mut(&mut self) -> &mut Prefix {
        self.prefix.as_mut().expect("held until dropped")
    }
}

impl<W> Drop for Borrowed<W> {
    fn drop(&mut self) {
        if let Some(mut prefix) = self.prefix.take() {
            // Activations of a prompt do not outlive its session.
            prefix.truncate(0);
            self.pool.lock().idle.push(prefix);
            self.pool.returned.notify_one();
        }
    }
}
