"""Bad recipes, partitions, checkpoints and data files."""
import json, math, os, shutil, struct, tomllib

ODD = {"bool": True, "negative": -1, "largest": 2**63 - 1, "huge": 1e23, "infinite": math.inf, "nan": math.nan,
       "text": "nonsense", "list": ["nonsense"], "table": {"nonsense": 1}, "empty": ""}
LARGE = [2**31, 2**40, 2**62, 2**63 - 1, 10**18]


def toml(value):
    """TOML of a tree of tables, lists, texts and numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float):
        return str(value).replace("e+", "e")
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    return str(value)


def document(tree):
    return "".join(f"{json.dumps(k)} = {toml(v)}\n" for k, v in tree.items())


def leaves(tree, path=()):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, path + (key,))
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for index, value in enumerate(tree):
            yield from leaves(value, path + (index,))
    else:
        yield path, tree


def put(tree, path, value):
    tree = json.loads(json.dumps(tree))
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return tree


def drop(tree, path):
    tree = json.loads(json.dumps(tree))
    at = tree
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return tree


def kind(value):
    return {bool: "bool", int: "number", float: "number", str: "text", list: "list", dict: "table"}[type(value)]


def recipes(attack, rng):
    folder = os.path.join(attack.repo, "recipes")
    files = sorted(f for f in os.listdir(folder) if f.endswith(".toml"))
    texts = {f: open(os.path.join(folder, f)).read() for f in files}

    def validate(what, content, may_take):
        path = attack.path(".toml")
        with open(path, "wb") as out:
            out.write(content if isinstance(content, bytes) else content.encode())
        attack.judge("recipes", what, ["recipes", "validate", path], may_take)

    cases = []
    for name, text in texts.items():
        tree = tomllib.loads(text)
        for path, value in leaves(tree):
            place = f"{name}: " + ".".join(map(str, path))
            for odd, other in ODD.items():
                # A value of another kind is never taken; one of the same kind may be.
                may_take = kind(other) == kind(value)
                cases.append((validate, (f"{place} = {odd}", document(put(tree, path, other)), may_take)))
            cases.append((validate, (f"{place} missing", document(drop(tree, path)), True)))
        for table in tree:
            cases.append((validate, (f"{name}: unknown key in {table}", text + f"\n[{json.dumps(table + 'x')}]\nx = 1\n", False)))
        raw = text.encode()
        shapes = {"byte order mark": (b"\xef\xbb\xbf" + raw, True), "CRLF": (raw.replace(b"\n", b"\r\n"), True),
                  "CR": (raw.replace(b"\n", b"\r"), False), "UTF-16": (text.encode("utf-16"), False),
                  "NUL": (raw.replace(b"=", b"=\0", 1), False), "latin-1": (raw + b"# \xe9\n", False),
                  "doubled": (raw + raw, False), "binary": (rng.randbytes(4096), False), "empty": (b"", False),
                  "deep": (raw + b"\nx = " + b"[" * 100_000 + b"]" * 100_000, False),
                  "long line": (raw + b"# " + b"x" * 10_000_000 + b"\n", True),
                  "many keys": (raw + b"".join(b"k%d = 1\n" % i for i in range(20_000)), False)}
        cases += [(validate, (f"{name}: {what}", *shape)) for what, shape in shapes.items()]
        for _ in range(12):
            at = rng.randrange(len(raw))
            cases.append((validate, (f"{name}: cut at {at}", raw[:at], True)))
            flipped = bytearray(raw)
            flipped[at] ^= 1 << rng.randrange(8)
            cases.append((validate, (f"{name}: flipped at {at}", bytes(flipped), True)))
    rng.shuffle(cases)
    return cases


def numbers(attack, rng):
    """Numbers that fit no memory: a plan either holds or is refused."""
    demo = os.path.join(attack.repo, "recipes", "demo.toml")
    tree = tomllib.loads(open(demo).read())
    keys = [".".join(map(str, path)) for path, value in leaves(tree) if kind(value) == "number"]
    keys += ["train.max_steps", "train.gradient_accumulation_steps", "train.checkpoint_steps", "data.max_rows",
             "dataset.0.weight", "data.validation_rows", "train.log_steps", "optimizer.warmup_steps"]

    def plan(what, sets):
        args = ["train", demo, "--dry-run", "--no-progress", "--output-dir", attack.path()]
        for one in sets:
            args += ["--set", one]
        attack.judge("numbers", what, args)

    cases = []
    for key in sorted(set(keys)):
        for value in [*LARGE, -1, 0, "1e18", "1e300", "nan", "inf", "-0.0"]:
            cases.append((plan, (f"{key}={value}", [f"{key}={value}"])))
        cases.append((plan, (f"{key} large, 40 steps", [f"{key}=1e6", "train.max_steps=40"])))
    rng.shuffle(cases)
    return cases


def same_but(folder, path, other, content):
    """A copy of a folder by links, with one file replaced."""
    shutil.copytree(folder, path, copy_function=os.link)
    target = os.path.join(path, other)
    os.remove(target)
    if content is not None:
        with open(target, "wb") as out:
            out.write(content)
    return target


def damages(raw, rng, flips):
    yield "empty", b""
    yield "one byte", raw[:1]
    yield "half", raw[:len(raw) // 2]
    # Behind a text the last line feed says nothing.
    yield "without its last byte", raw.rstrip()[:-1]
    yield "with a byte more", raw + b"x"
    yield "zeros", bytes(len(raw))
    yield "random", rng.randbytes(min(len(raw), 100_000))
    for _ in range(flips):
        at = rng.randrange(len(raw))
        flipped = bytearray(raw)
        flipped[at] ^= 1 << rng.randrange(8)
        yield f"a bit at {at}", bytes(flipped)


def headers(raw):
    """Attacks on the header of a safetensors file."""
    size = struct.unpack("<Q", raw[:8])[0]
    tensors = json.loads(raw[8:8 + size])
    name = next(n for n in tensors if n != "__metadata__")

    def with_header(header, announced=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if announced is None else announced) + text + raw[8 + size:]

    def with_tensor(**changes):
        return with_header(dict(tensors, **{name: dict(tensors[name], **changes)}))

    end = tensors[name]["data_offsets"][1]
    yield "header of 2^63", with_header(tensors, 2**63)
    yield "header longer than the file", with_header(tensors, len(raw))
    yield "header without an end", with_header(b"{" * 1000)
    yield "deep header", with_header(b"[" * 100_000)
    yield "header is a list", with_header([])
    yield "offsets back to front", with_tensor(data_offsets=[end, 0])
    yield "offsets behind the end", with_tensor(data_offsets=[0, 2**62])
    yield "negative offset", with_tensor(data_offsets=[-1, end])
    yield "shape of 2^40 squared", with_tensor(shape=[2**40, 2**40])
    yield "shape of zero", with_tensor(shape=[0])
    yield "another type", with_tensor(dtype="F64")
    yield "unknown type", with_tensor(dtype="F13")
    yield "tensor missing", with_header({k: v for k, v in tensors.items() if k != name})
    yield "tensor twice by name", with_header(json.dumps(tensors)[:-1].encode() + b"," + json.dumps({name: tensors[name]})[1:].encode())


def partitions(attack, rng):
    """Every file of a partition carries a digest, so no change of any is taken."""
    base = attack.path("partition")
    shutil.copytree(attack.partition, base)
    files = [os.path.relpath(os.path.join(at, f), base) for at, _, names in os.walk(base) for f in names]
    files = sorted(f for f in files if f != "README.md")

    def inspect(what, name, content):
        folder = attack.path("damaged")
        target = same_but(base, folder, name, content)
        if what == "folder":
            os.mkdir(target)
        elif what == "fifo":
            os.mkfifo(target)
        elif what == "/dev/zero":
            os.symlink("/dev/zero", target)
        elif what == "/dev/full":
            os.symlink("/dev/full", target)
        args = ["serve", folder, "--preprocess-request", attack.path("order"), "--state", attack.path("state")]
        attack.judge("partitions", f"{name}: {what}", args, may_take=False)
        shutil.rmtree(folder, ignore_errors=True)

    cases = []
    for name in files:
        raw = open(os.path.join(base, name), "rb").read()
        for what in ("deleted", "folder", "fifo", "/dev/zero", "/dev/full"):
            cases.append((inspect, (what, name, None)))
        cases += [(inspect, (what, name, content)) for what, content in damages(raw, rng, 25) if content != raw]
        if name.endswith(".safetensors"):
            cases += [(inspect, (what, name, content)) for what, content in headers(raw)]
        if name == "manifest.json":
            tree = json.loads(raw)
            for path, value in leaves(tree):
                for odd, other in {**ODD, "null": None}.items():
                    if other == value or isinstance(other, float) and not math.isfinite(other):
                        continue
                    content = json.dumps(put(tree, path, other)).encode()
                    cases.append((inspect, (".".join(map(str, path)) + f" = {odd}", name, content)))
    rng.shuffle(cases)
    return cases


def checkpoints(attack, rng):
    """The embedded base with one file changed: an evaluation either holds or is refused."""
    base = os.path.join(attack.repo, "recipes", "base")
    text = attack.path("text.txt")
    with open(text, "w") as out:
        out.write("The quick brown fox jumps over the lazy dog.\n" * 3)
    evaluate = lambda folder: ["eval", folder, "--tasks", "wikitext-2", "--data", text, "--no-progress"]

    def changed(what, name, content, may_take):
        folder = attack.path("checkpoint")
        same_but(base, folder, name, content)
        attack.judge("checkpoints", f"{name}: {what}", evaluate(folder), may_take)
        shutil.rmtree(folder, ignore_errors=True)

    cases = []
    for name in sorted(os.listdir(base)):
        raw = open(os.path.join(base, name), "rb").read()
        if not name.endswith((".json", ".safetensors")) or not raw:
            continue
        if name.endswith(".json") and name != "tokenizer.json":
            tree = json.loads(raw)
            for path, value in leaves(tree):
                for odd, other in {**ODD, "null": None}.items():
                    place = ".".join(map(str, path))
                    content = json.dumps(put(tree, path, other)).encode()
                    cases.append((changed, (f"{place} = {odd}", name, content, True)))
                if kind(value) == "number" if value is not None else False:
                    for large in LARGE:
                        content = json.dumps(put(tree, path, large)).encode()
                        cases.append((changed, (f"{place} = {large}", name, content, True)))
            for key, value in {"rope_scaling": {"rope_type": "invented", "factor": 8.0}, "hidden_act": "invented",
                               "quantization_config": {"quant_method": "invented"}, "invented_key": 1.5}.items():
                if name == "config.json":
                    cases.append((changed, (f"{key}: {value}", name, json.dumps({**tree, key: value}).encode(), False)))
        for what, content in damages(raw, rng, 12):
            # A bit of a weight or of a text is another weight or text: only what is no file of the kind must be refused.
            whole = what not in ("empty", "one byte", "half", "without its last byte", "zeros", "random")
            cases.append((changed, (what, name, content, whole)))
        if name.endswith(".safetensors"):
            cases += [(changed, (what, name, content, False)) for what, content in headers(raw)]
            size = struct.unpack("<Q", raw[:8])[0]
            for pattern in (b"\xff\xff\xff\x7f", b"\x00\x00\x80\x7f"):
                spoiled = bytearray(raw)
                at = 8 + size + 4 * rng.randrange((len(raw) - 8 - size) // 4)
                spoiled[at:at + 4] = pattern
                cases.append((changed, (f"not finite at {at}", name, bytes(spoiled), True)))
    rng.shuffle(cases)
    return cases


def gguf(pairs, tensors, alignment=32, version=3, magic=b"GGUF", count=None, tensor_count=None):
    """A GGUF file. Values are (type, bytes); tensors (name, dimensions, type, offset)."""
    text = lambda s: struct.pack("<Q", len(s)) + s
    out = magic + struct.pack("<IQQ", version, len(tensors) if tensor_count is None else tensor_count,
                              len(pairs) if count is None else count)
    for key, (type_, value) in pairs:
        out += text(key) + struct.pack("<I", type_) + value
    for name, dims, type_, offset in tensors:
        out += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        out += struct.pack("<IQ", type_, offset)
    return out + bytes(-len(out) % max(alignment, 1)) + bytes(4096)


def ggufs(attack, rng):
    """None of these is a model that is there whole, so none is taken."""
    string = lambda s: (8, struct.pack("<Q", len(s)) + s)
    u32 = lambda n: (4, struct.pack("<I", n))
    u64 = lambda n: (10, struct.pack("<Q", n))
    base = {b"general.architecture": string(b"llama"), b"llama.context_length": u32(256),
            b"llama.embedding_length": u32(64), b"llama.feed_forward_length": u32(128), b"llama.block_count": u32(2),
            b"llama.attention.head_count": u32(4), b"llama.attention.head_count_kv": u32(2),
            b"llama.rope.freq_base": (6, struct.pack("<f", 10000.0)),
            b"llama.attention.layer_norm_rms_epsilon": (6, struct.pack("<f", 1e-5)),
            b"tokenizer.ggml.model": string(b"gpt2")}
    tensors = [(b"token_embd.weight", [64, 100], 0, 0)]
    files = {"bare": gguf(list(base.items()), tensors)}
    for key in base:
        files[f"{key.decode()} missing"] = gguf([p for p in base.items() if p[0] != key], tensors)
        for large in (0, 1, 2**31, 2**62, 2**64 - 1):
            files[f"{key.decode()} = {large}"] = gguf(list({**base, key: u64(large)}.items()), tensors)
        for type_ in (0, 5, 7, 8, 9, 12, 13, 255):
            files[f"{key.decode()} of type {type_}"] = gguf(list({**base, key: (type_, rng.randbytes(8))}.items()), tensors)
    for alignment in (0, 1, 3, 2**31):
        files[f"alignment {alignment}"] = gguf([*base.items(), (b"general.alignment", u32(alignment))], tensors)
    for n in (2**20, 2**40, 2**64 - 1):
        files[f"{n} keys"] = gguf(list(base.items()), tensors, count=n)
        files[f"{n} tensors"] = gguf(list(base.items()), tensors, tensor_count=n)
        files[f"text of {n}"] = gguf([(b"x", (8, struct.pack("<Q", n)))], tensors)
        files[f"list of {n}"] = gguf([(b"x", (9, struct.pack("<IQ", 4, n)))], tensors)
        files[f"dimension of {n}"] = gguf(list(base.items()), [(b"token_embd.weight", [n, n], 0, 0)])
        files[f"offset of {n}"] = gguf(list(base.items()), [(b"token_embd.weight", [64, 100], 0, n)])
    nested = b"".join(struct.pack("<IQ", 9, 1) for _ in range(100_000))
    files["nested lists"] = gguf([(b"x", (9, nested))], tensors)
    for version in (0, 1, 2, 4, 2**31):
        files[f"version {version}"] = gguf(list(base.items()), tensors, version=version)
    whole = files["bare"]
    for _ in range(40):
        at = rng.randrange(len(whole) - 4096)
        files[f"cut at {at}"] = whole[:at]
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rng.randrange(8)
        files[f"a bit at {at}"] = bytes(flipped)

    def plan(what, content):
        path = attack.path(".gguf")
        with open(path, "wb") as out:
            out.write(content)
        demo = os.path.join(attack.repo, "recipes", "demo.toml")
        args = ["train", demo, "--dry-run", "--no-progress", "--output-dir", attack.path(), "--set", f"model.base_model={path}"]
        attack.judge("GGUF", what, args, may_take=False)
        os.remove(path)

    cases = [(plan, case) for case in files.items()]
    rng.shuffle(cases)
    return cases


def data(attack, rng):
    """Data files of every format with something odd in the middle; a dry run of training reads them."""
    good = [json.dumps({"text": f"row {i}", "label": ["answer", "classify", "create", "read"][i % 4]}) for i in range(20)]
    odd_rows = ["", "{", "[]", "null", "7", '"x"', '{"text": 1, "label": 0}', '{"label": 0}', '{"text": "x", "label": 99}',
                '{"text": "x", "label": -1}', '{"text": null, "label": 0}', '{"text": "", "label": 0}', "\0", "\ufeff{}",
                '{"text": "\\ud800", "label": 0}', '{"text": "x", "label": 1e99}', "[" * 10_000, '{"text": "' + "x" * 1_000_000 + '", "label": 0}']
    import gzip
    files = {}
    for i, odd in enumerate(odd_rows):
        files[f"odd row {i}.jsonl"] = "\n".join(good[:10] + [odd] + good[10:]).encode()
    raw = "\n".join(good).encode() + b"\n"
    packed = gzip.compress(raw)
    files |= {"utf-16.jsonl": "\n".join(good).encode("utf-16"), "latin.jsonl": raw + b'{"text": "\xe9", "label": "read"}\n',
              "cut.jsonl.gz": packed[:-9], "damaged.jsonl.gz": packed[:30] + b"xx" + packed[32:], "empty.jsonl.gz": gzip.compress(b""),
              "bomb.jsonl.gz": gzip.compress(b"x" * 300_000_000), "not packed.jsonl.gz": raw, "empty.jsonl": b"",
              "blank.jsonl": b"\n" * 1000, "folder name.csv": b"text,label\n\"open quote,0\n", "ragged.csv": b"text,label\na,0,1\nb\n",
              "header only.csv": b"text,label\n", "nul.tsv": b"a\0b\t0\n", "no tab.tsv": b"a b\n", "array.json": b"[1, 2",
              "object.json": b"{}", "unknown.parquet": b"PAR1" + bytes(100), "zeros.jsonl": bytes(100_000)}

    def plan(name, content):
        path = attack.path("-" + name)
        with open(path, "wb") as out:
            out.write(content)
        demo = os.path.join(attack.repo, "recipes", "demo.toml")
        args = ["train", demo, "--dry-run", "--no-progress", "--output-dir", attack.path(), "--set", f"dataset.0.path={path}"]
        attack.judge("data files", name, args)
        os.remove(path)

    cases = [(plan, case) for case in files.items()]
    rng.shuffle(cases)
    return cases
