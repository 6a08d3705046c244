//! E0's products of masks, made while the session computes or waits for its peers.

use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use marill_mpc::{PrecomputedStep, Precomputer};

/// Steps that lie ready beside the one that is being made: all that an answer which ends early
/// makes in vain.
const READY: usize = 1;

/// Products for the tokens to come, from a thread that ends with this.
pub(super) struct PrecomputedSteps(Receiver<PrecomputedStep>);

impl PrecomputedSteps {
    /// None when the system gives no thread: the session then makes its products itself.
    pub(super) fn start(mut precomputer: Precomputer) -> Option<Self> {
        let (sender, receiver) = sync_channel(READY);
        let make = move || {
            while let Ok(step) = precomputer.next_decode() {
                if sender.send(step).is_err() {
                    break;
                }
            }
        };
        match thread::Builder::new().name("masks".into()).spawn(make) {
            Ok(_) => Some(Self(receiver)),
            Err(error) => {
                tracing::warn!("nothing is precomputed for this session: {error}");
                None
            }
        }
    }

    /// What is there by now.
    pub(super) fn ready(&self) -> impl Iterator<Item = PrecomputedStep> {
        self.0.try_iter()
    }
}
