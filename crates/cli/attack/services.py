"""Running services under bad requests, bad peers, load and sudden death. Everything on 127.0.0.1."""
import http.client, json, os, re, shutil, signal, socket, struct, subprocess, threading, time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Service:
    def __init__(self, attack, name, *args):
        self.attack, self.name, self.args = attack, name, args
        self.log, self.process = attack.path(f"-{name}.log"), None

    def start(self):
        began = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.attack.marill, *self.args], env=self.attack.env, stdout=log, stderr=log,
                                            cwd=self.attack.work)
        end = time.time() + 60
        while time.time() < end and self.process.poll() is None:
            if "listening on" in self.text()[began:]:
                return self
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} does not start: {self.text()[-300:]}")

    def text(self):
        return open(self.log, errors="replace").read()

    def memory(self):
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{self.process.pid}/status").read())[1]) // 1024

    def stop(self, how=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait()


class Stack:
    """Dealer, server and gateway around a partition; the server asks for a key."""

    def __init__(self, attack, sessions="8"):
        self.attack, self.root = attack, attack.path("stack")
        at = lambda name: os.path.join(self.root, name)
        self.ports = {name: free_port() for name in ("dealer", "server", "gateway")}
        url = {name: f"http://127.0.0.1:{port}" for name, port in self.ports.items()}
        rc, key, err = attack.run(["keys", "add", "attack", "--state", at("server")])
        assert rc == 0, err
        self.key = key.strip()
        port = lambda name: ("--port", str(self.ports[name]))
        self.dealer = Service(attack, "dealer", "dealer", *port("dealer"), "--state", at("dealer"), "--max-sessions", sessions,
                              "--vault", at("vault"))
        self.server = Service(attack, "server", "serve", attack.partition, *port("server"), "--state", at("server"), "--dealer",
                              url["dealer"], "--dealer-key", at("dealer/dealer/server.key"), "--max-sessions", sessions)
        self.gateway = Service(attack, "gateway", "gateway", *port("gateway"), "--state", at("client"), "--cache", at("cache"),
                               "--server", url["server"], "--dealer", url["dealer"], "--api-key", self.key)
        self.all = [self.dealer, self.server, self.gateway]

    def __enter__(self):
        for service in self.all:
            service.start()
        return self

    def __exit__(self, *_):
        for service in self.all:
            service.stop()

    def chat(self, tokens=3, prompt="Write a short poem about a lighthouse", timeout=120):
        body = dict(messages=[dict(role="user", content=prompt)], max_tokens=tokens, ignore_eos=True)
        return request(self.ports["gateway"], "POST", "/v1/chat/completions", body, timeout=timeout)

    def answer(self, **kwargs):
        status, headers, body = self.chat(**kwargs)
        return status, headers, json.loads(body)["choices"][0]["message"]["content"] if status == 200 else body[:200]


def request(port, method, path, body=None, headers=None, timeout=60):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        data = json.dumps(body) if isinstance(body, (dict, list)) else body
        c.request(method, path, data, {"content-type": "application/json", **(headers or {})})
        r = c.getresponse()
        return r.status, dict(r.getheaders()), r.read()
    finally:
        c.close()


def raw(port, data, timeout=15):
    """Sends bytes and reads until the other side is done; returns what came, or None for silence."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        s.settimeout(timeout)
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        got = b""
        try:
            while chunk := s.recv(65536):
                got += chunk
        except socket.timeout:
            return got or None
        except OSError:
            pass
        return got


def frame(payload, opcode=2, fin=True, masked=True, announce=None, reserved=0):
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    n = len(payload) if announce is None else announce
    mask = 0x80 if masked else 0
    if n < 126:
        head += bytes([mask | n])
    elif n < 1 << 16:
        head += bytes([mask | 126]) + struct.pack(">H", n)
    else:
        head += bytes([mask | 127]) + struct.pack(">Q", n)
    return head + (b"\0\0\0\0" if masked else b"") + payload


def message(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return frame(data + struct.pack("<II", 0, len(data)))


def upgrade(port, path, key, frames, timeout=20):
    """Opens a WebSocket, sends frames, and reads to the end; None where the service falls silent."""
    head = (f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nauthorization: Bearer {key}\r\n\r\n")
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        s.settimeout(timeout)
        s.sendall(head.encode())
        got = b""
        try:
            while b"\r\n\r\n" not in got:
                chunk = s.recv(4096)
                if not chunk:
                    return got
                got += chunk
            for data in frames:
                s.sendall(data)
            while chunk := s.recv(65536):
                got += chunk
        except socket.timeout:
            return None
        except OSError:
            pass
        return got


def requests(attack, rng, stack):
    """Bad HTTP and bad WebSockets: an answer or a closed line in time, and every service lives."""
    gateway, server, dealer = (stack.ports[name] for name in ("gateway", "server", "dealer"))
    chat = dict(messages=[dict(role="user", content="x")], max_tokens=1)

    def http(what, port, data):
        got = raw(port, data)
        status = got[9:12] if got else b""
        verdict = "hang" if got is None else "wrong" if status[:1] == b"5" and status != b"503" else "refused"
        attack.count("HTTP", verdict, what, repr(got)[:200])

    def post(what, body, wanted=(400, 404, 413, 422)):
        status, _, text = request(gateway, "POST", "/v1/chat/completions", body)
        attack.count("HTTP", "refused" if status in wanted else "taken" if status == 200 and 200 in wanted else "wrong", what,
                     f"{status} {text[:200]}")

    def socket_case(what, port, path, key, frames):
        got = upgrade(port, path, key, frames)
        attack.count("WebSocket", "hang" if got is None else "refused", what)

    cases = []
    for name, port in stack.ports.items():
        line = lambda text: text.encode("latin-1")
        for what, data in {
            "garbage": rng.randbytes(2000), "TLS": b"\x16\x03\x01\x02\x00" + rng.randbytes(500), "nothing": b"",
            "many headers": line("GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n" + "".join(f"x{i}: y\r\n" for i in range(5000)) + "\r\n"),
            "long header": line("GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + "y" * 2_000_000 + "\r\n\r\n"),
            "long path": line("GET /" + "y" * 100_000 + " HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"),
            "two lengths": line("POST /v1/sessions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde"),
            "negative length": line("POST /v1/sessions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -3\r\n\r\nabc"),
            "odd chunk": line("POST /v1/sessions HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc"),
            "half a body": line("POST /v1/sessions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n{"),
            "deep JSON": line("POST /v1/sessions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 200000\r\n\r\n" + "[" * 200_000),
            "no UTF-8": b"POST /v1/tickets HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n\"\xff\xfe\"",
        }.items():
            cases.append((http, (f"{name}: {what}", port, data)))
        for method in ("PUT", "DELETE", "TRACE", "CONNECT", "PATCH", "OPTIONS", "NONSENSE"):
            cases.append((http, (f"{name}: {method}", port, line(f"{method} /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"))))
        for path in ("/..", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/x/files/../../private", "//", "/\0", "/v1/models/%00"):
            cases.append((http, (f"{name}: {path!r}", port, line(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"))))
    odd = [None, True, -1, 2**63, 1e300, "x", "", [], [[]], {}, [None], "\0", "x" * 100_000]
    for field in ("messages", "max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed", "logit_bias", "tools", "stream",
                  "response_format", "min_tokens", "presence_penalty", "frequency_penalty", "min_p", "model", "invented"):
        for value in odd:
            body = {**chat, field: value}
            cases.append((post, (f"{field} = {str(value)[:20]!r}", body, (200, 400, 404, 413, 422))))
    for role in ("tool", "human", "", 7, None):
        cases.append((post, (f"role {role!r}", {**chat, "messages": [dict(role=role, content="x")]})))
    for body in ("", "{", "[]", "null", "7", "\"x\"", "[" * 100_000, "{}", '{"messages": {}}'):
        cases.append((post, (f"body {body[:20]!r}", body, (400, 413, 422))))

    terms = dict(protocol=6, partition_id="0" * 64, spec_sha256="0" * 64, public_sha256="0" * 64, setting="dealer", e0="client",
                 rounding="exact", reveal="token")
    hello = dict(terms=terms, session="0" * 32, correlations="live", proof="0" * 64, adapter_sha256=None)
    dealer_key = open(os.path.join(stack.root, "dealer/dealer/server.key")).read().strip()
    lines = [(server, "/v1/session", stack.key), (server, "/v1/input", stack.key), (dealer, "/v1/corrections", dealer_key), (dealer, "/v1/dcf-keys", "")]
    for port, path, key in lines:
        handshakes = [message(hello), message({**hello, "terms": {**terms, "protocol": 5}}), message({**hello, "session": "../x"}),
                     message({**hello, "correlations": "ahead"}), message({**hello, "proof": "x" * 500_000}), message({})]
        frames = {"random": [frame(rng.randbytes(3000))], "zeros": [frame(bytes(3000))], "empty": [frame(b"")],
                  "deep": [message(b"[" * 200_000)], "two MiB": [message(b" " * (2 << 20))],
                  "2^63 announced": [frame(b"x", announce=2**63 - 1)], "64 MiB announced": [frame(b"x", announce=(64 << 20) + 9)],
                  "wrong trailer": [frame(b"{}" + struct.pack("<II", 7, 7))], "text": [frame(b"{}", opcode=1)],
                  "unmasked": [frame(b"{}", masked=False)], "long ping": [frame(bytes(200), opcode=9)],
                  "reserved": [frame(b"{}", reserved=4)], "early close": [frame(struct.pack(">H", 1000), opcode=8)],
                  "odd opcode": [frame(b"{}", opcode=5)], "no end": [frame(b"{}", fin=False)] * 3,
                  "pings": [frame(b"x", opcode=9)] * 2000}
        frames |= {f"handshake {i}": [g, frame(rng.randbytes(5)), frame(rng.randbytes(100))] for i, g in enumerate(handshakes)}
        for what, sent in frames.items():
            cases.append((socket_case, (f"{path}: {what}", port, path, key, sent)))
        for _ in range(8):
            sent = bytearray(message(hello))
            for _ in range(rng.randrange(1, 6)):
                sent[rng.randrange(len(sent))] = rng.randrange(256)
            cases.append((socket_case, (f"{path}: damaged handshake", port, path, key, [bytes(sent)])))
    rng.shuffle(cases)
    return cases


def answer_as_a_bad_server(attack, rng):
    """A client that meets a server which says whatever it likes: an error in time, no escape code on the terminal."""
    answers = {"garbage": rng.randbytes(4000), "nothing": b"", "no HTTP": b"SSH-2.0-x\r\n"}
    body = lambda text, status="200 OK": f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()
    for i, text in enumerate(["", "{", "[]", "null", '{"data": []}', '{"data": [{"partition_id": "../../x"}]}', "[" * 100_000,
                              '{"data": [{"partition_id": "' + "0" * 64 + '", "setting": "x", "e0": "client"}]}']):
        answers[f"models {i}"] = body(text)
    for status in ("400 x", "401 x", "404 x", "429 x", "500 x", "503 x", "999 x", "100 x"):
        answers[f"status {status}"] = body('{"error": {"message": "\\u001b[31mred\\u0007' + "x" * 100_000 + '", "code": "x"}}', status)
    answers["endless header"] = b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000
    answers["long body announced"] = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n" + bytes(1000)

    def meet(what, answer):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def serve():
                try:
                    while True:
                        line, _ = listener.accept()
                        line.settimeout(2)
                        try:
                            line.recv(65536)
                            line.sendall(answer)
                        except OSError:
                            pass
                        line.close()
                except OSError:
                    pass
            threading.Thread(target=serve, daemon=True).start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            state = attack.path("client")
            rc, out, err = attack.run(["generate", url, "--dealer", url, "-p", "x", "--max-tokens", "1", "--state", state, "--cache", state])
        odd = "\x1b" in err or len(err) > 20_000
        verdict = "hang" if rc == "hang" else "panic" if rc == 101 or "panicked" in err else "wrong" if rc == 0 or odd else \
            "refused" if rc in (1, 2) and err.strip() else "unclear"
        attack.count("bad server", verdict, what, err[:300])

    return [(meet, case) for case in answers.items()]


def kills(attack, rng, seconds):
    """Random sudden deaths under two users: every answer is the right one, every failure says so, no session stands twice."""
    with Stack(attack) as stack:
        expected = {n: stack.answer(tokens=n)[2] for n in (2, 5)}
        end, counts = time.time() + seconds, attack.counts["sudden deaths"]

        def user():
            while time.time() < end:
                n = rng.choice(list(expected))
                try:
                    status, headers, got = stack.answer(tokens=n)
                except (OSError, http.client.HTTPException):
                    attack.count("sudden deaths", "refused", "the line to the gateway closed")
                    continue
                if status == 200:
                    attack.count("sudden deaths", "taken" if got == expected[n] else "wrong", f"{n} tokens", f"{got!r} for {expected[n]!r}")
                else:
                    ok = status in (429, 502, 503, 504) or status == 500 and b"internal" not in got
                    attack.count("sudden deaths", "refused" if ok else "wrong", f"status {status}", repr(got))
                    time.sleep(0.2)

        users = [threading.Thread(target=user) for _ in range(2)]
        [u.start() for u in users]
        killed = 0
        while time.time() < end - 2:
            time.sleep(rng.uniform(0.2, 1.5))
            service = rng.choice(stack.all)
            service.stop()
            service.start()
            killed += 1
        [u.join(200) for u in users]
        status, _, got = stack.answer(tokens=5)
        attack.count("sudden deaths", "taken" if (status, got) == (200, expected[5]) else "wrong", "after all of it", repr(got))
        for name in ("dealer", "server", "client"):
            rc, out, err = attack.run(["state", "export", "--state", os.path.join(stack.root, name)])
            sessions = [line.rsplit(" ", 1)[0] for line in out.splitlines() if " session " in line]
            ok = rc == 0 and len(sessions) == len(set(sessions))
            attack.count("sudden deaths", "taken" if ok else "wrong", f"records of {name}", err[:200])
        print(f"sudden deaths: {killed} kills: {dict(counts)}", flush=True)
        check_logs(attack, stack)


def load(attack, at_once):
    """Many users at once: each gets the answer that one alone gets, or is told when to come back."""
    with Stack(attack, sessions="16") as stack:
        _, _, expected = stack.answer()
        before = {service.name: service.memory() for service in stack.all}

        def user():
            for _ in range(200):
                status, headers, got = stack.answer(timeout=300)
                if status == 200:
                    return attack.count("load", "taken" if got == expected else "wrong", "an answer", repr(got))
                wait = next((v for k, v in headers.items() if k.lower() == "retry-after"), None)
                if status != 429 or wait is None:
                    return attack.count("load", "wrong", f"status {status}", repr(got))
                time.sleep(min(int(wait), 5))
            attack.count("load", "hang", "200 tries")

        users = [threading.Thread(target=user) for _ in range(at_once)]
        started = time.time()
        [u.start() for u in users]
        [u.join(600) for u in users]
        grown = {service.name: service.memory() - before[service.name] for service in stack.all}
        print(f"load: {at_once} users in {time.time() - started:.1f} s, memory grew by {grown} MB", flush=True)
        check_logs(attack, stack)


def restores(attack, rng):
    """Every choice of server, dealer and files set back to before a session from a file: no used session again."""
    for number in range(1, 8):
        back = [name for bit, name in enumerate(("server", "dealer", "files")) if number >> bit & 1]
        stack = Stack(attack)
        folders = {name: os.path.join(stack.root, name) for name in ("server", "dealer", "files")}
        order = os.path.join(stack.root, "order.json")
        vault = os.path.join(stack.root, "vault")
        os.makedirs(folders["files"])
        for args in (["serve", attack.partition, "--preprocess-request", order, "--state", folders["server"]],
                     ["dealer", "--preprocess", folders["files"], "--preprocess-request", order, "--bucket", "32", "--tokens", "4", "--sessions", "2",
                      "--state", folders["dealer"], "--vault", vault]):
            rc, _, err = attack.run(args)
            assert rc == 0, err
        stack.server.args += ("--preprocessed", folders["files"])
        for folder in folders.values():
            shutil.copytree(folder, folder + ".before")
        url = {name: f"http://127.0.0.1:{port}" for name, port in stack.ports.items()}

        def ask(who):
            state = os.path.join(stack.root, who)
            rc, out, err = attack.run(["generate", url["server"], "--dealer", url["dealer"], "--api-key", stack.key, "--state", state,
                                       "--cache", state, "-p", "Write a short poem about a lighthouse", "--max-tokens", "2",
                                       "--correlations", "preprocessed", "--json"])
            _, text, _ = attack.run(["state", "export", "--service", "client", "--state", state])
            return rc, {line.split()[3] for line in text.splitlines() if " session e0 " in line}, err

        try:
            stack.dealer.start(), stack.server.start()
            rc, used, err = ask("first")
            assert rc == 0 and len(used) == 1, err
            stack.dealer.stop(), stack.server.stop()
            for name in back:
                shutil.rmtree(folders[name])
                shutil.copytree(folders[name] + ".before", folders[name])
            stack.dealer.start(), stack.server.start()
            rc, theirs, err = ask("second")
            # The other file is there still where nothing used it up; the first session is nobody's again.
            verdict = "wrong" if theirs & used or rc == 0 and len(theirs) != 1 else "taken" if rc == 0 else "refused"
            attack.count("restored backups", verdict, f"{back} set back", f"{theirs} after {used}: {err[:200]}")
            rc, again, err = ask("third")
            verdict = "wrong" if again & (used | theirs) or rc == 0 else "refused"
            attack.count("restored backups", verdict, f"{back} set back, third client", err[:200])
        finally:
            stack.dealer.stop(), stack.server.stop()
    print(f"restored backups: {dict(attack.counts['restored backups'])}", flush=True)


def slow_lines(attack):
    """Lines that say nothing, half of something, or never read are closed; others are served meanwhile."""
    with Stack(attack) as stack:
        stack.chat()
        lines = []
        for name, port in stack.ports.items():
            for what, data in (("silent", b""), ("half a header", b"GET /health HTTP/1.1\r\nhost: 127.0.0.1"),
                               ("half a body", b"POST /v1/sessions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{")):
                line = socket.create_connection(("127.0.0.1", port))
                line.sendall(data)
                lines.append((f"{name}: {what}", line))
        status, _, _ = stack.chat()
        attack.count("slow lines", "taken" if status == 200 else "wrong", "a user beside them", str(status))
        end = time.time() + 90
        for what, line in lines:
            try:
                line.settimeout(max(0.1, end - time.time()))
                while line.recv(4096):
                    pass
                attack.count("slow lines", "refused", what)
            except socket.timeout:
                attack.count("slow lines", "hang", what)
            except OSError:
                attack.count("slow lines", "refused", what)
            line.close()
        print(f"slow lines: {dict(attack.counts['slow lines'])}", flush=True)


def check_logs(attack, stack):
    for service in stack.all:
        text = service.text()
        if "panicked" in text:
            attack.count("logs", "panic", service.name, text[text.index("panicked") - 200:][:500])
        alive = service.process.poll() is None
        attack.count("logs", "taken" if alive else "crash", f"{service.name} lives")
