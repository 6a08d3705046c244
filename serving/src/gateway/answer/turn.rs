//! An answer that has its turn here and waits for a slot at the server.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::error::{ServingError, SessionError};

/// How long an answer that has its turn here waits for a slot at the server, and between two tries.
const SLOT_PATIENCE: Duration = Duration::from_secs(120);

const MIN_PAUSE: Duration = Duration::from_millis(500);

const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Where the server has no slot, or the dealer no place, the answer waits for one, as those before
/// it at this gateway did.
pub(super) fn in_turn<T, Update>(
    updates: &mpsc::UnboundedSender<Update>,
    mut open: impl FnMut() -> Result<T, ServingError>,
) -> Result<T, ServingError> {
    let deadline = Instant::now() + SLOT_PATIENCE;
    loop {
        let full = match open() {
            Err(full @ ServingError::Session(SessionError::Refused { .. }))
                if is_full_rank(&full) =>
            {
                full
            }
            done => return done,
        };
        let pause = full
            .retry_after_seconds()
            .map_or(MIN_PAUSE, Duration::from_secs)
            .clamp(MIN_PAUSE, MAX_PAUSE);
        let again = Instant::now() + pause;
        while Instant::now() < again {
            // Who has hung up does not wait.
            if updates.is_closed() || again > deadline {
                return Err(full);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn is_full_rank(error: &ServingError) -> bool {
    matches!(
        error,
        ServingError::Session(SessionError::Refused { code, .. })
            if code == "too_many_sessions" || code == "too_many_grants"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ClientError;

    #[test]
    fn a_full_server_is_waited_for_as_long_as_the_client_listens() {
        let full = || {
            ServingError::from(SessionError::Refused {
                by: "server",
                code: "too_many_sessions".into(),
                message: "full".into(),
                retry_after_seconds: Some(1),
            })
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut tries = 0;
        let other = in_turn::<(), ()>(&sender, || {
            tries += 1;
            Err(if tries < 2 {
                full()
            } else {
                ClientError::PromptEmpty.into()
            })
        });
        assert!(tries == 2 && matches!(other, Err(ServingError::Client(ClientError::PromptEmpty))));
        drop(receiver);
        let mut tries = 0;
        let left = in_turn::<(), ()>(&sender, || {
            tries += 1;
            Err(full())
        });
        assert!(
            tries == 1
                && matches!(
                    left,
                    Err(ServingError::Session(SessionError::Refused { .. }))
                ),
            "who has hung up holds nobody up"
        );
    }
}
