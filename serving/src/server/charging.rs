//! Charges of a session, on disk before the step that they pay for begins.
//!
//! A disk takes milliseconds to confirm a record, so the charge of the next token is made while
//! this one is computed: a step waits for nothing that is there already. What was paid and not used
//! is given back when the session ends. A server that is killed has charged at most one token more
//! for each session that ran.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    time::SystemTime,
};

use crate::{
    error::{Refusal, ServingError, SessionError, StateError},
    state::{Principal, State},
};

type Charged = Result<Result<(), Refusal>, StateError>;

/// What one session has paid.
pub(super) struct Charging {
    state: Arc<dyn State>,
    /// None: nobody is charged.
    principal: Option<Principal>,
    /// One token's charge that is on its way to the disk.
    coming: Option<Receiver<Charged>>,
}

impl Charging {
    pub(super) fn new(state: &Arc<dyn State>, principal: Option<Principal>) -> Self {
        Self {
            state: state.clone(),
            principal,
            coming: None,
        }
    }

    /// Pays for a step of so many tokens, and begins to pay for the next one.
    ///
    /// # Errors
    /// [`SessionError::Quota`] where the budget does not cover it or the key was withdrawn; what
    /// [`State`] reports.
    pub(super) fn pay(&mut self, tokens: u64) -> Result<(), ServingError> {
        let Some(principal) = &self.principal else {
            return Ok(());
        };
        let paid = match (tokens, self.coming.take()) {
            (0, coming) => {
                self.coming = coming;
                self.state.check(principal)?
            }
            (1, Some(coming)) => match coming.recv() {
                // It may have been withdrawn since.
                Ok(Ok(Ok(()))) => self.state.check(principal)?,
                // The budget may have grown since, or the disk have room again.
                _ => self.state.charge(principal, 1, SystemTime::now())?,
            },
            (tokens, _) => self.state.charge(principal, tokens, SystemTime::now())?,
        };
        paid.map_err(SessionError::Quota)?;
        self.pay_ahead(principal.clone());
        Ok(())
    }

    /// Pays for as many of `tokens` as the budget covers, one at least; returns how many.
    ///
    /// # Errors
    /// As [`Self::pay`].
    pub(super) fn pay_up_to(&mut self, tokens: u64) -> Result<u64, ServingError> {
        let Some(principal) = &self.principal else {
            return Ok(tokens);
        };
        // One that is paid for already is the first of them.
        let coming = self.coming.take();
        let mut paid =
            u64::from(coming.is_some_and(|coming| matches!(coming.recv(), Ok(Ok(Ok(()))))));
        let mut more = tokens.saturating_sub(paid);
        while more > 0 {
            match self.state.charge(principal, more, SystemTime::now())? {
                Ok(()) => {
                    paid += more;
                    break;
                }
                Err(Refusal::BudgetSpent { .. }) if paid > 0 || more > 1 => more /= 2,
                Err(refusal) => return Err(SessionError::Quota(refusal).into()),
            }
        }
        self.state.check(principal)?.map_err(SessionError::Quota)?;
        Ok(paid)
    }

    /// Gives back what was paid in advance: no step is coming for now.
    pub(super) fn settle(&mut self) {
        let (Some(principal), Some(coming)) = (&self.principal, self.coming.take()) else {
            return;
        };
        if matches!(coming.recv(), Ok(Ok(Ok(()))))
            && let Err(error) = self.state.refund(principal, 1)
        {
            tracing::warn!(
                "one token too many stays charged to `{}`: {error}",
                principal.name
            );
        }
    }

    /// Begins to pay for the next token.
    fn pay_ahead(&mut self, principal: Principal) {
        if self.coming.is_none() {
            let state = self.state.clone();
            let (sender, receiver) = sync_channel(1);
            let charge = move || drop(sender.send(state.charge(&principal, 1, SystemTime::now())));
            if std::thread::Builder::new()
                .name("charge".into())
                .spawn(charge)
                .is_ok()
            {
                self.coming = Some(receiver);
            }
        }
    }
}

/// Gives back what was paid in advance.
impl Drop for Charging {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{FileState, Keys, Limits};

    #[test]
    fn a_session_is_charged_what_it_used_to_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let key = Keys::add(
            &keys,
            "alice",
            Limits {
                tokens: Some(20),
                ..Limits::default()
            },
        )
        .unwrap();
        let state: Arc<dyn State> = Arc::new(FileState::open(folder.path(), &keys).unwrap());
        let alice = state.principal(Some(&key)).unwrap().unwrap().unwrap();
        let used = || FileState::used(folder.path(), &alice.digest).unwrap().0;

        let mut charging = Charging::new(&state, Some(alice.clone()));
        charging.pay(16).unwrap();
        for _ in 0..2 {
            charging.pay(1).unwrap();
        }
        drop(charging);
        assert_eq!(used(), 18);
        let mut charging = Charging::new(&state, Some(alice.clone()));
        charging.pay(0).unwrap();
        charging.pay(1).unwrap();
        charging.pay(1).unwrap();
        assert!(matches!(
            charging.pay(1),
            Err(ServingError::Session(SessionError::Quota(
                Refusal::BudgetSpent { limit: 20 }
            )))
        ));
        drop(charging);
        assert_eq!(used(), 20, "the last token of a budget can be used");

        Keys::revoke(&keys, "alice").unwrap();
        let mut charging = Charging::new(&state, Some(alice.clone()));
        assert!(
            matches!(
                charging.pay(0),
                Err(ServingError::Session(SessionError::Quota(Refusal::Unknown)))
            ),
            "paid in advance or not"
        );
        let mut nobody = Charging::new(&state, None);
        nobody.pay(16).unwrap();
        assert_eq!(nobody.pay_up_to(32).unwrap(), 32);
    }

    #[test]
    fn a_preparation_is_as_large_as_the_budget() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let limits = Limits {
            tokens: Some(20),
            ..Limits::default()
        };
        let key = Keys::add(&keys, "alice", limits).unwrap();
        let state: Arc<dyn State> = Arc::new(FileState::open(folder.path(), &keys).unwrap());
        let alice = state.principal(Some(&key)).unwrap().unwrap().unwrap();
        let used = || FileState::used(folder.path(), &alice.digest).unwrap().0;

        let mut charging = Charging::new(&state, Some(alice.clone()));
        charging.pay(8).unwrap();
        // One is under way already, half of what is left fits beside it.
        assert_eq!(charging.pay_up_to(16).unwrap(), 8);
        assert_eq!(used(), 16);
        assert_eq!(charging.pay_up_to(4).unwrap(), 4);
        let error = charging.pay_up_to(1).unwrap_err();
        assert!(
            matches!(
                error,
                ServingError::Session(SessionError::Quota(Refusal::BudgetSpent { limit: 20 }))
            ),
            "{error}"
        );
        drop(charging);
        // What was prepared stays paid for.
        assert_eq!(used(), 20);
    }
}
