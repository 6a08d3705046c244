//! Names that requests are given here.

use marill_mpc::Seed;
use marill_net::RequestId;

/// A fresh name.
pub(crate) fn fresh() -> RequestId {
    let random = Seed::random().to_bytes();
    RequestId::of(*random.first_chunk().expect("a seed has 32 bytes"))
}
