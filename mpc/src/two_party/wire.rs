//! Wires of two parties: shares, and what was opened of them.

use marill_numeric::RingTensor;

/// A value that products take: a share, and where both parties opened the value under a mask, that
/// too.
#[derive(Clone)]
pub struct Wire {
    pub(super) share: RingTensor,
    pub(super) opened: Option<Opened>,
}

/// `x + r`, which both parties know, and this party's share of `r`.
#[derive(Clone)]
pub(super) struct Opened {
    pub sum: RingTensor,
    pub mask: RingTensor,
}

impl Wire {
    /// A share of which nothing was opened.
    pub(super) fn closed(share: RingTensor) -> Self {
        Self {
            share,
            opened: None,
        }
    }

    fn map(&self, f: impl Fn(&RingTensor) -> RingTensor) -> Self {
        Self {
            share: f(&self.share),
            opened: self.opened.as_ref().map(|opened| Opened {
                sum: f(&opened.sum),
                mask: f(&opened.mask),
            }),
        }
    }

    pub(super) fn columns(&self, first: usize, count: usize) -> Self {
        self.map(|x| x.columns(first, count))
    }

    pub(super) fn last_row(&self) -> Self {
        self.map(RingTensor::last_row)
    }

    /// Keeps the first rows alone.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.share.truncate(rows);
        if let Some(opened) = &mut self.opened {
            opened.sum.truncate(rows);
            opened.mask.truncate(rows);
        }
    }

    /// Puts rows behind the present ones; what was opened of one part alone is of no use.
    pub(super) fn append(&mut self, rows: &Self) {
        self.share.append(&rows.share);
        match (&mut self.opened, &rows.opened) {
            (Some(all), Some(more)) => {
                all.sum.append(&more.sum);
                all.mask.append(&more.mask);
            }
            (all, _) => *all = None,
        }
    }
}
