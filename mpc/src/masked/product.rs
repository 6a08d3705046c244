//! Bilinear products of two wires: element-wise, attention scores, weighted sums of values.
//!
//! With `x = x̂ - r_x` and `y = ŷ - r_y`, everything but `r_x · r_y` is local to the evaluators;
//! that term the dealer knows, and the share carries it as a deferred `Term`.

use marill_numeric::ring;

use crate::{
    engine::Attention,
    kernels::{attention_scores, attention_values},
    masked::{
        Masked, Role,
        share::{Share, Wire},
    },
};

impl Masked {
    /// `Σ` of products of wire elements: `dealer` is the same sum over masks, which is deferred.
    /// Evaluators hold `Σ x̂·[y]_p - ŷ·[r_x]_p`, given as `own`.
    pub(super) fn bilinear(
        &self,
        (rows, cols): (usize, usize),
        bits: u32,
        dealer: impl FnOnce() -> Vec<u64>,
        own: impl FnOnce(&Self) -> Vec<u64>,
    ) -> Share {
        let data = match &self.role {
            Role::Dealer(_) => dealer(),
            Role::Evaluator(_) => own(self),
            Role::Tally(_) => Vec::new(),
        };
        self.with_term_deferred(rows, cols, bits, data)
    }

    pub(super) fn mul(&self, x: &Wire, y: &Wire) -> Share {
        let own = |this: &Self| {
            let y_share = this.share(y);
            // x̂·[y] - ŷ·[r_x].
            let value = |i: usize| (x.x_hat(i) * y_share.at(i) - y.x_hat(i) * x.r_p(i)).0;
            (0..x.len()).map(value).collect()
        };
        self.bilinear(
            (x.rows, x.cols),
            x.bits.min(y.bits),
            || (0..x.len()).map(|i| (x.r(i) * y.r(i)).0).collect(),
            own,
        )
    }

    pub(super) fn scores(&self, q: &Wire, k: &Wire, a: &Attention<'_>) -> Share {
        let own = |this: &Self| {
            // q̂·[k] - [r_q]·k̂.
            let mut left = attention_scores(q.opened(), &this.share(k).data, a);
            let right = attention_scores(q.half(), k.opened(), a);
            ring::subtract_from(&mut left, &right);
            left
        };
        let cols = a.lens().iter().sum();
        // r_q·r_k, deferred.
        self.bilinear(
            (1, cols),
            q.bits.min(k.bits),
            || attention_scores(q.mask(), k.mask(), a),
            own,
        )
    }

    pub(super) fn weighted_values(&self, w: &Wire, v: &Wire, a: &Attention<'_>) -> Share {
        let own = |this: &Self| {
            // ŵ·[v] - [r_w]·v̂.
            let mut left = attention_values(w.opened(), &this.share(v).data, a);
            let right = attention_values(w.half(), v.opened(), a);
            ring::subtract_from(&mut left, &right);
            left
        };
        let shape = (a.rows, a.num_attention_heads * a.head_dim);
        // r_w·r_v, deferred.
        self.bilinear(
            shape,
            w.bits.min(v.bits),
            || attention_values(w.mask(), v.mask(), a),
            own,
        )
    }
}
