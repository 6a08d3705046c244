//! What was counted of a program, for all sessions of a process: each would count it again.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::error::ProtocolResult;

/// How many programs are remembered: those of a process that serves several, or of a plan's forms.
const MOST: usize = 256;

/// Values by key, the last ones that were asked for first.
pub(super) struct Memo<K, V>(Mutex<VecDeque<(K, V)>>);

impl<K: PartialEq, V: Copy> Memo<K, V> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// The value of a key. It is made without a lock: who makes it may work for others meanwhile,
    /// who ask for the same one. Then it is made twice, and is the same.
    ///
    /// # Errors
    /// What `make` reports, which is not remembered.
    pub(super) fn of(&self, key: K, make: impl FnOnce() -> ProtocolResult<V>) -> ProtocolResult<V> {
        let value = match self.known(&key) {
            Some(value) => value,
            None => make()?,
        };
        let mut all = locked(&self.0);
        all.retain(|(of, _)| *of != key);
        all.push_front((key, value));
        all.truncate(MOST);
        Ok(value)
    }

    fn known(&self, key: &K) -> Option<V> {
        let all = locked(&self.0);
        all.iter()
            .find(|(of, _)| of == key)
            .map(|(_, value)| *value)
    }
}

/// A thread that panicked left whole values.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ProtocolError;

    #[test]
    fn a_value_is_made_once_and_an_error_is_not_remembered() {
        let memo = Memo::new();
        assert!(memo.of(1, || Err::<u32, _>(ProtocolError::Spent)).is_err());
        assert_eq!(memo.of(1, || Ok(7)).unwrap(), 7);
        assert_eq!(memo.of(1, || unreachable!("it is there")).unwrap(), 7);
    }

    #[test]
    fn what_was_not_asked_for_longest_goes() {
        let memo = Memo::new();
        for key in 0..MOST {
            memo.of(key, || Ok(key)).unwrap();
        }
        memo.of(0, || unreachable!("it is there")).unwrap();
        memo.of(MOST, || Ok(MOST)).unwrap();
        memo.of(0, || unreachable!("it was the last but one"))
            .unwrap();
        assert_eq!(memo.of(1, || Ok(100)).unwrap(), 100, "it was the oldest");
    }
}
