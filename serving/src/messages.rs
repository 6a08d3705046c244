//! What the services say to each other around the protocol: handshakes, grants, steps.

use marill_mpc::{HashKey, InputShare, ProgramSpec, Sampling, Seed, Selection};
use marill_net::{Channel, NetError, RequestId, peer_text};
use marill_numeric::hex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use crate::error::{CLOSE_BUDGET, CLOSE_SLOW};
use crate::{
    error::{ServingError, SessionError},
    preprocessing::AvailableSession,
    terms::{Correlations, PROTOCOL_VERSION, SessionParameters},
    ticket::Ticket,
};

/// Control messages above this many bytes end the session.
const MAX_CONTROL_BYTES: usize = 1 << 20;

/// Client to server, `POST /v1/tickets`: a ticket, and which preprocessed sessions there are for a
/// prompt of this size.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTicket {
    /// The client's random name, 64 hexadecimal digits.
    pub client_id: String,
    /// Padded length of the prompt; none: no preprocessed session is wanted.
    #[serde(default)]
    pub bucket: Option<usize>,
    #[serde(default)]
    pub selection: Selection,
}

/// Server to client.
#[derive(Serialize, Deserialize)]
pub struct GrantedTicket {
    pub ticket: Ticket,
    #[serde(default, rename = "ahead")]
    pub preprocessed: Vec<AvailableSession>,
}

/// Client to dealer, `POST /v1/sessions`.
#[derive(Serialize, Deserialize)]
pub struct NewSession {
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    /// A random name of this client, by which the dealer keeps one adapter mask per client.
    pub client_id: String,
    /// The server's word that this client may open a session.
    pub ticket: Ticket,
    /// Sessions that the server has correlations for; the dealer reserves the first one that nobody
    /// uses. Empty: a new session, whose correlations the dealer streams.
    #[serde(default)]
    pub candidates: Vec<String>,
}

/// Dealer to client.
#[derive(Serialize, Deserialize)]
pub struct SessionGrant {
    pub session: String,
    /// What shows that a session is this client's: 64 hexadecimal digits. Only [`proof_of`] it goes
    /// to the server.
    pub token: Zeroizing<String>,
    /// E0's seed, which leaves the dealer once; none where the session was preprocessed: that seed
    /// comes when the server has taken the session up ([`CollectSeed`]).
    #[serde(default)]
    pub seed: Option<Zeroizing<String>>,
}

/// Client to dealer, `POST /v1/seeds`: E0's seed of a preprocessed session, once the server has
/// taken it up.
#[derive(Serialize, Deserialize)]
pub struct CollectSeed {
    pub session: String,
    pub token: Zeroizing<String>,
}

/// Dealer to client, hexadecimal.
#[derive(Serialize, Deserialize)]
pub struct CollectedSeed {
    pub seed: Zeroizing<String>,
}

/// Server to dealer, `POST /v1/release`: asks for what opens the file of a preprocessed session.
/// The dealer gives it once.
#[derive(Serialize, Deserialize)]
pub struct NewRelease {
    pub session: String,
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    /// As in [`ClientHello`].
    pub proof: String,
}

/// Dealer to server, hexadecimal.
#[derive(Serialize, Deserialize)]
pub struct Release {
    pub key: Zeroizing<String>,
}

/// What a client shows to the server, and the server to the dealer, of the token that it was
/// granted.
#[must_use]
pub fn proof_of(token: &str) -> String {
    hex(&Sha256::new()
        .chain_update("proof of a grant\n")
        .chain_update(token)
        .finalize())
}

/// The public key of a session's hash: no two sessions have the same.
#[must_use]
pub fn hash_key(session: &str) -> HashKey {
    let digest = Sha256::new()
        .chain_update("hash of comparison functions\n")
        .chain_update(session)
        .finalize();
    *digest.first_chunk().expect("a digest has 32 bytes")
}

/// E0 to dealer, first frame at `/v1/dcf-keys`: where the keys of a DCF session go.
#[derive(Serialize, Deserialize)]
pub struct DcfKeysHello {
    pub session: String,
    /// [`dcf_keys_proof`] of E0's seed, which nobody else but the dealer holds.
    pub key: String,
}

/// What shows the dealer that a connection is E0's.
pub fn dcf_keys_proof(seed0: &Seed) -> String {
    hex(&*Zeroizing::new(
        seed0.derive("line of correction words").to_bytes(),
    ))
}

/// Server to dealer, first frame at `/v1/corrections`.
#[derive(Serialize, Deserialize)]
pub struct CorrectionsHello {
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    pub session: String,
    pub spec: ProgramSpec,
    /// Digest of the private weights: a mask never covers two adapters.
    pub private_sha256: String,
    /// What the client showed of its grant.
    pub proof: String,
    /// How tokens are chosen, as far as a dealer has to know.
    #[serde(default)]
    pub selection: Selection,
}

/// Client to server, first frame of a session.
#[derive(Serialize, Deserialize)]
pub struct ClientHello {
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    pub session: String,
    pub correlations: Correlations,
    /// [`proof_of`] the token of the grant: nobody else can use up this session. Empty where there
    /// is no dealer who grants.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub proof: String,
    /// The masked adapter that the client has kept.
    pub adapter_sha256: Option<String>,
    /// How this session's tokens are sampled; none: greedy decoding.
    #[serde(default)]
    pub sampling: Option<Sampling>,
    /// In the setting `2pc`: sets of LPN that the client has ([`crate::terms::lpn_sets`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lpn_sets: Vec<String>,
    /// In the setting `2pc`: whether the client keeps its set-up between sessions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keeps_set_up: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Server to client.
#[derive(Serialize, Deserialize)]
pub struct ServerWelcome {
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    pub adapter_sha256: String,
    /// Bytes of the masked adapter that follow in frames; 0 where the client has it.
    pub adapter_bytes: u64,
    /// In the setting `2pc`: the set of LPN of the session, one of the client's; none: b10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lpn_set: Option<String>,
    /// In the setting `2pc`: whether both keep their set-ups between sessions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keeps_set_up: bool,
    /// Whether a further turn may say its request's name ([`encode_turn`]).
    #[serde(default, skip_serializing_if = "is_false")]
    pub names_turns: bool,
}

/// Client to computing party, first frame at `/v1/party`.
#[derive(Serialize, Deserialize)]
pub struct PartyHello {
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    /// The server's word that this client may open a session.
    pub ticket: Ticket,
    /// Whether another protocol than the parameters' will do; the answer's then say which.
    #[serde(default, rename = "any_material")]
    pub any_comparison: bool,
    /// As in [`ClientHello`].
    #[serde(default)]
    pub sampling: Option<Sampling>,
}

/// Computing party to client: the session's name, by which the server knows the client's
/// connection.
#[derive(Serialize, Deserialize)]
pub struct PartyWelcome {
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    pub session: String,
}

/// Client to server, first frame at `/v1/input`.
#[derive(Serialize, Deserialize)]
pub struct InputHello {
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    pub session: String,
    /// What the client asked the computing party for; a server that heard something else from it
    /// refuses.
    #[serde(default)]
    pub sampling: Option<Sampling>,
}

/// A welcome or the reason why there is none.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    Welcome(T),
    Refused {
        code: String,
        message: String,
        /// After how many seconds it makes sense to ask again, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_seconds: Option<u64>,
    },
}

impl<T> Reply<T> {
    /// The refusal of a handshake, with the kind that a further party gave.
    pub(crate) fn refused(error: &ServingError, counterpart: &str) -> Self {
        let code = error.refusal_code(counterpart).into();
        let message = error.for_peer();
        Self::Refused {
            code,
            message,
            retry_after_seconds: error.retry_after_seconds(),
        }
    }
}

/// The next step of a session, announced by the client and relayed to the dealer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Prefill {
        bucket: usize,
    },
    Decode,
    End,
    /// A decode, behind which [`Self::Extend`] comes: the dealer writes corrections one step early.
    DecodeBefore {
        rows: usize,
    },
    /// Several rows behind those so far.
    Extend {
        rows: usize,
    },
    /// No step of the program: two parties make what so many decodes will take. The server answers
    /// for how many it does so.
    Prepare {
        steps: usize,
    },
    /// The answer is over, and the session may go on later.
    Wait,
}

impl Step {
    pub fn encode(self) -> Vec<u8> {
        let (kind, size) = match self {
            Self::Prefill { bucket } => (1u8, bucket),
            Self::Decode => (2, 0),
            Self::End => (3, 0),
            Self::DecodeBefore { rows } => (4, rows),
            Self::Extend { rows } => (5, rows),
            Self::Prepare { steps } => (6, steps),
            Self::Wait => (7, 0),
        };
        let mut frame = vec![kind];
        frame.extend_from_slice(&(size as u32).to_le_bytes());
        frame
    }

    /// Rows that it adds to those so far.
    #[must_use]
    pub fn rows(self) -> usize {
        match self {
            Self::Prefill { bucket: rows } | Self::Extend { rows } => rows,
            Self::Decode | Self::DecodeBefore { .. } => 1,
            Self::End | Self::Prepare { .. } | Self::Wait => 0,
        }
    }

    /// Whether it brings rows of a prompt.
    #[must_use]
    pub fn is_prompt(self) -> bool {
        matches!(self, Self::Prefill { .. } | Self::Extend { .. })
    }

    /// # Errors
    /// Why the frame is none.
    pub fn parse(frame: &[u8]) -> Result<Self, String> {
        let Some((kind, bucket)) = frame.split_first().filter(|(_, rest)| rest.len() == 4) else {
            return Err(format!("a step has 5 bytes, not {}", frame.len()));
        };
        let bucket = u32::from_le_bytes(bucket.try_into().expect("four bytes")) as usize;
        match (kind, bucket) {
            (1, 1..) => Ok(Self::Prefill { bucket }),
            (2, 0) => Ok(Self::Decode),
            (3, 0) => Ok(Self::End),
            (4, 1..) => Ok(Self::DecodeBefore { rows: bucket }),
            (5, 1..) => Ok(Self::Extend { rows: bucket }),
            (6, 1..) => Ok(Self::Prepare { steps: bucket }),
            (7, 0) => Ok(Self::Wait),
            _ => Err(format!("there is no step of kind {kind} and size {bucket}")),
        }
    }
}

/// The first byte of a frame that names a turn, which no step begins with.
const TURN: u8 = 8;

/// Client to server, before the first step of a further turn: its request's name, for the log. The
/// first turn's came with the session's own request.
#[must_use]
pub fn encode_turn(id: &RequestId) -> Vec<u8> {
    [&[TURN], id.as_str().as_bytes()].concat()
}

/// The name of a turn; none where the frame is a step's.
///
/// # Errors
/// Why it is no name.
pub fn parse_turn(frame: &[u8]) -> Result<Option<RequestId>, String> {
    let Some((&TURN, name)) = frame.split_first() else {
        return Ok(None);
    };
    let id = std::str::from_utf8(name).ok().and_then(RequestId::parse);
    id.map(Some)
        .ok_or_else(|| format!("a name of {} bytes that is no request's", name.len()))
}

/// # Errors
/// A lost peer.
pub fn send_json<T: Serialize>(channel: &mut dyn Channel, message: &T) -> Result<(), NetError> {
    channel
        .send(serde_json::to_vec(message).map_err(|error| NetError::Protocol(error.to_string()))?)
}

/// # Errors
/// A lost peer, or a frame that is not this message.
pub fn recv_json<T: DeserializeOwned>(
    channel: &mut dyn Channel,
    peer: &'static str,
) -> Result<T, SessionError> {
    let frame = channel.recv().map_err(SessionError::net(peer))?;
    if frame.len() > MAX_CONTROL_BYTES {
        return Err(SessionError::BadMessage {
            peer,
            reason: format!("{} bytes of handshake", frame.len()),
        });
    }
    let bad = |error: serde_json::Error| SessionError::BadMessage {
        peer,
        reason: peer_text(&error.to_string()),
    };
    serde_json::from_slice(&frame).map_err(bad)
}

/// That a message with session parameters is of this version, before anything else of it is read.
///
/// # Errors
/// [`SessionError::Mismatch`] on `protocol`.
pub(crate) fn check_version(message: &serde_json::Value) -> Result<(), SessionError> {
    let theirs = message
        .get("terms")
        .and_then(|parameters| parameters.get("protocol"));
    match theirs {
        Some(theirs) if *theirs != PROTOCOL_VERSION => Err(SessionError::Mismatch {
            field: "protocol",
            ours: PROTOCOL_VERSION.to_string(),
            theirs: peer_text(&theirs.to_string()),
        }),
        _ => Ok(()),
    }
}

/// As [`recv_json`], for a handshake with session parameters: one of another version is refused by
/// its version.
///
/// # Errors
/// As [`recv_json`]; [`SessionError::Mismatch`].
pub fn recv_hello<T: DeserializeOwned>(
    channel: &mut dyn Channel,
    peer: &'static str,
) -> Result<T, SessionError> {
    let message: serde_json::Value = recv_json(channel, peer)?;
    check_version(&message)?;
    let bad = |error: serde_json::Error| SessionError::BadMessage {
        peer,
        reason: peer_text(&error.to_string()),
    };
    serde_json::from_value(message).map_err(bad)
}

/// Sends one evaluator's share of a step's input: its rows, then the padding's bias where there is
/// one.
///
/// # Errors
/// A lost peer.
pub fn send_input_share(channel: &mut dyn Channel, share: &InputShare) -> Result<(), NetError> {
    let mut send = |elements: &[u64]| {
        channel.send(
            elements
                .iter()
                .flat_map(|element| element.to_le_bytes())
                .collect(),
        )
    };
    send(&share.boundary)?;
    share.bias.as_deref().map_or(Ok(()), send)
}

/// The input of an announced step; `width` elements per row.
///
/// # Errors
/// A lost peer, or frames of another size.
pub fn recv_input_share(
    channel: &mut dyn Channel,
    peer: &'static str,
    step: Step,
    width: usize,
) -> Result<InputShare, SessionError> {
    match step {
        Step::Prefill { bucket } => Ok(InputShare {
            boundary: recv_elements(channel, peer, bucket * width)?,
            bias: Some(recv_elements(channel, peer, bucket)?),
        }),
        _ => Ok(InputShare {
            boundary: recv_elements(channel, peer, width)?,
            bias: None,
        }),
    }
}

fn recv_elements(
    channel: &mut dyn Channel,
    peer: &'static str,
    count: usize,
) -> Result<Vec<u64>, SessionError> {
    let frame = channel.recv().map_err(SessionError::net(peer))?;
    if frame.len() != 8 * count {
        let reason = format!(
            "a share has {} bytes where {} belong",
            frame.len(),
            8 * count
        );
        return Err(SessionError::BadMessage { peer, reason });
    }
    Ok(frame
        .chunks_exact(8)
        .map(|element| u64::from_le_bytes(element.try_into().expect("eight bytes")))
        .collect())
}

/// # Errors
/// A lost peer.
pub fn send_token_share(
    channel: &mut dyn Channel,
    peer: &'static str,
    share: u32,
) -> Result<(), SessionError> {
    channel
        .send(share.to_le_bytes().to_vec())
        .map_err(SessionError::net(peer))
}

/// # Errors
/// A lost peer, or a frame that is no share of a token.
pub fn recv_token_share(
    channel: &mut dyn Channel,
    peer: &'static str,
) -> Result<u32, SessionError> {
    let frame = channel.recv().map_err(SessionError::net(peer))?;
    let share = frame.try_into().map(u32::from_le_bytes);
    share.map_err(|_| SessionError::BadMessage {
        peer,
        reason: "a token's share has 4 bytes".into(),
    })
}

/// Server to client: for how many steps it prepares.
///
/// # Errors
/// A lost peer.
pub fn send_granted(
    channel: &mut dyn Channel,
    peer: &'static str,
    steps: usize,
) -> Result<(), SessionError> {
    channel
        .send((steps as u32).to_le_bytes().to_vec())
        .map_err(SessionError::net(peer))
}

/// # Errors
/// A lost peer, or a frame that says more than `asked`, or none.
pub fn recv_granted(
    channel: &mut dyn Channel,
    peer: &'static str,
    asked: usize,
) -> Result<usize, SessionError> {
    let frame = channel.recv().map_err(SessionError::net(peer))?;
    let granted = frame
        .try_into()
        .map(|bytes| u32::from_le_bytes(bytes) as usize);
    granted
        .ok()
        .filter(|granted| (1..=asked).contains(granted))
        .ok_or_else(|| SessionError::BadMessage {
            peer,
            reason: format!("it prepares another number of steps than 1 to {asked}"),
        })
}

/// Receives a welcome or turns the refusal into an error.
///
/// # Errors
/// [`SessionError::Refused`], and as [`recv_json`].
pub fn recv_reply<T: DeserializeOwned>(
    channel: &mut dyn Channel,
    peer: &'static str,
) -> Result<T, SessionError> {
    match recv_json(channel, peer)? {
        Reply::Welcome(welcome) => Ok(welcome),
        Reply::Refused {
            code,
            message,
            retry_after_seconds,
        } => {
            let code = peer_text(&code);
            let message = peer_text(&message);
            Err(SessionError::Refused {
                by: peer,
                code,
                message,
                retry_after_seconds,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_survive_the_wire_and_nothing_else_does() {
        for step in [
            Step::Prefill { bucket: 64 },
            Step::Decode,
            Step::End,
            Step::DecodeBefore { rows: 3 },
            Step::Extend { rows: 300 },
            Step::Prepare { steps: 32 },
            Step::Wait,
        ] {
            assert_eq!(Step::parse(&step.encode()), Ok(step));
        }
        for frame in [
            &[][..],
            &[1, 0, 0, 0, 0],
            &[2, 1, 0, 0, 0],
            &[4, 0, 0, 0, 0],
            &[5, 0, 0, 0, 0],
            &[6, 0, 0, 0, 0],
            &[7, 1, 0, 0, 0],
            &[9, 0, 0, 0, 0],
            &[2, 0, 0, 0, 0, 0],
        ] {
            assert!(Step::parse(frame).is_err(), "{frame:?}");
        }
    }

    #[test]
    fn the_name_of_a_turn_is_no_step() {
        let id = RequestId::of([7; 12]);
        let frame = encode_turn(&id);
        assert!(Step::parse(&frame).is_err());
        assert_eq!(parse_turn(&frame), Ok(Some(id)));
        assert_eq!(parse_turn(&Step::Decode.encode()), Ok(None));
        let long = [TURN; 200];
        for bad in [&[TURN][..], &[TURN, b' '], &[TURN, b'a', 0xff], &long] {
            assert!(parse_turn(bad).is_err(), "{bad:?}");
        }
    }
}
