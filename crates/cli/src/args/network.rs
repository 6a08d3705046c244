//! Networks by name, or as `RTTms/Mbps`.

use std::time::Duration;

use anyhow::anyhow;
use marill_mpc::tally::Network;
use marill_net::Link;

use crate::output::failure::BadInput;

/// A link by name, or `RTTms/Mbps`; none for `none`.
///
/// # Errors
/// [`BadInput`] for anything else.
pub fn link(text: &str) -> anyhow::Result<Option<Link>> {
    let shaped = |round_trip_ms: f64, mbps: f64| Link {
        one_way_delay: Duration::from_secs_f64(round_trip_ms / 2e3),
        bits_per_second: (mbps * 1e6) as u64,
    };
    match text {
        "none" => return Ok(None),
        "lan" => return Ok(Some(shaped(0.2, 10_000.0))),
        "wan" => return Ok(Some(shaped(40.0, 200.0))),
        _ => {}
    }
    let parts = text
        .split_once('/')
        .and_then(|(rtt, mbps)| Some((rtt.parse().ok()?, mbps.parse().ok()?)));
    match parts {
        Some((rtt, mbps)) if (0.0..=1e5).contains(&rtt) && (1e-3..=1e6).contains(&mbps) => {
            Ok(Some(shaped(rtt, mbps)))
        }
        _ => Err(BadInput(anyhow!(
            "`{text}` is no network\nhint: none, lan, wan, or RTTms/Mbps such as 10/500"
        ))
        .into()),
    }
}

/// The link as the choice of a comparison protocol sees it.
pub fn network(link: &Link) -> Network {
    Network {
        one_way_delay: link.one_way_delay,
        bits_per_second: link.bits_per_second as f64,
    }
}
