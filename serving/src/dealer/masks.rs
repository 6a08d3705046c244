//! One adapter mask for each owner, client and adapter, the same at every session, so that a client
//! downloads its masked adapter once.
//!
//! A mask's seed is a pseudorandom function of (owner, client, digest of the private weights) under
//! one key of the dealer's, which nobody else knows: there is no record that grows, that a crash
//! tears or that two processes write. Two owners never share a mask, whatever digests and client
//! names they use. Whoever gets the key and a client's masked adapter has the adapter, as with any
//! record of masks.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use marill_mpc::{MatrixMasks, ProgramSpec, Seed};
use marill_numeric::unhex;
use zeroize::Zeroize;

use crate::{error::StateError, secret_files::read_or_create_key};

/// The key of all masks, in the dealer's folder.
const KEY_FILE: &str = "masks.key";
/// What kept masks before; it is read no more.
const FORMER_FILE: &str = "masks";

/// Under these names stand masks that several clients share; no client has them, since theirs are
/// hexadecimal.
pub(crate) enum MaskScope<'a> {
    /// One client.
    Client(&'a str),
    /// All clients of a partition with private full-rank weights: their views together are then the
    /// view of one.
    AllClients,
    /// Whoever will use a preprocessed session. All clients then hold the same masked matrix, which
    /// is uniform and tells them nothing, also together.
    Preprocessed,
}

impl MaskScope<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Client(id) => id,
            Self::AllClients => "everybody",
            Self::Preprocessed => "ahead",
        }
    }
}

pub(crate) struct Masks {
    key: Seed,
    /// Masks of full-rank weights by the name of their seed: one set, hundreds of megabytes.
    expanded: Mutex<Option<([u8; 32], MatrixMasks)>>,
}

impl Masks {
    pub(crate) fn open(state: &Path) -> Result<Self, StateError> {
        let path = state.join(KEY_FILE);
        let text = read_or_create_key(&path)?;
        let damaged = || {
            StateError::io(&path)(std::io::Error::other(
                "it is not a key of 64 hexadecimal digits",
            ))
        };
        let mut bytes = unhex::<32>(&text).ok_or_else(damaged)?;
        let key = Seed::from_bytes(bytes);
        bytes.zeroize();
        let former = state.join(FORMER_FILE);
        if former.exists() {
            tracing::warn!(
                "`{}` is of an earlier version and is not read any more: delete it",
                former.display()
            );
        }
        Ok(Self {
            key,
            expanded: Mutex::default(),
        })
    }

    /// What a seed expands to, shared by the sessions of one partition.
    pub(crate) fn expanded(&self, spec: &ProgramSpec, seed: &Seed) -> MatrixMasks {
        if !spec.is_full_rank() {
            return MatrixMasks::expand(spec, seed);
        }
        let name = seed.derive("name").to_bytes();
        let mut kept = self.expanded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, masks)) = kept.as_ref()
            && *of == name
        {
            return masks.clone();
        }
        let masks = MatrixMasks::expand(spec, seed);
        *kept = Some((name, masks.clone()));
        masks
    }

    /// The seed for this owner, scope and adapter. No part may hold a line feed: names of owners,
    /// hexadecimal ids and digests do not.
    pub(crate) fn seed(
        &self,
        owner: &str,
        principal: &MaskScope<'_>,
        private_sha256: &str,
    ) -> Seed {
        debug_assert!(
            ![owner, principal.name(), private_sha256]
                .concat()
                .contains('\n')
        );
        self.key.derive(&format!(
            "adapter mask\n{owner}\n{}\n{private_sha256}",
            principal.name()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_belongs_to_one_owner_client_and_adapter() {
        let folder = tempfile::tempdir().unwrap();
        let alice = "a1".repeat(32);
        let private = "0f".repeat(32);
        let of = |owner: &str, principal: MaskScope<'_>, private: &str| {
            Masks::open(folder.path())
                .unwrap()
                .seed(owner, &principal, private)
                .to_bytes()
        };
        let first = of("default", MaskScope::Client(&alice), &private);
        assert_eq!(of("default", MaskScope::Client(&alice), &private), first);
        let others = [
            of("another", MaskScope::Client(&alice), &private),
            of("default", MaskScope::Client(&"b2".repeat(32)), &private),
            of("default", MaskScope::Client(&alice), &"1f".repeat(32)),
            of("default", MaskScope::AllClients, &private),
            of("another", MaskScope::AllClients, &private),
            of("default", MaskScope::Preprocessed, &private),
        ];
        for (i, other) in others.iter().enumerate() {
            assert!(*other != first && !others[..i].contains(other), "{i}");
        }
    }
}
