//! An adapter under encryption: the owner's key, and what one client holds.

use std::{collections::BTreeMap, sync::Arc};

use marill_lattice::{Client, PackingKeys, PublicKey, Received, Server, Upload};
use marill_numeric::hex;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    pieces::checked,
    shape::{SET, Shape},
};
use crate::{
    error::{ProtocolError, ProtocolResult},
    spec::ProgramSpec,
    weights::PrivateWeights,
};

/// E1's key to what one client holds of one adapter. It decrypts what that client sends, and never
/// leaves the server. Erased when dropped, never printed.
pub struct AdapterKey {
    pub(super) client: Client,
    pub(super) shape: Shape,
}

/// An adapter under its owner's key, at E0: uniform to whoever has no key, by RLWE.
pub struct EncryptedAdapter {
    pub(super) server: Server,
    pub(super) packing: PackingKeys,
    /// By width of the ring.
    pub(super) received: BTreeMap<u32, Received>,
    pub(super) shape: Shape,
    digest: String,
}

impl AdapterKey {
    /// A fresh key, and the adapter under it: what [`EncryptedAdapter::from_bytes`] reads. One key
    /// belongs to one client and one adapter.
    ///
    /// # Errors
    /// [`ProtocolError::NoLattice`] for a program without private updates of public maps, or too
    /// wide for the parameters.
    pub fn encrypt(
        spec: &ProgramSpec,
        private: &PrivateWeights,
    ) -> ProtocolResult<(Arc<Self>, Vec<u8>)> {
        let shape = checked(spec)?;
        if private.lora.len() != spec.num_maps() {
            return Err(ProtocolError::AdapterMismatch);
        }
        // A key of nobody else's, from the operating system.
        let client = Client::new(SET);
        let mut bytes = client.public_key();
        bytes.extend(client.packing_keys(shape.least_vectors())?);
        for (bits, values) in shape.values(private) {
            let values: Vec<_> = values.into_iter().map(Zeroizing::new).collect();
            let values: Vec<&[u64]> = values.iter().map(|v| v.as_slice()).collect();
            bytes.extend(client.upload(&shape.uploads[&bits], &values));
        }
        Ok((Arc::new(Self { client, shape }), bytes))
    }
}

impl EncryptedAdapter {
    /// Bytes of an adapter of this program.
    ///
    /// # Errors
    /// As [`AdapterKey::encrypt`].
    pub fn bytes_of(spec: &ProgramSpec) -> ProtocolResult<usize> {
        Ok(Self::lengths(&checked(spec)?).iter().sum())
    }

    /// Bytes of the public key, of the keys for packing, and of each ring's ciphertexts.
    fn lengths(shape: &Shape) -> Vec<usize> {
        let keys = [
            PublicKey::bytes(SET),
            PackingKeys::bytes(SET, shape.least_vectors()),
        ];
        let rings = shape.uploads.values().map(Upload::request_bytes);
        keys.into_iter().chain(rings).collect()
    }

    /// # Errors
    /// [`ProtocolError::Lattice`] for another length or shape, and for residues that are none;
    /// as [`AdapterKey::encrypt`].
    pub fn from_bytes(spec: &ProgramSpec, bytes: &[u8]) -> ProtocolResult<Self> {
        let shape = checked(spec)?;
        let lengths = Self::lengths(&shape);
        if bytes.len() != lengths.iter().sum::<usize>() {
            return Err(ProtocolError::AdapterMismatch);
        }
        let mut rest = bytes;
        let mut parts = lengths.into_iter().map(|length| {
            let (part, tail) = rest.split_at(length);
            rest = tail;
            part
        });
        let mut part = || parts.next().expect("a length for each part");
        // The parts in the order in which they were written.
        let server = Server::new(SET, part())?;
        let packing = PackingKeys::from_bytes(SET, shape.least_vectors(), part())?;
        let received = shape
            .uploads
            .iter()
            .map(|(bits, upload)| Ok((*bits, server.receive(upload, part())?)))
            .collect::<ProtocolResult<_>>()?;
        Ok(Self {
            server,
            packing,
            received,
            shape,
            digest: hex(&Sha256::digest(bytes)),
        })
    }

    /// SHA-256 of its bytes in hex, for caching.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}
