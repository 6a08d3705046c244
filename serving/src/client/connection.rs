//! Connections to the other parties.

use std::time::Duration;

use marill_net::{Metered, SharedChannel, WebSocketChannel};

pub(super) const SERVER: &str = "server";

pub(super) const DEALER: &str = "dealer";

/// The longest silence of the server within a step.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(120);

pub(super) type Peer = SharedChannel<Metered<WebSocketChannel>>;
