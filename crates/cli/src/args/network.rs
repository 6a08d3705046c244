//! Networks by name, or as `RTTms/Mbps`.

use marill_net::Link;
use marill_plan::Network;

use crate::output::failure::BadInput;

/// A link by name, or `RTTms/Mbps`; none for `none`.
///
/// # Errors
/// [`BadInput`] for anything else.
pub fn link(text: &str) -> anyhow::Result<Option<Link>> {
    let found = Network::named(text).map_err(|error| BadInput(error.into()))?;
    Ok(found.map(|network| Link {
        one_way_delay: network.one_way_delay,
        bits_per_second: network.bits_per_second as u64,
    }))
}

/// The link as the choice of a comparison protocol sees it.
pub fn network(link: &Link) -> Network {
    Network {
        one_way_delay: link.one_way_delay,
        bits_per_second: link.bits_per_second as f64,
    }
}
