//! Bytes of a connection.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    os::unix::net::UnixStream,
    sync::{Arc, LazyLock, Mutex},
    thread,
    time::Duration,
};

use marill_mpc::{
    ClientSession, DealerSession, PrivateWeights, ProtocolError, PublicWeights, Seed,
    ServerSession,
    random_model::{gaussian, random_weights, tiny_spec},
};
use marill_net::{
    Channel, Endpoint, MemoryChannel, NetError, WebSocketChannel, http::HttpClient, memory_pair,
};
use tungstenite::protocol::Role;

/// No read of a target waits longer: all bytes are there before it begins.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a peer sends once the upgrade is done and it has said who it is. The first byte says which
/// side reads.
pub fn websocket(bytes: &[u8]) {
    read_frames(bytes, true);
}

/// The same before it has said who it is: one small message is all that is taken.
pub fn websocket_handshake(bytes: &[u8]) {
    read_frames(bytes, false);
}

fn read_frames(bytes: &[u8], known: bool) {
    let Some((&side, bytes)) = bytes.split_first() else {
        return;
    };
    let role = if side & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let (near, mut far) = UnixStream::pair().expect("two descriptors");
    near.set_nonblocking(true).expect("a socket");
    // What does not fit into the socket's buffer follows as if it had been read with the upgrade.
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let rest = &rest[..rest.len().min(64 << 10)];
    far.write_all(rest).expect("the buffer has room");
    far.shutdown(Shutdown::Write).expect("it is open");
    let mut channel = WebSocketChannel::awaiting_handshake(
        Box::new(near),
        first.to_vec(),
        role,
        PATIENCE,
        PATIENCE,
    );
    if known {
        channel.handshake_done();
    }
    while channel.recv().is_ok() {}
}

/// What answers in place of a service: to a request, a download, an upgrade, by the first byte.
pub fn http_head(bytes: &[u8]) {
    static LISTENER: LazyLock<Mutex<TcpListener>> =
        LazyLock::new(|| Mutex::new(TcpListener::bind("127.0.0.1:0").expect("a free port")));
    let Some((&kind, bytes)) = bytes.split_first() else {
        return;
    };
    let listener = LISTENER
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let address = listener.local_addr().expect("it listens");
    let endpoint: Endpoint = format!("http://{address}").parse().expect("an address");
    let client = HttpClient::new(endpoint, None).with_limit(PATIENCE);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut peer, _) = listener.accept().expect("the client connects");
            let mut request = [0; 4096];
            let _ = peer.read(&mut request);
            // The client may have hung up already.
            let _ = peer.write_all(bytes);
        });
        match kind % 3 {
            0 => drop(client.get("/v1/models", 1 << 16)),
            1 => drop(client.download("/v1/models", &mut std::io::sink(), 1 << 16)),
            _ => drop(client.websocket("/v1/session", PATIENCE)),
        }
    });
}

/// A server that says what stands in a script, whatever it is told, and is then gone.
pub(crate) struct Script(pub(crate) VecDeque<Vec<u8>>);

impl Channel for Script {
    fn send(&mut self, _frame: Vec<u8>) -> Result<(), NetError> {
        Ok(())
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.0.pop_front().ok_or(NetError::Closed)
    }
}

/// A channel that writes down what it receives, as [`protocol_frames`] reads it.
pub(crate) struct Recorder {
    pub(crate) inner: MemoryChannel,
    pub(crate) script: Arc<Mutex<Vec<u8>>>,
}

impl Channel for Recorder {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.inner.send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        let frame = self.inner.recv()?;
        let mut script = self.script.lock().expect("no panic while it is held");
        script.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        script.extend_from_slice(&frame);
        drop(script);
        Ok(frame)
    }
}

/// A tiny model, its masked adapter and a prompt; all seeds are fixed.
struct Model {
    public: Arc<PublicWeights>,
    private: Arc<PrivateWeights>,
    prompt: Vec<u64>,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let spec = tiny_spec();
    let (public, private) = random_weights(&spec, 7);
    let row = gaussian(7, "boundary", 3 * spec.hidden_size, 1.0);
    let prompt = spec.encode(&row).expect("normal numbers");
    Model {
        public,
        private,
        prompt,
    }
});

/// Of E0, of E1, and of the adapter's mask.
fn seeds() -> [Seed; 3] {
    [0, 1, 2].map(|n| Seed::from_bytes([n; 32]))
}

fn run_client(server: impl Channel + 'static) -> Result<u32, ProtocolError> {
    let [seed0, _, adapter_seed] = seeds();
    let adapter = MODEL.private.mask(&MODEL.public.spec, &adapter_seed);
    let public = MODEL.public.clone();
    let mut session = ClientSession::new(public, &adapter, seed0, Box::new(server))?;
    session.prefill(&MODEL.prompt)
}

/// A server's frames to a client: length, frame, length, frame. The client's seeds are fixed, so a
/// recorded session goes on behind a frame whose bytes were changed.
pub fn protocol_frames(bytes: &[u8]) {
    let _ = run_client(Script(frames(bytes)));
}

/// Frames behind their lengths, as a [`Recorder`] writes them.
pub(crate) fn frames(bytes: &[u8]) -> VecDeque<Vec<u8>> {
    let mut frames = VecDeque::new();
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).min(behind.len());
        let (frame, behind) = behind.split_at(length);
        frames.push_back(frame.to_vec());
        rest = behind;
    }
    frames
}

/// What a server says to that client.
pub(crate) fn record() -> Vec<u8> {
    let (client_end, server_end) = memory_pair();
    let (dealer_end, source_end) = memory_pair();
    let script = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder {
        inner: client_end,
        script: script.clone(),
    };
    let spec = &MODEL.public.spec;
    let bucket = spec.bucket(MODEL.prompt.len() / spec.hidden_size);
    thread::scope(|scope| {
        scope.spawn(|| {
            let [seed0, seed1, adapter_seed] = seeds();
            let sink = Box::new(dealer_end);
            let mut dealer = DealerSession::new(spec.clone(), adapter_seed, seed0, seed1, sink);
            dealer.prefill(bucket).expect("the server is there");
        });
        scope.spawn(|| {
            let [_, seed1, _] = seeds();
            let ends = (Box::new(server_end), Box::new(source_end));
            let public = MODEL.public.clone();
            let mut server = ServerSession::new(public, &MODEL.private, seed1, ends.0, ends.1)
                .expect("one model");
            server.prefill(bucket).expect("the client is there");
        });
        run_client(recorder).expect("a session between honest parties");
    });
    Arc::into_inner(script)
        .expect("the session is over")
        .into_inner()
        .expect("no panic while it was held")
}
