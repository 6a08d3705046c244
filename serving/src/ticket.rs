//! Tickets: a server's word to its dealer that a client may open one session.
//!
//! A dealer serves owners of models, not the world: it hands out seeds only to whoever shows a
//! ticket that an owner's server has signed (HMAC-SHA256 under a key derived from the owner's
//! `server.key`). The server signs for users of its API keys, or for everyone where it asks for
//! none. A ticket names its principal and its client by pseudonyms that only the server can
//! resolve, so that the dealer can limit each of them. It buys one session; the dealer records its
//! nonce.

use marill_numeric::{hex, unhex};
use ring::hmac;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{error::StateError, secret_files::random};

/// Hexadecimal throughout.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// Public name of the owner whose server signed, 8 bytes.
    pub owner: String,
    /// 16 random bytes.
    pub nonce: String,
    /// Pseudonym of the API key's principal, or of the address where no keys are asked for; 16
    /// bytes.
    #[serde(rename = "holder")]
    pub principal: String,
    /// Pseudonym of the client's random name, 16 bytes.
    pub client: String,
    /// Over all of the above.
    pub mac: String,
}

impl Ticket {
    fn text(&self) -> String {
        format!(
            "ticket 1\n{}\n{}\n{}\n{}",
            self.owner, self.nonce, self.principal, self.client
        )
    }

    fn is_proper(&self) -> bool {
        unhex::<8>(&self.owner).is_some()
            && [&self.nonce, &self.principal, &self.client]
                .into_iter()
                .all(|text| unhex::<16>(text).is_some())
    }
}

/// Who a ticket is for.
pub enum For<'a> {
    /// The principal of an API key, by its digest.
    Key(&'a [u8; 32]),
    /// Anyone at this address.
    Address(std::net::IpAddr),
}

/// What an owner's key can do: both ends of a ticket hold it.
pub struct Signer {
    owner: String,
    key: hmac::Key,
}

impl Signer {
    /// From the text of an owner's `server.key`.
    #[must_use]
    pub fn new(owner_key: &str) -> Self {
        let derive = |purpose: &str| {
            Sha256::new()
                .chain_update(purpose)
                .chain_update(owner_key)
                .finalize()
        };
        let owner = hex(&derive("marill owner\n")[..8]);
        Self {
            owner,
            key: hmac::Key::new(hmac::HMAC_SHA256, &derive("marill tickets\n")),
        }
    }

    /// The owner's public name.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    fn pseudonym(&self, kind: &str, name: &[u8]) -> String {
        let text = [kind.as_bytes(), b"\n", name].concat();
        hex(&hmac::sign(&self.key, &text).as_ref()[..16])
    }

    /// # Errors
    /// [`StateError::Random`].
    pub fn issue(&self, whose: &For<'_>, client_id: &str) -> Result<Ticket, StateError> {
        let principal = match whose {
            For::Key(digest) => self.pseudonym("key", digest.as_slice()),
            For::Address(address) => self.pseudonym("address", address.to_string().as_bytes()),
        };
        let mut ticket = Ticket {
            owner: self.owner.clone(),
            nonce: hex(random::<16>()?.as_slice()),
            principal,
            client: self.pseudonym("client", client_id.as_bytes()),
            mac: String::new(),
        };
        ticket.mac = hex(hmac::sign(&self.key, ticket.text().as_bytes()).as_ref());
        Ok(ticket)
    }

    /// Whether a ticket names this client.
    #[must_use]
    pub fn is_for(&self, ticket: &Ticket, client_id: &str) -> bool {
        ticket.client == self.pseudonym("client", client_id.as_bytes())
    }

    /// Whether this owner's server signed it.
    #[must_use]
    pub fn signed(&self, ticket: &Ticket) -> bool {
        let mac =
            unhex::<32>(&ticket.mac).filter(|_| ticket.is_proper() && ticket.owner == self.owner);
        mac.is_some_and(|mac| hmac::verify(&self.key, ticket.text().as_bytes(), &mac).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_its_owners_and_no_field_of_it_can_be_changed() {
        let ours = Signer::new("key a");
        let theirs = Signer::new("key b");
        let ticket = ours.issue(&For::Key(&[1; 32]), "client").unwrap();
        assert!(ours.signed(&ticket) && !theirs.signed(&ticket));
        let fields: [fn(&mut Ticket) -> &mut String; 5] = [
            |t| &mut t.owner,
            |t| &mut t.nonce,
            |t| &mut t.principal,
            |t| &mut t.client,
            |t| &mut t.mac,
        ];
        for field in fields {
            let mut changed = ticket.clone();
            let text = field(&mut changed);
            let first = if text.starts_with('0') { "1" } else { "0" };
            text.replace_range(..1, first);
            assert!(!ours.signed(&changed), "{}", field(&mut changed));
            *field(&mut changed) = "\n".into();
            assert!(!ours.signed(&changed));
        }
        let again = ours.issue(&For::Key(&[1; 32]), "client").unwrap();
        assert_eq!(
            (&again.principal, &again.client),
            (&ticket.principal, &ticket.client),
            "limits can be counted"
        );
        assert_ne!(again.nonce, ticket.nonce);
        assert_ne!(
            ours.issue(&For::Key(&[2; 32]), "client").unwrap().principal,
            ticket.principal
        );
        assert_ne!(
            theirs
                .issue(&For::Key(&[1; 32]), "client")
                .unwrap()
                .principal,
            ticket.principal
        );
    }
}
