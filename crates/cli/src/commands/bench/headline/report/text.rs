//! What the page says around its tables.

use marill_report::bytes;

use crate::commands::bench::headline::{
    counts::{Counts, cost_without_ends},
    forms::{FORMS, Step, Weights},
};

pub const BEGINNING: &str = "\
# An ordinary full fine-tune against Marill's form, cell by cell

Made by `marill bench headline --minutes 0 --report FILE` from the cells in
[headline/cost-cells](headline/cost-cells); a test holds that this page is what they give. A cell
that was not run says so, and nothing is extrapolated from another.

Shape: SmolLM2-135M (30 layers, hidden 576, 9 query and 3 key-value heads of 64, MLP 1,536,
vocabulary 49,152), random weights, rounding `exact`, one-hot comparisons, a greedy token. The
*ordinary full fine-tune* keeps all 30 layers private at full rank, one softmax per head.
*Marill's form* has the first 15, 20 or 23 layers public at the client, rank 8 on every map of the
others, 9 heads merged to 3. *15/30 frozen alone*, *rank 8 alone* and *9 to 3 heads alone* change
one thing each.

Products with private weights are made in two ways:

- **masked once**, Marill's own engine: the client holds `W + R` from the first session on, and
  nothing of a weight travels afterwards ([full fine-tunes](../full-fine-tunes.md)). It has no
  private embedding and no private output head: both are public here, in the ordinary fine-tune too.
- **opened in each call**, a baseline that exists in `marill bench` only: a Beaver triple for every
  product, both masked factors opened, as CrypTen 0.4.1 does
  (`crypten/mpc/primitives/beaver.py`; Beaver, CRYPTO '91). A product of `n` rows with a matrix of
  `k x m` sends `8 (n k + k m)` bytes each way in every call. Everything else is Marill's engine, at
  the same numeric specification, so the two differ in that alone. Embedding (a product with
  one-hot rows) and head are private in the ordinary fine-tune and in *9 to 3 heads alone*; behind a
  frozen prefix and under rank 8 they are public, since they are one matrix in this model. Maps with
  the same input share its opening, and independent products one round: both are kinder to the
  baseline than CrypTen itself.

Settings: in `dealer` all correlations are at the server before the step begins, and are counted as
offline; in `3pc` the third party sends them while the step runs, and they count as online. The
evaluators' protocol is the same. `2pc` has a table of its own.

Server, dealer and client are separate processes over WebSockets on loopback, one thread each, on
one machine. *LAN* is 0.2 ms and 10 Gbps, *WAN* 40 ms and 200 Mbps (round trip, each direction).
";

pub const RATIOS: &str = "\
An ordinary full fine-tune takes so many times what Marill's form takes. Bytes and rounds are exact.
Time is the client's wait for the step, its public layers included; over LAN and WAN computed.";

pub const GOALS: &str = "\
The published upper ends are 11.3 times less time and 6.9 times fewer bytes (arXiv 2408.03561),
against protocols that pay for secret matrices in every call. Marill at 15/30 against the ordinary
fine-tune, weights opened in each call on both sides. Bytes are exact; times are single runs under
load (see Seconds), so `reached` says it of these cells only:";

pub const TECHNIQUES: &str = "\
An ordinary full fine-tune takes so many times what is left with one technique, and with all.";

pub const SECONDS: &str = "\
Per token (averaged over four) or for the prompt: public layers, then the step; in `3pc` also the
products that the client makes before it. With opened weights the step is the sum of two measured
stretches, the session without private maps and the products by themselves, in the same processes.
Each cell is one run; the load is that of the minute before it. Cells that should be about equal
differ by up to two fifths at loads as high as these, and so may every ratio of times. The products'
correlations are expanded from seeds inside their stretch, also in `dealer`, where the engine's own
are ready before the step: this makes opened weights look slower than they need be.";

pub const COUNTS: &str = "\
Exact, counted over shapes. Every cell checks its session against them; the bytes of the products
with opened weights follow from their shapes by a formula that a test holds against a real product.
What the dealer sends is offline in `dealer` and online in `3pc`.";

pub const LINKS: &str = "\
Computed is the loopback cell plus rounds x one-way delay plus the busier direction's bytes over the
bandwidth; in `3pc` the dealer's bytes travel beside, on a link of their own, and the longer of both
counts. Marill's form at 15/30, prompt of 64:";

pub const PEERS: &str = "\
One SmolLM2-135M block with inputs and weights secret. SecretFlow SPU 0.9.5 and CrypTen 0.4.1 were
measured on a quiet machine of this kind, parties as separate processes over loopback on two cores;
their TFP settings send no correlations at all (one party knows every mask), and their fixed point
differs from ours, so this is orientation. Ours are counted: a middle block of the ordinary
fine-tune. Thirty blocks under ABY3 took about 18 s per token.";

pub const END: &str = "\
The quality of the forms is not compared here. A tokenizer, the network of the dealer to the client
and the one-time transfer of masked weights (760 MB for the ordinary fine-tune, 9.8 MB for Marill at
15/30, both masked once) are outside a step.";

/// What private ends add to the ordinary fine-tune of the baseline.
///
/// # Errors
/// What counting reports.
pub fn public_ends(counts: &Counts) -> anyhow::Result<String> {
    let weights = Weights::OpenedEachCall;
    let mut parts = Vec::new();
    for step in Step::ALL {
        let public = cost_without_ends(&FORMS[0], weights, step)?.e0_to_e1_bytes;
        let marill = counts.of(weights, "marill-15", step).e0_to_e1_bytes;
        let ratio = public as f64 / marill as f64;
        parts.push(format!(
            "{} for a {step} ({ratio:.1} times Marill's at 15/30)",
            bytes(public)
        ));
    }
    Ok(format!(
        "With embedding and head public the client of the baseline's ordinary fine-tune would send \
         {}.",
        parts.join(", ")
    ))
}
