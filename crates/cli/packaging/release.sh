#!/usr/bin/env bash
# An archive that runs where there is no Rust: binary, manual pages, completions, systemd units,
# licenses, and a file of checksums beside it.
#
#     crates/cli/packaging/release.sh [FOLDER]     # default target/dist
#
# The archive unpacks over a prefix: tar -xzf FILE --strip-components=1 -C /usr/local
# Two runs of one commit and one toolchain write the same bytes.
set -euo pipefail
cd "$(dirname "$0")/../../.."
packaging=crates/cli/packaging
out=${1:-target/dist}

host=$(rustc -vV | sed -n 's/^host: //p')
version=$(cargo metadata --no-deps --locked --format-version 1 |
    python3 -c 'import json, sys; print(next(p["version"] for p in json.load(sys.stdin)["packages"] if p["name"] == "marill"))')
name=marill-$version-$host
commit=$(git rev-parse HEAD)
when=$(git log -1 --format=%ct)

# No path of this machine in the binary: panics would show them.
export RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked --package marill --target-dir "$target"
binary=$target/release/marill

rm -rf "${out:?}/$name"
mkdir -p "$out/$name"/{bin,lib/systemd/{system,user},lib/sysusers.d} \
    "$out/$name"/share/{man/man1,doc/marill} \
    "$out/$name"/share/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
to=$out/$name
install -m 755 "$binary" "$to/bin/marill"
"$binary" man "$to/share/man/man1"
"$binary" completions bash >"$to/share/bash-completion/completions/marill"
"$binary" completions zsh >"$to/share/zsh/site-functions/_marill"
"$binary" completions fish >"$to/share/fish/vendor_completions.d/marill.fish"
install -m 644 $packaging/systemd/system/*.service "$to/lib/systemd/system"
install -m 644 $packaging/systemd/user/*.service "$to/lib/systemd/user"
install -m 644 $packaging/systemd/sysusers.d/marill.conf "$to/lib/sysusers.d"
install -m 644 LICENSE README.md CHANGELOG.md SECURITY.md "$to/share/doc/marill"
install -m 644 recipes/base/NOTICE "$to/share/doc/marill/NOTICE.base"
install -m 644 recipes/demo/NOTICE "$to/share/doc/marill/NOTICE.demo"
cp -r docs "$to/share/doc/marill/docs"
python3 $packaging/licenses.py "$host" >"$to/share/doc/marill/THIRD-PARTY-LICENSES"

# What the binary asks of the system: the newest symbol version of the C library, and its libraries.
glibc=$(objdump -T "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
{
    echo "marill $version for $host, commit $commit"
    echo "built with $(rustc --version)"
    echo "needs $glibc or later; libraries:"
    objdump -p "$binary" | sed -n 's/^ *NEEDED *//p' | sed 's/^/  /'
} >"$to/share/doc/marill/BUILD"

tar --sort=name --mtime="@$when" --owner=0 --group=0 --numeric-owner \
    -C "$out" -cf - "$name" | gzip -9n >"$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
cat "$to/share/doc/marill/BUILD" "$out/$name.tar.gz.sha256"
ls -l "$out/$name.tar.gz"
