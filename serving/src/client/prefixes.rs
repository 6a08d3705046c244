//! Plaintext prefixes, one per session that may run at once.

use std::{
    ops::{Deref, DerefMut},
    sync::{Condvar, Mutex, PoisonError},
};

use marill_model::Prefix;

pub(super) struct Prefixes {
    idle: Mutex<Vec<Prefix>>,
    returned: Condvar,
}

impl Prefixes {
    pub(super) fn new(prefixes: Vec<Prefix>) -> Self {
        Self {
            idle: Mutex::new(prefixes),
            returned: Condvar::new(),
        }
    }

    /// Waits until one is free; it is empty.
    pub(super) fn take(&self) -> Borrowed<'_> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match idle.pop() {
                Some(mut prefix) => {
                    prefix.truncate(0);
                    return Borrowed {
                        owner: self,
                        prefix: Some(prefix),
                    };
                }
                None => {
                    idle = self
                        .returned
                        .wait(idle)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }
}

/// Goes back when dropped.
pub(super) struct Borrowed<'a> {
    owner: &'a Prefixes,
    prefix: Option<Prefix>,
}

impl Deref for Borrowed<'_> {
    type Target = Prefix;

    fn deref(&self) -> &Prefix {
        self.prefix.as_ref().expect("held until dropped")
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Prefix {
        self.prefix.as_mut().expect("held until dropped")
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(mut prefix) = self.prefix.take() {
            // Activations of a prompt do not outlive its session.
            prefix.truncate(0);
            self.owner
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(prefix);
            self.owner.returned.notify_one();
        }
    }
}
