//! The format of a file: a magic word, a header in JSON, then sealed pieces.
//!
//! `MRLAHEAD ‖ u32 length ‖ header ‖ (u32 length ‖ ciphertext)*`, integers little-endian. The nonce
//! of a piece is its index with a mark on the last one, so pieces can be neither left out nor moved
//! nor cut off at the end (Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption
//! and its Nonce-Reuse Misuse-Resistance", CRYPTO '15, STREAM). The associated data is the digest
//! of everything before the pieces.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use marill_net::{Channel, MAX_FRAME_BYTES, NetError};
use marill_numeric::{hex, unhex};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::{
    error::{PreprocessingError, StateError},
    preprocessing::{FORMAT, Header},
    secret_files::{random, read_or_create_key},
};

const MAGIC: &[u8; 8] = b"MRLAHEAD";
const MAX_HEADER_BYTES: u32 = 1 << 20;
const TAG_BYTES: usize = 16;
/// The first piece: seed1 and the adapter mask's.
const SEEDS_BYTES: u64 = 64;

/// The server's key pair.
pub struct SealingKey(StaticSecret);

impl SealingKey {
    /// Reads the key in a server's folder, and makes it on first use.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn read_or_create(path: &Path) -> Result<Self, PreprocessingError> {
        let text = read_or_create_key(path)?;
        let bytes = unhex::<32>(&text)
            .ok_or_else(|| std::io::Error::other("it is not a key of 64 hexadecimal digits"));
        Ok(Self(StaticSecret::from(*Zeroizing::new(
            bytes.map_err(StateError::io(path))?,
        ))))
    }

    /// What an order carries to the dealer, hexadecimal.
    #[must_use]
    pub fn public(&self) -> String {
        hex(PublicKey::from(&self.0).as_bytes())
    }
}

/// What server and dealer share beside the exchanged secret: the owner's key, and what the dealer
/// releases on the day.
type Words<'a> = [&'a [u8]; 2];

/// The key of one file, from the exchanged secret and those words.
fn file_key(
    shared: &[u8; 32],
    words: Words<'_>,
    ephemeral: &PublicKey,
    server: &PublicKey,
) -> LessSafeKey {
    let mut secret = Zeroizing::new(shared.to_vec());
    // Both have fixed lengths.
    words.iter().for_each(|word| secret.extend_from_slice(word));
    let derived = Salt::new(HKDF_SHA256, b"marill correlations ahead 2").extract(&secret);
    let info = [&ephemeral.as_bytes()[..], &server.as_bytes()[..]];
    let key = derived
        .expand(&info, &CHACHA20_POLY1305)
        .expect("one key's length is always possible");
    LessSafeKey::new(UnboundKey::from(key))
}

fn nonce(index: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Seals frames into a new file.
pub(crate) struct Sealer {
    path: PathBuf,
    file: BufWriter<File>,
    key: LessSafeKey,
    binding: [u8; 32],
    index: u64,
    /// Bytes sealed so far.
    pub(crate) sealed_bytes: u64,
}

impl Sealer {
    /// Writes the head; `header.ephemeral_key` is filled in here.
    pub(crate) fn create(
        path: &Path,
        mut header: Header,
        server_key: &str,
        words: Words<'_>,
    ) -> Result<Self, PreprocessingError> {
        let server =
            unhex::<32>(server_key)
                .map(PublicKey::from)
                .ok_or(PreprocessingError::BadRequest {
                    reason: "`server_key` is not 64 hexadecimal digits".into(),
                })?;
        let own = StaticSecret::from(*random::<32>()?);
        let ephemeral = PublicKey::from(&own);
        header.ephemeral_key = hex(ephemeral.as_bytes());
        let shared = own.diffie_hellman(&server);
        if !shared.was_contributory() {
            return Err(PreprocessingError::BadRequest {
                reason: "`server_key` is no proper key".into(),
            });
        }
        let head = head(&header);
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(StateError::io(path))?;
        let mut file = BufWriter::new(file);
        file.write_all(&head).map_err(StateError::io(path))?;
        let key = file_key(shared.as_bytes(), words, &ephemeral, &server);
        Ok(Self {
            path: path.into(),
            file,
            key,
            binding: Sha256::digest(&head).into(),
            index: 0,
            sealed_bytes: 0,
        })
    }

    fn seal(&mut self, mut piece: Vec<u8>, last: bool) -> std::io::Result<()> {
        self.sealed_bytes += piece.len() as u64;
        let sealed = self.key.seal_in_place_append_tag(
            nonce(self.index, last),
            Aad::from(self.binding),
            &mut piece,
        );
        sealed.map_err(|_| std::io::Error::other("a piece is too long to be sealed"))?;
        self.index += 1;
        self.file.write_all(&(piece.len() as u32).to_le_bytes())?;
        self.file.write_all(&piece)
    }

    /// Ends the file with its last piece; on return it is on disk.
    pub(crate) fn finish(&mut self) -> Result<(), PreprocessingError> {
        let done = self
            .seal(Vec::new(), true)
            .and_then(|()| self.file.flush())
            .and_then(|()| self.file.get_ref().sync_all());
        Ok(done.map_err(StateError::io(&self.path))?)
    }
}

impl Channel for Sealer {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        Ok(self.seal(frame, false)?)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        Err(NetError::Protocol(
            "a file that is being written is not read".into(),
        ))
    }
}

fn head(header: &Header) -> Vec<u8> {
    let json = serde_json::to_vec(header).expect("a header has string keys only");
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&(json.len() as u32).to_le_bytes());
    head.extend_from_slice(&json);
    head
}

/// Goes from piece to piece without reading them: the bytes that they hold, or `None` where they do
/// not fill the file.
fn walk(file: &mut BufReader<File>, mut left: u64) -> std::io::Result<Option<u64>> {
    let mut plain_bytes = 0;
    while left > 0 {
        let mut length = [0; 4];
        if left < 4 {
            return Ok(None);
        }
        file.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        if length < TAG_BYTES as u64 || 4 + length > left {
            return Ok(None);
        }
        file.seek_relative(length as i64)?;
        left -= 4 + length;
        plain_bytes += length - TAG_BYTES as u64;
    }
    Ok(Some(plain_bytes))
}

/// A file's name without its folder.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The readable head of a file, and the file behind it.
pub(super) struct Head {
    pub(super) path: PathBuf,
    file: BufReader<File>,
    binding: [u8; 32],
    /// Bytes behind the head.
    left: u64,
    pub(super) header: Header,
}

impl Head {
    /// Reads it, and sees that the pieces add up to what it says; what is in them is not known to
    /// be right.
    ///
    /// # Errors
    /// [`PreprocessingError::BadFile`] for a file of another kind or version;
    /// [`StateError::Io`].
    pub(super) fn read(path: &Path) -> Result<Self, PreprocessingError> {
        let bad = |reason: String| PreprocessingError::BadFile {
            file: name_of(path),
            reason,
        };
        let file = File::open(path).map_err(StateError::io(path))?;
        let total = file.metadata().map_err(StateError::io(path))?.len();
        let mut file = BufReader::new(file);
        let short = |_| bad("it ends within its header".into());
        let mut magic = [0; 8];
        let mut length = [0; 4];
        file.read_exact(&mut magic).map_err(short)?;
        if &magic != MAGIC {
            return Err(bad("it holds no correlations".into()));
        }
        file.read_exact(&mut length).map_err(short)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            return Err(bad("its header is too long".into()));
        }
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json).map_err(short)?;
        // The version first: another one may have other fields.
        let value: serde_json::Value =
            serde_json::from_slice(&json).map_err(|error| bad(format!("its header: {error}")))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => {
                return Err(bad(format!(
                    "it has format {format}, this version reads {FORMAT}"
                )));
            }
            None => return Err(bad("its header has no format".into())),
        }
        let header: Header =
            serde_json::from_value(value).map_err(|error| bad(format!("its header: {error}")))?;
        let binding = Sha256::new()
            .chain_update(MAGIC)
            .chain_update(length.to_le_bytes())
            .chain_update(&json)
            .finalize();
        let start = (MAGIC.len() + 4 + json.len()) as u64;
        let left = total - start;
        let plain_bytes = walk(&mut file, left).map_err(StateError::io(path))?;
        if plain_bytes != Some(SEEDS_BYTES + header.corrections_bytes) {
            return Err(bad(
                "it is altered or cut off: its pieces do not add up to what its header says".into(),
            ));
        }
        file.seek(SeekFrom::Start(start))
            .map_err(StateError::io(path))?;
        Ok(Self {
            path: path.into(),
            file,
            binding: binding.into(),
            left,
            header,
        })
    }
}

/// A file in the place of a dealer: each receive opens the next piece.
pub struct SealedCorrelations {
    file: BufReader<File>,
    key: LessSafeKey,
    binding: [u8; 32],
    index: u64,
    /// Bytes of the file after the piece that was read last.
    left: u64,
    pub header: Header,
}

impl SealedCorrelations {
    /// Derives the key of a file whose head was read.
    ///
    /// # Errors
    /// [`PreprocessingError::BadFile`].
    pub(super) fn open(
        head: Head,
        own: &SealingKey,
        words: Words<'_>,
    ) -> Result<Self, PreprocessingError> {
        let Head {
            path,
            file,
            binding,
            left,
            header,
        } = head;
        let ephemeral = unhex::<32>(&header.ephemeral_key).map(PublicKey::from);
        let bad = || PreprocessingError::BadFile {
            file: name_of(&path),
            reason: "its key is not hexadecimal".into(),
        };
        let ephemeral = ephemeral.ok_or_else(bad)?;
        let shared = own.0.diffie_hellman(&ephemeral);
        let key = file_key(
            shared.as_bytes(),
            words,
            &ephemeral,
            &PublicKey::from(&own.0),
        );
        Ok(Self {
            file,
            key,
            binding,
            index: 0,
            left,
            header,
        })
    }

    fn next(&mut self) -> Result<Vec<u8>, String> {
        if self.left == 0 {
            return Err("the file's correlations are used up".into());
        }
        // Short, because a close frame has little room for it.
        let cut = |_| format!("piece {} of the file is altered or cut off", self.index);
        let mut length = [0; 4];
        self.file.read_exact(&mut length).map_err(|_| cut(()))?;
        let length = u32::from_le_bytes(length) as usize;
        let taken = 4 + length as u64;
        if !(TAG_BYTES..=MAX_FRAME_BYTES + TAG_BYTES).contains(&length) || taken > self.left {
            return Err(cut(()));
        }
        let mut piece = vec![0; length];
        self.file.read_exact(&mut piece).map_err(|_| cut(()))?;
        let last = taken == self.left;
        let opened =
            self.key
                .open_in_place(nonce(self.index, last), Aad::from(self.binding), &mut piece);
        let plain = opened.map_err(|_| match self.index {
            0 => {
                "the file is not sealed to this server by its dealer, or it is altered".to_string()
            }
            _ => cut(()),
        });
        let plain = plain?.len();
        piece.truncate(plain);
        self.left -= taken;
        self.index += 1;
        match last {
            true => self.next(),
            false => Ok(piece),
        }
    }
}

impl Channel for SealedCorrelations {
    fn send(&mut self, _frame: Vec<u8>) -> Result<(), NetError> {
        Err(NetError::Protocol(
            "nothing is sent to a file of correlations".into(),
        ))
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.next().map_err(NetError::Protocol)
    }
}
